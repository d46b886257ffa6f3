//! Publishing.

use std::cell::Cell;
use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::session::{Command, Commands, Ground};
use crate::batch::{BatchEvent, BatchWriter, EncodeError, EventTooLarge, PushError, RECORD_BYTES_TARGET};
use crate::correlation::{CorrelationError, CorrelationMetadata};
use crate::dataplane::{Delivery, Outbox, OutboxShared, RecordLimits};
use crate::routing::TopicId;

/// Records of ordinary size that a publisher keeps for its next batch: 4 MiB of them, which is a scan of some 15,000 processes.
const RECORDS_KEPT: usize = 64;

/// Events that not every subscriber has read within the patience of a [`flush`](Publisher::flush). They are not lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{events} events were not read by every subscriber in time")]
pub struct Unread {
    /// How many, at most.
    pub events: u64,
}

/// Publishes on one topic, over rings of its own. `Send`, but neither `Sync` nor `Clone`: it is the one producer of its rings.
///
/// Publishing is synchronous and never waits. A subscriber whose ring is full loses the newest events, and is told how many. Who would rather
/// wait than lose says for how long: [`publish_within`](Self::publish_within), [`flush`](Self::flush).
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, CorrelationMetadata, EventBusClient};
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
/// let mut batches = bus.subscription(&["events.process.#"]).await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
///
/// let mut publisher = procmond.publisher("events.process.start").await?;
/// publisher.set_correlation(CorrelationMetadata::new("scan-1".to_string()))?;
/// let delivery = publisher.publish(&process(1234))?;
/// assert_eq!((delivery.subscribers, delivery.reached), (1, 1));
///
/// let batch = batches.recv().await.expect("the bus is there")?;
/// assert_eq!(batch.view().correlation().correlation_id(), "scan-1");
/// assert_eq!(publisher.published(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Publisher {
    // Dropped first: it closes the rings before the broker hears of it.
    outbox: Outbox,
    shared: Arc<OutboxShared>,
    topic: TopicId,
    correlation: CorrelationMetadata,
    /// What records know the correlation by.
    stamp: NonZeroU64,
    /// The records of the batch in progress, and of earlier ones, to be used again.
    records: Vec<BatchWriter>,
    lease: Lease,
    not_sync: PhantomData<Cell<()>>,
}

/// The broker's knowledge of a publisher, for as long as it lives.
#[derive(Debug)]
struct Lease {
    number: u32,
    commands: Commands,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Without a session there is nobody to tell.
        let _ = self.commands.send(Command::ClosePublisher { publisher: self.number });
    }
}

