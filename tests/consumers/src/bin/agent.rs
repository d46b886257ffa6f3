//! The agent: embeds the broker, hears collectors, and sends them to work.
//!
//! `agent SOCKET first` hears a collector from its first heartbeat to the result of a request, and shuts down. `agent SOCKET next` is the agent that is
//! started in its place: it hears the same collector again.
#![deny(warnings)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use daemoneye_eventbus::{
    BusEvent, CollectionEvent, DaemoneyeBroker, DaemoneyeEventBus, EventBus, EventBusStatistics, Message,
};
use daemoneye_eventbus_consumers::{
    HEARTBEAT, LIFECYCLE, REQUESTS, all_of, of_investigation, others, process, trigger,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longer than anything takes; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(30);

/// As the collectors' runtime keeps its broker: what is written to a file leaves it out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct RuntimeConfig {
    name: String,
    #[serde(skip)]
    broker: Option<Arc<DaemoneyeBroker>>,
}

/// What the agent tells of itself.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    bus: EventBusStatistics,
}

impl Report {
    const fn published(&self) -> u64 {
        self.bus.messages_published
    }
}

/// The agent's own trait of what publishes, which makes each future `Send`.
#[async_trait]
trait Sink: Send {
    async fn send(&mut self, event: CollectionEvent, correlation_id: String) -> anyhow::Result<()>;
}

struct BusSink {
    bus: DaemoneyeEventBus,
}

#[async_trait]
impl Sink for BusSink {
    async fn send(&mut self, event: CollectionEvent, correlation_id: String) -> anyhow::Result<()> {
        self.bus.publish(event, correlation_id).await.context("the bus takes it")?;
        Ok(())
    }
}

/// The kind of an event, with the arm that an enum which may grow needs.
fn kind(event: &CollectionEvent) -> &'static str {
    match event {
        CollectionEvent::Process(_) => "process",
        CollectionEvent::Network(_) => "network",
        CollectionEvent::Filesystem(_) => "filesystem",
        CollectionEvent::Performance(_) => "performance",
        CollectionEvent::TriggerRequest(_) => "trigger",
        _ => "another",
    }
}

fn pid(event: &BusEvent) -> anyhow::Result<u32> {
    match &event.event {
        CollectionEvent::Process(process) => Ok(process.pid),
        other => bail!("an event of kind {}", kind(other)),
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = Option<T>>) -> anyhow::Result<T> {
    let soon = tokio::time::timeout(LONG, future).await;
    soon.with_context(|| format!("{what}: in vain"))?.with_context(|| format!("{what}: the bus is gone"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, part] = &arguments[..] else { bail!("agent SOCKET first|next") };
    let broker = DaemoneyeBroker::new(path).await?;
    let mut sink = BusSink { bus: DaemoneyeEventBus::from_broker(broker).await? };
    // The collectors' runtime starts the broker that the bus has started already.
    let broker = Arc::clone(sink.bus.broker());
    broker.start().await?;
    let config = RuntimeConfig { name: "agent".to_string(), broker: Some(broker) };
    let kept: RuntimeConfig = serde_json::from_str(&serde_json::to_string(&config)?)?;
    assert!(kept.broker.is_none() && kept.name == config.name);
    let broker = config.clone().broker.context("it was put there")?;
    println!("listening");
    match part.as_str() {
        "first" => first(&mut sink, &broker).await?,
        "next" => next(&mut sink).await?,
        part => bail!("{part} is no part"),
    }
    let report = Report { bus: broker.statistics().await };
    println!("published {}, delivered {}", report.published(), report.bus.messages_delivered);
    // First the bus, then the broker: the second finds nothing to do.
    sink.bus.shutdown().await?;
    broker.shutdown().await?;
    Ok(())
}

async fn first(sink: &mut BusSink, broker: &DaemoneyeBroker) -> anyhow::Result<()> {
    let mut heartbeats = broker.subscribe_raw(HEARTBEAT, Uuid::new_v4()).await?;
    let mut events = sink.bus.subscribe(all_of("all", &["events.process.+"])).await?;
    let mut investigation = sink.bus.subscribe(of_investigation("case-1")).await?;
    println!("subscribed");

    let heartbeat: Message = soon("a heartbeat", heartbeats.recv()).await?;
    assert_eq!((heartbeat.topic.as_str(), heartbeat.payload.as_slice()), (HEARTBEAT, &b"alive"[..]));
    // Whatever this process says there is heard in that one; the payload is its own.
    broker.publish(LIFECYCLE, "boot", b"BeginMonitoring".to_vec()).await?;
    let started = soon("an event", events.recv()).await?;
    assert_eq!((pid(&started)?, started.correlation_id()), (1, "scan-1"));
    assert!(started.bus_timestamp.elapsed()? < LONG);
    assert!(!started.event_id.is_empty());

    sink.send(CollectionEvent::TriggerRequest(trigger("look-1")), "case-1".to_string()).await?;
    let result = soon("the result", investigation.recv()).await?;
    assert_eq!((pid(&result)?, result.correlation_id()), (7, "case-1"));
    broker.publish(REQUESTS, "call-1", b"whatever two components agree upon".to_vec()).await?;

    let (network, filesystem, performance) = others();
    let others = [
        CollectionEvent::Network(network),
        CollectionEvent::Filesystem(filesystem),
        CollectionEvent::Performance(performance),
        CollectionEvent::Process(process(9)),
    ];
    for event in others {
        sink.send(event, "own".to_string()).await?;
    }
    sink.bus.unsubscribe("investigation").await?;
    assert!(sink.bus.unsubscribe("investigation").await.is_err());
    println!("done");
    // The collector hears the request before the broker goes.
    soon("the last heartbeat", heartbeats.recv()).await?;
    Ok(())
}

async fn next(sink: &mut BusSink) -> anyhow::Result<()> {
    let mut events = sink.bus.subscribe(all_of("all", &["events.#"])).await?;
    println!("subscribed");
    let mut last = 0;
    while last != 200 {
        let event = soon("an event", events.recv()).await?;
        let pid = pid(&event)?;
        assert!(pid > last, "{pid} after {last}");
        last = pid;
    }
    println!("lost {}", events.lagged());
    Ok(())
}
