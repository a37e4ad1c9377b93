//! Opening a target in a worker: the plugin, what the host offers to it, its capabilities, the target's lock.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use offsite_plugin_api::{Backend, Capabilities, Error as BackendError, ErrorKind, Host, Secrets};
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use super::call::{Line, SHORT};
use super::context::retried;
use super::protocol::{Ask, Request, SecretText};
use crate::catalog::{Catalog, catalog_path};
use crate::config::MANIFEST_KEY;
use crate::error::{Error, Kind, Result};
use crate::notice::NoticeCode;
use crate::plugin::{PluginLog, Registry};
use crate::target::manifest::{Key, key};

/// How long the supervisor may take to resolve a secret again.
const ANSWER: Duration = Duration::from_secs(10);

/// Secrets that the supervisor resolved again, on their way from the control pipe to whoever waits.
#[derive(Default)]
pub struct Answers {
    given: Mutex<HashMap<String, Vec<Option<SecretText>>>>,
    changed: Condvar,
}

impl Answers {
    pub fn give(&self, name: String, value: Option<SecretText>) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().push(value);
        self.changed.notify_all();
    }

    fn take(&self, name: &str) -> Option<SecretText> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let none = |g: &mut HashMap<String, Vec<_>>| g.get(name).is_none_or(Vec::is_empty);
        let waited = self.changed.wait_timeout_while(given, ANSWER, none);
        let (mut given, _) = waited.unwrap_or_else(PoisonError::into_inner);
        given.get_mut(name)?.pop()?
    }
}

/// What a plugin may ask of the host while its target is open.
struct TargetHost {
    line: Line,
    answers: Arc<Answers>,
    catalog: Arc<Catalog>,
    /// Where nothing may change, what a plugin stores is kept for the life of the worker only.
    kept: Option<Mutex<HashMap<String, Vec<u8>>>>,
    secrets: Vec<String>,
}

fn state_error(error: &Error) -> BackendError {
    BackendError::new(ErrorKind::Other, "the host cannot keep this target's state")
        .with_source(error.to_string())
}

impl Host for TargetHost {
    fn secret(&self, name: &str) -> offsite_plugin_api::Result<Zeroizing<String>> {
        if !self.secrets.iter().any(|s| s == name) {
            let message = format!("the configuration names no secret '{name}'");
            return Err(BackendError::new(ErrorKind::NotFound, message));
        }
        self.line.outbox.ask(Ask::Secret { name: name.to_owned() });
        self.answers.take(name).map(|text| text.0).ok_or_else(|| {
            BackendError::new(
                ErrorKind::Unauthenticated,
                format!("the secret '{name}' could not be resolved again"),
            )
        })
    }

    fn state_get(&self, key: &str) -> offsite_plugin_api::Result<Option<Vec<u8>>> {
        if let Some(kept) = &self.kept
            && let Some(value) = kept.lock().unwrap_or_else(PoisonError::into_inner).get(key)
        {
            return Ok(Some(value.clone()));
        }
        self.catalog.state_get(key).map_err(|e| state_error(&e))
    }

    fn state_put(&self, key: &str, value: &[u8]) -> offsite_plugin_api::Result<()> {
        match &self.kept {
            Some(kept) => {
                kept.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value.to_vec());
                Ok(())
            }
            None => self.catalog.state_put(key, value).map_err(|e| state_error(&e)),
        }
    }

    fn invoke(&self, operation: &str, json: &str) -> offsite_plugin_api::Result<String> {
        if operation == "notice" {
            return match self.line.outbox.warnings().asked(&self.line.outbox, json) {
                true => Ok("{}".to_owned()),
                false => Err(BackendError::new(ErrorKind::Unsupported, "the notice has no text")),
            };
        }
        Err(BackendError::unsupported(&format!("the host operation '{operation}'")))
    }
}

/// A worker's open target.
pub struct Open {
    pub backend: Arc<dyn Backend>,
    pub catalog: Arc<Catalog>,
    pub line: Line,
    /// Held as long as the process lives; `None` for operations that change nothing.
    _lock: Option<File>,
}

