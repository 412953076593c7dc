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
    Api, Domain, Tab, auth, build_api,
    cli::config::{BadFile, DomainFiles},
    domains::{
        declared::{self, Declared, directory::Directory as Tables, rules::Rules},
        tutorial::{Directory, EXAMPLES, Tutorial, schema},
    },
};

/// The largest file of a domain, in bytes. A larger one is not read further.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Factory of the domain of each pod.
#[derive(Clone)]
pub(crate) enum DomainFactory {
    /// The tutorial's, with these users and locations.
    Tutorial(Directory),
    /// That of a schema file, with its tables.
    Declared(Arc<Rules>, Tables),
}

impl DomainFactory {
    /// Creates a factory with the tutorial's built-in directory.
    pub(crate) fn built_in() -> Self {
        Self::Tutorial(Directory::built_in())
    }

    /// Creates a factory from the files that `RELAY_SCHEMA` and `RELAY_DIRECTORY` name.
    ///
    /// # Errors
    /// Everything that is wrong with one of the files.
    pub(crate) fn load(files: &DomainFiles) -> Result<Self, BadFile> {
        let Some(path) = &files.schema else {
            let Some(directory) = &files.directory else { return Ok(Self::built_in()) };
            let directory = Directory::load(directory);
            return directory.map(Self::Tutorial).map_err(|problem| BadFile::Directory(problem.to_string()));
        };
        let rules = checked(path).map_err(BadFile::Schema)?;
        let tables = match &files.directory {
            Some(directory) => read(directory).map_err(|problem| BadFile::Directory(problem.to_string()))?,
            None if rules.has_tables() => return Err(BadFile::NoDirectory),
            None => "{}".to_owned(),
        };
        let tables = Tables::parse(&tables, &rules);
        let tables = tables.map_err(|problem| BadFile::Directory(problem.to_string()))?;
        Ok(Self::Declared(rules, tables))
    }

    /// Creates the domain of one pod and its API. The domain's state goes back for `retention`.
    pub(crate) fn make(&self, retention: Duration) -> (Arc<dyn Domain>, Arc<dyn Api>) {
        match self {
            Self::Tutorial(directory) => {
                let tutorial = Tutorial::new(directory.clone(), retention);
                (tutorial.clone(), build_api(schema(tutorial)))
            }
            Self::Declared(rules, tables) => {
                let domain = Declared::new(rules.clone(), tables.clone(), retention);
                let api = declared::api(&domain).expect("the same API was made when the file was checked");
                (domain, api)
            }
        }
    }

    /// Creates the domain of the schema file, if there is one.
    pub(crate) fn declared(&self) -> Option<Arc<Declared>> {
        match self {
            Self::Tutorial(_) => None,
            Self::Declared(rules, tables) => {
                Some(Declared::new(rules.clone(), tables.clone(), Duration::ZERO))
            }
        }
    }

    /// Returns the tabs that the page opens with. A demo token is no secret; with other tokens a
    /// tab only shows their place.
    pub(crate) fn tabs(&self, auth: &auth::Settings) -> Vec<Tab> {
        let is_demo = matches!(auth, auth::Settings::Demo);
        let token = |user: &str| if is_demo { user.into() } else { "TOKEN".into() };
        let tab = |(user, query): (&str, &str)| Tab { query: query.into(), token: token(user) };
        match self {
            Self::Tutorial(_) => EXAMPLES.map(tab).into(),
            Self::Declared(rules, ..) => {
                let first = rules.subscriptions.first().map(|field| &field.name);
                let query =
                    first.map(|name| format!("subscription {{\n  {name} {{\n    __typename\n  }}\n}}\n"));
                query.iter().map(|query| tab(("ann", query))).collect()
            }
        }
    }
}

/// Returns what a schema file's fields cost, or everything that is wrong with the file: one line
/// each, with its place.
pub(crate) fn check(path: &Path) -> Result<String, Vec<String>> {
    checked(path).map(|rules| declared::costs(&rules))
}

/// Returns the definitions of the directives of schema files.
pub(crate) const fn directives() -> &'static str {
    declared::DIRECTIVES
}

/// Reads and checks a schema file.
fn checked(path: &Path) -> Result<Arc<Rules>, Vec<String>> {
    let file = path.display();
    let text = read(path).map_err(|problem| vec![format!("{file}:1:1: cannot be read: {problem}")])?;
    let rules = Rules::parse(&text);
    let rules =
        rules.map_err(|found| found.iter().map(|problem| format!("{file}:{problem}")).collect::<Vec<_>>())?;
    let rules = Arc::new(rules);
    let domain = Declared::new(rules.clone(), Tables::default(), Duration::ZERO);
    declared::api(&domain).map_err(|problem| vec![format!("{file}:1:1: {problem}")])?;
    Ok(rules)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}
