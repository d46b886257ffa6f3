//! A ring that leads over the broker, as its publisher writes it: records wait here for the control thread, which sends them.
//!
//! As in shared memory a record is pushed, seen by nobody, and then flushed; a savepoint takes back what was pushed. What is on its way
//! and was not read is bounded by the ring's window. A loss that no record shows is told once all else was read, by a count for each slot.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::config::{RELAYED_BYTES_MAX, SLOTS_MAX, URGENT_PART};
use crate::dataplane::{DataEvent, DataEvents};
use crate::hidden::Hidden;
use crate::wire::relayed::{Head, RECORD_COST, Row};
use crate::wire::{RelayedRecords, RingId};

/// What the publisher's thread and the control thread share.
#[derive(Debug)]
pub(crate) struct Relayed {
    ring: RingId,
    window: u64,
    events: DataEvents,
    state: Mutex<State>,
    /// Something was read, or nothing will be.
    read: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// Flushed, in parts, and of the first as much is sent.
    waiting: Hidden<VecDeque<Vec<u8>>>,
    sent: usize,
    row: Row,
    /// Events attempted by the end of losses that no record shows, by slot, with the grant.
    losses: BTreeMap<u16, (u16, u64)>,
    /// What was flushed, and what of that was read, of the window.
    flushed: u64,
    took: u64,
    /// The publisher has pushed what it has not flushed: nothing may come before it.
    pushing: bool,
    /// Losses were told while it was.
    marked: bool,
    /// The control thread knows that there is something to send.
    told: bool,
    /// The broker, or the subscriber, is gone.
    over: bool,
}

impl Relayed {
    pub(crate) fn new(ring: RingId, window: u64, events: DataEvents) -> Self {
        Self { ring, window, events, state: Mutex::default(), read: Arc::default() }
    }

    /// The next frame, if there is something to send. For the control thread, which asks until there is nothing.
    pub(crate) fn next_frame(&self) -> Option<RelayedRecords> {
        let state = &mut *self.state.lock();
        if state.waiting.is_empty() && state.may_put_losses() {
            state.put_losses();
        }
        let mut frame = Vec::new();
        while let Some(part) = state.waiting.front() {
            let rest = &part[state.sent..];
            let bytes = state.row.cut(rest, RELAYED_BYTES_MAX - frame.len());
            frame.extend_from_slice(&rest[..bytes]);
            if bytes < rest.len() {
                state.sent += bytes;
                break;
            }
            state.waiting.pop_front();
            state.sent = 0;
        }
        state.told = !frame.is_empty();
        state.told.then_some(RelayedRecords(frame))
    }

    /// The subscriber has read so much, in all.
    pub(crate) fn took(&self, cost: u64) {
        let mut state = self.state.lock();
        // A broker that says more than can be harms nobody by it but its own clients.
        state.took = cost.clamp(state.took, state.flushed);
        self.tell(state);
        self.read.notify_one();
    }

    /// Somebody joins who is to be told of what is lost from now on: what was lost by now is told before all that comes. Not where the
    /// window, of which nothing was read since this was last done, has no room for it.
    pub(crate) fn mark(&self) {
        let state = &mut *self.state.lock();
        let cost = state.losses.len() as u64 * RECORD_COST;
        // While the publisher pushes, it counts on what it has seen, with room for this once.
        let may = !(state.pushing && state.marked);
        if may && state.flushed - state.took + cost <= self.window {
            state.marked = state.pushing;
            state.put_losses();
        }
    }

    /// Nothing may come behind what is there: what no record shows is told now.
    pub(crate) fn finish(&self) {
        let state = &mut *self.state.lock();
        if !state.pushing {
            state.put_losses();
        }
    }

    /// What was read, in all, of the window.
    pub(super) fn took_now(&self) -> u64 {
        self.state.lock().took
    }

    /// Nothing is sent any more.
    pub(crate) fn end(&self) {
        self.state.lock().over = true;
        self.read.notify_one();
    }

    /// Has the control thread send what there is.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let any = !state.waiting.is_empty() || state.may_put_losses();
        if any && !std::mem::replace(&mut state.told, true) {
            drop(state);
            // Without a control thread nothing is sent.
            let _ = self.events.send(DataEvent::Relay { ring: self.ring });
        }
    }
}

impl State {
    /// Whether there are losses, and all else was read.
    fn may_put_losses(&self) -> bool {
        !self.losses.is_empty() && self.took == self.flushed && !self.pushing
    }

