//! What roles say of the brokers and clients that they are to be: options by their names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use daemoneye_eventbus::{
    AccessPolicy, Backing, BrokerOptions, ClientConfig, ConnectOptions, Instance, SocketConfig, SocketEnd,
};
use serde_json::Value;

use super::{DEADLINE, error, identity, size};

/// The instance that a role belongs to, where that says which socket is its broker's: the empty name is the default.
fn instance(role: &Value) -> Option<Option<Instance>> {
    let name = role["instance"].as_str()?;
    Some((!name.is_empty()).then(|| Instance::new(name).expect("a legal name")))
}

/// DaemonEye's own configuration, with what the role says of it.
fn socket_config(role: &Value, path: &Path) -> SocketConfig {
    let config = &role["config"];
    let usual = SocketConfig::new("default");
    let number = |field: &str, usual: usize| config[field].as_u64().map_or(usual, size);
    SocketConfig {
        unix_path: path.to_str().expect("a path of UTF-8").to_owned(),
        connection_limit: number("connection_limit", usual.connection_limit),
        per_client_byte_limit: number("per_client_byte_limit", usual.per_client_byte_limit),
        auth_token: config["auth_token"].as_str().map(str::to_owned),
        ..usual
    }
}

fn client_config(role: &Value) -> ClientConfig {
    let config = &role["config"];
    let usual = ClientConfig::default();
    let attempts = config["max_reconnect_attempts"].as_u64().map(|attempts| attempts as u32);
    let timeout = config["connection_timeout_ms"].as_u64().map(Duration::from_millis);
    ClientConfig {
        max_reconnect_attempts: attempts.unwrap_or(usual.max_reconnect_attempts),
        initial_reconnect_delay: Duration::from_millis(1),
        max_reconnect_delay: Duration::from_millis(20),
        connection_timeout: timeout.unwrap_or(usual.connection_timeout),
        semaphore_permits: config["semaphore_permits"].as_u64().map_or(usual.semaphore_permits, size),
        ..usual
    }
}

/// What a broker is to be like.
pub(super) fn of_broker(role: &Value, path: PathBuf, queue: Option<usize>) -> BrokerOptions {
    if role["config"].is_object() {
        let options = socket_config(role, &path).broker_options().expect("the harness writes what can be");
        return options.route_deadline(Duration::from_secs(10));
    }
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
    if role["config"].is_object() {
        let options = client_config(role).connect_options(id, &socket_config(role, &path));
        return options.map_err(|failed| error(&failed, "Configuration"));
    }
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
