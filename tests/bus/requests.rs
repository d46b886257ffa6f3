//! Requests and their answers, between processes.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{Folder, Role, wait_until};

const TASK: &str = "control.collector.task.procmond";

fn scene() -> (Folder, Role, Role) {
    let folder = Folder::new();
    let agent = Role::agent(&folder, json!({})).up();
    let procmond = Role::client(&folder, "procmond").up();
    (folder, agent, procmond)
}

fn ask(asker: &mut Role, topic: &str, count: u64, patience_ms: u64) -> Vec<Value> {
    let command = json!({"do": "request", "topic": topic, "count": count, "patience_ms": patience_ms});
    asker.must(&command)["answers"].as_array().expect("a list").clone()
}

#[test]
fn a_request_to_nobody_is_an_answer_and_not_silence() {
    let (_folder, mut agent, mut procmond) = scene();
    let [nobody] = &ask(&mut agent, TASK, 1, 20_000)[..] else { panic!("one") };
    assert_eq!(nobody["kind"], "NoSubscriber", "{nobody}");
    assert_eq!(nobody["error"], format!("nobody subscribes to `{TASK}`"));
    let [events] = &ask(&mut agent, "events.process.batch", 1, 20_000)[..] else { panic!("one") };
    assert_eq!(events["kind"], "NotControl", "{events}");
    let [refused] = &ask(&mut procmond, TASK, 1, 20_000)[..] else { panic!("one") };
    assert_eq!(refused["kind"], "Publish", "only the agent gives tasks: {refused}");
}

#[test]
fn each_of_many_requests_at_once_has_its_own_answer() {
    let (_folder, mut agent, mut procmond) = scene();
    procmond.must(&json!({"do": "respond", "topic": TASK}));
    let answers = ask(&mut agent, TASK, 200, 20_000);
    assert_eq!(answers.len(), 200);
    for (number, answer) in answers.iter().enumerate() {
        let doubled = number.to_string().repeat(2);
        assert_eq!(*answer, json!({"from": "procmond", "payload": doubled}), "{number}");
    }
}

#[test]
fn a_collector_asks_the_agent_and_others_do_not_hear_its_answers() {
    let (folder, mut agent, mut procmond) = scene();
    agent.must(&json!({"do": "respond", "topic": "control.collector.registration"}));
    let mut netmond = Role::client(&folder, "netmond").up();
    let overhear = json!({"do": "subscribe", "patterns": ["control.rpc.response.procmond"]});
    let refused = netmond.call(&overhear);
    assert!(refused["kind"].as_str().is_some_and(|kind| kind.contains("NotASubscriber")), "{refused}");
    for _ in 0..3 {
        let answers = ask(&mut procmond, "control.collector.registration", 2, 20_000);
        let expected = ["00", "11"].map(|payload| json!({"from": "agent", "payload": payload}));
        assert_eq!(answers, expected);
    }
}

#[test]
fn who_does_not_answer_is_waited_for_until_the_deadline_and_others_meanwhile_have_answers() {
    let (_folder, mut agent, mut procmond) = scene();
    procmond.must(&json!({"do": "respond", "topic": TASK, "silent": true}));
    let late = ask(&mut agent, TASK, 1, 300);
    assert_eq!(late[0]["kind"], "Timeout", "{late:?}");
    assert_eq!(late[0]["error"], "no answer within 300ms");
}

#[test]
fn a_responder_that_dies_is_noticed_long_before_the_deadline() {
    let (_folder, mut agent, mut procmond) = scene();
    procmond.must(&json!({"do": "respond", "topic": TASK, "silent": true}));
    agent.tell(&json!({"do": "request", "topic": TASK, "patience_ms": 3_600_000}));
    procmond.kill();
    let answer = agent.answer(crate::support::DEADLINE);
    let gone = &answer["answers"][0];
    // It may have died before the request was published.
    assert!(gone["kind"] == "ResponderGone" || gone["kind"] == "NoSubscriber", "{answer}");
}

#[test]
fn requests_that_are_given_up_leave_nothing_and_those_after_them_have_their_own_answers() {
    let (_folder, mut agent, mut procmond) = scene();
    procmond.must(&json!({"do": "respond", "topic": TASK}));
    agent.must(&json!({"do": "give_up_request", "topic": TASK, "count": 100}));
    let answers = ask(&mut agent, TASK, 3, 20_000);
    let payloads: Vec<&Value> = answers.iter().map(|answer| &answer["payload"]).collect();
    assert_eq!(payloads, ["00", "11", "22"]);
}

#[test]
fn who_waits_for_as_long_as_can_be_said_has_its_answer() {
    let (_folder, mut agent, mut procmond) = scene();
    procmond.must(&json!({"do": "respond", "topic": TASK}));
    let answer = agent.must(&json!({"do": "request", "topic": TASK}));
    assert_eq!(answer["answers"], json!([{"from": "procmond", "payload": "00"}]));
}

const REGISTRATION: &str = "control.collector.registration";

fn alive() -> Value {
    json!({"do": "publish_control", "topic": "control.health.heartbeat.procmond", "payload": "x"})
}

/// A collector that comes back, and waits for an answer, with the subscription that brings it, from an agent that dies.
fn orphaned(folder: &Folder) -> Role {
    let mut agent = Role::agent(folder, json!({})).up();
    let mut procmond = Role::client_with(folder, "procmond", json!({"comes_back": true})).up();
    agent.must(&json!({"do": "respond", "topic": REGISTRATION, "silent": true}));
    assert_eq!(ask(&mut procmond, REGISTRATION, 1, 100)[0]["kind"], "Timeout");
    assert_eq!(procmond.call(&alive())["kind"], "NoSubscriber");
    procmond.tell(&json!({"do": "request", "topic": REGISTRATION}));
    agent.kill();
    procmond
}

#[test]
fn who_asks_while_there_is_no_broker_is_told_so_and_asks_the_next_one() {
    let folder = Folder::new();
    let mut procmond = orphaned(&folder);
    let answer = procmond.answer(crate::support::DEADLINE);
    assert_eq!(answer["answers"][0]["kind"], "Disconnected", "{answer}");
    assert_eq!(ask(&mut procmond, REGISTRATION, 1, 20_000)[0]["kind"], "Disconnected");
    let untold = procmond.call(&alive());
    assert_eq!(untold["kind"], "Publish", "nobody hears it, and why is said: {untold}");

    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "respond", "topic": REGISTRATION}));
    wait_until("the next broker brings an answer", || {
        ask(&mut procmond, REGISTRATION, 1, 20_000)[0] == json!({"from": "agent", "payload": "00"})
    });
}

#[test]
fn who_may_not_hear_answers_any_more_is_told_so_within_its_deadline() {
    let folder = Folder::new();
    let mut procmond = orphaned(&folder);
    procmond.answer(crate::support::DEADLINE);
    let policy = folder.path().join("policy.toml");
    let text = "defaults = true
[[row]]
topics = 'control.rpc.response.procmond'
level = 'restricted'
publishers = ['agent']
subscribers = ['agent']
";
    std::fs::write(&policy, text).expect("the folder is ours");
    std::fs::set_permissions(&policy, PermissionsExt::from_mode(0o644)).expect("it is ours");
    let mut agent = Role::agent(&folder, json!({"policy": policy})).up();
    agent.must(&json!({"do": "respond", "topic": REGISTRATION}));
    wait_until("the right to answers is missed", || {
        let refused = &ask(&mut procmond, REGISTRATION, 1, 20_000)[0];
        assert_ne!(refused["kind"], "Timeout", "{refused}");
        refused["kind"] == "Subscribe"
    });
}
