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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::{Chunk, LatencyHistogram, ReceivedBatch};
use crate::config::{INTERRUPTIONS_MAX, PUBLISHERS_NOTED_MAX, URGENT_AHEAD_MAX, URGENT_PART};
use crate::wire::{PublisherId, SubscriptionClaim};

mod told;
pub use told::{Losses, RecvError};

/// What a reader takes from its queue.
pub(crate) type Item = Result<ReceivedBatch, RecvError>;

/// What waits in a queue: records that came together, or an interruption.
type Entry = Result<Arc<Chunk>, RecvError>;

/// Bytes that a record costs beyond itself: its place in a chunk, and for one that is alone, the chunk and the queue's entry.
const RECORD_OVERHEAD: usize = 256;

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
    /// Events that the reader's filters have rejected: the reader alone counts them.
    filtered: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    urgent: Lane,
    ordinary: Lane,
    /// Who has something in the ordinary lane, all if it is full; the last of them apart, since it mostly goes on.
    waiting: HashSet<PublisherId>,
    last: Option<PublisherId>,
    /// Who may have something of the ordinary lane with the reader.
    in_hand: HashSet<PublisherId>,
    /// Interruptions among the entries, losses not counted.
    interruptions: usize,
    losses: Losses,
    /// Events that were taken in.
    received: u64,
    /// Its subscription is complete: see [`Queue::begin`].
    begun: bool,
    /// No writer is left.
    ended: bool,
    reader: Option<Waker>,
}

#[derive(Debug, Default)]
struct Lane {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Events lost after the last entry.
    lost: u64,
}

/// What the reader has taken over and not handed out yet. It takes over both lanes together, and hands the urgent one out first; then
/// the ordinary one, and ahead of it what comes to the urgent lane meanwhile. For each publisher that is the order in which
/// it has sent.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Of its client.
    latencies: Arc<LatencyHistogram>,
    urgent: VecDeque<Entry>,
    /// Of the urgent entries, those that were taken over together with the ordinary ones.
    first: usize,
    ordinary: VecDeque<Entry>,
    /// Urgent entries that went ahead of the next ordinary one.
    ahead: usize,
    /// A chunk, and how many of its records were handed out.
    begun: Option<(Arc<Chunk>, usize)>,
}

impl Taken {
    pub(crate) fn new(latencies: Arc<LatencyHistogram>) -> Self {
        Self { latencies, ..Self::default() }
    }

    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.ordinary.is_empty()
    }

    /// Hands out the next record of the chunk that is begun.
    fn next_of_begun(&mut self) -> Option<Item> {
        let (chunk, record) = self.begun.take()?;
        if record + 1 < chunk.len() {
            self.begun = Some((Arc::clone(&chunk), record + 1));
        }
        Some(Ok(ReceivedBatch::new(chunk, record)))
    }

    /// Hands out the next item of what is here.
    fn next(&mut self) -> Option<Item> {
        let urgent = self.first > 0 || self.ahead < URGENT_AHEAD_MAX || self.ordinary.is_empty();
        let entry = if urgent && let Some(entry) = self.urgent.pop_front() {
            self.ahead += usize::from(self.first == 0);
            self.first = self.first.saturating_sub(1);
            entry
        } else {
            self.ahead = 0;
            self.ordinary.pop_front()?
        };
        match entry {
            Ok(chunk) => {
                self.latencies.note(&chunk);
                self.begun = Some((chunk, 0));
                self.next_of_begun()
            }
            Err(interruption) => Some(Err(interruption)),
        }
    }
}

impl Queue {
    /// A queue in which at most `bytes` wait. As much again of each lane may be with its reader, who takes over all of it at once.
    pub(crate) fn new(bytes: usize) -> Self {
        let (urgent_waits, filtered) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { state: Mutex::default(), urgent_waits, bytes_max: bytes, filtered }
    }

    /// Takes events, and counts losses, from now on. Not before all routes are there: a route of an earlier subscription may lead
    /// here until it is taken back, and what is published until it is there again is missing without a word.
    pub(crate) fn begin(&self) {
        self.state.lock().begun = true;
    }

