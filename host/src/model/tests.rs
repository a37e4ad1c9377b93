//! The random stories.

use std::collections::BTreeMap;

use super::drive::{Failed, Play};
use super::story::{Kinds, Story};

/// What happens in an ordinary run's stories: everything. `OFFSITE_STORIES_OF=merge,there` draws others.
const KINDS: &str = "merge,coarse,sync,touch,remove,mounts,lose,restart,folds,manifests,listing,room,directories,there,\
                     seed,damage,altered,forge,later,first";

fn play(story: &Story) -> Result<(), Failed> {
    Play::new(story).play(&story.events)
}

/// Leaves out what the failure does not need.
fn shorten(story: &Story, failed: Failed) -> (Story, Failed) {
    let (mut story, mut failed) = (story.clone(), failed);
    loop {
        let before = story.events.len();
        let mut at = story.events.len();
        while at > 0 {
            at -= 1;
            let mut shorter = story.clone();
            shorter.events.remove(at);
            if let Err(other) = play(&shorter)
                && other.broken.law == failed.broken.law
            {
                (story, failed) = (shorter, other);
            }
        }
        if story.events.len() == before {
            return (story, failed);
        }
    }
}

fn tell(seed: u64, kinds: Option<&str>, story: &Story, failed: &Failed) -> String {
    let kinds = kinds.map(|of| format!("OFFSITE_STORIES_OF={of} ")).unwrap_or_default();
    format!(
        "story {seed}: {}: {}\n{:#?}\n{}\n\nreplay: {kinds}OFFSITE_STORY={seed} cargo nextest run -p offsite --lib \
         random_stories\n",
        failed.broken.law,
        failed.broken.what,
        story.setup,
        failed.log.join("\n")
    )
}

/// Stories where nobody says how many. `tests/stories` plays more of them, faster.
const GATE: u64 = 1_000;

/// Seeds among the first 20,000 that fail still; they are played only by their number.
/// - 2565: the target merged 1 and 2, the source 2 to 5; once the user accepts what the target has, 5 lies upon it.
/// - 3292: a file that others put on the target under a merge's name, and that nobody recorded, counts as one by its name.
/// - 8152: what is put back after a rename by case has its old spelling, another host's where case counts: the model's.
/// - 15310: an increment was removed before anybody saw it, below a merge whose name does not say where it begins.
/// - 19003: others replaced a base while its publish was interrupted: its increments go before it is sent again.
/// - 19130: what took an image in was merged on by others: the oracle looks for that file alone.
const OPEN: [u64; 6] = [2565, 3292, 8152, 15310, 19003, 19130];

/// Each part is a test, so that they run side by side in processes of their own.
const PARTS: u64 = 16;

/// Plays the seeds of one part, until some have failed, and tells one of each kind of failure.
fn play_part(part: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (from, count) = match number("OFFSITE_STORY") {
        Some(seed) => (seed, 1),
        None => (number("OFFSITE_STORIES_FROM").unwrap_or(0), number("OFFSITE_STORIES").unwrap_or(GATE)),
    };
    let named = std::env::var("OFFSITE_STORIES_OF").ok();
    let kinds = Kinds::named(named.as_deref().unwrap_or(KINDS));
    let most = number("OFFSITE_STORIES_FAILING").unwrap_or(1) as usize;
    let mut laws = BTreeMap::<&str, Vec<u64>>::new();
    let mut told = BTreeMap::new();
    let seeds = (from..from.saturating_add(count)).filter(|seed| seed % PARTS == part);
    let seeds = seeds.filter(|seed| count == 1 || named.is_some() || !OPEN.contains(seed));
    let failures = seeds.filter_map(|seed| {
        let story = Story::of(seed, kinds);
        let failed = play(&story).err()?;
        Some((seed, story, failed))
    });
    for (seed, story, failed) in failures.take(most) {
        laws.entry(failed.broken.law).or_default().push(seed);
        told.entry(failed.broken.law).or_insert_with(|| {
            let (story, failed) = shorten(&story, failed);
            tell(seed, named.as_deref(), &story, &failed)
        });
    }
    let texts: Vec<String> = told.into_values().collect();
    assert!(texts.is_empty(), "{}\n{laws:#?}", texts.join("\n\n"));
}

/// Random stories keep the laws.
mod random_stories {
    macro_rules! parts {
        ($($name:ident $part:literal),+) => {$(
            #[test]
            fn $name() {
                super::play_part($part);
            }
        )+};
    }

    parts!(
        part_00 0, part_01 1, part_02 2, part_03 3, part_04 4, part_05 5, part_06 6, part_07 7, part_08 8, part_09 9,
        part_10 10, part_11 11, part_12 12, part_13 13, part_14 14, part_15 15
    );
}
