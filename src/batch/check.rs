//! The judgement of a record: one walk over the entries, in the order in which their strings, pairs and blobs follow
//! each other.
//!
//! Consecutive is checked as *consecutive*: an entry begins where the one before ended, and the last ends where
//! the section does. That makes every range valid, and no byte anyone's twice.

use std::mem::{size_of, size_of_val};

use thiserror::Error;
use zerocopy::FromBytes;

use super::fields::Fields;
use super::layout::{Entry, Header, Kind, Pair, VERSION, WORD_BYTES, index, split};
use super::refs::CorrelationRef;
use super::time::is_time;
use super::{RECORD_BYTES_TARGET, RECORD_EVENTS_MAX};

/// What is wrong with a record. Always the publisher's fault: no writer of ours makes such bytes.
///
/// It fits a register, which the walk over the entries is faster for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    /// It ends within its header.
    #[error("the record ends within its header")]
    HeaderCut,
    /// It has another layout.
    #[error("version {found} of the layout is unknown")]
    Version {
        /// What the header says.
        found: u32,
    },
    /// It has no events, or too many.
    #[error("a record cannot have {found} events")]
    EventCount {
        /// What the header says.
        found: u16,
    },
    /// More events have a correlation of their own than there are events.
    #[error("{found} correlations for {events} events")]
    OverrideCount {
        /// What the header says.
        found: u16,
        /// The number of events.
        events: u16,
    },
    /// The sections do not add up to the length of the record, or it is longer than one of several events may be.
    #[error("the sections do not fill the record exactly, or fill more than records of several events have")]
    Length,
    /// The bytes that round its length up are not zero.
    #[error("the record ends in bytes that belong to no section")]
    TailPadding,
    /// The blob area is not rounded up to 8 by zeros.
    #[error("the blob area is not padded with zeros to a multiple of 8")]
    BlobPadding,
    /// The publish time is no time.
    #[error("the publish time is no time")]
    PublishTime,
    /// The string area is not UTF-8.
    #[error("the string area is not UTF-8 from byte {valid_up_to} on")]
    NotUtf8 {
        /// How much of the area is.
        valid_up_to: u32,
    },
    /// The kind is unknown, or no event where one is due, or no correlation where one is due.
    #[error("entry {entry} cannot be of kind {found}")]
    Kind {
        /// Which entry.
        entry: u16,
        /// What it says.
        found: u8,
    },
    /// A flag that its kind does not have.
    #[error("entry {entry} cannot have the flags {found:#010b}")]
    Flags {
        /// Which entry.
        entry: u16,
        /// What it says.
        found: u8,
    },
    /// A time that is none.
    #[error("the time of entry {entry} is no time")]
    Time {
        /// Which entry.
        entry: u16,
    },
    /// A correlation that does not exist.
    #[error("entry {entry} belongs to correlation {found}, which does not exist")]
    CorrelationIndex {
        /// Which entry.
        entry: u16,
        /// What it says.
        found: u16,
    },
    /// Strings that do not follow the strings before, or exceed the area.
    #[error("the strings of entry {entry} are out of place")]
    Strings {
        /// Which entry.
        entry: u16,
    },
    /// A string that begins or ends within a character.
    #[error("entry {entry} splits a character")]
    SplitCharacter {
        /// Which entry.
        entry: u16,
    },
    /// Pairs that do not follow the pairs before, or exceed the section, or do not fill it.
    #[error("the pairs of entry {entry} are out of place")]
    Pairs {
        /// Which entry.
        entry: u16,
    },
    /// A blob that does not follow the blob before, or exceeds the area.
    #[error("the blob of entry {entry} is out of place")]
    Blob {
        /// Which entry.
        entry: u16,
    },
    /// A priority that is more than a byte.
    #[error("the priority of entry {entry} is more than a byte")]
    Priority {
        /// Which entry.
        entry: u16,
    },
    /// A correlation that is above one of its limits.
    #[error("the correlation in entry {entry} is above its limits")]
    Correlation {
        /// Which entry.
        entry: u16,
    },
    /// Bytes at the end of the string area that no entry has.
    #[error("the string area has bytes that no entry has")]
    Unclaimed,
}

const _: () = assert!(size_of::<Result<(), Malformed>>() <= 8);

