//! `SystemTime` as seconds and nanoseconds, without loss, before 1970 too.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// Seconds that the clock of every platform can hold, up to the year 2242: no need to ask it, which takes 3 ns.
const EVERY_CLOCK: Range<i64> = 0..1 << 33;

/// Seconds since the epoch, rounded down, and the nanoseconds above them.
#[inline]
pub(crate) fn to_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (seconds(after.as_secs()), after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            match before.subsec_nanos() {
                0 => (0_i64.saturating_sub_unsigned(before.as_secs()), 0),
                nanos => (-seconds(before.as_secs()) - 1, NANOS_PER_SECOND - nanos),
            }
        }
    }
}

fn seconds(count: u64) -> i64 {
    i64::try_from(count).expect("no platform's clock counts more seconds than an i64")
}

/// Whether [`from_epoch`] has an answer.
#[inline]
pub(super) fn is_time(seconds: i64, nanos: u32) -> bool {
    nanos < NANOS_PER_SECOND && (EVERY_CLOCK.contains(&seconds) || from_epoch(seconds, nanos).is_some())
}

/// The inverse of [`to_epoch`]. `None` for a full second or more of nanoseconds, and for a time that this platform's
/// clock cannot hold.
pub(crate) fn from_epoch(seconds: i64, nanos: u32) -> Option<SystemTime> {
    if nanos >= NANOS_PER_SECOND {
        return None;
    }
    match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH.checked_add(Duration::new(after, nanos)),
        Err(_) => {
            let floor = UNIX_EPOCH.checked_sub(Duration::from_secs(seconds.unsigned_abs()))?;
            floor.checked_add(Duration::new(0, nanos))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_around_the_epoch_keep_every_nanosecond() {
        for nanos in [0, 1, 999_999_999, 1_000_000_000, 1_000_000_001, 2_500_000_000_u64] {
            let distance = Duration::from_nanos(nanos);
            for time in [UNIX_EPOCH + distance, UNIX_EPOCH - distance] {
                let (seconds, nanos) = to_epoch(time);
                assert_eq!(from_epoch(seconds, nanos), Some(time));
            }
        }
    }

    #[test]
    fn seconds_are_rounded_down_before_the_epoch() {
        assert_eq!(to_epoch(UNIX_EPOCH - Duration::from_nanos(1)), (-1, 999_999_999));
        assert_eq!(to_epoch(UNIX_EPOCH - Duration::from_secs(1)), (-1, 0));
    }

    #[test]
    fn the_ends_of_the_clock_neither_wrap_nor_panic() {
        for seconds in [i64::MIN, i64::MIN + 1, i64::MAX] {
            for nanos in [0, 999_999_999] {
                if let Some(time) = from_epoch(seconds, nanos) {
                    assert_eq!(to_epoch(time), (seconds, nanos));
                }
            }
        }
    }

    #[test]
    fn a_second_of_nanoseconds_is_no_time() {
        assert!(from_epoch(0, 999_999_999).is_some());
        assert_eq!(from_epoch(0, 1_000_000_000), None);
    }
}
