//! Join tokens: what a blank node needs to find a cluster, know it, and be let in.
//!
//! Printed, a token is `warren1.` and base64url of: cluster u128, fingerprint of the cluster's
//! authority (32 bytes), token id u64, secret (32 bytes), addresses (count u8, then each a length
//! u8 and its text), and the first four bytes of the SHA-256 of all that, which tell a token that
//! lost a piece on its way from one that is not known. Integers are little-endian.
//!
//! Invariants:
//! - the cluster keeps a hash of the secret, never the secret;
//! - secrets are compared in constant time, and are not printed by `Debug`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use warren_cluster_core::ids::Time;

use crate::tls::{self, ClusterId, Fingerprint};

const FAMILY: &str = "warren";
const PREFIX: &str = "warren1.";
const CHECK_BYTES: usize = 4;
pub(crate) const ADDRESSES_LIMIT: usize = 16;
/// Characters of a printed token; sixteen addresses of full length stay below it.
const TEXT_BYTES_LIMIT: usize = 8 << 10;

/// The byte form of [`Grant`]: version u8, token u64, hash (32 bytes), uses left u32, expiry u64.
const GRANT_VERSION: u8 = 1;
const GRANT_BYTES: usize = 53;

/// A token's number; its cluster looks its grant up by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What only the cluster's operator and the joiner know.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From what came over the wire; none when it has not the right length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, for the wire alone.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A token as its bearer has it. `Display` prints the secret too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinToken {
    pub cluster: ClusterId,
    /// Of the cluster's authority.
    pub authority: Fingerprint,
    pub id: TokenId,
    pub secret: Secret,
    /// Where to ask, in order; `host:port` each.
    pub addresses: Vec<String>,
}

/// Why a text is not a token that this version can use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenFault {
    #[error("not a join token: it does not begin with `{PREFIX}`")]
    NotAToken,
    #[error("the join token is of another version (`{found}`, this one reads `{PREFIX}`)")]
    Version { found: String },
    #[error("the join token is damaged: copy the whole of it")]
    Damaged,
    #[error("a join token of {characters} characters is longer than any ({TEXT_BYTES_LIMIT})")]
    TooLong { characters: usize },
    #[error("1 to {ADDRESSES_LIMIT} addresses are named, not {count}")]
    Addresses { count: usize },
    #[error("`{address}` is not an address of the form host:port")]
    Address { address: String },
}

impl JoinToken {
    /// A new token for `cluster`, with an id and a secret of its own.
    ///
    /// # Errors
    /// When an address is none; or the system has no random bytes.
    pub fn issue(
        cluster: ClusterId,
        authority: Fingerprint,
        addresses: Vec<String>,
    ) -> Result<Self, IssueError> {
        check_addresses(&addresses)?;
        Ok(Self {
            cluster,
            authority,
            id: TokenId(u64::from_le_bytes(tls::random()?)),
            secret: Secret(tls::random()?),
            addresses,
        })
    }

    /// Reads what `Display` prints; blanks around it do no harm.
    ///
    /// # Errors
    /// When it is not a token, one of another version, or not whole.
    pub fn parse(text: &str) -> Result<Self, TokenFault> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_LIMIT {
            let characters = text.len();
            return Err(TokenFault::TooLong { characters });
        }
        let Some(body) = text.strip_prefix(PREFIX) else {
            return Err(of_other_version(text).unwrap_or(TokenFault::NotAToken));
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenFault::Damaged)?;
        let (body, check) = bytes
            .split_last_chunk::<CHECK_BYTES>()
            .ok_or(TokenFault::Damaged)?;
        if checksum(body) != *check {
            return Err(TokenFault::Damaged);
        }
        let token = Self::decode(body).ok_or(TokenFault::Damaged)?;
        check_addresses(&token.addresses)?;
        Ok(token)
    }

    fn decode(mut body: &[u8]) -> Option<Self> {
        let cluster = ClusterId(u128::from_le_bytes(take(&mut body)?));
        let authority = Fingerprint(take(&mut body)?);
        let id = TokenId(u64::from_le_bytes(take(&mut body)?));
        let secret = Secret(take(&mut body)?);
        let [count] = take(&mut body)?;
        let mut addresses = Vec::new();
        for _ in 0..count {
            let [length] = take(&mut body)?;
            let (text, rest) = body.split_at_checked(usize::from(length))?;
            addresses.push(std::str::from_utf8(text).ok()?.to_owned());
            body = rest;
        }
        body.is_empty().then_some(Self {
            cluster,
            authority,
            id,
            secret,
            addresses,
        })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut body = Vec::with_capacity(128);
        body.extend(self.cluster.0.to_le_bytes());
        body.extend(self.authority.0);
        body.extend(self.id.0.to_le_bytes());
        body.extend(self.secret.0);
        // Longer lists and texts are refused before a token is made.
        body.push(u8::try_from(self.addresses.len()).map_err(|_| fmt::Error)?);
        for address in &self.addresses {
            body.push(u8::try_from(address.len()).map_err(|_| fmt::Error)?);
            body.extend(address.as_bytes());
        }
        body.extend(checksum(&body));
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(body))
    }
}

