//! Events for people: on a terminal one bar per target, otherwise a line now and then.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::print::{line, note};
use super::table::clean;
use super::{At, Event, Outcome, Reporter, bytes, count, duration, rate, word};
use crate::notice::{Notice, NoticeLevel};

/// Without a terminal: how often a target's progress is told.
const EVERY: Duration = Duration::from_secs(10);

/// Images told one by one before only totals are told.
const TOLD: u32 = 20;

/// The reporter of a run, for people.
pub struct Human {
    bars: Option<MultiProgress>,
    targets: BTreeMap<String, Shown>,
    /// What a job as a whole waits for, told once.
    waits: Option<String>,
    verbose: bool,
}

struct Shown {
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Instant,
    published: u32,
    retries: u32,
    last: Option<String>,
}

impl Human {
    pub fn new(verbose: bool) -> Self {
        let bars = std::io::stderr()
            .is_terminal()
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8)));
        Self { bars, targets: BTreeMap::new(), waits: None, verbose }
    }

    /// Above the bars, or as a line; what went wrong goes to standard error.
    fn say(&self, text: &str, wrong: bool) {
        let print = || if wrong { note(text) } else { line(text) };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    fn target(&mut self, name: &str) -> &mut Shown {
        let bars = &self.bars;
        self.targets.entry(name.to_owned()).or_insert_with(|| {
            let now = Instant::now();
            let bar = bars.as_ref().map(|bars| {
                let bar = bars.add(ProgressBar::new(0));
                bar.set_style(style());
                bar.set_prefix(name.to_owned());
                bar.set_message("starting");
                bar
            });
            Shown { bar, begun: now, told: now, published: 0, retries: 0, last: None }
        })
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:16} {bar:20} {percent:>3}% {msg}")
        .map(|style| style.progress_chars("=> "))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What is left at this rate; `None` when nothing can be said.
fn left(done: u64, total: u64, per_second: u64) -> Option<Duration> {
    (per_second > 0).then(|| Duration::from_secs(total.saturating_sub(done) / per_second))
}

/// `150.0 MiB of 1.2 GiB, 80.0 MiB/s, 14 s left, inc3.qcow2, 2 retries`.
fn progress(event: &Event, retries: u32) -> Option<String> {
    let Event::Progress { done_bytes, total_bytes, done_images, total_images, image, rate: speed } = event
    else {
        return None;
    };
    let mut text = format!("{} of {}", bytes(*done_bytes), bytes(*total_bytes));
    text.push_str(&format!(", {done_images} of {}", count(*total_images, "image")));
    if *speed > 0 {
        text.push_str(&format!(", {}", rate(*speed)));
    }
    if let Some(left) = left(*done_bytes, *total_bytes, *speed).filter(|_| done_bytes < total_bytes) {
        text.push_str(&format!(", {} left", duration(left)));
    }
    if let Some(image) = image {
        text.push_str(&format!(", {}", clean(image)));
    }
    if retries > 0 {
        text.push_str(&format!(", {}", count(retries.into(), "retry")));
    }
    Some(text)
}

/// What a notice is to people: its level, and its sentence.
pub(super) fn notice_text(notice: &Notice) -> String {
    let word = match notice.level {
        NoticeLevel::Info => "note",
        NoticeLevel::Warning => "warning",
        NoticeLevel::Failing => "not done",
    };
    format!("{word}: {}", clean(&notice.text))
}

/// The sentence of an event; `None` for what only moves a bar.
fn sentence(event: &Event) -> Option<String> {
    Some(match event {
        Event::Scanned { files, bytes: size, unsettled, unreadable } => {
            let mut text = format!("{} settled, {}", count(*files, "file"), bytes(*size));
            if *unsettled > 0 {
                text.push_str(&format!("; {unsettled} not yet (still being written)"));
            }
            if *unreadable > 0 {
                text.push_str(&format!(
                    "; {} could not be read: what is in {} is not replicated, and nothing that may belong there is deleted",
                    count(*unreadable, "directory"),
                    word(*unreadable, "it", "them")
                ));
            }
            text
        }
        Event::JobFailed { error, hint, .. } => match hint {
            Some(hint) => format!("failed: {} ({})", clean(error), clean(hint)),
            None => format!("failed: {}", clean(error)),
        },
        Event::Settled { what } => format!("settled first: {}", clean(what)),
        Event::Planned { copy, replace, delete, skip, bytes: size } => {
            format!(
                "plan: {copy} to copy, {replace} to replace, {delete} to delete, {skip} to skip; {} to send",
                bytes(*size)
            )
        }
        Event::Notice(notice) => notice_text(notice),
        Event::Published { image, level, unchanged: true, .. } => format!(
            "recorded {}: the target holds this content already, nothing sent (verified: {level})",
            clean(image)
        ),
        Event::Published { image, bytes: size, level, .. } => {
            format!("published {} ({}, verified: {level})", clean(image), bytes(*size))
        }
        Event::Deleted { image } => format!("deleted {}", clean(image)),
        Event::Retry { image, error, attempt, of, wait_ms, .. } => {
            let wait = duration(Duration::from_millis(*wait_ms));
            let on = image.as_ref().map(|i| format!("{}: ", clean(i))).unwrap_or_default();
            format!("retry {attempt} of {of} in {wait}: {on}{}", clean(error))
        }
        Event::ImageFailed { image, error, hint, .. } => {
            let hint = hint.as_ref().map(|h| format!(" ({})", clean(h))).unwrap_or_default();
            format!("failed: {}: {}{hint}", clean(image), clean(error))
        }
        Event::Finished { outcome, sent_bytes, images, unchanged, deleted, failed, left, error, .. } => {
            let mut parts = Vec::new();
            let published = images.saturating_sub(*unchanged);
            if published > 0 || *outcome == Outcome::Done {
                parts.push(format!("{} published", count(published, "image")));
            }
            if *unchanged > 0 {
                parts.push(format!("{unchanged} recorded without sending"));
            }
            if *deleted > 0 {
                parts.push(format!("{deleted} deleted"));
            }
            if *failed > 0 {
                parts.push(format!("{failed} failed"));
            }
            if *left > 0 {
                parts.push(format!("{left} left for the next run"));
            }
            parts.push(format!("{} sent", bytes(*sent_bytes)));
            let counts = parts.join(", ");
            let word = match outcome {
                Outcome::Done => "done",
                Outcome::Failed => "failed",
                Outcome::Stopped => "stopped",
            };
            match error {
                Some(error) => format!("{word}: {}; {counts}", clean(error)),
                None => format!("{word}: {counts}"),
            }
        }
        Event::Started { .. }
        | Event::Image { .. }
        | Event::Progress { .. }
        | Event::Skipped { .. }
        | Event::Alive { .. }
        | Event::Log { .. } => return None,
    })
}

impl Reporter for Human {
    fn event(&mut self, at: &At<'_>, event: &Event) {
        let name = at.to_string();
        let wrong = is_wrong(event);
        if at.target.is_none() {
            let text = match event {
                Event::Log { level, message } if self.verbose || level != "info" => Some(clean(message)),
                Event::Alive { note } if !note.is_empty() && self.waits.as_ref() != Some(note) => {
                    self.waits = Some(note.clone());
                    Some(clean(note))
                }
                _ => sentence(event),
            };
            if let Some(text) = text {
                self.say(&format!("{name}: {text}"), wrong);
            }
            return;
        }
        let (verbose, terminal) = (self.verbose, self.bars.is_some());
        let shown = self.target(&name);
        let text = match event {
            Event::Progress { done_bytes, total_bytes, .. } => {
                let text = progress(event, shown.retries);
                if let (Some(bar), Some(text)) = (&shown.bar, &text) {
                    bar.set_length(*total_bytes);
                    bar.set_position(*done_bytes);
                    bar.set_message(text.clone());
                }
                let due = !terminal && shown.told.elapsed() >= EVERY && text != shown.last;
                if due {
                    shown.told = Instant::now();
                    shown.last.clone_from(&text);
                }
                text.filter(|_| due)
            }
            Event::Published { .. } | Event::Deleted { .. } => {
                shown.published += 1;
                sentence(event).filter(|_| verbose || shown.published <= TOLD)
            }
            Event::Skipped { image, code, reason } if verbose || code == "changed-meanwhile" => {
                Some(format!("skipped {}: {}", clean(image), clean(reason)))
            }
            Event::Alive { note } if note.is_empty() => None,
            Event::Alive { note } => {
                if let Some(bar) = &shown.bar {
                    bar.set_message(clean(note));
                }
                verbose.then(|| clean(note))
            }
            Event::Log { level, message } => {
                (verbose || matches!(level.as_str(), "warn" | "error")).then(|| clean(message))
            }
            Event::Retry { .. } => {
                shown.retries += 1;
                sentence(event)
            }
            Event::Finished { .. } => {
                if let Some(bar) = &shown.bar {
                    bar.finish_and_clear();
                }
                sentence(event).map(|text| format!("{text} ({})", duration(shown.begun.elapsed())))
            }
            _ => sentence(event),
        };
        if let Some(text) = text {
            self.say(&format!("{name}: {text}"), wrong);
        }
    }
}

fn is_wrong(event: &Event) -> bool {
    match event {
        Event::JobFailed { .. } | Event::ImageFailed { .. } => true,
        Event::Finished { outcome, .. } => *outcome == Outcome::Failed,
        Event::Notice(notice) => notice.level > NoticeLevel::Info,
        Event::Log { level, .. } => matches!(level.as_str(), "warn" | "error"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::notice::NoticeCode;

    #[test]
    fn every_event_reads_as_one_sentence() {
        let events = [
            Event::Scanned { files: 5, bytes: 3 << 30, unsettled: 1, unreadable: 1 },
            Event::job_failed(
                &Error::new(Kind::Source, "the source does not exist").on("/b").hint("mount it"),
            ),
            Event::Settled { what: "the swap of base.qcow2 was finished".into() },
            Event::Planned { copy: 3, replace: 1, delete: 2, skip: 9, bytes: 5 << 20 },
            Event::Notice(Notice::new(NoticeCode::OverDeleteLimit, "3 deletions were held back")),
            Event::Notice(Notice::new(NoticeCode::Space, "it may not fit")),
            Event::Notice(Notice::new(NoticeCode::ForeignStaging, "1 upload of another")),
            Event::Published {
                image: "inc\u{1b}1.qcow2".into(),
                bytes: 1 << 20,
                level: "sampled".into(),
                unchanged: false,
            },
            Event::Published {
                image: "inc2.qcow2".into(),
                bytes: 0,
                level: "sampled".into(),
                unchanged: true,
            },
            Event::Deleted { image: "inc1.qcow2".into() },
            Event::retry(Some("a".into()), &Error::new(Kind::Io, "reset"), 1, 5, Duration::from_millis(2100)),
            Event::image_failed("a".into(), &Error::new(Kind::Io, "no space").hint("make room")),
            Event::Finished {
                outcome: Outcome::Done,
                sent_bytes: 9,
                images: 4,
                unchanged: 2,
                deleted: 1,
                failed: 0,
                left: 1,
                error: None,
                failure: None,
            },
            Event::Finished {
                outcome: Outcome::Failed,
                sent_bytes: 0,
                images: 0,
                unchanged: 0,
                deleted: 0,
                failed: 1,
                left: 0,
                error: Some("the disk is full".into()),
                failure: None,
            },
        ];
        let text: Vec<String> = events.iter().filter_map(sentence).collect();
        assert_eq!(text.len(), events.len());
        insta::assert_snapshot!(text.join("\n"));
    }

    #[test]
    fn progress_has_rate_remaining_time_image_and_retries() {
        let event = Event::Progress {
            done_bytes: 150 << 20,
            total_bytes: 1 << 30,
            done_images: 1,
            total_images: 4,
            image: Some("inc3.qcow2".into()),
            rate: 80 << 20,
        };
        insta::assert_snapshot!(
            progress(&event, 2).unwrap_or_default(),
            @"150.0 MiB of 1.0 GiB, 1 of 4 images, 80.0 MiB/s, 10 s left, inc3.qcow2, 2 retries"
        );
    }
}
