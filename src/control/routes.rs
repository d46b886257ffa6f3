//! Routes and the rings that they run over: the two pictures in the module's essay, step by step.

use std::time::Instant;

use super::budget::bytes_of_ring;
use super::quota::Account;
use super::relay::{Lane, Relay};
use super::{Action, Machine, Report, SessionId};
use crate::config::SLOTS_MAX;
use crate::topic::Topic;
use crate::wire::{Handle, Notice, OrderId, PublisherId, Resource, RingId, RingPath, SlotTarget};

/// One topic of one publisher to one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub(super) publisher: PublisherId,
    pub(super) subscriber: SessionId,
    pub(super) topic_number: u32,
}

/// A route that is asked for, and the size of the ring that comes to be for it, if there is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) key: RouteKey,
    pub(super) ring_bytes: u64,
}

/// A segment that a session is to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// Who waits for it.
    pub(crate) reader: SessionId,
    /// Data bytes of the ring.
    pub(crate) ring_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) lane: Lane,
    pub(super) phase: Phase,
    /// Whether a subscription still asks for it.
    pub(super) wanted: bool,
    /// The slot in use; `None` within one session, and until the ring is there.
    pub(super) target: Option<SlotTarget>,
    /// The step that a session has to carry out for it.
    pub(super) order: Option<OrderId>,
    /// Requests whose answers wait for it.
    pub(super) waits: Vec<u64>,
    /// All but so many of these came when the order was out, and wait for one more.
    pub(super) once_more: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    NeedsRing,
    Granting,
    Routing,
    Active,
    Unrouting,
}

#[derive(Debug)]
pub(super) struct Ring<F> {
    pub(super) id: RingId,
    pub(super) publisher: PublisherId,
    pub(super) subscriber: SessionId,
    pub(super) lane: Lane,
    /// Of its data, in shared memory.
    pub(super) bytes: u64,
    pub(super) account: Account,
    pub(super) stage: Stage<F>,
    pub(super) slots: Vec<Slot>,
    pub(super) path: RingPath,
    /// What is on its way, if it leads over the broker.
    pub(super) relay: Option<Relay>,
}

#[derive(Debug)]
pub(super) enum Stage<F> {
    NeedsDoorbell,
    NeedsSegments {
        producer: Option<Segment<F>>,
        consumer: Option<Segment<F>>,
        due: Instant,
    },
    Ready,
    /// One side said that the other broke its laws: this pair gets no other ring.
    Poisoned,
}

/// One side's segment, on its way to the other.
#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) handle: Handle,
    pub(super) descriptor: Option<F>,
}

/// A slot serves one topic for the ring's life; each new grant of it is a new generation.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) topic_number: u32,
    pub(super) generation: u16,
}

/// A step that a session has to carry out.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) session: SessionId,
    pub(super) key: RouteKey,
    pub(super) due: Instant,
}

impl<F> Machine<F> {
    /// Asks for a route. `true`: it is active already.
    pub(super) fn want(&mut self, wish: Wish) -> bool {
        let Wish { key, ring_bytes } = wish;
        if let Some(route) = self.routes.get_mut(&key) {
            route.wanted = true;
            return route.phase == Phase::Active;
        }
        if self.is_parted(key) {
            return true;
        }
        let (phase, lane) = (Phase::NeedsRing, self.lane_of(key));
        let (waits, once_more) = (Vec::new(), None);
        let route = Route { lane, phase, wanted: true, target: None, order: None, waits, once_more };
        self.routes.insert(key, route);
        let session = self.publishers[&key.publisher].session;
        if session == key.subscriber {
            self.start_routing(key, None);
            return false;
        }
        if self.ring_of(key).is_none() {
            if self.is_relayed(lane, session, key.subscriber) {
                let path = match lane {
                    Lane::Control => RingPath::RelayOfControl,
                    Lane::Events => RingPath::RelayOfAll,
                };
                self.start_relay(key.publisher, key.subscriber, lane, path);
            } else {
                self.start_ring(key.publisher, key.subscriber, ring_bytes);
            }
        }
        if self.ring_of(key).is_some_and(|ring| matches!(ring.stage, Stage::Ready)) {
            self.start_granting(key);
        }
        false
    }

