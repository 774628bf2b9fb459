//! What a client may say, out of the choices of a fuzzer: few names, so that methods meet.

use bytes::BytesMut;
use warren_protocol::methods::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicPublish, BasicQos, BasicRecover,
    BasicReject, ChannelClose, ChannelCloseOk, ChannelFlow, ChannelOpen, ConfirmSelect,
    ConnectionClose, ConnectionCloseOk, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
    ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind, QueueBind, QueueDeclare,
    QueueDelete, QueuePurge, QueueUnbind, TxCommit, TxRollback, TxSelect,
};
use warren_protocol::{
    FieldTable, FieldValue, LongStr, Method, Properties, ShortStr, Table, content, preamble,
};

use super::Choices;

const FRAME_MAX: u32 = 4096;

const QUEUES: [&str; 8] = [
    "q0",
    "q1",
    "q0",
    "q1",
    "q0",
    "q2",
    "amq.rabbitmq.reply-to",
    "",
];
const EXCHANGES: [&str; 8] = [
    "",
    "amq.direct",
    "amq.fanout",
    "amq.topic",
    "amq.headers",
    "",
    "amq.fanout",
    "e0",
];
const KEYS: [&str; 8] = ["q0", "q0", "q1", "q2", "a.b", "a.*", "#", "a.#.b"];
const KINDS: [&str; 6] = ["direct", "fanout", "topic", "headers", "x-unknown", ""];
const TAGS: [&str; 4] = ["", "c0", "c1", "c2"];
const PROPERTIES: [&str; 4] = ["", "amq.rabbitmq.reply-to", "10", "guest"];
const ARGUMENTS: [&str; 10] = [
    "x-match",
    "x-priority",
    "x-single-active-consumer",
    "x-queue-type",
    "x-expires",
    "x-max-priority",
    "x-message-ttl",
    "alternate-exchange",
    "CC",
    "a",
];

/// All that a client says until its first channels and queues are there, in one breath.
pub(crate) fn handshake(out: &mut BytesMut) {
    out.extend_from_slice(&preamble::PROTOCOL_HEADER);
    let start_ok = ConnectionStartOk {
        client_properties: Table::from_raw(&[]),
        mechanism: ShortStr::truncated("PLAIN"),
        response: LongStr(b"\0guest\0guest"),
        locale: ShortStr::truncated("en_US"),
    };
    start_ok.encode_frame(0, out);
    let tune_ok = ConnectionTuneOk {
        channel_max: 8,
        frame_max: FRAME_MAX,
        heartbeat: 0,
    };
    tune_ok.encode_frame(0, out);
    let virtual_host = ShortStr::truncated("/");
    ConnectionOpen { virtual_host }.encode_frame(0, out);
    ChannelOpen.encode_frame(1, out);
    ChannelOpen.encode_frame(2, out);
    for (queue, durable) in [("q0", true), ("q1", false)] {
        let declare = QueueDeclare {
            queue: ShortStr::truncated(queue),
            passive: false,
            durable,
            exclusive: false,
            auto_delete: false,
            nowait: true,
            arguments: Table::from_raw(&[]),
        };
        declare.encode_frame(1, out);
    }
}

/// What every client answers, so that one mistake does not end all that follows.
pub(crate) fn answer(method: &Method<'_>, channel: u16, out: &mut BytesMut) {
    match method {
        Method::ChannelClose(_) => {
            ChannelCloseOk.encode_frame(channel, out);
            ChannelOpen.encode_frame(channel, out);
        }
        Method::ChannelCloseOk(_) => ChannelOpen.encode_frame(channel, out),
        Method::ConnectionClose(_) => ConnectionCloseOk.encode_frame(0, out),
        _ => {}
    }
}

