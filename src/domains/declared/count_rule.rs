//! `@listeners`: fields of `Query` and `Subscription` that count the viewers who listen to a key.
//!
//! A viewer may count only keys that it listens to itself, unless the directive opens the field to
//! every viewer. So no count of another tenant is given by mistake.

use async_graphql::parser::types::{BaseType, ConstDirective, FieldDefinition};

use super::{
    allow, arguments, audience_rule,
    expansion::Keys,
    filter,
    key_rule::{self, KeyRule},
    problem::Problems,
    root_arguments::RootArguments,
    sdl::{File, named},
    template::Root,
    types::{Kind, Scalar, Types},
    viewer_paths,
};
use crate::{
    audience::{Audience, Key, Viewer},
    graphql::{Error, error::Code},
};

/// Name of the directive.
pub const LISTENERS: &str = "listeners";

/// Directives that have no meaning beside it.
const OTHERS: [&str; 2] = ["audience", "event"];

/// Field that counts viewers.
#[derive(Clone, Debug)]
pub struct CountRule {
    /// Name of the root type that has the field.
    pub root: &'static str,
    /// Definition of the field.
    pub definition: FieldDefinition,
    /// Key whose viewers are counted.
    pub key: KeyRule,
    /// Whether a viewer may count keys that it does not listen to.
    pub is_everyone: bool,
    /// Keys that a viewer must listen to before anything is counted.
    pub allows: Vec<KeyRule>,
}

/// Returns whether a root field counts viewers.
#[must_use]
pub fn is_count(field: &FieldDefinition) -> bool {
    directive(field).is_some()
}

fn directive(field: &FieldDefinition) -> Option<&ConstDirective> {
    arguments::find(&field.directives, LISTENERS)
}

/// Reads the fields that count viewers. A wrong one is reported and left out.
pub fn counts(file: &File, types: &Types, problems: &mut Problems) -> Vec<CountRule> {
    let mut counts = Vec::new();
    for root in ["Query", "Subscription"] {
        let fields = file.get(root).into_iter().flat_map(|root| root.fields());
        counts.extend(fields.filter_map(|field| read(root, &field.node, types, problems)));
    }
    counts
}

fn read(
    root: &'static str,
    field: &FieldDefinition,
    types: &Types,
    problems: &mut Problems,
) -> Option<CountRule> {
    let directive = directive(field)?;
    let name = &field.name.node;
    let (ty, before) = (&field.ty, problems.len());
    let is_int = types.id(named(&ty.node)).is_some_and(|of| types.get(of).kind == Kind::Scalar(Scalar::Int));
    if !is_int || !ty.node.nullable || matches!(ty.node.base, BaseType::List(_)) {
        let text = format!("`{name}` must be `Int`, which is null while the count is not known");
        problems.add(ty.pos, text);
    }
    for other in OTHERS {
        if let Some(other) = arguments::find(&field.directives, other) {
            let text = format!("`{name}` counts viewers; leave `@{}` out", other.name.node);
            problems.add(other.name.pos, text);
        }
    }
    let allows = audience_rule::allows(field, types, problems);
    let text = arguments::text(directive, "key")?;
    let at = arguments::place_of(directive, "key");
    let key = key_rule::parse(at, &[text], problems).pop()?;
    if !key_rule::check_arguments(&key, field, types, problems) {
        return None;
    }
    check_single(&key, field, types, problems);
    let used: Vec<KeyRule> = allows.iter().chain([&key]).cloned().collect();
    let reserved: &[&str] = if root == "Subscription" { &["after"] } else { &[] };
    if !filter::filters(field, &[], &used, reserved, types, problems).is_empty() {
        problems.add(field.name.pos, format!("`{name}` counts viewers; leave `@filter` out"));
    }
    let is_everyone = arguments::flag(directive, "everyone");
    let definition = field.clone();
    (problems.len() == before).then_some(CountRule { root, definition, key, is_everyone, allows })
}

/// Reports an argument that could give several keys.
fn check_single(key: &KeyRule, field: &FieldDefinition, types: &Types, problems: &mut Problems) {
    for placeholder in key.template.placeholders().filter(|path| path.root == Root::Document) {
        if key_rule::argument(field, &placeholder.steps, types).is_some_and(|found| found.is_list) {
            problems.add(key.at, format!("`{placeholder}` is a list; a count is of one key"));
        }
    }
}

