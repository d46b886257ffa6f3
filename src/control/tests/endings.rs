//! Sessions that end, stop, or break the laws: what is left of them, and who feels it.

use std::time::Duration;

use super::super::{Input, Report, SessionId};
use super::world::{
    RING_BYTES, ROUTE_DEADLINE, World, answers, consumer_segment, fault, goodbye, missed, names,
    producer_segment,
};
use crate::wire::{GoodbyeReason, Handle, Notice, Request, RingId};

const BATCH: &str = "events.process.batch";
const JUST_LESS: Duration = ROUTE_DEADLINE.saturating_sub(Duration::from_nanos(1));

/// What is done to a path that is being made, or is complete.
#[derive(Debug, Clone, Copy)]
enum Cut {
    PublisherEnds,
    SubscriberEnds,
    PublisherFaults,
    SubscriberFaults,
    PublisherCloses,
    SubscriberLetsGo,
    PublisherHasNoRing,
    SubscriberHasNoRing,
}

const CUTS: [Cut; 8] = [
    Cut::PublisherEnds,
    Cut::SubscriberEnds,
    Cut::PublisherFaults,
    Cut::SubscriberFaults,
    Cut::PublisherCloses,
    Cut::SubscriberLetsGo,
    Cut::PublisherHasNoRing,
    Cut::SubscriberHasNoRing,
];

fn cut(world: &mut World, cut: Cut, publisher: SessionId, subscriber: SessionId) {
    let ring = world.machine.rings.keys().next().copied();
    let no_ring = |ring| Request::NoRing { ring, cause: "no memory".into() };
    match cut {
        Cut::PublisherEnds => world.end(publisher),
        Cut::SubscriberEnds => world.end(subscriber),
        Cut::PublisherFaults => world.hello(publisher, "again"),
        Cut::SubscriberFaults => world.hello(subscriber, "again"),
        Cut::PublisherCloses => world.say(publisher, Request::ClosePublisher { publisher: 0 }),
        Cut::SubscriberLetsGo => world.unsubscribe(subscriber, 0),
        Cut::PublisherHasNoRing => ring.into_iter().for_each(|ring| world.say(publisher, no_ring(ring))),
        Cut::SubscriberHasNoRing => ring.into_iter().for_each(|ring| world.say(subscriber, no_ring(ring))),
    }
}

/// Cuts the making of a path after each number of its steps, either side being the quicker one, and the subscribe or the
/// declare being the one that waits.
fn at_every_step(mut each: impl FnMut(World, SessionId, SessionId, u32, &str)) {
    for declared_first in [true, false] {
        for publisher_is_quick in [true, false] {
            for steps in 0.. {
                let mut world = World::new();
                let (publisher, subscriber) = (world.join("procmond"), world.join("agent"));
                let request = if declared_first {
                    world.declare(publisher, 0, 0, BATCH);
                    world.subscribe(subscriber, 0, &[BATCH])
                } else {
                    world.subscribe(subscriber, 0, &[BATCH]);
                    world.declare(publisher, 0, 0, BATCH)
                };
                let (quick, slow) =
                    if publisher_is_quick { (publisher, subscriber) } else { (subscriber, publisher) };
                let mut complete = false;
                for _ in 0..steps {
                    complete = world.obey_one(quick).or_else(|| world.obey_one(slow)).is_none();
                }
                let step =
                    format!("declared first: {declared_first}, quick: {publisher_is_quick}, {steps} steps");
                each(world, publisher, subscriber, request, &step);
                if complete {
                    assert!(steps > 8, "all of it was walked through");
                    break;
                }
            }
        }
    }
}

