//! Which act may happen next: staging in parallel, publishing in order. Pure; `execute` holds it under a lock.
//!
//! A unit is what becomes visible together: one step, or all steps of a group. Its files are staged whenever a thread
//! is free; it is published once all of them are staged and proved and every unit before it is done; deletions wait,
//! beyond that, for the last transfer; but those that the plan puts first, to make room, come before any transfer.
//! A unit that finds no room is set aside, and tried once more when all else is done. A unit that fails takes along whatever comes after it, and nothing else.
//! Small files of many sets are staged side by side (`small_queue`). Helpers (`crew`) take small tasks only: whatever large goes on is in the hands of as many threads as there are streams.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::crew::SMALL;
use super::small_queue::SmallQueue;
use crate::plan::{Action, Code, FileAction, Plan, Step};

/// How a unit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Waiting,
    /// In the queue, or in a thread's hands.
    Acting,
    Done,
    Failed,
    /// There was no room for it: it is tried once more at the end.
    SetAside,
}

#[derive(Debug)]
pub struct Unit {
    /// Indices of its steps, in the plan's order.
    pub steps: Vec<usize>,
    pub set: String,
    pub deletes: bool,
    /// Before every transfer.
    first: bool,
    /// It was set aside before.
    again: bool,
    /// There is no room for all of it: its steps become units of their own, which come one after the other.
    split: bool,
    /// It is one of those. Its files are staged when the one before it is done.
    pub one_by_one: bool,
    /// It waits for a unit that is set aside (or is it): the deletions do not wait for it.
    parked: bool,
    pub standing: Standing,
    /// Files to stage or adopt: (step, file).
    pub files: Vec<(usize, usize)>,
    /// Its act moves few bytes, on every backend.
    small: bool,
    /// Its set's number, and how many of its small files were taken.
    set_number: usize,
    taken: usize,
    unstaged: usize,
    before: usize,
    after: Vec<usize>,
}

/// What a thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The file at that position of the unit's `files`.
    Stage { unit: usize, file: usize },
    /// Publish or delete.
    Act { unit: usize },
    /// Nothing now; something another thread does may change that.
    Wait,
    /// Everything is done or has failed.
    End,
}

/// What a unit's end means for its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetState {
    /// Units of the set that are neither done nor failed.
    pub left: usize,
    /// Threads that change the set's records right now.
    pub acting: usize,
}

#[derive(Debug)]
pub struct Schedule {
    pub units: Vec<Unit>,
    /// (unit, file) in the plan's order, those of small files apart.
    large: VecDeque<(usize, usize)>,
    small: SmallQueue,
    act: VecDeque<usize>,
    held_deletes: Vec<usize>,
    transfers_left: usize,
    /// Deletions that transfers wait for.
    first_left: usize,
    set_aside: Vec<usize>,
    left: usize,
    running: usize,
    sets: HashMap<String, SetState>,
    stopped: bool,
}

/// Whether a step does anything.
pub fn active(step: &Step) -> bool {
    step.files.iter().any(|f| f.action != FileAction::Keep)
}

fn sends(action: FileAction) -> bool {
    matches!(action, FileAction::Copy | FileAction::Replace | FileAction::Adopt)
}

