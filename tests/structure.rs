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

#[path = "structure/imports.rs"]
mod imports;

use imports::{
    Mention, Module, Source, circles, graph, mentions, sources, without_comments_and_literals, without_tests,
};
use pubsub_relay::pod::drain::{AFTER_DEADLINE, CLOSE_STEP_TIMEOUT, TELEMETRY_TIMEOUT};

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

/// Returns the texts in backticks.
fn ticked(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the table below a heading of the document: the modules that each module may import.
fn table(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let document = read("docs/ARCHITECTURE.md");
    let (_, section) = document.split_once(heading).expect("the document has the table");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let section = section.split_once("\n### ").map_or(section, |(section, _)| section);
    let mut table = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        for module in ticked(cells[1]) {
            table.insert(module, ticked(cells[2]).into_iter().collect());
        }
    }
    assert!(table.len() > 4, "the table was found: {table:?}");
    table
}

/// Returns the imports between the modules below `prefix`, each file counted to its module there.
fn imports_below(prefix: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let room = |module: &Module| {
        let below =
            module.strip_prefix(prefix.iter().map(|&name| name.to_owned()).collect::<Vec<_>>().as_slice());
        below.map(|rest| rest.first().map_or("", String::as_str).to_owned())
    };
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, uses) in graph(&library()) {
        let Some(from) = room(&file) else { continue };
        let uses: Vec<_> = uses.iter().filter_map(room).filter(|to| *to != from).collect();
        imports.entry(from).or_default().extend(uses);
    }
    // The root declares the modules and re-exports from them; it is the one that no module may use.
    imports.remove("");
    imports
}

/// Returns the sources of the library, without those of the program.
fn library() -> Vec<Source> {
    sources().into_iter().filter(|source| source.room() != "bin").collect()
}

#[test]
fn imports_match_tables_of_architecture() {
    for (heading, prefix) in [("## Imports\n", &[][..]), ("### Inside `web`\n", &["web"][..])] {
        let (table, imports) = (table(heading), imports_below(prefix));
        assert_eq!(
            table.keys().collect::<Vec<_>>(),
            imports.keys().collect::<Vec<_>>(),
            "modules below {heading}"
        );
        for (module, uses) in imports {
            assert_eq!(table[&module], uses, "{heading}: {module}: left as documented, right as imported");
        }
    }
}

#[test]
fn tables_of_architecture_have_no_circle() {
    for heading in ["## Imports\n", "### Inside `web`\n"] {
        let mut table = table(heading);
        while !table.is_empty() {
            let before = table.len();
            let rest: BTreeSet<String> = table.keys().cloned().collect();
            table.retain(|_, uses| !uses.is_disjoint(&rest));
            assert!(table.len() < before, "they import one another: {table:?}");
        }
    }
}

#[test]
fn no_circle_of_files() {
    let circles = circles(graph(&library()));
    let named: Vec<_> = circles
        .iter()
        .map(|(file, uses)| {
            format!(
                "{} uses {:?}",
                file.join("/"),
                uses.iter().map(|used| used.join("/")).collect::<Vec<_>>()
            )
        })
        .collect();
    assert!(circles.is_empty(), "files that import one another: {named:#?}");
}

#[test]
fn architecture_names_existing_files() {
    let document = read("docs/ARCHITECTURE.md");
    let named = ticked(&document.replace("```", "")).into_iter().filter(|text| text.starts_with("src/"));
    let mut count = 0;
    for pattern in named {
        // `src/web/{a,b}.rs` stands for two files.
        let (before, rest) = pattern.split_once('{').unwrap_or((&pattern, "}"));
        let (names, after) = rest.split_once('}').unwrap();
        for name in names.split(',') {
            let path = format!("{before}{name}{after}");
            assert!(root().join(&path).exists(), "{path}");
            count += 1;
        }
    }
    assert!(count > 30, "the tables were found: {count}");
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    let homes: [(&str, &[&str]); 10] = [
        ("google_cloud_", &["broker"]),
        ("tokio_postgres", &["broker"]),
        ("lapin", &["broker"]),
        ("async_graphql", &["", "graphql", "web", "domains"]),
        ("axum", &["web"]),
        ("hyper", &["web"]),
        ("tower_http", &["web"]),
        ("jsonwebtoken", &["auth"]),
        ("aws_lc_rs", &["broker", "control"]),
        ("clap", &["cli"]),
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
    for source in sources().iter().filter(|source| !source.path.starts_with("src/cli/config")) {
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
    let keys_of = |list: &str| {
        let (_, alerts) = terraform.split_once(&format!("  {list} = {{\n")).expect("the file defines alerts");
        let (alerts, _) = alerts.split_once("\n  }\n").expect("they end");
        let keys = alerts.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" = {"));
        keys.filter(|key| !key.starts_with(' ')).collect::<Vec<_>>()
    };
    let keys = [keys_of("pod_alerts"), keys_of("postgres_alerts")].concat();
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
        // The item of the list below the table, which may take two lines.
        let (_, item) = config.split_once(&format!("\n- `{name}`: ")).unwrap();
        let item = item.split("\n- ").next().unwrap().split("\n\n").next().unwrap();
        let in_cluster = item
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
                pub(in crate::no) fn z<'a>() -> crate::i::J<'a> {}\n\
                pub use self::k::L;";
    let code = without_tests(&without_comments_and_literals(code));
    let found: BTreeSet<_> = mentions(&code).iter().map(|mention| mention.names.join("::")).collect();
    let expected = [
        "crate::a",
        "crate::b::c",
        "crate::b::d",
        "crate::e::F",
        "crate::i::J",
        "self::k::L",
        "super::super::g::h",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
    let door = Mention { names: ["self", "k", "L"].map(str::to_owned).into(), is_door: true };
    assert!(mentions(&code).contains(&door));
}

#[test]
fn circle_of_files_is_found() {
    let source = |path: &str, code: &str| Source {
        path: path.to_owned(),
        module: path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        code: code.to_owned(),
    };
    let straight = [
        source("", "pub mod a;"),
        source("a", "mod b; mod c; pub use self::b::B; use self::c::C;"),
        source("a/b", "use super::c::C; pub struct B(C);"),
        source("a/c", "pub struct C;"),
        source("d", "use crate::a::B;"),
    ];
    assert!(circles(graph(&straight)).is_empty());
    let mut round = straight;
    round[3].code = "pub struct C(crate::a::B);".to_owned();
    let names: Vec<_> = circles(graph(&round)).into_keys().map(|file| file.join("/")).collect();
    assert_eq!(names, ["a/b", "a/c"]);
}
