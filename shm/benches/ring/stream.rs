//! Records one way, from this process to a child.

use std::fmt;
use std::hint::{black_box, spin_loop};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use shm::{Backing, Doorbell, Producer};

use crate::bare::Bare;
use crate::support::{consumer, hand_over, producer, receive, sleep, spawn};
use crate::{CAPACITY, cpu_nanos, hear, obey, order, reap};

const PAYLOAD_BYTES_MAX: usize = 256;
const RECORDS_PER_RELEASE: u64 = 64;
const YIELDS_MAX: u32 = 10;
/// About two microseconds: a reader that polls on the writer's heels costs both of them the cache line.
const PAUSES: u32 = 50;

/// What is moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) payload_bytes: usize,
    /// Records that are published at once.
    pub(crate) per_flush: u64,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B, published per {}", self.payload_bytes, self.per_flush)
    }
}

/// One timed run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) elapsed: Duration,
    pub(crate) producer_nanos: u64,
    pub(crate) consumer_nanos: u64,
}

impl Run {
    pub(crate) fn cpu_nanos(&self) -> u64 {
        self.producer_nanos + self.consumer_nanos
    }
}

/// One way of moving records to another process.
pub(crate) trait Way {
    /// The socket to that process.
    fn socket(&self) -> &UnixStream;

    /// Moves so many records, and waits until all are read.
    fn send(&mut self, records: u64, load: Load);
}

pub(crate) fn timed(way: &mut impl Way, records: u64, load: Load) -> Run {
    order(way.socket(), records);
    let (start, cpu) = (Instant::now(), cpu_nanos());
    way.send(records, load);
    let (elapsed, producer_nanos) = (start.elapsed(), cpu_nanos() - cpu);
    let consumer_nanos = hear(way.socket()).expect("the child lives");
    Run { elapsed, producer_nanos, consumer_nanos }
}

fn pause() {
    for _ in 0..PAUSES {
        spin_loop();
    }
}

pub(crate) struct Ours {
    producer: Producer,
    doorbell: Doorbell,
    socket: UnixStream,
    child: Child,
}

impl Ours {
    pub(crate) fn start() -> Self {
        let (child, socket) = spawn("ours", &[]).expect("a child can be started");
        let (producer, doorbell) =
            producer(&socket, CAPACITY, Backing::default()).expect("a ring can be made");
        Self { producer, doorbell, socket, child }
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
    fn socket(&self) -> &UnixStream {
        &self.socket
    }

    fn send(&mut self, records: u64, load: Load) {
        let payload = black_box([7; PAYLOAD_BYTES_MAX]);
        let payload = &payload[..load.payload_bytes];
        // With its header; a wrap may need as much again as padding.
        let record_bytes = load.payload_bytes as u64 + 16;
        let mut room = CAPACITY as u64 - self.occupied();
        for number in 1..=records {
            while room < 2 * record_bytes {
                self.flush();
                room = CAPACITY as u64 - self.occupied();
                pause();
            }
            room -= record_bytes;
            self.producer.push(3, 0, 1, &[payload]).expect("there is room");
            if number.is_multiple_of(load.per_flush) {
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
        reap(&mut self.child);
    }
}

pub(crate) struct Rival {
    ring: Bare,
    socket: UnixStream,
    child: Child,
}

impl Rival {
    pub(crate) fn start() -> Self {
        let (child, socket) = spawn("bare", &[]).expect("a child can be started");
        let ring = Bare::create(CAPACITY).expect("a ring can be made");
        hand_over(&socket, b"-", [ring.descriptor(); 2]).expect("the child waits for it");
        Self { ring, socket, child }
    }
}

impl Way for Rival {
    fn socket(&self) -> &UnixStream {
        &self.socket
    }

    fn send(&mut self, records: u64, load: Load) {
        let payload = black_box([7; PAYLOAD_BYTES_MAX]);
        let payload = &payload[..load.payload_bytes];
        for number in 1..=records {
            while !self.ring.push([payload]) {
                self.ring.publish();
                pause();
            }
            if number.is_multiple_of(load.per_flush) {
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
        reap(&mut self.child);
    }
}

pub(crate) fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

pub(crate) fn consume_ours(socket: &UnixStream) {
    let (mut consumer, doorbell) =
        consumer(socket, CAPACITY, Backing::default()).expect("a ring can be made");
    let mut payload = Vec::new();
    obey(socket, |records| {
        let (mut left, mut yields) = (records, 0);
        while left > 0 {
            let before = left;
            while let Some(record) = consumer.read(&mut payload).expect("the producer is honest") {
                consumer.settle(&record, 1).expect("the producer is honest");
                black_box(sum(&payload));
                left -= 1;
                if before - left == RECORDS_PER_RELEASE {
                    break;
                }
            }
            let _nobody_waits = consumer.release();
            if left < before {
                yields = 0;
            } else if yields < YIELDS_MAX {
                yields += 1;
                pause();
                std::thread::yield_now();
            } else {
                consumer.tail_loss(|_, _| unreachable!("the producer waits for room")).expect("honest");
                if consumer.arm(1).expect("the producer is honest") {
                    sleep(&doorbell);
                    let _rings = doorbell.hear();
                    consumer.disarm();
                }
                yields = 0;
            }
        }
    });
}

pub(crate) fn consume_bare(socket: &UnixStream) {
    let (_, [descriptor, _again]) = receive(socket).expect("the parent hands it over");
    let mut ring = Bare::attach(descriptor, CAPACITY).expect("a ring can be mapped");
    obey(socket, |records| {
        let mut left = records;
        while left > 0 {
            let before = left;
            while ring.read(|words| black_box(sum(words))).is_some() {
                left -= 1;
                if before - left == RECORDS_PER_RELEASE {
                    break;
                }
            }
            ring.release();
            if left == before {
                pause();
                std::thread::yield_now();
            }
        }
    });
}
