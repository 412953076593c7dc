//! The import graph of `src`: which file uses what another file defines.
//!
//! It reads text, not syntax trees: it removes comments, string literals and unit tests, and
//! searches the rest for paths. It must never count a path in a comment, nor the name behind a
//! re-export's door as the door's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{files, root};

/// File of `src` without comments, literals and unit tests.
pub(crate) struct Source {
    pub(crate) path: String,
    /// Path of the module: `["web", "endpoint"]` for `src/web/endpoint.rs`, empty for `src/lib.rs`.
    pub(crate) module: Module,
    pub(crate) code: String,
}

pub(crate) type Module = Vec<String>;

/// Modules by the modules that they use.
pub(crate) type Graph = BTreeMap<Module, BTreeSet<Module>>;

impl Source {
    /// Returns the top-level module of the file; empty for `src/lib.rs`.
    pub(crate) fn room(&self) -> &str {
        self.module.first().map_or("", String::as_str)
    }
}

/// Returns all files except those that hold only unit tests.
pub(crate) fn sources() -> Vec<Source> {
    let src = root().join("src");
    let sources = files(&src).into_iter().map(|path| {
        let relative = path.strip_prefix(&src).unwrap().with_extension("");
        let module: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        let module = if module == ["lib"] { Module::new() } else { module };
        let code = without_tests(&without_comments_and_literals(&fs::read_to_string(&path).unwrap()));
        Source { path: path.strip_prefix(root()).unwrap().display().to_string(), module, code }
    });
    sources.filter(|source| source.module.last().is_none_or(|name| name != "tests")).collect()
}

/// Replaces each comment by a space and each literal by an empty one. Lifetimes stay: a `'` opens a
/// literal only if another one closes it.
pub(crate) fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            code.push(' ');
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            code.push(' ');
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest, code.chars().next_back()) {
            code.push_str("\"\"");
            length
        } else {
            code.push(first);
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    code
}

/// Returns the length of the literal at the beginning of the text, if there is one. `before`
/// distinguishes a raw string from a name that ends in `r`.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    let is_name = before.is_some_and(|before| before.is_alphanumeric() || before == '_');
    if let Some(hashes) = text.strip_prefix('r').filter(|_| !is_name) {
        let count = hashes.len() - hashes.trim_start_matches('#').len();
        if hashes[count..].starts_with('"') {
            let begin = 1 + count + 1;
            let end = format!("\"{}", "#".repeat(count));
            return text[begin..].find(&end).map(|at| begin + at + end.len());
        }
    }
    let quote = text.chars().next().filter(|&first| first == '"' || first == '\'')?;
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if quote == '\'' && at > 12 {
            return None; // Longer than '\u{10ffff}': a lifetime
        }
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => {
                let is_lifetime =
                    quote == '\'' && !text.starts_with("'\\") && text[1..at].chars().count() != 1;
                return (!is_lifetime).then_some(at + 1);
            }
            _ => {}
        }
    }
    None
}

/// Removes modules under `#[cfg(test)]`. Their braces are balanced, since no literal and no comment
/// is left.
pub(crate) fn without_tests(code: &str) -> String {
    let begin = ["#[cfg(test)]", "#[cfg(all(test,"].iter().filter_map(|attribute| code.find(attribute)).min();
    let Some(begin) = begin else { return code.to_owned() };
    let rest = &code[begin..];
    let body = rest.find(['{', ';']).unwrap();
    let mut depth = 0;
    let end = rest[body..].find(|character| {
        depth += i32::from(character == '{') - i32::from(character == '}');
        depth == 0
    });
    let end = body + end.unwrap() + 1;
    format!("{}{}", &code[..begin], without_tests(&rest[end..]))
}

/// Path in the code, with what surrounds it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mention {
    /// Names of the path, its `crate`, `self` or `super`s included.
    pub(crate) names: Vec<String>,
    /// Whether a `pub use` mentions it: a re-export.
    pub(crate) is_door: bool,
}

/// Returns the paths in the code that begin with `crate`, `self` or `super`.
pub(crate) fn mentions(code: &str) -> Vec<Mention> {
    let mut mentions = Vec::new();
    for prefix in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(prefix) {
            let before = &code[..at];
            let last = before.chars().next_back();
            let is_inside = last.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
            // `pub(in crate::web)` is no use of anything.
            if is_inside || before.ends_with("(in ") {
                continue;
            }
            let statement = before.rsplit([';', '}']).next().unwrap_or_default().trim_start();
            let is_door = statement.starts_with("pub") && statement.contains(" use ");
            expand(&code[at..], &[], &mut |names| mentions.push(Mention { names, is_door }));
        }
    }
    mentions
}

