//! What waits for one client to read it: bounded, in frames and in bytes. RelayedRecords that go over the broker are bounded by what their
//! subscriber's user is charged with, and it is noted here when they have left.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use shm::Descriptor;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::config::{EMBEDDED_FRAMES_MAX, OUTGOING_BYTES_MAX, OUTGOING_FRAMES_MAX};
use crate::control::SessionId;
use crate::hidden::Hidden;
use crate::wire::codec::encode;
use crate::wire::frames::frame;
use crate::wire::{GoodbyeReason, Notice, RingId};

/// What of relayed records has left, by session, since it was last looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Written(Rc<RefCell<BTreeMap<SessionId, u64>>>);

impl Written {
    fn note(&self, session: SessionId, charge: u64) {
        *self.0.borrow_mut().entry(session).or_default() += charge;
    }

    pub(super) fn take(&self) -> BTreeMap<SessionId, u64> {
        self.0.take()
    }
}

/// The loop's end.
#[derive(Debug)]
pub(super) struct Outgoing {
    session: SessionId,
    written: Written,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Remote {
        queue: mpsc::UnboundedSender<Frame>,
        waiting: Rc<Waiting>,
    },
    /// Within the process nothing is encoded.
    Embedded(mpsc::Sender<(Notice, Option<Descriptor>)>),
}

/// How much waits, without relayed records.
#[derive(Debug, Default)]
struct Waiting {
    frames: Cell<usize>,
    bytes: Cell<usize>,
}

/// One frame, as it is written.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Hidden<Vec<u8>>,
    pub(super) descriptor: Option<Descriptor>,
    /// Of which ring it tells, if it brings a descriptor.
    pub(super) ring: Option<RingId>,
    counted: Counted,
}

/// Where a frame counts for as long as it waits.
#[derive(Debug)]
enum Counted {
    Control(Rc<Waiting>),
    Relayed { session: SessionId, charge: u64, written: Written },
}

impl Frame {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Frame {
    /// It waits no more, whether it was written or not.
    fn drop(&mut self) {
        match &self.counted {
            Counted::Control(waiting) => {
                waiting.frames.set(waiting.frames.get().saturating_sub(1));
                waiting.bytes.set(waiting.bytes.get().saturating_sub(self.bytes.len()));
            }
            Counted::Relayed { session, charge, written } => written.note(*session, *charge),
        }
    }
}

impl Outgoing {
    /// To another process, and the writer's end.
    pub(super) fn remote(session: SessionId, written: Written) -> (Self, mpsc::UnboundedReceiver<Frame>) {
        let (queue, queued) = mpsc::unbounded_channel();
        (Self { session, written, way: Way::Remote { queue, waiting: Rc::default() } }, queued)
    }

    /// To a client in this process, and its end.
    pub(super) fn embedded(
        session: SessionId,
        written: Written,
    ) -> (Self, mpsc::Receiver<(Notice, Option<Descriptor>)>) {
        let (queue, queued) = mpsc::channel(EMBEDDED_FRAMES_MAX);
        (Self { session, written, way: Way::Embedded(queue) }, queued)
    }

    /// Adds a notice behind those that wait.
    ///
    /// # Errors
    /// Why the client has to go: too much waits.
    pub(super) fn push(
        &self,
        mut notice: Notice,
        descriptor: Option<Descriptor>,
    ) -> Result<(), GoodbyeReason> {
        let limit = u32::try_from(OUTGOING_FRAMES_MAX).expect("a small constant");
        let too_slow = GoodbyeReason::TooSlow { limit };
        match &self.way {
            Way::Remote { queue, waiting } => {
                let bytes = frame(&encode(&notice));
                let all = waiting.bytes.get().saturating_add(bytes.len());
                if all > OUTGOING_BYTES_MAX {
                    return Err(GoodbyeReason::TooMuchUnread { limit: OUTGOING_BYTES_MAX as u64 });
                }
                if waiting.frames.get() == OUTGOING_FRAMES_MAX {
                    return Err(too_slow);
                }
                waiting.bytes.set(all);
                waiting.frames.set(waiting.frames.get() + 1);
                let counted = Counted::Control(Rc::clone(waiting));
                // Without a writer the session is about to end.
                let ring = descriptor.as_ref().and_then(|_| notice.ring_mut().copied());
                let _ = queue.send(Frame { bytes: Hidden(bytes), descriptor, ring, counted });
                Ok(())
            }
            Way::Embedded(queue) => match queue.try_send((notice, descriptor)) {
                // Whose handles have gone has left, and says so.
                Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
                Err(TrySendError::Full(_)) => Err(too_slow),
            },
        }
    }

