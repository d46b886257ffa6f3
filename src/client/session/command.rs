//! What the handles of a client ask of its session.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::super::{DeclareError, Disconnected, StatisticsError, SubscribeError, Subscribed};
use crate::dataplane::OutboxShared;
use crate::routing::TopicId;
use crate::statistics::BrokerStatistics;
use crate::topic::{Topic, TopicPattern};

/// Where an answer is waited for.
pub(crate) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

#[derive(Debug)]
pub(crate) enum Command {
    /// A publisher of this number exists; it asks for nothing yet.
    OpenPublisher {
        publisher: u32,
        outbox: Arc<OutboxShared>,
    },
    Declare {
        publisher: u32,
        topic: Topic,
        reply: Reply<TopicId, DeclareError>,
    },
    ClosePublisher {
        publisher: u32,
    },
    /// The subscription is in the hub already.
    Subscribe {
        subscription: u32,
        patterns: Vec<TopicPattern>,
        ring_bytes: Option<u64>,
        reply: Reply<Subscribed, SubscribeError>,
    },
    Unsubscribe {
        subscription: u32,
    },
    /// Let some time pass.
    Sleep {
        longest: Duration,
        reply: Reply<(), Disconnected>,
    },
    /// What the broker knows.
    Statistics {
        reply: Reply<BrokerStatistics, StatisticsError>,
    },
}

pub(crate) type Commands = mpsc::UnboundedSender<Command>;
