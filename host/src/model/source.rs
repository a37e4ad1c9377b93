//! The simulated source: file systems mounted in one tree, with everything that real ones do to a scan.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use offsite_plugin_api::{Error as BackendError, ErrorKind, TargetPath};
use rustix::fs::Advice;

use super::content::{Id, Library};
use super::world::World;
use crate::error::{Error, Kind, Result};
use crate::run::source_file::{FileAttributes, Folder as RunFolder, Opened};
use crate::source::{Facts, Folder, LeftAlone, LeftBy, Mounted, Peek, Place, Tree, Walk};

pub const SECOND: i64 = 1_000_000_000;

#[derive(Clone, Debug)]
pub struct File {
    pub content: Id,
    pub mtime: i64,
    pub ctime: i64,
    pub inode: u64,
    /// It cannot be opened (a sharing violation, a bad block).
    pub locked: bool,
    /// A writer is at it: it looks different at every look.
    pub growing: bool,
}

#[derive(Debug)]
pub struct System {
    /// Where it belongs.
    pub home: TargetPath,
    /// By path relative to its own root.
    pub files: BTreeMap<TargetPath, File>,
    pub device: u64,
    /// Numbers its files anew, with new change times, whenever it is mounted (CIFS, NFS, FUSE).
    pub renumbers: bool,
    /// Keeps modification times in steps of two seconds.
    pub coarse: bool,
    /// The last scan that saw it mounted, and was remembered, found files in it.
    pub held: bool,
}

#[derive(Debug, Default)]
pub struct Source {
    /// The first is the root's.
    pub systems: Vec<System>,
    /// Mount point -> what is mounted there now.
    pub mounts: BTreeMap<TargetPath, Option<usize>>,
    pub unreadable: BTreeSet<TargetPath>,
    /// Folders that were moved away and replaced by a link.
    pub linked: BTreeSet<TargetPath>,
    /// The root itself is not mounted.
    pub root_gone: bool,
    pub serial: u64,
}

impl System {
    /// As the kernel tells it: by what lasts, and by what is new at every mount.
    fn mounted(&self, path: TargetPath) -> Mounted {
        let name = self.home.display();
        let identity = match self.renumbers {
            true => format!("type=cifs;root=/;source=//nas/share-{name}"),
            false => format!("type=ext4;uuid=0000-{name};root=/;source=/dev/sd-{name}"),
        };
        Mounted { path, identity: identity.into(), occasion: self.device.to_string() }
    }
}

impl Source {
    pub fn number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub fn add_system(&mut self, home: TargetPath, renumbers: bool, coarse: bool) -> usize {
        let device = self.number() + 100;
        let files = BTreeMap::new();
        self.systems.push(System { home: home.clone(), files, device, renumbers, coarse, held: false });
        let at = self.systems.len() - 1;
        if !home.is_root() {
            self.mounts.insert(home, Some(at));
        }
        at
    }

    /// The file system that a path belongs to, and its path there.
    pub fn home(&self, path: &TargetPath) -> (usize, TargetPath) {
        let inner = self.systems.iter().enumerate().filter(|(_, s)| !s.home.is_root());
        for (at, system) in inner {
            if let Some(rest) = below(path, &system.home) {
                return (at, rest);
            }
        }
        (0, path.clone())
    }

    pub fn is_mounted(&self, system: usize) -> bool {
        match system {
            0 => !self.root_gone,
            _ => self.mounts.get(&self.systems[system].home) == Some(&Some(system)),
        }
    }

    /// The true file of that path, mounted or not.
    pub fn true_file(&self, path: &TargetPath) -> Option<&File> {
        let (system, path) = self.home(path);
        self.systems[system].files.get(&path)
    }

    pub fn true_file_mut(&mut self, path: &TargetPath) -> Option<&mut File> {
        let (system, path) = self.home(path);
        self.systems[system].files.get_mut(&path)
    }

    /// Every true file with its full path.
    pub fn true_files(&self) -> Vec<(TargetPath, &File)> {
        let mut all = Vec::new();
        for system in &self.systems {
            for (path, file) in &system.files {
                all.push((join(&system.home, path), file));
            }
        }
        all
    }

