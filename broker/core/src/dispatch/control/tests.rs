//! Operations against real rows and a real topology; shards answer as if queues were empty.

use std::sync::Arc;

use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::rows::{Rows, Transaction, Write};
use warren_protocol::{FieldTable, FieldValue, ReplyCode, ShortString};

use super::*;
use crate::definitions::{
    PermissionKey, PermissionRow, Store, UserKey, UserRow, VhostKey, VhostRow,
};
use crate::dispatch::operation::{Bind, DeclareExchange, DeclareQueue, DestinationKind};
use crate::dispatch::work::Item;
use crate::shard::input::Input;

struct World {
    topology: Topology,
    replicated: Rows,
    local: Rows,
    /// What shards were asked, for tests to look at.
    asked: Vec<Input>,
    draws: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            topology: Topology::new(1),
            replicated: Rows::default(),
            local: Rows::default(),
            asked: Vec::new(),
            draws: 0,
        };
        let put = |row, value| Write::Put { row, value };
        let (user, vhost) = ("u", "/");
        let all = || ".*".to_owned();
        let grant = PermissionRow {
            configure: all(),
            write: "^(q|e|amq)".into(),
            read: all(),
        };
        let writes = vec![
            put(
                VhostKey { name: vhost }.encode(),
                VhostRow::default().encode(),
            ),
            put(UserKey { name: user }.encode(), UserRow::default().encode()),
            put(PermissionKey { user, vhost }.encode(), grant.encode()),
        ];
        world.transact(
            ShardId::DEFINITIONS,
            &Transaction {
                preconditions: vec![],
                writes,
            },
        );
        world
    }

    fn transact(&mut self, shard: ShardId, transaction: &Transaction) -> Committed {
        let store = Store::of_shard(shard).expect("a rows shard");
        let rows = match store {
            Store::Replicated => &mut self.replicated,
            Store::Local => &mut self.local,
        };
        let mut changes = Vec::new();
        let committed = rows.transact(transaction, &mut changes);
        self.topology.apply(store, &changes).expect("our own rows");
        committed
    }

    /// Runs an operation to its end.
    fn run(&mut self, session: u64, operation: Operation) -> Result<Answer, Exception> {
        let actor = Actor {
            user: Arc::from("u"),
            vhost: Arc::from("/"),
            session: Some(SessionId(session)),
        };
        let token = Token(7);
        let mut work = Work::default();
        self.draws += 1;
        let mut progress = Control::start(
            operation,
            &actor,
            &scene(&self.topology, self.draws),
            token,
            &mut work,
        );
        loop {
            let control = match progress {
                Progress::Done(result) => return result,
                Progress::Waiting(control) => control,
            };
            let response = self
                .carry_out(&mut work)
                .expect("a waiting operation asked something");
            progress = control.resume(response, &scene(&self.topology, self.draws), &mut work);
        }
    }

    fn carry_out(&mut self, work: &mut Work) -> Option<Response> {
        let mut response = None;
        for item in work.items.drain(..) {
            match item {
                Item::Transact {
                    shard,
                    transaction,
                    wait,
                } => {
                    let committed = self.transact(shard, &transaction);
                    if wait.ticket().is_some() {
                        response = Some(Response::Committed(committed));
                    }
                }
                Item::Ask { input, .. } => {
                    response = reply(&input).map(Response::Reply);
                    self.asked.push(input);
                }
                Item::Propose { .. } | Item::CatchUp { .. } | Item::Reply(_) => {
                    panic!("operations publish nothing")
                }
            }
        }
        response
    }

    fn end_session(&mut self, session: u64) {
        let mut work = Work::default();
        end_session(&self.topology, SessionId(session), Token(7), &mut work);
        self.carry_out(&mut work);
    }

    fn vhost(&self) -> &Vhost {
        self.topology.vhost("/").expect("made at first")
    }

    fn has_queue(&self, name: &str) -> bool {
        self.vhost().queue(name.as_bytes()).is_some()
    }

    fn has_exchange(&self, name: &str) -> bool {
        self.vhost().exchange(name.as_bytes()).is_some()
    }
}

fn scene(topology: &Topology, random: u64) -> Scene<'_> {
    let home = Home {
        node: NodeId(1),
        incarnation: 2,
    };
    Scene {
        topology,
        random,
        shards: 4,
        home,
    }
}