#[test]
fn an_end_at_any_step_leaves_nothing_behind_and_answers_who_waits() {
    for what in CUTS {
        at_every_step(|mut world, publisher, subscriber, request, step| {
            cut(&mut world, what, publisher, subscriber);
            world.settle();
            match what {
                Cut::SubscriberLetsGo => {
                    assert!(world.machine.routes.is_empty(), "{step}");
                    super::super::invariants::check_at_rest(&world.machine);
                }
                Cut::PublisherHasNoRing | Cut::SubscriberHasNoRing
                    if world.is_connected(publisher) && world.is_connected(subscriber) => {}
                _ => world.assert_no_paths(),
            }
            for session in [publisher, subscriber] {
                let heard = world.heard(session);
                if world.is_connected(session) {
                    let asked = names(&heard).iter().any(|name| ["declared", "subscribed"].contains(name));
                    assert!(asked, "{what:?} {step}: it waits for ever: {heard:?}");
                }
                assert!(answers(&heard, request) <= 1, "{what:?} {step}");
            }
            assert_eq!(world.machine.next_deadline(), None, "{what:?} {step}");
        });
    }
}

#[test]
fn both_ends_gone_at_any_step_leave_nothing_behind() {
    at_every_step(|mut world, publisher, subscriber, _, step| {
        world.end(publisher);
        world.end(subscriber);
        world.assert_no_paths();
        assert!(world.machine.sessions.is_empty() && world.machine.publishers.is_empty(), "{step}");
        assert_eq!(world.machine.subscription_count() + world.machine.topic_count(), 0, "{step}");
    });
}

#[test]
fn who_stops_at_any_step_loses_its_session_and_nobody_else_does() {
    for publisher_stops in [true, false] {
        at_every_step(|mut world, publisher, subscriber, _, step| {
            let (stopped, other) =
                if publisher_stops { (publisher, subscriber) } else { (subscriber, publisher) };
            world.settle_without(&[stopped]);
            let owes = world.machine.next_deadline().is_some();
            world.wait(JUST_LESS);
            assert!(world.is_connected(stopped), "{step}: it has time");
            world.settle_without(&[stopped]);
            world.wait(ROUTE_DEADLINE);
            assert_eq!(world.is_connected(stopped), !owes, "{step}");
            assert!(world.is_connected(other), "{step}: it has done all it was told");
            if owes {
                assert_eq!(*goodbye(&world.heard(stopped)), GoodbyeReason::RouteDeadline, "{step}");
                world.settle();
                world.assert_no_paths();
                let heard = world.heard(other);
                let answered = names(&heard).iter().any(|name| ["declared", "subscribed"].contains(name));
                assert!(answered, "{step}: {heard:?}");
            }
        });
    }
}

