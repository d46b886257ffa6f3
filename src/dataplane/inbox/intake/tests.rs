//! A ring, and the intake that reads it, driven by hand.

use std::sync::atomic::AtomicBool;
use std::task::{Context, Waker};

use parking_lot::Mutex;
use shm::{Backing, Consumer, ConsumerSegment, ConsumerView, Producer, ProducerSegment, ProducerView};

use super::super::{InEnd, InboxCounters};
use super::*;
use crate::access::Component;
use crate::batch::{BatchWriter, Opaque};
use crate::correlation::CorrelationMetadata;
use crate::dataplane::Taken;
use crate::dataplane::wait::WaitPolicy;
use crate::topic::{Topic, TopicPattern};
use crate::wire::{Epoch, PublisherId};

const RING_BYTES: usize = 1 << 16;

/// Where nobody listens.
fn nobody() -> DataEvents {
    tokio::sync::mpsc::unbounded_channel().0
}

fn ring() -> (Producer, InRing) {
    let (producer, consumer, doorbell, origin, lineage) = parts();
    let mut ring =
        InRing::new(RingId(1), InEnd::Memory(Box::new(consumer), doorbell), origin, lineage, PublisherId(0));
    ring.grant(0, 0, Topic::new("events.process.batch").expect("a legal topic"), &Arc::from([]));
    (producer, ring)
}

fn parts() -> (Producer, Consumer, Doorbell, Arc<Origin>, Lineage) {
    let (data, marks) = (
        ProducerSegment::create(RING_BYTES, Backing::default()).expect("memory"),
        ConsumerSegment::create(Backing::default()).expect("memory"),
    );
    let share = |handle: &shm::Handle| handle.try_clone().expect("a descriptor");
    let seen_data = ProducerView::attach(share(data.handle()), RING_BYTES).expect("it is as agreed");
    let seen_marks = ConsumerView::attach(share(marks.handle())).expect("it is as agreed");
    let component = Component::from_client_id("procmond").expect("a legal id");
    let lineage = Lineage { component: component.clone(), client: 1, number: 0 };
    let origin = Arc::new(Origin { component, publisher: PublisherId(1), epoch: Epoch(1) });
    let (doorbell, _) = Doorbell::pair().expect("descriptors");
    (Producer::new(data, seen_marks), Consumer::new(seen_data, marks), doorbell, origin, lineage)
}

/// Large records, as batches are: a turn's worth of them is far more than the ring holds.
#[test]
fn a_turn_gives_space_back_long_before_it_has_read_the_whole_ring() {
    let (mut producer, mut ring) = ring();
    let mut record = BatchWriter::new(RING_BYTES as u32 / 8);
    record.begin(&CorrelationMetadata::new("scan".into())).expect("it is small");
    record.push(&Opaque(&[7; 2048]), None).expect("it is small");
    record.seal(0, std::time::UNIX_EPOCH, 0);
    while producer.push(0, 0, 1, &record.parts()).is_ok() {}
    let _ = producer.flush();
    let full = producer.occupied().expect("nothing is broken");

    let turn = ring.turn(
        usize::MAX,
        &AtomicBool::new(false),
        &InboxCounters::default(),
        &nobody(),
        &mut Pool::default(),
    );

    assert!(matches!(turn, Turn::Busy), "{turn:?}");
    let left = producer.occupied().expect("nothing is broken");
    assert!(left < full && left > full / 2, "{left} of {full} bytes are left");
}

/// A single event, published.
fn publish(producer: &mut Producer) {
    let mut record = BatchWriter::new(RING_BYTES as u32 / 8);
    record.begin(&CorrelationMetadata::new("scan".into())).expect("it is small");
    record.push(&Opaque(b"event"), None).expect("it is small");
    record.seal(0, std::time::UNIX_EPOCH, 0);
    producer.push(0, 0, 1, &record.parts()).expect("there is room");
    let _ = producer.flush();
}

fn begun_queue() -> Arc<Queue> {
    let queue = Queue::new(1 << 20);
    queue.begin();
    Arc::new(queue)
}

fn count_of(queue: &Queue) -> usize {
    let (mut taken, mut count) = (Taken::default(), 0);
    while let Poll::Ready(Some(Ok(_))) = queue.poll_next(&mut taken, &mut Context::from_waker(Waker::noop()))
    {
        count += 1;
    }
    count
}

#[test]
fn a_queue_that_joins_between_two_records_of_a_burst_gets_the_second() {
    let (mut producer, mut ring) = ring();
    let (hub, queues) = (Hub::new(), [begun_queue(), begun_queue()]);
    for (number, queue) in queues.iter().enumerate() {
        let pattern = TopicPattern::new("events.#").expect("a pattern");
        hub.add(number as u32, vec![pattern], Arc::clone(queue));
        ring.refresh(&hub);
        publish(&mut producer);
    }
    let turn = ring.turn(
        usize::MAX,
        &AtomicBool::new(false),
        &InboxCounters::default(),
        &nobody(),
        &mut Pool::default(),
    );
    assert!(matches!(turn, Turn::Busy), "{turn:?}");
    assert_eq!(queues.map(|queue| count_of(&queue)), [2, 1]);
}

