//! Rings of different sizes, and what happens when there is no more memory for them.

use serde_json::{Value, json};

use crate::support::{Folder, Role, STRANGER, is_named, look, wait_until};

const TOPIC: &str = "events.process.batch";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a ring of so many data bytes is charged with.
const fn charge(ring_bytes: u64) -> u64 {
    ring_bytes + 8 * KIB
}

fn count(report: &Value, fact: &str) -> u64 {
    report[fact].as_u64().expect("a report counts")
}

fn subscribe(role: &mut Role, ring_bytes: u64) {
    role.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "ring_bytes": ring_bytes}));
}

/// It was refused for want of budget; the text says whose.
fn is_over_budget(refusal: &Value, whose: &str) {
    assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("RingBudget")), "{refusal}");
    assert!(refusal["error"].as_str().is_some_and(|text| text.contains(whose)), "{refusal}");
}

fn charges(agent: &mut Role) -> Value {
    agent.must(&json!({"do": "ring_charges"}))["charges"].clone()
}

#[test]
fn each_subscriber_loses_what_its_own_ring_does_not_hold() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 256 * KIB})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    let (mut detector, mut exporter) =
        (Role::client(&folder, "detector").up(), Role::client(&folder, "exporter").up());
    subscribe(&mut detector, 64 * KIB);
    subscribe(&mut exporter, MIB);
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    assert_eq!(look::rings(procmond.pid()), [64 * KIB, 256 * KIB, MIB]);
    for (role, bytes) in [(&detector, 64 * KIB), (&exporter, MIB), (&agent, 256 * KIB)] {
        assert_eq!(look::rings(role.pid()), [bytes]);
    }
    detector.stop();
    exporter.stop();
    let (rounds, per_round) = (80, 100);
    for round in 0..rounds {
        procmond.must(&json!({"do": "singles", "from": round * per_round, "count": per_round}));
        let report = agent.must(&json!({"do": "await", "total": (round + 1) * per_round}));
        assert_eq!(count(&report, "lost"), 0, "its ring is another: {report}");
    }
    detector.go_on();
    exporter.go_on();
    let total = rounds * per_round;
    let received = [&mut detector, &mut exporter].map(|role| {
        let report = role.must(&json!({"do": "await", "total": total}));
        assert_eq!(count(&report, "received") + count(&report, "lost"), total, "{report}");
        assert_eq!((count(&report, "gaps"), count(&report, "disorder")), (0, 0), "{report}");
        count(&report, "received")
    });
    assert!(received[1] < total, "it is more than a MiB: {received:?}");
    let times = received[1] as f64 / received[0] as f64;
    assert!(
        (14.0..18.0).contains(&times),
        "sixteen times the ring holds {times} times as much: {received:?}"
    );
    let dropped = count(&procmond.must(&json!({"do": "totals"})), "dropped");
    assert_eq!(dropped, 2 * total - received[0] - received[1], "the publisher counts the same");
}

#[test]
fn a_ring_has_its_size_for_life_and_the_largest_that_was_asked_for_counts() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({"ring_bytes": 64 * KIB})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    for (name, bytes) in [("small", 128 * KIB), ("large", 512 * KIB)] {
        let patterns = json!(["events.process.#"]);
        detector.must(&json!({"do": "subscribe", "name": name, "patterns": patterns, "ring_bytes": bytes}));
    }
    procmond.must(&json!({"do": "declare", "name": "first", "topic": TOPIC}));
    assert_eq!(look::rings(procmond.pid()), [512 * KIB]);
    detector.must(&json!({"do": "unsubscribe", "name": "large"}));
    let more = json!({"do": "subscribe", "name": "more", "patterns": [TOPIC], "ring_bytes": 256 * KIB});
    detector.must(&more);
    assert_eq!(look::rings(procmond.pid()), [512 * KIB]);
    procmond.must(&json!({"do": "declare", "name": "second", "topic": TOPIC}));
    for role in [&procmond, &detector] {
        assert_eq!(look::rings(role.pid()), [256 * KIB, 512 * KIB]);
    }
    for name in ["first", "second"] {
        procmond.must(&json!({"do": "batch", "name": name, "tag": name, "from": 0, "count": 100}));
    }
    for name in ["small", "more"] {
        let report = detector.must(&json!({"do": "await", "name": name, "total": 200}));
        assert_eq!((count(&report, "received"), count(&report, "lost")), (200, 0), "{name}: {report}");
    }
}

