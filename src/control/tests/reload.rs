//! Another policy while the broker runs: what is revoked, in which order, and what is granted to whom without being asked.

use super::super::{Origin, PolicyChange, Report, Right};
use super::world::{RING_BYTES, ROUTE_DEADLINE, World, goodbye, names};
use crate::access::AccessPolicy;
use crate::wire::{GoodbyeReason, Notice, Refusal};

fn policy(rows: &[(&str, &str, &str)]) -> AccessPolicy {
    let rows = rows.iter().map(|(topics, publishers, subscribers)| {
        let level = if *subscribers == "'anyone'" { "public" } else { "restricted" };
        format!(
            "[[row]]\ntopics = '{topics}'\nlevel = '{level}'\npublishers = [{publishers}]\n\
             subscribers = [{subscribers}]\n"
        )
    });
    let text = format!("defaults = true\n{}", rows.collect::<String>());
    AccessPolicy::from_toml(&text).expect("a legal table")
}

fn change(revoked: u64, granted: u64) -> PolicyChange {
    PolicyChange { revoked, granted }
}

#[test]
fn a_subscriber_loses_what_it_may_no_longer_have_and_the_publisher_lets_go_first() {
    let mut world = World::new();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.subscribe(detector, 0, &["events.#"]);
    for (number, topic) in (0..).zip(["events.process.batch", "events.process.anomaly"]) {
        world.declare(procmond, 0, number, topic);
    }
    world.settle();
    world.heard(procmond);
    world.heard(detector);
    let number = world.reload(&policy(&[("events.process.batch", "'procmond'", "'agent'")]));
    assert!(world.reloaded.is_empty(), "the publisher has not let go yet");
    assert_eq!(names(&world.heard(detector)), [""; 0]);
    world.settle_without(&[procmond]);
    let same = world.reload(&policy(&[("events.process.batch", "'procmond'", "'agent'")]));
    assert!(world.reloaded.is_empty(), "it says the same, and that is not so yet");
    world.wait(ROUTE_DEADLINE);
    assert_eq!(world.reloaded.get(&number), Some(&change(1, 0)));
    assert_eq!(world.reloaded.get(&same), Some(&change(0, 0)));
    assert_eq!(goodbye(&world.heard(procmond)), &GoodbyeReason::RouteDeadline, "who keeps it is sent away");
}

#[test]
fn what_is_revoked_is_granted_again_under_a_new_generation() {
    let mut world = World::new();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.subscribe(detector, 0, &["events.process.#"]);
    world.declare(procmond, 0, 0, "events.process.batch");
    world.settle();
    world.heard(procmond);
    world.heard(detector);

    let number = world.reload(&policy(&[("events.process.batch", "'procmond'", "'agent'")]));
    world.settle();
    assert_eq!(world.reloaded[&number], change(1, 0));
    assert_eq!(names(&world.heard(procmond)), ["unroute"]);
    assert_eq!(names(&world.heard(detector)), ["revoke"]);
    super::super::invariants::check_at_rest(&world.machine);

    let number = world.reload(&AccessPolicy::default());
    world.settle();
    assert_eq!(world.reloaded[&number], change(0, 1));
    let heard = world.heard(detector);
    assert!(matches!(heard[..], [Notice::Grant { slot: 0, generation: 1, .. }]), "{heard:?}");
    assert_eq!(names(&world.heard(procmond)), ["route"]);
}

