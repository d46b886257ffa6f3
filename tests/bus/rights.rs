//! Who may do what: as the broker's user, as another, and by force.

use serde_json::json;

use crate::support::{Folder, Role, is_named, wait_until};

#[test]
fn another_user_can_not_even_connect() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let stranger = Role::strange_client(&folder, "procmond", json!({"broker_uid": 0}));
    let refusal = stranger.hello();
    assert_eq!(refusal["kind"], "NoBroker", "{refusal}");
    assert!(refusal["error"].as_str().is_some_and(|text| text.contains("Permission denied")), "{refusal}");
}

#[test]
fn a_user_who_is_let_in_has_the_rights_of_its_component_and_no_more() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"socket_mode": 0o666})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let mut procmond = Role::strange_client(&folder, "procmond", json!({})).up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 1000}));
    assert_eq!(agent.must(&json!({"do": "await", "total": 1000}))["received"], 1000);

    let refusal =
        procmond.call(&json!({"do": "declare", "name": "x", "topic": "control.collector.lifecycle"}));
    assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("NotAPublisher")), "{refusal}");
    let text =
        "`procmond` may not publish to `control.collector.lifecycle` (privileged); published by: agent";
    assert_eq!(refusal["error"], text);
}

#[test]
fn a_component_publishes_only_what_its_row_covers() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["#"]}));
    let mut detector = Role::client(&folder, "detector").up();
    for (topic, kind) in [
        ("events.process.batch", "NotAPublisher"),
        ("events.process.anomaly", "NotAPublisher"),
        ("alerts.process.high", "NotAPublisher"),
        ("control.health.heartbeat.procmond", "NotAPublisher"),
        ("events.weather.storm", "NoRule"),
    ] {
        let refusal = detector.call(&json!({"do": "declare", "topic": topic}));
        assert!(refusal["kind"].as_str().is_some_and(|text| text.contains(kind)), "{topic}: {refusal}");
        let refusal = detector.call(&json!({"do": "publish", "topic": topic, "from": 0, "count": 1}));
        assert!(refusal["kind"].as_str().is_some_and(|text| text.contains(kind)), "{topic}: {refusal}");
    }
    detector
        .must(&json!({"do": "publish", "topic": "control.health.heartbeat.detector", "from": 0, "count": 1}));
    let report = agent.must(&json!({"do": "await", "total": 1}));
    assert_eq!(report["received"], 1, "its own heartbeat, and nothing else: {report}");
}

#[test]
fn a_subscription_is_narrowed_to_the_rights_and_says_what_was_withheld() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    let mut netmond = Role::client(&folder, "netmond").up();
    let answer = netmond.must(&json!({"do": "subscribe", "patterns": ["events.#"]}));
    let contains = |list: &str, pattern: &str| {
        answer[list].as_array().is_some_and(|patterns| patterns.contains(&json!(pattern)))
    };
    assert!(contains("granted", "events.network.#"), "{answer}");
    assert!(contains("granted", "events.process.anomaly"), "{answer}");
    assert!(contains("withheld", "events.process.#"), "{answer}");
    for topic in ["events.process.batch", "events.process.anomaly"] {
        procmond.must(&json!({"do": "publish", "topic": topic, "tag": topic, "from": 0, "count": 5}));
    }
    let report = netmond.must(&json!({"do": "await", "total": 5}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(5), &json!(0)), "anomalies alone: {report}");
    let statistics = netmond.must(&json!({"do": "statistics"}));
    assert_eq!(statistics["received"], 5, "nothing else even entered this process: {statistics}");

    let refusal =
        netmond.call(&json!({"do": "subscribe", "name": "x", "patterns": ["events.process.batch"]}));
    assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("NotASubscriber")), "{refusal}");
    let refusal = netmond.call(&json!({"do": "subscribe", "name": "x", "patterns": ["weather.#"]}));
    assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("NoRule")), "{refusal}");
}

#[test]
fn a_name_is_held_by_one_session_and_the_agents_by_none() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let _procmond = Role::client(&folder, "procmond-1").up();
    for (id, text) in [
        ("procmond-2", "the broker refused: the name procmond is taken"),
        ("agent", "the broker refused: the name agent is taken"),
        ("agent-1", "the broker refused: the name agent is taken"),
    ] {
        let refusal = Role::client(&folder, id).hello();
        assert_eq!(refusal["error"], text);
    }
    let refusal = Role::client(&folder, "Not a name").hello();
    assert!(refusal["error"].as_str().is_some_and(|text| text.contains("is no client id")), "{refusal}");
}

