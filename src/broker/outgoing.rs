//! What waits for one client to read it: bounded, in frames and in bytes.

use std::cell::Cell;
use std::rc::Rc;

use shm::Descriptor;
use tokio::sync::mpsc;

use crate::config::{EMBEDDED_FRAMES_MAX, OUTGOING_BYTES_MAX, OUTGOING_FRAMES_MAX};
use crate::wire::codec::encode;
use crate::wire::frames::frame;
use crate::wire::{GoodbyeReason, Notice};

/// The loop's end.
#[derive(Debug)]
pub(super) enum Outgoing {
    Remote {
        queue: mpsc::Sender<Frame>,
        bytes: Rc<Cell<usize>>,
    },
    /// Within the process nothing is encoded.
    Embedded(mpsc::Sender<(Notice, Option<Descriptor>)>),
}

/// One frame, as it is written.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    pub(super) descriptor: Option<Descriptor>,
    /// Of all that wait.
    waiting: Rc<Cell<usize>>,
}

impl Frame {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Frame {
    /// It waits no more, whether it was written or not.
    fn drop(&mut self) {
        self.waiting.set(self.waiting.get().saturating_sub(self.bytes.len()));
    }
}

impl Outgoing {
    /// To another process, and the writer's end.
    pub(super) fn remote() -> (Self, mpsc::Receiver<Frame>) {
        let (queue, queued) = mpsc::channel(OUTGOING_FRAMES_MAX);
        (Self::Remote { queue, bytes: Rc::default() }, queued)
    }

    /// To a client in this process, and its end.
    pub(super) fn embedded() -> (Self, mpsc::Receiver<(Notice, Option<Descriptor>)>) {
        let (queue, queued) = mpsc::channel(EMBEDDED_FRAMES_MAX);
        (Self::Embedded(queue), queued)
    }

    /// Adds a notice behind those that wait.
    ///
    /// # Errors
    /// Why the client has to go: too much waits.
    pub(super) fn push(&self, notice: Notice, descriptor: Option<Descriptor>) -> Result<(), GoodbyeReason> {
        let limit = u32::try_from(OUTGOING_FRAMES_MAX).expect("a small constant");
        let too_slow = GoodbyeReason::TooSlow { limit };
        match self {
            Self::Remote { queue, bytes } => {
                let frame = frame(&encode(&notice));
                let waiting = bytes.get().saturating_add(frame.len());
                if waiting > OUTGOING_BYTES_MAX {
                    return Err(GoodbyeReason::TooMuchUnread { limit: OUTGOING_BYTES_MAX as u64 });
                }
                bytes.set(waiting);
                let frame = Frame { bytes: frame, descriptor, waiting: Rc::clone(bytes) };
                queue.try_send(frame).map_err(|_| too_slow)
            }
            Self::Embedded(queue) => queue.try_send((notice, descriptor)).map_err(|_| too_slow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RingId;

    fn notice(bytes: usize) -> Notice {
        Notice::CloseRing { ring: RingId(1), accused: Some("x".repeat(bytes)) }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_what_was_written_waits_no_more() {
        let (outgoing, mut queued) = Outgoing::remote();
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
        let (outgoing, _queued) = Outgoing::remote();
        for _ in 0..OUTGOING_FRAMES_MAX {
            outgoing.push(notice(1), None).expect("there is room");
        }
        assert!(matches!(outgoing.push(notice(1), None), Err(GoodbyeReason::TooSlow { .. })));
    }
}
