//! What all connections of one proxy share: faults, counts, and the list of what is to be cut.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Direction;

/// What is wrong with the network; indices are directions.
#[derive(Debug, Default)]
pub struct Faults {
    pub frozen: bool,
    pub refusing: bool,
    pub closed: bool,
    pub cut: [Option<u64>; 2],
    pub freeze: [Option<u64>; 2],
    pub rate: Option<u64>,
    passed: [u64; 2],
    /// When the next byte may go, where a rate holds it back.
    next: [Option<Instant>; 2],
}

pub struct Network {
    /// One way.
    pub delay: Duration,
    faults: Mutex<Faults>,
    changed: Condvar,
    connections: AtomicU64,
    open: Mutex<Vec<(u64, TcpStream, TcpStream)>>,
}

/// What may be done with bytes that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Pass so many on, then ask again.
    Pass(usize),
    /// Pass so many on, then cut everything.
    Cut(usize),
    Closed,
}

impl Network {
    pub fn new(delay: Duration) -> Self {
        Self {
            delay,
            faults: Mutex::default(),
            changed: Condvar::new(),
            connections: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no thread panics with the lock")
    }

    pub fn read<T>(&self, what: impl FnOnce(&Faults) -> T) -> T {
        what(&self.lock())
    }

    pub fn change(&self, what: impl FnOnce(&mut Faults)) {
        what(&mut self.lock());
        self.changed.notify_all();
    }

    pub fn closed(&self) -> bool {
        self.read(|faults| faults.closed)
    }

    pub fn count(&self, direction: Direction) -> u64 {
        self.read(|faults| faults.passed[direction as usize])
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until some of `arrived` bytes (more than none) may go, counts them, and says how many.
    pub fn gate(&self, direction: Direction, arrived: usize) -> Gate {
        let d = direction as usize;
        let mut faults = self.lock();
        loop {
            if faults.closed {
                return Gate::Closed;
            }
            let passed = faults.passed[d];
            if faults.freeze[d].is_some_and(|at| passed >= at) {
                faults.freeze[d] = None;
                faults.frozen = true;
                self.changed.notify_all();
            }
            if faults.frozen {
                faults = self.changed.wait(faults).expect("no thread panics with the lock");
                continue;
            }
            let now = Instant::now();
            if let (Some(_), Some(next)) = (faults.rate, faults.next[d].filter(|next| *next > now)) {
                let wait = self.changed.wait_timeout(faults, next - now);
                faults = wait.expect("no thread panics with the lock").0;
                continue;
            }
            let mut allowed = arrived as u64;
            if let Some(at) = faults.freeze[d] {
                allowed = allowed.min(at - passed);
            }
            if let Some(rate) = faults.rate {
                // A fiftieth of a second at a time, so that it is even; a wait that overslept is made good.
                allowed = allowed.min((rate / 50).max(1));
                let late = faults.next[d].filter(|next| now - *next < Duration::from_millis(100));
                let took = Duration::from_secs_f64(allowed as f64 / rate.max(1) as f64);
                faults.next[d] = Some(late.unwrap_or(now) + took);
            }
            let cut = faults.cut[d].map(|at| at.saturating_sub(passed)).filter(|left| *left <= allowed);
            if let Some(left) = cut {
                faults.cut[d] = None;
                faults.passed[d] += left;
                return Gate::Cut(left as usize);
            }
            faults.passed[d] += allowed;
            return Gate::Pass(allowed as usize);
        }
    }

    /// Waits while frozen: what must not happen on a dead line (an end, a new connection) waits, too. `false` when closed.
    pub fn thawed(&self) -> bool {
        let mut faults = self.lock();
        while faults.frozen && !faults.closed {
            faults = self.changed.wait(faults).expect("no thread panics with the lock");
        }
        !faults.closed
    }

    /// Remembers a connection for [`Self::cut`], and gives its number.
    pub fn opened(&self, client: &TcpStream, server: &TcpStream) -> std::io::Result<u64> {
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        let pair = (number, client.try_clone()?, server.try_clone()?);
        self.open.lock().expect("no thread panics with the lock").push(pair);
        Ok(number)
    }

    pub fn forget(&self, number: u64) {
        self.open.lock().expect("no thread panics with the lock").retain(|(n, _, _)| *n != number);
    }

    pub fn cut(&self) {
        for (_, client, server) in self.open.lock().expect("no thread panics with the lock").iter() {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    pub fn close(&self) {
        self.change(|faults| faults.closed = true);
        self.cut();
    }
}
