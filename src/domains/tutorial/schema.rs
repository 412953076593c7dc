//! The tutorial's GraphQL schema.
//!
//! It belongs to the domain and not to the engine, because all its names are the domain's.
//! Resolvers must answer from memory; only mutations wait, for the topic.

use std::{sync::Arc, time::SystemTime};

use async_graphql::{
    Context, ID, InputObject, MaybeUndefined, Object, Schema, SchemaBuilder, SimpleObject, Subscription,
};
use futures_util::{Stream, StreamExt as _};

use super::{
    TEMPLATE_ADDED, TEMPLATE_EDITED, Tutorial,
    location::Location,
    template::{InvalidTemplate, Template},
};
use crate::graphql::{Error, event_publisher::publish, subscription::payloads, take_room};

/// Creates the schema over this domain; [`crate::graphql::build`] finishes it.
pub fn schema(tutorial: Arc<Tutorial>) -> SchemaBuilder<Query, Mutation, Subscription> {
    Schema::build(Query, Mutation, Subscription).data(tutorial)
}

/// Queries of the tutorial.
pub struct Query;

/// Mutations of the tutorial.
pub struct Mutation;

/// Subscriptions of the tutorial.
pub struct Subscription;

/// Result of a mutation.
#[derive(SimpleObject)]
pub struct CommonResponse {
    /// Always true: a mutation that fails returns an error.
    success: bool,
    /// Text for people.
    message: Option<String>,
    /// The template as it is now.
    template: Option<Arc<Template>>,
}

/// Input for a new template.
#[derive(InputObject)]
pub struct AddTemplateInput {
    /// 1 to 200 characters, not counting space around it.
    name: String,
    /// At most 1,000 locations, known or not. Their ids have 128 KiB at most together.
    share_location_ids: Option<Vec<ID>>,
}

/// Input for an edit. A field that is left out stays as it is.
#[derive(InputObject)]
pub struct EditTemplateInput {
    /// The template to edit.
    id: ID,
    /// As in `AddTemplateInput`; null leaves the name as it is.
    name: Option<String>,
    /// As in `AddTemplateInput`; null shares the template with no location.
    share_location_ids: MaybeUndefined<Vec<ID>>,
}

#[Object]
impl Query {
    /// Returns the recent templates in the order of their ids, the same on every pod. A document
    /// may ask for them at most three times, because the result may have megabytes.
    #[graphql(complexity = "300 + child_complexity")]
    async fn templates(&self, ctx: &Context<'_>) -> Result<Option<Vec<Arc<Template>>>, Error> {
        let templates = tutorial(ctx).templates.list(SystemTime::now());
        let fields: Vec<_> = ctx.field().selection_set().map(|field| field.name()).collect();
        take_room(ctx, templates.iter().map(|template| template.bytes_of(&fields)).sum())?;
        Ok(Some(templates))
    }

    /// Returns the template with this id, if it is among the recent ones.
    async fn template_by_id(&self, ctx: &Context<'_>, id: ID) -> Option<Arc<Template>> {
        tutorial(ctx).templates.get(&id, SystemTime::now())
    }

    /// Returns all locations.
    async fn locations<'a>(&self, ctx: &Context<'a>) -> Option<&'a [Location]> {
        Some(tutorial(ctx).directory.locations())
    }

    /// Returns the locations that an organisation owns.
    async fn locations_by_org_id<'a>(&self, ctx: &Context<'a>, id: ID) -> Option<Vec<&'a Location>> {
        Some(tutorial(ctx).directory.locations().iter().filter(|location| location.org_id == id).collect())
    }
}

#[Object]
impl Mutation {
    /// Adds a template. The users at its locations receive it, except its author.
    async fn add_template(
        &self,
        ctx: &Context<'_>,
        template_input: AddTemplateInput,
    ) -> Result<Option<CommonResponse>, Error> {
        let AddTemplateInput { name, share_location_ids } = template_input;
        let template = Template::new(&name, share_location_ids)?;
        publish(ctx, TEMPLATE_ADDED, &template).await?;
        Ok(Some(CommonResponse::done("template added", template)))
    }

    /// Edits a template; only queries show the edit. Of two edits at a time, the last one published
    /// wins as a whole.
    async fn edit_template(
        &self,
        ctx: &Context<'_>,
        template_input: EditTemplateInput,
    ) -> Result<Option<CommonResponse>, Error> {
        let EditTemplateInput { id, name, share_location_ids } = template_input;
        let template = tutorial(ctx).templates.get(&id, SystemTime::now());
        let template = template.ok_or_else(|| Error::not_found("there is no template with this id"))?;
        let share_location_ids = match share_location_ids {
            MaybeUndefined::Undefined => template.share_location_ids.clone(),
            MaybeUndefined::Null => None,
            MaybeUndefined::Value(ids) => Some(ids),
        };
        let template = template.edited(name.as_ref().unwrap_or(&template.name), share_location_ids)?;
        publish(ctx, TEMPLATE_EDITED, &template).await?;
        Ok(Some(CommonResponse::done("template edited", template)))
    }
}

