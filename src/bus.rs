//! The bus as the agent sees it: the broker's own process publishes and subscribes without a socket in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{DaemoneyeBroker, StartError};
use crate::client::{
    ClientStatistics, Core, DeclareError, Ending, EventReceiver, PublishError, Publisher, RequestError,
    Responder, Response, SubscribeError, SubscribeOptions, Subscription,
};
use crate::correlation::CorrelationMetadata;
use crate::event::CollectionEvent;
use crate::filter::EventSubscription;
use crate::statistics::EventBusStatistics;
use crate::wire::Latencies;

/// Publishing on the bus, wherever it is. The trait has to be imported where `bus.publish` is called.
///
/// ```
/// use daemoneye_eventbus::{CollectionEvent, EventBus, PublishError};
///
/// async fn report(bus: &mut impl EventBus, event: CollectionEvent) -> Result<(), PublishError> {
///     bus.publish(event, "scan-1".to_string()).await
/// }
///
/// # use daemoneye_eventbus::ProcessEvent;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let mut bus = DaemoneyeEventBus::from_broker(broker).await?;
/// # let process = |pid| ProcessEvent {
/// #     pid,
/// #     name: "sh".to_string(),
/// #     command_line: None,
/// #     executable_path: None,
/// #     ppid: Some(1),
/// #     start_time: None,
/// #     metadata: std::collections::HashMap::new(),
/// # };
/// let mut batches = bus.subscription(&["events.process.#"]).await?;
/// report(&mut bus, process(1234).into()).await?;
///
/// let batch = batches.recv().await.expect("the bus is there")?;
/// assert_eq!(batch.topic().as_str(), "events.process.lifecycle");
/// assert_eq!(batch.view().correlation().correlation_id(), "scan-1");
/// # Ok(())
/// # }
/// ```
pub trait EventBus: Send + Sync {
    /// Publishes an event on the default topic of its kind. Cancel-safe: given up midway, the event is not published.
    ///
    /// # Errors
    /// [`PublishError`]: the topic can't be published on, or the event is too large.
    fn publish(
        &mut self,
        event: CollectionEvent,
        correlation_id: String,
    ) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Subscribes, with filters. Once this returns, whatever is published on its topics is delivered, filtered or counted as lost. Cancel-safe.
    ///
    /// # Errors
    /// [`SubscribeError::Filter`] if the filters make no sense, [`SubscribeError::IdTaken`] while another subscription of this bus has the
    /// same `subscriber_id`; else as [`DaemoneyeEventBus::subscription`].
    ///
    /// ```
    /// use daemoneye_eventbus::{CorrelationFilter, EventBus, EventSubscription, SubscribeError};
    ///
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus, ProcessEvent};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # let mut bus = DaemoneyeEventBus::from_broker(DaemoneyeBroker::with_options(BrokerOptions::new(&path))?).await?;
    /// # let process = |pid| ProcessEvent {
    /// #     pid,
    /// #     name: "sh".to_string(),
    /// #     command_line: None,
    /// #     executable_path: None,
    /// #     ppid: Some(1),
    /// #     start_time: None,
    /// #     metadata: std::collections::HashMap::new(),
    /// # };
    /// let subscription = EventSubscription {
    ///     subscriber_id: "forensic-analyzer".to_string(),
    ///     correlation_filter: Some(CorrelationFilter::new().with_root_id("scan-2".to_string())),
    ///     ..EventSubscription::default()
    /// };
    /// let mut events = bus.subscribe(subscription.clone()).await?;
    /// assert!(matches!(bus.subscribe(subscription).await, Err(SubscribeError::IdTaken { .. })));
    ///
    /// bus.publish(process(1).into(), "scan-1".to_string()).await?;
    /// bus.publish(process(2).into(), "scan-2".to_string()).await?;
    /// let received = events.recv().await.expect("the bus is there");
    /// assert_eq!((received.correlation_id(), events.filtered()), ("scan-2", 1));
    ///
    /// bus.unsubscribe("forensic-analyzer").await?;
    /// assert!(events.recv().await.is_none());
    /// # Ok(())
    /// # }
    /// ```
    fn subscribe(
        &mut self,
        subscription: EventSubscription,
    ) -> impl Future<Output = Result<EventReceiver, SubscribeError>> + Send;

    /// Ends a subscription that was made with this `subscriber_id`. Its receiver may read what waits, and then comes to its end. Cancel-safe: it
    /// waits for nothing.
    ///
    /// # Errors
    /// [`NotSubscribed`] if there is none; not any more, if its receiver was dropped.
    fn unsubscribe(&mut self, subscriber_id: &str) -> impl Future<Output = Result<(), NotSubscribed>> + Send;

    /// The bus in five figures. Cancel-safe.
    fn statistics(&self) -> impl Future<Output = EventBusStatistics> + Send;
}

/// No subscription has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{subscriber_id}` does not subscribe")]
pub struct NotSubscribed {
    /// The name.
    pub subscriber_id: String,
}

