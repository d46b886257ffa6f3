//! The bounded queue between the data plane and one subscription.
//!
//! Writers are the data thread and the publishers of this process; the reader is the subscription, which takes over all that
//! waits in one go and then reads without the lock. What does not fit is counted, and the count stands in the queue at
//! the place of the loss.
//!
//! There are two lanes. What is urgent has a reserve that nothing else fills, and goes ahead of what other publishers have sent: an
//! alert must not wait until a slow reader is through with 16 MiB of batches. Not ahead of what its own publisher has sent: order
//! holds for each publisher, so an urgent batch takes the ordinary lane while that publisher has anything else before it, here
//! or with the reader.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::ReceivedBatch;
use crate::config::{INTERRUPTIONS_MAX, URGENT_PART};
use crate::wire::PublisherId;

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

/// Events that matched a subscription and were lost on their way to it, told to it or yet to be told.
///
/// ```
/// use daemoneye_eventbus::Opaque;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path).queue_bytes(1))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// // The broker's options had `queue_bytes(1)`: one batch waits at most.
/// let batches = bus.subscription(&["events.process.#"]).await?;
/// let mut publisher = bus.publisher("events.process.batch").await?;
/// for event in [b"1", b"2", b"3"] {
///     publisher.publish(&Opaque(event))?;
/// }
/// assert_eq!((batches.losses().ring, batches.losses().queue), (0, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Losses {
    /// Events that found a ring to this process full: the process was stopped, or had no processor to run on.
    pub ring: u64,
    /// Events that found the subscription's queue full: the application is too slow.
    pub queue: u64,
}

/// Whose a batch, or a loss, is; and whether its topic is urgent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) publisher: PublisherId,
    pub(crate) urgent: bool,
}

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// A hint to the reader that something waits in the urgent lane.
    urgent_waits: AtomicBool,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    urgent: Lane,
    ordinary: Lane,
    /// Who has something in the ordinary lane; the last of them apart, since it mostly goes on.
    waiting: HashSet<PublisherId>,
    last: Option<PublisherId>,
    /// Who may have something of the ordinary lane with the reader.
    in_hand: HashSet<PublisherId>,
    /// Interruptions among the items, losses not counted.
    interruptions: usize,
    losses: Losses,
    /// No writer is left.
    ended: bool,
    reader: Option<Waker>,
}

#[derive(Debug, Default)]
struct Lane {
    items: VecDeque<Item>,
    bytes: usize,
    /// Events lost after the last item.
    lost: u64,
}

/// What the reader has taken over and not handed out yet.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    urgent: VecDeque<Item>,
    ordinary: VecDeque<Item>,
}

impl Queue {
    /// A queue in which at most `bytes` wait. As much again may be with its reader, who takes over all of it at once.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { state: Mutex::default(), urgent_waits: AtomicBool::new(false), bytes_max: bytes }
    }

    /// Adds a batch whose record has `bytes`, or counts its events as lost. Yields the reader if it waits, to be woken when
    /// there is nothing more to add for now: woken for each batch, on the processor of the writer, it would take turns with it.
    #[must_use = "a reader that waits has to be woken"]
    pub(crate) fn push(&self, batch: &ReceivedBatch, bytes: usize, source: Source) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.ended {
            return None;
        }
        let bytes = bytes + ITEM_BYTES;
        let limit = self.bytes_max - if source.urgent { 0 } else { self.bytes_max / URGENT_PART };
        let waiting = state.ordinary.bytes + state.urgent.bytes;
        let empty = state.ordinary.items.is_empty() && state.urgent.items.is_empty();
        let lane = self.lane(&mut state, source);
        if waiting + bytes > limit && !empty {
            let events = batch.len() as u64;
            lane.lost = lane.lost.saturating_add(events);
            state.losses.queue = state.losses.queue.saturating_add(events);
            return None;
        }
        lane.bytes += bytes;
        lane.settle_loss();
        lane.items.push_back(Ok(batch.clone()));
        state.reader.take()
    }

    /// Counts events that were lost in a ring.
    pub(crate) fn lost(&self, events: u64, source: Source) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        let lane = self.lane(&mut state, source);
        lane.lost = lane.lost.saturating_add(events);
        state.losses.ring = state.losses.ring.saturating_add(events);
        wake(state);
    }

    /// Adds an interruption.
    pub(crate) fn interrupt(&self, error: RecvError) {
        let mut state = self.state.lock();
        if state.ended || state.interruptions == INTERRUPTIONS_MAX {
            return;
        }
        state.interruptions += 1;
        state.ordinary.settle_loss();
        state.ordinary.items.push_back(Err(error));
        wake(state);
    }

    /// What was lost so far.
    pub(crate) fn losses(&self) -> Losses {
        self.state.lock().losses
    }

    /// Drops what waits, and takes nothing more: nobody will read it.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        let lanes = (std::mem::take(&mut state.urgent), std::mem::take(&mut state.ordinary));
        let waiting = (lanes, state.reader.take());
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

    /// The next item; `None` at the end of the stream. `taken` is the reader's, from one call to the next.
    pub(crate) fn poll_next(&self, taken: &mut Taken, context: &mut Context<'_>) -> Poll<Option<Item>> {
        if let Some(item) = taken.urgent.pop_front() {
            return Poll::Ready(Some(item));
        }
        if !self.urgent_waits.load(Ordering::Relaxed)
            && let Some(item) = taken.ordinary.pop_front()
        {
            return Poll::Ready(Some(item));
        }
        let mut state = self.state.lock();
        self.urgent_waits.store(false, Ordering::Relaxed);
        state.urgent.hand_over(&mut taken.urgent);
        let next = |taken: &mut Taken| taken.urgent.pop_front().or_else(|| taken.ordinary.pop_front());
        if let Some(item) = next(taken) {
            return Poll::Ready(Some(item));
        }
        state.hand_over(&mut taken.ordinary);
        match next(taken) {
            Some(item) => Poll::Ready(Some(item)),
            None if state.ended => Poll::Ready(None),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The lane of what comes from `source` now.
    fn lane<'a>(&self, state: &'a mut State, source: Source) -> &'a mut Lane {
        if source.urgent && !state.is_behind(source.publisher) {
            self.urgent_waits.store(true, Ordering::Relaxed);
            &mut state.urgent
        } else {
            state.note(source.publisher);
            &mut state.ordinary
        }
    }
}

