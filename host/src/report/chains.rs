//! Image sets and restore points for people and machines.

use super::json::json_error;
use super::table::{Table, clean};
use super::{At, bytes, count};
use crate::chain::{Chains, Image, ImageSet};
use crate::error::Error;
use crate::format::ImageKind;

/// The chains of a source (`target` is `None`) or a target; `open`: what a run would settle first.
pub struct ChainsOf {
    pub job: String,
    pub target: Option<String>,
    /// Source directory or target URL.
    pub place: String,
    pub result: Result<(Vec<String>, Chains), Error>,
}

fn kind(image: &Image) -> &'static str {
    match image.kind {
        ImageKind::Base => "base",
        ImageKind::Incremental => "incremental",
        ImageKind::Differential => "differential",
    }
}

/// How a format is called in the configuration and in JSON.
fn format_name(set: &ImageSet) -> String {
    serde_json::to_value(set.format).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The parent's id of an image of a set, as the chain model has it.
fn parent(set: &ImageSet, image: &Image) -> Option<String> {
    match &image.parent {
        crate::chain::Parent::Image(index) => set.images.get(*index).map(|p| p.id.display().into_owned()),
        _ => None,
    }
}

/// `{"version":1,"chains":[{"job","target","place","sets":[{"set","format","images":[…]}],"others","problems"}]}`.
pub fn chains_json(all: &[ChainsOf]) -> String {
    let chains: Vec<_> = all
        .iter()
        .map(|one| {
            let mut value = serde_json::json!({ "job": one.job, "target": one.target, "place": one.place });
            match &one.result {
                Err(error) => value["error"] = json_error(error),
                Ok((open, chains)) => {
                    value["open"] = serde_json::json!(open);
                    value["sets"] = chains.sets.iter().map(set_json).collect();
                    value["others"] = chains
                        .others
                        .iter()
                        .map(|o| serde_json::json!({ "path": o.file.path.display(), "bytes": o.file.size, "reason": o.reason }))
                        .collect();
                    value["problems"] = chains
                        .problems
                        .iter()
                        .map(|p| serde_json::json!({ "set": p.set, "image": p.image.display(), "what": p.what }))
                        .collect();
                }
            }
            value
        })
        .collect();
    serde_json::json!({ "version": 1, "chains": chains }).to_string()
}

fn set_json(set: &ImageSet) -> serde_json::Value {
    let images: Vec<_> = set
        .images
        .iter()
        .map(|image| {
            serde_json::json!({
                "image": image.id.display(),
                "kind": kind(image),
                "number": image.number,
                "span": image.span.map(|s| [s.first, s.last]),
                "evidence": image.evidence,
                "parent": parent(set, image),
                "bytes": image.bytes(),
                "files": image.files.iter().map(|f| f.path.display()).collect::<Vec<_>>(),
                "restorable": image.restorable,
                "unproven": image.unproven,
                "missing": image.missing,
            })
        })
        .collect();
    serde_json::json!({ "set": set.id, "format": format_name(set), "images": images })
}

pub fn chains_text(all: &[ChainsOf], verbose: bool) -> String {
    let parts = all.iter().map(|one| {
        let at = At { job: &one.job, target: one.target.as_deref() };
        let mut text = format!("{at}: {}", clean(&one.place));
        let Ok((open, chains)) = &one.result else {
            text.push_str("\nnot known");
            return text;
        };
        for open in open {
            text.push_str(&format!("\nfirst, a run settles: {}", clean(open)));
        }
        let (mut points, mut good, mut unproven) = (0, 0, 0);
        for set in &chains.sets {
            let mut table = Table::new(&["IMAGE", "KIND", "SIZE", "RESTORABLE"]).right(&[2]);
            for image in &set.images {
                points += 1;
                good += usize::from(image.restorable && !image.unproven);
                unproven += usize::from(image.restorable && image.unproven);
                table.row([
                    image.id.display().into_owned(),
                    describe(image),
                    bytes(image.bytes()),
                    restorable(image),
                ]);
            }
            let images = count(set.images.len() as u64, "image");
            text.push_str(&format!("\n\n{} set with {images}\n", format_name(set)));
            text.push_str(&table.render());
        }
        if !chains.problems.is_empty() {
            text.push('\n');
        }
        for problem in &chains.problems {
            text.push_str(&format!(
                "\nproblem: {}: {}",
                clean(&problem.image.display()),
                clean(&problem.what)
            ));
        }
        if verbose {
            for other in &chains.others {
                text.push_str(&format!(
                    "\nother: {}: {}",
                    clean(&other.file.path.display()),
                    clean(&other.reason)
                ));
            }
        }
        let others = match chains.others.len() {
            0 => String::new(),
            n => format!("; {}", count(n as u64, "other file")),
        };
        let doubt = match unproven {
            0 => String::new(),
            n => format!(", {n} more only if what nothing proves is genuine (unproven)"),
        };
        text.push_str(&format!(
            "\n\n{}, {}, {good} of them restorable{doubt}{others}",
            count(chains.sets.len() as u64, "image set"),
            count(points, "restore point")
        ));
        text
    });
    parts.collect::<Vec<_>>().join("\n\n")
}

fn describe(image: &Image) -> String {
    match image.span.filter(|span| span.first < span.last) {
        Some(span) => format!("{}, holds {} to {}", kind(image), span.first, span.last),
        None => kind(image).to_owned(),
    }
}

fn restorable(image: &Image) -> String {
    match (image.restorable, image.unproven, &image.missing) {
        (true, false, _) => "yes".to_owned(),
        (true, true, _) => "unproven: restorable only if what lies there is genuine".to_owned(),
        (false, _, Some(missing)) => format!("no: {missing}"),
        (false, _, None) => "no".to_owned(),
    }
}
