//! `{$viewer.PATH}`: what the templates of root fields read of the viewer.
//!
//! A connection keeps its viewer for hours, so the viewer holds the values of these paths only, as
//! one JSON text.

use std::{collections::BTreeSet, slice, sync::Arc};

use async_graphql::Value as Given;
use serde_json::{Map, Value};

use super::{
    sdl::{File, ROOTS},
    template::{Placeholder, Root, Template},
};
use crate::audience::Viewer;

/// Column or claim that equals [`Viewer::user`], so that it needs no copy.
const ID: &str = "id";

/// Returns the distinct paths of the viewer that the directives of root fields name.
#[must_use]
pub fn paths(file: &File) -> Vec<Placeholder> {
    let mut texts = BTreeSet::new();
    let fields = ROOTS.iter().filter_map(|root| file.get(root)).flat_map(|root| root.fields());
    for directive in fields.flat_map(|field| &field.node.directives) {
        directive.node.arguments.iter().for_each(|(_, value)| collect(&value.node, &mut texts));
    }
    let templates = texts.iter().filter_map(|text| Template::parse(text).ok());
    let mut paths: Vec<Placeholder> = Vec::new();
    for path in templates.flat_map(|template| template.placeholders().cloned().collect::<Vec<_>>()) {
        let is_id = matches!(&*path.steps, [step] if **step == *ID);
        if path.root == Root::Viewer && !is_id && !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// Collects the texts that name the viewer.
fn collect<'a>(value: &'a Given, texts: &mut BTreeSet<&'a str>) {
    match value {
        Given::String(text) if text.contains("{$viewer.") => {
            texts.insert(text);
        }
        Given::List(items) => items.iter().for_each(|item| collect(item, texts)),
        Given::Object(fields) => fields.values().for_each(|item| collect(item, texts)),
        _ => {}
    }
}

/// Returns the values of these paths in the claims or the row of a viewer; `None` if it has none.
#[must_use]
pub fn kept(paths: &[Placeholder], document: &Value) -> Option<Arc<str>> {
    let mut kept = Value::Null;
    for Placeholder { exact, steps, .. } in paths {
        // A claim with the path's whole text as its name comes before the path.
        let exact = exact.as_ref().filter(|exact| document.get(&***exact).is_some());
        copy(document, exact.map_or(steps, slice::from_ref), &mut kept);
    }
    (!kept.is_null()).then(|| kept.to_string().into())
}

/// Copies what a path leads to, with the objects and lists around it.
fn copy(from: &Value, steps: &[Box<str>], into: &mut Value) {
    match (from, steps.split_first()) {
        (_, None) => *into = from.clone(),
        (Value::Array(items), Some(_)) => {
            if !into.is_array() {
                *into = vec![Value::Null; items.len()].into();
            }
            let copies = into.as_array_mut().into_iter().flatten();
            items.iter().zip(copies).for_each(|(item, copied)| copy(item, steps, copied));
        }
        (Value::Object(fields), Some((step, rest))) => {
            let Some(field) = fields.get(&**step) else { return };
            if !into.is_object() {
                *into = Map::new().into();
            }
            copy(field, rest, &mut into[&**step]);
        }
        _ => {}
    }
}

/// Returns the document in which the templates of root fields find `{$viewer.PATH}`.
#[must_use]
pub fn document(viewer: &Viewer) -> Value {
    let kept = viewer.details().and_then(|text| serde_json::from_str(text).ok());
    let mut document: Map<String, Value> = kept.unwrap_or_default();
    document.insert(ID.to_owned(), (*viewer.user).into());
    document.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domains::declared::problem::Problems;

    fn paths_of(templates: &[&str]) -> Vec<Placeholder> {
        let allows: String =
            templates.iter().map(|text| format!("@allow(key: {})", Value::from(*text))).collect();
        let text = format!("type Query {{ a: ID {allows} @x(y: {{ z: [\"{{$viewer.z}}\"] }}) }}");
        paths(&File::parse(&text, &mut Problems::default()).unwrap())
    }

    #[test]
    fn only_named_paths_are_kept() {
        let paths =
            paths_of(&["{$viewer.id}", "a:{$viewer.seats.org}/{$viewer.seats.role}", "b:{$viewer.x.y}"]);
        let claims = json!({
            "sub": "ann", "z": [1, null], "seats": [{"org": "a", "role": "r", "name": "n"}, 7, {"org": "b"}],
            "x": {"y": "path"}, "x.y": "exact", "long": "x",
        });
        let expected = json!({
            "z": [1, null], "seats": [{"org": "a", "role": "r"}, null, {"org": "b"}], "x.y": "exact",
        });
        let kept = kept(&paths, &claims).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), expected);
    }

    #[test]
    fn id_needs_no_details() {
        let paths = paths_of(&["k:{$viewer.id}", "k:{id}"]);
        assert_eq!(paths.len(), 1, "{paths:?}");
        assert_eq!(kept(&paths, &json!({"id": "ann"})), None);
        assert_eq!(document(&Viewer::new("ann", Default::default())), json!({"id": "ann"}));
    }

    #[test]
    fn value_and_part_of_it_are_kept() {
        for templates in [["{$viewer.a}", "{$viewer.a.b}"], ["{$viewer.a.b}", "{$viewer.a}"]] {
            let claims = json!({"a": {"b": 1, "c": [2]}});
            let kept = kept(&paths_of(&templates), &claims).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), claims);
        }
    }
}
