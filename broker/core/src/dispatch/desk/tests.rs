//! What a desk keeps, and what it tells a new leader.

use warren_cluster_core::machine::Desk as _;

use super::*;
use crate::ids::MessageId;
use crate::shard::input::Window;

const QUEUE: QueueId = QueueId(7);
const HOLDER: Holder = Holder {
    session: SessionId(2 << 48 | 1),
    number: 4,
};
const NODE: NodeId = NodeId(2);

fn attach(auto_ack: bool, token: u64) -> Attach {
    Attach {
        holder: HOLDER,
        queue: QUEUE,
        auto_ack,
        exclusive: false,
        priority: 0,
        prefetch: 9,
        window: Window {
            messages: 100,
            bytes: 1000,
        },
        token: Token(token),
    }
}

fn deliver(ids: std::ops::RangeInclusive<u64>) -> Effect {
    let message = |id| Delivered {
        id: MessageId(id),
        redelivered: false,
        delivery_count: 0,
        message: Bytes::from_static(b"0123456789"),
    };
    Effect::Deliver {
        session: HOLDER.session,
        number: HOLDER.number,
        queue: QUEUE,
        messages: ids.map(message).collect(),
    }
}

fn settle(first: u64, last: u64, verdict: Verdict) -> Settle {
    Settle {
        queue: QUEUE,
        holder: HOLDER,
        first: MessageId(first),
        last: MessageId(last),
        verdict,
    }
}

fn attached(auto_ack: bool, careful: bool) -> (Desk, Input) {
    let mut desk = Desk::default();
    desk.claim(NODE, careful);
    let sent = desk.send(Seq(1), Input::Attach(attach(auto_ack, 1)));
    let answer = Effect::Attached {
        session: HOLDER.session,
        token: Token(1),
    };
    assert!(desk.receive(&answer, &mut Vec::new()));
    assert!(!desk.receive(&answer, &mut Vec::new()), "answered once");
    (desk, sent)
}

fn held(desk: &mut Desk) -> Vec<(u64, u64)> {
    let Some(Input::Claim(claim)) = desk.claim(NODE, true) else {
        panic!("a claim");
    };
    claim.seats.into_iter().flat_map(|seat| seat.held).collect()
}

#[test]
fn a_claim_tells_what_is_held_and_the_window_that_is_left() {
    let (mut desk, _) = attached(false, true);
    let mut inputs = Vec::new();
    assert!(desk.receive(&deliver(1..=5), &mut inputs));
    assert!(desk.receive(&deliver(9..=9), &mut inputs));
    assert!(inputs.is_empty());
    desk.send(Seq(2), Input::Settle(settle(2, 3, Verdict::Ack)));
    let requeue = settle(9, 9, Verdict::Requeue { failed: true });
    desk.send(Seq(3), Input::Settle(requeue));
    assert_eq!(held(&mut desk), [(1, 1), (2, 3), (4, 5)]);
    let Some(Input::Claim(claim)) = desk.claim(NODE, true) else {
        panic!("a claim");
    };
    let window = claim.seats[0].consumer.as_ref().map(|it| it.window);
    let left = Window {
        messages: 94,
        bytes: 940,
    };
    assert_eq!(window, Some(left));
    let again = [Input::Settle(settle(2, 3, Verdict::Ack))];
    assert_eq!(desk.take_unsettled(), again, "the log may not have it");
}

#[test]
fn what_is_settled_and_came_again_is_claimed_once() {
    let (mut desk, _) = attached(false, true);
    for _ in 0..2 {
        desk.receive(&deliver(1..=4), &mut Vec::new());
        desk.send(Seq(2), Input::Settle(settle(2, 3, Verdict::Ack)));
    }
    desk.receive(&deliver(3..=5), &mut Vec::new());
    assert_eq!(held(&mut desk), [(1, 1), (2, 3), (4, 5)]);
}

#[test]
fn what_is_paid_is_not_sent_again() {
    let (mut desk, _) = attached(false, true);
    desk.receive(&deliver(1..=2), &mut Vec::new());
    desk.send(Seq(2), Input::Settle(settle(1, 1, Verdict::Ack)));
    desk.send(Seq(3), Input::Settle(settle(2, 2, Verdict::Reject)));
    desk.paid(Seq(2));
    let again = [Input::Settle(settle(2, 2, Verdict::Reject))];
    assert_eq!(desk.take_unsettled(), again);
    assert_eq!(desk.take_unsettled(), []);
}

#[test]
fn what_settles_itself_is_settled_from_here_when_it_arrives() {
    let (mut desk, sent) = attached(true, true);
    let Input::Attach(sent) = sent else {
        panic!("an attach");
    };
    assert!(!sent.auto_ack);
    assert_eq!(sent.prefetch, 0);
    let mut inputs = Vec::new();
    assert!(desk.receive(&deliver(3..=5), &mut inputs));
    assert_eq!(inputs, [Input::Settle(settle(3, 5, Verdict::Ack))]);
    for input in inputs {
        desk.send(Seq(2), input);
    }
    assert_eq!(held(&mut desk), [(3, 5)], "until it is paid");
    desk.paid(Seq(2));
    assert_eq!(held(&mut desk), []);
    let (_, sent) = attached(true, false);
    assert_eq!(sent, Input::Attach(attach(true, 1)), "here the leader does");
}

