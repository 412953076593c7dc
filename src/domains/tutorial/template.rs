//! [`Template`]: what users share, as clients see it and as events carry it.
//!
//! A template comes from a mutation or from the topic. Either way no template may exist that is out
//! of its bounds.

use std::{collections::HashSet, sync::Arc};

use async_graphql::{ID, SimpleObject};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::{id, location};
use crate::audience::Audience;

/// Longest name, in characters. A longer one is refused.
const MAX_NAME_CHARS: usize = 200;

/// Most locations that a template is shared with, repeated ones included. More are refused.
const MAX_LOCATIONS: usize = 1_000;

/// Most bytes that their ids may take together: three times 1,000 UUIDs, and half of a connection's
/// send queue by default. More are refused.
const MAX_LOCATION_BYTES: usize = 128 << 10;

/// Longest data of an event, in bytes: four times a template at all its bounds, and too little to
/// occupy a pod. Longer data is refused unread.
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

/// Why an input or the data of an event is not a template. The text is fit for clients, and quotes
/// nothing.
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
        /// Line where parsing stopped.
        line: usize,
        /// Column in that line.
        column: usize,
    },
}

impl Template {
    /// Creates a template with a new id, which sorts after those that this process created before.
    ///
    /// # Errors
    /// [`InvalidTemplate`] names what is out of bounds.
    pub fn new(name: &str, share_location_ids: Option<Vec<ID>>) -> Result<Self, InvalidTemplate> {
        Self::build(Uuid::now_v7().into(), name, share_location_ids)
    }

    /// Returns this template with another name, shared with other locations.
    ///
    /// # Errors
    /// [`InvalidTemplate`] names what is out of bounds.
    pub fn edited(&self, name: &str, share_location_ids: Option<Vec<ID>>) -> Result<Self, InvalidTemplate> {
        Self::build(self.id.clone(), name, share_location_ids)
    }

    /// Parses the data of an event. Other programs publish too, so unknown fields are ignored, and
    /// ids may be numbers.
    ///
    /// # Errors
    /// [`InvalidTemplate`] names what is out of bounds, or where the data is not a template.
    pub fn parse(data: &[u8]) -> Result<Self, InvalidTemplate> {
        if data.len() > MAX_DATA_BYTES {
            return Err(InvalidTemplate::TooLong);
        }
        // Serde's error text would quote the data in the log.
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

    /// Returns the least bytes of JSON that these fields of the template take.
    pub(super) fn bytes_of(&self, fields: &[&str]) -> usize {
        let locations = || self.share_location_ids.iter().flatten().map(|id| id.len() + 2).sum::<usize>();
        let value = |field: &&str| match *field {
            "id" => self.id.len(),
            "name" => self.name.len(),
            "shareLocationIds" => locations(),
            _ => 0,
        };
        fields.iter().map(|field| field.len() + value(field)).sum()
    }

    /// Returns the approximate memory of the template, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let ids = self.share_location_ids.iter().flatten();
        self.id.len() + self.name.len() + ids.map(|id| size_of::<ID>() + id.len()).sum::<usize>()
    }

    /// Returns the template's audience: users who listen to one of its locations, except its
    /// author.
    #[must_use]
    pub fn audience(&self, author: Option<Arc<str>>) -> Audience {
        Audience::new(self.share_location_ids.iter().flatten().map(|id| location::key(id)), author)
    }
}

/// Returns each id once, in the order of its first mention. Repeated ids count against the bound,
/// so that it bounds the work.
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

/// A template in an event's data.
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
    fn names_are_trimmed_and_bounded() {
        let name = |name: &str| Template::new(name, None).map(|template| template.name);
        assert_eq!(name(" a b\n").as_deref(), Ok("a b"));
        assert_eq!(name(&"ü".repeat(200)), Ok("ü".repeat(200)));
        assert_eq!(name(&"ü".repeat(201)), Err(InvalidTemplate::Name));
        assert_eq!(name(" \t"), Err(InvalidTemplate::Name));
    }

    #[test]
    fn locations_are_distinct_and_bounded() {
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
    fn written_template_parses_to_itself() {
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
    fn json_of_other_programs_is_accepted() {
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
    fn invalid_data_is_refused_and_not_quoted() {
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
