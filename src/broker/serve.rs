//! The one loop: connections and commands in, the machine's actions out.
//!
//! Each connection has two tasks on this thread: one reads messages and hands them to the loop, one writes what the loop
//! queued. The loop itself never waits for a client: a queue that is full ends the session.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm::{Backing, Descriptor, Doorbell, SegmentError};
use tokio::sync::{OwnedSemaphorePermit as Turn, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::attention::Attention;
use super::audit::Audit;
use super::doorkeeper::Doorkeeper;
use super::membership::Roll;
use super::outgoing::{Outgoing, Written};
use super::pairs::Spoke;
use super::poisonings::Ledger;
use super::{BrokerOptions, Command, Invited, StartError, shares};
use crate::client::{ClientSettings, Connection as Connected, Core, run_session};
use crate::config::{HELLO_DEADLINE, RECORD_DEADLINE, REQUEST_DEADLINE};
use crate::control::{Action, Awaited, Input, Machine, Origin, PolicyChange, Report, SessionId, Settings};
use crate::link::Link;
use crate::statistics::BrokerStatistics;
use crate::sys::{self, Credentials, Listener, Socket};
use crate::wire::{
    Credential, Epoch, GoodbyeReason, Handle, Hello, Life, Nonce, Notice, Request, RingId, Versions,
};

mod arrivals;
mod inquiries;
mod log;
mod streams;
use log::{TARGET, log};

/// How long a client that is being sent away may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a broker that shuts down waits for what was published over it: the records that wait in a publisher are a ring's worth at most.
const FINISH: Duration = Duration::from_secs(1);

/// Messages of clients that wait for the loop. Full: clients wait.
const EVENTS_MAX: usize = 256;

/// What the tasks of connections tell the loop.
#[derive(Debug)]
pub(super) enum Event {
    /// Its session's next is read when this one is done: who says much waits for the others, and they for one frame of it.
    Frame {
        session: SessionId,
        request: Request,
        descriptor: Option<Descriptor>,
        turn: Option<Turn>,
    },
    Faulty {
        session: SessionId,
        reason: GoodbyeReason,
    },
    Ended {
        session: SessionId,
    },
    /// Somebody has spoken over a connection that was made for it, or nobody will.
    Spoke(Spoke),
}

/// One connection, as the loop knows it.
#[derive(Debug)]
struct Connection {
    outgoing: Outgoing,
    peer: Peer,
}

/// Who is at the other end.
#[derive(Debug)]
enum Peer {
    Remote(Remote),
    /// A client in this process, and whether its handles have heard that the session is over. `None`: it was not let in.
    Embedded(Option<watch::Receiver<Connected>>),
}

#[derive(Debug)]
struct Remote {
    credentials: Credentials,
    /// What it was greeted with.
    nonce: Nonce,
    /// Whom the connection was made for, if it was.
    invited: Option<Invited>,
    /// Nothing is read from it before.
    paused: Rc<Cell<Option<Instant>>>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

struct Server {
    options: BrokerOptions,
    machine: Machine<Descriptor>,
    listener: Option<Listener>,
    connections: HashMap<SessionId, Connection>,
    events: mpsc::Sender<Event>,
    last_session: u64,
    last_reload: u64,
    /// Who waits for a policy to be in force.
    reloads: HashMap<u64, oneshot::Sender<PolicyChange>>,
    last_inquiry: u64,
    /// Who in this process waits for statistics.
    inquiries: HashMap<u64, oneshot::Sender<BrokerStatistics>>,
    /// When the broker was made.
    since: Instant,
    /// Nobody is accepted before.
    accept_from: Option<Instant>,
    attention: Attention,
    roll: Roll,
    poisonings: Ledger,
    doorkeeper: Doorkeeper,
    audit: Audit,
    /// Connections over which nobody has spoken yet.
    pairs_waiting: usize,
    written: Written,
}

/// Runs a broker until it is shut down.
pub(super) async fn run(
    options: BrokerOptions,
    doorkeeper: Doorkeeper,
    roll: Roll,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let (events, mut incoming) = mpsc::channel(EVENTS_MAX);
    let mut server = Server::new(options, doorkeeper, roll, events);
    let reply = loop {
        let deadline = server.machine.next_deadline();
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Shutdown { reply }) => break reply,
                Some(command) => server.command(command),
                None => break None,
            },
            Some(event) = incoming.recv() => server.event(event),
            accepted = accept(server.listener.as_ref(), server.accept_from) => {
                if let Some(newcomer) = server.accepted(accepted) {
                    server.attend(newcomer, &mut incoming).await;
                }
                // Those who are there say something before the next comes: else a storm of newcomers holds them up.
                tokio::task::yield_now().await;
            }
            () = sleep_until(deadline) => server.tick(&mut incoming).await,
        }
    };
    server.finish(&mut incoming).await;
    server.shut_down().await;
    // The socket is removed before anybody hears that the broker is down.
    drop(server);
    if let Some(reply) = reply {
        // Who has stopped waiting needs no answer.
        let _ = reply.send(());
    }
}

