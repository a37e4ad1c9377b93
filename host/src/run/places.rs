//! Where source and targets really are, and whether one lies within another.
//!
//! A file system may hang, so each place is looked at by a process of its own with bounded time: a hanging target stops
//! that target, a hanging source stops the job, and the supervisor always goes on. Places are compared by canonical
//! path, and by device and inode of the folder and everything above it, which sees through bind mounts.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Job, url};
use crate::error::{Error, Kind, Result};

/// One folder as it is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Canonical, as far up as it exists.
    pub path: PathBuf,
    pub exists: bool,
    /// Device and inode of the folder (or of the nearest one above it that exists), then of each above it.
    pub above: Vec<(u64, u64)>,
    /// The file system (major:minor) and the path within it: a bind mount hides what is above a folder, not this.
    #[serde(default)]
    pub within: Option<(String, PathBuf)>,
}

/// Looks at a place; runs in the helper process.
pub fn look(path: &Path) -> std::io::Result<Found> {
    let mut rest = Vec::new();
    let mut at = path.to_owned();
    let real = loop {
        match std::fs::canonicalize(&at) {
            Ok(real) => break real,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let Some(name) = at.file_name() else { return Err(e) };
                rest.push(name.to_owned());
                if !at.pop() {
                    return Err(e);
                }
            }
            Err(e) => return Err(e),
        }
    };
    let mut above = Vec::new();
    for dir in real.ancestors() {
        let meta = std::fs::metadata(dir)?;
        above.push((meta.dev(), meta.ino()));
    }
    let exists = rest.is_empty();
    let path = rest.iter().rev().fold(real, |path, name| path.join(name));
    let within = std::fs::read("/proc/self/mountinfo").ok().and_then(|mounts| within(&mounts, &path));
    Ok(Found { path, exists, above, within })
}

/// Where a canonical path is in its file system, by the mount table (proc(5), `mountinfo`).
fn within(mounts: &[u8], path: &Path) -> Option<(String, PathBuf)> {
    let mut best: Option<(usize, String, PathBuf)> = None;
    for line in mounts.split(|b| *b == b'\n') {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').take(5).collect();
        let [_, _, device, root, point] = fields.as_slice() else { continue };
        let (root, point) = (unescape(root), unescape(point));
        let Ok(rest) = path.strip_prefix(&point) else { continue };
        let depth = point.components().count();
        // Of two on one mount point the later one covers the earlier.
        if best.as_ref().is_none_or(|(deepest, ..)| depth >= *deepest) {
            let inside = if rest.as_os_str().is_empty() { root } else { root.join(rest) };
            best = Some((depth, String::from_utf8_lossy(device).into_owned(), inside));
        }
    }
    best.map(|(_, device, inside)| (device, inside))
}

/// The mount table writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(out))
}

/// The helper process: prints what it found. `offsite worker --look PATH`.
pub fn report(path: &Path) -> std::result::Result<String, String> {
    let found = look(path).map_err(|e| e.to_string())?;
    serde_json::to_string(&found).map_err(|e| e.to_string())
}

fn limit() -> Duration {
    super::attend::patience().min(Duration::from_secs(15))
}

