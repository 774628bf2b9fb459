//! Checkpoints, restarts and copies: whatever way a shard came to an index, it is the same there.

use proptest::prelude::*;
use warren_cluster_core::ids::{Place, SegmentId};
use warren_cluster_core::machine::{Bodies, Machine};

use crate::ids::{Holder, MessageId, QueueId, SessionId, Token};

use super::input::{Attach, Input, QueueConfig, Settle, Verdict, Window};
use super::rig::Rig;
use super::{Shard, ShardOptions};

#[derive(Clone, Debug)]
enum Action {
    Publish {
        queues: u8,
        messages: u16,
    },
    Create {
        queue: u8,
    },
    Drop {
        queue: u8,
    },
    Close {
        queue: u8,
    },
    Attach {
        queue: u8,
        window: u16,
    },
    Settle {
        queue: u8,
        first: u16,
        more: u16,
        ack: bool,
    },
    Purge {
        queue: u8,
    },
    Commit,
    Begin,
    Slice {
        budget: u32,
    },
}

fn step() -> impl Strategy<Value = Action> {
    let queue = 0u8..4;
    prop_oneof![
        4 => (1u8..16, prop_oneof![3 => 1u16..9, 1 => 500u16..1500])
            .prop_map(|(queues, messages)| Action::Publish { queues, messages }),
        2 => queue.clone().prop_map(|queue| Action::Create { queue }),
        1 => queue.clone().prop_map(|queue| Action::Drop { queue }),
        1 => queue.clone().prop_map(|queue| Action::Close { queue }),
        3 => (queue.clone(), prop_oneof![0u16..9, Just(2000u16)])
            .prop_map(|(queue, window)| Action::Attach { queue, window }),
        4 => (queue.clone(), 0u16..3000, prop_oneof![0u16..9, Just(900u16)], any::<bool>())
            .prop_map(|(queue, first, more, ack)| Action::Settle { queue, first, more, ack }),
        1 => queue.prop_map(|queue| Action::Purge { queue }),
        5 => Just(Action::Commit),
        1 => Just(Action::Begin),
        4 => (1u32..40_000).prop_map(|budget| Action::Slice { budget }),
    ]
}

fn queue_of(number: u8) -> QueueId {
    QueueId(u64::from(number) + 1)
}

fn play(rig: &mut Rig, attached: &mut u32, step: &Action) {
    let (asker, token) = (SessionId(9), Token(0));
    let holder = |number| Holder {
        session: SessionId(1),
        number,
    };
    match *step {
        Action::Publish { queues, messages } => publish(rig, queues, messages),
        Action::Create { queue } => rig.input(Input::Create {
            queue: queue_of(queue),
            config: QueueConfig {
                auto_delete: queue == 3,
                options: bytes::Bytes::from_static(b"options"),
            },
        }),
        Action::Drop { queue } => rig.input(Input::Drop {
            queue: queue_of(queue),
        }),
        Action::Close { queue } => rig.input(Input::Close {
            queue: queue_of(queue),
            if_unused: false,
            if_empty: queue == 2,
            asker,
            token,
        }),
        Action::Attach { queue, window } => {
            *attached += 1;
            rig.input(Input::Attach(Attach {
                holder: holder(*attached),
                queue: queue_of(queue),
                auto_ack: false,
                exclusive: false,
                priority: 0,
                prefetch: 0,
                window: Window {
                    messages: u32::from(window),
                    bytes: 1 << 30,
                },
                token,
            }));
        }
        Action::Settle {
            queue,
            first,
            more,
            ack,
        } => {
            for number in 1..=*attached {
                rig.input(Input::Settle(Settle {
                    queue: queue_of(queue),
                    holder: holder(number),
                    first: MessageId(u64::from(first)),
                    last: MessageId(u64::from(first) + u64::from(more)),
                    verdict: if ack {
                        Verdict::Ack
                    } else {
                        Verdict::Requeue { failed: true }
                    },
                }));
            }
        }
        Action::Purge { queue } => rig.input(Input::Purge {
            queue: queue_of(queue),
            asker,
            token,
        }),
        Action::Commit => rig.commit(),
        Action::Begin | Action::Slice { .. } => {}
    }
}

