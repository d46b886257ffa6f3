//! Events between processes, and within one: publishers write into rings, one data thread per process reads them.
//!
//! ```text
//!   Publisher ─ outbox ─┬─ ring ──► inbox (data thread) ─┬─ queue ──► Subscription
//!                       ├─ ring ──► …  another process   └─ queue ──► Subscription
//!                       └─ hub ───────────── queue ──► Subscription of the same process
//! ```
//!
//! The control plane tells an outbox where its topics go, and an inbox which rings there are and what their slots carry. Neither
//! ever waits for it, nor for each other.

mod chunk;
mod hub;
mod inbox;
mod outbox;
mod queue;
mod received;
mod wait;

pub(crate) use chunk::Chunk;
pub(crate) use hub::Hub;
pub(crate) use inbox::{Desk, Inbox, InboxCounters, Served};
pub(crate) use outbox::{Outbox, OutboxShared, RecordLimits, RouteTarget, Wait};
pub(crate) use queue::{Item, Queue, Taken};
pub(crate) use received::Origin;

pub use outbox::Delivery;
pub use queue::{Losses, RecvError};
pub use received::ReceivedBatch;
pub use wait::WaitPolicy;

use crate::wire::{OrderId, RingId};

/// What the data plane has to tell the control plane.
#[derive(Debug)]
pub(crate) enum DataEvent {
    /// The other side of the ring broke its laws.
    Poisoned { ring: RingId, violation: String },
    /// The data thread takes records of a slot that was granted by this order.
    Granted { order: OrderId },
    /// The data thread counts this subscription in.
    Joined { subscription: u32 },
    /// Rings that a publisher lets go of. To unmap them takes milliseconds, which no publisher shall wait.
    Retired(Vec<shm::Producer>),
    /// A publisher waits for room in its rings.
    Wait(Wait),
}

/// Where the data plane says it. The control plane's turn of reading it is bounded by the number of rings.
pub(crate) type DataEvents = tokio::sync::mpsc::UnboundedSender<DataEvent>;
