//! The key that vouches for a target's manifests, so that somebody who can write to the target cannot vouch for what he
//! planted there.
//!
//! 32 random bytes beside the target's catalog, made by the first run, or whatever a secret reference of the configuration
//! gives. What signs is derived from it for this job and target, so that a manifest of another target is not taken for one
//! of this, and its id stands in every manifest: a key that was lost is told from a signature that is wrong.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::catalog::catalog_path;
use crate::error::{Error, Kind, Result};

/// Bytes of a key.
const LENGTH: usize = 32;
/// Characters of a secret from the configuration at least, where it is no key of [`LENGTH`] bytes in hexadecimal digits.
const SHORTEST: usize = 16;

/// Signs and checks. Holds a secret: never printed.
pub struct Key {
    mac: Zeroizing<[u8; LENGTH]>,
    id: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    /// The signing key of one target of a job.
    pub fn new(master: &[u8; LENGTH], job: &str, target: &str) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(master);
        hasher.update(b"offsite manifests, version 1\0").update(job.as_bytes());
        hasher.update(b"\0").update(target.as_bytes());
        let mac = Zeroizing::new(*hasher.finalize().as_bytes());
        let mut id = hex::encode(blake3::derive_key("offsite manifest key id, version 1", &*mac));
        id.truncate(16);
        Self { mac, id }
    }

    /// 16 hexadecimal digits that stand for the key and say nothing of it.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn sign(&self, text: &[u8]) -> String {
        blake3::keyed_hash(&self.mac, text).to_hex().to_string()
    }

    /// Compared in constant time.
    pub fn signed(&self, text: &[u8], mac: &str) -> bool {
        blake3::Hash::from_hex(mac).is_ok_and(|mac| mac == blake3::keyed_hash(&self.mac, text))
    }
}

/// Where a target's key is kept.
pub fn key_path(state_dir: &Path, job: &str, target: &str) -> PathBuf {
    catalog_path(state_dir, job, target).with_extension("key")
}

/// The key from a secret of the configuration. Errors: `Config` where it is too short to be one.
pub fn from_secret(text: &str) -> Result<Zeroizing<[u8; LENGTH]>> {
    let text = text.trim();
    if let Some(key) = parse(text) {
        return Ok(key);
    }
    if text.len() < SHORTEST {
        return Err(Error::new(Kind::Config, "the manifest key is too short")
            .because(format!("{} characters, at least {SHORTEST}", text.len()))
            .hint("give 'manifest_key' a long random text, or 64 hexadecimal digits"));
    }
    Ok(Zeroizing::new(blake3::derive_key("offsite manifest key from a secret, version 1", text.as_bytes())))
}

fn parse(text: &str) -> Option<Zeroizing<[u8; LENGTH]>> {
    let mut key = Zeroizing::new([0; LENGTH]);
    hex::decode_to_slice(text.trim(), &mut *key).ok().map(|()| key)
}

/// The key that is kept; `None` where there is none.
pub fn kept(path: &Path) -> Result<Option<Zeroizing<[u8; LENGTH]>>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unusable(path).because(e)),
    };
    parse(&text).map(Some).ok_or_else(|| unusable(path).because("it does not hold 64 hexadecimal digits"))
}

fn unusable(path: &Path) -> Error {
    Error::new(Kind::State, "the manifest key cannot be read").on(path.display().to_string()).hint(
        "put the exported key back with 'offsite target key --import FILE'; without one, remove the file: a new key is made",
    )
}

/// The key that is kept, made where there is none.
pub fn kept_or_made(path: &Path) -> Result<Zeroizing<[u8; LENGTH]>> {
    if let Some(key) = kept(path)? {
        return Ok(key);
    }
    let mut key = Zeroizing::new([0; LENGTH]);
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| std::io::Read::read_exact(&mut f, &mut *key))
        .map_err(|e| Error::io("cannot make a manifest key", "/dev/urandom", e))?;
    keep(path, &key)?;
    Ok(key)
}

