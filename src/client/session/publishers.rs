//! A client's publishers as its session knows them: which topics the broker has granted them, and in what order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::{DeclareError, Disconnected};
use super::command::Reply;
use super::{Asked, Session, answer};
use crate::access::Component;
use crate::dataplane::{Origin, OutboxShared};
use crate::routing::TopicId;
use crate::topic::Topic;
use crate::wire::{PublisherId, Request};

/// One publisher. Its topics keep their places for as long as it lives; the broker of each session has numbers of its own for them.
#[derive(Debug)]
pub(super) struct PublisherState {
    pub(super) outbox: Arc<OutboxShared>,
    /// The session's broker knows it.
    id: Option<PublisherId>,
    topics: Vec<Topic>,
    /// By the broker's number: the place of the topic. The last may not be granted yet.
    places: Vec<usize>,
    /// One declaration is under way at a time, so that topic numbers have no gaps.
    in_flight: Option<Declaration>,
    /// Places of topics that it had with the broker before.
    again: VecDeque<usize>,
    waiting: VecDeque<(Topic, Reply<TopicId, DeclareError>)>,
}

#[derive(Debug)]
enum Declaration {
    New { topic: Topic, reply: Reply<TopicId, DeclareError> },
    Again { place: usize },
}

impl PublisherState {
    pub(super) fn new(outbox: Arc<OutboxShared>) -> Self {
        Self {
            outbox,
            id: None,
            topics: Vec::new(),
            places: Vec::new(),
            in_flight: None,
            again: VecDeque::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Whether the session's broker may know of it.
    fn ever_declared(&self) -> bool {
        self.id.is_some() || self.in_flight.is_some()
    }

    /// Whether what it had before is declared again.
    pub(super) fn is_whole(&self) -> bool {
        self.again.is_empty() && !matches!(self.in_flight, Some(Declaration::Again { .. }))
    }

    /// Where the topic of the broker's number stands.
    pub(super) fn place(&self, topic_number: u32) -> Option<u32> {
        self.places.get(topic_number as usize).copied().map(number)
    }

    /// The broker is gone; what it had granted is to be asked of the next.
    pub(super) fn lose_broker(&mut self) {
        if let Some(Declaration::New { topic, reply }) = self.in_flight.take() {
            self.outbox.remove_last_topic();
            self.waiting.push_front((topic, reply));
        }
        self.id = None;
        self.places.clear();
        self.again = (0..self.topics.len()).collect();
        self.outbox.orphan(true);
    }

    /// There will be no other broker.
    pub(super) fn end(&mut self, why: &Disconnected) {
        self.outbox.orphan(false);
        if let Some(Declaration::New { reply, .. }) = self.in_flight.take() {
            answer(reply, Err(why.clone().into()));
        }
        for (_, reply) in self.waiting.drain(..) {
            answer(reply, Err(why.clone().into()));
        }
    }
}

impl Session {
    pub(super) fn declare(&mut self, publisher: u32, topic: Topic, reply: Reply<TopicId, DeclareError>) {
        let reply = self.in_time(reply, DeclareError::Timeout);
        if let Some(state) = self.publishers.get_mut(&publisher) {
            state.waiting.push_back((topic, reply));
            self.declare_next(publisher);
        }
    }

    pub(super) fn close_publisher(&mut self, publisher: u32) {
        self.send_all_relayed(Some(publisher));
        if let Some(state) = self.publishers.remove(&publisher) {
            self.closed_publisher(&state);
            if state.ever_declared() {
                self.ask(Request::ClosePublisher { publisher });
            }
        }
        self.forget_rings_of(publisher);
    }

    /// Sends a publisher's next declaration, unless one is under way.
    pub(super) fn declare_next(&mut self, publisher: u32) {
        let connected = self.is_connected();
        let Some(state) = self.publishers.get_mut(&publisher) else {
            return;
        };
        if state.in_flight.is_some() || !connected {
            return;
        }
        if let Some(place) = state.again.pop_front() {
            let text = state.topics[place].to_string();
            state.in_flight = Some(Declaration::Again { place });
            return self.ask_for_topic(publisher, place, text);
        }
        while let Some((topic, reply)) = state.waiting.pop_front() {
            if let Some(known) = state.topics.iter().position(|other| *other == topic) {
                answer(reply, Ok(TopicId::nth(known)));
                continue;
            }
            let (place, text) = (state.topics.len(), topic.to_string());
            state.outbox.add_topic(topic.clone());
            state.in_flight = Some(Declaration::New { topic, reply });
            return self.ask_for_topic(publisher, place, text);
        }
    }

    fn ask_for_topic(&mut self, publisher: u32, place: usize, topic: String) {
        let request = self.next_request(Asked::Declare { publisher });
        let Some(state) = self.publishers.get_mut(&publisher) else { return };
        // Routes come before the answer, and need the place.
        let topic_number = number(state.places.len());
        state.places.push(place);
        self.ask(Request::Declare { request, publisher, topic_number, topic });
    }

    /// The broker's answer to the declaration that is under way.
    pub(super) fn declared(&mut self, publisher: u32, result: Result<PublisherId, DeclareError>) {
        let origin = self.origin_of_own();
        let Some(state) = self.publishers.get_mut(&publisher) else {
            return;
        };
        let Some(declaration) = state.in_flight.take() else {
            return;
        };
        if let Ok(id) = &result
            && state.id.replace(*id).is_none()
        {
            state.outbox.set_origin(origin(*id));
        }
        if result.is_err() {
            state.places.pop();
        }
        match (declaration, result) {
            (Declaration::New { topic, reply }, Ok(_)) => {
                state.topics.push(topic);
                answer(reply, Ok(TopicId::nth(state.topics.len() - 1)));
            }
            (Declaration::New { reply, .. }, Err(error)) => {
                state.outbox.remove_last_topic();
                answer(reply, Err(error));
            }
            (Declaration::Again { .. }, Ok(_)) => {}
            (Declaration::Again { place }, Err(error)) => {
                tracing::warn!(name: "topic_lost", target: "daemoneye_eventbus::client", topic = %state.topics[place], %error, "may not be published on any longer");
                state.outbox.clear_topic(number(place));
            }
        }
        self.declare_next(publisher);
        self.release_rings();
        self.pour_soon();
    }

    /// Makes the name on what this process publishes to itself.
    fn origin_of_own(&self) -> impl Fn(PublisherId) -> Arc<Origin> + use<> {
        let component =
            Component::from_client_id(&self.welcome.component).expect("the broker's own spelling");
        let epoch = self.welcome.epoch;
        move |publisher| Arc::new(Origin { component: component.clone(), publisher, epoch })
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("the broker takes some hundred topics of a publisher")
}
