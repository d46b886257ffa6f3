//! One damaged record for each thing that can be wrong with it.

use std::collections::HashMap;
use std::mem::offset_of;
use std::time::UNIX_EPOCH;

use super::{one_of_each, record, sample};
use crate::batch::check::Malformed;
use crate::batch::layout::{Entry, Header, flag};
use crate::batch::{BatchView, BatchWriter, RECORD_BYTES_TARGET, event_count};
use crate::correlation::CorrelationMetadata;
use crate::event::PerformanceEvent;

/// `sample()` with `bytes` at `at`.
fn damaged(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut record = sample();
    record[at..at + bytes.len()].copy_from_slice(bytes);
    record
}

/// Where a field of the entry `number` stands.
const fn field(number: usize, offset: usize) -> usize {
    size_of::<Header>() + number * size_of::<Entry>() + offset
}

macro_rules! field {
    ($number:expr, $field:ident) => {
        field($number, std::mem::offset_of!(Entry, $field))
    };
}

macro_rules! header {
    ($field:ident) => {
        std::mem::offset_of!(Header, $field)
    };
}

fn refusal(record: &[u8]) -> Malformed {
    BatchView::parse(record).expect_err("it is malformed")
}

#[test]
fn a_header_that_cannot_be_is_refused() {
    assert_eq!(refusal(&sample()[..47]), Malformed::HeaderCut);
    assert_eq!(refusal(&damaged(header!(version), &[2])), Malformed::Version { found: 2 });
    assert_eq!(refusal(&damaged(header!(events), &[0, 0])), Malformed::EventCount { found: 0 });
    assert_eq!(refusal(&damaged(header!(events), &[1, 2])), Malformed::EventCount { found: 513 });
    assert_eq!(
        refusal(&damaged(header!(overrides), &[7, 0])),
        Malformed::OverrideCount { found: 7, events: 6 }
    );
    assert_eq!(
        refusal(&damaged(header!(wall_nanos), &1_000_000_000_u32.to_le_bytes())),
        Malformed::PublishTime
    );
    for count in [header!(pairs), header!(blob_bytes), header!(string_bytes)] {
        assert_eq!(refusal(&damaged(count, &[0xff; 4])), Malformed::Length);
    }
}

#[test]
fn a_count_is_read_from_the_header_alone() {
    assert_eq!(event_count(&sample()[..48]), Ok(6));
    assert_eq!(event_count(&sample()[..47]), Err(Malformed::HeaderCut));
    assert_eq!(event_count(&damaged(header!(version), &[0])), Err(Malformed::Version { found: 0 }));
    assert_eq!(event_count(&damaged(header!(events), &[1, 2])), Err(Malformed::EventCount { found: 513 }));
}

#[test]
fn bytes_behind_the_sections_are_refused() {
    let mut record = sample();
    record.extend([0; 8]);
    assert_eq!(refusal(&record), Malformed::Length);
    record.truncate(record.len() - 1);
    *record.last_mut().expect("it has bytes") = 1;
    assert_eq!(refusal(&record), Malformed::TailPadding);
}

