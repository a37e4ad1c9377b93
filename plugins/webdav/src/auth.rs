//! Which login a request carries, and what a refusal (401) means.
//!
//! A body cannot be sent twice, so the scheme is decided by empty requests: nothing is sent with a password before the server
//! asked for one, Digest is preferred to Basic, and an upload starts only with a login that was taken just before. A nonce is
//! renewed before it grows old; how old it may grow is learned from the server's refusals.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use digest_auth::{AuthContext, HttpMethod, WwwAuthenticateHeader};
use offsite_plugin_api::{Error, ErrorKind, Result, Zeroizing};
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Half of what servers commonly grant (Apache: 300 s).
const NONCE_AGE: Duration = Duration::from_secs(120);

pub struct Auth {
    user: Option<String>,
    password: Zeroizing<String>,
    state: Mutex<State>,
}

struct State {
    scheme: Scheme,
    /// How long a nonce is used for uploads.
    oldest: Duration,
    /// A connection broke since: a server that was started again takes no nonce of before.
    doubted: bool,
    /// Changes with every new challenge: a refusal of an older one means nothing.
    generation: u64,
}

enum Scheme {
    /// Nothing was asked yet.
    Unknown,
    /// The server asks for none.
    Open,
    Basic,
    Digest {
        prompt: Box<WwwAuthenticateHeader>,
        since: Instant,
    },
}

/// What a request carries.
pub enum Login {
    None,
    Basic,
    Header(String),
}

