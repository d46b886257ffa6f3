//! Entries as events: accessors named as the fields of the owned kinds. The way there stands in `encode.rs`.
//!
//! `to_owned` takes a reference: by value, the one found on a reference to one of these would be that of `ToOwned`,
//! which only copies.

use std::fmt;
use std::time::SystemTime;

use super::fields::{Fields, Pairs};
use super::layout::{Kind, flag, split};
use crate::correlation::{CorrelationError, CorrelationMetadata, limits};
use crate::event::{
    CollectionEvent, FilesystemEvent, NetworkEvent, PerformanceEvent, ProcessEvent, TriggerRequest,
};

/// An event of any kind, read in place.
///
/// More kinds will come, so a `match` on it needs a catch-all arm.
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata, EventRef, PerformanceEvent};
/// use std::collections::HashMap;
/// use std::time::SystemTime;
///
/// fn subject(event: EventRef<'_>) -> &str {
///     match event {
///         EventRef::Process(process) => process.name(),
///         EventRef::Performance(sample) => sample.metric_name(),
///         _ => "something else",
///     }
/// }
///
/// let load = PerformanceEvent {
///     metric_name: "load.1m".to_string(),
///     value: 0.75,
///     unit: "runnable".to_string(),
///     metadata: HashMap::new(),
/// };
/// let batch = Batch::of(&load, &CorrelationMetadata::default(), SystemTime::now())?;
/// for event in batch.view() {
///     assert_eq!(subject(event), "load.1m");
///     assert_eq!(event.to_owned(), Some(load.clone().into()));
/// }
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum EventRef<'a> {
    /// A process was seen.
    Process(ProcessEventRef<'a>),
    /// A network connection was seen.
    Network(NetworkEventRef<'a>),
    /// A file was touched.
    Filesystem(FilesystemEventRef<'a>),
    /// A metric was sampled.
    Performance(PerformanceEventRef<'a>),
    /// One collector asks another for a closer look.
    Trigger(TriggerRequestRef<'a>),
    /// Bytes that the bus does not look into.
    Opaque(&'a [u8]),
}

impl<'a> EventRef<'a> {
    #[inline]
    pub(super) fn new(fields: Fields<'a>, blobs: &'a [u8]) -> Self {
        match Kind::of(fields.entry.kind) {
            Some(Kind::Process) => Self::Process(ProcessEventRef { fields }),
            Some(Kind::Network) => Self::Network(NetworkEventRef { fields }),
            Some(Kind::Filesystem) => Self::Filesystem(FilesystemEventRef { fields }),
            Some(Kind::Performance) => Self::Performance(PerformanceEventRef { fields }),
            Some(Kind::Trigger) => Self::Trigger(TriggerRequestRef { fields, payload: fields.blob(blobs) }),
            Some(Kind::Opaque) => Self::Opaque(fields.blob(blobs)),
            Some(Kind::Correlation) | None => unreachable!("kinds were checked when the record was parsed"),
        }
    }

    /// The event as a value of its own; `None` for opaque bytes, which have no kind.
    #[must_use]
    #[inline]
    pub fn to_owned(&self) -> Option<CollectionEvent> {
        Some(match self {
            Self::Process(event) => event.to_owned().into(),
            Self::Network(event) => event.to_owned().into(),
            Self::Filesystem(event) => event.to_owned().into(),
            Self::Performance(event) => event.to_owned().into(),
            Self::Trigger(event) => event.to_owned().into(),
            Self::Opaque(_) => return None,
        })
    }
}

/// A process, read in place; see [`ProcessEvent`].
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata, EventRef, ProcessEvent};
/// use std::collections::HashMap;
/// use std::time::UNIX_EPOCH;
///
/// let event = ProcessEvent {
///     pid: 7,
///     name: "sshd".to_string(),
///     command_line: Some("sshd -D".to_string()),
///     executable_path: None,
///     ppid: Some(1),
///     start_time: Some(UNIX_EPOCH),
///     metadata: HashMap::from([("user".to_string(), "root".to_string())]),
/// };
/// let batch = Batch::of(&event, &CorrelationMetadata::default(), UNIX_EPOCH)?;
/// let Some(EventRef::Process(process)) = batch.view().iter().next() else { panic!("not what was pushed") };
/// assert_eq!((process.pid(), process.name()), (7, "sshd"));
/// assert_eq!(process.executable_path(), None);
/// assert_eq!(process.metadata().next(), Some(("user", "root")));
/// assert_eq!(process.to_owned(), event);
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct ProcessEventRef<'a> {
    fields: Fields<'a>,
}

impl<'a> ProcessEventRef<'a> {
    /// The process id.
    #[must_use]
    #[inline]
    pub fn pid(&self) -> u32 {
        split(self.fields.entry.word_a.get()).0
    }

    /// The short name, as the kernel gives it.
    #[must_use]
    #[inline]
    pub fn name(&self) -> &'a str {
        self.fields.string(0)
    }

    /// The command line; `None` where it could not be read.
    #[must_use]
    #[inline]
    pub fn command_line(&self) -> Option<&'a str> {
        self.fields.string_if(flag::COMMAND_LINE, 1)
    }

    /// The path of the executable; `None` where it could not be read.
    #[must_use]
    #[inline]
    pub fn executable_path(&self) -> Option<&'a str> {
        self.fields.string_if(flag::EXECUTABLE_PATH, 2)
    }

    /// The parent's process id.
    #[must_use]
    #[inline]
    pub fn ppid(&self) -> Option<u32> {
        self.fields.has(flag::PPID).then(|| split(self.fields.entry.word_a.get()).1)
    }

    /// When the process started.
    #[must_use]
    #[inline]
    pub fn start_time(&self) -> Option<SystemTime> {
        self.fields.has(flag::START_TIME).then(|| self.fields.time())
    }

    /// Whatever else the collector knows, by name.
    #[must_use]
    #[inline]
    pub fn metadata(&self) -> Pairs<'a> {
        self.fields.pairs()
    }

    /// The event as a value of its own.
    #[must_use]
    #[inline]
    pub fn to_owned(&self) -> ProcessEvent {
        ProcessEvent {
            pid: self.pid(),
            name: self.name().to_owned(),
            command_line: self.command_line().map(str::to_owned),
            executable_path: self.executable_path().map(str::to_owned),
            ppid: self.ppid(),
            start_time: self.start_time(),
            metadata: self.metadata().to_map(),
        }
    }
}

