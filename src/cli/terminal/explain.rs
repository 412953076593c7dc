//! `relay explain`: asks a pod why a user did or did not receive an event, and prints one sentence
//! for each pod.

use std::{fs, io::Write, path::PathBuf, time::Duration};

use reqwest::{StatusCode, Url, header::AUTHORIZATION};
use serde_json::Value;

use super::{
    failure::Failure,
    target::{Identity, Target},
};

/// Longest time for the whole answer. The pods have 2 s for theirs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the debug token of the pods comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DebugToken {
    /// `RELAY_DEBUG_TOKEN`.
    Text(String),
    /// `--token-file`, or `RELAY_DEBUG_TOKEN_FILE`.
    File(PathBuf),
}

/// Question of an operator.
#[derive(Clone, Debug)]
pub struct Explain {
    /// `--url`: admin address of a pod.
    pub url: String,
    /// Debug token; `None`: none is given.
    pub token: Option<DebugToken>,
    /// `--event`: id of the event.
    pub event: String,
    /// `--user`: id, e-mail address or demo name of the user.
    pub user: String,
}

/// Asks the pod. Sentences go to `out`, and what limits the answer goes to `words`.
///
/// # Errors
/// [`Failure`], if no pod answers, the token is refused, or there is no such user.
pub async fn explain(
    explain: &Explain,
    out: &mut (dyn Write + Send),
    words: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let token = token(explain.token.as_ref())?;
    let target = Target::new(&explain.url, Identity::Demo(String::new()))?;
    let unreachable = |error: reqwest::Error| Failure::unreachable(&explain.url, &error.without_url());
    let request = target.client().map_err(unreachable)?.get(url(&target, explain));
    let request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim())).timeout(PATIENCE);
    let answer = request.send().await.map_err(unreachable)?;
    let status = answer.status();
    let text = answer.text().await.map_err(unreachable)?;
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        return Err(Failure::DebugToken);
    }
    let body: Value = match serde_json::from_str(&text) {
        Ok(body @ Value::Object(_)) if status.is_success() => body,
        _ => return Err(Failure::NoDebug { url: explain.url.clone(), status: status.as_u16() }),
    };
    if body["user"]["answer"] == "UNKNOWN_USER" {
        return Err(Failure::UnknownUser(explain.user.clone()));
    }
    let written = print(&body, out).and_then(|()| match body["not_asked"]["message"].as_str() {
        Some(why) => writeln!(words, "Only one pod was asked: {why}."),
        None => Ok(()),
    });
    written.map_err(|error| Failure::Output(error.to_string()))
}

/// Prints the sentence of each pod, and then the pods that are silent.
fn print(body: &Value, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let list = |name: &str| body[name].as_array().cloned().unwrap_or_default();
    for pod in list("pods") {
        writeln!(out, "{}", pod["sentence"].as_str().unwrap_or_default())?;
    }
    for pod in list("silent") {
        writeln!(out, "{} did not answer within 2 s.", pod.as_str().unwrap_or_default())?;
    }
    out.flush()
}

fn url(target: &Target, explain: &Explain) -> Url {
    let mut url = target.url().clone();
    url.set_path("/debug/explain");
    url.set_query(None);
    url.query_pairs_mut().append_pair("event", &explain.event).append_pair("user", &explain.user);
    url
}

fn token(token: Option<&DebugToken>) -> Result<String, Failure> {
    match token {
        Some(DebugToken::Text(text)) => Ok(text.clone()),
        Some(DebugToken::File(path)) => fs::read_to_string(path)
            .map_err(|error| Failure::Usage(format!("the file of the debug token cannot be read: {error}"))),
        None => Err(Failure::Usage(
            "the debug token is missing: set RELAY_DEBUG_TOKEN, or give its file with --token-file"
                .to_owned(),
        )),
    }
}
