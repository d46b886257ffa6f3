//! Claims about the layout as a whole: what goes in comes out, and no bytes do harm.

mod limits;
mod malformed;

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::collection::{hash_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::correlation::CorrelationMetadata;
use crate::event::{
    CollectionEvent, FilesystemEvent, NetworkEvent, PerformanceEvent, ProcessEvent, TriggerRequest,
};

const RECORD_BYTES_MAX: u32 = 1 << 20;

/// Before the epoch too, with a part of a second.
fn time() -> impl Strategy<Value = SystemTime> {
    (any::<bool>(), 0..1_u64 << 33, 0..1_000_000_000_u32).prop_map(|(before, seconds, nanos)| {
        let distance = Duration::new(seconds, nanos / 100 * 100); // the clock of Windows counts in 100 ns
        if before { UNIX_EPOCH - distance / 100 } else { UNIX_EPOCH + distance }
    })
}

/// Empty, ASCII, or with characters of up to four bytes.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[ -~]{1,40}", "\\PC{1,12}"]
}

fn metadata() -> impl Strategy<Value = HashMap<String, String>> {
    hash_map(text(), text(), 0..4)
}

fn process() -> impl Strategy<Value = CollectionEvent> {
    let options = (option::of(text()), option::of(text()), option::of(any::<u32>()), option::of(time()));
    (any::<u32>(), text(), options, metadata()).prop_map(|(pid, name, options, metadata)| {
        let (command_line, executable_path, ppid, start_time) = options;
        ProcessEvent { pid, name, command_line, executable_path, ppid, start_time, metadata }.into()
    })
}

fn network() -> impl Strategy<Value = CollectionEvent> {
    (text(), text(), text(), text(), metadata()).prop_map(
        |(connection_id, source, destination, protocol, metadata)| {
            let (source_address, destination_address) = (source, destination);
            NetworkEvent { connection_id, source_address, destination_address, protocol, metadata }.into()
        },
    )
}

fn filesystem() -> impl Strategy<Value = CollectionEvent> {
    (text(), text(), option::of(any::<u64>()), metadata()).prop_map(|(path, event_type, size, metadata)| {
        FilesystemEvent { path, event_type, size, metadata }.into()
    })
}

fn performance() -> impl Strategy<Value = CollectionEvent> {
    (text(), any::<f64>(), text(), metadata()).prop_map(|(metric_name, value, unit, metadata)| {
        PerformanceEvent { metric_name, value, unit, metadata }.into()
    })
}

fn trigger() -> impl Strategy<Value = CollectionEvent> {
    (text(), text(), any::<u8>(), vec(any::<u8>(), 0..40), metadata()).prop_map(
        |(request_id, collector_type, priority, payload, metadata)| {
            TriggerRequest { request_id, collector_type, priority, payload, metadata }.into()
        },
    )
}

fn event() -> impl Strategy<Value = CollectionEvent> {
    prop_oneof![process(), network(), filesystem(), performance(), trigger()]
}

fn correlation() -> impl Strategy<Value = CorrelationMetadata> {
    (text(), option::of(text()), text(), any::<u64>(), option::of(text()), metadata(), time()).prop_map(
        |(correlation_id, parent, root, sequence_number, workflow_stage, correlation_tags, created_at)| {
            CorrelationMetadata {
                correlation_id,
                parent_correlation_id: parent,
                root_correlation_id: root,
                sequence_number,
                workflow_stage,
                correlation_tags,
                created_at,
            }
        },
    )
}

/// What is pushed: an event or opaque bytes, and perhaps a correlation of its own.
type Pushed = (Result<CollectionEvent, Vec<u8>>, Option<CorrelationMetadata>);

fn pushed() -> impl Strategy<Value = Pushed> {
    let what = prop_oneof![6 => event().prop_map(Ok), 1 => vec(any::<u8>(), 0..40).prop_map(Err)];
    (what, option::weighted(0.2, correlation()))
}

fn push(writer: &mut BatchWriter, (what, correlation): &Pushed) -> Result<(), PushError> {
    match what {
        Ok(event) => writer.push(event, correlation.as_ref()),
        Err(bytes) => writer.push(&Opaque(bytes), correlation.as_ref()),
    }
}

