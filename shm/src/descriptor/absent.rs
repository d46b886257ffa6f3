//! A platform on which nothing that is open travels with a message.

use std::convert::Infallible;
use std::io;

/// What a process holds open, and hands to another together with a message. There is no value of this type here.
#[derive(Debug)]
pub struct Descriptor(pub(crate) Infallible);

impl Descriptor {
    /// A second one for the same thing.
    ///
    /// # Errors
    /// None: there is nothing to copy.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self.0 {}
    }
}

/// Drops what one peer has sent: nothing.
pub fn close_together(_: impl IntoIterator<Item = Descriptor>) {}
