//! What this process has counted, for the broker, which counts no events itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{PublisherState, Session};
use crate::config::CLAIMS_MAX;
use crate::dataplane::Inbox;
use crate::wire::{Claims, ReceivedClaim, Request};

impl Session {
    /// Answers at once. What there is no room for is not told: of what came last.
    pub(super) fn tell(&mut self) {
        let counters = &self.ground.inbox_counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let received = ReceivedClaim {
            events: read(&counters.received),
            skipped: read(&counters.skipped),
            bytes_waiting: read(&counters.occupied),
            bytes_waiting_max: read(&counters.occupied_max),
            latencies: self.ground.latencies.read(),
        };
        let mut claims = Claims { received, ..Claims::default() };
        let publishers: BTreeMap<&u32, &PublisherState> = self.publishers.iter().collect();
        for (number, state) in publishers {
            let by_place = state.outbox.topic_claims();
            // The broker has numbers of its own for topics and rings, and knows no others.
            let topics = (0..).map_while(|topic| Some((topic, *by_place.get(state.place(topic)? as usize)?)));
            let room = CLAIMS_MAX - claims.topics.len();
            claims.topics.extend(topics.map(|(topic, claim)| (*number, topic, claim)).take(room));
            let rings = state.outbox.ring_claims().into_iter();
            let rings = rings.filter_map(|(ring, claim)| Some((self.of_broker(ring)?.0, claim)));
            claims.rings.extend(rings.take(CLAIMS_MAX - claims.rings.len()));
        }
        claims.subscriptions = self.ground.hub.claims(CLAIMS_MAX);
        let routes = self.inbox.iter().flat_map(Inbox::route_claims);
        let routes = routes.filter_map(|(ring, slot, claim)| Some((self.of_broker(ring)?.0, slot, claim)));
        claims.routes = routes.take(CLAIMS_MAX).collect();
        self.ask(Request::Told { claims: Box::new(claims) });
    }
}
