//! [`Template`]: what users share, as clients see it and as events carry it.
//!
//! Whatever its way in, a mutation or the topic, a template that exists is within its bounds.

use std::{collections::HashSet, sync::Arc};

use async_graphql::{ID, SimpleObject};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::{id, location};
use crate::audience::Audience;

/// Longest name, in characters.
const MAX_NAME_CHARS: usize = 200;

/// Most locations that a template is shared with, repeated ones included.
const MAX_LOCATIONS: usize = 1_000;

/// What their ids may have together, in bytes: three times 1,000 UUIDs, and half of a connection's queue by default.
const MAX_LOCATION_BYTES: usize = 128 << 10;

/// Longest data of an event, in bytes: four times a template at all its bounds, and too little to occupy a pod.
const MAX_DATA_BYTES: usize = 1 << 20;

/// A template, within its bounds.
#[derive(Clone, Debug, PartialEq, Eq, SimpleObject, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// Unique among templates.
    pub(super) id: ID,
    /// For people; without space around it.
    pub(super) name: String,
    /// The locations that it is shared with, each once.
    pub(super) share_location_ids: Option<Vec<ID>>,
}

/// Why something is not a template. The text is fit for clients, and quotes nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidTemplate {
    /// The name is empty or too long.
    #[error("name must have 1 to {MAX_NAME_CHARS} characters, not counting space around it")]
    Name,
    /// There are too many locations.
    #[error("shareLocationIds must be at most {MAX_LOCATIONS}, of {MAX_LOCATION_BYTES} bytes together")]
    TooManyLocations,
    /// An id is out of bounds.
    #[error("{0} must be {rule}", rule = id::RULE)]
    Id(&'static str),
    /// The data is too long to be read at all.
    #[error("data is longer than {MAX_DATA_BYTES} bytes")]
    TooLong,
    /// The data is not the JSON of a template.
    #[error("data is not the JSON of a template (line {line}, column {column})")]
    Json {
        /// Where reading stopped.
        line: usize,
        /// Where in that line.
        column: usize,
    },
}

impl Template {
    /// A new template with an id of its own, which sorts behind those that this process made before.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn new(name: &str, share_location_ids: Option<Vec<ID>>) -> Result<Self, InvalidTemplate> {
        Self::build(Uuid::now_v7().into(), name, share_location_ids)
    }

    /// This template under another name and shared with other locations.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn edited(&self, name: &str, share_location_ids: Option<Vec<ID>>) -> Result<Self, InvalidTemplate> {
        Self::build(self.id.clone(), name, share_location_ids)
    }

    /// Reads the data of an event. Fields that it does not know are passed over, ids may be numbers, since other programs
    /// publish too.
    ///
    /// # Errors
    /// What is out of bounds, or where it ceases to be a template.
    pub fn parse(data: &[u8]) -> Result<Self, InvalidTemplate> {
        if data.len() > MAX_DATA_BYTES {
            return Err(InvalidTemplate::TooLong);
        }
        // Serde's own words would quote the data into the log.
        let at =
            |error: serde_json::Error| InvalidTemplate::Json { line: error.line(), column: error.column() };
        let Wire { id, name, share_location_ids } = serde_json::from_slice(data).map_err(at)?;
        let ids = share_location_ids.map(|ids| ids.into_iter().map(ID::from).collect());
        Self::build(id.into(), &name, ids)
    }

    fn build(id: ID, name: &str, share_location_ids: Option<Vec<ID>>) -> Result<Self, InvalidTemplate> {
        let name = name.trim();
        if !id::is_valid(&id) {
            return Err(InvalidTemplate::Id("id"));
        }
        if name.is_empty() || name.chars().nth(MAX_NAME_CHARS).is_some() {
            return Err(InvalidTemplate::Name);
        }
        let share_location_ids = share_location_ids.map(distinct).transpose()?;
        Ok(Self { id, name: name.to_owned(), share_location_ids })
    }

    /// About what it takes in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let ids = self.share_location_ids.iter().flatten();
        self.id.len() + self.name.len() + ids.map(|id| size_of::<ID>() + id.len()).sum::<usize>()
    }

    /// Whom the template is for: those who listen to a location that it is shared with, but its author.
    #[must_use]
    pub fn audience(&self, author: Option<Arc<str>>) -> Audience {
        Audience::new(self.share_location_ids.iter().flatten().map(|id| location::key(id)), author)
    }
}

