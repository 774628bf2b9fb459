//! Consensus as its drivers see it: steps in, what to write, send and apply out.

use std::collections::BTreeMap;

use super::*;

fn start(replica: u64, voters: &[u64]) -> Start {
    Start {
        replica: ReplicaId(replica),
        hard: Hard::default(),
        members: Members {
            voters: voters.iter().copied().map(ReplicaId).collect(),
            ..Members::default()
        },
        applied: (Index(0), Term(0)),
        entries: Vec::new(),
        seed: replica,
        tells_commits: true,
    }
}

fn data(entries: &[Entry]) -> Vec<(u64, &[u8])> {
    entries
        .iter()
        .map(|entry| (entry.index.0, &entry.data[..]))
        .collect()
}

#[test]
fn a_sole_voter_leads_at_once_and_commits_what_is_on_disk() {
    let mut sole = Consensus::new(start(1, &[1])).expect("valid");
    assert!(sole.is_alone());
    assert_eq!(sole.propose(Bytes::new()), Err(Error::NotLeading));
    sole.campaign().expect("taken");
    assert_eq!(sole.leads(), Some(Term(1)));
    let first = sole.ready().expect("its first entry");
    let hard = first.hard.expect("a new term");
    assert_eq!((hard.term, hard.vote), (Term(1), ReplicaId(1)));
    assert_eq!(data(&first.entries), [(1, &b""[..])]);
    assert!(first.committed.is_empty());

    sole.propose(Bytes::from_static(b"a")).expect("leads");
    let second = sole.ready().expect("an entry");
    assert_eq!(
        (second.hard, data(&second.entries)),
        (None, vec![(2, &b"a"[..])])
    );
    assert!(second.committed.is_empty());
    assert!(sole.ready().is_none());

    sole.on_persisted(first.number);
    let applied = sole.ready().expect("the first is committed");
    assert_eq!(data(&applied.committed), [(1, &b""[..])]);
    sole.applied(Index(1));
    sole.on_persisted(second.number);
    let applied = sole.ready().expect("the second too");
    assert_eq!(data(&applied.committed), [(2, &b"a"[..])]);
    sole.applied(Index(2));
    assert_eq!(sole.hard().commit, Index(2));
}

#[test]
fn a_restart_goes_on_after_what_was_applied() {
    let mut again = Consensus::new(Start {
        hard: Hard {
            term: Term(3),
            vote: ReplicaId(1),
            commit: Index(0),
        },
        applied: (Index(7), Term(3)),
        ..start(1, &[1])
    })
    .expect("valid");
    again.campaign().expect("taken");
    assert_eq!(again.leads(), Some(Term(4)));
    let first = again.ready().expect("its first entry");
    assert_eq!(data(&first.entries), [(8, &b""[..])]);
    again.on_persisted(first.number);
    assert_eq!(
        data(&again.ready().expect("committed").committed),
        [(8, &b""[..])]
    );
}

#[test]
fn entries_found_after_the_checkpoint_are_applied_once_committed_again() {
    let entry = |index, text: &'static [u8]| Entry {
        term: Term(3),
        index: Index(index),
        kind: EntryKind::Normal,
        data: Bytes::from_static(text),
    };
    let mut again = Consensus::new(Start {
        hard: Hard {
            term: Term(3),
            vote: ReplicaId(1),
            commit: Index(7),
        },
        applied: (Index(7), Term(3)),
        entries: vec![entry(8, b"x"), entry(9, b"y")],
        ..start(1, &[1])
    })
    .expect("valid");
    again.campaign().expect("taken");
    let first = again.ready().expect("its first entry");
    assert!(first.committed.is_empty());
    again.on_persisted(first.number);
    let applied = again.ready().expect("committed");
    assert_eq!(
        data(&applied.committed),
        [(8, &b"x"[..]), (9, b"y"), (10, b"")]
    );
}

#[test]
fn an_unlogged_shard_agrees_with_itself() {
    let mut alone = Consensus::unlogged(Term(3));
    assert_eq!(alone.leads(), Some(Term(3)));
    alone.propose(Bytes::from_static(b"a")).expect("leads");
    let ready = alone.ready().expect("entries");
    assert_eq!(data(&ready.entries), [(1, &b""[..]), (2, b"a")]);
    assert_eq!(ready.entries, ready.committed);
    assert!(alone.ready().is_none());
}

fn tick(replica: &mut Consensus, now: Instant) {
    replica.tick(now);
    if now
        .micros_since(Instant(0))
        .is_multiple_of(1000 * BEAT_MILLIS)
    {
        replica.beat(now, false);
    }
}

/// Replicas whose disks answer at once and whose messages all arrive.
fn settle(
    replicas: &mut BTreeMap<ReplicaId, Consensus>,
    applied: &mut BTreeMap<ReplicaId, Vec<Entry>>,
    now: Instant,
) {
    loop {
        let mut messages = Vec::new();
        for (id, replica) in replicas.iter_mut() {
            while let Some(ready) = replica.ready() {
                replica.on_persisted(ready.number);
                messages.extend(ready.messages);
                for entry in &ready.committed {
                    if entry.kind != EntryKind::Normal {
                        replica.change_members(entry).expect("taken");
                    }
                    replica.applied(entry.index);
                }
                applied.entry(*id).or_default().extend(ready.committed);
            }
        }
        if messages.is_empty() {
            return;
        }
        for message in messages {
            if let Some(replica) = replicas.get_mut(&message.to) {
                let _ = replica.step(message, now);
            }
        }
    }
}

