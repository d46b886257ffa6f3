//! What is published while there is no broker: kept, within bounds, for who comes when there is one again.
//!
//! The publisher's thread adds it, with who hears it now: they are not told twice. When the broker is back, rings that it has made are held back ([`Kept::park`]) until
//! all topics lead somewhere again, and the subscribers are said to take what comes. Then the control thread, since the publisher may be silent by now, pours all that was kept into
//! them, and lets the publisher have them: what was kept is before all else in a ring. What comes meanwhile is kept behind it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::ring::{Address, OutRing, Over, Sealed};
use super::tally::TopicTally;
use super::wanted::{Fresh, Wanted, WantedRing};
use super::{OutboxShared, RouteTarget};
use crate::batch::BatchWriter;
use crate::config::{HOST_RETRY, KEPT_POUR_BYTES, KEPT_STUCK_LONGEST, SETTLED_LONGEST};
use crate::hidden::Hidden;
use crate::hierarchy;
use crate::routing::TopicId;
use crate::topic::Topic;
use crate::wire::RingId;

/// What one record takes beside its bytes.
const RECORD_COST: u64 = 64;

/// How much all publishers of a session may keep, in bytes.
#[derive(Debug)]
pub(crate) struct KeptShare {
    limit: u64,
    used: AtomicU64,
}

impl KeptShare {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// How far it may be filled. What somebody hears leaves half of it to what nobody does.
    const fn limit_for(&self, is_heard: bool) -> u64 {
        if is_heard { self.limit / 2 } else { self.limit }
    }

    fn has(&self, cost: u64, is_heard: bool) -> bool {
        cost <= self.limit_for(is_heard).saturating_sub(self.used.load(Ordering::Relaxed))
    }

    fn take(&self, cost: u64, is_heard: bool) -> bool {
        let limit = self.limit_for(is_heard);
        let taken = |used: u64| used.checked_add(cost).filter(|used| *used <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn give_back(&self, cost: u64) {
        self.used.fetch_sub(cost, Ordering::Relaxed);
    }
}

/// Who reads a ring: a component, and the number of its client, which stays the same from broker to broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reader {
    pub(crate) component: String,
    pub(crate) client: u64,
}

/// Who was there for a record.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Heard {
    /// The rings that it went over. They may be gone by now.
    pub(super) rings: Vec<RingId>,
    /// Subscriptions of the publisher's own process.
    pub(super) locally: bool,
}

impl Heard {
    const fn by_nobody(&self) -> bool {
        self.rings.is_empty() && !self.locally
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Off,
    /// There is no broker.
    Away,
    /// There is one, and maybe nobody yet who wants what was kept; so long it is kept for them.
    Back { until: Instant },
}

/// One publisher's.
#[derive(Debug)]
pub(super) struct Kept {
    share: Arc<KeptShare>,
    phase: Phase,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Events that came when the share was full, by topic and who was there for them. Nothing of a topic is kept behind them.
    overflow: BTreeMap<(usize, Heard), u64>,
    /// Of these, those that nobody heard.
    lost: u64,
    /// The publisher's number of the event behind the last that came.
    last: u64,
    /// Rings that are held back, and how they are; and since when nothing has changed about them.
    parked: BTreeMap<RingId, Parked>,
    changed: Option<Instant>,
    poured: u64,
    /// Of all rings that are there, or were when something was kept.
    readers: BTreeMap<RingId, Reader>,
}

/// A ring that is held back.
#[derive(Debug, Clone, Copy, Default)]
struct Parked {
    /// Its subscriber takes what comes.
    settled: bool,
    /// Since when it has no room.
    stuck: Option<Instant>,
}

/// One record, or a loss in its place.
#[derive(Debug)]
struct Entry {
    topic: usize,
    events: u32,
    /// The publisher's number of the event behind it.
    sequence: u64,
    record: Option<Hidden<Box<[u8]>>>,
    heard: Heard,
}

impl Entry {
    fn cost(&self) -> u64 {
        let bytes = self.record.as_ref().map_or(0, |record| record.len());
        RECORD_COST + (bytes + size_of_val(&*self.heard.rings)) as u64
    }

