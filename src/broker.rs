//! The embedded broker: a handle, and a thread with the one loop that owns all state.

mod attention;
mod audit;
mod doorkeeper;
mod membership;
mod outgoing;
mod pairs;
mod poisonings;
mod raw;
mod serve;
mod shares;
mod statistics;
mod turnover;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use shm::Backing;
use tokio::sync::broadcast::WeakSender;
use tokio::sync::{mpsc, oneshot};

use crate::access::{AccessPolicy, Component};
use crate::client::{Core, Named};
use crate::config;
use crate::control::{AGENT, Member, PolicyChange, RingCharge};
use crate::dataplane::WaitPolicy;
use crate::error;
pub(crate) use crate::error::StartError;
use crate::identity::LaunchToken;
use crate::instance::Instance;
use crate::statistics::{BrokerStatistics, EventBusStatistics};
use crate::sys::{Access, SocketEnd, SocketGroup};
use crate::wire::Resource;
use shares::Shares;

use doorkeeper::Doorkeeper;
use membership::Roll;

pub use audit::RefusalCount;
pub use doorkeeper::TokenTerms;
pub use membership::{Departure, Membership, MembershipChange, Missed, Presence};
pub use poisonings::Poisoning;

/// How a broker is run.
///
/// ```
/// use daemoneye_eventbus::BrokerOptions;
///
/// // Collectors of group `daemoneye` may connect.
/// let options = BrokerOptions::new("/run/daemoneye/bus.sock").socket_group("daemoneye").socket_mode(0o660);
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    path: PathBuf,
    socket_access: Access,
    ring_bytes: usize,
    shares: Shares,
    backing: Backing,
    relays_all: bool,
    queue_bytes: usize,
    wait_policy: WaitPolicy,
    route_deadline: Duration,
    policy: AccessPolicy,
    strict: bool,
}

