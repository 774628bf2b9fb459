//! The log on a disk that does its worst.

mod formats;
mod model;

use bytes::Bytes;

use self::model::{Command, Model};
use super::disk::{FileName, Op, RecoveryDisk, Token};
use super::{Error, HardState, Item, Log, Options, Recovery};
use crate::ids::{Index, Instant, NodeId, SegmentId, ShardId, Term};
use crate::log::sim::SimDisk;
use crate::machine::Bodies;

fn small() -> Options {
    Options {
        segment_bytes: 32 << 10,
        segments_target: 2,
        young_bytes: 8 << 10,
        read_cache_bytes: 64 << 10,
        checkpoint_bytes: 40 << 10,
        ..Options::new(7)
    }
}

fn publish(key: u64, id: u64, len: u32) -> Command {
    Command::Publish { key, id, len }
}

fn settle(key: u64, id: u64) -> Command {
    Command::Settle { key, id }
}

#[test]
fn nothing_is_persisted_before_its_sync() {
    let mut model = Model::new(1, 1, small());
    model.append(0, &[publish(1, 1, 100)]);
    model.submit();
    assert_eq!(model.shards[0].persisted, 0);
    model.settle();
    assert_eq!(model.shards[0].persisted, 1);
    assert_eq!(model.log.persisted(), model.log.tail());
    assert_eq!(model.log.sync_age(model.now), 0);
}

#[test]
fn a_hanging_disk_shows_in_the_age_of_the_sync() {
    let mut model = Model::new(1, 1, small());
    model.append(0, &[publish(1, 1, 100)]);
    model.settle();
    model.append(0, &[publish(1, 2, 100)]);
    model.disk.set_stalled(true);
    model.submit();
    assert!(!model.complete());
    let later = Instant(model.now.0 + 700_000);
    assert_eq!(model.log.sync_age(later), 700_000);
}

#[test]
fn an_idle_log_says_once_that_all_is_synced() {
    let mut model = Model::new(1, 1, small());
    model.append(0, &[publish(1, 1, 100)]);
    model.settle();
    let due = model.log.deadline().expect("a mark is due");
    let before = model.log.tail();
    model.now = due;
    model.settle();
    assert!(model.log.tail() > before);
    assert_eq!(model.log.deadline(), None);
}

#[test]
fn large_entries_get_segments_of_their_own() {
    let mut model = Model::new(3, 1, small());
    for id in 1..=6 {
        model.append(
            0,
            &[publish(1, id, if id % 2 == 0 { 100_000 } else { 9_000 })],
        );
        model.settle();
    }
    model.check_bodies();
    model.disk.crash();
    model.recover().expect("opens");
    assert_eq!(model.shards[0].applied, 6);
    model.check_bodies();
}

/// Random work with crashes at random moments: what was told to be durable is there, in order,
/// nothing else is, and every live body can be read. Of a process that `dies` without the power
/// going, unsynced writes stay, until the power goes the next time.
fn crashes(seed: u64, dies: bool) {
    let mut model = Model::new(seed, 3, small());
    let mut next_id = 1;
    for _ in 0..4 {
        let steps = 20 + model.below(200);
        for _ in 0..steps {
            work(&mut model, &mut next_id);
            for _ in 0..model.below(6) {
                model.complete();
            }
        }
        if dies && model.below(2) == 0 {
            model.disk.kill();
        } else {
            model.disk.crash();
        }
        if let Err(error) = model.recover() {
            panic!("seed {seed}: {error}");
        }
        model.check_bodies();
    }
    model.settle();
}

fn work(model: &mut Model, next_id: &mut u64) {
    let shard = model.below(3) as usize;
    let mut commands = Vec::new();
    for _ in 0..1 + model.below(4) {
        let key = model.below(5);
        let len = match model.below(20) {
            0 => 5000,
            1 => 40_000,
            _ => model.below(900) as u32,
        };
        *next_id += 1;
        commands.push(publish(key, *next_id, len));
    }
    // Most messages go soon; those of queue 4 stay.
    let queues = model.shards[shard].queues.clone();
    for (key, queue) in queues.iter().filter(|(key, _)| **key != 4) {
        let go = queue.keys().take(queue.len().saturating_sub(3));
        commands.extend(go.map(|id| settle(*key, *id)));
    }
    if let Some(queue) = queues.get(&4).filter(|queue| queue.len() > 12) {
        commands.extend(queue.keys().take(1).map(|id| settle(4, *id)));
    }
    model.append(shard, &commands);
    model.submit();
}

