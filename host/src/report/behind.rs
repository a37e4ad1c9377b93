//! Events are shown by a thread of their own, so that output nobody reads (`offsite run | less`, a terminal stopped with
//! Ctrl-S) never holds up the supervisor, and with it the workers.
//!
//! What waits to be shown is bounded: repeated totals are left out as soon as the reader falls behind, everything else
//! only beyond [`MOST`] events, and then it is said how many.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{At, Event, Reporter, count, word};

/// Events kept for a reader that does not read: some 50 MB at most.
const MOST: usize = 200_000;
/// From so many waiting events on, totals and signs of life are left out.
const BEHIND: usize = 64;

struct Told {
    time: jiff::Timestamp,
    job: String,
    target: Option<String>,
    event: Event,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Told>,
    left_out: u64,
    closing: bool,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ended: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reporter that waits for nobody.
pub struct Behind(Arc<Shared>);

/// What is left to be shown at the end.
#[derive(Clone)]
pub struct Rest(Arc<Shared>);

impl Behind {
    /// `shown`: the reporter that shows the events, in a thread of its own.
    pub fn new(shown: impl Reporter + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || show(&theirs, shown));
        Self(shared)
    }

    pub fn rest(&self) -> Rest {
        Rest(Arc::clone(&self.0))
    }
}

impl Rest {
    /// Until everything was shown; nothing may be reported after it.
    pub async fn shown(&self) {
        self.0.lock().closing = true;
        self.0.changed.notify_all();
        let ended = self.0.ended.notified();
        tokio::pin!(ended);
        // Listening before it is looked at: an end in between is not missed.
        ended.as_mut().enable();
        if !self.0.lock().ended {
            ended.await;
        }
    }
}

impl Reporter for Behind {
    fn event(&mut self, at: &At<'_>, event: &Event) {
        let mut state = self.0.lock();
        let repeated = matches!(event, Event::Progress { .. } | Event::Alive { .. });
        let waiting = state.waiting.len();
        if waiting >= MOST || (repeated && waiting >= BEHIND) {
            state.left_out += u64::from(!repeated);
            return;
        }
        state.waiting.push_back(Told {
            time: jiff::Timestamp::now(),
            job: at.job.to_owned(),
            target: at.target.map(str::to_owned),
            event: event.clone(),
        });
        drop(state);
        self.0.changed.notify_all();
    }
}

fn show(shared: &Shared, mut reporter: impl Reporter) {
    loop {
        let mut state = shared.lock();
        while state.waiting.is_empty() && !state.closing {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let Some(told) = state.waiting.pop_front() else {
            state.ended = true;
            break;
        };
        let left_out = if state.waiting.is_empty() { std::mem::take(&mut state.left_out) } else { 0 };
        drop(state);
        let at = At { job: &told.job, target: told.target.as_deref() };
        reporter.event_at(told.time, &at, &told.event);
        if left_out > 0 {
            let (events, were) = (count(left_out, "event"), word(left_out, "was", "were"));
            let message = format!("{events} {were} left out here, because nobody read on");
            reporter.event_at(told.time, &at, &Event::Log { level: "warn".to_owned(), message });
        }
    }
    shared.ended.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    /// Shows one event for each permission.
    struct Slow(mpsc::Receiver<()>, mpsc::Sender<Event>);

    impl Reporter for Slow {
        fn event(&mut self, _: &At<'_>, event: &Event) {
            let _ = self.0.recv();
            let _ = self.1.send(event.clone());
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_nothing_but_repetition_is_lost() {
        let (go, permission) = mpsc::channel();
        let (say, shown) = mpsc::channel();
        let mut behind = Behind::new(Slow(permission, say));
        let rest = behind.rest();
        let at = At { job: "j", target: Some("t") };
        let deleted = |n: usize| Event::Deleted { image: n.to_string() };
        for n in 0..500 {
            behind.event(&at, &deleted(n));
            behind.event(&at, &Event::Alive { note: "on".into() });
        }
        drop(go);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(20), rest.shown()).await.unwrap() });
        let all: Vec<Event> = shown.try_iter().collect();
        let images: Vec<&Event> = all.iter().filter(|e| matches!(e, Event::Deleted { .. })).collect();
        assert_eq!(images, (0..500).map(deleted).collect::<Vec<_>>().iter().collect::<Vec<_>>());
        assert!(all.len() < 500 + 2 * BEHIND, "{}", all.len());
    }
}
