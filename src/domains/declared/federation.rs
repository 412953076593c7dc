//! `_service { sdl }`: the schema of a file as a federated gateway reads it.
//!
//! It is the file without our directives, and with what the engine adds. What `@link` imports, such
//! as `@key`, stays. It must never show a rule of access.

use std::fmt::Write as _;

use async_graphql::{
    Positioned, Value,
    dynamic::{Field, FieldFuture, Object, TypeRef},
    indexmap::IndexMap,
    parser::types::{
        BaseType, ConstDirective, DirectiveDefinition, EnumType, FieldDefinition, InputValueDefinition,
        TypeKind,
    },
};

use super::{
    directives,
    query_rule::{AFTER_KEY, FIRST},
    sdl::{Definition, File},
};
use crate::graphql::document::AFTER;

/// Type of the field `_service`.
const SERVICE: &str = "_Service";

/// Returns the field `_service` of `Query`.
#[must_use]
pub fn service() -> Field {
    Field::new("_service", TypeRef::named_nn(SERVICE), |_| {
        FieldFuture::from_value(Some(Value::Object(IndexMap::new())))
    })
    .description("The schema as a federated gateway reads it.")
}

/// Returns the type of that field, for the schema of this file.
#[must_use]
pub fn service_type(file: &File) -> Object {
    let text = sdl(file);
    Object::new(SERVICE).field(Field::new("sdl", TypeRef::named_nn(TypeRef::STRING), move |_| {
        FieldFuture::from_value(Some(Value::from(text.as_str())))
    }))
}

/// Returns the schema of a file as a gateway reads it.
#[must_use]
pub fn sdl(file: &File) -> String {
    let mut sdl = String::new();
    let on_schema = foreign(&file.schema);
    if !on_schema.is_empty() {
        line(&mut sdl, format_args!("extend schema{on_schema}"));
    }
    for definition in file.directives.iter().filter(|known| !directives::is_ours(&known.name.node)) {
        directive(&mut sdl, definition);
    }
    for definition in &file.types {
        type_(&mut sdl, definition);
    }
    sdl
}

fn line(sdl: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a text cannot fail.
    let _ = writeln!(sdl, "{text}");
}

/// Returns the directives that are not ours, each with a space before it.
fn foreign(all: &[Positioned<ConstDirective>]) -> String {
    let foreign = all.iter().map(|directive| &directive.node);
    let foreign = foreign.filter(|directive| !directives::is_ours(&directive.name.node));
    let texts = foreign.map(|directive| {
        let arguments: Vec<_> = directive
            .arguments
            .iter()
            .map(|(name, value)| format!("{}: {}", name.node, value.node))
            .collect();
        let arguments =
            if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(", ")) };
        format!(" @{}{arguments}", directive.name.node)
    });
    texts.collect()
}

/// Returns a description as a line of its own.
fn description(text: Option<&str>, indent: &str) -> String {
    text.map(|text| format!("{indent}{}\n", Value::from(text))).unwrap_or_default()
}

fn directive(sdl: &mut String, definition: &DirectiveDefinition) {
    let arguments = arguments(&definition.arguments, &[]);
    let repeatable = if definition.is_repeatable { " repeatable" } else { "" };
    let places = definition.locations.iter().map(|place| screaming(&format!("{:?}", place.node)));
    let places: Vec<_> = places.collect();
    let name = &definition.name.node;
    line(sdl, format_args!("directive @{name}{arguments}{repeatable} on {}", places.join(" | ")));
}

/// Returns `FIELD_DEFINITION` for `FieldDefinition`.
fn screaming(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(character.to_ascii_uppercase());
    }
    text
}

