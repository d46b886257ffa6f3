//! A subscriber that is hostile to those who write into its ring.

use serde_json::json;

use super::table::{AS_SUBSCRIBER, BELLS_AS_SUBSCRIBER, FLIPS_AS_SUBSCRIBER, KERNEL};
use super::{Scene, TOPIC, Then, count, texts};
use crate::support::{Folder, Role, STRANGER, wait_until};

/// More than a ring holds: the publisher has to look at what its subscriber says of space.
const BURST: u64 = 600;

/// An honest procmond, an honest agent that hears it, and an intruder that is the exporter.
struct Attacked {
    scene: Scene,
    procmond: Role,
    intruder: Role,
    published: u64,
    poisonings: u64,
}

impl Attacked {
    fn new() -> Self {
        Self::by(None, Scene::new())
    }

    /// With an intruder of this user.
    fn by(uid: Option<u32>, mut scene: Scene) -> Self {
        scene.agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
        let mut procmond = Role::client(&scene.folder, "procmond").up();
        procmond.must(&json!({"do": "declare", "topic": TOPIC}));
        let intruder = Role::intruder(&scene.folder, uid);
        Self { scene, procmond, intruder, published: 0, poisonings: 0 }
    }

    /// A fresh session with a fresh ring, full, of which the intruder has read all.
    fn begin(&mut self, name: &str) {
        self.intruder.must(&json!({"do": "hello", "id": "exporter"}));
        let granted = self.intruder.must(&json!({"do": "subscribe", "pattern": "events.process.#"}));
        assert_eq!(granted["ready"], true, "{name}: {granted}");
        for _ in 0..3 {
            self.publish();
            assert!(count(&self.intruder.must(&json!({"do": "read"})), "published") > 0);
        }
    }

    fn publish(&mut self) {
        self.procmond.must(&json!({"do": "singles", "from": self.published, "count": BURST}));
        self.published += BURST;
    }

    /// The agent's account with the same publisher is exact.
    fn agent_is_undisturbed(&mut self, after: &str) {
        let report = self.scene.agent.must(&json!({"do": "await", "total": self.published}));
        let account = count(&report, "received") + count(&report, "lost");
        assert_eq!((account, &report["errors"]), (self.published, &json!([])), "{after}: {report}");
        assert_eq!(report["disorder"], 0, "{after}: {report}");
        self.scene.is_undisturbed(after);
    }

    fn sees(&mut self, name: &str, then: Then) {
        match then {
            Then::Poisons(text) => {
                self.poisonings += 1;
                let accused = texts(&self.intruder.must(&json!({"do": "await_accused"})), "accused");
                assert!(accused.len() == 1 && accused[0].contains(text), "{name}: {accused:?}");
                self.scene.await_poisonings("exporter", "procmond", self.poisonings);
            }
            Then::Ends => wait_until(name, || {
                self.publish();
                self.procmond.must(&json!({"do": "totals"}))["subscribers"] == 1
            }),
            Then::Nothing => {
                let before = count(&self.intruder.must(&json!({"do": "read"})), "published");
                self.publish();
                let after = count(&self.intruder.must(&json!({"do": "read"})), "published");
                assert!(after > before, "{name}: the ring goes on");
                assert_eq!(self.scene.poisonings("exporter", "procmond"), self.poisonings, "{name}");
            }
            Then::Lags { .. } => unreachable!("a publisher loses nothing that it receives"),
        }
    }
}

fn each_word_has_its_answer(mut attacked: Attacked) {
    for attack in AS_SUBSCRIBER {
        attacked.begin(attack.name);
        attacked.intruder.must(&json!({"do": "attack", "name": attack.name}));
        attacked.publish();
        attacked.sees(attack.name, attack.then);
        attacked.agent_is_undisturbed(attack.name);
    }
}

#[test]
fn whatever_a_subscriber_writes_its_publisher_has_a_name_for_it() {
    each_word_has_its_answer(Attacked::new());
}

#[test]
fn whatever_a_subscriber_of_another_user_writes_its_publisher_has_a_name_for_it() {
    each_word_has_its_answer(Attacked::by(Some(STRANGER), Scene::over("memfd")));
}

