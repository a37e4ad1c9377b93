//! Which file system a place of the source is on, told by what lasts from one mount to the next.
//!
//! Device numbers and mount ids are given out anew at every mount, and one file system gets the number that another had:
//! nothing here is remembered by them. What lasts is the file system's UUID, else the id that it derives from its UUID
//! itself, else its type and source; with it the part of it that is mounted (a bind mount shows a folder of a file system),
//! and for a union the file systems that its branches lie on: a union goes on without a disk that is not mounted.
//!
//! An identity is a text, because it is kept in databases and manifests; [`same`] compares two of them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, StatxFlags, statx};

/// Where the mount table cannot be read, or does not hold a mount.
pub(super) const UNKNOWN: &str = "type=unknown";

/// The mount table as it is now: proc(5), `mountinfo`.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    /// Device number -> UUID, read when first asked.
    uuids: std::cell::OnceCell<HashMap<u64, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    id: u64,
    /// Of the file system: for a disk, the disk's own.
    device: u64,
    /// What of the file system is mounted.
    root: Vec<u8>,
    point: PathBuf,
    kind: String,
    source: Vec<u8>,
    options: Vec<u8>,
}

impl Table {
    pub fn read() -> Self {
        std::fs::read("/proc/self/mountinfo").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &[u8]) -> Self {
        Self { entries: text.split(|b| *b == b'\n').filter_map(entry).collect(), ..Self::default() }
    }

    /// The identity of the mount with this id; `top`: the directory it is mounted on, opened.
    pub fn identity(&self, id: u64, top: BorrowedFd<'_>) -> Option<Arc<str>> {
        let entry = self.entries.iter().find(|e| e.id == id)?;
        let fsid = FROM_UUID
            .contains(&entry.kind.as_str())
            .then(|| rustix::fs::fstatvfs(top).ok())
            .flatten()
            .map(|stat| stat.f_fsid)
            .filter(|fsid| *fsid != 0);
        Some(self.text(entry, fsid, self.branches(entry, top)).into())
    }

    fn text(&self, entry: &Entry, fsid: Option<u64>, branches: Vec<String>) -> String {
        let mut text = format!("type={}", family(&entry.kind));
        if let Some(uuid) = self.uuid(entry) {
            let _ = write!(text, ";uuid={}", escape(uuid.as_bytes()));
        }
        if let Some(fsid) = fsid {
            let _ = write!(text, ";fsid={fsid:x}");
        }
        let _ = write!(text, ";root={};source={}", escape(&entry.root), escape(&entry.source));
        for branch in branches {
            let _ = write!(text, ";branch={}", escape(branch.as_bytes()));
        }
        text
    }

    fn uuid(&self, entry: &Entry) -> Option<&String> {
        let uuids = self.uuids.get_or_init(uuids);
        if uuids.is_empty() {
            return None;
        }
        // btrfs and others have a device number of their own; their source is one of their disks.
        uuids.get(&entry.device).or_else(|| {
            let source = entry.source.starts_with(b"/dev/").then(|| path(&entry.source))?;
            uuids.get(&std::fs::metadata(source).ok()?.rdev())
        })
    }

    /// What the branches of a union lie on.
    fn branches(&self, entry: &Entry, top: BorrowedFd<'_>) -> Vec<String> {
        let listed: Vec<PathBuf> = match entry.kind.as_str() {
            "overlay" => entry
                .options
                .split(|b| *b == b',')
                .filter_map(|option| {
                    let (key, value) = split(option, b'=')?;
                    matches!(key, b"lowerdir" | b"upperdir" | b"lowerdir+").then_some(value)
                })
                .flat_map(|dirs| dirs.split(|b| *b == b':'))
                .filter(|dir| !dir.is_empty())
                .map(path)
                .collect(),
            "fuse.mergerfs" => mergerfs(top).unwrap_or_default(),
            _ => Vec::new(),
        };
        let under = |branch: &PathBuf| {
            let entry = self.at(branch);
            let on = entry.map_or_else(|| UNKNOWN.to_owned(), |e| self.text(e, None, Vec::new()));
            format!("{} on {on}", branch.display())
        };
        listed.iter().map(under).collect()
    }

