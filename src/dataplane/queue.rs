//! The bounded queue between the data plane and one subscription.
//!
//! Writers are the data thread and the publishers of this process; the reader is the subscription, which takes over all that
//! waits in one go and then reads without the lock. What does not fit is counted, and the count stands in the queue at
//! the place of the loss.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::ReceivedBatch;
use crate::config::INTERRUPTIONS_MAX;

/// An interruption in a stream of events. The stream goes on after it.
///
/// ```
/// use daemoneye_eventbus::{Opaque, RecvError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path).queue_bytes(1))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// // The broker's options had `queue_bytes(1)`: one batch waits at most.
/// let mut batches = bus.subscription(&["events.process.#"]).await?;
/// let mut publisher = bus.publisher("events.process.batch").await?;
/// for event in [b"1", b"2", b"3"] {
///     publisher.publish(&Opaque(event))?;
/// }
/// assert!(matches!(batches.recv().await, Some(Ok(_))));
/// assert_eq!(batches.recv().await.expect("the bus is there").err(), Some(RecvError::Lagged(2)));
/// publisher.publish(&Opaque(b"4"))?;
/// assert!(matches!(batches.recv().await, Some(Ok(_))), "the stream goes on");
/// assert_eq!(publisher.totals().dropped, 0, "of a loss behind the ring, the publisher does not hear");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// This many events that matched the subscription were lost here: the subscriber was too slow for the ring, or for its
    /// queue. The events before and after are in order.
    #[error("{0} events were lost")]
    Lagged(u64),
    /// A publisher broke the laws of its ring. Nothing more comes from it; other publishers are not affected.
    #[error("{component} broke its ring: {violation}")]
    Poisoned {
        /// Who.
        component: String,
        /// How.
        violation: String,
    },
}

/// What waits in a queue.
pub(crate) type Item = Result<ReceivedBatch, RecvError>;

/// Bytes that a batch costs beyond its record: two reference-counted blocks, their headers, the queue's own entry.
const ITEM_BYTES: usize = 256;

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// Interruptions among the items, losses not counted.
    interruptions: usize,
    /// Events lost after the last item.
    lost: u64,
    /// No writer is left.
    ended: bool,
    reader: Option<Waker>,
}

impl Queue {
    /// A queue in which at most `bytes` wait. As much again may be with its reader, who takes over all of it at once.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { state: Mutex::default(), bytes_max: bytes }
    }

    /// Adds a batch whose record has `bytes`, or counts its events as lost. Yields the reader if it waits, to be woken when
    /// there is nothing more to add for now: woken for each batch, on the processor of the writer, it would take turns with it.
    #[must_use = "a reader that waits has to be woken"]
    pub(crate) fn push(&self, batch: &ReceivedBatch, bytes: usize) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.ended {
            return None;
        }
        let bytes = state.bytes + bytes + ITEM_BYTES;
        if bytes > self.bytes_max && !state.items.is_empty() {
            state.lost = state.lost.saturating_add(batch.len() as u64);
            return None;
        }
        state.bytes = bytes;
        state.settle_loss();
        state.items.push_back(Ok(batch.clone()));
        state.reader.take()
    }

    /// Counts events that were lost on their way here.
    pub(crate) fn lost(&self, events: u64) {
        let mut state = self.state.lock();
        state.lost = state.lost.saturating_add(events);
        wake(state);
    }

    /// Adds an interruption.
    pub(crate) fn interrupt(&self, error: RecvError) {
        let mut state = self.state.lock();
        if state.interruptions == INTERRUPTIONS_MAX {
            return;
        }
        state.interruptions += 1;
        state.settle_loss();
        state.items.push_back(Err(error));
        wake(state);
    }

    /// Drops what waits, and takes nothing more: nobody will read it.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        let items = std::mem::take(&mut state.items);
        drop(state);
        drop(items);
    }

    /// Says that nothing more will come.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        wake(state);
    }

    /// Takes all that waits over into `items`, which is empty; `false` at the end of the stream.
    pub(crate) fn poll_take(&self, items: &mut VecDeque<Item>, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state.lock();
        state.settle_loss();
        if !state.items.is_empty() {
            std::mem::swap(&mut state.items, items);
            state.bytes = 0;
            state.interruptions = 0;
            return Poll::Ready(true);
        }
        if state.ended {
            return Poll::Ready(false);
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl State {
    /// Gives a loss its place, before what comes next.
    fn settle_loss(&mut self) {
        if self.lost > 0 {
            self.items.push_back(Err(RecvError::Lagged(self.lost)));
            self.lost = 0;
        }
    }
}

/// Wakes the reader, after the lock is released.
fn wake(mut state: parking_lot::MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}
