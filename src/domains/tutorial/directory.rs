//! [`Directory`]: the users, and the locations that they listen to.
//!
//! It is read once, before the pod starts, from a file or from the tutorial's own JSON. So no
//! request ever waits for it, and it must never change afterwards. All problems of a file are
//! reported at once.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_graphql::ID;
use serde::Deserialize;
use thiserror::Error;

use super::{
    id,
    location::{self, Location},
    user::User,
};
use crate::{
    audience::{Interests, Key, Viewer},
    domain::Identity,
};

/// Largest file, in bytes: about 100,000 users. A larger one is refused.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Most problems of one file that are spelled out. The rest is counted.
const MAX_PROBLEMS: usize = 20;

/// Why there is no directory. The texts are for the operator; each includes its cause.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The file cannot be read. Check its path and permissions.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The file is larger than 16 MiB.
    #[error("{} is larger than 16 MiB", .0.display())]
    TooLarge(PathBuf),
    /// The text is not JSON of the form in `docs/ADAPTING.md`.
    #[error("not the JSON of a directory: {0}")]
    Malformed(serde_json::Error),
    /// The JSON has the form of a directory but contradicts itself. It holds one text for each
    /// problem.
    #[error("the directory is wrong:\n  {}", .0.join("\n  "))]
    Wrong(Vec<String>),
}

/// The users and locations.
#[derive(Clone, Debug)]
pub struct Directory {
    locations: Vec<Location>,
    by_id: HashMap<String, Record>,
    by_name: HashMap<String, Record>,
    by_email: HashMap<String, Record>,
}

/// Record of a user, ready to become a viewer. All users of an organisation share one set of
/// interests.
#[derive(Clone, Debug)]
struct Record {
    user: Arc<str>,
    interests: Arc<Interests>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    locations: Vec<Location>,
    users: Vec<User>,
}

impl Directory {
    /// Returns the tutorial's directory.
    #[must_use]
    pub fn built_in() -> Self {
        Self::parse(include_str!("directory.json")).expect("a test parses the built-in directory")
    }

    /// Loads a directory from a file. It blocks, so it is for use before the pod starts.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or is not a directory.
    pub fn load(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |cause| DirectoryError::Read { path: path.to_owned(), cause };
        let file = File::open(path).map_err(failed)?;
        let mut json = String::new();
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut json).map_err(failed)?;
        if json.len() as u64 > MAX_FILE_BYTES {
            return Err(DirectoryError::TooLarge(path.to_owned()));
        }
        Self::parse(&json)
    }

    /// Parses a directory from JSON of the form in `docs/ADAPTING.md`.
    ///
    /// # Errors
    /// [`DirectoryError::Malformed`] with the place of the first error of form. Otherwise
    /// [`DirectoryError::Wrong`] with all other problems:
    ///
    /// - bad or repeated ids, types and e-mail addresses,
    /// - users without exactly one of location and organisation,
    /// - users at an unknown location or organisation.
    pub fn parse(json: &str) -> Result<Self, DirectoryError> {
        let Rows { locations, users } = serde_json::from_str(json).map_err(DirectoryError::Malformed)?;
        let mut problems = Problems::default();
        let places = Places::new(&locations, &mut problems);
        let (mut by_id, mut by_name, mut by_email) = (HashMap::new(), HashMap::new(), HashMap::new());
        for user in users {
            let interests = places.interests(&user, &mut problems);
            let record = Record { user: user.id.as_str().into(), interests };
            problems.insert(&mut by_id, "user id", user.id, record.clone());
            if let Some(name) = user.name {
                problems.insert(&mut by_name, "user type", name, record.clone());
            }
            if let Some(email) = user.email {
                problems.insert(&mut by_email, "e-mail", email.to_lowercase(), record);
            }
        }
        problems.into_result()?;
        Ok(Self { locations, by_id, by_name, by_email })
    }

    /// Returns the first few names of demo tokens, in alphabetical order.
    #[must_use]
    pub fn demo_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.by_name.keys().cloned().collect();
        names.sort();
        names.truncate(4);
        names
    }

    /// Returns the user that a token names: by `sub`, else by `email`. Many issuers put an id of
    /// their own into `sub`. Demo names and ids are case-sensitive, e-mail addresses are not.
    #[must_use]
    pub fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
        let record = match identity {
            Identity::Demo(name) => self.by_name.get(name),
            Identity::Claims(claims) => {
                let by_email = || self.by_email.get(&claims.email()?.to_lowercase());
                claims.subject().and_then(|id| self.by_id.get(id)).or_else(by_email)
            }
        }?;
        Some(Viewer::new(record.user.clone(), (*record.interests).clone()))
    }

    /// Returns all locations, in the order of the file.
    #[must_use]
    pub fn locations(&self) -> &[Location] {
        &self.locations
    }
}

