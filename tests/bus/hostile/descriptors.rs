//! Descriptors that are no segment, handed over where one is due.

use serde_json::json;

use super::table::{DESCRIPTORS, SPOILED};
use super::{Scene, TOPIC, texts};
use crate::support::{Role, STRANGER};

/// Says hello as procmond, or as the exporter, and offers something for its segment.
pub(super) fn offer(intruder: &mut Role, as_publisher: bool, offer: &str) -> serde_json::Value {
    if as_publisher {
        intruder.must(&json!({"do": "hello", "id": "procmond"}));
        intruder.must(&json!({"do": "declare", "publisher": 0, "topic": TOPIC, "offer": offer}))
    } else {
        intruder.must(&json!({"do": "hello", "id": "exporter"}));
        intruder.must(&json!({"do": "subscribe", "pattern": "events.network.#", "offer": offer}))
    }
}

#[test]
fn what_is_no_segment_ends_the_session_that_offered_it_and_no_other() {
    let mut scene = Scene::over("memfd");
    scene.detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let intruders = [(true, None), (false, None), (true, Some(STRANGER)), (false, Some(STRANGER))];
    for (as_publisher, uid) in intruders {
        let mut intruder = Role::intruder(&scene.folder, uid);
        for (name, text) in DESCRIPTORS {
            let answer = offer(&mut intruder, as_publisher, name);
            let goodbye = answer["goodbye"].as_str().unwrap_or_default();
            // A consumer's is one page, which its first word has filled.
            if *name == "descriptor-sparse" && !as_publisher {
                assert_eq!(answer["ready"], true, "{name}: {answer}");
            } else {
                assert!(goodbye.contains(text), "{name}: {answer}");
            }
            scene.is_undisturbed(name);
        }
    }
}

#[test]
fn a_segment_that_can_not_be_filled_is_no_ring_and_its_events_go_over_the_broker() {
    let mut scene = Scene::over("memfd");
    scene.detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    for as_publisher in [true, false] {
        let mut intruder = Role::intruder(&scene.folder, None);
        offer(&mut intruder, as_publisher, "descriptor-unfillable");
        let answer = intruder.must(&json!({"do": "await_relayed"}));
        assert_eq!((&answer["relayed"], &answer["over"]), (&json!(true), &json!(false)), "{answer}");
        scene.is_undisturbed("descriptor-unfillable");
    }
}

#[test]
fn a_segment_that_does_not_begin_as_one_is_its_makers_fault() {
    for as_publisher in [true, false] {
        let mut scene = Scene::new();
        scene.detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
        let mut intruder = Role::intruder(&scene.folder, None);
        offer(&mut intruder, as_publisher, SPOILED);
        let accused = texts(&intruder.must(&json!({"do": "await_accused"})), "accused");
        let (component, by) = if as_publisher { ("procmond", "detector") } else { ("exporter", "netmond") };
        // It may have been told when the ring was seen to be closed already.
        assert!(accused.iter().all(|text| text.contains("the peer's segment starts with")), "{accused:?}");
        scene.await_poisonings(component, by, 1);
        scene.is_undisturbed(SPOILED);
    }
}
