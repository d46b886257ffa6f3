//! `eventbus sub`: shows what is published.

mod line;

use std::io;
use std::time::Duration;

use daemoneye_eventbus::{
    Component, Connection, Disconnected, EventBusClient, ReceivedBatch, RecvError, SubscribeError,
    SubscribeOptions, Subscription, TopicPattern, Withheld,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::ending::Ending;
use crate::interrupt::Interrupt;
use crate::output::{Output, notice};
use crate::place::{Reach, ReachError, duration, ring_bytes, tell_connection};

pub(crate) const ABOUT: &str = "\
Subscribes to patterns of topics (`+` is one segment, a final `#` any number), and shows each event in a line, until
Ctrl-C.

Without --id it comes as a stranger, `eventbus-sub-…`, who sees what is for anybody: anomalies, and health. What is
withheld is said on standard error, and who could have it. One client has a name at a time: with --id detector this
one keeps the detector out while it runs, unless that comes with a launch token.";

pub(crate) const HELP: &str = "\
Examples:
  eventbus sub 'events.+.anomaly' 'control.health.#'
  eventbus sub 'events.#' --id detector --json | jq -c '.event // empty'
  eventbus sub 'alerts.#' --id exporter --count 1 --for 1h

When the broker goes it waits for the next, and says so on standard error.

A line of --json is an object: topic, publisher, event_id, bus_timestamp, correlation_metadata, and event, which
`eventbus pub` takes again. Of bytes that the bus does not look into it is topic, publisher and opaque_bytes, which
is how many there are. NaN and infinity are null, since JSON has none.

Exit codes:
  0  it has shown what was asked for, or was told to end
  1  failed: no broker, nothing of the patterns is granted, or somebody else has this name now
  2  the command line is wrong
  3  events were lost: this subscriber was too slow, a publisher broke its ring, the broker had sent it away, or
     --for was over while nobody read what it showed
  4  --for was over before --count events had come";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Patterns of topics, such as 'events.process.#'
    #[arg(value_name = "PATTERN", required = true, value_parser = pattern)]
    patterns: Vec<TopicPattern>,
    #[command(flatten)]
    reach: Reach,
    /// Show each event as a JSON object
    #[arg(long)]
    json: bool,
    /// End after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time: seconds, or 500ms, 2m, 1h
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,
    /// Data bytes of the rings to this process, a power of two from 65536; at first what the broker has for all
    #[arg(long, value_name = "BYTES", value_parser = ring_bytes)]
    ring_bytes: Option<usize>,
}

