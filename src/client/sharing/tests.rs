//! Clients of one process, and brokers in it.

use std::os::unix::net::UnixListener;

use super::super::{Connection, EventBusClient, ReturnPace};
use super::*;
use crate::batch::Opaque;
use crate::broker::{BrokerOptions, DaemoneyeBroker};
use crate::wire::Refusal;

/// Long enough for a slow machine; what is waited for takes milliseconds.
const LONG: Duration = Duration::from_secs(20);

const BATCHES: &str = "events.process.batch";

async fn broker(path: &Path) -> DaemoneyeBroker {
    // Also where the machine is busy with other things.
    let options = BrokerOptions::new(path).route_deadline(LONG);
    let broker = DaemoneyeBroker::with_options(options).expect("a thread");
    broker.start().await.expect("a free path");
    broker
}

fn procmond(path: &Path) -> ConnectOptions {
    ConnectOptions::new("procmond").path(path).deadline(LONG)
}

async fn connect(options: ConnectOptions) -> EventBusClient {
    let connected = tokio::time::timeout(LONG, EventBusClient::connect(options)).await;
    connected.expect("nobody is waited for in vain").expect("the broker is there")
}

/// How many sessions of this process lead into a folder.
fn known_in(folder: &Path) -> usize {
    let folder = folder.canonicalize().expect("it is there");
    SESSIONS.lock().keys().filter(|key| key.endpoint.starts_with(&folder)).count()
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, met).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

#[tokio::test]
async fn who_gives_up_takes_the_session_from_nobody_who_waits_for_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let broker = broker(&path).await;
    for _ in 0..20 {
        let attempt = || Box::pin(EventBusClient::connect(procmond(&path)));
        let (mut first, mut second) = (attempt(), attempt());
        let mut at_once = false;
        for connecting in [&mut first, &mut second] {
            tokio::select! {
                biased;
                _ = connecting => at_once = true,
                () = std::future::ready(()) => {}
            }
        }
        if at_once {
            continue;
        }
        drop(first);
        let client = second.await.expect("the broker is there");
        assert_eq!(broker.members().await.len(), 1);
        drop(client);
    }
    let given_up = EventBusClient::connect(procmond(&path));
    tokio::select! {
        biased;
        _ = given_up => {}
        () = std::future::ready(()) => {}
    }
    wait_until("nothing is left", || known_in(folder.path()) == 0).await;
}

#[tokio::test]
async fn who_waits_for_the_same_session_has_the_same_error_and_who_comes_later_tries_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    // It accepts nobody.
    let listener = UnixListener::bind(&path).expect("a free path");
    listener.set_nonblocking(true).expect("a socket");
    for _ in 0..2 {
        let hasty = || procmond(&path).deadline(Duration::from_millis(200));
        let attempts: Vec<_> = (0..10).map(|_| tokio::spawn(EventBusClient::connect(hasty()))).collect();
        for attempt in attempts {
            let error = attempt.await.expect("no task panics").expect_err("nobody answers");
            assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
        }
        assert!(listener.accept().is_ok());
        assert!(listener.accept().is_err(), "one attempt was made for all");
    }
    assert_eq!(known_in(folder.path()), 0);
}

#[tokio::test]
async fn who_comes_when_the_last_handle_goes_has_a_session_that_works() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let broker = broker(&path).await;
    let mut client = connect(procmond(&path)).await;
    for _ in 0..100 {
        drop(client);
        client = connect(procmond(&path)).await;
        let mut publisher = client.publisher(BATCHES).await.expect("it may");
        publisher.publish(&Opaque(b"an event")).expect("it is small");
    }
    assert_eq!(broker.members().await.len(), 1);
    drop(client);
    wait_until("the ended session is forgotten", || known_in(folder.path()) == 0).await;
}

/// All clients are gone, and a publisher is not: the name is still theirs.
#[tokio::test]
async fn a_publisher_keeps_the_session_for_who_comes_next() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let broker = broker(&path).await;
    let detector = connect(ConnectOptions::new("detector").path(&path)).await;
    let mut batches = detector.subscription(&["events.process.#"]).await.expect("it may");
    let mut publisher = connect(procmond(&path)).await.publisher(BATCHES).await.expect("it may");
    let next = connect(procmond(&path)).await;
    let mut other = next.publisher(BATCHES).await.expect("it may");
    let mut received = Vec::new();
    for publisher in [&mut publisher, &mut other] {
        let delivery = publisher.publish(&Opaque(b"an event")).expect("it is small");
        assert_eq!(delivery.reached, 1);
        let batch = tokio::time::timeout(LONG, batches.recv()).await.expect("it comes");
        received.push(batch.expect("the bus is there").expect("nothing is lost").len());
    }
    assert_eq!(received, [1, 1]);
    assert_eq!(broker.members().await.len(), 2);
}

#[tokio::test]
async fn a_session_that_is_over_is_handed_out_to_nobody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let first = broker(&path).await;
    let former = connect(procmond(&path).comes_back(false)).await;
    first.shutdown().await.expect("it has no errors");
    former.disconnected().await;
    drop(first);
    let _second = broker(&path).await;
    let client = connect(procmond(&path)).await;
    assert!(client.is_connected() && !former.is_connected());
    client.publisher(BATCHES).await.expect("it has a broker");
    let ground = Arc::downgrade(&former.core.ground);
    drop(former);
    wait_until("the thread of the former ends", || ground.upgrade().is_none()).await;
    let another = connect(procmond(&path)).await;
    assert!(Arc::ptr_eq(&client.core, &another.core), "the end of the former is not that of the next");
}

