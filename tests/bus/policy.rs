//! Another policy while everybody goes on: what is revoked stops, what is granted begins, and every event is accounted for.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Folder, Role, STRANGER, wait_until};

/// The agent alone may have what processes do.
pub(crate) const FOR_THE_AGENT: &str = "defaults = true
[[row]]
topics = 'events.process.#'
level = 'restricted'
publishers = ['procmond']
subscribers = ['agent']
";

/// The agent alone may say what processes do.
const BY_THE_AGENT: &str = "defaults = true
[[row]]
topics = 'events.process.#'
level = 'restricted'
publishers = ['agent']
subscribers = ['agent', 'observers']
";

const DEFAULT: &str = "defaults = true";

fn file(folder: &Folder, text: &str) -> PathBuf {
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, text).expect("the folder is ours");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("it is ours");
    path
}

fn reload(agent: &mut Role, folder: &Folder, text: &str) -> Value {
    agent.must(&json!({"do": "reload", "path": file(folder, text)}))
}

/// A subscriber to all that processes do, and who tells of it, with a first 1000 events received.
fn pair(folder: &Folder) -> (Role, Role) {
    let mut detector = Role::client(folder, "detector").up();
    let mut procmond = Role::client(folder, "procmond").up();
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 1000}));
    assert_eq!(detector.must(&json!({"do": "await", "total": 1000}))["received"], 1000);
    (detector, procmond)
}

#[test]
fn a_subscriber_that_may_no_longer_have_a_topic_stops_receiving_it_and_goes_on_when_it_may() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.#"]}));
    let (mut detector, mut procmond) = pair(&folder);
    assert_eq!(reload(&mut agent, &folder, FOR_THE_AGENT), json!({"revoked": 1, "granted": 0}));
    let delivery = procmond.must(&json!({"do": "batch", "tag": "secret", "from": 0, "count": 1000}));
    assert_eq!((&delivery["subscribers"], &delivery["reached"]), (&json!(1), &json!(1000)), "{delivery}");
    let refusal =
        detector.call(&json!({"do": "subscribe", "name": "x", "patterns": ["events.process.batch"]}));
    assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("NotASubscriber")), "{refusal}");

    assert_eq!(reload(&mut agent, &folder, DEFAULT), json!({"revoked": 0, "granted": 1}));
    procmond.must(&json!({"do": "batch", "from": 1000, "count": 1000}));
    let report = detector.must(&json!({"do": "await", "total": 2000}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(2000), &json!(0)), "{report}");
    assert_eq!(report["errors"], json!([]), "{report}");
    assert_eq!(detector.must(&json!({"do": "tags"}))["tags"], json!(["main"]), "not one of those in between");
    let report = agent.must(&json!({"do": "await", "total": 3000}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(3000), &json!(0)), "the agent had them all");
}

#[test]
fn a_publisher_that_may_no_longer_publish_reaches_nobody_and_reaches_all_when_it_may() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let (mut detector, mut procmond) = pair(&folder);
    assert_eq!(reload(&mut agent, &folder, BY_THE_AGENT), json!({"revoked": 1, "granted": 0}));
    let delivery = procmond.must(&json!({"do": "batch", "tag": "forged", "from": 0, "count": 1000}));
    assert_eq!(delivery, json!({"events": 1000, "subscribers": 0, "reached": 0, "dropped": 0, "kept": 0}));
    let refusal = procmond.call(&json!({"do": "declare", "name": "x", "topic": "events.process.start"}));
    assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("NotAPublisher")), "{refusal}");
    let text = "`procmond` may not publish to `events.process.start` (restricted); published by: agent";
    assert_eq!(refusal["error"], text);

    assert_eq!(reload(&mut agent, &folder, DEFAULT), json!({"revoked": 0, "granted": 1}));
    procmond.must(&json!({"do": "batch", "from": 1000, "count": 1000}));
    let report = detector.must(&json!({"do": "await", "total": 2000}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(2000), &json!(0)), "{report}");
    assert_eq!(detector.must(&json!({"do": "tags"}))["tags"], json!(["main"]), "not one of those in between");
}

#[test]
fn a_component_that_was_let_in_to_nothing_gets_what_a_policy_gives_it() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut tool = Role::client(&folder, "tool").up();
    let mut usbmond = Role::client(&folder, "usbmond").up();
    tool.must(&json!({"do": "subscribe", "patterns": ["#"]}));
    let refusal = usbmond.call(&json!({"do": "declare", "topic": "events.usb.attached"}));
    assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("NoRule")), "{refusal}");
    let row = "[[row]]\ntopics = 'events.usb.#'\nlevel = 'public'\npublishers = ['usbmond']\nsubscribers = ['anyone']";
    reload(&mut agent, &folder, &format!("defaults = true\n{row}"));
    usbmond.must(&json!({"do": "declare", "topic": "events.usb.attached"}));
    usbmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    assert_eq!(tool.must(&json!({"do": "await", "total": 100}))["received"], 100);
}

