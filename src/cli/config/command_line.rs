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
            Command::new("doctor")
                .about("Checks what a deploy gets wrong, and says what to do; exits with 0 or 1")
                .long_about(
                    "Checks what a deploy gets wrong, with the settings of serve: one line for each check, ok, WRONG\n\
                     (with the cure) or skipped (with the reason). Exits with 0 if nothing is wrong, else with 1.",
                )
                .args(flags(Only::Doctor))
                .after_long_help(settings(Some(Only::Doctor))),
            Command::new("schema").about("Prints the GraphQL schema"),
            Command::new("healthcheck")
                .about("Asks the pod of this environment whether it lives; exits with 0 or 1"),
        ])
}

/// The settings of a command (`None`: of all), by concern.
fn of(command: Option<Only>) -> impl Iterator<Item = (&'static str, Vec<&'static Setting>)> {
    let is_of = move |setting: &&Setting| match (command, setting.only) {
        (None, _) | (_, None) | (Some(Only::Doctor), Some(Only::Serve)) => true,
        (command, only) => command == only,
    };
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
                (None, Some(Only::Serve)) => "serve and doctor only; ",
                (None, Some(Only::Cluster)) => "cluster only; ",
                (None, Some(Only::Doctor)) => "doctor only; ",
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
