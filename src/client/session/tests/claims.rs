//! What a session tells its broker that it has counted.

use super::super::*;
use super::{another, published, session};
use crate::config::CLAIMS_MAX;
use crate::dataplane::OutboxShared;
use crate::topic::Topic;
use crate::wire::{Claims, PublisherId, RingClaim};

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
async fn of_more_than_there_is_room_for_the_first_are_told_of() {
    let (core, mut session) = session();
    let topics = |session: &mut Session| {
        let topics = told(session).topics;
        topics.into_iter().map(|(publisher, topic, _)| (publisher, topic)).collect::<Vec<_>>()
    };
    let each = CLAIMS_MAX as u32 / 4 + 1;
    let publishers: Vec<_> = (0..6).map(|_| core.open_publisher()).collect();
    for (number, publisher) in (0..).zip(&publishers) {
        session.publishers.insert(number, PublisherState::new(Arc::new(OutboxShared::new())));
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
