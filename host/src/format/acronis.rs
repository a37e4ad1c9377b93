//! Acronis True Image. `.tib` names say everything: kind, chain, slice and volume (a split slice's further files).
//! `.tibx` names give a number at most; such files change in place.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::lineage::Says;
use super::name::{Name, group, number, pattern};
use super::{Format, ImageKind, Link, Recognised, Role};

static TIB: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(.+)_(full|inc|diff)_b(\d+)_s(\d+)_v(\d+)(?:-(\d+))?\.(?i:tib)$"));
static TIBX: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(.+?)(?:[_-](\d{4}))?\.(?i:tibx)$"));

pub(super) fn recognise(name: &Name<'_>) -> Option<Recognised> {
    if name.has_extension(&["tib"]) {
        return tib(name);
    }
    if name.has_extension(&["tibx"]) {
        return tibx(name);
    }
    None
}

fn tib(name: &Name<'_>) -> Option<Recognised> {
    let c = TIB.captures(name.file)?;
    let kind = match group(&c, 2) {
        b"full" => ImageKind::Base,
        b"inc" => ImageKind::Incremental,
        _ => ImageKind::Differential,
    };
    let slice = number(&c, 4)?;
    let role = match u32::try_from(number(&c, 5)?).ok()? {
        0 | 1 => Role::Anchor,
        volume => Role::Part(volume),
    };
    Some(Recognised {
        format: Format::Acronis,
        set: name.set(&[group(&c, 1), b"_b", group(&c, 3), b".tib"]),
        // The last number only avoids a clash of names: two files that differ by it alone are two images.
        image: format!("s{slice:08}-{}", String::from_utf8_lossy(group(&c, 6))),
        kind,
        role,
        link: Link::Number { branch: Vec::new(), number: slice, consolidated: false },
        parts: Vec::new(),
        note: None,
    })
}

fn tibx(name: &Name<'_>) -> Option<Recognised> {
    let c = TIBX.captures(name.file)?;
    let number = if c.get(2).is_some() { number(&c, 2)? } else { 0 };
    Some(Recognised {
        format: Format::Acronis,
        set: name.set(&[group(&c, 1), b".tibx"]),
        image: format!("i{number:08}"),
        kind: if number == 0 { ImageKind::Base } else { ImageKind::Incremental },
        role: Role::Anchor,
        link: Link::Number { branch: Vec::new(), number, consolidated: false },
        parts: Vec::new(),
        note: None,
    })
}

/// Whose set it is: what the user named the backup. A `.tibx` has no other set of its name.
pub(super) fn says<'a>(name: &Name<'a>) -> Option<Says<'a>> {
    if let Some(c) = TIB.captures(name.file) {
        return Some(Says::Host(group(&c, 1).to_vec(), Some([number(&c, 3)?, 0])));
    }
    let c = TIBX.captures(name.file)?;
    Some(Says::Host(group(&c, 1).to_vec(), None))
}
