//! What is handed over beside the bytes of a message.

/// What a process holds open, and hands to another together with a message.
#[cfg(unix)]
pub type Descriptor = std::os::fd::OwnedFd;

/// Nothing that is open travels with a message on this platform: there is no value of this type.
#[cfg(not(unix))]
#[derive(Debug)]
pub struct Descriptor(pub(crate) std::convert::Infallible);

#[cfg(not(unix))]
impl Descriptor {
    /// A second one for the same thing.
    ///
    /// # Errors
    /// None: there is nothing to copy.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        match self.0 {}
    }
}

/// Closes descriptors of a peer: there are none.
#[cfg(not(unix))]
pub fn discard(_: Vec<Descriptor>) {}
