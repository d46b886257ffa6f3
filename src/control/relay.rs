//! Rings that lead over the broker: for control topics, and for whoever can't have shared memory.
//!
//! ```text
//!   publisher ── Relay: records ──► broker ── Relayed: records ──► subscriber
//!             ◄── Took: so much ──         ◄── Took: so much ──
//! ```
//!
//! Slots, grants, sequences, and what is lost are those of any ring. In place of shared memory there is a *window*: a publisher has no more on
//! its way than the ring's size, and the subscriber says how much it has read. So nobody waits for anybody here, either: a publisher
//! whose window is full loses what is new, and its subscriber is told.
//!
//! What waits here to be written is charged to the user who is to read it. Above its share what is new is *withheld*: its place is
//! taken by losses, which are sent ahead of what comes next, or when all else was read. A subscriber that says it has read what it has
//! not gains nothing: a charge ends only when the bytes have left, and losses, too, wait for that above its share.
//!
//! A record is charged in full once its head is there, so a publisher that begins one has to go on with it: the next frame of it has a
//! deadline, and who does not meet it is sent away.

use std::collections::BTreeMap;
use std::time::Instant;

use super::quota::{Account, Charges};
use super::routes::{Ring, RouteKey, Slot, Stage};
use super::sessions::Session;
use super::{Action, Machine, SessionId};
use crate::config::{RELAYED_BYTES_MAX, SLOTS_MAX};
use crate::hidden::Hidden;
use crate::topic::Topic;
use crate::wire::relayed::{Head, Piece, RECORD_COST, Row};
use crate::wire::{Notice, PublisherId, RelayedRecords, Resource, RingId, RingPath};

/// What shares a ring from one publisher to one session. Order holds within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Through shared memory, where both have it.
    Events,
    /// Over the broker, if both sides' versions have that.
    Control,
}

impl Lane {
    pub(super) const FIRST: Self = Self::Events;
    pub(super) const LAST: Self = Self::Control;
}

/// What is on its way over the broker on one ring.
#[derive(Debug, Default)]
pub(super) struct Relay {
    /// What has come, in all, of the window; what of it was sent on, or told as lost; and what of that was read.
    sent: u64,
    passed: u64,
    took: u64,
    incoming: Row,
    outgoing: Row,
    /// The record that is coming is not sent on.
    withholds: bool,
    /// Events whose records were not sent on, ever.
    pub(super) withheld_events: u64,
    /// When the next part of it is due at the latest.
    due: Option<Instant>,
    /// Events attempted on each slot, under its last grant, by the end of what was withheld and is not told as lost yet.
    withheld: BTreeMap<u16, (u16, u64)>,
}

/// What is to wait here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    Records,
    /// Losses that nothing else comes behind.
    Losses,
}

/// Losses of one ring: so much may wait for a session whatever else does, so that they are told in the end.
const LOSSES_MAX: u64 = SLOTS_MAX as u64 * RECORD_COST;

/// What becomes of a frame of records.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// To be sent on.
    pub(super) bytes: Hidden<Vec<u8>>,
    /// What it is charged with.
    charge: u64,
}

