//! The topics that have a name of their own, as data: the constants, the lists and the documentation come from this one table.
//!
//! A topic needs no name to exist: the rows of the table above this module decide who may use which. Levels stand there, and not here.

/// Writes down each domain once: a module of constants for it, and its lines of [`NAMED`].
macro_rules! names {
    ($(
        $about:literal
        $domain:ident $all:literal { $($name:ident $topic:literal $what:literal;)* }
    )*) => {
        $(
            #[doc = $about]
            pub mod $domain {
                $(
                    #[doc = $what]
                    pub const $name: &str = $topic;
                )*
                #[doc = concat!("The pattern of all of these: `", $all, "`.")]
                pub const ALL: &str = $all;
            }
        )*
        /// Each topic that has a name, and what it is for.
        pub(crate) static NAMED: &[(&str, &str)] = &[$($(($topic, $what),)*)*];
    };
}

names! {
    "What processes do; `procmond` publishes it."
    process "events.process.#" {
        LIFECYCLE "events.process.lifecycle" "Process start, stop, exit events.";
        METADATA "events.process.metadata" "Process metadata updates (CPU, memory).";
        TREE "events.process.tree" "Parent-child relationship changes.";
        INTEGRITY "events.process.integrity" "Hash verification and integrity checks.";
        ANOMALY "events.process.anomaly" "Behavioral anomalies and suspicious patterns.";
        BATCH "events.process.batch" "Bulk process enumeration results.";
        START "events.process.start" "A process has started.";
        STOP "events.process.stop" "A process has ended.";
        MODIFY "events.process.modify" "A process has changed.";
    }
    "What happens on the network; `netmond` publishes it."
    network "events.network.#" {
        EVENT "events.network.event" "Network events of any kind.";
        ANOMALY "events.network.anomaly" "Suspicious network traffic.";
    }
    "What happens to files; `fsmond` publishes it."
    filesystem "events.filesystem.#" {
        EVENT "events.filesystem.event" "Filesystem events of any kind.";
        ANOMALY "events.filesystem.anomaly" "Suspicious file access.";
    }
    "Use of resources; `perfmond` publishes it."
    performance "events.performance.#" {
        EVENT "events.performance.event" "Performance events of any kind.";
        ANOMALY "events.performance.anomaly" "Suspicious use of resources.";
    }
    "What the agent tells collectors, and they it."
    collector "control.collector.#" {
        LIFECYCLE "control.collector.lifecycle" "Start, stop, restart operations.";
        CONFIG "control.collector.config" "Configuration updates and reloads.";
        TASK "control.collector.task" "Task assignment and distribution.";
        REGISTRATION "control.collector.registration" "Collector registration and capabilities.";
    }
    "What the agent tells of itself."
    agent "control.agent.#" {
        ORCHESTRATION "control.agent.orchestration" "Agent coordination messages.";
        POLICY "control.agent.policy" "Policy updates and enforcement.";
    }
    "How components are."
    health "control.health.#" {
        HEARTBEAT "control.health.heartbeat" "Liveness check heartbeats.";
        STATUS "control.health.status" "Component status updates.";
        DIAGNOSTICS "control.health.diagnostics" "Diagnostic information exchange.";
    }
    "Requests to look closer."
    trigger "control.trigger.#" {
        REQUEST "control.trigger.request" "A collector of some type is asked to look closer.";
    }
    "The end of a component, or of all."
    shutdown "control.shutdown.#" {
        BROADCAST "control.shutdown" "All collectors are to end.";
    }
}

#[cfg(test)]
mod tests {
    use super::NAMED;
    use crate::hierarchy::{ROWS, TopicAccessLevel};
    use crate::topic::{Topic, TopicPattern};

    /// The level of the first row that matches.
    fn level(topic: &str) -> Option<TopicAccessLevel> {
        let topic = Topic::new(topic).expect("a legal topic");
        ROWS.iter().find(|row| row.pattern().expect("a legal one").matches(&topic)).map(|row| row.level)
    }

    fn is_named(topic: &str) -> bool {
        NAMED.iter().any(|(named, _)| *named == topic)
    }

