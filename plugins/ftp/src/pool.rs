//! The sessions of an open target: taken for a call, given back when they are still of use.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, ErrorKind, Result};
use rustls::client::danger::ServerCertVerifier;

use super::config::Config;
use super::error::{Fault, failed};
use super::session::Session;
use super::watch::watched;

/// A session that was idle for longer is asked whether it is still there.
const FRESH: Duration = Duration::from_secs(5);
/// Idle sessions kept.
const KEPT: usize = 16;
/// How long one of our own is waited for before the server is asked again, and how often that is looked at.
const WAIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

pub struct Shared {
    pub config: Config,
    pub trust: Arc<dyn ServerCertVerifier>,
    /// The server speaks nothing older than TLS 1.3.
    pub newer_tls: AtomicBool,
    /// Extended passive mode does not work here.
    pub classic: AtomicBool,
    idle: Mutex<Vec<Session>>,
    /// Sessions in somebody's hands.
    out: AtomicUsize,
}

impl Shared {
    pub fn new(config: Config, trust: Arc<dyn ServerCertVerifier>) -> Self {
        Self {
            config,
            trust,
            newer_tls: AtomicBool::new(false),
            classic: AtomicBool::new(false),
            idle: Mutex::default(),
            out: AtomicUsize::new(0),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session of the caller's own. A server that takes no more of them is no error while others will come back. Who
    /// holds one already must not call this: it may wait for that one.
    pub fn lease(&self, call: &Call) -> Result<Lease<'_>> {
        loop {
            call.proceed()?;
            if let Some(session) = self.kept(call)? {
                return Ok(self.given(session));
            }
            match Session::connect(self, call) {
                Ok(session) => return Ok(self.given(session)),
                Err(error) if *error.kind() == ErrorKind::Busy && self.out.load(Ordering::Relaxed) > 0 => {
                    call.alive("the server takes no more connections: waiting for one of ours");
                    let begun = Instant::now();
                    while self.idle().is_empty()
                        && begun.elapsed() < WAIT
                        && self.out.load(Ordering::Relaxed) > 0
                    {
                        std::thread::sleep(LOOK);
                        call.proceed()?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One beside another that the caller holds: where the server takes no more of them it is `Busy` at once, because
    /// the one that would be waited for may be the caller's.
    pub fn another(&self, call: &Call) -> Result<Lease<'_>> {
        call.proceed()?;
        let session = match self.kept(call)? {
            Some(session) => session,
            None => Session::connect(self, call)?,
        };
        Ok(self.given(session))
    }

    fn given(&self, session: Session) -> Lease<'_> {
        self.out.fetch_add(1, Ordering::Relaxed);
        Lease { shared: self, session: Some(session) }
    }

    /// One that was given back and is still there.
    fn kept(&self, call: &Call) -> Result<Option<Session>> {
        loop {
            let Some(mut session) = self.idle().pop() else { return Ok(None) };
            if session.worn() {
                session.quit();
                continue;
            }
            let quiet = session.idle() > FRESH;
            session.works_for(Some(call));
            if quiet {
                let sockets = session.sockets.clone();
                let there = watched(call, &sockets, None, || session.command("NOOP").is_ok_and(|r| r.good()));
                call.proceed()?;
                if !there {
                    continue;
                }
            }
            return Ok(Some(session));
        }
    }

    /// One act at the server. `act` and `what` are for the error.
    pub fn on<T>(
        &self,
        call: &Call,
        act: &str,
        what: &str,
        work: impl FnOnce(&mut Session) -> Result<T, Fault>,
    ) -> Result<T> {
        let mut lease = self.lease(call)?;
        self.with(&mut lease, call, act, what, work)
    }

    /// The same on a session that is held already.
    pub fn with<T>(
        &self,
        session: &mut Session,
        call: &Call,
        act: &str,
        what: &str,
        work: impl FnOnce(&mut Session) -> Result<T, Fault>,
    ) -> Result<T> {
        call.proceed()?;
        let sockets = session.sockets.clone();
        let result = watched(call, &sockets, Some("waiting for the server"), || work(session));
        result.map_err(|fault| self.told(session, call, act, what, &fault))
    }

    /// The error for a fault; what it says of the session is kept.
    pub fn told(
        &self,
        session: &mut Session,
        call: &Call,
        act: &str,
        what: &str,
        fault: &Fault,
    ) -> offsite_plugin_api::Error {
        if !fault.keeps() {
            session.spoil();
        }
        if let Fault::Said(reply) = fault
            // ProFTPD says no more than 425 and "Operation not permitted".
            && (matches!(reply.code, 425 | 522) || reply.says(&["reuse", "reused"]))
            && session.newest_tls()
        {
            // Its tickets are used up; a new session has new ones.
            session.spoil();
        }
        // Sockets are shut when the call ends: that, and not the broken connection, is what happened.
        call.proceed().err().unwrap_or_else(|| failed(act, what, fault))
    }

    pub fn close(&self) {
        let idle = std::mem::take(&mut *self.idle());
        for session in idle {
            session.quit();
        }
    }
}

pub struct Lease<'a> {
    shared: &'a Shared,
    session: Option<Session>,
}

impl Deref for Lease<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("only drop takes it")
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("only drop takes it")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(mut session) = self.session.take() else { return };
        session.works_for(None);
        self.shared.out.fetch_sub(1, Ordering::Relaxed);
        let mut idle = self.shared.idle();
        if session.usable() && idle.len() < KEPT {
            idle.push(session);
        }
    }
}
