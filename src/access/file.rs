//! A topic table as text: parsed once, and judged before it is one.

use std::fmt::Write as _;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::table::{self, Placed};
use super::{AccessPolicy, Component, ComponentError};
use crate::config::{POLICY_BYTES_MAX, POLICY_NAMES_MAX, POLICY_ROWS_MAX};
use crate::hierarchy::{ROWS, Row, TopicAccessLevel, Who};
use crate::sys::FileError;
use crate::topic::TopicError;

/// Characters of the file that an error repeats.
const QUOTED_MAX: usize = 80;

/// Why a text describes no topic table: the fault of who wrote it. Nothing has changed. Lines are numbered from 1.
///
/// ```
/// use daemoneye_eventbus::{AccessPolicy, PolicyError};
///
/// let text = "defaults = true\n[[row]]\ntopics = 'a'\nlevel = 'secret'\npublishers = []\nsubscribers = []";
/// let error = AccessPolicy::from_toml(text).unwrap_err();
/// assert_eq!(error, PolicyError::UnknownLevel { line: 4, level: "secret".into() });
/// assert_eq!(error.to_string(), "line 4: \"secret\" is no level: public, restricted and privileged are");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It is no TOML.
    #[error("line {line}: {message}")]
    Syntax {
        /// Where.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// The text is too long; nothing of it was looked at.
    #[error("{bytes} bytes: a policy has at most {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The most that there may be.
        limit: usize,
    },
    /// There are more of something than there may be.
    #[error("line {line}: more than {limit} {what}")]
    TooMany {
        /// Where the first too many stands.
        line: usize,
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A key that means nothing here.
    #[error("line {line}: {key:?} is no key here")]
    UnknownKey {
        /// Where.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key that must be there is not.
    #[error("line {line}: {key:?} is missing")]
    MissingKey {
        /// Where the row begins.
        line: usize,
        /// The key.
        key: &'static str,
    },
    /// The value of a key is not what that key takes.
    #[error("line {line}: {key:?} takes {expected}")]
    WrongType {
        /// Where the value stands.
        line: usize,
        /// The key.
        key: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// The topics of a row are no pattern that a topic could match.
    #[error("line {line}: {error}")]
    BadPattern {
        /// Where.
        line: usize,
        /// What is wrong.
        error: TopicError,
    },
    /// There is no such level.
    #[error("line {line}: {level:?} is no level: public, restricted and privileged are")]
    UnknownLevel {
        /// Where.
        line: usize,
        /// What stands there.
        level: String,
    },
    /// No component can have this name.
    #[error("line {line}: {name:?} is no component: {error}")]
    BadName {
        /// Where.
        line: usize,
        /// What stands there.
        name: String,
        /// What is wrong.
        error: ComponentError,
    },
    /// The name is a client's, and rights hang on components.
    #[error("line {line}: {name:?} is a client of the component {component:?}, which has the rights")]
    NotAComponent {
        /// Where.
        line: usize,
        /// What stands there.
        name: String,
        /// Whose client that is.
        component: String,
    },
    /// A name stands twice in one list.
    #[error("line {line}: {name:?} stands here twice")]
    NameTwice {
        /// Where the second one stands.
        line: usize,
        /// The name.
        name: String,
    },
    /// `{self}` stands for the last segment in `topics` and for its owner in a list, and so in both or in neither.
    #[error("line {line}: `{{self}}` is the last segment of the topics exactly if it stands in a list")]
    SelfUnbound {
        /// Where the topics stand.
        line: usize,
    },
    /// Public is what anyone may subscribe to, and nobody need be named beside.
    #[error("line {line}: the level is public exactly if the subscribers are [\"anyone\"]")]
    LevelContradicted {
        /// Where the level stands.
        line: usize,
    },
    /// Nothing is published by anyone: it would say nothing.
    #[error("line {line}: \"anyone\" can't be a publisher")]
    AnyonePublishes {
        /// Where.
        line: usize,
    },
    /// Rows above decide about all topics of this one.
    #[error(
        "line {line}: no topic reaches {topics:?}: rows above decide about all of them, the last in line {above}"
    )]
    NeverMatches {
        /// Where the row's topics stand.
        line: usize,
        /// The row's topics.
        topics: String,
        /// Where the topics of the last row stand that hides it.
        above: usize,
    },
    /// Two rows say different things of the same topics, and neither is the closer one.
    #[error(
        "line {line}: this row and the one in line {other} say different things of {topics:?}, and neither is closer"
    )]
    Contradiction {
        /// Where the topics of the lower row stand.
        line: usize,
        /// Where those of the upper row stand.
        other: usize,
        /// The topics that both decide about. A row for them above both settles it.
        topics: String,
    },
}

