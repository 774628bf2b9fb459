//! Every type letter by its bytes, and each way in which a table can be malformed.

use super::*;
use crate::ShortString;

fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut raw = vec![name.len() as u8];
    raw.extend(name.as_bytes());
    raw.extend(value);
    raw
}

#[test]
fn every_type_letter_reads_and_writes_its_bytes() {
    let cases: Vec<(&[u8], FieldValue)> = vec![
        (b"t\x01", FieldValue::Bool(true)),
        (b"t\x00", FieldValue::Bool(false)),
        (b"b\xff", FieldValue::Byte(-1)),
        (b"B\xff", FieldValue::UnsignedByte(255)),
        (b"s\xff\xfe", FieldValue::Short(-2)),
        (b"u\xff\xfe", FieldValue::UnsignedShort(65534)),
        (b"I\xff\xff\xff\xfd", FieldValue::SignedInt(-3)),
        (b"i\xff\xff\xff\xfd", FieldValue::UnsignedInt(4_294_967_293)),
        (b"l\xff\xff\xff\xff\xff\xff\xff\xfc", FieldValue::Long(-4)),
        (b"f\x3f\x80\x00\x00", FieldValue::Float(1.0)),
        (
            b"d\x3f\xf0\x00\x00\x00\x00\x00\x00",
            FieldValue::Double(1.0),
        ),
        (
            b"D\x02\x00\x00\x00\x64",
            FieldValue::Decimal {
                scale: 2,
                value: 100,
            },
        ),
        (b"S\x00\x00\x00\x02hi", FieldValue::from("hi")),
        (
            b"x\x00\x00\x00\x02\x00\xff",
            FieldValue::Binary(vec![0, 255]),
        ),
        (
            b"T\x00\x00\x00\x00\x65\x53\xf1\x00",
            FieldValue::Timestamp(1_700_000_000),
        ),
        (
            b"A\x00\x00\x00\x03t\x01V",
            FieldValue::Array(vec![FieldValue::Bool(true), FieldValue::Void]),
        ),
        (
            b"F\x00\x00\x00\x04\x01kb\x07",
            FieldValue::Table(FieldTable::from_iter([(
                ShortString::try_from("k").expect("short"),
                FieldValue::Byte(7),
            )])),
        ),
        (b"V", FieldValue::Void),
    ];
    for (raw, value) in cases {
        let content = field("name", raw);
        let table = Table::from_raw(&content);
        let owned = table.to_field_table().expect("valid");
        assert_eq!(owned.get("name"), Some(&value));
        assert_eq!(owned.to_bytes(), content, "{value:?}");
        let borrowed = table.get(b"name").expect("valid").expect("there");
        assert_eq!(borrowed.type_name(), value.type_name());
        assert_eq!(borrowed.as_i64(), value.as_i64());
    }
}

#[test]
fn other_spellings_are_normalised_as_rabbitmq_does() {
    let raw = [
        field("l", b"L\x00\x00\x00\x00\x00\x00\x00\x05"),
        field("t", b"t\x09"),
    ]
    .concat();
    let owned = Table::from_raw(&raw).to_field_table().expect("valid");
    assert_eq!(owned, FieldTable::new().with("l", 5_i64).with("t", true));
    let expected = [
        field("l", b"l\x00\x00\x00\x00\x00\x00\x00\x05"),
        field("t", b"t\x01"),
    ];
    assert_eq!(owned.to_bytes(), expected.concat());
}

#[test]
fn each_malformed_table_has_its_error() {
    let check = |raw: &[u8], expected: TableError| {
        let table = Table::from_raw(raw);
        assert_eq!(table.validate(), Err(expected), "{raw:?}");
        assert_eq!(table.to_field_table(), Err(expected), "{raw:?}");
    };
    check(b"\x05abc", TableError::Truncated);
    check(b"\x01a", TableError::Truncated);
    check(b"\x01aI\x00\x00", TableError::Truncated);
    check(b"\x01aS\xff\xff\xff\xffx", TableError::Truncated);
    check(b"\x01aF\x00\x00\x00\x01\x05", TableError::Truncated);
    check(b"\x01aA\x00\x00\x00\x01I", TableError::Truncated);
    check(b"\x01a?", TableError::UnknownType { letter: b'?' });
    check(
        b"\x01aA\x00\x00\x00\x01z",
        TableError::UnknownType { letter: b'z' },
    );
}

/// A table with `depth` levels, tables and arrays in turn.
fn nested(depth: usize) -> Vec<u8> {
    let mut content = Vec::new();
    for level in (1..depth).rev() {
        let outer_is_table = level % 2 == 1;
        let letter = if outer_is_table { b'A' } else { b'F' };
        let mut value = vec![letter];
        value.extend((content.len() as u32).to_be_bytes());
        value.extend(&content);
        content = if outer_is_table {
            field("", &value)
        } else {
            value
        };
    }
    content
}

#[test]
fn depth_and_size_are_limited() {
    assert_eq!(Table::from_raw(&nested(TABLE_DEPTH_MAX)).validate(), Ok(()));
    let depth_limit = TABLE_DEPTH_MAX;
    assert_eq!(
        Table::from_raw(&nested(depth_limit + 1)).validate(),
        Err(TableError::TooDeep { depth_limit })
    );
    let deepest = nested(20_000);
    assert_eq!(
        Table::from_raw(&deepest).to_field_table(),
        Err(TableError::TooDeep { depth_limit })
    );
    let bytes = TABLE_BYTES_MAX + 1;
    assert_eq!(
        Table::from_raw(&vec![0; bytes]).validate(),
        Err(TableError::TooLarge {
            bytes,
            bytes_limit: TABLE_BYTES_MAX
        })
    );
}

#[test]
fn names_may_repeat_and_the_first_counts() {
    let raw = [field("a", b"b\x01"), field("b", b"V"), field("a", b"b\x02")].concat();
    let table = Table::from_raw(&raw);
    assert_eq!(
        table.get(b"a").expect("valid").and_then(Value::as_i64),
        Some(1)
    );
    let mut owned = table.to_field_table().expect("valid");
    assert_eq!(owned.to_bytes(), raw);
    let name = ShortString::try_from("a").expect("short");
    owned.set(name, FieldValue::Byte(3));
    assert_eq!(
        owned.to_bytes(),
        [field("a", b"b\x03"), field("b", b"V")].concat()
    );
    assert_eq!(owned.remove("a"), Some(FieldValue::Byte(3)));
    assert_eq!(owned.remove("a"), None);
    assert_eq!(owned.len(), 1);
}

#[test]
fn fields_are_left_out_byte_for_byte() {
    let kept = [field("CC", b"A\x00\x00\x00\x00"), field("t", b"t\x09")].concat();
    let raw = [field("BCC", b"V"), kept.clone(), field("BCC", b"b\x01")].concat();
    let mut out = Vec::new();
    assert_eq!(
        Table::from_raw(&raw).copy_without(b"BCC", &mut out),
        Ok(true)
    );
    assert_eq!(out, kept);
    out.clear();
    assert_eq!(
        Table::from_raw(&raw).copy_without(b"cc", &mut out),
        Ok(false)
    );
    assert_eq!(out, raw);
    assert_eq!(
        Table::from_raw(b"\x09").copy_without(b"a", &mut out),
        Err(TableError::Truncated)
    );
}
