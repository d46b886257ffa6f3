//! One session for all clients of this process that are the same component at the same endpoint.
//!
//! A name is one session's at a time, so the second client of a process would be refused. It joins the first one's session instead: one
//! socket, one control thread, one data thread, and one ring for each [`Publisher`](super::Publisher) and peer, however many clients there are.
//!
//! - **Whose it is.** A session lives as long as any handle of any of its clients, and is known here by weak references alone. Whoever
//!   can connect from this process could as well read its memory: within a process there is nobody to be kept out.
//! - **Who comes while it is being connected** waits for the same answer, also where it is an error. The attempt is its thread's, so nobody who
//!   gives up takes it away from the others.
//! - **Who comes when the last handle has just gone** waits until the broker has hung up on that session: the name is free then. The
//!   thread of the one that ends goes on with the next.
//! - **What is over** is handed out to nobody: who comes then begins another.
//! - **An endpoint** is where a path leads to, links followed. A session whose path leads elsewhere by the time that it looks for its
//!   broker again is handed out to nobody from then on.
//! - A forked child is another process: it has none of these sessions.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::connect::ConnectError;
use super::pace::ReturnPace;
use super::session::{Command, Ground};
use super::{ConnectOptions, Core};
use crate::access::Component;
use crate::dataplane::WaitPolicy;
use crate::wire::TokenId;

/// What a session has one of, so that all clients that share it must want the same: see [`ConnectOptions::shares_session`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionTerm {
    /// [`ConnectOptions::deadline`].
    Deadline,
    /// [`ConnectOptions::wait_policy`].
    WaitPolicy,
    /// [`ConnectOptions::comes_back`].
    ComesBack,
    /// [`ConnectOptions::return_pace`].
    ReturnPace,
    /// [`ConnectOptions::outbox_bytes`].
    OutboxBytes,
    /// [`ConnectOptions::expected_broker_uid`].
    ExpectedBrokerUid,
    /// [`ConnectOptions::token`].
    Token,
    /// [`ConnectOptions::key_file`].
    KeyFile,
}

impl fmt::Display for SessionTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "deadline",
            Self::WaitPolicy => "wait policy",
            Self::OutboxBytes => "size of its outbox",
            Self::ComesBack => "word on whether it comes back",
            Self::ReturnPace => "pace at which it comes back",
            Self::ExpectedBrokerUid => "user of the broker",
            Self::Token => "launch token",
            Self::KeyFile => "key file",
        })
    }
}

/// What a connect comes to.
pub(super) type Answer = Result<Arc<Core>, ConnectError>;

/// Who waits for one.
type Waiting = oneshot::Sender<Answer>;

/// The sessions of this process. One that has ended is not among them.
static SESSIONS: Mutex<BTreeMap<Key, Entry>> = Mutex::new(BTreeMap::new());

/// Tells an entry from those that were there before it under the same key.
static LAST_ENTRY: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    process: u32,
    endpoint: PathBuf,
    component: Component,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    terms: Terms,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It is being connected.
    Begun(Vec<Waiting>),
    Live(Joint),
    /// It ends, since nobody holds a handle of it any more. Its thread then goes on with the next.
    Ending {
        next: Box<ConnectOptions>,
        waiting: Vec<Waiting>,
    },
}

/// The terms of a session: what is not here is each client's own.
#[derive(Debug, Clone)]
struct Terms {
    deadline: Duration,
    wait_policy: WaitPolicy,
    comes_back: bool,
    return_pace: ReturnPace,
    outbox_bytes: usize,
    expected_broker_uid: Option<u32>,
    token: Option<TokenId>,
    key_file: Option<PathBuf>,
}

impl Terms {
    fn of(options: &ConnectOptions) -> Self {
        Self {
            deadline: options.deadline,
            wait_policy: options.wait_policy,
            comes_back: options.comes_back,
            return_pace: options.return_pace,
            outbox_bytes: options.outbox_bytes,
            expected_broker_uid: options.expected_broker_uid,
            token: options.token.as_ref().map(|token| token.id),
            key_file: options.key_file.clone(),
        }
    }

    /// What another client wants otherwise.
    fn difference(&self, other: &Self) -> Option<SessionTerm> {
        let differs = [
            (self.deadline != other.deadline, SessionTerm::Deadline),
            (self.wait_policy != other.wait_policy, SessionTerm::WaitPolicy),
            (self.comes_back != other.comes_back, SessionTerm::ComesBack),
            (self.return_pace != other.return_pace, SessionTerm::ReturnPace),
            (self.outbox_bytes != other.outbox_bytes, SessionTerm::OutboxBytes),
            (self.expected_broker_uid != other.expected_broker_uid, SessionTerm::ExpectedBrokerUid),
            (self.token != other.token, SessionTerm::Token),
            (self.key_file != other.key_file, SessionTerm::KeyFile),
        ];
        differs.into_iter().find_map(|(differs, term)| differs.then_some(term))
    }
}

/// What there is to join a session by. It keeps none alive.
#[derive(Debug)]
struct Joint {
    core: Weak<Core>,
    /// Publishers and subscriptions hold these alone, and may outlive all clients.
    commands: mpsc::WeakUnboundedSender<Command>,
    ground: Arc<Ground>,
}

impl Joint {
    fn of(core: &Arc<Core>) -> Self {
        let (commands, ground) = (core.commands.downgrade(), Arc::clone(&core.ground));
        Self { core: Arc::downgrade(core), commands, ground }
    }

    /// `None`: nobody holds a handle any more.
    fn join(&mut self) -> Option<Arc<Core>> {
        if let Some(core) = self.core.upgrade() {
            return Some(core);
        }
        let core = Arc::new(Core::over(self.commands.upgrade()?, Arc::clone(&self.ground)));
        self.core = Arc::downgrade(&core);
        Some(core)
    }
}

