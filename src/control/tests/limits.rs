//! Limits at their value and one past it, and the largest notices that hostile input can cause.

use super::super::Machine;
use super::super::routes::Slot;
use super::world::{ROUTE_DEADLINE, USER, World, fault, goodbye, missed, names, refusal};
use crate::config::{
    ANSWER_LIST_BYTES, PATTERNS_MAX, PUBLISHERS_MAX, SESSIONS_MAX, SLOTS_MAX, SUBSCRIPTIONS_MAX, TOPICS_MAX,
};
use crate::wire::{GoodbyeReason, Notice, Refusal, Resource, Sharer};

fn too_many(notices: &[Notice]) -> (String, usize) {
    match refusal(notices) {
        Refusal::TooMany { what, limit } => (what.clone(), *limit as usize),
        other => panic!("{other:?}"),
    }
}

/// A world full of sessions.
fn full() -> World {
    let mut world = World::new();
    world.checks = false;
    for number in 0..SESSIONS_MAX {
        world.join(&format!("tool-{number}"));
    }
    world
}

#[test]
fn one_session_too_many_is_told_so_and_the_others_stay() {
    let mut world = full();
    let surplus = world.connect(USER);
    let (needed, in_use) = (1, SESSIONS_MAX as u64);
    let (resource, whose) = (Resource::Connections, Sharer::User { uid: 1000 });
    let expected = Refusal::Share { resource, whose, needed, in_use, limit: in_use };
    assert_eq!(*refusal(&world.heard(surplus)), expected);
    assert!(!world.is_connected(surplus));
    assert_eq!(world.machine.components().count(), SESSIONS_MAX);
    let first = world.machine.holder_of("tool-0").expect("it is there");
    world.end(first);
    world.join("late");
}

#[test]
fn the_process_with_the_broker_in_it_is_never_kept_out() {
    let mut world = full();
    world.join("agent");
}

#[test]
fn those_who_connect_and_stay_mute_keep_nobody_out() {
    let mut world = World::new();
    world.checks = false;
    let mute: Vec<_> = (0..SESSIONS_MAX).map(|_| world.connect(USER)).collect();
    assert!(mute.iter().all(|session| world.is_connected(*session)), "as many as may be");
    world.join("procmond");
    assert_eq!(*goodbye(&world.heard(mute[0])), GoodbyeReason::HelloDeadline);
    assert!(mute[1..].iter().all(|session| world.is_connected(*session)), "the oldest goes, and no other");
    assert_eq!(world.machine.sessions.len(), SESSIONS_MAX);
}

#[test]
fn one_subscription_too_many_is_refused() {
    let mut world = World::new();
    world.checks = false;
    let agent = world.join("agent");
    for number in 0..u32::try_from(SUBSCRIPTIONS_MAX).expect("a small constant") {
        world.subscribe(agent, number, &["alerts.#"]);
    }
    let heard = world.heard(agent);
    assert_eq!(names(&heard), vec!["subscribed"; SUBSCRIPTIONS_MAX]);
    world.subscribe(agent, u32::MAX, &["alerts.#"]);
    assert_eq!(too_many(&world.heard(agent)).1, SUBSCRIPTIONS_MAX);
    world.unsubscribe(agent, 0);
    world.subscribe(agent, u32::MAX, &["alerts.#"]);
    assert_eq!(names(&world.heard(agent)), ["subscribed"]);
    assert_eq!(world.machine.subscription_count(), SUBSCRIPTIONS_MAX);
}

#[test]
fn one_pattern_too_many_is_refused() {
    let mut world = World::new();
    let agent = world.join("agent");
    world.subscribe(agent, 0, &["alerts.#"; PATTERNS_MAX]);
    assert_eq!(names(&world.heard(agent)), ["subscribed"]);
    world.subscribe(agent, 1, &["alerts.#"; PATTERNS_MAX + 1]);
    assert_eq!(too_many(&world.heard(agent)).1, PATTERNS_MAX);
    assert_eq!(world.machine.subscription_count(), 1);
}

#[test]
fn one_publisher_or_topic_too_many_is_refused() {
    let mut world = World::new();
    let procmond = world.join("procmond");
    for number in 0..u32::try_from(PUBLISHERS_MAX).expect("a small constant") {
        world.declare(procmond, number, 0, "events.process.a");
    }
    assert_eq!(names(&world.heard(procmond)), vec!["declared"; PUBLISHERS_MAX]);
    world.declare(procmond, 1000, 0, "events.process.a");
    assert_eq!(too_many(&world.heard(procmond)).1, PUBLISHERS_MAX);
    let topics = u32::try_from(TOPICS_MAX).expect("a small constant");
    for number in 1..topics {
        world.declare(procmond, 7, number, &format!("events.process.t{number}"));
    }
    assert_eq!(names(&world.heard(procmond)), vec!["declared"; TOPICS_MAX - 1]);
    world.declare(procmond, 7, topics, "events.process.last");
    assert_eq!(too_many(&world.heard(procmond)).1, TOPICS_MAX);
    assert_eq!(world.machine.publishers.len(), PUBLISHERS_MAX);
}

