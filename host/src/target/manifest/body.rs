//! What one manifest says: its form, its names, and everything that can be checked of it without its target.

use std::collections::BTreeMap;

use offsite_plugin_api::{TargetPath, Timestamp};
use serde::{Deserialize, Serialize};

use super::key::Key;
use super::pieces;
use crate::catalog::Published;
use crate::chain::Span;
use crate::error::Result;
use crate::format::{Format, ImageKind, Recognised};
use crate::plan::{Baseline, Policy};
use crate::target::{ParentRecord, Recorded, VerifyLevel, names};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(rename = "offsite-manifest")]
    version: u32,
    /// Of the body, hexadecimal.
    blake3: String,
    /// Of the body.
    bytes: u64,
    /// Which key signed it, and its signature of the body, which names set and sequence. Versions that know of neither read the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
}

/// Whose word a manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Signed with this target's key.
    Signed,
    /// Not signed, or with a key that is not here.
    Unproven,
}

/// What a manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    /// The set's id, or the policy's name for a baseline.
    pub set: String,
    pub sequence: u64,
    #[serde(default)]
    pub images: Vec<Image>,
    #[serde(default)]
    pub baseline: Option<Baseline>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Image {
    /// The anchor relative to the source.
    image: TargetPath,
    #[serde(default)]
    format: Option<Format>,
    #[serde(default)]
    kind: Option<ImageKind>,
    /// The run it holds, where longer than one.
    #[serde(default)]
    span: Option<Span>,
    /// What it was published upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<Parent>,
    files: Vec<File>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parent {
    /// The parent's anchor on the target.
    path: TargetPath,
    /// Hexadecimal.
    blake3: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    /// On the target.
    path: TargetPath,
    /// Relative to the source, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<TargetPath>,
    size: u64,
    /// Hexadecimal.
    blake3: Option<String>,
    source_mtime_ns: i64,
    #[serde(default)]
    target_mtime: Option<Timestamp>,
    /// Where listings tell no time, this says whether the file is the one that was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_version: Option<String>,
    level: VerifyLevel,
    #[serde(default)]
    recognised: Option<Recognised>,
    /// The content's first bytes, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<String>,
    /// The file system that the source file lay on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mount: Option<String>,
}

/// Bytes of a file system's identity at most: a server can write anything.
const LONGEST_MOUNT: usize = 4096;

/// 32 hexadecimal digits that stand for a set.
pub fn set_hash(set: &str) -> String {
    let mut text = blake3::hash(set.as_bytes()).to_hex().to_string();
    text.truncate(32);
    text
}

pub(super) fn baseline_name(policy: Policy) -> &'static str {
    match policy {
        Policy::NewImages => "baseline-new-images",
        Policy::NewSets => "baseline-new-sets",
    }
}

pub(super) fn baseline_of(name: &str) -> Option<Policy> {
    [Policy::NewImages, Policy::NewSets].into_iter().find(|p| baseline_name(*p) == name)
}

/// Where a generation is.
pub(super) fn place(hash: &str, sequence: u64) -> Result<TargetPath> {
    Ok(TargetPath::new(format!("{}/{hash}.{sequence:010}", names::MANIFESTS))?)
}

/// (hash, sequence) of a manifest's name; `None` for anything else in that directory.
pub fn parse_name(path: &TargetPath) -> Option<(String, u64)> {
    let name = std::str::from_utf8(path.as_bytes()).ok()?;
    let name = name.strip_prefix(names::MANIFESTS)?.strip_prefix('/')?;
    let (hash, sequence) = name.split_once('.')?;
    let hex = hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let digits = (10..=19).contains(&sequence.len()) && sequence.bytes().all(|b| b.is_ascii_digit());
    if !(hex || baseline_of(hash).is_some()) || !digits {
        return None;
    }
    Some((hash.to_owned(), sequence.parse().ok()?))
}

pub(super) fn content_digest(body: &Body) -> [u8; 32] {
    let text = serde_json::to_vec(&(&body.images, &body.baseline)).expect("a manifest always serialises");
    blake3::hash(&text).into()
}

pub(super) fn encode(body: &Body, key: Option<&Key>) -> Vec<u8> {
    let text = serde_json::to_vec(body).expect("a manifest always serialises");
    let header = Header {
        version: VERSION,
        blake3: blake3::hash(&text).to_hex().to_string(),
        bytes: text.len() as u64,
        key: key.map(|k| k.id().to_owned()),
        mac: key.map(|k| k.sign(&text)),
    };
    let mut file = serde_json::to_vec(&header).expect("a header always serialises");
    file.push(b'\n');
    file.extend(text);
    file
}

