//! A granted ring in hostile hands.

use std::os::fd::OwnedFd;

use rustix::net::SendFlags;
use shm::layout::{PADDING, PRODUCER_HEADER_BYTES};

use super::record;
use super::segment::Segment;
use super::{HEAD, TAIL};

/// A ring, seen from the side that misbehaves.
pub(super) struct Ring {
    pub(super) of_producer: bool,
    pub(super) own: Segment,
    pub(super) theirs: Option<Segment>,
    pub(super) bell: OwnedFd,
    /// Slot and generation, once it is granted.
    pub(super) target: Option<(u64, u64)>,
    pub(super) tail: u64,
    pub(super) sequence: u64,
    pub(super) closed: bool,
}

pub(super) const NAME: &str = "evil";

impl Ring {
    pub(super) fn is_ready(&self) -> bool {
        !self.closed && self.theirs.is_some() && self.target.is_some()
    }

    pub(super) fn capacity(&self) -> u64 {
        (self.own.words().len() * 8 - PRODUCER_HEADER_BYTES) as u64
    }

    pub(super) fn to_end(&self) -> u64 {
        self.capacity() - self.tail % self.capacity()
    }

    /// Where a position of the ring stands in the segment.
    pub(super) fn offset(&self, position: u64) -> usize {
        PRODUCER_HEADER_BYTES + usize::try_from(position % self.capacity()).expect("an offset")
    }

    pub(super) fn set_data(&self, position: u64, value: u64) {
        self.own.set(self.offset(position), value);
    }

    /// The first word of a record.
    pub(super) fn tag(&self, length: u64) -> u64 {
        let (slot, generation) = self.target.expect("it is granted");
        length | slot << 32 | generation << 48
    }

    /// Writes a record that nobody sees yet, and yields where it ends.
    pub(super) fn write(&self, tag: u64, sequence: u64, payload: &[u8]) -> u64 {
        self.set_data(self.tail, tag);
        self.set_data(self.tail + 8, sequence);
        let mut position = self.tail + 16;
        for chunk in payload.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.set_data(position, u64::from_le_bytes(word));
            position += 8;
        }
        position
    }

    /// Publishes what was written up to `tail`.
    pub(super) fn show(&self, tail: u64) {
        self.own.set(TAIL, tail);
        self.ring();
    }

    /// One event, as an honest publisher would send it.
    pub(super) fn publish(&mut self, pid: u32) {
        let payload = record::batch(NAME, pid);
        self.publish_payload(&payload);
    }

    pub(super) fn publish_payload(&mut self, payload: &[u8]) {
        let size = 16 + (payload.len() as u64).next_multiple_of(8);
        if size > self.to_end() {
            self.set_data(self.tail, u64::from(PADDING) | (self.to_end() - 8));
            self.tail += self.to_end();
        }
        self.tail = self.write(self.tag(payload.len() as u64), self.sequence, payload);
        self.sequence += 1;
        self.show(self.tail);
    }

    /// Rings without waiting; `false` where nobody is there any more.
    pub(super) fn ring(&self) -> bool {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        !matches!(rustix::net::send(&self.bell, &[1], flags), Err(rustix::io::Errno::PIPE))
    }

    /// As a subscriber: says of all that is there that it was read. Yields what was published.
    pub(super) fn read_all(&self) -> u64 {
        let tail = self.theirs.as_ref().expect("it is complete").word(TAIL);
        self.own.set(HEAD, tail);
        tail
    }
}
