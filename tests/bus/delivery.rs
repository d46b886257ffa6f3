//! What is published arrives: once, in order, to those who asked.

use serde_json::json;

use crate::support::{Folder, Role};

/// An agent, and two clients that may receive process events, each subscribed to these patterns; and procmond.
fn cast(folder: &Folder, patterns: &[&str]) -> (Role, Role, Role) {
    let mut agent = Role::agent(folder, json!({})).up();
    let mut detector = Role::client(folder, "detector").up();
    let procmond = Role::client(folder, "procmond").up();
    agent.must(&json!({"do": "subscribe", "patterns": patterns}));
    detector.must(&json!({"do": "subscribe", "patterns": patterns}));
    (agent, detector, procmond)
}

/// Everything arrived, once and in order.
fn whole(total: u64, report: &serde_json::Value) {
    let facts = ["received", "lost", "disorder", "gaps"].map(|fact| report[fact].as_u64());
    assert_eq!(facts, [Some(total), Some(0), Some(0), Some(0)], "{report}");
}

#[test]
fn batches_arrive_whole_and_in_order_in_each_subscribing_process() {
    let folder = Folder::new();
    let (mut agent, mut detector, mut procmond) = cast(&folder, &["events.process.#"]);
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    for round in 0..20 {
        let batch = json!({"do": "batch", "from": round * 1000, "count": 1000});
        let delivery = procmond.must(&batch);
        assert_eq!(
            delivery,
            json!({"events": 1000, "subscribers": 2, "reached": 2000, "dropped": 0, "kept": 0})
        );
    }
    for subscriber in [&mut agent, &mut detector] {
        whole(20_000, &subscriber.must(&json!({"do": "await", "total": 20_000})));
    }
}

#[test]
fn single_events_and_batches_of_one_publisher_keep_their_order() {
    let folder = Folder::new();
    let (mut agent, mut detector, mut procmond) = cast(&folder, &["events.process.#"]);
    procmond.must(&json!({"do": "declare", "topic": "events.process.lifecycle"}));
    for round in 0..50 {
        procmond.must(&json!({"do": "singles", "from": round * 110, "count": 10}));
        procmond.must(&json!({"do": "batch", "from": round * 110 + 10, "count": 100}));
    }
    for subscriber in [&mut agent, &mut detector] {
        whole(5500, &subscriber.must(&json!({"do": "await", "total": 5500})));
    }
}

#[test]
fn eight_threads_publish_through_one_client() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"runtime": "multi"})).up();
    let mut procmond = Role::client_with(&folder, "procmond", json!({"runtime": "multi"})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.lifecycle"]}));
    procmond.must(&json!({"do": "storm", "topic": "events.process.lifecycle", "threads": 8, "count": 1000}));
    whole(8000, &agent.must(&json!({"do": "await", "total": 8000})));
}

#[test]
fn each_kind_of_pattern_receives_what_it_matches_and_nothing_else() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    let topics = [
        "events.process.batch",
        "events.process.lifecycle",
        "events.process.anomaly",
        "events.collector.procmond",
    ];
    let expected = [
        ("events.process.batch", 1),
        ("events.process.+", 3),
        ("events.process.*", 3),
        ("events.+.batch", 1),
        ("events.process.#", 3),
        ("events.#", 4),
        ("#", 4),
        ("events.+.+", 4),
        ("+.process.anomaly", 1),
        ("events.network.#", 0),
        ("events.+", 0),
    ];
    for (pattern, _) in expected {
        agent.must(&json!({"do": "subscribe", "name": pattern, "patterns": [pattern]}));
    }
    agent.must(
        &json!({"do": "subscribe", "name": "both", "patterns": ["events.process.+", "events.+.batch"]}),
    );
    for topic in topics {
        procmond.must(&json!({"do": "publish", "topic": topic, "tag": topic, "from": 0, "count": 1}));
    }
    // All of it went through one publisher: once the last has arrived, so has the rest.
    whole(4, &agent.must(&json!({"do": "await", "name": "#", "total": 4})));
    for (pattern, count) in expected {
        whole(count, &agent.must(&json!({"do": "await", "name": pattern, "total": count})));
    }
    whole(3, &agent.must(&json!({"do": "await", "name": "both", "total": 3})));
}

#[test]
fn an_event_published_after_subscribe_returned_is_delivered() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    for round in 0..30 {
        for subscriber in [&mut agent, &mut detector] {
            subscriber.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
        }
        let delivery = procmond.must(&json!({"do": "batch", "from": round, "count": 1}));
        assert_eq!(delivery["reached"], 2, "both are reached from the first event on");
        for subscriber in [&mut agent, &mut detector] {
            let report = subscriber.must(&json!({"do": "await", "total": 1}));
            assert_eq!((&report["received"], &report["lost"]), (&json!(1), &json!(0)), "{report}");
            subscriber.must(&json!({"do": "unsubscribe"}));
        }
    }
}

#[test]
fn who_unsubscribes_is_left_alone_and_others_are_not_disturbed() {
    let folder = Folder::new();
    let (mut agent, mut detector, mut procmond) = cast(&folder, &["events.process.#"]);
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    whole(100, &detector.must(&json!({"do": "await", "total": 100})));
    detector.must(&json!({"do": "unsubscribe"}));
    crate::support::wait_until("the publisher has one subscriber left", || {
        procmond.must(&json!({"do": "batch", "tag": "probe", "from": 0, "count": 1}))["subscribers"] == 1
    });
    procmond.must(&json!({"do": "batch", "from": 100, "count": 100}));
    let report = agent.must(&json!({"do": "await", "total": 201}));
    assert_eq!((&report["lost"], &report["gaps"]), (&json!(0), &json!(0)), "{report}");
}

