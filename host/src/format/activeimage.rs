//! ActiveImage Protector. Disk images of 2018 carry host, prefix, date, disk, set and increment in the name; those of
//! 2022 a UUID and no order at all (the folder is the set, time orders it); file backups a base and an increment.
//!
//! A consolidated image keeps the last increment's name, so nothing in a name tells it from a plain one.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::lineage::Says;
use super::name::{Name, group, number, pattern};
use super::{Format, ImageKind, Link, Recognised, Role};

static DISK_2018: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^([^@\\/]+)@(.+?)_(\d{8})_d(\d{2,})_(\d{5})(?:_i(\d{5}))?\.(aiv|aii)$"));
static DISK_2022: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})_([0-9A-Za-z]+)\.(aiv|aii)$")
});
static FILES: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(.+?)_(\d{8})_(\d{4})_b(\d{5})(?:_i(\d{5}))?\.afb$"));

pub(super) fn recognise(name: &Name<'_>) -> Option<Recognised> {
    if name.has_extension(&["aiv", "aii"]) {
        return disk_2018(name).or_else(|| disk_2022(name));
    }
    if name.has_extension(&["afb"]) {
        return files(name);
    }
    None
}

fn disk_2018(name: &Name<'_>) -> Option<Recognised> {
    let c = DISK_2018.captures(name.file)?;
    let increment = match (group(&c, 7), c.get(6)) {
        (b"aiv", None) => 0,
        (b"aii", Some(_)) => number(&c, 6)?,
        _ => return None,
    };
    let set = c.get(5).map_or(name.file, |m| &name.file[..m.end()]);
    Some(numbered(name.set(&[set, b".aiv"]), increment))
}

fn disk_2022(name: &Name<'_>) -> Option<Recognised> {
    let c = DISK_2022.captures(name.file)?;
    let kind = if group(&c, 3) == b"aiv" { ImageKind::Base } else { ImageKind::Incremental };
    Some(Recognised {
        format: Format::ActiveImage,
        set: name.set(&[b"*.aiv"]),
        image: super::name::text(name.stem()),
        kind,
        role: Role::Anchor,
        link: Link::Time,
        parts: Vec::new(),
        note: None,
    })
}

fn files(name: &Name<'_>) -> Option<Recognised> {
    let c = FILES.captures(name.file)?;
    let increment = if c.get(5).is_some() { number(&c, 5)? } else { 0 };
    // Date and time are left out of the set: the base's number already tells generations apart.
    Some(numbered(name.set(&[group(&c, 1), b"_b", group(&c, 4), b".afb"]), increment))
}

fn numbered(set: String, increment: u64) -> Recognised {
    Recognised {
        format: Format::ActiveImage,
        set,
        image: format!("i{increment:08}"),
        kind: if increment == 0 { ImageKind::Base } else { ImageKind::Incremental },
        role: Role::Anchor,
        link: Link::Number { branch: Vec::new(), number: increment, consolidated: false },
        parts: Vec::new(),
        note: None,
    }
}

/// Whose set it is: host, prefix and disk; for the names of 2022 only the folder says it.
pub(super) fn says<'a>(name: &Name<'a>) -> Option<Says<'a>> {
    if let Some(c) = DISK_2018.captures(name.file) {
        let host = [group(&c, 1), b"@", group(&c, 2), b"_d", group(&c, 4)].concat();
        return Some(Says::Host(host, Some([number(&c, 3)?, number(&c, 5)?])));
    }
    if let Some(c) = FILES.captures(name.file) {
        return Some(Says::Host(group(&c, 1).to_vec(), Some([number(&c, 4)?, 0])));
    }
    DISK_2022.is_match(name.file).then_some(Says::Folder)
}