fn type_(sdl: &mut String, definition: &Definition) {
    let (name, directives) = (&definition.name.node, foreign(&definition.directives));
    sdl.push_str(&description(definition.description.as_deref(), ""));
    let implements: Vec<_> = definition.implements().iter().map(|name| name.node.as_str()).collect();
    let implements = match implements.as_slice() {
        [] => String::new(),
        names => format!(" implements {}", names.join(" & ")),
    };
    match &definition.kind {
        TypeKind::Scalar => line(sdl, format_args!("scalar {name}{directives}")),
        TypeKind::Object(_) => {
            line(sdl, format_args!("type {name}{implements}{directives} {{"));
            fields(sdl, definition.fields(), name);
        }
        TypeKind::Interface(_) => {
            line(sdl, format_args!("interface {name}{implements}{directives} {{"));
            fields(sdl, definition.fields(), name);
        }
        TypeKind::Union(union) => {
            let members: Vec<_> = union.members.iter().map(|member| member.node.as_str()).collect();
            line(sdl, format_args!("union {name}{directives} = {}", members.join(" | ")));
        }
        TypeKind::Enum(EnumType { values }) => {
            line(sdl, format_args!("enum {name}{directives} {{"));
            for value in values.iter().map(|value| &value.node) {
                let text = value.description.as_ref().map(|text| text.node.as_str());
                sdl.push_str(&description(text, "  "));
                line(sdl, format_args!("  {}{}", value.value.node, foreign(&value.directives)));
            }
            line(sdl, format_args!("}}"));
        }
        TypeKind::InputObject(input) => {
            line(sdl, format_args!("input {name}{directives} {{"));
            for field in &input.fields {
                line(sdl, format_args!("  {}", input_value(&field.node)));
            }
            line(sdl, format_args!("}}"));
        }
    }
}

fn fields(sdl: &mut String, fields: &[Positioned<FieldDefinition>], of: &str) {
    for field in fields.iter().map(|field| &field.node) {
        let text = field.description.as_ref().map(|text| text.node.as_str());
        sdl.push_str(&description(text, "  "));
        let arguments = arguments(&field.arguments, added(of, field));
        let (name, ty, directives) = (&field.name.node, &field.ty.node, foreign(&field.directives));
        line(sdl, format_args!("  {name}{arguments}: {ty}{directives}"));
    }
    line(sdl, format_args!("}}"));
}

/// Returns the arguments that the engine adds to a field of this type.
fn added(of: &str, field: &FieldDefinition) -> &'static [(&'static str, &'static str)] {
    match (of, &field.ty.node.base) {
        ("Subscription", _) => &[(AFTER, "String")],
        ("Query", BaseType::List(_)) => &[(FIRST, "Int"), (AFTER_KEY, "ID")],
        _ => &[],
    }
}

/// Returns arguments in parentheses, with those that the engine adds.
fn arguments(all: &[Positioned<InputValueDefinition>], added: &[(&str, &str)]) -> String {
    let declared = all.iter().map(|argument| input_value(&argument.node));
    let added = added.iter().map(|(name, ty)| format!("{name}: {ty}"));
    let all: Vec<_> = declared.chain(added).collect();
    if all.is_empty() { String::new() } else { format!("({})", all.join(", ")) }
}

