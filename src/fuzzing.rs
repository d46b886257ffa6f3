//! Doors for the fuzz targets of `tests/fuzz`, there under `--cfg fuzzing` alone: no part of the crate's interface.

mod control;

use crate::access::AccessPolicy;
use crate::batch::{self, Batch, Records};
use crate::wire::frames::Deframer;
use crate::wire::{Notice, Request, codec};

pub use control::live;

/// The batch in a record of whatever bytes, if they pass.
#[must_use]
pub fn batch(record: &[u8]) -> Option<Batch> {
    let words = record.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bytes).to_le()
    });
    let mut records = Records::default();
    records.push(&mut words.collect(), record.len()).ok()?;
    Some(Batch::of_first(records))
}

/// The number of events of a record by its header alone.
#[must_use]
pub fn event_count(record: &[u8]) -> Option<u16> {
    batch::event_count(record).ok()
}

/// What the correlations of a batch are charged with.
#[must_use]
pub fn correlation_bytes(batch: &Batch) -> usize {
    batch.view().correlation_bytes()
}

/// A stream of control frames.
#[derive(Debug, Default)]
pub struct Stream(Deframer);

impl Stream {
    /// Adds bytes behind those that are already here.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// The length of a frame that can not be.
    pub fn frame(&mut self) -> Result<Option<Vec<u8>>, u32> {
        let frame = self.0.next().map_err(|bad| bad.length)?;
        Ok(frame.map(<[u8]>::to_vec))
    }

    /// Whether no byte of an unfinished frame is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A frame, decoded and encoded again: as a request, and as a notice.
#[must_use]
pub fn reencoded(frame: &[u8]) -> [Option<Vec<u8>>; 2] {
    let request = codec::decode::<Request>(frame).ok().map(|request| codec::encode(&request));
    let notice = codec::decode::<Notice>(frame).ok().map(|notice| codec::encode(&notice));
    [request, notice]
}

/// The table of a text, if it is one, and how many rows it has.
///
/// # Errors
/// What is wrong with it, in words.
pub fn policy(text: &str) -> Result<(usize, AccessPolicy), String> {
    let policy = AccessPolicy::from_toml(text).map_err(|error| error.to_string())?;
    Ok((policy.row_count(), policy))
}
