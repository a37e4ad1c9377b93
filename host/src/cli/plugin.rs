//! `offsite plugin list` and `offsite plugin info`: what was found, what is used, and why the rest is not. Loads nothing.

use clap::Subcommand;

use super::args::Global;
use super::session;
use crate::plugin::{self, PluginStatus, Registry};
use crate::report::exit::Exit;
use crate::report::{self, line};

#[derive(Clone, Debug, Subcommand)]
pub enum PluginCommand {
    /// List what was found in the plugin directories, and what is not used and why
    List,
    /// Show one plugin and its options
    Info {
        /// A plugin's name, or a file
        #[arg(value_name = "NAME|FILE")]
        plugin: String,
    },
}

pub fn main(global: &Global, command: &PluginCommand) -> Exit {
    let registry = Registry::discover(&global.plugin_dir);
    match command {
        PluginCommand::List => {
            let (rows, directories) = (plugin::list(&registry), plugin::directories(&registry));
            let show = if global.json { report::plugins_json } else { report::plugins_text };
            line(&show(&rows, &directories));
            Exit::Done
        }
        PluginCommand::Info { plugin: name } => match plugin::info(&registry, name) {
            Ok(row) => {
                line(&if global.json { report::plugin_json(&row) } else { report::plugin_text(&row) });
                // A script that asks about a file wants to know whether it can be used.
                if row.status == PluginStatus::Refused { Exit::Failed } else { Exit::Done }
            }
            Err(error) => session::fail(global, &error),
        },
    }
}
