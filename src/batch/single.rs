//! One event by itself as bytes, for whoever carries it on by other means than the bus: the flat layout of a batch of one, in which
//! correlation, number and time say nothing.

use std::time::UNIX_EPOCH;

use thiserror::Error;

use super::check::{Malformed, check};
use super::encode::EventTooLarge;
use super::read::BatchView;
use super::write::{BatchWriter, PushError};
use crate::correlation::CorrelationMetadata;
use crate::event::CollectionEvent;

/// The bytes are not those of one event. The fault of who wrote them.
///
/// ```
/// use daemoneye_eventbus::CollectionEvent;
///
/// let error = CollectionEvent::from_bytes(b"PING").expect_err("four bytes are no event");
/// assert_eq!(error.to_string(), "no event: the record ends within its header");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no event: {0}")]
pub struct NotAnEvent(Reason);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Reason {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("there are {events}")]
    Several { events: usize },
    #[error("opaque bytes have no kind")]
    Opaque,
}

impl CollectionEvent {
    /// The event as bytes, in the layout in which it travels. It is the payload of a [`Message`](crate::Message) that stands for an event.
    ///
    /// # Errors
    /// [`EventTooLarge`] from 4 GiB on.
    ///
    /// ```
    /// use daemoneye_eventbus::{CollectionEvent, PerformanceEvent};
    /// use std::collections::HashMap;
    ///
    /// let load = CollectionEvent::from(PerformanceEvent {
    ///     metric_name: "load.1m".to_string(),
    ///     value: 0.75,
    ///     unit: "runnable".to_string(),
    ///     metadata: HashMap::new(),
    /// });
    /// assert_eq!(CollectionEvent::from_bytes(&load.to_bytes()?)?, load);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_bytes(&self) -> Result<Vec<u8>, EventTooLarge> {
        let nothing =
            CorrelationMetadata { created_at: UNIX_EPOCH, ..CorrelationMetadata::new(String::new()) };
        let mut writer = BatchWriter::new(u32::MAX);
        writer.begin(&nothing)?;
        writer.push(self, None).map_err(|error| match error {
            PushError::EventTooLarge(error) => error,
            PushError::RecordFull => unreachable!("an empty record is not full"),
        })?;
        writer.seal(0, UNIX_EPOCH, 0);
        Ok(writer.parts().concat())
    }

    /// The event in such bytes: exactly one. What else a record holds, its correlation for instance, is left out.
    ///
    /// # Errors
    /// [`NotAnEvent`] says what is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotAnEvent> {
        let (head, strings) = check(bytes).map_err(|malformed| NotAnEvent(malformed.into()))?;
        let view = BatchView::new(head, strings);
        match view.len() {
            1 => view.event(0).to_owned().ok_or(NotAnEvent(Reason::Opaque)),
            events => Err(NotAnEvent(Reason::Several { events })),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use crate::batch::{BatchEvent, Opaque};
    use crate::event::{NetworkEvent, PerformanceEvent, ProcessEvent, TriggerRequest};

    fn record(events: &[&dyn Fn(&mut BatchWriter)]) -> Vec<u8> {
        let mut writer = BatchWriter::new(u32::MAX);
        writer.begin(&CorrelationMetadata::default()).expect("it is small");
        events.iter().for_each(|push| push(&mut writer));
        writer.seal(7, UNIX_EPOCH, 7);
        writer.parts().concat()
    }

    fn push(event: &impl BatchEvent, writer: &mut BatchWriter) {
        writer.push(event, None).expect("it is small");
    }

    fn metadata() -> HashMap<String, String> {
        HashMap::from([("user".into(), "root".into()), ("é".into(), String::new())])
    }

    fn process() -> ProcessEvent {
        ProcessEvent {
            pid: 7,
            name: "sh".into(),
            command_line: None,
            executable_path: Some(String::new()),
            ppid: Some(1),
            start_time: Some(UNIX_EPOCH - Duration::from_nanos(1)),
            metadata: metadata(),
        }
    }

    #[test]
    fn an_event_survives_its_bytes_whatever_its_kind_and_time() {
        let text = || "x".to_string();
        let events: [CollectionEvent; 4] = [
            process().into(),
            NetworkEvent {
                connection_id: text(),
                source_address: text(),
                destination_address: text(),
                protocol: text(),
                metadata: metadata(),
            }
            .into(),
            PerformanceEvent { metric_name: text(), value: -0.0, unit: text(), metadata: metadata() }.into(),
            TriggerRequest {
                request_id: text(),
                collector_type: text(),
                priority: 255,
                payload: vec![0; 13],
                metadata: metadata(),
            }
            .into(),
        ];
        for event in events {
            let bytes = event.to_bytes().expect("it is small");
            assert_eq!(CollectionEvent::from_bytes(&bytes), Ok(event));
        }
    }

    #[test]
    fn bytes_that_are_cut_or_go_on_are_no_event() {
        let bytes = CollectionEvent::from(process()).to_bytes().expect("it is small");
        for end in 0..bytes.len() {
            assert!(CollectionEvent::from_bytes(&bytes[..end]).is_err(), "{end}");
        }
        for more in [&[1][..], &[0; 8]] {
            let surplus = [&bytes[..], more].concat();
            assert!(CollectionEvent::from_bytes(&surplus).is_err(), "{more:?}");
        }
    }

    #[test]
    fn several_events_and_opaque_bytes_are_not_one_event() {
        let (one, opaque) = (
            |writer: &mut BatchWriter| push(&process(), writer),
            |writer: &mut BatchWriter| {
                push(&Opaque(b"PING"), writer);
            },
        );
        assert_eq!(CollectionEvent::from_bytes(&record(&[&one])), Ok(process().into()));
        let several = CollectionEvent::from_bytes(&record(&[&one, &one]));
        assert_eq!(several, Err(NotAnEvent(Reason::Several { events: 2 })));
        assert_eq!(CollectionEvent::from_bytes(&record(&[&opaque])), Err(NotAnEvent(Reason::Opaque)));
    }
}
