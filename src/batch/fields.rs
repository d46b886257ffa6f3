//! What all entries have in common, read in place: words, options, strings, pairs.

use std::collections::HashMap;
use std::fmt;
use std::slice;
use std::time::SystemTime;

use super::layout::{Entry, Pair, index, split};
use super::time::from_epoch;

/// An entry of a validated record with what belongs to it.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) entry: &'a Entry,
    /// Its own pairs.
    pub(super) pairs: &'a [Pair],
    /// The whole string area.
    pub(super) strings: &'a str,
}

impl<'a> Fields<'a> {
    #[inline]
    pub(super) fn string(self, number: usize) -> &'a str {
        let start = if number == 0 { self.entry.strings } else { self.entry.ends[number - 1] };
        &self.strings[index(start)..index(self.entry.ends[number])]
    }

    #[inline]
    pub(super) const fn has(self, flag: u8) -> bool {
        self.entry.flags & flag != 0
    }

    #[inline]
    pub(super) fn string_if(self, flag: u8, number: usize) -> Option<&'a str> {
        self.has(flag).then(|| self.string(number))
    }

    #[inline]
    pub(super) fn time(self) -> SystemTime {
        from_epoch(self.entry.word_b.get().cast_signed(), self.entry.nanos.get())
            .expect("times were checked when the record was parsed")
    }

    #[inline]
    pub(super) fn pairs(self) -> Pairs<'a> {
        let start = index(self.entry.ends[3]);
        Pairs { strings: &self.strings[start..], start, pairs: self.pairs.iter() }
    }

    /// The blob that `word_a` names.
    pub(super) fn blob(self, blobs: &'a [u8]) -> &'a [u8] {
        let (length, offset) = split(self.entry.word_a.get());
        &blobs[offset as usize..][..length as usize]
    }
}

/// Names and values of an event's metadata, or of a correlation's tags, in no particular order.
///
/// A hostile publisher may send a name twice; an owned event then has one of the values.
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata};
/// # use daemoneye_eventbus::PerformanceEvent;
/// # use std::time::SystemTime;
///
/// # let event = PerformanceEvent {
/// #     metric_name: "load.1m".to_string(),
/// #     value: 0.75,
/// #     unit: "runnable".to_string(),
/// #     metadata: Default::default(),
/// # };
/// let scan = CorrelationMetadata::default().with_tag("host".to_string(), "a".to_string());
/// let batch = Batch::of(&event, &scan, SystemTime::now())?;
/// let mut tags = batch.view().correlation().correlation_tags();
/// assert_eq!(tags.len(), 1);
/// assert_eq!(tags.next(), Some(("host", "a")));
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone)]
pub struct Pairs<'a> {
    /// The string area from the next key on.
    strings: &'a str,
    /// Where in the area that is.
    start: usize,
    pairs: slice::Iter<'a, Pair>,
}

impl Pairs<'_> {
    pub(super) fn to_map(&self) -> HashMap<String, String> {
        self.clone().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    #[inline]
    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        let pair = self.pairs.next()?;
        let (key_end, value_end) = (index(pair.key_end), index(pair.value_end));
        let (key, rest) = self.strings.split_at(key_end - self.start);
        let (value, rest) = rest.split_at(value_end - key_end);
        (self.strings, self.start) = (rest, value_end);
        Some((key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.pairs.size_hint()
    }
}

impl ExactSizeIterator for Pairs<'_> {}

impl fmt::Debug for Pairs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.clone()).finish()
    }
}
