//! Where events come from: lines, or a file with one, read by a thread of its own, since such a read can't be given up.
//!
//! A thread reads ahead of what is published. So it counts the lines that it has taken: what was taken and not published is lost, and that
//! has to be told.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use daemoneye_eventbus::CollectionEvent;
use rustix::event::PollFlags;
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

/// An event, and where it stands.
#[derive(Debug)]
pub(super) struct Placed {
    /// Which event it is, and in which line it stands; both 1 of a file with one event.
    pub(super) ordinal: u64,
    pub(super) number: u64,
    pub(super) place: String,
    pub(super) event: CollectionEvent,
}

type Found = Result<Placed, Bad>;

/// What is being read.
#[derive(Debug)]
pub(super) struct Events {
    events: mpsc::Receiver<Found>,
    taken: Arc<AtomicU64>,
}

impl Events {
    /// The next event; `None` at the end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Found> {
        self.events.recv().await
    }

    /// How many lines were taken from whoever writes them so far, without those that are empty.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Source {
    /// Begins to read. The last thing that comes is what is bad, if anything is.
    pub(super) fn read(self) -> io::Result<Events> {
        let (events, events_end) = mpsc::channel(EVENTS_AHEAD);
        let taken = Arc::new(AtomicU64::new(u64::from(matches!(self, Self::File(_)))));
        let counted = Arc::clone(&taken);
        let read = move || {
            let tell = |found: Found| events.blocking_send(found).is_ok();
            match self {
                Self::Stdin => match io::stdin().as_fd().try_clone_to_owned() {
                    Ok(stdin) => {
                        let lines_taken = Arc::clone(&counted);
                        let input = Taken { source: File::from(stdin), lines: lines_taken, within: false };
                        lines(input, &counted, tell);
                    }
                    Err(source) => drop(tell(Err(Bad::Unreadable { place: "line 1".into(), source }))),
                },
                Self::File(path) => drop(tell(one(&path))),
            }
        };
        std::thread::Builder::new().name("eventbus-input".into()).spawn(read)?;
        Ok(Events { events: events_end, taken })
    }
}

/// Counts the lines of what is read, and waits where whoever shares the stream has made it one that does not wait.
struct Taken {
    source: File,
    lines: Arc<AtomicU64>,
    /// The last line that was taken has no end yet.
    within: bool,
}

impl Read for Taken {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let bytes = loop {
            match self.source.read(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    crate::output::wait(&self.source, PollFlags::IN)?;
                }
                read => break read?,
            }
        };
        let begun = u64::from(!self.within && bytes > 0);
        if let Some((last, others)) = room[..bytes].split_last() {
            let ends = others.iter().filter(|byte| **byte == b'\n').count();
            self.within = *last != b'\n';
            // Each end of a line but the last is the beginning of another.
            self.lines.fetch_add(begun + ends as u64, Ordering::Relaxed);
        }
        Ok(bytes)
    }
}

fn one(path: &PathBuf) -> Found {
    let place = || path.display().to_string();
    let unreadable = |source| Bad::Unreadable { place: place(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(EVENT_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    event(1, place, &text)
}

/// Reads events until the first that is none, or until nobody wants any more.
fn lines(input: impl Read, taken: &AtomicU64, tell: impl Fn(Found) -> bool) {
    let mut input = BufReader::new(input);
    let (mut text, mut ordinal) = (Vec::new(), 0);
    for number in 1_u64.. {
        let place = || format!("line {number}");
        text.clear();
        let read = match input.by_ref().take(EVENT_BYTES_MAX + 1).read_until(b'\n', &mut text) {
            Ok(0) => return,
            Ok(_) if text.trim_ascii().is_empty() => {
                taken.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            Ok(_) => {
                ordinal += 1;
                event(ordinal, place, &text).map(|placed| Placed { number, ..placed })
            }
            Err(source) => Err(Bad::Unreadable { place: place(), source }),
        };
        let bad = read.is_err();
        if !tell(read) || bad {
            return;
        }
    }
}

fn event(ordinal: u64, place: impl Fn() -> String, text: &[u8]) -> Found {
    if text.len() as u64 > EVENT_BYTES_MAX {
        return Err(Bad::TooLong { place: place() });
    }
    match serde_json::from_slice(text) {
        Ok(event) => Ok(Placed { ordinal, number: ordinal, place: place(), event }),
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
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn refused(text: &str) -> String {
        event(7, || "line 7".to_owned(), text.as_bytes()).expect_err("it is no event").to_string()
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
        lines(input.as_bytes(), &AtomicU64::new(9), |event| {
            read.borrow_mut().push(event.map(|placed| placed.place).map_err(|bad| bad.to_string()));
            true
        });
        let read = read.into_inner();
        assert_eq!(read.len(), 2, "{read:?}");
        assert_eq!(read[0], Ok("line 2".to_owned()));
        assert!(read[1].as_ref().is_err_and(|bad| bad.starts_with("line 4 is no event")), "{read:?}");
    }

    #[test]
    fn a_line_without_an_end_is_refused_when_it_is_too_long() {
        let endless = io::repeat(b'x');
        let told = std::cell::RefCell::new(Vec::new());
        lines(endless, &AtomicU64::new(9), |event| {
            told.borrow_mut().push(event.map(|_| ()).map_err(|bad| bad.to_string()));
            true
        });
        let told = told.into_inner();
        assert!(told.len() == 1 && told[0].as_ref().is_err_and(|bad| bad.contains("more than 16777216")));
    }

    #[test]
    fn lines_are_counted_when_they_are_taken_also_the_last_that_has_no_end() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"one\n\nthree\nfour").and_then(|()| file.rewind()).expect("there is room");
        for room in 1..16 {
            file.rewind().expect("it is a file");
            let source = file.try_clone().expect("a descriptor");
            let mut taken = Taken { source, lines: Arc::default(), within: false };
            let mut room = vec![0; room];
            while taken.read(&mut room).expect("it can be read") > 0 {}
            assert_eq!(taken.lines.load(Ordering::Relaxed), 4, "{} at a time", room.len());
        }
    }
}