fn pick<'a>(choices: &mut Choices<'_>, names: &[&'a str]) -> ShortStr<'a> {
    ShortStr::truncated(names[choices.below(names.len())])
}

/// Some fields; mostly none.
fn arguments(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut table = FieldTable::new();
    for _ in 0..choices.below(8).saturating_sub(5) {
        let name = pick(choices, &ARGUMENTS).to_short_string();
        let text = |choices: &mut Choices<'_>| FieldValue::LongStr(choices.bytes().to_vec());
        let value = match choices.below(6) {
            0 => FieldValue::Bool(choices.flag()),
            1 => FieldValue::SignedInt(i32::from(choices.byte()) - 1),
            2 => FieldValue::Long(i64::MIN >> choices.below(64)),
            3 => FieldValue::Array(vec![text(choices), FieldValue::Void]),
            4 => FieldValue::LongStr(b"quorum".to_vec()),
            _ => text(choices),
        };
        table.0.push((name, value));
    }
    table.to_bytes()
}

/// One method, on channel 1 or 2 most of the time.
pub(crate) fn any(choices: &mut Choices<'_>, out: &mut BytesMut) {
    let channel = match choices.byte() {
        0 => 0,
        1 => 3,
        byte => 1 + u16::from(byte % 2),
    };
    match choices.below(36) {
        0..8 => publish(choices, channel, out),
        8..12 => settle(choices, channel, out),
        12..18 => consume(choices, channel, out),
        18..26 => declare(choices, channel, out),
        26..30 => bind(choices, channel, out),
        30..32 => transact(choices, channel, out),
        _ => arrange(choices, channel, out),
    }
}

fn publish(choices: &mut Choices<'_>, channel: u16, out: &mut BytesMut) {
    let publish = BasicPublish {
        exchange: pick(choices, &EXCHANGES),
        routing_key: pick(choices, &KEYS),
        mandatory: choices.flag(),
        immediate: choices.below(64) == 63,
    };
    publish.encode_frame(channel, out);
    let headers = arguments(choices);
    let mut editor = Properties::EMPTY.edit();
    if !headers.is_empty() {
        editor = editor.headers(Table::from_raw(&headers));
    }
    editor = match choices.below(8) {
        0 => editor.reply_to(pick(choices, &PROPERTIES)),
        1 => editor.expiration(pick(choices, &PROPERTIES)),
        2 => editor.user_id(pick(choices, &PROPERTIES)),
        3 => editor.delivery_mode(choices.byte()),
        _ => editor,
    };
    let body = vec![choices.byte(); choices.below(256) * choices.below(64)];
    let properties = editor.finish();
    let properties = Properties::from_raw(&properties);
    content::encode(out, channel, properties, &body, FRAME_MAX);
}

fn settle(choices: &mut Choices<'_>, channel: u16, out: &mut BytesMut) {
    let delivery_tag = choices.below(24) as u64;
    let (multiple, requeue) = (choices.flag(), choices.flag());
    match choices.below(4) {
        0 | 1 => BasicAck {
            delivery_tag,
            multiple,
        }
        .encode_frame(channel, out),
        2 => BasicNack {
            delivery_tag,
            multiple,
            requeue,
        }
        .encode_frame(channel, out),
        _ => BasicReject {
            delivery_tag,
            requeue,
        }
        .encode_frame(channel, out),
    }
}

fn consume(choices: &mut Choices<'_>, channel: u16, out: &mut BytesMut) {
    let queue = pick(choices, &QUEUES);
    match choices.below(6) {
        0..3 => {
            let arguments = arguments(choices);
            let consume = BasicConsume {
                queue,
                consumer_tag: pick(choices, &TAGS),
                no_local: choices.flag(),
                no_ack: choices.flag(),
                exclusive: choices.below(8) == 7,
                nowait: choices.flag(),
                arguments: Table::from_raw(&arguments),
            };
            consume.encode_frame(channel, out);
        }
        3 => BasicCancel {
            consumer_tag: pick(choices, &TAGS),
            nowait: choices.flag(),
        }
        .encode_frame(channel, out),
        _ => BasicGet {
            queue,
            no_ack: choices.flag(),
        }
        .encode_frame(channel, out),
    }
}

fn declare(choices: &mut Choices<'_>, channel: u16, out: &mut BytesMut) {
    let queue = pick(choices, &QUEUES);
    let exchange = pick(choices, &EXCHANGES);
    let (if_unused, if_empty) = (choices.flag(), choices.flag());
    let nowait = choices.below(4) == 3;
    let which = choices.below(8);
    let bytes = arguments(choices);
    let arguments = Table::from_raw(&bytes);
    match which {
        0..3 => QueueDeclare {
            queue,
            passive: choices.below(4) == 3,
            durable: choices.flag(),
            exclusive: choices.below(4) == 3,
            auto_delete: choices.below(4) == 3,
            nowait,
            arguments,
        }
        .encode_frame(channel, out),
        3 => QueueDelete {
            queue,
            if_unused,
            if_empty,
            nowait,
        }
        .encode_frame(channel, out),
        4 => QueuePurge { queue, nowait }.encode_frame(channel, out),
        5 => ExchangeDelete {
            exchange,
            if_unused,
            nowait,
        }
        .encode_frame(channel, out),
        _ => ExchangeDeclare {
            exchange,
            kind: pick(choices, &KINDS),
            passive: choices.below(4) == 3,
            durable: choices.flag(),
            auto_delete: choices.flag(),
            internal: choices.below(4) == 3,
            nowait,
            arguments,
        }
        .encode_frame(channel, out),
    }
}

fn bind(choices: &mut Choices<'_>, channel: u16, out: &mut BytesMut) {
    let queue = pick(choices, &QUEUES);
    let exchange = pick(choices, &EXCHANGES);
    let destination = pick(choices, &EXCHANGES);
    let routing_key = pick(choices, &KEYS);
    let nowait = choices.below(4) == 3;
    let which = choices.below(6);
    let bytes = arguments(choices);
    let arguments = Table::from_raw(&bytes);
    match which {
        0..3 => QueueBind {
            queue,
            exchange,
            routing_key,
            nowait,
            arguments,
        }
        .encode_frame(channel, out),
        3 => QueueUnbind {
            queue,
            exchange,
            routing_key,
            arguments,
        }
        .encode_frame(channel, out),
        4 => ExchangeBind {
            destination,
            source: exchange,
            routing_key,
            nowait,
            arguments,
        }
        .encode_frame(channel, out),
        _ => ExchangeUnbind {
            destination,
            source: exchange,
            routing_key,
            nowait,
            arguments,
        }
        .encode_frame(channel, out),
    }
}

fn transact(choices: &mut Choices<'_>, channel: u16, out: &mut BytesMut) {
    match choices.below(4) {
        0 => TxSelect.encode_frame(channel, out),
        1 | 2 => TxCommit.encode_frame(channel, out),
        _ => TxRollback.encode_frame(channel, out),
    }
}

fn arrange(choices: &mut Choices<'_>, channel: u16, out: &mut BytesMut) {
    let reply_text = ShortStr::truncated("bye");
    match choices.below(16) {
        0..4 => BasicQos {
            prefetch_size: u32::from(choices.below(32) == 31),
            prefetch_count: choices.below(4) as u16,
            global: choices.flag(),
        }
        .encode_frame(channel, out),
        4 | 5 => BasicRecover {
            requeue: choices.flag(),
        }
        .encode_frame(channel, out),
        6 | 7 => ConfirmSelect {
            nowait: choices.flag(),
        }
        .encode_frame(channel, out),
        8 => ChannelOpen.encode_frame(3, out),
        9..12 => ChannelClose {
            reply_code: 200,
            reply_text,
            class_id: 0,
            method_id: 0,
        }
        .encode_frame(channel, out),
        12 => ChannelCloseOk.encode_frame(channel, out),
        13 | 14 => ChannelFlow {
            active: choices.flag(),
        }
        .encode_frame(channel, out),
        _ => ConnectionClose {
            reply_code: 200,
            reply_text,
            class_id: 0,
            method_id: 0,
        }
        .encode_frame(0, out),
    }
}