    pub fn put(&mut self, path: &TargetPath, content: Id, now: i64) {
        let inode = self.number();
        let (system, path) = self.home(path);
        let system = &mut self.systems[system];
        let mtime = if system.coarse { now - now % (2 * SECOND) } else { now };
        let file = File { content, mtime, ctime: now, inode, locked: false, growing: false };
        system.files.insert(path, file);
    }

    pub fn remove(&mut self, path: &TargetPath) -> Option<File> {
        let (system, path) = self.home(path);
        self.systems[system].files.remove(&path)
    }

    /// Mounts a file system somewhere, with a new device number, and new inodes where it gives such.
    pub fn mount(&mut self, point: &TargetPath, system: usize, device: u64, now: i64) {
        self.mounts.insert(point.clone(), Some(system));
        let mut serial = self.serial;
        let system = &mut self.systems[system];
        system.device = device;
        if system.renumbers {
            for file in system.files.values_mut() {
                serial += 1;
                (file.inode, file.ctime) = (serial, now);
            }
        }
        self.serial = serial;
    }

    /// Whether who looks now can see what is in this folder.
    pub fn can_see(&self, folder: &TargetPath) -> bool {
        let hidden = self.unreadable.iter().chain(&self.linked).any(|d| folder.starts_with(d));
        let (system, _) = self.home(folder);
        // Without the root, nobody gets to what is mounted in it.
        !self.root_gone && self.is_mounted(system) && !hidden
    }

    /// What a scan saw is remembered.
    pub fn remembered(&mut self) {
        for at in 0..self.systems.len() {
            // What is in the top folder, whatever it is: the folder itself belongs to what lies above.
            let within = join(&self.systems[at].home, &TargetPath::new("x").expect("a good name"));
            if self.can_see(&within) {
                self.systems[at].held = !self.systems[at].files.is_empty();
            }
        }
    }

    /// A place of the source in which something was seen, and of which nobody can say now what is in it. A mount point that
    /// was empty may go: there is nothing that could be left out.
    pub fn in_doubt(&self) -> Option<TargetPath> {
        let hidden = self.unreadable.iter().chain(&self.linked).next().cloned();
        let gone = |at: usize| self.systems[at].held && !self.is_mounted(at);
        hidden
            .or_else(|| (0..self.systems.len()).find(|at| gone(*at)).map(|at| self.systems[at].home.clone()))
    }

    /// What the tree shows now: path -> file, with the device. What is hidden is left out, and why.
    pub fn shown(&self) -> Shown<'_> {
        let mut shown = Shown::default();
        if self.root_gone {
            return shown;
        }
        let mut trees: Vec<(TargetPath, usize)> = vec![(TargetPath::root(), 0)];
        for (point, system) in &self.mounts {
            trees.extend(system.map(|s| (point.clone(), s)));
        }
        for (point, at) in trees {
            let system = &self.systems[at];
            let hidden = |p: &TargetPath, list: &BTreeSet<TargetPath>| list.iter().any(|d| p.starts_with(d));
            if hidden(&point, &self.unreadable) || hidden(&point, &self.linked) {
                continue;
            }
            shown.mounts.push(system.mounted(point.clone()));
            for (path, file) in &system.files {
                let full = join(&point, path);
                let under = |d: &TargetPath| at == 0 && full.starts_with(d);
                if self.mounts.iter().any(|(d, s)| s.is_some() && under(d)) {
                    continue; // beneath a mount
                }
                if hidden(&full, &self.unreadable) || hidden(&full, &self.linked) {
                    continue;
                }
                shown.files.insert(full, (file, system.device));
            }
        }
        shown
    }
}

#[derive(Default)]
pub struct Shown<'a> {
    pub files: BTreeMap<TargetPath, (&'a File, u64)>,
    /// The root first, then by path.
    pub mounts: Vec<Mounted>,
}

pub fn join(dir: &TargetPath, path: &TargetPath) -> TargetPath {
    if dir.is_root() { path.clone() } else { dir.join(path.as_bytes()).expect("a short path") }
}

fn below(path: &TargetPath, dir: &TargetPath) -> Option<TargetPath> {
    let rest = path.as_bytes().strip_prefix(dir.as_bytes())?.strip_prefix(b"/")?;
    TargetPath::new(rest).ok()
}

/// The world's source, as a scan and as a run see it.
#[derive(Clone)]
pub struct View(pub Arc<Mutex<World>>);

