//! Access: what is refused, what is narrowed, and what is never routed.

use super::world::{World, answers, fault, refusal};
use crate::access::Denial;
use crate::topic::TopicPattern;
use crate::wire::{Notice, Refusal};

#[test]
fn a_topic_that_a_component_may_not_publish_is_refused_and_nothing_changes() {
    let mut world = World::new();
    let (netmond, agent) = (world.join("netmond"), world.join("agent"));
    world.subscribe(agent, 0, &["#"]);
    world.heard(agent);
    world.declare(netmond, 0, 0, "events.process.batch");
    let heard = world.heard(netmond);
    let Refusal::Access(Denial::NotAPublisher { component, topic, .. }) = refusal(&heard) else {
        panic!("{heard:?}")
    };
    assert_eq!((&**component, &**topic), ("netmond", "events.process.batch"));
    world.declare(netmond, 0, 0, "weather.today");
    let heard = world.heard(netmond);
    assert!(matches!(refusal(&heard), Refusal::Access(Denial::NoRule { .. })), "{heard:?}");
    assert_eq!(world.machine.topic_count(), 0);
    let request = world.declare(netmond, 0, 0, "events.network.batch");
    world.settle();
    assert_eq!(answers(&world.heard(netmond), request), 1, "its numbers were not used up");
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn a_subscription_of_which_nothing_is_left_is_refused() {
    let mut world = World::new();
    let (procmond, tool) = (world.join("procmond"), world.join("tool"));
    world.declare(procmond, 0, 0, "events.process.batch");
    world.heard(procmond);
    world.subscribe(tool, 0, &["events.process.batch", "alerts.#"]);
    let heard = world.heard(tool);
    assert!(matches!(refusal(&heard), Refusal::Access(Denial::NotASubscriber { .. })), "{heard:?}");
    assert_eq!(world.machine.subscription_count(), 0);
    world.subscribe(tool, 0, &["weather.#"]);
    let heard = world.heard(tool);
    assert!(matches!(refusal(&heard), Refusal::Access(Denial::NoRule { .. })), "{heard:?}");
    assert_eq!(world.heard(procmond), []);
    world.assert_no_paths();
}

#[test]
fn a_wide_subscription_is_narrowed_and_says_what_was_withheld() {
    let mut world = World::new();
    let tool = world.join("tool");
    world.subscribe(tool, 0, &["events.process.#"]);
    let heard = world.heard(tool);
    let [Notice::Subscribed { granted, withheld, missed, .. }] = &heard[..] else { panic!("{heard:?}") };
    let granted: Vec<&str> = granted.iter().map(TopicPattern::as_str).collect();
    let withheld: Vec<&str> = withheld.iter().map(|part| part.pattern.as_str()).collect();
    assert_eq!((granted, withheld), (vec!["events.process.anomaly"], vec!["events.process.#"]));
    assert!(missed.is_empty());
}

#[test]
fn no_route_leads_to_who_may_not_receive_though_its_pattern_matches() {
    let mut world = World::new();
    let (procmond, tool) = (world.join("procmond"), world.join("tool"));
    let topics = ["events.process.batch", "events.process.anomaly", "events.process.start"];
    world.declare(procmond, 0, 0, topics[0]);
    world.subscribe(tool, 0, &["#", "events.process.#"]);
    world.declare(procmond, 0, 1, topics[1]);
    world.declare(procmond, 0, 2, topics[2]);
    world.settle();
    let granted: Vec<Notice> =
        world.heard(tool).into_iter().filter(|notice| matches!(notice, Notice::Grant { .. })).collect();
    assert!(
        matches!(&granted[..], [Notice::Grant { topic, .. }] if topic.as_str() == topics[1]),
        "{granted:?}"
    );
    let routes: Vec<u32> = world.machine.routes.keys().map(|key| key.topic_number).collect();
    assert_eq!(routes, [1]);
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn what_belongs_to_one_component_reaches_no_other() {
    let mut world = World::new();
    let (agent, procmond, netmond) = (world.join("agent"), world.join("procmond"), world.join("netmond"));
    for session in [procmond, netmond] {
        world.subscribe(session, 0, &["control.collector.#"]);
    }
    world.declare(agent, 0, 0, "control.collector.config.procmond-7F");
    world.settle();
    let ends: Vec<_> = world.machine.routes.keys().map(|key| key.subscriber).collect();
    assert_eq!(ends, [procmond]);
}

#[test]
fn what_is_not_well_formed_is_refused_and_cut() {
    let mut world = World::new();
    let agent = world.join("agent");
    for text in ["", ".", "events..x", "events.#.x", "Events.x", "a.b.c.d.e", &"x\n".repeat(9000)] {
        world.declare(agent, 0, 0, text);
        world.subscribe(agent, 0, &["events.#", text]);
        let heard = world.heard(agent);
        assert_eq!(heard.len(), 2);
        for notice in heard {
            let Notice::Refused { refusal: Refusal::Malformed { text }, .. } = notice else {
                panic!("{notice:?}")
            };
            assert!(text.len() <= 300 && !text.contains('\n'), "{text:?}");
        }
    }
    assert_eq!(world.machine.subscription_count() + world.machine.topic_count(), 0);
    assert_eq!(world.machine.publishers.len(), 0);
}

#[test]
fn a_topic_number_out_of_turn_is_a_fault() {
    for (publisher, number) in [(0, 0), (0, 2), (1, 1), (0, u32::MAX)] {
        let mut world = World::new();
        let procmond = world.join("procmond");
        world.declare(procmond, 0, 0, "events.process.a");
        world.heard(procmond);
        world.declare(procmond, publisher, number, "events.process.b");
        assert_eq!(fault(&world.heard(procmond)), "a topic number out of turn");
    }
}

#[test]
fn a_topic_that_is_declared_twice_by_one_publisher_is_a_fault() {
    let mut world = World::new();
    let procmond = world.join("procmond");
    world.declare(procmond, 0, 0, "events.process.a");
    world.declare(procmond, 1, 0, "events.process.a");
    assert!(world.is_connected(procmond), "another publisher may");
    world.declare(procmond, 0, 1, "events.process.a");
    assert_eq!(fault(&world.heard(procmond)), "a topic that is declared already");
}

#[test]
fn a_subscription_number_in_use_is_a_fault_and_a_free_one_is_not() {
    let mut world = World::new();
    let agent = world.join("agent");
    world.subscribe(agent, 5, &["events.#"]);
    world.unsubscribe(agent, 5);
    world.unsubscribe(agent, 5);
    world.subscribe(agent, 5, &["events.#"]);
    assert!(world.is_connected(agent));
    world.subscribe(agent, 5, &["alerts.#"]);
    assert_eq!(fault(&world.heard(agent)), "a subscription number that is in use");
}

#[test]
fn a_subscription_to_nothing_is_granted_nothing() {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, "events.process.a");
    let request = world.subscribe(agent, 0, &[]);
    assert_eq!(answers(&world.heard(agent), request), 1);
    world.unsubscribe(agent, 0);
    world.assert_no_paths();
}
