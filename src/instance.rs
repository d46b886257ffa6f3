//! Names of instances: several brokers on one host, each with the bus of its own.

use std::fmt;
use std::path::PathBuf;

use crate::config::{INSTANCE_BYTES_MAX, SOCKET_PATH};

/// The name of one of several brokers of a host.
///
/// ```
/// use daemoneye_eventbus::{Instance, InstanceError};
///
/// let staging = Instance::new("staging")?;
/// assert_eq!(staging.socket_path(), std::path::Path::new("/tmp/daemoneye-staging.sock"));
/// assert_eq!(Instance::new("../staging"), Err(InstanceError::Character { character: '.' }));
/// # Ok::<(), InstanceError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance(Box<str>);

/// Why a text is no name of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// It is empty.
    #[error("the name of an instance has at least one letter")]
    Empty,
    /// It is too long.
    #[error("the name of an instance has at most {limit} bytes, not {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest that is possible.
        limit: usize,
    },
    /// It has a letter that none may have.
    #[error("the name of an instance is made of a-z, 0-9, '_' and '-', without {character:?}")]
    Character {
        /// The first such letter.
        character: char,
    },
}

impl Instance {
    /// Takes a name: 1 to 32 bytes of `a-z`, `0-9`, `_` and `-`.
    ///
    /// # Errors
    /// [`InstanceError`] says which of these it breaks.
    pub fn new(name: &str) -> Result<Self, InstanceError> {
        let legal = |character: &char| matches!(character, 'a'..='z' | '0'..='9' | '_' | '-');
        if name.is_empty() {
            return Err(InstanceError::Empty);
        }
        if let Some(character) = name.chars().find(|character| !legal(character)) {
            return Err(InstanceError::Character { character });
        }
        if name.len() > INSTANCE_BYTES_MAX {
            return Err(InstanceError::TooLong { bytes: name.len(), limit: INSTANCE_BYTES_MAX });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where its broker listens: beside the socket of the broker without a name.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        let (stem, kind) = SOCKET_PATH.rsplit_once('.').expect("the default path has an extension");
        PathBuf::from(format!("{stem}-{}.{kind}", self.0))
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_part_of_a_file_name_is_refused() {
        for (name, error) in [
            ("", InstanceError::Empty),
            ("a/b", InstanceError::Character { character: '/' }),
            ("..", InstanceError::Character { character: '.' }),
            ("a.sock", InstanceError::Character { character: '.' }),
            ("Prod", InstanceError::Character { character: 'P' }),
            ("a\0", InstanceError::Character { character: '\0' }),
            (&"x".repeat(33), InstanceError::TooLong { bytes: 33, limit: 32 }),
        ] {
            assert_eq!(Instance::new(name), Err(error), "{name:?}");
        }
        let longest = Instance::new(&"x".repeat(32)).expect("as long as may be");
        assert!(longest.socket_path().as_os_str().len() < 100, "its socket can be had");
    }

    #[test]
    fn no_two_instances_share_a_socket_or_a_lock() {
        let names = ["a", "a-b", "a_b", "lock", "sock", "a-sock"];
        let sockets = names.map(|name| Instance::new(name).expect("a legal name").socket_path());
        let locks = sockets.clone().map(|socket| socket.with_added_extension("lock"));
        let default = PathBuf::from(SOCKET_PATH);
        let all = sockets.iter().chain(&locks).chain([&default]);
        let different: std::collections::HashSet<_> = all.collect();
        assert_eq!(different.len(), 2 * names.len() + 1);
    }
}