/// As if the one route that there is had come and gone many times.
fn used(world: &mut World, slot: usize, generation: u16) {
    let Machine { rings, routes, .. } = &mut world.machine;
    let ring = rings.values_mut().next().expect("a ring");
    ring.slots[slot].generation = generation;
    let route = routes.values_mut().next().expect("a route");
    route.target.as_mut().expect("it is active").generation = generation;
}

#[test]
fn a_subscriber_that_has_used_up_a_ring_goes_and_the_publisher_stays() {
    for during_unrouting in [true, false] {
        let mut world = World::new();
        let (procmond, detector) = (world.join("procmond"), world.join("detector"));
        world.declare(procmond, 0, 0, "events.process.a");
        world.subscribe(detector, 0, &["events.process.a"]);
        world.settle();
        let again = |world: &mut World| {
            world.unsubscribe(detector, 0);
            if !during_unrouting {
                world.settle();
            }
            world.subscribe(detector, 0, &["events.process.a"]);
            world.settle();
        };
        used(&mut world, 0, u16::MAX - 1);
        again(&mut world);
        let target = |world: &World| {
            let route = world.machine.routes.values().next().expect("a route");
            route.target.map(|target| (target.slot, target.generation))
        };
        assert_eq!(target(&world), Some((0, u16::MAX)), "the last generation");
        again(&mut world);
        assert_eq!(target(&world), Some((1, 0)), "a new slot");
        used(&mut world, 1, u16::MAX);
        let ring = world.machine.rings.values_mut().next().expect("a ring");
        ring.slots.resize_with(SLOTS_MAX, || Slot { topic_number: 0, generation: u16::MAX });
        again(&mut world);
        assert_eq!(fault(&world.heard(detector)), "all slots of a ring are used up");
        assert!(world.is_connected(procmond));
        world.assert_no_paths();
    }
}

/// A pattern of maximal length, and different for each number.
fn longest_pattern(number: usize) -> String {
    let segment = "x".repeat(61);
    format!("events.process.{number:03}{segment}.{number:03}{segment}.#")
}

#[test]
fn the_answers_to_many_and_long_patterns_are_frames() {
    let mut world = World::new();
    let tool = "t".repeat(64);
    let (agent, tool) = (world.join("agent"), world.join(&tool));
    let id = "a".repeat(64);
    let own = |n: usize| format!("control.{}.{}.{}.#", "y".repeat(64), format!("{n:02}").repeat(32), id);
    let lists: Vec<Vec<String>> = vec![
        (0..PATTERNS_MAX).map(longest_pattern).collect(),
        (0..PATTERNS_MAX).map(own).collect(),
        vec!["#".into(); PATTERNS_MAX],
        (0..PATTERNS_MAX).map(|n| format!("+.+.+.{n:064}")).collect(),
        (0..PATTERNS_MAX).map(|n| format!("+.{n:064}.#")).collect(),
        (0..PATTERNS_MAX).map(|n| format!("+.+.{n:064}.#")).chain(["#".into()]).take(PATTERNS_MAX).collect(),
    ];
    for (number, list) in (0..).zip(&lists) {
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        // The world holds each notice against the limit of a frame.
        world.subscribe(agent, number, &list);
        world.subscribe(tool, number, &list);
    }
    let answered = world.heard(agent).len() + world.heard(tool).len();
    assert_eq!(answered, 2 * lists.len());
}

#[test]
fn an_answer_that_names_a_thousand_publishers_is_a_frame() {
    let mut world = World::new();
    world.checks = false;
    let agent = world.join("agent");
    let long = |number: usize| format!("t{number:063}");
    let sessions: Vec<_> = (0..SESSIONS_MAX - 1).map(|number| (number, world.join(&long(number)))).collect();
    for (number, session) in &sessions {
        world.declare(*session, 0, 0, &format!("control.health.heartbeat.{}", long(*number)));
        world.heard(*session);
    }
    world.subscribe(agent, 0, &["control.health.#"]);
    let stopped: Vec<_> = sessions.iter().map(|(_, session)| *session).collect();
    world.settle_without(&stopped);
    world.wait(ROUTE_DEADLINE);
    assert_eq!(world.machine.sessions.len(), 1, "all of them are late");
    let missed = missed(&world.heard(agent));
    let bytes: usize = missed.iter().map(String::len).sum();
    assert!(!missed.is_empty() && bytes <= ANSWER_LIST_BYTES, "{bytes} bytes of names");
}

#[test]
fn the_longest_topics_and_names_are_granted_and_routed_in_frames() {
    let mut world = World::new();
    let name = "n".repeat(64);
    let (tool, agent, procmond) = (world.join(&name), world.join("agent"), world.join("procmond"));
    world.declare(tool, 0, 0, &format!("control.health.heartbeat.{name}"));
    let segment = "s".repeat(64);
    world.declare(procmond, 0, 0, &format!("events.process.{segment}.{segment}"));
    world.subscribe(agent, 0, &["#"]);
    world.settle();
    assert_eq!(world.machine.routes.len(), 2);
    super::super::invariants::check_at_rest(&world.machine);
}
