//! Where plugins are looked for, in which order, and which files there are candidates.
//!
//! The first plugin with an id wins, so the order is who may override whom: what the user names on the command line,
//! then the environment, then the user's own directory, the system's, and what came with the program. A directory is
//! opened once and judged by that descriptor; its files are opened from it.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, open, openat};
use serde::Serialize;

use super::mismatch::{Refusal, RefusalCode};
use super::trust::{self, Me};

/// Colon-separated directories, searched after those of the command line.
pub const PATH_VARIABLE: &str = "OFFSITE_PLUGIN_PATH";
/// More files than this in one directory are not plugins.
const MOST_CANDIDATES: usize = 1000;

/// Why a directory is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    CommandLine,
    Environment,
    User,
    System,
    /// The program's own directory: other libraries may lie there, so only `liboffsite_plugin_*.so` count.
    Executable,
    /// `plugins` in the program's own directory.
    BesideExecutable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    pub origin: Origin,
}

/// What the search order is made from.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub plugin_path: Option<OsString>,
    pub xdg_data_home: Option<OsString>,
    pub home: Option<OsString>,
    pub executable: Option<PathBuf>,
}

impl Environment {
    /// This process's.
    pub fn now() -> Self {
        Self {
            plugin_path: std::env::var_os(PATH_VARIABLE),
            xdg_data_home: std::env::var_os("XDG_DATA_HOME"),
            home: std::env::var_os("HOME"),
            executable: std::env::current_exe().ok(),
        }
    }
}

/// The directories in the order they are searched, `extra` (from `--plugin-dir`) first. Most of them need not exist.
pub fn search_order(extra: &[PathBuf], environment: &Environment) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let mut add = |path: PathBuf, origin| places.push(Place { path, origin });
    for path in extra {
        add(path.clone(), Origin::CommandLine);
    }
    let listed = environment.plugin_path.iter().flat_map(|p| p.as_bytes().split(|&b| b == b':'));
    for path in listed.filter(|p| !p.is_empty()) {
        add(PathBuf::from(OsStr::from_bytes(path)), Origin::Environment);
    }
    // XDG base directory specification: a relative path is invalid and ignored.
    let absolute = |p: &OsString| Some(PathBuf::from(p)).filter(|p| p.is_absolute());
    let data = environment
        .xdg_data_home
        .as_ref()
        .and_then(absolute)
        .or_else(|| environment.home.as_ref().and_then(absolute).map(|home| home.join(".local/share")));
    if let Some(data) = data {
        add(data.join("offsite/plugins"), Origin::User);
    }
    for path in ["/usr/local/lib/offsite/plugins", "/usr/lib/offsite/plugins"] {
        add(PathBuf::from(path), Origin::System);
    }
    if let Some(directory) = environment.executable.as_deref().and_then(Path::parent) {
        // Where cargo puts test programs; the libraries that belong to them are one level up.
        let directory = match directory.parent() {
            Some(parent) if directory.file_name() == Some(OsStr::new("deps")) => parent,
            _ => directory,
        };
        add(directory.join("plugins"), Origin::BesideExecutable);
        add(directory.to_owned(), Origin::Executable);
    }
    places
}

/// An opened directory that passed the trust check.
pub(super) struct OpenDirectory {
    descriptor: OwnedFd,
    /// Device and inode: one directory named twice is searched once.
    pub identity: (u64, u64),
    origin: Origin,
}

