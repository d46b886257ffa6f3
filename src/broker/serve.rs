//! The one loop: connections and commands in, the machine's actions out.
//!
//! Each connection has two tasks on this thread: one reads messages and hands them to the loop, one writes what the loop
//! queued. The loop itself never waits for a client: a queue that is full ends the session.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm::Doorbell;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{BrokerOptions, Command, StartError};
use crate::client::{Core, run_session};
use crate::config::{HELLO_DEADLINE, OUTGOING_FRAMES_MAX, REQUEST_DEADLINE};
use crate::control::{Action, Input, Machine, Origin, Report, SessionId, Settings};
use crate::link::{Link, LinkError, MessageReader, write};
use crate::sys::{Credentials, Listener, Stream};
use crate::wire::{Epoch, GoodbyeReason, Hello, Notice, Request, RingId, Versions};

/// How long a client that is being sent away may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// Messages of clients that wait for the loop. Full: clients wait.
const EVENTS_MAX: usize = 256;

/// What the tasks of connections tell the loop.
#[derive(Debug)]
enum Event {
    Frame { session: SessionId, request: Request, descriptor: Option<OwnedFd> },
    Faulty { session: SessionId, reason: GoodbyeReason },
    Ended { session: SessionId },
}

/// One connection, as the loop knows it.
#[derive(Debug)]
struct Connection {
    outgoing: mpsc::Sender<(Notice, Option<OwnedFd>)>,
    /// `None` for the client in this process.
    remote: Option<Remote>,
}

#[derive(Debug)]
struct Remote {
    credentials: Credentials,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

struct Server {
    options: BrokerOptions,
    machine: Machine<OwnedFd>,
    listener: Option<Listener>,
    connections: HashMap<SessionId, Connection>,
    events: mpsc::Sender<Event>,
    last_session: u64,
}

/// Runs a broker until it is shut down.
pub(super) async fn run(options: BrokerOptions, mut commands: mpsc::UnboundedReceiver<Command>) {
    let (events, mut incoming) = mpsc::channel(EVENTS_MAX);
    let mut server = Server::new(options, events);
    let reply = loop {
        let deadline = server.machine.next_deadline();
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Shutdown { reply }) => break reply,
                Some(command) => server.command(command),
                None => break None,
            },
            Some(event) = incoming.recv() => server.event(event),
            accepted = accept(server.listener.as_ref()) => server.accepted(accepted).await,
            () = sleep_until(deadline) => server.feed(Input::Tick),
        }
    };
    server.shut_down().await;
    // The socket is removed before anybody hears that the broker is down.
    drop(server);
    if let Some(reply) = reply {
        // Who has stopped waiting needs no answer.
        let _ = reply.send(());
    }
}

