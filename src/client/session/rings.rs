//! A client's side of its rings: segments made and attached as the broker asks, and what becomes of it when that fails.

use std::collections::HashMap;
use std::sync::Arc;

use shm::{
    Consumer, ConsumerSegment, ConsumerView, Descriptor, Doorbell, Producer, ProducerSegment, ProducerView,
    SegmentError,
};

use super::making::{Made, Making};
use super::{Disconnected, Ground, Session};
use crate::access::Component;
use crate::dataplane::{InEnd, Inbox, Lineage, Origin, Reader, RecvError, Relayed, RingEnd};
use crate::wire::{Handle, Notice, PublisherId, Request, RingId};

/// A ring between the broker's first and second word about it.
#[derive(Debug)]
pub(super) enum RingState {
    /// The segment is being made.
    Making {
        pair: Pair,
        doorbell: Doorbell,
    },
    Producer {
        pair: Pair,
        half: Option<(ProducerSegment, Doorbell)>,
    },
    Consumer {
        origin: Arc<Origin>,
        lineage: Lineage,
        half: Option<(ConsumerSegment, Doorbell)>,
    },
    /// It leads over the broker, from one of our publishers.
    RelayTo {
        pair: Pair,
        relayed: Arc<Relayed>,
    },
    /// It leads over the broker to here.
    RelayFrom,
}

/// A publisher of this client's, and who hears it: the same, whichever broker joined them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) publisher: u32,
    pub(super) subscriber: String,
    pub(super) client: u64,
}

impl Pair {
    pub(super) fn reader(&self) -> Reader {
        Reader { component: self.subscriber.clone(), client: self.client }
    }
}

impl RingState {
    /// The client's own number of whose ring it is, if it is one of its publishers'.
    fn publisher(&self) -> Option<u32> {
        self.pair().map(|pair| pair.publisher)
    }

    /// Whose ring it is and who hears it, if it is one of our publishers'.
    pub(super) fn pair(&self) -> Option<&Pair> {
        match self {
            Self::Producer { pair, .. } | Self::RelayTo { pair, .. } => Some(pair),
            Self::Making { .. } | Self::Consumer { .. } | Self::RelayFrom => None,
        }
    }

    pub(super) fn is_relayed(&self) -> bool {
        matches!(self, Self::RelayTo { .. } | Self::RelayFrom)
    }

    /// Whether both sides have each other's segment.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Producer { half: None, .. } | Self::Consumer { half: None, .. })
            || self.is_relayed()
    }
}

impl Session {
    pub(super) fn make_producer_segment(
        &mut self,
        ring: RingId,
        pair: Pair,
        ring_bytes: u64,
        doorbell: Option<Descriptor>,
    ) -> Result<(), SegmentError> {
        let Some(doorbell) = doorbell.map(Doorbell::from) else {
            return Ok(());
        };
        let (capacity, backing) = (capacity(ring_bytes), self.welcome.backing);
        if ring_bytes > self.welcome.ring_bytes {
            // Its size is a stranger's wish: up to a GiB to be allocated, while others wait for an answer.
            self.rings.insert(ring, RingState::Making { pair, doorbell });
            self.making.want(ring, capacity);
            self.make_waiting();
            return Ok(());
        }
        let segment = ProducerSegment::create(capacity, backing)?;
        self.offer_producer_segment(ring, pair, segment, doorbell)
    }

