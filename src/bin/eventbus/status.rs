//! `eventbus status`: what there is on a bus, from its broker, as a table or as JSON.
//!
//! Names, topics and causes are the words of other processes: they are shown escaped.

mod table;
mod tree;

use std::io::{self, Write as _};
use std::path::PathBuf;

use daemoneye_eventbus::{
    Answer, BrokerStatistics, ConnectError, ConnectOptions, EventBusClient, FileError, Instance,
    InstanceError, LaunchToken, RingState, StatisticsError,
};

use crate::ending::Ending;

pub(crate) const ABOUT: &str = "\
Shows what there is on a bus: who is connected, what each publishes and subscribes to, the rings between them, what of
the shared limits is in use, what was refused, and who broke a ring.

Events do not pass the broker, so how many there were it asks its clients: published, dropped, received and lost are what
they say of themselves. One that does not answer within 400 ms is shown so. For the broker's own user, and root.";

pub(crate) const HELP: &str = "\
Examples:
  eventbus status
  eventbus status --socket /run/daemoneye/bus.sock
  eventbus status --json | jq '.sessions[] | select(.answer == \"not answering\") | .component'

Exit codes:
  0  it is shown, and each client has answered
  1  it could not be had: no broker, or it is not for this user
  2  the command line is wrong
  3  it is shown, and some client has not answered";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the broker listens
    #[arg(long, value_name = "PATH", conflicts_with = "instance")]
    socket: Option<PathBuf>,
    /// The named instance that is asked
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// The user that the broker runs as; at first root, or the one who asks
    #[arg(long, value_name = "UID")]
    broker_uid: Option<u32>,
    /// A launch token, where the broker lets nobody in without
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error("no launch token: {0}")]
    Token(#[from] FileError),
    #[error("no connection to the broker: {0}")]
    Connect(#[from] ConnectError),
    #[error("no statistics: {0}")]
    Statistics(#[from] StatisticsError),
    #[error("no runtime: {0}")]
    Host(#[from] io::Error),
}

/// Asks, and shows what is answered.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending, Failure> {
    let runtime = crate::runtime()?;
    let statistics = runtime.block_on(ask(arguments))?;
    let mut shown =
        if arguments.json { tree::json(&statistics).to_string() } else { table::table(&statistics) };
    shown.push('\n');
    match io::stdout().write_all(shown.as_bytes()).and_then(|()| io::stdout().flush()) {
        // Who reads no further has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    let mute = statistics.sessions.iter().any(|session| session.answer == Answer::NotAnswering);
    Ok(if mute { Ending::Wanting } else { Ending::Done })
}

/// What the broker answers, without the session that has asked.
async fn ask(arguments: &Arguments) -> Result<BrokerStatistics, Failure> {
    // A name is one session's: two who ask at once have two.
    let mut options = ConnectOptions::new(&format!("status_{}", std::process::id()));
    if let Some(path) = &arguments.socket {
        options = options.path(path);
    }
    if let Some(name) = &arguments.instance {
        options = options.instance(&Instance::new(name)?);
    }
    if let Some(uid) = arguments.broker_uid {
        options = options.expected_broker_uid(uid);
    }
    if let Some(path) = &arguments.token {
        options = options.token(LaunchToken::read_file(path)?);
    }
    let client = EventBusClient::connect(options).await?;
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

/// Whether a client has said what it has counted, in words.
fn answer(answer: Answer) -> &'static str {
    match answer {
        Answer::Told => "told",
        Answer::NotAnswering => "not answering",
        Answer::Unable => "unable",
        _ => "unknown",
    }
}
