//! Ends what blocks: while work waits on sockets, somebody else looks whether the call goes on.
//!
//! The library's calls block. A watcher asks the call ten times a second and shuts the sockets down when it is over, which
//! ends every read and write on them at once.

use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::Call;

const LOOK: Duration = Duration::from_millis(100);
/// How often a wait tells the host that it is one.
const ALIVE: Duration = Duration::from_secs(20);

/// The sockets of one session: control, and data while there is a transfer.
#[derive(Clone, Debug, Default)]
pub struct Sockets(Arc<Mutex<[Option<TcpStream>; 2]>>);

impl Sockets {
    fn set(&self, at: usize, socket: Option<TcpStream>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[at] = socket;
    }

    pub fn control(&self, socket: Option<TcpStream>) {
        self.set(0, socket);
    }

    /// `None` when the transfer ends: a second handle would keep the connection open.
    pub fn data(&self, socket: Option<TcpStream>) {
        self.set(1, socket);
    }

    pub fn shut(&self) {
        for socket in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Does `work`, and shuts `sockets` down when the call is cancelled or out of time meanwhile. `waits`: what the host is told
/// while the server is waited for; nothing where acknowledged bytes tell enough.
pub fn watched<T>(call: &Call, sockets: &Sockets, waits: Option<&str>, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (done, ended) = channel::<()>();
        scope.spawn(move || {
            let mut told = Instant::now();
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
                if call.proceed().is_err() {
                    sockets.shut();
                    return;
                }
                if let Some(note) = waits.filter(|_| told.elapsed() > ALIVE) {
                    call.alive(note);
                    told = Instant::now();
                }
            }
        });
        let result = work();
        drop(done);
        result
    })
}
