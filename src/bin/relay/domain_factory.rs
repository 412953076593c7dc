//! [`DomainFactory`]: the only place that names the domain. A team that writes Rust puts its own
//! domain here.
//!
//! The rest of the program only passes the domain on, and must never depend on its type.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use pubsub_relay::{
    Api, Domain, Identity, Tab, auth,
    cli::config::{BadFile, DomainFiles},
    domains::{
        declared::{self, Declared, directory::Directory, rules::Rules},
        tutorial::{self, EXAMPLES},
    },
};
use serde_json::{Value, json};

/// The largest file of a domain, in bytes. A larger one is not read further.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Factory of the domain of each pod: the rules of a schema file, with their tables.
#[derive(Clone)]
pub(crate) struct DomainFactory {
    rules: Arc<Rules>,
    directory: Directory,
    /// Whether the file is the tutorial's.
    is_tutorial: bool,
}

impl DomainFactory {
    /// Creates a factory with the tutorial's file and directory.
    pub(crate) fn built_in() -> Self {
        let rules = parsed("tutorial.graphql", tutorial::SCHEMA).expect("a test checks the tutorial's file");
        let directory = Directory::parse(tutorial::DIRECTORY, &rules).expect("a test reads it");
        Self { rules, directory, is_tutorial: true }
    }

    /// Creates a factory from the files that `RELAY_SCHEMA` and `RELAY_DIRECTORY` name.
    ///
    /// # Errors
    /// Everything that is wrong with one of the files.
    pub(crate) fn load(files: &DomainFiles) -> Result<Self, BadFile> {
        let built_in = Self::built_in();
        let (rules, is_tutorial) = match &files.schema {
            Some(path) => (checked(path).map_err(BadFile::Schema)?, false),
            None => (built_in.rules, true),
        };
        let text = match &files.directory {
            Some(path) => read(path).map_err(|problem| {
                BadFile::Directory(format!("cannot read {}: {problem}", path.display()))
            })?,
            None if is_tutorial => tutorial::DIRECTORY.to_owned(),
            None if rules.has_tables() => return Err(BadFile::NoDirectory),
            None => "{}".to_owned(),
        };
        let directory = Directory::parse(&text, &rules);
        let directory = directory.map_err(|problem| BadFile::Directory(problem.to_string()))?;
        Ok(Self { rules, directory, is_tutorial })
    }

    /// Creates the domain of one pod and its API. The domain's state goes back for `retention`.
    pub(crate) fn make(&self, retention: Duration) -> (Arc<dyn Domain>, Arc<dyn Api>) {
        let domain = Declared::new(self.rules.clone(), self.directory.clone(), retention);
        let api = declared::api(&domain).expect("the same API was made when the file was checked");
        (domain, api)
    }

    /// Creates the domain without state that lasts.
    pub(crate) fn declared(&self) -> Arc<Declared> {
        Declared::new(self.rules.clone(), self.directory.clone(), Duration::ZERO)
    }

    /// Returns the tabs that the page opens with. A demo token is no secret; with other tokens a
    /// tab only shows their place.
    pub(crate) fn tabs(&self, auth: &auth::Settings) -> Vec<Tab> {
        let is_demo = matches!(auth, auth::Settings::Demo);
        let token = |user: &str| if is_demo { user.into() } else { "TOKEN".into() };
        let tab = |(user, query): (&str, &str)| Tab { query: query.into(), token: token(user) };
        if self.is_tutorial {
            return EXAMPLES.map(tab).into();
        }
        let first = self.rules.subscriptions.first().map(|field| &field.name);
        let query = first.map(|name| format!("subscription {{\n  {name} {{\n    __typename\n  }}\n}}\n"));
        query.iter().map(|query| tab(("ann", query))).collect()
    }

    /// Returns what the story of a cluster shows of the domain: demo users with the keys that they
    /// listen to, and the audience of the first subscription.
    pub(crate) fn story(&self) -> Value {
        let domain = self.declared();
        let mut tokens = domain.demo_names();
        if self.is_tutorial {
            tokens = CAST.map(str::to_owned).into();
        } else if tokens.is_empty() {
            tokens = ANYONE.map(str::to_owned).into();
        }
        let users = tokens.iter().filter_map(|token| {
            let viewer = domain.viewer(Identity::Demo(token))?;
            let keys: Vec<&str> = viewer.interests.keys().iter().map(|key| &**key).collect();
            Some(json!({ "token": token, "id": &*viewer.user, "keys": keys }))
        });
        let users: Value = users.collect();
        let audience = self.rules.subscriptions.first().map(|field| {
            let keys: Vec<_> = field.audience.keys.iter().map(|key| key.template.text()).collect();
            json!({ "field": &*field.name, "keys": keys, "exceptAuthor": field.audience.excludes_author })
        });
        json!({ "isTutorial": self.is_tutorial, "users": users, "audience": audience })
    }
}

/// Users of the tutorial, in the order of the story: the author, two who receive, one who does not.
const CAST: [&str; 4] = ["ZOWI", "ZOLO", "ZEWI", "ZELO"];

/// Demo users of a domain without a table of users: any token stands for a user.
const ANYONE: [&str; 4] = ["ann", "bob", "cat", "dan"];

/// Returns what a schema file's fields cost, or everything that is wrong with the file: one line
/// each, with its place. Tables are checked, too, if there are any.
pub(crate) fn check(files: &DomainFiles) -> Result<String, BadFile> {
    let rules = match (DomainFactory::load(files), &files.schema) {
        (Err(BadFile::NoDirectory), Some(path)) => checked(path).map_err(BadFile::Schema)?,
        (loaded, _) => loaded?.rules,
    };
    Ok(declared::costs(&rules))
}

/// Returns the definitions of the directives of schema files.
pub(crate) const fn directives() -> &'static str {
    declared::DIRECTIVES
}

/// Reads and checks a schema file.
fn checked(path: &Path) -> Result<Arc<Rules>, Vec<String>> {
    let file = path.display().to_string();
    let text = read(path).map_err(|problem| vec![format!("{file}:1:1: cannot be read: {problem}")])?;
    parsed(&file, &text)
}

/// Checks the text of a schema file.
fn parsed(file: &str, text: &str) -> Result<Arc<Rules>, Vec<String>> {
    let rules = Rules::parse(text);
    let rules =
        rules.map_err(|found| found.iter().map(|problem| format!("{file}:{problem}")).collect::<Vec<_>>())?;
    let rules = Arc::new(rules);
    let domain = Declared::new(rules.clone(), Directory::default(), Duration::ZERO);
    declared::api(&domain).map_err(|problem| vec![format!("{file}:1:1: {problem}")])?;
    Ok(rules)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}
