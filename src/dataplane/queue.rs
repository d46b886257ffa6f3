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
    /// Its subscription is complete: see [`Queue::begin`].
    begun: bool,
    /// No writer is left.
    ended: bool,
    reader: Option<Waker>,
}

impl Queue {
    /// A queue in which at most `bytes` wait. As much again may be with its reader, who takes over all of it at once.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { state: Mutex::default(), bytes_max: bytes }
    }

    /// Takes events, and counts losses, from now on. Not before all routes are there: a route of an earlier subscription may lead
    /// here until it is taken back, and what is published until it is there again is missing without a word.
    pub(crate) fn begin(&self) {
        self.state.lock().begun = true;
    }

    /// Adds a batch whose record has `bytes`, or counts its events as lost. Yields the reader if it waits, to be woken when
    /// there is nothing more to add for now: woken for each batch, on the processor of the writer, it would take turns with it.
    #[must_use = "a reader that waits has to be woken"]
    pub(crate) fn push(&self, batch: &ReceivedBatch, bytes: usize) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.ended || !state.begun {
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
        if state.ended || !state.begun {
            return;
        }
        state.lost = state.lost.saturating_add(events);
        wake(state);
    }

    /// Adds an interruption.
    pub(crate) fn interrupt(&self, error: RecvError) {
        let mut state = self.state.lock();
        if state.ended || state.interruptions == INTERRUPTIONS_MAX {
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
        let waiting = (std::mem::take(&mut state.items), state.reader.take());
        drop(state);
        // Outside the lock: to drop them may run code of others.
        drop(waiting);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Component;
    use crate::batch::{BatchWriter, Opaque, Record};
    use crate::correlation::CorrelationMetadata;
    use crate::dataplane::Origin;
    use crate::topic::Topic;
    use crate::wire::{Epoch, PublisherId};
    use std::sync::Arc;

    fn batch(origin: &Arc<Origin>) -> ReceivedBatch {
        let mut writer = BatchWriter::new(u32::MAX);
        writer.begin(&CorrelationMetadata::default()).expect("it fits");
        writer.push(&Opaque(b"event"), None).expect("it fits");
        writer.seal(0, std::time::UNIX_EPOCH, 0);
        let topic = Topic::new("events.process.batch").expect("a topic");
        ReceivedBatch::new(Record::copy_of(&writer), topic, Arc::clone(origin))
    }

    fn origin() -> Arc<Origin> {
        let component = Component::from_client_id("procmond").expect("a name");
        Arc::new(Origin { component, publisher: PublisherId(1), epoch: Epoch(1) })
    }

    fn begun(bytes: usize) -> Queue {
        let queue = Queue::new(bytes);
        queue.begin();
        queue
    }

    fn take(queue: &Queue) -> (Poll<bool>, VecDeque<Item>) {
        let mut items = VecDeque::new();
        (queue.poll_take(&mut items, &mut Context::from_waker(Waker::noop())), items)
    }

    #[test]
    fn what_comes_before_the_subscription_is_complete_is_neither_kept_nor_counted_and_an_interruption_is_told()
     {
        let (queue, origin) = (Queue::new(ITEM_BYTES + 100), origin());
        let error = RecvError::Poisoned { component: "procmond".into(), violation: "tail".into() };
        assert!(queue.push(&batch(&origin), 100).is_none());
        queue.lost(7);
        queue.interrupt(error.clone());
        queue.begin();
        assert!(queue.push(&batch(&origin), 100).is_none());
        let shape: Vec<Option<RecvError>> = take(&queue).1.into_iter().map(Result::err).collect();
        assert_eq!(shape, [Some(error), None]);
    }

    #[test]
    fn an_abandoned_queue_holds_nothing_and_takes_nothing() {
        let (queue, origin) = (begun(1 << 20), origin());
        assert!(queue.push(&batch(&origin), 100).is_none());
        assert_eq!(Arc::strong_count(&origin), 2, "the batch that waits names its origin");
        queue.abandon();
        assert_eq!(Arc::strong_count(&origin), 1);
        assert!(queue.push(&batch(&origin), 100).is_none());
        queue.lost(7);
        assert_eq!(Arc::strong_count(&origin), 1);
        let (state, items) = take(&queue);
        assert!(state == Poll::Ready(false) && items.is_empty());
    }

    #[test]
    fn interruptions_are_bounded_until_they_are_read() {
        let queue = Queue::new(1 << 20);
        let error = RecvError::Poisoned { component: "procmond".into(), violation: "tail".into() };
        for _ in 0..=INTERRUPTIONS_MAX {
            queue.interrupt(error.clone());
        }
        assert_eq!(take(&queue).1.len(), INTERRUPTIONS_MAX);
        queue.interrupt(error);
        assert_eq!(take(&queue).1.len(), 1);
    }

    #[test]
    fn a_loss_stands_where_it_happened() {
        let (queue, origin) = (begun(ITEM_BYTES + 100), origin());
        assert!(queue.push(&batch(&origin), 100).is_none());
        assert!(queue.push(&batch(&origin), 100).is_none(), "there is no room");
        let (_, items) = take(&queue);
        let shape: Vec<Option<RecvError>> = items.into_iter().map(Result::err).collect();
        assert_eq!(shape, [None, Some(RecvError::Lagged(1))]);
    }
}
