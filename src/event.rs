//! What collectors observe, as owned values.
//!
//! The structs are plain data with public fields: a collector fills in a literal and hands it over. On the way
//! through the bus they live in the flat layout (`batch`); a subscriber that reads by reference never
//! builds one of these.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::correlation::CorrelationMetadata;
use crate::hierarchy::names::{filesystem, network, performance, process, trigger};

/// An observation of any kind.
///
/// More kinds will come, so a `match` on it needs a catch-all arm.
///
/// ```
/// use daemoneye_eventbus::{CollectionEvent, FilesystemEvent};
/// use std::collections::HashMap;
///
/// let event = CollectionEvent::from(FilesystemEvent {
///     path: "/etc/passwd".to_string(),
///     event_type: "modify".to_string(),
///     size: Some(2_048),
///     metadata: HashMap::new(),
/// });
/// assert!(matches!(event, CollectionEvent::Filesystem(file) if file.size == Some(2_048)));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CollectionEvent {
    /// A process was seen.
    Process(ProcessEvent),
    /// A network connection was seen.
    Network(NetworkEvent),
    /// A file was touched.
    Filesystem(FilesystemEvent),
    /// A metric was sampled.
    Performance(PerformanceEvent),
    /// One collector asks another for a closer look.
    TriggerRequest(TriggerRequest),
}

/// A process, as one scan or one lifecycle notice saw it.
///
/// ```
/// use daemoneye_eventbus::ProcessEvent;
/// use std::collections::HashMap;
/// use std::time::SystemTime;
///
/// let process = ProcessEvent {
///     pid: 1_234,
///     name: "sshd".to_string(),
///     command_line: Some("/usr/sbin/sshd -D".to_string()),
///     executable_path: Some("/usr/sbin/sshd".to_string()),
///     ppid: Some(1),
///     start_time: Some(SystemTime::now()),
///     metadata: HashMap::from([("user".to_string(), "root".to_string())]),
/// };
/// assert_eq!(process.metadata["user"], "root");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEvent {
    /// The process id.
    pub pid: u32,
    /// The short name, as the kernel gives it.
    pub name: String,
    /// The command line, arguments joined by spaces; `None` where it could not be read.
    pub command_line: Option<String>,
    /// The path of the executable; `None` where it could not be read.
    pub executable_path: Option<String>,
    /// The parent's process id.
    pub ppid: Option<u32>,
    /// When the process started.
    pub start_time: Option<SystemTime>,
    /// Whatever else the collector knows, by name.
    pub metadata: HashMap<String, String>,
}

/// A network connection.
///
/// ```
/// use daemoneye_eventbus::NetworkEvent;
/// use std::collections::HashMap;
///
/// let connection = NetworkEvent {
///     connection_id: "tcp-7".to_string(),
///     source_address: "10.0.0.2:50122".to_string(),
///     destination_address: "10.0.0.9:443".to_string(),
///     protocol: "tcp".to_string(),
///     metadata: HashMap::new(),
/// };
/// assert_eq!(connection.protocol, "tcp");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkEvent {
    /// The collector's name for this connection.
    pub connection_id: String,
    /// Address and port of the side that opened it.
    pub source_address: String,
    /// Address and port of the side that accepted it.
    pub destination_address: String,
    /// The transport protocol, for example `tcp`.
    pub protocol: String,
    /// Whatever else the collector knows, by name.
    pub metadata: HashMap<String, String>,
}

/// Something that happened to a file.
///
/// ```
/// use daemoneye_eventbus::FilesystemEvent;
/// use std::collections::HashMap;
///
/// let removal = FilesystemEvent {
///     path: "/tmp/dropper".to_string(),
///     event_type: "delete".to_string(),
///     size: None,
///     metadata: HashMap::new(),
/// };
/// assert_eq!(removal.size, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemEvent {
    /// The path of the file.
    pub path: String,
    /// What happened, for example `modify`.
    pub event_type: String,
    /// The size of the file afterwards, in bytes; `None` where there is none or it is unknown.
    pub size: Option<u64>,
    /// Whatever else the collector knows, by name.
    pub metadata: HashMap<String, String>,
}