/// Calls `found` for each path of the tree `a::{b, c::{d, e}}` that the text begins with.
fn expand(text: &str, before: &[String], found: &mut impl FnMut(Vec<String>)) {
    let mut names = before.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut begin = 0;
            for (at, character) in group.char_indices() {
                match (depth, character) {
                    (1, ',' | '}') => {
                        if !group[begin..at].trim().is_empty() {
                            expand(&group[begin..at], &names, found);
                        }
                        begin = at + 1;
                        if character == '}' {
                            return;
                        }
                    }
                    (_, '{') => depth += 1,
                    (_, '}') => depth -= 1,
                    _ => {}
                }
            }
            return;
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            return found(names);
        }
        names.push(rest[..end].to_owned());
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(more) => rest = more,
            None => return found(names),
        }
    }
}

/// Returns the graph of these sources. Test modules and the program's own crate are left out.
pub(crate) fn graph(sources: &[Source]) -> Graph {
    let modules: BTreeSet<&Module> = sources.iter().map(|source| &source.module).collect();
    let mentions: Vec<_> = sources.iter().map(|source| (source, mentions(&source.code))).collect();
    let mut doors = BTreeMap::new();
    for (source, mentions) in &mentions {
        for mention in mentions.iter().filter(|mention| mention.is_door) {
            if let Some((module, Some(name))) = resolve(&source.module, &mention.names, &modules) {
                doors.insert((source.module.clone(), name), module);
            }
        }
    }
    let mut graph = Graph::new();
    for (source, mentions) in &mentions {
        let uses = graph.entry(source.module.clone()).or_default();
        for mention in mentions {
            // A door is a use where the file itself goes through it.
            let name = mention.names.last().unwrap();
            if mention.is_door && !words(&source.code).any(|word| word == name) {
                continue;
            }
            let Some((mut module, name)) = resolve(&source.module, &mention.names, &modules) else {
                continue;
            };
            while let Some(behind) = name.as_ref().and_then(|name| doors.get(&(module.clone(), name.clone())))
            {
                module = behind.clone();
            }
            if module != source.module {
                uses.insert(module);
            }
        }
    }
    graph
}

/// Returns the words of the code outside of imports and module declarations.
fn words(code: &str) -> impl Iterator<Item = &str> {
    let statements = code.split(';').map(|statement| {
        let declaration = statement.rfind("use ").or_else(|| statement.rfind("mod "));
        &statement[..declaration.unwrap_or(statement.len())]
    });
    statements.flat_map(|statement| statement.split(|c: char| !c.is_alphanumeric() && c != '_'))
}

/// Returns the module that a path leads to, as far as it leads through modules, and the name after
/// them.
fn resolve(from: &Module, names: &[String], modules: &BTreeSet<&Module>) -> Option<(Module, Option<String>)> {
    let (first, rest) = names.split_first()?;
    let mut rest = rest.iter().peekable();
    let mut module = match first.as_str() {
        "crate" => Module::new(),
        "self" => from.clone(),
        _ => from.split_last()?.1.to_vec(),
    };
    while rest.next_if(|name| *name == "super").is_some() {
        module.pop();
    }
    while let Some(name) = rest.peek() {
        let deeper: Module = module.iter().chain([*name]).cloned().collect();
        if !modules.contains(&deeper) {
            break;
        }
        module = deeper;
        rest.next();
    }
    let name = rest.next().cloned();
    // A module's own name, as in `use super::frame::{self}`, is a use of what is called through it.
    Some((module, name.filter(|name| name != "self")))
}

/// Removes files that no circle goes through, until only circles are left.
pub(crate) fn circles(mut graph: Graph) -> Graph {
    loop {
        let before = graph.len();
        let files: BTreeSet<Module> = graph.keys().cloned().collect();
        graph.retain(|_, uses| uses.iter().any(|used| files.contains(used)));
        let used: BTreeSet<Module> = graph.values().flatten().cloned().collect();
        graph.retain(|file, _| used.contains(file));
        if graph.len() == before {
            return graph;
        }
    }
}
