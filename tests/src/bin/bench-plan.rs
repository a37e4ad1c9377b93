//! How long, and in how much memory, 1,000,000 images in 20,000 sets are planned: a first run, and a run in which nothing
//! changed. `cargo run --release -p offsite-tests --bin bench-plan [IMAGES [SETS]]`
//!
//! What a worker is given (inventory, listing, records) is made first and counted apart; planning is what it does with
//! that: assemble the chains of both sides, judge the evidence, plan. Each case is a process of its own, so that its
//! peak is its own.

#![allow(clippy::print_stdout)]

use std::process::Command;
use std::time::Instant;

use offsite::chain::{Knowledge, assemble};
use offsite::format::recognise_name;
use offsite::plan::{Action, Input, Names, Options, Plan, plan};
use offsite::source::{Inventory, SourceFile};
use offsite::target::{Files, Gathered, Recorded, TargetFile, VerifyLevel, view};
use offsite_plugin_api::{Capabilities, Entry, TargetPath, Timestamp};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [case, images, sets] = arguments.as_slice()
        && matches!(case.as_str(), "first" | "no-change")
    {
        return one(case == "first", number(images), number(sets));
    }
    let images = arguments.first().map_or("1000000", String::as_str);
    let sets = arguments.get(1).map_or("20000", String::as_str);
    println!(
        "{:<10} {:>9} {:>9} {:>9} {:>9} {:>11} {:>11} {:>11}",
        "", "chains s", "target s", "plan s", "sum s", "given MiB", "peak MiB", "added MiB"
    );
    for case in ["first", "no-change"] {
        let program = std::env::current_exe().expect("this program has a path");
        let status =
            Command::new(program).args([case, images, sets]).status().expect("it can be started again");
        assert!(status.success(), "{case} failed");
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number of images, and of sets")
}

fn one(first: bool, images: usize, sets: usize) {
    let inventory = inventory(images, sets);
    let gathered = if first { Gathered::default() } else { gathered(&inventory) };
    let given = memory("VmRSS");

    let start = Instant::now();
    let source = assemble(&inventory.members(), &Knowledge::default());
    let chains = start.elapsed().as_secs_f64();
    let middle = Instant::now();
    let target = view(gathered);
    let target_s = middle.elapsed().as_secs_f64();
    let last = Instant::now();
    let plan = plan(&Input {
        inventory: &inventory,
        source: &source,
        target: &target,
        options: &Options::default(),
        baseline: None,
        capabilities: &Capabilities::default(),
        names: &Names::default(),
        now_ns: 1,
    });
    let plan_s = last.elapsed().as_secs_f64();
    let peak = memory("VmHWM");
    check(&plan, first, images);
    println!(
        "{:<10} {chains:>9.2} {target_s:>9.2} {plan_s:>9.2} {:>9.2} {given:>11} {peak:>11} {:>11}",
        if first { "first" } else { "no change" },
        start.elapsed().as_secs_f64(),
        peak - given
    );
}

/// The bench measures planning only if the plan is right.
fn check(plan: &Plan, first: bool, images: usize) {
    let expected = if first { Action::Copy } else { Action::Skip };
    assert_eq!(plan.steps.len(), images);
    assert!(plan.steps.iter().all(|s| s.action == expected));
}

/// One directory per set, a base and its increments in each.
fn inventory(images: usize, sets: usize) -> Inventory {
    let each = images / sets;
    let mut files = Vec::with_capacity(each * sets);
    for set in 0..sets {
        for n in 0..each {
            let name = match n {
                0 => format!("vm{set:05}/vm{set:05}@daily_20240101_d01_00001.aiv"),
                n => format!("vm{set:05}/vm{set:05}@daily_20240101_d01_00001_i{n:05}.aii"),
            };
            let path = TargetPath::new(name).expect("a plain name");
            let recognised = recognise_name(&path);
            assert!(recognised.is_some(), "a format knows it");
            files.push(SourceFile {
                path,
                size: 1 << 30,
                mtime_ns: (set * each + n) as i64,
                ctime_ns: 1,
                device: 1,
                inode: 1,
                recognised,
            });
        }
    }
    Inventory { files, ..Inventory::default() }
}

/// A target that holds all of it, untouched.
fn gathered(inventory: &Inventory) -> Gathered {
    let mut gathered = Gathered::default();
    let mut listed = Vec::with_capacity(inventory.files.len());
    for file in &inventory.files {
        let mtime = Some(Timestamp { ns: file.mtime_ns, precision_ns: 1 });
        let version = Some(format!("{:x}-{:x}", file.inode, file.mtime_ns));
        listed.push(TargetFile::from(Entry {
            mtime,
            version: version.clone(),
            ..Entry::file(file.path.clone(), file.size)
        }));
        let recognised = file.recognised.clone();
        let set = recognised.as_ref().map(|r| r.set.clone()).unwrap_or_default();
        let recorded = Recorded {
            size: file.size,
            blake3: Some([7; 32]),
            source_mtime_ns: file.mtime_ns,
            source_ctime_ns: file.ctime_ns,
            source_inode: file.inode,
            target_version: version,
            target_mtime: mtime,
            level: VerifyLevel::ReadBack,
            recognised,
            set,
            image: file.path.clone(),
            parent: None,
            head: None,
            mount: None,
        };
        gathered.records.insert(file.path.clone(), Box::new(recorded));
    }
    gathered.files = Files::listed(listed);
    gathered
}

/// MiB, from the kernel.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells a process about itself");
    let line = status.lines().find(|l| l.starts_with(what)).expect("the kernel names it");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("kibibytes") / 1024
}
