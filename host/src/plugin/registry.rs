//! What plugins there are, which one serves a URL, and how a target is opened.
//!
//! Looking never loads. A file that is refused is kept with its refusal, and the others are used. The first plugin
//! with an id wins, later ones are kept as shadowed; of two plugins with one scheme the first found serves it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use offsite_plugin_api::abi::host::{LogSink, Module};
use offsite_plugin_api::{Backend, Host, Metadata, Secrets};
use serde_json::Value;

use super::dirs::{self, Environment, OpenDirectory, Origin, Place};
use super::mismatch::{Refusal, RefusalCode};
use super::schema::{self, Problem};
use super::trust::Me;
use super::{discreet, inspect, load};
use crate::config::url;
use crate::error::{BackendKind, Error, Kind, Result};

/// Serves plain paths.
const PLAIN_PATH_SCHEME: &str = "folder";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Active,
    /// An earlier file, this one, has the same id.
    Shadowed(PathBuf),
    /// A file that was named directly and lies in no searched directory.
    NotSearched,
    Refused(Refusal),
}

/// One file found.
pub struct Entry {
    pub path: PathBuf,
    pub origin: Option<Origin>,
    pub status: Status,
    /// `None` for most refused files.
    pub metadata: Option<Metadata>,
    /// The file that was inspected, open: it is this one that is loaded.
    file: Option<File>,
    module: OnceLock<Result<Module, Refusal>>,
}

impl Entry {
    fn new(path: PathBuf, origin: Option<Origin>, opened: Result<File, Refusal>) -> Self {
        let inspected = opened.and_then(|file| inspect::file(&file).map(|metadata| (file, metadata)));
        let (file, metadata, status) = match inspected {
            Ok((file, metadata)) => (Some(file), Some(metadata), Status::Active),
            Err(refusal) => (None, None, Status::Refused(refusal)),
        };
        Self { path, origin, status, metadata, file, module: OnceLock::new() }
    }

    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    fn serves(&self, scheme: &str) -> bool {
        self.is_active() && self.metadata.iter().any(|m| m.schemes.iter().any(|s| s.name == scheme))
    }

    /// Loads the library on first use; later calls give the same module or the same refusal.
    fn module(&self) -> Result<&Module, Refusal> {
        let loaded = self.module.get_or_init(|| match (&self.status, &self.file, &self.metadata) {
            (Status::Refused(refusal), ..) => Err(refusal.clone()),
            (_, Some(file), Some(metadata)) => load::load(file, metadata, &self.path),
            _ => Err(Refusal::sentence(RefusalCode::Unreadable, "the file is not open")),
        });
        loaded.as_ref().map_err(Clone::clone)
    }

    /// The refusal as an error of the run. The long form goes to the log.
    fn refused(&self, refusal: &Refusal) -> Error {
        if let Some(details) = &refusal.details {
            tracing::debug!(path = %self.path.display(), "{details}");
        }
        Error::new(Kind::Plugin, "cannot use the plugin").on(self.path.display().to_string()).because(refusal)
    }
}

/// A directory of the search order and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Searched {
    pub place: Place,
    pub state: DirectoryState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryState {
    Read,
    Absent,
    /// The same directory stands earlier in the order.
    Repeated,
    Refused(Refusal),
}

pub struct Registry {
    directories: Vec<Searched>,
    entries: Vec<Entry>,
}

impl Registry {
    /// Looks through the search order, `extra` (from `--plugin-dir`) first. Loads nothing and never fails: what cannot
    /// be used is recorded.
    pub fn discover(extra: &[PathBuf]) -> Self {
        Self::in_places(dirs::search_order(extra, &Environment::now()))
    }

