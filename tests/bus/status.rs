//! `eventbus status`, started as an operator starts it.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Folder, Role, STRANGER, reachable, wait_until};

fn status(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventbus"));
    command.args(["status", "--socket"]).arg(folder.socket()).args(arguments);
    command.output().expect("it starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// A collector that has published ten events, half of its topics heard by the agent.
fn collector(folder: &Folder, agent: &mut Role) -> Role {
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#", "no.row"]}));
    let mut procmond = Role::client(folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 10}));
    agent.must(&json!({"do": "await", "total": 10}));
    procmond
}

#[test]
fn a_ring_that_leads_over_the_broker_is_shown_as_such() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"backing": "relay"})).up();
    let _procmond = collector(&folder, &mut agent);
    let table = text(&status(&folder, &[]).stdout).to_owned();
    let ring = table.lines().find(|line| line.starts_with("procmond  ") && line.contains("  relay  "));
    assert!(ring.is_some(), "{table}");
    assert!(table.contains("\n  over the broker: the broker was told to have all go over it\n"), "{table}");
    let whole: Value = serde_json::from_slice(&status(&folder, &["--json"]).stdout).expect("one JSON object");
    let ring = &whole["rings"][0];
    assert_eq!((&ring["state"], &ring["path"]), (&json!("ready"), &json!("relay")));
    assert_eq!(ring["relayed_since"], "the broker was told to have all go over it");
    assert_eq!(whole["rings"][0]["claimed"]["events"], 10);
}

#[test]
fn an_operator_sees_who_is_there_what_was_published_and_who_does_not_answer() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let procmond = collector(&folder, &mut agent);
    let shown = status(&folder, &[]);
    let table = text(&shown.stdout);
    assert_eq!((shown.status.code(), text(&shown.stderr)), (Some(0), ""), "{table}");
    for line in [
        "10 events published, 10 delivered",
        "  publishes events.process.batch: 10 published, 10 reached, 0 dropped",
        "  hears events.process.# (withheld: no.row): 10 received, 0 filtered out, 0 lost in rings, 0 lost in its queue",
        "  brings events.process.batch: 10 received",
    ] {
        assert!(table.lines().any(|other| other == line), "{line}\nis not in\n{table}");
    }
    assert!(table.lines().any(|line| line.starts_with("  took 10 events: p50 ")), "{table}");
    let ring = table.lines().find(|line| line.starts_with("procmond  ") && line.contains("8.0 MiB"));
    assert!(ring.is_some_and(|ring| ring.contains("ready")), "{table}");
    assert!(!table.contains("eventbus-status-"), "who asks is not shown: {table}");

    let whole: Value = serde_json::from_slice(&status(&folder, &["--json"]).stdout).expect("one JSON object");
    let ring = &whole["rings"][0];
    assert_eq!((&ring["bytes"], &ring["claimed"]["events"]), (&json!(8 << 20), &json!(10)));
    assert!(ring["claimed"]["bytes_waiting"].is_u64(), "{ring}");

    procmond.stop();
    let shown = status(&folder, &["--json"]);
    assert_eq!(shown.status.code(), Some(3), "somebody has not answered");
    let tree: Value = serde_json::from_slice(&shown.stdout).expect("one JSON object");
    let session = |component: &str| {
        let sessions = tree["sessions"].as_array().expect("a list").iter();
        sessions.into_iter().find(|session| session["component"] == component).expect("it is there")
    };
    let (stopped, healthy) = (session("procmond"), session("agent"));
    assert_eq!((&stopped["answer"], &stopped["pid"]), (&json!("not answering"), &json!(procmond.pid())));
    let topics = json!([{ "topic": "events.process.batch", "claimed": null }]);
    assert_eq!(stopped["publishers"][0]["topics"], topics);
    assert_eq!(healthy["claimed_received"]["events"], 10);
    let latencies = &healthy["claimed_received"]["latencies"];
    let in_order = ["p50_nanos", "p90_nanos", "p99_nanos", "p999_nanos", "max_nanos"];
    let in_order = in_order.map(|figure| latencies[figure].as_u64().expect("a number"));
    assert!(latencies["events"] == 10 && in_order[0] > 0 && in_order.is_sorted(), "{latencies}");
    let claimed = json!({
        "received_events": 10, "lost_in_ring_events": 0, "lost_in_queue_events": 0, "filtered_events": 0,
    });
    assert_eq!(healthy["subscriptions"][0]["claimed"], claimed);
    assert_eq!(tree["rings"][0]["claimed"], Value::Null);
}

