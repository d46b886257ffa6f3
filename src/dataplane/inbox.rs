//! The receiving side: the one data thread of a process. It reads all rings that lead here, and feeds the queues.
//!
//! A turn takes a bounded number of records from each ring. When all are empty the thread yields a bounded number of times, and
//! then sleeps until a doorbell rings: an idle process costs nothing.
//!
//! Identity is the ring: who publishes is what the broker said when the ring was made. Which topic a record is on is its
//! slot, looked up in what the broker granted; the same look-up yields the queues. A slot that was granted and since revoked is
//! skipped; one that was never granted poisons the ring.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam::utils::Backoff;
use parking_lot::Mutex;
use shm::{Consumer, Doorbell, Heard};

use super::hub::Targets;
use super::{DataEvent, DataEvents, Hub, Origin, Queue, ReceivedBatch, RecvError};
use crate::batch::{Record, Spares};
use crate::config::RECORDS_PER_TURN;
use crate::sys;
use crate::topic::Topic;
use crate::wire::RingId;

mod ring;
use ring::{InRing, Turn};

/// What the control thread tells the data thread.
#[derive(Debug)]
enum Command {
    Add {
        ring: RingId,
        consumer: Box<Consumer>,
        doorbell: Doorbell,
        origin: Arc<Origin>,
    },
    Grant {
        ring: RingId,
        slot: u16,
        generation: u16,
        topic: Topic,
    },
    Revoke {
        ring: RingId,
        slot: u16,
    },
    Close {
        ring: RingId,
    },
    /// The session is over: rings go on until they end by themselves.
    SessionOver,
    Stop,
}

/// Running totals of a data thread.
#[derive(Debug, Default)]
pub(crate) struct InboxCounters {
    /// Times it slept and was woken.
    pub(crate) wakeups: AtomicU64,
    /// Events taken from rings.
    pub(crate) received: AtomicU64,
    /// Events skipped: their slot was revoked while they were on their way.
    pub(crate) skipped: AtomicU64,
    /// Bytes that waited in rings when the thread last looked, and the most of them that it ever saw.
    pub(crate) occupied: AtomicU64,
    pub(crate) occupied_max: AtomicU64,
    /// Bytes of all rings.
    pub(crate) capacity: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    commands: Mutex<Vec<Command>>,
    /// Commands wait. Looked at before each record.
    waiting: AtomicBool,
    wake: Doorbell,
    counters: Arc<InboxCounters>,
}

/// The control thread's hold on the data thread, which ends with it.
#[derive(Debug)]
pub(crate) struct Inbox {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Inbox {
    /// Starts the data thread of a process.
    pub(crate) fn start(
        hub: Arc<Hub>,
        events: DataEvents,
        counters: Arc<InboxCounters>,
    ) -> std::io::Result<Self> {
        let (wake, woken) = Doorbell::pair()?;
        let shared =
            Arc::new(Shared { commands: Mutex::default(), waiting: AtomicBool::new(false), wake, counters });
        let state = DataThread {
            shared: Arc::clone(&shared),
            woken,
            hub,
            events,
            rings: Vec::new(),
            spares: Arc::default(),
            hub_seen: 0,
            session_over: false,
        };
        let thread = std::thread::Builder::new().name("eventbus-data".into()).spawn(move || state.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn add(&self, ring: RingId, consumer: Consumer, doorbell: Doorbell, origin: Arc<Origin>) {
        self.tell(Command::Add { ring, consumer: Box::new(consumer), doorbell, origin });
    }

    pub(crate) fn grant(&self, ring: RingId, slot: u16, generation: u16, topic: Topic) {
        self.tell(Command::Grant { ring, slot, generation, topic });
    }

    pub(crate) fn revoke(&self, ring: RingId, slot: u16) {
        self.tell(Command::Revoke { ring, slot });
    }

    pub(crate) fn close(&self, ring: RingId) {
        self.tell(Command::Close { ring });
    }

    /// Has the data thread look up its targets anew before it takes another record: the subscriptions have changed.
    pub(crate) fn refresh(&self) {
        // Pairs with the load in `DataThread::obey`.
        self.shared.waiting.store(true, Ordering::Release);
    }

    pub(crate) fn session_over(&self) {
        self.tell(Command::SessionOver);
    }

    fn tell(&self, command: Command) {
        self.shared.commands.lock().push(command);
        // Pairs with the load in `DataThread::obey`.
        self.shared.waiting.store(true, Ordering::Release);
        // The other end is this process: it is there, and if its buffer is full it is awake.
        let _ = self.shared.wake.ring();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there is a bug of ours that has been printed already.
            let _ = thread.join();
        }
    }
}

struct DataThread {
    shared: Arc<Shared>,
    woken: Doorbell,
    hub: Arc<Hub>,
    events: DataEvents,
    rings: Vec<InRing>,
    spares: Arc<Spares>,
    hub_seen: u64,
    session_over: bool,
}

impl DataThread {
    fn run(mut self) {
        let backoff = Backoff::new();
        while self.obey() {
            let busy = self.turn();
            if busy {
                backoff.reset();
            } else if !backoff.is_completed() {
                backoff.snooze();
            } else {
                self.sleep();
                backoff.reset();
            }
        }
    }

