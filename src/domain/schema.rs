//! The tutorial's GraphQL schema: what clients may ask, do and watch.

use std::sync::Arc;

use async_graphql::{
    Context, ID, InputObject, MaybeUndefined, Object, Schema, SchemaBuilder, SimpleObject, Subscription,
};
use futures_util::Stream;

use super::{ADDED, EDITED, Tutorial, location::Location, template::Template};
use crate::graphql::{Error, mutation::publish, subscription::payloads};

/// The schema, over this tutorial's state.
pub fn schema(tutorial: Arc<Tutorial>) -> SchemaBuilder<Query, Mutation, Subscriptions> {
    Schema::build(Query, Mutation, Subscriptions).data(tutorial)
}

fn tutorial<'a>(ctx: &'a Context<'_>) -> &'a Tutorial {
    ctx.data_unchecked::<Arc<Tutorial>>()
}

/// What clients may ask.
pub struct Query;

#[Object]
impl Query {
    async fn templates(&self, ctx: &Context<'_>) -> Option<Vec<Template>> {
        Some(tutorial(ctx).templates().all())
    }

    async fn template_by_id(&self, ctx: &Context<'_>, id: ID) -> Option<Template> {
        tutorial(ctx).templates().get(&id)
    }

    async fn locations(&self, ctx: &Context<'_>) -> Option<Vec<Location>> {
        Some(tutorial(ctx).directory().locations().to_vec())
    }

    async fn locations_by_org_id(&self, ctx: &Context<'_>, id: ID) -> Option<Vec<Location>> {
        let locations = tutorial(ctx).directory().locations().iter();
        Some(locations.filter(|location| *location.org_id == **id).cloned().collect())
    }
}

/// What clients may do.
pub struct Mutation;

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

/// How a mutation went.
#[derive(SimpleObject)]
struct CommonResponse {
    success: bool,
    message: Option<String>,
    template: Option<Template>,
}

#[Object]
impl Mutation {
    async fn add_template(
        &self,
        ctx: &Context<'_>,
        template_input: AddTemplateInput,
    ) -> Result<Option<CommonResponse>, Error> {
        let locations = template_input.share_location_ids.map(texts);
        let template = Template::add(&template_input.name, locations).map_err(Error::bad_input)?;
        publish(ctx, ADDED, &template).await?;
        Ok(done("template added", template))
    }

    async fn edit_template(
        &self,
        ctx: &Context<'_>,
        template_input: EditTemplateInput,
    ) -> Result<Option<CommonResponse>, Error> {
        let EditTemplateInput { id, name, share_location_ids } = template_input;
        let current =
            tutorial(ctx).templates().get(&id).ok_or_else(|| Error::not_found("no such template"))?;
        let locations = match share_location_ids {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(ids) => Some(Some(texts(ids))),
        };
        let template = current.edit(name.as_deref(), locations).map_err(Error::bad_input)?;
        publish(ctx, EDITED, &template).await?;
        Ok(done("template edited", template))
    }
}

fn texts(ids: Vec<ID>) -> Vec<String> {
    ids.into_iter().map(|id| id.0).collect()
}

fn done(message: &str, template: Template) -> Option<CommonResponse> {
    Some(CommonResponse { success: true, message: Some(message.to_owned()), template: Some(template) })
}

/// What clients may watch.
pub struct Subscriptions;

#[Subscription(name = "Subscription")]
impl Subscriptions {
    async fn template_added(&self, ctx: &Context<'_>) -> impl Stream<Item = Option<Template>> {
        use futures_util::StreamExt as _;
        payloads::<Template>(ctx).map(Some)
    }
}
