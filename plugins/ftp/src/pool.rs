//! The sessions of an open target: taken for a call, given back when they are still of use.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use offsite_plugin_api::{Call, Result};
use rustls::RootCertStore;

use super::config::Config;
use super::error::{Fault, failed};
use super::session::Session;
use super::watch::watched;

/// A session that was idle for longer is asked whether it is still there.
const FRESH: Duration = Duration::from_secs(5);
/// Idle sessions kept.
const KEPT: usize = 8;

pub struct Shared {
    pub config: Config,
    pub roots: Arc<RootCertStore>,
    /// The server speaks nothing older than TLS 1.3.
    pub newer_tls: AtomicBool,
    /// Extended passive mode does not work here.
    pub classic: AtomicBool,
    idle: Mutex<Vec<Session>>,
}

impl Shared {
    pub fn new(config: Config, roots: Arc<RootCertStore>) -> Self {
        Self {
            config,
            roots,
            newer_tls: AtomicBool::new(false),
            classic: AtomicBool::new(false),
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lease(&self, call: &Call) -> Result<Lease<'_>> {
        call.proceed()?;
        loop {
            let Some(mut session) = self.idle().pop() else { break };
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
            return Ok(Lease { shared: self, session: Some(session) });
        }
        let session = Session::connect(self, call)?;
        Ok(Lease { shared: self, session: Some(session) })
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
        let mut idle = self.shared.idle();
        if session.usable() && idle.len() < KEPT {
            idle.push(session);
        }
    }
}
