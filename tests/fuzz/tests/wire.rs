//! Bytes from a client: whatever they are, reading them ends with a value or an error.

use bytes::BytesMut;
use warren_fuzz::bytes_up_to;
use warren_protocol::{
    ContentHeader, FieldTable, Method, Properties, Table, frame, hot, limits, preamble,
};

#[test]
fn frames() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            let mut rest = &bytes[..];
            while let Ok(Some((frame, used))) = frame::parse(rest, limits::FRAME_MAX_BYTES_DEFAULT)
            {
                assert!(used <= rest.len() && frame.payload.len() < used);
                rest = &rest[used..];
            }
            let _ = preamble::parse(bytes);
        });
}

#[test]
fn methods() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            let hot = hot::parse(bytes);
            let Ok(method) = Method::parse(bytes) else {
                assert!(
                    hot.is_none(),
                    "the quick reader took what the full one refuses"
                );
                return;
            };
            let mut again = BytesMut::new();
            method.encode(&mut again);
            // Reserved fields and bits are not kept, so bytes may differ; meaning may not.
            let method_again = Method::parse(&again).expect("what we wrote we read");
            assert_eq!(format!("{method:?}"), format!("{method_again:?}"));
        });
}

#[test]
fn tables() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            let table = Table::from_raw(bytes);
            let valid = table.validate().is_ok();
            let owned = table.to_field_table();
            assert_eq!(valid, owned.is_ok());
            let Ok(owned) = owned else { return };
            let bytes = owned.to_bytes();
            let again: FieldTable = Table::from_raw(&bytes).to_field_table().expect("ours");
            assert_eq!(owned, again);
        });
}

#[test]
fn content() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            if let Ok(header) = ContentHeader::parse(bytes) {
                read_properties(&header.properties);
            }
            read_properties(&Properties::from_raw(bytes));
        });
}

fn read_properties(properties: &Properties<'_>) {
    let valid = properties.validate().is_ok();
    let headers = properties.headers();
    let _ = (
        properties.delivery_mode(),
        properties.expiration(),
        properties.user_id(),
    );
    if valid && let Some(headers) = headers {
        headers.validate().expect("validated with the properties");
    }
}
