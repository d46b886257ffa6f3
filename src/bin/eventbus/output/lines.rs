//! Lines that must not wait for their reader: so many are kept for one who does not read, the rest is counted, and the count told in
//! their place.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{END_PATIENCE, write_all};

/// Lines that wait for their reader. Above it: dropped, and counted.
const LINES_MAX: usize = 1024;

/// A stream of lines, which a thread of its own writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<String>,
    /// Lines that were dropped behind the waiting ones.
    dropped: u64,
    writing: bool,
}

impl Lines {
    /// Lines to a stream. Where the host has no thread for that they are kept, and nobody reads them.
    pub(crate) fn to(stream: impl AsFd) -> Self {
        let lines = Self::default();
        let ours = lines.clone();
        if let Ok(stream) = stream.as_fd().try_clone_to_owned() {
            let write = move || ours.write(&mut File::from(stream));
            drop(std::thread::Builder::new().name("eventbus-lines".into()).spawn(write));
        }
        lines
    }

    /// Never waits for the reader.
    pub(crate) fn say(&self, line: String) {
        let mut state = self.lock();
        // Behind what is missing comes nothing before that is told.
        if state.waiting.len() < LINES_MAX && state.dropped == 0 {
            state.waiting.push_back(line);
        } else {
            state.dropped += 1;
        }
        self.0.changed.notify_all();
    }

    /// Waits until all is written, but not for ever.
    pub(crate) fn end(&self) {
        let busy = |state: &mut State| state.writing || !state.waiting.is_empty() || state.dropped > 0;
        // Whoever reads no more is told nothing more.
        drop(self.0.changed.wait_timeout_while(self.lock(), END_PATIENCE, busy));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, out: &mut File) {
        let mut state = self.lock();
        loop {
            let text = match state.waiting.pop_front() {
                Some(line) => line + "\n",
                None if state.dropped > 0 => {
                    let dropped = std::mem::take(&mut state.dropped);
                    format!("eventbus: {dropped} lines are missing here: nobody has read those before them\n")
                }
                None => {
                    state.writing = false;
                    self.0.changed.notify_all();
                    state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            state.writing = true;
            drop(state);
            // Without a reader there is nobody to tell.
            let _ = write_all(out, text.as_bytes());
            state = self.lock();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    #[test]
    fn who_does_not_read_keeps_nobody_waiting_and_is_told_how_much_is_missing() {
        let (reader, writer) = std::io::pipe().expect("descriptors");
        let lines = Lines::to(&writer);
        drop(writer);
        // More than a pipe and the queue hold together.
        let text = "x".repeat(256);
        let said = 4 * LINES_MAX;
        (0..said).for_each(|number| lines.say(format!("{number} {text}")));
        let mut told = BufReader::new(reader).lines().map(|line| line.expect("text"));
        let mut read = 0;
        let missing = loop {
            let line = told.next().expect("the writer lives");
            match line.strip_prefix("eventbus: ") {
                None => assert!(line.starts_with(&format!("{read} ")), "in order: {line}"),
                Some(missing) => break missing.split(' ').next().and_then(|count| count.parse().ok()),
            }
            read += 1;
        };
        assert!(read >= LINES_MAX && missing == Some(said - read), "{missing:?} of {said} after {read}");
        lines.say("the last".into());
        lines.end();
        assert_eq!(told.next().as_deref(), Some("the last"));
    }
}
