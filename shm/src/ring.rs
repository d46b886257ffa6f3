//! What both ends of a ring share: where its words are, and what counts as a breach of its laws.

use crate::sync::AtomicU64;

/// The words of one ring, wherever they are: two mapped segments, a model checker's memory, or the plain memory of a test
/// ([`Producer::over`](crate::Producer::over), [`Consumer::over`](crate::Consumer::over)).
///
/// Each word may change at any time, as memory in another's hands does, and each call may ask for it anew. The
/// lengths of `slots` and `data` never change, and `data` holds a power of two of words, 16 at least; the ends panic where that does
/// not hold, and rely on nothing else.
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
