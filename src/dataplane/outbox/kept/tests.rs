use std::time::Duration;

use shm::{
    Backing, Consumer, ConsumerSegment, ConsumerView, Doorbell, Producer, ProducerSegment, ProducerView,
};

use zerocopy::IntoBytes;

use super::super::{Delivery, Outbox, RingEnd};
use super::*;
use crate::access::Component;
use crate::batch::{BatchView, EventRef, Opaque};
use crate::config::KEPT_LONGEST;
use crate::correlation::CorrelationMetadata;
use crate::dataplane::{Hub, Origin};
use crate::wire::{Epoch, PublisherId};

const RING_BYTES: usize = 1 << 16;
const RECORD_BYTES: usize = 1000;

/// A publisher of two topics, that keeps so much; and what reads its rings.
struct World {
    shared: Arc<OutboxShared>,
    outbox: Outbox,
    bells: Vec<Doorbell>,
}

impl World {
    fn new(limit: u64) -> Self {
        let shared = Arc::new(OutboxShared::new(Arc::new(KeptShare::new(limit))));
        let component = Component::from_client_id("procmond").expect("a legal id");
        shared.set_origin(Arc::new(Origin { component, publisher: PublisherId(1), epoch: Epoch(1) }));
        for topic in ["events.process.batch", "events.process.tree", "control.health.heartbeat.procmond"] {
            shared.add_topic(Topic::new(topic).expect("a legal topic"));
        }
        let events = tokio::sync::mpsc::unbounded_channel().0;
        let outbox = Outbox::new(Arc::clone(&shared), Arc::new(Hub::new()), events, RING_BYTES as u32 / 8);
        Self { shared, outbox, bells: Vec::new() }
    }

    fn publish(&mut self, topic: usize, number: u64) -> Delivery {
        let mut record = BatchWriter::new(RING_BYTES as u32 / 8);
        record.begin(&CorrelationMetadata::new("scan".into())).expect("it is small");
        let mut event = vec![0; RECORD_BYTES];
        event[..8].copy_from_slice(&number.to_le_bytes());
        record.push(&Opaque(&event), None).expect("it is small");
        let delivery = self.outbox.publish(TopicId::nth(topic), &mut record);
        self.outbox.flush();
        delivery
    }

    /// A ring that the broker of now has made, with routes of these topics in slots of the same numbers.
    fn add_ring(&mut self, ring: u64, topics: &[u32]) -> Consumer {
        self.add_ring_of(ring, ring, topics)
    }

    /// The same for this client.
    fn add_ring_of(&mut self, client: u64, ring: u64, topics: &[u32]) -> Consumer {
        let data = ProducerSegment::create(RING_BYTES, Backing::default()).expect("memory");
        let marks = ConsumerSegment::create(Backing::default()).expect("memory");
        let share = |handle: &shm::Handle| handle.try_clone().expect("a descriptor");
        let seen = ProducerView::attach(share(data.handle()), RING_BYTES).expect("it is as agreed");
        let view = ConsumerView::attach(share(marks.handle())).expect("it is as agreed");
        let (progress, producer) = (view.progress(), Producer::new(data, view));
        let (doorbell, theirs) = Doorbell::pair().expect("descriptors");
        self.bells.push(theirs);
        let end = RingEnd::Memory(Box::new(producer), progress, doorbell);
        let reader = Reader { component: "agent".into(), client };
        self.shared.add_ring(RingId(ring), end, reader, vec![]);
        for topic in topics {
            let slot = u16::try_from(*topic).expect("a small number");
            self.shared.add_route(*topic, RouteTarget::Slot { ring: RingId(ring), slot, generation: 0 });
        }
        Consumer::new(seen, marks)
    }

    /// There is a broker again. Until when things are kept.
    fn find_broker(&self) -> Instant {
        let until = Instant::now() + KEPT_LONGEST;
        self.shared.broker_found(until);
        until
    }

    fn pour(&self) -> Poured {
        self.shared.pour(Instant::now(), true)
    }
}

