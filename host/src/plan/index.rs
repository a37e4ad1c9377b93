//! The planner's look-up structures over its input, built once: which target file answers to which source file, where
//! each set lives on the target, what is not finished at the source.
//!
//! Inventory and listing are both sorted, so that the common case (same paths on both sides) is one merge without any
//! hashing: a million files cost no look-up table.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use offsite_plugin_api::{Normalisation, TargetPath};

use super::explain::Reason;
use super::filter::Matcher;
use super::respell::Spellings;
use super::{Baseline, Input, Template, attach, names};
use crate::chain::{Image, ImageSet};
use crate::format::{self, Format, ImageKind, Link, Recognised, Role, signature};
use crate::source::ignore::Ignore;
use crate::source::{SourceFile, Unsettled};
use crate::target::TargetFile;
use crate::target::names::folded;

/// Where an image stands in the target's chains: set, image.
pub(crate) type At = (u32, u32);

pub(crate) struct Index<'a> {
    pub input: Input<'a>,
    pub filter: Matcher<'a>,
    pub baseline: Cow<'a, Baseline>,
    template: Option<Template>,
    /// Sets whose files lie in a sub-folder of the target, by the set's id at the source.
    places: HashMap<&'a str, TargetPath>,
    /// The same by image.
    image_places: HashMap<&'a TargetPath, TargetPath>,
    /// Whether every target path is the source path.
    identity: bool,
    /// What the target spells otherwise.
    spellings: Option<Spellings>,
    /// By inventory index; only where `identity`.
    found: Vec<Option<&'a TargetFile>>,
    /// Paths listed on the target that no source file maps to; only where `identity`.
    unmatched: Vec<&'a TargetPath>,
    /// By inventory index, where the name falls together with another: that other.
    pub collisions: HashMap<usize, TargetPath>,
    pub unsettled: HashMap<&'a TargetPath, &'a Unsettled>,
    /// Unfinished files whose name a format knows.
    pub unfinished: Vec<(Recognised, &'a TargetPath)>,
    target_images: OnceCell<HashMap<&'a TargetPath, At>>,
    attached: OnceCell<HashMap<TargetPath, At>>,
    /// By folded path, where the target ignores the case of names.
    absent: OnceCell<HashMap<String, i64>>,
    absorbed: OnceCell<HashMap<&'a TargetPath, Vec<At>>>,
    recorded: OnceCell<HashMap<&'a str, Vec<u32>>>,
    unknown_of: OnceCell<HashMap<&'a str, &'a TargetPath>>,
}

impl<'a> Index<'a> {
    pub fn new(input: Input<'a>) -> Self {
        let rules = &input.capabilities.names;
        // `validate` refused what cannot be read; a filter that slipped through leaves nothing in by mistake below.
        let filter =
            Matcher::new(&input.options.filter).unwrap_or_else(|_| Matcher::nothing(&input.options.filter));
        let template = input.options.subfolder.as_deref().and_then(|t| Template::parse(t).ok());
        let (places, image_places) = places(&input, template.is_some());
        let identity =
            template.is_none() && places.is_empty() && rules.normalisation == Normalisation::Preserved;
        let baseline = match input.baseline {
            Some(baseline) => Cow::Borrowed(baseline),
            None if input.options.policy.is_some() => {
                Cow::Owned(Baseline::take(input.source, input.inventory, input.now_ns))
            }
            None => Cow::Owned(Baseline::default()),
        };
        let unsettled: HashMap<_, _> = input.inventory.unsettled.iter().map(|u| (&u.path, u)).collect();
        let unfinished = input
            .inventory
            .unsettled
            .iter()
            .filter_map(|u| format::recognise_name(&u.path).map(|r| (r, &u.path)))
            .collect();
        let mut index = Self {
            input,
            filter,
            baseline,
            template,
            places,
            image_places,
            identity,
            spellings: None,
            found: Vec::new(),
            unmatched: Vec::new(),
            collisions: HashMap::new(),
            unsettled,
            unfinished,
            target_images: OnceCell::new(),
            attached: OnceCell::new(),
            absent: OnceCell::new(),
            absorbed: OnceCell::new(),
            recorded: OnceCell::new(),
            unknown_of: OnceCell::new(),
        };
        if identity {
            index.merge();
        }
        if names::folds(rules) {
            index.respell();
            index.collisions = index.collide();
        }
        index
    }

