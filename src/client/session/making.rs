//! Segments that are larger than usual, made beside the control thread: up to a GiB each, and how many is a stranger's wish.

use std::collections::VecDeque;
use std::io;

use shm::{Backing, ProducerSegment, SegmentError};
use tokio::sync::mpsc;

use crate::config::MAKING_MAX;
use crate::wire::RingId;

/// A producer's segment that was made, or can't be had.
pub(super) type Made = (RingId, Result<ProducerSegment, SegmentError>);

/// At most [`MAKING_MAX`] are made at a time. The others wait, and are not made if they are not wanted any more when their turn comes.
#[derive(Debug)]
pub(super) struct Making {
    waiting: VecDeque<(RingId, usize)>,
    at_work: usize,
    done: mpsc::UnboundedSender<Made>,
    made: mpsc::UnboundedReceiver<Made>,
}

impl Making {
    pub(super) fn new() -> Self {
        let (done, made) = mpsc::unbounded_channel();
        Self { waiting: VecDeque::new(), at_work: 0, done, made }
    }

    /// The next that is made. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Made> {
        let made = self.made.recv().await;
        self.at_work -= usize::from(made.is_some());
        made
    }

    pub(super) fn want(&mut self, ring: RingId, capacity: usize) {
        self.waiting.push_back((ring, capacity));
    }

    pub(super) fn give_up(&mut self, ring: RingId) {
        self.waiting.retain(|(waiting, _)| *waiting != ring);
    }

    /// Begins with what waits and has its turn. What the host refuses a thread for is handed back.
    pub(super) fn go_on(&mut self, backing: Backing) -> Vec<(RingId, io::Error)> {
        let mut refused = Vec::new();
        while self.at_work < MAKING_MAX
            && let Some((ring, capacity)) = self.waiting.pop_front()
        {
            let done = self.done.clone();
            let make = move || {
                // Where the session is over the segment goes at once.
                let _ = done.send((ring, ProducerSegment::create(capacity, backing)));
            };
            match std::thread::Builder::new().name("eventbus-ring".into()).spawn(make) {
                Ok(_) => self.at_work += 1,
                Err(error) => refused.push((ring, error)),
            }
        }
        refused
    }

    #[cfg(test)]
    pub(super) fn at_work(&self) -> usize {
        self.at_work
    }
}
