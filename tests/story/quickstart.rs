//! docs/QUICKSTART.md, run as it stands: its file, its commands, their output.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use crate::support::Setup;

const PAGE: &str = include_str!("../../docs/QUICKSTART.md");
const CHAT: &str = include_str!("../../examples/chat/schema.graphql");

/// Returns the blocks of the page in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    PAGE.split(&fence).skip(1).map(|part| part.split("```").next().unwrap()).collect()
}

/// Returns a command of the page for the pod at this port.
fn command(block: &str, port: u16) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("exec {}", block.replace("localhost:3000", &format!("localhost:{port}")))]);
    command.stdout(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn quickstart_works_as_it_stands() {
    assert_eq!(blocks("graphql"), [CHAT], "the page has examples/chat/schema.graphql");
    let [commands, listen, write, eve] = blocks("sh").try_into().unwrap();
    let path = std::env::temp_dir().join(format!("relay-{}.graphql", uuid::Uuid::now_v7()));
    std::fs::write(&path, CHAT).unwrap();
    for line in commands.lines() {
        let words: Vec<_> =
            line.replace("schema.graphql", path.to_str().unwrap()).leak().split(' ').collect();
        if words[1] == "check" {
            let checked = Setup::new("pod").command_line(&words[1..]).run().await;
            assert!(checked.status.success(), "{checked:?}");
            continue;
        }
        let pod = Setup::new("pod").command_line(&words[1..]).start().await;
        let mut bob = command(listen, pod.port()).spawn().unwrap();
        let lines = BufReader::new(bob.stdout.take().unwrap()).lines();
        pod.until_metric("relay_watchers", 1.0).await;
        let written = command(write, pod.port()).output().unwrap();
        assert!(String::from_utf8_lossy(&written.stdout).contains(r#""postMessage":{"id":"#), "{written:?}");
        let heard = r#"{"messagePosted":{"author":"ann","text":"Hello"}}"#;
        assert!(lines.map_while(Result::ok).any(|line| line.contains(heard)));
        bob.kill().unwrap();
        bob.wait().unwrap();
        let refused = command(eve, pod.port()).output().unwrap();
        assert!(String::from_utf8_lossy(&refused.stdout).contains("FORBIDDEN"), "{refused:?}");
    }
    std::fs::remove_file(&path).unwrap();
}