/// Why no token can be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error(transparent)]
    Token(#[from] TokenFault),
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

fn of_other_version(text: &str) -> Option<TokenFault> {
    let (version, _) = text.strip_prefix(FAMILY)?.split_once('.')?;
    let is_number = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| TokenFault::Version {
        found: format!("{FAMILY}{version}."),
    })
}

fn checksum(body: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::digest(body);
    [digest[0], digest[1], digest[2], digest[3]]
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Whether a node or a token may name these.
pub(crate) fn check_addresses(addresses: &[String]) -> Result<(), TokenFault> {
    let count = addresses.len();
    if count == 0 || count > ADDRESSES_LIMIT {
        return Err(TokenFault::Addresses { count });
    }
    match addresses.iter().find(|address| !is_address(address)) {
        Some(address) => Err(TokenFault::Address {
            address: address.clone(),
        }),
        None => Ok(()),
    }
}

/// Whether a text is `host:port`, the host being a name or an address (IPv6 in brackets).
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_host = match host.strip_prefix('[') {
        Some(inner) => inner
            .strip_suffix(']')
            .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.bytes().all(good)
        }
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port != 0);
    is_host && is_port && text.len() <= 255
}

/// What the cluster keeps of a token: enough to let its bearer in, not enough to be one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    pub id: TokenId,
    secret_hash: [u8; 32],
    pub uses_left: u32,
    pub expires: Time,
}

/// Why a grant does not let somebody in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GrantFault {
    /// Of a wrong secret too: who does not know it learns nothing of the grant.
    #[error("this cluster knows no such join token")]
    Unknown,
    #[error("the join token has expired")]
    Expired,
    #[error("the join token has been used up")]
    UsedUp,
}

impl Grant {
    /// For a token that may be used `uses` times until `expires`.
    #[must_use]
    pub fn new(token: &JoinToken, uses: u32, expires: Time) -> Self {
        Self {
            id: token.id,
            secret_hash: token.secret.hash(),
            uses_left: uses,
            expires,
        }
    }

    /// The grant with one use less, for a bearer that shows `secret`.
    ///
    /// # Errors
    /// When the secret is another, the time is over, or no use is left.
    pub fn spend(&self, secret: &Secret, now: Time) -> Result<Self, GrantFault> {
        if !bool::from(secret.hash().ct_eq(&self.secret_hash)) {
            return Err(GrantFault::Unknown);
        }
        if now >= self.expires {
            return Err(GrantFault::Expired);
        }
        let uses_left = self.uses_left.checked_sub(1).ok_or(GrantFault::UsedUp)?;
        Ok(Self {
            uses_left,
            ..self.clone()
        })
    }

