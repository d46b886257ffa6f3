//! Who comes, and who that is.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use super::super::Invited;
use super::super::StartError;
use super::super::audit::Process;
use super::super::doorkeeper::Caller;
use super::super::outgoing::Outgoing;
use super::super::pairs::{self, Spoke};
use super::log::TARGET;
use super::streams::{Source, read_all, write_all};
use super::{Connection, Event, Peer, Remote, Server};
use crate::access::Component;
use crate::config::{HOST_RETRY, PAIRS_WAITING_MAX};
use crate::control::{Input, Member, Origin, Report, SessionId};
use crate::identity::nonce;
use crate::link::LinkError;
use crate::sys::{self, Credentials, Socket, SocketEnd, Stream};
use crate::wire::codec::encode;
use crate::wire::frames::frame;
use crate::wire::{GoodbyeReason, Hello, Nonce, Notice, Payer};
use shm::Descriptor;
use tokio::sync::mpsc;

/// Says the first word over a connection. There is room for it: nothing was said before.
pub(super) fn greet(stream: &Stream, nonce: Nonce) -> std::io::Result<()> {
    match stream.send_now(&frame(&encode(&Notice::Greeting { nonce }))).map_err(LinkError::from) {
        // Who has gone hears nothing, and the reader sees that.
        Ok(_) | Err(LinkError::Closed) => Ok(()),
        Err(error) => Err(std::io::Error::other(error)),
    }
}

impl Server {
    /// Lets one connection in. Yields who is to say hello next.
    pub(super) fn accepted(&mut self, accepted: std::io::Result<Socket>) -> Option<SessionId> {
        self.accept_from = accepted.is_err().then(|| Instant::now() + HOST_RETRY);
        let connected = accepted.and_then(|socket| {
            // First of all, so that nothing a client may have sent by now keeps us when it is turned away.
            let stream = Stream::new(socket)?;
            Ok((Credentials::of(&stream)?, stream, nonce()?))
        });
        match connected {
            Ok((credentials, stream, nonce)) => {
                let stream = Rc::new(stream);
                let session = self.connect(credentials, Rc::clone(&stream), nonce, None);
                // Who was turned away has heard why.
                if !self.connections.contains_key(&session) {
                    return None;
                }
                if let Err(error) = greet(&stream, nonce) {
                    let reason = GoodbyeReason::Host { cause: error.to_string() };
                    self.feed(Input::Faulty { session, reason });
                }
                Some(session)
            }
            Err(error) => {
                tracing::warn!(name: "accept_failed", target: TARGET, %error, "a client could not be accepted");
                self.feed(Input::Crowded);
                None
            }
        }
    }

    /// Waits awake for the hello of who was just let in, if that is worth it. Others are heard meanwhile, and other processes go first.
    pub(super) async fn attend(&mut self, newcomer: SessionId, incoming: &mut mpsc::Receiver<Event>) {
        let Some(until) = self.attention.until(Instant::now()) else { return };
        while self.machine.awaits_hello(newcomer) && Instant::now() < until {
            std::thread::yield_now();
            // In the first turn the runtime looks what there is to read, in the second it is read.
            for _ in 0..2 {
                tokio::task::yield_now().await;
            }
            while let Ok(event) = incoming.try_recv() {
                self.event(event);
            }
        }
        self.attention.ended(Instant::now(), self.machine.is_welcome(newcomer));
    }

    /// Makes a connection over which nobody has spoken yet.
    pub(super) fn pair(&mut self, invited: Invited) -> Result<SocketEnd, StartError> {
        if self.pairs_waiting == PAIRS_WAITING_MAX {
            return Err(StartError::PairsWaiting { limit: PAIRS_WAITING_MAX });
        }
        let (stream, end) = sys::pair()?;
        // Nothing is to be proven over it.
        let nonce = nonce()?;
        greet(&stream, nonce)?;
        self.pairs_waiting += 1;
        tokio::task::spawn_local(pairs::await_word(stream, nonce, invited, self.events.clone()));
        Ok(end)
    }

    pub(super) fn spoke(&mut self, spoke: Spoke) {
        self.pairs_waiting -= 1;
        let Spoke { stream, nonce, invited, speaker } = spoke;
        match speaker {
            Ok(Some(speaker)) => {
                let wrong = invited.wrong_uid(speaker.uid);
                let session = self.connect(speaker, Rc::new(stream), nonce, Some(invited));
                if let Some(reason) = wrong {
                    self.feed(Input::Faulty { session, reason });
                }
            }
            Ok(None) => tracing::debug!(component = %invited.component, "has not made use of its connection"),
            Err(error) => {
                tracing::warn!(name: "speaker_unknown", target: TARGET, component = %invited.component, %error, "who speaks over a connection is not known");
            }
        }
    }

