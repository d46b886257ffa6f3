//! Ctrl-C, and its kin: being told to end, and losing the terminal.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// From when this exists, the process is not ended by those signals, but told of them.
#[derive(Debug)]
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Interrupt {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { hangup: Some(signal(SignalKind::hangup())?), ..Self::listen_but_for_hangup()? })
    }

    /// For who takes a hangup for something else.
    pub(crate) fn listen_but_for_hangup() -> io::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup: None })
    }

    /// Resolves at the next signal. Cancel-safe.
    pub(crate) async fn heard(&mut self) {
        let Self { interrupt, terminate, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = hung_up => {}
        }
    }
}

/// A terminal sends its signals to the children too. Those go on: they have to report, and end when their parent says so, or
/// is gone.
pub(crate) fn leave_to_parent() -> io::Result<()> {
    // The handler stays, whoever listens.
    drop((signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?));
    Ok(())
}
