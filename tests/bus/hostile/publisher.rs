//! A publisher that is hostile to those who read its ring.

use serde_json::json;

use super::table::{AS_PUBLISHER, Attack, BEFORE, BELLS_AS_PUBLISHER, FLIPS_AS_PUBLISHER, KERNEL};
use super::{Scene, TOPIC, Then, count, texts};
use crate::support::{Role, STRANGER, look, wait_until};

/// An intruder that is procmond, and its victim.
struct Attacked {
    scene: Scene,
    intruder: Role,
    /// Events that the victim ought to have by now.
    received: u64,
    poisonings: u64,
    publishers: u64,
    /// Segments that the victim has mapped for others.
    segments: usize,
}

impl Attacked {
    fn new() -> Self {
        Self::by(None, Scene::new())
    }

    /// With an intruder of this user.
    fn by(uid: Option<u32>, mut scene: Scene) -> Self {
        scene.detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
        let mut intruder = Role::intruder(&scene.folder, uid);
        intruder.must(&json!({"do": "hello", "id": "procmond"}));
        scene.is_undisturbed("nothing");
        let segments = look::segments(scene.detector.pid());
        Self { scene, intruder, received: 0, poisonings: 0, publishers: 0, segments }
    }

    /// A fresh ring, on which a few events have arrived.
    fn begin(&mut self, offer: &str, left: u64) {
        let publisher = self.publishers;
        self.publishers += 1;
        let granted = json!({"do": "declare", "publisher": publisher, "topic": TOPIC, "offer": offer});
        let granted = self.intruder.must(&granted);
        assert_eq!(granted["ready"], true, "{offer}: {granted}");
        self.publish(left);
    }

    fn publish(&mut self, left: u64) {
        let before = count(&self.tally(), "received");
        let published = self.intruder.must(&json!({"do": "publish", "count": BEFORE, "left": left}));
        self.received = before + count(&published, "count");
        wait_until("what it published honestly arrives", || self.tally()["received"] == self.received);
    }

    fn end(&mut self) {
        self.intruder.must(&json!({"do": "close_publisher", "publisher": self.publishers - 1}));
        self.await_end();
    }

    fn await_end(&self) {
        wait_until("the ring is let go of", || look::segments(self.scene.detector.pid()) == self.segments);
    }

    fn tally(&mut self) -> serde_json::Value {
        self.scene.detector.must(&json!({"do": "tally"}))
    }

    fn sees(&mut self, Attack { name, then, .. }: Attack, lost_before: u64) {
        match then {
            Then::Poisons(text) => {
                self.poisonings += 1;
                let told = self.poisonings;
                wait_until(name, || texts(&self.tally(), "errors").len() as u64 >= told);
                let errors = texts(&self.tally(), "errors");
                assert_eq!(errors.len() as u64, told, "{name}: {errors:?}");
                let last = errors.last().expect("one was just counted");
                let says = last.starts_with("procmond broke its ring: ") && last.contains(text);
                assert!(says, "{name}: {last}");
                self.scene.await_poisonings("procmond", "detector", told);
            }
            Then::Lags { lost, further } => {
                self.received += further;
                wait_until(name, || count(&self.tally(), "lost") >= lost_before.saturating_add(lost));
                wait_until(name, || count(&self.tally(), "received") >= self.received);
            }
            Then::Ends => self.await_end(),
            Then::Nothing => self.publish(0),
        }
        let tally = self.tally();
        assert_eq!(tally["received"], self.received, "{name}: nothing else is delivered: {tally}");
        assert_eq!(tally["ended"], false, "{name}: {tally}");
    }
}

fn each_word_has_its_answer(mut attacked: Attacked) {
    for attack in AS_PUBLISHER {
        attacked.begin(attack.name, attack.left);
        let lost = count(&attacked.tally(), "lost");
        attacked.intruder.must(&json!({"do": "attack", "name": attack.name}));
        attacked.sees(*attack, lost);
        attacked.scene.is_undisturbed(attack.name);
        attacked.end();
    }
}

