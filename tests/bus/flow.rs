//! Publishers that rather wait than lose, what is urgent, and how far subscribers are.

use serde_json::{Value, json};

use crate::support::{DEADLINE, Folder, Role, look};

const MINUTE_MS: u64 = 60_000;

/// A subscriber that is stopped, and a publisher whose ring to it, of 64 KiB, is full.
fn stopped_behind_a_full_ring(folder: &Folder) -> (Role, Role, Role, u64) {
    let agent = Role::agent(folder, json!({"ring_bytes": 1 << 16, "route_deadline_ms": 500})).up();
    let mut detector = Role::client_with(folder, "detector", json!({"queue_bytes": 1 << 30})).up();
    let mut procmond = Role::client(folder, "procmond").up();
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    detector.stop();
    let totals = procmond.must(&json!({"do": "singles", "from": 0, "count": 1000}));
    assert!(totals["dropped"].as_u64() > Some(0), "the ring is full: {totals}");
    (agent, detector, procmond, 1000)
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{value} has no {key}"))
}

#[test]
fn who_waits_for_room_loses_nothing_however_large_the_batch() {
    let folder = Folder::new();
    let (_agent, mut detector, mut procmond, before) = stopped_behind_a_full_ring(&folder);
    let lost = number(&procmond.must(&json!({"do": "totals"})), "dropped");
    // Four hundred times what the ring holds: who looked only now and then would take longer than anybody here waits.
    let (singles, batch) = (100, 100_000);
    let tell = json!({"do": "singles_within", "from": before, "count": singles, "within_ms": MINUTE_MS});
    procmond.tell(&tell);
    detector.go_on();
    let totals = procmond.answer(DEADLINE);
    assert_eq!(number(&totals, "dropped"), lost, "{totals}");
    let from = before + singles;
    let tell = json!({"do": "batch_within", "from": from, "count": batch, "within_ms": MINUTE_MS});
    let delivery = procmond.must(&tell);
    assert_eq!(
        delivery,
        json!({"events": batch, "subscribers": 1, "reached": batch, "dropped": 0, "kept": 0})
    );
    let report = detector.must(&json!({"do": "await", "total": from + batch}));
    assert_eq!((number(&report, "lost"), number(&report, "disorder")), (lost, 0), "{report}");
}

#[test]
fn patience_has_an_end_and_what_is_lost_then_is_counted() {
    let folder = Folder::new();
    let (_agent, mut detector, mut procmond, before) = stopped_behind_a_full_ring(&folder);
    let lost = number(&procmond.must(&json!({"do": "totals"})), "dropped");
    let tell = json!({"do": "batch_within", "from": before, "count": 1000, "within_ms": 20});
    let delivery = procmond.must(&tell);
    assert_eq!(number(&delivery, "dropped"), 1000, "{delivery}");
    detector.go_on();
    let report = detector.must(&json!({"do": "await", "total": before + 1000}));
    assert_eq!(number(&report, "lost"), lost + 1000, "{report}");
}

#[test]
fn nobody_waits_for_a_subscriber_that_is_killed() {
    let folder = Folder::new();
    let (_agent, mut detector, mut procmond, before) = stopped_behind_a_full_ring(&folder);
    procmond.tell(&json!({"do": "batch_within", "from": before, "count": 1000, "within_ms": MINUTE_MS}));
    detector.kill();
    let delivery = procmond.answer(DEADLINE);
    assert_eq!((number(&delivery, "events"), number(&delivery, "dropped")), (1000, 0), "{delivery}");
    let flushed = procmond.must(&json!({"do": "flush", "within_ms": MINUTE_MS}));
    assert_eq!(flushed, json!({"unread": 0, "consumed": before + 1000}));
}

#[test]
fn nobody_waits_for_a_subscriber_that_is_sent_away_while_it_is_stopped() {
    let folder = Folder::new();
    let (mut agent, _detector, mut procmond, before) = stopped_behind_a_full_ring(&folder);
    procmond.tell(&json!({"do": "batch_within", "from": before, "count": 1000, "within_ms": MINUTE_MS}));
    // The detector would have to answer.
    agent.must(&json!({"do": "declare", "topic": "events.process.lifecycle"}));
    let delivery = procmond.answer(DEADLINE);
    assert_eq!((number(&delivery, "events"), number(&delivery, "dropped")), (1000, 0), "{delivery}");
}

