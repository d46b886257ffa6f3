//! Where events went that did not come, and what is known of those who have left: between processes.

use serde_json::{Value, json};

use crate::support::{Folder, Role, wait_until};

const BATCHES: &str = "events.process.batch";

fn ask(role: &mut Role) -> Value {
    role.must(&json!({"do": "broker_statistics"}))
}

fn five(agent: &mut Role) -> (u64, u64) {
    let five = agent.must(&json!({"do": "bus_statistics"}));
    let figure = |name: &str| five[name].as_u64().expect("a figure");
    (figure("messages_published"), figure("messages_delivered"))
}

#[test]
fn each_loss_has_its_cause() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 1 << 16})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "ring_bytes": 1 << 20}));
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": BATCHES}));
    let large = procmond.must(&json!({"do": "large", "bytes": 20 << 10}));
    assert_eq!((&large["reached"], &large["dropped"]), (&json!(1), &json!(1)), "one ring takes it: {large}");
    detector.stop();
    let mut dropped = 1;
    for round in 0..20 {
        let batch = procmond.must(&json!({"do": "batch", "from": round * 50, "count": 50}));
        dropped += batch["dropped"].as_u64().expect("a number");
    }
    assert!(dropped > 1, "the stopped one's ring is full");
    let seen = ask(&mut agent);
    let none = json!({"ring_full": dropped - 1, "too_large": 1, "too_late": 0, "unkept": 0, "kept": 0, "expired": 0});
    assert_eq!(seen["sessions"]["procmond"]["causes"], json!([none]), "{seen:#}");
}

#[test]
fn what_filters_reject_is_told_and_was_not_delivered() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let wanted = json!({
        "subscriber_id": "analyzer",
        "capabilities": {"event_types": [], "collectors": [], "max_priority": 0},
        "event_filter": {
            "event_types": [], "pids": [0], "min_priority": null, "metadata_filters": {},
            "topic_filters": [], "source_collectors": [],
        },
        "correlation_filter": null,
        "topic_patterns": ["events.process.#"],
        "enable_wildcards": true,
        "include_control": false,
    });
    agent.must(&json!({"do": "bus_subscribe", "subscription": wanted}));
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": BATCHES}));
    // Each event is of the process of its number: one of them is wanted, and it comes last.
    for from in [1, 0] {
        procmond.must(&json!({"do": "batch", "from": from, "count": 10 - 9 * u64::from(from == 0)}));
    }
    assert_eq!(agent.must(&json!({"do": "bus_take", "id": "analyzer", "count": 1}))["received"], json!([0]));
    let seen = ask(&mut agent);
    assert_eq!(seen["sessions"]["agent"]["filtered"], json!([10]), "{seen:#}");
    assert_eq!(five(&mut agent), (11, 1));
}

#[test]
fn each_ring_says_what_it_leads_through_and_what_came_of_each_topic() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"backing": "memfd"})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#", "control.health.#"]}));
    let mut procmond = Role::client(&folder, "procmond").up();
    let topics = [BATCHES, "control.health.status", "events.process.start"];
    for (number, topic) in (1_u64..).zip(topics) {
        procmond.must(&json!({"do": "publish", "topic": topic, "tag": topic, "from": 0, "count": number}));
        agent.must(&json!({"do": "await_tag", "tag": topic, "next": number}));
    }
    let seen = ask(&mut agent);
    let memory = json!({
        "path": "Memory", "withheld": 0,
        "routes": [[BATCHES, true, 1], ["events.process.start", true, 3]],
    });
    let relay =
        json!({"path": "RelayOfControl", "withheld": 0, "routes": [["control.health.status", true, 2]]});
    assert_eq!(seen["paths"], json!([memory, relay]), "{seen:#}");
}

#[test]
fn sums_do_not_fall_when_who_was_counted_leaves() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.#"]}));
    let mut host = Role::client(&folder, "tool").up();
    host.must(&json!({"do": "join", "id": "procmond", "paths": [folder.socket()], "count": 3}));
    host.must(&json!({"do": "publish_from_each", "topic": BATCHES, "publishers": 2}));
    agent.must(&json!({"do": "await", "total": 5}));
    host.must(&json!({"do": "part"}));
    wait_until("it has left", || {
        agent.must(&json!({"do": "components"}))["components"] == json!(["agent", "tool"])
    });
    assert_eq!(five(&mut agent), (5, 5), "nobody had asked it before it went");
    assert_eq!(ask(&mut agent)["departed"], json!([1, 0, [5, 0]]));

    let mut netmond = Role::client(&folder, "netmond").up();
    netmond.must(&json!({"do": "declare", "topic": "events.network.batch"}));
    netmond.must(&json!({"do": "batch", "from": 0, "count": 7}));
    agent.must(&json!({"do": "await", "total": 12}));
    assert_eq!(five(&mut agent), (12, 12));
    netmond.stop();
    assert_eq!(five(&mut agent), (12, 12), "it has said so before");
    assert_eq!(ask(&mut agent)["missing"], 1);
    netmond.kill();
    wait_until("it is gone", || {
        agent.must(&json!({"do": "components"}))["components"] == json!(["agent", "tool"])
    });
    assert_eq!(five(&mut agent), (12, 12));
    let seen = ask(&mut agent);
    assert_eq!((&seen["departed"], &seen["missing"]), (&json!([2, 1, [12, 0]]), &json!(1)), "{seen:#}");
    agent.must(&json!({"do": "unsubscribe"}));
    assert_eq!(five(&mut agent), (12, 12));
}

#[test]
fn what_is_published_by_topic_name_is_counted_also_past_the_topics_of_one_publisher() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    // A publisher has 256 topics; then another takes its place.
    for number in 0..300 {
        let topic = format!("events.process.n{number}");
        procmond.must(&json!({"do": "publish", "topic": topic, "from": 0, "count": 1}));
    }
    assert_eq!(five(&mut agent).0, 300);
}

#[test]
fn who_crashes_again_and_again_is_seen_to() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    for _ in 0..3 {
        let mut procmond = Role::client(&folder, "procmond").up();
        procmond.kill();
        wait_until("it is gone", || {
            agent.must(&json!({"do": "components"}))["components"] == json!(["agent"])
        });
    }
    let seen = ask(&mut agent);
    assert_eq!(seen["turnover"]["procmond"], json!([3, 3, true, null]), "{seen:#}");
    assert_eq!(seen["turnover"]["agent"], json!([1, 0, false, null]), "{seen:#}");
}
