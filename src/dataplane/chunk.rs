//! What queues hold: records of one publisher and one topic, together.
//!
//! Single events are small and come in bursts. One allocation for each, made by the data thread and given back by the application's,
//! cost more than all the rest of receiving it; so what comes in a row shares a chunk, and chunks that nobody holds any more are
//! filled again. Large records, as batches are, have one each: allocators give such memory back to the system, which
//! clears and maps it anew, and that was a third of the time that a process event cost its subscriber.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use super::Origin;
use crate::batch::{BatchView, BatchWriter, Malformed, RECORD_BYTES_TARGET, Records};
use crate::event::BusEvent;
use crate::hidden::Hidden;
use crate::topic::Topic;

/// Bytes of records that share a chunk: some 20 single events. Who keeps one of them keeps the rest.
pub(super) const CHUNK_BYTES: usize = 8 << 10;

/// Bytes of large chunks that a pool keeps to be filled again, if they are as large as can be: a scan of 10,000 processes. Of small ones half
/// as much. Above it: given back.
const KEPT_BYTES: usize = 4 << 20;
const SMALL_KEPT_MAX: usize = KEPT_BYTES / 2 / CHUNK_BYTES;
const LARGE_KEPT_MAX: usize = KEPT_BYTES / RECORD_BYTES_TARGET;

/// Kept chunks that are looked at for one that is free.
const LOOKED_AT: usize = 16;

/// The events of one record as owned values, opaque ones left empty; `None` if they are too large to keep.
pub(super) type OwnedEvents = Option<Box<[Option<Arc<BusEvent>>]>>;

/// Records that came in a row.
#[derive(Debug)]
pub(crate) struct Chunk {
    records: Records,
    /// Of the records as they travelled, and the events in them.
    bytes: usize,
    events: u64,
    pub(super) topic: Topic,
    pub(super) origin: Arc<Origin>,
    /// For each record, made when somebody first asks for one.
    owned: Hidden<OnceLock<Box<[OnceLock<OwnedEvents>]>>>,
}

impl Chunk {
    fn new(topic: Topic, origin: Arc<Origin>) -> Self {
        let (records, owned) = (Records::default(), Hidden::default());
        Self { records, bytes: 0, events: 0, topic, origin, owned }
    }

    /// Adds a record that came out of a ring; see [`Records::push`] for what becomes of `words`.
    pub(super) fn push(&mut self, words: &mut Vec<u64>, bytes: usize) -> Result<(), Malformed> {
        self.records.push(words, bytes)?;
        self.count(bytes);
        Ok(())
    }

    /// Adds a copy of a record of this process.
    pub(super) fn push_own(&mut self, record: &BatchWriter) {
        self.records.push_own(record);
        self.count(record.bytes());
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.events += self.records.view(self.len() - 1).len() as u64;
    }

    /// The number of records.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn view(&self, record: usize) -> BatchView<'_> {
        self.records.view(record)
    }

    /// The owned events of a record, if they are made already, or else by `make`.
    pub(super) fn owned(&self, record: usize, make: impl FnOnce() -> OwnedEvents) -> &OwnedEvents {
        let owned = self.owned.get_or_init(|| (0..self.len()).map(|_| OnceLock::new()).collect());
        owned[record].get_or_init(make)
    }
}

/// Chunks that went out, to be filled again once nobody else holds them: no memory is allocated for what is read promptly.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    small: VecDeque<Arc<Chunk>>,
    large: VecDeque<Arc<Chunk>>,
}

impl Pool {
    /// An empty chunk, whose first record has so many bytes. Nobody else holds it.
    pub(super) fn take(&mut self, bytes: usize, topic: &Topic, origin: &Arc<Origin>) -> Arc<Chunk> {
        let free = self.of_size(bytes).and_then(|(kept, _)| {
            // The one that was freed last, which the processor's cache may still have: readers free them in order. If there are many
            // that they have not, the oldest.
            let newest = (kept.len().saturating_sub(LOOKED_AT)..kept.len()).rev();
            let place = newest.chain([0]).find(|place| kept.get_mut(*place).is_some_and(is_free))?;
            kept.remove(place)
        });
        let Some(mut reused) = free else {
            return Arc::new(Chunk::new(topic.clone(), Arc::clone(origin)));
        };
        let chunk = own(&mut reused);
        chunk.records.clear();
        (chunk.bytes, chunk.events) = (0, 0);
        chunk.owned.take();
        if chunk.topic != *topic {
            chunk.topic = topic.clone();
        }
        if !Arc::ptr_eq(&chunk.origin, origin) {
            chunk.origin = Arc::clone(origin);
        }
        reused
    }

    /// Keeps a chunk that goes out.
    pub(super) fn keep(&mut self, chunk: &Arc<Chunk>) {
        let Some((kept, most)) = self.of_size(chunk.bytes) else { return };
        if kept.len() == most {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(chunk));
    }

