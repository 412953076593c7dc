//! Inserts the nulls that async-graphql leaves out of a result.
//!
//! The GraphQL specification wants `null` for a nullable field that failed. async-graphql drops the
//! field, and turns an object without any field left into null. A null may stand only where an
//! error's path ends or passes, never at a non-null field. A result without errors costs nothing.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
};

use async_graphql::{
    Name, PathSegment, Response, Value,
    indexmap::IndexMap,
    parser::{
        parse_schema,
        types::{
            BaseType, ExecutableDocument, FieldDefinition, OperationType, Selection, SelectionSet, Type,
            TypeKind, TypeSystemDefinition,
        },
    },
};

use super::document::pick;

/// Types of a schema's fields, as far as the rule needs them.
#[derive(Default)]
pub(super) struct Nulls {
    /// Names of the root types, by [`OperationType`].
    roots: [String; 3],
    /// Fields of objects and interfaces by the type's name.
    types: HashMap<Name, HashMap<Name, FieldType>>,
}

/// Type of one field.
struct FieldType {
    /// Name of the type without its lists.
    name: Name,
    is_nullable: bool,
}

impl Nulls {
    /// Creates the rule for the schema with this definition. A field that the definition lacks
    /// counts as nullable.
    pub(super) fn new(sdl: &str) -> Self {
        let mut nulls = Self::default();
        for definition in parse_schema(sdl).map_or_else(|_| Vec::new(), |schema| schema.definitions) {
            match definition {
                TypeSystemDefinition::Schema(schema) => {
                    let schema = schema.node;
                    let roots = [schema.query, schema.mutation, schema.subscription];
                    nulls.roots =
                        roots.map(|root| root.map(|root| root.node.to_string()).unwrap_or_default());
                }
                TypeSystemDefinition::Type(definition) => {
                    let fields = match definition.node.kind {
                        TypeKind::Object(object) => object.fields,
                        TypeKind::Interface(interface) => interface.fields,
                        _ => continue,
                    };
                    let fields = fields.into_iter().map(|field| typed(field.node)).collect();
                    nulls.types.insert(definition.node.name.node, fields);
                }
                TypeSystemDefinition::Directive(_) => {}
            }
        }
        nulls
    }

    /// Inserts the missing nulls into the result of an operation, and orders the fields beside them
    /// as they were selected. `name` picks the operation in the document.
    pub(super) fn fill(
        &self,
        mut response: Response,
        document: &ExecutableDocument,
        name: Option<&str>,
    ) -> Response {
        if response.is_err()
            && let Ok(operation) = pick(document, name)
        {
            let mut failed = Failed::default();
            response.errors.iter().for_each(|error| failed.insert(&error.path));
            let root = match operation.node.ty {
                OperationType::Query => 0,
                OperationType::Mutation => 1,
                OperationType::Subscription => 2,
            };
            let root = Part { parent: &self.roots[root], set: &operation.node.selection_set.node };
            Filler { nulls: self, document }.fill(&mut response.data, &failed, &[root]);
        }
        response
    }
}

fn typed(field: FieldDefinition) -> (Name, FieldType) {
    let Type { mut base, nullable } = field.ty.node;
    loop {
        match base {
            BaseType::List(element) => base = element.base,
            BaseType::Named(name) => return (field.name.node, FieldType { name, is_nullable: nullable }),
        }
    }
}

/// Paths of a result's errors, as a tree.
#[derive(Default)]
struct Failed<'a> {
    fields: HashMap<&'a str, Self>,
    items: BTreeMap<usize, Self>,
}

impl<'a> Failed<'a> {
    fn insert(&mut self, path: &'a [PathSegment]) {
        path.iter().fold(self, |failed, segment| match segment {
            PathSegment::Field(key) => failed.fields.entry(key).or_default(),
            PathSegment::Index(index) => failed.items.entry(*index).or_default(),
        });
    }
}

/// Part of what is selected of one object: a selection set, and the type that it is written for.
#[derive(Clone, Copy)]
struct Part<'a> {
    parent: &'a str,
    set: &'a SelectionSet,
}

/// Everything that is selected under one key of a result.
struct Selected<'a> {
    is_nullable: bool,
    parts: Vec<Part<'a>>,
}

struct Filler<'a> {
    nulls: &'a Nulls,
    document: &'a ExecutableDocument,
}

