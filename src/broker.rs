//! The embedded broker: a handle, and a thread with the one loop that owns all state.

mod poisonings;
mod serve;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use shm::Backing;
use tokio::sync::{mpsc, oneshot};

use crate::access::{AccessPolicy, Component};
use crate::client::Core;
use crate::config;
use crate::sys::ListenError;

pub use poisonings::Poisoning;

/// How a broker is run.
///
/// ```
/// use daemoneye_eventbus::BrokerOptions;
///
/// // Collectors of group `daemoneye` may connect; the folder decides who gets that far.
/// let options = BrokerOptions::new("/run/daemoneye/bus.sock").socket_mode(0o660);
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    path: PathBuf,
    socket_mode: u32,
    ring_bytes: usize,
    backing: Backing,
    queue_bytes: usize,
    route_deadline: Duration,
    policy: AccessPolicy,
}

impl BrokerOptions {
    /// A broker that listens at `path`, with the default limits.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            socket_mode: config::SOCKET_MODE,
            ring_bytes: config::RING_BYTES,
            backing: Backing::default(),
            queue_bytes: config::QUEUE_BYTES,
            route_deadline: config::ROUTE_DEADLINE,
            policy: AccessPolicy::default(),
        }
    }

    /// The mode of the socket's file, 0600 at first: who may write to it may connect.
    #[must_use]
    pub fn socket_mode(mut self, mode: u32) -> Self {
        self.socket_mode = mode;
        self
    }

    /// Data bytes of each ring: a power of two from 64 KiB to 1 GiB, 8 MiB at first. A record is at most an eighth of it.
    #[must_use]
    pub fn ring_bytes(mut self, bytes: usize) -> Self {
        self.ring_bytes = bytes;
        self
    }

    /// What rings are made of: sealed memory at first, on Linux; names elsewhere. With names all processes on the bus that
    /// share a ring must be of one user: one of another user is sent away, and told so. [`Backing`] says what else is weaker.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Bytes that may wait for one subscription in the broker's process, 16 MiB at first. What comes beyond them is lost to that
    /// subscription, and counted.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// How long a client may take to install a route, 500 ms at first. Beyond it, its session ends.
    #[must_use]
    pub fn route_deadline(mut self, deadline: Duration) -> Self {
        self.route_deadline = deadline;
        self
    }

    /// Who may publish and subscribe to what; at first the table of `docs/topic-hierarchy.md`.
    #[must_use]
    pub fn policy(mut self, policy: AccessPolicy) -> Self {
        self.policy = policy;
        self
    }
}

/// Why a broker does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// It can't listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The caller's: no ring can have this size.
    #[error("a ring holds a power of two of bytes from 64 KiB to 1 GiB, not {0}")]
    RingBytes(usize),
    /// This process can't have what a broker needs.
    #[error("no thread or runtime for the broker: {0}")]
    Host(#[from] io::Error),
    /// It was shut down.
    #[error("the broker was shut down")]
    Shutdown,
}

/// What the handle asks of the loop.
#[derive(Debug)]
pub(crate) enum Command {
    /// Listen, unless that is done already.
    Start {
        reply: oneshot::Sender<Result<(), StartError>>,
    },
    /// Make a client in this process.
    Embed {
        client_id: String,
        reply: oneshot::Sender<Result<Arc<Core>, StartError>>,
    },
    Components {
        reply: oneshot::Sender<Vec<Component>>,
    },
    Poisonings {
        reply: oneshot::Sender<Vec<Poisoning>>,
    },
    /// Ends the loop, and answers when all is put away.
    Shutdown {
        reply: Option<oneshot::Sender<()>>,
    },
}

