//! Watches one worker until it ends: hears it, answers its questions, passes on the user's wish to stop, and decides
//! when silence means that it hangs.
//!
//! Life is acknowledged bytes and whatever else happens, not the mere repetition of totals; log text is no life either. A
//! wait that the worker announced (a retry's back-off) does not count as silence.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::process::{Ended, Heard, Worker};
use super::protocol::{Answer, Ask, Control, Line, SecretText, SecretValues, Stop};
use super::scrub;
use crate::config::{Target, resolve};
use crate::plugin::Redactor;
use crate::report::Event;

/// Whether the user wants to stop, and how much.
pub type StopWish = watch::Receiver<Option<Stop>>;

/// How watching a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It ended by itself.
    Ended(Ended),
    /// It gave no sign of life for this long and was killed.
    Hung(Duration, Ended),
    /// It was killed because the user would not wait.
    Killed(Ended),
}

impl End {
    pub fn stuck(self) -> bool {
        matches!(self, Self::Ended(Ended::Stuck) | Self::Hung(_, Ended::Stuck) | Self::Killed(Ended::Stuck))
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended(ended) | Self::Killed(ended) => write!(f, "{ended}"),
            Self::Hung(silence, Ended::Stuck) => {
                write!(
                    f,
                    "gave no sign of life for {} s, is stuck in the kernel and was left behind",
                    silence.as_secs()
                )
            }
            Self::Hung(silence, _) => {
                write!(f, "gave no sign of life for {} s and was killed", silence.as_secs())
            }
        }
    }
}

/// How long a worker may be silent: `OFFSITE_HANG_SECONDS`, else 120 s.
pub fn patience() -> Duration {
    let set = std::env::var("OFFSITE_HANG_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(set.filter(|s| *s > 0).unwrap_or(120))
}

/// How long a worker that was told to stop at once may take.
const AT_ONCE: Duration = Duration::from_secs(2);

/// `on_event` gets every event, log text included; the answer, if one came, is returned. `target`: whose secrets the
/// worker may ask for again. `secrets`: what must not be seen in anything it says.
pub async fn attend(
    worker: &mut Worker,
    target: Option<&Target>,
    secrets: &SecretValues,
    stop: &mut StopWish,
    patience: Duration,
    mut on_event: impl FnMut(Event),
) -> (End, Option<Answer>) {
    let redactor = scrub::redactor(secrets);
    let mut answer = None;
    let mut life = Life { done: 0, until: Instant::now() + patience, patience };
    let mut killed_at: Option<Instant> = None;
    let mut told = None;
    let mut asking = true;
    loop {
        let wish = *stop.borrow_and_update();
        if wish.is_some() && wish != told {
            told = wish;
            if let Some(wish) = wish {
                worker.tell(&Control::Stop(wish)).await;
                if wish == Stop::Now {
                    killed_at = Some(Instant::now() + AT_ONCE);
                }
            }
        }
        let deadline = killed_at.map_or(life.until, |at| at.min(life.until));
        let heard = tokio::select! {
            biased;
            heard = worker.next() => heard,
            changed = stop.changed(), if asking => {
                asking = changed.is_ok();
                continue;
            }
            () = tokio::time::sleep_until(deadline) => {
                let hung = killed_at.is_none_or(|at| life.until < at);
                let ended = worker.kill().await;
                return (if hung { End::Hung(patience, ended) } else { End::Killed(ended) }, answer);
            }
        };
        match heard {
            None => return (End::Ended(worker.ended().unwrap_or(Ended::Stuck)), answer),
            Some(Heard::Line(Line::Event(mut event))) => {
                life.saw(&event);
                scrub::event(&mut event, &redactor);
                on_event(event);
            }
            Some(Heard::Line(Line::Answer(given))) => {
                life.renew(Duration::ZERO);
                answer = Some(scrubbed(*given, &redactor));
            }
            Some(Heard::Line(Line::Ask(Ask::Secret { name }))) => {
                let value = secret(target, &name).await;
                if let Some(SecretText(value)) = &value {
                    // One more to hide.
                    scrub::learn(&redactor, value);
                }
                worker.tell(&Control::Secret { name, value }).await;
            }
            Some(Heard::Output(mut message)) => {
                scrub::text(&mut message, &redactor);
                on_event(Event::Log { level: "info".to_owned(), message });
            }
            Some(Heard::Garbled(error)) => {
                on_event(Event::Log { level: "warn".to_owned(), message: error.to_string() });
            }
        }
    }
}

/// A failure and a check's report are text of the plugin's, too.
fn scrubbed(mut answer: Answer, redactor: &Redactor) -> Answer {
    match &mut answer {
        Answer::Failed(error) => scrub::error(error, redactor),
        Answer::Check { report, .. } => {
            for step in &mut report.steps {
                scrub::text(&mut step.detail, redactor);
            }
        }
        _ => {}
    }
    answer
}

async fn secret(target: Option<&Target>, name: &str) -> Option<SecretText> {
    let target = target?;
    let reference = target.secrets.get(name)?;
    let value = tokio::time::timeout(Duration::from_secs(9), resolve::secret(&target.name, name, reference));
    value.await.ok()?.ok().map(SecretText)
}

struct Life {
    done: u64,
    until: Instant,
    patience: Duration,
}

impl Life {
    /// Never back: another stream may still wait as long as it announced.
    fn renew(&mut self, announced: Duration) {
        self.until = self.until.max(Instant::now() + self.patience + announced);
    }

    fn saw(&mut self, event: &Event) {
        match event {
            Event::Progress { done_bytes, .. } if *done_bytes <= self.done => {}
            Event::Progress { done_bytes, .. } => {
                self.done = *done_bytes;
                self.renew(Duration::ZERO);
            }
            Event::Log { .. } => {}
            Event::Retry { wait_ms, .. } => self.renew(Duration::from_millis(*wait_ms)),
            _ => self.renew(Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(done_bytes: u64) -> Event {
        Event::Progress { done_bytes, total_bytes: 9, done_images: 0, total_images: 1, image: None, rate: 0 }
    }

    #[test]
    fn repeated_totals_and_log_text_are_no_life() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            let mut life = Life { done: 0, until: start, patience: Duration::from_secs(120) };
            life.saw(&progress(0));
            life.saw(&Event::Log { level: "info".into(), message: "x".into() });
            assert_eq!(life.until, start);
            life.saw(&progress(5));
            assert!(life.until >= start + Duration::from_secs(120));
            let until = life.until;
            life.saw(&progress(5));
            assert_eq!(life.until, until);
            let error = crate::error::Error::new(crate::error::Kind::Io, "e");
            life.saw(&Event::retry(None, &error, 1, 5, Duration::from_secs(60)));
            assert!(life.until >= start + Duration::from_secs(180));
            life.saw(&progress(6));
            assert!(life.until >= start + Duration::from_secs(180), "another stream's life ends no wait");
        });
    }
}