    /// The mount that a path lies on; of two on one point, the later one.
    fn at(&self, path: &Path) -> Option<&Entry> {
        let above = self.entries.iter().filter(|e| path.starts_with(&e.point));
        above.max_by_key(|e| e.point.components().count())
    }
}

/// File systems whose `f_fsid` is derived from their UUID. Others give a device number, or one drawn at each mount.
const FROM_UUID: [&str; 5] = ["ext2", "ext3", "ext4", "btrfs", "zfs"];

/// File systems whose inodes and change times are the same after every mount.
const STEADY: [&str; 9] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs"];

/// Names of one thing: NFS is mounted as `nfs4` or `nfs` as server and client agree, and ext4 mounts ext2, too.
fn family(kind: &str) -> &str {
    match kind {
        "nfs4" => "nfs",
        "smb3" => "cifs",
        "ext2" | "ext3" => "ext4",
        kind => kind,
    }
}

fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = || fields.next();
    let id = number(next()?)?;
    next()?;
    let (major, minor) = split(next()?, b':')?;
    let device = rustix::fs::makedev(number(major)? as u32, number(minor)? as u32);
    let root = unescape(next()?);
    let point = path(&unescape(next()?));
    // Mount options and any number of optional fields, up to a single hyphen.
    while next()? != b"-" {}
    let kind = String::from_utf8_lossy(next()?).into_owned();
    let source = unescape(next()?);
    let options = unescape(next().unwrap_or_default());
    Some(Entry { id, device, root, point, kind, source, options })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let middle = text.iter().position(|b| *b == at)?;
    Some((&text[..middle], &text[middle + 1..]))
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// The mount table writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..3).filter(|_| *first == b'\\');
        let octal = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &more[3..] } else { more };
    }
    out
}

/// `udev` names every file system by its UUID. A container may lack it: then the other facts decide.
fn uuids() -> HashMap<u64, String> {
    let Ok(links) = std::fs::read_dir("/dev/disk/by-uuid") else { return HashMap::new() };
    let one = |link: std::fs::DirEntry| {
        let device = std::fs::metadata(link.path()).ok()?.rdev();
        Some((device, link.file_name().to_string_lossy().into_owned()))
    };
    links.flatten().filter_map(one).collect()
}

/// mergerfs tells its branches (`/mnt/a=RW:/mnt/b=RW`) as an attribute of a file that only it shows.
fn mergerfs(top: BorrowedFd<'_>) -> Option<Vec<PathBuf>> {
    let control = format!("/proc/self/fd/{}/.mergerfs", top.as_raw_fd());
    let mut value = vec![0; 64 << 10];
    let length = rustix::fs::getxattr(control, "user.mergerfs.branches", &mut value[..]).ok()?;
    let branches = value[..length].split(|b| *b == b':');
    Some(branches.map(|b| path(split(b, b'=').map_or(b, |(dir, _)| dir))).collect())
}

fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b';' | b'%' | b'=' | 0..=31 | 127.. => drop(write!(out, "%{byte:02x}")),
            byte => out.push(char::from(*byte)),
        }
    }
    out
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Facts<'a> {
    kind: &'a str,
    uuid: Option<&'a str>,
    fsid: Option<&'a str>,
    root: &'a str,
    source: &'a str,
    branches: Vec<&'a str>,
}

fn facts(identity: &str) -> Facts<'_> {
    let mut facts = Facts::default();
    for (key, value) in identity.split(';').filter_map(|fact| fact.split_once('=')) {
        match key {
            "type" => facts.kind = value,
            "uuid" => facts.uuid = Some(value),
            "fsid" => facts.fsid = Some(value),
            "root" => facts.root = value,
            "source" => facts.source = value,
            "branch" => facts.branches.push(value),
            _ => {}
        }
    }
    facts
}

/// Whether two identities are those of one file system. What only one of them knows (a container shows no UUID) decides
/// nothing.
pub(super) fn same(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    let (one, other) = (facts(one), facts(other));
    if (one.kind, one.root, &one.branches) != (other.kind, other.root, &other.branches) {
        return false;
    }
    match ((one.uuid, other.uuid), (one.fsid, other.fsid)) {
        ((Some(one), Some(other)), _) | (_, (Some(one), Some(other))) => one == other,
        _ => one.source == other.source,
    }
}

