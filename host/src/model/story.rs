//! A story: how the world is made, and what happens in it, drawn from a seed. Every event stands for itself, so that any
//! of them can be left out when a failing story is made shorter.

use super::products::{FAMILIES, Family};
use super::target::Nature;
use crate::plan::DeleteFirst;

/// SplitMix64: the same seed gives the same story on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Clone, Copy, Debug)]
pub struct MachineSetup {
    pub family: Family,
    /// Lies on a file system of its own, mounted in the source; that renumbers at every mount; with coarse times.
    pub mounted: bool,
    pub renumbers: bool,
    pub coarse: bool,
    /// Increments made before the story begins.
    pub increments: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct TargetSetup {
    pub nature: Nature,
    pub sync: bool,
    pub include_other: bool,
    pub max_delete: f64,
    pub filter: bool,
    /// Seconds for which what could be deleted stays.
    pub delete_after: i64,
    pub delete_first: DeleteFirst,
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub machines: Vec<MachineSetup>,
    pub targets: Vec<TargetSetup>,
    /// Seconds.
    pub settle: u64,
    pub others: usize,
}

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Killed after so many steps.
    Kill(u16),
    /// That changing call fails, before or after its effect.
    Fail(u16, bool),
    /// A product goes on with its work when the run makes that change.
    Meanwhile(u16),
}

/// Machines, images and targets are taken modulo what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Run(Fault),
    Wait(u16),
    Backup(usize),
    NewSet(usize),
    Restart(usize),
    Merge {
        machine: usize,
        skip: usize,
        count: usize,
    },
    Expire(usize),
    Remove {
        machine: usize,
        from: usize,
        count: usize,
    },
    RemoveAll(usize),
    /// What somebody removed is there again, as it was.
    PutBack(usize),
    Touch {
        machine: usize,
        image: usize,
    },
    Chmod {
        machine: usize,
        image: usize,
    },
    /// The file at the source becomes empty, or garbage (which nobody can see in a closed format: fixed stories only).
    Zero {
        machine: usize,
        image: usize,
    },
    Garble {
        machine: usize,
        image: usize,
    },
    Writing {
        machine: usize,
        image: usize,
    },
    WritingEnds,
    Lock {
        machine: usize,
        image: usize,
    },
    UnlockAll,
    AddOther(usize),
    RemoveOthers,
    Unmount(usize),
    Mount(usize),
    /// The device number of another, unmounted file system is given to this one.
    MountAs {
        machine: usize,
        other: usize,
    },
    Remount(usize),
    Hide(usize),
    Link(usize),
    ShowAll,
    RootGone,
    RootBack,
    /// Others at the target.
    Truncate {
        target: usize,
        file: usize,
    },
    Overwrite {
        target: usize,
        file: usize,
    },
    DeleteThere {
        target: usize,
        file: usize,
    },
    /// Others merge the increments of a machine's newest set on the target, rightly.
    MergeThere {
        target: usize,
        machine: usize,
        count: usize,
    },
    KeepManifests(usize),
    OldManifests(usize),
    Full(usize, bool),
    HideListing(usize, bool),
    LoseCatalog(usize),
    LoseJob,
    /// All of a machine's files are renamed to small letters.
    Recase(usize),
    /// A file that looks like an image and that no format knows.
    Strange(usize),
    /// A log file that grows at every look, or that one does not grow any more.
    GrowingLog,
    /// `offsite chains`: what the target is shown to hold.
    Look,
    /// The target has room for so many further bytes.
    Room(usize, usize),
    /// Somebody put older content of the same names and sizes on the target.
    Seed(usize),
    /// A manifest that calls the last image of a chain a consolidation of those before it, which are deleted.
    Forge {
        target: usize,
        machine: usize,
    },
    /// A directory on the target has the name of that machine's next image.
    DirectoryThere {
        target: usize,
        machine: usize,
    },
}

/// Kinds of events that stories are made of. The ordinary ones are always drawn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kinds {
    /// A set begins anew under the same names.
    pub restart: bool,
    pub merge: bool,
    pub remove: bool,
    pub touch: bool,
    pub damage: bool,
    pub mounts: bool,
    pub altered: bool,
    pub manifests: bool,
    pub listing: bool,
    pub lose: bool,
    pub folds: bool,
    pub coarse: bool,
    pub sync: bool,
    /// Merges on the target.
    pub there: bool,
    pub forge: bool,
    pub seed: bool,
    pub room: bool,
    pub directories: bool,
    /// Deletions that wait; those that make room.
    pub later: bool,
    pub first: bool,
}

impl Kinds {
    /// `text`: names, separated by commas.
    pub fn named(text: &str) -> Self {
        let mut kinds = Self::default();
        for name in text.split(',') {
            match name {
                "restart" => kinds.restart = true,
                "merge" => kinds.merge = true,
                "remove" => kinds.remove = true,
                "touch" => kinds.touch = true,
                "damage" => kinds.damage = true,
                "mounts" => kinds.mounts = true,
                "altered" => kinds.altered = true,
                "manifests" => kinds.manifests = true,
                "listing" => kinds.listing = true,
                "lose" => kinds.lose = true,
                "folds" => kinds.folds = true,
                "coarse" => kinds.coarse = true,
                "sync" => kinds.sync = true,
                "there" => kinds.there = true,
                "forge" => kinds.forge = true,
                "seed" => kinds.seed = true,
                "room" => kinds.room = true,
                "directories" => kinds.directories = true,
                "later" => kinds.later = true,
                "first" => kinds.first = true,
                other => panic!("'{other}' is no kind of event"),
            }
        }
        kinds
    }
}

