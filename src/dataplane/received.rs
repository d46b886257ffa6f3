//! What a subscriber receives.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Chunk;
use crate::access::Component;
use crate::batch::{BatchView, EventRef};
use crate::event::BusEvent;
use crate::message::{Held, Message, MessageType};
use crate::sys;
use crate::topic::Topic;
use crate::wire::{Epoch, PublisherId};

/// Bytes of correlations up to which a batch keeps its owned events: four times the largest record of many events. A batch of 512
/// with one ordinary correlation needs a third.
const CORRELATION_BYTES_SHARED: usize = 256 << 10;

/// Who is at the other end of a ring. The broker says so, not the record.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) component: Component,
    pub(crate) publisher: PublisherId,
    pub(crate) epoch: Epoch,
}

/// Events that were published together on one topic: a copy, shared by all subscriptions of this process.
///
/// Small batches share memory with others that came along, up to 8 KiB: who keeps one for long keeps those, too.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, EventBusClient, EventRef};
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
/// procmond.publisher("events.process.start").await?.publish(&process(1234))?;
///
/// let batch = batches.recv().await.expect("the bus is there")?;
/// assert_eq!((batch.topic().as_str(), batch.publisher().as_str()), ("events.process.start", "procmond"));
/// for event in batch.view().iter() {
///     let EventRef::Process(event) = event else { panic!("it holds one process event") };
///     assert_eq!(event.pid(), 1234);
/// }
/// let owned = batch.event(0).expect("it is not opaque");
/// assert_eq!(owned.event, process(1234).into());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ReceivedBatch {
    chunk: Arc<Chunk>,
    record: usize,
}

impl ReceivedBatch {
    /// The record with this number of a chunk.
    pub(super) const fn new(chunk: Arc<Chunk>, record: usize) -> Self {
        Self { chunk, record }
    }

    #[cfg(test)]
    pub(super) fn origin(&self) -> &Origin {
        &self.chunk.origin
    }