async fn accept(listener: Option<&Listener>) -> std::io::Result<OwnedFd> {
    match listener {
        Some(listener) => listener.accept().await,
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
    fn new(options: BrokerOptions, events: mpsc::Sender<Event>) -> Self {
        let (epoch, _) = uuid::Uuid::new_v4().as_u64_pair();
        let settings = Settings {
            epoch: Epoch(epoch),
            policy: options.policy.clone(),
            ring_bytes: options.ring_bytes as u64,
            route_deadline: options.route_deadline,
            hello_deadline: HELLO_DEADLINE,
        };
        let machine = Machine::new(settings, Instant::now());
        Self { options, machine, listener: None, connections: HashMap::new(), events, last_session: 0 }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start { reply } => {
                let started = self.start();
                // Who has stopped waiting needs no answer.
                let _ = reply.send(started);
            }
            Command::Embed { client_id, reply } => self.embed(&client_id, reply),
            Command::Components { reply } => {
                let _ = reply.send(self.machine.components().cloned().collect());
            }
            Command::Shutdown { .. } => unreachable!("the loop takes it itself"),
        }
    }

    fn start(&mut self) -> Result<(), StartError> {
        if self.listener.is_none() {
            let listener = Listener::bind(&self.options.path, self.options.socket_mode)?;
            tracing::info!(path = %self.options.path.display(), "the broker listens");
            self.listener = Some(listener);
        }
        Ok(())
    }

    /// Makes a client in this process: the same session as any other's, without a socket.
    fn embed(&mut self, client_id: &str, reply: oneshot::Sender<Result<Arc<Core>, StartError>>) {
        let session = self.next_session();
        let (outgoing, notices) = mpsc::channel(OUTGOING_FRAMES_MAX);
        let (requests, mut asked) = mpsc::unbounded_channel();
        self.connections.insert(session, Connection { outgoing, remote: None });
        let events = self.events.clone();
        tokio::task::spawn_local(async move {
            while let Some((request, descriptor)) = asked.recv().await {
                if events.send(Event::Frame { session, request, descriptor }).await.is_err() {
                    return;
                }
            }
            // The loop may be gone by now, and the session with it.
            let _ = events.send(Event::Ended { session }).await;
        });
        self.feed(Input::Connected { session, origin: Origin::Embedded });
        let hello = Hello { versions: Versions::OURS, features: 0, client_id: client_id.to_owned() };
        self.feed(Input::Frame { session, request: Request::Hello(hello), descriptor: None });
        let queue_bytes = self.options.queue_bytes;
        tokio::task::spawn_local(async move {
            let mut link = Link::Local { requests, notices };
            if let Ok((Notice::Welcome(welcome), _)) = link.next().await {
                let (core, ground, channels) = Core::new(&welcome, queue_bytes, REQUEST_DEADLINE);
                // Who has stopped waiting drops the core, which ends the session below.
                let _ = reply.send(Ok(core));
                run_session(ground, welcome, link, channels).await;
            }
        });
    }

    async fn accepted(&mut self, accepted: std::io::Result<OwnedFd>) {
        let connected = accepted.and_then(|socket| {
            let credentials = Credentials::of(socket.as_fd())?;
            Ok((credentials, Stream::new(socket)?))
        });
        match connected {
            Ok((credentials, stream)) => self.connect(credentials, stream),
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                // Out of descriptors, most likely: the client would be accepted again at once, without end.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    fn connect(&mut self, credentials: Credentials, stream: Stream) {
        let session = self.next_session();
        let Credentials { pid, uid, .. } = credentials;
        tracing::debug!(session = session.0, pid, uid, "a client connected");
        let stream = Rc::new(stream);
        let (outgoing, queued) = mpsc::channel(OUTGOING_FRAMES_MAX);
        let death = credentials.death();
        let reader =
            tokio::task::spawn_local(read_all(session, Rc::clone(&stream), death, self.events.clone()));
        let writer = tokio::task::spawn_local(write_all(stream, queued));
        let remote = Some(Remote { credentials, reader, writer });
        self.connections.insert(session, Connection { outgoing, remote });
        self.feed(Input::Connected { session, origin: Origin::Remote });
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Frame { session, request, descriptor } => {
                if let Request::Hello(hello) = &request {
                    self.bury_the_dead(&hello.client_id);
                }
                match self.vouch(&request, descriptor.as_ref()) {
                    Ok(()) => self.feed(Input::Frame { session, request, descriptor }),
                    Err(reason) => self.feed(Input::Faulty { session, reason }),
                }
            }
            Event::Faulty { session, reason } => self.feed(Input::Faulty { session, reason }),
            Event::Ended { session } => {
                self.feed(Input::Ended { session });
                self.connections.remove(&session);
            }
        }
    }

    /// A process that was killed and started again may say hello before the end of its first session was noticed.
    fn bury_the_dead(&mut self, client_id: &str) {
        let holder = self.machine.holder_of(client_id);
        let dead = holder.filter(|session| {
            let remote = self.connections.get(session).and_then(|connection| connection.remote.as_ref());
            remote.is_some_and(|remote| remote.credentials.is_dead())
        });
        if let Some(session) = dead {
            self.feed(Input::Ended { session });
            self.connections.remove(&session);
        }
    }

    /// Asks the kernel about a segment before it is handed on.
    fn vouch(&self, request: &Request, descriptor: Option<&OwnedFd>) -> Result<(), GoodbyeReason> {
        let checked = match (request, descriptor) {
            (Request::ProducerSegment { .. }, Some(segment)) => {
                shm::check_producer_segment(segment.as_fd(), self.options.ring_bytes)
            }
            (Request::ConsumerSegment { .. }, Some(segment)) => shm::check_consumer_segment(segment.as_fd()),
            _ => Ok(()),
        };
        checked.map_err(|error| GoodbyeReason::Protocol { what: error.to_string() })
    }

    /// Gives the machine an input, and does what it says.
    fn feed(&mut self, input: Input<OwnedFd>) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for action in self.machine.handle(Instant::now(), input) {
                inputs.extend(self.perform(action));
            }
        }
    }

    /// Does one thing; what comes of it goes back into the machine.
    fn perform(&mut self, action: Action<OwnedFd>) -> Option<Input<OwnedFd>> {
        match action {
            Action::Send { session, notice, descriptor } => {
                let connection = self.connections.get(&session)?;
                match connection.outgoing.try_send((notice, descriptor)) {
                    Ok(()) => None,
                    Err(_) => {
                        let limit = u32::try_from(OUTGOING_FRAMES_MAX).expect("a small constant");
                        Some(Input::Faulty { session, reason: GoodbyeReason::TooSlow { limit } })
                    }
                }
            }
            Action::Disconnect { session } => {
                self.disconnect(session);
                None
            }
            Action::MakeDoorbell { ring } => Some(Input::Doorbell { ring, ends: doorbell(ring) }),
            Action::Report(report) => {
                log(&report);
                None
            }
        }
    }

    /// Lets the writer finish, within limits, and listens no longer.
    fn disconnect(&mut self, session: SessionId) {
        let Some(Connection { outgoing, remote: Some(remote) }) = self.connections.remove(&session) else {
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

    async fn shut_down(&mut self) {
        self.listener = None;
        let mut writers: Vec<JoinHandle<()>> = Vec::new();
        for action in self.machine.handle(Instant::now(), Input::Shutdown) {
            match action {
                Action::Disconnect { session } => {
                    if let Some(Connection { remote: Some(remote), .. }) = self.connections.remove(&session) {
                        remote.reader.abort();
                        writers.push(remote.writer);
                    }
                }
                other => drop(self.perform(other)),
            }
        }
        self.connections.clear();
        let all = async {
            for writer in &mut writers {
                // A writer that was aborted has nothing more to say.
                let _ = writer.await;
            }
        };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            tracing::warn!("some clients did not read that the broker shuts down");
        }
    }

    fn next_session(&mut self) -> SessionId {
        self.last_session += 1;
        SessionId(self.last_session)
    }
}

