//! Backup products: how each names its files, what it writes when it backs up, merges, expires and begins anew.

use offsite_plugin_api::TargetPath;

use super::content::{Id, State, Truth, qcow2_head};
use super::source::{SECOND, join};
use super::world::{Why, World, path};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// ActiveImage 2018: numbers in the names.
    Aip18,
    /// ActiveImage 2022: a folder is a set, and time orders it.
    Aip22,
    /// ShadowProtect, with a .md5 beside each image; what it merged has a name of its own.
    Shadow,
    /// Macrium; a merge rewrites the later increments too.
    Macrium,
    /// Overlays that name their backing file.
    Qcow,
    /// Veeam's forever-forward: the oldest increment goes into the full one.
    Veeam,
    /// Full backups only.
    Vzdump,
}

pub const FAMILIES: [Family; 7] = [
    Family::Aip18,
    Family::Aip22,
    Family::Shadow,
    Family::Macrium,
    Family::Qcow,
    Family::Veeam,
    Family::Vzdump,
];

/// How the names begin whose order only time tells.
pub const TIMED: &[u8] = b"a0b1c2d3-";

#[derive(Clone, Debug)]
pub struct Image {
    pub number: u32,
    pub path: TargetPath,
    pub side: Option<TargetPath>,
    pub content: Id,
    pub truth: Truth,
}

#[derive(Clone, Debug)]
pub struct Set {
    pub id: u32,
    pub number: u32,
    /// Made so far, the base included.
    pub made: u32,
    /// In the order of the chain.
    pub images: Vec<Image>,
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub family: Family,
    pub host: String,
    pub dir: TargetPath,
    pub sets: Vec<Set>,
    begun: u32,
    /// Of Veeam and vzdump: days gone by.
    days: u32,
}

impl Machine {
    pub fn new(family: Family, host: &str, dir: &str) -> Self {
        let dir = TargetPath::new(dir).expect("a good folder");
        Self { family, host: host.to_owned(), dir, sets: Vec::new(), begun: 0, days: 0 }
    }

    /// Name and side-car of an image.
    pub fn name(&self, set: u32, number: u32, merged: bool, day: u32) -> (TargetPath, Option<TargetPath>) {
        let host = &self.host;
        let date = |between: &str| format!("2026{between}{:02}{between}{:02}", day / 28 + 1, day % 28 + 1);
        let mut side = None;
        let name = match self.family {
            Family::Aip18 if number == 0 => format!("{host}@c_20260101_d00_{set:05}.aiv"),
            Family::Aip18 => format!("{host}@c_20260101_d00_{set:05}_i{number:05}.aii"),
            Family::Aip22 => {
                let ending = if number == 0 { "aiv" } else { "aii" };
                format!("set{set}/a0b1c2d3-0000-0000-{set:04}-{number:012}_C.{ending}")
            }
            Family::Shadow => {
                let stem = match (number, merged) {
                    (0, _) => format!("{host}-b{set:03}"),
                    (_, false) => format!("{host}-b{set:03}-i{number:03}"),
                    (_, true) => format!("{host}-b{set:03}-i{number:03}-cd"),
                };
                side = Some(format!("{stem}.md5"));
                format!("{stem}.{}", if number == 0 { "spf" } else { "spi" })
            }
            Family::Macrium => format!("{host}{set}-{number:02}-{number:02}.mrimg"),
            Family::Qcow => format!("{host}-s{set:05}-{number}.qcow2"),
            Family::Veeam => {
                format!("{host}D{}T000000.{}", date("-"), if number == 0 { "vbk" } else { "vib" })
            }
            Family::Vzdump => format!("vzdump-qemu-100-{}-00_00_00.vma.zst", date("_")),
        };
        let full = |name: &str| join(&self.dir, &path(name));
        (full(&name), side.map(|s| full(&s)))
    }
}

fn head(family: Family, backing: Option<&str>) -> Vec<u8> {
    match family {
        Family::Qcow => qcow2_head(backing),
        Family::Vzdump => b"\x28\xb5\x2f\xfd-vma-archive".to_vec(),
        Family::Aip18 | Family::Aip22 => b"ActiveImage-data".to_vec(),
        Family::Shadow => b"SPF-StorageCraft".to_vec(),
        Family::Macrium => b"Macrium-Reflect-".to_vec(),
        Family::Veeam => b"VeeamBackupFile-".to_vec(),
    }
}

impl World {
    /// Whether the machine's folder is where its product writes.
    pub fn can_write(&self, m: usize) -> bool {
        // The folder itself may be a mount point.
        self.source.can_see(&join(&self.machines[m].dir, &path("x")))
    }

    pub fn write_image(&mut self, m: usize, truth: Truth, backing: Option<&str>, size: usize) -> Id {
        self.library.write(&head(self.machines[m].family, backing), size, Some(truth))
    }

