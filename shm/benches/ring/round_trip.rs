//! 64 B to a child and back, one after the other, over a ring each way. Both sides spin: no doorbell, nobody sleeps.

use std::hint::{black_box, spin_loop};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use shm::{Backing, Consumer, Producer};

use crate::bare::Bare;
use crate::stream::sum;
use crate::support::{consumer, hand_over, producer, receive, spawn};
use crate::{CAPACITY, hear, obey, order, reap};

const PAYLOAD: [u8; 64] = [7; 64];

/// One way of going to another process and back.
pub(crate) trait Trips {
    fn run(&mut self, each: &mut [Duration]);
}

/// Times each trip by itself, without what the clock takes.
fn timed(socket: &UnixStream, each: &mut [Duration], mut trip: impl FnMut()) {
    let clock = clock_takes();
    order(socket, each.len() as u64);
    let mut before = Instant::now();
    for time in each {
        trip();
        let now = Instant::now();
        *time = (now - before).saturating_sub(clock);
        before = now;
    }
    hear(socket).expect("the child lives");
}

fn clock_takes() -> Duration {
    const LOOKS: u32 = 1000;
    let start = Instant::now();
    for _ in 0..LOOKS {
        black_box(Instant::now());
    }
    start.elapsed() / LOOKS
}

fn send(producer: &mut Producer) {
    producer.push(3, 0, 1, &[&black_box(PAYLOAD)]).expect("the ring is empty");
    assert!(!producer.flush(), "nobody sleeps");
}

fn await_record(consumer: &mut Consumer, payload: &mut Vec<u64>) {
    let record = loop {
        match consumer.read(payload).expect("the producer is honest") {
            Some(record) => break record,
            None => spin_loop(),
        }
    };
    consumer.settle(&record, 1).expect("the producer is honest");
    black_box(sum(payload));
}

pub(crate) struct OurTrips {
    there: Producer,
    back: Consumer,
    payload: Vec<u64>,
    socket: UnixStream,
    child: Child,
}

impl OurTrips {
    pub(crate) fn start() -> Self {
        let (child, socket) = spawn("our echo", &[]).expect("a child can be started");
        let (there, _) = producer(&socket, CAPACITY, Backing::default()).expect("a ring can be made");
        let (back, _) = consumer(&socket, CAPACITY, Backing::default()).expect("a ring can be made");
        Self { there, back, payload: Vec::new(), socket, child }
    }
}

impl Trips for OurTrips {
    fn run(&mut self, each: &mut [Duration]) {
        let Self { there, back, payload, socket, .. } = self;
        timed(socket, each, || {
            send(there);
            await_record(back, payload);
            let _nobody_waits = back.release();
        });
    }
}

impl Drop for OurTrips {
    fn drop(&mut self) {
        reap(&mut self.child);
    }
}

pub(crate) fn echo_ours(socket: &UnixStream) {
    let (mut there, _bell) = consumer(socket, CAPACITY, Backing::default()).expect("a ring can be made");
    let (mut back, _bell) = producer(socket, CAPACITY, Backing::default()).expect("a ring can be made");
    let mut payload = Vec::new();
    obey(socket, |trips| {
        for _ in 0..trips {
            await_record(&mut there, &mut payload);
            send(&mut back);
            let _nobody_waits = there.release();
        }
    });
}

fn send_bare(ring: &mut Bare) {
    assert!(ring.push([&black_box(PAYLOAD)]), "the ring is empty");
    ring.publish();
}

fn await_bare(ring: &mut Bare) {
    while ring.read(|words| black_box(sum(words))).is_none() {
        spin_loop();
    }
}

pub(crate) struct RivalTrips {
    there: Bare,
    back: Bare,
    socket: UnixStream,
    child: Child,
}

impl RivalTrips {
    pub(crate) fn start() -> Self {
        let (child, socket) = spawn("bare echo", &[]).expect("a child can be started");
        let [there, back] = [(); 2].map(|()| Bare::create(CAPACITY).expect("a ring can be made"));
        hand_over(&socket, b"-", [there.descriptor(), back.descriptor()]).expect("the child waits for it");
        Self { there, back, socket, child }
    }
}

impl Trips for RivalTrips {
    fn run(&mut self, each: &mut [Duration]) {
        let Self { there, back, socket, .. } = self;
        timed(socket, each, || {
            send_bare(there);
            await_bare(back);
            back.release();
        });
    }
}

impl Drop for RivalTrips {
    fn drop(&mut self) {
        reap(&mut self.child);
    }
}

pub(crate) fn echo_bare(socket: &UnixStream) {
    let (_, descriptors) = receive(socket).expect("the parent hands them over");
    let [mut there, mut back] =
        descriptors.map(|descriptor| Bare::attach(descriptor, CAPACITY).expect("a ring can be mapped"));
    obey(socket, |trips| {
        for _ in 0..trips {
            await_bare(&mut there);
            send_bare(&mut back);
            there.release();
        }
    });
}
