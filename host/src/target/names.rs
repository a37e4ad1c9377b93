//! The names that the host itself uses on a target, and the installation id they carry.
//!
//! All are of a fixed length (a long image name must not make its staging name too long) and without a leading dot
//! (servers hide those, and debris with them). The owner in a name is the installation: only own remains are swept.

use std::path::Path;

use offsite_plugin_api::TargetPath;
use unicode_normalization::UnicodeNormalization as _;

use crate::error::{Error, Kind, Result};

/// The claim marker, at the target's root.
pub const MARKER: &str = "offsite-target";
/// The directory of the manifests, at the target's root.
pub const MANIFESTS: &str = "offsite-manifest";

const PREFIX: &[u8] = b"offsite-";
const OWNER: usize = 8;
/// In the state directory, where the machine has no id.
const KEPT: &str = "installation";
const HASH: usize = 16;

/// What a name of the host's own stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    /// Staged bytes.
    Staging {
        owner: String,
        hash: String,
    },
    /// The old file, moved aside during a swap.
    Side {
        owner: String,
        hash: String,
    },
    Marker,
    Manifest,
}

/// 16 hexadecimal digits that stand for a target path in staging, side and manifest names.
pub fn path_hash(path: &TargetPath) -> String {
    short_hash(path.as_bytes(), HASH)
}

fn short_hash(bytes: &[u8], digits: usize) -> String {
    let mut text = blake3::hash(bytes).to_hex().to_string();
    text.truncate(digits);
    text
}

/// Where the bytes of `path` are staged, in its own directory. `owner`: the installation id.
pub fn staging(path: &TargetPath, owner: &str) -> Result<TargetPath> {
    let name = format!("offsite-{owner}-{}.part", path_hash(path));
    Ok(path.parent().unwrap_or_default().join(name)?)
}

/// A name as targets compare it that ignore normalisation, and case where they are not `case_sensitive`.
pub fn folded(name: &[u8], case_sensitive: bool) -> String {
    let text = String::from_utf8_lossy(name);
    if case_sensitive {
        return text.nfc().collect();
    }
    // Both ways once: 'ſ' and 's', 'K' (Kelvin) and 'k' are one to servers that compare in upper case.
    text.nfc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfc().collect()
}

/// Whether a path on the target ends with that of its image at the source, which may have been renamed by case since.
pub fn ends_with(path: &TargetPath, image: &TargetPath) -> bool {
    path.as_bytes().ends_with(image.as_bytes())
        || folded(path.as_bytes(), false).ends_with(&folded(image.as_bytes(), false))
}

/// How many side names a path has: a second one is used only while the first is taken by what an older swap left.
pub const SIDES: u8 = 4;

/// Where the old file of `path` waits during a swap, in its own directory. `number`: below [`SIDES`].
pub fn side(path: &TargetPath, owner: &str, number: u8) -> Result<TargetPath> {
    let name = format!("offsite-{owner}-{}.old", side_hash(path, number));
    Ok(path.parent().unwrap_or_default().join(name)?)
}

fn side_hash(path: &TargetPath, number: u8) -> String {
    if number == 0 {
        return path_hash(path);
    }
    // No path has a NUL: these are no other path's hashes.
    let mut bytes = path.as_bytes().to_vec();
    bytes.extend([0, number]);
    short_hash(&bytes, HASH)
}

/// Whether a side name's hash stands for this path.
pub fn is_side_of(hash: &str, path: &TargetPath) -> bool {
    (0..SIDES).any(|number| side_hash(path, number) == hash)
}

/// What a path is to the host; `None` for everybody else's names.
pub fn parse(path: &TargetPath) -> Option<Own> {
    let bytes = path.as_bytes();
    if bytes == MARKER.as_bytes() {
        return Some(Own::Marker);
    }
    if path.components().next() == Some(MANIFESTS.as_bytes()) && path.components().nth(1).is_some() {
        // Staging of a manifest is staging.
        return Some(parse_name(path.name()).unwrap_or(Own::Manifest));
    }
    parse_name(path.name())
}

fn parse_name(name: &[u8]) -> Option<Own> {
    let rest = name.strip_prefix(PREFIX)?;
    let hex = |part: &[u8]| {
        part.iter()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
            .then(|| std::str::from_utf8(part).expect("hexadecimal digits are ASCII").to_owned())
    };
    if rest.len() < OWNER + 1 + HASH || rest[OWNER] != b'-' {
        return None;
    }
    let owner = hex(&rest[..OWNER])?;
    let hash = hex(&rest[OWNER + 1..OWNER + 1 + HASH])?;
    match &rest[OWNER + 1 + HASH..] {
        b".part" => Some(Own::Staging { owner, hash }),
        b".old" => Some(Own::Side { owner, hash }),
        _ => None,
    }
}

/// Whether a path is the host's own: never an image, never replicated, left out of every listing.
pub fn is_own(path: &TargetPath) -> bool {
    parse(path).is_some() || path.as_bytes() == MANIFESTS.as_bytes()
}

