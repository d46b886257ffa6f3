//! The collector: `procmond SOCKET`. It comes back by itself when its broker is gone; what it says on its standard output the test waits for, and a
//! line on its standard input lets it go on.
#![deny(warnings)]

use std::time::Duration;

use anyhow::{Context as _, bail};
use daemoneye_eventbus::{BusEvent, CollectionEvent, EventBusClient, Message};
use daemoneye_eventbus_consumers::{
    HEARTBEAT, LIFECYCLE, REQUESTS, RESULT, START, all_of, patience, process, socket,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc;
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(30);

/// What the collector holds for as long as it lives, with the types spelled out.
struct Ends {
    events: mpsc::Receiver<BusEvent>,
    control: mpsc::Receiver<Message>,
}

async fn next(control: &mut mpsc::Receiver<Message>) -> anyhow::Result<Message> {
    tokio::time::timeout(LONG, control.recv()).await.context("no control")?.context("the bus is gone")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path] = &arguments[..] else { bail!("procmond SOCKET") };
    let id = format!("procmond-{}", Uuid::new_v4());
    let client = EventBusClient::new(id.clone(), socket(path), patience()).await?;
    let mut subscription =
        all_of("control", &["events.process.+", "control.collector.#", "control.trigger.+"]);
    subscription.include_control = true;
    let (events, control) = client.subscribe_with_control(subscription).await?;
    let mut ends = Ends { events, control };
    println!("connected, and ends by signal {}", libc::SIGTERM);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut go_on = async || lines.next_line().await.context("the test is gone");

    client.publish_control(HEARTBEAT, b"alive".to_vec()).await?;
    let begin = next(&mut ends.control).await?;
    assert_eq!((begin.topic.as_str(), begin.payload.as_slice()), (LIFECYCLE, &b"BeginMonitoring"[..]));
    client.publish(START, CollectionEvent::Process(process(1)), Some("scan-1".to_string())).await?;
    let own = tokio::time::timeout(LONG, ends.events.recv()).await?.context("it hears itself")?;
    assert_eq!(own.correlation_id(), "scan-1");

    // A trigger starts work, and the result goes back in the same workflow.
    let request = next(&mut ends.control).await?;
    let CollectionEvent::TriggerRequest(trigger) = CollectionEvent::from_bytes(&request.payload)? else {
        bail!("no trigger on {}", request.topic);
    };
    assert_eq!((trigger.request_id.as_str(), trigger.payload.as_slice()), ("look-1", &b"hash /bin/sh"[..]));
    let workflow = request.correlation_metadata.correlation_id;
    // Somebody else's work, and another process of the same, which the filter leaves out.
    client.publish(RESULT, CollectionEvent::Process(process(7)), Some("case-2".to_string())).await?;
    client.publish(RESULT, CollectionEvent::Process(process(8)), Some(workflow.clone())).await?;
    client.publish(RESULT, CollectionEvent::Process(process(7)), Some(workflow)).await?;
    let request = next(&mut ends.control).await?;
    assert_eq!(request.topic, REQUESTS);
    assert!(!client.shutdown_signal());
    // What it hears itself is not kept for the next agent.
    client.unsubscribe("control").await?;
    assert!(ends.control.recv().await.is_none());
    client.publish_control(HEARTBEAT, b"alive".to_vec()).await?;
    println!("worked");

    // The agent shuts down; this process goes on, and the next agent has what it publishes.
    while !client.shutdown_signal() {
        tokio::time::timeout(LONG, client.disconnected()).await?;
        tokio::task::yield_now().await;
    }
    for pid in 1..=100 {
        client.publish(START, CollectionEvent::Process(process(pid)), None).await?;
    }
    println!("alone");
    go_on().await?;
    let mut connection = client.connection();
    let up = connection.wait_for(|now| *now == daemoneye_eventbus::Connection::Up);
    tokio::time::timeout(LONG, up).await??;
    let mut control = client.subscribe_with_control(all_of("again", &["control.collector.#"])).await?.1;
    for pid in 101..=200 {
        client.publish(START, CollectionEvent::Process(process(pid)), None).await?;
    }
    println!("published");
    go_on().await?;
    client.shutdown().await?;
    assert_eq!(tokio::time::timeout(LONG, control.recv()).await?, None);
    println!("down");
    Ok(())
}
