//! The connections of one target: handed to one thread at a time, kept for the next, kept alive while idle.
//!
//! A connection that the server dropped meanwhile is noticed when it is handed out, and replaced. The first one is made
//! alone: a wrong password is tried once, not once for each stream, because servers lock accounts and addresses.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, Error, ErrorKind, Host, Level, Result};

use super::config::Config;
use super::connect::connect;
use super::link::{Link, Soon};

/// Connections at once. More wait, or do without.
pub const MOST: usize = 16;
/// Logins at once: sshd refuses some from ten on (MaxStartups), and other targets may log in there too.
const MOST_CONNECTING: usize = 4;
/// After this idle time a connection is shown to be alive; after the other it is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP: Duration = Duration::from_secs(240);
/// How long no further connection is asked of a server that would take no more.
const FULL: Duration = Duration::from_secs(60);
/// How long a refused login is not tried again.
const REFUSED: Duration = Duration::from_secs(5);
const STATE: &str = "host-keys";

pub struct Pool {
    config: Arc<Config>,
    host: Arc<dyn Host>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Link>,
    /// Idle, in use and being made.
    open: usize,
    connecting: usize,
    /// One was made: the credentials are right.
    proved: bool,
    refused: Option<(Instant, Error)>,
    /// The server took no more than so many: others go on with those.
    full: Option<(Instant, usize)>,
    /// Ways to log in that the server named: asked once.
    offered: Option<String>,
    /// Accepted host keys, as lines of known_hosts.
    remembered: Option<String>,
    closed: bool,
    keeper: bool,
}

impl Pool {
    pub fn new(config: Arc<Config>, host: Arc<dyn Host>) -> Arc<Self> {
        Arc::new(Self { config, host, state: Mutex::default(), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection; waits for one while all are in use.
    pub fn lease(self: &Arc<Self>, call: &Call) -> Result<Lease> {
        loop {
            if let Some(lease) = self.try_lease(call)? {
                return Ok(lease);
            }
            call.proceed()?;
            let state = self.lock();
            drop(self.changed.wait_timeout(state, Duration::from_millis(100)));
        }
    }

    /// `None`: all are in use, or enough are being made.
    pub fn try_lease(self: &Arc<Self>, call: &Call) -> Result<Option<Lease>> {
        call.proceed()?;
        let mut state = self.lock();
        while let Some(mut link) = state.idle.pop() {
            drop(state);
            // Even one used a moment ago: asking costs one system call.
            if link.alive(call) {
                return Ok(Some(Lease { link: Some(link), pool: self.clone() }));
            }
            drop(link);
            state = self.lock();
            state.open -= 1;
        }
        if state.closed {
            return Err(Error::new(ErrorKind::Cancelled, "the target is closed"));
        }
        if let Some((at, error)) = &state.refused {
            if at.elapsed() < REFUSED {
                return Err(error.clone());
            }
            state.refused = None;
        }
        let most = if state.proved { MOST_CONNECTING } else { 1 };
        let room = match state.full {
            Some((at, room)) if at.elapsed() < FULL => room,
            _ => MOST,
        };
        // None open: whatever was the matter, it is found out now.
        if state.open >= room.max(1) || state.connecting >= most {
            return Ok(None);
        }
        state.open += 1;
        state.connecting += 1;
        drop(state);
        let made = self.make(call);
        let mut state = self.lock();
        state.connecting -= 1;
        let result = match made {
            Ok(link) => {
                state.proved = true;
                Ok(Some(Lease { link: Some(link), pool: self.clone() }))
            }
            Err(error) => {
                state.open -= 1;
                if matches!(error.kind(), ErrorKind::Unauthenticated | ErrorKind::UntrustedPeer) {
                    state.refused = Some((Instant::now(), error.clone()));
                }
                if crowded(&error) && state.open > state.connecting {
                    let room = state.open - state.connecting;
                    state.full = Some((Instant::now(), room));
                    call.log(
                        Level::Info,
                        &format!("the server takes no more connections than {room} for now: {error}"),
                    );
                    Ok(None)
                } else {
                    Err(error)
                }
            }
        };
        drop(state);
        self.changed.notify_all();
        result
    }

    fn make(&self, call: &Call) -> Result<Link> {
        let known = self.lock().remembered.clone();
        let remembered = match known {
            Some(lines) => Some(lines),
            None if self.config.host_key == super::config::HostKey::AcceptNew => {
                let lines = self.host.state_get(STATE)?;
                lines.map(|l| String::from_utf8_lossy(&l).into_owned())
            }
            None => None,
        };
        self.lock().remembered = remembered.clone();
        let offered = self.lock().offered.clone();
        let made = connect(&self.config, remembered, offered, call)?;
        self.lock().offered = made.offered;
        if let Some(line) = made.remember {
            // Only the first connection can meet a new key: it is made alone.
            self.host.state_put(STATE, line.as_bytes())?;
            call.log(Level::Info, &format!("the server's host key is remembered: {line}"));
            self.lock().remembered = Some(line);
        }
        Ok(made.link)
    }

    fn give_back(self: &Arc<Self>, mut link: Link) {
        let good = link.rest();
        let mut state = self.lock();
        if good && !state.closed {
            state.idle.push(link);
            if !state.keeper {
                let pool = Arc::downgrade(self);
                state.keeper = std::thread::Builder::new()
                    .name("sftp-idle".to_owned())
                    .spawn(move || keep(&pool))
                    .is_ok();
            }
            drop(state);
        } else {
            state.open -= 1;
            drop(state);
            drop(link);
        }
        self.changed.notify_all();
    }

    /// Says goodbye on what is idle; what is in use ends when it is given back.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        state.open -= idle.len();
        drop(state);
        drop(idle);
    }
}

/// Whether a server that takes other connections may have refused this one only because there are too many.
fn crowded(error: &Error) -> bool {
    use ErrorKind::{Busy, Interrupted, Other, Throttled, TimedOut, Unreachable};
    matches!(error.kind(), Busy | Interrupted | Other | Throttled | TimedOut | Unreachable)
}

/// Looks after idle connections until the pool is gone.
fn keep(pool: &Weak<Pool>) {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.lock();
        if state.closed {
            return;
        }
        let due = |link: &Link| link.used.elapsed() > KEEP_ALIVE;
        let mut kept = Vec::with_capacity(state.idle.len());
        let mut lost = Vec::new();
        for mut link in std::mem::take(&mut state.idle) {
            if !due(&link) {
                kept.push(link);
            } else if link.idle_since.elapsed() < KEEP
                && link.keep_alive()
                && link.alive(&Soon(Instant::now() + Duration::from_millis(200)))
            {
                link.used = Instant::now();
                kept.push(link);
            } else {
                lost.push(link);
            }
        }
        state.idle = kept;
        state.open -= lost.len();
        drop(state);
        drop(lost);
    }
}

/// A connection on loan.
pub struct Lease {
    link: Option<Link>,
    pool: Arc<Pool>,
}

impl Deref for Lease {
    type Target = Link;

    fn deref(&self) -> &Link {
        self.link.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Link {
        self.link.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.pool.give_back(link);
        }
    }
}