    pub(super) fn in_places(places: Vec<Place>) -> Self {
        let me = Me::now();
        let mut registry = Self { directories: Vec::new(), entries: Vec::new() };
        let mut seen = Vec::new();
        for place in places {
            let state = match OpenDirectory::open(&place, me) {
                Ok(None) => DirectoryState::Absent,
                Ok(Some(directory)) if seen.contains(&directory.identity) => DirectoryState::Repeated,
                Ok(Some(directory)) => {
                    // The narrower look at the program's own directory does not stand for a full one.
                    if place.origin != Origin::Executable {
                        seen.push(directory.identity);
                    }
                    match registry.read(&directory, &place, me) {
                        Ok(()) => DirectoryState::Read,
                        Err(refusal) => DirectoryState::Refused(refusal),
                    }
                }
                Err(refusal) => DirectoryState::Refused(refusal),
            };
            if let DirectoryState::Refused(refusal) = &state {
                tracing::warn!(path = %place.path.display(), "plugin directory not used: {refusal}");
            }
            registry.directories.push(Searched { place, state });
        }
        registry
    }

    fn read(&mut self, directory: &OpenDirectory, place: &Place, me: Me) -> Result<(), Refusal> {
        for name in directory.candidates()? {
            let path = place.path.join(&name);
            let mut entry = Entry::new(path, Some(place.origin), directory.open_file(&name, me));
            if let Status::Refused(refusal) = &entry.status {
                tracing::debug!(path = %entry.path.display(), "plugin not used: {refusal}");
            }
            if let Some(id) = entry.metadata.as_ref().map(|m| &m.id)
                && let Some(first) = self.by_id(id)
            {
                entry.status = Status::Shadowed(first.path.clone());
            }
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Every file found, in search order, shadowed and refused ones included.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn directories(&self) -> &[Searched] {
        &self.directories
    }

    /// The active plugin with this id.
    pub fn by_id(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.is_active() && e.metadata.as_ref().is_some_and(|m| m.id == id))
    }

    /// The active plugin that serves a URL scheme (lower case, without the colon).
    pub fn by_scheme(&self, scheme: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.serves(scheme))
    }

