//! Values that the settings accept and refuse, tested without a process.

use std::sync::Arc;

use super::*;
use crate::{
    auth,
    broker::{memory, open::BrokerUrl, pubsub},
    pod::{self, Drain},
    telemetry,
    web::{AllowedOrigin, Origins},
};

const SECRET: &str = "correct-horse-battery-staple-32-bytes";

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn parsed(arguments: &str, variables: &[(&str, &str)]) -> Result<Command, EarlyExit> {
    let arguments = ["relay"].into_iter().chain(arguments.split_whitespace()).map(OsString::from);
    parse_from(arguments, &environment(variables), |_| Err(BadFile::Directory("of no use".to_owned())))
}

fn settings(arguments: &str, variables: &[(&str, &str)]) -> Settings {
    match parsed(arguments, variables).unwrap() {
        Command::Serve(settings) | Command::Cluster { settings, .. } | Command::Doctor { settings, .. } => {
            settings
        }
        command => panic!("{command:?} has no settings"),
    }
}

/// Returns the lines of the refusal.
fn problems(arguments: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let refusal = parsed(arguments, variables).unwrap_err();
    assert_eq!((refusal.code, refusal.to_stdout), (EX_USAGE, false));
    refusal.text.lines().map(str::to_owned).collect()
}

/// Asserts that there is exactly one problem, and that it begins with this text.
fn assert_refused(variables: &[(&str, &str)], beginning: &str) {
    let problems = problems("", variables);
    assert!(problems.len() == 1 && problems[0].starts_with(beginning), "{beginning}: {problems:?}");
}

#[test]
fn defaults_give_pod_in_memory_for_demo_users() {
    let settings = settings("", &[]);
    let pod = settings.pod;
    assert_eq!(pod.listen, "127.0.0.1:3000".parse().unwrap());
    assert_eq!(
        (pod.admin_listen, settings.broker, settings.domain),
        (None, BrokerUrl::Memory, DomainFiles::default())
    );
    assert!(matches!(pod.auth, auth::Settings::Demo));
    assert_eq!(pod.web.origins, Origins::Localhost);
    assert_eq!((pod.window.span, pod.window.bytes), (Duration::from_secs(600), 64 << 20));
    let web = &pod.web;
    assert_eq!((web.queue_bytes, web.max_connections, web.max_watchers), (256 << 10, 50_000, 64));
    assert_eq!(web.max_connections_per_address, 0);
    assert!(pod.introspection && web.page.is_some());
    assert!(web.debug_token.is_none() && web.admin_token.is_none());
    assert_eq!(pod.heartbeat_interval, Duration::from_secs(10));
    assert_eq!(pod.orphan_after, Duration::from_secs(180));
    let [delay, spread, deadline] = [5, 20, 45].map(Duration::from_secs);
    assert_eq!(pod.drain, Drain { delay, spread, deadline });
    assert_eq!(
        (settings.telemetry.log.as_str(), settings.telemetry.log_format),
        ("info", telemetry::LogFormat::Text)
    );
    assert_eq!((settings.telemetry.export_traces, pod.export_metrics), (false, false));
    assert!(pod.name.starts_with("pod-") && pod.name.len() == 10, "{}", pod.name);
    assert!(settings.unknown.is_empty());
}

#[test]
fn local_pod_of_library_equals_defaults() {
    let ours = settings("", &[]).pod;
    let topic = memory::Topic::new(ours.window.span, ours.window.bytes);
    let local = pod::Settings::local("pod", ours.listen, Arc::new(topic));
    assert_eq!(format!("{:?} {:?}", local.web, local.window), format!("{:?} {:?}", ours.web, ours.window));
    assert_eq!((local.heartbeat_interval, local.orphan_after), (ours.heartbeat_interval, ours.orphan_after));
    assert!(matches!(local.auth, auth::Settings::Demo) && local.introspection == ours.introspection);
    assert_eq!(local.drain, settings("cluster", &[]).pod.drain);
}

