//! Which queues a message goes to.
//!
//! Invariants:
//! - a queue is in the result at most once, however many bindings lead to it;
//! - an exchange is walked at most once a message, so that cycles end;
//! - in steady state nothing is allocated, unless the message goes through more than
//!   `WALKED_INLINE` exchanges.

use smallvec::SmallVec;
use warren_protocol::table::{Array, Table as RawTable, Value};
use warren_protocol::{Properties, ReplyCode};

use super::table::{Table, Target};
use super::{Destination, Exchange, Vhost};
use crate::exception::{Exception, resource};

mod cache;

pub use cache::RouteCache;

/// So many exchanges a message may walk before the list of them leaves the stack.
const WALKED_INLINE: usize = 8;
/// Headers whose array adds routing keys; the second one is removed before delivery.
const EXTRA_KEYS: [&str; 2] = ["CC", "BCC"];

/// Where one message goes; used again for the next.
#[derive(Debug, Default)]
pub struct RouteBuffer {
    destinations: Vec<Destination>,
    /// Whether the message carries a `BCC` header, which must not be delivered.
    has_bcc: bool,
}

/// What of a message decides where it goes.
#[derive(Clone, Copy)]
struct Routed<'a> {
    routing_key: &'a [u8],
    headers: RawTable<'a>,
    /// What `CC` and `BCC` hold.
    extra: [Option<Array<'a>>; EXTRA_KEYS.len()],
}

type Walked<'a> = SmallVec<[&'a Exchange; WALKED_INLINE]>;

/// How far a result can be used for the next message of the same key.
struct Walk<'a> {
    walked: Walked<'a>,
    /// Nothing but key and bindings decided, and all that decided was walked.
    repeatable: bool,
}

impl RouteBuffer {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The queues, those of a shard side by side; none when the message is unroutable.
    #[must_use]
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// Whether the message carries a `BCC` header, which must not be delivered.
    #[must_use]
    pub fn has_bcc(&self) -> bool {
        self.has_bcc
    }

    fn clear(&mut self) {
        self.destinations.clear();
        self.has_bcc = false;
    }
}

impl Vhost {
    /// The exchange of a publish.
    ///
    /// # Errors
    /// 404 when it is not there, 403 when it takes messages from exchanges alone.
    pub fn exchange_to_publish(&self, name: &[u8]) -> Result<&Exchange, Exception> {
        let exchange = self.require_exchange(name)?;
        if exchange.row.internal {
            return Err(Exception::new(
                ReplyCode::AccessRefused,
                format!(
                    "cannot publish to internal {}",
                    resource("exchange", name, self.name())
                ),
            ));
        }
        Ok(exchange)
    }

    /// Finds the queues of a message published to this exchange. `properties` have been validated.
    ///
    /// # Errors
    /// 406 when `CC` or `BCC` is no array.
    pub fn route(
        &self,
        exchange: &Exchange,
        routing_key: &[u8],
        properties: Properties<'_>,
        out: &mut RouteBuffer,
    ) -> Result<(), Exception> {
        out.clear();
        let message = Routed::new(routing_key, properties)?;
        out.has_bcc = message.extra[1].is_some();
        self.walk(exchange, &message, &mut out.destinations);
        Ok(())
    }

