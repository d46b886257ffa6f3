//! Clients as the real session is one, each with a temper of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::super::super::{Input, Known, Origin, SessionId};
use super::super::world::{NO_PROOF, RING_BYTES, answer_of, hello_of};
use super::{Event, Simulation, origin};
use crate::wire::{Life, Notice, Request, RingId};

const NAMES: [&str; 6] = ["procmond", "netmond", "agent", "detector", "exporter", "tool"];
/// What each may publish, for the most part, and what nobody may.
const TOPICS: [(&str, [&str; 4]); 6] = [
    ("procmond", ["events.process.batch", "events.process.anomaly", "events.process.start", "alerts.a.b"]),
    ("netmond", ["events.network.batch", "events.network.start", "events.network.end", "no such topic"]),
    ("agent", ["control.collector.lifecycle", "control.shutdown", "alerts.rule.triggered", "alerts.a.b"]),
    ("detector", ["control.health.heartbeat.detector", "events.process.batch", "x.y", ""]),
    ("exporter", ["control.health.heartbeat.exporter", "control.shutdown", "x.y", "alerts.a.b"]),
    ("tool", ["control.health.heartbeat.tool", "control.health.status", "x.y", "#"]),
];
const PATTERNS: [&str; 10] = [
    "#",
    "events.network.#",
    "control.#",
    "events.#",
    "events.process.+",
    "events.process.batch",
    "control.health.#",
    "+.process.batch",
    "alerts.#",
    "...",
];

/// How soon a client answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temper {
    Prompt,
    /// Within the deadline, as far as it can be.
    Slow,
    /// Now and then too late, or never again.
    Staller,
    /// Never says hello.
    Mute,
}

/// One client, as it sees itself.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: &'static str,
    pub(super) temper: Temper,
    pub(super) since: Instant,
    pub(super) origin: Origin,
    /// What the door let it in for.
    pub(super) admitted: Option<Known>,
    /// As who it was let in.
    pub(super) known_by: Option<Known>,
    /// It was not read for a while, and may be late for that.
    pub(super) paused: bool,
    welcome: bool,
    came_back: bool,
    /// It answers nothing any more.
    stopped: bool,
    /// When what it was sent last arrives, when what it has said last does.
    heard_by: Instant,
    pub(super) said_by: Instant,
    subscriptions: BTreeSet<u32>,
    /// What it has asked for, and how much of that was answered since it last said what has begun.
    awaits: BTreeSet<u32>,
    begins: bool,
    /// How many topics each publisher has asked for, and which are declared.
    publishers: BTreeMap<u32, Vec<&'static str>>,
    /// A declaration is asked for one after the other, as a publisher does.
    declares: Option<(u32, u32)>,
    /// Rings that are complete on this side.
    rings: BTreeSet<RingId>,
    last: u32,
}

impl Client {
    fn fresh(&mut self) -> u32 {
        self.last += 1;
        self.last
    }
}

impl Simulation {
    pub(super) fn join(&mut self) {
        let name = self.dice.of(&NAMES);
        let temper = match self.dice.roll(8) {
            _ if name == "agent" => Temper::Prompt,
            0..4 => Temper::Prompt,
            4..6 => Temper::Slow,
            6 => Temper::Staller,
            _ if self.dice.chance(3) => Temper::Mute,
            _ => Temper::Staller,
        };
        self.last += 1;
        let session = SessionId(self.last);
        let origin = origin(&mut self.dice, name);
        let client = Client {
            name,
            temper,
            since: self.now,
            origin,
            admitted: None,
            known_by: None,
            paused: false,
            welcome: false,
            came_back: false,
            stopped: false,
            heard_by: self.now,
            said_by: self.now,
            subscriptions: BTreeSet::new(),
            awaits: BTreeSet::new(),
            begins: false,
            publishers: BTreeMap::new(),
            declares: None,
            rings: BTreeSet::new(),
            last: 0,
        };
        self.clients.insert(session, client);
        self.outside.connected(session, origin, self.now);
        self.feed(Input::Connected { session, origin });
        if temper != Temper::Mute {
            let mut hello = hello_of(name);
            if self.dice.chance(20) {
                hello.proof = self.dice.of(&[None, Some(NO_PROOF)]);
            }
            hello.life = Life { client: session.0, before: u32::from(self.dice.chance(2)) };
            let came_back = hello.life.before > 0;
            self.clients.get_mut(&session).expect("it was just put there").came_back = came_back;
            // The agent's is in the same process.
            let after = if origin == Origin::Embedded { Duration::ZERO } else { self.dice.millis(2000) };
            self.say_after(session, Request::Hello(Box::new(hello)), after);
        } else if self.dice.chance(2) {
            self.die(session);
        }
    }

