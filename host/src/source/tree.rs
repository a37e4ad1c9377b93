//! Where a scan looks. Everything above (memory, settling, absence, recognition) is the same for the machine's file
//! system and for the simulated one of the model test.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use offsite_plugin_api::TargetPath;
use rustix::fs::{AtFlags, fstat, stat, statat};

use super::beneath::open_regular;
use super::ignore::Ignore;
use super::walk::{Walk, walk};
use super::{Place, lock, open_root, trouble};
use crate::error::Result;

/// A source folder that can be opened; each look of a scan opens it anew.
pub(crate) trait Folder {
    /// Errors: [`crate::error::Kind::Source`].
    fn open(&self) -> Result<Box<dyn Tree>>;
}

/// The opened root of a source.
pub(crate) trait Tree {
    fn place(&self) -> Place;
    /// Errors: only what makes the root itself unreadable.
    fn walk(&self) -> Result<Walk>;
    /// The root answers, and its path still leads to the directory that was walked.
    fn still_there(&self) -> Result<()>;
    /// A regular file, never through a link. Errors: the system's; `InvalidInput` for what is no regular file any more.
    fn open(&self, path: &TargetPath) -> std::io::Result<Box<dyn Peek>>;
}

/// An opened file, as far as a scan looks into it.
pub(crate) trait Peek {
    /// The file's first bytes; fewer than asked for only at its end.
    fn head(&self, size: u64, count: usize) -> std::io::Result<Vec<u8>>;
    fn qemu_writes(&self) -> bool;
    /// BLAKE3 of the whole content; `None` when it cannot be read. Errors: those of `proceed`, asked every megabyte.
    fn digest(&self, proceed: &mut dyn FnMut() -> Result<()>) -> Result<Option<[u8; 32]>>;
}

/// A folder of this machine.
pub(super) struct OnDisk<'a> {
    root: &'a Path,
    ignore: Ignore,
}

impl<'a> OnDisk<'a> {
    /// `globs`: the job's `ignore`. Errors: [`crate::error::Kind::Config`].
    pub fn new(root: &'a Path, globs: &[String]) -> Result<Self> {
        Ok(Self { root, ignore: Ignore::new(globs)? })
    }
}

struct Opened {
    root: std::path::PathBuf,
    descriptor: OwnedFd,
    place: Place,
    ignore: Ignore,
}

impl Folder for OnDisk<'_> {
    fn open(&self) -> Result<Box<dyn Tree>> {
        let descriptor = open_root(self.root)?;
        let stat = fstat(&descriptor).map_err(|e| trouble::root(self.root, e))?;
        let place = Place { device: stat.st_dev, inode: stat.st_ino };
        Ok(Box::new(Opened { root: self.root.to_owned(), descriptor, place, ignore: self.ignore.clone() }))
    }
}

impl Tree for Opened {
    fn place(&self) -> Place {
        self.place
    }

    fn walk(&self) -> Result<Walk> {
        walk(self.descriptor.as_fd(), &self.ignore).map_err(|e| trouble::root(&self.root, e))
    }

    fn still_there(&self) -> Result<()> {
        statat(&self.descriptor, ".", AtFlags::empty()).map_err(|e| trouble::root(&self.root, e))?;
        let now = stat(&self.root).map_err(|e| trouble::root(&self.root, e))?;
        if (now.st_dev, now.st_ino) != (self.place.device, self.place.inode) {
            return Err(trouble::replaced(&self.root));
        }
        Ok(())
    }

    fn open(&self, path: &TargetPath) -> std::io::Result<Box<dyn Peek>> {
        Ok(Box::new(open_regular(&self.descriptor, path)?))
    }
}

impl Peek for File {
    fn head(&self, size: u64, count: usize) -> std::io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let mut head = vec![0; count.min(usize::try_from(size).unwrap_or(count))];
        let mut filled = 0;
        while filled < head.len() {
            match self.read_at(&mut head[filled..], filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        head.truncate(filled);
        Ok(head)
    }

    fn qemu_writes(&self) -> bool {
        lock::qemu_writes(self)
    }

    fn digest(&self, proceed: &mut dyn FnMut() -> Result<()>) -> Result<Option<[u8; 32]>> {
        let (mut hasher, mut buffer, mut file) = (blake3::Hasher::new(), vec![0; 1 << 20], self);
        loop {
            match std::io::Read::read(&mut file, &mut buffer) {
                Ok(0) => return Ok(Some(hasher.finalize().into())),
                Ok(n) => drop(hasher.update(&buffer[..n])),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(None),
            }
            proceed()?;
        }
    }
}
