//! The flat table from a topic's number to its targets.
//!
//! ```text
//!   offsets  [ 0 | 2 | 2 | 5 ]          topic 0: targets[0..2], topic 1: none, topic 2: targets[2..5]
//!   targets  [ a | b | a | c | d ]
//! ```
//!
//! Invariant: `offsets` begins with 0, never falls and ends with the length of `targets`.

/// A topic of a publisher, by number: 0, 1, 2 and so on, in the order of their declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TopicId(u32);

impl TopicId {
    /// Its number.
    pub(crate) fn number(self) -> usize {
        self.0 as usize
    }

    /// The `nth` topic of a publisher, counted from 0.
    pub(crate) fn nth(nth: usize) -> Self {
        Self(u32::try_from(nth).expect("a publisher has some hundred topics"))
    }

    fn place(self) -> usize {
        self.0 as usize
    }
}

/// Which targets each topic has: an immutable snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RoutingTable<T> {
    offsets: Box<[u32]>,
    targets: Box<[T]>,
    generation: u64,
}

impl<T> RoutingTable<T> {
    /// Builds the snapshot `generation` from the targets of each topic, given in any order. A topic that is
    /// not given has none, a topic that is given twice has the targets of both.
    pub(crate) fn build(generation: u64, routes: impl IntoIterator<Item = (TopicId, Vec<T>)>) -> Self {
        let mut routes: Vec<(TopicId, Vec<T>)> = routes.into_iter().collect();
        routes.sort_by_key(|&(id, _)| id);
        let topics = routes.last().map_or(0, |(id, _)| id.place() + 1);
        let mut offsets = Vec::with_capacity(topics + 1);
        let mut targets = Vec::with_capacity(routes.iter().map(|(_, of_topic)| of_topic.len()).sum());
        for (id, of_topic) in routes {
            // This topic begins here, and so do those that were skipped: they are empty.
            offsets.resize(id.place() + 1, offset(targets.len()));
            targets.extend(of_topic);
        }
        offsets.push(offset(targets.len()));
        Self { offsets: offsets.into(), targets: targets.into(), generation }
    }

    /// The targets of a topic, in the order in which they were given. A topic that got its number after this
    /// snapshot was built has none.
    pub(crate) fn targets(&self, id: TopicId) -> &[T] {
        match self.offsets.get(id.place()..).unwrap_or_default() {
            &[begin, end, ..] => &self.targets[begin as usize..end as usize],
            _ => &[],
        }
    }

    /// The number of this snapshot: a later one has a higher one.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

fn offset(targets: usize) -> u32 {
    u32::try_from(targets).expect("sessions and topics are limited, and their product is below 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_table_is_as_it_is_drawn() {
        let routes = [(TopicId(2), vec!['a', 'c', 'd']), (TopicId(0), vec!['a', 'b'])];
        let table = RoutingTable::build(7, routes);
        assert_eq!(*table.offsets, [0, 2, 2, 5]);
        assert_eq!(*table.targets, ['a', 'b', 'a', 'c', 'd']);
        assert_eq!(table.generation(), 7);
    }

    #[test]
    fn a_topic_that_is_newer_than_the_table_has_no_targets() {
        let table = RoutingTable::build(1, [(TopicId(0), vec![5])]);
        assert_eq!(table.targets(TopicId(0)), [5]);
        assert_eq!(table.targets(TopicId(1)), [0; 0]);
        assert_eq!(table.targets(TopicId(u32::MAX)), [0; 0]);
        assert_eq!(RoutingTable::<u8>::build(1, []).targets(TopicId(0)), [0; 0]);
    }

    proptest! {
        #[test]
        fn a_table_gives_back_what_it_was_given(
            routes in prop::collection::vec((0..20_u32, prop::collection::vec(any::<u16>(), 0..5)), 0..30),
        ) {
            let mut model: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
            for (id, targets) in &routes {
                model.entry(*id).or_default().extend(targets);
            }
            let table = RoutingTable::build(1, routes.into_iter().map(|(id, targets)| (TopicId(id), targets)));
            for id in 0..25 {
                let expected = model.get(&id).map_or(&[][..], Vec::as_slice);
                prop_assert_eq!(table.targets(TopicId(id)), expected);
            }
        }
    }
}
