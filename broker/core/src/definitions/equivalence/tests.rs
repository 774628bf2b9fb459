//! Declarations and the texts that answer them, as tables.

use warren_cluster_core::ids::{NodeId, ShardId};
use warren_protocol::table::FieldTable;

use super::*;
use crate::definitions::{ExchangeKind, Owner, QueueKind, arguments};

fn wanted(flags: &str, arguments: FieldTable) -> DeclareQueue {
    DeclareQueue {
        name: b"Q".to_vec(),
        passive: false,
        durable: flags.contains('d'),
        exclusive: flags.contains('x'),
        auto_delete: flags.contains('a'),
        arguments,
    }
}

fn row(flags: &str, kind: QueueKind, arguments: FieldTable) -> QueueRow {
    let owner = Owner {
        session: SessionId(7),
        node: NodeId(1),
        incarnation: 1,
    };
    QueueRow {
        kind,
        durable: flags.contains('d'),
        auto_delete: flags.contains('a'),
        owner: flags.contains('x').then(|| Box::new(owner)),
        shard: ShardId(1),
        created: None,
        home: None,
        arguments,
    }
}

fn none() -> FieldTable {
    FieldTable::new()
}

fn text_of(result: Result<(), Exception>) -> String {
    result.map_or_else(|error| error.text, |()| "ok".to_owned())
}

/// Declares a queue again; `expected` is `ok`, or the key that differs and the end of the text.
fn check_again(present: &QueueRow, wanted: &DeclareQueue, expected: &str) {
    let session = Some(SessionId(7));
    let found = check_queue("/", &VhostRow::default(), present, wanted, session);
    let expected = match expected.split_once(": ") {
        Some((key, rest)) => {
            format!("inequivalent arg '{key}' for queue 'Q' in vhost '/': received {rest}")
        }
        None => expected.to_owned(),
    };
    assert_eq!(text_of(found), expected);
}

#[test]
fn queues_declared_again() {
    let check = |present, again, arguments, expected| {
        let present = row(present, QueueKind::Classic, none());
        check_again(&present, &wanted(again, arguments), expected);
    };
    check("d", "d", none(), "ok");
    check("x", "x", none(), "ok");
    check("", "", none().with("x-queue-type", "classic"), "ok");
    check("d", "d", none().with("x-mine", 1), "ok");
    check("d", "", none(), "durable: 'false' but current is 'true'");
    check("", "da", none(), "durable: 'true' but current is 'false'");
    check(
        "d",
        "da",
        none(),
        "auto_delete: 'true' but current is 'false'",
    );
    let quorum = none().with("x-queue-type", "quorum");
    check(
        "d",
        "d",
        quorum,
        "x-queue-type: 'quorum' but current is 'classic'",
    );
    let locator = none().with("x-queue-leader-locator", "balanced");
    let expected = "x-queue-leader-locator: the value 'balanced' of type 'longstr' \
                    but current is none";
    check("d", "d", locator, expected);
}

#[test]
fn queues_declared_again_with_arguments() {
    let ttl = |value: FieldValue| none().with("x-message-ttl", value);
    let present = row("d", QueueKind::Classic, ttl(FieldValue::Long(10)));
    let check = |arguments, expected| check_again(&present, &wanted("d", arguments), expected);
    let missing = "x-message-ttl: none but current is the value '10' of type 'long'";
    check(none(), missing);
    check(ttl(FieldValue::Byte(10)), "ok");
    check(
        ttl(FieldValue::SignedInt(11)),
        "x-message-ttl: '11' but current is '10'",
    );
    let quorum = || none().with("x-queue-type", "quorum");
    let present = row("d", QueueKind::Quorum, quorum());
    check_again(&present, &wanted("d", quorum()), "ok");
}

#[test]
fn exclusive_queues_are_their_connections_alone() {
    let cases = [
        ("x", "x", Some(7), true),
        ("x", "x", Some(8), false),
        ("x", "", Some(7), false),
        ("", "x", Some(7), false),
        ("", "", None, true),
        ("x", "", None, false),
        ("", "x", None, false),
    ];
    for (present, again, session, good) in cases {
        let present = row(present, QueueKind::Classic, none());
        let wanted = wanted(again, none());
        let session = session.map(SessionId);
        let result = check_queue("/", &VhostRow::default(), &present, &wanted, session);
        let locked = result.is_err_and(|error| error.code == ReplyCode::ResourceLocked);
        assert_eq!(!locked, good, "{present:?} {wanted:?}");
    }
    let exclusive = row("x", QueueKind::Classic, none());
    assert!(check_exclusive("/", b"Q", &exclusive, Some(SessionId(7))).is_ok());
    let text = text_of(check_exclusive("/", b"Q", &exclusive, Some(SessionId(8))));
    assert_eq!(
        text,
        "cannot obtain exclusive access to locked queue 'Q' in vhost '/'. It could be originally \
         declared on another connection or the exclusive property value does not match that of \
         the original declaration."
    );
}