impl Auth {
    pub fn new(user: Option<String>, password: Zeroizing<String>) -> Self {
        let state = State { scheme: Scheme::Unknown, oldest: NONCE_AGE, doubted: false, generation: 0 };
        Self { user, password, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    /// The name of the scheme in use, for people.
    pub fn name(&self) -> &'static str {
        match self.lock().scheme {
            Scheme::Unknown | Scheme::Open => "none",
            Scheme::Basic => "Basic",
            Scheme::Digest { .. } => "Digest",
        }
    }

    /// What a request with this method and this path (as sent) carries, and the number of the challenge it answers.
    pub fn login(&self, method: &str, uri: &str) -> Result<(Login, u64)> {
        let mut state = self.lock();
        let generation = state.generation;
        let (Scheme::Digest { prompt, .. }, Some(user)) = (&mut state.scheme, &self.user) else {
            let login = if matches!(state.scheme, Scheme::Basic) { Login::Basic } else { Login::None };
            return Ok((login, generation));
        };
        let context = AuthContext::new_with_method(
            user,
            self.password.as_str(),
            uri,
            None::<&[u8]>,
            HttpMethod::from(method),
        );
        let header = prompt.respond(&context).map_err(|e| {
            Error::new(ErrorKind::Unsupported, "the server's Digest login is not understood")
                .with_source(e.to_string())
        })?;
        Ok((Login::Header(header.to_header_string()), generation))
    }

    /// Whether an upload may start now; otherwise an empty request has to be refused or taken first.
    pub fn ready(&self) -> bool {
        let state = self.lock();
        match &state.scheme {
            Scheme::Unknown => self.user.is_none(),
            Scheme::Open | Scheme::Basic => true,
            Scheme::Digest { since, .. } => !state.doubted && since.elapsed() < state.oldest,
        }
    }

    /// An upload's connection broke: the next one asks before it sends.
    pub fn doubt(&self) {
        self.lock().doubted = true;
    }

    /// A request without a login was answered.
    pub fn open(&self) {
        let mut state = self.lock();
        if matches!(state.scheme, Scheme::Unknown) {
            state.scheme = Scheme::Open;
        }
    }

    pub fn decided(&self) -> bool {
        self.user.is_none() || !matches!(self.lock().scheme, Scheme::Unknown)
    }

    /// A server that gives the next nonce with each answer (RFC 7616 §3.5).
    pub fn answered(&self, headers: &HeaderMap) {
        let Some(info) = headers.get("authentication-info").and_then(|v| v.to_str().ok()) else { return };
        let Some(at) = info.find("nextnonce=\"") else { return };
        let nonce: String = info[at + 11..].chars().take_while(|c| *c != '"').take(1024).collect();
        if let Scheme::Digest { prompt, since } = &mut self.lock().scheme
            && prompt.nonce != nonce
        {
            prompt.nonce = nonce;
            prompt.nc = 0;
            *since = Instant::now();
        }
    }

    /// The server refused a request that answered challenge `generation` (401). `Ok`: the same request with a new login may be
    /// taken. Errors: `Unauthenticated`; `Unsupported` for a scheme that is not known here.
    pub fn refused(&self, login: &Login, generation: u64, headers: &HeaderMap) -> Result<()> {
        let Some(_) = &self.user else {
            return Err(Error::new(ErrorKind::Unauthenticated, "the server asks for a login").with_context(
                "hint",
                "give a user (https://name@host/… or the option 'user') and the secret 'password'",
            ));
        };
        let mut state = self.lock();
        if generation != state.generation {
            // Another thread met the same and has the answer.
            return Ok(());
        }
        let offers = challenges(headers);
        let digest = offers
            .iter()
            .filter(|c| is(c, "digest"))
            .find_map(|c| WwwAuthenticateHeader::parse(&c[6..]).ok());
        let basic = offers.iter().any(|c| is(c, "basic"));
        match (digest, login) {
            (Some(prompt), Login::Header(_)) => {
                let old = match &state.scheme {
                    Scheme::Digest { prompt: old, since } => {
                        Some((old.nc, since.elapsed(), old.nonce.clone()))
                    }
                    _ => None,
                };
                match old {
                    // An answer to a new nonce, and the server does not call it stale: the password is wrong.
                    Some((uses, ..)) if uses <= 1 && !prompt.stale => return Err(self.wrong()),
                    Some((_, age, nonce)) if !prompt.stale && nonce == prompt.nonce && age < state.oldest => {
                        return Err(self.wrong());
                    }
                    Some((_, age, _)) => state.oldest = state.oldest.min(age / 2),
                    None => {}
                }
                state.scheme = Scheme::Digest { prompt: Box::new(prompt), since: Instant::now() };
            }
            (Some(prompt), _) => {
                state.scheme = Scheme::Digest { prompt: Box::new(prompt), since: Instant::now() };
            }
            (None, Login::None) if basic => state.scheme = Scheme::Basic,
            (None, _) if basic => return Err(self.wrong()),
            (None, _) => {
                let names: Vec<&str> = offers.iter().filter_map(|c| c.split(' ').next()).take(5).collect();
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the server wants a login that is neither Basic nor Digest",
                )
                .with_context("offered", names.join(", ").escape_debug().to_string()));
            }
        }
        state.generation += 1;
        state.doubted = false;
        Ok(())
    }

    fn wrong(&self) -> Error {
        if self.password.is_empty() {
            return Error::new(
                ErrorKind::Unauthenticated,
                "the server asks for a password, and none is given",
            )
            .with_context("user", self.user.clone().unwrap_or_default())
            .with_context("hint", "name where it comes from with the credential 'password'");
        }
        Error::new(ErrorKind::Unauthenticated, "the server refuses user or password")
            .with_context("user", self.user.clone().unwrap_or_default())
            .with_context(
                "hint",
                "check both; Nextcloud and ownCloud want an app password where two factors are on",
            )
    }
}

fn is(challenge: &str, scheme: &str) -> bool {
    challenge.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(scheme))
}

/// Every challenge of an answer. One header may hold several (RFC 9110 §11.6.1): a new one starts where a word is followed by
/// a space and not by `=`.
fn challenges(headers: &HeaderMap) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE).iter().take(16).filter_map(|v| v.to_str().ok()) {
        for part in commas(value) {
            let word = part.split([' ', '=']).next().unwrap_or_default();
            let starts = !part[word.len()..].trim_start().starts_with('=');
            match found.last_mut() {
                Some(last) if !starts => {
                    last.push_str(", ");
                    last.push_str(part);
                }
                _ => found.push(part.to_owned()),
            }
        }
    }
    found
}

