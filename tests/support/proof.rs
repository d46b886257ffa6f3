//! The client's part of the handshake, made by hand.

use std::path::Path;

/// What a client says to this number of the broker's: that it knows the key, in this hello (a request's bytes, without its first, and up to the proof).
pub(crate) fn of_client(key: &[u8; 32], nonce: &[u8], hello: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(b"daemoneye-eventbus 1: the client knows the secret").update(nonce).update(hello);
    *hasher.finalize().as_bytes()
}

/// The key of the broker at a socket, or what is none where it can't be read.
pub(crate) fn key_beside(socket: &Path) -> [u8; 32] {
    let key = std::fs::read(socket.with_added_extension("key")).unwrap_or_default();
    key.try_into().unwrap_or([0; 32])
}
