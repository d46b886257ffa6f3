//! The ring against a bare one, between two processes on one CPU each, in one run.
//!
//! 256-byte records. The consumer touches every byte, gives space back every 64 records, and finding nothing yields a
//! few times before it sleeps; the bare ring has nothing to sleep on and goes on yielding. The last line is the ratio,
//! the median of interleaved runs: figures of different machines, or of different minutes, say little.

#[path = "../tests/support/mod.rs"]
mod support;

mod bare;

use std::hint::{black_box, spin_loop};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use bare::Bare;
use criterion::{Criterion, Throughput};
use rustix::thread::{CpuSet, sched_setaffinity};
use shm::{Backing, Doorbell, Producer};
use support::{consumer, hand_over, parent, producer, receive, role, sleep, spawn};

const CAPACITY: usize = 1 << 20;
const PAYLOAD_BYTES: usize = 256;
/// With its header; a wrap may need as much again as padding.
const RECORD_BYTES: u64 = PAYLOAD_BYTES as u64 + 16;
const RECORDS_PER_RELEASE: u32 = 64;
const YIELDS_MAX: u32 = 10;
/// About two microseconds: a reader that polls on the writer's heels costs both of them the cache line.
const PAUSES: u32 = 50;

const RATIO_RECORDS: u64 = 1_000_000;
const RATIO_RUNS: usize = 31;

/// Binds this process to the CPU `number`, if there are as many.
fn pin(number: usize) {
    let mut set = CpuSet::new();
    set.set(number);
    if let Err(errno) = sched_setaffinity(None, &set) {
        eprintln!("not pinned: {errno}");
    }
}

fn pause() {
    for _ in 0..PAUSES {
        spin_loop();
    }
}

/// One way of moving records to another process.
trait Way {
    /// Moves `records`, publishing after each `batch` of them, and waits until all are read.
    fn send(&mut self, records: u64, batch: u64);
}

struct Ours {
    producer: Producer,
    doorbell: Doorbell,
    child: Child,
}

impl Ours {
    fn start() -> Self {
        let (child, socket) = spawn("ours", &[]).expect("a child can be started");
        let (producer, doorbell) =
            producer(&socket, CAPACITY, Backing::default()).expect("a ring can be made");
        Self { producer, doorbell, child }
    }

    fn flush(&mut self) {
        if self.producer.flush() {
            self.doorbell.ring().expect("the consumer lives");
        }
    }

    fn occupied(&mut self) -> u64 {
        self.producer.occupied().expect("the consumer is honest")
    }
}

impl Way for Ours {
    fn send(&mut self, records: u64, batch: u64) {
        let payload = black_box([7; PAYLOAD_BYTES]);
        let mut room = CAPACITY as u64 - self.occupied();
        for number in 0..records {
            while room < 2 * RECORD_BYTES {
                self.flush();
                room = CAPACITY as u64 - self.occupied();
                pause();
            }
            room -= RECORD_BYTES;
            self.producer.push(3, 0, 1, &[&payload]).expect("there is room");
            if number % batch == batch - 1 {
                self.flush();
            }
        }
        self.flush();
        while self.occupied() > 0 {
            pause();
        }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        if self.producer.close() {
            let _gone = self.doorbell.ring();
        }
        let _reaped = self.child.wait();
    }
}

struct Rival {
    ring: Bare,
    child: Child,
}

impl Rival {
    fn start() -> Self {
        let (child, socket) = spawn("bare", &[]).expect("a child can be started");
        let ring = Bare::create(CAPACITY).expect("a ring can be made");
        hand_over(&socket, b"-", [ring.descriptor(); 2]).expect("the child waits for it");
        Self { ring, child }
    }
}

