//! Fields of `Mutation`: each publishes an event.
//!
//! Only the checks are here. What runs a mutation comes with its plan.

use async_graphql::{
    Name, Pos, Value,
    parser::types::{BaseType, ConstDirective, FieldDefinition},
};

use super::{
    arguments, audience_rule,
    directives::Place,
    event_types::EventTypes,
    key_rule::{self, KeyRule},
    problem::Problems,
    sdl::{File, named},
    state::{self, States},
    template::{Root, Template},
    types::{Field, Kind, Scalar, Source, TypeId, Types},
};

/// Tables that the checks of a mutation read.
pub struct Context<'a> {
    /// Definitions of the file.
    pub file: &'a File,
    /// Types of the file.
    pub types: &'a Types,
    /// State behind queries.
    pub states: &'a States,
    /// Types of the data of events.
    pub events: &'a EventTypes,
}

/// Checks the fields of `Mutation`. Returns the keys of their audiences and their `@allow`s.
pub fn check(context: &Context<'_>, problems: &mut Problems) -> Vec<KeyRule> {
    let fields = context.file.get("Mutation").into_iter().flat_map(|root| root.fields());
    fields.flat_map(|field| check_field(&field.node, context, problems)).collect()
}

fn check_field(field: &FieldDefinition, context: &Context<'_>, problems: &mut Problems) -> Vec<KeyRule> {
    let Context { types, .. } = *context;
    let name = &field.name.node;
    let allows = audience_rule::allows(field, types, problems);
    let Some(publish) = arguments::find(&field.directives, "publish") else {
        problems.add(field.name.pos, format!("`{name}` has no `@publish`, so that it does nothing; add one"));
        return allows;
    };
    let Some(kind) = arguments::text(publish, "type") else { return allows };
    let Some(payload) = context.events.payload(kind) else {
        let text = format!("no field or projection reads events `{kind}`; correct the type, or add `@event`");
        problems.add(arguments::place_of(publish, "type"), text);
        return allows;
    };
    let is_update = arguments::flag(publish, "update");
    let audience = arguments::find(&field.directives, "audience");
    if let (Some(audience), false) = (audience, is_update) {
        let text =
            "an audience on a mutation guards the value that it updates; add `update: true` or leave it out";
        problems.add(audience.name.pos, text);
    }
    let audience = audience_rule::audience(field, Place::Mutation, &[payload], types, problems);
    check_data(field, publish, payload, context, problems);
    check_answer(field, publish, payload, context, problems);
    audience.into_iter().flat_map(|audience| audience.keys).chain(allows).collect()
}

/// Checks that the input gives every field of the event's data that may not be null.
fn check_data(
    field: &FieldDefinition,
    publish: &ConstDirective,
    payload: TypeId,
    context: &Context<'_>,
    problems: &mut Problems,
) {
    let Context { types, .. } = *context;
    let at = arguments::place_of(publish, "data");
    let data = object(publish, "data");
    for (name, value) in &data {
        match types.fields(payload).iter().find(|known| *known.name == **name) {
            None => {
                problems.add(at, format!("`{}` has no field `{name}`; correct it", types.get(payload).name))
            }
            Some(known) if !matches!(known.source, Source::Path(_)) => {
                problems.add(at, format!("`{name}` is part of the event's envelope; leave it out of `data`"));
            }
            Some(_) => check_value(at, value, field, context, false, problems),
        }
    }
    let is_update = arguments::flag(publish, "update");
    let projection = context.states.by_type.get(&payload);
    let projection = projection.filter(|state| matches!(state.source, state::Source::Projection(_)));
    if is_update && projection.is_none() {
        let text = format!(
            "`{}` has no `@projection`, so that there is no value to update",
            types.get(payload).name
        );
        problems.add(arguments::place_of(publish, "update"), text);
        return;
    }
    let mut is_ambiguous = false;
    for (number, wanted) in types.fields(payload).iter().enumerate() {
        if !matches!(wanted.source, Source::Path(_)) || data.iter().any(|(name, _)| **name == *wanted.name) {
            continue;
        }
        let is_key = projection.is_some_and(|state| state.key == number);
        let is_made = &*wanted.name == "id" && !is_update;
        let is_needed = if is_update { is_key } else { !wanted.wrapping.is_nullable && !is_made };
        match (inputs(field, &wanted.name, types).as_slice(), is_needed) {
            ([], true) => {
                let text = format!(
                    "nothing gives `{}` of the event; add an argument, or name it in `data`",
                    wanted.name
                );
                problems.add(publish.name.pos, text);
            }
            ([first, _, ..], _) if !is_ambiguous => {
                is_ambiguous = true;
                let text = format!("two inputs have `{}` of the event; name one in `data`", wanted.name);
                problems.add(*first, text);
            }
            _ => {}
        }
    }
}

