//! Files of the source that are not replicated although nobody said so: what no format knows, links, names that no target
//! can hold, places in doubt. Each kind is told once, with how much it is and an example; a configuration that means it
//! says so with `ignore`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use offsite_plugin_api::TargetPath;

use super::index::Index;
use super::{Notice, NoticeCode};
use crate::chain::ImageFile;
use crate::report::{bytes, count, word};
use crate::source::{Doubt, DoubtCause, LeftAlone, LeftBy};

/// From this size on, a source without any image is a fault, bytes.
const SIZEABLE: u64 = 1 << 20;

/// Extensions that disk images and backups bear.
const IMAGES: [&str; 43] = [
    "adi", "afb", "afbx", "aii", "aiv", "avhd", "avhdx", "bak", "bkf", "dd", "dmg", "e01", "esd", "gho",
    "ghs", "hdd", "img", "iso", "iv2i", "mrbak", "mrbakx", "mrimg", "mrimgx", "ova", "pbd", "qcow", "qcow2",
    "qed", "raw", "spf", "spi", "tib", "tibx", "v2i", "vbk", "vdi", "vhd", "vhdx", "vib", "vma", "vmdk",
    "wim", "xva",
];

/// Extensions that hide another one.
const PACKED: [&str; 6] = ["gz", "zst", "xz", "bz2", "lzo", "lz4"];

/// Folders of one kind told one by one.
const SHOWN: usize = 20;

const ADVICE: &str = "include_other copies such files, ignore leaves them out without a word";

#[derive(Default)]
struct Tally<'a> {
    files: u64,
    bytes: u64,
    /// The largest.
    example: Option<&'a ImageFile>,
    folders: BTreeSet<&'a [u8]>,
}

impl<'a> Tally<'a> {
    fn add(&mut self, file: &'a ImageFile) {
        self.files += 1;
        self.bytes += file.size;
        if self.example.is_none_or(|largest| file.size > largest.size) {
            self.example = Some(file);
        }
    }

    /// `5 files (13.0 MiB), 'x.vhdx' for one`.
    fn text(&self) -> String {
        let example = self.example.map(|file| file.path.display()).unwrap_or_default();
        format!("{} ({}), '{example}' for one", count(self.files, "file"), bytes(self.bytes))
    }
}

pub(crate) fn notices(index: &Index<'_>) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |code: NoticeCode, text: String| notices.push(Notice::new(code, text));
    for doubt in &index.input.inventory.doubts {
        if let Some((code, text)) = of_doubt(doubt, index.input.options.sync) {
            say(code, text);
        }
    }
    for text in of_vouched(index) {
        say(NoticeCode::StateLost, text);
    }
    if let Some(text) = of_links(index) {
        say(NoticeCode::LeftAlone, text);
    }
    if let Some(text) = of_names(&index.input.inventory.left_alone) {
        say(NoticeCode::LeftAlone, text);
    }
    if index.input.options.include_other || index.input.source.others.is_empty() {
        return notices;
    }
    let mut all = Tally::default();
    let (mut images, mut folders, mut rest) = (Tally::default(), Tally::default(), Tally::default());
    let with_images = directories(index);
    for other in &index.input.source.others {
        all.add(&other.file);
        if is_image_like(&other.file.path) {
            images.add(&other.file);
        } else if let Some(folder) = folder_left_out(&other.file.path, &with_images) {
            folders.add(&other.file);
            folders.folders.insert(folder);
        } else {
            rest.add(&other.file);
        }
    }
    let none = index.input.source.sets.is_empty() && index.unfinished.is_empty();
    if none && all.example.is_some_and(|largest| largest.size >= SIZEABLE) {
        let text = format!(
            "no file of the source is an image that offsite knows: {}, {} not replicated; is this the folder that the \
             backup product writes to? {ADVICE}",
            all.text(),
            word(all.files, "is", "are")
        );
        say(NoticeCode::NothingRecognised, text);
    }
    if images.files > 0 {
        let text = format!(
            "what looks like images, but of no format or name that offsite knows, is not replicated: {}; {ADVICE}",
            images.text()
        );
        say(NoticeCode::ImageLikeUnrecognised, text);
    }
    if folders.files > 0 {
        let what = count(folders.folders.len() as u64, "folder");
        let first = folders.folders.first().map(|f| String::from_utf8_lossy(f)).unwrap_or_default();
        let text = format!(
            "{what} of the source without any image that offsite knows, '{first}' for one, left out: {}; {ADVICE}",
            folders.text()
        );
        say(NoticeCode::ImageLikeUnrecognised, text);
    }
    if rest.files > 0 {
        say(
            NoticeCode::Unrecognised,
            format!("not replicated, because no format knows them: {}; {ADVICE}", rest.text()),
        );
    }
    notices
}