impl BrokerOptions {
    /// A broker that listens at `path`, with the default limits.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            socket_access: Access { mode: config::SOCKET_MODE, group: None },
            ring_bytes: config::RING_BYTES,
            shares: Shares::default(),
            backing: Backing::default(),
            relays_all: false,
            queue_bytes: config::QUEUE_BYTES,
            wait_policy: WaitPolicy::default(),
            route_deadline: config::ROUTE_DEADLINE,
            policy: AccessPolicy::default(),
            strict: false,
        }
    }

    /// The socket of a named instance, in place of any path: `/tmp/daemoneye-{instance}.sock`. Each instance is a bus of its own.
    ///
    /// ```
    /// use daemoneye_eventbus::{BrokerOptions, ConnectOptions, Instance};
    ///
    /// let staging = Instance::new("staging")?;
    /// let options = BrokerOptions::default().instance(&staging);
    /// let procmond = ConnectOptions::new("procmond").instance(&staging);
    /// # let _ = (options, procmond);
    /// # Ok::<(), daemoneye_eventbus::InstanceError>(())
    /// ```
    #[must_use]
    pub fn instance(mut self, instance: &Instance) -> Self {
        self.path = instance.socket_path();
        self
    }

    /// The mode of the socket's file, 0600 at first: who may write to it may connect.
    #[must_use]
    pub fn socket_mode(mut self, mode: u32) -> Self {
        self.socket_access.mode = mode;
        self
    }

    /// The group of the socket's file, by number or by name; at first the one that this process makes files with. Does nothing by
    /// itself: the [mode](Self::socket_mode) says what the group may do. Who is not root can give it to a group that it is
    /// a member of. The lock file beside the socket stays its owner's alone.
    #[must_use]
    pub fn socket_group(mut self, group: impl Into<SocketGroup>) -> Self {
        self.socket_access.group = Some(group.into());
        self
    }

    /// Data bytes of each ring, unless a [subscription](crate::SubscribeOptions::ring_bytes) asks for another size: a power of two
    /// from 64 KiB to 1 GiB, 8 MiB at first. An event of up to an eighth of it, whatever rings there are, is never refused.
    #[must_use]
    pub fn ring_bytes(mut self, bytes: usize) -> Self {
        self.ring_bytes = bytes;
        self
    }

    /// Bytes that all rings may have together, 4 GiB at first: the data of each ring, and 8 KiB. A subscription, or a topic of a
    /// publisher, that would need rings beyond it is refused, with [`Refusal::RingBudget`](crate::Refusal::RingBudget), and nobody
    /// else is affected.
    #[must_use]
    pub fn ring_budget_bytes(mut self, bytes: u64) -> Self {
        self.shares.total(Resource::RingBytes, bytes);
        self
    }

    /// The share of each user in [`ring_budget_bytes`](Self::ring_budget_bytes), 2 GiB at first; a session has as much of it as it leaves to the
    /// others of its user. A ring is charged to the user of the process that subscribed, until it ends. Where a publisher comes, or declares a topic, and the share of a subscriber does not hold the
    /// ring between them, it is that subscriber's session that ends: else it would miss events and not know. The
    /// agent's own process has no share, it is limited by the whole alone, and what is charged to it is not charged to its user. Who lets
    /// users in whom it does not trust gives them less: a subscriber's ring is memory of its publisher's control group.
    #[must_use]
    pub fn ring_budget_per_uid(mut self, bytes: u64) -> Self {
        self.shares.per_uid(Resource::RingBytes, bytes);
        self
    }

    /// What one user may have of something that the broker keeps for its clients, however little the others want; but for connections, each of
    /// its sessions has as much as it leaves to the others, so half of it for the first. What would be more is refused, with [`Refusal::Share`](crate::Refusal::Share), and nobody else is affected. At first 768 connections,
    /// 576 that have not said hello, 16,384 subscriptions with 32 MiB of patterns, 32,768 topics, and 2 GiB of rings. There is twice as much of
    /// each in all; 1024 connections, and 768 that have not said hello.
    ///
    /// ```
    /// use daemoneye_eventbus::{BrokerOptions, Resource};
    ///
    /// let options = BrokerOptions::new("/run/daemoneye/bus.sock").per_uid(Resource::Connections, 32);
    /// # let _ = options;
    /// ```
    #[must_use]
    pub fn per_uid(mut self, resource: Resource, amount: u64) -> Self {
        self.shares.per_uid(resource, amount);
        self
    }

    /// Connections that are taken in all, the agent's own session among them, 1024 at first; a quarter of them are kept for [components](Self::component_uids).
    #[must_use]
    pub fn connection_limit(mut self, connections: usize) -> Self {
        self.shares.total(Resource::Connections, connections as u64);
        self
    }

    /// Users whose processes are the bus's own components, beside the broker's own user: a quarter of everything that is shared out is
    /// kept for them and the agent. Of the rest a user that is not named here has at most as much as it leaves to others, so that
    /// strangers, however many users they have, keep no component out.
    #[must_use]
    pub fn component_uids(mut self, uids: impl IntoIterator<Item = u32>) -> Self {
        self.shares.component_uids(uids);
        self
    }

    /// What rings are made of: sealed memory at first, on Linux; names elsewhere. With names all processes on the bus that
    /// share a ring must be of one user: one of another user is sent away, and told so. [`Backing`] says what else is weaker.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Has all events go over the broker and none through shared memory, as they do anyway where one of two processes can't have it: for hosts
    /// that forbid it. Slower by some ten times, and each event costs the broker time.
    #[must_use]
    pub fn without_shared_memory(mut self) -> Self {
        self.relays_all = true;
        self
    }

    /// Bytes that may wait for one subscription in the broker's process, 16 MiB at first. What comes beyond them is lost to that
    /// subscription, and counted.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// How the agent's own process waits for events.
    #[must_use]
    pub fn wait_policy(mut self, policy: WaitPolicy) -> Self {
        self.wait_policy = policy;
        self
    }

    /// How long a client may take to install a route, 500 ms at first. Beyond it, its session ends.
    #[must_use]
    pub fn route_deadline(mut self, deadline: Duration) -> Self {
        self.route_deadline = deadline;
        self
    }

    /// Gives no other process a name without a [launch token](crate::LaunchToken), or a connection that was made for it. At first the broker's
    /// key file suffices for names for which no token was issued.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Who may publish and subscribe to what; at first the table of `docs/topic-hierarchy.md`.
    #[must_use]
    pub fn policy(mut self, policy: AccessPolicy) -> Self {
        self.policy = policy;
        self
    }
}

