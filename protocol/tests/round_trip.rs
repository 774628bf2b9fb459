//! What is encoded decodes to the same, for tables, properties, content and the hot encoders; and
//! no bytes whatever make a decoder panic.

use bytes::BytesMut;
use proptest::prelude::*;
use warren_protocol::limits::{FRAME_END, FRAME_MAX_BYTES_MIN};
use warren_protocol::methods::{BasicAck, BasicDeliver, BasicGetOk, BasicNack, BasicReturn};
use warren_protocol::{
    ContentHeader, FieldTable, FieldValue, FrameKind, Method, Properties, Property, ShortStr,
    ShortString, Table, content, frame, hot, preamble,
};

const FRAME_MAX: u32 = FRAME_MAX_BYTES_MIN;

fn short_string() -> impl Strategy<Value = ShortString> {
    prop::collection::vec(any::<u8>(), 0..=255)
        .prop_map(|bytes| ShortString::try_from(&bytes[..]).expect("at most 255 bytes"))
}

fn field_value() -> impl Strategy<Value = FieldValue> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        any::<bool>().prop_map(FieldValue::Bool),
        any::<i8>().prop_map(FieldValue::Byte),
        any::<u8>().prop_map(FieldValue::UnsignedByte),
        any::<i16>().prop_map(FieldValue::Short),
        any::<u16>().prop_map(FieldValue::UnsignedShort),
        any::<i32>().prop_map(FieldValue::SignedInt),
        any::<u32>().prop_map(FieldValue::UnsignedInt),
        any::<i64>().prop_map(FieldValue::Long),
        any::<u32>().prop_map(|bits| FieldValue::Float(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| FieldValue::Double(f64::from_bits(bits))),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| FieldValue::Decimal { scale, value }),
        bytes().prop_map(FieldValue::LongStr),
        bytes().prop_map(FieldValue::Binary),
        any::<u64>().prop_map(FieldValue::Timestamp),
        Just(FieldValue::Void),
    ];
    leaf.prop_recursive(6, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(FieldValue::Array),
            prop::collection::vec((short_string(), inner), 0..5)
                .prop_map(|fields| FieldValue::Table(FieldTable(fields))),
        ]
    })
}

fn field_table() -> impl Strategy<Value = FieldTable> {
    prop::collection::vec((short_string(), field_value()), 0..6).prop_map(FieldTable)
}

/// Raw properties with the fields of `flags` set.
fn properties() -> impl Strategy<Value = Vec<u8>> {
    (any::<u16>(), field_table(), short_string(), any::<u64>()).prop_map(
        |(flags, headers, text, number)| {
            let (all, text) = (Properties::EMPTY.edit(), text.as_short_str());
            let mut editor = all
                .content_type(text)
                .content_encoding(text)
                .headers_from(&headers)
                .delivery_mode(number as u8)
                .priority((number >> 8) as u8)
                .correlation_id(text)
                .reply_to(text)
                .expiration(text)
                .message_id(text)
                .timestamp(number)
                .message_type(text)
                .user_id(text)
                .app_id(text)
                .cluster_id(text);
            for property in Property::ALL {
                if flags & property.flag() == 0 {
                    editor = editor.remove(property);
                }
            }
            editor.finish()
        },
    )
}

/// All frames of `bytes`, which hold nothing else.
fn frames(mut bytes: &[u8]) -> Vec<(FrameKind, u16, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((frame, len)) = frame::parse(bytes, FRAME_MAX).expect("valid frames") {
        frames.push((frame.kind, frame.channel, frame.payload.to_vec()));
        bytes = &bytes[len..];
    }
    assert!(bytes.is_empty(), "bytes behind the last frame");
    frames
}

