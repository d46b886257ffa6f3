//! A ring that leads over the broker, as it is read: what the control thread was sent waits here, in the order in which it came.
//!
//! It has the laws of a ring in shared memory. Who wrote it is a peer all the same, and the broker, which checks slots, looks into no record.

use std::collections::VecDeque;

use shm::{Moment, Record};
use zerocopy::IntoBytes as _;

use crate::config::SLOTS_MAX;
use crate::wire::RelayedRecords;
use crate::wire::relayed::{HEAD_BYTES, Head, Piece, Row};

/// A part of the window after which its publisher is told that it was read, if there is more to be read.
const TOLD_PART: u64 = 16;

#[derive(Debug)]
pub(super) struct RelayedRing {
    window: u64,
    /// Frames, the first from `taken` on.
    frames: VecDeque<RelayedRecords>,
    taken: usize,
    row: Row,
    /// The record that is being read, and how much of its payload was.
    head: Option<Head>,
    filled: usize,
    /// The grant that was used last of each slot, and events that were settled under it.
    settled: Vec<(u16, u64)>,
    /// Losses that no record shows, and that were not told: slot, grant, events.
    losses: Vec<(u16, u16, u64)>,
    /// Bytes that have come, and that were taken of them.
    came: u64,
    position: u64,
    /// What was read of the window, and what of that the publisher was told.
    read: u64,
    told: u64,
    /// Nothing more will come.
    closed: bool,
}

impl RelayedRing {
    pub(super) fn new(window: u64) -> Self {
        Self {
            window,
            frames: VecDeque::new(),
            taken: 0,
            row: Row::default(),
            head: None,
            filled: 0,
            settled: Vec::new(),
            losses: Vec::new(),
            came: 0,
            position: 0,
            read: 0,
            told: 0,
            closed: false,
        }
    }

    /// Takes a frame as it came.
    pub(super) fn push(&mut self, records: RelayedRecords) {
        self.came += records.0.len() as u64;
        self.frames.push_back(records);
    }

    /// Bytes that wait.
    pub(super) fn occupied(&self) -> u64 {
        self.came - self.position
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// Nothing more will come.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nothing more will come, and all that came was read. A record of which a part did not come never will.
    pub(super) fn has_ended(&self) -> bool {
        self.closed && self.frames.is_empty() && self.losses.is_empty()
    }

    /// Whether there is something to be looked at.
    pub(super) fn is_idle(&self) -> bool {
        self.frames.is_empty() && self.losses.is_empty() && !self.closed
    }

    /// Copies the next record's payload out, as in shared memory. It stops at a loss, which [`take_losses`](Self::take_losses) tells.
    pub(super) fn read(&mut self, payload: &mut Vec<u64>) -> Result<Option<Record>, String> {
        while let Some(frame) = self.frames.front() {
            let mut rest = &frame.0[self.taken..];
            let before = rest.len();
            let piece = self.row.next(&mut rest).map_err(|error| error.to_string())?;
            let taken = before - rest.len();
            self.taken += taken;
            match piece {
                None => {
                    self.frames.pop_front();
                    self.taken = 0;
                    continue;
                }
                Some(Piece::Head(head)) if head.is_loss() => {
                    self.position += taken as u64;
                    self.read += head.cost();
                    let settled = self.settled(head.slot, head.generation)?;
                    let lost = head.sequence.saturating_sub(*settled);
                    if lost > 0 {
                        *settled = head.sequence;
                        self.losses.push((head.slot, head.generation, lost));
                        return Ok(None);
                    }
                    continue;
                }
                Some(Piece::Head(head)) => {
                    if head.bytes as usize > self.payload_bytes_max() {
                        return Err(format!("a record of {} bytes, more than its ring takes", head.bytes));
                    }
                    payload.clear();
                    payload.resize((head.bytes as usize).div_ceil(size_of::<u64>()), 0);
                    (self.head, self.filled) = (Some(head), 0);
                }
                Some(Piece::Payload(bytes)) => {
                    let all = payload.as_mut_slice().as_mut_bytes();
                    all[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
                    self.filled += bytes.len();
                }
            }
            self.position += taken as u64;
            if let Some(head) = self.head.take_if(|_| self.row.is_whole()) {
                self.read += head.cost();
                let Head { slot, generation, sequence, bytes, .. } = head;
                let bytes = bytes as usize;
                let position = self.position - (HEAD_BYTES + bytes) as u64;
                return Ok(Some(Record { slot, generation, sequence, bytes, position }));
            }
        }
        Ok(None)
    }

    fn payload_bytes_max(&self) -> usize {
        shm::layout::payload_bytes_max(usize::try_from(self.window).unwrap_or(usize::MAX))
    }

    /// Takes note of the events of a record, and yields how many were lost on its slot since the one before.
    pub(super) fn settle(&mut self, record: &Record, events: u32) -> Result<u64, String> {
        let Record { slot, generation, sequence, .. } = *record;
        let settled = self.settled(slot, generation)?;
        let lost = sequence.checked_sub(*settled);
        let (Some(lost), Some(end)) = (lost, sequence.checked_add(events.into())) else {
            return Err(format!("sequence {sequence} on slot {slot}, where {settled} was next"));
        };
        *settled = end;
        Ok(lost)
    }

    /// What was settled of a slot under a grant, which is the last that was used, or the next.
    fn settled(&mut self, slot: u16, generation: u16) -> Result<&mut u64, String> {
        let index = usize::from(slot);
        if index >= SLOTS_MAX {
            return Err(format!("a record of slot {slot}, which no ring has"));
        }
        if self.settled.len() <= index {
            self.settled.resize(index + 1, (0, 0));
        }
        let (last, settled) = &mut self.settled[index];
        if generation < *last {
            return Err(format!("a record of slot {slot}, grant {generation}, behind one of grant {last}"));
        }
        if generation > *last {
            (*last, *settled) = (generation, 0);
        }
        Ok(settled)
    }

    pub(super) fn settled_on(&self, slot: u16) -> u64 {
        self.settled.get(usize::from(slot)).map_or(0, |(_, settled)| *settled)
    }

    /// Losses that no record shows.
    pub(super) fn take_losses(&mut self) -> Vec<(u16, u16, u64)> {
        std::mem::take(&mut self.losses)
    }

    /// Now, for one slot under a grant: tells what has come on it from what comes after.
    pub(super) fn now(&self, slot: u16, generation: u16) -> Moment {
        let last = self.settled.get(usize::from(slot)).filter(|(last, _)| *last == generation);
        let (mut row, mut sequence) = (self.row, last.map_or(0, |(_, settled)| *settled));
        for (number, frame) in self.frames.iter().enumerate() {
            let mut rest = &frame.0[if number == 0 { self.taken } else { 0 }..];
            // What breaks here breaks again when it is read, and is reported there.
            while let Ok(Some(piece)) = row.next(&mut rest) {
                if let Piece::Head(head) = piece
                    && (head.slot, head.generation) == (slot, generation)
                {
                    sequence = sequence.max(head.end().unwrap_or(u64::MAX));
                }
            }
        }
        Moment { position: self.came, sequence }
    }

    /// What was read, in all, of the window, if its publisher is to be told that now.
    pub(super) fn release(&mut self) -> Option<u64> {
        let untold = self.read - self.told;
        let is_due = untold > 0 && (self.frames.is_empty() || untold >= self.window / TOLD_PART);
        is_due.then(|| {
            self.told = self.read;
            self.read
        })
    }
}