#[test]
fn an_entry_that_cannot_be_is_refused() {
    let process_flags = flag::COMMAND_LINE | flag::EXECUTABLE_PATH | flag::PPID | flag::START_TIME;
    let cases = [
        (field!(1, kind), vec![7], Malformed::Kind { entry: 1, found: 7 }),
        (field!(1, kind), vec![6], Malformed::Kind { entry: 1, found: 6 }),
        (field!(0, kind), vec![1], Malformed::Kind { entry: 0, found: 1 }),
        (field!(8, kind), vec![0], Malformed::Kind { entry: 8, found: 0 }),
        (field!(1, flags), vec![process_flags + 1], Malformed::Flags { entry: 1, found: process_flags + 1 }),
        (field!(2, flags), vec![1], Malformed::Flags { entry: 2, found: 1 }),
        (field!(1, correlation), vec![3, 0], Malformed::CorrelationIndex { entry: 1, found: 3 }),
        (field!(0, correlation), vec![1, 0], Malformed::CorrelationIndex { entry: 0, found: 1 }),
        (field!(1, nanos), 1_000_000_000_u32.to_le_bytes().to_vec(), Malformed::Time { entry: 1 }),
        (field!(5, word_b), vec![0, 1], Malformed::Priority { entry: 5 }),
        (field!(5, word_a), vec![255], Malformed::Blob { entry: 5 }),
        (field!(6, word_a) + 4, vec![0], Malformed::Blob { entry: 6 }),
        (field!(3, pairs), vec![0], Malformed::Pairs { entry: 2 }),
        (field!(0, pairs), vec![1], Malformed::Pairs { entry: 0 }),
        (field!(3, pairs), vec![200], Malformed::Pairs { entry: 2 }),
        (field!(1, strings), vec![0], Malformed::Strings { entry: 1 }),
        (field!(1, ends), vec![0], Malformed::Strings { entry: 1 }),
        (field!(1, ends), vec![0xff; 4], Malformed::Strings { entry: 1 }),
        (field!(4, ends) + 12, vec![0xff; 4], Malformed::Strings { entry: 4 }),
    ];
    for (at, bytes, expected) in cases {
        assert_eq!(refusal(&damaged(at, &bytes)), expected, "{bytes:?} at {at}");
    }
}

#[test]
fn pairs_before_the_first_entry_are_refused() {
    let tagged = CorrelationMetadata::new("scan".to_string()).with_tag(String::new(), String::new());
    let mut record = record(&tagged, &one_of_each());
    record[field!(0, pairs)] = 1;
    assert_eq!(refusal(&record), Malformed::Pairs { entry: 0 });
}

/// Where the sections of `sample()` begin: pairs, blobs, strings.
fn sections() -> (usize, usize, usize) {
    let record = sample();
    let view = BatchView::parse(&record).expect("we wrote it");
    let pairs = field(9, 0);
    let blobs = pairs + 8 * (view.correlation().correlation_tags().len() + 5);
    (pairs, blobs, blobs + 8)
}

#[test]
fn strings_that_are_none_are_refused() {
    let (pairs, _, strings) = sections();
    assert_eq!(refusal(&damaged(strings + 3, &[0xff])), Malformed::NotUtf8 { valid_up_to: 3 });
    // The first pair is the process's: its key has two bytes of `ü` before the last nine.
    let start = u32::try_from("scan-42scan-42sshdsshd -D".len()).expect("it is short");
    let within = start + u32::try_from("schl".len()).expect("it is short") + 1;
    assert_eq!(refusal(&damaged(pairs, &within.to_le_bytes())), Malformed::SplitCharacter { entry: 1 });
    assert_eq!(refusal(&damaged(pairs, &[0])), Malformed::Strings { entry: 1 });
    assert_eq!(refusal(&damaged(pairs + 4, &[0xff; 4])), Malformed::Strings { entry: 1 });
    // `é` is the third string of the connection; its second ends before it.
    let before = u32::from(sample()[field!(2, ends) + 4]) + 1;
    assert_eq!(
        refusal(&damaged(field!(2, ends) + 4, &before.to_le_bytes())),
        Malformed::SplitCharacter { entry: 2 }
    );
}

#[test]
fn a_blob_area_that_is_not_padded_with_zeros_to_8_is_refused() {
    let (_, blobs, _) = sections();
    assert_eq!(refusal(&damaged(blobs + 7, &[1])), Malformed::BlobPadding);

    let mut cut = damaged(header!(blob_bytes), &[7]);
    cut.remove(blobs + 7);
    assert_eq!(refusal(&cut), Malformed::BlobPadding);

    let mut long = damaged(header!(blob_bytes), &[16]);
    long.splice(blobs + 8..blobs + 8, [0; 8]);
    assert_eq!(refusal(&long), Malformed::BlobPadding);
}

#[test]
fn what_no_entry_claims_is_refused() {
    let mut long = sample();
    let string_bytes = long[header!(string_bytes)];
    long[header!(string_bytes)] = string_bytes + 1;
    long.push(b'x');
    assert_eq!(refusal(&long), Malformed::Unclaimed);
}