async fn accept(listener: Option<&Listener>, from: Option<Instant>) -> std::io::Result<Socket> {
    match listener {
        Some(listener) => {
            if let Some(from) = from {
                tokio::time::sleep_until(from.into()).await;
            }
            listener.accept().await
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl Server {
    fn new(options: BrokerOptions, doorkeeper: Doorkeeper, roll: Roll, events: mpsc::Sender<Event>) -> Self {
        let (epoch, _) = uuid::Uuid::new_v4().as_u64_pair();
        let settings = Settings {
            epoch: Epoch(epoch),
            policy: options.policy.clone(),
            ring_bytes: options.ring_bytes as u64,
            limits: options.shares.limits(),
            operators: [0, sys::own_uid()].into(),
            pace: shares::pace(),
            backing: options.backing,
            relays_all: options.relays_all,
            route_deadline: options.route_deadline,
            hello_deadline: HELLO_DEADLINE,
            record_deadline: RECORD_DEADLINE,
        };
        let machine = Machine::new(settings, Instant::now());
        Self {
            options,
            machine,
            listener: None,
            connections: HashMap::new(),
            events,
            last_session: 0,
            last_reload: 0,
            reloads: HashMap::new(),
            last_inquiry: 0,
            inquiries: HashMap::new(),
            since: Instant::now(),
            accept_from: None,
            attention: Attention::default(),
            roll,
            poisonings: Ledger::default(),
            doorkeeper,
            audit: Audit::default(),
            pairs_waiting: 0,
            written: Written::default(),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start { reply } => {
                let started = self.start();
                // Who has stopped waiting needs no answer.
                let _ = reply.send(started);
            }
            Command::Embed { client_id, reply } => self.embed(&client_id, reply),
            Command::Reload { policy, reply } => {
                self.last_reload += 1;
                self.reloads.insert(self.last_reload, reply);
                self.feed(Input::Reload { number: self.last_reload, policy });
            }
            Command::Pair { invited, reply } => {
                let _ = reply.send(self.pair(invited));
            }
            Command::Components { reply } => {
                let _ = reply.send(self.machine.components().cloned().collect());
            }
            Command::IssueToken { terms, reply } => {
                let _ = reply.send(self.doorkeeper.issue(terms, Instant::now()));
            }
            Command::Members { reply } => {
                let _ = reply.send(self.members());
            }
            Command::Poisonings { reply } => {
                let _ = reply.send(self.poisonings.list());
            }
            Command::Refusals { reply } => {
                let _ = reply.send(self.audit.refusals());
            }
            Command::RingCharges { reply } => {
                let _ = reply.send(self.machine.ring_charges());
            }
            Command::Statistics { reply } => self.inquire(reply),
            Command::Shutdown { .. } => unreachable!("the loop takes it itself"),
        }
    }

    fn start(&mut self) -> Result<(), StartError> {
        if self.listener.is_none() {
            if self.options.backing == Backing::Named {
                let abandoned = shm::collect_abandoned();
                tracing::debug!(abandoned, "names of segments that nobody has any more");
            }
            let listener =
                Listener::bind(&self.options.path, &self.options.socket_access, self.doorkeeper.key())?;
            tracing::info!(name: "listening", target: TARGET, path = %self.options.path.display(), "the broker listens");
            self.listener = Some(listener);
        }
        Ok(())
    }

    /// Makes a client in this process: the same session as any other's, without a socket.
    fn embed(&mut self, client_id: &str, reply: oneshot::Sender<Result<Arc<Core>, StartError>>) {
        let session = self.next_session();
        let (outgoing, mut notices) = Outgoing::embedded(session, self.written.clone());
        let (requests, mut asked) = mpsc::unbounded_channel();
        self.connections.insert(session, Connection { outgoing, peer: Peer::Embedded(None) });
        let events = self.events.clone();
        tokio::task::spawn_local(async move {
            while let Some((request, descriptor)) = asked.recv().await {
                let event = Event::Frame { session, request, descriptor, turn: None };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            // The loop may be gone by now, and the session with it.
            let _ = events.send(Event::Ended { session }).await;
        });
        self.feed(Input::Connected { session, origin: Origin::Embedded });
        let mut client = [0; 8];
        // Without chance those who knew the agent of before can't tell it from this one.
        let _ = sys::randomize(&mut client);
        let life = Life { client: u64::from_le_bytes(client), before: 0 };
        // Within a process there is nothing to prove.
        let hello = Hello {
            versions: Versions::OURS,
            features: 0,
            client_id: client_id.to_owned(),
            nonce: Nonce([0; 32]),
            credential: Credential::Nothing,
            life,
            proof: None,
        };
        self.feed(Input::Frame { session, request: Request::Hello(Box::new(hello)), descriptor: None });
        let welcome = match notices.try_recv() {
            Ok((Notice::Welcome(welcome), _)) => welcome,
            Ok((Notice::Refused { refusal, .. }, _)) => return drop(reply.send(Err(refusal.into()))),
            _ => return,
        };
        let BrokerOptions { queue_bytes, wait_policy, .. } = self.options;
        // Its broker is there for as long as it is.
        let outbox_bytes = 0;
        let settings = ClientSettings { queue_bytes, outbox_bytes, wait_policy, deadline: REQUEST_DEADLINE };
        let (core, ground, channels) = Core::new(&welcome, settings);
        if let Some(connection) = self.connections.get_mut(&session) {
            connection.peer = Peer::Embedded(Some(ground.connection.subscribe()));
        }
        // Who has stopped waiting drops the core, which ends the session.
        let _ = reply.send(Ok(core));
        tokio::task::spawn_local(run_session(
            ground,
            welcome,
            Link::Local { requests, notices },
            channels,
            None,
        ));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Frame { session, request, mut descriptor, turn } => {
                if let Request::Hello(hello) = &request {
                    if let Some(reason) = self.wrong_component(session, &hello.client_id) {
                        return self.feed(Input::Faulty { session, reason });
                    }
                    self.bury_the_dead(&hello.client_id);
                }
                match self.vouch(session, &request, &mut descriptor) {
                    Ok(()) => self.feed(Input::Frame { session, request, descriptor }),
                    Err(input) => self.feed(input),
                }
                drop(turn);
            }
            Event::Faulty { session, reason } => self.feed(Input::Faulty { session, reason }),
            Event::Ended { session } => {
                self.feed(Input::Ended { session });
                self.disconnect(session);
            }
            Event::Spoke(spoke) => self.spoke(spoke),
        }
    }

    /// Asks the kernel about a segment before it is handed on, and says who must go if that can't be. About one that nobody has
    /// asked for it is not worth asking: that has pages allocated, so it takes milliseconds of this loop.
    fn vouch(
        &self,
        session: SessionId,
        request: &Request,
        descriptor: &mut Option<Descriptor>,
    ) -> Result<(), Input<Descriptor>> {
        let (ring, handle, of_producer) = match request {
            Request::ProducerSegment { ring, handle } => (*ring, *handle, true),
            Request::ConsumerSegment { ring, handle } => (*ring, *handle, false),
            _ => return Ok(()),
        };
        let Some(Awaited { reader, ring_bytes }) = self.machine.awaits_segment(session, ring, of_producer)
        else {
            return Ok(());
        };
        let backing = self.options.backing;
        if handle.backing() != backing {
            // The machine says what is wrong with it.
            return Ok(());
        }
        if backing == Backing::Named {
            self.of_one_user(ring, session, reader)?;
        }
        let Some(handle) = handle.join(descriptor.take()) else {
            return Ok(());
        };
        let owner = self.uid(session);
        let checked = if of_producer {
            let capacity = usize::try_from(ring_bytes).expect("the machine takes no larger size");
            shm::check_producer_segment(&handle, capacity, owner)
        } else {
            shm::check_consumer_segment(&handle, owner)
        };
        (_, *descriptor) = Handle::split(handle);
        checked.map_err(|error| {
            let what = error.to_string();
            match error {
                // Not the client's fault: it is as if it had found no memory itself.
                SegmentError::Host { .. } | SegmentError::Sparse(_) => {
                    let request = Request::NoRing { ring, cause: what };
                    Input::Frame { session, request, descriptor: None }
                }
                _ => Input::Faulty { session, reason: GoodbyeReason::Protocol { what } },
            }
        })
    }

    /// Memory with a name is for one user. Of two who differ the one has no ring that is not of the broker's: where that ends a session, a
    /// stranger must not end the agent's.
    fn of_one_user(
        &self,
        ring: RingId,
        session: SessionId,
        reader: SessionId,
    ) -> Result<(), Input<Descriptor>> {
        let (owner_uid, reader_uid) = (self.uid(session), self.uid(reader));
        if owner_uid == reader_uid {
            return Ok(());
        }
        let (stranger, uid, other) = if owner_uid == sys::own_uid() {
            (reader, reader_uid, owner_uid)
        } else {
            (session, owner_uid, reader_uid)
        };
        let cause = format!("memory with a name is one user's: uid {uid} can't share it with uid {other}");
        let request = Request::NoRing { ring, cause };
        Err(Input::Frame { session: stranger, request, descriptor: None })
    }

    /// Sends away who is late. What has come by now was in time, though this loop may have been held up.
    async fn tick(&mut self, incoming: &mut mpsc::Receiver<Event>) {
        // Each turn lets the tasks of connections read one message that is there.
        for _ in 0..EVENTS_MAX {
            tokio::task::yield_now().await;
            let waiting = incoming.len();
            for event in (0..waiting).map_while(|_| incoming.try_recv().ok()) {
                self.event(event);
            }
            if waiting == 0 {
                break;
            }
        }
        self.feed(Input::Tick);
    }

    /// Gives the machine an input, and does what it says.
    fn feed(&mut self, input: Input<Descriptor>) {
        let mut inputs = vec![input];
        inputs.extend(
            self.written.take().into_iter().map(|(session, charge)| Input::Written { session, charge }),
        );
        while let Some(input) = inputs.pop() {
            for action in self.machine.handle(Instant::now(), input) {
                inputs.extend(self.perform(action));
            }
        }
    }

    /// Does one thing; what comes of it goes back into the machine.
    fn perform(&mut self, action: Action<Descriptor>) -> Option<Input<Descriptor>> {
        match action {
            Action::Send { session, notice, descriptor } => {
                let connection = self.connections.get(&session)?;
                let pushed = connection.outgoing.push(notice, descriptor);
                pushed.err().map(|reason| Input::Faulty { session, reason })
            }
            Action::SendRelayed { session, notice, charge } => {
                let connection = self.connections.get(&session)?;
                let pushed = connection.outgoing.push_relayed(notice, charge);
                pushed.err().map(|reason| Input::Faulty { session, reason })
            }
            Action::Pause { session, until } => {
                let connection = self.connections.get(&session)?;
                if let Peer::Remote(remote) = &connection.peer {
                    remote.paused.set(Some(until));
                }
                None
            }
            Action::Disconnect { session } => {
                self.disconnect(session);
                None
            }
            Action::Admit { session, hello } => self.admit(session, &hello),
            Action::Hold { until } => {
                self.accept_from = self.accept_from.max(Some(until));
                None
            }
            Action::MakeDoorbell { ring } => Some(Input::Doorbell { ring, ends: doorbell(ring) }),
            Action::Reloaded { number, change } => {
                if let Some(reply) = self.reloads.remove(&number) {
                    // Who has stopped waiting needs no answer.
                    let _ = reply.send(change);
                }
                None
            }
            Action::Inquired(inquired) => Some(self.inquired(inquired)),
            Action::Report(report) => {
                self.enrol(&report);
                let process = report.session().and_then(|session| self.process(session));
                log(&report, process);
                self.audit.record(Instant::now(), &report, process);
                if let Report::Poisoned { culprit, by, violation, .. } = report {
                    self.poisonings.count(culprit, by, violation);
                }
                None
            }
        }
    }

    /// Lets the writer finish, within limits, and listens no longer.
    fn disconnect(&mut self, session: SessionId) {
        let Some(Connection { outgoing, peer: Peer::Remote(remote) }) = self.connections.remove(&session)
        else {
            return;
        };
        drop(outgoing);
        remote.reader.abort();
        let mut writer = remote.writer;
        tokio::task::spawn_local(async move {
            if tokio::time::timeout(FAREWELL, &mut writer).await.is_err() {
                writer.abort();
            }
        });
    }

    /// Has what was published over the broker come through, if its publishers say so in time.
    async fn finish(&mut self, incoming: &mut mpsc::Receiver<Event>) {
        self.listener = None;
        self.feed(Input::Finish);
        let until = Instant::now() + FINISH;
        while !self.machine.has_finished() {
            tokio::select! {
                Some(event) = incoming.recv() => self.event(event),
                () = sleep_until(Some(until)) => {
                    tracing::warn!(name: "unfinished", target: TARGET, "some clients did not say that they have sent all that they published");
                    return;
                }
            }
        }
    }

    async fn shut_down(&mut self) {
        // Who waits for statistics is told that there are none.
        self.inquiries.clear();
        let mut writers: Vec<JoinHandle<()>> = Vec::new();
        let mut embedded = Vec::new();
        for action in self.machine.handle(Instant::now(), Input::Shutdown) {
            match action {
                Action::Disconnect { session } => {
                    match self.connections.remove(&session).map(|connection| connection.peer) {
                        Some(Peer::Remote(remote)) => {
                            remote.reader.abort();
                            writers.push(remote.writer);
                        }
                        Some(Peer::Embedded(over)) => embedded.extend(over),
                        None => {}
                    }
                }
                other => drop(self.perform(other)),
            }
        }
        self.audit.end();
        self.connections.clear();
        let all = async {
            for writer in &mut writers {
                // A writer that was aborted has nothing more to say.
                let _ = writer.await;
            }
            for over in &mut embedded {
                // A session that is gone has said so.
                let _ = over.wait_for(|now| *now != Connected::Up).await;
            }
        };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            tracing::warn!(name: "goodbyes_unread", target: TARGET, "some clients did not read that the broker shuts down");
        }
    }

    fn next_session(&mut self) -> SessionId {
        self.last_session += 1;
        SessionId(self.last_session)
    }
}

/// Both ends of a ring's doorbell; `None` when descriptors are short.
fn doorbell(ring: RingId) -> Option<(Descriptor, Descriptor)> {
    match Doorbell::ends() {
        Ok(ends) => Some(ends),
        Err(error) => {
            tracing::error!(name: "doorbell_missing", target: TARGET, ring = ring.0, %error, "no doorbell");
            None
        }
    }
}

#[cfg(test)]
mod tests;
