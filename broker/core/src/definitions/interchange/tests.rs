//! Files as bytes in, definitions or an error out. What is written is tested with plans, which
//! make the topologies to write.

use warren_protocol::ShortString;
use warren_protocol::table::FieldValue;

use super::*;

fn read(json: &str) -> Definitions {
    parse(json.as_bytes(), None).expect("the file is right")
}

#[track_caller]
fn fails(vhost: Option<&str>, json: &str, expected: &str) {
    let error = parse(json.as_bytes(), vhost).expect_err(json);
    assert_eq!(error.to_string(), expected, "{json}");
}

/// Files, and what is wrong with each.
const MALFORMED: &[(&str, &str)] = &[
    (
        "",
        "not the JSON of definitions: EOF while parsing a value at line 1 column 0",
    ),
    (
        "[]",
        "not the JSON of definitions: invalid type: sequence, expected an object with the \
         definitions at line 1 column 2",
    ),
    (
        "{} x",
        "not the JSON of definitions: trailing characters at line 1 column 4",
    ),
    (
        r#"{"queues":[{"name":"a","vhost":"/"},{"name":}]}"#,
        "queues[1]: not the JSON of definitions: expected value at line 1 column 45",
    ),
    (
        r#"{"queues":"many"}"#,
        "queues: not the JSON of definitions: invalid type: string \"many\", expected an \
         array at line 1 column 16",
    ),
    (r#"{"users":["guest"]}"#, "users[0]: it must be an object"),
    (
        r#"{"users":[{"tags":""}]}"#,
        "users[0], name: it is missing",
    ),
    (r#"{"users":[{"name":""}]}"#, "users[0], name: it is empty"),
    (
        r#"{"users":[{"name":7}]}"#,
        "users[0], name: it must be a string",
    ),
    (
        r#"{"users":[{"name":"u","password_hash":"?"}]}"#,
        "users[0] 'u', password_hash: it is no base64",
    ),
    (
        r#"{"users":[{"name":"u","password_hash":"AAAA"}]}"#,
        "users[0] 'u', password_hash: no algorithm makes a hash of 3 bytes",
    ),
    (
        r#"{"users":[{"name":"u","password_hash":"","hashing_algorithm":"rot13"}]}"#,
        "users[0] 'u', hashing_algorithm: 'rot13' is not known",
    ),
    (
        r#"{"users":[{"name":"u","tags":[1]}]}"#,
        "users[0] 'u', tags: a tag must be a string",
    ),
    (
        r#"{"users":[{"name":"u","limits":7}]}"#,
        "users[0] 'u', limits: it must be an object or an array",
    ),
    (
        r#"{"users":[{"name":"u"},{"name":"u","tags":"administrator"}]}"#,
        "users[1] 'u': it stands in the file twice, and differs",
    ),
    (
        r#"{"vhosts":[{"name":"v","metadata":"x"}]}"#,
        "vhosts[0] 'v', metadata: it must be an object",
    ),
    (
        r#"{"vhosts":[{"name":"v","metadata":{"description":1}}]}"#,
        "vhosts[0] 'v', metadata.description: it must be a string of at most 16384 bytes",
    ),
    (
        r#"{"permissions":[{"user":"u","vhost":"/","configure":"","write":""}]}"#,
        "permissions[0] 'u', read: it is missing",
    ),
    (
        r#"{"queues":[{"name":"q"}]}"#,
        "queues[0] 'q', vhost: it is missing; if the file is of a single vhost, say which one \
         it is for",
    ),
    (
        r#"{"queues":[{"name":"a\nb","vhost":"/"}]}"#,
        "queues[0] 'a\nb', name: it has a line break",
    ),
    (
        r#"{"queues":[{"name":"q","vhost":"/","durable":"yes"}]}"#,
        "queues[0] 'q', durable: it must be true or false",
    ),
    (
        r#"{"queues":[{"name":"q","vhost":"/","type":"quorum",
            "arguments":{"x-queue-type":"classic"}}]}"#,
        "queues[0] 'q', type: it is 'quorum', and the argument 'x-queue-type' is 'classic'",
    ),
    (
        r#"{"queues":[{"name":"q","vhost":"/","arguments":7}]}"#,
        "queues[0] 'q', arguments: it must be an object",
    ),
    (
        r#"{"queues":[{"name":"q","vhost":"/",
            "arguments":{"a":{"b":[1,{"c":9223372036854775808}]}}}]}"#,
        "queues[0] 'q', arguments.a.b[1].c: the integer 9223372036854775808 is larger than \
         9223372036854775807",
    ),
    (
        r#"{"exchanges":[{"name":"e","vhost":"/"}]}"#,
        "exchanges[0] 'e', type: it is missing",
    ),
    (
        r#"{"bindings":[{"source":"e","destination":"q","destination_type":"topic"}]}"#,
        "bindings[0] 'e', destination_type: it is 'topic', neither 'queue' nor 'exchange'",
    ),
    (
        r#"{"bindings":[{"source":"","destination":"q","destination_type":"queue",
            "vhost":"/","routing_key":"other"}]}"#,
        "bindings[0], source: operation not permitted on the default exchange",
    ),
    (
        r#"{"limits":[["max-queues",1]]}"#,
        "limits: the file is of a single vhost: say which one it is for",
    ),
    (
        r#"{"limits":3}"#,
        "limits: it must be an object or an array",
    ),
];