#[test]
fn a_topic_that_may_no_longer_be_published_leads_nowhere_and_can_not_be_declared() {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.subscribe(agent, 0, &["#"]);
    world.declare(procmond, 0, 0, "events.process.batch");
    world.settle();
    world.heard(procmond);
    let number = world.reload(&policy(&[("events.process.#", "'agent'", "'agent'")]));
    world.settle();
    assert_eq!(world.reloaded[&number], change(1, 0));
    assert!(world.machine.routes.is_empty());
    world.heard(procmond);
    world.declare(procmond, 1, 0, "events.process.start");
    let heard = world.heard(procmond);
    assert!(matches!(heard[..], [Notice::Refused { refusal: Refusal::Access(_), .. }]), "{heard:?}");
    // Nor does it reach who subscribes from now on.
    let detector = world.join("detector");
    world.subscribe(detector, 0, &["events.#"]);
    world.settle();
    assert_eq!(world.machine.routes.len(), 0);
    // The number of the topic was not used up, and there may be others.
    world.declare(procmond, 0, 1, "control.health.status");
    let number = world.reload(&AccessPolicy::default());
    world.settle();
    assert_eq!(world.reloaded[&number], change(0, 2), "to the agent and the detector");
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn a_subscription_gets_what_newly_holds_without_asking_again() {
    let mut world = World::new();
    let (procmond, tool) = (world.join("procmond"), world.join("tool"));
    world.subscribe(tool, 0, &["events.process.#"]);
    world.declare(procmond, 0, 0, "events.process.batch");
    world.settle();
    assert!(world.machine.rings.is_empty());
    let number = world.reload(&policy(&[("events.process.#", "'procmond'", "'anyone'")]));
    assert!(world.reloaded.is_empty(), "the ring is not there yet");
    world.settle();
    assert_eq!(world.reloaded[&number], change(0, 1));
    super::super::invariants::check_at_rest(&world.machine);
}

#[test]
fn a_subscriber_without_share_for_a_new_ring_goes_and_never_the_agent() {
    let ring = RING_BYTES + (8 << 10);
    let mut world = World::with_budget(2 * ring, ring - 1);
    let (procmond, tool) = (world.join("procmond"), world.join("tool"));
    world.subscribe(tool, 0, &["events.process.#"]);
    world.declare(procmond, 0, 0, "events.process.batch");
    world.settle();
    let number = world.reload(&policy(&[("events.process.#", "'procmond'", "'anyone'")]));
    assert_eq!(world.reloaded[&number], change(0, 0));
    assert!(matches!(goodbye(&world.heard(tool)), GoodbyeReason::Refused { .. }));
    assert!(world.is_connected(procmond));

    let mut world = World::with_budget(ring - 1, ring - 1);
    world.reload(&policy(&[("events.#", "'procmond'", "")]));
    let procmond = world.join_from(Origin::Remote { uid: 7 }, "procmond");
    let agent = world.join("agent");
    world.subscribe(agent, 0, &["events.process.#", "alerts.#"]);
    world.declare(procmond, 0, 0, "events.process.batch");
    world.settle();
    world.reload(&AccessPolicy::default());
    assert!(world.is_connected(agent) && !world.is_connected(procmond));
}

#[test]
fn what_a_reload_takes_and_gives_is_reported_once_for_each_component_and_topic() {
    let mut world = World::new();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    for subscription in 0..2 {
        world.subscribe(detector, subscription, &["events.#"]);
    }
    for publisher in 0..2 {
        world.declare(procmond, publisher, 0, "events.process.batch");
    }
    world.settle();
    world.reports.clear();
    let said = |world: &mut World| {
        let reports = world.reports.drain(..).map(|report| match report {
            Report::Revoked { component, right, what, .. } => (false, component.to_string(), right, what),
            Report::Granted { component, right, what, .. } => (true, component.to_string(), right, what),
            other => panic!("{other:?}"),
        });
        reports.collect::<Vec<_>>()
    };
    let what = || "events.process.batch".to_owned();
    world.reload(&policy(&[("events.process.#", "'agent'", "'agent'")]));
    let procmonds = |granted| (granted, "procmond".to_owned(), Right::Publish, what());
    let detectors = |granted| (granted, "detector".to_owned(), Right::Subscribe, what());
    assert_eq!(said(&mut world), [procmonds(false), detectors(false)]);
    world.settle();
    world.reload(&AccessPolicy::default());
    assert_eq!(said(&mut world), [procmonds(true), detectors(true)]);
}

#[test]
fn a_route_that_its_subscriber_has_let_go_of_is_waited_for_if_it_no_longer_holds() {
    let mut world = World::new();
    let (procmond, detector) = (world.join("procmond"), world.join("detector"));
    world.subscribe(detector, 0, &["events.process.#"]);
    world.declare(procmond, 0, 0, "events.process.batch");
    world.settle();
    world.unsubscribe(detector, 0);
    let number = world.reload(&policy(&[("events.process.batch", "'procmond'", "'agent'")]));
    assert!(world.reloaded.is_empty(), "the publisher uses it still");
    world.settle();
    assert_eq!(world.reloaded[&number], change(0, 0));
}
