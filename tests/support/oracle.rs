//! The tutorial's domain in Rust: the oracle of its schema file.
//!
//! It says the same in other words: resolvers and sets of locations instead of directives and
//! keys, and a naive state. It must share no code with the declared domain.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use async_graphql::{
    Context, ID, InputObject, MaybeUndefined, Object, Schema, SchemaBuilder, SimpleObject, Subscription,
};
use futures_util::{Stream, StreamExt as _};
use pubsub_relay::{
    Audience, Domain, Error, Event, Fact, Identity, Interests, Key, Unreadable, Viewer, payloads, publish,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const ADDED: &str = "template.added.v1";
const EDITED: &str = "template.edited.v1";

/// The domain: its directory, and the templates of all events.
pub(crate) struct Tutorial {
    directory: Directory,
    templates: Mutex<BTreeMap<String, Versions>>,
}

/// Versions of a template: the last one of the feed, and one that this pod has just published.
type Versions = (Option<(SystemTime, Arc<str>, Arc<Template>)>, Option<Arc<Template>>);

#[derive(Deserialize)]
struct Directory {
    locations: Vec<Location>,
    users: Vec<User>,
}

#[derive(Deserialize, SimpleObject, Clone)]
#[serde(rename_all = "camelCase")]
struct Location {
    id: ID,
    name: String,
    org_id: ID,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    id: String,
    #[serde(rename = "type")]
    name: String,
    email: String,
    location_id: Option<String>,
    org_id: Option<String>,
}

#[derive(Clone, Serialize, SimpleObject)]
#[serde(rename_all = "camelCase")]
struct Template {
    id: ID,
    name: String,
    share_location_ids: Option<Vec<ID>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    id: WireId,
    name: String,
    share_location_ids: Option<Vec<WireId>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireId {
    Text(String),
    Number(i64),
}

impl From<WireId> for ID {
    fn from(id: WireId) -> Self {
        match id {
            WireId::Text(text) => Self(text),
            WireId::Number(number) => Self(number.to_string()),
        }
    }
}

fn key(location: &str) -> Key {
    // Keys of the file escape their separators; those of the oracle need not.
    format!("at {location}").into()
}

impl Tutorial {
    /// Creates the domain over this directory.
    pub(crate) fn new(directory: &str) -> Arc<Self> {
        let directory = serde_json::from_str(directory).unwrap();
        Arc::new(Self { directory, templates: Mutex::default() })
    }

    fn template(&self, id: &str) -> Option<Arc<Template>> {
        self.templates.lock().unwrap().get(id).and_then(showing)
    }
}

fn showing((settled, own): &Versions) -> Option<Arc<Template>> {
    own.clone().or_else(|| settled.as_ref().map(|(_, _, template)| template.clone()))
}

impl Template {
    fn checked(id: ID, name: &str, share_location_ids: Option<Vec<ID>>) -> Result<Self, String> {
        let is_id = |id: &ID| (1..=256).contains(&id.chars().count()) && !id.chars().any(char::is_control);
        let name = name.trim();
        if !is_id(&id) || name.is_empty() || name.chars().count() > 200 {
            return Err("the id or the name is out of bounds".to_owned());
        }
        if share_location_ids.as_ref().is_some_and(|ids| ids.len() > 1_000 || !ids.iter().all(is_id)) {
            return Err("the locations are out of bounds".to_owned());
        }
        Ok(Self { id, name: name.to_owned(), share_location_ids })
    }
}

impl Domain for Tutorial {
    fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
        let mut users = self.directory.users.iter();
        let user = match identity {
            Identity::Demo(name) => users.find(|user| user.name == name),
            Identity::Claims(claims) => {
                let by_id = users.clone().find(|user| Some(&*user.id) == claims.subject());
                let verified = claims.get("email_verified");
                let is_verified = verified.is_some_and(|verified| *verified == true || *verified == "true");
                let email = claims.get("email").and_then(|email| email.as_str()).filter(|_| is_verified);
                by_id.or_else(|| {
                    users.find(|user| email.is_some_and(|email| user.email.eq_ignore_ascii_case(email)))
                })
            }
            _ => None,
        }?;
        let owned = |organisation: &str| {
            let locations = self.directory.locations.iter();
            locations
                .filter(|location| *location.org_id == *organisation)
                .map(|location| key(&location.id))
                .collect()
        };
        let keys: Vec<Key> = match (&user.location_id, &user.org_id) {
            (Some(location), _) => vec![key(location)],
            (None, Some(organisation)) => owned(organisation),
            (None, None) => Vec::new(),
        };
        Some(Viewer::new(user.id.as_str(), Interests::new(keys)))
    }

    fn read(&self, event: &Event) -> Result<Fact, Unreadable> {
        let malformed = |text: String| Unreadable::Malformed(text);
        let Wire { id, name, share_location_ids } =
            serde_json::from_slice(&event.data).map_err(|error| malformed(error.to_string()))?;
        let ids = share_location_ids.map(|ids| ids.into_iter().map(ID::from).collect());
        let template = Template::checked(id.into(), &name, ids).map_err(malformed)?;
        let keys: HashSet<Key> = template.share_location_ids.iter().flatten().map(|id| key(id)).collect();
        let (fields, audience) = match &*event.kind {
            ADDED => (vec!["templateAdded".into()], Audience::new(keys, event.author.clone())),
            EDITED => (Vec::new(), Audience::none()),
            _ => return Err(Unreadable::UnknownType),
        };
        Ok(Fact { fields, audience, payload: Arc::new(Arc::new(template)) })
    }

    fn apply(&self, event: &Event, fact: &Fact) {
        let Some(template) = fact.payload.downcast_ref::<Arc<Template>>() else { return };
        let mut templates = self.templates.lock().unwrap();
        let (settled, own) = templates.entry(template.id.to_string()).or_default();
        let Some(published) = event.published else {
            *own = Some(template.clone());
            return;
        };
        let is_last = settled.as_ref().is_none_or(|(time, id, _)| (*time, &**id) < (published, &*event.id));
        if is_last {
            *settled = Some((published, event.id.clone(), template.clone()));
        }
    }
}

/// Creates the schema over the domain.
pub(crate) fn schema(tutorial: Arc<Tutorial>) -> SchemaBuilder<Query, Mutation, Subscriptions> {
    Schema::build(Query, Mutation, Subscriptions).data(tutorial)
}

pub(crate) struct Query;
pub(crate) struct Mutation;
pub(crate) struct Subscriptions;

#[derive(SimpleObject)]
struct CommonResponse {
    success: bool,
    message: Option<String>,
    template: Option<Template>,
}

#[derive(InputObject)]
struct AddTemplateInput {
    name: String,
    share_location_ids: Option<Vec<ID>>,
}

#[derive(InputObject)]
struct EditTemplateInput {
    id: ID,
    name: Option<String>,
    share_location_ids: MaybeUndefined<Vec<ID>>,
}

#[Object]
impl Query {
    async fn templates(&self, ctx: &Context<'_>) -> Option<Vec<Template>> {
        let templates = tutorial(ctx).templates.lock().unwrap();
        Some(templates.values().filter_map(showing).map(|template| (*template).clone()).collect())
    }

    async fn template_by_id(&self, ctx: &Context<'_>, id: ID) -> Option<Template> {
        tutorial(ctx).template(&id).map(|template| (*template).clone())
    }

    async fn locations(&self, ctx: &Context<'_>) -> Option<Vec<Location>> {
        Some(tutorial(ctx).directory.locations.clone())
    }

    async fn locations_by_org_id(&self, ctx: &Context<'_>, id: ID) -> Option<Vec<Location>> {
        let locations = tutorial(ctx).directory.locations.iter();
        Some(locations.filter(|location| location.org_id == id).cloned().collect())
    }
}

#[Object]
impl Mutation {
    async fn add_template(
        &self,
        ctx: &Context<'_>,
        template_input: AddTemplateInput,
    ) -> Result<Option<CommonResponse>, Error> {
        let AddTemplateInput { name, share_location_ids } = template_input;
        let template = Template::checked(Uuid::now_v7().into(), &name, share_location_ids);
        let template = template.map_err(Error::bad_input)?;
        publish(ctx, ADDED, &template).await?;
        Ok(Some(done("template added", template)))
    }

    async fn edit_template(
        &self,
        ctx: &Context<'_>,
        template_input: EditTemplateInput,
    ) -> Result<Option<CommonResponse>, Error> {
        let EditTemplateInput { id, name, share_location_ids } = template_input;
        let template = tutorial(ctx).template(&id);
        let template = template.ok_or_else(|| Error::not_found("there is no template with this id"))?;
        let ids = match share_location_ids {
            MaybeUndefined::Undefined => template.share_location_ids.clone(),
            MaybeUndefined::Null => None,
            MaybeUndefined::Value(ids) => Some(ids),
        };
        let name = name.as_ref().unwrap_or(&template.name);
        let template = Template::checked(template.id.clone(), name, ids).map_err(Error::bad_input)?;
        publish(ctx, EDITED, &template).await?;
        Ok(Some(done("template edited", template)))
    }
}

#[Subscription(name = "Subscription")]
impl Subscriptions {
    async fn template_added(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "after")] _after: Option<String>,
    ) -> impl Stream<Item = Option<Template>> {
        payloads::<Arc<Template>>(ctx).map(|template| Some((*template).clone()))
    }
}

fn done(message: &str, template: Template) -> CommonResponse {
    CommonResponse { success: true, message: Some(message.to_owned()), template: Some(template) }
}

fn tutorial<'a>(ctx: &Context<'a>) -> &'a Tutorial {
    ctx.data_unchecked::<Arc<Tutorial>>()
}