impl Default for BrokerOptions {
    /// A broker that listens at `/tmp/daemoneye.sock`, with the default limits.
    fn default() -> Self {
        Self::new(config::SOCKET_PATH)
    }
}

/// Why another policy is not in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The broker was shut down.
    #[error("the broker was shut down")]
    Shutdown,
}

/// Whom a connection was made for.
#[derive(Debug, Clone)]
pub(crate) struct Invited {
    component: Component,
    uid: Option<u32>,
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
    Reload {
        policy: AccessPolicy,
        reply: oneshot::Sender<PolicyChange>,
    },
    /// Make a connection for a process that is yet to be started.
    Pair {
        invited: Invited,
        reply: oneshot::Sender<Result<SocketEnd, StartError>>,
    },
    Components {
        reply: oneshot::Sender<Vec<Component>>,
    },
    IssueToken {
        terms: TokenTerms,
        reply: oneshot::Sender<io::Result<LaunchToken>>,
    },
    Members {
        reply: oneshot::Sender<Vec<Member>>,
    },
    Poisonings {
        reply: oneshot::Sender<Vec<Poisoning>>,
    },
    Refusals {
        reply: oneshot::Sender<Vec<RefusalCount>>,
    },
    Statistics {
        reply: oneshot::Sender<BrokerStatistics>,
    },
    RingCharges {
        reply: oneshot::Sender<Vec<RingCharge>>,
    },
    /// Ends the loop, and answers when all is put away.
    Shutdown {
        reply: Option<oneshot::Sender<()>>,
    },
}

/// A broker within this process. Its loop runs on a thread of its own, so that a busy application keeps nobody waiting.
///
/// Dropped, it shuts down: clients are told, and the socket is removed. The drop blocks until its thread has ended, which takes up
/// to about two seconds: one if a publisher over the broker does not say that it has sent all, and one if a client is slow to read its goodbye; after [`shutdown`](Self::shutdown) next to nothing is left to wait for.
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
/// broker.shutdown().await?;
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
    changes: WeakSender<Arc<MembershipChange>>,
    /// The agent's own session, from the first use of it on.
    agent: tokio::sync::OnceCell<Arc<Core>>,
    /// Its subscriptions by an id.
    raw: Named,
}

impl DaemoneyeBroker {
    /// Makes a broker for the socket at `path`. It listens once it is [started](Self::start). Cancel-safe: it waits for nothing.
    ///
    /// # Errors
    /// [`StartError`] if this process can't have the thread.
    #[expect(clippy::unused_async, reason = "the founding README awaits it")]
    pub async fn new(path: &str) -> error::Result<Self> {
        Ok(Self::with_options(BrokerOptions::new(path))?)
    }

