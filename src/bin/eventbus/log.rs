//! What the bus tells of itself (`tracing` events), as lines on standard error:
//!
//! ```text
//! 2026-11-23T21:59:23.123456Z INFO daemoneye_eventbus::broker joined component=procmond uid=0 pid=77 identity=…
//! ```
//!
//! Whoever logs never waits for the reader: the broker serves on while a pipe is full, and lines that nobody reads are counted.

use std::fmt::{self, Debug};
use std::io;

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::output::{Lines, errors};
use crate::printable::field;

/// Characters of one field: a refusal names all that would be needed.
const FIELD_COLUMNS: usize = 1024;

/// How much is logged.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Off => Self::OFF,
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Has everything logged from now on that is of this level, or above.
pub(crate) fn begin(level: Level) {
    let lines = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(level))
        .event_format(OneLine)
        .with_writer(Errors)
        .finish();
    tracing::subscriber::set_global_default(lines).expect("it is the first, and the only one");
}

/// When, how bad, of which part, what, and the fields.
struct OneLine;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N>
    for OneLine
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        SystemTime.format_time(&mut writer)?;
        write!(writer, " {} {}", metadata.level(), metadata.target())?;
        // Those without a name are called by where they stand in the sources.
        let name = Some(metadata.name()).filter(|name| !name.starts_with("event "));
        if let Some(name) = name {
            write!(writer, " {name}")?;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        if !fields.message.is_empty() && name != Some(&*fields.message) {
            field(&mut fields.line, "message", &fields.message, FIELD_COLUMNS);
        }
        writer.write_str(&fields.line)
    }
}

#[derive(Default)]
struct Fields {
    line: String,
    /// It comes last.
    message: String,
}

impl Visit for Fields {
    fn record_str(&mut self, of: &Field, text: &str) {
        match of.name() {
            "message" => text.clone_into(&mut self.message),
            name => field(&mut self.line, name, text, FIELD_COLUMNS),
        }
    }

    fn record_debug(&mut self, of: &Field, value: &dyn Debug) {
        self.record_str(of, &format!("{value:?}"));
    }
}

/// Takes one line at a time, whole.
struct Errors;

impl MakeWriter<'_> for Errors {
    type Writer = To;

    fn make_writer(&self) -> To {
        To(errors())
    }
}

struct To(&'static Lines);

impl io::Write for To {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.say(String::from_utf8_lossy(line).trim_end().to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