    pub(super) fn connect(
        &mut self,
        credentials: Credentials,
        stream: Rc<Stream>,
        nonce: Nonce,
        invited: Option<Invited>,
    ) -> SessionId {
        let session = self.next_session();
        let Credentials { pid, uid, gid, .. } = credentials;
        tracing::debug!(session = session.0, pid, uid, gid, "a client connected");
        let (outgoing, queued) = Outgoing::remote(session, self.written.clone());
        let (death, paused) = (credentials.death(), Rc::new(Cell::default()));
        let from = Source { session, stream: Rc::clone(&stream), paused: Rc::clone(&paused) };
        let reader = tokio::task::spawn_local(read_all(from, death, self.events.clone()));
        let writer = tokio::task::spawn_local(write_all(session, stream, queued, self.events.clone()));
        let origin = if invited.is_some() { Origin::Invited { uid } } else { Origin::Remote { uid } };
        let peer = Peer::Remote(Remote { credentials, nonce, invited, paused, reader, writer });
        self.connections.insert(session, Connection { outgoing, peer });
        self.feed(Input::Connected { session, origin });
        session
    }

    /// What is wrong with a hello over a connection that was made for a component.
    pub(super) fn wrong_component(&self, session: SessionId, client_id: &str) -> Option<GoodbyeReason> {
        match &self.connections.get(&session)?.peer {
            Peer::Remote(remote) => remote.invited.as_ref()?.wrong_component(client_id),
            Peer::Embedded(_) => None,
        }
    }

    /// A process that was killed and started again may say hello before the end of its first session was noticed.
    pub(super) fn bury_the_dead(&mut self, client_id: &str) {
        let holder = self.machine.holder_of(client_id);
        let dead = holder.filter(|session| {
            let peer = self.connections.get(session).map(|connection| &connection.peer);
            matches!(peer, Some(Peer::Remote(remote)) if remote.credentials.is_dead())
        });
        if let Some(session) = dead {
            self.feed(Input::Ended { session });
            self.disconnect(session);
        }
    }

    /// Asks the doorkeeper; who is in this process, or has gone, has nothing to prove.
    pub(super) fn admit(&mut self, session: SessionId, hello: &Hello) -> Option<Input<Descriptor>> {
        let Peer::Remote(Remote { nonce, .. }) = &self.connections.get(&session)?.peer else { return None };
        let (nonce, caller) = (*nonce, self.caller(session));
        Some(match self.doorkeeper.admit(hello, &nonce, caller, Instant::now()) {
            Ok(admission) => Input::Admitted { session, admission },
            Err(error) => Input::Faulty { session, reason: GoodbyeReason::Host { cause: error.to_string() } },
        })
    }

    fn caller(&self, session: SessionId) -> Caller {
        Caller { uid: self.uid(session), pid: self.pid(session) }
    }

    pub(super) fn members(&self) -> Vec<Member> {
        let member = |(session, component, identity): (_, &Component, _)| Member {
            component: component.clone(),
            uid: self.uid(session),
            pid: self.pid(session),
            identity,
        };
        self.machine.members().map(member).collect()
    }

    /// Notes who has come and who has gone, if a report says that.
    pub(super) fn enrol(&mut self, report: &Report) {
        let now = SystemTime::now();
        match report {
            Report::Joined { session, component, identity } => {
                let (uid, pid) = (self.uid(*session), self.pid(*session));
                let member = Member { component: component.clone(), uid, pid, identity: *identity };
                self.roll.join(member, now);
            }
            Report::Left { component, reason } => self.roll.leave(component, reason.clone(), now),
            _ => {}
        }
    }

    pub(super) fn pid(&self, session: SessionId) -> Option<u32> {
        match &self.connections.get(&session)?.peer {
            Peer::Remote(remote) => remote.credentials.pid,
            Peer::Embedded(_) => Some(std::process::id()),
        }
    }

    /// Who is at the other end of a session.
    pub(super) fn process(&self, session: SessionId) -> Option<Process> {
        let process = match &self.connections.get(&session)?.peer {
            Peer::Remote(remote) => {
                let Credentials { uid, pid, .. } = remote.credentials;
                Process { payer: Payer::Uid(uid), uid, pid }
            }
            Peer::Embedded(_) => {
                Process { payer: Payer::Agent, uid: sys::own_uid(), pid: Some(std::process::id()) }
            }
        };
        Some(process)
    }

    pub(super) fn uid(&self, session: SessionId) -> u32 {
        match self.connections.get(&session).map(|connection| &connection.peer) {
            Some(Peer::Remote(remote)) => remote.credentials.uid,
            Some(Peer::Embedded(_)) | None => sys::own_uid(),
        }
    }
}
