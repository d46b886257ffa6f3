//! Peers that send anything at any time, right and wrong. The world checks the invariants after each input.

use std::time::{Duration, Instant};

use super::super::{Input, Origin, Report, SessionId};
use super::dice::Dice;
use super::world::{HELLO_DEADLINE, ROUTE_DEADLINE, USER, World, consumer_segment, producer_segment};
use crate::access::AccessPolicy;
use crate::wire::{GoodbyeReason, OrderId, Refusal, Request, RingId};

const TOPICS: [&str; 6] = [
    "events.process.batch",
    "events.process.anomaly",
    "events.network.batch",
    "control.shutdown",
    "control.health.status",
    "no such topic",
];
const PATTERNS: [&str; 7] =
    ["#", "events.#", "events.process.+", "control.health.#", "+.process.batch", "control.#", "..."];
/// Rings of the usual size, of others, and of some that can't be.
const SIZES: [Option<u64>; 7] =
    [None, None, Some(1 << 16), Some(1 << 20), Some(1 << 24), Some(1 << 30), Some((1 << 20) + 1)];
/// Tables that differ in who may publish, and in who may subscribe.
pub(super) const POLICIES: [&str; 4] = [
    "defaults = true",
    "defaults = false",
    "defaults = true
    [[row]]
    topics = 'events.process.#'
    level = 'public'
    publishers = ['netmond', 'procmond']
    subscribers = ['anyone']",
    "defaults = true
    [[row]]
    topics = 'events.process.batch'
    level = 'restricted'
    publishers = ['agent']
    subscribers = ['agent', 'detector']
    [[row]]
    topics = 'control.#'
    level = 'restricted'
    publishers = ['agent', 'tool']
    subscribers = []",
];
const NAMES: [&str; 6] = ["procmond", "netmond", "agent", "detector", "tool", "No Name"];

/// A number that is mostly one of those in use, and sometimes not.
fn some_id(dice: &mut Dice, known: impl Iterator<Item = u64>) -> u64 {
    let known: Vec<u64> = known.collect();
    if known.is_empty() || dice.roll(8) == 0 { dice.roll(400) as u64 } else { dice.of(&known) }
}

/// A request that makes sense, or not.
fn some_request(world: &World, dice: &mut Dice, session: SessionId) -> Request {
    let ring = |dice: &mut Dice| RingId(some_id(dice, world.machine.rings.keys().map(|ring| ring.0)));
    match dice.roll(26) {
        0..6 => {
            let patterns = (0..dice.roll(3)).map(|_| dice.of(&PATTERNS).to_string()).collect();
            let ring_bytes = dice.of(&SIZES);
            Request::Subscribe {
                request: dice.number(99),
                subscription: dice.number(4),
                patterns,
                ring_bytes,
            }
        }
        6..12 => {
            let publisher = dice.number(3);
            let state = world.machine.sessions.get(&session);
            let known = state.and_then(|state| state.publishers.get(&publisher));
            let next = known.map_or(0, |id| world.machine.publishers[id].topics.len());
            let wrong = dice.number(20) / 19;
            let topic_number = u32::try_from(next).expect("a small number") + wrong;
            // Mostly another than those before: the same one twice is a fault.
            let nth = if dice.roll(30) == 0 { dice.roll(TOPICS.len()) } else { next % TOPICS.len() };
            let topic = TOPICS[nth].into();
            Request::Declare { request: dice.number(99), publisher, topic_number, topic }
        }
        12..16 => Request::Unsubscribe { subscription: dice.number(4) },
        16 => Request::ClosePublisher { publisher: dice.number(3) },
        17 => producer_segment(ring(dice)),
        18 => consumer_segment(ring(dice)),
        19 => Request::NoRing { ring: ring(dice), cause: "so".into() },
        20 => Request::Poisoned { ring: ring(dice), violation: "so".into() },
        _ => Request::Done { order: OrderId(some_id(dice, world.machine.orders.keys().map(|id| id.0))) },
    }
}

