//! `eventbus demo`: a collector, an agent and a detector, three processes joined by rings.
//!
//! ```text
//!   collector (procmond) ──── rings ───► agent: this process, with the broker
//!         ▲  │               └─ rings ──► detector
//!   orders│  │messages                      ▲ │
//!         │  ▼ stdin, stdout                │ ▼
//!        conduct ───────────────────────────┘
//! ```
//!
//! The order of things makes the account exact. Both subscriptions exist before the collector does, so nothing is published past
//! them. At the end the collector stops first and says how much it has published; then the subscribers have until a deadline
//! to receive that much, or to be told what they lost; only then do the rings go.

mod collector;
mod conductor;
mod effort;
mod failure;
mod message;
mod peer;
mod report;
mod scan;
mod subscriber;
mod synthetic;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use daemoneye_eventbus::{
    Backing, BrokerOptions, ConnectOptions, DaemoneyeBroker, DaemoneyeEventBus, EventBusClient, EventBusError,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

use conductor::Conductor;
use failure::Failure;
use message::{Message, Order, Published, Received, Seen};
use peer::{Peer, Role};
use report::{Outcome, Second, Subscriber};

use crate::interrupt::{self, Interrupt};
use crate::output::Output;

/// How long a peer may take to get ready, or to answer. Beyond it, the demo fails.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// How long a line waits for its figures. Who is later has none in it.
const SAMPLE_DEADLINE: Duration = Duration::from_millis(400);

/// How long a child may take to end by itself. Beyond it, it is killed.
const END_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) seconds: u64,
    pub(crate) rate: Option<u64>,
    pub(crate) json: bool,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) backing: Backing,
}

/// Runs a demo; whether all events are accounted for.
pub(crate) fn run(options: Options) -> Result<bool, Failure> {
    runtime()?.block_on(async {
        let mut interrupt = Interrupt::listen().map_err(no_handler)?;
        let place = Place::new(options.socket)?;
        let mut demo = tokio::select! {
            demo = Demo::begin(&place, options.rate, options.backing) => demo?,
            () = interrupt.heard() => return Err(Failure::Interrupted),
        };
        let output = Output::begin().map_err(Failure::Output)?;
        let mut screen = Screen { quiet: options.json, output };
        let interrupted =
            demo.watch(&mut screen, &mut interrupt, Duration::from_secs(options.seconds)).await?;
        let outcome = demo.finish(options.rate, interrupted).await?;
        demo.end().await;
        let last = if options.json { format!("{:#}\n", outcome.to_json()) } else { outcome.summary() };
        let hurry = async {
            if !interrupted {
                interrupt.heard().await;
            }
        };
        screen.output.end(last.into_bytes(), hurry).await.map_err(Failure::Output)?;
        Ok(outcome.accounted())
    })
}

/// The collector's process.
pub(crate) fn collect(socket: &Path, rate: Option<u64>) -> Result<(), Failure> {
    child(async |conductor| collector::run(socket, rate, conductor).await)
}

/// The detector's process.
pub(crate) fn detect(socket: &Path) -> Result<(), Failure> {
    child(async |conductor| {
        let detector = EventBusClient::connect(ConnectOptions::new("detector").path(socket)).await?;
        let subscription = detector.subscription(&[subscriber::PATTERN]).await?;
        subscriber::run(subscription, || detector.statistics(), conductor).await
    })
}

/// Lives as a child of the demo. If that fails it is told to the demo, which tells it to the user.
fn child(act: impl AsyncFnOnce(&mut Conductor) -> Result<(), Failure>) -> Result<(), Failure> {
    runtime()?.block_on(async {
        interrupt::leave_to_parent().map_err(no_handler)?;
        let mut conductor = Conductor::of_child()?;
        if let Err(failure) = act(&mut conductor).await {
            conductor.tell(Message::Failed { reason: failure.to_string() });
        }
        Ok(())
    })
}

fn no_handler(source: io::Error) -> Failure {
    Failure::Host { what: "handler for a signal", source }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    crate::runtime().map_err(|source| Failure::Host { what: "runtime", source })
}

/// Where the broker listens: a folder that is nobody else's and goes with the demo, unless a path was named.
#[derive(Debug)]
struct Place {
    socket: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn new(socket: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(socket) = socket {
            return Ok(Self { socket, _folder: None });
        }
        let mut folder = tempfile::Builder::new();
        folder.prefix("daemoneye-demo-").permissions(Permissions::from_mode(0o700));
        let folder = folder.tempdir().map_err(|source| Failure::Host { what: "temporary folder", source })?;
        Ok(Self { socket: folder.path().join("bus.sock"), _folder: Some(folder) })
    }
}

