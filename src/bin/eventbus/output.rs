//! Standard output, written by a thread of its own: a reader that is slow, or has stopped, keeps nobody from hearing a signal.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// How long the end waits for a reader that does not read.
const END_PATIENCE: Duration = Duration::from_secs(1);

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
        let write = move || {
            let mut result = Ok(());
            while let (Ok(()), Some(text)) = (&result, texts_end.blocking_recv()) {
                let mut out = io::stdout().lock();
                result = out.write_all(&text).and_then(|()| out.flush());
            }
            // Who no longer waits has ended.
            let _ = tell.send(result);
        };
        std::thread::Builder::new().name("eventbus-output".into()).spawn(write)?;
        let watched =
            AsyncFd::with_interest(io::stdout().as_fd().try_clone_to_owned()?, Interest::ERROR).ok();
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

    /// Waits until all is written, but not for ever.
    ///
    /// # Errors
    /// What the system said. That nobody reads any more is none: it is for the reader to know when it has enough.
    pub(crate) async fn end(self) -> io::Result<()> {
        let Self { texts, written, .. } = self;
        drop(texts);
        match timeout(END_PATIENCE, written).await {
            Ok(Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

/// Writes a text to standard output, whole.
///
/// # Errors
/// As [`Output::end`].
pub(crate) fn print(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Says something beside the output, in one line that moves no cursor.
pub(crate) fn notice(text: &str) {
    // Without a reader of stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "eventbus: {}", crate::printable::printable(text, NOTICE_COLUMNS));
}

/// Characters of a notice: a refusal names all that would be needed.
const NOTICE_COLUMNS: usize = 4096;
