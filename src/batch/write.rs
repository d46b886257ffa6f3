//! Events into records: one writer holds one record while it grows.
//!
//! The sections grow in buffers of their own that are kept from record to record, so that a warm writer allocates
//! nothing and an event is copied once. Correlations of single events stand behind the events in the layout, but come
//! while events are pushed, so they are collected apart and moved up when the record is sealed.

use std::collections::HashMap;
use std::mem::size_of;
use std::num::NonZeroU64;
use std::time::SystemTime;

use thiserror::Error;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U16, U32, U64};

use super::encode::{BatchEvent, EventTooLarge, Flat, flat_correlation};
use super::layout::{Entry, Header, Pair, VERSION, WORD_BYTES, index, join};
use super::time::to_epoch;
use super::{RECORD_BYTES_TARGET, RECORD_EVENTS_MAX};
use crate::correlation::CorrelationMetadata;
use crate::hidden::Hidden;

/// One record in the making: [`begin`](Self::begin), [`push`](Self::push) as often as it takes, [`seal`](Self::seal),
/// [`parts`](Self::parts); and again from `begin`.
#[derive(Debug)]
pub(crate) struct BatchWriter {
    record_bytes_max: u32,
    /// The same for a record of more than one event.
    shared_bytes_max: u32,
    phase: Phase,
    events: usize,
    /// Where the batch's correlation ends, and what that is known by.
    begun: ChainEnd,
    stamp: Option<NonZeroU64>,
    header: Header,
    /// The batch's correlation, then the events.
    main: Chain,
    /// Correlations of single events, until the record is sealed.
    overrides: Chain,
    blobs: Hidden<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Open,
    Sealed,
}

/// Why an event was not pushed. The writer is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum PushError {
    /// Nobody's fault: the event fits into a record, but no longer into this one. Seal it and begin another.
    #[error("the record is full")]
    RecordFull,
    /// The caller's: no record takes it.
    #[error(transparent)]
    EventTooLarge(#[from] EventTooLarge),
}

impl BatchWriter {
    /// A writer of records of at most `record_bytes_max` bytes. Allocates nothing yet.
    pub(crate) const fn new(record_bytes_max: u32) -> Self {
        Self {
            record_bytes_max,
            shared_bytes_max: record_bytes_max,
            phase: Phase::Idle,
            events: 0,
            begun: ChainEnd { entries: 0, pairs: 0, string_bytes: 0 },
            stamp: None,
            header: Header {
                version: U32::new(VERSION),
                events: U16::ZERO,
                overrides: U16::ZERO,
                pairs: U32::ZERO,
                blob_bytes: U32::ZERO,
                string_bytes: U32::ZERO,
                wall_nanos: U32::ZERO,
                wall_seconds: I64::ZERO,
                monotonic_nanos: U64::ZERO,
                first_sequence: U64::ZERO,
            },
            main: Chain::new(),
            overrides: Chain::new(),
            blobs: Hidden(Vec::new()),
        }
    }

    /// Changes the limits, from the next event on: of a record with one event, and of one that several share.
    pub(crate) const fn limit_to(&mut self, record_bytes_max: u32, shared_bytes_max: u32) {
        self.record_bytes_max = record_bytes_max;
        self.shared_bytes_max = shared_bytes_max;
    }

    /// Begins a record whose events belong to `correlation`, and forgets the one before.
    ///
    /// # Errors
    ///
    /// [`EventTooLarge`] if no record takes even the correlation; the writer is then idle.
    pub(crate) fn begin(&mut self, correlation: &CorrelationMetadata) -> Result<(), EventTooLarge> {
        self.begin_stamped(correlation, None)
    }