fn publish(rig: &mut Rig, queues: u8, messages: u16) {
    let queues = (0..4).filter(|queue| queues & (1 << queue) != 0);
    let queues: Vec<_> = queues.map(queue_of).collect();
    for _ in 0..messages {
        rig.publish(&queues, b"body");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(warren_break = "fuzzy_checkpoint", ignore = "this is what it breaks")]
    fn a_checkpoint_and_the_rest_of_the_log_make_the_same_state(
        steps in prop::collection::vec(step(), 1..80),
        rotate in any::<prop::sample::Index>(),
    ) {
        let mut rig = Rig::new(true);
        let mut attached = 0;
        let mut begun = 0;
        let mut whole = None;
        for step in &steps {
            match step {
                Action::Begin if rig.saving.is_none() => {
                    rig.begin_checkpoint();
                    begun = rig.applied;
                }
                Action::Slice { budget } => {
                    if let Some(chunks) = rig.step_checkpoint(*budget as usize) {
                        whole = Some((chunks, begun));
                    }
                }
                step => play(&mut rig, &mut attached, step),
            }
        }
        rig.commit();
        while rig.saving.is_some() {
            if let Some(chunks) = rig.step_checkpoint(1000) {
                whole = Some((chunks, begun));
            }
        }
        let dump = rig.dump();
        let held = rig.store.held.clone();
        rig.restart(&[], 0);
        prop_assert_eq!(&rig.dump(), &dump, "the log alone");
        prop_assert_eq!(&rig.store.held, &held);
        if let Some((mut chunks, begun)) = whole {
            let middle = rotate.index(chunks.len());
            chunks.rotate_left(middle);
            rig.restart(&chunks, begun);
            prop_assert_eq!(&rig.dump(), &dump, "checkpoint and log");
            prop_assert_eq!(&rig.store.held, &held);
        }
    }

    #[test]
    fn any_chunk_is_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        tag in 0u8..5,
    ) {
        let mut shard = Shard::new(ShardOptions { logged: true });
        let _ = shard.restore(&[&[1, tag][..], &bytes].concat());
        let _ = shard.restore(&bytes);
    }
}

#[test]
fn a_checkpoint_that_lacks_a_chunk_is_refused() {
    let mut rig = Rig::new(true);
    let config = QueueConfig::default();
    for number in 0..4 {
        let queue = queue_of(number);
        let config = config.clone();
        rig.input(Input::Create { queue, config });
    }
    rig.commit();
    for _ in 0..3000 {
        rig.publish(&[queue_of(0), queue_of(3)], b"body");
    }
    rig.commit();
    rig.begin_checkpoint();
    let chunks = loop {
        if let Some(chunks) = rig.step_checkpoint(1) {
            break chunks;
        }
    };
    for missing in 0..=chunks.len() {
        let mut shard = Shard::new(ShardOptions { logged: true });
        for (number, chunk) in chunks.iter().enumerate() {
            if number != missing {
                shard.restore(chunk).expect("own chunks can be read");
            }
        }
        let restored = shard.restored(&mut rig.store);
        assert_eq!(
            restored.is_ok(),
            missing == chunks.len(),
            "without chunk {missing}"
        );
        let again = shard
            .restore(&chunks[0])
            .and_then(|()| shard.restore(&chunks[0]));
        assert!(again.is_err(), "the head comes once");
    }
}

/// A queue goes when a part of its blocks is written: the next queue is written from its first.
#[test]
fn a_queue_that_goes_while_it_is_written_takes_nothing_with_it() {
    let mut rig = Rig::new(true);
    let [first, second] = [queue_of(0), queue_of(1)];
    for queue in [first, second] {
        let config = QueueConfig::default();
        rig.input(Input::Create { queue, config });
    }
    rig.commit();
    for _ in 0..3000 {
        rig.publish(&[first, second], b"body");
    }
    rig.commit();
    rig.begin_checkpoint();
    let begun = rig.applied;
    for _ in 0..3 {
        assert!(rig.step_checkpoint(1).is_none(), "there is more to write");
    }
    rig.input(Input::Drop { queue: first });
    rig.commit();
    let chunks = loop {
        if let Some(chunks) = rig.step_checkpoint(1000) {
            break chunks;
        }
    };
    let dump = rig.dump();
    rig.restart(&chunks, begun);
    assert_eq!(rig.dump(), dump);
}

