//! One event in a line: for people, and in JSON. Both hold what strangers have written, and neither steers a terminal.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use daemoneye_eventbus::{BusEvent, CollectionEvent, CorrelationMetadata, EventRef, ReceivedBatch};
use serde::Serialize;

use crate::json;
use crate::printable::field;

/// Characters of one field in a line for people.
const FIELD_COLUMNS: usize = 256;

/// A line for people: when (UTC), on which topic, from whom, and what.
pub(super) fn human(batch: &ReceivedBatch, position: usize) -> String {
    let mut line = Line(String::new());
    match batch.event(position) {
        Some(event) => {
            line.begin(event.bus_timestamp, batch);
            line.event(&event.event);
        }
        None => {
            line.begin(batch.view().published_at(), batch);
            line.word("opaque");
            line.field("bytes", &opaque_bytes(batch, position).to_string());
        }
    }
    line.0 + "\n"
}

fn opaque_bytes(batch: &ReceivedBatch, position: usize) -> usize {
    match batch.view().iter().nth(position) {
        Some(EventRef::Opaque(bytes)) => bytes.len(),
        _ => 0,
    }
}

struct Line(String);

impl Line {
    fn begin(&mut self, at: SystemTime, batch: &ReceivedBatch) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, millis) = (since.as_secs() % 86_400, since.subsec_millis());
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(self.0, "{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z").expect("a string grows");
        self.word(batch.topic().as_str());
        self.word(batch.publisher().as_str());
    }

    fn word(&mut self, word: &str) {
        self.0.push(' ');
        self.0.push_str(word);
    }

    fn field(&mut self, name: &str, text: &str) {
        field(&mut self.0, name, text, FIELD_COLUMNS);
    }

    fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.field(name, text);
        }
    }

    fn number(&mut self, name: &str, number: Option<impl ToString>) {
        self.optional(name, number.map(|number| number.to_string()).as_deref());
    }

    fn pairs(&mut self, pairs: &HashMap<String, String>) {
        let mut pairs: Vec<_> = pairs.iter().collect();
        pairs.sort();
        for (name, text) in pairs {
            self.field(name, text);
        }
    }

    fn event(&mut self, event: &CollectionEvent) {
        match event {
            CollectionEvent::Process(process) => {
                self.word("process");
                self.number("pid", Some(process.pid));
                self.number("ppid", process.ppid);
                self.field("name", &process.name);
                self.optional("executable_path", process.executable_path.as_deref());
                self.optional("command_line", process.command_line.as_deref());
                self.pairs(&process.metadata);
            }
            CollectionEvent::Network(connection) => {
                self.word("network");
                self.field("connection_id", &connection.connection_id);
                self.field("source_address", &connection.source_address);
                self.field("destination_address", &connection.destination_address);
                self.field("protocol", &connection.protocol);
                self.pairs(&connection.metadata);
            }
            CollectionEvent::Filesystem(file) => {
                self.word("filesystem");
                self.field("event_type", &file.event_type);
                self.field("path", &file.path);
                self.number("size", file.size);
                self.pairs(&file.metadata);
            }
            CollectionEvent::Performance(sample) => {
                self.word("performance");
                self.field("metric_name", &sample.metric_name);
                self.number("value", Some(sample.value));
                self.field("unit", &sample.unit);
                self.pairs(&sample.metadata);
            }
            CollectionEvent::TriggerRequest(request) => {
                self.word("trigger");
                self.field("request_id", &request.request_id);
                self.field("collector_type", &request.collector_type);
                self.number("priority", Some(request.priority));
                self.number("payload_bytes", Some(request.payload.len()));
                self.pairs(&request.metadata);
            }
            // A kind that is newer than this program.
            _ => self.word("event"),
        }
    }
}

#[derive(Serialize)]
struct Record<'a> {
    topic: &'a str,
    publisher: &'a str,
    event_id: &'a str,
    bus_timestamp: SystemTime,
    correlation_metadata: &'a CorrelationMetadata,
    event: &'a CollectionEvent,
}

#[derive(Serialize)]
struct OpaqueRecord<'a> {
    topic: &'a str,
    publisher: &'a str,
    opaque_bytes: usize,
}

/// A line of JSON.
pub(super) fn json(batch: &ReceivedBatch, position: usize, text: &mut Vec<u8>) {
    let (topic, publisher) = (batch.topic().as_str(), batch.publisher().as_str());
    let written = match batch.event(position).as_deref() {
        Some(BusEvent { event_id, event, correlation_metadata, bus_timestamp }) => {
            let bus_timestamp = *bus_timestamp;
            let record = Record { topic, publisher, event_id, bus_timestamp, correlation_metadata, event };
            json::line(&record, text)
        }
        None => {
            let opaque_bytes = opaque_bytes(batch, position);
            json::line(&OpaqueRecord { topic, publisher, opaque_bytes }, text)
        }
    };
    // A publisher claims any time it likes, and there are none before 1970 in JSON.
    if let Err(error) = written {
        let error = error.to_string();
        json::line(&Unwritable { topic, publisher, error }, text).expect("it has texts alone");
    }
}

#[derive(Serialize)]
struct Unwritable<'a> {
    topic: &'a str,
    publisher: &'a str,
    error: String,
}
