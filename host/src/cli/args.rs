//! The command line as typed: the clap tree. What it means is decided in the commands' own files.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::plugin::PluginCommand;
use crate::config::adhoc::Flags;

#[derive(Debug, Parser)]
#[command(
    name = "offsite",
    version,
    about = "Replicates disk-backup image chains to offsite storage",
    after_help = crate::report::exit::HELP,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The configuration file [default: ./offsite.toml, the user's, /etc/offsite/offsite.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where catalogs, locks and run records are kept [default: the user's state directory; /var/lib/offsite for root]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// A further directory with plugins, searched first; may be repeated
    #[arg(long, global = true, value_name = "DIR")]
    pub plugin_dir: Vec<PathBuf>,
    /// Say more; errors in full
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replicate: scan the source, plan, transfer, verify, publish
    Run(RunArgs),
    /// Show what a run would do, and why; changes nothing
    Plan(JobArgs),
    /// Show image sets and restore points of the source or of a target
    Chains(ChainsArgs),
    /// Prove each target's credentials and every operation a run needs
    Check(CheckArgs),
    /// Show running jobs, last runs, the age of the last success, what is staged
    Status(StatusArgs),
    /// The configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The plugins that were found
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// A target's claim, and its consolidated images
    #[command(subcommand)]
    Target(TargetCommand),
    /// What is mounted in a job's source
    #[command(subcommand)]
    Source(SourceCommand),
    /// Started by offsite itself
    #[command(hide = true)]
    Worker(WorkerArgs),
}

/// Which jobs: those of the file, or one from the line.
#[derive(Clone, Debug, Default, Args)]
pub struct JobArgs {
    /// Jobs of the configuration file [default: all]
    #[arg(value_name = "JOB", conflicts_with_all = ["source", "to"])]
    pub jobs: Vec<String>,
    #[command(flatten)]
    pub line: LineArgs,
}

/// A job on the line, and what the line changes for this time.
#[derive(Clone, Debug, Default, Args)]
pub struct LineArgs {
    /// Replicate this directory, without a configuration file
    #[arg(long, value_name = "DIR", help_heading = "A job on the line")]
    pub source: Option<PathBuf>,
    /// A target's path or URL; one to three
    #[arg(long, value_name = "URL", requires = "source", help_heading = "A job on the line")]
    pub to: Vec<String>,
    /// The job's name, under which its state is kept [default: from the source's path]
    #[arg(long, requires = "source", help_heading = "A job on the line")]
    pub name: Option<String>,
    /// Where a secret comes from: NAME=env:VARIABLE, NAME=file:PATH or NAME=command:PROGRAM …
    #[arg(long, value_name = "NAME=FROM", requires = "source", help_heading = "A job on the line")]
    pub credential: Vec<String>,
    /// One of the plugin's own options
    #[arg(long, value_name = "KEY=VALUE", requires = "source", help_heading = "A job on the line")]
    pub option: Vec<String>,
    /// Attempts in all
    #[arg(long, value_name = "N", requires = "source", help_heading = "A job on the line")]
    pub attempts: Option<u32>,
    /// Before the second attempt; doubles from then on
    #[arg(long, value_name = "TIME", requires = "source", help_heading = "A job on the line")]
    pub first_wait: Option<String>,
    /// low, normal or high
    #[arg(long, requires = "source", help_heading = "A job on the line")]
    pub priority: Option<String>,
    /// Transfers at once
    #[arg(long, value_name = "N", requires = "source", help_heading = "A job on the line")]
    pub streams: Option<u32>,
    /// auto, size, sampled, digest or read-back
    #[arg(long, value_name = "LEVEL", requires = "source", help_heading = "A job on the line")]
    pub verify: Option<String>,
    /// Mirror the source, deletions included
    #[arg(long, requires = "source", help_heading = "A job on the line")]
    pub sync: bool,
    /// Only images of this kind: base, incremental, differential
    #[arg(long, requires = "source", help_heading = "A job on the line")]
    pub kind: Vec<String>,
    /// Only images of this format
    #[arg(long, requires = "source", help_heading = "A job on the line")]
    pub format: Vec<String>,
    /// Only images whose path matches
    #[arg(long, value_name = "GLOB", requires = "source", help_heading = "A job on the line")]
    pub include: Vec<String>,
    /// No images whose path matches
    #[arg(long, value_name = "GLOB", requires = "source", help_heading = "A job on the line")]
    pub exclude: Vec<String>,
    /// new-images or new-sets
    #[arg(long, requires = "source", help_heading = "A job on the line")]
    pub policy: Option<String>,
    /// Replicate into this sub-folder: a template with {job}, {host}, {set}, {date}
    #[arg(long, value_name = "TEMPLATE", requires = "source", help_heading = "A job on the line")]
    pub subfolder: Option<String>,
    /// Above this share of images nothing is deleted
    #[arg(long, value_name = "SHARE", requires = "source", help_heading = "A job on the line")]
    pub max_delete: Option<String>,
    /// Take a consolidation for proven that only the catalog supports
    #[arg(long, requires = "source", help_heading = "A job on the line")]
    pub accept_unproven: bool,
    /// How long a file must not change before it is taken for finished [default: 30 s]
    #[arg(long, value_name = "SECONDS")]
    pub settle: Option<String>,
    /// Bytes a second for each target, such as 80MiB
    #[arg(long, value_name = "RATE")]
    pub bandwidth: Option<String>,
    /// How long what would be deleted stays, such as 7d
    #[arg(long, value_name = "TIME", requires = "source", help_heading = "A job on the line")]
    pub delete_after: Option<String>,
    /// Delete even above max_delete, this time
    #[arg(long)]
    pub allow_deletes: bool,
    /// Delete old sets before the new ones are copied, to make room; with =last also the last restorable set
    #[arg(long, value_name = "last", num_args = 0..=1, require_equals = true, default_missing_value = "proved",
          value_parser = ["proved", "last"], hide_possible_values = true)]
    pub delete_first: Option<String>,
    /// Replicate files that no format knows as well
    #[arg(long)]
    pub include_other: bool,
    /// Leave alone what matches, without a word; may be repeated. What a target has of it stays there
    #[arg(long, value_name = "GLOB")]
    pub ignore: Vec<String>,
}

