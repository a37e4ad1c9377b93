//! One file per image format: recognised by name and header, giving identity and parent link.
//!
//! Names and headers are untrusted bytes. Nothing here opens a file: [`recognise`] is handed a way to read its head.

mod acronis;
mod activeimage;
mod lineage;
mod macrium;
mod name;
mod qcow2;
mod shadowprotect;
pub mod signature;
mod veeam;
mod virtnbdbackup;
mod vzdump;

pub use lineage::{Lineage, lineage};
use offsite_plugin_api::TargetPath;
use serde::{Deserialize, Serialize};

/// The product family whose files these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Qcow2,
    /// ActiveImage Protector, disk images (2018 and 2022 names) and file backups.
    ActiveImage,
    ShadowProtect,
    Macrium,
    /// Acronis True Image, .tib and .tibx.
    Acronis,
    Veeam,
    Virtnbdbackup,
    Vzdump,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    Base,
    Incremental,
    Differential,
}

/// What one file is within its image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The file that makes the image visible: its first part or descriptor.
    Anchor,
    /// A further part of a split image, from 2.
    Part(u32),
    /// One of the files of an image that may be split, by a number that runs on through the whole set (Macrium): the
    /// lowest of an image is its anchor, and `assemble` says so (an assembled image holds `Anchor` and `Part` only).
    Running(u32),
    /// Travels with its image (.md5, .chksum, .log, …).
    SideCar,
    /// Belongs to the set rather than to one image, and is published after everything else of it (Veeam's .vbm).
    SetFile,
    /// Written while a backup runs; never replicated (.partial, .spwb).
    InProgress,
}

/// How an image names its parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Link {
    /// A base: depends on nothing.
    None,
    /// The header names the parent's file: its path relative to the source's root, already checked to stay inside.
    File(TargetPath),
    /// The header names a parent outside the source, or one no path can be made of: never present here.
    Outside(String),
    /// By position: the parent is the image of this set (and branch) with the next smaller number. `consolidated`:
    /// the name itself says that this image holds the ones before it, back to the highest that still exists.
    Number { branch: Vec<u64>, number: u64, consolidated: bool },
    /// By identity: `id` is this image's own, `parent` its parent's.
    Id { id: String, parent: Option<String> },
    /// The name gives no order; within the set, by modification time.
    Time,
    /// By the date in the name, which leaves no gap to see. `reverse`: the parent is the next later image instead of
    /// the next earlier one (Veeam's reverse increments).
    Moment { at: u64, reverse: bool },
}

/// What a format says about one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recognised {
    pub format: Format,
    /// Images of one set share it: the directory and what the format names the set by. Opaque.
    pub set: String,
    /// Files of one image share it within the set. Opaque; sorts like the paths, so that sorting costs nothing.
    pub image: String,
    pub kind: ImageKind,
    pub role: Role,
    pub link: Link,
    /// Files that its header names as holding its content (a qcow2's external data file): they are parts of it.
    #[serde(default)]
    pub parts: Vec<TargetPath>,
    /// Something its header shows that a user should know (marked corrupt, not closed cleanly), in words.
    #[serde(default)]
    pub note: Option<String>,
}

/// What a file's first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    Known(Recognised),
    /// No format that is known by its header.
    Unknown,
    /// Undecided: call again with that many of the file's first bytes (at most [`LONGEST_HEAD`]).
    More(usize),
}

/// Bytes at most that a header needs: qcow2's largest cluster is 2 MiB.
pub const LONGEST_HEAD: usize = 2 << 20;

/// Bytes to offer first: nearly every header is decided by them.
pub const FIRST_HEAD: usize = 4 << 10;

/// Changes whenever a header would be understood differently: what was remembered of it is then read again.
pub const REVISION: u32 = 1;

/// The formats that are known by name. The order decides only where two patterns match one name; none do today.
const BY_NAME: [fn(&name::Name<'_>) -> Option<Recognised>; 7] = [
    activeimage::recognise,
    shadowprotect::recognise,
    macrium::recognise,
    acronis::recognise,
    veeam::recognise,
    virtnbdbackup::recognise,
    vzdump::recognise,
];

/// Extensions of files that are no image and whose header is not worth a read, over a network least of all.
const NEVER_AN_IMAGE: [&str; 34] = [
    "txt", "log", "xml", "json", "yaml", "yml", "toml", "conf", "cfg", "ini", "md", "csv", "html", "md5",
    "sha1", "sha256", "sha512", "sig", "asc", "gpg", "gz", "xz", "zst", "bz2", "lzo", "zip", "7z", "tar",
    "tgz", "pdf", "jpg", "png", "db", "sqlite",
];

/// What the name alone says; `None` for a name that no format knows.
pub fn recognise_name(path: &TargetPath) -> Option<Recognised> {
    let name = name::Name::of(path);
    BY_NAME.iter().find_map(|recognise| recognise(&name))
}

/// Whether the header may say what the name does not. qcow2 images bear any name, so most unknown names do.
pub fn wants_header(path: &TargetPath) -> bool {
    let name = name::Name::of(path);
    !name.has_extension(&NEVER_AN_IMAGE) && in_progress(path).is_none() && recognise_name(path).is_none()
}

/// What the first bytes of a file of `size` bytes say. Start with [`FIRST_HEAD`] bytes (or all there are).
/// Errors: the format is known, but the header cannot be true; in words.
pub fn recognise_header(path: &TargetPath, size: u64, head: &[u8]) -> Result<Header, String> {
    qcow2::recognise(path, size, head)
}

/// Name first, then header where the name says nothing. `read` gives the file's first bytes, at most as many as asked
/// for, fewer only at its end. A damaged header makes an image that nothing can restore, never an error: errors are
/// those of `read`.
pub fn recognise<E>(
    path: &TargetPath,
    size: u64,
    mut read: impl FnMut(usize) -> Result<Vec<u8>, E>,
) -> Result<Option<Recognised>, E> {
    if let Some(recognised) = recognise_name(path) {
        return Ok(Some(recognised));
    }
    if !wants_header(path) {
        return Ok(None);
    }
    let mut want = FIRST_HEAD;
    loop {
        let head = read(want)?;
        match recognise_header(path, size, &head) {
            Ok(Header::Known(recognised)) => return Ok(Some(recognised)),
            Ok(Header::Unknown) => return Ok(None),
            Ok(Header::More(more)) if more > head.len() && more > want && more <= LONGEST_HEAD => want = more,
            Ok(Header::More(_)) => {
                return Ok(Some(qcow2::damaged(path, "it ends within its header".to_owned())));
            }
            Err(why) => return Ok(Some(qcow2::damaged(path, why))),
        }
    }
}

/// A path as text, one to one also where it is not UTF-8.
pub(crate) fn show(path: &TargetPath) -> String {
    name::text(path.as_bytes())
}

/// Whether the name is one that is used while a file is being written; the reason in words. Such files are never
/// replicated, whatever else their name says.
pub fn in_progress(path: &TargetPath) -> Option<&'static str> {
    let name = name::Name::of(path);
    if name.has_extension(&[
        "partial",
        "part",
        "tmp",
        "temp",
        "crdownload",
        "filepart",
        "inprogress",
        "lock",
        "lck",
    ]) {
        return Some("its name is that of a file still being written");
    }
    if name.has_extension(&["spwb"]) {
        return Some("it is ShadowProtect's write buffer, not an image");
    }
    if name.file.starts_with(b".nfs") || name.file.starts_with(b".fuse_hidden") {
        return Some("it was deleted while open; the file system keeps it until it is closed");
    }
    None
}

#[cfg(test)]
mod tests;