#[test]
fn table_has_valid_defaults_and_bounds() {
    for setting in SETTINGS.iter().flat_map(|concern| concern.settings) {
        if let Values::Between(unit, least, most) = setting.values {
            let [least, most] = [least, most].map(|bound| unit.parse(bound).unwrap());
            assert!(least < most, "{setting}");
            let name = setting.variable.unwrap_or_default();
            for outside in [least.checked_sub(1), most.checked_add(1)].into_iter().flatten() {
                let text = match unit {
                    Unit::Duration => format!("{outside}ns"),
                    Unit::Size | Unit::Count => outside.to_string(),
                };
                let command = if setting.only == Some(Only::Doctor) { "doctor" } else { "cluster" };
                match setting.flag {
                    Some(flag) => {
                        assert_eq!(
                            problems(&format!("{command} --{flag}={text}"), &[]).len(),
                            1,
                            "{setting}"
                        );
                    }
                    None => assert_refused(&[(name, &text)], &format!("relay: {name} ")),
                }
            }
        }
    }
    settings("cluster", &[]);
}

#[test]
fn flag_wins_over_variable_unless_empty() {
    let variables = [("RELAY_LISTEN", "127.0.0.1:1"), ("RELAY_LOG", ""), ("RELAY_JWT_SECRET", "")];
    assert_eq!(settings("--listen 127.0.0.1:2", &variables).pod.listen.port(), 2);
    assert_eq!(settings("serve --listen 127.0.0.1:2", &variables).pod.listen.port(), 2);
    assert_eq!(settings("serve --listen=", &variables).pod.listen.port(), 1);
    assert_eq!(settings("", &variables).telemetry.log, "info");
}

#[test]
fn port_listens_everywhere_unless_listen_is_set() {
    assert_eq!(settings("", &[("PORT", "8080")]).pod.listen, "0.0.0.0:8080".parse().unwrap());
    let both = [("PORT", "nonsense"), ("RELAY_LISTEN", "[::1]:0")];
    assert_eq!(settings("", &both).pod.listen, "[::1]:0".parse().unwrap());
    assert_refused(&[("PORT", "0")], "relay: PORT ");
    assert_refused(&[("PORT", "+80")], "relay: PORT ");
}

#[test]
fn relay_pod_wins_over_pod_name() {
    assert_eq!(settings("", &[("POD_NAME", "relay-7d-x")]).pod.name, "relay-7d-x");
    assert_eq!(settings("", &[("POD_NAME", "Bad!"), ("RELAY_POD", "pod-1")]).pod.name, "pod-1");
    assert_refused(&[("POD_NAME", "Bad!")], "relay: POD_NAME ");
    assert_refused(&[("RELAY_POD", &"a".repeat(64))], "relay: RELAY_POD ");
}

#[test]
fn broker_is_memory_or_legal_topic() {
    let emulator = ("PUBSUB_EMULATOR_HOST", "[::1]:8085");
    for (project, topic) in [("demo", "relay"), ("example.com:shop", "Ab-_.~+%9")] {
        let broker = format!("pubsub://{project}/{topic}");
        let expected = BrokerUrl::PubSub(pubsub::Topic {
            project: project.to_owned(),
            id: topic.to_owned(),
            emulator: Some("[::1]:8085".to_owned()),
            endpoint: None,
            proxy: None,
        });
        assert_eq!(settings("", &[("RELAY_BROKER", &broker), emulator]).broker, expected);
    }
    for broker in ["memory", "redis://x", "pubsub://demo", "pubsub://ab/topic", "pubsub://demo/ab"]
        .into_iter()
        .chain(["pubsub://demo/google", "pubsub://Demo/topic", "pubsub://demo/a/b", "pubsub://demo/1ab"])
    {
        assert_refused(&[("RELAY_BROKER", broker), emulator], "relay: RELAY_BROKER (--broker) ");
    }
    let schemed = [("RELAY_BROKER", "pubsub://demo/relay"), ("PUBSUB_EMULATOR_HOST", "http://localhost:1")];
    assert_refused(&schemed, "relay: PUBSUB_EMULATOR_HOST ");
    // A pod with `memory:` ignores it.
    settings("", &schemed[1..]);
}