    /// Makes a broker. It listens once it is [started](Self::start).
    ///
    /// # Errors
    /// [`StartError`] if this process can't have the thread, or the options can't be met.
    pub fn with_options(options: BrokerOptions) -> Result<Self, StartError> {
        if !config::is_ring_size(options.ring_bytes as u64) {
            return Err(StartError::RingBytes(options.ring_bytes));
        }
        let path = options.path.clone();
        let doorkeeper = Doorkeeper::new(options.strict)?;
        let (commands, commands_end) = mpsc::unbounded_channel();
        let (roll, changes) = Roll::new();
        let (built, runtime) = std::sync::mpsc::channel();
        // The runtime is made on the thread that it is for: without the thread it would be dropped here, which panics where
        // the caller is asynchronous.
        let control = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                // The caller waits.
                let _ = built.send(Ok(()));
                tokio::task::LocalSet::new()
                    .block_on(&runtime, serve::run(options, doorkeeper, roll, commands_end));
            }
            Err(error) => drop(built.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("eventbus-broker".into()).spawn(control)?;
        runtime.recv().unwrap_or_else(|_| Err(io::Error::other("the broker's thread is gone")))?;
        let (thread, agent) = (Mutex::new(Some(thread)), tokio::sync::OnceCell::new());
        Ok(Self { commands, thread, path, changes, agent, raw: Named::default() })
    }

    /// Starts to listen. Done twice it does nothing the second time. Cancel-safe.
    ///
    /// # Errors
    /// [`StartError::Listen`] if the socket can't be had: another broker is live there, say.
    pub async fn start(&self) -> error::Result<()> {
        Ok(self.listen().await?)
    }

