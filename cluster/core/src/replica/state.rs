//! What replicas of a shard agree on: the machine, the origins, how far they are applied.
//!
//! [`State::apply_at`] is the same for every replica, while it serves and while it recovers.

use bytes::Bytes;

use super::head::Head;
use crate::batch::{HEADER_BYTES, Header, Kind, Outcome};
use crate::consensus::{Entry, EntryKind, Hard, Members};
use crate::ids::{Index, Life, NodeId, OriginId, Place, ReplicaId, Seq, ShardId, Term, Time};
use crate::machine::{ApplyMeta, Context, Machine, Malformed};
use crate::origins::{Origins, Verdict};

/// A shard's replicated state.
pub(crate) struct State<M> {
    shard: ShardId,
    machine: M,
    origins: Origins,
    applied: (Index, Term),
    /// The time of the entry applied last.
    time: Time,
}

/// What an entry was, for those who wait for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Applied {
    /// The first entry of its term.
    First,
    /// Commands that nobody numbered.
    Commands,
    Opened {
        node: NodeId,
        life: Life,
        origin: OriginId,
    },
    /// The outcome of a numbered batch, now or (when it was seen before) from an earlier time.
    Outcome {
        node: NodeId,
        origin: OriginId,
        seq: Seq,
        outcome: Outcome,
    },
    /// Numbers of this origin are missing.
    Gap { node: NodeId, origin: OriginId },
    /// Nobody waits for it.
    Nothing,
}

impl<M: Machine> State<M> {
    /// A shard before its first entry.
    pub(crate) fn new(shard: ShardId, machine: M) -> Self {
        Self {
            shard,
            machine,
            origins: Origins::default(),
            applied: (Index(0), Term(0)),
            time: Time(0),
        }
    }

    /// Takes over what a checkpoint says; the machine gets its chunks besides.
    pub(crate) fn restore(&mut self, head: Head) {
        self.origins = head.origins;
        self.applied = head.applied;
        self.time = head.time;
    }

