//! As much of HTTP/1.1 as two pages and the upgrade to WebSocket need.

use std::io;

use super::Wire;
use crate::ServeError;

const MAX_HEAD: u64 = 16 * 1024;

/// The head of a request or of an answer: its first line and its fields.
pub(crate) struct Head {
    /// The three words of the first line.
    pub first: [String; 3],
    fields: Vec<(String, String)>,
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// More than 16 KiB, bytes that are no text, lines that are no fields; a connection that breaks.
    pub fn read(wire: &mut Wire) -> Result<Self, ServeError> {
        let bytes = wire.head(MAX_HEAD).map_err(|source| ServeError::io("reading the head of HTTP", source))?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, ServeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| unexpected("text", "other bytes".into()))?;
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let words: Vec<String> = line.splitn(3, ' ').map(str::to_owned).collect();
        let first: [String; 3] =
            words.try_into().map_err(|_| unexpected("a first line of three words", format!("{line:?}")))?;
        let mut fields = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or_else(|| unexpected("a field", format!("{line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { first, fields })
    }

    /// A field, by its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a field lists a word, whatever its case.
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.field(name).is_some_and(|value| value.split(',').any(|entry| entry.trim().eq_ignore_ascii_case(word)))
    }
}

/// Answers with a text and ends the conversation.
pub(crate) fn answer(wire: &mut Wire, status: &str, text: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        text.len()
    );
    wire.write(head.as_bytes(), text.as_bytes())
}

pub(super) fn unexpected(expected: &'static str, got: String) -> ServeError {
    ServeError::Transport { transport: "HTTP", expected, got: got.chars().take(80).collect() }
}

#[cfg(test)]
mod tests {
    use super::Head;

    #[test]
    fn fields_are_found_and_lists_read() {
        let head =
            Head::parse(b"GET /a HTTP/1.1\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n").unwrap();
        assert_eq!(head.first, ["GET", "/a", "HTTP/1.1"]);
        assert!(head.lists("connection", "upgrade") && head.lists("upgrade", "WebSocket"));
        assert!(!head.lists("connection", "up") && head.field("host").is_none());
        assert!(Head::parse(b"GET /\r\n\r\n").is_err() && Head::parse(b"GET / HTTP/1.1\r\nx\r\n\r\n").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_head_is_read_without_panic(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            drop(Head::parse(&bytes));
        }
    }
}
