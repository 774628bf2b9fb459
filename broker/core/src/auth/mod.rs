//! Who somebody is and what they may do: SASL, password hashes, permissions.

use std::sync::Arc;

use crate::topology::{Topology, User};

pub mod access;
pub mod password;
pub mod sasl;

/// Why a login was refused: for the log alone. Clients are told no more than that it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoginError {
    #[error("no such user")]
    UnknownUser,
    #[error("wrong password")]
    WrongPassword,
    #[error("the user has no password")]
    NoPassword,
    #[error("blank passwords are refused")]
    BlankPassword,
    #[error("the password's hash is MD5, which is kept but not checked")]
    UnsupportedHash,
    #[error("the user can only connect from this machine")]
    NotLoopback,
}

/// Checks name and password, and that a user of `loopback_users` comes from this machine.
///
/// # Errors
/// Why not; an unknown user takes as long as a wrong password.
pub fn log_in(
    topology: &Topology,
    name: &[u8],
    password: &[u8],
    loopback_users: &[String],
    from_loopback: bool,
) -> Result<Arc<User>, LoginError> {
    let name = std::str::from_utf8(name).ok();
    let Some(user) = name.and_then(|name| topology.user(name)) else {
        password::check_nobody(password);
        return Err(LoginError::UnknownUser);
    };
    password::check(&user.row, password)?;
    if !from_loopback && loopback_users.iter().any(|name| **name == *user.name) {
        return Err(LoginError::NotLoopback);
    }
    Ok(Arc::clone(user))
}