    async fn listen(&self) -> Result<(), StartError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Start { reply });
        answer.await.unwrap_or(Err(StartError::Shutdown))
    }

    /// Ends all sessions, tells clients so, and removes the socket. Done twice it does nothing the second time. Cancel-safe: given
    /// up midway, it goes on.
    ///
    /// # Errors
    /// None. DaemonEye expects a `Result`.
    pub async fn shutdown(&self) -> error::Result<()> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Shutdown { reply: Some(reply) });
        // Nobody answers if it is down already.
        let _ = answer.await;
        Ok(())
    }

    /// Puts another policy in force, for all that is asked from now on, and for what was granted before: what no longer holds is
    /// revoked, and a subscription that was made before gets what newly holds. Returns when each publisher has let go of what was
    /// revoked, and takes what was granted; one that does not do so within [`route_deadline`](BrokerOptions::route_deadline) loses
    /// its session.
    ///
    /// A [`Publisher`](crate::Publisher) of a topic that it may no longer publish stays, and reaches nobody. What was published before,
    /// and is still in the ring of somebody who may no longer have it, is skipped there, and counted
    /// ([`ClientStatistics::skipped_events`](crate::ClientStatistics::skipped_events)). What an application has in its queue stays there.
    ///
    /// Cancel-safe: given up midway, it goes on.
    ///
    /// # Errors
    /// [`ReloadError`] if the broker was shut down.
    ///
    /// ```
    /// use daemoneye_eventbus::{AccessPolicy, ConnectOptions, EventBusClient};
    /// # use daemoneye_eventbus::{DaemoneyeBroker, DaemoneyeEventBus};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # let bus = DaemoneyeBroker::new(path.to_str().expect("a path of UTF-8")).await?;
    /// # let bus = DaemoneyeEventBus::from_broker(bus).await?;
    /// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
    /// let _publisher = procmond.publisher("events.process.batch").await?;
    /// let _batches = bus.subscription(&["events.process.#"]).await?;
    ///
    /// let nobody = AccessPolicy::from_toml("defaults = false")?;
    /// let change = bus.broker().reload_policy(nobody).await?;
    /// assert_eq!((change.revoked, change.granted), (1, 0));
    /// assert!(procmond.publisher("events.process.start").await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn reload_policy(&self, policy: AccessPolicy) -> Result<PolicyChange, ReloadError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Reload { policy, reply });
        answer.await.map_err(|_| ReloadError::Shutdown)
    }

    /// The components that are connected now, in no order; none once the broker was shut down. Cancel-safe: it only asks.
    pub async fn components(&self) -> Vec<Component> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Components { reply });
        answer.await.unwrap_or_default()
    }

    /// Who is connected now, and how that is known, in no order; nobody once the broker was shut down. Cancel-safe: it only asks. There is an
    /// example at [`Member`].
    pub async fn members(&self) -> Vec<Member> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Members { reply });
        answer.await.unwrap_or_default()
    }

    /// Who joins and who leaves, from now on: see [`Membership`]. Ask first for it and then for [`members`](Self::members), and nobody is
    /// missed.
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership::of(&self.changes)
    }

    /// Issues a launch token for a component that is about to be started. From then on nobody has that name without one; an earlier token of
    /// the component is good no more. Cancel-safe; given up midway, a token may have been issued.
    ///
    /// # Errors
    /// [`StartError::Host`] when descriptors or random numbers are short, [`StartError::Shutdown`].
    pub async fn issue_token(&self, terms: TokenTerms) -> Result<LaunchToken, StartError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::IssueToken { terms, reply });
        Ok(answer.await.map_err(|_| StartError::Shutdown)??)
    }

    /// Which components were said to have broken a ring, and how often; none once the broker was shut down. Cancel-safe: it only
    /// asks.
    pub async fn poisonings(&self) -> Vec<Poisoning> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Poisonings { reply });
        answer.await.unwrap_or_default()
    }

    /// Who was refused something, and how often; none once the broker was shut down. Cancel-safe: it only asks. There is an example
    /// at [`RefusalCount`].
    pub async fn refusals(&self) -> Vec<RefusalCount> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Refusals { reply });
        answer.await.unwrap_or_default()
    }

    /// What the rings that there are take, by who answers for them: the agent first, then users by number; none once the broker
    /// was shut down. Cancel-safe: it only asks. There is an example at [`RingCharge`].
    pub async fn ring_charges(&self) -> Vec<RingCharge> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::RingCharges { reply });
        answer.await.unwrap_or_default()
    }

    /// What there is on the bus, and what clients say that came of their events: see [`BrokerStatistics`]. Clients are asked, and have
    /// 400 ms to answer; who asks again within 100 ms of the last answer waits for so long. `None` once the broker was shut down. Cancel-safe:
    /// it only asks.
    pub async fn broker_statistics(&self) -> Option<BrokerStatistics> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Statistics { reply });
        answer.await.ok()
    }

    /// The same in five figures; all are 0 once the broker was shut down. Cancel-safe: it only asks.
    pub async fn statistics(&self) -> EventBusStatistics {
        self.broker_statistics().await.as_ref().map(EventBusStatistics::from).unwrap_or_default()
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Makes a connection for a process that is about to be started, and yields the end that it is to have, as its standard
    /// input for instance: [`SocketEnd`] has an example. The process needs no path, and the broker need not listen.
    ///
    /// The session is that `component`'s and no other's. It is the process's that speaks first over it, as the kernel names it: its user,
    /// which has to be `uid` if that is given, and its death. (What the kernel records of the connection itself is the process that made
    /// it, the broker's own.) Until then nothing is waited for but the end of all who have that end. Whoever has it may hand
    /// it on, so a process that starts others keeps it to itself, as [`SocketEnd::take_stdin`] does.
    ///
    /// Cancel-safe: given up midway, the connection is closed.
    ///
    /// # Errors
    /// [`StartError`]: descriptors are short, 64 such processes have not spoken yet, or the broker was shut down.
    pub async fn socket_pair(
        &self,
        component: &Component,
        uid: Option<u32>,
    ) -> Result<SocketEnd, StartError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Pair { invited: Invited { component: component.clone(), uid }, reply });
        answer.await.unwrap_or(Err(StartError::Shutdown))
    }

    /// The client in this process, which is the agent. It is made when it is first asked for, and lives as long as the broker.
    pub(crate) async fn agent(&self) -> Result<&Arc<Core>, StartError> {
        let embed = async || {
            let (reply, answer) = oneshot::channel();
            self.tell(Command::Embed { client_id: AGENT.to_owned(), reply });
            answer.await.unwrap_or(Err(StartError::Shutdown))
        };
        self.agent.get_or_try_init(embed).await
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
