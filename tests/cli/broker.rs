//! `eventbus broker`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::Folder;
use crate::tool::{Tool, command, process, published, ran};

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
        let broker = Tool::broker(&folder, &["--socket-mode", "660", "--socket-group", "65534"]);
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
