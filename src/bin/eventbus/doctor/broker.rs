//! A bus of the doctor's own, and the one that should be there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use daemoneye_eventbus::{
    BrokerOptions, ConnectError, ConnectOptions, DaemoneyeBroker, EventBusClient, Opaque, Refusal, RingPath,
};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Check;
use crate::place::{Reach, advice};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(5);

type Failed = Box<dyn std::error::Error>;

/// Has an event go from one client to another, over a ring as two processes have it.
pub(super) async fn rings() -> Check {
    const NAME: &str = "rings";
    let advice = "what is missing above is why, or a sandbox is: the bus needs threads, memory and sockets";
    match timeout(PATIENCE, one_event()).await {
        Ok(Ok(RingPath::Memory)) => {
            Check::ok(NAME, "an event went from one client to another over one of sealed memory")
        }
        Ok(Ok(path)) => {
            let why = match path {
                RingPath::RelayInstead { cause } => format!(": {cause}"),
                _ => String::new(),
            };
            Check::weak(
                NAME,
                format!("an event went over the broker, since there was no ring of sealed memory{why}"),
                "have what is missing above: over the broker each event costs several times as much, and stops with the broker",
            )
        }
        Ok(Err(error)) => Check::missing(NAME, format!("no event goes over one: {error}"), advice),
        Err(_) => Check::missing(NAME, format!("no event has gone over one within {PATIENCE:?}"), advice),
    }
}

/// What the event went through.
async fn one_event() -> Result<RingPath, Failed> {
    let mut folder = tempfile::Builder::new();
    let folder = folder.prefix("eventbus-doctor-").permissions(Permissions::from_mode(0o700)).tempdir()?;
    let path = folder.path().join("bus.sock");
    let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path).ring_bytes(64 << 10))?;
    broker.start().await?;
    let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
    let detector = EventBusClient::connect(ConnectOptions::new("detector").path(&path)).await?;
    let mut batches = detector.subscription(&["events.process.batch"]).await?;
    let mut publisher = procmond.publisher("events.process.batch").await?;
    publisher.publish(&Opaque(b"how are you"))?;
    batches.recv().await.ok_or("the stream of events has ended")??;
    let statistics = broker.broker_statistics().await.ok_or("the broker has ended")?;
    let ring = statistics.rings.into_iter().next().ok_or("the broker knows of no ring")?;
    broker.shutdown().await?;
    Ok(ring.path)
}

/// Whether a broker listens, and whose it is.
pub(super) async fn listening(path: &Path, expected: Option<u32>) -> Check {
    const NAME: &str = "broker";
    let start = "start one: `eventbus broker`, which replaces a dead one's socket";
    let stream = match timeout(PATIENCE, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Check::missing(NAME, format!("nobody listens for this user: {error}"), start);
        }
        Err(_) => {
            return Check::missing(NAME, "it does not take connections", "it hangs: look at its process");
        }
    };
    let peer = match stream.peer_cred() {
        Ok(peer) => peer,
        Err(error) => {
            return Check::missing(NAME, format!("the kernel does not say whose it is: {error}"), start);
        }
    };
    let process = peer.pid().map_or_else(
        || "a process in another namespace".to_owned(),
        |pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim_end())
        },
    );
    let found = format!("{process} of uid {} listens", peer.uid());
    let own = rustix::process::geteuid().as_raw();
    if expected.map_or([0, own].contains(&peer.uid()), |expected| expected == peer.uid()) {
        Check::ok(NAME, found)
    } else {
        Check::weak(
            NAME,
            found,
            "clients of this user take it for a stranger unless they are told: --broker-uid",
        )
    }
}

/// Whether the broker lets this user in.
pub(super) async fn session(reach: &Reach) -> Check {
    const NAME: &str = "session";
    let options = match reach.options(&reach.id_or_strange("doctor")) {
        Ok(options) => options.deadline(PATIENCE),
        Err(error) => return Check::missing(NAME, error.to_string(), "--token-file names another"),
    };
    match EventBusClient::connect(options).await {
        Ok(client) => Check::ok(NAME, format!("the broker lets this user in, as {}", client.component())),
        Err(error @ ConnectError::Refused(Refusal::Unproven { .. })) => {
            Check::weak(NAME, error.to_string(), "who has none of either is not let in")
        }
        Err(error) => Check::missing(NAME, error.to_string(), advice(&error)),
    }
}
