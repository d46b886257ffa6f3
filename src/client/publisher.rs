//! Publishing.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use super::session::{Command, Commands, Ground};
use crate::batch::{BatchEvent, BatchWriter, EventTooLarge, PushError, RECORD_BYTES_TARGET};
use crate::correlation::CorrelationMetadata;
use crate::dataplane::{Delivery, Outbox, OutboxShared, RecordLimits};
use crate::routing::TopicId;

/// Records of ordinary size that a publisher keeps for its next batch: 4 MiB of them, which is a scan of some 15,000 processes.
const RECORDS_KEPT: usize = 64;

/// Publishes on one topic, over rings of its own. `Send`, but neither `Sync` nor `Clone`: it is the one producer of its rings.
///
/// Publishing is synchronous and never waits. A subscriber whose ring is full loses the newest events, and is told how many.
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
/// publisher.set_correlation(CorrelationMetadata::new("scan-1".to_string()));
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
    pub fn set_correlation(&mut self, correlation: CorrelationMetadata) {
        self.correlation = correlation;
    }

    /// Publishes one event. Never waits.
    ///
    /// An event of up to an eighth of the broker's ring size is never refused, a larger one only where no subscriber's ring takes it.
    /// Whose ring is too small for it loses it, and is told, as if the ring were full.
    ///
    /// # Errors
    /// [`EventTooLarge`], and nothing was published. It is looked at only if there is a subscriber.
    pub fn publish(&mut self, event: &impl BatchEvent) -> Result<Delivery, EventTooLarge> {
        let Self { outbox, records, topic, correlation, .. } = self;
        publish_one(outbox, records, *topic, event, correlation)
    }

    /// Publishes one event on any topic of this publisher.
    pub(super) fn publish_on(
        &mut self,
        topic: TopicId,
        event: &impl BatchEvent,
        correlation: &CorrelationMetadata,
    ) -> Result<Delivery, EventTooLarge> {
        let Self { outbox, records, .. } = self;
        publish_one(outbox, records, topic, event, correlation)
    }

    /// Begins a batch: events that are published together.
    pub fn batch(&mut self) -> BatchBuilder<'_> {
        BatchBuilder { publisher: self, filled: 0, open: false, events: 0 }
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

fn publish_one(
    outbox: &mut Outbox,
    records: &mut Vec<BatchWriter>,
    topic: TopicId,
    event: &impl BatchEvent,
    correlation: &CorrelationMetadata,
) -> Result<Delivery, EventTooLarge> {
    if !outbox.has_targets(topic) {
        return Ok(outbox.skip(1));
    }
    let RecordLimits { single, shared } = outbox.limits(topic);
    if records.is_empty() {
        records.push(BatchWriter::new(single));
    }
    let record = &mut records[0];
    record.limit_to(single, shared);
    record.begin(correlation)?;
    match record.push(event, None) {
        Ok(()) => {}
        Err(PushError::EventTooLarge(error)) => return Err(error),
        Err(PushError::RecordFull) => unreachable!("an empty record is not full"),
    }
    let delivery = outbox.publish(topic, record);
    outbox.flush();
    Ok(delivery)
}

/// Events on their way into one batch. They are encoded as they are pushed, and leave together with [`publish`](Self::publish);
/// dropped before that, nothing of them leaves.
///
/// A batch of any length can be pushed: it is divided into records of up to 64 KiB and 512 events, or of what the smallest ring of
/// its subscribers takes.
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
    /// As [`push`](Self::push).
    pub fn push_correlated(
        &mut self,
        event: &impl BatchEvent,
        correlation: &CorrelationMetadata,
    ) -> Result<(), EventTooLarge> {
        self.push_event(event, Some(correlation))
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
    pub fn publish(self) -> Delivery {
        let mut delivery = Delivery::default();
        if self.events > 0 {
            let Publisher { outbox, records, topic, .. } = self.publisher;
            for record in records.iter_mut().take(self.filled + 1).filter(|record| record.len() > 0) {
                delivery.add(outbox.publish(*topic, record));
                // Once per record and not at the end: a batch may be larger than a ring, and the subscriber can make room
                // only for what it sees.
                outbox.flush();
            }
        }
        delivery
    }

    fn push_event(
        &mut self,
        event: &impl BatchEvent,
        correlation: Option<&CorrelationMetadata>,
    ) -> Result<(), EventTooLarge> {
        if !self.open {
            self.begin(0)?;
        }
        match self.publisher.records[self.filled].push(event, correlation) {
            Ok(()) => {}
            Err(PushError::EventTooLarge(error)) => return Err(error),
            Err(PushError::RecordFull) => {
                self.begin(self.filled + 1)?;
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

    /// Opens the record with this index.
    fn begin(&mut self, index: usize) -> Result<(), EventTooLarge> {
        let Publisher { outbox, records, topic, correlation, .. } = &mut *self.publisher;
        let RecordLimits { single, shared } = outbox.limits(*topic);
        if records.len() == index {
            records.push(BatchWriter::new(single));
        }
        records[index].limit_to(single, shared);
        records[index].begin(correlation)?;
        self.filled = index;
        self.open = true;
        Ok(())
    }
}

impl Drop for BatchBuilder<'_> {
    fn drop(&mut self) {
        let Publisher { records, .. } = &mut *self.publisher;
        records.truncate(RECORDS_KEPT);
        records.retain(|record| record.bytes() <= RECORD_BYTES_TARGET);
    }
}