fn reply(input: &Input) -> Option<Reply> {
    match input {
        Input::Count { .. } => Some(Reply::Counts {
            ready: 0,
            unacked: 0,
            consumers: 0,
        }),
        Input::Close {
            if_unused: true, ..
        } => Some(Reply::InUse),
        Input::Close { .. } => Some(Reply::Closed { messages: 3 }),
        Input::Purge { .. } => Some(Reply::Purged { messages: 5 }),
        _ => None,
    }
}

fn queue(name: &str, durable: bool, exclusive: bool) -> Operation {
    Operation::DeclareQueue(DeclareQueue {
        name: name.into(),
        passive: false,
        durable,
        exclusive,
        auto_delete: false,
        arguments: FieldTable::default(),
    })
}

fn passive(name: &str) -> Operation {
    let Operation::DeclareQueue(declare) = queue(name, false, false) else {
        unreachable!()
    };
    Operation::DeclareQueue(DeclareQueue {
        passive: true,
        ..declare
    })
}

fn exchange(name: &str, kind: &str, auto_delete: bool) -> Operation {
    Operation::DeclareExchange(DeclareExchange {
        name: name.into(),
        kind: kind.into(),
        passive: false,
        durable: true,
        auto_delete,
        internal: false,
        arguments: FieldTable::default(),
    })
}

fn bind(source: &str, destination: &str, kind: DestinationKind) -> Bind {
    Bind {
        source: source.into(),
        destination: destination.into(),
        destination_kind: kind,
        routing_key: b"k".to_vec(),
        arguments: FieldTable::default(),
    }
}

fn declared(result: Result<Answer, Exception>) -> String {
    match result {
        Ok(Answer::QueueDeclared { name, .. }) => String::from_utf8(name).expect("text"),
        other => panic!("not declared: {other:?}"),
    }
}

fn refused(result: Result<Answer, Exception>) -> (u16, String) {
    let exception = result.expect_err("must be refused");
    (exception.code.code(), exception.text)
}

#[test]
fn a_declared_queue_is_there_and_its_second_declare_counts() {
    let mut world = World::new();
    assert_eq!(declared(world.run(1, queue("q\r\n1", true, false))), "q1");
    assert!(world.has_queue("q1"));
    assert!(world.asked.is_empty(), "a new queue has nothing to count");
    assert_eq!(declared(world.run(2, queue("q1", true, false))), "q1");
    assert!(matches!(world.asked[..], [Input::Count { .. }]));
    let (code, text) = refused(world.run(1, queue("q1", false, false)));
    assert_eq!(code, 406);
    assert_eq!(
        text,
        "inequivalent arg 'durable' for queue 'q1' in vhost '/': \
         received 'false' but current is 'true'"
    );
    let (code, text) = refused(world.run(1, passive("nothing")));
    assert_eq!(
        (code, text.as_str()),
        (404, "no queue 'nothing' in vhost '/'")
    );
}

#[test]
fn server_names_differ_and_take_a_prefix() {
    let mut world = World::new();
    let first = declared(world.run(1, queue("", false, true)));
    let second = declared(world.run(1, queue("", false, true)));
    assert!(
        first.starts_with("amq.gen-") && first.len() == 30,
        "{first}"
    );
    assert_ne!(first, second);
    let Operation::DeclareQueue(mut declare) = queue("", false, true) else {
        unreachable!()
    };
    declare.arguments.set(
        ShortString::try_from("x-name-prefix").expect("short"),
        FieldValue::LongStr(b"mine"[..].into()),
    );
    let third = declared(world.run(1, Operation::DeclareQueue(declare)));
    assert!(third.starts_with("mine-"), "{third}");
    let (code, text) = refused(world.run(1, queue("amq.x", true, false)));
    assert_eq!(code, 403);
    assert_eq!(text, "queue name 'amq.x' contains reserved prefix 'amq.*'");
}

#[test]
fn an_exclusive_queue_is_its_sessions_alone_and_goes_with_it() {
    let mut world = World::new();
    declared(world.run(1, queue("q", false, true)));
    let (code, text) = refused(world.run(2, passive("q")));
    assert_eq!(code, 405);
    assert!(text.starts_with("cannot obtain exclusive access to locked queue 'q' in vhost '/'."));
    declared(world.run(1, passive("q")));
    world
        .run(1, exchange("e", "fanout", true))
        .expect("declared");
    world
        .run(1, Operation::Bind(bind("e", "q", DestinationKind::Queue)))
        .expect("bound");
    world.end_session(1);
    assert!(!world.has_queue("q"));
    assert!(
        !world.has_exchange("e"),
        "auto-delete: its last binding went"
    );
    assert_eq!(world.vhost().bindings().count(), 0);
    assert_eq!(world.topology.tombstones().count(), 1);
}

