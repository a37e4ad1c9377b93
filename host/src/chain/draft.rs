//! Files of one set -> the images they make: which file is the anchor, which travel with it, which part is missing.
//! Images come out unlinked; `number`, `time` and `files` find their parents.

use super::{Evidence, Image, ImageFile, Knowledge, Member, Other, Parent, Problem, Span};
use crate::format::{Format, ImageKind, Link, Recognised, Role, signature};

/// An image on its way: what linking reads and writes. The files stay where they are until the image is final.
pub(super) struct Draft<'a> {
    pub anchor: Member<'a>,
    pub format: Format,
    pub kind: ImageKind,
    pub link: &'a Link,
    /// Everything but the anchor, in the order of publishing.
    pub others: Vec<(Member<'a>, Role)>,
    /// A part of the image itself that is missing, in words.
    pub lacks: Option<String>,
    /// The lowest and highest running file number, where the format has them.
    pub running: Option<(u32, u32)>,
    pub parent: Parent,
    pub number: Option<u64>,
    pub span: Option<Span>,
    pub evidence: Option<Evidence>,
    pub unproven: bool,
    pub restorable: bool,
    pub missing: Option<String>,
    /// Something else a user should know.
    pub remark: Option<String>,
}

impl<'a> Draft<'a> {
    pub fn new(anchor: Member<'a>, recognised: &'a Recognised) -> Self {
        Self::with(anchor, recognised.format, recognised.kind, &recognised.link)
    }

    pub fn with(anchor: Member<'a>, format: Format, kind: ImageKind, link: &'a Link) -> Self {
        Self {
            anchor,
            format,
            kind,
            link,
            others: Vec::new(),
            lacks: None,
            running: None,
            parent: Parent::None,
            number: None,
            span: None,
            evidence: None,
            unproven: false,
            restorable: false,
            missing: None,
            remark: None,
        }
    }

    /// Takes over what a target proves of this image, where that can be true of its number.
    pub fn apply(&mut self, known: &Knowledge, number: u64) {
        self.number = Some(number);
        self.span = Some(Span { first: number, last: number });
        if known.spans.is_empty() {
            return;
        }
        let Some(proven) = known.spans.get(self.anchor.path) else { return };
        if proven.span.last == number && proven.span.first <= number && self.kind == ImageKind::Incremental {
            self.span = Some(proven.span);
            self.evidence = Some(proven.evidence);
            self.unproven = proven.unproven;
        }
    }

    /// Settles whether the image is restorable, given its parent (which is settled already).
    pub fn settle(&mut self, parent: Option<&Draft<'_>>) {
        let broken = match (&self.parent, parent) {
            (Parent::None, _) => None,
            (Parent::Missing(what), _) => Some(self.lost(what)),
            (Parent::Cycle, _) => Some("its parents lead back to itself".to_owned()),
            (Parent::Image(_), Some(parent)) if parent.restorable => None,
            (Parent::Image(_), parent) => Some(
                parent
                    .and_then(|p| p.missing.clone())
                    .unwrap_or_else(|| "an ancestor is not restorable".to_owned()),
            ),
        };
        if let Some(no_image) = self.no_image() {
            self.lacks = Some(no_image);
        }
        self.missing = match (self.lacks.clone(), broken) {
            (Some(lacks), _) => Some(lacks),
            (None, broken) => broken,
        };
        self.restorable = self.missing.is_none();
    }

    /// Which of its files cannot be an image's: an empty one, or one that begins otherwise. A side-car may be empty.
    fn no_image(&self) -> Option<String> {
        let own = self.others.iter().filter(|(_, role)| signature::carries(role)).map(|(member, _)| member);
        own.chain([&self.anchor]).find_map(|member| {
            let why = if member.size == 0 { signature::EMPTY } else { member.bad? };
            Some(format!("'{}' is no image: {why}", member.path.display()))
        })
    }

    /// What it lacks, as a sentence. A parent that can never be here is told in the header's own words.
    fn lost(&self, what: &str) -> String {
        if matches!(self.link, Link::Outside(_)) { what.to_owned() } else { format!("missing: {what}") }
    }

    /// What a user should know of this image alone.
    pub fn problem(&self) -> Option<String> {
        let mut told = Vec::new();
        if let Some(lacks) = &self.lacks {
            told.push(lacks.clone());
        }
        match &self.parent {
            Parent::Missing(what) => {
                let mut text = format!("missing: {what}");
                if self.format == Format::ActiveImage
                    && self.kind == ImageKind::Incremental
                    && self.number.is_some()
                {
                    text.push_str(
                        "; if this image was consolidated from what is missing, nothing in its name says so",
                    );
                }
                told.push(text);
            }
            Parent::Cycle => told.push("its parents lead back to itself".to_owned()),
            Parent::None | Parent::Image(_) => {}
        }
        told.extend(self.remark.clone());
        told.extend(self.note().cloned());
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn note(&self) -> Option<&String> {
        self.anchor.recognised.and_then(|r| r.note.as_ref())
    }

    pub fn finish(self) -> Image {
        let mut files = Vec::with_capacity(self.others.len() + 1);
        files.extend(self.others.iter().map(|(member, role)| file(member, role.clone())));
        files.push(file(&self.anchor, Role::Anchor));
        Image {
            id: self.anchor.path.clone(),
            format: self.format,
            kind: self.kind,
            number: self.number,
            span: self.span,
            evidence: self.evidence,
            parent: self.parent,
            files,
            restorable: self.restorable,
            unproven: self.unproven,
            missing: self.missing,
        }
    }
}

pub(super) fn file(member: &Member<'_>, role: Role) -> ImageFile {
    ImageFile { path: member.path.clone(), size: member.size, mtime_ns: member.mtime_ns, role }
}

/// What one set's files come to.
#[derive(Default)]
pub(super) struct Gathered<'a> {
    pub drafts: Vec<Draft<'a>>,
    pub set_files: Vec<Member<'a>>,
    pub left: Vec<Other>,
}

