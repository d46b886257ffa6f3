//! Why a demo does not run to its end.

use std::io;
use std::time::Duration;

use daemoneye_eventbus::{
    ConnectError, DeclareError, Disconnected, EventBusError, EventTooLarge, RecvError, SubscribeError,
};

use super::peer::Role;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// This process can't have what a demo needs.
    #[error("no {what}: {source}")]
    Host { what: &'static str, source: io::Error },
    #[error("can't write: {0}")]
    Output(io::Error),
    #[error("which process this is can't be told: {0}")]
    OwnPid(&'static str),
    #[error("the broker does not run: {0}")]
    Start(#[from] EventBusError),
    #[error("no connection to the broker: {0}")]
    Connect(#[from] ConnectError),
    #[error("no publisher: {0}")]
    Declare(#[from] DeclareError),
    #[error("no subscription: {0}")]
    Subscribe(#[from] SubscribeError),
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    #[error("a process that does not fit into a record: {0}")]
    TooLarge(#[from] EventTooLarge),
    #[error(transparent)]
    Received(#[from] RecvError),
    #[error("the stream of events has ended")]
    StreamEnded,
    #[error("interrupted before anything was published")]
    Interrupted,
    #[error("the {role} failed: {reason}")]
    Peer { role: Role, reason: String },
    #[error("the {role} has ended before its time")]
    Gone { role: Role },
    #[error("the {role} did not answer within {deadline:?}")]
    Silent { role: Role, deadline: Duration },
}
