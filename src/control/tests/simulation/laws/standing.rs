//! The laws that are about what there is, and not about what was just said: they hold after each input, after each tick, and at rest.

use std::collections::BTreeMap;
use std::time::Instant;

use super::super::super::super::{Machine, Origin, Payer, SessionId};
use super::super::super::world::{HELLO_DEADLINE, ROUTE_DEADLINE};
use super::{Granted, Outside, SeenOrder, Step, Subscription, Used};
use crate::access::AccessPolicy;
use crate::topic::Topic;
use crate::wire::SlotTarget;

impl Outside {
    /// What holds after each input.
    pub(in super::super) fn check(&mut self, machine: &Machine<u32>) {
        self.farewells();
        self.ends_of_rings();
        self.charges(machine);
        self.joined();
        self.allowed();
    }

    /// Law 11: what publishers use, a policy allows that is or may be in force.
    fn allowed(&self) {
        let assert_allowed = |from: SessionId, to: SessionId, topic: &Topic| {
            let [from, to] =
                [from, to].map(|end| self.sessions[&end].component.as_ref().expect("it was let in"));
            let mut policies = self.policies.values();
            let allows = |policy: &AccessPolicy| {
                policy.may_publish(from, topic).is_ok() && policy.may_subscribe(to, topic).is_ok()
            };
            assert!(policies.any(allows), "11: {from} still sends {topic} to {to}");
        };
        for ring in self.rings.values().filter(|ring| !ring.parted && ring.closed_to.is_empty()) {
            for slot in ring.slots.values().filter(|slot| slot.used != Used::No) {
                assert_allowed(ring.producer, ring.consumer, &slot.topic);
            }
        }
        for (session, seen) in &self.sessions {
            for (publisher, number) in &seen.own {
                let topic = seen.publishers[publisher][*number as usize].topic.as_ref();
                assert_allowed(*session, *session, topic.expect("it leads somewhere"));
            }
        }
    }

    /// Law 3: who was said goodbye to is disconnected in the same breath.
    fn farewells(&self) {
        for (session, seen) in &self.sessions {
            assert!(!seen.farewell, "3: {session:?} was said goodbye to and not disconnected");
        }
    }

    /// Law 8: both ends that are there are told.
    fn ends_of_rings(&mut self) {
        let Self { sessions, rings, .. } = self;
        rings.retain(|id, ring| {
            let ends = [ring.producer, ring.consumer];
            let over = !ring.closed_to.is_empty() || ends.iter().any(|end| !sessions.contains_key(end));
            if over {
                let open = ends.iter().filter(|end| sessions.contains_key(end));
                let untold: Vec<_> = open.filter(|end| !ring.closed_to.contains(end)).collect();
                assert!(untold.is_empty(), "8: {id:?} is over, and {untold:?} do not know");
            }
            !over
        });
    }

    /// Law 7.
    fn charges(&self, machine: &Machine<u32>) {
        let mut expected: BTreeMap<Payer, (u64, u64)> = BTreeMap::new();
        for ring in self.rings.values().filter(|ring| !ring.parted && !ring.relayed()) {
            let payer = match self.sessions[&ring.consumer].origin {
                Origin::Embedded => Payer::Agent,
                Origin::Remote { uid } | Origin::Invited { uid } => Payer::Uid(uid),
            };
            let (rings, bytes) = expected.entry(payer).or_default();
            *rings += 1;
            *bytes += ring.bytes + 8192;
        }
        let charged = machine.ring_charges().into_iter();
        let charged: BTreeMap<_, _> =
            charged.map(|charge| (charge.payer, (charge.rings, charge.bytes))).collect();
        assert_eq!(charged, expected, "7");
    }

    /// Law 5.
    fn joined(&self) {
        for (producer, state) in &self.sessions {
            for (number, declared) in &state.publishers {
                for (topic_number, declared) in (0..).zip(declared).filter(|(_, topic)| topic.answered) {
                    let topic = declared.topic.as_ref().expect("what is no topic is refused");
                    for (consumer, seen) in &self.sessions {
                        let asks = |asked: &Subscription| {
                            asked.answered && asked.patterns.iter().any(|p| p.matches(topic))
                        };
                        let permitted = |from, to| {
                            let mut policies = self.policies.values();
                            policies.all(|policy| {
                                policy.may_publish(from, topic).is_ok()
                                    && policy.may_subscribe(to, topic).is_ok()
                            })
                        };
                        let names = state.component.as_ref().zip(seen.component.as_ref());
                        let hears = names.is_some_and(|(from, to)| permitted(from, to))
                            && seen.subscriptions.values().any(asks)
                            && !self.parted.contains(&(*producer, *number, *consumer));
                        let leads = if producer == consumer {
                            seen.own.contains(&(*number, topic_number))
                        } else {
                            self.leads(*producer, *number, *consumer, topic)
                        };
                        assert!(!hears || leads, "5: {topic} of {producer:?} does not lead to {consumer:?}");
                    }
                }
            }
        }
    }

    fn leads(&self, producer: SessionId, number: u32, consumer: SessionId, topic: &Topic) -> bool {
        let mut rings = self.rings.values().filter(|ring| {
            (ring.producer, ring.number, ring.consumer) == (producer, number, consumer) && !ring.parted
        });
        rings.any(|ring| {
            let both = (Granted::Confirmed, Used::Confirmed);
            ring.slots.values().any(|slot| slot.topic == *topic && (slot.granted, slot.used) == both)
        })
    }

    /// Law 6, after a tick: who is late is gone.
    pub(in super::super) fn nobody_is_late(&self, now: Instant) {
        for (id, order) in &self.orders {
            let SeenOrder { session, since, step } = order;
            let lasts = match step {
                Step::Grant { ring, .. }
                | Step::Route { target: Some(SlotTarget { ring, .. }), .. }
                | Step::Unroute { ring: Some((ring, _)), .. } => {
                    self.rings.get(ring).is_some_and(|ring| !ring.parted)
                }
                Step::Route { publisher, .. } | Step::Unroute { publisher, .. } => {
                    self.sessions.get(session).is_some_and(|seen| seen.publishers.contains_key(publisher))
                }
            };
            assert!(!lasts || now - *since < ROUTE_DEADLINE, "6: {session:?} has not carried out {id:?}");
        }
        for (id, ring) in &self.rings {
            assert!(ring.ready || now - ring.since < ROUTE_DEADLINE, "6: {id:?} is not there in time");
        }
        for (id, seen) in &self.sessions {
            let said_hello = seen.component.is_some();
            assert!(said_hello || now - seen.since < HELLO_DEADLINE, "6: {id:?} has not said hello");
        }
    }

    /// Laws 4 and 5, when nothing is on its way any more: all was answered.
    pub(in super::super) fn at_rest(&self) {
        for (id, seen) in &self.sessions {
            assert!(seen.requests.is_empty(), "4: {id:?} waits in vain: {:?}", seen.requests);
        }
        assert!(self.reloads.is_empty(), "11: {:?} are never over", self.reloads);
    }
}
