//! What follows from who the server is: its naming rules, which SFTP itself does not tell.
//!
//! Found without a trial write, because `plan` and `list` must not change a target.

use std::time::Duration;

use offsite_plugin_api::{Capabilities, NameRules, Replace, Resume};

use super::client::SECOND;
use super::link::Features;
use super::pool::MOST;

/// A server's window is 2 MiB: from this round trip on, one connection carries less than 140 MB/s.
const FAR: Duration = Duration::from_millis(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    pub features: Features,
    /// Bytes, where the server tells.
    pub longest_name: Option<u32>,
    /// The target's own folder answers to its name in the other case, too.
    pub ignores_case: bool,
    /// Time from a question to its answer.
    pub round_trip: Duration,
    /// OpenSSH for Windows: its naming rules (MS-FSCC 2.1.5).
    pub windows: bool,
}

impl Traits {
    /// `banner`: the server's name for itself.
    pub fn new(features: Features, banner: &str) -> Self {
        Self {
            features,
            longest_name: None,
            ignores_case: false,
            round_trip: Duration::ZERO,
            windows: banner.contains("Windows"),
        }
    }

    pub fn capabilities(&self, digest: Option<&str>) -> Capabilities {
        Capabilities {
            durable_checkpoints: self.features.fsync,
            resume: Resume::Ranges,
            replace: if self.features.posix_rename { Replace::Atomic } else { Replace::None },
            // A version is compared by looking first.
            conditional_publish: false,
            staged_readable: true,
            names: self.names(),
            mtime_precision_ns: Some(SECOND as u64),
            digests: digest.map(str::to_owned).into_iter().collect(),
            rename: true,
            parallel_ranges: MOST as u32 / 2,
            streams: (self.round_trip >= FAR).then_some(MOST as u32 / 2),
            ..Capabilities::default()
        }
    }

    fn names(&self) -> NameRules {
        let longest_name = self.longest_name.unwrap_or(255).clamp(64, 4096);
        if !self.windows {
            return NameRules { longest_name, case_sensitive: !self.ignores_case, ..NameRules::default() };
        }
        let mut refused_names = ["CON", "PRN", "AUX", "NUL"].map(str::to_owned).to_vec();
        for n in 1..=9 {
            refused_names.extend([format!("COM{n}"), format!("LPT{n}")]);
        }
        NameRules {
            case_sensitive: false,
            longest_name,
            refused: r#"<>:"\|?*"#.chars().chain('\u{1}'..='\u{1f}').collect(),
            refused_names,
            utf8_only: true,
            ..NameRules::default()
        }
    }
}

/// The path with its last component in the other case; `None` where that has no letters.
pub fn other_case(path: &[u8]) -> Option<Vec<u8>> {
    let name = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    let mut other = path.to_vec();
    for byte in &mut other[name..] {
        *byte = if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
    }
    (other != path).then_some(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: Features =
        Features { posix_rename: true, fsync: false, statvfs: false, most_read: 1, most_write: 1 };

    #[test]
    fn windows_declares_its_rules_and_what_is_missing_is_declared() {
        let windows = Traits::new(FEATURES, "SSH-2.0-OpenSSH_for_Windows_9.5").capabilities(None);
        assert!(!windows.names.case_sensitive && windows.names.refused.contains(':'));
        assert!(!windows.durable_checkpoints && windows.replace == Replace::Atomic);
        let features = Features { posix_rename: false, ..FEATURES };
        let other =
            Traits { ignores_case: true, ..Traits::new(features, "SSH-2.0-x") }.capabilities(Some("md5"));
        assert!(!other.names.case_sensitive && other.names.refused.is_empty());
        let far = Traits { round_trip: FAR, ..Traits::new(features, "SSH-2.0-x") }.capabilities(None);
        assert_eq!((other.streams, far.streams), (None, Some(8)));
        assert_eq!((other.replace, other.digests), (Replace::None, vec!["md5".to_owned()]));
    }

    #[test]
    fn only_the_last_component_changes_its_case() {
        assert_eq!(other_case(b"/srv/Images1"), Some(b"/srv/iMAGES1".to_vec()));
        assert_eq!(other_case(b"/srv/123"), None);
        assert_eq!(other_case(b"/"), None);
    }
}