#[test]
fn whatever_a_publisher_writes_its_reader_has_a_name_for_it() {
    each_word_has_its_answer(Attacked::new());
}

#[test]
fn whatever_a_publisher_of_another_user_writes_its_reader_has_a_name_for_it() {
    each_word_has_its_answer(Attacked::by(Some(STRANGER), Scene::over("memfd")));
}

#[test]
fn words_that_change_while_they_are_read_are_read_once() {
    let mut attacked = Attacked::new();
    attacked.scene.netmond.must(&json!({"do": "burst_until_killed", "tag": "burst"}));
    for name in FLIPS_AS_PUBLISHER {
        attacked.begin("", 0);
        let before = attacked.scene.detector.must(&json!({"do": "tally", "name": "beside"}));
        attacked.intruder.must(&json!({"do": "flip", "name": name, "rounds": 300}));
        wait_until("the honest pair goes on", || {
            let now = attacked.scene.detector.must(&json!({"do": "tally", "name": "beside"}));
            count(&now, "received") > count(&before, "received") + 1000
        });
        let tally = attacked.tally();
        for error in texts(&tally, "errors") {
            assert!(error.starts_with("procmond broke its ring: "), "{name}: {error}");
        }
        for tag in texts(&attacked.scene.detector.must(&json!({"do": "tags"})), "tags") {
            assert_eq!(tag, "evil", "{name}: no other name was ever whole");
        }
        attacked.end();
    }
    let beside = attacked.scene.detector.must(&json!({"do": "tally", "name": "beside"}));
    assert_eq!((&beside["disorder"], &beside["errors"]), (&json!(0), &json!([])), "{beside}");
    assert!(count(&beside, "gaps") <= count(&beside, "lost"), "{beside}");
}

#[test]
fn whatever_a_publisher_does_to_its_doorbell_others_are_heard() {
    let mut attacked = Attacked::new();
    for attack in BELLS_AS_PUBLISHER {
        attacked.begin("", 0);
        attacked.intruder.tell(&json!({"do": "bell", "name": attack.name}));
        attacked.scene.is_undisturbed(attack.name);
        attacked.intruder.answer(crate::support::DEADLINE);
        attacked.sees(*attack, 0);
        attacked.scene.is_undisturbed(attack.name);
        attacked.end();
    }
}

#[test]
fn the_kernel_refuses_all_that_would_change_a_segment_from_outside() {
    for uid in [None, Some(STRANGER)] {
        let mut attacked = Attacked::by(uid, Scene::over("memfd"));
        attacked.begin("", 0);
        for segment in ["own", "theirs"] {
            for (attempt, errno) in KERNEL {
                let attack = json!({"do": "kernel", "name": attempt, "on": segment});
                let said = &attacked.intruder.must(&attack)["said"];
                assert_eq!(said, errno, "{attempt} on {segment} of {uid:?}");
            }
        }
        attacked.publish(0);
        attacked.scene.is_undisturbed("all of them");
    }
}

#[test]
fn a_child_that_keeps_everything_open_keeps_no_ring_alive() {
    let mut attacked = Attacked::new();
    attacked.begin("", 0);
    assert!(look::segments(attacked.scene.detector.pid()) > attacked.segments);
    let child = attacked.intruder.must(&json!({"do": "leave_child"}));
    let child = count(&child, "child");
    attacked.intruder.kill();
    let let_go = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        attacked.await_end();
        let names = json!({"components": ["agent", "detector", "netmond"]});
        wait_until("the name is free", || attacked.scene.agent.must(&json!({"do": "components"})) == names);
        assert!(look::descriptors(u32::try_from(child).expect("a pid")) > 3, "the child lives, and has them");
    }));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child).expect("a pid")).expect("positive");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("we started it");
    if let Err(failure) = let_go {
        std::panic::resume_unwind(failure);
    }
    attacked.scene.is_undisturbed("its death");
}