#[test]
fn topic_leaves_room_for_feed_names() {
    let emulator = ("PUBSUB_EMULATOR_HOST", "localhost:8085");
    for (pod, longest) in [("a".to_owned(), 232), ("a".repeat(63), 170)] {
        let broker = |length| format!("pubsub://demo/{}", "t".repeat(length));
        settings("", &[("RELAY_BROKER", &broker(longest)), ("RELAY_POD", &pod), emulator]);
        for length in [longest + 1, 256] {
            let variables = [("RELAY_BROKER", &*broker(length)), ("RELAY_POD", &pod), emulator];
            assert_refused(&variables, "relay: RELAY_BROKER (--broker) has ");
        }
    }
}

#[test]
fn address_may_have_host_name() {
    let named = [("RELAY_LISTEN", "localhost:3000"), ("RELAY_ADMIN_LISTEN", "localhost:0")];
    let settings = settings("", &named);
    assert!(settings.pod.listen.ip().is_loopback() && settings.pod.listen.port() == 3000, "{settings:?}");
    assert!(settings.pod.admin_listen.is_some_and(|address| address.ip().is_loopback()), "{settings:?}");
    for bad in ["localhost", ":3000", "localhost:65536", "no host:80", "no-such-host.invalid:80"] {
        assert_refused(&[("RELAY_LISTEN", bad)], "relay: RELAY_LISTEN (--listen) ");
    }
}

#[test]
fn short_window_keeps_margin_for_replays() {
    for (window, reach) in [("1s", 6), ("599s", 600), ("10m", 600), ("1h", 3_600)] {
        let settings = settings("", &[("RELAY_REPLAY_WINDOW", window)]);
        assert_eq!(settings.pod.window.span, Duration::from_secs(reach), "{window}");
    }
}

#[test]
fn deadline_may_cut_drain_off() {
    let drain = settings("", &[("RELAY_DRAIN_DEADLINE", "3s")]).pod.drain;
    assert!(drain.is_cut_short() && drain.deadline == Duration::from_secs(3));
    assert!(
        !settings("", &[]).pod.drain.is_cut_short() && !settings("cluster", &[]).pod.drain.is_cut_short()
    );
}

#[test]
fn demo_tokens_are_refused_only_with_real_project() {
    let broker = ("RELAY_BROKER", "pubsub://shop-prod/relay");
    for auth in ["", "demo", " demo "] {
        assert_refused(&[broker, ("RELAY_AUTH", auth)], "relay: RELAY_AUTH (--auth) demo ");
    }
    settings("", &[broker, ("RELAY_AUTH", "jwt"), ("RELAY_JWT_SECRET", SECRET)]);
    settings("", &[broker, ("PUBSUB_EMULATOR_HOST", "localhost:8085")]);
    // One mistake causes one line only.
    assert_refused(
        &[broker, ("RELAY_AUTH", "jwt"), ("RELAY_JWT_SECRET", "short")],
        "relay: RELAY_JWT_SECRET ",
    );
    assert_refused(&[broker, ("RELAY_AUTH", "jwtt")], "relay: RELAY_AUTH (--auth) is not ");
}

/// Returns the names of the issuers and the sources of their keys.
fn sources(auth: &auth::jwt::Settings) -> Vec<(Option<String>, String)> {
    let source = |keys: &auth::jwt::Keys| match keys {
        auth::jwt::Keys::Secret(_) => "secret".to_owned(),
        auth::jwt::Keys::Jwks(source) => source.to_string(),
    };
    auth.issuers.iter().map(|issuer| (issuer.name.clone(), source(&issuer.keys))).collect()
}

