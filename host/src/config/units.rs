//! Sizes, rates, durations, shares, weekdays and clock times as people write them. Errors are half sentences that say
//! what is accepted.

use std::time::Duration;

/// Splits `80 MiB` into its number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

/// Bytes: a number, with `K`, `M`, `G`, `T` (or `KiB` …) for powers of 1024 and `kB`, `MB`, `GB`, `TB` for powers of 1000.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size; write for example 64KiB, 80MiB or 1.5GB");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let bytes = number * factor as f64;
    if bytes < 9.0e18 { Ok(bytes.round() as u64) } else { Err(wrong()) }
}

/// Bytes per second: a size, `/s` allowed behind it.
pub fn rate(text: &str) -> Result<u64, String> {
    let bare = text.trim();
    let bare = bare.strip_suffix("/s").or_else(|| bare.strip_suffix("ps")).unwrap_or(bare);
    size(bare).map_err(|_| format!("'{text}' is no rate; write for example 80MiB or 10MB/s (bytes a second)"))
}

/// A number with `ms`, `s`, `m`, `h` or `d`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no duration; write for example 500ms, 30s, 5m, 26h or 7d");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * seconds)
        .ok()
        .filter(|d| d.as_secs() < 3_200_000_000)
        .ok_or_else(wrong)
}

/// A share: `25%` or `0.25`.
pub fn share(text: &str) -> Result<f64, String> {
    let wrong = || format!("'{text}' is no share; write for example 25% or 0.25");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let share = match unit {
        "%" => number / 100.0,
        "" => number,
        _ => return Err(wrong()),
    };
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(wrong()) }
}

/// Minutes from midnight of `22:00`; `24:00` is the end of the day.
pub fn clock(text: &str) -> Result<u16, String> {
    let wrong = || format!("'{text}' is no time of day; write for example 08:00 or 22:30");
    let (hours, minutes) = text.trim().split_once(':').ok_or_else(wrong)?;
    let hours: u16 = hours.parse().map_err(|_| wrong())?;
    let minutes: u16 = minutes.parse().map_err(|_| wrong())?;
    let total = hours.checked_mul(60).and_then(|h| h.checked_add(minutes)).ok_or_else(wrong)?;
    if minutes < 60 && total <= 24 * 60 { Ok(total) } else { Err(wrong()) }
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Days of `mon-fri`, `sat,sun` or `all`; 0 is Monday; sorted, each once.
pub fn days(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("'{text}' names no days; write for example mon-fri, sat,sun or all");
    let day = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        DAYS.iter()
            .position(|d| name.len() >= 3 && (name == *d || full(d).starts_with(&name)))
            .ok_or_else(wrong)
    };
    if matches!(text.trim(), "all" | "*" | "every") {
        return Ok((0..7).collect());
    }
    let mut found = std::collections::BTreeSet::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => {
                found.insert(day(part)? as u8);
            }
            Some((from, to)) => {
                let (from, to) = (day(from)?, day(to)?);
                let length = (to + 7 - from) % 7;
                found.extend((0..=length).map(|n| ((from + n) % 7) as u8));
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn full(day: &str) -> &'static str {
    match day {
        "mon" => "monday",
        "tue" => "tuesday",
        "wed" => "wednesday",
        "thu" => "thursday",
        "fri" => "friday",
        "sat" => "saturday",
        _ => "sunday",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_read_as_written() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64KiB", 65536),
            ("1.5 GB", 1_500_000_000),
            ("2M", 2 << 20),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert_eq!(rate("10MB/s"), Ok(10_000_000));
        for text in ["", "MiB", "-1", "1 XB", "1e3", "99999999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_take_a_unit() {
        assert_eq!(duration("26h"), Ok(Duration::from_secs(26 * 3600)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("5 years").is_err() && duration("99999999999d").is_err());
    }

    #[test]
    fn shares_stay_between_none_and_all() {
        assert_eq!((share("25%"), share("0.5"), share("1")), (Ok(0.25), Ok(0.5), Ok(1.0)));
        assert!(share("101%").is_err() && share("25").is_err());
    }

    #[test]
    fn days_and_clock_wrap_around() {
        assert_eq!(days("mon-fri"), Ok(vec![0, 1, 2, 3, 4]));
        assert_eq!(days("sat-mon"), Ok(vec![0, 5, 6]));
        assert_eq!(days("Saturday, sun"), Ok(vec![5, 6]));
        assert!(days("mo").is_err() && days("funday").is_err());
        assert_eq!((clock("22:30"), clock("24:00")), (Ok(1350), Ok(1440)));
        assert!(clock("24:01").is_err() && clock("8").is_err());
    }
}
