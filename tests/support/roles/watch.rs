//! Who watches the bus: its agent, and clients that may ask the broker.

use std::time::UNIX_EPOCH;

use daemoneye_eventbus::{
    BrokerStatistics, EventBusClient, Latencies, MembershipChange, Missed, SessionStatistics,
    StatisticsError, TopicClaim, TopicPattern, TurnoverStatistics,
};
use serde_json::{Value, json};

use super::{Bus, BusRole, error};

impl BusRole {
    pub(super) async fn watch(&mut self, command: &Value) -> Result<Value, Value> {
        if command["do"] == "watch_members" {
            self.membership = Some(self.agent().broker().membership());
            return Ok(json!({}));
        }
        if command["do"] == "broker_statistics" {
            return match &self.bus {
                Bus::Embedded(bus) => {
                    Ok(shown(&bus.broker().broker_statistics().await.expect("it was not shut down")))
                }
                Bus::Client(client) => ask(client).await,
            };
        }
        if command["do"] == "bus_statistics" {
            let statistics = self.agent().broker().statistics().await;
            return Ok(serde_json::to_value(statistics).expect("plain figures"));
        }
        if command["do"] == "ask_twice" {
            let (one, other) = tokio::join!(ask(self.client()), ask(self.client()));
            return Ok(json!({ "same": one? == other? }));
        }
        let next = self.membership.as_mut().expect("it watches").recv().await;
        Ok(json!({ "change": next.map(change) }))
    }
}

async fn ask(client: &EventBusClient) -> Result<Value, Value> {
    let asked = client.broker_statistics().await;
    asked.as_ref().map(shown).map_err(|e: &StatisticsError| error(e, &format!("{e:?}")))
}

/// Of how many events, and the figures in their order.
pub(super) fn figures(latencies: Latencies) -> [u64; 6] {
    let Latencies { events, p50_nanos, p90_nanos, p99_nanos, p999_nanos, max_nanos, .. } = latencies;
    [events, p50_nanos, p90_nanos, p99_nanos, p999_nanos, max_nanos]
}

fn patterns(patterns: &[TopicPattern]) -> Vec<&str> {
    patterns.iter().map(TopicPattern::as_str).collect()
}

/// Of each topic, why what was lost was lost.
fn causes(session: &SessionStatistics) -> Vec<Option<Value>> {
    let of = |claim: TopicClaim| {
        json!({
            "ring_full": claim.ring_full(),
            "too_large": claim.too_large,
            "too_late": claim.too_late,
            "unkept": claim.unkept,
            "kept": claim.kept,
            "expired": claim.expired,
        })
    };
    let topics = session.publishers.iter().flat_map(|publisher| &publisher.topics);
    topics.map(|topic| topic.claim.map(of)).collect()
}

/// Sessions by component, and rings; claims as arrays, in the order of their fields.
fn shown(statistics: &BrokerStatistics) -> Value {
    let sessions = statistics.sessions.iter().map(|session| {
        let subscriptions = session.subscriptions.iter().map(|subscription| {
            let claim =
                subscription.claim.map(|claim| [claim.received, claim.lost_in_ring, claim.lost_in_queue]);
            json!({
                "granted": patterns(&subscription.granted),
                "withheld": patterns(&subscription.withheld),
                "claim": claim,
            })
        });
        let topics = session.publishers.iter().flat_map(|publisher| &publisher.topics).map(|topic| {
            let claim = topic.claim.map(|claim| [claim.events, claim.reached, claim.dropped]);
            json!([topic.topic.as_str(), claim])
        });
        let filtered =
            session.subscriptions.iter().map(|subscription| subscription.claim.map(|claim| claim.filtered));
        let facts = json!({
            "filtered": filtered.collect::<Vec<_>>(),
            "causes": causes(session),
            "uid": session.uid,
            "pid": session.pid,
            "identity": format!("{:?}", session.identity),
            "answer": format!("{:?}", session.answer),
            "received": session.received.map(|claim| claim.events),
            "latencies": session.received.map(|claim| figures(claim.latencies)),
            "subscriptions": subscriptions.collect::<Vec<_>>(),
            "topics": topics.collect::<Vec<_>>(),
        });
        (session.component.to_string(), facts)
    });
    let rings = statistics.rings.iter().map(|ring| {
        let claim = ring.claim.map(|claim| [claim.events, claim.dropped]);
        let state = format!("{:?}", ring.state);
        json!([ring.from.as_str(), ring.to.as_str(), ring.bytes, state, ring.route_count, claim])
    });
    let paths = statistics.rings.iter().map(|ring| {
        let routes = ring.routes.iter().map(|route| {
            json!([route.topic.as_str(), route.active, route.claim.map(|claim| claim.received)])
        });
        json!({ "path": format!("{:?}", ring.path), "withheld": ring.withheld, "routes": routes.collect::<Vec<_>>() })
    });
    let shares = statistics.shares.iter().filter(|share| share.payer.is_none());
    json!({
        "sessions": Value::Object(sessions.collect()),
        "rings": rings.collect::<Vec<_>>(),
        "paths": paths.collect::<Vec<_>>(),
        "departed": [
            json!(statistics.departed.sessions), json!(statistics.departed.without_word),
            json!([statistics.departed.totals.published, statistics.departed.totals.delivered]),
        ],
        "missing": statistics.missing(),
        "turnover": statistics.turnover.iter().map(turnover).collect::<serde_json::Map<_, Value>>(),
        "bytes_waiting": statistics.rings.iter().map(|ring| ring.claim.map(|claim| claim.bytes_waiting)).collect::<Vec<_>>(),
        "bytes": statistics.rings.iter().map(|ring| ring.claim.map(|claim| claim.bytes)).collect::<Vec<_>>(),
        "connections": statistics.connections,
        "accepted": statistics.accepted,
        "turned_away": statistics.turned_away,
        "refusals": statistics.refusals.iter().map(|cause| cause.count).sum::<u64>(),
        "poisonings": statistics.poisonings.iter().map(|poisoning| poisoning.count).sum::<u64>(),
        "in_use": shares.map(|share| (format!("{:?}", share.resource), share.in_use.into())).collect::<serde_json::Map<_, Value>>(),
        "omitted": statistics.omitted,
    })
}

/// How often it joined and left, whether it is known when it left last, and why.
fn turnover(turnover: &TurnoverStatistics) -> (String, Value) {
    let TurnoverStatistics { component, joined, left, last_left, reason, .. } = turnover;
    (
        component.to_string(),
        json!([joined, left, last_left.is_some(), reason.as_ref().map(ToString::to_string)]),
    )
}

fn change(change: Result<MembershipChange, Missed>) -> Value {
    match change {
        Ok(MembershipChange { member, presence, at, .. }) => json!({
            "component": member.component.as_str(),
            "uid": member.uid,
            "pid": member.pid,
            "identity": format!("{:?}", member.identity),
            "presence": format!("{presence:?}"),
            "at": at.duration_since(UNIX_EPOCH).expect("it is later").as_secs_f64(),
        }),
        Err(Missed(changes)) => json!({ "missed": changes }),
    }
}