/// A broker within this process. Its loop runs on a thread of its own, so that a busy application keeps nobody waiting.
///
/// Dropped, it shuts down: clients are told, and the socket is removed. The drop blocks until its thread has ended, which takes up
/// to about a second if a client is slow to read its goodbye; after [`shutdown`](Self::shutdown) next to nothing is left to wait for.
///
/// ```
/// use daemoneye_eventbus::{Component, ConnectOptions, DaemoneyeBroker, EventBusClient};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// let broker = DaemoneyeBroker::new(path.to_str().expect("a path of UTF-8")).await?;
/// broker.start().await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(broker.path())).await?;
/// assert_eq!(broker.components().await, [Component::from_client_id("procmond")?]);
///
/// broker.shutdown().await;
/// procmond.disconnected().await;
/// assert!(!path.exists(), "the socket is removed");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DaemoneyeBroker {
    commands: mpsc::UnboundedSender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    path: PathBuf,
}

impl DaemoneyeBroker {
    /// Makes a broker for the socket at `path`. It listens once it is [started](Self::start). Cancel-safe: it waits for nothing.
    ///
    /// # Errors
    /// [`StartError`] if this process can't have the thread.
    #[expect(clippy::unused_async, reason = "the founding README awaits it")]
    pub async fn new(path: &str) -> Result<Self, StartError> {
        Self::with_options(BrokerOptions::new(path))
    }

    /// Makes a broker. It listens once it is [started](Self::start).
    ///
    /// # Errors
    /// [`StartError`] if this process can't have the thread, or the options can't be met.
    pub fn with_options(options: BrokerOptions) -> Result<Self, StartError> {
        let range = shm::layout::CAPACITY_MIN..=shm::layout::CAPACITY_MAX;
        if !options.ring_bytes.is_power_of_two() || !range.contains(&options.ring_bytes) {
            return Err(StartError::RingBytes(options.ring_bytes));
        }
        let path = options.path.clone();
        let (commands, commands_end) = mpsc::unbounded_channel();
        let (built, runtime) = std::sync::mpsc::channel();
        // The runtime is made on the thread that it is for: without the thread it would be dropped here, which panics where
        // the caller is asynchronous.
        let control = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                // The caller waits.
                let _ = built.send(Ok(()));
                tokio::task::LocalSet::new().block_on(&runtime, serve::run(options, commands_end));
            }
            Err(error) => drop(built.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("eventbus-broker".into()).spawn(control)?;
        runtime.recv().unwrap_or_else(|_| Err(io::Error::other("the broker's thread is gone")))?;
        Ok(Self { commands, thread: Mutex::new(Some(thread)), path })
    }

    /// Starts to listen. Done twice it does nothing the second time. Cancel-safe.
    ///
    /// # Errors
    /// [`StartError::Listen`] if the socket can't be had: another broker is live there, say.
    pub async fn start(&self) -> Result<(), StartError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Start { reply });
        answer.await.unwrap_or(Err(StartError::Shutdown))
    }

    /// Ends all sessions, tells clients so, and removes the socket. Done twice it does nothing the second time. Cancel-safe: given
    /// up midway, it goes on.
    pub async fn shutdown(&self) {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Shutdown { reply: Some(reply) });
        // Nobody answers if it is down already.
        let _ = answer.await;
    }

    /// The components that are connected now, in no order; none once the broker was shut down. Cancel-safe: it only asks.
    pub async fn components(&self) -> Vec<Component> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Components { reply });
        answer.await.unwrap_or_default()
    }

    /// Which components were said to have broken a ring, and how often; none once the broker was shut down. Cancel-safe: it only
    /// asks.
    pub async fn poisonings(&self) -> Vec<Poisoning> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Poisonings { reply });
        answer.await.unwrap_or_default()
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Makes a client in this process.
    pub(crate) async fn embed(&self, client_id: &str) -> Result<Arc<Core>, StartError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Embed { client_id: client_id.to_owned(), reply });
        answer.await.unwrap_or(Err(StartError::Shutdown))
    }

    fn tell(&self, command: Command) {
        // The loop is gone once it was shut down; then the answer fails.
        let _ = self.commands.send(command);
    }
}

impl Drop for DaemoneyeBroker {
    fn drop(&mut self) {
        self.tell(Command::Shutdown { reply: None });
        if let Some(thread) = self.thread.lock().take() {
            // A panic there is a bug of ours that has been printed already.
            let _ = thread.join();
        }
    }
}