    /// Both sides are sorted by path.
    fn merge(&mut self) {
        self.found.reserve_exact(self.input.inventory.files.len());
        let mut listed = self.input.target.files.iter().peekable();
        for file in &self.input.inventory.files {
            while let Some((path, _)) = listed.next_if(|(path, _)| **path < file.path) {
                self.unmatched.push(path);
            }
            self.found.push(listed.next_if(|(path, _)| **path == file.path).map(|(_, there)| there));
        }
        self.unmatched.extend(listed.map(|(path, _)| path));
    }

    /// What the target has under another spelling is the source's file, too.
    fn respell(&mut self) {
        let inventory = self.input.inventory;
        let there = &self.input.target.files;
        if self.identity && inventory.unsettled.is_empty() && self.found.iter().all(Option::is_some) {
            return;
        }
        let unmatched = self.all_unmatched();
        let recorded = unmatched.iter().copied().filter(|path| there.recorded(path).is_some());
        let at_source = |name: &[u8]| {
            let file = TargetPath::new(name).is_ok_and(|name| inventory.file(&name).is_some());
            let mut within = name.to_vec();
            within.push(b'/');
            let next = inventory.files.partition_point(|f| f.path.as_bytes() < within.as_slice());
            file || inventory.files.get(next).is_some_and(|f| f.path.as_bytes().starts_with(&within))
        };
        let rules = &self.input.capabilities.names;
        let Some(spellings) = Spellings::new(rules, recorded, at_source) else { return };
        for unsettled in &inventory.unsettled {
            // It exists, and is being written: what the target has of it is not gone at the source.
            if let Some(path) = spellings.of(&unsettled.path)
                && let Some(recorded) = there.recorded(&path)
            {
                self.unsettled.insert(&recorded.image, unsettled);
            }
        }
        if self.identity {
            let mut matched = HashSet::new();
            for (at, file) in inventory.files.iter().enumerate() {
                if self.found[at].is_none()
                    && let Some(path) = spellings.of(&file.path)
                {
                    self.found[at] = there.get(&path);
                    matched.insert(path);
                }
            }
            self.unmatched.retain(|path| !matched.contains(path));
        }
        self.spellings = Some(spellings);
    }

    fn collide(&self) -> HashMap<usize, TargetPath> {
        let mut seen = names::Collisions::new(&self.input.capabilities.names);
        for path in self.input.target.files.keys() {
            seen.add(path);
        }
        let mut place_of = HashMap::new();
        for set in &self.input.source.sets {
            let place = self.place(set);
            if !place.is_root() {
                for file in set.images.iter().flat_map(|i| &i.files).chain(&set.set_files) {
                    place_of.insert(&file.path, place.clone());
                }
            }
        }
        let mut collisions = HashMap::new();
        for (at, file) in self.input.inventory.files.iter().enumerate() {
            let place = place_of.get(&file.path).cloned().unwrap_or_default();
            if let Some(other) = seen.claim(&file.path, &self.target_path(&place, &file.path)) {
                collisions.insert(at, other);
            }
        }
        collisions
    }

    /// The sub-folder of the target that a set lives in: where its records say it is (a chain never spreads over two
    /// folders), else what the template gives.
    pub fn place(&self, set: &ImageSet) -> TargetPath {
        if self.identity {
            return TargetPath::root();
        }
        // The base may be gone at the source, and the set's name with it: any of its images tells the place.
        let by_image = || set.images.iter().find_map(|i| self.image_places.get(&i.id));
        if let Some(place) = self.places.get(set.id.as_str()).or_else(by_image) {
            return place.clone();
        }
        let base = set.images.iter().find(|i| i.kind == ImageKind::Base).or(set.images.first());
        let written = base.and_then(|b| b.files.last()).and_then(|f| f.mtime_ns);
        self.place_named(&set.id, written)
    }

