//! From a path to a session.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::pace::ReturnPace;
use super::publisher::deadline_of;
use super::session::Home;
use super::sharing::{self, Answer, Joined, Seat, SessionTerm};
use super::{ClientSettings, Core, session};
use crate::access::Component;
use crate::config;
use crate::dataplane::WaitPolicy;
use crate::identity::{self, LaunchToken, Proofs};
use crate::instance::Instance;
use crate::link::{Link, LinkError};
use crate::sys::{self, PATH_BYTES_MAX, Secret, Socket, SocketEnd, Stream};
use crate::wire::{Credential, GoodbyeReason, Hello, Life, Notice, Refusal, Request, Versions, Welcome};

/// How to reach a broker, and as whom.
///
/// ```
/// use daemoneye_eventbus::ConnectOptions;
///
/// let options = ConnectOptions::new("procmond").path("/run/daemoneye/bus.sock");
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub(super) client_id: String,
    pub(super) path: PathBuf,
    /// In place of the path. Whoever connects first takes it.
    pub(super) inherited: Option<Arc<Mutex<Option<SocketEnd>>>>,
    pub(super) queue_bytes: usize,
    pub(super) outbox_bytes: usize,
    pub(super) wait_policy: WaitPolicy,
    pub(super) deadline: Duration,
    pub(super) expected_broker_uid: Option<u32>,
    pub(super) token: Option<Arc<LaunchToken>>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) comes_back: bool,
    pub(super) return_pace: ReturnPace,
    pub(super) shares_session: bool,
}

