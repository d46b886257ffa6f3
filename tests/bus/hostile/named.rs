//! What holds, and what does not, where rings are made of memory with names.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use shm::layout::{CONSUMER_SEGMENT_BYTES, PRODUCER_HEADER_BYTES};

use super::descriptors::offer;
use super::table::{NAMED_KERNEL, NAMES, SWAPPED, THEIRS_AS_PUBLISHER, THEIRS_AS_SUBSCRIBER};
use super::{RING_BYTES, Scene, TOPIC, count, texts};
use crate::support::{Role, STRANGER, look, name_of_segment, wait_until};

/// An intruder and its victim, alone on a ring: the one publishes, and the other subscribes.
struct Duel {
    scene: Scene,
    by_publisher: bool,
    intruder: Role,
    victim: Role,
    published: u64,
}

impl Duel {
    fn new(by_publisher: bool) -> Self {
        Self::of(None, by_publisher)
    }

    /// Both of this user.
    fn of(uid: Option<u32>, by_publisher: bool) -> Self {
        let scene = Scene::over("named");
        let intruder = Role::intruder(&scene.folder, uid);
        let victim = victim(&scene, uid, by_publisher);
        Self { scene, by_publisher, intruder, victim, published: 0 }
    }

    /// A victim in place of the one that died.
    fn again(&mut self) {
        self.victim = victim(&self.scene, None, self.by_publisher);
        self.published = 0;
    }

    fn offer(&mut self, what: &str) -> Value {
        if self.by_publisher {
            self.intruder.must(&json!({"do": "hello", "id": "procmond"}));
            self.intruder.must(&json!({"do": "declare", "publisher": 0, "topic": TOPIC, "offer": what}))
        } else {
            self.intruder.must(&json!({"do": "hello", "id": "exporter"}));
            self.intruder.must(&json!({"do": "subscribe", "pattern": "events.process.#", "offer": what}))
        }
    }

    /// A fresh ring, on which a few events have arrived.
    fn begin(&mut self, what: &str) {
        let granted = self.offer(what);
        assert_eq!(granted["ready"], true, "{what}: {granted}");
        self.goes_on(what);
    }

    /// Has events published, and sees that they arrive.
    fn goes_on(&mut self, after: &str) {
        if self.by_publisher {
            let before = count(&self.victim.must(&json!({"do": "tally"})), "received");
            self.intruder.must(&json!({"do": "publish", "count": 3}));
            wait_until(after, || self.victim.must(&json!({"do": "tally"}))["received"] == before + 3);
            wait_until("it says what it has read", || {
                let words = self.intruder.must(&json!({"do": "head"}));
                words["head"] == words["tail"]
            });
            let tally = self.victim.must(&json!({"do": "tally"}));
            assert_eq!((&tally["errors"], &tally["lost"]), (&json!([]), &json!(0)), "{after}: {tally}");
        } else {
            self.victim.must(&json!({"do": "singles", "from": self.published, "count": 3}));
            let first = count(&self.intruder.must(&json!({"do": "read"})), "published");
            self.victim.must(&json!({"do": "singles", "from": self.published + 3, "count": 3}));
            let second = count(&self.intruder.must(&json!({"do": "read"})), "published");
            self.published += 6;
            // Three events, and no more than that: a position is the publisher's own.
            assert!((first + 1..first + 4096).contains(&second), "{after}: from {first} to {second}");
            let totals = self.victim.must(&json!({"do": "totals"}));
            assert_eq!((&totals["dropped"], &totals["subscribers"]), (&json!(0), &json!(1)), "{totals}");
        }
    }

    fn poisonings(&mut self) -> u64 {
        let (culprit, by) =
            if self.by_publisher { ("procmond", "exporter") } else { ("exporter", "procmond") };
        self.scene.poisonings(culprit, by)
    }

