//! How the data thread waits: when it polls, yields and sleeps. Pure; the thread does what this says.
//!
//! Sleeping is what costs: whoever publishes pays some microseconds to wake a sleeper, and with more processes than processors a
//! consumer that sleeps after each record takes a context switch for each. Polling is what costs others: on a machine with few processors
//! a thread that spins has taken the processor of the one that it waits for. `docs/performance.md` has the measurements.

use std::time::Duration;

/// How a process waits for events: what processor time it spends to hear sooner, and how much it lets come together before it wakes.
///
/// The default is good from one subscriber on many processors to many subscribers on two. It never adds to the latency of events that
/// come one by one; in a stream of them it adds [`gather_for`](Self::gather_for) at most.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, WaitPolicy};
///
/// // A detector with a processor to itself, that wants to hear within a microsecond.
/// let policy = WaitPolicy::default().spins(50);
/// assert_eq!(policy.spins, 50);
/// let options = ConnectOptions::new("detector").wait_policy(policy);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitPolicy {
    /// Empty polls after which it looks again some 2 microseconds later. A poll without a pause in between takes the publisher's cache
    /// line away each time. 0 by default: with few processors it takes the publisher's processor away, too.
    pub spins: u32,
    /// Empty polls after that, each of which gives the processor to whoever wants it. 4 by default.
    pub yields: u32,
    /// In a stream of events: bytes to come together in a ring before it wakes. 32 KiB by default, 1 to wake for each record.
    pub gather_bytes: u64,
    /// For how long it sleeps at most for that. 100 microseconds by default; the system adds up to 50.
    pub gather_for: Duration,
}

impl Default for WaitPolicy {
    fn default() -> Self {
        Self { spins: 0, yields: 4, gather_bytes: 32 << 10, gather_for: Duration::from_micros(100) }
    }
}

impl WaitPolicy {
    /// Sets [`spins`](Self::spins).
    #[must_use]
    pub const fn spins(mut self, spins: u32) -> Self {
        self.spins = spins;
        self
    }

    /// Sets [`yields`](Self::yields).
    #[must_use]
    pub const fn yields(mut self, yields: u32) -> Self {
        self.yields = yields;
        self
    }

    /// Sets [`gather_bytes`](Self::gather_bytes) and [`gather_for`](Self::gather_for).
    #[must_use]
    pub const fn gather(mut self, bytes: u64, longest: Duration) -> Self {
        self.gather_bytes = bytes;
        self.gather_for = longest;
        self
    }
}

/// What to do after an empty poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Poll again a little later.
    Pause,
    /// Give the processor away, and poll again.
    Yield,
    /// Sleep until so many bytes have come to one ring; not for longer, if there is a time.
    Sleep { want: u64, longest: Option<Duration> },
}

/// Events between two sleeps that make a stream. A burst of fewer is over when it is read.
const STREAM_EVENTS: u64 = 64;

/// Where the data thread is between one event and the next.
#[derive(Debug)]
pub(super) struct Wait {
    policy: WaitPolicy,
    /// Empty polls in a row.
    idle: u32,
    /// Events received when it last fell asleep.
    slept_at: u64,
}

impl Wait {
    pub(super) const fn new(policy: WaitPolicy) -> Self {
        Self { policy, idle: 0, slept_at: 0 }
    }

    /// A poll has brought something.
    pub(super) const fn busy(&mut self) {
        self.idle = 0;
    }

    /// A poll has brought nothing; so many events were `received` so far.
    pub(super) fn idle(&mut self, received: u64) -> Step {
        let WaitPolicy { spins, yields, gather_bytes, gather_for } = self.policy;
        let polls = self.idle;
        self.idle = polls.saturating_add(1);
        if polls < spins {
            Step::Pause
        } else if polls < spins.saturating_add(yields) {
            Step::Yield
        } else {
            self.idle = 0;
            let streams = received - std::mem::replace(&mut self.slept_at, received) >= STREAM_EVENTS;
            if streams && gather_bytes > 1 {
                Step::Sleep { want: gather_bytes, longest: Some(gather_for) }
            } else {
                Step::Sleep { want: 1, longest: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOR_EVER: Step = Step::Sleep { want: 1, longest: None };

    #[test]
    fn it_spins_and_then_yields_and_then_sleeps() {
        let mut wait = Wait::new(WaitPolicy::default().spins(2).yields(1));
        for _ in 0..2 {
            assert_eq!([0; 4].map(|_| wait.idle(0)), [Step::Pause, Step::Pause, Step::Yield, FOR_EVER]);
        }
        wait.idle(0);
        wait.busy();
        assert_eq!(wait.idle(0), Step::Pause, "it begins anew");
    }

    #[test]
    fn who_spins_for_ever_does_so_for_longer_than_its_polls_can_be_counted() {
        let mut wait = Wait::new(WaitPolicy::default().spins(u32::MAX));
        wait.idle = u32::MAX - 1;
        assert_eq!([0; 3].map(|_| wait.idle(0)), [Step::Pause, FOR_EVER, Step::Pause]);
    }

    #[test]
    fn a_stream_comes_together_and_a_single_event_does_not_wait() {
        let policy = WaitPolicy::default().yields(0);
        let gather = Step::Sleep { want: policy.gather_bytes, longest: Some(policy.gather_for) };
        let mut wait = Wait::new(policy);
        let slept = [STREAM_EVENTS, STREAM_EVENTS, 3 * STREAM_EVENTS, 3 * STREAM_EVENTS + 1]
            .map(|received| wait.idle(received));
        assert_eq!(slept, [gather, FOR_EVER, gather, FOR_EVER]);
        assert_eq!(Wait::new(policy.gather(1, Duration::ZERO)).idle(STREAM_EVENTS), FOR_EVER);
    }
}
