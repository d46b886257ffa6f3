//! Sizes of rings that nobody should ask for, by a client that does not check before it asks.

use serde_json::json;

use super::Scene;
use super::table::SIZES;
use crate::support::{Role, STRANGER, is_named, look};

#[test]
fn a_size_that_can_not_be_is_refused_and_costs_nobody_anything() {
    let mut scene = Scene::new();
    // A topic that the scene's netmond publishes, so that a ring would have to come to be.
    for uid in if is_named() { vec![None] } else { vec![None, Some(STRANGER)] } {
        let mut intruder = Role::intruder(&scene.folder, uid);
        intruder.must(&json!({"do": "hello", "id": "exporter"}));
        let before = scene.agent.must(&json!({"do": "ring_charges"}));
        for (name, bytes, why) in SIZES {
            let asked = json!({"do": "subscribe", "pattern": "events.network.#", "ring_bytes": bytes});
            let answer = intruder.must(&asked);
            assert_eq!(
                (&answer["refused"], &answer["over"]),
                (&json!(why), &json!(false)),
                "{name}: {answer}"
            );
            assert_eq!(scene.agent.must(&json!({"do": "ring_charges"})), before, "{name}");
            scene.is_undisturbed(name);
        }
        let asked = json!({"do": "subscribe", "pattern": "events.network.#", "ring_bytes": 1 << 17});
        assert_eq!(intruder.must(&asked)["ready"], true, "its session lives, and its number is free");
        assert_eq!(look::rings(scene.netmond.pid()), [1 << 16, 1 << 17]);
        scene.is_undisturbed("one that can be");
        // The next one has the name.
        intruder.kill();
    }
}
