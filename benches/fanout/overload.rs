//! One publish after the other to a healthy subscriber, which has a companion: none, one that is stopped, one that reads nothing. The
//! publisher has a processor of its own, the subscribers share the other.
//!
//! What the healthy one has not consumed yet stays within a window, so its losses are the companion's doing. The companion's ring, or
//! its queue, is full after the first run.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bus::{Bus, Window, publish};
use crate::support::{OWN_PROCESSOR, Peer, is_trial, pin};

const EVENTS: u64 = 200_000;
const ROUNDS: usize = 7;

const COMPANIONS: [&str; 3] = ["alone", "beside a stopped one", "beside one that reads nothing"];

/// What one publish takes, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Call {
    mean: f64,
    median: f64,
    p99: f64,
}

pub(crate) fn measure() {
    pin(OWN_PROCESSOR);
    let folders = COMPANIONS.map(|_| tempfile::tempdir().expect("a temporary folder"));
    let mut sides = [(0, 1), (1, 2), (2, 2)]
        .map(|(side, subscribers)| Bus::start(folders[side].path(), "sub-apart", subscribers));
    stop(&sides[1].peers[1]);
    let (rounds, events) = if is_trial() { (1, 1000) } else { (ROUNDS, EVENTS) };
    let clock = clock_takes();
    let mut calls = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for (bus, calls) in sides.iter_mut().zip(&mut calls) {
            calls.push(run(bus, events, clock));
        }
    }
    let medians = calls.map(|calls| Call {
        mean: middle(&calls, |call| call.mean),
        median: middle(&calls, |call| call.median),
        p99: middle(&calls, |call| call.p99),
    });
    for ((companion, call), bus) in COMPANIONS.iter().zip(&medians).zip(&sides) {
        let alone = &medians[0];
        println!(
            "fanout: one publish to a healthy subscriber {companion}: p50 {:.0} ns ({:.2}), p99 {:.0} ns ({:.2}), mean {:.0} ns \
             ({:.2}); the healthy one lost {}, the publisher could not place {}",
            call.median,
            call.median / alone.median,
            call.p99,
            call.p99 / alone.p99,
            call.mean,
            call.mean / alone.mean,
            bus.lost,
            bus.publisher.totals().dropped
        );
    }
}

fn stop(peer: &Peer) {
    let pid = i32::try_from(peer.child.id()).ok().and_then(Pid::from_raw).expect("a child has a number");
    kill_process(pid, Signal::STOP).expect("it is there");
}

/// So many publishes, each timed by itself, without what the clock takes.
fn run(bus: &mut Bus, events: u64, clock: Duration) -> Call {
    let healthy = &mut bus.peers[..1];
    let mut each = Vec::with_capacity(events as usize);
    let mut window = Window::open(healthy, events);
    let mut before = Instant::now();
    for _ in 0..events {
        if window.await_room(healthy, 1) {
            before = Instant::now();
        }
        publish(&mut bus.publisher, 1);
        let now = Instant::now();
        each.push((now - before).saturating_sub(clock).as_nanos() as u64);
        before = now;
    }
    window.await_end(healthy);
    // Its processor time, which is not asked for here.
    healthy[0].hear();
    bus.lost += healthy[0].hear();
    each.sort_unstable();
    let at = |percent: usize| each[(each.len() - 1) * percent / 100] as f64;
    Call { mean: each.iter().sum::<u64>() as f64 / each.len() as f64, median: at(50), p99: at(99) }
}

fn clock_takes() -> Duration {
    const LOOKS: u32 = 1000;
    let start = Instant::now();
    for _ in 0..LOOKS {
        black_box(Instant::now());
    }
    start.elapsed() / LOOKS
}

fn middle(calls: &[Call], figure: impl Fn(&Call) -> f64) -> f64 {
    let mut all: Vec<f64> = calls.iter().map(figure).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
