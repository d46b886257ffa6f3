//! How long events take to reach the application: one histogram for each client.
//!
//! It counts from the moment that the publisher wrote into the batch when it published it (`CLOCK_MONOTONIC`, which all processes of a
//! host share) to the one at which a subscription hands the batch to the application: so the ring, the data thread and the queue are in
//! it, and what the application does then is not. Small records that come together are handed out together, as far as this goes.
//!
//! The publisher's moment is its word. One that is yet to come counts as no time at all, one long ago as [`LATENCY_MAX`]: a publisher
//! that lies spoils the figures of those who hear it, and nothing else.
//!
//! The clock is read once for each chunk, on the application's thread, and a record costs a few nanoseconds, whatever number of events is in it.

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::Chunk;
use crate::config::LATENCY_MAX;
use crate::sys;
use crate::wire::Latencies;

/// Decimal digits that are told apart: figures are right to a hundredth, and take 36 KiB.
const DIGITS: u8 = 2;

/// The histogram, made when the first batch is taken: who only publishes has none.
#[derive(Debug, Default)]
pub(crate) struct LatencyHistogram(Mutex<Option<Histogram<u64>>>);

impl LatencyHistogram {
    /// The application takes a chunk.
    pub(super) fn note(&self, chunk: &Chunk) {
        self.note_at(chunk, sys::monotonic_nanos());
    }

    fn note_at(&self, chunk: &Chunk, now: u64) {
        let mut noted = self.0.lock();
        let noted = noted.get_or_insert_with(empty);
        for record in 0..chunk.len() {
            let view = chunk.view(record);
            let nanos = now.saturating_sub(view.monotonic_nanos()).min(nanos_max());
            noted.saturating_record_n(nanos, view.len() as u64);
        }
    }

    pub(crate) fn read(&self) -> Latencies {
        // Of a copy: readers of events would wait meanwhile.
        let Some(noted) = self.0.lock().clone() else { return Latencies::default() };
        let at = |part| noted.value_at_quantile(part);
        Latencies {
            events: noted.len(),
            p50_nanos: at(0.5),
            p90_nanos: at(0.9),
            p99_nanos: at(0.99),
            p999_nanos: at(0.999),
            max_nanos: noted.max(),
        }
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, nanos_max(), DIGITS)
        .expect("one nanosecond, an hour, and two digits are bounds")
}

const fn nanos_max() -> u64 {
    LATENCY_MAX.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::access::Component;
    use crate::batch::{BatchWriter, Opaque};
    use crate::correlation::CorrelationMetadata;
    use crate::dataplane::Origin;
    use crate::dataplane::chunk::{Pool, own};
    use crate::topic::Topic;
    use crate::wire::{Epoch, PublisherId};

    /// A chunk of records, each of so many events that were published at this moment.
    fn chunk(records: &[(usize, u64)]) -> Arc<Chunk> {
        let component = Component::from_client_id("procmond").expect("a name");
        let origin = Arc::new(Origin { component, publisher: PublisherId(1), epoch: Epoch(1) });
        let topic = Topic::new("events.process.batch").expect("a topic");
        let mut chunk = Pool::default().take(0, &topic, &origin);
        for (events, at) in records {
            let mut writer = BatchWriter::new(u32::MAX);
            writer.begin(&CorrelationMetadata::default()).expect("it fits");
            (0..*events).for_each(|_| writer.push(&Opaque(b"event"), None).expect("it fits"));
            writer.seal(0, std::time::UNIX_EPOCH, *at);
            own(&mut chunk).push_own(&writer);
        }
        chunk
    }

    #[test]
    fn a_histogram_takes_no_more_than_it_may() {
        let takes = empty().distinct_values() * size_of::<u64>();
        assert!(takes <= 36 << 10, "{takes} bytes");
    }

    #[test]
    fn events_count_with_the_age_of_their_record() {
        let (histogram, second) = (LatencyHistogram::default(), 1_000_000_000);
        assert_eq!(histogram.read(), Latencies::default());
        let now = 1000 * second;
        histogram
            .note_at(&chunk(&[(90, now - second), (9, now - 10 * second), (1, now - 100 * second)]), now);
        let seen = histogram.read();
        let seconds = [seen.p50_nanos, seen.p90_nanos, seen.p99_nanos, seen.p999_nanos, seen.max_nanos]
            .map(|nanos| nanos / second);
        assert_eq!((seen.events, seconds), (100, [1, 1, 10, 100, 100]), "{seen:?}");
    }

    #[test]
    fn whatever_a_publisher_claims_is_a_time_that_can_be() {
        let histogram = LatencyHistogram::default();
        for at in [u64::MAX, u64::MAX - 1, 1000] {
            histogram.note_at(&chunk(&[(1, at)]), 1000);
        }
        assert_eq!((histogram.read().events, histogram.read().max_nanos), (3, 0), "yet to come");
        for at in [0, 1] {
            histogram.note_at(&chunk(&[(2, at)]), u64::MAX);
        }
        let Latencies { events, p90_nanos, max_nanos, .. } = histogram.read();
        let most = nanos_max() + nanos_max() / 100;
        assert_eq!((events, p90_nanos), (7, max_nanos));
        assert!((nanos_max()..=most).contains(&max_nanos), "{max_nanos}");
    }
}
