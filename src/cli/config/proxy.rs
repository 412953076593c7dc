//! Variables of HTTP proxies, which libraries read by themselves.

use std::ffi::{OsStr, OsString};

use super::reader::Environment;

/// Hosts of this machine, in the form of `NO_PROXY`.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Returns the value of `NO_PROXY` that exempts loopback as well; `None` if no proxy is set for
/// plain HTTP, or loopback is exempt.
pub(super) fn exemptions(environment: &Environment) -> Option<OsString> {
    let value = |name: &str| environment.get(OsStr::new(name)).filter(|value| !value.is_empty());
    ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].into_iter().find_map(value)?;
    let given = ["no_proxy", "NO_PROXY"].into_iter().find_map(value).cloned().unwrap_or_default();
    let text = given.to_string_lossy();
    let is_exempt = |host: &&str| text.split(',').any(|entry| entry.trim() == *host || entry.trim() == "*");
    let mut exempt = given.clone();
    for host in LOOPBACK.into_iter().filter(|host| !is_exempt(host)) {
        if !exempt.is_empty() {
            exempt.push(",");
        }
        exempt.push(host);
    }
    (exempt != given).then_some(exempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Option<String> {
        let environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        exemptions(&environment).map(|exempt| exempt.into_string().unwrap())
    }

    #[test]
    fn loopback_is_exempt_from_proxies() {
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[("HTTPS_PROXY", "http://p")]), None, "loopback speaks plain HTTP");
        assert_eq!(with(&[("HTTP_PROXY", "http://p")]).as_deref(), Some("localhost,127.0.0.1,::1"));
        let both = [("all_proxy", "http://p"), ("NO_PROXY", "10.0.0.1,localhost")];
        assert_eq!(with(&both).as_deref(), Some("10.0.0.1,localhost,127.0.0.1,::1"));
        assert_eq!(with(&[("http_proxy", "http://p"), ("no_proxy", "*")]), None);
        assert_eq!(with(&[("http_proxy", "http://p"), ("no_proxy", "localhost,127.0.0.1,::1")]), None);
    }
}