    pub fn place_named(&self, set: &str, written_ns: Option<i64>) -> TargetPath {
        if self.identity {
            return TargetPath::root();
        }
        if let Some(place) = self.places.get(set) {
            return place.clone();
        }
        self.template.as_ref().map_or_else(TargetPath::root, |template| {
            template.render(self.input.names, set, written_ns, &self.input.capabilities.names.refused)
        })
    }

    pub fn target_path(&self, place: &TargetPath, path: &TargetPath) -> TargetPath {
        let spelled = |path: TargetPath| match &self.spellings {
            Some(spellings) => spellings.of(&path).unwrap_or(path),
            None => path,
        };
        if self.identity {
            return spelled(path.clone());
        }
        let path = names::normalised(path, &self.input.capabilities.names);
        spelled(if place.is_root() { path } else { place.join(path.as_bytes()).unwrap_or(path) })
    }

    /// The inventory's index of a path. `near`: where to look first; files of a set lie close together.
    pub fn position(&self, path: &TargetPath, near: usize) -> Option<usize> {
        let files = &self.input.inventory.files;
        for at in [near, near + 1] {
            if files.get(at).is_some_and(|f| f.path == *path) {
                return Some(at);
            }
        }
        files.binary_search_by(|f| f.path.cmp(path)).ok()
    }

    /// Since when a path is known to be absent at the source. Where names are folded, it was there under any spelling: a rename
    /// is no absence.
    pub fn absent_since(&self, path: &TargetPath) -> Option<i64> {
        let absent = &self.input.inventory.absent_since;
        let own = *absent.get(path)?;
        let rules = &self.input.capabilities.names;
        if !names::folds(rules) {
            return Some(own);
        }
        let fold = |path: &TargetPath| folded(path.as_bytes(), rules.case_sensitive);
        let latest = self.absent.get_or_init(|| {
            let mut latest = HashMap::new();
            for (path, since) in absent {
                let known = latest.entry(fold(path)).or_insert(*since);
                *known = (*known).max(*since);
            }
            latest
        });
        latest.get(&fold(path)).copied().or(Some(own))
    }

