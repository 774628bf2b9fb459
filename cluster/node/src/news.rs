//! What a node tells those who watch it: bytes that are not read here, the last of them kept.
//!
//! Always holds:
//! - whoever reads has a place of its own, and holds up nobody: what it did not read in time it is
//!   told to have missed;
//! - an item has one number in the life of a node, and a life begins with every start.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

/// Items that are kept for those who are slow or away.
const KEPT_MAX: usize = 1024;
/// Bytes of an item that other nodes take.
pub const NEWS_BYTES_MAX: usize = 8 << 10;

/// Whoever tells, and whoever reads.
pub struct News {
    life: u64,
    kept: watch::Sender<Kept>,
}

/// Who is to hear of an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Those who watch this node: the others tell the same of themselves.
    Here,
    /// Those who watch any node.
    Everywhere,
}

/// What a watch hears of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    Item(Bytes),
    /// At most so many items.
    Missed(u64),
}

/// Until where somebody has heard a node; of no life where it has heard nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Position {
    pub(crate) life: u64,
    /// The number of the item that comes next.
    pub(crate) next: u64,
}

#[derive(Default)]
struct Kept {
    /// The number of the next item to be told; those that are kept are the ones before it.
    next: u64,
    items: VecDeque<Item>,
    closed: bool,
}

#[derive(Clone)]
struct Item {
    bytes: Bytes,
    scope: Scope,
    told: Instant,
}

impl Kept {
    fn first(&self) -> u64 {
        self.next - self.items.len() as u64
    }
}

impl News {
    /// `life` differs from start to start, and is not 0.
    #[must_use]
    pub fn new(life: u64) -> Self {
        Self {
            life: life.max(1),
            kept: watch::Sender::default(),
        }
    }

    /// Tells something; of more than [`NEWS_BYTES_MAX`] bytes it is nothing that can be told.
    pub fn tell(&self, scope: Scope, bytes: Bytes) {
        if bytes.len() > NEWS_BYTES_MAX {
            let bytes = bytes.len();
            tracing::warn!(bytes, "what would be told is too long, and is not");
            return;
        }
        let told = Instant::now();
        self.kept.send_modify(|kept| {
            if kept.items.len() == KEPT_MAX {
                kept.items.pop_front();
            }
            kept.next += 1;
            kept.items.push_back(Item { bytes, scope, told });
        });
    }

    /// Nothing is told from here on: whoever reads comes to an end.
    pub(crate) fn close(&self) {
        self.kept.send_modify(|kept| kept.closed = true);
    }

    /// Ends once nothing is told any more.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut kept = self.kept.subscribe();
        async move {
            let _ = kept.wait_for(|kept| kept.closed).await;
        }
    }

    /// Reads all that is told from here on.
    pub(crate) fn read(&self) -> Reader {
        let kept = self.kept.subscribe();
        let next = kept.borrow().next;
        self.reader(kept, next, Scope::Here)
    }

    /// Reads on for another node, from where that has heard until; if it was another life, then
    /// what is not older than `age`.
    pub(crate) fn read_on(&self, from: Position, age: Duration) -> Reader {
        let kept = self.kept.subscribe();
        let next = {
            let kept = kept.borrow();
            if from.life == self.life {
                from.next.min(kept.next)
            } else {
                young(&kept, age)
            }
        };
        self.reader(kept, next, Scope::Everywhere)
    }

    fn reader(&self, kept: watch::Receiver<Kept>, next: u64, scope: Scope) -> Reader {
        let at = Position {
            life: self.life,
            next,
        };
        Reader { kept, at, scope }
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "News(life {:x})", self.life)
    }
}

/// The number of the first item that is not older than `age`. Where all that are kept are that
/// young, those that are not kept any more may have been, too.
fn young(kept: &Kept, age: Duration) -> u64 {
    let since = Instant::now().checked_sub(age);
    let is_old = |item: &Item| since.is_some_and(|since| item.told < since);
    match kept.items.partition_point(is_old) {
        0 => 0,
        old => kept.first() + old as u64,
    }
}

/// One who reads.
pub(crate) struct Reader {
    kept: watch::Receiver<Kept>,
    at: Position,
    scope: Scope,
}

impl Reader {
    /// Until where it has read.
    pub(crate) fn position(&self) -> Position {
        self.at
    }