impl Schedule {
    pub fn new(plan: &Plan) -> Self {
        let mut of_step: HashMap<usize, usize> = HashMap::new();
        let mut of_group: HashMap<u32, usize> = HashMap::new();
        let mut units: Vec<Unit> = Vec::new();
        for (index, step) in plan.steps.iter().enumerate().filter(|(_, s)| active(s)) {
            let deletes = step.action == Action::Delete;
            let unit = match step.group.filter(|_| !deletes) {
                Some(group) => *of_group.entry(group).or_insert(units.len()),
                None => units.len(),
            };
            if unit == units.len() {
                units.push(Unit {
                    steps: Vec::new(),
                    set: step.set.to_string(),
                    deletes,
                    first: deletes && step.code == Code::DeleteFirst,
                    again: false,
                    split: false,
                    one_by_one: false,
                    parked: false,
                    standing: Standing::Waiting,
                    files: Vec::new(),
                    small: true,
                    set_number: 0,
                    taken: 0,
                    unstaged: 0,
                    before: 0,
                    after: Vec::new(),
                });
            }
            of_step.insert(index, unit);
            units[unit].steps.push(index);
            let files = step.files.iter().enumerate().filter(|(_, f)| sends(f.action));
            units[unit].files.extend(files.map(|(file, _)| (index, file)));
            units[unit].small &= deletes || step.files.iter().all(|f| !sends(f.action) || f.bytes <= SMALL);
        }
        let mut edges = BTreeMap::new();
        for (unit, made) in units.iter_mut().enumerate() {
            made.unstaged = made.files.len();
            for step in made.steps.iter().flat_map(|s| &plan.steps[*s].after) {
                if let Some(before) = of_step.get(step).filter(|b| **b != unit) {
                    edges.insert((*before, unit), ());
                }
            }
        }
        for (before, after) in edges.into_keys() {
            units[before].after.push(after);
            units[after].before += 1;
        }
        let mut sets: HashMap<String, SetState> = HashMap::new();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        for unit in &mut units {
            sets.entry(unit.set.clone()).or_insert(SetState { left: 0, acting: 0 }).left += 1;
            let next = numbers.len();
            unit.set_number = *numbers.entry(unit.set.clone()).or_insert(next);
        }
        let bytes = |(step, file): (usize, usize)| plan.steps[step].files[file].bytes;
        let stages =
            units.iter().enumerate().flat_map(|(u, unit)| (0..unit.files.len()).map(move |f| (u, f)));
        let (small, large): (Vec<_>, _) = stages.partition(|(u, f)| bytes(units[*u].files[*f]) <= SMALL);
        let small = SmallQueue::new(small.into_iter().map(|at| (at, units[at.0].set_number)));
        let mut schedule = Self {
            large: large.into(),
            small,
            act: VecDeque::new(),
            held_deletes: Vec::new(),
            transfers_left: units.iter().filter(|u| !u.deletes).count(),
            first_left: units.iter().filter(|u| u.first).count(),
            set_aside: Vec::new(),
            left: units.len(),
            running: 0,
            sets,
            stopped: false,
            units,
        };
        for unit in 0..schedule.units.len() {
            schedule.offer(unit);
        }
        schedule
    }

    /// The next task; the caller reports its end by [`Schedule::staged`], [`Schedule::acted`] or [`Schedule::failed`].
    /// `blocked`: sets whose records must not change right now.
    pub fn next(&mut self, blocked: impl Fn(&str) -> bool) -> Task {
        self.next_of(true, &blocked)
    }

    /// As [`Schedule::next`], for a helper.
    pub fn next_small(&mut self, blocked: impl Fn(&str) -> bool) -> Task {
        self.next_of(false, &blocked)
    }

    fn next_of(&mut self, large: bool, blocked: &dyn Fn(&str) -> bool) -> Task {
        if self.stopped {
            return Task::End;
        }
        let may = |unit: &Unit| (large || unit.small) && !blocked(&unit.set);
        if let Some(at) = self.act.iter().position(|u| may(&self.units[*u]))
            && let Some(unit) = self.act.remove(at)
        {
            self.running += 1;
            self.units[unit].standing = Standing::Acting;
            if let Some(set) = self.sets.get_mut(&self.units[unit].set) {
                set.acting += 1;
            }
            return Task::Act { unit };
        }
        while self.first_left == 0
            && let Some((unit, file)) = self.pop(large)
        {
            if self.units[unit].standing == Standing::Waiting {
                self.running += 1;
                return Task::Stage { unit, file };
            }
        }
        let idle = self.running == 0 && self.act.is_empty();
        // Whatever the queues held is taken by now.
        if large && idle && self.first_left == 0 && self.try_again() {
            return self.next_of(large, blocked);
        }
        if self.left == 0 || idle { Task::End } else { Task::Wait }
    }

    /// The first file of the plan that nobody has taken, or the first small one.
    fn pop(&mut self, large: bool) -> Option<(usize, usize)> {
        let from_large = match (self.large.front().filter(|_| large), self.small.front()) {
            (Some(l), Some(s)) => *l < s,
            (front, _) => front.is_some(),
        };
        if from_large {
            return self.large.pop_front();
        }
        let at = self.small.pop()?;
        let unit = &mut self.units[at.0];
        match unit.standing {
            Standing::Failed => self.small.ended(unit.set_number, 1),
            _ => unit.taken += 1,
        }
        Some(at)
    }

