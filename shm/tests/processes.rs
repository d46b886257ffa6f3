//! A ring between two real processes, one of which may die.

mod support;

use std::process::Child;
use std::time::Instant;

use shm::{Backing, Consumer, Doorbell, Heard, Producer, PushError, Record};
use support::{DEADLINE, consumer, parent, producer, role, sleep, spawn};

/// What the rings of each test are made of, one after the other.
const BACKINGS: [Backing; 2] = [Backing::Memfd, Backing::Named];
const CAPACITY: usize = 1 << 16;
const EVENTS: u64 = 200_000;
const BURST: u64 = 1_000;

/// A child that is killed, whatever happens to its parent's test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(role: &str, backing: Backing) -> (Killed, Consumer, Doorbell) {
    let role = format!("{role} {backing:?}");
    let (child, socket) = spawn(&role, &["--exact", "the_child", "--nocapture"]).unwrap();
    let child = Killed(child);
    let (consumer, doorbell) = consumer(&socket, CAPACITY, backing).unwrap();
    (child, consumer, doorbell)
}

/// The other process of each test here; nothing when the tests are run by hand.
#[test]
fn the_child() {
    let Some(role) = role() else { return };
    let (role, backing) = role.split_once(' ').unwrap();
    let backing = BACKINGS.into_iter().find(|known| format!("{known:?}") == backing).unwrap();
    let (producer, doorbell) = producer(&parent().unwrap(), CAPACITY, backing).unwrap();
    match role {
        "bursts" => bursts(producer, &doorbell),
        "endless" => endless(producer, &doorbell),
        "patient" => patient(producer, &doorbell),
        _ => unreachable!("no such role: {role}"),
    }
}

/// Payload of the event `number`: its length and its words follow from the number.
fn payload(number: u64) -> Vec<u64> {
    (0..=number % 32).map(|word| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word).collect()
}

fn push(producer: &mut Producer, number: u64) {
    let bytes: Vec<u8> = payload(number).iter().flat_map(|word| word.to_le_bytes()).collect();
    match producer.push((number % 5) as u16, 0, 1, &[&number.to_le_bytes(), &bytes]) {
        Ok(()) | Err(PushError::Full) => {}
        Err(error) => panic!("{error}"),
    }
}

fn ring(doorbell: &Doorbell, wake: bool) {
    if wake {
        // Whoever was killed meanwhile is not there to hear it.
        assert_ne!(doorbell.ring(), Ok(false));
    }
}

/// Bursts that may be too long for the ring, with a wait for the consumer to have read all between them.
fn bursts(mut producer: Producer, doorbell: &Doorbell) {
    for number in 0..EVENTS {
        push(&mut producer, number);
        ring(doorbell, producer.flush());
        if number % BURST == BURST - 1 {
            let since = Instant::now();
            while producer.occupied().unwrap() > 0 {
                assert!(since.elapsed() < DEADLINE, "the consumer sleeps over records");
                std::thread::yield_now();
            }
        }
    }
    assert_eq!(producer.attempted(), EVENTS);
    ring(doorbell, producer.close());
}

/// Pushes until it is killed, or its parent is gone.
fn endless(mut producer: Producer, doorbell: &Doorbell) {
    for number in 0.. {
        push(&mut producer, number);
        if producer.flush() && doorbell.ring().is_err() {
            return;
        }
        if number % BURST == 0 && doorbell.hear() == Heard::PeerGone {
            return;
        }
    }
}

/// Waits for room where there is none, asleep, so that nothing is lost.
fn patient(mut producer: Producer, doorbell: &Doorbell) {
    let mut sleeps = 0;
    for number in 0..EVENTS {
        let room = producer.room_for(8 + 8 * payload(number).len());
        while !producer.has_room(room).unwrap() {
            ring(doorbell, producer.flush());
            // A quarter of the ring at a time, or it would be woken for each record.
            if producer.arm(room.max(CAPACITY as u64 / 4)).unwrap() {
                sleeps += 1;
                sleep(doorbell);
                assert_eq!(doorbell.hear(), Heard::PeerThere);
                producer.disarm();
            }
        }
        push(&mut producer, number);
    }
    assert!(sleeps > 0, "a producer with room does not sleep");
    ring(doorbell, producer.close());
}

/// What a consumer has seen.
#[derive(Default)]
struct Account {
    received: u64,
    lost: u64,
    last: Option<u64>,
    slots: [u64; 5],
}

impl Account {
    fn take(&mut self, consumer: &mut Consumer, record: &Record, words: &[u64]) {
        let number = words[0];
        assert!(self.last.is_none_or(|last| last < number), "in order, and none twice");
        self.last = Some(number);
        assert_eq!(words[1..], payload(number));
        assert_eq!(record.bytes, words.len() * 8);
        assert_eq!((u64::from(record.slot), record.sequence), (number % 5, number / 5));
        let slot = &mut self.slots[usize::from(record.slot)];
        let lost = consumer.settle(record, 1).unwrap();
        assert_eq!(lost, record.sequence - *slot, "the gap is the loss");
        *slot = record.sequence + 1;
        self.lost += lost;
        self.received += 1;
    }

