//! The claim: a marker at the target's root that says whose target this is, and the place that was found behind it.
//!
//! The installation id is the machine's, so that a lost catalog costs nothing; but a machine can run `offsite` for two users,
//! with two state directories and therefore two locks, and it can be cloned, id and all. So the marker also tells the
//! state directory and the host's name, and a difference is another writer until the user says otherwise.
//!
//! It keeps two writers off one target, whatever URL each of them uses; and it keeps a share that is not mounted from being
//! filled: a marker that is missing where the catalog knows the target, or a place that has become the root file system,
//! is refused.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offsite_plugin_api::{Backend, Call, ErrorKind, Expect, Replace, TargetPath};
use serde::{Deserialize, Serialize};

use super::names;
use super::site::Site;
use super::small::{self, Bytes};
use crate::error::{BackendKind, Error, Kind, Result};
use crate::run::killpoint;

/// Bytes of a marker at most.
const LARGEST: usize = 64 << 10;
const VERSION: u32 = 1;
const CLAIMED: &str = "host.claimed";
const PLACE: &str = "host.place";

/// The marker's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub version: u32,
    /// The installation that writes here.
    pub installation: String,
    pub job: String,
    pub target: String,
    /// Stands for the state directory ([`state_id`]), by its place: one that was lost and begun anew is the same. The
    /// user does not count: whoever uses this directory takes the lock in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Nanoseconds since the Unix epoch: for people.
    pub created: i64,
}

/// Who claims, beside the installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub job: String,
    pub target: String,
    /// As [`state_id`] gives it.
    pub state: String,
    /// `None` where it says nothing: an installation whose id is kept in the state directory (a container, whose name
    /// changes with every start) is no other machine's.
    pub host: Option<String>,
}

impl Who {
    /// `host`: this machine's name.
    pub fn new(state_dir: &Path, host: &str, job: &str, target: &str) -> Self {
        Self {
            job: job.to_owned(),
            target: target.to_owned(),
            state: state_id(state_dir),
            host: (!names::keeps_installation(state_dir)).then(|| host.to_owned()),
        }
    }

    /// What tells this writer from the one that claimed, in words.
    fn differs(&self, marker: &Marker) -> Option<String> {
        if let (Some(there), Some(here)) = (&marker.host, &self.host)
            && there != here
        {
            return Some(format!("it was claimed on the machine '{there}', this one is '{here}'"));
        }
        let state = marker.state.as_ref()?;
        (*state != self.state).then(|| {
            "it was claimed with another state directory (another user's, or one that was moved)".into()
        })
    }
}

/// 16 hexadecimal digits that stand for a state directory by its absolute path, links resolved; it need not exist.
pub fn state_id(state_dir: &Path) -> String {
    fn resolved(path: &Path) -> PathBuf {
        match (path.canonicalize(), path.parent(), path.file_name()) {
            (Err(_), Some(parent), Some(name)) if parent != path => resolved(parent).join(name),
            (found, ..) => found.unwrap_or_else(|_| path.to_owned()),
        }
    }
    let path = resolved(&std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned()));
    let mut text =
        hex::encode(blake3::derive_key("offsite state directory, version 1", path.as_os_str().as_bytes()));
    text.truncate(16);
    text
}

/// Whose target this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    Mine,
    Missing,
    /// Another machine's.
    OtherInstallation(Marker),
    /// This machine's, but another job or target of it.
    OtherJob(Marker),
    /// This job's by its names, but of another state directory or of a machine with another name; which, in words.
    OtherWriter(String),
    /// Something is there that is no marker; why, in words.
    Unreadable(String),
}

impl Claim {
    /// In words, for `offsite check`.
    pub fn words(&self) -> String {
        match self {
            Self::Mine => "claimed by this job".to_owned(),
            Self::Missing => "not claimed yet".to_owned(),
            Self::OtherInstallation(m) => {
                format!(
                    "claimed by another installation ({}), job '{}', target '{}'",
                    m.installation, m.job, m.target
                )
            }
            Self::OtherJob(m) => format!("claimed by the job '{}', target '{}'", m.job, m.target),
            Self::OtherWriter(why) => format!("claimed by this job as another installation has it: {why}"),
            Self::Unreadable(why) => format!("the claim marker is not readable: {why}"),
        }
    }
}

