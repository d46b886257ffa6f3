//! The loop, with clients in its own process.

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::access::Component;
use crate::broker::DaemoneyeBroker;
use crate::broker::TokenTerms;
use crate::client::{
    ConnectError, ConnectOptions, Disconnected, EventBusClient, SubscribeError, SubscribeOptions,
};
use crate::config::{BREACH_PAUSE, HELLO_TURN, HOST_RETRY};
use crate::sys::Access;
use crate::wire::Refusal;
use crate::wire::codec::encode;
use crate::wire::frames::frame;

/// Long enough for a slow machine; what is waited for takes milliseconds.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_shutdown_ends_the_subscriptions_in_the_brokers_own_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let broker = DaemoneyeBroker::new(path.to_str().expect("ASCII")).await.expect("a thread");
    broker.start().await.expect("a free path");
    let core = broker.agent().await.expect("a free name");
    let mut events = core.subscription(&["events.#"], SubscribeOptions::new()).await.expect("the agent may");
    broker.shutdown().await.expect("it has no errors");
    let end = tokio::time::timeout(LONG, events.recv()).await.expect("it does not wait for ever");
    assert!(end.is_none(), "{end:?}");
    assert_eq!(core.disconnected().await, Disconnected::Dismissed(GoodbyeReason::Shutdown));
    let refused = core.subscription(&["alerts.#"], SubscribeOptions::new()).await.expect_err("it is over");
    assert!(matches!(refused, SubscribeError::Disconnected(_)), "{refused:?}");
    assert!(!path.exists());
}

#[tokio::test]
async fn the_agents_name_is_for_another_process_that_has_a_token_for_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let broker = DaemoneyeBroker::new(path.to_str().expect("ASCII")).await.expect("a thread");
    broker.start().await.expect("a free path");
    let options = || ConnectOptions::new("agent").path(&path);
    let refused = EventBusClient::connect(options()).await.expect_err("the key is not enough");
    assert!(matches!(refused, ConnectError::Refused(Refusal::NameTaken { .. })), "{refused}");
    let terms = TokenTerms::new(Component::from_client_id("agent").expect("a legal name"));
    let token = broker.issue_token(terms).await.expect("descriptors");
    let agent = EventBusClient::connect(options().token(token)).await.expect("it has a token");
    agent.publisher("control.collector.lifecycle").await.expect("the agent may");
}

#[tokio::test]
async fn who_sends_what_is_no_message_or_no_hello_first_is_sent_away_after_a_pause() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let broker = DaemoneyeBroker::new(path.to_str().expect("ASCII")).await.expect("a thread");
    broker.start().await.expect("a free path");
    let no_hello = frame(&encode(&Request::ClosePublisher { publisher: 0 }));
    for said in [&[0xFF; 4], &no_hello[..]] {
        let since = Instant::now();
        let mut stream = tokio::net::UnixStream::connect(&path).await.expect("it listens");
        stream.write_all(said).await.expect("it is read");
        let mut told = Vec::new();
        let end = tokio::time::timeout(LONG, stream.read_to_end(&mut told)).await;
        end.expect("it ends").expect("it is closed");
        // Behind the greeting: its length, its place in the enum, and the number.
        assert!(told.len() > 4 + 1 + 32, "it is told why");
        assert!(since.elapsed() >= BREACH_PAUSE, "it was hung up on after {:?}", since.elapsed());
    }
}

/// A server that does nothing of its own accord, and the socket at its path.
fn idle_server(path: &Path) -> (Server, Listener) {
    let access = Access { mode: 0o600, group: None };
    let listener = Listener::bind(path, &access, &sys::Secret::new().expect("memory")).expect("a free path");
    let (events, _incoming) = mpsc::channel(1);
    let doorkeeper = Doorkeeper::new(false).expect("descriptors");
    (Server::new(BrokerOptions::new(path), doorkeeper, Roll::new().0, events), listener)
}

#[tokio::test]
async fn after_a_failure_to_accept_there_is_a_pause_for_newcomers_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let (mut server, listener) = idle_server(&path);
    let before = Instant::now();
    server.accepted(Err(std::io::Error::other("no descriptors")));
    assert!(before.elapsed() < HOST_RETRY, "the loop did not wait");
    let _client = sys::connect(&path, Instant::now() + LONG).expect("it listens");
    let accepted = tokio::time::timeout(LONG, accept(Some(&listener), server.accept_from)).await;
    accepted.expect("the pause ends").expect("the client was waiting");
    assert!(before.elapsed() >= HOST_RETRY);
}

#[tokio::test]
async fn newcomers_wait_until_those_before_them_have_had_their_turn() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let (mut server, listener) = idle_server(&path);
    let until = Instant::now() + HELLO_TURN;
    for until in [until, until - HELLO_TURN / 2] {
        assert!(server.perform(Action::Hold { until }).is_none());
    }
    let _client = sys::connect(&path, Instant::now() + LONG).expect("it listens");
    let accepted = tokio::time::timeout(LONG, accept(Some(&listener), server.accept_from)).await;
    accepted.expect("the turn ends").expect("the client was waiting");
    assert!(Instant::now() >= until);
}

#[tokio::test]
async fn a_greeting_that_can_not_be_sent_is_an_error_but_to_who_has_gone() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("descriptors");
    let stream = sys::Stream::new(ours.into()).expect("a runtime");
    let greet = || arrivals::greet(&stream, Nonce([7; 32]));
    greet().expect("there is room");
    while stream.send_now(&[0; 4096]).is_ok() {}
    while stream.send_now(&[0]).is_ok() {}
    greet().expect_err("there is none");
    drop(theirs);
    greet().expect("the reader sees its end");
}
