//! Listing + records -> what the target holds, as chains. Pure.
//!
//! Decides which consolidations are believed: what the manifest says of a file that nobody touched since; what a header
//! read back says by itself; and the catalog's evidence: a run of images that we published is gone, the image right
//! after it changed and is still recognised, the base is as we left it. The last stays unproven until the user accepts
//! it. Everything else that is gone or changed is left for the planner to see as damage.

use std::collections::{BTreeMap, HashMap};

use offsite_plugin_api::{Entry, TargetPath};

use super::{AbsorbedBy, Files, ParentRecord, Recorded, TargetFile, TargetView, names, proof};
use crate::chain::{Chains, Evidence, ImageFile, Knowledge, Member, Parent, ProvenSpan, Span, assemble};
use crate::format::{self, ImageKind, Link, Recognised, Role, signature};

/// What a worker gathers before it plans.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// The listing, the host's own names left out.
    pub files: Files,
    /// The catalog's records, and the manifests' for paths that the catalog does not know.
    pub records: BTreeMap<TargetPath, Box<Recorded>>,
    /// Headers read back of the files that [`to_read`] named, recognised under their path on the target.
    pub headers: BTreeMap<TargetPath, Recognised>,
    /// Spans that manifests record, by the anchor's path on the target.
    pub spans: BTreeMap<TargetPath, Span>,
    /// Anchors (on the target) whose consolidation the user accepted.
    pub accepted: Vec<TargetPath>,
    /// Open intents and swaps, in words.
    pub open: Vec<String>,
    /// Files whose first bytes show that they are not what their name says, and why, in words.
    pub bad: BTreeMap<TargetPath, String>,
    /// What the catalog knows of merges at the source; see [`TargetView::absorbed`].
    pub absorbed: BTreeMap<TargetPath, AbsorbedBy>,
}

/// Files that are not simply as they are recorded, and what must be read back of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ToRead {
    /// The header: it may say what neither name nor an untouched record does.
    pub headers: Vec<TargetPath>,
    /// The first bytes: it was published, somebody changed it since, and they may show that it is not what its name says
    /// any more.
    pub heads: Vec<TargetPath>,
}

/// One walk along listing and records, which are sorted by path.
pub fn to_read(files: &Files, records: &BTreeMap<TargetPath, Box<Recorded>>) -> ToRead {
    let mut records = records.iter().peekable();
    let mut found = ToRead::default();
    for file in files.values() {
        let path = &file.entry.path;
        while records.next_if(|(recorded, _)| *recorded < path).is_some() {}
        let recorded = records.next_if(|(recorded, _)| *recorded == path).map(|(_, r)| r);
        if recorded.is_some_and(|r| !r.touched(&file.entry)) {
            continue;
        }
        // Names are looked at last: nearly every file is as it is recorded.
        if format::wants_header(path) {
            found.headers.push(path.clone());
        } else if file.entry.size > 0
            && recorded.is_some_and(|r| r.recognised.as_ref().is_some_and(|k| signature::carries(&k.role)))
        {
            found.heads.push(path.clone());
        }
    }
    found
}

/// Pairs listing and records. Both are sorted by path, so that it is one walk along the two.
pub fn view(gathered: Gathered) -> TargetView {
    let Gathered { mut files, records, mut headers, spans, accepted, open, bad, absorbed } = gathered;
    let places = places(&records);
    let mut gone = BTreeMap::new();
    let mut records = records.into_iter().peekable();
    for file in files.values_mut() {
        let path = &file.entry.path;
        while let Some((lost, recorded)) = records.next_if(|(recorded, _)| recorded < path) {
            gone.insert(lost, recorded);
        }
        file.recorded = records.next_if(|(recorded, _)| recorded == path).map(|(_, recorded)| recorded);
        let header = if headers.is_empty() { None } else { headers.remove(path) };
        let recorded = file.recorded.as_deref();
        let place = recorded.filter(|_| !places.is_empty()).and_then(|r| places.get(&r.image));
        file.recognised = recognised(&file.entry, recorded, place, header)
            .or_else(|| respelled(&file.entry.path, recorded?))
            .map(Box::new);
    }
    gone.extend(records);
    TargetView { files, gone, accepted, spans, open, bad, absorbed, ..TargetView::default() }
}