    /// Has another subscription of the same session join a route over the broker: its publisher is to send what it has published by now, and
    /// lost, and then to say that it is done. In shared memory the subscriber looks at the counts itself. Whether that is waited for.
    pub(super) fn join_relayed(&mut self, key: RouteKey) -> bool {
        if self.ring_of(key).is_none_or(|ring| ring.relay.is_none()) {
            return false;
        }
        let Some(route) = self.routes.get_mut(&key) else { return false };
        match route.phase {
            Phase::Active => {
                let target = route.target;
                self.start_routing(key, target);
                true
            }
            Phase::Routing => {
                route.once_more.get_or_insert(route.waits.len());
                true
            }
            // Nothing goes over the slot before its next grant.
            Phase::NeedsRing | Phase::Granting | Phase::Unrouting => false,
        }
    }

    /// Whether one of the two sides broke their ring: nothing leads from the one to the other any more.
    pub(super) fn is_parted(&self, key: RouteKey) -> bool {
        self.ring_of(key).is_some_and(|ring| matches!(ring.stage, Stage::Poisoned))
    }

    /// Takes back a wish. The route goes at once, or when the step it is in is over.
    pub(super) fn unwant(&mut self, key: RouteKey) {
        let Some(route) = self.routes.get_mut(&key) else {
            return;
        };
        route.wanted = false;
        match route.phase {
            Phase::NeedsRing => self.drop_routes(&[key]),
            Phase::Active => self.start_unrouting(key),
            Phase::Granting | Phase::Routing | Phase::Unrouting => {}
        }
    }

    /// An order was carried out: the route takes its next step.
    pub(super) fn done(&mut self, session: SessionId, order: OrderId) {
        match self.orders.get(&order) {
            Some(known) if known.session == session => {}
            // Orders of routes that ended meanwhile are answered all the same.
            _ => return,
        }
        let Order { key, .. } = self.orders.remove(&order).expect("it was just found");
        let Some(route) = self.routes.get_mut(&key) else {
            return;
        };
        route.order = None;
        match (route.phase, route.wanted) {
            (Phase::Granting, true) => {
                let target = route.target;
                self.start_routing(key, target);
            }
            (Phase::Granting, false) => self.revoke(key),
            (Phase::Routing, true) if route.once_more.is_some() => {
                let settled = route.once_more.take().expect("it was just seen");
                let later = route.waits.split_off(settled);
                let waits = std::mem::replace(&mut route.waits, later);
                let target = route.target;
                self.tell_losses_by_now(key);
                self.settle(key, waits);
                self.start_routing(key, target);
            }
            (Phase::Routing, wanted) => {
                route.phase = Phase::Active;
                route.once_more = None;
                let waits = std::mem::take(&mut route.waits);
                self.tell_losses_by_now(key);
                self.tell_of_settled(key);
                self.settle(key, waits);
                if !wanted {
                    self.start_unrouting(key);
                }
            }
            (Phase::Unrouting, false) => self.revoke(key),
            (Phase::Unrouting, true) => self.route_again(key),
            (Phase::NeedsRing | Phase::Active, _) => unreachable!("no order is out in these phases"),
        }
    }

