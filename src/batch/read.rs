//! Records into events: validated once, then read in place.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::check::Head;
#[cfg(test)]
use super::check::{Malformed, check};
use super::encode::{BatchEvent, EncodeError};
use super::fields::Fields;
use super::layout::index;
use super::records::Records;
use super::refs::{CorrelationRef, EventRef};
use super::time::from_epoch;
use super::write::{BatchWriter, PushError};
use crate::correlation::CorrelationMetadata;

/// Events that arrived together, still as they travelled. Cloning shares them.
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata, EventRef, FilesystemEvent};
/// use std::collections::HashMap;
/// use std::time::SystemTime;
///
/// # let event = FilesystemEvent {
/// #     path: "/etc/passwd".to_string(),
/// #     event_type: "modify".to_string(),
/// #     size: None,
/// #     metadata: HashMap::new(),
/// # };
/// let scan = CorrelationMetadata::new("scan-42".to_string());
/// let batch = Batch::of(&event, &scan, SystemTime::now())?;
///
/// let view = batch.view();
/// for event in view.iter() {
///     let EventRef::Filesystem(file) = event else { panic!("it holds one file event") };
///     assert_eq!(file.path(), "/etc/passwd");
/// }
/// assert_eq!(view.correlation().correlation_id(), "scan-42");
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone)]
pub struct Batch {
    records: Arc<Records>,
}

impl Batch {
    /// A batch of one event that no publisher sent, for tests of code that reads batches.
    ///
    /// Its sequence number and its monotonic time are 0.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] from 4 GiB on, or if the correlation is above a limit.
    ///
    /// ```
    /// use daemoneye_eventbus::{Batch, CorrelationMetadata, PerformanceEvent};
    /// use std::collections::HashMap;
    /// use std::time::UNIX_EPOCH;
    ///
    /// let load = PerformanceEvent {
    ///     metric_name: "load.1m".to_string(),
    ///     value: 0.75,
    ///     unit: "runnable".to_string(),
    ///     metadata: HashMap::new(),
    /// };
    /// let batch = Batch::of(&load, &CorrelationMetadata::default(), UNIX_EPOCH)?;
    /// assert_eq!(batch.len(), 1);
    /// assert_eq!(batch.view().published_at(), UNIX_EPOCH);
    /// # Ok::<(), daemoneye_eventbus::EncodeError>(())
    /// ```
    pub fn of(
        event: &impl BatchEvent,
        correlation: &CorrelationMetadata,
        published_at: SystemTime,
    ) -> Result<Self, EncodeError> {
        correlation.check()?;
        let mut writer = BatchWriter::new(u32::MAX);
        writer.begin(correlation)?;
        writer.push(event, None).map_err(|error| match error {
            PushError::EventTooLarge(error) => error,
            PushError::RecordFull => unreachable!("an empty record is not full"),
        })?;
        writer.seal(0, published_at, 0);
        let mut records = Records::default();
        records.push_own(&writer);
        Ok(Self { records: Arc::new(records) })
    }

    /// A batch that nobody received: the first of these records.
    #[cfg(fuzzing)]
    pub(crate) fn of_first(records: Records) -> Self {
        Self { records: Arc::new(records) }
    }

    /// The number of events, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// The events, to be read in place.
    #[must_use]
    pub fn view(&self) -> BatchView<'_> {
        self.records.view(0)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

/// A validated record: where its sections are. Copying it copies five pointers.
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata, NetworkEvent};
/// use std::collections::HashMap;
/// use std::time::UNIX_EPOCH;
///
/// # let event = NetworkEvent {
/// #     connection_id: "tcp-7".to_string(),
/// #     source_address: "10.0.0.2:50122".to_string(),
/// #     destination_address: "10.0.0.9:443".to_string(),
/// #     protocol: "tcp".to_string(),
/// #     metadata: HashMap::new(),
/// # };
/// let batch = Batch::of(&event, &CorrelationMetadata::new("scan-42".to_string()), UNIX_EPOCH)?;
/// let view = batch.view();
/// assert_eq!(view.len(), 1);
/// assert_eq!(view.correlation_of(0).correlation_id(), "scan-42");
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct BatchView<'a> {
    head: Head<'a>,
    strings: &'a str,
}

impl<'a> BatchView<'a> {
    pub(super) const fn new(head: Head<'a>, strings: &'a str) -> Self {
        Self { head, strings }
    }

