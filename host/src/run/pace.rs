//! The throttle: one token bucket for all streams of a target, its rate following the timetable.
//!
//! A plugin asks before each write. Tokens arrive continuously and at most a quarter second's worth is kept, so that
//! an idle moment is not made up for by a burst. A write larger than that may go once the bucket is full and leaves
//! it in debt. Rate 0 is a closed window: everybody waits, and says so.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Bandwidth, Window};

/// How long a waiter sleeps before it looks again whether its call was cancelled.
const LOOK: Duration = Duration::from_millis(100);
/// The share of a second that may be sent at once.
const BURST: f64 = 0.25;
/// How often somebody who waits for a window says that it is closed.
const SAY: Duration = Duration::from_secs(30);

/// Minutes of the week in local time: day (0 = Monday) and minute of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    pub day: u8,
    pub minute: u16,
}

impl LocalTime {
    pub fn now() -> Self {
        let now = jiff::Zoned::now();
        Self {
            day: now.weekday().to_monday_zero_offset().unsigned_abs(),
            minute: u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs()),
        }
    }
}

fn matches(window: &Window, at: LocalTime) -> bool {
    let yesterday = (at.day + 6) % 7;
    if window.from <= window.to {
        return window.days.contains(&at.day) && (window.from..window.to).contains(&at.minute);
    }
    (window.days.contains(&at.day) && at.minute >= window.from)
        || (window.days.contains(&yesterday) && at.minute < window.to)
}

/// The rate at that time, bytes per second; `None` is unlimited, 0 closed.
pub fn rate_at(bandwidth: &Bandwidth, at: LocalTime) -> Option<u64> {
    match bandwidth.windows.iter().find(|w| matches(w, at)) {
        Some(window) => Some(window.rate),
        None => bandwidth.rate,
    }
}

struct Bucket {
    tokens: f64,
    filled: Instant,
    rate: Option<u64>,
    rated: Instant,
    said: Option<Instant>,
}

/// One target's throttle.
pub struct Pacer {
    bandwidth: Bandwidth,
    clock: fn() -> LocalTime,
    bucket: Mutex<Bucket>,
}

impl Pacer {
    pub fn new(bandwidth: Bandwidth) -> Self {
        Self::with_clock(bandwidth, LocalTime::now)
    }

    fn with_clock(bandwidth: Bandwidth, clock: fn() -> LocalTime) -> Self {
        let now = Instant::now();
        let rate = rate_at(&bandwidth, clock());
        let bucket = Bucket { tokens: 0.0, filled: now, rate, rated: now, said: None };
        Self { bandwidth, clock, bucket: Mutex::new(bucket) }
    }

    /// Blocks until `bytes` may be sent. `cancelled` is asked at least ten times a second; true ends the wait with
    /// false. `say` is told now and then why nothing moves.
    pub fn pace(&self, bytes: u64, cancelled: &dyn Fn() -> bool, say: &dyn Fn(&str)) -> bool {
        if self.bandwidth.rate.is_none() && self.bandwidth.windows.is_empty() {
            return !cancelled();
        }
        loop {
            if cancelled() {
                return false;
            }
            match self.take(bytes, say) {
                None => return true,
                Some(wait) => std::thread::sleep(wait.min(LOOK)),
            }
        }
    }

    /// Takes the tokens, or says how long it may take until they are there.
    fn take(&self, bytes: u64, say: &dyn Fn(&str)) -> Option<Duration> {
        let now = Instant::now();
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.bandwidth.windows.is_empty() && now.duration_since(bucket.rated) >= Duration::from_secs(1) {
            bucket.rate = rate_at(&self.bandwidth, (self.clock)());
            bucket.rated = now;
        }
        let since = now.duration_since(bucket.filled).as_secs_f64();
        bucket.filled = now;
        let Some(rate) = bucket.rate else {
            bucket.tokens = 0.0;
            return None;
        };
        let rate = rate as f64;
        let wanted = (bytes as f64).min(rate * BURST);
        bucket.tokens = (bucket.tokens + since * rate).min(rate * BURST);
        if rate > 0.0 && bucket.tokens >= wanted {
            bucket.tokens -= bytes as f64;
            return None;
        }
        let wait = if rate > 0.0 { (wanted - bucket.tokens) / rate } else { 1.0 };
        // A long debt and a closed window are no hang.
        if (rate == 0.0 || wait > 10.0) && bucket.said.is_none_or(|s| now.duration_since(s) >= SAY) {
            bucket.said = Some(now);
            drop(bucket);
            say(if rate > 0.0 { "waiting for the bandwidth limit" } else { "the transfer window is closed" });
        }
        Some(Duration::from_secs_f64(wait.clamp(0.001, 3600.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[u8], from: u16, to: u16, rate: u64) -> Window {
        Window { days: days.to_vec(), from, to, rate }
    }

    #[test]
    fn the_first_matching_window_decides_and_may_run_over_midnight() {
        let table = Bandwidth {
            rate: Some(7),
            windows: vec![
                window(&[0, 1], 540, 1020, 100),
                window(&[4], 1320, 360, 0),
                window(&[0], 0, 1440, 5),
            ],
        };
        let cases = [
            ((0, 540), Some(100)),
            ((0, 1019), Some(100)),
            ((0, 1020), Some(5)),
            ((1, 1020), Some(7)),
            ((4, 1320), Some(0)),
            ((5, 359), Some(0)),
            ((5, 360), Some(7)),
            ((4, 100), Some(7)),
        ];
        for ((day, minute), rate) in cases {
            assert_eq!(rate_at(&table, LocalTime { day, minute }), rate, "day {day} minute {minute}");
        }
        assert_eq!(rate_at(&Bandwidth::default(), LocalTime { day: 0, minute: 0 }), None);
    }

    #[test]
    fn several_streams_share_one_rate() {
        for (rate, piece) in [(64 << 10, 4 << 10), (10_000_000, 256 << 10)] {
            let pacer = Pacer::new(Bandwidth { rate: Some(rate), windows: vec![] });
            let begun = Instant::now();
            let sent = std::sync::atomic::AtomicU64::new(0);
            std::thread::scope(|s| {
                for _ in 0..3 {
                    s.spawn(|| {
                        while begun.elapsed() < Duration::from_secs(2) {
                            assert!(pacer.pace(piece, &|| false, &|_| ()));
                            sent.fetch_add(piece, std::sync::atomic::Ordering::Relaxed);
                        }
                    });
                }
            });
            let measured = sent.into_inner() as f64 / begun.elapsed().as_secs_f64();
            let off = measured / rate as f64 - 1.0;
            assert!(off.abs() < 0.15, "{measured} instead of {rate}");
        }
    }

    #[test]
    fn a_closed_window_waits_says_so_and_can_be_cancelled() {
        let pacer =
            Pacer::with_clock(Bandwidth { rate: None, windows: vec![window(&[0], 0, 1440, 0)] }, || {
                LocalTime { day: 0, minute: 5 }
            });
        let begun = Instant::now();
        let said = std::cell::Cell::new(0);
        let cancelled = || begun.elapsed() > Duration::from_millis(300);
        assert!(!pacer.pace(1, &cancelled, &|_| said.set(said.get() + 1)));
        assert_eq!(said.get(), 1);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
