//! The local event bus of the DaemonEye security monitor.
#![forbid(unsafe_code)]

mod access;
mod batch;
mod broker;
mod bus;
mod client;
mod config;
mod control;
mod correlation;
mod dataplane;
mod event;
mod hierarchy;
mod link;
mod routing;
mod sys;
mod topic;
mod wire;

pub use access::{AccessPolicy, Component, ComponentError, Denial, Narrowed, Withheld};
pub use batch::{
    Batch, BatchEvent, BatchView, CorrelationRef, EventRef, EventTooLarge, Events, FilesystemEventRef,
    NetworkEventRef, Pairs, PerformanceEventRef, ProcessEventRef, TriggerRequestRef,
};
pub use broker::{BrokerOptions, DaemoneyeBroker, StartError};
pub use bus::{DaemoneyeEventBus, EventBus};
pub use client::{
    BatchBuilder, ClientStatistics, ConnectError, ConnectOptions, DeclareError, Disconnected, EventBusClient,
    EventReceiver, PublishError, Publisher, SubscribeError, Subscription,
};
pub use correlation::CorrelationMetadata;
pub use dataplane::{Delivery, ReceivedBatch, RecvError};
pub use event::{
    BusEvent, CollectionEvent, FilesystemEvent, NetworkEvent, PerformanceEvent, ProcessEvent, TriggerRequest,
};
pub use hierarchy::TopicAccessLevel;
pub use sys::ListenError;
pub use topic::{Topic, TopicError, TopicPattern};
pub use wire::{GoodbyeReason, Refusal, Versions};