/// Where the target is, as the plugin's operation `place` tells: remembered from run to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Place {
    device: u64,
    inode: u64,
    /// The file system's kind.
    #[serde(alias = "filesystem", alias = "fs_type")]
    fs: Option<String>,
    /// Whether it is the file system that holds `/`.
    #[serde(alias = "root_file_system")]
    on_root: Option<bool>,
}

fn marker_path() -> TargetPath {
    TargetPath::new(names::MARKER).expect("the marker's name is a path")
}

/// Whose target this is; changes nothing.
pub fn examine(backend: &dyn Backend, call: &Call, installation: &str, who: &Who) -> Result<Claim> {
    let bytes = match small::read(backend, call, &marker_path(), LARGEST) {
        Ok(bytes) => bytes,
        Err(e) if e.is_backend(&BackendKind::NotFound) => return Ok(Claim::Missing),
        Err(e) if e.is_backend(&BackendKind::TooLarge) => {
            return Ok(Claim::Unreadable("it is too large".into()));
        }
        Err(e) => return Err(e),
    };
    let marker: Marker = match serde_json::from_slice(&bytes) {
        Ok(marker) => marker,
        Err(e) => return Ok(Claim::Unreadable(e.to_string())),
    };
    Ok(if marker.version > VERSION {
        Claim::Unreadable(format!("it was made by a newer offsite (version {})", marker.version))
    } else if marker.installation != installation {
        Claim::OtherInstallation(marker)
    } else if marker.job != who.job || marker.target != who.target {
        Claim::OtherJob(marker)
    } else if let Some(why) = who.differs(&marker) {
        Claim::OtherWriter(why)
    } else {
        Claim::Mine
    })
}

/// Refuses a target that is not this job's to write to; changes nothing. `Ok(true)`: it is claimed; `Ok(false)`: nobody's,
/// and may be claimed.
///
/// Errors: `TargetRefused` for another installation's or job's claim, for a missing marker where the catalog knows the
/// target, and for a place that became the root file system.
pub fn verify(site: &Site<'_>, who: &Who) -> Result<bool> {
    let claim = examine(site.backend, site.call, site.installation, who)?;
    let place = place(site)?;
    if let Some(place) = &place
        && let Some(before) = remembered(site)?
        && before.on_root == Some(false)
        && place.on_root == Some(true)
    {
        return Err(Error::new(Kind::TargetRefused, "the target is on the root file system now")
            .on(who.target.clone())
            .because("it was on a file system of its own before: that is probably not mounted")
            .hint("mount it; if it was moved on purpose, run 'offsite target take-over'"));
    }
    match claim {
        Claim::Mine => Ok(true),
        Claim::Missing if knows(site)? => {
            Err(Error::new(Kind::TargetRefused, "the target's claim marker is missing")
                .on(who.target.clone())
                .because(
                    "earlier runs wrote to this target, so something else is in its place: is it mounted?",
                )
                .hint("mount it; if it was emptied or moved on purpose, run 'offsite target take-over'"))
        }
        Claim::Missing => Ok(false),
        other @ Claim::OtherWriter(_) => Err(Error::new(
            Kind::TargetRefused,
            "another installation of this job writes to the target",
        )
        .on(who.target.clone())
        .because(other.words())
        .hint(
            "give each of them a folder of its own; if the other is no more (the state directory was moved, \
                     the machine renamed), run 'offsite target take-over'",
        )),
        other => Err(Error::new(Kind::TargetRefused, "the target is not this job's")
            .on(who.target.clone())
            .because(other.words())
            .hint("give each job a folder of its own, or run 'offsite target take-over' to claim this one")),
    }
}

