//! What a user may have of what the broker keeps, and what is left to the others.

use std::time::Duration;

use super::super::{Action, Input, Origin, Pace, SessionId, Share};
use super::world::{USER, World, goodbye, names, refusal};
use crate::config::{self, HELLO_GRACE, HELLO_TURN, PATTERN_SEGMENT_BYTES};
use crate::wire::{GoodbyeReason, Notice, Refusal, Request, Resource, Sharer};

fn limited(resource: Resource, share: Share) -> World {
    World::with_settings(|settings| settings.limits.shares[resource as usize] = share)
}

fn stranger(number: u32) -> Origin {
    Origin::Remote { uid: 3000 + number }
}

/// Of what, whose, how much was asked for, is in use, and may be.
fn over(heard: &[Notice]) -> (Resource, Sharer, u64, u64, u64) {
    match refusal(heard) {
        Refusal::Share { resource, whose, needed, in_use, limit } => {
            (*resource, *whose, *needed, *in_use, *limit)
        }
        other => panic!("{other:?}"),
    }
}

/// How many subscriptions the session gets before it is refused.
fn subscribes(world: &mut World, session: SessionId) -> usize {
    for number in 0..20 {
        world.subscribe(session, number, &["control.health.#"]);
        if names(&world.heard(session)) != ["subscribed"] {
            return number as usize;
        }
    }
    20
}

#[test]
fn each_stranger_leaves_as_much_as_it_has_and_what_is_kept_for_components_is_left() {
    let share = Share { total: 32, per_uid: 28, strangers: 24 };
    let mut world = limited(Resource::Subscriptions, share);
    // Two sessions of each.
    let strangers: Vec<SessionId> =
        (0..6).map(|number| world.join_from(stranger(number / 2), &format!("tool-{number}"))).collect();
    let had: Vec<usize> = strangers.iter().map(|session| subscribes(&mut world, *session)).collect();
    assert_eq!(had, [6, 3, 3, 2, 2, 1]);
    let agent = world.join("agent");
    let component = world.join("procmond");
    assert_eq!(subscribes(&mut world, component), 14);
    world.subscribe(strangers[4], 99, &["control.health.#"]);
    assert_eq!(over(&world.heard(strangers[4])), (Resource::Subscriptions, Sharer::Session, 1, 2, 2));
    assert_eq!(subscribes(&mut world, agent), 1, "all that is left");
    world.subscribe(agent, 1, &["control.health.#"]);
    assert_eq!(over(&world.heard(agent)), (Resource::Subscriptions, Sharer::Everybody, 1, 32, 32));
    world.end(strangers[0]);
    world.subscribe(agent, 1, &["control.health.#"]);
    assert_eq!(names(&world.heard(agent)), ["subscribed"]);
}

#[test]
fn a_session_has_as_much_as_it_leaves_to_the_others_of_its_user() {
    let mut world = limited(Resource::Subscriptions, Share { total: 16, per_uid: 8, strangers: 16 });
    let sessions = ["procmond", "netmond", "fsmond", "tool"].map(|name| world.join(name));
    assert_eq!(
        sessions.map(|session| subscribes(&mut world, session)),
        [4, 2, 1, 0],
        "of what is left, half"
    );
    world.subscribe(sessions[3], 0, &["control.health.#"]);
    assert_eq!(over(&world.heard(sessions[3])), (Resource::Subscriptions, Sharer::Session, 1, 0, 0));
    world.unsubscribe(sessions[0], 0);
    world.subscribe(sessions[3], 0, &["control.health.#"]);
    assert_eq!(names(&world.heard(sessions[3])), ["subscribed"]);
    world.end(sessions[0]);
    for number in [7, 8] {
        world.subscribe(sessions[1], number, &["control.health.#"]);
    }
    assert_eq!(names(&world.heard(sessions[1])), ["subscribed", "refused"], "what has ended counts no more");
}

#[test]
fn a_session_of_a_stranger_leaves_to_the_others_of_its_user_half_of_what_a_stranger_may_have() {
    let mut world = limited(Resource::Subscriptions, Share { total: 64, per_uid: 32, strangers: 16 });
    let sessions = ["procmond", "netmond", "fsmond"].map(|name| world.join_from(stranger(0), name));
    assert_eq!(sessions.map(|session| subscribes(&mut world, session)), [4, 2, 1]);
}

