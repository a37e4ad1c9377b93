//! Which multipart uploads are this installation's: the server's list of them names no owner, so the target's local state
//! does.
//!
//! An upload is written down before it is asked for and again with its id, so that no kill leaves one that nobody knows
//! of. Where the state is lost, an upload is reported like a stranger's and left alone.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use offsite_plugin_api::{Host, Result, TargetPath, Token};
use serde::{Deserialize, Serialize};

use super::client::lock;

const STATE: &str = "s3.uploads";
/// How far the server's clock may be behind ours, seconds.
const SKEW: i64 = 900;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    path: TargetPath,
    owner: String,
    /// Seconds since the Unix epoch, before it was asked for.
    asked: i64,
    /// `None` until the server answered.
    upload: Option<String>,
    token: Option<Token>,
}

pub struct Uploads {
    host: Arc<dyn Host>,
    /// One change at a time.
    changing: Mutex<()>,
}

/// What is known of one upload on the server.
pub struct Known {
    pub owner: String,
    pub token: Option<Token>,
}

impl Uploads {
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host, changing: Mutex::default() }
    }

    fn load(&self) -> Vec<Row> {
        let stored = self.host.state_get(STATE).ok().flatten();
        stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn change(&self, act: impl FnOnce(&mut Vec<Row>)) -> Result<()> {
        let _one = lock(&self.changing);
        let mut rows = self.load();
        let before = rows.clone();
        act(&mut rows);
        if rows == before {
            return Ok(());
        }
        self.host.state_put(STATE, &serde_json::to_vec(&rows).expect("names and numbers serialise"))
    }

    /// An upload for `path` is about to be asked for. False: so was one that was never answered. It may exist on the server:
    /// its row, with the earlier time, covers this one too, and stays until a sweep has looked.
    pub fn asking(&self, path: &TargetPath, owner: &str) -> Result<bool> {
        let row =
            Row { path: path.clone(), owner: owner.to_owned(), asked: now(), upload: None, token: None };
        let mut first = true;
        self.change(|rows| {
            first = !rows.iter().any(|r| r.path == row.path && r.upload.is_none());
            if first {
                rows.push(row);
            }
        })?;
        Ok(first)
    }

    /// It has an id, and is known by this token. `first`: as [`Uploads::asking`] told.
    pub fn begun(
        &self,
        path: &TargetPath,
        owner: &str,
        upload: &str,
        token: Token,
        first: bool,
    ) -> Result<()> {
        self.change(|rows| {
            rows.retain(|r| !first || r.path != *path || r.upload.is_some());
            rows.push(Row {
                path: path.clone(),
                owner: owner.to_owned(),
                asked: now(),
                upload: Some(upload.to_owned()),
                token: Some(token),
            });
        })
    }

    /// All of it is staged: the token that its publish takes.
    pub fn complete(&self, upload: &str, token: &Token) -> Result<()> {
        self.change(|rows| {
            for row in rows.iter_mut().filter(|r| r.upload.as_deref() == Some(upload)) {
                row.token = Some(token.clone());
            }
        })
    }

    /// It is published or discarded.
    pub fn ended(&self, upload: &str) -> Result<()> {
        self.change(|rows| rows.retain(|r| r.upload.as_deref() != Some(upload)))
    }

    /// Only these (path and id) are on the server, of all below the target's root: the rest is forgotten.
    pub fn keep(&self, on_server: &[(TargetPath, String)]) -> Result<()> {
        self.change(|rows| {
            rows.retain(|row| match &row.upload {
                Some(upload) => on_server.iter().any(|(_, id)| id == upload),
                // What came of it may be among them.
                None => on_server.iter().any(|(path, _)| *path == row.path),
            });
        })
    }

    /// Whose an upload is. `initiated`: seconds since the Unix epoch, by the server's clock.
    pub fn known(&self, path: &TargetPath, upload: &str, initiated: Option<i64>) -> Option<Known> {
        let rows = self.load();
        let known = |row: &Row| Known { owner: row.owner.clone(), token: row.token.clone() };
        if let Some(row) = rows.iter().find(|r| r.upload.as_deref() == Some(upload)) {
            return Some(known(row));
        }
        let asked = |row: &&Row| {
            row.upload.is_none() && row.path == *path && initiated.is_some_and(|at| at >= row.asked - SKEW)
        };
        rows.iter().find(asked).map(known)
    }
}

pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use offsite_plugin_api::{Error, Zeroizing};
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

    impl Host for Memory {
        fn secret(&self, _: &str) -> Result<Zeroizing<String>> {
            Err(Error::unsupported("secrets"))
        }
        fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
            Ok(self.0.lock().unwrap().get(key).cloned())
        }
        fn state_put(&self, key: &str, value: &[u8]) -> Result<()> {
            self.0.lock().unwrap().insert(key.into(), value.into());
            Ok(())
        }
        fn invoke(&self, _: &str, _: &str) -> Result<String> {
            Err(Error::unsupported("operations"))
        }
    }

    #[test]
    fn an_upload_is_ours_from_before_it_exists_until_it_ends() {
        let host: Arc<dyn Host> = Arc::new(Memory::default());
        let (uploads, other) = (Uploads::new(host.clone()), Uploads::new(host));
        let path = TargetPath::new("a/b.img").unwrap();
        let elsewhere = TargetPath::new("a/c.img").unwrap();
        let owner = |u: &Uploads, p: &TargetPath, id: &str, at| u.known(p, id, at).map(|k| k.owner);

        assert!(uploads.asking(&path, "me").unwrap());
        // The answer was lost: path and time tell.
        assert_eq!(owner(&other, &path, "u1", Some(now())), Some("me".into()));
        assert_eq!(owner(&other, &path, "u1", Some(now() - 10_000)), None, "somebody's older upload");
        assert_eq!(owner(&other, &elsewhere, "u1", Some(now())), None);

        let first = uploads.asking(&path, "me").unwrap();
        assert!(!first);
        uploads.begun(&path, "me", "u2", Token(vec![1]), first).unwrap();
        assert_eq!(
            owner(&other, &path, "u1", Some(now())),
            Some("me".into()),
            "the unanswered one is not forgotten"
        );
        uploads.complete("u2", &Token(vec![2])).unwrap();
        assert_eq!(other.known(&path, "u2", None).unwrap().token, Some(Token(vec![2])));
        uploads.keep(&[(path.clone(), "u1".into()), (path.clone(), "u2".into())]).unwrap();
        assert_eq!(owner(&other, &path, "u1", Some(now())), Some("me".into()), "until it is discarded");
        uploads.keep(&[(elsewhere, "u2".into())]).unwrap();
        assert_eq!(
            owner(&other, &path, "u1", Some(now())),
            None,
            "a sweep has seen that nothing is left of it"
        );
        uploads.ended("u2").unwrap();
        let first = uploads.asking(&path, "me").unwrap();
        uploads.begun(&path, "me", "u3", Token(vec![1]), first).unwrap();
        uploads.ended("u3").unwrap();
        assert_eq!(uploads.load(), [], "nothing is left of what was answered");
        assert_eq!(owner(&other, &path, "u2", None), None);
    }
}
