//! The sizes of rings, who answers for them, and what happens where there is no more memory for them.

use super::super::{Input, Origin, Payer, Report, SessionId};
use super::world::{
    RING_BYTES, ROUTE_DEADLINE, USER, World, answers, consumer_segment, goodbye, missed, names, refusal,
};
use crate::wire::{GoodbyeReason, Notice, Refusal, Request, Sharer};

const BATCH: &str = "events.process.batch";
const STRANGER: Origin = Origin::Remote { uid: 65534 };
/// What a ring of the usual size takes.
const ONE: u64 = RING_BYTES + 8192;

/// The sizes that both sides of each ring were told.
fn sizes(heard: &[Notice]) -> Vec<u64> {
    let size = |notice: &Notice| match notice {
        Notice::MakeProducerSegment { ring_bytes, .. } | Notice::AttachConsumer { ring_bytes, .. } => {
            Some(*ring_bytes)
        }
        _ => None,
    };
    heard.iter().filter_map(size).collect()
}

/// Rings and their bytes, by payer.
fn charges(world: &World) -> Vec<(Payer, u64, u64)> {
    let charges = world.machine.ring_charges().into_iter();
    charges.map(|charge| (charge.payer, charge.rings, charge.bytes)).collect()
}

fn over_budget(heard: &[Notice]) -> (Sharer, u64, u64, u64) {
    match refusal(heard) {
        Refusal::RingBudget { whose, needed, in_use, limit } => (*whose, *needed, *in_use, *limit),
        other => panic!("{other:?}"),
    }
}

/// Two sessions that publish, with so many publishers each.
fn publishing(world: &mut World, publishers: u32) -> [SessionId; 2] {
    let sessions = [world.join("procmond"), world.join("netmond")];
    for (session, topic) in sessions.into_iter().zip([BATCH, "events.network.batch"]) {
        for number in 0..publishers {
            world.declare(session, number, 0, topic);
        }
        world.heard(session);
    }
    sessions
}