/// Assembles what is there.
pub(super) fn chains(view: &TargetView) -> Chains {
    let catalog = from_catalog(view);
    let knowledge = knowledge(view, &catalog);
    let mut members: Vec<Member<'_>> = view.files.values().map(|file| member(view, file)).collect();
    let respelled = if view.folds { one_spelling(&members) } else { HashMap::new() };
    for member in &mut members {
        member.recognised = respelled.get(member.path).or(member.recognised);
    }
    let mut chains = assemble(&members, &knowledge);
    for image in chains.sets.iter_mut().flat_map(|s| &mut s.images) {
        // Sets that only time orders have no numbers that a span could be told in.
        if image.evidence.is_none()
            && let Some(None) = catalog.get(&image.id)
        {
            let accepted = view.accepted.contains(&image.id);
            image.evidence = Some(if accepted { Evidence::Accepted } else { Evidence::Catalog });
            image.unproven = !accepted;
        }
    }
    proof::apply(view, &mut chains);
    pass_on_doubt(&mut chains);
    in_transition(view, &mut chains);
    chains
}

/// What is said of files whose set another file spells otherwise: a host whose name changed its case goes on with its chain,
/// and what was published before is not told again.
fn one_spelling(members: &[Member<'_>]) -> HashMap<TargetPath, Recognised> {
    let mut spelled: HashMap<String, &str> = HashMap::new();
    let mut respelled = HashMap::new();
    for (path, own) in members.iter().filter_map(|m| Some((m.path, m.recognised?))) {
        let set = *spelled.entry(names::folded(own.set.as_bytes(), false)).or_insert(&own.set);
        if set != own.set {
            respelled.insert(path.clone(), Recognised { set: set.to_owned(), ..own.clone() });
        }
    }
    respelled
}

/// What builds on an unproven image is as doubtful as that. Ancestors come first.
fn pass_on_doubt(chains: &mut Chains) {
    for set in &mut chains.sets {
        for at in 0..set.images.len() {
            if let Parent::Image(parent) = set.images[at].parent
                && set.images[parent].unproven
            {
                set.images[at].unproven = true;
            }
        }
    }
}

/// Images of sets that an interrupted replacement left between old and new are not restorable. What is there of a set may
/// be recorded under two names: the source's set is called otherwise since its base is gone there.
fn in_transition(view: &TargetView, chains: &mut Chains) {
    if view.in_transition.is_empty() {
        return;
    }
    let of_one = |file: &ImageFile| {
        view.files.recorded(&file.path).is_some_and(|r| view.in_transition.contains(&*r.set))
    };
    for set in &mut chains.sets {
        if set.images.iter().flat_map(|image| &image.files).any(of_one) {
            for image in &mut set.images {
                image.restorable = false;
                image.missing = Some("its set is being replaced; the next run finishes that".to_owned());
            }
        }
    }
}

fn member<'a>(view: &'a TargetView, file: &'a TargetFile) -> Member<'a> {
    let listed = file.entry.mtime.map(|t| t.ns);
    Member {
        path: &file.entry.path,
        size: file.entry.size,
        mtime_ns: file.recorded.as_ref().map(|r| r.source_mtime_ns).or(listed),
        recognised: file.recognised(),
        bad: if view.bad.is_empty() { None } else { view.bad.get(&file.entry.path).map(String::as_str) },
    }
}

/// By image (at the source): the sub-folder of the target it was published into, where there is one.
fn places(records: &BTreeMap<TargetPath, Box<Recorded>>) -> HashMap<TargetPath, TargetPath> {
    records
        .iter()
        .filter(|(path, r)| path.as_bytes().len() > r.image.as_bytes().len())
        .filter_map(|(path, r)| {
            let front = path.as_bytes().strip_suffix(r.image.as_bytes())?.strip_suffix(b"/")?;
            Some((r.image.clone(), TargetPath::new(front).ok()?))
        })
        .collect()
}

/// What is known of a file now, where that is not simply what its record says.
fn recognised(
    entry: &Entry,
    recorded: Option<&Recorded>,
    place: Option<&TargetPath>,
    header: Option<Recognised>,
) -> Option<Recognised> {
    if header.is_some() {
        return header;
    }
    let Some(recorded) = recorded else {
        return format::recognise_name(&entry.path);
    };
    let known = recorded.recognised.as_ref()?;
    let place = place?;
    format::recognise_name(&entry.path).or_else(|| Some(moved(known, place)))
}

/// What was said of a file at the source, said of the same file below a folder.
fn moved(known: &Recognised, place: &TargetPath) -> Recognised {
    let below = |path: &TargetPath| place.join(path.as_bytes()).unwrap_or_else(|_| path.clone());
    let mut moved = known.clone();
    moved.set = format!("{}/{}", place.display(), known.set);
    moved.parts = known.parts.iter().map(below).collect();
    if let Link::File(parent) = &known.link {
        moved.link = Link::File(below(parent));
    }
    moved
}

/// What was said of a file at the source, said of the file in the folder that the target spells otherwise (it ignores case
/// or normalisation): the images of one folder are one set, whichever spelling each of them was published under.
fn respelled(path: &TargetPath, recorded: &Recorded) -> Option<Recognised> {
    if *path == recorded.image {
        return None;
    }
    let (here, there) = (path.parent()?, recorded.image.parent()?);
    if here == there || names::folded(here.as_bytes(), false) != names::folded(there.as_bytes(), false) {
        return None;
    }
    let known = recorded.recognised.as_ref()?;
    let own = |path: &TargetPath| match path.parent() {
        Some(parent) if parent == there => here.join(path.name()).unwrap_or_else(|_| path.clone()),
        _ => path.clone(),
    };
    format::recognise_name(path).or_else(|| {
        let link = match &known.link {
            Link::File(parent) => Link::File(own(parent)),
            other => other.clone(),
        };
        Some(Recognised { parts: known.parts.iter().map(own).collect(), link, ..known.clone() })
    })
}

fn knowledge(view: &TargetView, catalog: &HashMap<TargetPath, Option<Span>>) -> Knowledge {
    let mut known = Knowledge::default();
    for (path, span) in catalog {
        if let Some(span) = span {
            let accepted = view.accepted.contains(path);
            let evidence = if accepted { Evidence::Accepted } else { Evidence::Catalog };
            let proven = ProvenSpan { span: *span, evidence, unproven: !accepted };
            known.spans.insert(path.clone(), proven);
        }
    }
    for (path, span) in &view.spans {
        // A manifest speaks of the file that it saw.
        let as_recorded =
            view.files.get(path).is_some_and(|f| f.recorded.as_ref().is_none_or(|r| !r.touched(&f.entry)));
        if as_recorded && span.first < span.last {
            let proven = ProvenSpan { span: *span, evidence: Evidence::Manifest, unproven: false };
            known.spans.insert(path.clone(), proven);
        }
    }
    known
}

/// One recorded image of a set.
struct Published<'a> {
    path: &'a TargetPath,
    kind: ImageKind,
    /// Number; sets that only time orders have none.
    place: Option<u64>,
    /// Branch, then position.
    order: (&'a [u64], i128),
    state: State,
    digest: Option<[u8; 32]>,
    upon: Option<&'a ParentRecord>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    AsPublished,
    /// Changed by somebody else, and still what its name or header says.
    Changed,
    Unrecognised,
    Gone,
}

/// Images that the catalog's evidence shows to be consolidated, with their span where numbers apply.
fn from_catalog(view: &TargetView) -> HashMap<TargetPath, Option<Span>> {
    let mut evident = HashMap::new();
    if view.gone.is_empty() {
        return evident; // nothing is missing, so nothing was consolidated
    }
    let mut sets: HashMap<&str, Vec<Published<'_>>> = HashMap::new();
    for recorded in view.gone.values() {
        sets.entry(&recorded.set).or_default();
    }
    for (path, file) in view.files.iter() {
        if let Some(recorded) = &file.recorded
            && let Some(set) = sets.get_mut(recorded.set.as_str())
        {
            let state = match (recorded.touched(&file.entry), recorded.recognised.as_ref(), file.recognised())
            {
                (false, ..) => State::AsPublished,
                // What is empty, or begins otherwise than its format does, is not what a merge leaves.
                (true, Some(then), Some(now))
                    if then.format == now.format
                        && then.kind == now.kind
                        && file.entry.size > 0
                        && !view.bad.contains_key(path) =>
                {
                    State::Changed
                }
                _ => State::Unrecognised,
            };
            set.extend(published(path, recorded, state));
        }
    }
    for (path, recorded) in &view.gone {
        if let Some(set) = sets.get_mut(recorded.set.as_str()) {
            set.extend(published(path, recorded, State::Gone));
        }
    }
    for mut set in sets.into_values() {
        set.sort_by(|a, b| a.order.cmp(&b.order));
        runs(&set, &mut evident);
    }
    evident
}

fn published<'a>(path: &'a TargetPath, recorded: &'a Recorded, state: State) -> Option<Published<'a>> {
    let recognised =
        recorded.recognised.as_ref().filter(|r| matches!(r.role, Role::Anchor | Role::Running(_)))?;
    if !names::ends_with(path, &recorded.image) {
        return None;
    }
    let (place, order): (_, (&[u64], i128)) = match &recognised.link {
        Link::Number { branch, number, .. } => (Some(*number), (branch, i128::from(*number))),
        Link::Time => (None, (&[], i128::from(recorded.source_mtime_ns))),
        Link::Moment { at, reverse: false } => (None, (&[], i128::from(*at))),
        // A header says it itself, and a base depends on nothing. What runs backwards is not merged forwards.
        Link::None => (None, (&[], i128::MIN)),
        Link::File(_) | Link::Id { .. } | Link::Outside(_) | Link::Moment { .. } => return None,
    };
    let (digest, upon) = (recorded.blake3, recorded.parent.as_deref());
    Some(Published { path, kind: recognised.kind, place, order, state, digest, upon })
}

/// Whether what an image was published upon was replaced since: what was merged with it then hangs on nothing that is there.
fn upon_another(set: &[Published<'_>], image: &Published<'_>) -> bool {
    let Some(upon) = image.upon else { return false };
    let below = set.iter().find(|i| *i.path == upon.path && i.state == State::AsPublished);
    below.and_then(|below| below.digest).is_some_and(|digest| digest != upon.blake3)
}

/// Every run of gone increments that ends at one that changed.
fn runs(set: &[Published<'_>], evident: &mut HashMap<TargetPath, Option<Span>>) {
    let bases = || set.iter().filter(|i| i.kind == ImageKind::Base);
    if bases().next().is_none() || bases().any(|b| b.state != State::AsPublished) {
        return;
    }
    for branch in set.chunk_by(|a, b| a.order.0 == b.order.0) {
        // What a branch grows from must be there: its differential, or the base, which was looked at above.
        if branch.iter().any(|i| i.kind != ImageKind::Incremental && i.state == State::Gone) {
            continue;
        }
        let mut run: Option<&Published<'_>> = None;
        for image in branch {
            if image.state == State::Gone {
                run = run.or(Some(image));
                continue;
            }
            if let (Some(first), State::Changed, ImageKind::Incremental) = (run, image.state, image.kind)
                && !upon_another(set, first)
            {
                let span = first.place.zip(image.place).map(|(first, last)| Span { first, last });
                evident.insert(image.path.clone(), span);
            }
            run = None;
        }
    }
}