    /// Where chunks of this size are kept, and how many; a single event that is larger than any batch is not.
    const fn of_size(&mut self, bytes: usize) -> Option<(&mut VecDeque<Arc<Chunk>>, usize)> {
        if bytes <= CHUNK_BYTES {
            Some((&mut self.small, SMALL_KEPT_MAX))
        } else if bytes <= RECORD_BYTES_TARGET {
            Some((&mut self.large, LARGE_KEPT_MAX))
        } else {
            None
        }
    }
}

fn is_free(chunk: &mut Arc<Chunk>) -> bool {
    // Whether anybody holds it costs less to ask than to be sure of.
    Arc::strong_count(chunk) == 1 && Arc::get_mut(chunk).is_some()
}

/// A chunk that nobody else holds.
pub(super) fn own(chunk: &mut Arc<Chunk>) -> &mut Chunk {
    Arc::get_mut(chunk).expect("it has not gone out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Component;
    use crate::batch::{EventRef, Opaque};
    use crate::correlation::CorrelationMetadata;
    use crate::dataplane::ReceivedBatch;
    use crate::wire::{Epoch, PublisherId};

    fn record(payload: &[u8]) -> BatchWriter {
        let mut record = BatchWriter::new(1 << 20);
        record.begin(&CorrelationMetadata::new("scan".into())).expect("it is small");
        record.push(&Opaque(payload), None).expect("it is small");
        record.seal(0, std::time::UNIX_EPOCH, 0);
        record
    }

    fn label(publisher: u64) -> (Topic, Arc<Origin>) {
        let component = Component::from_client_id("procmond").expect("a name");
        let origin = Origin { component, publisher: PublisherId(publisher), epoch: Epoch(1) };
        (Topic::new("events.process.batch").expect("a topic"), Arc::new(origin))
    }

    fn send(pool: &mut Pool, payload: &[u8], (topic, origin): &(Topic, Arc<Origin>)) -> Arc<Chunk> {
        let record = record(payload);
        let mut chunk = pool.take(record.bytes(), topic, origin);
        own(&mut chunk).push_own(&record);
        pool.keep(&chunk);
        chunk
    }

    #[test]
    fn a_chunk_is_filled_again_once_nobody_holds_it_and_shows_nothing_of_before() {
        let mut pool = Pool::default();
        let first = send(&mut pool, &[1; 100], &label(1));
        let batch = ReceivedBatch::new(Arc::clone(&first), 0);
        let place = Arc::as_ptr(&first);
        drop(first);
        let second = send(&mut pool, &[2; 100], &label(1));
        assert_ne!(Arc::as_ptr(&second), place, "somebody reads it");
        assert!(batch.event(0).is_none(), "it is opaque");
        drop(batch);
        let again = send(&mut pool, &[3; 50], &label(2));
        assert_eq!(Arc::as_ptr(&again), place);
        assert_eq!((again.len(), again.events(), again.bytes()), (1, 1, record(&[3; 50]).bytes()));
        assert_eq!(again.origin.publisher, PublisherId(2));
        assert!(again.owned.get().is_none());
        let event = again.view(0).iter().next();
        assert!(matches!(event, Some(EventRef::Opaque(payload)) if payload == [3; 50]), "{event:?}");
    }

    #[test]
    fn of_the_chunks_that_nobody_holds_the_one_that_went_out_last_is_filled_again() {
        let mut pool = Pool::default();
        let mut held: Vec<_> = (0..4).map(|_| send(&mut pool, &[1; 100], &label(1))).collect();
        let places: Vec<_> = held.iter().map(Arc::as_ptr).collect();
        // Read in order, and not to the end.
        held.drain(..3);
        assert_eq!(Arc::as_ptr(&send(&mut pool, &[2; 100], &label(1))), places[2]);
        drop(held);
        let many: Vec<_> = (0..LOOKED_AT + 2).map(|_| send(&mut pool, &[3; 100], &label(1))).collect();
        assert!(places.iter().all(|place| many.iter().any(|chunk| Arc::as_ptr(chunk) == *place)));
    }

    #[test]
    fn what_a_pool_keeps_is_bounded_and_never_of_a_large_single_event() {
        let mut pool = Pool::default();
        for bytes in [100, 2 * CHUNK_BYTES, 2 * RECORD_BYTES_TARGET] {
            let held: Vec<_> =
                (0..SMALL_KEPT_MAX + 5).map(|_| send(&mut pool, &vec![7; bytes], &label(1))).collect();
            drop(held);
        }
        assert_eq!((pool.small.len(), pool.large.len()), (SMALL_KEPT_MAX, LARGE_KEPT_MAX));
    }
}
