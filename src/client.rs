//! The bus as a process sees it: publish, subscribe, and know whether the broker is there.

mod connect;
mod connection;
mod errors;
mod events;
mod feeds;
mod pace;
mod publisher;
mod raw;
mod request;
mod session;
mod sharing;
mod statistics;
mod subscription;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::access::{Component, Withheld};
use crate::batch::{BatchEvent, EventTooLarge};
use crate::config::TOPICS_MAX;
use crate::correlation::CorrelationMetadata;
use crate::dataplane::{DataEvent, Delivery, Hub, InboxCounters, KeptShare, OutboxShared, Queue, WaitPolicy};
use crate::filter::{EventSubscription, Filter};
use crate::routing::TopicId;
use crate::topic::{Topic, TopicPattern};
use crate::wire::{Latencies, Welcome};

pub use connect::{ConnectError, ConnectOptions};
pub use connection::{Connection, Disconnected};
pub use errors::{DeclareError, PublishError, SubscribeError};
pub use events::EventReceiver;
pub(crate) use feeds::{Named, Part, events as event_channel, messages as message_channel, weighed_messages};
pub use pace::{ReturnPace, ReturnPaceError};
pub use publisher::{BatchBuilder, Publisher, Unread};
pub(crate) use raw::Ending;
pub use raw::{ControlError, MessageReceiver};
pub use request::{Call, ReplyError, RequestError, Responder, Response};
pub use sharing::SessionTerm;
pub use statistics::StatisticsError;
pub use subscription::{Nothing, SubscribeOptions, Subscription};

pub(crate) use session::run as run_session;
use session::{Command, Commands, Ground};

/// What a subscribe came to, beyond the subscription itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subscribed {
    /// The patterns that events come for: what was asked, narrowed to what the component may receive.
    pub(crate) granted: Vec<TopicPattern>,
    /// What was asked and is not granted.
    pub(crate) withheld: Vec<Withheld>,
    /// Components whose session ended because they did not install the route in time.
    pub(crate) missed: Vec<String>,
}

/// Running totals of one session: of all clients that share it, with all their publishers and subscriptions together.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, EventBusClient, Opaque};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// let detector = EventBusClient::connect(ConnectOptions::new("detector").path(&path)).await?;
/// let mut batches = detector.subscription(&["events.process.#"]).await?;
/// let mut publisher = procmond.publisher("events.process.batch").await?;
/// publisher.publish(&Opaque(b"an event"))?;
///
/// batches.recv().await.expect("the bus is there")?;
/// assert_eq!(detector.statistics().received_events, 1);
/// assert_eq!(procmond.statistics().received_events, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStatistics {
    /// Events that were read from rings. Those of publishers in this process are not among them.
    pub received_events: u64,
    /// Events whose topic was no longer subscribed to when they arrived.
    pub skipped_events: u64,
    /// Times that the data thread slept and was woken.
    pub wakeups: u64,
    /// Bytes that waited in the rings when they were last looked at.
    pub ring_bytes_waiting: u64,
    /// The most bytes that ever waited there.
    pub ring_bytes_waiting_max: u64,
    /// Bytes that all rings to this process hold together.
    pub ring_bytes: u64,
}

/// A client of the bus in a process of its own. Cheap to share: all its methods take `&self`, from any thread.
///
/// All clients of a process that are the same component at the same broker [share one session](ConnectOptions::shares_session). The session
/// lives as long as any handle made by any of them: a [`Publisher`] and a [`Subscription`] outlive the client they came from.
///
/// ```
/// use daemoneye_eventbus::{CollectionEvent, ConnectOptions, EventBusClient};
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
/// // In the agent's process:
/// let mut events = bus.subscription(&["events.process.#"]).await?.into_events();
///
/// // In the collector's:
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond-7f3a").path(&path)).await?;
/// assert_eq!(procmond.component().as_str(), "procmond");
/// let event = CollectionEvent::from(process(1234));
/// procmond.publish("events.process.start", event.clone(), Some("scan-1".to_string())).await?;
///
/// let received = events.recv().await.expect("the bus is there");
/// assert_eq!((&received.event, received.correlation_id()), (&event, "scan-1"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EventBusClient {
    core: Arc<Core>,
    /// What is this client's own, and not the session's.
    id: String,
    queue_bytes: usize,
    /// Its subscriptions that have a name.
    named: Named,
}