/// The numbers of the events in a ring, by slot, and how many were lost before or behind them.
fn read(consumer: &mut Consumer) -> (Vec<(u16, u64)>, u64) {
    let (mut events, mut lost, mut payload) = (Vec::new(), 0, Vec::new());
    while let Some(record) = consumer.read(&mut payload).expect("nothing is broken") {
        lost += consumer.settle(&record, 1).expect("nothing is broken");
        let batch = BatchView::parse(&payload.as_bytes()[..record.bytes]).expect("a batch");
        let Some(EventRef::Opaque(event)) = batch.into_iter().next() else { panic!("it is opaque") };
        let number = event.first_chunk().expect("a number");
        events.push((record.slot, u64::from_le_bytes(*number)));
    }
    consumer.tail_loss(|_, events| lost += events).expect("nothing is broken");
    let _nobody_sleeps = consumer.release();
    (events, lost)
}

fn numbers(events: &[(u16, u64)]) -> Vec<u64> {
    events.iter().map(|(_, number)| *number).collect()
}

#[test]
fn what_is_kept_is_before_all_else_in_a_ring_also_while_that_is_held_back() {
    let mut world = World::new(1 << 20);
    assert_eq!(world.publish(0, 0).kept, 0, "there is a broker");
    world.shared.orphan(true);
    for number in 1..5 {
        let delivery = world.publish(number as usize % 2, number);
        assert_eq!((delivery.subscribers, delivery.kept, delivery.dropped), (0, 1, 0));
    }
    assert_eq!(world.outbox.consumed(), 1);
    world.find_broker();
    let mut consumer = world.add_ring(1, &[0, 1]);
    assert_eq!(world.publish(0, 5).kept, 1, "its subscriber may not take it yet");
    let waits = world.pour().next.expect("it waits for word");
    assert!(waits > Instant::now() && read(&mut consumer).0.is_empty());
    world.shared.settled(RingId(1));
    assert!(world.shared.pour(Instant::now(), false).next.is_some(), "another topic may not lead there yet");
    let poured = world.pour();
    assert_eq!((poured.next, poured.events, poured.lost), (None, 5, 0));
    assert_eq!(world.publish(0, 6).reached, 1);
    let (events, lost) = read(&mut consumer);
    assert_eq!((events, lost), (vec![(1, 1), (0, 2), (1, 3), (0, 4), (0, 5), (0, 6)], 0));
    assert_eq!(world.outbox.consumed(), 7);
}

#[test]
fn a_subscriber_that_is_there_all_the_time_hears_at_once_and_once() {
    let mut world = World::new(1 << 20);
    let mut there = world.add_ring(1, &[0]);
    world.shared.orphan(true);
    assert_eq!(world.publish(0, 1).reached, 1);
    assert_eq!(world.publish(1, 2).kept, 1);
    world.find_broker();
    let mut new = world.add_ring(2, &[0, 1]);
    let both = world.publish(0, 3);
    assert_eq!((both.reached, both.kept), (1, 1));
    world.shared.settled(RingId(2));
    assert_eq!(world.pour().events, 3);
    assert_eq!(world.publish(0, 4).reached, 2);
    assert_eq!(numbers(&read(&mut there).0), [1, 3, 4]);
    assert_eq!(numbers(&read(&mut new).0), [1, 2, 3, 4]);
}

#[test]
fn who_has_heard_it_over_a_ring_that_is_gone_does_not_hear_it_again() {
    let mut world = World::new(1 << 20);
    let mut before = world.add_ring_of(7, 1, &[0, 1]);
    world.shared.orphan(true);
    assert_eq!((world.publish(0, 1).reached, world.publish(1, 2).reached), (1, 1));
    assert_eq!(numbers(&read(&mut before).0), [1, 2]);
    world.shared.remove_ring(RingId(1));
    world.publish(0, 3);
    assert_eq!(world.outbox.consumed(), 2, "nobody has heard the third");
    world.find_broker();
    let (mut same, mut other) = (world.add_ring_of(7, 2, &[0, 1]), world.add_ring_of(8, 3, &[1]));
    world.shared.settled(RingId(2));
    world.shared.settled(RingId(3));
    let poured = world.pour();
    assert_eq!((poured.events, poured.lost), (2, 0), "the first is for nobody who has not heard it");
    assert_eq!(world.outbox.consumed(), 2, "that was read, whoever comes");
    assert_eq!(read(&mut same), (vec![(0, 3)], 0));
    assert_eq!(read(&mut other), (vec![(1, 2)], 0));
    assert_eq!(world.outbox.consumed(), 3);
}

