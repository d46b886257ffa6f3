//! Whether there is a broker, and why not.

use crate::wire::GoodbyeReason;

/// Why a session has ended. Rings that are already there go on without it.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, Disconnected, EventBusClient, GoodbyeReason};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// assert!(procmond.is_connected());
///
/// bus.broker().shutdown().await?;
/// assert_eq!(procmond.disconnected().await, Disconnected::Dismissed(GoodbyeReason::Shutdown));
/// assert!(!procmond.is_connected());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disconnected {
    /// The broker ended the session, and said why.
    #[error("the broker ended the session: {0}")]
    Dismissed(GoodbyeReason),
    /// The broker is gone without a word.
    #[error("the broker is gone")]
    BrokerGone,
    /// This process can't keep the session up: it has no descriptors left, say.
    #[error("this host can't keep the session up: {0}")]
    Host(String),
    /// What is at the other end does not speak the protocol.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
}

impl Disconnected {
    /// Whether the broker was shut down, and has said so.
    pub(crate) fn is_shutdown(&self) -> bool {
        matches!(self, Self::Dismissed(GoodbyeReason::Shutdown))
    }
}

/// Whether there is a broker, and if not, whether this client waits for one.
///
/// A client comes back by itself: it looks for its broker again and again, at first after some 50 ms, later each 30 to 60 s, registers, declares
/// its topics and subscribes again. Meanwhile events go on over the rings that are there.
///
/// ```
/// use daemoneye_eventbus::{Connection, ConnectOptions, EventBusClient};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// let mut connection = procmond.connection();
/// assert_eq!(*connection.borrow(), Connection::Up);
///
/// bus.broker().shutdown().await?;
/// connection.wait_for(|now| matches!(now, Connection::Away(_))).await?;
/// # drop(bus);
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// connection.wait_for(|now| *now == Connection::Up).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connection {
    /// There is a broker.
    Up,
    /// There is none, for this reason; the client looks for one.
    Away(Disconnected),
    /// There is none, for this reason, and the client does not look for one: it is not [to come back](crate::ConnectOptions::comes_back), or somebody
    /// else is this component now.
    Over(Disconnected),
}

impl Connection {
    /// Why there is no broker.
    pub(super) fn why(&self) -> Option<&Disconnected> {
        match self {
            Self::Up => None,
            Self::Away(why) | Self::Over(why) => Some(why),
        }
    }
}
