//! The flat layout: how events travel, without being taken apart and put together again.
//!
//! A record of a ring holds one batch: up to 512 events that one publisher published together, of any mix of kinds.
//! Decoding a process event into an owned struct costs some 290 ns, nearly all of it allocation; next to that every
//! transport is fast. So nothing is decoded. The publisher appends fields to five growing sections, the ring copies
//! those out and in, and the subscriber reads the copy in place, by reference.
//!
//! ```text
//!          ┌──────────────────────────────────────────────────────────────────────────────┐
//!        0 │ header          48 B   version, counts, first sequence, publish time         │
//!          ├──────────────────────────────────────────────────────────────────────────────┤
//!       48 │ entries         48 B   [0] the batch's correlation                           │
//!          │                 each   [1 ..= events] the events, in order                   │
//!          │                        [events + 1 ..] correlations of single events         │
//!          ├──────────────────────────────────────────────────────────────────────────────┤
//!          │ pairs            8 B   key and value of each metadata pair, as end offsets   │
//!          │                 each                                                         │
//!          ├──────────────────────────────────────────────────────────────────────────────┤
//!          │ blobs                  payloads; zeros up to the next multiple of 8          │
//!          ├──────────────────────────────────────────────────────────────────────────────┤
//!          │ strings                UTF-8, one after the other, no separators             │
//!          └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - **Nothing says where a section begins.** The offsets follow from the counts in the header, and the sections
//!   must fill the record exactly, but for up to 7 zero bytes where whoever stored it rounded its length up.
//! - **One entry for all kinds.** Every event and every correlation is the same 48 bytes: two words, a time, flags
//!   that say which options are there, and up to four strings. What a word means depends on the kind; the table
//!   stands in `layout.rs`.
//! - **Strings are consecutive.** An entry begins where the one before ended: first its own strings, then key, value,
//!   key, value of its pairs. Only ends are written down. Blobs and pairs are consecutive in the same way, so no byte
//!   belongs to two events. What many events share is their correlation alone: as owned events each has its own, and whoever
//!   makes them looks at that first.
//! - **Little-endian, unaligned.** Casts need no alignment and no unsafe code, on any machine.
//!
//! # Hostile bytes
//!
//! Whoever writes a record may be an attacker. A record is copied out of shared memory first, and [`Record`] judges the
//! copy once: counts, kinds, flags, times, indices, every offset, the string area as UTF-8 in one go and each end as a
//! character boundary. From then on no read can fail. What the bytes *say* remains a claim of the publisher, the
//! publish time included.
//!
//! Not judged is what nobody can read: words that a kind does not use, strings beyond its own, the
//! string of an option that is not there. Two records may therefore differ in bytes and read the same.
//!
//! # Limits
//!
//! At most [`RECORD_EVENTS_MAX`] events and [`RECORD_BYTES_TARGET`] bytes; only a single event may make a record
//! larger, up to what the ring takes. The writer refuses what does not fit and is left as it was.

mod check;
mod encode;
mod fields;
mod layout;
mod read;
mod records;
mod refs;
mod single;
#[cfg(test)]
mod tests;
mod time;
mod write;

pub(crate) use check::{Malformed, event_count};
pub use encode::{BatchEvent, EncodeError, EventTooLarge, Opaque};
pub use fields::Pairs;
pub use read::{Batch, BatchView, Events};
pub(crate) use records::Records;
pub use refs::{
    CorrelationRef, EventRef, FilesystemEventRef, NetworkEventRef, PerformanceEventRef, ProcessEventRef,
    TriggerRequestRef,
};
pub use single::NotAnEvent;
pub(crate) use time::{from_epoch, to_epoch};
pub(crate) use write::{BatchWriter, PushError};

/// The most events that one record holds: 512. It bounds how long a reader is busy with one record.
pub(crate) const RECORD_EVENTS_MAX: usize = 512;

/// The size at which a batch begins a new record: 64 KiB. Larger ones copy no faster and fall out of the L2 cache of
/// small cores.
pub(crate) const RECORD_BYTES_TARGET: usize = 64 * 1024;
