//! Whether two modification times are one time, kept more or less exactly.
//!
//! FAT keeps two seconds, exFAT ten milliseconds, an older NFS server a second, CIFS 100 nanoseconds; but while a file is
//! cached, the kernel shows the time it was given. After the next mount the same file has the coarser one.

const GRAINS: [i64; 6] = [100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000];

/// Nanoseconds since the Unix epoch. One must be exactly what a coarser file system makes of the other, so that two
/// writes on one file system, whatever its grain, are told apart.
pub fn same_mtime(one: i64, other: i64) -> bool {
    let coarser = |coarse: i64, fine: i64| {
        GRAINS.iter().any(|&grain| {
            // With a grain of two seconds the odd second is lost, too: only what lies below the second shows.
            let below = grain.min(1_000_000_000);
            coarse % grain == 0 && fine % below != 0 && coarse.abs_diff(fine) < grain.unsigned_abs()
        })
    };
    one == other || coarser(one, other) || coarser(other, one)
}

#[cfg(test)]
mod tests {
    use super::same_mtime;

    #[test]
    fn a_time_is_the_same_when_only_its_grain_differs() {
        const S: i64 = 1_000_000_000;
        for (one, other, expected) in [
            (1000 * S + 123_456_789, 1000 * S, true),
            (1001 * S + 123_456_789, 1000 * S, true),
            (1001 * S + 123_456_789, 1002 * S, true),
            (1001 * S + 123_456_789, 1001 * S, true),
            (1000 * S + 123_456_789, 1000 * S + 123_456_700, true),
            (1000 * S + 123_456_789, 1000 * S + 120_000_000, true),
            // Two writes, on whatever file system.
            (1000 * S, 1001 * S, false),
            (1000 * S, 1002 * S, false),
            (1000 * S + 5, 1000 * S + 7, false),
            (1000 * S + 123_456_700, 1000 * S + 123_456_800, false),
            (1000 * S + 120_000_000, 1000 * S + 130_000_000, false),
            (1003 * S + 123_456_789, 1000 * S, false),
        ] {
            assert_eq!(same_mtime(one, other), expected, "{one} {other}");
            assert_eq!(same_mtime(other, one), expected, "{other} {one}");
        }
    }
}
