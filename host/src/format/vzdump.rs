//! Proxmox vzdump: full backups only, each its own set, with `.log`, `.notes` and `.protected` beside them.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::lineage::Says;
use super::name::{Name, group, pattern, text};
use super::{Format, ImageKind, Link, Recognised, Role};

const STEM: &str = r"^(vzdump-(?:lxc|openvz|qemu)-[1-9]\d{2,8}-\d{4}_\d{2}_\d{2}-\d{2}_\d{2}_\d{2})";

static IMAGE: LazyLock<Regex> =
    LazyLock::new(|| pattern(&format!(r"{STEM}\.((?:tgz|tar|vma)(?:\.(?:gz|lzo|zst|bz2))?)$")));
static SIDE_CAR: LazyLock<Regex> = LazyLock::new(|| {
    pattern(&format!(r"{STEM}(?:\.(?:tgz|tar|vma)(?:\.(?:gz|lzo|zst|bz2))?)?\.(?:log|notes|protected)$"))
});

pub(super) fn recognise(name: &Name<'_>) -> Option<Recognised> {
    if !name.file.starts_with(b"vzdump-") {
        return None;
    }
    let (c, role) = match IMAGE.captures(name.file) {
        Some(c) => (c, Role::Anchor),
        None => (SIDE_CAR.captures(name.file)?, Role::SideCar),
    };
    Some(Recognised {
        format: Format::Vzdump,
        set: name.set(&[group(&c, 1), b".vma"]),
        image: text(group(&c, 1)),
        kind: ImageKind::Base,
        role,
        link: Link::None,
        parts: Vec::new(),
        note: None,
    })
}

/// Whose set it is: the guest.
pub(super) fn says<'a>(name: &Name<'a>) -> Option<Says<'a>> {
    let c = IMAGE.captures(name.file)?;
    let stem = group(&c, 1);
    // `2024_01_01-00_00_00`
    let (guest, moment) = stem.split_at_checked(stem.len().checked_sub(20)?)?;
    let digits: String = moment.iter().filter(|b| b.is_ascii_digit()).map(|&b| b as char).collect();
    Some(Says::Host(guest.to_vec(), Some([digits.parse().ok()?, 0])))
}