    /// Both ends of a ring's doorbell are there, or can't be had.
    pub(super) fn doorbell_made(&mut self, id: RingId, ends: Option<(F, F)>) {
        let due = self.now + self.settings.route_deadline;
        let Some(ring) = self.rings.get_mut(&id) else {
            return;
        };
        assert!(matches!(ring.stage, Stage::NeedsDoorbell), "a doorbell is made once, at once");
        let Some((producer_end, consumer_end)) = ends else {
            let subscriber = ring.subscriber;
            return self.no_ring(subscriber, id, "the broker has no descriptors left");
        };
        ring.stage = Stage::NeedsSegments { producer: None, consumer: None, due };
        self.forming.insert((due, id));
        let (publisher, subscriber, ring_bytes) = (ring.publisher, ring.subscriber, ring.bytes);
        let Some(state) = self.publishers.get(&publisher) else {
            return;
        };
        let (session, number) = (state.session, state.number);
        let (component, client) = self.name_and_client(session);
        let (heard_by, hearing) = self.name_and_client(subscriber);
        let notice = Notice::MakeProducerSegment {
            ring: id,
            publisher: number,
            ring_bytes,
            subscriber: heard_by,
            client: hearing,
        };
        self.send_with(session, notice, Some(producer_end));
        let notice = Notice::MakeConsumerSegment { ring: id, publisher, component, client, number };
        self.send_with(subscriber, notice, Some(consumer_end));
    }

    /// A side's segment has come, and the kernel vouches for it.
    pub(super) fn segment(&mut self, session: SessionId, id: RingId, of_producer: bool, segment: Segment<F>) {
        if segment.handle.backing() != self.settings.backing {
            return self.fault(session, "a segment that is not what rings are made of here");
        }
        if segment.descriptor.is_some() != (segment.handle == Handle::Descriptor) {
            return self.fault(session, "a segment with a descriptor too few or too many");
        }
        let Some((producer_session, consumer_session)) = self.ends_of(id) else {
            return;
        };
        let expected = if of_producer { producer_session } else { consumer_session };
        if session != expected {
            return self.fault(session, "a segment for a ring of others");
        }
        let ring = self.rings.get_mut(&id).expect("its ends were just found");
        let Stage::NeedsSegments { producer, consumer, .. } = &mut ring.stage else {
            return self.fault(session, "a segment that was not asked for");
        };
        let slot = if of_producer { producer } else { consumer };
        if slot.replace(segment).is_some() {
            return self.fault(session, "a second segment for the same ring");
        }
        self.join(id, producer_session, consumer_session);
    }

    /// What of a session's segment of a ring is awaited; `None` if it was not asked for one, or has handed it over.
    pub(crate) fn awaits_segment(
        &self,
        session: SessionId,
        id: RingId,
        of_producer: bool,
    ) -> Option<Awaited> {
        let (producer, consumer) = self.ends_of(id)?;
        let ring = &self.rings[&id];
        let reader = match (&ring.stage, of_producer) {
            (Stage::NeedsSegments { producer: None, .. }, true) if session == producer => consumer,
            (Stage::NeedsSegments { consumer: None, .. }, false) if session == consumer => producer,
            _ => return None,
        };
        Some(Awaited { reader, ring_bytes: ring.bytes })
    }

    /// Completes a ring that has both segments, and lets its routes go on.
    fn join(&mut self, id: RingId, producer_session: SessionId, consumer_session: SessionId) {
        let ring = self.rings.get_mut(&id).expect("the caller found the ring");
        let (publisher, subscriber, ring_bytes) = (ring.publisher, ring.subscriber, ring.bytes);
        let lane = ring.lane;
        let (p, c, due) = match std::mem::replace(&mut ring.stage, Stage::Ready) {
            Stage::NeedsSegments { producer: Some(p), consumer: Some(c), due } => (p, c, due),
            incomplete => return ring.stage = incomplete,
        };
        self.forming.remove(&(due, id));
        let notice = Notice::AttachConsumer { ring: id, handle: p.handle, ring_bytes };
        self.send_with(consumer_session, notice, p.descriptor);
        let notice = Notice::AttachProducer { ring: id, handle: c.handle };
        self.send_with(producer_session, notice, c.descriptor);
        for key in self.routes_between(publisher, subscriber, lane) {
            self.start_granting(key);
        }
    }

