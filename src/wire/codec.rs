//! Messages to bytes and back. The only place that knows which codec that is.

use bincode::config::{Configuration, Limit, standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{FRAME_MEMORY_MAX, MESSAGE_BYTES_MAX};

/// What decodes into so many bytes of memory at most.
type Within<const BYTES: usize> =
    Configuration<bincode::config::LittleEndian, bincode::config::Varint, Limit<BYTES>>;

const FRAME: Within<FRAME_MEMORY_MAX> = standard().with_limit();

/// Numbers count as what they take in memory, which may be more than their bytes.
const KEPT: Within<{ 2 * MESSAGE_BYTES_MAX }> = standard().with_limit();

/// A frame that is no message of this version. The peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undecodable {
    /// The bytes are not those of any message.
    #[error("a frame of {bytes} bytes holds no message of this version")]
    Malformed { bytes: usize },
    /// Bytes follow the message.
    #[error("{surplus} bytes follow the message in its frame")]
    Trailing { surplus: usize },
}

/// The bytes of a message of ours. The limits are for those who decode it.
pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(message, FRAME)
        .expect("our own messages have nothing that can't be written")
}

/// The message in a peer's bytes: exactly one, and nothing behind it.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Undecodable> {
    decode_within(bytes, FRAME)
}

/// The same for a message that somebody has kept, which may be larger than a frame.
pub(crate) fn decode_kept<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Undecodable> {
    decode_within(bytes, KEPT)
}

fn decode_within<T: DeserializeOwned, const BYTES: usize>(
    bytes: &[u8],
    limit: Within<BYTES>,
) -> Result<T, Undecodable> {
    let (message, used) = bincode::serde::decode_from_slice(bytes, limit)
        .map_err(|_| Undecodable::Malformed { bytes: bytes.len() })?;
    match bytes.len() - used {
        0 => Ok(message),
        surplus => Err(Undecodable::Trailing { surplus }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FRAME_BYTES_MAX;
    use crate::wire::frames::Deframer;
    use crate::wire::{Credential, Hello, Life, Nonce, Notice, Request, Versions};
    use proptest::prelude::*;

    fn hello() -> Request {
        Request::Hello(Box::new(Hello {
            versions: Versions::OURS,
            features: 0,
            client_id: "procmond".into(),
            nonce: Nonce([7; 32]),
            credential: Credential::Key,
            life: Life { client: 0, before: 0 },
            proof: None,
        }))
    }

    #[test]
    fn a_message_survives_the_codec() {
        assert_eq!(decode::<Request>(&encode(&hello())), Ok(hello()));
    }

    /// The fuzzer starts from these: frames that nobody decodes lead it nowhere.
    #[test]
    fn the_seeds_of_the_fuzzer_are_spoken() {
        fn assert_spoken<T: DeserializeOwned>(seed: &[u8]) {
            let mut stream = Deframer::default();
            stream.push(&seed[1..]);
            while let Some(frame) = stream.next().expect("a seed is cut into frames") {
                assert!(decode::<T>(frame).is_ok(), "{frame:02x?}");
            }
            assert!(stream.is_empty());
        }
        assert_spoken::<Request>(include_bytes!("../../tests/fuzz/corpus/frames/seed-requests"));
        assert_spoken::<Notice>(include_bytes!("../../tests/fuzz/corpus/frames/seed-notices"));
    }

    #[test]
    fn bytes_behind_a_message_are_refused() {
        let mut bytes = encode(&hello());
        bytes.push(0);
        assert_eq!(decode::<Request>(&bytes), Err(Undecodable::Trailing { surplus: 1 }));
    }

    #[test]
    fn a_list_that_claims_more_memory_than_a_frame_may_take_is_refused() {
        let mut bytes = vec![3, 0, 0, 253];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(decode::<Request>(&bytes), Err(Undecodable::Malformed { bytes: 12 }));
    }

    #[test]
    fn a_list_whose_items_take_more_memory_than_a_frame_may_is_refused() {
        let subscribe = |patterns| {
            let patterns = vec![String::new(); patterns];
            let bytes =
                encode(&Request::Subscribe { request: 1, subscription: 1, patterns, ring_bytes: None });
            assert!(bytes.len() < FRAME_BYTES_MAX);
            decode::<Request>(&bytes)
        };
        assert!(subscribe(FRAME_MEMORY_MAX / size_of::<String>()).is_ok());
        assert!(subscribe(FRAME_MEMORY_MAX / size_of::<String>() + 1).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<Request>(&bytes);
        }
    }
}
