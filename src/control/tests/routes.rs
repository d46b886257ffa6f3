//! How routes grow and shrink, and when a request is answered.

use super::super::SessionId;
use super::super::routes::Phase;
use super::world::{World, answers, consumer_segment, names, producer_segment};
use crate::wire::{Notice, Request, SlotTarget};

const BATCH: &str = "events.process.batch";

/// procmond publishes `BATCH`, the agent has subscribed to it, and the route is active.
fn routed() -> (World, SessionId, SessionId) {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(agent, 0, &["events.process.#"]);
    world.settle();
    super::super::invariants::check_at_rest(&world.machine);
    world.heard(procmond);
    world.heard(agent);
    (world, procmond, agent)
}

fn only_route(world: &World) -> (Phase, Option<SlotTarget>) {
    let mut routes = world.machine.routes.values();
    let route = routes.next().expect("a route");
    assert!(routes.next().is_none(), "one route");
    (route.phase, route.target)
}

#[test]
fn a_ring_is_made_and_granted_to_the_receiver_first_whoever_came_first() {
    for declared_first in [true, false] {
        let mut world = World::new();
        let (procmond, agent) = (world.join("procmond"), world.join("agent"));
        let (declare, subscribe);
        if declared_first {
            declare = world.declare(procmond, 0, 0, BATCH);
            assert_eq!(answers(&world.heard(procmond), declare), 1, "nobody to wait for");
            subscribe = world.subscribe(agent, 0, &[BATCH]);
        } else {
            subscribe = world.subscribe(agent, 0, &[BATCH]);
            assert_eq!(answers(&world.heard(agent), subscribe), 1, "nobody to wait for");
            declare = world.declare(procmond, 0, 0, BATCH);
        }
        world.obey(procmond);
        assert_eq!(names(&world.heard(procmond)), ["make producer"]);
        world.obey(agent);
        assert_eq!(names(&world.heard(agent)), ["make consumer", "attach consumer", "grant"]);
        assert_eq!(world.machine.rings.len(), 1);
        world.obey_one(procmond);
        let last = world.obey_one(procmond).expect("a route");
        let mut heard = world.heard(procmond);
        assert_eq!(names(&heard)[..2], ["attach producer", "route"]);
        let target = Some(SlotTarget { ring: world.only_ring(), slot: 0, generation: 0 });
        assert!(matches!(last, Notice::Route { target: told, .. } if told == target), "{last:?}");
        heard.extend(world.heard(agent));
        let request = if declared_first { subscribe } else { declare };
        assert_eq!(answers(&heard, request), 1, "the publisher was the last");
        world.settle();
        super::super::invariants::check_at_rest(&world.machine);
    }
}

#[test]
fn each_side_gets_the_others_segment_and_its_own_end_of_the_doorbell() {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.heard(procmond);
    let before = world.fresh();
    world.subscribe(agent, 0, &[BATCH]);
    let ring = world.only_ring();
    let (producer_end, consumer_end) = (before + 2, before + 3);
    assert_eq!(world.carried(procmond), [("make producer", producer_end)]);
    assert_eq!(world.carried(agent), [("make consumer", consumer_end)]);
    world.say_with(procmond, producer_segment(ring), 1001);
    assert_eq!(world.carried(agent), []);
    world.say_with(agent, consumer_segment(ring), 1002);
    assert_eq!(world.carried(agent), [("attach consumer", 1001)]);
    assert_eq!(world.carried(procmond), [("attach producer", 1002)]);
}