impl Way for Rival {
    fn send(&mut self, records: u64, batch: u64) {
        let payload = black_box([7; PAYLOAD_BYTES]);
        for number in 0..records {
            while !self.ring.push(&payload) {
                self.ring.publish();
                pause();
            }
            if number % batch == batch - 1 {
                self.ring.publish();
            }
        }
        self.ring.publish();
        while !self.ring.all_read() {
            pause();
        }
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        self.ring.close();
        let _reaped = self.child.wait();
    }
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

fn consume_ours(socket: &UnixStream) {
    let (mut consumer, doorbell) =
        consumer(socket, CAPACITY, Backing::default()).expect("a ring can be made");
    let mut payload = Vec::new();
    let mut yields = 0;
    loop {
        let mut read = 0;
        while let Some(record) = consumer.read(&mut payload).expect("the producer is honest") {
            consumer.settle(&record, 1).expect("the producer is honest");
            black_box(sum(&payload));
            read += 1;
            if read == RECORDS_PER_RELEASE {
                break;
            }
        }
        let _nobody_waits = consumer.release();
        if read > 0 {
            yields = 0;
        } else if yields < YIELDS_MAX {
            yields += 1;
            pause();
            std::thread::yield_now();
        } else {
            consumer.tail_loss(|_, _| unreachable!("the producer waits for room")).expect("honest");
            if consumer.ended().expect("the producer is honest") {
                return;
            }
            if consumer.arm(1).expect("the producer is honest") {
                sleep(&doorbell);
                let _rings = doorbell.hear();
                consumer.disarm();
            }
            yields = 0;
        }
    }
}

fn consume_bare(socket: &UnixStream) {
    let (_, [descriptor, _again]) = receive(socket).expect("the parent hands it over");
    let mut ring = Bare::attach(descriptor, CAPACITY).expect("a ring can be mapped");
    let mut yields = 0;
    loop {
        let mut read = 0;
        while ring.read(|words| black_box(sum(words))).is_some() {
            read += 1;
            if read == RECORDS_PER_RELEASE {
                break;
            }
        }
        ring.release();
        if read > 0 {
            yields = 0;
        } else if yields < YIELDS_MAX {
            yields += 1;
            pause();
            std::thread::yield_now();
        } else if ring.closed() {
            return;
        } else {
            yields = 0;
        }
    }
}

fn timed(way: &mut impl Way, records: u64, batch: u64) -> Duration {
    let start = Instant::now();
    way.send(records, batch);
    start.elapsed()
}

fn bench(criterion: &mut Criterion, name: &str, way: &mut impl Way) {
    let mut group = criterion.benchmark_group("256 B between two processes");
    group.throughput(Throughput::Elements(1));
    for batch in [1, 16] {
        group.bench_function(format!("{name}, published per {batch}"), |bencher| {
            bencher.iter_custom(|records| timed(way, records, batch));
        });
    }
    group.finish();
}

/// How many records of ours move in the time of one of the bare ring's: the median, least and most of some runs.
fn ratio(batch: u64) -> [f64; 3] {
    let (mut ours, mut rival) = (Ours::start(), Rival::start());
    let mut ratios = [0.0; RATIO_RUNS];
    for ratio in &mut ratios {
        let bare = timed(&mut rival, RATIO_RECORDS, batch);
        *ratio = bare.as_secs_f64() / timed(&mut ours, RATIO_RECORDS, batch).as_secs_f64();
    }
    ratios.sort_by(f64::total_cmp);
    [ratios[RATIO_RUNS / 2], ratios[0], ratios[RATIO_RUNS - 1]]
}

fn main() {
    if let Some(role) = role() {
        pin(1);
        let socket = parent().expect("a child has a socket for its standard input");
        return if role == "ours" { consume_ours(&socket) } else { consume_bare(&socket) };
    }
    pin(0);
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion, "this ring", &mut Ours::start());
    bench(&mut criterion, "bare ring", &mut Rival::start());
    criterion.final_summary();
    for batch in [16, 1] {
        let [median, least, most] = ratio(batch);
        println!("ours / bare, published per {batch}: {median:.2} ({least:.2} to {most:.2})");
    }
}