#[test]
fn it_answers_within_a_second_beside_floods_and_who_is_mute_or_stopped() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let _procmond = collector(&folder, &mut agent);
    let stopped = Role::client(&folder, "detector").up();
    stopped.stop();
    let mut mutes = Vec::new();
    let mut fastest = |what: &str| {
        let times = (0..3).map(|_| {
            // One that owes an answer already is not waited for: each has to wait for another.
            let mut mute = Role::intruder(&folder, None);
            mute.must(&json!({"do": "hello", "id": format!("mute{}", mutes.len())}));
            mutes.push(mute);
            let since = Instant::now();
            let shown = status(&folder, &["--json"]);
            assert_eq!(shown.status.code(), Some(3), "{what}: {shown:?}");
            since.elapsed()
        });
        // A machine that is busy with other things may slow one of them down.
        let fastest = times.min().expect("there are three");
        assert!(fastest < Duration::from_secs(1), "{what}: {fastest:?}");
    };
    fastest("who is mute or stopped");
    for (flood, id) in [("requests", "netmond"), ("drip", "fsmond"), ("never-reads", "viewer")] {
        let mut intruder = Role::intruder(&folder, None);
        intruder.must(&json!({"do": "hello", "id": id}));
        intruder.must(&json!({"do": "flood", "name": flood}));
        fastest(flood);
    }
    let mut newcomers = Role::intruder(&folder, None);
    newcomers.must(&json!({"do": "flood", "name": "random"}));
    fastest("random");
}

#[test]
fn what_others_wrote_is_shown_escaped() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let _procmond = collector(&folder, &mut agent);
    let mut liar = Role::intruder(&folder, None);
    liar.must(&json!({"do": "hello", "id": "exporter"}));
    assert_eq!(liar.must(&json!({"do": "subscribe", "pattern": "events.process.#"}))["ready"], true);
    liar.must(&json!({"do": "accuse", "what": "a\u{202e}b\u{9b}2J\\"}));
    wait_until("it is heard", || {
        agent.must(&json!({"do": "poisonings"}))["poisonings"].as_array().is_some_and(|all| !all.is_empty())
    });
    let shown = status(&folder, &[]);
    let table = text(&shown.stdout);
    let said = r"procmond broke 1 rings, says exporter, the last: a\u{202e}b 2J\\";
    assert!(table.lines().any(|line| line == said), "{table}");
    assert!(!table.contains(['\u{9b}', '\u{202e}']), "{table}");
    let shown = status(&folder, &["--json"]);
    let tree = text(&shown.stdout);
    assert!(tree.contains(r"a\u202eb") && !tree.contains(['\u{9b}', '\u{202e}']), "{tree}");
}

#[test]
fn where_a_broker_asks_for_tokens_status_comes_with_one() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"strict": true})).up();
    let refused = status(&folder, &[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text(&refused.stderr).contains("--token-file names it"), "{refused:?}");
    let token = folder.path().join("token");
    agent.must(&json!({"do": "issue", "component": "exporter", "file": token, "owner": 0}));
    let token = token.to_str().expect("UTF-8");
    let shown = status(&folder, &["--id", "exporter", "--token-file", token]);
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
}

#[test]
fn without_a_broker_or_a_right_to_see_it_the_exit_code_and_one_line_say_so() {
    let folder = Folder::new();
    let gone = status(&folder, &[]);
    assert_eq!((gone.status.code(), text(&gone.stdout)), (Some(1), ""));
    assert!(text(&gone.stderr).starts_with("eventbus: no broker can be reached at "), "{gone:?}");
    assert_eq!(status(&folder, &["--instance", "x"]).status.code(), Some(2), "a socket or an instance");

    let _agent = Role::agent(&folder, json!({"socket_mode": 0o666})).up();
    let binary = reachable(Path::new(env!("CARGO_BIN_EXE_eventbus")), &folder);
    let mut stranger = Command::new("setpriv");
    stranger.args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}"), "--clear-groups".into()]);
    stranger.arg(binary).args(["status", "--broker-uid", "0", "--socket"]).arg(folder.socket());
    let refused = stranger.output().expect("it starts");
    assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(1), ""), "{refused:?}");
    let said = format!("eventbus: no statistics: uid {STRANGER} may not see the broker's statistics");
    assert!(text(&refused.stderr).starts_with(&said), "{refused:?}");
}