#[test]
fn what_came_before_a_breach_is_delivered() {
    let (mut producer, ring) = ring();
    let (mut intake, queue) = intake_with(ring);
    publish(&mut producer);
    producer.push(0, 0, 1, &[&[7; 64]]).expect("there is room");
    let _ = producer.flush();
    intake.turn(Until::AllWereSeen);
    assert!(intake.rings.is_empty(), "it is broken");
    assert_eq!(count_of(&queue), 1);
}

/// An intake with this one ring, to be driven by hand, and the queue that the ring feeds.
fn intake_with(mut ring: InRing) -> (Intake, Arc<Queue>) {
    let queue = begun_queue();
    let topic = Topic::new("events.process.batch").expect("a legal topic");
    ring.grant(0, 0, topic, &Arc::from([Arc::clone(&queue)]));
    let (wake, woken) = Doorbell::pair().expect("descriptors");
    let shared = Shared {
        commands: Mutex::default(),
        waiting: AtomicBool::new(false),
        wake,
        asleep: AtomicBool::new(false),
        counters: Arc::default(),
    };
    let ground = Ground {
        shared: Arc::new(shared),
        hub: Arc::new(Hub::new()),
        events: tokio::sync::mpsc::unbounded_channel().0,
        policy: WaitPolicy::default(),
    };
    let mut intake = Intake::new(&ground, woken);
    intake.rings.push(ring);
    (intake, queue)
}

/// The publisher lets go of a ring that it holds to be broken, and the broker's word about it comes later.
#[test]
fn an_accusation_is_told_also_behind_the_end_of_its_ring() {
    let (mut producer, ring) = ring();
    let _ = producer.close();
    let (mut intake, queue) = intake_with(ring);
    intake.turn(Until::AllWereSeen);
    assert!(intake.rings.is_empty(), "it has ended");

    intake.carry_out(Command::Close { ring: RingId(1), accused: Some("its head".into()) });

    let next = queue.poll_next(&mut Taken::default(), &mut Context::from_waker(Waker::noop()));
    assert!(matches!(next, Poll::Ready(Some(Err(RecvError::Poisoned { .. })))), "{next:?}");
    assert!(intake.ended.is_empty(), "nothing is left of the ring");
}

#[test]
fn of_a_ring_that_the_broker_closes_first_nothing_is_left_either() {
    let (_producer, ring) = ring();
    let (mut intake, _queue) = intake_with(ring);
    intake.carry_out(Command::Close { ring: RingId(1), accused: None });
    intake.turn(Until::AllWereSeen);
    assert!(intake.rings.is_empty() && intake.ended.is_empty());
}

/// Which rings have had their turn, by the events that came from each.
#[test]
fn who_reads_for_itself_stops_at_the_first_ring_that_has_something_and_goes_on_with_the_next() {
    let (mut first, ring_one) = ring();
    let (mut second, ring_two) = ring();
    let (mut intake, queue) = intake_with(ring_one);
    let mut other = ring_two;
    other.id = RingId(2);
    let topic = Topic::new("events.process.batch").expect("a legal topic");
    other.grant(0, 0, topic, &Arc::from([Arc::clone(&queue)]));
    intake.rings.push(other);
    let (mut taken, mut context) = (Taken::default(), Context::from_waker(Waker::noop()));
    assert!(queue.poll_next(&mut taken, &mut context).is_pending());
    for _ in 0..4 {
        publish(&mut first);
        publish(&mut second);
    }
    let left = |first: &mut Producer, second: &mut Producer| {
        [first, second].map(|producer| producer.occupied().expect("nothing is broken") > 0)
    };
    for expected in [[false, true], [false, false]] {
        let item = intake.read_for(None, || queue.poll_next(&mut taken, &mut context));
        assert!(matches!(item, Poll::Ready(Some(Ok(_)))), "{item:?}");
        assert_eq!(left(&mut first, &mut second), expected);
        while queue.poll_next(&mut taken, &mut context).is_ready() {}
    }
}

/// The publisher has come back to another broker, and so has this process: there are rings of both brokers.
#[test]
fn a_ring_is_read_when_those_of_its_lineage_before_it_are_read_to_their_end() {
    let (_spare, mut spare_ring) = ring();
    spare_ring.end_soon();
    let (mut intake, queue) = intake_with(spare_ring);
    intake.turn(Until::AllWereSeen);
    let mut producers = Vec::new();
    for number in 1..=3 {
        let (producer, consumer, doorbell, origin, lineage) = parts();
        let ring = RingId(number);
        let consumer = Box::new(consumer);
        intake.carry_out(Command::Add { ring, end: InEnd::Memory(consumer, doorbell), origin, lineage });
        let topic = Topic::new("events.process.batch").expect("a legal topic");
        intake.ring(ring).expect("it was just added").grant(0, 0, topic, &Arc::from([Arc::clone(&queue)]));
        producers.push(producer);
        // Of a broker each. They are no orphans yet, whose publisher seems to be gone.
        intake.life += 1;
    }
    let keys: Vec<PublisherId> = intake.rings.iter().map(InRing::publisher).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "they are one publisher's: {keys:?}");
    intake.carry_out(Command::Detach);
    for producer in &mut producers {
        publish(producer);
    }
    for read in 1..=3 {
        intake.turn(Until::AllWereSeen);
        intake.turn(Until::AllWereSeen);
        assert_eq!(count_of(&queue), 1, "of ring {read} alone");
        assert!(!intake.turn(Until::AllWereSeen), "there is nothing more to do");
        let _ = producers.remove(0).close();
    }
    intake.turn(Until::AllWereSeen);
    assert!(intake.rings.is_empty());
}

