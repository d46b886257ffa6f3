//! How both sides of a session prove who they are.
//!
//! The kernel says which user and which process is at the other end; that is checked first. What it can't say is whether that user is the
//! broker, or the collector that it claims to be. For that there are secrets of 32 bytes:
//!
//! - The **key** of a broker is made at each start, and stands in a file beside the socket that those can read who may connect. It proves
//!   that the broker is the one that made the file, and that the client may read it.
//! - A **launch token** is made by the agent for one component that it starts. It proves which component that is.
//!
//! A secret is not sent for that. Each side proves that it knows it by a keyed hash (BLAKE3) over its role, the number that the broker
//! has made up for this handshake, and the whole hello, in which the client's number is; so a proof serves once, for one role, and for this hello
//! alone:
//!
//! ```text
//!   client                                        broker
//!     │◄──────────────────────────────────── Greeting: nonce B  │   once it has let the connection in
//!     │ ── Hello: versions, client id, nonce C, which secret,   │
//!     │           proof of the client ─────────────────────────►│   the broker checks it, and refuses if it is wrong
//!     │◄─────────────────────────── Welcome: proof of the broker│   the client checks it, and goes if it is wrong
//! ```
//!
//! The broker speaks first, so that one exchange does. A client that knows a secret so gives its proof to whoever listens, whom the kernel has
//! named by then: it is of no use but over that number of his, and the broker makes up its own. Who does not know the secret hears nothing from
//! the broker that was made with it.

use std::io::{self, Read, Write as _};
use std::path::Path;

use zeroize::{Zeroize as _, Zeroizing};

use crate::sys::{self, SECRET_BYTES, Secret};
use crate::wire::codec::encode;
use crate::wire::{Hello, Nonce, Proof, TokenId};

const OF_BROKER: &[u8] = b"daemoneye-eventbus 1: the broker knows the secret";
const OF_CLIENT: &[u8] = b"daemoneye-eventbus 1: the client knows the secret";

/// What each side says to show that it knows a secret.
pub(crate) struct Proofs {
    pub(crate) of_broker: Proof,
    pub(crate) of_client: Proof,
}

impl Proofs {
    /// For one handshake: a hello, with the client's nonce in it, and the broker's.
    pub(crate) fn new(secret: &Secret, hello: &Hello, nonce: &Nonce) -> io::Result<Self> {
        let said = said(hello);
        secret.with(|key| {
            let proof = |role| proof(key, role, nonce, &said);
            Self { of_broker: proof(OF_BROKER), of_client: proof(OF_CLIENT) }
        })
    }

    /// The broker's, if the client's in this hello is right. What is not costs one hash, and gets none.
    pub(crate) fn answer(secret: &Secret, hello: &Hello, nonce: &Nonce) -> io::Result<Option<Proof>> {
        let Some(of_client) = hello.proof else { return Ok(None) };
        let said = said(hello);
        secret.with(|key| {
            let is_right = proof(key, OF_CLIENT, nonce, &said) == of_client;
            is_right.then(|| proof(key, OF_BROKER, nonce, &said))
        })
    }
}

/// What of a hello is proven: all of it but the proof.
fn said(hello: &Hello) -> Vec<u8> {
    let Hello { versions, features, client_id, nonce, credential, life, proof: _ } = hello;
    encode(&(versions, features, client_id, nonce, credential, life))
}

fn proof(key: &[u8; SECRET_BYTES], role: &[u8], nonce: &Nonce, said: &[u8]) -> Proof {
    let mut hasher = blake3::Hasher::new_keyed(key);
    // All but the last are of a fixed length: no two handshakes have the same bytes.
    hasher.update(role).update(&nonce.0).update(said);
    let proof = Proof(*hasher.finalize().as_bytes());
    hasher.zeroize();
    proof
}

pub(crate) fn nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce([0; 32]);
    sys::randomize(&mut nonce.0)?;
    Ok(nonce)
}

const TOKEN_BYTES: usize = 16 + SECRET_BYTES;

