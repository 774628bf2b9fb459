//! What replicas of a shard say to each other, and its byte form.
//!
//! Layout, little endian: kind u8, flags u8 (1: reject, 2: with a snapshot, 4: at rest), zero u16,
//! context length u32, entries u32, then u64: from, to, term, log term, index, commit, commit term,
//! reject hint, requested snapshot, priority, stamp; then the snapshot (index u64, term u64,
//! members), the context, and the entries: term u64, index u64, kind u8, three zeros, length u32,
//! data.
//!
//! `stamp` is ours: the sender's monotonic clock on a heartbeat, sent back with its answer. So is
//! `at rest` (flag 4): neither that heartbeat nor its answer is waited for. Only kinds that peers
//! send each other are read; what is only for a replica itself is refused.

use bytes::{Buf, BufMut, Bytes};
use raft::prelude::{Message as RaftMessage, MessageType, Snapshot};

use super::{Entry, EntryKind, Members};
use crate::ids::{Index, Instant, ReplicaId, Term};
use crate::machine::Malformed;
use crate::parts::{Parts, detached};

const REJECT: u8 = 1;
const SNAPSHOT: u8 = 2;
const AT_REST: u8 = 4;
const FIXED_BYTES: usize = 12 + 11 * 8;
/// A context is a few words at most.
const CONTEXT_BYTES_MAX: u32 = 256;
const ENTRY_HEAD_BYTES: usize = 24;
/// A change of members is small; its own parser never sees more.
const CHANGE_BYTES_MAX: usize = 4096;

/// A message from one replica to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub from: ReplicaId,
    pub to: ReplicaId,
    kind: u8,
    reject: bool,
    term: Term,
    log_term: Term,
    index: Index,
    commit: Index,
    commit_term: Term,
    reject_hint: u64,
    request_snapshot: u64,
    priority: i64,
    pub(super) stamp: Instant,
    pub(super) at_rest: bool,
    snapshot: Option<SnapshotOf>,
    context: Bytes,
    entries: Vec<Entry>,
}

/// Of which entry a snapshot is, and who takes part there. Its content travels by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotOf {
    pub index: Index,
    pub term: Term,
    pub members: Members,
}

