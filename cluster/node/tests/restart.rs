//! A node on a real disk: what it answered survives being dropped and opened again.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use warren_cluster::{Error, Handle, Options, Sink, open};
use warren_cluster_core::batch::{Batch, Outcome};
use warren_cluster_core::ids::{Instant, NodeId, Place, SegmentId, ShardId};
use warren_cluster_core::inbox::{Input, Outputs};
use warren_cluster_core::machine::{
    ApplyMeta, Bodies, CheckpointWriter, Context, LiveRef, Machine, Malformed, NoDesk,
};
use warren_cluster_core::rows::{Committed, RowKey, Transaction, Version, WaitFor, Write};

const KEY: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps a body for each message, in order; says each one on request.
#[derive(Default)]
struct Shelf {
    bodies: BTreeMap<u64, (Place, u32)>,
    wanted: bool,
}

impl Shelf {
    /// Tells all bodies, or asks for the first that is not in memory.
    fn say(&mut self, context: &mut Context<'_, Vec<Bytes>>) {
        let mut all = Vec::new();
        for (place, len) in self.bodies.values() {
            let Some(bytes) = context.bodies.get(*place, *len) else {
                context.bodies.want(KEY, *place, *len);
                self.wanted = true;
                return;
            };
            all.push(bytes);
        }
        self.wanted = false;
        context.effects.push(all);
    }
}

impl Machine for Shelf {
    type Input = ();
    type Effect = Vec<Bytes>;
    type Desk = NoDesk;
    const RECONCILES: bool = false;

    fn blank(&self) -> Self {
        Self::default()
    }

    fn apply(
        &mut self,
        meta: &ApplyMeta,
        payload: &Bytes,
        context: &mut Context<'_, Vec<Bytes>>,
    ) -> Result<(), Malformed> {
        let mut rest = &payload[..];
        while !rest.is_empty() {
            let len = rest.get_u32_le();
            let place = meta.place.plus((payload.len() - rest.len()) as u32);
            rest.advance(len as usize);
            let id = self.bodies.len() as u64 + 1;
            context.bodies.retain(KEY, id, place, len);
            self.bodies.insert(id, (place, len));
        }
        Ok(())
    }

    fn input(&mut self, (): (), context: &mut Context<'_, Vec<Bytes>>) {
        self.say(context);
    }