    /// As [`begin`](Self::begin). A stamp, which the correlation has to itself, tells whether the record before began with it, too: then
    /// it is there already.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub(crate) fn begin_stamped(
        &mut self,
        correlation: &CorrelationMetadata,
        stamp: Option<NonZeroU64>,
    ) -> Result<(), EventTooLarge> {
        self.phase = Phase::Idle;
        self.events = 0;
        self.overrides.clear();
        self.blobs.clear();
        if stamp.is_some() && self.stamp == stamp {
            self.main.cut(self.begun);
        } else {
            self.stamp = None;
            self.main.clear();
            let flat = flat_correlation(correlation);
            let limit = self.record_bytes_max as usize;
            let room = limit.checked_sub(size_of::<Header>());
            if room.and_then(|room| self.main.append(&flat, flat.word_a, 0, room)).is_none() {
                let bytes = flat.bytes().saturating_add(size_of::<Header>() as u64);
                return Err(EventTooLarge { bytes, limit: limit as u64 });
            }
            self.begun = self.main.end();
            self.stamp = stamp;
        }
        self.phase = Phase::Open;
        Ok(())
    }

    /// Appends `event`, which belongs to the batch's correlation unless it brings one of its own.
    ///
    /// # Errors
    ///
    /// [`PushError`]; nothing has changed then.
    #[inline]
    pub(crate) fn push(
        &mut self,
        event: &impl BatchEvent,
        correlation: Option<&CorrelationMetadata>,
    ) -> Result<(), PushError> {
        assert!(self.phase == Phase::Open, "events are pushed between begin and seal");
        let flat = event.flat();
        match correlation {
            None => self.append(&flat, 0).ok_or_else(|| self.refusal(&flat, None)),
            Some(correlation) => self.push_overriding(&flat, &flat_correlation(correlation)),
        }
    }

    fn push_overriding(&mut self, flat: &Flat<'_>, correlation: &Flat<'_>) -> Result<(), PushError> {
        let (room, before) = (self.room(), self.overrides.end());
        if room.and_then(|room| self.overrides.append(correlation, correlation.word_a, 0, room)).is_some() {
            if self.append(flat, self.overrides.entries.len()).is_some() {
                return Ok(());
            }
            self.overrides.cut(before);
        }
        Err(self.refusal(flat, Some(correlation)))
    }

    /// Appends an event that belongs to the given correlation, or does nothing if it doesn't fit.
    #[inline]
    fn append(&mut self, flat: &Flat<'_>, correlation: usize) -> Option<()> {
        let mut room = self.room()?;
        let mut word_a = flat.word_a;
        if flat.kind.has_blob() {
            let offset = self.blobs.len();
            let padded = (offset.checked_add(flat.blob.len())?).checked_next_multiple_of(WORD_BYTES)?;
            room = room.checked_sub(padded - offset.next_multiple_of(WORD_BYTES))?;
            word_a = join(flat.blob.len() as u32, offset as u32);
        }
        self.main.append(flat, word_a, correlation, room)?;
        self.blobs.extend_from_slice(flat.blob);
        self.events += 1;
        Some(())
    }

    /// How many bytes the record may still grow by; `None` if it takes no further event at all.
    #[inline]
    fn room(&self) -> Option<usize> {
        let limit = match self.events {
            0 => self.record_bytes_max as usize,
            1..RECORD_EVENTS_MAX => RECORD_BYTES_TARGET.min(self.shared_bytes_max as usize),
            _ => return None,
        };
        limit.checked_sub(self.bytes())
    }

    /// Why an event did not fit: would it fit into a record of its own?
    #[cold]
    fn refusal(&self, flat: &Flat<'_>, correlation: Option<&Flat<'_>>) -> PushError {
        let bytes = ((size_of::<Header>() + self.begun.bytes()) as u64)
            .saturating_add(flat.bytes())
            .saturating_add(correlation.map_or(0, Flat::bytes));
        let limit = u64::from(self.record_bytes_max);
        if bytes > limit { EventTooLarge { bytes, limit }.into() } else { PushError::RecordFull }
    }

    /// The number of events pushed since `begin`.
    pub(crate) const fn len(&self) -> usize {
        self.events
    }

    /// The size of the record as it is now.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Header>()
            + self.main.bytes()
            + self.overrides.bytes()
            + self.blobs.len().next_multiple_of(WORD_BYTES)
    }

    /// Completes the record. Sealing it again replaces the three values.
    ///
    /// `first_sequence` is the publisher's own number of the first event; `wall` and `monotonic_nanos` are when the
    /// batch is published, by both clocks.
    pub(crate) fn seal(&mut self, first_sequence: u64, wall: SystemTime, monotonic_nanos: u64) {
        assert!(self.phase != Phase::Idle && self.events > 0, "a record has at least one event");
        if self.phase == Phase::Open {
            self.header.events = U16::new(self.events as u16);
            self.header.overrides = U16::new(self.overrides.entries.len() as u16);
            self.main.absorb(&mut self.overrides);
            let blob_bytes = self.blobs.len().next_multiple_of(WORD_BYTES);
            self.blobs.resize(blob_bytes, 0);
            self.header.pairs = offset(self.main.pairs.len());
            self.header.blob_bytes = offset(self.blobs.len());
            self.header.string_bytes = offset(self.main.string_bytes);
            self.phase = Phase::Sealed;
        }
        let (seconds, nanos) = to_epoch(wall);
        self.header.wall_seconds = I64::new(seconds);
        self.header.wall_nanos = U32::new(nanos);
        self.header.monotonic_nanos = U64::new(monotonic_nanos);
        self.header.first_sequence = U64::new(first_sequence);
    }

    /// The sealed record, in pieces to be stored one after the other. Each but the last is a multiple of 8 bytes long.
    pub(crate) fn parts(&self) -> [&[u8]; 5] {
        assert!(self.phase == Phase::Sealed, "a record is sealed before it is stored");
        [
            self.header.as_bytes(),
            self.main.entries.as_bytes(),
            self.main.pairs.as_bytes(),
            &self.blobs,
            self.main.strings(),
        ]
    }
}

