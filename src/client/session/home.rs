//! The way back to a broker: when to try it, and what a session is between two of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::connect::{self, ConnectError};
use super::super::pace::ReturnPace;
use super::super::sharing::Seat;
use super::super::{Connection, Disconnected};
use super::{ConnectOptions, Session};
use crate::config::ORPHANS_LONGEST;
use crate::dataplane::RecvError;
use crate::link::Link;
use crate::wire::{GoodbyeReason, Life, Welcome};

/// How a client finds its broker again.
#[derive(Debug)]
pub(crate) struct Home {
    options: ConnectOptions,
    /// Its place among those that others may join.
    seat: Option<Arc<Seat>>,
    life: Life,
    pace: Pace,
}

/// How long to wait before each try. Who is let in and sent away at once, again and again, waits as long as who is not let in.
#[derive(Debug)]
struct Pace {
    pace: ReturnPace,
    next: Duration,
    /// Tries that are left, if they are counted.
    left: Option<u32>,
    found: Instant,
}

impl Pace {
    fn new(pace: ReturnPace, found: Instant) -> Self {
        Self { pace, next: pace.first, left: pace.attempts, found }
    }

    /// The broker that was found is lost: one that is gone, or has sent this client away.
    fn lose(&mut self, now: Instant, is_gone: bool) {
        if is_gone || now.saturating_duration_since(self.found) >= self.pace.longest {
            (self.next, self.left) = (self.pace.first, self.pace.attempts);
        }
    }

    /// How long to wait before the next try; `None` if there is to be none.
    fn wait(&mut self) -> Option<Duration> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        let wait = self.next;
        self.next = self.pace.after(wait);
        Some(wait)
    }
}

impl Home {
    pub(in crate::client) fn new(options: ConnectOptions, seat: Option<Arc<Seat>>, life: Life) -> Self {
        let pace = Pace::new(options.return_pace, Instant::now());
        Self { options, seat, life, pace }
    }

    /// The broker is lost, for this reason.
    pub(super) fn lose_broker(&mut self, why: &Disconnected) {
        self.life.before = self.life.before.saturating_add(1);
        self.pace.lose(Instant::now(), why.leaves_rings());
    }

    /// Tries until it is let in, or has tried in vain as often as it was told to. Cancel-safe: given up midway, nothing is left.
    pub(super) async fn find(&mut self) -> Option<(Link, Welcome)> {
        loop {
            let Some(wait) = self.pace.wait() else {
                let attempts = self.pace.pace.attempts;
                tracing::error!(name: "return_given_up", target: "daemoneye_eventbus::client", attempts, "no broker has let this client come back: it gives up");
                return None;
            };
            tokio::time::sleep(jittered(wait)).await;
            if let Some(seat) = &self.seat {
                seat.look(&self.options.path);
            }
            match connect::introduce(&self.options, None, self.life).await {
                Ok(found) => {
                    self.pace.found = Instant::now();
                    return Some(found);
                }
                Err(error) => tell(&error, self.pace.next),
            }
        }
    }
}

fn tell(error: &ConnectError, next: Duration) {
    match error {
        ConnectError::NoBroker { .. } => tracing::debug!(%error, ?next, "there is no broker to come back to"),
        _ => {
            tracing::warn!(name: "return_refused", target: "daemoneye_eventbus::client", %error, ?next, "the broker does not let this client come back")
        }
    }
}

