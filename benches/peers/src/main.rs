//! The relay beside busrt: from a client over a broker to a client, three processes each, in turns.
//!
//! This program starts itself as broker, subscriber and publisher. The publisher publishes message by message and keeps a *window*: it has
//! no more messages under way than that, and the subscriber says over a socket of their own how many it has received. All sides have the
//! same, since busrt disconnects a subscriber whose queue is full, and ours loses what is new: so both deliver everything, and a round that
//! does not says so. Time is taken from the first message to the last that the subscriber reports; processor time is user and system of
//! all three processes, from the kernel's account of each, over that time.
//!
//! busrt runs twice, on both kinds of runtime; what counts is a ratio to the better.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

mod busrt_side;
mod ours;
mod pace;
mod processes;
mod rounds;

/// Bytes of a message.
const MESSAGE_BYTES: usize = 256;
/// Messages that may be under way, and after how many the subscriber says so: half of what waits in busrt before it disconnects.
const WINDOW: u64 = 4096;
const REPORTED: u64 = 512;

/// Measures our relay and busrt in turns.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long each side publishes in a round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How often all have their turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// For the processes that this program starts: side and role.
    #[arg(long, hide = true, num_args = 2)]
    play: Option<Vec<String>>,
}

/// Whose messages they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    /// Its processes have a runtime of several threads, as in its examples.
    Busrt,
    BusrtOneThread,
}

impl Side {
    const ALL: [Self; 3] = [Self::Ours, Self::Busrt, Self::BusrtOneThread];

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Busrt => "busrt",
            Self::BusrtOneThread => "busrt-one-thread",
        }
    }

    fn runtime(self) -> tokio::runtime::Runtime {
        let built = match self {
            Self::Busrt => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
            Self::Ours | Self::BusrtOneThread => {
                tokio::runtime::Builder::new_current_thread().enable_all().build()
            }
        };
        built.expect("a runtime")
    }
}

fn main() -> ExitCode {
    let Arguments { seconds, rounds, play } = Arguments::parse();
    let time = Duration::from_secs_f64(seconds);
    let Some(play) = play else { return rounds::run(time, rounds) };
    let side = Side::ALL.into_iter().find(|side| side.name() == play[0]).expect("a side");
    processes::end_with_parent();
    side.runtime().block_on(async {
        match (side, play[1].as_str()) {
            (Side::Ours, "broker") => ours::broker().await,
            (Side::Ours, "subscriber") => ours::subscriber().await,
            (Side::Ours, _) => ours::publisher(time).await,
            (_, "broker") => busrt_side::broker().await,
            (_, "subscriber") => busrt_side::subscriber().await,
            (_, _) => busrt_side::publisher(time).await,
        }
    });
    ExitCode::SUCCESS
}
