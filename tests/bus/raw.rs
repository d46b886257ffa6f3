//! Messages between processes: bytes that the agent publishes from its broker alone, and bytes that it hears.

use serde_json::{Value, json};

use crate::support::{Folder, Role, STRANGER, look, wait_until};

const TASK: &str = "control.collector.task.procmond";
const BATCH: &str = "events.process.batch";
const HEARTBEAT: &str = "control.health.heartbeat.procmond";

fn scene() -> (Folder, Role, Role) {
    let folder = Folder::new();
    let agent = Role::agent(&folder, json!({})).up();
    let procmond = Role::client(&folder, "procmond").up();
    (folder, agent, procmond)
}

fn hear(role: &mut Role, pattern: &str) {
    role.must(&json!({"do": "subscribe_raw", "pattern": pattern, "id": 1}));
}

/// The next so many messages.
fn read(role: &mut Role, count: usize) -> Vec<Value> {
    let answer = role.must(&json!({"do": "read_raw", "count": count}));
    let messages = answer["messages"].as_array().expect("a list").clone();
    assert_eq!(messages.len(), count, "{messages:?}");
    messages
}

fn send(agent: &mut Role, topic: &str, payload: &str) {
    agent.must(&json!({"do": "raw_publish", "topic": topic, "payload": payload}));
}

/// What `raw_publish` says where it is not told a correlation.
fn whole() -> Value {
    let before = "Err(SystemTimeError(1ns))";
    json!(["hash", "scan", "case", 7, "analysis", [["severity", "high"]], before])
}

#[test]
fn what_the_agent_publishes_comes_whole_over_rings_and_over_the_broker() {
    let (folder, mut agent, mut procmond) = scene();
    let mut detector = Role::client(&folder, "detector").up();
    hear(&mut procmond, TASK);
    hear(&mut detector, "events.process.#");
    let opaque = json!({"do": "subscribe", "patterns": [BATCH], "unread": true});
    detector.must(&opaque);
    for (topic, kind, hearer) in [(TASK, "Control", &mut procmond), (BATCH, "Event", &mut detector)] {
        for payload in ["", "{\"not\": \"an event\"}", "\0\u{1}"] {
            send(&mut agent, topic, payload);
            let [message] = &read(hearer, 1)[..] else { panic!("one") };
            assert_eq!((&message["topic"], &message["payload"]), (&json!(topic), &json!(payload)));
            assert_eq!((&message["type"], &message["event"]), (&json!(kind), &Value::Null));
            assert_eq!((&message["correlation"], &message["kept"]), (&whole(), &json!(true)));
        }
    }
    let opaque = detector.must(&json!({"do": "read_opaque"}));
    assert_eq!(opaque, json!({"payload": "", "publisher": "agent", "correlation": whole()}));
}

