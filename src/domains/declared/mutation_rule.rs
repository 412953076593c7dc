//! Fields of `Mutation`: each publishes an event.
//!
//! [`super::publication`] runs them.

use std::collections::HashSet;

use async_graphql::{
    Name, Positioned, Value,
    parser::types::{BaseType, ConstDirective, FieldDefinition},
};

use super::{
    arguments,
    audience_rule::{self, AudienceRule},
    directives::Place,
    event_types::EventTypes,
    key_rule::{self, KeyRule},
    problem::Problems,
    row::{AudienceNumber, RowAudiences},
    sdl::{File, named},
    state::{self, States},
    template::Root,
    trim::Trim,
    types::{Field, Kind, Scalar, Source, TypeId, Types},
    value_check::ValueCheck,
    value_template::ValueTemplate,
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

/// Field of `Mutation`.
#[derive(Clone, Debug)]
pub struct MutationRule {
    /// Definition of the field.
    pub definition: FieldDefinition,
    /// Type of the event.
    pub kind: Box<str>,
    /// Type of the event's data.
    pub payload: TypeId,
    /// Number of the field that has the key, if the mutation updates a projected value.
    pub updates: Option<usize>,
    /// Audience of the value that is updated. The default: everyone.
    pub audience: AudienceRule,
    /// Number of the audience among those of the values.
    pub row_audience: AudienceNumber,
    /// Keys that a viewer must listen to before anything is published.
    pub allows: Vec<KeyRule>,
    /// Origin of each field of the data that the input gives.
    pub inputs: Vec<(usize, Input)>,
    /// Arguments that are trimmed.
    pub trims: Vec<Trim>,
    /// Answer.
    pub answer: Answer,
}

/// Origin of a field of the data.
#[derive(Clone, Debug)]
pub enum Input {
    /// Value of the directive's `data`.
    Value(ValueTemplate),
    /// Argument, or a field of an argument.
    Argument(Name, Option<Box<str>>),
}

/// What a mutation answers once its event is published.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Data of the event.
    Data,
    /// `true`.
    True,
    /// Object of this type, with the values of some of its fields.
    Object(TypeId, Vec<(usize, ValueTemplate)>),
}

/// Reads the fields of `Mutation`. A field with a mistake may lack a part.
pub fn mutations(
    context: &Context<'_>,
    audiences: &mut RowAudiences,
    problems: &mut Problems,
) -> Vec<MutationRule> {
    let fields = context.file.get("Mutation").into_iter().flat_map(|root| root.fields());
    fields.filter_map(|field| read(&field.node, context, audiences, problems)).collect()
}

fn read(
    field: &FieldDefinition,
    context: &Context<'_>,
    audiences: &mut RowAudiences,
    problems: &mut Problems,
) -> Option<MutationRule> {
    let Context { types, .. } = *context;
    let name = &field.name.node;
    let allows = audience_rule::allows(field, types, problems);
    let Some(publish) = arguments::find(&field.directives, "publish") else {
        problems.add(field.name.pos, format!("`{name}` has no `@publish`, so that it does nothing; add one"));
        return None;
    };
    let kind = arguments::text(publish, "type")?;
    let Some(payload) = context.events.payload(kind) else {
        let text = format!("no field or projection reads events `{kind}`; correct the type, or add `@event`");
        problems.add(arguments::place_of(publish, "type"), text);
        return None;
    };
    let is_update = arguments::flag(publish, "update");
    let audience = arguments::find(&field.directives, "audience");
    if let (Some(audience), false) = (audience, is_update) {
        let text =
            "an audience on a mutation guards the value that it updates; add `update: true` or leave it out";
        problems.add(audience.name.pos, text);
    }
    let audience = audience_rule::audience(field, Place::Mutation, &[payload], types, problems);
    let audience = audience.unwrap_or_else(|| AudienceRule { is_everyone: true, ..AudienceRule::default() });
    check_data(field, publish, payload, context, problems);
    check_answer(field, publish, payload, context, problems);
    let row_audience = audience.compile(payload, types, audiences);
    check_places(payload, context, problems);
    let state = context.states.by_type.get(&payload).filter(|_| is_update);
    let inputs = read_inputs(field, publish, payload, types);
    Some(MutationRule {
        definition: field.clone(),
        kind: kind.into(),
        payload,
        updates: state.map(|state| state.key),
        audience,
        row_audience,
        allows,
        trims: trims(&inputs, types.fields(payload)),
        inputs,
        answer: read_answer(field, publish, types)?,
    })
}

