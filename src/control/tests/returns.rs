//! Clients that had lost their broker, and are back.

use super::super::SessionId;
use super::world::{USER, World, goodbye, hello_of, names};
use crate::wire::{GoodbyeReason, Hello, Life, Notice, Request};

fn join(world: &mut World, name: &str, life: Life) -> SessionId {
    let session = world.connect(USER);
    world.say(session, Request::Hello(Box::new(Hello { life, ..hello_of(name) })));
    assert_eq!(names(&world.heard(session)), ["welcome"]);
    session
}

fn settled(heard: &[Notice]) -> Vec<(String, u64)> {
    let settled = heard.iter().filter_map(|notice| match notice {
        Notice::Settled { component, client } => Some((component.clone(), *client)),
        _ => None,
    });
    settled.collect()
}

#[test]
fn who_is_back_hears_of_each_other_that_is_back_with_all_that_it_had_whoever_was_first() {
    for whole_before in [true, false] {
        let mut world = World::new();
        let fresh = world.join("netmond");
        let detector = join(&mut world, "detector", Life { client: 2, before: 7 });
        world.subscribe(detector, 0, &["events.#"]);
        world.say(detector, Request::Begun);
        if whole_before {
            world.say(detector, Request::Returned);
        }
        let procmond = world.connect(USER);
        world.say(
            procmond,
            Request::Hello(Box::new(Hello { life: Life { client: 1, before: 1 }, ..hello_of("procmond") })),
        );
        world.declare(procmond, 0, 0, "events.process.batch");
        world.settle();
        if !whole_before {
            assert_eq!(settled(&world.heard(procmond)), [], "the detector may have had more");
            world.say(detector, Request::Returned);
        }
        let mut heard = settled(&world.heard(procmond));
        heard.dedup();
        assert_eq!(heard, [("detector".to_owned(), 2)]);
        assert_eq!(settled(&world.heard(fresh)), [], "it can't have anything from before");
        world.say(procmond, Request::Returned);
        assert_eq!(settled(&world.heard(detector)), [("procmond".to_owned(), 1)]);
    }
}

#[test]
fn who_is_back_hears_when_a_newcomer_takes_what_comes_whoever_was_first() {
    for subscribed_before in [true, false] {
        let mut world = World::new();
        let (agent, detector) = (world.join("agent"), world.join("detector"));
        let procmond = join(&mut world, "procmond", Life { client: 1, before: 1 });
        let netmond = join(&mut world, "netmond", Life { client: 3, before: 1 });
        if !subscribed_before {
            world.declare(procmond, 0, 0, "events.process.batch");
        }
        world.subscribe(agent, 0, &["events.process.#"]);
        world.settle();
        assert_eq!(settled(&world.heard(procmond)), [], "it has not begun");
        if subscribed_before {
            world.say(agent, Request::Begun);
            world.declare(procmond, 0, 0, "events.process.batch");
            world.declare(procmond, 0, 1, "events.process.tree");
            world.settle();
        } else {
            world.say(agent, Request::Begun);
        }
        assert_eq!(settled(&world.heard(procmond)), [("agent".to_owned(), 0)], "once");
        world.subscribe(agent, 1, &["events.network.#"]);
        world.settle();
        world.say(agent, Request::Begun);
        assert_eq!(settled(&world.heard(procmond)), [("agent".to_owned(), 0)]);
        assert_eq!(settled(&world.heard(netmond)), [], "nothing leads from it to the agent");
        assert_eq!(settled(&world.heard(detector)), [], "it was never away");
    }
}

#[test]
fn who_says_that_it_begins_and_has_asked_for_nothing_goes() {
    let mut world = World::new();
    let detector = world.join("detector");
    world.subscribe(detector, 0, &["events.#"]);
    for _ in 0..2 {
        assert!(world.is_connected(detector));
        world.say(detector, Request::Begun);
    }
    assert!(matches!(goodbye(&world.heard(detector)), GoodbyeReason::Protocol { .. }));
}

#[test]
fn who_says_that_it_is_back_and_was_not_away_or_says_it_twice_goes() {
    for before in [0, 1] {
        let mut world = World::new();
        let detector = join(&mut world, "detector", Life { client: 2, before });
        for _ in 0..=before {
            assert!(world.is_connected(detector));
            world.say(detector, Request::Returned);
        }
        assert!(matches!(goodbye(&world.heard(detector)), GoodbyeReason::Protocol { .. }));
    }
}

#[test]
fn when_the_broker_goes_nobody_is_told_that_a_ring_ends() {
    let mut world = World::new();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.declare(procmond, 0, 0, "events.process.batch");
    world.subscribe(detector, 0, &["events.#"]);
    world.settle();
    for session in [procmond, detector] {
        world.heard(session);
    }
    world.feed(super::super::Input::Shutdown);
    for session in [procmond, detector] {
        let heard = world.heard(session);
        assert_eq!(names(&heard)[0], "goodbye", "it hears nothing more after that: {heard:?}");
    }
}
