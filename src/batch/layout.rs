//! The bytes of a batch, as structs. This is the only place that knows an offset.
//!
//! | kind | `word_a` | `word_b` | `nanos` | strings | flags |
//! |---|---|---|---|---|---|
//! | 0 opaque | blob | | | | |
//! | 1 process | pid, ppid ≪ 32 | start, seconds | start | name, command line, executable path | command line, executable path, ppid, start |
//! | 2 network | | | | connection id, source, destination, protocol | |
//! | 3 filesystem | size | | | path, event type | size |
//! | 4 performance | value, as bits | | | metric name, unit | |
//! | 5 trigger | payload: blob | priority | | request id, collector type | |
//! | 6 correlation | sequence number | created, seconds | created | id, parent id, root id, stage | parent id, stage |
//!
//! A blob is its length, and its offset in the blob area ≪ 32. Times are seconds since the epoch, rounded down, and
//! the nanoseconds above.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of the layout, first in every record. Any change to this file that moves a byte raises it.
pub(super) const VERSION: u32 = 1;

/// Sections other than the last are multiples of this, so that a ring copies each of them by whole words.
pub(super) const WORD_BYTES: usize = 8;

/// The beginning of a record: its counts, and what holds for all its events.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) version: U32,
    pub(super) events: U16,
    /// How many events have a correlation of their own.
    pub(super) overrides: U16,
    pub(super) pairs: U32,
    /// Padding included.
    pub(super) blob_bytes: U32,
    pub(super) string_bytes: U32,
    pub(super) wall_nanos: U32,
    pub(super) wall_seconds: I64,
    /// `CLOCK_MONOTONIC`, which all processes of a host share.
    pub(super) monotonic_nanos: U64,
    /// The publisher's own number of the first event.
    pub(super) first_sequence: U64,
}

/// One event, or one correlation.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) word_a: U64,
    pub(super) word_b: U64,
    pub(super) nanos: U32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// 0 for the batch's correlation, n for the n-th override. Always 0 in an entry that is a correlation.
    pub(super) correlation: U16,
    /// Where its strings start in the string area.
    pub(super) strings: U32,
    /// Where each of its own strings ends; a kind with fewer than four repeats the last.
    pub(super) ends: [U32; 4],
    /// Its first pair; it has those up to the next entry's.
    pub(super) pairs: U32,
}

/// One metadata pair. The key begins where the string before it ends.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Pair {
    pub(super) key_end: U32,
    pub(super) value_end: U32,
}

const _: () = {
    assert!(size_of::<Header>() == 48);
    assert!(offset_of!(Header, events) == 4);
    assert!(offset_of!(Header, overrides) == 6);
    assert!(offset_of!(Header, pairs) == 8);
    assert!(offset_of!(Header, blob_bytes) == 12);
    assert!(offset_of!(Header, string_bytes) == 16);
    assert!(offset_of!(Header, wall_nanos) == 20);
    assert!(offset_of!(Header, wall_seconds) == 24);
    assert!(offset_of!(Header, monotonic_nanos) == 32);
    assert!(offset_of!(Header, first_sequence) == 40);

    assert!(size_of::<Entry>() == 48);
    assert!(offset_of!(Entry, word_b) == 8);
    assert!(offset_of!(Entry, nanos) == 16);
    assert!(offset_of!(Entry, kind) == 20);
    assert!(offset_of!(Entry, flags) == 21);
    assert!(offset_of!(Entry, correlation) == 22);
    assert!(offset_of!(Entry, strings) == 24);
    assert!(offset_of!(Entry, ends) == 28);
    assert!(offset_of!(Entry, pairs) == 44);

    assert!(size_of::<Pair>() == 8);
    assert!(offset_of!(Pair, value_end) == 4);

    assert!(size_of::<Header>().is_multiple_of(WORD_BYTES));
    assert!(size_of::<Entry>().is_multiple_of(WORD_BYTES));
    assert!(size_of::<Pair>().is_multiple_of(WORD_BYTES));
};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Opaque = 0,
    Process = 1,
    Network = 2,
    Filesystem = 3,
    Performance = 4,
    Trigger = 5,
    Correlation = 6,
}

impl Kind {
    pub(super) const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Opaque,
            1 => Self::Process,
            2 => Self::Network,
            3 => Self::Filesystem,
            4 => Self::Performance,
            5 => Self::Trigger,
            6 => Self::Correlation,
            _ => return None,
        })
    }

    /// The flags that it may carry.
    pub(super) const fn flags(self) -> u8 {
        match self {
            Self::Process => flag::COMMAND_LINE | flag::EXECUTABLE_PATH | flag::PPID | flag::START_TIME,
            Self::Filesystem => flag::SIZE,
            Self::Correlation => flag::PARENT | flag::STAGE,
            Self::Opaque | Self::Network | Self::Performance | Self::Trigger => 0,
        }
    }

    /// Whether `word_b` and `nanos` are a time.
    pub(super) const fn has_time(self) -> bool {
        matches!(self, Self::Process | Self::Correlation)
    }

    /// Whether its `word_a` is a blob.
    pub(super) const fn has_blob(self) -> bool {
        matches!(self, Self::Opaque | Self::Trigger)
    }
}

/// Which options are there.
pub(super) mod flag {
    // Of a process.
    pub(in crate::batch) const COMMAND_LINE: u8 = 1;
    pub(in crate::batch) const EXECUTABLE_PATH: u8 = 1 << 1;
    pub(in crate::batch) const PPID: u8 = 1 << 2;
    pub(in crate::batch) const START_TIME: u8 = 1 << 3;
    // Of a file.
    pub(in crate::batch) const SIZE: u8 = 1;
    // Of a correlation.
    pub(in crate::batch) const PARENT: u8 = 1;
    pub(in crate::batch) const STAGE: u8 = 1 << 1;
}

/// A `u32` of the layout as an index. No platform of ours has smaller ones.
#[inline]
pub(super) const fn index(offset: U32) -> usize {
    offset.get() as usize
}

/// Two halves of a word: the low one first.
pub(super) const fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// The halves of a word: the low one first.
pub(super) const fn split(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