/// Writes a key whole, for its owner alone, in place of what the file held.
pub fn keep(path: &Path, key: &[u8; LENGTH]) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::new(Kind::State, "cannot keep the manifest key").on(path.display().to_string()).because(e)
    };
    // The directory of a bare name has no name of its own.
    let dir = match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
        Some(dir) => dir,
        None => path,
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    let _ = std::fs::remove_file(&new);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let text = Zeroizing::new(hex::encode(key) + "\n");
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        // The name is on the disk before anything is signed with the key.
        std::fs::File::open(dir)?.sync_all()
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&new);
        failed(e)
    })
}

/// Copies the kept key to a new file, for its owner alone. Errors: `Usage` where there is no key yet, or the file exists.
pub fn export(kept_at: &Path, to: &Path) -> Result<()> {
    let key = kept(kept_at)?.ok_or_else(|| {
        Error::new(Kind::Usage, "there is no key yet").hint("the first run makes it; export it then")
    })?;
    if to.exists() {
        return Err(
            Error::new(Kind::Usage, "the file to export the key to exists").on(to.display().to_string())
        );
    }
    keep(to, &key)
}

/// Keeps the key of a file that was exported. Errors: `Usage` where the file holds none.
pub fn import(from: &Path, kept_at: &Path) -> Result<()> {
    let text = std::fs::read_to_string(from)
        .map(Zeroizing::new)
        .map_err(|e| Error::io("cannot read the key", from, e))?;
    let key = parse(&text).ok_or_else(|| {
        Error::new(Kind::Usage, "this is no exported key")
            .on(from.display().to_string())
            .because("it does not hold 64 hexadecimal digits")
    })?;
    keep(kept_at, &key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_kept_for_its_owner_alone_and_moves_as_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job/nas.key");
        assert!(kept(&path).unwrap().is_none());
        let made = kept_or_made(&path).unwrap();
        assert_eq!(*kept_or_made(&path).unwrap(), *made);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(*from_secret(&text).unwrap(), *made, "an exported key is the same key as a secret");
        let (out, elsewhere) = (dir.path().join("exported"), dir.path().join("other/nas.key"));
        export(&path, &out).unwrap();
        assert_eq!(export(&path, &out).unwrap_err().kind, Kind::Usage, "nothing is overwritten");
        assert_eq!(export(&elsewhere, &dir.path().join("x")).unwrap_err().kind, Kind::Usage);
        import(&out, &elsewhere).unwrap();
        assert_eq!(**kept(&elsewhere).unwrap().as_ref().unwrap(), *made);
        std::fs::write(&path, "torn").unwrap();
        assert_eq!(import(&path, &elsewhere).unwrap_err().kind, Kind::Usage);
        assert_eq!(kept_or_made(&path).unwrap_err().kind, Kind::State);
        assert_eq!(from_secret("short").unwrap_err().kind, Kind::Config);
        assert_ne!(*from_secret("a long enough secret").unwrap(), *made);
    }

    #[test]
    fn a_key_goes_to_a_file_of_the_working_directory() {
        let name = PathBuf::from(format!("offsite-test-key-{}", std::process::id()));
        let kept = keep(&name, &[7; LENGTH]);
        let read = std::fs::read_to_string(&name);
        let _ = std::fs::remove_file(&name);
        kept.unwrap();
        assert_eq!(parse(&read.unwrap()).map(|key| *key), Some([7; LENGTH]));
    }

    #[test]
    fn a_signature_holds_for_its_text_its_key_and_its_target() {
        let key = Key::new(&[7; 32], "daily", "nas");
        let mac = key.sign(b"text");
        assert!(key.signed(b"text", &mac));
        assert!(!key.signed(b"texT", &mac) && !key.signed(b"text", "00") && !key.signed(b"text", ""));
        for other in [Key::new(&[8; 32], "daily", "nas"), Key::new(&[7; 32], "daily", "cloud")] {
            assert!(!other.signed(b"text", &mac));
            assert_ne!(other.id(), key.id());
        }
        assert!(!format!("{key:?}").contains("07"));
    }
}
