//! [`DomainFactory`]: the only place that names the domain. A team puts its own domain here.
//!
//! The rest of the program only passes the domain on, and must never depend on its type.

use std::{path::Path, sync::Arc, time::Duration};

use pubsub_relay::{
    Api, Domain, Tab, auth, build_api,
    domains::tutorial::{Directory, EXAMPLES, Tutorial, schema},
};

/// Factory of the domain of each pod: the tutorial's, with these users and locations.
#[derive(Clone)]
pub(crate) struct DomainFactory(Directory);

impl DomainFactory {
    /// Creates a factory with the tutorial's built-in directory.
    pub(crate) fn built_in() -> Self {
        Self(Directory::built_in())
    }

    /// Creates a factory from the file that `RELAY_DIRECTORY` names.
    ///
    /// # Errors
    /// A text with the faults of the file.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        Directory::load(path).map(Self).map_err(|problem| problem.to_string())
    }

    /// Creates the domain of one pod and its API. The domain's state goes back for `retention`.
    pub(crate) fn make(&self, retention: Duration) -> (Arc<dyn Domain>, Arc<dyn Api>) {
        let tutorial = Tutorial::new(self.0.clone(), retention);
        (tutorial.clone(), build_api(schema(tutorial)))
    }
}

/// Returns the tabs that the page opens with. Demo tokens are no secret, so the tabs contain them.
/// Otherwise a tab has a placeholder.
pub(crate) fn tabs(auth: &auth::Settings) -> Vec<Tab> {
    let is_demo = matches!(auth, auth::Settings::Demo);
    let token = |user: &str| if is_demo { user.into() } else { "TOKEN".into() };
    let tab = |(user, query): (&str, &str)| Tab { query: query.into(), token: token(user) };
    EXAMPLES.map(tab).into()
}