    /// Has the victim look at the ring, and sees it die of that, and nobody else.
    fn kills(&mut self, how: &str) {
        if self.by_publisher {
            self.intruder.must(&json!({"do": "bell", "name": "once"}));
        } else {
            self.victim.tell(&json!({"do": "singles", "from": 0, "count": 1}));
        }
        assert_eq!(self.victim.death().signal(), Some(Signal::BUS.as_raw()), "{how}");
        let name = if self.by_publisher { "exporter" } else { "procmond" };
        wait_until("the broker knows", || {
            !texts(&self.scene.agent.must(&json!({"do": "components"})), "components").contains(&name.into())
        });
        self.scene.is_undisturbed(how);
    }
}

/// An exporter that subscribes, or a procmond that publishes. Where it is to die, it leaves no image of its memory.
fn victim(scene: &Scene, uid: Option<u32>, subscribes: bool) -> Role {
    let id = if subscribes { "exporter" } else { "procmond" };
    let mut victim = match uid {
        None => Role::client_with(&scene.folder, id, json!({"within": ["prlimit", "--core=0"]})),
        Some(_) => Role::strange_client(&scene.folder, id, json!({})),
    }
    .up();
    if subscribes {
        victim.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    } else {
        victim.must(&json!({"do": "declare", "topic": TOPIC}));
    }
    victim
}

#[test]
fn what_no_segments_name_leads_to_ends_the_session_that_offered_it_and_no_other() {
    let mut scene = Scene::over("named");
    scene.detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let mut intruder = Role::intruder(&scene.folder, None);
    for (name, text) in NAMES {
        for as_publisher in [true, false] {
            let answer = offer(&mut intruder, as_publisher, name);
            let goodbye = answer["goodbye"].as_str().unwrap_or_default();
            if text.is_empty() {
                assert_eq!(answer["ready"], true, "{name}: {answer}");
            } else {
                assert!(goodbye.contains(text), "{name}: {answer}");
            }
            scene.is_undisturbed(name);
            assert_eq!(look::segments(scene.agent.pid()), 0, "the broker looks, and maps nothing");
        }
    }
}

#[test]
fn a_name_that_leads_elsewhere_once_the_broker_has_looked_is_its_owners_fault() {
    for by_publisher in [true, false] {
        for (what, text) in SWAPPED {
            is_its_owners_fault(Duel::new(by_publisher), what, text);
        }
        // To root no mode closes a file.
        let closed = ("swapped-closed", "nor the name of such a segment");
        is_its_owners_fault(Duel::of(Some(STRANGER), by_publisher), closed.0, closed.1);
    }
}

/// The victim looks at the segment after the broker has, and after the intruder has changed what its name leads to.
fn is_its_owners_fault(mut duel: Duel, what: &str, text: &str) {
    duel.victim.stop();
    duel.offer(what);
    duel.victim.go_on();
    if text.is_empty() {
        // The ring is none for the victim, and all else goes on.
        duel.victim.must(&json!({"do": if duel.by_publisher { "tally" } else { "totals" }}));
        let granted = duel.intruder.must(&json!({"do": "await_granted"}));
        assert_eq!(granted["over"], false, "{what}, {}: {granted}", duel.by_publisher);
        assert_eq!(duel.poisonings(), 0, "{what}");
    } else {
        let accused = texts(&duel.intruder.must(&json!({"do": "await_accused"})), "accused");
        assert!(accused.iter().all(|accusation| accusation.contains(text)), "{what}: {accused:?}");
        wait_until(what, || duel.poisonings() == 1);
    }
    let names = texts(&duel.scene.agent.must(&json!({"do": "components"})), "components");
    for name in ["procmond", "exporter"] {
        assert!(names.iter().any(|known| known == name), "{what}: {names:?}");
    }
    assert_eq!(duel.victim.must(&json!({"do": "over"}))["why"], Value::Null, "{what}");
    duel.scene.is_undisturbed(what);
}

