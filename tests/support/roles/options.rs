//! What roles say of the brokers and clients that they are to be: options by their names.

use std::path::PathBuf;
use std::time::Duration;

use daemoneye_eventbus::{AccessPolicy, Backing, BrokerOptions, ConnectOptions, Instance, SocketEnd};
use serde_json::Value;

use super::{DEADLINE, identity, size};

/// The instance that a role belongs to, where that says which socket is its broker's: the empty name is the default.
fn instance(role: &Value) -> Option<Option<Instance>> {
    let name = role["instance"].as_str()?;
    Some((!name.is_empty()).then(|| Instance::new(name).expect("a legal name")))
}

/// What a broker is to be like.
pub(super) fn of_broker(role: &Value, path: PathBuf, queue: Option<usize>) -> BrokerOptions {
    let backing = if role["backing"] == "named" { Backing::Named } else { Backing::Memfd };
    let mut options = match instance(role) {
        Some(None) => BrokerOptions::default(),
        Some(Some(instance)) => BrokerOptions::default().instance(&instance),
        None => BrokerOptions::new(path),
    };
    options = options.backing(backing);
    if role["backing"] == "relay" {
        options = options.without_shared_memory();
    }
    if let Some(path) = role["policy"].as_str() {
        options = options.policy(AccessPolicy::load(path).expect("a policy of the harness"));
    }
    if let Some(bytes) = role["ring_bytes"].as_u64() {
        options = options.ring_bytes(size(bytes));
    }
    if let Some(bytes) = role["ring_budget_bytes"].as_u64() {
        options = options.ring_budget_bytes(bytes);
    }
    if let Some(bytes) = role["ring_budget_per_uid"].as_u64() {
        options = options.ring_budget_per_uid(bytes);
    }
    if let Some(bytes) = queue {
        options = options.queue_bytes(bytes);
    }
    if let Some(mode) = role["socket_mode"].as_u64() {
        options = options.socket_mode(u32::try_from(mode).expect("a mode"));
    }
    if let Some(group) = role["socket_group"].as_u64() {
        options = options.socket_group(u32::try_from(group).expect("a gid"));
    }
    if role["strict"] == true {
        options = options.strict();
    }
    // The default is meant for machines that are not at their limit; a test that wants it says so.
    let deadline = role["route_deadline_ms"].as_u64().unwrap_or(10_000);
    options.route_deadline(Duration::from_millis(deadline))
}

/// What a client is to be like.
pub(super) fn of_client(role: &Value, path: PathBuf, queue: Option<usize>) -> Result<ConnectOptions, Value> {
    let id = role["id"].as_str().expect("the harness names the client");
    let mut options = match instance(role) {
        Some(None) => ConnectOptions::new(id),
        Some(Some(instance)) => ConnectOptions::new(id).instance(&instance),
        None => ConnectOptions::new(id).path(path),
    };
    options = options.deadline(DEADLINE).comes_back(role["comes_back"] == true);
    if role["stdin"] == true {
        let end = SocketEnd::take_stdin().expect("descriptors");
        options = ConnectOptions::from_descriptor(id, end).deadline(DEADLINE);
    }
    if let Some(deadline) = role["deadline_ms"].as_u64() {
        options = options.deadline(Duration::from_millis(deadline));
    }
    if let Some(bytes) = queue {
        options = options.queue_bytes(bytes);
    }
    if let Some(bytes) = role["outbox_bytes"].as_u64() {
        options = options.outbox_bytes(size(bytes));
    }
    if let Some(uid) = role["broker_uid"].as_u64() {
        options = options.expected_broker_uid(u32::try_from(uid).expect("a uid"));
    }
    identity::proving(options, role)
}
