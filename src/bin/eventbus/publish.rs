//! `eventbus pub`: publishes events that are written down as JSON.

mod source;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use daemoneye_eventbus::{
    AccessPolicy, Component, Connection, DeclareError, Delivery, Disconnected, EventBusClient, EventTooLarge,
    Publisher, Topic,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::ending::Ending;
use crate::interrupt::Interrupt;
use crate::output::{notice, print_until};
use crate::place::{Reach, ReachError, duration, strange_id, tell_connection};
use source::{Bad, Events, Placed, Source};

pub(crate) const ABOUT: &str = "\
Publishes events on a topic: one for each line of standard input, in JSON, as `eventbus sub --json` has it below
`event`.

Without --id the client takes the name of a component that the default table lets publish on the topic (never `agent`,
which needs a launch token). One client has a name at a time: where the real one is there, this one is refused, and
where this one is there, the real one is, unless it comes with a launch token.

It waits for no subscriber, unless it is told to: what is published to nobody is gone. When the broker goes it goes on
with the subscribers that it has; where there is none it keeps what it reads next until there is a broker again
(and a subscriber, with --wait-for-subscriber), and says so on standard error.";

pub(crate) const HELP: &str = "\
Examples:
  echo '{\"Process\":{\"pid\":1,\"name\":\"init\",\"metadata\":{}}}' | eventbus pub events.process.start
  eventbus pub events.process.batch --wait-for-subscriber 10 < events.jsonl
  eventbus pub alerts.high --id agent --token-file token --event alert.json
  eventbus sub --json 'events.#' | jq -c '.event // empty' | eventbus pub events.process.batch --instance staging

Exit codes:
  0  each event that was read was published, and each subscriber's ring took it
  1  failed: no broker, a topic that is refused, also by the next broker, somebody else has this name now, a line
     that is no event (those before it are published). Standard error says how many lines were not published
  2  the command line is wrong
  3  each event that was read was published, and some subscriber lost some of them
  4  it was told to end, by a signal, before it had published all that it had read; standard error says how many
     lines, and from which on";

fn too_early() -> Ending {
    notice("told to end before anything was read, or published");
    Ending::Fewer
}

/// How often it is looked whether somebody has subscribed.
const LOOK: Duration = Duration::from_millis(10);

/// How long nothing is published when the broker goes: by then it shows which subscribers went with it.
const DESERTED: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The topic, such as events.process.start
    #[arg(value_parser = topic)]
    topic: Topic,
    #[command(flatten)]
    reach: Reach,
    /// Publish the one event in this file, and not standard input
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// Publish nothing before there is a subscriber, also after a broker has gone, and fail if none comes within this time
    #[arg(long, value_name = "SECONDS", value_parser = duration)]
    wait_for_subscriber: Option<Duration>,
    /// How long each event may wait for room in its subscribers' rings, before those that have none lose it
    #[arg(long, value_name = "SECONDS", value_parser = duration, default_value = "0")]
    patience: Duration,
}

fn topic(name: &str) -> Result<Topic, String> {
    Topic::new(name).map_err(|error| error.to_string())
}