/// Looks at a place from another process.
async fn ask(path: &Path) -> std::result::Result<Found, String> {
    let mut child = tokio::process::Command::new(super::process::program())
        .args(["worker", "--look"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let read = async {
        use tokio::io::AsyncReadExt;
        let (mut text, mut wrong) = (String::new(), String::new());
        if let Some(out) = &mut out {
            out.take(1 << 20).read_to_string(&mut text).await.map_err(|e| e.to_string())?;
        }
        if let Some(err) = &mut err {
            err.take(4096).read_to_string(&mut wrong).await.map_err(|e| e.to_string())?;
        }
        let status = child.wait().await.map_err(|e| e.to_string())?;
        if status.success() {
            serde_json::from_str(&text).map_err(|e| e.to_string())
        } else {
            Err(wrong.trim().to_owned())
        }
    };
    let limit = limit();
    match tokio::time::timeout(limit, read).await {
        Ok(found) => found,
        Err(_) => {
            // Killed, and not waited for: it may be stuck in the very call.
            let _ = child.start_kill();
            Err(format!("it did not answer within {} s", limit.as_secs()))
        }
    }
}

/// Why a target of the job may not be used now (its folder does not answer), by the target's index. An error for the
/// whole job: the source cannot be looked at, or two of the job's places lie within each other.
pub async fn refuse(job: &Job) -> Result<Vec<Option<Error>>> {
    let mut looks = vec![tokio::task::spawn_local({
        let source = job.source.clone();
        async move { Some(ask(&source).await) }
    })];
    for target in &job.targets {
        let local = url::local_path(&target.url);
        looks.push(tokio::task::spawn_local(async move {
            match local {
                Some(path) => Some(ask(&path).await),
                None => None,
            }
        }));
    }
    let mut found = Vec::new();
    for look in looks {
        found.push(look.await.unwrap_or_else(|e| Some(Err(e.to_string()))));
    }
    let source = match found.remove(0) {
        Some(Ok(place)) => place,
        Some(Err(why)) => {
            return Err(Error::new(Kind::Source, "cannot read the source")
                .on(job.source.display().to_string())
                .because(why)
                .hint("nothing was touched on any target"));
        }
        None => return Err(Error::new(Kind::Source, "cannot read the source")),
    };
    if !source.exists {
        return Err(Error::new(Kind::Source, "the source does not exist")
            .on(job.source.display().to_string())
            .hint("check the path and whether it is mounted; nothing was touched on any target"));
    }
    compare(job, &source, &found)
}

type Look = Option<std::result::Result<Found, String>>;

fn compare(job: &Job, source: &Found, found: &[Look]) -> Result<Vec<Option<Error>>> {
    let refused = |index: usize, what: &str, other: &str| {
        let target = &job.targets[index];
        Error::new(Kind::Config, format!("the target '{}' is {what} {other}", target.name))
            .on(target.url.clone())
            .hint("source and targets need folders of their own; nothing was touched")
    };
    let mut silent = Vec::new();
    for (index, look) in found.iter().enumerate() {
        silent.push(match look {
            Some(Err(why)) => Some(
                Error::new(
                    Kind::Backend(crate::error::BackendKind::Offline),
                    "cannot look at the target's folder",
                )
                .on(job.targets[index].url.clone())
                .because(why),
            ),
            _ => None,
        });
        let Some(Ok(place)) = look else { continue };
        if let Some(what) = relation(place, source) {
            return Err(refused(index, what, "the source"));
        }
        for (other, earlier) in found[..index].iter().enumerate() {
            if let Some(Ok(earlier)) = earlier
                && let Some(what) = relation(place, earlier)
            {
                return Err(refused(index, what, &format!("the target '{}'", job.targets[other].name)));
            }
        }
    }
    Ok(silent)
}

/// `a` seen from `b`: the same place, inside it, or around it.
pub fn relation(a: &Found, b: &Found) -> Option<&'static str> {
    let id = |place: &Found| if place.exists { place.above.first().copied() } else { None };
    // The two paths within one file system, where they are in one.
    let one = match (&a.within, &b.within) {
        (Some((device, a)), Some((other, b))) if device == other => Some((a, b)),
        _ => None,
    };
    if a.path == b.path || (id(a).is_some() && id(a) == id(b)) || one.is_some_and(|(a, b)| a == b) {
        return Some("the same place as");
    }
    let inside =
        |a: &Found, b: &Found| a.path.starts_with(&b.path) || id(b).is_some_and(|id| a.above.contains(&id));
    if inside(a, b) || one.is_some_and(|(a, b)| a.starts_with(b)) {
        return Some("inside");
    }
    if inside(b, a) || one.is_some_and(|(a, b)| b.starts_with(a)) {
        return Some("around");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_mount_is_seen_through() {
        let mounts = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                       23 22 8:1 /data/src/deep /mnt/bind\\040me rw - ext4 /dev/sda1 rw\n\
                       24 22 8:2 / /srv rw - xfs /dev/sdb1 rw\n";
        let at = |path: &str| within(mounts, Path::new(path)).unwrap();
        assert_eq!(at("/data/src"), ("8:1".into(), "/data/src".into()));
        assert_eq!(at("/mnt/bind me/new"), ("8:1".into(), "/data/src/deep/new".into()));
        assert_eq!(at("/srv/x"), ("8:2".into(), "/x".into()));
        let found =
            |path: &str| Found { path: path.into(), exists: true, above: Vec::new(), within: Some(at(path)) };
        let source = found("/data/src");
        assert_eq!(relation(&found("/mnt/bind me"), &source), Some("inside"));
        assert_eq!(relation(&found("/mnt/bind me"), &found("/data/src/deep")), Some("the same place as"));
        assert_eq!(relation(&found("/data"), &found("/mnt/bind me")), Some("around"));
        assert_eq!(relation(&found("/srv/data/src"), &source), None);
    }

    #[test]
    fn places_are_compared_through_links_and_before_they_exist() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("source/sub")).unwrap();
        std::fs::create_dir_all(root.join("other")).unwrap();
        std::os::unix::fs::symlink(root.join("source"), root.join("link")).unwrap();
        let at = |path: &str| look(&root.join(path)).unwrap();
        let source = at("source");
        assert_eq!(relation(&at("link"), &source), Some("the same place as"));
        assert_eq!(relation(&at("link/sub"), &source), Some("inside"));
        assert_eq!(relation(&at("source/new/deep"), &source), Some("inside"));
        assert_eq!(relation(&at("."), &source), Some("around"));
        assert_eq!(relation(&at("other"), &source), None);
        assert_eq!(relation(&at("source2"), &source), None);
    }
}
