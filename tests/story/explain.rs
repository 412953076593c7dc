//! Debug routes: which connections are open, and why a user did or did not receive an event.
//!
//! Operators use them during an incident. They must never show a payload, and identifiers only on
//! request.

use serde_json::Value;

use crate::support::{Client, Dialect, Http, PATIENCE, Relay, Setup, eventually, free_ports};

/// `RELAY_DEBUG_TOKEN` of the pod.
const TOKEN: &str = "an operator's token of more than 32 bytes";

/// Ids of the users, as events and answers contain them.
const ZELO: &str = "1";
const ZEWI: &str = "2";
const ZOWI: &str = "3";
const ZOLO: &str = "4";

/// Starts a pod with debug routes. Returns it with a client of its admin address.
async fn debugged_pod() -> (Relay, Http) {
    let admin = free_ports(1);
    let setup = Setup::new("pod").set("RELAY_ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
    let pod = setup.set("RELAY_DEBUG_TOKEN", TOKEN).launch();
    let machines = Http::new(admin);
    eventually("the pod is ready", PATIENCE, async || {
        machines.try_get("/readyz").await.filter(|answer| answer.status == 200)
    })
    .await;
    (pod, machines)
}

async fn ask(machines: &Http, path: &str) -> Value {
    let answer = machines.get_with(&format!("Bearer {TOKEN}"), path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Connects a client that watches, and waits until the pod has `nth` watchers.
async fn watcher(pod: &Relay, machines: &Http, user: &str, nth: usize) -> Client {
    let mut client = Client::connect(pod.port(), Dialect::Transport, user).await;
    client.watch().await;
    eventually("the pod has the watcher", PATIENCE, async || {
        let connections = ask(machines, "/debug/connections").await;
        let watchers = connections["connections"].as_array().unwrap().iter();
        let watchers: u64 = watchers.map(|row| row["watchers"].as_u64().unwrap()).sum();
        (watchers == nth as u64).then_some(())
    })
    .await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_gives_each_user_its_own_reason() {
    let (pod, machines) = debugged_pod().await;
    let mut clients = Vec::new();
    for (n, user) in ["ZOWI", "ZOLO", "ZELO"].into_iter().enumerate() {
        clients.push(watcher(&pod, &machines, user, n + 1).await);
    }
    pod.add_template("ZOWI", "secret name", Some(&["3"])).await;
    let message = clients[1].socket.receive().await.unwrap();
    let event = message["payload"]["extensions"]["eventId"].as_str().unwrap().to_owned();

    for (user, answer) in [
        (ZOWI, "AUTHOR"),
        (ZOLO, "TOLD"),
        (ZEWI, "NOT_CONNECTED"),
        (ZELO, "NO_COMMON_KEY"),
        ("9", "UNKNOWN_USER"),
    ] {
        let path = format!("/debug/explain?event={event}&user={user}");
        let explained = ask(&machines, &path).await;
        assert_eq!(explained["user"]["answer"], answer, "{user}: {explained}");
        assert_eq!(explained["matched_watchers"], 1, "{explained}");
        assert!(!explained.to_string().contains("location:3"), "redacted: {explained}");
        assert_ne!(explained["user"]["user"], user, "redacted: {explained}");
        let revealed = ask(&machines, &format!("{path}&reveal=true")).await;
        assert_eq!(
            (&revealed["user"]["user"], &revealed["told"][0]),
            (&user.into(), &ZOLO.into()),
            "{revealed}"
        );
        assert!(!revealed.to_string().contains("secret name"), "no payload: {revealed}");
    }
    let unknown = ask(&machines, &format!("/debug/explain?event=nothing&user={ZOLO}")).await;
    assert_eq!(unknown["answer"], "NOT_IN_WINDOW");

    // A viewer that resumes with a cursor counts as well
    let cursor = ask(&machines, "/debug/connections").await["connections"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|row| row["cursor"].as_str().map(str::to_owned));
    assert_eq!(cursor.as_deref(), message["payload"]["extensions"]["cursor"].as_str());
    let mut late = Client::connect(pod.port(), Dialect::Transport, "ZEWI").await;
    let document = format!("subscription {{ templateAdded(after: \"{}\") {{ id }} }}", cursor.unwrap());
    late.start("late", &document).await;
    late.socket.receive().await.unwrap();
    let explained = ask(&machines, &format!("/debug/explain?event={event}&user={ZEWI}")).await;
    assert_eq!(explained["user"]["answer"], "TOLD", "{explained}");
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_routes_answer_only_with_debug_token() {
    let (pod, machines) = debugged_pod().await;
    let _client = watcher(&pod, &machines, "ZEWI", 1).await;
    let redacted = ask(&machines, "/debug/connections").await;
    assert_eq!(redacted["total"], 1);
    let row = &redacted["connections"][0];
    assert_eq!(
        (&row["transport"], &row["watchers"], &row["queue_bytes"]),
        (&"ws".into(), &1.into(), &0.into())
    );
    assert_eq!(row["interests"].as_array().unwrap().len(), 2, "{row}");
    assert!(!row.to_string().contains("location"), "{row}");
    let revealed = ask(&machines, "/debug/connections?reveal=true").await;
    assert_eq!(revealed["connections"][0]["viewer"], ZEWI);

    for wrong in ["", "Bearer ", "Bearer ZEWI", &format!("Bearer {TOKEN}x"), &format!("Basic {TOKEN}")] {
        for path in ["/debug/connections", "/debug/explain?event=a&user=1"] {
            assert_eq!(machines.get_with(wrong, path).await.status, 401, "{wrong}");
        }
    }
    let right = format!("Bearer {TOKEN}");
    assert_eq!(
        pod.http.get_with(&right, "/debug/connections").await.status,
        404,
        "not on the address of clients"
    );
    assert!(!pod.output().contains(TOKEN));
}

#[tokio::test]
async fn debug_routes_need_token_and_admin_address() {
    let admin = free_ports(1);
    let _pod = Setup::new("pod").set("RELAY_ADMIN_LISTEN", format!("127.0.0.1:{admin}")).launch();
    let machines = Http::new(admin);
    eventually("the pod is alive", PATIENCE, async || machines.try_get("/livez").await).await;
    assert_eq!(machines.get_with(&format!("Bearer {TOKEN}"), "/debug/connections").await.status, 404);

    let output = Setup::new("pod").set("RELAY_DEBUG_TOKEN", TOKEN).run().await;
    assert_eq!(output.status.code(), Some(64));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("RELAY_DEBUG_TOKEN is for an address without clients")
    );
}
