//! Every method against an encoder that shares nothing with the generated code: it reads the table
//! `spec/methods.toml` and puts the fields' bytes together by itself.

use bytes::BytesMut;
use proptest::prelude::*;
use warren_protocol::limits::FRAME_MAX_BYTES_DEFAULT;
use warren_protocol::{DecodeError, FrameKind, Method, frame, hot};

struct MethodSpec {
    name: String,
    ids: (u16, u16),
    content: bool,
    /// (type, reserved)
    fields: Vec<(String, bool)>,
}

fn methods() -> Vec<MethodSpec> {
    let spec: toml::Table = include_str!("../spec/methods.toml")
        .parse()
        .expect("valid TOML");
    let mut methods = Vec::new();
    for class in spec["class"].as_array().expect("classes") {
        for method in class["methods"].as_array().expect("methods") {
            let text = |value: &toml::Value| value.as_str().expect("text").to_owned();
            let id = |value: &toml::Value| value["id"].as_integer().expect("a number") as u16;
            let field = |field: &toml::Value| {
                let field = text(field);
                let (_, words) = field.split_once(": ").expect("name: type");
                let kind = words.rsplit(' ').next().expect("a type");
                (kind.to_owned(), words.contains("reserved"))
            };
            let fields = method["fields"].as_array().expect("fields");
            methods.push(MethodSpec {
                name: format!("{}.{}", text(&class["name"]), text(&method["name"])),
                ids: (id(class), id(method)),
                content: method.get("content").is_some(),
                fields: fields.iter().map(field).collect(),
            });
        }
    }
    methods
}

/// Field values out of a stream of random bytes; zeros when it runs dry.
struct Entropy<'a>(&'a [u8]);

impl Entropy<'_> {
    fn take(&mut self, len: usize) -> Vec<u8> {
        let have = len.min(self.0.len());
        let mut bytes = self.0[..have].to_vec();
        self.0 = &self.0[have..];
        bytes.resize(len, 0);
        bytes
    }

    fn octet(&mut self) -> u8 {
        self.take(1)[0]
    }
}

/// The payload of a method frame with random values in all fields that are not reserved.
fn payload(method: &MethodSpec, entropy: &mut Entropy<'_>) -> Vec<u8> {
    let mut out = [method.ids.0.to_be_bytes(), method.ids.1.to_be_bytes()].concat();
    let mut bits = 0;
    for (at, (kind, reserved)) in method.fields.iter().enumerate() {
        let mut value = |len: usize| {
            if *reserved {
                vec![0; len]
            } else {
                entropy.take(len)
            }
        };
        if kind == "bit" {
            let previous = at.checked_sub(1).map(|at| method.fields[at].0.as_str());
            bits = if previous == Some("bit") { bits + 1 } else { 0 };
            if bits == 0 {
                out.push(0);
            }
            *out.last_mut().expect("not empty") |= (value(1)[0] & 1) << bits;
            continue;
        }
        match kind.as_str() {
            "octet" => out.extend(value(1)),
            "short" => out.extend(value(2)),
            "long" => out.extend(value(4)),
            "longlong" => out.extend(value(8)),
            "shortstr" => {
                let len = value(1)[0];
                out.push(len);
                out.extend(value(usize::from(len)));
            }
            "longstr" | "table" => {
                let len = value(1)[0];
                out.extend([0, 0, 0, len]);
                out.extend(value(usize::from(len)));
            }
            other => panic!("type {other}"),
        }
    }
    out
}

#[test]
fn the_table_is_whole() {
    let methods = methods();
    assert_eq!(methods.len(), 66);
    let with_content: Vec<&str> = methods
        .iter()
        .filter(|method| method.content)
        .map(|method| method.name.as_str())
        .collect();
    assert_eq!(
        with_content,
        [
            "basic.publish",
            "basic.return",
            "basic.deliver",
            "basic.get-ok"
        ]
    );
    let mut ids: Vec<_> = methods.iter().map(|method| method.ids).collect();
    ids.dedup();
    assert_eq!(ids.len(), methods.len());
}

proptest! {
    #[test]
    fn every_method_reads_and_writes_what_the_table_says(
        random in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        for spec in methods() {
            let payload = payload(&spec, &mut Entropy(&random));
            let method = Method::parse(&payload).expect(&spec.name);
            prop_assert_eq!(method.ids(), spec.ids);
            prop_assert_eq!(method.name(), &spec.name);
            prop_assert_eq!(method.has_content(), spec.content);
            prop_assert!(method.to_string().starts_with(&spec.name));
            let mut encoded = BytesMut::new();
            method.encode(&mut encoded);
            prop_assert_eq!(&encoded[..], &payload[..], "{}", spec.name);
            let mut framed = BytesMut::new();
            method.encode_frame(9, &mut framed);
            let (frame, len) = frame::parse(&framed, FRAME_MAX_BYTES_DEFAULT)
                .expect("valid").expect("whole");
            prop_assert_eq!(len, framed.len());
            prop_assert_eq!((frame.kind, frame.channel), (FrameKind::Method, 9));
            prop_assert_eq!(frame.payload, &payload[..]);
        }
    }

    #[test]
    fn too_short_and_too_long_methods_are_named(
        random in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        for spec in methods() {
            let (class_id, method_id) = spec.ids;
            let mut payload = payload(&spec, &mut Entropy(&random));
            for cut in 4..payload.len() {
                let truncated = DecodeError::MethodTruncated { class_id, method_id };
                prop_assert_eq!(Method::parse(&payload[..cut]), Err(truncated));
                prop_assert!(hot::parse(&payload[..cut]).is_none());
            }
            payload.extend([0, 0]);
            let trailing = DecodeError::MethodTrailing { class_id, method_id, bytes: 2 };
            prop_assert_eq!(Method::parse(&payload), Err(trailing));
            prop_assert!(hot::parse(&payload).is_none());
        }
    }

    #[test]
    fn the_hot_decoder_agrees_with_the_table(
        mut random in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let expected = ["basic.publish", "basic.ack", "basic.reject", "basic.nack"];
        random.push(Entropy(&random).octet());
        for spec in methods() {
            let payload = payload(&spec, &mut Entropy(&random));
            let hot = hot::parse(&payload).map(|hot| match hot {
                hot::Hot::Publish(publish) => Method::from(publish),
                hot::Hot::Ack(ack) => Method::from(ack),
                hot::Hot::Nack(nack) => Method::from(nack),
                hot::Hot::Reject(reject) => Method::from(reject),
            });
            prop_assert_eq!(hot.is_some(), expected.contains(&spec.name.as_str()));
            if let Some(hot) = hot {
                prop_assert_eq!(Ok(hot), Method::parse(&payload));
            }
        }
    }
}
