//! The broker's machine, with clients that do whatever bytes say.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::access::AccessPolicy;
use crate::control::{
    Action, Admission, Asker, Facts, Input, Inquired, Known, Limits, Machine, Origin, Pace, SessionId,
    Settings, Share, invariants,
};
use crate::wire::relayed::{Head, Row};
use crate::wire::{
    Claims, Credential, Epoch, GoodbyeReason, Handle, Hello, Life, Needed, Nonce, Notice, Proof,
    ReceivedClaim, RelayedRecords, Request, Resource, RingClaim, RingId, RouteClaim, SubscriptionClaim,
    TopicClaim, TotalClaim, Versions, codec, statistics::in_frames,
};

const ROUTE_DEADLINE: Duration = Duration::from_millis(500);
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
const NAMES: [&str; 5] = ["procmond", "netmond", "agent", "detector", "tool"];
const TOPICS: [&str; 6] = [
    "events.process.batch",
    "events.process.anomaly",
    "events.network.batch",
    "control.health.heartbeat.tool",
    "control.shutdown",
    "no topic",
];
const PATTERNS: [&str; 6] = ["#", "events.#", "events.process.+", "control.health.#", "+.process.batch", "x"];
const SIZES: [Option<u64>; 4] = [None, Some(1 << 16), Some(1 << 22), Some(3)];

/// Bytes as choices.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        let byte = self.byte()?;
        items.get(usize::from(byte) % items.len().max(1)).copied()
    }

    fn number(&mut self) -> Option<u32> {
        self.byte().map(u32::from)
    }
}

/// A machine, and what its clients have not read.
struct Bus {
    machine: Machine<u32>,
    now: Instant,
    unread: BTreeMap<SessionId, VecDeque<Notice>>,
    /// Doorbells can be had.
    bells: bool,
    last: u64,
}

/// A bus lives as the bytes say. Panics where the machine does, or where its books are not in order.
pub fn live(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let Some(limits) = choices.byte() else { return };
    let mut bus = Bus::new(limits);
    while bus.step(&mut choices).is_some() {
        invariants::check(&bus.machine);
    }
    bus.feed(Input::Shutdown);
    invariants::check(&bus.machine);
}

fn settings(limits: u8) -> Settings {
    let few = |bit: u8, few: u64| if limits & (1 << bit) == 0 { 1 << 40 } else { few };
    let share = |total: u64| Share { total, per_uid: total / 2, strangers: total / 4 * 3 };
    let all = |total| Share { total, per_uid: total, strangers: total };
    let mut shares = [all(u64::MAX); Resource::COUNT];
    for (resource, total) in [
        (Resource::RingBytes, few(0, 4 << 20)),
        (Resource::Connections, few(1, 8)),
        (Resource::Handshakes, few(2, 4)),
        (Resource::Subscriptions, few(3, 8)),
        (Resource::PatternBytes, few(4, 40_000)),
        (Resource::Topics, few(5, 8)),
        (Resource::RelayedBytes, few(6, 600)),
    ] {
        shares[resource as usize] = share(total);
    }
    Settings {
        epoch: Epoch(7),
        policy: AccessPolicy::default(),
        ring_bytes: 1 << 20,
        limits: Limits { shares, component_uids: [0].into() },
        operators: [0, 1000].into(),
        pace: Pace { each: Duration::from_millis(1), ahead: ROUTE_DEADLINE, pause: ROUTE_DEADLINE },
        backing: shm::Backing::Memfd,
        relays_all: limits & (1 << 7) != 0,
        route_deadline: ROUTE_DEADLINE,
        hello_deadline: HELLO_DEADLINE,
        record_deadline: HELLO_DEADLINE,
    }
}

impl Bus {
    fn new(limits: u8) -> Self {
        let now = Instant::now();
        let machine = Machine::new(settings(limits), now);
        Self { machine, now, unread: BTreeMap::new(), bells: true, last: 0 }
    }