    fn lead(&mut self, _nodes: &[NodeId], _context: &mut Context<'_, Vec<Bytes>>) {}

    fn node_down(&mut self, _node: NodeId, _context: &mut Context<'_, Vec<Bytes>>) {}

    fn follow(&mut self, _context: &mut Context<'_, Vec<Bytes>>) {}

    fn resume(&mut self, _key: u64, context: &mut Context<'_, Vec<Bytes>>) {
        if self.wanted {
            self.say(context);
        }
    }

    fn flush(&mut self, _context: &mut Context<'_, Vec<Bytes>>) {}

    fn has_parked(&self) -> bool {
        false
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn checkpoint_begin(&mut self, out: &mut dyn CheckpointWriter) {
        for (id, (place, len)) in &self.bodies {
            let mut chunk = Vec::new();
            chunk.put_u64_le(*id);
            chunk.put_u32_le(place.segment.0);
            chunk.put_u32_le(place.offset);
            chunk.put_u32_le(*len);
            out.chunk(&chunk);
        }
    }

    fn checkpoint_step(&mut self, _budget: usize, _out: &mut dyn CheckpointWriter) -> bool {
        true
    }

    fn checkpoint_abort(&mut self) {}

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        let mut rest = chunk;
        let id = rest.get_u64_le();
        let place = Place {
            segment: SegmentId(rest.get_u32_le()),
            offset: rest.get_u32_le(),
        };
        self.bodies.insert(id, (place, rest.get_u32_le()));
        Ok(())
    }

    fn restored(&mut self) -> Result<(), Malformed> {
        Ok(())
    }

    fn retain_all(&self, bodies: &mut dyn Bodies) {
        for (id, (place, len)) in &self.bodies {
            bodies.retain(KEY, *id, *place, *len);
        }
    }

    fn live(&self, _key: u64, ids: RangeInclusive<u64>, out: &mut Vec<LiveRef>) {
        out.extend(self.bodies.range(ids).map(|(id, (place, len))| LiveRef {
            id: *id,
            place: *place,
            len: *len,
        }));
    }

    fn relocate(&mut self, key: u64, id: u64, from: Place, to: Place, bodies: &mut dyn Bodies) {
        if let Some((place, len)) = self.bodies.get_mut(&id)
            && *place == from
        {
            *place = to;
            bodies.retain(key, id, to, *len);
            bodies.release(from, *len);
        }
    }
}

/// Collects what the lane hands out.
#[derive(Default)]
struct Collected {
    outputs: Mutex<Outputs<Vec<Bytes>, u32>>,
    more: Condvar,
}

impl Sink<Shelf, u32> for Collected {
    fn outputs(
        &self,
        outputs: &mut Outputs<Vec<Bytes>, u32>,
        _follow_ups: &mut VecDeque<Input<<Shelf as Machine>::Input, u32>>,
    ) {
        let mut all = self.outputs.lock().expect("no panic");
        all.changes.append(&mut outputs.changes);
        all.committed.append(&mut outputs.committed);
        all.done.append(&mut outputs.done);
        all.effects.append(&mut outputs.effects);
        all.roles.append(&mut outputs.roles);
        self.more.notify_all();
    }
}

impl Collected {
    /// Waits for what `take` wants.
    fn wait<R>(&self, take: impl Fn(&mut Outputs<Vec<Bytes>, u32>) -> Option<R>) -> R {
        let mut outputs = self.outputs.lock().expect("no panic");
        loop {
            if let Some(taken) = take(&mut outputs) {
                return taken;
            }
            let (next, timeout) = self.more.wait_timeout(outputs, PATIENCE).expect("no panic");
            assert!(!timeout.timed_out(), "nothing came");
            outputs = next;
        }
    }
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("warren-node-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn options(&self) -> Options {
        Options {
            shards: 4,
            segment_bytes: 1 << 20,
            ..Options::new(self.0.clone(), "test".to_owned())
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Node = Handle<Shelf, u32>;

fn start(folder: &Folder) -> (Node, Arc<Collected>) {
    let sink = Arc::new(Collected::default());
    let shared: Arc<dyn Sink<Shelf, u32>> = Arc::<Collected>::clone(&sink);
    let node = open(&folder.options(), |_| Shelf::default(), shared).expect("opens");
    (node, sink)
}

fn batch(texts: &[&[u8]]) -> Batch {
    let mut batch = Batch::new(64);
    for text in texts {
        batch.push(|out| {
            out.put_u32_le(text.len() as u32);
            out.put_slice(text);
        });
    }
    batch
}

fn propose(node: &Node, sink: &Collected, shard: u32, ticket: u32, texts: &[&[u8]]) {
    let shard = ShardId(shard);
    node.submit(&mut vec![Input::Propose {
        shard,
        batch: batch(texts),
        ticket,
    }]);
    let outcome = sink.wait(|outputs| {
        let at = outputs.done.iter().position(|(done, _)| *done == ticket)?;
        Some(outputs.done.remove(at).1)
    });
    assert_eq!(outcome, Outcome::Stored);
}

fn all(node: &Node, sink: &Collected, shard: u32) -> Vec<Bytes> {
    let shard = ShardId(shard);
    node.submit(&mut vec![Input::Machine { shard, input: () }]);
    sink.wait(|outputs| outputs.effects.pop())
}

fn row(key: &'static [u8]) -> RowKey {
    RowKey {
        kind: 1,
        key: Bytes::from_static(key),
    }
}

fn transact(node: &Node, sink: &Collected, shard: ShardId, key: &'static [u8]) -> Committed {
    let write = Write::Put {
        row: row(key),
        value: Bytes::from_static(b"value"),
    };
    node.submit(&mut vec![Input::Transact {
        shard,
        transaction: Transaction {
            preconditions: Vec::new(),
            writes: vec![write],
        },
        wait: WaitFor::Everywhere(0),
    }]);
    sink.wait(|outputs| outputs.committed.pop())
        .1
        .expect("taken")
}

#[test]
fn what_was_answered_survives_a_kill_and_a_clean_stop() {
    let folder = Folder::new("survives");
    let large = vec![7; 3 << 20];
    {
        let (node, sink) = start(&folder);
        propose(&node, &sink, 1, 1, &[b"one", b"two"]);
        propose(&node, &sink, 3, 2, &[&large]);
        let first = Version(1);
        let committed = transact(&node, &sink, ShardId::DEFINITIONS, b"a");
        assert_eq!(committed, Committed::Yes { first });
    }
    for clean in [true, false] {
        let (node, sink) = start(&folder);
        assert_eq!(all(&node, &sink, 1), [&b"one"[..], b"two"]);
        assert_eq!(all(&node, &sink, 3), [&large]);
        assert!(all(&node, &sink, 2).is_empty());
        let (shard, rows) = sink.wait(|outputs| outputs.changes.pop());
        assert_eq!(shard, ShardId::DEFINITIONS);
        assert_eq!((rows.len(), &rows[0].row), (1, &row(b"a")));
        if clean {
            assert!(node.stop(PATIENCE));
        }
    }
}

#[test]
fn unlogged_shards_answer_at_once_and_forget() {
    let folder = Folder::new("unlogged");
    let local = ShardId::queues_of(NodeId(1)).0;
    {
        let (node, sink) = start(&folder);
        propose(&node, &sink, local, 1, &[b"one"]);
        assert_eq!(all(&node, &sink, local), [&b"one"[..]]);
        transact(&node, &sink, ShardId::LOCAL_DEFINITIONS, b"a");
        let (shard, _) = sink.wait(|outputs| outputs.changes.pop());
        assert_eq!(shard, ShardId::LOCAL_DEFINITIONS);
        assert!(node.stop(PATIENCE));
    }
    let (node, sink) = start(&folder);
    assert!(all(&node, &sink, local).is_empty());
}

#[test]
fn many_threads_get_every_answer() {
    let folder = Folder::new("threads");
    let (node, sink) = start(&folder);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let node = node.clone();
            scope.spawn(move || {
                for number in 0..200 {
                    let text = [thread as u8; 100];
                    let shard = if number % 2 == 0 {
                        ShardId(1 + thread)
                    } else {
                        ShardId::queues_of(NodeId(1))
                    };
                    node.submit(&mut vec![Input::Propose {
                        shard,
                        batch: batch(&[&text]),
                        ticket: thread * 1000 + number,
                    }]);
                }
            });
        }
    });
    let done = sink.wait(|outputs| {
        let all = outputs.done.len() == 800;
        all.then(|| std::mem::take(&mut outputs.done))
    });
    for thread in 0..4_u32 {
        for parity in 0..2 {
            let mine = |ticket: &u32| ticket / 1000 == thread && ticket % 2 == parity;
            let mut tickets: Vec<u32> = done.iter().map(|it| it.0).filter(mine).collect();
            assert!(tickets.is_sorted(), "answers keep the order of their shard");
            tickets.dedup();
            assert_eq!(tickets.len(), 100);
        }
    }
    assert!(node.status().syncs > 0);
}

#[test]
fn a_folder_in_use_is_refused_by_name() {
    let folder = Folder::new("in-use");
    let (_node, _sink) = start(&folder);
    let sink: Arc<dyn Sink<Shelf, u32>> = Arc::new(Collected::default());
    let second = open(&folder.options(), |_| Shelf::default(), sink);
    let Err(error @ Error::Locked { .. }) = second.map(|_| ()) else {
        panic!("must be refused");
    };
    assert!(error.to_string().contains(&path(&folder.0)));
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
