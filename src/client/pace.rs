//! How fast a client looks for its broker when that is gone.

use std::time::Duration;

use crate::config::{RETURN_FIRST, RETURN_LONGEST};

/// How long a client waits before each try to find its broker again, and when it gives up.
///
/// Before the first try it waits `first`, and `factor` times as long before each further one, up to `longest`; of each, half to all, by chance, so
/// that those who have lost the same broker do not come back all at once. At first 50 ms, twice as long each time, up to a minute, and for ever.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, ReturnPace, ReturnPaceError};
/// use std::time::Duration;
///
/// let pace = ReturnPace::new(Duration::from_millis(100), Duration::from_secs(30), 1.5)?.attempts(20);
/// let options = ConnectOptions::new("procmond").return_pace(pace);
/// # let _ = options;
/// let ever_faster = ReturnPace::new(Duration::from_secs(1), Duration::from_secs(2), 0.5);
/// assert_eq!(ever_faster, Err(ReturnPaceError::Factor { factor: 0.5 }));
/// # Ok::<(), ReturnPaceError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReturnPace {
    pub(super) first: Duration,
    pub(super) longest: Duration,
    factor: f64,
    /// `None`: for ever.
    pub(super) attempts: Option<u32>,
}

/// Why there can't be such a pace. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReturnPaceError {
    /// Without a pause a client would do nothing else.
    #[error("the first pause before a try to come back is zero")]
    NoPause,
    /// The first pause is longer than the longest.
    #[error("the first pause before a try to come back, {first:?}, is longer than the longest, {longest:?}")]
    Order {
        /// The first.
        first: Duration,
        /// The longest.
        longest: Duration,
    },
    /// Pauses become longer, or stay as they are.
    #[error(
        "pauses between tries to come back can't become {factor} times as long: at least 1, and a number"
    )]
    Factor {
        /// As it was given.
        factor: f64,
    },
}

impl ReturnPace {
    /// These pauses, for ever.
    ///
    /// # Errors
    /// [`ReturnPaceError`] says what can't be.
    pub fn new(first: Duration, longest: Duration, factor: f64) -> Result<Self, ReturnPaceError> {
        if first.is_zero() {
            return Err(ReturnPaceError::NoPause);
        }
        if first > longest {
            return Err(ReturnPaceError::Order { first, longest });
        }
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(ReturnPaceError::Factor { factor });
        }
        Ok(Self { first, longest, factor, attempts: None })
    }

    /// Gives up after so many tries in a row that were in vain: then the session is [over](crate::Connection::Over). With 0 there is not even one.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// The pause after this one.
    pub(super) fn after(&self, pause: Duration) -> Duration {
        // A product that is no duration is longer than any.
        Duration::try_from_secs_f64(pause.as_secs_f64() * self.factor)
            .map_or(self.longest, |next| next.min(self.longest))
    }
}

impl Default for ReturnPace {
    fn default() -> Self {
        Self { first: RETURN_FIRST, longest: RETURN_LONGEST, factor: 2.0, attempts: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_become_longer_up_to_the_longest() {
        let pace = ReturnPace::new(SECOND, SECOND * 5, 1.5).expect("a legal pace");
        let pauses: Vec<Duration> =
            std::iter::successors(Some(pace.first), |pause| Some(pace.after(*pause))).take(6).collect();
        let seconds: Vec<f64> = pauses.iter().map(Duration::as_secs_f64).collect();
        assert_eq!(seconds, [1.0, 1.5, 2.25, 3.375, 5.0, 5.0]);
        let steep = ReturnPace::new(SECOND, Duration::MAX, f64::MAX).expect("a legal pace");
        assert_eq!(steep.after(SECOND), Duration::MAX);
    }

    #[test]
    fn what_can_not_be_is_told() {
        assert_eq!(ReturnPace::new(Duration::ZERO, SECOND, 2.0), Err(ReturnPaceError::NoPause));
        let order = ReturnPaceError::Order { first: SECOND * 2, longest: SECOND };
        assert_eq!(ReturnPace::new(SECOND * 2, SECOND, 2.0), Err(order));
        for factor in [0.99, -2.0, f64::INFINITY] {
            assert_eq!(ReturnPace::new(SECOND, SECOND, factor), Err(ReturnPaceError::Factor { factor }));
        }
        assert!(ReturnPace::new(SECOND, SECOND, f64::NAN).is_err());
        assert!(ReturnPace::new(SECOND, SECOND, 1.0).is_ok());
    }
}
