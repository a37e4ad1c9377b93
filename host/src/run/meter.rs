//! What a run has done so far, in numbers, and the thread that tells the supervisor.
//!
//! Two counts of bytes: `done` is the plan's progress (what an earlier run staged counts, what must be sent again does
//! not), `sent` only what servers acknowledged to this process. The supervisor takes a growing `done` for life; where
//! only `sent` grows, because something is sent again, the thread says so itself.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::stop::Stop;
use crate::report::{Event, TEXT};

#[derive(Default)]
pub struct Meter {
    done: AtomicI64,
    total: AtomicU64,
    sent: AtomicU64,
    late: AtomicU64,
    done_images: AtomicU64,
    total_images: AtomicU64,
    image: Mutex<Option<String>>,
    said_alive: Mutex<Option<Instant>>,
}

/// How often signs of life are passed on at most.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Without news, progress is repeated this often.
const REPEAT: Duration = Duration::from_secs(60);

impl Meter {
    pub fn plan(&self, bytes: u64, images: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        self.total_images.store(images, Ordering::Relaxed);
    }

    /// Acknowledged by the server.
    pub fn acked(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.done.fetch_add(signed(bytes), Ordering::Relaxed);
    }

    /// Acknowledged by the server while it publishes a file; done when it is published.
    pub fn sent_late(&self, bytes: u64) {
        self.late.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Moves the progress by what is known otherwise: resumed (more), to be sent again (less).
    pub fn correct(&self, bytes: i64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + self.late.load(Ordering::Relaxed)
    }

    pub fn begin_image(&self, image: &str) {
        *self.image.lock().unwrap_or_else(PoisonError::into_inner) = Some(image.to_owned());
    }

    pub fn end_image(&self) {
        self.done_images.fetch_add(1, Ordering::Relaxed);
    }

    /// A sign of life, passed on at most every few seconds; an empty note says nothing to users.
    pub fn alive(&self, outbox: &Outbox, note: &str) {
        let mut said = self.said_alive.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|at| at.elapsed() >= ALIVE_EVERY) {
            *said = Some(Instant::now());
            drop(said);
            outbox.event(Event::Alive { note: bounded(note) });
        }
    }

    fn progress(&self, rate: u64) -> Event {
        Event::Progress {
            done_bytes: self.done(),
            total_bytes: self.total.load(Ordering::Relaxed),
            done_images: self.done_images.load(Ordering::Relaxed),
            total_images: self.total_images.load(Ordering::Relaxed),
            image: self.image.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            rate,
        }
    }

    fn done(&self) -> u64 {
        u64::try_from(self.done.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Tells the supervisor every second while bytes move, and now and then otherwise, until `end` is set. Runs on a
    /// thread of its own.
    pub fn report(self: Arc<Self>, outbox: Arc<Outbox>, end: Arc<Stop>) {
        let (mut told, mut highest, mut sent, mut late) = (Instant::now(), 0, 0, 0);
        let mut rate = 0.0;
        let mut looked = Instant::now();
        loop {
            let ended = end.wait(Duration::from_secs(1));
            let (now_sent, now_late, done) = (self.sent(), self.late.load(Ordering::Relaxed), self.done());
            let speed = (now_sent - sent) as f64 / looked.elapsed().as_secs_f64().max(0.001);
            looked = Instant::now();
            // Smoothed over some five seconds; the first value counts at once.
            rate = if sent == 0 { speed } else { rate + (speed - rate) * 0.2 };
            if now_sent != sent || done > highest || told.elapsed() >= REPEAT || ended {
                told = Instant::now();
                outbox.event(self.progress(rate as u64));
            }
            if now_sent - sent > now_late - late && done <= highest && !ended {
                self.alive(&outbox, "sending again what was lost");
            }
            (sent, late) = (now_sent, now_late);
            highest = highest.max(done);
            if ended {
                return;
            }
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Text from a plugin, cut to what an event may hold.
pub fn bounded(text: &str) -> String {
    crate::words::shorten(text, TEXT)
}
