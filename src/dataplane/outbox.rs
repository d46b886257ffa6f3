//! The publishing side: one outbox per publisher, with the rings that lead to its subscribers.
//!
//! The control thread says where topics go ([`OutboxShared`]: a wish, with a generation); the publisher's own thread
//! makes it so at its next call ([`Outbox::follow`]), and owns the result: the rings, and a flat table from topic to targets. Per
//! publish that costs two loads and an array look-up, however many patterns there are.
//!
//! A ring that is no longer wanted is let go of at the publisher's next call; one that was never taken over goes at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use shm::Producer;

use super::chunk::{Pool, own};
use super::hub::Queues;
use super::queue::Source;
use super::{DataEvent, DataEvents, Hub, Origin, own_number};
use crate::batch::BatchWriter;
use crate::config::DESERTED_CHECK;
use crate::hierarchy;
use crate::routing::{RoutingTable, TopicId};
use crate::sys;
use crate::topic::Topic;
use crate::wire::{PublisherId, RingId, SlotTarget};

mod clock;
mod kept;
mod relay;
mod ring;
mod room;
mod staged;
mod tally;
mod wanted;
use clock::WallClock;
use kept::{Heard, Keeping};
pub(crate) use kept::{KeptShare, Poured, Reader};
pub(crate) use relay::{Line, Relayed};
pub(crate) use ring::RingEnd;
use ring::{Address, OutRing, Over, Pushed, Sealed};
pub(crate) use room::Wait;
use staged::Staged;
use tally::Tallies;
pub(crate) use wanted::OutboxShared;
use wanted::{Fresh, Wanted};

/// What became of events that were published together.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, EventBusClient, Opaque};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// let mut publisher = procmond.publisher("events.process.batch").await?;
/// let nobody = publisher.publish(&Opaque(b"unheard"))?;
/// assert_eq!((nobody.events, nobody.subscribers, nobody.reached, nobody.dropped), (1, 0, 0, 0));
///
/// let _batches = bus.subscription(&["events.process.#"]).await?;
/// let heard = publisher.publish(&Opaque(b"heard"))?;
/// assert_eq!((heard.events, heard.subscribers, heard.reached, heard.dropped), (1, 1, 1, 0));
/// assert_eq!(publisher.totals().events, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Events in this call.
    pub events: u64,
    /// Subscriber processes that each of them was for.
    pub subscribers: u64,
    /// Events that subscribers' rings took, summed over subscribers; of this process's own subscriptions, what was handed to their
    /// queues. Not a receipt: a subscriber may yet be killed, or lag behind its queue.
    pub reached: u64,
    /// Events that were lost because a subscriber's ring was full, or too small for them, summed over subscribers. Each is told of
    /// its own. And events that nobody was there for while there was no broker, and no room to keep them.
    pub dropped: u64,
    /// Events that are kept for who comes when there is a broker again, whoever hears them now:
    /// see [`ConnectOptions::outbox_bytes`](crate::ConnectOptions::outbox_bytes). [`Publisher::consumed`](crate::Publisher::consumed) tells
    /// when those that nobody heard were read.
    pub kept: u64,
}

impl Delivery {
    /// Adds what became of further events.
    pub(crate) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.subscribers = self.subscribers.max(other.subscribers);
        self.reached += other.reached;
        self.dropped += other.dropped;
        self.kept += other.kept;
    }
}

/// Of what was dropped in one call, what no full ring was the cause of, in events.
#[derive(Debug, Clone, Copy, Default)]
struct Drops {
    too_large: u64,
    too_late: u64,
    unkept: u64,
}

/// Where a topic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteTarget {
    /// To the subscriptions of this process.
    Local,
    /// The same, as a broker has said that is gone.
    FormerLocal,
    /// To another process.
    Slot { ring: RingId, slot: u16, generation: u16 },
}

impl RouteTarget {
    /// As the broker says it.
    pub(crate) fn of(target: Option<SlotTarget>) -> Self {
        target.map_or(Self::Local, |SlotTarget { ring, slot, generation }| Self::Slot {
            ring,
            slot,
            generation,
        })
    }
}

/// How many bytes a record may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordLimits {
    /// With one event: what the largest ring takes, and never less than a ring of the size that the broker has for all.
    pub(crate) single: u32,
    /// With more than one: what the smallest ring takes, so that a batch is divided for all of them.
    pub(crate) shared: u32,
}

