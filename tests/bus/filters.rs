//! What a subscriber wants of the events that come: each field of its filters counts, between processes.

use serde_json::{Value, json};

use crate::support::{Folder, Role};

const START: &str = "events.process.start";
const STOP: &str = "events.process.stop";

fn subscription(changes: Value) -> Value {
    let mut whole = json!({
        "subscriber_id": "analyzer",
        "capabilities": {"event_types": [], "collectors": [], "max_priority": 0},
        "event_filter": null,
        "correlation_filter": null,
        "topic_patterns": null,
        "enable_wildcards": true,
        "include_control": true,
    });
    let Value::Object(changes) = changes else { panic!("fields") };
    changes.into_iter().for_each(|(field, value)| whole[field] = value);
    whole
}

fn event_filter(field: &str, value: Value) -> Value {
    let mut filter = json!({
        "event_types": [], "pids": [], "min_priority": null, "metadata_filters": {},
        "topic_filters": [], "source_collectors": [],
    });
    filter[field] = value;
    json!({ "event_filter": filter })
}

fn correlation_filter(field: &str, value: Value) -> Value {
    let mut filter = json!({
        "correlation_ids": [], "correlation_patterns": [], "parent_correlation_ids": [],
        "root_correlation_ids": [], "workflow_stages": [], "required_tags": {}, "any_tags": {},
        "min_sequence": null, "max_sequence": null,
    });
    filter[field] = value;
    json!({ "correlation_filter": filter })
}

fn capability(field: &str, value: Value) -> Value {
    let mut capabilities = json!({"event_types": [], "collectors": [], "max_priority": 0});
    capabilities[field] = value;
    json!({ "capabilities": capabilities })
}

struct Scene {
    agent: Role,
    procmond: Role,
    netmond: Role,
    detector: Role,
    _folder: Folder,
    seen: u64,
}

impl Scene {
    fn new() -> Self {
        let folder = Folder::new();
        let mut agent = Role::agent(&folder, json!({})).up();
        let [procmond, netmond, detector] =
            ["procmond", "netmond", "detector"].map(|id| Role::client(&folder, id).up());
        // What comes to this one has come to those that are filtered, too: one thread hands it to both.
        agent.must(&json!({"do": "subscribe", "patterns": ["events.#", "control.trigger.+"]}));
        Self { agent, procmond, netmond, detector, _folder: folder, seen: 0 }
    }

    /// What a subscription receives of two process events, a network event and a trigger of priority 5; and how many it has filtered.
    fn received(&mut self, subscription: &Value) -> (Value, u64) {
        self.agent.must(&json!({"do": "bus_subscribe", "subscription": subscription}));
        let process = |pid: u32, user: &str| {
            json!({"Process": {
                "pid": pid, "name": "sh", "command_line": null, "executable_path": null, "ppid": null,
                "start_time": null, "metadata": {"user": user},
            }})
        };
        let network = json!({"Network": {
            "connection_id": "tcp", "source_address": "::1", "destination_address": "::1", "protocol": "tcp",
            "metadata": {},
        }});
        let trigger = json!({"TriggerRequest": {
            "request_id": "look", "collector_type": "procmond", "priority": 5, "payload": [], "metadata": {},
        }});
        for (who, topic, event, correlation) in [
            ("procmond", START, process(1, "root"), "scan-1"),
            ("procmond", STOP, process(2, "nobody"), "scan-2"),
            ("netmond", "events.network.event", network, "flow-3"),
            ("detector", "control.trigger.request", trigger, "flow-4"),
        ] {
            let publish =
                json!({"do": "publish_event", "topic": topic, "event": event, "correlation": correlation});
            match who {
                "procmond" => self.procmond.must(&publish),
                "netmond" => self.netmond.must(&publish),
                _ => self.detector.must(&publish),
            };
            self.seen += 1;
            // One after the other, so that there is one order.
            self.agent.must(&json!({"do": "await", "total": self.seen}));
        }
        self.agent.must(&json!({"do": "bus_unsubscribe", "id": "analyzer"}));
        let read = self.agent.must(&json!({"do": "bus_read", "id": "analyzer"}));
        assert_eq!(read["lost"], 0, "{read}");
        (read["received"].clone(), read["filtered"].as_u64().expect("a count"))
    }
}

