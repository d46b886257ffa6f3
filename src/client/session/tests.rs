//! A session by itself: no broker, and no thread.

use std::task::{Context, Poll, Waker};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use shm::{Consumer, ConsumerSegment, ConsumerView, Doorbell, Producer, ProducerSegment, ProducerView};

use super::super::{ClientSettings, Core};
use super::*;
use crate::access::Component;
use crate::config::MAKING_MAX;
use crate::dataplane::{Lineage, Origin, Outbox, OutboxShared, Queue, Reader, RecvError, RingEnd, Taken};
use crate::topic::{Topic, TopicPattern};
use crate::wire::{Epoch, Handle, OrderId, PublisherId};

mod claims;

const RING_BYTES: usize = 64 << 10;

fn session() -> (Arc<Core>, Session) {
    let component = "agent".into();
    let (ring_bytes, backing) = (RING_BYTES as u64, shm::Backing::Memfd);
    let welcome = Welcome { version: 1, epoch: Epoch(1), component, ring_bytes, backing, proof: None };
    let (queue_bytes, deadline) = (1 << 20, Duration::from_secs(5));
    let (outbox_bytes, wait_policy) = (1 << 20, WaitPolicy::default());
    let settings = ClientSettings { queue_bytes, outbox_bytes, wait_policy, deadline };
    let (core, ground, _) = Core::new(&welcome, settings);
    (core, Session::new(ground, welcome))
}

fn making_of(ring: RingId, ring_bytes: u64) -> Notice {
    let subscriber = "detector".to_owned();
    Notice::MakeProducerSegment { ring, publisher: 0, ring_bytes, subscriber, client: 1 }
}

/// A segment as the kernel wants it, that does not start as one.
fn unformatted(bytes: usize) -> Descriptor {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let descriptor = rustix::fs::memfd_create("unformatted", flags).expect("memory");
    rustix::fs::ftruncate(&descriptor, bytes as u64).expect("a size");
    rustix::fs::fallocate(&descriptor, FallocateFlags::empty(), 0, bytes as u64).expect("memory");
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&descriptor, seals).expect("it may be sealed");
    descriptor.into()
}

#[test]
fn a_publisher_that_spoils_its_segment_is_accused_and_does_not_cost_us_our_session() {
    let (_core, mut session) = session();
    let ring = RingId(5);
    let (_other_end, bell) = Doorbell::ends().expect("descriptors");
    let component = "procmond".into();
    let make =
        Notice::MakeConsumerSegment { ring, publisher: PublisherId(1), component, client: 1, number: 0 };
    session.notice(make, Some(bell));
    assert!(matches!(session.outgoing.pop_front(), Some((Request::ConsumerSegment { .. }, Some(_)))));
    let spoiled = unformatted(shm::layout::PRODUCER_HEADER_BYTES + RING_BYTES);
    let handle = shm::Handle::from(spoiled);
    shm::check_producer_segment(&handle, RING_BYTES, 0).expect("the broker would hand it on");
    let (handle, spoiled) = Handle::split(handle);
    let ring_bytes = RING_BYTES as u64;
    session.notice(Notice::AttachConsumer { ring, handle, ring_bytes }, spoiled);
    let said = session.outgoing.pop_front();
    assert!(matches!(said, Some((Request::Poisoned { ring: RingId(5), .. }, None))), "{said:?}");
    assert!(session.rings.is_empty() && session.outgoing.is_empty());
}

#[test]
fn a_peer_that_took_its_name_along_costs_the_ring_and_nobody_a_session() {
    let (_core, mut session) = session();
    let ring = RingId(5);
    let (other_end, bell) = Doorbell::ends().expect("descriptors");
    let other_end = Doorbell::from(other_end);
    let component = "procmond".into();
    let make =
        Notice::MakeConsumerSegment { ring, publisher: PublisherId(1), component, client: 1, number: 0 };
    session.notice(make, Some(bell));
    session.outgoing.clear();
    let handle = Handle::Name("/deebp000010000000000000000000".parse().expect("a name that nobody has"));
    session.notice(Notice::AttachConsumer { ring, handle, ring_bytes: RING_BYTES as u64 }, None);
    assert!(session.rings.is_empty() && session.outgoing.is_empty(), "{:?}", session.outgoing);
    assert_eq!(other_end.hear(), shm::Heard::PeerGone, "our end of the doorbell is closed");
}

