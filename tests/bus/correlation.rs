//! Correlations between processes: whole, by each way to publish and over each path, and within their limits.

use std::time::{Duration, UNIX_EPOCH};

use daemoneye_eventbus::{CorrelationError, CorrelationMetadata};
use serde_json::{Value, json};

use crate::support::{Folder, Role};

const BATCH: &str = "events.process.batch";
/// The ways of a collector, and those of the agent.
const WAYS: [(&str, bool); 6] =
    [("set", false), ("push", false), ("client", false), ("trait", true), ("topic", true), ("bytes", true)];

struct Scene {
    agent: Role,
    procmond: Role,
    detector: Role,
    _folder: Folder,
}

impl Scene {
    fn new(options: Value) -> Self {
        let folder = Folder::new();
        let agent = Role::agent(&folder, options).up();
        let mut detector = Role::client(&folder, "detector").up();
        detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "unread": true}));
        let mut procmond = Role::client(&folder, "procmond").up();
        procmond.must(&json!({"do": "declare", "topic": BATCH}));
        Self { agent, procmond, detector, _folder: folder }
    }

    fn correlate(&mut self, (by, of_agent): (&str, bool), correlation: &CorrelationMetadata) -> Value {
        let role = if of_agent { &mut self.agent } else { &mut self.procmond };
        role.call(&json!({"do": "correlate", "by": by, "topic": BATCH, "correlation": correlation}))
    }

    /// The next so many events, and what each is correlated with.
    fn read(&mut self, count: usize) -> Vec<Value> {
        let read = self.detector.must(&json!({"do": "read_correlated", "count": count}));
        let events = read["events"].as_array().expect("a list").clone();
        assert_eq!(events.len(), count, "{events:?}");
        events
    }
}

/// As the detector says it.
fn said(correlation: &CorrelationMetadata) -> Value {
    let mut tags: Vec<_> = correlation.correlation_tags.iter().collect();
    tags.sort();
    json!([
        correlation.correlation_id,
        correlation.parent_correlation_id,
        correlation.root_correlation_id,
        correlation.sequence_number,
        correlation.workflow_stage,
        tags,
        format!("{:?}", correlation.created_at.duration_since(UNIX_EPOCH)),
    ])
}

/// One in which each field has a value of its own.
fn whole(number: u64) -> CorrelationMetadata {
    let scan = CorrelationMetadata::new(format!("scan-{number}")).with_stage("analysis".to_owned());
    let child = scan.create_child("hash".to_owned()).create_child(format!("hash-{number}"));
    CorrelationMetadata {
        created_at: UNIX_EPOCH + Duration::from_nanos(number),
        ..child
            .with_tag("severity".to_owned(), "high".to_owned())
            .with_tag("é".to_owned(), String::new())
            .with_sequence(number)
    }
}

#[test]
fn an_event_has_its_whole_correlation_over_rings_and_over_the_broker() {
    for options in [json!({}), json!({"backing": "relay"})] {
        let mut scene = Scene::new(options);
        for (number, way) in (1..).zip(WAYS) {
            let correlation = whole(number);
            let done = scene.correlate(way, &correlation);
            assert_eq!(done, json!({}), "{way:?}");
            let name = if way.0 == "bytes" { Value::Null } else { json!([way.0, 0]) };
            if way.0 == "push" {
                // The batch has what was set before; the second event has its own.
                let events =
                    [json!([["push", 0], said(&whole(1))]), json!([["push", 1], said(&correlation)])];
                assert_eq!(scene.read(2), events);
            } else {
                assert_eq!(scene.read(1), [json!([name, said(&correlation)])]);
            }
        }
    }
}

/// What makes one of a size, the limit, and what is said of a size above.
type Extreme = (fn(usize) -> CorrelationMetadata, usize, fn(usize) -> CorrelationError);

fn extremes() -> [Extreme; 7] {
    fn node() -> CorrelationMetadata {
        CorrelationMetadata::new("scan".to_owned())
    }
    [
        (
            |n| CorrelationMetadata { correlation_id: "i".repeat(n), ..node() },
            256,
            |bytes| CorrelationError::Id { bytes },
        ),
        (
            |n| CorrelationMetadata { root_correlation_id: "r".repeat(n), ..node() },
            256,
            |bytes| CorrelationError::Id { bytes },
        ),
        (
            |n| CorrelationMetadata { parent_correlation_id: Some("p".repeat(n)), ..node() },
            256,
            |bytes| CorrelationError::Id { bytes },
        ),
        (|n| node().with_stage("s".repeat(n)), 128, |bytes| CorrelationError::Stage { bytes }),
        (
            |n| (0..n).fold(node(), |node, tag| node.with_tag(tag.to_string(), "v".repeat(1_024))),
            64,
            |tags| CorrelationError::Tags { tags },
        ),
        (|n| node().with_tag("n".repeat(n), String::new()), 128, |bytes| CorrelationError::TagName { bytes }),
        (
            |n| node().with_tag(String::new(), "v".repeat(n)),
            1_024,
            |bytes| CorrelationError::TagValue { bytes },
        ),
    ]
}

#[test]
fn at_its_limit_a_correlation_comes_whole_and_one_past_it_whoever_publishes_is_told() {
    for options in [json!({}), json!({"backing": "relay"})] {
        let mut scene = Scene::new(options);
        for way in WAYS {
            for (make, limit, error) in extremes() {
                let above = scene.correlate(way, &make(limit + 1));
                assert_eq!(above["error"], error(limit + 1).to_string(), "{way:?}");
                let at_limit = make(limit);
                assert_eq!(scene.correlate(way, &at_limit), json!({}), "{way:?}");
                // Of those above nothing has come; but of a batch what was in it before.
                let events = scene.read(if way.0 == "push" { 3 } else { 1 });
                let last = events.last().expect("there is one");
                assert_eq!(last[1], said(&at_limit), "{way:?}");
                assert!(events.iter().all(|event| event[0] != json!(["push", 1]) || event == last));
            }
        }
    }
}
