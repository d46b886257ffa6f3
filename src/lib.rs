//! The local event bus of the DaemonEye security monitor: publish/subscribe between the processes of one host.
//!
//! Collectors publish bursts of typed events, the agent embeds the broker and subscribes. Control goes over a socket, where the
//! broker checks every message; bulk events go from the publisher's process straight to each subscriber's, over a lock-free ring
//! in sealed shared memory. What a slow subscriber loses is counted, and told to it, exactly.
//!
//! What it does **not** do: it does not cross hosts, does not store events, and never makes a publisher wait for a subscriber.
//! Delivery is at most once. It runs on Linux only, so far: elsewhere it compiles,
//! and whoever listens or connects is told that the platform is not supported.
//!
//! ```
//! use daemoneye_eventbus::{
//!     CollectionEvent, DaemoneyeBroker, DaemoneyeEventBus, EventBus, ProcessEvent,
//! };
//! use std::collections::HashMap;
//! use std::time::SystemTime;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   let folder = tempfile::tempdir()?;
//! #   let path = folder.path().join("daemoneye.sock");
//! #   let path = path.to_str().ok_or("a path of UTF-8")?;
//!     // Start embedded broker
//! #   /*
//!     let broker = DaemoneyeBroker::new("/tmp/daemoneye.sock").await?;
//! #   */
//! #   let broker = DaemoneyeBroker::new(path).await?;
//!     let mut event_bus = DaemoneyeEventBus::from_broker(broker).await?;
//!
//!     // Subscribe before publishing: an event goes to those who are there.
//!     let mut events = event_bus.subscription(&["events.process.#"]).await?.into_events();
//!
//!     // Create a process event
//!     let process_event = ProcessEvent {
//!         pid: 1234,
//!         name: "example_process".to_string(),
//!         command_line: Some("example_process --arg".to_string()),
//!         executable_path: Some("/usr/bin/example_process".to_string()),
//!         ppid: Some(1000),
//!         start_time: Some(SystemTime::now()),
//!         metadata: HashMap::new(),
//!     };
//!
//!     // Publish the event - returns Result and uses ? operator for error propagation
//!     event_bus
//!         .publish(
//!             CollectionEvent::Process(process_event.clone()),
//!             "correlation-123".to_string(),
//!         )
//!         .await?;
//!
//!     let received = events.recv().await.ok_or("the bus is gone")?;
//!     assert_eq!(received.event, CollectionEvent::Process(process_event));
//!     assert_eq!(received.correlation_id(), "correlation-123");
//!     Ok(())
//! }
//! ```
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
mod error;
mod event;
mod filter;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hidden;
mod hierarchy;
mod identity;
mod instance;
mod link;
mod message;
mod routing;
mod statistics;
mod sys;
mod topic;
pub mod topics;
mod wire;

pub use access::{
    AccessPolicy, Component, ComponentError, Denial, LoadPolicyError, Narrowed, PolicyError, Withheld,
};
pub use batch::{
    Batch, BatchEvent, BatchView, CorrelationRef, EncodeError, EventRef, EventTooLarge, Events,
    FilesystemEventRef, NetworkEventRef, NotAnEvent, Opaque, Pairs, PerformanceEventRef, ProcessEventRef,
    TriggerRequestRef,
};
pub use broker::{
    BrokerOptions, DaemoneyeBroker, Departure, Membership, MembershipChange, Missed, Poisoning, Presence,
    RefusalCount, ReloadError, TokenTerms,
};
pub use bus::{
    ClientConfig, CorrelationTrackerConfig, DaemoneyeEventBus, EventBus, RateLimitConfig, SocketConfig,
};
pub use client::{
    BatchBuilder, Call, ClientStatistics, ConnectError, ConnectOptions, Connection, ControlError,
    DeclareError, Disconnected, EventBusClient, EventReceiver, MessageReceiver, Nothing, PublishError,
    Publisher, ReplyError, RequestError, Responder, Response, ReturnPace, ReturnPaceError, SessionTerm,
    StatisticsError, SubscribeError, SubscribeOptions, Subscription, Unread,
};
pub use control::{Member, PolicyChange, RingCharge};
pub use correlation::{CorrelationError, CorrelationMetadata};
pub use dataplane::{Delivery, Losses, ReceivedBatch, RecvError, WaitPolicy};
pub use error::{EventBusError, NotSubscribed, Result, StartError};
pub use event::{
    BusEvent, CollectionEvent, FilesystemEvent, NetworkEvent, PerformanceEvent, ProcessEvent, TriggerRequest,
};
pub use filter::{CorrelationFilter, EventFilter, EventSubscription, FilterError, SourceCaps};
pub use hierarchy::TopicAccessLevel;
pub use identity::LaunchToken;
pub use instance::{Instance, InstanceError};
pub use message::{Message, MessageError, MessageType};
pub use shm::Backing;
pub use statistics::{
    BrokerStatistics, DepartedStatistics, EventBusStatistics, PoisoningStatistics, PublisherStatistics,
    RefusalStatistics, RingStatistics, RouteStatistics, SessionStatistics, ShareStatistics,
    SubscriptionStatistics, TopicStatistics, TurnoverStatistics,
};
pub use sys::{FileError, ListenError, SocketEnd, SocketGroup};
pub use topic::{Topic, TopicError, TopicPattern};
pub use wire::{
    Answer, GoodbyeReason, Identity, Latencies, Needed, Payer, ReceivedClaim, Refusal, Resource, RingClaim,
    RingPath, RingState, RouteClaim, Sharer, SubscriptionClaim, TopicClaim, TotalClaim, Versions,
};

/// The examples of the front page compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So do those of these pages.
#[cfg(doctest)]
#[doc = include_str!("../docs/topic-hierarchy.md")]
struct TopicsPage;

#[cfg(doctest)]
#[doc = include_str!("../docs/correlation-metadata.md")]
struct CorrelationPage;