/// Locations and organisations that users can listen to.
struct Places<'a> {
    locations: HashSet<&'a str>,
    organisations: HashMap<&'a str, Arc<Interests>>,
}

impl<'a> Places<'a> {
    fn new(rows: &'a [Location], problems: &mut Problems) -> Self {
        let mut locations = HashSet::new();
        let mut keys: HashMap<&str, Vec<Key>> = HashMap::new();
        for Location { id: ID(id), org_id, .. } in rows {
            problems.check_id("location id", id);
            problems.check_id("organisation id", org_id);
            if !locations.insert(id.as_str()) {
                problems.add(format!("location id {id:?} is given twice"));
            }
            keys.entry(org_id).or_default().push(location::key(id));
        }
        let interests = |(organisation, keys): (_, Vec<Key>)| (organisation, Arc::new(Interests::new(keys)));
        Self { locations, organisations: keys.into_iter().map(interests).collect() }
    }

    /// Returns what the user listens to: nothing, if there is a problem.
    fn interests(&self, user: &User, problems: &mut Problems) -> Arc<Interests> {
        let id = &user.id;
        let problem = match (user.location_id.as_deref(), user.org_id.as_deref()) {
            (Some(location), None) if self.locations.contains(location) => {
                return Arc::new(Interests::new([location::key(location)]));
            }
            (None, Some(organisation)) => match self.organisations.get(organisation) {
                Some(interests) => return interests.clone(),
                None => format!("user {id:?} is of organisation {organisation:?}, which owns no location"),
            },
            (Some(location), None) => format!("user {id:?} is at location {location:?}, which there is not"),
            (Some(_), Some(_)) => format!("user {id:?} has both a locationId and an orgId"),
            (None, None) => format!("user {id:?} has neither locationId nor orgId"),
        };
        problems.add(problem);
        Arc::default()
    }
}

/// Problems of one file.
#[derive(Default)]
struct Problems {
    texts: Vec<String>,
    omitted: usize,
}

impl Problems {
    fn add(&mut self, text: String) {
        if self.texts.len() < MAX_PROBLEMS {
            self.texts.push(text);
        } else {
            self.omitted += 1;
        }
    }

    fn check_id(&mut self, what: &str, id: &str) {
        if !id::is_valid(id) {
            self.add(format!("{what} {id:?} is not {}", id::RULE));
        }
    }

    /// Inserts the value under a key that must be valid and new.
    fn insert<V>(&mut self, map: &mut HashMap<String, V>, what: &str, key: String, value: V) {
        self.check_id(what, &key);
        match map.entry(key) {
            Entry::Occupied(entry) => self.add(format!("{what} {:?} is given twice", entry.key())),
            Entry::Vacant(entry) => {
                entry.insert(value);
            }
        }
    }