impl EventBusClient {
    /// Connects to a broker, and registers with it; or joins the session that another client of this process
    /// [has there](ConnectOptions::shares_session) as this component. Cancel-safe: given up midway, nothing is left, and who waits for the
    /// same session waits on.
    ///
    /// # Errors
    /// [`ConnectError`] says which step failed, and whose doing it was. Who waits for the same session has the same error.
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        let (id, queue_bytes) = (options.client_id.clone(), options.queue_bytes);
        Ok(Self { core: connect::connect(options).await?, id, queue_bytes, named: Named::default() })
    }

    /// What this client shares with others.
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// What may wait for a subscription of it that does not say so itself.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Its subscriptions that have a name.
    pub(crate) fn named(&self) -> &Named {
        &self.named
    }

    /// The id that it was given.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.id
    }

    /// The component that the broker knows this client as.
    #[must_use]
    pub fn component(&self) -> &Component {
        self.core.component()
    }

    /// Makes a publisher for one topic, with rings of its own: what it publishes arrives in the order in which it was published.
    /// Once this returns, there is a path to each matching subscriber. Cancel-safe.
    ///
    /// # Errors
    /// [`DeclareError::Topic`] if no such topic can be, [`DeclareError::Refused`] if this component may not publish on it,
    /// [`DeclareError::Disconnected`] if the session is over.
    ///
    /// ```
    /// use daemoneye_eventbus::{ConnectOptions, DeclareError, Denial, EventBusClient, Refusal, TopicError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
    /// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
    /// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
    /// assert!(procmond.publisher("events.process.batch").await.is_ok());
    ///
    /// let refused = procmond.publisher("alerts.high").await.expect_err("alerts are the agent's");
    /// assert!(matches!(refused, DeclareError::Refused(Refusal::Access(Denial::NotAPublisher { .. }))));
    /// let pattern = procmond.publisher("events.process.#").await.expect_err("that is a pattern");
    /// assert!(matches!(pattern, DeclareError::Topic(TopicError::WildcardInTopic { wildcard: '#', .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publisher(&self, topic: &str) -> Result<Publisher, DeclareError> {
        self.core.publisher(topic).await
    }

    /// Subscribes to all topics that match one of the patterns. Once this returns, whatever is published on them is delivered or
    /// counted as lost. Cancel-safe.
    ///
    /// # Errors
    /// [`SubscribeError::Pattern`] if no such pattern can be, [`SubscribeError::Refused`] if this component may receive nothing
    /// of it, [`SubscribeError::Disconnected`] if the session is over.
    ///
    /// ```
    /// use daemoneye_eventbus::{ConnectOptions, Denial, EventBusClient, Refusal, SubscribeError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
    /// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
    /// let netmond = EventBusClient::connect(ConnectOptions::new("netmond").path(&path)).await?;
    /// assert!(netmond.subscription(&["events.network.#"]).await.is_ok());
    ///
    /// let refused = netmond.subscription(&["events.process.batch"]).await.expect_err("it is not netmond's");
    /// assert!(matches!(refused, SubscribeError::Refused(Refusal::Access(Denial::NotASubscriber { .. }))));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscription(&self, patterns: &[&str]) -> Result<Subscription, SubscribeError> {
        self.subscription_with(patterns, SubscribeOptions::new()).await
    }

    /// As [`subscription`](Self::subscription), with options of its own. Cancel-safe.
    ///
    /// # Errors
    /// As [`subscription`](Self::subscription); [`SubscribeError::RingBytes`] if no ring can be of the size asked for, and
    /// [`Refusal::RingBudget`](crate::Refusal::RingBudget) if there is no memory left for the rings that it needs. Nothing has changed then. There is an example at
    /// [`SubscribeOptions`].
    pub async fn subscription_with(
        &self,
        patterns: &[&str],
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        self.core.subscription(patterns, options.of_client(self.queue_bytes)).await
    }

    /// Whether there is a broker for the session, as far as this process knows, to be watched. There is an example at [`Connection`].
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.core.ground.connection.subscribe()
    }

    /// Resolves once there is no broker, with the reason. Cancel-safe.
    pub async fn disconnected(&self) -> Disconnected {
        self.core.disconnected().await
    }

    /// Whether the session lives, as far as this process knows.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.core.is_connected()
    }

    /// Running totals of the session.
    #[must_use]
    pub fn statistics(&self) -> ClientStatistics {
        self.core.statistics()
    }

    /// How long the events that its subscriptions have taken were on their way: see [`Latencies`].
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.core.latencies()
    }
}

/// What the owner of a client decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientSettings {
    pub(crate) queue_bytes: usize,
    pub(crate) outbox_bytes: usize,
    pub(crate) wait_policy: WaitPolicy,
    pub(crate) deadline: Duration,
}

