//! Standard output, and standard error. What goes on for long has them written by threads of their own: a reader that is slow, or has
//! stopped, keeps nobody from hearing a signal, and no broker from its work.

mod lines;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

pub(crate) use lines::Lines;

/// How long an end that can't wait waits for a reader that does not read.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Standard output, for texts that come one after the other and whose writer waits for their reader.
#[derive(Debug)]
pub(crate) struct Output {
    texts: mpsc::Sender<Vec<u8>>,
    written: oneshot::Receiver<io::Result<()>>,
    /// Says when a pipe has no reader any more, also while nothing is written; `None` for files.
    watched: Option<AsyncFd<OwnedFd>>,
}

/// Nothing more can be written: [`Output::end`] says why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

impl Output {
    pub(crate) fn begin() -> io::Result<Self> {
        // One text waits while another is written.
        let (texts, mut texts_end) = mpsc::channel::<Vec<u8>>(1);
        let (tell, written) = oneshot::channel();
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        let watched = AsyncFd::with_interest(stdout.try_clone()?, Interest::ERROR).ok();
        let write = move || {
            let mut out = File::from(stdout);
            let mut result = Ok(());
            while let (Ok(()), Some(text)) = (&result, texts_end.blocking_recv()) {
                result = write_all(&mut out, &text);
            }
            // Who no longer waits has ended.
            let _ = tell.send(result);
        };
        std::thread::Builder::new().name("eventbus-output".into()).spawn(write)?;
        Ok(Self { texts, written, watched })
    }

    /// Hands a text over to be written, as soon as there is room for it. Cancel-safe: given up midway, nothing of it is written.
    pub(crate) async fn show(&mut self, text: Vec<u8>) -> Result<(), Closed> {
        self.texts.send(text).await.map_err(|_| Closed)
    }

    /// Resolves when nothing more can be written. Cancel-safe.
    pub(crate) async fn closed(&self) {
        let unread = async {
            match &self.watched {
                Some(watched) if watched.ready(Interest::ERROR).await.is_ok() => {}
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.texts.closed() => {}
            () = unread => {}
        }
    }

    /// Waits until all is written, with a last text, but from `hurry` on no longer than [`END_PATIENCE`]. Whether all was.
    ///
    /// # Errors
    /// What the system said. That nobody reads any more is none: it is for the reader to know when it has enough.
    pub(crate) async fn end(self, last: Vec<u8>, hurry: impl Future<Output = ()>) -> io::Result<bool> {
        let Self { texts, written, .. } = self;
        let written = async {
            // What can't be written is said by the result.
            let _ = texts.send(last).await;
            drop(texts);
            written.await
        };
        let late = async {
            hurry.await;
            sleep(END_PATIENCE).await;
        };
        tokio::select! {
            biased;
            result = written => match result {
                Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok(true),
            },
            () = late => Ok(false),
        }
    }
}

/// Writes a text to standard output, whole, for a process that any signal ends.
///
/// # Errors
/// As [`Output::end`].
pub(crate) fn print(text: &[u8]) -> io::Result<()> {
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    match write_all(&mut out, text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// The same, for a process that is told of signals: from `hurry` on it does not wait for the reader any more.
///
/// # Errors
/// As [`Output::end`].
pub(crate) async fn print_until(text: Vec<u8>, hurry: impl Future<Output = ()>) -> io::Result<()> {
    Output::begin()?.end(text, hurry).await.map(drop)
}

/// Writes it all, also where somebody who shares the stream has made it one that does not wait.
fn write_all(out: &mut File, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match out.write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => text = &text[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&*out, PollFlags::OUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for a stream that does not wait by itself.
pub(crate) fn wait(stream: &impl AsFd, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(stream, what)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Standard error.
pub(crate) fn errors() -> &'static Lines {
    static ERRORS: OnceLock<Lines> = OnceLock::new();
    ERRORS.get_or_init(|| Lines::to(io::stderr()))
}

/// Says something beside the output, in one line that moves no cursor. Never waits.
pub(crate) fn notice(text: &str) {
    errors().say(format!("eventbus: {}", crate::printable::printable(text, NOTICE_COLUMNS)));
}

/// Characters of a notice: a refusal names all that would be needed.
const NOTICE_COLUMNS: usize = 4096;
