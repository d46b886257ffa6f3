//! The audit stream of the agent: what is in it, and how much of it there is.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Folder, Role, STRANGER, is_named, wait_until};

/// An agent, and the file that its audit stream is written to.
fn agent(folder: &Folder, mut options: Value) -> (Role, PathBuf) {
    let path = folder.path().join("audit");
    options["audit"] = path.to_str().expect("UTF-8").into();
    (Role::agent(folder, options).up(), path)
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("the agent writes it");
    text.lines().map(str::to_owned).collect()
}

/// What a policy allows and forbids, the policy's change and return, and a forgery.
/// Whether it says that somebody was let in.
fn is_entry(line: &str) -> bool {
    line.starts_with("granted") && line.contains("right=\"connect\"")
}

fn assert_let_in(audit: &Path, component: &str, uid: u32, pid: u32, identity: &str) {
    let entry = format!("component={component:?} uid={uid} pid={pid} right=\"connect\" what={identity:?}");
    assert!(lines(audit).iter().any(|line| is_entry(line) && line.contains(&entry)), "{entry}");
}

/// What of a stream is not about who was let in.
fn without_entries(audit: &Path) -> Vec<String> {
    lines(audit).into_iter().filter(|line| !is_entry(line)).collect()
}

fn live_through(folder: &Folder, agent: &mut Role, procmond: &mut Role, tool: &mut Role) {
    tool.must(&json!({"do": "subscribe", "patterns": ["events.process.anomaly", "alerts.#"]}));
    tool.call(&json!({"do": "declare", "topic": "alerts.high"}));
    tool.call(&json!({"do": "subscribe", "name": "x", "patterns": ["control.shutdown"]}));
    Role::client(folder, "procmond-8").hello();
    std::fs::write(folder.path().join("policy"), "defaults = false").expect("the folder is ours");
    agent.must(&json!({"do": "reload", "path": folder.path().join("policy")}));
    std::fs::write(folder.path().join("policy"), "defaults = true").expect("the folder is ours");
    agent.must(&json!({"do": "reload", "path": folder.path().join("policy")}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 10}));
    procmond.must(&json!({"do": "forge", "slot": 7}));
}

#[test]
fn the_audit_stream_says_who_was_granted_refused_and_deprived_of_what_and_who_broke_a_ring() {
    let folder = Folder::new();
    let (mut agent, audit) = agent(&folder, json!({"socket_mode": 0o666}));
    agent.must(&json!({"do": "subscribe", "patterns": ["events.#"]}));
    let mut procmond = Role::client(&folder, "procmond-7").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let mut tool = Role::strange_client(&folder, "tool", json!({"broker_uid": 0})).up();
    live_through(&folder, &mut agent, &mut procmond, &mut tool);
    wait_until("the forgery is noticed", || lines(&audit).iter().any(|line| line.starts_with("poisoned")));

    let record = |name: &str, component: &str, uid: u32, pid: u32, right: &str, what: &str, reason: &str| {
        format!(
            "{name} decision={name:?} component={component:?} uid={uid} pid={pid} right={right:?} what={what:?} \
             reason={reason:?} untold=0"
        )
    };
    let (ours, his) = ((0, procmond.pid()), (STRANGER, tool.pid()));
    let agents = |name: &str, right, what: &str, reason: &str| {
        record(name, "agent", 0, agent.pid(), right, what, reason)
    };
    let procmonds = |name: &str, right, what: &str, reason: &str| {
        record(name, "procmond", ours.0, ours.1, right, what, reason)
    };
    let tools =
        |name: &str, right, what: &str, reason: &str| record(name, "tool", his.0, his.1, right, what, reason);
    let (batch, changed) = ("events.process.batch", "the policy was changed");
    let violation = "agent says: a record of slot 7, grant 0, which was never granted";
    let found = without_entries(&audit);
    // Who is not let in has no name, and a process of its own.
    let (newcomers, found): (Vec<String>, Vec<String>) =
        found.into_iter().partition(|line| line.contains("right=\"connect\""));
    let [newcomer] = &newcomers[..] else { panic!("{newcomers:?}") };
    assert!(newcomer.starts_with("refused decision=\"refused\" component=\"\" uid=0 pid="), "{newcomer}");
    assert!(
        newcomer.ends_with("what=\"procmond-8\" reason=\"the name procmond is taken\" untold=0"),
        "{newcomer}"
    );
    let expected = [
        agents(
            "granted",
            "subscribe",
            "events.collector.+ events.filesystem.# events.network.# events.performance.# events.process.#",
            "",
        ),
        procmonds("granted", "publish", batch, ""),
        tools("granted", "subscribe", "events.process.anomaly", "1 parts withheld"),
        tools(
            "refused",
            "publish",
            "alerts.high",
            "`tool` may not publish to `alerts.high` (restricted); published by: agent",
        ),
        tools(
            "refused",
            "subscribe",
            "control.shutdown",
            "`tool` may not subscribe to `control.shutdown` (privileged); subscribed by: agent, collectors",
        ),
        procmonds("revoked", "publish", batch, changed),
        agents("revoked", "subscribe", batch, changed),
        procmonds("granted", "publish", batch, ""),
        agents("granted", "subscribe", batch, ""),
        procmonds("poisoned", "", "", violation),
    ];
    assert_eq!(found, expected);
    assert_let_in(&audit, "agent", 0, agent.pid(), "the broker's own process");
    assert_let_in(&audit, "tool", STRANGER, tool.pid(), "weak identity");
}

