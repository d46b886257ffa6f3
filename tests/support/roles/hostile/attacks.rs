//! What a hostile process writes into the segment that is its own, by the names that `docs/threats.md` has for it.

use std::sync::atomic::{AtomicU64, Ordering};

use shm::layout::{PADDING, PRODUCER_HEADER_BYTES};

use super::record::{self, at};
use super::ring::{NAME, Ring};
use super::segment::Segment;
use super::{ATTEMPTED, CLOSED, GO, HEAD, LOST, ROOM_AT, SLOTS, TAIL, WAKE_AT};

const MAX: u64 = u64::MAX;

/// As a publisher, against who reads.
pub(super) fn on_consumer(ring: &mut Ring, name: &str) {
    let (tail, capacity, sequence) = (ring.tail, ring.capacity(), ring.sequence);
    let payload = record::batch(NAME, 0);
    let length = payload.len() as u64;
    let honest = ring.tag(length);
    let size = 16 + length.next_multiple_of(8);
    // A record with this tag and sequence, and the tail behind it.
    let shows = |ring: &mut Ring, tag: u64, sequence: u64| {
        let end = ring.write(tag, sequence, &payload);
        ring.show(end);
    };
    match name {
        "tail-0" => ring.show(0),
        "tail-1" => ring.show(tail + 1),
        "tail-max" => ring.show(MAX),
        "tail-max-aligned" => ring.show(MAX - 7),
        "tail-half-of-all" => ring.show(1 << 63),
        "tail-backwards" => ring.show(tail - size),
        "tail-beyond-the-ring" => ring.show(tail + capacity + 8),
        "length-past-the-tail" => {
            ring.write(honest, sequence, &payload);
            ring.show(tail + 24);
        }
        "length-half-a-header" => ring.show(tail + 8),
        "length-past-the-limit" => {
            ring.write(ring.tag(capacity / 8 + 8), sequence, &payload);
            ring.show(tail + capacity / 2);
        }
        "length-max" => {
            ring.write(ring.tag(u64::from(PADDING) - 1), sequence, &payload);
            ring.show(tail + capacity / 2);
        }
        "record-across-the-end" => {
            ring.write(ring.tag(ring.to_end() + 64), sequence, &payload);
            ring.show(tail + ring.to_end() + 256);
        }
        "padding-in-the-middle" => padding(ring, 56, 64),
        "padding-short-of-the-end" => padding(ring, ring.to_end() - 16, ring.to_end() + 64),
        "padding-past-the-end" => padding(ring, ring.to_end(), ring.to_end() + 64),
        "padding-of-a-slot" => padding(ring, (ring.to_end() - 8) | 1 << 32, ring.to_end() + 64),
        "padding-twice" => {
            ring.set_data(tail + ring.to_end(), u64::from(PADDING) | (capacity - 8));
            padding(ring, ring.to_end() - 8, ring.to_end() + 64);
        }
        "slot-foreign" => shows(ring, length | 7 << 32, 0),
        "slot-beyond-all" => shows(ring, length | 448 << 32, 0),
        "slot-max" => shows(ring, length | 0xffff << 32, 0),
        "generation-ahead" => shows(ring, honest + (1 << 48), sequence),
        "sequence-backwards" => shows(ring, honest, sequence - 1),
        "sequence-0" => shows(ring, honest, 0),
        "sequence-max" => shows(ring, honest, MAX),
        "sequence-ahead" => {
            ring.sequence += 5;
            ring.publish_payload(&payload);
        }
        "third-writer" => {
            ring.own.set(GO, 2);
            super::descriptors::wait_for(|| ring.own.word(TAIL) == MAX);
            ring.ring();
        }
        counters => counter(ring, counters),
    }
}

