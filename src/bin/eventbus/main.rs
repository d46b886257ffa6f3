//! The `eventbus` command line. It is made of the library's public API alone.
#![forbid(unsafe_code)]

mod demo;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use daemoneye_eventbus::Backing;

/// The local event bus of the DaemonEye security monitor.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the bus at work: a collector, an agent and a detector, three processes joined by rings in shared memory
    #[command(long_about = DEMO_ABOUT, after_help = DEMO_HELP)]
    Demo(DemoArguments),
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
    let result = match Arguments::parse().command {
        Command::Demo(DemoArguments { seconds, rate, json, socket, backing }) => {
            let backing = backing.map(Backing::from).unwrap_or_default();
            let accounted = demo::run(demo::Options { seconds, rate, json, socket, backing });
            accounted.map(|accounted| if accounted { ExitCode::SUCCESS } else { ExitCode::from(3) })
        }
        Command::DemoCollector(CollectorArguments { peer, rate }) => {
            demo::collect(&peer.socket, rate).map(|()| ExitCode::SUCCESS)
        }
        Command::DemoDetector(PeerArguments { socket }) => demo::detect(&socket).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // Without a reader of stderr there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "eventbus: {error}");
            ExitCode::FAILURE
        }
    }
}