#[test]
fn a_flood_of_refusals_is_a_bounded_number_of_lines_and_an_exact_count() {
    let folder = Folder::new();
    let (mut agent, audit) = agent(&folder, json!({}));
    let mut tool = Role::client(&folder, "tool").up();
    tool.must(&json!({"do": "decline", "count": 2000, "topics": 1}));
    let refused = || lines(&audit).into_iter().filter(|line| line.starts_with("refused")).count();
    assert_eq!(refused(), 1, "one cause");
    tool.must(&json!({"do": "decline", "count": 2000, "topics": 2000}));
    assert!(refused() < 100, "{} lines", refused());
    assert_eq!(agent.must(&json!({"do": "refusals"})), json!({"refusals": [["tool", 0, 4000]]}));
    // Others are heard meanwhile.
    let mut netmond = Role::client(&folder, "netmond").up();
    netmond.call(&json!({"do": "declare", "topic": "alerts.high"}));
    assert!(lines(&audit).iter().any(|line| line.contains("component=\"netmond\"")));
    // What was left out is told by the end.
    tool.kill();
    let told = || {
        let lines = lines(&audit).into_iter();
        let lines = lines.filter(|line| line.contains("component=\"tool\"") && !is_entry(line));
        let told = lines.map(|line| {
            let (_, untold) = line.rsplit_once("untold=").expect("each line has it");
            u64::from(line.starts_with("refused")) + untold.parse::<u64>().expect("a number")
        });
        told.sum::<u64>()
    };
    wait_until("each refusal is told or counted", || told() == 4000);
}

#[test]
fn what_a_hostile_process_writes_stays_within_its_field() {
    if is_named() {
        return;
    }
    let folder = Folder::new();
    let (_agent, audit) = agent(&folder, json!({}));
    let hostile = "x\" uid=0\ngranted component=\"procmond\u{202e}";
    Role::client(&folder, hostile).hello();
    wait_until("it was refused", || !without_entries(&audit).is_empty());
    let found = without_entries(&audit);
    let [line] = &found[..] else { panic!("one line: {found:?}") };
    assert!(line.starts_with("refused decision=\"refused\" component=\"\" uid=0 pid="), "{line}");
    assert!(line.is_ascii() && !line.contains("component=\"procmond"), "{line}");
}
