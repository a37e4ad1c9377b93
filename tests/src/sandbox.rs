//! A folder of its own for each test: source, up to three targets, state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::program::Offsite;

pub struct Sandbox {
    dir: tempfile::TempDir,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("offsite-test-").tempdir().expect("a temporary folder");
        for name in ["source", "a", "b", "c", "state", "home"] {
            std::fs::create_dir(dir.path().join(name)).expect("a folder");
        }
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    pub fn offsite(&self) -> Offsite {
        Offsite::new(&self.path("state")).dir(self.dir.path())
    }

    /// `offsite run --source source --settle 0 --json --to …` for the named target folders.
    pub fn run(&self, targets: &[&str]) -> Offsite {
        let mut command =
            self.offsite().args(["run", "--source", &self.text("source"), "--settle", "0", "--json"]);
        for target in targets {
            command = command.args(["--to", &self.text(target)]);
        }
        command
    }
}

/// Relative path -> BLAKE3 of every regular file below `dir`; `offsite`'s own names left out.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    visit(dir, dir, &mut |path, relative| {
        if !own(relative) {
            found.insert(relative.to_owned(), hash(path));
        }
    });
    found
}

/// What `offsite` keeps for itself below `dir`: marker, manifests, staged remains.
pub fn own_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    visit(dir, dir, &mut |_, relative| {
        if own(relative) {
            found.push(relative.to_owned());
        }
    });
    found.sort();
    found
}

/// Staging files and swap side names: nothing of the kind may stay after a finished run.
pub fn debris(dir: &Path) -> Vec<PathBuf> {
    let staged = |p: &PathBuf| p.extension().is_some_and(|e| e == "part" || e == "old");
    own_files(dir).into_iter().filter(staged).collect()
}

/// Relative paths of all regular files below `dir`.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    visit(dir, dir, &mut |_, relative| found.push(relative.to_owned()));
    found
}

pub fn hash(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    std::io::copy(&mut file, &mut hasher).expect("readable");
    hasher.finalize().to_hex().to_string()
}

fn own(relative: &Path) -> bool {
    relative.components().any(|c| c.as_os_str().to_string_lossy().starts_with("offsite-"))
}

fn visit(root: &Path, dir: &Path, found: &mut dyn FnMut(&Path, &Path)) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("a directory entry").path();
        let kind = std::fs::symlink_metadata(&path).expect("the entry is there").file_type();
        if kind.is_dir() {
            visit(root, &path, found);
        } else if kind.is_file() {
            found(&path, path.strip_prefix(root).expect("below the root"));
        }
    }
}

/// A file of any size, made quickly: every 64 KiB differ from every other, and from those of another seed.
pub fn large_file(path: &Path, size: u64, seed: u64) {
    use std::io::Write;
    const BLOCK: usize = 64 << 10;
    let mut block = vec![0; BLOCK];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for eight in block.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        eight.copy_from_slice(&state.to_le_bytes());
    }
    let mut file = std::fs::File::create(path).expect("a new file");
    let mut at = 0;
    while at < size {
        block[..8].copy_from_slice(&at.to_le_bytes());
        file.write_all(&block[..BLOCK.min((size - at) as usize)]).expect("room for the file");
        at += BLOCK as u64;
    }
}

/// Random bytes that are the same for one seed (xorshift), `size` of them, in a new file.
pub fn random_file(path: &Path, size: u64, seed: u64) {
    use std::io::Write;
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("a new file"));
    // What is no zstd frame is no compressed dump (RFC 8878, 3.1.1).
    let zstd = path.extension().is_some_and(|e| e == "zst");
    let magic: &[u8] = if zstd { &[0x28, 0xb5, 0x2f, 0xfd] } else { &[] };
    let magic = &magic[..magic.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
    file.write_all(magic).expect("room for the file");
    let mut left = size - magic.len() as u64;
    while left > 0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let n = left.min(8) as usize;
        file.write_all(&state.to_le_bytes()[..n]).expect("room for the file");
        left -= n as u64;
    }
    file.flush().expect("room for the file");
}
