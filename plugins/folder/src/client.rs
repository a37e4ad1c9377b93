//! The open target: its root descriptor, and every path resolved beneath it.
//!
//! Nothing leaves the root and no symbolic link below it is followed: the kernel's `RESOLVE_BENEATH` does that, and
//! where it is missing each component is opened without following. A root that was opened once stays the same
//! directory: a share that was unmounted meanwhile gives an error, never another folder. Only where its handle went stale
//! (the server or the mount was started anew) is it opened again, and only as the folder that it was.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use offsite_plugin_api::{
    Attributes, Backend, Call, Capabilities, CheckReport, Entry, EntryKind, Error, ErrorKind, Expect, Opened,
    Page, Plugin, PublishRequest, Range, Result, Session, Sink, Source, Space, StageRequest, Staged,
    StagedInfo, TargetPath, Timestamp, Token,
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::config::Config;
use super::error::{failed, shown};
use super::traits::Traits;

pub struct FolderPlugin;

impl Plugin for FolderPlugin {
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
        Ok(Box::new(Folder::open_at(target.url, target.options)?))
    }
}

pub struct Folder {
    pub(super) config: Config,
    root: Mutex<Option<Arc<Root>>>,
    /// What the root was when it was opened first.
    first: OnceLock<Seen>,
    /// It was told that times cannot be set.
    pub(super) no_times: AtomicBool,
}

/// A root as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    magic: i64,
    on_root: bool,
}

impl Seen {
    /// Whether `now` may be taken for this folder opened anew. A share mounted again has another device number, but its
    /// root keeps its inode; a mount point without its mount does not have it, or lies on the root file system.
    fn is_again(&self, now: &Self) -> bool {
        let mounted_anew = !now.on_root && self.magic == now.magic;
        self.inode == now.inode && (self.device == now.device || mounted_anew)
    }
}

pub(super) struct Root {
    pub fd: OwnedFd,
    pub traits: Traits,
    device: u64,
    inode: u64,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Folder {
    /// Errors: `InvalidConfig` for a URL or options that name no folder.
    pub fn open_at(url: &str, options: &serde_json::Value) -> Result<Self> {
        Ok(Self {
            config: Config::new(url, options)?,
            root: Mutex::new(None),
            first: OnceLock::new(),
            no_times: AtomicBool::new(false),
        })
    }

    /// The root directory. `create`: the caller is about to write, so a missing last component is made.
    pub(super) fn root(&self, create: bool) -> Result<Arc<Root>> {
        let mut held = self.root.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(root) = &*held
            && !root.is_stale()
        {
            return Ok(root.clone());
        }
        // A folder that was there is never made again.
        let root = Arc::new(self.open_root(create && self.first.get().is_none())?);
        let seen = root.seen()?;
        if !self.first.get_or_init(|| seen).is_again(&seen) {
            return Err(Error::new(
                ErrorKind::Offline,
                format!("another folder is at '{}' now", self.config.root.display()),
            )
            .with_context("hint", "the share or disk went away; check that it is mounted"));
        }
        *held = Some(root.clone());
        Ok(root)
    }

    fn open_root(&self, create: bool) -> Result<Root> {
        let path = self.config.root.as_path();
        let here = TargetPath::root();
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) if create && self.config.create => {
                self.may_be_made()?;
                match rustix::fs::mkdir(path, Mode::from_raw_mode(0o777)) {
                    Ok(()) => {
                        if let Some(parent) = path.parent()
                            && let Ok(parent) = rustix::fs::open(parent, flags, Mode::empty())
                        {
                            let _ = rustix::fs::fsync(&parent);
                        }
                    }
                    Err(Errno::EXIST) => {}
                    Err(Errno::NOENT) => {
                        return Err(Error::new(
                            ErrorKind::NotFound,
                            format!("neither the folder '{}' nor its parent exists", path.display()),
                        )
                        .with_context(
                            "hint",
                            "check that the share or disk is mounted, or make the folder",
                        ));
                    }
                    Err(errno) => return Err(failed("make", &here, errno)),
                }
                rustix::fs::open(path, flags, Mode::empty())
            }
            other => other,
        };
        let fd = fd.map_err(|errno| match errno {
            Errno::NOENT => {
                Error::new(ErrorKind::NotFound, format!("the folder '{}' does not exist", path.display()))
                    .with_context("hint", "check that the share or disk is mounted, or make the folder")
            }
            Errno::NOTDIR => {
                Error::new(ErrorKind::InvalidConfig, format!("'{}' is not a directory", path.display()))
            }
            errno => failed("open", &here, errno).with_context("folder", path.display().to_string()),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed("look at", &here, e))?;
        let magic = rustix::fs::fstatfs(&fd).map_err(|e| failed("look at", &here, e))?.f_type;
        let root = Root { fd, traits: Traits::of(magic), device: stat.st_dev, inode: stat.st_ino };
        if self.config.mount_required && root.on_root_file_system()? {
            return Err(self.not_mounted());
        }
        Ok(root)
    }