    /// The same for records, which were charged with so much.
    ///
    /// # Errors
    /// As above, for the client in this process.
    pub(super) fn push_relayed(&self, notice: Notice, charge: u64) -> Result<(), GoodbyeReason> {
        let (session, written) = (self.session, self.written.clone());
        match &self.way {
            Way::Remote { queue, .. } => {
                let counted = Counted::Relayed { session, charge, written };
                // Without a writer the session is about to end.
                let bytes = Hidden(frame(&encode(&notice)));
                let _ = queue.send(Frame { bytes, descriptor: None, ring: None, counted });
                Ok(())
            }
            Way::Embedded(_) => {
                // What its windows hold is its own memory from here on.
                written.note(session, charge);
                self.push(notice, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(bytes: usize) -> Notice {
        Notice::CloseRing { ring: RingId(1), accused: Some("x".repeat(bytes)) }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_what_was_written_waits_no_more() {
        let (outgoing, mut queued) = Outgoing::remote(SessionId(1), Written::default());
        let mut pushed = 0;
        while outgoing.push(notice(60_000), None).is_ok() {
            pushed += 1;
        }
        assert_eq!(pushed, OUTGOING_BYTES_MAX / 60_000);
        let refused = outgoing.push(notice(60_000), None).expect_err("it is full");
        assert_eq!(refused, GoodbyeReason::TooMuchUnread { limit: OUTGOING_BYTES_MAX as u64 });
        let written = queued.try_recv().expect("it waits");
        assert!(outgoing.push(notice(60_000), None).is_err(), "it is being written");
        drop(written);
        outgoing.push(notice(60_000), None).expect("there is room for one");
    }

    #[test]
    fn what_waits_is_bounded_in_frames() {
        let (outgoing, _queued) = Outgoing::remote(SessionId(1), Written::default());
        for _ in 0..OUTGOING_FRAMES_MAX {
            outgoing.push(notice(1), None).expect("there is room");
        }
        assert!(matches!(outgoing.push(notice(1), None), Err(GoodbyeReason::TooSlow { .. })));
    }

    #[test]
    fn who_reads_no_more_since_it_is_gone_is_not_too_slow() {
        let (remote, queued) = Outgoing::remote(SessionId(1), Written::default());
        let (embedded, received) = Outgoing::embedded(SessionId(2), Written::default());
        for _ in 0..OUTGOING_FRAMES_MAX {
            remote.push(notice(1), None).expect("there is room");
        }
        drop((queued, received));
        for outgoing in [remote, embedded] {
            for _ in 0..=OUTGOING_FRAMES_MAX {
                outgoing.push(notice(1), None).expect("its end is told by its own task");
            }
        }
    }

    #[test]
    fn relayed_records_are_counted_until_they_are_written_and_by_nothing_else() {
        let written = Written::default();
        let (outgoing, mut queued) = Outgoing::remote(SessionId(1), written.clone());
        let records = || crate::wire::RelayedRecords(vec![0; 1000]);
        for _ in 0..=OUTGOING_FRAMES_MAX {
            let notice = Notice::Relayed { ring: RingId(1), records: records() };
            outgoing.push_relayed(notice, 7).expect("they are charged elsewhere");
        }
        outgoing.push(notice(1), None).expect("they take no room from others");
        assert!(written.take().is_empty());
        drop((queued.try_recv(), queued.try_recv()));
        assert_eq!(Vec::from_iter(written.take()), [(SessionId(1), 14)]);
    }
}
