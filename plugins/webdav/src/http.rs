//! One request and its answer: the login, the time it may take, and what becomes of redirects.
//!
//! Every wait on the network ends within [`TICK`] of the call being cancelled or running out, and after the configured time
//! without a sign of the server. Requests with small bodies may be sent again with a new login; uploads (`body`) never are.

use std::future::Future;
use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offsite_plugin_api::{Call, Error, ErrorKind, Result};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use tokio::runtime::Runtime;
use url::Url;

use super::auth::{Auth, Login};
use super::config::Config;
use super::{error, tls};

/// How often a waiting call looks whether it should end.
const TICK: Duration = Duration::from_millis(250);
/// How often a long wait for the server is reported.
const NOTE: Duration = Duration::from_secs(10);
/// How long a server may need to store or put together what it has received, while it says nothing.
pub const PATIENCE: Duration = Duration::from_secs(1800);
/// Of an error's body.
const WORDS: usize = 4096;
const HOPS: usize = 3;

pub struct Http {
    pub(super) client: reqwest::Client,
    runtime: Option<Runtime>,
    pub(super) auth: Auth,
    root: Url,
    pub(super) idle: Duration,
}

/// A request that may be sent again: no body, or a small one in memory.
pub struct Request {
    pub method: &'static str,
    pub url: Url,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// What is waited for, where the server may need long: reported while it lasts.
    pub patient: Option<&'static str>,
}