    fn put_losses(&mut self) {
        for (slot, (generation, sequence)) in std::mem::take(&mut self.losses) {
            let loss = Head { slot, generation, events: 0, sequence, bytes: 0 };
            self.add(&mut loss.to_bytes().to_vec());
            self.flushed += loss.cost();
        }
    }

    /// Adds what is to be sent; small parts are put together.
    fn add(&mut self, bytes: &mut Vec<u8>) {
        match self.waiting.back_mut() {
            Some(last) if last.len() + bytes.len() <= RELAYED_BYTES_MAX => last.append(bytes),
            _ if bytes.is_empty() => {}
            _ => self.waiting.push_back(std::mem::take(bytes)),
        }
    }
}

/// The publisher's end.
#[derive(Debug)]
pub(crate) struct Line {
    shared: Arc<Relayed>,
    slots: Vec<Count>,
    /// Events attempted on all slots.
    attempted: u64,
    /// Pushed, and not flushed; and what of the window that takes.
    pushed: Hidden<Vec<u8>>,
    cost: u64,
    pushing: bool,
    /// Before what was pushed, and as last seen.
    flushed: u64,
    took: u64,
}

/// What was attempted on a slot, under the grant that was used last.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    events: u64,
    generation: u16,
    /// No record shows the last loss.
    owes_loss: bool,
}

/// Where a line stood.
#[derive(Debug)]
pub(super) struct Savepoint {
    slot: u16,
    count: Count,
    attempted: u64,
    pushed: usize,
    cost: u64,
}

/// The window is full.
#[derive(Debug)]
pub(super) struct Full;

impl Line {
    pub(crate) fn new(shared: Arc<Relayed>) -> Self {
        Self {
            shared,
            slots: Vec::new(),
            attempted: 0,
            pushed: Hidden::default(),
            cost: 0,
            pushing: false,
            flushed: 0,
            took: 0,
        }
    }

    pub(super) fn shared(&self) -> Arc<Relayed> {
        Arc::clone(&self.shared)
    }

    pub(super) fn window(&self) -> u64 {
        self.shared.window
    }

    /// The largest payload, in bytes: as in shared memory.
    pub(super) fn payload_bytes_max(&self) -> usize {
        shm::layout::payload_bytes_max(usize::try_from(self.window()).unwrap_or(usize::MAX))
    }

    /// All that was ever pushed takes so much of the window.
    pub(super) fn tail(&self) -> u64 {
        self.flushed + self.cost
    }

    pub(super) fn attempted(&self) -> u64 {
        self.attempted
    }

