//! Permissions: regular expressions that names must match.
//!
//! As RabbitMQ: a pattern may match anywhere in the name, the empty pattern matches the empty name
//! alone, and one that is no valid expression matches nothing. The default exchange is called
//! `amq.default`.
//!
//! A session remembers what it was allowed, until its user's permissions change; a refusal is
//! always found anew.

use std::sync::{Arc, OnceLock};

use regex::bytes::{Regex, RegexBuilder};
use warren_protocol::ReplyCode;

use crate::exception::{Exception, resource};
use crate::names::Name;
use crate::topology::{Grants, Topology};

/// Bytes that a compiled expression may take; larger ones match nothing.
const COMPILED_BYTES_MAX: usize = 256 * 1024;
/// So many names that matched an expression a session remembers.
const REMEMBERED_MAX: usize = 16;
/// So many topic patterns of a user a session keeps compiled.
const TOPICS_MAX: usize = 8;
/// What permissions call the default exchange.
const DEFAULT_EXCHANGE: &[u8] = b"amq.default";

/// What somebody wants to do with a resource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Access {
    Configure,
    Write,
    Read,
}

/// What can be named in a permission. The default exchange is the one without a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Resource<'a> {
    Queue(&'a [u8]),
    Exchange(&'a [u8]),
}

/// A permission's pattern, compiled when it is first needed.
#[derive(Debug)]
pub struct Pattern {
    source: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

/// What a session knows of its user's permissions in its vhost.
pub struct AccessCache {
    user: Arc<str>,
    vhost: Arc<str>,
    /// The topology's serial that `grants` were looked up at; 0 before the first.
    checked: u64,
    grants: Option<Arc<Grants>>,
    /// Names that matched, with what they matched for; the oldest goes first.
    remembered: Vec<(Access, Name)>,
    oldest: usize,
    /// Topic patterns with the variables filled in.
    topics: Vec<(Access, Name, Pattern)>,
}

impl Access {
    /// The word in RabbitMQ's refusals.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

impl<'a> Resource<'a> {
    /// `queue` or `exchange`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Queue(_) => "queue",
            Self::Exchange(_) => "exchange",
        }
    }

    /// The name that permissions see.
    #[must_use]
    pub fn name(self) -> &'a [u8] {
        match self {
            Self::Exchange(b"") => DEFAULT_EXCHANGE,
            Self::Queue(name) | Self::Exchange(name) => name,
        }
    }
}

impl Pattern {
    /// Whether it is an expression at all; one that is not matches nothing.
    #[must_use]
    pub fn is_valid(source: &str) -> bool {
        compile(source).is_some()
    }

    #[must_use]
    pub fn new(source: &str) -> Self {
        Self {
            source: source.into(),
            compiled: OnceLock::new(),
        }
    }

    /// Whether the name matches.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        self.quick(name).unwrap_or_else(|| {
            let compiled = self.compiled.get_or_init(|| compile(&self.source));
            compiled.as_ref().is_some_and(|regex| regex.is_match(name))
        })
    }

    /// The answer of a pattern that needs no expression.
    fn quick(&self, name: &[u8]) -> Option<bool> {
        match &*self.source {
            "" => Some(name.is_empty()),
            ".*" => Some(true),
            _ => None,
        }
    }
}

/// Bytes first, as Erlang's `re` without the option `unicode`; what then is not valid, as a class
/// with letters beyond ASCII, is taken as Unicode.
fn compile(source: &str) -> Option<Regex> {
    let build = |unicode| {
        RegexBuilder::new(source)
            .unicode(unicode)
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .ok()
    };
    build(false).or_else(|| build(true))
}

/// Checks once, without a session: for the HTTP API and imports.
///
/// # Errors
/// 403 in RabbitMQ's words.
pub fn check(
    topology: &Topology,
    user: &str,
    vhost: &str,
    access: Access,
    resource: Resource<'_>,
) -> Result<(), Exception> {
    let grants = topology.grants(user, vhost);
    let pattern = grants.and_then(|grants| pattern(grants, access));
    if pattern.is_some_and(|pattern| pattern.matches(resource.name())) {
        return Ok(());
    }
    Err(refusal(user, vhost, access, resource))
}

fn pattern(grants: &Grants, access: Access) -> Option<&Pattern> {
    let permission = grants.permission()?;
    Some(match access {
        Access::Configure => &permission.configure,
        Access::Write => &permission.write,
        Access::Read => &permission.read,
    })
}

fn refusal(user: &str, vhost: &str, access: Access, wanted: Resource<'_>) -> Exception {
    let named = resource(wanted.kind(), wanted.name(), vhost);
    let text = format!(
        "{} access to {named} refused for user '{user}'",
        access.name()
    );
    Exception::new(ReplyCode::AccessRefused, text)
}

