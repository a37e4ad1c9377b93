//! What no honest replicator can tell: which of the images that are gone a merge took in, and which somebody removed right
//! beside it, where nobody looked between the two.
//!
//! A closed format's merged image does not say what it holds. All there is to see afterwards is a run of images that is gone
//! and a holder that has another content (or bears a merge's name): exactly what a merge of all of them leaves. Sizes say no
//! more, because a merge of changed blocks is as large as the largest, or as all together. The one thing that would tell is a
//! look in between, which misses the removed image and finds the holder as it was: where there was one, nothing is excused.

use std::collections::BTreeSet;

use super::content::{Id, State, Truth};
use super::oracle::Now;
use super::products::Family;
use super::world::{Why, World};

impl World {
    fn set_of(&self, content: Id) -> Option<u32> {
        self.library.truth(content).map(|t| t.set)
    }

    /// Somebody removes that content: what merged beside it before is not told from what took it in, on every target that
    /// does not have the merged image yet.
    pub fn unclear_since_merged(&self, content: Id) -> Vec<(usize, Id)> {
        let Some(set) = self.set_of(content) else { return Vec::new() };
        let here: Vec<Id> = self.source.true_files().iter().map(|(_, f)| f.content).collect();
        let holders = self.merges.iter().filter(|(of, holder)| *of == set && here.contains(holder));
        let mut unclear = Vec::new();
        for (_, holder) in holders {
            let lacks = |t: &usize| !self.judges[*t].visible.values().any(|id| *id == Some(*holder));
            unclear.extend((0..self.judges.len()).filter(lacks).map(|t| (t, *holder)));
        }
        unclear
    }

    /// A product merged these contents into that one.
    pub fn unclear_by_merge(&mut self, family: Family, run: &[Id], holder: Id) {
        // An overlay's header names what it builds on.
        let Some(set) = self.set_of(holder).filter(|_| family != Family::Qcow) else { return };
        self.merges.push((set, holder));
        let (targets, library) = (self.judges.len(), &self.library);
        for removal in self.removed.values_mut() {
            let of_set = library.truth(removal.content).is_some_and(|t| t.set == set);
            if removal.why != Why::User || !of_set {
                continue;
            }
            if !removal.missed {
                removal.unclear.extend((0..targets).map(|t| (t, holder)));
            }
            let moved: Vec<usize> =
                removal.unclear.iter().filter(|(_, h)| run.contains(h)).map(|(t, _)| *t).collect();
            removal.unclear.extend(moved.into_iter().map(|t| (t, holder)));
        }
    }

    /// The memory of scans is lost: that somebody looked in between is known no more.
    pub fn unclear_by_loss(&mut self) {
        let removed: Vec<_> = self.removed.iter().map(|(at, r)| (at.clone(), r.content)).collect();
        for (at, content) in removed {
            let more = self.unclear_since_merged(content);
            if let Some(removal) = self.removed.get_mut(&at) {
                removal.unclear.extend(more);
                removal.missed = false;
            }
        }
    }

    /// The removed contents that seem to be in a merged image that this target has now: those right below it (above, where
    /// the full backup takes in what follows it), with nothing between that is left or that a look missed before.
    pub fn seems_absorbed(&self, target: usize, now: &Now) -> BTreeSet<Id> {
        let mut seems = BTreeSet::new();
        let holders = self.merges.iter().filter(|(_, h)| now.visible.values().any(|id| *id == Some(*h)));
        for (_, holder) in holders {
            let Some(truth) = self.library.truth(*holder) else { continue };
            let unclear = self.removed.values().filter(|r| r.unclear.contains(&(target, *holder)));
            let unclear: Vec<(Id, Truth)> =
                unclear.filter_map(|r| Some((r.content, self.library.truth(r.content)?))).collect();
            let upwards = self.machines[truth.machine].family == Family::Veeam;
            let mut at = if upwards { Some(truth.gives) } else { truth.needs };
            while let Some(state) = at {
                let next = |t: &Truth| if upwards { t.needs == Some(state) } else { t.gives == state };
                let Some((id, found)) = unclear.iter().find(|(_, t)| next(t)) else { break };
                seems.insert(*id);
                at = if upwards { Some(found.gives) } else { found.needs };
            }
        }
        seems
    }

    /// Whether all that this image lacks on the target seems to be in merged images there.
    pub fn lacks_what_is_unclear(&self, target: usize, id: Id, now: &Now) -> bool {
        let seems = self.seems_absorbed(target, now);
        if seems.is_empty() {
            return false;
        }
        let given = |state: State| {
            now.good.values().any(|id| self.library.truth(*id).is_some_and(|t| t.gives == state))
        };
        let giving = |state: State| {
            let visible = now.visible.values().flatten().copied();
            visible
                .chain(seems.iter().copied())
                .find(|id| self.library.truth(*id).is_some_and(|t| t.gives == state))
        };
        let mut needs = self.library.truth(id).and_then(|t| t.needs);
        while let Some(state) = needs {
            if given(state) {
                return true;
            }
            let Some(below) = giving(state) else { return false };
            needs = self.library.truth(below).and_then(|t| t.needs);
        }
        false
    }
}