impl Publisher {
    pub(super) fn new(
        number: u32,
        commands: Commands,
        shared: Arc<OutboxShared>,
        ground: &Ground,
        record_bytes_max: u32,
    ) -> Self {
        let (hub, events) = (Arc::clone(&ground.hub), ground.data_events.clone());
        Self {
            outbox: Outbox::new(Arc::clone(&shared), hub, events, record_bytes_max),
            shared,
            topic: TopicId::nth(0),
            correlation: CorrelationMetadata::default(),
            stamp: NonZeroU64::MIN,
            records: Vec::new(),
            lease: Lease { number, commands },
            not_sync: PhantomData,
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.lease.number
    }

    pub(super) fn set_topic(&mut self, topic: TopicId) {
        self.topic = topic;
    }

    /// Sets what later events are correlated with, unless they say otherwise. At first it is a new id.
    ///
    /// # Errors
    /// [`CorrelationError`], if something of it is above its limit; the one before stays.
    pub fn set_correlation(&mut self, correlation: CorrelationMetadata) -> Result<(), CorrelationError> {
        correlation.check()?;
        self.correlation = correlation;
        self.stamp = self.stamp.checked_add(1).expect("nobody sets it for centuries");
        Ok(())
    }

    /// Publishes one event. Never waits.
    ///
    /// An event of up to an eighth of the broker's ring size is never refused, a larger one only where no subscriber's ring takes it.
    /// Whose ring is too small for it loses it, and is told, as if the ring were full.
    ///
    /// # Errors
    /// [`EventTooLarge`], and nothing was published. It is looked at only if there is a subscriber.
    pub fn publish(&mut self, event: &impl BatchEvent) -> Result<Delivery, EventTooLarge> {
        if !self.outbox.has_targets(self.topic) {
            return Ok(self.outbox.skip(self.topic, 1));
        }
        self.encode(self.topic, event, None)?;
        Ok(self.publish_first(self.topic))
    }

    /// Publishes one event, and rather waits than have a subscriber lose it: for up to `patience`, until each subscriber has room
    /// in its ring. Who has none even then loses it, and is told so, as with [`publish`](Self::publish).
    ///
    /// Room in a ring is all that it waits for: the subscriber's process empties it into the queues of its subscriptions, where an
    /// application that is too slow loses. Subscriptions of this process have no ring.
    ///
    /// Cancelled, it has published nothing.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_within(
        &mut self,
        event: &impl BatchEvent,
        patience: Duration,
    ) -> Result<Delivery, EventTooLarge> {
        let deadline = deadline_of(patience);
        if !self.outbox.has_targets(self.topic) {
            return Ok(self.outbox.skip(self.topic, 1));
        }
        self.encode(self.topic, event, None)?;
        self.outbox.await_room(self.topic, self.records[0].bytes(), deadline).await;
        Ok(self.publish_first(self.topic))
    }

    /// Publishes one event on any topic of this publisher.
    pub(super) fn publish_on(
        &mut self,
        topic: TopicId,
        event: &impl BatchEvent,
        correlation: &CorrelationMetadata,
    ) -> Result<Delivery, EventTooLarge> {
        if !self.outbox.has_targets(topic) {
            return Ok(self.outbox.skip(topic, 1));
        }
        self.encode(topic, event, Some(correlation))?;
        Ok(self.publish_first(topic))
    }

    /// Encodes one event into the first record, under this publisher's correlation or another.
    fn encode(
        &mut self,
        topic: TopicId,
        event: &impl BatchEvent,
        other: Option<&CorrelationMetadata>,
    ) -> Result<(), EventTooLarge> {
        let (correlation, stamp) = other.map_or((&self.correlation, Some(self.stamp)), |other| (other, None));
        let RecordLimits { single, shared } = self.outbox.limits(topic);
        if self.records.is_empty() {
            self.records.push(BatchWriter::new(single));
        }
        let record = &mut self.records[0];
        record.limit_to(single, shared);
        record.begin_stamped(correlation, stamp)?;
        match record.push(event, None) {
            Ok(()) => Ok(()),
            Err(PushError::EventTooLarge(error)) => Err(error),
            Err(PushError::RecordFull) => unreachable!("an empty record is not full"),
        }
    }

    fn publish_first(&mut self, topic: TopicId) -> Delivery {
        let delivery = self.outbox.publish(topic, &mut self.records[0]);
        self.outbox.flush();
        delivery
    }

