//! What stays restorable when images go: the question behind every deletion.

use super::{Evidence, ImageSet, Parent};
use crate::format::ImageKind;

impl ImageSet {
    /// For each image whether it would be restorable if those that `gone` names were not there. A consolidated image
    /// that says so by its name hangs on the highest smaller number that remains, so removing what it holds does not
    /// break it; where several images hold one number, any serves.
    pub fn restorable_without(&self, gone: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut whole = vec![false; self.images.len()];
        for at in 0..self.images.len() {
            whole[at] = self.images[at].restorable && !gone(at) && self.stands(at, &gone, &whole);
        }
        whole
    }

    /// Whether what the image at `at` hangs on is whole then.
    fn stands(&self, at: usize, gone: &impl Fn(usize) -> bool, whole: &[bool]) -> bool {
        let Parent::Image(parent) = self.images[at].parent else { return true };
        if whole[parent] {
            return true;
        }
        let number = match self.images[at].evidence {
            Some(Evidence::Name) => {
                let below =
                    |&other: &usize| self.images[other].number < self.images[at].number && !gone(other);
                self.branch_below(at).find(below).and_then(|other| self.images[other].number)
            }
            _ => self.images[parent].number,
        };
        number.is_some()
            && self
                .branch_below(at)
                .filter(|&other| self.images[other].number == number)
                .any(|other| whole[other])
    }

    /// The images before that one in its branch, nearest first, down to the base or differential that it grows from.
    fn branch_below(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let mut next = Some(at);
        std::iter::from_fn(move || {
            let here = next?;
            let ends = here != at && self.images[here].kind != ImageKind::Incremental;
            next =
                here.checked_sub(1).filter(|&j| !ends && self.images[j].number <= self.images[here].number);
            next
        })
    }
}