#[test]
fn a_subscribe_is_answered_after_the_last_publisher_is_done_and_not_before() {
    let mut world = World::new();
    let (procmond, netmond, agent) = (world.join("procmond"), world.join("netmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.declare(procmond, 0, 1, "events.process.start");
    world.declare(netmond, 0, 0, "events.network.batch");
    let request = world.subscribe(agent, 0, &["events.#"]);
    world.settle_without(&[netmond]);
    assert_eq!(answers(&world.heard(agent), request), 0, "netmond has not answered");
    let mut steps = 0;
    while let Some(notice) = {
        world.settle_without(&[netmond]);
        world.obey_one(netmond)
    } {
        steps += 1;
        let last = matches!(notice, Notice::Route { .. });
        world.settle_without(&[netmond]);
        assert_eq!(answers(&world.heard(agent), request), usize::from(last), "{notice:?}");
    }
    assert_eq!(steps, 4, "declared, make, attach, route");
}

#[test]
fn a_second_subscription_of_a_session_shares_ring_and_slot_and_is_answered_at_once() {
    let (mut world, procmond, agent) = routed();
    let request = world.subscribe(agent, 1, &[BATCH, "events.#"]);
    assert_eq!(names(&world.heard(agent)), ["subscribed"], "answer {request}");
    assert_eq!(world.heard(procmond), []);
    assert_eq!((world.machine.rings.len(), world.machine.routes.len()), (1, 1));
}

#[test]
fn a_second_topic_takes_the_next_slot_of_the_same_ring() {
    let (mut world, procmond, agent) = routed();
    world.declare(procmond, 0, 1, "events.process.start");
    world.settle();
    let heard = world.heard(agent);
    let ring = world.only_ring();
    assert!(
        matches!(&heard[..], [Notice::Grant { ring: r, slot: 1, generation: 0, topic, .. }]
            if *r == ring && topic.as_str() == "events.process.start"),
        "{heard:?}"
    );
    assert_eq!(names(&world.heard(procmond)), ["route", "declared"]);
}

#[test]
fn each_publisher_of_a_session_has_a_ring_of_its_own() {
    let (mut world, procmond, _) = routed();
    world.declare(procmond, 1, 0, BATCH);
    world.settle();
    assert_eq!((world.machine.rings.len(), world.machine.routes.len()), (2, 2));
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn to_let_go_of_one_of_two_subscriptions_changes_nothing() {
    let (mut world, procmond, agent) = routed();
    world.subscribe(agent, 1, &[BATCH]);
    world.heard(agent);
    world.unsubscribe(agent, 0);
    assert_eq!((world.heard(agent), world.heard(procmond)), (vec![], vec![]));
    assert_eq!(only_route(&world).0, Phase::Active);
}

#[test]
fn to_let_go_of_the_last_unroutes_the_publisher_first_and_then_revokes() {
    let (mut world, procmond, agent) = routed();
    let ring = world.only_ring();
    world.unsubscribe(agent, 0);
    assert_eq!(world.heard(agent), [], "the publisher may still use the slot");
    let unroute = world.obey_one(procmond);
    assert!(matches!(unroute, Some(Notice::Unroute { ring: Some(r), .. }) if r == ring), "{unroute:?}");
    assert_eq!(world.heard(agent), [Notice::Revoke { ring, slot: 0 }]);
    assert!(world.machine.routes.is_empty() && world.machine.orders.is_empty());
    world.subscribe(agent, 1, &[BATCH]);
    world.settle();
    let target = SlotTarget { ring, slot: 0, generation: 1 };
    assert_eq!(only_route(&world), (Phase::Active, Some(target)), "the same ring, a new generation");
}

#[test]
fn a_subscription_during_the_unrouting_gets_a_new_generation_after_it() {
    let (mut world, procmond, agent) = routed();
    let ring = world.only_ring();
    world.unsubscribe(agent, 0);
    let request = world.subscribe(agent, 1, &[BATCH]);
    assert_eq!(world.heard(agent), [], "not before the publisher has let go and is back");
    world.obey(procmond);
    assert_eq!(names(&world.heard(procmond)), ["unroute"]);
    world.obey(agent);
    assert_eq!(names(&world.heard(agent)), ["revoke", "grant"]);
    world.settle();
    assert_eq!(names(&world.heard(procmond)), ["route"]);
    assert_eq!(answers(&world.heard(agent), request), 1);
    let target = SlotTarget { ring, slot: 0, generation: 1 };
    assert_eq!(only_route(&world), (Phase::Active, Some(target)));
}

/// Unsubscribes as soon as the route is in this phase, and lets all go on.
fn let_go_in(phase: Phase, again: bool) -> (World, SessionId, SessionId) {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    let first = world.subscribe(agent, 0, &[BATCH]);
    while only_route(&world).0 != phase {
        let moved = world.obey_one(agent).or_else(|| world.obey_one(procmond));
        assert!(moved.is_some(), "{phase:?} never comes");
    }
    world.unsubscribe(agent, 0);
    let second = again.then(|| world.subscribe(agent, 1, &[BATCH]));
    world.settle();
    let heard = world.heard(agent);
    assert_eq!(answers(&heard, first), 1, "{phase:?}: it was asked and is answered");
    if let Some(second) = second {
        assert_eq!(answers(&heard, second), 1, "{phase:?}");
    }
    super::super::invariants::check_at_rest(&world.machine);
    (world, procmond, agent)
}

#[test]
fn to_let_go_while_a_route_grows_leaves_none() {
    for phase in [Phase::NeedsRing, Phase::Granting, Phase::Routing] {
        let (mut world, procmond, _) = let_go_in(phase, false);
        assert!(world.machine.routes.is_empty(), "{phase:?}");
        let told = names(&world.heard(procmond));
        let unrouted = told.iter().filter(|name| **name == "unroute").count();
        let routed = told.iter().filter(|name| **name == "route").count();
        assert_eq!(routed, unrouted, "{phase:?}: {told:?}");
    }
}

#[test]
fn to_let_go_and_ask_again_while_a_route_grows_leaves_one() {
    for phase in [Phase::NeedsRing, Phase::Granting, Phase::Routing, Phase::Active] {
        let (world, ..) = let_go_in(phase, true);
        assert_eq!(only_route(&world).0, Phase::Active, "{phase:?}");
    }
}

#[test]
fn a_route_within_one_session_has_no_ring() {
    let mut world = World::new();
    let agent = world.join("agent");
    world.subscribe(agent, 0, &["control.#"]);
    world.heard(agent);
    let request = world.declare(agent, 0, 0, "control.shutdown");
    assert_eq!(world.machine.rings.len(), 0);
    let route = world.obey_one(agent);
    assert!(matches!(route, Some(Notice::Route { target: None, .. })), "{route:?}");
    assert_eq!(answers(&world.heard(agent), request), 1);
    world.unsubscribe(agent, 0);
    let unroute = world.obey_one(agent);
    assert!(matches!(unroute, Some(Notice::Unroute { ring: None, .. })), "{unroute:?}");
    assert!(world.machine.routes.is_empty());
    assert_eq!(names(&world.heard(agent)), ["unroute"], "nothing to revoke");
}

#[test]
fn a_route_within_one_session_comes_back_while_it_goes() {
    let mut world = World::new();
    let agent = world.join("agent");
    world.declare(agent, 0, 0, "control.shutdown");
    world.subscribe(agent, 0, &["control.#"]);
    world.settle();
    world.unsubscribe(agent, 0);
    let request = world.subscribe(agent, 1, &["control.#"]);
    world.heard(agent);
    let orders: Vec<Request> =
        world.machine.orders.keys().map(|order| Request::Done { order: *order }).collect();
    let [unrouted] = &orders[..] else { panic!("{orders:?}") };
    world.say(agent, unrouted.clone());
    assert!(matches!(world.obey_one(agent), Some(Notice::Route { target: None, .. })));
    assert_eq!(answers(&world.heard(agent), request), 1);
}

#[test]
fn a_done_that_nobody_waits_for_is_ignored() {
    let mut world = World::new();
    let (procmond, agent, tool) = (world.join("procmond"), world.join("agent"), world.join("tool"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(agent, 0, &[BATCH]);
    while world.machine.orders.is_empty() {
        let _ = world.obey_one(procmond).or_else(|| world.obey_one(agent));
    }
    let (order, _) = world.machine.orders.first_key_value().expect("a grant");
    let done = Request::Done { order: *order };
    for stranger in [procmond, tool] {
        world.say(stranger, done.clone());
        assert_eq!(only_route(&world).0, Phase::Granting, "it is the agent's to answer");
    }
    for order in [0, u64::MAX] {
        world.say(agent, Request::Done { order: crate::wire::OrderId(order) });
    }
    world.say(agent, done.clone());
    assert_eq!(only_route(&world).0, Phase::Routing);
    world.say(agent, done);
    assert_eq!(only_route(&world).0, Phase::Routing, "once is enough");
    world.settle();
    assert!([procmond, agent, tool].iter().all(|session| world.is_connected(*session)));
}

#[test]
fn a_publisher_that_is_closed_takes_its_rings_and_routes_along() {
    let (mut world, procmond, agent) = routed();
    let ring = world.only_ring();
    world.declare(procmond, 1, 0, BATCH);
    world.settle();
    world.heard(agent);
    world.say(procmond, Request::ClosePublisher { publisher: 0 });
    assert_eq!(world.heard(agent), [Notice::CloseRing { ring, accused: None }]);
    assert_eq!((world.machine.rings.len(), world.machine.routes.len()), (1, 1), "the other stays");
    world.say(procmond, Request::ClosePublisher { publisher: 0 });
    world.say(procmond, Request::ClosePublisher { publisher: 77 });
    assert!(world.is_connected(procmond), "there is nothing to close, and no harm in it");
    world.declare(procmond, 0, 0, BATCH);
    world.settle();
    super::super::invariants::check_at_rest(&world.machine);
    assert_eq!(world.machine.rings.len(), 2, "its number can be used again");
}

#[test]
fn a_ring_whose_subscription_has_gone_is_ready_for_the_next() {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(agent, 0, &[BATCH]);
    world.unsubscribe(agent, 0);
    world.settle();
    let ring = world.only_ring();
    assert!(world.machine.routes.is_empty());
    world.heard(procmond);
    let request = world.subscribe(agent, 1, &[BATCH]);
    world.settle();
    assert_eq!((names(&world.heard(procmond)), world.only_ring()), (vec!["route"], ring));
    assert_eq!(answers(&world.heard(agent), request), 1);
}