proptest! {
    #[test]
    fn tables_round_trip(table in field_table()) {
        let raw = table.to_bytes();
        let borrowed = Table::from_raw(&raw);
        prop_assert_eq!(borrowed.validate(), Ok(()));
        let again = borrowed.to_field_table().expect("valid");
        prop_assert_eq!(again.to_bytes(), raw.clone());
        prop_assert_eq!(&again, &table);
        for cut in 0..raw.len() {
            // A cut between two fields is a shorter table, anywhere else it is an error.
            let fields = Table::from_raw(&raw[..cut]).to_field_table();
            prop_assert!(fields.is_err() || fields.is_ok_and(|fields| fields.len() < table.len()));
        }
    }

    #[test]
    fn properties_round_trip_and_edits_touch_one_field(
        raw in properties(),
        text in short_string(),
        which in 0..Property::ALL.len(),
    ) {
        let old = Properties::from_raw(&raw);
        prop_assert_eq!(old.validate(), Ok(()));
        prop_assert_eq!(old.edit().finish(), raw.clone());
        let which = Property::ALL[which];
        let removed = old.edit().remove(which).finish();
        let replaced = old.edit().reply_to(text.as_short_str()).finish();
        let (removed, replaced) = (Properties::from_raw(&removed), Properties::from_raw(&replaced));
        prop_assert_eq!(removed.validate(), Ok(()));
        prop_assert_eq!(replaced.validate(), Ok(()));
        prop_assert_eq!(replaced.reply_to(), Some(text.as_short_str()));
        for property in Property::ALL {
            let field = old.raw_field(property);
            prop_assert_eq!(field.is_some(), old.has(property));
            let kept = if property == which { None } else { field };
            prop_assert_eq!(removed.raw_field(property), kept);
            if property != Property::ReplyTo {
                prop_assert_eq!(replaced.raw_field(property), field);
            }
        }
        for cut in 1..raw.len() {
            prop_assert!(Properties::from_raw(&raw[..cut]).validate().is_err());
        }
    }

    #[test]
    fn content_round_trips(
        raw in properties(),
        body in prop::collection::vec(any::<u8>(), 0..10_000),
        channel in any::<u16>(),
    ) {
        let properties = Properties::from_raw(&raw);
        let mut out = BytesMut::new();
        content::encode(&mut out, channel, properties, &body, 1 << 20);
        let (header, _) = frame::parse(&out, 1 << 20).expect("valid").expect("whole");
        let header = ContentHeader::parse(header.payload).expect("valid");
        prop_assert_eq!(header.properties, properties);
        prop_assert_eq!(header.body_size, body.len() as u64);
        let mut by_reference = BytesMut::new();
        header.encode_frame(channel, &mut by_reference);
        for part in content::body_frames(channel, body.len(), 1 << 20) {
            by_reference.extend_from_slice(&part.head);
            by_reference.extend_from_slice(&body[part.range]);
            by_reference.extend_from_slice(&[FRAME_END]);
        }
        prop_assert_eq!(by_reference, out);
    }

    #[test]
    fn hot_deliveries_are_the_tables_deliveries(
        names in (short_string(), short_string(), short_string()),
        delivery_tag in any::<u64>(),
        redelivered in any::<bool>(),
        channel in any::<u16>(),
        body in prop::collection::vec(any::<u8>(), 0..10_000),
    ) {
        let (consumer_tag, exchange, routing_key) = &names;
        let (exchange, routing_key) = (exchange.as_short_str(), routing_key.as_short_str());
        let consumer_tag = consumer_tag.as_short_str();
        let deliver = hot::Deliver {
            consumer_tag: consumer_tag.as_bytes(),
            delivery_tag,
            redelivered,
            exchange: exchange.as_bytes(),
            routing_key: routing_key.as_bytes(),
        };
        let method =
            BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key };
        let properties = Properties::EMPTY;
        let mut expected = BytesMut::from(&b"before"[..]);
        method.encode_frame(channel, &mut expected);
        let mut out = BytesMut::from(&b"before"[..]);
        hot::encode_deliver(&mut out, channel, &deliver);
        prop_assert_eq!(&out, &expected);

        content::encode(&mut expected, channel, properties, &body, FRAME_MAX);
        let mut out = BytesMut::from(&b"before"[..]);
        hot::encode_delivery(&mut out, channel, &deliver, properties, &body, FRAME_MAX);
        prop_assert_eq!(&out, &expected);

        let mut out = BytesMut::from(&b"before"[..]);
        hot::encode_delivery_head(&mut out, channel, &deliver, properties, body.len());
        prop_assert_eq!(&expected[..out.len()], &out[..]);
        let parts = frames(&expected[6..]);
        let sent: Vec<u8> = parts[2..].iter().flat_map(|(_, _, part)| part.clone()).collect();
        prop_assert_eq!(sent, body);
    }

    #[test]
    fn the_other_hot_encoders_are_the_tables_too(
        names in (short_string(), short_string(), short_string()),
        delivery_tag in any::<u64>(),
        bits in (any::<bool>(), any::<bool>()),
        numbers in (any::<u16>(), any::<u32>()),
        channel in any::<u16>(),
    ) {
        let (reply_text, exchange, routing_key) = &names;
        let (exchange, routing_key) = (exchange.as_short_str(), routing_key.as_short_str());
        let reply_text = reply_text.as_short_str();
        let (reply_code, message_count) = numbers;
        let (multiple, requeue) = bits;
        let mut out = BytesMut::new();
        let mut expected = BytesMut::new();
        hot::encode_ack(&mut out, channel, delivery_tag, multiple);
        BasicAck { delivery_tag, multiple }.encode_frame(channel, &mut expected);
        hot::encode_nack(&mut out, channel, delivery_tag, multiple, requeue);
        BasicNack { delivery_tag, multiple, requeue }.encode_frame(channel, &mut expected);
        let get_ok = hot::GetOk {
            delivery_tag,
            redelivered: multiple,
            exchange: exchange.as_bytes(),
            routing_key: routing_key.as_bytes(),
            message_count,
        };
        hot::encode_get_ok(&mut out, channel, &get_ok);
        let redelivered = multiple;
        BasicGetOk { delivery_tag, redelivered, exchange, routing_key, message_count }
            .encode_frame(channel, &mut expected);
        let returned = hot::Return {
            reply_code,
            reply_text: reply_text.as_bytes(),
            exchange: exchange.as_bytes(),
            routing_key: routing_key.as_bytes(),
        };
        hot::encode_return(&mut out, channel, &returned);
        BasicReturn { reply_code, reply_text, exchange, routing_key }
            .encode_frame(channel, &mut expected);
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        ids in prop::sample::select(vec![0x3c_0028_u32, 0x32_000a, 0x0a_000b, 0x3c_0050]),
    ) {
        let _ = preamble::parse(&bytes);
        let _ = frame::parse(&bytes, FRAME_MAX);
        let _ = frame::bytes_needed(&bytes);
        let _ = Method::parse(&bytes).map(|method| method.to_string());
        let known = [&ids.to_be_bytes()[..], &bytes].concat();
        let _ = hot::parse(&known);
        let _ = Method::parse(&known).map(|method| method.to_string());
        let _ = ContentHeader::parse(&bytes);
        let _ = Table::from_raw(&bytes).to_field_table();
        for field in Table::from_raw(&bytes) {
            let _ = field.map(|(name, value)| (name.as_str().is_ok(), value.as_i64()));
        }
        for mask in [0xffff_u16, 0xfffc, 0x2000, 0] {
            let flags = mask.to_be_bytes();
            let raw = [&flags[..], &bytes].concat();
            let properties = Properties::from_raw(&raw);
            let _ = properties.validate();
            let _ = properties.edit().finish();
            let _ = (properties.headers(), properties.timestamp(), properties.cluster_id());
        }
    }
}

#[test]
fn a_short_string_too_long_for_the_wire_is_refused_where_it_is_made() {
    assert!(ShortStr::new(&[0; 256]).is_err());
}