    /// What is made in a directory of the root file system lies there, too.
    fn may_be_made(&self) -> Result<()> {
        let look =
            |path: &Path| rustix::fs::stat(path).map_err(|e| failed("look at", &TargetPath::root(), e));
        match self.config.root.parent() {
            Some(parent) if self.config.mount_required && parent.exists() => {
                if look(parent)?.st_dev == look(Path::new("/"))?.st_dev {
                    Err(self.not_mounted())
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }

    fn not_mounted(&self) -> Error {
        let path = self.config.root.display();
        let what = format!("'{path}' lies on the root file system: the share or disk is not mounted");
        Error::new(ErrorKind::Offline, what)
            .with_context("hint", "mount it, or drop the option mount_required")
    }
}

impl Root {
    /// Whether the handle names nothing any more.
    fn is_stale(&self) -> bool {
        matches!(rustix::fs::fstat(&self.fd), Err(Errno::STALE | Errno::NOTCONN | Errno::NODEV))
    }

    fn seen(&self) -> Result<Seen> {
        let magic =
            rustix::fs::fstatfs(&self.fd).map_err(|e| failed("look at", &TargetPath::root(), e))?.f_type;
        Ok(Seen { device: self.device, inode: self.inode, magic, on_root: self.on_root_file_system()? })
    }

    pub fn on_root_file_system(&self) -> Result<bool> {
        let slash = rustix::fs::stat("/").map_err(|e| failed("look at", &TargetPath::root(), e))?;
        Ok(slash.st_dev == self.device)
    }

    /// Opens `path` beneath the root; links are never followed.
    pub fn open(&self, path: &TargetPath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let name: &[u8] = if path.is_root() { b"." } else { path.as_bytes() };
        // NONBLOCK: a fifo under an image's name would hold the caller for ever.
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..16 {
            match rustix::fs::openat2(&self.fd, name, flags, mode, resolve) {
                // A rename elsewhere raced with the lookup: try again.
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS | Errno::PERM) => return self.walk(path, flags, mode),
                other => return other,
            }
        }
        self.walk(path, flags, mode)
    }

    /// The same without `openat2` (an old kernel, a sandbox): one component after the other.
    fn walk(&self, path: &TargetPath, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut at = rustix::fs::openat(&self.fd, c".", DIRECTORY, Mode::empty())?;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            if components.peek().is_none() {
                return rustix::fs::openat(&at, component, flags, mode);
            }
            at = rustix::fs::openat(&at, component, DIRECTORY, Mode::empty())?;
        }
        Ok(at)
    }

    pub fn dir(&self, path: &TargetPath) -> Result<OwnedFd, Errno> {
        self.open(path, DIRECTORY)
    }

    /// The directory that holds `path`, to call `*at` functions with the last component.
    pub fn parent(&self, path: &TargetPath) -> Result<OwnedFd, Errno> {
        self.dir(&path.parent().unwrap_or_default())
    }

    /// Makes `path` and its missing parents, each durable before anything is put into it.
    pub fn make_dirs(&self, path: &TargetPath) -> Result<OwnedFd> {
        match self.dir(path) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|e| failed("open", path, e)),
        }
        let mut at = rustix::fs::openat(&self.fd, c".", DIRECTORY, Mode::empty())
            .map_err(|e| failed("open", &TargetPath::root(), e))?;
        let mut so_far = TargetPath::root();
        for component in path.components() {
            so_far = so_far.join(component)?;
            match rustix::fs::mkdirat(&at, component, Mode::from_raw_mode(0o777)) {
                Ok(()) => super::change::sync(&at, &so_far)?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("make the directory", &so_far, errno)),
            }
            at = rustix::fs::openat(&at, component, DIRECTORY, Mode::empty())
                .map_err(|e| failed("open", &so_far, e))?;
        }
        Ok(at)
    }

    pub fn stat(&self, path: &TargetPath) -> Result<Stat, Errno> {
        if path.is_root() {
            return rustix::fs::fstat(&self.fd);
        }
        rustix::fs::statat(self.parent(path)?, path.name(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Whether what is at `path` is what `expect` says; nothing may be there for `Any`.
    pub fn expect(&self, path: &TargetPath, expect: &Expect) -> Result<()> {
        let there = match self.stat(path) {
            Ok(stat) => Some(version(&self.traits, &stat)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed("look at", path, errno)),
        };
        match (expect, there) {
            (Expect::Any, _) | (Expect::Absent, None) => Ok(()),
            (Expect::Absent, Some(_)) => Err(exists(path)),
            (Expect::Version(wanted), Some(found)) if *wanted == found => Ok(()),
            (Expect::Version(_), found) => Err(changed(path, found.is_none())),
        }
    }
}

pub(super) fn exists(path: &TargetPath) -> Error {
    Error::new(ErrorKind::Exists, format!("{} exists already", shown(path)))
}

pub(super) fn changed(path: &TargetPath, gone: bool) -> Error {
    let what = if gone { "is gone" } else { "was changed by somebody else" };
    Error::new(ErrorKind::PreconditionFailed, format!("{} {what}", shown(path)))
}

/// Changes with every rewrite: inode (where it lasts), size, modification time (as far as it is kept). Renaming and
/// permissions leave it.
pub(super) fn version(traits: &Traits, stat: &Stat) -> String {
    let inode = if traits.stable_inodes { stat.st_ino } else { 0 };
    let mtime = mtime_ns(stat).div_euclid(traits.mtime_precision_ns as i64);
    format!("{inode:x}-{:x}-{mtime:x}", stat.st_size)
}

pub(super) fn mtime_ns(stat: &Stat) -> i64 {
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64)
}

pub(super) fn entry(traits: &Traits, path: TargetPath, stat: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Dir,
        _ => EntryKind::Other,
    };
    let size = if kind == EntryKind::File { stat.st_size as u64 } else { 0 };
    Entry {
        kind,
        mtime: Some(Timestamp { ns: mtime_ns(stat), precision_ns: traits.mtime_precision_ns }),
        version: Some(version(traits, stat)),
        ..Entry::file(path, size)
    }
}

