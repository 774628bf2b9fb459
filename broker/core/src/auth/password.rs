//! Password hashes in RabbitMQ's formats: a salt of four bytes, then the digest of salt and
//! password, in base64 where they are text.
//!
//! Digests are compared in constant time. MD5 is known by name, so that old definitions can be
//! kept, but no password matches it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::LoginError;
use crate::definitions::{HashingAlgorithm, UserRow};

/// Bytes of salt in front of a digest.
pub const SALT_BYTES: usize = 4;

/// Salt and digest of a password; `None` for MD5.
#[must_use]
pub fn hash(
    algorithm: HashingAlgorithm,
    salt: [u8; SALT_BYTES],
    password: &[u8],
) -> Option<Vec<u8>> {
    let mut hash = salt.to_vec();
    match algorithm {
        HashingAlgorithm::Sha256 => {
            let digest = Sha256::new().chain_update(salt).chain_update(password);
            hash.extend_from_slice(&digest.finalize());
        }
        HashingAlgorithm::Sha512 => {
            let digest = Sha512::new().chain_update(salt).chain_update(password);
            hash.extend_from_slice(&digest.finalize());
        }
        HashingAlgorithm::Md5 => return None,
    }
    Some(hash)
}

/// Checks a password against a user's row.
///
/// # Errors
/// Why it is not right.
pub fn check(user: &UserRow, password: &[u8]) -> Result<(), LoginError> {
    if password.is_empty() {
        return Err(LoginError::BlankPassword);
    }
    let Some(salt) = user.password_hash.first_chunk::<SALT_BYTES>() else {
        return Err(LoginError::NoPassword);
    };
    let Some(computed) = hash(user.algorithm, *salt, password) else {
        return Err(LoginError::UnsupportedHash);
    };
    if computed.ct_eq(&user.password_hash).into() {
        Ok(())
    } else {
        Err(LoginError::WrongPassword)
    }
}

/// Takes as long as a check, so that nobody learns from the time who exists.
pub fn check_nobody(password: &[u8]) {
    let nobody = UserRow {
        password_hash: vec![0; SALT_BYTES + 32],
        ..UserRow::default()
    };
    // A digest is never all zero; were it, the answer would still not be looked at.
    std::hint::black_box(check(&nobody, password).is_ok());
}

/// A hash as definitions files and the HTTP API write it.
#[must_use]
pub fn to_base64(hash: &[u8]) -> String {
    STANDARD.encode(hash)
}

/// The hash behind its text; `None` when it is no base64.
#[must_use]
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(algorithm: HashingAlgorithm, password_hash: Vec<u8>) -> UserRow {
        UserRow {
            password_hash,
            algorithm,
            ..UserRow::default()
        }
    }

    /// The vector of RabbitMQ's documentation on password hashing.
    #[test]
    fn rabbitmq_check_vector() {
        const TEXT: &str = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        let made = hash(
            HashingAlgorithm::Sha256,
            [0x90, 0x8D, 0xC6, 0x0A],
            b"test12",
        );
        let made = made.expect("SHA-256 is supported");
        assert_eq!(to_base64(&made), TEXT);
        assert_eq!(from_base64(TEXT), Some(made.clone()));
        let user = user(HashingAlgorithm::Sha256, made);
        assert_eq!(check(&user, b"test12"), Ok(()));
        assert_eq!(check(&user, b"test13"), Err(LoginError::WrongPassword));
    }

    #[test]
    fn what_is_refused() {
        let sha512 = hash(HashingAlgorithm::Sha512, [1, 2, 3, 4], b"secret").expect("supported");
        assert_eq!(sha512.len(), SALT_BYTES + 64);
        let with = |algorithm, hash: &[u8]| user(algorithm, hash.to_vec());
        assert_eq!(
            check(&with(HashingAlgorithm::Sha512, &sha512), b"secret"),
            Ok(())
        );
        let cases = [
            (
                HashingAlgorithm::Sha512,
                &sha512[..],
                "",
                LoginError::BlankPassword,
            ),
            (
                HashingAlgorithm::Sha256,
                &sha512,
                "secret",
                LoginError::WrongPassword,
            ),
            (
                HashingAlgorithm::Sha512,
                &sha512[..20],
                "secret",
                LoginError::WrongPassword,
            ),
            (
                HashingAlgorithm::Sha512,
                b"",
                "secret",
                LoginError::NoPassword,
            ),
            (
                HashingAlgorithm::Sha512,
                b"abc",
                "secret",
                LoginError::NoPassword,
            ),
            (
                HashingAlgorithm::Md5,
                &sha512,
                "secret",
                LoginError::UnsupportedHash,
            ),
        ];
        for (algorithm, hash, password, error) in cases {
            assert_eq!(
                check(&with(algorithm, hash), password.as_bytes()),
                Err(error)
            );
        }
        assert_eq!(from_base64("not base64!"), None);
        check_nobody(b"whatever");
    }
}