    fn store(&mut self, at: &TargetPath, side: Option<&TargetPath>, content: Id) {
        if let Some(side) = side {
            let sum = self.library.raw(format!("md5 of {content}").into_bytes());
            self.put(side, sum);
        }
        self.put(at, content);
    }

    fn file_name(at: &TargetPath) -> String {
        String::from_utf8_lossy(at.name()).into_owned()
    }

    pub fn new_set(&mut self, m: usize) {
        self.sets += 1;
        let id = self.sets;
        let machine = &mut self.machines[m];
        machine.begun += 1;
        machine.days += 1;
        let number = machine.begun;
        machine.sets.push(Set { id, number, made: 0, images: Vec::new() });
        self.add(m);
    }

    /// The next image of the newest set.
    fn add(&mut self, m: usize) {
        let machine = &self.machines[m];
        let Some(set) = machine.sets.last() else { return };
        let (id, number, made) = (set.id, set.number, set.made);
        let needs = set.images.last().map(|i| i.truth.gives);
        let backing = set.images.last().map(|i| Self::file_name(&i.path));
        let (at, side) = machine.name(number, made, false, machine.days);
        let gives = self.library.state();
        let truth = Truth { machine: m, set: id, gives, needs };
        let least = if machine.family == Family::Qcow { 520 } else { 60 };
        let size = if made == 0 { 2 * least } else { least + (gives as usize * 29) % 40 };
        let content = self.write_image(m, truth, backing.as_deref(), size);
        self.store(&at, side.as_ref(), content);
        self.say(format!("{} writes {}", self.machines[m].host, at.display()));
        let set = self.machines[m].sets.last_mut().expect("looked at above");
        set.images.push(Image { number: made, path: at, side, content, truth });
        set.made += 1;
        self.vbm(m);
    }

    /// Veeam's metadata changes with every backup.
    fn vbm(&mut self, m: usize) {
        if self.machines[m].family == Family::Veeam {
            let at = join(&self.machines[m].dir, &path(&format!("{}.vbm", self.machines[m].host)));
            let content = self.library.write(b"<vbm/>", 40, None);
            self.put(&at, content);
        }
    }

    pub fn backup(&mut self, m: usize) {
        let machine = &mut self.machines[m];
        let full = machine.family == Family::Vzdump;
        let chain = machine.sets.last().is_some_and(|s| !s.images.is_empty() && s.made < 90);
        if full || !chain {
            return self.new_set(m);
        }
        machine.days += 1;
        self.add(m);
    }

    /// The newest set begins anew under the same names; a product that names by dates begins another set.
    pub fn restart(&mut self, m: usize) {
        if matches!(self.machines[m].family, Family::Aip22 | Family::Veeam | Family::Vzdump) {
            return self.new_set(m);
        }
        let Some(set) = self.machines[m].sets.pop() else { return };
        for image in &set.images {
            self.remove_image(image, Why::User);
        }
        self.sets += 1;
        let id = self.sets;
        self.machines[m].sets.push(Set { id, made: 0, images: Vec::new(), ..set });
        self.add(m);
    }

    fn remove_image(&mut self, image: &Image, why: Why) {
        for at in [Some(&image.path), image.side.as_ref()].into_iter().flatten() {
            self.remove(at, why);
        }
    }

    /// The oldest set goes; never the newest.
    pub fn expire(&mut self, m: usize) -> bool {
        if self.machines[m].sets.len() < 2 {
            return false;
        }
        let set = self.machines[m].sets.remove(0);
        for image in &set.images {
            self.remove_image(image, Why::Rotated);
        }
        self.say(format!("{} expires its oldest set ({} images)", self.machines[m].host, set.images.len()));
        true
    }

    /// Somebody removes images, from one on; `all`: of every set.
    pub fn remove_images(&mut self, m: usize, from: usize, count: usize) {
        let mut paths = Vec::new();
        for set in &self.machines[m].sets {
            paths.extend(set.images.iter().cloned());
        }
        for image in paths.iter().skip(from).take(count) {
            self.remove_image(image, Why::User);
            self.say(format!("somebody removes {} at the source", image.path.display()));
            for set in &mut self.machines[m].sets {
                set.images.retain(|i| i.path != image.path);
            }
        }
        self.machines[m].sets.retain(|s| !s.images.is_empty());
    }

    /// The host is written in small letters from now on, and its files are renamed.
    pub fn recase(&mut self, m: usize) {
        let host = self.machines[m].host.clone();
        let small = host.to_lowercase();
        if host == small || self.machines[m].family == Family::Qcow {
            return; // a header names its parent's file
        }
        self.say(format!("somebody renames the files of {host} to {small}"));
        self.machines[m].host = small.clone();
        let renamed = |at: &TargetPath| path(&at.display().replace(&host, &small));
        let mut images: Vec<(TargetPath, TargetPath)> = Vec::new();
        for image in self.machines[m].sets.iter_mut().flat_map(|s| &mut s.images) {
            for at in [Some(&mut image.path), image.side.as_mut()].into_iter().flatten() {
                let new = renamed(at);
                images.push((std::mem::replace(at, new.clone()), new));
            }
        }
        for (old, new) in images {
            if old == new {
                continue; // its name does not have the host's in it
            }
            let Some(file) = self.source.remove(&old) else { continue };
            let done = self.growing.remove(&old);
            self.note_removal(&old, Why::User, file.content);
            self.put(&new, file.content);
            if let Some(done) = done {
                self.growing.insert(new.clone(), done);
            }
            if let Some(moved) = self.source.true_file_mut(&new) {
                *moved = file; // a rename changes neither time nor number, but the change time
                moved.ctime = self.now;
            }
        }
    }