/// As `procmond`, which then writes a record into its own ring as an attacker would.
fn forged(forgery: &serde_json::Value, strange: bool) -> (Folder, Role, Role, Role) {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"socket_mode": 0o666})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["#"]}));
    let mut netmond = Role::client(&folder, "netmond").up();
    netmond.must(&json!({"do": "declare", "topic": "events.network.event"}));
    let mut procmond = if strange {
        Role::strange_client(&folder, "procmond", json!({})).up()
    } else {
        Role::client(&folder, "procmond").up()
    };
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "tag": "honest", "from": 0, "count": 1}));
    assert_eq!(agent.must(&json!({"do": "await", "total": 1}))["received"], 1);
    procmond.must(forgery);
    (folder, agent, netmond, procmond)
}

#[test]
fn a_record_of_a_slot_that_was_never_granted_poisons_the_ring() {
    // With names a stranger has no ring to break.
    for strange in if is_named() { vec![false] } else { vec![false, true] } {
        let forgery = json!({"do": "forge", "slot": 1});
        let (_folder, mut agent, mut netmond, _procmond) = forged(&forgery, strange);
        wait_until("the agent's application hears of it", || {
            agent.must(&json!({"do": "tally"}))["errors"] != json!([])
        });
        let report = agent.must(&json!({"do": "tally"}));
        let text = "procmond broke its ring: a record of slot 1, grant 0, which was never granted";
        assert_eq!(report["errors"], json!([text]));
        assert_eq!(report["received"], 1, "nothing of the forgery is delivered: {report}");
        netmond.must(&json!({"do": "batch", "tag": "other", "from": 0, "count": 10}));
        let report = agent.must(&json!({"do": "await", "total": 11}));
        assert_eq!(report["received"], 11, "other publishers are not affected: {report}");
    }
}

#[test]
fn a_record_that_repeats_a_sequence_poisons_the_ring() {
    let forgery = json!({"do": "forge", "slot": 0, "sequence": 0});
    let (_folder, mut agent, _netmond, _procmond) = forged(&forgery, false);
    wait_until("the agent's application hears of it", || {
        agent.must(&json!({"do": "tally"}))["errors"] != json!([])
    });
    assert_eq!(agent.must(&json!({"do": "tally"}))["received"], 1);
}

#[test]
fn a_foreign_broker_is_not_talked_to() {
    let folder = Folder::new();
    let _agent = Role::agent(&folder, json!({})).up();
    let refusal = Role::client_with(&folder, "procmond", json!({"broker_uid": 4711})).hello();
    assert_eq!(refusal["kind"], "ForeignBroker", "{refusal}");
}

#[test]
fn a_record_of_a_grant_that_does_not_exist_poisons_the_ring() {
    let forgery = json!({"do": "forge", "slot": 0, "generation": 1, "sequence": 1});
    let (_folder, mut agent, _netmond, _procmond) = forged(&forgery, false);
    wait_until("the agent's application hears of it", || {
        agent.must(&json!({"do": "tally"}))["errors"] != json!([])
    });
    assert_eq!(agent.must(&json!({"do": "tally"}))["received"], 1);
}

#[test]
fn who_subscribes_after_a_poisoning_is_told_whom_it_will_not_hear() {
    let forgery = json!({"do": "forge", "slot": 1});
    let (_folder, mut agent, _netmond, _procmond) = forged(&forgery, false);
    wait_until("the agent's application hears of it", || {
        agent.must(&json!({"do": "tally"}))["errors"] != json!([])
    });
    let answer = agent.must(&json!({"do": "subscribe", "name": "later", "patterns": ["events.#"]}));
    assert_eq!(answer["missed"], json!(["procmond"]), "{answer}");
}

#[test]
fn a_subscriber_that_lies_about_what_it_read_is_parted_from_that_publisher_and_told() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 1 << 16})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    for subscriber in [&mut agent, &mut detector] {
        subscriber.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    }
    procmond.must(&json!({"do": "declare", "topic": "events.process.lifecycle"}));
    detector.must(&json!({"do": "forge_head"}));
    // It can't take the lie back, and the publisher comes to where it has to look.
    detector.stop();
    procmond.must(&json!({"do": "singles", "from": 0, "count": 1000}));
    detector.go_on();
    wait_until("the liar's application hears of it", || {
        detector.must(&json!({"do": "tally"}))["errors"] != json!([])
    });
    let errors = detector.must(&json!({"do": "tally"}))["errors"].to_string();
    assert!(
        errors.contains("procmond broke its ring: it holds this process to have broken the ring"),
        "{errors}"
    );
    let report = agent.must(&json!({"do": "await", "total": 1000}));
    assert_eq!(report["errors"], json!([]), "the agent's ring is another: {report}");
    assert_eq!(report["received"].as_u64().zip(report["lost"].as_u64()).map(|(a, b)| a + b), Some(1000));
}