/// Entries with their pairs and strings, in step.
#[derive(Debug)]
struct Chain {
    entries: Vec<Entry>,
    pairs: Vec<Pair>,
    /// The string area and, behind it, room for more: copying into bytes that are there already takes one bounds
    /// check per string, and the same check finds the record full.
    storage: Hidden<Vec<u8>>,
    string_bytes: usize,
}

/// A place in a chain.
#[derive(Debug, Clone, Copy, Default)]
struct ChainEnd {
    entries: usize,
    pairs: usize,
    string_bytes: usize,
}

impl ChainEnd {
    /// The bytes of what is before it.
    const fn bytes(self) -> usize {
        self.entries * size_of::<Entry>() + self.pairs * size_of::<Pair>() + self.string_bytes
    }
}

impl Chain {
    const fn new() -> Self {
        Self { entries: Vec::new(), pairs: Vec::new(), storage: Hidden(Vec::new()), string_bytes: 0 }
    }

    fn clear(&mut self) {
        self.cut(ChainEnd::default());
    }

    fn end(&self) -> ChainEnd {
        let (entries, pairs) = (self.entries.len(), self.pairs.len());
        ChainEnd { entries, pairs, string_bytes: self.string_bytes }
    }

    /// Takes back what was appended since it ended there.
    fn cut(&mut self, end: ChainEnd) {
        self.entries.truncate(end.entries);
        self.pairs.truncate(end.pairs);
        self.string_bytes = end.string_bytes;
    }

    fn strings(&self) -> &[u8] {
        &self.storage[..self.string_bytes]
    }

    fn bytes(&self) -> usize {
        self.end().bytes()
    }

    /// Appends an entry if that takes at most `room` bytes; `None`, and nothing appended, if it takes more.
    #[inline]
    fn append(&mut self, flat: &Flat<'_>, word_a: u64, correlation: usize, room: usize) -> Option<()> {
        while self.append_in_storage(flat, word_a, correlation, room).is_none() {
            self.grow(flat, room)?;
        }
        Some(())
    }

    /// Makes storage for an entry that fits into `room` bytes; `None` if it doesn't fit.
    #[cold]
    fn grow(&mut self, flat: &Flat<'_>, room: usize) -> Option<()> {
        let needed = usize::try_from(flat.chain_bytes()).ok().filter(|&needed| needed <= room)?;
        let storage = (self.string_bytes + needed).next_power_of_two();
        let storage = storage.max(self.storage.len());
        self.storage.resize(storage, 0);
        Some(())
    }