impl LineArgs {
    /// The flags of a job on the line.
    pub fn flags(&self) -> Option<Flags> {
        let a = self.clone();
        Some(Flags {
            name: a.name,
            source: a.source?,
            to: a.to,
            settle: a.settle,
            credentials: a.credential,
            options: a.option,
            attempts: a.attempts,
            first_wait: a.first_wait,
            priority: a.priority,
            streams: a.streams,
            bandwidth: a.bandwidth,
            verify: a.verify,
            sync: a.sync,
            kinds: a.kind,
            formats: a.format,
            include: a.include,
            exclude: a.exclude,
            policy: a.policy,
            subfolder: a.subfolder,
            max_delete: a.max_delete,
            delete_after: a.delete_after,
            accept_unproven: a.accept_unproven,
            include_other: a.include_other,
            ignore: a.ignore,
        })
    }
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub job: JobArgs,
}

#[derive(Clone, Debug, Args)]
pub struct ChainsArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Show what is on this target instead of the source
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Only this target
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Exit with 1 when a target's last success is older, or some set lags for longer, such as 26h
    #[arg(long, value_name = "TIME")]
    pub max_age: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show everything that is wrong with it, each with file, line and key
    Validate,
}

#[derive(Clone, Debug, Subcommand)]
pub enum TargetCommand {
    /// Claim a target that another installation or job claimed
    TakeOver(TargetArgs),
    /// Accept images that nothing but your word proves: unproven consolidations, what an unsigned manifest says, an
    /// ancestor that is another one
    Accept(AcceptArgs),
    /// Show which deletions were held, and allow exactly these
    AllowDeletes(AllowDeletesArgs),
    /// Export or import the key that signs the target's manifests
    Key(KeyArgs),
}

#[derive(Clone, Debug, Subcommand)]
pub enum SourceCommand {
    /// Take what is mounted there now for what belongs there: another disk, or none
    Accept(SourceArgs),
}

#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// The folder of the source, absolute or relative to the source; '.' is the source itself
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// The job of the configuration file, where it has several
    #[arg(long = "job", value_name = "JOB", conflicts_with = "source")]
    pub job: Option<String>,
    /// As `run` takes them; --source is enough
    #[command(flatten)]
    pub line: LineArgs,
}

#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// The target's name, where the job has several
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct AcceptArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Only this image; may be repeated [default: all that are unproven]
    #[arg(long, value_name = "PATH")]
    pub image: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct AllowDeletesArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Allow the deletion of this image; may be repeated
    #[arg(long, value_name = "PATH")]
    pub image: Vec<String>,
    /// Allow all that is held now
    #[arg(long, conflicts_with = "image")]
    pub all: bool,
}

#[derive(Clone, Debug, Args)]
pub struct KeyArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Write the key to this new file, readable by its owner alone: keep it where the local state is not
    #[arg(long, value_name = "FILE", required_unless_present = "import", conflicts_with = "import")]
    pub export: Option<PathBuf>,
    /// Take the key from this file, in place of the one that is kept
    #[arg(long, value_name = "FILE")]
    pub import: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// Where events are written
    #[arg(long, value_name = "N", required_unless_present = "look")]
    pub events_fd: Option<u32>,
    /// Say where this path really is, and end
    #[arg(long, value_name = "PATH")]
    pub look: Option<PathBuf>,
}