#[test]
fn survivors_are_named_and_moved() {
    let mut rig = Rig::new(true);
    let queue = queue_of(0);
    let config = QueueConfig::default();
    rig.input(Input::Create { queue, config });
    for _ in 0..5 {
        rig.publish(&[queue], b"body");
    }
    rig.commit();
    let mut live = Vec::new();
    rig.shard.live(queue.0, 2..=3, &mut live);
    assert_eq!(live.iter().map(|live| live.id).collect::<Vec<_>>(), [2, 3]);
    rig.shard.live(7, 0..=u64::MAX, &mut live);
    assert_eq!(live.len(), 2, "no such queue");

    let from = live[0].place;
    let to = Place {
        segment: SegmentId::survivor(1),
        offset: 64,
    };
    let shard = &mut rig.shard;
    shard.relocate(queue.0, 2, to, from, &mut rig.store);
    shard.relocate(queue.0, 99, from, to, &mut rig.store);
    assert!(
        rig.store.held.contains_key(&(from, live[0].len)),
        "nothing was there"
    );
    shard.relocate(queue.0, 2, from, to, &mut rig.store);
    assert!(!rig.store.held.contains_key(&(from, live[0].len)));
    assert!(rig.store.held.contains_key(&(to, live[0].len)));
    rig.store.release(to, live[0].len);
    assert_eq!(rig.store.held.len(), 4);
}

#[test]
fn empty_queues_are_small() {
    let slots = size_of::<Option<super::slots::Slot>>();
    // The index: a key, a slot number and a control byte, at most two times over.
    assert!(slots + 2 * 17 <= 200, "{slots} bytes and its index");
}

/// What this build writes is what version 1 is: builds to come must read these files.
/// `UPDATE_EXPECT=1` at compile time writes them anew (with a new version number only).
#[test]
fn formats_stay_as_they_are() {
    let mut rig = Rig::new(true);
    let mut attached = 0;
    for action in [
        Action::Create { queue: 0 },
        Action::Create { queue: 3 },
        Action::Attach {
            queue: 0,
            window: 5,
        },
        Action::Publish {
            queues: 9,
            messages: 9,
        },
        Action::Commit,
        Action::Settle {
            queue: 0,
            first: 2,
            more: 1,
            ack: true,
        },
        Action::Settle {
            queue: 0,
            first: 4,
            more: 0,
            ack: false,
        },
        Action::Purge { queue: 0 },
        Action::Close { queue: 3 },
        Action::Commit,
    ] {
        play(&mut rig, &mut attached, &action);
    }
    rig.input(Input::SettleBarrier {
        session: SessionId(1),
        token: Token(2),
    });
    rig.commit();
    let entries: Vec<_> = rig.log.iter().map(|entry| entry.payload.to_vec()).collect();
    assert_eq!(fixture("commands-1.hex", &entries), entries);
    rig.begin_checkpoint();
    let chunks = rig.step_checkpoint(100_000).expect("small");
    let read = fixture("checkpoint-1.hex", &chunks);
    assert_eq!(read, chunks);
    let (dump, applied) = (rig.dump(), rig.applied);
    rig.restart(&read, applied);
    assert_eq!(rig.dump(), dump);
}

/// The lines of a file of `testdata`, in hexadecimal.
fn fixture(name: &str, lines: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/shard/testdata");
    let path = folder.join(name);
    if option_env!("UPDATE_EXPECT").is_some() {
        let digits = |line: &Vec<u8>| line.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<String> = lines.iter().map(digits).collect();
        update(&path, &(lines.join("\n") + "\n"));
    }
    let text = std::fs::read_to_string(&path).expect("the fixture is in the tree");
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hexadecimal digits");
        u8::from_str_radix(pair, 16).expect("hexadecimal digits")
    };
    let line = |line: &str| line.as_bytes().chunks(2).map(byte).collect();
    text.lines().map(line).collect()
}

#[allow(clippy::disallowed_methods)] // writes into the tree when asked to
fn update(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).expect("the tree can be written to");
}
