//! Two files in, what differs out.

use super::*;
use crate::definitions::interchange::parse;

const LEFT: &str = r#"{"users":[{"name":"u","tags":"a,b"},{"name":"v"}],
    "vhosts":[{"name":"/"},{"name":"q","default_queue_type":"quorum"}],
    "permissions":[{"user":"u","vhost":"/","configure":"","write":"","read":".*"}],
    "policies":[{"name":"p","vhost":"/","pattern":"x","definition":{"a":1}}],
    "exchanges":[{"name":"e","vhost":"/","type":"topic"}],
    "queues":[{"name":"c","vhost":"/"},{"name":"c","vhost":"q"}],
    "bindings":[{"source":"e","destination":"c","destination_type":"queue","vhost":"/"}]}"#;

fn shown(left: &str, right: &str) -> Vec<String> {
    let read = |json: &str| parse(json.as_bytes(), None).expect("the file is right");
    let line = |found: Difference| {
        let vhost = found.vhost.map(|vhost| format!(" in {vhost}"));
        let (kind, name, vhost) = (found.kind, found.name, vhost.unwrap_or_default());
        match found.change {
            Change::Added => format!("+ {kind} {name}{vhost}"),
            Change::Removed => format!("- {kind} {name}{vhost}"),
            Change::Changed(fields) => format!("~ {kind} {name}{vhost}: {}", fields.join(", ")),
        }
    };
    diff(&read(left), &read(right))
        .into_iter()
        .map(line)
        .collect()
}

#[test]
fn the_same_in_other_words() {
    let right = r#"{"bindings":[{"arguments":[],"routing_key":"","source":"e","destination":"c",
            "destination_type":"queue","vhost":"/"}],
        "queues":[{"name":"c","vhost":"q","type":"quorum"},{"name":"c","vhost":"/",
            "type":"classic","durable":true,"auto_delete":false,"arguments":{}}],
        "exchanges":[{"name":"e","vhost":"/","type":"topic","internal":false}],
        "policies":[{"definition":{"a":1},"pattern":"x","vhost":"/","name":"p"}],
        "permissions":[{"user":"u","vhost":"/","configure":"","write":"","read":".*"}],
        "vhosts":[{"name":"q","metadata":{"default_queue_type":"quorum"}},{"name":"/"}],
        "users":[{"name":"v"},{"name":"u","tags":["b","a"],"limits":{},"password_hash":""}]}"#;
    assert_eq!(shown(LEFT, right), Vec::<String>::new());
}

#[test]
fn what_differs_is_listed_in_order() {
    let right = r#"{"users":[{"name":"u","tags":"a","password":"x"},{"name":"w"}],
        "vhosts":[{"name":"/","description":"d"},{"name":"n"}],
        "permissions":[{"user":"u","vhost":"/","configure":"","write":"","read":"^a"}],
        "policies":[{"name":"p","vhost":"/","pattern":"x","definition":{"a":2}}],
        "exchanges":[{"name":"e","vhost":"/","type":"topic","internal":true},
            {"name":"f","vhost":"/","type":"topic"}],
        "queues":[{"name":"c","vhost":"/","type":"quorum","arguments":{"x-a":1}}],
        "bindings":[{"source":"e","destination":"c","destination_type":"queue","vhost":"/",
            "arguments":{"a":1}}]}"#;
    let there = [
        "~ user u: password, tags: [\"a\", \"b\"] -> [\"a\"]",
        "- user v",
        "+ user w",
        "~ vhost /: description: \"\" -> \"d\"",
        "+ vhost n",
        "- vhost q",
        "~ permission 'u' in vhost '/': read: \".*\" -> \"^a\"",
        "~ policy p in /: {\"definition\":{\"a\":1},\"name\":\"p\",\"pattern\":\"x\",\"vhost\":\
         \"/\"} -> {\"definition\":{\"a\":2},\"name\":\"p\",\"pattern\":\"x\",\"vhost\":\"/\"}",
        "~ exchange e in /: internal: false -> true",
        "+ exchange f in /",
        "~ queue c in /: type: \"classic\" -> \"quorum\", arguments: {} -> {\"x-a\":1}",
        "- queue c in q",
        "- binding 'e' -> queue 'c' in /",
        "+ binding 'e' -> queue 'c' and arguments {\"a\":1} in /",
    ];
    assert_eq!(shown(LEFT, right), there);
    let back = shown(right, LEFT);
    assert_eq!(back.len(), there.len());
    assert!(back.contains(&"+ user v".to_owned()), "{back:?}");
    assert!(back.contains(&"- exchange f in /".to_owned()), "{back:?}");
}