    /// Its events, if nobody has heard them.
    fn unheard(&self) -> u64 {
        if self.heard.by_nobody() { u64::from(self.events) } else { 0 }
    }
}

/// What has become of what was kept.
#[derive(Debug, Default)]
pub(crate) struct Poured {
    /// When to go on; `None`: nothing is kept any more, or there is no broker.
    pub(crate) next: Option<Instant>,
    /// All that was kept went to somebody; so many events.
    pub(crate) events: u64,
    /// So many went to nobody, then or now, since nobody wants them, or there was no room to keep them.
    pub(crate) lost: u64,
    /// Rings whose subscriber broke them, and how.
    pub(crate) broken: Vec<(RingId, String)>,
}

impl Kept {
    pub(super) fn new(share: Arc<KeptShare>) -> Self {
        Self {
            share,
            phase: Phase::Off,
            entries: VecDeque::new(),
            bytes: 0,
            overflow: BTreeMap::new(),
            lost: 0,
            last: 0,
            parked: BTreeMap::new(),
            changed: None,
            poured: 0,
            readers: BTreeMap::new(),
        }
    }

    pub(super) fn keeps(&self) -> bool {
        self.phase != Phase::Off
    }

    /// Says who reads a ring that joins these.
    pub(super) fn add_reader(&mut self, ring: RingId, reader: Reader, rings: &BTreeMap<RingId, WantedRing>) {
        if !self.keeps() {
            self.readers.retain(|ring, _| rings.contains_key(ring));
        }
        self.readers.insert(ring, reader);
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.overflow.is_empty()
    }

    /// Holds a new ring back, if something may be kept for it.
    pub(super) fn park(&mut self, ring: RingId) {
        if matches!(self.phase, Phase::Back { .. }) {
            self.parked.insert(ring, Parked::default());
            self.changed = Some(Instant::now());
        }
    }

    pub(super) fn unpark(&mut self, ring: RingId) {
        self.parked.remove(&ring);
    }

    pub(super) fn is_parked(&self, ring: RingId) -> bool {
        self.parked.contains_key(&ring)
    }

    /// A ring that is held back is there for a topic.
    pub(super) fn routed(&mut self, ring: RingId, is_control: bool) {
        if !self.is_parked(ring) {
            return;
        }
        self.changed = Some(Instant::now());
        if is_control {
            // Nothing is kept for it.
            self.unpark(ring);
        } else if self.is_empty() {
            self.end();
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Off;
        self.parked.clear();
        self.overflow.clear();
        self.entries = VecDeque::new();
        self.share.give_back(std::mem::take(&mut self.bytes));
        (self.changed, self.poured, self.lost) = (None, 0, 0);
    }

    fn add(&mut self, entry: Entry) -> bool {
        let cost = entry.cost();
        self.last = entry.sequence;
        let is_behind_others = self.overflows(entry.topic);
        if !is_behind_others && self.share.take(cost, !entry.heard.by_nobody()) {
            self.bytes += cost;
            self.entries.push_back(entry);
            return true;
        }
        self.lost += entry.unheard();
        *self.overflow.entry((entry.topic, entry.heard)).or_default() += u64::from(entry.events);
        false
    }

    fn overflows(&self, topic: usize) -> bool {
        self.overflow.keys().any(|(other, _)| *other == topic)
    }

    fn take_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.cost();
            self.share.give_back(entry.cost());
        }
    }
}