impl ConnectOptions {
    /// A client with this id, at the default socket, `/tmp/daemoneye.sock`. The id is the component's name, or begins with it
    /// and a `-`: `procmond-7f3a` registers as `procmond`.
    #[must_use]
    pub fn new(client_id: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            path: PathBuf::from(config::SOCKET_PATH),
            inherited: None,
            queue_bytes: config::QUEUE_BYTES,
            outbox_bytes: config::OUTBOX_BYTES,
            wait_policy: WaitPolicy::default(),
            deadline: config::REQUEST_DEADLINE,
            expected_broker_uid: None,
            token: None,
            key_file: None,
            comes_back: true,
            return_pace: ReturnPace::default(),
            shares_session: true,
        }
    }

    /// A client with this id over the connection that this process was started with: see
    /// [`DaemoneyeBroker::socket_pair`](crate::DaemoneyeBroker::socket_pair). It can be used once, by these options and all clones of
    /// them together; and since there is no path, it can't be made anew when the session is over.
    #[must_use]
    pub fn from_descriptor(client_id: &str, end: impl Into<SocketEnd>) -> Self {
        let inherited = Some(Arc::new(Mutex::new(Some(end.into()))));
        Self { path: PathBuf::from("an inherited descriptor"), inherited, ..Self::new(client_id) }
    }

    /// The broker's socket.
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self.inherited = None;
        self
    }

    /// The socket of a named instance: `/tmp/daemoneye-{instance}.sock`.
    #[must_use]
    pub fn instance(self, instance: &Instance) -> Self {
        self.path(instance.socket_path())
    }

    /// Bytes that may wait for one subscription of this client, 16 MiB at first. What comes beyond them is lost to that
    /// subscription, and counted.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// How this process waits for events.
    #[must_use]
    pub fn wait_policy(mut self, policy: WaitPolicy) -> Self {
        self.wait_policy = policy;
        self
    }

    /// How long to wait for the broker's answer: to connecting and the hello, and later to each request. 5 s at first.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    const fn settings(&self) -> ClientSettings {
        let Self { queue_bytes, outbox_bytes, wait_policy, deadline, .. } = *self;
        ClientSettings { queue_bytes, outbox_bytes, wait_policy, deadline }
    }

    /// The launch token that proves who this is. Over a connection that was inherited nothing has to be proven.
    #[must_use]
    pub fn token(mut self, token: LaunchToken) -> Self {
        self.token = Some(Arc::new(token));
        self
    }

    /// The broker's key file, which is beside its socket at first, with `.key` added to the name. Not used with a launch token, or a connection
    /// that was inherited.
    #[must_use]
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key_file = Some(path.into());
        self
    }

    /// What is kept of what this session's publishers publish while there is no broker: so many bytes in all, 64 being added for each
    /// record; 4 MiB at first, 0 for nothing. What does not fit is lost, and those who come are told how much. What a subscriber hears that is
    /// still there takes half of it at most; he does not hear it again.
    ///
    /// It is kept until the client has found a broker, and then for 30 seconds more, for those who subscribe with that one. The first who do so get
    /// all that was kept of their topics, in order, before anything newer. Control messages are not kept: one that is hours old is worse than
    /// none. Nothing is kept by a client that does not [come back](Self::comes_back), and it goes with its [`Publisher`](crate::Publisher).
    #[must_use]
    pub fn outbox_bytes(mut self, bytes: usize) -> Self {
        self.outbox_bytes = bytes;
        self
    }

    /// Whether the client comes back by itself when its broker is gone, as it does at first: see [`Connection`](crate::Connection). Over a
    /// connection that was inherited it can't.
    #[must_use]
    pub fn comes_back(mut self, comes_back: bool) -> Self {
        self.comes_back = comes_back;
        self
    }

    /// How fast it does so, and when it gives up.
    #[must_use]
    pub fn return_pace(mut self, pace: ReturnPace) -> Self {
        self.return_pace = pace;
        self
    }

    /// Whether this client shares one session with all clients of this process that are the same component at the same endpoint, as it
    /// does at first. However many they are, they have one socket, one control and one data thread, and one ring for each
    /// [`Publisher`](crate::Publisher) and peer; what a session may have they have together (64 publishers, say). An endpoint is where the
    /// path leads to, links followed; the component is what the id [stands for](crate::Component::from_client_id).
    ///
    /// Who shares a session wants the same of it: deadline, wait policy, whether and how fast it comes back, its outbox, the broker's user, launch token and key
    /// file; else it is told what differs ([`ConnectError::OtherTerms`]). What may wait for a subscription is each client's own.
    /// [`connection`](crate::EventBusClient::connection), [`disconnected`](crate::EventBusClient::disconnected) and
    /// [`statistics`](crate::EventBusClient::statistics) are the session's. One that is over is joined by nobody; one that looks for its broker is,
    /// and what the newcomer asks for waits as what others do. There is no wall within a process: whoever can connect from it is taken for
    /// whoever has connected.
    ///
    /// `false` is a session of its own, which nobody joins: for who wants to be told that its name is taken
    /// ([`Refusal::NameTaken`](crate::Refusal::NameTaken)), or takes it over from its own earlier session with a launch token. Over
    /// a connection that was inherited it is always so.
    ///
    /// ```
    /// use daemoneye_eventbus::{ConnectError, ConnectOptions, EventBusClient, Refusal, SessionTerm};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::DaemoneyeBroker;
    /// # let broker = DaemoneyeBroker::new(path.to_str().expect("a path of UTF-8")).await?;
    /// # broker.start().await?;
    /// let procmond = || ConnectOptions::new("procmond").path(&path);
    /// let scanner = EventBusClient::connect(procmond()).await?;
    /// let control = EventBusClient::connect(procmond()).await?;
    /// assert_eq!(broker.members().await.len(), 1);
    ///
    /// let hasty = EventBusClient::connect(procmond().deadline(Duration::from_secs(1))).await;
    /// assert!(matches!(hasty, Err(ConnectError::OtherTerms { term: SessionTerm::Deadline, .. })));
    /// let apart = EventBusClient::connect(procmond().shares_session(false)).await;
    /// assert!(matches!(apart, Err(ConnectError::Refused(Refusal::NameTaken { .. }))));
    /// # drop((scanner, control));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn shares_session(mut self, shares: bool) -> Self {
        self.shares_session = shares;
        self
    }

    /// The user that the broker runs as. At first: root, or the user of this process, since both can do to this process
    /// what they like anyway. A broker of any other is not talked to: the kernel says whose it is before a byte is sent. So where the
    /// agent is an ordinary user, and this process is root or a third, it has to be said here.
    #[must_use]
    pub fn expected_broker_uid(mut self, uid: u32) -> Self {
        self.expected_broker_uid = Some(uid);
        self
    }
}

