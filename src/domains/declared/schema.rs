//! The clients' schema of a file, for validation, introspection and its text.
//!
//! It is built from the same definitions as the rules. The results of subscriptions come from
//! plans; the resolvers here give the same data, so that tests can compare both.

use std::{ops::ControlFlow, sync::Arc};

use async_graphql::{
    Name, Positioned, Value,
    dynamic::{
        Enum, EnumItem, Field, FieldFuture, FieldValue, InputObject, InputValue, Interface, InterfaceField,
        Object, Scalar, Schema, SchemaBuilder, Subscription, SubscriptionField, SubscriptionFieldFuture,
        TypeRef, Union,
    },
    parser::types::{
        BaseType, ConstDirective, FieldDefinition, InputValueDefinition, Type as Reference, TypeKind,
    },
};
use futures_util::StreamExt as _;

use super::{
    arguments, coerce,
    domain::Declared,
    federation,
    payload::{Object as TypedObject, Payload, Value as Typed},
    query,
    query_rule::QueryRule,
    sdl::{Definition, named},
    trim,
    types::Types,
    values::Visits,
};
use crate::graphql::{document::AFTER, subscription::payloads, take_room, viewer};

/// Builds the schema of a file, with the field `_service` if `has_service`. A file without `Query`
/// needs it, since GraphQL requires a root type for queries.
#[must_use]
pub fn schema(domain: &Arc<Declared>, has_service: bool) -> SchemaBuilder {
    let rules = domain.rules();
    let has = |root: &'static str| rules.file.get(root).map(|_| root);
    let mut builder = Schema::build("Query", has("Mutation"), has("Subscription"));
    if has_service {
        builder = builder.register(federation::service_type(&rules.file));
    }
    if has_service && has("Query").is_none() {
        builder = builder.register(Object::new("Query").field(federation::service()));
    }
    for definition in &rules.file.types {
        builder = register(builder, definition, domain, has_service);
    }
    builder
}

fn register(
    builder: SchemaBuilder,
    definition: &Definition,
    domain: &Arc<Declared>,
    has_service: bool,
) -> SchemaBuilder {
    let name = definition.name.node.as_str();
    let text = definition.description.as_deref();
    match &definition.kind {
        TypeKind::Scalar => {
            let mut scalar = described(Scalar::new(name), text, Scalar::description);
            let url = arguments::find(&definition.directives, "specifiedBy");
            if let Some(url) = url.and_then(|url| arguments::text(url, "url")) {
                scalar = scalar.specified_by_url(url);
            }
            builder.register(scalar)
        }
        TypeKind::Enum(values) => {
            let items = values.values.iter().map(|value| {
                let item = EnumItem::new(value.node.value.node.as_str());
                let text = value.node.description.as_ref().map(|text| text.node.as_str());
                let item = described(item, text, EnumItem::description);
                match deprecation(&value.node.directives) {
                    Some(reason) => item.deprecation(reason),
                    None => item,
                }
            });
            builder.register(described(Enum::new(name).items(items), text, Enum::description))
        }
        TypeKind::Union(members) => {
            let members = members.members.iter().map(|member| member.node.to_string());
            let union = members.fold(Union::new(name), Union::possible_type);
            builder.register(described(union, text, Union::description))
        }
        TypeKind::InputObject(input) => {
            let fields = input.fields.iter().map(|field| input_value(&field.node));
            let mut object = fields.fold(InputObject::new(name), InputObject::field);
            if arguments::find(&definition.directives, "oneOf").is_some() {
                object = object.oneof();
            }
            builder.register(described(object, text, InputObject::description))
        }
        TypeKind::Interface(interface) => {
            let fields = interface.fields.iter().map(|field| interface_field(&field.node));
            let object = fields.fold(Interface::new(name), Interface::field);
            let names = interface.implements.iter().map(|name| name.node.to_string());
            let object = names.fold(object, Interface::implement);
            builder.register(described(object, text, Interface::description))
        }
        TypeKind::Object(object) if name == "Subscription" => {
            let fields = object.fields.iter().map(|field| watched(&field.node, domain));
            let root = fields.fold(Subscription::new(name), Subscription::field);
            builder.register(described(root, text, Subscription::description))
        }
        TypeKind::Object(object) => {
            let fields = object.fields.iter().map(|field| match name {
                "Query" => query_field(&field.node, domain),
                // Mutations run by plan only.
                _ => object_field(&field.node),
            });
            let ty = fields.fold(Object::new(name), Object::field);
            let names = object.implements.iter().map(|name| name.node.to_string());
            let ty = names.fold(ty, Object::implement);
            let ty = if has_service && name == "Query" { ty.field(federation::service()) } else { ty };
            builder.register(described(ty, text, Object::description))
        }
    }
}

/// Adds a description, if there is one.
fn described<'a, T>(item: T, text: Option<&'a str>, describe: impl FnOnce(T, &'a str) -> T) -> T {
    match text {
        Some(text) => describe(item, text),
        None => item,
    }
}

/// Returns the reason of `@deprecated`: the outer `None` if there is no such directive.
fn deprecation(directives: &[Positioned<ConstDirective>]) -> Option<Option<&str>> {
    arguments::find(directives, "deprecated").map(|directive| arguments::text(directive, "reason"))
}

fn type_ref(ty: &Reference) -> TypeRef {
    let base = match &ty.base {
        BaseType::Named(name) => TypeRef::named(name.to_string()),
        BaseType::List(element) => TypeRef::List(Box::new(type_ref(element))),
    };
    if ty.nullable { base } else { TypeRef::NonNull(Box::new(base)) }
}

