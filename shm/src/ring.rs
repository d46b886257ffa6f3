//! What both ends of a ring share: where its words are, and what counts as a breach of its laws.
//!
//! # Orderings
//!
//! Six hand-overs, each a release (or a fence) that names its acquire. Words of the other side are mapped read-only, and std promises
//! only relaxed loads on such memory; an acquire is therefore a relaxed load with `fence(Acquire)` behind it.
//!
//! | name | release | acquire | what it orders |
//! |---|---|---|---|
//! | `DATA` | producer stores `tail` | consumer loads `tail` | the record's bytes are there before `tail` says so |
//! | `SPACE` | consumer stores `head` | producer loads `head` | the bytes are copied out before they are overwritten |
//! | `LOSS` | producer stores `slots`, `lost`, after `tail` | consumer loads `lost`, `slots`, then `tail` | who sees a loss sees each record before it |
//! | `COUNT` | producer stores `attempted`, after all these | consumer loads `attempted`, then the rest | what is counted as attempted can be read, or is told as lost |
//! | `CLOSE` | producer stores `closed`, after all | consumer loads `closed`, then the rest | who sees the end sees all that came before it |
//! | `ANSWER` | consumer stores `wake_at`, behind the fence that follows its store of `head` | producer loads `wake_at` and answers it for a loss | who woke a sleeper knows the space that it gave back, so it loses nothing more before a record wakes it again |
//!
//! And two store-load orders, the reason for each `fence(SeqCst)`. With a fence between store and load on both sides at
//! least one of them sees the other's store, so no wake-up is lost:
//!
//! | name | producer | consumer |
//! |---|---|---|
//! | `SLEEP` | stores `tail`, `lost`, `closed`; then loads `wake_at` | stores `wake_at`; then loads `lost`, `closed`, `tail` |
//! | `ROOM` | stores `room_at`; then loads `head` | stores `head`; then loads `room_at` |

use crate::sync::AtomicU64;

/// The words of one ring, wherever they are: two mapped segments, or a model checker's memory.
///
/// The lengths of `slots` and `data` never change, and `data` holds a power of two of words.
pub trait Memory {
    /// Position after the last record. Written by the producer.
    fn tail(&self) -> &AtomicU64;
    /// Events attempted on this ring. Written by the producer.
    fn attempted(&self) -> &AtomicU64;
    /// Of those, the events that were lost. Written by the producer.
    fn lost(&self) -> &AtomicU64;
    /// Not 0 once the producer is done. Written by the producer.
    fn closed(&self) -> &AtomicU64;
    /// The `head` that the producer sleeps for. Written by the producer.
    fn room_at(&self) -> &AtomicU64;
    /// Per slot: events attempted, as of the slot's last loss. Written by the producer.
    fn slots(&self) -> &[AtomicU64];
    /// The records. Written by the producer.
    fn data(&self) -> &[AtomicU64];
    /// Position after the last record read. Written by the consumer.
    fn head(&self) -> &AtomicU64;
    /// The position whose publication wakes the consumer. Written by the consumer.
    fn wake_at(&self) -> &AtomicU64;
}

/// What the other side of a ring did that no correct peer does. The end that saw it is poisoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The producer's `tail` is unaligned, moved backwards, or is further ahead than the ring is long.
    #[error("the producer set its tail to {found}, after {last} and with {read} read")]
    Tail {
        /// What `tail` held.
        found: u64,
        /// The last valid value seen.
        last: u64,
        /// Up to where this side has read.
        read: u64,
    },
    /// The consumer's `head` is unaligned, moved backwards, or is ahead of what was published.
    #[error("the consumer set its head to {found}, after {last} and with {published} published")]
    Head {
        /// What `head` held.
        found: u64,
        /// The last valid value seen.
        last: u64,
        /// Up to where this side has published.
        published: u64,
    },
    /// A record claims more bytes than there are before the tail, the end of the ring, or the limit for one record.
    #[error("a record at {position} claims {length} bytes where {room} are left")]
    Length {
        /// Where the record starts.
        position: u64,
        /// The length in its header.
        length: u32,
        /// What there is room for, header included.
        room: u64,
    },
    /// A padding record stands where none can, or does not end where the ring ends.
    #[error("a padding record at {position} is out of place")]
    Padding {
        /// Where it starts.
        position: u64,
    },
    /// A record names a slot that no ring has.
    #[error("a record names slot {slot}")]
    Slot {
        /// The slot in its header.
        slot: u16,
    },
    /// A record's sequence is behind what was already read on its slot, or beyond what can be counted.
    #[error("a record of slot {slot} has sequence {found} where at least {expected} was due")]
    Sequence {
        /// The slot in its header.
        slot: u16,
        /// The sequence in its header.
        found: u64,
        /// The smallest sequence that can follow.
        expected: u64,
    },
}
