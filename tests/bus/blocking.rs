//! Threads that wait for their subscription and for nothing else, and read the rings themselves meanwhile.

use serde_json::{Value, json};

use crate::support::{Folder, Role};

/// The ring to each subscriber; a hundredth of what is published beside a reader that is busy.
const RING_BYTES: u64 = 1 << 16;
const MINUTE_MS: u64 = 60_000;

/// An agent, procmond with a publisher, and a detector whose thread takes `slow_us` for each batch and then waits for ever.
fn cast(folder: &Folder, slow_us: u64) -> [Role; 3] {
    let agent = Role::agent(folder, json!({"ring_bytes": RING_BYTES})).up();
    let mut detector = Role::client_with(folder, "detector", json!({"queue_bytes": 1 << 30})).up();
    let mut procmond = Role::client(folder, "procmond").up();
    // In this order the detector has a ring, and who reads it, before its thread waits for the first time.
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    subscribe(&mut detector, slow_us);
    [agent, detector, procmond]
}

fn subscribe(role: &mut Role, slow_us: u64) {
    role.must(&json!({
        "do": "subscribe", "patterns": ["events.process.#"], "blocking": "for_ever", "slow_us": slow_us
    }));
}

fn facts(report: &Value) -> [Option<u64>; 4] {
    ["received", "lost", "gaps", "disorder"].map(|fact| report[fact].as_u64())
}

fn publish(publisher: &mut Role, from: u64, count: u64) -> Value {
    publisher.must(&json!({"do": "batch_within", "from": from, "count": count, "within_ms": MINUTE_MS}))
}

#[test]
fn a_thread_that_waits_receives_everything_in_order() {
    let folder = Folder::new();
    let [_agent, mut detector, mut procmond] = cast(&folder, 0);
    let (rounds, count) = (50, 100);
    for round in 0..rounds {
        // It has fallen asleep again, or is about to.
        publish(&mut procmond, round * count, count);
        let report = detector.must(&json!({"do": "await", "total": (round + 1) * count}));
        assert_eq!(facts(&report), [Some((round + 1) * count), Some(0), Some(0), Some(0)], "{report}");
    }
    let from = rounds * count;
    assert_eq!(publish(&mut procmond, from, 50_000)["dropped"], 0);
    let report = detector.must(&json!({"do": "await", "total": from + 50_000}));
    assert_eq!(facts(&report), [Some(from + 50_000), Some(0), Some(0), Some(0)], "{report}");
}

#[test]
fn a_ring_does_not_fill_up_behind_a_thread_that_is_busy() {
    let folder = Folder::new();
    let [_agent, _detector, mut procmond] = cast(&folder, 1000 * 1000 * MINUTE_MS);
    publish(&mut procmond, 0, 1);
    let delivery = publish(&mut procmond, 1, 10_000);
    assert_eq!((&delivery["reached"], &delivery["dropped"]), (&json!(10_000), &json!(0)), "{delivery}");
}

#[test]
fn other_subscriptions_are_made_and_served_beside_a_thread_that_waits_or_is_busy() {
    for slow_us in [0, 1000 * 1000 * MINUTE_MS] {
        let folder = Folder::new();
        let [_agent, mut detector, mut procmond] = cast(&folder, slow_us);
        publish(&mut procmond, 0, 1);
        if slow_us == 0 {
            detector.must(&json!({"do": "await", "total": 1}));
        }
        detector.must(&json!({"do": "subscribe", "name": "other", "patterns": ["events.process.#"]}));
        publish(&mut procmond, 1, 1000);
        let other = detector.must(&json!({"do": "await", "name": "other", "total": 1000}));
        assert_eq!((&other["received"], &other["lost"]), (&json!(1000), &json!(0)), "{other}");
        if slow_us == 0 {
            let report = detector.must(&json!({"do": "await", "total": 1001}));
            assert_eq!(facts(&report), [Some(1001), Some(0), Some(0), Some(0)], "{report}");
            // Once it is alone again it goes on as before.
            detector.must(&json!({"do": "unsubscribe", "name": "other"}));
            publish(&mut procmond, 1001, 1000);
            let report = detector.must(&json!({"do": "await", "total": 2001}));
            assert_eq!(facts(&report), [Some(2001), Some(0), Some(0), Some(0)], "{report}");
        }
    }
}

#[test]
fn a_thread_that_waits_hears_of_the_end_and_of_what_came_before() {
    let folder = Folder::new();
    let [mut agent, mut detector, mut procmond] = cast(&folder, 0);
    subscribe(&mut agent, 0);
    publish(&mut procmond, 0, 10);
    for role in [&mut agent, &mut detector] {
        role.must(&json!({"do": "await", "total": 10}));
    }
    procmond.kill();
    agent.must(&json!({"do": "shutdown"}));
    for role in [&mut agent, &mut detector] {
        let report = role.must(&json!({"do": "await_end"}));
        assert_eq!((&report["received"], &report["ended"]), (&json!(10), &json!(true)), "{report}");
    }
}

#[test]
fn a_thread_that_sleeps_over_rings_is_woken_by_a_publisher_of_its_own_process() {
    let folder = Folder::new();
    let [mut agent, _detector, mut procmond] = cast(&folder, 0);
    subscribe(&mut agent, 0);
    agent.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    publish(&mut procmond, 0, 1);
    agent.must(&json!({"do": "await", "total": 1}));
    for round in 0..100 {
        agent.must(&json!({"do": "batch", "tag": "own", "from": round, "count": 1}));
        let report = agent.must(&json!({"do": "await", "total": round + 2}));
        assert_eq!(facts(&report), [Some(round + 2), Some(0), Some(0), Some(0)], "{report}");
    }
}