/// One event of each kind and a correlation of its own for some, in some 900 bytes.
fn one_of_each() -> Vec<Pushed> {
    let metadata = HashMap::from([("schlüssel".to_string(), "値".to_string())]);
    let text = |text: &str| text.to_string();
    let events: [CollectionEvent; 5] = [
        ProcessEvent {
            pid: 7,
            name: text("sshd"),
            command_line: Some(text("sshd -D")),
            executable_path: None,
            ppid: Some(1),
            start_time: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_500)),
            metadata: metadata.clone(),
        }
        .into(),
        NetworkEvent {
            connection_id: text("c"),
            source_address: text("10.0.0.2"),
            destination_address: text("é"),
            protocol: text("tcp"),
            metadata: HashMap::new(),
        }
        .into(),
        FilesystemEvent {
            path: text("/etc/π"),
            event_type: text(""),
            size: Some(9),
            metadata: metadata.clone(),
        }
        .into(),
        PerformanceEvent { metric_name: text("load"), value: 0.5, unit: text("1"), metadata: HashMap::new() }
            .into(),
        TriggerRequest {
            request_id: text("r"),
            collector_type: text("yara"),
            priority: 200,
            payload: vec![1, 2, 3],
            metadata,
        }
        .into(),
    ];
    let own = CorrelationMetadata::new(text("own")).with_stage(text("stage")).with_tag(text("k"), text("ü"));
    let mut pushed: Vec<Pushed> = events.into_iter().map(|event| (Ok(event), None)).collect();
    pushed.push((Err(vec![9; 4]), None));
    pushed[1].1 = Some(own.create_child(text("child")));
    pushed[4].1 = Some(own);
    pushed
}

/// A sealed record of these, as its bytes.
fn record(batch: &CorrelationMetadata, events: &[Pushed]) -> Vec<u8> {
    let mut writer = BatchWriter::new(RECORD_BYTES_MAX);
    writer.begin(batch).expect("it fits");
    for event in events {
        push(&mut writer, event).expect("it fits");
    }
    writer.seal(1_000, UNIX_EPOCH + Duration::from_millis(1_500), 77);
    let [rest @ .., strings] = writer.parts();
    assert!(rest.iter().all(|part| part.len() % 8 == 0), "a ring copies them by words");
    assert_eq!(rest.iter().map(|part| part.len()).sum::<usize>() + strings.len(), writer.bytes());
    writer.parts().concat()
}

fn sample() -> Vec<u8> {
    record(&CorrelationMetadata::new("scan-42".to_string()), &one_of_each())
}

/// Reads all that can be read, in every way there is.
fn read_everything(view: BatchView<'_>) {
    assert_eq!(view.iter().len(), view.len());
    assert_eq!(view.iter().count(), view.len());
    for (position, event) in view.iter().enumerate() {
        let _ = format!("{event:?}");
        let _ = (event.to_owned(), view.correlation_of(position).to_owned());
    }
    let _ = (format!("{view:?}"), view.published_at(), view.monotonic_nanos(), view.first_sequence());
}

fn words(record: &[u8]) -> Vec<u64> {
    let words = record.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        zerocopy::transmute!(bytes)
    });
    words.collect()
}

proptest! {
    #[test]
    fn what_is_pushed_is_what_is_read(batch in correlation(), events in vec(pushed(), 1..20)) {
        let record = record(&batch, &events);
        let mut kept = Records::default();
        kept.push(&mut words(&sample()), sample().len()).expect("we wrote it");
        kept.push(&mut words(&record), record.len()).expect("we wrote it");
        prop_assert_eq!(event_count(&record), Ok(events.len() as u16));
        for view in [BatchView::parse(&record).expect("we wrote it"), kept.view(1)] {
            prop_assert_eq!(view.len(), events.len());
            prop_assert_eq!(view.correlation().to_owned(), batch.clone());
            prop_assert_eq!(view.published_at(), UNIX_EPOCH + Duration::from_millis(1_500));
            prop_assert_eq!((view.first_sequence(), view.monotonic_nanos()), (1_000, 77));
            for (position, (read, (what, own))) in view.iter().zip(&events).enumerate() {
                match (read, what) {
                    (EventRef::Opaque(read), Err(bytes)) => prop_assert_eq!(read, &bytes[..]),
                    (read, what) => prop_assert_eq!(read.to_owned(), what.clone().ok()),
                }
                prop_assert_eq!(view.correlation_of(position).to_owned(), own.clone().unwrap_or(batch.clone()));
            }
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..400)) {
        let _ = event_count(&bytes);
        if let Ok(view) = BatchView::parse(&bytes) {
            read_everything(view);
        }
    }

    /// Random bytes rarely get past the header, so this damages what would be valid.
    #[test]
    fn no_damage_does_harm(events in vec(pushed(), 1..6), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut record = record(&CorrelationMetadata::new("scan".to_string()), &events);
        for (at, byte) in damage {
            let at = at.index(record.len());
            record[at] = byte;
        }
        if let Ok(view) = BatchView::parse(&record) {
            read_everything(view);
        }
    }
}