/// Words that only claim something.
fn counter(ring: &mut Ring, name: &str) {
    match name {
        "lost-without-a-slot" => ring.own.set(LOST, MAX),
        "lost-max" => {
            ring.own.set(SLOTS, MAX);
            ring.own.set(LOST, 1);
        }
        "lost-more-than-can-be" => {
            ring.own.set(SLOTS, MAX);
            ring.own.set(SLOTS + 8, MAX);
            ring.own.set(LOST, 1);
        }
        "lost-backwards" => {
            ring.own.set(SLOTS, 0);
            ring.own.set(LOST, MAX - 1);
        }
        "closed-early" => ring.own.set(CLOSED, 1),
        "closed-max" => ring.own.set(CLOSED, MAX),
        // The next release is what it says it waits for.
        "room-at-next" => ring.own.set(ROOM_AT, ring.own.word(TAIL)),
        "room-at-0" => ring.own.set(ROOM_AT, 0),
        "room-at-max" => ring.own.set(ROOM_AT, MAX - 1),
        "attempted-0" => ring.own.set(ATTEMPTED, 0),
        "attempted-max" => ring.own.set(ATTEMPTED, MAX),
        "magic-changed" => ring.own.set(0, MAX),
        batch => return damaged(ring, batch),
    }
    ring.ring();
}

fn padding(ring: &Ring, following: u64, behind: u64) {
    ring.set_data(ring.tail, u64::from(PADDING) | following);
    ring.show(ring.tail + behind);
}

