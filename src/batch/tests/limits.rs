//! What the writer takes: at each limit, and one past it.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::{Duration, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;

use super::{RECORD_BYTES_MAX, one_of_each, push, pushed, read_everything, record};
use crate::batch::layout::{Entry, Header};
use crate::batch::{
    BatchView, BatchWriter, EventTooLarge, Opaque, PushError, RECORD_BYTES_TARGET, RECORD_EVENTS_MAX,
};
use crate::correlation::CorrelationMetadata;
use crate::event::{CollectionEvent, FilesystemEvent, ProcessEvent, TriggerRequest};

fn file(path_bytes: usize) -> FilesystemEvent {
    FilesystemEvent {
        path: "p".repeat(path_bytes),
        event_type: String::new(),
        size: None,
        metadata: HashMap::new(),
    }
}

/// A writer with one record begun, its bytes, and those that an event of `file` takes apart from its path.
fn begun(record_bytes_max: u32) -> (BatchWriter, usize, usize) {
    let mut writer = BatchWriter::new(record_bytes_max);
    writer.begin(&CorrelationMetadata::new("scan".to_string())).expect("it fits");
    let bytes = writer.bytes();
    (writer, bytes, size_of::<Entry>())
}

#[test]
fn a_record_takes_512_events_and_no_more() {
    let (mut writer, ..) = begun(RECORD_BYTES_MAX);
    for _ in 0..RECORD_EVENTS_MAX {
        writer.push(&file(0), None).expect("there is room");
    }
    assert_eq!(writer.push(&file(0), None), Err(PushError::RecordFull));
    assert_eq!(writer.push(&file(0), Some(&CorrelationMetadata::default())), Err(PushError::RecordFull));
    writer.seal(0, UNIX_EPOCH, 0);
    assert_eq!(BatchView::parse(&writer.parts().concat()).expect("we wrote it").len(), RECORD_EVENTS_MAX);
}

#[test]
fn a_record_of_several_events_ends_at_64_kib() {
    let (mut writer, bytes, entry) = begun(RECORD_BYTES_MAX);
    writer.push(&file(0), None).expect("there is room");
    let rest = RECORD_BYTES_TARGET - bytes - 2 * entry;
    assert_eq!(writer.push(&file(rest + 1), None), Err(PushError::RecordFull));
    assert_eq!(writer.push(&file(rest), None), Ok(()));
    assert_eq!(writer.bytes(), RECORD_BYTES_TARGET);
}

#[test]
fn what_several_events_may_share_can_be_less_than_what_one_may_have() {
    let (mut writer, bytes, entry) = begun(RECORD_BYTES_MAX);
    writer.limit_to(100_000, 1_000);
    let correlation = CorrelationMetadata::new("scan".to_string());
    let refused = PushError::EventTooLarge(EventTooLarge { bytes: 100_001, limit: 100_000 });
    assert_eq!(writer.push(&file(100_001 - bytes - entry), None), Err(refused));
    assert_eq!(writer.push(&file(100_000 - bytes - entry), None), Ok(()));
    assert_eq!(writer.push(&file(0), None), Err(PushError::RecordFull), "it has its record to itself");
    writer.begin(&correlation).expect("it fits");
    writer.push(&file(0), None).expect("there is room");
    let rest = 1_000 - bytes - 2 * entry;
    assert_eq!(writer.push(&file(rest + 1), None), Err(PushError::RecordFull));
    assert_eq!(writer.push(&file(rest), None), Ok(()));
}

#[test]
fn a_small_limit_holds_for_several_events_too() {
    let (mut writer, bytes, entry) = begun(1_000);
    writer.push(&file(0), None).expect("there is room");
    let rest = 1_000 - bytes - 2 * entry;
    assert_eq!(writer.push(&file(rest + 1), None), Err(PushError::RecordFull));
    assert_eq!(writer.push(&file(rest), None), Ok(()));
}

#[test]
fn a_single_event_may_fill_the_largest_record_and_no_more() {
    let (mut writer, bytes, entry) = begun(RECORD_BYTES_MAX);
    let limit = u64::from(RECORD_BYTES_MAX);
    let path_bytes = RECORD_BYTES_MAX as usize - bytes - entry;
    let refused = EventTooLarge { bytes: limit + 1, limit };
    assert_eq!(writer.push(&file(path_bytes + 1), None), Err(refused.into()));
    assert_eq!(writer.push(&file(path_bytes), None), Ok(()));
    assert_eq!(writer.bytes(), RECORD_BYTES_MAX as usize);
    assert_eq!(
        writer.push(&file(path_bytes + 1), None),
        Err(refused.into()),
        "no record takes it, full or not"
    );
    assert_eq!(writer.push(&file(path_bytes), None), Err(PushError::RecordFull), "the next one takes this");
}

