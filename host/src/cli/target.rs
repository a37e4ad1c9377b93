//! `offsite target take-over|accept|allow-deletes|key`: what a user decides about a target.

use offsite_plugin_api::TargetPath;

use super::args::{Global, KeyArgs, TargetArgs, TargetCommand};
use super::each;
use super::session;
use crate::config::MANIFEST_KEY;
use crate::error::{Error, Kind, Result};
use crate::report::exit::{self, Exit};
use crate::report::{self, Quiet};
use crate::run::protocol::{Answer, Op};
use crate::target::manifest::key;

pub fn main(global: &Global, command: &TargetCommand) -> Exit {
    match command {
        TargetCommand::TakeOver(args) => ask(global, args, Op::TakeOver),
        TargetCommand::Accept(args) => match images(&args.image) {
            Ok(images) => ask(global, &args.target, Op::Accept { images }),
            Err(error) => session::fail(global, &error),
        },
        TargetCommand::AllowDeletes(args) => match images(&args.image) {
            Ok(images) => ask(global, &args.target, Op::AllowDeletes { images, all: args.all }),
            Err(error) => session::fail(global, &error),
        },
        TargetCommand::Key(args) => key(global, args),
    }
}

/// The key is a file beside the catalog: no worker is needed, and no target reached.
fn key(global: &Global, args: &KeyArgs) -> Exit {
    let jobs = match session::jobs_or_exit(global, &args.target.job) {
        Ok(jobs) => jobs,
        Err(exit) => return exit,
    };
    let done = session::one_target(&jobs, args.target.target.as_deref()).and_then(|(job, target)| {
        let kept = key::key_path(&session::state_dir(global), &job.name, &target.name);
        if target.secrets.contains_key(MANIFEST_KEY) {
            return Err(Error::new(Kind::Usage, "this target's key is the configuration's 'manifest_key'")
                .on(target.name.clone())
                .hint("keep that secret; there is no key of offsite's own to export or import"));
        }
        match (&args.export, &args.import) {
            (_, Some(from)) => key::import(from, &kept)
                .map(|()| format!("the key of '{}' is taken from {}", target.name, from.display())),
            (Some(to), None) => key::export(&kept, to)
                .map(|()| format!("the key of '{}' is in {}", target.name, to.display())),
            (None, None) => Err(Error::new(Kind::Usage, "say --export FILE or --import FILE")),
        }
    });
    match done {
        Ok(what) if global.json => report::line(&serde_json::json!({ "done": what }).to_string()),
        Ok(what) => report::line(&what),
        Err(error) => return session::fail(global, &error),
    }
    Exit::Done
}

fn images(texts: &[String]) -> Result<Vec<TargetPath>> {
    let path = |text: &String| {
        TargetPath::new(text.as_bytes()).map_err(|e| {
            Error::new(Kind::Usage, "--image is no path on a target").on(text.clone()).because(e)
        })
    };
    texts.iter().map(path).collect()
}

fn ask(global: &Global, args: &TargetArgs, op: Op) -> Exit {
    let jobs = match session::jobs_or_exit(global, &args.job) {
        Ok(jobs) => jobs,
        Err(exit) => return exit,
    };
    let (job, target) = match session::one_target(&jobs, args.target.as_deref()) {
        Ok((job, target)) => (job.clone(), target.clone()),
        Err(error) => return session::fail(global, &error),
    };
    let global_ = global.clone();
    let reporter = Box::new(Quiet::new(global.verbose));
    session::with_context(global, &jobs, reporter, move |context| async move {
        match each::one(&context, &job, &target, op, None).await {
            Ok(Answer::Done { what }) if global_.json => {
                report::line(&serde_json::json!({ "done": what }).to_string())
            }
            Ok(Answer::Done { what }) => report::line(&what),
            Ok(Answer::Accepted { images }) => accepted(&global_, &images),
            Ok(Answer::HeldDeletes { held, allowed }) => held_deletes(&global_, &held, &allowed),
            Ok(_) => return session::fail(&global_, &each::odd()),
            Err(error) => {
                report::error(&error, global_.verbose);
                return exit::of_error(&error);
            }
        }
        Exit::Done
    })
}

fn accepted(global: &Global, images: &[TargetPath]) {
    let names: Vec<_> = images.iter().map(|image| image.display()).collect();
    if global.json {
        report::line(&serde_json::json!({ "accepted": names }).to_string());
    } else if names.is_empty() {
        report::line("no image is unproven: nothing to accept");
    } else {
        report::line(&format!("accepted: {}", names.join(", ")));
    }
}

fn held_deletes(global: &Global, held: &[(TargetPath, u64)], allowed: &[TargetPath]) {
    let names = |paths: &mut dyn Iterator<Item = &TargetPath>| -> Vec<String> {
        paths.map(|path| path.display().into_owned()).collect()
    };
    let allowed = names(&mut allowed.iter());
    if global.json {
        let held: Vec<_> = held
            .iter()
            .map(|(path, bytes)| serde_json::json!({ "image": path.display(), "bytes": bytes }))
            .collect();
        return report::line(&serde_json::json!({ "held": held, "allowed": allowed }).to_string());
    }
    for image in &allowed {
        report::line(&format!("allowed: {image} (the next run deletes it, unless it changes or comes back)"));
    }
    for (path, bytes) in held {
        report::line(&format!("held: {} ({})", path.display(), report::bytes(*bytes)));
    }
    if held.is_empty() && allowed.is_empty() {
        report::line("the last run held no deletion");
    } else if allowed.is_empty() {
        report::line("--all allows the deletion of all of these, --image PATH of one");
    }
}
