//! The `eventbus` command line. It is made of the library's public API alone.
#![forbid(unsafe_code)]

mod broker;
mod demo;
mod doctor;
mod ending;
mod interrupt;
mod json;
mod log;
mod output;
mod place;
mod printable;
mod publish;
mod status;
mod subscribe;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use daemoneye_eventbus::Backing;

use ending::Ending;

/// The local event bus of the DaemonEye security monitor.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a broker, for processes that publish and subscribe
    #[command(long_about = broker::ABOUT, after_help = broker::HELP)]
    Broker(broker::Arguments),
    /// Publishes events on a topic, one for each line of JSON
    #[command(long_about = publish::ABOUT, after_help = publish::HELP)]
    Pub(publish::Arguments),
    /// Shows the events of topics, in lines or as JSON
    #[command(long_about = subscribe::ABOUT, after_help = subscribe::HELP)]
    Sub(subscribe::Arguments),
    /// Looks at what this host offers to the bus, and says what to do
    #[command(long_about = doctor::ABOUT, after_help = doctor::HELP)]
    Doctor(doctor::Arguments),
    /// Shows the bus at work: a collector, an agent and a detector, three processes joined by rings in shared memory
    #[command(long_about = DEMO_ABOUT, after_help = DEMO_HELP)]
    Demo(DemoArguments),
    /// Shows what there is on a bus: who is connected, what it publishes and hears, and what was lost
    #[command(long_about = status::ABOUT, after_help = status::HELP)]
    Status(status::Arguments),
    /// The collector of a demo; started by it.
    #[command(hide = true)]
    DemoCollector(CollectorArguments),
    /// The detector of a demo; started by it.
    #[command(hide = true)]
    DemoDetector(PeerArguments),
}

const DEMO_ABOUT: &str = "\
Shows the bus at work, in three processes:

  collector  scans the process table of this machine once a second (the kernel's own included, threads of a
             process not), publishes each scan as one batch on events.process.batch, and what started
             and exited between two scans on events.process.lifecycle
  agent      this process: embeds the broker, and subscribes to events.process.#
  detector   subscribes to events.process.# as well

Events go from the collector straight to the two others, over one lock-free ring in shared memory each. Every second
there is a line with the figures of `agent/detector`, and below it the newest processes. It ends by itself, or with
Ctrl-C, and accounts for every event: published = received + lost.";

const DEMO_HELP: &str = "\
Examples:
  eventbus demo                              the processes of this machine, for ten seconds
  eventbus demo --seconds 60 --json          one JSON object at the end, for scripts
  eventbus demo --rate 100000                a hundred thousand synthetic events per second
  eventbus demo --rate 0 --seconds 5         as fast as it goes; what a full ring does not take is lost, and counted

Exit codes:
  0  every event is accounted for: published = received + lost, for each subscriber
  1  the demo could not be run to its end
  2  the command line is wrong
  3  some event is not accounted for";

#[derive(Debug, clap::Args)]
struct DemoArguments {
    /// How long to publish
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Publish N synthetic process events per second instead of the process table; 0: as fast as it goes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    rate: Option<u64>,
    /// Print nothing but one JSON object, at the end
    #[arg(long)]
    json: bool,
    /// Where the broker listens; at first in a temporary folder of its own
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// What rings are made of; at first the better one that this platform has
    #[arg(long, value_name = "KIND")]
    backing: Option<BackingArgument>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BackingArgument {
    /// Sealed memory without a name (Linux)
    Memfd,
    /// Memory with a name, for processes of one user
    Named,
}

impl From<BackingArgument> for Backing {
    fn from(argument: BackingArgument) -> Self {
        match argument {
            BackingArgument::Memfd => Self::Memfd,
            BackingArgument::Named => Self::Named,
        }
    }
}

#[derive(Debug, clap::Args)]
struct CollectorArguments {
    #[command(flatten)]
    peer: PeerArguments,
    #[arg(long)]
    rate: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct PeerArguments {
    #[arg(long)]
    socket: PathBuf,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // It repeats what was on the command line, which a script may have from a stranger.
        Err(error) if error.use_stderr() => {
            output::errors().say(printable::visible_lines(error.render().to_string().trim_end()));
            output::errors().end();
            return ExitCode::from(2);
        }
        Err(asked) => asked.exit(),
    };
    let code = match run(arguments.command) {
        Ok(ending) => ending.into(),
        Err(error) => {
            output::notice(&error.to_string());
            ExitCode::FAILURE
        }
    };
    output::errors().end();
    code
}

fn run(command: Command) -> Result<Ending, Box<dyn Error>> {
    Ok(match command {
        Command::Broker(arguments) => broker::run(&arguments)?,
        Command::Pub(arguments) => publish::run(arguments)?,
        Command::Sub(arguments) => subscribe::run(&arguments)?,
        Command::Doctor(arguments) => doctor::run(&arguments)?,
        Command::Status(arguments) => status::run(&arguments)?,
        Command::Demo(DemoArguments { seconds, rate, json, socket, backing }) => {
            let backing = backing.map(Backing::from).unwrap_or_default();
            let accounted = demo::run(demo::Options { seconds, rate, json, socket, backing })?;
            if accounted { Ending::Done } else { Ending::Wanting }
        }
        Command::DemoCollector(CollectorArguments { peer, rate }) => {
            demo::collect(&peer.socket, rate)?;
            Ending::Done
        }
        Command::DemoDetector(PeerArguments { socket }) => {
            demo::detect(&socket)?;
            Ending::Done
        }
    })
}

/// A runtime on this thread.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