#[test]
fn patterns_are_charged_by_what_they_take_and_topics_one_by_one() {
    let (total, per_uid) = (7 * PATTERN_SEGMENT_BYTES, 14 * PATTERN_SEGMENT_BYTES);
    let mut world = limited(Resource::PatternBytes, Share { total, per_uid, strangers: total });
    let tool = world.join("tool");
    world.subscribe(tool, 0, &["control.health.#", "control.health.+"]);
    world.subscribe(tool, 1, &["control.#"]);
    let heard = world.heard(tool);
    assert_eq!(names(&heard), ["subscribed", "refused"]);
    let per_segment = PATTERN_SEGMENT_BYTES;
    assert_eq!(
        over(&heard),
        (Resource::PatternBytes, Sharer::Session, 2 * per_segment, 6 * per_segment, total)
    );
    world.subscribe(tool, 1, &["#"]);
    assert_eq!(names(&world.heard(tool)), ["subscribed"]);

    let mut world = limited(Resource::Topics, Share { total: 2, per_uid: 4, strangers: 2 });
    let procmond = world.join("procmond");
    for (number, topic) in ["events.process.a", "events.process.b", "events.process.c"].iter().enumerate() {
        world.declare(procmond, u32::try_from(number).expect("three"), 0, topic);
    }
    let heard = world.heard(procmond);
    assert_eq!(names(&heard), ["declared", "declared", "refused"]);
    assert_eq!(over(&heard), (Resource::Topics, Sharer::Session, 1, 2, 2));
    world.say(procmond, Request::ClosePublisher { publisher: 0 });
    world.declare(procmond, 2, 0, "events.process.c");
    assert_eq!(names(&world.heard(procmond)), ["declared"]);
}

#[test]
fn of_a_user_with_too_many_connections_the_oldest_without_a_hello_goes_or_the_newcomer() {
    let mut world = limited(Resource::Connections, Share { total: 9, per_uid: 3, strangers: 9 });
    let (other, first) = (world.connect(stranger(0)), world.connect(USER));
    let (second, joined) = (world.connect(USER), world.join("procmond"));
    world.join("netmond");
    assert_eq!(*goodbye(&world.heard(first)), GoodbyeReason::HelloDeadline);
    world.join("fsmond");
    assert!(!world.is_connected(second) && world.is_connected(joined) && world.is_connected(other));
    let surplus = world.connect(USER);
    assert_eq!(over(&world.heard(surplus)), (Resource::Connections, Sharer::User { uid: 1000 }, 1, 3, 3));
    assert!(!world.is_connected(surplus) && world.is_connected(other));
    world.join("agent");
}

#[test]
fn nobody_else_is_let_in_before_the_oldest_without_a_hello_has_had_its_turn() {
    let mut world = limited(Resource::Handshakes, Share { total: 20, per_uid: 10, strangers: 20 });
    let since = world.now;
    let oldest = world.connect(USER);
    for _ in 0..8 {
        world.connect(USER);
    }
    assert_eq!(world.held, None, "there is room for another");
    world.wait(Duration::from_millis(1));
    world.connect(USER);
    assert_eq!(world.held.take(), Some(since + HELLO_TURN));
    world.connect(stranger(0));
    assert_eq!(world.held, None, "there is room for one of another user");
    world.wait(HELLO_TURN);
    let next = world.connect(USER);
    assert!(!world.is_connected(oldest) && world.is_connected(next));
    assert_eq!(world.held, None, "the next oldest has had its turn, too");
    world.hello(next, "procmond");
    assert_eq!(names(&world.heard(next)), ["welcome"]);
}

#[test]
fn of_handshakes_a_user_has_its_own_share_and_a_hello_gives_it_back() {
    let mut world = limited(Resource::Handshakes, Share { total: 9, per_uid: 2, strangers: 9 });
    let (other, mute) = (world.connect(stranger(0)), world.connect(USER));
    world.join("procmond");
    let slow = world.connect(USER);
    assert!(world.is_connected(mute), "who has said hello does not count");
    world.connect(USER);
    assert!(!world.is_connected(mute) && world.is_connected(slow) && world.is_connected(other));
}