    /// Adds a record that nobody sees. Its payload is not above [`payload_bytes_max`](Self::payload_bytes_max).
    pub(super) fn push(
        &mut self,
        (slot, generation): (u16, u16),
        urgent: bool,
        events: u32,
        parts: &[&[u8]],
    ) -> Result<(), Full> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        // The slot has to be there: room is kept for a loss of each.
        self.count(slot, generation);
        let has_room = self.has_room(bytes, urgent);
        let count = self.count(slot, generation);
        let sequence = count.events;
        (count.events, count.owes_loss) = (sequence + u64::from(events), !has_room);
        self.attempted += u64::from(events);
        if !has_room {
            return Err(Full);
        }
        let bytes = u32::try_from(bytes).expect("a record is smaller than its ring");
        let head = Head { slot, generation, events, sequence, bytes };
        self.pushed.extend_from_slice(&head.to_bytes());
        parts.iter().for_each(|part| self.pushed.extend_from_slice(part));
        self.cost += head.cost();
        Ok(())
    }

    /// Counts events as lost that no record brings.
    pub(super) fn lose(&mut self, slot: u16, generation: u16, events: u32) {
        self.begin();
        let count = self.count(slot, generation);
        (count.events, count.owes_loss) = (count.events + u64::from(events), true);
        self.attempted += u64::from(events);
    }

    /// What was attempted on a slot under this grant.
    fn count(&mut self, slot: u16, generation: u16) -> &mut Count {
        let index = usize::from(slot);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Count::default);
        }
        let count = &mut self.slots[index];
        if count.generation != generation {
            *count = Count { generation, ..Count::default() };
        }
        count
    }

    /// Sees how things stand, and lets nothing come between this and what is pushed next.
    fn begin(&mut self) {
        if !std::mem::replace(&mut self.pushing, true) {
            let mut state = self.shared.state.lock();
            (state.pushing, state.marked) = (true, false);
            (self.flushed, self.took) = (state.flushed, state.took);
        }
    }

    /// Whether a record of so many bytes would be taken now.
    pub(super) fn has_room(&mut self, bytes: usize, urgent: bool) -> bool {
        self.begin();
        let room = self.room_for(bytes, urgent);
        if self.occupied() + room > self.window() {
            // What was marked meanwhile takes of the window, and may have been read.
            let state = self.shared.state.lock();
            (self.flushed, self.took) = (state.flushed, state.took);
        }
        self.occupied() + room <= self.window()
    }

    fn room_for(&self, bytes: usize, urgent: bool) -> u64 {
        // Losses that are told before all was read have room in any case.
        let losses = self.slots.len() as u64 * RECORD_COST;
        let reserve = if urgent { losses } else { losses.max(self.window() / URGENT_PART as u64) };
        RECORD_COST + bytes as u64 + reserve
    }

    /// What is on its way, and was not read when this was last looked at.
    fn occupied(&self) -> u64 {
        self.tail() - self.took
    }

    pub(super) fn savepoint(&mut self, slot: u16) -> Savepoint {
        self.begin();
        let count = self.slots.get(usize::from(slot)).copied().unwrap_or_default();
        Savepoint { slot, count, attempted: self.attempted, pushed: self.pushed.len(), cost: self.cost }
    }

    /// Takes back what was pushed since.
    pub(super) fn rewind(&mut self, savepoint: &Savepoint) {
        if let Some(count) = self.slots.get_mut(usize::from(savepoint.slot)) {
            *count = savepoint.count;
        }
        self.attempted = savepoint.attempted;
        self.pushed.truncate(savepoint.pushed);
        self.cost = savepoint.cost;
        self.flush();
    }

    /// Has what was pushed sent.
    pub(super) fn flush(&mut self) {
        if !std::mem::replace(&mut self.pushing, false) {
            return;
        }
        let mut state = self.shared.state.lock();
        state.pushing = false;
        state.add(&mut self.pushed);
        state.flushed += std::mem::take(&mut self.cost);
        self.flushed = state.flushed;
        for (slot, count) in (0..).zip(&mut self.slots).filter(|(_, count)| count.owes_loss) {
            count.owes_loss = false;
            state.losses.insert(slot, (count.generation, count.events));
        }
        self.shared.tell(state);
    }

    /// Whether nobody reads it any more.
    pub(super) fn is_over(&self) -> bool {
        self.shared.state.lock().over
    }

    /// What was read, of the window, as things are now.
    pub(super) fn read_up_to(&mut self) -> u64 {
        let state = self.shared.state.lock();
        if !self.pushing {
            self.flushed = state.flushed;
        }
        self.took = state.took;
        self.took
    }

    /// What to wait for a record's room with, or, without one, for all to be read. `None`: it is so.
    pub(super) fn await_room(&mut self, record: Option<(usize, bool)>) -> Option<Arc<Notify>> {
        let took = self.read_up_to();
        let is_so = match record {
            Some((bytes, urgent)) => self.occupied() + self.room_for(bytes, urgent) <= self.window(),
            None => took == self.tail(),
        };
        (!is_so).then(|| Arc::clone(&self.shared.read))
    }
}

/// Whether a ring can have such a slot.
pub(super) fn is_slot(slot: u16) -> bool {
    usize::from(slot) < SLOTS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes until there is no room; what that takes of the window.
    fn fill(line: &mut Line) -> u64 {
        let mut cost = 0;
        while line.push((0, 0), false, 1, &[&[0; 1000]]).is_ok() {
            cost += RECORD_COST + 1000;
        }
        cost
    }

    #[test]
    fn losses_that_are_told_and_read_while_more_is_pushed_take_of_the_window_like_all_else() {
        let (events, _heard) = tokio::sync::mpsc::unbounded_channel();
        let window = 1 << 16;
        let relayed = Arc::new(Relayed::new(RingId(1), window, events));
        let mut line = Line::new(Arc::clone(&relayed));
        let before = fill(&mut line);
        line.flush();
        // The publisher pushes, and has seen that nothing was read. Then all of it is, and what somebody who joins has told as lost, too.
        assert!(!line.has_room(1000, false));
        relayed.took(before);
        relayed.mark();
        relayed.took(before + RECORD_COST);
        let behind = fill(&mut line);
        line.flush();
        let state = relayed.state.lock();
        assert_eq!((state.flushed, state.took), (before + RECORD_COST + behind, before + RECORD_COST));
        assert_eq!(before, behind, "as much as before");
    }
}
