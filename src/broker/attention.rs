//! Whether the broker waits awake for the hello of one whom it has just let in.
//!
//! A client says hello within 100 µs; to sleep for that, and be woken, costs more than the wait. Those who say nothing, and those who are not
//! let in, are not to keep a processor busy so: after one of them it sleeps for a while, whoever comes.

use std::time::Instant;

use crate::config::{HELLO_ATTENTION, HELLO_INATTENTION};

#[derive(Debug, Default)]
pub(super) struct Attention {
    /// Nobody is waited for awake before.
    from: Option<Instant>,
}

impl Attention {
    /// Until when to wait awake for who comes now, if at all.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.from.is_none_or(|from| from <= now).then(|| now + HELLO_ATTENTION)
    }

    /// Takes note of what came of it.
    pub(super) fn ended(&mut self, now: Instant, is_welcome: bool) {
        self.from = (!is_welcome).then(|| now + HELLO_INATTENTION);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_or_is_not_let_in_is_not_waited_for_awake_again_for_a_while() {
        let (mut attention, mut now) = (Attention::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(attention.until(now), Some(now + HELLO_ATTENTION));
            attention.ended(now, true);
        }
        attention.ended(now, false);
        assert_eq!(attention.until(now), None);
        now += HELLO_INATTENTION;
        assert_eq!(attention.until(now), Some(now + HELLO_ATTENTION));
    }
}