#[test]
fn marks_that_change_while_they_are_looked_at_are_looked_at_once() {
    let mut attacked = Attacked::new();
    for name in FLIPS_AS_SUBSCRIBER {
        attacked.begin(name);
        attacked.intruder.tell(&json!({"do": "flip", "name": name, "rounds": 500}));
        for _ in 0..5 {
            attacked.publish();
        }
        attacked.intruder.answer(crate::support::DEADLINE);
        attacked.agent_is_undisturbed(name);
    }
}

#[test]
fn whatever_a_subscriber_does_to_its_doorbell_publishing_never_waits() {
    let mut attacked = Attacked::new();
    for attack in BELLS_AS_SUBSCRIBER {
        attacked.begin(attack.name);
        attacked.intruder.must(&json!({"do": "bell", "name": attack.name}));
        attacked.sees(attack.name, attack.then);
        attacked.agent_is_undisturbed(attack.name);
    }
}

#[test]
fn a_doorbell_that_is_full_and_never_read_is_rung_all_the_same() {
    let mut attacked = Attacked::new();
    attacked.begin("full");
    // Each event is what it says it waits for.
    let mut unread = 0;
    loop {
        attacked.intruder.must(&json!({"do": "attack", "name": "wake-at-next"}));
        attacked.procmond.must(&json!({"do": "singles", "from": attacked.published, "count": 1}));
        attacked.published += 1;
        let now = count(&attacked.intruder.must(&json!({"do": "bell", "name": "unread"})), "unread");
        if now == unread {
            break;
        }
        unread = now;
    }
    assert!(unread > 100, "it takes some hundred rings, and not {unread}");
    attacked.sees("full", Then::Nothing);
    attacked.agent_is_undisturbed("full");
}

#[test]
fn the_kernel_refuses_a_subscriber_all_that_would_change_a_segment() {
    for uid in [None, Some(STRANGER)] {
        let mut attacked = Attacked::by(uid, Scene::over("memfd"));
        attacked.begin("kernel");
        for segment in ["own", "theirs"] {
            for (attempt, errno) in KERNEL {
                let attack = json!({"do": "kernel", "name": attempt, "on": segment});
                let said = &attacked.intruder.must(&attack)["said"];
                assert_eq!(said, errno, "{attempt} on {segment} of {uid:?}");
            }
        }
        attacked.sees("kernel", Then::Nothing);
        attacked.agent_is_undisturbed("kernel");
    }
}

#[test]
fn no_death_of_a_peer_raises_sigpipe() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"sigpipe": true})).up();
    let mut procmond = Role::client_with(&folder, "procmond", json!({"sigpipe": true})).up();
    procmond.must(&json!({"do": "declare", "topic": TOPIC}));
    let mut intruder = Role::intruder(&folder, None);
    // A publisher looks after its subscribers ten times a second: mostly it rings before it knows.
    for index in 0..20 {
        intruder.must(&json!({"do": "hello", "id": "exporter"}));
        intruder.must(&json!({"do": "subscribe", "pattern": "events.process.#"}));
        procmond.must(&json!({"do": "singles", "from": 2 * index, "count": 1}));
        intruder.must(&json!({"do": "attack", "name": "wake-at-next"}));
        intruder.must(&json!({"do": "bell", "name": "bell-closed"}));
        procmond.must(&json!({"do": "singles", "from": 2 * index + 1, "count": 1}));
    }
    // What the broker answers now, nobody can receive.
    wait_until("its session ends", || {
        intruder.must(&json!({"do": "deaf"}));
        agent.must(&json!({"do": "components"})) == json!({"components": ["agent", "procmond"]})
    });
    intruder.kill();
    agent.kill();
    procmond.must(&json!({"do": "singles", "from": 0, "count": 100}));
    let refused = procmond.call(&json!({"do": "declare", "name": "x", "topic": TOPIC}));
    assert!(refused.get("error").is_some(), "its broker is gone, and it is not: {refused}");
}
