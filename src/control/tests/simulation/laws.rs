//! What the machine's peers know of it, and the laws that this has to keep: here those about what is said, in [`standing`] those about what
//! there is.

mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::super::super::{Origin, SessionId};
use super::super::world::ROUTE_DEADLINE;
use crate::access::{AccessPolicy, Component};
use crate::config::{TELL_DEADLINE, TELL_PAUSE};
use crate::topic::{Topic, TopicPattern};
use crate::wire::{Notice, OrderId, Request, RingId, SlotTarget};

/// All that was said and asked.
#[derive(Debug)]
pub(super) struct Outside {
    sessions: BTreeMap<SessionId, Seen>,
    rings: BTreeMap<RingId, SeenRing>,
    orders: BTreeMap<OrderId, SeenOrder>,
    /// Rings that the machine has, and whose ends have not been told of them.
    begun: BTreeSet<RingId>,
    /// Publishers, by session and number, and who hears them no more.
    parted: BTreeSet<(SessionId, u32, SessionId)>,
    partings: usize,
    last_order: u64,
    /// The last that was said to be in force, and those after it.
    policies: BTreeMap<u64, AccessPolicy>,
    /// Of which it was not said.
    reloads: BTreeSet<u64>,
}

/// A connection that is open.
#[derive(Debug)]
struct Seen {
    origin: Origin,
    since: Instant,
    component: Option<Component>,
    /// It was told that it is over.
    farewell: bool,
    /// It had a session before, and has asked for all again that it had then.
    came_back: bool,
    whole: bool,
    /// Subscriptions were answered, and it has not said that they have begun.
    begins: bool,
    /// It was asked what it has counted, and has not answered.
    is_to_tell: bool,
    requests: BTreeMap<u32, (Instant, Asked)>,
    subscriptions: BTreeMap<u32, Subscription>,
    publishers: BTreeMap<u32, Vec<Declared>>,
    /// Topics of its own that lead to its own subscriptions.
    own: BTreeSet<(u32, u32)>,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Subscribe(u32),
    Declare(u32),
    Statistics,
}

#[derive(Debug)]
struct Subscription {
    patterns: Vec<TopicPattern>,
    answered: bool,
}

#[derive(Debug)]
struct Declared {
    topic: Option<Topic>,
    answered: bool,
}

#[derive(Debug)]
struct SeenRing {
    producer: SessionId,
    number: u32,
    consumer: SessionId,
    bytes: u64,
    relayed: bool,
    since: Instant,
    ready: bool,
    parted: bool,
    closed_to: BTreeSet<SessionId>,
    slots: BTreeMap<u16, SeenSlot>,
}

impl SeenRing {
    /// One whose publisher was told of it, and whose subscriber is about to be.
    fn new(producer: SessionId, number: u32, bytes: u64, since: Instant) -> Self {
        Self {
            producer,
            number,
            consumer: producer,
            bytes,
            relayed: false,
            since,
            ready: false,
            parted: false,
            closed_to: BTreeSet::new(),
            slots: BTreeMap::new(),
        }
    }

    /// Whether it leads over the broker.
    fn relayed(&self) -> bool {
        self.bytes == 0
    }
}

#[derive(Debug)]
struct SeenSlot {
    generation: u16,
    topic: Topic,
    granted: Granted,
    used: Used,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Granted {
    Told,
    Confirmed,
    Revoked,
}

/// By its publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    No,
    Told,
    Confirmed,
    /// It was told to use it no more.
    Leaving,
}

#[derive(Debug)]
struct SeenOrder {
    session: SessionId,
    since: Instant,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Grant { ring: RingId, slot: u16 },
    Route { publisher: u32, topic_number: u32, target: Option<SlotTarget> },
    Unroute { publisher: u32, ring: Option<(RingId, u16)> },
}

impl Outside {
    pub(super) fn new(policy: AccessPolicy) -> Self {
        Self {
            sessions: BTreeMap::new(),
            rings: BTreeMap::new(),
            orders: BTreeMap::new(),
            begun: BTreeSet::new(),
            parted: BTreeSet::new(),
            partings: 0,
            last_order: 0,
            policies: [(0, policy)].into(),
            reloads: BTreeSet::new(),
        }
    }

    /// Another policy is about to be given to the machine. Its number.
    pub(super) fn reload(&mut self, policy: AccessPolicy) -> u64 {
        let number = self.policies.keys().next_back().expect("there is always one") + 1;
        self.policies.insert(number, policy);
        self.reloads.insert(number);
        number
    }

    /// Law 11: a policy is said to be in force, and those before it are so no longer.
    pub(super) fn reloaded(&mut self, number: u64) {
        assert!(self.reloads.remove(&number), "11: {number} is over twice");
        self.policies.retain(|other, _| *other >= number);
    }

