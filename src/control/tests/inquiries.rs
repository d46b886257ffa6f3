//! Inquiries: what clients say that they have counted, and what the broker makes of it.

use std::time::Duration;

use super::super::{Asker, Input, Origin, Pace, SessionId};
use super::world::{USER, World, fault, hello_of, refusal};
use crate::config::{CLAIMS_MAX, STATISTICS_BYTES_MAX, TELL_DEADLINE, TELL_PAUSE};
use crate::wire::codec::encode;
use crate::wire::{
    Answer, Claims, Fact, Latencies, Notice, Payer, ReceivedClaim, Refusal, Request, Resource, RingClaim,
    RingPath, RingState, RouteClaim, SubscriptionClaim, TopicClaim, TotalClaim, Versions,
};

const STRANGER: Origin = Origin::Remote { uid: 7 };

fn ask(world: &mut World, session: SessionId, request: u32) {
    world.say(session, Request::Statistics { request });
}

fn tell(world: &mut World, session: SessionId, claims: Claims) {
    world.say(session, Request::Told { claims: Box::new(claims) });
}

fn tells(notices: &[Notice]) -> usize {
    notices.iter().filter(|notice| matches!(notice, Notice::Tell)).count()
}

/// The facts of an answer, which must have come.
fn facts(notices: &[Notice]) -> Vec<Fact> {
    let parts = notices.iter().filter_map(|notice| match notice {
        Notice::Statistics { facts, more, .. } => Some((facts.clone(), *more)),
        _ => None,
    });
    let (parts, more): (Vec<Vec<Fact>>, Vec<bool>) = parts.unzip();
    assert_eq!(more.iter().filter(|more| !**more).count(), 1, "one part is the last");
    assert_eq!(more.last(), Some(&false));
    parts.concat()
}

fn answer_of(facts: &[Fact], of: SessionId) -> Answer {
    let answer = facts.iter().find_map(|fact| match fact {
        Fact::Session { session, answer, .. } if *session == of.0 => Some(*answer),
        _ => None,
    });
    answer.expect("it is told of")
}

#[test]
fn who_asks_is_answered_when_all_have_and_with_what_they_said() {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.subscribe(agent, 4, &["events.process.#", "no.row"]);
    world.declare(procmond, 2, 0, "events.process.a");
    world.settle();
    let ring = world.only_ring();
    world.heard(procmond);
    world.heard(agent);
    ask(&mut world, procmond, 9);
    assert_eq!((tells(&world.heard(agent)), tells(&world.heard(procmond))), (1, 1));
    let latencies = Latencies { events: 14, max_nanos: 15, ..Latencies::default() };
    let received = ReceivedClaim { events: 1, skipped: 2, bytes_waiting: 3, bytes_waiting_max: 4, latencies };
    let subscription = SubscriptionClaim { received: 5, lost_in_ring: 6, lost_in_queue: 7, filtered: 17 };
    let (subscriptions, route) = (vec![(4, subscription)], RouteClaim { received: 19 });
    let routes = vec![(ring.0, 0, route)];
    tell(&mut world, agent, Claims { received, subscriptions, routes, ..Claims::default() });
    assert!(world.heard(procmond).is_empty(), "it has to answer itself");
    let topic = TopicClaim { events: 8, reached: 9, dropped: 10, ..Default::default() };
    let ring_claim = RingClaim { events: 11, dropped: 12, too_large: 18, bytes: 13, bytes_waiting: 16 };
    let (topics, rings) = (vec![(2, 0, topic)], vec![(ring.0, ring_claim)]);
    tell(&mut world, procmond, Claims { topics, rings, ..Claims::default() });
    let facts = facts(&world.heard(procmond));
    assert_eq!((answer_of(&facts, procmond), answer_of(&facts, agent)), (Answer::Told, Answer::Told));
    let has = |fact: &dyn Fn(&Fact) -> bool| assert!(facts.iter().any(fact), "{facts:#?}");
    has(&|fact| matches!(fact, Fact::Session { received: Some(claim), .. } if *claim == received));
    has(&|fact| matches!(fact, Fact::Subscription { claim: Some(claim), .. } if *claim == subscription));
    has(&|fact| matches!(fact, Fact::Topic { claim: Some(claim), .. } if *claim == topic));
    has(
        &|fact| matches!(fact, Fact::Ring { claim: Some(claim), state: RingState::Ready, routes: 1, .. } if *claim == ring_claim),
    );
    has(&|fact| matches!(fact, Fact::Ring { path: RingPath::Memory, withheld: 0, .. }));
    has(&|fact| {
        matches!(fact, Fact::Route { topic, active: true, claim: Some(claim) }
            if topic.as_str() == "events.process.a" && *claim == route)
    });
    has(
        &|fact| matches!(fact, Fact::Pattern { pattern, withheld: true, .. } if pattern.as_str() == "no.row"),
    );
    let (payer, resource) = (Some(Payer::Agent), Resource::Subscriptions);
    assert!(facts.contains(&Fact::Share { payer, resource, in_use: 1, limit: None }));
}