/// Split at commas outside quotes.
fn commas(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|p| !p.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> Auth {
        Auth::new(Some("me".into()), Zeroizing::new("secret".into()))
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        headers
    }

    const DIGEST: &str = r#"Digest realm="a, b", nonce="n1", algorithm=MD5, qop="auth""#;

    fn refuse(auth: &Auth, values: &[&str]) -> Result<()> {
        let (login, generation) = auth.login("PROPFIND", "/").unwrap();
        auth.refused(&login, generation, &headers(values))
    }

    #[test]
    fn nothing_is_sent_before_the_server_asks_and_digest_comes_first() {
        for offers in [
            &[r#"Basic realm="x""#, DIGEST][..],
            &[&format!("Basic realm=\"x\", {DIGEST}")],
            &[&format!("{DIGEST}, Basic realm=\"x\"")],
        ] {
            let auth = auth();
            assert!(!auth.ready() && matches!(auth.login("PUT", "/").unwrap().0, Login::None));
            refuse(&auth, offers).unwrap();
            let Login::Header(header) = auth.login("PUT", "/a%20b").unwrap().0 else { panic!("{offers:?}") };
            assert!(header.contains(r#"uri="/a%20b""#) && !header.contains("secret"), "{header}");
            assert!(auth.ready());
        }
        let auth = auth();
        refuse(&auth, &[r#"basic realm="x", charset="UTF-8""#]).unwrap();
        assert!(matches!(auth.login("PUT", "/").unwrap().0, Login::Basic));
    }

    #[test]
    fn a_wrong_password_is_told_from_a_stale_nonce() {
        let auth = auth();
        refuse(&auth, &[DIGEST]).unwrap();
        let error = refuse(&auth, &[&DIGEST.replace("n1", "n2")]).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unauthenticated);
        assert!(!error.to_string().contains("secret"));

        let auth = self::auth();
        refuse(&auth, &[DIGEST]).unwrap();
        refuse(&auth, &[&format!("{}, stale=true", DIGEST.replace("n1", "n2"))]).unwrap();
        let Login::Header(header) = auth.login("PUT", "/").unwrap().0 else { panic!() };
        assert!(header.contains("n2"), "{header}");
        // Longer than the first nonce lived.
        std::thread::sleep(Duration::from_millis(50));
        assert!(!auth.ready(), "a server whose nonces die at once is asked before each upload");

        let auth = self::auth();
        refuse(&auth, &["Basic realm=x"]).unwrap();
        assert!(refuse(&auth, &["Basic realm=x"]).is_err());

        let auth = Auth::new(Some("me".into()), Zeroizing::default());
        refuse(&auth, &["Basic realm=x"]).unwrap();
        let error = refuse(&auth, &["Basic realm=x"]).unwrap_err();
        assert!(error.to_string().contains("none is given"), "{error}");
    }

    #[test]
    fn a_server_that_gives_the_next_nonce_is_believed() {
        let auth = auth();
        refuse(&auth, &[DIGEST]).unwrap();
        let mut info = HeaderMap::new();
        info.insert("authentication-info", r#"nextnonce="n9", qop=auth"#.parse().unwrap());
        auth.answered(&info);
        let Login::Header(header) = auth.login("PUT", "/").unwrap().0 else { panic!() };
        assert!(header.contains(r#"nonce="n9""#) && header.contains("nc=00000001"), "{header}");
    }

    #[test]
    fn what_cannot_be_answered_is_said() {
        let error = refuse(&auth(), &["Negotiate", "NTLM"]).unwrap_err();
        assert!(error.to_string().contains("Negotiate, NTLM"), "{error}");
        let nobody = Auth::new(None, Zeroizing::default());
        assert!(nobody.ready());
        assert_eq!(refuse(&nobody, &[DIGEST]).unwrap_err().kind(), &ErrorKind::Unauthenticated);
    }
}
