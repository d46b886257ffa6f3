//! The statistics for a script: all there is, with what is a claim named so.

use daemoneye_eventbus::{
    BrokerStatistics, Latencies, Payer, RingStatistics, SessionStatistics, ShareStatistics,
    SubscriptionStatistics, TopicPattern, TopicStatistics,
};
use serde_json::{Value, json};

use super::{answer, path, state};

pub(super) fn json(statistics: &BrokerStatistics) -> Value {
    let list = |values: Vec<Value>| Value::Array(values);
    json!({
        "uptime_seconds": statistics.uptime.as_secs_f64(),
        "connections": statistics.connections,
        "connections_ever": statistics.accepted,
        "connections_turned_away": statistics.turned_away,
        "sessions": list(statistics.sessions.iter().map(session).collect()),
        "rings": list(statistics.rings.iter().map(ring).collect()),
        "departed": {
            "sessions": statistics.departed.sessions,
            "without_word": statistics.departed.without_word,
            "claimed_published_events": statistics.departed.totals.published,
            "claimed_delivered_events": statistics.departed.totals.delivered,
        },
        "missing_in_sums": statistics.missing(),
        "turnover": list(statistics.turnover.iter().map(|component| json!({
            "component": component.component.as_str(),
            "joined": component.joined,
            "left": component.left,
            "last_left_seconds": component.last_left.map(|ago| ago.as_secs_f64()),
            "reason": component.reason.as_ref().map(ToString::to_string),
        })).collect()),
        "refusals": list(statistics.refusals.iter().map(|cause| {
            json!({ "count": cause.count, "last": cause.last.to_string() })
        }).collect()),
        "poisonings": list(statistics.poisonings.iter().map(|poisoning| json!({
            "component": poisoning.component.as_str(),
            "by": poisoning.by.as_str(),
            "count": poisoning.count,
            "last_violation": poisoning.last_violation,
        })).collect()),
        "shares": list(statistics.shares.iter().map(share).collect()),
        "omitted": statistics.omitted,
    })
}

fn session(session: &SessionStatistics) -> Value {
    let received = session.received.map(|claim| {
        let Latencies { events, p50_nanos, p90_nanos, p99_nanos, p999_nanos, max_nanos, .. } =
            claim.latencies;
        json!({
            "latencies": {
                "events": events,
                "p50_nanos": p50_nanos,
                "p90_nanos": p90_nanos,
                "p99_nanos": p99_nanos,
                "p999_nanos": p999_nanos,
                "max_nanos": max_nanos,
            },
            "events": claim.events,
            "skipped_events": claim.skipped,
            "ring_bytes_waiting": claim.bytes_waiting,
            "ring_bytes_waiting_max": claim.bytes_waiting_max,
        })
    });
    let publishers = session.publishers.iter().map(|publisher| {
        let topics = publisher.topics.iter().map(topic).collect::<Vec<_>>();
        json!({ "number": publisher.number, "topics": topics })
    });
    json!({
        "component": session.component.as_str(),
        "uid": session.uid,
        "pid": session.pid,
        "identity": session.identity.to_string(),
        "connected_seconds": session.connected.as_secs_f64(),
        "answer": answer(session.answer),
        "claimed_totals": session.totals.map(|totals| {
            json!({ "published_events": totals.published, "delivered_events": totals.delivered })
        }),
        "claimed_received": received,
        "subscriptions": session.subscriptions.iter().map(subscription).collect::<Vec<_>>(),
        "publishers": publishers.collect::<Vec<_>>(),
    })
}

fn subscription(subscription: &SubscriptionStatistics) -> Value {
    let claimed = subscription.claim.map(|claim| {
        json!({
            "received_events": claim.received,
            "lost_in_ring_events": claim.lost_in_ring,
            "lost_in_queue_events": claim.lost_in_queue,
            "filtered_events": claim.filtered,
        })
    });
    let texts = |patterns: &[TopicPattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "number": subscription.number,
        "ring_bytes": subscription.ring_bytes,
        "granted": texts(&subscription.granted),
        "withheld": texts(&subscription.withheld),
        "claimed": claimed,
    })
}

fn topic(topic: &TopicStatistics) -> Value {
    let claimed = topic.claim.map(|claim| {
        json!({
            "published_events": claim.events,
            "reached_events": claim.reached,
            "dropped_events": claim.dropped,
            "dropped_by_cause": {
                "ring_full_events": claim.ring_full(),
                "too_large_events": claim.too_large,
                "too_late_events": claim.too_late,
                "outbox_full_events": claim.unkept,
            },
            "kept_events": claim.kept,
            "expired_events": claim.expired,
        })
    });
    json!({ "topic": topic.topic.as_str(), "claimed": claimed })
}

fn ring(ring: &RingStatistics) -> Value {
    let claimed = ring.claim.map(|claim| {
        json!({
            "events": claim.events,
            "dropped_events": claim.dropped,
            "too_large_events": claim.too_large,
            "bytes": claim.bytes,
            "bytes_waiting": claim.bytes_waiting,
        })
    });
    let (way, why) = path(&ring.path);
    let routes = ring.routes.iter().map(|route| {
        json!({
            "topic": route.topic.as_str(),
            "active": route.active,
            "claimed_received_events": route.claim.map(|claim| claim.received),
        })
    });
    json!({
        "publisher": ring.publisher,
        "from": ring.from.as_str(),
        "to": ring.to.as_str(),
        "bytes": ring.bytes,
        "state": state(ring.state),
        "path": way,
        "relayed_since": why,
        "withheld_events": ring.withheld,
        "topics": ring.route_count,
        "routes": routes.collect::<Vec<_>>(),
        "claimed": claimed,
    })
}

fn share(share: &ShareStatistics) -> Value {
    let whose = match share.payer {
        None => json!("all"),
        Some(Payer::Agent) => json!("agent"),
        Some(Payer::Uid(uid)) => json!({ "uid": uid }),
    };
    json!({
        "whose": whose,
        "resource": share.resource.to_string(),
        "in_use": share.in_use,
        "limit": share.limit,
    })
}
