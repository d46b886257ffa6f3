//! Clients and brokers of different builds: served in a version that both speak, or refused with the versions of both.

use serde_json::{Value, json};

use crate::bad_input::{frame, hello, provoke};
use crate::support::{Folder, Role, backing, wait_until};

/// What the client of now speaks.
const OURS: (u64, u64) = (1, 2);

fn session(agent: &mut Role, component: &str) -> Value {
    agent.must(&json!({"do": "broker_statistics"}))["sessions"][component].clone()
}

/// A client of another build, which offers these versions.
fn other_client(folder: &Folder, id: &str, oldest: u64, newest: u64) -> (Role, Value) {
    let mut client = Role::intruder(folder, None);
    let said = client.must(&json!({"do": "hello", "id": id, "oldest": oldest, "newest": newest}));
    (client, said)
}

#[test]
fn an_older_client_subscribes_and_publishes_in_its_version_and_is_shown_as_one_that_can_not_tell() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let (mut detector, said) = other_client(&folder, "detector", 1, 1);
    assert_eq!((&said["welcome"], &said["version"]), (&json!(true), &json!(1)), "{said}");
    let subscribed = detector.must(&json!({"do": "subscribe", "pattern": "events.process.#"}));
    assert_eq!(subscribed["ready"], true, "{subscribed}");
    procmond.must(&json!({"do": "batch", "from": 0, "count": 10}));
    // What is flushed is there, before the answer of who has flushed it.
    let bytes = detector.must(&json!({"do": "read"}))["published"].as_u64().expect("a count");
    assert!(bytes > 10 * 50, "ten events: {bytes} bytes");

    agent.must(&json!({"do": "subscribe", "patterns": ["events.network.#"]}));
    let (mut netmond, said) = other_client(&folder, "netmond", 1, 1);
    assert_eq!(said["version"], 1, "{said}");
    let declared = netmond.must(&json!({"do": "declare", "topic": "events.network.batch"}));
    assert_eq!(declared["ready"], true, "{declared}");
    netmond.must(&json!({"do": "publish", "count": 5}));
    let report = agent.must(&json!({"do": "await", "total": 5}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(5), &json!(0)), "{report}");

    for (component, answer) in [("detector", "Unable"), ("netmond", "Unable"), ("procmond", "Told")] {
        let shown = session(&mut agent, component);
        assert_eq!((&shown["answer"], shown["received"].is_null()), (&json!(answer), answer == "Unable"));
    }
    let over = detector.must(&json!({"do": "state"}))["over"].clone();
    assert_eq!(over, false, "nothing was said to it that it does not know");
}

#[test]
fn a_newer_client_is_served_in_the_newest_version_of_the_broker() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    for (id, oldest) in [("detector", 2), ("exporter", 1)] {
        let (mut newer, said) = other_client(&folder, id, oldest, 9);
        assert_eq!(said["version"], 2, "{said}");
        let subscribed = newer.must(&json!({"do": "subscribe", "pattern": "events.process.#"}));
        assert_eq!(
            (&subscribed["ready"], &subscribed["over"]),
            (&json!(true), &json!(false)),
            "{subscribed}"
        );
        assert_eq!(session(&mut agent, id)["answer"], "NotAnswering", "it is of a version that is asked");
    }
}

#[test]
fn a_client_of_versions_that_the_broker_does_not_speak_is_told_the_versions_of_both() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    // Refused, request 0, for its version: the broker's oldest and newest, the client's.
    for (oldest, newest) in [(3, 9), (0, 0), (2, 1)] {
        let refused = frame(&[1, 0, 0, 1, 2, oldest, newest]);
        assert_eq!(provoke(&folder, &hello(oldest, newest, "procmond")), refused, "{oldest} to {newest}");
    }
    assert_eq!(agent.must(&json!({"do": "components"})), json!({"components": ["agent"]}));
}

/// A broker of another build, and what our client in another process says of connecting to it.
fn other_broker(versions: Value) -> (Folder, Role, Role, Value) {
    let folder = Folder::new();
    let broker = Role::other_broker(&folder, versions);
    let client = Role::client(&folder, "procmond");
    let said = client.hello();
    (folder, broker, client, said)
}

#[test]
fn a_broker_of_other_versions_is_named_with_its_versions_and_ours() {
    for (oldest, newest) in [(3, 9), (0, 0)] {
        let (_folder, mut broker, _client, said) = other_broker(json!({"oldest": oldest, "newest": newest}));
        let text = said["error"].as_str().expect("it is refused");
        let both = format!("protocol versions {oldest} to {newest}, this client {} to {}", OURS.0, OURS.1);
        assert!(text.contains(&both), "{text}");
        assert_eq!(said["kind"], "Refused");
        assert_eq!(broker.must(&json!({})), json!({"heard": [0]}), "a hello, and nothing behind it");
    }
}

#[test]
fn a_broker_that_insists_on_a_version_that_it_was_not_offered_is_left_alone() {
    for insists in [0, 3, 9] {
        let (_folder, mut broker, _client, said) =
            other_broker(json!({"oldest": 1, "newest": 9, "insists": insists}));
        let text =
            said["error"].as_str().unwrap_or_else(|| panic!("version {insists} is not spoken: {said}"));
        assert!(text.contains(&format!("version {insists}")) && text.contains("1 to 2"), "{text}");
        assert_eq!((&said["kind"], broker.must(&json!({}))), (&json!("Protocol"), json!({"heard": [0]})));
    }
}

#[test]
fn of_an_older_broker_nothing_is_asked_that_it_does_not_know_and_of_a_newer_one_all_that_we_do() {
    if backing() == "named" {
        // The broker that is played says that rings are of sealed memory; there are none.
        return;
    }
    const STATISTICS: u64 = 12;
    const BEGUN: u64 = 16;
    for (oldest, newest) in [(1, 1), (2, 9)] {
        let (_folder, mut broker, mut client, said) =
            other_broker(json!({"oldest": oldest, "newest": newest}));
        assert_eq!(said, json!({}), "{oldest} to {newest}");
        client.must(&json!({"do": "declare", "topic": "events.process.batch"}));
        client.must(&json!({"do": "batch", "from": 0, "count": 10}));
        let subscribed = client.must(&json!({"do": "subscribe", "patterns": ["control.#"]}));
        assert_eq!(subscribed["granted"], json!(["control.#"]));
        let asked = client.call(&json!({"do": "broker_statistics"}));
        assert_eq!(asked.get("kind"), (newest == 1).then_some(&json!("Unknown")), "{asked}");
        let unknown = "the broker is of a version that has no statistics";
        assert_eq!(asked.get("error"), (newest == 1).then_some(&json!(unknown)));
        let heard = broker.must(&json!({}))["heard"].clone();
        let expected = if newest == 1 { json!([0, 1, 3]) } else { json!([0, 1, 3, BEGUN, STATISTICS]) };
        assert_eq!(heard, expected);
        assert_eq!(client.must(&json!({"do": "over"}))["why"], Value::Null, "the session goes on");
        broker.kill();
        wait_until("the client has noticed", || !client.must(&json!({"do": "over"}))["why"].is_null());
    }
}