impl AccessCache {
    /// For a session of this user in this vhost.
    #[must_use]
    pub fn new(user: Arc<str>, vhost: Arc<str>) -> Self {
        Self {
            user,
            vhost,
            checked: 0,
            grants: None,
            remembered: Vec::new(),
            oldest: 0,
            topics: Vec::new(),
        }
    }

    /// Whether the user may enter the vhost at all.
    #[must_use]
    pub fn may_enter(&mut self, topology: &Topology) -> bool {
        self.refresh(topology);
        let grants = self.grants.as_ref();
        grants.is_some_and(|grants| grants.permission().is_some())
    }

    /// Whether the user may do this.
    ///
    /// # Errors
    /// 403 in RabbitMQ's words.
    pub fn check(
        &mut self,
        topology: &Topology,
        access: Access,
        resource: Resource<'_>,
    ) -> Result<(), Exception> {
        self.refresh(topology);
        let name = resource.name();
        let pattern = self
            .grants
            .as_ref()
            .and_then(|grants| pattern(grants, access));
        let allowed = match pattern.and_then(|pattern| pattern.quick(name)) {
            Some(allowed) => allowed,
            None if pattern.is_some() && self.remembers(access, name) => true,
            None => {
                let allowed = pattern.is_some_and(|pattern| pattern.matches(name));
                if allowed {
                    self.remember(access, name);
                }
                allowed
            }
        };
        if allowed {
            return Ok(());
        }
        Err(refusal(&self.user, &self.vhost, access, resource))
    }

    /// Whether the user's topic permissions, if there are any for this topic exchange, let the
    /// routing key pass. Wildcards of binding keys are matched as they stand.
    ///
    /// # Errors
    /// 403 in RabbitMQ's words.
    pub fn check_topic(
        &mut self,
        topology: &Topology,
        access: Access,
        exchange: &[u8],
        routing_key: &[u8],
    ) -> Result<(), Exception> {
        self.refresh(topology);
        let Some(topic) = self
            .grants
            .as_ref()
            .and_then(|grants| grants.topic(exchange))
        else {
            return Ok(());
        };
        let known = |(a, name, _): &(Access, Name, Pattern)| *a == access && **name == *exchange;
        let at = match self.topics.iter().position(known) {
            Some(at) => at,
            None => {
                let source = match access {
                    Access::Configure => return Ok(()),
                    Access::Write => &topic.row.write,
                    Access::Read => &topic.row.read,
                };
                let pattern = Pattern::new(&self.expand(source));
                if self.topics.len() == TOPICS_MAX {
                    self.topics.remove(0);
                }
                self.topics.push((access, Name::new(exchange), pattern));
                self.topics.len() - 1
            }
        };
        if self.topics[at].2.matches(routing_key) {
            return Ok(());
        }
        let text = format!(
            "{} access to topic '{}' in {} refused for user '{}'",
            access.name(),
            String::from_utf8_lossy(routing_key),
            resource("exchange", exchange, &self.vhost),
            self.user
        );
        Err(Exception::new(ReplyCode::AccessRefused, text))
    }

    /// Puts the session's names in place of the variables, as literal text: a user called `.*` is
    /// not everybody.
    fn expand(&self, pattern: &str) -> String {
        pattern
            .replace("{username}", &regex::escape(&self.user))
            .replace("{vhost}", &regex::escape(&self.vhost))
    }

    /// Looks the permissions up again if any user's have changed, and forgets what it knew if they
    /// were this user's.
    #[inline]
    fn refresh(&mut self, topology: &Topology) {
        if self.checked == topology.security_serial() && self.checked != 0 {
            return;
        }
        self.checked = topology.security_serial();
        let grants = topology.grants(&self.user, &self.vhost);
        let serial = |grants: &Arc<Grants>| grants.serial();
        if grants.map(serial) != self.grants.as_ref().map(serial) {
            self.grants = grants.cloned();
            self.remembered.clear();
            self.oldest = 0;
            self.topics.clear();
        }
    }

    fn remembers(&self, access: Access, name: &[u8]) -> bool {
        let mut remembered = self.remembered.iter();
        remembered.any(|(known, matched)| *known == access && **matched == *name)
    }

    fn remember(&mut self, access: Access, name: &[u8]) {
        let entry = (access, Name::new(name));
        if self.remembered.len() < REMEMBERED_MAX {
            self.remembered.push(entry);
        } else {
            self.remembered[self.oldest] = entry;
            self.oldest = (self.oldest + 1) % REMEMBERED_MAX;
        }
    }
}

#[cfg(test)]
mod tests;
