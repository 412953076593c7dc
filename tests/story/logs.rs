//! What a pod writes on its log: a line for each connection, and nothing that is anybody's secret.

use serde_json::Value;

use crate::support::{Dialect, PATIENCE, Setup, Topic, USERS, eventually, watchers_on};

/// Said by a client, to be found nowhere.
const NAME: &str = "a template nobody shall read of";
const TOKEN: &str = "a-token-that-lets-nobody-in";

#[tokio::test(flavor = "multi_thread")]
async fn no_line_has_a_payload_a_token_or_a_clients_address() {
    let Some(topic) = Topic::fresh().await else { return };
    for format in ["json", "text"] {
        let pod = Setup::new("pod").topic(&topic).set("RELAY_LOG", "info,pubsub_relay=debug");
        let pod = pod.set("RELAY_LOG_FORMAT", format).start().await;
        let mut clients = watchers_on(&pod, Dialect::Transport, &USERS).await;
        pod.add_template("ZOWI", NAME, Some(&["3"])).await;
        for client in &mut clients[1..3] {
            client.next().await;
        }
        assert_eq!(pod.http.graphql(TOKEN, "{ locations { id } }", Value::Null).await.status, 401);
        pod.http.graphql("ZOWI", &format!("{{ {TOKEN} }}"), Value::Null).await;
        clients[0].socket.send_text(NAME.to_owned()).await;
        drop(clients);
        pod.until_metric("relay_connections", 0.0).await;
        let said = eventually("all ends are told", PATIENCE, async || {
            let said = pod.said();
            (said.matches("connection ended").count() == USERS.len()).then_some(said)
        })
        .await;

        assert!(said.contains("event dispatched"), "noisy enough: {said}");
        for line in said.lines().filter(|line| !line.contains("pod started")) {
            for secret in [NAME, TOKEN, "Bearer", "ZOWI", "127.0.0.1"] {
                assert!(!line.contains(secret), "{secret}: {line}");
            }
        }
        if format == "json" {
            let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let ends: Vec<_> = lines.filter(|line| line["message"] == "connection ended").collect();
            assert!(
                ends.iter().all(|line| line["severity"] == "INFO" && line["transport"] == "ws"),
                "{ends:?}"
            );
            assert_eq!(ends.iter().map(|line| line["deliveries"].as_u64().unwrap()).sum::<u64>(), 2);
            assert!(ends.iter().any(|line| line["reason"] == "bad_message"), "{ends:?}");
            assert!(ends.iter().all(|line| line["seconds"].is_f64()), "{ends:?}");
        }
    }
}