    /// The units that come after this one, one after the other, and are ready but for it: `most` at most.
    pub fn followers(&self, unit: usize, most: usize) -> Vec<usize> {
        let ready = |u: &&usize| {
            let unit = &self.units[**u];
            unit.standing == Standing::Waiting && unit.unstaged == 0 && unit.before == 1 && !unit.deletes
        };
        let mut found = Vec::new();
        let mut at = unit;
        while found.len() < most
            && let Some(next) = self.units[at].after.iter().find(ready)
        {
            at = *next;
            found.push(at);
        }
        found
    }

    /// Files that wait for a thread or are in one's hands.
    pub fn files_open(&self) -> usize {
        self.large.len() + self.small.len() + self.running
    }

    /// Tasks that a helper might begin now: no fewer than there are.
    pub fn small_ready(&self) -> usize {
        self.small.len() + self.act.len()
    }

    /// Starts nothing more.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Sets a unit aside for which there was no room: everything else goes on, deletions that do not come after it too,
    /// and then it is tried once more. `false`: it was tried twice. `acting`: as with [`Schedule::failed`].
    pub fn set_aside(&mut self, unit: usize, acting: bool) -> bool {
        let made = &mut self.units[unit];
        if made.standing == Standing::SetAside {
            self.running -= 1; // another of its files
            return true;
        }
        if made.again || made.deletes || matches!(made.standing, Standing::Done | Standing::Failed) {
            return false;
        }
        self.park(unit, acting);
        true
    }

    /// As [`Schedule::set_aside`], for a unit of several steps that found no room twice: next time its steps come one after
    /// the other. `false`: it cannot be.
    pub fn one_by_one(&mut self, unit: usize, acting: bool) -> bool {
        let made = &mut self.units[unit];
        if made.split || made.deletes || made.steps.len() < 2 || made.standing != Standing::Waiting && !acting
        {
            return false;
        }
        made.split = true;
        self.park(unit, acting);
        true
    }

    fn park(&mut self, unit: usize, acting: bool) {
        let made = &mut self.units[unit];
        self.running -= 1;
        made.standing = Standing::SetAside;
        made.again = true;
        let taken = std::mem::take(&mut made.taken);
        self.small.ended(made.set_number, taken);
        if let Some(set) = self.sets.get_mut(&self.units[unit].set) {
            set.acting -= usize::from(acting);
        }
        self.set_aside.push(unit);
        let mut look = vec![unit];
        while let Some(at) = look.pop() {
            let made = &mut self.units[at];
            // What ended before was counted then.
            let waits = matches!(made.standing, Standing::Waiting | Standing::SetAside);
            if !made.deletes && !std::mem::replace(&mut made.parked, true) {
                look.extend_from_slice(&made.after);
                if waits {
                    self.transfer_ended();
                }
            }
        }
    }

    /// Makes each step of a unit that is set aside a unit of its own, each after the one before it.
    fn take_apart(&mut self, unit: usize) {
        let made = &mut self.units[unit];
        made.one_by_one = true;
        let steps = std::mem::take(&mut made.steps);
        let files = std::mem::take(&mut made.files);
        let (set, set_number) = (made.set.clone(), made.set_number);
        let after = std::mem::take(&mut made.after);
        let of = |step: usize| files.iter().copied().filter(|(s, _)| *s == step).collect::<Vec<_>>();
        made.steps = vec![steps[0]];
        made.files = of(steps[0]);
        let mut last = unit;
        for &step in &steps[1..] {
            let next = self.units.len();
            let files = of(step);
            self.units[last].after = vec![next];
            self.units.push(Unit {
                steps: vec![step],
                set: set.clone(),
                deletes: false,
                first: false,
                again: true,
                split: true,
                one_by_one: true,
                parked: false,
                standing: Standing::Waiting,
                unstaged: files.len(),
                files,
                small: false,
                set_number,
                taken: 0,
                before: 1,
                after: Vec::new(),
            });
            self.left += 1;
            self.transfers_left += 1;
            if let Some(set) = self.sets.get_mut(&set) {
                set.left += 1;
            }
            last = next;
        }
        self.units[last].after = after;
    }

    /// Whether anything was set aside: it waits again then.
    fn try_again(&mut self) -> bool {
        if self.set_aside.is_empty() {
            return false;
        }
        // Whatever is still in the queue is of units that are set aside: they are queued anew, and none of it twice.
        self.large.clear();
        for made in &mut self.units {
            let waits = matches!(made.standing, Standing::Waiting | Standing::SetAside);
            self.transfers_left += usize::from(std::mem::take(&mut made.parked) && waits);
        }
        for unit in std::mem::take(&mut self.set_aside) {
            if self.units[unit].split && !self.units[unit].one_by_one {
                self.take_apart(unit);
            }
            let made = &mut self.units[unit];
            made.standing = Standing::Waiting;
            made.unstaged = made.files.len();
            self.large.extend((0..made.files.len()).map(|file| (unit, file)));
            self.offer(unit);
        }
        true
    }

