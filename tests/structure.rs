//! Imports between modules: compares the table of `docs/ARCHITECTURE.md` with the sources.
//!
//! A table that no test checks is soon wrong. The test reads text, not syntax trees: it removes
//! comments, string literals and unit tests, and searches the rest for paths. It must never count a
//! path in a comment.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use pubsub_relay::pod::drain::{AFTER_DEADLINE, CLOSE_STEP_TIMEOUT, TELEMETRY_TIMEOUT};

/// File of the library without comments, literals and unit tests.
struct Source {
    path: String,
    /// Path of the module: `["web", "ws"]` for `src/web/ws.rs`.
    module: Vec<String>,
    code: String,
}

impl Source {
    fn room(&self) -> &str {
        &self.module[0]
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, here): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let rust = here.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.chain(directories.iter().flat_map(|directory| files(directory))).collect()
}

/// Returns all files except those that hold only unit tests.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let sources = files(&src).into_iter().map(|path| {
        let relative = path.strip_prefix(&src).unwrap().with_extension("");
        let module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        let code = without_tests(&without_comments_and_literals(&fs::read_to_string(&path).unwrap()));
        Source { path: path.strip_prefix(root()).unwrap().display().to_string(), module, code }
    });
    sources.filter(|source| source.module.last().is_none_or(|name| name != "tests")).collect()
}

/// Replaces each comment by a space and each literal by an empty one. Lifetimes stay: a `'` opens a
/// literal only if another one closes it.
fn without_comments_and_literals(text: &str) -> String {
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
fn without_tests(code: &str) -> String {
    let Some(begin) = code.find("#[cfg(test)]") else { return code.to_owned() };
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

/// Returns the names that follow a path prefix at the beginning of a path; of a group in braces,
/// each name.
fn named_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(members(group)),
            None => names.extend(name(rest)),
        }
    }
    names
}

/// Returns the first name of each member of a `{a, b::{c, d}, e}` without its opening brace.
fn members(group: &str) -> Vec<String> {
    let mut depth = 1;
    let mut names: Vec<String> = name(group).into_iter().collect();
    for (at, character) in group.char_indices() {
        depth += i32::from(character == '{') - i32::from(character == '}');
        match (depth, character) {
            (0, _) => break,
            (1, ',') => names.extend(name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

fn name(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|character: char| !character.is_alphanumeric() && character != '_');
    Some(text[..end.unwrap_or(text.len())].to_owned()).filter(|name| !name.is_empty())
}

/// Returns the modules that a file names, except its own: as `crate::module`, or by as many `super`
/// as lead to the root.
fn known(source: &Source, rooms: &BTreeSet<String>) -> BTreeSet<String> {
    let mut names = named_after(&source.code, "crate::");
    names.extend(named_after(&source.code, &"super::".repeat(source.module.len())));
    names.retain(|name| rooms.contains(name) && name != source.room());
    names
}

fn rooms() -> BTreeSet<String> {
    let library = without_comments_and_literals(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    library.split("mod ").skip(1).filter_map(name).collect()
}

/// Returns the texts in backticks.
fn ticked(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the document's table: the imports that each module may have. Modules that may import
/// everything, and `config`, have rules of their own.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let document = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let (_, section) = document.split_once("## Who may know whom").expect("the document has the table");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let mut table = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        if cells[2] == "everything" || cells[1] == "`config`" {
            continue;
        }
        for module in ticked(cells[1]) {
            table.insert(module, ticked(cells[2]).into_iter().collect());
        }
    }
    assert!(table.len() > 8, "the table was found: {table:?}");
    table
}

/// Modules that connect all others.
const ROOTS: [&str; 4] = ["main", "lib", "pod", "cluster"];

#[test]
fn imports_run_one_way() {
    let (rooms, table) = (rooms(), table());
    assert!(table.keys().all(|room| rooms.contains(room)), "the table names what does not exist");
    let mut wrong = Vec::new();
    for source in sources() {
        let room = source.room();
        if ROOTS.contains(&room) || room == "config" {
            continue;
        }
        // A module that is not in the table may import none of ours
        let allowed = table.get(room).cloned().unwrap_or_default();
        let known = known(&source, &rooms);
        wrong.extend(known.difference(&allowed).map(|other| format!("{}: {other}", source.path)));
    }
    assert!(wrong.is_empty(), "imports that docs/ARCHITECTURE.md does not allow: {wrong:#?}");
}

#[test]
fn table_allows_only_used_imports() {
    let rooms = rooms();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        used.entry(source.room().to_owned()).or_default().extend(known(&source, &rooms));
    }
    for (room, allowed) in table() {
        assert_eq!(allowed, used[&room], "{room}");
    }
}

#[test]
fn table_has_no_circle() {
    let mut table = table();
    while !table.is_empty() {
        let before = table.len();
        let rest: BTreeSet<String> = table.keys().cloned().collect();
        table.retain(|_, knows| !knows.is_disjoint(&rest));
        assert!(table.len() < before, "they know one another: {table:?}");
    }
}

#[test]
fn only_main_imports_config() {
    let rooms = rooms();
    for source in sources() {
        let is_config = known(&source, &rooms).contains("config");
        assert!(!is_config || ROOTS[..2].contains(&source.room()), "{}", source.path);
    }
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    let homes: [(&str, &[&str]); 7] = [
        ("google_cloud_", &["pubsub"]),
        ("async_graphql", &["graphql", "web", "domain"]),
        ("axum", &["web"]),
        ("hyper", &["web"]),
        ("tower_http", &["web"]),
        ("jsonwebtoken", &["auth"]),
        ("clap", &["config"]),
    ];
    for source in sources() {
        for (foreign, homes) in homes {
            let is_at_home = homes.contains(&source.room());
            let mut paths = source.code.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(is_at_home || !paths.any(|path| path.starts_with(foreign)), "{}: {foreign}", source.path);
        }
    }
}

#[test]
fn only_config_reads_environment() {
    for source in sources().iter().filter(|source| source.room() != "config") {
        for call in ["env::var(", "env::var_os(", "env::vars(", "env::vars_os(", "env::{var"] {
            assert!(!source.code.contains(call), "{}: {call}", source.path);
        }
    }
}

#[test]
fn each_file_opens_with_its_doc() {
    for path in ["src", "tests", "examples", "benches"].map(|name| root().join(name)) {
        for path in path.is_dir().then(|| files(&path)).into_iter().flatten() {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//! "), "{}", path.display());
        }
    }
}

#[test]
fn each_alert_has_paragraph_in_runbook() {
    let (terraform, runbook) = (read("terraform/monitoring.tf"), read("docs/OPERATIONS.md"));
    let rules = read("k8s/components/monitoring/rules.yaml");
    let (_, alerts) = terraform.split_once("  alerts = {\n").expect("the file defines alerts");
    let (alerts, _) = alerts.split_once("\n  }\n").expect("they end");
    let keys = alerts.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" = {"));
    let keys: Vec<_> = keys.filter(|key| !key.starts_with(' ')).collect();
    let rules: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(keys.len() > 4 && rules.len() > 4, "{keys:?} {rules:?}");
    let headings = runbook.lines().filter_map(|line| line.strip_prefix("### "));
    let told: BTreeSet<_> = headings.flat_map(|heading| heading.split(", ")).collect();
    assert_eq!(told, keys.into_iter().chain(rules).collect(), "a paragraph for each alert, and no other");
}

