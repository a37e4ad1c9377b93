//! Macrium Reflect: `set-II-FF`, the increment (00 is the full one) and a file number that runs on through the whole
//! set, so that a split image is several consecutive files.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::lineage::Says;
use super::name::{Name, group, number, pattern};
use super::{Format, ImageKind, Link, Recognised, Role};

static IMAGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(.+)-(\d{2,})-(\d{2,})\.(?i:(mrimg|mrbak)x?)$"));

pub(super) fn recognise(name: &Name<'_>) -> Option<Recognised> {
    if !name.has_extension(&["mrimg", "mrimgx", "mrbak", "mrbakx"]) {
        return None;
    }
    let c = IMAGE.captures(name.file)?;
    let increment = number(&c, 2)?;
    let file = u32::try_from(number(&c, 3)?).ok()?;
    Some(Recognised {
        format: Format::Macrium,
        set: name.set(&[group(&c, 1), b".", &group(&c, 4).to_ascii_lowercase()]),
        image: format!("i{increment:08}"),
        kind: if increment == 0 { ImageKind::Base } else { ImageKind::Incremental },
        // Which file of an image is its first shows only beside the others.
        role: Role::Running(file),
        link: Link::Number { branch: Vec::new(), number: increment, consolidated: false },
        parts: Vec::new(),
        note: None,
    })
}

/// Only what the set is called, as a rule by its identity.
pub(super) fn says<'a>(name: &Name<'a>) -> Option<Says<'a>> {
    let c = IMAGE.captures(name.file)?;
    Some(Says::Set(group(&c, 1)))
}
