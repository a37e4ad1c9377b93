//! For each format a tree of files as the product leaves it, scanned and assembled: what chains it makes is a snapshot.
//!
//! A tree is a text file: size, modification time in seconds, path; for a qcow2 what its header holds.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use offsite::chain::{Chains, Image, ImageSet, Knowledge, Parent, assemble};
use offsite::format::Role;
use offsite::source::{InMemory, ScanOptions, SystemClock, scan};

#[test]
fn activeimage() {
    insta::assert_snapshot!(chains_of("activeimage"));
}

#[test]
fn shadowprotect() {
    insta::assert_snapshot!(chains_of("shadowprotect"));
}

#[test]
fn macrium() {
    insta::assert_snapshot!(chains_of("macrium"));
}

#[test]
fn acronis() {
    insta::assert_snapshot!(chains_of("acronis"));
}

#[test]
fn veeam() {
    insta::assert_snapshot!(chains_of("veeam"));
}

#[test]
fn virtnbdbackup() {
    insta::assert_snapshot!(chains_of("virtnbdbackup"));
}

#[test]
fn vzdump() {
    insta::assert_snapshot!(chains_of("vzdump"));
}

#[test]
fn qcow2() {
    insta::assert_snapshot!(chains_of("qcow2"));
}

/// The chain that qemu-img made: real images, not headers alone.
#[test]
fn a_real_chain_is_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chain");
    let chains = chains_in(&root);
    assert_eq!(chains.sets.len(), 1, "{chains:?}");
    let names: Vec<_> =
        chains.sets[0].images.iter().map(|i| (i.id.display().into_owned(), i.restorable)).collect();
    let expected = ["base.qcow2", "inc1.qcow2", "inc2.qcow2", "inc3.qcow2"].map(|n| (n.to_owned(), true));
    assert_eq!(names, expected);
}

fn chains_of(format: &str) -> String {
    let list =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/formats").join(format).join("files");
    let list = fs::read_to_string(&list).expect("the fixture's list of files");
    let root = tempfile::tempdir().expect("a directory");
    for line in list.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        make(root.path(), line);
    }
    render(&chains_in(root.path()))
}

fn chains_in(root: &Path) -> Chains {
    let options = ScanOptions { settle: Duration::ZERO, ..ScanOptions::default() };
    let inventory =
        scan(root, &options, &mut InMemory::default(), &mut SystemClock(|| false)).expect("a scan");
    assemble(&inventory.members(), &Knowledge::default())
}

fn make(root: &Path, line: &str) {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let size: u64 = word().and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("a size: {line}"));
    let seconds: u64 = word().and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("a time: {line}"));
    let path = root.join(word().unwrap_or_else(|| panic!("a path: {line}")));
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    if word() == Some("qcow2") {
        fs::write(&path, qcow2_header(words.next().unwrap_or_default())).expect("a file");
    } else {
        fs::write(&path, begins(&path)).expect("a file");
    }
    let file = File::options().write(true).open(&path).expect("a file");
    file.set_len(size).expect("a size");
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).expect("a time");
}

/// How a file of that name begins where its format says so.
fn begins(path: &Path) -> &'static [u8] {
    match path.extension().and_then(|e| e.to_str()) {
        Some("zst") => &[0x28, 0xb5, 0x2f, 0xfd],
        Some("gz" | "tgz") => &[0x1f, 0x8b],
        Some("lzo") => b"\x89LZO\0\r\n\x1a\n",
        Some("vma") => b"VMA\0",
        Some("data") => b"meta ",
        _ => b"",
    }
}

/// A version 3 header of 64 KiB clusters, laid out as QEMU does.
fn qcow2_header(what: &str) -> Vec<u8> {
    let mut bytes = vec![0; 104];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&(1u64 << 20).to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    let mut features = 0u64;
    if what == "corrupt" {
        features |= 2;
    }
    if let Some(data) = what.strip_prefix("data=") {
        features |= 4;
        bytes.extend_from_slice(&0x4441_5441u32.to_be_bytes());
        bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(data.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.extend_from_slice(&[0; 8]);
    if let Some(backing) = what.strip_prefix("backing=") {
        let offset = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&offset.to_be_bytes());
        bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
        bytes.extend_from_slice(backing.as_bytes());
    }
    bytes[72..80].copy_from_slice(&features.to_be_bytes());
    bytes
}

fn render(chains: &Chains) -> String {
    let mut out = String::new();
    for set in &chains.sets {
        writeln!(out, "set {} ({:?})", set.id, set.format).expect("text");
        for image in &set.images {
            writeln!(out, "  {}", one(set, image)).expect("text");
            for file in image.files.iter().filter(|f| f.role != Role::Anchor) {
                writeln!(out, "      with {} ({:?})", file.path.display(), file.role).expect("text");
            }
        }
        for file in &set.set_files {
            writeln!(out, "  and {}", file.path.display()).expect("text");
        }
    }
    for other in &chains.others {
        writeln!(out, "other {}: {}", other.file.path.display(), other.reason).expect("text");
    }
    for problem in &chains.problems {
        writeln!(out, "problem {}: {}", problem.image.display(), problem.what).expect("text");
    }
    out
}

fn one(set: &ImageSet, image: &Image) -> String {
    let mut text = format!("{:?} {}", image.kind, image.id.display());
    if let Some(span) = image.span.filter(|s| s.first < s.last) {
        write!(text, " holds {} to {} ({:?})", span.first, span.last, image.evidence).expect("text");
    }
    match &image.parent {
        Parent::None => {}
        Parent::Image(parent) => write!(text, " on {}", set.images[*parent].id.display()).expect("text"),
        Parent::Missing(_) | Parent::Cycle => text.push_str(" on nothing"),
    }
    if let Some(missing) = &image.missing {
        write!(text, ": NOT RESTORABLE, {missing}").expect("text");
    }
    text
}
