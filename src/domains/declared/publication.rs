//! Runs a field of `Mutation`: makes an event of the input, publishes it, and answers.
//!
//! The event is read before it is published, as every pod will read it. So no pod publishes what
//! the others refuse.

use std::sync::Arc;

use serde_json::Value as Json;

use super::{
    allow, cells,
    domain::Declared,
    json::written,
    mutation_rule::{Answer, Input, MutationRule},
    payload::{Envelope, Object, Payload, Value},
    reader::{self, Breach},
    root_arguments::RootArguments,
    template::Root,
    types::{Field, Source},
    viewer_paths,
    wire::Wire,
};
use crate::{
    audience::Viewer,
    domain::Fact,
    event::Event,
    graphql::{Error, EventPublisher, Receipt},
};

/// Event that is ready to be published, with the answer to its mutation.
pub struct Publication {
    event: Event,
    fact: Fact,
    /// The answer. `None`: it is `true`.
    pub answer: Option<Arc<Object>>,
}

impl Publication {
    /// Makes the event of a mutation.
    ///
    /// # Errors
    /// `FORBIDDEN`; `NOT_FOUND` if there is no value to update; `BAD_USER_INPUT` with the path of a
    /// value that does not fit, and its bound.
    pub fn new(
        domain: &Declared,
        rule: &MutationRule,
        arguments: &RootArguments,
        viewer: &Viewer,
        event_publisher: &EventPublisher,
    ) -> Result<Self, Error> {
        allow::check(&rule.allows, arguments, viewer)?;
        let data = data(domain, rule, arguments, viewer)?;
        let mut event = event_publisher.event(&rule.kind, viewer.user.clone(), data.into());
        let envelope = Envelope::of(&event);
        let types = &domain.rules().types;
        let data =
            reader::read(types, rule.payload, &event.data, &envelope).map_err(|breach| refusal(&breach))?;
        let mut text = String::with_capacity(event.data.len());
        Wire::of(&data, types).write(&mut text);
        // Every pod reads the text, so it must say the same. A text that was read already does.
        if *event.data != *text.as_bytes() {
            event.data = text.into();
            let again = reader::read(types, rule.payload, &event.data, &envelope);
            if again.map_err(|breach| refusal(&breach))? != data {
                return Err(Error::bad_input("two inputs are written to the same place of the event"));
            }
        }
        let data = Arc::new(data);
        let answer = answer(domain, rule, &data, arguments, viewer)?;
        let fact = domain.fact(&event.kind, Payload { data, envelope });
        let fact = fact.map_err(|malformed| Error::bad_input(malformed.to_string()))?;
        Ok(Self { event, fact, answer })
    }

    /// Publishes the event. Once the topic has acknowledged it, queries on this pod see it.
    ///
    /// # Errors
    /// As of [`EventPublisher::commit`].
    pub async fn publish(
        self,
        event_publisher: &EventPublisher,
        receipt: &Receipt,
    ) -> Result<Option<Arc<Object>>, Error> {
        let Self { event, fact, answer } = self;
        event_publisher.commit(event, |_| Ok(fact), receipt).await?;
        Ok(answer)
    }
}

/// Returns the data of the event as JSON.
fn data(
    domain: &Declared,
    rule: &MutationRule,
    arguments: &RootArguments,
    viewer: &Viewer,
) -> Result<String, Error> {
    let types = &domain.rules().types;
    let fields = types.fields(rule.payload);
    let root = |root| document(root, arguments, viewer);
    let value = |input: &Input| match input {
        Input::Value(template) => Some(template.value(&root)),
        Input::Argument(name, None) => arguments.document().get(name.as_str()).cloned(),
        Input::Argument(name, Some(inner)) => arguments.document().get(name.as_str())?.get(&**inner).cloned(),
    };
    let mut wire = Wire::default();
    if let Some(field) = rule.updates {
        let wanted = rule.inputs.iter().find(|(number, _)| *number == field);
        let wanted = wanted.and_then(|(_, input)| value(input)).filter(|key| !key.is_null());
        let key = wanted.as_ref().map(cells::argument_text).unwrap_or_default();
        // A key that `data` makes is trimmed only when the event is read.
        let key = if fields[field].constraint.trims { key.trim() } else { &*key };
        let current = domain.values().get(rule.payload, key);
        let current = current.filter(|row| row.is_for(rule.row_audience, viewer));
        let name = &types.get(rule.payload).name;
        let current = current.ok_or_else(|| Error::not_found(format!("there is no such {name}")))?;
        wire = Wire::of(&current.value, types);
    }
    let is_made = |field: &Field| rule.updates.is_none() && &*field.name == "id";
    if let Some(Source::Path(path)) = fields.iter().find(|field| is_made(field)).map(|field| &field.source) {
        wire.set(path, format!("\"{}\"", uuid::Uuid::now_v7()));
    }
    for (number, input) in &rule.inputs {
        let field: &Field = &fields[*number];
        let Source::Path(path) = &field.source else { continue };
        match value(input) {
            None => {}
            Some(Json::Null) if rule.updates.is_some() && !field.wrapping.is_nullable => {}
            // The id that was made stays.
            Some(Json::Null) if is_made(field) => {}
            Some(value) => wire.set(path, written(&value)),
        }
    }
    let mut text = String::new();
    wire.write(&mut text);
    Ok(text)
}

/// Returns the answer of a mutation. `None`: it is `true`.
fn answer(
    domain: &Declared,
    rule: &MutationRule,
    data: &Arc<Object>,
    arguments: &RootArguments,
    viewer: &Viewer,
) -> Result<Option<Arc<Object>>, Error> {
    let (of, values) = match &rule.answer {
        Answer::True => return Ok(None),
        Answer::Data => return Ok(Some(data.clone())),
        Answer::Object(of, values) => (*of, values),
    };
    let types = &domain.rules().types;
    let root = |root| match root {
        Root::Data => Some(data.to_json(types)),
        root => document(root, arguments, viewer),
    };
    let fields = types.fields(of).iter().enumerate().map(|(number, field)| {
        let Some((_, template)) = values.iter().find(|(known, _)| *known == number) else {
            return Ok(Value::Null);
        };
        if template.is_data() && field.of == rule.payload && field.wrapping.element.is_none() {
            return Ok(Value::Object((**data).clone()));
        }
        let value = written(&template.value(&root));
        reader::read_value(types, of, field, &field.wrapping, true, &value).map_err(|breach| refusal(&breach))
    });
    Ok(Some(Arc::new(Object { of, fields: fields.collect::<Result<_, _>>()? })))
}

/// Returns the document that a path of `data` or `answer` starts at.
fn document(root: Root, arguments: &RootArguments, viewer: &Viewer) -> Option<Json> {
    match root {
        Root::Document => Some(arguments.document().clone()),
        Root::Viewer => Some(viewer_paths::document(viewer)),
        Root::Uuid => Some(uuid::Uuid::now_v7().to_string().into()),
        Root::Author | Root::Id | Root::Time | Root::Data => None,
    }
}

/// Returns the refusal of a value that does not fit.
fn refusal(breach: &Breach) -> Error {
    Error::bad_input(breach.to_string()).about(&breach.path)
}
