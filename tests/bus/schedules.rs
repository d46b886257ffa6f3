//! The account, in schedules at random between real processes: whatever happens to whom, each subscription that lives has received
//! each event that was published on its topics since it was made, in order and once, or is told of its loss where it is missing.
//!
//! Publishers burst; any process is stopped and goes on, or is killed and comes back under its name; subscriptions come, go, and
//! are left unread; Publishers are dropped and made anew. Then all go on, and each account must come out exactly, the losses
//! behind the last event included; and once more after another event on each stream, so that nothing is told later either.
//!
//! `EVENTBUS_SCHEDULES` says how many; each has a seed, which is printed when it fails.

use std::time::Duration;

use crate::support::backing;
use crate::support::chance::Chance;

mod account;
mod world;

use world::{AGENT, DETECTOR, PLANS, PUBLISHERS, SUBSCRIBERS, Sums, World};

const SCHEDULES: &str = "EVENTBUS_SCHEDULES";
const STEPS_MAX: u64 = 150;
/// So long a process may go on by itself between two steps.
const MOMENT_MICROS: u64 = 3000;
/// Subscriptions of one process.
const WATCHED_MAX: usize = 3;
/// Publishers of one process, besides the one that its threads share.
const HANDLES_MAX: usize = 3;

const WISHES: [&[&str]; 6] = [
    &["events.process.#"],
    &["events.process.batch"],
    &["events.process.lifecycle", "events.process.metadata"],
    &["events.network.#"],
    &["events.process.+", "events.network.event"],
    &["events.process.#", "events.network.#"],
];
/// Procmond may hear of no others.
const WISHES_OF_PROCMOND: usize = 3;

/// Tells what was done, and how to have it done again, when a schedule fails.
struct Told<'a>(&'a mut World, String);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{SCHEDULES}=1 {}\n{}", self.1, self.0.steps.join("\n"));
        }
    }
}

fn pick<T: Copy>(chance: &mut Chance, choices: &[T]) -> Option<T> {
    let index = chance.below(choices.len().max(1) as u64);
    choices.get(usize::try_from(index).expect("a small number")).copied()
}

/// A moment that nobody can know.
fn moment(chance: &mut Chance) {
    std::thread::sleep(Duration::from_micros(chance.below(MOMENT_MICROS)));
}

fn burst(world: &mut World, chance: &mut Chance) {
    let seat = chance.below(PUBLISHERS.end as u64) as usize;
    world.idle(seat);
    let handles = world.open_handles(seat);
    let by_handle = seat == AGENT || chance.below(3) > 0;
    let stream = match pick(chance, &handles) {
        Some(stream) if by_handle => stream,
        None if by_handle => {
            world.tell_declare(seat, chance);
            moment(chance);
            world.all_go_on();
            return world.answers(seat);
        }
        _ => world.shared_stream(seat, chance),
    };
    let (calls, size) = match chance.below(4) {
        0 => (1 + chance.below(10), 1),
        1 => (50 + chance.below(400), 1),
        2 => (1 + chance.below(4), 1 + chance.below(600)),
        _ => (1 + chance.below(40), 1 + chance.below(30)),
    };
    let bytes = [0, 0, chance.below(300), chance.below(6000)][chance.below(4) as usize];
    let rest_ms = if calls < 50 { chance.below(8) / 7 } else { 0 };
    world.burst(stream, calls, size, bytes, rest_ms);
}

fn subscribe(world: &mut World, chance: &mut Chance) {
    let mut wishes: Vec<(usize, &[&str])> = Vec::new();
    // Who has been stopped joins what it has not read yet.
    let stopped: Vec<usize> = SUBSCRIBERS.into_iter().filter(|&seat| world.seats[seat].stopped).collect();
    for _ in 0..=chance.below(2) {
        let seats = if stopped.is_empty() || chance.below(3) == 0 { &SUBSCRIBERS[..] } else { &stopped };
        let seat = pick(chance, seats).expect("there are some");
        let wish = chance.below(if seat == 1 { WISHES_OF_PROCMOND } else { WISHES.len() } as u64) as usize;
        let more = wishes.iter().filter(|(other, _)| *other == seat).count();
        if world.seats[seat].watched.len() + more < WATCHED_MAX {
            wishes.push((seat, WISHES[wish]));
        }
    }
    for (seat, _) in &wishes {
        world.idle(*seat);
    }
    let owners = |_: &World, seat: usize| wishes.iter().any(|(asks, _)| *asks == seat);
    let given_up = if chance.below(3) == 0 { watched(world, chance, owners) } else { None };
    world.subscribe(&wishes, given_up, |_| moment(chance));
}

/// A Publisher is dropped, and another made in its place.
fn reopen(world: &mut World, chance: &mut Chance) {
    let seat = chance.below(PUBLISHERS.end as u64) as usize;
    world.idle(seat);
    let handles = world.open_handles(seat);
    if let Some(stream) = pick(chance, &handles)
        && (handles.len() == HANDLES_MAX || chance.below(2) == 0)
    {
        world.close(stream);
    }
    if world.open_handles(seat).len() < HANDLES_MAX {
        world.tell_declare(seat, chance);
        moment(chance);
        world.all_go_on();
        world.answers(seat);
    }
}

