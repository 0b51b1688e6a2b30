//! What carries messages: ZeroMQ and WebSocket over plain TCP, on blocking threads.
//!
//! Both are written here rather than taken from a crate. The living ZeroMQ crate in Rust (zeromq 0.7) has no limit for
//! messages and reserves what the header of a frame claims, so that a few bytes of a stranger ask for all the memory; and we
//! need one socket pattern without options. Of WebSocket we need whole messages in two directions, without extensions.

pub(crate) mod http;
pub(crate) mod websocket;
mod wire;
pub(crate) mod zmtp;

pub(crate) use wire::Wire;
