//! A platform without a doorbell: none can be had, so none is ever rung.

use std::io;

use super::{Heard, PeerGone};
use crate::Descriptor;

/// One end of a doorbell. This platform has none so far: there is no value of this type.
#[derive(Debug)]
pub struct Doorbell(Descriptor);

impl Doorbell {
    /// Makes both ends of a doorbell.
    ///
    /// # Errors
    /// Always: there is none on this platform.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = Self::ends()?;
        Ok((Self(one), Self(other)))
    }

    /// Both ends of a doorbell, to be handed to other processes.
    ///
    /// # Errors
    /// Always: there is none on this platform.
    pub fn ends() -> io::Result<(Descriptor, Descriptor)> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this platform has no doorbell yet"))
    }

    /// Wakes the peer.
    ///
    /// # Errors
    /// None: there is no doorbell to ring.
    pub fn ring(&self) -> Result<bool, PeerGone> {
        match self.0.0 {}
    }

    /// Takes in what the peer rang.
    pub fn hear(&self) -> Heard {
        match self.0.0 {}
    }
}

impl From<Descriptor> for Doorbell {
    fn from(descriptor: Descriptor) -> Self {
        Self(descriptor)
    }
}