    /// One side says that the other broke the ring. Who is right can't be known, so this pair is parted, and no more.
    pub(super) fn poisoned(&mut self, session: SessionId, id: RingId, violation: String) {
        let Some((producer, consumer)) = self.ends_of(id) else {
            return;
        };
        let culprit = match session {
            session if session == consumer => producer,
            session if session == producer => consumer,
            _ => return self.fault(session, "an accusation about a ring of others"),
        };
        match self.rings[&id].stage {
            Stage::Ready => {}
            Stage::Poisoned => return,
            // Nobody has seen the other's segment yet; and it may be on its way here, honestly.
            Stage::NeedsDoorbell | Stage::NeedsSegments { .. } => {
                return self.fault(session, "an accusation about a ring that is not complete");
            }
        }
        let violation = super::sessions::cut(&violation, 256);
        let (by, culprit_name) = (self.component(session), self.component(culprit));
        let report =
            Report::Poisoned { session: culprit, culprit: culprit_name, by, violation: violation.clone() };
        self.report(report);
        self.send(culprit, Notice::CloseRing { ring: id, accused: Some(violation) });
        let ring = self.rings.get_mut(&id).expect("its ends were just found");
        ring.stage = Stage::Poisoned;
        let (publisher, subscriber, lane) = (ring.publisher, ring.subscriber, ring.lane);
        let (account, bytes, is_relayed) = (ring.account, ring.charge(), ring.relay.is_some());
        self.charges.release(account, Resource::RingBytes, bytes);
        if is_relayed {
            self.stop_relay(id);
        }
        let parted = self.routes_between(publisher, subscriber, lane);
        self.name_in_answers(producer, &parted);
        self.drop_routes(&parted);
    }

    /// Takes a ring out of the books, with its routes, and tells both ends that are still there.
    pub(super) fn close_ring(&mut self, id: RingId) {
        self.tell_last_losses(id);
        let ends = self.ends_of(id);
        let Some(ring) = self.take_ring(id) else {
            return;
        };
        for session in ends.into_iter().flat_map(|(producer, consumer)| [producer, consumer]) {
            self.send(session, Notice::CloseRing { ring: id, accused: None });
        }
        let routes = self.routes_between(ring.publisher, ring.subscriber, ring.lane);
        self.drop_routes(&routes);
    }

    /// Takes a ring out of the books, and what it was charged with.
    pub(super) fn take_ring(&mut self, id: RingId) -> Option<Ring<F>> {
        let ring = self.rings.remove(&id)?;
        self.pairs.remove(&(ring.publisher, ring.subscriber, ring.lane));
        self.inbound.remove(&(ring.subscriber, ring.publisher, ring.lane));
        if let Stage::NeedsSegments { due, .. } = ring.stage {
            self.forming.remove(&(due, id));
        }
        if !matches!(ring.stage, Stage::Poisoned) {
            self.charges.release(ring.account, Resource::RingBytes, ring.charge());
        }
        self.end_relay(&ring);
        Some(ring)
    }

    /// Forgets routes, their orders, and that anybody waits for them.
    pub(super) fn drop_routes(&mut self, keys: &[RouteKey]) {
        for key in keys {
            if let Some(Route { order, waits, .. }) = self.routes.remove(key) {
                order.map(|order| self.orders.remove(&order));
                self.settle(*key, waits);
            }
        }
    }

    /// Those of one lane.
    pub(super) fn routes_between(
        &self,
        publisher: PublisherId,
        subscriber: SessionId,
        lane: Lane,
    ) -> Vec<RouteKey> {
        let key = |topic_number| RouteKey { publisher, subscriber, topic_number };
        let all = self.routes.range(key(0)..=key(u32::MAX));
        all.filter(|(_, route)| route.lane == lane).map(|(key, _)| *key).collect()
    }

    pub(super) fn routes_from(&self, publisher: PublisherId) -> Vec<RouteKey> {
        let key = |session, topic_number| {
            let subscriber = SessionId(session);
            RouteKey { publisher, subscriber, topic_number }
        };
        self.routes.range(key(0, 0)..=key(u64::MAX, u32::MAX)).map(|(key, _)| *key).collect()
    }

