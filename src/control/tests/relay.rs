//! Rings that lead over the broker.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::super::relay::Relay;
use super::super::routes::Slot;
use super::super::{Input, SessionId, Share};
use super::world::{RING_BYTES, USER, World, fault, names};
use crate::config::{RECORD_DEADLINE, RELAYED_BYTES_MAX};
use crate::wire::relayed::{HEAD_BYTES, Head, Piece, RECORD_COST, Row};
use crate::wire::{Notice, RelayedRecords, Request, Resource, RingId};

const LIFECYCLE: &str = "control.collector.lifecycle";
const BATCH: &str = "events.process.batch";

/// The agent publishes a control topic that procmond hears.
fn pair(world: &mut World) -> (SessionId, SessionId, RingId) {
    let (agent, procmond) = (world.join("agent"), world.join("procmond"));
    world.declare(agent, 0, 0, LIFECYCLE);
    world.subscribe(procmond, 0, &[LIFECYCLE]);
    world.settle();
    let ring = world.only_ring();
    (agent, procmond, ring)
}

fn record(slot: u16, sequence: u64, events: u32, bytes: u32) -> Vec<u8> {
    let head = Head { slot, generation: 0, events, sequence, bytes };
    let payload = if events == 0 { 0 } else { bytes as usize };
    [&head.to_bytes()[..], &vec![7; payload]].concat()
}

fn relay(world: &mut World, session: SessionId, ring: RingId, bytes: &[u8]) {
    let (mut row, mut rest) = (Row::default(), bytes);
    while !rest.is_empty() {
        let (frame, behind) = rest.split_at(row.cut(rest, RELAYED_BYTES_MAX));
        world.say(session, Request::Relay { ring, records: RelayedRecords(frame.to_vec()) });
        rest = behind;
    }
}

/// All bytes of records that a session was sent.
fn relayed(world: &mut World, session: SessionId) -> Vec<u8> {
    let heard = world.heard(session);
    let bytes = heard.into_iter().filter_map(|notice| match notice {
        Notice::Relayed { records, .. } => Some(records.0),
        _ => None,
    });
    bytes.flatten().collect()
}

#[test]
fn a_control_topic_goes_over_the_broker_and_takes_no_memory_of_the_host() {
    let mut world = World::new();
    let (agent, procmond) = (world.join("agent"), world.join("procmond"));
    world.declare(agent, 0, 0, LIFECYCLE);
    world.subscribe(procmond, 0, &[LIFECYCLE]);
    world.settle();
    assert_eq!(names(&world.heard(procmond)), ["relay from", "grant", "subscribed"]);
    assert_eq!(names(&world.heard(agent)), ["declared", "relay to", "route"]);
    assert!(world.machine.ring_charges().is_empty());
    let ring = world.only_ring();
    let bytes = record(0, 0, 3, 100);
    relay(&mut world, agent, ring, &bytes);
    assert_eq!(relayed(&mut world, procmond), bytes);
    world.say(procmond, Request::Took { ring, cost: RECORD_COST + 100 });
    assert_eq!(world.heard(agent), [Notice::Took { ring, cost: RECORD_COST + 100 }]);
}

#[test]
fn events_and_control_of_one_publisher_have_a_ring_each() {
    let mut world = World::new();
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.declare(procmond, 0, 1, "control.health.heartbeat.procmond");
    world.subscribe(agent, 0, &["#"]);
    world.settle();
    assert_eq!(world.machine.rings.len(), 2);
    // What ends one of them leaves the other.
    let relayed = world.machine.rings.values().find(|ring| ring.relay.is_some()).expect("of control").id;
    world.say(agent, Request::Poisoned { ring: relayed, violation: "so".into() });
    world.settle();
    let left: Vec<_> = world.machine.routes.keys().map(|key| key.topic_number).collect();
    assert_eq!(left, [0]);
    world.say(procmond, Request::ClosePublisher { publisher: 0 });
    world.settle();
    world.assert_no_paths();
}

