//! What reads the rings: in the hands of the data thread, or of a thread that waits for its subscription ([`super::desk`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use shm::Doorbell;

use super::ring::{InRing, Turn};
use super::{Command, Ground, Lineage, Shared};
use crate::batch::RECORD_BYTES_TARGET;
use crate::config::TURN_BYTES_MAX;
use crate::dataplane::chunk::Pool;
use crate::dataplane::wait::{Step, Wait};
use crate::dataplane::{DataEvent, DataEvents, Hub, Origin, Queue, RecvError, own_number};
use crate::sys;
use crate::wire::RingId;

/// Spins between two polls: some 2 microseconds.
const PAUSE_SPINS: u32 = 50;

/// What the control thread wants of who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    GoOn,
    /// A thread that waits for its subscription would read itself.
    StepAside,
    Stop,
}

/// How far a turn goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    AllWereSeen,
    SomebodyWasWoken,
}

impl Until {
    /// How much to take from one ring. Who reads for itself takes no more at a time than stays in its processor's cache until it is read.
    const fn bytes(self) -> usize {
        match self {
            Self::AllWereSeen => TURN_BYTES_MAX,
            Self::SomebodyWasWoken => RECORD_BYTES_TARGET,
        }
    }
}

/// How to sleep: until so many bytes have come; not for longer, if there is a time.
struct Sleep {
    want: u64,
    longest: Option<Duration>,
}

/// All rings that lead to this process, and what it takes to read them.
#[derive(Debug)]
pub(super) struct Intake {
    shared: Arc<Shared>,
    woken: Doorbell,
    hub: Arc<Hub>,
    events: DataEvents,
    rings: Vec<InRing>,
    /// Which ring has its turn next.
    next: usize,
    /// Rings that came to their end before the broker closed them.
    ended: Vec<EndedRing>,
    /// Memory of what was read.
    pool: Pool,
    hub_seen: u64,
    session_over: bool,
    /// Brokers that are gone.
    life: u32,
    /// Nobody wants anything any more.
    stopped: bool,
    wait: Wait,
    /// Readers were woken in the last turn.
    woke: bool,
    /// Which doorbells rang in the last sleep: our own, and those of the rings.
    rung: Vec<bool>,
}

/// What is left of a ring: whom to tell if the broker closes it with an accusation, which may come behind the news that the publisher
/// has let go of it.
#[derive(Debug)]
struct EndedRing {
    id: RingId,
    origin: Arc<Origin>,
    queues: Vec<Arc<Queue>>,
}

impl Intake {
    pub(super) fn new(ground: &Ground, woken: Doorbell) -> Self {
        let Ground { shared, hub, events, policy } = ground;
        Self {
            shared: Arc::clone(shared),
            woken,
            hub: Arc::clone(hub),
            events: events.clone(),
            rings: Vec::new(),
            next: 0,
            ended: Vec::new(),
            pool: Pool::default(),
            hub_seen: 0,
            session_over: false,
            life: 0,
            stopped: false,
            wait: Wait::new(*policy),
            woke: false,
            rung: Vec::new(),
        }
    }

    /// Reads, and sleeps when there is nothing to read, until it is told otherwise.
    pub(super) fn read_until_told(&mut self) -> Told {
        loop {
            match self.obey() {
                Told::GoOn => {}
                told => return told,
            }
            if self.turn(Until::AllWereSeen) {
                self.wait.busy();
                if self.woke {
                    // On the same processor, readers would not have their turn before ours is over.
                    std::thread::yield_now();
                }
            } else if let Some(Sleep { want, longest }) = self.pause() {
                self.sleep(want, longest);
            }
        }
    }

    /// Reads for the one subscription that there is, on the thread that waits for it, until something has come to its queue. Must be
    /// asked again otherwise, as long as that is what the thread wants.
    ///
    /// `awaited` says whether the queue has something, and has our waker rung if it comes from elsewhere.
    pub(super) fn read_for<T>(
        &mut self,
        longest: Option<Duration>,
        mut awaited: impl FnMut() -> Poll<T>,
    ) -> Poll<T> {
        if self.turn(Until::SomebodyWasWoken) {
            self.wait.busy();
            return awaited();
        }
        let Some(sleep) = self.pause() else { return awaited() };
        // Seen by who adds to the queue after `awaited` has looked.
        self.shared.asleep.store(true, Ordering::Relaxed);
        let item = awaited();
        if item.is_pending() {
            let longest = longest.into_iter().chain(sleep.longest).min();
            self.sleep(sleep.want, longest);
        }
        self.shared.asleep.store(false, Ordering::Relaxed);
        item
    }

