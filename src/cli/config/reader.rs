//! [`Reader`]: looks settings up, flag before variable, and collects every problem.
//!
//! A wrong setting becomes a problem and takes its default, so that reading goes on to the next
//! problem. The values may be used only after [`Reader::finish`] found no problem. It must never
//! put a value into a problem's text.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    time::Duration,
};

use clap::ArgMatches;

use super::{
    exit::{EX_USAGE, EarlyExit},
    setting::{Fallback, Setting, Values},
    table::{self as t, SETTINGS},
    value::{self, Mode, Parsed},
};
use crate::{
    auth::{
        self,
        jwks::{self, JwksSource},
        jwt::{self, Keys, TrustedIssuer},
        secret::Secret,
    },
    broker::server::Password,
    control::Secrets,
};

/// Environment of a process: names and values of its variables.
pub type Environment = BTreeMap<OsString, OsString>;

/// Reader of flags and environment, with the problems found so far.
pub(super) struct Reader<'a> {
    flags: &'a ArgMatches,
    environment: &'a Environment,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(flags: &'a ArgMatches, environment: &'a Environment) -> Self {
        Self { flags, environment, problems: Vec::new() }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`EarlyExit`] with the problems, one a line, if there are any.
    pub(super) fn finish(self) -> Result<(), EarlyExit> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let text = self.problems.iter().map(|problem| format!("relay: {problem}\n")).collect();
        Err(EarlyExit { text, code: EX_USAGE, to_stdout: false })
    }

    /// Adds a problem of the setting. The complaint continues a sentence that begins with the name.
    pub(super) fn refuse(&mut self, setting: &Setting, complaint: &str) {
        self.problems.push(format!("{setting} {complaint}"));
    }

    /// Adds the problems that `check` finds in the environment.
    pub(super) fn check(&mut self, check: impl Fn(&Environment) -> Vec<String>) {
        self.problems.extend(check(self.environment));
    }

    /// Returns the environment, for variables that libraries read.
    pub(super) const fn environment(&self) -> &'a Environment {
        self.environment
    }

    /// Returns the value as it was given, flag before variable. An empty value counts as not given.
    pub(super) fn raw(&self, setting: &Setting) -> Option<&'a OsStr> {
        // clap returns an error for a flag that the command does not have. Here it is just absent.
        let flag = setting.flag.and_then(|flag| self.flags.try_get_one::<String>(flag).ok().flatten());
        let variable = || self.environment.get(OsStr::new(setting.variable?));
        let not_empty = |value: &&OsStr| !value.is_empty();
        flag.map(OsStr::new).filter(not_empty).or_else(|| variable().map(AsRef::as_ref).filter(not_empty))
    }

    /// Returns whether the setting is given, by flag or variable.
    pub(super) fn is_given(&self, setting: &Setting) -> bool {
        self.raw(setting).is_some()
    }

    /// Returns whether the setting's variable is set, whatever the flags are.
    pub(super) fn is_in_environment(&self, setting: &Setting) -> bool {
        let value = setting.variable.and_then(|variable| self.environment.get(OsStr::new(variable)));
        value.is_some_and(|value| !value.is_empty())
    }

    /// Returns the setting, if it is given and valid.
    pub(super) fn optional<T>(&mut self, setting: &Setting, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        let parsed = match self.raw(setting)?.to_str() {
            Some(text) => parse(text.trim()),
            None => Err("is not UTF-8: write it in plain characters".to_owned()),
        };
        parsed.map_err(|complaint| self.refuse(setting, &complaint)).ok()
    }

    /// Returns the setting, or its default.
    pub(super) fn required<T>(&mut self, setting: &Setting, parse: impl Fn(&str) -> Parsed<T>) -> T {
        self.optional(setting, &parse).unwrap_or_else(|| fallback(setting, parse))
    }

    /// Returns the amount, or its default, in nanoseconds, bytes or a plain count. It is within the
    /// setting's bounds.
    pub(super) fn amount(&mut self, setting: &Setting) -> u64 {
        let Values::Between(unit, least, most) = setting.values else {
            unreachable!("{setting} is no amount")
        };
        let fallback = setting.fallback;
        self.required(setting, |text| {
            let amount = unit.parse(text).filter(|amount| {
                unit.parse(least).is_some_and(|least| least <= *amount)
                    && unit.parse(most).is_some_and(|most| *amount <= most)
            });
            amount.ok_or_else(|| format!("is not between {least} and {most}: write it like {fallback}"))
        })
    }

    /// Returns an amount of time, or its default.
    pub(super) fn duration(&mut self, setting: &Setting) -> Duration {
        Duration::from_nanos(self.amount(setting))
    }

    /// Returns an amount of things in memory, or its default.
    pub(super) fn size(&mut self, setting: &Setting) -> usize {
        usize::try_from(self.amount(setting)).unwrap_or(usize::MAX)
    }

    /// Returns whether `RELAY_AUTH` is `demo` or not given.
    pub(super) fn is_demo(&self) -> bool {
        let is_demo = |raw: &OsStr| raw.to_str().map(|text| value::mode(text.trim())) == Some(Ok(Mode::Demo));
        self.raw(&t::AUTH).is_none_or(is_demo)
    }

    /// Reads how tokens are checked.
    pub(super) fn auth(&mut self) -> auth::Settings {
        let mode = self.optional(&t::AUTH, value::mode);
        if self.is_demo() {
            for setting in [
                &t::JWT_SECRET,
                &t::JWT_SECRET_FILE,
                &t::JWT_JWKS,
                &t::JWT_JWKS_MAX_AGE,
                &t::JWT_ISSUER,
                &t::JWT_AUDIENCE,
                &t::JWT_LEEWAY,
                &t::JWT_MAX_LIFE,
            ] {
                if self.is_given(setting) {
                    self.refuse(setting, "is of no use with demo tokens: set RELAY_AUTH=jwt, or unset it");
                }
            }
        }
        let names = self.optional(&t::JWT_ISSUER, value::issuers);
        // A list that cannot be read has its complaint, and names an issuer all the same.
        let is_needed = mode == Some(Mode::Jwt) && (names.is_some() || !self.is_given(&t::JWT_ISSUER));
        let issuers = self.issuers(is_needed, names.unwrap_or_default());
        let audience = self.optional(&t::JWT_AUDIENCE, value::text);
        match issuers {
            Some(issuers) if mode == Some(Mode::Jwt) => {
                let (max_key_age, leeway) =
                    (self.duration(&t::JWT_JWKS_MAX_AGE), self.duration(&t::JWT_LEEWAY));
                let max_life = self.duration(&t::JWT_MAX_LIFE);
                auth::Settings::Jwt(jwt::Settings { issuers, audience, max_key_age, leeway, max_life })
            }
            _ => auth::Settings::Demo,
        }
    }

    /// Reads the keys of these issuers. Returns them if exactly one kind of source is given and
    /// valid.
    fn issuers(&mut self, is_needed: bool, mut names: Vec<String>) -> Option<Vec<TrustedIssuer>> {
        let is_discovered = is_needed
            && !names.is_empty()
            && [&t::JWT_SECRET, &t::JWT_SECRET_FILE, &t::JWT_JWKS]
                .iter()
                .all(|setting| !self.is_given(setting));
        let keys = if is_discovered { self.discovered(&names)? } else { self.keys(is_needed)? };
        match (names.len(), &keys[..]) {
            (0, [_]) => return keys.into_iter().next().map(|keys| vec![TrustedIssuer { name: None, keys }]),
            (2.., [Keys::Secret(_)]) => {
                self.refuse(&t::JWT_ISSUER, "names several issuers, which cannot share a secret: name one");
            }
            (named, sources) if named != sources.len() => {
                self.refuse(
                    &t::JWT_JWKS,
                    "must give one source for each issuer of RELAY_JWT_ISSUER, in the same order",
                );
            }
            _ => {}
        }
        let named = names.drain(..).map(Some).zip(keys);
        Some(named.map(|(name, keys)| TrustedIssuer { name, keys }).collect())
    }

    /// Returns the discovery of each issuer's keys, if each can be discovered.
    fn discovered(&mut self, names: &[String]) -> Option<Vec<Keys>> {
        let sources: Vec<_> = names.iter().cloned().map(JwksSource::Discovery).collect();
        if sources.iter().any(|source| jwks::check(source).is_err()) {
            self.refuse(
                &t::JWT_ISSUER,
                "is no https:// URL, so that its keys cannot be discovered: set RELAY_JWT_JWKS or a secret",
            );
            return None;
        }
        Some(sources.into_iter().map(Keys::Jwks).collect())
    }

    /// Reads the sources of keys. Returns them if exactly one kind is given and valid.
    fn keys(&mut self, is_needed: bool) -> Option<Vec<Keys>> {
        let [secret, file, jwks] = [&t::JWT_SECRET, &t::JWT_SECRET_FILE, &t::JWT_JWKS];
        let given: Vec<_> =
            [secret, file, jwks].into_iter().filter(|setting| self.is_given(setting)).collect();
        match given[..] {
            [] if is_needed => {
                let complaint = format!(
                    "is jwt, which needs keys: set one of {file}, {secret} and {jwks}, or {} to discover them",
                    t::JWT_ISSUER
                );
                self.refuse(&t::AUTH, &complaint);
            }
            [first, ref others @ ..] => {
                for other in others {
                    self.refuse(other, &format!("cannot be set beside {first}: unset one of them"));
                }
            }
            [] => {}
        }
        let inline = self.secret(secret, |raw| Ok(raw.as_encoded_bytes().to_vec()));
        let from_file = self.secret(file, |path| fs::read(path));
        let jwks = self.optional(jwks, value::jwks_list);
        let secret = inline.or(from_file).map(|secret| vec![Keys::Secret(secret)]);
        secret.or(jwks.map(|sources| sources.into_iter().map(Keys::Jwks).collect()))
    }

    /// Reads the tokens of operators, if there are any: the one that reads, and the one that acts.
    pub(super) fn operator_tokens(&mut self) -> (Option<Secret>, Option<Secret>) {
        let debug = self.operator_token(&t::DEBUG_TOKEN, &t::DEBUG_TOKEN_FILE);
        let admin = self.operator_token(&t::ADMIN_TOKEN, &t::ADMIN_TOKEN_FILE);
        if let (Some(debug), Some(admin)) = (&debug, &admin)
            && debug.is(admin.reveal())
        {
            self.refuse(&t::ADMIN_TOKEN, "is the debug token, which may only read: give another");
        }
        (debug, admin)
    }

    /// Reads the token by which a command acts on pods, if it is given.
    pub(super) fn admin_token(&mut self) -> Option<Secret> {
        self.either(&t::ADMIN_TOKEN, &t::ADMIN_TOKEN_FILE, value::secret)
    }

    /// Reads a token of operators, if it is given. It needs an address without clients.
    fn operator_token(&mut self, inline: &'static Setting, file: &'static Setting) -> Option<Secret> {
        for setting in [inline, file] {
            if self.is_given(setting) && !self.is_given(&t::ADMIN_LISTEN) {
                self.refuse(
                    setting,
                    "is for an address without clients: set RELAY_ADMIN_LISTEN, or unset it",
                );
            }
        }
        self.either(inline, file, value::secret)
    }

    /// Returns the password at the broker, if there is one.
    pub(super) fn password(&mut self) -> Option<Password> {
        self.either(&t::BROKER_PASSWORD, &t::BROKER_PASSWORD_FILE, value::line).map(Password::new)
    }

    /// Returns the secrets that prove control events, if there are any.
    pub(super) fn control_secrets(&mut self) -> Option<Secrets> {
        self.either(&t::CONTROL_SECRET, &t::CONTROL_SECRET_FILE, value::control_secrets)
    }

    /// Returns a value that is given by itself or by its file.
    fn either<T>(
        &mut self,
        inline: &'static Setting,
        file: &'static Setting,
        parse: fn(Vec<u8>) -> Parsed<T>,
    ) -> Option<T> {
        if self.is_given(inline) && self.is_given(file) {
            self.refuse(file, &format!("cannot be set beside {inline}: unset one of them"));
        }
        let (setting, bytes) = match (self.raw(file), self.raw(inline)) {
            (Some(path), _) => (file, fs::read(path)),
            (None, Some(text)) => (inline, Ok(text.as_encoded_bytes().to_vec())),
            (None, None) => return None,
        };
        let parsed = bytes.map_err(|problem| value::unreadable(&problem)).and_then(parse);
        parsed.map_err(|complaint| self.refuse(setting, &complaint)).ok()
    }

    /// Returns a secret, if it is given and long enough. One final newline is not part of it, since
    /// editors add one.
    fn secret(
        &mut self,
        setting: &Setting,
        read: impl Fn(&OsStr) -> std::io::Result<Vec<u8>>,
    ) -> Option<Secret> {
        let secret = read(self.raw(setting)?).map_err(|problem| value::unreadable(&problem));
        secret.and_then(value::secret).map_err(|complaint| self.refuse(setting, &complaint)).ok()
    }

    /// Returns the names of variables that look like settings but are none.
    pub(super) fn unknown(&self) -> Vec<String> {
        let is_known = |name: &str| {
            SETTINGS.iter().flat_map(|concern| concern.settings).any(|setting| setting.variable == Some(name))
        };
        self.environment
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .filter_map(|(name, value)| Some((name.to_str()?, value.to_string_lossy())))
            .filter(|(name, _)| name.starts_with("RELAY_") && !is_known(name))
            .filter(|(name, value)| !is_service_link(name, value))
            .map(|(name, _)| name.to_owned())
            .collect()
    }
}

/// Returns the default of a setting that has a value for it.
fn fallback<T>(setting: &Setting, parse: impl Fn(&str) -> Parsed<T>) -> T {
    match setting.fallback {
        Fallback::Is(text) => {
            parse(text).unwrap_or_else(|complaint| unreachable!("{setting}: {text} {complaint}"))
        }
        Fallback::Says(_) => unreachable!("{setting} has no value to fall back to"),
    }
}

/// Returns whether Kubernetes set the variable for a Service with a name that begins with `relay`.
fn is_service_link(name: &str, value: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}
