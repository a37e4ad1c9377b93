//! The state of jobs for people and machines.

use serde::Serialize;

use super::table::{Table, clean};
use super::{At, Outcome, ago, bytes, count, duration, rate};
use crate::catalog::RunRecord;
use crate::notice::NoticeLevel;
use crate::run::progress::{Phase, Progress};

/// Sets that lag are shown one by one up to here.
const SHOWN: usize = 10;

#[derive(Debug, Serialize)]
pub struct JobStatus {
    pub job: String,
    pub source: String,
    pub targets: Vec<TargetStatus>,
}

#[derive(Debug, Serialize)]
pub struct TargetStatus {
    pub target: String,
    pub url: String,
    /// `None` when it does not run now.
    pub running: Option<Progress>,
    pub last_success: Option<RunRecord>,
    /// Newest first.
    pub runs: Vec<RunRecord>,
    /// What earlier runs staged and the next resumes.
    pub staged: Vec<Staged>,
    /// Images that the last run left because they were still being written.
    pub left: Vec<LeftImage>,
    /// How far each set of the source is behind here, as the last run that came to its end found it.
    pub sets: Vec<SetStatus>,
    /// The last success is older than `--max-age`, or there is none.
    pub too_old: bool,
    /// Some set lags for longer than `--max-age`.
    pub lags: bool,
}

#[derive(Debug, Serialize)]
pub struct SetStatus {
    pub set: String,
    /// The newest settled image of the source.
    pub newest: String,
    /// Since when the set's newest image has not been restorable on this target, nanoseconds since the Unix epoch; `null`
    /// where it is restorable.
    pub lags_since_ns: Option<i64>,
    /// Why it is not, as a clause: which ancestor is altered, another one or gone, or what was not sent.
    pub why: Option<String>,
    /// For longer than `--max-age`.
    pub too_long: bool,
}

#[derive(Debug, Serialize)]
pub struct LeftImage {
    pub image: String,
    /// Nanoseconds since the Unix epoch.
    pub since_ns: i64,
    /// In a row.
    pub runs: u64,
    /// It only waits for another image.
    pub waits: bool,
}

#[derive(Debug, Serialize)]
pub struct Staged {
    pub path: String,
    /// Held by the target.
    pub bytes: u64,
    pub size: u64,
}

/// `{"version":1,"now_ns":…,"jobs":[…]}`; times in nanoseconds since the Unix epoch.
pub fn status_json(jobs: &[JobStatus], now_ns: i64) -> String {
    serde_json::json!({ "version": 1, "now_ns": now_ns, "jobs": jobs }).to_string()
}

pub fn status_text(jobs: &[JobStatus], now_ns: i64) -> String {
    let mut parts = Vec::new();
    for target in jobs.iter().flat_map(|j| j.targets.iter().map(move |t| (j, t))) {
        parts.push(of_target(target.0, target.1, now_ns));
    }
    parts.join("\n\n")
}

