//! The ring against a bare one, between two processes on one CPU each, in one run.
//!
//! One way: the consumer touches every byte, gives space back every 64 records, and finding nothing yields a few times before it
//! sleeps; the bare ring has nothing to sleep on and goes on yielding. To and fro: both spin. Who has no turn waits on a
//! socket for its order and takes no processor.
//!
//! The last lines are ratios, medians of interleaved runs: figures of different machines, or of different minutes, say little.
//! Rates: ours / bare, more is better. Processor time of both processes, and round trips: ours / bare, less is better.

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../bare/mod.rs"]
mod bare;

mod round_trip;
mod stream;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use support::{parent, role};

use round_trip::{OurTrips, RivalTrips, Trips};
use stream::{Load, Ours, Rival, Run, Way, timed};

const CAPACITY: usize = 1 << 20;

const RATIO_RECORDS: u64 = 1_000_000;
const RATIO_TRIPS: usize = 20_000;
const RATIO_RUNS: usize = 31;

/// What is measured one way, and the rate and the processor time that it must come to, as ratios to the bare ring's.
const LOADS: [(Load, &str); 3] = [
    (Load { payload_bytes: 256, per_flush: 1 }, "must 0.6, aim 0.8; CPU must 1.5"),
    (Load { payload_bytes: 256, per_flush: 16 }, ""),
    (Load { payload_bytes: 64, per_flush: 64 }, "must 0.5, aim 0.7"),
];

/// Binds this process to the CPU `number`, if there are as many.
fn pin(number: usize) {
    let mut set = CpuSet::new();
    set.set(number);
    if let Err(errno) = sched_setaffinity(None, &set) {
        eprintln!("not pinned: {errno}");
    }
}

/// Processor time that this process took so far, in nanoseconds.
fn cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn tell(mut socket: &UnixStream, number: u64) {
    socket.write_all(&number.to_le_bytes()).expect("the other process lives");
}

fn hear(mut socket: &UnixStream) -> io::Result<u64> {
    let mut number = [0; 8];
    socket.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}

/// Tells a child how often it is to do what it is there for; it is awake when this returns.
fn order(socket: &UnixStream, count: u64) {
    tell(socket, count);
    assert_eq!(hear(socket).expect("the child lives"), count);
}

/// In a child: carries out each order, and tells the processor time that it took, until the parent is gone.
fn obey(socket: &UnixStream, mut work: impl FnMut(u64)) {
    socket.set_read_timeout(None).expect("it is a socket");
    while let Ok(count) = hear(socket) {
        tell(socket, count);
        let cpu = cpu_nanos();
        work(count);
        tell(socket, cpu_nanos() - cpu);
    }
}

fn reap(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// Whether this is only a trial that the bench runs at all (`cargo bench -- --test`).
fn is_trial() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// The median, least and most.
fn spread(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    [figures[figures.len() / 2], figures[0], figures[figures.len() - 1]]
}

fn bench(criterion: &mut Criterion, name: &str, way: &mut impl Way) {
    let mut group = criterion.benchmark_group("between two processes");
    group.throughput(Throughput::Elements(1));
    for (load, _) in LOADS {
        group.bench_function(format!("{name}, {load}"), |bencher| {
            bencher.iter_custom(|records| timed(way, records, load).elapsed);
        });
    }
    group.finish();
}

/// Both ways in turns: records/s and processor time, ours in parts of the bare ring's.
fn compare(load: Load, targets: &str) {
    let (mut ours, mut rival) = (Ours::start(), Rival::start());
    let (runs, records) = if is_trial() { (1, 10_000) } else { (RATIO_RUNS, RATIO_RECORDS) };
    let (of_rival, of_ours): (Vec<Run>, Vec<Run>) =
        (0..runs).map(|_| (timed(&mut rival, records, load), timed(&mut ours, records, load))).unzip();
    let ratio = |figure: &dyn Fn(&Run, &Run) -> f64| {
        spread(of_ours.iter().zip(&of_rival).map(|(ours, rival)| figure(ours, rival)).collect())
    };
    let [rate, least, most] = ratio(&|ours, rival| rival.elapsed.as_secs_f64() / ours.elapsed.as_secs_f64());
    let [cpu, cpu_least, cpu_most] = ratio(&|ours, rival| ours.cpu_nanos() as f64 / rival.cpu_nanos() as f64);
    println!(
        "ring: ours / bare, {load}: rate {rate:.2} ({least:.2} to {most:.2}), CPU {cpu:.2} ({cpu_least:.2} to {cpu_most:.2})  {targets}"
    );
    for (name, runs) in [("ours", &of_ours), ("bare", &of_rival)] {
        let each = |figure: &dyn Fn(&Run) -> u64| {
            spread(runs.iter().map(|run| figure(run) as f64 / records as f64).collect())[0]
        };
        let nanos = each(&|run| run.elapsed.as_nanos() as u64);
        let (producer, consumer) = (each(&|run| run.producer_nanos), each(&|run| run.consumer_nanos));
        println!(
            "ring:   {name}: {nanos:.1} ns a record; CPU: producer {producer:.1} ns, consumer {consumer:.1} ns"
        );
    }
}

fn compare_round_trips() {
    let (mut ours, mut rival) = (OurTrips::start(), RivalTrips::start());
    let (runs, trips) = if is_trial() { (1, 1000) } else { (RATIO_RUNS, RATIO_TRIPS) };
    let mut each = vec![Duration::ZERO; trips];
    let mut medians = || {
        let mut percentiles = |ways: &mut dyn Trips| {
            ways.run(&mut each);
            each.sort_unstable();
            [trips / 2, trips * 99 / 100].map(|at| each[at].as_nanos() as f64)
        };
        (percentiles(&mut rival), percentiles(&mut ours))
    };
    let (of_rival, of_ours): (Vec<[f64; 2]>, Vec<[f64; 2]>) = (0..runs).map(|_| medians()).unzip();
    let ratios = of_ours.iter().zip(&of_rival).map(|(ours, rival)| ours[0] / rival[0]).collect();
    let [ratio, least, most] = spread(ratios);
    let middle = |of: &[[f64; 2]], at: usize| spread(of.iter().map(|run| run[at]).collect())[0];
    println!(
        "ring: ours / bare, round trip of 64 B, both spin: p50 {ratio:.2} ({least:.2} to {most:.2})  must 1.25\n\
         ring:   ours: p50 {:.0} ns, p99 {:.0} ns; bare: p50 {:.0} ns, p99 {:.0} ns",
        middle(&of_ours, 0),
        middle(&of_ours, 1),
        middle(&of_rival, 0),
        middle(&of_rival, 1)
    );
}

fn main() {
    if let Some(role) = role() {
        // Whoever spins must not outlive a parent that was killed.
        set_parent_process_death_signal(Some(Signal::KILL)).expect("it is a signal");
        pin(1);
        let socket = parent().expect("a child has a socket for its standard input");
        return match role.as_str() {
            "ours" => stream::consume_ours(&socket),
            "bare" => stream::consume_bare(&socket),
            "our echo" => round_trip::echo_ours(&socket),
            _ => round_trip::echo_bare(&socket),
        };
    }
    pin(0);
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion, "this ring", &mut Ours::start());
    bench(&mut criterion, "bare ring", &mut Rival::start());
    criterion.final_summary();
    for (load, targets) in LOADS {
        compare(load, targets);
    }
    compare_round_trips();
}