/// From half of it to all: those who have lost the same broker do not come back all at once.
fn jittered(backoff: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without chance they come at once.
    let _ = crate::sys::randomize(&mut bytes);
    backoff.div_f64(1.0 + f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

impl Disconnected {
    /// Whether there is no way back: somebody else is this component now.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Dismissed(GoodbyeReason::Replaced))
    }

    /// Whether the other ends of this client's rings go on: they have lost the broker as it did.
    pub(super) fn leaves_rings(&self) -> bool {
        matches!(self, Self::BrokerGone | Self::Dismissed(GoodbyeReason::Shutdown))
    }
}

impl Session {
    pub(super) fn is_connected(&self) -> bool {
        matches!(*self.ground.connection.borrow(), Connection::Up)
    }

    /// The broker is gone, and there may be another: rings that are complete go on, what was asked is asked again.
    pub(super) fn lose_broker(&mut self, why: &Disconnected) {
        tracing::warn!(name: "broker_lost", target: "daemoneye_eventbus::client", %why, "the session with the broker is over; coming back");
        self.totals_at_loss();
        self.outgoing.clear();
        self.end_inquiries(why);
        self.asked.clear();
        self.leave_rings(why);
        for state in self.publishers.values_mut() {
            state.lose_broker();
        }
        self.lose_subscriptions();
        self.pours_at = None;
        // Who hears it finds all of the above done.
        self.ground.connection.send_replace(Connection::Away(why.clone()));
    }

    /// There is a broker again: it is asked for all that the one before had granted.
    pub(super) fn find_broker(&mut self, welcome: Welcome) {
        tracing::info!(name: "broker_found", target: "daemoneye_eventbus::client", component = welcome.component, "back at the broker");
        if welcome.epoch == self.welcome.epoch && self.left_rings {
            // It was there all the time, and the connection alone was not: it has ended all rings of this session at their other ends.
            self.close_all_rings();
            self.may_have_missed = true;
        }
        self.totals_since(welcome.epoch == self.welcome.epoch);
        self.welcome = welcome;
        self.life = self.life.wrapping_add(1);
        self.outgoing.clear();
        self.orphans_until = Some(Instant::now() + ORPHANS_LONGEST);
        if let Connection::Away(why) = self.ground.connection.send_replace(Connection::Up)
            && std::mem::take(&mut self.may_have_missed)
        {
            self.ground.hub.interrupt(&RecvError::Away { why: why.to_string() });
        }
        let mut publishers: Vec<u32> = self.publishers.keys().copied().collect();
        publishers.sort_unstable();
        for publisher in publishers {
            self.declare_next(publisher);
        }
        self.begin_pouring();
        self.ask_for_subscriptions();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RETURN_FIRST, RETURN_LONGEST};

    #[test]
    fn who_is_let_in_and_sent_away_again_and_again_comes_ever_more_slowly() {
        let mut now = Instant::now();
        let mut pace = Pace::new(ReturnPace::default(), now);
        let mut waits = Vec::new();
        for _ in 0..20 {
            pace.lose(now, false);
            waits.extend(pace.wait());
            pace.found = now;
        }
        assert_eq!((waits[0], waits[1], waits[19]), (RETURN_FIRST, RETURN_FIRST * 2, RETURN_LONGEST));
        now += RETURN_LONGEST;
        pace.lose(now, false);
        assert_eq!(pace.wait(), Some(RETURN_FIRST), "it was there for long");
        pace.lose(now, true);
        assert_eq!(pace.wait(), Some(RETURN_FIRST), "the broker was gone");
    }

    #[test]
    fn who_lost_the_same_broker_do_not_come_back_at_once() {
        let backoff = Duration::from_secs(1);
        let mut waits: Vec<Duration> = (0..100).map(|_| jittered(backoff)).collect();
        assert!(waits.iter().all(|wait| (backoff / 2..=backoff).contains(wait)), "{waits:?}");
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 90, "they are as many as those who wait");
        let spread = *waits.last().expect("there are some") - waits[0];
        assert!(spread > backoff / 4, "they use the half of it that they have: {spread:?}");
    }

    #[test]
    fn tries_are_counted_from_the_loss_of_a_broker_that_was_there_for_long() {
        let now = Instant::now();
        let mut pace = Pace::new(ReturnPace::default().attempts(2), now);
        assert!(pace.wait().is_some());
        pace.lose(now, false);
        assert!(pace.wait().is_some());
        assert_eq!(pace.wait(), None);
        pace.lose(now, false);
        assert_eq!(pace.wait(), None, "it was sent away at once");
        pace.lose(now, true);
        assert!(pace.wait().is_some(), "the broker is gone");
        assert_eq!(Pace::new(ReturnPace::default().attempts(0), now).wait(), None);
    }
}
