//! The local event bus of the DaemonEye security monitor.
#![forbid(unsafe_code)]

mod batch;
mod correlation;
mod event;

pub use batch::{
    Batch, BatchEvent, BatchView, CorrelationRef, EventRef, EventTooLarge, Events, FilesystemEventRef,
    NetworkEventRef, Pairs, PerformanceEventRef, ProcessEventRef, TriggerRequestRef,
};
pub use correlation::CorrelationMetadata;
pub use event::{
    BusEvent, CollectionEvent, FilesystemEvent, NetworkEvent, PerformanceEvent, ProcessEvent, TriggerRequest,
};
