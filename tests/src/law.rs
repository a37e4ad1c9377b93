//! Looks at a target as a reader would, at any instant, and says which law it breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::sandbox;

/// What may be seen: for each name the contents it may have, and its parent.
#[derive(Clone, Default)]
pub struct Laws {
    contents: BTreeMap<PathBuf, BTreeSet<String>>,
    parents: BTreeMap<PathBuf, PathBuf>,
    swaps: bool,
}

impl Laws {
    pub fn new() -> Self {
        Self::default()
    }

    /// Every file of `dir` as it is now may be seen under its name, whole.
    pub fn allow(mut self, dir: &Path) -> Self {
        for (path, hash) in sandbox::tree(dir) {
            self.contents.entry(path).or_default().insert(hash);
        }
        self
    }

    /// The parent of `image` must be visible whenever it is.
    pub fn parent(mut self, image: &str, parent: &str) -> Self {
        self.parents.insert(image.into(), parent.into());
        self
    }

    /// The parents of `qemu::chain(dir, count)`.
    pub fn chain(mut self, count: u8) -> Self {
        for n in 1..=count {
            let parent = if n == 1 { "base.qcow2".to_owned() } else { format!("inc{}.qcow2", n - 1) };
            self = self.parent(&format!("inc{n}.qcow2"), &parent);
        }
        self
    }

    /// The target cannot replace a name in one act: a parent may be gone from its name while its old file waits beside it.
    pub fn swaps(mut self) -> Self {
        self.swaps = true;
        self
    }

    /// Whether an old file of that name waits under a side name.
    fn waits_aside(&self, target: &Path, parent: &Path) -> bool {
        let allowed = self.contents.get(parent);
        let side = |path: &PathBuf| {
            path.extension().is_some_and(|end| end == "old")
                && path.parent() == parent.parent()
                && allowed.is_some_and(|allowed| allowed.contains(&sandbox::hash(&target.join(path))))
        };
        self.swaps && sandbox::debris(target).iter().any(side)
    }

    /// The laws that the target folder breaks, in words; empty when none.
    pub fn broken(&self, target: &Path) -> Vec<String> {
        let visible = sandbox::tree(target);
        let mut broken = Vec::new();
        for (path, hash) in &visible {
            match self.contents.get(path) {
                None => broken.push(format!("{} is visible and was never at the source", path.display())),
                Some(allowed) if !allowed.contains(hash) => {
                    broken.push(format!("{} is visible with a content the source never had", path.display()));
                }
                Some(_) => {}
            }
            if let Some(parent) = self.parents.get(path)
                && !visible.contains_key(parent)
                && !self.waits_aside(target, parent)
            {
                broken.push(format!("{} is visible without its parent {}", path.display(), parent.display()));
            }
        }
        broken
    }

    #[track_caller]
    pub fn hold(&self, target: &Path) {
        let broken = self.broken(target);
        assert!(broken.is_empty(), "laws broken on {}: {broken:#?}", target.display());
    }
}