    /// Reads what is there, and asks for the losses behind it.
    fn turn(&mut self, consumer: &mut Consumer, doorbell: &Doorbell, words: &mut Vec<u64>) {
        while let Some(record) = consumer.read(words).unwrap() {
            self.take(consumer, &record, words);
            ring(doorbell, consumer.release());
        }
        let Self { lost, slots, .. } = self;
        let told = |slot: u16, events| {
            *lost += events;
            slots[usize::from(slot)] += events;
        };
        consumer.tail_loss(told).unwrap();
    }
}

#[test]
fn each_event_of_another_process_arrives_or_is_told_as_lost() {
    for backing in BACKINGS {
        let (account, sleeps) = read_to_the_end("bursts", backing);
        assert!(account.received >= EVENTS / BURST, "received {}", account.received);
        assert!(sleeps > 0, "a consumer that is never waited for doesn't sleep");
    }
}

#[test]
fn a_producer_that_waits_for_room_loses_nothing() {
    for backing in BACKINGS {
        let (account, _) = read_to_the_end("patient", backing);
        assert_eq!((account.received, account.lost), (EVENTS, 0));
    }
}

/// What came of a child that publishes all events and ends, and how often its reader slept.
fn read_to_the_end(role: &str, backing: Backing) -> (Account, u64) {
    let (mut child, mut consumer, doorbell) = start(role, backing);
    let (mut account, mut words, mut sleeps) = (Account::default(), Vec::new(), 0_u64);
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < 4 * DEADLINE);
        account.turn(&mut consumer, &doorbell, &mut words);
        if consumer.ended().unwrap() {
            break;
        }
        if consumer.arm(1).unwrap() {
            sleeps += 1;
            sleep(&doorbell);
            let _rings = doorbell.hear();
            consumer.disarm();
        }
    }
    assert!(child.0.wait().unwrap().success());
    assert_eq!(account.received + account.lost, EVENTS);
    assert_eq!((consumer.settled(), consumer.attempted()), (EVENTS, EVENTS));
    (account, sleeps)
}

#[test]
fn what_a_killed_process_published_can_be_read() {
    BACKINGS.into_iter().for_each(can_be_read_when_it_is_killed);
}

fn can_be_read_when_it_is_killed(backing: Backing) {
    let (mut child, mut consumer, doorbell) = start("endless", backing);
    let (mut account, mut words) = (Account::default(), Vec::new());
    let since = Instant::now();
    while account.received < 20_000 {
        assert!(since.elapsed() < DEADLINE);
        account.turn(&mut consumer, &doorbell, &mut words);
    }
    // It goes on, and the ring fills up: killed in the middle of that.
    while consumer.occupied().unwrap() < CAPACITY as u64 / 4 {
        assert!(since.elapsed() < DEADLINE);
        if consumer.arm(CAPACITY as u64 / 4).unwrap() {
            sleep(&doorbell);
            let _rings = doorbell.hear();
            consumer.disarm();
        }
    }
    child.0.kill().unwrap();
    assert!(!child.0.wait().unwrap().success());

    let before = account.received;
    account.turn(&mut consumer, &doorbell, &mut words);
    assert!(account.received >= before + CAPACITY as u64 / 4 / 300);
    assert_eq!(consumer.occupied(), Ok(0));
    assert_eq!(consumer.ended(), Ok(false), "nobody has closed it");
    while doorbell.hear() == Heard::PeerThere {
        assert!(since.elapsed() < DEADLINE, "the death of the peer is seen on the doorbell");
    }
    assert_eq!(account.received + account.lost, consumer.settled());
    // A flush of one event may have been cut.
    let beyond = consumer.settled() - consumer.attempted();
    assert!(beyond <= 1, "{beyond} events that were never counted");
}

#[test]
fn a_producer_learns_that_its_consumer_is_gone() {
    BACKINGS.into_iter().for_each(learns_that_its_consumer_is_gone);
}

fn learns_that_its_consumer_is_gone(backing: Backing) {
    let (mut child, mut consumer, doorbell) = start("endless", backing);
    let since = Instant::now();
    // A consumer that goes before its peer has attached takes its name along: then there is no producer to learn of it.
    while consumer.occupied().unwrap() == 0 {
        assert!(since.elapsed() < DEADLINE, "the producer has attached");
        std::thread::yield_now();
    }
    drop((consumer, doorbell));
    while child.0.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < DEADLINE, "it goes on pushing for nobody");
        std::thread::yield_now();
    }
    assert!(child.0.wait().unwrap().success());
}