impl View {
    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Folder for View {
    fn open(&self) -> Result<Box<dyn Tree>> {
        Ok(Box::new(self.clone()))
    }
}

impl Tree for View {
    fn place(&self) -> Place {
        Place { device: self.world().source.systems[0].device, inode: 2 }
    }

    fn walk(&self) -> Result<Walk> {
        let mut world = self.world();
        world.grow();
        world.looked();
        let source = &world.source;
        if source.root_gone {
            return Err(Error::new(Kind::Source, "the source does not exist"));
        }
        let shown = source.shown();
        let facts = |file: &File, device: u64| Facts {
            size: world.library.size(file.content) as u64,
            mtime_ns: file.mtime,
            ctime_ns: file.ctime,
            device,
            inode: file.inode,
        };
        let files = shown.files.iter().map(|(path, (file, device))| (path.clone(), facts(file, *device)));
        let unreadable = source.unreadable.iter().map(|d| (d.clone(), "Permission denied".to_owned()));
        let link = |d: &TargetPath| LeftAlone {
            path: d.clone(),
            by: LeftBy::Link,
            reason: "it is a symbolic link".to_owned(),
        };
        Ok(Walk {
            files: files.collect(),
            unreadable: unreadable.collect(),
            left_alone: source.linked.iter().map(link).collect(),
            device: source.systems[0].device,
            mounts: shown.mounts,
            ..Walk::default()
        })
    }

    fn still_there(&self) -> Result<()> {
        Ok(())
    }

    fn open(&self, path: &TargetPath) -> io::Result<Box<dyn Peek>> {
        let refused = |e: BackendError| match e.kind() {
            ErrorKind::NotFound => io::Error::from_raw_os_error(2),
            _ => io::Error::from_raw_os_error(13),
        };
        RunFolder::open_file(self, path).map(|file| Box::new(Head(file)) as Box<dyn Peek>).map_err(refused)
    }
}

struct Head(Box<dyn Opened>);

impl Peek for Head {
    fn head(&self, size: u64, count: usize) -> io::Result<Vec<u8>> {
        let mut head = vec![0; count.min(usize::try_from(size).unwrap_or(count))];
        let held = self.0.read_at(&mut head, 0)?;
        head.truncate(held);
        Ok(head)
    }

    fn qemu_writes(&self) -> bool {
        false
    }

    fn digest(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Option<[u8; 32]>> {
        let Ok(attributes) = self.0.attributes() else { return Ok(None) };
        let mut bytes = vec![0; attributes.size as usize];
        let held = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(held);
        Ok(Some(*blake3::hash(&bytes).as_bytes()))
    }
}

impl RunFolder for View {
    fn still_there(&self) -> Result<()> {
        match self.world().source.root_gone {
            true => Err(Error::new(Kind::Source, "the source folder is not there any more")),
            false => Ok(()),
        }
    }

    fn open_file(&self, path: &TargetPath) -> offsite_plugin_api::Result<Box<dyn Opened>> {
        let world = self.world();
        let shown = world.source.shown();
        let Some((file, _)) = shown.files.get(path) else {
            return Err(BackendError::new(ErrorKind::NotFound, "no such file"));
        };
        if file.locked {
            return Err(BackendError::io("cannot open", &io::Error::from_raw_os_error(13)));
        }
        let bytes = world.library.get(file.content).bytes.clone();
        let attributes = attributes(&world.library, file);
        drop(shown);
        drop(world);
        Ok(Box::new(Held { view: self.clone(), path: path.clone(), bytes, attributes }))
    }
}

fn attributes(library: &Library, file: &File) -> FileAttributes {
    FileAttributes {
        regular: true,
        size: library.size(file.content) as u64,
        mtime_ns: file.mtime,
        ctime_ns: file.ctime,
        inode: file.inode,
    }
}

struct Held {
    view: View,
    path: TargetPath,
    bytes: Arc<[u8]>,
    attributes: FileAttributes,
}

impl Opened for Held {
    fn attributes(&self) -> io::Result<FileAttributes> {
        let world = self.view.world();
        let file = world.source.true_file(&self.path).filter(|f| f.inode == self.attributes.inode);
        Ok(file.map_or(self.attributes, |f| attributes(&world.library, f)))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|from| self.bytes.get(from..)).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn advise(&self, _: u64, _: u64, _: Advice) {}
}
