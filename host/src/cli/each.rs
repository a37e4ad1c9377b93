//! One operation on every target meant, side by side, the answers in order.

use std::rc::Rc;

use crate::config::{Job, Target, resolve};
use crate::error::{Error, Kind, Result};
use crate::run::protocol::{Answer, Op};
use crate::run::supervisor::Context;

/// One target's answer.
pub struct Asked {
    pub job: String,
    pub target: Target,
    pub answer: Result<Answer>,
}

/// `with_inventory`: the operation needs to know the source, which is looked at once per job without remembering
/// anything. `only`: the one target's name.
pub async fn ask(
    context: &Rc<Context>,
    jobs: Vec<Job>,
    op: Op,
    with_inventory: bool,
    only: Option<String>,
) -> Vec<Asked> {
    let mut tasks = Vec::new();
    for job in jobs {
        let (context, op, only) = (Rc::clone(context), op.clone(), only.clone());
        tasks.push(tokio::task::spawn_local(
            async move { ask_job(context, job, op, with_inventory, only).await },
        ));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap_or_default());
    }
    all
}

async fn ask_job(
    context: Rc<Context>,
    job: Job,
    op: Op,
    with_inventory: bool,
    only: Option<String>,
) -> Vec<Asked> {
    let mut refused = Ok(vec![None; job.targets.len()]);
    let mut seen = None;
    if with_inventory {
        refused = crate::run::places::refuse(&job).await;
        if refused.is_ok() {
            let (known, scanned) =
                tokio::join!(crate::run::identity::refuse(&context, &job), context.scan(&job, true));
            if let Err(error) = known {
                refused = Err(error);
            }
            seen = Some(scanned);
        }
    }
    let refused = match (&refused, &seen) {
        (Err(error), _) | (_, Some(Err(error))) => vec![Some(error.clone()); job.targets.len()],
        (Ok(refused), _) => refused.clone(),
    };
    let inventory = seen.as_ref().and_then(|s| s.as_ref().ok()).map(|(_, path)| path.clone());
    let mut tasks = Vec::new();
    for (target, refused) in job.targets.iter().cloned().zip(refused) {
        if only.as_ref().is_some_and(|name| !super::session::is_target(&target, name)) {
            continue;
        }
        let (context, job, op, inventory) = (Rc::clone(&context), job.clone(), op.clone(), inventory.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let answer = match refused {
                Some(error) => Err(error),
                None => one(&context, &job, &target, op, inventory).await,
            };
            Asked { job: job.name, target, answer }
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        if let Ok(asked) = task.await {
            all.push(asked);
        }
    }
    all
}

/// One operation on one target.
pub async fn one(
    context: &Context,
    job: &Job,
    target: &Target,
    op: Op,
    inventory: Option<std::path::PathBuf>,
) -> Result<Answer> {
    let mut request = context.request(op, Context::only(job, target), inventory);
    request.secrets = resolve::secrets(target).await?;
    context.ask(&request, &format!("offsite: {}/{}", job.name, target.name)).await
}

/// For an answer that does not belong to its question.
pub fn odd() -> Error {
    Error::new(Kind::WorkerDied, "the worker answered something else")
}