#[test]
fn a_mute_client_delays_the_first_answer_until_its_deadline_and_the_next_not_at_all() {
    let mut world = World::new();
    let (mute, asker) = (world.join("procmond"), world.join("tool"));
    ask(&mut world, asker, 1);
    world.settle_without(&[mute]);
    world.wait(TELL_DEADLINE - Duration::from_millis(1));
    assert_eq!(world.heard(asker), [Notice::Tell]);
    world.wait(Duration::from_millis(1));
    let first = facts(&world.heard(asker));
    assert_eq!((answer_of(&first, mute), answer_of(&first, asker)), (Answer::NotAnswering, Answer::Told));
    for request in 2..20 {
        world.wait(TELL_PAUSE);
        ask(&mut world, asker, request);
        world.settle_without(&[mute]);
        assert_eq!(answer_of(&facts(&world.heard(asker)), mute), Answer::NotAnswering);
    }
    assert_eq!(tells(&world.heard(mute)), 1, "what waits for it does not grow");
    // What it says late is taken, and it is asked again.
    tell(&mut world, mute, Claims::default());
    world.wait(TELL_PAUSE);
    ask(&mut world, asker, 99);
    world.settle();
    assert_eq!(answer_of(&facts(&world.heard(asker)), mute), Answer::Told);
}

#[test]
fn who_asks_at_once_share_an_inquiry_and_who_asks_too_soon_waits_for_the_next() {
    let mut world = World::new();
    let (one, two) = (world.join("tool"), world.join("detector"));
    ask(&mut world, one, 1);
    ask(&mut world, two, 1);
    world.feed(Input::Inquire { number: 5 });
    ask(&mut world, one, 2);
    let busy = Refusal::TooMany { what: "inquiries of this session".into(), limit: 1 };
    assert_eq!(*refusal(&world.heard(one)), busy);
    tell(&mut world, one, Claims::default());
    world.settle();
    let [(askers, _)] = &world.told[..] else { panic!("one inquiry: {:?}", world.told) };
    let session = |session| Asker::Session { session, request: 1 };
    assert_eq!(*askers, [session(one), session(two), Asker::Own(5)]);
    assert_eq!(facts(&world.heard(one)), facts(&world.heard(two)));
    ask(&mut world, one, 3);
    assert!(world.heard(one).is_empty(), "it waits");
    assert_eq!(world.machine.next_deadline(), Some(world.now + TELL_PAUSE));
    world.wait(TELL_PAUSE);
    world.settle();
    assert_eq!(world.told.len(), 2);
    assert!(!facts(&world.heard(one)).is_empty());
}

#[test]
fn an_inquiry_is_over_when_the_last_that_is_awaited_has_gone_and_nobody_that_has_gone_is_answered() {
    let mut world = World::new();
    let (mute, asker, other) = (world.join("procmond"), world.join("tool"), world.join("detector"));
    ask(&mut world, asker, 1);
    ask(&mut world, other, 1);
    world.settle_without(&[mute]);
    world.end(other);
    world.end(mute);
    assert!(!facts(&world.heard(asker)).is_empty());
    world.wait(TELL_PAUSE);
    ask(&mut world, asker, 2);
    world.end(asker);
    assert_eq!(world.machine.next_deadline(), None, "nobody wants to know any more");
}

#[test]
fn what_all_clients_do_is_for_the_users_of_the_broker_and_root_alone() {
    let mut world = World::new();
    let stranger = world.join_from(STRANGER, "tool");
    ask(&mut world, stranger, 1);
    assert_eq!(*refusal(&world.heard(stranger)), Refusal::NotAnOperator { uid: 7 });
    assert!(world.told.is_empty());
    for origin in [USER, Origin::Remote { uid: 0 }, Origin::Embedded] {
        let asker = world.join_from(origin, "operator");
        ask(&mut world, asker, 1);
        world.settle();
        assert!(!facts(&world.heard(asker)).is_empty(), "{origin:?}");
        world.end(asker);
        world.wait(TELL_PAUSE);
    }
}

#[test]
fn claims_that_nobody_asked_for_and_more_than_there_may_be_are_breaches() {
    let mut world = World::new();
    let (hasty, verbose, asker) = (world.join("procmond"), world.join("netmond"), world.join("tool"));
    tell(&mut world, hasty, Claims::default());
    assert_eq!(fault(&world.heard(hasty)), "an answer that nobody has asked for");
    ask(&mut world, asker, 1);
    let rings = vec![(1, RingClaim::default()); CLAIMS_MAX + 1];
    tell(&mut world, verbose, Claims { rings, ..Claims::default() });
    assert_eq!(fault(&world.heard(verbose)), "more claims than a client may make");
}

