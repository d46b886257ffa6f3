//! What this process has counted, for the broker, which counts no events itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Session;
use crate::config::CLAIMS_MAX;
use crate::wire::{Claims, ReceivedClaim, Request};

impl Session {
    /// Answers at once. What there is no room for is not told.
    pub(super) fn tell(&mut self) {
        let counters = &self.ground.inbox_counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let received = ReceivedClaim {
            events: read(&counters.received),
            skipped: read(&counters.skipped),
            bytes_waiting: read(&counters.occupied),
            bytes_waiting_max: read(&counters.occupied_max),
        };
        let mut claims = Claims { received, ..Claims::default() };
        for (number, state) in &self.publishers {
            let by_place = state.outbox.topic_claims();
            // The broker has numbers of its own for topics and rings, and knows no others.
            let topics = (0..).map_while(|topic| Some((topic, *by_place.get(state.place(topic)? as usize)?)));
            claims.topics.extend(topics.map(|(topic, claim)| (*number, topic, claim)));
            let rings = state.outbox.ring_claims().into_iter();
            claims.rings.extend(rings.filter_map(|(ring, claim)| Some((self.of_broker(ring)?.0, claim))));
        }
        claims.topics.truncate(CLAIMS_MAX);
        claims.rings.truncate(CLAIMS_MAX);
        claims.subscriptions = self.ground.hub.claims(CLAIMS_MAX);
        self.ask(Request::Told { claims: Box::new(claims) });
    }
}
