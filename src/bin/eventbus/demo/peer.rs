//! The collector and the subscribers, as the demo sees them: children, and a thread of its own process.
//!
//! Whatever happens to the demo, no child is left: dropping a [`Peer`] kills its process by its id and reaps it; and if the demo
//! itself is killed, each child finds the end of its stdin and ends by itself.

use std::fmt;
use std::io::{self, BufRead as _, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::conductor::Conductor;
use super::failure::Failure;
use super::message::{Message, Order};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Collector,
    Agent,
    Detector,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Collector => "collector",
            Self::Agent => "agent",
            Self::Detector => "detector",
        })
    }
}

/// What a peer says; `None`: it is gone. At most one message per order, and one of its own.
pub(crate) type News = mpsc::UnboundedSender<(Role, Option<Message>)>;

/// Ends with the peer, and says so.
struct Voice {
    role: Role,
    news: News,
}

impl Voice {
    fn say(&self, message: Option<Message>) {
        // A demo that no longer listens is ending.
        let _ = self.news.send((self.role, message));
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        self.say(None);
    }
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    body: Body,
    /// Reads what a child says, or is the peer.
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Body {
    Thread { orders: Option<mpsc::UnboundedSender<Order>> },
    Child { process: std::process::Child, orders: Option<ChildStdin> },
}

impl Peer {
    /// Starts a peer in a process of its own.
    pub(crate) fn spawn(role: Role, command: &mut Command, news: News) -> Result<Self, Failure> {
        let no_process = |source| Failure::Host { what: "child process", source };
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(no_process)?;
        let orders = process.stdin.take();
        let messages = io::BufReader::new(process.stdout.take().expect("it was asked for a pipe"));
        let pid = process.id();
        let mut peer = Self { pid, body: Body::Child { process, orders }, thread: None };
        let voice = Voice { role, news };
        peer.thread = Some(start("demo-messages", move || {
            for line in messages.lines().map_while(Result::ok) {
                let Ok(message) = serde_json::from_str(&line) else { return };
                voice.say(Some(message));
            }
        })?);
        Ok(peer)
    }

    /// Starts a peer on a thread of this process.
    pub(crate) fn within(
        role: Role,
        news: News,
        act: impl FnOnce(Conductor) + Send + 'static,
    ) -> Result<Self, Failure> {
        let (orders, orders_end) = mpsc::unbounded_channel();
        let voice = Voice { role, news };
        let thread = start("demo-subscriber", move || {
            act(Conductor::new(orders_end, move |message| voice.say(Some(message))));
        })?;
        let pid = std::process::id();
        Ok(Self { pid, body: Body::Thread { orders: Some(orders) }, thread: Some(thread) })
    }

    /// Gives an order. Whether it is still there to hear it shows in the news.
    pub(crate) fn order(&mut self, order: Order) {
        match &mut self.body {
            Body::Thread { orders: Some(orders) } => drop(orders.send(order)),
            Body::Child { orders: Some(orders), .. } => {
                let line = serde_json::to_string(&order).expect("orders have string keys only");
                drop(writeln!(orders, "{line}"));
            }
            Body::Thread { orders: None } | Body::Child { orders: None, .. } => {}
        }
    }

    /// Says that the demo is over: the peer ends by itself, and then it is gone.
    pub(crate) fn dismiss(&mut self) {
        match &mut self.body {
            Body::Thread { orders } => drop(orders.take()),
            Body::Child { orders, .. } => drop(orders.take()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.dismiss();
        if let Body::Child { process, .. } = &mut self.body {
            // The id is still its own until it is waited for. Both fail only for a child that was reaped already.
            let _ = process.kill();
            let _ = process.wait();
        }
        if let Some(thread) = self.thread.take() {
            // A panic there is a bug of ours that has been printed already.
            let _ = thread.join();
        }
    }
}

fn start(name: &str, act: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(act);
    thread.map_err(|source| Failure::Host { what: "thread", source })
}
