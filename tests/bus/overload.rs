//! Slow and stopped subscribers: nobody waits for them, and what they lose is told exactly.

use serde_json::{Value, json};

use crate::support::{Folder, Role};

/// Received and lost, with the loss where the gaps are: all but what is lost behind the last event that came.
fn exact(total: u64, report: &Value) {
    let count = |fact: &str| report[fact].as_u64().expect("a report counts");
    assert_eq!(count("received") + count("lost"), total, "{report}");
    assert!(count("gaps") <= count("lost"), "{report}");
    assert_eq!(count("disorder"), 0, "{report}");
}

#[test]
fn a_scan_of_ten_thousand_processes_waits_for_a_stopped_subscriber() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    detector.stop();
    let delivery = procmond.must(&json!({"do": "batch", "from": 0, "count": 10_000}));
    assert_eq!(
        delivery,
        json!({"events": 10_000, "subscribers": 1, "reached": 10_000, "dropped": 0, "kept": 0})
    );
    detector.go_on();
    let report = detector.must(&json!({"do": "await", "total": 10_000}));
    assert_eq!((&report["received"], &report["gaps"]), (&json!(10_000), &json!(0)), "{report}");
}

#[test]
fn a_stopped_subscriber_delays_nobody_and_is_told_what_it_lost() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"queue_bytes": 1 << 30})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    for subscriber in [&mut agent, &mut detector] {
        subscriber.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    }
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    detector.stop();
    // Five times what a ring holds, at the pace of the subscriber that runs.
    let (rounds, count) = (40, 5000);
    for round in 0..rounds {
        procmond.must(&json!({"do": "batch", "from": round * count, "count": count}));
        let report = agent.must(&json!({"do": "await", "total": (round + 1) * count}));
        assert_eq!(report["lost"], 0, "{report}");
    }
    let total = rounds * count;
    let totals = procmond.must(&json!({"do": "totals"}));
    let dropped = totals["dropped"].as_u64().expect("a count");
    assert!(dropped > total / 2, "the stopped ring took no more than it holds: {totals}");
    let report = agent.must(&json!({"do": "tally"}));
    assert_eq!((&report["received"], &report["gaps"]), (&json!(total), &json!(0)), "{report}");

    detector.go_on();
    let report = detector.must(&json!({"do": "await", "total": total}));
    exact(total, &report);
    assert_eq!(report["lost"].as_u64(), Some(dropped), "the publisher counts the same: {report}");
}

/// Publishes ten times what a ring holds, at the pace of a healthy subscriber, beside one that reads nothing from `begin` on.
fn paced_beside(what: &str, begin: impl FnOnce(&Folder) -> Role) {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({"ring_bytes": 1 << 16})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    // Before the healthy one, so that each event goes there first.
    let _idle = begin(&folder);
    let mut detector = Role::client(&folder, "detector").up();
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let (rounds, count) = (60, 50);
    for round in 0..rounds {
        let shape = if round % 2 == 0 { "batch" } else { "singles" };
        procmond.must(&json!({"do": shape, "from": round * count, "count": count}));
        let report = detector.must(&json!({"do": "await", "total": (round + 1) * count}));
        let facts = ["received", "lost", "gaps", "disorder"].map(|fact| report[fact].as_u64());
        assert_eq!(facts, [Some((round + 1) * count), Some(0), Some(0), Some(0)], "beside {what}: {report}");
    }
    let totals = procmond.must(&json!({"do": "totals"}));
    assert_eq!(totals["subscribers"], 2, "{what} has not been sent away: {totals}");
    assert!(totals["dropped"].as_u64() > Some(rounds * count / 2), "{what} lags: {totals}");
}

#[test]
fn a_healthy_subscriber_loses_nothing_by_one_that_is_stopped_beside_it() {
    paced_beside("one that is stopped", |folder| {
        let mut exporter = Role::client(folder, "exporter").up();
        exporter.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
        exporter.stop();
        exporter
    });
}

#[test]
fn a_healthy_subscriber_loses_nothing_by_a_hostile_one_that_never_reads() {
    paced_beside("one that never reads", |folder| {
        let mut intruder = Role::intruder(folder, None);
        intruder.must(&json!({"do": "hello", "id": "exporter"}));
        let ring = intruder.must(&json!({"do": "subscribe", "pattern": "events.process.#"}));
        assert_eq!(ring["ready"], true, "{ring}");
        intruder
    });
}