/// Returns the origin of each field of the data that the input gives.
fn read_inputs(
    field: &FieldDefinition,
    publish: &ConstDirective,
    payload: TypeId,
    types: &Types,
) -> Vec<(usize, Input)> {
    let data = object(publish, "data");
    let input = |(number, wanted): (usize, &Field)| {
        if !matches!(wanted.source, Source::Path(_)) {
            return None;
        }
        if let Some((_, value)) = data.iter().find(|(name, _)| **name == *wanted.name) {
            return Some((number, Input::Value(ValueTemplate::read(value))));
        }
        let (argument, inner) = inputs(field, &wanted.name, types).into_iter().next()?;
        Some((number, Input::Argument(argument.node.clone(), inner)))
    };
    types.fields(payload).iter().enumerate().filter_map(input).collect()
}

/// Returns the arguments that give fields of the data. Only those with `trim` are changed.
fn trims(inputs: &[(usize, Input)], fields: &[Field]) -> Vec<Trim> {
    let trim = |(number, input): &(usize, Input)| {
        let path = match input {
            Input::Argument(name, inner) => [name.as_str().into()].into_iter().chain(inner.clone()).collect(),
            Input::Value(ValueTemplate::Text(template)) => {
                template.only_placeholder().filter(|only| only.root == Root::Document)?.steps.clone()
            }
            Input::Value(_) => return None,
        };
        Some(Trim { path, field: fields.get(*number)?.clone() })
    };
    inputs.iter().filter_map(trim).collect()
}

/// Checks that the fields of an event are written to places of their own. Else one input would
/// replace the other.
fn check_places(payload: TypeId, context: &Context<'_>, problems: &mut Problems) {
    let Context { file, types, .. } = *context;
    let (mut waiting, mut seen) = (vec![payload], HashSet::new());
    while let Some(of) = waiting.pop() {
        if !seen.insert(of) {
            continue;
        }
        let mut paths: Vec<&[Box<str>]> = Vec::new();
        for field in types.fields(of) {
            waiting.extend(types.is_object(field.of).then_some(field.of));
            let Source::Path(path) = &field.source else { continue };
            if paths.iter().any(|other| other.starts_with(path) || path.starts_with(other)) {
                let definition = file.get(&types.get(of).name).and_then(|ty| ty.field(&field.name));
                let from = definition.and_then(|field| arguments::find(&field.directives, "from"));
                let at = from.map(|from| arguments::place_of(from, "path"));
                let at = at.or(definition.map(|field| field.name.pos)).unwrap_or_default();
                let text = format!(
                    "a mutation writes `{}` to the place of another field of `{}`; read it from another path",
                    field.name,
                    types.get(of).name
                );
                problems.add(at, text);
            }
            paths.push(path);
        }
    }
}