/// Why there is no policy from a file. Nothing has changed.
///
/// ```
/// use daemoneye_eventbus::{AccessPolicy, LoadPolicyError};
///
/// let error = AccessPolicy::load("/no/such/file").unwrap_err();
/// assert!(matches!(error, LoadPolicyError::File(_)));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadPolicyError {
    /// The file can't be read, or not be relied on.
    #[error(transparent)]
    File(#[from] FileError),
    /// What it says makes no sense.
    #[error("{path}: {error}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        error: PolicyError,
    },
}

/// The table that a text describes.
pub(super) fn read(text: &str) -> Result<AccessPolicy, PolicyError> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(PolicyError::TooLarge { bytes: text.len(), limit: POLICY_BYTES_MAX });
    }
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        PolicyError::Syntax { line: Lines(text).of(at), message: quoted(error.message()) }
    })?;
    let reader = Lines(text);
    let [defaults, rows] = reader.keys(document.get_ref(), ["defaults", "row"])?;
    let missing = PolicyError::MissingKey { line: 1, key: "defaults" };
    let defaults = defaults.ok_or(missing)?;
    let wrong = || reader.wrong(defaults, "defaults", "true or false");
    let defaults = defaults.get_ref().as_bool().ok_or_else(wrong)?;
    let rows = rows.map_or_else(|| Ok(Vec::new()), |rows| reader.rows(rows))?;
    table::check(&rows)?;
    let rows = rows.into_iter().map(|placed| placed.row);
    Ok(AccessPolicy::of_rows(if defaults { rows.chain(ROWS.to_vec()).collect() } else { rows.collect() }))
}

/// A text, for the lines that its parts stand in.
struct Lines<'a>(&'a str);

type Value<'a> = Spanned<DeValue<'a>>;

