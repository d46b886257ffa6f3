//! What is true of a machine between any two inputs, whatever its peers send.
//!
//! 1. A name belongs to one live session, and a session that has said hello has its name.
//! 2. Publishers and sessions know each other.
//! 3. A ring joins a publisher and a session of another process, both live; each pair has one at most.
//! 4. A route joins a declared topic of a live publisher and a live session; it is wanted exactly if a subscription of that
//!    session matches it, the session may receive it, and the publisher may publish it.
//! 5. Who is permitted and subscribed has a route, unless the pair was poisoned.
//! 6. A route has a target from its grant on, exactly if its session is not its publisher's; the target is the current
//!    generation of a slot for its topic, on a ring that is ready. No two routes share a slot.
//! 7. A route that grants, routes or unroutes has one order out, for the session whose turn it is; others have none.
//! 8. A wait is a live session's, for at least one route, and none of them active.
//! 9. The trie finds exactly the subscriptions of the sessions.
//! 10. What waits for a peer is due at some time.
//! 11. A reload waits for routes alone that are on their way, or on their way out.
//! 12. A ring has a size that can be, and is charged to one of the two sessions at its ends. What is charged is what the rings
//!     take that live, and within the budget.

use std::collections::{BTreeMap, BTreeSet};

use super::super::routes::{Phase, RouteKey, Stage};
use super::super::sessions::Interest;
use super::super::{Machine, Payer, SessionId, Settings};
use crate::config::is_ring_size;

pub(super) fn check(machine: &Machine<u32>) {
    names(machine);
    rings(machine);
    charges(machine);
    routes(machine);
    for (key, route) in &machine.routes {
        phase(machine, *key, route.phase);
    }
    for wait in machine.waits.values() {
        assert!(machine.sessions.contains_key(&wait.session), "8: {wait:?}");
        assert!(!wait.awaiting.is_empty(), "8: {wait:?}");
        let waits = |key| machine.routes.get(key).is_some_and(|route| route.phase != Phase::Active);
        assert!(wait.awaiting.iter().all(waits), "8: {wait:?}");
    }
    for reload in machine.reloads.values() {
        let moves = |key| machine.routes.get(key).is_some_and(|it| it.phase != Phase::Active || !it.wanted);
        assert!(!reload.awaiting.is_empty() && reload.awaiting.iter().all(moves), "11: {reload:?}");
    }
    let waits_for_peers = !machine.orders.is_empty() || !machine.waits.is_empty();
    assert!(!waits_for_peers || machine.next_deadline().is_some(), "10");
    assert!(machine.spent.is_empty(), "sessions that are to go have gone");
}

/// All that was asked for is there, if each client has done what it was told.
pub(super) fn check_at_rest(machine: &Machine<u32>) {
    assert!(machine.orders.is_empty() && machine.waits.is_empty(), "somebody has not answered");
    for (key, route) in &machine.routes {
        assert!(route.phase == Phase::Active && route.wanted, "{key:?} {route:?}");
    }
}

fn names(machine: &Machine<u32>) {
    for (name, session) in &machine.names {
        assert_eq!(machine.sessions[session].component.as_ref(), Some(name), "1");
    }
    for (id, session) in &machine.sessions {
        match &session.component {
            Some(name) => assert_eq!(machine.names.get(name), Some(id), "1"),
            None => {
                assert!(
                    session.subscriptions.is_empty() && session.publishers.is_empty(),
                    "1: before a hello"
                );
            }
        }
        for (number, publisher) in &session.publishers {
            let publisher = &machine.publishers[publisher];
            assert_eq!((publisher.session, publisher.number), (*id, *number), "2");
        }
    }
    for (id, publisher) in &machine.publishers {
        assert_eq!(machine.sessions[&publisher.session].publishers[&publisher.number], *id, "2");
    }
}

fn rings(machine: &Machine<u32>) {
    let mut pairs = BTreeSet::new();
    for (id, ring) in &machine.rings {
        assert_eq!(ring.id, *id, "3");
        assert!(machine.sessions.contains_key(&ring.subscriber), "3: {ring:?}");
        assert_ne!(machine.publishers[&ring.publisher].session, ring.subscriber, "3: {ring:?}");
        assert!(pairs.insert((ring.publisher, ring.subscriber)), "3: a second ring for one pair");
    }
}

