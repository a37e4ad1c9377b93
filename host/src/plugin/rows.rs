//! What `offsite plugin list` and `offsite plugin info` show, as values that become a table or JSON.

use serde::Serialize;

use super::dirs::Origin;
use super::mismatch::RefusalCode;
use super::registry::{DirectoryState, Entry, Registry, Status};
use super::schema::{self, OptionRow};
use crate::error::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginStatus {
    Active,
    Shadowed,
    NotSearched,
    Refused,
}

/// One plugin file. Fields that a refused file does not tell are empty.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginRow {
    pub id: Option<String>,
    pub version: Option<String>,
    pub vendor: Option<String>,
    pub licence: Option<String>,
    pub description: Option<String>,
    pub schemes: Vec<SchemeRow>,
    /// ABI versions, newest first.
    pub abi: Vec<u32>,
    pub triple: Option<String>,
    pub path: String,
    pub directory: String,
    /// Why its directory is searched.
    pub origin: Option<Origin>,
    pub status: PluginStatus,
    /// Why it is not used, in one sentence.
    pub reason: Option<String>,
    pub code: Option<RefusalCode>,
    pub options: Vec<OptionRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemeRow {
    pub name: String,
    pub default_port: Option<u16>,
    /// The id of the plugin that serves it instead of this one.
    pub served_by: Option<String>,
}

/// One searched directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectoryRow {
    pub path: String,
    pub origin: Origin,
    /// `read`, `absent`, `repeated`, `refused`.
    pub status: &'static str,
    pub reason: Option<String>,
}

/// Every file found, in search order.
pub fn list(registry: &Registry) -> Vec<PluginRow> {
    registry.entries().iter().map(|entry| row(registry, entry)).collect()
}

/// One plugin by its id, or one file. Errors: `Usage` where there is neither.
pub fn info(registry: &Registry, name: &str) -> Result<PluginRow> {
    Ok(row(registry, &*registry.find(name)?))
}

/// The searched directories, in order.
pub fn directories(registry: &Registry) -> Vec<DirectoryRow> {
    let rows = registry.directories().iter().map(|searched| {
        let (status, reason) = match &searched.state {
            DirectoryState::Read => ("read", None),
            DirectoryState::Absent => ("absent", None),
            DirectoryState::Repeated => ("repeated", None),
            DirectoryState::Refused(refusal) => ("refused", Some(refusal.to_string())),
        };
        let path = searched.place.path.display().to_string();
        DirectoryRow { path, origin: searched.place.origin, status, reason }
    });
    rows.collect()
}

fn row(registry: &Registry, entry: &Entry) -> PluginRow {
    let (status, reason, code) = match &entry.status {
        Status::Active => (PluginStatus::Active, None, None),
        Status::Shadowed(by) => {
            let reason = format!("{} comes first and has the same id", by.display());
            (PluginStatus::Shadowed, Some(reason), None)
        }
        Status::NotSearched => {
            let reason = "the file is in no directory that is searched: name its directory with --plugin-dir";
            (PluginStatus::NotSearched, Some(reason.to_owned()), None)
        }
        Status::Refused(refusal) => (PluginStatus::Refused, Some(refusal.to_string()), Some(refusal.code)),
    };
    let meta = entry.metadata.as_ref();
    let text = |get: fn(&offsite_plugin_api::Metadata) -> &String| meta.map(|m| get(m).clone());
    PluginRow {
        id: text(|m| &m.id),
        version: text(|m| &m.version),
        vendor: text(|m| &m.vendor),
        licence: text(|m| &m.licence),
        description: text(|m| &m.description),
        schemes: meta
            .map_or_else(Vec::new, |m| m.schemes.iter().map(|s| scheme(registry, entry, s)).collect()),
        abi: meta.map_or_else(Vec::new, |m| m.abi.clone()),
        triple: text(|m| &m.triple),
        path: entry.path.display().to_string(),
        directory: entry.path.parent().map(|d| d.display().to_string()).unwrap_or_default(),
        origin: entry.origin,
        status,
        reason,
        code,
        options: meta.map_or_else(Vec::new, |m| schema::options(&m.options)),
    }
}

fn scheme(registry: &Registry, entry: &Entry, scheme: &offsite_plugin_api::Scheme) -> SchemeRow {
    let other = registry.by_scheme(&scheme.name).filter(|e| e.path != entry.path);
    SchemeRow {
        name: scheme.name.clone(),
        default_port: scheme.default_port,
        served_by: other.and_then(|e| e.metadata.as_ref()).map(|m| m.id.clone()),
    }
}
