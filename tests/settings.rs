//! Command line of the real binary: what it documents, what it refuses, and what it never prints.
//!
//! Operators read `--help` and `docs/CONFIG.md`, so both must list what exists. The program must
//! never print a secret.

use std::{collections::BTreeSet, fs, process::Command, process::Output};

use pubsub_relay::cli::config::{SETTINGS, Setting};

/// Secret that no output may contain.
const SECRET: &str = "never-print-this-secret-of-40-characters";

/// Runs `relay` to its end with only these variables.
fn relay(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command.output().expect("the binary was built with this test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// Runs `relay` and returns its lines on stderr. Asserts exit code 64 and an empty stdout.
fn refusal(arguments: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let output = relay(arguments, variables);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    text(&output.stderr).lines().map(str::to_owned).collect()
}

fn settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().flat_map(|concern| concern.settings.iter().copied())
}

#[test]
fn help_lists_exactly_existing_settings() {
    let output = relay(&["--help"], &[("RELAY_JWT_SECRET", SECRET)]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    let help = text(&output.stdout);
    let (options, list) = help.split_once("Settings.").expect("help has a list of settings");
    let entries: Vec<_> = list
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(str::trim)
        .collect();
    assert_eq!(entries, settings().map(ToString::to_string).collect::<Vec<_>>());

    let cluster = text(&relay(&["cluster", "--help"], &[]).stdout);
    let (cluster_options, _) = cluster.split_once("Settings.").expect("help has a list of settings");
    let doctor = text(&relay(&["doctor", "--help"], &[]).stdout);
    let (doctor_options, _) = doctor.split_once("Settings.").expect("help has a list of settings");
    let flags: BTreeSet<_> = [options, cluster_options, doctor_options]
        .iter()
        .flat_map(|help| help.lines())
        .filter_map(|line| line.trim_start().strip_prefix("--")?.split_whitespace().next())
        .collect();
    assert_eq!(flags, settings().filter_map(|setting| setting.flag).collect());
}

#[test]
fn config_document_lists_exactly_existing_settings() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
    let (tables, _) = document.split_once("## Exit codes").expect("exit codes come last");
    let rows: Vec<Vec<String>> = tables
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| variable "))
        .map(|line| line.split('|').skip(1).take(4).map(|cell| cell.trim().replace('`', "")).collect())
        .collect();
    let expected: Vec<Vec<String>> = settings()
        .map(|setting| {
            vec![
                setting.variable.unwrap_or_default().to_owned(),
                setting.flag.map(|flag| format!("--{flag}")).unwrap_or_default(),
                setting.fallback.to_string(),
                setting.values.to_string(),
            ]
        })
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn relay_reports_every_bad_setting_at_once() {
    let variables = [
        ("RELAY_LISTEN", "localhost"),
        ("RELAY_ADMIN_LISTEN", ":9"),
        ("RELAY_BROKER", "kafka://x"),
        ("RELAY_BROKER_USER", "me"),
        ("RELAY_BROKER_PASSWORD", "text"),
        ("RELAY_BROKER_PASSWORD_FILE", "/does/not/exist"),
        ("RELAY_BROKER_CA_FILE", "/does/not/exist"),
        ("RELAY_PUBSUB_ENDPOINT", "http://example.com"),
        ("RELAY_POD", "Not A Name"),
        ("RELAY_AUTH", "none"),
        ("RELAY_SCHEMA", "/does/not/exist.graphql"),
        ("RELAY_DIRECTORY", "/does/not/exist.json"),
        ("RELAY_ALLOWED_ORIGINS", "example.com"),
        ("RELAY_ALLOWED_HEADERS", "x tenant"),
        ("RELAY_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("RELAY_COOKIE", "a=b"),
        ("RELAY_REPLAY_WINDOW", "ten minutes"),
        ("RELAY_REPLAY_BYTES", "1"),
        ("RELAY_MEMORY", "1KiB"),
        ("RELAY_ANSWER_BYTES", "none"),
        ("RELAY_USER_EVENT_RATE", "0"),
        ("RELAY_USER_EVENT_BYTES", "1/s"),
        ("RELAY_QUEUE_BYTES", "lots"),
        ("RELAY_MAX_CONNECTIONS", "-1"),
        ("RELAY_CONNECTION_EVENTS", "maybe"),
        ("RELAY_MAX_WATCHERS", "0"),
        ("RELAY_HEARTBEAT_INTERVAL", "1ms"),
        ("RELAY_ORPHAN_AFTER", "soon"),
        ("RELAY_DRAIN_DELAY", "1h"),
        ("RELAY_CONTROL_SECRET", "short"),
        ("RELAY_DRAIN_SPREAD", "-1s"),
        ("RELAY_DRAIN_DEADLINE", "0s"),
        ("RELAY_LOG", "warning"),
        ("RELAY_LOG_FORMAT", "xml"),
    ];
    let lines = refusal(&[], &variables);
    assert_eq!(lines.len(), variables.len(), "{lines:#?}");
    for (variable, _) in variables {
        let beginning = format!("relay: {variable} ");
        assert!(lines.iter().any(|line| line.starts_with(&beginning)), "{variable}: {lines:#?}");
    }
}

#[test]
fn relay_never_prints_secrets() {
    // Each is wrong in its own way. One of them holds the secret where a path belongs.
    let wrong = [
        vec![("RELAY_JWT_SECRET", SECRET), ("RELAY_LISTEN", "bad")],
        vec![("RELAY_JWT_SECRET", SECRET), ("RELAY_AUTH", "jwt"), ("RELAY_JWT_JWKS", "https://a.example/k")],
        vec![("RELAY_JWT_SECRET_FILE", SECRET), ("RELAY_AUTH", "jwt")],
        vec![("RELAY_JWT_JWKS", SECRET), ("RELAY_AUTH", "jwt")],
        vec![("RELAY_AUTH", SECRET)],
        vec![(
            "RELAY_BROKER",
            concat!("postgres://relay:", "never-print-this-secret-of-40-characters", "@db/shop"),
        )],
        vec![("RELAY_BROKER", "postgres://localhost/shop"), ("RELAY_BROKER_PASSWORD_FILE", SECRET)],
        vec![("RELAY_BROKER", "postgres://localhost/"), ("RELAY_BROKER_PASSWORD", SECRET)],
        vec![("RELAY_JWT_SECRET", &SECRET[..31]), ("RELAY_AUTH", "jwt")],
        vec![("RELAY_CONTROL_SECRET", &SECRET[..31])],
        vec![("RELAY_CONTROL_SECRET", SECRET), ("RELAY_CONTROL_SECRET_FILE", SECRET)],
        vec![("RELAY_CONTROL_SECRET", SECRET), ("RELAY_LISTEN", "bad")],
    ];
    for variables in wrong {
        let lines = refusal(&[], &variables);
        assert!(!lines.concat().contains(&SECRET[..31]), "{lines:#?}");
    }
}

#[test]
fn relay_refuses_demo_users_with_real_project() {
    let lines = refusal(&["--broker", "pubsub://shop-prod/relay"], &[]);
    assert!(matches!(&lines[..], [line] if line.starts_with("relay: RELAY_AUTH (--auth) ")), "{lines:#?}");
}

#[test]
fn relay_refuses_demo_users_with_remote_server() {
    let lines = refusal(&["--broker", "postgres://db.example.com/shop"], &[]);
    assert!(matches!(&lines[..], [line] if line.starts_with("relay: RELAY_AUTH (--auth) ")), "{lines:#?}");
}

#[test]
fn relay_prints_script_of_named_topic() {
    let script = |variables: &[_]| text(&relay(&["schema", "--postgres"], variables).stdout);
    assert!(script(&[]).contains("create table if not exists relay.events"));
    let news = script(&[("RELAY_BROKER", "postgres://db/shop?topic=news")]);
    assert!(
        news.contains("create table if not exists news.events") && !news.contains("relay.events"),
        "{news}"
    );
    refusal(&["schema", "--postgres"], &[("RELAY_BROKER", "pubsub://shop-prod/relay")]);
}

#[test]
fn doctor_takes_only_arguments_that_it_can_check() {
    let lines = refusal(
        &[
            "doctor",
            "--url",
            "https://relay.example.com",
            "--token-file",
            SECRET,
            "--hold",
            "0s",
            "--grace",
            "1",
        ],
        &[("RELAY_DRAIN_DEADLINE", "0s")],
    );
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(!lines.concat().contains(SECRET), "{lines:#?}");
}

#[test]
fn relay_refuses_unknown_flag_like_bad_setting() {
    let lines = refusal(&["--brokr", "memory:"], &[]);
    assert!(lines[0].contains("--brokr"), "{lines:#?}");
}

#[test]
fn version_is_that_of_package() {
    let output = relay(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), concat!("relay ", env!("CARGO_PKG_VERSION"), "\n"));
}