impl State {
    /// Whether the publisher has something in the ordinary lane that the application has not seen.
    fn is_behind(&self, publisher: PublisherId) -> bool {
        self.last == Some(publisher) || self.waiting.contains(&publisher) || self.in_hand.contains(&publisher)
    }

    fn note(&mut self, publisher: PublisherId) {
        if self.last != Some(publisher) {
            self.waiting.insert(publisher);
            self.last = Some(publisher);
        }
    }

    /// Moves the ordinary lane to its reader, who has nothing left of it.
    fn hand_over(&mut self, items: &mut VecDeque<Item>) {
        self.ordinary.hand_over(items);
        std::mem::swap(&mut self.waiting, &mut self.in_hand);
        self.waiting.clear();
        self.last = None;
        self.interruptions = 0;
    }
}

impl Lane {
    /// Gives a loss its place, before what comes next.
    fn settle_loss(&mut self) {
        if self.lost > 0 {
            self.items.push_back(Err(RecvError::Lagged(self.lost)));
            self.lost = 0;
        }
    }

    /// Moves all of it into `items`, which is empty.
    fn hand_over(&mut self, items: &mut VecDeque<Item>) {
        self.settle_loss();
        std::mem::swap(&mut self.items, items);
        self.bytes = 0;
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
    use std::sync::Arc;

    use super::*;
    use crate::access::Component;
    use crate::batch::{BatchWriter, Opaque, Record};
    use crate::correlation::CorrelationMetadata;
    use crate::dataplane::Origin;
    use crate::topic::Topic;
    use crate::wire::Epoch;

    const BYTES: usize = 100;
    const PROCMOND: Source = Source { publisher: PublisherId(1), urgent: false };
    const ANOMALY: Source = Source { publisher: PublisherId(2), urgent: true };

    fn batch(origin: &Arc<Origin>) -> ReceivedBatch {
        let mut writer = BatchWriter::new(u32::MAX);
        writer.begin(&CorrelationMetadata::default()).expect("it fits");
        writer.push(&Opaque(b"event"), None).expect("it fits");
        writer.seal(0, std::time::UNIX_EPOCH, 0);
        let topic = Topic::new("events.process.batch").expect("a topic");
        ReceivedBatch::new(Record::copy_of(&writer), topic, Arc::clone(origin))
    }

    fn origin(publisher: PublisherId) -> Arc<Origin> {
        let component = Component::from_client_id("procmond").expect("a name");
        Arc::new(Origin { component, publisher, epoch: Epoch(1) })
    }

    fn push(queue: &Queue, source: Source) {
        assert!(queue.push(&batch(&origin(source.publisher)), BYTES, source).is_none(), "nobody waits");
    }

    fn poll(queue: &Queue, taken: &mut Taken) -> Poll<Option<Item>> {
        queue.poll_next(taken, &mut Context::from_waker(Waker::noop()))
    }

    /// All that is there: whose it is, or how many were lost.
    fn read(queue: &Queue, taken: &mut Taken) -> Vec<Result<u64, RecvError>> {
        let mut items = Vec::new();
        while let Poll::Ready(Some(item)) = poll(queue, taken) {
            items.push(item.map(|batch| batch.origin().publisher.0));
        }
        items
    }

    #[test]
    fn an_abandoned_queue_holds_nothing_and_takes_nothing() {
        let (queue, origin) = (Queue::new(1 << 20), origin(PROCMOND.publisher));
        assert!(queue.push(&batch(&origin), BYTES, PROCMOND).is_none());
        assert_eq!(Arc::strong_count(&origin), 2, "the batch that waits names its origin");
        queue.abandon();
        assert_eq!(Arc::strong_count(&origin), 1);
        assert!(queue.push(&batch(&origin), BYTES, PROCMOND).is_none());
        queue.lost(7, PROCMOND);
        assert_eq!(Arc::strong_count(&origin), 1);
        assert!(matches!(poll(&queue, &mut Taken::default()), Poll::Ready(None)));
    }

    #[test]
    fn interruptions_are_bounded_until_they_are_read() {
        let (queue, mut taken) = (Queue::new(1 << 20), Taken::default());
        let error = RecvError::Poisoned { component: "procmond".into(), violation: "tail".into() };
        for _ in 0..=INTERRUPTIONS_MAX {
            queue.interrupt(error.clone());
        }
        assert_eq!(read(&queue, &mut taken).len(), INTERRUPTIONS_MAX);
        queue.interrupt(error);
        assert_eq!(read(&queue, &mut taken).len(), 1);
    }

    #[test]
    fn a_loss_stands_where_it_happened() {
        let (queue, mut taken) = (Queue::new(ITEM_BYTES + BYTES), Taken::default());
        push(&queue, PROCMOND);
        push(&queue, PROCMOND);
        assert_eq!(read(&queue, &mut taken), [Ok(1), Err(RecvError::Lagged(1))]);
        queue.lost(7, PROCMOND);
        push(&queue, PROCMOND);
        assert_eq!(read(&queue, &mut taken), [Err(RecvError::Lagged(7)), Ok(1)]);
        assert_eq!(queue.losses(), Losses { ring: 7, queue: 1 });
    }

    #[test]
    fn an_urgent_batch_finds_room_where_others_leave_it_and_goes_ahead_of_them() {
        let items = 2 * URGENT_PART;
        let (queue, mut taken) = (Queue::new(items * (ITEM_BYTES + BYTES)), Taken::default());
        for _ in 0..items {
            push(&queue, PROCMOND);
        }
        for _ in 0..3 {
            push(&queue, ANOMALY);
        }
        let mut expected = vec![Ok(2), Ok(2), Err(RecvError::Lagged(1))];
        expected.extend(vec![Ok(1); items - 2]);
        expected.push(Err(RecvError::Lagged(2)));
        assert_eq!(read(&queue, &mut taken), expected);
    }

    #[test]
    fn an_urgent_batch_goes_ahead_also_of_what_the_reader_has_taken_over() {
        let (queue, mut taken) = (Queue::new(1 << 20), Taken::default());
        push(&queue, PROCMOND);
        push(&queue, PROCMOND);
        assert!(matches!(poll(&queue, &mut taken), Poll::Ready(Some(Ok(_)))));
        push(&queue, ANOMALY);
        assert_eq!(read(&queue, &mut taken), [Ok(2), Ok(1)]);
    }

    #[test]
    fn nothing_goes_ahead_of_what_its_own_publisher_has_sent() {
        let (queue, mut taken) = (Queue::new(1 << 20), Taken::default());
        let own = Source { urgent: true, ..PROCMOND };
        // In the queue; with the reader; and where it is a loss that waits.
        push(&queue, PROCMOND);
        queue.lost(1, own);
        push(&queue, own);
        assert!(matches!(poll(&queue, &mut taken), Poll::Ready(Some(Ok(_)))));
        queue.lost(2, own);
        let rest = [Err(RecvError::Lagged(1)), Ok(1), Err(RecvError::Lagged(2))];
        assert_eq!(read(&queue, &mut taken), rest);
        queue.lost(3, PROCMOND);
        push(&queue, own);
        push(&queue, ANOMALY);
        assert_eq!(read(&queue, &mut taken), [Ok(2), Err(RecvError::Lagged(3)), Ok(1)]);
    }
}
