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
//! 9. The trie finds exactly the subscriptions of the sessions, and the largest ring that each session asks for.
//! 10. What waits for a peer is due at some time.
//! 11. A ring has a size that can be, and its subscriber is charged for it. What is charged is what is there, and within the limits.
//! 12. What is kept so that something is found is what would be found by looking through all.
//! 13. A reload waits for a route that is on its way, or on its way out.
//! 14. An inquiry waits for sessions that were asked and have not answered; who asked for it is there, and asks for one at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::relay::Lane;
use super::routes::{Phase, RouteKey, Stage};
use super::sessions::Interest;
use super::{Asker, Machine, Origin, Payer, SessionId, Share};
use crate::config::{PATTERN_SEGMENT_BYTES, is_ring_size};
use crate::wire::Resource;

pub(crate) fn check(machine: &Machine<u32>) {
    names(machine);
    rings(machine);
    charges(machine);
    indexes(machine);
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
        assert!(reload.awaiting.first().is_some_and(moves), "13: {reload:?}");
    }
    inquiries(machine);
    let waits_for_peers = !machine.orders.is_empty() || !machine.waits.is_empty();
    assert!(!waits_for_peers || machine.next_deadline().is_some(), "10");
    assert!(machine.spent.is_empty(), "sessions that are to go have gone");
}

/// All that was asked for is there, if each client has done what it was told.
#[cfg(test)]
pub(super) fn check_at_rest(machine: &Machine<u32>) {
    assert!(machine.orders.is_empty() && machine.waits.is_empty(), "somebody has not answered");
    for (key, route) in &machine.routes {
        assert!(route.phase == Phase::Active && route.wanted, "{key:?} {route:?}");
    }
}

/// Law 14.
fn inquiries(machine: &Machine<u32>) {
    let inquiries = &machine.inquiries;
    let current = inquiries.current.iter();
    for session in current.clone().flat_map(|inquiry| &inquiry.awaited) {
        assert!(machine.sessions[session].is_to_tell, "14: {session:?} was not asked");
    }
    for inquiry in current.clone() {
        assert!(!inquiry.awaited.is_empty(), "14: it is over");
    }
    let mut askers = BTreeSet::new();
    for asker in current.flat_map(|inquiry| &inquiry.askers).chain(&inquiries.waiting) {
        if let Asker::Session { session, .. } = asker {
            assert!(machine.sessions[session].inquires && askers.insert(*session), "14: {asker:?}");
        }
    }
    let waits = inquiries.current.is_some() || !inquiries.waiting.is_empty();
    assert!(!waits || machine.next_deadline().is_some(), "14: nobody would begin, or end it");
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
        assert!(pairs.insert((ring.publisher, ring.subscriber, ring.lane)), "3: a second ring for one pair");
    }
}

fn charges(machine: &Machine<u32>) {
    let mut expected: BTreeMap<Payer, [u64; Resource::COUNT]> = BTreeMap::new();
    let mut of_sessions: BTreeMap<SessionId, [u64; Resource::COUNT]> = BTreeMap::new();
    let mut charge = |(session, payer), resource: Resource, amount: u64| {
        if amount > 0 {
            expected.entry(payer).or_default()[resource as usize] += amount;
            of_sessions.entry(session).or_default()[resource as usize] += amount;
        }
    };
    for (id, session) in &machine.sessions {
        let payer = match session.origin {
            Origin::Embedded => Payer::Agent,
            Origin::Remote { uid } | Origin::Invited { uid } => Payer::Uid(uid),
        };
        let payer = (*id, payer);
        charge(payer, Resource::Connections, 1);
        charge(payer, Resource::Handshakes, u64::from(session.component.is_none()));
        charge(payer, Resource::Subscriptions, session.subscriptions.len() as u64);
        let patterns = session.subscriptions.values().flat_map(|subscription| &subscription.patterns);
        let segments: usize = patterns.map(|pattern| pattern.segments().count()).sum();
        charge(payer, Resource::PatternBytes, segments as u64 * PATTERN_SEGMENT_BYTES);
        let topics = session.publishers.values().map(|publisher| machine.publishers[publisher].topics.len());
        charge(payer, Resource::Topics, topics.sum::<usize>() as u64);
        charge(payer, Resource::Publishers, session.publishers.len() as u64);
        charge(payer, Resource::RelayedBytes, session.relayed);
    }
    for ring in machine.rings.values() {
        assert!(is_ring_size(ring.bytes) || ring.relay.is_some(), "11: {ring:?}");
        assert_eq!(machine.account(ring.subscriber), ring.account, "11: {ring:?}");
        if !matches!(ring.stage, Stage::Poisoned) && ring.relay.is_none() {
            // Its header, the consumer's segment, and its data.
            charge((ring.subscriber, ring.account.payer), Resource::RingBytes, 4096 + 4096 + ring.bytes);
        }
    }
    let charged: BTreeMap<_, _> =
        machine.charges.payers().map(|(payer, amounts)| (*payer, *amounts)).collect();
    assert_eq!(charged, expected, "11");
    assert_eq!(*machine.charges.by_session(), of_sessions, "11");
    within_limits(machine, &expected);
    for (session, amounts) in of_sessions {
        let of_session =
            amounts.iter().zip(&machine.settings.limits.shares).skip(Resource::Handshakes as usize + 1);
        let is_agents = machine.account(session).payer == Payer::Agent;
        // As much as it has was left to the others of its user when it last got something.
        let within = |(amount, share): (&u64, &Share)| is_agents || *amount <= share.per_uid / 2;
        assert!(of_session.into_iter().all(within), "11: {session:?} has {amounts:?}");
    }
}