#[test]
fn a_loss_behind_the_last_event_is_told_without_another_event() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 1 << 16})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.lifecycle"}));
    detector.stop();
    procmond.must(&json!({"do": "singles", "from": 0, "count": 1000}));
    detector.go_on();
    let report = detector.must(&json!({"do": "await", "total": 1000}));
    exact(1000, &report);
    assert!(report["lost"].as_u64() > Some(500), "{report}");
    assert_eq!(report["gaps"], 0, "all of the loss is behind the last event: {report}");
    agent.must(&json!({"do": "components"}));
}

#[test]
fn what_overflows_one_subscriptions_queue_is_lost_to_that_subscription_alone() {
    let folder = Folder::new();
    // Room for one record in a queue.
    let _agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client_with(&folder, "detector", json!({"queue_bytes": 70_000})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    detector.must(&json!({"do": "subscribe", "name": "read", "patterns": ["events.process.#"]}));
    detector.must(
        &json!({"do": "subscribe", "name": "unread", "patterns": ["events.process.#"], "unread": true}),
    );
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    // One record at a time, each read before the next.
    let (rounds, count) = (20, 100);
    for round in 0..rounds {
        procmond.must(&json!({"do": "batch", "from": round * count, "count": count}));
        let total = (round + 1) * count;
        let report = detector.must(&json!({"do": "await", "name": "read", "total": total}));
        assert_eq!((&report["received"], &report["lost"]), (&json!(total), &json!(0)), "{report}");
    }
    detector.must(&json!({"do": "read", "name": "unread"}));
    let report = detector.must(&json!({"do": "await", "name": "unread", "total": rounds * count}));
    exact(rounds * count, &report);
    assert!(report["lost"].as_u64() > Some(1000), "its queue holds a few records of twenty: {report}");
}

#[test]
fn a_subscription_that_joins_a_full_ring_is_told_of_its_own_time_only() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({"ring_bytes": 1 << 20})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    detector.must(&json!({"do": "subscribe", "name": "old", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.lifecycle"}));
    // To read what a ring holds takes longer than to subscribe.
    for round in 0..20_u64 {
        detector.stop();
        procmond.must(&json!({"do": "batch", "from": round * 8010, "count": 8000}));
        // The first thing that the detector does when it goes on is to subscribe once more.
        detector.tell(&json!({"do": "subscribe", "name": "new", "patterns": ["events.process.#"]}));
        detector.go_on();
        assert!(detector.answer(crate::support::DEADLINE).get("error").is_none());
        procmond.must(&json!({"do": "singles", "from": round * 8010 + 8000, "count": 10}));
        let report = detector.must(&json!({"do": "await", "name": "new", "total": 10}));
        let old = detector.must(&json!({"do": "await", "name": "old", "total": (round + 1) * 8010}));
        exact((round + 1) * 8010, &old);
        let report_after = detector.must(&json!({"do": "tally", "name": "new"}));
        assert_eq!(report, report_after, "nothing more came");
        let count = |fact: &str| report[fact].as_u64().expect("a report counts");
        assert_eq!(count("received") + count("lost"), 10, "{report}");
        detector.must(&json!({"do": "unsubscribe", "name": "new"}));
    }
}

#[test]
fn accounts_are_exact_for_each_topic_that_shares_a_ring() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 1 << 16})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    let topics = [("events.process.lifecycle", 700), ("events.process.metadata", 300)];
    for (topic, _) in topics {
        detector.must(&json!({"do": "subscribe", "name": topic, "patterns": [topic]}));
        procmond.must(&json!({"do": "publish", "topic": topic, "from": 0, "count": 1}));
    }
    detector.stop();
    for (topic, count) in topics {
        procmond.must(&json!({"do": "publish", "topic": topic, "from": 1, "count": count}));
    }
    detector.go_on();
    for (topic, count) in topics {
        let report = detector.must(&json!({"do": "await", "name": topic, "total": count + 1}));
        exact(count + 1, &report);
        assert!(report["lost"].as_u64() > Some(0), "{report}");
    }
    agent.must(&json!({"do": "components"}));
}