#[test]
fn a_wait_that_is_given_up_has_published_nothing_and_is_in_nobodys_way() {
    let folder = Folder::new();
    let (_agent, detector, mut procmond, before) = stopped_behind_a_full_ring(&folder);
    let (threads, descriptors) = (look::threads(procmond.pid()), look::descriptors(procmond.pid()));
    for _ in 0..50 {
        let given_up = procmond.must(&json!({"do": "give_up", "within_ms": 2}));
        assert_eq!(given_up, json!({"given_up": [true, true], "published": before}));
    }
    let left = look::descriptors(procmond.pid()) - descriptors;
    assert!(left <= 2, "what is waited with is given back: {left} descriptors are left");
    assert_eq!(look::threads(procmond.pid()), threads);
    detector.go_on();
    let tell = json!({"do": "batch_within", "from": before, "count": 1000, "within_ms": MINUTE_MS});
    assert_eq!(number(&procmond.must(&tell), "dropped"), 0);
}

#[test]
fn a_publisher_knows_how_far_its_subscribers_have_read() {
    let folder = Folder::new();
    let (mut agent, detector, mut procmond, before) = stopped_behind_a_full_ring(&folder);
    // The agent reads at once, and does not count for the detector.
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let flushed = procmond.must(&json!({"do": "flush", "within_ms": 20}));
    assert_eq!(flushed, json!({"unread": before, "consumed": 0}));
    detector.go_on();
    let flushed = procmond.must(&json!({"do": "flush", "within_ms": MINUTE_MS}));
    assert_eq!(flushed, json!({"unread": 0, "consumed": before}));
}

#[test]
fn a_subscriber_is_not_behind_with_what_was_published_before_it_came() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "singles", "from": 0, "count": 1000}));
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    detector.stop();
    procmond.must(&json!({"do": "singles", "from": 1000, "count": 10}));
    let flushed = procmond.must(&json!({"do": "flush", "within_ms": 20}));
    assert_eq!(flushed, json!({"unread": 10, "consumed": 1000}));
}

#[test]
fn of_a_batch_that_is_not_published_nothing_leaves_and_nothing_is_missing() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let mut published = 0;
    for how in ["abandon", "leak", "abandon"] {
        // Many records, which have gone ahead into the ring; one, which has not.
        for count in [20_000, 10] {
            let tell = json!({"do": how, "tag": "given up", "count": count, "within_ms": MINUTE_MS});
            let told = procmond.must(&tell);
            let nothing = json!({"flushed": true, "published": published, "consumed": published});
            assert!(how == "leak" || told == nothing, "{told}");
            procmond.must(&json!({"do": "singles", "from": published, "count": 10}));
            published += 10;
            procmond.must(&json!({"do": "batch", "from": published, "count": 1000}));
            published += 1000;
        }
    }
    procmond.must(&json!({"do": "leak", "tag": "given up", "count": 20_000}));
    procmond.must(&json!({"do": "close"}));
    detector.must(&json!({"do": "await", "total": published}));
    // What comes after the end of the first publisher's ring.
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "singles", "tag": "after", "from": 0, "count": 1}));
    let report = detector.must(&json!({"do": "await", "total": published + 1}));
    assert_eq!((number(&report, "received"), number(&report, "lost")), (published + 1, 0), "{report}");
    assert_eq!(detector.must(&json!({"do": "order"})), json!({"order": ["main", "after"]}), "{report}");
}

/// A batch goes ahead into the rings that are there when it begins; for others it is the same batch when it is published.
#[test]
fn who_comes_while_a_batch_is_built_misses_nothing_without_a_word() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut exporter = Role::client(&folder, "exporter").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let (count, go) = (5000, folder.path().join("go"));
    procmond.must(&json!({"do": "held_batch", "from": 0, "count": count, "until": go}));
    exporter.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    detector.must(&json!({"do": "unsubscribe"}));
    detector.must(&json!({"do": "subscribe", "name": "again", "patterns": ["events.process.#"]}));
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    std::fs::write(go, "").expect("the folder is ours");
    let delivery = procmond.answer(DEADLINE);
    for (role, name) in [(&mut exporter, "main"), (&mut detector, "again"), (&mut agent, "main")] {
        let report = role.must(&json!({"do": "await", "name": name, "total": count}));
        assert!(number(&report, "lost") > 0, "{report} {delivery}");
    }
    assert_eq!(number(&delivery, "subscribers"), 3, "{delivery}");
    assert_eq!(number(&delivery, "reached") + number(&delivery, "dropped"), 3 * count, "{delivery}");
}

