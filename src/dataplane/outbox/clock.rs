//! Both clocks for the price of one.

use std::time::{Duration, SystemTime};

use crate::config::CLOCK_CHECK;

/// The wall clock, as told by the monotonic one: asked itself only now and then, so that it is followed when it is set.
#[derive(Debug)]
pub(super) struct WallClock {
    asked_at: u64,
    time: SystemTime,
}

impl WallClock {
    pub(super) const fn new() -> Self {
        Self { asked_at: 0, time: SystemTime::UNIX_EPOCH }
    }

    /// The time at `now`, in nanoseconds of the monotonic clock, which never goes back.
    pub(super) fn at(&mut self, now: u64) -> SystemTime {
        if self.asked_at == 0 || now - self.asked_at >= CLOCK_CHECK.as_nanos() as u64 {
            self.asked_at = now.max(1);
            self.time = SystemTime::now();
        }
        self.time + Duration::from_nanos(now.saturating_sub(self.asked_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::monotonic_nanos;

    /// Each reading is taken between two of the clock itself.
    #[test]
    fn it_tells_the_time() {
        let mut clock = WallClock::new();
        let check = CLOCK_CHECK.as_nanos() as u64;
        clock.at(monotonic_nanos());
        // What it was told first is an hour off by now, as if the clock had been set.
        clock.time -= Duration::from_secs(3600);
        let now = clock.asked_at + check / 2;
        assert_eq!(clock.at(now), clock.time + CLOCK_CHECK / 2, "it is not asked again so soon");
        let before = SystemTime::now();
        let told = clock.at(clock.asked_at + check);
        assert!(before <= told && told <= SystemTime::now(), "it is asked again");
    }
}