/// Takes the lock and the catalog (`writes`), or looks at the catalog only; opens the plugin.
pub fn open(request: &Request, line: &Line, answers: &Arc<Answers>, writes: bool) -> Result<Open> {
    let target = request.target()?;
    let path = catalog_path(&request.state_dir, &request.job.name, &target.name);
    let (lock, catalog) = if writes {
        (Some(lock(&path.with_extension("lock"))?), Catalog::open(&path)?)
    } else {
        (None, Catalog::peek(&path)?)
    };
    if let Some(aside) = catalog.moved_aside() {
        let text = format!(
            "the local catalog was damaged and was moved to {}; it is rebuilt from the target",
            aside.display()
        );
        line.outbox.notice(NoticeCode::CatalogLost, text);
    }
    let catalog = Arc::new(catalog.with_signer(signer(request, writes)?));
    let of_plugin = || request.secrets.0.iter().filter(|(name, _)| *name != MANIFEST_KEY);
    let secrets = Secrets(of_plugin().map(|(n, v)| (n.clone(), v.clone())).collect());
    let log = Arc::new(PluginLog::new(target.name.clone()));
    let host = Arc::new(TargetHost {
        line: line.clone(),
        answers: answers.clone(),
        catalog: catalog.clone(),
        kept: (!writes).then(Mutex::default),
        secrets: of_plugin().map(|(name, _)| name.clone()).collect(),
    });
    let registry = Registry::discover(&request.plugin_dirs);
    let backend = retried(line, target.retry, None, &|| 0, || {
        registry.open_target(&target.url, &target.options, secrets.clone(), host.clone(), log.clone())
    })?;
    Ok(Open { backend: backend.into(), catalog, line: line.clone(), _lock: lock })
}

/// What signs the target's manifests: the configuration's secret, else the key beside the catalog, which a run makes.
fn signer(request: &Request, writes: bool) -> Result<Option<Key>> {
    let (job, target) = (&request.job.name, &request.target()?.name);
    let path = key::key_path(&request.state_dir, job, target);
    let master = match request.secrets.0.get(MANIFEST_KEY) {
        Some(secret) => Some(key::from_secret(secret)?),
        None if writes => Some(key::kept_or_made(&path)?),
        None => key::kept(&path)?,
    };
    Ok(master.map(|master| Key::new(&master, job, target)))
}

impl Open {
    /// For tests: a target that no plugin opened, and no lock guards.
    #[cfg(test)]
    pub fn injected(backend: Arc<dyn Backend>, catalog: Arc<Catalog>, line: &Line) -> Self {
        Self { backend, catalog, line: line.clone(), _lock: None }
    }

    pub fn capabilities(&self, retry: crate::config::Retry) -> Result<Capabilities> {
        retried(&self.line, retry, None, &|| 0, || {
            Ok(self.backend.capabilities(&self.line.call(Some(SHORT)))?)
        })
    }
}

/// The target's lock: no two workers write to one target. Errors: `Locked`.
fn lock(path: &Path) -> Result<File> {
    let state = |e: std::io::Error| {
        Error::new(Kind::State, "cannot lock the target").on(path.display().to_string()).because(e)
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(state)?;
    }
    let file = File::options().write(true).create(true).truncate(false).open(path).map_err(state)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::new(Kind::Locked, "another run is working on this target")
                .on(path.display().to_string())
                .hint("'offsite status' shows it; wait until it ends, or stop it"))
        }
        Err(e) => Err(state(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job/nas.lock");
        let first = lock(&path).unwrap();
        assert_eq!(lock(&path).unwrap_err().kind, Kind::Locked);
        drop(first);
        assert!(lock(&path).is_ok());
    }

    #[test]
    fn a_secret_comes_from_the_supervisor_or_not_at_all() {
        let answers = Arc::new(Answers::default());
        let giver = answers.clone();
        let thread = std::thread::spawn(move || {
            giver.give("other".into(), Some(SecretText(Zeroizing::new("x".into()))));
            giver.give("token".into(), Some(SecretText(Zeroizing::new("fresh".into()))));
            giver.give("gone".into(), None);
        });
        assert_eq!(answers.take("token").unwrap().0.as_str(), "fresh");
        assert!(answers.take("gone").is_none());
        thread.join().unwrap();
    }
}
