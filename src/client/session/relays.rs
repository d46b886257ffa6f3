//! Rings that lead over the broker: what this process's publishers put into them is sent, what comes of others' is handed on.

use std::sync::Arc;

use shm::SegmentError;

use super::Session;
use super::rings::{Pair, RingState};
use crate::access::Component;
use crate::dataplane::{InEnd, Line, Lineage, Origin, Relayed, RingEnd};
use crate::wire::{Notice, PublisherId, RelayedRecords, Request, RingId};

impl Session {
    pub(super) fn of_relay(&mut self, notice: Notice) {
        match notice {
            Notice::RelayTo { ring, publisher, window, subscriber, client } => {
                self.relay_to(ring, Pair { publisher, subscriber, client }, window);
            }
            Notice::RelayFrom { ring, publisher, window, component, client, number } => {
                let begun = self.relay_from(ring, publisher, (&component, client, number), window);
                self.or_no_ring(ring, begun);
            }
            Notice::Relayed { ring, records } => self.relayed(ring, records),
            Notice::Took { ring, cost } => self.took(ring, cost),
            Notice::Finish => {
                self.send_all_relayed(None);
                self.ask(Request::Finished);
            }
            _ => unreachable!("the caller hands over no others"),
        }
    }

    /// There is a ring from one of our publishers.
    fn relay_to(&mut self, ring: RingId, pair: Pair, window: u64) {
        let relayed = Arc::new(Relayed::new(ring, window, self.ground.data_events.clone()));
        if let Some(state) = self.publishers.get(&pair.publisher) {
            let line = Line::new(Arc::clone(&relayed));
            state.outbox.add_ring(ring, RingEnd::Broker(line), pair.reader(), Vec::new());
            self.rings.insert(ring, RingState::RelayTo { pair, relayed });
        }
    }

    /// There is a ring that leads here.
    fn relay_from(
        &mut self,
        ring: RingId,
        publisher: PublisherId,
        (component, client, number): (&str, u64, u32),
        window: u64,
    ) -> Result<(), SegmentError> {
        let Ok(component) = Component::from_client_id(component) else { return Ok(()) };
        let lineage = Lineage { component: component.clone(), client, number };
        let origin = Arc::new(Origin { component, publisher, epoch: self.welcome.epoch });
        self.inbox()?.add(ring, InEnd::Broker { window }, origin, lineage);
        self.rings.insert(ring, RingState::RelayFrom);
        Ok(())
    }

    fn relayed(&self, ring: RingId, records: RelayedRecords) {
        if let Some(inbox) = &self.inbox {
            inbox.relayed(ring, records);
        }
    }

    /// A subscriber has read so much of what was sent.
    fn took(&self, ring: RingId, cost: u64) {
        if let Some(RingState::RelayTo { relayed, .. }) = self.rings.get(&ring) {
            relayed.took(cost);
        }
    }

    /// Sends one frame of the ring whose turn it is.
    pub(super) fn send_relayed(&mut self) {
        let Some(ring) = self.to_send.pop_front() else { return };
        if self.send_frame(ring) {
            self.to_send.push_back(ring);
        }
    }

    /// Sends a frame of a ring, if there is one.
    fn send_frame(&mut self, ring: RingId) -> bool {
        let Some(RingState::RelayTo { relayed, .. }) = self.rings.get(&ring) else { return false };
        let Some(records) = relayed.next_frame() else { return false };
        self.ask(Request::Relay { ring, records });
        true
    }

    /// Sends all that there is, of one publisher or of each, as if nothing came behind it.
    pub(super) fn send_all_relayed(&mut self, publisher: Option<u32>) {
        let is_meant = |state: &RingState| match state {
            RingState::RelayTo { pair, .. } => publisher.is_none_or(|publisher| publisher == pair.publisher),
            _ => false,
        };
        let meant = self.rings.iter().filter(|(_, state)| is_meant(state)).map(|(ring, _)| *ring);
        for ring in meant.collect::<Vec<_>>() {
            if let Some(RingState::RelayTo { relayed, .. }) = self.rings.get(&ring) {
                relayed.finish();
            }
            while self.send_frame(ring) {}
        }
    }

    /// Sends all that was published over a ring by now, and what was lost of it, before what comes next.
    pub(super) fn send_marked(&mut self, ring: RingId) {
        if let Some(RingState::RelayTo { relayed, .. }) = self.rings.get(&ring) {
            relayed.mark();
        }
        while self.send_frame(ring) {}
    }

    /// The broker is gone, and with it all that led over it.
    pub(super) fn end_relays(&mut self) {
        self.to_send.clear();
        let over: Vec<RingId> =
            self.rings.iter().filter(|(_, state)| state.is_relayed()).map(|(ring, _)| *ring).collect();
        for ring in over {
            // What was on its way here did not come.
            self.may_have_missed |= matches!(self.rings.get(&ring), Some(RingState::RelayFrom));
            self.close_ring(ring, None);
        }
    }
}
