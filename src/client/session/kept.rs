//! What publishers have kept while there was no broker: when it goes to whom the next one has brought.

use std::time::Instant;

use super::Session;
use crate::config::KEPT_LONGEST;
use crate::dataplane::{OutboxShared, Poured};

impl Session {
    /// There is a broker again.
    pub(super) fn begin_pouring(&mut self) {
        let now = Instant::now();
        let until = now + KEPT_LONGEST;
        self.publishers.values().for_each(|state| state.outbox.broker_found(until));
        (self.pours_at, self.keeps_until) = (Some(until), Some(until));
    }

    /// A publisher is new: what nobody hears of it is kept as that of the others is.
    pub(super) fn keep_for(&mut self, outbox: &OutboxShared) {
        let now = Instant::now();
        let until = self.keeps_until.filter(|until| now < *until);
        if !self.is_connected() || until.is_some() {
            outbox.orphan(true);
        }
        if let Some(until) = until
            && self.is_connected()
        {
            outbox.broker_found(until);
            self.pours_at = self.pours_at.into_iter().chain([until]).min();
        }
    }

    /// Something has changed about where topics go.
    pub(super) fn pour_soon(&mut self) {
        self.pours_at = self.pours_at.map(|_| Instant::now());
    }

    /// This client takes what comes over its rings.
    pub(super) fn pour_to(&mut self, component: &str, client: u64) {
        if self.pours_at.is_none() {
            return;
        }
        for (id, ring) in &self.rings {
            if let Some(pair) = ring.pair()
                && (pair.subscriber.as_str(), pair.client) == (component, client)
                && let Some(state) = self.publishers.get(&pair.publisher)
            {
                state.outbox.settled(*id);
            }
        }
        self.pours_at = Some(Instant::now());
    }

    /// Has what was kept go where it is wanted, if it is time.
    pub(super) fn pour(&mut self) {
        let now = Instant::now();
        self.pours_at = None;
        let (mut broken, mut poured, mut lost) = (Vec::new(), 0, 0);
        for state in self.publishers.values() {
            let one: Poured = state.outbox.pour(now, state.is_whole());
            self.pours_at = self.pours_at.into_iter().chain(one.next).min();
            broken.extend(one.broken);
            poured += one.events;
            lost += one.lost;
        }
        if poured > 0 {
            tracing::info!(name: "outbox_sent", target: "daemoneye_eventbus::client", events = poured, "what was published without a broker goes to those who are there now");
        }
        if lost > 0 {
            tracing::warn!(name: "outbox_lost", target: "daemoneye_eventbus::client", events = lost, limit = self.ground.kept.limit(), "published without a broker, and lost: nobody came for it, or there was no room to keep it (outbox_bytes)");
        }
        for (ring, violation) in broken {
            self.poisoned(ring, violation);
        }
    }
}