#[test]
fn what_was_durable_survives_any_crash() {
    for seed in 0..60 {
        crashes(seed, false);
    }
}

#[test]
fn a_power_cut_after_a_killed_process_loses_nothing() {
    for seed in 100..140 {
        crashes(seed, true);
    }
}

/// A process died between the write of a copy and its sync. The next one may find the copy, and
/// let go of what it was made from.
#[test]
fn copies_that_a_killed_process_left_are_synced_before_they_are_relied_on() {
    let file = FileName::Segment(SegmentId::survivor(1));
    for seed in 0..20 {
        let mut disk = SimDisk::new(seed);
        disk.put(file, Vec::new());
        disk.submit(Op::Write {
            file,
            offset: 0,
            buffers: vec![Bytes::from(vec![7; 5000])],
            sync: false,
            token: Token(1),
        });
        disk.complete_one().expect("it was submitted");
        Recovery::open(small(), &mut disk).expect("opens");
        disk.crash();
        let left = RecoveryDisk::read(&mut disk, file, 0, 5000).expect("it is there");
        assert!(left == vec![7; 5000], "seed {seed}");
    }
}

#[test]
fn one_old_message_does_not_keep_the_log() {
    let mut model = Model::new(9, 1, small());
    model.append(0, &[publish(1, 1, 700)]);
    for id in 1..=600 {
        model.append(0, &[publish(2, id, 2000), settle(2, id - 1)]);
        model.settle();
        assert!(model.disk.used_bytes() < 16 * (32 << 10), "entry {id}");
    }
    assert!(model.checkpoints > 3);
    model.check_bodies();
    model.disk.crash();
    model.recover().expect("opens");
    assert_eq!(model.shards[0].queues[&1].len(), 1);
    model.check_bodies();
}

#[test]
fn a_copy_is_found_again_though_the_checkpoint_names_the_old_place() {
    for seed in 0..20 {
        let mut model = Model::new(seed, 1, small());
        model.append(0, &[publish(1, 1, 700), publish(1, 2, 30)]);
        for id in 1..=80 + seed {
            model.append(0, &[publish(2, id, 2000), settle(2, id - 1)]);
            model.settle();
        }
        let moved = |model: &Model| model.shards[0].queues[&1][&1].0.segment.is_survivor();
        assert!(moved(&model), "seed {seed}");
        model.disk.crash();
        model.recover().expect("opens");
        assert!(moved(&model), "seed {seed}");
        model.check_bodies();
    }
}

#[test]
fn consumed_messages_leave_nothing() {
    let mut model = Model::new(11, 2, small());
    for id in 1..=200 {
        model.append(0, &[publish(1, id, 1500)]);
        model.append(1, &[publish(1, id, 100)]);
        model.settle();
    }
    assert!(model.log.status().segments > 8);
    for id in 1..=200 {
        model.append(0, &[settle(1, id)]);
        model.append(1, &[settle(1, id)]);
    }
    model.settle();
    for shard in [1, 2] {
        model.checkpoint_shard(ShardId(shard));
        model.settle();
    }
    assert!(model.log.status().segments <= 4, "{:?}", model.log.status());
    // Dead segments become the next files, a few of them, until none are wanted any more.
    let busy = model.disk.used_bytes();
    assert!(busy < 8 * (32 << 10), "{busy}");
    while let Some(due) = model.log.deadline() {
        model.now = due;
        model.settle();
    }
    let idle = model.disk.used_bytes();
    assert!(idle + (32 << 10) <= busy, "{busy}, then {idle}");
}

#[test]
fn dead_segments_are_not_kept_where_the_disk_is_almost_full() {
    let mut model = Model::new(12, 1, small());
    model.log.set_free_disk(20 * (32 << 10));
    for id in 1..=200 {
        model.append(0, &[publish(1, id, 1500), settle(1, id)]);
        model.settle();
    }
    model.checkpoint_shard(ShardId(1));
    model.settle();
    assert!(model.disk.used_bytes() < 8 * (32 << 10));
}

/// A log of a few synced batches, with its idle mark behind them.
fn written(seed: u64) -> Model {
    let mut model = Model::new(seed, 1, small());
    for id in 1..=5 {
        model.append(0, &[publish(1, id, 300)]);
        model.settle();
    }
    model
}

const FIRST: FileName = FileName::Segment(SegmentId(1));

