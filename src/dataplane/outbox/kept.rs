//! What is published while there is no broker, and nobody else to hear it: kept, within bounds, for who comes when there is one again.
//!
//! The publisher's thread adds what finds no subscriber. When the broker is back, rings that it has made are held back ([`Kept::park`]) until
//! all topics lead somewhere again, and the subscribers are said to take what comes. Then the control thread, since the publisher may be silent by now, pours all that was kept into
//! them, and lets the publisher have them: what was kept is before all else in a ring. What comes meanwhile is kept behind it, whoever
//! else may hear it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::ring::{Address, OutRing, Over, Sealed};
use super::wanted::{Fresh, Wanted, WantedRing};
use super::{OutboxShared, RouteTarget};
use crate::batch::BatchWriter;
use crate::config::{HOST_RETRY, KEPT_POUR_BYTES, KEPT_STUCK_LONGEST, SETTLED_LONGEST};
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

    fn has(&self, cost: u64) -> bool {
        cost <= self.limit.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    fn take(&self, cost: u64) -> bool {
        let taken = |used: u64| used.checked_add(cost).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn give_back(&self, cost: u64) {
        self.used.fetch_sub(cost, Ordering::Relaxed);
    }
}

/// Which records are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Keeps {
    #[default]
    Nothing,
    /// Those that nobody hears.
    Unheard,
    /// All: for rings that are held back, whoever else hears them.
    All,
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
    /// Events that came when the share was full, by topic. Nothing is kept behind them.
    overflow: BTreeMap<usize, u64>,
    /// The publisher's number of the event behind the last that came.
    last: u64,
    /// Rings that are held back, and how they are; and since when nothing has changed about them.
    parked: BTreeMap<RingId, Parked>,
    changed: Option<Instant>,
    poured: u64,
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
    record: Option<Box<[u8]>>,
}

impl Entry {
    fn cost(&self) -> u64 {
        RECORD_COST + self.record.as_ref().map_or(0, |record| record.len() as u64)
    }
}

/// What has become of what was kept.
#[derive(Debug, Default)]
pub(crate) struct Poured {
    /// When to go on; `None`: nothing is kept any more, or there is no broker.
    pub(crate) next: Option<Instant>,
    /// All that was kept went to somebody; so many events.
    pub(crate) events: u64,
    /// So many went to nobody, since nobody wants them, or there was no room to keep them.
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
            last: 0,
            parked: BTreeMap::new(),
            changed: None,
            poured: 0,
        }
    }

    pub(super) fn keeps(&self) -> Keeps {
        match self.phase {
            Phase::Off => Keeps::Nothing,
            _ if self.parked.is_empty() => Keeps::Unheard,
            _ => Keeps::All,
        }
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
        (self.changed, self.poured) = (None, 0);
    }

    fn add(&mut self, entry: Entry) -> bool {
        let cost = entry.cost();
        self.last = entry.sequence;
        if self.overflow.is_empty() && self.share.take(cost) {
            self.bytes += cost;
            self.entries.push_back(entry);
            return true;
        }
        *self.overflow.entry(entry.topic).or_default() += u64::from(entry.events);
        false
    }

    fn take_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.cost();
            self.share.give_back(entry.cost());
        }
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
    pub(super) fn keep(&self, topic: TopicId, record: &BatchWriter, sequence: u64) -> Keeping {
        self.keep_entry(topic, |topic| Entry {
            topic,
            events: u32::try_from(record.len()).expect("a record has at most 512 events"),
            sequence,
            record: Some(record.parts().concat().into()),
        })
    }

    /// The same for events that no record brings.
    pub(super) fn keep_loss(&self, topic: TopicId, events: u32, sequence: u64) -> Keeping {
        self.keep_entry(topic, |topic| Entry { topic, events, sequence, record: None })
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

    /// The publisher's number of the first event that is kept.
    pub(super) fn first_kept(&self) -> Option<u64> {
        let wanted = self.wanted.lock();
        wanted.kept.entries.front().map(|entry| entry.sequence - u64::from(entry.events))
    }

    /// Whether a record of so many bytes would be kept if there were room.
    pub(super) fn lacks_room(&self, topic: TopicId, bytes: usize) -> bool {
        let Wanted { kept, routes, .. } = &*self.wanted.lock();
        let is_kept = routes.get(topic.number()).is_some_and(|(topic, _)| !topic.is_control());
        let cost = RECORD_COST + bytes as u64;
        let may_be = is_kept && kept.phase != Phase::Off && cost <= kept.share.limit;
        may_be && !(kept.overflow.is_empty() && kept.share.has(cost))
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
    /// The broker is gone: what nobody hears is kept from now on. Rings of the one before that are held back get what there is.
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
            let (cost, events) = (entry.cost(), u64::from(entry.events));
            let mut over = Vec::new();
            let into =
                pour_entry(entry, &self.routes, &mut self.kept.parked, &mut self.rings, now, &mut over);
            match into {
                Into::Nobody => poured.lost += events,
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
        for (topic, events) in std::mem::take(&mut self.kept.overflow) {
            poured.lost += events;
            for (ring, address) in addresses(topic, &self.routes, &self.kept.parked) {
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
        poured.lost += self.kept.entries.iter().map(|entry| u64::from(entry.events)).sum::<u64>();
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

/// By ring, where events of a topic go that is kept.
fn addresses<'a>(
    topic: usize,
    routes: &'a [(Topic, Vec<RouteTarget>)],
    parked: &'a BTreeMap<RingId, Parked>,
) -> impl Iterator<Item = (RingId, Address)> + use<'a> {
    routes.get(topic).into_iter().flat_map(move |(topic, targets)| {
        let urgent = hierarchy::is_urgent(topic);
        targets.iter().filter_map(move |target| match *target {
            RouteTarget::Slot { ring, slot, generation } if parked.contains_key(&ring) => {
                Some((ring, Address { slot, generation, urgent }))
            }
            _ => None,
        })
    })
}

/// Puts an entry into all rings of its topic; into none, if one has no room. Who has none for too long is not waited for any more.
fn pour_entry(
    entry: &Entry,
    routes: &[(Topic, Vec<RouteTarget>)],
    parked: &mut BTreeMap<RingId, Parked>,
    rings: &mut BTreeMap<RingId, WantedRing>,
    now: Instant,
    over: &mut Vec<(RingId, Over)>,
) -> Into {
    let ways: Vec<_> = addresses(entry.topic, routes, parked).collect();
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
            Some(record) => ring.push(address, &Sealed::of_bytes(record, entry.events), entry.sequence),
            None => ring.lose(address, entry.events, entry.sequence).map(|()| false),
        };
        match pushed {
            Ok(_) => into = Into::Rings,
            Err(error) => over.push((id, error)),
        }
    }
    into
}

#[cfg(test)]
mod tests;
