//! A template: what users add and share with locations, as clients read it and as the topic carries it.

use std::{collections::HashSet, sync::Arc};

use async_graphql::{ID, Object};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::location;
use crate::audience::Audience;

/// The longest name, in characters after trimming.
pub const MAX_NAME: usize = 200;

/// How many locations a template may be shared with, repeats counted.
pub const MAX_LOCATIONS: usize = 1_000;

/// The longest id of a template or a location, in bytes.
const MAX_ID: usize = 64;

/// A template. Its JSON is what the topic carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    pub(super) id: Arc<str>,
    name: Arc<str>,
    share_location_ids: Option<Arc<[Arc<str>]>>,
}

#[Object]
impl Template {
    async fn id(&self) -> ID {
        ID::from(&*self.id)
    }

    async fn name(&self) -> &str {
        &self.name
    }

    async fn share_location_ids(&self) -> Option<Vec<ID>> {
        self.share_location_ids.as_ref().map(|ids| ids.iter().map(|id| ID::from(&**id)).collect())
    }
}

impl Template {
    /// A new template with a fresh id.
    ///
    /// # Errors
    /// What is out of bounds, in words for the client.
    pub fn add(name: &str, locations: Option<Vec<String>>) -> Result<Self, String> {
        Self::checked(&Uuid::now_v7().to_string(), name, locations)
    }

    /// This template with another name, other locations, or both. Locations of `None` are cleared.
    ///
    /// # Errors
    /// What is out of bounds, in words for the client.
    pub fn edit(&self, name: Option<&str>, locations: Option<Option<Vec<String>>>) -> Result<Self, String> {
        let kept =
            || self.share_location_ids.as_ref().map(|ids| ids.iter().map(ToString::to_string).collect());
        Self::checked(&self.id, name.unwrap_or(&self.name), locations.unwrap_or_else(kept))
    }

    /// The template in an event's data. Ids may be numbers; fields that are not ours are passed over.
    ///
    /// # Errors
    /// What is missing or out of bounds.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let Wire { id, name, share_location_ids } =
            serde_json::from_slice(data).map_err(|error| error.to_string())?;
        let locations = share_location_ids.map(|ids| ids.into_iter().map(WireId::text).collect());
        Self::checked(&id.text(), &name, locations)
    }

    fn checked(id: &str, name: &str, locations: Option<Vec<String>>) -> Result<Self, String> {
        check_id("the template's id", id)?;
        let name = name.trim();
        if name.is_empty() || name.chars().count() > MAX_NAME {
            return Err(format!("the name must have 1 to {MAX_NAME} characters"));
        }
        Ok(Self { id: id.into(), name: name.into(), share_location_ids: locations.map(fold).transpose()? })
    }

    /// Whom the template's event is for: everyone who listens to a location that it is shared with, but the author.
    #[must_use]
    pub fn audience(&self, author: Option<Arc<str>>) -> Audience {
        let locations = self.share_location_ids.iter().flat_map(|ids| ids.iter());
        Audience::new(locations.map(|id| location::key(id)), author)
    }
}

/// Checks the location ids and folds repeats, the first of each kept.
fn fold(mut ids: Vec<String>) -> Result<Arc<[Arc<str>]>, String> {
    if ids.len() > MAX_LOCATIONS {
        return Err(format!("a template is shared with at most {MAX_LOCATIONS} locations"));
    }
    for id in &ids {
        check_id("a location's id", id)?;
    }
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    Ok(ids.into_iter().map(Into::into).collect())
}

fn check_id(what: &str, id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_ID {
        return Err(format!("{what} must have 1 to {MAX_ID} bytes"));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    id: WireId,
    name: String,
    #[serde(default)]
    share_location_ids: Option<Vec<WireId>>,
}

/// Other programs write ids as numbers, too.
#[derive(Deserialize)]
#[serde(untagged)]
enum WireId {
    Text(String),
    Number(u64),
}

impl WireId {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        audience::Viewer,
        contract::Identity,
        domain::{Directory, user::User},
    };

    fn ids(ids: &[&str]) -> Option<Vec<String>> {
        Some(ids.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_one_pod_writes_every_pod_reads() {
        for locations in [None, ids(&[]), ids(&["3", "4"])] {
            let template = Template::add("  Hello  ", locations).unwrap();
            assert_eq!(&*template.name, "Hello");
            assert_eq!(Template::parse(&serde_json::to_vec(&template).unwrap()), Ok(template));
        }
    }

    #[test]
    fn other_programs_may_write_less_and_more() {
        let read = Template::parse(br#"{"id": 7, "name": "n", "shareLocationIds": [3, "4", 3], "more": {}}"#)
            .unwrap();
        assert_eq!((&*read.id, &read.share_location_ids), ("7", &Some(Arc::from(["3".into(), "4".into()]))));
        assert_eq!(Template::parse(br#"{"id": "7", "name": "n"}"#).unwrap().share_location_ids, None);
        for bad in [
            "",
            "{}",
            "[]",
            "\u{0}",
            r#"{"id": "7"}"#,
            r#"{"id": "", "name": "n"}"#,
            r#"{"id": [], "name": "n"}"#,
        ] {
            assert!(Template::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds_are_inclusive() {
        assert!(Template::add(&"é".repeat(MAX_NAME), None).is_ok());
        assert!(Template::add(&"é".repeat(MAX_NAME + 1), None).is_err());
        assert!(Template::add(" ", None).is_err());
        assert!(Template::add("n", Some(vec!["1".to_owned(); MAX_LOCATIONS])).is_ok());
        assert!(Template::add("n", Some(vec!["1".to_owned(); MAX_LOCATIONS + 1])).is_err());
        assert!(Template::add("n", ids(&[""])).is_err());
    }

    #[test]
    fn an_edit_keeps_what_it_does_not_name() {
        let template = Template::add("n", ids(&["1"])).unwrap();
        assert_eq!(template.edit(None, None), Ok(template.clone()));
        assert_eq!(template.edit(None, Some(None)).unwrap().share_location_ids, None);
        assert_eq!(&*template.edit(Some("m"), None).unwrap().name, "m");
    }

    /// The tutorial's own filter, as it was written there: the author is left out, then location by location.
    fn template_filter(author: &str, shared: &[String], user: &User) -> bool {
        if user.id.as_ref() == author {
            return false;
        }
        let organisation = |location: &str| if matches!(location, "1" | "2") { "1" } else { "2" };
        shared.iter().filter(|id| ["1", "2", "3", "4"].contains(&id.as_str())).any(|id| {
            user.location_id.as_deref() == Some(id) || user.org_id.as_deref() == Some(organisation(id))
        })
    }

    fn users() -> Vec<User> {
        let json: serde_json::Value = serde_json::from_str(include_str!("directory.json")).unwrap();
        serde_json::from_value(json["users"].clone()).unwrap()
    }

    proptest! {
        #[test]
        fn the_audience_is_whom_the_tutorials_filter_lets_through(
            shared in prop::collection::vec("[0-6]", 0..6),
            author in "[1-5]",
        ) {
            let template = Template::add("n", Some(shared.clone())).unwrap();
            let audience = template.audience(Some(author.as_str().into()));
            let directory = Directory::built_in();
            for user in users() {
                let viewer: &Viewer = directory.viewer(Identity::Subject(&user.id)).unwrap();
                prop_assert_eq!(audience.includes(viewer), template_filter(&author, &shared, &user), "{:?}", user);
            }
        }

        #[test]
        fn no_data_makes_reading_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Template::parse(&data);
        }
    }
}