/// Why there is no session.
///
/// ```
/// use daemoneye_eventbus::{ConnectError, ConnectOptions, EventBusClient, Refusal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// let options = ConnectOptions::new("agent").path(&path);
/// let refused = EventBusClient::connect(options.clone()).await.expect_err("the broker's process has that name");
/// assert!(matches!(refused, ConnectError::Refused(Refusal::NameTaken { .. })));
///
/// bus.broker().shutdown().await?;
/// let error = EventBusClient::connect(options).await.expect_err("nobody listens any more");
/// assert!(matches!(error, ConnectError::NoBroker { .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens at the path, or not for this user.
    #[error("no broker can be reached at {path}: {source}")]
    NoBroker {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What listens at the path runs as another user than the broker should.
    #[error(
        "the broker at {path} runs as uid {uid}, which is not trusted: it should be {}",
        either(expected)
    )]
    ForeignBroker {
        /// The path.
        path: PathBuf,
        /// The uid that the kernel names.
        uid: u32,
        /// Whom this client would trust.
        expected: Vec<u32>,
    },
    /// The caller's: the path does not fit into a socket address.
    #[error("the socket path has {bytes} bytes, at most {limit} are possible: {path}")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The longest that is possible.
        limit: usize,
    },
    /// The broker's key file can't be used: it is not the broker's, say.
    #[error("the key file {path} can't be used: {source}")]
    KeyFile {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// What listens at the path does not know the key, or the launch token, and welcomes this client all the same: it is not the broker. (A broker that was
    /// started anew meanwhile has another key, and [refuses](Refusal::Unproven).)
    #[error("what listens at {path} has not proven that it is the broker")]
    UnprovenBroker {
        /// The path.
        path: PathBuf,
    },
    /// The caller's: what [`ConnectOptions::from_descriptor`] was given has been used by an earlier attempt.
    #[error("the inherited connection was used before")]
    DescriptorUsed,
    /// The caller's: another client of this process has a session there as this component, and wants something else of it. See
    /// [`ConnectOptions::shares_session`].
    #[error("this process has a session at {path} as {component}, with another {term}")]
    OtherTerms {
        /// The path.
        path: PathBuf,
        /// The component that both are.
        component: Component,
        /// What differs.
        term: SessionTerm,
    },
    /// The broker does not let this client in.
    #[error("the broker refused: {0}")]
    Refused(#[from] Refusal),
    /// The broker ended the session before it began.
    #[error("the broker ended the session: {0}")]
    Dismissed(#[from] GoodbyeReason),
    /// There was no answer in time.
    #[error("the broker at {path} did not answer within {deadline:?}")]
    Timeout {
        /// The path.
        path: PathBuf,
        /// What was waited for.
        deadline: Duration,
    },
    /// What is at the other end does not speak the protocol, or hung up.
    #[error("the broker at {path} did not follow the protocol: {what}")]
    Protocol {
        /// The path.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
    /// This process can't have what a client needs.
    #[error("no thread or runtime for a client: {0}")]
    Host(io::Error),
}

impl ConnectError {
    /// The same once more: all who wait for a session are told.
    pub(super) fn copy(&self) -> Self {
        let again = |error: &io::Error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        match self {
            Self::NoBroker { path, source } => Self::NoBroker { path: path.clone(), source: again(source) },
            Self::ForeignBroker { path, uid, expected } => {
                Self::ForeignBroker { path: path.clone(), uid: *uid, expected: expected.clone() }
            }
            Self::PathTooLong { path, bytes, limit } => {
                Self::PathTooLong { path: path.clone(), bytes: *bytes, limit: *limit }
            }
            Self::KeyFile { path, source } => Self::KeyFile { path: path.clone(), source: again(source) },
            Self::UnprovenBroker { path } => Self::UnprovenBroker { path: path.clone() },
            Self::DescriptorUsed => Self::DescriptorUsed,
            Self::OtherTerms { path, component, term } => {
                Self::OtherTerms { path: path.clone(), component: component.clone(), term: *term }
            }
            Self::Refused(refusal) => Self::Refused(refusal.clone()),
            Self::Dismissed(reason) => Self::Dismissed(reason.clone()),
            Self::Timeout { path, deadline } => Self::Timeout { path: path.clone(), deadline: *deadline },
            Self::Protocol { path, what } => Self::Protocol { path: path.clone(), what: what.clone() },
            Self::Host(source) => Self::Host(again(source)),
        }
    }
}

/// Joins a session of this process, or begins one.
pub(super) async fn connect(options: ConnectOptions) -> Answer {
    let answer = match sharing::join(&options).transpose()? {
        Some(Joined::Now(core)) => return Ok(core),
        Some(Joined::Later(answer)) => answer,
        Some(Joined::Begin(seat, answer)) => {
            match reach_at_once(&options) {
                Ok(socket) => start(move || live_together(options, socket, seat))?,
                Err(error) => seat.answer(&options.path, Err(error)),
            }
            answer
        }
        None => {
            let socket = reach_at_once(&options)?;
            let (reply, answer) = oneshot::channel();
            // Who has stopped waiting drops the core, which ends the session.
            start(move || live(options, socket, None, |answer| drop(reply.send(answer))))?;
            answer
        }
    };
    answer.await.unwrap_or_else(|_| Err(ConnectError::Host(io::Error::other("the control thread is gone"))))
}

/// Starts a client's control thread.
fn start(life: impl FnOnce() + Send + 'static) -> Result<(), ConnectError> {
    let started = std::thread::Builder::new().name("eventbus-client".into()).spawn(life);
    started.map(drop).map_err(ConnectError::Host)
}

/// The life of the control thread of a session that others may join: of one after the other, as long as somebody waits for the next.
fn live_together(options: ConnectOptions, mut socket: Option<Socket>, seat: Seat) {
    let seat = Arc::new(seat);
    let mut next = Some(options);
    while let Some(options) = next {
        let path = options.path.clone();
        live(options, socket.take(), Some(&seat), |answer| seat.answer(&path, answer));
        next = seat.leave();
    }
}

/// One session, from the hello to its end.
fn live(
    options: ConnectOptions,
    socket: Option<Socket>,
    seat: Option<&Arc<Seat>>,
    reply: impl FnOnce(Answer),
) {
    let mut client = [0; 8];
    let runtime = sys::randomize(&mut client)
        .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return reply(Err(ConnectError::Host(error))),
    };
    let life = Life { client: u64::from_le_bytes(client), before: 0 };
    runtime.block_on(async {
        let (link, welcome) = match introduce(&options, socket, life).await {
            Ok(found) => found,
            Err(error) => return reply(Err(error)),
        };
        if welcome.backing == shm::Backing::Named {
            shm::collect_abandoned();
        }
        let (core, ground, channels) = Core::new(&welcome, options.settings());
        reply(Ok(core));
        // A connection that was inherited can't be made anew.
        let comes_back = options.comes_back && options.inherited.is_none();
        let home = comes_back.then(|| Home::new(options, seat.cloned(), life));
        // On the heap: the stack of a new thread has few pages that are there already, and the hello has no use for more.
        Box::pin(session::run(ground, welcome, link, channels, home)).await;
    });
}

/// Connects, if nobody has, checks who listens, and says hello.
pub(super) async fn introduce(
    options: &ConnectOptions,
    socket: Option<Socket>,
    life: Life,
) -> Result<(Link, Welcome), ConnectError> {
    let path = &options.path;
    let deadline = deadline_of(options.deadline);
    let no_broker = |source| ConnectError::NoBroker { path: path.clone(), source };
    // First of all, so that nothing a stranger may have sent by now keeps us when we turn away.
    let socket = socket.map_or_else(|| reach(options, deadline), Ok)?;
    let stream = Stream::new(socket).map_err(no_broker)?;
    let broker = sys::uid_of_peer(&stream).map_err(no_broker)?;
    check_broker(options, broker)?;
    let known = Known::of(options, broker)?;
    let mut link = Link::over(stream);
    let welcome = tokio::time::timeout_at(deadline.into(), greet(&mut link, options, &known, life)).await;
    let welcome = welcome.map_err(|_| too_late(options))??;
    let protocol = |what: String| ConnectError::Protocol { path: path.clone(), what };
    Ok((link, checked(welcome).map_err(protocol)?))
}

/// What a client can prove that it knows.
enum Known {
    Nothing,
    Key(Secret),
    Token(Arc<LaunchToken>),
}

impl Known {
    fn of(options: &ConnectOptions, broker: u32) -> Result<Self, ConnectError> {
        if options.inherited.is_some() {
            // It was made for this process.
            return Ok(Self::Nothing);
        }
        if let Some(token) = &options.token {
            return Ok(Self::Token(Arc::clone(token)));
        }
        let path = options.key_file.clone().unwrap_or_else(|| sys::key_path(&options.path));
        match sys::read_file(&path, broker) {
            Ok(key) => Ok(Self::Key(key)),
            // The broker says whether it wants any.
            Err(error)
                if options.key_file.is_none()
                    && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                Ok(Self::Nothing)
            }
            Err(source) => Err(ConnectError::KeyFile { path, source }),
        }
    }

    fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Nothing => None,
            Self::Key(key) => Some(key),
            Self::Token(token) => Some(&token.secret),
        }
    }

    fn credential(&self) -> Credential {
        match self {
            Self::Nothing => Credential::Nothing,
            Self::Key(_) => Credential::Key,
            Self::Token(token) => Credential::Token(token.id),
        }
    }
}