    /// Begins a batch: events that are published together.
    pub fn batch(&mut self) -> BatchBuilder<'_> {
        BatchBuilder { publisher: self, filled: 0, open: false, events: 0 }
    }

    /// Of the events published so far, counted from the first, how many every subscriber that is there has read, or is told of as
    /// lost: what a write-ahead log needs to keep no longer. It may lag behind by a 64th of a ring while a subscriber reads. It never falls, though
    /// who comes after a broker was away may yet be given what others have read.
    ///
    /// Read means: out of the ring, by the subscriber's process. What its application makes of it, and whether the process lives
    /// for long enough, no publisher hears.
    pub fn consumed(&mut self) -> u64 {
        self.outbox.consumed()
    }

    /// Waits for up to `patience` until every subscriber has read all that was published so far. For what *read* means see
    /// [`consumed`](Self::consumed). Cancel-safe.
    ///
    /// # Errors
    /// [`Unread`] if they have not.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use daemoneye_eventbus::{ConnectOptions, EventBusClient, Opaque};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
    /// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
    /// let _batches = bus.subscription(&["events.process.#"]).await?;
    /// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
    /// let mut publisher = procmond.publisher("events.process.batch").await?;
    /// publisher.publish_within(&Opaque(b"it waits for room"), Duration::from_secs(1)).await?;
    /// publisher.flush(Duration::from_secs(10)).await?;
    /// assert_eq!(publisher.consumed(), publisher.published());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn flush(&mut self, patience: Duration) -> Result<(), Unread> {
        self.outbox.await_readers(deadline_of(patience)).await;
        match self.published() - self.consumed() {
            0 => Ok(()),
            events => Err(Unread { events }),
        }
    }

    /// Subscriber processes that an event is for that is published now. What is published to nobody is gone, so who has one thing to
    /// say looks first.
    ///
    /// ```
    /// use daemoneye_eventbus::{ConnectOptions, EventBusClient};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
    /// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
    /// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
    /// let mut publisher = procmond.publisher("events.process.batch").await?;
    /// assert_eq!(publisher.subscribers(), 0);
    ///
    /// let _batches = bus.subscription(&["events.process.#"]).await?;
    /// assert_eq!((publisher.subscribers(), publisher.published()), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribers(&mut self) -> u64 {
        self.outbox.subscribers(self.topic)
    }

    /// The same for any topic of this publisher.
    pub(super) fn subscribers_of(&mut self, topic: TopicId) -> u64 {
        self.outbox.subscribers(topic)
    }

    /// Events published so far, whether anybody was there for them or not.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.shared.totals().events
    }

    /// What became of all events published so far: sums over all calls, `subscribers` being those of the last.
    #[must_use]
    pub fn totals(&self) -> Delivery {
        self.shared.totals()
    }
}

/// Patience beyond what clocks can tell is for ever, which here is a century.
pub(super) fn deadline_of(patience: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    Instant::now() + patience.min(CENTURY)
}

/// Events on their way into one batch. They are encoded as they are pushed, and leave together with [`publish`](Self::publish);
/// dropped before that, nothing of them leaves.
///
/// A batch of any length can be pushed: it is divided into records of up to 64 KiB and 512 events, or of what the smallest ring of
/// its subscribers takes. Full records go ahead into the rings, where nobody sees them yet: a subscriber that comes before the
/// batch is published is told of these as lost.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, EventBusClient};
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
/// let mut batches = bus.subscription(&["events.process.#"]).await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// let mut publisher = procmond.publisher("events.process.batch").await?;
///
/// let mut given_up = publisher.batch();
/// given_up.push(&process(1))?;
/// drop(given_up);
/// let mut scan = publisher.batch();
/// for pid in 10..13 {
///     scan.push(&process(pid))?;
/// }
/// assert_eq!(scan.publish().reached, 3);
/// assert_eq!(batches.recv().await.expect("the bus is there")?.len(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BatchBuilder<'a> {
    publisher: &'a mut Publisher,
    /// Records that are full, before the one that is being filled.
    filled: usize,
    open: bool,
    events: u64,
}