#[test]
fn policies_that_change_while_events_flow_leave_the_account_exact() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 64 << 20})).up();
    let (mut detector, mut procmond) = pair(&folder);
    const BURSTS: u64 = 12;
    for burst in 0..BURSTS {
        procmond.tell(&json!({"do": "singles", "from": 1000 + burst * 5000, "count": 5000}));
        reload(&mut agent, &folder, [FOR_THE_AGENT, DEFAULT, BY_THE_AGENT, DEFAULT][burst as usize % 4]);
        procmond.answer(crate::support::DEADLINE);
    }
    reload(&mut agent, &folder, DEFAULT);
    let totals = procmond.must(&json!({"do": "totals"}));
    assert_eq!(totals["dropped"], 0, "rings are large enough: {totals}");
    let reached = totals["reached"].as_u64().expect("a number");
    assert!(reached > 1000 && reached < 1000 + BURSTS * 5000, "some were cut off, and not all: {totals}");
    let account = |detector: &mut Role| {
        let tally = detector.must(&json!({"do": "tally"}));
        let skipped = detector.must(&json!({"do": "statistics"}))["skipped"].as_u64();
        assert_eq!((&tally["errors"], &tally["lost"]), (&json!([]), &json!(0)), "{tally}");
        tally["received"].as_u64().zip(skipped).map(|(received, skipped)| received + skipped)
    };
    wait_until("each event that reached a ring was received, or skipped", || {
        account(&mut detector) == Some(reached)
    });
}

#[test]
fn a_publisher_that_keeps_a_revoked_route_is_sent_away() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"route_deadline_ms": 500})).up();
    let (_detector, procmond) = pair(&folder);
    procmond.stop();
    assert_eq!(reload(&mut agent, &folder, FOR_THE_AGENT), json!({"revoked": 1, "granted": 0}));
    assert_eq!(agent.must(&json!({"do": "components"})), json!({"components": ["agent", "detector"]}));
}

#[test]
fn a_file_that_makes_no_sense_changes_nothing() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let (mut detector, mut procmond) = pair(&folder);
    for (text, error) in [
        ("defaults = true\ndefault = true", "line 2: \"default\" is no key here"),
        ("defaults = true\n[[row]]\ntopics = 'a..b'", "line 2: \"level\" is missing"),
    ] {
        let path = file(&folder, text);
        let refusal = agent.call(&json!({"do": "reload", "path": path}));
        assert_eq!(refusal["error"], format!("{}: {error}", path.display()));
    }
    procmond.must(&json!({"do": "batch", "from": 1000, "count": 1000}));
    assert_eq!(detector.must(&json!({"do": "await", "total": 2000}))["received"], 2000);
}

#[test]
fn a_policy_that_another_user_can_write_is_not_read() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"socket_mode": 0o666})).up();
    let mut stranger = Role::strange_client(&folder, "tool", json!({"broker_uid": 0})).up();
    let path = file(&folder, DEFAULT);
    let load = |role: &mut Role, path: &Path| {
        let answer = role.call(&json!({"do": "load_policy", "path": path}));
        answer["error"].as_str().map(str::to_owned)
    };
    let unsafe_at = |path: &Path, why| Some(format!("it can't be relied on: {} {why}", path.display()));
    let foreign = |path: &Path| unsafe_at(path, "belongs to another user");
    assert_eq!((load(&mut agent, &path), load(&mut stranger, &path)), (None, None), "root's is everybody's");
    chown(&path, Some(STRANGER), None).expect("we are root");
    assert_eq!(
        (load(&mut agent, &path), load(&mut stranger, &path)),
        (foreign(&path), None),
        "his own is his"
    );
    chown(&path, Some(STRANGER - 1), None).expect("we are root");
    assert_eq!((load(&mut agent, &path), load(&mut stranger, &path)), (foreign(&path), foreign(&path)));
    chown(&path, Some(0), None).expect("we are root");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("it is ours");
    let refusal = load(&mut stranger, &path).expect("he can't read it");
    assert!(refusal.contains("Permission denied"), "{refusal}");

    // His folder, and a link from there to what is root's.
    let his = folder.path().join("his");
    std::fs::create_dir(&his).expect("the folder is ours");
    chown(&his, Some(STRANGER), None).expect("we are root");
    std::os::unix::fs::symlink(&path, his.join("link")).expect("we are root");
    assert_eq!(load(&mut agent, &his.join("link")), foreign(&his));
    std::fs::set_permissions(&his, PermissionsExt::from_mode(0o1777)).expect("we are root");
    chown(&his, Some(0), None).expect("we are root");
    let why = "is a symbolic link in a folder that others can write";
    assert_eq!(load(&mut agent, &his.join("link")), unsafe_at(&his.join("link"), why));
}
