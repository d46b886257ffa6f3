//! `eventbus doctor`: what this host, and this user on it, has of what the bus lives on.

mod broker;
mod host;
mod socket;

use std::fmt;
use std::io;

use serde::Serialize;

use crate::ending::Ending;
use crate::interrupt::Interrupt;
use crate::output::print_until;
use crate::place::Reach;
use crate::printable::printable;

pub(crate) const ABOUT: &str = "\
Looks at what this host offers to the bus, as the user who asks, and at the broker that should listen here. Each line
says `ok`, `weak` (it works, and holds less than it could) or `missing`, what was found, and what to do.

It makes rings on a bus of its own, in a temporary folder, and connects to the broker, without --id as a stranger, and leaves at once.";

pub(crate) const HELP: &str = "\
Examples:
  eventbus doctor
  eventbus doctor --socket /run/daemoneye/bus.sock
  eventbus doctor --json | jq '.checks[] | select(.state != \"ok\")'

Exit codes:
  0  nothing is missing
  1  it could not look
  2  the command line is wrong
  3  something is missing";

/// Characters of a finding.
const FINDING_COLUMNS: usize = 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    reach: Reach,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Weak,
    Missing,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Weak => "weak",
            Self::Missing => "missing",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// What to do, where something is to be done.
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), advice: None }
    }

    fn weak(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Weak, found: found.into(), advice: Some(advice.into()) }
    }

    fn missing(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Missing, found: found.into(), advice: Some(advice.into()) }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, state, found, advice } = self;
        write!(f, "{state:<8} {name:<15} {}", printable(found, FINDING_COLUMNS))?;
        match advice {
            Some(advice) => writeln!(f, "; {}", printable(advice, FINDING_COLUMNS)),
            None => writeln!(f),
        }
    }
}

#[derive(Serialize)]
struct Report {
    uid: u32,
    worst: State,
    checks: Vec<Check>,
}

/// Looks at everything, and says what was found.
pub(crate) fn run(arguments: &Arguments) -> io::Result<Ending> {
    crate::runtime()?.block_on(async {
        let mut interrupt = Interrupt::listen()?;
        let report = tokio::select! {
            report = report(&arguments.reach) => report,
            // It has not looked at everything, and so can't say that nothing is missing.
            () = interrupt.heard() => return Err(io::Error::other("told to end before it had looked at everything")),
        };
        let mut text = Vec::new();
        if arguments.json {
            crate::json::line(&report, &mut text)?;
        } else {
            text.extend(report.checks.iter().flat_map(|check| check.to_string().into_bytes()));
        }
        print_until(text, interrupt.heard()).await?;
        Ok(if report.worst == State::Missing { Ending::Wanting } else { Ending::Done })
    })
}

async fn report(reach: &Reach) -> Report {
    let path = reach.place.path();
    let mut checks = vec![host::sealed_memory(), broker::rings().await];
    checks.extend(host::peers());
    checks.extend([host::descriptors(), host::memory(), host::shared_memory()]);
    checks.extend([socket::folder(&path), socket::file(&path), socket::key(&path, &reach.key_file())]);
    checks.extend([broker::listening(&path, reach.broker_uid).await, broker::session(reach).await]);
    let worst = checks.iter().map(|check| check.state).max().unwrap_or(State::Ok);
    Report { uid: rustix::process::geteuid().as_raw(), worst, checks }
}
