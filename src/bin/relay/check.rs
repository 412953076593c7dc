//! `relay check`: checks a schema file, and tries its rules on an event.
//!
//! Its answers are for people and for CI. It must never serve anything.

use std::{collections::BTreeMap, fmt::Display, fs};

use pubsub_relay::{
    Claims,
    cli::config::{BadFile, Check, EX_USAGE, Trial},
    domains::declared::{Declared, trial},
    event::{Event, cloudevent},
};
use serde_json::{Map, Value};

use super::domain_factory::{self, DomainFactory};

/// Exit code if the event does not fit the file.
const MISFIT: u8 = 1;

/// Text of what is wrong, with the exit code.
type Complaint = (String, u8);

/// Returns what the fields of the file cost or, with an event, who receives it.
pub(crate) fn run(Check { files, trial }: &Check) -> Result<String, Complaint> {
    let Some(trial) = trial else { return domain_factory::check(files).map_err(bad) };
    let domain = DomainFactory::load(files).map_err(bad)?;
    let declared = domain.declared();
    let (event, line) = event(trial, &declared)?;
    let claims = Claims::new(object("--viewer", &trial.viewer)?);
    let arguments = trial.arguments.as_deref().map(|text| object("--arguments", text)).transpose()?;
    trial::tell(&declared, &event, &claims, &arguments.unwrap_or_default())
        .map(|told| line + &told)
        .map_err(|error| misfit(&error))
}

/// Returns the event of `--event`. With `--attributes` also a line about its envelope.
fn event(trial: &Trial, domain: &Declared) -> Result<(Event, String), Complaint> {
    let Trial { event, kind, author, attributes, .. } = trial;
    let data = text("--event", event)?.into_bytes().into();
    if let Some(attributes) = attributes {
        let attributes: BTreeMap<String, String> =
            serde_json::from_str(&text("--attributes", attributes)?)
                .map_err(|problem| usage("--attributes", format!("is no JSON object of texts: {problem}")))?;
        let event = trial::receive(domain, &attributes, data).map_err(|error| misfit(&error))?;
        let line = trial::envelope(&event);
        return Ok((event, line));
    }
    let event = match kind {
        Some(kind) => Event::new("/check".into(), kind, author.as_deref().map(Into::into), data),
        None => cloudevent::decode_structured(&data, None, None).map_err(|error| misfit(&error))?,
    };
    Ok((event, String::new()))
}

/// Returns the JSON object of a flag.
fn object(flag: &str, value: &str) -> Result<Map<String, Value>, Complaint> {
    serde_json::from_str(&text(flag, value)?)
        .map_err(|problem| usage(flag, format!("is no JSON object: {problem}")))
}

/// Returns the text of a flag: its value if that begins with `{`, else the content of the file that
/// it names.
fn text(flag: &str, value: &str) -> Result<String, Complaint> {
    if value.trim_start().starts_with('{') {
        return Ok(value.to_owned());
    }
    fs::read_to_string(value)
        .map_err(|problem| usage(flag, format!("names a file that cannot be read: {problem}")))
}

fn bad(file: BadFile) -> Complaint {
    match file {
        BadFile::Schema(found) => (format!("{}\n", found.join("\n")), EX_USAGE),
        BadFile::Directory(problem) => usage("RELAY_DIRECTORY", problem),
        BadFile::NoDirectory => usage("RELAY_DIRECTORY", "is not set, but the schema names tables"),
    }
}

fn usage(name: &str, problem: impl Display) -> Complaint {
    (format!("relay: {name} {problem}\n"), EX_USAGE)
}

fn misfit(error: &dyn Display) -> Complaint {
    (format!("relay: {error}\n"), MISFIT)
}