/// Whether a file name alone is one of the host's own (marker, staging, side): such files in a source are left out.
pub fn is_own_name(name: &[u8]) -> bool {
    name == MARKER.as_bytes() || name == MANIFESTS.as_bytes() || parse_name(name).is_some()
}

/// This machine's installation id: 8 hexadecimal digits from `/etc/machine-id` (hashed, because the machine id itself
/// must not be shown), else made once and kept in `state_dir`.
///
/// Errors: `State` when there is no machine id and none can be kept.
pub fn installation(state_dir: &Path) -> Result<String> {
    for place in ["/etc/machine-id", "/var/lib/dbus/machine-id"] {
        if let Ok(text) = std::fs::read_to_string(place)
            && text.trim().len() >= 32
        {
            return Ok(installation_of(text.trim().as_bytes()));
        }
    }
    kept_installation(state_dir)
}

fn installation_of(machine: &[u8]) -> String {
    let mut text = hex::encode(blake3::derive_key("offsite installation id, version 1", machine));
    text.truncate(OWNER);
    text
}

/// Whether the installation id is not the machine's but one that was made for this state directory.
pub fn keeps_installation(state_dir: &Path) -> bool {
    state_dir.join(KEPT).exists()
}

fn kept_installation(state_dir: &Path) -> Result<String> {
    let path = state_dir.join(KEPT);
    let read = || std::fs::read_to_string(&path).ok().map(|t| t.trim().to_owned()).filter(|t| is_owner(t));
    if let Some(found) = read() {
        return Ok(found);
    }
    let mut random = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| std::io::Read::read_exact(&mut f, &mut random))
        .map_err(|e| Error::io("cannot make an installation id", "/dev/urandom", e))?;
    let made = installation_of(&random);
    let keep = || -> std::io::Result<()> {
        std::fs::create_dir_all(state_dir)?;
        // Written whole beside the name, then linked to it: two first runs at once agree on one id.
        let new = state_dir.join(format!("installation.{}", std::process::id()));
        let mut file = std::fs::File::create(&new)?;
        std::io::Write::write_all(&mut file, format!("{made}\n").as_bytes())?;
        file.sync_all()?;
        let linked = std::fs::hard_link(&new, &path);
        std::fs::remove_file(&new)?;
        match linked {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    };
    keep().map_err(|e| {
        Error::new(Kind::State, "cannot keep an installation id")
            .on(path.display().to_string())
            .because(e)
            .hint("give this machine an /etc/machine-id, or make the state directory writable")
    })?;
    read().ok_or_else(|| {
        Error::new(Kind::State, "the kept installation id is not valid")
            .on(path.display().to_string())
            .hint("remove the file; it is made anew")
    })
}

/// Whether this is an installation id: 8 lower-case hexadecimal digits.
pub fn is_owner(text: &str) -> bool {
    text.len() == OWNER && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TargetPath {
        TargetPath::new(text).unwrap()
    }

    #[test]
    fn names_have_one_length_and_are_read_back() {
        for image in ["a", "dir/sub/a rather long name with Umlaut ü.qcow2"] {
            let image = path(image);
            let staged = staging(&image, "0123abcd").unwrap();
            assert_eq!(staged.name().len(), 38);
            assert_eq!(staged.parent(), image.parent());
            let hash = path_hash(&image);
            assert_eq!(parse(&staged), Some(Own::Staging { owner: "0123abcd".into(), hash: hash.clone() }));
            for number in 0..SIDES {
                let side = side(&image, "0123abcd", number).unwrap();
                assert_eq!(side.name().len(), 37);
                let Some(Own::Side { hash, .. }) = parse(&side) else { panic!("{side:?}") };
                assert!(is_side_of(&hash, &image) && !is_side_of(&hash, &path("else")));
            }
        }
    }

    #[test]
    fn names_of_others_are_not_taken_for_ours() {
        for other in [
            "offsite-target.txt",
            "sub/offsite-target",
            "offsite-0123abcd-0123456789abcdef.party",
            "offsite-0123ABCD-0123456789abcdef.part",
            "offsite-0123abcd-0123456789abcde.part",
            "offsite-0123abcd_0123456789abcdef.part",
            "offsite-",
            "offsite-manifests/x",
        ] {
            assert_eq!(parse(&path(other)), None, "{other}");
        }
        assert_eq!(parse(&path("offsite-target")), Some(Own::Marker));
        assert_eq!(parse(&path("offsite-manifest/abc.1")), Some(Own::Manifest));
        assert!(is_own(&path("offsite-manifest")));
    }

    #[test]
    fn a_machine_without_an_id_keeps_the_one_it_made() {
        let dir = tempfile::tempdir().unwrap();
        let first = kept_installation(dir.path()).unwrap();
        assert!(is_owner(&first), "{first}");
        assert_eq!(kept_installation(dir.path()).unwrap(), first);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_machine_id_itself_is_not_shown() {
        let id = installation_of(b"0123456789abcdef0123456789abcdef");
        assert!(is_owner(&id) && !"0123456789abcdef0123456789abcdef".contains(&id));
    }
}
