//! The FUSE calls of [`super::Mirror`]: each maps to one call on the backing folder.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::{Mode, Shared};

const TTL: Duration = Duration::ZERO;
/// Linux's O_DIRECT, which must not reach the backing file: our buffers are not aligned.
const O_DIRECT: i32 = 0o40000;

pub struct MirrorFs {
    shared: Arc<Shared>,
    paths: Mutex<HashMap<u64, PathBuf>>,
    handles: Mutex<(u64, HashMap<u64, Arc<File>>)>,
}

impl MirrorFs {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, paths: Mutex::default(), handles: Mutex::default() }
    }

    /// Waits while hung, fails when failing.
    fn gate(&self) -> Result<(), Errno> {
        let mut mode = self.shared.mode.lock().expect("no panic while held");
        loop {
            match *mode {
                Mode::Hang => mode = self.shared.changed.wait(mode).expect("no panic while held"),
                Mode::Fail(errno) => return Err(Errno::from_i32(errno)),
                Mode::Pass | Mode::Empty | Mode::Poor => return Ok(()),
            }
        }
    }

    fn empty(&self) -> bool {
        *self.shared.mode.lock().expect("no panic while held") == Mode::Empty
    }

    fn poor(&self) -> bool {
        *self.shared.mode.lock().expect("no panic while held") == Mode::Poor
    }

    fn path(&self, ino: INodeNo) -> Result<PathBuf, Errno> {
        if ino.0 == 1 {
            return Ok(self.shared.root.clone());
        }
        self.paths.lock().expect("no panic while held").get(&ino.0).cloned().ok_or(Errno::ESTALE)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, Errno> {
        self.gate()?;
        if self.empty() {
            return Err(Errno::ENOENT);
        }
        Ok(self.path(parent)?.join(name))
    }

    fn attr(&self, path: &Path) -> Result<FileAttr, Errno> {
        let m = fs::symlink_metadata(path)?;
        let anew = self.shared.anew.load(Ordering::SeqCst);
        let ino = if path == self.shared.root { 1 } else { m.ino() ^ (anew << 40) };
        if ino != 1 {
            self.paths.lock().expect("no panic while held").insert(ino, path.to_owned());
        }
        let time = |secs: i64, nanos: i64| UNIX_EPOCH + Duration::new(secs.max(0) as u64, nanos as u32);
        Ok(FileAttr {
            ino: INodeNo(ino),
            size: m.size(),
            blocks: m.blocks(),
            atime: time(m.atime(), m.atime_nsec()),
            mtime: time(m.mtime(), m.mtime_nsec()),
            ctime: time(m.ctime() + anew as i64, m.ctime_nsec()),
            crtime: UNIX_EPOCH,
            kind: FileType::from_std(m.file_type()).unwrap_or(FileType::RegularFile),
            perm: (m.mode() & 0o7777) as u16,
            nlink: m.nlink() as u32,
            uid: m.uid(),
            gid: m.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn keep(&self, file: File) -> u64 {
        let mut handles = self.handles.lock().expect("no panic while held");
        handles.0 += 1;
        let fh = handles.0;
        handles.1.insert(fh, Arc::new(file));
        fh
    }

    fn file(&self, fh: FileHandle) -> Result<Arc<File>, Errno> {
        self.handles.lock().expect("no panic while held").1.get(&fh.0).cloned().ok_or(Errno::EBADF)
    }

    fn changed(&self, operation: &str, path: &Path) {
        if let Some(watch) = &*self.shared.watch.lock().expect("no panic while held") {
            watch(operation, path.strip_prefix(&self.shared.root).unwrap_or(path));
        }
    }

    fn open_options(flags: i32) -> OpenOptions {
        let access = flags & 0o3;
        let mut options = OpenOptions::new();
        options.read(access != 1).write(access != 0).custom_flags(flags & !(0o3 | O_DIRECT | 0o300));
        options
    }

    fn write_at(&self, path: &Path, fh: FileHandle, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        self.gate()?;
        if let Some((limit, errno)) = *self.shared.write_limit.lock().expect("no panic while held")
            && self.shared.written.load(Ordering::SeqCst) >= limit
        {
            return Err(Errno::from_i32(errno));
        }
        let file = self.file(fh)?;
        let mut data = data.to_vec();
        if let Some((end, at)) = &*self.shared.flip.lock().expect("no panic while held")
            && path.as_os_str().as_bytes().ends_with(end.as_bytes())
            && (offset..offset + data.len() as u64).contains(at)
        {
            data[(at - offset) as usize] ^= 0x01;
            self.shared.flipped.fetch_add(1, Ordering::SeqCst);
        }
        file.write_all_at(&data, offset)?;
        self.shared.written.fetch_add(data.len() as u64, Ordering::SeqCst);
        self.changed("write", path);
        Ok(data.len() as u32)
    }
}

/// Sends `value` by `send`, or the error by the reply's own `error`.
macro_rules! answer {
    ($reply:ident, $value:expr, $ok:expr) => {
        match (|| -> Result<_, Errno> { $value })() {
            #[allow(clippy::redundant_closure_call)]
            Ok(value) => ($ok)($reply, value),
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Filesystem for MirrorFs {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self.attr(&self.child(parent, name)?), |r: ReplyEntry, a: FileAttr| r.entry(
            &TTL,
            &a,
            Generation(0)
        ))
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(
            reply,
            {
                self.gate()?;
                self.attr(&self.path(ino)?)
            },
            |r: ReplyAttr, a: FileAttr| r.attr(&TTL, &a)
        )
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer!(
            reply,
            {
                self.gate()?;
                let path = self.path(ino)?;
                if self.poor() && (atime.is_some() || mtime.is_some()) {
                    return Err(Errno::EPERM);
                }
                if let Some(mode) = mode {
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
                }
                if uid.is_some() || gid.is_some() {
                    std::os::unix::fs::lchown(&path, uid, gid)?;
                }
                if let Some(size) = size {
                    OpenOptions::new().write(true).open(&path)?.set_len(size)?;
                }
                let when = |t: TimeOrNow| match t {
                    TimeOrNow::SpecificTime(t) => t,
                    TimeOrNow::Now => SystemTime::now(),
                };
                let mut times = fs::FileTimes::new();
                if let Some(t) = atime {
                    times = times.set_accessed(when(t));
                }
                if let Some(t) = mtime {
                    times = times.set_modified(when(t));
                }
                if atime.is_some() || mtime.is_some() {
                    File::open(&path)?.set_times(times)?;
                }
                self.changed("setattr", &path);
                self.attr(&path)
            },
            |r: ReplyAttr, a: FileAttr| r.attr(&TTL, &a)
        )
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(reply, Ok(fs::read_link(self.path(ino)?)?), |r: ReplyData, p: PathBuf| r
            .data(p.as_os_str().as_bytes()))
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        answer!(
            reply,
            {
                let path = self.child(parent, name)?;
                fs::create_dir(&path)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
                self.changed("mkdir", &path);
                self.attr(&path)
            },
            |r: ReplyEntry, a: FileAttr| r.entry(&TTL, &a, Generation(0))
        )
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(
            reply,
            {
                let path = self.child(parent, name)?;
                fs::remove_file(&path)?;
                self.changed("unlink", &path);
                Ok(())
            },
            |r: ReplyEmpty, ()| r.ok()
        )
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(
            reply,
            {
                let path = self.child(parent, name)?;
                fs::remove_dir(&path)?;
                self.changed("rmdir", &path);
                Ok(())
            },
            |r: ReplyEmpty, ()| r.ok()
        )
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer!(
            reply,
            {
                let (from, to) = (self.child(parent, name)?, self.child(newparent, newname)?);
                let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
                rustix::fs::renameat_with(rustix::fs::CWD, &from, rustix::fs::CWD, &to, flags)
                    .map_err(|e| Errno::from_i32(e.raw_os_error()))?;
                self.attr(&to)?;
                self.changed("rename", &to);
                Ok(())
            },
            |r: ReplyEmpty, ()| r.ok()
        )
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer!(
            reply,
            {
                self.gate()?;
                let path = self.path(ino)?;
                if let Some((end, errno)) = &*self.shared.refuse.lock().expect("no panic while held")
                    && path.as_os_str().as_bytes().ends_with(end.as_bytes())
                {
                    return Err(Errno::from_i32(*errno));
                }
                Ok(self.keep(Self::open_options(flags.0).open(path)?))
            },
            |r: ReplyOpen, fh| r.opened(FileHandle(fh), FopenFlags::FOPEN_KEEP_CACHE)
        )
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        answer!(
            reply,
            {
                let path = self.child(parent, name)?;
                let file = Self::open_options(flags).create(true).mode(mode).open(&path)?;
                self.changed("create", &path);
                Ok((self.attr(&path)?, self.keep(file)))
            },
            |r: ReplyCreate, (a, fh)| r.created(
                &TTL,
                &a,
                Generation(0),
                FileHandle(fh),
                FopenFlags::FOPEN_KEEP_CACHE
            )
        )
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        answer!(
            reply,
            {
                self.gate()?;
                let file = self.file(fh)?;
                let mut data = vec![0; size as usize];
                let mut filled = 0;
                while filled < data.len() {
                    match file.read_at(&mut data[filled..], offset + filled as u64) {
                        Ok(0) => break,
                        Ok(n) => filled += n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                data.truncate(filled);
                self.shared.read.fetch_add(filled as u64, Ordering::SeqCst);
                Ok(data)
            },
            |r: ReplyData, data: Vec<u8>| r.data(&data)
        )
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        answer!(reply, self.write_at(&self.path(ino)?, fh, offset, data), |r: ReplyWrite, n| r.written(n))
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.handles.lock().expect("no panic while held").1.remove(&fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(
            reply,
            {
                self.gate()?;
                self.file(fh)?.sync_data()?;
                Ok(())
            },
            |r: ReplyEmpty, ()| r.ok()
        )
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.poor() { reply.error(Errno::EINVAL) } else { reply.ok() }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = (|| -> Result<Vec<(u64, FileType, std::ffi::OsString)>, Errno> {
            self.gate()?;
            let mut all = vec![(1, FileType::Directory, ".".into()), (1, FileType::Directory, "..".into())];
            if self.empty() {
                return Ok(all);
            }
            let mut names = fs::read_dir(self.path(ino)?)?.collect::<io::Result<Vec<_>>>()?;
            names.sort_by_key(|e| e.file_name());
            for entry in names {
                let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
                all.push((entry.metadata()?.ino(), kind, entry.file_name()));
            }
            Ok(all)
        })();
        match entries {
            Err(errno) => reply.error(errno),
            Ok(entries) => {
                for (i, (ino, kind, name)) in entries.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(ino), i as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        answer!(
            reply,
            {
                self.gate()?;
                rustix::fs::statvfs(&self.shared.root).map_err(|e| Errno::from_i32(e.raw_os_error()))
            },
            |r: ReplyStatfs, s: rustix::fs::StatVfs| match self.poor() {
                true => r.statfs(0, 0, 0, 0, 0, 0, 0, 0),
                false => r.statfs(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, 4096, 255, 4096),
            }
        )
    }
}