#[test]
fn where_descriptors_are_short_those_who_have_not_said_hello_go_one_by_one_and_no_others() {
    let mut world = World::new();
    let joined = world.join("procmond");
    let mute = [USER, stranger(0)].map(|origin| world.connect(origin));
    world.feed(Input::Crowded);
    assert!(world.is_connected(mute[0]), "it may be about to say it");
    world.wait(HELLO_GRACE);
    let newcomer = world.connect(USER);
    world.feed(Input::Crowded);
    assert_eq!(*goodbye(&world.heard(mute[0])), GoodbyeReason::HelloDeadline);
    assert!(world.is_connected(mute[1]));
    world.feed(Input::Crowded);
    world.feed(Input::Crowded);
    assert!(!world.is_connected(mute[1]) && world.is_connected(joined) && world.is_connected(newcomer));
}

#[test]
fn who_asks_faster_than_its_pace_is_not_read_for_a_while_and_answers_cost_nothing() {
    let ms = Duration::from_millis;
    let mut world = World::with_settings(|settings| {
        settings.pace = Pace { each: ms(10), ahead: ms(100), pause: ms(50) };
    });
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    for publisher in 0..9 {
        world.declare(procmond, publisher, 0, "events.process.a");
    }
    world.subscribe(detector, 0, &["events.#"]);
    world.settle();
    let now = world.now;
    let mut pauses = |session, patterns: usize| {
        let patterns = vec!["..".to_owned(); patterns];
        let request = Request::Subscribe { request: 1, subscription: 1, patterns, ring_bytes: None };
        let actions = world.machine.handle(now, Input::Frame { session, request, descriptor: None });
        actions.into_iter().find_map(|action| match action {
            Action::Pause { session: paused, until } if paused == session => Some(until - now),
            _ => None,
        })
    };
    assert_eq!(pauses(procmond, 1), Some(ms(10)), "a hello, nine declarations, and this");
    // It has answered nine rings and nine routes.
    assert_eq!(pauses(detector, 8), None, "a hello, a subscribe, and a request for each pattern");
    assert_eq!(pauses(detector, 1), Some(ms(10)));
    assert_eq!(pauses(detector, 64), Some(ms(50)), "not longer at a time");
}

#[test]
fn however_many_publishers_strangers_have_who_hears_them_keeps_its_share_of_rings_for_others() {
    let mut world = World::with_settings(|settings| {
        settings.ring_bytes = config::RING_BYTES as u64;
        let (total, per_uid) = (config::RING_BUDGET_BYTES, config::RING_BUDGET_PER_UID);
        let shares = &mut settings.limits.shares;
        shares[Resource::RingBytes as usize] = Share { total, per_uid, strangers: total };
        let total = config::PUBLISHERS_OF_ALL as u64;
        let strangers = config::PUBLISHERS_OF_STRANGERS as u64;
        shares[Resource::Publishers as usize] = Share { total, per_uid: total, strangers };
    });
    world.checks = false;
    let detector = world.join("detector");
    world.subscribe(detector, 0, &["control.health.#"]);
    for (uid, number) in (2000..2004).flat_map(|uid| (0..4).map(move |number| (uid, number))) {
        let name = format!("t{uid}-{number}");
        let stranger = world.join_from(Origin::Remote { uid }, &name);
        for publisher in 0..64 {
            world.declare(stranger, publisher, 0, &format!("control.health.heartbeat.{name}"));
            world.settle();
        }
    }
    let netmond = world.join("netmond");
    for publisher in 0..63 {
        world.declare(netmond, publisher, 0, "control.health.heartbeat.netmond");
        world.settle();
    }
    assert!(world.is_connected(detector));
    assert_eq!(world.heard(netmond).iter().filter(|it| matches!(it, Notice::Declared { .. })).count(), 63);
}

#[test]
fn the_sessions_of_a_stranger_wait_for_each_other_and_those_of_a_component_do_not() {
    let ms = Duration::from_millis;
    for (origin, waits) in [(stranger(0), true), (USER, false)] {
        let mut world = World::with_settings(|settings| {
            settings.pace = Pace { each: ms(40), ahead: ms(400), pause: ms(50) };
        });
        let sessions: Vec<SessionId> =
            (0..6).map(|number| world.join_from(origin, &format!("tool{number}"))).collect();
        let now = world.now;
        let mut paused = false;
        for (request, session) in (0..).zip(sessions.iter().cycle().take(48)) {
            let patterns = vec!["..".to_owned()];
            let request = Request::Subscribe { request, subscription: request, patterns, ring_bytes: None };
            let input = Input::Frame { session: *session, request, descriptor: None };
            let actions = world.machine.handle(now, input);
            paused |= actions.iter().any(|action| matches!(action, Action::Pause { .. }));
        }
        assert_eq!(paused, waits, "each has asked nine times, all of them fifty-four");
    }
}
