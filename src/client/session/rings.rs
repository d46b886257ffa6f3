//! A client's side of its rings: segments made and attached as the broker asks, and what becomes of it when that fails.

use std::sync::Arc;

use shm::{
    Consumer, ConsumerSegment, ConsumerView, Descriptor, Doorbell, Producer, ProducerSegment, ProducerView,
    SegmentError,
};

use super::making::Made;
use super::{Ground, Session};
use crate::access::Component;
use crate::dataplane::{Inbox, Origin};
use crate::wire::{Handle, PublisherId, Request, RingId};

/// A ring between the broker's first and second word about it.
#[derive(Debug)]
pub(super) enum RingState {
    /// The segment is being made.
    Making {
        publisher: u32,
        doorbell: Doorbell,
    },
    Producer {
        publisher: u32,
        half: Option<(ProducerSegment, Doorbell)>,
    },
    Consumer {
        origin: Arc<Origin>,
        half: Option<(ConsumerSegment, Doorbell)>,
    },
}

impl RingState {
    /// Whether both sides have each other's segment.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Producer { half: None, .. } | Self::Consumer { half: None, .. })
    }
}

impl Session {
    pub(super) fn make_producer_segment(
        &mut self,
        ring: RingId,
        publisher: u32,
        ring_bytes: u64,
        doorbell: Option<Descriptor>,
    ) -> Result<(), SegmentError> {
        let Some(doorbell) = doorbell.map(Doorbell::from) else {
            return Ok(());
        };
        let (capacity, backing) = (capacity(ring_bytes), self.welcome.backing);
        if ring_bytes > self.welcome.ring_bytes {
            // Its size is a stranger's wish: up to a GiB to be allocated, while others wait for an answer.
            self.rings.insert(ring, RingState::Making { publisher, doorbell });
            self.making.want(ring, capacity);
            self.make_waiting();
            return Ok(());
        }
        let segment = ProducerSegment::create(capacity, backing)?;
        self.offer_producer_segment(ring, publisher, segment, doorbell)
    }

    pub(super) fn made(&mut self, (ring, segment): Made) {
        self.make_waiting();
        match self.rings.remove(&ring) {
            Some(RingState::Making { publisher, doorbell }) => {
                let offered = segment
                    .and_then(|segment| self.offer_producer_segment(ring, publisher, segment, doorbell));
                self.or_no_ring(ring, offered);
            }
            // It was closed meanwhile.
            Some(other) => drop(self.rings.insert(ring, other)),
            None => {}
        }
    }

    fn make_waiting(&mut self) {
        for (ring, source) in self.making.go_on(self.welcome.backing) {
            self.rings.remove(&ring);
            self.or_no_ring(ring, Err(SegmentError::Host { step: "make", source }));
        }
    }

    fn offer_producer_segment(
        &mut self,
        ring: RingId,
        publisher: u32,
        segment: ProducerSegment,
        doorbell: Doorbell,
    ) -> Result<(), SegmentError> {
        let (handle, descriptor) = Handle::split(segment.handle().try_clone()?);
        self.outgoing.push_back((Request::ProducerSegment { ring, handle }, descriptor));
        self.rings.insert(ring, RingState::Producer { publisher, half: Some((segment, doorbell)) });
        Ok(())
    }

    pub(super) fn make_consumer_segment(
        &mut self,
        ring: RingId,
        publisher: PublisherId,
        component: &str,
        doorbell: Option<Descriptor>,
    ) -> Result<(), SegmentError> {
        let (Some(doorbell), Ok(component)) =
            (doorbell.map(Doorbell::from), Component::from_client_id(component))
        else {
            return Ok(());
        };
        let segment = ConsumerSegment::create(self.welcome.backing)?;
        let (handle, descriptor) = Handle::split(segment.handle().try_clone()?);
        self.outgoing.push_back((Request::ConsumerSegment { ring, handle }, descriptor));
        let origin = Arc::new(Origin { component, publisher, epoch: self.welcome.epoch });
        self.rings.insert(ring, RingState::Consumer { origin, half: Some((segment, doorbell)) });
        Ok(())
    }

