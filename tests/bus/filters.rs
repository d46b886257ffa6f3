//! What a subscriber wants of the events that come: each field of its filters counts, between processes.

use daemoneye_eventbus::CorrelationMetadata;
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
}

impl Scene {
    fn new() -> Self {
        let folder = Folder::new();
        let mut agent = Role::agent(&folder, json!({})).up();
        let [procmond, netmond, mut detector] =
            ["procmond", "netmond", "detector"].map(|id| Role::client(&folder, id).up());
        // What comes to these has come to those that are filtered, too: one thread of the process hands it to both.
        agent.must(&json!({"do": "subscribe", "patterns": ["events.#", "control.trigger.+"]}));
        detector.must(&json!({"do": "subscribe", "patterns": ["events.#"]}));
        Self { agent, procmond, netmond, detector, _folder: folder }
    }

    /// Two process events, a network event and a trigger of priority 5, one after the other, so that there is one order.
    fn publish(&mut self, round: u64) {
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
        let [scan, hash, flow, look] = correlations();
        for (number, (who, topic, event, correlation)) in (1..).zip([
            ("procmond", START, process(1, "root"), scan),
            ("procmond", STOP, process(2, "nobody"), hash),
            ("netmond", "events.network.event", network, flow),
            ("detector", "control.trigger.request", trigger, look),
        ]) {
            let publisher = match who {
                "procmond" => &mut self.procmond,
                "netmond" => &mut self.netmond,
                _ => &mut self.detector,
            };
            publisher.must(
                &json!({"do": "publish_event", "topic": topic, "event": event, "correlation": correlation}),
            );
            self.agent.must(&json!({"do": "await", "total": 4 * round + number}));
            // The last, of control, is not for it.
            self.detector.must(&json!({"do": "await", "total": 3 * round + number.min(3)}));
        }
    }

    /// What a subscription of the agent receives of them, how many it filters, and by which pattern the last has come; and what one of a
    /// client receives that asks for the same.
    fn received(&mut self, subscription: &Value, round: u64) -> (Value, u64, Value, Value) {
        let subscribe = json!({"do": "bus_subscribe", "subscription": subscription});
        let (ended, read) =
            (json!({"do": "bus_unsubscribe", "id": "analyzer"}), json!({"do": "bus_read", "id": "analyzer"}));
        self.agent.must(&subscribe);
        self.detector.must(&subscribe);
        self.publish(round);
        self.agent.must(&ended);
        self.detector.must(&ended);
        let (of_agent, of_client) = (self.agent.must(&read), self.detector.must(&read));
        let said = &of_agent["said"];
        assert_eq!((&said[1], &said[2]), (&json!(0), &json!("analyzer")), "{of_agent}");
        let filtered = said[0].as_u64().expect("a count");
        (of_agent["received"].clone(), filtered, of_agent["matched"].clone(), of_client["received"].clone())
    }
}

/// A scan, a child of it, a flow in another stage, and one with nothing but its id.
fn correlations() -> [CorrelationMetadata; 4] {
    let text = |text: &str| text.to_owned();
    let scan = CorrelationMetadata::new(text("scan-1"))
        .with_stage(text("collection"))
        .with_tag(text("host"), text("a"));
    let hash = scan.create_child(text("scan-2")).with_tag(text("severity"), text("low")).with_sequence(2);
    let flow = CorrelationMetadata::new(text("flow-3")).with_stage(text("analysis"));
    let flow = flow.with_tag(text("host"), text("b")).with_sequence(5);
    [scan.with_sequence(1), hash, flow, CorrelationMetadata::new(text("flow-4"))]
}

#[test]
fn each_field_of_a_subscription_counts() {
    let mut scene = Scene::new();
    for (round, (changes, expected, filtered)) in (0..).zip([
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
        (correlation_filter("root_correlation_ids", json!(["scan-1", "flow-4"])), json!(["look", 1, 2]), 1),
        (correlation_filter("parent_correlation_ids", json!(["scan-1"])), json!([2]), 3),
        (correlation_filter("workflow_stages", json!(["collection"])), json!([1, 2]), 2),
        (correlation_filter("required_tags", json!({"host": "a", "severity": "low"})), json!([2]), 3),
        (correlation_filter("required_tags", json!({"host": "b", "severity": "low"})), json!([]), 4),
        (correlation_filter("any_tags", json!({"host": "b", "severity": "low"})), json!([2, "tcp"]), 2),
        (correlation_filter("min_sequence", json!(2)), json!([2, "tcp"]), 2),
        (correlation_filter("max_sequence", json!(1)), json!(["look", 1]), 2),
        // What the topic decides never comes. A trigger is urgent, and so read first.
        (json!({"include_control": false}), json!([1, 2, "tcp"]), 0),
        (
            json!({"topic_patterns": ["events.process.+", "control.trigger.request"]}),
            json!(["look", 1, 2]),
            0,
        ),
        (json!({"topic_patterns": [START], "enable_wildcards": false}), json!([1]), 0),
    ]) {
        let wanted = subscription(changes);
        let (of_agent, rejected, matched, of_client) = scene.received(&wanted, round);
        assert_eq!((&of_agent, rejected), (&expected, filtered), "{wanted}");
        let last = expected.as_array().and_then(|events| events.last());
        let matching = last.map(|last| match last.as_str() {
            Some("look") => "control.#",
            _ if wanted["topic_patterns"] == json!([START]) => START,
            _ if wanted["topic_patterns"].is_null() => "events.#",
            _ => "events.process.+",
        });
        assert_eq!(matched, json!(matching), "{wanted}");
        // Control is not for the client.
        let events: Vec<_> =
            expected.as_array().expect("a list").iter().filter(|event| **event != "look").collect();
        assert_eq!(of_client, json!(events), "{wanted}");
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
        (correlation_filter("correlation_patterns", json!(["x".repeat(257)])), "a pattern of 257 bytes"),
        (
            correlation_filter("root_correlation_ids", json!(["x".repeat(257)])),
            "a correlation id of 257 bytes",
        ),
        (
            correlation_filter("parent_correlation_ids", json!(["x".repeat(257)])),
            "a correlation id of 257 bytes",
        ),
        (correlation_filter("correlation_ids", json!(["x".repeat(257)])), "a correlation id of 257 bytes"),
        (correlation_filter("workflow_stages", json!(["x".repeat(129)])), "a workflow stage of 129 bytes"),
        (correlation_filter("any_tags", json!({"a": "x".repeat(1_025)})), "a tag's value of 1025 bytes"),
        (correlation_filter("required_tags", json!({"x".repeat(129): "a"})), "a tag's name of 129 bytes"),
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