    /// The hierarchy as the project's founding document has it, and the levels where that names them.
    const FOUNDING: [(&str, &str); 15] = [
        ("events.process.lifecycle", "Process start, stop, exit events"),
        ("events.process.metadata", "Process metadata updates (CPU, memory)"),
        ("events.process.tree", "Parent-child relationship changes"),
        ("events.process.integrity", "Hash verification and integrity checks"),
        ("events.process.anomaly", "Behavioral anomalies and suspicious patterns"),
        ("events.process.batch", "Bulk process enumeration results"),
        ("control.collector.lifecycle", "Start, stop, restart operations"),
        ("control.collector.config", "Configuration updates and reloads"),
        ("control.collector.task", "Task assignment and distribution"),
        ("control.collector.registration", "Collector registration and capabilities"),
        ("control.agent.orchestration", "Agent coordination messages"),
        ("control.agent.policy", "Policy updates and enforcement"),
        ("control.health.heartbeat", "Liveness check heartbeats"),
        ("control.health.status", "Component status updates"),
        ("control.health.diagnostics", "Diagnostic information exchange"),
    ];
    const FOUNDING_EXTENSIONS: [&str; 3] =
        ["events.network.*", "events.filesystem.*", "events.performance.*"];
    const FOUNDING_LEVELS: [(&str, TopicAccessLevel); 5] = [
        ("control.health.*", TopicAccessLevel::Public),
        ("events.*.anomaly", TopicAccessLevel::Public),
        ("events.process.*", TopicAccessLevel::Restricted),
        ("control.collector.lifecycle", TopicAccessLevel::Privileged),
        ("control.agent.policy", TopicAccessLevel::Privileged),
    ];

    #[test]
    fn the_founding_hierarchy_is_ours() {
        for (topic, what) in FOUNDING {
            assert!(NAMED.contains(&(topic, &format!("{what}.")[..])), "{topic}");
        }
        for domain in ["events.process.", "control.collector.", "control.agent.", "control.health."] {
            let count = FOUNDING.iter().filter(|(topic, _)| topic.starts_with(domain)).count();
            let ours = NAMED.iter().filter(|(topic, _)| topic.starts_with(domain)).map(|(topic, _)| *topic);
            let more: Vec<&str> = ours.skip(count).collect();
            let later = ["events.process.start", "events.process.stop", "events.process.modify"];
            assert_eq!(more, if domain == "events.process." { &later[..] } else { &[] }, "{domain}");
        }
        for extension in FOUNDING_EXTENSIONS {
            let pattern = TopicPattern::new(extension).expect("a legal pattern");
            let names = NAMED.iter().map(|(topic, _)| Topic::new(topic).expect("a legal topic"));
            assert!(names.into_iter().any(|topic| pattern.matches(&topic)), "{extension}");
        }
    }

    #[test]
    fn the_founding_levels_are_ours() {
        for (pattern, expected) in FOUNDING_LEVELS {
            let pattern = TopicPattern::new(pattern).expect("a legal pattern");
            let named = NAMED.iter().map(|(topic, _)| *topic);
            let mut met = named.filter(|topic| pattern.matches(&Topic::new(topic).expect("a legal topic")));
            // What is said of all process events is not said of anomalies, which have a line of their own.
            let anomalies_aside = pattern.as_str() == "events.process.+";
            let all_agree = met.all(|topic| {
                (anomalies_aside && topic.ends_with(".anomaly")) || level(topic) == Some(expected)
            });
            assert!(all_agree, "{pattern} is {expected}");
        }
    }

    #[test]
    fn each_name_is_a_topic_of_a_row_and_its_own() {
        for (number, (topic, what)) in NAMED.iter().enumerate() {
            assert!(level(topic).is_some(), "{topic} is in no row");
            assert!(what.ends_with('.'), "{topic}");
            assert!(NAMED[..number].iter().all(|(other, _)| other != topic), "{topic} twice");
        }
        assert!(is_named(super::process::LIFECYCLE) && is_named(super::shutdown::BROADCAST));
    }

    #[test]
    fn the_documented_names_are_those() {
        let section = include_str!("../../docs/topic-hierarchy.md")
            .split("\n## ")
            .find(|s| s.starts_with("Topics by name"));
        let rows = section.expect("a section of the document").lines().filter(|line| line.starts_with("| `"));
        let documented: Vec<String> = rows.map(|row| row.replace("  ", " ")).collect();
        let ours: Vec<String> = NAMED
            .iter()
            .map(|(topic, what)| {
                let level = level(topic).expect("it is in a row");
                format!("| `{topic}` | {level} | {} |", what.trim_end_matches('.'))
            })
            .collect();
        assert_eq!(documented, ours);
    }
}
