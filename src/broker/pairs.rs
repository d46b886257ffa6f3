//! Connections that were made for processes which are yet to be started, until somebody speaks over them.

use std::io;

use tokio::sync::mpsc;

use super::Invited;
use super::serve::Event;
use crate::access::Component;
use crate::sys::{Credentials, Stream};
use crate::wire::GoodbyeReason;

/// What came of one.
#[derive(Debug)]
pub(super) struct Spoke {
    pub(super) stream: Stream,
    pub(super) invited: Invited,
    /// `None`: nobody has the other end any more.
    pub(super) speaker: io::Result<Option<Credentials>>,
}

/// Waits for the first word.
pub(super) async fn await_word(stream: Stream, invited: Invited, events: mpsc::Sender<Event>) {
    let speaker = Credentials::of_first_speaker(&stream).await;
    // The loop may be gone by now, and the connection with it.
    let _ = events.send(Event::Spoke(Spoke { stream, invited, speaker })).await;
}

impl Invited {
    /// Why this user has no business here.
    pub(super) fn wrong_uid(&self, uid: u32) -> Option<GoodbyeReason> {
        let Self { component, uid: invited } = self;
        let what = |invited| format!("this connection was made for {component} as uid {invited}, not {uid}");
        invited
            .filter(|&invited| invited != uid)
            .map(|invited| GoodbyeReason::Protocol { what: what(invited) })
    }

    /// Why this client has no business here.
    pub(super) fn wrong_component(&self, client_id: &str) -> Option<GoodbyeReason> {
        // Who has no name that can be is told so by the machine.
        let component = Component::from_client_id(client_id).ok()?;
        let what = || format!("this connection was made for {}, not for {component}", self.component);
        (component != self.component).then(|| GoodbyeReason::Protocol { what: what() })
    }
}
