//! The shipped ring over loom's atomics: the same source files, another `sync` below them and another memory around them.
//!
//! The models stand in `tests/`, one claim each. What they do not show: load buffering (loom lets no load see a store that
//! comes later in its exploration), more than two threads, and rings longer than 256 bytes.
//!
//! A model can pass because it explores nothing, so each says through [`explore`] how many orders it takes at least. Both ends
//! are spawned threads: with one of them on the model's main thread loom explores a single order.

pub mod segment;
pub mod sync;

#[path = "shipped/consumer.rs"]
pub mod consumer;
#[path = "shipped/layout.rs"]
pub mod layout;
#[path = "shipped/producer.rs"]
pub mod producer;
#[path = "shipped/ring.rs"]
pub mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::sync::Notify;
use loom::sync::atomic::AtomicBool;

/// The producer of a model's ring.
pub type Producer = producer::Producer;
/// The consumer of a model's ring.
pub type Consumer = consumer::Consumer;

/// Both ends of a fresh ring.
#[must_use]
pub fn ring() -> (Producer, Consumer) {
    mortal_ring(&sync::Life::long())
}

/// Both ends of a fresh ring whose producer is killed after some of its stores.
#[must_use]
pub fn mortal_ring(producer: &sync::Life) -> (Producer, Consumer) {
    let memory = segment::Pair::fresh(producer);
    (Producer::over(memory.clone()), Consumer::over(memory))
}

/// A ring whose producer believes that it is full, while it is published and not read.
#[must_use]
pub fn full_ring() -> (Producer, Consumer) {
    let (mut producer, consumer) = ring();
    for value in 0..segment::RECORDS_PER_LAP {
        push(&mut producer, 0, value);
    }
    let _nobody_sleeps = producer.flush();
    (producer, consumer)
}

/// Both ends of a doorbell: one to ring, one to sleep on.
#[must_use]
pub fn doorbell() -> (Doorbell, Doorbell) {
    let doorbell = Doorbell::default();
    (doorbell.clone(), doorbell)
}

/// Runs `model` in each order of its threads' steps, with at most `preemptions_max` of them forced.
///
/// # Panics
/// If the model fails in an order, or has fewer than `orders_min` of them.
pub fn explore(preemptions_max: usize, orders_min: usize, model: impl Fn() + Send + Sync + 'static) {
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&orders);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions_max);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let orders = orders.load(Ordering::Relaxed);
    println!("{orders} orders");
    assert!(orders >= orders_min, "the model explored {orders} orders where at least {orders_min} were due");
}

/// Stands for the doorbell: remembers one ring, and orders what came before it with what follows the waking.
#[derive(Debug, Clone, Default)]
pub struct Doorbell {
    rung: Arc<Notify>,
    hung_up: Arc<AtomicBool>,
}

impl Doorbell {
    /// Wakes whoever sleeps or is about to.
    pub fn ring(&self) {
        self.rung.notify();
    }

    /// Sleeps until it is rung. A model in which that never happens fails as a deadlock.
    pub fn sleep(&self) {
        self.rung.wait();
    }

    /// What the kernel does for a process that has ended: the last ring, and the end of the line.
    pub fn hang_up(&self) {
        self.hung_up.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the other end has hung up.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        self.hung_up.load(Ordering::Acquire)
    }
}

/// Pushes one event with `value` as its payload: in the ring, or counted as lost.
pub fn push(producer: &mut Producer, slot: u16, value: u64) {
    push_granted(producer, slot, 0, value);
}

/// As [`push`], under a grant of the slot.
pub fn push_granted(producer: &mut Producer, slot: u16, generation: u16, value: u64) {
    match producer.push(slot, generation, 1, &[&value.to_le_bytes()]) {
        Ok(()) | Err(producer::PushError::Full) => {}
        Err(error) => unreachable!("a model pushes what a ring takes: {error}"),
    }
}

/// Flushes, and rings if the ring says so.
pub fn flush(producer: &mut Producer, doorbell: &Doorbell) {
    if producer.flush() {
        doorbell.ring();
    }
}

/// Sleeps until `want` bytes are there, unless they are. `false`: they were.
///
/// # Panics
/// If the ring calls the other end hostile: models have none.
pub fn sleep(consumer: &mut Consumer, doorbell: &Doorbell, want: u64) -> bool {
    let sleeps = consumer.arm(want).expect("both ends are honest");
    if sleeps {
        doorbell.sleep();
        consumer.disarm();
    }
    sleeps
}

/// What a consumer has received, as (slot, sequence, value), and what it was told is lost, as (slot, events).
#[derive(Debug, Default)]
pub struct Account {
    /// Records in the order of their reading.
    pub received: Vec<(u16, u64, u64)>,
    /// Losses in the order of their telling.
    pub lost: Vec<(u16, u64)>,
}

impl Account {
    /// Events lost on all slots.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.lost.iter().map(|(_, events)| events).sum()
    }

    /// Events received and lost.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.received.len() as u64 + self.lost_events()
    }

    /// Reads and settles one record. `false`: there is none.
    ///
    /// # Panics
    /// If the ring calls the other end hostile, as each step here: models have none.
    pub fn read(&mut self, consumer: &mut Consumer) -> bool {
        let mut payload = Vec::new();
        let Some(record) = consumer.read(&mut payload).expect("both ends are honest") else { return false };
        let lost = consumer.settle(&record, 1).expect("both ends are honest");
        if lost > 0 {
            self.lost.push((record.slot, lost));
        }
        self.received.push((record.slot, record.sequence, payload[0]));
        true
    }

    /// One turn of a consumer: reads what is there, asks for losses behind it, gives the space back.
    pub fn turn(&mut self, consumer: &mut Consumer) {
        while self.read(consumer) {}
        consumer.tail_loss(|slot, events| self.lost.push((slot, events))).expect("both ends are honest");
        let _nobody_waits = consumer.release();
    }

    /// Takes turns, and sleeps between them, until there were `events` events.
    pub fn sleep_until(&mut self, consumer: &mut Consumer, doorbell: &Doorbell, events: u64) {
        while self.events() < events {
            self.turn(consumer);
            if self.events() < events {
                sleep(consumer, doorbell, 1);
            }
        }
    }

    /// Takes turns, and sleeps between them, until the ring has ended.
    pub fn sleep_until_end(&mut self, consumer: &mut Consumer, doorbell: &Doorbell) {
        loop {
            self.turn(consumer);
            if consumer.ended().expect("both ends are honest") {
                return;
            }
            sleep(consumer, doorbell, 1);
        }
    }
}