/// What all clients of one session hold on to.
#[derive(Debug)]
pub(crate) struct Core {
    commands: Commands,
    ground: Arc<Ground>,
    /// The publisher behind `publish`, of all clients that share the session. Held for the time of one synchronous publish, never across an await.
    shared: Mutex<SharedPublisher>,
    /// What brings the answers to requests, from the first of them on.
    answers: tokio::sync::Mutex<Option<Arc<request::Answers>>>,
}

/// One publisher with many topics. When it has as many as it may, another takes its place, and topics are declared anew: some names, those
/// that answers go to for instance, are used for a while and never again.
#[derive(Debug, Default)]
struct SharedPublisher {
    publisher: Option<Publisher>,
    topics: HashMap<String, TopicId>,
    /// Topics that it has, or may have: those of which the broker was asked.
    asked: usize,
}

/// The channels between handles and a session that is about to run.
#[derive(Debug)]
pub(crate) struct Channels {
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) data_events: mpsc::UnboundedReceiver<DataEvent>,
}

impl Core {
    /// The handles' side of a session that has been welcomed, and what the session itself needs.
    pub(crate) fn new(welcome: &Welcome, settings: ClientSettings) -> (Arc<Self>, Arc<Ground>, Channels) {
        let ClientSettings { queue_bytes, outbox_bytes, wait_policy, deadline } = settings;
        let (commands, commands_end) = mpsc::unbounded_channel();
        let (data_events, data_events_end) = mpsc::unbounded_channel();
        let ring_bytes = usize::try_from(welcome.ring_bytes).unwrap_or(usize::MAX);
        let record_bytes_max = u32::try_from(shm::layout::payload_bytes_max(ring_bytes)).unwrap_or(u32::MAX);
        let component =
            Component::from_client_id(&welcome.component).expect("the session took the welcome for good");
        let ground = Arc::new(Ground {
            hub: Arc::new(Hub::new()),
            desk: Arc::default(),
            inbox_counters: Arc::new(InboxCounters::default()),
            latencies: Arc::default(),
            data_events,
            wait_policy,
            deadline,
            connection: watch::channel(Connection::Up).0,
            component,
            queue_bytes,
            record_bytes_max,
            kept: Arc::new(KeptShare::new(outbox_bytes as u64)),
            last_subscription: AtomicU32::new(0),
            last_publisher: AtomicU32::new(0),
        });
        let channels = Channels { commands: commands_end, data_events: data_events_end };
        (Arc::new(Self::over(commands, Arc::clone(&ground))), ground, channels)
    }

    /// Of a session that is there.
    fn over(commands: Commands, ground: Arc<Ground>) -> Self {
        Self { commands, ground, shared: Mutex::default(), answers: tokio::sync::Mutex::default() }
    }

    pub(crate) fn component(&self) -> &Component {
        &self.ground.component
    }

    /// A publisher that has its first topic. Cancel-safe: given up midway, nothing is left of it.
    pub(crate) async fn publisher(&self, topic: &str) -> Result<Publisher, DeclareError> {
        let topic = Topic::new(topic)?;
        let mut publisher = self.open_publisher();
        let id = self.declare(publisher.number(), topic).await?;
        publisher.set_topic(id);
        Ok(publisher)
    }