#[tokio::test]
async fn a_path_with_two_spellings_is_one_endpoint_and_two_brokers_are_two() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (there, other) = (folder.path().join("there"), folder.path().join("other"));
    for folder in [&there, &other] {
        std::fs::create_dir(folder).expect("a folder of ours");
    }
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&there, &link).expect("a folder of ours");
    let (first, second) = (broker(&there.join("bus.sock")).await, broker(&other.join("bus.sock")).await);
    let mut clients = Vec::new();
    for path in [there.join("bus.sock"), link.join("bus.sock"), there.join("../there/bus.sock")] {
        clients.push(connect(procmond(&path)).await);
    }
    let apart = connect(procmond(&other.join("bus.sock"))).await;
    assert!(clients.iter().all(|client| Arc::ptr_eq(&client.core, &clients[0].core)));
    assert!(!Arc::ptr_eq(&apart.core, &clients[0].core));
    let netmond = connect(ConnectOptions::new("netmond").path(there.join("bus.sock"))).await;
    assert_eq!((first.members().await.len(), second.members().await.len()), (2, 1));
    let same = connect(ConnectOptions::new("netmond-7F").path(link.join("bus.sock"))).await;
    assert!(Arc::ptr_eq(&netmond.core, &same.core), "both ids are the same component");
}

#[tokio::test]
async fn a_session_whose_path_leads_to_another_broker_by_now_is_not_joined_by_who_looks_for_the_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [first, second, link] = ["first", "second", "link"].map(|name| folder.path().join(name));
    for folder in [&first, &second] {
        std::fs::create_dir(folder).expect("a folder of ours");
    }
    let lead_to = |there: &Path| {
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(there, &link).expect("a folder of ours");
    };
    lead_to(&first);
    let [first_path, second_path, path] = [&first, &second, &link].map(|folder| folder.join("bus.sock"));
    let (one, two) = (broker(&first_path).await, broker(&second_path).await);
    let led = connect(procmond(&path)).await;
    lead_to(&second);
    one.shutdown().await.expect("it has no errors");
    drop(one);
    let mut connection = led.connection();
    let moved = async {
        while two.members().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        connection.wait_for(|now| *now == Connection::Up).await.expect("it lives").clone()
    };
    tokio::time::timeout(LONG, moved).await.expect("it comes to the other broker");
    let one = broker(&first_path).await;
    let client = connect(procmond(&first_path)).await;
    assert!(!Arc::ptr_eq(&led.core, &client.core));
    assert_eq!((one.members().await.len(), two.members().await.len()), (1, 1));
}

#[tokio::test]
async fn what_a_session_has_one_of_all_its_clients_must_want_alike() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let broker = broker(&path).await;
    let client = connect(procmond(&path)).await;
    let token = crate::identity::LaunchToken::new().expect("randomness");
    for (options, expected) in [
        (procmond(&path).deadline(LONG * 2), SessionTerm::Deadline),
        (procmond(&path).wait_policy(WaitPolicy::default().spins(7)), SessionTerm::WaitPolicy),
        (procmond(&path).comes_back(false), SessionTerm::ComesBack),
        (procmond(&path).return_pace(ReturnPace::default().attempts(3)), SessionTerm::ReturnPace),
        (procmond(&path).expected_broker_uid(crate::sys::own_uid()), SessionTerm::ExpectedBrokerUid),
        (procmond(&path).token(token), SessionTerm::Token),
        (procmond(&path).key_file(folder.path().join("bus.sock.key")), SessionTerm::KeyFile),
    ] {
        let error = EventBusClient::connect(options).await.expect_err("it is not what the first wants");
        assert!(matches!(error, ConnectError::OtherTerms { term, .. } if term == expected), "{error}");
    }
    let another = connect(procmond(&path).queue_bytes(1)).await;
    assert!(Arc::ptr_eq(&client.core, &another.core), "what waits for a subscription is its own affair");
    let apart = EventBusClient::connect(procmond(&path).shares_session(false)).await;
    assert!(matches!(apart, Err(ConnectError::Refused(Refusal::NameTaken { .. }))), "{apart:?}");
    assert_eq!(broker.members().await.len(), 1);
    drop((client, another));
    connect(procmond(&path).comes_back(false))
        .await
        .publisher(BATCHES)
        .await
        .expect("other terms are its own");
}

/// As a child finds it that was forked while its parent had a session, and another was being connected.
#[tokio::test]
async fn the_sessions_of_another_process_are_not_ours() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bus.sock");
    let _broker = broker(&path).await;
    let options = procmond(&path);
    let component = Component::from_client_id("procmond").expect("a legal id");
    let key = Key { process: std::process::id() + 1, endpoint: endpoint(&path), component };
    let entry = Entry { number: u64::MAX, terms: Terms::of(&options), state: State::Begun(vec![]) };
    SESSIONS.lock().insert(key.clone(), entry);
    connect(options).await;
    SESSIONS.lock().remove(&key);
}
