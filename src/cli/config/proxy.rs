//! Variables of HTTP proxies, which libraries read by themselves.
//!
//! What only this machine or its host can answer must never be asked through a proxy. A proxy's
//! password must never leave this file.

use std::ffi::{OsStr, OsString};

use super::reader::Environment;

/// Hosts that no proxy can ask for this pod, in the form of `NO_PROXY`: this machine, and Google's
/// metadata server.
const DIRECT: [&str; 5] = ["localhost", "127.0.0.1", "::1", "metadata.google.internal", "169.254.169.254"];

/// Variable that names another metadata server.
const METADATA: &str = "GCE_METADATA_HOST";

/// Returns the value of the first of these variables that is set.
fn first<'a>(environment: &'a Environment, names: &[&str]) -> Option<&'a OsString> {
    names.iter().find_map(|name| environment.get(OsStr::new(name)).filter(|value| !value.is_empty()))
}

/// Returns the value of `NO_PROXY` that exempts loopback and the metadata server as well; `None` if
/// no proxy is set for plain HTTP, or they are exempt.
pub(super) fn exemptions(environment: &Environment) -> Option<OsString> {
    first(environment, &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])?;
    let given = first(environment, &["no_proxy", "NO_PROXY"]).cloned().unwrap_or_default();
    let text = given.to_string_lossy();
    let is_exempt = |host: &&str| text.split(',').any(|entry| entry.trim() == *host || entry.trim() == "*");
    let metadata = first(environment, &[METADATA]).map(|host| host.to_string_lossy());
    let metadata = metadata.as_deref().map(|host| host.rsplit_once(':').map_or(host, |(host, _)| host));
    let mut exempt = given.clone();
    let direct = DIRECT.into_iter().chain(metadata.filter(|host| !DIRECT.contains(host)));
    for host in direct.filter(|host| !is_exempt(host)) {
        if !exempt.is_empty() {
            exempt.push(",");
        }
        exempt.push(host);
    }
    (exempt != given).then_some(exempt)
}

/// Returns the `host:port` of the proxy through which libraries ask this `https` URL; `None` if
/// they ask it directly. Only names in `NO_PROXY` count, not networks.
pub(super) fn before(environment: &Environment, url: &str) -> Option<String> {
    let proxy = first(environment, &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?;
    let host = authority(url.strip_prefix("https://")?);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let exempt = first(environment, &["NO_PROXY", "no_proxy"]).map(|value| value.to_string_lossy());
    let is_exempt = |entry: &str| {
        let name = entry.trim().trim_start_matches('.');
        let is_below = || host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        name == "*" || (!name.is_empty() && is_below())
    };
    if exempt.is_some_and(|entries| entries.split(',').any(is_exempt)) {
        return None;
    }
    let proxy = proxy.to_string_lossy();
    let address = authority(proxy.split_once("://").map_or(&*proxy, |(_, rest)| rest));
    Some(address.to_owned())
}

/// Returns host and port at the start of the text, without a user and a password.
fn authority(text: &str) -> &str {
    let authority = text.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, address)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Option<String> {
        let environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        exemptions(&environment).map(|exempt| exempt.into_string().unwrap())
    }

    #[test]
    fn loopback_and_metadata_are_exempt_from_proxies() {
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[("HTTPS_PROXY", "http://p")]), None, "loopback speaks plain HTTP");
        let all = DIRECT.join(",");
        assert_eq!(with(&[("HTTP_PROXY", "http://p")]).as_deref(), Some(&*all));
        let both = [("all_proxy", "http://p"), ("NO_PROXY", "10.0.0.1,localhost")];
        assert_eq!(with(&both), Some(format!("10.0.0.1,{all}")));
        assert_eq!(with(&[("http_proxy", "http://p"), ("no_proxy", "*")]), None);
        assert_eq!(with(&[("http_proxy", "http://p"), ("no_proxy", &all)]), None);
        let metadata = [("http_proxy", "http://p"), ("no_proxy", &all), ("GCE_METADATA_HOST", "10.1.2.3:80")];
        assert_eq!(with(&metadata), Some(format!("{all},10.1.2.3")));
    }

    #[test]
    fn proxy_before_url_is_named_without_password() {
        let of = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
            before(&variables.collect(), "https://pubsub.googleapis.com")
        };
        assert_eq!(of(&[("HTTP_PROXY", "http://p:1")]), None);
        assert_eq!(of(&[("HTTPS_PROXY", "http://u:secret@p:3128/")]).as_deref(), Some("p:3128"));
        assert_eq!(of(&[("all_proxy", "p:8080")]).as_deref(), Some("p:8080"));
        for exempt in [".googleapis.com", "googleapis.com", "a, pubsub.googleapis.com", "*"] {
            assert_eq!(of(&[("https_proxy", "http://p:1"), ("NO_PROXY", exempt)]), None, "{exempt}");
        }
        let other = [("https_proxy", "http://p:1"), ("NO_PROXY", "apis.com,localhost")];
        assert_eq!(of(&other).as_deref(), Some("p:1"));
    }
}
