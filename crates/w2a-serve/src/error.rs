//! What can go wrong between a client and a server.

use std::io;

use w2a_nn::NnError;

use crate::codec::CodecError;

/// An error of this crate; says what was expected, what came, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A message that cannot be read.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A part of a message that does not fit the policy, or the protocol.
    #[error("{what}: expected {expected}, got {got}")]
    Message {
        /// Which part.
        what: String,
        /// What would do.
        expected: String,
        /// What came.
        got: String,
    },
    /// A client without the right token; in GR00T's own words.
    #[error("{0}")]
    Refused(&'static str),
    /// A request for something that GR00T's servers do not have; in their own words.
    #[error("Unknown endpoint: {0}")]
    UnknownEndpoint(String),
    /// Bytes on the wire that break the transport's own rules.
    #[error("{transport}: expected {expected}, got {got}; is the other side a {transport} peer of this protocol?")]
    Transport {
        /// `ZeroMQ`, `WebSocket` or `HTTP`.
        transport: &'static str,
        /// What should have come.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// What was asked of a server that learns cannot be.
    #[error("{0}")]
    Learning(String),
    /// The policy failed.
    #[error(transparent)]
    Policy(#[from] NnError),
    /// The server stops, so that this request is not answered any more.
    #[error("the server is stopping; connect again once it runs")]
    Stopping,
    /// The other side reported an error of its own.
    #[error("{address} answered with an error: {message}")]
    Remote {
        /// The server.
        address: String,
        /// Its words.
        message: String,
    },
    /// The server cannot be reached, or does not answer.
    #[error(
        "{address} gave no answer within {seconds} s and {attempts} attempts: {last}; start the server, or check host \
         and port, and run again: what was done before is kept"
    )]
    Gone {
        /// The server.
        address: String,
        /// How long it was tried.
        seconds: u64,
        /// How often.
        attempts: usize,
        /// What the last attempt ended with.
        last: String,
    },
    /// A server's address that is none.
    #[error("address of a policy server {text:?}: expected groot://host:port or openpi://host:port")]
    Address {
        /// The text, shortened.
        text: String,
    },
    /// The address cannot be listened on.
    #[error("listening on {address} failed: {source}; choose another --port, or another --host of this machine")]
    Listen {
        /// The address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// A connection broke.
    #[error("{action} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl ServeError {
    pub(crate) fn message(what: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Self {
        // Names in messages are a stranger's.
        let got: String = got.into().chars().take(300).collect();
        Self::Message { what: what.into(), expected: expected.into(), got }
    }

    pub(crate) fn io(action: &'static str, source: io::Error) -> Self {
        Self::Io { action, source }
    }

    /// Whether the user can mend it (exit code 2), or it is ours or the machine's (exit code 1).
    pub fn is_users_mistake(&self) -> bool {
        match self {
            Self::Policy(error) => !matches!(error, NnError::Diverged { .. } | NnError::Device { .. }),
            Self::Io { .. } | Self::Stopping => false,
            _ => true,
        }
    }
}