/// Is greeted, says hello, and proves what can be proven. Who can prove something is not welcomed by a broker that can't.
async fn greet(
    link: &mut Link,
    options: &ConnectOptions,
    known: &Known,
    life: Life,
) -> Result<Welcome, ConnectError> {
    let protocol = |what: String| ConnectError::Protocol { path: options.path.clone(), what };
    let broken = |error: LinkError| protocol(error.to_string());
    let nonce = match link.next_soon().await.map_err(broken)?.0 {
        Notice::Greeting { nonce } => nonce,
        other => return Err(refused(other, protocol)),
    };
    let mut hello = Hello {
        versions: Versions::OURS,
        features: 0,
        client_id: options.client_id.clone(),
        nonce: identity::nonce().map_err(ConnectError::Host)?,
        credential: known.credential(),
        life,
        proof: None,
    };
    let proofs = known.secret().map(|secret| Proofs::new(secret, &hello, &nonce)).transpose();
    let proofs = proofs.map_err(ConnectError::Host)?;
    hello.proof = proofs.as_ref().map(|proofs| proofs.of_client);
    match link.send(Request::Hello(Box::new(hello)), None).await {
        // It may have said why before it hung up.
        Ok(()) | Err(LinkError::Closed) => {}
        Err(error) => return Err(broken(error)),
    }
    let welcome = match link.next_soon().await.map_err(broken)?.0 {
        Notice::Welcome(welcome) => welcome,
        other => return Err(refused(other, protocol)),
    };
    match (proofs, welcome.proof) {
        (None, _) => Ok(welcome),
        (Some(_), None) => Err(protocol("it has proven nothing, and welcomes all the same".into())),
        (Some(proofs), Some(proof)) if proof == proofs.of_broker => Ok(welcome),
        (Some(_), Some(_)) => Err(ConnectError::UnprovenBroker { path: options.path.clone() }),
    }
}

