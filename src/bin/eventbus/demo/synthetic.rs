//! Process events that nobody has observed, at any rate.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use daemoneye_eventbus::ProcessEvent;
use tokio::time::Instant;

/// Events of a batch, unless the rate is so low that a batch would take long to fill.
const BATCH_EVENTS: u64 = 256;

/// Batches per second at low rates.
const BATCHES_PER_SECOND: u64 = 20;

/// How far behind its deadlines a pace may fall. Beyond it, it does not catch up: the machine is too slow for the rate.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// When the next batch is due. Its deadlines follow from the rate alone, so that lateness does not add up.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u64,
    pub(crate) batch_events: u64,
    began: Instant,
    /// Events since then.
    events: u64,
}

impl Pace {
    /// `rate` events per second; 0: always due.
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        let batch_events = match rate {
            0 => BATCH_EVENTS,
            _ => (rate / BATCHES_PER_SECOND).clamp(1, BATCH_EVENTS),
        };
        Self { rate, batch_events, began: now, events: 0 }
    }

    /// When the next batch is complete; `None`: now.
    fn deadline(&self) -> Option<Instant> {
        let nanos =
            (u128::from(self.events + self.batch_events) * 1_000_000_000).checked_div(self.rate.into())?;
        Some(self.began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Waits until the next batch is due. Cancel-safe.
    pub(crate) async fn due(&self) {
        if let Some(deadline) = self.deadline() {
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// Goes on to the batch after.
    pub(crate) fn advance(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| now > deadline + BEHIND_MAX) {
            (self.began, self.events) = (now, 0);
        } else {
            self.events += self.batch_events;
        }
    }
}

/// As large as process events are: some 300 bytes on the ring.
pub(crate) fn events(count: u64) -> Vec<ProcessEvent> {
    let event = |number: u64| ProcessEvent {
        pid: u32::try_from(number).unwrap_or(u32::MAX),
        name: format!("synthetic-{number}"),
        command_line: Some(format!(
            "/usr/lib/daemoneye/synthetic-{number} --listen 127.0.0.1:{number} --verbose --log /var/log/synthetic.log"
        )),
        executable_path: Some(format!("/usr/lib/daemoneye/synthetic-{number}")),
        ppid: Some(1),
        start_time: Some(SystemTime::now()),
        metadata: HashMap::from([
            ("user".to_owned(), "daemoneye".to_owned()),
            ("memory_bytes".to_owned(), (number << 20).to_string()),
        ]),
    };
    (1..=count).map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events per second of a pace that is always on time.
    fn events_in_a_second(rate: u64) -> u64 {
        let began = Instant::now();
        let mut pace = Pace::new(rate, began);
        while let Some(deadline) =
            pace.deadline().filter(|&deadline| deadline <= began + Duration::from_secs(1))
        {
            pace.advance(deadline);
        }
        pace.events
    }

    #[test]
    fn a_second_holds_as_many_events_as_the_rate_says() {
        for rate in [1, 10, 19, 1_000, 5_120, 1_000_000] {
            let events = events_in_a_second(rate);
            assert!(
                events <= rate && rate - events < Pace::new(rate, Instant::now()).batch_events,
                "{rate}: {events}"
            );
        }
    }

    #[test]
    fn who_falls_far_behind_starts_anew_instead_of_catching_up() {
        let began = Instant::now();
        let mut pace = Pace::new(1_000, began);
        let late = began + Duration::from_secs(10);
        pace.advance(late);
        assert!(pace.deadline() > Some(late));
    }

    #[test]
    fn at_rate_zero_a_batch_is_always_due() {
        assert_eq!(Pace::new(0, Instant::now()).deadline(), None);
    }
}