/// Notes that nobody has come for events of a topic.
fn expire(topics: &[Arc<TopicTally>], topic: usize, events: u64) {
    if let Some(tally) = topics.get(topic) {
        tally.expired.fetch_add(events, Ordering::Relaxed);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was made of a record that nobody may have heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    Kept,
    /// There is no room for it.
    Full,
    /// Nothing is kept: of this topic, or any more. Then rings that were held back are there.
    Off,
}

/// For the publisher's thread.
impl OutboxShared {
    /// Keeps a record, the event behind which is number `sequence`.
    pub(super) fn keep(&self, topic: TopicId, record: &BatchWriter, heard: Heard, sequence: u64) -> Keeping {
        self.keep_entry(topic, |topic| Entry {
            topic,
            events: u32::try_from(record.len()).expect("a record has at most 512 events"),
            sequence,
            record: Some(Hidden(record.parts().concat().into())),
            heard,
        })
    }

    /// The same for events that no record brings.
    pub(super) fn keep_loss(&self, topic: TopicId, events: u32, heard: Heard, sequence: u64) -> Keeping {
        self.keep_entry(topic, |topic| Entry { topic, events, sequence, record: None, heard })
    }

    fn keep_entry(&self, topic: TopicId, entry: impl FnOnce(usize) -> Entry) -> Keeping {
        let Wanted { kept, routes, .. } = &mut *self.wanted.lock();
        let place = topic.number();
        let is_kept = routes.get(place).is_some_and(|(topic, _)| !topic.is_control());
        if kept.phase == Phase::Off || !is_kept {
            Keeping::Off
        } else if kept.add(entry(place)) {
            Keeping::Kept
        } else {
            Keeping::Full
        }
    }

    /// The publisher's number of the first event that is kept for who is about to hear it, or since nobody has.
    pub(super) fn first_awaited(&self) -> Option<u64> {
        let Kept { entries, parked, .. } = &self.wanted.lock().kept;
        let mut awaited = entries.iter().filter(|entry| !parked.is_empty() || entry.heard.by_nobody());
        awaited.next().map(|entry| entry.sequence - u64::from(entry.events))
    }

    /// Whether somebody waits for a record of so many bytes, and it would be kept if there were room.
    pub(super) fn lacks_room(&self, topic: TopicId, bytes: usize, is_heard: bool) -> bool {
        let Wanted { kept, routes, .. } = &*self.wanted.lock();
        let is_kept = routes.get(topic.number()).is_some_and(|(topic, _)| !topic.is_control());
        let cost = RECORD_COST + bytes as u64;
        let is_awaited = !is_heard || !kept.parked.is_empty();
        let may_be = is_kept && is_awaited && kept.keeps() && cost <= kept.share.limit_for(is_heard);
        may_be && (kept.overflows(topic.number()) || !kept.share.has(cost, is_heard))
    }
}

/// For the control thread.
impl OutboxShared {
    /// There is a broker again. For so long it is kept for those who come with it.
    pub(crate) fn broker_found(&self, until: Instant) {
        let kept = &mut self.wanted.lock().kept;
        if kept.phase == Phase::Away {
            kept.phase = Phase::Back { until };
        }
    }

    /// The subscriber of a ring takes what comes.
    pub(crate) fn settled(&self, ring: RingId) {
        if let Some(parked) = self.wanted.lock().kept.parked.get_mut(&ring) {
            parked.settled = true;
        }
    }

    /// Pours what was kept into the rings that are held back, if it is time: `is_whole` says that the broker has heard of all topics again.
    pub(crate) fn pour(&self, now: Instant, is_whole: bool) -> Poured {
        let mut poured = Poured::default();
        loop {
            // The publisher gets the lock in between: a part is a fraction of a millisecond.
            let wanted = &mut *self.wanted.lock();
            if wanted.pour_part(now, is_whole, &mut poured) {
                if poured.next.is_none() {
                    self.generation.fetch_add(1, Ordering::Release);
                }
                return poured;
            }
        }
    }
}

impl Wanted {
    /// The broker is gone: what comes is kept from now on. Rings of the one before that are held back get what there is.
    pub(super) fn keep_on(&mut self) {
        if !self.kept.parked.is_empty() {
            // At once, and without waiting for room: of those who hold the other ends no broker will say how they are.
            let now = Instant::now();
            self.kept.phase = Phase::Back { until: now };
            self.kept.parked.values_mut().for_each(|parked| parked.stuck = Some(now));
            while !self.pour_part(now + KEPT_STUCK_LONGEST, true, &mut Poured::default()) {}
        }
        if self.kept.share.limit > 0 {
            self.kept.phase = Phase::Away;
        }
    }

    /// Nothing is kept any more.
    pub(super) fn keep_no_more(&mut self) {
        self.kept.end();
    }

    /// When it is time to pour; `None`: nothing is kept for anybody who may come now.
    fn pours_at(&self, now: Instant, is_whole: bool) -> Option<Instant> {
        let Kept { phase, parked, changed, .. } = &self.kept;
        let Phase::Back { until } = *phase else { return None };
        if parked.is_empty() {
            return Some(until);
        }
        let leads = |ring: &RingId, target: &RouteTarget| matches!(target, RouteTarget::Slot { ring: other, .. } if other == ring);
        let is_ready = |(ring, parked): (&RingId, &Parked)| {
            parked.settled
                && self.routes.iter().any(|(_, targets)| targets.iter().any(|target| leads(ring, target)))
        };
        let at = match changed {
            Some(_) if is_whole && parked.iter().all(is_ready) => now,
            Some(changed) if is_whole => *changed + SETTLED_LONGEST,
            _ => now + SETTLED_LONGEST,
        };
        Some(at.min(until))
    }

    /// Pours a part. `true`: that is all for now.
    fn pour_part(&mut self, now: Instant, is_whole: bool, poured: &mut Poured) -> bool {
        match self.pours_at(now, is_whole) {
            None => return true,
            Some(at) if now < at => {
                poured.next = Some(at);
                return true;
            }
            Some(_) => {}
        }
        if self.kept.parked.is_empty() {
            return self.end_pouring(poured);
        }
        self.open_parked();
        let mut bytes = 0;
        while let Some(entry) = self.kept.entries.front() {
            let (cost, events, unheard) = (entry.cost(), u64::from(entry.events), entry.unheard());
            let mut over = Vec::new();
            let ways = ways(entry.topic, &entry.heard, &self.routes, &self.kept).collect();
            let into = pour_entry(entry, ways, &mut self.kept.parked, &mut self.rings, now, &mut over);
            match into {
                Into::Nobody => {
                    poured.lost += unheard;
                    expire(&self.topics, entry.topic, unheard);
                }
                Into::Rings => self.kept.poured += events,
                Into::NoRoom => self.flush_parked(&mut over),
            }
            self.part_with(over, poured);
            if matches!(into, Into::NoRoom) || self.kept.parked.is_empty() {
                poured.next = Some(now + HOST_RETRY);
                return true;
            }
            self.kept.take_first();
            bytes += cost;
            if bytes >= KEPT_POUR_BYTES {
                return false;
            }
        }
        self.end_pouring(poured)
    }

    /// All was poured: tells of what was not kept, and lets the publisher have the rings.
    fn end_pouring(&mut self, poured: &mut Poured) -> bool {
        let mut over = Vec::new();
        for ((topic, heard), events) in std::mem::take(&mut self.kept.overflow) {
            for (ring, address) in ways(topic, &heard, &self.routes, &self.kept) {
                let Some(Some(Fresh::Open(open))) = self.rings.get_mut(&ring) else { continue };
                let mut rest = events;
                while rest > 0 {
                    let some = u32::try_from(rest).unwrap_or(u32::MAX);
                    rest -= u64::from(some);
                    if let Err(error) = open.lose(address, some, self.kept.last) {
                        over.push((ring, error));
                        break;
                    }
                }
            }
        }
        self.flush_parked(&mut over);
        self.part_with(over, poured);
        for entry in &self.kept.entries {
            expire(&self.topics, entry.topic, entry.unheard());
        }
        poured.lost += self.kept.lost + self.kept.entries.iter().map(Entry::unheard).sum::<u64>();
        poured.events = self.kept.poured;
        poured.next = None;
        self.kept.end();
        true
    }

    /// Rings that are held back are written here, and not by the publisher.
    fn open_parked(&mut self) {
        let first = self.kept.entries.front().map_or(0, |entry| entry.sequence - u64::from(entry.events));
        for id in self.kept.parked.keys() {
            let (Some(fresh), Some(tally)) = (self.rings.get_mut(id), self.tallies.get(id)) else { continue };
            *fresh = fresh.take().map(|fresh| match fresh {
                Fresh::End(end) => Fresh::Open(OutRing::new(*id, end, first, Arc::clone(tally))),
                open @ Fresh::Open(_) => open,
            });
        }
    }

    fn flush_parked(&mut self, over: &mut Vec<(RingId, Over)>) {
        for id in self.kept.parked.keys() {
            if let Some(Some(Fresh::Open(ring))) = self.rings.get_mut(id)
                && let Err(error) = ring.flush()
            {
                over.push((*id, error));
            }
        }
    }

    /// Lets go of rings whose subscriber is gone, or broke them.
    fn part_with(&mut self, over: Vec<(RingId, Over)>, poured: &mut Poured) {
        for (ring, over) in over {
            self.kept.unpark(ring);
            drop(self.forget_ring(ring));
            if let Over::Broken(violation) = over {
                poured.broken.push((ring, violation.to_string()));
            }
        }
    }
}

/// What became of an entry.
#[derive(Debug, Clone, Copy)]
enum Into {
    Rings,
    /// No ring is there for it.
    Nobody,
    NoRoom,
}

/// By ring, where events of a topic go that is kept: to those who have not heard them.
fn ways<'a>(
    topic: usize,
    heard: &'a Heard,
    routes: &'a [(Topic, Vec<RouteTarget>)],
    Kept { parked, readers, .. }: &'a Kept,
) -> impl Iterator<Item = (RingId, Address)> + use<'a> {
    let has_heard = move |ring: RingId| {
        let reader = readers.get(&ring);
        reader.is_some() && heard.rings.iter().any(|other| readers.get(other) == reader)
    };
    routes.get(topic).into_iter().flat_map(move |(topic, targets)| {
        let urgent = hierarchy::is_urgent(topic);
        targets.iter().filter_map(move |target| match *target {
            RouteTarget::Slot { ring, slot, generation }
                if parked.contains_key(&ring) && !has_heard(ring) =>
            {
                Some((ring, Address { slot, generation, urgent }))
            }
            _ => None,
        })
    })
}