#[test]
fn deleting_takes_bindings_and_auto_delete_exchanges_along() {
    let mut world = World::new();
    declared(world.run(1, queue("q", true, false)));
    world
        .run(1, exchange("e1", "topic", true))
        .expect("declared");
    world
        .run(1, exchange("e2", "topic", true))
        .expect("declared");
    world
        .run(
            1,
            Operation::Bind(bind("e1", "e2", DestinationKind::Exchange)),
        )
        .expect("bound");
    world
        .run(1, Operation::Bind(bind("e2", "q", DestinationKind::Queue)))
        .expect("bound");
    let delete = |if_unused| Operation::DeleteQueue {
        name: b"q".to_vec(),
        if_unused,
        if_empty: false,
    };
    let (code, text) = refused(world.run(1, delete(true)));
    assert_eq!(
        (code, text.as_str()),
        (406, "queue 'q' in vhost '/' in use")
    );
    assert_eq!(
        world.run(1, delete(false)),
        Ok(Answer::QueueDeleted { messages: 3 })
    );
    assert_eq!(
        world.run(1, delete(false)),
        Ok(Answer::QueueDeleted { messages: 0 })
    );
    assert!(!world.has_exchange("e2") && !world.has_exchange("e1"));
    assert_eq!(world.vhost().bindings().count(), 0);
}

#[test]
fn unbinding_what_is_not_bound_is_fine_and_missing_ends_are_not() {
    let mut world = World::new();
    declared(world.run(1, queue("q", true, false)));
    let to_queue = |source, name| bind(source, name, DestinationKind::Queue);
    assert_eq!(
        world.run(1, Operation::Unbind(to_queue("amq.topic", "q"))),
        Ok(Answer::Done)
    );
    let (code, text) = refused(world.run(1, Operation::Bind(to_queue("e0", "q"))));
    assert_eq!(
        (code, text.as_str()),
        (404, "no exchange 'e0' in vhost '/'")
    );
    let (code, _) = refused(world.run(1, Operation::Bind(to_queue("amq.topic", "q0"))));
    assert_eq!(code, 404);
    let (code, text) = refused(world.run(1, Operation::Bind(to_queue("", "q"))));
    assert_eq!(
        (code, text.as_str()),
        (403, "operation not permitted on the default exchange")
    );
    let (code, text) = refused(world.run(1, Operation::Bind(to_queue("amq.topic", "x"))));
    assert_eq!(code, 403);
    assert_eq!(
        text,
        "write access to queue 'x' in vhost '/' refused for user 'u'"
    );
}

#[test]
fn exchanges_keep_rabbitmqs_rules() {
    let mut world = World::new();
    let (code, text) = refused(world.run(1, exchange("e", "sideways", false)));
    assert_eq!(
        (code, text.as_str()),
        (406, "unknown exchange type 'sideways'")
    );
    let (code, text) = refused(world.run(1, exchange("amq.new", "direct", false)));
    assert_eq!(code, 403);
    assert_eq!(
        text,
        "exchange name 'amq.new' contains reserved prefix 'amq.*'"
    );
    assert_eq!(
        world.run(1, exchange("amq.topic", "topic", false)),
        Ok(Answer::Done)
    );
    let delete = |name: &str, if_unused| Operation::DeleteExchange {
        name: name.into(),
        if_unused,
    };
    let (code, text) = refused(world.run(1, delete("amq.topic", false)));
    assert_eq!(code, 403);
    assert_eq!(
        text,
        "deletion of system exchange 'amq.topic' in vhost '/' not allowed"
    );
    assert_eq!(world.run(1, delete("none", false)), Ok(Answer::Done));
    world
        .run(1, exchange("e", "direct", false))
        .expect("declared");
    declared(world.run(1, queue("q", true, false)));
    world
        .run(1, Operation::Bind(bind("e", "q", DestinationKind::Queue)))
        .expect("bound");
    let (code, text) = refused(world.run(1, delete("e", true)));
    assert_eq!(
        (code, text.as_str()),
        (406, "exchange 'e' in vhost '/' in use")
    );
    assert_eq!(world.run(1, delete("e", false)), Ok(Answer::Done));
    assert!(!world.has_exchange("e") && world.has_queue("q"));
    assert_eq!(world.vhost().bindings().count(), 0);
}

