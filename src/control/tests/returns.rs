//! Clients that had lost their broker, and are back.

use super::super::SessionId;
use super::world::{USER, World, goodbye, hello_of, names};
use crate::wire::{GoodbyeReason, Life, Notice, Request};

fn join(world: &mut World, name: &str, life: Life) -> SessionId {
    let session = world.connect(USER);
    world.greet(session, crate::wire::Hello { life, ..hello_of(name) });
    assert_eq!(names(&world.heard(session)), ["welcome"]);
    session
}

fn settled(heard: &[Notice]) -> usize {
    heard.iter().filter(|notice| matches!(notice, Notice::Settled { .. })).count()
}

#[test]
fn who_publishes_hears_once_its_subscriber_is_back_with_all_that_it_had() {
    // Whoever of the two is back first.
    for publisher_is_first in [true, false] {
        let mut world = World::new();
        let procmond = join(&mut world, "procmond", Life { client: 1, before: 1 });
        let detector = join(&mut world, "detector", Life { client: 2, before: 7 });
        for declares in [publisher_is_first, !publisher_is_first] {
            if declares {
                world.declare(procmond, 0, 0, "events.process.batch");
            } else {
                world.subscribe(detector, 0, &["events.#"]);
            }
        }
        world.settle();
        let heard = world.heard(procmond);
        assert_eq!(settled(&heard), 0, "the detector may have had more: {heard:?}");
        world.say(detector, Request::Returned);
        world.settle();
        assert_eq!(settled(&world.heard(procmond)), 1);
        // A ring that comes later.
        world.declare(procmond, 1, 0, "events.process.batch");
        world.settle();
        assert_eq!((settled(&world.heard(procmond)), settled(&world.heard(detector))), (1, 0));
    }
}

#[test]
fn of_whom_one_was_not_there_before_nothing_is_said() {
    for (before, after) in [(0, 1), (1, 0), (0, 0)] {
        let mut world = World::new();
        let procmond = join(&mut world, "procmond", Life { client: 1, before });
        let detector = join(&mut world, "detector", Life { client: 2, before: after });
        world.declare(procmond, 0, 0, "events.process.batch");
        world.subscribe(detector, 0, &["events.#"]);
        world.settle();
        if after > 0 {
            world.say(detector, Request::Returned);
        }
        assert_eq!(settled(&world.heard(procmond)), 0);
    }
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