#[test]
fn a_publisher_without_subscribers_counts_and_goes_on() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let nobody = json!({"events": 10, "subscribers": 0, "reached": 0, "dropped": 0, "kept": 0});
    assert_eq!(procmond.must(&json!({"do": "batch", "from": 0, "count": 10})), nobody);
    assert_eq!(procmond.must(&json!({"do": "singles", "from": 0, "count": 10}))["events"], 20);
}

#[test]
fn a_collector_reads_what_the_agent_publishes() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "subscribe", "patterns": ["control.collector.lifecycle"]}));
    agent.must(&json!({"do": "declare", "topic": "control.collector.lifecycle"}));
    agent.must(&json!({"do": "singles", "from": 0, "count": 3}));
    whole(3, &procmond.must(&json!({"do": "await", "total": 3})));
}

#[test]
fn an_idle_bus_sleeps() {
    let folder = Folder::new();
    let (mut agent, mut detector, mut procmond) = cast(&folder, &["events.process.#"]);
    let mut exporter = Role::client(&folder, "exporter").up();
    exporter.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "blocking": "for_ever"}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    for subscriber in [&mut agent, &mut detector, &mut exporter] {
        whole(100, &subscriber.must(&json!({"do": "await", "total": 100})));
    }
    let pids = [&agent, &detector, &exporter, &procmond].map(Role::pid);
    let sleeps = || pids.map(crate::support::look::sleeps);
    // Nothing is due: once they sleep, they stay asleep. The condition is a stretch of quiet, not a moment.
    let seconds = std::env::var("EVENTBUS_IDLE_SECONDS");
    let quiet = std::time::Duration::from_secs(seconds.map_or(3, |quiet| quiet.parse().expect("a number")));
    let (mut before, mut since) = (sleeps(), std::time::Instant::now());
    crate::support::wait_within(crate::support::DEADLINE + quiet, "no thread wakes up for a while", || {
        let now = sleeps();
        if now != before {
            (before, since) = (now, std::time::Instant::now());
        }
        since.elapsed() > quiet
    });
}

#[test]
fn a_shutdown_ends_subscriptions_in_the_agent_itself() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    agent.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    assert_eq!(agent.must(&json!({"do": "batch", "from": 0, "count": 5}))["reached"], 5);
    agent.must(&json!({"do": "shutdown"}));
    assert_eq!(agent.must(&json!({"do": "await_end"}))["received"], 5);
    let delivery = agent.must(&json!({"do": "batch", "from": 5, "count": 5}));
    assert_eq!((&delivery["reached"], &delivery["subscribers"]), (&json!(0), &json!(0)), "nobody is there");
    let refusal = agent.call(&json!({"do": "subscribe", "name": "late", "patterns": ["events.process.#"]}));
    assert!(refusal.get("error").is_some(), "{refusal}");
}

#[test]
fn operations_that_are_given_up_midway_leave_nothing_and_break_nothing() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.lifecycle"]}));
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "cancel", "topic": "events.process.batch", "times": 200}));
    let segments = || crate::support::look::segments(procmond.pid());
    crate::support::wait_until("no ring of a publisher that was given up is left", || segments() == 0);
    procmond.must(&json!({"do": "publish", "topic": "events.process.lifecycle", "from": 0, "count": 100}));
    whole(100, &agent.must(&json!({"do": "await", "total": 100})));
}

#[test]
fn handles_may_be_dropped_on_a_thread_without_a_runtime() {
    let folder = Folder::new();
    let (mut agent, mut detector, mut procmond) = cast(&folder, &["events.process.#"]);
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    whole(100, &detector.must(&json!({"do": "await", "total": 100})));
    detector.must(&json!({"do": "drop_elsewhere"}));
    procmond.must(&json!({"do": "drop_elsewhere"}));
    let segments = |role: &Role| crate::support::look::segments(role.pid());
    crate::support::wait_until("all segments are unmapped", || {
        segments(&procmond) == 0 && segments(&agent) == 0
    });
    whole(100, &agent.must(&json!({"do": "await", "total": 100})));
}

#[test]
fn a_second_subscription_on_a_busy_ring_misses_nothing_from_the_first_event_on() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    agent.must(&json!({"do": "subscribe", "name": "first", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    for round in 0..200 {
        procmond.tell(&json!({"do": "batch", "tag": "busy", "from": round * 600, "count": 600}));
        agent.must(&json!({"do": "subscribe", "name": "second", "patterns": ["events.process.batch"]}));
        procmond.answer(crate::support::DEADLINE);
        procmond.must(&json!({"do": "batch", "tag": "after", "from": round, "count": 1}));
        agent.must(&json!({"do": "await", "name": "first", "total": (round + 1) * 601}));
        let after = json!({"do": "await_tag", "name": "second", "tag": "after", "next": round + 1});
        let report = agent.must(&after);
        assert_eq!(report["next"], round + 1, "the event after subscribe has arrived: {report}");
        agent.must(&json!({"do": "unsubscribe", "name": "second"}));
    }
}

#[test]
fn a_clean_shutdown_delivers_what_was_published_before_it() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    agent.stop();
    let delivery = procmond.must(&json!({"do": "batch", "from": 0, "count": 20_000}));
    agent.tell(&json!({"do": "shutdown"}));
    agent.go_on();
    agent.answer(crate::support::DEADLINE);
    let report = agent.must(&json!({"do": "await_end"}));
    assert_eq!(report["ended"], true, "{report}");
    let count = |fact: &str| report[fact].as_u64().expect("a report counts");
    assert_eq!(count("received") + count("lost"), 20_000, "{report}, {delivery}");
}