impl fmt::Debug for ProcessEventRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_owned().fmt(f)
    }
}

/// A network connection, read in place; see [`NetworkEvent`].
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata, EventRef, NetworkEvent};
/// use std::collections::HashMap;
/// use std::time::SystemTime;
///
/// let event = NetworkEvent {
///     connection_id: "tcp-7".to_string(),
///     source_address: "10.0.0.2:50122".to_string(),
///     destination_address: "10.0.0.9:443".to_string(),
///     protocol: "tcp".to_string(),
///     metadata: HashMap::new(),
/// };
/// let batch = Batch::of(&event, &CorrelationMetadata::default(), SystemTime::now())?;
/// let Some(EventRef::Network(connection)) = batch.view().iter().next() else { panic!("not what was pushed") };
/// assert_eq!(connection.destination_address(), "10.0.0.9:443");
/// assert_eq!(connection.to_owned(), event);
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct NetworkEventRef<'a> {
    fields: Fields<'a>,
}

impl<'a> NetworkEventRef<'a> {
    /// The collector's name for this connection.
    #[must_use]
    #[inline]
    pub fn connection_id(&self) -> &'a str {
        self.fields.string(0)
    }

    /// Address and port of the side that opened it.
    #[must_use]
    #[inline]
    pub fn source_address(&self) -> &'a str {
        self.fields.string(1)
    }

    /// Address and port of the side that accepted it.
    #[must_use]
    #[inline]
    pub fn destination_address(&self) -> &'a str {
        self.fields.string(2)
    }

    /// The transport protocol.
    #[must_use]
    #[inline]
    pub fn protocol(&self) -> &'a str {
        self.fields.string(3)
    }

    /// Whatever else the collector knows, by name.
    #[must_use]
    #[inline]
    pub fn metadata(&self) -> Pairs<'a> {
        self.fields.pairs()
    }

    /// The event as a value of its own.
    #[must_use]
    #[inline]
    pub fn to_owned(&self) -> NetworkEvent {
        NetworkEvent {
            connection_id: self.connection_id().to_owned(),
            source_address: self.source_address().to_owned(),
            destination_address: self.destination_address().to_owned(),
            protocol: self.protocol().to_owned(),
            metadata: self.metadata().to_map(),
        }
    }
}

impl fmt::Debug for NetworkEventRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_owned().fmt(f)
    }
}

/// Something that happened to a file, read in place; see [`FilesystemEvent`].
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata, EventRef, FilesystemEvent};
/// use std::collections::HashMap;
/// use std::time::SystemTime;
///
/// let event = FilesystemEvent {
///     path: "/etc/passwd".to_string(),
///     event_type: "modify".to_string(),
///     size: Some(2_048),
///     metadata: HashMap::new(),
/// };
/// let batch = Batch::of(&event, &CorrelationMetadata::default(), SystemTime::now())?;
/// let Some(EventRef::Filesystem(file)) = batch.view().iter().next() else { panic!("not what was pushed") };
/// assert_eq!((file.path(), file.size()), ("/etc/passwd", Some(2_048)));
/// assert_eq!(file.to_owned(), event);
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct FilesystemEventRef<'a> {
    fields: Fields<'a>,
}

