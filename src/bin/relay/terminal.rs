//! `relay watch`, `publish`, `revoke` and `explain`: reads their files, and runs them until a
//! signal.
//!
//! The tutorial's documents stand here, since the library's clients know no domain.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::Path,
};

use pubsub_relay::{
    cli::{
        config::Client,
        terminal::{self, Explain, Failure, Paint, Publish, Revoke, Target, Watch},
    },
    domains::tutorial,
    shutdown::Signals,
};
use serde_json::{Map, Value, json};
use tokio::{runtime::Runtime, select};

/// Runs `relay watch`. A signal ends it with success.
pub(crate) fn watch(client: Client, count: Option<u64>) -> Result<(), Failure> {
    let paint = paint(&client);
    let document = match &client.document {
        Some(path) => read("--document", path)?,
        None => tutorial::WATCH.to_owned(),
    };
    let variables = variables(client.variables.as_deref())?;
    let watch = Watch { target: Target::new(&client.url, client.identity)?, document, variables, count };
    runtime()?.block_on(async {
        let mut signals = Signals::listen().map_err(|error| Failure::Output(error.to_string()))?;
        let (mut out, mut words) = (io::stdout(), io::stderr());
        select! {
            ended = terminal::watch(&watch, &mut out, &mut words, paint) => ended,
            _ = signals.next() => Ok(()),
        }
    })
}

/// Runs `relay publish`.
pub(crate) fn publish(client: Client) -> Result<(), Failure> {
    let paint = paint(&client);
    let (document, variables) = match (&client.document, client.template) {
        (Some(path), _) => (read("--document", path)?, variables(client.variables.as_deref())?),
        (None, template) => (tutorial::ADD.to_owned(), template_variables(template.unwrap_or_default())),
    };
    let publish = Publish { target: Target::new(&client.url, client.identity)?, document, variables };
    runtime()?.block_on(terminal::publish(&publish, &mut io::stdout(), paint[0]))
}

/// Runs `relay revoke`.
pub(crate) fn revoke(revoke: &Revoke) -> Result<(), Failure> {
    runtime()?.block_on(terminal::revoke(revoke, &mut io::stdout()))
}

/// Runs `relay explain`.
pub(crate) fn explain(explain: &Explain) -> Result<(), Failure> {
    runtime()?.block_on(terminal::explain(explain, &mut io::stdout(), &mut io::stderr()))
}

/// Returns the variables of the tutorial's mutation.
fn template_variables((name, share): (String, Option<String>)) -> Map<String, Value> {
    let locations = share.map(|share| share.split(',').map(|id| id.trim().to_owned()).collect::<Vec<_>>());
    Map::from_iter([("name".to_owned(), json!(name)), ("locations".to_owned(), json!(locations))])
}

/// Returns the variables of `--variables`.
fn variables(given: Option<&str>) -> Result<Map<String, Value>, Failure> {
    let text = match given {
        None => return Ok(Map::new()),
        Some(text) if text.trim_start().starts_with('{') => text.to_owned(),
        Some(path) => read("--variables", Path::new(path))?,
    };
    serde_json::from_str(&text)
        .map_err(|error| Failure::Usage(format!("--variables is no JSON object: {error}")))
}

fn read(flag: &str, path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{flag} cannot be read: {error}")))
}

/// Returns the colours of standard output and of standard error.
fn paint(client: &Client) -> [Paint; 2] {
    [io::stdout().is_terminal(), io::stderr().is_terminal()]
        .map(|is_terminal| Paint { is_on: is_terminal && !client.no_colour })
}

fn runtime() -> Result<Runtime, Failure> {
    Runtime::new().map_err(|error| Failure::Output(error.to_string()))
}