/// Each id once, in the order of its first mention. Repeated ones count against the bound, so that it bounds the work.
fn distinct(mut ids: Vec<ID>) -> Result<Vec<ID>, InvalidTemplate> {
    if ids.len() > MAX_LOCATIONS || ids.iter().map(|id| id.len()).sum::<usize>() > MAX_LOCATION_BYTES {
        return Err(InvalidTemplate::TooManyLocations);
    }
    if !ids.iter().all(|id| id::is_valid(id)) {
        return Err(InvalidTemplate::Id("each of shareLocationIds"));
    }
    let mut seen = HashSet::with_capacity(ids.len());
    ids.retain(|id| seen.insert(id.clone()));
    Ok(ids)
}

/// A template as an event's data has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    id: WireId,
    name: String,
    #[serde(default)]
    share_location_ids: Option<Vec<WireId>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireId {
    Text(String),
    Whole(i64),
    Large(u64),
}

impl From<WireId> for ID {
    fn from(id: WireId) -> Self {
        match id {
            WireId::Text(text) => Self(text),
            WireId::Whole(number) => Self(number.to_string()),
            WireId::Large(number) => Self(number.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Option<Vec<ID>> {
        Some(ids.iter().map(ID::from).collect())
    }

    fn parse(json: &str) -> Result<Template, InvalidTemplate> {
        Template::parse(json.as_bytes())
    }

    #[test]
    fn names_are_trimmed_and_have_1_to_200_characters() {
        let name = |name: &str| Template::new(name, None).map(|template| template.name);
        assert_eq!(name(" a b\n").as_deref(), Ok("a b"));
        assert_eq!(name(&"ü".repeat(200)), Ok("ü".repeat(200)));
        assert_eq!(name(&"ü".repeat(201)), Err(InvalidTemplate::Name));
        assert_eq!(name(" \t"), Err(InvalidTemplate::Name));
    }

    #[test]
    fn locations_are_folded_and_at_most_1000() {
        let locations = |ids| Template::new("a", ids).map(|template| template.share_location_ids);
        assert_eq!(locations(None), Ok(None));
        assert_eq!(locations(ids(&[])), Ok(ids(&[])));
        assert_eq!(locations(ids(&["3", "1", "3"])), Ok(ids(&["3", "1"])));
        assert_eq!(locations(ids(&["1"; 1_000])), Ok(ids(&["1"])));
        assert_eq!(locations(ids(&["1"; 1_001])), Err(InvalidTemplate::TooManyLocations));
        assert_eq!(locations(ids(&[""])), Err(InvalidTemplate::Id("each of shareLocationIds")));
        assert!(locations(ids(&[&"x".repeat(257)])).is_err());
        let long = "x".repeat(256);
        assert!(locations(ids(&[&*long; 512])).is_ok());
        assert_eq!(locations(ids(&[&*long; 513])), Err(InvalidTemplate::TooManyLocations));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for share_location_ids in [None, ids(&[]), ids(&["3", "4"])] {
            let template = Template::new("a \"name\"", share_location_ids).unwrap();
            let json = serde_json::to_string(&template).unwrap();
            assert_eq!(parse(&json), Ok(template));
        }
        let template = Template::build("1".into(), "a", ids(&["3"])).unwrap();
        assert_eq!(
            serde_json::to_string(&template).unwrap(),
            r#"{"id":"1","name":"a","shareLocationIds":["3"]}"#
        );
    }

    #[test]
    fn other_programs_may_write_it_their_way() {
        let template = Template::build("7".into(), "a", ids(&["3", "18446744073709551615"])).unwrap();
        let json = r#"{"id":7,"name":" a ","more":{},"shareLocationIds":[3,"3",18446744073709551615]}"#;
        assert_eq!(parse(json), Ok(template));
        assert_eq!(parse(r#"{"id":"7","name":"a"}"#), Template::build("7".into(), "a", None));
        assert_eq!(
            parse(r#"{"id":"7","name":"a","shareLocationIds":null}"#),
            Template::build("7".into(), "a", None)
        );
    }

    #[test]
    fn what_is_no_template_is_refused_and_not_quoted() {
        let long = format!(r#"{{"id":"1","name":"{}"}}"#, "x".repeat(MAX_DATA_BYTES));
        let many = format!(r#"{{"id":"1","name":"a","shareLocationIds":[{}1]}}"#, "1,".repeat(1_000));
        for json in [
            "",
            "[]",
            "null",
            "\u{0}",
            r#"{"name":"secret"}"#,
            r#"{"id":"1"}"#,
            r#"{"id":"","name":"secret"}"#,
            r#"{"id":1.5,"name":"secret"}"#,
            r#"{"id":"1","name":"secret","shareLocationIds":"secret"}"#,
            r#"{"id":"1","name":"secret","shareLocationIds":[null]}"#,
            &long,
            &many,
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