#[test]
fn a_leader_that_is_not_alone_any_more_is_not_trusted_with_what_settles_itself() {
    let (mut desk, _) = attached(true, false);
    let mut inputs = Vec::new();
    assert!(desk.receive(&deliver(1..=2), &mut inputs));
    assert_eq!(inputs, [], "the leader settles it");
    desk.be_careful();
    assert!(desk.receive(&deliver(3..=5), &mut inputs));
    assert_eq!(inputs, [Input::Settle(settle(3, 5, Verdict::Ack))]);
    assert_eq!(held(&mut desk), [(3, 5)]);
}

#[test]
fn questions_are_asked_again_until_they_are_answered() {
    let mut desk = Desk::default();
    let count = |token| Input::Count {
        queue: QUEUE,
        asker: HOLDER.session,
        token: Token(token),
    };
    for token in 1..4 {
        desk.send(Seq(token), count(token));
    }
    let answer = Effect::Reply {
        asker: HOLDER.session,
        token: Token(2),
        reply: Reply::NoQueue,
    };
    assert!(desk.receive(&answer, &mut Vec::new()));
    assert_eq!(desk.take_unsettled(), [count(1), count(3)]);
    assert!(desk.is_idle());
}

#[test]
fn a_session_that_goes_takes_all_of_its_own_with_it() {
    let (mut desk, _) = attached(false, true);
    desk.receive(&deliver(1..=2), &mut Vec::new());
    let session = HOLDER.session;
    let count = Input::Count {
        queue: QUEUE,
        asker: session,
        token: Token(5),
    };
    desk.send(Seq(2), count);
    let barrier = Input::SettleBarrier {
        session,
        token: Token(6),
    };
    desk.send(Seq(3), barrier);
    desk.send(Seq(4), Input::SessionGone { session });
    let answer = Effect::Reply {
        asker: session,
        token: Token(5),
        reply: Reply::NoQueue,
    };
    assert!(desk.receive(&answer, &mut Vec::new()), "its operation ends");
    desk.paid(Seq(4));
    assert!(desk.is_idle());
    assert!(!desk.receive(&deliver(3..=3), &mut Vec::new()), "too late");
}

#[test]
fn that_a_consumer_went_is_told_to_a_new_leader_until_it_is_paid() {
    let detach = |token| Input::Detach {
        queue: QUEUE,
        holder: HOLDER,
        token: Token(token),
    };
    let (mut desk, _) = attached(false, true);
    desk.receive(&deliver(1..=1), &mut Vec::new());
    desk.send(Seq(2), detach(2));
    let answer = |token| Effect::Detached {
        session: HOLDER.session,
        token: Token(token),
    };
    assert!(desk.receive(&answer(2), &mut Vec::new()));
    let claimed = |desk: &mut Desk| {
        let Some(Input::Claim(claim)) = desk.claim(NODE, true) else {
            panic!("a claim");
        };
        let seat = claim.seats.into_iter().next();
        seat.map(|seat| (seat.consumer.map(|it| it.window.messages), seat.held))
    };
    let gone = Some((Some(0), vec![(1, 1)]));
    for seq in [3, 9] {
        assert_eq!(claimed(&mut desk), gone, "there, and wants nothing");
        assert_eq!(desk.take_unsettled(), [detach(0)]);
        desk.send(Seq(seq), detach(0));
        assert!(!desk.receive(&answer(0), &mut Vec::new()), "nobody asked");
    }
    desk.paid(Seq(8));
    assert!(desk.owes());
    desk.paid(Seq(9));
    assert!(!desk.owes());
    assert_eq!(claimed(&mut desk), Some((None, vec![(1, 1)])));
    let (mut desk, _) = attached(false, true);
    let session = HOLDER.session;
    desk.send(Seq(2), Input::SessionGone { session });
    assert_eq!(claimed(&mut desk), Some((Some(0), vec![])));
    assert_eq!(desk.take_unsettled(), [detach(0)]);
}

#[test]
fn when_the_leaders_node_is_gone_everybody_is_told_and_nothing_is_left() {
    let (mut desk, _) = attached(false, true);
    desk.receive(&deliver(1..=2), &mut Vec::new());
    desk.send(Seq(2), Input::Settle(settle(1, 1, Verdict::Ack)));
    let session = HOLDER.session;
    let get = Input::Get {
        queue: QUEUE,
        holder: Holder { session, number: 9 },
        auto_ack: true,
        token: Token(5),
    };
    desk.send(Seq(3), get);
    let told = desk.abandon();
    let answer = Effect::Reply {
        asker: session,
        token: Token(5),
        reply: Reply::NoQueue,
    };
    let cancelled = Effect::Cancelled {
        session,
        number: HOLDER.number,
        queue: QUEUE,
    };
    assert_eq!(told, [answer, cancelled]);
    assert!(desk.is_idle());
    assert_eq!(desk.take_unsettled(), []);
}
