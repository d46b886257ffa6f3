//! What the bus logs in a role process, and any panic, one line each, in a file that the harness reads.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Has the audit stream written there from now on, and nothing else: the name of each event, and its fields.
pub(super) fn write_audit_to(path: &Path) {
    let file = File::options().append(true).create(true).open(path).expect("the harness made the folder");
    tracing::subscriber::set_global_default(Log { file, audit: true }).expect("it is the first");
}

/// Has everything from warnings upwards written there from now on.
pub(super) fn write_to(path: &Path) {
    let file = File::options().append(true).create(true).open(path).expect("the harness made the folder");
    let panics = file.try_clone().expect("a descriptor");
    let printed = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        write_line(&panics, &format!("panicked: {info}").replace('\n', " "));
        printed(info);
    }));
    tracing::subscriber::set_global_default(Log { file, audit: false }).expect("it is the first");
}

/// In one call, so that lines of several threads stay whole.
fn write_line(mut file: &File, line: &str) {
    file.write_all(format!("{line}\n").as_bytes()).expect("there is room");
}

struct Log {
    file: File,
    audit: bool,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        match self.audit {
            true => metadata.target() == "daemoneye_eventbus::audit",
            false => *metadata.level() <= tracing::Level::WARN,
        }
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line(metadata.level().to_string());
        if self.audit {
            line.0 = metadata.name().to_owned();
        }
        event.record(&mut line);
        write_line(&self.file, &line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    /// As it is: what the bus has not escaped is to be seen.
    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.0, " {field}=\"{value}\"").expect("a string grows");
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").expect("a string grows");
    }
}