impl Message {
    /// Whether it waits for nobody: votes, beats and answers. An append that only tells what is
    /// committed does not overtake the entries before it: whoever does not have them refuses it,
    /// and is sent all of them again.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.entries.is_empty() && self.kind != MessageType::MsgAppend as u8
    }

    /// Whether it may wait for the next beat of the lane: a heartbeat or its answer, while the
    /// leader has its lease.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        self.at_rest
    }

    #[cfg(test)]
    pub(crate) fn entries_count(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    pub(super) fn is_heartbeat(&self) -> bool {
        self.kind == MessageType::MsgHeartbeat as u8
    }

    pub(super) fn is_heartbeat_response(&self) -> bool {
        self.kind == MessageType::MsgHeartbeatResponse as u8
    }

    /// The snapshot that it announces.
    #[must_use]
    pub fn snapshot(&self) -> Option<&SnapshotOf> {
        self.snapshot.as_ref()
    }

    /// Appends its byte form; entries' data by reference.
    pub fn encode(&self, out: &mut Parts) {
        let flags = if self.reject { REJECT } else { 0 }
            | if self.snapshot.is_some() { SNAPSHOT } else { 0 }
            | if self.at_rest { AT_REST } else { 0 };
        let fixed = out.open();
        fixed.put_u8(self.kind);
        fixed.put_u8(flags);
        fixed.put_u16_le(0);
        fixed.put_u32_le(u32::try_from(self.context.len()).expect("a context is small"));
        fixed.put_u32_le(u32::try_from(self.entries.len()).expect("a message has few entries"));
        let words = [
            self.from.0,
            self.to.0,
            self.term.0,
            self.log_term.0,
            self.index.0,
            self.commit.0,
            self.commit_term.0,
            self.reject_hint,
            self.request_snapshot,
            self.priority.cast_unsigned(),
            self.stamp.0,
        ];
        words.iter().for_each(|word| fixed.put_u64_le(*word));
        if let Some(snapshot) = &self.snapshot {
            fixed.put_u64_le(snapshot.index.0);
            fixed.put_u64_le(snapshot.term.0);
            snapshot.members.encode(fixed);
        }
        fixed.put_slice(&self.context);
        for entry in &self.entries {
            let head = out.open();
            head.put_u64_le(entry.term.0);
            head.put_u64_le(entry.index.0);
            head.put_u8(entry.kind as u8);
            head.put_slice(&[0; 3]);
            head.put_u32_le(u32::try_from(entry.data.len()).expect("entries are below 1 GiB"));
            out.attach(&entry.data);
        }
    }

    /// Reads what [`Self::encode`] wrote; entries' data are slices where they are a good part of
    /// the buffer of `whole` bytes that `bytes` is of.
    ///
    /// # Errors
    /// Bytes that are no message for a peer.
    pub fn decode(bytes: &Bytes, whole: usize) -> Result<Self, Malformed> {
        let mut rest = bytes.clone();
        let read = read(&mut rest, whole);
        read.map_err(|cause| Malformed {
            what: "message of a replica",
            at: bytes.len() - rest.len(),
            cause,
        })
    }

    pub(super) fn of(message: &RaftMessage) -> Self {
        let snapshot = message.snapshot.as_ref().map(|snapshot| {
            let metadata = snapshot.get_metadata();
            SnapshotOf {
                index: Index(metadata.index),
                term: Term(metadata.term),
                members: Members::of(metadata.get_conf_state()),
            }
        });
        Self {
            from: ReplicaId(message.from),
            to: ReplicaId(message.to),
            kind: message.msg_type as u8,
            reject: message.reject,
            term: Term(message.term),
            log_term: Term(message.log_term),
            index: Index(message.index),
            commit: Index(message.commit),
            commit_term: Term(message.commit_term),
            reject_hint: message.reject_hint,
            request_snapshot: message.request_snapshot,
            priority: message.priority,
            stamp: Instant(0),
            at_rest: false,
            snapshot,
            context: message.context.clone(),
            entries: message.entries.iter().map(Entry::of).collect(),
        }
    }

    pub(super) fn into_raft(self) -> RaftMessage {
        let mut message = RaftMessage {
            from: self.from.0,
            to: self.to.0,
            term: self.term.0,
            log_term: self.log_term.0,
            index: self.index.0,
            commit: self.commit.0,
            commit_term: self.commit_term.0,
            reject: self.reject,
            reject_hint: self.reject_hint,
            request_snapshot: self.request_snapshot,
            priority: self.priority,
            context: self.context,
            ..RaftMessage::default()
        };
        message.set_msg_type(peer_kind(self.kind).expect("checked when it was read"));
        if let Some(of) = self.snapshot {
            message.set_snapshot(of.into_raft());
        }
        let entries = self.entries.into_iter().map(Entry::into_raft);
        message.set_entries(entries.collect::<Vec<_>>().into());
        message
    }
}

impl SnapshotOf {
    pub(super) fn into_raft(self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.index.0;
        metadata.term = self.term.0;
        metadata.set_conf_state(self.members.into_raft());
        snapshot
    }
}

/// The kinds that replicas send each other.
fn peer_kind(kind: u8) -> Option<MessageType> {
    use MessageType as T;
    let all = [
        T::MsgAppend,
        T::MsgAppendResponse,
        T::MsgRequestVote,
        T::MsgRequestVoteResponse,
        T::MsgSnapshot,
        T::MsgHeartbeat,
        T::MsgHeartbeatResponse,
        T::MsgTimeoutNow,
        T::MsgRequestPreVote,
        T::MsgRequestPreVoteResponse,
    ];
    all.into_iter().find(|it| *it as u8 == kind)
}

const SHORT: &str = "ends too early";

