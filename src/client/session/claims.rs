//! What this process has counted, for the broker, which counts no events itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{PublisherState, Session};
use crate::config::CLAIMS_MAX;
use crate::dataplane::Inbox;
use crate::wire::{Claims, ReceivedClaim, Request, STATISTICS_SINCE, TotalClaim};

/// What of all that was counted no broker was told.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Events of publishers that are closed.
    closed: u64,
    /// What the broker of now need not know: others were told, or it was before its time.
    before: TotalClaim,
    /// As of the last word to a broker, and of the moment when that was lost.
    told: TotalClaim,
    at_loss: TotalClaim,
}

impl Session {
    /// All that was ever counted.
    fn count(&self) -> TotalClaim {
        let open = self.publishers.values().map(|state| state.outbox.totals().events).sum::<u64>();
        let delivered = self.ground.hub.delivered();
        TotalClaim { published: self.totals.closed + open, delivered }
    }

    fn new_totals(&self) -> TotalClaim {
        let TotalClaim { published, delivered } = self.totals.before;
        let now = self.totals.told;
        TotalClaim {
            published: now.published.saturating_sub(published),
            delivered: now.delivered.saturating_sub(delivered),
        }
    }

    pub(super) fn closed_publisher(&mut self, state: &PublisherState) {
        self.totals.closed += state.outbox.totals().events;
    }

    pub(super) fn totals_at_loss(&mut self) {
        self.totals.at_loss = self.count();
    }

    /// There is a broker again: the same goes on where it was told of last, another begins where the one before has ended.
    pub(super) fn totals_since(&mut self, is_same_broker: bool) {
        let totals = &mut self.totals;
        totals.before = if is_same_broker { totals.told } else { totals.at_loss };
        totals.told = totals.before;
    }

    /// The last word.
    pub(super) fn leave(&mut self) {
        if self.welcome.version >= STATISTICS_SINCE {
            self.totals.told = self.count();
            let totals = self.new_totals();
            self.ask(Request::Leaving { totals });
        }
    }

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
        self.totals.told = self.count();
        let mut claims = Claims { totals: self.new_totals(), received, ..Claims::default() };
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
