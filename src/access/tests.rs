//! The decisions by name, and the laws that hold the three questions together.

use super::*;
use proptest::prelude::*;

fn component(client_id: &str) -> Component {
    Component::from_client_id(client_id).expect("a legal id")
}

fn topic(text: &str) -> Topic {
    Topic::new(text).expect("a legal topic")
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).expect("a legal pattern")
}

fn publishes(client_id: &str, text: &str) -> bool {
    AccessPolicy::default().may_publish(&component(client_id), &topic(text)).is_ok()
}

fn subscribes(client_id: &str, text: &str) -> bool {
    AccessPolicy::default().may_subscribe(&component(client_id), &topic(text)).is_ok()
}

/// The granted and the withheld patterns as text.
fn narrowed(client_id: &str, asked: &str) -> (Vec<String>, Vec<String>) {
    let narrowed = AccessPolicy::default().narrow(&component(client_id), &pattern(asked));
    let granted = narrowed.granted.iter().map(ToString::to_string).collect();
    let withheld = narrowed.withheld.iter().map(|withheld| withheld.pattern.to_string()).collect();
    (granted, withheld)
}

#[test]
fn a_client_id_names_its_component() {
    let name = |client_id| Component::from_client_id(client_id).map(|component| component.to_string());
    assert_eq!(name("procmond").as_deref(), Ok("procmond"));
    assert_eq!(name("procmond-7F-a_b").as_deref(), Ok("procmond"));
    assert_eq!(name("procmond-").as_deref(), Ok("procmond"));
    assert_eq!(name("procmondx-1").as_deref(), Ok("procmondx-1"), "a known name is a whole word");
    assert_eq!(name("-procmond").as_deref(), Ok("-procmond"));
    assert_eq!(name("foo-procmond").as_deref(), Ok("foo-procmond"));
}

#[test]
fn each_fault_of_a_client_id_has_its_error() {
    let fault = |client_id: &str| Component::from_client_id(client_id).expect_err("a fault");
    assert_eq!(fault(""), ComponentError::Empty);
    assert_eq!(fault(&"x".repeat(65)), ComponentError::TooLong { bytes: 65 });
    assert_eq!(fault(&format!("agent-{}", "x".repeat(59))), ComponentError::TooLong { bytes: 65 });
    assert_eq!(fault("foo-A"), ComponentError::BadCharacter { character: 'A', at: 4 });
    assert_eq!(fault("Procmond-1"), ComponentError::BadCharacter { character: 'P', at: 0 });
    assert_eq!(fault("procmond-a.b"), ComponentError::BadCharacter { character: '.', at: 10 });
    assert_eq!(
        fault("foo A").to_string(),
        "' ' at byte 3: a client id is made of a-z, 0-9, `_` and `-`; \
         also of A-Z after a known component and `-`"
    );
}

#[test]
fn an_event_comes_from_the_collector_of_its_domain_or_the_agent() {
    assert!(publishes("procmond-1", "events.process.batch"));
    assert!(publishes("agent", "events.process.batch"));
    for client_id in ["netmond", "detector", "stranger"] {
        assert!(!publishes(client_id, "events.process.batch"), "{client_id}");
    }
    assert!(publishes("agent", "events.process.anomaly"), "the agent may see an anomaly, too");
    assert!(!publishes("netmond", "events.process.anomaly"));
    assert!(!publishes("stranger", "events.process.anomaly"), "public topics are not published by strangers");
}

#[test]
fn a_domain_without_a_collector_is_nobodys() {
    for client_id in ["agent", "procmond", "events"] {
        let asked =
            AccessPolicy::default().may_publish(&component(client_id), &topic("events.weather.anomaly"));
        assert!(matches!(asked, Err(Denial::NoRule { .. })), "{asked:?}");
    }
}

#[test]
fn an_alert_cannot_be_forged() {
    assert!(publishes("agent", "alerts.process.high"));
    assert!(!publishes("procmond", "alerts.process.high"));
    assert!(!publishes("stranger", "alerts"));
}