    /// How long a step of this client's takes, one way.
    fn lag(&mut self, session: SessionId, slow: usize) -> Duration {
        match self.clients[&session].temper {
            Temper::Prompt => self.dice.millis(6),
            Temper::Slow | Temper::Mute => self.dice.millis(slow),
            Temper::Staller if self.dice.chance(8) => self.dice.millis(1200),
            Temper::Staller => self.dice.millis(slow),
        }
    }

    /// When a notice arrives: behind those before it.
    pub(super) fn on_its_way_to(&mut self, session: SessionId) -> Instant {
        let lag = self.lag(session, 100);
        let now = self.now;
        let client = self.clients.get_mut(&session).expect("only clients are spoken to");
        client.heard_by = client.heard_by.max(now + lag);
        client.heard_by
    }

    /// Sends a request behind those before it.
    fn say_after(&mut self, session: SessionId, request: Request, after: Duration) {
        let lag = self.lag(session, 100);
        let now = self.now;
        let client = self.clients.get_mut(&session).expect("it is there");
        client.said_by = client.said_by.max(now + after + lag);
        let at = client.said_by;
        self.put(at, Event::Request { session, request, carries: false });
    }

    fn die(&mut self, session: SessionId) {
        self.clients.get_mut(&session).expect("it is there").stopped = true;
        // What it said before is read before its end is seen.
        let at = self.clients[&session].said_by.max(self.now) + self.dice.millis(50);
        self.put(at, Event::Gone { session });
    }

    /// A client looks at a notice, and does what it asks for.
    pub(super) fn hear(&mut self, session: SessionId, notice: &Notice) {
        let client = self.clients.get_mut(&session).expect("it was spoken to");
        if client.stopped {
            return;
        }
        match notice {
            Notice::Welcome(_) => {
                client.welcome = true;
                if client.came_back {
                    let after = self.dice.millis(1500);
                    self.say_after(session, Request::Returned, after);
                }
                for _ in 0..2 {
                    let at = self.now + self.dice.millis(300);
                    self.put(at, Event::Act { session });
                }
            }
            Notice::Goodbye { .. } | Notice::Refused { request: 0, .. } => client.stopped = true,
            Notice::Refused { .. } | Notice::Declared { .. } | Notice::Subscribed { .. } => {
                self.hear_answer(session, notice);
            }
            Notice::AttachProducer { ring, .. } | Notice::AttachConsumer { ring, .. } => {
                client.rings.insert(*ring);
                if self.dice.chance(150) {
                    let request = Request::NoRing { ring: *ring, cause: "no address space".into() };
                    self.say_after(session, request, Duration::ZERO);
                }
            }
            Notice::CloseRing { ring, .. } => drop(client.rings.remove(ring)),
            Notice::MakeProducerSegment { ring, ring_bytes, .. } => {
                self.make(session, *ring, *ring_bytes, notice);
            }
            Notice::MakeConsumerSegment { ring, .. } => self.make(session, *ring, 0, notice),
            Notice::Grant { .. } | Notice::Route { .. } | Notice::Unroute { .. } => {
                if self.clients[&session].temper == Temper::Staller && self.dice.chance(30) {
                    self.clients.get_mut(&session).expect("it is there").stopped = true;
                    return;
                }
                let done = answer_of(notice).expect("it is an order");
                let after = self.lag(session, 250);
                self.say_after(session, done, after);
            }
            Notice::Tell => {
                if self.clients[&session].temper == Temper::Staller && self.dice.chance(3) {
                    return;
                }
                let after = self.lag(session, 250);
                self.say_after(session, Request::Told { claims: Box::default() }, after);
            }
            Notice::Greeting { .. }
            | Notice::Statistics { .. }
            | Notice::Revoke { .. }
            | Notice::RelayTo { .. }
            | Notice::RelayFrom { .. }
            | Notice::Relayed { .. }
            | Notice::Took { .. }
            | Notice::Finish
            | Notice::Settled { .. } => {}
        }
    }

    /// Makes a segment; a large one takes its time, beside everything else.
    fn make(&mut self, session: SessionId, ring: RingId, ring_bytes: u64, notice: &Notice) {
        let request = if self.dice.chance(200) {
            Request::NoRing { ring, cause: "no memory".into() }
        } else {
            answer_of(notice).expect("a segment is due")
        };
        let carries = !matches!(request, Request::NoRing { .. });
        let after = self.lag(session, 250);
        let large = ring_bytes > RING_BYTES;
        let lag = self.lag(session, 100);
        let now = self.now;
        let longer = if large { self.dice.millis(700) } else { Duration::ZERO };
        let client = self.clients.get_mut(&session).expect("it is there");
        let at = if large {
            now + after + lag + longer
        } else {
            client.said_by = client.said_by.max(now + after + lag);
            client.said_by
        };
        self.put(at, Event::Request { session, request, carries });
    }