    pub(super) fn is_open(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    pub(super) fn parted(&self) -> usize {
        self.partings
    }

    pub(super) fn begun(&mut self, ring: RingId) {
        self.begun.insert(ring);
    }

    pub(super) fn connected(&mut self, session: SessionId, origin: Origin, since: Instant) {
        let seen = Seen {
            origin,
            since,
            component: None,
            farewell: false,
            came_back: false,
            whole: false,
            begins: false,
            is_to_tell: false,
            requests: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            publishers: BTreeMap::new(),
            own: BTreeSet::new(),
        };
        self.sessions.insert(session, seen);
    }

    /// The connection is gone, from either side.
    pub(super) fn ended(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        self.orders.retain(|_, order| order.session != session);
        self.parted.retain(|(producer, _, consumer)| *producer != session && *consumer != session);
    }

    pub(super) fn disconnected(&mut self, session: SessionId) {
        assert!(self.is_open(session), "3: {session:?} is disconnected twice");
        self.ended(session);
    }

    /// A request is about to be given to the machine.
    pub(super) fn asked(&mut self, session: SessionId, request: &Request, now: Instant) {
        let seen = self.sessions.get_mut(&session).expect("the caller looked");
        match request {
            Request::Subscribe { request, subscription, patterns, .. } => {
                seen.requests.insert(*request, (now, Asked::Subscribe(*subscription)));
                let patterns = patterns.iter().filter_map(|text| TopicPattern::new(text).ok()).collect();
                seen.subscriptions.insert(*subscription, Subscription { patterns, answered: false });
            }
            Request::Declare { request, publisher, topic, .. } => {
                seen.requests.insert(*request, (now, Asked::Declare(*publisher)));
                let declared = Declared { topic: Topic::new(topic).ok(), answered: false };
                seen.publishers.entry(*publisher).or_default().push(declared);
            }
            Request::Unsubscribe { subscription } => drop(seen.subscriptions.remove(subscription)),
            Request::ClosePublisher { publisher } => {
                seen.publishers.remove(publisher);
                seen.own.retain(|(other, _)| other != publisher);
                // The next of this number has topics of its own.
                let of_it = |step: Step| matches!(step, Step::Route { publisher: of, target: None, .. } if of == *publisher);
                self.orders.retain(|_, order| order.session != session || !of_it(order.step));
                self.parted.retain(|(producer, number, _)| (*producer, *number) != (session, *publisher));
                let of_it = |ring: &&mut SeenRing| ring.producer == session && ring.number == *publisher;
                for ring in self.rings.values_mut().filter(of_it) {
                    // Its publisher knows already; its subscriber must be told.
                    ring.closed_to.insert(session);
                }
            }
            Request::Done { order } => {
                if let Some(SeenOrder { step, .. }) = self.orders.remove(order) {
                    self.confirmed(session, step);
                }
            }
            Request::Poisoned { ring, .. } => self.accused(session, *ring),
            Request::Hello(hello) => seen.came_back = hello.life.before > 0,
            Request::Returned => seen.whole = true,
            Request::Begun => seen.begins = false,
            Request::Statistics { request } => {
                seen.requests.insert(*request, (now, Asked::Statistics));
            }
            Request::Told { .. } => assert!(std::mem::take(&mut seen.is_to_tell), "nobody asked {session:?}"),
            Request::NoRing { .. }
            | Request::ProducerSegment { .. }
            | Request::ConsumerSegment { .. }
            | Request::Relay { .. }
            | Request::Took { .. }
            | Request::Finished
            | Request::Leaving { .. } => {}
        }
    }

    fn confirmed(&mut self, session: SessionId, step: Step) {
        match step {
            Step::Grant { ring, slot } => {
                if let Some(slot) = self.slot(ring, slot) {
                    slot.granted = Granted::Confirmed;
                }
            }
            Step::Route { target: Some(target), .. } => {
                if let Some(slot) = self.slot(target.ring, target.slot) {
                    slot.used = Used::Confirmed;
                }
            }
            Step::Unroute { ring: Some((ring, slot)), .. } => {
                if let Some(slot) = self.slot(ring, slot) {
                    slot.used = Used::No;
                }
            }
            Step::Route { publisher, topic_number, target: None } => {
                let seen = self.sessions.get_mut(&session).expect("it spoke");
                if seen.publishers.contains_key(&publisher) {
                    seen.own.insert((publisher, topic_number));
                }
            }
            Step::Unroute { ring: None, .. } => {}
        }
    }

    fn slot(&mut self, ring: RingId, slot: u16) -> Option<&mut SeenSlot> {
        self.rings.get_mut(&ring)?.slots.get_mut(&slot)
    }

    fn accused(&mut self, by: SessionId, id: RingId) {
        let Some(ring) = self.rings.get_mut(&id).filter(|ring| ring.ready && !ring.parted) else {
            return;
        };
        if by == ring.producer || by == ring.consumer {
            ring.parted = true;
            ring.slots.clear();
            self.partings += 1;
            self.parted.insert((ring.producer, ring.number, ring.consumer));
        }
    }

    /// The machine says something.
    pub(super) fn said(&mut self, session: SessionId, notice: &Notice, now: Instant) {
        let seen = self.sessions.get_mut(&session);
        let seen = seen.unwrap_or_else(|| panic!("3: {session:?} is gone and is told {notice:?}"));
        assert!(!seen.farewell, "3: {session:?} was said goodbye to, and then {notice:?}");
        match notice {
            Notice::Welcome(welcome) => {
                seen.component = Some(Component::from_client_id(&welcome.component).expect("a name"));
            }
            Notice::Greeting { .. } => panic!("it is greeted before the machine hears of it"),
            Notice::Settled { component, client } => {
                assert!(self.sessions[&session].came_back, "12: {session:?}");
                let whole = &self.sessions[&SessionId(*client)];
                assert!(whole.came_back <= whole.whole && !whole.begins, "12: {whole:?}");
                assert!(
                    whole.component.as_ref().is_some_and(|name| name.as_str() == component),
                    "12: {whole:?}"
                );
            }
            Notice::Goodbye { .. } => seen.farewell = true,
            Notice::Refused { request, .. } => self.answered(session, *request, now, false),
            Notice::Declared { request, .. } | Notice::Subscribed { request, .. } => {
                self.answered(session, *request, now, true);
            }
            Notice::Tell => {
                assert!(!std::mem::replace(&mut seen.is_to_tell, true), "13: {session:?} is asked twice");
            }
            Notice::Statistics { request, more, .. } => {
                if !*more {
                    self.answered(session, *request, now, true);
                }
            }
            Notice::MakeProducerSegment { ring, publisher, ring_bytes, .. } => {
                let seen = SeenRing::new(session, *publisher, *ring_bytes, now);
                assert!(self.begun.remove(ring), "9: {ring:?} comes to be twice");
                self.rings.insert(*ring, seen);
            }
            Notice::RelayTo { ring, publisher, .. } => {
                let seen = SeenRing::new(session, *publisher, 0, now);
                assert!(
                    self.rings.insert(*ring, SeenRing { ready: true, relayed: true, ..seen }).is_none(),
                    "9: {ring:?}"
                );
            }
            Notice::MakeConsumerSegment { ring, .. } | Notice::RelayFrom { ring, .. } => {
                let ring = self.rings.get_mut(ring).expect("8: its producer was told first");
                ring.consumer = session;
            }
            Notice::AttachProducer { ring, .. } | Notice::AttachConsumer { ring, .. } => {
                let ring = self.rings.get_mut(ring).expect("8: a ring that was made");
                assert!(session == ring.producer || session == ring.consumer, "8: {ring:?}");
                ring.ready = true;
            }
            Notice::CloseRing { ring, accused: None } => {
                let closed = self.rings.get_mut(ring).map(|ring| ring.closed_to.insert(session));
                assert!(closed.is_some() || self.begun.contains(ring), "8: {ring:?} is not there");
            }
            Notice::CloseRing { ring, accused: Some(_) } => {
                assert!(self.rings[ring].parted, "5: {ring:?}, of which nobody was accused");
            }
            Notice::Grant { .. } | Notice::Route { .. } | Notice::Unroute { .. } | Notice::Revoke { .. } => {
                self.told(session, notice, now);
            }
            Notice::Relayed { .. } | Notice::Took { .. } | Notice::Finish => {}
        }
    }

    /// Law 4.
    fn answered(&mut self, session: SessionId, request: u32, now: Instant, granted: bool) {
        let seen = self.sessions.get_mut(&session).expect("it was spoken to");
        if request == 0 {
            return assert!(seen.component.is_none(), "4: a hello is answered once");
        }
        let asked = seen.requests.remove(&request);
        let (since, asked) = asked.unwrap_or_else(|| panic!("4: {session:?} {request} was answered before"));
        assert!(now - since <= 4 * ROUTE_DEADLINE, "4: {session:?} {request} took {:?}", now - since);
        match (asked, granted) {
            (Asked::Subscribe(subscription), true) => {
                let of_it = seen.subscriptions.get_mut(&subscription);
                of_it.into_iter().for_each(|subscription| subscription.answered = true);
                seen.begins = true;
            }
            (Asked::Subscribe(subscription), false) => drop(seen.subscriptions.remove(&subscription)),
            (Asked::Declare(publisher), true) => {
                // One is asked for after the other.
                let last = seen.publishers.get_mut(&publisher).and_then(|topics| topics.last_mut());
                last.into_iter().for_each(|declared| declared.answered = true);
            }
            (Asked::Statistics, _) => {
                let most = 2 * TELL_DEADLINE + TELL_PAUSE;
                assert!(now - since <= most, "13: {session:?} {request} took {:?}", now - since);
            }
            (Asked::Declare(publisher), false) => {
                seen.publishers.get_mut(&publisher).map(Vec::pop);
            }
        }
    }

    /// Laws 1, 2 and 9: what routes are told.
    fn told(&mut self, session: SessionId, notice: &Notice, now: Instant) {
        let (order, step) = match notice {
            Notice::Grant { order, ring, slot, generation, topic } => {
                self.granted(session, *ring, *slot, *generation, topic);
                (*order, Step::Grant { ring: *ring, slot: *slot })
            }
            Notice::Route { order, publisher, topic_number, target } => {
                let topics = &self.sessions[&session].publishers[publisher];
                let topic = topics[*topic_number as usize].topic.clone().expect("a topic that is one");
                if let Some(target) = *target {
                    let ring = &self.rings[&target.ring];
                    assert_eq!((ring.producer, ring.number), (session, *publisher), "1: {notice:?}");
                    let may_be_joined = ring.relayed;
                    let slot = self.slot(target.ring, target.slot).expect("1: it was granted");
                    assert_eq!(slot.granted, Granted::Confirmed, "1: {notice:?}");
                    assert_eq!((slot.generation, &slot.topic), (target.generation, &topic), "1: {notice:?}");
                    if !(may_be_joined && slot.used == Used::Confirmed) {
                        assert_eq!(slot.used, Used::No, "1: {notice:?} once more");
                        slot.used = Used::Told;
                    }
                }
                let (publisher, topic_number, target) = (*publisher, *topic_number, *target);
                (*order, Step::Route { publisher, topic_number, target })
            }
            Notice::Unroute { order, publisher, topic_number, ring } => {
                let ring = ring.map(|ring| (ring, self.leaving(ring, *publisher, *topic_number, session)));
                if ring.is_none() {
                    let seen = self.sessions.get_mut(&session).expect("it is spoken to");
                    assert!(seen.own.remove(&(*publisher, *topic_number)), "2: {notice:?}");
                }
                (*order, Step::Unroute { publisher: *publisher, ring })
            }
            Notice::Revoke { ring, slot } => {
                let consumer = self.rings[ring].consumer;
                let slot = self.slot(*ring, *slot).expect("2: it was granted");
                assert_eq!((consumer, slot.used), (session, Used::No), "2: {notice:?}");
                assert_eq!(slot.granted, Granted::Confirmed, "2: {notice:?}");
                return slot.granted = Granted::Revoked;
            }
            _ => unreachable!("the caller hands over no others"),
        };
        assert!(order.0 > self.last_order, "9: {order:?} is given twice");
        self.last_order = order.0;
        self.orders.insert(order, SeenOrder { session, since: now, step });
    }

    fn granted(&mut self, session: SessionId, id: RingId, number: u16, generation: u16, topic: &Topic) {
        let ring = self.rings.get_mut(&id).expect("1: a ring that is there");
        assert!(ring.consumer == session && ring.ready && !ring.parted, "1: {ring:?}");
        let same = |(other, slot): (&u16, &SeenSlot)| {
            *other != number && slot.topic == *topic && slot.granted != Granted::Revoked
        };
        assert!(!ring.slots.iter().any(same), "9: two slots of {id:?} for {topic}");
        if let Some(slot) = ring.slots.get(&number) {
            assert_eq!((slot.granted, slot.used), (Granted::Revoked, Used::No), "2: {id:?} {number}");
            assert!(generation > slot.generation && slot.topic == *topic, "1: {id:?} {number} {slot:?}");
        }
        let slot = SeenSlot { generation, topic: topic.clone(), granted: Granted::Told, used: Used::No };
        ring.slots.insert(number, slot);
    }

    /// Which slot a publisher is to use no more.
    fn leaving(&mut self, id: RingId, publisher: u32, topic_number: u32, session: SessionId) -> u16 {
        let topic = self.sessions[&session].publishers[&publisher][topic_number as usize].topic.clone();
        let ring = self.rings.get_mut(&id).expect("2: a ring that is there");
        let used = ring
            .slots
            .iter_mut()
            .find(|(_, slot)| Some(&slot.topic) == topic.as_ref() && slot.used == Used::Confirmed);
        let (number, slot) = used.expect("2: a route that was confirmed");
        slot.used = Used::Leaving;
        *number
    }
}