fn pattern(text: &str) -> Result<TopicPattern, String> {
    TopicPattern::new(text).map_err(|error| error.to_string())
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShowError {
    #[error("no {what}: {source}")]
    Host { what: &'static str, source: io::Error },
    #[error("{0}")]
    Reach(#[from] ReachError),
    #[error("no subscription for {component}: {error}; --id says who subscribes")]
    Subscribe { component: Component, error: SubscribeError },
    #[error("{why}; events shown before that: {events}, lost: {lost}")]
    Disconnected { why: Disconnected, events: u64, lost: u64 },
    #[error("can't write: {0}")]
    Output(io::Error),
}

fn no(what: &'static str) -> impl Fn(io::Error) -> ShowError {
    move |source| ShowError::Host { what, source }
}

/// Shows events until it is time to end.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending, ShowError> {
    crate::runtime().map_err(no("runtime"))?.block_on(async {
        let mut interrupt = Interrupt::listen().map_err(no("handler for a signal"))?;
        let (client, subscription) = tokio::select! {
            introduced = introduce(arguments) => introduced?,
            () = interrupt.heard() => return Ok(Ending::Done),
        };
        tell_rights(client.component(), &subscription);
        let mut output = Output::begin().map_err(no("thread"))?;
        let mut show = Show {
            json: arguments.json,
            left: arguments.count,
            events: 0,
            lost: 0,
            broken: 0,
            away: 0,
            unread: false,
        };
        let over = tokio::select! {
            biased;
            () = interrupt.heard() => Over::Told,
            () = passed(arguments.time) => Over::Time,
            over = show.all(subscription, client.connection(), &mut output) => over,
        };
        // So many events were asked for, and those take as long as their reader does; else there is an end to that.
        let ends_soon = matches!(over, Over::Time | Over::Told);
        let hurry = async {
            if !ends_soon {
                interrupt.heard().await;
            }
        };
        show.unread = !output.end(Vec::new(), hurry).await.map_err(ShowError::Output)?;
        if over == Over::Ended {
            let Show { events, lost, .. } = show;
            return Err(ShowError::Disconnected { why: client.disconnected().await, events, lost });
        }
        Ok(show.ending(over))
    })
}

async fn introduce(arguments: &Arguments) -> Result<(EventBusClient, Subscription), ShowError> {
    let id = arguments.reach.id_or_strange("sub");
    let client = arguments.reach.connect(&id).await?;
    let patterns: Vec<&str> = arguments.patterns.iter().map(TopicPattern::as_str).collect();
    let options = SubscribeOptions::new();
    let options = arguments.ring_bytes.map_or(options, |bytes| options.ring_bytes(bytes));
    match client.subscription_with(&patterns, options).await {
        Ok(subscription) => Ok((client, subscription)),
        Err(error) => Err(ShowError::Subscribe { component: client.component().clone(), error }),
    }
}

/// Says what was granted, and what was not.
fn tell_rights(component: &Component, subscription: &Subscription) {
    let granted: Vec<&str> = subscription.granted().iter().map(TopicPattern::as_str).collect();
    notice(&format!("{component} has subscribed to {}", granted.join(", ")));
    for Withheld { pattern, needed, .. } in subscription.withheld() {
        notice(&format!("withheld: {pattern}, {needed} (--id says who subscribes)"));
    }
    for missed in subscription.missed() {
        notice(&format!("not heard: {missed}, which did not answer in time"));
    }
}

async fn passed(time: Option<Duration>) {
    match time.and_then(|time| Instant::now().checked_add(time)) {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Why there is nothing more to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// So many events were asked for.
    Count,
    Time,
    /// By a signal.
    Told,
    /// Nobody reads any more.
    Unread,
    /// The broker has ended the session, or is gone.
    Ended,
}

/// What was shown so far.
struct Show {
    json: bool,
    /// Events that are yet to be shown.
    left: Option<u64>,
    events: u64,
    lost: u64,
    /// Publishers that broke their rings.
    broken: u64,
    /// Times that the broker had sent this process away.
    away: u64,
    /// Something of what was shown last has not been read.
    unread: bool,
}

impl Show {
    async fn all(
        &mut self,
        mut subscription: Subscription,
        mut connection: watch::Receiver<Connection>,
        output: &mut Output,
    ) -> Over {
        while self.left != Some(0) {
            let item = tokio::select! {
                biased;
                () = output.closed() => return Over::Unread,
                Ok(()) = connection.changed() => {
                    tell_connection(&connection.borrow_and_update());
                    continue;
                }
                item = subscription.recv() => item,
            };
            match item {
                Some(Ok(batch)) => {
                    let (events, text) = self.text(&batch);
                    if output.show(text).await.is_err() {
                        return Over::Unread;
                    }
                    self.events += events;
                    self.left = self.left.map(|left| left - events);
                }
                Some(Err(RecvError::Lagged(events))) => {
                    self.lost = self.lost.saturating_add(events);
                    notice(&format!(
                        "{events} events were lost here; larger rings (--ring-bytes) bear longer pauses"
                    ));
                }
                Some(Err(error @ (RecvError::Away { .. } | RecvError::CutOff { .. }))) => {
                    self.away += 1;
                    notice(&format!("{error}; events of that time are missing here"));
                }
                Some(Err(error)) => {
                    self.broken += 1;
                    notice(&format!("{error}; nothing more comes from it"));
                }
                None => return Over::Ended,
            }
        }
        Over::Count
    }

    /// As many events of a batch as are still asked for.
    fn text(&self, batch: &ReceivedBatch) -> (u64, Vec<u8>) {
        let wanted = self
            .left
            .map_or(batch.len(), |left| batch.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        let mut text = Vec::new();
        for position in 0..wanted {
            if self.json {
                line::json(batch, position, &mut text);
            } else {
                text.extend_from_slice(line::human(batch, position).as_bytes());
            }
        }
        (wanted as u64, text)
    }

    fn ending(&self, over: Over) -> Ending {
        if over == Over::Unread {
            return Ending::Done;
        }
        let Self { events, lost, broken, away, .. } = self;
        if self.unread {
            notice("the output is not whole: nobody has read what was shown last");
        }
        notice(&format!("events: {events}, lost: {lost}"));
        let cut = self.unread && over != Over::Told;
        if cut || [*lost, *broken, *away].iter().any(|count| *count > 0) {
            Ending::Wanting
        } else if over == Over::Time && self.left.is_some() {
            Ending::Fewer
        } else {
            Ending::Done
        }
    }
}
