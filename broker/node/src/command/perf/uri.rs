//! AMQP URIs: `amqp://USER:PASSWORD@HOST:PORT/VHOST` (<https://www.rabbitmq.com/docs/uri-spec>).

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// Where to connect, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uri {
    pub(super) address: SocketAddr,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) vhost: String,
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("amqp://")
            .ok_or_else(|| "it does not begin with amqp://".to_owned())?;
        let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) => (authority, decode(vhost)?),
            None => (rest, "/".to_owned()),
        };
        let (login, place) = authority
            .rsplit_once('@')
            .unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, "guest"));
        Ok(Self {
            address: resolve(place)?,
            user: decode(user)?,
            password: decode(password)?,
            vhost,
        })
    }
}

fn resolve(place: &str) -> Result<SocketAddr, String> {
    let has_port = place
        .rsplit_once(':')
        .is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let place = match (place.is_empty(), has_port) {
        (true, _) => "127.0.0.1:5672".to_owned(),
        (false, true) => place.to_owned(),
        (false, false) => format!("{place}:5672"),
    };
    let mut addresses = place
        .to_socket_addrs()
        .map_err(|error| format!("cannot resolve {place}: {error}"))?;
    addresses
        .next()
        .ok_or_else(|| format!("{place} has no address"))
}

/// Decodes `%2F` and its like.
fn decode(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err("a % that two hex digits do not follow".to_owned());
        };
        out.push((high << 4 | low) as u8);
    }
    String::from_utf8(out).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: [&str; 4]) {
        let uri: Uri = text.parse().expect(text);
        let address = uri.address.to_string();
        assert_eq!([&address, &uri.user, &uri.password, &uri.vhost], expected);
    }

    #[test]
    fn parts_and_their_defaults() {
        check(
            "amqp://127.0.0.1",
            ["127.0.0.1:5672", "guest", "guest", "/"],
        );
        check("amqp://", ["127.0.0.1:5672", "guest", "guest", "/"]);
        check(
            "amqp://a:b@127.0.0.1:99/%2F",
            ["127.0.0.1:99", "a", "b", "/"],
        );
        check(
            "amqp://a%40b:c@[::1]:99/v?heartbeat=5",
            ["[::1]:99", "a@b", "c", "v"],
        );
        check("amqp://[::1]/", ["[::1]:5672", "guest", "guest", ""]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("http://a", "amqp://"),
            ("amqp://%4@127.0.0.1", "hex digits"),
            ("amqp://127.0.0.1:port", "cannot resolve"),
        ] {
            let error = text.parse::<Uri>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