/// The same, and a mark that says that all of them are synced.
fn marked(seed: u64) -> Model {
    let mut model = written(seed);
    model.now = model.log.deadline().expect("a mark is due");
    model.settle();
    model
}

#[test]
fn rot_below_a_mark_is_corruption_and_says_where() {
    let mut model = marked(1);
    let end = u64::from(model.log.tail().offset()) - 32;
    for offset in (4096..end).step_by(41) {
        assert!(model.disk.rot(FIRST, offset, offset as u8));
        match model.recover() {
            Err(Error::Corrupt {
                file, offset: at, ..
            }) => {
                assert_eq!(file, FIRST);
                assert!(at <= offset, "{at} is behind {offset}");
                assert!(model.disk.rot(FIRST, offset, offset as u8));
            }
            // A zero between two records is not covered by a checksum.
            Ok(()) => model = marked(1),
            Err(other) => panic!("rot at {offset}: {other}"),
        }
    }
}

#[test]
fn a_torn_tail_is_cut_and_never_comes_back() {
    let mut model = written(2);
    let before = model.log.tail();
    model.append(0, &[publish(1, 6, 300)]);
    model.settle();
    // The last batch is not behind any mark: a bad sector in it is taken for a torn write.
    assert!(model.disk.rot(FIRST, u64::from(before.offset()) + 40, 3));
    model.shards[0].persisted = 5;
    model.recover().expect("opens");
    assert_eq!(model.shards[0].applied, 5);
    assert_eq!(model.disk.len(FIRST), Some(u64::from(before.offset()) + 32));
    model.append(0, &[publish(1, 6, 10)]);
    model.settle();
    model.disk.crash();
    model.recover().expect("opens");
    assert_eq!(model.shards[0].applied, 6);
    model.check_bodies();
}

#[test]
fn a_damaged_segment_head_is_corruption() {
    let mut model = written(4);
    assert!(model.disk.rot(FIRST, 3, 1));
    assert!(matches!(
        model.recover(),
        Err(Error::Corrupt { offset: 0, .. })
    ));
}

#[test]
fn a_damaged_checkpoint_is_not_passed_over() {
    let mut model = written(5);
    model.checkpoint_shard(ShardId(1));
    model.settle();
    let names = model.disk.names();
    let is_checkpoint = |name: &&FileName| matches!(name, FileName::Checkpoint { .. });
    let file = *names.iter().find(is_checkpoint).expect("written");
    let len = model.disk.len(file).expect("exists");
    for offset in (0..len).step_by(7) {
        model.disk.rot(file, offset, 5);
        let opened = model.recover();
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "{offset}");
        model.disk.rot(file, offset, 5);
    }
    model.recover().expect("whole again");
}

#[test]
fn a_log_of_another_node_is_refused() {
    let model = written(6);
    let mut disk = model.disk;
    let other = Options::new(8);
    assert!(matches!(
        Recovery::open(other, &mut disk),
        Err(Error::Corrupt { .. })
    ));
}

#[test]
fn a_missing_entry_is_noticed() {
    let mut model = Model::new(
        8,
        1,
        Options {
            checkpoint_bytes: u64::MAX,
            segments_target: 100,
            ..small()
        },
    );
    for id in 1..=60 {
        model.append(0, &[publish(1, id, 2000)]);
        model.settle();
    }
    let second = FileName::Segment(SegmentId(2));
    model.disk.remove(second).expect("removes");
    assert!(matches!(model.recover(), Err(Error::Corrupt { .. })));
}

#[test]
fn a_full_disk_stops_publishes_and_loses_nothing() {
    let mut model = Model::new(12, 1, small());
    model.append(0, &[publish(1, 1, 300)]);
    model.settle();
    assert!(model.log.room_for_publishes().is_some());
    model.disk.set_bytes_limit(model.disk.used_bytes() + 1000);
    model.log.set_free_disk(model.disk.free_bytes());
    assert!(model.log.room_for_publishes().is_none());
    for id in 2..=40 {
        model.append(0, &[publish(1, id, 2000)]);
        model.submit();
        while model.complete() {}
    }
    assert!(model.shards[0].persisted < 40);
    model.disk.set_bytes_limit(u64::MAX);
    model.log.set_free_disk(model.disk.free_bytes());
    model.settle();
    assert!(model.log.room_for_publishes().is_some());
    assert_eq!(model.shards[0].persisted, 40);
    model.check_bodies();
}