// The limits of documents bound the recursion, and the size of each selection.
impl<'a> Filler<'a> {
    fn fill(&self, value: &mut Value, failed: &Failed<'_>, parts: &[Part<'a>]) {
        let (mut resolved, was_null) = match value {
            Value::List(items) => {
                for (index, failed) in &failed.items {
                    if let Some(item) = items.get_mut(*index) {
                        self.fill(item, failed, parts);
                    }
                }
                return;
            }
            Value::Object(fields) if !failed.fields.is_empty() => (mem::take(fields), false),
            // An error below a null: the object was there, and all its fields failed.
            Value::Null if !failed.fields.is_empty() => (IndexMap::new(), true),
            _ => return,
        };
        let mut selection = IndexMap::new();
        parts.iter().for_each(|part| self.select(*part, &mut selection));
        let mut fields = IndexMap::with_capacity(selection.len());
        for (key, selected) in selection {
            let failed = failed.fields.get(key.as_str());
            let field = match (resolved.swap_remove(key), failed) {
                (Some(mut field), Some(failed)) => {
                    self.fill(&mut field, failed, &selected.parts);
                    field
                }
                (Some(field), None) => field,
                (None, Some(_)) if selected.is_nullable => Value::Null,
                // The failed field may not be null, or async-graphql has lost this one: it drops
                // a second selection of an object if the first one became null.
                (None, failed) if was_null && (failed.is_some() || parts.len() > 1) => return,
                // Skipped, of another type, or non-null.
                (None, _) => continue,
            };
            fields.insert(key.clone(), field);
        }
        *value = Value::Object(fields);
    }

    /// Adds what the part selects, in the order in which it is written.
    fn select(&self, part: Part<'a>, selection: &mut IndexMap<&'a Name, Selected<'a>>) {
        for item in &part.set.items {
            let inner = match &item.node {
                Selection::Field(field) => {
                    let field = &field.node;
                    let types = self.nulls.types.get(part.parent);
                    let field_type = types.and_then(|fields| fields.get(&field.name.node));
                    let selected = selection.entry(&field.response_key().node).or_insert_with(|| Selected {
                        is_nullable: field_type.is_none_or(|field_type| field_type.is_nullable),
                        parts: Vec::new(),
                    });
                    let parent = field_type.map_or("", |field_type| &*field_type.name);
                    selected.parts.push(Part { parent, set: &field.selection_set.node });
                    continue;
                }
                Selection::InlineFragment(fragment) => {
                    let on = fragment.node.type_condition.as_ref();
                    let parent = on.map_or(part.parent, |on| &*on.node.on.node);
                    Part { parent, set: &fragment.node.selection_set.node }
                }
                Selection::FragmentSpread(spread) => {
                    let Some(fragment) = self.document.fragments.get(&spread.node.fragment_name.node) else {
                        continue;
                    };
                    let parent = &*fragment.node.type_condition.node.on.node;
                    Part { parent, set: &fragment.node.selection_set.node }
                }
            };
            self.select(inner, selection);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use async_graphql::{
        ComplexObject, EmptyMutation, Interface, Object, Schema, SimpleObject, Subscription,
        dynamic::{self, FieldFuture, FieldValue, TypeRef},
        parser::parse_query,
    };
    use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
    use proptest::prelude::*;

    use super::*;
    use crate::graphql::{Api, Error, build, build_dynamic};

    const TEXT: &str = "a resolver failed";

    fn failed<T>() -> Result<T, Error> {
        Err(Error::not_found(TEXT))
    }

    /// Node of an endless tree, with a number. As the root it is also the type of queries.
    struct Node(i32);

    #[Object]
    impl Node {
        async fn good(&self) -> i32 {
            self.0
        }

        async fn bad(&self) -> Result<Option<i32>, Error> {
            failed()
        }

        async fn odd(&self) -> Result<Option<i32>, Error> {
            if self.0 % 2 == 0 { Ok(Some(self.0)) } else { failed() }
        }

        async fn must(&self) -> Result<i32, Error> {
            failed()
        }

        async fn node(&self) -> Self {
            Self(self.0 + 1)
        }

        async fn nodes(&self) -> Option<Vec<Self>> {
            Some(vec![Self(self.0 + 1), Self(self.0 + 2)])
        }

        async fn broken_node(&self) -> Result<Option<Self>, Error> {
            failed()
        }

        async fn broken_item(&self) -> Option<Vec<Result<i32, Error>>> {
            Some(vec![Ok(self.0), failed()])
        }

        async fn pets(&self) -> Vec<Pet> {
            vec![Pet::Cat(Cat { name: None }), Pet::Dog(Dog { name: None })]
        }
    }

    #[derive(Interface)]
    #[graphql(field(name = "name", ty = "&Option<String>"))]
    enum Pet {
        Cat(Cat),
        Dog(Dog),
    }

    #[derive(SimpleObject)]
    #[graphql(complex)]
    struct Cat {
        name: Option<String>,
    }

    #[ComplexObject]
    impl Cat {
        async fn lives(&self) -> i32 {
            9
        }
    }

    #[derive(SimpleObject)]
    #[graphql(complex)]
    struct Dog {
        name: Option<String>,
    }

    #[ComplexObject]
    impl Dog {
        async fn bark(&self) -> Result<Option<String>, Error> {
            failed()
        }
    }

    struct Subscriptions;

    #[Subscription]
    impl Subscriptions {
        async fn watch(&self) -> impl Stream<Item = Option<Node>> {
            stream::iter([Some(Node(0))])
        }

        async fn broken(&self) -> impl Stream<Item = Result<Option<Node>, Error>> {
            stream::iter([failed()])
        }
    }

    fn api() -> std::sync::Arc<dyn Api> {
        build(Schema::build(Node(0), EmptyMutation, Subscriptions))
    }

    /// Runs the operation, and returns its data as JSON text.
    fn run(api: &dyn Api, document: &str) -> String {
        let response = if document.starts_with("subscription") {
            api.execute_stream(document.into()).next().now_or_never().unwrap().unwrap()
        } else {
            api.execute(document.into()).now_or_never().unwrap()
        };
        assert!(response.errors.iter().all(|error| error.message == TEXT), "{document}: {response:?}");
        let parsed = parse_query(document).unwrap();
        let response = Nulls::new(&api.sdl()).fill(response, &parsed, None);
        serde_json::to_string(&response.data).unwrap()
    }

    #[test]
    fn failed_nullable_field_is_null() {
        let api = api();
        for (document, data) in [
            ("{ bad }", r#"{"bad":null}"#),
            ("{ good x: bad z: good }", r#"{"good":0,"x":null,"z":0}"#),
            ("{ node { bad } }", r#"{"node":{"bad":null}}"#),
            ("{ nodes { odd good } }", r#"{"nodes":[{"odd":null,"good":1},{"odd":2,"good":2}]}"#),
            ("{ nodes { bad } }", r#"{"nodes":[{"bad":null},{"bad":null}]}"#),
            ("{ good brokenItem }", r#"{"good":0,"brokenItem":null}"#),
            ("{ brokenNode { good } }", r#"{"brokenNode":null}"#),
            ("{ node { bad } node { good bad } }", r#"{"node":null}"#),
            ("{ node { good } good node { bad } }", r#"{"node":{"good":1,"bad":null},"good":0}"#),
            ("{ ... F __typename } fragment F on Node { bad }", r#"{"bad":null,"__typename":"Node"}"#),
            ("{ bad @skip(if: true) odd @include(if: false) x: bad }", r#"{"x":null}"#),
            (
                "{ pets { ... on Dog { bark } name ... on Cat { lives } } }",
                r#"{"pets":[{"name":null,"lives":9},{"bark":null,"name":null}]}"#,
            ),
            ("subscription { x: watch { bad good } }", r#"{"x":{"bad":null,"good":0}}"#),
            ("subscription { watch { bad } }", r#"{"watch":{"bad":null}}"#),
            ("subscription { broken { good } }", r#"{"broken":null}"#),
        ] {
            assert_eq!(run(&*api, document), data, "{document}");
        }
    }

    #[test]
    fn failed_non_null_field_gets_no_null() {
        let api = api();
        for (document, data) in [
            ("{ must }", "null"),
            ("{ node { must bad } }", r#"{"node":null}"#),
            ("{ good must bad }", r#"{"good":0,"bad":null}"#),
        ] {
            assert_eq!(run(&*api, document), data, "{document}");
        }
    }

    #[test]
    fn dynamic_schema_follows_same_rule() {
        let bad = || {
            dynamic::Field::new("bad", TypeRef::named(TypeRef::INT), |_| {
                FieldFuture::new(async { Ok(failed::<Option<FieldValue<'_>>>()?) })
            })
        };
        let node = dynamic::Field::new("node", TypeRef::named("Node"), |_| {
            FieldFuture::Value(Some(FieldValue::value(0)))
        });
        let nodes = dynamic::Field::new("nodes", TypeRef::named_list("Node"), |_| {
            FieldFuture::Value(Some(FieldValue::list([FieldValue::value(1), FieldValue::value(2)])))
        });
        let schema = dynamic::Schema::build("Query", None, None)
            .register(dynamic::Object::new("Node").field(bad()))
            .register(dynamic::Object::new("Query").field(bad()).field(node).field(nodes));
        let api = build_dynamic(schema).unwrap();
        for (document, data) in [
            ("{ bad }", r#"{"bad":null}"#),
            ("{ __typename bad node { x: bad } }", r#"{"__typename":"Query","bad":null,"node":{"x":null}}"#),
            (
                "{ nodes { bad __typename } }",
                r#"{"nodes":[{"bad":null,"__typename":"Node"},{"bad":null,"__typename":"Node"}]}"#,
            ),
        ] {
            assert_eq!(run(&*api, document), data, "{document}");
        }
    }

    /// One selection of a random document.
    #[derive(Clone, Debug)]
    enum Item {
        Field(&'static str),
        Skipped(&'static str),
        Object(&'static str, Vec<Self>),
        Fragment(Vec<Self>),
    }

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let scalar = || prop::sample::select(vec!["good", "bad", "odd", "brokenItem"]);
        let leaf = prop_oneof![4 => scalar().prop_map(Item::Field), 1 => scalar().prop_map(Item::Skipped)];
        let item = leaf.prop_recursive(4, 48, 4, |item| {
            let items = || prop::collection::vec(item.clone(), 1..4);
            prop_oneof![
                (prop::sample::select(vec!["node", "nodes", "brokenNode"]), items())
                    .prop_map(|(name, items)| Item::Object(name, items)),
                items().prop_map(Item::Fragment),
            ]
        });
        prop::collection::vec(item, 1..5)
    }

    /// Writes a document. Objects get aliases of their own; the fragments come after the operation.
    fn write(items: &[Item], count: &mut usize, fragments: &mut String) -> String {
        let mut text = String::from("{ ");
        for item in items {
            *count += 1;
            let alias = *count;
            match item {
                Item::Field(name) => write!(text, "{name} "),
                Item::Skipped(name) => write!(text, "skipped{alias}: {name} @skip(if: true) "),
                Item::Object(name, items) => {
                    write!(text, "object{alias}: {name} {}", write(items, count, fragments))
                }
                Item::Fragment(items) if alias.is_multiple_of(2) => {
                    write!(text, "... {}", write(items, count, fragments))
                }
                Item::Fragment(items) => {
                    let set = write(items, count, fragments);
                    write!(fragments, "fragment F{alias} on Node {set}").unwrap();
                    write!(text, "... F{alias} ")
                }
            }
            .unwrap();
        }
        text + "} "
    }

    /// Adds the fields of the node `n` as the specification says.
    fn resolve(items: &[Item], n: i32, count: &mut usize, fields: &mut IndexMap<String, String>) {
        for item in items {
            *count += 1;
            let key = format!("object{count}");
            match item {
                Item::Skipped(_) => {}
                Item::Fragment(items) => resolve(items, n, count, fields),
                Item::Field(name) => {
                    let is_there = *name == "good" || (*name == "odd" && n % 2 == 0);
                    let value = if is_there { n.to_string() } else { "null".to_owned() };
                    fields.entry((*name).to_owned()).or_insert(value);
                }
                Item::Object(name, items) => {
                    let first = *count;
                    let mut node = |n| {
                        *count = first;
                        object(items, n, count)
                    };
                    let value = match *name {
                        "node" => node(n + 1),
                        "nodes" => format!("[{},{}]", node(n + 1), node(n + 2)),
                        _ => {
                            node(0);
                            "null".to_owned()
                        }
                    };
                    fields.insert(key, value);
                }
            }
        }
    }

    fn object(items: &[Item], n: i32, count: &mut usize) -> String {
        let mut fields = IndexMap::new();
        resolve(items, n, count, &mut fields);
        let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        // async-graphql has no empty objects.
        if fields.is_empty() { "null".to_owned() } else { format!("{{{}}}", fields.join(",")) }
    }

    proptest! {
        #[test]
        fn result_equals_naive_execution(items in items()) {
            let mut fragments = String::new();
            let document = write(&items, &mut 0, &mut fragments) + &fragments;
            prop_assert_eq!(run(&*api(), &document), object(&items, 0, &mut 0), "{}", document);
        }
    }
}