/// What an answer says that is not the one hoped for.
fn refused(answer: Notice, protocol: impl FnOnce(String) -> ConnectError) -> ConnectError {
    match answer {
        Notice::Refused { refusal, .. } => refusal.into(),
        Notice::Goodbye { reason } => reason.into(),
        _ => protocol("it does not say what it should to a newcomer".into()),
    }
}

/// A connection, of which it is not known yet who is at its other end; `None`: it takes a wait. The broker is woken by it, and so greets while the
/// control thread is started.
fn reach_at_once(options: &ConnectOptions) -> Result<Option<Socket>, ConnectError> {
    if let Some(inherited) = &options.inherited {
        return inherited.lock().take().map(Socket::from).map(Some).ok_or(ConnectError::DescriptorUsed);
    }
    let path = &options.path;
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        return Err(ConnectError::PathTooLong { path: path.clone(), bytes, limit: PATH_BYTES_MAX });
    }
    sys::connect_at_once(path).map_err(|source| ConnectError::NoBroker { path: path.clone(), source })
}

/// The same, with the wait.
fn reach(options: &ConnectOptions, deadline: Instant) -> Result<Socket, ConnectError> {
    if let Some(socket) = reach_at_once(options)? {
        return Ok(socket);
    }
    let path = &options.path;
    sys::connect(path, deadline).map_err(|source| match source.kind() {
        io::ErrorKind::TimedOut => too_late(options),
        _ => ConnectError::NoBroker { path: path.clone(), source },
    })
}

