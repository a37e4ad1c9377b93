//! Bytes, rates and times as people read them.

use std::time::Duration;

/// `0 B`, `1.5 KiB`, `12.3 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

pub fn rate(per_second: u64) -> String {
    format!("{}/s", bytes(per_second))
}

/// `850 ms`, `42 s`, `3 min 20 s`, `5 h 12 min`, `3 d 4 h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// How long ago a moment was, both in nanoseconds since the Unix epoch.
pub fn ago(then_ns: i64, now_ns: i64) -> String {
    let passed = now_ns.saturating_sub(then_ns);
    format!("{} ago", duration(Duration::from_nanos(u64::try_from(passed).unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short_and_right() {
        let sizes =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (3 << 29, "1.5 GiB")];
        for (amount, text) in sizes {
            assert_eq!(bytes(amount), text);
        }
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        let times =
            [(0, "0 ms"), (59, "59 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (273_600, "3 d 4 h")];
        for (seconds, text) in times {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(ago(5, 0), "0 ms ago");
    }
}
