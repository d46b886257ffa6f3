//! What DaemonEye's collectors call a client by.

use tokio::sync::mpsc;

use super::config::{ClientConfig, SocketConfig};
use crate::client::{Connection, EventBusClient, SubscribeError, event_channel, message_channel};
use crate::correlation::CorrelationMetadata;
use crate::dataplane::Losses;
use crate::error::{NotSubscribed, Result};
use crate::event::{BusEvent, CollectionEvent};
use crate::filter::{EventSubscription, FilterError};
use crate::message::Message;
use crate::topic::TopicPattern;

impl EventBusClient {
    /// Connects to a broker, as [`connect`](Self::connect) does, by DaemonEye's own configuration. Cancel-safe.
    ///
    /// # Errors
    /// [`EventBusError::Configuration`](crate::EventBusError::Configuration) if a field can't be what it is, [`EventBusError::Connect`](crate::EventBusError::Connect) as [`connect`](Self::connect).
    ///
    /// ```
    /// use daemoneye_eventbus::{ClientConfig, EventBusClient, SocketConfig};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
    /// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
    /// # let path = path.to_str().expect("a path of UTF-8").to_string();
    /// let socket = SocketConfig { unix_path: path, ..SocketConfig::new("default") };
    /// let client = ClientConfig { max_reconnect_delay: Duration::from_secs(5), ..ClientConfig::default() };
    /// let procmond = EventBusClient::new("procmond-7f3a".to_string(), socket, client).await?;
    /// assert_eq!((procmond.client_id(), procmond.component().as_str()), ("procmond-7f3a", "procmond"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn new(client_id: String, socket: SocketConfig, client: ClientConfig) -> Result<Self> {
        Ok(Self::connect(client.connect_options(&client_id, &socket)?).await?)
    }

    /// Publishes one event through a publisher that all threads of this session's clients share. It waits for the broker the first time
    /// that a topic is used, and never for a subscriber. Without a correlation id the event gets a new one. Cancel-safe: given
    /// up midway, the event is not published.
    ///
    /// # Errors
    /// [`EventBusError::Publish`](crate::EventBusError::Publish): the topic can't be published on, or the event is too large.
    ///
    /// ```
    /// use daemoneye_eventbus::{ConnectOptions, Denial, EventBusClient, Refusal};
    ///
    /// # use daemoneye_eventbus::ProcessEvent;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
    /// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
    /// # let process = |pid| ProcessEvent {
    /// #     pid,
    /// #     name: "sh".to_string(),
    /// #     command_line: None,
    /// #     executable_path: None,
    /// #     ppid: Some(1),
    /// #     start_time: None,
    /// #     metadata: std::collections::HashMap::new(),
    /// # };
    /// let detector = EventBusClient::connect(ConnectOptions::new("detector").path(&path)).await?;
    /// let forged = detector.publish("alerts.high", process(1234).into(), None).await;
    /// let forged = forged.expect_err("only the agent publishes alerts");
    /// assert!(matches!(forged.refusal(), Some(Refusal::Access(Denial::NotAPublisher { .. }))));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(
        &self,
        topic: &str,
        event: CollectionEvent,
        correlation_id: Option<String>,
    ) -> Result<()> {
        let correlation = correlation_id.map_or_else(CorrelationMetadata::default, CorrelationMetadata::new);
        self.publish_with_correlation(topic, event, &correlation).await
    }

    /// The same, with a whole correlation. Cancel-safe.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_with_correlation(
        &self,
        topic: &str,
        event: CollectionEvent,
        correlation: &CorrelationMetadata,
    ) -> Result<()> {
        self.core().publish(topic, &event, correlation).await?;
        Ok(())
    }

    /// Publishes bytes on a control topic, with a new correlation id, and says so if nobody is there to hear them. Order holds among all that
    /// this session's clients publish so, and by [`publish`](Self::publish). Cancel-safe: given up midway, nothing is published.
    ///
    /// `Ok` is no receipt: what has reached a subscriber it may yet not read.
    ///
    /// # Errors
    /// [`ControlError::NoSubscriber`](crate::ControlError::NoSubscriber) if nobody subscribes, which may be as it should be: a heartbeat that nobody listens for is no fault.
    /// Else see [`ControlError`](crate::ControlError).
    ///
    /// ```
    /// use daemoneye_eventbus::{ConnectOptions, ControlError, EventBusClient, EventBusError, MessageType};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
    /// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
    /// let topic = "control.health.heartbeat.procmond";
    /// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
    /// let nobody = procmond.publish_control(topic, b"alive".to_vec()).await;
    /// assert!(matches!(nobody, Err(EventBusError::Control(ControlError::NoSubscriber { .. }))));
    ///
    /// let mut heartbeats = bus.broker().subscribe_raw("control.health.heartbeat.+", uuid::Uuid::new_v4()).await?;
    /// procmond.publish_control(topic, b"alive".to_vec()).await?;
    /// let heartbeat = heartbeats.recv().await.expect("the bus is there");
    /// assert_eq!((&heartbeat.topic[..], &heartbeat.payload[..]), (topic, &b"alive"[..]));
    /// assert_eq!(heartbeat.message_type, MessageType::Heartbeat);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_control(&self, topic: &str, payload: Vec<u8>) -> Result<()> {
        Ok(self.core().publish_control(topic, &payload).await?)
    }

    /// Subscribes, with filters, and has the events brought to a channel by a task on the caller's runtime. Once this returns, whatever is published
    /// on its topics is delivered, filtered or counted as lost. To drop the receiver ends the subscription. Cancel-safe.
    ///
    /// The channel holds 32 events. What comes beyond them waits in the subscription's queue, which loses the newest when it is full:
    /// [`losses`](Self::losses) says how many.
    ///
    /// # Errors
    /// [`EventBusError::Subscribe`](crate::EventBusError::Subscribe): the filters make no sense, another subscription of this client has the same `subscriber_id`, it may have
    /// nothing of it, or there is no tokio runtime here.
    ///
    /// ```
    /// use daemoneye_eventbus::{ConnectOptions, EventBusClient, EventSubscription};
    ///
    /// # use daemoneye_eventbus::ProcessEvent;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus, EventBus};
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
    /// let detector = EventBusClient::connect(ConnectOptions::new("detector").path(&path)).await?;
    /// let subscription = EventSubscription { subscriber_id: "all".to_string(), ..EventSubscription::default() };
    /// let mut events = detector.subscribe(subscription).await?;
    /// bus.publish(process(7).into(), "scan-1".to_string()).await?;
    /// assert_eq!(events.recv().await.expect("the bus is there").event, process(7).into());
    ///
    /// detector.unsubscribe("all").await?;
    /// assert_eq!(events.recv().await, None);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe(&self, subscription: EventSubscription) -> Result<mpsc::Receiver<BusEvent>> {
        let place = self.named().reserve(&subscription.subscriber_id)?;
        let from = self.core().subscribe(&subscription, self.queue_bytes()).await?;
        let (events, part) = event_channel(from)?;
        place.take(vec![part]);
        Ok(events)
    }

    /// The same, with what comes on control topics apart, as messages: those that the subscription's patterns match, or all that this component may
    /// hear, if they match none. Filters are for events; control comes whole. Cancel-safe.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// ```
    /// use daemoneye_eventbus::{ConnectOptions, EventBusClient, EventSubscription};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
    /// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
    /// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
    /// let subscription = EventSubscription { subscriber_id: "all".to_string(), ..EventSubscription::default() };
    /// let (_events, mut control) = procmond.subscribe_with_control(subscription).await?;
    ///
    /// bus.broker().publish("control.collector.lifecycle", "boot", b"begin monitoring".to_vec()).await?;
    /// assert_eq!(control.recv().await.expect("the bus is there").payload, b"begin monitoring");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_with_control(
        &self,
        subscription: EventSubscription,
    ) -> Result<(mpsc::Receiver<BusEvent>, mpsc::Receiver<Message>)> {
        let place = self.named().reserve(&subscription.subscriber_id)?;
        let control = subscription.control_patterns().map_err(SubscribeError::from)?;
        let control: Vec<&str> = control.iter().map(TopicPattern::as_str).collect();
        let control = self.core().subscribe_raw(&control, self.queue_bytes()).await?;
        let events = EventSubscription { include_control: false, ..subscription };
        if let Err(FilterError::NoTopic) = events.patterns() {
            // Nothing will come there, for as long as control does.
            let (never, events) = mpsc::channel(1);
            let (control, part) = message_channel(control, never)?;
            place.take(vec![part]);
            return Ok((events, control));
        }
        let events = self.core().subscribe(&events, self.queue_bytes()).await?;
        let (events, of_events) = event_channel(events)?;
        let (control, of_control) = message_channel(control, ())?;
        place.take(vec![of_events, of_control]);
        Ok((events, control))
    }

    /// Ends the subscription of this name. Its receivers may read what waits, and then come to their end. Cancel-safe: it waits for nothing.
    ///
    /// # Errors
    /// [`NotSubscribed`] if there is none; not any more, if its receivers were dropped.
    #[expect(clippy::unused_async, reason = "DaemonEye awaits it")]
    pub async fn unsubscribe(&self, subscriber_id: &str) -> Result<()> {
        if !self.named().end(subscriber_id) {
            return Err(NotSubscribed { subscriber_id: subscriber_id.to_owned() }.into());
        }
        Ok(())
    }

    /// What the subscription of this name has lost so far on the way to its receivers; `None` if there is none.
    #[must_use]
    pub fn losses(&self, subscriber_id: &str) -> Option<Losses> {
        self.named().losses(subscriber_id)
    }

    /// Whether the bus is down, or about to be: its broker has said that it shuts down, or this client has given up on it. Not any more when it is back at
    /// one.
    #[must_use]
    pub fn shutdown_signal(&self) -> bool {
        match &*self.connection().borrow() {
            Connection::Up => false,
            Connection::Away(why) => why.is_shutdown(),
            Connection::Over(_) => true,
        }
    }

    /// Ends this client's named subscriptions, whose receivers may read what waits, and then drops it; the session ends with its last handle. What
    /// was published is not lost: subscribers read it yet. Cancel-safe: it waits for nothing.
    ///
    /// # Errors
    /// None. DaemonEye expects a `Result`.
    #[expect(clippy::unused_async, reason = "DaemonEye awaits it")]
    pub async fn shutdown(self) -> Result<()> {
        self.named().end_all();
        Ok(())
    }
}
