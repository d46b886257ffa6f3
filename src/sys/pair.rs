//! Linux: a connection that is there before the process that it is for.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::credentials::name_speakers;
use super::linux::Stream;

/// One end of a connection with a broker, for a process that is started with it: so it needs no path, and no right to one.
///
/// It is closed by `exec`, unless it is handed over as one of the standard streams of a [`Command`](std::process::Command).
///
/// ```no_run
/// use daemoneye_eventbus::{Component, ConnectOptions, DaemoneyeBroker, EventBusClient, SocketEnd};
/// use std::process::Command;
///
/// # async fn agent(broker: DaemoneyeBroker) -> Result<(), Box<dyn std::error::Error>> {
/// // The agent, which starts the collector as another user:
/// let end = broker.socket_pair(&Component::from_client_id("procmond")?, Some(65534)).await?;
/// let child = Command::new("procmond").stdin(end).spawn()?;
/// # Ok(())
/// # }
/// # async fn collector() -> Result<(), Box<dyn std::error::Error>> {
/// // The collector:
/// let options = ConnectOptions::from_descriptor("procmond", SocketEnd::take_stdin()?);
/// let procmond = EventBusClient::connect(options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SocketEnd(OwnedFd);

impl SocketEnd {
    /// Takes the standard input of this process, which from then on reads as empty: a child that inherits it gets nothing.
    ///
    /// # Errors
    /// What the system says when descriptors are short.
    pub fn take_stdin() -> io::Result<Self> {
        Ok(Self(take_stdin()?.into()))
    }
}

/// Takes what the standard input is, and leaves nothing in its place.
pub(crate) fn take_stdin() -> io::Result<File> {
    let taken = std::io::stdin().as_fd().try_clone_to_owned()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let nothing = retry_on_intr(|| rustix::fs::open("/dev/null", flags, Mode::empty()))?;
    rustix::stdio::dup2_stdin(&nothing)?;
    Ok(taken.into())
}

impl From<OwnedFd> for SocketEnd {
    fn from(end: OwnedFd) -> Self {
        Self(end)
    }
}

impl From<SocketEnd> for OwnedFd {
    fn from(end: SocketEnd) -> Self {
        end.0
    }
}

impl From<SocketEnd> for Stdio {
    fn from(end: SocketEnd) -> Self {
        end.0.into()
    }
}

/// The broker's end of a new connection, which says who speaks over it, and the other.
pub(crate) fn pair() -> io::Result<(Stream, SocketEnd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    name_speakers(&ours)?;
    Ok((Stream::new(ours)?, SocketEnd(theirs)))
}