/// Reads one client's messages until it, or its process, ends.
async fn read_all(
    session: SessionId,
    stream: Rc<Stream>,
    death: impl Future<Output = ()>,
    events: mpsc::Sender<Event>,
) {
    let mut reader = MessageReader::new();
    // The socket may live on in a child that the process left behind.
    let mut death = std::pin::pin!(death);
    loop {
        let event = tokio::select! {
            message = reader.next::<Request>(&stream) => match message {
                Ok((request, descriptor)) => Event::Frame { session, request, descriptor },
                Err(LinkError::Closed | LinkError::Host(_)) => Event::Ended { session },
                Err(error) => {
                    let reason = GoodbyeReason::Protocol { what: error.to_string() };
                    Event::Faulty { session, reason }
                }
            },
            () = &mut death => Event::Ended { session },
        };
        let last = !matches!(event, Event::Frame { .. });
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

/// Writes what is queued for one client.
async fn write_all(stream: Rc<Stream>, mut queued: mpsc::Receiver<(Notice, Option<OwnedFd>)>) {
    while let Some((notice, descriptor)) = queued.recv().await {
        if write(&stream, &notice, descriptor.as_ref()).await.is_err() {
            // The reader sees the end of the connection, and says so.
            return;
        }
    }
}

/// Both ends of a ring's doorbell; `None` when descriptors are short.
fn doorbell(ring: RingId) -> Option<(OwnedFd, OwnedFd)> {
    match Doorbell::pair() {
        Ok((producer_end, consumer_end)) => Some((producer_end.into(), consumer_end.into())),
        Err(error) => {
            tracing::error!(ring = ring.0, %error, "no doorbell");
            None
        }
    }
}

fn log(report: &Report) {
    match report {
        Report::Joined { component } => tracing::info!(%component, "joined"),
        Report::Left { component, reason: None } => tracing::info!(%component, "left"),
        Report::Left { component, reason: Some(reason) } => {
            tracing::warn!(%component, %reason, "was sent away");
        }
        Report::Refused { who, what } => tracing::warn!(who, what, "refused"),
        Report::Poisoned { culprit, by, violation } => {
            tracing::error!(%culprit, %by, violation, "a ring was broken");
        }
    }
}
