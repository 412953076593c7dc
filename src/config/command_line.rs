//! The command line and its help, made from the table.
//!
//! Flags carry plain text: what they may say is checked with the variables, so that all problems are found together.
//! It must never hold a flag or a line of help that the table does not.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::{
    SETTINGS,
    setting::{Only, Setting},
};

/// The `relay` command.
pub(super) fn command() -> Command {
    Command::new("relay")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .args(flags(Only::Serve))
        .after_long_help(settings(None))
        .after_help("All settings: relay --help")
        .subcommands([
            Command::new("serve")
                .about("Runs one pod; what relay does alone")
                .args(flags(Only::Serve))
                .after_long_help(settings(Some(Only::Serve))),
            Command::new("cluster")
                .about("Runs several pods in this process, on neighbouring ports")
                .long_about(
                    "Runs several pods in this process, on neighbouring ports: on the emulator of\n\
                     PUBSUB_EMULATOR_HOST, else on one that it finds and starts, else in memory.",
                )
                .args(flags(Only::Cluster))
                .after_long_help(settings(Some(Only::Cluster))),
            Command::new("schema").about("Prints the GraphQL schema"),
            Command::new("healthcheck")
                .about("Asks the pod of this environment whether it lives; exits with 0 or 1"),
        ])
}

/// The settings of a command (`None`: of all), by concern.
fn of(command: Option<Only>) -> impl Iterator<Item = (&'static str, Vec<&'static Setting>)> {
    let is_of =
        move |setting: &&Setting| command.is_none() || setting.only.is_none() || setting.only == command;
    SETTINGS
        .iter()
        .map(move |concern| {
            (concern.title, concern.settings.iter().copied().filter(is_of).collect::<Vec<_>>())
        })
        .filter(|(_, settings)| !settings.is_empty())
}

fn flags(command: Only) -> impl Iterator<Item = Arg> {
    of(Some(command)).flat_map(|(_, settings)| settings).filter_map(|setting| {
        let flag = setting.flag?;
        Some(Arg::new(flag).long(flag).value_name("VALUE").help(setting.meaning))
    })
}

/// What `--help` says of every setting.
fn settings(command: Option<Only>) -> String {
    let mut text =
        "Settings. A flag wins over its variable; an empty variable counts as not set.\n".to_owned();
    for (title, settings) in of(command) {
        let _ = write!(text, "\n{title}:\n");
        for setting in settings {
            let only = match (command, setting.only) {
                (None, Some(Only::Serve)) => "serve only; ",
                (None, Some(Only::Cluster)) => "cluster only; ",
                _ => "",
            };
            let _ = write!(
                text,
                "  {setting}\n      {}\n      [{only}default: {}; values: {}]\n",
                setting.meaning, setting.fallback, setting.values
            );
        }
    }
    text
}