impl Relay {
    /// Takes records as they come. `may` says whether so much more may wait here.
    ///
    /// # Errors
    /// What is against the protocol in them. Nothing is taken then: what is charged, and what is owed as losses, is as it was.
    pub(super) fn take(
        &mut self,
        slots: &[Slot],
        window: u64,
        records: &[u8],
        may: impl Fn(Load, u64) -> bool,
    ) -> Result<Passed, &'static str> {
        self.judge(slots, window, records)?;
        let (mut passed, mut rest) = (Passed::default(), records);
        while let Ok(Some(piece)) = self.incoming.next(&mut rest) {
            match piece {
                Piece::Head(head) => self.take_head(head, &mut passed, &may),
                Piece::Payload(_) if self.withholds => {}
                Piece::Payload(payload) => passed.bytes.extend_from_slice(payload),
            }
        }
        self.tell_at_rest(&mut passed, may);
        Ok(passed)
    }

    /// Whether these records may come.
    fn judge(&self, slots: &[Slot], window: u64, records: &[u8]) -> Result<(), &'static str> {
        let (mut row, mut sent, mut rest) = (self.incoming, self.sent, records);
        while let Some(piece) = row.next(&mut rest).map_err(|_| "a record whose head is cut")? {
            if let Piece::Head(head) = piece {
                check(&head, slots, window)?;
                sent = sent.saturating_add(head.cost());
                if sent - self.took > window {
                    return Err("more records than the window of their ring holds");
                }
            }
        }
        if !row.is_whole() && records.len() < RELAYED_BYTES_MAX {
            // Each frame costs memory of its own, which the bytes in it must be worth.
            return Err("a frame that ends within a record, and is not full");
        }
        Ok(())
    }

    fn take_head(&mut self, head: Head, passed: &mut Passed, may: &impl Fn(Load, u64) -> bool) {
        self.sent += head.cost();
        let charge = passed.charge + self.withheld.len() as u64 * RECORD_COST + head.cost();
        self.withholds = head.is_loss() || !may(Load::Records, charge);
        if self.withholds {
            self.withheld_events += if head.is_loss() { 0 } else { u64::from(head.events) };
            // What was lost under an earlier grant concerns nobody any more.
            let known = self.withheld.entry(head.slot).or_default();
            *known = (head.generation, head.end().unwrap_or(u64::MAX)).max(*known);
            return;
        }
        self.tell_withheld(self.sent - head.cost(), passed);
        passed.bytes.extend_from_slice(&head.to_bytes());
        passed.charge += head.cost();
        self.passed = self.sent;
    }

    /// The subscriber has read so much. What is to be told it now that it has nothing more to read.
    pub(super) fn release(
        &mut self,
        took: u64,
        may: impl Fn(Load, u64) -> bool,
    ) -> Result<Passed, &'static str> {
        if !(self.took..=self.passed).contains(&took) {
            return Err("more was read than was relayed, or less than before");
        }
        self.took = took;
        Ok(self.rest(may))
    }

    /// What is to be told where nothing comes behind which losses could be noticed.
    fn rest(&mut self, may: impl Fn(Load, u64) -> bool) -> Passed {
        let mut passed = Passed::default();
        self.tell_at_rest(&mut passed, may);
        passed
    }

    fn tell_at_rest(&mut self, passed: &mut Passed, may: impl Fn(Load, u64) -> bool) {
        let charge = self.withheld.len() as u64 * RECORD_COST;
        if passed.bytes.is_empty() && self.owes_losses() && may(Load::Losses, charge) {
            self.tell_withheld(self.sent, passed);
        }
    }

    /// Whether there are losses to be told, and nothing else is.
    fn owes_losses(&self) -> bool {
        self.took == self.passed && self.outgoing.is_whole() && !self.withheld.is_empty()
    }

    /// Puts losses in the place of what was withheld, which was everything from what was passed up to here.
    fn tell_withheld(&mut self, up_to: u64, passed: &mut Passed) {
        let withheld = std::mem::take(&mut self.withheld);
        for (others, (slot, (generation, sequence))) in (1..=withheld.len() as u64).rev().zip(withheld) {
            // The first stands for what the others don't: each of them was a record once, if not more.
            let bytes = up_to - self.passed - others * RECORD_COST;
            debug_assert!(u32::try_from(bytes).is_ok(), "it is within the window, which is a ring's size");
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let loss = Head { slot, generation, events: 0, sequence, bytes };
            passed.bytes.extend_from_slice(&loss.to_bytes());
            passed.charge += RECORD_COST;
            self.passed += loss.cost();
        }
    }

    /// What is sent on, in frames, with what each was charged with.
    pub(super) fn frames(&mut self, bytes: &[u8]) -> Vec<(RelayedRecords, u64)> {
        let (mut frames, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let before = self.outgoing;
            let (frame, behind) = rest.split_at(self.outgoing.cut(rest, RELAYED_BYTES_MAX));
            frames.push((RelayedRecords(frame.to_vec()), before.weight(frame)));
            rest = behind;
        }
        frames
    }

    /// When the next part of the record that is coming is due; `None` where none is.
    #[cfg(any(test, fuzzing))]
    pub(super) fn due(&self) -> Option<Instant> {
        assert_eq!(self.due.is_some(), !self.incoming.is_whole(), "what is begun is due");
        self.due
    }

    /// What it is charged with for the part of a record that has not come.
    fn awaited(&self) -> u64 {
        if self.withholds { 0 } else { self.incoming.left().into() }
    }
}