fn join(world: &mut World, dice: &mut Dice) -> SessionId {
    let name = dice.of(&NAMES);
    let user = dice.of(&[USER, Origin::Remote { uid: 1001 }]);
    let session = world.connect(if name == "agent" { Origin::Embedded } else { user });
    if dice.roll(12) > 0 {
        world.hello(session, name);
    }
    session
}

fn step(world: &mut World, dice: &mut Dice, slot: &mut SessionId) {
    let session = *slot;
    if !world.is_connected(session) {
        *slot = join(world, dice);
        return;
    }
    match dice.roll(60) {
        0 => world.end(session),
        1 => {
            let descriptor = (dice.roll(2) == 0).then_some(1);
            let request = some_request(world, dice, session);
            world.feed(Input::Frame { session, request, descriptor });
        }
        2 if dice.roll(4) == 0 => {
            world.feed(Input::Faulty { session, reason: GoodbyeReason::TooSlow { limit: 1 } });
        }
        3 => world.hello(session, dice.of(&NAMES)),
        4 if dice.roll(4) == 1 => {
            world.reload(&AccessPolicy::from_toml(dice.of(&POLICIES)).expect("a legal table"));
        }
        4 if dice.roll(4) == 0 => world.wait(dice.of(&[ROUTE_DEADLINE / 3, ROUTE_DEADLINE, HELLO_DEADLINE])),
        5 => world.settle(),
        6..28 => drop(world.obey_one(session)),
        28..40 => world.obey(session),
        _ => {
            // Mostly what its client could send: a hostile one is soon sent away.
            let request = some_request(world, dice, session);
            let descriptor =
                matches!(request, Request::ProducerSegment { .. } | Request::ConsumerSegment { .. });
            let hostile = descriptor || matches!(request, Request::NoRing { .. });
            if !hostile || dice.roll(8) == 0 {
                world.feed(Input::Frame { session, request, descriptor: descriptor.then_some(1) });
            }
        }
    }
}

/// Four clients, and 300 steps of theirs. What ran: routes that were there at the end, and rings that were too many.
fn run(seed: u64) -> (usize, usize) {
    let mut dice = Dice(seed);
    // Mostly enough, and sometimes not even one ring.
    let (total, per_uid) =
        (dice.of(&[1 << 31, 1 << 25, 3 << 20, 1 << 20]), dice.of(&[1 << 31, 1 << 25, 2 << 20]));
    let mut world = World::with_budget(total, per_uid);
    let mut refused = 0;
    let mut slots = [(); 4].map(|()| join(&mut world, &mut dice));
    for _ in 0..300 {
        let slot = dice.roll(slots.len());
        step(&mut world, &mut dice, &mut slots[slot]);
        let over_budget =
            |report: &Report| matches!(report, Report::Refused { refusal: Refusal::RingBudget { .. }, .. });
        refused += world.reports.drain(..).filter(over_budget).count();
    }
    world.wait(HELLO_DEADLINE);
    world.settle();
    assert_eq!(world.reloads, world.reloaded.len() as u64, "each reload comes to its end, once");
    super::super::invariants::check_at_rest(&world.machine);
    let routes = world.machine.routes.len();
    for session in slots {
        world.end(session);
    }
    world.assert_no_paths();
    assert!(world.machine.publishers.is_empty() && world.machine.sessions.is_empty());
    (routes, refused)
}

#[test]
fn whatever_peers_send_the_machine_keeps_its_laws() {
    let until = Instant::now() + Duration::from_millis(1500);
    let (mut runs, mut routes, mut refused) = (0_u64, 0, 0);
    // Ten however slow they are: a sanitizer takes a second for each.
    while runs < 10 || (Instant::now() < until && runs < 2000) {
        runs += 1;
        // Any odd number far from 0 will do: it says in a failure which run it was.
        let seed = runs.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let ran = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!("with seed {seed:#x}");
            std::panic::resume_unwind(panic)
        });
        (routes, refused) = (routes + ran.0, refused + ran.1);
    }
    assert!(routes > 0 && refused > 0, "{routes} routes, {refused} refused: little was tried in {runs} runs");
}