/// A publisher's rings and table. One thread at a time.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// What a ring of the broker's own size takes.
    record_bytes_max: u32,
    shared: Arc<OutboxShared>,
    hub: Arc<Hub>,
    events: DataEvents,
    hub_seen: u64,
    origin: Option<Arc<Origin>>,
    /// This process's own number for the publisher.
    number: PublisherId,
    table: RoutingTable<Target>,
    /// `None` where the subscriber is gone, or broke the ring.
    rings: Vec<Option<OutRing>>,
    /// Rings with something to flush.
    dirty: Vec<usize>,
    /// The number of the next event.
    sequence: u64,
    /// When it was last looked whether subscribers are still there, in nanoseconds of the monotonic clock.
    checked: u64,
    wall_clock: WallClock,
    /// Memory of what went to subscriptions of this process.
    pool: Pool,
    staged: Option<Staged>,
    tallies: Tallies,
    drops: Drops,
    /// What is published now is kept for who may come.
    keeps: bool,
    /// The most that [`consumed`](Self::consumed) has said.
    consumed: u64,
}

#[derive(Debug, Clone)]
enum Target {
    Local {
        topic: Topic,
        queues: Queues,
        urgent: bool,
    },
    Ring {
        index: usize,
        address: Address,
        /// The most that the ring takes of one record.
        record_bytes_max: u32,
    },
}

impl Outbox {
    pub(crate) fn new(
        shared: Arc<OutboxShared>,
        hub: Arc<Hub>,
        events: DataEvents,
        record_bytes_max: u32,
    ) -> Self {
        Self {
            record_bytes_max,
            shared,
            hub,
            events,
            hub_seen: 0,
            origin: None,
            number: own_number(),
            table: RoutingTable::build(0, []),
            rings: Vec::new(),
            dirty: Vec::new(),
            sequence: 0,
            checked: 0,
            wall_clock: WallClock::new(),
            pool: Pool::default(),
            staged: None,
            tallies: Tallies::default(),
            drops: Drops::default(),
            keeps: false,
            consumed: 0,
        }
    }

    /// Whether anybody is there for this topic now, or may come for it. If not, nothing needs to be encoded.
    pub(crate) fn has_targets(&mut self, topic: TopicId) -> bool {
        self.follow();
        !self.table.targets(topic).is_empty() || self.keeps
    }

    /// Processes that what is published on this topic now is for.
    pub(crate) fn subscribers(&mut self, topic: TopicId) -> u64 {
        self.follow();
        // Without a broker nobody says that one is gone.
        self.drop_deserted(sys::monotonic_nanos());
        self.heard_by(topic)
    }

    fn heard_by(&self, topic: TopicId) -> u64 {
        let is_there = |target: &&Target| match target {
            Target::Local { queues, .. } => !queues.is_empty(),
            Target::Ring { index, .. } => self.rings[*index].is_some(),
        };
        self.table.targets(topic).iter().filter(is_there).count() as u64
    }

    /// How large records of this topic may be now. One that is made by older limits is lost where it does not fit.
    pub(crate) fn limits(&self, topic: TopicId) -> RecordLimits {
        let rings = self.table.targets(topic).iter().filter_map(|target| match target {
            Target::Ring { record_bytes_max, .. } => Some(*record_bytes_max),
            Target::Local { .. } => None,
        });
        let default = self.record_bytes_max;
        let (single, shared) = rings.fold((default, None), |(single, shared): (u32, Option<u32>), max| {
            (single.max(max), Some(shared.map_or(max, |shared| shared.min(max))))
        });
        RecordLimits { single, shared: shared.unwrap_or(default) }
    }

    /// Counts events that nobody is there for.
    pub(crate) fn skip(&mut self, topic: TopicId, events: u64) -> Delivery {
        self.sequence += events;
        self.count(topic, Delivery { events, ..Delivery::default() })
    }

    /// Seals a record, and gives it to each subscriber of its topic. [`flush`](Self::flush) makes it visible.
    pub(crate) fn publish(&mut self, topic: TopicId, record: &mut BatchWriter) -> Delivery {
        self.follow();
        self.seal(record);
        let mut delivery = Delivery { events: record.len() as u64, ..Delivery::default() };
        if self.keeps {
            self.keep(topic, record, &mut delivery);
        }
        self.offer(topic, record, &mut delivery);
        self.count(topic, delivery)
    }

