//! One client connection with all its channels, without the socket.

pub mod event;
