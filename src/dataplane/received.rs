//! What a subscriber receives.

use std::sync::{Arc, OnceLock};

use crate::access::Component;
use crate::batch::{BatchView, Record};
use crate::event::BusEvent;
use crate::topic::Topic;
use crate::wire::{Epoch, PublisherId};

/// Who is at the other end of a ring. The broker says so, not the record.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) component: Component,
    pub(crate) publisher: PublisherId,
    pub(crate) epoch: Epoch,
}

/// Events that were published together on one topic: a copy, shared by all subscriptions of this process.
#[derive(Debug, Clone)]
pub struct ReceivedBatch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    record: Record,
    topic: Topic,
    origin: Arc<Origin>,
    /// The events as owned values, made when somebody first asks for them.
    events: OnceLock<Box<[Arc<BusEvent>]>>,
}

impl ReceivedBatch {
    pub(crate) fn new(record: Record, topic: Topic, origin: Arc<Origin>) -> Self {
        Self(Arc::new(Inner { record, topic, origin, events: OnceLock::new() }))
    }

    /// The topic that the events were published on. One that this process was granted.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.0.topic
    }

    /// The component that published the events: the one that the broker knows at the other end of the ring.
    #[must_use]
    pub fn publisher(&self) -> &Component {
        &self.0.origin.component
    }

    /// The number of events, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// The events, to be read in place, without an allocation.
    #[must_use]
    pub fn view(&self) -> BatchView<'_> {
        self.0.record.view()
    }

    /// The events as owned values, made once and shared by all subscriptions of this process. Opaque payloads are no
    /// [`BusEvent`]s and are left out.
    #[must_use]
    pub fn events(&self) -> &[Arc<BusEvent>] {
        self.0.events.get_or_init(|| {
            let view = self.view();
            let Origin { publisher, epoch, .. } = *self.0.origin;
            (0..view.len())
                .zip(view.iter())
                .filter_map(|(position, event)| {
                    let sequence = view.first_sequence().wrapping_add(position as u64);
                    Some(Arc::new(BusEvent {
                        event_id: format!("{:016x}-{}-{sequence}", epoch.0, publisher.0),
                        event: event.to_owned()?,
                        correlation_metadata: view.correlation_of(position).to_owned(),
                        bus_timestamp: view.published_at(),
                    }))
                })
                .collect()
        })
    }
}