    /// Cancel-safe: given up midway, the subscription is taken back.
    pub(crate) async fn subscription(
        &self,
        patterns: &[&str],
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        let ring_bytes = options.checked_ring_bytes()?;
        let patterns = patterns.iter().map(|text| TopicPattern::new(text)).collect::<Result<Vec<_>, _>>()?;
        let number = self.ground.last_subscription.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::new(options.queue_bytes_or(self.ground.queue_bytes)));
        // First the hub, then the broker: an event must find its queue from the first moment on, and so must the news of a ring
        // that is broken before the subscription begins.
        self.ground.hub.add(number, patterns.clone(), Arc::clone(&queue));
        let mut subscription = Subscription::new(self.commands.clone(), &self.ground, number, queue);
        subscription.patterns.clone_from(&patterns);
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Subscribe { subscription: number, patterns, ring_bytes, reply });
        subscription.subscribed = answer.await.unwrap_or(Err(Disconnected::BrokerGone.into()))?;
        Ok(subscription)
    }

    /// A subscription with filters.
    pub(crate) async fn subscribe(
        &self,
        wanted: &EventSubscription,
        queue_bytes: usize,
    ) -> Result<EventReceiver, SubscribeError> {
        let (patterns, filter) = (wanted.patterns()?, Filter::of(wanted)?);
        let patterns: Vec<&str> = patterns.iter().map(TopicPattern::as_str).collect();
        let options = SubscribeOptions::new().of_client(queue_bytes);
        let subscription = self.subscription(&patterns, options).await?;
        Ok(subscription.into_events().filtered_by(filter, &wanted.subscriber_id))
    }

    /// Publishes one event through the publisher that all threads of its clients share. Cancel-safe: given up midway, it is
    /// not published.
    pub(crate) async fn publish(
        &self,
        topic: &str,
        event: &impl BatchEvent,
        correlation: &CorrelationMetadata,
    ) -> Result<Delivery, PublishError> {
        correlation.check()?;
        loop {
            let published = self.shared.lock().publish(topic, event, correlation);
            match published {
                Some(delivery) => return Ok(delivery?),
                None => self.declare_shared(topic).await?,
            }
        }
    }

    async fn declare_shared(&self, topic: &str) -> Result<(), DeclareError> {
        let parsed = Topic::new(topic)?;
        let (number, full) = {
            let mut shared = self.shared.lock();
            let full = (shared.asked >= TOPICS_MAX).then(|| std::mem::take(&mut *shared));
            shared.asked += 1;
            (shared.publisher.get_or_insert_with(|| self.open_publisher()).number(), full)
        };
        // Outside the lock: its rings are closed.
        drop(full);
        let declared = self.declare(number, parsed).await;
        self.shared.lock().declared(number, topic, declared)
    }

    /// Processes that what is published on a topic now is for.
    async fn subscribers(&self, topic: &str) -> Result<u64, DeclareError> {
        loop {
            let subscribers = self.shared.lock().subscribers(topic);
            match subscribers {
                Some(subscribers) => return Ok(subscribers),
                None => self.declare_shared(topic).await?,
            }
        }
    }

    fn open_publisher(&self) -> Publisher {
        let publisher = self.ground.last_publisher.fetch_add(1, Ordering::Relaxed);
        let outbox = Arc::new(OutboxShared::new(Arc::clone(&self.ground.kept)));
        self.tell(Command::OpenPublisher { publisher, outbox: Arc::clone(&outbox) });
        Publisher::new(publisher, self.commands.clone(), outbox, &self.ground, self.ground.record_bytes_max)
    }

    async fn declare(&self, publisher: u32, topic: Topic) -> Result<TopicId, DeclareError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Declare { publisher, topic, reply });
        answer.await.unwrap_or(Err(Disconnected::BrokerGone.into()))
    }

    fn tell(&self, command: Command) {
        // The session's thread is gone only if it failed; then there is no session to tell.
        let _ = self.commands.send(command);
    }

    /// Resolves once there is no broker.
    pub(crate) async fn disconnected(&self) -> Disconnected {
        let mut connection = self.ground.connection.subscribe();
        let away = connection.wait_for(|now| now.why().is_some()).await;
        away.ok().and_then(|now| now.why().cloned()).unwrap_or(Disconnected::BrokerGone)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.ground.connection.borrow().why().is_none()
    }

    pub(crate) fn statistics(&self) -> ClientStatistics {
        let counters = &self.ground.inbox_counters;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        ClientStatistics {
            received_events: read(&counters.received),
            skipped_events: read(&counters.skipped),
            wakeups: read(&counters.wakeups),
            ring_bytes_waiting: read(&counters.occupied),
            ring_bytes_waiting_max: read(&counters.occupied_max),
            ring_bytes: read(&counters.capacity),
        }
    }

    pub(crate) fn latencies(&self) -> Latencies {
        self.ground.latencies.read()
    }
}

impl SharedPublisher {
    /// Publishes, if the topic is declared.
    fn publish(
        &mut self,
        topic: &str,
        event: &impl BatchEvent,
        correlation: &CorrelationMetadata,
    ) -> Option<Result<Delivery, EventTooLarge>> {
        let id = *self.topics.get(topic)?;
        Some(self.publisher.as_mut()?.publish_on(id, event, correlation))
    }

    /// What the broker says of a topic. Meanwhile another publisher may have taken the place of the one that was asked for.
    fn declared(
        &mut self,
        publisher: u32,
        topic: &str,
        declared: Result<TopicId, DeclareError>,
    ) -> Result<(), DeclareError> {
        if self.publisher.as_ref().is_none_or(|now| now.number() != publisher) {
            return declared.map(drop);
        }
        match declared {
            Ok(id) => drop(self.topics.insert(topic.to_owned(), id)),
            Err(error) => {
                self.asked -= 1;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Processes that what is published on a topic now is for.
    fn subscribers(&mut self, topic: &str) -> Option<u64> {
        let id = *self.topics.get(topic)?;
        Some(self.publisher.as_mut()?.subscribers_of(id))
    }
}