    /// A client does something of its own accord, and later something else.
    pub(super) fn act(&mut self, session: SessionId) {
        if self.acts == 0 || self.clients[&session].stopped || !self.clients[&session].welcome {
            return;
        }
        self.acts -= 1;
        match self.dice.roll(40) {
            0..14 => self.subscribe(session),
            14..30 => self.declare(session),
            30..36 => self.unsubscribe(session),
            36 => self.close_publisher(session),
            37 => self.accuse(session),
            39 => {
                let request = self.clients.get_mut(&session).expect("it acts").fresh();
                self.say_after(session, Request::Statistics { request }, Duration::ZERO);
            }
            38 if self.clients[&session].name != "agent" => return self.die(session),
            _ => {}
        }
        let at = self.now + self.dice.millis(400);
        self.put(at, Event::Act { session });
    }

    fn subscribe(&mut self, session: SessionId) {
        let patterns = (0..=self.dice.roll(2)).map(|_| self.dice.of(&PATTERNS).to_string()).collect();
        let ring_bytes = self.dice.of(&[None, None, None, Some(1 << 16), Some(RING_BYTES << 2), Some(12)]);
        let client = self.clients.get_mut(&session).expect("it acts");
        let (request, subscription) = (client.fresh(), client.fresh());
        client.subscriptions.insert(subscription);
        client.awaits.insert(request);
        let request = Request::Subscribe { request, subscription, patterns, ring_bytes };
        self.say_after(session, request, Duration::ZERO);
    }

    fn hear_answer(&mut self, session: SessionId, notice: &Notice) {
        let client = self.clients.get_mut(&session).expect("it was spoken to");
        match notice {
            Notice::Refused { request, .. } if !client.awaits.contains(request) => {
                if let Some((_, publisher)) = client.declares.take_if(|(asked, _)| asked == request) {
                    let topics = client.publishers.get_mut(&publisher);
                    topics.map(Vec::pop);
                }
            }
            Notice::Declared { request, .. } => {
                client.declares.take_if(|(asked, _)| asked == request);
            }
            Notice::Subscribed { request, .. } | Notice::Refused { request, .. } => {
                client.awaits.remove(request);
                client.begins |= matches!(notice, Notice::Subscribed { .. });
                self.begin(session);
            }
            _ => unreachable!("the caller hands over no others"),
        }
    }

    /// Says that all has begun that was answered, if nothing else is asked for.
    fn begin(&mut self, session: SessionId) {
        let client = self.clients.get_mut(&session).expect("it was answered");
        if client.awaits.is_empty() && std::mem::take(&mut client.begins) {
            self.say_after(session, Request::Begun, Duration::ZERO);
        }
    }

    fn unsubscribe(&mut self, session: SessionId) {
        let known: Vec<u32> = self.clients[&session].subscriptions.iter().copied().collect();
        if !known.is_empty() {
            let subscription = self.dice.of(&known);
            self.clients.get_mut(&session).expect("it acts").subscriptions.remove(&subscription);
            self.say_after(session, Request::Unsubscribe { subscription }, Duration::ZERO);
        }
    }

    fn declare(&mut self, session: SessionId) {
        let (publisher, which) = (self.dice.number(3), self.dice.roll(4));
        let client = self.clients.get_mut(&session).expect("it acts");
        let of_it = TOPICS.iter().find(|(name, _)| *name == client.name).expect("each has its own");
        let topic = of_it.1[which];
        let topics = client.publishers.entry(publisher).or_default();
        if client.declares.is_some() || topics.contains(&topic) {
            return;
        }
        let topic_number = u32::try_from(topics.len()).expect("a few");
        topics.push(topic);
        let request = client.fresh();
        client.declares = Some((request, publisher));
        let topic = topic.into();
        let request = Request::Declare { request, publisher, topic_number, topic };
        self.say_after(session, request, Duration::ZERO);
    }

    fn close_publisher(&mut self, session: SessionId) {
        let client = self.clients.get_mut(&session).expect("it acts");
        let closed = client.publishers.keys().next().copied();
        if let Some(publisher) = closed.filter(|_| client.declares.is_none()) {
            client.publishers.remove(&publisher);
            self.say_after(session, Request::ClosePublisher { publisher }, Duration::ZERO);
        }
    }

    fn accuse(&mut self, session: SessionId) {
        let client = self.clients.get_mut(&session).expect("it acts");
        if let Some(ring) = client.rings.pop_first() {
            let request = Request::Poisoned { ring, violation: "so".into() };
            self.say_after(session, request, Duration::ZERO);
        }
    }
}
