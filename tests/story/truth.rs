//! Truth table of delivery: every author, every way to share, every viewer on every pod.
//!
//! The expected result follows from the rule alone. No viewer may ever receive a template that does
//! not match it.

use futures_util::future::join_all;

use crate::support::{
    Dialect, EVERYWHERE, Kind, Message, Relay, Topic, USERS, four_pods, locations, watchers_on,
};

/// Returns every way to share: with no location, with one location twice, with a location that does
/// not exist, with each location, with each pair, with all.
fn cases() -> Vec<Option<Vec<&'static str>>> {
    let mut cases =
        vec![None, Some(vec![]), Some(vec!["99"]), Some(vec!["3", "3"]), Some(EVERYWHERE.to_vec())];
    for (n, &one) in EVERYWHERE.iter().enumerate() {
        cases.push(Some(vec![one]));
        cases.extend(EVERYWHERE[n + 1..].iter().map(|&other| Some(vec![one, other])));
    }
    cases
}

/// Returns whether the template matches the viewer, by the simplest form of the rule.
fn is_for(viewer: &str, author: &str, shared: Option<&[&str]>) -> bool {
    viewer != author && shared.unwrap_or_default().iter().any(|location| locations(viewer).contains(location))
}

fn name(author: &str, case: usize) -> String {
    format!("{author}-{case}")
}

/// Publishes one author's templates in order, each on another pod, and a last one for all other
/// users.
async fn publish_all(pods: &[Relay], author: &str) {
    for (n, shared) in cases().iter().enumerate() {
        pods[n % pods.len()].add_template(author, &name(author, n), shared.as_deref()).await;
    }
    pods[0].add_template(author, &format!("{author}-last"), Some(&EVERYWHERE)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn template_reaches_exactly_its_audience_once_in_order() {
    let Some(topic) = Topic::fresh().await else { return };
    assert_truth(topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truth_holds_on_postgres() {
    let Some(topic) = Topic::at(Kind::Postgres).await else { return };
    assert_truth(topic).await;
}

async fn assert_truth(topic: Topic) {
    let pods = four_pods(&topic).await;
    let mut clients: Vec<_> =
        join_all(pods.iter().map(|pod| watchers_on(pod, Dialect::Transport, &USERS))).await;

    join_all(USERS.iter().map(|author| publish_all(&pods, author))).await;

    // Every pod has a viewer other than the author, so afterwards every pod has dispatched all
    // events.
    let mut received = Vec::new();
    for client in clients.iter_mut().flatten() {
        let others: Vec<_> = USERS.into_iter().filter(|&user| user != client.user).collect();
        received.push(client.until_all(others.iter().map(|author| format!("{author}-last"))).await);
    }
    topic.publish([Message::template("last of all", &EVERYWHERE)]).await;
    for (client, received) in clients.iter_mut().flatten().zip(&mut received) {
        received.extend(client.before("last of all").await);
    }

    for (client, received) in clients.iter().flatten().zip(received) {
        for author in USERS {
            let of_author: Vec<_> = received.iter().filter(|name| name.starts_with(author)).collect();
            let expected = (0..).zip(cases());
            let expected = expected.filter(|(_, shared)| is_for(&client.user, author, shared.as_deref()));
            let mut expected: Vec<_> = expected.map(|(n, _)| name(author, n)).collect();
            expected.extend((client.user != author).then(|| format!("{author}-last")));
            assert_eq!(
                of_author,
                expected.iter().collect::<Vec<_>>(),
                "{} received templates of {author}",
                client.user
            );
        }
    }
}
