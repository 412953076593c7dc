//! [`DomainFactory`]: the one place that names the domain. A team puts its own here.
//!
//! The rest of the program hands on what it gets from here, and must never look into it.

use std::{path::Path, sync::Arc, time::Duration};

use pubsub_relay::{
    Api, Domain, Tab, auth, build_api,
    domains::tutorial::{Directory, EXAMPLES, Tutorial, schema},
};

/// Makes a domain for each pod: the tutorial's, with these users and locations.
#[derive(Clone)]
pub(crate) struct DomainFactory(Directory);

impl DomainFactory {
    /// Creates a factory with the tutorial's own directory.
    pub(crate) fn built_in() -> Self {
        Self(Directory::built_in())
    }

    /// Reads the file that `RELAY_DIRECTORY` names, or returns everything that is wrong with it.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        Directory::load(path).map(Self).map_err(|problem| problem.to_string())
    }

    /// Makes the domain of one pod, whose state goes back for `retention`, and its API.
    pub(crate) fn make(&self, retention: Duration) -> (Arc<dyn Domain>, Arc<dyn Api>) {
        let tutorial = Tutorial::new(self.0.clone(), retention);
        (tutorial.clone(), build_api(schema(tutorial)))
    }
}

/// Returns the tabs that the page opens with. A demo token is no secret; with other tokens a tab only shows their place.
pub(crate) fn tabs(auth: &auth::Settings) -> Vec<Tab> {
    let is_demo = matches!(auth, auth::Settings::Demo);
    let token = |user: &str| if is_demo { user.into() } else { "TOKEN".into() };
    let tab = |(user, query): (&str, &str)| Tab { query: query.into(), token: token(user) };
    EXAMPLES.map(tab).into()
}