    #[inline]
    fn append_in_storage(
        &mut self,
        flat: &Flat<'_>,
        word_a: u64,
        correlation: usize,
        room: usize,
    ) -> Option<()> {
        let (strings, pairs) = (self.string_bytes, self.pairs.len());
        let fixed = size_of::<Entry>() + flat.pairs.map_or(0, HashMap::len) * size_of::<Pair>();
        let string_bytes_max = strings + room.checked_sub(fixed)?;
        let storage_bytes = self.storage.len();
        let storage = &mut self.storage[..storage_bytes.min(string_bytes_max)];

        let mut end = strings;
        let mut ends = [U32::ZERO; 4];
        for (string, string_end) in flat.strings.into_iter().zip(&mut ends) {
            end = put(storage, end, string)?;
            *string_end = offset(end);
        }
        for (key, value) in flat.pairs.into_iter().flatten() {
            let key_end = put(storage, end, key);
            let Some((key_end, value_end)) = key_end.and_then(|at| Some((at, put(storage, at, value)?)))
            else {
                self.pairs.truncate(pairs);
                return None;
            };
            self.pairs.push(Pair { key_end: offset(key_end), value_end: offset(value_end) });
            end = value_end;
        }
        self.string_bytes = end;
        self.entries.push(Entry {
            word_a: U64::new(word_a),
            word_b: U64::new(flat.word_b),
            nanos: U32::new(flat.nanos),
            kind: flat.kind as u8,
            flags: flat.flags,
            correlation: U16::new(correlation as u16),
            strings: offset(strings),
            ends,
            pairs: offset(pairs),
        });
        Some(())
    }

    /// Moves all of `tail` behind what is here.
    fn absorb(&mut self, tail: &mut Self) {
        let (strings, pairs) = (self.string_bytes, self.pairs.len());
        let moved = |end: U32, by: usize| offset(index(end) + by);
        self.entries.extend(tail.entries.iter().map(|entry| Entry {
            strings: moved(entry.strings, strings),
            ends: entry.ends.map(|end| moved(end, strings)),
            pairs: moved(entry.pairs, pairs),
            ..*entry
        }));
        self.pairs.extend(tail.pairs.iter().map(|pair| Pair {
            key_end: moved(pair.key_end, strings),
            value_end: moved(pair.value_end, strings),
        }));
        self.string_bytes += tail.string_bytes;
        let storage = self.storage.len().max(self.string_bytes);
        self.storage.resize(storage, 0);
        self.storage[strings..self.string_bytes].copy_from_slice(tail.strings());
        tail.clear();
    }
}

/// Copies `string` to `at`, and says where it ends; `None` if the area ends before.
#[inline]
fn put(area: &mut [u8], at: usize, string: &str) -> Option<usize> {
    let end = at + string.len();
    area.get_mut(at..end)?.copy_from_slice(string.as_bytes());
    Some(end)
}

/// A place within a record. It fits: no record exceeds its limit, which is a `u32`.
#[inline]
const fn offset(bytes: usize) -> U32 {
    debug_assert!(bytes <= u32::MAX as usize, "a record exceeds its limit");
    U32::new(bytes as u32)
}

impl Flat<'_> {
    /// What it adds to an empty record, however much that is.
    fn bytes(&self) -> u64 {
        self.chain_bytes().saturating_add((self.blob.len() as u64).next_multiple_of(WORD_BYTES as u64))
    }

    /// What it adds to a chain: all but its blob.
    fn chain_bytes(&self) -> u64 {
        let pairs = self.pairs.map_or(0, HashMap::len) as u64;
        let fixed = size_of::<Entry>() as u64 + pairs.saturating_mul(size_of::<Pair>() as u64);
        let own = self.strings.into_iter().map(str::len);
        let of_pairs = self.pairs.into_iter().flatten().flat_map(|(key, value)| [key.len(), value.len()]);
        own.chain(of_pairs).fold(fixed, |sum, length| sum.saturating_add(length as u64))
    }
}
