//! The receiving side: the one data thread of a process. It reads all rings that lead here, and feeds the queues.
//!
//! A turn takes a bounded number of records from each ring. When all are empty the thread polls a bounded number of times more, and
//! then sleeps until a doorbell rings ([`super::wait`]): an idle process costs nothing.
//!
//! Identity is the ring: who publishes is what the broker said when the ring was made. Which topic a record is on is its
//! slot, looked up in what the broker granted; the same look-up yields the queues. A slot that was granted and since revoked is
//! skipped; one that was never granted poisons the ring.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use shm::{Consumer, Doorbell, Moment};

use super::chunk::Pool;
use super::queue::Source;
use super::wait::{Step, Wait, WaitPolicy};
use super::{DataEvent, DataEvents, Hub, Origin, Queue, RecvError};
use crate::config::RECORDS_PER_TURN;
use crate::sys;
use crate::topic::Topic;
use crate::wire::{OrderId, RingId};

mod ring;
use ring::{InRing, Turn};

/// Spins between two polls: some 2 microseconds.
const PAUSE_SPINS: u32 = 50;

/// What the control thread tells the data thread.
#[derive(Debug)]
enum Command {
    Add {
        ring: RingId,
        consumer: Box<Consumer>,
        doorbell: Doorbell,
        origin: Arc<Origin>,
    },
    /// A slot carries this topic from now on; `order` is the broker's number for it.
    Grant {
        order: OrderId,
        ring: RingId,
        slot: u16,
        generation: u16,
        topic: Topic,
    },
    Revoke {
        ring: RingId,
        slot: u16,
    },
    /// The ring ends; `accused` says that its publisher holds us to have broken it.
    Close {
        ring: RingId,
        accused: Option<String>,
    },
    /// A subscription has joined the hub: say so once it counts.
    Join {
        subscription: u32,
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
    /// Commands wait. Looked at before each record, so that who waits for an answer has it soon.
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
        policy: WaitPolicy,
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
            ended: Vec::new(),
            pool: Pool::default(),
            hub_seen: 0,
            session_over: false,
            wait: Wait::new(policy),
            woke: false,
            rung: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("eventbus-data".into()).spawn(move || state.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn add(&self, ring: RingId, consumer: Consumer, doorbell: Doorbell, origin: Arc<Origin>) {
        self.tell(Command::Add { ring, consumer: Box::new(consumer), doorbell, origin });
    }

    /// Has the data thread take records of this slot from now on, and say [`DataEvent::Granted`].
    pub(crate) fn grant(&self, order: OrderId, ring: RingId, slot: u16, generation: u16, topic: Topic) {
        self.tell(Command::Grant { order, ring, slot, generation, topic });
    }

    pub(crate) fn revoke(&self, ring: RingId, slot: u16) {
        self.tell(Command::Revoke { ring, slot });
    }

    pub(crate) fn close(&self, ring: RingId, accused: Option<String>) {
        self.tell(Command::Close { ring, accused });
    }

    /// Has the data thread take note of a subscription that is in the hub, and say [`DataEvent::Joined`]: what is published after
    /// that is for it.
    pub(crate) fn join(&self, subscription: u32) {
        self.tell(Command::Join { subscription });
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
        // The other end is this process, and there. Where the kernel has no memory for a byte, it will: the control thread may
        // wait, and a thread that sleeps over a command may not.
        while let Ok(false) = self.shared.wake.ring() {
            std::thread::yield_now();
        }
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
    /// Rings that came to their end before the broker closed them.
    ended: Vec<EndedRing>,
    /// Memory of what was read.
    pool: Pool,
    hub_seen: u64,
    session_over: bool,
    wait: Wait,
    /// Readers were woken in this turn.
    woke: bool,
    /// Which doorbells rang in the last sleep: our own, and those of the rings.
    rung: Vec<bool>,
}

/// What is left of a ring: whom to tell if the broker closes it with an accusation, which may come behind the news that the publisher
/// has let go of it.
struct EndedRing {
    id: RingId,
    origin: Arc<Origin>,
    queues: Vec<Arc<Queue>>,
}

impl DataThread {
    fn run(mut self) {
        while self.obey() {
            if self.turn() {
                self.wait.busy();
                if std::mem::take(&mut self.woke) {
                    // On the same processor, readers would not have their turn before ours is over.
                    std::thread::yield_now();
                }
                continue;
            }
            match self.wait.idle(self.shared.counters.received.load(Ordering::Relaxed)) {
                Step::Pause => (0..PAUSE_SPINS).for_each(|_| std::hint::spin_loop()),
                Step::Yield => std::thread::yield_now(),
                Step::Sleep { want, longest } => self.sleep(want, longest),
            }
        }
        self.drain();
    }

    /// Reads all rings to where they stand now: what was published by now is delivered, or counted.
    fn drain(&mut self) {
        for ring in &mut self.rings {
            ring.end_soon();
        }
        while !self.rings.is_empty() {
            // Commands have nobody to obey them any more, and must not hold up the rest.
            self.shared.waiting.store(false, Ordering::Relaxed);
            self.turn();
        }
    }

    /// Carries out what the control thread told; `false` when it is time to go.
    fn obey(&mut self) -> bool {
        let mut joined = Vec::new();
        // Pairs with the stores in `Inbox`. Not put off: a change of the hub that this answers is seen below.
        if self.shared.waiting.swap(false, Ordering::AcqRel) {
            let commands = std::mem::take(&mut *self.shared.commands.lock());
            for command in commands {
                if let Command::Join { subscription } = command {
                    joined.push(subscription);
                } else if !self.carry_out(command) {
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
        for subscription in joined {
            // Without a control thread there is nobody to tell.
            let _ = self.events.send(DataEvent::Joined { subscription });
        }
        true
    }

    fn carry_out(&mut self, command: Command) -> bool {
        match command {
            Command::Add { ring, consumer, doorbell, origin } => {
                self.rings.push(InRing::new(ring, *consumer, doorbell, origin));
            }
            Command::Grant { order, ring, slot, generation, topic } => {
                let queues = self.hub.targets(&topic);
                if let Some(ring) = self.ring(ring) {
                    ring.grant(slot, generation, topic, &queues);
                }
                // Without a control thread there is nobody to tell.
                let _ = self.events.send(DataEvent::Granted { order });
            }
            Command::Revoke { ring, slot } => {
                if let Some(ring) = self.ring(ring) {
                    ring.revoke(slot);
                }
            }
            Command::Close { ring, accused } => {
                self.close(ring, accused);
            }
            Command::Join { .. } => unreachable!("the caller takes it itself"),
            Command::SessionOver => {
                self.session_over = true;
                // Nobody closes them any more.
                self.ended.clear();
                self.end_if_drained();
            }
            Command::Stop => return false,
        }
        true
    }

    fn close(&mut self, id: RingId, accused: Option<String>) {
        let ended = self.ended.iter().position(|ring| ring.id == id).map(|at| self.ended.swap_remove(at));
        let (origin, queues) = match (self.ring(id), ended) {
            (Some(ring), _) => {
                ring.close();
                (Arc::clone(&ring.origin), ring.queues().collect())
            }
            (None, Some(ended)) => (ended.origin, ended.queues),
            (None, None) => return,
        };
        if let Some(violation) = accused {
            let component = origin.component.to_string();
            let violation = format!("it holds this process to have broken the ring: {violation}");
            interrupt(queues.into_iter(), &RecvError::Poisoned { component, violation });
        }
    }

    fn ring(&mut self, id: RingId) -> Option<&mut InRing> {
        self.rings.iter_mut().find(|ring| ring.id == id)
    }

    /// One look at each ring; whether there was anything.
    fn turn(&mut self) -> bool {
        self.measure();
        let mut busy = false;
        let mut index = 0;
        while index < self.rings.len() {
            let Shared { waiting, counters, .. } = &*self.shared;
            let turn = self.rings[index].turn(RECORDS_PER_TURN, waiting, counters, &mut self.pool);
            self.woke |= self.rings[index].wake_readers();
            match turn {
                Turn::Idle => index += 1,
                Turn::Busy => {
                    busy = true;
                    index += 1;
                }
                Turn::Ended => {
                    let ring = self.rings.swap_remove(index);
                    if !ring.is_closed() && !self.session_over {
                        let (id, queues) = (ring.id, ring.queues().collect());
                        self.ended.push(EndedRing { id, origin: ring.origin, queues });
                    }
                    self.end_if_drained();
                }
                Turn::Broken(violation) => {
                    let ring = self.rings.swap_remove(index);
                    self.report(&ring, violation);
                    self.end_if_drained();
                }
            }
        }
        busy
    }

    /// Notes how much waits, before any of it is taken: a turn may take long.
    fn measure(&mut self) {
        let occupied = self.rings.iter_mut().map(InRing::occupied).sum();
        let counters = &self.shared.counters;
        counters.occupied.store(occupied, Ordering::Relaxed);
        counters.occupied_max.fetch_max(occupied, Ordering::Relaxed);
        counters.capacity.store(self.rings.iter().map(InRing::capacity).sum(), Ordering::Relaxed);
    }

    fn report(&self, ring: &InRing, violation: String) {
        let component = ring.origin.component.to_string();
        let error = RecvError::Poisoned { component, violation: violation.clone() };
        interrupt(ring.queues(), &error);
        // Without a control thread there is nobody to tell.
        let _ = self.events.send(DataEvent::Poisoned { ring: ring.id, violation });
    }

    /// Ends the subscriptions once nothing more can come.
    fn end_if_drained(&self) {
        if self.session_over && self.rings.is_empty() {
            self.hub.end();
        }
    }

    /// Sleeps until a doorbell rings, for so many bytes or something that can't wait, unless a ring has that by now.
    fn sleep(&mut self, want: u64, longest: Option<Duration>) {
        self.rings.iter_mut().for_each(InRing::hear);
        let mut armed = 0;
        let calm = self.rings.iter_mut().all(|ring| {
            armed += 1;
            ring.arm(want)
        });
        if calm {
            let bell = |index: usize| match index.checked_sub(1) {
                None => &self.woken,
                Some(ring) => &self.rings[ring].doorbell,
            };
            sys::wait((0..self.rings.len() + 1).map(bell), longest, &mut self.rung);
            self.shared.counters.wakeups.fetch_add(1, Ordering::Relaxed);
            if self.rung[0] {
                self.woken.hear();
            }
            for (ring, rung) in self.rings.iter_mut().zip(&self.rung[1..]) {
                ring.note_bell(*rung);
            }
        }
        for ring in &mut self.rings[..armed] {
            ring.disarm();
        }
    }
}

impl Drop for DataThread {
    /// However it goes: nobody is to wait for what will not come.
    fn drop(&mut self) {
        self.hub.end();
    }
}

/// One topic of a ring.
#[derive(Debug)]
struct Slot {
    topic: Topic,
    generation: u16,
    granted: bool,
    /// Whose the events of this slot are, in the queues.
    source: Source,
    targets: Vec<Target>,
}

/// A queue that a topic is for, and since when: what happened before it joined does not concern it.
#[derive(Debug, Clone)]
struct Target {
    queue: Arc<Queue>,
    since: Moment,
}

impl Slot {
    /// Whom a record at this position is for.
    fn targets_at(&self, position: u64) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(move |target| position >= target.since.position)
    }

    /// Tells queues of the loss of the events with these numbers, as far as it concerns each.
    fn lost<'a>(&self, targets: impl Iterator<Item = &'a Target>, events: Range<u64>) {
        for target in targets {
            let count = events.end.saturating_sub(events.start.max(target.since.sequence));
            if count > 0 {
                target.queue.lost(count, self.source);
            }
        }
    }
}

/// Tells each of the queues once.
fn interrupt(queues: impl Iterator<Item = Arc<Queue>>, error: &RecvError) {
    let mut told: HashSet<*const Queue> = HashSet::new();
    for queue in queues {
        if told.insert(Arc::as_ptr(&queue)) {
            queue.interrupt(error.clone());
        }
    }
}
