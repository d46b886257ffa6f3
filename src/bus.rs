//! The bus as the agent sees it: the broker's own process publishes and subscribes without a socket in between.

use std::sync::Arc;

use crate::broker::{DaemoneyeBroker, StartError};
use crate::client::{
    ClientStatistics, Core, DeclareError, PublishError, Publisher, SubscribeError, Subscription,
};
use crate::control::AGENT;
use crate::correlation::CorrelationMetadata;
use crate::event::CollectionEvent;

/// Publishing on the bus, wherever it is.
pub trait EventBus: Send + Sync {
    /// Publishes an event on the default topic of its kind.
    ///
    /// # Errors
    /// [`PublishError`]: the topic can't be published on, or the event is too large.
    fn publish(
        &mut self,
        event: CollectionEvent,
        correlation_id: String,
    ) -> impl Future<Output = Result<(), PublishError>> + Send;
}

/// A broker, and the agent's own client of it, in one process.
#[derive(Debug)]
pub struct DaemoneyeEventBus {
    // Dropped first: the client's session ends before its broker does.
    core: Arc<Core>,
    broker: Arc<DaemoneyeBroker>,
}

impl DaemoneyeEventBus {
    /// Starts a broker, and connects to it as the component `agent`.
    ///
    /// # Errors
    /// [`StartError`] if the broker can't listen.
    pub async fn from_broker(broker: DaemoneyeBroker) -> Result<Self, StartError> {
        broker.start().await?;
        let core = broker.embed(AGENT).await?;
        Ok(Self { core, broker: Arc::new(broker) })
    }

    /// The broker.
    #[must_use]
    pub const fn broker(&self) -> &Arc<DaemoneyeBroker> {
        &self.broker
    }

    /// As [`EventBusClient::publisher`](crate::EventBusClient::publisher).
    ///
    /// # Errors
    /// [`DeclareError`].
    pub async fn publisher(&self, topic: &str) -> Result<Publisher, DeclareError> {
        self.core.publisher(topic).await
    }

    /// As [`EventBusClient::subscription`](crate::EventBusClient::subscription).
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn subscription(&self, patterns: &[&str]) -> Result<Subscription, SubscribeError> {
        self.core.subscription(patterns).await
    }

    /// Running totals of this process.
    #[must_use]
    pub fn statistics(&self) -> ClientStatistics {
        self.core.statistics()
    }

    /// Shuts the broker down. Done twice it does nothing the second time.
    pub async fn shutdown(&mut self) {
        self.broker.shutdown().await;
    }
}

impl EventBus for DaemoneyeEventBus {
    async fn publish(&mut self, event: CollectionEvent, correlation_id: String) -> Result<(), PublishError> {
        let correlation = CorrelationMetadata::new(correlation_id);
        self.core.publish(event.default_topic(), &event, &correlation).await?;
        Ok(())
    }
}
