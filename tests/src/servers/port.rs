//! Ports that stay ours: below the range the system hands to outgoing connections, each held by a file lock for as
//! long as its server lives, so that a restart finds it free and tests in parallel never meet.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::fs::{FlockOperation, flock};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port nobody else gets while this lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes the next free one.
    pub fn take() -> Self {
        Self::take_some(1).remove(0)
    }

    /// Takes `count` free ones with consecutive numbers.
    pub fn take_some(count: u16) -> Vec<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = super::cache().join("ports");
        std::fs::create_dir_all(&folder).expect("the cache folder is writable");
        // Processes start at different places, so that they rarely try the same one.
        let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT / count {
            let first = (start + NEXT.fetch_add(count, Ordering::Relaxed) % COUNT) % COUNT;
            if first + count > COUNT {
                continue;
            }
            let one = |number: u16| {
                let lock =
                    File::create(folder.join(number.to_string())).expect("the cache folder is writable");
                let ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                    && TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok();
                ours.then_some(Self { number, _lock: lock })
            };
            if let Some(found) = (first..first + count).map(|n| one(FIRST + n)).collect() {
                return found;
            }
        }
        panic!("no {count} free ports in a row between {FIRST} and {}", FIRST + COUNT);
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