/// Sets the modification time, where that is allowed: on a share that another user mounted it is the owner's alone, and some
/// file systems have no times. Whether the time was set.
pub(super) fn try_mtime(fd: impl AsFd, mtime: Timestamp) -> Result<bool, Errno> {
    match set_mtime(fd, mtime) {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Sets the modification time, leaving the access time alone.
pub(super) fn set_mtime(fd: impl AsFd, mtime: Timestamp) -> Result<(), Errno> {
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec {
            tv_sec: mtime.ns.div_euclid(1_000_000_000),
            tv_nsec: mtime.ns.rem_euclid(1_000_000_000) as _,
        },
    };
    rustix::fs::futimens(fd, &times)
}

impl Backend for Folder {
    fn identity(&self) -> String {
        // The deepest part that exists, resolved; the rest as written.
        let root = &self.config.root;
        for ancestor in root.ancestors() {
            if let Ok(real) = std::fs::canonicalize(ancestor) {
                let rest = root.strip_prefix(ancestor).unwrap_or(std::path::Path::new(""));
                let whole = if rest.as_os_str().is_empty() { real } else { real.join(rest) };
                return format!("folder:{}", whole.display());
            }
        }
        format!("folder:{}", root.display())
    }

    fn capabilities(&self, _: &Call) -> Result<Capabilities> {
        // Before the folder is made, its parent's file system answers: it will hold the folder.
        let magic = self.file_system().map(|(magic, _)| magic).or_else(|| {
            let parent = self.config.root.parent()?;
            rustix::fs::statfs(parent).ok().map(|s| s.f_type)
        });
        Ok(Traits::of(magic.unwrap_or(0)).capabilities())
    }

    fn space(&self, _: &Call) -> Result<Space> {
        let root = match self.root(false) {
            Err(e) if *e.kind() == ErrorKind::NotFound => return Ok(Space::default()),
            other => other?,
        };
        let s = rustix::fs::fstatvfs(&root.fd)
            .map_err(|e| failed("ask the free space of", &TargetPath::root(), e))?;
        // A file system that tells no sizes (FUSE without statfs).
        if s.f_blocks == 0 {
            return Ok(Space::default());
        }
        let unit = s.f_frsize;
        Ok(Space {
            total: Some(s.f_blocks.saturating_mul(unit)),
            free: Some(s.f_bavail.saturating_mul(unit)),
        })
    }

    fn check(&self, call: &Call) -> Result<CheckReport> {
        super::check::check(self, call)
    }

    fn list(&self, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        super::list::list(self, call, dir, recursive, page)
    }

    fn stat(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        call.proceed()?;
        let root = self.root(false)?;
        let stat = root.stat(path).map_err(|e| failed("look at", path, e))?;
        Ok(entry(&root.traits, path.clone(), &stat))
    }

    fn stage(
        &self,
        call: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        super::stage::stage(self, call, request, &*source, &*session)
    }

    fn stat_staged(&self, call: &Call, token: &Token) -> Result<StagedInfo> {
        call.proceed()?;
        super::write::stat_staged(self, token)
    }

    fn read_staged(&self, call: &Call, token: &Token, range: Range, sink: Arc<dyn Sink>) -> Result<()> {
        super::read::staged(self, call, token, range, &*sink)
    }

    fn list_staged(&self, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        super::list::staged(self, call, dir)
    }

    fn discard(&self, call: &Call, token: &Token) -> Result<()> {
        call.proceed()?;
        super::write::discard(self, token)
    }

    fn publish(&self, call: &Call, request: &PublishRequest) -> Result<Entry> {
        call.proceed()?;
        super::write::publish(self, request)
    }

    fn get(
        &self,
        call: &Call,
        path: &TargetPath,
        range: Option<Range>,
        if_version: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        super::read::get(self, call, path, range, if_version, &*sink)
    }

    fn delete(&self, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        call.proceed()?;
        super::change::delete(self, path, expect)
    }

    fn delete_batch(&self, call: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
        super::change::delete_batch(self, call, items)
    }

    fn copy(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        super::change::copy(self, call, from, to, expect)
    }

    fn rename(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        call.proceed()?;
        super::change::rename(self, from, to, expect)
    }

    fn make_dir(&self, call: &Call, path: &TargetPath) -> Result<()> {
        call.proceed()?;
        self.root(true)?.make_dirs(path).map(drop)
    }

    fn set_attributes(&self, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        call.proceed()?;
        super::change::set_attributes(self, path, attributes)
    }

    fn invoke(
        &self,
        call: &Call,
        operation: &str,
        _json: &str,
        _source: Option<Arc<dyn Source>>,
        _sink: Option<Arc<dyn Sink>>,
    ) -> Result<String> {
        call.proceed()?;
        match operation {
            "place" => self.place(),
            other => Err(Error::unsupported(&format!("the operation '{other}'"))),
        }
    }

    fn close(&self, _deadline: Duration) {
        *self.root.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}

impl Folder {
    pub(super) fn file_system(&self) -> Option<(i64, Option<&'static str>)> {
        let root = self.root(false).ok()?;
        let magic = rustix::fs::fstatfs(&root.fd).ok()?.f_type;
        Some((magic, root.traits.name))
    }

    /// Where the folder really is, for the host's checks against other places: `{"device","inode","fs_type",
    /// "root_file_system"}`.
    fn place(&self) -> Result<String> {
        let root = self.root(false)?;
        let (magic, name) = self.file_system().unwrap_or((0, None));
        let fs_type = name.map_or_else(|| format!("{magic:#x}"), str::to_owned);
        Ok(serde_json::json!({
            "device": root.device,
            "inode": root.inode,
            "fs_type": fs_type,
            "root_file_system": root.on_root_file_system()?,
        })
        .to_string())
    }
}