impl CountRule {
    /// Returns the key to count for a viewer with these arguments.
    ///
    /// # Errors
    /// `FORBIDDEN`: the viewer may not count it, or the arguments and the viewer give no key, or
    /// several.
    pub fn key(&self, arguments: &RootArguments, viewer: &Viewer) -> Result<Key, Error> {
        allow::check(&self.allows, arguments, viewer)?;
        let mut keys = Keys::new(2);
        let is_whole = allow::expand(&self.key, arguments, &viewer_paths::document(viewer), &mut keys);
        let mut keys = keys.into_keys();
        let key = keys.next().filter(|_| is_whole && keys.next().is_none());
        let may_count = |key: &Key| self.is_everyone || Audience::new([key.clone()], None).includes(viewer);
        key.filter(may_count).ok_or_else(|| Error::new(Code::Forbidden, "you may not count this"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{audience::Interests, domains::declared::rules::Rules};

    const FILE: &str = r#"
        extend schema @interest(key: "room:{rooms}") @interest(key: "role:{roles}")
        type Message { room: ID! }
        type Query {
            viewers(room: ID!): Int @listeners(key: "room:{room}")
            any(room: ID): Int @listeners(key: "room:{room}", everyone: true) @allow(key: "role:support")
        }
        type Subscription {
            posted: Message @event(type: "posted.v1") @audience(keys: ["room:{room}"])
            viewers(room: ID!): Int @listeners(key: "room:{room}")
        }"#;

    fn problems(from: &str, to: &str) -> Vec<String> {
        assert!(FILE.contains(from), "{from}");
        let problems = Rules::parse(&FILE.replacen(from, to, 1)).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn viewer_counts_only_its_keys_unless_opened() {
        let rules = Rules::parse(FILE).unwrap();
        assert_eq!(
            rules.counts.iter().map(|rule| rule.root).collect::<Vec<_>>(),
            ["Query", "Query", "Subscription"]
        );
        let key = |field: usize, keys: &[&str], room: serde_json::Value| {
            let viewer = Viewer::new("ann", Interests::new(keys.iter().map(|key| (*key).into())));
            let arguments = json!({ "room": room }).as_object().cloned().unwrap();
            rules.counts[field].key(&RootArguments::new(arguments), &viewer).ok()
        };
        for own in [0, 2] {
            assert_eq!(key(own, &["room:tea"], json!("tea")).as_deref(), Some("room:tea"));
            assert_eq!(key(own, &["room:tea"], json!("gin")), None, "it is of others");
            assert_eq!(key(own, &[], json!("tea")), None);
            assert_eq!(key(own, &["room:tea", "room:a:b"], json!("a:b")), None, "values are escaped");
            assert_eq!(key(own, &["room:tea", "role:support"], json!("gin")), None);
        }
        assert_eq!(key(1, &["role:support"], json!("gin")).as_deref(), Some("room:gin"));
        assert_eq!(key(1, &["room:gin"], json!("gin")), None, "`@allow` holds all the same");
        for none in [json!(null), json!(""), json!(["a", "b"])] {
            assert_eq!(key(1, &["role:support"], none.clone()), None, "{none}");
        }
    }

    #[test]
    fn mistakes_in_counts_are_found() {
        let count = r#"viewers(room: ID!): Int @listeners(key: "room:{room}")"#;
        for (to, part) in [
            (r#"viewers(room: ID!): Int! @listeners(key: "room:{room}")"#, "must be `Int`"),
            (r#"viewers(room: ID!): [Int] @listeners(key: "room:{room}")"#, "must be `Int`"),
            (r#"viewers(room: ID!): String @listeners(key: "room:{room}")"#, "must be `Int`"),
            (r#"viewers(room: ID!): Int @listeners"#, "needs `key`"),
            (r#"viewers(room: ID!): Int @listeners(key: "room:{rom}")"#, "no argument `rom`"),
            (r#"viewers(room: [ID!]): Int @listeners(key: "room:{room}")"#, "is a list"),
            (r#"viewers(room: ID!): Int @listeners(key: "rom:{room}")"#, "no viewer can listen"),
            (r#"viewers(room: ID!, x: ID): Int @listeners(key: "room:{room}")"#, "`x` has no effect"),
            (
                r#"viewers(room: ID!): Int @listeners(key: "room:{room}") @audience(everyone: true)"#,
                "leave `@audience` out",
            ),
            (r#"viewers(room: ID! @filter): Int @listeners(key: "room:{room}")"#, "leave `@filter` out"),
        ] {
            let found = problems(count, to);
            assert!(found.len() == 1 && found[0].contains(part), "{to}: {found:?}");
        }
        let found = problems("room: ID! }", r#"room: ID! n: Int @listeners(key: "room:{room}") }"#);
        assert!(found[0].contains("has no meaning here"), "{found:?}");
    }
}