fn input_value(input: &InputValueDefinition) -> String {
    let text = input.description.as_ref().map(|text| format!("{} ", Value::from(text.node.as_str())));
    let default = input.default_value.as_ref().map(|value| format!(" = {}", value.node));
    let (name, ty, directives) = (&input.name.node, &input.ty.node, foreign(&input.directives));
    format!("{}{name}: {ty}{}{directives}", text.unwrap_or_default(), default.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    use async_graphql::Request;

    use super::*;
    use crate::domains::declared::{Declared, api, directory::Directory, problem::Problems, rules::Rules};

    const FILE: &str = r#"
        extend schema @link(url: "https://specs.apollo.dev/federation/v2.4", import: ["@key", "@shareable"])
        extend schema @interest(key: "user:{sub}")
        directive @note(text: String = "a \"b\"") repeatable on FIELD_DEFINITION | OBJECT
        "What is \"sold\"."
        type Item implements Named @key(fields: "id", resolvable: false) @note(text: "x") {
            "Its number." id: ID! @from(path: "item.id")  name: String! @shareable @deprecated(reason: "old")
            size: Size  any: Any
        }
        interface Named { name: String! }
        type Other { id: ID!  name: String! @constraint(maxLength: 3) }
        union Thing = Item | Other
        enum Size { "Little." SMALL LARGE @deprecated }
        scalar Any @specifiedBy(url: "https://example.com")
        input Box { sizes: [Size!] = [SMALL]  "How many." count: Int = 1 }
        type Subscription {
            sold(id: ID = "a" @filter): Item @event(type: "sold") @audience(keys: ["user:{id}"])
            seen: Thing @event(type: "seen", as: "Other") @audience(everyone: true)
        }
    "#;

    /// Returns the fields of each type with their arguments and types.
    fn shape(sdl: &str) -> BTreeMap<String, Vec<String>> {
        let mut problems = Problems::default();
        let file = File::parse(sdl, &mut problems).unwrap();
        let shape = file.types.iter().map(|ty| {
            let fields = ty.fields().iter().map(|field| {
                let arguments = field.node.arguments.iter().map(|argument| {
                    let Positioned { node: InputValueDefinition { name, ty, default_value, .. }, .. } =
                        argument;
                    format!(
                        "{}: {} = {:?}",
                        name.node,
                        ty.node,
                        default_value.as_ref().map(|value| &value.node)
                    )
                });
                let arguments: Vec<_> = arguments.collect();
                format!("{}({}): {}", field.node.name.node, arguments.join(", "), field.node.ty.node)
            });
            (ty.name.node.to_string(), fields.collect())
        });
        shape.collect()
    }

    #[tokio::test]
    async fn gateway_reads_what_clients_do() {
        let examples = [
            include_str!("../../../examples/chat/schema.graphql"),
            include_str!("../../../examples/orders/schema.graphql"),
            include_str!("../../../examples/notifications/schema.graphql"),
            include_str!("../tutorial.graphql"),
            FILE,
        ];
        for file in examples {
            let api = api(&Declared::new(
                Arc::new(Rules::parse(file).unwrap()),
                Directory::default(),
                Duration::ZERO,
            ))
            .unwrap();
            let response = api.execute(Request::new("{ _service { sdl } }")).await;
            let answer = serde_json::to_value(response).unwrap();
            let sdl = answer["data"]["_service"]["sdl"].as_str().unwrap_or_else(|| panic!("{answer}"));
            let mut clients = shape(&api.sdl());
            if clients.get("Query").is_some_and(|query| query == &["_service(): _Service!"]) {
                clients.retain(|name, _| !matches!(name.as_str(), "Query" | "_Service"));
            }
            assert!(!clients.contains_key("_Service"));
            assert_eq!(shape(sdl), clients, "{sdl}");
        }
    }

    #[test]
    fn only_foreign_directives_are_shown() {
        let rules = Rules::parse(FILE).unwrap();
        let sdl = sdl(&rules.file);
        for ours in ["@interest", "@event", "@audience", "@filter", "@from", "@constraint"] {
            assert!(!sdl.contains(ours), "{sdl}");
        }
        for foreign in [
            r#"extend schema @link(url: "https://specs.apollo.dev/federation/v2.4", import: ["@key", "@shareable"])"#,
            r#"directive @note(text: String = "a \"b\"") repeatable on FIELD_DEFINITION | OBJECT"#,
            r#""What is \"sold\"."
type Item implements Named @key(fields: "id", resolvable: false) @note(text: "x") {
  "Its number."
  id: ID!
  name: String! @shareable @deprecated(reason: "old")"#,
            "union Thing = Item | Other",
            "  \"Little.\"\n  SMALL\n  LARGE @deprecated\n",
            r#"  sizes: [Size!] = [SMALL]
  "How many." count: Int = 1"#,
            r#"  sold(id: ID = "a", after: String): Item"#,
        ] {
            assert!(sdl.contains(foreign), "{foreign}\n{sdl}");
        }
    }
}
