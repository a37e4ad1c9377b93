//! What one manifest is about: a set, or, of the files that belong to none, those of one folder; in numbered pieces where
//! that is still too much for one file.
//!
//! Each is a unit with a name that nothing else has, which its file's name stands for. No path holds a NUL, so that none of
//! these names is a set's.

use offsite_plugin_api::TargetPath;

use super::body::{Body, Image};

/// The unit that a file's record belongs to, by its set and its path on the target.
pub fn unit_of(set: &str, path: &TargetPath) -> String {
    match path.parent() {
        Some(folder) if set.is_empty() && !folder.is_root() => format!("\0{}", hex_unless_text(&folder)),
        _ => set.to_owned(),
    }
}

fn hex_unless_text(folder: &TargetPath) -> String {
    match std::str::from_utf8(folder.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("\0{}", hex::encode(folder.as_bytes())),
    }
}

/// The folder whose other files a unit is about; `None` for a set's, and for the root folder's.
pub fn folder_of(unit: &str) -> Option<TargetPath> {
    let folder = whole(unit).strip_prefix('\0')?;
    match folder.strip_prefix('\0') {
        Some(text) => TargetPath::new(hex::decode(text).ok()?).ok(),
        None => TargetPath::new(folder).ok(),
    }
}

/// The set that the records of a unit's files name.
pub fn set_of(unit: &str) -> &str {
    if unit.starts_with('\0') { "" } else { whole(unit) }
}

/// A unit without its piece's number.
fn whole(unit: &str) -> &str {
    match unit.rfind("\0#") {
        Some(at) if unit[at + 2..].bytes().all(|b| b.is_ascii_digit()) && at + 2 < unit.len() => &unit[..at],
        _ => unit,
    }
}

/// The name of a unit's piece; the first one has the unit's own.
pub fn piece(unit: &str, number: usize) -> String {
    if number == 0 { unit.to_owned() } else { format!("{unit}\0#{number}") }
}

/// A unit for people.
pub fn show(unit: &str) -> String {
    match folder_of(unit) {
        Some(folder) => format!("other files in '{}'", folder.display()),
        None if set_of(unit).is_empty() => "other files".to_owned(),
        None => set_of(unit).to_owned(),
    }
}

/// Splits what one unit holds into bodies of at most `limit` bytes each, an image never in two. Each is named.
pub(super) fn split(unit: &str, images: Vec<Image>, limit: usize) -> Vec<Body> {
    let mut pieces: Vec<Vec<Image>> = vec![Vec::new()];
    let mut held = 0;
    for image in images {
        let size = serde_json::to_vec(&image).map_or(0, |text| text.len() + 1);
        if held > 0 && held + size > limit {
            pieces.push(Vec::new());
            held = 0;
        }
        held += size;
        pieces.last_mut().expect("there is one from the start").push(image);
    }
    let body = |(number, images)| Body { set: piece(unit, number), images, ..Body::default() };
    pieces.into_iter().enumerate().map(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &[u8]) -> TargetPath {
        TargetPath::new(text).unwrap()
    }

    #[test]
    fn a_units_name_says_what_it_is_about() {
        for (set, file, folder) in [
            ("a/set", path(b"x/y"), None),
            ("", path(b"y"), None),
            ("", path(b"x/#1/y"), Some(path(b"x/#1"))),
            ("", path(b"x\xff/y"), Some(path(b"x\xff"))),
        ] {
            let unit = unit_of(set, &file);
            for n in [0, 1, 27] {
                let piece = piece(&unit, n);
                assert_eq!(set_of(&piece), set, "{piece:?}");
                assert_eq!(folder_of(&piece), folder, "{piece:?}");
            }
        }
        assert_ne!(unit_of("", &path(b"a/b")), unit_of("", &path(b"a/b/c")));
    }
}