    /// Of others over rings, and of its own.
    pub(super) fn routes_to(&self, session: SessionId) -> Vec<RouteKey> {
        let own = self.sessions[&session].publishers.values();
        let own = own.flat_map(|publisher| [(*publisher, Lane::Events), (*publisher, Lane::Control)]);
        let heard: Vec<(PublisherId, Lane)> = self.heard_by(session).chain(own).collect();
        let routes = |(publisher, lane)| self.routes_between(publisher, session, lane);
        heard.into_iter().flat_map(routes).collect()
    }

    /// The publishers that have rings to it, and which.
    pub(super) fn heard_by(&self, session: SessionId) -> impl Iterator<Item = (PublisherId, Lane)> {
        let all = (session, PublisherId(0), Lane::FIRST)..=(session, PublisherId(u64::MAX), Lane::LAST);
        self.inbound.range(all).map(|(_, publisher, lane)| (*publisher, *lane))
    }

    /// The rings of a publisher.
    pub(super) fn rings_from(&self, publisher: PublisherId) -> impl Iterator<Item = RingId> {
        let all = (publisher, SessionId(0), Lane::FIRST)..=(publisher, SessionId(u64::MAX), Lane::LAST);
        self.pairs.range(all).map(|(_, ring)| *ring)
    }

    /// When the first of the steps that sessions have to carry out is due.
    pub(super) fn first_due(&self) -> Option<Instant> {
        // Orders are numbered as they are given, and each has the same time.
        let order = self.orders.values().next().map(|order| order.due);
        let ring = self.forming.first().map(|(due, _)| *due);
        ring.into_iter().chain(order).min()
    }

    /// A session that has not carried out a step that is due.
    pub(super) fn late(&self) -> Option<SessionId> {
        let order = self.orders.values().next().filter(|order| order.due <= self.now);
        let ring = || self.forming.first().and_then(|(_, ring)| self.missing(&self.rings[ring]));
        order.map(|order| order.session).or_else(ring)
    }

    /// Whose segment of a ring is due and not there.
    fn missing(&self, ring: &Ring<F>) -> Option<SessionId> {
        match &ring.stage {
            Stage::NeedsSegments { producer: None, due, .. } if *due <= self.now => {
                Some(self.publishers[&ring.publisher].session)
            }
            Stage::NeedsSegments { consumer: None, due, .. } if *due <= self.now => Some(ring.subscriber),
            _ => None,
        }
    }

    /// The topic that a route leads.
    pub(super) fn topic_of(&self, key: RouteKey) -> &Topic {
        &self.publishers[&key.publisher].topics[key.topic_number as usize]
    }

    /// The lane of a route that is there, or is about to be.
    fn lane_of(&self, key: RouteKey) -> Lane {
        let lane = |route: &Route| route.lane;
        let session = self.publishers[&key.publisher].session;
        self.routes.get(&key).map_or_else(|| self.lane(session, key.subscriber, self.topic_of(key)), lane)
    }

    pub(super) fn start_ring(&mut self, publisher: PublisherId, subscriber: SessionId, bytes: u64) {
        let id = RingId(self.fresh());
        let account = self.account(subscriber);
        self.charges.charge(account, Resource::RingBytes, bytes_of_ring(bytes));
        let lane = Lane::Events;
        self.pairs.insert((publisher, subscriber, lane), id);
        self.inbound.insert((subscriber, publisher, lane));
        let (stage, slots) = (Stage::NeedsDoorbell, Vec::new());
        let (path, relay) = (RingPath::Memory, None);
        let ring = Ring { id, publisher, subscriber, lane, bytes, account, stage, slots, path, relay };
        self.rings.insert(id, ring);
        self.actions.push(Action::MakeDoorbell { ring: id });
    }

    pub(super) fn start_granting(&mut self, key: RouteKey) {
        let topic = self.topic_of(key).clone();
        let pair = (key.publisher, key.subscriber, self.lane_of(key));
        let ring = self.pairs.get(&pair).and_then(|ring| self.rings.get_mut(ring));
        let ring = ring.expect("a route is granted only on a ring that is ready");
        let Some(target) = ring.take_slot(key.topic_number) else {
            return self.spent.push(key.subscriber);
        };
        let route = self.routes.get_mut(&key).expect("the caller found the route");
        route.phase = Phase::Granting;
        route.target = Some(target);
        let order = self.order(key.subscriber, key);
        let SlotTarget { ring, slot, generation } = target;
        self.send(key.subscriber, Notice::Grant { order, ring, slot, generation, topic });
    }