impl BatchBuilder<'_> {
    /// Adds an event.
    ///
    /// # Errors
    /// [`EventTooLarge`] if no record takes it; the batch is as it was.
    pub fn push(&mut self, event: &impl BatchEvent) -> Result<(), EventTooLarge> {
        self.push_event(event, None)
    }

    /// Adds an event that is correlated otherwise than the rest of the batch.
    ///
    /// # Errors
    /// As [`push`](Self::push), and if something of the correlation is above its limit.
    pub fn push_correlated(
        &mut self,
        event: &impl BatchEvent,
        correlation: &CorrelationMetadata,
    ) -> Result<(), EncodeError> {
        correlation.check()?;
        Ok(self.push_event(event, Some(correlation))?)
    }

    /// Events in the batch so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.events
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Publishes the batch. Never waits.
    pub fn publish(mut self) -> Delivery {
        let (outbox, topic, records) = self.full_records();
        let mut delivery = outbox.publish_staged(topic);
        for record in records {
            delivery.add(outbox.publish(topic, record));
            // Once per record and not at the end: a batch may be larger than a ring, and the subscriber can make room
            // only for what it sees.
            outbox.flush();
        }
        delivery
    }

    /// Publishes the batch, and rather waits than have a subscriber lose a part of it: for up to `patience` in all, as
    /// [`Publisher::publish_within`] does for one event. So a batch may be larger than a ring.
    ///
    /// Cancelled, it has published as many records from the front as had room by then; [`Publisher::published`] tells how many
    /// events that are.
    pub async fn publish_within(mut self, patience: Duration) -> Delivery {
        let deadline = deadline_of(patience);
        let (outbox, topic, records) = self.full_records();
        let mut delivery = outbox.publish_staged(topic);
        for record in records {
            outbox.await_room(topic, record.bytes(), deadline).await;
            delivery.add(outbox.publish(topic, record));
            outbox.flush();
        }
        delivery
    }

    /// The records with something in them, and where they go.
    fn full_records(&mut self) -> (&mut Outbox, TopicId, impl Iterator<Item = &mut BatchWriter>) {
        let Publisher { outbox, records, topic, .. } = &mut *self.publisher;
        let count = if self.events > 0 { self.filled + 1 } else { 0 };
        let records = records.iter_mut().take(count).filter(|record| record.len() > 0);
        (outbox, *topic, records)
    }

    fn push_event(
        &mut self,
        event: &impl BatchEvent,
        correlation: Option<&CorrelationMetadata>,
    ) -> Result<(), EventTooLarge> {
        if !self.open {
            self.publisher.outbox.follow();
            self.begin(0)?;
        }
        match self.publisher.records[self.filled].push(event, correlation) {
            Ok(()) => {}
            Err(PushError::EventTooLarge(error)) => return Err(error),
            Err(PushError::RecordFull) => {
                self.begin_next()?;
                match self.publisher.records[self.filled].push(event, correlation) {
                    Ok(()) => {}
                    Err(PushError::EventTooLarge(error)) => return Err(error),
                    Err(PushError::RecordFull) => unreachable!("an empty record is not full"),
                }
            }
        }
        self.events += 1;
        Ok(())
    }

    /// Opens a record behind the one that is full: in its place, if that can go ahead into the rings.
    fn begin_next(&mut self) -> Result<(), EventTooLarge> {
        let Publisher { outbox, records, topic, .. } = &mut *self.publisher;
        if self.filled == 0 && outbox.stage(*topic, &mut records[0]) {
            return self.begin(0);
        }
        self.begin(self.filled + 1)
    }

    /// Opens the record with this index.
    fn begin(&mut self, index: usize) -> Result<(), EventTooLarge> {
        let Publisher { outbox, records, topic, correlation, stamp, .. } = &mut *self.publisher;
        let RecordLimits { single, shared } = outbox.limits(*topic);
        if records.len() == index {
            records.push(BatchWriter::new(single));
        }
        records[index].limit_to(single, shared);
        records[index].begin_stamped(correlation, Some(*stamp))?;
        self.filled = index;
        self.open = true;
        Ok(())
    }
}

impl Drop for BatchBuilder<'_> {
    fn drop(&mut self) {
        let Publisher { records, outbox, .. } = &mut *self.publisher;
        outbox.take_back_staged();
        records.truncate(RECORDS_KEPT);
        records.retain(|record| record.bytes() <= RECORD_BYTES_TARGET);
    }
}
