//! What a session tells its broker that it has counted, and what it asks of it.

use super::super::*;
use super::{another, published, session};
use crate::batch::{BatchWriter, Opaque};
use crate::config::CLAIMS_MAX;
use crate::correlation::CorrelationMetadata;
use crate::dataplane::OutboxShared;
use crate::routing::TopicId;
use crate::statistics::BrokerStatistics;
use crate::topic::Topic;
use crate::wire::{Claims, Fact, GoodbyeReason, PublisherId, RingClaim, STATISTICS_SINCE};

fn told(session: &mut Session) -> Claims {
    session.outgoing.clear();
    session.notice(Notice::Tell, None);
    match session.outgoing.pop_front() {
        Some((Request::Told { claims }, None)) => *claims,
        other => panic!("it answers at once: {other:?}"),
    }
}

#[tokio::test]
async fn a_ring_that_nothing_was_published_to_is_told_of_and_one_of_an_earlier_broker_is_not() {
    let (core, mut session) = session();
    let _published = published(&core, &mut session);
    assert_eq!(told(&mut session).rings, [(1, RingClaim::default())]);
    session.lose_broker(&Disconnected::BrokerGone);
    session.find_broker(another(&session));
    // The broker of now may have another with that number.
    assert_eq!(told(&mut session).rings, []);
}

#[tokio::test]
async fn what_waits_in_a_ring_is_what_its_subscriber_has_not_read() {
    let (core, mut session) = session();
    let (mut outbox, mut consumer, _other_end) = published(&core, &mut session);
    let shared = Arc::clone(&session.publishers[&0].outbox);
    shared.add_topic(Topic::new("events.process.batch").expect("a topic"));
    shared.add_route(0, RouteTarget::Slot { ring: RingId(1), slot: 0, generation: 0 });
    let mut record = BatchWriter::new(1024);
    record.begin(&CorrelationMetadata::default()).expect("it fits");
    record.push(&Opaque(b"event"), None).expect("it fits");
    for _ in 0..2 {
        outbox.publish(TopicId::nth(0), &mut record);
    }
    outbox.flush();
    let waiting = |session: &mut Session| {
        let claim = told(session).rings[0].1;
        (claim.bytes, claim.bytes_waiting)
    };
    let (bytes, all) = waiting(&mut session);
    assert!(bytes > 0 && all == bytes, "{all} of {bytes}");
    let mut payload = Vec::new();
    for left in [bytes / 2, 0] {
        consumer.read(&mut payload).expect("nothing is broken").expect("a record");
        let _nobody_sleeps = consumer.release();
        assert_eq!(waiting(&mut session), (bytes, left));
    }
}

#[tokio::test]
async fn of_more_than_there_is_room_for_the_first_are_told_of() {
    let (core, mut session) = session();
    let topics = |session: &mut Session| {
        let topics = told(session).topics;
        topics.into_iter().map(|(publisher, topic, _)| (publisher, topic)).collect::<Vec<_>>()
    };
    let each = CLAIMS_MAX as u32 / 4 + 1;
    let publishers: Vec<_> = (0..6).map(|_| core.open_publisher()).collect();
    for (number, publisher) in (0..).zip(&publishers) {
        session
            .publishers
            .insert(number, PublisherState::new(Arc::new(OutboxShared::new(Arc::clone(&core.ground.kept)))));
        assert_eq!(publisher.number(), number);
        for topic in 0..each {
            let topic = Topic::new(&format!("events.process.n{topic}")).expect("a topic");
            session.declare(number, topic, oneshot::channel().0);
            let declared = Notice::Declared { request: session.last_request, publisher: PublisherId(1) };
            session.notice(declared, None);
        }
    }
    let all = (0..6).flat_map(|publisher| (0..each).map(move |topic| (publisher, topic)));
    assert_eq!(topics(&mut session), all.take(CLAIMS_MAX).collect::<Vec<_>>());
}

/// A session that may ask, and has; the number of the request, and what will come of it.
fn asked(session: &mut Session) -> (u32, oneshot::Receiver<Result<BrokerStatistics, StatisticsError>>) {
    session.welcome.version = STATISTICS_SINCE;
    let (reply, answer) = oneshot::channel();
    session.inquire(reply);
    (session.last_request, answer)
}

#[tokio::test]
async fn who_asks_is_told_why_the_broker_does_not_answer_any_more() {
    let (_core, mut session) = session();
    let (_, mut answer) = asked(&mut session);
    let why = Disconnected::Dismissed(GoodbyeReason::TooSlow { limit: 1 });
    session.lose_broker(&why);
    assert_eq!(answer.try_recv(), Ok(Err(StatisticsError::Disconnected(why.clone()))));
    let (_, mut answer) = asked(&mut session);
    assert_eq!(
        answer.try_recv(),
        Ok(Err(StatisticsError::Disconnected(why))),
        "nor is there one to be asked"
    );
}

#[tokio::test]
async fn an_answer_in_parts_is_put_together_for_all_who_wait() {
    let (_core, mut session) = session();
    let (request, mut one) = asked(&mut session);
    session.outgoing.clear();
    let (same, mut other) = asked(&mut session);
    assert!(same == request && session.outgoing.is_empty(), "it is asked once");
    let part = |facts, more| Notice::Statistics { request, facts: vec![Fact::Omitted { facts }], more };
    session.notice(part(3, true), None);
    assert!(one.try_recv().is_err(), "there is more to come");
    session.notice(part(4, false), None);
    for answer in [&mut one, &mut other] {
        let statistics = answer.try_recv().expect("it has come").expect("it is one");
        assert_eq!(statistics.omitted, 7);
    }
    session.notice(part(5, false), None);
    assert!(session.asked.is_empty(), "what was not asked for is not kept");
}

#[tokio::test]
async fn each_broker_is_told_what_none_was_told_and_another_what_came_since() {
    let (core, mut session) = session();
    let (mut outbox, _consumer, _other_end) = published(&core, &mut session);
    session.publishers[&0].outbox.add_topic(Topic::new("events.process.batch").expect("a topic"));
    let mut publish = |events: u64| assert_eq!(outbox.skip(TopicId::nth(0), events).events, events);
    let total = |session: &mut Session| told(session).totals.published;
    publish(2);
    assert_eq!([total(&mut session), total(&mut session)], [2, 2], "all that it has counted, each time");
    publish(3);
    session.lose_broker(&Disconnected::BrokerGone);
    publish(4);
    let same = session.welcome.clone();
    session.find_broker(same);
    assert_eq!(total(&mut session), 7, "it knows of two");
    publish(5);
    session.lose_broker(&Disconnected::BrokerGone);
    publish(6);
    let other = another(&session);
    session.find_broker(other);
    assert_eq!(total(&mut session), 6, "what was before is not of its time");
    session.close_publisher(0);
    assert_eq!(total(&mut session), 6);
    session.outgoing.clear();
    session.welcome.version = STATISTICS_SINCE;
    session.leave();
    assert!(
        matches!(session.outgoing.pop_front(), Some((Request::Leaving { totals }, None)) if totals.published == 6)
    );
}