/// Whether the identity is the file system's own, rather than the name of where it came from.
pub(super) fn proves(identity: &str) -> bool {
    let facts = facts(identity);
    facts.uuid.is_some() || facts.fsid.is_some()
}

/// Whether inodes or change times may mean nothing on it: all but the file systems of Linux itself.
pub(super) fn may_drift(identity: &str) -> bool {
    !STEADY.contains(&facts(identity).kind)
}

/// For people, by what they know of it: its label, else its UUID, else where it comes from. A device's name is another
/// disk's at the next mount.
pub(super) fn shown(identity: &str) -> String {
    let facts = facts(identity);
    if identity == UNKNOWN {
        return "an unknown file system".to_owned();
    }
    let label = facts.uuid.and_then(|uuid| label(Path::new("/dev/disk"), uuid));
    let name = match (label, facts.uuid) {
        (Some(label), _) => format!("'{label}'"),
        (None, Some(uuid)) => format!("with UUID {uuid}"),
        (None, None) => format!("'{}'", unescape_shown(facts.source)),
    };
    let mut text = format!("the file system {name} ({}", facts.kind);
    if !matches!(facts.root, "/" | "") {
        let _ = write!(text, ", its folder '{}'", unescape_shown(facts.root));
    }
    text.push(')');
    text
}

/// `udev` names file systems by their labels, too; what is no common character as `\x20`. Only while the disk is attached.
fn label(disks: &Path, uuid: &str) -> Option<String> {
    let device = disks.join("by-uuid").join(uuid).canonicalize().ok()?;
    let links = std::fs::read_dir(disks.join("by-label")).ok()?;
    let link = links.flatten().find(|link| link.path().canonicalize().is_ok_and(|of| of == device))?;
    let name = link.file_name().to_string_lossy().replace("\\x", "%");
    Some(unescape_shown(&name)).filter(|label| !label.is_empty())
}

fn unescape_shown(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The id of the mount that an opened directory is on, and its device. Good within one scan only.
pub(super) fn mount_of(directory: impl AsFd) -> rustix::io::Result<(Option<u64>, u64)> {
    let directory = directory.as_fd();
    let found = match statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE | StatxFlags::MNT_ID) {
        Ok(found) => found,
        // Kernels before 4.11, and sandboxes that filter what they do not know.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            return Ok((fdinfo(directory), rustix::fs::fstat(directory)?.st_dev));
        }
        Err(e) => return Err(e),
    };
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    let told = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Ok((if told { Some(found.stx_mnt_id) } else { fdinfo(directory) }, device))
}