    /// The last one lets the deletions go.
    fn transfer_ended(&mut self) {
        self.transfers_left -= 1;
        if self.transfers_left == 0 {
            let held = std::mem::take(&mut self.held_deletes);
            self.act.extend(held.into_iter().filter(|u| self.units[*u].standing == Standing::Waiting));
        }
    }

    /// A file is staged and proved.
    pub fn staged(&mut self, unit: usize) {
        self.running -= 1;
        if self.units[unit].standing == Standing::SetAside {
            return; // another of its files found no room
        }
        self.units[unit].unstaged -= 1;
        self.offer(unit);
    }

    /// A unit is visible (or gone). Gives the state of its set.
    pub fn acted(&mut self, unit: usize) -> SetState {
        self.running -= 1;
        let set = self.end(unit, Standing::Done, true);
        for after in self.units[unit].after.clone() {
            let made = &mut self.units[after];
            made.before -= 1;
            if made.one_by_one && made.before == 0 {
                self.large.extend((0..made.files.len()).map(|file| (after, file)));
            }
            self.offer(after);
        }
        set
    }

    /// A unit cannot be done. Gives the units that were to come after it, which cannot be done either. `acting`: it was
    /// in its act, not in staging.
    pub fn failed(&mut self, unit: usize, acting: bool) -> Vec<usize> {
        self.running -= 1;
        if matches!(self.units[unit].standing, Standing::Failed | Standing::SetAside) {
            return Vec::new();
        }
        self.end(unit, Standing::Failed, acting);
        let mut taken = Vec::new();
        let mut look = vec![unit];
        while let Some(at) = look.pop() {
            for after in self.units[at].after.clone() {
                if matches!(self.units[after].standing, Standing::Waiting) {
                    self.end(after, Standing::Failed, false);
                    taken.push(after);
                    look.push(after);
                }
            }
        }
        taken.sort_unstable();
        taken
    }

    /// Units that are not to be done after all, with whatever comes after them. Gives all of those.
    pub fn cancelled(&mut self, units: &[usize]) -> Vec<usize> {
        let mut look = units.to_vec();
        let mut taken = Vec::new();
        while let Some(at) = look.pop() {
            if self.units[at].standing == Standing::Waiting {
                self.end(at, Standing::Failed, false);
                taken.push(at);
                look.extend(self.units[at].after.clone());
            }
        }
        taken.sort_unstable();
        taken
    }

    /// Deletions that wait for this unit, by whatever lies between.
    pub fn deletions_after(&self, unit: usize) -> Vec<usize> {
        let mut seen = HashSet::from([unit]);
        let mut look = vec![unit];
        while let Some(at) = look.pop() {
            look.extend(self.units[at].after.iter().copied().filter(|next| seen.insert(*next)));
        }
        seen.into_iter().filter(|at| self.units[*at].deletes).collect()
    }

    /// Units that were never done, because what they wait for waits for them. Nothing is left out in silence.
    pub fn stranded(&self) -> Vec<usize> {
        let open = |u: &usize| matches!(self.units[*u].standing, Standing::Waiting | Standing::SetAside);
        (0..self.units.len()).filter(open).collect()
    }

    fn end(&mut self, unit: usize, standing: Standing, acting: bool) -> SetState {
        self.units[unit].standing = standing;
        self.left -= 1;
        let taken = std::mem::take(&mut self.units[unit].taken);
        self.small.ended(self.units[unit].set_number, taken);
        self.first_left -= usize::from(self.units[unit].first);
        if !self.units[unit].deletes && !self.units[unit].parked {
            self.transfer_ended();
        }
        let set = self.sets.get_mut(&self.units[unit].set).expect("every unit's set was counted");
        set.left -= 1;
        set.acting -= usize::from(acting);
        *set
    }

    fn offer(&mut self, unit: usize) {
        let made = &self.units[unit];
        if made.standing != Standing::Waiting || made.unstaged > 0 || made.before > 0 {
            return;
        }
        if made.deletes && !made.first && self.transfers_left > 0 {
            self.held_deletes.push(unit);
        } else {
            self.act.push_back(unit);
        }
    }
}

#[cfg(test)]
mod tests;