    fn walk<'a>(
        &'a self,
        first: &'a Exchange,
        message: &Routed<'_>,
        destinations: &mut Vec<Destination>,
    ) -> Walk<'a> {
        let mut walked = Walked::new();
        walked.push(first);
        let mut repeatable = true;
        let mut at = 0;
        while let Some(&exchange) = walked.get(at) {
            at += 1;
            repeatable &= exchange.is_repeatable();
            if exchange.is_default() {
                self.queues_by_name(message, destinations);
                continue;
            }
            let matched = self.targets(exchange, message, |target| match target {
                Target::Queue(destination) => destinations.push(*destination),
                Target::Exchange(name) => {
                    if let Some(next) = self.exchange(name) {
                        walk_next(next, &mut walked);
                    }
                }
            });
            if matched {
                continue;
            }
            if let Some(alternate) = exchange.row.alternate() {
                match self.exchange(alternate) {
                    Some(next) => walk_next(next, &mut walked),
                    // It may be declared later, which no generation tells.
                    None => repeatable = false,
                }
            }
        }
        if destinations.len() > 1 {
            destinations.sort_unstable();
            destinations.dedup();
        }
        Walk { walked, repeatable }
    }

    /// The default exchange: every queue is bound to it by its name, and nothing else is.
    fn queues_by_name(&self, message: &Routed<'_>, destinations: &mut Vec<Destination>) {
        message.for_each_key(|key| {
            if let Some(queue) = self.queue(key) {
                destinations.push(queue.destination());
            }
        });
    }

    /// Shows the targets at one exchange, some of them maybe more than once; says whether there
    /// were any.
    fn targets<'a>(
        &'a self,
        exchange: &'a Exchange,
        message: &Routed<'_>,
        mut show: impl FnMut(&'a Target),
    ) -> bool {
        let mut matched = false;
        let mut show = |target| {
            matched = true;
            show(target);
        };
        match &exchange.table {
            Table::Direct(keys) => message.for_each_key(|key| {
                if let Some(links) = keys.get(key) {
                    links.for_each(&mut show);
                }
            }),
            Table::Fanout(links) => links.for_each(show),
            Table::Topic(trie) => message.for_each_key(|key| trie.for_each(key, &mut show)),
            Table::Headers(table) => table.for_each(message.headers, show),
        }
        matched
    }
}

fn walk_next<'a>(next: &'a Exchange, walked: &mut Walked<'a>) {
    if !walked.iter().any(|exchange| std::ptr::eq(*exchange, next)) {
        walked.push(next);
    }
}

impl Exchange {
    /// Whether messages of one key all go the same way while the generation stays.
    fn is_repeatable(&self) -> bool {
        !matches!(self.table, Table::Headers(_)) && !self.is_default()
    }
}

impl<'a> Routed<'a> {
    fn new(routing_key: &'a [u8], properties: Properties<'a>) -> Result<Self, Exception> {
        let headers = properties.headers().unwrap_or_default();
        let mut extra = [None; EXTRA_KEYS.len()];
        if !headers.is_empty() {
            for (slot, name) in extra.iter_mut().zip(EXTRA_KEYS) {
                *slot = extra_keys(headers, name)?;
            }
        }
        Ok(Self {
            routing_key,
            headers,
            extra,
        })
    }

    fn has_extra_keys(&self) -> bool {
        self.extra.iter().any(Option::is_some)
    }

    /// The routing key, and the strings that `CC` and `BCC` hold.
    fn for_each_key(&self, mut show: impl FnMut(&[u8])) {
        show(self.routing_key);
        self.for_each_extra_key(&mut show);
    }

    fn for_each_extra_key(&self, show: &mut impl FnMut(&[u8])) {
        for array in self.extra.iter().flatten() {
            for value in array.iter().flatten() {
                if let Some(key) = value.as_long_str() {
                    show(key);
                }
            }
        }
    }
}

/// Shows the keys that a message names beside its routing key; none where they cannot be read.
pub(crate) fn for_each_extra_key(properties: Properties<'_>, mut show: impl FnMut(&[u8])) {
    if let Ok(message) = Routed::new(b"", properties) {
        message.for_each_extra_key(&mut show);
    }
}

fn extra_keys<'a>(headers: RawTable<'a>, name: &str) -> Result<Option<Array<'a>>, Exception> {
    match headers.get(name.as_bytes()) {
        Ok(Some(Value::Array(keys))) => Ok(Some(keys)),
        // Properties were validated when the message came in.
        Ok(None) | Err(_) => Ok(None),
        Ok(Some(other)) => Err(Exception::precondition(format!(
            "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
            other.type_name()
        ))),
    }
}
