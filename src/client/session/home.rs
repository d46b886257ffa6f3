//! The way back to a broker: when to try it, and what a session is between two of them.

use std::time::{Duration, Instant};

use super::super::connect::{self, ConnectError};
use super::super::{Connection, Disconnected};
use super::{ConnectOptions, Session};
use crate::config::{ORPHANS_LONGEST, RETURN_FIRST, RETURN_LONGEST};
use crate::dataplane::RecvError;
use crate::link::Link;
use crate::wire::{GoodbyeReason, Life, Welcome};

/// How a client finds its broker again.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) options: ConnectOptions,
    pub(crate) life: Life,
}

impl Home {
    /// Tries until it is let in. Cancel-safe: given up midway, nothing is left.
    pub(super) async fn find(&mut self) -> (Link, Welcome) {
        let mut backoff = RETURN_FIRST;
        loop {
            tokio::time::sleep(jittered(backoff)).await;
            backoff = (backoff * 2).min(RETURN_LONGEST);
            match connect::introduce(&self.options, self.life).await {
                Ok(found) => return found,
                Err(error) => tell(&error, backoff),
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
        self.ground.connection.send_replace(Connection::Away(why.clone()));
        self.outgoing.clear();
        self.end_inquiries(why);
        self.asked.clear();
        self.leave_rings(why);
        for state in self.publishers.values_mut() {
            state.lose_broker();
        }
        self.lose_subscriptions();
    }

    /// There is a broker again: it is asked for all that the one before had granted.
    pub(super) fn find_broker(&mut self, welcome: Welcome) {
        tracing::info!(name: "broker_found", target: "daemoneye_eventbus::client", component = welcome.component, "back at the broker");
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
        self.ask_for_subscriptions();
    }
}
