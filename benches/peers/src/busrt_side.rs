//! The side of busrt: sizes of queues and buffers are its own.

use std::time::Duration;

use busrt::QoS;
use busrt::broker::{Broker, ServerConfig};
use busrt::client::AsyncClient;
use busrt::ipc::{Client, Config};

use crate::MESSAGE_BYTES;
use crate::pace::{Awaited, Pace};
use crate::processes::{await_go, is_ready, tell};

const SOCKET: &str = "busrt.sock";
const TOPIC: &str = "events/process/lifecycle";

/// Its broker hangs up on a client that says nothing for so long, a second if nobody says otherwise.
const SILENCE: Duration = Duration::from_secs(3600);

pub async fn broker() {
    let mut broker = Broker::new();
    broker
        .spawn_unix_server(SOCKET, ServerConfig::default().timeout(SILENCE))
        .await
        .expect("the folder is new");
    is_ready();
    std::future::pending::<()>().await;
}

pub async fn subscriber() {
    let mut client = Client::connect(&Config::new(SOCKET, "detector")).await.expect("the broker is there");
    let subscribed = client.subscribe(TOPIC, QoS::Processed).await.expect("the broker is there");
    subscribed.expect("it was asked for").await.expect("an answer").expect("it may");
    let messages = client.take_event_channel().expect("it was not taken");
    let awaited = Awaited::new();
    is_ready();
    let mut report = awaited.publisher();
    while let Ok(frame) = messages.recv().await {
        report.received(frame.payload());
    }
}

pub async fn publisher(time: Duration) {
    let mut client = Client::connect(&Config::new(SOCKET, "procmond")).await.expect("the broker is there");
    let mut pace = Pace::new().await;
    is_ready();
    await_go();
    pace.begin();
    loop {
        if let Err(error) = client.publish(TOPIC, (&[7; MESSAGE_BYTES][..]).into(), QoS::No).await {
            eprintln!("busrt: {error}");
            break;
        }
        if !pace.next(time).await {
            break;
        }
    }
    tell(pace.end().await);
}