/// A batch with something wrong in it.
fn damaged(ring: &mut Ring, name: &str) {
    let mut payload = record::batch("ev\u{e9}l", 0);
    let mut put = |at: usize, bytes: &[u8]| payload[at..at + bytes.len()].copy_from_slice(bytes);
    match name {
        "batch-version" => put(at::VERSION, &[2]),
        "batch-of-none" => put(at::EVENTS, &[0]),
        "batch-of-513" => put(at::EVENTS, &[1, 2]),
        "batch-of-two-in-one" => put(at::EVENTS, &[2]),
        "batch-correlations" => put(at::OVERRIDES, &[2]),
        "batch-pairs" => put(at::PAIRS, &[0xff; 4]),
        "batch-blobs" => put(at::BLOB_BYTES, &[0xff; 4]),
        "batch-strings" => put(at::STRING_BYTES, &[0xff; 4]),
        "batch-time" => put(at::WALL_NANOS, &[0xff; 4]),
        "entry-kind" => put(at::KIND, &[9]),
        "entry-flags" => put(at::FLAGS, &[0xff]),
        "entry-time" => put(at::NANOS, &[0xff; 4]),
        "entry-correlation" => put(at::CORRELATION, &[1]),
        "entry-strings-backwards" => put(at::STRINGS, &[1]),
        "entry-strings-past-the-end" => put(at::ENDS + 12, &[0xff; 4]),
        "entry-first-pair" => put(at::FIRST_PAIR, &[1]),
        "entry-blob" => {
            put(at::KIND, &[0]);
            put(at::EVENT, &[8, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        }
        "strings-no-utf8" => put(at::STRING_AREA + 3, &[0xff]),
        // The name is `ev\u{e9}l`: two bytes of the area, then e, v, and two bytes of one character.
        "strings-split" => put(at::ENDS, &[5, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0]),
        "strings-unclaimed" => put(at::ENDS, &[3, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0]),
        "correlation-too-long" => payload = record::correlated(&"x".repeat(257), "", 0),
        "batch-cut" => payload.truncate(40),
        "batch-empty" => payload.clear(),
        "batch-tail" => payload.extend([0; 16]),
        other => panic!("no attack {other}"),
    }
    let end = ring.write(ring.tag(payload.len() as u64), ring.sequence, &payload);
    ring.show(end);
}

/// As a subscriber, against who writes.
pub(super) fn on_producer(ring: &mut Ring, name: &str) {
    let published = ring.read_all();
    match name {
        "head-1" => ring.own.set(HEAD, 1),
        "head-unaligned" => ring.own.set(HEAD, published - 4),
        "head-max" => ring.own.set(HEAD, MAX),
        "head-max-aligned" => ring.own.set(HEAD, MAX - 7),
        "head-beyond-the-tail" => ring.own.set(HEAD, published + (1 << 40)),
        "head-0" => ring.own.set(HEAD, 0),
        "head-backwards" => ring.own.set(HEAD, 8),
        "wake-at-0" => ring.own.set(WAKE_AT, 0),
        "wake-at-1" => ring.own.set(WAKE_AT, 1),
        "wake-at-next" => ring.own.set(WAKE_AT, published + 8),
        "wake-at-max" => ring.own.set(WAKE_AT, MAX - 1),
        "consumer-magic-changed" => ring.own.set(0, MAX),
        other => panic!("no attack {other}"),
    }
}

/// Writes `value` into the words that are the other side's alone.
pub(super) fn on_theirs(theirs: &Segment, name: &str, value: u64) {
    let (first, last) = match name {
        "their-magic" => (0, 8),
        "their-tail" => (TAIL, TAIL + 8),
        "their-attempted" => (ATTEMPTED, ATTEMPTED + 8),
        "their-lost" => (LOST, LOST + 8),
        "their-closed" => (CLOSED, CLOSED + 8),
        "their-room-at" => (ROOM_AT, ROOM_AT + 8),
        "their-slots" => (SLOTS, PRODUCER_HEADER_BYTES),
        "their-records" => (PRODUCER_HEADER_BYTES, theirs.words().len() * 8),
        "their-head" => (HEAD, HEAD + 8),
        "their-wake-at" => (WAKE_AT, WAKE_AT + 8),
        "their-all" => (0, theirs.words().len() * 8),
        other => panic!("no attack {other}"),
    };
    (first..last).step_by(8).for_each(|offset| theirs.set(offset, value));
}

/// How often a word changes while its reader looks at it: for some hundred microseconds.
const FLIPS: u64 = 10_000;

/// Changes a word as fast as it can, and leaves it at the first value. In the midst of it, `meanwhile` runs.
fn flip(word: &AtomicU64, values: [u64; 2], meanwhile: impl FnOnce()) {
    let half = || {
        for _ in 0..FLIPS / 2 {
            word.store(values[1], Ordering::Relaxed);
            word.store(values[0], Ordering::Relaxed);
        }
    };
    half();
    meanwhile();
    half();
}

/// Publishes up to `rounds` records, with a word of each changing while it is read.
pub(super) fn flip_records(ring: &mut Ring, what: &str, rounds: u64) {
    let payload = record::batch(NAME, 0);
    let length = payload.len() as u64;
    for round in 0..rounds {
        let size = 16 + length.next_multiple_of(8);
        if ring.to_end() < 2 * size {
            // No padding meanwhile: it takes a fresh ring.
            return;
        }
        let (start, sequence, honest) = (ring.tail, ring.sequence, ring.tag(length));
        let end = ring.write(honest, sequence, &payload);
        (ring.tail, ring.sequence) = (end, sequence + 1);
        let word = |position| &ring.own.words()[ring.offset(position) / 8];
        let strings = u64::from_le_bytes(*b"xxevil\0\0");
        let (word, values) = match what {
            "flip-length" => (word(start), [honest, ring.tag(length + 64)]),
            "flip-slot" => (word(start), [honest, honest | 5 << 32]),
            "flip-sequence" => (word(start + 8), [sequence, u64::MAX]),
            "flip-counts" => (word(start + 16), [1 | 1 << 32, 1 | 0x0200_0002 << 32]),
            "flip-strings" => (word(start + 16 + at::STRING_AREA as u64), [strings, u64::MAX]),
            "flip-tail" => (&ring.own.words()[TAIL / 8], [end, u64::MAX - 7]),
            "flip-lost" => (&ring.own.words()[LOST / 8], [round, u64::MAX - round]),
            other => panic!("no attack {other}"),
        };
        flip(word, values, || ring.show(end));
        if !ring.ring() {
            return;
        }
    }
}

/// As a subscriber: reads all, with its words changing while the publisher looks at them.
pub(super) fn flip_marks(ring: &Ring, what: &str, rounds: u64) {
    for _ in 0..rounds {
        let published = ring.read_all();
        let word = |offset: usize| &ring.own.words()[offset / 8];
        match what {
            "flip-head" => flip(word(HEAD), [published, u64::MAX - 7], || ()),
            "flip-wake-at" => flip(word(WAKE_AT), [published + 8, u64::MAX], || ()),
            other => panic!("no attack {other}"),
        }
    }
}