#[test]
fn what_a_client_says_of_what_it_does_not_have_is_not_kept() {
    let mut world = World::new();
    let (procmond, liar, asker) = (world.join("procmond"), world.join("agent"), world.join("tool"));
    world.subscribe(liar, 1, &["events.process.#"]);
    world.declare(procmond, 0, 0, "events.process.a");
    world.settle();
    let ring = world.only_ring();
    ask(&mut world, asker, 1);
    let claims = Claims {
        totals: TotalClaim::default(),
        received: ReceivedClaim::default(),
        topics: vec![(0, 0, TopicClaim::default()); CLAIMS_MAX],
        rings: vec![(ring.0, RingClaim::default()); CLAIMS_MAX],
        subscriptions: vec![(2, SubscriptionClaim::default()); CLAIMS_MAX],
        routes: (0..CLAIMS_MAX as u16).map(|number| (ring.0, number / 2, RouteClaim::default())).collect(),
    };
    tell(&mut world, liar, claims.clone());
    let kept = |world: &World, session| {
        let inquiry = world.machine.inquiries.current.as_ref().expect("it is under way");
        inquiry.claims[&session].clone()
    };
    let heard = Claims { routes: vec![(ring.0, 0, RouteClaim::default())], ..Claims::default() };
    assert_eq!(kept(&world, liar), heard, "another's ring, and numbers that it does not have");
    tell(&mut world, procmond, claims);
    let own = kept(&world, procmond);
    assert_eq!((own.topics.len(), own.rings.len(), own.subscriptions.len()), (1, 1, 0), "one about each");
    assert!(own.routes.is_empty(), "it does not hear itself");
}

#[test]
fn a_client_of_an_older_version_is_not_asked() {
    let mut world = World::new();
    let (old, asker) = (world.connect(USER), world.join("tool"));
    let mut hello = hello_of("procmond");
    hello.versions = Versions { oldest: 1, newest: 1 };
    world.say(old, Request::Hello(Box::new(hello)));
    ask(&mut world, asker, 1);
    world.settle();
    assert_eq!(tells(&world.heard(old)), 0);
    assert_eq!(answer_of(&facts(&world.heard(asker)), old), Answer::Unable);
}

#[test]
fn what_an_older_version_does_not_have_is_a_breach_there() {
    let mut world = World::new();
    let old = world.connect(USER);
    let mut hello = hello_of("procmond");
    hello.versions = Versions { oldest: 1, newest: 1 };
    world.say(old, Request::Hello(Box::new(hello)));
    world.heard(old);
    ask(&mut world, old, 1);
    assert_eq!(fault(&world.heard(old)), "a request of a later version");
}

#[test]
fn who_comes_while_an_inquiry_is_under_way_is_asked_too_and_does_not_prolong_it() {
    let mut world = World::new();
    let (mute, asker) = (world.join("procmond"), world.join("tool"));
    ask(&mut world, asker, 1);
    tell(&mut world, asker, Claims::default());
    world.wait(TELL_DEADLINE - Duration::from_millis(1));
    let [late, later] = ["detector", "exporter"].map(|component| {
        let session = world.connect(USER);
        world.say(session, Request::Hello(Box::new(hello_of(component))));
        assert!(matches!(world.heard(session)[..], [Notice::Welcome(_), Notice::Tell]), "{component}");
        session
    });
    tell(&mut world, late, Claims::default());
    world.wait(Duration::from_millis(1));
    let facts = facts(&world.heard(asker));
    let answers = [mute, late, later].map(|session| answer_of(&facts, session));
    assert_eq!(answers, [Answer::NotAnswering, Answer::Told, Answer::NotAnswering]);
}

#[test]
fn an_answer_is_bounded_and_who_has_much_leaves_room_for_the_others() {
    let mut world = World::new();
    world.checks = false;
    let (large, small) = (world.join("agent"), world.join("tool"));
    let long = "x".repeat(60);
    for subscription in 0..4000 {
        world.subscribe(large, subscription, &[&format!("events.process.{long}.n{subscription}")]);
    }
    world.subscribe(small, 1, &["events.process.anomaly"]);
    world.settle();
    world.heard(large);
    world.heard(small);
    ask(&mut world, small, 1);
    world.settle();
    let facts = facts(&world.heard(small));
    let bytes: usize = facts.iter().map(|fact| encode(fact).len()).sum();
    assert!((STATISTICS_BYTES_MAX / 2..STATISTICS_BYTES_MAX + 16).contains(&bytes), "{bytes} bytes");
    assert!(
        facts.iter().any(|fact| matches!(fact, Fact::Subscription { session, .. } if *session == small.0))
    );
    assert!(matches!(facts.last(), Some(Fact::Omitted { facts }) if *facts > 1000), "{:?}", facts.last());
}

#[test]
fn to_ask_costs_as_much_as_it_has_others_do() {
    let (each, ahead, pause) =
        (Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(50));
    let mut world = World::with_settings(|settings| settings.pace = Pace { each, ahead, pause });
    let asker = world.join("tool");
    for number in 0..9 {
        world.join_from(STRANGER, &format!("c{number}"));
    }
    let cost = |world: &mut World, request| {
        let request = Request::Statistics { request };
        let input = Input::Frame { session: asker, request, descriptor: None };
        let actions = world.machine.handle(world.now, input);
        actions.iter().any(|action| matches!(action, super::super::Action::Pause { .. }))
    };
    world.wait(Duration::from_secs(9));
    assert_eq!([cost(&mut world, 1), cost(&mut world, 2)], [false, true], "ten requests each");
}
