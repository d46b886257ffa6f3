//! Statistics, for whoever asked for them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::super::statistics::tell_poisonings;
use super::Server;
use crate::control::{Asker, Facts, Input, Inquired, SessionId, millis};
use crate::statistics::BrokerStatistics;
use crate::wire::statistics::in_frames;
use crate::wire::{Claims, Fact};
use shm::Descriptor;

impl Server {
    /// Somebody in this process wants to know.
    pub(super) fn inquire(&mut self, reply: oneshot::Sender<BrokerStatistics>) {
        self.last_inquiry += 1;
        self.inquiries.insert(self.last_inquiry, reply);
        self.feed(Input::Inquire { number: self.last_inquiry });
    }

    /// Answers those of this process, and yields what to answer the others.
    pub(super) fn inquired(&mut self, inquired: Inquired) -> Input<Descriptor> {
        let Inquired { askers, claims } = inquired;
        let facts = self.facts(&claims);
        let mut sessions = Vec::new();
        for asker in askers {
            match asker {
                Asker::Own(number) => {
                    if let Some(reply) = self.inquiries.remove(&number) {
                        // Who has stopped waiting needs no answer.
                        let _ = reply.send(BrokerStatistics::of(facts.iter().cloned()));
                    }
                }
                Asker::Session { session, request } => sessions.push((session, request)),
            }
        }
        let parts = if sessions.is_empty() { Vec::new() } else { in_frames(facts) };
        Input::Answered { askers: sessions, parts }
    }

    /// What is most worth knowing comes first: there may not be room for all.
    fn facts(&self, claims: &BTreeMap<SessionId, Claims>) -> Vec<Fact> {
        let mut facts = Facts::new();
        facts.add(Fact::Broker {
            uptime_ms: millis(self.since.elapsed()),
            connections: self.machine.connections(),
            accepted: self.last_session,
            turned_away: self.machine.turned_away(),
        });
        self.audit.causes().tell(&mut facts);
        self.roll.turnover.tell(SystemTime::now(), &mut facts);
        tell_poisonings(self.poisonings.list(), &mut facts);
        self.machine.tell_facts(&mut facts, claims, |session| (self.uid(session), self.pid(session)));
        facts.finish()
    }
}
