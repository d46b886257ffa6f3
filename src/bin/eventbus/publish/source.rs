//! Where events come from: lines, or a file with one, read by a thread of its own, since such a read can't be given up.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::PathBuf;

use daemoneye_eventbus::CollectionEvent;
use serde_json::error::Category;
use tokio::sync::mpsc;

/// Bytes of one event in JSON: 16 times what a ring of the default size takes. Above it: refused.
const EVENT_BYTES_MAX: u64 = 16 << 20;

/// Events that were read and are not published yet.
const EVENTS_AHEAD: usize = 16;

#[derive(Debug)]
pub(super) enum Source {
    Stdin,
    File(PathBuf),
}

/// What is no event. It says where, and what was expected there, and repeats nothing of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Bad {
    #[error("{place} can't be read: {source}")]
    Unreadable { place: String, source: io::Error },
    #[error("{place} has more than {EVENT_BYTES_MAX} bytes, the most that an event may have")]
    TooLong { place: String },
    #[error("{place} is no event: {what} at column {column}")]
    NoEvent { place: String, what: String, column: usize },
}

pub(super) type Read = Result<(String, CollectionEvent), Bad>;

impl Source {
    /// Begins to read. The last thing that comes is what is bad, if anything is.
    pub(super) fn read(self) -> io::Result<mpsc::Receiver<Read>> {
        let (events, events_end) = mpsc::channel(EVENTS_AHEAD);
        let read = move || {
            let tell = |event: Read| events.blocking_send(event).is_ok();
            match self {
                Self::Stdin => lines(io::stdin().lock(), tell),
                Self::File(path) => drop(tell(one(&path))),
            }
        };
        std::thread::Builder::new().name("eventbus-input".into()).spawn(read)?;
        Ok(events_end)
    }
}

fn one(path: &PathBuf) -> Read {
    let place = || path.display().to_string();
    let unreadable = |source| Bad::Unreadable { place: place(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(EVENT_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    event(place, &text)
}

/// Reads events until the first that is none, or until nobody wants any more.
fn lines(input: impl BufRead, tell: impl Fn(Read) -> bool) {
    let mut input = BufReader::new(input);
    let mut text = Vec::new();
    for number in 1_u64.. {
        let place = || format!("line {number}");
        text.clear();
        let read = match input.by_ref().take(EVENT_BYTES_MAX + 1).read_until(b'\n', &mut text) {
            Ok(0) => return,
            Ok(_) if text.trim_ascii().is_empty() => continue,
            Ok(_) => event(place, &text),
            Err(source) => Err(Bad::Unreadable { place: place(), source }),
        };
        let bad = read.is_err();
        if !tell(read) || bad {
            return;
        }
    }
}

fn event(place: impl Fn() -> String, text: &[u8]) -> Read {
    if text.len() as u64 > EVENT_BYTES_MAX {
        return Err(Bad::TooLong { place: place() });
    }
    match serde_json::from_slice(text) {
        Ok(event) => Ok((place(), event)),
        Err(error) => {
            let what = Expectation(&error).to_string();
            let place =
                if error.line() > 1 { format!("{}, line {}", place(), error.line()) } else { place() };
            Err(Bad::NoEvent { place, what, column: error.column() })
        }
    }
}

/// What a parser says, without what it has found: that is the payload's.
struct Expectation<'a>(&'a serde_json::Error);

impl fmt::Display for Expectation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match self.0.classify() {
            Category::Io | Category::Syntax => f.write_str("it is no JSON"),
            Category::Eof => f.write_str("it ends before the event does"),
            // What comes last is of the type, which is ours: the names of its fields, and what they take.
            Category::Data => {
                let text = text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what);
                if text.starts_with("missing field `") || text.starts_with("duplicate field `") {
                    f.write_str(text)
                } else if let Some((_, expected)) = text.rsplit_once(", expected ") {
                    write!(f, "expected {expected}")
                } else {
                    f.write_str("it has another shape")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        event(|| "line 7".to_owned(), text.as_bytes()).expect_err("it is no event").to_string()
    }

    #[test]
    fn nothing_of_what_is_no_event_is_repeated() {
        const SECRET: &str = "hunter2";
        for text in [
            "hunter2",
            "\"hunter2\"",
            "{\"hunter2\":{}}",
            "{\"Process\":{\"pid\":\"hunter2\"}}",
            "{\"Process\":{\"pid\":\"hunter2, expected hunter2 at line hunter2\"}}",
            "{\"Process\":{\"pid\":1,\"name\":\"hunter2\"}}",
            "{\"Process\":{\"pid\":1,\"pid\":2,\"name\":\"hunter2\"}}",
            "{\"Process\":{\"pid\":1,\"name\":\"hunter2",
            "{\"Process\":[\"hunter2\"]}",
            "{\"Process\":{\"pid\":1,\"start_time\":{\"hunter2\":1}}}",
            "{\"Network\":{\"metadata\":{\"hunter2\":7}}}",
        ] {
            let refused = refused(text);
            assert!(!refused.contains(SECRET), "{refused}");
            assert!(refused.starts_with("line 7 is no event: "), "{refused}");
        }
        assert_eq!(
            refused("{\"Process\":{\"pid\":\"hunter2, expected hunter2\"}}"),
            "line 7 is no event: expected u32 at column 45"
        );
        assert!(refused("{\"Process\":{\"pid\":1}}").contains("missing field `name`"));
    }

    #[test]
    fn lines_are_counted_with_those_that_are_empty_and_end_at_the_first_bad_one() {
        let input = "\n{\"Process\":{\"pid\":1,\"name\":\"a\",\"metadata\":{}}}\n \n7\nnever read\n";
        let read = std::cell::RefCell::new(Vec::new());
        lines(input.as_bytes(), |event| {
            read.borrow_mut().push(event.map(|(place, _)| place).map_err(|bad| bad.to_string()));
            true
        });
        let read = read.into_inner();
        assert_eq!(read.len(), 2, "{read:?}");
        assert_eq!(read[0], Ok("line 2".to_owned()));
        assert!(read[1].as_ref().is_err_and(|bad| bad.starts_with("line 4 is no event")), "{read:?}");
    }

    #[test]
    fn a_line_without_an_end_is_refused_when_it_is_too_long() {
        let endless = BufReader::new(io::repeat(b'x'));
        let told = std::cell::RefCell::new(Vec::new());
        lines(endless, |event| {
            told.borrow_mut().push(event.map(|_| ()).map_err(|bad| bad.to_string()));
            true
        });
        let told = told.into_inner();
        assert!(told.len() == 1 && told[0].as_ref().is_err_and(|bad| bad.contains("more than 16777216")));
    }
}