fn of_doubt(doubt: &Doubt, sync: bool) -> Option<(NoticeCode, String)> {
    let place = if doubt.place.is_root() { ".".into() } else { doubt.place.display() };
    let example = doubt.example.as_ref().map(|path| path.display()).unwrap_or_default();
    let files = match doubt.files {
        0 => String::new(),
        n => format!(
            " {} ({}) known from there, '{example}' for one, not found;",
            count(n, "file"),
            bytes(doubt.bytes)
        ),
    };
    let accept = format!("if it is meant to stay so: 'offsite source accept {place}'");
    Some(match &doubt.cause {
        DoubtCause::Mount { was, now } => {
            let (code, what) = match now {
                None => (
                    NoticeCode::MountMissing,
                    format!("at '{place}' of the source was {was}, where nothing is mounted now"),
                ),
                // Both on one device, and neither with a name of its own.
                Some(now) if now == was => (
                    NoticeCode::MountChanged,
                    format!(
                        "what is mounted at '{place}' of the source is another file system than before, though from the same place: {now}"
                    ),
                ),
                Some(now) => (
                    NoticeCode::MountChanged,
                    format!("at '{place}' of the source was {was}, where {now} is now"),
                ),
            };
            let text = format!(
                "{what}:{files} nothing of it counts as deleted; mount what was there again, or {accept}"
            );
            (code, text)
        }
        DoubtCause::Empty { was } => {
            let text = format!(
                "at '{place}' of the source is {was}, and it is empty:{files} nothing of it counts as deleted; see whether \
                 the share behind it answers, or {accept}"
            );
            (NoticeCode::MountMissing, text)
        }
        DoubtCause::Link => {
            let text = format!(
                "'{place}' of the source was a folder and is a symbolic link now, which is never followed:{files} they are \
                 neither replicated nor deleted; mount the folder there instead (mount --bind), or give it a job of its own"
            );
            (NoticeCode::SymlinkReplaced, text)
        }
        DoubtCause::Unproven if !sync => return None,
        DoubtCause::Unproven => {
            let text = format!(
                "in '{place}' of the source:{files} no scan knows on which file system they lay, and nothing in \
                 that folder proves that it is the one they were in: they are kept on the target; if they are deleted: 'offsite source accept \
                 {place}'"
            );
            (NoticeCode::StateLost, text)
        }
    })
}

/// What only unsigned manifests know, in folders of the source where nothing of it is left: the user's word for the target
/// is not enough there, and he is told both at once. Told as a doubt when he gave the first.
fn of_vouched(index: &Index<'_>) -> Vec<String> {
    let (inventory, target) = (index.input.inventory, index.input.target);
    if !index.input.options.sync || target.vouched.is_empty() {
        return Vec::new();
    }
    let mut known = HashSet::new();
    let mut missing: BTreeMap<TargetPath, (u64, &TargetPath)> = BTreeMap::new();
    for (path, recorded) in target.files.iter().filter_map(|(path, f)| Some((path, f.recorded.as_deref()?))) {
        let image = &recorded.image;
        let folder = || image.parent().unwrap_or_default();
        match inventory.file(image) {
            // By such a file the folder is known again, when its content is the recorded one.
            Some(file) if (file.size, file.mtime_ns) == (recorded.size, recorded.source_mtime_ns) => {
                known.insert(folder());
            }
            Some(_) => {}
            None => {
                let open = index.unsettled.contains_key(image) || index.hides(image).is_some();
                if target.vouched.contains(path) && !open && inventory.doubt(image).is_none() {
                    missing.entry(folder()).or_insert((0, image)).0 += 1;
                }
            }
        }
    }
    let unknown = missing.into_iter().filter(|(folder, _)| !known.contains(folder)).take(SHOWN);
    let text = |(folder, (number, example)): (TargetPath, (u64, &TargetPath))| {
        let place = if folder.is_root() { ".".into() } else { folder.display() };
        format!(
            "{} that only an unsigned manifest of the target knows {} not in '{place}' of the source, '{}' for one, and \
             nothing in that folder proves that it is the one {} in: kept on the target; if deleted on purpose: first \
             'offsite target accept', then 'offsite source accept {place}'",
            count(number, "file"),
            word(number, "is", "are"),
            example.display(),
            word(number, "it was", "they were")
        )
    };
    unknown.map(text).collect()
}

/// Links that are not told as a doubt.
fn of_links(index: &Index<'_>) -> Option<String> {
    let inventory = index.input.inventory;
    let doubted = |path: &TargetPath| inventory.doubts.iter().any(|doubt| doubt.place == *path);
    let links = inventory.left_alone.iter().filter(|alone| alone.by == LeftBy::Link && !doubted(&alone.path));
    let links: Vec<&LeftAlone> = links.collect();
    let first = links.first()?;
    Some(format!(
        "{}, '{}' for one, not followed: what they lead to is not replicated",
        count(links.len() as u64, "symbolic link"),
        first.path.display()
    ))
}

fn of_names(left_alone: &[LeftAlone]) -> Option<String> {
    let named: Vec<&LeftAlone> = left_alone.iter().filter(|alone| alone.by == LeftBy::Name).collect();
    let first = named.first()?;
    Some(format!(
        "{} left out because a name holds a line break, '{}' for one",
        count(named.len() as u64, "entry"),
        first.path.display()
    ))
}

/// Every directory with an image in or beneath it.
fn directories<'a>(index: &Index<'a>) -> HashSet<&'a [u8]> {
    let mut all: HashSet<&[u8]> = HashSet::new();
    let images = index.input.source.sets.iter().flat_map(|set| &set.images).map(|image| &image.id);
    for path in images.chain(index.unfinished.iter().map(|(_, path)| *path)) {
        let mut at = parent(path.as_bytes());
        while let Some(directory) = at.filter(|directory| all.insert(directory)) {
            at = parent(directory);
        }
    }
    all
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|b| *b == b'/').map(|at| &path[..at])
}

/// The outermost folder around a file in which there is no image.
fn folder_left_out<'a>(path: &'a TargetPath, with_images: &HashSet<&[u8]>) -> Option<&'a [u8]> {
    let bytes = path.as_bytes();
    let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    ends.map(|at| &bytes[..at]).find(|directory| !with_images.contains(directory))
}

fn is_image_like(path: &TargetPath) -> bool {
    let name = path.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
    let mut parts = name.rsplit(|b| *b == b'.').map(|part| String::from_utf8_lossy(part).to_lowercase());
    let mut last = parts.next().unwrap_or_default();
    if PACKED.contains(&last.as_str()) {
        last = parts.next().unwrap_or_default();
    }
    // A name without a dot is no extension.
    IMAGES.contains(&last.as_str()) && name.contains(&b'.')
}
