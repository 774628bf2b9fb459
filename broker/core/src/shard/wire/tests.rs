//! Everything that travels reads back, and nothing else is read.

use super::*;

const HOLDER: Holder = Holder {
    session: SessionId(3 << 48 | 7),
    number: 2,
};
const QUEUE: QueueId = QueueId(9);
const TOKEN: Token = Token(5);

fn attach() -> Attach {
    Attach {
        holder: HOLDER,
        queue: QUEUE,
        auto_ack: true,
        exclusive: false,
        priority: -3,
        prefetch: 10,
        window: Window {
            messages: 7,
            bytes: 1 << 40,
        },
        token: TOKEN,
    }
}

fn inputs() -> Vec<Input> {
    let (queue, holder, token) = (QUEUE, HOLDER, TOKEN);
    let asker = holder.session;
    let settle = |verdict| {
        Input::Settle(Settle {
            queue,
            holder,
            first: MessageId(1),
            last: MessageId(4),
            verdict,
        })
    };
    vec![
        Input::Close {
            queue,
            if_unused: true,
            if_empty: false,
            asker,
            token,
        },
        Input::Attach(attach()),
        Input::Detach {
            queue,
            holder,
            token,
        },
        Input::Gone { queue, holder },
        Input::Credit {
            queue,
            holder,
            messages: 3,
            bytes: 4,
        },
        settle(Verdict::Ack),
        settle(Verdict::Reject),
        settle(Verdict::Requeue { failed: false }),
        settle(Verdict::Requeue { failed: true }),
    ]
}

fn more_inputs() -> Vec<Input> {
    let (queue, holder, token) = (QUEUE, HOLDER, TOKEN);
    let asker = holder.session;
    vec![
        Input::SettleBarrier {
            session: asker,
            token,
        },
        Input::Get {
            queue,
            holder,
            auto_ack: true,
            token,
        },
        Input::Purge {
            queue,
            asker,
            token,
        },
        Input::Count {
            queue,
            asker,
            token,
        },
        Input::SessionGone { session: asker },
        Input::Claim(Claim {
            node: NodeId(3),
            seats: vec![
                ClaimedSeat {
                    queue,
                    holder,
                    consumer: Some(attach()),
                    held: vec![(1, 3), (7, 7)],
                },
                ClaimedSeat {
                    queue,
                    holder,
                    consumer: None,
                    held: Vec::new(),
                },
            ],
        }),
    ]
}

fn effects() -> Vec<Effect> {
    let (session, token, queue) = (HOLDER.session, TOKEN, QUEUE);
    let message = |id, bytes: &'static [u8]| Delivered {
        id: MessageId(id),
        redelivered: id % 2 == 0,
        delivery_count: 3,
        message: Bytes::from_static(bytes),
    };
    let reply = |reply| Effect::Reply {
        asker: session,
        token,
        reply,
    };
    let refused = |refusal| Effect::Refused {
        session,
        token,
        refusal,
    };
    let got = |message| Effect::Got {
        session,
        token,
        message,
        ready: 8,
    };
    vec![
        Effect::Deliver {
            session,
            number: 2,
            queue,
            messages: vec![message(1, b"one"), message(2, &[7; 4000])],
        },
        got(None),
        got(Some(message(4, b""))),
        Effect::Attached { session, token },
        refused(Refusal::NoQueue),
        refused(Refusal::ExclusiveUse),
        Effect::Detached { session, token },
        Effect::Cancelled {
            session,
            number: 2,
            queue,
        },
        Effect::Settled { session, token },
        reply(Reply::NoQueue),
        reply(Reply::Counts {
            ready: 1,
            unacked: 2,
            consumers: 3,
        }),
        reply(Reply::Purged { messages: 4 }),
        reply(Reply::Closed { messages: 5 }),
        reply(Reply::InUse),
        reply(Reply::NotEmpty),
    ]
}

fn bytes(write: impl FnOnce(&mut Parts)) -> Bytes {
    let mut parts = Parts::default();
    write(&mut parts);
    parts.into_bytes()
}

#[test]
fn inputs_read_back_and_nothing_that_is_cut_short_does() {
    for input in inputs().into_iter().chain(more_inputs()) {
        let bytes = bytes(|out| encode_input(&input, out));
        assert_eq!(decode_input(&bytes), Ok(input));
        for cut in 0..bytes.len() {
            assert!(decode_input(&bytes.slice(..cut)).is_err());
        }
    }
}

#[test]
fn effects_read_back_and_nothing_that_is_cut_short_does() {
    for effect in effects() {
        let bytes = bytes(|out| encode_effect(&effect, out));
        assert_eq!(decode_effect(&bytes), Ok(effect));
        for cut in 0..bytes.len() {
            assert!(decode_effect(&bytes.slice(..cut)).is_err());
        }
    }
}

#[test]
fn what_no_node_sends_is_refused() {
    for bytes in [&[0][..], &[13], &[255, 1], &[4, 0]] {
        assert!(decode_input(&Bytes::copy_from_slice(bytes)).is_err());
        assert!(decode_effect(&Bytes::copy_from_slice(bytes)).is_err());
    }
}