/// Something else took the disk's last bytes: what is consumed makes room all the same, though
/// there is none for another segment.
#[test]
fn a_checkpoint_makes_room_where_no_segment_finds_any() {
    let mut options = small();
    options.segments_target = 9;
    options.checkpoint_bytes = 1 << 20;
    let mut model = Model::new(17, 1, options);
    for id in 1..=40 {
        model.append(0, &[publish(1, id, 3000)]);
        model.settle();
    }
    let limit = model.disk.used_bytes() + 24_000;
    model.disk.set_bytes_limit(limit);
    model.log.set_free_disk(model.disk.free_bytes());
    let mut last = 40;
    // Until the next segment's file cannot be made.
    while !model.log.full {
        last += 1;
        model.append(0, &[publish(1, last, 3000)]);
        model.settle();
    }
    let look = |model: &mut Model| {
        model.log.set_free_disk(model.disk.free_bytes());
        model.settle();
    };
    (0..5).for_each(|_| look(&mut model));
    assert!(model.log.full);
    for id in 1..=last {
        model.append(0, &[settle(1, id)]);
        model.settle();
    }
    (0..5).for_each(|_| look(&mut model));
    assert!(model.log.room_for_publishes().is_some());
    model.append(0, &[publish(1, last + 1, 3000)]);
    model.settle();
    model.check_bodies();
}

/// How much the disk has left is asked while a file is being made, which takes it all later.
#[test]
fn a_file_that_is_being_made_counts_as_taken() {
    let mut model = Model::new(18, 1, small());
    model.append(0, &[publish(1, 1, 300)]);
    model.settle();
    let segment = u64::from(small().segment_bytes);
    model.append(0, &[publish(1, 2, 20_000)]);
    model.submit();
    let makes = |op: &Op| matches!(op, Op::Create { .. });
    assert!(model.disk.waiting().iter().any(makes));
    model.log.set_free_disk(3 * segment - 1);
    assert!(model.log.room_for_publishes().is_none());
    model.settle();
    model.log.set_free_disk(3 * segment - 1);
    assert!(model.log.room_for_publishes().is_some());
}

/// Of the simulator's seed 705: the write of such an entry made its file longer, which ended the
/// node.
#[test]
fn an_entry_larger_than_a_segment_waits_for_room() {
    let segment = u64::from(small().segment_bytes);
    let large = 4 * small().segment_bytes;
    // Also where the next file is there already, of the usual size.
    for filled in [300, 20_000] {
        let mut model = Model::new(16, 1, small());
        model.append(0, &[publish(1, 1, filled)]);
        model.settle();
        let limit = model.disk.used_bytes() + 4 * segment - 1;
        model.disk.set_bytes_limit(limit);
        model.log.set_free_disk(model.disk.free_bytes());
        assert!(model.log.has_room_for(1000));
        assert!(!model.log.has_room_for(large as usize));
        model.append(0, &[publish(1, 2, large)]);
        model.submit();
        while model.complete() {}
        assert!(!model.log.has_room_for(1000), "what waits needs the room");
        assert_eq!(model.shards[0].persisted, 1);

        model.disk.set_bytes_limit(u64::MAX);
        model.log.set_free_disk(model.disk.free_bytes());
        model.settle();
        assert_eq!(model.shards[0].persisted, 2);
        assert!(model.log.has_room_for(large as usize));
        model.append(0, &[publish(1, 3, 300), publish(1, 4, large)]);
        model.settle();
        model.check_bodies();
        model.recover().expect("recovers");
        model.check_bodies();
    }
}

#[test]
fn a_failed_write_is_the_end() {
    let mut model = written(13);
    model.append(0, &[publish(1, 6, 300)]);
    model.submit();
    model.disk.set_failing(true);
    let completion = model.disk.complete_one().expect("answers");
    assert!(matches!(
        model.log.complete(completion),
        Err(Error::Disk {
            action: "write",
            ..
        })
    ));
}

#[test]
fn hard_states_come_back_unless_a_checkpoint_has_them() {
    let shard = ShardId(1);
    let state = |term| HardState {
        term: Term(term),
        vote: 9,
        commit: Index(term),
    };
    let mut model = Model::new(14, 1, small());
    model.log.append_hard_state(shard, state(3));
    model.settle();
    model.checkpoint_shard(shard);
    model.settle();
    model.log.append_hard_state(shard, state(4));
    model.settle();
    let mut recovery = Recovery::open(small(), &mut model.disk).expect("opens");
    let item = recovery.next(&mut model.disk).expect("reads");
    let expected = Item::HardState {
        shard,
        state: state(4),
    };
    assert_eq!(item, Some(expected));
    assert_eq!(recovery.next(&mut model.disk), Ok(None));
}