/// One is for events, one for control: neither has to end before the other is read.
#[test]
fn two_rings_of_a_publisher_are_read_side_by_side_also_behind_those_of_a_broker_before() {
    let (_spare, mut spare_ring) = ring();
    spare_ring.end_soon();
    let (mut intake, queue) = intake_with(spare_ring);
    intake.turn(Until::AllWereSeen);
    let mut producers = Vec::new();
    for number in 1..=4 {
        let (mut producer, consumer, doorbell, origin, lineage) = parts();
        let ring = RingId(number);
        let consumer = Box::new(consumer);
        intake.carry_out(Command::Add { ring, end: InEnd::Memory(consumer, doorbell), origin, lineage });
        let topic = Topic::new("events.process.batch").expect("a legal topic");
        intake.ring(ring).expect("it was just added").grant(0, 0, topic, &Arc::from([Arc::clone(&queue)]));
        publish(&mut producer);
        producers.push(producer);
        if number == 2 {
            intake.carry_out(Command::Detach);
        }
    }
    for _broker in 0..2 {
        intake.turn(Until::AllWereSeen);
        intake.turn(Until::AllWereSeen);
        assert_eq!(count_of(&queue), 2, "of both rings of one broker");
        let _ = producers.remove(0).close();
        let _ = producers.remove(0).close();
        intake.turn(Until::AllWereSeen);
    }
}

/// A silent publisher lets go of its first ring at its next call, and of those that it never took over at once.
#[test]
fn rings_of_a_silent_publisher_do_not_pile_up_while_brokers_come_and_go() {
    let (_spare, mut spare_ring) = ring();
    spare_ring.end_soon();
    let (mut intake, queue) = intake_with(spare_ring);
    intake.turn(Until::AllWereSeen);
    for number in 1..=30 {
        // Its other end of the doorbell is closed.
        let (mut producer, consumer, doorbell, origin, lineage) = parts();
        let (ring, consumer) = (RingId(number), Box::new(consumer));
        intake.carry_out(Command::Add { ring, end: InEnd::Memory(consumer, doorbell), origin, lineage });
        let topic = Topic::new("events.process.batch").expect("a legal topic");
        intake.ring(ring).expect("it was just added").grant(0, 0, topic, &Arc::from([Arc::clone(&queue)]));
        if number == 7 {
            publish(&mut producer);
        }
        intake.carry_out(Command::Detach);
    }
    let left: Vec<u64> = intake.rings.iter().map(|ring| ring.id.0).collect();
    assert_eq!(left, [1, 7, 30], "the one that is read, one with something in it, and the last");
    intake.rings[0].end_soon();
    intake.turn(Until::AllWereSeen);
    intake.turn(Until::AllWereSeen);
    assert_eq!(count_of(&queue), 1);
}

/// It may write on as it likes: nobody says any more that it may be heard.
#[test]
fn a_ring_of_a_publisher_that_has_not_come_back_is_read_to_where_it_stands_and_no_further() {
    for has_another in [false, true] {
        let (mut producer, ring) = ring();
        let (mut intake, queue) = intake_with(ring);
        intake.carry_out(Command::Detach);
        publish(&mut producer);
        let (_next, consumer, doorbell, origin, lineage) = parts();
        if has_another {
            let (ring, consumer) = (RingId(2), Box::new(consumer));
            intake.carry_out(Command::Add { ring, end: InEnd::Memory(consumer, doorbell), origin, lineage });
        }
        intake.carry_out(Command::CutOff { ring: RingId(1) });
        publish(&mut producer);
        while intake.turn(Until::AllWereSeen) {}
        let (mut taken, mut context) = (Taken::default(), Context::from_waker(Waker::noop()));
        let mut next = || queue.poll_next(&mut taken, &mut context);
        assert!(matches!(next(), Poll::Ready(Some(Ok(batch))) if batch.len() == 1), "what was there");
        match next() {
            Poll::Pending => assert!(has_another, "it is told that it hears no more"),
            Poll::Ready(Some(Err(RecvError::CutOff { component }))) => {
                assert_eq!((component.as_str(), has_another), ("procmond", false));
            }
            other => panic!("{other:?}"),
        }
        let left: Vec<u64> = intake.rings.iter().map(|ring| ring.id.0).collect();
        assert_eq!(left, if has_another { vec![2] } else { vec![] });
    }
}
