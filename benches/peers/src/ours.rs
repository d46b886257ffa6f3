//! Our side. Without shared memory all topics go over the broker.

use std::time::Duration;

use daemoneye_eventbus::{BrokerOptions, ConnectOptions, DaemoneyeBroker, EventBusClient, EventRef, Opaque};

use crate::MESSAGE_BYTES;
use crate::pace::{Awaited, Pace};
use crate::processes::{await_go, is_ready, tell};

const SOCKET: &str = "bus.sock";
const TOPIC: &str = "events.process.lifecycle";

pub async fn broker() {
    let options = BrokerOptions::new(SOCKET).without_shared_memory();
    let broker = DaemoneyeBroker::with_options(options).expect("a thread");
    broker.start().await.expect("the folder is new");
    is_ready();
    std::future::pending::<()>().await;
}

pub async fn subscriber() {
    let client = EventBusClient::connect(ConnectOptions::new("detector").path(SOCKET)).await;
    let client = client.expect("the broker is there");
    let mut subscription = client.subscription(&[TOPIC]).await.expect("it may");
    let awaited = Awaited::new();
    is_ready();
    let mut report = awaited.publisher();
    while let Some(received) = subscription.recv().await {
        match received {
            Ok(batch) => batch.view().iter().for_each(|event| match event {
                EventRef::Opaque(message) => report.received(message),
                _ => panic!("only bytes are published"),
            }),
            Err(interruption) => eprintln!("ours: {interruption}"),
        }
    }
}

pub async fn publisher(time: Duration) {
    let client = EventBusClient::connect(ConnectOptions::new("procmond").path(SOCKET)).await;
    let client = client.expect("the broker is there");
    let mut publisher = client.publisher(TOPIC).await.expect("it may");
    while publisher.subscribers() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut pace = Pace::new().await;
    is_ready();
    await_go();
    pace.begin();
    loop {
        publisher.publish(&Opaque(&[7; MESSAGE_BYTES])).expect("it is small");
        if !pace.next(time).await {
            break;
        }
    }
    tell(pace.end().await);
}