#[test]
fn a_segment_of_another_user_is_refused_though_the_broker_could_open_it() {
    for by_publisher in [true, false] {
        let mut duel = Duel::of(Some(STRANGER), by_publisher);
        let kind = if by_publisher { 'p' } else { 'c' };
        let name = name_of_segment(kind, std::process::id(), duel.intruder.pid().into());
        let bytes = if by_publisher { PRODUCER_HEADER_BYTES + RING_BYTES } else { CONSUMER_SEGMENT_BYTES };
        // All but its owner is as it should be.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path(&name));
        made.and_then(|file| file.set_len(bytes as u64)).expect("there is room");
        let answer = duel.offer(&format!("name:{name}"));
        std::fs::remove_file(path(&name)).expect("it was just made");
        assert!(answer["goodbye"].as_str().is_some_and(|text| text.contains("belongs to uid 0")), "{answer}");
        duel.scene.is_undisturbed("a segment of root's");
    }
}

fn path(name: &str) -> String {
    format!("/dev/shm{name}")
}

#[test]
fn a_name_opens_nothing_to_another_user_and_ends_with_its_ring() {
    for by_publisher in [true, false] {
        let mut duel = Duel::new(by_publisher);
        let mut stranger = Role::intruder(&duel.scene.folder, Some(STRANGER));
        duel.begin("name-kept");
        let names = look::named_segments(&[duel.victim.pid()]);
        assert_eq!(names.len(), 1, "the intruder has left it where it is: {names:?}");
        let name = format!("/{}", names[0]);
        assert_eq!(duel.intruder.must(&json!({"do": "open", "name": name}))["said"], "done");
        assert_eq!(stranger.must(&json!({"do": "open", "name": name}))["said"], "ACCESS");
        duel.goes_on("both");
        duel.intruder.kill();
        wait_until("its maker takes the name away", || {
            if !by_publisher {
                // A publisher lets go of its rings when it publishes.
                duel.victim.must(&json!({"do": "singles", "from": 0, "count": 1}));
            }
            !Path::new(&path(&name)).exists()
        });
    }
}

#[test]
fn what_a_peer_writes_into_our_own_words_changes_nothing_for_us() {
    for (by_publisher, words) in [(true, THEIRS_AS_PUBLISHER), (false, THEIRS_AS_SUBSCRIBER)] {
        let mut duel = Duel::new(by_publisher);
        duel.begin("");
        for name in words {
            for value in [0, 1, 8, u64::MAX, u64::MAX - 7] {
                duel.intruder.must(&json!({"do": "theirs", "name": name, "value": value}));
                duel.goes_on(name);
            }
            duel.scene.is_undisturbed(name);
        }
        assert_eq!(duel.poisonings(), 0);
    }
}

#[test]
fn what_the_kernel_does_not_refuse_to_the_same_user_can_kill_its_peer_and_nobody_else() {
    for by_publisher in [true, false] {
        let mut duel = Duel::new(by_publisher);
        for segment in ["own", "theirs"] {
            duel.begin("");
            // Zeros in its own words are what `tail-0` is.
            let fair = |attempt: &str| segment == "theirs" || attempt != "punch-hole";
            for (attempt, says, kills) in NAMED_KERNEL.iter().filter(|(attempt, ..)| fair(attempt)) {
                let how = format!("{attempt} on {segment}, {by_publisher}");
                let attack = json!({"do": "kernel", "name": attempt, "on": segment});
                assert_eq!(duel.intruder.must(&attack)["said"], *says, "{how}");
                if *kills {
                    duel.kills(&how);
                    duel.again();
                    duel.begin("");
                } else {
                    duel.goes_on(&how);
                }
            }
        }
    }
}

#[test]
fn a_peer_that_shrinks_the_agents_ring_kills_the_broker_and_no_other_process() {
    let mut scene = Scene::over("named");
    scene.agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let mut intruder = Role::intruder(&scene.folder, None);
    let granted = offer(&mut intruder, true, "");
    assert_eq!(granted["ready"], true, "{granted}");
    intruder.must(&json!({"do": "kernel", "name": "ftruncate-shrink", "on": "own"}));
    intruder.must(&json!({"do": "bell", "name": "once"}));
    assert_eq!(scene.agent.death().signal(), Some(Signal::BUS.as_raw()));
    scene.detector.must(&json!({"do": "disconnected"}));
    scene.netmond.must(&json!({"do": "disconnected"}));
    scene.pair_is_undisturbed("the end of the broker");
}
