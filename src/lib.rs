//! The local event bus of the DaemonEye security monitor.
#![forbid(unsafe_code)]

mod correlation;
mod event;

pub use correlation::CorrelationMetadata;
pub use event::{
    BusEvent, CollectionEvent, FilesystemEvent, NetworkEvent, PerformanceEvent, ProcessEvent, TriggerRequest,
};
