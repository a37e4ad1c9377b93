//! Veeam: `.vbk` full, `.vib` forward increment, `.vrb` reverse increment (its parent is the next later file), ordered
//! by the date in the name. The `.vbm` metadata belongs to the set and changes with every run.

use std::sync::LazyLock;

use regex::bytes::{Captures, Regex};

use super::lineage::Says;
use super::name::{Name, group, pattern, text};
use super::{Format, ImageKind, Link, Recognised, Role};

static IMAGE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(.+?)(?:\.(vm-\d+))?D(\d{4}-\d{2}-\d{2}T\d{6})(?:_([0-9A-Z]+))?\.(?i:(vbk|vib|vrb))$")
});
static META: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(.+?)(?:\.(vm-\d+))?(?:_[0-9A-Z]{4,5})?\.(?i:vbm)$"));

pub(super) fn recognise(name: &Name<'_>) -> Option<Recognised> {
    if name.has_extension(&["vbk", "vib", "vrb"]) {
        return image(name);
    }
    if name.has_extension(&["vbm"]) {
        return meta(name);
    }
    None
}

fn set(name: &Name<'_>, job: &[u8], vm: &[u8]) -> String {
    let dot: &[u8] = if vm.is_empty() { b"" } else { b"." };
    name.set(&[job, dot, vm, b".vbk"])
}

fn image(name: &Name<'_>) -> Option<Recognised> {
    let c = IMAGE.captures(name.file)?;
    let extension = group(&c, 5).to_ascii_lowercase();
    Some(Recognised {
        format: Format::Veeam,
        set: set(name, group(&c, 1), group(&c, 2)),
        image: text(name.file),
        kind: if extension == b"vbk" { ImageKind::Base } else { ImageKind::Incremental },
        role: Role::Anchor,
        link: Link::Moment { at: moment(&c)?, reverse: extension == b"vrb" },
        parts: Vec::new(),
        note: None,
    })
}

/// The date in the name, as a number.
fn moment(captures: &Captures<'_>) -> Option<u64> {
    let digits: String =
        group(captures, 3).iter().filter(|b| b.is_ascii_digit()).map(|&b| b as char).collect();
    digits.parse().ok()
}

fn meta(name: &Name<'_>) -> Option<Recognised> {
    let c = META.captures(name.file)?;
    Some(Recognised {
        format: Format::Veeam,
        set: set(name, group(&c, 1), group(&c, 2)),
        image: String::new(),
        kind: ImageKind::Base,
        role: Role::SetFile,
        link: Link::None,
        parts: Vec::new(),
        note: None,
    })
}

/// Whose set it is: job and VM.
pub(super) fn says<'a>(name: &Name<'a>) -> Option<Says<'a>> {
    let c = IMAGE.captures(name.file)?;
    let host = [group(&c, 1), b".", group(&c, 2)].concat();
    Some(Says::Host(host, Some([moment(&c)?, 0])))
}
