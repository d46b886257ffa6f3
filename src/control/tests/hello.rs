//! Who is let in, and under which name.

use std::time::Duration;

use super::super::{Input, Origin, Report, Right};
use super::world::{
    HELLO_DEADLINE, USER, World, consumer_segment, fault, goodbye, hello_of, names, producer_segment, refusal,
};
use crate::wire::{GoodbyeReason, Hello, Identity, Notice, Refusal, Request, Versions};

#[test]
fn a_client_of_another_version_is_told_both_versions_and_sent_away() {
    let mut world = World::new();
    let session = world.connect(USER);
    let client = Versions { oldest: 3, newest: 9 };
    let hello = Hello { versions: client, ..hello_of("procmond") };
    world.say(session, Request::Hello(Box::new(hello)));
    let heard = world.heard(session);
    assert_eq!(*refusal(&heard), Refusal::Version { broker: Versions::OURS, client });
    assert!(!world.is_connected(session));
    world.join("procmond");
}

#[test]
fn a_version_range_that_is_upside_down_is_refused() {
    let mut world = World::new();
    let session = world.connect(USER);
    let client = Versions { oldest: 9, newest: 1 };
    let hello = Hello { versions: client, ..hello_of("procmond") };
    world.say(session, Request::Hello(Box::new(hello)));
    assert_eq!(*refusal(&world.heard(session)), Refusal::Version { broker: Versions::OURS, client });
}

#[test]
fn what_is_no_name_is_refused_and_cut_and_reported_on_one_line() {
    let mut world = World::new();
    let session = world.connect(USER);
    let forged = format!("x\n2026-01-01 ERROR forged \u{1b}[31m{}", "\u{e9}".repeat(500));
    world.hello(session, &forged);
    let heard = world.heard(session);
    let Refusal::BadName { client_id } = refusal(&heard) else { panic!("{heard:?}") };
    assert!(client_id.len() <= 64 && !client_id.contains(char::is_control), "{client_id:?}");
    assert!(!world.is_connected(session));
    let [Report::Refused { what, .. }] = &world.reports[..] else { panic!("{:?}", world.reports) };
    assert!(!what.contains(char::is_control), "{what:?}");
}

#[test]
fn a_name_is_taken_until_its_session_ends() {
    let mut world = World::new();
    let first = world.join("procmond-1");
    let second = world.connect(USER);
    world.hello(second, "procmond-2");
    let taken = Refusal::NameTaken { component: "procmond".into() };
    assert_eq!(*refusal(&world.heard(second)), taken);
    assert!(!world.is_connected(second) && world.is_connected(first));
    world.end(second);
    assert_eq!(world.machine.holder_of("procmond-9"), Some(first), "the refused one took nothing with it");
    world.end(first);
    world.join("procmond-2");
}

#[test]
fn the_agent_is_in_the_brokers_process_and_nowhere_else() {
    let mut world = World::new();
    for impostor in ["agent", "agent-7"] {
        let session = world.connect(USER);
        world.hello(session, impostor);
        let taken = Refusal::NameTaken { component: "agent".into() };
        assert_eq!(*refusal(&world.heard(session)), taken);
    }
    let embedded = world.connect(Origin::Embedded);
    world.hello(embedded, "agent");
    assert_eq!(names(&world.heard(embedded)), ["welcome"]);
}

#[test]
fn a_second_hello_is_a_fault() {
    let mut world = World::new();
    let session = world.join("procmond");
    world.hello(session, "netmond");
    assert_eq!(fault(&world.heard(session)), "a second hello");
    assert!(!world.is_connected(session));
    world.join("netmond");
    world.join("procmond");
}

#[test]
fn anything_before_the_hello_is_a_fault() {
    let ring = crate::wire::RingId(1);
    let requests = [
        Request::Declare { request: 1, publisher: 0, topic_number: 0, topic: "events.process.a".into() },
        Request::ClosePublisher { publisher: 0 },
        Request::Subscribe { request: 1, subscription: 0, patterns: vec!["#".into()], ring_bytes: None },
        Request::Unsubscribe { subscription: 0 },
        producer_segment(ring),
        consumer_segment(ring),
        Request::Done { order: crate::wire::OrderId(1) },
        Request::NoRing { ring, cause: String::new() },
        Request::Poisoned { ring, violation: String::new() },
    ];
    let mut world = World::new();
    for request in requests {
        let session = world.connect(USER);
        world.say_with(session, request.clone(), 0);
        assert_eq!(fault(&world.heard(session)), "the first message is a hello", "{request:?}");
        assert!(!world.is_connected(session));
    }
}

#[test]
fn who_says_no_hello_goes_at_the_deadline_and_not_before() {
    let mut world = World::new();
    let mute = world.connect(USER);
    let polite = world.join("procmond");
    assert_eq!(world.machine.next_deadline(), Some(world.now + HELLO_DEADLINE));
    world.wait(HELLO_DEADLINE - Duration::from_nanos(1));
    assert!(world.is_connected(mute));
    world.wait(Duration::from_nanos(1));
    assert_eq!(*goodbye(&world.heard(mute)), GoodbyeReason::HelloDeadline);
    assert!(!world.is_connected(mute) && world.is_connected(polite));
    assert_eq!(world.machine.next_deadline(), None, "an idle broker has nothing to wake up for");
}

#[test]
fn frames_of_a_session_that_is_gone_change_nothing() {
    let mut world = World::new();
    let session = world.join("procmond");
    world.end(session);
    world.hello(session, "procmond");
    world.declare(session, 0, 0, "events.process.a");
    let reason = GoodbyeReason::RouteDeadline;
    world.feed(Input::Faulty { session, reason });
    world.end(session);
    assert_eq!(world.heard(session), []);
    assert_eq!(world.machine.components().count(), 0);
}

#[test]
fn a_shutdown_tells_everyone_and_leaves_nothing() {
    let mut world = World::new();
    let (procmond, agent, half) = (world.join("procmond"), world.join("agent"), world.connect(USER));
    world.subscribe(agent, 0, &["events.#"]);
    world.declare(procmond, 0, 0, "events.process.a");
    world.obey_one(agent);
    world.feed(Input::Shutdown);
    for session in [procmond, agent, half] {
        assert_eq!(*goodbye(&world.heard(session)), GoodbyeReason::Shutdown);
        assert!(!world.is_connected(session));
    }
    world.assert_no_paths();
    assert_eq!(world.machine.next_deadline(), None);
}

#[test]
fn comings_and_goings_are_reported() {
    let mut world = World::new();
    let session = world.join("procmond-1");
    world.end(session);
    let component = crate::access::Component::from_client_id("procmond").expect("a legal id");
    let left = Report::Left { component: component.clone(), reason: None };
    let (right, what) = (Right::Connect, "weak identity".into());
    let granted = Report::Granted { session, component: component.clone(), right, what, withheld: 0 };
    assert_eq!(
        world.reports,
        [granted, Report::Joined { session, component, identity: Identity::Weak }, left]
    );
}

#[test]
fn a_welcome_says_what_the_client_needs() {
    let mut world = World::new();
    let session = world.connect(USER);
    world.hello(session, "procmond-7F");
    let heard = world.heard(session);
    let [Notice::Welcome(welcome)] = &heard[..] else { panic!("{heard:?}") };
    let facts = (welcome.version, &*welcome.component, welcome.epoch.0, welcome.ring_bytes);
    assert_eq!(facts, (2, "procmond", 7, 1 << 20));
}
