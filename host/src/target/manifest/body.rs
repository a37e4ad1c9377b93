//! What one manifest says: its form, its names, and everything that can be checked of it without its target.

use std::collections::BTreeMap;

use offsite_plugin_api::{TargetPath, Timestamp};
use serde::{Deserialize, Serialize};

use crate::catalog::Published;
use crate::chain::Span;
use crate::error::Result;
use crate::format::{Format, ImageKind, Recognised};
use crate::plan::{Baseline, Policy};
use crate::target::{Recorded, VerifyLevel, names};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(rename = "offsite-manifest")]
    version: u32,
    /// Of the body, hexadecimal.
    blake3: String,
    /// Of the body.
    bytes: u64,
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
    files: Vec<File>,
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
}

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

pub(super) fn encode(body: &Body) -> Vec<u8> {
    let text = serde_json::to_vec(body).expect("a manifest always serialises");
    let header = Header {
        version: VERSION,
        blake3: blake3::hash(&text).to_hex().to_string(),
        bytes: text.len() as u64,
    };
    let mut file = serde_json::to_vec(&header).expect("a header always serialises");
    file.push(b'\n');
    file.extend(text);
    file
}

/// Everything that can be checked of one manifest without its target. Errors: why it is not valid, in words.
pub(super) fn decode(bytes: &[u8], hash: &str, sequence: u64) -> Result<Body, String> {
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
    }
    Ok(body)
}

pub(super) fn published(set: &str, image: &Image) -> Result<Vec<Published>, String> {
    image
        .files
        .iter()
        .map(|file| {
            let blake3 = match &file.blake3 {
                None => None,
                Some(text) => {
                    let mut hash = [0; 32];
                    hex::decode_to_slice(text, &mut hash).map_err(|e| format!("a hash in it: {e}"))?;
                    Some(hash)
                }
            };
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
                    parent: None,
                    head: None,
                    mount: None,
                },
                span: image.span.filter(|s| anchor && s.first < s.last),
            })
        })
        .collect()
}
pub(super) fn body_of(set: &str, files: Vec<Published>) -> Body {
    let mut images: BTreeMap<TargetPath, Image> = BTreeMap::new();
    for file in files {
        let anchor = file.is_anchor();
        let r = file.record;
        let image = images.entry(r.image.clone()).or_insert_with(|| Image {
            image: r.image.clone(),
            format: None,
            kind: None,
            span: None,
            files: Vec::new(),
        });
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
        });
    }
    Body { set: set.to_owned(), sequence: 0, images: images.into_values().collect(), baseline: None }
}
