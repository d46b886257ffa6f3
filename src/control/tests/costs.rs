//! What a stranger's requests take of the broker's one loop: no more for what he has beside.

use std::time::{Duration, Instant};

use super::super::{Origin, SessionId};
use super::world::World;

const STRANGER: Origin = Origin::Remote { uid: 65534 };
const HEARTBEAT: &str = "control.health.heartbeat.tool";

/// The shortest of some tries: the machine may be busy with others.
fn shortest(mut step: impl FnMut()) -> Duration {
    let time = || {
        let since = Instant::now();
        step();
        since.elapsed()
    };
    std::iter::repeat_with(time).take(10).min().expect("some tries")
}

/// A session with 64 routes to itself.
fn stranger() -> (World, SessionId) {
    let mut world = World::new();
    world.checks = false;
    let tool = world.join_from(STRANGER, "tool");
    for publisher in 0..64 {
        world.declare(tool, publisher, 0, HEARTBEAT);
    }
    (world, tool)
}

fn assert_alike(few: Duration, many: Duration) {
    assert!(many < 20 * few, "{few:?} with few subscriptions, {many:?} with many");
}

#[test]
fn the_end_of_a_subscription_takes_no_longer_for_thousands_of_other_patterns() {
    let took = |others: u32| {
        let (mut world, tool) = stranger();
        let mut patterns = vec!["control.health.status"];
        patterns.resize(64, "x");
        for subscription in 0..others {
            world.subscribe(tool, subscription, &patterns);
        }
        world.subscribe(tool, u32::MAX, &[HEARTBEAT]);
        world.settle();
        shortest(|| {
            world.subscribe(tool, others, &[HEARTBEAT]);
            world.unsubscribe(tool, others);
        })
    };
    assert_alike(took(0), took(300));
}

#[test]
fn a_declaration_takes_no_longer_for_thousands_of_subscriptions_of_one_session() {
    let took = |others: u32| {
        let (mut world, tool) = stranger();
        for subscription in 0..others {
            world.subscribe(tool, subscription, &["alerts.#", "control.health.heartbeat.+"]);
        }
        world.settle();
        let netmond = world.join("netmond");
        shortest(|| {
            world.declare(netmond, 0, 0, "control.health.heartbeat.netmond");
            world.say(netmond, super::super::Request::ClosePublisher { publisher: 0 });
        })
    };
    assert_alike(took(1), took(8000));
}
