//! A publisher that would rather wait than lose.
//!
//! It asks each ring for room, and to be rung when there is. On the doorbells waits the control thread, which has a runtime that
//! can, whatever the application has; for a moment at a time, since subscribers come, leave and die meanwhile.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::ring::{Room, RoomBell};
use super::{DataEvent, OutRing, Outbox, Target, part};
use crate::config::{DESERTED_CHECK, HOST_RETRY};
use crate::routing::TopicId;
use crate::sys::{Bell, first_ring};

/// What the control thread is to wait for on behalf of a publisher.
#[derive(Debug)]
pub(crate) struct Wait {
    bells: Vec<Bell>,
    /// Of rings over the broker.
    reads: Vec<Arc<Notify>>,
    longest: Duration,
    over: oneshot::Sender<()>,
}

impl Wait {
    /// Waits, unless the publisher has stopped waiting.
    pub(crate) async fn carry_out(mut self) {
        tokio::select! {
            () = self.over.closed() => {}
            () = tokio::time::sleep(self.longest) => {}
            () = rung(self.bells) => {}
            () = read(self.reads) => {}
        }
        // Who has stopped waiting needs no answer.
        let _ = self.over.send(());
    }
}

/// Resolves when one of the doorbells rings; soon, where the host can't watch them.
async fn rung(bells: Vec<Bell>) {
    if bells.is_empty() {
        return std::future::pending().await;
    }
    if first_ring(bells).await.is_err() {
        tokio::time::sleep(HOST_RETRY).await;
    }
}

/// Resolves when something was read of one of the rings over the broker.
async fn read(reads: Vec<Arc<Notify>>) {
    let mut notified: Vec<_> = reads.into_iter().map(|read| Box::pin(read.notified_owned())).collect();
    std::future::poll_fn(|context| {
        let any = notified.iter_mut().any(|read| read.as_mut().poll(context).is_ready());
        if any { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Rings that were asked for room; no longer, when it is dropped.
struct Asked<'a>(&'a mut [Option<OutRing>]);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.iter_mut().flatten().for_each(OutRing::disarm);
    }
}

impl Outbox {
    /// Waits until each subscriber of `topic` has room for a record of so many bytes, and what keeps it for those who may come; at the deadline no longer.
    pub(crate) async fn await_room(&mut self, topic: TopicId, bytes: usize, deadline: Instant) {
        let targets = |outbox: &Self| {
            let rings = outbox.table.targets(topic).iter().filter_map(|target| match target {
                Target::Ring { index, address, .. } => {
                    Some((*index, Room::For { bytes, urgent: address.urgent }))
                }
                Target::Local { .. } => None,
            });
            rings.collect()
        };
        let lacks = |outbox: &Self| {
            outbox.keeps && outbox.shared.lacks_room(topic, bytes, outbox.heard_by(topic) > 0)
        };
        while self.await_once(deadline, targets, lacks).await {}
    }

    /// Waits until each subscriber has read all that is in its ring, and nothing is kept that nobody has heard; at the deadline no longer.
    pub(crate) async fn await_readers(&mut self, deadline: Instant) {
        let all = |outbox: &Self| (0..outbox.rings.len()).map(|index| (index, Room::All)).collect();
        let keeps = |outbox: &Self| outbox.keeps && outbox.shared.first_awaited().is_some();
        while self.await_once(deadline, all, keeps).await {}
    }

    /// Waits for the first ring that may have the room that is wanted of it. `false`: all have it, or it is too late.
    async fn await_once(
        &mut self,
        deadline: Instant,
        wanted: impl FnOnce(&Self) -> Vec<(usize, Room)>,
        waits_for_others: impl FnOnce(&Self) -> bool,
    ) -> bool {
        self.follow();
        self.flush();
        let (mut bells, mut reads) = (Vec::new(), Vec::new());
        let mut longest = deadline.saturating_duration_since(Instant::now());
        let late = longest.is_zero();
        longest = longest.min(DESERTED_CHECK);
        let mut calm = !waits_for_others(self);
        for (index, room) in wanted(self) {
            let place = &mut self.rings[index];
            let Some(ring) = place else { continue };
            match ring.await_room(room) {
                Ok(None) => {}
                Ok(Some(bell)) => {
                    calm = false;
                    match bell {
                        RoomBell::Memory(Ok(bell)) => bells.push(bell),
                        // The host has no descriptor for it: look again soon.
                        RoomBell::Memory(Err(_)) => longest = longest.min(HOST_RETRY),
                        RoomBell::Broker(read) => reads.push(read),
                    }
                }
                Err(over) => part(&self.events, place, over),
            }
        }
        let asked = Asked(&mut self.rings);
        if calm || late {
            return false;
        }
        let (over, waited) = oneshot::channel();
        let wait = DataEvent::Wait(Wait { bells, reads, longest, over });
        // Without a control thread nobody waits.
        let waited = self.events.send(wait).is_ok() && waited.await.is_ok();
        drop(asked);
        waited
    }

    /// Events of this publisher, counted from its first, that every subscriber that is there has read out of its ring, or was
    /// told of as lost.
    pub(crate) fn consumed(&mut self) -> u64 {
        // Looked at first: what is poured into rings meanwhile is seen in them.
        let kept = self.shared.first_awaited();
        self.follow();
        let mut consumed = kept.unwrap_or(self.sequence).min(self.sequence);
        for place in &mut self.rings {
            let Some(ring) = place else { continue };
            match ring.read_up_to() {
                Ok(read) => consumed = consumed.min(read.unwrap_or(consumed)),
                Err(over) => part(&self.events, place, over),
            }
        }
        // Who comes may be given what others have read long since.
        self.consumed = self.consumed.max(consumed);
        self.consumed
    }
}