    /// Adds a chunk, or counts its events as lost. Yields the reader if it waits, to be woken when there is nothing more to add
    /// for now: woken for each chunk, on the processor of the writer, it would take turns with it.
    #[must_use = "a reader that waits has to be woken"]
    pub(crate) fn push(&self, chunk: &Arc<Chunk>, source: Source) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.ended || !state.begun {
            return None;
        }
        let bytes = chunk.bytes() + chunk.len() * RECORD_OVERHEAD;
        let limit = self.bytes_max - if source.urgent { 0 } else { self.bytes_max / URGENT_PART };
        let waiting = state.ordinary.bytes + state.urgent.bytes;
        let empty = state.ordinary.entries.is_empty() && state.urgent.entries.is_empty();
        let lane = self.lane(&mut state, source);
        if waiting + bytes > limit && !empty {
            let events = chunk.events();
            lane.lost = lane.lost.saturating_add(events);
            state.losses.queue = state.losses.queue.saturating_add(events);
            return None;
        }
        lane.bytes += bytes;
        lane.settle_loss();
        lane.entries.push_back(Ok(Arc::clone(chunk)));
        state.received = state.received.saturating_add(chunk.events());
        state.reader.take()
    }

    /// Counts events that were lost in a ring.
    pub(crate) fn lost(&self, events: u64, source: Source) {
        let mut state = self.state.lock();
        if state.ended || !state.begun {
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
        state.ordinary.entries.push_back(Err(error));
        wake(state);
    }

    /// What came of its subscription so far.
    pub(crate) fn claim(&self) -> SubscriptionClaim {
        let state = self.state.lock();
        let Losses { ring: lost_in_ring, queue: lost_in_queue } = state.losses;
        let filtered = self.filtered.load(Ordering::Relaxed);
        SubscriptionClaim { received: state.received, lost_in_ring, lost_in_queue, filtered }
    }

    /// Counts events that the reader's filters have rejected.
    pub(crate) fn reject(&self, events: u64) {
        self.filtered.store(self.filtered.load(Ordering::Relaxed) + events, Ordering::Relaxed);
    }

    /// Events that were taken in so far, and that the reader's filters have not rejected.
    pub(crate) fn delivered(&self) -> u64 {
        self.state.lock().received.saturating_sub(self.filtered())
    }

    /// Those so far.
    pub(crate) fn filtered(&self) -> u64 {
        self.filtered.load(Ordering::Relaxed)
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
        if let Some(item) = taken.next_of_begun() {
            return Poll::Ready(Some(item));
        }
        if (!taken.urgent.is_empty() || !self.urgent_waits.load(Ordering::Relaxed))
            && let Some(item) = taken.next()
        {
            return Poll::Ready(Some(item));
        }
        let mut state = self.state.lock();
        self.urgent_waits.store(false, Ordering::Relaxed);
        state.urgent.hand_over(&mut taken.urgent);
        if taken.ordinary.is_empty() {
            taken.first = taken.urgent.len();
            state.hand_over(&mut taken.ordinary);
        }
        if taken.is_empty() && !state.ended {
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(taken.next())
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
        let is_in = |noted: &HashSet<_>| noted.len() == PUBLISHERS_NOTED_MAX || noted.contains(&publisher);
        self.last == Some(publisher) || is_in(&self.waiting) || is_in(&self.in_hand)
    }

    fn note(&mut self, publisher: PublisherId) {
        if self.last != Some(publisher) {
            if self.waiting.len() < PUBLISHERS_NOTED_MAX {
                self.waiting.insert(publisher);
            }
            self.last = Some(publisher);
        }
    }

    /// Moves the ordinary lane to its reader, who has nothing left of it.
    fn hand_over(&mut self, entries: &mut VecDeque<Entry>) {
        self.ordinary.hand_over(entries);
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
            self.entries.push_back(Err(RecvError::Lagged(self.lost)));
            self.lost = 0;
        }
    }

    /// Moves all of it into `entries`, which is empty.
    fn hand_over(&mut self, entries: &mut VecDeque<Entry>) {
        self.settle_loss();
        std::mem::swap(&mut self.entries, entries);
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
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::access::Component;
    use crate::batch::{BatchWriter, Opaque};
    use crate::correlation::CorrelationMetadata;
    use crate::dataplane::Origin;
    use crate::dataplane::chunk::{Pool, own};
    use crate::topic::Topic;
    use crate::wire::Epoch;

    const PROCMOND: Source = Source { publisher: PublisherId(1), urgent: false };
    const ANOMALY: Source = Source { publisher: PublisherId(2), urgent: true };

    fn chunk(origin: &Arc<Origin>, records: usize) -> Arc<Chunk> {
        chunk_from(origin, records, 0)
    }

    /// One record of a publisher, with its number.
    fn numbered(publisher: u64, number: u64) -> Arc<Chunk> {
        chunk_from(&origin(PublisherId(publisher)), 1, number)
    }

    fn chunk_from(origin: &Arc<Origin>, records: usize, number: u64) -> Arc<Chunk> {
        let mut writer = BatchWriter::new(u32::MAX);
        writer.begin(&CorrelationMetadata::new("scan".into())).expect("it fits");
        writer.push(&Opaque(b"event"), None).expect("it fits");
        writer.seal(number, std::time::UNIX_EPOCH, 0);
        let topic = Topic::new("events.process.batch").expect("a topic");
        let mut chunk = Pool::default().take(writer.bytes(), &topic, origin);
        (0..records).for_each(|_| own(&mut chunk).push_own(&writer));
        chunk
    }

    fn origin(publisher: PublisherId) -> Arc<Origin> {
        let component = Component::from_client_id("procmond").expect("a name");
        Arc::new(Origin { component, publisher, epoch: Epoch(1) })
    }

    /// A queue for so many records, each in a chunk of its own.
    fn queue_for(records: usize) -> Queue {
        begun(records * (chunk(&origin(PROCMOND.publisher), 1).bytes() + RECORD_OVERHEAD))
    }

    fn begun(bytes: usize) -> Queue {
        let queue = Queue::new(bytes);
        queue.begin();
        queue
    }

    fn push(queue: &Queue, source: Source) {
        assert!(queue.push(&chunk(&origin(source.publisher), 1), source).is_none(), "nobody waits");
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
    fn what_comes_before_the_subscription_begins_is_neither_kept_nor_counted_and_an_interruption_is_told() {
        let (queue, mut taken) = (Queue::new(1 << 20), Taken::default());
        let error = RecvError::Poisoned { component: "procmond".into(), violation: "tail".into() };
        push(&queue, PROCMOND);
        queue.lost(7, PROCMOND);
        queue.interrupt(error.clone());
        queue.begin();
        push(&queue, PROCMOND);
        assert_eq!(read(&queue, &mut taken), [Err(error), Ok(1)]);
    }

    #[test]
    fn an_abandoned_queue_holds_nothing_and_takes_nothing() {
        let (queue, origin) = (begun(1 << 20), origin(PROCMOND.publisher));
        assert!(queue.push(&chunk(&origin, 1), PROCMOND).is_none());
        assert_eq!(Arc::strong_count(&origin), 2, "what waits names its origin");
        queue.abandon();
        assert_eq!(Arc::strong_count(&origin), 1);
        assert!(queue.push(&chunk(&origin, 1), PROCMOND).is_none());
        queue.lost(7, PROCMOND);
        assert_eq!(Arc::strong_count(&origin), 1);
        assert!(matches!(poll(&queue, &mut Taken::default()), Poll::Ready(None)));
    }

    #[test]
    fn interruptions_are_bounded_until_they_are_read() {
        let (queue, mut taken) = (begun(1 << 20), Taken::default());
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
        let (queue, mut taken) = (queue_for(1), Taken::default());
        push(&queue, PROCMOND);
        push(&queue, PROCMOND);
        assert_eq!(read(&queue, &mut taken), [Ok(1), Err(RecvError::Lagged(1))]);
        queue.lost(7, PROCMOND);
        push(&queue, PROCMOND);
        assert_eq!(read(&queue, &mut taken), [Err(RecvError::Lagged(7)), Ok(1)]);
        assert_eq!(queue.losses(), Losses { ring: 7, queue: 1 });
    }

    #[test]
    fn records_that_share_a_chunk_come_one_by_one_and_are_lost_together() {
        let (queue, mut taken) = (queue_for(4), Taken::default());
        let origin = origin(ANOMALY.publisher);
        assert!(queue.push(&chunk(&origin, 3), PROCMOND).is_none());
        assert!(queue.push(&chunk(&origin, 2), PROCMOND).is_none());
        assert!(matches!(poll(&queue, &mut taken), Poll::Ready(Some(Ok(_)))));
        push(&queue, PROCMOND);
        assert_eq!(read(&queue, &mut taken), [Ok(2), Ok(2), Err(RecvError::Lagged(2)), Ok(1)]);
    }

    #[test]
    fn an_urgent_batch_finds_room_where_others_leave_it_and_goes_ahead_of_them() {
        let items = 2 * URGENT_PART;
        let (queue, mut taken) = (queue_for(items), Taken::default());
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
        let (queue, mut taken) = (begun(1 << 20), Taken::default());
        push(&queue, PROCMOND);
        push(&queue, PROCMOND);
        assert!(matches!(poll(&queue, &mut taken), Poll::Ready(Some(Ok(_)))));
        push(&queue, ANOMALY);
        assert_eq!(read(&queue, &mut taken), [Ok(2), Ok(1)]);
    }

    #[test]
    fn nothing_goes_ahead_of_what_its_own_publisher_has_sent() {
        let (queue, mut taken) = (begun(1 << 20), Taken::default());
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

    #[test]
    fn a_flood_of_urgent_batches_does_not_keep_others_from_being_heard() {
        let (queue, mut taken) = (begun(1 << 20), Taken::default());
        for _ in 0..3 {
            push(&queue, PROCMOND);
        }
        let mut heard = 0;
        let flood = (0..4 * URGENT_AHEAD_MAX).filter(|_| {
            push(&queue, ANOMALY);
            let Poll::Ready(Some(Ok(batch))) = poll(&queue, &mut taken) else { panic!("something waits") };
            heard += usize::from(batch.origin().publisher == PROCMOND.publisher);
            batch.origin().publisher == ANOMALY.publisher
        });
        assert!(flood.count() >= 3 * URGENT_AHEAD_MAX);
        assert_eq!(heard, 3);
    }

    #[test]
    fn what_was_urgent_and_came_first_is_read_first_however_much_it_is() {
        let (queue, mut taken) = (begun(1 << 20), Taken::default());
        for _ in 0..2 * URGENT_AHEAD_MAX {
            push(&queue, ANOMALY);
        }
        let ordinary = Source { urgent: false, ..ANOMALY };
        assert!(queue.push(&numbered(ANOMALY.publisher.0, 99), ordinary).is_none());
        for _ in 0..2 * URGENT_AHEAD_MAX {
            assert!(
                matches!(poll(&queue, &mut taken), Poll::Ready(Some(Ok(batch))) if batch.view().first_sequence() == 0)
            );
        }
        assert!(
            matches!(poll(&queue, &mut taken), Poll::Ready(Some(Ok(batch))) if batch.view().first_sequence() == 99)
        );
    }

    proptest! {
        /// Whatever is sent, lost and read in whatever order: of each publisher what it has sent is read in that order.
        #[test]
        fn order_holds_for_each_publisher(
            steps in vec((0..4_u64, any::<bool>(), any::<bool>(), 0..4_usize), 1..300),
            room in 2..40_usize,
        ) {
            let (queue, mut taken) = (queue_for(room), Taken::default());
            let (mut sent, mut read, mut lost, mut told) = ([0; 4], [0; 4], 0, 0);
            let mut take = |taken: &mut Taken| match poll(&queue, taken) {
                Poll::Ready(Some(Ok(batch))) => {
                    let (publisher, number) = (batch.origin().publisher.0, batch.view().first_sequence());
                    assert!(number >= read[publisher as usize], "{publisher} sent {number} earlier");
                    read[publisher as usize] = number + 1;
                    true
                }
                Poll::Ready(Some(Err(RecvError::Lagged(events)))) => {
                    told += events;
                    true
                }
                _ => false,
            };
            for (publisher, urgent, in_ring, reads) in steps {
                let source = Source { publisher: PublisherId(publisher), urgent };
                let number = &mut sent[publisher as usize];
                if in_ring && *number % 7 == 0 {
                    queue.lost(1, source);
                    lost += 1;
                } else {
                    let _reader = queue.push(&numbered(publisher, *number), source);
                }
                *number += 1;
                for _ in 0..reads {
                    take(&mut taken);
                }
            }
            while take(&mut taken) {}
            prop_assert_eq!(queue.losses().ring, lost);
            prop_assert_eq!(told, lost + queue.losses().queue);
        }
    }

    #[test]
    fn of_more_publishers_than_are_noted_nothing_goes_ahead() {
        let (queue, mut taken) = (begun(1 << 20), Taken::default());
        let of = |publisher, urgent| Source { publisher: PublisherId(publisher), urgent };
        let many = 2 * PUBLISHERS_NOTED_MAX as u64;
        (0..many).for_each(|publisher| queue.lost(1, of(publisher, false)));
        assert_eq!(queue.state.lock().waiting.len(), PUBLISHERS_NOTED_MAX);
        push(&queue, of(many - 1, true));
        let told = poll(&queue, &mut taken);
        assert!(
            matches!(told, Poll::Ready(Some(Err(RecvError::Lagged(events)))) if events == many),
            "{told:?}"
        );
        push(&queue, of(many - 2, true));
        assert_eq!(read(&queue, &mut taken), [Ok(many - 1), Ok(many - 2)]);
        assert!(queue.push(&chunk(&origin(PROCMOND.publisher), 1), PROCMOND).is_some(), "the reader waits");
        push(&queue, ANOMALY);
        assert_eq!(read(&queue, &mut taken), [Ok(2), Ok(1)], "they are noted again");
    }
}