#[test]
fn exchanges_declared_again() {
    let present = ExchangeRow {
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
        internal: false,
        home: None,
        arguments: none().with("alternate-exchange", "ae").with("x-other", 1),
    };
    let same = DeclareExchange {
        name: b"X".to_vec(),
        kind: b"topic".to_vec(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: none().with("alternate-exchange", "ae"),
    };
    assert_eq!(check_exchange("/", &present, &same), Ok(()));
    let direct = DeclareExchange {
        kind: b"direct".to_vec(),
        ..same.clone()
    };
    let internal = DeclareExchange {
        internal: true,
        ..same.clone()
    };
    let other = DeclareExchange {
        arguments: none().with("alternate-exchange", "b"),
        ..same.clone()
    };
    let without = DeclareExchange {
        arguments: none(),
        ..same
    };
    let cases = [
        (direct, "type", "'direct' but current is 'topic'"),
        (internal, "internal", "'true' but current is 'false'"),
        (other, "alternate-exchange", "'b' but current is 'ae'"),
        (
            without,
            "alternate-exchange",
            "none but current is the value 'ae' of type 'longstr'",
        ),
    ];
    for (wanted, key, rest) in cases {
        assert_eq!(
            text_of(check_exchange("/", &present, &wanted)),
            format!("inequivalent arg '{key}' for exchange 'X' in vhost '/': received {rest}")
        );
    }
}

/// The answer to a new queue with these arguments.
fn check_new(flags: &str, arguments: FieldTable) -> Result<QueueKind, (ReplyCode, String)> {
    let result = arguments::check_queue("/", &VhostRow::default(), &wanted(flags, arguments));
    result.map_err(|error| (error.code, error.text))
}

#[test]
fn values_that_arguments_do_not_take() {
    let cases: &[(&'static str, FieldValue, &str)] = &[
        ("x-expires", FieldValue::Byte(0), "{value_zero,0}"),
        ("x-expires", FieldValue::Long(-1), "{value_negative,-1}"),
        ("x-expires", "100".into(), "{unacceptable_type,longstr}"),
        ("x-message-ttl", FieldValue::Long(-1), "{value_negative,-1}"),
        (
            "x-message-ttl",
            FieldValue::Long(TEN_YEARS + 1),
            "{value_too_large,315360000001}",
        ),
        ("x-max-length", FieldValue::Long(-5), "{value_negative,-5}"),
        (
            "x-max-priority",
            FieldValue::Long(256),
            "{max_value_exceeded,256}",
        ),
        (
            "x-max-priority",
            FieldValue::Byte(-1),
            "{value_negative,-1}",
        ),
        (
            "x-dead-letter-routing-key",
            "k".into(),
            "routing_key_but_no_dlx_defined",
        ),
        (
            "x-dead-letter-exchange",
            1.into(),
            "{unacceptable_type,signedint}",
        ),
        ("x-overflow", "explode".into(), "invalid_overflow"),
        (
            "x-single-active-consumer",
            1.into(),
            "{unacceptable_type,signedint}",
        ),
        (
            "x-queue-type",
            "foo".into(),
            "\"unsupported queue type 'foo'\"",
        ),
        (
            "x-queue-leader-locator",
            "here".into(),
            "invalid_queue_locator_arg",
        ),
        ("x-max-age", "7x".into(), "invalid_max_age"),
    ];
    for (key, value, reason) in cases {
        let text = format!("invalid arg '{key}' for queue 'Q' in vhost '/': {reason}");
        let expected = Err((ReplyCode::PreconditionFailed, text));
        assert_eq!(check_new("d", none().with(key, value.clone())), expected);
    }
}

#[test]
fn arguments_are_refused_or_accepted_but_never_ignored() {
    for key in [
        "x-expires",
        "x-message-ttl",
        "x-max-length",
        "x-max-priority",
    ] {
        let text = format!("argument '{key}' is not supported yet");
        let expected = Err((ReplyCode::NotImplemented, text));
        assert_eq!(check_new("d", none().with(key, 10)), expected);
    }
    let active = |value: bool| none().with("x-single-active-consumer", value);
    assert!(check_new("d", active(true)).is_err());
    assert_eq!(check_new("d", active(false)), Ok(QueueKind::Classic));
    let unknown = none().with("x-mine", 1).with("foo", "bar");
    assert_eq!(check_new("", unknown), Ok(QueueKind::Classic));
    let mode = none()
        .with("x-queue-mode", "lazy")
        .with("x-queue-version", 2);
    assert_eq!(check_new("d", mode), Ok(QueueKind::Classic));
}

/// The longest time that is allowed, in milliseconds.
const TEN_YEARS: i64 = 315_360_000_000;

#[test]
fn quorum_queues_and_streams() {
    let quorum = || none().with("x-queue-type", "quorum");
    let check = |flags: &str, arguments| check_new(flags, arguments).map_err(|(_, text)| text);
    assert_eq!(check("d", quorum()), Ok(QueueKind::Quorum));
    let size = quorum().with("x-quorum-initial-group-size", 3);
    assert_eq!(check("d", size), Ok(QueueKind::Quorum));
    let wrong = |name| {
        Err(format!(
            "invalid property '{name}' for queue 'Q' in vhost '/'"
        ))
    };
    assert_eq!(check("", quorum()), wrong("non-durable"));
    assert_eq!(check("dx", quorum()), wrong("exclusive-owner"));
    assert_eq!(check("da", quorum()), wrong("auto-delete"));
    let lazy = quorum().with("x-queue-mode", "lazy");
    let text = "invalid arg 'x-queue-mode' for queue 'Q' in vhost '/' \
                of queue type rabbit_quorum_queue";
    assert_eq!(check("d", lazy), Err(text.to_owned()));
    let stream = none().with("x-queue-type", "stream");
    let text = "queue type 'stream' is not supported yet";
    assert_eq!(check("d", stream), Err(text.to_owned()));

    let named = "Cannot declare a server-named queue for type rabbit_quorum_queue";
    let server_named = arguments::check_server_named(&VhostRow::default(), &wanted("d", quorum()));
    assert_eq!(
        server_named.map_err(|error| error.text),
        Err(named.to_owned())
    );

    let vhost = VhostRow {
        default_queue_type: "quorum".to_owned(),
        ..VhostRow::default()
    };
    let kind = |flags| queue_kind(&vhost, &wanted(flags, none()));
    assert_eq!(kind("d"), Ok(QueueKind::Quorum));
    assert_eq!(kind("dx"), Ok(QueueKind::Classic));
}