/// Whether a record may come on this ring.
fn check(head: &Head, slots: &[Slot], window: u64) -> Result<(), &'static str> {
    let granted = slots.get(usize::from(head.slot)).is_some_and(|slot| head.generation <= slot.generation);
    if !granted {
        return Err("a record of a slot that was never granted");
    }
    if !head.is_loss() && u64::from(head.bytes) > record_bytes_max(window) {
        return Err("a record larger than its ring takes");
    }
    head.end().map(drop).ok_or("more events than can be counted")
}

/// The largest record of a ring with this window: as in shared memory.
fn record_bytes_max(window: u64) -> u64 {
    let window = usize::try_from(window).unwrap_or(usize::MAX);
    shm::layout::payload_bytes_max(window) as u64
}

impl<F> Machine<F> {
    pub(super) fn lane(&self, publisher: SessionId, subscriber: SessionId, topic: &Topic) -> Lane {
        let is_control = topic.is_control();
        if is_control && self.can_relay(publisher, subscriber) { Lane::Control } else { Lane::Events }
    }

    /// Whether the versions of both have what it takes.
    pub(super) fn can_relay(&self, publisher: SessionId, subscriber: SessionId) -> bool {
        [publisher, subscriber].iter().all(|session| self.sessions[session].can_relay())
    }

    /// Whether a ring of this lane needs no shared memory.
    pub(super) fn is_relayed(&self, lane: Lane, publisher: SessionId, subscriber: SessionId) -> bool {
        lane == Lane::Control || (self.settings.relays_all && self.can_relay(publisher, subscriber))
    }

    /// Has a ring lead over the broker.
    pub(super) fn start_relay(
        &mut self,
        publisher: PublisherId,
        subscriber: SessionId,
        lane: Lane,
        path: RingPath,
    ) {
        let id = RingId(self.fresh());
        let account = self.account(subscriber);
        self.pairs.insert((publisher, subscriber, lane), id);
        self.inbound.insert((subscriber, publisher, lane));
        let window = self.settings.ring_bytes;
        let (slots, relay, stage) = (Vec::new(), Some(Relay::default()), Stage::Ready);
        let ring = Ring { id, publisher, subscriber, lane, bytes: 0, account, stage, slots, path, relay };
        self.rings.insert(id, ring);
        let (session, number) = (self.publishers[&publisher].session, self.publishers[&publisher].number);
        let (component, client) = self.name_and_client(session);
        let (heard_by, hearing) = self.name_and_client(subscriber);
        let to =
            Notice::RelayTo { ring: id, publisher: number, window, subscriber: heard_by, client: hearing };
        self.send(session, to);
        let from = Notice::RelayFrom { ring: id, publisher, window, component, client, number };
        self.send(subscriber, from);
    }

    pub(super) fn name_and_client(&self, session: SessionId) -> (String, u64) {
        (self.component(session).to_string(), self.sessions[&session].life.client)
    }

