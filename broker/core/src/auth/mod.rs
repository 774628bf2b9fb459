//! Who somebody is and what they may do: SASL, password hashes, permissions.

pub mod access;
pub mod password;
pub mod sasl;
