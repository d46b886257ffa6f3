//! Many clients in one process: one session.

use std::os::unix::fs::symlink;

use serde_json::json;

use crate::support::{Folder, Role, look, wait_until};

const BATCHES: &str = "events.process.batch";

#[test]
fn a_hundred_clients_of_one_process_are_one_session_with_a_ring_for_each_publisher() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 64 << 10})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    agent.must(&json!({"do": "watch_members"}));
    let mut procmond = Role::client(&folder, "procmond").up();
    let link = folder.path().join("link");
    symlink(folder.path(), &link).expect("a folder of ours");
    let counts = |procmond: &Role| {
        let pid = procmond.pid();
        (look::connections(&folder.socket()), look::sockets(pid), look::threads(pid), look::rings(pid).len())
    };
    let before = counts(&procmond);
    assert_eq!((before.0, before.3), (1, 0));
    let paths = [folder.socket(), link.join("bus.sock")];
    procmond.must(&json!({"do": "join", "id": "procmond-7F", "count": 99, "paths": paths}));
    assert_eq!(counts(&procmond), before);
    let members = agent.must(&json!({"do": "members"}));
    assert_eq!(members["procmond"][1], procmond.pid(), "{members}");
    assert_eq!(members.as_object().map(serde_json::Map::len), Some(2), "{members}");
    // Each publisher has a ring, and all that the clients publish by themselves goes over one more.
    procmond.must(&json!({"do": "publish_from_each", "publishers": 50, "topic": BATCHES}));
    let report = agent.must(&json!({"do": "await", "total": 50 + 99}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(50 + 99), &json!(0)), "{report}");
    let (connections, sockets, _, rings) = counts(&procmond);
    assert_eq!((connections, rings), (1, 51));
    assert_eq!(sockets, before.1 + 51, "and a doorbell for each ring");
    procmond.must(&json!({"do": "part"}));
    wait_until("the rings go with their publishers", || look::rings(procmond.pid()).len() == 1);
    assert_eq!(look::connections(&folder.socket()), 1, "the first client is there");
    procmond.kill();
    let mut presence = || agent.must(&json!({"do": "next_change"}))["change"]["presence"].to_string();
    let (first, second) = (presence(), presence());
    assert_eq!(first, "\"Joined\"");
    assert!(second.starts_with("\"Left"), "nobody else came: {second}");
}
