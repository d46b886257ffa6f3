//! Whole lives of a bus, drawn at random, on a clock that is only a number.
//!
//! The clients behave as the real session does: they answer orders in the order in which they come, make large rings beside
//! that, and go on with what is asked for no longer. Some are slow within their deadlines, some stall, some never say
//! hello, some have no memory, some accuse, some die. What they and the machine say takes time on its way.
//!
//! After each input the machine's books are held against the [invariants](super::super::invariants), and what it has said, which is all that
//! its peers know, against these laws ([`laws`]):
//!
//! 1. A route leads to a slot that its receiver has confirmed, for the same topic and generation: the receiver is first.
//! 2. A slot is revoked, or granted again, only when no publisher uses it: the publisher is first.
//! 3. A session is sent nothing after its goodbye, and disconnected once.
//! 4. Each request is answered exactly once, within four steps of the route deadline each; only the end of its session comes before.
//! 5. From the answer to a subscribe and to a declaration on, and as long as both last, the two are joined: a slot of the topic's
//!    is granted to the one and used by the other, unless one of the two has broken the ring between them.
//! 6. Who answers within the deadlines is not sent away for being late, nor for what others do; who does not, is.
//! 7. What is charged is the sum of the rings whose ends were told to make them, and not to close them, at the expense of their subscribers.
//! 8. Both ends of a ring, if they are there, are told of its end when one of them goes, and nothing is left of the dead: when all
//!    have gone the machine is as it was at first.
//! 9. No order number is given twice, and no ring has two slots for one purpose.
//! 10. Nobody is welcome who has not proven what was asked for, but for the broker's own process and who was invited; and a name that somebody has
//!     goes to another session only by a token, or, from who has proven less, by an invitation.
//! 11. Once a reload is answered no publisher uses a route that the policy does not allow, nor one of those after it. Each is answered once,
//!     and law 5 asks those policies too.
//!
//! 12. Of whom it is said that it is settled has said that it is whole, if it has come back, and that all has begun which it was answered; and
//!     who hears it has come back, too.
//! 13. Who is asked what it has counted is not asked again before it has answered, and nobody waits for one that does not answer: who wants
//!     to know is answered within one deadline, one pause, and one deadline.
//!
//! A schedule that breaks one prints its seed: `EVENTBUS_SEED=0x… cargo test --lib simulated` runs that one again, and
//! `EVENTBUS_SCHEDULES=100000` so many of them.

mod clients;
mod laws;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::{
    Action, Admission, Asker, Facts, Input, Inquired, Known, Limits, Machine, Origin, Pace, SessionId,
    Settings, Share,
};
use super::chaos::POLICIES;
use super::dice::Dice;
use super::world::{HELLO_DEADLINE, RING_BYTES, ROUTE_DEADLINE, admission, no_limits};
use crate::access::AccessPolicy;
use crate::config::FRAME_BYTES_MAX;
use crate::wire::codec::encode;
use crate::wire::statistics::in_frames;
use crate::wire::{Epoch, GoodbyeReason, Hello, Needed, Notice, Request, Resource, TokenId};
use clients::{Client, Temper};
use laws::Outside;

/// What is on its way.
#[derive(Debug)]
enum Event {
    Request {
        session: SessionId,
        request: Request,
        carries: bool,
    },
    Notice {
        session: SessionId,
        notice: Notice,
    },
    /// A client does something of its own accord.
    Act {
        session: SessionId,
    },
    /// The broker notices that a client is gone.
    Gone {
        session: SessionId,
    },
    Join,
    Reload,
}

struct Simulation {
    machine: Machine<u32>,
    now: Instant,
    dice: Dice,
    /// In order of time, and then as they were put there.
    events: BTreeMap<(Instant, u64), Event>,
    clients: BTreeMap<SessionId, Client>,
    outside: Outside,
    last: u64,
    /// What clients may still do of their own accord.
    acts: usize,
    ran: Ran,
}

/// What a schedule has tried.
#[derive(Debug, Default, Clone, Copy)]
struct Ran {
    inputs: usize,
    routes: usize,
    dismissed: usize,
    refused: usize,
    parted: usize,
    paused: usize,
    reloads: usize,
    inquiries: usize,
}