#[test]
fn nobody_speaks_in_anothers_name() {
    assert!(publishes("procmond", "control.health.heartbeat.procmond-1"));
    assert!(publishes("foo-1", "control.health.heartbeat.foo-1"));
    assert!(!publishes("procmond", "control.health.heartbeat.netmond"));
    assert!(!publishes("agent", "control.health.heartbeat.procmond"));
    assert!(!publishes("foo", "control.health.heartbeat.foo-1"), "foo-1 may be another component");
    assert!(!publishes("foo", "control.health.heartbeat.FOO"));
    assert!(!publishes("proc", "control.health.heartbeat.procmond"));
}

#[test]
fn nobody_reads_anothers_messages() {
    for prefix in
        ["control.collector", "control.collector.config", "control.collector.task", "control.rpc.response"]
    {
        assert!(subscribes("procmond", &format!("{prefix}.procmond-9A")), "{prefix}");
        assert!(subscribes("agent", &format!("{prefix}.procmond-9A")), "{prefix}");
        for client_id in ["netmond", "detector", "procmond_9", "stranger"] {
            assert!(!subscribes(client_id, &format!("{prefix}.procmond-9A")), "{prefix}, {client_id}");
        }
    }
}

#[test]
fn a_component_named_like_a_topic_gains_nothing() {
    assert!(!subscribes("registration", "control.collector.registration"));
    assert!(!subscribes("lifecycle", "control.collector.lifecycle"));
    let (granted, _) = narrowed("registration", "control.collector.+");
    assert_eq!(granted, [""; 0]);
}

#[test]
fn collectors_are_told_but_only_the_agent_tells() {
    for text in
        ["control.collector.lifecycle", "control.agent.policy", "control.trigger.request", "control.shutdown"]
    {
        assert!(publishes("agent", text) && subscribes("fsmond", text), "{text}");
        assert!(!publishes("fsmond", text) && !subscribes("stranger", text), "{text}");
    }
    assert!(publishes("detector", "control.trigger.request"));
    assert!(!publishes("exporter", "control.trigger.request"));
}

#[test]
fn a_denial_says_what_would_be_needed() {
    let policy = AccessPolicy::default();
    let denial = policy.may_subscribe(&component("netmond"), &topic("control.shutdown.procmond-1"));
    let expected = Denial::NotASubscriber {
        topic: "control.shutdown.procmond-1".to_owned(),
        level: TopicAccessLevel::Privileged,
        component: "netmond".to_owned(),
        needed: "subscribed by: agent, procmond".to_owned(),
    };
    assert_eq!(denial, Err(expected));
    let denial = policy.may_publish(&component("netmond"), &topic("control.health.heartbeat.NOBODY"));
    let said = denial.expect_err("nobody's heartbeat").to_string();
    assert!(said.ends_with("published by: {self}"), "{said}");
}

#[test]
fn a_denial_can_travel() {
    fn can_travel<T: Serialize + for<'de> Deserialize<'de>>() {}
    can_travel::<Denial>();
}

#[test]
fn a_wide_pattern_is_narrowed_to_the_rights() {
    let (granted, withheld) = narrowed("detector", "events.#");
    let domains = ["events.process.#", "events.network.#", "events.filesystem.#", "events.performance.#"];
    assert_eq!(
        granted,
        [&domains[..], &["events.collector.+"]].concat(),
        "anomalies need no mention of their own"
    );
    assert_eq!(withheld, [""; 0]);

    let (granted, withheld) = narrowed("procmond", "events.*.*");
    let anomalies = ["events.network.anomaly", "events.filesystem.anomaly", "events.performance.anomaly"];
    assert_eq!(granted, [&anomalies[..], &["events.process.+"]].concat());
    assert_eq!(
        withheld,
        ["events.network.+", "events.filesystem.+", "events.performance.+", "events.collector.+"]
    );
}

#[test]
fn a_pattern_in_both_lists_is_granted_in_part() {
    assert_eq!(
        narrowed("procmond", "control.rpc.#"),
        (vec!["control.rpc.response.+".to_owned()], vec!["control.rpc.response.+".to_owned()])
    );
    assert_eq!(
        narrowed("foo", "control.rpc.#"),
        (vec!["control.rpc.response.foo".to_owned()], vec!["control.rpc.response.+".to_owned()]),
        "a stranger's one id is a pattern"
    );
}