#[test]
fn a_size_that_can_not_be_is_a_typed_error_for_each_of_those_who_say_it() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    for bytes in [0, 1, 63 * KIB, 64 * KIB + 1, 3 * MIB, 2 << 30, u64::MAX] {
        let asked = json!({"do": "subscribe", "patterns": ["events.process.#"], "ring_bytes": bytes});
        for role in [&mut agent, &mut detector] {
            let refusal = role.call(&asked);
            assert_eq!(refusal["kind"], format!("RingBytes({bytes})"), "{refusal}");
        }
        let other = Folder::new();
        let broker = Role::agent(&other, json!({"ring_bytes": bytes})).hello();
        let text = format!("a ring holds a power of two of bytes from 64 KiB to 1 GiB, not {bytes}");
        assert_eq!(broker["error"], text, "{broker}");
    }
}

#[test]
fn a_batch_is_divided_for_the_smallest_ring_that_it_is_for() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    let mut exporter = Role::client(&folder, "exporter").up();
    exporter.must(&json!({"do": "subscribe", "patterns": [TOPIC]}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    let report = exporter.must(&json!({"do": "await", "total": 100}));
    assert_eq!((count(&report, "received"), count(&report, "batches")), (100, 1), "{report}");
    let mut detector = Role::client(&folder, "detector").up();
    subscribe(&mut detector, 64 * KIB);
    // Each batch is a third of what the small ring holds, and more than two of its largest records.
    for round in 1..=20 {
        procmond.must(&json!({"do": "batch", "from": round * 100, "count": 100}));
        let report = detector.must(&json!({"do": "await", "total": round * 100}));
        assert_eq!((count(&report, "received"), count(&report, "lost")), (round * 100, 0), "{report}");
        assert!(count(&report, "batches") >= 3 * round, "{report}");
    }
    let report = exporter.must(&json!({"do": "await", "total": 2100}));
    assert_eq!((count(&report, "received"), count(&report, "lost")), (2100, 0), "{report}");
}

#[test]
fn a_large_event_reaches_the_rings_that_take_it_and_is_told_as_lost_by_the_others() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 256 * KIB})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    let mut detector = Role::client(&folder, "detector").up();
    subscribe(&mut detector, 64 * KIB);
    // What fits into a ring of the broker's own size is never refused.
    let delivery = procmond.must(&json!({"do": "large", "bytes": 30 * KIB}));
    assert_eq!((count(&delivery, "reached"), count(&delivery, "dropped")), (0, 1), "{delivery}");
    let report = detector.must(&json!({"do": "await", "total": 1}));
    assert_eq!(
        (count(&report, "lost"), &report["errors"]),
        (1, &json!([])),
        "without a further event: {report}"
    );
    agent.must(&json!({"do": "subscribe", "patterns": [TOPIC]}));
    let too_large = procmond.call(&json!({"do": "large", "bytes": 300 * KIB}));
    assert_eq!(too_large["kind"], "TooLarge", "nobody has room for it: {too_large}");

    let mut exporter = Role::client(&folder, "exporter").up();
    subscribe(&mut exporter, 4 * MIB);
    let delivery = procmond.must(&json!({"do": "large", "bytes": 300 * KIB}));
    assert_eq!((count(&delivery, "reached"), count(&delivery, "dropped")), (1, 2), "{delivery}");
    procmond.must(&json!({"do": "singles", "from": 0, "count": 10}));
    for (role, received, lost) in [(&mut exporter, 11, 0), (&mut agent, 10, 1), (&mut detector, 10, 2)] {
        let report = role.must(&json!({"do": "await", "total": received + lost}));
        assert_eq!((count(&report, "received"), count(&report, "lost")), (received, lost), "{report}");
        assert_eq!(report["errors"], json!([]), "{report}");
    }
    exporter.kill();
    wait_until("nobody has room for it any more", || {
        procmond.call(&json!({"do": "large", "bytes": 300 * KIB}))["kind"] == "TooLarge"
    });
}