    /// Lets some time pass after a turn that brought nothing; or says that, and how, it is time to sleep.
    fn pause(&mut self) -> Option<Sleep> {
        match self.wait.idle(self.shared.counters.received.load(Ordering::Relaxed)) {
            Step::Pause => (0..PAUSE_SPINS).for_each(|_| std::hint::spin_loop()),
            Step::Yield => std::thread::yield_now(),
            Step::Sleep { want, longest } => return Some(Sleep { want, longest }),
        }
        None
    }

    /// Reads all rings to where they stand now: what was published by now is delivered, or counted.
    pub(super) fn drain(&mut self) {
        for ring in &mut self.rings {
            ring.end_soon();
        }
        while !self.rings.is_empty() {
            // Commands have nobody to obey them any more, and must not hold up the rest.
            self.shared.waiting.store(false, Ordering::Relaxed);
            self.turn(Until::AllWereSeen);
        }
    }

    /// Carries out what the control thread told.
    pub(super) fn obey(&mut self) -> Told {
        let (mut joined, mut step_aside) = (Vec::new(), false);
        // Pairs with the stores in `Inbox`. Not put off: a change of the hub that this answers is seen below.
        if self.shared.waiting.swap(false, Ordering::AcqRel) {
            let commands = std::mem::take(&mut *self.shared.commands.lock());
            for command in commands {
                match command {
                    Command::Join { subscription } => joined.push(subscription),
                    Command::StepAside => step_aside = true,
                    other => self.carry_out(other),
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
        match (self.stopped, step_aside) {
            (true, _) => Told::Stop,
            (false, true) => Told::StepAside,
            (false, false) => Told::GoOn,
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Add { ring, end, origin, lineage } => {
                self.drop_void(&lineage);
                let mut alike = self.rings.iter().filter(|other| *other.lineage() == lineage);
                let publisher = alike.clone().next().map_or_else(own_number, InRing::publisher);
                let is_behind = alike.any(|other| other.life < self.life);
                let mut ring = InRing::new(ring, end, origin, lineage, publisher);
                (ring.is_behind, ring.life) = (is_behind, self.life);
                self.rings.push(ring);
            }
            Command::Detach => {
                // Nobody closes them any more.
                let ended = self.ended.drain(..).map(|ring| ring.id).collect();
                self.rings.iter_mut().for_each(|ring| ring.is_orphan = true);
                self.life += 1;
                // Without a control thread there is nobody to tell.
                let _ = self.events.send(DataEvent::Detached { ended });
            }
            Command::Grant { order, ring, slot, generation, topic, received } => {
                let queues = self.hub.targets(&topic);
                if let Some(ring) = self.ring(ring) {
                    ring.grant(slot, generation, topic, &queues);
                    ring.count_in(slot, received);
                }
                // Without a control thread there is nobody to tell.
                let _ = self.events.send(DataEvent::Granted { order });
            }
            Command::Relayed { ring, records } => {
                if let Some(ring) = self.ring(ring) {
                    ring.relayed(records);
                }
            }
            Command::Begin { queue } => self.rings.iter_mut().for_each(|ring| ring.begin(&queue)),
            Command::Revoke { ring, slot } => {
                if let Some(ring) = self.ring(ring) {
                    ring.revoke(slot);
                }
            }
            Command::Close { ring, accused } => {
                self.close(ring, accused);
            }
            Command::CutOff { ring } => {
                if let Some(ring) = self.ring(ring) {
                    ring.is_cut_off = true;
                    ring.close();
                }
            }
            Command::Join { .. } | Command::StepAside => unreachable!("the caller takes them itself"),
            Command::SessionOver => {
                self.session_over = true;
                // Nobody closes them any more.
                self.ended.clear();
                self.end_if_drained();
            }
            Command::Stop => self.stopped = true,
        }
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

    /// One look at each ring, or at those up to one that had something for a reader; whether there was anything.
    fn turn(&mut self, until: Until) -> bool {
        self.measure();
        self.woke = false;
        let mut busy = false;
        for _ in 0..self.rings.len() {
            // It goes on where the last turn has ended, so that each ring has its turn.
            self.next = if self.next < self.rings.len() { self.next } else { 0 };
            let Some(ring) = self.rings.get_mut(self.next) else { break };
            if ring.is_behind {
                self.next += 1;
                continue;
            }
            let Shared { waiting, counters, .. } = &*self.shared;
            let turn = ring.turn(until.bytes(), waiting, counters, &self.events, &mut self.pool);
            self.woke |= ring.wake_readers();
            match turn {
                Turn::Idle => self.next += 1,
                Turn::Busy => {
                    busy = true;
                    self.next += 1;
                }
                Turn::Ended => {
                    let ring = self.take_out(self.next);
                    // One behind it may have something by now.
                    busy = true;
                    self.tell_if_cut_off(&ring);
                    if ring.is_orphan {
                        // Without a control thread there is nobody to tell.
                        let _ = self.events.send(DataEvent::Ended { ring: ring.id });
                    } else if !ring.is_closed() && !self.session_over {
                        let (id, queues) = (ring.id, ring.queues().collect());
                        self.ended.push(EndedRing { id, origin: ring.origin, queues });
                    }
                    self.end_if_drained();
                }
                Turn::Broken(violation) => {
                    let ring = self.take_out(self.next);
                    busy = true;
                    self.report(&ring, violation);
                    self.end_if_drained();
                }
            }
            if until == Until::SomebodyWasWoken && self.woke {
                return true;
            }
        }
        busy
    }

    /// Takes a ring out that was read to its end, or broke. The next of its lineage have their turn, once all of its broker's are.
    fn take_out(&mut self, index: usize) -> InRing {
        let ring = self.rings.swap_remove(index);
        let alike = |other: &InRing| other.lineage() == ring.lineage();
        let first = self.rings.iter().filter(|other| alike(other)).map(|other| other.life).min();
        let next = self.rings.iter_mut().filter(|other| alike(other) && Some(other.life) == first);
        next.for_each(|other| other.is_behind = false);
        ring
    }

    /// Takes rings out that wait for their turn, and whose publisher has left nothing in them: one that is silent while brokers come and go
    /// never closes the first, and they would pile up behind it.
    fn drop_void(&mut self, lineage: &Lineage) {
        let events = &self.events;
        self.rings.retain_mut(|ring| {
            let goes = ring.is_behind && ring.is_orphan && ring.lineage() == lineage && ring.is_void();
            if goes {
                // Without a control thread there is nobody to tell.
                let _ = events.send(DataEvent::Ended { ring: ring.id });
            }
            !goes
        });
    }

    /// Notes how much waits, before any of it is taken: a turn may take long.
    fn measure(&mut self) {
        let occupied = self.rings.iter_mut().map(InRing::occupied).sum();
        let counters = &self.shared.counters;
        counters.occupied.store(occupied, Ordering::Relaxed);
        counters.occupied_max.fetch_max(occupied, Ordering::Relaxed);
        counters.capacity.store(self.rings.iter().map(InRing::capacity).sum(), Ordering::Relaxed);
    }

    /// Says that nothing more comes of a ring that was cut off, unless its publisher has another: then it has come back.
    fn tell_if_cut_off(&self, ring: &InRing) {
        if ring.is_cut_off && self.rings.iter().all(|other| other.lineage() != ring.lineage()) {
            let component = ring.origin.component.to_string();
            interrupt(ring.queues(), &RecvError::CutOff { component });
        }
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
            ring.is_behind || ring.arm(want)
        });
        if calm {
            let bell = |index: usize| match index.checked_sub(1) {
                None => &self.woken,
                // Whatever its publisher does with it: nobody reads it yet.
                Some(ring) if self.rings[ring].is_behind => &self.woken,
                Some(ring) => self.rings[ring].doorbell().unwrap_or(&self.woken),
            };
            sys::wait((0..self.rings.len() + 1).map(bell), longest, &mut self.rung);
            self.shared.counters.wakeups.fetch_add(1, Ordering::Relaxed);
            if self.rung[0] {
                self.woken.hear();
            }
            for (ring, rung) in self.rings.iter_mut().zip(&self.rung[1..]) {
                ring.note_bell(*rung && !ring.is_behind);
            }
        }
        for ring in &mut self.rings[..armed] {
            ring.disarm();
        }
    }
}

impl Drop for Intake {
    /// However it goes: nobody is to wait for what will not come.
    fn drop(&mut self) {
        self.hub.end();
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

#[cfg(test)]
mod tests;