#[Subscription]
impl Subscription {
    /// Delivers each template that another user shares with a location of the viewer, from now on.
    /// With a cursor, the templates missed since then come first. Null means that some templates
    /// are missing (see the result's extensions).
    async fn template_added(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "after", desc = "The cursor of the last result that the client has.")]
        _after: Option<String>,
    ) -> impl Stream<Item = Option<Arc<Template>>> {
        payloads::<Arc<Template>>(ctx).map(Some)
    }
}

impl CommonResponse {
    fn done(message: &str, template: Template) -> Self {
        Self { success: true, message: Some(message.to_owned()), template: Some(Arc::new(template)) }
    }
}

impl From<InvalidTemplate> for Error {
    fn from(invalid: InvalidTemplate) -> Self {
        Self::bad_input(invalid.to_string())
    }
}

fn tutorial<'a>(ctx: &Context<'a>) -> &'a Tutorial {
    ctx.data_unchecked::<Arc<Tutorial>>()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use async_graphql::Request;
    use async_trait::async_trait;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        broker::{Publish, PublishError},
        domain::{Domain, Identity},
        domains::tutorial::Directory,
        event::Event,
        graphql::{self, Engine, EventPublisher},
        hub::{Hub, SendQueue, window::Bounds},
        telemetry::{Metrics, Refusals, traces::Messaging},
    };

    /// A topic that acknowledges everything, or nothing.
    struct Topic {
        acknowledges: bool,
    }

    #[async_trait]
    impl Publish for Topic {
        async fn publish(&self, _event: &Event) -> Result<(), PublishError> {
            if self.acknowledges { Ok(()) } else { Err(PublishError::TimedOut) }
        }

        async fn flush(&self) {}
    }

    const BOUNDS: Bounds = Bounds { span: Duration::from_secs(600), bytes: 1 << 20 };

    struct Pod {
        tutorial: Arc<Tutorial>,
        engine: Engine,
        hub: Hub,
    }

    impl Pod {
        fn new(acknowledges: bool) -> Self {
            let tutorial = Tutorial::new(Directory::built_in(), Duration::from_secs(600));
            let meter = Metrics::new("pod", false).unwrap().meter();
            let event_publisher = EventPublisher::new(
                Arc::new(Topic { acknowledges }),
                tutorial.clone(),
                Messaging { pod: "pod".into(), system: "memory", topic: "t".into() },
                &meter,
            );
            let (api, hub) =
                (graphql::build(schema(tutorial.clone())), Hub::new("t", BOUNDS, SystemTime::now()));
            let engine = Engine::new(api, event_publisher, hub.clone(), true, Refusals::new(&meter));
            Self { tutorial, engine, hub }
        }

        async fn run(&self, document: &str, variables: Value) -> Value {
            let request = Request::new(document).variables(async_graphql::Variables::from_json(variables));
            let viewer = self.tutorial.viewer(Identity::Demo("ZOWI")).unwrap();
            let answer = match self.engine.prepare(request) {
                Ok(prepared) => self.engine.answer(prepared, Arc::new(viewer)).await,
                Err(refusal) => graphql::Answer::refused(refusal),
            };
            serde_json::from_str(&answer.text).unwrap()
        }

        async fn add(&self, input: Value) -> Value {
            let document = "mutation($i: AddTemplateInput!) { addTemplate(templateInput: $i) {
                success message template { id name shareLocationIds } } }";
            self.run(document, json!({ "i": input })).await
        }

        async fn edit(&self, input: Value) -> Value {
            let document = "mutation($i: EditTemplateInput!) { editTemplate(templateInput: $i) {
                success template { id name shareLocationIds } } }";
            self.run(document, json!({ "i": input })).await
        }

        async fn templates(&self) -> Value {
            self.run("{ templates { id name shareLocationIds } }", json!({})).await["data"]["templates"]
                .take()
        }
    }

    #[tokio::test]
    async fn added_template_is_read_at_once() {
        let pod = Pod::new(true);
        let answer = pod.add(json!({ "name": " T ", "shareLocationIds": [3, "3", "x"] })).await;
        let added = &answer["data"]["addTemplate"];
        assert_eq!((&added["success"], &added["message"]), (&json!(true), &json!("template added")));
        assert_eq!(added["template"]["name"], "T");
        assert_eq!(added["template"]["shareLocationIds"], json!(["3", "x"]));
        assert_eq!(pod.templates().await, json!([added["template"]]));
        let by_id = "query($id: ID!) { templateById(id: $id) { name } }";
        let found = pod.run(by_id, json!({ "id": added["template"]["id"] })).await;
        assert_eq!(found["data"]["templateById"]["name"], "T");
        assert_eq!(pod.run(by_id, json!({ "id": "9" })).await["data"], json!({ "templateById": null }));
    }

    #[tokio::test]
    async fn templates_are_listed_in_order_of_adding() {
        let pod = Pod::new(true);
        for name in ["a", "b", "c"] {
            pod.add(json!({ "name": name })).await;
        }
        let names: Vec<_> = pod
            .templates()
            .await
            .as_array()
            .unwrap()
            .iter()
            .map(|template| template["name"].clone())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn edit_keeps_omitted_fields() {
        let pod = Pod::new(true);
        let added = pod.add(json!({ "name": "T", "shareLocationIds": ["3"] })).await;
        let id = &added["data"]["addTemplate"]["template"]["id"];
        for (input, name, ids) in [
            (json!({ "id": id }), "T", json!(["3"])),
            (json!({ "id": id, "name": "U" }), "U", json!(["3"])),
            (json!({ "id": id, "name": null, "shareLocationIds": ["1", "2"] }), "U", json!(["1", "2"])),
            (json!({ "id": id, "shareLocationIds": null }), "U", json!(null)),
        ] {
            let edited = pod.edit(input).await["data"]["editTemplate"].take();
            let expected = json!({ "id": id, "name": name, "shareLocationIds": ids });
            assert_eq!(edited, json!({ "success": true, "template": expected }));
            assert_eq!(pod.templates().await, json!([expected]));
        }
    }

    #[tokio::test]
    async fn bad_input_is_refused_with_its_code() {
        let pod = Pod::new(true);
        let code = |answer: Value| answer["errors"][0]["extensions"]["code"].clone();
        let empty = pod.add(json!({ "name": " " })).await;
        assert_eq!(
            empty["errors"][0]["message"],
            "name must have 1 to 200 characters, not counting space around it"
        );
        assert_eq!(code(empty), "BAD_USER_INPUT");
        let many = json!({ "name": "T", "shareLocationIds": vec!["1"; 1_001] });
        assert_eq!(code(pod.add(many).await), "BAD_USER_INPUT");
        assert_eq!(code(pod.edit(json!({ "id": "9", "name": "T" })).await), "NOT_FOUND");
        assert_eq!(pod.templates().await, json!([]));
    }

    #[tokio::test]
    async fn unacknowledged_template_is_not_stored() {
        let pod = Pod::new(false);
        let answer = pod.add(json!({ "name": "T" })).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "PUBLISH_FAILED");
        assert_eq!(pod.templates().await, json!([]));
    }

    #[tokio::test]
    async fn locations_match_directory() {
        let pod = Pod::new(true);
        let answer =
            pod.run("{ locations { id } locationsByOrgId(id: 2) { id name orgId } }", json!({})).await;
        assert_eq!(answer["data"]["locations"].as_array().unwrap().len(), 4);
        let expected = [("3", "Location 3"), ("4", "Location 4")]
            .map(|(id, name)| json!({ "id": id, "name": name, "orgId": "2" }));
        assert_eq!(answer["data"]["locationsByOrgId"], json!(expected));
    }

    #[tokio::test]
    async fn watchers_receive_template() {
        let pod = Pod::new(true);
        let send_queue = SendQueue::new(1 << 16);
        let viewer = Arc::new(pod.tutorial.viewer(Identity::Demo("ZOLO")).unwrap());
        let prepared =
            pod.engine.prepare(Request::new("subscription { templateAdded { id name } }")).unwrap();
        let _watching = pod.engine.watch(prepared, viewer, send_queue.clone(), 1, None).await.unwrap();
        let data = br#"{"id":7,"name":"T","shareLocationIds":[3]}"#;
        let event = Event::new("/test".into(), TEMPLATE_ADDED, Some("3".into()), data.as_slice().into());
        let fact = pod.tutorial.read(&event).unwrap();
        pod.hub.dispatch(event, fact, true).await;
        let delivered: Value = serde_json::from_str(&send_queue.take()[0].result.payload).unwrap();
        assert_eq!(delivered["data"], json!({ "templateAdded": { "id": "7", "name": "T" } }));
    }

    #[test]
    fn schema_matches_tutorial() {
        let tutorial = Tutorial::new(Directory::built_in(), Duration::from_secs(600));
        let sdl = graphql::build(schema(tutorial)).sdl();
        assert_eq!(
            sdl,
            include_str!("../../../schema.graphql"),
            "write it anew with `relay schema > schema.graphql`"
        );
        let lines: Vec<&str> = sdl.lines().map(str::trim).collect();
        for line in [
            "type Template {",
            "shareLocationIds: [ID!]",
            "orgId: ID!",
            "success: Boolean!",
            "message: String",
            "template: Template",
            "templates: [Template!]",
            "templateById(id: ID!): Template",
            "locations: [Location!]",
            "locationsByOrgId(id: ID!): [Location!]",
            "addTemplate(templateInput: AddTemplateInput!): CommonResponse",
            "editTemplate(templateInput: EditTemplateInput!): CommonResponse",
            "): Template",
        ] {
            assert!(lines.contains(&line), "{line} in {sdl}");
        }
    }
}
