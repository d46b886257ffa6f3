//! What both processes share: the topics by their spelling, as DaemonEye's code has them, and values that are written out in full, so that a
//! field more or less in the bus fails to compile here.
#![deny(warnings)]

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use daemoneye_eventbus::{
    ClientConfig, CorrelationFilter, EventFilter, EventSubscription, FilesystemEvent, NetworkEvent,
    PerformanceEvent, ProcessEvent, SocketConfig, SourceCaps, TriggerRequest,
};

pub const START: &str = "events.process.start";
pub const HEARTBEAT: &str = "control.health.heartbeat.procmond";
pub const LIFECYCLE: &str = "control.collector.lifecycle";
pub const REQUESTS: &str = "control.collector.procmond";
pub const RESULT: &str = "events.process.integrity";

pub fn socket(path: &str) -> SocketConfig {
    SocketConfig {
        unix_path: path.to_string(),
        windows_pipe: r"\\.\pipe\DaemonEye-default".to_string(),
        connection_limit: 100,
        #[cfg(target_os = "freebsd")]
        freebsd_path: None,
        auth_token: None,
        per_client_byte_limit: 10 * 1024 * 1024,
        rate_limit_config: None,
        correlation_config: None,
    }
}

pub fn patience() -> ClientConfig {
    ClientConfig {
        max_reconnect_attempts: 1000,
        initial_reconnect_delay: Duration::from_millis(10),
        max_reconnect_delay: Duration::from_millis(100),
        connection_timeout: Duration::from_secs(10),
        ..ClientConfig::default()
    }
}

/// All fields, and none of them wants anything.
pub fn all_of(subscriber_id: &str, topics: &[&str]) -> EventSubscription {
    EventSubscription {
        subscriber_id: subscriber_id.to_string(),
        capabilities: SourceCaps { event_types: Vec::new(), collectors: Vec::new(), max_priority: 0 },
        event_filter: None,
        correlation_filter: None,
        topic_patterns: Some(topics.iter().map(|topic| (*topic).to_string()).collect()),
        enable_wildcards: true,
        include_control: false,
    }
}

/// Process events of procmond within one investigation, and nothing else.
pub fn of_investigation(root: &str) -> EventSubscription {
    EventSubscription {
        subscriber_id: "investigation".to_string(),
        capabilities: SourceCaps {
            event_types: vec!["process".to_string()],
            collectors: vec!["procmond".to_string()],
            max_priority: 10,
        },
        event_filter: Some(EventFilter {
            event_types: vec!["process".to_string()],
            pids: vec![7],
            min_priority: None,
            metadata_filters: HashMap::new(),
            topic_filters: vec!["events.process.#".to_string()],
            source_collectors: vec!["procmond".to_string()],
        }),
        correlation_filter: Some(CorrelationFilter {
            correlation_ids: Vec::new(),
            correlation_patterns: Vec::new(),
            parent_correlation_ids: Vec::new(),
            root_correlation_ids: vec![root.to_string()],
            workflow_stages: Vec::new(),
            required_tags: HashMap::new(),
            any_tags: HashMap::new(),
            min_sequence: None,
            max_sequence: None,
        }),
        topic_patterns: None,
        enable_wildcards: true,
        include_control: false,
    }
}

pub fn process(pid: u32) -> ProcessEvent {
    ProcessEvent {
        pid,
        name: "sh".to_string(),
        command_line: Some("sh -c true".to_string()),
        executable_path: Some("/bin/sh".to_string()),
        ppid: Some(1),
        start_time: Some(SystemTime::UNIX_EPOCH),
        metadata: HashMap::new(),
    }
}

pub fn trigger(request_id: &str) -> TriggerRequest {
    TriggerRequest {
        request_id: request_id.to_string(),
        collector_type: "procmond".to_string(),
        priority: 5,
        payload: b"hash /bin/sh".to_vec(),
        metadata: HashMap::new(),
    }
}

/// The other kinds, of which nothing but their fields matters here.
pub fn others() -> (NetworkEvent, FilesystemEvent, PerformanceEvent) {
    let network = NetworkEvent {
        connection_id: "c-1".to_string(),
        source_address: "127.0.0.1:1".to_string(),
        destination_address: "127.0.0.1:2".to_string(),
        protocol: "tcp".to_string(),
        metadata: HashMap::new(),
    };
    let filesystem = FilesystemEvent {
        path: "/etc/passwd".to_string(),
        event_type: "write".to_string(),
        size: Some(1),
        metadata: HashMap::new(),
    };
    let performance = PerformanceEvent {
        metric_name: "cpu".to_string(),
        value: 0.5,
        unit: "ratio".to_string(),
        metadata: HashMap::new(),
    };
    (network, filesystem, performance)
}