#[test]
fn messages_of_one_topic_come_in_order_with_numbers_and_ids_of_their_own_that_all_hearers_share() {
    let (folder, mut agent, mut procmond) = scene();
    let mut detector = Role::client(&folder, "detector").up();
    for hearer in [&mut procmond, &mut detector, &mut agent] {
        hear(hearer, "events.process.#");
    }
    let count = 300;
    agent.must(&json!({"do": "raw_publish", "topic": BATCH, "count": count, "correlation": "scan-1"}));
    let heard = [&mut procmond, &mut detector, &mut agent].map(|hearer| read(hearer, count));
    assert!(heard[0] == heard[1] && heard[1] == heard[2], "all hear the same");
    let numbers: Vec<_> = heard[0].iter().map(|message| message["sequence"].as_u64()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    let ids: std::collections::HashSet<_> =
        heard[0].iter().map(|message| message["id"].to_string()).collect();
    assert_eq!(ids.len(), count);
    assert!(heard[0].iter().all(|message| message["correlation_id"] == "scan-1"));
}

#[test]
fn typed_events_come_as_bytes_that_are_those_events() {
    let (_folder, mut agent, mut procmond) = scene();
    hear(&mut agent, "events.process.#");
    procmond.must(&json!({"do": "declare", "topic": BATCH}));
    procmond.must(&json!({"do": "batch", "tag": "scan", "from": 0, "count": 1000}));
    procmond.must(
        &json!({"do": "publish", "topic": "events.process.start", "tag": "start", "from": 5, "count": 1}),
    );
    // They are of two publishers, and so in no order between them.
    let messages = read(&mut agent, 1001);
    let (batch, starts): (Vec<&Value>, Vec<&Value>) =
        messages.iter().partition(|message| message["topic"] == BATCH);
    for (number, message) in batch.iter().enumerate() {
        assert_eq!((&message["event"], &message["kept"]), (&json!(["scan", number, 2]), &json!(true)));
    }
    let [start] = starts[..] else { panic!("one: {starts:?}") };
    assert_eq!((&start["topic"], &start["event"]), (&json!("events.process.start"), &json!(["start", 5, 2])));
}

#[test]
fn a_control_message_reaches_the_agent_or_says_why_not() {
    let (_folder, mut agent, mut procmond) = scene();
    let say = |topic: &str| json!({"do": "publish_control", "topic": topic, "payload": "alive"});
    let nobody = procmond.call(&say(HEARTBEAT));
    assert_eq!(nobody["kind"], "NoSubscriber", "{nobody}");
    assert_eq!(nobody["error"], format!("nobody subscribes to `{HEARTBEAT}`"));
    for (topic, kind) in
        [(BATCH, "NotControl"), (TASK, "Publish"), ("control.#", "Publish"), ("", "NotControl")]
    {
        let refused = procmond.call(&say(topic));
        assert_eq!(refused["kind"], kind, "{refused}");
    }
    hear(&mut agent, "control.#");
    for (topic, kind) in [(HEARTBEAT, "Heartbeat"), ("control.collector.registration", "Control")] {
        procmond.must(&say(topic));
        let message = &read(&mut agent, 1)[0];
        let said = (&message["topic"], &message["payload"], &message["type"]);
        assert_eq!(said, (&json!(topic), &json!("alive"), &json!(kind)));
    }
    agent.must(&json!({"do": "unsubscribe_raw", "id": 1}));
    wait_until("nobody subscribes any more", || procmond.call(&say(HEARTBEAT))["kind"] == "NoSubscriber");
}

#[test]
fn to_publish_to_nobody_is_no_error_and_to_publish_where_nobody_may_is() {
    let (_folder, mut agent, _procmond) = scene();
    for topic in [BATCH, TASK, "alerts.high"] {
        send(&mut agent, topic, "unheard");
    }
    for (topic, kind) in
        [("events.collector.procmond", "NotAPublisher"), ("no.rule", "NoRule"), ("events.#", "Wildcard")]
    {
        let refused = agent.call(&json!({"do": "raw_publish", "topic": topic}));
        assert!(refused["kind"].as_str().is_some_and(|text| text.contains(kind)), "{refused}");
    }
}

#[test]
fn more_topics_than_a_publisher_can_have_are_published_on_one_after_the_other() {
    let (_folder, mut agent, mut procmond) = scene();
    hear(&mut procmond, TASK);
    hear(&mut agent, "control.rpc.response.#");
    let answers = 600;
    for number in 0..answers {
        send(&mut agent, &format!("control.rpc.response.client-{number}"), "answer");
        if number % 100 == 0 {
            send(&mut agent, TASK, &number.to_string());
        }
    }
    for (number, message) in read(&mut agent, answers).iter().enumerate() {
        assert_eq!(message["topic"], format!("control.rpc.response.client-{number}"));
    }
    let tasks: Vec<_> = read(&mut procmond, 6).iter().map(|message| message["payload"].clone()).collect();
    assert_eq!(tasks, ["0", "100", "200", "300", "400", "500"]);
}

#[test]
fn a_request_waits_on_while_its_publisher_is_changed_for_another() {
    let (_folder, mut agent, mut procmond) = scene();
    procmond.must(&json!({"do": "respond", "topic": TASK, "silent": true}));
    let asked = json!({"do": "request_beside_topics", "topic": TASK, "patience_ms": 1000, "topics": 300});
    assert_eq!(agent.must(&asked)["answers"][0]["kind"], "Timeout");
}

#[test]
fn a_stranger_hears_raw_what_it_may_and_nothing_else() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"socket_mode": 0o666})).up();
    let mut stranger = Role::of_user(&folder, "client", "stranger", STRANGER, json!({})).up();
    for pattern in
        [BATCH, "events.process.start", TASK, "control.rpc.response.procmond", "alerts.#", "no.rule"]
    {
        let refused = stranger.call(&json!({"do": "subscribe_raw", "pattern": pattern}));
        let kind = refused["kind"].as_str().unwrap_or_default();
        assert!(kind.contains("NotASubscriber") || kind.contains("NoRule"), "{pattern}: {refused}");
    }
    hear(&mut stranger, "#");
    for topic in [BATCH, TASK, "alerts.high", "control.health.status"] {
        send(&mut agent, topic, topic);
    }
    assert_eq!(read(&mut stranger, 1)[0]["payload"], "control.health.status", "what is public");
}