/// What proves that a process is the component that the agent has started it as. It is good for one process, and until it expires.
///
/// The agent [issues](crate::DaemoneyeBroker::issue_token) it, and hands it over by a descriptor that the process inherits, or a file that
/// only the process can read; never as an argument or in the environment, which others can read. Who hands over a file removes it when the
/// process is there. The secret is kept where a core dump does not have it, if the host has such a place (a memfd).
///
/// ```no_run
/// use daemoneye_eventbus::{Component, ConnectOptions, DaemoneyeBroker, EventBusClient, LaunchToken, TokenTerms};
/// use std::process::Command;
///
/// # async fn agent(broker: DaemoneyeBroker) -> Result<(), Box<dyn std::error::Error>> {
/// // The agent, which starts the collector as another user:
/// let terms = TokenTerms::new(Component::from_client_id("procmond")?).uid(65534);
/// let token = broker.issue_token(terms).await?;
/// let child = Command::new("procmond").stdin(token.pipe()?).spawn()?;
/// # Ok(())
/// # }
/// # async fn collector() -> Result<(), Box<dyn std::error::Error>> {
/// // The collector:
/// let token = LaunchToken::take_stdin()?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").token(token)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LaunchToken {
    pub(crate) id: TokenId,
    pub(crate) secret: Secret,
}

impl LaunchToken {
    pub(crate) fn new() -> io::Result<Self> {
        let mut id = TokenId([0; 16]);
        sys::randomize(&mut id.0)?;
        Ok(Self { id, secret: Secret::new()? })
    }