/// The segment is in the offing: nothing is said of it yet.
fn making(session: &mut Session, ring: RingId) -> Doorbell {
    let (other_end, bell) = Doorbell::ends().expect("descriptors");
    let ring_bytes = 2 * RING_BYTES as u64;
    session.notice(making_of(ring, ring_bytes), Some(bell));
    assert!(session.outgoing.is_empty() && session.making.at_work() == 1, "the control thread is free");
    other_end.into()
}

#[tokio::test]
async fn a_segment_that_is_larger_than_usual_is_made_beside_the_control_thread() {
    let (_core, mut session) = session();
    let (first, second) = (RingId(5), RingId(6));
    let bell = making(&mut session, first);
    let made = session.making.next().await.expect("it is being made");
    session.made(made);
    let offered = session.outgoing.pop_front();
    let Some((Request::ProducerSegment { ring, handle }, descriptor)) = offered else {
        panic!("{offered:?}")
    };
    let handle = handle.join(descriptor).expect("it has what it carries");
    shm::check_producer_segment(&handle, 2 * RING_BYTES, 0).expect("it has the size asked for");
    assert_eq!((ring, bell.hear()), (first, shm::Heard::PeerThere), "our end is open");

    let bell = making(&mut session, second);
    session.notice(Notice::CloseRing { ring: second, accused: None }, None);
    let made = session.making.next().await.expect("it is being made");
    session.made(made);
    assert!(session.outgoing.is_empty(), "of a ring that was closed meanwhile nothing is said");
    assert_eq!(bell.hear(), shm::Heard::PeerGone);
}

#[tokio::test]
async fn who_asks_for_large_rings_and_leaves_again_and_again_has_few_of_them_made() {
    let (_core, mut session) = session();
    let ring_bytes = 2 * RING_BYTES as u64;
    for ring in (0..100).map(RingId) {
        let (_other_end, bell) = Doorbell::ends().expect("descriptors");
        session.notice(making_of(ring, ring_bytes), Some(bell));
        assert!(session.making.at_work() <= MAKING_MAX);
        if ring.0 != 50 {
            session.notice(Notice::CloseRing { ring, accused: None }, None);
        }
    }
    let mut made = Vec::new();
    while session.making.at_work() > 0 {
        let next = session.making.next().await.expect("it is being made");
        made.push(next.0.0);
        session.made(next);
    }
    made.sort_unstable();
    assert_eq!(made, [0, 1, 50], "what nobody wants any more when its turn comes is not made");
    let offered = session.outgoing.pop_front();
    assert!(matches!(offered, Some((Request::ProducerSegment { ring: RingId(50), .. }, _))), "{offered:?}");
    assert!(session.outgoing.is_empty());
}

fn next(queue: &Queue) -> Poll<Option<Result<(), RecvError>>> {
    let next = queue.poll_next(&mut Taken::default(), &mut Context::from_waker(Waker::noop()));
    next.map(|item| item.map(|item| item.map(drop)))
}

#[tokio::test]
async fn who_was_away_while_a_ring_ended_is_told_that_it_may_have_missed_something() {
    for (away, replaced) in [(false, false), (true, true), (true, false)] {
        let (core, mut session) = session();
        let queue = Arc::new(Queue::new(1 << 20));
        core.ground.hub.add(0, vec![], Arc::clone(&queue));
        queue.begin();
        for (ring, number) in [(1, 1), (2, if replaced { 1 } else { 2 })] {
            session.rings.insert(RingId(ring), heard(number));
        }
        session.lose_broker(&Disconnected::BrokerGone);
        if away {
            session.data_event(DataEvent::Ended { ring: RingId(1) });
        }
        // One that was closed before.
        session.data_event(DataEvent::Ended { ring: RingId(3) });
        session.find_broker(another(&session));
        // As a ring does whose place another has taken.
        session.data_event(DataEvent::Ended { ring: RingId(2) });
        session.lose_broker(&Disconnected::BrokerGone);
        session.find_broker(another(&session));
        let told = matches!(next(&queue), Poll::Ready(Some(Err(RecvError::Away { .. }))));
        assert_eq!(told, away && !replaced);
    }
}