/// `members` are one set's, in path order; every one is recognised.
pub(super) fn gather<'a>(members: &mut [(Member<'a>, &'a Recognised)]) -> Gathered<'a> {
    // Stable: files of one image stay in path order.
    members.sort_by(|a, b| a.1.image.cmp(&b.1.image));
    let mut gathered = Gathered::default();
    gathered.drafts.reserve(members.len());
    for run in members.chunk_by(|a, b| a.1.image == b.1.image) {
        match run {
            [(member, recognised)] if recognised.role == Role::Anchor => {
                gathered.drafts.push(Draft::new(*member, recognised));
            }
            _ => one_image(run, &mut gathered),
        }
    }
    gathered
}

fn one_image<'a>(run: &[(Member<'a>, &'a Recognised)], gathered: &mut Gathered<'a>) {
    let mut anchors = Vec::new();
    let mut running = Vec::new();
    let mut parts = Vec::new();
    let mut side_cars = Vec::new();
    for &(member, recognised) in run {
        match recognised.role {
            Role::Anchor => anchors.push((member, recognised)),
            Role::Running(number) => running.push((number, member, recognised)),
            Role::Part(number) => parts.push((number, member, recognised)),
            Role::SideCar => side_cars.push(member),
            Role::SetFile => gathered.set_files.push(member),
            Role::InProgress => gathered.left.push(left(&member, recognised, "still being written")),
        }
    }
    running.sort_by_key(|r| r.0);
    parts.sort_by_key(|p| p.0);
    let mut lacks = None;
    let mut range = None;
    if anchors.is_empty() {
        if let (Some(first), Some(last)) = (running.first(), running.last()) {
            range = Some((first.0, last.0));
            anchors.push((first.1, first.2));
            lacks = hole(running.iter().map(|r| r.0), first.0)
                .map(|n| format!("file {n:02} of the split image is missing"));
            parts = running.iter().skip(1).map(|r| ((r.0 - first.0).saturating_add(1), r.1, r.2)).collect();
        } else if let Some(&(_, member, recognised)) = parts.first() {
            // Without its first file the image shows nowhere; its first part present stands for it.
            anchors.push((member, recognised));
            parts.remove(0);
            lacks = Some("its first file is missing".to_owned());
        }
    } else {
        parts.extend(running.iter().map(|r| (r.0, r.1, r.2)));
    }
    if lacks.is_none() && range.is_none() && !parts.is_empty() {
        lacks = hole(parts.iter().map(|p| p.0), 2).map(|n| format!("part {n} is missing"));
    }
    let Some((&(anchor, recognised), doubles)) = anchors.split_first() else {
        for member in side_cars {
            let recognised = member.recognised.unwrap_or(run[0].1);
            gathered.left.push(left(&member, recognised, "a side-car without its image"));
        }
        return;
    };
    let mut draft = Draft::new(anchor, recognised);
    draft.lacks = lacks;
    draft.running = range;
    draft.others.extend(side_cars.into_iter().map(|m| (m, Role::SideCar)));
    draft.others.extend(parts.into_iter().map(|(number, m, _)| (m, Role::Part(number.max(2)))));
    for (member, recognised) in doubles {
        gathered.drafts.push(Draft::new(*member, recognised));
    }
    gathered.drafts.push(draft);
}

/// The first number that a run from `first` lacks.
fn hole(numbers: impl Iterator<Item = u32>, first: u32) -> Option<u32> {
    let mut next = first;
    for number in numbers {
        if number > next {
            return Some(next);
        }
        next = number.checked_add(1)?;
    }
    None
}

pub(super) fn left(member: &Member<'_>, recognised: &Recognised, reason: &str) -> Other {
    Other { file: file(member, recognised.role.clone()), reason: reason.to_owned() }
}

/// The problems of finished drafts, under their set's name.
pub(super) fn problems(set: &str, drafts: &[Draft<'_>], into: &mut Vec<Problem>) {
    let checked = drafts.iter().any(has_md5);
    for draft in drafts {
        let image = || draft.anchor.path.clone();
        if let Some(what) = draft.problem() {
            let alone = draft.lacks.is_none() && draft.remark.is_none() && draft.note().is_none();
            let gap = alone && matches!(draft.parent, Parent::Missing(_));
            into.push(Problem { set: set.to_owned(), image: image(), what, gap });
        }
        if checked && draft.format == Format::ShadowProtect && !has_md5(draft) {
            let what = "its .md5 is missing: ShadowProtect takes such an image for corrupt".to_owned();
            into.push(Problem { set: set.to_owned(), image: image(), what, gap: false });
        }
    }
}

fn has_md5(draft: &Draft<'_>) -> bool {
    draft.format == Format::ShadowProtect
        && draft.others.iter().any(|(m, _)| m.path.as_bytes().to_ascii_lowercase().ends_with(b".md5"))
}