#[derive(Clone, Debug)]
pub struct Story {
    pub setup: Setup,
    pub events: Vec<Event>,
}

impl Story {
    pub fn of(seed: u64, kinds: Kinds) -> Self {
        let mut random = Random::new(seed);
        let setup = setup(&mut random, kinds);
        let count = 4 + random.below(14);
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(event(&mut random, &setup, kinds));
            if random.chance(35) {
                events.push(Event::Run(fault(&mut random)));
            }
        }
        Self { setup, events }
    }
}

fn setup(random: &mut Random, kinds: Kinds) -> Setup {
    let machines = (0..1 + random.below(3))
        .map(|_| MachineSetup {
            family: FAMILIES[random.below(FAMILIES.len())],
            mounted: kinds.mounts && random.chance(30),
            renumbers: kinds.mounts && random.chance(40),
            coarse: random.chance(25),
            increments: random.below(5),
        })
        .collect();
    let targets = (0..1 + usize::from(random.chance(25)))
        .map(|_| {
            let sync = kinds.sync && random.chance(70);
            TargetSetup {
                nature: Nature {
                    atomic: random.chance(60),
                    versions: random.chance(50),
                    coarse: kinds.coarse && random.chance(25),
                    folds: kinds.folds && random.chance(20),
                },
                sync,
                include_other: random.chance(30),
                max_delete: [0.25, 0.25, 0.5, 1.0][random.below(4)],
                filter: !sync && random.chance(15),
                delete_after: if kinds.later && random.chance(60) {
                    [1800, 7200, 90_000][random.below(3)]
                } else {
                    0
                },
                delete_first: match kinds.first && random.chance(60) {
                    true => [DeleteFirst::Proved, DeleteFirst::Last][random.below(2)],
                    false => DeleteFirst::No,
                },
            }
        })
        .collect();
    let settle = if random.chance(60) { 0 } else { 60 };
    Setup { machines, targets, settle, others: random.below(6) }
}

fn fault(random: &mut Random) -> Fault {
    match random.below(10) {
        0 | 1 => Fault::Kill(random.below(60) as u16),
        2 => Fault::Fail(1 + random.below(25) as u16, random.chance(50)),
        3 => Fault::Meanwhile(1 + random.below(20) as u16),
        _ => Fault::None,
    }
}

fn event(random: &mut Random, setup: &Setup, kinds: Kinds) -> Event {
    let machines = setup.machines.len();
    let targets = setup.targets.len();
    loop {
        let machine = random.below(machines);
        let target = random.below(targets);
        let image = random.below(8);
        let (drawn, wanted) = match random.below(57 + usize::from(kinds.later)) {
            0..=6 => (Event::Backup(machine), true),
            7 | 8 => (Event::NewSet(machine), true),
            9 => (Event::Restart(machine), kinds.restart),
            10..=13 => {
                let (skip, count) = (random.below(3), 2 + random.below(3));
                (Event::Merge { machine, skip, count }, kinds.merge)
            }
            14 | 15 => (Event::Expire(machine), true),
            16 | 17 => (Event::Remove { machine, from: image, count: 1 + random.below(3) }, kinds.remove),
            18 => (Event::RemoveAll(machine), kinds.remove),
            19 => (Event::Touch { machine, image }, kinds.touch),
            20 => (Event::Chmod { machine, image }, true),
            21 => (Event::Zero { machine, image }, kinds.damage),
            22 => (Event::Wait(random.below(3000) as u16), true),
            23 => (Event::Writing { machine, image }, true),
            24 => (Event::WritingEnds, true),
            25 => (Event::Lock { machine, image }, true),
            26 => (Event::UnlockAll, true),
            27 => (Event::AddOther(image), true),
            28 => (Event::RemoveOthers, true),
            29 => (Event::Unmount(machine), kinds.mounts),
            30 => (Event::Mount(machine), kinds.mounts),
            31 => (Event::MountAs { machine, other: random.below(machines) }, kinds.mounts),
            32 => (Event::Remount(machine), kinds.mounts),
            33 => (Event::Hide(machine), true),
            34 => (Event::Link(machine), kinds.mounts),
            35 => (Event::ShowAll, true),
            36 => (Event::RootGone, true),
            37 => (Event::RootBack, true),
            38 => (Event::Truncate { target, file: image }, kinds.altered),
            39 => (Event::Overwrite { target, file: image }, kinds.altered),
            40 => (Event::DeleteThere { target, file: image }, kinds.altered),
            41 => (Event::KeepManifests(target), kinds.manifests),
            42 => (Event::OldManifests(target), kinds.manifests),
            43 => (Event::Full(target, random.chance(60)), true),
            44 => (Event::HideListing(target, random.chance(60)), kinds.listing),
            45 => (Event::LoseCatalog(target), kinds.lose),
            46 => (Event::LoseJob, kinds.lose),
            47 => (Event::Recase(machine), kinds.folds),
            48 => (Event::GrowingLog, true),
            49 => (Event::Look, true),
            50 | 51 => (Event::MergeThere { target, machine, count: 2 + random.below(3) }, kinds.there),
            52 => (Event::Forge { target, machine }, kinds.forge),
            53 => (Event::Seed(target), kinds.seed),
            54 => (Event::Room(target, random.below(2000)), kinds.room),
            55 => (Event::DirectoryThere { target, machine }, kinds.directories),
            57 => (Event::PutBack(machine), true),
            _ => (Event::Wait(random.below(300) as u16), true),
        };
        if wanted {
            return drawn;
        }
    }
}
