//! The one place that names the domain: a team puts its own here.
//!
//! The rest of `main` hands on what it gets from here, and must never look into it.

use std::{path::Path, sync::Arc, time::Duration};

use pubsub_relay::{
    auth,
    domain::Domain,
    domains::tutorial::{Directory, EXAMPLES, Tutorial, schema},
    graphql::{self, Api},
    web::Tab,
};

/// What the domain of each pod grows from: the tutorial's users and locations.
#[derive(Clone)]
pub(crate) struct Seed(Directory);

impl Seed {
    pub(crate) fn built_in() -> Self {
        Self(Directory::built_in())
    }

    /// What `RELAY_DIRECTORY` names, or all that is wrong with it.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        Directory::load(path).map(Self).map_err(|problem| problem.to_string())
    }

    /// A domain of its own for one pod, which remembers for so long, and the schema over it.
    pub(crate) fn grow(&self, retention: Duration) -> (Arc<dyn Domain>, Arc<dyn Api>) {
        let tutorial = Tutorial::new(self.0.clone(), retention);
        (tutorial.clone(), graphql::build(schema(tutorial)))
    }
}

/// What the page opens with. A demo token is no secret; of others it only says where they belong.
pub(crate) fn tabs(auth: &auth::Settings) -> Vec<Tab> {
    let is_demo = matches!(auth, auth::Settings::Demo);
    let token = |user: &str| if is_demo { user.into() } else { "TOKEN".into() };
    let tab = |(user, query): (&str, &str)| Tab { query: query.into(), token: token(user) };
    EXAMPLES.map(tab).into()
}