    pub fn file(&self, at: usize) -> &'a SourceFile {
        &self.input.inventory.files[at]
    }

    /// The target's file for this source file.
    pub fn target_file(&self, at: usize, place: &TargetPath) -> Option<&'a TargetFile> {
        if self.identity {
            return self.found[at];
        }
        self.input.target.files.get(&self.target_path(place, &self.file(at).path))
    }

    /// Whether it was published and is not listed any more.
    pub fn gone(&self, at: usize, place: &TargetPath) -> bool {
        !self.input.target.gone.is_empty()
            && self.input.target.gone.contains_key(&self.target_path(place, &self.file(at).path))
    }

    /// Why it is not known whether the target still has it.
    pub fn unknown(&self, at: usize, place: &TargetPath) -> Option<&'a str> {
        let unknown = &self.input.target.unknown;
        if unknown.is_empty() {
            return None;
        }
        unknown.get(&self.target_path(place, &self.file(at).path)).map(|unknown| unknown.why.as_str())
    }

    /// Why nothing is done with this name on the target, or with this set: an interrupted act on it could not be settled.
    pub fn stuck(&self, path: Option<&TargetPath>, set: Option<&str>) -> Option<&'a str> {
        let stuck = self.input.target.stuck.iter();
        let of = |s: &&crate::target::Stuck| {
            path.is_some_and(|path| s.paths.contains(path)) || set.is_some() && s.set.as_deref() == set
        };
        stuck.filter(|s| !s.paths.is_empty()).find(of).map(|s| s.why.as_str())
    }

    /// Where the target's chains have the image with this anchor (a target path). Built when first asked.
    pub fn target_image(&self, anchor: &TargetPath) -> Option<At> {
        self.target_images
            .get_or_init(|| {
                let sets = self.input.target.chains().sets.iter().enumerate();
                sets.flat_map(|(s, set)| {
                    set.images.iter().enumerate().map(move |(i, image)| (&image.id, (s as u32, i as u32)))
                })
                .collect()
            })
            .get(anchor)
            .copied()
    }

    /// Whether the target may list a file that no source file maps to.
    pub fn any_unmatched(&self) -> bool {
        !self.identity || !self.unmatched.is_empty()
    }

    /// The target's image that a new one will hang on there, whose parent the source lacks. By its path on the target.
    pub fn attached(&self, anchor: &TargetPath) -> Option<At> {
        self.attached.get_or_init(|| attach::attached(self)).get(anchor).copied()
    }

    /// The target's images that this one took in at the source, as far as an earlier run found out. Built when first asked.
    pub fn absorbed(&self, holder: &TargetPath) -> &[At] {
        let absorbed = self.absorbed.get_or_init(|| {
            let mut absorbed: HashMap<_, Vec<At>> = HashMap::new();
            for (path, by) in &self.input.target.absorbed {
                if let Some(at) = self.target_image(path) {
                    absorbed.entry(&by.holder).or_default().push(at);
                }
            }
            absorbed.values_mut().for_each(|images| images.sort_unstable());
            absorbed
        });
        absorbed.get(holder).map_or(&[], Vec::as_slice)
    }

    /// The target's sets that have an image which was published with this set. Built when first asked.
    pub fn sets_recorded(&self, set: &str) -> &[u32] {
        let recorded = self.recorded.get_or_init(|| {
            let mut recorded: HashMap<_, Vec<u32>> = HashMap::new();
            for (s, set) in (0..).zip(&self.input.target.chains().sets) {
                for record in set.images.iter().filter_map(|i| self.input.target.files.recorded(&i.id)) {
                    let sets = recorded.entry(record.set.as_str()).or_default();
                    if sets.last() != Some(&s) {
                        sets.push(s);
                    }
                }
            }
            recorded
        });
        recorded.get(set).map_or(&[], Vec::as_slice)
    }

    /// A file of this set (as recorded) of which it is not known whether the target still has it. Built when first asked.
    pub fn unknown_of(&self, set: &str) -> Option<&'a TargetPath> {
        let unknown_of = self.unknown_of.get_or_init(|| {
            let mut unknown_of = HashMap::new();
            for (path, unknown) in &self.input.target.unknown {
                unknown_of.entry(unknown.recorded.set.as_str()).or_insert(path);
            }
            unknown_of
        });
        unknown_of.get(set).copied()
    }

    pub fn at(&self, at: At) -> &'a Image {
        &self.input.target.chains().sets[at.0 as usize].images[at.1 as usize]
    }

    /// Whether the target's files of this image can be what their names say: none is empty or begins otherwise.
    pub fn whole_there(&self, image: &Image) -> bool {
        let bad = &self.input.target.bad;
        image
            .files
            .iter()
            .filter(|f| signature::carries(&f.role))
            .all(|f| f.size > 0 && (bad.is_empty() || !bad.contains_key(&f.path)))
    }

    /// Why the source's files of this image cannot be what their names say: the file, and why, in words.
    pub fn no_image_at_source(&self, image: &'a Image) -> Option<(&'a TargetPath, &'a str)> {
        let bad = &self.input.inventory.bad;
        image.files.iter().filter(|f| signature::carries(&f.role)).find_map(|f| match f.size {
            0 => Some((&f.path, signature::EMPTY)),
            _ if bad.is_empty() => None,
            _ => bad.get(&f.path).map(|why| (&f.path, why.as_str())),
        })
    }

    /// A file of this image that is still being written: by what its name says, or because the header names it.
    pub fn unfinished_file(&self, anchor: usize) -> Option<&'a TargetPath> {
        if self.unsettled.is_empty() {
            return None;
        }
        let own = self.file(anchor).recognised.as_ref()?;
        let named = own.parts.iter().find_map(|p| self.unsettled.get_key_value(p).map(|(path, _)| *path));
        let sibling = |(r, _): &&(Recognised, _)| r.set == own.set && r.image == own.image;
        named.or_else(|| self.unfinished.iter().find(sibling).map(|(_, path)| *path))
    }

    /// An unfinished file of the set that this source image belongs to.
    pub fn unfinished_beside(&self, format: Format, anchor: Option<usize>) -> Option<&'a TargetPath> {
        if self.unsettled.is_empty() {
            return None;
        }
        let file = self.file(anchor?);
        self.unfinished_of(format, file.recognised.as_ref().map(|r| r.set.as_str()), &file.path)
    }

    /// An unfinished file of a set: by its name, or, where only headers tell, one beside the image whose header may.
    pub fn unfinished_of(
        &self,
        format: Format,
        set: Option<&str>,
        image: &TargetPath,
    ) -> Option<&'a TargetPath> {
        if self.unsettled.is_empty() {
            return None;
        }
        let named = self.unfinished.iter().find(|(r, _)| r.format == format && Some(r.set.as_str()) == set);
        if named.is_some() || format != Format::Qcow2 {
            return named.map(|(_, path)| *path);
        }
        let beside = |path: &TargetPath| path.parent() == image.parent() && format::wants_header(path);
        self.unsettled.keys().copied().filter(|path| beside(path)).min()
    }

    /// A directory of the source that could not be read, or of which nothing is known, and in which files of the set with
    /// these images may be: where they lie or above; below, too, where a set may spread over folders.
    pub fn hidden<'p>(
        &self,
        format: Format,
        mut images: impl Iterator<Item = &'p TargetPath>,
    ) -> Option<Reason<'a>> {
        let inventory = self.input.inventory;
        if inventory.unreadable.is_empty() && inventory.doubts.is_empty() {
            return None;
        }
        let spreads = matches!(format, Format::Qcow2 | Format::Virtnbdbackup);
        images.find_map(|image| {
            let folder = image.parent();
            let near = |dir: &TargetPath| {
                within(image, dir) || (spreads && folder.as_ref().is_none_or(|folder| within(dir, folder)))
            };
            let unreadable = inventory.unreadable.iter().map(|(dir, _)| dir).find(|dir| near(dir));
            let doubt = || inventory.doubts.iter().map(|doubt| &doubt.place).find(|place| near(place));
            unreadable.map(Reason::Unreadable).or_else(|| doubt().map(Reason::PlaceUnknown))
        })
    }

    /// An image that the source has under an unreadable directory is not absent.
    pub fn hides(&self, path: &TargetPath) -> Option<&'a TargetPath> {
        self.input.inventory.unreadable.iter().map(|(dir, _)| dir).find(|dir| within(path, dir))
    }

    /// Whether what the target has for this source file was published as an image, or lies there as one.
    pub fn was_image(&self, at: usize, place: &TargetPath) -> bool {
        let Some(there) = self.target_file(at, place) else { return false };
        match &there.recorded {
            Some(recorded) => recorded.recognised.as_ref().is_some_and(|r| r.role == Role::Anchor),
            None => self.target_image(&there.entry.path).is_some(),
        }
    }

    /// An unfinished file that may be an ancestor of this image. `missing`: its parent is not among the settled images.
    /// Where time alone orders a set, nothing shows that an image between two others is missing.
    pub fn unfinished_ancestor(&self, anchor: usize, missing: bool) -> Option<&'a TargetPath> {
        if self.unsettled.is_empty() {
            return None;
        }
        let own = self.file(anchor).recognised.as_ref()?;
        if let (Link::File(parent), true) = (&own.link, missing) {
            return self.unsettled.get_key_value(parent).map(|(path, _)| *path);
        }
        let ancestor = |(r, _): &&(Recognised, _)| {
            r.set == own.set
                && r.image != own.image
                && match (&own.link, &r.link) {
                    // A consolidated one hangs on the highest smaller number there is: that may be this one.
                    (Link::Number { number: own, consolidated, .. }, Link::Number { number, .. }) => {
                        (missing || *consolidated) && number < own
                    }
                    (Link::Moment { at: own, reverse: false }, Link::Moment { at, .. }) => at < own,
                    (Link::Moment { at: own, reverse: true }, Link::Moment { at, .. }) => at > own,
                    (Link::None, _) => false,
                    (Link::Time, _) | (_, Link::Time) => true,
                    _ => missing,
                }
        };
        self.unfinished.iter().find(ancestor).map(|(_, path)| *path)
    }

    /// Paths on the target that belong to no source file, sorted; without those that the job ignores.
    pub fn unmatched(&self) -> Vec<&'a TargetPath> {
        let mut unmatched = self.all_unmatched();
        if let Ok(ignore) = Ignore::new(&self.input.inventory.ignore)
            && !self.input.inventory.ignore.is_empty()
        {
            let files = &self.input.target.files;
            unmatched.retain(|path| {
                let recorded = files.get(path).and_then(|file| file.recorded.as_ref());
                !ignore.covers(path) && !recorded.is_some_and(|r| ignore.covers(&r.image))
            });
        }
        unmatched
    }

    fn all_unmatched(&self) -> Vec<&'a TargetPath> {
        if self.identity {
            return self.unmatched.clone();
        }
        let mut matched = HashSet::new();
        for set in &self.input.source.sets {
            let place = self.place(set);
            for file in set.images.iter().flat_map(|i| &i.files).chain(&set.set_files) {
                matched.insert(self.target_path(&place, &file.path));
            }
        }
        let other = self.place_named("", None);
        for file in &self.input.source.others {
            matched.insert(self.target_path(&other, &file.file.path));
        }
        self.input.target.files.keys().filter(|path| !matched.contains(path)).collect()
    }
}