#[test]
fn a_pattern_that_meets_no_row_is_withheld_whole() {
    let narrowed = AccessPolicy::default().narrow(&component("agent"), &pattern("events.weather.#"));
    assert!(narrowed.granted.is_empty());
    let [withheld] = &narrowed.withheld[..] else { panic!("one part: {narrowed:?}") };
    assert_eq!((withheld.pattern.as_str(), withheld.level), ("events.weather.#", None));
}

const IDS: [&str; 12] = [
    "procmond",
    "procmond-A1",
    "netmond-2",
    "agent",
    "agent-7",
    "detector",
    "foo",
    "foo-bar",
    "FOO",
    "registration",
    "lifecycle",
    "0b9c6a4e-8a57-4c55-9f0e-6d6f5c2b1a10",
];

fn components() -> Vec<Component> {
    let others = ["fsmond", "perfmond", "exporter"];
    IDS.iter().chain(&others).filter_map(|id| Component::from_client_id(id).ok()).collect()
}

fn topics() -> Vec<Topic> {
    topics_of(&AccessPolicy::default())
}

/// The topics of each row, with ids for `+`, and names for `#`; and topics that are in no row.
fn topics_of(policy: &AccessPolicy) -> Vec<Topic> {
    let mut topics: Vec<String> =
        ["a", "events", "events.weather.hot", "control.x.y.z", "control.trigger"].map(str::to_owned).to_vec();
    for rule in policy.rules.iter() {
        let text = rule.pattern.as_str();
        topics.extend(IDS.iter().map(|id| text.replace(['+', '#'], id)));
        topics.extend(["start", "batch", "x.y"].map(|name| text.replace('+', "id").replace('#', name)));
        topics.extend(text.strip_suffix(".#").map(str::to_owned));
    }
    topics.sort();
    topics.dedup();
    topics.iter().filter_map(|text| Topic::new(text).ok()).collect()
}

fn patterns() -> Vec<TopicPattern> {
    let wide = [
        "#",
        "+",
        "+.#",
        "+.+",
        "+.+.+",
        "+.+.+.+",
        "events.#",
        "events.+.+",
        "events.+.anomaly",
        "control.#",
    ];
    let cross =
        ["+.collector.#", "+.+.procmond", "+.+.foo.#", "control.collector.+", "control.+.+.procmond-A1"];
    let rows = AccessPolicy::default().rules.iter().map(|rule| rule.pattern.clone()).collect::<Vec<_>>();
    let literal = topics().into_iter().map(TopicPattern::from);
    wide.iter().chain(&cross).map(|text| pattern(text)).chain(rows).chain(literal).collect()
}

type Answer = (Topic, Result<(), Denial>);

/// May this component subscribe to them? Asked once, because the tests below look at the answers often.
fn answers(policy: &AccessPolicy, component: &Component) -> Vec<Answer> {
    topics_of(policy)
        .into_iter()
        .map(|topic| {
            let answer = policy.may_subscribe(component, &topic);
            (topic, answer)
        })
        .collect()
}

/// The laws of [`AccessPolicy::narrow`] for one component and pattern, asked of each topic.
fn check_laws(policy: &AccessPolicy, component: &Component, asked: &TopicPattern, answers: &[Answer]) {
    let Narrowed { granted, withheld } = policy.narrow(component, asked);
    let in_part = |part: &TopicPattern| withheld.iter().any(|withheld| withheld.pattern == *part);
    assert!(granted.iter().all(|part| asked.covers(part)), "{component} got more than {asked}: {granted:?}");
    assert!(is_known(component.as_str()) || !granted.iter().any(in_part), "{component}: {asked} is exact");
    for (topic, answer) in answers {
        let allowed = answer.is_ok() && asked.matches(topic);
        let by_grant = granted.iter().any(|part| part.matches(topic));
        let by_whole_grant = granted.iter().any(|part| part.matches(topic) && !in_part(part));
        let named = withheld.iter().any(|withheld| withheld.pattern.matches(topic));
        assert!(by_grant || !allowed, "{component} lost {topic} of {asked}");
        assert!(allowed || named || !by_whole_grant, "{component} was given {topic} of {asked}");
        assert_eq!(by_grant && answer.is_ok(), allowed, "what {component} gets of {asked}: {topic}");
        let silently = asked.matches(topic) && !named && matches!(answer, Err(Denial::NotASubscriber { .. }));
        assert!(!silently, "{topic} of {asked} was silently withheld from {component}");
    }
}