/// A subscription of a process that listens; `which` of them.
fn watched(
    world: &World,
    chance: &mut Chance,
    which: impl Fn(&World, usize) -> bool,
) -> Option<(usize, usize)> {
    let seats = (0..world.seats.len()).filter(|&seat| which(world, seat));
    let all: Vec<(usize, usize)> =
        seats.flat_map(|seat| (0..world.seats[seat].watched.len()).map(move |index| (seat, index))).collect();
    pick(chance, &all)
}

fn listens(world: &World, seat: usize) -> bool {
    !world.seats[seat].stopped && world.seats[seat].busy.is_none()
}

fn rest(world: &mut World) {
    PUBLISHERS.for_each(|seat| world.idle(seat));
    world.all_go_on();
}

/// Whether events go over the broker. There, what a publisher that is killed has not sent yet is gone, and nobody can know of it.
fn is_relayed() -> bool {
    backing() == "relay"
}

fn step(world: &mut World, chance: &mut Chance) {
    let seat = chance.below(world.seats.len() as u64) as usize;
    match chance.below(100) {
        0..45 => burst(world, chance),
        45..55 if world.seats.iter().filter(|seat| seat.stopped).count() < 2 => world.stop(seat),
        55..60 => world.go_on(seat),
        60..72 => {
            if let Some((seat, index)) = watched(world, chance, listens) {
                let halted = !world.seats[seat].watched[index].halted;
                world.set_halted(seat, index, halted);
            }
        }
        72..82 => subscribe(world, chance),
        82..87 => {
            if let Some((seat, index)) = watched(world, chance, listens) {
                world.forget(seat, index);
            }
        }
        87..91 => reopen(world, chance),
        91..94 if seat != AGENT && !(PUBLISHERS.contains(&seat) && is_relayed()) => world.kill(seat),
        94..97 => {
            if let Some((seat, index)) = watched(world, chance, |_, _| true) {
                rest(world);
                if world.seats[seat].watched[index].halted {
                    world.set_halted(seat, index, false);
                }
                world.settle(seat, index);
            }
        }
        _ => moment(chance),
    }
    if chance.below(4) == 0 {
        moment(chance);
    }
}

/// All go on, and all that was published is received or told as lost.
fn settle(world: &mut World) {
    rest(world);
    for seat in 0..world.seats.len() {
        for index in 0..world.seats[seat].watched.len() {
            if world.seats[seat].watched[index].halted {
                world.set_halted(seat, index, false);
            }
        }
    }
    for seat in 0..world.seats.len() {
        (0..world.seats[seat].watched.len()).for_each(|index| world.settle(seat, index));
    }
}

fn schedule(world: &mut World, chance: &mut Chance, to_repeat: String) {
    world.steps.clear();
    let told = Told(world, to_repeat);
    let world = &mut *told.0;
    for _ in 0..=chance.below(3) {
        subscribe(world, chance);
    }
    for _ in 0..10 + chance.below(STEPS_MAX) {
        step(world, chance);
    }
    settle(world);
    // Whatever is told with the next event is told too often.
    for stream in 0..world.streams.len() {
        if world.streams[stream].open {
            world.burst(stream, 1, 1, 0, 0);
            world.idle(world.streams[stream].seat);
        }
    }
    settle(world);
    world.nobody_is_accused();
    for seat in 0..world.seats.len() {
        while !world.seats[seat].watched.is_empty() {
            world.forget(seat, 0);
        }
        world.open_handles(seat).into_iter().for_each(|stream| world.close(stream));
    }
}

/// While the broker rests, the route of the one subscription leads to the other. Then it is taken back, and comes again.
#[test]
fn who_gives_up_and_subscribes_again_at_once_hears_a_stream_without_a_hole() {
    let (mut chance, mut world) = (Chance::new(), World::new(PLANS[1]));
    world.tell_declare(1, &mut chance);
    world.answers(1);
    world.subscribe(&[(DETECTOR, WISHES[0])], None, |_| ());
    let calls = 2000;
    for round in 0..5 {
        world.burst(0, calls, 1, 0, 0);
        world.has_come_to(0, round * calls + 1);
        world.stop(AGENT);
        world.subscribe(&[(DETECTOR, WISHES[0])], Some((DETECTOR, 0)), |world| {
            world.has_come_to(0, round * calls + 500);
        });
        world.idle(1);
        world.settle(DETECTOR, 0);
    }
}

#[test]
fn whatever_happens_to_whom_the_account_of_each_living_subscription_is_exact() {
    let schedules = std::env::var(SCHEDULES).map_or(20, |text| text.parse().expect("a number"));
    let mut worlds: [Option<World>; PLANS.len()] = Default::default();
    let mut chance = Chance::new();
    for _ in 0..schedules {
        let (next, to_repeat) = (chance.following(), chance.to_repeat());
        let plan = chance.below(PLANS.len() as u64) as usize;
        let world = worlds[plan].get_or_insert_with(|| World::new(PLANS[plan]));
        schedule(world, &mut chance, to_repeat);
        chance = next;
    }
    let mut sums = Sums::default();
    worlds.iter().flatten().for_each(|world| sums.add(world.sums));
    println!("{schedules} schedules: {sums:?}");
    // Else this says nothing.
    assert!(schedules < 20 || (sums.received > 1000 && sums.lost > 1000 && sums.killed > 0), "{sums:?}");
}