impl OpenDirectory {
    /// `None` where there is no such directory and nobody asked for this one in particular.
    pub fn open(place: &Place, me: Me) -> Result<Option<Self>, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = match open(&place.path, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::NOENT) if place.origin == Origin::CommandLine => {
                return Err(Refusal::new(
                    RefusalCode::Unreadable,
                    "there is no such directory",
                    "--plugin-dir names one that exists",
                    "correct the path",
                ));
            }
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::NOTDIR) => {
                return Err(Refusal::new(
                    RefusalCode::NotAFile,
                    "it is not a directory",
                    "plugins are looked for in directories",
                    "name the directory that holds the plugin",
                ));
            }
            Err(error) => return Err(Refusal::unreadable("opening the directory", error)),
        };
        let stat = fstat(&descriptor).map_err(|e| Refusal::unreadable("reading the directory's owner", e))?;
        trust::check(&stat, "the directory", me)?;
        Ok(Some(Self { descriptor, identity: (stat.st_dev, stat.st_ino), origin: place.origin }))
    }

    /// The names that may be plugins, sorted, so that two runs see them in one order.
    pub fn candidates(&self) -> Result<Vec<OsString>, Refusal> {
        let unreadable = |e| Refusal::unreadable("listing the directory", e);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.descriptor).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if self.is_candidate(entry.file_name()) {
                names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
            }
            if names.len() > MOST_CANDIDATES {
                return Err(Refusal::new(
                    RefusalCode::TooLarge,
                    format!("it holds more than {MOST_CANDIDATES} libraries"),
                    "a plugin directory holds plugins only",
                    "move the plugins to a directory of their own",
                ));
            }
        }
        names.sort();
        Ok(names)
    }

    fn is_candidate(&self, name: &CStr) -> bool {
        let name = name.to_bytes();
        let ours = self.origin != Origin::Executable || name.starts_with(b"liboffsite_plugin_");
        ours && name.ends_with(b".so") && !name.starts_with(b".")
    }

    /// Opens one candidate. A symbolic link is followed: whoever could place it here is trusted, and its end is judged
    /// like any file.
    pub fn open_file(&self, name: &OsStr, me: Me) -> Result<File, Refusal> {
        // Non-blocking, or a named pipe would hold us up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let descriptor = openat(&self.descriptor, name, flags, Mode::empty())
            .map_err(|e| Refusal::unreadable("opening the file", e))?;
        trusted_file(descriptor, me)
    }
}

/// Opens a file named by its path, for `plugin info FILE`.
pub(super) fn open_path(path: &Path, me: Me) -> Result<File, Refusal> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let descriptor =
        open(path, flags, Mode::empty()).map_err(|e| Refusal::unreadable("opening the file", e))?;
    trusted_file(descriptor, me)
}

fn trusted_file(descriptor: OwnedFd, me: Me) -> Result<File, Refusal> {
    let stat = fstat(&descriptor).map_err(|e| Refusal::unreadable("reading the file's owner", e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::new(
            RefusalCode::NotAFile,
            "it is not a regular file",
            "a plugin is a shared library",
            "remove it",
        ));
    }
    trust::check(&stat, "the file", me)?;
    Ok(File::from(descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searched_in_the_documented_order() {
        let environment = Environment {
            plugin_path: Some("/env/a::/env/b".into()),
            xdg_data_home: None,
            home: Some("/home/u".into()),
            executable: Some("/opt/offsite/bin/offsite".into()),
        };
        let extra = [PathBuf::from("/cli")];
        let found: Vec<_> =
            search_order(&extra, &environment).into_iter().map(|p| p.path.display().to_string()).collect();
        assert_eq!(
            found,
            [
                "/cli",
                "/env/a",
                "/env/b",
                "/home/u/.local/share/offsite/plugins",
                "/usr/local/lib/offsite/plugins",
                "/usr/lib/offsite/plugins",
                "/opt/offsite/bin/plugins",
                "/opt/offsite/bin",
            ]
        );
    }

    #[test]
    fn a_relative_data_home_is_ignored_and_test_programs_look_one_level_up() {
        let environment = Environment {
            xdg_data_home: Some("relative".into()),
            home: Some("/h".into()),
            executable: Some("/target/debug/deps/test-1234".into()),
            plugin_path: None,
        };
        let found = search_order(&[], &environment);
        assert_eq!(found[0].path, Path::new("/h/.local/share/offsite/plugins"));
        assert_eq!(found.last().unwrap().path, Path::new("/target/debug"));
        let environment = Environment { xdg_data_home: Some("/data".into()), ..environment };
        assert_eq!(search_order(&[], &environment)[0].path, Path::new("/data/offsite/plugins"));
    }
}