    /// Waits for the next item; `None` once nothing is told any more.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        loop {
            let next = self.at.next;
            let there = |kept: &Kept| kept.closed || kept.next > next;
            let kept = self.kept.wait_for(there).await.ok()?;
            let first = kept.first();
            if let Some(missed) = first.checked_sub(next).filter(|missed| *missed > 0) {
                self.at.next = first;
                return Some(Heard::Missed(missed));
            }
            // What was told before the end is read to the end.
            let item = kept.items.get((next - first) as usize)?;
            self.at.next += 1;
            if item.scope == Scope::Everywhere || self.scope == Scope::Here {
                return Some(Heard::Item(item.bytes.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(1 << 40);

    fn item(text: &'static str) -> Heard {
        Heard::Item(Bytes::from_static(text.as_bytes()))
    }

    fn tell(news: &News, text: &'static str) {
        news.tell(Scope::Everywhere, Bytes::from_static(text.as_bytes()));
    }

    /// All that can be read at once.
    async fn all(reader: &mut Reader) -> Vec<Heard> {
        let mut heard = Vec::new();
        while reader.kept.borrow().next > reader.at.next {
            heard.extend(reader.next().await);
        }
        heard
    }

    #[tokio::test]
    async fn it_is_read_from_where_it_was_asked_for() {
        let news = News::new(7);
        tell(&news, "before");
        let mut reader = news.read();
        tell(&news, "one");
        tell(&news, "two");
        assert_eq!(all(&mut reader).await, [item("one"), item("two")]);
        news.close();
        news.closed().await;
        assert_eq!(reader.next().await, None);
    }

    #[tokio::test]
    async fn what_was_told_before_the_end_is_read() {
        let news = News::new(7);
        let mut reader = news.read();
        tell(&news, "last");
        news.close();
        assert_eq!(reader.next().await, Some(item("last")));
        assert_eq!(reader.next().await, None);
    }

    #[tokio::test]
    async fn another_node_does_not_hear_what_it_tells_itself() {
        let news = News::new(7);
        let mut here = news.read();
        let mut there = news.read_on(Position::default(), Duration::ZERO);
        news.tell(Scope::Here, Bytes::from_static(b"a row"));
        tell(&news, "an alarm");
        assert_eq!(all(&mut here).await, [item("a row"), item("an alarm")]);
        assert_eq!(all(&mut there).await, [item("an alarm")]);
        assert_eq!(there.position(), Position { life: 7, next: 2 });
    }

    #[tokio::test]
    async fn who_comes_back_reads_on() {
        let news = News::new(7);
        for text in ["one", "two", "three"] {
            tell(&news, text);
        }
        let on = |life, next, age| news.read_on(Position { life, next }, age);
        let same = all(&mut on(7, 1, Duration::ZERO)).await;
        assert_eq!(same, [item("two"), item("three")]);
        assert_eq!(all(&mut on(7, u64::MAX, LONG)).await, [], "nonsense");
        // Of a life that is over: all that is young enough, whatever its numbers were.
        let other = all(&mut on(6, 2, LONG)).await;
        assert_eq!(other, [item("one"), item("two"), item("three")]);
    }

    #[test]
    fn what_is_older_than_the_watch_is_not_told() {
        let news = News::new(7);
        tell(&news, "old");
        news.kept.send_modify(|kept| {
            let before = kept.items[0].told.checked_sub(Duration::from_secs(60));
            kept.items[0].told = before.expect("the machine runs for a minute");
        });
        tell(&news, "young");
        let next = |age| news.read_on(Position::default(), age).position().next;
        assert_eq!(next(Duration::from_secs(30)), 1);
        assert_eq!(next(Duration::from_secs(90)), 0);
    }

    #[tokio::test]
    async fn who_is_too_slow_hears_how_much_it_missed() {
        let news = News::new(7);
        let mut reader = news.read();
        for _ in 0..KEPT_MAX + 3 {
            tell(&news, "again");
        }
        assert_eq!(news.kept.borrow().items.len(), KEPT_MAX);
        assert_eq!(reader.next().await, Some(Heard::Missed(3)));
        assert_eq!(all(&mut reader).await.len(), KEPT_MAX);
        let mut late = news.read_on(Position::default(), LONG);
        assert_eq!(late.next().await, Some(Heard::Missed(3)));
    }

    #[test]
    fn what_is_too_long_is_not_told() {
        let news = News::new(7);
        news.tell(Scope::Here, vec![0; NEWS_BYTES_MAX].into());
        news.tell(Scope::Here, vec![0; NEWS_BYTES_MAX + 1].into());
        assert_eq!(news.kept.borrow().next, 1);
    }
}