    /// A second handle of the same token.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { id: self.id, secret: self.secret.with(Secret::of)? })
    }

    /// Does some work with what stands for the token elsewhere.
    fn with<T>(&self, work: impl FnOnce(&[u8]) -> io::Result<T>) -> io::Result<T> {
        sys::expose(|bytes: &mut [u8; TOKEN_BYTES]| {
            bytes[..16].copy_from_slice(&self.id.0);
            self.secret.with(|secret| bytes[16..].copy_from_slice(secret))?;
            work(bytes)
        })
    }

    /// The token as 96 digits, for a configuration that is kept as text. It is a secret: whoever reads the text has the token, so it is for files
    /// that nobody else can read, and not for arguments, the environment or logs. It is wiped when it is dropped.
    ///
    /// # Errors
    /// What the system says when descriptors are short.
    ///
    /// ```
    /// use daemoneye_eventbus::LaunchToken;
    ///
    /// assert!(LaunchToken::from_text("not a token").is_err());
    /// ```
    pub fn to_text(&self) -> io::Result<Zeroizing<String>> {
        self.with(|bytes| {
            let mut text = Zeroizing::new(String::with_capacity(2 * TOKEN_BYTES));
            let digit = |half: u8| char::from_digit(half.into(), 16).expect("it is below 16");
            for byte in bytes {
                text.push(digit(byte >> 4));
                text.push(digit(byte & 15));
            }
            Ok(text)
        })
    }

    /// Reads a token from such a text.
    ///
    /// # Errors
    /// As [`take_stdin`](Self::take_stdin).
    pub fn from_text(text: &str) -> io::Result<Self> {
        let no_token = || io::Error::new(io::ErrorKind::InvalidData, "it is no launch token");
        let digits = text.as_bytes();
        if digits.len() != 2 * TOKEN_BYTES {
            return Err(no_token());
        }
        let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let half = |digit: u8| char::from(digit).to_digit(16).ok_or_else(no_token);
            *byte = u8::try_from(half(pair[0])? << 4 | half(pair[1])?).expect("two digits");
        }
        Self::read_from(&bytes[..])
    }

    /// A pipe from which the token can be read once, to be inherited by the process that it is for, as one of its standard streams say.
    ///
    /// # Errors
    /// What the system says when descriptors are short.
    pub fn pipe(&self) -> io::Result<io::PipeReader> {
        let (reader, mut writer) = io::pipe()?;
        self.with(|bytes| writer.write_all(bytes))?;
        Ok(reader)
    }

    /// Writes the token to a new file that only this user can read, or `owner`, if one is given.
    ///
    /// # Errors
    /// What the system says; [`AlreadyExists`](io::ErrorKind::AlreadyExists) if there is something at `path`, which stays as it is.
    pub fn write_file(&self, path: &Path, owner: Option<u32>) -> io::Result<()> {
        self.with(|bytes| sys::write_token(path, bytes, owner))
    }

    /// Takes a token from the standard input of this process, which has nothing for others then.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if there is no token, or what the system says.
    pub fn take_stdin() -> io::Result<Self> {
        Self::read_from(sys::take_stdin()?)
    }

    /// Reads a token from what this process inherited. To be given something that keeps no copy of what was read.
    ///
    /// # Errors
    /// As [`take_stdin`](Self::take_stdin).
    pub fn read_from(mut source: impl Read) -> io::Result<Self> {
        sys::expose(|bytes: &mut [u8; TOKEN_BYTES]| {
            let no_token = |_| io::Error::new(io::ErrorKind::InvalidData, "it holds no launch token");
            source.read_exact(bytes).map_err(no_token)?;
            let (id, secret) = bytes.split_first_chunk().expect("a token is longer than its name");
            let secret = secret.try_into().expect("that is the rest of it");
            Ok(Self { id: TokenId(*id), secret: Secret::of(secret) })
        })
    }

    /// Reads a token from a file that is nobody else's to read.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if there is no token in it; [`PermissionDenied`](io::ErrorKind::PermissionDenied) if others
    /// can read it, or it is another user's; or what the system says.
    pub fn read_file(path: &Path) -> io::Result<Self> {
        Self::read_from(sys::open_private(path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Credential, Life, Versions};

    fn hello(client_id: &str, nonce: u8) -> Hello {
        Hello {
            versions: Versions::OURS,
            features: 0,
            client_id: client_id.into(),
            nonce: Nonce([nonce; 32]),
            credential: Credential::Key,
            life: Life { client: 0, before: 0 },
            proof: None,
        }
    }

    fn proofs(secret: u8, hello: &Hello, nonce: u8) -> [Proof; 2] {
        let secret = Secret::of(&[secret; 32]);
        let Proofs { of_broker, of_client } =
            Proofs::new(&secret, hello, &Nonce([nonce; 32])).expect("it can be read");
        [of_broker, of_client]
    }

    #[test]
    fn a_token_as_text_is_the_same_token_and_what_is_none_is_told() {
        let token = LaunchToken::new().expect("randomness");
        let text = token.to_text().expect("it can be read");
        let again = LaunchToken::from_text(&text).expect("it was written by us");
        assert_eq!(again.id, token.id);
        let secret = |token: &LaunchToken| token.secret.with(|secret| *secret).expect("it can be read");
        assert_eq!(secret(&again), secret(&token));
        for bad in
            ["", &text[1..], &format!("{}0", &*text), &text.replacen(|_| true, "g", 1), &"é".repeat(48)]
        {
            let error = LaunchToken::from_text(bad).expect_err("it is none");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad}");
            assert!(!error.to_string().contains(&text[8..16]), "it is a secret");
        }
    }

    #[test]
    fn a_proof_serves_for_one_role_one_secret_one_hello_and_one_handshake_alone() {
        let ours = proofs(1, &hello("procmond", 2), 3);
        assert_eq!(ours, proofs(1, &hello("procmond", 2), 3));
        let others = [
            proofs(9, &hello("procmond", 2), 3),
            proofs(1, &hello("procmonc", 2), 3),
            proofs(1, &hello("procmond", 9), 3),
            proofs(1, &hello("procmond", 2), 9),
        ];
        assert_ne!(ours[0], ours[1]);
        for other in others {
            assert!(other.iter().all(|proof| !ours.contains(proof)));
        }
    }

    #[test]
    fn the_broker_proves_nothing_to_who_has_not() {
        let (secret, nonce) = (Secret::of(&[1; 32]), Nonce([3; 32]));
        let said = hello("procmond", 2);
        let [of_broker, of_client] = proofs(1, &said, 3);
        let answer = |hello: &Hello| Proofs::answer(&secret, hello, &nonce).expect("it can be read");
        assert_eq!(answer(&Hello { proof: Some(of_client), ..said.clone() }), Some(of_broker));
        let others = [None, Some(of_broker), Some(Proof([0; 32])), Some(proofs(1, &said, 4)[1])];
        for proof in others {
            assert_eq!(answer(&Hello { proof, ..said.clone() }), None);
        }
        let other = Hello { proof: Some(of_client), ..hello("netmond", 2) };
        assert_eq!(answer(&other), None, "it is of another hello");
    }

    #[test]
    fn a_token_is_the_same_on_the_other_side_of_a_pipe_or_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        let token = LaunchToken::new().expect("it can be made");
        token.write_file(&path, None).expect("there is nothing");
        let by_pipe = LaunchToken::read_from(token.pipe().expect("a pipe"));
        for read in [by_pipe, LaunchToken::read_file(&path)] {
            let read = read.expect("it is a token");
            let bytes = |token: &LaunchToken| token.with(|bytes| Ok(bytes.to_vec())).expect("it can be read");
            assert_eq!(bytes(&read), bytes(&token));
        }
        let again = token.write_file(&path, None).expect_err("there is one");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(format!("{:?}", token.secret), "Secret(..)");
    }
}
