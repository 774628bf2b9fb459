//! SASL: what a client's first answer says about who it is.

use warren_protocol::ReplyCode;
use warren_protocol::table::Table;

use crate::exception::Exception;

/// A mechanism that we offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    Plain,
    AmqPlain,
}

/// A name and a password, as the client sent them. `Debug` leaves the password out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credentials<'a> {
    pub user: &'a [u8],
    pub password: &'a [u8],
}

impl Mechanism {
    /// What `connection.start` offers.
    pub const OFFERED: &'static str = "PLAIN AMQPLAIN";

    /// The mechanism of that name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"PLAIN" => Some(Self::Plain),
            b"AMQPLAIN" => Some(Self::AmqPlain),
            _ => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
        }
    }

    /// Reads the response of `connection.start-ok`.
    ///
    /// # Errors
    /// 502 SYNTAX_ERROR, which never repeats what was sent.
    pub fn credentials(self, response: &[u8]) -> Result<Credentials<'_>, Exception> {
        match self {
            Self::Plain => plain(response)
                .ok_or_else(|| syntax_error("PLAIN response is not NUL user NUL password")),
            Self::AmqPlain => amqplain(response).ok_or_else(|| {
                syntax_error("AMQPLAIN auth info is missing LOGIN or PASSWORD field")
            }),
        }
    }

    /// 403 in RabbitMQ's words, the same whatever was wrong.
    #[must_use]
    pub fn refused(self) -> Exception {
        let mut exception = Exception::new(
            ReplyCode::AccessRefused,
            format!(
                "Login was refused using authentication mechanism {}. \
                 For details see the broker logfile.",
                self.name()
            ),
        );
        exception.scope = crate::exception::Scope::Connection;
        exception
    }
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &String::from_utf8_lossy(self.user))
            .finish_non_exhaustive()
    }
}

/// RFC 4616: authorization id, user and password with a NUL between. To act as somebody else is
/// not supported, so the first is empty or the user's own name.
fn plain(response: &[u8]) -> Option<Credentials<'_>> {
    let mut parts = response.split(|&byte| byte == 0);
    let authorize = parts.next()?;
    let user = parts.next()?;
    let password = parts.next()?;
    let whole = parts.next().is_none() && (authorize.is_empty() || authorize == user);
    whole.then_some(Credentials { user, password })
}

/// A field table without its length, with the long strings LOGIN and PASSWORD.
fn amqplain(response: &[u8]) -> Option<Credentials<'_>> {
    let table = Table::from_raw(response);
    table.validate().ok()?;
    let field = |name: &[u8]| table.get(name).ok().flatten()?.as_long_str();
    Some(Credentials {
        user: field(b"LOGIN")?,
        password: field(b"PASSWORD")?,
    })
}

fn syntax_error(text: &str) -> Exception {
    Exception::new(ReplyCode::SyntaxError, text)
}

#[cfg(test)]
mod tests {
    use warren_protocol::table::FieldTable;

    use super::*;

    #[test]
    fn plain_responses() {
        let good: [(&[u8], &[u8], &[u8]); 4] = [
            (b"\0guest\0guest", b"guest", b"guest"),
            (b"bob\0bob\0pw", b"bob", b"pw"),
            (b"\0bob\0\xff\xfe", b"bob", b"\xff\xfe"),
            (b"\0\0", b"", b""),
        ];
        for (response, user, password) in good {
            let found = Mechanism::Plain.credentials(response);
            assert_eq!(found, Ok(Credentials { user, password }));
        }
        let bad: [&[u8]; 6] = [b"", b"\0", b"guest", b"\0guest", b"a\0b\0c", b"\0a\0b\0"];
        for response in bad {
            let error = Mechanism::Plain.credentials(response).map(|_| ());
            assert_eq!(
                error.map_err(|error| error.code),
                Err(ReplyCode::SyntaxError)
            );
        }
    }

    #[test]
    fn amqplain_responses() {
        let table = FieldTable::new()
            .with("LOGIN", "guest")
            .with("PASSWORD", "secret");
        let bytes = table.to_bytes();
        let found = Mechanism::AmqPlain.credentials(&bytes);
        let (user, password) = (&b"guest"[..], &b"secret"[..]);
        assert_eq!(found, Ok(Credentials { user, password }));
        for cut in 0..bytes.len() {
            assert!(Mechanism::AmqPlain.credentials(&bytes[..cut]).is_err());
        }
        let wrong = FieldTable::new().with("LOGIN", "guest").with("PASSWORD", 1);
        assert!(Mechanism::AmqPlain.credentials(&wrong.to_bytes()).is_err());
    }
}
