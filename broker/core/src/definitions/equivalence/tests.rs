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
        arguments,
    }
}

fn none() -> FieldTable {
    FieldTable::new()
}

fn text_of(result: Result<(), Exception>) -> String {
    result.map_or_else(|error| error.text, |()| "ok".to_owned())
}

#[test]
fn queues_declared_again() {
    let classic = |flags| row(flags, QueueKind::Classic, none());
    let locale = || none().with("x-queue-leader-locator", "balanced");
    let ttl = |value: FieldValue| none().with("x-message-ttl", value);
    let quorum = || none().with("x-queue-type", "quorum");
    let cases = [
        (classic("d"), wanted("d", none()), "ok"),
        (classic("x"), wanted("x", none()), "ok"),
        (
            classic(""),
            wanted("", none().with("x-queue-type", "classic")),
            "ok",
        ),
        (classic("d"), wanted("d", none().with("x-mine", 1)), "ok"),
        (
            classic("d"),
            wanted("", none()),
            "durable: received 'false' but current is 'true'",
        ),
        (
            classic(""),
            wanted("da", none()),
            "durable: received 'true' but current is 'false'",
        ),
        (
            classic("d"),
            wanted("da", none()),
            "auto_delete: received 'true' but current is 'false'",
        ),
        (
            classic("d"),
            wanted("d", locale()),
            "x-queue-leader-locator: received the value 'balanced' of type 'longstr' \
             but current is none",
        ),
        (
            row("d", QueueKind::Classic, ttl(FieldValue::Long(10))),
            wanted("d", none()),
            "x-message-ttl: received none but current is the value '10' of type 'long'",
        ),
        (
            row("d", QueueKind::Classic, ttl(FieldValue::Long(10))),
            wanted("d", ttl(FieldValue::Byte(10))),
            "ok",
        ),
        (
            row("d", QueueKind::Classic, ttl(FieldValue::Long(10))),
            wanted("d", ttl(FieldValue::SignedInt(11))),
            "x-message-ttl: received '11' but current is '10'",
        ),
        (
            classic("d"),
            wanted("d", quorum()),
            "x-queue-type: received 'quorum' but current is 'classic'",
        ),
        (
            row("d", QueueKind::Quorum, quorum()),
            wanted("d", quorum()),
            "ok",
        ),
    ];
    for (present, wanted, expected) in cases {
        let session = Some(SessionId(7));
        let found = check_queue("/", &VhostRow::default(), &present, &wanted, session);
        let expected = match expected.split_once(": ") {
            Some((key, rest)) => {
                format!("inequivalent arg '{key}' for queue 'Q' in vhost '/': {rest}")
            }
            None => expected.to_owned(),
        };
        assert_eq!(text_of(found), expected);
    }
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

#[test]
fn arguments_of_new_queues() {
    let check = |flags: &str, arguments: FieldTable| {
        let wanted = wanted(flags, arguments);
        let result = arguments::check_queue("/", &VhostRow::default(), &wanted);
        result.map(|_| ()).map_err(|error| (error.code, error.text))
    };
    let invalid = |key: &'static str, value: FieldValue, reason: &str| {
        let text = format!("invalid arg '{key}' for queue 'Q' in vhost '/': {reason}");
        let expected = Err((ReplyCode::PreconditionFailed, text));
        assert_eq!(check("d", none().with(key, value)), expected);
    };
    invalid("x-expires", FieldValue::Byte(0), "{value_zero,0}");
    invalid("x-expires", FieldValue::Long(-1), "{value_negative,-1}");
    invalid("x-expires", "100".into(), "{unacceptable_type,longstr}");
    invalid("x-message-ttl", FieldValue::Long(-1), "{value_negative,-1}");
    let big = FieldValue::Long(EXPIRY_TOO_BIG);
    invalid(
        "x-message-ttl",
        big,
        &format!("{{value_too_big,{EXPIRY_TOO_BIG}}}"),
    );
    invalid("x-max-length", FieldValue::Long(-5), "{value_negative,-5}");
    invalid(
        "x-max-priority",
        FieldValue::Long(256),
        "{max_value_exceeded,256}",
    );
    invalid(
        "x-max-priority",
        FieldValue::Byte(-1),
        "{value_negative,-1}",
    );
    let no_exchange = "routing_key_but_no_dlx_defined";
    invalid("x-dead-letter-routing-key", "k".into(), no_exchange);
    invalid(
        "x-dead-letter-exchange",
        1.into(),
        "{unacceptable_type,signedint}",
    );
    invalid("x-overflow", "explode".into(), "invalid_overflow");
    invalid(
        "x-single-active-consumer",
        1.into(),
        "{unacceptable_type,signedint}",
    );
    invalid(
        "x-queue-type",
        "foo".into(),
        "\"unsupported queue type 'foo'\"",
    );
    invalid(
        "x-queue-leader-locator",
        "here".into(),
        "invalid_queue_locator_arg",
    );
    invalid("x-max-age", "7x".into(), "invalid_max_age");

    for key in [
        "x-expires",
        "x-message-ttl",
        "x-max-length",
        "x-max-priority",
    ] {
        let text = format!("argument '{key}' is not supported yet");
        let expected = Err((ReplyCode::NotImplemented, text));
        assert_eq!(check("d", none().with(key, 10)), expected);
    }
    let active = |value: bool| none().with("x-single-active-consumer", value);
    assert!(check("d", active(true)).is_err());
    assert_eq!(check("d", active(false)), Ok(()));
    assert_eq!(
        check("", none().with("x-mine", 1).with("foo", "bar")),
        Ok(())
    );
    let mode = none()
        .with("x-queue-mode", "lazy")
        .with("x-queue-version", 2);
    assert_eq!(check("d", mode), Ok(()));
}

const EXPIRY_TOO_BIG: i64 = 315_360_000_001;

#[test]
fn quorum_queues_and_streams() {
    let quorum = || none().with("x-queue-type", "quorum");
    let check = |flags: &str, arguments: FieldTable| {
        let wanted = wanted(flags, arguments);
        let result = arguments::check_queue("/", &VhostRow::default(), &wanted);
        result.map_err(|error| error.text)
    };
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

    let vhost = VhostRow {
        default_queue_type: "quorum".to_owned(),
        ..VhostRow::default()
    };
    let kind = |flags| queue_kind(&vhost, &wanted(flags, none()));
    assert_eq!(kind("d"), Ok(QueueKind::Quorum));
    assert_eq!(kind("dx"), Ok(QueueKind::Classic));
}