#[test]
fn a_queue_holds_what_a_larger_ring_holds_unless_it_is_told_otherwise() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({"ring_bytes": 64 * KIB})).up();
    let mut detector = Role::client_with(&folder, "detector", json!({"queue_bytes": 70_000})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    for (name, queue_bytes) in [("as large", Value::Null), ("small", json!(70_000)), ("read", json!(8 * MIB))]
    {
        let mut asked = json!({"do": "subscribe", "name": name, "patterns": [TOPIC], "ring_bytes": MIB});
        asked["queue_bytes"] = queue_bytes;
        asked["unread"] = (name != "read").into();
        detector.must(&asked);
    }
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    // A MiB, each batch read before the next.
    let (rounds, per_round) = (30, 100);
    for round in 0..rounds {
        procmond.must(&json!({"do": "batch", "from": round * per_round, "count": per_round}));
        let total = (round + 1) * per_round;
        let report = detector.must(&json!({"do": "await", "name": "read", "total": total}));
        assert_eq!(count(&report, "lost"), 0, "{report}");
    }
    let total = rounds * per_round;
    let lost = ["as large", "small"].map(|name| {
        detector.must(&json!({"do": "read", "name": name}));
        count(&detector.must(&json!({"do": "await", "name": name, "total": total})), "lost")
    });
    assert_eq!(lost[0], 0);
    assert!(lost[1] > total / 2, "{lost:?}");
}

#[test]
fn a_publisher_that_can_not_make_a_ring_so_large_makes_one_of_the_usual_size() {
    let folder = Folder::new();
    let log = folder.path().join("log");
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 64 * KIB, "log": log})).up();
    let (mut detector, mut exporter) =
        (Role::client(&folder, "detector").up(), Role::client(&folder, "exporter").up());
    subscribe(&mut detector, 64 * MIB);
    subscribe(&mut exporter, 128 * KIB);
    // No file of more than 1 MiB.
    let within = ["sh", "-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "sh"];
    let mut procmond = Role::client_with(&folder, "procmond", json!({"within": within})).up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    assert_eq!(look::rings(procmond.pid()), [64 * KIB, 128 * KIB]);
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    for role in [&mut detector, &mut exporter] {
        assert_eq!(count(&role.must(&json!({"do": "await", "total": 100})), "received"), 100);
    }
    assert_eq!(charges(&mut agent), json!([["Uid(0)", 2, charge(64 * KIB) + charge(128 * KIB)]]));
    let log = std::fs::read_to_string(&log).expect("the agent writes it");
    assert!(log.contains("a ring has not the size asked for"), "{log}");
}

#[test]
fn a_publisher_that_may_start_no_thread_makes_a_ring_of_the_usual_size() {
    if is_named() {
        // A stranger has no ring at all there.
        return;
    }
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 64 * KIB, "socket_mode": 0o666})).up();
    let mut procmond = Role::strange_client(&folder, "procmond", json!({})).up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    procmond.must(&json!({"do": "no_more_threads"}));
    let mut detector = Role::client(&folder, "detector").up();
    subscribe(&mut detector, 64 * MIB);
    assert_eq!(look::rings(procmond.pid()), [64 * KIB]);
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    assert_eq!(count(&detector.must(&json!({"do": "await", "total": 100})), "received"), 100);
    assert_eq!(agent.must(&json!({"do": "components"}))["components"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_large_ring_holds_what_a_hundred_of_the_usual_size_would() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 64 * KIB})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    subscribe(&mut detector, 32 * MIB);
    agent.must(&json!({"do": "subscribe", "patterns": [TOPIC]}));
    assert_eq!(look::rings(procmond.pid()), [64 * KIB, 32 * MIB]);
    detector.stop();
    procmond.must(&json!({"do": "singles", "from": 0, "count": 20_000}));
    detector.go_on();
    let report = detector.must(&json!({"do": "await", "total": 20_000}));
    assert_eq!((count(&report, "received"), count(&report, "lost")), (20_000, 0), "{report}");
}

