//! Why a client may not, or can't, do what it was asked for.

use super::Disconnected;
use crate::batch::EventTooLarge;
use crate::correlation::CorrelationError;
use crate::filter::FilterError;
use crate::topic::TopicError;
use crate::wire::Refusal;

/// Why a topic can't be published on. There is an example at [`EventBusClient::publisher`](crate::EventBusClient::publisher).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeclareError {
    /// The caller's: no such topic can be.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The broker does not grant it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The broker did not answer in time.
    #[error("the broker did not answer in time")]
    Timeout,
    /// The session is over.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

/// Why an event was not published. There is an example at [`EventBusClient::publish`](crate::EventBusClient::publish).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Its topic can't be published on.
    #[error(transparent)]
    Declare(#[from] DeclareError),
    /// The caller's: the event is above the limit.
    #[error(transparent)]
    TooLarge(#[from] EventTooLarge),
    /// The caller's: its correlation is above a limit.
    #[error(transparent)]
    Correlation(#[from] CorrelationError),
}

/// Why a subscription was not made. Nothing has changed. There is an example at [`EventBusClient::subscription`](crate::EventBusClient::subscription).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The caller's: no such pattern can be.
    #[error(transparent)]
    Pattern(#[from] TopicError),
    /// The caller's: no such filter can be.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The caller's: another of its subscriptions has this name.
    #[error("`{subscriber_id}` subscribes already")]
    IdTaken {
        /// The name.
        subscriber_id: String,
    },
    /// The caller's: what it reads by a channel of tokio is brought there by a task of the runtime that it calls from.
    #[error("there is no tokio runtime here")]
    NoRuntime,
    /// The caller's: no ring can have this size.
    #[error("a ring holds a power of two of bytes from 64 KiB to 1 GiB, not {0}")]
    RingBytes(usize),
    /// The broker does not grant it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The broker did not answer in time.
    #[error("the broker did not answer in time")]
    Timeout,
    /// The session is over.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}