/// Returns the table of the drain: for each row its setting or its position, and its other columns.
fn drain_table() -> Vec<(String, [String; 4])> {
    let document = read("docs/OPERATIONS.md");
    let (_, section) = document.split_once("| step | setting |").expect("the document has the table");
    let rows = section.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    cells.map(|cells| (cells[2].clone(), std::array::from_fn(|column| cells[3 + column].clone()))).collect()
}

/// Returns the number of seconds after `key` in a file, as in `15 s`.
fn seconds_after(path: &str, key: &str) -> String {
    let text = read(path);
    let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("{path} has no {key}"));
    let rest = rest.trim_start_matches([':', '=', ' ', '|']);
    format!("{} s", &rest[..rest.find(|character: char| !character.is_ascii_digit()).unwrap()])
}

#[test]
fn drain_table_matches_configuration() {
    let table = drain_table();
    let [delay, spread, deadline, feed, publisher, telemetry, grace, balancer] = &*table else {
        panic!("the table has other rows: {table:?}");
    };
    for (name, [default, cluster_manifest, compose, cluster]) in [delay, spread, deadline] {
        let name = name.trim_matches('`');
        assert_eq!(*default, seconds_after("docs/CONFIG.md", &format!("| `{name}` |")), "{name}");
        assert_eq!(*cluster_manifest, seconds_after("k8s/base/settings.env", name));
        assert_eq!(*compose, seconds_after("compose.yaml", &format!("      {name}")));
        let config = read("docs/CONFIG.md");
        let row = config.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        let in_cluster = row
            .split_once("(cluster: ")
            .map_or(default.replace(' ', ""), |(_, rest)| rest.split_once(')').unwrap().0.to_owned());
        assert_eq!(cluster.replace(' ', ""), in_cluster, "{name}");
    }
    let spans = [(publisher, CLOSE_STEP_TIMEOUT), (feed, CLOSE_STEP_TIMEOUT), (telemetry, TELEMETRY_TIMEOUT)];
    for ((_, columns), span) in spans {
        assert!(columns.iter().all(|cell| *cell == format!("{} s", span.as_secs())), "{columns:?}");
    }
    let manifest = seconds_after("k8s/base/deployment.yaml", "\n      terminationGracePeriodSeconds");
    let compose = seconds_after("compose.yaml", "stop_grace_period");
    assert_eq!(grace.1[1..], [manifest, compose, "none".to_owned()]);
    let draining = seconds_after("k8s/overlays/gke/gcpbackendpolicy.yaml", "\n      drainingTimeoutSec");
    assert_eq!(balancer.1[1..], [draining, "none".to_owned(), "none".to_owned()]);
    let seconds = |cell: &str| cell.trim_end_matches(" s").parse::<u64>().ok();
    for column in 0..4 {
        let needed = seconds(&deadline.1[column]).unwrap() + AFTER_DEADLINE.as_secs();
        assert!(seconds(&grace.1[column]).is_none_or(|grace| grace >= needed), "{grace:?}");
        assert!(
            seconds(&balancer.1[column]) >= seconds(&grace.1[column]).filter(|_| column < 2),
            "{balancer:?}"
        );
    }
}

#[test]
fn reader_sees_code_only() {
    let code = "use crate::{a, b::{c, d}, e::F}; // crate::no\n\
                /* crate::no */ let s: &'static str = \"crate::no {\"; let q = '\"'; let r = r#\"crate::no \" \"#;\n\
                fn x() { super::super::g::h(); mycrate::no; }\n\
                #[cfg(test)]\nmod tests { use crate::no; fn y() {} }\n\
                #[cfg(test)]\nmod more;\n\
                fn z<'a>() -> crate::i::J<'a> {}";
    let code = without_tests(&without_comments_and_literals(code));
    assert_eq!(named_after(&code, "crate::"), ["a", "b", "e", "i"].map(str::to_owned).into());
    assert_eq!(named_after(&code, "super::super::"), ["g".to_owned()].into());
}