/// A ring that leads here from procmond's publisher of this number, and is complete.
fn heard(number: u32) -> RingState {
    let component = Component::from_client_id("procmond").expect("a legal id");
    let lineage = Lineage { component: component.clone(), client: 1, number };
    let origin = Arc::new(Origin { component, publisher: PublisherId(1), epoch: Epoch(1) });
    RingState::Consumer { origin, lineage, half: None }
}

/// The welcome of the next broker.
fn another(session: &Session) -> Welcome {
    Welcome { epoch: Epoch(session.welcome.epoch.0 + 1), ..session.welcome.clone() }
}

/// The line broke, and the broker has told all others that their rings to and from here are closed.
#[tokio::test]
async fn who_comes_back_to_the_very_broker_it_has_lost_lets_go_of_its_rings_and_is_told_what_that_means() {
    for same in [false, true] {
        let (core, mut session) = session();
        let queue = Arc::new(Queue::new(1 << 20));
        core.ground.hub.add(0, vec![], Arc::clone(&queue));
        queue.begin();
        session.rings.insert(RingId(1), heard(0));
        session.lose_broker(&Disconnected::BrokerGone);
        let welcome = if same { session.welcome.clone() } else { another(&session) };
        session.find_broker(welcome);
        assert_eq!(session.rings.is_empty(), same);
        let told = matches!(next(&queue), Poll::Ready(Some(Err(RecvError::Away { .. }))));
        assert_eq!(told, same);
    }
}

#[tokio::test]
async fn of_rings_that_end_beside_a_broker_nothing_is_left() {
    let (core, mut session) = session();
    let outbox = core.open_publisher();
    let shared = Arc::new(OutboxShared::new(Arc::clone(&core.ground.kept)));
    session.publishers.insert(outbox.number(), PublisherState::new(shared));
    let pair = Pair { publisher: outbox.number(), subscriber: "detector".into(), client: 1 };
    session.rings.insert(RingId(1), RingState::Producer { pair: pair.clone(), half: None });
    session.rings.insert(RingId(2), heard(0));
    session.lose_broker(&Disconnected::BrokerGone);
    session.detaching = 1;
    session.data_event(DataEvent::Detached { ended: vec![RingId(2)] });
    assert_eq!(session.rings.len(), 1, "the one that was read to its end before is gone");
    session.command(Command::ClosePublisher { publisher: outbox.number() });
    assert!(session.rings.is_empty(), "so is that of a publisher that is closed");
    // Its broker goes before it says that the ring ends.
    session.rings.insert(RingId(3), RingState::Producer { pair, half: None });
    session.find_broker(another(&session));
    session.lose_broker(&Disconnected::BrokerGone);
    assert!(session.rings.is_empty());
}

#[tokio::test]
async fn who_says_again_and_again_that_it_is_back_takes_no_memory_of_others() {
    let (_core, mut session) = session();
    session.lose_broker(&Disconnected::BrokerGone);
    session.find_broker(another(&session));
    for client in 0..1000 {
        session.notice(Notice::Settled { component: "procmond".into(), client }, None);
    }
    assert!(session.settled.is_empty());
}

/// A ring to the detector, complete.
fn published(core: &Arc<Core>, session: &mut Session) -> (Outbox, Consumer, Doorbell) {
    let publisher = 0;
    let shared = Arc::new(OutboxShared::new(Arc::clone(&core.ground.kept)));
    session.publishers.insert(publisher, PublisherState::new(Arc::clone(&shared)));
    let data = ProducerSegment::create(RING_BYTES, shm::Backing::Memfd).expect("memory");
    let marks = ConsumerSegment::create(shm::Backing::Memfd).expect("memory");
    let share = |handle: &shm::Handle| handle.try_clone().expect("a descriptor");
    let seen = ProducerView::attach(share(data.handle()), RING_BYTES).expect("it is as agreed");
    let view = ConsumerView::attach(share(marks.handle())).expect("it is as agreed");
    let (progress, producer) = (view.progress(), Producer::new(data, view));
    let consumer = Consumer::new(seen, marks);
    let (doorbell, other_end) = Doorbell::pair().expect("descriptors");
    let pair = Pair { publisher, subscriber: "detector".into(), client: 1 };
    session.rings.insert(RingId(1), RingState::Producer { pair, half: None });
    let end = RingEnd::Memory(Box::new(producer), progress, doorbell);
    let reader = Reader { component: "agent".into(), client: 1 };
    shared.add_ring(RingId(1), end, reader, vec![]);
    let (hub, events) = (Arc::clone(&core.ground.hub), core.ground.data_events.clone());
    (Outbox::new(shared, hub, events, 1024), consumer, other_end)
}

