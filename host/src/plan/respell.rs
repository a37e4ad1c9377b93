//! Names that a target spells otherwise than the source does now: on a target that ignores case (or normalisation), a
//! folder that was renamed from `Server1` to `server1` is the one that is there. The target's spelling is kept; nothing is
//! sent again or deleted for it.
//!
//! Only what is recorded there is matched like this. What somebody else put there stays a collision, and so do two names
//! of the source that fall together.

use std::collections::HashMap;

use offsite_plugin_api::{NameRules, TargetPath};

use crate::target::names::folded;

pub(crate) struct Spellings {
    case_sensitive: bool,
    /// Folded path of a file or directory -> as the target spells it.
    spelled: HashMap<String, TargetPath>,
}

impl Spellings {
    /// `there`: recorded files of the target that no source file has the name of. `at_source`: whether the source has a file
    /// or directory of exactly that name. `None` where nothing is spelled otherwise.
    pub fn new<'a>(
        rules: &NameRules,
        there: impl Iterator<Item = &'a TargetPath>,
        at_source: impl Fn(&[u8]) -> bool,
    ) -> Option<Self> {
        let mut spelled = HashMap::new();
        for path in there {
            let bytes = path.as_bytes();
            let ends = (0..bytes.len()).filter(|at| bytes[*at] == b'/').chain([bytes.len()]);
            for name in ends.map(|end| &bytes[..end]) {
                if !at_source(name)
                    && let Ok(spelling) = TargetPath::new(name)
                {
                    spelled.entry(folded(name, rules.case_sensitive)).or_insert(spelling);
                }
            }
        }
        (!spelled.is_empty()).then_some(Self { case_sensitive: rules.case_sensitive, spelled })
    }

    /// The target's spelling of a path, or of the directories that lead to it; `None` where it is the same.
    pub fn of(&self, path: &TargetPath) -> Option<TargetPath> {
        let bytes = path.as_bytes();
        let ends = (0..bytes.len()).rev().filter(|at| bytes[*at] == b'/');
        for end in std::iter::once(bytes.len()).chain(ends) {
            let Some(spelling) = self.spelled.get(&folded(&bytes[..end], self.case_sensitive)) else {
                continue;
            };
            let mut own = spelling.as_bytes().to_vec();
            own.extend_from_slice(&bytes[end..]);
            return TargetPath::new(own).ok().filter(|own| own != path);
        }
        None
    }
}
