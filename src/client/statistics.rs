//! The broker's statistics, as a client asks for them.

use tokio::sync::oneshot;

use super::session::Command;
use super::{Core, Disconnected, EventBusClient};
use crate::statistics::BrokerStatistics;
use crate::wire::Refusal;

/// Why a client does not see the broker's statistics. There is an example at
/// [`broker_statistics`](EventBusClient::broker_statistics).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// They are not for this process: see [`Refusal::NotAnOperator`].
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The broker is of an older version, which has none.
    #[error("the broker is of a version that has no statistics")]
    Unknown,
    /// The broker did not answer in time.
    #[error("the broker did not answer in time")]
    Timeout,
    /// The session is over.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

impl EventBusClient {
    /// What there is on the bus, and what clients say that came of their events: see [`BrokerStatistics`]. For processes of the broker's own user,
    /// and of root. The answer comes within a second, whatever the other clients do: they have 400 ms to say what they have counted,
    /// and are asked ten times a second at most; who asks meanwhile has the same answer. Cancel-safe: it only asks.
    ///
    /// # Errors
    /// [`StatisticsError::Refused`] if the user of this process may not see them, [`StatisticsError::Disconnected`] if the session is over.
    ///
    /// ```
    /// use daemoneye_eventbus::{ConnectOptions, EventBusClient};
    /// # use daemoneye_eventbus::DaemoneyeBroker;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # let broker = DaemoneyeBroker::new(path.to_str().expect("a path of UTF-8")).await?;
    /// # broker.start().await?;
    /// let operator = EventBusClient::connect(ConnectOptions::new("operator").path(&path)).await?;
    /// let statistics = operator.broker_statistics().await?;
    /// assert_eq!((statistics.connections, statistics.accepted, statistics.turned_away), (1, 1, 0));
    /// assert_eq!(statistics.sessions[0].component, *operator.component());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn broker_statistics(&self) -> Result<BrokerStatistics, StatisticsError> {
        self.core.broker_statistics().await
    }
}

impl Core {
    async fn broker_statistics(&self) -> Result<BrokerStatistics, StatisticsError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Statistics { reply });
        answer.await.unwrap_or(Err(Disconnected::BrokerGone.into()))
    }
}