/// Whether a path is this directory or lies somewhere in it.
fn within(path: &TargetPath, dir: &TargetPath) -> bool {
    let below = || path.as_bytes().strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
    dir.is_root() || path == dir || below()
}

/// The path at the source of an image that the target has: its anchor's.
pub(crate) fn source_path(index: &Index<'_>, image: &Image) -> TargetPath {
    let recorded = index.input.target.files.get(&image.id).and_then(|f| f.recorded.as_ref());
    recorded.map_or_else(|| image.id.clone(), |r| r.image.clone())
}

/// What precedes the image's own path in the target path of its anchor; `None` when the path does not end with it.
pub(crate) fn place_of_anchor(path: &TargetPath, image: &TargetPath) -> Option<TargetPath> {
    let front = path.as_bytes().strip_suffix(image.as_bytes())?;
    match front.strip_suffix(b"/") {
        None if front.is_empty() => Some(TargetPath::root()),
        None => None,
        Some(place) => TargetPath::new(place).ok(),
    }
}

/// By set, and by image.
type Places<'a> = (HashMap<&'a str, TargetPath>, HashMap<&'a TargetPath, TargetPath>);

/// What records place in a sub-folder; with a template also what they place at the root.
fn places<'a>(input: &Input<'a>, template: bool) -> Places<'a> {
    let rules = &input.capabilities.names;
    let mut places: Places<'a> = Default::default();
    let listed = input.target.files.iter().filter_map(|(path, file)| Some((path, file.recorded.as_ref()?)));
    let unknown = input.target.unknown.iter().map(|(path, unknown)| (path, &unknown.recorded));
    for (path, recorded) in listed.chain(&input.target.gone).chain(unknown) {
        let longer = path.as_bytes().len() > recorded.image.as_bytes().len();
        if !template && !longer {
            continue;
        }
        let image = names::normalised(&recorded.image, rules);
        let at_root = || {
            let there = input.target.files.get(&image).and_then(|f| f.recorded.as_ref());
            there.is_some_and(|r| r.set == recorded.set && r.image == recorded.image)
        };
        if let Some(place) = place_of_anchor(path, &image)
            && (template || !(place.is_root() || at_root()))
        {
            places.1.entry(&recorded.image).or_insert_with(|| place.clone());
            places.0.entry(&recorded.set).or_insert(place);
        }
    }
    places
}
