//! Merges at the source, judged by their own transfer: what is sent has a digest and first bytes, and so had what it
//! replaces. What is not proved spares the images that would have been deleted for it.

use std::collections::HashSet;

use offsite_plugin_api::TargetPath;

use super::super::call::SHORT;
use super::{Executor, State, code_name};
use crate::catalog::Absorption;
use crate::error::Result;
use crate::format::signature;
use crate::notice::NoticeCode;
use crate::plan::notices::changed_unproven;
use crate::plan::{Code, Content, Proof, Sign, Step, prove};
use crate::report::{Event, count, word};
use crate::target::{self, Publish};

/// Images in whose place this run put another content, by their anchors on the target.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The restore point is the one that it was: merged, or written anew above a merge.
    merged: HashSet<TargetPath>,
    /// It may be another chain's.
    another: HashSet<TargetPath>,
}

impl Executor<'_> {
    /// Judges the merge of a step whose files are staged and about to be published, and notes what it takes in: from then on
    /// a later run knows it, too. `None`: the step is no merge.
    pub(super) fn prove(&self, step: usize, files: &mut [Publish]) -> Result<Option<Proof>> {
        let proof = self.judge(step, files)?;
        let step = &self.material.plan.steps[step];
        let Some(sent) = anchor(step, files) else { return Ok(proof) };
        let was = self.material.view.files.recorded(&sent.path).and_then(|r| r.blake3);
        if was.is_some() && was != sent.record.blake3 {
            let anew = self.begun_anew(step);
            let changes = &mut self.lock().changes;
            let merged = match &proof {
                Some(proof) => *proof == Proof::Proved && !anew,
                // Written anew above a merge, with what it held.
                None => step.parent.as_ref().is_some_and(|parent| changes.merged.contains(parent)),
            };
            let changed = if merged { &mut changes.merged } else { &mut changes.another };
            changed.insert(sent.path.clone());
        }
        Ok(proof)
    }

    /// Whether this run put another chain's image in the place of the one that this step's builds on.
    fn begun_anew(&self, step: &Step) -> bool {
        step.parent.as_ref().is_some_and(|parent| self.lock().changes.another.contains(parent))
    }

    fn judge(&self, step: usize, files: &mut [Publish]) -> Result<Option<Proof>> {
        let step = &self.material.plan.steps[step];
        let Some(merge) = &step.merge else { return Ok(None) };
        let sent = anchor(step, files);
        // Not sent, because the target holds it already.
        let Some(sent) = sent else { return Ok(Some(Proof::SameContent)) };
        let now = Content { blake3: sent.record.blake3, head: sent.record.head };
        let known = sent.record.recognised.as_ref();
        let fits =
            known.zip(now.head).and_then(|(known, head)| signature::fits(&sent.source_path, known, &head));
        let mut proof = prove(merge.sign, self.was(&sent.path), now, fits);
        // The chain began anew below it: what it took in is of that one, which nobody saw.
        if self.begun_anew(step) {
            sent.upon.merged = false;
            if proof == Proof::Proved && merge.sign != Sign::Accepted {
                proof = Proof::Unproven;
            }
        }
        if proof != Proof::Proved {
            // It holds what it held.
            sent.span = self.material.view.spans.get(&sent.path).copied();
            // A content that changed: upon what, nobody knows.
            sent.upon.merged = false;
            sent.upon.took_in = None;
            sent.upon.parent = None;
        }
        if let (Some(blake3), true) = (now.blake3, proof != Proof::SameContent) {
            let by = Absorption { holder: sent.path.clone(), blake3, proved: proof == Proof::Proved };
            self.context.catalog.absorbs(&merge.images, &by)?;
        }
        Ok(Some(proof))
    }

    /// What was published under that name. First bytes that no record has are read from the target, which still holds it.
    fn was(&self, path: &TargetPath) -> Content {
        let Some(file) = self.material.view.files.get(path) else { return Content::default() };
        let Some(record) = file.recorded.as_deref() else { return Content::default() };
        let read = || {
            let (context, most) = (self.context, signature::HEAD as u64);
            let untouched = !record.touched(&file.entry);
            let head = untouched.then(|| {
                target::read_head(&*context.backend, &context.line.call(Some(SHORT)), &file.entry, most).ok()
            });
            head.flatten().and_then(|head| head.try_into().ok())
        };
        Content { blake3: record.blake3, head: record.head.or_else(read) }
    }

    /// Cancels the deletions that this step was to justify, and tells why. Where it proves nothing, so do those that come
    /// after it: a set with such an image takes no other's place.
    pub(super) fn spare(&self, state: &mut State, unit: usize, step: usize, proof: Proof) {
        let plan = self.material.plan;
        let justified = |unit: &usize| {
            let unit = &state.schedule.units[*unit];
            unit.deletes && unit.steps.iter().any(|s| plan.steps[*s].proof == Some(step))
        };
        let units: Vec<usize> = (0..state.schedule.units.len()).filter(justified).collect();
        self.tell(&plan.steps[step], proof);
        let (code, why) = told(&plan.steps[step], proof);
        self.cancel(state, &units, code, &format!("kept: gone at the source, and {why}"));
        if proof == Proof::Unproven {
            let reason = format!(
                "kept: it was to go after '{}', which changed at the source in a way that proves nothing",
                plan.steps[step].image.display()
            );
            let after = state.schedule.deletions_after(unit);
            self.cancel(state, &after, Code::Protected, &reason);
        }
    }

    /// In this run, which finds it: the next ones, which know it, tell what nothing proves themselves.
    fn tell(&self, holder: &Step, proof: Proof) {
        let images = holder.merge.as_ref().map_or(&[][..], |merge| &merge.images);
        let Some(example) = images.last() else { return };
        let (number, example) = (images.len() as u64, example.display());
        let (code, text) = match proof {
            Proof::SameContent => (
                NoticeCode::MergeCancelled,
                format!(
                    "'{}' did not change at the source, only its time did: it took in nothing, so {} below it, gone at the \
                     source, {} kept, '{example}' for one",
                    holder.image.display(),
                    count(number, "image"),
                    word(number, "is", "are")
                ),
            ),
            // Told with the plan.
            _ if holder.code == Code::ChangedUnproven => return,
            _ => (NoticeCode::ChangedUnproven, changed_unproven(number + 1, &holder.image.display())),
        };
        self.context.line.outbox.notice(code, text);
    }

    /// Cancels the deletions that come after an image of which nobody knows whether the target holds it whole.
    pub(super) fn spare_after_unread(&self, state: &mut State, unit: usize, step: usize) {
        let reason = format!(
            "kept: it was to go after '{}', which the target does not let be read back",
            self.material.plan.steps[step].image.display()
        );
        let after = state.schedule.deletions_after(unit);
        self.cancel(state, &after, Code::Protected, &reason);
    }

    fn cancel(&self, state: &mut State, units: &[usize], code: Code, reason: &str) {
        let cancelled = state.schedule.cancelled(units);
        for at in cancelled.iter().flat_map(|u| &state.schedule.units[*u].steps) {
            self.context.line.outbox.event(Event::Skipped {
                image: self.material.plan.steps[*at].image.display().into_owned(),
                code: code_name(code),
                reason: reason.to_owned(),
            });
        }
    }
}

/// The file of a step that makes it visible, where it is sent.
fn anchor<'f>(step: &Step, files: &'f mut [Publish]) -> Option<&'f mut Publish> {
    let anchor = step.files.iter().find(|f| f.path == step.image)?;
    files.iter_mut().find(|f| f.path == anchor.target)
}

fn told(holder: &Step, proof: Proof) -> (Code, String) {
    let name = holder.image.display();
    match proof {
        Proof::SameContent => {
            (Code::Protected, format!("'{name}' still needs it: only its time moved there, not its content"))
        }
        _ => (
            Code::ChangedUnproven,
            format!(
                "nothing proves that '{name}', which changed there, holds it (changed, unproven); \
                 `offsite target accept` settles it"
            ),
        ),
    }
}