fn settings(dice: &mut Dice) -> Settings {
    Settings {
        epoch: Epoch(7),
        policy: AccessPolicy::default(),
        ring_bytes: RING_BYTES,
        limits: limits(dice),
        operators: [0, 1000].into(),
        pace: Pace {
            each: dice.of(&[Duration::ZERO, Duration::from_millis(20)]),
            ahead: Duration::from_millis(100),
            pause: Duration::from_millis(60),
        },
        backing: shm::Backing::Memfd,
        relays_all: false,
        route_deadline: ROUTE_DEADLINE,
        hello_deadline: HELLO_DEADLINE,
        record_deadline: crate::config::RECORD_DEADLINE,
    }
}

/// Mostly enough, and sometimes nearly nothing.
fn limits(dice: &mut Dice) -> Limits {
    let mut limits = no_limits();
    let mut limit = |resource: Resource, totals: [u64; 4]| {
        let total = dice.of(&totals);
        let (per_uid, strangers) = (dice.of(&[total, total, total / 2]), dice.of(&[total, total * 3 / 4]));
        limits.shares[resource as usize] = Share { total, per_uid, strangers };
    };
    limit(Resource::RingBytes, [1 << 31, 1 << 31, 1 << 25, 6 << 20]);
    limit(Resource::Connections, [99, 99, 6, 4]);
    limit(Resource::Handshakes, [99, 99, 3, 2]);
    limit(Resource::Subscriptions, [999, 999, 30, 10]);
    limit(Resource::PatternBytes, [1 << 30, 1 << 30, 100_000, 40_000]);
    limit(Resource::Topics, [999, 999, 12, 6]);
    limit(Resource::Publishers, [99, 99, 8, 4]);
    limits
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let now = Instant::now();
        let machine = Machine::new(settings(&mut dice), now);
        let joins = 4 + dice.roll(6);
        let acts = 20 + dice.roll(60);
        let mut simulation = Self {
            machine,
            now,
            dice,
            events: BTreeMap::new(),
            clients: BTreeMap::new(),
            outside: Outside::new(AccessPolicy::default()),
            last: 0,
            acts,
            ran: Ran::default(),
        };
        for _ in 0..joins {
            let at = simulation.now + simulation.dice.millis(1500);
            simulation.put(at, Event::Join);
        }
        for _ in 0..simulation.dice.roll(6) {
            let at = simulation.now + simulation.dice.millis(5000);
            simulation.put(at, Event::Reload);
        }
        simulation
    }

    fn put(&mut self, at: Instant, event: Event) {
        self.last += 1;
        self.events.insert((at, self.last), event);
    }

    /// Runs until nothing more is on its way, and nobody is waited for.
    fn run(&mut self) {
        loop {
            let next = self.events.first_key_value().map(|((at, _), _)| *at);
            match (self.machine.next_deadline(), next) {
                (Some(due), next) if next.is_none_or(|next| due <= next) => {
                    self.now = self.now.max(due);
                    self.feed(Input::Tick);
                    self.outside.nobody_is_late(self.now);
                }
                (_, Some(next)) => {
                    self.now = self.now.max(next);
                    let (_, event) = self.events.pop_first().expect("it was just looked at");
                    self.take(event);
                }
                (Some(_) | None, None) => return,
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Request { session, request, carries } => {
                if self.outside.is_open(session) {
                    self.outside.asked(session, &request, self.now);
                    let descriptor = carries.then_some(1);
                    self.feed(Input::Frame { session, request, descriptor });
                }
            }
            Event::Notice { session, notice } => self.hear(session, &notice),
            Event::Act { session } => self.act(session),
            Event::Gone { session } => {
                self.outside.ended(session);
                self.feed(Input::Ended { session });
            }
            Event::Join => self.join(),
            Event::Reload => {
                self.ran.reloads += 1;
                let policy = AccessPolicy::from_toml(self.dice.of(&POLICIES)).expect("a legal table");
                let number = self.outside.reload(policy.clone());
                self.feed(Input::Reload { number, policy });
            }
        }
    }

    /// Feeds the machine, does what it says, and looks at what has come of it.
    fn feed(&mut self, input: Input<u32>) {
        self.ran.inputs += 1;
        let mut inputs = VecDeque::from([input]);
        // In which order the broker makes doorbells is its own affair.
        let in_order = self.dice.chance(2);
        while let Some(input) = if in_order { inputs.pop_front() } else { inputs.pop_back() } {
            for action in self.machine.handle(self.now, input) {
                inputs.extend(self.perform(action));
            }
        }
        super::super::invariants::check(&self.machine);
        self.outside.check(&self.machine);
    }

    fn perform(&mut self, action: Action<u32>) -> Option<Input<u32>> {
        match action {
            Action::Send { session, notice, .. } => {
                assert!(encode(&notice).len() <= FRAME_BYTES_MAX, "{notice:?} is a frame");
                self.outside.said(session, &notice, self.now);
                if matches!(notice, Notice::Welcome(_)) {
                    self.welcomed(session);
                }
                match &notice {
                    Notice::Route { .. } => self.ran.routes += 1,
                    Notice::Refused { .. } => self.ran.refused += 1,
                    Notice::Goodbye { reason } => self.dismissed(session, reason),
                    _ => {}
                }
                let at = self.on_its_way_to(session);
                self.put(at, Event::Notice { session, notice });
            }
            Action::SendRelayed { .. } => unreachable!("nobody relays anything here"),
            Action::Disconnect { session } => self.outside.disconnected(session),
            Action::MakeDoorbell { ring } => {
                let ends = (!self.dice.chance(200)).then_some((1, 2));
                self.outside.begun(ring);
                return Some(Input::Doorbell { ring, ends });
            }
            Action::Pause { session, until } => self.pause(session, until),
            Action::Admit { session, hello } => {
                let admission = self.admit(session, &hello);
                return Some(Input::Admitted { session, admission });
            }
            // Who comes here comes when it likes.
            Action::Hold { until } => assert!(until > self.now, "nobody waits for what is over"),
            Action::Reloaded { number, .. } => self.outside.reloaded(number),
            Action::Inquired(inquired) => return Some(self.inquired(&inquired)),
            Action::Report(_) => {}
        }
        None
    }

    /// Tells what was found out to those who wanted to know it.
    fn inquired(&mut self, inquired: &Inquired) -> Input<u32> {
        self.ran.inquiries += 1;
        let mut facts = Facts::new();
        self.machine.tell_facts(&mut facts, &inquired.claims, |_| (1, None));
        let sessions = inquired.askers.iter().map(|asker| match asker {
            Asker::Session { session, request } => (*session, *request),
            Asker::Own(number) => panic!("nobody asked for {number}"),
        });
        Input::Answered { askers: sessions.collect(), parts: in_frames(facts.finish()) }
    }

    /// What the door says to a client: mostly that it has proven what it should.
    fn admit(&mut self, session: SessionId, hello: &Hello) -> Result<Admission, Needed> {
        let known_by = match self.dice.roll(20) {
            0 => return Err(Needed::Token),
            1 | 2 => Known::Token { token: TokenId([1; 16]), pid: self.dice.of(&[None, Some(1), Some(2)]) },
            _ => Known::User,
        };
        assert_eq!(hello.client_id, self.clients[&session].name);
        let admission = admission(hello, known_by);
        self.clients.get_mut(&session).expect("it has said hello").admitted =
            admission.as_ref().ok().map(|admission| admission.known_by);
        admission
    }

    /// Nothing of the session is read for a while: what it has said waits, and what it will say waits behind that.
    fn pause(&mut self, session: SessionId, until: Instant) {
        let until = until + Duration::from_micros(1);
        let of_it = |_: &(Instant, u64), event: &mut Event| matches!(event, Event::Request { session: from, .. } | Event::Gone { session: from } if *from == session);
        let waiting: Vec<_> = self.events.extract_if(..=(until, u64::MAX), of_it).collect();
        for (_, event) in waiting {
            self.put(until, event);
        }
        self.ran.paused += 1;
        let client = self.clients.get_mut(&session).expect("it spoke");
        client.said_by = client.said_by.max(until);
        client.paused = true;
    }

    /// Law 10.
    fn welcomed(&mut self, session: SessionId) {
        let client = &self.clients[&session];
        let known_by = match (client.origin, client.admitted) {
            (Origin::Embedded, _) => Known::Process,
            (Origin::Invited { .. }, _) => Known::Invitation,
            (Origin::Remote { .. }, Some(known_by)) => known_by,
            (Origin::Remote { .. }, None) => panic!("10: {} is welcome, having proven nothing", client.name),
        };
        let name = client.name;
        let before = self.clients.iter().find(|(other, client)| {
            **other != session
                && client.name == name
                && client.known_by.is_some()
                && self.outside.is_open(**other)
        });
        if let Some((_, before)) = before {
            panic!("10: {name} is there twice: {:?} and {known_by:?}", before.known_by);
        }
        self.clients.get_mut(&session).expect("it is there").known_by = Some(known_by);
    }

    /// Law 6.
    fn dismissed(&mut self, session: SessionId, reason: &GoodbyeReason) {
        self.ran.dismissed += 1;
        let client = &self.clients[&session];
        let own_fault = match reason {
            GoodbyeReason::RouteDeadline | GoodbyeReason::HelloDeadline | GoodbyeReason::TooSlow { .. } => {
                true
            }
            GoodbyeReason::Protocol { .. } => panic!("6: clients here keep the protocol: {reason}"),
            GoodbyeReason::Replaced => {
                let holder = client.known_by;
                let taken_over = |known: Known| matches!(known, Known::User | Known::Token { .. });
                assert!(
                    holder.is_some_and(taken_over),
                    "10: {} was known {holder:?}, and is replaced",
                    client.name
                );
                self.clients.get_mut(&session).expect("it is there").known_by = None;
                return;
            }
            _ => false,
        };
        let may_be_late = client.paused || matches!(client.temper, Temper::Staller | Temper::Mute);
        let oldest = *reason == GoodbyeReason::HelloDeadline && self.now < client.since + HELLO_DEADLINE;
        let blamed = own_fault && !may_be_late && !oldest;
        assert!(!blamed, "6: {} answers in time, and is told: {reason}", client.name);
    }

    /// All go, and nothing is left.
    fn end(&mut self) {
        super::super::invariants::check_at_rest(&self.machine);
        self.outside.at_rest();
        if self.dice.roll(2) == 0 {
            self.feed(Input::Shutdown);
        }
        let left: Vec<SessionId> = self.clients.keys().copied().collect();
        for session in left {
            self.outside.ended(session);
            self.feed(Input::Ended { session });
        }
        let Machine { sessions, names, publishers, rings, routes, orders, waits, interests, .. } =
            &self.machine;
        let books = [sessions.len(), names.len(), publishers.len(), rings.len(), routes.len()];
        assert_eq!((books, orders.len(), waits.len()), ([0; 5], 0, 0), "8");
        assert!(interests.is_empty(), "8: {interests:?}");
    }
}