fn input_value(input: &InputValueDefinition) -> InputValue {
    let value = InputValue::new(input.name.node.as_str(), type_ref(&input.ty.node));
    let text = input.description.as_ref().map(|text| text.node.as_str());
    let value = described(value, text, InputValue::description);
    match &input.default_value {
        Some(default) => value.default_value(default.node.clone()),
        None => value,
    }
}

fn interface_field(field: &FieldDefinition) -> InterfaceField {
    let made = InterfaceField::new(field.name.node.as_str(), type_ref(&field.ty.node));
    let text = field.description.as_ref().map(|text| text.node.as_str());
    let made = described(made, text, InterfaceField::description);
    match deprecation(&field.directives) {
        Some(reason) => made.deprecation(reason),
        None => made,
    }
}

fn object_field(field: &FieldDefinition) -> Field {
    let name = field.name.node.clone();
    let made = Field::new(field.name.node.as_str(), type_ref(&field.ty.node), move |ctx| {
        let value = match ctx.parent_value.as_value() {
            Some(Value::Object(fields)) => fields.get(&name).filter(|value| **value != Value::Null).cloned(),
            _ => None,
        };
        FieldFuture::from_value(value)
    });
    with_parts(made, field)
}

/// Builds a field of `Query`. Its resolver runs only beside fields of introspection.
fn query_field(field: &FieldDefinition, domain: &Arc<Declared>) -> Field {
    let is_field = |rule: &&QueryRule| rule.definition.name.node == field.name.node;
    let Some(rule) = domain.rules().queries.iter().find(is_field).cloned() else {
        return object_field(field);
    };
    let (definition, domain) = (rule.definition.clone(), domain.clone());
    let made = Field::new(field.name.node.as_str(), type_ref(&field.ty.node), move |ctx| {
        let (rule, domain) = (rule.clone(), domain.clone());
        FieldFuture::new(async move {
            let given = ctx.args.iter().map(|(name, value)| (name.clone(), value.as_value().clone()));
            let arguments = coerce::from_values(domain.rules(), &given.collect(), &rule.definition)?;
            let arguments = trim::trimmed(arguments, &rule.trims, &domain.rules().types);
            let (mut values, mut room) = (Vec::new(), Ok(()));
            let visit = |value: &Arc<TypedObject>| {
                room = take_room(ctx.ctx, value.bytes());
                values.push(FieldValue::value(object_value(value, &domain.rules().types)));
                if room.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            // An operation that asks for the schema has its turn.
            let mut visits = Visits::new(None);
            query::run(&domain, &rule, &arguments, viewer(ctx.ctx)?, &mut visits, visit).await?;
            room?;
            Ok(if rule.is_list { Some(FieldValue::list(values)) } else { values.pop() })
        })
    });
    with_parts(made, &definition)
}

/// Adds the arguments, the description and the deprecation of a definition.
fn with_parts(mut made: Field, field: &FieldDefinition) -> Field {
    for argument in &field.arguments {
        made = made.argument(input_value(&argument.node));
    }
    let text = field.description.as_ref().map(|text| text.node.as_str());
    let made = described(made, text, Field::description);
    match deprecation(&field.directives) {
        Some(reason) => made.deprecation(reason),
        None => made,
    }
}

/// Builds a field of `Subscription`, with the argument that the engine adds.
fn watched(field: &FieldDefinition, domain: &Arc<Declared>) -> SubscriptionField {
    let (domain, rules) = (domain.clone(), domain.rules());
    let is_abstract = rules.types.id(named(&field.ty.node)).is_some_and(|of| rules.types.is_abstract(of));
    let mut made = SubscriptionField::new(field.name.node.as_str(), type_ref(&field.ty.node), move |ctx| {
        let (domain, payloads) = (domain.clone(), payloads::<Payload>(ctx.ctx));
        SubscriptionFieldFuture::new(async move {
            Ok(payloads.map(move |payload| {
                let types = &domain.rules().types;
                let value = FieldValue::value(object_value(&payload.data, types));
                let name = &types.get(payload.data.of).name;
                // The executor finds no fields in a value with a type where the type is known.
                Ok(if is_abstract { value.with_type(name.to_string()) } else { value })
            }))
        })
    });
    for argument in &field.arguments {
        made = made.argument(input_value(&argument.node));
    }
    let after = InputValue::new(AFTER, TypeRef::named(TypeRef::STRING));
    made = made.argument(after.description("The cursor of the last result that the client has."));
    let text = field.description.as_ref().map(|text| text.node.as_str());
    let made = described(made, text, SubscriptionField::description);
    match deprecation(&field.directives) {
        Some(reason) => made.deprecation(reason),
        None => made,
    }
}

/// Returns a typed object as the executor reads it.
fn object_value(object: &TypedObject, types: &Types) -> Value {
    let fields = types.fields(object.of).iter().zip(&object.fields);
    Value::Object(fields.map(|(field, item)| (Name::new(&field.name), value(item, types))).collect())
}

fn value(item: &Typed, types: &Types) -> Value {
    match item {
        Typed::Null => Value::Null,
        Typed::Leaf(text) => serde_json::from_str(text).unwrap_or_default(),
        Typed::List(items) => items.iter().map(|item| value(item, types)).collect(),
        Typed::Object(object) => object_value(object, types),
    }
}