/// Why not all was published. Nothing of an event is repeated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("no {what}: {source}")]
    Host { what: &'static str, source: io::Error },
    #[error("{0}")]
    Reach(#[from] ReachError),
    #[error("{component} publishes nothing on {topic}: {error}; --id says who publishes")]
    Declare { component: Component, topic: Topic, error: DeclareError },
    #[error("nobody has subscribed to {topic} within {patience:?}, and nothing was published")]
    Nobody { topic: Topic, patience: Duration },
    #[error("{bad}; events published before it: {published}, after it: none")]
    Bad { bad: Bad, published: u64 },
    #[error("{place}: {error}; events published before it: {published}, after it: none")]
    TooLarge { place: String, error: EventTooLarge, published: u64 },
    #[error("{why}, for good; events published before that: {published}")]
    Disconnected { why: Disconnected, published: u64 },
    #[error("can't write: {0}")]
    Output(io::Error),
}

fn no(what: &'static str) -> impl Fn(io::Error) -> PublishError {
    move |source| PublishError::Host { what, source }
}

/// Publishes what there is.
pub(crate) fn run(arguments: Arguments) -> Result<Ending, PublishError> {
    crate::runtime().map_err(no("runtime"))?.block_on(async {
        let mut interrupt = Interrupt::listen().map_err(no("handler for a signal"))?;
        let (client, publisher) = tokio::select! {
            introduced = introduce(&arguments) => introduced?,
            () = interrupt.heard() => return Ok(too_early()),
        };
        let Arguments { topic, event, wait_for_subscriber, patience, .. } = arguments;
        let source = event.map_or(Source::Stdin, Source::File);
        let (connection, progress) = (client.connection(), None);
        let (returned, unheard) = (false, 0);
        let run = Run {
            connection,
            client,
            publisher,
            topic,
            patience,
            wait_for_subscriber,
            returned,
            unheard,
            progress,
        };
        run.publish(source, interrupt).await
    })
}

async fn introduce(arguments: &Arguments) -> Result<(EventBusClient, Publisher), PublishError> {
    let topic = &arguments.topic;
    let id = arguments.reach.id.clone().unwrap_or_else(|| publisher_id(topic));
    let client = arguments.reach.connect(&id).await?;
    let component = client.component().clone();
    let declared = client.publisher(topic.as_str()).await;
    let refused = |error| PublishError::Declare { component, topic: topic.clone(), error };
    let publisher = declared.map_err(refused)?;
    Ok((client, publisher))
}

/// Who publishes on this topic by the default table, and needs no token for its name.
fn publisher_id(topic: &Topic) -> String {
    let stranger = strange_id("pub");
    let owner = topic.segments().next_back().unwrap_or_default();
    let table = AccessPolicy::default();
    let may = |id: &&str| {
        Component::from_client_id(id).is_ok_and(|component| {
            component.as_str() != "agent" && table.may_publish(&component, topic).is_ok()
        })
    };
    let known = ["procmond", "netmond", "fsmond", "perfmond", "detector", "exporter"];
    [stranger.as_str(), owner].into_iter().chain(known).find(may).unwrap_or(&stranger).to_owned()
}

/// A publisher at work.
struct Run {
    connection: watch::Receiver<Connection>,
    client: EventBusClient,
    publisher: Publisher,
    topic: Topic,
    patience: Duration,
    wait_for_subscriber: Option<Duration>,
    /// There has been another broker before.
    returned: bool,
    /// Times that an event was published to nobody, and was to be published again.
    unheard: u64,
    /// `None` as long as nothing is read.
    progress: Option<Progress>,
}

/// How far it has come: so many events are published, up to this line.
struct Progress {
    events: Events,
    published: u64,
    line: u64,
}

impl Progress {
    /// How many lines were read and not published.
    fn left(&self) -> u64 {
        self.events.taken().saturating_sub(self.published)
    }
}

impl Run {
    async fn publish(mut self, source: Source, mut interrupt: Interrupt) -> Result<Ending, PublishError> {
        let (result, told) = tokio::select! {
            result = self.publish_all(source) => (result, false),
            () = interrupt.heard() => (Ok(()), true),
        };
        if told && self.progress.is_none() {
            return Ok(too_early());
        }
        let totals = self.publisher.totals();
        if totals.events > 0 || result.is_ok() {
            let hurry = async {
                if !told {
                    interrupt.heard().await;
                }
            };
            let summary = self.summary(totals).into_bytes();
            print_until(summary, hurry).await.map_err(PublishError::Output)?;
        }
        // Of a line that is no event it is said what came before and after.
        let says_so = matches!(result, Err(PublishError::Bad { .. } | PublishError::TooLarge { .. }));
        let left =
            self.progress.filter(|progress| progress.left() > 0 && (told || result.is_err() && !says_so));
        if let Some(progress) = &left {
            let (lines, first) = (progress.left(), progress.line + 1);
            notice(&format!("not published: {lines} lines that were read, from line {first} on"));
        }
        result?;
        Ok(match (left, totals.dropped) {
            (Some(_), _) => Ending::Fewer,
            (None, 1..) => Ending::Wanting,
            (None, 0) => Ending::Done,
        })
    }

    fn summary(&self, totals: Delivery) -> String {
        let Delivery { subscribers, reached, dropped, .. } = totals;
        let events = self.published();
        let (topic, component) = (&self.topic, self.client.component());
        let to = match subscribers {
            0 => "nobody".to_owned(),
            1 => "1 subscriber".to_owned(),
            _ => format!("{subscribers} subscribers"),
        };
        let advice = if dropped > 0 { "; --patience waits for room" } else { "" };
        format!(
            "{events} published on {topic} as {component}, to {to}: \
             {reached} taken, {dropped} dropped{advice}\n"
        )
    }

    async fn publish_all(&mut self, source: Source) -> Result<(), PublishError> {
        self.await_subscriber().await?;
        let events = source.read().map_err(no("thread"))?;
        self.progress = Some(Progress { events, published: 0, line: 0 });
        while let Some(Placed { ordinal, number, place, event }) = self.next().await? {
            loop {
                self.await_way().await?;
                let published = self.published();
                let too_large = |error| PublishError::TooLarge { place: place.clone(), error, published };
                let delivery =
                    self.publisher.publish_within(&event, self.patience).await.map_err(too_large)?;
                if delivery.subscribers > 0 || !self.keeps_for_somebody() {
                    break;
                }
                self.unheard += 1;
                if self.returned {
                    self.await_subscriber().await?;
                }
            }
            if let Some(progress) = &mut self.progress {
                (progress.published, progress.line) = (ordinal, number);
            }
        }
        Ok(())
    }

    /// Events that were published, each once.
    fn published(&self) -> u64 {
        self.publisher.published() - self.unheard
    }

    /// Whether what reaches nobody is to be published again: that a subscriber has gone with its broker shows when its ring is used.
    fn keeps_for_somebody(&self) -> bool {
        let is_away = *self.connection.borrow() != Connection::Up;
        is_away || (self.returned && self.wait_for_subscriber.is_some())
    }

    async fn next(&mut self) -> Result<Option<Placed>, PublishError> {
        loop {
            let published = self.published();
            let Some(Progress { events, .. }) = &mut self.progress else { return Ok(None) };
            tokio::select! {
                biased;
                Ok(()) = self.connection.changed() => self.heed_connection().await?,
                event = events.next() => {
                    return event.transpose().map_err(|bad| PublishError::Bad { bad, published });
                }
            }
        }
    }

    /// Waits while there is neither a broker nor a subscriber that was there before: rings do without a broker.
    async fn await_way(&mut self) -> Result<(), PublishError> {
        loop {
            if self.connection.has_changed().unwrap_or(false) {
                self.heed_connection().await?;
            }
            let is_up = *self.connection.borrow() == Connection::Up;
            if is_up || self.publisher.subscribers() > 0 {
                return Ok(());
            }
            self.connection.changed().await.expect("the client is ours, and holds the other end");
            self.connection.mark_changed();
        }
    }

    /// The broker has gone, for now or for ever, or there is another. That one decides anew who may publish.
    async fn heed_connection(&mut self) -> Result<(), PublishError> {
        let now = self.connection.borrow_and_update().clone();
        tell_connection(&now);
        match now {
            Connection::Over(why) => {
                return Err(PublishError::Disconnected { why, published: self.published() });
            }
            Connection::Up => self.returned = true,
            _ => {
                sleep_until(Instant::now() + DESERTED).await;
                return Ok(());
            }
        }
        // The publisher declares its topic again by itself, and tells nobody that it was refused: another one is told.
        match self.client.publisher(self.topic.as_str()).await {
            Ok(_) => self.await_subscriber().await,
            // It has gone again: that is to be heeded next.
            Err(DeclareError::Disconnected(_)) => Ok(()),
            Err(error) => {
                let component = self.client.component().clone();
                Err(PublishError::Declare { component, topic: self.topic.clone(), error })
            }
        }
    }

    /// Waits for a subscriber, if that was asked for. Where the broker goes meanwhile that is to be heeded next.
    async fn await_subscriber(&mut self) -> Result<(), PublishError> {
        let Some(patience) = self.wait_for_subscriber else { return Ok(()) };
        let deadline = Instant::now().checked_add(patience);
        while self.publisher.subscribers() == 0 && *self.connection.borrow() == Connection::Up {
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late {
                return Err(PublishError::Nobody { topic: self.topic.clone(), patience });
            }
            sleep_until(Instant::now() + LOOK).await;
        }
        Ok(())
    }
}
