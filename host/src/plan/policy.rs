//! Policies: what counts as new since the option took effect, and the sub-folder a set is replicated into.
//!
//! "New" is judged by identities kept in a baseline, never by clocks. The sub-folder of a set is a function of the
//! set alone (its name, and the day its first image was written), so the same set always goes to the same place and a
//! second plan finds what the first one sent.

use offsite_plugin_api::TargetPath;

use super::{Baseline, Names, Policy};
use crate::chain::{Chains, ImageSet};
use crate::error::{Error, Kind, Result};
use crate::format::ImageKind;
use crate::source::Inventory;

impl Baseline {
    /// The identities present now: images, and files still being written (one of them may be an image's anchor).
    pub fn take(source: &Chains, inventory: &Inventory, now_ns: i64) -> Self {
        let images = source.sets.iter().flat_map(|s| s.images.iter().map(|i| i.id.clone()));
        let unsettled = inventory.unsettled.iter().map(|u| u.path.clone());
        Self { images: images.chain(unsettled).collect(), taken_ns: now_ns }
    }
}

/// Whether the policy leaves the whole set out, whatever its images are.
pub(crate) fn set_left_out(policy: Option<Policy>, baseline: &Baseline, set: &ImageSet) -> bool {
    if policy != Some(Policy::NewSets) {
        return false;
    }
    let mut bases = set.images.iter().filter(|i| i.kind == ImageKind::Base).peekable();
    if bases.peek().is_none() {
        // Its base is gone: it is an old set if any of it was there.
        return set.images.iter().any(|i| baseline.images.contains(&i.id));
    }
    bases.all(|b| baseline.images.contains(&b.id))
}

/// Whether the policy leaves this image out.
pub(crate) fn image_left_out(policy: Option<Policy>, baseline: &Baseline, id: &TargetPath) -> bool {
    policy == Some(Policy::NewImages) && baseline.images.contains(id)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Job,
    Host,
    Set,
    Date,
}

/// A sub-folder template: text with `{job}`, `{host}`, `{set}` and `{date}`, `/` between folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    folders: Vec<Vec<Piece>>,
}

impl Template {
    /// Errors: [`Kind::Config`] for an unknown placeholder, an open brace, or folders that leave the target.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: String| {
            Error::new(Kind::Config, "the sub-folder template cannot be used")
                .on(text)
                .because(why)
                .hint("use folder names, '/' and {job}, {host}, {set}, {date}")
        };
        let mut folders = Vec::new();
        for folder in text.split('/') {
            if matches!(folder, "" | "." | "..") {
                return Err(refuse("it has an empty folder, '.' or '..'".into()));
            }
            if folder.contains(|c: char| c.is_control()) {
                return Err(refuse("it contains a control character".into()));
            }
            folders.push(pieces(folder).map_err(refuse)?);
        }
        Ok(Self { folders })
    }

    /// The folder of one set. `set` is untrusted (it comes from file names): whatever could leave the folder or be
    /// refused by the server is replaced. `written_ns`: when the set's first image was written.
    pub(crate) fn render(
        &self,
        names: &Names,
        set: &str,
        written_ns: Option<i64>,
        refused: &str,
    ) -> TargetPath {
        let mut path = Vec::new();
        for folder in &self.folders {
            let mut name = String::new();
            for piece in folder {
                match piece {
                    Piece::Text(text) => name.push_str(text),
                    Piece::Job => name.push_str(&clean(&names.job, refused)),
                    Piece::Host => name.push_str(&clean(&names.host, refused)),
                    Piece::Set => name.push_str(&clean(set, refused)),
                    Piece::Date => name.push_str(&date(written_ns)),
                }
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(whole(name).as_bytes());
        }
        TargetPath::new(path).unwrap_or_default()
    }
}

fn pieces(folder: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = folder;
    while let Some(open) = rest.find(['{', '}']) {
        if rest.as_bytes()[open] == b'}' {
            return Err("'}' without '{'".into());
        }
        if open > 0 {
            pieces.push(Piece::Text(rest[..open].into()));
        }
        let Some(close) = rest[open..].find('}') else {
            return Err("'{' without '}'".into());
        };
        pieces.push(match &rest[open + 1..open + close] {
            "job" => Piece::Job,
            "host" => Piece::Host,
            "set" => Piece::Set,
            "date" => Piece::Date,
            other => return Err(format!("'{{{other}}}' is not known")),
        });
        rest = &rest[open + close + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

/// One value as part of a folder name: separators, control and refused characters become `_`.
fn clean(value: &str, refused: &str) -> String {
    value
        .chars()
        .map(|c| if matches!(c, '/' | '\\') || c.is_control() || refused.contains(c) { '_' } else { c })
        .collect()
}

/// A rendered folder name that no server takes for something else: never empty, no leading dot, no trailing dot or
/// space, at most 120 bytes (cut names stay distinct by a digest of the whole).
fn whole(name: String) -> String {
    const LONGEST: usize = 120;
    let trimmed = name.trim_end_matches(['.', ' ']).trim_start_matches([' ']);
    let mut name = match trimmed.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None if trimmed.is_empty() => "_".into(),
        None => trimmed.to_owned(),
    };
    if name.len() > LONGEST {
        let digest = blake3::hash(name.as_bytes()).to_hex();
        let mut cut = LONGEST - 9;
        while !name.is_char_boundary(cut) {
            cut -= 1;
        }
        name.truncate(cut);
        name.push('-');
        name.push_str(&digest[..8]);
    }
    name
}

/// The day in UTC, so that every machine names it alike.
fn date(ns: Option<i64>) -> String {
    ns.and_then(|ns| jiff::Timestamp::from_nanosecond(i128::from(ns)).ok())
        .map_or_else(|| "undated".into(), |t| t.strftime("%Y-%m-%d").to_string())
}
