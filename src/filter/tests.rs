use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;
use crate::batch::{Batch, BatchEvent, Opaque};
use crate::event::{FilesystemEvent, NetworkEvent, PerformanceEvent, ProcessEvent, TriggerRequest};

fn process(pid: u32) -> ProcessEvent {
    ProcessEvent {
        pid,
        name: "sh".into(),
        command_line: None,
        executable_path: None,
        ppid: None,
        start_time: None,
        metadata: HashMap::from([("user".into(), "root".into())]),
    }
}

fn trigger(priority: u8) -> TriggerRequest {
    TriggerRequest {
        request_id: "1".into(),
        collector_type: "procmond".into(),
        priority,
        payload: Vec::new(),
        metadata: HashMap::new(),
    }
}

fn network() -> NetworkEvent {
    NetworkEvent {
        connection_id: "1".into(),
        source_address: "::1".into(),
        destination_address: "::1".into(),
        protocol: "tcp".into(),
        metadata: HashMap::from([("user".into(), "nobody".into())]),
    }
}

fn filesystem() -> FilesystemEvent {
    let (path, event_type) = ("/etc/passwd".into(), "modify".into());
    FilesystemEvent { path, event_type, size: None, metadata: HashMap::new() }
}

fn performance() -> PerformanceEvent {
    let (metric_name, unit) = ("load".into(), "runnable".into());
    PerformanceEvent { metric_name, value: 1.0, unit, metadata: HashMap::new() }
}

/// Whether a subscription takes an event of procmond's on this topic.
fn takes(subscription: &EventSubscription, event: &impl BatchEvent) -> bool {
    let filter = Filter::of(subscription).expect("it makes sense");
    let scan = CorrelationMetadata::new("scan".into());
    let batch = Batch::of(event, &scan, UNIX_EPOCH).expect("it is small");
    let (topic, component) = (Topic::new("events.process.batch"), Component::from_client_id("procmond"));
    let view = batch.view();
    filter.admits_batch(&topic.expect("a topic"), &component.expect("a name"))
        && filter.admits_correlation(&view.correlation_of(0))
        && filter.admits_event(&view.event(0))
}

fn wants(filter: EventFilter) -> EventSubscription {
    EventSubscription { event_filter: Some(filter), ..EventSubscription::default() }
}

fn can(capabilities: SourceCaps) -> EventSubscription {
    EventSubscription { capabilities, ..EventSubscription::default() }
}

/// Of a process, a network, a filesystem, a performance event, a trigger of priority 5, and bytes.
fn taken(subscription: &EventSubscription) -> [bool; 6] {
    [
        takes(subscription, &process(7)),
        takes(subscription, &network()),
        takes(subscription, &filesystem()),
        takes(subscription, &performance()),
        takes(subscription, &trigger(5)),
        takes(subscription, &Opaque(b"bytes")),
    ]
}

#[test]
fn without_a_field_set_all_is_taken() {
    assert_eq!(taken(&EventSubscription::default()), [true; 6]);
    assert_eq!(taken(&wants(EventFilter::default())), [true; 6]);
    let filter = Some(CorrelationFilter::new());
    assert_eq!(taken(&EventSubscription { correlation_filter: filter, ..Default::default() }), [true; 6]);
}

#[test]
fn each_field_that_is_set_holds_and_rejects_kinds_without_it() {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let user = HashMap::from([("user".to_owned(), "root".to_owned())]);
    let only = |index: usize| std::array::from_fn(|position| position == index);
    let filter = EventFilter::default;
    for (subscription, expected) in [
        (wants(EventFilter { event_types: names(&["filesystem"]), ..filter() }), only(2)),
        (wants(EventFilter { pids: vec![6, 7], ..filter() }), only(0)),
        (wants(EventFilter { pids: vec![8], ..filter() }), [false; 6]),
        (wants(EventFilter { min_priority: Some(5), ..filter() }), only(4)),
        (wants(EventFilter { min_priority: Some(6), ..filter() }), [false; 6]),
        (wants(EventFilter { metadata_filters: user, ..filter() }), only(0)),
        (
            wants(EventFilter { topic_filters: names(&["events.+.batch", "control.#"]), ..filter() }),
            [true; 6],
        ),
        (wants(EventFilter { topic_filters: names(&["events.network.#"]), ..filter() }), [false; 6]),
        (wants(EventFilter { source_collectors: names(&["netmond", "procmond"]), ..filter() }), [true; 6]),
        (wants(EventFilter { source_collectors: names(&["netmond"]), ..filter() }), [false; 6]),
        (can(SourceCaps { event_types: names(&["network"]), ..SourceCaps::default() }), only(1)),
        (can(SourceCaps { collectors: names(&["netmond"]), ..SourceCaps::default() }), [false; 6]),
        (can(SourceCaps { max_priority: 5, ..SourceCaps::default() }), [true; 6]),
        (can(SourceCaps { max_priority: 4, ..SourceCaps::default() }), [true, true, true, true, false, true]),
    ] {
        assert_eq!(taken(&subscription), expected, "{subscription:?}");
    }
}

