//! The property `expiration`: a time to live, as the client wrote it.
//!
//! What is accepted and how the rest is called follows RabbitMQ to the letter: Erlang's
//! `string:to_integer` reads a sign and digits from the front and hands back what is left.

use std::fmt::Write;

use warren_protocol::{Properties, ReplyCode};

use super::fault::Fault;
use crate::shard::command::TTL_MILLIS_MAX;

/// The property must be a number of milliseconds, whether the message is routed or not.
pub(super) fn check_expiration(properties: Properties<'_>) -> Result<(), Fault> {
    let Some(expiration) = properties.expiration() else {
        return Ok(());
    };
    parse(expiration.as_bytes()).map(|_| ()).map_err(|reason| {
        let text = format!("invalid expiration '{expiration}': {reason}");
        Fault::new(ReplyCode::PreconditionFailed, text)
    })
}

/// Milliseconds after which the message expires; `None` when it does not.
pub(super) fn ttl(properties: Properties<'_>) -> Option<u64> {
    let expiration = properties.expiration()?;
    parse(expiration.as_bytes()).ok()
}

fn parse(text: &[u8]) -> Result<u64, String> {
    let (negative, unsigned) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let number = unsigned.iter().take_while(|d| d.is_ascii_digit()).count();
    let (digits, rest) = unsigned.split_at(number);
    if digits.is_empty() {
        return Err("no_integer".to_owned());
    }
    if !rest.is_empty() {
        return Err(format!("{{leftover_string,{}}}", term(rest)));
    }
    let zeros = digits.iter().take_while(|d| **d == b'0').count();
    let digits = digits[zeros..].escape_ascii();
    let value = format!("{digits}");
    if value.is_empty() {
        return Ok(0);
    }
    if negative {
        return Err(format!("{{value_negative,-{value}}}"));
    }
    match value.parse() {
        Ok(millis) if millis <= TTL_MILLIS_MAX => Ok(millis),
        _ => Err(format!("{{value_too_large,{value}}}")),
    }
}

/// Bytes as Erlang prints a list of them: as text when all of it can be printed.
fn term(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(*byte)]),
            b' '..=b'~' | 0xa0.. => out.push(char::from(*byte)),
            8..=13 => {
                let letter = [b'b', b't', b'n', b'v', b'f', b'r'][usize::from(byte - 8)];
                out.extend(['\\', char::from(letter)]);
            }
            27 => out.push_str("\\e"),
            _ => return list(bytes),
        }
    }
    out.push('"');
    out
}

fn list(bytes: &[u8]) -> String {
    let mut out = String::from("[");
    for (at, byte) in bytes.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(out, "{comma}{byte}").expect("memory takes what is written");
    }
    out.push(']');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RabbitMQ 3.10 answers them.
    #[test]
    fn numbers_and_reasons() {
        let read = |text: &str| match parse(text.as_bytes()) {
            Ok(millis) => millis.to_string(),
            Err(reason) => reason,
        };
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("+5", "5"),
            ("007", "7"),
            ("315360000000", "315360000000"),
            ("315360000001", "{value_too_large,315360000001}"),
            ("0315360000001", "{value_too_large,315360000001}"),
            (
                "99999999999999999999999",
                "{value_too_large,99999999999999999999999}",
            ),
            ("-1", "{value_negative,-1}"),
            ("", "no_integer"),
            ("-", "no_integer"),
            ("--5", "no_integer"),
            (" 5", "no_integer"),
            ("soon", "no_integer"),
            ("5 ", "{leftover_string,\" \"}"),
            ("5.5", "{leftover_string,\".5\"}"),
            ("-5x", "{leftover_string,\"x\"}"),
            ("5\"\\", "{leftover_string,\"\\\"\\\\\"}"),
            ("5\n\t", "{leftover_string,\"\\n\\t\"}"),
            ("5\u{1}\u{2}", "{leftover_string,[1,2]}"),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }
}