#[test]
fn a_lost_race_is_tried_again_on_what_won() {
    let mut world = World::new();
    let actor = Actor {
        user: Arc::from("u"),
        vhost: Arc::from("/"),
        session: None,
    };
    let mut work = Work::default();
    let before = world.topology.clone();
    let declare = queue("q", true, false);
    let Progress::Waiting(slow) =
        Control::start(declare, &actor, &scene(&before, 1), Token(9), &mut work)
    else {
        panic!("a declare waits for its rows");
    };
    declared(world.run(1, queue("q", true, false)));
    let response = world.carry_out(&mut work).expect("a transaction");
    assert!(matches!(
        response,
        Response::Committed(Committed::Conflict { .. })
    ));
    let Progress::Waiting(slow) = slow.resume(response, &scene(&world.topology, 1), &mut work)
    else {
        panic!("the winner's queue is counted");
    };
    let response = world.carry_out(&mut work).expect("counts");
    let Progress::Done(result) = slow.resume(response, &scene(&world.topology, 1), &mut work)
    else {
        panic!("nothing is left to wait for");
    };
    assert_eq!(declared(result), "q");
    let refused = Control::start(
        passive("q"),
        &actor,
        &scene(&world.topology, 1),
        Token(1),
        &mut work,
    );
    assert!(matches!(refused, Progress::Waiting(_)));
    assert_eq!(unavailable().code, ReplyCode::InternalError);
}

#[test]
fn two_deletes_at_once_both_end_well() {
    let mut world = World::new();
    declared(world.run(1, queue("q", true, false)));
    let actor = Actor {
        user: Arc::from("u"),
        vhost: Arc::from("/"),
        session: Some(SessionId(2)),
    };
    let delete = || Operation::DeleteQueue {
        name: b"q".to_vec(),
        if_unused: false,
        if_empty: false,
    };
    let mut work = Work::default();
    let started = Control::start(
        delete(),
        &actor,
        &scene(&world.topology, 1),
        Token(9),
        &mut work,
    );
    let Progress::Waiting(slow) = started else {
        panic!("the leader is asked");
    };
    let closed = world.carry_out(&mut work).expect("closed");
    let Progress::Waiting(slow) = slow.resume(closed, &scene(&world.topology, 1), &mut work) else {
        panic!("the rows go");
    };
    assert_eq!(
        world.run(1, delete()),
        Ok(Answer::QueueDeleted { messages: 3 })
    );
    let conflict = world.carry_out(&mut work).expect("a transaction");
    let Progress::Done(result) = slow.resume(conflict, &scene(&world.topology, 1), &mut work)
    else {
        panic!("the queue is gone");
    };
    assert_eq!(result, Ok(Answer::QueueDeleted { messages: 3 }));
    assert_eq!(world.topology.tombstones().count(), 1);
}

/// Its row is still there when its name is declared again: that is no reason to say that there is
/// no such queue.
#[test]
fn a_declare_makes_way_for_itself_when_the_queue_is_closed() {
    let mut world = World::new();
    declared(world.run(1, queue("q", true, false)));
    let old = world.vhost().queue(b"q").expect("declared").id();
    let actor = Actor {
        user: Arc::from("u"),
        vhost: Arc::from("/"),
        session: Some(SessionId(2)),
    };
    let mut work = Work::default();
    let begin = |operation, work: &mut Work, world: &World| {
        Control::start(
            operation,
            &actor,
            &scene(&world.topology, 1),
            Token(9),
            work,
        )
    };
    let finish = |mut waits: Control, world: &mut World, work: &mut Work| {
        work.items.clear();
        let mut response = Response::Reply(Reply::Closed { messages: 0 });
        loop {
            match waits.resume(response, &scene(&world.topology, 1), work) {
                Progress::Waiting(next) => waits = next,
                Progress::Done(result) => return result,
            }
            response = world.carry_out(work).expect("it waits for something");
        }
    };
    let Progress::Waiting(waits) = begin(queue("q", true, false), &mut work, &world) else {
        panic!("the leader is asked");
    };
    let answer = finish(waits, &mut world, &mut work);
    assert_eq!(declared(answer), "q");
    let new = world.vhost().queue(b"q").expect("declared").id();
    assert_ne!(old, new);
    assert_eq!(world.topology.tombstones().count(), 1);
    // Who only looks is told that it is not there when nothing leads to it any more.
    let Progress::Waiting(looks) = begin(passive("q"), &mut work, &world) else {
        panic!("the leader is asked");
    };
    let answer = finish(looks, &mut world, &mut work);
    assert_eq!(refused(answer).0, 404);
    assert!(world.vhost().queue(b"q").is_none());
}