#[test]
fn who_uses_up_its_share_is_refused_and_others_of_its_user_are_served_as_procmond_and_the_agent_are() {
    if is_named() {
        // A stranger has no ring at all there.
        return;
    }
    let folder = Folder::new();
    let options = json!({
        "ring_bytes": 64 * KIB,
        "ring_budget_per_uid": 6 * MIB,
        "socket_mode": 0o666,
    });
    let mut agent = Role::agent(&folder, options).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    agent.must(&json!({"do": "subscribe", "patterns": ["events.#"]}));
    let mut exporter = Role::strange_client(&folder, "exporter", json!({})).up();
    let ask =
        |bytes| json!({"do": "subscribe", "patterns": ["events.#"], "ring_bytes": bytes, "name": "refused"});
    is_over_budget(&exporter.call(&ask(8 * MIB)), "uid 65534 has 0 of 6291456");
    is_over_budget(&exporter.call(&ask(4 * MIB)), "this session has 0 of 3145728");
    subscribe(&mut exporter, 2 * MIB);
    // As a subscriber, of whatever name.
    let mut second = Role::strange_client(&folder, "detector", json!({})).up();
    is_over_budget(&second.call(&ask(4 * MIB)), "uid 65534 has 2105344 of 6291456");
    is_over_budget(&second.call(&ask(2 * MIB)), "this session has 0 of 2093056");
    subscribe(&mut second, MIB);
    let mut netmond = Role::strange_client(&folder, "netmond", json!({})).up();
    for index in 0..10 {
        netmond.must(&json!({"do": "declare", "name": index.to_string(), "topic": "events.network.event"}));
    }
    let list = charges(&mut agent);
    assert_eq!(list[0], json!(["Agent", 11, 11 * charge(64 * KIB)]), "who publishes does not pay");
    let of_stranger = list[1].as_array().expect("the stranger's");
    assert_eq!(of_stranger[0], format!("Uid({STRANGER})"));
    assert!(of_stranger[2].as_u64().is_some_and(|bytes| bytes <= 6 * MIB && bytes > 3 * MIB), "{list}");

    let mut other = Role::client(&folder, "tool").up();
    other.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "name": "more", "topic": TOPIC}));
    for round in 0..10 {
        procmond.must(&json!({"do": "batch", "from": round * 100, "count": 100}));
        let report = agent.must(&json!({"do": "await", "total": (round + 1) * 100}));
        assert_eq!((count(&report, "received"), count(&report, "lost")), ((round + 1) * 100, 0), "{report}");
    }
    assert_eq!(agent.must(&json!({"do": "components"}))["components"].as_array().map(Vec::len), Some(6));
    for mut role in [exporter, second, netmond] {
        role.kill();
    }
    wait_until("what the stranger had is free", || {
        !charges(&mut agent).to_string().contains(&STRANGER.to_string())
    });
}

#[test]
fn where_all_is_used_up_whoever_asks_is_refused_and_what_is_there_goes_on() {
    let folder = Folder::new();
    let options = json!({"ring_bytes": 64 * KIB, "ring_budget_bytes": 2 * charge(64 * KIB)});
    let mut agent = Role::agent(&folder, options).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    let mut detector = Role::client(&folder, "detector").up();
    for role in [&mut detector, &mut agent] {
        role.must(&json!({"do": "subscribe", "patterns": [TOPIC]}));
    }
    let refused = procmond.call(&json!({"do": "declare", "name": "more", "topic": TOPIC}));
    is_over_budget(&refused, "the bus has 147456 of 147456");
    let mut exporter = Role::client(&folder, "exporter").up();
    is_over_budget(&exporter.call(&json!({"do": "subscribe", "patterns": [TOPIC]})), "the bus");
    let mut netmond = Role::client(&folder, "netmond").up();
    netmond.must(&json!({"do": "declare", "topic": "events.network.event"}));
    is_over_budget(&agent.call(&json!({"do": "subscribe", "name": "more", "patterns": ["#"]})), "the bus");
    assert_eq!(charges(&mut agent), json!([["Agent", 1, charge(64 * KIB)], ["Uid(0)", 1, charge(64 * KIB)]]));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    for role in [&mut detector, &mut agent] {
        assert_eq!(count(&role.must(&json!({"do": "await", "total": 100})), "received"), 100);
    }
    // What is given back can be had by another.
    detector.kill();
    wait_until("its ring has ended", || {
        exporter.call(&json!({"do": "subscribe", "patterns": [TOPIC]})).get("error").is_none()
    });
    procmond.must(&json!({"do": "batch", "from": 100, "count": 100}));
    assert_eq!(count(&exporter.must(&json!({"do": "await", "total": 100})), "received"), 100);
}

#[test]
fn of_a_very_large_ring_no_process_maps_more_at_once_than_it_touches() {
    if is_named() {
        // There may be less memory with names than that.
        return;
    }
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    subscribe(&mut detector, 256 * MIB);
    for role in [&procmond, &detector] {
        assert_eq!(look::rings(role.pid()), [256 * MIB]);
        assert!(look::resident_kilobytes(role.pid()) < 100 * KIB, "and little of it is in its tables");
    }
    procmond.must(&json!({"do": "batch", "from": 0, "count": 10_000}));
    let report = detector.must(&json!({"do": "await", "total": 10_000}));
    assert_eq!((count(&report, "received"), count(&report, "lost")), (10_000, 0), "{report}");
}
