//! A policy of whatever text: an error that says a line of it, or a table whose answers agree.

#![no_main]

use daemoneye_eventbus::fuzzing::policy;
use daemoneye_eventbus::{Component, Topic, TopicPattern};
use libfuzzer_sys::fuzz_target;

const IDS: [&str; 5] = ["agent", "procmond-1", "detector", "foo", "a"];
const TOPICS: [&str; 7] =
    ["a", "a.b", "a.foo", "events.process.batch", "control.rpc.response.foo", "a.b.procmond-1", "a.b.c.d"];
const ASKED: [&str; 5] = ["#", "+.#", "a.+", "+.+.foo", "events.#"];

fuzz_target!(|text: &str| {
    let (rows, policy) = match policy(text) {
        Ok(table) => table,
        Err(error) => return check_error(text, &error),
    };
    assert!(rows <= 256 + 27, "{rows} rows");
    for id in IDS {
        let component = Component::from_client_id(id).expect("a legal id");
        let narrowed = ASKED.map(|asked| {
            let asked = TopicPattern::new(asked).expect("a legal pattern");
            let narrowed = policy.narrow(&component, &asked);
            (asked, narrowed)
        });
        for topic in TOPICS {
            let topic = Topic::new(topic).expect("a legal topic");
            // A denial is told to its component: it has to be bounded.
            if let Err(denial) = policy.may_publish(&component, &topic) {
                assert!(denial.to_string().len() < 8 << 10);
            }
            let may = policy.may_subscribe(&component, &topic).is_ok();
            for (asked, narrowed) in &narrowed {
                let granted = narrowed.granted.iter().any(|part| part.matches(&topic));
                assert!(granted || !may || !asked.matches(&topic), "{id} lost {topic} of {asked}");
                let named = narrowed.withheld.iter().any(|part| part.pattern.matches(&topic));
                assert!(may || named || !granted, "{id} was given {topic} of {asked}");
            }
        }
    }
});

/// The line is one of the text, and the message is of a bounded size.
fn check_error(text: &str, error: &str) {
    assert!(error.len() < 2048, "{} bytes", error.len());
    let Some(line) = error.strip_prefix("line ").and_then(|rest| rest.split(':').next()) else {
        return;
    };
    let line: usize = line.parse().expect("a number");
    let lines = 1 + text.bytes().filter(|byte| *byte == b'\n').count();
    assert!((1..=lines).contains(&line), "line {line} of {lines}");
}