fn charges(machine: &Machine<u32>) {
    let mut expected = BTreeMap::new();
    for ring in machine.rings.values() {
        assert!(is_ring_size(ring.bytes), "12: {ring:?}");
        let ends = [machine.publishers[&ring.publisher].session, ring.subscriber];
        assert!(ends.iter().any(|end| machine.payer(*end) == ring.payer), "12: {ring:?}");
        if !matches!(ring.stage, Stage::Poisoned) {
            let (rings, bytes) = expected.entry(ring.payer).or_insert((0, 0));
            *rings += 1;
            // Its header, the consumer's segment, and its data.
            *bytes += 4096 + 4096 + ring.bytes;
        }
    }
    let found = machine.ring_charges().into_iter();
    let found: BTreeMap<_, _> = found.map(|charge| (charge.payer, (charge.rings, charge.bytes))).collect();
    assert_eq!(found, expected, "12");
    let Settings { ring_budget_bytes, ring_budget_per_uid, .. } = machine.settings;
    let total: u64 = expected.values().map(|(_, bytes)| bytes).sum();
    assert!(total <= ring_budget_bytes, "12: {total} of {ring_budget_bytes}");
    let of_users = expected.iter().filter(|(payer, _)| **payer != Payer::Agent);
    for (payer, (_, bytes)) in of_users {
        assert!(*bytes <= ring_budget_per_uid, "12: {payer:?} has {bytes} of {ring_budget_per_uid}");
    }
}

fn routes(machine: &Machine<u32>) {
    let poisoned = |key: RouteKey| {
        let mut rings = machine.rings.values();
        rings.any(|ring| {
            (ring.publisher, ring.subscriber) == (key.publisher, key.subscriber)
                && matches!(ring.stage, Stage::Poisoned)
        })
    };
    let mut expected = BTreeSet::new();
    for (id, publisher) in &machine.publishers {
        let name = machine.sessions[&publisher.session].component.as_ref().expect("2: it has said hello");
        for (topic_number, topic) in (0..).zip(&publisher.topics) {
            let mut interests = BTreeSet::new();
            let published = machine.settings.policy.may_publish(name, topic).is_ok();
            for (session, state) in &machine.sessions {
                let matching = state.subscriptions.iter();
                let matching = matching.filter(|(_, state)| state.patterns.iter().any(|p| p.matches(topic)));
                let matching: Vec<Interest> =
                    matching.map(|(n, _)| Interest { session: *session, subscription: *n }).collect();
                let key = RouteKey { publisher: *id, subscriber: *session, topic_number };
                let permitted = state
                    .component
                    .as_ref()
                    .is_some_and(|name| machine.settings.policy.may_subscribe(name, topic).is_ok());
                if !matching.is_empty() && permitted && published && !poisoned(key) {
                    expected.insert(key);
                }
                interests.extend(matching);
            }
            let found: BTreeSet<Interest> = machine.interests.matching(topic).into_iter().collect();
            assert_eq!(found, interests, "9: {topic}");
        }
    }
    for (key, route) in &machine.routes {
        assert_eq!(route.wanted, expected.contains(key), "4: {key:?} {route:?}");
        assert!(machine.sessions.contains_key(&key.subscriber), "4: {key:?}");
        let topics = &machine.publishers[&key.publisher].topics;
        assert!(topics.len() > key.topic_number as usize, "4: {key:?}");
    }
    for key in expected {
        assert!(machine.routes.contains_key(&key), "5: {key:?} has no route");
    }
    let targets = machine.routes.values().filter_map(|route| route.target);
    let mut slots = BTreeSet::new();
    for target in targets {
        assert!(slots.insert((target.ring, target.slot)), "6: {target:?} is used twice");
    }
}

fn phase(machine: &Machine<u32>, key: RouteKey, phase: Phase) {
    let publisher = machine.publishers[&key.publisher].session;
    let target = machine.routes[&key].target;
    let ring = machine
        .rings
        .values()
        .find(|ring| (ring.publisher, ring.subscriber) == (key.publisher, key.subscriber));
    if publisher == key.subscriber {
        assert!(target.is_none() && ring.is_none(), "6: {key:?}");
        assert!(!matches!(phase, Phase::NeedsRing | Phase::Granting), "6: {key:?} {phase:?}");
    } else if phase == Phase::NeedsRing {
        assert_eq!(target, None, "6: {key:?}");
        let forms = ring.is_some_and(|ring| matches!(ring.stage, Stage::NeedsSegments { .. }));
        assert!(forms, "6: {key:?} {ring:?}");
    } else {
        let target = target.unwrap_or_else(|| panic!("6: {key:?} {phase:?} has no target"));
        let ring = ring.unwrap_or_else(|| panic!("6: {key:?} {phase:?} has no ring"));
        let slot = &ring.slots[usize::from(target.slot)];
        assert!(matches!(ring.stage, Stage::Ready), "6: {ring:?}");
        let current = (ring.id, key.topic_number, slot.generation);
        assert_eq!(current, (target.ring, slot.topic_number, target.generation), "6: {key:?}");
    }
    let turn = match phase {
        Phase::NeedsRing | Phase::Active => None,
        Phase::Granting => Some(key.subscriber),
        Phase::Routing | Phase::Unrouting => Some(publisher),
    };
    let orders = machine.orders.values().filter(|order| order.key == key);
    let addressees: Vec<SessionId> = orders.map(|order| order.session).collect();
    assert_eq!(addressees, Vec::from_iter(turn), "7: {key:?} {phase:?}");
    let all_known = machine.orders.values().all(|order| machine.routes.contains_key(&order.key));
    assert!(all_known, "7: an order for a route that is gone");
}