/// The number of events in a record, from its header alone: for a record that is skipped and counted, not read.
///
/// # Errors
///
/// [`Malformed`] if it has no header of a known version, or an impossible count.
pub(crate) fn event_count(record: &[u8]) -> Result<u16, Malformed> {
    header(record).map(|(header, _)| header.events.get())
}

fn header(record: &[u8]) -> Result<(&Header, &[u8]), Malformed> {
    let (header, rest) = Header::ref_from_prefix(record).map_err(|_| Malformed::HeaderCut)?;
    let version = header.version.get();
    if version != VERSION {
        return Err(Malformed::Version { found: version });
    }
    let events = header.events.get();
    if !(1..=RECORD_EVENTS_MAX).contains(&usize::from(events)) {
        return Err(Malformed::EventCount { found: events });
    }
    Ok((header, rest))
}

/// The sections before the strings; what is in them is not judged yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) header: &'a Header,
    pub(super) entries: &'a [Entry],
    pub(super) pairs: &'a [Pair],
    pub(super) blobs: &'a [u8],
}

impl<'a> Head<'a> {
    /// Cuts a record into its head and what is behind. Takes constant time.
    pub(super) fn cut(record: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (header, rest) = header(record)?;
        let (events, overrides) = (header.events.get(), header.overrides.get());
        if overrides > events {
            return Err(Malformed::OverrideCount { found: overrides, events });
        }
        let count = 1 + usize::from(events) + usize::from(overrides);
        let (entries, rest) =
            <[Entry]>::ref_from_prefix_with_elems(rest, count).map_err(|_| Malformed::Length)?;
        let (pairs, rest) =
            <[Pair]>::ref_from_prefix_with_elems(rest, index(header.pairs)).map_err(|_| Malformed::Length)?;
        let (blobs, rest) = rest.split_at_checked(index(header.blob_bytes)).ok_or(Malformed::Length)?;
        Ok((Self { header, entries, pairs, blobs }, rest))
    }

    pub(super) const fn bytes(&self) -> usize {
        size_of_val(self.header) + size_of_val(self.entries) + size_of_val(self.pairs) + self.blobs.len()
    }

    /// Where the pairs of an entry end.
    #[inline]
    pub(super) fn pairs_end(&self, entry: usize) -> usize {
        self.entries.get(entry + 1).map_or(self.pairs.len(), |next| index(next.pairs))
    }
}

/// Judges a whole record, and gives its head and its string area as what they are.
pub(super) fn check(record: &[u8]) -> Result<(Head<'_>, &str), Malformed> {
    let (head, rest) = Head::cut(record)?;
    let header = head.header;
    let (strings, tail) = rest.split_at_checked(index(header.string_bytes)).ok_or(Malformed::Length)?;
    let crowded = header.events.get() > 1 && record.len() > RECORD_BYTES_TARGET;
    if tail.len() >= WORD_BYTES || crowded {
        return Err(Malformed::Length);
    }
    if tail.iter().any(|&byte| byte != 0) {
        return Err(Malformed::TailPadding);
    }
    if !is_time(header.wall_seconds.get(), header.wall_nanos.get()) {
        return Err(Malformed::PublishTime);
    }
    let strings = std::str::from_utf8(strings)
        .map_err(|error| Malformed::NotUtf8 { valid_up_to: error.valid_up_to() as u32 })?;

    if strings.is_ascii() {
        Walk::<true>::over(head, strings)?
    } else {
        Walk::<false>::over(head, strings)?
    }
    Ok((head, strings))
}

/// How far the sections are accounted for.
///
/// In an area that is all ASCII every end is between characters: finding that out takes 2 ns per process event, asking
/// at each end 4.
struct Walk<'a, const ASCII: bool> {
    head: Head<'a>,
    string_area: &'a str,
    strings: usize,
    blobs: usize,
}

impl<'a, const ASCII: bool> Walk<'a, ASCII> {
    fn over(head: Head<'a>, string_area: &'a str) -> Result<(), Malformed> {
        let mut walk = Self { head, string_area, strings: 0, blobs: 0 };
        let (first, events) = (&head.entries[0], 1..=head.header.events.get());
        // An entry's pairs end where the next one's begin, so none are left out but before the first.
        if index(first.pairs) != 0 {
            return Err(Malformed::Pairs { entry: 0 });
        }
        for (number, entry) in (0..).zip(head.entries) {
            walk.entry(number, entry, events.contains(&number))?;
        }
        walk.end()
    }

