//! Ctrl-C, and its kin: being told to end, and losing the terminal.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

/// From when this exists, the process is not ended by those signals, but told of them.
#[derive(Debug)]
pub(crate) struct Interrupt([Signal; 3]);

impl Interrupt {
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Resolves at the next signal. Cancel-safe.
    pub(crate) async fn heard(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    /// A terminal sends its signals to the children too. Those go on: they have to report, and end when their parent says so, or
    /// is gone.
    pub(crate) fn leave_to_parent() -> Result<(), Failure> {
        // The handler stays, whoever listens.
        drop((listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?));
        Ok(())
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|source| Failure::Host { what: "handler for a signal", source })
}