/// Three replicas of which one has been elected, what each has applied, and the time.
struct Three {
    replicas: BTreeMap<ReplicaId, Consensus>,
    applied: BTreeMap<ReplicaId, Vec<Entry>>,
    leader: ReplicaId,
    now: Instant,
}

impl Three {
    fn elected(tells_commits: bool) -> Self {
        let ids = [1, 2, 3];
        let replica = |id| {
            let start = Start {
                tells_commits,
                ..start(id, &ids)
            };
            (ReplicaId(id), Consensus::new(start).expect("valid"))
        };
        let mut three = Self {
            replicas: ids.into_iter().map(replica).collect(),
            applied: BTreeMap::new(),
            leader: ReplicaId(0),
            now: Instant(0),
        };
        three.ticks(60);
        let replicas = three.replicas.iter();
        let leaders: Vec<_> = replicas.filter(|(_, it)| it.leads().is_some()).collect();
        assert_eq!(leaders.len(), 1);
        three.leader = *leaders[0].0;
        three
    }

    fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.now = self.now.plus_millis(TICK_MILLIS);
            for replica in self.replicas.values_mut() {
                tick(replica, self.now);
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        settle(&mut self.replicas, &mut self.applied, self.now);
    }

    fn propose(&mut self, text: &'static [u8]) {
        let leader = self.replicas.get_mut(&self.leader).expect("a member");
        leader.propose(Bytes::from_static(text)).expect("leads");
    }

    /// Who has applied this last.
    fn applied_last(&self, text: &[u8]) -> Vec<ReplicaId> {
        let replicas = self.applied.iter();
        replicas
            .filter(|(_, entries)| data(entries).last().is_some_and(|it| it.1 == text))
            .map(|(id, _)| *id)
            .collect()
    }
}

#[test]
fn three_replicas_elect_one_and_agree() {
    let mut three = Three::elected(true);
    for (id, replica) in &three.replicas {
        let lease = replica.lease_until();
        let leads = *id == three.leader;
        assert_eq!(lease > three.now, leads, "the leader alone may act");
    }
    three.propose(b"a");
    three.propose(b"b");
    three.ticks(4);
    for entries in three.applied.values() {
        assert_eq!(entries, &three.applied[&three.leader]);
    }
    assert_eq!(three.applied_last(b"b").len(), 3);
}

#[test]
fn commits_are_told_at_once_or_with_what_follows() {
    let mut prompt = Three::elected(true);
    prompt.propose(b"a");
    prompt.settle();
    assert_eq!(prompt.applied_last(b"a").len(), 3);

    let mut three = Three::elected(false);
    let leader = three.leader;
    three.propose(b"a");
    three.settle();
    assert_eq!(three.applied_last(b"a"), [leader]);
    // With the entries that come next ...
    three.propose(b"b");
    three.settle();
    assert_eq!(three.applied_last(b"b"), [leader]);
    assert_eq!(three.applied_last(b"a").len(), 2);
    // ... and with a beat, if none come.
    three.ticks(2);
    assert_eq!(three.applied_last(b"b").len(), 3);
}

#[test]
fn no_vote_is_granted_in_the_first_election_timeout_after_a_start() {
    let mut asker = Consensus::new(start(1, &[1, 2])).expect("valid");
    let mut asked = Consensus::new(start(2, &[1, 2])).expect("valid");
    tick(&mut asked, Instant(0));
    asker.campaign().expect("taken");
    let timeout = u64::from(ELECTION_TICKS) * TICK_MILLIS;
    let mut ask = |millis| {
        let now = Instant(0).plus_millis(millis);
        asker.campaign().expect("taken");
        while let Some(ready) = asker.ready() {
            asker.on_persisted(ready.number);
            for message in ready.messages {
                let _ = asked.step(message, now);
            }
        }
        let ready = asked.ready();
        ready.is_some_and(|ready| {
            asked.on_persisted(ready.number);
            asked.ready().is_some_and(|it| !it.messages.is_empty())
        })
    };
    assert!(!ask(timeout - 1));
    assert!(ask(timeout));
}

#[test]
fn nothing_is_taken_while_the_lead_is_being_handed_over() {
    let mut group = Consensus::new(start(1, &[1])).expect("valid");
    assert!(!group.takes_proposals());
    group.campaign().expect("taken");
    assert!(group.takes_proposals());
    let mut index = 0;
    let mut settle = |group: &mut Consensus| {
        while let Some(ready) = group.ready() {
            group.on_persisted(ready.number);
            for entry in ready.committed {
                index = entry.index.0;
                if entry.kind != EntryKind::Normal {
                    group.change_members(&entry).expect("taken");
                }
                group.applied(Index(index));
            }
        }
    };
    settle(&mut group);
    let heir = MemberChange::Voter(ReplicaId(2));
    group.propose_members(&[heir]).expect("leads");
    settle(&mut group);
    group.transfer(ReplicaId(2)).expect("leads");
    assert!(group.leads().is_some());
    assert!(!group.takes_proposals());
    assert!(group.propose(Bytes::from_static(b"a")).is_err());
}

