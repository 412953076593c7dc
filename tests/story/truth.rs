//! The truth table: every author, every way to share, every viewer on every pod.

use futures_util::future::join_all;

use crate::support::{Dialect, EVERYWHERE, Message, Relay, Topic, USERS, four_pods, locations, watchers_on};

/// Every way to share: with nobody, twice over, with a location that does not exist, each location, each pair, all.
fn cases() -> Vec<Option<Vec<&'static str>>> {
    let mut cases =
        vec![None, Some(vec![]), Some(vec!["99"]), Some(vec!["3", "3"]), Some(EVERYWHERE.to_vec())];
    for (n, &one) in EVERYWHERE.iter().enumerate() {
        cases.push(Some(vec![one]));
        cases.extend(EVERYWHERE[n + 1..].iter().map(|&other| Some(vec![one, other])));
    }
    cases
}

/// The rule, as naively as it can be written.
fn is_for(viewer: &str, author: &str, shared: Option<&[&str]>) -> bool {
    viewer != author && shared.unwrap_or_default().iter().any(|location| locations(viewer).contains(location))
}

fn name(author: &str, case: usize) -> String {
    format!("{author}-{case}")
}

/// One author's templates, the one after the other, each by another pod; at last one for everybody else.
async fn publish_all(pods: &[Relay], author: &str) {
    for (n, shared) in cases().iter().enumerate() {
        pods[n % pods.len()].add_template(author, &name(author, n), shared.as_deref()).await;
    }
    pods[0].add_template(author, &format!("{author}-last"), Some(&EVERYWHERE)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn template_reaches_exactly_its_audience_once_in_order() {
    let Some(topic) = Topic::fresh().await else { return };
    let pods = four_pods(&topic).await;
    let mut clients: Vec<_> =
        join_all(pods.iter().map(|pod| watchers_on(pod, Dialect::Transport, &USERS))).await;

    join_all(USERS.iter().map(|author| publish_all(&pods, author))).await;

    // Every pod has a viewer who is not the author, so that afterwards every pod has passed everything.
    let mut heard = Vec::new();
    for client in clients.iter_mut().flatten() {
        let others: Vec<_> = USERS.into_iter().filter(|&user| user != client.user).collect();
        heard.push(client.until_all(others.iter().map(|author| format!("{author}-last"))).await);
    }
    topic.publish([Message::template("last of all", &EVERYWHERE)]).await;
    for (client, heard) in clients.iter_mut().flatten().zip(&mut heard) {
        heard.extend(client.before("last of all").await);
    }

    for (client, heard) in clients.iter().flatten().zip(heard) {
        for author in USERS {
            let of_author: Vec<_> = heard.iter().filter(|name| name.starts_with(author)).collect();
            let expected = (0..).zip(cases());
            let expected = expected.filter(|(_, shared)| is_for(&client.user, author, shared.as_deref()));
            let mut expected: Vec<_> = expected.map(|(n, _)| name(author, n)).collect();
            expected.extend((client.user != author).then(|| format!("{author}-last")));
            assert_eq!(of_author, expected.iter().collect::<Vec<_>>(), "{} told of {author}'s", client.user);
        }
    }
}
