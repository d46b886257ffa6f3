//! The statistics for an operator.

use std::fmt::Write as _;
use std::time::Duration;

use daemoneye_eventbus::{
    Answer, BrokerStatistics, EventBusStatistics, Latencies, Payer, Resource, RingClaim, RingStatistics,
    SessionStatistics, TopicClaim, TopicPattern, TurnoverStatistics,
};

use super::{answer, path, state};
use crate::printable::printable;

/// Characters of a name, of a topic with its figures, and of a cause.
const NAME_COLUMNS: usize = 24;
const TEXT_COLUMNS: usize = 100;

pub(super) fn table(statistics: &BrokerStatistics) -> String {
    let mut lines = head(statistics);
    for session in &statistics.sessions {
        lines.extend(session_lines(session));
    }
    if !statistics.rings.is_empty() {
        lines.push(String::new());
        lines.push(row_of_ring([
            "RING FROM",
            "TO",
            "PATH",
            "STATE",
            "SIZE",
            "WAITING",
            "BYTES",
            "TOPICS",
            "EVENTS",
            "DROPPED",
        ]));
        lines.extend(statistics.rings.iter().flat_map(ring_lines));
    }
    lines.extend(troubles(statistics));
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

fn head(statistics: &BrokerStatistics) -> Vec<String> {
    let BrokerStatistics { connections, accepted, turned_away, .. } = statistics;
    let mut lines = vec![format!(
        "up {}, {connections} connections, {accepted} ever, {turned_away} turned away",
        time(statistics.uptime)
    )];
    let five = EventBusStatistics::from(statistics);
    let (published, delivered) = (five.messages_published, five.messages_delivered);
    let missing = match statistics.missing() {
        0 => String::new(),
        clients => format!(", without what {clients} clients have not said"),
    };
    lines.push(format!("{published} events published, {delivered} delivered{missing}"));
    let totals = statistics.shares.iter().filter(|share| share.payer.is_none() && share.in_use > 0);
    let totals = totals.map(|share| match share.limit {
        Some(limit) => {
            let shown = |amount| amount_of(share.resource, amount);
            format!("{} of {} {}", shown(share.in_use), shown(limit), share.resource)
        }
        None => format!("{} {}", share.in_use, share.resource),
    });
    lines.push(format!("in use: {}", totals.collect::<Vec<_>>().join(", ")));
    lines.push(String::new());
    lines.push(row_of_session(["COMPONENT", "PID", "UID", "UP", "IDENTITY", "RECEIVED", "SKIPPED"]));
    lines
}

fn row_of_session([component, pid, uid, up, identity, received, skipped]: [&str; 7]) -> String {
    format!(
        "{component:<NAME_COLUMNS$}  {pid:>7}  {uid:>6}  {up:>8}  {identity:<24}  {received:>13}  {skipped:>8}"
    )
}

fn session_lines(session: &SessionStatistics) -> Vec<String> {
    let component = printable(session.component.as_str(), NAME_COLUMNS);
    let pid = session.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let (received, skipped) = match (session.answer, session.received) {
        (Answer::Told, Some(claim)) => (claim.events.to_string(), claim.skipped.to_string()),
        (other, _) => (answer(other).to_owned(), "-".to_owned()),
    };
    let (uid, up, identity) =
        (session.uid.to_string(), time(session.connected), session.identity.to_string());
    let mut lines = vec![row_of_session([&component, &pid, &uid, &up, &identity, &received, &skipped])];
    for topic in session.publishers.iter().flat_map(|publisher| &publisher.topics) {
        let mut line = format!("  publishes {}", printable(topic.topic.as_str(), TEXT_COLUMNS));
        if let Some(claim) = topic.claim {
            line += &fate(&claim);
        }
        lines.push(line);
    }
    for subscription in &session.subscriptions {
        let mut line = format!("  hears {}", texts(&subscription.granted));
        if !subscription.withheld.is_empty() {
            let _ = write!(line, " (withheld: {})", texts(&subscription.withheld));
        }
        if let Some(claim) = subscription.claim {
            let (received, filtered) = (claim.received, claim.filtered);
            let (ring, queue) = (claim.lost_in_ring, claim.lost_in_queue);
            let _ = write!(
                line,
                ": {received} received, {filtered} filtered out, {ring} lost in rings, {queue} lost in its queue"
            );
        }
        lines.push(line);
    }
    lines.extend(session.received.and_then(|claim| latency_line(&claim.latencies)));
    lines
}

/// What came of the events on a topic, with the causes of losses where there are any.
fn fate(claim: &TopicClaim) -> String {
    let (events, reached, dropped) = (claim.events, claim.reached, claim.dropped);
    let mut text = format!(": {events} published, {reached} reached, {dropped} dropped");
    let causes = [
        ("ring full", claim.ring_full()),
        ("too large", claim.too_large),
        ("subscriber too late", claim.too_late),
        ("outbox full", claim.unkept),
    ];
    let causes = causes.into_iter().filter(|(_, events)| *events > 0);
    let causes: Vec<String> = causes.map(|(cause, events)| format!("{cause}: {events}")).collect();
    if !causes.is_empty() {
        let _ = write!(text, " ({})", causes.join(", "));
    }
    if claim.kept > 0 {
        let _ = write!(text, ", {} kept without a broker, {} of them for nobody", claim.kept, claim.expired);
    }
    text
}

/// How long events take to a session, if it has taken any.
fn latency_line(latencies: &Latencies) -> Option<String> {
    let Latencies { events, p50_nanos, p90_nanos, p99_nanos, p999_nanos, max_nanos, .. } = *latencies;
    let [p50, p90, p99, p999, max] = [p50_nanos, p90_nanos, p99_nanos, p999_nanos, max_nanos].map(short_time);
    (events > 0).then(|| {
        format!("  took {events} events: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max} after publication")
    })
}

fn row_of_ring(cells: [&str; 10]) -> String {
    let [from, to, path, state, size, waiting, bytes, topics, events, dropped] = cells;
    format!(
        "{from:<16}  {to:<16}  {path:<5}  {state:<8}  {size:>9}  {waiting:>9}  {bytes:>9}  {topics:>6}  {events:>12}  {dropped:>12}"
    )
}

/// A ring, why it leads over the broker if it does, and its topics.
fn ring_lines(ring: &RingStatistics) -> Vec<String> {
    let (from, to) = (printable(ring.from.as_str(), 16), printable(ring.to.as_str(), 16));
    let (path, why) = path(&ring.path);
    let claim = |shown: fn(&RingClaim) -> String| ring.claim.as_ref().map_or_else(|| "-".to_owned(), shown);
    let size = if ring.path.is_relay() { "-".to_owned() } else { bytes(ring.bytes) };
    let (waiting, written) = (claim(|claim| bytes(claim.bytes_waiting)), claim(|claim| bytes(claim.bytes)));
    let (events, dropped) =
        (claim(|claim| claim.events.to_string()), claim(|claim| claim.dropped.to_string()));
    let (state, topics) = (state(ring.state), ring.route_count.to_string());
    let mut lines =
        vec![row_of_ring([&from, &to, path, state, &size, &waiting, &written, &topics, &events, &dropped])];
    lines.extend(why.map(|why| format!("  over the broker: {}", printable(why, TEXT_COLUMNS))));
    if ring.withheld > 0 {
        lines.push(format!("  withheld by the broker: {} events, so much waited for {to}", ring.withheld));
    }
    lines.extend(ring.routes.iter().map(|route| {
        let topic = printable(route.topic.as_str(), TEXT_COLUMNS);
        let received = route.claim.map_or_else(String::new, |claim| format!(": {} received", claim.received));
        let state = if route.active { "" } else { " (not yet, or no longer)" };
        format!("  brings {topic}{received}{state}")
    }));
    lines
}

/// Shares of users, who comes and goes, refusals, broken rings, and what is not shown.
fn troubles(statistics: &BrokerStatistics) -> Vec<String> {
    let mut lines = vec![String::new()];
    for share in &statistics.shares {
        let whose = match share.payer {
            None => continue,
            Some(Payer::Agent) => "the agent".to_owned(),
            Some(Payer::Uid(uid)) => format!("uid {uid}"),
        };
        let shown = |amount| amount_of(share.resource, amount);
        let limit = share.limit.map_or_else(String::new, |limit| format!(" of {}", shown(limit)));
        lines.push(format!("{whose} has {}{limit} {}", shown(share.in_use), share.resource));
    }
    lines.extend(statistics.turnover.iter().filter(|component| component.joined > 1).map(turnover_line));
    for cause in &statistics.refusals {
        let last = printable(&cause.last.to_string(), TEXT_COLUMNS);
        lines.push(format!("refused {} times, the last: {last}", cause.count));
    }
    for poisoning in &statistics.poisonings {
        let (component, by) = (poisoning.component.as_str(), poisoning.by.as_str());
        let (component, by) = (printable(component, NAME_COLUMNS), printable(by, NAME_COLUMNS));
        let last = printable(&poisoning.last_violation, TEXT_COLUMNS);
        lines.push(format!("{component} broke {} rings, says {by}, the last: {last}", poisoning.count));
    }
    if statistics.omitted > 0 {
        lines.push(format!("{} more facts are not shown: there are too many", statistics.omitted));
    }
    if lines.len() == 1 { Vec::new() } else { lines }
}

/// A component that has come more than once.
fn turnover_line(turnover: &TurnoverStatistics) -> String {
    let component = printable(turnover.component.as_str(), NAME_COLUMNS);
    let mut line = format!("{component} joined {} times, left {} times", turnover.joined, turnover.left);
    if let Some(ago) = turnover.last_left {
        let why =
            turnover.reason.as_ref().map_or_else(|| "its connection ended".to_owned(), ToString::to_string);
        let _ = write!(line, ", the last time {} ago: {}", time(ago), printable(&why, TEXT_COLUMNS));
    }
    line
}

fn texts(patterns: &[TopicPattern]) -> String {
    let texts: Vec<&str> = patterns.iter().map(TopicPattern::as_str).collect();
    printable(&texts.join(" "), TEXT_COLUMNS)
}

fn amount_of(resource: Resource, amount: u64) -> String {
    match resource {
        Resource::RingBytes | Resource::PatternBytes | Resource::RelayedBytes => bytes(amount),
        _ => amount.to_string(),
    }
}

/// In the largest unit of which there is one.
fn bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// In the largest unit of which there is one.
fn short_time(nanos: u64) -> String {
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1000, "us")];
    match units.into_iter().find(|(unit, _)| nanos >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", nanos as f64 / unit as f64),
        None => format!("{nanos} ns"),
    }
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_are_shown_in_units_that_can_be_read() {
        assert_eq!(
            [0, 1023, 1024, 8 << 20, 3 << 29].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "8.0 MiB", "1.5 GiB"]
        );
        assert_eq!(
            [0, 999, 1000, 45_600_000, 3_600_000_000_000, u64::MAX].map(short_time),
            ["0 ns", "999 ns", "1.0 us", "45.6 ms", "3600.0 s", "18446744073.7 s"]
        );
        let times = [0, 59, 61, 3661, 90_000].map(|seconds| time(Duration::from_secs(seconds)));
        assert_eq!(times, ["0.0s", "59.0s", "1m01s", "1h01m", "1d01h"]);
    }
}
