//! Who joins and leaves, as the agent sees it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{Folder, Role};

fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs_f64()
}

/// The next change of `component`.
fn next(agent: &mut Role) -> Value {
    agent.must(&json!({"do": "next_change"}))["change"].clone()
}

#[test]
fn a_component_that_crashes_again_and_again_is_seen_to() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "watch_members"}));
    let began = wall();
    let mut pids = Vec::new();
    for _ in 0..4 {
        let mut procmond = Role::client(&folder, "procmond-7").up();
        pids.push(procmond.pid());
        procmond.kill();
    }
    let mut before = began;
    for pid in pids {
        for presence in ["Joined", "Left(Ended)"] {
            let change = next(&mut agent);
            let at = change["at"].as_f64().expect("a time");
            assert!(before <= at && at <= wall(), "{change}: not before {before}");
            before = at;
            let expected = json!({
                "component": "procmond",
                "uid": 0,
                "pid": pid,
                "identity": "Weak",
                "presence": presence,
                "at": at,
            });
            assert_eq!(change, expected);
        }
    }
}

#[test]
fn who_is_sent_away_has_left_for_the_reason_that_it_was_told_and_a_stream_ends_with_its_broker() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "watch_members"}));
    let procmond = Role::client(&folder, "procmond").up();
    assert_eq!(next(&mut agent)["presence"], "Joined");
    agent.must(&json!({"do": "shutdown"}));
    let mut left: Vec<Value> = (0..2).map(|_| next(&mut agent)).collect();
    left.sort_by_key(|change| change["component"].to_string());
    for (change, (component, pid)) in left.iter().zip([("agent", agent.pid()), ("procmond", procmond.pid())])
    {
        assert_eq!((&change["component"], &change["pid"]), (&json!(component), &json!(pid)));
        assert_eq!(change["presence"], "Left(Dismissed(Shutdown))");
    }
    assert_eq!(next(&mut agent), Value::Null);
}
