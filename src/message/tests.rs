use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::correlation::limits::extremes;

/// Each field has a value that no other has.
fn whole() -> Message {
    let correlation = CorrelationMetadata::with_parent("hash".into(), "scan".into(), "case".into())
        .with_stage("analysis".into())
        .with_tag("severity".into(), "high".into())
        .with_tag("é".into(), String::new())
        .with_sequence(u64::MAX);
    let correlation = CorrelationMetadata { created_at: UNIX_EPOCH - Duration::from_nanos(1), ..correlation };
    let topic = "control.health.heartbeat.procmond";
    Message {
        timestamp: UNIX_EPOCH + Duration::new(1 << 32, 7),
        ..Message::new(topic.into(), correlation, vec![0, 255, 7], 42, MessageType::Heartbeat)
    }
}

/// Its bytes up to the type: id and topic, each behind its length or as it is.
fn type_at(message: &Message) -> usize {
    16 + 1 + message.topic.len()
}

#[test]
fn a_message_survives_its_bytes_with_all_that_it_says() {
    let all = [whole(), Message::heartbeat(3), Message::shutdown()];
    let event = Message::event("alerts.high".into(), "scan".into(), Vec::new(), 0);
    for message in all.into_iter().chain([event]) {
        let bytes = message.to_bytes().expect("it is small");
        assert_eq!(Message::from_bytes(&bytes), Ok(message.clone()));
        assert_eq!(message.clone().to_bytes(), Ok(bytes), "the same message, the same bytes");
    }
}

#[test]
fn bytes_that_are_cut_are_no_message() {
    let bytes = whole().to_bytes().expect("it is small");
    for end in 0..bytes.len() {
        assert_eq!(Message::from_bytes(&bytes[..end]), Err(MessageError::Malformed { bytes: end }));
    }
}

#[test]
fn bytes_behind_a_message_are_refused() {
    let mut bytes = whole().to_bytes().expect("it is small");
    bytes.extend([0, 0]);
    assert_eq!(Message::from_bytes(&bytes), Err(MessageError::Trailing { surplus: 2 }));
}

#[test]
fn a_type_that_a_later_version_has_is_told_by_its_number() {
    let message = whole();
    let mut bytes = message.to_bytes().expect("it is small");
    assert_eq!(bytes[type_at(&message)], 2);
    for code in 4..=255 {
        bytes[type_at(&message)] = code;
        assert_eq!(Message::from_bytes(&bytes), Err(MessageError::UnknownType { code }));
    }
}

#[test]
fn tags_that_are_out_of_order_or_there_twice_are_refused() {
    let tag = |tag: &'static str| (Cow::from(tag), Cow::from("x"));
    let message = whole();
    for (tags, good) in [
        (vec![tag("a"), tag("b")], true),
        (vec![tag("b"), tag("a")], false),
        (vec![tag("a"), tag("a")], false),
    ] {
        let bytes = codec::encode(&Form { tags, ..Form::of(&message) });
        assert_eq!(Message::from_bytes(&bytes).is_ok(), good);
    }
}

#[test]
fn a_time_that_is_none_is_refused() {
    let message = whole();
    for time in [(0, 1_000_000_000), (i64::MAX, 0), (i64::MIN, 999_999_999)] {
        let bytes = codec::encode(&Form { created_at: time, ..Form::of(&message) });
        let refused = Message::from_bytes(&bytes);
        // Where a clock can hold it, it is one.
        assert_eq!(refused.is_ok(), from_epoch(time.0, time.1).is_some(), "{time:?}");
    }
    let bytes = codec::encode(&Form { timestamp: (0, 1_000_000_000), ..Form::of(&message) });
    assert_eq!(Message::from_bytes(&bytes), Err(MessageError::Malformed { bytes: bytes.len() }));
}

#[test]
fn what_can_be_written_can_be_read_and_what_is_above_the_limit_neither() {
    let mut message = whole();
    let overhead = message.to_bytes().expect("it is small").len();
    // A length of more than a byte takes five.
    message.payload = vec![7; MESSAGE_BYTES_MAX - overhead + 3 - 4];
    let bytes = message.to_bytes().expect("just so");
    assert_eq!(Message::from_bytes(&bytes), Ok(message.clone()));
    message.payload.push(7);
    let too_large = MessageError::TooLarge { bytes: MESSAGE_BYTES_MAX + 1, limit: MESSAGE_BYTES_MAX };
    assert_eq!(message.to_bytes(), Err(too_large));
    assert_eq!(Message::from_bytes(&codec::encode(&Form::of(&message))), Err(too_large));
    let endless = vec![0; MESSAGE_BYTES_MAX + 1];
    assert_eq!(Message::from_bytes(&endless), Err(too_large));
}

#[test]
fn a_message_whose_correlation_is_above_a_limit_is_neither_written_nor_read() {
    for (make, limit, error) in extremes::ALL {
        let message = Message { correlation_metadata: make(limit), ..whole() };
        assert_eq!(Message::from_bytes(&message.to_bytes().expect("just so")), Ok(message.clone()));
        let above = Message { correlation_metadata: make(limit + 1), ..message };
        let refused = MessageError::Correlation(error(limit + 1));
        assert_eq!(above.to_bytes(), Err(refused));
        assert_eq!(Message::from_bytes(&codec::encode(&Form::of(&above))), Err(refused));
    }
}

#[test]
fn the_topic_says_what_a_message_is_for() {
    use MessageType::{Control, Event, Heartbeat, Shutdown};
    for (topic, of) in [
        ("events.process.batch", Event),
        ("alerts.control.shutdown", Event),
        ("control.collector.task.procmond", Control),
        ("control.health.status", Control),
        ("control.health.heartbeat", Heartbeat),
        ("control.health.heartbeat.procmond", Heartbeat),
        ("control.shutdown", Shutdown),
        ("control.shutdown.procmond", Shutdown),
    ] {
        assert_eq!(MessageType::of(&Topic::new(topic).expect("a topic")), of, "{topic}");
    }
}

#[test]
fn the_topics_of_messages_without_a_payload_say_what_they_are() {
    for message in [Message::heartbeat(1), Message::shutdown()] {
        let topic = Topic::new(&message.topic).expect("a topic");
        assert_eq!(MessageType::of(&topic), message.message_type);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Message::from_bytes(&bytes);
    }
}
