//! `eventbus status`: what there is on a bus, from its broker, as a table or as JSON.
//!
//! Names, topics and causes are the words of other processes: they are shown escaped.

mod table;
mod tree;

use std::io;

use daemoneye_eventbus::{Answer, BrokerStatistics, RingPath, RingState, StatisticsError};

use crate::ending::Ending;
use crate::output::print;
use crate::place::{Reach, ReachError};

pub(crate) const ABOUT: &str = "\
Shows what there is on a bus: who is connected, what each publishes and subscribes to, the rings between them, what of
the shared limits is in use, what was refused, and who broke a ring.

Events do not pass the broker, so how many there were it asks its clients: published, dropped, received and lost are what
they say of themselves. One that does not answer within 400 ms is shown so. For the broker's own user, and root.";

pub(crate) const HELP: &str = "\
Examples:
  eventbus status
  eventbus status --socket /run/daemoneye/bus.sock
  eventbus status --id exporter --token-file token     where the broker lets nobody in without a token
  eventbus status --json | jq '.sessions[] | select(.answer == \"not answering\") | .component'

Exit codes:
  0  it is shown, and each client has answered
  1  it could not be had: no broker, or it is not for this user
  2  the command line is wrong
  3  it is shown, and some client has not answered";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    reach: Reach,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Reach(#[from] ReachError),
    #[error("no statistics: {0}")]
    Statistics(#[from] StatisticsError),
    #[error("no runtime: {0}")]
    Host(io::Error),
    #[error("can't write: {0}")]
    Output(io::Error),
}

/// Asks, and shows what is answered.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending, Failure> {
    let runtime = crate::runtime().map_err(Failure::Host)?;
    let statistics = runtime.block_on(ask(arguments))?;
    let mut shown = Vec::new();
    if arguments.json {
        crate::json::line(&tree::json(&statistics), &mut shown)
            .map_err(|error| Failure::Output(error.into()))?;
    } else {
        shown.extend_from_slice((table::table(&statistics) + "\n").as_bytes());
    }
    print(&shown).map_err(Failure::Output)?;
    let mute = statistics.sessions.iter().any(|session| session.answer == Answer::NotAnswering);
    Ok(if mute { Ending::Wanting } else { Ending::Done })
}

/// What the broker answers, without the session that has asked.
async fn ask(arguments: &Arguments) -> Result<BrokerStatistics, Failure> {
    // A name is one session's: two who ask at once have two.
    let client = arguments.reach.connect(&arguments.reach.id_or_strange("status")).await?;
    let mut statistics = client.broker_statistics().await?;
    statistics.sessions.retain(|session| session.component != *client.component());
    Ok(statistics)
}

/// How far a ring is, in a word.
fn state(state: RingState) -> &'static str {
    match state {
        RingState::Forming => "forming",
        RingState::Ready => "ready",
        RingState::Poisoned => "broken",
        _ => "unknown",
    }
}

/// What a ring leads through, in a word; and why it is the broker.
fn path(path: &RingPath) -> (&'static str, Option<&str>) {
    match path {
        RingPath::Memory => ("ring", None),
        RingPath::RelayOfControl => ("relay", Some("it is for control topics")),
        RingPath::RelayOfAll => ("relay", Some("the broker was told to have all go over it")),
        RingPath::RelayInstead { cause } => ("relay", Some(cause)),
        _ => ("unknown", None),
    }
}

/// Whether a client has said what it has counted, in words.
fn answer(answer: Answer) -> &'static str {
    match answer {
        Answer::Told => "told",
        Answer::NotAnswering => "not answering",
        Answer::Unable => "unable",
        _ => "unknown",
    }
}