    fn feed(&mut self, input: Input<u32>) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for action in self.machine.handle(self.now, input) {
                match action {
                    Action::Send { session, notice, .. } => {
                        let unread = self.unread.get_mut(&session).expect("who is told something is there");
                        unread.push_back(notice);
                    }
                    Action::SendRelayed { session, notice, charge } => {
                        let unread = self.unread.get_mut(&session).expect("who is sent records is there");
                        unread.push_back(notice);
                        // What leaves at once is charged for no time at all.
                        if charge % 2 == 0 {
                            inputs.push(Input::Written { session, charge });
                        }
                    }
                    Action::Disconnect { session } => {
                        self.unread.remove(&session).expect("who is disconnected is there");
                    }
                    Action::MakeDoorbell { ring } => {
                        inputs.push(Input::Doorbell { ring, ends: self.bells.then_some((1, 2)) });
                    }
                    Action::Pause { until, .. } => {
                        assert!(until > self.now && until <= self.now + ROUTE_DEADLINE)
                    }
                    Action::Admit { session, hello } => {
                        let proof = hello.proof.ok_or(Needed::Key);
                        let admission = proof.map(|proof| Admission { known_by: Known::User, proof });
                        inputs.push(Input::Admitted { session, admission });
                    }
                    Action::Hold { until } => {
                        assert!(until > self.now && until <= self.now + HELLO_DEADLINE)
                    }
                    Action::Inquired(inquired) => inputs.push(self.answer(&inquired)),
                    Action::Reloaded { .. } | Action::Report(_) => {}
                }
            }
        }
    }

    /// Tells the facts to the sessions that asked for them.
    fn answer(&self, inquired: &Inquired) -> Input<u32> {
        let mut facts = Facts::new();
        self.machine.tell_facts(&mut facts, &inquired.claims, |_| (0, None));
        let askers = inquired.askers.iter().filter_map(|asker| match asker {
            Asker::Session { session, request } => Some((*session, *request)),
            Asker::Own(_) => None,
        });
        Input::Answered { askers: askers.collect(), parts: in_frames(facts.finish()) }
    }

    /// One thing happens; `None`: the bytes are used up.
    fn step(&mut self, choices: &mut Choices<'_>) -> Option<()> {
        let kind = choices.byte()?;
        let known: Vec<SessionId> = self.unread.keys().copied().collect();
        if known.is_empty() || kind < 20 {
            return self.join(choices);
        }
        let session = choices.of(&known)?;
        match kind {
            20..120 => self.obey(session, usize::from(kind % 8) + 1),
            120..200 => {
                let request = request(choices)?;
                let descriptor = (choices.byte()? < 200).then_some(1);
                self.feed(Input::Frame { session, request, descriptor });
            }
            200..220 => {
                let length = usize::from(choices.byte()?).min(choices.0.len());
                let (frame, rest) = choices.0.split_at(length);
                choices.0 = rest;
                if let Ok(request) = codec::decode::<Request>(frame) {
                    self.feed(Input::Frame { session, request, descriptor: None });
                }
            }
            220..230 => {
                self.unread.remove(&session);
                self.feed(Input::Ended { session });
            }
            230..234 => self.feed(Input::Faulty { session, reason: GoodbyeReason::TooSlow { limit: 1 } }),
            234..236 => self.feed(Input::Crowded),
            236..240 => self.bells = !self.bells,
            _ => {
                self.now += ROUTE_DEADLINE.mul_f32(f32::from(choices.byte()?) / 100.0);
                self.feed(Input::Tick);
            }
        }
        Some(())
    }

    fn join(&mut self, choices: &mut Choices<'_>) -> Option<()> {
        self.last += 1;
        let session = SessionId(self.last);
        let client_id = choices.of(&NAMES)?;
        let uid = choices.number()? % 4;
        let origin = if client_id == "agent" { Origin::Embedded } else { Origin::Remote { uid } };
        self.unread.insert(session, VecDeque::new());
        self.feed(Input::Connected { session, origin });
        if choices.byte()? < 240 {
            let hello = Hello {
                versions: Versions::OURS,
                features: 0,
                client_id: client_id.into(),
                nonce: Nonce([0; 32]),
                credential: Credential::Key,
                life: Life { client: 0, before: 0 },
                proof: Some(Proof([0; 32])),
            };
            self.feed(Input::Frame { session, request: Request::Hello(Box::new(hello)), descriptor: None });
        }
        Some(())
    }

    /// Does what a session was told, as its client would.
    fn obey(&mut self, session: SessionId, count: usize) {
        for _ in 0..count {
            let Some(notice) = self.unread.get_mut(&session).and_then(VecDeque::pop_front) else {
                return;
            };
            let handle = Handle::Descriptor;
            let (request, descriptor) = match notice {
                Notice::MakeProducerSegment { ring, .. } => {
                    (Request::ProducerSegment { ring, handle }, Some(1))
                }
                Notice::MakeConsumerSegment { ring, .. } => {
                    (Request::ConsumerSegment { ring, handle }, Some(1))
                }
                Notice::Grant { order, .. } | Notice::Route { order, .. } | Notice::Unroute { order, .. } => {
                    (Request::Done { order }, None)
                }
                Notice::Tell => (Request::Told { claims: Box::default() }, None),
                Notice::Relayed { ring, records } => {
                    let cost = Row::default().weight(&records.0);
                    (Request::Took { ring, cost }, None)
                }
                _ => continue,
            };
            self.feed(Input::Frame { session, request, descriptor });
        }
    }
}