fn read_answer(field: &FieldDefinition, publish: &ConstDirective, types: &Types) -> Option<Answer> {
    let of = types.id(named(&field.ty.node))?;
    if publish.get_argument("answer").is_none() {
        return Some(if types.is_leaf(of) { Answer::True } else { Answer::Data });
    }
    let number = |wanted: &Name| types.fields(of).iter().position(|known| *known.name == **wanted);
    let answer = object(publish, "answer").into_iter();
    let values = answer.filter_map(|(name, value)| Some((number(name)?, ValueTemplate::read(value))));
    Some(Answer::Object(of, values.collect()))
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
    let is_update = arguments::flag(publish, "update");
    let check = ValueCheck { at, field, payload, is_answer: false, types };
    for (name, value) in &data {
        match types.fields(payload).iter().find(|known| *known.name == **name) {
            None => {
                problems.add(at, format!("`{}` has no field `{name}`; correct it", types.get(payload).name))
            }
            Some(known) if !matches!(known.source, Source::Path(_)) => {
                problems.add(at, format!("`{name}` is part of the event's envelope; leave it out of `data`"));
            }
            // Null keeps what an update must not clear, and a missing id is made.
            Some(known) if **value == Value::Null && (is_update || &*known.name == "id") => {}
            Some(known) => check.check(value, known, payload, problems),
        }
    }
    if is_update && !check_update(publish, payload, context, problems) {
        return;
    }
    let projection = context.states.by_type.get(&payload);
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
                problems.add(first.0.pos, text);
            }
            ([(name, inner)], _) => check_input(name, inner.clone(), wanted, field, types, problems),
            _ => {}
        }
    }
}

/// Checks that an update has a value to begin with, and that its event changes this value. Returns
/// whether there is such a value.
fn check_update(
    publish: &ConstDirective,
    payload: TypeId,
    context: &Context<'_>,
    problems: &mut Problems,
) -> bool {
    let name = &context.types.get(payload).name;
    let source = context.states.by_type.get(&payload).map(|state| &state.source);
    let Some(state::Source::Projection(kinds)) = source else {
        let text = format!("`{name}` has no `@projection`, so that there is no value to update");
        problems.add(arguments::place_of(publish, "update"), text);
        return false;
    };
    if let Some(kind) = arguments::text(publish, "type")
        && !kinds.iter().any(|known| **known == *kind)
    {
        let text = format!("`@projection` of `{name}` lacks `{kind}`, so that no update shows; add it there");
        problems.add(arguments::place_of(publish, "type"), text);
    }
    true
}

/// Checks that the values of an input can be those of the field that it gives.
fn check_input(
    name: &Positioned<Name>,
    inner: Option<Box<str>>,
    wanted: &Field,
    field: &FieldDefinition,
    types: &Types,
    problems: &mut Problems,
) {
    let steps: Vec<Box<str>> = [name.node.as_str().into()].into_iter().chain(inner).collect();
    let found = key_rule::argument(field, &steps, types);
    if let Some(Err(text)) = found.map(|found| types.may_fill(&found, wanted.of, &wanted.wrapping)) {
        let text = format!("`{}` never fits the event: {text}; correct its type", steps.join("."));
        problems.add(name.pos, text);
    }
}

/// Returns the arguments that give a field of the event: the argument of its name, or else every
/// input object with a field of its name, and this name.
fn inputs<'f>(
    field: &'f FieldDefinition,
    wanted: &str,
    types: &Types,
) -> Vec<(&'f Positioned<Name>, Option<Box<str>>)> {
    let arguments = || field.arguments.iter().map(|argument| &argument.node);
    if let Some(same) = arguments().find(|argument| argument.name.node == wanted) {
        return vec![(&same.name, None)];
    }
    let has = |fields: &[Field]| fields.iter().any(|field| *field.name == *wanted);
    let mut inputs = Vec::new();
    for argument in arguments() {
        let is_list = matches!(argument.ty.node.base, BaseType::List(_));
        let id = types.id(named(&argument.ty.node));
        if id.is_some_and(|id| {
            !is_list && matches!(types.get(id).kind, Kind::Input(_)) && has(types.fields(id))
        }) {
            inputs.push((&argument.name, Some(wanted.into())));
        }
    }
    inputs
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
    let check = ValueCheck { at, field, payload, is_answer: true, types };
    for (name, value) in &answer {
        match types.fields(of).iter().find(|known| *known.name == **name) {
            Some(known) => check.check(value, known, of, problems),
            None => problems.add(at, format!("`{}` has no field `{name}`; correct it", types.get(of).name)),
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
