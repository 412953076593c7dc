//! `relay revoke`: asks the admin address of a pod to refuse tokens, and prints its answer.

use std::io::Write;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};

use super::{failure::Failure, target::Target};
use crate::auth::Secret;

/// Revocation to ask for.
#[derive(Clone, Debug)]
pub struct Revoke {
    /// `--url`: admin address of a pod.
    pub url: String,
    /// `--user`: id of a user, as the domain names it.
    pub user: Option<String>,
    /// `--token`: `jti` of a token.
    pub token: Option<String>,
    /// `--retry`: whether clients may come back with fresh tokens.
    pub retry: bool,
    /// `RELAY_ADMIN_TOKEN`: token that lets the command act.
    pub admin_token: Secret,
}

/// Revokes tokens on every pod, and writes the pod's answer to `out` as one line of JSON.
///
/// # Errors
/// [`Failure`], if no pod answers, or the pod refuses.
pub async fn revoke(asked: &Revoke, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let Revoke { url, user, token, retry, admin_token } = asked;
    let target = Target::of_admin(url, "/admin/revoke")?;
    let unreachable = |error: reqwest::Error| Failure::unreachable(target.name(), &error.without_url());
    let body = match (user, token) {
        (Some(user), _) => json!({ "user": user, "retry": retry }),
        (None, token) => json!({ "token": token, "retry": retry }),
    };
    let request = target.client().map_err(unreachable)?.post(target.url().clone());
    let request = request.header(AUTHORIZATION, format!("Bearer {}", admin_token.reveal()));
    let request = request.header(CONTENT_TYPE, "application/json").timeout(super::publish::PATIENCE);
    let answer = request.body(body.to_string()).send().await.map_err(unreachable)?;
    let status = answer.status().as_u16();
    let text = answer.text().await.map_err(unreachable)?;
    let Ok(answer) = serde_json::from_str::<Value>(&text) else {
        return Err(Failure::NoAdmin { url: target.name().to_owned(), status });
    };
    match (status, answer["error"]["message"].as_str()) {
        (200, None) => writeln!(out, "{answer}").map_err(|error| Failure::Output(error.to_string())),
        (_, Some(why)) => {
            let code = answer["error"]["code"].as_str().unwrap_or_default();
            Err(Failure::NotDone(format!("{why} ({code})")))
        }
        _ => Err(Failure::NoAdmin { url: target.name().to_owned(), status }),
    }
}
