//! Options that contradict each other are refused before anything runs, with the reason.

use super::{Options, policy};
use crate::error::{Error, Kind, Result};

/// Errors: [`Kind::Config`] for sync together with filter, policy or sub-folder (a mirror that leaves images out would
/// delete what it was told not to look at), a share that is none, a glob or a template that cannot be read.
pub fn validate(options: &Options) -> Result<()> {
    let config = |what: &str| Error::new(Kind::Config, what);
    if options.sync {
        let beside = |what: &str| {
            config(&format!("sync cannot be combined with {what}"))
                .because("sync mirrors the source as it is, deletions included")
                .hint(format!("remove either `sync` or `{what}` from this target"))
        };
        if options.filter != super::Filter::default() {
            return Err(beside("filter"));
        }
        if options.policy.is_some() {
            return Err(beside("policy"));
        }
        if options.subfolder.is_some() {
            return Err(beside("subfolder"));
        }
    }
    if !(0.0..=1.0).contains(&options.max_delete) {
        return Err(config("max_delete is no share of images")
            .on(options.max_delete.to_string())
            .hint("use a number from 0 to 1, for example 0.25 for a quarter"));
    }
    super::filter::Matcher::new(&options.filter)?;
    if let Some(template) = &options.subfolder {
        policy::Template::parse(template)?;
    }
    Ok(())
}