#[test]
fn a_publisher_that_does_not_answer_is_named_in_each_answer_that_waited_for_it() {
    let mut world = World::new();
    let (procmond, agent, detector) = (world.join("procmond"), world.join("agent"), world.join("detector"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(agent, 0, &[BATCH]);
    world.wait(Duration::from_millis(100));
    world.subscribe(detector, 0, &[BATCH]);
    world.settle_without(&[procmond]);
    world.wait(ROUTE_DEADLINE);
    assert!(!world.is_connected(procmond));
    assert_eq!(missed(&world.heard(agent)), ["procmond"]);
    assert_eq!(missed(&world.heard(detector)), ["procmond"]);
    world.assert_no_paths();
}

#[test]
fn a_publisher_that_stopped_delays_one_subscribe_and_not_each() {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(agent, 0, &[BATCH]);
    world.settle_without(&[procmond]);
    world.wait(ROUTE_DEADLINE);
    assert_eq!(missed(&world.heard(agent)), ["procmond"]);
    let request = world.subscribe(agent, 1, &[BATCH]);
    let heard = world.heard(agent);
    assert_eq!((answers(&heard, request), missed(&heard)), (1, vec![]));
}

#[test]
fn a_publisher_that_died_is_not_said_to_have_missed_anything() {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    let request = world.subscribe(agent, 0, &[BATCH]);
    world.end(procmond);
    let heard = world.heard(agent);
    assert_eq!((answers(&heard, request), missed(&heard)), (1, vec![]));
}

#[test]
fn a_subscriber_that_takes_its_time_does_not_use_up_the_publishers() {
    let mut world = World::new();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(detector, 0, &[BATCH]);
    world.settle_without(&[detector]);
    world.wait(JUST_LESS);
    assert!(matches!(world.obey_one(detector), Some(Notice::MakeConsumerSegment { .. })));
    world.settle_without(&[detector]);
    world.wait(JUST_LESS);
    world.obey(detector);
    world.wait(Duration::from_millis(1));
    assert!(world.is_connected(procmond), "it was told to route a millisecond ago");
    world.wait(JUST_LESS - Duration::from_millis(1));
    world.settle();
    assert!(world.is_connected(procmond) && world.is_connected(detector));
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn what_comes_in_time_counts_though_it_is_handled_after_other_late_inputs() {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(agent, 0, &[BATCH]);
    // The loop was held up; the answers have been waiting for it.
    world.now += ROUTE_DEADLINE * 2;
    world.settle();
    world.wait(Duration::ZERO);
    assert!(world.is_connected(procmond) && world.is_connected(agent));
}

fn routed() -> (World, SessionId, SessionId, RingId) {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(agent, 0, &["events.#"]);
    world.settle();
    world.heard(procmond);
    world.heard(agent);
    let ring = world.only_ring();
    (world, procmond, agent, ring)
}

fn poisoned(ring: RingId) -> Request {
    Request::Poisoned { ring, violation: "tail ran\nbackwards".into() }
}

#[test]
fn a_poisoned_pair_is_parted_for_good_and_others_feel_nothing() {
    for consumer_accuses in [true, false] {
        let (mut world, procmond, agent, ring) = routed();
        let detector = world.join("detector");
        world.subscribe(detector, 0, &[BATCH]);
        world.declare(procmond, 1, 0, BATCH);
        world.settle();
        for session in [procmond, agent, detector] {
            world.heard(session);
        }
        let (accuser, culprit) = if consumer_accuses { (agent, procmond) } else { (procmond, agent) };
        world.say(accuser, poisoned(ring));
        let accused = Some("tail ran backwards".into());
        assert_eq!(world.heard(culprit), [Notice::CloseRing { ring, accused }]);
        assert_eq!((world.heard(accuser), world.heard(detector)), (vec![], vec![]));
        assert_eq!(world.machine.routes.len(), 3, "procmond's second publisher, and the detector's routes");
        let Some(Report::Poisoned { culprit: named, violation, .. }) = world.reports.last() else {
            panic!("{:?}", world.reports)
        };
        assert_eq!(named.as_str(), if consumer_accuses { "procmond" } else { "agent" });
        assert!(!violation.contains('\n'), "{violation:?}");
        world.say(accuser, poisoned(ring));
        world.say(culprit, poisoned(ring));
        let request = world.subscribe(agent, 1, &[BATCH]);
        let declare = world.declare(procmond, 0, 1, "events.process.start");
        world.settle();
        assert_eq!(answers(&world.heard(agent), request), 1);
        assert_eq!(answers(&world.heard(procmond), declare), 1);
        assert_eq!(world.machine.rings.len(), 4, "no other ring for the pair");
        assert!([procmond, agent, detector].iter().all(|session| world.is_connected(*session)));
        super::super::invariants::check_at_rest(&world.machine);
    }
}

#[test]
fn poison_while_somebody_waits_for_the_pair_answers_it() {
    let (mut world, procmond, agent, ring) = routed();
    let request = world.declare(procmond, 0, 1, "events.process.start");
    world.say(agent, poisoned(ring));
    world.settle();
    assert_eq!(answers(&world.heard(procmond), request), 1);
    assert!(world.machine.routes.is_empty());
}

#[test]
fn a_new_session_of_a_poisoned_pair_starts_afresh() {
    let (mut world, procmond, agent, ring) = routed();
    world.say(agent, poisoned(ring));
    world.end(procmond);
    world.assert_no_paths();
    let procmond = world.join("procmond");
    world.declare(procmond, 0, 0, BATCH);
    world.settle();
    assert_ne!(world.only_ring(), ring);
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn an_accusation_about_a_ring_of_others_is_a_fault() {
    let (mut world, procmond, agent, ring) = routed();
    let tool = world.join("tool");
    world.say(tool, poisoned(ring));
    assert_eq!(fault(&world.heard(tool)), "an accusation about a ring of others");
    assert_eq!((world.heard(procmond), world.heard(agent)), (vec![], vec![]));
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn an_accusation_before_a_ring_is_complete_hits_the_accuser_alone() {
    at_every_step(|mut world, publisher, subscriber, _, step| {
        let Some(ring) = world.machine.rings.keys().next().copied() else { return };
        let complete = world.machine.routes.values().all(|route| route.target.is_some());
        if complete {
            return;
        }
        world.say(publisher, poisoned(ring));
        world.settle();
        assert!(!world.is_connected(publisher), "{step}");
        assert!(world.is_connected(subscriber), "{step}: it was honest");
        world.assert_no_paths();
    });
}

#[test]
fn an_accusation_or_a_segment_for_a_ring_that_is_gone_is_nobodys_fault() {
    let (mut world, procmond, agent, ring) = routed();
    world.say(procmond, Request::ClosePublisher { publisher: 0 });
    world.say(agent, poisoned(ring));
    world.say(agent, Request::NoRing { ring, cause: String::new() });
    world.say_with(agent, consumer_segment(ring), 1);
    world.feed(Input::Doorbell { ring, ends: Some((1, 2)) });
    assert!(world.is_connected(procmond) && world.is_connected(agent));
}

/// procmond and the agent have been asked for their segments.
fn forming() -> (World, SessionId, SessionId, RingId) {
    forming_over(World::of_version_1())
}

fn forming_over(mut world: World) -> (World, SessionId, SessionId, RingId) {
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(agent, 0, &[BATCH]);
    let ring = world.only_ring();
    (world, procmond, agent, ring)
}

#[test]
fn a_segment_of_the_wrong_session_or_side_is_a_fault_of_its_sender() {
    let (p, c) = (producer_segment, consumer_segment);
    for of_producer in [true, false] {
        let (mut world, procmond, agent, ring) = forming();
        let tool = world.join("tool");
        let (wrong_side, segment) = if of_producer { (agent, p(ring)) } else { (procmond, c(ring)) };
        for liar in [tool, wrong_side] {
            world.say_with(liar, segment.clone(), 9);
            assert_eq!(fault(&world.heard(liar)), "a segment for a ring of others");
        }
        let honest = if of_producer { procmond } else { agent };
        assert!(world.is_connected(honest));
    }
}

#[test]
fn a_second_segment_or_one_that_was_not_asked_for_is_a_fault() {
    let (mut world, procmond, agent, ring) = forming();
    world.say_with(procmond, producer_segment(ring), 1);
    world.say_with(procmond, producer_segment(ring), 2);
    assert_eq!(fault(&world.heard(procmond)), "a second segment for the same ring");
    assert!(world.is_connected(agent));

    let (mut world, procmond, agent, ring) = routed();
    world.say_with(agent, consumer_segment(ring), 1);
    assert_eq!(fault(&world.heard(agent)), "a segment that was not asked for");
    assert!(world.is_connected(procmond));
}

#[test]
fn a_segment_that_is_not_what_rings_are_made_of_is_a_fault() {
    let name: shm::SegmentName = "/deebp000010000000000000000001".parse().expect("a name");
    let (mut world, procmond, agent, ring) = forming();
    world.say(procmond, Request::ProducerSegment { ring, handle: Handle::Name(name) });
    assert_eq!(fault(&world.heard(procmond)), "a segment that is not what rings are made of here");
    assert!(world.is_connected(agent));

    let (mut world, procmond, agent, ring) = forming_over(World::over(shm::Backing::Named));
    world.say_with(procmond, producer_segment(ring), 1);
    assert_eq!(fault(&world.heard(procmond)), "a segment that is not what rings are made of here");
    assert!(world.is_connected(agent));
}

#[test]
fn a_name_goes_to_the_other_side_and_needs_no_descriptor() {
    let (p, c) = ("/deebp000010000000000000000001", "/deebc000010000000000000000002");
    let handle = |text: &str| Handle::Name(text.parse().expect("a name"));
    let (mut world, procmond, agent, ring) = forming_over(World::over(shm::Backing::Named));
    assert_eq!(world.carried(procmond).len(), 1, "the doorbell");
    assert_eq!(world.carried(agent).len(), 1, "and its other end");
    world.say(procmond, Request::ProducerSegment { ring, handle: handle(p) });
    world.say(agent, Request::ConsumerSegment { ring, handle: handle(c) });
    assert_eq!(world.heard(procmond), [Notice::AttachProducer { ring, handle: handle(c) }]);
    assert_eq!(
        world.heard(agent)[0],
        Notice::AttachConsumer { ring, handle: handle(p), ring_bytes: RING_BYTES }
    );

    let (mut world, procmond, _, ring) = forming_over(World::over(shm::Backing::Named));
    world.say_with(procmond, Request::ProducerSegment { ring, handle: handle(p) }, 1);
    assert_eq!(fault(&world.heard(procmond)), "a segment with a descriptor too few or too many");
}

#[test]
fn a_segment_without_its_descriptor_is_a_fault() {
    let (mut world, procmond, agent, ring) = forming();
    world.say(procmond, producer_segment(ring));
    assert_eq!(fault(&world.heard(procmond)), "a segment with a descriptor too few or too many");
    world.settle();
    assert!(world.is_connected(agent));
    world.assert_no_paths();
}

#[test]
fn who_has_no_memory_for_a_ring_goes_and_says_why_on_one_line() {
    let (mut world, procmond, agent, ring) = forming();
    let cause = format!("none\n{}", "x".repeat(5000));
    let tool = world.join("tool");
    world.say(tool, Request::NoRing { ring, cause: cause.clone() });
    assert!(world.is_connected(tool), "it is no ring of its own");
    world.say(procmond, Request::NoRing { ring, cause });
    let heard = world.heard(procmond);
    let GoodbyeReason::NoRing { cause } = goodbye(&heard) else { panic!("{heard:?}") };
    assert!(cause.len() <= 256 && !cause.contains('\n'), "{cause:?}");
    assert!(world.is_connected(agent));
}

#[test]
fn a_broker_without_descriptors_sends_the_subscriber_away_and_not_the_publisher() {
    let mut world = World::of_version_1();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.declare(procmond, 0, 0, BATCH);
    let now = world.now;
    let patterns = vec![BATCH.into()];
    let request = Request::Subscribe { request: 1, subscription: 0, patterns, ring_bytes: None };
    world.checks = false;
    world.machine.handle(now, Input::Frame { session: detector, request, descriptor: None });
    world.checks = true;
    let ring = world.only_ring();
    world.feed(Input::Doorbell { ring, ends: None });
    let heard = world.heard(detector);
    assert!(matches!(goodbye(&heard), GoodbyeReason::NoRing { .. }), "{heard:?}");
    assert!(world.is_connected(procmond));
    world.assert_no_paths();
}

#[test]
fn an_agent_without_memory_for_a_ring_stays_and_its_peer_is_told_why_it_goes() {
    let (mut world, procmond, agent, ring) = forming();
    world.say(agent, Request::NoRing { ring, cause: "none".into() });
    let heard = world.heard(procmond);
    let GoodbyeReason::NoRing { cause } = goodbye(&heard) else { panic!("{heard:?}") };
    assert_eq!(cause, "the agent's side of a ring can't be had: none");
    world.settle();
    assert!(world.is_connected(agent));
    world.assert_no_paths();
}

#[test]
fn only_a_segment_that_was_asked_for_and_is_not_there_is_awaited() {
    let (mut world, procmond, agent, ring) = forming();
    let awaited = |world: &World| {
        [(procmond, true), (procmond, false), (agent, true), (agent, false)]
            .map(|(session, of_producer)| world.machine.awaits_segment(session, ring, of_producer))
            .map(|awaited| awaited.map(|awaited| (awaited.reader, awaited.ring_bytes)))
    };
    let to = |reader| Some((reader, RING_BYTES));
    assert_eq!(awaited(&world), [to(agent), None, None, to(procmond)], "and who waits for it");
    assert_eq!(world.machine.awaits_segment(procmond, RingId(u64::MAX), true), None);
    world.say_with(procmond, producer_segment(ring), 1);
    assert_eq!(awaited(&world), [None, None, None, to(procmond)]);
    world.settle();
    assert_eq!(awaited(&world), [None; 4]);
}
