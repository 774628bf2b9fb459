//! What an exchange knows of its bindings: one table for each type, each with one way to collect
//! the targets of a message.
//!
//! Tables are persistent: clones share what no change touches. They hold targets, not names, so
//! that routing looks nothing up.

use std::sync::Arc;

use imbl::OrdSet;
use warren_cluster_core::rows::Version;

use super::headers::HeadersTable;
use super::topic::Trie;
use super::{Binding, Destination, Map, Seed};
use crate::definitions::{ExchangeKind, Store};
use crate::names::Name;

/// Up to so many links are a plain list; more are a tree.
const FEW_MAX: usize = 16;

/// Where a binding leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Target {
    Queue(Destination),
    Exchange(Name),
}

/// A binding in a table: its target, and which binding it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Link {
    pub(super) target: Target,
    id: LinkId,
}

/// A binding's store and version in one number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LinkId(u64);

/// A set of links in the order of their targets.
#[derive(Clone)]
pub(super) enum Links {
    Few(Vec<Link>),
    Many(OrdSet<Link>),
}

/// An exchange's bindings, arranged for its type.
#[derive(Clone)]
pub(super) enum Table {
    /// By routing key.
    Direct(Map<Name, Links>),
    Fanout(Links),
    Topic(Trie),
    Headers(HeadersTable),
}

impl LinkId {
    pub(super) fn new(store: Store, Version(version): Version) -> Self {
        Self(version << 1 | u64::from(store == Store::Local))
    }
}

impl Link {
    pub(super) fn new(binding: &Binding, target: Target) -> Self {
        Self {
            target,
            id: LinkId::new(binding.store, binding.version),
        }
    }
}

impl Default for Links {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Links {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(links) => links.is_empty(),
            Self::Many(links) => links.is_empty(),
        }
    }

    pub(super) fn insert(&mut self, link: Link) {
        match self {
            Self::Few(links) => {
                let Err(at) = links.binary_search(&link) else {
                    return;
                };
                if links.len() < FEW_MAX {
                    links.reserve_exact(1);
                    links.insert(at, link);
                } else {
                    let mut many: OrdSet<Link> = links.drain(..).collect();
                    many.insert(link);
                    *self = Self::Many(many);
                }
            }
            Self::Many(links) => {
                links.insert(link);
            }
        }
    }

    pub(super) fn remove(&mut self, link: &Link) {
        match self {
            Self::Few(links) => {
                if let Ok(at) = links.binary_search(link) {
                    links.remove(at);
                }
            }
            Self::Many(links) => {
                links.remove(link);
                // Half of the bound, so that one that comes and goes does not change the form.
                if links.len() <= FEW_MAX / 2 {
                    *self = Self::Few(links.iter().cloned().collect());
                }
            }
        }
    }

    /// Shows every target; one that several bindings lead to more than once.
    #[inline]
    pub(super) fn for_each<'a>(&'a self, mut show: impl FnMut(&'a Target)) {
        match self {
            Self::Few(links) => links.iter().for_each(|link| show(&link.target)),
            Self::Many(links) => links.iter().for_each(|link| show(&link.target)),
        }
    }
}

impl Table {
    pub(super) fn new(kind: ExchangeKind, seed: Seed) -> Self {
        match kind {
            ExchangeKind::Direct => Self::Direct(Map::with_hasher(seed)),
            ExchangeKind::Fanout => Self::Fanout(Links::default()),
            ExchangeKind::Topic => Self::Topic(Trie::new(seed)),
            ExchangeKind::Headers => Self::Headers(HeadersTable::default()),
        }
    }

    pub(super) fn insert(&mut self, binding: &Arc<Binding>, target: Target) {
        let link = Link::new(binding, target);
        match self {
            Self::Direct(keys) => match keys.get_mut(&binding.routing_key) {
                Some(links) => links.insert(link),
                None => {
                    keys.insert(binding.routing_key.clone(), Links::Few(vec![link]));
                }
            },
            Self::Fanout(links) => links.insert(link),
            Self::Topic(trie) => trie.insert(&binding.routing_key, link),
            Self::Headers(table) => table.insert(binding, link),
        }
    }

    pub(super) fn remove(&mut self, binding: &Binding, target: Target) {
        let link = Link::new(binding, target);
        match self {
            Self::Direct(keys) => {
                let Some(links) = keys.get_mut(&binding.routing_key) else {
                    return;
                };
                links.remove(&link);
                if links.is_empty() {
                    keys.remove(&binding.routing_key);
                }
            }
            Self::Fanout(links) => links.remove(&link),
            Self::Topic(trie) => trie.remove(&binding.routing_key, &link),
            Self::Headers(table) => table.remove(&link),
        }
    }
}
