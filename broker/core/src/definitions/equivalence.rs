//! Re-declaring.