/// Kernels before 5.8: proc(5), `fdinfo`.
fn fdinfo(directory: BorrowedFd<'_>) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", directory.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Another one after every mount, where the kernel numbers mounts without ever using a number again (from 6.8 on, statx(2):
/// `STATX_MNT_ID_UNIQUE`); empty where it does not.
pub(super) fn occasion(directory: impl AsFd) -> String {
    const UNIQUE: u32 = 0x4000;
    let asked = StatxFlags::from_bits_retain(UNIQUE);
    let Ok(found) = statx(directory.as_fd(), "", AtFlags::EMPTY_PATH, asked) else { return String::new() };
    if found.stx_mask & UNIQUE == 0 {
        return String::new();
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{} {:x}", boot.trim(), found.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        23 22 0:40 / /srv/my\\040disk rw shared:2 master:1 - nfs4 nas:/b rw\n\
        24 22 8:1 /old /srv/bound rw - ext4 /dev/sda1 rw\n\
        25 22 0:41 / /mnt/d1 rw - xfs /dev/sdb1 rw\n\
        26 22 0:42 / /srv/union rw - overlay overlay rw,lowerdir=/mnt/d1/low:/mnt/d2,upperdir=/up,workdir=/w\n\
        \n";

    fn text(table: &Table, id: u64) -> String {
        let entry = table.entries.iter().find(|e| e.id == id).unwrap();
        let here = std::fs::File::open("/").unwrap();
        table.text(entry, None, table.branches(entry, here.as_fd()))
    }

    #[test]
    fn an_identity_is_made_of_what_lasts() {
        let table = Table::parse(MOUNTS);
        assert_eq!(table.entries.len(), 5);
        assert_eq!(text(&table, 23), "type=nfs;root=/;source=nas:/b");
        assert_eq!(text(&table, 24), "type=ext4;root=/old;source=/dev/sda1");
        assert_eq!(table.at(Path::new("/srv/my disk/x")).unwrap().id, 23);
        assert_eq!(table.at(Path::new("/srv/my")).unwrap().id, 22);
    }

    #[test]
    fn a_union_is_another_one_while_a_branch_is_not_mounted() {
        let whole = text(&Table::parse(MOUNTS), 26);
        assert!(whole.contains("/mnt/d1/low on type") && whole.contains("/up on type"), "{whole}");
        let lines: Vec<_> = MOUNTS.split(|b| *b == b'\n').filter(|l| !l.starts_with(b"25")).collect();
        let lacking = text(&Table::parse(&lines.join(&b'\n')), 26);
        assert!(!same(&whole, &lacking), "{whole}\n{lacking}");
        assert!(same(&whole, &whole.clone()));
    }

    #[test]
    fn two_identities_are_compared_by_the_best_that_both_know() {
        for (one, other, expected) in [
            ("type=ext4;uuid=a;root=/;source=/dev/sda1", "type=ext4;uuid=a;root=/;source=/dev/sdb1", true),
            ("type=ext4;uuid=a;root=/;source=/dev/sda1", "type=ext4;uuid=b;root=/;source=/dev/sda1", false),
            ("type=ext4;uuid=a;root=/;source=/dev/sda1", "type=ext4;root=/;source=/dev/sda1", true),
            ("type=ext4;uuid=a;fsid=1;root=/;source=x", "type=ext4;fsid=1;root=/;source=y", true),
            ("type=ext4;uuid=a;fsid=1;root=/;source=x", "type=ext4;fsid=2;root=/;source=x", false),
            ("type=ext4;uuid=a;root=/;source=x", "type=ext4;uuid=a;root=/sub;source=x", false),
            ("type=nfs;root=/;source=nas:/b", "type=nfs;root=/;source=nas:/c", false),
            ("type=nfs;root=/;source=nas:/b", "type=ext4;root=/;source=nas:/b", false),
        ] {
            assert_eq!(same(one, other), expected, "{one} {other}");
        }
        assert!(proves("type=ext4;fsid=1;root=/;source=x") && !proves("type=nfs;root=/;source=nas:/b"));
        assert!(may_drift("type=nfs;root=/;source=nas:/b") && !may_drift("type=xfs;root=/;source=x"));
        assert_eq!(shown("type=nfs;root=/;source=nas:/b%3bc"), "the file system 'nas:/b;c' (nfs)");
        let known = "type=ext4;uuid=none-such;root=/old;source=/dev/loop0";
        assert_eq!(shown(known), "the file system with UUID none-such (ext4, its folder '/old')");
    }

    #[test]
    fn a_label_is_found_by_the_uuid_of_the_same_disk() {
        let disks = tempfile::tempdir().unwrap();
        for (link, to) in [
            ("by-uuid/a", "loop0"),
            ("by-uuid/b", "loop1"),
            ("by-label/old", "loop1"),
            ("by-label/my\\x20disk", "loop0"),
        ] {
            let link = disks.path().join(link);
            std::fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::fs::write(disks.path().join(to), "").unwrap();
            std::os::unix::fs::symlink(disks.path().join(to), link).unwrap();
        }
        assert_eq!(label(disks.path(), "a").as_deref(), Some("my disk"));
        assert_eq!(label(disks.path(), "b").as_deref(), Some("old"));
        assert_eq!(label(disks.path(), "c"), None);
    }

    #[test]
    fn the_place_of_a_running_test_has_an_identity() {
        let here = std::fs::File::open("/").unwrap();
        let (id, device) = mount_of(&here).unwrap();
        assert_eq!(Some(device), rustix::fs::fstat(&here).ok().map(|s| s.st_dev));
        assert_eq!(id, fdinfo(here.as_fd()));
        let identity = Table::read().identity(id.unwrap(), here.as_fd()).unwrap();
        assert!(identity.starts_with("type=") && identity.contains(";root=/"), "{identity}");
        let dir = tempfile::tempdir().unwrap();
        assert!(same(&identity, &Table::read().identity(id.unwrap(), here.as_fd()).unwrap()), "{dir:?}");
    }
}
