//! What takes the broker's descriptors, memory, or time: others are served meanwhile, and nothing is left of it.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Scene, count, texts};
use crate::support::look::{self, Held};
use crate::support::roles::hostile::floods::raise_descriptor_limit;
use crate::support::roles::hostile::wire;
use crate::support::{DEADLINE, Folder, Role, STRANGER, is_named, proof, wait_until};

/// Each flood, and whether it needs a session.
pub(super) const FLOODS: &[(&str, bool)] = &[
    ("mute", false),
    ("drip", true),
    ("drip-anew", false),
    ("never-reads", true),
    ("subscriptions", true),
    ("requests", true),
    ("descriptors", false),
    ("forgeries", false),
    ("random", false),
    ("lengths", false),
];

/// What the allocator may keep for later, of all that was ever in use at once.
const KEPT_KILOBYTES: u64 = 48 << 10;

/// The longest of so many round trips, a subscribe and its end, but for the slowest in a hundred.
fn round_trips(role: &mut Role, count: usize) -> Duration {
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let since = Instant::now();
            role.must(&json!({"do": "subscribe", "name": "trip", "patterns": ["alerts.#", "control.#"]}));
            role.must(&json!({"do": "unsubscribe", "name": "trip"}));
            since.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[count * 99 / 100]
}

/// Beside one flood of a process of this user.
fn beside(scene: &mut Scene, name: &str, needs_session: bool, uid: Option<u32>) {
    let (base, base_memory) = (Held::by(&scene.agent), look::resident_kilobytes(scene.agent.pid()));
    let idle = round_trips(&mut scene.detector, 50);
    let mut intruder = Role::intruder(&scene.folder, uid);
    if needs_session {
        let hello = intruder.must(&json!({"do": "hello", "id": "exporter"}));
        assert_eq!(hello["welcome"], true, "{hello}");
    }
    intruder.must(&json!({"do": "flood", "name": name}));
    let busy = round_trips(&mut scene.detector, 100);
    for _ in 0..3 {
        scene.is_undisturbed(name);
    }
    // A newcomer of the broker's own user is served.
    let mut newcomer = Role::client(&scene.folder, "tool").up();
    round_trips(&mut newcomer, 5);
    newcomer.kill();
    scene.is_undisturbed(name);
    let most = look::resident_kilobytes(scene.agent.pid());
    let made = intruder.must(&json!({"do": "flood", "name": "end"}));
    assert!(made["count"].as_u64() > Some(10), "{name} did something: {made}");
    intruder.kill();
    wait_until("what the broker held for it is given back", || {
        let held = Held::by(&scene.agent);
        held.descriptors <= base.descriptors && held.segments <= base.segments && held.threads <= base.threads
    });
    wait_until("the broker's memory is given back", || {
        look::resident_kilobytes(scene.agent.pid()) <= base_memory + KEPT_KILOBYTES
    });
    let after = look::resident_kilobytes(scene.agent.pid());
    println!(
        "{name} of {uid:?}: p99 {idle:?} idle, {busy:?} beside {made}; {base_memory} kB, {most}, {after}"
    );
}

#[test]
fn beside_each_flood_others_are_served_and_nothing_is_left_of_it() {
    for (name, needs_session) in FLOODS {
        // The agent's data thread runs from its first ring on.
        let mut scene = Scene::new();
        scene.is_undisturbed("nothing");
        for uid in [Some(STRANGER), None] {
            beside(&mut scene, name, *needs_session, uid);
        }
    }
}