/// A log in which a leader of term 2 replaced all but the first of four entries of term 1, each of
/// `len` bytes, and then a checkpoint of all that there is.
fn replaced(seed: u64, len: usize) -> Model {
    let options = Options {
        checkpoint_bytes: u64::MAX,
        segments_target: 100,
        ..small()
    };
    let (shard, entry) = (ShardId(1), Bytes::from(vec![7; len]));
    let mut model = Model::new(seed, 1, options);
    for (index, term) in [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2)] {
        let log = &mut model.log;
        log.append_entry(shard, Term(term), Index(index), 0, &entry);
        model.settle();
    }
    model.log.checkpoint_begin(shard, Index(2), Term(2));
    model.log.checkpoint_finish();
    model.settle();
    model
}

#[test]
fn what_was_replaced_before_a_checkpoint_never_comes_back() {
    let mut model = replaced(18, 100);
    let mut recovery = Recovery::open(small(), &mut model.disk).expect("opens");
    assert_eq!(recovery.next(&mut model.disk), Ok(None));
    // What follows the checkpoint's entry does.
    let (shard, term) = (ShardId(1), Term(2));
    let entry = Bytes::from_static(b"the next one");
    model.log.append_entry(shard, term, Index(3), 0, &entry);
    model.settle();
    let mut recovery = Recovery::open(small(), &mut model.disk).expect("opens");
    let item = recovery.next(&mut model.disk).expect("reads");
    let next = |it: &Item| {
        matches!(
            it,
            Item::Entry {
                term: Term(2),
                index: Index(3),
                ..
            }
        )
    };
    assert!(item.as_ref().is_some_and(next), "{item:?}");
    assert_eq!(recovery.next(&mut model.disk), Ok(None));
}

#[test]
fn what_was_replaced_before_a_checkpoint_keeps_no_segment() {
    let model = replaced(19, 30_000);
    assert_eq!(model.log.status().segments, 1, "{:?}", model.log.status());
}

#[test]
fn memory_of_unlogged_shards_goes_with_its_last_reference() {
    let shard = ShardId::queues_of(NodeId(5));
    let mut log = Log::blank(small());
    let entry = Bytes::from(vec![7; 10_000]);
    let place = log.append_memory(entry.clone());
    let unused = log.append_memory(entry);
    for id in 0..10 {
        let place = place.plus(id * 1000);
        log.bodies(shard).retain(1, u64::from(id), place, 1000);
    }
    log.memory_applied(place);
    log.memory_applied(unused);
    let held = log.status().memory_bytes;
    assert!((10_000..11_000).contains(&held));
    for id in 2..10 {
        log.bodies(shard).release(place.plus(id * 1000), 1000);
    }
    // Two messages of a thousand bytes are less than a quarter of the entry.
    assert!(log.wants_copying());
    log.copy_survivors(|_, key, ids, out| {
        assert_eq!(key, 1);
        out.extend(
            (0..2)
                .filter(|id| ids.contains(id))
                .map(|id| crate::machine::LiveRef {
                    id,
                    place: place.plus(id as u32 * 1000),
                    len: 1000,
                }),
        );
    });
    let mut copies = Vec::new();
    while let Some(super::Event::Relocate(moved)) = log.pop_event() {
        let mut bodies = log.bodies(shard);
        bodies.retain(moved.key, moved.id, moved.to, 1000);
        bodies.release(moved.from, 1000);
        copies.push(moved.to);
    }
    log.submit(Instant(0), &mut Vec::new());
    assert_eq!(copies.len(), 2);
    assert!(log.status().memory_bytes < 2500);
    for copy in copies {
        assert_eq!(
            log.bodies(shard).get(copy, 1000),
            Some(vec![7; 1000].into())
        );
        log.bodies(shard).release(copy, 1000);
    }
    assert_eq!(log.status().memory_bytes, 0);
}

#[test]
fn a_simulated_disk_keeps_what_was_synced() {
    let mut disk = SimDisk::new(1);
    disk.put(FIRST, vec![1; 2000]);
    disk.crash();
    assert_eq!(disk.read(FIRST, 1990, 100).expect("reads").len(), 10);
}