impl<'a> FilesystemEventRef<'a> {
    /// The path of the file.
    #[must_use]
    #[inline]
    pub fn path(&self) -> &'a str {
        self.fields.string(0)
    }

    /// What happened.
    #[must_use]
    #[inline]
    pub fn event_type(&self) -> &'a str {
        self.fields.string(1)
    }

    /// The size of the file afterwards, in bytes.
    #[must_use]
    #[inline]
    pub fn size(&self) -> Option<u64> {
        self.fields.has(flag::SIZE).then(|| self.fields.entry.word_a.get())
    }

    /// Whatever else the collector knows, by name.
    #[must_use]
    #[inline]
    pub fn metadata(&self) -> Pairs<'a> {
        self.fields.pairs()
    }

    /// The event as a value of its own.
    #[must_use]
    #[inline]
    pub fn to_owned(&self) -> FilesystemEvent {
        FilesystemEvent {
            path: self.path().to_owned(),
            event_type: self.event_type().to_owned(),
            size: self.size(),
            metadata: self.metadata().to_map(),
        }
    }
}

impl fmt::Debug for FilesystemEventRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_owned().fmt(f)
    }
}

/// A sample of a metric, read in place; see [`PerformanceEvent`].
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata, EventRef, PerformanceEvent};
/// use std::collections::HashMap;
/// use std::time::SystemTime;
///
/// let event = PerformanceEvent {
///     metric_name: "load.1m".to_string(),
///     value: 0.75,
///     unit: "runnable".to_string(),
///     metadata: HashMap::new(),
/// };
/// let batch = Batch::of(&event, &CorrelationMetadata::default(), SystemTime::now())?;
/// let Some(EventRef::Performance(load)) = batch.view().iter().next() else { panic!("not what was pushed") };
/// assert_eq!((load.value(), load.unit()), (0.75, "runnable"));
/// assert_eq!(load.to_owned(), event);
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct PerformanceEventRef<'a> {
    fields: Fields<'a>,
}

impl<'a> PerformanceEventRef<'a> {
    /// The metric's name.
    #[must_use]
    #[inline]
    pub fn metric_name(&self) -> &'a str {
        self.fields.string(0)
    }

    /// The sampled value, in [`unit`](Self::unit).
    #[must_use]
    #[inline]
    pub fn value(&self) -> f64 {
        f64::from_bits(self.fields.entry.word_a.get())
    }

    /// The unit of the value.
    #[must_use]
    #[inline]
    pub fn unit(&self) -> &'a str {
        self.fields.string(1)
    }

    /// Whatever else the collector knows, by name.
    #[must_use]
    #[inline]
    pub fn metadata(&self) -> Pairs<'a> {
        self.fields.pairs()
    }

    /// The event as a value of its own.
    #[must_use]
    #[inline]
    pub fn to_owned(&self) -> PerformanceEvent {
        PerformanceEvent {
            metric_name: self.metric_name().to_owned(),
            value: self.value(),
            unit: self.unit().to_owned(),
            metadata: self.metadata().to_map(),
        }
    }
}

impl fmt::Debug for PerformanceEventRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_owned().fmt(f)
    }
}

/// A request for a closer look, read in place; see [`TriggerRequest`].
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata, EventRef, TriggerRequest};
/// use std::collections::HashMap;
/// use std::time::SystemTime;
///
/// let event = TriggerRequest {
///     request_id: "scan-7".to_string(),
///     collector_type: "yara".to_string(),
///     priority: 200,
///     payload: b"/tmp/dropper".to_vec(),
///     metadata: HashMap::new(),
/// };
/// let batch = Batch::of(&event, &CorrelationMetadata::default(), SystemTime::now())?;
/// let Some(EventRef::Trigger(request)) = batch.view().iter().next() else { panic!("not what was pushed") };
/// assert_eq!((request.priority(), request.payload()), (200, &b"/tmp/dropper"[..]));
/// assert_eq!(request.to_owned(), event);
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct TriggerRequestRef<'a> {
    fields: Fields<'a>,
    payload: &'a [u8],
}

