//! Directives that are not ours: standard ones, those of the file, and those that `@link` imports.

use std::collections::HashSet;

use async_graphql::Value;

use super::{arguments, sdl::File};

/// Directives that the relay hands on to clients and gateways.
const STANDARD: [&str; 4] = ["deprecated", "specifiedBy", "oneOf", "link"];

/// Names of the directives that a file may use beside ours.
#[derive(Debug)]
pub struct Foreign {
    names: HashSet<String>,
    /// Prefixes of the links' own namespaces, as in `federation__key`.
    prefixes: Vec<String>,
}

impl Foreign {
    /// Collects what the file defines, and what its `@link`s import.
    #[must_use]
    pub fn new(file: &File) -> Self {
        let mut names: HashSet<String> = STANDARD.map(str::to_owned).into();
        names.extend(file.directives.iter().map(|directive| directive.name.node.to_string()));
        let mut prefixes = Vec::new();
        for link in file.schema.iter().filter(|directive| directive.node.name.node == "link") {
            let import = link.node.get_argument("import").map(|import| &import.node);
            let Some(Value::List(imports)) = import else { continue };
            names.extend(imports.iter().filter_map(imported));
            let named = arguments::text(&link.node, "as").map(str::to_owned);
            prefixes.extend(named.or_else(|| namespace(arguments::text(&link.node, "url")?)));
        }
        Self { names, prefixes }
    }

    /// Returns whether the file may use a directive of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let prefix = name.split_once("__").map(|(prefix, _)| prefix);
        self.names.contains(name)
            || prefix.is_some_and(|prefix| self.prefixes.iter().any(|known| known == prefix))
    }
}

/// Returns the name of an imported directive: `key` of `"@key"` or of `{name: "@id", as: "@key"}`.
fn imported(import: &Value) -> Option<String> {
    let name = match import {
        Value::String(name) => name,
        Value::Object(fields) => match fields.get("as").or_else(|| fields.get("name"))? {
            Value::String(name) => name,
            _ => return None,
        },
        _ => return None,
    };
    name.strip_prefix('@').map(str::to_owned)
}

/// Returns the namespace of a link: `federation` of `https://specs.apollo.dev/federation/v2.4`.
fn namespace(url: &str) -> Option<String> {
    let mut parts = url.rsplit('/');
    let last = parts.next()?;
    let is_version =
        last.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    Some(if is_version { parts.next()? } else { last }.to_owned())
}
