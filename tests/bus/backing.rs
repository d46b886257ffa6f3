//! Rings of memory that has a name: what holds for them whatever the other tests' rings are made of.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::bad_input::{frame, provoke_as};
use crate::support::{Folder, Role, STRANGER, look, name_of_segment, wait_until};

const TOPIC: &str = "events.process.batch";

fn named_agent(folder: &Folder) -> Role {
    Role::agent(folder, json!({"backing": "named", "socket_mode": 0o666, "ring_bytes": 1 << 21})).up()
}

/// A file as a process leaves it that was killed between making a segment and its peer's attaching.
struct Left(PathBuf);

impl Left {
    /// By process `pid`, `bytes` long. The last digits tell those of one test from each other.
    fn new(pid: u32, bytes: u64, last: u32) -> Self {
        let number = u128::from(std::process::id()) * 1_000_000_000 + u128::from(last);
        let path = PathBuf::from(format!("/dev/shm{}", name_of_segment('p', pid, number)));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|file| file.set_len(bytes)).expect("there is room");
        Self(path)
    }

    fn name(&self) -> String {
        format!("/{}", self.0.file_name().expect("a file").to_str().expect("ASCII"))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        // It may have been collected.
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn rings_with_names_carry_events_and_leave_no_name_however_their_processes_end() {
    let folder = Folder::new();
    let mut agent = named_agent(&folder);
    let mut detector = Role::client(&folder, "detector").up();
    for subscriber in [&mut agent, &mut detector] {
        subscriber.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    }
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 1000}));
    for subscriber in [&mut agent, &mut detector] {
        let report = subscriber.must(&json!({"do": "await", "total": 1000}));
        assert_eq!((&report["received"], &report["lost"]), (&json!(1000), &json!(0)), "{report}");
    }
    assert_eq!(look::segments(procmond.pid()), 4, "two rings of two segments");
    let maps = fs::read_to_string(format!("/proc/{}/maps", procmond.pid())).expect("it lives");
    assert!(!maps.contains("memfd:eventbus"), "the client does what the broker says: {maps}");
    let pids = [agent.pid(), detector.pid(), procmond.pid()];
    assert_eq!(look::named_segments(&pids), Vec::<String>::new(), "both sides have attached");
    for role in [&mut procmond, &mut detector, &mut agent] {
        role.kill();
    }
    assert_eq!(look::named_segments(&pids), Vec::<String>::new());
}

#[test]
fn with_names_events_from_and_to_another_user_go_over_the_broker() {
    let folder = Folder::new();
    let mut agent = named_agent(&folder);
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let mut procmond = Role::strange_client(&folder, "procmond", json!({})).up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 1000}));
    let mut detector = Role::client(&folder, "detector").up();
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "batch", "from": 1000, "count": 1000}));
    for (subscriber, total) in [(&mut agent, 2000), (&mut detector, 1000)] {
        let report = subscriber.must(&json!({"do": "await", "total": total}));
        assert_eq!((&report["received"], &report["lost"]), (&json!(total), &json!(0)), "{report}");
    }
    assert_eq!(look::segments(procmond.pid()), 0);
    assert_eq!(look::named_segments(&[agent.pid(), detector.pid()]), Vec::<String>::new());
}

#[test]
fn two_processes_of_another_user_share_rings_with_each_other() {
    let folder = Folder::new();
    let _agent = named_agent(&folder);
    let mut detector = Role::strange_client(&folder, "detector", json!({})).up();
    detector.must(&json!({"do": "subscribe", "patterns": [TOPIC]}));
    let mut procmond = Role::strange_client(&folder, "procmond", json!({})).up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    let report = detector.must(&json!({"do": "await", "total": 100}));
    assert_eq!(report["received"], 100, "{report}");
}

#[test]
fn events_of_a_client_without_room_for_its_segment_go_over_the_broker() {
    let folder = Folder::new();
    let mut agent = named_agent(&folder);
    agent.must(&json!({"do": "subscribe", "patterns": [TOPIC]}));
    let mut procmond = Role::poor_client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 1000}));
    let report = agent.must(&json!({"do": "await", "total": 1000}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(1000), &json!(0)), "{report}");
    assert_eq!(look::segments(procmond.pid()), 0);
}

#[test]
fn what_a_killed_process_left_is_collected_when_a_broker_or_a_client_starts() {
    let mut child = Command::new("true").spawn().expect("a process");
    let dead = child.id();
    child.wait().expect("it ends");
    let folder = Folder::new();
    let (first, living) = (Left::new(dead, 4096, 1), Left::new(std::process::id(), 4096, 2));
    let _agent = named_agent(&folder);
    assert!(!first.0.exists(), "the broker collects");
    let second = Left::new(dead, 4096, 3);
    let _procmond = Role::client(&folder, "procmond").up();
    assert!(!second.0.exists(), "so does a client, where rings have names");
    assert!(living.0.exists());
}

#[test]
fn a_named_segment_that_is_not_as_agreed_ends_its_own_session_only() {
    let folder = Folder::new();
    let mut agent = named_agent(&folder);
    agent.must(&json!({"do": "subscribe", "patterns": [TOPIC]}));
    let own = std::process::id();
    let (small, foreign, gone) = (Left::new(own, 4096, 4), Left::new(own, 4096, 5), Left::new(own, 0, 6));
    chown(&foreign.0, Some(STRANGER), None).expect("we are root");
    fs::remove_file(&gone.0).expect("it was just made");
    let memory = small.name().replacen("/deebp", "/deebc", 1);
    for (name, what) in [
        (small.name(), "has 4096 bytes where 2101248 were agreed"),
        (foreign.name(), "belongs to uid 65534"),
        (gone.name(), "is gone"),
        (memory, "nor the name of such a segment"),
    ] {
        let declare = [&[1, 1, 0, 0, 20], TOPIC.as_bytes()].concat();
        let mut bytes = frame(&declare);
        // Whichever ring it is asked for; of others it is not heard.
        for ring in 1..60 {
            bytes.extend(frame(&[&[5, ring, 1, 30], name.as_bytes()].concat()));
        }
        let answer = provoke_as(&folder, "procmond", &bytes);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains(what), "{name}: {text:?}");
        wait_until("the broker has let go of it", || {
            agent.must(&json!({"do": "components"})) == json!({"components": ["agent"]})
        });
    }
}