impl Dice {
    fn millis(&mut self, below: usize) -> Duration {
        Duration::from_micros(self.roll(below * 1000) as u64)
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.roll(one_in) == 0
    }
}

/// Two users, and the process with the broker in it.
fn origin(dice: &mut Dice, name: &str) -> Origin {
    match name {
        "agent" => Origin::Embedded,
        _ if dice.chance(10) => Origin::Invited { uid: 65534 },
        _ => dice.of(&[Origin::Remote { uid: 1000 }, Origin::Remote { uid: 65534 }]),
    }
}

fn run(seed: u64) -> Ran {
    let mut simulation = Simulation::new(seed);
    simulation.run();
    simulation.end();
    Ran { parted: simulation.outside.parted(), ..simulation.ran }
}

/// A number of the environment, also in hexadecimal.
fn asked_for(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn in_simulated_schedules_the_laws_hold() {
    if let Some(seed) = asked_for("EVENTBUS_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let schedules =
        asked_for("EVENTBUS_SCHEDULES").unwrap_or(if cfg!(debug_assertions) { 150 } else { 10_000 });
    let since = Instant::now();
    let mut sum = Ran::default();
    for number in 1..=schedules {
        let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let ran = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("schedule {number} of {schedules}: EVENTBUS_SEED={seed:#x} runs it again");
            std::panic::resume_unwind(panic)
        });
        sum = Ran {
            inputs: sum.inputs + ran.inputs,
            routes: sum.routes + ran.routes,
            dismissed: sum.dismissed + ran.dismissed,
            refused: sum.refused + ran.refused,
            parted: sum.parted + ran.parted,
            paused: sum.paused + ran.paused,
            reloads: sum.reloads + ran.reloads,
            inquiries: sum.inquiries + ran.inquiries,
        };
    }
    println!("{schedules} schedules in {:?}: {sum:?}", since.elapsed());
    let Ran { routes, dismissed, refused, parted, paused, reloads, inquiries, .. } = sum;
    assert!(
        schedules < 100
            || [routes, dismissed, refused, parted, paused, reloads, inquiries]
                .iter()
                .all(|tried| *tried > 0),
        "{sum:?}"
    );
}
