//! The directory of users and locations: built in (the tutorial's) or a JSON file.
//!
//! It is read once and checked whole, so that nothing later meets a user without a place.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use thiserror::Error;

use super::{
    location::{self, Location},
    user::User,
};
use crate::{
    audience::{Interests, Viewer},
    contract::Identity,
};

/// The largest directory file, in bytes: some 100,000 users.
const MAX_BYTES: u64 = 16 << 20;

/// Why a directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is over 16 MiB.
    #[error("{} is larger than 16 MiB", .0.display())]
    TooLarge(PathBuf),
    /// It is not JSON of the directory's form.
    #[error("not a directory of users and locations: {0}")]
    Form(#[from] serde_json::Error),
    /// It contradicts itself; every contradiction is named.
    #[error("the directory contradicts itself:{0}")]
    Contradictions(String),
}

/// Users and locations, checked.
#[derive(Clone, Debug)]
pub struct Directory {
    locations: Vec<Location>,
    viewers: Vec<Viewer>,
    by_id: HashMap<Arc<str>, usize>,
    by_kind: HashMap<Arc<str>, usize>,
    by_email: HashMap<String, usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    locations: Vec<Location>,
    users: Vec<User>,
}

impl Directory {
    /// The tutorial's four users and four locations.
    #[must_use]
    pub fn built_in() -> Self {
        Self::parse(include_str!("directory.json")).expect("the built-in directory is tested")
    }

    /// The directory in a JSON file.
    ///
    /// # Errors
    /// If the file cannot be read, or as [`parse`](Self::parse).
    pub fn load(path: &Path) -> Result<Self, DirectoryError> {
        let read = |source| DirectoryError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
            return Err(DirectoryError::TooLarge(path.to_owned()));
        }
        Self::parse(&fs::read_to_string(path).map_err(read)?)
    }

    /// The directory in this JSON.
    ///
    /// # Errors
    /// If it has another form, or contradicts itself: an id, type or e-mail twice or empty, a reference to a location
    /// or organisation that is not there, a user with both or neither of them.
    pub fn parse(json: &str) -> Result<Self, DirectoryError> {
        let Entries { locations, users } = serde_json::from_str(json)?;
        let problems = problems(&locations, &users);
        if !problems.is_empty() {
            let lines = problems.iter().fold(String::new(), |mut lines, problem| {
                let _ = write!(lines, "\n  {problem}");
                lines
            });
            return Err(DirectoryError::Contradictions(lines));
        }
        let index = |of: fn(&User) -> Arc<str>| users.iter().map(of).zip(0..).collect();
        Ok(Self {
            by_id: index(|user| user.id.clone()),
            by_kind: index(|user| user.kind.clone()),
            by_email: users.iter().map(|user| user.email.to_lowercase()).zip(0..).collect(),
            viewers: users.iter().map(|user| viewer(user, &locations)).collect(),
            locations,
        })
    }

    /// All locations, in the order of the file.
    #[must_use]
    pub fn locations(&self) -> &[Location] {
        &self.locations
    }

    /// The user of that name as a viewer.
    #[must_use]
    pub fn viewer(&self, identity: Identity<'_>) -> Option<&Viewer> {
        let place = match identity {
            Identity::Demo(kind) => self.by_kind.get(kind),
            Identity::Subject(id) => self.by_id.get(id),
            Identity::Email(email) => self.by_email.get(&email.to_lowercase()),
        };
        place.and_then(|place| self.viewers.get(*place))
    }
}

fn viewer(user: &User, locations: &[Location]) -> Viewer {
    let heard = locations.iter().filter(|location| {
        user.location_id.as_ref() == Some(&location.id) || user.org_id.as_ref() == Some(&location.org_id)
    });
    Viewer {
        user: user.id.clone(),
        interests: Interests::new(heard.map(|location| location::key(&location.id))),
    }
}

fn problems(locations: &[Location], users: &[User]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut distinct = |what: &str, names: &mut dyn Iterator<Item = String>| {
        let mut seen = HashSet::new();
        for name in names {
            if name.is_empty() {
                problems.push(format!("a {what} is empty"));
            } else if !seen.insert(name.clone()) {
                problems.push(format!("{what} {name:?} is there twice"));
            }
        }
    };
    distinct("location id", &mut locations.iter().map(|location| location.id.to_string()));
    distinct("user id", &mut users.iter().map(|user| user.id.to_string()));
    distinct("user type", &mut users.iter().map(|user| user.kind.to_string()));
    distinct("user e-mail", &mut users.iter().map(|user| user.email.to_lowercase()));
    for User { id, location_id, org_id, .. } in users {
        match (location_id, org_id) {
            (Some(_), Some(_)) => problems.push(format!("user {id:?} has both a locationId and an orgId")),
            (None, None) => problems.push(format!("user {id:?} has neither a locationId nor an orgId")),
            (Some(place), None) if !locations.iter().any(|location| location.id == *place) => {
                problems.push(format!("user {id:?} is at location {place:?}, which is not there"));
            }
            (None, Some(org)) if !locations.iter().any(|location| location.org_id == *org) => {
                problems.push(format!("user {id:?} is of organisation {org:?}, which owns no location"));
            }
            _ => {}
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interests(identity: Identity<'_>) -> Vec<String> {
        let directory = Directory::built_in();
        directory.viewer(identity).unwrap().interests.keys().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_tutorials_users_listen_to_what_the_tutorial_says() {
        assert_eq!(interests(Identity::Demo("ZELO")), ["location:1"]);
        assert_eq!(interests(Identity::Demo("ZEWI")), ["location:3", "location:4"]);
        assert_eq!(interests(Identity::Subject("3")), ["location:1", "location:2"]);
        assert_eq!(interests(Identity::Email("User-4@gmail.com")), ["location:3"]);
        assert_eq!(Directory::built_in().viewer(Identity::Demo("zelo")), None);
        assert_eq!(Directory::built_in().viewer(Identity::Subject("ZELO")), None);
    }

    #[test]
    fn every_contradiction_is_named_at_once() {
        let error = Directory::parse(
            r#"{"locations": [{"id": "1", "name": "a", "orgId": "1"}, {"id": "1", "name": "b", "orgId": "1"}],
                "users": [{"id": "1", "type": "A", "email": "a@x", "locationId": "9"},
                          {"id": "1", "type": "A", "email": "A@X", "orgId": "9"},
                          {"id": "", "type": "B", "email": "b@x", "orgId": "1", "locationId": "1"},
                          {"id": "3", "type": "C", "email": "c@x"}]}"#,
        )
        .unwrap_err()
        .to_string();
        for part in [
            "location id \"1\" is there twice",
            "user id \"1\" is there twice",
            "user type \"A\" is there twice",
            "user e-mail \"a@x\" is there twice",
            "a user id is empty",
            "location \"9\", which is not there",
            "organisation \"9\", which owns no location",
            "has both",
            "has neither",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn another_form_says_where() {
        let error = Directory::parse("{\"locations\": []}").unwrap_err().to_string();
        assert!(error.contains("missing field `users`"), "{error}");
    }
}
