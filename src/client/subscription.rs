//! Subscribing.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use futures_core::Stream;

use super::publisher::deadline_of;
use super::session::{Command, Commands, Ground};
use super::{EventReceiver, MessageReceiver, SubscribeError, Subscribed};
use crate::access::Withheld;
use crate::config::is_ring_size;
use crate::dataplane::{Desk, Hub, Item, Losses, Queue, ReceivedBatch, RecvError, Served, Taken};
use crate::topic::TopicPattern;

/// What a subscription asks for beyond its patterns.
///
/// A ring is there for each pair of a publisher and a subscribing process, and is never made larger or smaller. So the size counts
/// for rings that come to be for this subscription, also when a publisher comes later; where several subscriptions of a process match
/// the same publisher by then, the largest of their sizes, the broker's own for those that ask for none. A process that has no
/// ring of its own with the publisher, being the same one, has no use for it.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, EventBusClient, SubscribeError, SubscribeOptions};
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
/// let _publisher = procmond.publisher("events.process.batch").await?;
///
/// let odd = SubscribeOptions::new().ring_bytes(100_000);
/// let error = detector.subscription_with(&["events.process.#"], odd).await.expect_err("no power of two");
/// assert_eq!(error, SubscribeError::RingBytes(100_000));
///
/// let slow = SubscribeOptions::new().ring_bytes(32 << 20);
/// let _batches = detector.subscription_with(&["events.process.#"], slow).await?;
/// # while detector.statistics().ring_bytes == 0 { tokio::task::yield_now().await }
/// assert_eq!(detector.statistics().ring_bytes, 32 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    ring_bytes: Option<usize>,
    queue_bytes: Option<usize>,
}

impl SubscribeOptions {
    /// What the broker and the client have for all subscriptions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Data bytes of the rings that come to be for this subscription: a power of two from 64 KiB to 1 GiB. At first what the broker
    /// has for all, [`BrokerOptions::ring_bytes`](crate::BrokerOptions::ring_bytes).
    ///
    /// An event above an eighth of a ring is lost where it does not fit, and told. A ring is made within the broker's route deadline:
    /// 1 GiB takes some 0.4 s. A publisher that can't make it, or not in time, has one of the broker's size with this process
    /// instead, and so has one that comes when the share of this process's user is used up. The broker logs it, and [`ClientStatistics::ring_bytes`](crate::ClientStatistics::ring_bytes) shows.
    #[must_use]
    pub fn ring_bytes(mut self, bytes: usize) -> Self {
        self.ring_bytes = Some(bytes);
        self
    }

    /// Bytes that may wait for this subscription. At first what the client has for all, or twice the size of the rings that are asked
    /// for here, if that is more: what waited in a full ring fits. What comes beyond them is lost to this subscription, and
    /// counted.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = Some(bytes);
        self
    }

    /// The size asked for, if it can be.
    pub(super) fn checked_ring_bytes(self) -> Result<Option<u64>, SubscribeError> {
        match self.ring_bytes {
            Some(bytes) if !is_ring_size(bytes as u64) => Err(SubscribeError::RingBytes(bytes)),
            bytes => Ok(bytes.map(|bytes| bytes as u64)),
        }
    }

    /// With what the client has for all.
    pub(super) fn of_client(mut self, queue_bytes: usize) -> Self {
        self.queue_bytes = Some(self.queue_bytes_or(queue_bytes));
        self
    }

    pub(super) fn queue_bytes_or(self, default: usize) -> usize {
        let rings = self.ring_bytes.map_or(0, |bytes| bytes.saturating_mul(2));
        self.queue_bytes.unwrap_or(default.max(rings))
    }
}

/// A stream of batches. It goes on with the next broker where the client [comes back](crate::ConnectOptions::comes_back); else it ends when the
/// session is over and each ring that leads here was read to its end.
///
/// Batches of one [`Publisher`](crate::Publisher) come in the order of their publication. One on an urgent topic (an anomaly, an alert,
/// a lifecycle event, control) goes ahead of what other publishers have sent and this subscription has not read yet.
///
/// An error is an interruption, not the end: [`RecvError::Lagged`] stands where events were lost.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, EventBusClient, Opaque, TopicPattern};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// let options = ConnectOptions::new("netmond").path(&path).comes_back(false);
/// let netmond = EventBusClient::connect(options).await?;
/// let mut batches = netmond.subscription(&["events.#"]).await?;
/// assert!(batches.granted().contains(&TopicPattern::new("events.network.#")?));
/// assert!(batches.withheld().iter().any(|withheld| withheld.pattern.as_str() == "events.process.#"));
///
/// bus.publisher("events.process.batch").await?.publish(&Opaque(b"not for netmond"))?;
/// bus.publisher("events.network.event").await?.publish(&Opaque(b"a connection"))?;
/// bus.broker().shutdown().await?;
/// let batch = batches.recv().await.expect("a batch comes before the end")?;
/// assert_eq!(batch.topic().as_str(), "events.network.event");
/// assert!(batches.recv().await.is_none(), "the session is over, and all was read");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Subscription {
    taken: Taken,
    /// As they were asked for.
    pub(super) patterns: Vec<TopicPattern>,
    pub(super) subscribed: Subscribed,
    queue: Arc<Queue>,
    desk: Arc<Desk>,
    lease: Arc<Lease>,
}

/// The subscription's place in the hub and at the broker, for as long as it lives.
#[derive(Debug)]
pub(super) struct Lease {
    commands: Commands,
    hub: Arc<Hub>,
    queue: Arc<Queue>,
    number: u32,
}

