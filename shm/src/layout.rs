//! The byte map of both segments, and of a record. It stands here and nowhere else.
//!
//! ```text
//! segment P, written by the producer                    segment C, written by the consumer
//!     0  magic                                              0  magic
//!   128  tail       position after the last record        128  head      position after the last record read
//!   136  attempted  events attempted on this ring
//!   256  lost       of those, events that were lost       256  wake_at   position that the consumer sleeps for
//!   384  closed     1 once the producer is done           384  (end of the words; the segment is one page)
//!   392  room_at    head that the producer sleeps for
//!   512  slots      per slot: events attempted, as of its last loss
//!  4096  data       `capacity` bytes of records
//! ```
//!
//! A **record** starts at a multiple of 8 and never wraps:
//! ```text
//!   0  length u32 | slot u16 | generation u16      length of the payload in bytes; bit 31 marks padding
//!   8  sequence u64                                events attempted on this slot before this record
//!  16  payload, zero-filled to a multiple of 8
//! ```
//! Where a record doesn't fit before the end of the data area, a **padding** record fills the rest: its first word is
//! [`PADDING`] and the number of bytes that follow that word; the rest is zero. It has no second word, so eight
//! bytes are enough for it.
//!
//! Words have 128 bytes to themselves, since adjacent lines are fetched in pairs on x86-64. Only `attempted` stands beside `tail`,
//! since each flush writes both; `room_at` beside `closed`, and the slots side by side, since they are written rarely.

use crate::sync::AtomicU64;

/// First word of a producer's segment: "deeb", kind `P`, layout version 1.
pub const MAGIC_PRODUCER: u64 = 0x6465_6562_5000_0001;
/// First word of a consumer's segment: "deeb", kind `C`, layout version 1.
pub const MAGIC_CONSUMER: u64 = 0x6465_6562_4300_0001;

/// Topics that one ring can carry. Slots are numbered from 0.
pub const SLOTS_MAX: usize = 448;

/// Bytes before the data area of a producer's segment.
pub const PRODUCER_HEADER_BYTES: usize = 4096;
/// Bytes of a consumer's segment.
pub const CONSUMER_SEGMENT_BYTES: usize = 4096;

/// Smallest data area that makes sense at all: an eighth of it has to hold the header of a record.
pub(crate) const CAPACITY_LEAST: u64 = 8 * RECORD_HEADER_BYTES;
/// Smallest data area of a segment.
pub const CAPACITY_MIN: usize = 1 << 16;
/// Largest data area.
pub const CAPACITY_MAX: usize = 1 << 30;

/// Bytes before a record's payload.
pub const RECORD_HEADER_BYTES: u64 = 16;
/// Records start at multiples of this, and positions are multiples of it.
pub const RECORD_ALIGN: u64 = 8;
/// Set in the length of a padding record.
pub const PADDING: u32 = 1 << 31;

/// `wake_at` of a consumer, and `room_at` of a producer, that is awake.
pub const AWAKE: u64 = u64::MAX;

/// A word with 128 bytes to itself.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Apart(pub(crate) AtomicU64);

/// What each flush writes.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Published {
    pub(crate) tail: AtomicU64,
    pub(crate) attempted: AtomicU64,
}

/// What the producer writes when it stops for a while, or for good.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Pauses {
    pub(crate) closed: AtomicU64,
    pub(crate) room_at: AtomicU64,
}

/// The words that only the producer writes.
#[derive(Debug)]
#[repr(C)]
pub struct ProducerWords {
    pub(crate) magic: Apart,
    pub(crate) published: Published,
    pub(crate) lost: Apart,
    pub(crate) pauses: Pauses,
    pub(crate) slots: [AtomicU64; SLOTS_MAX],
}

/// The words that only the consumer writes.
#[derive(Debug)]
#[repr(C)]
pub struct ConsumerWords {
    pub(crate) magic: Apart,
    pub(crate) head: Apart,
    pub(crate) wake_at: Apart,
}

/// First word of a record: what it is and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) length: u32,
    pub(crate) slot: u16,
    pub(crate) generation: u16,
}

impl Tag {
    #[inline]
    pub(crate) const fn to_word(self) -> u64 {
        (self.length as u64) | (self.slot as u64) << 32 | (self.generation as u64) << 48
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each cast takes the bits that the byte map names")]
    pub(crate) const fn from_word(word: u64) -> Self {
        Self { length: word as u32, slot: (word >> 32) as u16, generation: (word >> 48) as u16 }
    }
}

/// Bytes of a record with this much payload.
#[inline]
pub(crate) const fn record_bytes(payload_bytes: usize) -> u64 {
    RECORD_HEADER_BYTES + (payload_bytes as u64).next_multiple_of(RECORD_ALIGN)
}

/// The largest payload that a ring of this capacity takes. An eighth of the ring, so that an empty ring can take a
/// record wherever its positions stand.
#[must_use]
#[inline]
pub const fn payload_bytes_max(capacity: usize) -> usize {
    capacity / 8 - RECORD_HEADER_BYTES as usize
}
