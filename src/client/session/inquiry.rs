//! The broker's statistics, asked for by this client.

use super::super::{Connection, Disconnected, StatisticsError};
use super::command::Reply;
use super::{Asked, Session, answer};
use crate::config::STATISTICS_BYTES_MAX;
use crate::statistics::BrokerStatistics;
use crate::wire::{Fact, Request, STATISTICS_SINCE};

/// An answer that comes in parts, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    facts: Vec<Fact>,
    replies: Vec<Reply<BrokerStatistics, StatisticsError>>,
}

impl Gathering {
    pub(super) fn answer(self, result: &Result<BrokerStatistics, StatisticsError>) {
        for reply in self.replies {
            answer(reply, result.clone());
        }
    }
}

impl Session {
    /// Asks the broker, or waits for what it was asked for already.
    pub(super) fn inquire(&mut self, reply: Reply<BrokerStatistics, StatisticsError>) {
        if let Connection::Away(why) | Connection::Over(why) = &*self.ground.connection.borrow() {
            return answer(reply, Err(why.clone().into()));
        }
        if self.welcome.version < STATISTICS_SINCE {
            return answer(reply, Err(StatisticsError::Unknown));
        }
        let under_way = self.asked.values_mut().find_map(|asked| match asked {
            Asked::Statistics(gathering) => Some(gathering),
            _ => None,
        });
        if let Some(gathering) = under_way {
            return gathering.replies.push(reply);
        }
        let request =
            self.next_request(Asked::Statistics(Gathering { facts: Vec::new(), replies: vec![reply] }));
        self.ask(Request::Statistics { request });
    }

    /// The broker that was asked is gone.
    pub(super) fn end_inquiries(&mut self, why: &Disconnected) {
        let is_one = |_: &u32, asked: &mut Asked| matches!(asked, Asked::Statistics(_));
        for (_, asked) in self.asked.extract_if(is_one) {
            if let Asked::Statistics(gathering) = asked {
                gathering.answer(&Err(why.clone().into()));
            }
        }
    }

    /// Takes a part of the answer, and hands on the whole.
    pub(super) fn gather(&mut self, request: u32, facts: Vec<Fact>, more: bool) {
        let Some(Asked::Statistics(gathering)) = self.asked.get_mut(&request) else { return };
        // Each has a byte at least: a broker that sends more than it may is not listened to without end.
        let room = STATISTICS_BYTES_MAX.saturating_sub(gathering.facts.len());
        gathering.facts.extend(facts.into_iter().take(room));
        if !more && let Some(Asked::Statistics(mut gathering)) = self.asked.remove(&request) {
            let facts = std::mem::take(&mut gathering.facts);
            gathering.answer(&Ok(BrokerStatistics::of(facts)));
        }
    }
}
