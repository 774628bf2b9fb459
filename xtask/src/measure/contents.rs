//! Definitions files of any size, as RabbitMQ exports them.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// What a section has, one after the other: all at once would be gigabytes.
pub(super) type Objects<'a> = Box<dyn Iterator<Item = Value> + 'a>;

/// Writes a file of these sections.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(path: &Path, sections: Vec<(&str, Objects<'_>)>) -> Result<()> {
    put(path, sections).with_context(|| format!("cannot write {}", path.display()))
}

fn put(path: &Path, sections: Vec<(&str, Objects<'_>)>) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(fs::File::create(path)?);
    write!(out, "{{\"rabbit_version\":\"3.13.0\"")?;
    for (name, objects) in sections {
        write!(out, ",\"{name}\":[")?;
        for (at, object) in objects.enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{object}")?;
        }
        write!(out, "]")?;
    }
    write!(out, "}}")?;
    out.flush()
}

/// A durable direct exchange.
pub(super) fn exchange(name: &str) -> Value {
    json!({
        "name": name, "vhost": "/", "type": "direct", "durable": true,
        "auto_delete": false, "internal": false, "arguments": {},
    })
}

/// A durable queue.
pub(super) fn queue(name: &str, arguments: &Value) -> Value {
    json!({
        "name": name, "vhost": "/", "durable": true, "auto_delete": false,
        "arguments": arguments,
    })
}

/// A queue bound to an exchange by a key.
pub(super) fn binding(exchange: &str, queue: &str, key: &str) -> Value {
    json!({
        "source": exchange, "vhost": "/", "destination": queue,
        "destination_type": "queue", "routing_key": key, "arguments": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_sections_whole() {
        let path = std::env::temp_dir().join(format!("warren-contents-{}", std::process::id()));
        let queues = ["a", "b"].map(|name| queue(name, &json!({})));
        let sections: Vec<(&str, Objects<'_>)> = vec![
            ("exchanges", Box::new([exchange("x")].into_iter())),
            ("queues", Box::new(queues.into_iter())),
            ("bindings", Box::new(std::iter::empty())),
        ];
        write(&path, sections).expect("a file");
        let text = fs::read(&path).expect("written");
        fs::remove_file(&path).expect("removed");
        let file: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(file["exchanges"][0]["name"], "x");
        assert_eq!(file["queues"][1]["name"], "b");
        assert_eq!(file["bindings"], json!([]));
    }
}