/// One sample of one metric.
///
/// ```
/// use daemoneye_eventbus::PerformanceEvent;
/// use std::collections::HashMap;
///
/// let load = PerformanceEvent {
///     metric_name: "load.1m".to_string(),
///     value: 0.75,
///     unit: "runnable".to_string(),
///     metadata: HashMap::new(),
/// };
/// assert!(load.value < 1.0);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PerformanceEvent {
    /// The metric's name.
    pub metric_name: String,
    /// The sampled value, in `unit`. Any bit pattern travels unchanged, NaN included.
    pub value: f64,
    /// The unit of `value`.
    pub unit: String,
    /// Whatever else the collector knows, by name.
    pub metadata: HashMap<String, String>,
}

/// A request that a collector of a given type look closer at something.
///
/// ```
/// use daemoneye_eventbus::TriggerRequest;
/// use std::collections::HashMap;
///
/// let request = TriggerRequest {
///     request_id: "scan-7".to_string(),
///     collector_type: "yara".to_string(),
///     priority: 200,
///     payload: b"/tmp/dropper".to_vec(),
///     metadata: HashMap::new(),
/// };
/// assert_eq!(request.payload.len(), 12);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerRequest {
    /// The requester's name for this request.
    pub request_id: String,
    /// The type of collector that is asked.
    pub collector_type: String,
    /// How urgent it is; higher is more urgent.
    pub priority: u8,
    /// Bytes that the two collectors agree on; the bus does not look inside.
    pub payload: Vec<u8>,
    /// Whatever else the requester wants to say, by name.
    pub metadata: HashMap<String, String>,
}

/// An event as it came off the bus, with what the bus knows about it.
///
/// It says nothing about who received it, so that one allocation serves every subscriber in the process.
///
/// ```
/// use daemoneye_eventbus::{BusEvent, CorrelationMetadata, PerformanceEvent};
/// use std::collections::HashMap;
/// use std::time::SystemTime;
///
/// let sample = PerformanceEvent {
///     metric_name: "load.1m".to_string(),
///     value: 0.75,
///     unit: "runnable".to_string(),
///     metadata: HashMap::new(),
/// };
/// let event = BusEvent {
///     event_id: "perfmond-1".to_string(),
///     event: sample.into(),
///     correlation_metadata: CorrelationMetadata::new("scan-42".to_string()),
///     bus_timestamp: SystemTime::now(),
/// };
/// assert_eq!(event.correlation_id(), "scan-42");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BusEvent {
    /// Unique on this host: made from the publisher's identity and its own count of events.
    pub event_id: String,
    /// What was observed.
    pub event: CollectionEvent,
    /// The workflow that the event belongs to.
    pub correlation_metadata: CorrelationMetadata,
    /// When the publisher published it. A claim of the publisher, not a measurement of the bus.
    pub bus_timestamp: SystemTime,
}

impl BusEvent {
    /// The correlation id of the workflow that the event belongs to.
    #[must_use]
    pub fn correlation_id(&self) -> &str {
        &self.correlation_metadata.correlation_id
    }
}

impl CollectionEvent {
    /// The topic that an event of this kind is published on unless another is named.
    #[must_use]
    pub const fn default_topic(&self) -> &'static str {
        match self {
            Self::Process(_) => process::LIFECYCLE,
            Self::Network(_) => network::EVENT,
            Self::Filesystem(_) => filesystem::EVENT,
            Self::Performance(_) => performance::EVENT,
            Self::TriggerRequest(_) => trigger::REQUEST,
        }
    }
}

impl From<ProcessEvent> for CollectionEvent {
    fn from(event: ProcessEvent) -> Self {
        Self::Process(event)
    }
}

impl From<NetworkEvent> for CollectionEvent {
    fn from(event: NetworkEvent) -> Self {
        Self::Network(event)
    }
}

impl From<FilesystemEvent> for CollectionEvent {
    fn from(event: FilesystemEvent) -> Self {
        Self::Filesystem(event)
    }
}

impl From<PerformanceEvent> for CollectionEvent {
    fn from(event: PerformanceEvent) -> Self {
        Self::Performance(event)
    }
}

impl From<TriggerRequest> for CollectionEvent {
    fn from(event: TriggerRequest) -> Self {
        Self::TriggerRequest(event)
    }
}
