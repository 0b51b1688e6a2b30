//! What can be wrong with a message before anyone looks at what it says.

/// A message that is no msgpack, or holds an array that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The message ends too early.
    #[error(
        "reading msgpack at byte {at}: expected {expected} more bytes, got {got}; the message was cut off, or it is no \
         msgpack"
    )]
    Truncated {
        /// Position in the message.
        at: usize,
        /// Bytes that should follow.
        expected: usize,
        /// Bytes that do.
        got: usize,
    },
    /// Bytes that mean nothing, or too much of them.
    #[error("reading msgpack at byte {at}: expected {expected}, got {got}; send one msgpack value per message")]
    Unexpected {
        /// Position in the message.
        at: usize,
        /// What would do.
        expected: &'static str,
        /// What is there.
        got: String,
    },
    /// A numpy array that does not hold together, or of a kind that is not read.
    #[error("reading a numpy array: {what}: expected {expected}, got {got}; send arrays of numbers, booleans or text")]
    Array {
        /// Which part of it.
        what: &'static str,
        /// What would do.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A value too long for msgpack, whose lengths have 32 bits.
    #[error("writing msgpack: {what} has {got} entries, expected at most 4294967295; send less at a time")]
    TooLong {
        /// Which kind of value.
        what: &'static str,
        /// Its length.
        got: usize,
    },
}

impl CodecError {
    pub(crate) fn array(what: &'static str, expected: impl Into<String>, got: impl std::fmt::Display) -> Self {
        // What a stranger sent is quoted, and must not fill a log.
        let got: String = got.to_string().chars().take(80).collect();
        Self::Array { what, expected: expected.into(), got }
    }
}