#[test]
fn what_is_malformed_is_named() {
    for (json, expected) in MALFORMED {
        fails(None, json, expected);
    }
}

#[test]
fn a_file_of_one_vhost_goes_there_alone() {
    let json = r#"{"queues":[{"name":"q"}],"limits":{"max-queues":5}}"#;
    let found = parse(json.as_bytes(), Some("there")).expect("the file is right");
    assert_eq!(found.contents["there"].queues.len(), 1);
    assert_eq!(found.unsupported[0].kind, ObjectKind::VhostLimit);
    assert_eq!(found.unsupported[0].vhost.as_deref(), Some("there"));
    fails(
        Some("there"),
        r#"{"queues":[{"name":"q","vhost":"/"}]}"#,
        "queues[0] 'q', vhost: it is '/', and the file is imported into 'there'",
    );
    fails(
        Some("there"),
        r#"{"users":[{"name":"u"}]}"#,
        "users[0] 'u': a file of a single vhost has no such section; import the file of a \
         cluster without naming a vhost",
    );
}

#[test]
fn limits_are_named() {
    let long = "n".repeat(256);
    let queue = |fields: &str| format!(r#"{{"queues":[{{"vhost":"/",{fields}}}]}}"#);
    let shown = format!("{}..", "n".repeat(64));
    fails(
        None,
        &queue(&format!(r#""name":"{long}""#)),
        &format!("queues[0] '{shown}', name: 256 bytes, at most 255 are taken"),
    );
    fails(
        None,
        &queue(&format!(r#""name":"q","arguments":{{"{long}":1}}"#)),
        &format!("queues[0] 'q', arguments.{shown}: the name is longer than 255 bytes"),
    );
    let large = "x".repeat(ARGUMENTS_BYTES_MAX);
    fails(
        None,
        &queue(&format!(r#""name":"q","arguments":{{"a":"{large}"}}"#)),
        "queues[0] 'q', arguments: 131079 bytes, at most 131072 are taken",
    );
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let error = parse(
        queue(&format!(r#""name":"q","arguments":{{"a":{deep}}}"#)).as_bytes(),
        None,
    );
    let error = error.expect_err("too deep").to_string();
    assert!(error.ends_with("[0]: nested deeper than 64"), "{error}");
    let deeper = "[".repeat(100_000);
    let error = parse(queue(&format!(r#""name":{deeper}"#)).as_bytes(), None);
    let error = error.expect_err("too deep").to_string();
    assert!(error.contains("recursion limit exceeded"), "{error}");
    let text = "t".repeat(TEXT_BYTES_MAX + 1);
    fails(
        None,
        &format!(r#"{{"users":[{{"name":"u","password":"{text}"}}]}}"#),
        "users[0] 'u', password: 16385 bytes, at most 16384 are taken",
    );
    let tags = vec![r#""t""#; TAGS_MAX + 1].join(",");
    fails(
        None,
        &format!(r#"{{"users":[{{"name":"u","tags":[{tags}]}}]}}"#),
        "users[0] 'u', tags: 1001 tags, at most 1000 are taken",
    );
    fails(
        None,
        &format!(r#"{{"users":[{{"name":"u","tags":"a,{long}"}}]}}"#),
        "users[0] 'u', tags: a tag of 256 bytes, at most 255 are taken",
    );
}

#[test]
fn what_versions_of_rabbitmq_write_differently_is_the_same() {
    let row = |json: &str| {
        let file = read(&format!(r#"{{"vhosts":[{{"name":"v",{json}}}]}}"#));
        assert_eq!(file.unsupported, []);
        file.vhosts["v"].clone()
    };
    let full = VhostRow {
        description: "d".into(),
        tags: vec!["a".into(), "b".into()],
        default_queue_type: "quorum".into(),
    };
    for json in [
        r#""metadata":{"description":"d","tags":["b","a"],"default_queue_type":"quorum"}"#,
        r#""description":"d","tags":"a, b","default_queue_type":"quorum","metadata":[]"#,
        r#""description":"d","tags":["a","b","a"],"default_queue_type":"quorum","limits":[]"#,
        r#""metadata":{"description":"d","tags":"b,a"},"default_queue_type":"quorum","limits":{}"#,
    ] {
        assert_eq!(row(json), full, "{json}");
    }
    for json in [
        r#""metadata":{"description":"","tags":[],"default_queue_type":"undefined"}"#,
        r#""default_queue_type":"undefined","limits":null,"description":null,"unknown":[1]"#,
        r#""metadata":{"default_queue_type":null}"#,
    ] {
        assert_eq!(row(json), VhostRow::default(), "{json}");
    }
    for limits in [
        r#"[["max-queues",10],["max-connections","5"]]"#,
        r#"{"max-queues":10,"max-connections":5}"#,
        r#"[{"max-queues":"10"},{"max-connections":5}]"#,
    ] {
        let file = read(&format!(
            r#"{{"vhosts":[{{"name":"v","limits":{limits}}}]}}"#
        ));
        let found = file
            .unsupported
            .iter()
            .map(|limit| (&*limit.name, &*limit.value));
        let found: Vec<_> = found.collect();
        assert_eq!(
            found,
            [("max-connections", "5"), ("max-queues", "10")],
            "{limits}"
        );
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let file = read(
        r#"{"queues":[{"name":"q","vhost":"/"}],"topic_permissions":null,
            "exchanges":[{"name":"e","vhost":"/","type":"fanout","arguments":[]}],
            "bindings":[{"source":"e","vhost":"/","destination":"q","destination_type":"queue"},
                {"source":"","vhost":"/","destination":"q","destination_type":"queue",
                 "routing_key":"q"}],
            "users":[{"name":"u"}],
            "global_parameters":[{"name":"internal_cluster_id","value":"x"},
                {"name":"cluster_name","value":"y"}],
            "something_new":{"a":[1,2]}}"#,
    );
    let contents = &file.contents["/"];
    let queue = &contents.queues["q"];
    assert!(queue.durable && !queue.auto_delete && queue.kind.is_none());
    let exchange = &contents.exchanges["e"];
    assert!(exchange.durable && !exchange.auto_delete && !exchange.internal);
    let bindings: Vec<_> = contents
        .bindings
        .values()
        .map(ToString::to_string)
        .collect();
    assert_eq!(bindings, ["'e' -> queue 'q'"]);
    let nobody = Secret::Hash {
        algorithm: HashingAlgorithm::Sha256,
        hash: Vec::new(),
    };
    assert_eq!(file.users["u"].secret, nobody);
    assert_eq!(file.unsupported, []);
    assert_eq!(
        file.notes,
        [
            "global parameter 'internal_cluster_id' is the other cluster's own: left out",
            "global parameter 'cluster_name' is the other cluster's own: left out",
        ]
    );
    assert!(!file.sections.contains(&Section::TopicPermissions));
    assert!(file.sections.contains(&Section::GlobalParameters));
    assert_eq!(file.len(), 4);
    assert!(Definitions::default().is_empty());
}

#[test]
fn passwords_come_in_three_forms() {
    let secret = |fields: &str| {
        let file = read(&format!(r#"{{"users":[{{"name":"u",{fields}}}]}}"#));
        file.users["u"].secret.clone()
    };
    let hash = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
    let Secret::Hash { algorithm, .. } = secret(&format!(r#""password_hash":"{hash}""#)) else {
        panic!("it is a hash");
    };
    assert_eq!(algorithm, HashingAlgorithm::Sha256);
    let old = secret(&format!(
        r#""password_hash":"{}","hashing_algorithm":"rabbit_password_hashing_md5""#,
        "AAAAAAAAAAAAAAAAAAAAAAAAAAA="
    ));
    let same = secret(r#""password_hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAA=""#);
    assert_eq!(old, same);
    let plain = secret(r#""password":"geheim""#);
    let none = secret(r#""password_hash":"""#);
    assert_eq!(secret(r#""password":"""#), none);
    assert_eq!(plain, Secret::Password("geheim".into()));
    let known = Secret::Password("test12".into());
    let hashed = secret(&format!(r#""password_hash":"{hash}""#));
    assert!(known.agrees_with(&hashed) && hashed.agrees_with(&known));
    assert!(known.agrees_with(&known) && hashed.agrees_with(&hashed));
    assert!(!plain.agrees_with(&hashed) && !plain.agrees_with(&known));
    assert_eq!(
        format!("{plain:?} {old:?}"),
        "Password Hash(rabbit_password_hashing_md5)"
    );
}

#[test]
fn values_keep_what_json_can_say() {
    let json = r#"{"queues":[{"name":"q","vhost":"/","arguments":{"int":-5,
        "max":9223372036854775807,
        "float":1.5,"whole":2.0,"text":"Zürich","yes":true,"no":false,"none":null,
        "list":[1,"two",[3],{"four":4}],"table":{"b":1,"a":{"deep":[]}}}}]}"#;
    let file = read(json);
    let found = &file.contents["/"].queues["q"].arguments;
    let name = |text: &str| ShortString::try_from(text).expect("it is short");
    let table = |fields: &[(&str, FieldValue)]| -> FieldTable {
        fields
            .iter()
            .map(|(field, value)| (name(field), value.clone()))
            .collect()
    };
    let expected = table(&[
        ("float", FieldValue::Double(1.5)),
        ("int", FieldValue::Long(-5)),
        (
            "list",
            FieldValue::Array(vec![
                FieldValue::Long(1),
                "two".into(),
                FieldValue::Array(vec![FieldValue::Long(3)]),
                table(&[("four", FieldValue::Long(4))]).into(),
            ]),
        ),
        ("max", FieldValue::Long(i64::MAX)),
        ("no", false.into()),
        ("none", FieldValue::Void),
        (
            "table",
            table(&[
                (
                    "a",
                    table(&[("deep", FieldValue::Array(Vec::new()))]).into(),
                ),
                ("b", FieldValue::Long(1)),
            ])
            .into(),
        ),
        ("text", "Zürich".into()),
        ("whole", FieldValue::Double(2.0)),
        ("yes", true.into()),
    ]);
    assert_eq!(*found, expected);
    assert_eq!(normalized(found), expected);
    let pairs = read(
        r#"{"queues":[{"name":"q","vhost":"/","arguments":[["x-a",1],["x-b",[["no","table"]]]]}]}"#,
    );
    let text = values::to_text(&pairs.contents["/"].queues["q"].arguments);
    assert_eq!(text, r#"{"x-a":1,"x-b":[["no","table"]]}"#);
}

#[test]
fn types_that_json_lacks_become_the_next_best() {
    let cases = [
        (FieldValue::Byte(-1), FieldValue::Long(-1)),
        (FieldValue::UnsignedByte(255), FieldValue::Long(255)),
        (FieldValue::Short(-300), FieldValue::Long(-300)),
        (FieldValue::UnsignedShort(65_535), FieldValue::Long(65_535)),
        (FieldValue::SignedInt(7), FieldValue::Long(7)),
        (
            FieldValue::UnsignedInt(u32::MAX),
            FieldValue::Long(4_294_967_295),
        ),
        (
            FieldValue::Timestamp(1_700_000_000),
            FieldValue::Long(1_700_000_000),
        ),
        (FieldValue::Timestamp(u64::MAX), FieldValue::Long(i64::MAX)),
        (FieldValue::Float(0.5), FieldValue::Double(0.5)),
        (FieldValue::Double(f64::NAN), FieldValue::Void),
        (
            FieldValue::Decimal {
                scale: 2,
                value: 271,
            },
            FieldValue::Double(2.71),
        ),
        (FieldValue::Binary(b"bytes".to_vec()), "bytes".into()),
        (FieldValue::LongStr(vec![b'a', 0xFF]), "a\u{FFFD}".into()),
    ];
    for (value, expected) in cases {
        let table = FieldTable::new().with("a", value.clone());
        let found = normalized(&table);
        assert_eq!(found.get("a"), Some(&expected), "{value:?}");
        assert_eq!(normalized(&found), found, "{value:?}");
    }
    let twice = FieldTable(vec![
        (ShortString::try_from("b").expect("short"), 2_i64.into()),
        (ShortString::try_from("a").expect("short"), 1_i64.into()),
        (ShortString::try_from("b").expect("short"), 3_i64.into()),
    ]);
    assert_eq!(values::to_text(&normalized(&twice)), r#"{"a":1,"b":2}"#);
}

/// Files that were cut, or changed in one place: an answer, whatever they are.
#[test]
fn a_damaged_file_is_read_or_refused() {
    let whole = include_bytes!("../testdata/rabbitmq-3.10-unsupported.json");
    for end in (0..whole.len()).step_by(3) {
        let error = parse(&whole[..end], None).expect_err("its end is missing");
        assert!(
            error.to_string().contains("EOF while parsing"),
            "{end}: {error}"
        );
    }
    let mut refused = 0;
    for at in (0..whole.len()).step_by(7) {
        for byte in [b'"', b'}', b'0', b',', 0xFF] {
            let mut damaged = whole.to_vec();
            damaged[at] = byte;
            refused += usize::from(parse(&damaged, None).is_err());
        }
    }
    assert!(refused > whole.len() / 7, "{refused}");
}
