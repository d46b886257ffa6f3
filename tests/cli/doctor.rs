//! `eventbus doctor`.

use std::os::unix::net::UnixListener;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::Folder;
use crate::tool::{Tool, command, json, ran, strange_command};

const NAMES: [&str; 12] = [
    "sealed memory",
    "rings",
    "peer's user",
    "peer's process",
    "descriptors",
    "memory",
    "shared memory",
    "folder",
    "socket",
    "key file",
    "broker",
    "session",
];

/// What was found: the exit code, and the report.
fn found(mut doctor: Command) -> (Option<i32>, Value) {
    doctor.arg("--json");
    let ended = ran(doctor, &[]);
    assert!(ended.out.len() == 1 && ended.err.is_empty(), "{ended:?}");
    let report = json(&ended.out[0]);
    let checks = report["checks"].as_array().expect("a list");
    let names: Vec<&str> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(names, NAMES);
    for check in checks {
        assert_eq!(check["state"] == "ok", check["advice"].is_null(), "advice where it is needed: {check}");
    }
    (ended.code, report)
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let at = NAMES.iter().position(|known| *known == name).expect("a known name");
    &report["checks"][at]
}

fn assert_state(report: &Value, name: &str, state: &str, text: &str) {
    let check = check(report, name);
    let found = check["found"].as_str().expect("a text");
    assert!(check["state"] == state && found.contains(text), "{name} {state} {text}: {check}");
}

#[test]
fn roots_own_broker_is_found_and_lets_root_in() {
    let folder = Folder::new();
    let broker = Tool::broker(&folder, &[]);
    let (code, report) = found(command(&folder, &["doctor"]));
    assert_eq!((code, &report["uid"]), (Some(0), &0.into()), "{report:#}");
    for name in ["sealed memory", "rings", "peer's user", "folder", "socket", "key file", "broker", "session"]
    {
        assert_state(&report, name, "ok", "");
    }
    assert_state(&report, "broker", "ok", &format!("process {} (eventbus) of uid 0 listens", broker.pid()));
    assert_state(&report, "session", "ok", "as eventbus-doctor-");
    assert_state(&report, "socket", "ok", "uid 0, gid 0, mode 600");
}

#[test]
fn without_a_broker_that_is_what_is_missing() {
    let folder = Folder::new();
    let (code, report) = found(command(&folder, &["doctor"]));
    assert_eq!((code, &report["worst"]), (Some(3), &"missing".into()));
    assert_state(&report, "rings", "ok", "an event went from one client to another");
    for name in ["socket", "key file", "broker", "session"] {
        assert_state(&report, name, "missing", "No such file");
    }
    let advice = check(&report, "broker")["advice"].as_str().expect("a text");
    assert!(advice.contains("`eventbus broker`"), "{advice}");
    assert_eq!(folder.entries(), Vec::<String>::new(), "it leaves nothing");
}

#[test]
fn without_sealed_memory_events_go_over_the_broker_which_is_called_weak() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let mut denied = Command::new("strace");
    denied.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=memfd_create"]);
    denied.args(["-e", "inject=memfd_create:error=EPERM"]).arg(env!("CARGO_BIN_EXE_eventbus"));
    denied.args(["doctor", "--socket"]).arg(folder.socket());
    let (code, report) = found(denied);
    assert_eq!((code, &report["worst"]), (Some(0), &"weak".into()), "{report:#}");
    assert_state(&report, "sealed memory", "weak", "events go over the broker");
    assert_state(&report, "rings", "weak", "an event went over the broker, since there was no ring");
    assert_state(&report, "rings", "weak", "Operation not permitted");
    let advice = check(&report, "sealed memory")["advice"].as_str().expect("a text");
    assert!(advice.contains("allow memfd_create") && advice.contains("--backing named"), "{advice}");
}

#[test]
fn another_user_is_told_why_it_is_kept_out() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let (code, report) = found(strange_command(&folder, &["doctor"]));
    assert_eq!((code, &report["uid"]), (Some(3), &65534.into()), "{report:#}");
    for name in ["sealed memory", "rings", "peer's user", "folder"] {
        assert_state(&report, name, "ok", "");
    }
    assert_state(&report, "socket", "missing", "mode 600: not for this user");
    assert_state(&report, "key file", "missing", "Permission denied");
    assert_state(&report, "broker", "missing", "nobody listens for this user: Permission denied");
    assert_state(&report, "session", "missing", "Permission denied");
}

