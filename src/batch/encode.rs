//! Owned events and correlations as entries: which field goes where. The way back stands in `refs.rs`.

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use thiserror::Error;

use super::layout::{Kind, flag, join};
use super::time::to_epoch;
use crate::correlation::{CorrelationError, CorrelationMetadata};
use crate::event::{
    CollectionEvent, FilesystemEvent, NetworkEvent, PerformanceEvent, ProcessEvent, TriggerRequest,
};

/// What a batch takes: a [`CollectionEvent`], or any of its kinds by itself.
///
/// It is implemented for those and cannot be implemented elsewhere.
///
/// ```
/// use daemoneye_eventbus::{Batch, BatchEvent, CollectionEvent, CorrelationMetadata, NetworkEvent};
/// use std::collections::HashMap;
/// use std::time::SystemTime;
///
/// fn events_in_a_batch_of(event: &impl BatchEvent) -> usize {
///     let scan = CorrelationMetadata::new("scan-42".to_string());
///     Batch::of(event, &scan, SystemTime::now()).expect("it is small").len()
/// }
///
/// let connection = NetworkEvent {
///     connection_id: "tcp-7".to_string(),
///     source_address: "10.0.0.2:50122".to_string(),
///     destination_address: "10.0.0.9:443".to_string(),
///     protocol: "tcp".to_string(),
///     metadata: HashMap::new(),
/// };
/// assert_eq!(events_in_a_batch_of(&connection), 1);
/// assert_eq!(events_in_a_batch_of(&CollectionEvent::from(connection)), 1);
/// ```
pub trait BatchEvent: sealed::Encode {}

impl<T: sealed::Encode> BatchEvent for T {}

/// The event, with its correlation, makes a record larger than this bus carries. The caller's doing; nothing was
/// encoded.
///
/// ```
/// use daemoneye_eventbus::EventTooLarge;
///
/// let error = EventTooLarge { bytes: 2_000_000, limit: 1_048_560 };
/// assert_eq!(error.to_string(), "the event needs a record of 2000000 bytes, and the limit is 1048560");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the event needs a record of {bytes} bytes, and the limit is {limit}")]
pub struct EventTooLarge {
    /// The bytes of a record with this event alone.
    pub bytes: u64,
    /// The most that a record may have.
    pub limit: u64,
}

/// Why there is no batch of an event and a correlation. Nothing was encoded.
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationError, CorrelationMetadata, EncodeError, Opaque};
/// use std::time::UNIX_EPOCH;
///
/// let scan = CorrelationMetadata::new("scan".repeat(100));
/// let error = Batch::of(&Opaque(b"PING"), &scan, UNIX_EPOCH).expect_err("an id has 256 bytes at most");
/// assert_eq!(error, EncodeError::Correlation(CorrelationError::Id { bytes: 400 }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The event is above the limit.
    #[error(transparent)]
    TooLarge(#[from] EventTooLarge),
    /// The correlation is.
    #[error(transparent)]
    Correlation(#[from] CorrelationError),
}

/// An event that the bus does not look into: bytes of the caller's own making.
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata, EventRef, Opaque};
/// use std::time::UNIX_EPOCH;
///
/// let batch = Batch::of(&Opaque(b"PING"), &CorrelationMetadata::default(), UNIX_EPOCH)?;
/// let event = batch.view().iter().next().expect("a batch is never empty");
/// assert!(matches!(event, EventRef::Opaque(b"PING")));
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Opaque<'a>(pub &'a [u8]);

impl fmt::Debug for Opaque<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opaque({} bytes)", self.0.len())
    }
}

/// An entry in the making: its fields are borrowed and have no place in a record yet.
#[derive(Clone, Copy)]
pub struct Flat<'a> {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    /// Given by the writer if the kind has a blob.
    pub(super) word_a: u64,
    pub(super) word_b: u64,
    pub(super) nanos: u32,
    pub(super) strings: [&'a str; 4],
    pub(super) pairs: Option<&'a HashMap<String, String>>,
    pub(super) blob: &'a [u8],
}

impl fmt::Debug for Flat<'_> {
    /// What it is, and nothing that it says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flat").field("kind", &self.kind).field("flags", &self.flags).finish_non_exhaustive()
    }
}

