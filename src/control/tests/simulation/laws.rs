//! What the machine's peers know of it, and the laws that this has to keep.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::super::super::{Machine, Origin, Payer, SessionId};
use super::super::world::{HELLO_DEADLINE, ROUTE_DEADLINE};
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
    since: Instant,
    ready: bool,
    parted: bool,
    closed_to: BTreeSet<SessionId>,
    slots: BTreeMap<u16, SeenSlot>,
}

impl SeenRing {
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
            Request::Statistics { request } => {
                seen.requests.insert(*request, (now, Asked::Statistics));
            }
            Request::Told { .. } => assert!(std::mem::take(&mut seen.is_to_tell), "nobody asked {session:?}"),
            Request::Proof { .. }
            | Request::NoRing { .. }
            | Request::ProducerSegment { .. }
            | Request::ConsumerSegment { .. }
            | Request::Relay { .. }
            | Request::Took { .. } => {}
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
            Notice::Challenge { .. } => {}
            Notice::Settled { component, client } => {
                assert!(self.sessions[&session].came_back, "12: {session:?}");
                let whole = &self.sessions[&SessionId(*client)];
                assert!(whole.came_back && whole.whole, "12: {whole:?}");
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
                let seen = SeenRing {
                    producer: session,
                    number: *publisher,
                    consumer: session,
                    bytes: *ring_bytes,
                    since: now,
                    ready: false,
                    parted: false,
                    closed_to: BTreeSet::new(),
                    slots: BTreeMap::new(),
                };
                assert!(self.begun.remove(ring), "9: {ring:?} comes to be twice");
                self.rings.insert(*ring, seen);
            }
            Notice::RelayTo { ring, publisher, .. } => {
                let (producer, number, consumer) = (session, *publisher, session);
                let (closed_to, slots) = (BTreeSet::new(), BTreeMap::new());
                let seen = SeenRing {
                    producer,
                    number,
                    consumer,
                    bytes: 0,
                    since: now,
                    ready: true,
                    parted: false,
                    closed_to,
                    slots,
                };
                assert!(self.rings.insert(*ring, seen).is_none(), "9: {ring:?} comes to be twice");
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
            Notice::Relayed { .. } | Notice::Took { .. } => {}
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
                    let slot = self.slot(target.ring, target.slot).expect("1: it was granted");
                    assert_eq!(slot.granted, Granted::Confirmed, "1: {notice:?}");
                    assert_eq!((slot.generation, &slot.topic), (target.generation, &topic), "1: {notice:?}");
                    assert_eq!(slot.used, Used::No, "1: {notice:?} once more");
                    slot.used = Used::Told;
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

    /// What holds after each input.
    pub(super) fn check(&mut self, machine: &Machine<u32>) {
        self.farewells();
        self.ends_of_rings();
        self.charges(machine);
        self.joined();
        self.allowed();
    }

    /// Law 11: what publishers use, a policy allows that is or may be in force.
    fn allowed(&self) {
        let assert_allowed = |from: SessionId, to: SessionId, topic: &Topic| {
            let [from, to] =
                [from, to].map(|end| self.sessions[&end].component.as_ref().expect("it was let in"));
            let mut policies = self.policies.values();
            let allows = |policy: &AccessPolicy| {
                policy.may_publish(from, topic).is_ok() && policy.may_subscribe(to, topic).is_ok()
            };
            assert!(policies.any(allows), "11: {from} still sends {topic} to {to}");
        };
        for ring in self.rings.values().filter(|ring| !ring.parted && ring.closed_to.is_empty()) {
            for slot in ring.slots.values().filter(|slot| slot.used != Used::No) {
                assert_allowed(ring.producer, ring.consumer, &slot.topic);
            }
        }
        for (session, seen) in &self.sessions {
            for (publisher, number) in &seen.own {
                let topic = seen.publishers[publisher][*number as usize].topic.as_ref();
                assert_allowed(*session, *session, topic.expect("it leads somewhere"));
            }
        }
    }

    /// Law 3: who was said goodbye to is disconnected in the same breath.
    fn farewells(&self) {
        for (session, seen) in &self.sessions {
            assert!(!seen.farewell, "3: {session:?} was said goodbye to and not disconnected");
        }
    }

    /// Law 8: both ends that are there are told.
    fn ends_of_rings(&mut self) {
        let Self { sessions, rings, .. } = self;
        rings.retain(|id, ring| {
            let ends = [ring.producer, ring.consumer];
            let over = !ring.closed_to.is_empty() || ends.iter().any(|end| !sessions.contains_key(end));
            if over {
                let open = ends.iter().filter(|end| sessions.contains_key(end));
                let untold: Vec<_> = open.filter(|end| !ring.closed_to.contains(end)).collect();
                assert!(untold.is_empty(), "8: {id:?} is over, and {untold:?} do not know");
            }
            !over
        });
    }

    /// Law 7.
    fn charges(&self, machine: &Machine<u32>) {
        let mut expected: BTreeMap<Payer, (u64, u64)> = BTreeMap::new();
        for ring in self.rings.values().filter(|ring| !ring.parted && !ring.relayed()) {
            let payer = match self.sessions[&ring.consumer].origin {
                Origin::Embedded => Payer::Agent,
                Origin::Remote { uid } | Origin::Invited { uid } => Payer::Uid(uid),
            };
            let (rings, bytes) = expected.entry(payer).or_default();
            *rings += 1;
            *bytes += ring.bytes + 8192;
        }
        let charged = machine.ring_charges().into_iter();
        let charged: BTreeMap<_, _> =
            charged.map(|charge| (charge.payer, (charge.rings, charge.bytes))).collect();
        assert_eq!(charged, expected, "7");
    }

    /// Law 5.
    fn joined(&self) {
        for (producer, state) in &self.sessions {
            for (number, declared) in &state.publishers {
                for (topic_number, declared) in (0..).zip(declared).filter(|(_, topic)| topic.answered) {
                    let topic = declared.topic.as_ref().expect("what is no topic is refused");
                    for (consumer, seen) in &self.sessions {
                        let asks = |asked: &Subscription| {
                            asked.answered && asked.patterns.iter().any(|p| p.matches(topic))
                        };
                        let permitted = |from, to| {
                            let mut policies = self.policies.values();
                            policies.all(|policy| {
                                policy.may_publish(from, topic).is_ok()
                                    && policy.may_subscribe(to, topic).is_ok()
                            })
                        };
                        let names = state.component.as_ref().zip(seen.component.as_ref());
                        let hears = names.is_some_and(|(from, to)| permitted(from, to))
                            && seen.subscriptions.values().any(asks)
                            && !self.parted.contains(&(*producer, *number, *consumer));
                        let leads = if producer == consumer {
                            seen.own.contains(&(*number, topic_number))
                        } else {
                            self.leads(*producer, *number, *consumer, topic)
                        };
                        assert!(!hears || leads, "5: {topic} of {producer:?} does not lead to {consumer:?}");
                    }
                }
            }
        }
    }

    fn leads(&self, producer: SessionId, number: u32, consumer: SessionId, topic: &Topic) -> bool {
        let mut rings = self.rings.values().filter(|ring| {
            (ring.producer, ring.number, ring.consumer) == (producer, number, consumer) && !ring.parted
        });
        rings.any(|ring| {
            let both = (Granted::Confirmed, Used::Confirmed);
            ring.slots.values().any(|slot| slot.topic == *topic && (slot.granted, slot.used) == both)
        })
    }

    /// Law 6, after a tick: who is late is gone.
    pub(super) fn nobody_is_late(&self, now: Instant) {
        for (id, order) in &self.orders {
            let SeenOrder { session, since, step } = order;
            let lasts = match step {
                Step::Grant { ring, .. }
                | Step::Route { target: Some(SlotTarget { ring, .. }), .. }
                | Step::Unroute { ring: Some((ring, _)), .. } => {
                    self.rings.get(ring).is_some_and(|ring| !ring.parted)
                }
                Step::Route { publisher, .. } | Step::Unroute { publisher, .. } => {
                    self.sessions.get(session).is_some_and(|seen| seen.publishers.contains_key(publisher))
                }
            };
            assert!(!lasts || now - *since < ROUTE_DEADLINE, "6: {session:?} has not carried out {id:?}");
        }
        for (id, ring) in &self.rings {
            assert!(ring.ready || now - ring.since < ROUTE_DEADLINE, "6: {id:?} is not there in time");
        }
        for (id, seen) in &self.sessions {
            let said_hello = seen.component.is_some();
            assert!(said_hello || now - seen.since < HELLO_DEADLINE, "6: {id:?} has not said hello");
        }
    }

    /// Laws 4 and 5, when nothing is on its way any more: all was answered.
    pub(super) fn at_rest(&self) {
        for (id, seen) in &self.sessions {
            assert!(seen.requests.is_empty(), "4: {id:?} waits in vain: {:?}", seen.requests);
        }
        assert!(self.reloads.is_empty(), "11: {:?} are never over", self.reloads);
    }
}