#[test]
fn blobs_count_with_their_padding() {
    let (mut writer, bytes, entry) = begun(1_000);
    let limit = 1_000 - bytes - entry;
    let rest = limit / 8 * 8;
    let refused = EventTooLarge { bytes: (bytes + entry + rest + 8) as u64, limit: 1_000 };
    assert_eq!(writer.push(&Opaque(&vec![0; rest + 1]), None), Err(refused.into()));
    assert_eq!(writer.push(&Opaque(&vec![0; rest]), None), Ok(()));
}

#[test]
fn a_correlation_that_fits_no_record_is_refused() {
    let correlation = CorrelationMetadata::new("c".repeat(250));
    let needed = (size_of::<Header>() + size_of::<Entry>() + 500) as u64;
    let mut writer = BatchWriter::new(595);
    assert_eq!(writer.begin(&correlation), Err(EventTooLarge { bytes: needed, limit: 595 }));
    assert_eq!(BatchWriter::new(596).begin(&correlation), Ok(()));
    assert_eq!(BatchWriter::new(47).begin(&correlation), Err(EventTooLarge { bytes: needed, limit: 47 }));
}

#[test]
fn a_refused_event_leaves_no_trace() {
    let [large_pairs, large_blob] = [
        CollectionEvent::from(ProcessEvent {
            pid: 1,
            name: "n".to_string(),
            command_line: None,
            executable_path: None,
            ppid: None,
            start_time: None,
            metadata: (0..100).map(|n| (n.to_string(), "v".repeat(1_000))).collect(),
        }),
        TriggerRequest {
            request_id: "r".to_string(),
            collector_type: String::new(),
            priority: 0,
            payload: vec![1; 100_000],
            metadata: HashMap::from([("k".to_string(), "v".to_string())]),
        }
        .into(),
    ];
    let own = CorrelationMetadata::new("own".to_string()).with_tag("k".to_string(), "v".to_string());
    let large_own =
        (1..64).fold(own.clone(), |node, tag| node.with_tag(format!("{tag:0128}"), "v".repeat(1_024)));
    for record_bytes_max in [RECORD_BYTES_MAX, 80_000] {
        let mut writer = BatchWriter::new(record_bytes_max);
        let correlation = CorrelationMetadata::new("scan".to_string());
        let batch = [(Ok(file(3).into()), None), (Err(vec![1; 3]), Some(own.clone()))];
        writer.begin(&correlation).expect("it fits");
        for event in &batch {
            push(&mut writer, event).expect("it fits");
        }
        let bytes = writer.bytes();
        for own in [None, Some(&own)] {
            writer.push(&large_pairs, own).expect_err("it is too large");
            writer.push(&large_blob, own).expect_err("it is too large");
            writer.push(&file(70_000), own).expect_err("it is too large");
        }
        writer.push(&file(1), Some(&large_own)).expect_err("it is too large");
        assert_eq!((writer.len(), writer.bytes()), (2, bytes));
        writer.seal(1_000, UNIX_EPOCH + Duration::from_millis(1_500), 77);

        let mut other = BatchWriter::new(record_bytes_max);
        other.begin(&correlation).expect("it fits");
        for event in &batch {
            push(&mut other, event).expect("it fits");
        }
        other.seal(1_000, UNIX_EPOCH + Duration::from_millis(1_500), 77);
        let read = writer.parts().concat();
        assert_eq!(BatchView::parse(&read).map(read_everything), Ok(()));
        assert_eq!(writer.parts().map(<[u8]>::len), other.parts().map(<[u8]>::len));
    }
}

#[test]
fn a_record_begun_again_has_nothing_of_the_one_before() {
    let scan = CorrelationMetadata::new("scan".to_string());
    let mut writer = BatchWriter::new(RECORD_BYTES_MAX);
    for events in [one_of_each(), vec![(Ok(file(2).into()), None)]] {
        writer.begin(&scan).expect("it fits");
        for event in &events {
            push(&mut writer, event).expect("it fits");
        }
        writer.seal(1_000, UNIX_EPOCH + Duration::from_millis(1_500), 77);
        if events.len() == 1 {
            assert_eq!(writer.parts().concat(), record(&scan, &events));
        }
    }
}

#[test]
fn sealing_again_replaces_only_the_stamp() {
    let mut writer = BatchWriter::new(RECORD_BYTES_MAX);
    writer.begin(&CorrelationMetadata::new("scan".to_string())).expect("it fits");
    for event in &one_of_each() {
        push(&mut writer, event).expect("it fits");
    }
    writer.seal(1, UNIX_EPOCH, 1);
    let first = writer.parts().concat();
    writer.seal(2, UNIX_EPOCH + Duration::from_secs(2), 2);
    let second = writer.parts().concat();
    assert_eq!(first[size_of::<Header>()..], second[size_of::<Header>()..]);
    assert_eq!(BatchView::parse(&second).map(|view| view.first_sequence()), Ok(2));
}

