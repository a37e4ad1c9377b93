//! How far each set of the source is behind on the target: since when its newest settled image is not restorable there.
//! Judged at the end of each run, from the plan, what was done of it, and the target as it is now. Pure.
//!
//! - Newest is the newest tip among the images that the user's filter and policy want: a source that has produced nothing
//!   new does not lag, however old its images are.
//! - It is up when the target holds it as the source does (or in a consolidated image) and every ancestor is there,
//!   proved: what is unproven is not up.
//! - A lag lasts until the newest image of that time is up, so that a set of which each day's image fails lags by days.
//! - Why it lags is kept in words: which ancestor is altered, another one or gone, or what was not done.
//! - What cannot be restored at the source either is no lag but a gap, and told as one; where filter or policy leave the
//!   ancestors out, the image itself counts.
//!
//! Where nothing of a set was to be done and its newest image is the one that was up before, it still is: then the
//! target's chains need not be assembled.

use std::collections::{BTreeMap, HashMap, HashSet};

use offsite_plugin_api::TargetPath;

use crate::catalog::SetLag;
use crate::chain::{Chains, Image, ImageSet, Parent, Span};
use crate::error::Result;
use crate::plan::{Action, Code, Plan, Step};
use crate::target::TargetView;

/// Nothing else says it.
const NOT_WHOLE: &str = "it is not whole on the target";
const NOT_DONE: &str =
    "not replicated yet: it, or what it builds on, failed in the last run or was not reached";
const UNPROVEN: &str = "unproven: it builds on, or is held by, an image of which nothing proves that it is a genuine consolidation";

/// What is judged.
pub struct Run<'a> {
    pub source: &'a Chains,
    pub plan: &'a Plan,
    /// Steps of the plan that were carried out.
    pub done: &'a HashSet<usize>,
    /// Sets of which something recorded is not on the target any more, as it was listed.
    pub gone: HashSet<&'a str>,
    /// When the source was scanned, nanoseconds since the Unix epoch.
    pub scanned_ns: i64,
    /// Every directory of the source could be looked into.
    pub whole: bool,
}

/// The lags after this run. `before`: after the last one. `target`: the target as it is now; asked for only where needed.
pub fn lags<'v>(
    run: &Run<'_>,
    before: &BTreeMap<String, SetLag>,
    target: impl FnOnce() -> Result<&'v TargetView>,
) -> Result<BTreeMap<String, SetLag>> {
    let busy = busy(run);
    let mut now = BTreeMap::new();
    let mut open: Vec<(&ImageSet, &Image)> = Vec::new();
    let steps = steps(run, &busy);
    for set in &run.source.sets {
        let quiet = !busy.contains(set.id.as_str());
        let wanted = |image: &Image| quiet || steps.get(&image.id).is_none_or(|(_, step)| !left_out(step));
        let Some(newest) = newest(set, wanted) else { continue };
        match before.get(&set.id) {
            Some(lag) if quiet && lag.since_ns == 0 && lag.image == newest.id => {
                now.insert(set.id.clone(), lag.clone());
            }
            _ => open.push((set, newest)),
        }
    }
    if !open.is_empty() {
        let view = target()?;
        let there = There::new(view);
        for (set, image) in open {
            let Some(why) = lacks(run, &there, set, image, &steps) else { continue };
            let lagged = before.get(&set.id).map(|lag| lag.since_ns).filter(|since| *since > 0);
            let since_ns = if why.is_none() { 0 } else { lagged.unwrap_or(run.scanned_ns) };
            now.insert(set.id.clone(), SetLag { image: image.id.clone(), since_ns, why });
        }
    }
    if !run.whole {
        // What could not be looked for is not known to be gone: it lags on.
        for (set, lag) in before.iter().filter(|(_, lag)| lag.since_ns > 0) {
            now.entry(set.clone()).or_insert_with(|| lag.clone());
        }
    }
    Ok(now)
}

/// Sets of which anything is not simply as it should be.
fn busy<'a>(run: &Run<'a>) -> HashSet<&'a str> {
    let mut busy: HashSet<&str> = run.gone.clone();
    for step in &run.plan.steps {
        let quiet = step.action == Action::Skip && step.code == Code::UpToDate && step.files.is_empty();
        if !quiet {
            busy.insert(&step.set);
        }
    }
    busy
}

