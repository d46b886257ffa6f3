//! Rings that lead over the broker, between real processes.

use serde_json::{Value, json};

use crate::support::{Folder, Role, STRANGER, look, wait_until};

const TOPIC: &str = "events.process.batch";
const CONTROL: &str = "control.health.status";
const KILOBYTE: u64 = 1 << 10;
/// What may wait in the broker, of all sessions together.
const RELAYED_KILOBYTES_OF_ALL: u64 = 64 << 10;

fn exact(total: u64, report: &Value) {
    let count = |fact: &str| report[fact].as_u64().expect("a report counts");
    assert_eq!(count("received") + count("lost"), total, "{report}");
    assert_eq!(count("disorder"), 0, "{report}");
}

/// Awaits the events of a tag.
fn comes(subscriber: &mut Role, tag: &str, next: u64) {
    let due = subscriber.must(&json!({"do": "await_tag", "tag": tag, "next": next}));
    assert_eq!(due["next"], next, "{due}");
}

fn waiting(agent: &mut Role) -> u64 {
    let seen = agent.must(&json!({"do": "broker_statistics"}));
    seen["in_use"]["RelayedBytes"].as_u64().expect("it is counted")
}

#[test]
fn a_stopped_subscriber_over_the_broker_delays_nobody_and_is_told_what_it_lost() {
    let folder = Folder::new();
    let ring_bytes = 1 << 20;
    let mut agent = Role::agent(&folder, json!({"backing": "relay", "ring_bytes": ring_bytes})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut exporter = Role::client(&folder, "exporter").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    for subscriber in [&mut detector, &mut exporter] {
        subscriber.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    }
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    let before = look::resident_kilobytes_max(agent.pid());
    exporter.stop();
    // Far more than the window, at the pace of the one that reads.
    let (rounds, count) = (40, 1000);
    for round in 0..rounds {
        procmond.must(&json!({"do": "batch", "from": round * count, "count": count}));
        let report = detector.must(&json!({"do": "await", "total": (round + 1) * count}));
        exact((round + 1) * count, &report);
        assert_eq!(report["lost"], 0, "{report}");
    }
    let after = look::resident_kilobytes_max(agent.pid());
    assert!(after - before < 8 * ring_bytes / KILOBYTE, "{before} {after}");
    exporter.go_on();
    let report = exporter.must(&json!({"do": "await", "total": rounds * count}));
    exact(rounds * count, &report);
    assert!(report["lost"].as_u64() > Some(0) && report["received"].as_u64() > Some(0), "{report}");
    assert_eq!(look::segments(procmond.pid()) + look::segments(exporter.pid()), 0);
    wait_until("all has been read", || waiting(&mut agent) == 0);
}

#[test]
fn strangers_that_never_read_take_a_bounded_part_of_the_broker_and_nothing_of_others() {
    let folder = Folder::new();
    let options = json!({"backing": "relay", "socket_mode": 0o666, "ring_bytes": 16 << 20});
    let mut agent = Role::agent(&folder, options).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    let mut strangers = Vec::new();
    for (name, uid) in
        ["exporter", "tool", "viewer", "console"].into_iter().zip([STRANGER, STRANGER - 1].repeat(2))
    {
        let mut stranger = Role::of_user(&folder, "client", name, uid, json!({})).up();
        stranger.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
        stranger.stop();
        strangers.push(stranger);
    }
    let mut detector = Role::client(&folder, "detector").up();
    detector.must(&json!({"do": "subscribe", "patterns": [CONTROL]}));
    let before = look::resident_kilobytes_max(agent.pid());
    let (rounds, count) = (20, 5000);
    for round in 0..rounds {
        procmond.must(&json!({"do": "batch", "from": round * count, "count": count}));
        procmond.must(&json!({"do": "publish", "topic": CONTROL, "tag": "beat", "from": round, "count": 1}));
        comes(&mut detector, "beat", round + 1);
    }
    let waits = waiting(&mut agent);
    assert!(waits > 0 && waits / KILOBYTE <= RELAYED_KILOBYTES_OF_ALL * 3 / 4, "{waits}: strangers' part");
    let after = look::resident_kilobytes_max(agent.pid());
    assert!(after - before < RELAYED_KILOBYTES_OF_ALL + (32 << 10), "{before} {after}");
    for stranger in &mut strangers {
        stranger.kill();
    }
    wait_until("what was for them is gone", || waiting(&mut agent) == 0);
}

#[test]
fn what_one_publisher_says_on_topics_of_both_kinds_comes_on_each() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["#"]}));
    let mut procmond = Role::client(&folder, "procmond").up();
    for topic in [TOPIC, CONTROL] {
        procmond.must(&json!({"do": "publish", "topic": topic, "tag": topic, "from": 0, "count": 5}));
        comes(&mut agent, topic, 5);
    }
}
