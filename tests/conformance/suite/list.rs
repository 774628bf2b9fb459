//! The checks that every client runs, and what a client's API cannot express.

/// Every check, in the order in which it runs. Each client implements it under this name.
pub(crate) const CHECKS: &[&str] = &[
    // connection
    "connect_properties",
    "wrong_password",
    "unknown_vhost",
    "close_clean",
    "heartbeat_idle",
    "tune_limits",
    "many_channels",
    "blocked_capability",
    "channel_error_isolated",
    // queues
    "queue_declare",
    "queue_declare_passive",
    "queue_passive_missing",
    "reply_text_truncated",
    "queue_inequivalent",
    "queue_type_classic",
    "queue_server_named",
    "queue_reserved_name",
    "queue_exclusive_locked",
    "queue_exclusive_gone",
    "queue_auto_delete",
    "queue_purge_delete_counts",
    "queue_delete_if_unused",
    "queue_delete_if_empty",
    "queue_bind_unbind",
    "queue_bind_missing",
    // messages
    "publish_confirm",
    "publish_missing_exchange",
    "publish_immediate",
    "mandatory_return",
    "consume",
    "consume_missing_queue",
    "consumer_tag_generated",
    "consumer_tag_reuse",
    "ack",
    "ack_multiple",
    "ack_all",
    "nack_requeue",
    "nack_multiple",
    "reject",
    "redelivered",
    "recover",
    "unknown_delivery_tag",
    "get",
    "get_empty",
    "cancel",
    "consumer_cancel_notify",
    "consumer_exclusive",
    "consumer_priority",
    "qos_per_consumer",
    "qos_global",
    "body_large",
    "body_empty",
    "body_frame_boundaries",
    "properties_all",
    "expiration_expires",
    "header_types",
    "user_id_mismatch",
    "direct_reply_to",
    "direct_reply_to_refusals",
    "tx_publish",
    "tx_ack",
    "tx_refusals",
    // exchanges
    "exchange_default",
    "exchange_direct",
    "exchange_fanout",
    "exchange_topic",
    "exchange_headers",
    "exchange_headers_with_x",
    "exchange_headers_bad_match",
    "exchange_to_exchange",
    "alternate_exchange",
    "cc_bcc",
    "cc_not_an_array",
    "exchange_internal",
    "exchange_auto_delete",
    "exchange_inequivalent",
    "exchange_passive",
    "exchange_predeclared",
    "exchange_reserved_name",
    "exchange_default_forbidden",
    "exchange_delete",
];

/// (client, check): the client's API cannot say it, or the client stops it before the wire.
const CANNOT: &[(&str, &str)] = &[
    // It keeps the server's properties to itself (see `raw::server_properties`).
    ("lapin", "connect_properties"),
    // No `immediate` in its API.
    ("pika", "publish_immediate"),
    ("amqplib", "publish_immediate"),
    // They make the tag themselves.
    ("pika", "consumer_tag_generated"),
    ("amqp091-go", "consumer_tag_generated"),
    // They refuse a second use of a tag themselves.
    ("pika", "consumer_tag_reuse"),
    ("java", "consumer_tag_reuse"),
    // No transactions.
    ("amqplib", "tx_publish"),
    ("amqplib", "tx_ack"),
    ("amqplib", "tx_refusals"),
];

/// The checks that a client runs.
pub(crate) fn checks_of(client: &str) -> Vec<&'static str> {
    let cannot = |check: &str| CANNOT.contains(&(client, check));
    CHECKS
        .iter()
        .copied()
        .filter(|check| !cannot(check))
        .collect()
}
