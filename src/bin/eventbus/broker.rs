//! `eventbus broker`: a broker in a process of its own, which serves others and publishes nothing itself.

use std::io;
use std::path::{Path, PathBuf};

use daemoneye_eventbus::{
    AccessPolicy, Backing, BrokerOptions, DaemoneyeBroker, EventBusError, LoadPolicyError, ReloadError,
    SocketGroup,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::ending::Ending;
use crate::interrupt::Interrupt;
use crate::log::{self, Level};
use crate::output::{Lines, notice};
use crate::place::{Place, ring_bytes};

pub(crate) const ABOUT: &str = "\
Runs a broker until Ctrl-C, or SIGTERM. Nobody is `agent` on its bus, and what only the agent may do, nobody does,
unless a policy file says otherwise. Who may connect is decided by the mode and the group of the socket, and by who can
read the key file that is put beside it.

At SIGHUP it reads its policy file again, and says what that changed. A file that can't be read, makes no sense,
or could have been written by others changes nothing.

What it logs, and the audit stream, are lines on standard error: when, level, target, name, and fields, as
docs/operations.md and docs/policy.md have them. It does not wait for who reads them, and says how many are missing.";

pub(crate) const HELP: &str = "\
Examples:
  eventbus broker                                            at /tmp/daemoneye.sock, for this user alone
  eventbus broker --instance staging                         at /tmp/daemoneye-staging.sock, a bus of its own
  eventbus broker --socket /run/daemoneye/bus.sock --socket-group daemoneye --socket-mode 660
  eventbus broker --policy /etc/daemoneye/policy.toml        kill -HUP reads it again

Exit codes:
  0  it was told to end, and has
  1  it does not run: another broker is live there, say, or the policy file makes no sense
  2  the command line is wrong";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Who may publish and subscribe to what; at first the table of docs/topic-hierarchy.md
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The mode of the socket's file: who may write to it may connect
    #[arg(long, value_name = "OCTAL", default_value = "600", value_parser = mode)]
    socket_mode: u32,
    /// The group of the socket's file, by name or by number
    #[arg(long, value_name = "NAME")]
    socket_group: Option<String>,
    /// Users whose processes are the bus's own components: a quarter of all that is shared out is kept for them
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    component_uid: Vec<u32>,
    /// Data bytes of each ring, a power of two from 65536; at first 8 MiB
    #[arg(long, value_name = "BYTES", value_parser = ring_bytes)]
    ring_bytes: Option<usize>,
    /// What rings are made of; at first the better one that this platform has
    #[arg(long, value_name = "KIND")]
    backing: Option<crate::BackingArgument>,
    /// How much it logs, on standard error
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: Level,
}

fn mode(octal: &str) -> Result<u32, String> {
    match u32::from_str_radix(octal, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("a mode has three octal digits, such as 660".into()),
    }
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    #[error("no {what}: {source}")]
    Host { what: &'static str, source: io::Error },
    #[error("the policy is refused: {0}")]
    Policy(#[from] LoadPolicyError),
    #[error("the broker does not run: {0}; `eventbus doctor` looks closer")]
    Start(#[from] EventBusError),
}

fn no(what: &'static str) -> impl Fn(io::Error) -> BrokerError {
    move |source| BrokerError::Host { what, source }
}

impl Arguments {
    fn options(&self, policy: AccessPolicy) -> BrokerOptions {
        let mut options = BrokerOptions::new(self.place.path())
            .policy(policy)
            .socket_mode(self.socket_mode)
            .component_uids(self.component_uid.iter().copied())
            .backing(self.backing.map(Backing::from).unwrap_or_default());
        if let Some(group) = &self.socket_group {
            let by_number = |_| SocketGroup::from(group.as_str());
            options = options.socket_group(group.parse().map_or_else(by_number, SocketGroup::Id));
        }
        if let Some(bytes) = self.ring_bytes {
            options = options.ring_bytes(bytes);
        }
        options
    }
}

/// Runs a broker until it is told to end.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending, BrokerError> {
    crate::runtime().map_err(no("runtime"))?.block_on(async {
        // Before anybody can know that there is a broker to send them to.
        let mut interrupt = Interrupt::listen_but_for_hangup().map_err(no("handler for a signal"))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(no("handler for a signal"))?;
        let mut policy = arguments.policy.as_deref().map(AccessPolicy::load).transpose()?.unwrap_or_default();
        log::begin(arguments.log);
        let out = Lines::to(std::io::stdout());
        let broker = DaemoneyeBroker::with_options(arguments.options(policy.clone()));
        let broker = broker.map_err(EventBusError::from)?;
        broker.start().await?;
        say(&out, &format!("listening at {}, process {}", broker.path().display(), std::process::id()));
        loop {
            tokio::select! {
                () = interrupt.heard() => break,
                _ = hangup.recv() => match &arguments.policy {
                    Some(path) => reload(&broker, path, &mut policy, &out).await,
                    None => notice("SIGHUP: there is no policy file to read again; --policy names one"),
                },
            }
        }
        broker.shutdown().await?;
        out.end();
        Ok(Ending::Done)
    })
}

/// Reads the policy again, and puts it in force if it makes sense.
async fn reload(broker: &DaemoneyeBroker, path: &Path, policy: &mut AccessPolicy, out: &Lines) {
    let changed = match AccessPolicy::load(path) {
        Ok(changed) => changed,
        Err(error) => {
            return notice(&format!("the policy is refused, and the old one stays in force: {error}"));
        }
    };
    if changed == *policy {
        return say(out, &format!("the policy of {} says what is in force already", path.display()));
    }
    match broker.reload_policy(changed.clone()).await {
        Ok(change) => {
            *policy = changed;
            let (revoked, granted) = (change.revoked, change.granted);
            let path = path.display();
            say(
                out,
                &format!("the policy of {path} is in force: {revoked} routes revoked, {granted} granted"),
            );
        }
        Err(ReloadError::Shutdown) => {}
        Err(error) => notice(&format!("the policy is not in force: {error}")),
    }
}

/// Whoever has stopped reading this does not end the bus, nor keep it from hearing a signal.
fn say(out: &Lines, text: &str) {
    out.say(crate::printable::printable(text, 4096));
}