    /// Keeps a record for who may come, unless who came is there by now.
    fn keep(&mut self, topic: TopicId, record: &BatchWriter, delivery: &mut Delivery) {
        let is_heard = self.heard_by(topic) > 0;
        match self.shared.keep(topic, record, self.heard(topic), self.sequence) {
            Keeping::Kept => delivery.kept += delivery.events,
            Keeping::Full if is_heard => {}
            Keeping::Full => {
                delivery.dropped += delivery.events;
                self.drops.unkept += delivery.events;
            }
            Keeping::Off => self.follow(),
        }
    }

    /// Who is there for a topic.
    fn heard(&self, topic: TopicId) -> Heard {
        let mut heard = Heard::default();
        for target in self.table.targets(topic) {
            match target {
                Target::Local { queues, .. } => heard.locally |= !queues.is_empty(),
                Target::Ring { index, .. } => {
                    heard.rings.extend(self.rings[*index].as_ref().map(|ring| ring.id))
                }
            }
        }
        heard
    }

    /// Gives a record to each subscriber that is there.
    fn offer(&mut self, topic: TopicId, record: &BatchWriter, delivery: &mut Delivery) {
        let sealed = Sealed::of(record);
        let orphaned = self.shared.orphaned.load(Ordering::Relaxed);
        for target in self.table.targets(topic) {
            let taken = match target {
                Target::Local { queues, .. } if queues.is_empty() => continue,
                Target::Local { topic, queues, urgent } => {
                    let origin = self.origin.as_ref().expect("a topic is routed after it was declared");
                    let mut chunk = self.pool.take(record.bytes(), topic, origin);
                    own(&mut chunk).push_own(record);
                    let source = Source { publisher: self.number, urgent: *urgent };
                    queues.iter().filter_map(|queue| queue.push(&chunk, source)).for_each(Waker::wake);
                    self.pool.keep(&chunk);
                    true
                }
                Target::Ring { index, address, .. } => {
                    let place = &mut self.rings[*index];
                    let Some(ring) = place else { continue };
                    if !ring.dirty {
                        ring.dirty = true;
                        self.dirty.push(*index);
                    }
                    match ring.push(*address, &sealed, self.sequence) {
                        Ok(pushed) if pushed == Pushed::Taken || !(orphaned && ring.is_deserted()) => {
                            if pushed == Pushed::TooLarge {
                                self.drops.too_large += delivery.events;
                            }
                            pushed == Pushed::Taken
                        }
                        Ok(_) => {
                            retire(&self.events, place.take());
                            continue;
                        }
                        Err(over) => {
                            part(&self.events, place, over);
                            continue;
                        }
                    }
                }
            };
            delivery.subscribers += 1;
            *(if taken { &mut delivery.reached } else { &mut delivery.dropped }) += delivery.events;
        }
    }

    /// Gives a record its numbers and its time.
    fn seal(&mut self, record: &mut BatchWriter) {
        let now = sys::monotonic_nanos();
        self.drop_deserted(now);
        record.seal(self.sequence, self.wall_clock.at(now), now);
        self.sequence += record.len() as u64;
    }

    /// Makes visible what was published, and wakes who waits for it.
    pub(crate) fn flush(&mut self) {
        for index in self.dirty.drain(..) {
            if let Some(ring) = &mut self.rings[index] {
                ring.dirty = false;
                if let Err(over) = ring.flush() {
                    part(&self.events, &mut self.rings[index], over);
                }
            }
        }
    }

    fn count(&mut self, topic: TopicId, delivery: Delivery) -> Delivery {
        // The outbox is the only writer, so a load and a store are enough.
        let add = |counter: &AtomicU64, events| {
            counter.store(counter.load(Ordering::Relaxed) + events, Ordering::Relaxed);
        };
        self.tallies.count(topic, &delivery, std::mem::take(&mut self.drops));
        self.shared.counters.subscribers.store(delivery.subscribers, Ordering::Relaxed);
        add(&self.shared.counters.published, delivery.events);
        add(&self.shared.counters.reached, delivery.reached);
        add(&self.shared.counters.dropped, delivery.dropped);
        add(&self.shared.counters.kept, delivery.kept);
        delivery
    }

    /// Takes over what the control thread wants, if that has changed. What is staged still by then was forgotten by its builder.
    pub(crate) fn follow(&mut self) {
        self.take_back_staged();
        // Pairs with the store in `OutboxShared::change`.
        let generation = self.shared.generation.load(Ordering::Acquire);
        if self.table.generation() != generation || self.hub_seen != self.hub.generation() {
            self.rebuild();
        }
    }