    /// The schemes that can be opened, sorted.
    pub fn schemes(&self) -> Vec<&str> {
        let active = self.entries.iter().filter(|e| e.is_active()).filter_map(|e| e.metadata.as_ref());
        let mut names: Vec<&str> = active.flat_map(|m| m.schemes.iter().map(|s| s.name.as_str())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What `plugin info` was given: an id, else a file's path. A file that is refused is found, too, with why.
    /// Errors: `Usage` where there is neither.
    pub fn find(&self, name: &str) -> Result<Found<'_>> {
        if let Some(entry) = self.by_id(name) {
            return Ok(Found::Known(entry));
        }
        let path = Path::new(name);
        if std::fs::symlink_metadata(path).is_ok() {
            let canonical = |p: &Path| std::fs::canonicalize(p).unwrap_or_else(|_| p.to_owned());
            let sought = canonical(path);
            if let Some(entry) = self.entries.iter().find(|e| canonical(&e.path) == sought) {
                return Ok(Found::Known(entry));
            }
            let mut entry = Entry::new(path.to_owned(), None, dirs::open_path(path, Me::now()));
            if entry.is_active() {
                entry.status = Status::NotSearched;
            }
            return Ok(Found::Loose(Box::new(entry)));
        }
        let mut ids: Vec<&str> =
            self.entries.iter().filter_map(|e| e.metadata.as_ref()).map(|m| &*m.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let known = if ids.is_empty() {
            "no plugin was found".to_owned()
        } else {
            format!("found: {}", ids.join(", "))
        };
        Err(Error::new(Kind::Usage, "there is no such plugin and no such file").on(name).hint(known))
    }

    /// The plugin for a target's URL; a plain path is the folder plugin's. Errors: `Config` for a scheme that no
    /// plugin has, with the schemes there are and where plugins are looked for, or for a URL with a password; `Plugin` where
    /// one that may have it was turned down.
    pub fn for_url(&self, target: &str) -> Result<&Entry> {
        if url::shown(target) != target {
            return Err(Error::new(Kind::Config, "the URL contains a password")
                .on(url::shown(target))
                .hint("remove it, and name where it comes from under credentials"));
        }
        let scheme = url::scheme(target);
        let scheme = scheme.as_deref().unwrap_or(PLAIN_PATH_SCHEME);
        self.by_scheme(scheme).ok_or_else(|| self.no_plugin_for(scheme, target))
    }

    fn no_plugin_for(&self, scheme: &str, target: &str) -> Error {
        let schemes = match self.schemes() {
            none if none.is_empty() => "no plugin was found".to_owned(),
            some => format!("there are plugins for {}", some.join(", ")),
        };
        let looked: Vec<String> =
            self.directories.iter().map(|d| d.place.path.display().to_string()).collect();
        let mut kind = Kind::Config;
        let mut hint = format!("{schemes}; looked in {}", looked.join(", "));
        // The likeliest reason: it is there, and was turned down.
        let turned_down = self.entries.iter().find_map(|e| match &e.status {
            Status::Refused(refusal) if e.path.file_name()?.to_str()?.contains(scheme) => Some((e, refusal)),
            _ => None,
        });
        let directory = self.directories.iter().find_map(|d| match &d.state {
            DirectoryState::Refused(refusal) => Some((&d.place.path, refusal)),
            _ => None,
        });
        if let Some((path, refusal)) = turned_down.map(|(e, r)| (&e.path, r)).or(directory) {
            hint = format!("{} is not used: {refusal}; {hint}", path.display());
            kind = Kind::Plugin;
        }
        Error::new(kind, format!("no plugin serves '{scheme}:'")).on(target).hint(hint)
    }

    /// Everything wrong with a target's options and the names of its credentials; empty when all is well. Opens and
    /// loads nothing. Errors: as [`Self::for_url`].
    pub fn check_target(&self, target: &str, options: &Value, secret_names: &[&str]) -> Result<Vec<Problem>> {
        let entry = self.for_url(target)?;
        Ok(entry
            .metadata
            .as_ref()
            .map_or_else(Vec::new, |m| schema::validate(&m.options, options, secret_names)))
    }

    /// Loads the plugin of the URL's scheme, if it is not loaded, and opens the target. What is wrong with the options
    /// is said before any of the plugin's code runs. The secrets, those it asks for later too, are taken out of every
    /// error, log record and report of the plugin. Errors: `Config`, `Plugin`, and the backend's own.
    pub fn open_target(
        &self,
        target: &str,
        options: &Value,
        secrets: Secrets,
        host: Arc<dyn Host>,
        log: Arc<dyn LogSink>,
    ) -> Result<Box<dyn Backend>> {
        let entry = self.for_url(target)?;
        let names: Vec<&str> = secrets.0.iter().map(|(name, _)| name.as_str()).collect();
        let problems = self.check_target(target, options, &names)?;
        if !problems.is_empty() {
            let all: Vec<String> = problems.iter().map(Problem::to_string).collect();
            let id = entry.metadata.as_ref().map_or("", |m| m.id.as_str());
            return Err(Error::new(Kind::Config, "the target's options are wrong")
                .on(target)
                .because(all.join("; "))
                .hint(format!("'offsite plugin info {id}' shows what there is")));
        }
        let module = entry.module().map_err(|refusal| entry.refused(&refusal))?;
        let given = if options.is_null() { &Value::Object(serde_json::Map::new()) } else { options };
        discreet::open(module, target, given, &secrets, host, log).map_err(|error| {
            let error = Error::from(error);
            // Found without the network: the user's to mend, whoever found it. What a server has none of is not that.
            let wrong = error.is_backend(&BackendKind::InvalidConfig);
            if wrong { Error { kind: Kind::Config, ..error } } else { error }
        })
    }
}

/// See [`Registry::find`].
pub enum Found<'a> {
    Known(&'a Entry),
    Loose(Box<Entry>),
}

impl std::ops::Deref for Found<'_> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        match self {
            Self::Known(entry) => entry,
            Self::Loose(entry) => entry,
        }
    }
}
