//! The bus as the agent sees it: the broker's own process publishes and subscribes without a socket in between.

mod client;
mod config;

use std::sync::Arc;
use std::time::Duration;

use crate::broker::DaemoneyeBroker;
use crate::client::{
    ClientStatistics, Core, DeclareError, EventReceiver, Named, Part, Publisher, RequestError, Responder,
    Response, SubscribeError, SubscribeOptions, Subscription,
};
use crate::correlation::CorrelationMetadata;
use crate::error::{NotSubscribed, Result as BusResult};
use crate::event::CollectionEvent;
use crate::filter::EventSubscription;
use crate::statistics::EventBusStatistics;
use crate::wire::Latencies;

pub use config::{ClientConfig, CorrelationTrackerConfig, RateLimitConfig, SocketConfig};

/// Publishing on the bus, wherever it is. The trait has to be imported where `bus.publish` is called.
///
/// ```
/// use daemoneye_eventbus::{CollectionEvent, EventBus};
///
/// async fn report(bus: &mut impl EventBus, event: CollectionEvent) -> daemoneye_eventbus::Result<()> {
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
    /// [`EventBusError::Publish`](crate::EventBusError::Publish): the topic can't be published on, or the event is too large.
    fn publish(
        &mut self,
        event: CollectionEvent,
        correlation_id: String,
    ) -> impl Future<Output = BusResult<()>> + Send;

    /// Subscribes, with filters. Once this returns, whatever is published on its topics is delivered, filtered or counted as lost. Cancel-safe.
    ///
    /// # Errors
    /// [`SubscribeError::Filter`] if the filters make no sense, [`SubscribeError::IdTaken`] while another subscription of this bus has the
    /// same `subscriber_id`; else as [`DaemoneyeEventBus::subscription`].
    ///
    /// ```
    /// use daemoneye_eventbus::{CorrelationFilter, EventBus, EventBusError, EventSubscription, SubscribeError};
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
    /// let taken = bus.subscribe(subscription).await;
    /// assert!(matches!(taken, Err(EventBusError::Subscribe(SubscribeError::IdTaken { .. }))));
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
    ) -> impl Future<Output = BusResult<EventReceiver>> + Send;

    /// Ends a subscription that was made with this `subscriber_id`. Its receiver may read what waits, and then comes to its end. Cancel-safe: it
    /// waits for nothing.
    ///
    /// # Errors
    /// [`EventBusError::NotSubscribed`](crate::EventBusError::NotSubscribed) if there is none; not any more, if its receiver was dropped.
    fn unsubscribe(&mut self, subscriber_id: &str) -> impl Future<Output = BusResult<()>> + Send;

    /// The bus in five figures. Cancel-safe.
    fn statistics(&self) -> impl Future<Output = EventBusStatistics> + Send;

    /// Shuts the bus down. Done twice it does nothing the second time. Cancel-safe: given up midway, it goes on.
    ///
    /// # Errors
    /// Those of the bus; [`DaemoneyeEventBus`] has none.
    fn shutdown(&mut self) -> impl Future<Output = BusResult<()>> + Send;
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
    /// Its subscriptions that have a name.
    named: Named,
}

impl DaemoneyeEventBus {
    /// Starts a broker, and connects to it as the component `agent`. Cancel-safe: given up midway, or failed, the broker is dropped,
    /// and so shuts down.
    ///
    /// # Errors
    /// [`EventBusError::Start`](crate::EventBusError::Start) if the broker can't listen.
    pub async fn from_broker(broker: DaemoneyeBroker) -> BusResult<Self> {
        broker.start().await?;
        let core = Arc::clone(broker.agent().await?);
        Ok(Self { core, broker: Arc::new(broker), named: Named::default() })
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

    /// Publishes an event on the default topic of its kind, with a whole correlation. Cancel-safe.
    ///
    /// # Errors
    /// As [`EventBus::publish`].
    pub async fn publish_with_metadata(
        &mut self,
        event: CollectionEvent,
        correlation: CorrelationMetadata,
    ) -> BusResult<()> {
        let topic = event.default_topic();
        self.publish_to_topic(event, topic, correlation).await
    }

    /// Publishes an event on a topic of the caller's choice, with a whole correlation. Cancel-safe.
    ///
    /// # Errors
    /// As [`EventBus::publish`].
    ///
    /// ```
    /// use daemoneye_eventbus::{CorrelationMetadata, TriggerRequest};
    ///
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # let mut bus = DaemoneyeEventBus::from_broker(DaemoneyeBroker::with_options(BrokerOptions::new(&path))?).await?;
    /// let mut triggers = bus.subscription(&["control.trigger.+"]).await?.into_events();
    /// let scan = CorrelationMetadata::new("scan-1".to_string()).with_stage("detection".to_string());
    /// let look = TriggerRequest {
    ///     request_id: "look-1".to_string(),
    ///     collector_type: "binary-hasher".to_string(),
    ///     priority: 3,
    ///     payload: Vec::new(),
    ///     metadata: std::collections::HashMap::new(),
    /// };
    /// bus.publish_to_topic(look.clone().into(), "control.trigger.hash", scan.clone()).await?;
    /// let received = triggers.recv().await.expect("the bus is there");
    /// assert_eq!((&received.event, &received.correlation_metadata), (&look.into(), &scan));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_to_topic(
        &mut self,
        event: CollectionEvent,
        topic: &str,
        correlation: CorrelationMetadata,
    ) -> BusResult<()> {
        self.core.publish(topic, &event, &correlation).await?;
        Ok(())
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
}

impl EventBus for DaemoneyeEventBus {
    async fn publish(&mut self, event: CollectionEvent, correlation_id: String) -> BusResult<()> {
        self.publish_with_metadata(event, CorrelationMetadata::new(correlation_id)).await
    }

    async fn subscribe(&mut self, subscription: EventSubscription) -> BusResult<EventReceiver> {
        let place = self.named.reserve(&subscription.subscriber_id)?;
        let events = self.core.subscribe(&subscription, self.core.queue_bytes()).await?;
        place.take(vec![Part::of(events.ending())]);
        Ok(events)
    }

    async fn unsubscribe(&mut self, subscriber_id: &str) -> BusResult<()> {
        if !self.named.end(subscriber_id) {
            return Err(NotSubscribed { subscriber_id: subscriber_id.to_owned() }.into());
        }
        Ok(())
    }

    async fn statistics(&self) -> EventBusStatistics {
        self.broker.statistics().await
    }

    async fn shutdown(&mut self) -> BusResult<()> {
        self.broker.shutdown().await
    }
}