#[test]
fn a_snapshot_that_nobody_takes_is_not_offered_for_ever() {
    let mut leader = Consensus::new(start(1, &[1])).expect("valid");
    let mut learner = Consensus::new(start(2, &[])).expect("valid");
    leader.campaign().expect("taken");
    let mut now = Instant(0);
    // How often the learner was told of a snapshot: it takes none.
    let mut pass = |leader: &mut Consensus, ticks: u32| {
        let mut told = 0;
        for _ in 0..ticks {
            now = now.plus_millis(TICK_MILLIS);
            tick(leader, now);
            while let Some(ready) = leader.ready() {
                leader.on_persisted(ready.number);
                for entry in &ready.committed {
                    if entry.kind != EntryKind::Normal {
                        leader.change_members(entry).expect("taken");
                    }
                    leader.applied(entry.index);
                }
                for message in ready.messages {
                    if message.snapshot().is_some() {
                        told += 1;
                    } else {
                        learner.step(message, now).expect("taken");
                    }
                }
            }
            while let Some(ready) = learner.ready() {
                learner.on_persisted(ready.number);
                for message in ready.messages {
                    leader.step(message, now).expect("taken");
                }
            }
        }
        told
    };
    pass(&mut leader, 1);
    let change = MemberChange::Learner(ReplicaId(2));
    leader.propose_members(&[change]).expect("leads");
    assert_eq!(pass(&mut leader, 4), 0);
    assert_eq!(leader.take_snapshot_wants(), [ReplicaId(2)]);
    let (index, term) = leader.last();
    let members = leader.members();
    leader.offer_snapshot(
        ReplicaId(2),
        SnapshotOf {
            index,
            term,
            members: members.clone(),
        },
    );
    // It may have a later one by now, from somebody else: so it is asked for one anew.
    assert_eq!(pass(&mut leader, 4 * ELECTION_TICKS), 1);
    assert_eq!(leader.take_snapshot_wants(), [ReplicaId(2)]);
}

#[test]
fn a_leader_that_has_lost_its_vote_gives_its_lead_away() {
    let ids = [1, 2, 3];
    let started = ids.map(|id| {
        let replica = Consensus::new(start(id, &ids)).expect("valid");
        (ReplicaId(id), replica)
    });
    let mut replicas = BTreeMap::from(started);
    let (mut applied, mut now) = (BTreeMap::new(), Instant(0));
    let mut pass = |replicas: &mut BTreeMap<ReplicaId, Consensus>, ticks: u32| {
        for _ in 0..ticks {
            now = now.plus_millis(TICK_MILLIS);
            replicas.values_mut().for_each(|it| tick(it, now));
            settle(replicas, &mut applied, now);
        }
        let leads = replicas.iter().filter(|(_, it)| it.leads().is_some());
        leads.map(|(id, _)| *id).collect::<Vec<_>>()
    };
    let before = pass(&mut replicas, 60);
    let [leader] = before[..] else {
        panic!("{before:?} lead");
    };
    let change = MemberChange::Learner(leader);
    let replica = replicas.get_mut(&leader).expect("a member");
    replica.propose_members(&[change]).expect("leads");
    // It tells the heir to take the lead: nobody waits for a leader that is missed.
    let after = pass(&mut replicas, 2);
    assert_eq!(after.len(), 1);
    assert_ne!(after, before);
    let members = replicas[&leader].members();
    assert!(members.votes(after[0]) && !members.votes(leader));
}

#[test]
fn voters_miss_a_leader_in_turn() {
    let ids = [1, 2, 3, 4, 5];
    let started = ids.map(|id| {
        let replica = Consensus::new(start(id, &ids)).expect("valid");
        (ReplicaId(id), replica)
    });
    let mut replicas = BTreeMap::from(started);
    let (mut applied, mut now) = (BTreeMap::new(), Instant(0));
    let mut ticks_to_lead = |replicas: &mut BTreeMap<ReplicaId, Consensus>| {
        for ticks in 1..=4 * ELECTION_TICKS {
            now = now.plus_millis(TICK_MILLIS);
            replicas.values_mut().for_each(|it| tick(it, now));
            settle(replicas, &mut applied, now);
            let mut leads = replicas.iter().filter(|(_, it)| it.leads().is_some());
            if let Some((id, _)) = leads.next() {
                return (*id, ticks);
            }
        }
        panic!("nobody leads");
    };
    let (mut leader, _) = ticks_to_lead(&mut replicas);
    for _ in 0..2 {
        // Whoever is gone would have been next, in some terms.
        replicas.remove(&leader).expect("led");
        let (next, ticks) = ticks_to_lead(&mut replicas);
        assert!(ticks <= ELECTION_TICKS + 5, "{ticks} ticks");
        leader = next;
    }
}
