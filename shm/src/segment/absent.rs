//! A platform without memfds: none is made here, and what claims to be one is not.

use std::io;

use super::{Handle, Kind, Mapping, SegmentError};
use crate::Descriptor;

pub(super) fn create(_: Kind, _: usize) -> Result<(Handle, Mapping), SegmentError> {
    let source = io::Error::new(io::ErrorKind::Unsupported, "memfds are Linux's");
    Err(SegmentError::Host { step: "create", source })
}

pub(super) fn attach(_: &Descriptor, _: usize) -> Result<Mapping, SegmentError> {
    Err(SegmentError::NotMemory)
}

pub(super) fn check(_: &Descriptor, _: usize) -> Result<(), SegmentError> {
    Err(SegmentError::NotMemory)
}