fn read(rest: &mut Bytes, whole: usize) -> Result<Message, &'static str> {
    if rest.len() < FIXED_BYTES {
        return Err(SHORT);
    }
    let kind = rest.get_u8();
    if peer_kind(kind).is_none() {
        return Err("a kind that no peer sends");
    }
    let flags = rest.get_u8();
    if rest.get_u16_le() != 0 || flags & !(REJECT | SNAPSHOT | AT_REST) != 0 {
        return Err("unknown flags");
    }
    let (context, entries) = (rest.get_u32_le(), rest.get_u32_le());
    if context > CONTEXT_BYTES_MAX {
        return Err("a context too long");
    }
    let mut message = Message {
        kind,
        reject: flags & REJECT != 0,
        from: ReplicaId(rest.get_u64_le()),
        to: ReplicaId(rest.get_u64_le()),
        term: Term(rest.get_u64_le()),
        log_term: Term(rest.get_u64_le()),
        index: Index(rest.get_u64_le()),
        commit: Index(rest.get_u64_le()),
        commit_term: Term(rest.get_u64_le()),
        reject_hint: rest.get_u64_le(),
        request_snapshot: rest.get_u64_le(),
        priority: rest.get_u64_le().cast_signed(),
        stamp: Instant(rest.get_u64_le()),
        at_rest: flags & AT_REST != 0,
        snapshot: None,
        context: Bytes::new(),
        entries: Vec::new(),
    };
    if flags & SNAPSHOT != 0 {
        message.snapshot = Some(SnapshotOf {
            index: Index(rest.try_get_u64_le().map_err(|_| SHORT)?),
            term: Term(rest.try_get_u64_le().map_err(|_| SHORT)?),
            members: Members::decode(rest)?,
        });
    } else if kind == MessageType::MsgSnapshot as u8 {
        return Err("a snapshot without its index");
    }
    if rest.len() < context as usize {
        return Err(SHORT);
    }
    message.context = Bytes::copy_from_slice(&rest.split_to(context as usize));
    // No more room than the bytes that are there can fill.
    let most = rest.len() / ENTRY_HEAD_BYTES;
    message.entries.reserve(most.min(entries as usize));
    for _ in 0..entries {
        message.entries.push(read_entry(rest, whole)?);
    }
    if rest.is_empty() {
        Ok(message)
    } else {
        Err("something follows its end")
    }
}

fn read_entry(rest: &mut Bytes, whole: usize) -> Result<Entry, &'static str> {
    if rest.len() < ENTRY_HEAD_BYTES {
        return Err(SHORT);
    }
    let (term, index) = (Term(rest.get_u64_le()), Index(rest.get_u64_le()));
    let kind = EntryKind::decode(rest.get_u8()).map_err(|error| error.cause)?;
    rest.advance(3);
    let length = rest.get_u32_le() as usize;
    if rest.len() < length {
        return Err(SHORT);
    }
    if kind != EntryKind::Normal && length > CHANGE_BYTES_MAX {
        return Err("a change of members too long");
    }
    Ok(Entry {
        term,
        index,
        kind,
        data: detached(rest.split_to(length), whole),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixture;

    fn message() -> Message {
        let entry = |index, kind, data: &[u8]| Entry {
            term: Term(3),
            index: Index(index),
            kind,
            data: Bytes::copy_from_slice(data),
        };
        Message {
            from: ReplicaId(1 << 32 | 5),
            to: ReplicaId(2 << 32 | 5),
            kind: MessageType::MsgAppend as u8,
            reject: true,
            term: Term(3),
            log_term: Term(2),
            index: Index(8),
            commit: Index(7),
            commit_term: Term(1),
            reject_hint: 6,
            request_snapshot: 4,
            priority: -1,
            stamp: Instant(99),
            at_rest: false,
            snapshot: Some(SnapshotOf {
                index: Index(5),
                term: Term(2),
                members: Members {
                    voters: vec![ReplicaId(1)],
                    learners: vec![ReplicaId(2)],
                    auto_leave: true,
                    ..Members::default()
                },
            }),
            context: Bytes::from_static(b"CampaignTransfer"),
            entries: vec![
                entry(9, EntryKind::Normal, b"commands"),
                entry(10, EntryKind::MembersChange, b""),
            ],
        }
    }

    fn bytes(message: &Message) -> Bytes {
        let mut parts = Parts::default();
        message.encode(&mut parts);
        parts.into_bytes()
    }

    #[test]
    fn the_byte_form_is_that_of_the_fixture() {
        let bytes = Bytes::from(fixture("replica_message_v1.hex", &bytes(&message())));
        assert_eq!(Message::decode(&bytes, 0), Ok(message()));
    }

    #[test]
    fn it_goes_through_the_library_and_back() {
        let there = Message {
            stamp: Instant(0),
            ..message()
        };
        assert_eq!(Message::of(&there.clone().into_raft()), there);
    }

    #[test]
    fn what_is_cut_short_or_no_peers_is_refused() {
        let whole = bytes(&message());
        for cut in 0..whole.len() {
            assert!(Message::decode(&whole.slice(..cut), 0).is_err());
        }
        for kind in [0, 1, 2, 10, 11, 12, 13, 15, 16, 19, 255] {
            let mut changed = whole.to_vec();
            changed[0] = kind;
            assert!(Message::decode(&changed.into(), 0).is_err(), "kind {kind}");
        }
        let mut many = whole.to_vec();
        many[8..12].fill(255);
        assert!(Message::decode(&many.into(), 0).is_err());
    }
}
