//! DaemonEye's own configuration: what each field does, and what is said of those that do nothing.

use serde_json::{Value, json};

use crate::support::{Folder, Role};

/// Events of one kilobyte or more.
const BATCH: &str = "events.process.batch";

fn client(folder: &Folder, id: &str, config: &Value) -> Role {
    let log = folder.path().join(format!("{id}.log"));
    Role::client_with(folder, id, json!({"config": config, "log": log}))
}

fn logged(folder: &Folder, id: &str) -> String {
    std::fs::read_to_string(folder.path().join(format!("{id}.log"))).unwrap_or_default()
}

#[test]
fn a_client_looks_for_its_broker_as_often_as_it_was_told_to() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut patient = client(&folder, "procmond", &json!({"max_reconnect_attempts": 100_000})).up();
    let mut hasty = client(&folder, "detector", &json!({"max_reconnect_attempts": 2})).up();
    agent.kill();
    let why = hasty.must(&json!({"do": "given_up"}));
    assert!(why["why"].as_str().is_some_and(|why| why.contains("BrokerGone")), "{why}");
    assert!(logged(&folder, "detector").contains("it gives up"), "{}", logged(&folder, "detector"));
    let mut agent = Role::agent(&folder, json!({})).up();
    // The one is back, and the other is not: what it is asked for is refused at once.
    patient.must(&json!({"do": "declare", "topic": BATCH}));
    let refused = hasty.call(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    assert!(refused["error"].as_str().is_some_and(|why| why.contains("the broker is gone")), "{refused}");
    assert_eq!(agent.must(&json!({"do": "components"})), json!({"components": ["agent", "procmond"]}));
}

#[test]
fn a_limit_of_bytes_is_what_waits_for_a_subscription() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let mut procmond = client(&folder, "procmond", &json!({})).up();
    let mut lost = Vec::new();
    for (id, limit) in [("detector", 1_u64 << 30), ("exporter", 1 << 16)] {
        let mut subscriber = client(&folder, id, &json!({"per_client_byte_limit": limit})).up();
        subscriber.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "unread": true}));
        procmond.must(&json!({"do": "declare", "topic": BATCH}));
        procmond.must(&json!({"do": "batch", "from": 0, "count": 20_000}));
        procmond.must(&json!({"do": "flush", "within_ms": 20_000}));
        subscriber.must(&json!({"do": "read"}));
        let report = subscriber.must(&json!({"do": "await", "total": 20_000}));
        lost.push(report["lost"].as_u64().expect("a count"));
    }
    assert_eq!(lost[0], 0);
    assert!(lost[1] > 0, "{lost:?}");
}

#[test]
fn a_broker_takes_as_many_connections_as_it_was_told_to() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({"config": {"connection_limit": 3}})).up();
    let ids = ["procmond", "netmond", "fsmond", "perfmond"];
    let crowd: Vec<Role> =
        ids.iter().map(|id| client(&folder, id, &json!({"connection_timeout_ms": 2_000}))).collect();
    // The agent's own session is one of them.
    let served = crowd.iter().filter(|role| role.hello() == json!({})).count();
    assert_eq!(served, 2);
}

#[test]
fn a_field_without_effect_is_warned_of_once() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let _procmond = client(&folder, "procmond", &json!({"semaphore_permits": 7})).up();
    let log = logged(&folder, "procmond");
    assert_eq!(log.matches("has no effect").count(), 1, "{log}");
    assert!(log.contains("semaphore_permits"), "{log}");
    let _detector = client(&folder, "detector", &json!({})).up();
    assert_eq!(logged(&folder, "detector"), "");
}

#[test]
fn a_token_as_text_is_a_token_and_what_is_none_is_told_and_not_shown() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let secret = "0123456789abcdef".repeat(6);
    // It is one in its form, but was issued by nobody.
    let forged = client(&folder, "procmond", &json!({"auth_token": secret}));
    let refused = forged.hello();
    assert!(refused.get("error").is_some(), "{refused}");
    let odd = client(&folder, "detector", &json!({"auth_token": "sesame"}));
    let refused = odd.hello();
    assert_eq!(refused["kind"], "Configuration", "{refused}");
    assert!(!refused.to_string().contains("sesame"), "{refused}");
}