/// Law 11, the limits.
fn within_limits(machine: &Machine<u32>, charges: &BTreeMap<Payer, [u64; Resource::COUNT]>) {
    let limits = &machine.settings.limits;
    for (index, share) in limits.shares.iter().enumerate() {
        let (mut sum, mut strangers) = (0, 0);
        for (payer, amounts) in charges {
            let amount = amounts[index];
            // Its connections are not limited.
            let unlimited = *payer == Payer::Agent && index <= Resource::Handshakes as usize;
            sum += if unlimited { 0 } else { amount };
            if let Payer::Uid(uid) = payer {
                assert!(amount <= share.per_uid, "11: {payer:?} has {amount} of {share:?}, {index}");
                strangers += if limits.component_uids.contains(uid) { 0 } else { amount };
            }
        }
        assert!(sum <= share.total && strangers <= share.strangers, "11: {sum} {strangers} {share:?}");
    }
}

/// Law 12.
fn indexes(machine: &Machine<u32>) {
    let pairs =
        machine.rings.values().map(|ring| ((ring.publisher, ring.subscriber, ring.lane), ring.id)).collect();
    assert_eq!(machine.pairs, pairs, "12");
    let inbound = machine.rings.values().map(|ring| (ring.subscriber, ring.publisher, ring.lane)).collect();
    assert_eq!(machine.inbound, inbound, "12");
    let mut topics: BTreeMap<Box<str>, BTreeSet<_>> = BTreeMap::new();
    for (id, publisher) in &machine.publishers {
        for (number, topic) in (0..).zip(&publisher.topics) {
            topics.entry(topic.as_str().into()).or_default().insert((*id, number));
        }
    }
    assert_eq!(machine.topics, topics, "12");
    let due = machine.rings.values().filter_map(|ring| match ring.stage {
        Stage::NeedsSegments { due, .. } => Some((due, ring.id)),
        _ => None,
    });
    assert_eq!(machine.forming, due.collect(), "12");
    let begun = machine.rings.values().filter_map(|ring| Some((ring.relay.as_ref()?.due()?, ring.id)));
    assert_eq!(machine.begun, begun.collect(), "12");
    let half_open = machine.half_open.iter().map(|(_, session)| *session).collect::<BTreeSet<_>>();
    let mute = machine.sessions.iter().filter(|(_, session)| session.component.is_none());
    assert_eq!(half_open, mute.map(|(id, _)| *id).collect(), "12");
    for (key, route) in &machine.routes {
        let order = machine.orders.iter().find(|(_, order)| order.key == *key).map(|(id, _)| *id);
        assert_eq!(route.order, order, "12: {key:?}");
        let waits = machine.waits.iter().filter(|(_, wait)| wait.awaiting.contains(key)).map(|(id, _)| *id);
        assert_eq!(route.waits, waits.collect::<Vec<_>>(), "12: {key:?}");
    }
}

fn routes(machine: &Machine<u32>) {
    let poisoned = |key: RouteKey| {
        let mut rings = machine.rings.values();
        rings.any(|ring| {
            (ring.publisher, ring.subscriber) == (key.publisher, key.subscriber)
                && ring.lane == lane_of(machine, key)
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
                let matching: Vec<Interest> = matching
                    .map(|(n, state)| Interest {
                        session: *session,
                        ring_bytes: state.ring_bytes,
                        subscription: *n,
                    })
                    .collect();
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
            let largest = interests.iter().map(|interest| (interest.session, interest.ring_bytes));
            assert_eq!(machine.who_asks(topic), largest.collect(), "9: {topic}");
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

fn lane_of(machine: &Machine<u32>, key: RouteKey) -> Lane {
    machine.lane(machine.publishers[&key.publisher].session, key.subscriber, machine.topic_of(key))
}

fn phase(machine: &Machine<u32>, key: RouteKey, phase: Phase) {
    let publisher = machine.publishers[&key.publisher].session;
    let target = machine.routes[&key].target;
    let ring = machine
        .rings
        .values()
        .filter(|ring| ring.lane == lane_of(machine, key))
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
