//! How a command ends that was not wrong in itself (2, which `clap` says) and could be done.

use std::process::ExitCode;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All that was asked.
    Done,
    /// It was done, and something is missing: events were lost, say. Each command's help says what.
    Wanting,
    /// The time was over before so many events had come as were asked for.
    Fewer,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Done => Self::SUCCESS,
            Ending::Wanting => Self::from(3),
            Ending::Fewer => Self::from(4),
        }
    }
}
