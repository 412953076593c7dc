//! Builds the command line and its help from the table.
//!
//! Flags take any text. Their values are checked together with the variables, so that all problems
//! are reported at once. It must never offer a setting that the table does not have.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

use super::{
    SETTINGS,
    setting::{Only, Setting},
};

/// Flag of the schema file.
const SCHEMA: &str = "schema";

/// Returns the `relay` command.
pub(super) fn command() -> Command {
    Command::new("relay")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .args_conflicts_with_subcommands(true)
        .args(flags(Only::Serve))
        .after_long_help(settings_help(None))
        .after_help("All settings: relay --help")
        .subcommands([
            Command::new("serve")
                .about("Runs one pod; the default command")
                .args(flags(Only::Serve))
                .after_long_help(settings_help(Some(Only::Serve))),
            Command::new("cluster")
                .about("Runs several pods in this process, on neighbouring ports")
                .long_about(
                    "Runs several pods in this process, on neighbouring ports. Their broker is the emulator at\n\
                     PUBSUB_EMULATOR_HOST, else an emulator that it finds and starts, else memory. With\n\
                     --broker postgres: it is a PostgreSQL server that starts and stops with the pods, with\n\
                     --broker rabbitmq: the RabbitMQ server of this machine.",
                )
                .args(flags(Only::Cluster))
                .after_long_help(settings_help(Some(Only::Cluster))),
            Command::new("doctor")
                .about("Checks a deployment and prints cures; exits with 0 or 1")
                .long_about(
                    "Checks a deployment with the settings of serve. Prints one line for each check: ok, WRONG\n\
                     (with the cure) or skipped (with the reason). Exits with 0 if nothing is wrong, else with 1.",
                )
                .args(flags(Only::Doctor))
                .after_long_help(settings_help(Some(Only::Doctor))),
            schema(),
            check(),
            Command::new("healthcheck")
                .about("Checks that the pod of this environment is alive; exits with 0 or 1"),
        ])
        .subcommands(clients())
}

/// Returns the `relay schema` command.
fn schema() -> Command {
    Command::new("schema")
        .about("Prints the GraphQL schema that clients see")
        .arg(
            Arg::new(SCHEMA)
                .long(SCHEMA)
                .value_name("VALUE")
                .help("The schema file, instead of RELAY_SCHEMA"),
        )
        .arg(
            Arg::new("directives")
                .long("directives")
                .action(ArgAction::SetTrue)
                .help("Prints the directives of schema files instead"),
        )
        .arg(
            Arg::new("postgres")
                .long("postgres")
                .action(ArgAction::SetTrue)
                .conflicts_with("directives")
                .help("Prints the SQL script of the topic's tables instead; RELAY_BROKER names the topic"),
        )
}

/// Returns a flag with a value.
fn value(name: &'static str, of: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(of).help(help)
}

/// Returns the flags of commands that are clients of a pod.
fn client() -> [Arg; 5] {
    [
        value("as", "USER", "A demo user, or the claims of one as JSON")
            .required_unless_present("token-file"),
        value("token-file", "FILE", "A file with the user's token").conflicts_with("as"),
        value("url", "URL", "The pod, such as localhost:3000 or wss://relay.example.com/graphql")
            .default_value("localhost:3000"),
        value("document", "FILE", "A file with the GraphQL document"),
        value("variables", "JSON", "The document's variables: JSON that begins with {, or a file"),
    ]
}