/// A broker, and the agent's own client of it, in one process.
///
/// To publish single events with `bus.publish`, import [`EventBus`]. Dropped, it drops the broker, which shuts down and
/// [blocks](DaemoneyeBroker) until that is done, unless somebody else holds on to [`broker`](Self::broker). A [`Publisher`] or a
/// [`Subscription`] that outlives it finds its session over.
///
/// ```
/// use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus, Opaque};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// let mut tasks = bus.subscription(&["control.collector.task"]).await?;
/// let mut publisher = bus.publisher("control.collector.task").await?;
/// publisher.publish(&Opaque(b"scan"))?;
///
/// let batch = tasks.recv().await.expect("the bus is there")?;
/// assert_eq!(batch.publisher().as_str(), "agent");
/// drop(bus);
/// assert!(tasks.recv().await.is_none(), "the broker is down");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DaemoneyeEventBus {
    // The session ends with the last handle of its client: this one, a publisher or a subscription. Those may outlive the broker,
    // whose shutdown then ends the session.
    core: Arc<Core>,
    broker: Arc<DaemoneyeBroker>,
    /// By the names that they were given. Those whose receivers are gone are forgotten when the next comes.
    subscribers: HashMap<String, Ending>,
}

impl DaemoneyeEventBus {
    /// Starts a broker, and connects to it as the component `agent`. Cancel-safe: given up midway, or failed, the broker is dropped,
    /// and so shuts down.
    ///
    /// # Errors
    /// [`StartError`] if the broker can't listen.
    pub async fn from_broker(broker: DaemoneyeBroker) -> Result<Self, StartError> {
        broker.start().await?;
        let core = Arc::clone(broker.agent().await?);
        Ok(Self { core, broker: Arc::new(broker), subscribers: HashMap::new() })
    }

    /// The broker.
    #[must_use]
    pub const fn broker(&self) -> &Arc<DaemoneyeBroker> {
        &self.broker
    }

    /// As [`EventBusClient::publisher`](crate::EventBusClient::publisher). Cancel-safe: given up midway, nothing is left of it.
    ///
    /// # Errors
    /// [`DeclareError`].
    pub async fn publisher(&self, topic: &str) -> Result<Publisher, DeclareError> {
        self.core.publisher(topic).await
    }

    /// As [`EventBusClient::subscription`](crate::EventBusClient::subscription). Cancel-safe: given up midway, it is taken back.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn subscription(&self, patterns: &[&str]) -> Result<Subscription, SubscribeError> {
        self.subscription_with(patterns, SubscribeOptions::new()).await
    }

    /// As [`EventBusClient::subscription_with`](crate::EventBusClient::subscription_with). Cancel-safe: given up midway, it is taken
    /// back.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn subscription_with(
        &self,
        patterns: &[&str],
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        self.core.subscription(patterns, options).await
    }

    /// As [`EventBusClient::request`](crate::EventBusClient::request). Cancel-safe.
    ///
    /// # Errors
    /// [`RequestError`]: nobody is there, or nobody has answered.
    pub async fn request(
        &self,
        topic: &str,
        payload: &[u8],
        patience: Duration,
    ) -> Result<Response, RequestError> {
        self.core.request(topic, payload, patience).await
    }

    /// As [`EventBusClient::responder`](crate::EventBusClient::responder). Cancel-safe.
    ///
    /// # Errors
    /// As [`subscription`](Self::subscription).
    pub async fn responder(&self, patterns: &[&str]) -> Result<Responder, SubscribeError> {
        self.core.responder(patterns).await
    }

    /// Running totals of this process.
    #[must_use]
    pub fn client_statistics(&self) -> ClientStatistics {
        self.core.statistics()
    }

    /// As [`EventBusClient::latencies`](crate::EventBusClient::latencies).
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.core.latencies()
    }

    /// Shuts the broker down. Done twice it does nothing the second time. Cancel-safe: given up midway, it goes on.
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

    async fn subscribe(&mut self, subscription: EventSubscription) -> Result<EventReceiver, SubscribeError> {
        self.subscribers.retain(|_, ending| !ending.is_over());
        let subscriber_id = subscription.subscriber_id.clone();
        if self.subscribers.contains_key(&subscriber_id) {
            return Err(SubscribeError::IdTaken { subscriber_id });
        }
        let events = self.core.subscribe(&subscription).await?;
        self.subscribers.insert(subscriber_id, events.ending());
        Ok(events)
    }

    async fn unsubscribe(&mut self, subscriber_id: &str) -> Result<(), NotSubscribed> {
        let ending = self.subscribers.remove(subscriber_id).filter(|ending| !ending.is_over());
        ending.ok_or_else(|| NotSubscribed { subscriber_id: subscriber_id.to_owned() })?.end();
        Ok(())
    }

    async fn statistics(&self) -> EventBusStatistics {
        self.broker.statistics().await
    }
}