/// Everything that can be checked of one manifest without its target. Errors: why it is not valid, in words.
pub(super) fn decode(
    bytes: &[u8],
    hash: &str,
    sequence: u64,
    key: Option<&Key>,
) -> Result<(Body, Word), String> {
    let end = bytes.iter().take(1024).position(|&b| b == b'\n').ok_or("it has no header line")?;
    let (head, text) = (&bytes[..end], &bytes[end + 1..]);
    let header: Header = serde_json::from_slice(head).map_err(|e| format!("its header: {e}"))?;
    if header.version != VERSION {
        return Err(format!("its version is {}, this offsite knows {VERSION}", header.version));
    }
    if header.bytes != text.len() as u64 {
        return Err(format!("it is cut off: {} of {} bytes", text.len(), header.bytes));
    }
    if blake3::hash(text).to_hex().as_str() != header.blake3 {
        return Err("its digest is wrong".to_owned());
    }
    let word = match (key, &header.key, &header.mac) {
        (Some(key), Some(id), Some(mac)) if key.id() == id => {
            if !key.signed(text, mac) {
                return Err("its signature is wrong: somebody without this target's key wrote it".to_owned());
            }
            Word::Signed
        }
        _ => Word::Unproven,
    };
    let body: Body = serde_json::from_slice(text).map_err(|e| format!("its body: {e}"))?;
    let policy = baseline_of(hash);
    let own_name = match policy {
        Some(policy) => body.set == baseline_name(policy) && body.images.is_empty(),
        None => set_hash(&body.set) == hash && body.baseline.is_none(),
    };
    if !own_name || body.sequence != sequence {
        return Err("it is another manifest under this name".to_owned());
    }
    for image in &body.images {
        let mut paths = image.files.iter().flat_map(|f| [Some(&f.path), f.source.as_ref()]).flatten();
        if paths.any(|p| p.is_root() || names::is_own(p)) {
            return Err("it names a path that no image has".to_owned());
        }
        if image.span.is_some_and(|s| s.first > s.last) {
            return Err("it has a span that ends before it begins".to_owned());
        }
        if image.parent.as_ref().is_some_and(|p| p.path.is_root() || names::is_own(&p.path)) {
            return Err("it names a parent that no image has".to_owned());
        }
        if image.files.iter().any(|f| f.mount.as_ref().is_some_and(|m| m.len() > LONGEST_MOUNT)) {
            return Err("it names a file system in more than 4096 bytes".to_owned());
        }
    }
    Ok((body, word))
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|e| format!("a hash in it: {e}"))?;
    Ok(bytes)
}

/// `unit`: what the manifest is about.
pub(super) fn published(unit: &str, image: &Image) -> Result<Vec<Published>, String> {
    let set = pieces::set_of(unit);
    let parent = match &image.parent {
        None => None,
        Some(p) => Some(Box::new(ParentRecord { path: p.path.clone(), blake3: unhex(&p.blake3)? })),
    };
    image
        .files
        .iter()
        .map(|file| {
            let blake3 = file.blake3.as_deref().map(unhex).transpose()?;
            let head = file.head.as_deref().map(unhex).transpose()?;
            let source = file.source.clone().unwrap_or_else(|| file.path.clone());
            let anchor = source == image.image;
            Ok(Published {
                path: file.path.clone(),
                source: Some(source),
                record: Recorded {
                    size: file.size,
                    blake3,
                    source_mtime_ns: file.source_mtime_ns,
                    source_ctime_ns: 0,
                    source_inode: 0,
                    target_version: file.target_version.clone(),
                    target_mtime: file.target_mtime,
                    level: file.level,
                    recognised: file.recognised.clone(),
                    set: set.to_owned(),
                    image: image.image.clone(),
                    parent: parent.clone().filter(|_| anchor),
                    head,
                    mount: file.mount.as_deref().map(Into::into),
                },
                span: image.span.filter(|s| anchor && s.first < s.last),
            })
        })
        .collect()
}

/// By image, in the order of their paths at the source.
pub(super) fn images_of(files: Vec<Published>) -> Vec<Image> {
    let mut images: BTreeMap<TargetPath, Image> = BTreeMap::new();
    for file in files {
        let anchor = file.is_anchor();
        let r = file.record;
        let image = images.entry(r.image.clone()).or_insert_with(|| Image {
            image: r.image.clone(),
            format: None,
            kind: None,
            span: None,
            parent: None,
            files: Vec::new(),
        });
        if let Some(parent) = r.parent.filter(|_| anchor) {
            image.parent = Some(Parent { path: parent.path, blake3: hex::encode(parent.blake3) });
        }
        if let Some(recognised) = r.recognised.as_ref().filter(|_| anchor) {
            image.format = Some(recognised.format);
            image.kind = Some(recognised.kind);
        }
        image.span = image.span.or(file.span);
        image.files.push(File {
            source: file.source.filter(|s| *s != file.path),
            path: file.path,
            size: r.size,
            blake3: r.blake3.map(hex::encode),
            source_mtime_ns: r.source_mtime_ns,
            target_mtime: r.target_mtime,
            target_version: r.target_version,
            level: r.level,
            recognised: r.recognised,
            head: r.head.map(hex::encode),
            mount: r.mount.map(|m| m.to_string()),
        });
    }
    images.into_values().collect()
}