impl<'a> TriggerRequestRef<'a> {
    /// The requester's name for this request.
    #[must_use]
    #[inline]
    pub fn request_id(&self) -> &'a str {
        self.fields.string(0)
    }

    /// The type of collector that is asked.
    #[must_use]
    #[inline]
    pub fn collector_type(&self) -> &'a str {
        self.fields.string(1)
    }

    /// How urgent it is; higher is more urgent.
    #[must_use]
    #[inline]
    pub fn priority(&self) -> u8 {
        self.fields.entry.word_b.get() as u8
    }

    /// Bytes that the two collectors agree on.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whatever else the requester wants to say, by name.
    #[must_use]
    #[inline]
    pub fn metadata(&self) -> Pairs<'a> {
        self.fields.pairs()
    }

    /// The event as a value of its own.
    #[must_use]
    #[inline]
    pub fn to_owned(&self) -> TriggerRequest {
        TriggerRequest {
            request_id: self.request_id().to_owned(),
            collector_type: self.collector_type().to_owned(),
            priority: self.priority(),
            payload: self.payload().to_vec(),
            metadata: self.metadata().to_map(),
        }
    }
}

impl fmt::Debug for TriggerRequestRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_owned().fmt(f)
    }
}

/// A correlation, read in place; see [`CorrelationMetadata`].
///
/// ```
/// use daemoneye_eventbus::{Batch, CorrelationMetadata};
/// # use daemoneye_eventbus::PerformanceEvent;
/// # use std::collections::HashMap;
/// # use std::time::SystemTime;
///
/// # let event = PerformanceEvent {
/// #     metric_name: "load.1m".to_string(),
/// #     value: 0.75,
/// #     unit: "runnable".to_string(),
/// #     metadata: HashMap::new(),
/// # };
/// let scan = CorrelationMetadata::new("scan-42".to_string()).with_stage("collection".to_string());
/// let batch = Batch::of(&event, &scan, SystemTime::now())?;
/// let correlation = batch.view().correlation_of(0);
/// assert_eq!(correlation.workflow_stage(), Some("collection"));
/// assert_eq!(correlation.to_owned(), scan);
/// # Ok::<(), daemoneye_eventbus::EncodeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct CorrelationRef<'a> {
    fields: Fields<'a>,
}

impl<'a> CorrelationRef<'a> {
    pub(super) const fn new(fields: Fields<'a>) -> Self {
        Self { fields }
    }

    /// The id of this node.
    #[must_use]
    #[inline]
    pub fn correlation_id(&self) -> &'a str {
        self.fields.string(0)
    }

    /// The id of the node that this one was derived from; `None` for a root.
    #[must_use]
    #[inline]
    pub fn parent_correlation_id(&self) -> Option<&'a str> {
        self.fields.string_if(flag::PARENT, 1)
    }

    /// The id of the root: the whole workflow.
    #[must_use]
    #[inline]
    pub fn root_correlation_id(&self) -> &'a str {
        self.fields.string(2)
    }

    /// A position within the workflow.
    #[must_use]
    #[inline]
    pub fn sequence_number(&self) -> u64 {
        self.fields.entry.word_a.get()
    }

    /// The stage that the workflow is in.
    #[must_use]
    #[inline]
    pub fn workflow_stage(&self) -> Option<&'a str> {
        self.fields.string_if(flag::STAGE, 3)
    }

    /// When this node was created.
    #[must_use]
    #[inline]
    pub fn created_at(&self) -> SystemTime {
        self.fields.time()
    }

    /// Tags by name.
    #[must_use]
    #[inline]
    pub fn correlation_tags(&self) -> Pairs<'a> {
        self.fields.pairs()
    }

    /// Whether it keeps the limits of a [`CorrelationMetadata`]. Allocates nothing.
    pub(super) fn check(&self) -> Result<(), CorrelationError> {
        limits::check_id(self.correlation_id())?;
        limits::check_id(self.root_correlation_id())?;
        self.parent_correlation_id().map_or(Ok(()), limits::check_id)?;
        self.workflow_stage().map_or(Ok(()), limits::check_stage)?;
        limits::check_tag_count(self.correlation_tags().len())?;
        self.correlation_tags().try_for_each(|(name, value)| limits::check_tag(name, value))
    }

    /// The correlation as a value of its own.
    #[must_use]
    #[inline]
    pub fn to_owned(&self) -> CorrelationMetadata {
        CorrelationMetadata {
            correlation_id: self.correlation_id().to_owned(),
            parent_correlation_id: self.parent_correlation_id().map(str::to_owned),
            root_correlation_id: self.root_correlation_id().to_owned(),
            sequence_number: self.sequence_number(),
            workflow_stage: self.workflow_stage().map(str::to_owned),
            created_at: self.created_at(),
            correlation_tags: self.correlation_tags().to_map(),
        }
    }
}

impl fmt::Debug for CorrelationRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_owned().fmt(f)
    }
}