impl<'a> Flat<'a> {
    #[inline]
    const fn new(kind: Kind, strings: [&'a str; 4]) -> Self {
        Self { kind, flags: 0, word_a: 0, word_b: 0, nanos: 0, strings, pairs: None, blob: &[] }
    }

    #[inline]
    const fn with_pairs(kind: Kind, strings: [&'a str; 4], pairs: &'a HashMap<String, String>) -> Self {
        Self { pairs: Some(pairs), ..Self::new(kind, strings) }
    }

    #[inline]
    fn set_time(&mut self, time: SystemTime) {
        let (seconds, nanos) = to_epoch(time);
        self.word_b = seconds.cast_unsigned();
        self.nanos = nanos;
    }
}

mod sealed {
    use super::Flat;

    /// The private half of [`BatchEvent`](super::BatchEvent).
    pub trait Encode {
        fn flat(&self) -> Flat<'_>;
    }
}

pub(super) use sealed::Encode;

/// `bit` if the option is there.
const fn flag_if<T>(option: Option<&T>, bit: u8) -> u8 {
    if option.is_some() { bit } else { 0 }
}

impl Encode for CollectionEvent {
    #[inline]
    fn flat(&self) -> Flat<'_> {
        match self {
            Self::Process(event) => event.flat(),
            Self::Network(event) => event.flat(),
            Self::Filesystem(event) => event.flat(),
            Self::Performance(event) => event.flat(),
            Self::TriggerRequest(event) => event.flat(),
        }
    }
}

impl Encode for ProcessEvent {
    #[inline]
    fn flat(&self) -> Flat<'_> {
        let command_line = self.command_line.as_deref().unwrap_or_default();
        let executable_path = self.executable_path.as_deref().unwrap_or_default();
        let mut flat =
            Flat::with_pairs(Kind::Process, [&self.name, command_line, executable_path, ""], &self.metadata);
        flat.flags = flag_if(self.command_line.as_ref(), flag::COMMAND_LINE)
            | flag_if(self.executable_path.as_ref(), flag::EXECUTABLE_PATH)
            | flag_if(self.ppid.as_ref(), flag::PPID)
            | flag_if(self.start_time.as_ref(), flag::START_TIME);
        flat.word_a = join(self.pid, self.ppid.unwrap_or_default());
        if let Some(start_time) = self.start_time {
            flat.set_time(start_time);
        }
        flat
    }
}

impl Encode for NetworkEvent {
    #[inline]
    fn flat(&self) -> Flat<'_> {
        let strings = [&*self.connection_id, &self.source_address, &self.destination_address, &self.protocol];
        Flat::with_pairs(Kind::Network, strings, &self.metadata)
    }
}

impl Encode for FilesystemEvent {
    #[inline]
    fn flat(&self) -> Flat<'_> {
        let mut flat =
            Flat::with_pairs(Kind::Filesystem, [&self.path, &self.event_type, "", ""], &self.metadata);
        flat.flags = flag_if(self.size.as_ref(), flag::SIZE);
        flat.word_a = self.size.unwrap_or_default();
        flat
    }
}

impl Encode for PerformanceEvent {
    #[inline]
    fn flat(&self) -> Flat<'_> {
        let mut flat =
            Flat::with_pairs(Kind::Performance, [&self.metric_name, &self.unit, "", ""], &self.metadata);
        flat.word_a = self.value.to_bits();
        flat
    }
}

impl Encode for TriggerRequest {
    #[inline]
    fn flat(&self) -> Flat<'_> {
        let mut flat =
            Flat::with_pairs(Kind::Trigger, [&self.request_id, &self.collector_type, "", ""], &self.metadata);
        flat.word_b = u64::from(self.priority);
        flat.blob = &self.payload;
        flat
    }
}

impl Encode for Opaque<'_> {
    #[inline]
    fn flat(&self) -> Flat<'_> {
        Flat { blob: self.0, ..Flat::new(Kind::Opaque, [""; 4]) }
    }
}

/// A correlation is an entry too, though no event: the writer puts it where correlations belong. Who takes it from a caller has checked it: a
/// reader takes no other.
pub(super) fn flat_correlation(correlation: &CorrelationMetadata) -> Flat<'_> {
    debug_assert_eq!(correlation.check(), Ok(()), "the caller is told before");
    let parent = correlation.parent_correlation_id.as_deref().unwrap_or_default();
    let stage = correlation.workflow_stage.as_deref().unwrap_or_default();
    let strings = [&*correlation.correlation_id, parent, &correlation.root_correlation_id, stage];
    let mut flat = Flat::with_pairs(Kind::Correlation, strings, &correlation.correlation_tags);
    flat.flags = flag_if(correlation.parent_correlation_id.as_ref(), flag::PARENT)
        | flag_if(correlation.workflow_stage.as_ref(), flag::STAGE);
    flat.word_a = correlation.sequence_number;
    flat.set_time(correlation.created_at);
    flat
}
