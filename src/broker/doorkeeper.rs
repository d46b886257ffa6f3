//! Who may come in: the broker's key, the launch tokens that were issued, and what each of them proves.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use crate::access::Component;
use crate::config::TOKEN_VALIDITY;
use crate::control::{Admission, Known};
use crate::identity::{LaunchToken, Proofs};
use crate::sys::Secret;
use crate::wire::{Credential, Hello, Needed, Nonce};

/// What a launch token is good for.
///
/// ```
/// use std::time::Duration;
///
/// use daemoneye_eventbus::{Component, TokenTerms};
///
/// let procmond = Component::from_client_id("procmond")?;
/// let terms = TokenTerms::new(procmond).uid(65534).valid_for(Duration::from_secs(10));
/// # let _ = terms;
/// # Ok::<(), daemoneye_eventbus::ComponentError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTerms {
    component: Component,
    uid: Option<u32>,
    pid: Option<u32>,
    valid_for: Duration,
}

impl TokenTerms {
    /// Good for this component: a process of any user that comes with it within a minute.
    #[must_use]
    pub fn new(component: Component) -> Self {
        Self { component, uid: None, pid: None, valid_for: TOKEN_VALIDITY }
    }

    /// For a process of this user alone.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// For the process with this number alone, as the broker's namespace counts.
    #[must_use]
    pub fn pid(mut self, pid: u32) -> Self {
        self.pid = Some(pid);
        self
    }

    /// For how long it can be used first. The process that has used it can do so again later, to return.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.valid_for = time;
        self
    }
}

/// A process that says hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) pid: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Doorkeeper {
    key: Secret,
    /// No name is given without a token.
    strict: bool,
    /// The last of each component: who once had one has no name without one any more.
    tokens: HashMap<Component, Issued>,
}

#[derive(Debug)]
struct Issued {
    token: LaunchToken,
    terms: TokenTerms,
    /// `None`: never, as far as clocks can tell.
    expires: Option<Instant>,
    /// The process that came with it first.
    used_by: Option<Caller>,
}

impl Issued {
    fn is_for(&self, caller: Caller, now: Instant) -> bool {
        let Self { terms, expires, used_by, .. } = self;
        let fits = terms.uid.is_none_or(|uid| uid == caller.uid)
            && terms.pid.is_none_or(|pid| Some(pid) == caller.pid);
        let in_time = match *used_by {
            None => expires.is_none_or(|expires| now < expires),
            // Of one without a number it can't be said later that it is the same.
            Some(used_by) => used_by == caller && caller.pid.is_some(),
        };
        fits && in_time
    }
}

impl Doorkeeper {
    pub(super) fn new(strict: bool) -> io::Result<Self> {
        Ok(Self { key: Secret::new()?, strict, tokens: HashMap::new() })
    }

    pub(super) const fn key(&self) -> &Secret {
        &self.key
    }

    /// Makes a token; an earlier one of the same component is good no more.
    pub(super) fn issue(&mut self, terms: TokenTerms, now: Instant) -> io::Result<LaunchToken> {
        let token = LaunchToken::new()?;
        let issued = token.try_clone()?;
        let expires = now.checked_add(terms.valid_for);
        let component = terms.component.clone();
        self.tokens.insert(component, Issued { token, terms, expires, used_by: None });
        Ok(issued)
    }

    /// Whether a client is let in that was greeted with this number: it has proven that it knows what opens the door now, whatever did when
    /// it was greeted. A token is then this caller's; before that it is nobody's, since its name is no secret.
    pub(super) fn admit(
        &mut self,
        hello: &Hello,
        nonce: &Nonce,
        caller: Caller,
        now: Instant,
    ) -> io::Result<Result<Admission, Needed>> {
        let name = Component::from_client_id(&hello.client_id).ok();
        let issued = name.as_ref().and_then(|name| self.tokens.get(name));
        let (known_by, of_it) = match hello.credential {
            Credential::Nothing => return Ok(Err(self.needed(issued))),
            Credential::Key => (Known::User, Needed::Key),
            Credential::Token(token) => (Known::Token { token, pid: caller.pid }, Needed::Token),
        };
        let secret = match self.secret(issued, known_by, caller, now) {
            Ok(secret) => secret,
            Err(needed) => return Ok(Err(needed)),
        };
        let Some(proof) = Proofs::answer(secret, hello, nonce)? else { return Ok(Err(of_it)) };
        if let (Known::Token { .. }, Some(issued)) =
            (known_by, name.and_then(|name| self.tokens.get_mut(&name)))
        {
            issued.used_by = Some(caller);
        }
        Ok(Ok(Admission { known_by, proof }))
    }

