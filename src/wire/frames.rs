//! Bytes to frames: no I/O, bounded memory.
//!
//! Invariant, true after each step: `taken <= buffer.len()`, and what is not taken is less than one whole frame after
//! [`Deframer::next`] said `None`.

use crate::config::FRAME_BYTES_MAX;
use crate::hidden::Hidden;

const LENGTH_BYTES: usize = 4;

/// Takes bytes as they come and yields whole frames.
#[derive(Debug, Default)]
pub(crate) struct Deframer {
    buffer: Hidden<Vec<u8>>,
    taken: usize,
}

/// A length that no frame has. The peer's fault; the stream can't be followed any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {length} bytes: frames have 1 to {FRAME_BYTES_MAX}")]
pub(crate) struct BadLength {
    pub(crate) length: u32,
}

impl Deframer {
    /// Adds bytes behind those that are already here.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, BadLength> {
        let rest = &self.buffer[self.taken..];
        let Some((length, _)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length);
        let bytes = length as usize;
        if bytes == 0 || bytes > FRAME_BYTES_MAX {
            return Err(BadLength { length });
        }
        if rest.len() < LENGTH_BYTES + bytes {
            return Ok(None);
        }
        let start = self.taken + LENGTH_BYTES;
        self.taken = start + bytes;
        Ok(Some(&self.buffer[start..self.taken]))
    }

    /// Whether no byte of an unfinished frame is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

/// One frame around a message's bytes.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    assert!((1..=FRAME_BYTES_MAX).contains(&message.len()), "our own messages are within the frame limits");
    let length = u32::try_from(message.len()).expect("a frame is at most 64 KiB");
    [&length.to_le_bytes(), message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..20),
            cut in 1_usize..50,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                deframer.push(piece);
                while let Some(message) = deframer.next().expect("each frame is within the limits") {
                    seen.push(message.to_vec());
                }
            }
            prop_assert_eq!(seen, messages);
            prop_assert!(deframer.is_empty());
        }
    }

    #[test]
    fn lengths_that_no_frame_has_are_refused() {
        for length in [0, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut deframer = Deframer::default();
            deframer.push(&length.to_le_bytes());
            assert_eq!(deframer.next(), Err(BadLength { length }));
        }
    }

    #[test]
    fn half_a_frame_is_kept_until_the_rest_is_there() {
        let whole = frame(b"hello");
        let mut deframer = Deframer::default();
        deframer.push(&whole[..6]);
        assert_eq!(deframer.next(), Ok(None));
        assert!(!deframer.is_empty());
        deframer.push(&whole[6..]);
        assert_eq!(deframer.next(), Ok(Some(&b"hello"[..])));
        assert!(deframer.is_empty());
    }
}