#[test]
fn what_somebody_hears_leaves_room_for_what_nobody_does_and_is_no_loss_of_his() {
    // A record takes 1,200 bytes or less.
    let mut world = World::new(6000);
    let mut there = world.add_ring_of(7, 1, &[0]);
    world.shared.orphan(true);
    let mut publish = |topic, number| {
        let Delivery { reached, kept, dropped, .. } = world.publish(topic, number);
        (reached, kept, dropped)
    };
    assert_eq!([0, 1, 2, 3].map(|number| publish(0, number)), [(1, 1, 0), (1, 1, 0), (1, 0, 0), (1, 0, 0)]);
    assert_eq!([4, 5, 6].map(|number| publish(1, number)), [(0, 1, 0), (0, 1, 0), (0, 0, 1)]);
    world.shared.remove_ring(RingId(1));
    assert_eq!(numbers(&read(&mut there).0), [0, 1, 2, 3]);
    world.find_broker();
    let (mut same, mut other) = (world.add_ring_of(7, 2, &[0]), world.add_ring_of(8, 3, &[0, 1]));
    world.shared.settled(RingId(2));
    world.shared.settled(RingId(3));
    let poured = world.pour();
    assert_eq!((poured.events, poured.lost), (4, 1));
    world.outbox.follow();
    assert_eq!(read(&mut same), (vec![], 0), "it has heard all");
    assert_eq!(read(&mut other), (vec![(0, 0), (0, 1), (1, 4), (1, 5)], 3));
}

#[test]
fn what_does_not_fit_is_told_as_lost_and_nothing_is_kept_behind_it() {
    let mut world = World::new(4500);
    world.shared.orphan(true);
    let became: Vec<_> =
        (0..6).map(|number| world.publish(0, number)).map(|it| (it.kept, it.dropped)).collect();
    assert_eq!(became, [(1, 0), (1, 0), (1, 0), (0, 1), (0, 1), (0, 1)]);
    world.find_broker();
    let mut consumer = world.add_ring(1, &[0, 1]);
    world.shared.settled(RingId(1));
    let poured = world.pour();
    assert_eq!((poured.events, poured.lost), (3, 3));
    assert_eq!(world.publish(0, 6).reached, 1);
    let (events, lost) = read(&mut consumer);
    assert_eq!((numbers(&events), lost), (vec![0, 1, 2, 6], 3));
    // All room is there again.
    world.shared.orphan(true);
    drop((consumer, std::mem::take(&mut world.bells)));
    let kept = (0..4).map(|number| world.publish(0, number)).filter(|delivery| delivery.kept == 1).count();
    assert_eq!(kept, 3);
}

#[test]
fn publishers_share_what_there_is_and_a_closed_one_gives_it_back() {
    let share = Arc::new(KeptShare::new(1000));
    let entry = || Entry {
        topic: 0,
        events: 1,
        sequence: 1,
        record: Some(Hidden(vec![0; 400].into())),
        heard: Heard::default(),
    };
    let (mut first, mut second) = (Kept::new(Arc::clone(&share)), Kept::new(Arc::clone(&share)));
    assert!(first.add(entry()) && second.add(entry()) && !first.add(entry()));
    drop(second);
    assert_eq!(share.used.load(Ordering::Relaxed), 464);
    drop(first);
    assert_eq!(share.used.load(Ordering::Relaxed), 0);
}

