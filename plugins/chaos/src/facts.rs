//! What a folder cannot store beside a file and an object store can: retention, class, extra. Kept in one JSON file
//! of the counter folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use offsite_plugin_api::{Attributes, Entry, Error, ErrorKind, Result, TargetPath};

pub struct Facts {
    file: Option<PathBuf>,
    lock: Mutex<()>,
}

impl Facts {
    pub fn new(dir: Option<&str>) -> Self {
        Self { file: dir.map(|d| PathBuf::from(d).join("chaos-facts.json")), lock: Mutex::new(()) }
    }

    fn all(&self) -> BTreeMap<String, Attributes> {
        let text = self.file.as_ref().and_then(|f| std::fs::read(f).ok()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Remembers what is set in `attributes`; the rest stays.
    pub fn put(&self, path: &TargetPath, attributes: &Attributes) {
        let (Some(file), true) = (&self.file, *attributes != Attributes::default()) else { return };
        let _held = self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut all = self.all();
        let known = all.entry(path.display().into_owned()).or_default();
        known.retention = attributes.retention.clone().or(known.retention.take());
        known.class = attributes.class.clone().or(known.class.take());
        known.extra.extend(attributes.extra.clone());
        let text = serde_json::to_vec(&all).expect("attributes serialise");
        std::fs::write(file, text).expect("the counter folder can be written");
    }

    pub fn add_to(&self, entry: &mut Entry) {
        if self.file.is_none() {
            return;
        }
        if let Some(known) = self.all().remove(&*entry.path.display()) {
            entry.retention = known.retention;
            entry.class = known.class;
            entry.extra = known.extra;
        }
    }

    /// Errors: `Retained` while a lock runs.
    pub fn may_change(&self, path: &TargetPath) -> Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        match self.all().get(&*path.display()).and_then(|a| a.retention.clone()) {
            Some(lock) if lock.until > now => Err(Error::new(
                ErrorKind::Retained,
                format!("'{}' is locked until {}", path.display(), lock.until),
            )),
            _ => Ok(()),
        }
    }
}
