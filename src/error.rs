//! What the calls that DaemonEye knows by name fail with: one error for all of them, with the precise one in it.

use std::fmt;
use std::io;

use crate::client::{ConnectError, ControlError, DeclareError, PublishError, SubscribeError};
use crate::message::MessageError;
use crate::sys::ListenError;
use crate::topic::TopicError;
use crate::wire::Refusal;

/// What most calls of [`EventBus`](crate::EventBus) and [`DaemoneyeBroker`](crate::DaemoneyeBroker) come to.
pub type Result<T> = std::result::Result<T, EventBusError>;

/// Why something on the bus could not be done. Nothing has changed then.
///
/// The bus itself says it precisely, by the kinds that hold an error of their own. Those that hold a text are for who implements
/// [`EventBus`](crate::EventBus), or passes its own failures on as those of a bus. More will come, so a `match` on it needs a catch-all arm.
///
/// ```
/// use daemoneye_eventbus::{DaemoneyeBroker, EventBusError, Refusal, Topic};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = DaemoneyeBroker::new("/nowhere/bus.sock").await?;
/// let refused = broker.publish("weather.today", "scan-1", Vec::new()).await.expect_err("no such topic is anybody's");
/// assert!(matches!(refused.refusal(), Some(Refusal::Access(_))));
/// assert!(!refused.is_timeout());
///
/// let own = EventBusError::transport("the tunnel is down");
/// assert_eq!(own.to_string(), "transport: the tunnel is down");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventBusError {
    /// A way between processes does not work.
    #[error("transport: {0}")]
    Transport(String),
    /// Something can't be written as bytes, or read from them.
    #[error("serialization: {0}")]
    Serialization(String),
    /// No such topic or pattern can be.
    #[error("topic: {0}")]
    Topic(String),
    /// The broker can't do it.
    #[error("broker: {0}")]
    Broker(String),
    /// The client can't do it.
    #[error("client: {0}")]
    Client(String),
    /// What was configured can't be.
    #[error("configuration: {0}")]
    Configuration(String),
    /// A request to another component has failed.
    #[error("rpc: {0}")]
    Rpc(String),
    /// What the system said.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There was no answer in time.
    #[error("there was no answer in time")]
    Timeout,
    /// The bus was shut down.
    #[error("the bus was shut down")]
    Shutdown,
    /// There is no broker.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is no session with a broker.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// An event was not published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A control message has reached nobody.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A subscription was not made.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// No subscription was ended.
    #[error(transparent)]
    NotSubscribed(#[from] NotSubscribed),
    /// Bytes are no message, or a message is too large.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// Constructors by the names of the kinds.
macro_rules! constructors {
    ($($name:ident $kind:ident;)*) => {
        $(
            #[doc = concat!("[`", stringify!($kind), "`](Self::", stringify!($kind), ") with this text.")]
            pub fn $name(text: impl Into<String>) -> Self {
                Self::$kind(text.into())
            }
        )*
    };
}

impl EventBusError {
    constructors! {
        transport Transport;
        serialization Serialization;
        topic Topic;
        broker Broker;
        client Client;
        configuration Configuration;
        rpc Rpc;
    }

    /// [`Rpc`](Self::Rpc) with what was done when it failed.
    pub fn rpc_with_context(text: impl fmt::Display, context: impl fmt::Display) -> Self {
        Self::Rpc(format!("{context}: {text}"))
    }

    /// Whether somebody did not answer in time, so that the same may work later.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::Timeout
                | Self::Connect(ConnectError::Timeout { .. })
                | Self::Subscribe(SubscribeError::Timeout)
                | Self::Publish(PublishError::Declare(DeclareError::Timeout))
                | Self::Control(ControlError::Publish(PublishError::Declare(DeclareError::Timeout)))
        )
    }

    /// Whether it is of a request to another component.
    #[must_use]
    pub const fn is_rpc_error(&self) -> bool {
        matches!(self, Self::Rpc(_))
    }

    /// What the broker has refused, if that is why.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Start(StartError::Refused(refusal))
            | Self::Connect(ConnectError::Refused(refusal))
            | Self::Subscribe(SubscribeError::Refused(refusal))
            | Self::Publish(PublishError::Declare(DeclareError::Refused(refusal)))
            | Self::Control(ControlError::Publish(PublishError::Declare(DeclareError::Refused(refusal)))) => {
                Some(refusal)
            }
            _ => None,
        }
    }
}

impl From<TopicError> for EventBusError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error.to_string())
    }
}

impl From<DeclareError> for EventBusError {
    fn from(error: DeclareError) -> Self {
        Self::Publish(error.into())
    }
}

/// Why a broker does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// It can't listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The caller's: no ring can have this size.
    #[error("a ring holds a power of two of bytes from 64 KiB to 1 GiB, not {0}")]
    RingBytes(usize),
    /// This process can't have what a broker needs.
    #[error("no thread or runtime for the broker: {0}")]
    Host(#[from] io::Error),
    /// So many processes were given an end of a connection, and have not said a word over it.
    #[error("{limit} connections wait already for the processes that they were made for")]
    PairsWaiting {
        /// The limit.
        limit: usize,
    },
    /// This process is not the agent: another has the name, by a token that was issued for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was shut down.
    #[error("the broker was shut down")]
    Shutdown,
}

/// No subscription has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{subscriber_id}` does not subscribe")]
pub struct NotSubscribed {
    /// The name.
    pub subscriber_id: String,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::Disconnected;

    #[test]
    fn a_timeout_is_one_wherever_it_has_happened() {
        let timeouts = [
            EventBusError::Timeout,
            DeclareError::Timeout.into(),
            SubscribeError::Timeout.into(),
            ControlError::Publish(DeclareError::Timeout.into()).into(),
            ConnectError::Timeout { path: "/nowhere".into(), deadline: Duration::ZERO }.into(),
        ];
        assert!(timeouts.iter().all(EventBusError::is_timeout), "{timeouts:?}");
        let others = [
            EventBusError::Shutdown,
            EventBusError::rpc("no"),
            DeclareError::from(Disconnected::BrokerGone).into(),
            StartError::Shutdown.into(),
        ];
        assert!(!others.iter().any(EventBusError::is_timeout), "{others:?}");
    }

    #[test]
    fn a_refusal_is_found_wherever_it_is() {
        let refusal = || Refusal::RingBytes { bytes: 3 };
        let refused = [
            EventBusError::from(StartError::from(refusal())),
            ConnectError::from(refusal()).into(),
            SubscribeError::from(refusal()).into(),
            DeclareError::from(refusal()).into(),
            ControlError::Publish(DeclareError::from(refusal()).into()).into(),
        ];
        assert!(refused.iter().all(|error| error.refusal() == Some(&refusal())), "{refused:?}");
        assert_eq!(EventBusError::Timeout.refusal(), None);
    }

    #[test]
    fn kinds_with_a_text_say_it() {
        let topic = EventBusError::from(TopicError::Empty);
        assert_eq!(topic.to_string(), format!("topic: {}", TopicError::Empty));
        let rpc = EventBusError::rpc_with_context("no answer", "procmond: health");
        assert_eq!(
            (rpc.to_string(), rpc.is_rpc_error()),
            ("rpc: procmond: health: no answer".to_owned(), true)
        );
        assert!(!topic.is_rpc_error());
    }
}
