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
    /// Bytes left to do as this worker's plan says, at best; `None` before it planned.
    left: Option<u64>,
    /// The same of all workers before it.
    least: Option<u64>,
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
        let mut live = Self {
            path: path(state_dir, &job.name, &target.name),
            progress,
            written: None,
            left: None,
            least: None,
        };
        live.write();
        live
    }

    /// A worker began: its totals start anew.
    pub fn begin(&mut self, worker: u32) {
        self.progress.phase = Phase::Working;
        self.progress.worker = Some(worker);
        self.progress.done_bytes = 0;
        self.left = None;
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

    /// After a worker died: by how many bytes less is left to do than any worker before it came to. What an earlier run
    /// staged, and what was sent again, counts for nothing.
    pub fn gained(&mut self) -> u64 {
        let Some(left) = self.left.take() else { return 0 };
        let least = self.least.unwrap_or(left);
        self.least = Some(least.min(left));
        least.saturating_sub(left)
    }

    pub fn saw(&mut self, event: &Event) {
        let p = &mut self.progress;
        match event {
            Event::Progress { done_bytes, total_bytes, done_images, total_images, image, rate } => {
                (p.done_bytes, p.total_bytes) = (*done_bytes, *total_bytes);
                (p.done_images, p.total_images) = (*done_images, *total_images);
                p.image.clone_from(image);
                p.rate = *rate;
                let now = total_bytes.saturating_sub(*done_bytes);
                self.left = self.left.map(|left| if *total_bytes == 0 { left } else { left.min(now) });
            }
            Event::Planned { bytes, copy, replace, delete, .. } => {
                p.total_bytes = *bytes;
                self.left = Some(*bytes);
                p.total_images = copy + replace + delete;
            }
            Event::Retry { error, .. } => {
                p.retries += 1;
                p.note = Some(error.clone());
            }
            Event::Notice(notice) => p.note = Some(notice.text.clone()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_gains_only_what_no_worker_before_it_came_to() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"job":"j","target":"t","url":"u","run_id":"r","supervisor":1,"supervisor_start":1,"worker":null,
            "phase":"starting","started_ns":0,"updated_ns":0,"done_bytes":0,"total_bytes":0,"done_images":0,
            "total_images":0,"image":null,"rate":0,"retries":0,"note":null}"#;
        let mut live = Live {
            path: dir.path().join("t.progress"),
            progress: serde_json::from_str(text).unwrap(),
            written: None,
            left: None,
            least: None,
        };
        let mut worker = |planned: Option<u64>, done: &[u64]| {
            live.begin(7);
            let total = planned.unwrap_or(0);
            if let Some(bytes) = planned {
                live.saw(&Event::Planned { copy: 1, replace: 0, delete: 0, skip: 0, bytes });
            }
            for done_bytes in done.iter().copied() {
                live.saw(&Event::Progress {
                    done_bytes,
                    total_bytes: total,
                    done_images: 0,
                    total_images: 1,
                    image: None,
                    rate: 0,
                });
            }
            live.gained()
        };
        // It crashes at the publish of a file that an earlier run staged wholly, again and again.
        assert_eq!(worker(Some(100), &[70]), 0);
        assert_eq!(worker(Some(100), &[70]), 0);
        // One comes further; the next publishes and plans less.
        assert_eq!(worker(Some(100), &[70, 90]), 20);
        assert_eq!(worker(Some(30), &[25]), 5);
        // Sent again in vain, or dead before it planned.
        assert_eq!(worker(Some(30), &[25, 0, 25]), 0);
        assert_eq!(worker(None, &[0]), 0);
        assert_eq!(worker(Some(30), &[30]), 5);
    }
}