/// Returns the places of the arguments that give a field of the event: the argument of its name,
/// or else every input object with a field of its name.
fn inputs(field: &FieldDefinition, wanted: &str, types: &Types) -> Vec<Pos> {
    let arguments = || field.arguments.iter().map(|argument| &argument.node);
    if let Some(same) = arguments().find(|argument| argument.name.node == wanted) {
        return vec![same.name.pos];
    }
    let has = |fields: &[Field]| fields.iter().any(|field| *field.name == *wanted);
    let mut places = Vec::new();
    for argument in arguments() {
        let is_list = matches!(argument.ty.node.base, BaseType::List(_));
        let id = types.id(named(&argument.ty.node));
        if id.is_some_and(|id| {
            !is_list && matches!(types.get(id).kind, Kind::Input(_)) && has(types.fields(id))
        }) {
            places.push(argument.name.pos);
        }
    }
    places
}

/// Checks the templates of a value of `data` or `answer`.
fn check_value(
    at: Pos,
    value: &Value,
    field: &FieldDefinition,
    context: &Context<'_>,
    is_answer: bool,
    problems: &mut Problems,
) {
    match value {
        Value::List(items) => {
            for item in items {
                check_value(at, item, field, context, is_answer, problems);
            }
        }
        Value::Object(fields) => {
            for item in fields.values() {
                check_value(at, item, field, context, is_answer, problems);
            }
        }
        Value::String(text) => match Template::parse(text) {
            Ok(template) => check_text(at, &template, field, context, is_answer, problems),
            Err(error) => problems.add(at, error.to_string()),
        },
        _ => {}
    }
}

fn check_text(
    at: Pos,
    template: &Template,
    field: &FieldDefinition,
    context: &Context<'_>,
    is_answer: bool,
    problems: &mut Problems,
) {
    let is_longer = template.only_placeholder().is_none();
    for placeholder in template.placeholders() {
        match placeholder.root {
            Root::Viewer | Root::Uuid => {}
            Root::Data if is_answer && (!is_longer || !placeholder.steps.is_empty()) => {}
            Root::Document => match key_rule::argument(field, &placeholder.steps, context.types) {
                None => problems.add(at, format!("there is no argument `{placeholder}`; correct the path")),
                Some(found) if is_longer && (found.is_list || !context.types.is_leaf(found.of)) => {
                    let text =
                        format!("`{placeholder}` is a list or an object, which no longer text can hold");
                    problems.add(at, text);
                }
                Some(_) => {}
            },
            _ => problems
                .add(at, format!("`{{{placeholder}}}` is not known here; use arguments or the viewer")),
        }
    }
}

/// Checks that the answer gives every field that may not be null.
fn check_answer(
    field: &FieldDefinition,
    publish: &ConstDirective,
    payload: TypeId,
    context: &Context<'_>,
    problems: &mut Problems,
) {
    let Context { types, .. } = *context;
    let Some(of) = types.id(named(&field.ty.node)) else { return };
    let is_list = matches!(field.ty.node.base, BaseType::List(_));
    if publish.get_argument("answer").is_none() {
        let is_boolean = types.get(of).kind == Kind::Scalar(Scalar::Boolean);
        if is_list || (of != payload && !is_boolean) {
            let (ours, event) = (&field.ty.node, &types.get(payload).name);
            let text = format!("the event is no `{ours}`; return `{event}` or Boolean, or add `answer`");
            problems.add(field.ty.pos, text);
        }
        return;
    }
    let at = arguments::place_of(publish, "answer");
    if is_list || !types.is_object(of) {
        problems.add(field.ty.pos, "a field with `answer` returns one object; make it one");
        return;
    }
    let answer = object(publish, "answer");
    for (name, value) in &answer {
        if types.fields(of).iter().any(|known| *known.name == **name) {
            check_value(at, value, field, context, true, problems);
        } else {
            problems.add(at, format!("`{}` has no field `{name}`; correct it", types.get(of).name));
        }
    }
    for wanted in types.fields(of) {
        if !wanted.wrapping.is_nullable && !answer.iter().any(|(name, _)| **name == *wanted.name) {
            problems.add(at, format!("the answer lacks `{}`, which may not be null; add it", wanted.name));
        }
    }
}

/// Returns the fields of an argument that is an object; none if it is absent.
fn object<'a>(directive: &'a ConstDirective, name: &str) -> Vec<(&'a Name, &'a Value)> {
    match directive.get_argument(name).map(|value| &value.node) {
        Some(Value::Object(fields)) => fields.iter().collect(),
        _ => Vec::new(),
    }
}