    #[cold]
    fn rebuild(&mut self) {
        self.flush();
        let shared = Arc::clone(&self.shared);
        let mut wanted = shared.wanted.lock();
        let generation = shared.generation.load(Ordering::Relaxed);
        self.hub_seen = self.hub.generation();
        self.origin.clone_from(&wanted.origin);
        let orphaned = shared.orphaned.load(Ordering::Relaxed);
        let released = std::mem::take(&mut wanted.released);
        for ring in self.rings.iter_mut().flatten() {
            if released.iter().any(|(before, _)| *before == ring.id) {
                ring.close();
            }
        }
        let mut dropped = Vec::new();
        for mut ring in std::mem::take(&mut self.rings).into_iter().flatten() {
            let stays = wanted.rings.contains_key(&ring.id) || (ring.is_closing() && !ring.is_done());
            if stays && !(orphaned && ring.is_deserted()) {
                self.rings.push(Some(ring));
            } else {
                dropped.push(ring);
            }
        }
        let Wanted { rings, tallies, topics, kept, .. } = &mut *wanted;
        self.tallies.follow(topics);
        self.keeps = kept.keeps();
        for (id, fresh) in rings.iter_mut().filter(|(id, _)| !kept.is_parked(**id)) {
            if let (Some(fresh), Some(tally)) = (fresh.take(), tallies.get(id)) {
                self.rings.push(Some(match fresh {
                    Fresh::End(end) => OutRing::new(*id, end, self.sequence, Arc::clone(tally)),
                    Fresh::Open(ring) => ring,
                }));
            }
        }
        for ring in self.rings.iter_mut().flatten() {
            ring.note_before(&released);
        }
        let routes = wanted.routes.iter().enumerate().map(|(number, (topic, targets))| {
            let is_there = |id| self.rings.iter().flatten().any(|ring| ring.id == id);
            let now = targets.iter().filter(|target| !wanted.waits(**target, targets, is_there));
            (TopicId::nth(number), now.filter_map(|target| self.resolve(topic, *target)).collect())
        });
        self.table = RoutingTable::build(generation, routes);
        drop(wanted);
        retire(&self.events, dropped);
    }

    /// Now and then looks whether subscribers are still there. One that sleeps shows it by its doorbell when it is woken; one
    /// that was busy when it went does not.
    fn drop_deserted(&mut self, now: u64) {
        if now - self.checked < DESERTED_CHECK.as_nanos() as u64 {
            return;
        }
        self.checked = now;
        for ring in &mut self.rings {
            retire(&self.events, ring.take_if(|ring| ring.is_deserted() || ring.is_done()));
        }
    }

    fn resolve(&self, topic: &Topic, target: RouteTarget) -> Option<Target> {
        match target {
            RouteTarget::Local | RouteTarget::FormerLocal => {
                let urgent = hierarchy::is_urgent(topic);
                Some(Target::Local { topic: topic.clone(), queues: self.hub.targets(topic), urgent })
            }
            RouteTarget::Slot { ring, slot, generation } => {
                let is_it = |other: &Option<OutRing>| other.as_ref().is_some_and(|other| other.id == ring);
                let index = self.rings.iter().position(is_it)?;
                let record_bytes_max = self.rings[index].as_ref().map_or(0, OutRing::record_bytes_max);
                let urgent = hierarchy::is_urgent(topic);
                let address = Address { slot, generation, urgent };
                Some(Target::Ring { index, address, record_bytes_max })
            }
        }
    }
}

impl Drop for Outbox {
    /// Tells each subscriber that this was all.
    fn drop(&mut self) {
        self.take_back_staged();
        self.rings.iter_mut().flatten().for_each(OutRing::close);
    }
}

/// Lets go of a ring, and says so if its subscriber broke it.
fn part(events: &DataEvents, place: &mut Option<OutRing>, over: Over) {
    let ring = place.take();
    if let (Over::Broken(violation), Some(ring)) = (over, &ring) {
        // Without a control thread there is nobody to tell.
        let _ = events.send(DataEvent::Poisoned { ring: ring.id, violation: violation.to_string() });
    }
    retire(events, ring);
}

/// Has rings unmapped by the control thread.
fn retire(events: &DataEvents, rings: impl IntoIterator<Item = OutRing>) {
    let producers: Vec<Producer> = rings.into_iter().filter_map(OutRing::into_producer).collect();
    if !producers.is_empty() {
        // Without a control thread they are unmapped here.
        let _ = events.send(DataEvent::Retired(producers));
    }
}