impl<'a> Lines<'a> {
    fn of(&self, at: usize) -> usize {
        let before = self.0.as_bytes().get(..at).unwrap_or(self.0.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn line<T>(&self, part: &Spanned<T>) -> usize {
        self.of(part.span().start)
    }

    fn wrong(&self, value: &Value<'_>, key: &'static str, expected: &'static str) -> PolicyError {
        PolicyError::WrongType { line: self.line(value), key, expected }
    }

    /// The values of these keys, if there is no other.
    fn keys<'t, const N: usize>(
        &self,
        table: &'t DeTable<'a>,
        names: [&'static str; N],
    ) -> Result<[Option<&'t Value<'a>>; N], PolicyError> {
        let unknown = table.iter().filter(|(key, _)| !names.contains(&&**key.get_ref()));
        if let Some((key, _)) = unknown.min_by_key(|(key, _)| key.span().start) {
            return Err(PolicyError::UnknownKey { line: self.line(key), key: quoted(key.get_ref()) });
        }
        Ok(names.map(|name| table.get(name)))
    }

    fn rows(&self, rows: &Value<'a>) -> Result<Vec<Placed>, PolicyError> {
        let expected = "tables: write [[row]]";
        let list = rows.get_ref().as_array().ok_or_else(|| self.wrong(rows, "row", expected))?;
        if let Some(beyond) = list.get(POLICY_ROWS_MAX) {
            let line = self.line(beyond);
            return Err(PolicyError::TooMany { line, what: "rows", limit: POLICY_ROWS_MAX });
        }
        let rows = list.iter().map(|row| match row.get_ref().as_table() {
            Some(table) => self.row(self.line(row), table),
            None => Err(self.wrong(row, "row", expected)),
        });
        rows.collect()
    }

    fn row(&self, line: usize, table: &DeTable<'a>) -> Result<Placed, PolicyError> {
        const KEYS: [&str; 4] = ["topics", "level", "publishers", "subscribers"];
        let [topics, level, publishers, subscribers] = self.keys(table, KEYS)?;
        let [missing_topics, missing_level, missing_publishers, missing_subscribers] =
            KEYS.map(|key| PolicyError::MissingKey { line, key });
        let topics = topics.ok_or(missing_topics)?;
        let level = level.ok_or(missing_level)?;
        let publishers = self.names("publishers", publishers.ok_or(missing_publishers)?)?;
        let subscribers = self.names("subscribers", subscribers.ok_or(missing_subscribers)?)?;
        let (topics_line, level_line) = (self.line(topics), self.line(level));
        let row = Row {
            topics: self.text("topics", topics)?.to_owned().into(),
            level: self.level(level)?,
            publishers: publishers.iter().map(|(_, who)| who.clone()).collect(),
            subscribers: subscribers.iter().map(|(_, who)| who.clone()).collect(),
        };
        let pattern = row.pattern().map_err(|error| PolicyError::BadPattern { line: topics_line, error })?;
        if let Some((line, _)) = publishers.iter().find(|(_, who)| *who == Who::Anyone) {
            return Err(PolicyError::AnyonePublishes { line: *line });
        }
        let owned = [&row.publishers, &row.subscribers].iter().any(|list| list.contains(&Who::Owner));
        if owned != row.names_an_owner() {
            return Err(PolicyError::SelfUnbound { line: topics_line });
        }
        let for_anyone = row.subscribers.contains(&Who::Anyone);
        let public = row.level == TopicAccessLevel::Public;
        if for_anyone != public || (public && row.subscribers.len() > 1) {
            return Err(PolicyError::LevelContradicted { line: level_line });
        }
        Ok(Placed { line: topics_line, pattern, row })
    }

    fn text<'t>(&self, key: &'static str, value: &'t Value<'a>) -> Result<&'t str, PolicyError> {
        value.get_ref().as_str().ok_or_else(|| self.wrong(value, key, "a text"))
    }

    fn level(&self, value: &Value<'a>) -> Result<TopicAccessLevel, PolicyError> {
        use TopicAccessLevel::{Privileged, Public, Restricted};
        let text = self.text("level", value)?;
        let known = [Public, Restricted, Privileged].into_iter().find(|level| level.to_string() == text);
        known.ok_or_else(|| PolicyError::UnknownLevel { line: self.line(value), level: quoted(text) })
    }

    /// Whom a list admits, each with its line.
    fn names(&self, key: &'static str, value: &Value<'a>) -> Result<Vec<(usize, Who)>, PolicyError> {
        let list = value.get_ref().as_array();
        let list = list.ok_or_else(|| self.wrong(value, key, "a list of names"))?;
        let mut names = Vec::with_capacity(list.len().min(POLICY_NAMES_MAX));
        for name in list.iter() {
            let line = self.line(name);
            if names.len() == POLICY_NAMES_MAX {
                let what = "names in one list";
                return Err(PolicyError::TooMany { line, what, limit: POLICY_NAMES_MAX });
            }
            let text = name.get_ref().as_str().ok_or_else(|| self.wrong(name, key, "a list of names"))?;
            let who = who(line, text)?;
            if names.iter().any(|(_, known)| *known == who) {
                return Err(PolicyError::NameTwice { line, name: quoted(text) });
            }
            names.push((line, who));
        }
        Ok(names)
    }
}

fn who(line: usize, word: &str) -> Result<Who, PolicyError> {
    let who = Who::of_word(word);
    if let Who::Named(name) = &who {
        let bad = |error| PolicyError::BadName { line, name: quoted(word), error };
        let component = Component::from_client_id(name).map_err(bad)?;
        if component.as_str() != name {
            let (name, component) = (quoted(word), component.to_string());
            return Err(PolicyError::NotAComponent { line, name, component });
        }
    }
    Ok(who)
}

/// The start of what stands in the file.
fn quoted(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED_MAX).collect();
    if quoted.len() < text.len() {
        write!(quoted, "…").expect("a string grows");
    }
    quoted
}

#[cfg(test)]
mod tests;
