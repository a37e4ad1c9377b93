//! Which targets of a job are one place under two URLs, or lie within each other, as their own backends name the place.
//!
//! Folders are compared by device and inode ([`super::places`]); what is behind a server only its plugin can name, and it
//! does so from URL and options, without the network. A plugin runs in a worker and may hang or crash there: the time is
//! bounded, and what could not be learned is not compared; the claim marker then keeps two writers off one target.

use std::rc::Rc;
use std::time::Duration;

use super::protocol::{Answer, Op, SecretValues};
use super::supervisor::Context;
use crate::config::{Job, Target, resolve, url};
use crate::error::{Error, Kind, Result};

fn limit() -> Duration {
    super::attend::patience().min(Duration::from_secs(15))
}

/// What is known of one target before it is used.
#[derive(Clone, Debug, Default)]
pub struct Known {
    identity: Option<String>,
    /// What its secrets were resolved to on the way: not asked for twice.
    pub secrets: Option<SecretValues>,
}

/// Asks every target whose place only its plugin knows, where there are two or more of them. Changes nothing.
/// Errors: `Config` when two targets of the job are one place, or one lies within another.
pub async fn refuse(context: &Rc<Context>, job: &Job) -> Result<Vec<Known>> {
    let remote = |target: &Target| url::local_path(&target.url).is_none();
    if job.targets.iter().filter(|t| remote(t)).count() < 2 {
        return Ok(vec![Known::default(); job.targets.len()]);
    }
    let mut asked = Vec::new();
    for target in &job.targets {
        let (context, only) = (Rc::clone(context), Context::only(job, target));
        let remote = remote(target);
        asked.push(tokio::task::spawn_local(async move {
            let mut known = Known::default();
            if remote {
                // What was learned when the time is over stays.
                let _ = tokio::time::timeout(limit(), learn(&context, only, &mut known)).await;
            }
            known
        }));
    }
    let mut all = Vec::new();
    for one in asked {
        all.push(one.await.unwrap_or_default());
    }
    compare(job, &all)?;
    Ok(all)
}

async fn learn(context: &Context, mut only: Job, known: &mut Known) {
    let title = format!("offsite: {}/{}", only.name, only.targets[0].name);
    let Ok(secrets) = resolve::secrets(&only.targets[0]).await else { return };
    known.secrets = Some(secrets.clone());
    // Whatever is wrong with it, its own worker tells, with all the attempts that it has.
    only.targets[0].retry.attempts = 1;
    let mut request = context.request(Op::Identity, only, None);
    request.secrets = secrets;
    if let Ok(Answer::Identity { identity }) = context.ask(&request, &title).await {
        known.identity = Some(identity);
    }
}

fn compare(job: &Job, all: &[Known]) -> Result<()> {
    for (index, known) in all.iter().enumerate() {
        for (other, earlier) in all[..index].iter().enumerate() {
            let (Some(a), Some(b)) = (&known.identity, &earlier.identity) else { continue };
            if let Some(what) = relation(a, b) {
                let (target, other) = (&job.targets[index], &job.targets[other]);
                let what = format!("the target '{}' is {what} the target '{}'", target.name, other.name);
                return Err(Error::new(Kind::Config, what)
                    .on(format!("{} and {}", target.url, other.url))
                    .hint("give each target a folder of its own; nothing was touched"));
            }
        }
    }
    Ok(())
}

/// `a` seen from `b`. An identity ends with the root path.
fn relation(a: &str, b: &str) -> Option<&'static str> {
    let (a, b) = (a.trim_end_matches('/'), b.trim_end_matches('/'));
    let within = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
    match () {
        () if a == b => Some("the same place as"),
        () if within(a, b) => Some("inside"),
        () if within(b, a) => Some("around"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_compared_by_their_paths() {
        for (a, b, what) in [
            ("sftp://me@nas:22/backup", "sftp://me@nas:22/backup", Some("the same place as")),
            ("s3://aws/bucket/", "s3://aws/bucket", Some("the same place as")),
            ("s3://aws/bucket/a", "s3://aws/bucket/", Some("inside")),
            ("sftp://me@nas:22/backup", "sftp://me@nas:22/backup/a", Some("around")),
            ("s3://aws/bucket", "s3://aws/bucket2", None),
            ("sftp://me@nas:22/backup", "sftp://me@nas:2222/backup", None),
        ] {
            assert_eq!(relation(a, b), what, "{a} {b}");
        }
    }
}
