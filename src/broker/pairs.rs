//! Connections that were made for processes which are yet to be started, until somebody speaks over them.

use std::io;

use tokio::sync::mpsc;

use super::Invited;
use super::serve::Event;
use crate::access::Component;
use crate::sys::{Credentials, Stream};
use crate::wire::{GoodbyeReason, Nonce};

/// What came of one.
#[derive(Debug)]
pub(super) struct Spoke {
    pub(super) stream: Stream,
    pub(super) nonce: Nonce,
    pub(super) invited: Invited,
    /// `None`: nobody has the other end any more.
    pub(super) speaker: io::Result<Option<Credentials>>,
}

/// Waits for the first word.
pub(super) async fn await_word(stream: Stream, nonce: Nonce, invited: Invited, events: mpsc::Sender<Event>) {
    let speaker = Credentials::of_first_speaker(&stream).await;
    // The loop may be gone by now, and the connection with it.
    let _ = events.send(Event::Spoke(Spoke { stream, nonce, invited, speaker })).await;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::{BrokerOptions, DaemoneyeBroker, StartError};
    use crate::client::{ConnectError, ConnectOptions, EventBusClient};
    use crate::config::PAIRS_WAITING_MAX;

    /// Long enough for a slow machine; what is waited for takes milliseconds.
    const LONG: Duration = Duration::from_secs(20);

    fn broker() -> DaemoneyeBroker {
        // It is not started: no path is needed.
        DaemoneyeBroker::with_options(BrokerOptions::new("/nowhere/bus.sock")).expect("a thread")
    }

    fn procmond() -> Component {
        Component::from_client_id("procmond").expect("a legal name")
    }

    #[tokio::test]
    async fn so_many_connections_wait_and_no_more_until_one_is_used_or_given_up() {
        let broker = broker();
        let pair = || async { broker.socket_pair(&procmond(), None).await };
        let mut waiting = Vec::new();
        for _ in 0..PAIRS_WAITING_MAX {
            waiting.push(pair().await.expect("there is room"));
        }
        let refused = pair().await;
        assert!(matches!(refused, Err(StartError::PairsWaiting { limit: PAIRS_WAITING_MAX })), "{refused:?}");
        for use_it in [true, false] {
            let end = waiting.pop().expect("there are many");
            let client = if use_it {
                Some(EventBusClient::connect(ConnectOptions::from_descriptor("procmond", end)).await)
            } else {
                drop(end);
                None
            };
            assert!(client.is_none_or(|client| client.is_ok()));
            let room = async {
                while let Err(error) = pair().await.map(|end| waiting.push(end)) {
                    assert!(matches!(error, StartError::PairsWaiting { .. }), "{error}");
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(LONG, room).await.expect("there is room again");
            let refused = pair().await;
            assert!(matches!(refused, Err(StartError::PairsWaiting { .. })), "for one: {refused:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_used_once_by_options_and_their_clones() {
        let broker = broker();
        let end = broker.socket_pair(&procmond(), None).await.expect("descriptors");
        let options = ConnectOptions::from_descriptor("procmond", end);
        let client = EventBusClient::connect(options.clone()).await.expect("the broker is this process");
        let again = EventBusClient::connect(options).await;
        assert!(matches!(again, Err(ConnectError::DescriptorUsed)), "{again:?}");
        broker.shutdown().await.expect("it has no errors");
        tokio::time::timeout(LONG, client.disconnected()).await.expect("it hears of the end");
    }

    #[tokio::test]
    async fn a_connection_that_nobody_has_used_ends_with_the_broker() {
        let broker = broker();
        let end = broker.socket_pair(&procmond(), None).await.expect("descriptors");
        drop(broker);
        let connected = EventBusClient::connect(ConnectOptions::from_descriptor("procmond", end)).await;
        assert!(matches!(connected, Err(ConnectError::Protocol { .. })), "{connected:?}");
    }
}
