//! ShadowProtect: base, differential and increment numbers in the name, and a suffix on what ImageManager consolidated
//! (`-cd` daily, `-cw` weekly, `-cm` monthly, `-cr` rolling). A split image goes on in `.sp1`, `.sp2`, …
//!
//! After a consolidation the parent is not the number before: it is the highest smaller number that still exists.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::lineage::Says;
use super::name::{Name, group, number, pattern, text};
use super::{Format, ImageKind, Link, Recognised, Role};

/// Without an extension: side-cars share it.
const STEM: &str = r"^(.+)-b(\d{3,})(?:-d(\d{3,}))?(?:-i(\d{3,}))?((?:-c[dwmr])*)";

static IMAGE: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r"{STEM}\.(?i:spf|spi|sp(\d+))$")));
static SIDE_CAR: LazyLock<Regex> =
    LazyLock::new(|| pattern(&format!(r"{STEM}(?:\.(?i:spf|spi|sp\d+))?\.(?i:md5|spk|bitmap)$")));

pub(super) fn recognise(name: &Name<'_>) -> Option<Recognised> {
    let extension = name.extension();
    let side_car = name.has_extension(&["md5", "spk", "bitmap"]);
    if !side_car && !extension.get(..2).is_some_and(|e| e.eq_ignore_ascii_case(b"sp")) {
        return None;
    }
    let c = if side_car { SIDE_CAR.captures(name.file)? } else { IMAGE.captures(name.file)? };
    let differential = if c.get(3).is_some() { number(&c, 3)? } else { 0 };
    let increment = if c.get(4).is_some() { number(&c, 4)? } else { 0 };
    let kind = match (differential, increment) {
        (0, 0) => ImageKind::Base,
        (_, 0) => ImageKind::Differential,
        _ => ImageKind::Incremental,
    };
    let role = if side_car {
        Role::SideCar
    } else if c.get(6).is_some() {
        // .sp1 is the second file.
        Role::Part(u32::try_from(number(&c, 6)?).ok()?.checked_add(1).filter(|&n| n > 1)?)
    } else {
        Role::Anchor
    };
    let suffix = group(&c, 5);
    Some(Recognised {
        format: Format::ShadowProtect,
        set: name.set(&[group(&c, 1), b"-b", group(&c, 2), b".spf"]),
        image: format!("d{differential:04}i{increment:08}{}", text(suffix)),
        kind,
        role,
        link: Link::Number {
            branch: if differential == 0 { Vec::new() } else { vec![differential] },
            number: increment,
            consolidated: !suffix.is_empty(),
        },
        parts: Vec::new(),
        note: None,
    })
}

/// Whose set it is: the volume.
pub(super) fn says<'a>(name: &Name<'a>) -> Option<Says<'a>> {
    let c = IMAGE.captures(name.file)?;
    Some(Says::Host(group(&c, 1).to_vec(), Some([number(&c, 2)?, 0])))
}