#[test]
fn a_record_of_several_events_is_no_longer_than_a_batch_makes_it() {
    let metric = PerformanceEvent {
        metric_name: "load".to_owned(),
        value: 1.0,
        unit: "runnable".to_owned(),
        metadata: HashMap::new(),
    };
    let record_of = |events: usize| {
        let mut writer = BatchWriter::new(u32::MAX);
        writer.begin(&CorrelationMetadata::new("scan".to_owned())).expect("it fits");
        for _ in 0..events {
            writer.push(&metric, None).expect("it fits");
        }
        writer.seal(0, UNIX_EPOCH, 0);
        let mut record = writer.parts().concat();
        // The last string of the last event grows beyond what a record of several has.
        let grown = RECORD_BYTES_TARGET;
        let last = size_of::<Header>() + events * size_of::<Entry>();
        let ends = last + offset_of!(Entry, ends);
        let string_bytes = offset_of!(Header, string_bytes);
        for at in [string_bytes, ends + 4, ends + 8, ends + 12] {
            let (field, _) = record[at..].split_first_chunk_mut::<4>().expect("it is there");
            *field = (u32::from_le_bytes(*field) + grown as u32).to_le_bytes();
        }
        record.resize(record.len() + grown, b'x');
        record
    };
    assert!(BatchView::parse(&record_of(1)).is_ok());
    assert_eq!(BatchView::parse(&record_of(2)).err(), Some(Malformed::Length));
}

/// `record` with what stands at these places moved up by one.
fn grown(mut record: Vec<u8>, places: &[usize]) -> Malformed {
    for &at in places {
        let (field, _) = record[at..].split_first_chunk_mut::<4>().expect("it is there");
        *field = (u32::from_le_bytes(*field) + 1).to_le_bytes();
    }
    refusal(&record)
}

#[test]
fn a_correlation_above_a_limit_is_refused() {
    let metric = PerformanceEvent {
        metric_name: String::new(),
        value: 1.0,
        unit: String::new(),
        metadata: HashMap::from([(String::new(), String::new())]),
    };
    let events = [(Ok(metric.into()), None)];
    let scan = || CorrelationMetadata::new("scan".to_string());
    let ends = field!(0, ends);
    let first_pair = field(2, 0);
    // What is at its limit takes the first byte of what stands behind it.
    let behind = |correlation: CorrelationMetadata| CorrelationMetadata {
        root_correlation_id: "r".to_string(),
        ..correlation
    };
    let id = behind(CorrelationMetadata::new("i".repeat(256)));
    let parent = CorrelationMetadata { parent_correlation_id: Some("p".repeat(256)), ..behind(scan()) };
    let root =
        CorrelationMetadata { root_correlation_id: "r".repeat(256), ..scan().with_stage("s".to_string()) };
    let tag = |node: CorrelationMetadata, name: &str, value: &str| {
        node.with_tag(name.to_string(), value.to_string())
    };
    let stage = tag(scan().with_stage("s".repeat(128)), "n", "");
    let name = tag(scan(), &"n".repeat(128), "v");
    let value = tag(tag(scan(), "m", &"v".repeat(1_024)), "n", &"v".repeat(1_024));
    let tags = (0..64).fold(scan(), |node, number| tag(node, &number.to_string(), ""));
    for (correlation, places) in [
        (id, &[ends, ends + 4][..]),
        (parent, &[ends + 4]),
        (root, &[ends + 8]),
        (stage, &[ends + 12]),
        (name, &[first_pair]),
        (value, &[first_pair + 4]),
        // The event has one pair less, which takes no byte.
        (tags, &[field!(1, pairs)]),
    ] {
        let record = record(&correlation, &events);
        assert_eq!(BatchView::parse(&record).map(|view| view.len()), Ok(1), "at the limit");
        assert_eq!(grown(record, places), Malformed::Correlation { entry: 0 }, "{correlation:?}");
    }
}