    pub(super) fn attach_producer(
        &mut self,
        ring: RingId,
        peer: Option<shm::Handle>,
    ) -> Result<(), SegmentError> {
        let (Some(peer), Some(RingState::Producer { publisher, half })) = (peer, self.rings.get_mut(&ring))
        else {
            return Ok(());
        };
        let (Some((segment, doorbell)), Some(state)) = (half.take(), self.publishers.get(publisher)) else {
            return Ok(());
        };
        let producer = Producer::new(segment, ConsumerView::attach(peer)?);
        state.outbox.add_ring(ring, producer, doorbell);
        Ok(())
    }

    pub(super) fn attach_consumer(
        &mut self,
        ring: RingId,
        peer: Option<shm::Handle>,
        ring_bytes: u64,
    ) -> Result<(), SegmentError> {
        let (Some(peer), Some(RingState::Consumer { origin, half })) = (peer, self.rings.get_mut(&ring))
        else {
            return Ok(());
        };
        let Some((segment, doorbell)) = half.take() else {
            return Ok(());
        };
        let origin = Arc::clone(origin);
        let consumer = Consumer::new(ProducerView::attach(peer, capacity(ring_bytes))?, segment);
        if self.inbox.is_none() {
            let Ground { hub, desk, data_events, inbox_counters, wait_policy, .. } = &*self.ground;
            let inbox = Inbox::start(
                Arc::clone(hub),
                data_events.clone(),
                Arc::clone(inbox_counters),
                *wait_policy,
                Arc::clone(desk),
            );
            let inbox = inbox.map_err(|source| SegmentError::Host { step: "read", source })?;
            self.inbox = Some(inbox);
        }
        if let Some(inbox) = &self.inbox {
            inbox.add(ring, consumer, doorbell, origin);
        }
        Ok(())
    }

    /// Tells the broker if this side of a ring can't be had.
    pub(super) fn or_no_ring(&mut self, ring: RingId, result: Result<(), SegmentError>) {
        if let Err(error) = result {
            tracing::warn!(%error, "no shared memory for a ring");
            self.ask(Request::NoRing { ring, cause: error.to_string() });
        }
    }

    /// As [`or_no_ring`](Self::or_no_ring), but for what the other side has done to its segment: the kernel's view of it the
    /// broker has checked, what is in it can change at any time.
    pub(super) fn or_poisoned(&mut self, ring: RingId, result: Result<(), SegmentError>) {
        match result {
            Err(
                error @ (SegmentError::NotMemory
                | SegmentError::NotSealed { .. }
                | SegmentError::NotPrivate { .. }
                | SegmentError::Size { .. }
                | SegmentError::Magic { .. }),
            ) => self.poisoned(ring, error.to_string()),
            // It ended, or let go of the ring, while its name was on its way here.
            Err(SegmentError::Gone) => self.close_ring(ring, None),
            result => self.or_no_ring(ring, result),
        }
    }

    pub(super) fn poisoned(&mut self, ring: RingId, violation: String) {
        tracing::warn!(ring = ring.0, violation, "the other side broke a ring");
        self.ask(Request::Poisoned { ring, violation });
        self.close_ring(ring, None);
    }

    pub(super) fn close_ring(&mut self, ring: RingId, accused: Option<String>) {
        match self.rings.remove(&ring) {
            Some(RingState::Producer { publisher, .. }) => {
                if let Some(state) = self.publishers.get(&publisher) {
                    state.outbox.remove_ring(ring);
                }
            }
            Some(RingState::Consumer { .. }) => {
                if let Some(inbox) = &self.inbox {
                    inbox.close(ring, accused);
                }
            }
            Some(RingState::Making { .. }) => self.making.give_up(ring),
            None => {}
        }
    }

    /// The broker has ended the session, and with it all rings from here and to here: it tells the other ends so.
    pub(super) fn close_all_rings(&mut self) {
        let rings: Vec<RingId> = self.rings.keys().copied().collect();
        for ring in rings {
            self.close_ring(ring, None);
        }
    }
}

/// Where no ring can be that large, its making says so.
fn capacity(ring_bytes: u64) -> usize {
    usize::try_from(ring_bytes).unwrap_or(usize::MAX)
}
