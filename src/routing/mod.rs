//! Routing: from patterns to the targets of a topic, by way of a trie and a flat table. Pure.
//!
//! The question "who gets this topic?" is asked once per event, and its answer changes only when somebody
//! subscribes or leaves. So it is answered in two steps that pay at different times.
//!
//! ```text
//!   subscribe / leave          a topic is declared, or its subscribers change         each event
//!
//!   patterns ──► Trie ── matching(topic) ──► targets per TopicId ── build ──► RoutingTable ── targets(id) ──► [T]
//!                        (31 nodes at most)                                    (two array reads)
//! ```
//!
//! - The [`Trie`] holds the patterns of all subscriptions, one level per segment. A topic of four segments
//!   follows at each level the literal edge and the `+` edge: it visits 1 + 2 + 4 + 8 + 16 = 31 nodes at
//!   most, however many patterns there are. Inserting and removing walk one path.
//! - A [`TopicId`] is the number that a publisher gives a topic when it declares it. The numbers are dense.
//! - The [`RoutingTable`] is an immutable snapshot: all targets of all topics in one array, and the offset at
//!   which each topic's begin in a second. An event reads two neighbouring offsets and has its slice, whether
//!   there are 10 patterns or 100,000. Whoever owns the trie builds the next snapshot when routes change and
//!   swaps it in; readers are never locked out. Its *generation* tells snapshots apart, so that a publisher
//!   knows that it has the new one.
//!
//! What it costs: a snapshot is built anew as a whole, in time and memory proportional to topics × targets,
//! and a topic that nobody subscribes to costs four bytes.
//!
//! What it does not do: it knows no rights (see `access`), no subscriptions' owners and no time. What `K` and
//! `T` stand for is up to the room that uses it.

mod table;
mod trie;

pub(crate) use table::{RoutingTable, TopicId};
pub(crate) use trie::Trie;

#[cfg(test)]
mod tests;
