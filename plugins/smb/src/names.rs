//! Paths of the contract (bytes, `/`) to names of the protocol (UTF-16, `\`), and the rules that Windows sets for names.
//!
//! The rules are declared for every server: a name that only Samba can hold would be lost on the way to the next one, and
//! Samba stores several of them mangled.

use offsite_plugin_api::{Entry, EntryKind, Error, ErrorKind, NameRules, Result, TargetPath, Timestamp};
use smb2::msg::directory_info::DirectoryInfoEntry;
use smb2::pack::FileTime;
use smb2::types::flags::FileAttributes;

use super::config::Config;
use super::share::About;

/// 100-ns intervals between 1601 and 1970.
const EPOCH: i128 = 116_444_736_000_000_000;
/// The protocol counts 100 ns.
pub const TICK: u64 = 100;

pub fn rules(longest: u32) -> NameRules {
    let mut refused_names = ["CON", "PRN", "AUX", "NUL"].map(str::to_owned).to_vec();
    for n in 1..=9 {
        refused_names.extend([format!("COM{n}"), format!("LPT{n}")]);
    }
    NameRules {
        case_sensitive: false,
        longest_name: longest.clamp(1, 255),
        refused: r#"<>:"\|?*"#.chars().chain('\u{1}'..='\u{1f}').collect(),
        refused_names,
        refused_endings: " .".to_owned(),
        utf8_only: true,
        ..NameRules::default()
    }
}

/// The name below the share. Errors: `NameRefused`.
pub fn wire(config: &Config, path: &TargetPath) -> Result<String> {
    let refuse = |why: &str| {
        Err(Error::new(ErrorKind::NameRefused, format!("'{}' {why}", path.display()))
            .with_context("hint", "rename it, or leave it out with a filter"))
    };
    let mut parts = config.folder.clone();
    for part in path.components() {
        let Ok(part) = std::str::from_utf8(part) else { return refuse("is not UTF-8") };
        if part.contains(|c: char| r#"<>:"\|?*"#.contains(c) || c < ' ') {
            return refuse("has a character that no share takes");
        }
        if part.ends_with([' ', '.']) {
            return refuse("has a name that ends in a space or a full stop, which servers cut off");
        }
        parts.push(part.to_owned());
    }
    Ok(parts.join("\\"))
}

/// Seconds and 100-ns parts as the protocol's time; times before 1601 are its beginning.
pub fn to_filetime(ns: i64) -> FileTime {
    let ticks = i128::from(ns).div_euclid(i128::from(TICK)) + EPOCH;
    FileTime(u64::try_from(ticks).unwrap_or(1).max(1))
}

pub fn to_timestamp(time: FileTime) -> Option<Timestamp> {
    let ns = (i128::from(time.0) - EPOCH) * i128::from(TICK);
    let ns = i64::try_from(ns).ok()?;
    (time.0 != 0).then_some(Timestamp { ns, precision_ns: TICK })
}

fn kind(attributes: FileAttributes) -> EntryKind {
    match (attributes.is_reparse_point(), attributes.is_directory()) {
        (true, _) => EntryKind::Other,
        (false, true) => EntryKind::Dir,
        (false, false) => EntryKind::File,
    }
}

fn entry(
    path: TargetPath,
    kind: EntryKind,
    size: u64,
    (written, changed): (FileTime, FileTime),
    id: u64,
) -> Entry {
    let file = matches!(kind, EntryKind::File);
    Entry {
        kind,
        mtime: to_timestamp(written),
        // Size and times alone would miss a replacement within the clock's precision.
        version: file.then(|| format!("{id:x}-{size:x}-{:x}-{:x}", written.0, changed.0)),
        ..Entry::file(path, if file { size } else { 0 })
    }
}

/// What an open file says of itself.
pub fn entry_of(path: TargetPath, about: &About) -> Entry {
    entry(path, kind(about.attributes), about.size, (about.written, about.changed), about.id)
}

/// What its directory says of it.
pub fn entry_listed(path: TargetPath, listed: &DirectoryInfoEntry) -> Entry {
    let times = (listed.last_write_time, listed.change_time);
    let kind = kind(FileAttributes(listed.file_attributes));
    entry(path, kind, listed.end_of_file, times, listed.file_id.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_servers_change_are_refused() {
        let config = Config::new("smb://u@nas/share/in/side", &json!({})).unwrap();
        let wire = |text: &[u8]| super::wire(&config, &TargetPath::new(text).unwrap());
        assert_eq!(wire("a b/é%#.img".as_bytes()).unwrap(), "in\\side\\a b\\é%#.img");
        assert_eq!(wire(b"").unwrap(), "in\\side");
        for name in [&b"a:b"[..], b"a\\b", b"a*", b"a ", b"dir./x", b"\x01", b"\xff"] {
            assert_eq!(wire(name).unwrap_err().kind(), &ErrorKind::NameRefused, "{name:?}");
        }
    }

    #[test]
    fn times_survive_the_way_there_and_back() {
        for ns in [0, 1_700_000_000_123_456_700, -1_000_000_000] {
            assert_eq!(to_timestamp(to_filetime(ns)).unwrap().ns, ns);
        }
        assert_eq!(to_timestamp(to_filetime(123)).unwrap().ns, 100);
        assert!(to_timestamp(FileTime::ZERO).is_none());
        assert!(to_filetime(i64::MIN).0 >= 1);
    }
}