#[test]
fn nan_travels_bit_by_bit() {
    let bits = 0x7ff8_dead_beef_0001_u64;
    let sample = PerformanceEvent {
        metric_name: String::new(),
        value: f64::from_bits(bits),
        unit: String::new(),
        metadata: HashMap::new(),
    };
    let batch = Batch::of(&sample, &CorrelationMetadata::default(), UNIX_EPOCH).expect("it is small");
    let Some(EventRef::Performance(read)) = batch.view().iter().next() else { panic!("it holds a sample") };
    assert_eq!(read.value().to_bits(), bits);
}

#[test]
fn no_single_damaged_byte_does_harm() {
    let valid = sample();
    for at in 0..valid.len() {
        for byte in [0, 1, 2, 3, 4, 5, 6, 7, 0x7f, 0x80, 0xbf, 0xc3, 0xff, valid[at] ^ 1, valid[at] ^ 0x80] {
            let mut record = valid.clone();
            record[at] = byte;
            let _ = event_count(&record);
            if let Ok(view) = BatchView::parse(&record) {
                read_everything(view);
            }
        }
    }
}

#[test]
fn a_record_that_ends_early_is_refused_wherever_it_ends() {
    let valid = sample();
    for end in 0..valid.len() {
        assert!(BatchView::parse(&valid[..end]).is_err(), "{end} of {} bytes", valid.len());
    }
}

#[test]
fn a_length_that_was_rounded_up_is_accepted_if_zeros_fill_it() {
    let valid = sample();
    for extra in 0..8 {
        let mut record = valid.clone();
        record.resize(valid.len() + extra, 0);
        assert!(BatchView::parse(&record).is_ok());
    }
}

#[test]
fn a_clone_shares_the_record() {
    let batch =
        Batch::of(&Opaque(b"PING"), &CorrelationMetadata::default(), UNIX_EPOCH).expect("it is small");
    let clone = batch.clone();
    drop(batch);
    read_everything(clone.view());
}

#[test]
fn a_large_record_is_taken_over_or_copied_and_reads_the_same() {
    // Few strings, and many.
    let opaque: Vec<Pushed> = (0..100).map(|index| (Err(vec![index; 300]), None)).collect();
    let file = FilesystemEvent {
        path: "p".repeat(500),
        event_type: "x".into(),
        size: None,
        metadata: HashMap::new(),
    };
    let named: Vec<Pushed> = (0..60).map(|_| (Ok(file.clone().into()), None)).collect();
    for (events, taken_over) in [(opaque, true), (named, false)] {
        let record = record(&CorrelationMetadata::new("scan".to_string()), &events);
        let mut words = words(&record);
        let place = words.as_ptr();
        let mut kept = Records::default();
        kept.push(&mut words, record.len()).expect("we wrote it");
        kept.push(&mut self::words(&record), record.len()).expect("we wrote it");
        assert_eq!(words.as_ptr() != place, taken_over);
        for number in [0, 1] {
            let view = kept.view(number);
            assert_eq!(view.len(), events.len());
            for (read, (what, _)) in view.iter().zip(&events) {
                match (read, what) {
                    (EventRef::Opaque(read), Err(bytes)) => assert_eq!(read, &bytes[..]),
                    (read, what) => assert_eq!(read.to_owned(), what.clone().ok()),
                }
            }
        }
    }
}