/// Standard output.
#[derive(Debug)]
struct Screen {
    quiet: bool,
    output: Output,
}

impl Screen {
    /// Whether it goes on: somebody reads, and nobody has wished for the end meanwhile.
    async fn show(&mut self, text: String, interrupt: &mut Interrupt) -> bool {
        if self.quiet {
            return true;
        }
        tokio::select! {
            biased;
            () = interrupt.heard() => false,
            shown = self.output.show(text.into_bytes()) => shown.is_ok(),
        }
    }
}

/// A demo under way.
struct Demo {
    // Dropped before the bus: they are its clients.
    collector: Peer,
    detector: Peer,
    agent: Peer,
    bus: Arc<DaemoneyeEventBus>,
    news: mpsc::UnboundedReceiver<(Role, Option<Message>)>,
    heard: Heard,
}

/// What the peers have said so far.
#[derive(Debug, Default)]
struct Heard {
    /// The number of the sample that is asked for.
    sample: u64,
    second: Second,
    newest: Vec<Seen>,
    ready: [bool; 3],
    gone: [bool; 3],
    stopped: Option<Published>,
    settled: [Option<Received>; 2],
    /// The peers may go.
    ending: bool,
}

impl Heard {
    fn note(&mut self, role: Role, message: Option<Message>) -> Result<(), Failure> {
        // Only subscribers have subscribers' news; what would be the collector's place is the agent's.
        let subscriber = usize::from(role == Role::Detector);
        match message {
            None if self.ending => self.gone[role as usize] = true,
            None => return Err(Failure::Gone { role }),
            Some(Message::Failed { .. }) if self.ending => {}
            Some(Message::Failed { reason }) => return Err(Failure::Peer { role, reason }),
            Some(Message::Ready) => self.ready[role as usize] = true,
            Some(Message::Published { number, published }) if number == self.sample => {
                self.second.published = Some(published);
            }
            Some(Message::Received { number, received, newest }) if number == self.sample => {
                self.second.received[subscriber] = Some(received);
                if role == Role::Agent {
                    self.newest = newest;
                }
            }
            // An answer that came too late for its line.
            Some(Message::Published { .. } | Message::Received { .. }) => {}
            Some(Message::Stopped { published }) => self.stopped = Some(published),
            Some(Message::Settled { received }) => self.settled[subscriber] = Some(received),
        }
        Ok(())
    }
}