    pub(super) fn made(&mut self, (ring, segment): Made) {
        self.make_waiting();
        match self.rings.remove(&ring) {
            Some(RingState::Making { pair, doorbell }) => {
                let offered =
                    segment.and_then(|segment| self.offer_producer_segment(ring, pair, segment, doorbell));
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
        pair: Pair,
        segment: ProducerSegment,
        doorbell: Doorbell,
    ) -> Result<(), SegmentError> {
        let (handle, descriptor) = Handle::split(segment.handle().try_clone()?);
        self.outgoing.push_back((Request::ProducerSegment { ring, handle }, descriptor));
        self.rings.insert(ring, RingState::Producer { pair, half: Some((segment, doorbell)) });
        Ok(())
    }

    pub(super) fn make_consumer_segment(
        &mut self,
        ring: RingId,
        publisher: PublisherId,
        (component, client, number): (&str, u64, u32),
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
        let lineage = Lineage { component: component.clone(), client, number };
        let origin = Arc::new(Origin { component, publisher, epoch: self.welcome.epoch });
        self.rings.insert(ring, RingState::Consumer { origin, lineage, half: Some((segment, doorbell)) });
        Ok(())
    }

    pub(super) fn attach_producer(
        &mut self,
        ring: RingId,
        peer: Option<shm::Handle>,
    ) -> Result<(), SegmentError> {
        let (Some(peer), Some(RingState::Producer { pair, half })) = (peer, self.rings.get_mut(&ring)) else {
            return Ok(());
        };
        let (Some((segment, doorbell)), pair) = (half.take(), pair.clone()) else {
            return Ok(());
        };
        let peer = ConsumerView::attach(peer)?;
        let (progress, producer) = (peer.progress(), Producer::new(segment, peer));
        let before = self.rings_before(&pair);
        if let Some(state) = self.publishers.get(&pair.publisher) {
            let end = RingEnd::Memory(Box::new(producer), progress, doorbell);
            state.outbox.add_ring(ring, end, pair.reader(), before);
        }
        self.release_rings();
        Ok(())
    }

    /// A publisher is closed, and its rings with it: of those of an earlier broker no word comes that they end.
    pub(super) fn forget_rings_of(&mut self, publisher: u32) {
        self.rings.retain(|_, state| state.publisher() != Some(publisher));
    }

    /// Rings of this pair that an earlier broker made: they carry what there is until another takes their place.
    fn rings_before(&self, pair: &Pair) -> Vec<RingId> {
        let is_before = |id: RingId, state: &RingState| {
            let same = matches!(state, RingState::Producer { pair: other, half: None } if other == pair);
            same && life_of(id) != self.life
        };
        let all = self.rings.iter().filter(|(id, state)| is_before(**id, state));
        all.map(|(id, _)| *id).collect()
    }

    /// A client has come back with all that it still may have. Who hears nothing from here over a ring from before is not kept in mind: a
    /// component may say as often as it likes that it is back, as another client each time.
    pub(super) fn settled(&mut self, component: String, client: u64) {
        self.pour_to(&component, client);
        let is_before = |id: RingId, state: &RingState| {
            let RingState::Producer { pair, .. } = state else { return false };
            life_of(id) != self.life && pair.subscriber == component && pair.client == client
        };
        if self.rings.iter().any(|(id, state)| is_before(*id, state)) {
            self.settled.insert((component, client));
            self.release_rings();
        }
    }

    /// Has rings take the place of those from before, where both sides have all that they may have again. Where there is none, those from
    /// before end: their subscriber has asked for nothing that they carry, or may not have it any more.
    pub(super) fn release_rings(&mut self) {
        if self.is_connected() && self.life > 0 {
            self.release(false);
        }
    }

    /// Ends the rings of subscribers that have not come back, and of publishers that have not: no broker says any more that they may hear, or
    /// be heard.
    pub(super) fn end_orphans(&mut self) {
        self.orphans_until = None;
        self.release(true);
        let life = self.life;
        let is_orphan = |id: &RingId, ring: &mut RingState| {
            matches!(ring, RingState::Consumer { .. }) && life_of(*id) != life
        };
        for (ring, _) in self.rings.extract_if(is_orphan) {
            if let Some(inbox) = &self.inbox {
                inbox.cut_off(ring);
            }
        }
    }

    fn release(&mut self, all: bool) {
        for (number, state) in &self.publishers {
            if !all && !state.is_whole() {
                continue;
            }
            // What goes to subscriptions of this client depends on them, and what goes over rings does not.
            if all || self.missing.is_empty() {
                state.outbox.forget_former();
            }
            let mut over: HashMap<&Pair, (Vec<RingId>, Option<RingId>)> = HashMap::new();
            for (id, ring) in &self.rings {
                if let RingState::Producer { pair, half: None } = ring
                    && pair.publisher == *number
                    && (all || self.settled.contains(&(pair.subscriber.clone(), pair.client)))
                {
                    let (before, by) = over.entry(pair).or_default();
                    if life_of(*id) == self.life { *by = Some(*id) } else { before.push(*id) }
                }
            }
            for (before, by) in over.into_values() {
                if !before.is_empty() {
                    state.outbox.release_rings(&before, by);
                    self.released.extend(before);
                }
            }
        }
        for ring in self.released.drain(..) {
            self.rings.remove(&ring);
        }
    }

    /// The broker is gone. Rings that are complete go on, if their other ends do.
    pub(super) fn leave_rings(&mut self, why: &Disconnected) {
        self.end_relays();
        self.left_rings = why.leaves_rings();
        if !self.left_rings {
            self.close_all_rings();
            self.ground.hub.interrupt(&RecvError::Away { why: why.to_string() });
        }
        self.settled.clear();
        // What the broker has not completed by now it never will.
        self.making = Making::new();
        let is_open = |ring: &RingState| {
            ring.publisher().is_none_or(|publisher| self.publishers.contains_key(&publisher))
        };
        self.rings.retain(|_, ring| ring.is_complete() && is_open(ring));
        if let Some(inbox) = &self.inbox {
            self.detaching += 1;
            inbox.detach();
        }
    }

    /// Whether there is another ring from the publisher of this one.
    pub(super) fn has_another_for(&self, ring: &RingState) -> bool {
        let RingState::Consumer { lineage, .. } = ring else { return false };
        let is_of_it =
            |other: &RingState| matches!(other, RingState::Consumer { lineage: of, .. } if of == lineage);
        self.rings.values().any(is_of_it)
    }

    /// A ring's number here: brokers number theirs anew, and rings of more than one may be there at once.
    pub(super) fn localized(&self, mut notice: Notice) -> Notice {
        if let Some(ring) = notice.ring_mut() {
            ring.0 = (ring.0 & RING_MASK) | (u64::from(self.life) << RING_BITS);
        }
        notice
    }

    /// The number that the broker of now has for a ring, if it is of its making.
    pub(super) fn of_broker(&self, ring: RingId) -> Option<RingId> {
        (life_of(ring) == self.life).then_some(RingId(ring.0 & RING_MASK))
    }

    /// What to say to the broker of now. `None`: it is about a ring that it does not know.
    pub(super) fn for_broker(&self, mut request: Request) -> Option<Request> {
        if let Some(ring) = request.ring_mut() {
            let life = life_of(*ring);
            ring.0 &= RING_MASK;
            (life == self.life).then_some(request)
        } else {
            Some(request)
        }
    }

    pub(super) fn attach_consumer(
        &mut self,
        ring: RingId,
        peer: Option<shm::Handle>,
        ring_bytes: u64,
    ) -> Result<(), SegmentError> {
        let (Some(peer), Some(RingState::Consumer { origin, lineage, half })) =
            (peer, self.rings.get_mut(&ring))
        else {
            return Ok(());
        };
        let Some((segment, doorbell)) = half.take() else {
            return Ok(());
        };
        let (origin, lineage) = (Arc::clone(origin), lineage.clone());
        let consumer = Consumer::new(ProducerView::attach(peer, capacity(ring_bytes))?, segment);
        self.inbox()?.add(ring, InEnd::Memory(Box::new(consumer), doorbell), origin, lineage);
        Ok(())
    }

    /// The inbox of this process, which begins with its first ring.
    pub(super) fn inbox(&mut self) -> Result<&Inbox, SegmentError> {
        if self.inbox.is_none() {
            let Ground { hub, desk, data_events, inbox_counters, wait_policy, .. } = &*self.ground;
            let inbox = Inbox::start(
                Arc::clone(hub),
                data_events.clone(),
                Arc::clone(inbox_counters),
                *wait_policy,
                Arc::clone(desk),
            );
            self.inbox = Some(inbox.map_err(|source| SegmentError::Host { step: "read", source })?);
        }
        Ok(self.inbox.as_ref().expect("it was just made"))
    }

    /// Tells the broker if this side of a ring can't be had.
    pub(super) fn or_no_ring(&mut self, ring: RingId, result: Result<(), SegmentError>) {
        if let Err(error) = result {
            tracing::warn!(name: "ring_missing", target: "daemoneye_eventbus::client", %error, "no shared memory for a ring");
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
        tracing::warn!(name: "ring_broken", target: "daemoneye_eventbus::client", ring = ring.0, violation, "the other side broke a ring");
        self.ask(Request::Poisoned { ring, violation });
        self.close_ring(ring, None);
    }

    pub(super) fn close_ring(&mut self, ring: RingId, accused: Option<String>) {
        match self.rings.remove(&ring) {
            Some(RingState::Producer { pair, .. }) => {
                if let Some(state) = self.publishers.get(&pair.publisher) {
                    state.outbox.remove_ring(ring);
                }
            }
            Some(RingState::RelayTo { pair, relayed }) => {
                relayed.end();
                if let Some(state) = self.publishers.get(&pair.publisher) {
                    state.outbox.remove_ring(ring);
                }
            }
            Some(RingState::Consumer { .. } | RingState::RelayFrom) => {
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
        let rings: Vec<RingId> =
            self.rings.keys().copied().filter(|ring| life_of(*ring) == self.life).collect();
        for ring in rings {
            self.close_ring(ring, None);
        }
    }
}

/// Bits of a ring's number that are its broker's. No broker lives to number so many.
const RING_BITS: u32 = 48;
const RING_MASK: u64 = (1 << RING_BITS) - 1;

/// In which life of the session a ring was made.
fn life_of(ring: RingId) -> u16 {
    u16::try_from(ring.0 >> RING_BITS).expect("sixteen bits are left")
}

/// Where no ring can be that large, its making says so.
fn capacity(ring_bytes: u64) -> usize {
    usize::try_from(ring_bytes).unwrap_or(usize::MAX)
}