/// What is to be done about a connect.
pub(super) enum Joined {
    Now(Arc<Core>),
    /// The answer comes.
    Later(oneshot::Receiver<Answer>),
    /// This session is to be begun, and the answer comes then.
    Begin(Seat, oneshot::Receiver<Answer>),
}

/// Joins the session that these options lead to, or has another begun. `None`: these are for a session of their own.
pub(super) fn join(options: &ConnectOptions) -> Option<Result<Joined, ConnectError>> {
    if !options.shares_session || options.inherited.is_some() {
        return None;
    }
    // Of what is no id the broker says what is wrong with it.
    let component = Component::from_client_id(&options.client_id).ok()?;
    let key = Key { process: std::process::id(), endpoint: endpoint(&options.path), component };
    let terms = Terms::of(options);
    let (reply, answer) = oneshot::channel();
    let mut sessions = SESSIONS.lock();
    if let Some(entry) = sessions.get_mut(&key) {
        let core = match &mut entry.state {
            State::Live(joint) if joint.ground.is_over() => {
                return Some(Ok(begin(&mut sessions, key, terms, reply, answer)));
            }
            State::Live(joint) => match joint.join() {
                Some(core) => Some(core),
                None => {
                    // What that one's terms were is over with it.
                    entry.terms = terms;
                    entry.state = State::Ending { next: Box::new(options.clone()), waiting: vec![reply] };
                    return Some(Ok(Joined::Later(answer)));
                }
            },
            State::Begun(_) | State::Ending { .. } => None,
        };
        if let Some(term) = entry.terms.difference(&terms) {
            let (path, component) = (options.path.clone(), key.component);
            return Some(Err(ConnectError::OtherTerms { path, component, term }));
        }
        return Some(Ok(match (&mut entry.state, core) {
            (State::Begun(waiting) | State::Ending { waiting, .. }, _) => {
                waiting.push(reply);
                Joined::Later(answer)
            }
            (State::Live(_), core) => Joined::Now(core.expect("a handle was there")),
        }));
    }
    Some(Ok(begin(&mut sessions, key, terms, reply, answer)))
}

fn begin(
    sessions: &mut BTreeMap<Key, Entry>,
    key: Key,
    terms: Terms,
    reply: Waiting,
    answer: oneshot::Receiver<Answer>,
) -> Joined {
    let number = LAST_ENTRY.fetch_add(1, Ordering::Relaxed);
    sessions.insert(key.clone(), Entry { number, terms, state: State::Begun(vec![reply]) });
    Joined::Begin(Seat { key, number }, answer)
}

/// The place of a session among those of this process, which its thread holds. Without its thread there is none: who waits is told so.
#[derive(Debug)]
pub(super) struct Seat {
    key: Key,
    number: u64,
}

impl Seat {
    /// Says to all who wait what has come of it.
    pub(super) fn answer(&self, path: &Path, answer: Answer) {
        let answer = answer.and_then(|core| if self.is_at(path) { Ok(core) } else { Err(elsewhere(path)) });
        let mut sessions = SESSIONS.lock();
        let Some(entry) = sessions.get_mut(&self.key).filter(|entry| entry.number == self.number) else {
            return;
        };
        let State::Begun(waiting) = &mut entry.state else { return };
        let mut waiting = std::mem::take(waiting);
        match &answer {
            Ok(core) => entry.state = State::Live(Joint::of(core)),
            Err(_) => drop(sessions.remove(&self.key)),
        }
        drop(sessions);
        // Who has stopped waiting drops the core; where all have, that ends the session. Nothing of it is kept here.
        let last = waiting.pop();
        for reply in waiting {
            let _ = reply.send(answer.as_ref().map(Arc::clone).map_err(ConnectError::copy));
        }
        if let Some(reply) = last {
            let _ = reply.send(answer);
        }
    }

    /// The session has ended. What its thread is to go on with, if somebody waits for the next.
    pub(super) fn leave(&self) -> Option<ConnectOptions> {
        let mut sessions = SESSIONS.lock();
        let entry = sessions.get_mut(&self.key).filter(|entry| entry.number == self.number)?;
        match std::mem::replace(&mut entry.state, State::Begun(Vec::new())) {
            State::Ending { next, waiting } => {
                entry.state = State::Begun(waiting);
                Some(*next)
            }
            State::Begun(_) | State::Live(_) => {
                sessions.remove(&self.key);
                None
            }
        }
    }

    /// Has the session handed out to nobody any more if the path leads elsewhere by now: it will have another broker than others look for.
    pub(super) fn look(&self, path: &Path) {
        if self.is_at(path) {
            return;
        }
        let mut sessions = SESSIONS.lock();
        let is_ours = |entry: &Entry| entry.number == self.number && matches!(entry.state, State::Live(_));
        if sessions.get(&self.key).is_some_and(is_ours) {
            sessions.remove(&self.key);
        }
    }

    fn is_at(&self, path: &Path) -> bool {
        endpoint(path) == self.key.endpoint
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut sessions = SESSIONS.lock();
        if sessions.get(&self.key).is_some_and(|entry| entry.number == self.number) {
            sessions.remove(&self.key);
        }
    }
}

fn elsewhere(path: &Path) -> ConnectError {
    let source = io::Error::other("the path led elsewhere before the broker had answered");
    ConnectError::NoBroker { path: path.to_owned(), source }
}

/// Where a path leads to. Between two brokers there is no socket: then its folder says so.
fn endpoint(path: &Path) -> PathBuf {
    if let Ok(there) = path.canonicalize() {
        return there;
    }
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = whole.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, whole.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => whole,
    }
}

#[cfg(test)]
mod tests;