#[test]
fn of_version_1_both_go_through_memory() {
    for old in 0..2 {
        let mut world = World::new();
        world.newest = if old == 0 { 1 } else { 2 };
        let procmond = world.join("procmond");
        world.newest = 3 - world.newest;
        let tool = world.join("tool");
        world.declare(procmond, 0, 0, "control.health.status");
        world.subscribe(tool, 0, &["control.health.status"]);
        world.settle();
        assert!(world.machine.rings.values().all(|ring| ring.relay.is_none()), "{old}");
    }
}

#[test]
fn who_has_no_memory_for_a_ring_has_its_events_over_the_broker() {
    for (side, attached) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut world = World::new();
        let (procmond, agent) = (world.join("procmond"), world.join("agent"));
        world.declare(procmond, 0, 0, BATCH);
        let request = world.subscribe(agent, 0, &[BATCH]);
        if attached {
            // Both segments are on their way, and the grant.
            world.obey_one(procmond);
            world.obey_one(procmond);
            world.obey_one(agent);
        }
        let (ring, who) = (world.only_ring(), [procmond, agent][side]);
        world.say(who, Request::NoRing { ring, cause: "no memory\n".into() });
        world.settle();
        let relayed = world.only_ring();
        assert_ne!(relayed, ring);
        assert!(world.machine.rings[&relayed].relay.is_some() && world.machine.ring_charges().is_empty());
        let heard = world.heard(agent);
        assert_eq!(super::world::answers(&heard, request), 1, "{heard:?}");
        let told = format!("{:?}", world.reports);
        assert!(told.contains("Relayed") && told.contains(r#"cause: "no memory ""#), "{told}");
        relay(&mut world, procmond, relayed, &record(0, 0, 1, 8));
        assert_eq!(relayed_events(&self::relayed(&mut world, agent)), 1, "{side} {attached}");
    }
}

fn relayed_events(bytes: &[u8]) -> u64 {
    heads(bytes).iter().map(|head| u64::from(head.events)).sum()
}

fn heads(mut bytes: &[u8]) -> Vec<Head> {
    let (mut row, mut heads) = (Row::default(), Vec::new());
    while let Some(piece) = row.next(&mut bytes).expect("no head is cut") {
        if let Piece::Head(head) = piece {
            heads.push(head);
        }
    }
    heads
}

#[test]
fn where_nothing_is_to_be_in_shared_memory_nothing_is() {
    let mut world = World::with_settings(|settings| settings.relays_all = true);
    let (procmond, agent) = (world.join("procmond"), world.join("agent"));
    world.declare(procmond, 0, 0, BATCH);
    world.subscribe(agent, 0, &[BATCH]);
    world.settle();
    let ring = world.only_ring();
    assert!(world.machine.rings[&ring].relay.is_some());
}

#[test]
fn what_no_publisher_of_ours_sends_ends_its_session_and_no_other() {
    let largest = u32::try_from(RING_BYTES / 8).expect("it is small");
    let breaches: [(&str, Vec<u8>); 6] = [
        ("a record of a slot that was never granted", record(1, 0, 1, 8)),
        ("a record larger than its ring takes", record(0, 0, 1, largest)[..100].to_vec()),
        ("more events than can be counted", record(0, u64::MAX, 1, 8)),
        ("a record whose head is cut", record(0, 0, 1, 8)[..19].to_vec()),
        ("more records than the window of their ring holds", record(0, 0, 0, u32::MAX)),
        ("more records than the window of their ring holds", {
            let one = record(0, 0, 1, 60_000);
            one.repeat(usize::try_from(RING_BYTES / 60_000 + 1).expect("it is small"))
        }),
    ];
    for (what, bytes) in breaches {
        let mut world = World::new();
        let (agent, tool) = (world.join("agent"), world.join("procmond"));
        world.declare(tool, 0, 0, "control.health.status");
        world.subscribe(agent, 0, &["control.health.status"]);
        world.settle();
        let ring = world.only_ring();
        for frame in bytes.chunks(RELAYED_BYTES_MAX) {
            // Not cut as they should be: that is the peer's affair.
            if world.is_connected(tool) {
                world.say(tool, Request::Relay { ring, records: RelayedRecords(frame.to_vec()) });
            }
        }
        assert_eq!(fault(&world.heard(tool)), what);
        assert!(world.is_connected(agent));
    }
}

#[test]
fn only_the_ends_of_a_ring_relay_and_read_and_no_more_than_there_was() {
    let mut world = World::new();
    let (agent, procmond, ring) = pair(&mut world);
    relay(&mut world, agent, ring, &record(0, 0, 1, 8));
    let records = RelayedRecords(record(0, 1, 1, 8));
    for (request, what) in [
        (Request::Relay { ring, records }, "records for a ring of others"),
        (Request::Took { ring, cost: 1 }, "a ring of others was read"),
        (Request::Took { ring: RingId(9999), cost: 1 }, ""),
    ] {
        let tool = world.join("tool");
        world.say(tool, request);
        if what.is_empty() {
            assert!(world.is_connected(tool), "it may have ended meanwhile");
        } else {
            assert_eq!(fault(&world.heard(tool)), what);
        }
    }
    world.say(procmond, Request::Took { ring, cost: RECORD_COST + 9 });
    let what = "more was read than was relayed, or less than before";
    assert_eq!(fault(&world.heard(procmond)), what);
    assert!(world.is_connected(agent));
}

#[test]
fn what_waits_is_charged_to_who_is_to_read_it_until_it_has_left() {
    let mut world = World::new();
    let (agent, procmond, ring) = pair(&mut world);
    let charged = |world: &World| world.machine.charges.total(Resource::RelayedBytes);
    let half = begun(&mut world, agent, ring);
    assert_eq!(charged(&world), RECORD_COST + 100_000, "all of it, since it must be sent on when it comes");
    // That it was read changes nothing: who says so may not have.
    world.say(procmond, Request::Took { ring, cost: RECORD_COST + 100_000 });
    assert_eq!(charged(&world), RECORD_COST + 100_000);
    let unwritten = std::mem::take(&mut world.unwritten);
    assert_eq!(unwritten, [(procmond, RECORD_COST + half)]);
    world.feed(Input::Written { session: procmond, charge: RECORD_COST + half });
    assert_eq!(charged(&world), 100_000 - half);
    world.say(agent, Request::ClosePublisher { publisher: 0 });
    assert_eq!(charged(&world), 0, "the rest will not come");
}

/// Has the first frame of a record of 100 000 bytes come; how many of them that brings.
fn begun(world: &mut World, publisher: SessionId, ring: RingId) -> u64 {
    let records = RelayedRecords(record(0, 0, 1, 100_000)[..RELAYED_BYTES_MAX].to_vec());
    world.say(publisher, Request::Relay { ring, records });
    (RELAYED_BYTES_MAX - HEAD_BYTES) as u64
}

#[test]
fn the_rest_of_a_record_is_not_charged_on_a_ring_that_was_broken() {
    let mut world = World::new();
    let (agent, procmond, ring) = pair(&mut world);
    let half = begun(&mut world, agent, ring);
    world.say(procmond, Request::Poisoned { ring, violation: "so".into() });
    assert_eq!(world.machine.charges.total(Resource::RelayedBytes), RECORD_COST + half);
    world.feed(Input::Written { session: procmond, charge: RECORD_COST + half });
    assert_eq!(world.machine.charges.total(Resource::RelayedBytes), 0);
    world.settle();
    assert!(world.is_connected(agent) && world.is_connected(procmond));
}

#[test]
fn who_sends_a_record_in_crumbs_is_sent_away() {
    for bytes in [HEAD_BYTES, HEAD_BYTES + 1, RELAYED_BYTES_MAX - HEAD_BYTES - 101] {
        let mut world = World::new();
        let (agent, tool) = (world.join("agent"), world.join("procmond"));
        world.declare(tool, 0, 0, "control.health.status");
        world.subscribe(agent, 0, &["control.health.status"]);
        world.settle();
        let ring = world.only_ring();
        relay(&mut world, tool, ring, &record(0, 0, 1, 100));
        let whole = relayed(&mut world, agent);
        let records = [record(0, 1, 1, 100), record(0, 2, 1, 100_000)[..bytes].to_vec()].concat();
        world.say(tool, Request::Relay { ring, records: RelayedRecords(records) });
        assert_eq!(fault(&world.heard(tool)), "a frame that ends within a record, and is not full");
        assert!(relayed(&mut world, agent).is_empty());
        let charged = world.machine.charges.total(Resource::RelayedBytes);
        assert_eq!(charged, RECORD_COST + 100, "what waits, {} bytes, and no less", whole.len());
    }
}

#[test]
fn who_begins_a_record_and_does_not_go_on_with_it_is_sent_away_and_its_reader_charged_no_more() {
    let mut world = World::with_settings(|settings| settings.ring_bytes = 2 * RING_BYTES);
    let (agent, tool) = (world.join("agent"), world.join("procmond"));
    world.declare(tool, 0, 0, "control.health.status");
    world.subscribe(agent, 0, &["control.health.status"]);
    world.settle();
    let ring = world.only_ring();
    let whole = record(0, 0, 1, 150_000);
    let mut frames = whole.chunks(RELAYED_BYTES_MAX).map(|part| RelayedRecords(part.to_vec()));
    let mut next = |world: &mut World| {
        let records = frames.next().expect("three of them");
        world.say(tool, Request::Relay { ring, records });
    };
    let moment = Duration::from_millis(1);
    // Each frame has the whole time.
    for _ in 0..2 {
        next(&mut world);
        assert_eq!(world.machine.next_deadline(), Some(world.now + RECORD_DEADLINE));
        world.wait(RECORD_DEADLINE - moment);
        assert!(world.is_connected(tool));
    }
    assert!(world.machine.charges.total(Resource::RelayedBytes) > 0);
    world.wait(moment);
    assert_eq!(fault(&world.heard(tool)), "a record that was begun and is not ended in time");
    let unwritten = std::mem::take(&mut world.unwritten);
    for (session, charge) in unwritten {
        world.feed(Input::Written { session, charge });
    }
    assert_eq!(world.machine.charges.total(Resource::RelayedBytes), 0);
    assert!(world.is_connected(agent) && world.machine.next_deadline().is_none());
}

#[test]
fn a_record_that_is_ended_or_whose_ring_is_gone_has_no_deadline() {
    for end in ["the record", "the ring", "an accusation", "its publisher"] {
        let mut world = World::new();
        let (agent, procmond, ring) = pair(&mut world);
        let begun = begun(&mut world, agent, ring);
        match end {
            "the record" => {
                let records = RelayedRecords(vec![7; 100_000 - usize::try_from(begun).expect("it is small")]);
                world.say(agent, Request::Relay { ring, records });
            }
            "the ring" => world.end(procmond),
            "an accusation" => {
                world.say(procmond, Request::Poisoned { ring, violation: "so".into() });
                world.settle();
            }
            _ => world.say(agent, Request::ClosePublisher { publisher: 0 }),
        }
        assert_eq!(world.machine.next_deadline(), None, "{end}");
        world.wait(2 * RECORD_DEADLINE);
        assert!(world.is_connected(agent), "{end}");
    }
}

#[test]
fn what_a_reader_says_again_is_not_passed_on() {
    let mut world = World::new();
    let (agent, procmond, ring) = pair(&mut world);
    relay(&mut world, agent, ring, &record(0, 0, 1, 8));
    let took = |cost| Request::Took { ring, cost };
    for cost in [0, 0, RECORD_COST + 8, RECORD_COST + 8, RECORD_COST + 8] {
        world.say(procmond, took(cost));
    }
    let heard = world.heard(agent);
    let told = heard.iter().filter(|notice| matches!(notice, Notice::Took { .. })).count();
    assert_eq!((told, world.is_connected(procmond)), (1, true), "{heard:?}");
}

/// The two together: it says that it has read what it has not, so that losses are told at once, which cost nothing else.
#[test]
fn losses_that_are_not_written_are_bounded_too_and_are_told_in_the_end() {
    let mut world = World::with_settings(|settings| {
        let share = Share { total: 80_000, per_uid: 80_000, strangers: 80_000 };
        settings.limits.shares[Resource::RelayedBytes as usize] = share;
    });
    let (agent, procmond, ring) = pair(&mut world);
    let (mut took, rounds) = (0, 2000);
    let mut last = 0;
    for sequence in 1..=rounds {
        relay(&mut world, agent, ring, &record(0, sequence, 0, 0));
        for head in heads(&relayed(&mut world, procmond)) {
            took += head.cost();
            last = head.sequence;
        }
        world.say(procmond, Request::Took { ring, cost: took });
    }
    let charged = world.machine.charges.total(Resource::RelayedBytes);
    assert!(charged <= 40_000 && last < rounds, "{charged} of a session's half, {last}");
    let unwritten: u64 = std::mem::take(&mut world.unwritten).into_iter().map(|(_, charge)| charge).sum();
    assert_eq!(unwritten, charged);
    world.feed(Input::Written { session: procmond, charge: unwritten });
    let [loss] = heads(&relayed(&mut world, procmond))[..] else { panic!("one loss") };
    assert_eq!((loss.sequence, took + loss.cost()), (rounds, rounds * RECORD_COST));
}

#[test]
fn above_a_share_what_is_new_is_lost_and_its_subscriber_told_when_it_reads_again() {
    let mut world = World::with_settings(|settings| {
        let share = Share { total: 2500, per_uid: 2500, strangers: 2500 };
        settings.limits.shares[Resource::RelayedBytes as usize] = share;
    });
    let (agent, procmond, ring) = pair(&mut world);
    let mut sent = 0;
    for sequence in (0..10).step_by(2) {
        relay(&mut world, agent, ring, &record(0, sequence, 2, 1000));
        sent += RECORD_COST + 1000;
    }
    assert_eq!(relayed_events(&relayed(&mut world, procmond)), 2, "a session has half of what its user may");
    let unwritten = std::mem::take(&mut world.unwritten);
    for (session, charge) in unwritten {
        world.feed(Input::Written { session, charge });
    }
    world.say(procmond, Request::Took { ring, cost: RECORD_COST + 1000 });
    let [loss] = heads(&relayed(&mut world, procmond))[..] else { panic!("one loss") };
    assert_eq!((loss.events, loss.sequence), (0, 10));
    world.say(procmond, Request::Took { ring, cost: RECORD_COST + 1000 + loss.cost() });
    let heard = world.heard(agent);
    assert_eq!(*heard.last().expect("it is told"), Notice::Took { ring, cost: sent }, "all room is back");
}

/// The answer to a request among what a session was sent, and the losses before it.
fn losses_before_answer(heard: Vec<Notice>, answer: u32) -> Option<Vec<u64>> {
    let mut losses = Vec::new();
    for notice in heard {
        match notice {
            Notice::Relayed { records, .. } => {
                losses
                    .extend(heads(&records.0).iter().filter(|head| head.is_loss()).map(|head| head.sequence));
            }
            Notice::Subscribed { request, .. } if request == answer => return Some(losses),
            _ => {}
        }
    }
    None
}

/// A loss is told to a subscription that has not read all before it only once that has: but what was lost before another joins is told by then.
#[test]
fn who_joins_a_ring_is_answered_behind_what_was_sent_and_lost_before() {
    let mut world = World::new();
    let (agent, procmond, ring) = pair(&mut world);
    relay(&mut world, agent, ring, &record(0, 0, 2, 100));
    world.heard(procmond);
    world.heard(agent);
    let request = world.subscribe(procmond, 1, &["control.#"]);
    assert_eq!(
        losses_before_answer(world.heard(procmond), request),
        None,
        "its publisher has to say what it has lost"
    );
    relay(&mut world, agent, ring, &record(0, 5, 0, 0));
    let route = world.obey_one(agent);
    assert!(
        matches!(route, Some(Notice::Route { target: Some(target), .. }) if target.ring == ring),
        "{route:?}"
    );
    assert_eq!(losses_before_answer(world.heard(procmond), request), Some(vec![5]));
}

#[test]
fn who_joins_while_another_does_is_answered_when_its_publisher_was_asked_once_more() {
    let mut world = World::new();
    let (agent, procmond, _) = pair(&mut world);
    world.heard(agent);
    let requests: Vec<u32> = (1..4).map(|number| world.subscribe(procmond, number, &["control.#"])).collect();
    let is_answered = |heard: &[Notice], of: u32| {
        heard.iter().any(|notice| matches!(notice, Notice::Subscribed { request, .. } if *request == of))
    };
    world.obey_one(agent);
    let heard = world.heard(procmond);
    assert_eq!([0, 1, 2].map(|at| is_answered(&heard, requests[at])), [true, false, false]);
    world.obey_one(agent);
    let heard = world.heard(procmond);
    assert_eq!([1, 2].map(|at| is_answered(&heard, requests[at])), [true, true]);
    assert!(world.obey_one(agent).is_none(), "no more often than that");
}

#[test]
fn a_stranger_that_does_not_read_takes_nothing_from_others() {
    let mut world = World::with_settings(|settings| {
        let share = Share { total: 10_000, per_uid: 8_000, strangers: 6_000 };
        settings.limits.shares[Resource::RelayedBytes as usize] = share;
    });
    let agent = world.join("agent");
    let stranger = world.join_from(super::super::Origin::Remote { uid: 4711 }, "tool");
    let honest = world.join_from(USER, "detector");
    let topic = "control.health.status";
    world.declare(agent, 0, 0, topic);
    world.subscribe(stranger, 0, &[topic]);
    world.subscribe(honest, 0, &[topic]);
    world.settle();
    let rings: Vec<RingId> = world.machine.rings.keys().copied().collect();
    for sequence in 0..20 {
        for ring in &rings {
            relay(&mut world, agent, *ring, &record(0, sequence, 1, 436));
        }
        // The honest one reads, and what was for it has left.
        let unwritten = std::mem::take(&mut world.unwritten);
        let (left, stays): (Vec<_>, Vec<_>) = unwritten.into_iter().partition(|(to, _)| *to == honest);
        world.unwritten = stays;
        for (session, charge) in left {
            world.feed(Input::Written { session, charge });
        }
    }
    assert_eq!(relayed_events(&relayed(&mut world, honest)), 20);
    let to_stranger = relayed_events(&relayed(&mut world, stranger));
    assert!((1..=6).contains(&to_stranger), "{to_stranger}");
}

fn flat(frames: Vec<(RelayedRecords, u64)>) -> Vec<u8> {
    frames.into_iter().flat_map(|(records, _)| records.0).collect()
}

/// What a subscriber knows of a slot.
#[derive(Debug, Default)]
struct Seen {
    settled: u64,
    received: u64,
    lost: u64,
}

proptest! {
    /// Whatever is withheld: what was attempted is received or told as lost, in order, and the window's room all comes back.
    #[test]
    fn what_was_attempted_is_relayed_or_told_as_lost(
        steps in proptest::collection::vec((0_u16..3, 0_u32..4, 1_u32..3000, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let slots: Vec<Slot> = (0..3).map(|topic_number| Slot { topic_number, generation: 0 }).collect();
        let window = 1 << 20;
        let mut relay = Relay::default();
        let (mut attempted, mut seen) = (BTreeMap::new(), BTreeMap::<u16, Seen>::new());
        let (mut sent, mut read, mut row) = (0, 0, Row::default());
        let mut look = |bytes: &[u8], read: &mut u64| {
            let mut rest = bytes;
            while let Some(piece) = row.next(&mut rest).expect("no head is cut") {
                let Piece::Head(head) = piece else { continue };
                *read += head.cost();
                let seen = seen.entry(head.slot).or_default();
                assert!(head.sequence >= seen.settled, "{head:?} {seen:?}");
                seen.lost += head.sequence - seen.settled;
                seen.received += u64::from(head.events);
                seen.settled = head.end().expect("it is small");
            }
        };
        for (slot, events, bytes, may, reads) in steps {
            let sequence = attempted.entry(slot).or_insert(0_u64);
            if events == 0 {
                // A loss of the publisher's own.
                *sequence += 2;
            }
            let frame = record(slot, *sequence, events, if events == 0 { 0 } else { bytes });
            *sequence += u64::from(events);
            sent += heads(&frame)[0].cost();
            let passed = relay.take(&slots, window, &frame, |_, _| may).expect("it is within the window");
            look(&flat(relay.frames(&passed.bytes)), &mut read);
            if reads {
                let passed = relay.release(read, |_, _| true).expect("it was relayed");
                look(&flat(relay.frames(&passed.bytes)), &mut read);
            }
        }
        for _ in 0..2 {
            let passed = relay.release(read, |_, _| true).expect("it was relayed");
            look(&flat(relay.frames(&passed.bytes)), &mut read);
        }
        prop_assert_eq!(read, sent, "all room is back");
        for (slot, attempted) in attempted {
            let seen = &seen[&slot];
            prop_assert_eq!(seen.received + seen.lost, attempted, "slot {}: {:?}", slot, seen);
        }
    }
}

#[test]
fn a_broker_that_goes_waits_for_what_is_published_over_it_and_for_no_more() {
    let mut world = World::new();
    let (agent, procmond, ring) = pair(&mut world);
    world.feed(Input::Finish);
    assert!(!world.machine.has_finished());
    assert_eq!(world.heard(agent).last(), Some(&Notice::Finish));
    assert!(!world.heard(procmond).contains(&Notice::Finish), "it publishes nothing");
    relay(&mut world, agent, ring, &record(0, 0, 1, 8));
    world.say(agent, Request::Finished);
    assert!(world.machine.has_finished());
    assert_eq!(relayed_events(&relayed(&mut world, procmond)), 1);
    world.say(agent, Request::Finished);
    assert_eq!(fault(&world.heard(agent)), "an answer that nobody asked for");

    let mut world = World::new();
    let (agent, ..) = pair(&mut world);
    world.feed(Input::Finish);
    world.end(agent);
    assert!(world.machine.has_finished(), "who is gone has nothing to say");
}

#[test]
fn what_was_withheld_is_told_before_a_ring_ends() {
    for shutdown in [false, true] {
        let mut world = World::with_settings(|settings| {
            let share = Share { total: 2500, per_uid: 2500, strangers: 2500 };
            settings.limits.shares[Resource::RelayedBytes as usize] = share;
        });
        let (agent, procmond, ring) = pair(&mut world);
        for sequence in 0..5 {
            relay(&mut world, agent, ring, &record(0, sequence, 1, 1000));
        }
        let before = heads(&relayed(&mut world, procmond)).len();
        if shutdown {
            world.checks = false;
            world.feed(Input::Shutdown);
        } else {
            world.say(agent, Request::ClosePublisher { publisher: 0 });
        }
        let [loss] = heads(&relayed(&mut world, procmond))[..] else { panic!("one loss") };
        assert_eq!((before, loss.events, loss.sequence), (1, 0, 5));
    }
}