#[test]
fn a_segments_number_never_comes_again() {
    let mut model = written(15);
    let id = ShardId(1);
    model.append(0, &(1..=5).map(|id| settle(1, id)).collect::<Vec<_>>());
    model.settle();
    model.checkpoint_shard(id);
    model.settle();
    let begun = model.log.tail().number();
    for file in model.disk.names() {
        if matches!(file, FileName::Segment(_)) {
            model.disk.remove(file).expect("removes");
        }
    }
    model.recover().expect("opens");
    assert!(model.log.tail().number() > begun);
}

#[test]
fn a_survivors_number_that_a_checkpoint_names_never_comes_again() {
    let mut model = Model::new(16, 1, small());
    let mut recovery = Recovery::open(small(), &mut model.disk).expect("opens");
    let place = crate::ids::Place {
        segment: SegmentId::survivor(8),
        offset: 5000,
    };
    // As from a checkpoint, and settled by an entry behind it.
    recovery.log().bodies(ShardId(1)).retain(1, 1, place, 10);
    recovery.log().bodies(ShardId(1)).release(place, 10);
    assert_eq!(recovery.next(&mut model.disk), Ok(None));
    model.log = recovery.finish();
    model.append(0, &[publish(1, 1, 700)]);
    for id in 1..=100 {
        model.append(0, &[publish(2, id, 2000), settle(2, id - 1)]);
        model.settle();
    }
    let moved = model.shards[0].queues[&1][&1].0.segment;
    assert_eq!(moved, SegmentId::survivor(9));
    model.check_bodies();
    model.disk.crash();
    model.recover().expect("opens");
    model.check_bodies();
}

#[test]
fn what_is_read_of_a_checkpoint_ends_with_it() {
    let id = ShardId(1);
    let mut model = written(17);
    model.checkpoint_shard(id);
    model.settle();
    let first = model.log.durable_checkpoint(id).expect("is there").number;
    let read = |model: &mut Model| {
        model.log.read_checkpoint(id, 0, 100);
        let mut ops = Vec::new();
        model.log.submit(model.now, &mut ops);
        let is_read = |op: &Op| matches!(op, Op::Read { .. });
        ops.into_iter().find(is_read).expect("reads").token()
    };
    let (seen, gone, late) = (read(&mut model), read(&mut model), read(&mut model));
    let answer = |model: &mut Model, token, result| {
        let completion = super::disk::Completion { token, result };
        let completed = model.log.complete(completion);
        (completed, model.log.pop_event().is_some())
    };
    let bytes = || Ok(super::disk::Data::Bytes(vec![1].into()));
    assert_eq!(answer(&mut model, seen, bytes()), (Ok(()), true));
    model.checkpoint_shard(id);
    model.settle();
    let second = model.log.durable_checkpoint(id).expect("is there").number;
    assert!(second > first);
    let missing = Err(super::disk::DiskError::Io("not there".to_owned()));
    assert_eq!(answer(&mut model, gone, missing.clone()), (Ok(()), false));
    assert_eq!(answer(&mut model, late, bytes()), (Ok(()), false));
    let newest = read(&mut model);
    assert!(answer(&mut model, newest, missing).0.is_err());
}

#[test]
fn the_log_of_a_replica_after_one_that_was_given_up_is_its_own() {
    let id = ShardId(1);
    let mut model = Model::new(19, 1, small());
    let entry = Bytes::from(vec![7; 1000]);
    let append = |model: &mut Model, term, index| {
        let log = &mut model.log;
        log.append_entry(id, Term(term), Index(index), 0, &entry);
        model.settle();
    };
    for index in 1..=5 {
        append(&mut model, 9, index);
    }
    model.log.give_up(id);
    model.log.checkpoint_begin(id, Index(0), Term(0));
    model.log.checkpoint_finish();
    model.settle();
    model.log.given_up(id);
    // Its entries begin anew, below where the other's ended, and keep their segments.
    let many = 2 * small().segment_bytes as u64 / 1000;
    for index in 1..=many {
        append(&mut model, 3, index);
    }
    let mut recovery = Recovery::open(small(), &mut model.disk).expect("opens");
    let read = |_, _: &[u8]| Ok::<(), String>(());
    let read = recovery.read_checkpoint(id, &mut model.disk, read);
    read.expect("reads");
    let mut found = 0;
    while let Some(item) = recovery.next(&mut model.disk).expect("reads") {
        if let Item::Entry { term, index, .. } = item {
            assert_eq!((term, index), (Term(3), Index(found + 1)));
            found += 1;
        }
    }
    assert_eq!(found, many);
}