/// The steps of busy sets, by image.
fn steps<'a>(run: &Run<'a>, busy: &HashSet<&str>) -> HashMap<&'a TargetPath, (usize, &'a Step)> {
    if busy.is_empty() {
        return HashMap::new();
    }
    let steps = run.plan.steps.iter().enumerate().filter(|(_, s)| s.action != Action::Delete);
    steps.filter(|(_, s)| busy.contains(&*s.set)).map(|(at, s)| (&s.image, (at, s))).collect()
}

fn left_out(step: &Step) -> bool {
    matches!(step.code, Code::Filtered | Code::BeforeBaseline)
}

/// The newest image that nothing wanted builds on.
fn newest(set: &ImageSet, wanted: impl Fn(&Image) -> bool) -> Option<&Image> {
    let mut built_on = vec![false; set.images.len()];
    let mut newest: Option<&Image> = None;
    for (at, image) in set.images.iter().enumerate().rev() {
        // Ancestors come before descendants.
        if !wanted(image) {
            if built_on[at]
                && let Parent::Image(parent) = image.parent
            {
                built_on[parent] = true;
            }
            continue;
        }
        if let Parent::Image(parent) = image.parent {
            built_on[parent] = true;
        }
        let written = |i: &Image| i.files.last().and_then(|f| f.mtime_ns);
        if !built_on[at] && newest.is_none_or(|n| written(image) > written(n)) {
            newest = Some(image);
        }
    }
    newest
}

/// What of the source is on the target, restorable and proved.
struct There<'a> {
    /// By the anchor's path at the source: why it is not, if so.
    images: HashMap<&'a TargetPath, Option<String>>,
    /// By the set at the source: the runs that consolidated images hold.
    spans: HashMap<&'a str, Vec<Span>>,
}

impl<'a> There<'a> {
    fn new(view: &'a TargetView) -> Self {
        let (mut images, mut spans) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for image in view.chains().sets.iter().flat_map(|s| &s.images) {
            let lacks = match (image.restorable, image.unproven) {
                (true, false) => None,
                (true, true) => Some(UNPROVEN.to_owned()),
                (false, _) => Some(image.missing.clone().unwrap_or_else(|| NOT_WHOLE.to_owned())),
            };
            let proved = lacks.is_none();
            let Some(recorded) = view.files.recorded(&image.id) else { continue };
            images.insert(&recorded.image, lacks);
            if let Some(span) = image.span.filter(|s| proved && s.first < s.last) {
                spans.entry(&*recorded.set).or_default().push(span);
            }
        }
        Self { images, spans }
    }
}

/// Why the image is not up, in words; the outer `None` where the source itself could not restore it.
fn lacks(
    run: &Run<'_>,
    there: &There<'_>,
    set: &ImageSet,
    image: &Image,
    steps: &HashMap<&TargetPath, (usize, &Step)>,
) -> Option<Option<String>> {
    let step = steps.get(&image.id).copied();
    let absent = match step {
        // Of a quiet set: up to date.
        None => None,
        Some((_, step)) if step.code == Code::Covered => {
            let covers = |span: &Span| image.number.is_some_and(|n| span.first <= n && n <= span.last);
            let covered = there.spans.get(set.id.as_str()).is_some_and(|spans| spans.iter().any(covers));
            return Some((!covered).then(|| UNPROVEN.to_owned()));
        }
        Some((_, step)) if step.action == Action::Skip && step.files.is_empty() => {
            let as_it_should_be = matches!(step.code, Code::UpToDate | Code::Consolidated);
            (!as_it_should_be).then(|| step.reason.clone().into_owned())
        }
        Some((at, _)) => (!run.done.contains(&at)).then(|| NOT_DONE.to_owned()),
    };
    if image.restorable && builds_on_left_out(set, image, steps) {
        return Some(absent);
    }
    let lacks = absent.or_else(|| match there.images.get(&image.id) {
        Some(lacks) => lacks.clone(),
        None => Some(NOT_WHOLE.to_owned()),
    });
    (lacks.is_none() || image.restorable).then_some(lacks)
}

/// Whether the user's filter or policy leaves out an ancestor of it.
fn builds_on_left_out(set: &ImageSet, image: &Image, steps: &HashMap<&TargetPath, (usize, &Step)>) -> bool {
    let mut below = &image.parent;
    // On a cycle nobody is left out: it ends after as many as there are.
    for _ in 0..set.images.len() {
        let Parent::Image(parent) = *below else { return false };
        if steps.get(&set.images[parent].id).is_some_and(|(_, step)| left_out(step)) {
            return true;
        }
        below = &set.images[parent].parent;
    }
    false
}

#[cfg(test)]
mod tests;