/// One publisher, one ring, two topics: the ring is full of the one when the other comes.
#[test]
fn an_anomaly_finds_room_in_a_ring_that_is_full_of_bulk() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({"ring_bytes": 1 << 20})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    let topics = ["events.process.metadata", "events.process.anomaly"];
    for topic in topics {
        detector.must(&json!({"do": "subscribe", "name": topic, "patterns": [topic]}));
        procmond.must(&json!({"do": "publish", "topic": topic, "from": 0, "count": 1}));
    }
    detector.stop();
    let (bulk, anomalies) = (5000, 100);
    for (topic, count) in topics.into_iter().zip([bulk, anomalies]) {
        procmond.must(&json!({"do": "publish", "topic": topic, "from": 1, "count": count}));
    }
    detector.go_on();
    let of_bulk = detector.must(&json!({"do": "await", "name": topics[0], "total": bulk + 1}));
    assert!(number(&of_bulk, "lost") > 0, "the ring was full: {of_bulk}");
    let of_anomalies = detector.must(&json!({"do": "await", "name": topics[1], "total": anomalies + 1}));
    assert_eq!(number(&of_anomalies, "received"), anomalies + 1, "{of_anomalies}");
}

/// Far more batches than anybody reads, for `EVENTBUS_OVERLOAD_SECONDS`.
#[test]
fn every_anomaly_arrives_beside_a_flood_of_batches() {
    let seconds = std::env::var("EVENTBUS_OVERLOAD_SECONDS");
    let seconds: u64 = seconds.map_or(1, |seconds| seconds.parse().expect("a number of seconds"));
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"queue_bytes": 1 << 20})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    // One subscription for all of it is read, slowly.
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "slow_us": 500}));
    for (name, topic) in [("bulk", "events.process.batch"), ("alerts", "events.process.anomaly")] {
        procmond.must(&json!({"do": "declare", "name": name, "topic": topic}));
    }
    procmond.tell(&json!({"do": "flood", "tag": "bulk", "count": 256, "within_ms": seconds * 1000}));
    let published = procmond.answer(DEADLINE + std::time::Duration::from_secs(seconds));
    let (alerts, bulk) = (number(&published, "alerts"), number(&published, "bulk"));
    let due = agent.must(&json!({"do": "await_tag", "tag": "alert", "next": alerts}));
    assert_eq!(number(&due, "next"), alerts, "{published}");
    let report = agent.must(&json!({"do": "await", "total": alerts + bulk}));
    assert_eq!(number(&report, "received") + number(&report, "lost"), alerts + bulk, "{report}");
    assert!(report["gaps_of"]["alert"].is_null(), "{report}");
    assert!(number(&report, "lost") > 0, "it was a flood: {report}");
}

/// Two publishers, one subscription that nobody reads while its queue fills.
#[test]
fn an_anomaly_goes_ahead_of_bulk_that_a_slow_reader_has_not_read() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client_with(&folder, "detector", json!({"queue_bytes": 1 << 20})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "unread": true}));
    for (name, topic) in [("bulk", "events.process.batch"), ("alerts", "events.process.anomaly")] {
        procmond.must(&json!({"do": "declare", "name": name, "topic": topic}));
    }
    let bulk = 20_000;
    procmond.must(&json!({"do": "batch", "name": "bulk", "tag": "bulk", "from": 0, "count": bulk}));
    procmond.must(&json!({"do": "singles", "name": "alerts", "tag": "alert", "from": 0, "count": 100}));
    procmond.must(&json!({"do": "flush", "name": "bulk", "within_ms": MINUTE_MS}));
    procmond.must(&json!({"do": "flush", "name": "alerts", "within_ms": MINUTE_MS}));
    let losses = detector.must(&json!({"do": "losses"}));
    let lost = number(&losses, "queue");
    assert!(lost > bulk / 2 && number(&losses, "ring") == 0, "the queue holds less: {losses}");
    detector.must(&json!({"do": "read"}));
    let report = detector.must(&json!({"do": "await", "total": bulk + 100}));
    assert_eq!((number(&report, "received"), number(&report, "lost")), (bulk + 100 - lost, lost), "{report}");
    let tags = detector.must(&json!({"do": "order"}));
    assert_eq!(tags, json!({"order": ["alert", "bulk"]}), "who was heard first");
}