impl Demo {
    /// Starts the broker, then both subscribers, then the collector.
    async fn begin(place: &Place, rate: Option<u64>, backing: Backing) -> Result<Self, Failure> {
        let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&place.socket).backing(backing));
        let broker = broker.map_err(EventBusError::from)?;
        let bus = Arc::new(DaemoneyeEventBus::from_broker(broker).await?);
        let (voice, mut news) = mpsc::unbounded_channel();
        let mut heard = Heard::default();

        let subscription = bus.subscription(&[subscriber::PATTERN]).await?;
        let statistics = Arc::clone(&bus);
        let agent = Peer::within(Role::Agent, voice.clone(), move |mut conductor| {
            let subscriber = subscriber::run(subscription, || statistics.client_statistics(), &mut conductor);
            if let Err(failure) = runtime().and_then(|runtime| runtime.block_on(subscriber)) {
                conductor.tell(Message::Failed { reason: failure.to_string() });
            }
        })?;

        let program = std::env::current_exe();
        let program = program.map_err(|source| Failure::Host { what: "path of this program", source })?;
        let command = |name| {
            let mut command = Command::new(&program);
            command.arg(name).arg("--socket").arg(&place.socket);
            command
        };
        let detector = Peer::spawn(Role::Detector, &mut command("demo-detector"), voice.clone())?;
        ready(&mut heard, &mut news, Role::Agent).await?;
        ready(&mut heard, &mut news, Role::Detector).await?;

        let mut command = command("demo-collector");
        if let Some(rate) = rate {
            command.arg("--rate").arg(rate.to_string());
        }
        let collector = Peer::spawn(Role::Collector, &mut command, voice)?;
        ready(&mut heard, &mut news, Role::Collector).await?;
        Ok(Self { collector, detector, agent, bus, news, heard })
    }

    /// Prints a line per second until it is time to stop; whether somebody wished so.
    async fn watch(
        &mut self,
        screen: &mut Screen,
        interrupt: &mut Interrupt,
        duration: Duration,
    ) -> Result<bool, Failure> {
        let began = Instant::now();
        // Half a second after the scans, so that each line has one.
        let mut ticks = tokio::time::interval_at(began + Duration::from_millis(500), Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let Self { collector, detector, agent, .. } = self;
        let pids = format!(
            "collector (pid {}) publishes to agent (pid {}) and detector (pid {}), for {duration:?} or until Ctrl-C\n",
            collector.pid, agent.pid, detector.pid
        );
        let mut goes_on = screen.show(pids + &report::heading(), interrupt).await;
        let (mut before, mut newest) = (Second::default(), Vec::new());
        while goes_on {
            tokio::select! {
                () = tokio::time::sleep_until(began + duration) => return Ok(false),
                () = interrupt.heard() => return Ok(true),
                news = self.news.recv() => self.note(news)?,
                _ = ticks.tick() => if !screen.quiet {
                    self.sample().await?;
                    let line = report::line(began.elapsed(), &self.heard.second, &before);
                    let mut text = line;
                    if newest != self.heard.newest {
                        newest.clone_from(&self.heard.newest);
                        text += &report::processes(&newest);
                    }
                    goes_on = screen.show(text, interrupt).await;
                    before = self.heard.second.clone();
                },
            }
        }
        Ok(true)
    }

    /// Asks all for their figures.
    async fn sample(&mut self) -> Result<(), Failure> {
        self.heard.sample += 1;
        self.heard.second = Second::default();
        self.heard.newest.clear();
        for peer in [&mut self.collector, &mut self.agent, &mut self.detector] {
            peer.order(Order::Sample { number: self.heard.sample });
        }
        let deadline = Instant::now() + SAMPLE_DEADLINE;
        let complete =
            |second: &Second| second.published.is_some() && second.received.iter().all(Option::is_some);
        while !complete(&self.heard.second) {
            match timeout_at(deadline, self.news.recv()).await {
                Ok(news) => self.note(news)?,
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Stops the collector, and has the subscribers account for what it has published.
    async fn finish(&mut self, rate: Option<u64>, interrupted: bool) -> Result<Outcome, Failure> {
        self.collector.order(Order::Stop);
        let published = self.answer(Role::Collector, |heard| heard.stopped).await?;
        for peer in [&mut self.agent, &mut self.detector] {
            peer.order(Order::Settle { published: published.events });
        }
        let agent = self.answer(Role::Agent, |heard| heard.settled[0]).await?;
        let detector = self.answer(Role::Detector, |heard| heard.settled[1]).await?;
        Ok(Outcome {
            rate,
            interrupted,
            collector_pid: self.collector.pid,
            published,
            subscribers: [
                Subscriber { name: "agent", pid: self.agent.pid, received: agent },
                Subscriber { name: "detector", pid: self.detector.pid, received: detector },
            ],
        })
    }

    /// Lets all peers go, and gives them a while to do so; then shuts the broker down.
    async fn end(mut self) {
        self.heard.ending = true;
        for peer in [&mut self.collector, &mut self.agent, &mut self.detector] {
            peer.dismiss();
        }
        let deadline = Instant::now() + END_DEADLINE;
        while self.heard.gone.contains(&false) {
            match timeout_at(deadline, self.news.recv()).await {
                // Nothing is wrong any more.
                Ok(news) => drop(self.note(news)),
                Err(_) => break,
            }
        }
        let Self { collector, agent, detector, bus, .. } = self;
        drop((collector, agent, detector));
        // There is nothing that could fail.
        let _ = bus.broker().shutdown().await;
    }

    async fn answer<T>(&mut self, role: Role, said: impl Fn(&Heard) -> Option<T>) -> Result<T, Failure> {
        answer(&mut self.heard, &mut self.news, role, said).await
    }

    fn note(&mut self, news: Option<(Role, Option<Message>)>) -> Result<(), Failure> {
        note(&mut self.heard, news)
    }
}

type NewsEnd = mpsc::UnboundedReceiver<(Role, Option<Message>)>;

async fn ready(heard: &mut Heard, news: &mut NewsEnd, role: Role) -> Result<(), Failure> {
    answer(heard, news, role, |heard| heard.ready[role as usize].then_some(())).await
}

/// Waits until a peer has said what it was asked.
async fn answer<T>(
    heard: &mut Heard,
    news: &mut NewsEnd,
    role: Role,
    said: impl Fn(&Heard) -> Option<T>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + ANSWER_DEADLINE;
    loop {
        if let Some(answer) = said(heard) {
            return Ok(answer);
        }
        let silent = |_| Failure::Silent { role, deadline: ANSWER_DEADLINE };
        note(heard, timeout_at(deadline, news.recv()).await.map_err(silent)?)?;
    }
}

/// Takes note of what a peer said. Each peer says when it is gone, so there is always one more thing to come.
fn note(heard: &mut Heard, news: Option<(Role, Option<Message>)>) -> Result<(), Failure> {
    let (role, message) = news.expect("a peer's last word was noted as such");
    heard.note(role, message)
}