#[tokio::test]
async fn a_ring_to_who_has_not_come_back_ends_when_its_time_is_over() {
    let (core, mut session) = session();
    let (mut published, mut consumer, _other_end) = published(&core, &mut session);
    session.lose_broker(&Disconnected::BrokerGone);
    session.find_broker(another(&session));
    session.release_rings();
    published.follow();
    assert!(!consumer.ended().expect("nothing is broken"), "it may yet come back");
    session.end_orphans();
    published.follow();
    assert!(consumer.ended().expect("nothing is broken") && session.rings.is_empty());
}

#[tokio::test]
async fn a_ring_from_who_has_not_come_back_ends_when_its_time_is_over() {
    let (core, mut session) = session();
    let queue = Arc::new(Queue::new(1 << 20));
    core.ground.hub.add(0, vec![TopicPattern::new("events.#").expect("a pattern")], Arc::clone(&queue));
    queue.begin();
    // The broker introduces procmond, which then has one end of a doorbell; its segment is its own.
    let (other_end, bell) = Doorbell::ends().expect("descriptors");
    let (ring, component) = (RingId(5), "procmond".to_owned());
    let make =
        Notice::MakeConsumerSegment { ring, publisher: PublisherId(1), component, client: 1, number: 0 };
    session.notice(make, Some(bell));
    let data = ProducerSegment::create(RING_BYTES, shm::Backing::Memfd).expect("memory");
    let (handle, descriptor) = Handle::split(data.handle().try_clone().expect("a descriptor"));
    session.notice(Notice::AttachConsumer { ring, handle, ring_bytes: RING_BYTES as u64 }, descriptor);
    let topic = Topic::new("events.process.batch").expect("a legal topic");
    session.notice(Notice::Grant { order: OrderId(1), ring, slot: 0, generation: 0, topic }, None);
    session.lose_broker(&Disconnected::BrokerGone);
    session.find_broker(another(&session));
    assert!(session.orphans_until.is_some() && session.rings.len() == 1, "it may yet come back");
    session.end_orphans();
    assert!(session.rings.is_empty());
    let told = async {
        loop {
            match next(&queue) {
                Poll::Ready(item) => return item,
                Poll::Pending => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await.expect("it is told");
    assert!(matches!(told, Some(Err(RecvError::CutOff { .. }))), "{told:?}");
    // Joins the data thread.
    drop(session);
    assert_eq!(Doorbell::from(other_end).hear(), shm::Heard::PeerGone, "the publisher hears of it");
}

/// Only what goes to a client's own subscriptions depends on them: others would read what is published on new topics too late.
#[tokio::test]
async fn a_ring_ends_when_its_two_sides_are_back_whatever_else_its_publisher_waits_for() {
    let (core, mut session) = session();
    let (mut published, mut consumer, _other_end) = published(&core, &mut session);
    session.lose_broker(&Disconnected::BrokerGone);
    session.missing.insert(7);
    session.find_broker(another(&session));
    published.follow();
    assert!(!consumer.ended().expect("nothing is broken"));
    session.notice(Notice::Settled { component: "detector".into(), client: 2 }, None);
    published.follow();
    assert!(!consumer.ended().expect("nothing is broken"), "another is");
    session.notice(Notice::Settled { component: "detector".into(), client: 1 }, None);
    published.follow();
    assert!(consumer.ended().expect("nothing is broken") && session.rings.is_empty());
}

#[test]
fn a_session_that_is_dropped_midway_ends_what_waits_for_it() {
    let (core, session) = session();
    let connection = core.ground.connection.subscribe();
    let queue = Arc::new(Queue::new(1 << 20));
    core.ground.hub.add(0, vec![], Arc::clone(&queue));
    let mut now = Context::from_waker(Waker::noop());
    assert!(queue.poll_next(&mut Taken::default(), &mut now).is_pending());
    drop(session);
    assert_eq!(*connection.borrow(), Connection::Over(Disconnected::BrokerGone));
    assert!(queue.poll_next(&mut Taken::default(), &mut now).is_ready(), "its subscriptions have ended");
}