#[test]
#[should_panic(expected = "events are pushed between begin and seal")]
fn an_event_pushed_after_sealing_is_our_own_bug() {
    let (mut writer, ..) = begun(1_000);
    writer.push(&file(0), None).expect("there is room");
    writer.seal(0, UNIX_EPOCH, 0);
    let _ = writer.push(&file(0), None);
}

proptest! {
    /// Whoever sees `RecordFull` begins a record and pushes again; it must not see it again.
    #[test]
    fn an_empty_record_is_never_full(events in vec(pushed(), 1..40), record_bytes_max in 100..2_000_u32) {
        let mut writer = BatchWriter::new(record_bytes_max);
        let scan = CorrelationMetadata::new("scan".to_string());
        for event in &events {
            if writer.begin(&scan).is_err() {
                continue;
            }
            let alone = record(&scan, std::slice::from_ref(event)).len();
            let too_large = alone > record_bytes_max as usize;
            let refused = EventTooLarge { bytes: alone as u64, limit: u64::from(record_bytes_max) };
            let expected = if too_large { Err(refused.into()) } else { Ok(()) };
            prop_assert_eq!(push(&mut writer, event), expected);
        }
    }

    #[test]
    fn a_batch_split_into_records_loses_nothing(events in vec(pushed(), 1..60), record_bytes_max in 1_500..4_000_u32) {
        let mut writer = BatchWriter::new(record_bytes_max);
        let scan = CorrelationMetadata::new("scan".to_string());
        let mut records = Vec::new();
        writer.begin(&scan).expect("it fits");
        for event in &events {
            if push(&mut writer, event).is_err() {
                writer.seal(0, UNIX_EPOCH, 0);
                records.push(writer.parts().concat());
                writer.begin(&scan).expect("it fits");
                push(&mut writer, event).expect("it fits into a record of its own");
            }
        }
        writer.seal(0, UNIX_EPOCH, 0);
        records.push(writer.parts().concat());

        prop_assert!(records.iter().all(|record| record.len() <= record_bytes_max as usize));
        let views = records.iter().map(|record| BatchView::parse(record).expect("we wrote it"));
        let read: Vec<_> = views.flatten().map(|event| event.to_owned()).collect();
        let pushed: Vec<_> = events.into_iter().map(|(event, _)| event.ok()).collect();
        prop_assert_eq!(read, pushed);
    }
}

#[test]
fn a_payload_and_long_strings_fill_a_record_together() {
    let (mut writer, bytes, entry) = begun(RECORD_BYTES_MAX);
    let request_id_bytes = RECORD_BYTES_MAX as usize - bytes - entry - 600_000;
    let request = TriggerRequest {
        request_id: "r".repeat(request_id_bytes),
        collector_type: String::new(),
        priority: 0,
        payload: vec![1; 600_000],
        metadata: HashMap::new(),
    };
    assert_eq!(writer.push(&request, None), Ok(()));
    assert_eq!(writer.bytes(), RECORD_BYTES_MAX as usize);
}

#[test]
fn a_record_that_begins_as_the_one_before_is_what_it_would_be_otherwise() {
    let scan =
        CorrelationMetadata::new("scan-42".to_string()).with_tag("host".to_string(), "here".to_string());
    let other = CorrelationMetadata::new("scan-43".to_string());
    let (one, two) = (NonZeroU64::MIN, NonZeroU64::new(2));
    let events = one_of_each();
    let bytes = |writer: &mut BatchWriter| {
        for event in &events {
            push(writer, event).expect("it fits");
        }
        writer.seal(0, UNIX_EPOCH, 0);
        writer.parts().concat()
    };
    let fresh = |correlation| {
        let mut writer = BatchWriter::new(RECORD_BYTES_MAX);
        writer.begin(correlation).expect("it fits");
        bytes(&mut writer)
    };
    let mut writer = BatchWriter::new(RECORD_BYTES_MAX);
    for (correlation, stamp) in
        [(&scan, Some(one)), (&scan, Some(one)), (&other, two), (&scan, None), (&other, two)]
    {
        writer.begin_stamped(correlation, stamp).expect("it fits");
        assert_eq!(bytes(&mut writer), fresh(correlation), "{stamp:?}");
    }
    // Two in a row with one stamp: what the second says is not looked at.
    writer.begin_stamped(&scan, two).expect("it fits");
    assert_eq!(bytes(&mut writer), fresh(&other));
}