#[test]
fn when_nobody_comes_for_it_in_time_it_is_lost() {
    let mut world = World::new(1 << 20);
    world.shared.orphan(true);
    world.publish(0, 1);
    assert_eq!(world.pour().next, None, "there is no broker");
    let until = world.find_broker();
    assert_eq!(world.pour().next, Some(until));
    assert_eq!(world.shared.pour(until, true).lost, 1);
    let claim = world.shared.topic_claims()[0];
    assert_eq!((claim.kept, claim.expired), (1, 1));
    assert_eq!(world.publish(0, 2).kept, 0);
    assert_eq!(world.outbox.consumed(), 3 - 1);
}

#[test]
fn a_subscriber_that_never_says_that_it_takes_what_comes_gets_it_all_the_same() {
    let mut world = World::new(1 << 20);
    world.shared.orphan(true);
    world.publish(0, 1);
    world.find_broker();
    let mut consumer = world.add_ring(1, &[0]);
    let at = world.pour().next.expect("it waits for word");
    assert_eq!(world.shared.pour(at + Duration::from_millis(1), true).events, 1);
    world.publish(0, 2);
    assert_eq!(numbers(&read(&mut consumer).0), [1, 2]);
}

#[test]
fn for_control_messages_nothing_is_kept_or_held_back() {
    let mut world = World::new(1 << 20);
    world.shared.orphan(true);
    assert_eq!(world.publish(2, 1).kept, 0);
    world.publish(0, 2);
    world.find_broker();
    let mut consumer = world.add_ring(1, &[2]);
    assert_eq!(world.publish(2, 3).reached, 1);
    assert_eq!(read(&mut consumer).0, [(2, 3)]);
}

#[test]
fn who_has_no_room_is_waited_for_and_not_for_ever() {
    let mut world = World::new(1 << 20);
    world.shared.orphan(true);
    let all: Vec<u64> = (0..200).collect();
    let kept: u64 = all.iter().map(|number| world.publish(0, *number).kept).sum();
    assert_eq!(kept, 200);
    world.find_broker();
    let (mut reads, mut sleeps) = (world.add_ring(1, &[0]), world.add_ring(2, &[0]));
    world.shared.settled(RingId(1));
    world.shared.settled(RingId(2));
    let (mut heard, mut now, mut poured) = (Vec::new(), Instant::now(), world.pour());
    let start = now;
    while let Some(next) = poured.next {
        heard.extend(numbers(&read(&mut reads).0));
        now = now.max(next);
        poured = world.shared.pour(now, true);
    }
    heard.extend(numbers(&read(&mut reads).0));
    assert_eq!(heard, all);
    assert!(now - start < 2 * KEPT_STUCK_LONGEST, "{:?}", now - start);
    let (late, lost) = read(&mut sleeps);
    let late = numbers(&late);
    assert!(late.len() > 10 && all.starts_with(&late) && lost == 200 - late.len() as u64, "{late:?} {lost}");
}

#[test]
fn when_the_next_broker_goes_too_what_is_held_back_gets_what_there_is() {
    let mut world = World::new(1 << 20);
    world.shared.orphan(true);
    world.publish(0, 1);
    world.find_broker();
    let mut consumer = world.add_ring(1, &[0]);
    world.publish(0, 2);
    world.shared.orphan(true);
    let delivery = world.publish(0, 3);
    assert_eq!((delivery.reached, delivery.kept), (1, 1));
    assert_eq!(numbers(&read(&mut consumer).0), [1, 2, 3]);
    // One that ends before it had anything leaves what is kept to others.
    world.shared.remove_ring(RingId(1));
    world.publish(0, 4);
    world.find_broker();
    drop(world.add_ring(2, &[0]));
    world.shared.remove_ring(RingId(2));
    assert_eq!(world.pour().events, 0);
    world.shared.orphan(true);
    world.find_broker();
    let mut consumer = world.add_ring(3, &[0]);
    world.shared.settled(RingId(3));
    assert_eq!(world.pour().events, 2);
    world.outbox.follow();
    assert_eq!(numbers(&read(&mut consumer).0), [3, 4]);
}