fn too_late(options: &ConnectOptions) -> ConnectError {
    ConnectError::Timeout { path: options.path.clone(), deadline: options.deadline }
}

/// A welcome that makes sense: nothing of it is looked at again.
fn checked(welcome: Welcome) -> Result<Welcome, String> {
    let (version, ours) = (welcome.version, Versions::OURS);
    if !(ours.oldest..=ours.newest).contains(&version) {
        return Err(format!("it speaks protocol version {version}, and was offered versions {ours}"));
    }
    if !config::is_ring_size(welcome.ring_bytes) {
        return Err(format!("rings of {} bytes can't be", welcome.ring_bytes));
    }
    Component::from_client_id(&welcome.component).map_err(|error| error.to_string())?;
    Ok(welcome)
}

fn check_broker(options: &ConnectOptions, uid: u32) -> Result<(), ConnectError> {
    let expected = match options.expected_broker_uid {
        Some(expected) => vec![expected],
        None => vec![0, sys::own_uid()],
    };
    if expected.contains(&uid) {
        return Ok(());
    }
    Err(ConnectError::ForeignBroker { path: options.path.clone(), uid, expected })
}

fn either(uids: &[u32]) -> String {
    let uids: BTreeSet<String> = uids.iter().map(u32::to_string).collect();
    uids.into_iter().collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_may_be_later_than_clocks_can_tell() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("bus.sock");
        let refused = connect(ConnectOptions::new("procmond").path(&path).deadline(Duration::MAX)).await;
        assert!(matches!(refused, Err(ConnectError::NoBroker { .. })), "{:?}", refused.err());
    }

    #[tokio::test]
    async fn where_there_is_no_room_in_the_queue_the_callers_executor_goes_on() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("bus.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a free path");
        rustix::net::listen(&listener, 0).expect("it is a socket");
        let mut waiting = Vec::new();
        while let Some(socket) = sys::connect_at_once(&path).expect("it listens") {
            waiting.push(socket);
        }
        let deadline = Duration::from_millis(500);
        let mut connecting =
            std::pin::pin!(connect(ConnectOptions::new("procmond").path(&path).deadline(deadline)));
        let since = Instant::now();
        tokio::select! {
            biased;
            connected = &mut connecting => panic!("nobody accepts: {:?}", connected.err()),
            () = std::future::ready(()) => {}
        }
        assert!(since.elapsed() < deadline / 2, "it was held up for {:?}", since.elapsed());
        assert!(matches!(connecting.await, Err(ConnectError::Timeout { .. })));
    }

    /// The broker asks for nothing there, and who can prove something takes no welcome without.
    #[tokio::test]
    async fn over_a_connection_that_was_inherited_no_token_is_offered() {
        let (_broker, end) = sys::pair().expect("descriptors");
        let token = LaunchToken::new().expect("randomness");
        let options = ConnectOptions::from_descriptor("procmond", end).token(token);
        let known = Known::of(&options, sys::own_uid()).expect("nothing is read");
        assert_eq!(known.credential(), Credential::Nothing);
    }
}
