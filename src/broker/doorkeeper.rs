//! Who may come in: the broker's key, the launch tokens that were issued, and what each of them proves.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use crate::access::Component;
use crate::config::TOKEN_VALIDITY;
use crate::control::{Challenge, Known};
use crate::identity::{LaunchToken, Proofs, nonce};
use crate::sys::Secret;
use crate::wire::{Credential, Hello, Needed};

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

    /// What a client has to prove, or what it lacks.
    pub(super) fn challenge(
        &self,
        hello: &Hello,
        caller: Caller,
        now: Instant,
    ) -> io::Result<Result<Box<Challenge>, Needed>> {
        let name = Component::from_client_id(&hello.client_id).ok();
        let issued = name.and_then(|name| self.tokens.get(&name));
        let known_by = match hello.credential {
            Credential::Nothing => return Ok(Err(self.needed(issued))),
            Credential::Key => Known::User,
            Credential::Token(token) => Known::Token { token, pid: caller.pid },
        };
        let secret = match self.secret(issued, known_by, caller, now) {
            Ok(secret) => secret,
            Err(needed) => return Ok(Err(needed)),
        };
        let nonce = nonce()?;
        let Proofs { of_broker, of_client } = Proofs::new(secret, hello, &nonce)?;
        Ok(Ok(Box::new(Challenge { nonce, proof: of_broker, expected: of_client, known_by })))
    }

    /// Takes note that a client has proven what it was asked for, unless that is not good any more: between challenge and proof another
    /// token may have been issued, or another process come with this one. Before that a token is nobody's, since its name is no secret.
    pub(super) fn admit(
        &mut self,
        component: &Component,
        known_by: Known,
        caller: Caller,
        now: Instant,
    ) -> Result<(), Needed> {
        self.secret(self.tokens.get(component), known_by, caller, now)?;
        if let (Known::Token { .. }, Some(issued)) = (known_by, self.tokens.get_mut(component)) {
            issued.used_by = Some(caller);
        }
        Ok(())
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
    use crate::wire::{Life, Nonce, TokenId, Versions};

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
        }
    }

    struct Door(Doorkeeper, Instant);

    impl Door {
        fn new(strict: bool) -> Self {
            Self(Doorkeeper::new(strict).expect("descriptors"), Instant::now())
        }

        fn issue(&mut self, terms: TokenTerms) -> Credential {
            Credential::Token(self.0.issue(terms, self.1).expect("descriptors").id)
        }

        /// How it would be known who calls, or what is needed.
        fn ask(&self, name: &str, credential: Credential, caller: Caller) -> Result<Known, Needed> {
            let challenge = self.0.challenge(&hello(name, credential), caller, self.1).expect("descriptors");
            challenge.map(|challenge| challenge.known_by)
        }

        /// The same of one that can prove what it is asked for.
        fn knock(&mut self, name: &str, credential: Credential, caller: Caller) -> Result<Known, Needed> {
            let known_by = self.ask(name, credential, caller)?;
            self.0.admit(&component(name), known_by, caller, self.1).map(|()| known_by)
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
        assert!(door.ask("procmond", token, stranger).is_ok(), "it may know the secret, too");
        assert!(door.knock("procmond", token, PROCMOND).is_ok());
        assert_eq!(door.ask("procmond", token, stranger), Err(Needed::Token));
    }

    #[test]
    fn a_challenge_is_good_until_a_token_is_issued_or_somebody_else_has_used_it() {
        let mut door = Door::new(false);
        let procmond = component("procmond");
        let weak = door.ask("procmond", Credential::Key, PROCMOND).expect("there is no token");
        let token = door.issue(TokenTerms::new(procmond.clone()));
        assert_eq!(door.0.admit(&procmond, weak, PROCMOND, door.1), Err(Needed::Token));
        let other = Caller { pid: Some(8), ..PROCMOND };
        let [first, second] = [PROCMOND, other].map(|who| door.ask("procmond", token, who).expect("it may"));
        assert_eq!(door.0.admit(&procmond, first, PROCMOND, door.1), Ok(()));
        assert_eq!(door.0.admit(&procmond, second, other, door.1), Err(Needed::Token), "it came second");
        door.issue(TokenTerms::new(procmond.clone()));
        assert_eq!(
            door.0.admit(&procmond, first, PROCMOND, door.1),
            Err(Needed::Token),
            "there is a newer one"
        );
    }

    #[test]
    fn a_token_may_be_valid_for_longer_than_clocks_can_tell() {
        let mut door = Door::new(false);
        let token = door.issue(TokenTerms::new(component("procmond")).valid_for(Duration::MAX));
        assert!(door.knock("procmond", token, PROCMOND).is_ok());
    }
}