    /// The topic that the events were published on. One that this process was granted.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.chunk.topic
    }

    /// The component that published the events: the one that the broker knows at the other end of the ring.
    #[must_use]
    pub fn publisher(&self) -> &Component {
        &self.chunk.origin.component
    }

    /// The number of events, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// How long ago the publisher says that it published the events, by the clock that all processes of this host share
    /// (`CLOCK_MONOTONIC`). Zero if it claims a moment that is yet to come.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_nanos(sys::monotonic_nanos().saturating_sub(self.view().monotonic_nanos()))
    }

    /// The events, to be read in place, without an allocation.
    #[must_use]
    pub fn view(&self) -> BatchView<'_> {
        self.chunk.view(self.record)
    }

    /// One event as an owned value; `None` for an opaque one, and beyond the last. Made once and shared by all subscriptions of
    /// this process, unless the events carry so large a correlation that they would fill its memory: then anew at each call.
    #[must_use]
    pub fn event(&self, position: usize) -> Option<Arc<BusEvent>> {
        let view = self.view();
        if position >= view.len() {
            return None;
        }
        let shared = self.chunk.owned(self.record, || {
            let small = view.correlation_bytes() <= CORRELATION_BYTES_SHARED;
            small.then(|| {
                view.iter().enumerate().map(|(position, event)| self.make(position, event)).collect()
            })
        });
        match shared {
            Some(events) => events[position].clone(),
            None => self.make(position, view.event(position)),
        }
    }

    /// One event as a message, whatever it is; `None` beyond the last. Made anew at each call.
    pub(crate) fn message(&self, position: usize) -> Option<Message> {
        let view = self.view();
        if position >= view.len() {
            return None;
        }
        let event = view.event(position);
        let payload = match (event, event.to_owned()) {
            (EventRef::Opaque(payload), _) => payload.to_vec(),
            (_, owned) => {
                let owned = owned.expect("only opaque events have no kind");
                owned.to_bytes().expect("an event of a record fits into one")
            }
        };
        Some(Message {
            id: self.id(position),
            topic: self.topic().to_string(),
            correlation_metadata: view.correlation_of(position).to_owned(),
            payload,
            sequence: self.sequence(position),
            timestamp: view.published_at(),
            message_type: MessageType::of(self.topic()),
            held: Held::default(),
        })
    }

    /// The publisher's own number of an event.
    fn sequence(&self, position: usize) -> u64 {
        self.view().first_sequence().wrapping_add(position as u64)
    }

    /// The same for all who receive the event, and no other event's: what names it, made as short as an id is.
    fn id(&self, position: usize) -> Uuid {
        let Origin { publisher, epoch, .. } = *self.chunk.origin;
        let mut hasher = blake3::Hasher::new();
        for part in [epoch.0, publisher.0, self.sequence(position)] {
            hasher.update(&part.to_le_bytes());
        }
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        uuid::Builder::from_custom_bytes(id).into_uuid()
    }

    fn make(&self, position: usize, event: EventRef<'_>) -> Option<Arc<BusEvent>> {
        let view = self.view();
        let Origin { publisher, epoch, .. } = *self.chunk.origin;
        let sequence = self.sequence(position);
        Some(Arc::new(BusEvent {
            event_id: format!("{:016x}-{}-{sequence}", epoch.0, publisher.0),
            event: event.to_owned()?,
            correlation_metadata: view.correlation_of(position).to_owned(),
            bus_timestamp: view.published_at(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::batch::BatchWriter;
    use crate::correlation::CorrelationMetadata;
    use crate::dataplane::chunk::{Pool, own};
    use crate::event::FilesystemEvent;

    fn received(record: &BatchWriter, topic: &str, origin: Origin) -> ReceivedBatch {
        let topic = Topic::new(topic).expect("a topic");
        let mut chunk = Pool::default().take(record.bytes(), &topic, &Arc::new(origin));
        own(&mut chunk).push_own(record);
        ReceivedBatch::new(chunk, 0)
    }

    fn published_at(monotonic_nanos: u64) -> ReceivedBatch {
        let event = FilesystemEvent {
            path: "/etc/passwd".into(),
            event_type: "modify".into(),
            size: None,
            metadata: std::collections::HashMap::new(),
        };
        let mut writer = BatchWriter::new(u32::MAX);
        writer.begin(&CorrelationMetadata::default()).expect("it fits");
        writer.push(&event, None).expect("it fits");
        writer.seal(0, UNIX_EPOCH, monotonic_nanos);
        let component = Component::from_client_id("procmond").expect("a name");
        let origin = Origin { component, publisher: PublisherId(1), epoch: Epoch(1) };
        received(&writer, "events.process.batch", origin)
    }

    #[test]
    fn the_age_of_a_batch_counts_from_when_it_was_published() {
        let second = Duration::from_secs(1);
        let age = published_at(sys::monotonic_nanos() - 1_000_000_000).age();
        assert!(age >= second && age < 60 * second, "{age:?}");
    }

    #[test]
    fn a_publisher_that_claims_the_future_gets_no_negative_age() {
        assert_eq!(published_at(u64::MAX).age(), Duration::ZERO);
    }

    #[test]
    fn owned_events_are_shared_unless_their_correlations_would_fill_the_memory() {
        let of = |text: usize| {
            let mut writer = BatchWriter::new(u32::MAX);
            let correlation = CorrelationMetadata::default().with_tag("t".to_owned(), "v".repeat(text));
            writer.begin(&correlation).expect("it fits");
            for pid in 0..500 {
                let metric = crate::event::PerformanceEvent {
                    metric_name: format!("load-{pid}"),
                    value: 1.0,
                    unit: String::new(),
                    metadata: std::collections::HashMap::new(),
                };
                writer.push(&metric, None).expect("it fits");
            }
            writer.seal(0, UNIX_EPOCH, 0);
            let component = Component::from_client_id("procmond").expect("a name");
            let origin = Origin { component, publisher: PublisherId(1), epoch: Epoch(1) };
            received(&writer, "events.performance.event", origin)
        };
        let twice =
            |batch: &ReceivedBatch| (batch.event(3).expect("an event"), batch.event(3).expect("an event"));
        let (one, other) = twice(&of(10));
        assert!(Arc::ptr_eq(&one, &other));
        let (one, other) = twice(&of(1000));
        assert!(!Arc::ptr_eq(&one, &other), "500 events with a text of 1,000 bytes each");
        assert_eq!(one, other);
        assert_eq!(of(10).event(500), None);
    }
}
