//! `eventbus broker`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Folder, Role, backing};
use crate::tool::{Started, Tool, code, command, eventbus, process, published, ran, signal};

fn policy(folder: &Folder, text: &str) -> PathBuf {
    let path = folder.path().join("policy.toml");
    fs::write(&path, text).expect("the folder is ours");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("it is ours");
    path
}

const DEFAULT: &str = "defaults = true";
const NOBODY: &str = "defaults = false";

#[test]
fn a_policy_that_makes_no_sense_is_refused_with_its_line() {
    let folder = Folder::new();
    let path = policy(&folder, "defaults = true\nlevels = 3\n");
    let ended = ran(command(&folder, &["broker", "--policy", path.to_str().expect("UTF-8")]), &[]);
    assert_eq!((ended.code, ended.out.len()), (Some(1), 0));
    assert!(ended.err.contains("policy.toml: line 2: \"levels\" is no key here"), "{ended:?}");
    assert!(!folder.socket().exists());
}

#[test]
fn at_a_hangup_the_policy_is_read_again_and_a_bad_one_changes_nothing() {
    let folder = Folder::new();
    let path = policy(&folder, DEFAULT);
    let broker = Tool::broker(&folder, &["--policy", path.to_str().expect("UTF-8")]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector"]);
    let mut publisher = Tool::publisher(&folder, &["events.process.batch", "--wait-for-subscriber", "1h"]);
    publisher.tell(&process(1));
    subscriber.says("pid=1 ");

    policy(&folder, "defaults = true\n\n[[row]]\ntopics = 7\n");
    broker.signal(Signal::HUP);
    broker.warns("the policy is refused, and the old one stays in force: ");
    broker.warns("policy.toml: line 3: \"level\" is missing");
    publisher.tell(&process(2));
    subscriber.says("pid=2 ");

    policy(&folder, NOBODY);
    broker.signal(Signal::HUP);
    broker.says("is in force: 1 routes revoked, 0 granted");
    publisher.tell(&process(3));
    let ended = publisher.end();
    assert!(ended.out[0].contains("3 published") && ended.out[0].contains("2 taken"), "{ended:?}");
    let ended = published(&folder, &["events.network.event"], &[]);
    assert!(ended.code == Some(1) && ended.err.contains("it is in no row"), "{ended:?}");

    broker.signal(Signal::HUP);
    broker.says("says what is in force already");
    policy(&folder, DEFAULT);
    broker.signal(Signal::HUP);
    broker.says("is in force: 0 routes revoked, 0 granted");
    assert_eq!(published(&folder, &["events.network.event"], &[&process(4)]).code, Some(0));
    assert_eq!(broker.interrupt().code, Some(0));
}

#[test]
fn a_hangup_without_a_policy_file_ends_nothing() {
    let folder = Folder::new();
    let broker = Tool::broker(&folder, &[]);
    broker.signal(Signal::HUP);
    broker.warns("there is no policy file to read again");
    assert_eq!(published(&folder, &["events.process.batch"], &[&process(1)]).code, Some(0));
}

#[test]
fn the_socket_has_the_mode_and_the_group_that_were_asked_for_and_goes_with_the_broker() {
    let folder = Folder::new();
    for signal in [Signal::INT, Signal::TERM] {
        let words = ["--socket-mode", "660", "--socket-group", "65534", "--log", "warn"];
        let broker = Tool::broker(&folder, &words);
        let found = fs::metadata(folder.socket()).expect("it is there");
        assert_eq!((found.mode() & 0o777, found.gid()), (0o660, 65534));
        broker.signal(signal);
        let ended = broker.end();
        assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{ended:?}");
        assert!(!folder.socket().exists());
    }
}

#[test]
fn a_second_broker_is_told_of_the_first() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let ended = ran(command(&folder, &["broker"]), &[]);
    assert_eq!((ended.code, ended.out.len()), (Some(1), 0));
    assert!(ended.err.contains("a broker is live at "), "{ended:?}");
}

#[test]
fn its_log_says_who_came_and_what_was_decided_and_never_a_payload_or_a_secret() {
    let folder = Folder::new();
    let broker = Tool::broker(&folder, &["--log", "trace"]);
    let key = fs::read(folder.socket().with_extension("sock.key")).expect("it is there");
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "1"]);
    let event = process(7).replace("sh", "hunter2");
    assert_eq!(published(&folder, &["events.process.batch"], &[&event]).code, Some(0));
    assert!(subscriber.end().out[0].contains("hunter2"), "that is for the subscriber");
    let refused = ran(command(&folder, &["sub", "alerts.#"]), &[]);
    assert_eq!(refused.code, Some(1));
    broker.warns(" left component=procmond");
    let ended = broker.interrupt();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let socket = folder.socket();
    for (level, text) in [
        (" INFO ", format!("daemoneye_eventbus::broker listening path={}", socket.display())),
        (" INFO ", "daemoneye_eventbus::broker joined component=procmond uid=0 pid=".into()),
        (" INFO ", "daemoneye_eventbus::audit granted decision=granted component=detector uid=0 pid=".into()),
        (" WARN ", "daemoneye_eventbus::audit refused decision=refused component=eventbus-sub-".into()),
    ] {
        let line = ended.err.lines().find(|line| line.contains(&text));
        let line = line.unwrap_or_else(|| panic!("no {text} in {}", ended.err));
        let (time, rest) = line.split_once('Z').expect("a time, and the rest");
        assert!(time.len() == "2026-11-23T21:59:23.123456".len() && rest.starts_with(level), "{line}");
    }
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{key:?}");
    assert!(![&*hex, &*list, "hunter2"].iter().any(|secret| ended.err.contains(secret)), "{}", ended.err);
}

#[test]
fn its_log_has_the_level_that_was_asked_for_and_steers_no_terminal() {
    let folder = Folder::new();
    let started = |level: &str| {
        let socket = folder.path().join("a\u{1b}[2J\nbus\u{202e}.sock");
        let mut broker = eventbus();
        broker.args(["broker", "--backing", &backing(), "--log", level, "--socket"]).arg(socket);
        let broker = Tool::start(broker);
        broker.says(r"a\u{1b}[2J\nbus\u{202e}.sock");
        broker.interrupt()
    };
    let ended = started("info");
    let line = ended.err.lines().next().expect("a line");
    assert!(line.contains(" listening path=") && line.contains(r"/a\u{1b}[2J\nbus\u{202e}.sock "), "{line}");
    assert!(!line.contains(char::is_control) && ended.code == Some(0));
    let ended = started("off");
    assert_eq!((ended.code, &*ended.err), (Some(0), ""));
    let ended = ran(command(&folder, &["broker", "--log", "loud"]), &[]);
    assert_eq!(ended.code, Some(2));
}

#[test]
fn who_does_not_read_its_log_neither_stops_the_bus_nor_keeps_it_from_a_signal() {
    let folder = Folder::new();
    let mut broker = command(&folder, &["broker", "--backing", &backing()]);
    let mut broker = Started::by(broker.stdout(Stdio::null()).stderr(Stdio::piped()));
    crate::support::wait_until("it listens", || folder.socket().exists());
    let mut procmond = Role::client(&folder, "procmond").up();
    // Each is a line of more than 200 bytes: more than a pipe holds.
    for number in 0..500 {
        procmond
            .must(&json!({"do": "declare", "topic": format!("events.process.{}{number}", "t".repeat(50))}));
    }
    assert_eq!(published(&folder, &["events.network.event"], &[&process(1)]).code, Some(0));
    signal(&broker.0, Signal::TERM);
    assert_eq!(code(&mut broker.0), Some(0));
}