    /// What a client knows that is let in this way, if it may be.
    fn secret<'a>(
        &'a self,
        issued: Option<&'a Issued>,
        known_by: Known,
        caller: Caller,
        now: Instant,
    ) -> Result<&'a Secret, Needed> {
        match (known_by, issued) {
            (Known::User, None) if !self.strict => Ok(&self.key),
            (Known::Token { token, .. }, Some(issued))
                if issued.token.id == token && issued.is_for(caller, now) =>
            {
                Ok(&issued.token.secret)
            }
            _ => Err(self.needed(issued)),
        }
    }

    const fn needed(&self, issued: Option<&Issued>) -> Needed {
        if self.strict || issued.is_some() { Needed::Token } else { Needed::Key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Life, Proof, TokenId, Versions};

    const PROCMOND: Caller = Caller { uid: 65534, pid: Some(7) };

    fn component(name: &str) -> Component {
        Component::from_client_id(name).expect("a legal name")
    }

    fn hello(client_id: &str, credential: Credential) -> Hello {
        Hello {
            versions: Versions::OURS,
            features: 0,
            client_id: client_id.into(),
            nonce: Nonce([1; 32]),
            credential,
            life: Life { client: 0, before: 0 },
            proof: None,
        }
    }

    const NONCE: Nonce = Nonce([2; 32]);

    /// A door, the time, and the secrets that those know who come to it.
    struct Door(Doorkeeper, Instant, Vec<LaunchToken>);

    impl Door {
        fn new(strict: bool) -> Self {
            Self(Doorkeeper::new(strict).expect("descriptors"), Instant::now(), Vec::new())
        }

        fn issue(&mut self, terms: TokenTerms) -> Credential {
            let token = self.0.issue(terms, self.1).expect("descriptors");
            self.2.push(token);
            Credential::Token(self.2[self.2.len() - 1].id)
        }

        /// With the proof of this credential, where there is one.
        fn proven(&self, name: &str, credential: Credential) -> Hello {
            let mut hello = hello(name, credential);
            let secret = match credential {
                Credential::Nothing => None,
                Credential::Key => Some(self.0.key()),
                Credential::Token(id) => {
                    self.2.iter().find(|token| token.id == id).map(|token| &token.secret)
                }
            };
            let proofs = secret.map(|secret| Proofs::new(secret, &hello, &NONCE).expect("it can be read"));
            hello.proof = proofs.map(|proofs| proofs.of_client);
            hello
        }

        fn admit(&mut self, hello: &Hello, caller: Caller) -> Result<Known, Needed> {
            let admission = self.0.admit(hello, &NONCE, caller, self.1).expect("it can be read");
            admission.map(|admission| admission.known_by)
        }

        /// How it is known who calls, or what is needed.
        fn knock(&mut self, name: &str, credential: Credential, caller: Caller) -> Result<Known, Needed> {
            self.admit(&self.proven(name, credential), caller)
        }
    }

    #[test]
    fn a_name_is_had_by_the_key_until_a_token_was_issued_for_it() {
        let mut door = Door::new(false);
        assert_eq!(door.knock("procmond-1", Credential::Nothing, PROCMOND), Err(Needed::Key));
        assert_eq!(door.knock("procmond-1", Credential::Key, PROCMOND), Ok(Known::User));
        let token = door.issue(TokenTerms::new(component("procmond")));
        assert_eq!(door.knock("procmond-1", Credential::Key, PROCMOND), Err(Needed::Token));
        assert!(matches!(door.knock("procmond-1", token, PROCMOND), Ok(Known::Token { .. })));
        assert_eq!(door.knock("netmond", Credential::Key, PROCMOND), Ok(Known::User));
        assert_eq!(door.knock("netmond", token, PROCMOND), Err(Needed::Key), "it is procmond's");
    }

    #[test]
    fn a_strict_broker_gives_no_name_for_its_key() {
        let mut door = Door::new(true);
        assert_eq!(door.knock("tool", Credential::Key, PROCMOND), Err(Needed::Token));
        let token = door.issue(TokenTerms::new(component("tool")));
        assert!(door.knock("tool", token, PROCMOND).is_ok());
    }

    #[test]
    fn a_token_is_for_one_process_that_comes_in_time_and_may_return() {
        let mut door = Door::new(false);
        let minute = Duration::from_secs(60);
        let terms = TokenTerms::new(component("procmond")).valid_for(minute);
        let token = door.issue(terms.clone());
        door.1 += minute;
        assert_eq!(door.knock("procmond", token, PROCMOND), Err(Needed::Token), "it has expired");
        let token = door.issue(terms.clone());
        assert!(door.knock("procmond", token, PROCMOND).is_ok());
        let others = [Caller { pid: Some(8), ..PROCMOND }, Caller { uid: 0, ..PROCMOND }];
        for other in others {
            assert_eq!(door.knock("procmond", token, other), Err(Needed::Token));
        }
        door.1 += minute;
        assert!(door.knock("procmond", token, PROCMOND).is_ok(), "it has used it in time");
        let newer = door.issue(terms);
        assert_eq!(door.knock("procmond", token, PROCMOND), Err(Needed::Token), "there is a newer one");
        let unnumbered = Caller { pid: None, ..PROCMOND };
        assert!(door.knock("procmond", newer, unnumbered).is_ok());
        assert_eq!(
            door.knock("procmond", newer, unnumbered),
            Err(Needed::Token),
            "who knows whether it is the same"
        );
    }

    #[test]
    fn a_token_is_for_the_user_and_the_process_that_its_terms_name() {
        let mut door = Door::new(false);
        let terms = || TokenTerms::new(component("procmond"));
        for (terms, stranger) in [
            (terms().uid(65534), Caller { uid: 0, ..PROCMOND }),
            (terms().pid(7), Caller { pid: Some(8), ..PROCMOND }),
            (terms().pid(7), Caller { pid: None, ..PROCMOND }),
        ] {
            let token = door.issue(terms);
            assert_eq!(door.knock("procmond", token, stranger), Err(Needed::Token));
            assert!(door.knock("procmond", token, PROCMOND).is_ok(), "the stranger has not used it up");
        }
        let guess = Credential::Token(TokenId([0; 16]));
        assert_eq!(door.knock("procmond", guess, PROCMOND), Err(Needed::Token));
    }

    #[test]
    fn a_token_is_used_by_who_has_proven_that_it_knows_it_and_not_by_who_names_it() {
        let mut door = Door::new(false);
        let token = door.issue(TokenTerms::new(component("procmond")));
        let stranger = Caller { uid: 1000, pid: Some(8) };
        for proof in [None, Some(Proof([0; 32])), door.proven("netmond", token).proof] {
            let named = Hello { proof, ..hello("procmond", token) };
            assert_eq!(door.admit(&named, stranger), Err(Needed::Token));
        }
        assert!(door.knock("procmond", token, PROCMOND).is_ok());
        assert_eq!(door.knock("procmond", token, stranger), Err(Needed::Token));
    }

    #[test]
    fn a_proof_is_good_for_the_greeting_that_it_answers_and_for_no_other() {
        let mut door = Door::new(false);
        let proven = door.proven("procmond", Credential::Key);
        let other = Nonce([3; 32]);
        let admission = door.0.admit(&proven, &other, PROCMOND, door.1).expect("it can be read");
        assert_eq!(admission.map(|admission| admission.known_by), Err(Needed::Key));
        assert_eq!(door.admit(&proven, PROCMOND), Ok(Known::User));
    }

    #[test]
    fn a_token_that_is_issued_between_greeting_and_hello_wins() {
        let mut door = Door::new(false);
        let by_key = door.proven("procmond", Credential::Key);
        let first = door.issue(TokenTerms::new(component("procmond")));
        assert_eq!(door.admit(&by_key, PROCMOND), Err(Needed::Token));
        let by_first = door.proven("procmond", first);
        let second = door.issue(TokenTerms::new(component("procmond")));
        assert_eq!(door.admit(&by_first, PROCMOND), Err(Needed::Token));
        assert!(door.knock("procmond", second, PROCMOND).is_ok());
    }

    #[test]
    fn a_token_may_be_valid_for_longer_than_clocks_can_tell() {
        let mut door = Door::new(false);
        let token = door.issue(TokenTerms::new(component("procmond")).valid_for(Duration::MAX));
        assert!(door.knock("procmond", token, PROCMOND).is_ok());
    }
}
