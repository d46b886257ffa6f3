//! The two tasks of each connection: one reads what its client says, one writes what the loop has queued for it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm::Descriptor;
use tokio::sync::{Semaphore, mpsc};

use super::super::outgoing::Frame;
use super::Event;
use super::log::TARGET;
use crate::config::{BREACH_PAUSE, PART_PAUSE};
use crate::control::SessionId;
use crate::link::{LinkError, MessageReader};
use crate::sys::Stream;
use crate::wire::{GoodbyeReason, Request};

/// For how long a client is heard whose process has ended: what it has sent is there, and nobody sends more but a child of it.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a client says comes from here.
pub(super) struct Source {
    pub(super) session: SessionId,
    pub(super) stream: Rc<Stream>,
    pub(super) paused: Rc<Cell<Option<Instant>>>,
}

impl Source {
    /// The next message, once it is to be read, or what ends the session. To be cancelled only where the session ends.
    async fn next(
        &self,
        reader: &mut MessageReader,
        is_first: bool,
    ) -> Result<(Request, Option<Descriptor>), LinkError> {
        while let Some(until) = self.paused.take() {
            tokio::time::sleep_until(until.into()).await;
        }
        let mut next = reader.next::<Request>(&self.stream).await;
        if is_first && next.as_ref().is_ok_and(|(request, _)| !matches!(request, Request::Hello(_))) {
            reader.close_descriptors();
            next = Err(LinkError::NoHello);
        }
        if next.as_ref().is_err_and(LinkError::is_breach) {
            tokio::time::sleep(BREACH_PAUSE).await;
        }
        next
    }
}

/// Reads one client's messages until it, or its process, ends.
pub(super) async fn read_all(from: Source, death: impl Future<Output = ()>, events: mpsc::Sender<Event>) {
    let (mut reader, session) = (MessageReader::new(PART_PAUSE), from.session);
    let turns = Arc::new(Semaphore::new(1));
    // The socket may live on in a child that the process left behind.
    let mut death = std::pin::pin!(death);
    let mut until: Option<tokio::time::Instant> = None;
    let mut is_first = true;
    loop {
        let next = &mut std::pin::pin!(from.next(&mut reader, std::mem::take(&mut is_first)));
        let message = loop {
            tokio::select! {
                message = &mut *next => break Some(message),
                // What it said before is still heard.
                () = &mut death, if until.is_none() => until = Some(tokio::time::Instant::now() + LAST_WORDS),
                () = tokio::time::sleep_until(until.unwrap_or_else(tokio::time::Instant::now)), if until.is_some() => break None,
            }
        };
        let event = match message {
            Some(Ok((request, descriptor))) => {
                let turn = Arc::clone(&turns).acquire_owned().await.ok();
                Event::Frame { session, request, descriptor, turn }
            }
            Some(Err(LinkError::Closed)) | None => Event::Ended { session },
            Some(Err(LinkError::Host(error))) => {
                tracing::warn!(name: "client_unheard", target: TARGET, session = session.0, %error, "a client can't be heard any more");
                Event::Ended { session }
            }
            Some(Err(error)) => {
                let reason = GoodbyeReason::Protocol { what: error.to_string() };
                Event::Faulty { session, reason }
            }
        };
        let last = !matches!(event, Event::Frame { .. });
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

/// Writes what is queued for one client.
pub(super) async fn write_all(
    session: SessionId,
    stream: Rc<Stream>,
    mut queued: mpsc::UnboundedReceiver<Frame>,
    events: mpsc::Sender<Event>,
) {
    while let Some(frame) = queued.recv().await {
        match stream.send(frame.bytes(), frame.descriptor.as_ref()).await.map_err(LinkError::from) {
            Ok(()) => {}
            // It has not gone out. It is as if the client could not have its side of the ring: who has descriptors wait for the
            // broker's user must not end the sessions of others.
            Err(LinkError::Host(error)) if frame.ring.is_some() && Stream::is_full_of_descriptors(&error) => {
                let ring = frame.ring.expect("it was just looked at");
                let request = Request::NoRing { ring, cause: error.to_string() };
                let _ = events.send(Event::Frame { session, request, descriptor: None, turn: None }).await;
            }
            // The reader sees the end of the connection, and what the client said before.
            Err(LinkError::Closed) => return,
            Err(error) => {
                tracing::warn!(name: "client_untold", target: TARGET, session = session.0, %error, "a client can't be told anything any more");
                // The loop may be gone by now, and the session with it.
                let _ = events.send(Event::Ended { session }).await;
                return;
            }
        }
    }
}