    /// Carries out what the control thread told; `false` when it is time to go.
    fn obey(&mut self) -> bool {
        // Pairs with the store in `Inbox::tell`.
        if self.shared.waiting.load(Ordering::Acquire) {
            self.shared.waiting.store(false, Ordering::Relaxed);
            let commands = std::mem::take(&mut *self.shared.commands.lock());
            for command in commands {
                if !self.carry_out(command) {
                    return false;
                }
            }
        }
        let generation = self.hub.generation();
        if self.hub_seen != generation {
            self.hub_seen = generation;
            for ring in &mut self.rings {
                ring.refresh(&self.hub);
            }
        }
        true
    }

    fn carry_out(&mut self, command: Command) -> bool {
        match command {
            Command::Add { ring, consumer, doorbell, origin } => {
                let spares = Arc::clone(&self.spares);
                self.rings.push(InRing::new(ring, *consumer, doorbell, origin, spares));
            }
            Command::Grant { ring, slot, generation, topic } => {
                let targets = self.hub.targets(&topic);
                if let Some(ring) = self.ring(ring) {
                    ring.grant(slot, generation, topic, targets);
                }
            }
            Command::Revoke { ring, slot } => {
                if let Some(ring) = self.ring(ring) {
                    ring.revoke(slot);
                }
            }
            Command::Close { ring } => {
                if let Some(ring) = self.ring(ring) {
                    ring.end_soon();
                }
            }
            Command::SessionOver => {
                self.session_over = true;
                self.tell_if_drained();
            }
            Command::Stop => return false,
        }
        true
    }

    fn ring(&mut self, id: RingId) -> Option<&mut InRing> {
        self.rings.iter_mut().find(|ring| ring.id == id)
    }

    /// One look at each ring; whether there was anything.
    fn turn(&mut self) -> bool {
        let mut busy = false;
        let mut occupied = 0;
        let mut index = 0;
        while index < self.rings.len() {
            occupied += self.rings[index].occupied();
            let turn = self.rings[index].turn(RECORDS_PER_TURN, &self.shared.waiting, &self.shared.counters);
            match turn {
                Turn::Idle => index += 1,
                Turn::Busy => {
                    busy = true;
                    index += 1;
                }
                Turn::Ended => {
                    self.rings.swap_remove(index);
                    self.tell_if_drained();
                }
                Turn::Broken(violation) => {
                    let ring = self.rings.swap_remove(index);
                    self.report(&ring, violation);
                    self.tell_if_drained();
                }
            }
        }
        let counters = &self.shared.counters;
        counters.occupied.store(occupied, Ordering::Relaxed);
        counters.occupied_max.fetch_max(occupied, Ordering::Relaxed);
        counters.capacity.store(self.rings.iter().map(InRing::capacity).sum(), Ordering::Relaxed);
        busy
    }

    fn report(&self, ring: &InRing, violation: String) {
        let component = ring.origin.component.to_string();
        let error = RecvError::Poisoned { component, violation: violation.clone() };
        interrupt(ring.queues(), &error);
        // Without a control thread there is nobody to tell.
        let _ = self.events.send(DataEvent::Poisoned { ring: ring.id, violation });
    }

    fn tell_if_drained(&self) {
        if self.session_over && self.rings.is_empty() {
            self.hub.end();
            // Without a control thread there is nobody to tell.
            let _ = self.events.send(DataEvent::Drained);
        }
    }

    /// Sleeps until a doorbell rings, unless a ring has something by now.
    fn sleep(&mut self) {
        let mut armed = 0;
        let calm = self.rings.iter_mut().all(|ring| {
            armed += 1;
            ring.arm()
        });
        if calm {
            let bells: Vec<_> = std::iter::once(&self.woken)
                .chain(self.rings.iter().map(|ring| &ring.doorbell))
                .map(std::os::fd::AsFd::as_fd)
                .collect();
            let rung = sys::wait(&bells);
            self.shared.counters.wakeups.fetch_add(1, Ordering::Relaxed);
            if rung[0] {
                self.woken.hear();
            }
            for (ring, _) in self.rings.iter_mut().zip(&rung[1..]).filter(|(_, rung)| **rung) {
                if ring.doorbell.hear() == Heard::PeerGone {
                    ring.end_soon();
                }
            }
        }
        for ring in &mut self.rings[..armed] {
            ring.disarm();
        }
    }
}

/// One topic of a ring.
#[derive(Debug)]
struct Slot {
    topic: Topic,
    generation: u16,
    granted: bool,
    targets: Targets,
}

impl Slot {
    fn lost(&self, events: u64) {
        for queue in self.targets.iter() {
            queue.lost(events);
        }
    }
}

/// Tells each of the queues once.
fn interrupt(queues: impl Iterator<Item = Arc<Queue>>, error: &RecvError) {
    let mut told: Vec<Arc<Queue>> = Vec::new();
    for queue in queues {
        if !told.iter().any(|other| Arc::ptr_eq(other, &queue)) {
            queue.interrupt(error.clone());
            told.push(queue);
        }
    }
}

/// The publisher's name on what it sends.
fn received(record: Record, slot: &Slot, origin: &Arc<Origin>) -> ReceivedBatch {
    ReceivedBatch::new(record, slot.topic.clone(), Arc::clone(origin))
}
