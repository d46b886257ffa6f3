//! The judgement of a record, and all that reads what it let through.

#![no_main]

use daemoneye_eventbus::{Batch, CollectionEvent, EventRef, Pairs, fuzzing};
use libfuzzer_sys::fuzz_target;

/// Bytes of the owned copies of correlations that are worth the time.
const CORRELATION_BYTES_MAX: usize = 1 << 20;

fn pair_bytes(pairs: Pairs<'_>) -> usize {
    pairs.map(|(key, value)| key.len() + value.len()).sum()
}

/// Bytes of the record that belong to this event alone.
fn own_bytes(event: &EventRef<'_>) -> usize {
    match event {
        EventRef::Process(event) => {
            let options = [event.command_line(), event.executable_path()];
            let options = options.into_iter().flatten().map(str::len).sum::<usize>();
            event.name().len() + options + pair_bytes(event.metadata())
        }
        EventRef::Network(event) => {
            let addresses = event.source_address().len() + event.destination_address().len();
            let names = event.connection_id().len() + event.protocol().len();
            names + addresses + pair_bytes(event.metadata())
        }
        EventRef::Filesystem(event) => {
            event.path().len() + event.event_type().len() + pair_bytes(event.metadata())
        }
        EventRef::Performance(event) => {
            event.metric_name().len() + event.unit().len() + pair_bytes(event.metadata())
        }
        EventRef::Trigger(event) => {
            let names = event.request_id().len() + event.collector_type().len();
            names + event.payload().len() + pair_bytes(event.metadata())
        }
        EventRef::Opaque(bytes) => bytes.len(),
        _ => unreachable!("all kinds are above"),
    }
}

/// An event that was read can be written, and read again.
fn travels(event: &CollectionEvent, batch: &Batch) {
    let view = batch.view();
    let correlation = view.correlation().to_owned();
    let again = Batch::of(event, &correlation, view.published_at()).expect("it was in a record");
    let read = again.view();
    assert_eq!(read.correlation().to_owned(), correlation);
    assert_eq!(read.published_at(), view.published_at());
    let read = read.iter().next().expect("it holds one").to_owned().expect("it is not opaque");
    // Unless it holds a number that is none.
    assert!(read == *event || event != event);
}

fuzz_target!(|data: &[u8]| {
    let count = fuzzing::event_count(data);
    let Some(batch) = fuzzing::batch(data) else { return };
    let view = batch.view();
    assert_eq!(count.map(usize::from), Some(view.len()));
    assert!((1..=512).contains(&view.len()) && view.iter().count() == view.len());
    let own: usize = view.iter().map(|event| own_bytes(&event)).sum();
    assert!(own <= data.len(), "{own} bytes of events in {} of record", data.len());

    let text = |position| {
        let of = view.correlation_of(position);
        let options = [of.parent_correlation_id(), of.workflow_stage()];
        let options = options.into_iter().flatten().map(str::len).sum::<usize>();
        let names = of.correlation_id().len() + of.root_correlation_id().len();
        names + options + pair_bytes(of.correlation_tags())
    };
    let counted = fuzzing::correlation_bytes(&batch);
    assert!((0..view.len()).map(text).sum::<usize>() <= counted, "charged {counted}");

    let _ = (format!("{batch:?}"), view.monotonic_nanos(), view.first_sequence());
    for (position, event) in view.iter().enumerate() {
        if counted < CORRELATION_BYTES_MAX {
            let _ = (format!("{event:?}"), view.correlation_of(position).to_owned());
        }
        if let Some(owned) = event.to_owned().filter(|_| position < 4) {
            travels(&owned, &batch);
        }
    }
});