    fn start_routing(&mut self, key: RouteKey, target: Option<SlotTarget>) {
        self.routes.get_mut(&key).expect("the caller found the route").phase = Phase::Routing;
        let Some(publisher) = self.publishers.get(&key.publisher) else {
            return;
        };
        let (session, number) = (publisher.session, publisher.number);
        let order = self.order(session, key);
        let topic_number = key.topic_number;
        self.send(session, Notice::Route { order, publisher: number, topic_number, target });
    }

    fn start_unrouting(&mut self, key: RouteKey) {
        let route = self.routes.get_mut(&key).expect("the caller found the route");
        route.phase = Phase::Unrouting;
        let ring = route.target.map(|target| target.ring);
        let Some(publisher) = self.publishers.get(&key.publisher) else {
            return;
        };
        let (session, number) = (publisher.session, publisher.number);
        let order = self.order(session, key);
        let topic_number = key.topic_number;
        self.send(session, Notice::Unroute { order, publisher: number, topic_number, ring });
    }

    /// The publisher has let go of the route: its slot carries nothing any more.
    fn revoke(&mut self, key: RouteKey) {
        if let Some(SlotTarget { ring, slot, .. }) = self.routes[&key].target {
            self.send(key.subscriber, Notice::Revoke { ring, slot });
        }
        self.drop_routes(&[key]);
    }

    /// The publisher has let go of a route that is wanted once more.
    fn route_again(&mut self, key: RouteKey) {
        match self.routes[&key].target {
            Some(SlotTarget { ring, slot, .. }) => {
                self.send(key.subscriber, Notice::Revoke { ring, slot });
                self.start_granting(key);
            }
            None => self.start_routing(key, None),
        }
    }

    fn order(&mut self, session: SessionId, key: RouteKey) -> OrderId {
        let order = OrderId(self.fresh());
        let due = self.now + self.settings.route_deadline;
        self.orders.insert(order, Order { session, key, due });
        self.routes.get_mut(&key).expect("an order is for a route").order = Some(order);
        order
    }

    pub(super) fn ring_of(&self, key: RouteKey) -> Option<&Ring<F>> {
        self.rings.get(self.pairs.get(&(key.publisher, key.subscriber, self.lane_of(key)))?)
    }

    /// The sessions at both ends of a ring: the producer's, the consumer's.
    pub(super) fn ends_of(&self, ring: RingId) -> Option<(SessionId, SessionId)> {
        let ring = self.rings.get(&ring)?;
        Some((self.publishers.get(&ring.publisher)?.session, ring.subscriber))
    }
}

impl<F> Ring<F> {
    /// What of the host's memory it takes, while it is not broken.
    pub(super) fn charge(&self) -> u64 {
        if self.relay.is_some() { 0 } else { bytes_of_ring(self.bytes) }
    }

    /// The next generation of the topic's slot; a new slot for a new topic, or where the generations are used up. `None`: the
    /// slots are used up too, which takes a subscriber that asks and lets go millions of times.
    fn take_slot(&mut self, topic_number: u32) -> Option<SlotTarget> {
        let known = self
            .slots
            .iter()
            .position(|slot| slot.topic_number == topic_number && slot.generation < u16::MAX);
        let index = match known {
            Some(index) => {
                self.slots[index].generation += 1;
                index
            }
            None if self.slots.len() == SLOTS_MAX => return None,
            None => {
                self.slots.push(Slot { topic_number, generation: 0 });
                self.slots.len() - 1
            }
        };
        let slot = u16::try_from(index).expect("a ring has some hundred slots");
        Some(SlotTarget { ring: self.id, slot, generation: self.slots[index].generation })
    }
}