#[test]
fn an_id_is_one_subscriptions_until_that_ends() {
    let (_folder, mut agent, _procmond) = scene();
    let subscribe =
        |id: u64| json!({"do": "subscribe_raw", "pattern": "alerts.#", "id": id, "name": format!("{id}")});
    let unsubscribe = json!({"do": "unsubscribe_raw", "id": 7});
    // The errors that are the broker's own are named within it.
    let kind = |answer: &Value| {
        let kind = answer["kind"].as_str().unwrap_or_default().trim_start_matches("Subscribe(");
        kind.split([' ', '(']).next().map(str::to_owned)
    };
    let unknown = agent.call(&unsubscribe);
    assert_eq!(kind(&unknown).as_deref(), Some("NotSubscribed"), "{unknown}");
    agent.must(&subscribe(7));
    let taken = agent.call(&subscribe(7));
    assert_eq!(kind(&taken).as_deref(), Some("IdTaken"), "{taken}");
    agent.must(&subscribe(8));
    // What waits is read yet.
    send(&mut agent, "alerts.high", "before");
    agent.must(&unsubscribe);
    send(&mut agent, "alerts.high", "after");
    let read = |agent: &mut Role, name: &str, count: u64| -> Vec<Value> {
        let read = agent.must(&json!({"do": "read_raw", "name": name, "count": count}));
        let messages = read["messages"].as_array().expect("a list").iter();
        messages.map(|message| message["payload"].clone()).collect()
    };
    assert_eq!(read(&mut agent, "7", 9), ["before"], "and then it is at its end");
    assert_eq!(read(&mut agent, "8", 2), ["before", "after"], "another id is another's");
    assert_eq!(kind(&agent.call(&unsubscribe)).as_deref(), Some("NotSubscribed"), "twice");
    agent.must(&subscribe(7));
    agent.must(&json!({"do": "drop_raw", "name": "7"}));
    assert_eq!(kind(&agent.call(&unsubscribe)).as_deref(), Some("NotSubscribed"), "dropped is ended");
    agent.must(&subscribe(7));
    let bad = agent.call(&json!({"do": "subscribe_raw", "pattern": "a.#.b", "id": 9}));
    assert!(bad["kind"].as_str().is_some_and(|kind| kind.contains("Pattern")), "{bad}");
    let again = json!({"do": "subscribe_raw", "pattern": "alerts.#", "id": 9});
    agent.must(&again);
}

#[test]
fn a_receiver_that_nobody_reads_takes_its_queue_and_is_told_what_it_lost() {
    const KILOBYTES: u64 = 100;
    let folder = Folder::new();
    let queue_kilobytes = 1 << 10;
    let mut agent = Role::agent(&folder, json!({"queue_bytes": queue_kilobytes << 10})).up();
    hear(&mut agent, "events.process.#");
    // Once, so that what publishing itself takes is there.
    let publish = |count: u64| json!({"do": "raw_publish", "topic": BATCH, "bytes": KILOBYTES << 10, "count": count, "correlation": "scan"});
    agent.must(&publish(1));
    let before = look::resident_kilobytes(agent.pid());
    let published = 1000;
    agent.must(&publish(published - 1));
    let after = look::resident_kilobytes_max(agent.pid());
    assert!(
        after - before < 8 * queue_kilobytes,
        "{before} {after} kB, and {} were sent",
        published * KILOBYTES
    );
    let account = agent.must(&json!({"do": "account_raw", "total": published}));
    let count = |fact: &str| account[fact].as_u64().expect("a count");
    assert_eq!(count("received") + count("lost"), published, "{account}");
    assert!(count("received") > 0 && count("lost") > 0, "{account}");
    agent.must(&publish(1));
    agent.must(&json!({"do": "read_raw", "count": 1}));
}