#[test]
fn narrowing_agrees_with_each_single_decision() {
    let (policy, patterns) = (AccessPolicy::default(), patterns());
    for component in components() {
        let answers = answers(&policy, &component);
        assert!(answers.len() > 200, "{} topics", answers.len());
        for asked in &patterns {
            check_laws(&policy, &component, asked, &answers);
        }
    }
}

#[test]
fn a_literal_pattern_is_granted_as_its_topic_is() {
    let policy = AccessPolicy::default();
    for component in components() {
        for topic in topics() {
            let asked = TopicPattern::from(topic.clone());
            let narrowed = policy.narrow(&component, &asked);
            let answer = policy.may_subscribe(&component, &topic);
            let granted: &[TopicPattern] = if answer.is_ok() { &[asked] } else { &[] };
            assert_eq!(narrowed.granted, granted, "{component} on {topic}");
            assert_eq!(narrowed.withheld.len(), usize::from(answer.is_err()));
        }
    }
}

/// Words that the table uses.
const WORDS: &[&str] =
    &["events", "control", "collector", "process", "anomaly", "config", "rpc", "response", "foo", "+", "+"];

/// Up to four segments out of them.
fn arb_pattern() -> impl Strategy<Value = TopicPattern> {
    (prop::collection::vec(prop::sample::select(WORDS), 1..=4), any::<bool>())
        .prop_map(|(words, open)| pattern(&(words.join(".") + if open { ".#" } else { "" })))
}

#[test]
fn narrowing_agrees_on_any_pattern() {
    let policy = AccessPolicy::default();
    let everybody: Vec<_> = components().into_iter().map(|c| (answers(&policy, &c), c)).collect();
    proptest!(|(asked in arb_pattern())| {
        for (answers, component) in &everybody {
            check_laws(&policy, component, &asked, answers);
        }
    });
}

const EVERYBODY: &[&str] =
    &["agent", "collectors", "observers", "procmond", "detector", "foo", "foo-bar", "{self}"];

/// A row out of the same words, that obeys the laws of a row.
fn arb_row() -> impl Strategy<Value = Row> {
    let names = || prop::collection::vec(prop::sample::select(EVERYBODY), 0..3);
    let pattern = arb_pattern().prop_map(|pattern| pattern.to_string());
    (pattern, any::<bool>(), any::<bool>(), names(), names()).prop_map(
        |(topics, owned, public, publishers, subscribers)| {
            let whom = |mut names: Vec<&str>| -> Vec<Who> {
                names.retain(|name| *name != "{self}" || owned);
                names.iter().map(|name| Who::of_word(name)).collect()
            };
            let wild = topics.strip_suffix('+').filter(|_| owned).map(|prefix| format!("{prefix}{{self}}"));
            let mut publishers = whom(publishers);
            if wild.is_some() && !publishers.contains(&Who::Owner) {
                publishers.push(Who::Owner);
            }
            let level = if public { TopicAccessLevel::Public } else { TopicAccessLevel::Restricted };
            let subscribers = if public { vec![Who::Anyone] } else { whom(subscribers) };
            let (owned, topics) = (wild.is_some(), wild.unwrap_or(topics));
            let keep =
                |names: Vec<Who>| names.into_iter().filter(|who| owned || *who != Who::Owner).collect();
            let (publishers, subscribers) = (keep(publishers), keep(subscribers));
            Row { topics: topics.into(), level, publishers, subscribers }
        },
    )
}

#[test]
fn narrowing_agrees_with_each_single_decision_of_any_table() {
    proptest!(|(rows in prop::collection::vec(arb_row(), 1..6), asked in arb_pattern(), id in 0..IDS.len())| {
        let policy = AccessPolicy::of_rows(rows);
        if let Ok(component) = Component::from_client_id(IDS[id]) {
            check_laws(&policy, &component, &asked, &answers(&policy, &component));
        }
    });
}
