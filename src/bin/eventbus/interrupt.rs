//! Ctrl-C, and its kin: being told to end, and losing the terminal.
//!
//! Whoever starts a command may have it ignore some of those, as `nohup` does with a hangup, and a shell with Ctrl-C for what it starts in
//! the background. That stays so.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// From when this exists, the process is not ended by those signals, but told of them.
#[derive(Debug)]
pub(crate) struct Interrupt {
    interrupt: Option<Signal>,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Interrupt {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { hangup: unless_ignored(SignalKind::hangup())?, ..Self::listen_but_for_hangup()? })
    }

    /// For who takes a hangup for something else.
    pub(crate) fn listen_but_for_hangup() -> io::Result<Self> {
        let interrupt = unless_ignored(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())?, hangup: None })
    }

    /// Resolves at the next signal. Cancel-safe.
    pub(crate) async fn heard(&mut self) {
        let Self { interrupt, terminate, hangup } = self;
        tokio::select! {
            () = heard(interrupt) => {}
            _ = terminate.recv() => {}
            () = heard(hangup) => {}
        }
    }
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

fn unless_ignored(kind: SignalKind) -> io::Result<Option<Signal>> {
    if is_ignored(kind) { Ok(None) } else { signal(kind).map(Some) }
}

/// Whether the process was started so that it ignores this signal. Where the host does not say so, it does not.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    // The lowest bit is signal 1.
    ignored >> (kind.as_raw_value() - 1) & 1 == 1
}

/// A terminal sends its signals to the children too. Those go on: they have to report, and end when their parent says so, or
/// is gone.
pub(crate) fn leave_to_parent() -> io::Result<()> {
    // The handler stays, whoever listens.
    drop((signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?));
    Ok(())
}
