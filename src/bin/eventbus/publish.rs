//! `eventbus pub`: publishes events that are written down as JSON.

mod source;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use daemoneye_eventbus::{
    AccessPolicy, CollectionEvent, Component, DeclareError, Delivery, Disconnected, EventBusClient,
    EventTooLarge, Publisher, Topic,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::ending::Ending;
use crate::interrupt::Interrupt;
use crate::output::print;
use crate::place::{Reach, ReachError, duration, strange_id};
use source::{Bad, Source};

pub(crate) const ABOUT: &str = "\
Publishes events on a topic: one for each line of standard input, in JSON, as `eventbus sub --json` has it below
`event`.

Without --id the client takes the name of a component that the default table lets publish on the topic (never `agent`,
which needs a launch token). One client has a name at a time: where the real one is there, this one is refused, and
where this one is there, the real one is, unless it comes with a launch token.

It waits for no subscriber, unless it is told to: what is published to nobody is gone.";

pub(crate) const HELP: &str = "\
Examples:
  echo '{\"Process\":{\"pid\":1,\"name\":\"init\",\"metadata\":{}}}' | eventbus pub events.process.start
  eventbus pub events.process.batch --wait-for-subscriber 10 < events.jsonl
  eventbus pub alerts.high --id agent --token-file token --event alert.json
  eventbus sub --json 'events.#' | jq -c .event | eventbus pub events.process.batch --instance staging

Exit codes:
  0  each event was published, and each subscriber's ring took it
  1  failed: no broker, a topic that is refused, a line that is no event (those before it are published)
  2  the command line is wrong
  3  each event was published, and some subscriber lost some of them";

/// How often it is looked whether somebody has subscribed.
const LOOK: Duration = Duration::from_millis(10);

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
    /// Publish nothing before there is a subscriber, and fail if none comes within this time
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
    #[error("{why}; events published before that: {published}")]
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
        let topic = arguments.topic.clone();
        let (client, publisher) = tokio::select! {
            introduced = introduce(&arguments, topic.clone()) => introduced?,
            () = interrupt.heard() => return Ok(Ending::Done),
        };
        let run = Run { client, publisher, topic, patience: arguments.patience };
        run.publish(arguments, interrupt).await
    })
}

async fn introduce(arguments: &Arguments, topic: Topic) -> Result<(EventBusClient, Publisher), PublishError> {
    let id = arguments.reach.id.clone().unwrap_or_else(|| publisher_id(&topic));
    let client = arguments.reach.connect(&id).await?;
    let component = client.component().clone();
    let declared = client.publisher(topic.as_str()).await;
    let publisher = declared.map_err(|error| PublishError::Declare { component, topic, error })?;
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
    client: EventBusClient,
    publisher: Publisher,
    topic: Topic,
    patience: Duration,
}

impl Run {
    async fn publish(
        mut self,
        arguments: Arguments,
        mut interrupt: Interrupt,
    ) -> Result<Ending, PublishError> {
        let result = tokio::select! {
            result = self.publish_all(arguments) => result,
            () = interrupt.heard() => Ok(()),
        };
        let totals = self.publisher.totals();
        if totals.events > 0 || result.is_ok() {
            print(self.summary(totals).as_bytes()).map_err(PublishError::Output)?;
        }
        result?;
        Ok(if totals.dropped == 0 { Ending::Done } else { Ending::Wanting })
    }

    fn summary(&self, totals: Delivery) -> String {
        let Delivery { events, subscribers, reached, dropped, .. } = totals;
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

    async fn publish_all(&mut self, arguments: Arguments) -> Result<(), PublishError> {
        if let Some(patience) = arguments.wait_for_subscriber {
            self.await_subscriber(patience).await?;
        }
        let source = arguments.event.map_or(Source::Stdin, Source::File);
        let mut events = source.read().map_err(no("thread"))?;
        while let Some((place, event)) = self.next(&mut events).await? {
            let published = self.publisher.published();
            let too_large = |error| PublishError::TooLarge { place: place.clone(), error, published };
            self.publisher.publish_within(&event, self.patience).await.map_err(too_large)?;
        }
        Ok(())
    }

    async fn next(
        &mut self,
        events: &mut mpsc::Receiver<Result<(String, CollectionEvent), Bad>>,
    ) -> Result<Option<(String, CollectionEvent)>, PublishError> {
        let published = self.publisher.published();
        tokio::select! {
            biased;
            event = events.recv() => event.transpose().map_err(|bad| PublishError::Bad { bad, published }),
            why = self.client.disconnected() => Err(PublishError::Disconnected { why, published }),
        }
    }

    async fn await_subscriber(&mut self, patience: Duration) -> Result<(), PublishError> {
        let deadline = Instant::now().checked_add(patience);
        let gone = |why| Err(PublishError::Disconnected { why, published: 0 });
        while self.publisher.subscribers() == 0 {
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late {
                return Err(PublishError::Nobody { topic: self.topic.clone(), patience });
            }
            tokio::select! {
                () = sleep_until(Instant::now() + LOOK) => {}
                why = self.client.disconnected() => return gone(why),
            }
        }
        Ok(())
    }
}