    /// Sends records on.
    pub(super) fn relay(&mut self, session: SessionId, id: RingId, records: &RelayedRecords) {
        let Some((producer, _)) = self.ends_of(id) else { return };
        if session != producer {
            return self.fault(session, "records for a ring of others");
        }
        let window = self.settings.ring_bytes;
        let ring = self.rings.get_mut(&id).expect("its ends were just found");
        let Some(relay) = &mut ring.relay else {
            return self.fault(session, "records for a ring in shared memory");
        };
        if matches!(ring.stage, Stage::Poisoned) {
            return;
        }
        let may = allowance(&self.charges, &self.sessions, ring.account);
        let taken = relay.take(&ring.slots, window, &records.0, may);
        match taken {
            Ok(passed) => {
                let is_whole = relay.incoming.is_whole();
                let due = (!is_whole).then(|| self.now + self.settings.record_deadline);
                let before = std::mem::replace(&mut relay.due, due);
                self.forget_due(id, before);
                self.begun.extend(due.map(|due| (due, id)));
                self.pass(id, &passed);
            }
            Err(what) => self.fault(session, what),
        }
    }

    /// A subscriber has read so much of what was relayed.
    pub(super) fn took(&mut self, session: SessionId, id: RingId, cost: u64) {
        let Some((producer, consumer)) = self.ends_of(id) else { return };
        if session != consumer {
            return self.fault(session, "a ring of others was read");
        }
        let ring = self.rings.get_mut(&id).expect("its ends were just found");
        let Some(relay) = &mut ring.relay else {
            return self.fault(session, "a ring in shared memory was read, and the broker told");
        };
        if matches!(ring.stage, Stage::Poisoned) {
            return;
        }
        let before = relay.took;
        let released = relay.release(cost, allowance(&self.charges, &self.sessions, ring.account));
        match released {
            Ok(passed) => {
                if cost > before {
                    self.send(producer, Notice::Took { ring: id, cost });
                }
                self.pass(id, &passed);
            }
            Err(what) => self.fault(session, what),
        }
    }

    /// Charges what is sent on, and sends it in as many frames as it takes.
    fn pass(&mut self, id: RingId, Passed { bytes, charge }: &Passed) {
        let ring = self.rings.get_mut(&id).expect("the caller found the ring");
        let (account, relay) = (ring.account, ring.relay.as_mut().expect("the caller found it relayed"));
        let frames = relay.frames(bytes);
        self.charges.charge(account, Resource::RelayedBytes, *charge);
        let (session, owes_losses) = (account.session, relay.owes_losses());
        let state = self.sessions.get_mut(&session).expect("a ring's subscriber is there");
        state.relayed += charge;
        state.owes_losses |= owes_losses;
        for (records, charge) in frames {
            self.send_relayed(session, Notice::Relayed { ring: id, records }, charge);
        }
    }

