//! The commands of a terminal that are clients of a pod: `relay watch` and `relay publish`.
//!
//! They are a newcomer's first check. What a script reads must be results only.

use std::{path::PathBuf, process::Output};

use serde_json::Value;

use crate::support::{PATIENCE, Relay, Setup, Topic, eventually, free_ports};

fn command(arguments: &[&str], port: u16) -> Setup {
    let url = format!("127.0.0.1:{port}");
    Setup::new("terminal").command_line(&[arguments, &["--url", &url]].concat())
}

async fn publish(port: u16, user: &str, name: &str) -> Output {
    command(&["publish", "--as", user, name, "--share", "3,4"], port).run().await
}

/// Starts `relay watch` and waits until it watches.
async fn watching(arguments: &[&str], pod: &Relay) -> Relay {
    let watch = command(&[&["watch", "--as", "ZOLO"], arguments].concat(), pod.port()).launch();
    eventually("it watches", PATIENCE, async || watch.output().contains("watching at").then_some(())).await;
    pod.until_metric_is("relay_watchers", "", |count| count >= 1.0).await;
    watch
}

/// Returns the results that were printed.
fn results(watch: &Relay) -> Vec<Value> {
    let output = watch.output();
    output
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn names(watch: &Relay) -> Vec<String> {
    let name = |result: Value| result["templateAdded"]["name"].as_str().unwrap().to_owned();
    results(watch).into_iter().map(name).collect()
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_resumes_after_pod_was_replaced() {
    let Some(topic) = Topic::fresh().await else { return };
    let other = Setup::new("other").topic(&topic).start().await;
    let mut pod = Setup::new("first").topic(&topic).start().await;
    let watch = watching(&[], &pod).await;
    assert_eq!(publish(other.port(), "ZOWI", "before").await.status.code(), Some(0));
    eventually("the first result", PATIENCE, async || (names(&watch) == ["before"]).then_some(())).await;
    pod.kill();
    eventually("the cut is told", PATIENCE, async || {
        watch.output().contains("connection lost").then_some(())
    })
    .await;
    assert_eq!(publish(other.port(), "ZOWI", "missed").await.status.code(), Some(0));
    let again = Setup::new("second").topic(&topic).at(pod.port()).start().await;
    eventually("it resumes", 2 * PATIENCE, async || (names(&watch) == ["before", "missed"]).then_some(()))
        .await;
    publish(again.port(), "ZOWI", "after").await;
    eventually("it goes on", PATIENCE, async || {
        (names(&watch) == ["before", "missed", "after"]).then_some(())
    })
    .await;
    assert!(watch.output().contains("what was missed follows"), "{}", watch.output());
    assert!(!watch.output().contains('\u{1b}'), "no colours in a pipe: {:?}", watch.output());
    let mut watch = watch;
    watch.signal("INT");
    assert_eq!(watch.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_ends_after_its_count() {
    let pod = Setup::new("pod").start().await;
    let mut watch = watching(&["--count", "2"], &pod).await;
    for name in ["one", "two"] {
        let (code, out, _) = text(&publish(pod.port(), "ZOWI", name).await);
        let data: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &data["addTemplate"]["template"]["name"]), (Some(0), &Value::from(name)));
    }
    assert_eq!(watch.ended().await.code(), Some(0));
    assert_eq!(names(&watch), ["one", "two"]);
}

/// File that is deleted when dropped.
struct Document(PathBuf);

impl Document {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("relay-{}.graphql", uuid::Uuid::now_v7()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_any_domain_run() {
    let pod = Setup::new("pod").start().await;
    let watched = Document::new("subscription { templateAdded { name } }");
    let watch = watching(&["--document", watched.path()], &pod).await;
    let edit = "mutation ($in: AddTemplateInput!) { addTemplate(templateInput: $in) { message } }";
    let mutation = Document::new(edit);
    let token = Document::new("ZOWI\n");
    let variables = r#"{"in": {"name": "mine", "shareLocationIds": ["3"]}}"#;
    let arguments =
        ["publish", "--token-file", token.path(), "--document", mutation.path(), "--variables", variables];
    let (code, out, words) = text(&command(&arguments, pod.port()).run().await);
    assert_eq!((code, &*out), (Some(0), "{\"addTemplate\":{\"message\":\"template added\"}}\n"), "{words}");
    eventually("the result", PATIENCE, async || (names(&watch) == ["mine"]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_fail_with_documented_codes() {
    let pod = Setup::new("pod").start().await;
    let wrong = Document::new("subscription { nothing }");
    let nowhere = free_ports(1);
    for (arguments, port, code, words) in [
        (&["publish", "--as", "UNKNOWN", "x"][..], pod.port(), 1, "the pod refuses the token"),
        (&["watch", "--as", "UNKNOWN"], pod.port(), 1, "the pod refuses the token"),
        (
            &["watch", "--as", "ZOLO", "--document", wrong.path()],
            pod.port(),
            1,
            "the pod refuses the document",
        ),
        (&["publish", "--as", "ZOWI", ""], pod.port(), 1, "BAD_USER_INPUT"),
        (
            &["publish", "--as", "ZOWI", "x"],
            nowhere,
            69,
            "start a pod there (relay cluster), or correct --url",
        ),
        (&["watch", "--as", "ZOLO"], nowhere, 69, "cannot be reached"),
        (&["publish", "--as", "ZOWI"], nowhere, 64, "NAME"),
        (&["watch"], nowhere, 64, "--as"),
        (&["watch", "--as", "ZOLO", "--count", "0"], nowhere, 64, "--count"),
        (&["watch", "--token-file", "/nonexistent"], pod.port(), 64, "--token-file cannot be read"),
        (&["watch", "--as", "ZOLO", "--variables", "{"], nowhere, 64, "--variables is no JSON object"),
    ] {
        let (found, out, text) = text(&command(arguments, port).run().await);
        assert_eq!((found, &*out), (Some(code), ""), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
        assert!(!text.contains("Some(") && !text.contains('\u{1b}'), "{text}");
    }
    let elsewhere = format!("127.0.0.1:{}/livez", pod.port());
    let output = Setup::new("t").command_line(&["watch", "--as", "ZOLO", "--url", &elsewhere]).run().await;
    let (code, _, words) = text(&output);
    assert!(code == Some(69) && words.contains("as no pod does: correct --url"), "{words}");
}

#[tokio::test]
async fn help_version_and_completions_are_commands() {
    let run = async |arguments: &[&str]| {
        let output = Setup::new("t").command_line(arguments).run().await;
        let (code, out, words) = text(&output);
        assert_eq!((code, &*words), (Some(0), ""), "{arguments:?}");
        out
    };
    assert_eq!(run(&["version"]).await, format!("relay {}\n", env!("CARGO_PKG_VERSION")));
    assert!(run(&["help"]).await.contains("RELAY_BROKER"));
    assert!(run(&["help", "watch"]).await.contains("--token-file"));
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).await;
        for word in ["relay", "watch", "doctor", "token-file"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
