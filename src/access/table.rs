//! What a table of rows must not be, though each row by itself makes sense: rows that no topic reaches, and rows that contradict each
//! other.

use std::borrow::Cow;

use super::file::PolicyError;
use crate::hierarchy::{Row, Who};
use crate::topic::TopicPattern;

/// A row of a file, with its pattern, and the line that it begins in.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) line: usize,
    pub(super) pattern: TopicPattern,
    pub(super) row: Row,
}

/// Whether each row is reached, and where two rows decide about the same topics, one is the closer one, or they say the same.
pub(super) fn check(rows: &[Placed]) -> Result<(), PolicyError> {
    for (index, lower) in rows.iter().enumerate() {
        let above = &rows[..index];
        if let Some(twin) = above.iter().find(|upper| are_equal(&upper.pattern, &lower.pattern)) {
            let topics = lower.row.topics.to_string();
            return Err(match agree(&twin.row, &lower.row) {
                true => PolicyError::NeverMatches { line: lower.line, topics, above: twin.line },
                false => PolicyError::Contradiction { line: lower.line, other: twin.line, topics },
            });
        }
        if let Some(last) = hidden_by(above, &lower.pattern) {
            let topics = lower.row.topics.to_string();
            return Err(PolicyError::NeverMatches { line: lower.line, topics, above: last.line });
        }
        for upper in above.iter().filter(|upper| !agree(&upper.row, &lower.row)) {
            if let Some(topics) = disputed(rows, upper, lower) {
                let topics = topics.to_string();
                return Err(PolicyError::Contradiction { line: lower.line, other: upper.line, topics });
            }
        }
    }
    Ok(())
}

fn are_equal(one: &TopicPattern, other: &TopicPattern) -> bool {
    one.covers(other) && other.covers(one)
}

/// Topics that both rows decide about, with no row closer to them than either.
fn disputed(rows: &[Placed], upper: &Placed, lower: &Placed) -> Option<TopicPattern> {
    let both = upper.pattern.intersect(&lower.pattern)?;
    let lies_within =
        |row: &Placed, wide: &Placed| wide.pattern.covers(&row.pattern) && !row.pattern.covers(&wide.pattern);
    let settles = |row: &&Placed| lies_within(row, upper) || lies_within(row, lower);
    let closer: Vec<&Placed> = rows.iter().filter(settles).collect();
    parts(&both).find(|part| !closer.iter().any(|row| row.pattern.covers(part)))
}

/// The row that completes what rows above decide, if that is all of `pattern`.
fn hidden_by<'a>(above: &'a [Placed], pattern: &TopicPattern) -> Option<&'a Placed> {
    let mut last = None;
    for part in parts(pattern) {
        let index = above.iter().position(|upper| upper.pattern.covers(&part))?;
        last = last.max(Some(index));
    }
    last.map(|index| &above[index])
}

/// The topics of a pattern by their length. What several rows decide of such a part together, one of them decides alone: take a topic that
/// has names which stand in no row wherever the part leaves the choice; the row that matches it leaves the choice there too.
fn parts(pattern: &TopicPattern) -> impl Iterator<Item = TopicPattern> {
    let lengths = ["+", "+.+", "+.+.+", "+.+.+.+"].into_iter();
    lengths.filter_map(|length| {
        let length = TopicPattern::new(length).expect("it is well-formed");
        pattern.intersect(&length)
    })
}

/// Whether two rows say the same, in whatever order. What `{self}` is depends on the topic alone.
fn agree(one: &Row, other: &Row) -> bool {
    let same = |one: &Cow<'static, [Who]>, other: &Cow<'static, [Who]>| {
        one.iter().all(|who| other.contains(who)) && other.iter().all(|who| one.contains(who))
    };
    one.level == other.level
        && same(&one.publishers, &other.publishers)
        && same(&one.subscribers, &other.subscribers)
}