#[test]
fn a_socket_for_everybody_lets_another_user_in_and_is_called_weak() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &["--socket-mode", "666"]);
    let (code, report) = found(strange_command(&folder, &["doctor"]));
    assert_eq!((code, &report["worst"]), (Some(0), &"weak".into()), "{report:#}");
    assert_state(&report, "socket", "weak", "any user may connect");
    assert_state(&report, "key file", "weak", "any user can read it");
    assert_state(&report, "broker", "ok", "of uid 0 listens");
    assert_state(&report, "session", "ok", "lets this user in");
}

#[test]
fn another_users_broker_is_not_taken_for_ones_own() {
    let folder = Folder::of(65534, 0o755);
    let broker = Tool::start(strange_command(&folder, &["broker"]));
    broker.says("listening at ");
    let (code, report) = found(command(&folder, &["doctor"]));
    assert_eq!(code, Some(3), "{report:#}");
    assert_state(&report, "folder", "weak", "is another user's (uid 65534");
    assert_state(&report, "broker", "weak", "of uid 65534 listens");
    assert_state(&report, "session", "missing", "runs as uid 65534, which is not trusted");
    let advice = check(&report, "session")["advice"].as_str().expect("a text");
    assert!(advice.contains("--broker-uid"), "{advice}");
    let ended = crate::tool::published(&folder, &["events.process.batch", "--broker-uid", "65534"], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (code, report) = found(command(&folder, &["doctor", "--broker-uid", "65534"]));
    assert_eq!(code, Some(0), "who is told so looks as it will connect: {report:#}");
    assert_state(&report, "broker", "ok", "of uid 65534 listens");
    assert_state(&report, "session", "ok", "lets this user in");
}

#[test]
fn limits_and_folders_are_named() {
    let folder = Folder::of(0, 0o777);
    let limited = |limit: &str, words: &[&str]| {
        let mut within = Command::new("sh");
        within
            .args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"])
            .arg(env!("CARGO_BIN_EXE_eventbus"));
        within.args(words);
        within
    };
    let socket = folder.socket();
    let words = ["doctor", "--socket", socket.to_str().expect("UTF-8")];
    let (_, report) = found(limited("-n 256", &words));
    assert_state(&report, "descriptors", "weak", "RLIMIT_NOFILE is 256 (hard limit: 256)");
    assert_state(&report, "folder", "missing", "can be written by others (uid 0, gid 0, mode 777)");
    let (_, report) = found(limited("-f 102400", &words));
    assert_state(&report, "memory", "weak", "RLIMIT_FSIZE");
    let long = format!("/tmp/{}", "x".repeat(103));
    let (_, report) = found(limited("-n 256", &["doctor", "--socket", &long]));
    assert_state(&report, "socket", "missing", "its path has 108 bytes, and at most 107 are possible");
    assert_state(&report, "folder", "weak", "a stranger may be there first");
    let (_, report) = found(limited("-n 256", &["doctor", "--socket", "/no/such/folder/bus.sock"]));
    assert_state(&report, "folder", "missing", "/no/such/folder is not there");
}

#[test]
fn who_ends_it_before_it_has_looked_is_not_told_that_nothing_is_missing() {
    let folder = Folder::new();
    // Somebody who takes connections, and says nothing.
    let mute = UnixListener::bind(folder.socket()).expect("the folder is ours");
    let doctor = Tool::start(command(&folder, &["doctor"]));
    // The first is a look who listens, the second is to be let in.
    let held = [mute.accept().expect("it comes"), mute.accept().expect("it comes again")];
    doctor.signal(Signal::TERM);
    let ended = doctor.end();
    assert_eq!((ended.code, ended.out.len()), (Some(1), 0), "{ended:?}");
    assert!(ended.err.contains("told to end before it had looked at everything"), "{ended:?}");
    drop(held);
}

#[test]
fn lines_for_people_say_state_finding_and_advice() {
    let folder = Folder::new();
    let ended = ran(command(&folder, &["doctor"]), &[]);
    assert_eq!((ended.code, ended.out.len(), &*ended.err), (Some(3), NAMES.len(), ""), "{ended:?}");
    for (line, name) in ended.out.iter().zip(NAMES) {
        let rest = ["ok       ", "weak     ", "missing  "].iter().find_map(|state| line.strip_prefix(state));
        assert!(rest.is_some_and(|rest| rest.starts_with(&format!("{name:<15} "))), "{line}");
    }
}
