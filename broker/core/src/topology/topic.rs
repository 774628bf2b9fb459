//! The table of a topic exchange: a trie of words with `*` (one word) and `#` (zero or more).
//!
//! Invariants:
//! - a node without links and children is not there;
//! - patterns stand in the trie with runs of `#` as one, which matches the same keys;
//! - a key is matched by stepping the set of nodes that its words so far can reach, so that the
//!   work is bounded by words times nodes, whatever the patterns.
//!
//! As in RabbitMQ the empty key has no words at all, and `a.` has two.

use std::sync::Arc;

use smallvec::SmallVec;

use super::table::{Link, Links, Target};
use super::{Map, Seed};
use crate::names::Name;

/// Up to so many children are a plain list; more are a hash map.
const FEW_MAX: usize = 8;
/// So many nodes reachable at once are kept on the stack.
const ACTIVE_INLINE: usize = 32;

/// The bindings of a topic exchange.
#[derive(Clone)]
pub(super) struct Trie {
    root: Node,
    seed: Seed,
}

/// What a pattern's words so far lead to.
#[derive(Clone, Default)]
struct Node {
    /// Bindings whose pattern ends here.
    links: Links,
    words: Children,
    /// The node behind `*`.
    star: Option<Arc<Self>>,
    /// The node behind `#`.
    hash: Option<Arc<Self>>,
}

/// The nodes behind plain words, few of them in the order of the words.
#[derive(Clone)]
enum Children {
    Few(Vec<(Name, Arc<Node>)>),
    Many(Map<Name, Arc<Node>>),
}

/// A node that the words so far can reach.
#[derive(Clone, Copy)]
struct Active<'a> {
    node: &'a Node,
    /// It stands behind a `#`, which takes further words too.
    is_hash: bool,
}

type ActiveSet<'a> = SmallVec<[Active<'a>; ACTIVE_INLINE]>;

/// The words of a key or a pattern.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty = key.is_empty();
    key.split(|&byte| byte == b'.').filter(move |_| !empty)
}

/// A pattern's words with each run of `#` as one.
fn pattern_words(pattern: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut after_hash = false;
    words(pattern).filter(move |word| {
        let is_hash = *word == b"#";
        let repeated = is_hash && after_hash;
        after_hash = is_hash;
        !repeated
    })
}

impl Trie {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            root: Node::default(),
            seed,
        }
    }

    pub(super) fn insert(&mut self, pattern: &[u8], link: Link) {
        let mut node = &mut self.root;
        for word in pattern_words(pattern) {
            node = Arc::make_mut(node.child_or_new(word, self.seed));
        }
        node.links.insert(link);
    }

    pub(super) fn remove(&mut self, pattern: &[u8], link: &Link) {
        let words: SmallVec<[&[u8]; 16]> = pattern_words(pattern).collect();
        self.root.remove(&words, link);
    }

    /// Shows the targets of all patterns that match; one that several lead to more than once.
    pub(super) fn for_each<'a>(&'a self, key: &[u8], mut show: impl FnMut(&'a Target)) {
        let mut now = ActiveSet::new();
        let mut next = ActiveSet::new();
        reach(&self.root, &mut now);
        for word in words(key) {
            for active in &now {
                // A `#` that takes this word too stays where it is, before others reach it again.
                if active.is_hash {
                    reach_hash(active.node, &mut next);
                }
            }
            for Active { node, .. } in &now {
                if let Some(child) = node.words.get(word) {
                    reach(child, &mut next);
                }
                if let Some(child) = &node.star {
                    reach(child, &mut next);
                }
            }
            std::mem::swap(&mut now, &mut next);
            next.clear();
            if now.is_empty() {
                return;
            }
        }
        for Active { node, .. } in now {
            node.links.for_each(&mut show);
        }
    }
}

/// Adds a node that a word or a star led to, and what stands behind its `#` at no word.
fn reach<'a>(node: &'a Node, set: &mut ActiveSet<'a>) {
    set.push(Active {
        node,
        is_hash: false,
    });
    if let Some(hash) = &node.hash {
        reach_hash(hash, set);
    }
}

/// Adds a node behind a `#`, unless it is there. No `#` stands directly behind another.
fn reach_hash<'a>(node: &'a Node, set: &mut ActiveSet<'a>) {
    let there = |active: &Active<'_>| active.is_hash && std::ptr::eq(active.node, node);
    if !set.iter().any(there) {
        set.push(Active {
            node,
            is_hash: true,
        });
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.words.is_empty() && self.star.is_none() && self.hash.is_none()
    }

    fn child_or_new(&mut self, word: &[u8], seed: Seed) -> &mut Arc<Self> {
        match word {
            b"*" => self.star.get_or_insert_default(),
            b"#" => self.hash.get_or_insert_default(),
            _ => self.words.get_or_new(word, seed),
        }
    }

    /// Takes the link away from behind these words, and the nodes that it leaves empty.
    fn remove(&mut self, words: &[&[u8]], link: &Link) {
        let Some((&word, rest)) = words.split_first() else {
            self.links.remove(link);
            return;
        };
        match word {
            b"*" => remove_behind(&mut self.star, rest, link),
            b"#" => remove_behind(&mut self.hash, rest, link),
            _ => {
                let Some(child) = self.words.get_mut(word) else {
                    return;
                };
                let child = Arc::make_mut(child);
                child.remove(rest, link);
                if child.is_empty() {
                    self.words.remove(word);
                }
            }
        }
    }
}

fn remove_behind(child: &mut Option<Arc<Node>>, words: &[&[u8]], link: &Link) {
    if let Some(node) = child {
        let node = Arc::make_mut(node);
        node.remove(words, link);
        if node.is_empty() {
            *child = None;
        }
    }
}

impl Default for Children {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Children {
    fn is_empty(&self) -> bool {
        match self {
            Self::Few(children) => children.is_empty(),
            Self::Many(children) => children.is_empty(),
        }
    }

    #[inline]
    fn get(&self, word: &[u8]) -> Option<&Arc<Node>> {
        match self {
            Self::Few(children) => {
                let found = children.iter().find(|(name, _)| **name == *word);
                found.map(|(_, child)| child)
            }
            Self::Many(children) => children.get(word),
        }
    }

    fn get_mut(&mut self, word: &[u8]) -> Option<&mut Arc<Node>> {
        match self {
            Self::Few(children) => {
                let found = children.iter_mut().find(|(name, _)| **name == *word);
                found.map(|(_, child)| child)
            }
            Self::Many(children) => children.get_mut(word),
        }
    }

    fn get_or_new(&mut self, word: &[u8], seed: Seed) -> &mut Arc<Node> {
        if let Self::Few(children) = self
            && children.len() >= FEW_MAX
            && !children.iter().any(|(name, _)| **name == *word)
        {
            let mut many = Map::with_hasher(seed);
            many.extend(children.drain(..));
            *self = Self::Many(many);
        }
        match self {
            Self::Few(children) => {
                let at = children.iter().position(|(name, _)| **name == *word);
                let at = at.unwrap_or_else(|| {
                    children.reserve_exact(1);
                    children.push((Name::new(word), Arc::default()));
                    children.len() - 1
                });
                &mut children[at].1
            }
            Self::Many(children) => {
                if children.get(word).is_none() {
                    children.insert(Name::new(word), Arc::default());
                }
                let child = children.get_mut(word);
                child.expect("it was there or has just been put there")
            }
        }
    }

    fn remove(&mut self, word: &[u8]) {
        match self {
            Self::Few(children) => children.retain(|(name, _)| **name != *word),
            Self::Many(children) => {
                children.remove(word);
            }
        }
    }
}
