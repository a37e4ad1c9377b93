//! What a worker does beside running: plan, check, chains (none of which changes anything or needs the lock), taking a
//! target over, accepting spans.

use std::sync::Arc;

use offsite_plugin_api::TargetPath;

use super::call::{LONG, Line, SHORT};
use super::context::retried;
use super::open::{Answers, Open, open};
use super::protocol::{Answer, Op, Request};
use super::replicate::{input, inventory, look, names, who};
use super::verify;
use crate::chain::{Knowledge, assemble};
use crate::config::Target;
use crate::error::{Error, Kind, Result};
use crate::plan::{self, Input};
use crate::target::{self, Site, Survey, marker};

pub fn answer(request: &Request, line: &Line, answers: &Arc<Answers>) -> Result<Answer> {
    let target = request.target()?;
    let writes = matches!(request.op, Op::TakeOver | Op::Accept { .. } | Op::AllowDeletes { .. });
    let open = open(request, line, answers, writes)?;
    let answer = match &request.op {
        Op::Plan => plan(request, target, &open),
        Op::Check => check(request, target, &open),
        Op::Chains => {
            let (survey, _) = surveyed(request, target, &open)?;
            Ok(Answer::Chains { open: survey.view.open.clone(), chains: survey.view.into_chains() })
        }
        Op::Identity => Ok(Answer::Identity { identity: open.backend.identity() }),
        Op::TakeOver => take_over(request, target, &open),
        Op::Accept { images } => accept(request, target, &open, images),
        Op::AllowDeletes { images, all } => allow_deletes(&open, images, *all),
        Op::Run | Op::Scan | Op::Look | Op::AcceptSource { .. } => {
            Err(Error::new(Kind::Usage, "this operation is none that only answers")
                .on(format!("{:?}", request.op)))
        }
    };
    open.backend.close(std::time::Duration::from_secs(2));
    answer
}

fn surveyed(
    request: &Request,
    target: &Target,
    open: &Open,
) -> Result<(Survey, offsite_plugin_api::Capabilities)> {
    let capabilities = open.capabilities(target.retry)?;
    let survey = retried(&open.line, target.retry, None, &|| 0, || {
        look(&*open.backend, &open.catalog, &capabilities, &open.line, &request.installation)
    })?;
    Ok((survey, capabilities))
}

fn plan(request: &Request, target: &Target, open: &Open) -> Result<Answer> {
    plan::validate(&target.plan)?;
    let inventory = inventory(request)?;
    let capabilities = open.capabilities(target.retry)?;
    target::replaceable(&capabilities)?;
    verify::choose(target.verify, &capabilities)?;
    retried(&open.line, target.retry, None, &|| 0, || {
        let call = open.line.call(Some(SHORT));
        let site = Site {
            backend: &*open.backend,
            catalog: &open.catalog,
            capabilities: &capabilities,
            call: &call,
            installation: &request.installation,
        };
        marker::verify(&site, &who(request, target)).map(|_| ())
    })?;
    let (survey, capabilities) = surveyed(request, target, open)?;
    let source = assemble(&inventory.members(), &Knowledge::default());
    let baseline = match target.plan.policy {
        Some(policy) => target::baseline(&open.catalog, &survey.learned, policy)?,
        None => None,
    };
    let names = names(request);
    let input = input(target, &inventory, &source, &survey, baseline.as_ref(), &capabilities);
    let plan = plan::plan(&Input { names: &names, ..input });
    Ok(Answer::Plan { open: survey.view.open.clone(), plan })
}

fn check(request: &Request, target: &Target, open: &Open) -> Result<Answer> {
    let line = &open.line;
    let report =
        retried(line, target.retry, None, &|| 0, || Ok(open.backend.check(&line.call(Some(LONG)))?))?;
    // What a target that failed its check cannot tell is left out.
    let passed = report.passed();
    let call = line.call(Some(SHORT));
    let capabilities = open.backend.capabilities(&call).ok();
    let space = open.backend.space(&call).ok().filter(|_| passed);
    let claim = marker::examine(&*open.backend, &call, &request.installation, &who(request, target));
    Ok(Answer::Check {
        identity: open.backend.identity(),
        report,
        capabilities: capabilities.map(Box::new),
        space,
        claim: claim.ok().map(|c| c.words()),
    })
}

fn take_over(request: &Request, target: &Target, open: &Open) -> Result<Answer> {
    let capabilities = open.capabilities(target.retry)?;
    let what = retried(&open.line, target.retry, None, &|| 0, || {
        let call = open.line.call(Some(LONG));
        let site = Site {
            backend: &*open.backend,
            catalog: &open.catalog,
            capabilities: &capabilities,
            call: &call,
            installation: &request.installation,
        };
        marker::take_over(&site, &who(request, target))
    })?;
    Ok(Answer::Done { what })
}

fn accept(request: &Request, target: &Target, open: &Open, images: &[TargetPath]) -> Result<Answer> {
    let capabilities = open.capabilities(target.retry)?;
    let images = retried(&open.line, target.retry, None, &|| 0, || {
        let call = open.line.call(Some(LONG));
        let site = Site {
            backend: &*open.backend,
            catalog: &open.catalog,
            capabilities: &capabilities,
            call: &call,
            installation: &request.installation,
        };
        target::accept(&site, images)
    })?;
    Ok(Answer::Accepted { images })
}

/// Decided from what the last run held: exactly that was shown to the user.
fn allow_deletes(open: &Open, images: &[TargetPath], all: bool) -> Result<Answer> {
    let mut held = open.catalog.pending_deletes()?.held;
    if let Some(other) = images.iter().find(|image| !held.contains_key(*image)) {
        return Err(Error::new(Kind::Usage, "no deletion of this image is held")
            .on(other.display())
            .hint("'offsite target allow-deletes' without --image shows what the last run held"));
    }
    let allowed = if all { held.keys().cloned().collect() } else { images.to_vec() };
    open.catalog.allow_deletes(&allowed)?;
    held.retain(|path, _| !allowed.contains(path));
    Ok(Answer::HeldDeletes {
        held: held.into_iter().map(|(path, bound)| (path, bound.size)).collect(),
        allowed,
    })
}