#[test]
fn each_issuer_has_its_own_keys() {
    let jwt = ("RELAY_AUTH", "jwt");
    let read = |variables: &[_]| match settings("", variables).pod.auth {
        auth::Settings::Jwt(auth) => sources(&auth),
        other => panic!("{other:?}"),
    };
    let issuers = ("RELAY_JWT_ISSUER", "https://a.example/, b");
    let jwks = ("RELAY_JWT_JWKS", "https://a.example/keys, https://b.example/keys");
    let named = |name: &str, source: &str| (Some(name.to_owned()), source.to_owned());
    let [a, b] = ["https://a.example/keys", "https://b.example/keys"];
    assert_eq!(read(&[jwt, issuers, jwks]), [named("https://a.example/", a), named("b", b)]);
    let urls = ("RELAY_JWT_ISSUER", "https://a.example/,http://localhost:1");
    let discovered = ["https://a.example/", "http://localhost:1"].map(|issuer| named(issuer, issuer));
    assert_eq!(read(&[jwt, urls]), discovered);
    assert_eq!(read(&[jwt, ("RELAY_JWT_SECRET", SECRET), ("RELAY_JWT_ISSUER", "a")]), [named("a", "secret")]);

    let issuer = "relay: RELAY_JWT_ISSUER ";
    assert_refused(&[jwt, issuers], &format!("{issuer}is no https:// URL"));
    assert_refused(&[jwt, ("RELAY_JWT_ISSUER", "http://a.example")], &format!("{issuer}is no https:// URL"));
    assert_refused(&[jwt, ("RELAY_JWT_SECRET", SECRET), issuers], &format!("{issuer}names several issuers"));
    let count = "relay: RELAY_JWT_JWKS must give one source for each issuer";
    assert_refused(&[jwt, issuers, ("RELAY_JWT_JWKS", a)], count);
    assert_refused(&[jwt, jwks], count);
    for list in ["a,a", "a,,b", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"] {
        assert_refused(&[jwt, ("RELAY_JWT_ISSUER", list)], &format!("{issuer}is no list of issuers"));
    }
    assert_refused(
        &[jwt, ("RELAY_JWT_SECRET", SECRET), ("RELAY_JWT_LEEWAY", "6m")],
        "relay: RELAY_JWT_LEEWAY is not between 0s and 5m",
    );
}

#[test]
fn jwt_needs_exactly_one_source_of_keys() {
    let jwt = ("RELAY_AUTH", "jwt");
    let secret = ("RELAY_JWT_SECRET", SECRET);
    let jwks = ("RELAY_JWT_JWKS", "https://id.example.com/keys");
    let auth = settings("", &[jwt, jwks, ("RELAY_JWT_ISSUER", "https://id.example.com")]).pod.auth;
    let auth::Settings::Jwt(auth) = auth else { panic!("{auth:?}") };
    assert_eq!(sources(&auth), [(Some("https://id.example.com".to_owned()), jwks.1.to_owned())]);
    assert_eq!(auth.audience, None);

    assert_refused(&[jwt], "relay: RELAY_AUTH (--auth) is jwt, which needs keys");
    assert_refused(&[jwt, secret, jwks], "relay: RELAY_JWT_JWKS cannot be set beside RELAY_JWT_SECRET");
    assert_refused(&[("RELAY_AUTH", "demo"), secret], "relay: RELAY_JWT_SECRET is of no use");
    assert_refused(&[("RELAY_JWT_AUDIENCE", "relay")], "relay: RELAY_JWT_AUDIENCE is of no use");
    assert_refused(
        &[jwt, ("RELAY_JWT_SECRET_FILE", "/nowhere")],
        "relay: RELAY_JWT_SECRET_FILE names a file",
    );
    for (bytes, is_fine) in
        [(format!("{}\r\n", &SECRET[..32]), true), (format!("{}\n\n", &SECRET[..30]), false)]
    {
        assert_eq!(value::secret(bytes.into_bytes()).is_ok(), is_fine);
    }
    for jwks in [
        "/nowhere",
        "Cargo.toml",
        "ftp://id.example.com/keys",
        "https://",
        "http://[x",
        "https://me:pw@id.example.com/keys",
    ] {
        assert_refused(&[jwt, ("RELAY_JWT_JWKS", jwks)], "relay: RELAY_JWT_JWKS ");
    }
    let admin = ("RELAY_ADMIN_TOKEN", SECRET);
    assert_refused(&[admin], "relay: RELAY_ADMIN_TOKEN is for an address without clients");
    let listen = ("RELAY_ADMIN_LISTEN", "127.0.0.1:9090");
    assert_refused(
        &[listen, admin, ("RELAY_DEBUG_TOKEN", SECRET)],
        "relay: RELAY_ADMIN_TOKEN is the debug token",
    );
    let both = problems("", &[jwt, secret, ("RELAY_JWT_SECRET_FILE", "/nowhere")]);
    assert!(
        both[0].starts_with("relay: RELAY_JWT_SECRET_FILE cannot be set beside RELAY_JWT_SECRET"),
        "{both:?}"
    );
}

