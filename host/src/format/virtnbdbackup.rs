//! virtnbdbackup: `disk.full.data`, `disk.inc.checkpoint.N.data`, `disk.diff.…data`; the whole folder is one set, each
//! disk a tree of its own in it. Checkpoints and configuration belong to the set; `.partial` is being written.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::lineage::Says;
use super::name::{Name, group, pattern, text};
use super::{Format, ImageKind, Link, Recognised, Role};

static IMAGE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(.+?)\.(?:(full|copy)|(inc|diff)\.(.+?))\.data(\.partial)?(\.chksum)?$"));
static CONFIG: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:vmconfig(?:\.virtnbdbackup\.\d+)?\.xml|.+\.cpt|.+\.(?:full|copy|inc|diff)(?:\..+)?\.qcow\.json)$",
    )
});
static CHECKPOINT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^virtnbdbackup\.\d+\.xml$"));

/// A set's files hang on its directory.
fn set(dir: &[u8]) -> String {
    let mut bytes = dir.to_vec();
    bytes.extend_from_slice(b"*.data");
    text(&bytes)
}

pub(super) fn recognise(name: &Name<'_>) -> Option<Recognised> {
    if name.has_extension(&["data", "partial", "chksum"]) {
        return image(name);
    }
    if !name.has_extension(&["xml", "cpt", "json"]) {
        return None;
    }
    let dir = match name.dir.strip_suffix(b"checkpoints/") {
        Some(above) if above.is_empty() || above.ends_with(b"/") => {
            CHECKPOINT.is_match(name.file).then_some(above)?
        }
        _ => CONFIG.is_match(name.file).then_some(name.dir)?,
    };
    Some(Recognised {
        format: Format::Virtnbdbackup,
        set: set(dir),
        image: String::new(),
        kind: ImageKind::Base,
        role: Role::SetFile,
        link: Link::None,
        parts: Vec::new(),
        note: None,
    })
}

fn image(name: &Name<'_>) -> Option<Recognised> {
    let c = IMAGE.captures(name.file)?;
    let tree = branch(group(&c, 1));
    let (kind, link) = match group(&c, 3) {
        b"" => (ImageKind::Base, Link::Number { branch: vec![tree], number: 0, consolidated: false }),
        b"inc" => {
            let number = trailing_number(group(&c, 4))?;
            (ImageKind::Incremental, Link::Number { branch: vec![tree], number, consolidated: false })
        }
        _ => {
            let twig = trailing_number(group(&c, 4)).unwrap_or_else(|| branch(group(&c, 4)));
            (
                ImageKind::Differential,
                Link::Number { branch: vec![tree, twig], number: 0, consolidated: false },
            )
        }
    };
    let role = match (c.get(5), c.get(6)) {
        (Some(_), _) => Role::InProgress,
        (None, Some(_)) => Role::SideCar,
        (None, None) => Role::Anchor,
    };

    let end = name.file.len() - group(&c, 6).len() - group(&c, 5).len();
    Some(Recognised {
        format: Format::Virtnbdbackup,
        set: set(name.dir),
        image: text(&name.file[..end]),
        kind,
        role,
        link,
        parts: Vec::new(),
        note: None,
    })
}

/// `virtnbdbackup.12` -> 12.
fn trailing_number(checkpoint: &[u8]) -> Option<u64> {
    let digits = checkpoint.rsplit(|b| !b.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A disk's tree as a number: stable, in the order of the names, and two disks of one folder never share one.
fn branch(disk: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    if disk.len() < bytes.len() {
        bytes[..disk.len()].copy_from_slice(disk);
    } else {
        // A last byte that is not 0 keeps these apart from short names.
        bytes[..4].copy_from_slice(&disk[..4]);
        bytes[4..7].copy_from_slice(&blake3::hash(disk).as_bytes()[..3]);
        bytes[7] = 1;
    }
    u64::from_be_bytes(bytes)
}

/// The folder is the set.
pub(super) fn says<'a>() -> Option<Says<'a>> {
    Some(Says::Folder)
}