    /// Merges a run of increments of the newest set: `skip` of them stay below, `count` become one.
    pub fn merge(&mut self, m: usize, skip: usize, count: usize) -> bool {
        let family = self.machines[m].family;
        let Some(set) = self.machines[m].sets.last() else { return false };
        if family == Family::Vzdump {
            return false;
        }
        let first = if family == Family::Veeam { 0 } else { 1 + skip };
        let count = if family == Family::Veeam { 2 } else { count.max(2) };
        let Some(run) = set.images.get(first..first + count) else { return false };
        let run: Vec<Image> = run.to_vec();
        // No product merges what it could not restore.
        if first > 0 && run[0].truth.needs != Some(set.images[first - 1].truth.gives) {
            return false;
        }
        let links = |pair: &[Image]| pair[1].truth.needs == Some(pair[0].truth.gives);
        if !run.windows(2).all(links) || run[0].number == 0 && family != Family::Veeam {
            return false;
        }
        let last = run[run.len() - 1].clone();
        let needs: Option<State> = run[0].truth.needs;
        let truth = Truth { needs, ..last.truth };
        let size: usize = run.iter().map(|i| self.library.size(i.content)).sum();
        let below = first.checked_sub(1).map(|b| Self::file_name(&set.images[b].path));
        let number = set.number;
        let content = self.write_image(m, truth, below.as_deref(), size);
        let names: Vec<String> = run.iter().map(|i| i.path.display().into_owned()).collect();
        self.say(format!("{} merges {}", self.machines[m].host, names.join(" + ")));
        let mut merged = Image { content, truth, ..last.clone() };
        match family {
            Family::Veeam => {
                merged = Image { content, truth, ..run[0].clone() };
                self.store(&run[0].path, None, content);
                self.remove_image(&run[1], Why::Absorbed(content));
            }
            Family::Shadow => {
                (merged.path, merged.side) = self.machines[m].name(number, last.number, true, 0);
                self.store(&merged.path, merged.side.as_ref(), content);
                for image in run.iter().filter(|i| i.path != merged.path) {
                    self.remove_image(image, Why::Absorbed(content));
                }
            }
            _ => {
                let before = self.source.true_file(&last.path).map(|f| f.mtime);
                self.store(&last.path, last.side.as_ref(), content);
                // Where time orders a set, a merge keeps the order.
                if family == Family::Aip22
                    && let (Some(before), Some(file)) = (before, self.source.true_file_mut(&last.path))
                {
                    file.mtime = before + 4 * SECOND;
                }
                for image in &run[..run.len() - 1] {
                    self.remove_image(image, Why::Absorbed(content));
                }
            }
        }
        for image in &run {
            self.held_by(image.content, content);
        }
        let contents: Vec<Id> = run.iter().map(|image| image.content).collect();
        self.unclear_by_merge(family, &contents, content);
        let set = self.machines[m].sets.last_mut().expect("looked at above");
        set.images.splice(first..first + count, [merged]);
        if family == Family::Macrium {
            self.rewrite_after(m, first);
        }
        self.vbm(m);
        true
    }

    /// What one content took in, another one holds now.
    fn held_by(&mut self, before: Id, now: Id) {
        for removal in self.removed.values_mut().filter(|r| r.why == Why::Absorbed(before)) {
            removal.why = Why::Absorbed(now);
            removal.held.push(before);
        }
    }

    /// The images after that one are written anew, with what they held.
    fn rewrite_after(&mut self, m: usize, at: usize) {
        let images: Vec<Image> = self.machines[m].sets.last().map(|s| s.images.clone()).unwrap_or_default();
        for (n, image) in images.iter().enumerate().skip(at + 1) {
            let size = self.library.size(image.content) + 8;
            let content = self.write_image(m, image.truth, None, size);
            self.store(&image.path, image.side.as_ref(), content);
            self.held_by(image.content, content);
            // Every one of them changed, as a merge changes its holder.
            self.unclear_by_merge(Family::Macrium, &[image.content], content);
            if let Some(set) = self.machines[m].sets.last_mut() {
                set.images[n].content = content;
            }
        }
    }

    /// All images of a machine that are at the source.
    pub fn images(&self, m: usize) -> Vec<Image> {
        self.machines[m].sets.iter().flat_map(|s| s.images.iter().cloned()).collect()
    }
}