#[test]
fn file_contents_are_checked_with_all_settings() {
    let variables = [
        ("RELAY_QUEUE_BYTES", "lots"),
        ("RELAY_DIRECTORY", "Cargo.toml"),
        ("RELAY_AUTH", "jwt"),
        ("RELAY_JWT_JWKS", "Cargo.toml"),
    ];
    for command in ["serve", "cluster", "doctor"] {
        let problems = problems(command, &variables);
        assert_eq!(problems.len(), 3, "{problems:?}");
        for beginning in [
            "relay: RELAY_QUEUE_BYTES ",
            "relay: RELAY_JWT_JWKS names a file that cannot be used: not a JSON object",
            "relay: RELAY_DIRECTORY names a file that cannot be used: of no use",
        ] {
            assert!(
                problems.iter().any(|problem| problem.starts_with(beginning)),
                "{beginning}: {problems:?}"
            );
        }
    }
}

#[test]
fn origins_are_kept_in_form_of_browsers() {
    let origins = |text: &str| settings("", &[("RELAY_ALLOWED_ORIGINS", text)]).pod.web.origins;
    assert_eq!(origins("*"), Origins::Any);
    let browsers = |text: &str| match origins(text) {
        Origins::List(list) => list.iter().filter_map(AllowedOrigin::example).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let written = "https://App.example.com:443, http://localhost:5173,capacitor://localhost,http://[::1]:80";
    let list = ["https://app.example.com", "http://localhost:5173", "capacitor://localhost", "http://[::1]"];
    assert_eq!(browsers(written), list);
    assert_eq!(browsers("https://*.example.com, null, file://"), [""; 0]);
    for bad in [
        "example.com",
        "https://a.com/",
        "https://a.com/x",
        "https://*.*.a.com",
        "*,https://a.com",
        ",",
        "https://",
    ] {
        assert_refused(&[("RELAY_ALLOWED_ORIGINS", bad)], "relay: RELAY_ALLOWED_ORIGINS ");
    }
    let jwt = [("RELAY_AUTH", "jwt"), ("RELAY_JWT_SECRET", SECRET)];
    assert_eq!(settings("", &jwt).pod.web.origins, Origins::Same);
}

#[test]
fn misspelt_variables_are_listed_without_kubernetes_ones() {
    let variables = [
        ("RELAY_BROKR", "memory:"),
        ("RELAY_SERVICE_HOST", "10.0.0.1"),
        ("RELAY_SERVICE_PORT_HTTP", "3000"),
        ("RELAY_PORT", "tcp://10.0.0.1:3000"),
        ("RELAY_PORT_3000_TCP_ADDR", "10.0.0.1"),
        ("OTHER", "x"),
    ];
    assert_eq!(settings("", &variables).unknown, ["RELAY_BROKR"]);
}

#[test]
fn cluster_refuses_settings_of_one_pod() {
    let variables =
        [("PUBSUB_EMULATOR_HOST", "localhost:8085"), ("PORT", "1"), ("CLOUDSDK_ROOT_DIR", "/sdk")];
    let command = parsed("cluster --pods 2 --port 65534", &variables).unwrap();
    let Command::Cluster { settings, pods, first_port, wanted, cloudsdk_root, path, emulator_host } = command
    else {
        panic!("{command:?}")
    };
    assert_eq!(wanted, Wanted::Any);
    assert_eq!((pods, first_port, settings.pod.listen.port()), (2, 65534, 0));
    assert_eq!((cloudsdk_root, path), (Some(PathBuf::from("/sdk")), None));
    assert_eq!(emulator_host.as_deref(), Some("localhost:8085"));

    assert!(problems("cluster --pods 3 --port 65534", &[])[0].starts_with("relay: --port "));
    let one_pod = [("RELAY_LISTEN", "127.0.0.1:1"), ("RELAY_BROKER", "memory:"), ("RELAY_POD", "a")];
    assert_eq!(problems("cluster --pods 0", &one_pod).len(), 4);
    let broker = |text: &str| match parsed(&format!("cluster --broker {text}"), &[]).unwrap() {
        Command::Cluster { wanted, .. } => wanted,
        command => panic!("{command:?}"),
    };
    assert_eq!(
        ["memory:", "pubsub:", "postgres:", "rabbitmq:", "rabbitmq:5673"].map(broker),
        [Wanted::Memory, Wanted::PubSub, Wanted::Postgres, Wanted::RabbitMq(5672), Wanted::RabbitMq(5673)]
    );
    for illegal in ["rabbitmq:0", "rabbitmq:65536", "rabbitmq:mq", "rabbitmq"] {
        assert!(problems(&format!("cluster --broker {illegal}"), &[])[0].starts_with("relay: --broker "));
    }
    assert!(problems("cluster --broker postgres://db/shop", &[])[0].starts_with("relay: --broker "));
    parsed("--auth demo cluster", &[]).unwrap_err();
}

#[test]
fn schema_needs_no_settings() {
    assert!(matches!(parsed("schema", &[("RELAY_LISTEN", "bad")]), Ok(Command::Schema(_))));
}

#[test]
fn signals_with_endpoint_are_exported_unless_disabled() {
    let export = |variables: &[(&str, &str)]| {
        let settings = settings("", variables);
        (settings.telemetry.export_traces, settings.pod.export_metrics)
    };
    let (all, traces) = (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/v1"),
    );
    assert_eq!(export(&[all]), (true, true));
    assert_eq!(export(&[traces]), (true, false));
    assert_eq!(export(&[all, ("OTEL_SDK_DISABLED", "true")]), (false, false));
    assert_refused(
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")],
        "relay: OTEL_EXPORTER_OTLP_ENDPOINT is not the URL",
    );
}

#[test]
fn health_check_asks_admin_address() {
    let address = |variables: &[_]| match parsed("healthcheck", variables) {
        Ok(Command::Healthcheck(address)) => address.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(address(&[]), "127.0.0.1:3000");
    assert_eq!(address(&[("PORT", "80")]), "127.0.0.1:80");
    assert_eq!(address(&[("RELAY_LISTEN", "[::]:80")]), "127.0.0.1:80");
    let both = [("RELAY_LISTEN", "0.0.0.0:8080"), ("RELAY_ADMIN_LISTEN", "10.0.0.7:9090")];
    assert_eq!(address(&both), "10.0.0.7:9090");
}

#[test]
fn doctor_reads_settings_of_serve_and_own_flags() {
    let command = "doctor --broker pubsub://shop/events --url wss://relay.example.com/graphql --grace 90s";
    let variables = [("PUBSUB_EMULATOR_HOST", "localhost:8085"), ("POD_NAME", "relay-1")];
    let Command::Doctor { settings, questions } = parsed(command, &variables).unwrap() else { panic!() };
    assert!(matches!(&settings.broker, BrokerUrl::PubSub(topic) if topic.emulator.is_some()), "{settings:?}");
    assert_eq!(questions.url.as_deref(), Some("wss://relay.example.com/graphql"));
    let waits = (questions.hold, questions.grace);
    assert_eq!(waits, (Duration::from_secs(40), Some(Duration::from_secs(90))));
    assert!(questions.in_kubernetes && questions.token_file.is_none());
    assert!(
        problems("doctor --url wss://user:secret@relay.example.com/", &[])[0].starts_with("relay: --url ")
    );
}
