//! What carries messages: ZeroMQ and WebSocket over plain TCP, on blocking threads.
//!
//! Both are written here rather than taken from a crate. The living ZeroMQ crate in Rust allocates what the header of a
//! frame claims, so that nine bytes of a stranger end the process; and we need one socket pattern without options. Of
//! WebSocket we need whole messages in two directions, without extensions.

pub(crate) mod http;
pub(crate) mod websocket;
mod wire;
pub(crate) mod zmtp;

pub(crate) use wire::Wire;