    fn into_result(mut self) -> Result<(), DirectoryError> {
        if self.omitted > 0 {
            self.texts.push(format!("and {} more", self.omitted));
        }
        if self.texts.is_empty() { Ok(()) } else { Err(DirectoryError::Wrong(self.texts)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Claims;

    fn keys(directory: &Directory, identity: Identity<'_>) -> Option<(String, Vec<String>)> {
        let viewer = directory.viewer(identity)?;
        Some((viewer.user.to_string(), viewer.interests.keys().iter().map(ToString::to_string).collect()))
    }

    fn problems(json: &str) -> Vec<String> {
        match Directory::parse(json) {
            Err(DirectoryError::Wrong(problems)) => problems,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn built_in_directory_matches_tutorial() {
        let directory = Directory::built_in();
        let listens = |name| keys(&directory, Identity::Demo(name)).unwrap();
        let expect =
            |id: &str, keys: &[&str]| (id.to_owned(), keys.iter().map(ToString::to_string).collect());
        assert_eq!(listens("ZELO"), expect("1", &["location:1"]));
        assert_eq!(listens("ZEWI"), expect("2", &["location:3", "location:4"]));
        assert_eq!(listens("ZOWI"), expect("3", &["location:1", "location:2"]));
        assert_eq!(listens("ZOLO"), expect("4", &["location:3"]));
        assert_eq!(directory.locations().len(), 4);
    }

    #[test]
    fn users_are_found_by_each_identity() {
        let directory = Directory::built_in();
        let user = |identity: Identity<'_>| keys(&directory, identity).map(|(user, _)| user);
        let by_claim = |name: &str, value: &str| {
            let claims = Claims::new([(name.to_owned(), value.into())].into_iter().collect());
            user(Identity::Claims(&claims))
        };
        assert_eq!(user(Identity::Demo("zowi")), None, "names are case-sensitive");
        assert_eq!(by_claim("sub", "3").as_deref(), Some("3"));
        assert_eq!(by_claim("sub", "ZOWI"), None);
        assert_eq!(by_claim("email", "User-3@Gmail.com").as_deref(), Some("3"));
        assert_eq!(by_claim("email", ""), None);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let problems = problems(
            r#"{ "locations": [
                { "id": "1", "name": "a", "orgId": "1" }, { "id": "1", "name": "b", "orgId": "" }
            ], "users": [
                { "id": "1", "type": "A", "email": "a@b", "locationId": "1" },
                { "id": "1", "type": "A", "email": "A@B", "locationId": "1" },
                { "id": "", "type": "", "locationId": "1" },
                { "id": "2", "locationId": "9" }, { "id": "3", "orgId": "9" },
                { "id": "4" }, { "id": "5", "locationId": "1", "orgId": "1" }
            ] }"#,
        );
        let expected = [
            "location id \"1\" is given twice",
            "organisation id \"\" is not 1 to 256 bytes without control characters",
            "user id \"1\" is given twice",
            "user type \"A\" is given twice",
            "e-mail \"a@b\" is given twice",
            "user id \"\" is not 1 to 256 bytes without control characters",
            "user type \"\" is not 1 to 256 bytes without control characters",
            "user \"2\" is at location \"9\", which there is not",
            "user \"3\" is of organisation \"9\", which owns no location",
            "user \"4\" has neither locationId nor orgId",
            "user \"5\" has both a locationId and an orgId",
        ];
        for text in expected {
            assert!(problems.iter().any(|problem| problem == text), "{text} in {problems:#?}");
        }
    }

    #[test]
    fn many_problems_are_counted() {
        let users: Vec<_> = (0..100).map(|id| format!(r#"{{"id":"{id}"}}"#)).collect();
        let problems = problems(&format!(r#"{{"locations":[],"users":[{}]}}"#, users.join(",")));
        assert_eq!(problems.len(), MAX_PROBLEMS + 1);
        assert_eq!(problems.last().unwrap(), "and 80 more");
    }

    #[test]
    fn malformed_json_names_its_place() {
        let error = Directory::parse("{\n \"locations\": [], \"user\": []}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "not the JSON of a directory: unknown field `user`, expected `locations` or `users` at line 2 column 24"
        );
    }

    #[test]
    fn missing_file_is_named() {
        let error = Directory::load(Path::new("/nowhere/users.json")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read /nowhere/users.json: No such file or directory (os error 2)"
        );
    }
}