/// As [`verify`], and claims a target that is nobody's. True when it was claimed just now: what is there is adopted.
pub fn claim(site: &Site<'_>, who: &Who) -> Result<bool> {
    let mine = verify(site, who)?;
    if !mine {
        killpoint::reach("claim.before");
        write(site, who, Expect::Absent)?;
        killpoint::reach("claim.after");
    }
    remember(site)?;
    Ok(!mine)
}

/// Claims a target whoever claimed it before, and forgets where it was. Gives what was done, in words. May be repeated.
pub fn take_over(site: &Site<'_>, who: &Who) -> Result<String> {
    let claim = examine(site.backend, site.call, site.installation, who)?;
    let words = match &claim {
        Claim::Mine => "the target was this job's already".to_owned(),
        Claim::Missing => "the target is claimed by this job; it was not claimed before".to_owned(),
        other => format!("the target is taken over by this job; it was {}", other.words()),
    };
    match &claim {
        Claim::Mine => {}
        Claim::Missing => write(site, who, Expect::Absent)?,
        _ if site.capabilities.replace == Replace::Atomic => write(site, who, Expect::Any)?,
        _ => {
            // A kill in between leaves a target without a marker, which taking over again claims.
            match site.backend.delete(site.call, &marker_path(), &Expect::Any) {
                Err(e) if *e.kind() != ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
            killpoint::reach("take-over.after-delete");
            write(site, who, Expect::Absent)?;
        }
    }
    remember(site)?;
    Ok(words)
}

fn write(site: &Site<'_>, who: &Who, expect: Expect) -> Result<()> {
    let created = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
    let marker = Marker {
        version: VERSION,
        installation: site.installation.to_owned(),
        job: who.job.clone(),
        target: who.target.clone(),
        state: Some(who.state.clone()),
        host: who.host.clone(),
        created,
    };
    let mut text = serde_json::to_vec(&marker).expect("a marker always serialises");
    text.push(b'\n');
    let bytes = Arc::new(Bytes(text));
    let path = marker_path();
    let staged = small::stage(site.backend, site.call, &path, &bytes, site.installation)?;
    if let Err(error) = small::publish(site.backend, site.call, &path, &bytes, staged.token.clone(), expect) {
        let _ = site.backend.discard(site.call, &staged.token);
        return Err(error);
    }
    // Two that claim at once on a server that does not compare: the one whose marker stayed goes on.
    match examine(site.backend, site.call, site.installation, who)? {
        Claim::Mine => Ok(()),
        other => Err(Error::new(Kind::TargetRefused, "the target was claimed by somebody else meanwhile")
            .on(who.target.clone())
            .because(other.words())),
    }
}

/// Whether earlier runs wrote here, as far as the catalog knows.
fn knows(site: &Site<'_>) -> Result<bool> {
    Ok(site.catalog.fact(CLAIMED)?.is_some() || !site.catalog.published_sets()?.is_empty())
}

fn remembered(site: &Site<'_>) -> Result<Option<Place>> {
    Ok(site.catalog.fact(PLACE)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn remember(site: &Site<'_>) -> Result<()> {
    if site.catalog.fact(CLAIMED)?.is_none() {
        site.catalog.put_fact(CLAIMED, b"1")?;
    }
    if let Some(place) = place(site)? {
        let text = serde_json::to_vec(&place).expect("a place always serialises");
        if site.catalog.fact(PLACE)?.as_deref() != Some(text.as_slice()) {
            site.catalog.put_fact(PLACE, &text)?;
        }
    }
    Ok(())
}

/// Where the target is, for plugins that are local; `None` for the others.
fn place(site: &Site<'_>) -> Result<Option<Place>> {
    let text = match site.backend.invoke(site.call, "place", "{}", None, None) {
        Ok(text) => text,
        // A folder that is still to be made is nowhere yet.
        Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::NotFound) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut place: Place = serde_json::from_str(&text).map_err(|e| {
        Error::new(Kind::Plugin, "the plugin's answer to 'place' is not understood").because(e)
    })?;
    if place.on_root.is_none() {
        place.on_root = rustix::fs::stat("/").ok().map(|root| root.st_dev == place.device);
    }
    Ok(Some(place))
}
