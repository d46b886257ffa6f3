//! One publisher and several subscribers, each in a process of its own, on all processors: what a publish to all of them costs, and
//! what one of them that is stopped, or does not read, costs the publisher and the others.
//!
//! The agent, which embeds the broker, publishes opaque events of 256 B. Against one plain Unix socket for each subscriber, written
//! 64 KiB at a time, and against one bare ring for each, whose consumer yields instead of sleeping, in the same run. Every
//! subscriber looks at every byte.
//!
//! A publisher never waits, so one that must not lose anything is told what was consumed, over a pipe, and keeps a window. Were
//! something lost all the same, it would be counted and printed.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the other benches print what one subscriber came to")]
mod support;

#[path = "../support/descriptor.rs"]
mod descriptor;

#[path = "../../shm/benches/bare/mod.rs"]
mod bare;

mod bus;
mod machine;
mod overload;
mod sockets;

use std::path::Path;

use criterion::{Criterion, Throughput};
use support::{Figures, PEER_PROCESSOR, Part, Peer, in_turns, is_trial, pin};

use bus::Bus;
use machine::Machine;
use sockets::Sockets;

/// Bytes of an event.
const EVENT_BYTES: usize = 256;
const EVENT: [u8; EVENT_BYTES] = [1; EVENT_BYTES];
/// So many subscribers.
const SUBSCRIBERS: [usize; 3] = [1, 4, 8];
/// Events that are published at once, and those of one run: as many as a write to a socket takes, fewer, and one.
const LARGE: (u64, u64) = (252, 320_040);
const BATCHED: (u64, u64) = (16, 320_000);
const SINGLE: (u64, u64) = (1, 80_000);

fn main() {
    if let Some(part) = Part::assigned() {
        return match part.name.split_once(' ') {
            Some(("sub", _)) => bus::subscribe(&part),
            Some(("sub-apart", _)) => {
                pin(PEER_PROCESSOR);
                bus::subscribe(&part);
            }
            Some(("socket", _)) => sockets::read(&part),
            _ => machine::consume(&part),
        };
    }
    let mut criterion = support::criterion();
    for subscribers in SUBSCRIBERS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut bus = Bus::start(folder.path(), "sub", subscribers);
        let mut sockets = Sockets::start(folder.path(), subscribers);
        let mut machine = Machine::start(folder.path(), subscribers);
        measure(&mut criterion, &mut bus, subscribers);
        for (at_once, events) in [LARGE, BATCHED, SINGLE] {
            let events = if is_trial() { at_once * 100 } else { events };
            let figures = in_turns(|side| match side {
                0 => bus.run(events, at_once),
                1 => sockets.run(events),
                _ => machine.run(events, at_once),
            });
            compare(subscribers, at_once, figures);
        }
        println!("fanout:   the bus lost {} events", bus.lost);
    }
    criterion.final_summary();
    overload::measure();
}

/// Starts the children that a way leads to: `kind`, and a number.
fn start_peers(kind: &str, folder: &Path, peers: usize) -> Vec<Peer> {
    (0..peers).map(|number| Peer::start(&format!("{kind} {number}"), folder)).collect()
}

fn measure(criterion: &mut Criterion, bus: &mut Bus, subscribers: usize) {
    let mut group = criterion.benchmark_group(format!("fanout/to {subscribers}"));
    for (at_once, _) in [LARGE, BATCHED, SINGLE] {
        group.throughput(Throughput::Elements(at_once));
        group.bench_function(format!("{at_once} at once"), |bencher| {
            bencher.iter_custom(|times| bus.run(times * at_once, at_once).elapsed);
        });
    }
    group.finish();
}

fn compare(subscribers: usize, at_once: u64, [bus, sockets, machine]: [Figures; 3]) {
    let per_delivery =
        |figures: &Figures| (figures.own_cpu_nanos + figures.peer_cpu_nanos) / subscribers as f64;
    println!("fanout: to {subscribers}, {at_once} at once:");
    for (name, figures) in [("the bus", &bus), ("sockets", &sockets), ("bare rings", &machine)] {
        println!(
            "fanout:   {name}: {:.3} M publishes/s, {:.0} ns CPU per delivery, {:.0} ns of it the publisher's",
            figures.events_per_second / 1e6,
            per_delivery(figures),
            figures.own_cpu_nanos / subscribers as f64
        );
    }
    println!(
        "fanout:   the bus / sockets: {:.2} publishes/s (to 8: must 1, aim 2); the bus / bare rings: {:.2} CPU per delivery \
         (must 1.5), {:.2} publishes/s",
        bus.events_per_second / sockets.events_per_second,
        per_delivery(&bus) / per_delivery(&machine),
        bus.events_per_second / machine.events_per_second
    );
}

fn sum(payload: &[u8]) -> u64 {
    let (words, _) = payload.as_chunks();
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// Whether so many events came to this sum.
fn is_sum_of(total: u64, events: u64) -> bool {
    total == events.wrapping_mul(sum(&EVENT))
}

/// Processor time that all children say they took for a run.
fn heard_from(peers: &mut [Peer]) -> u64 {
    peers.iter_mut().map(Peer::hear).sum()
}