    #[inline]
    fn entry(&mut self, number: u16, entry: &Entry, is_event: bool) -> Result<(), Malformed> {
        let kind = Kind::of(entry.kind).filter(|&kind| is_event != (kind == Kind::Correlation));
        let kind = kind.ok_or(Malformed::Kind { entry: number, found: entry.kind })?;
        let correlations = if is_event { self.head.header.overrides.get() } else { 0 };
        if entry.flags & !kind.flags() != 0 {
            return Err(Malformed::Flags { entry: number, found: entry.flags });
        }
        if entry.correlation.get() > correlations {
            return Err(Malformed::CorrelationIndex { entry: number, found: entry.correlation.get() });
        }
        if kind.has_time() && !is_time(entry.word_b.get().cast_signed(), entry.nanos.get()) {
            return Err(Malformed::Time { entry: number });
        }
        if kind == Kind::Trigger && entry.word_b.get() > u64::from(u8::MAX) {
            return Err(Malformed::Priority { entry: number });
        }
        if kind.has_blob() {
            self.blob(number, entry)?;
        }
        self.strings(number, entry)?;
        self.pairs(number, entry)?;
        if kind == Kind::Correlation {
            self.correlation(number, entry)?;
        }
        Ok(())
    }

    /// Judges how large a correlation is whose strings and pairs are in their places.
    fn correlation(&self, number: u16, entry: &Entry) -> Result<(), Malformed> {
        let pairs = &self.head.pairs[index(entry.pairs)..self.head.pairs_end(usize::from(number))];
        let fields = Fields { entry, pairs, strings: self.string_area };
        CorrelationRef::new(fields).check().map_err(|_| Malformed::Correlation { entry: number })
    }

    fn blob(&mut self, number: u16, entry: &Entry) -> Result<(), Malformed> {
        let (length, offset) = split(entry.word_a.get());
        let left = self.head.blobs.len() - self.blobs;
        if offset as usize != self.blobs || length as usize > left {
            return Err(Malformed::Blob { entry: number });
        }
        self.blobs += length as usize;
        Ok(())
    }

    #[inline]
    fn strings(&mut self, number: u16, entry: &Entry) -> Result<(), Malformed> {
        let [first, second, third, last] = entry.ends.map(index);
        let follows = index(entry.strings) == self.strings;
        let ordered = (self.strings <= first) & (first <= second) & (second <= third) & (third <= last);
        if !(follows & ordered & (last <= self.string_area.len())) {
            return Err(Malformed::Strings { entry: number });
        }
        if !self.whole([first, second, third, last]) {
            return Err(Malformed::SplitCharacter { entry: number });
        }
        self.strings = last;
        Ok(())
    }

    #[inline]
    fn pairs(&mut self, number: u16, entry: &Entry) -> Result<(), Malformed> {
        let pairs = self.head.pairs.get(index(entry.pairs)..self.head.pairs_end(usize::from(number)));
        for pair in pairs.ok_or(Malformed::Pairs { entry: number })? {
            let (key_end, value_end) = (index(pair.key_end), index(pair.value_end));
            let ordered = (self.strings <= key_end) & (key_end <= value_end);
            if !(ordered & (value_end <= self.string_area.len())) {
                return Err(Malformed::Strings { entry: number });
            }
            if !self.whole([key_end, value_end]) {
                return Err(Malformed::SplitCharacter { entry: number });
            }
            self.strings = value_end;
        }
        Ok(())
    }

    /// Whether all these ends are between characters.
    #[inline]
    fn whole<const N: usize>(&self, ends: [usize; N]) -> bool {
        ASCII || ends.iter().fold(true, |whole, &end| whole & self.string_area.is_char_boundary(end))
    }

    /// Judges that nothing is left over.
    fn end(&self) -> Result<(), Malformed> {
        if self.strings != self.string_area.len() {
            return Err(Malformed::Unclaimed);
        }
        let padding = &self.head.blobs[self.blobs..];
        let padded = self.head.blobs.len().is_multiple_of(WORD_BYTES) && padding.len() < WORD_BYTES;
        if !padded || padding.iter().any(|&byte| byte != 0) {
            return Err(Malformed::BlobPadding);
        }
        Ok(())
    }
}