/// What may be about things that there are.
fn claims(choices: &mut Choices<'_>) -> Option<Claims> {
    let received = ReceivedClaim::default();
    let topics = vec![(choices.number()? % 4, choices.number()? % 4, TopicClaim::default()); 2];
    let rings = vec![(choices.byte()?.into(), RingClaim::default()); 2];
    let subscriptions = vec![(choices.number()? % 8, SubscriptionClaim::default()); 2];
    let routes = vec![(choices.byte()?.into(), u16::from(choices.byte()? % 3), RouteClaim::default()); 2];
    Some(Claims { totals: TotalClaim::default(), received, topics, rings, subscriptions, routes })
}

/// Records of which some may be in order, and the last cut.
fn records(choices: &mut Choices<'_>) -> Option<RelayedRecords> {
    let mut bytes = Vec::new();
    for _ in 0..choices.byte()? % 4 + 1 {
        let (slot, generation) = (u16::from(choices.byte()? % 3), u16::from(choices.byte()? % 2));
        let (events, sequence) = (choices.number()? % 4, choices.number()?.into());
        let length = match choices.number()? {
            255 => u32::MAX,
            254 => 1 << 20,
            few => few * 8,
        };
        let head = Head { slot, generation, events, sequence, bytes: length };
        bytes.extend_from_slice(&head.to_bytes());
        // What claims more than that is not all there.
        bytes.resize(bytes.len() + if events == 0 { 0 } else { length.min(4096) as usize }, 7);
    }
    bytes.truncate(bytes.len() - usize::from(choices.byte()? % 8));
    Some(RelayedRecords(bytes))
}

/// A request that may make sense.
fn request(choices: &mut Choices<'_>) -> Option<Request> {
    let ring = |choices: &mut Choices<'_>| choices.byte().map(|byte| RingId(byte.into()));
    Some(match choices.byte()? % 23 {
        0..5 => Request::Subscribe {
            request: choices.number()?,
            subscription: choices.number()? % 8,
            patterns: vec![choices.of(&PATTERNS)?.into(), choices.of(&PATTERNS)?.into()],
            ring_bytes: choices.of(&SIZES)?,
        },
        5..10 => Request::Declare {
            request: choices.number()?,
            publisher: choices.number()? % 4,
            topic_number: choices.number()? % 4,
            topic: choices.of(&TOPICS)?.into(),
        },
        10..12 => Request::Unsubscribe { subscription: choices.number()? % 8 },
        12 => Request::ClosePublisher { publisher: choices.number()? % 4 },
        13 => Request::Poisoned { ring: ring(choices)?, violation: "so".into() },
        16 => Request::Statistics { request: choices.number()? },
        17 => Request::Told { claims: Box::new(claims(choices)?) },
        22 => Request::Leaving { totals: TotalClaim::default() },
        18..21 => Request::Relay { ring: ring(choices)?, records: records(choices)? },
        21 => Request::Took { ring: ring(choices)?, cost: u64::from(choices.number()?) * 64 },
        14 => Request::NoRing { ring: ring(choices)?, cause: "so".into() },
        _ => Request::ConsumerSegment { ring: ring(choices)?, handle: Handle::Descriptor },
    })
}