    pub(crate) fn head(&self, replica: ReplicaId, hard: Hard, members: Members) -> Head {
        Head {
            shard: self.shard,
            applied: self.applied,
            time: self.time,
            replica,
            hard,
            members,
            origins: self.origins.clone(),
        }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn machine(&self) -> &M {
        &self.machine
    }

    pub(crate) fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    pub(crate) fn applied(&self) -> (Index, Term) {
        self.applied
    }

    pub(crate) fn origins(&self) -> &Origins {
        &self.origins
    }

    pub(crate) fn time(&self) -> Time {
        self.time
    }

    /// Applies the next entry; `place` is where the entry lies.
    ///
    /// # Errors
    /// An entry that this build cannot read.
    pub(crate) fn apply_at(
        &mut self,
        entry: &Entry,
        place: Place,
        context: &mut Context<'_, M::Effect>,
    ) -> Result<Applied, Malformed> {
        assert_eq!(
            entry.index.0,
            self.applied.0.0 + 1,
            "entries are applied in order"
        );
        assert!(entry.term >= self.applied.1, "terms never go back");
        self.applied = (entry.index, entry.term);
        if entry.kind != EntryKind::Normal {
            return Ok(Applied::Nothing);
        }
        if entry.data.is_empty() {
            return Ok(Applied::First);
        }
        let header = Header::decode(&entry.data).map_err(foreign)?;
        self.time = self.time.max(header.time);
        let meta = ApplyMeta {
            index: entry.index,
            term: entry.term,
            time: self.time,
            commands: header.commands,
            place: place.plus(HEADER_BYTES as u32),
        };
        match header.kind {
            Kind::Leader => {
                let payload = entry.data.slice(HEADER_BYTES..);
                self.machine.apply(&meta, &payload, context)?;
                Ok(Applied::Commands)
            }
            Kind::Open => {
                let node = NodeId(header.origin.0);
                let life = Life(header.seq.0);
                let origin = self.origins.open(node, life, entry.index);
                Ok(Applied::Opened { node, life, origin })
            }
            Kind::Numbered | Kind::Refused => self.numbered(&header, &meta, &entry.data, context),
        }
    }

    fn numbered(
        &mut self,
        header: &Header,
        meta: &ApplyMeta,
        entry: &Bytes,
        context: &mut Context<'_, M::Effect>,
    ) -> Result<Applied, Malformed> {
        let Header {
            origin, seq, paid, ..
        } = *header;
        let Some(node) = self.origins.node(origin) else {
            return Ok(Applied::Nothing);
        };
        let outcome = match self.origins.judge(origin, seq, paid) {
            Verdict::New if header.kind == Kind::Refused => {
                self.origins.record(origin, seq, Outcome::Refused);
                Outcome::Refused
            }
            Verdict::New => {
                let payload = entry.slice(HEADER_BYTES..);
                self.machine.apply(meta, &payload, context)?;
                self.origins.record(origin, seq, Outcome::Stored);
                Outcome::Stored
            }
            Verdict::Seen(outcome) => outcome,
            Verdict::Gap { .. } => return Ok(Applied::Gap { node, origin }),
            Verdict::Paid | Verdict::Closed => return Ok(Applied::Nothing),
        };
        Ok(Applied::Outcome {
            node,
            origin,
            seq,
            outcome,
        })
    }
}

#[allow(clippy::needless_pass_by_value)] // `map_err` hands errors over by value
fn foreign(error: crate::batch::Error) -> Malformed {
    Malformed {
        what: "entry",
        at: 0,
        cause: match error {
            crate::batch::Error::Short(_) => "shorter than its header",
            crate::batch::Error::Version(_) => "unknown version",
            crate::batch::Error::Kind(_) => "unknown kind",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::ids::Now;
    use crate::rows::{Committed, RowKey, Rows, Transaction, Version, Write};
    use crate::testing::NoBodies;

    fn transaction() -> Batch {
        let row = RowKey {
            kind: 1,
            key: "key".into(),
        };
        let transaction = Transaction {
            preconditions: Vec::new(),
            writes: vec![Write::Delete { row }],
        };
        let mut batch = Batch::default();
        batch.push(|out| transaction.encode(out));
        batch
    }

    fn apply(state: &mut State<Rows>, kind: Kind, origin: u64, seq: u64, time: u64) -> Applied {
        let has_commands = matches!(kind, Kind::Numbered | Kind::Leader);
        let batch = if has_commands {
            transaction()
        } else {
            Batch::default()
        };
        let entry = Entry {
            term: Term(1),
            index: Index(state.applied().0.0 + 1),
            kind: EntryKind::Normal,
            data: batch.seal(Header {
                kind,
                commands: 0,
                origin: OriginId(origin),
                seq: Seq(seq),
                paid: Seq(1),
                time: Time(time),
            }),
        };
        let mut context = Context {
            now: Now::default(),
            leads: None,
            bodies: &mut NoBodies,
            effects: &mut Vec::new(),
            proposals: &mut Batch::default(),
            urgent: false,
            checkpoint: None,
        };
        let applied = state.apply_at(&entry, Place::default(), &mut context);
        applied.expect("an entry of ours")
    }

    fn outcome(origin: OriginId, seq: u64, outcome: Outcome) -> Applied {
        Applied::Outcome {
            node: NodeId(9),
            origin,
            seq: Seq(seq),
            outcome,
        }
    }

    #[test]
    fn a_number_takes_effect_once() {
        let mut state = State::new(ShardId(0), Rows::default());
        let node = NodeId(9);
        let Applied::Opened { origin, .. } = apply(&mut state, Kind::Open, node.0, 0, 5) else {
            panic!("opens");
        };
        assert_eq!(origin, OriginId(1));
        for _ in 0..2 {
            let stored = apply(&mut state, Kind::Numbered, origin.0, 1, 6);
            assert_eq!(stored, outcome(origin, 1, Outcome::Stored));
        }
        assert_eq!(state.machine().version(), Version(1));
        let first = Version(1);
        let committed = state.machine_mut().take_committed();
        assert_eq!(committed, Some(Committed::Yes { first }));
        let gap = apply(&mut state, Kind::Numbered, origin.0, 3, 6);
        assert_eq!(gap, Applied::Gap { node, origin });
        let refused = apply(&mut state, Kind::Refused, origin.0, 2, 6);
        assert_eq!(refused, outcome(origin, 2, Outcome::Refused));
        let again = apply(&mut state, Kind::Numbered, origin.0, 2, 6);
        assert_eq!(again, outcome(origin, 2, Outcome::Refused));
        assert_eq!(state.machine().version(), Version(1));

        apply(&mut state, Kind::Open, node.0, 0, 7);
        let late = apply(&mut state, Kind::Numbered, origin.0, 3, 7);
        assert_eq!(late, Applied::Nothing);
        assert_eq!(state.machine().version(), Version(1));
    }

    #[test]
    fn time_never_goes_back() {
        let mut state = State::new(ShardId(0), Rows::default());
        apply(&mut state, Kind::Leader, 0, 0, 50);
        apply(&mut state, Kind::Leader, 0, 0, 40);
        assert_eq!(state.time(), Time(50));
    }
}