    /// The byte form, for a row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(GRANT_BYTES);
        out.push(GRANT_VERSION);
        out.extend(self.id.0.to_le_bytes());
        out.extend(self.secret_hash);
        out.extend(self.uses_left.to_le_bytes());
        out.extend(self.expires.0.to_le_bytes());
        out
    }

    /// Reads the byte form; none when it is not one of this version.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let [version] = take(&mut bytes)?;
        if version != GRANT_VERSION {
            return None;
        }
        let grant = Self {
            id: TokenId(u64::from_le_bytes(take(&mut bytes)?)),
            secret_hash: take(&mut bytes)?,
            uses_left: u32::from_le_bytes(take(&mut bytes)?),
            expires: Time(u64::from_le_bytes(take(&mut bytes)?)),
        };
        bytes.is_empty().then_some(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            cluster: ClusterId(7),
            authority: Fingerprint([1; 32]),
            id: TokenId(3),
            secret: Secret([9; 32]),
            addresses: vec!["10.0.0.1:25672".to_owned(), "[::1]:1".to_owned()],
        }
    }

    #[test]
    fn a_printed_token_reads_back() {
        let text = token().to_string();
        assert!(text.starts_with("warren1."), "{text}");
        assert_eq!(JoinToken::parse(&text), Ok(token()));
        assert_eq!(JoinToken::parse(&format!("\n {text}\r\n")), Ok(token()));
        let issued = JoinToken::issue(ClusterId(1), Fingerprint([0; 32]), token().addresses);
        let issued = issued.expect("issues");
        assert_eq!(JoinToken::parse(&issued.to_string()), Ok(issued.clone()));
        assert!(!format!("{issued:?}").contains("[9"), "{issued:?}");
    }

    #[test]
    fn what_is_no_token_says_why() {
        let text = token().to_string();
        let version = TokenFault::Version {
            found: "warren2.".to_owned(),
        };
        let cases = [
            (String::new(), TokenFault::NotAToken),
            ("secret".to_owned(), TokenFault::NotAToken),
            ("warren.x".to_owned(), TokenFault::NotAToken),
            ("warrenty.x".to_owned(), TokenFault::NotAToken),
            (text.replace("warren1", "warren2"), version),
            ("warren1.".to_owned(), TokenFault::Damaged),
            ("warren1.AAAA".to_owned(), TokenFault::Damaged),
            (text[..text.len() - 1].to_owned(), TokenFault::Damaged),
            (format!("{text}A"), TokenFault::Damaged),
            (format!("{text}="), TokenFault::Damaged),
            (text.replace('J', "K"), TokenFault::Damaged),
        ];
        for (text, fault) in cases {
            assert_eq!(JoinToken::parse(&text), Err(fault), "{text}");
        }
        let long = format!("warren1.{}", "A".repeat(TEXT_BYTES_LIMIT));
        let fault = JoinToken::parse(&long).expect_err("too long");
        assert!(matches!(fault, TokenFault::TooLong { .. }));
    }

    #[test]
    fn every_cut_and_flip_is_noticed() {
        let text = token().to_string();
        for at in 0..text.len() {
            assert!(JoinToken::parse(&text[..at]).is_err(), "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let flipped = String::from_utf8(bytes).expect("ASCII");
            assert!(JoinToken::parse(&flipped).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        for good in [
            "a:1",
            "node-1.example.com:25672",
            "127.0.0.1:5",
            "[fe80::1]:65535",
        ] {
            assert!(is_address(good), "{good}");
        }
        let long = format!("{}:1", "a".repeat(254));
        for bad in [
            "", "a", ":1", "a:", "a:0", "a:65536", "a:+1", "::1:5", "[a]:1", "a b:1", &long,
        ] {
            assert!(!is_address(bad), "{bad}");
        }
        let issue = |addresses: Vec<String>| {
            let issued = JoinToken::issue(ClusterId(1), Fingerprint([0; 32]), addresses);
            issued.map(drop).map_err(|error| error.to_string())
        };
        assert!(issue(Vec::new()).is_err());
        assert!(issue(vec!["a:1".to_owned(); ADDRESSES_LIMIT]).is_ok());
        assert!(issue(vec!["a:1".to_owned(); ADDRESSES_LIMIT + 1]).is_err());
        let text = issue(vec!["nowhere".to_owned()]).expect_err("no port");
        assert!(text.contains("`nowhere`"), "{text}");
    }

    #[test]
    fn a_grant_is_spent() {
        let token = token();
        let grant = Grant::new(&token, 2, Time(100));
        assert_eq!(Grant::decode(&grant.encode()), Some(grant.clone()));
        let once = grant.spend(&token.secret, Time(99)).expect("first");
        assert_eq!(
            grant.spend(&token.secret, Time(100)),
            Err(GrantFault::Expired)
        );
        let wrong = Secret([8; 32]);
        assert_eq!(grant.spend(&wrong, Time(0)), Err(GrantFault::Unknown));
        let twice = once.spend(&token.secret, Time(99)).expect("second");
        assert_eq!(
            twice.spend(&token.secret, Time(99)),
            Err(GrantFault::UsedUp)
        );
        let mut other = grant.encode();
        other[0] = 2;
        assert_eq!(Grant::decode(&other), None);
        assert_eq!(Grant::decode(&grant.encode()[1..]), None);
        assert_eq!(Grant::decode(&[]), None);
    }
}