impl Request {
    pub fn new(method: &'static str, url: Url) -> Self {
        Self { method, url, headers: Vec::new(), body: Bytes::new(), patient: None }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// An answer whose body has not been read yet.
pub struct Answer {
    inner: reqwest::Response,
}

impl Answer {
    pub fn new(inner: reqwest::Response) -> Self {
        Self { inner }
    }

    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    pub fn code(&self) -> u16 {
        self.inner.status().as_u16()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    pub fn url(&self) -> &Url {
        self.inner.url()
    }
}

impl Http {
    /// Uses no network. Errors: `InvalidConfig` for a CA file that cannot be used.
    pub fn new(config: &Config) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .user_agent(concat!("offsite/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.timeout.min(Duration::from_secs(20)))
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            // Servers close idle connections after 5 s (Apache) and more: never send a body into one that is closing.
            .pool_idle_timeout(Duration::from_millis(4500))
            .pool_max_idle_per_host(16);
        // The preconfigured TLS is needed for http: too, as this build of the library brings no provider of its own.
        let tls = match config.root.scheme() {
            "https" => tls::client_config(config)?,
            _ => tls::client_config(&Config { ca_file: None, ..config.clone() })?,
        };
        builder = builder.tls_backend_preconfigured(tls);
        let failed = |what: &str, e: String| {
            Error::new(ErrorKind::Other, format!("cannot make the {what}")).with_source(e)
        };
        let client = builder.build().map_err(|e| failed("HTTP client", e.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("webdav")
            .enable_all()
            .build()
            .map_err(|e| failed("runtime", e.to_string()))?;
        Ok(Self {
            client,
            runtime: Some(runtime),
            auth: Auth::new(config.user.clone(), config.password.clone()),
            root: config.root.clone(),
            idle: config.timeout,
        })
    }

    pub(super) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime lives as long as this")
    }

    /// Waits for `future`, at most `limit`. Errors: `Cancelled`, `TimedOut`.
    pub fn wait<F: Future>(
        &self,
        call: &Call,
        limit: Duration,
        note: Option<&str>,
        future: F,
    ) -> Result<F::Output> {
        self.runtime().block_on(async {
            tokio::pin!(future);
            let start = Instant::now();
            let mut noted = start;
            loop {
                call.proceed()?;
                let tick = call.remaining().map_or(TICK, |left| left.min(TICK));
                if let Ok(output) = tokio::time::timeout(tick, &mut future).await {
                    return Ok(output);
                }
                if start.elapsed() >= limit {
                    return Err(Error::new(
                        ErrorKind::TimedOut,
                        format!("the server has been silent for {} s", limit.as_secs()),
                    ));
                }
                if let Some(note) = note.filter(|_| noted.elapsed() >= NOTE) {
                    call.alive(note);
                    noted = Instant::now();
                }
            }
        })
    }

    /// Waits a while. Errors: `Cancelled`, `TimedOut` of the call.
    pub fn pause(&self, call: &Call, long: Duration) -> Result<()> {
        self.wait(call, long + TICK, None, async move { tokio::time::sleep(long).await })
    }

    /// Sends it, with the login the server wants. Redirects of what only reads are followed within the same origin; any other
    /// is given back as it came. `act` and `what` are for errors.
    pub fn send(&self, call: &Call, request: &Request, act: &str, what: &str) -> Result<Answer> {
        let mut url = request.url.clone();
        let (mut hops, mut logins) = (0, 0);
        loop {
            if !self.auth.decided() && request.method != "PROPFIND" {
                self.decide(call)?;
            }
            let (login, generation) = self.auth.login(request.method, url.path())?;
            let answer = self.once(call, request, &url, &login, act, what)?;
            match answer.code() {
                401 if logins < 3 => {
                    self.auth.refused(&login, generation, answer.headers())?;
                    logins += 1;
                    self.drain(call, answer);
                }
                301 | 302 | 307 | 308
                    if hops < HOPS && matches!(request.method, "PROPFIND" | "GET" | "HEAD" | "OPTIONS") =>
                {
                    match self.next(&url, &answer) {
                        Some(next) => url = next,
                        None => return Ok(answer),
                    }
                    hops += 1;
                    self.drain(call, answer);
                }
                _ => {
                    self.auth.answered(answer.headers());
                    return Ok(answer);
                }
            }
        }
    }

    fn once(
        &self,
        call: &Call,
        request: &Request,
        url: &Url,
        login: &Login,
        act: &str,
        what: &str,
    ) -> Result<Answer> {
        let mut built = self.start(request.method, url, &request.headers, login)?;
        if !request.body.is_empty() {
            built = built.body(request.body.clone());
        }
        let limit = if request.patient.is_some() { PATIENCE } else { self.idle };
        let sent = self.wait(call, limit, request.patient, built.send())?;
        sent.map(Answer::new).map_err(|e| error::broken(act, what, &e))
    }

    /// A request with everything but its body.
    pub(super) fn start(
        &self,
        method: &str,
        url: &Url,
        headers: &[(&'static str, String)],
        login: &Login,
    ) -> Result<reqwest::RequestBuilder> {
        let method = Method::from_bytes(method.as_bytes()).expect("methods are tokens");
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
                Error::new(ErrorKind::NameRefused, format!("the header '{name}' cannot carry its value"))
            })?;
            map.append(HeaderName::from_static(name), value);
        }
        let built = self.client.request(method, url.clone()).headers(map);
        Ok(match (login, self.auth.user()) {
            (Login::Basic, Some(user)) => built.basic_auth(user, Some(self.auth.password())),
            (Login::Header(text), _) => {
                let mut value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
                    Error::new(ErrorKind::Unsupported, "the server's Digest login cannot be answered")
                })?;
                value.set_sensitive(true);
                built.header(AUTHORIZATION, value)
            }
            _ => built,
        })
    }

    /// Where a redirect leads, if that is the same origin: credentials go nowhere else.
    fn next(&self, from: &Url, answer: &Answer) -> Option<Url> {
        let to = from.join(answer.headers().get(LOCATION)?.to_str().ok()?).ok()?;
        let same = to.origin() == from.origin() && to.username().is_empty() && to.password().is_none();
        same.then_some(to)
    }

    /// Lets an upload start with a login the server will take.
    pub fn prepare(&self, call: &Call) -> Result<()> {
        if self.auth.ready() {
            return Ok(());
        }
        if !self.auth.decided() {
            return self.decide(call);
        }
        // A new nonce: one empty request without a login, refused with the challenge that the upload answers.
        let before = self.auth.login("OPTIONS", self.root.path())?.1;
        let request = self.probe();
        let answer = self.once(call, &request, &self.root, &Login::None, "log in to", "the server")?;
        if answer.code() == 401 {
            self.auth.refused(&Login::None, before, answer.headers())?;
        }
        self.drain(call, answer);
        Ok(())
    }

    fn probe(&self) -> Request {
        Request::new("PROPFIND", self.root.clone())
            .header("depth", "0")
            .header("content-type", "application/xml; charset=utf-8")
            .body(&b"<?xml version=\"1.0\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/></prop></propfind>"[..])
    }

    /// Finds out which login the server wants, with requests that carry nothing.
    fn decide(&self, call: &Call) -> Result<()> {
        let answer = self.send(call, &self.probe(), "log in to", "the server")?;
        self.drain(call, answer);
        if self.auth.decided() {
            return Ok(());
        }
        // Reading is free to all. Whether writing is too shows a change of nothing: without a body it is refused or void.
        let change = Request::new("PROPPATCH", self.root.clone());
        let answer = self.once(call, &change, &self.root, &Login::None, "log in to", "the server")?;
        if answer.code() == 401 {
            let generation = self.auth.login("PROPPATCH", self.root.path())?.1;
            self.auth.refused(&Login::None, generation, answer.headers())?;
            self.drain(call, answer);
            let answer = self.send(call, &change, "log in to", "the server")?;
            if answer.code() == 401 {
                return Err(self.fail(call, answer, "log in to", "the server"));
            }
            self.drain(call, answer);
        } else {
            self.auth.open();
            self.drain(call, answer);
        }
        Ok(())
    }

    /// The error for an answer that is none of those expected, with the beginning of what the server says.
    pub fn fail(&self, call: &Call, answer: Answer, act: &str, what: &str) -> Error {
        let (status, headers, url) = (answer.status(), answer.headers().clone(), answer.url().clone());
        let body = self.text(call, answer, WORDS, Duration::from_secs(2));
        let made = error::refused(act, what, status, &headers, &body);
        let Some(to) =
            headers.get(LOCATION).and_then(|l| l.to_str().ok()).filter(|_| status.is_redirection())
        else {
            return made;
        };
        let to = match url.join(to) {
            Ok(mut to) => {
                let _ = to.set_username("");
                let _ = to.set_password(None);
                to.set_query(None);
                to.to_string()
            }
            Err(_) => "an address that is none".to_owned(),
        };
        let to: String = to.chars().take(300).collect();
        made.with_context("from", url.to_string()).with_context("to", to)
    }

    /// The beginning of a body; what cannot be had in time is left out.
    pub fn text(&self, call: &Call, answer: Answer, most: usize, limit: Duration) -> String {
        let mut inner = answer.inner;
        let mut bytes = Vec::new();
        let end = Instant::now() + limit;
        while bytes.len() < most {
            let left = end.saturating_duration_since(Instant::now());
            match self.wait(call, left, None, inner.chunk()) {
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk[..chunk.len().min(most - bytes.len())]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads a short body to its end, so that the connection can be used again.
    pub fn drain(&self, call: &Call, answer: Answer) {
        if answer.length() != Some(0) {
            let _ = self.text(call, answer, 64 * 1024, Duration::from_secs(2));
        }
    }

    /// The next piece of a body; `None` at its end.
    pub fn chunk(&self, call: &Call, answer: &mut Answer, act: &str, what: &str) -> Result<Option<Bytes>> {
        let read = self.wait(call, self.idle, None, answer.inner.chunk())?;
        read.map_err(|e| error::broken(act, what, &e))
    }

    /// The body as something to read from. An error of the call or the connection is kept in the reader.
    pub fn reader<'a>(&'a self, call: &'a Call, answer: Answer, what: &'a str) -> BodyReader<'a> {
        BodyReader { http: self, call, answer, what, piece: Bytes::new(), failure: None }
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // Never waits for a name lookup that hangs.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub struct BodyReader<'a> {
    http: &'a Http,
    call: &'a Call,
    answer: Answer,
    what: &'a str,
    piece: Bytes,
    pub failure: Option<Error>,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.http.chunk(self.call, &mut self.answer, "read the answer about", self.what) {
                Ok(Some(piece)) => self.piece = piece,
                Ok(None) => return Ok(0),
                Err(error) => {
                    let text = error.to_string();
                    self.failure = Some(error);
                    return Err(std::io::Error::other(text));
                }
            }
        }
        let n = self.piece.len().min(buf.len());
        buf[..n].copy_from_slice(&self.piece.split_to(n));
        Ok(n)
    }
}