impl Lease {
    /// Ends the subscription while somebody has it yet, and may read what waits.
    pub(super) fn end(&self) {
        self.hub.end_one(self.number);
        self.tell();
    }

    pub(super) fn losses(&self) -> Losses {
        self.queue.losses()
    }

    fn tell(&self) {
        // Without a session there is nobody to tell.
        let _ = self.commands.send(Command::Unsubscribe { subscription: self.number });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.queue.abandon();
        self.hub.remove(self.number);
        self.tell();
    }
}

impl Subscription {
    pub(super) fn new(commands: Commands, ground: &Ground, number: u32, queue: Arc<Queue>) -> Self {
        Self {
            taken: Taken::new(Arc::clone(&ground.latencies)),
            patterns: Vec::new(),
            subscribed: Subscribed::default(),
            queue: Arc::clone(&queue),
            desk: Arc::clone(&ground.desk),
            lease: Arc::new(Lease { commands, hub: Arc::clone(&ground.hub), queue, number }),
        }
    }

    /// The next batch, or interruption; `None` at the end. Cancel-safe: given up midway, nothing is lost.
    pub async fn recv(&mut self) -> Option<Result<ReceivedBatch, RecvError>> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// The next batch, or interruption, for a thread that has nothing else to do meanwhile: it waits here. `None` at the end.
    ///
    /// Where this is the only subscription of its client, the thread reads the rings itself and sleeps on their doorbells: it hears of an event
    /// one switch between threads sooner than [`recv`](Self::recv) does, which hears of it from the client's data thread. Not to be called
    /// within an async runtime, whose thread would wait along with it.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use daemoneye_eventbus::{ConnectOptions, EventBusClient, Nothing, Opaque};
    ///
    /// # let runtime = tokio::runtime::Runtime::new()?;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let bus = runtime.block_on(async {
    /// #     DaemoneyeEventBus::from_broker(DaemoneyeBroker::with_options(BrokerOptions::new(&path))?).await
    /// # })?;
    /// let mut batches = runtime.block_on(async {
    ///     let detector = EventBusClient::connect(ConnectOptions::new("detector").path(&path)).await.expect("a broker");
    ///     detector.subscription(&["events.process.anomaly"]).await
    /// })?;
    /// let reader = std::thread::spawn(move || {
    ///     let batch = batches.blocking_recv().expect("the bus is there").expect("an anomaly");
    ///     assert_eq!(batch.topic().as_str(), "events.process.anomaly");
    ///     assert_eq!(batches.blocking_recv_within(Duration::from_millis(1)).expect_err("that was all"), Nothing);
    /// });
    /// runtime.block_on(bus.publisher("events.process.anomaly"))?.publish(&Opaque(b"it forks"))?;
    /// reader.join().expect("it has read");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn blocking_recv(&mut self) -> Option<Result<ReceivedBatch, RecvError>> {
        self.wait(None).unwrap_or_default()
    }

    /// As [`blocking_recv`](Self::blocking_recv), but not for longer than `patience`.
    ///
    /// # Errors
    /// [`Nothing`] has come by then.
    pub fn blocking_recv_within(
        &mut self,
        patience: Duration,
    ) -> Result<Option<Result<ReceivedBatch, RecvError>>, Nothing> {
        self.wait(Some(deadline_of(patience)))
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Result<Option<Item>, Nothing> {
        if let Poll::Ready(item) = self.poll_recv(&mut Context::from_waker(Waker::noop())) {
            return Ok(item);
        }
        let Self { taken, queue, desk, lease, .. } = self;
        match desk.serve(queue, taken, deadline, || lease.hub.is_alone(lease.number)) {
            Served::Item(item) => return Ok(item),
            Served::Late => return Err(Nothing),
            Served::Elsewhere => {}
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(item) = self.poll_recv(&mut context) {
                return Ok(item);
            }
            let Some(deadline) = deadline else {
                std::thread::park();
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Nothing);
            }
            std::thread::park_timeout(left);
        }
    }

    /// What the broker made of the patterns.
    #[must_use]
    pub fn granted(&self) -> &[TopicPattern] {
        &self.subscribed.granted
    }

    /// What was asked for and is not granted.
    #[must_use]
    pub fn withheld(&self) -> &[Withheld] {
        &self.subscribed.withheld
    }

    /// Components that this subscription does not hear, though it matches what they publish: they did not answer in time, or had no memory for a
    /// ring, when it was made, and their sessions have ended; or one side has broken the ring between them and this process.
    #[must_use]
    pub fn missed(&self) -> &[String] {
        &self.subscribed.missed
    }

    /// What was lost so far on the way to this subscription, told or yet to be told.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.queue.losses()
    }

    /// The same subscription, event by event.
    #[must_use]
    pub fn into_events(self) -> EventReceiver {
        EventReceiver::of(self)
    }

    /// The same subscription, message by message: opaque payloads, too, and all as bytes.
    #[must_use]
    pub fn into_messages(self) -> MessageReceiver {
        MessageReceiver::new(self)
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn lease(&self) -> Weak<Lease> {
        Arc::downgrade(&self.lease)
    }

    pub(super) fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        self.queue.poll_next(&mut self.taken, context)
    }
}

/// Nothing has come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing has come in time")]
pub struct Nothing;

/// Wakes a thread that parks.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Stream for Subscription {
    type Item = Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(context)
    }
}