#[test]
fn each_field_of_a_subscription_counts() {
    let mut scene = Scene::new();
    for (changes, expected, filtered) in [
        (json!({}), json!(["look", 1, 2, "tcp"]), 0),
        (event_filter("event_types", json!(["network", "trigger"])), json!(["look", "tcp"]), 2),
        (event_filter("pids", json!([2, 3])), json!([2]), 3),
        (event_filter("min_priority", json!(5)), json!(["look"]), 3),
        (event_filter("min_priority", json!(6)), json!([]), 4),
        (event_filter("metadata_filters", json!({"user": "root"})), json!([1]), 3),
        (event_filter("topic_filters", json!(["+.+.stop", "control.#"])), json!(["look", 2]), 2),
        (event_filter("source_collectors", json!(["netmond"])), json!(["tcp"]), 3),
        (capability("event_types", json!(["process"])), json!([1, 2]), 2),
        (capability("collectors", json!(["procmond"])), json!([1, 2]), 2),
        (capability("max_priority", json!(4)), json!([1, 2, "tcp"]), 1),
        (correlation_filter("correlation_ids", json!(["scan-2"])), json!([2]), 3),
        (correlation_filter("correlation_patterns", json!(["flow-?"])), json!(["look", "tcp"]), 2),
        (correlation_filter("root_correlation_ids", json!(["scan-1", "flow-4"])), json!(["look", 1]), 2),
        (correlation_filter("parent_correlation_ids", json!(["scan-1"])), json!([]), 4),
        (correlation_filter("workflow_stages", json!(["analysis"])), json!([]), 4),
        (correlation_filter("required_tags", json!({"a": "b"})), json!([]), 4),
        (correlation_filter("any_tags", json!({"a": "b"})), json!([]), 4),
        (correlation_filter("min_sequence", json!(1)), json!([]), 4),
        (correlation_filter("max_sequence", json!(0)), json!(["look", 1, 2, "tcp"]), 0),
        // What the topic decides never comes. A trigger is urgent, and so read first.
        (json!({"include_control": false}), json!([1, 2, "tcp"]), 0),
        (
            json!({"topic_patterns": ["events.process.+", "control.trigger.request"]}),
            json!(["look", 1, 2]),
            0,
        ),
        (json!({"topic_patterns": [START], "enable_wildcards": false}), json!([1]), 0),
    ] {
        let wanted = subscription(changes);
        assert_eq!(scene.received(&wanted), (expected, filtered), "{wanted}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_a_name_is_one_subscriptions() {
    let mut scene = Scene::new();
    let mut refused = |changes: Value| {
        let wanted = subscription(changes);
        let refused = scene.agent.call(&json!({"do": "bus_subscribe", "subscription": wanted}));
        refused["error"].as_str().unwrap_or_default().to_owned()
    };
    for (changes, says) in [
        (json!({"topic_patterns": ["events.#"], "enable_wildcards": false}), "wildcards are not enabled"),
        (json!({"topic_patterns": ["control.#"], "include_control": false}), "no topic is left"),
        (json!({"topic_patterns": ["events..start"]}), "empty"),
        (event_filter("event_types", json!(["proces"])), "no kind of event"),
        (event_filter("topic_filters", json!(["#.start"])), "a topic filter"),
        (capability("collectors", json!(["no name"])), "a source"),
    ] {
        let error = refused(changes);
        assert!(error.contains(says), "{says}: {error}");
    }
    assert_eq!(refused(json!({})), "", "the name is free");
    assert_eq!(refused(json!({})), "`analyzer` subscribes already");
    scene.agent.must(&json!({"do": "bus_unsubscribe", "id": "analyzer"}));
    let again = scene.agent.call(&json!({"do": "bus_unsubscribe", "id": "analyzer"}));
    assert_eq!(again["error"], "`analyzer` does not subscribe");
}