#[test]
fn a_ring_has_the_size_that_its_subscription_asks_for_and_both_sides_are_told() {
    let mut world = World::new();
    let (procmond, netmond) = (world.join("procmond"), world.join("netmond"));
    let (detector, exporter) = (world.join("detector"), world.join("exporter"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe_with(detector, 0, &["events.#"], Some(1 << 16));
    world.subscribe(exporter, 0, &["events.#"]);
    world.settle();
    assert_eq!(sizes(&world.heard(procmond)), [1 << 16, RING_BYTES]);
    assert_eq!(sizes(&world.heard(detector)), [1 << 16]);
    assert_eq!(sizes(&world.heard(exporter)), [RING_BYTES]);
    world.declare(netmond, 0, 0, "events.network.batch");
    world.settle();
    assert_eq!(sizes(&world.heard(netmond)), [1 << 16, RING_BYTES], "also of who comes later");
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn of_several_subscriptions_the_largest_size_counts_and_a_ring_keeps_what_it_has() {
    let mut world = World::new();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    for (number, bytes) in [(0, 1 << 16), (1, 1 << 24), (2, 1 << 17)] {
        world.subscribe_with(detector, number, &["events.process.#"], Some(bytes));
    }
    world.subscribe_with(detector, 3, &["events.network.#"], Some(1 << 30));
    world.declare(procmond, 0, 0, BATCH);
    world.settle();
    assert_eq!(sizes(&world.heard(procmond)), [1 << 24]);
    world.subscribe_with(detector, 4, &["events.#"], Some(1 << 26));
    world.declare(procmond, 0, 1, "events.process.start");
    world.settle();
    assert!(sizes(&world.heard(procmond)).is_empty());
    world.unsubscribe(detector, 1);
    world.unsubscribe(detector, 4);
    world.declare(procmond, 1, 0, BATCH);
    world.settle();
    assert_eq!(sizes(&world.heard(procmond)), [1 << 17], "what is left asks for no more");
    world.subscribe(detector, 5, &[BATCH]);
    world.declare(procmond, 2, 0, BATCH);
    world.settle();
    assert_eq!(sizes(&world.heard(procmond)), [RING_BYTES], "who asks for none asks for the usual");
}

#[test]
fn a_size_that_can_not_be_is_refused_and_changes_nothing() {
    let mut world = World::new();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.declare(procmond, 0, 0, BATCH);
    world.heard(procmond);
    for bytes in [0, 1, 63 << 10, (1 << 16) - 1, (1 << 16) + 1, 1 << 15, 3 << 20, 1 << 31, u64::MAX] {
        world.subscribe_with(detector, 0, &[BATCH], Some(bytes));
        let heard = world.heard(detector);
        assert_eq!((heard.len(), refusal(&heard)), (1, &Refusal::RingBytes { bytes }));
    }
    assert_eq!((world.machine.subscription_count(), world.heard(procmond)), (0, vec![]));
    world.assert_no_paths();
    for (number, bytes) in [(0, 1 << 16), (1, 1 << 30)] {
        world.subscribe_with(detector, number, &[BATCH], Some(bytes));
    }
    world.settle();
    assert_eq!(names(&world.heard(detector)).iter().filter(|name| **name == "subscribed").count(), 2);
}

#[test]
fn a_ring_is_charged_to_its_subscriber_whoever_came_first() {
    let mut world = World::new();
    let procmond = world.join_from(USER, "procmond");
    let (detector, agent) = (world.join_from(STRANGER, "detector"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    assert_eq!(charges(&world), []);
    world.subscribe_with(detector, 0, &[BATCH], Some(1 << 16));
    world.subscribe(agent, 0, &[BATCH]);
    let first = [(Payer::Agent, 1, ONE), (Payer::Uid(65534), 1, (1 << 16) + 8192)];
    assert_eq!(charges(&world), first, "from the moment that it is asked for");
    world.settle();
    world.declare(procmond, 1, 0, BATCH);
    world.settle();
    let later = [(Payer::Agent, 2, 2 * ONE), (Payer::Uid(65534), 2, 2 * ((1 << 16) + 8192))];
    assert_eq!(charges(&world), later);
    world.subscribe(detector, 1, &[BATCH]);
    world.declare(procmond, 0, 1, "events.process.start");
    world.settle();
    assert_eq!(charges(&world), later, "what runs over a ring that is there costs nothing");
    world.say(procmond, Request::ClosePublisher { publisher: 1 });
    assert_eq!(charges(&world), first);
    world.end(detector);
    assert_eq!(charges(&world), first[..1]);
    world.end(procmond);
    assert_eq!(charges(&world), []);
}

#[test]
fn a_ring_that_was_broken_is_charged_to_nobody() {
    let mut world = World::new();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(detector, 0, &[BATCH]);
    world.settle();
    let ring = world.only_ring();
    world.say(detector, Request::Poisoned { ring, violation: "so".into() });
    assert_eq!(charges(&world), []);
}

#[test]
fn a_user_that_has_used_up_its_share_is_refused_and_nobody_else_is() {
    let mut world = World::with_budget(u64::MAX, 4 * ONE);
    let [procmond, netmond] = publishing(&mut world, 2);
    let (first, second) = (world.join_from(STRANGER, "exporter"), world.join_from(STRANGER, "detector"));
    world.subscribe(first, 0, &[BATCH]);
    world.settle();
    world.heard(first);
    for session in [procmond, netmond] {
        world.heard(session);
    }
    let before = charges(&world);
    world.subscribe(second, 0, &["events.#"]);
    assert_eq!(over_budget(&world.heard(second)), (Sharer::User { uid: 65534 }, 4 * ONE, 2 * ONE, 4 * ONE));
    world.subscribe(second, 0, &[BATCH]);
    assert_eq!(over_budget(&world.heard(second)), (Sharer::Session, 2 * ONE, 0, ONE));
    assert_eq!((charges(&world), world.machine.subscription_count()), (before, 1));
    assert_eq!((world.heard(procmond), world.heard(netmond), world.heard(first)), (vec![], vec![], vec![]));
    // The numbers were not used up.
    let request = world.subscribe_with(second, 0, &[BATCH], Some(1 << 16));
    world.settle();
    assert_eq!(answers(&world.heard(second), request), 1);
    let agent = world.join("agent");
    world.subscribe(agent, 0, &["events.#"]);
    // Of another user than the stranger, as the agent is.
    world.declare(procmond, 2, 0, "events.process.anomaly");
    world.settle();
    let grants = names(&world.heard(agent)).iter().filter(|name| **name == "grant").count();
    assert_eq!((grants, names(&world.heard(procmond)).contains(&"declared")), (5, true));
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn the_agents_process_is_charged_by_itself_and_limited_by_the_whole_alone() {
    let mut world = World::with_budget(5 * ONE, ONE);
    // Of the agent's own user, say.
    publishing(&mut world, 2);
    let agent = world.join("agent");
    world.subscribe(agent, 0, &["events.#"]);
    world.settle();
    assert_eq!(charges(&world), [(Payer::Agent, 4, 4 * ONE)]);
    let detector = world.join("detector");
    world.subscribe_with(detector, 0, &[BATCH], Some(1 << 16));
    world.settle();
    assert!(names(&world.heard(detector)).contains(&"subscribed"), "the agent's rings are not its user's");
    world.heard(agent);
    let late = world.join_from(STRANGER, "fsmond");
    world.declare(late, 0, 0, "events.filesystem.batch");
    let whole = 5 * ONE;
    let in_use = 4 * ONE + 2 * ((1 << 16) + 8192);
    assert_eq!(over_budget(&world.heard(late)), (Sharer::Everybody, ONE, in_use, whole));
}

#[test]
fn of_a_budget_each_byte_can_be_used_and_none_more() {
    for (total, per_uid, refused) in [
        (2 * ONE, 4 * ONE, None),
        (2 * ONE - 1, 4 * ONE, Some((Sharer::Everybody, 2 * ONE - 1))),
        (2 * ONE, 4 * ONE - 1, Some((Sharer::Session, 2 * ONE - 1))),
        (2 * ONE, 2 * ONE - 1, Some((Sharer::User { uid: 1000 }, 2 * ONE - 1))),
        (0, u64::MAX, Some((Sharer::Everybody, 0))),
        (u64::MAX, 0, Some((Sharer::User { uid: 1000 }, 0))),
    ] {
        let mut world = World::with_budget(total, per_uid);
        publishing(&mut world, 1);
        let detector = world.join("detector");
        world.subscribe(detector, 0, &["events.#"]);
        world.settle();
        let heard = world.heard(detector);
        match refused {
            None => {
                assert!(names(&heard).contains(&"subscribed"), "{heard:?}");
                assert_eq!(charges(&world), [(Payer::Uid(1000), 2, 2 * ONE)]);
                runs_over_rings_that_are_there(&mut world, detector);
            }
            Some((whose, limit)) => assert_eq!(over_budget(&heard), (whose, 2 * ONE, 0, limit)),
        }
    }
}

/// With not a byte left: a further subscription, and a further topic.
fn runs_over_rings_that_are_there(world: &mut World, detector: SessionId) {
    world.subscribe_with(detector, 1, &["events.process.#"], Some(1 << 30));
    let procmond = world.machine.holder_of("procmond").expect("it is there");
    world.heard(procmond);
    world.declare(procmond, 0, 1, "events.process.start");
    world.settle();
    assert!(names(&world.heard(detector)).contains(&"subscribed"));
    assert!(names(&world.heard(procmond)).contains(&"declared"));
    assert_eq!(charges(world), [(Payer::Uid(1000), 2, 2 * ONE)]);
}

#[test]
fn a_subscriber_whose_share_does_not_hold_another_ring_goes_and_who_publishes_is_not_affected() {
    let mut world = World::with_budget(u64::MAX, 4 * ONE);
    let procmond = world.join("procmond");
    let (agent, exporter) = (world.join("agent"), world.join("exporter"));
    let (greedy, modest) = (world.join_from(STRANGER, "detector"), world.join_from(STRANGER, "tool"));
    for subscriber in [agent, exporter, greedy] {
        world.subscribe(subscriber, 0, &["events.#"]);
    }
    world.subscribe_with(modest, 0, &["events.network.#"], Some(1 << 16));
    for number in 0..2 {
        world.declare(procmond, number, 0, BATCH);
        world.settle();
    }
    assert_eq!(charges(&world)[2], (Payer::Uid(65534), 2, 2 * ONE));
    world.unsubscribe(exporter, 0);
    world.settle();
    let request = world.declare(procmond, 2, 0, BATCH);
    world.settle();
    assert_eq!(answers(&world.heard(procmond), request), 1);
    let needed = (Sharer::Session, ONE, 2 * ONE, 2 * ONE);
    match goodbye(&world.heard(greedy)) {
        GoodbyeReason::Refused { refusal: Refusal::RingBudget { whose, needed: bytes, in_use, limit } } => {
            assert_eq!((*whose, *bytes, *in_use, *limit), needed);
        }
        other => panic!("{other:?}"),
    }
    assert!([agent, exporter, modest, procmond].iter().all(|session| world.is_connected(*session)));
    assert_eq!(charges(&world)[0], (Payer::Agent, 3, 3 * ONE));
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn a_topic_that_the_agent_could_not_hear_is_refused_and_its_publisher_is_not_there() {
    let mut world = World::with_budget(2 * ONE, u64::MAX);
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.subscribe(agent, 0, &["events.#"]);
    for number in 0..2 {
        world.declare(procmond, number, 0, BATCH);
        world.settle();
    }
    world.heard(procmond);
    world.declare(procmond, 2, 0, BATCH);
    assert_eq!(over_budget(&world.heard(procmond)), (Sharer::Everybody, ONE, 2 * ONE, 2 * ONE));
    assert_eq!((world.machine.publishers.len(), charges(&world)), (2, vec![(Payer::Agent, 2, 2 * ONE)]));
    world.declare(procmond, 1, 1, "events.process.start");
    world.settle();
    assert!(names(&world.heard(procmond)).contains(&"declared"), "it needs no other ring");
    assert_eq!(world.machine.topic_count(), 3);
}

#[test]
fn a_publisher_does_not_pay_for_those_who_hear_it() {
    let mut world = World::with_budget(u64::MAX, 3 * ONE);
    let hearers: Vec<_> = (0..9)
        .map(|number| {
            let hearer = world.join_from(Origin::Remote { uid: 2000 + number }, &format!("tool-{number}"));
            world.subscribe(hearer, 0, &["events.#"]);
            hearer
        })
        .collect();
    let procmond = world.join("procmond");
    world.declare(procmond, 0, 0, BATCH);
    world.settle();
    assert!(names(&world.heard(procmond)).contains(&"declared"));
    for hearer in hearers {
        world.end(hearer);
    }
    assert_eq!(charges(&world), [], "and what they had is charged to nobody when they have gone");
}

#[test]
fn what_subscribers_ask_for_beyond_the_usual_size_keeps_nobody_from_publishing() {
    let large = RING_BYTES << 2;
    let mut world = World::with_budget(20 * ONE, 10 * ONE);
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    let strangers = ["detector", "exporter"].map(|name| world.join_from(STRANGER, name));
    for stranger in strangers {
        world.subscribe_with(stranger, 0, &["events.#"], Some(large));
    }
    world.declare(procmond, 0, 0, BATCH);
    world.settle();
    let heard = world.heard(procmond);
    assert!(names(&heard).contains(&"declared"), "{heard:?}");
    assert_eq!(sizes(&heard), [large, RING_BYTES], "one is within the share of who asked for it");
    let smaller = |report: &&Report| matches!(report, Report::SmallerRing { .. });
    assert_eq!(world.reports.iter().filter(smaller).count(), 1);
    assert_eq!(charges(&world), [(Payer::Uid(65534), 2, large + 8192 + ONE)]);
    world.declare(agent, 0, 0, BATCH);
    world.settle();
    let heard = world.heard(agent);
    assert!(names(&heard).contains(&"declared"), "{heard:?}");
    assert!(!strangers.iter().all(|session| world.is_connected(*session)));
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn what_needs_no_ring_is_granted_where_there_is_no_memory_for_one() {
    let mut world = World::with_budget(0, 0);
    let (agent, procmond) = (world.join("agent"), world.join("procmond"));
    world.declare(agent, 0, 0, "control.collector.task");
    world.subscribe(agent, 0, &["control.#"]);
    world.declare(agent, 0, 1, "control.collector.lifecycle");
    world.declare(procmond, 0, 0, BATCH);
    world.settle();
    let heard = names(&world.heard(agent)).iter().filter(|name| **name == "route").count();
    assert_eq!(heard, 2, "it hears itself");
    assert_eq!(names(&world.heard(procmond)), ["declared"], "nobody hears it");
}

/// A ring of a size that was asked for, being made: its publisher's session, its subscriber's, the request.
fn larger_ring() -> (World, SessionId, SessionId, u32) {
    let mut world = World::of_version_1();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.declare(procmond, 0, 0, BATCH);
    let request = world.subscribe_with(detector, 0, &[BATCH], Some(RING_BYTES << 4));
    (world, procmond, detector, request)
}

/// It has come to be in the usual size, as the log says, and nobody has lost a session.
fn is_of_the_usual_size(mut world: World, procmond: SessionId, detector: SessionId, request: u32) {
    world.settle();
    let heard = world.heard(detector);
    assert_eq!((answers(&heard, request), sizes(&heard)), (1, vec![RING_BYTES]), "{heard:?}");
    for heard in [heard, world.heard(procmond)] {
        let closed = heard.iter().filter(|notice| matches!(notice, Notice::CloseRing { accused: None, .. }));
        assert_eq!(closed.count(), 1, "neither side keeps what it has of the larger one: {heard:?}");
    }
    assert!(world.is_connected(procmond) && world.is_connected(detector));
    assert_eq!(charges(&world), [(Payer::Uid(1000), 1, ONE)]);
    let smaller = world.reports.iter().filter(|report| {
        matches!(report, Report::SmallerRing { publisher, subscriber, asked_bytes, .. }
            if publisher.as_str() == "procmond" && subscriber.as_str() == "detector"
                && *asked_bytes == RING_BYTES << 4)
    });
    assert_eq!(smaller.count(), 1, "{:?}", world.reports);
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn a_publisher_without_memory_for_the_size_asked_for_keeps_its_session() {
    for consumer_is_quick in [true, false] {
        let (mut world, procmond, detector, request) = larger_ring();
        let ring = world.only_ring();
        if consumer_is_quick {
            world.obey(detector);
        }
        world.heard(procmond);
        world.say(procmond, Request::NoRing { ring, cause: "none".into() });
        assert_ne!(world.only_ring(), ring);
        is_of_the_usual_size(world, procmond, detector, request);
    }
}

#[test]
fn a_publisher_that_does_not_make_the_size_asked_for_in_time_keeps_its_session() {
    let (mut world, procmond, detector, request) = larger_ring();
    let ring = world.only_ring();
    world.obey(detector);
    world.heard(procmond);
    world.wait(ROUTE_DEADLINE);
    // It comes too late.
    world.say_with(procmond, super::world::producer_segment(ring), 1);
    is_of_the_usual_size(world, procmond, detector, request);
}

#[test]
fn who_has_not_even_memory_for_the_usual_size_goes() {
    let (mut world, procmond, detector, _) = larger_ring();
    for _ in 0..2 {
        assert!(world.is_connected(procmond));
        let ring = world.only_ring();
        world.say(procmond, Request::NoRing { ring, cause: "none".into() });
    }
    assert!(matches!(goodbye(&world.heard(procmond)), GoodbyeReason::NoRing { .. }));
    assert_eq!(missed(&world.heard(detector)), ["procmond"], "it does not hear it, and is told");
    assert!(world.is_connected(detector));
    world.assert_no_paths();

    let (mut world, procmond, detector, _) = larger_ring();
    for due in 1..=2 {
        assert!(world.is_connected(procmond), "not before {due} times");
        world.obey(detector);
        world.wait(ROUTE_DEADLINE);
    }
    assert_eq!(*goodbye(&world.heard(procmond)), GoodbyeReason::RouteDeadline);
    assert!(world.is_connected(detector));
}

#[test]
fn a_subscriber_without_memory_for_the_size_that_it_asked_for_goes_itself() {
    let (mut world, procmond, detector, _) = larger_ring();
    let ring = world.only_ring();
    world.say(detector, Request::NoRing { ring, cause: "none".into() });
    assert!(matches!(goodbye(&world.heard(detector)), GoodbyeReason::NoRing { .. }));
    assert!(world.is_connected(procmond));

    let (mut world, procmond, detector, _) = larger_ring();
    world.obey(procmond);
    world.wait(ROUTE_DEADLINE);
    assert_eq!(*goodbye(&world.heard(detector)), GoodbyeReason::RouteDeadline);
    assert!(world.is_connected(procmond));
}

#[test]
fn a_publisher_that_has_handed_its_segment_over_can_not_have_it_made_smaller() {
    let (mut world, procmond, detector, _) = larger_ring();
    let ring = world.only_ring();
    world.say_with(procmond, super::world::producer_segment(ring), 1);
    world.say(procmond, Request::NoRing { ring, cause: "none".into() });
    assert!(!world.is_connected(procmond) && world.is_connected(detector));
    // What is on its way for a ring that is gone is nobody's fault.
    world.say_with(detector, consumer_segment(ring), 1);
    assert!(world.is_connected(detector));
}

#[test]
fn a_broker_without_descriptors_makes_no_smaller_ring_of_a_larger_one() {
    let mut world = World::of_version_1();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.declare(procmond, 0, 0, BATCH);
    let (now, patterns) = (world.now, vec![BATCH.into()]);
    let request = Request::Subscribe { request: 1, subscription: 0, patterns, ring_bytes: Some(1 << 24) };
    world.machine.handle(now, Input::Frame { session: detector, request, descriptor: None });
    let ring = world.only_ring();
    world.feed(Input::Doorbell { ring, ends: None });
    assert!(!world.is_connected(detector) && world.is_connected(procmond));
    world.assert_no_paths();
}