/// Returns the completions of this shell.
pub(super) fn completions(shell: clap_complete::Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command(), "relay", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Returns the command that checks a schema file.
fn check() -> Command {
    Command::new("check")
        .about("Checks a schema file and prints what its fields cost; exits with 0 or 64")
        .long_about(
            "Checks a schema file and prints what its fields cost. With --event it prints for each\n\
             subscription field whether the viewer receives the event, and by which key. JSON is a\n\
             file, or text that begins with {. Tables come from RELAY_DIRECTORY. Exits with 0, with 64\n\
             if a file is wrong, or with 1 if the event does not fit.",
        )
        .arg(Arg::new("FILE").required(true).help("The schema file"))
        .args([
            trial("event", "The event's data, or without --type a CloudEvent in structured mode")
                .requires("viewer"),
            trial("type", "The type of the event").requires("event"),
            trial("author", "The id of the author of the data").requires("type"),
            trial("attributes", "The attributes of a message whose data is the event's data")
                .requires("event")
                .conflicts_with("type"),
            trial("viewer", "The claims of the viewer's token").requires("event"),
            trial("arguments", "The arguments of the subscription").requires("event"),
        ])
}

/// Returns the commands that need no settings: clients of a pod, and help at the terminal.
fn clients() -> [Command; 6] {
    [
        Command::new("watch")
            .about("Subscribes to a pod and prints each result; resumes after a cut")
            .long_about(
                "Subscribes to a pod over graphql-transport-ws and prints the data of each result as one line of\n\
                 JSON. After a cut it connects again, and resumes if the document has $after. Without\n\
                 --document it watches the templates of the tutorial. Exits with 0, with 1 if the pod refuses,\n\
                 with 64 if an argument is wrong, or with 69 if no pod answers.",
            )
            .args(client())
            .arg(value("count", "N", "Ends after N results")),
        Command::new("publish")
            .about("Runs a mutation on a pod and prints its result")
            .long_about(
                "Runs a mutation on a pod over HTTP and prints its data as one line of JSON. With NAME it adds a\n\
                 template of the tutorial; any other mutation comes with --document. Exits with 0, with 1 if\n\
                 the pod refuses, with 64 if an argument is wrong, or with 69 if no pod answers.",
            )
            .args(client())
            .arg(Arg::new("NAME").required_unless_present("document").conflicts_with("document").help("The name of a new template"))
            .arg(
                value("share", "ID,...", "The locations that the template is shared with")
                    .requires("NAME"),
            ),
        Command::new("revoke")
            .about("Refuses the tokens of a user, or one token, on every pod")
            .long_about(
                "Refuses the tokens that a user has until now, or one token, on every pod, and ends their\n\
                 connections. With --retry they count as expired: clients come back with fresh tokens. It asks\n\
                 the admin address of any pod, with the token of RELAY_ADMIN_TOKEN_FILE or RELAY_ADMIN_TOKEN.\n\
                 Exits with 0, with 1 if the pod refuses, with 64 if an argument is wrong, or with 69 if no\n\
                 pod answers.",
            )
            .arg(value("user", "ID", "The id of the user, as the domain names it").required_unless_present("token"))
            .arg(value("token", "JTI", "The jti of the token").conflicts_with("user"))
            .arg(
                Arg::new("retry")
                    .long("retry")
                    .action(ArgAction::SetTrue)
                    .help("Lets clients come back with fresh tokens"),
            )
            .arg(
                value("url", "URL", "The admin address of a pod, that of RELAY_ADMIN_LISTEN")
                    .default_value("localhost:9090"),
            ),
        explain(),
        Command::new("completions")
            .about("Prints completions for a shell")
            .arg(
                Arg::new("SHELL")
                    .required(true)
                    .value_parser(clap::value_parser!(clap_complete::Shell))
                    .help("The shell"),
            ),
        Command::new("version").about("Prints the version"),
    ]
}

/// Returns the `relay explain` command.
fn explain() -> Command {
    Command::new("explain")
        .about("Prints for each pod why a user did or did not receive an event")
        .long_about(
            "Asks a pod at its admin address, which asks all others over the topic. Prints one sentence for\n\
             each pod. The debug token is RELAY_DEBUG_TOKEN, RELAY_DEBUG_TOKEN_FILE or --token-file. Exits\n\
             with 0, with 1 if the token is refused or the user unknown, with 64 if an argument is wrong, or\n\
             with 69 if no pod answers.",
        )
        .args([
            value("event", "ID", "The eventId of a result, or of a row of /debug/events").required(true),
            value("user", "USER", "The user's id, e-mail address or demo name").required(true),
            value("token-file", "FILE", "A file with the debug token"),
            value("url", "URL", "The admin address of a pod").default_value("localhost:9090"),
        ])
}

/// Returns a flag of `relay check`.
fn trial(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("VALUE").help(help)
}

/// Returns the settings of a command (`None`: of all commands), by concern.
fn by_concern(command: Option<Only>) -> impl Iterator<Item = (&'static str, Vec<&'static Setting>)> {
    let is_listed = move |setting: &&Setting| match (command, setting.only) {
        (None, _) | (_, None) | (Some(Only::Doctor), Some(Only::Serve)) => true,
        (command, only) => command == only,
    };
    SETTINGS
        .iter()
        .map(move |concern| {
            (concern.title, concern.settings.iter().copied().filter(is_listed).collect::<Vec<_>>())
        })
        .filter(|(_, settings)| !settings.is_empty())
}

/// Returns the flags of a command.
fn flags(command: Only) -> impl Iterator<Item = Arg> {
    by_concern(Some(command)).flat_map(|(_, settings)| settings).filter_map(|setting| {
        let flag = setting.flag?;
        Some(Arg::new(flag).long(flag).value_name("VALUE").help(setting.meaning))
    })
}

/// Returns the list of settings in the help of a command (`None`: of all commands).
fn settings_help(command: Option<Only>) -> String {
    let mut text =
        "Settings. A flag wins over its variable; an empty variable counts as not set.\n".to_owned();
    for (title, settings) in by_concern(command) {
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
