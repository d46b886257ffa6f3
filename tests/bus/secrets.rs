//! Payloads hold command lines, and those hold passwords: what is printed of a process on the bus has none, wherever a payload waits.

use serde_json::{Value, json};

use crate::support::{Folder, Role};

const BATCH: &str = "events.process.batch";
const SECRET: &str = "hunter2-hunter2";

/// What is printed of a role holds the secret neither as text nor as the numbers of its bytes.
fn prints_no_secret(role: &mut Role) {
    let printed = role.must(&json!({"do": "print", "secret": SECRET}));
    let text = printed["text"].as_str().expect("a text");
    let (decimal, hex) = (format!("{:?}", SECRET.as_bytes()), format!("{:x?}", SECRET.as_bytes()));
    // Within a longer list its bytes stand between others.
    let within = [SECRET, decimal.trim_matches(['[', ']']), hex.trim_matches(['[', ']'])];
    let word = u64::from_le_bytes(*SECRET.as_bytes().first_chunk().expect("it is long enough")).to_string();
    for secret in within.into_iter().chain([&*word]) {
        if let Some(at) = text.find(secret) {
            let from = text.floor_char_boundary(at.saturating_sub(200));
            panic!("it prints a secret: {}", &text[from..text.ceil_char_boundary(at + 100)]);
        }
    }
    assert!(text.len() > 200, "{text}");
}

fn everything() -> Value {
    json!({
        "subscriber_id": "owned", "capabilities": {"event_types": [], "collectors": [], "max_priority": 0},
        "event_filter": null, "correlation_filter": null, "topic_patterns": ["events.process.#"],
        "enable_wildcards": true, "include_control": false,
    })
}

fn publish(role: &mut Role) {
    role.must(&json!({"do": "batch", "tag": SECRET, "from": 0, "count": 600}));
    role.must(&json!({"do": "singles", "tag": SECRET, "from": 0, "count": 3}));
}

#[test]
fn what_is_printed_of_a_process_on_the_bus_holds_no_payload() {
    for options in [json!({}), json!({"backing": "relay"})] {
        let folder = Folder::new();
        let mut agent = Role::agent(&folder, options).up();
        let mut detector = Role::client(&folder, "detector").up();
        let mut procmond = Role::client(&folder, "procmond").up();
        for subscriber in [&mut agent, &mut detector] {
            subscriber.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "unread": true}));
            subscriber.must(&json!({"do": "subscribe", "name": "read", "patterns": ["events.process.#"]}));
            subscriber.must(&json!({"do": "bus_subscribe", "subscription": everything()}));
        }
        procmond.must(&json!({"do": "declare", "topic": BATCH}));
        publish(&mut procmond);
        for subscriber in [&mut agent, &mut detector] {
            subscriber.must(&json!({"do": "await", "name": "read", "total": 603}));
            // Events of a batch are made owned for all that hold the batch.
            subscriber.must(&json!({"do": "bus_take", "id": "owned", "count": 1}));
        }
        // In queues, in part as owned events; in the broker nothing waits.
        for role in [&mut agent, &mut detector, &mut procmond] {
            prints_no_secret(role);
        }
        // On its way to a broker that does not read.
        agent.stop();
        publish(&mut procmond);
        prints_no_secret(&mut procmond);
        // Kept for a broker that is gone.
        agent.kill();
        let why: Value = procmond.must(&json!({"do": "disconnected"}));
        assert!(why["why"].is_string(), "{why}");
        publish(&mut procmond);
        prints_no_secret(&mut procmond);
    }
}
