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
mod latency;
mod outbox;
mod queue;
mod received;
mod wait;

pub(crate) use chunk::Chunk;
pub(crate) use hub::Hub;
pub(crate) use inbox::{Desk, InEnd, Inbox, InboxCounters, Lineage, Served};
pub(crate) use latency::LatencyHistogram;
pub(crate) use outbox::{
    KeptShare, Line, Outbox, OutboxShared, Poured, Reader, RecordLimits, Relayed, RingEnd, RouteTarget, Wait,
};
pub(crate) use queue::{Item, Queue, Taken};
pub(crate) use received::Origin;

pub use outbox::Delivery;
pub use queue::{Losses, RecvError};
pub use received::ReceivedBatch;
pub use wait::WaitPolicy;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::{OrderId, PublisherId, RingId};

/// What the data plane has to tell the control plane.
#[derive(Debug)]
pub(crate) enum DataEvent {
    /// The other side of the ring broke its laws.
    Poisoned { ring: RingId, violation: String },
    /// The data thread takes records of a slot that was granted by this order.
    Granted { order: OrderId },
    /// The data thread counts this subscription in.
    Joined { subscription: u32 },
    /// The data thread knows that the broker of its rings is gone: what it says of grants from here on is for the next. These rings it had
    /// read to their end before.
    Detached { ended: Vec<RingId> },
    /// A ring whose broker is gone was read to its end.
    Ended { ring: RingId },
    /// Rings that a publisher lets go of. To unmap them takes milliseconds, which no publisher shall wait.
    Retired(Vec<shm::Producer>),
    /// A publisher waits for room in its rings.
    Wait(Wait),
    /// There is something to send of a ring that leads over the broker.
    Relay { ring: RingId },
    /// So much, in all, was read of one.
    Took { ring: RingId, cost: u64 },
}

/// A number of this process's own for a publisher, here or elsewhere; no other has it, or had it. It stays through all lives of a session.
fn own_number() -> PublisherId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    PublisherId(LAST.fetch_add(1, Ordering::Relaxed))
}

/// Where the data plane says it. The control plane's turn of reading it is bounded by the number of rings.
pub(crate) type DataEvents = tokio::sync::mpsc::UnboundedSender<DataEvent>;