    fn send_relayed(&mut self, session: SessionId, notice: Notice, charge: u64) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.told(&notice);
            self.actions.push(Action::SendRelayed { session, notice, charge });
        }
    }

    /// Has all publishers say when what they have published over the broker has come.
    pub(super) fn finish(&mut self) {
        let relayed = self.rings.values().filter(|ring| ring.relay.is_some());
        self.finishing = relayed.map(|ring| self.publishers[&ring.publisher].session).collect();
        for session in self.finishing.clone() {
            self.send(session, Notice::Finish);
        }
    }

    pub(super) fn finished(&mut self, session: SessionId) {
        if !self.finishing.remove(&session) {
            self.fault(session, "an answer that nobody asked for");
        }
    }

    /// Whether nothing more is to be waited for.
    pub(crate) fn has_finished(&self) -> bool {
        self.finishing.is_empty()
    }

    /// Another subscription joins: what was withheld by now is told before the answer, so that it is not told to that one.
    pub(super) fn tell_losses_by_now(&mut self, key: RouteKey) {
        let Some(id) = self.ring_of(key).map(|ring| ring.id) else { return };
        let ring = self.rings.get_mut(&id).expect("it was just found");
        let Some(relay) = ring.relay.as_mut().filter(|relay| relay.outgoing.is_whole()) else { return };
        let charge = relay.withheld.len() as u64 * RECORD_COST;
        let may = allowance(&self.charges, &self.sessions, ring.account)(Load::Losses, charge);
        if relay.withheld.is_empty() || !may {
            return;
        }
        let mut passed = Passed::default();
        relay.tell_withheld(relay.sent, &mut passed);
        self.pass(id, &passed);
    }

    /// Tells the subscriber of a ring that is about to end of what was withheld from it.
    pub(super) fn tell_last_losses(&mut self, id: RingId) {
        let Some(ring) = self.rings.get_mut(&id) else { return };
        let is_there = self.sessions.contains_key(&ring.subscriber) && matches!(ring.stage, Stage::Ready);
        if let Some(relay) = ring.relay.as_mut().filter(|relay| is_there && relay.outgoing.is_whole()) {
            let mut passed = Passed::default();
            relay.tell_withheld(relay.sent, &mut passed);
            self.pass(id, &passed);
        }
    }

    /// What was to be written to a session has been. There may be room for losses by now.
    pub(super) fn written(&mut self, session: SessionId, charge: u64) {
        self.discharge(session, charge);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if !std::mem::take(&mut state.owes_losses) {
            return;
        }
        let heard = self.heard_by(session).map(|(publisher, lane)| self.pairs[&(publisher, session, lane)]);
        for id in heard.collect::<Vec<_>>() {
            let ring = self.rings.get_mut(&id).expect("it was just found");
            let may = allowance(&self.charges, &self.sessions, ring.account);
            if let (Some(relay), false) = (&mut ring.relay, matches!(ring.stage, Stage::Poisoned)) {
                let passed = relay.rest(may);
                self.pass(id, &passed);
            }
        }
    }

    fn discharge(&mut self, session: SessionId, charge: u64) {
        if let Some(state) = self.sessions.get_mut(&session) {
            let charge = charge.min(state.relayed);
            state.relayed -= charge;
            let account = state.account;
            self.charges.release(account, Resource::RelayedBytes, charge);
        }
    }

    /// A publisher that has begun a record and does not go on with it.
    pub(super) fn unended(&self) -> Option<SessionId> {
        let (_, ring) = self.begun.first().filter(|(due, _)| *due <= self.now)?;
        Some(self.publishers[&self.rings[ring].publisher].session)
    }

    fn forget_due(&mut self, id: RingId, due: Option<Instant>) {
        if let Some(due) = due {
            self.begun.remove(&(due, id));
        }
    }

    /// A ring has ended, and what has not come of its last record will not.
    pub(super) fn end_relay(&mut self, ring: &Ring<F>) {
        let awaited = ring.relay.as_ref().map_or(0, Relay::awaited);
        self.forget_due(ring.id, ring.relay.as_ref().and_then(|relay| relay.due));
        self.discharge(ring.account.session, awaited);
    }

    /// Nothing more is sent over a ring, which is there for as long as both its ends are.
    pub(super) fn stop_relay(&mut self, id: RingId) {
        let ring = self.rings.get_mut(&id).expect("the caller found the ring");
        let session = ring.account.session;
        let before = ring.relay.replace(Relay::default()).expect("the caller found it relayed");
        self.forget_due(id, before.due);
        self.discharge(session, before.awaited());
    }
}

/// Whether so much more may wait for a session.
fn allowance<'a>(
    charges: &'a Charges,
    sessions: &'a BTreeMap<SessionId, Session>,
    account: Account,
) -> impl Fn(Load, u64) -> bool + 'a {
    let waiting = sessions.get(&account.session).map_or(0, |state| state.relayed);
    move |load, bytes| {
        (load == Load::Losses && waiting + bytes <= LOSSES_MAX)
            || charges.afford(account, Resource::RelayedBytes, bytes).is_ok()
    }
}
