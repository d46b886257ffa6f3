//! Memory under overload: no process takes more than what it is set up to take, whatever it is sent and however slowly it reads.
//!
//! `EVENTBUS_OVERLOAD_SECONDS` says how long the overload lasts.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Folder, Role, look};

const SECONDS: &str = "EVENTBUS_OVERLOAD_SECONDS";
const KILOBYTE: u64 = 1 << 10;
const RING_BYTES: u64 = 2 << 20;
const QUEUE_BYTES: u64 = 4 << 20;
/// Both headers of a ring, with the losses of each slot.
const SEGMENTS_BYTES: u64 = 64 << 10;
/// What a publisher keeps for its next batch: `RECORDS_KEPT` of the largest.
const RECORDS_BYTES: u64 = 4 << 20;
/// What a subscribing process keeps for what comes next: `KEPT_BYTES` of large chunks, and half of that of small ones.
const POOL_BYTES: u64 = 6 << 20;

/// By then what waits has filled the ring and the queue, and behind what the reader has taken over the queue again.
const ROUNDS_LEAST: usize = 10;
const BYTES_PER_ROUND: u64 = 2 << 20;

/// How events come: so many in a batch, each with so many bytes more than most.
#[derive(Debug, Clone, Copy)]
struct Shape {
    events: u64,
    bytes: u64,
}

const SHAPES: [Shape; 4] = [
    Shape { events: 500, bytes: 0 },
    Shape { events: 1, bytes: 0 },
    Shape { events: 1, bytes: 20_000 },
    Shape { events: 20, bytes: 500 },
];

/// A process, and what it had when it came up.
struct Measured {
    role: Role,
    name: &'static str,
    before: u64,
    limits: u64,
}

impl Measured {
    fn up(folder: &Folder, name: &'static str, limits_bytes: u64) -> Self {
        let role = Role::client_with(folder, name, json!({"queue_bytes": QUEUE_BYTES})).up();
        let before = look::resident_kilobytes(role.pid());
        Self { role, name, before, limits: limits_bytes / KILOBYTE }
    }

    fn stays_within_its_limits(&self, when: &str) {
        let most = look::resident_kilobytes_max(self.role.pid());
        let Self { name, before, limits, .. } = *self;
        let bound = (before + limits) * 11 / 10;
        println!("{when}: {name} had {before} kB, {limits} may be added; it had {most} at most of {bound}");
        assert!(most <= bound, "{when}: {name} had {most} kB, and {bound} are what it may");
    }
}

fn overload(shapes: &[Shape], time: Duration) {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({"ring_bytes": RING_BYTES})).up();
    let ring = RING_BYTES + SEGMENTS_BYTES;
    let mut reader = Measured::up(&folder, "detector", ring + 2 * QUEUE_BYTES + POOL_BYTES);
    let mut stopped = Measured::up(&folder, "exporter", ring + 2 * QUEUE_BYTES + POOL_BYTES);
    let mut publisher = Measured::up(&folder, "procmond", 2 * ring + RECORDS_BYTES);
    for subscriber in [&mut reader, &mut stopped] {
        let patterns = ["events.process.#"];
        subscriber.role.must(&json!({"do": "subscribe", "patterns": patterns, "unread": true}));
    }
    publisher.role.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    stopped.role.stop();

    let (start, mut published) = (Instant::now(), 0);
    let (mut rounds, mut read) = (0, 0);
    while start.elapsed() < time || rounds < ROUNDS_LEAST {
        let shape = shapes[rounds % shapes.len()];
        let calls = BYTES_PER_ROUND / (shape.events * (250 + shape.bytes));
        let progress = folder.path().join("progress");
        publisher.role.must(&json!({
            "do": "burst", "name": "main", "tag": "flood", "from": published, "calls": calls, "size": shape.events,
            "bytes": shape.bytes, "rest_ms": 0, "progress": progress,
        }));
        published += calls * shape.events;
        // The first read takes over all that waits by then.
        if rounds % 4 == 3 {
            let one = reader.role.must(&json!({"do": "read_one"}));
            read += one["events"].as_u64().expect("a count");
        }
        rounds += 1;
    }
    let totals = publisher.role.must(&json!({"do": "totals"}));
    assert!(totals["dropped"].as_u64() > Some(0), "the stopped ring is full: {totals}");
    for (subscriber, read) in [(&mut reader, read), (&mut stopped, 0)] {
        subscriber.role.go_on();
        subscriber.role.must(&json!({"do": "read"}));
        let report = subscriber.role.must(&json!({"do": "await", "total": published - read}));
        let count = |fact: &str| report[fact].as_u64().expect("a report counts");
        assert_eq!(count("received") + count("lost") + read, published, "{report}");
        assert!(count("lost") > 0, "it lags: {report}");
    }
    let when = format!("{shapes:?} for {:?}, {published} events", start.elapsed());
    for measured in [&reader, &stopped, &publisher] {
        measured.stays_within_its_limits(&when);
    }
}

#[test]
fn no_overload_makes_a_process_take_more_than_its_limits() {
    let seconds = std::env::var(SECONDS).map_or(2, |text| text.parse().expect("a number"));
    let time = Duration::from_secs(seconds);
    let turns = u32::try_from(SHAPES.len()).expect("a few") + 1;
    for shape in SHAPES {
        overload(&[shape], time / turns);
    }
    overload(&SHAPES, time / turns);
}