#[test]
fn what_the_topic_decides_is_asked_of_the_broker() {
    let patterns = |patterns: Option<&[&str]>, include_control| {
        let topic_patterns = patterns.map(|patterns| patterns.iter().map(ToString::to_string).collect());
        let subscription = EventSubscription {
            topic_patterns,
            enable_wildcards: true,
            include_control,
            ..Default::default()
        };
        let patterns = subscription.patterns();
        patterns.map(|patterns| patterns.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let is = |texts: &[&str]| Ok(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(patterns(None, false), is(&["events.#", "alerts.#"]));
    assert_eq!(patterns(None, true), is(&["events.#", "alerts.#", "control.#"]));
    assert_eq!(
        patterns(Some(&["+.process.start"]), false),
        is(&["events.process.start", "alerts.process.start"])
    );
    assert_eq!(patterns(Some(&["events.process.+", "control.#"]), false), is(&["events.process.+"]));
    assert_eq!(
        patterns(Some(&["events.process.+", "control.#"]), true),
        is(&["events.process.+", "control.#"])
    );
    assert_eq!(patterns(Some(&["control.#"]), false), Err(FilterError::NoTopic));
    assert_eq!(patterns(Some(&[]), true), Err(FilterError::NoTopic));
}

#[test]
fn what_makes_no_sense_is_named() {
    let wildcard = EventSubscription { topic_patterns: Some(vec!["events.#".into()]), ..Default::default() };
    assert_eq!(wildcard.patterns(), Err(FilterError::Wildcard { pattern: "events.#".into() }));
    let literal =
        EventSubscription { topic_patterns: Some(vec!["events.process.start".into()]), ..Default::default() };
    assert!(literal.patterns().is_ok());
    let bad = EventSubscription { topic_patterns: Some(vec!["events..x".into()]), ..Default::default() };
    assert!(matches!(bad.patterns(), Err(FilterError::Topic(_))));
    let kind = wants(EventFilter { event_types: vec!["proces".into()], ..EventFilter::default() });
    assert_eq!(Filter::of(&kind).err(), Some(FilterError::EventType { name: "proces".into() }));
    let topic = wants(EventFilter { topic_filters: vec!["#.x".into()], ..EventFilter::default() });
    assert!(matches!(Filter::of(&topic), Err(FilterError::Topic(_))));
    let source = can(SourceCaps { collectors: vec!["no name".into()], ..SourceCaps::default() });
    assert!(matches!(Filter::of(&source), Err(FilterError::Source(_))));
}

#[test]
fn each_field_of_a_correlation_filter_holds() {
    let root = CorrelationMetadata::new("scan-42".into()).with_stage("analysis".into());
    let node = root.create_child("pid-7".into()).with_sequence(5).with_tag("severity".into(), "high".into());
    let new = CorrelationFilter::new;
    for (filter, takes_node, takes_root) in [
        (new().with_correlation_id("pid-7".into()), true, false),
        (new().with_pattern("pid-*".into()), true, false),
        (new().with_pattern("x".into()).with_pattern("scan-4?".into()), false, true),
        (new().with_parent_id("scan-42".into()), true, false),
        (new().with_root_id("scan-42".into()), true, true),
        (new().with_root_id("scan-4".into()), false, false),
        (new().with_stage("analysis".into()), true, true),
        (new().with_stage("detection".into()), false, false),
        (new().with_required_tag("severity".into(), "high".into()), true, false),
        (new().with_required_tag("severity".into(), "low".into()), false, false),
        (
            new().with_any_tag("severity".into(), "high".into()).with_any_tag("a".into(), "b".into()),
            true,
            false,
        ),
        (new().with_any_tag("a".into(), "b".into()), false, false),
        (new().with_sequence_range(Some(5), Some(5)), true, false),
        (new().with_sequence_range(Some(6), None), false, false),
        (new().with_sequence_range(None, Some(4)), false, true),
    ] {
        assert_eq!((filter.matches(&node), filter.matches(&root)), (takes_node, takes_root), "{filter:?}");
        let batch = Batch::of(&process(7), &node, UNIX_EPOCH).expect("it is small");
        assert_eq!(filter.takes(&batch.view().correlation_of(0)), takes_node, "{filter:?} by reference");
    }
}

proptest! {
    #[test]
    fn a_glob_is_what_it_says(pattern in "[ab*?ä]{0,8}", text in "[abä]{0,8}") {
        fn naive(pattern: &[char], text: &[char]) -> bool {
            match (pattern.split_first(), text.split_first()) {
                (None, None) => true,
                (Some(('*', rest)), _) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
                (Some((wanted, rest)), Some((found, behind))) => {
                    (*wanted == '?' || wanted == found) && naive(rest, behind)
                }
                _ => false,
            }
        }
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(matches_glob(&pattern, &text), naive(&chars(&pattern), &chars(&text)));
    }
}
