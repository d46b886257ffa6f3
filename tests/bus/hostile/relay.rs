//! A publisher over the broker that is hostile to it, and to those who read.

use serde_json::json;

use super::Scene;
use super::table::RELAYS;
use crate::support::{Role, STRANGER, wait_until};

const CONTROL: &str = "control.health.status";
/// Large enough for a record that takes more than one frame.
const WINDOW_BYTES: usize = 1 << 20;

/// Bytes of records that wait in the broker, or are awaited there.
fn waiting(scene: &mut Scene) -> u64 {
    let seen = scene.agent.must(&json!({"do": "broker_statistics"}));
    seen["in_use"]["RelayedBytes"].as_u64().expect("it is counted")
}

/// What an honest publisher says over the broker is heard, by the one that hears the intruder.
fn is_heard(scene: &mut Scene, so_far: &mut u64, after: &str) {
    let beat = json!({"do": "publish", "topic": CONTROL, "tag": "beat", "from": *so_far, "count": 3});
    scene.netmond.must(&beat);
    *so_far += 3;
    let due = scene.detector.must(&json!({"do": "await_tag", "tag": "beat", "next": *so_far}));
    assert_eq!(due["next"], *so_far, "after {after}: {due}");
}

#[test]
fn whatever_a_publisher_sends_over_the_broker_it_alone_is_sent_away() {
    for uid in [None, Some(STRANGER)] {
        let mut scene = Scene::with_rings("memfd", WINDOW_BYTES);
        scene.detector.must(&json!({"do": "subscribe", "patterns": [CONTROL]}));
        let mut so_far = 0;
        let mut intruder = Role::intruder(&scene.folder, uid);
        for (name, what) in RELAYS {
            intruder.must(&json!({"do": "hello", "id": "procmond"}));
            let declared = intruder.must(&json!({"do": "declare", "publisher": 0, "topic": CONTROL}));
            assert_eq!(declared["relayed"], true, "{declared}");
            intruder.must(&json!({"do": "relay", "name": name}));
            if *name == "relay-unended" {
                wait_until("its reader is charged", || waiting(&mut scene) > 0);
            }
            scene.is_undisturbed(name);
            is_heard(&mut scene, &mut so_far, name);
            let over = intruder.must(&json!({"do": "await_over"}));
            assert_eq!((&over["over"], &over["goodbye"]), (&json!(true), &json!(what)), "{name} of {uid:?}");
            wait_until("nobody is charged for it", || waiting(&mut scene) == 0);
            is_heard(&mut scene, &mut so_far, name);
        }
        scene.is_undisturbed("all of them");
        let tally = scene.detector.must(&json!({"do": "tally"}));
        assert_eq!((&tally["errors"], &tally["ended"]), (&json!([]), &json!(false)), "{tally}");
    }
}
