//! What stays restorable when images go: the question behind every deletion.

use super::{Evidence, Image, ImageSet, Parent};

impl ImageSet {
    /// For each image whether it would be restorable if those that `gone` names were not there. A consolidated image
    /// that says so by its name hangs on whatever smaller number remains, so removing what it holds does not break it;
    /// where two images hold one number, either serves.
    pub fn restorable_without(&self, gone: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut whole = vec![false; self.images.len()];
        for (at, image) in self.images.iter().enumerate() {
            whole[at] = image.restorable
                && !gone(at)
                && self.parent_without(image, &gone).is_none_or(|p| p < at && whole[p]);
        }
        whole
    }

    /// The image that `image` hangs on then; `None` for a base.
    fn parent_without(&self, image: &Image, gone: &impl Fn(usize) -> bool) -> Option<usize> {
        let Parent::Image(mut parent) = image.parent else { return None };
        while gone(parent) {
            let twin = |other: &usize| {
                let (a, b) = (&self.images[*other], &self.images[parent]);
                !gone(*other)
                    && a.number.is_some()
                    && a.number == b.number
                    && a.parent == b.parent
                    && a.kind == b.kind
            };
            if let Some(twin) = (0..self.images.len()).find(twin) {
                return Some(twin);
            }
            match self.images[parent].parent {
                Parent::Image(next) if image.evidence == Some(Evidence::Name) && next < parent => {
                    parent = next
                }
                _ => return Some(parent),
            }
        }
        Some(parent)
    }
}
