//! What becomes of a ring that one of its two sides can't have: a smaller one, or one that leads over the broker.

use super::relay::Lane;
use super::routes::{Phase, Ring, RouteKey, Stage};
use super::{Machine, Origin, Report, SessionId};
use crate::wire::{GoodbyeReason, Notice, RingId, RingPath};

impl<F> Machine<F> {
    /// A client can't have its side of a ring. A publisher's that is larger than usual is made smaller; else the events go over the broker.
    /// Where a version is too old for that, it would miss events, or withhold them: it goes. The broker's own process can't come back,
    /// as others can: the other side goes in its place.
    pub(super) fn no_ring(&mut self, session: SessionId, ring: RingId, cause: &str) {
        let cause = super::sessions::cut(cause, 256);
        let other = match self.ends_of(ring) {
            Some((producer, consumer)) if session == producer => consumer,
            Some((producer, consumer)) if session == consumer => producer,
            _ => return,
        };
        if self.rings[&ring].relay.is_some() {
            return self.fault(session, "no memory for a ring that needs none");
        }
        let shrinks = other == self.rings[&ring].subscriber && self.shrink(ring, &cause);
        if shrinks || self.relay_instead(ring, &cause) {
            return;
        }
        if self.sessions[&session].origin == Origin::Embedded {
            let cause = format!("the agent's side of a ring can't be had: {cause}");
            self.dismiss_unheard(other, GoodbyeReason::NoRing { cause });
        } else {
            self.dismiss_unheard(session, GoodbyeReason::NoRing { cause });
        }
    }

    /// Puts a ring of the broker's own size in the place of a larger one that its publisher has not made; `false`: it is none. How
    /// large the ring is was not the publisher's wish, so it must not cost its session.
    fn shrink(&mut self, id: RingId, cause: &str) -> bool {
        let own = self.settings.ring_bytes;
        let ring = &self.rings[&id];
        if ring.bytes <= own || !matches!(ring.stage, Stage::NeedsSegments { producer: None, .. }) {
            return false;
        }
        let (producer, consumer) = self.ends_of(id).expect("its publisher is there");
        let Ring { publisher, subscriber, lane, bytes, .. } = self.take_ring(id).expect("it was there");
        debug_assert_eq!(lane, Lane::Events, "what is not relayed");
        for session in [producer, consumer] {
            self.send(session, Notice::CloseRing { ring: id, accused: None });
        }
        self.report_smaller_ring(producer, consumer, bytes, cause.to_owned());
        self.start_ring(publisher, subscriber, own);
        true
    }

    pub(super) fn report_smaller_ring(
        &mut self,
        producer: SessionId,
        consumer: SessionId,
        asked_bytes: u64,
        cause: String,
    ) {
        let (publisher, subscriber) = (self.component(producer), self.component(consumer));
        self.report(Report::SmallerRing { publisher, subscriber, asked_bytes, cause });
    }

    /// Lets go of the large rings that are not made in time.
    pub(super) fn shrink_late_rings(&mut self) {
        let late = self.forming.iter().take_while(|(due, _)| *due <= self.now);
        let late: Vec<RingId> = late.map(|(_, ring)| *ring).collect();
        for ring in late {
            self.shrink(ring, "its publisher did not make it in time");
        }
    }

    /// Has events go over the broker where one of two can't have its side of a ring; `false`: their versions don't.
    fn relay_instead(&mut self, id: RingId, cause: &str) -> bool {
        let Some((producer, consumer)) = self.ends_of(id) else { return false };
        let ring = &self.rings[&id];
        if ring.relay.is_some()
            || matches!(ring.stage, Stage::Poisoned)
            || !self.can_relay(producer, consumer)
        {
            return false;
        }
        let Ring { publisher, subscriber, lane, .. } = self.take_ring(id).expect("it was there");
        for session in [producer, consumer] {
            self.send(session, Notice::CloseRing { ring: id, accused: None });
        }
        let (by, of) = (self.component(producer), self.component(consumer));
        self.report(Report::Relayed { publisher: by, subscriber: of, cause: cause.to_owned() });
        let path = RingPath::RelayInstead { cause: cause.to_owned() };
        self.start_relay(publisher, subscriber, lane, path);
        for key in self.routes_between(publisher, subscriber, lane) {
            self.begin_again(key);
        }
        true
    }

    /// Has a route begin again, over another ring.
    fn begin_again(&mut self, key: RouteKey) {
        let route = self.routes.get_mut(&key).expect("the caller found the route");
        (route.phase, route.target) = (Phase::NeedsRing, None);
        let (order, wanted) = (route.order.take(), route.wanted);
        order.map(|order| self.orders.remove(&order));
        if wanted { self.start_granting(key) } else { self.drop_routes(&[key]) }
    }
}