    /// Takes a record as it stands, after judging every byte of it that can be read.
    ///
    /// # Errors
    ///
    /// [`Malformed`] says what is wrong with it.
    #[cfg(test)]
    pub(crate) fn parse(record: &'a [u8]) -> Result<Self, Malformed> {
        let (head, strings) = check(record)?;
        Ok(Self { head, strings })
    }

    /// The number of events, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        usize::from(self.head.header.events.get())
    }

    /// The events, in the order in which they were pushed.
    #[must_use]
    pub const fn iter(&self) -> Events<'a> {
        Events { view: *self, next: 0 }
    }

    /// The event at `position`, counted from 0. There has to be one.
    #[inline]
    pub(crate) fn event(&self, position: usize) -> EventRef<'a> {
        EventRef::new(self.fields(1 + position), self.head.blobs)
    }

    /// The correlation of the batch, to which every event belongs that has none of its own.
    #[must_use]
    pub fn correlation(&self) -> CorrelationRef<'a> {
        CorrelationRef::new(self.fields(0))
    }

    /// The correlation of the event at `position`, counted from 0: its own, or else the batch's.
    ///
    /// # Panics
    ///
    /// If the batch has no such event.
    #[must_use]
    pub fn correlation_of(&self, position: usize) -> CorrelationRef<'a> {
        self.own_correlation_of(position).unwrap_or_else(|| self.correlation())
    }

    /// The correlation that the event at `position` has to itself. There has to be such an event.
    pub(crate) fn own_correlation_of(&self, position: usize) -> Option<CorrelationRef<'a>> {
        assert!(position < self.len(), "event {position} of a batch of {}", self.len());
        let number = usize::from(self.head.entries[1 + position].correlation.get());
        (number > 0).then(|| CorrelationRef::new(self.fields(self.len() + number)))
    }

    /// Whether any event has one to itself.
    pub(crate) const fn has_own_correlations(&self) -> bool {
        self.head.header.overrides.get() > 0
    }

    /// Bytes that the correlations of all events have as owned values, each event with its own. They are the one thing in a record
    /// that belongs to many events, and so may unfold to many times the record.
    pub(crate) fn correlation_bytes(&self) -> usize {
        /// What a tag costs beyond its text: two strings and their place in a map.
        const TAG_BYTES: usize = 96;
        let entries = self.head.entries;
        let of = |number: usize| {
            let next = entries.get(number + 1);
            let text_end = next.map_or(self.strings.len(), |next| index(next.strings));
            let tags = self.head.pairs_end(number) - index(entries[number].pairs);
            text_end - index(entries[number].strings) + tags * TAG_BYTES
        };
        let numbers = (0..self.len()).map(|position| usize::from(entries[1 + position].correlation.get()));
        numbers.map(|number| if number == 0 { of(0) } else { of(self.len() + number) }).sum()
    }

    /// When the publisher says that it published the batch.
    #[must_use]
    pub fn published_at(&self) -> SystemTime {
        from_epoch(self.head.header.wall_seconds.get(), self.head.header.wall_nanos.get())
            .expect("the publish time was checked when the record was parsed")
    }

    /// The same moment by `CLOCK_MONOTONIC`, in nanoseconds: comparable between processes of one host.
    #[must_use]
    pub fn monotonic_nanos(&self) -> u64 {
        self.head.header.monotonic_nanos.get()
    }

    /// The publisher's own number of the first event; the others follow without gaps.
    #[must_use]
    pub fn first_sequence(&self) -> u64 {
        self.head.header.first_sequence.get()
    }

    #[inline]
    fn fields(&self, number: usize) -> Fields<'a> {
        let end = self.head.pairs_end(number);
        let entry = &self.head.entries[number];
        Fields { entry, pairs: &self.head.pairs[index(entry.pairs)..end], strings: self.strings }
    }
}

impl<'a> IntoIterator for BatchView<'a> {
    type Item = EventRef<'a>;
    type IntoIter = Events<'a>;

    fn into_iter(self) -> Events<'a> {
        self.iter()
    }
}

impl fmt::Debug for BatchView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchView")
            .field("first_sequence", &self.first_sequence())
            .field("published_at", &self.published_at())
            .field("correlation", &self.correlation())
            .field("events", &self.len())
            .finish()
    }
}

/// The events of a batch; made by [`BatchView::iter`].
#[derive(Debug, Clone)]
pub struct Events<'a> {
    view: BatchView<'a>,
    next: usize,
}

impl<'a> Iterator for Events<'a> {
    type Item = EventRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<EventRef<'a>> {
        if self.next == self.view.len() {
            return None;
        }
        self.next += 1;
        Some(self.view.event(self.next - 1))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.view.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Events<'_> {}