fn of_target(job: &JobStatus, target: &TargetStatus, now_ns: i64) -> String {
    let at = At { job: &job.job, target: Some(&target.target) };
    let mut text = format!("{at} -> {}", clean(&target.url));
    match &target.running {
        Some(progress) => text.push_str(&format!("\nrunning: {}", running(progress, now_ns))),
        None => text.push_str("\nnot running"),
    }
    let ended = target.runs.iter().find(|run| run.ended_ns.is_some());
    let age = target.last_success.as_ref().and_then(|run| run.ended_ns).map(|end| ago(end, now_ns));
    let old = if target.too_old { " (too old)" } else { "" };
    match age {
        Some(age) => text.push_str(&format!("\nlast success: {age}{old}")),
        // Before there was a word for it: a run that ended, of which nobody knows what it left undone.
        None if ended.is_some_and(|run| run.clean.is_none()) => text.push_str(&format!(
            "\nlast success: not known{old}; the runs so far were recorded by an older offsite, the next run says it"
        )),
        None => text.push_str(&format!("\nlast success: never{old}")),
    }
    let lagging = |set: &&SetStatus| set.lags_since_ns.is_some();
    for set in target.sets.iter().filter(lagging).take(SHOWN) {
        let since = duration(passed(set.lags_since_ns.unwrap_or(now_ns), now_ns));
        let long = if set.too_long { " (too long)" } else { "" };
        text.push_str(&format!(
            "\nbehind: the newest image of {} is not restorable here, for {since}{long}: {}",
            clean(&set.set),
            clean(&set.newest)
        ));
        if let Some(why) = &set.why {
            text.push_str(&format!("; {}", clean(why)));
        }
    }
    let more = target.sets.iter().filter(lagging).count().saturating_sub(SHOWN);
    if more > 0 {
        text.push_str(&format!("\nbehind: {}; --json lists them", count(more as u64, "more set")));
    }
    if !target.runs.is_empty() {
        let mut table = Table::new(&["RUN", "TOOK", "ENDED", "IMAGES", "SENT", "NOTE"]).right(&[3, 4]);
        for run in &target.runs {
            table.row(row(run, target.running.as_ref(), now_ns));
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    if let Some(run) = ended {
        text.push_str(&what_was_wrong(run));
    }
    for staged in &target.staged {
        let held = format!("{} of {}", bytes(staged.bytes), bytes(staged.size));
        text.push_str(&format!("\nstaged: {}, {held}", clean(&staged.path)));
    }
    for left in &target.left {
        let (image, since, runs) = (clean(&left.image), ago(left.since_ns, now_ns), count(left.runs, "run"));
        let why = if left.waits { "waiting for another image" } else { "still being written" };
        text.push_str(&format!("\nleft for the next run: {image}, {why} in {runs}, first {since}"));
    }
    text
}

/// Of the last run that ended: what it did not do, which images failed, what it warned of.
fn what_was_wrong(run: &RunRecord) -> String {
    let mut text = String::new();
    for told in &run.wrong.notices {
        let word = if told.level == NoticeLevel::Failing { "not done" } else { "warning" };
        text.push_str(&format!("\n{word}: {}", clean(&told.text)));
        if told.times > 1 {
            text.push_str(&format!(" ({} more of this kind)", told.times - 1));
        }
    }
    for failed in &run.wrong.images {
        let why = failed.failure.to_string();
        text.push_str(&format!("\nfailed: {}: {}", clean(&failed.image), clean(&why)));
    }
    let more = run.failed.saturating_sub(run.wrong.images.len() as u64);
    if more > 0 && !run.wrong.images.is_empty() {
        text.push_str(&format!("\nfailed: {}", count(more, "more image")));
    }
    text
}

fn passed(since_ns: i64, now_ns: i64) -> std::time::Duration {
    std::time::Duration::from_nanos(u64::try_from(now_ns.saturating_sub(since_ns)).unwrap_or(0))
}

fn row(run: &RunRecord, running: Option<&Progress>, now_ns: i64) -> [String; 6] {
    let took = run.ended_ns.map(|end| u64::try_from(end.saturating_sub(run.started_ns)).unwrap_or(0));
    let ended = match run.outcome {
        Some(Outcome::Done) if run.wrong.failing() => "partly",
        Some(Outcome::Done) => "done",
        Some(Outcome::Failed) => "failed",
        Some(Outcome::Stopped) => "stopped",
        None if running.is_some_and(|p| p.run_id == run.run_id) => "running",
        None => "killed",
    };
    [
        ago(run.started_ns, now_ns),
        took.map(|t| duration(std::time::Duration::from_nanos(t))).unwrap_or_default(),
        ended.to_owned(),
        run.images.to_string(),
        bytes(run.sent_bytes),
        run.error.clone().unwrap_or_default(),
    ]
}

fn running(p: &Progress, now_ns: i64) -> String {
    let mut text = match p.phase {
        Phase::Starting => "starting".to_owned(),
        Phase::Waiting => "waiting before the next attempt".to_owned(),
        Phase::Working => format!("{} of {}", bytes(p.done_bytes), bytes(p.total_bytes)),
    };
    text.push_str(&format!(", {} of {}", p.done_images, count(p.total_images, "image")));
    if p.phase == Phase::Working && p.rate > 0 {
        let left = p.total_bytes.saturating_sub(p.done_bytes) / p.rate;
        text.push_str(&format!(
            ", {}, {} left",
            rate(p.rate),
            duration(std::time::Duration::from_secs(left))
        ));
    }
    if let Some(image) = &p.image {
        text.push_str(&format!(", {}", clean(image)));
    }
    if p.retries > 0 {
        text.push_str(&format!(", {}", count(p.retries.into(), "retry")));
    }
    text.push_str(&format!("; began {}", ago(p.started_ns, now_ns)));
    if let Some(note) = &p.note {
        text.push_str(&format!("; {}", clean(note)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::notice::{Notice, NoticeCode};

    #[test]
    fn a_status_shows_progress_runs_age_and_what_is_staged() {
        let second = 1_000_000_000;
        let run = |id: &str, started: i64, ended: Option<i64>, outcome| RunRecord {
            ended_ns: ended.map(|s| s * second),
            outcome,
            images: 3,
            sent_bytes: 5 << 20,
            started_ns: started * second,
            ..RunRecord::begin(id, "nas")
        };
        let mut done = run("r1", 0, Some(65), Some(Outcome::Done));
        done.clean = Some(true);
        let mut held = run("r2", 3600, Some(3700), Some(Outcome::Done));
        held.clean = Some(false);
        for code in [NoticeCode::OverDeleteLimit, NoticeCode::PluginWarning, NoticeCode::PluginWarning] {
            held.wrong.notice(&Notice::new(code.clone(), format!("about {code}")));
        }
        let full = Error::new(Kind::Verify, "the image differs from the source").hint("look at the disk");
        held.wrong.image("a\u{1b}.qcow2", &full);
        held.failed = 3;
        let progress = Progress {
            job: "daily".into(),
            target: "nas".into(),
            url: "/nas".into(),
            run_id: "r3".into(),
            supervisor: 1,
            supervisor_start: 1,
            worker: Some(2),
            phase: Phase::Working,
            started_ns: 7000 * second,
            updated_ns: 7000 * second,
            done_bytes: 1 << 20,
            total_bytes: 11 << 20,
            done_images: 0,
            total_images: 2,
            image: Some("inc2.qcow2".into()),
            rate: 1 << 20,
            retries: 1,
            note: Some("connection reset".into()),
        };
        let job = JobStatus {
            job: "daily".into(),
            source: "/backups".into(),
            targets: vec![TargetStatus {
                target: "nas".into(),
                url: "/nas".into(),
                running: Some(progress),
                last_success: Some(done.clone()),
                runs: vec![run("r3", 7000, None, None), run("rk", 6000, None, None), held, done],
                staged: vec![Staged { path: "inc2.qcow2".into(), bytes: 1 << 20, size: 11 << 20 }],
                left: vec![LeftImage {
                    image: "live.vbk".into(),
                    since_ns: 3600 * second,
                    runs: 2,
                    waits: false,
                }],
                sets: vec![
                    SetStatus {
                        set: "db".into(),
                        newest: "db7.qcow2".into(),
                        lags_since_ns: Some(0),
                        why: Some("altered: 'db0.qcow2' has 0 bytes on the target instead of 7".into()),
                        too_long: true,
                    },
                    SetStatus {
                        set: "web".into(),
                        newest: "web2.qcow2".into(),
                        lags_since_ns: None,
                        why: None,
                        too_long: false,
                    },
                ],
                too_old: true,
                lags: true,
            }],
        };
        insta::assert_snapshot!(status_text(&[job], 7200 * second));
    }
}
