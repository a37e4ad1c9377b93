//! What `offsite status` in another terminal sees of a running target: a small file, replaced atomically, and removed
//! at the end. It is a view for people; nothing is decided by it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::catalog::{RunRecord, catalog_path};
use crate::config::{Job, Target};
use crate::report::Event;

/// Nanoseconds since the Unix epoch.
pub fn now_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Starting,
    Working,
    /// Before a worker is started again.
    Waiting,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub job: String,
    pub target: String,
    pub url: String,
    pub run_id: String,
    /// The supervisor's, with when it started in clock ticks since boot: a number given again is told apart.
    pub supervisor: u32,
    pub supervisor_start: u64,
    pub worker: Option<u32>,
    pub phase: Phase,
    /// Nanoseconds since the Unix epoch.
    pub started_ns: i64,
    pub updated_ns: i64,
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub done_images: u64,
    pub total_images: u64,
    pub image: Option<String>,
    /// Bytes per second.
    pub rate: u64,
    pub retries: u32,
    /// The last thing worth knowing, in words.
    pub note: Option<String>,
}

/// Where a target's progress is.
pub fn path(state_dir: &Path, job: &str, target: &str) -> PathBuf {
    catalog_path(state_dir, job, target).with_extension("progress")
}

/// The progress of a target that runs now; `None` when it does not run.
pub fn read(state_dir: &Path, job: &str, target: &str) -> Option<Progress> {
    let text = std::fs::read(path(state_dir, job, target)).ok()?;
    let progress: Progress = serde_json::from_slice(&text).ok()?;
    (start_of(progress.supervisor) == Some(progress.supervisor_start)).then_some(progress)
}

/// When a process started, in clock ticks since boot (proc(5), field 22 of `stat`).
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything: the fields follow the last parenthesis, the third field first.
    stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

/// Keeps one target's progress file.
pub struct Live {
    path: PathBuf,
    progress: Progress,
    written: Option<Instant>,
}

const EVERY: Duration = Duration::from_secs(1);

impl Live {
    pub fn new(state_dir: &Path, job: &Job, target: &Target, record: &RunRecord) -> Self {
        let supervisor = std::process::id();
        let progress = Progress {
            job: job.name.clone(),
            target: target.name.clone(),
            url: target.url.clone(),
            run_id: record.run_id.clone(),
            supervisor,
            supervisor_start: start_of(supervisor).unwrap_or_default(),
            worker: None,
            phase: Phase::Starting,
            started_ns: record.started_ns,
            updated_ns: record.started_ns,
            done_bytes: 0,
            total_bytes: 0,
            done_images: 0,
            total_images: 0,
            image: None,
            rate: 0,
            retries: 0,
            note: None,
        };
        let mut live = Self { path: path(state_dir, &job.name, &target.name), progress, written: None };
        live.write();
        live
    }

    /// A worker began: its totals start anew.
    pub fn begin(&mut self, worker: u32) {
        self.progress.phase = Phase::Working;
        self.progress.worker = Some(worker);
        self.progress.done_bytes = 0;
        self.write();
    }

    pub fn wait(&mut self) {
        self.progress.phase = Phase::Waiting;
        self.progress.worker = None;
        self.write();
    }

    /// Bytes acknowledged by the last worker.
    pub fn sent(&self) -> u64 {
        self.progress.done_bytes
    }

    pub fn saw(&mut self, event: &Event) {
        let p = &mut self.progress;
        match event {
            Event::Progress { done_bytes, total_bytes, done_images, total_images, image, rate } => {
                (p.done_bytes, p.total_bytes) = (*done_bytes, *total_bytes);
                (p.done_images, p.total_images) = (*done_images, *total_images);
                p.image.clone_from(image);
                p.rate = *rate;
            }
            Event::Planned { bytes, copy, replace, delete, .. } => {
                p.total_bytes = *bytes;
                p.total_images = copy + replace + delete;
            }
            Event::Retry { error, .. } => {
                p.retries += 1;
                p.note = Some(error.clone());
            }
            Event::Notice { text, .. } => p.note = Some(text.clone()),
            Event::ImageFailed { image, error, .. } => p.note = Some(format!("{image}: {error}")),
            Event::Alive { note } if note.is_empty() => {}
            Event::Alive { note } => p.note = Some(note.clone()),
            Event::Log { .. } | Event::Skipped { .. } => return,
            _ => {}
        }
        if self.written.is_none_or(|at| at.elapsed() >= EVERY) {
            self.write();
        }
    }

    fn write(&mut self) {
        self.written = Some(Instant::now());
        self.progress.updated_ns = now_ns();
        let Ok(text) = serde_json::to_vec(&self.progress) else { return };
        let new = self.path.with_extension("progress-new");
        // Only a view: a full disk must not stop a run.
        if std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.path)).is_err() {
            let _ = std::fs::remove_file(&new);
        }
    }

    pub fn end(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