#[test]
fn a_storm_of_connections_that_say_nothing_sweeps_nobody_away_who_says_hello() {
    raise_descriptor_limit();
    let scene = Scene::new();
    let connect = |_: usize| UnixStream::connect(scene.folder.socket()).expect("the broker listens");
    // All wait to be let in, more of them after the honest one than may be there without a hello.
    scene.agent.stop();
    let before: Vec<UnixStream> = (0..500).map(connect).collect();
    let honest = connect(500);
    let after: Vec<UnixStream> = (0..1500).map(connect).collect();
    scene.agent.go_on();
    let mut notices = [&honest, &after[1499]].map(|stream| {
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        wire::Reader::new(stream.try_clone().expect("a descriptor"))
    });
    let greeting = notices[0].next().map(|(notice, _)| notice);
    let Some(wire::Notice::Greeting { nonce }) = greeting else { panic!("{greeting:?}") };
    let key = proof::key_beside(&scene.folder.socket());
    wire::hello("exporter", &key, &nonce).send(&honest, &[]).expect("it is connected");
    let answer = notices[0].next().map(|(notice, _)| notice);
    assert!(matches!(answer, Some(wire::Notice::Welcome { .. })), "{answer:?}");
    assert!(matches!(notices[1].next(), Some((wire::Notice::Greeting { .. }, _))), "the last is let in");
    drop(before);
}

#[test]
fn a_client_that_never_reads_is_sent_away_before_it_takes_much() {
    let mut scene = Scene::new();
    let before = look::resident_kilobytes(scene.agent.pid());
    let mut intruder = Role::intruder(&scene.folder, Some(STRANGER));
    intruder.must(&json!({"do": "hello", "id": "exporter"}));
    intruder.must(&json!({"do": "flood", "name": "never-reads"}));
    wait_until("it is sent away", || {
        !texts(&scene.agent.must(&json!({"do": "components"})), "components").contains(&"exporter".to_owned())
    });
    let most = look::resident_kilobytes_max(scene.agent.pid());
    assert!(most < before + KEPT_KILOBYTES, "{before} kB before, {most} at most");
    scene.is_undisturbed("a client that never reads");
}

#[test]
fn a_subscriber_over_its_share_is_sent_away_and_told_why_and_the_publisher_goes_on() {
    if is_named() {
        // A stranger has no ring at all there.
        return;
    }
    let folder = Folder::new();
    let ring = (64 << 10) + (8 << 10);
    let options = json!({"ring_bytes": 64 << 10, "ring_budget_per_uid": 4 * ring, "socket_mode": 0o666});
    let mut agent = Role::agent(&folder, options).up();
    let mut exporter = Role::strange_client(&folder, "exporter", json!({})).up();
    for subscriber in [&mut agent, &mut exporter] {
        subscriber.must(&json!({"do": "subscribe", "patterns": ["events.#"]}));
    }
    let mut procmond = Role::client(&folder, "procmond").up();
    for name in ["main", "second", "third"] {
        procmond.must(&json!({"do": "declare", "name": name, "topic": super::TOPIC}));
    }
    wait_until("it is sent away", || {
        texts(&agent.must(&json!({"do": "components"})), "components") == ["agent", "procmond"]
    });
    let refused = exporter.call(&json!({"do": "subscribe", "name": "again", "patterns": ["events.#"]}));
    let why = refused["error"].as_str().expect("its session is over");
    assert!(why.contains("this session has 147456 of 147456"), "{why}");
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    let report = agent.must(&json!({"do": "await", "total": 100}));
    assert_eq!((count(&report, "received"), count(&report, "lost")), (100, 0), "{report}");
}

#[test]
fn a_broker_whose_last_descriptors_mute_connections_hold_serves_again_and_does_not_spin() {
    let mut scene = Scene::new();
    scene.is_undisturbed("nothing");
    let pid = scene.agent.pid();
    let open = look::descriptors(pid);
    look::limit_descriptors(pid, open as u64 + 40);
    let (since, busy) = (Instant::now(), look::processor_time(pid));
    let mut intruder = Role::intruder(&scene.folder, Some(STRANGER));
    intruder.must(&json!({"do": "flood", "name": "mute-60"}));
    wait_until("all are in use", || look::descriptors(pid) >= open + 39);
    scene.is_undisturbed("mute connections");
    // It has to wait until those before it are sent away; its own patience may end before.
    wait_until("a newcomer is served", || {
        let newcomer = Role::client(&scene.folder, "exporter");
        newcomer.hello() == json!({})
    });
    scene.is_undisturbed("mute connections");
    let (elapsed, busy) = (since.elapsed(), look::processor_time(pid) - busy);
    println!("busy for {busy:?} of {elapsed:?}");
    assert!(busy < elapsed / 2, "it was busy for {busy:?} of {elapsed:?}");
}