/// Puts an entry into all these rings; into none, if one has no room. Who has none for too long is not waited for any more.
fn pour_entry(
    entry: &Entry,
    ways: Vec<(RingId, Address)>,
    parked: &mut BTreeMap<RingId, Parked>,
    rings: &mut BTreeMap<RingId, WantedRing>,
    now: Instant,
    over: &mut Vec<(RingId, Over)>,
) -> Into {
    if let Some(record) = &entry.record {
        for (id, address) in &ways {
            let (Some(Some(Fresh::Open(ring))), Some(parked)) = (rings.get_mut(id), parked.get_mut(id))
            else {
                continue;
            };
            let given_up = parked.stuck.is_some_and(|since| now >= since + KEPT_STUCK_LONGEST);
            // What is too large for a ring need not wait for it.
            if given_up || record.len() > ring.record_bytes_max() as usize {
                continue;
            }
            if !ring.has_room(record.len(), address.urgent) {
                parked.stuck.get_or_insert(now);
                return Into::NoRoom;
            }
            parked.stuck = None;
        }
    }
    let mut into = Into::Nobody;
    for (id, address) in ways {
        let Some(Some(Fresh::Open(ring))) = rings.get_mut(&id) else { continue };
        let pushed = match &entry.record {
            Some(record) => {
                ring.push(address, &Sealed::of_bytes(record, entry.events), entry.sequence).map(|_| ())
            }
            None => ring.lose(address, entry.events, entry.sequence),
        };
        match pushed {
            Ok(()) => into = Into::Rings,
            Err(error) => over.push((id, error)),
        }
    }
    into
}

#[cfg(test)]
mod tests;
