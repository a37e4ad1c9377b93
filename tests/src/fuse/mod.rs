//! A file system for tests: a mirror of a real folder that counts, watches, and fails on demand.
//!
//! Mounted by FUSE in this process. As a target it counts the bytes that really arrive and lets a test look at the
//! folder after every single change; as a source it plays the share that hangs, goes stale, vanishes or comes back
//! empty. Bytes can be flipped beneath the page cache.

mod filesystem;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fuser::{BackgroundSession, Config, MountOption, SessionACL};

/// How the file system answers from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Every call fails with this errno (`ESTALE`, `EIO`, `ENOTCONN`).
    Fail(i32),
    /// No call is answered until the mode changes: callers wait uninterruptibly.
    Hang,
    /// The root is an empty directory, as when a share is not mounted.
    Empty,
    /// What some shares and gateways lack: times that are set are refused, sizes are not told, directories are not synced.
    Poor,
}

/// Called after each change (`write`, `create`, `rename`, `unlink`, …) with the changed path relative to the root.
pub type Watch = Box<dyn Fn(&str, &Path) + Send + Sync>;

pub(crate) struct Shared {
    pub root: PathBuf,
    pub mode: Mutex<Mode>,
    pub changed: std::sync::Condvar,
    pub written: AtomicU64,
    pub read: AtomicU64,
    /// Flip the byte at this offset of files whose name ends so, when it is written.
    pub flip: Mutex<Option<(String, u64)>>,
    pub flipped: AtomicU64,
    pub watch: Mutex<Option<Watch>>,
    /// Fail with this errno any write that begins at or beyond so many written bytes.
    pub write_limit: Mutex<Option<(u64, i32)>>,
    /// Opening files whose name ends so fails with this errno.
    pub refuse: Mutex<Option<(String, i32)>>,
    /// Not 0: inodes and change times are other ones than the real folder's, by this.
    pub anew: AtomicU64,
}

pub struct Mirror {
    shared: Arc<Shared>,
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mirror {
    /// Mounts a mirror of `backing` on `mountpoint` (both exist).
    pub fn mount(backing: &Path, mountpoint: &Path) -> Self {
        let shared = Arc::new(Shared {
            root: backing.to_owned(),
            mode: Mutex::new(Mode::Pass),
            changed: std::sync::Condvar::new(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            flip: Mutex::new(None),
            flipped: AtomicU64::new(0),
            watch: Mutex::new(None),
            write_limit: Mutex::new(None),
            refuse: Mutex::new(None),
            anew: AtomicU64::new(0),
        });
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("offsite-mirror".into()), MountOption::DefaultPermissions];
        config.acl = SessionACL::All;
        config.n_threads = Some(4);
        let filesystem = filesystem::MirrorFs::new(shared.clone());
        let session = fuser::spawn_mount(filesystem, mountpoint, &config).unwrap_or_else(|error| {
            panic!(
                "cannot mount a FUSE file system: {error}; install fuse3 (apt-get install fuse3), run as root or with \
                 user_allow_other in /etc/fuse.conf, and make sure /dev/fuse exists"
            )
        });
        Self { shared, mountpoint: mountpoint.to_owned(), session: Some(session) }
    }

    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().expect("no panic while held") = mode;
        self.shared.changed.notify_all();
    }

    /// Bytes written through the mount so far.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::SeqCst)
    }

    /// Bytes read through the mount so far (not those served from the page cache).
    pub fn bytes_read(&self) -> u64 {
        self.shared.read.load(Ordering::SeqCst)
    }

    pub fn flip(&self, name_end: &str, offset: u64) {
        *self.shared.flip.lock().expect("no panic while held") = Some((name_end.to_owned(), offset));
    }

    pub fn stop_flipping(&self) {
        *self.shared.flip.lock().expect("no panic while held") = None;
    }

    /// How many bytes were flipped.
    pub fn flipped(&self) -> u64 {
        self.shared.flipped.load(Ordering::SeqCst)
    }

    pub fn watch(&self, watch: impl Fn(&str, &Path) + Send + Sync + 'static) {
        *self.shared.watch.lock().expect("no panic while held") = Some(Box::new(watch));
    }

    /// Opening files whose name ends so fails from now on.
    pub fn refuse_open(&self, name_end: &str, errno: i32) {
        *self.shared.refuse.lock().expect("no panic while held") = Some((name_end.to_owned(), errno));
    }

    /// As some file systems do at every mount: numbers inodes otherwise, and gives other change times. Before anything is
    /// looked up.
    pub fn number_anew(&self, mount: u64) {
        self.shared.anew.store(mount, Ordering::SeqCst);
    }

    /// From so many bytes written in all, writes fail with `errno`.
    pub fn limit_writes(&self, limit: Option<(u64, i32)>) {
        *self.shared.write_limit.lock().expect("no panic while held") = limit;
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.set(Mode::Pass);
        if let Some(session) = self.session.take() {
            // Lazy, because a killed worker may still be on its way out of a call.
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.mountpoint).status();
            drop(session);
        }
    }
}
