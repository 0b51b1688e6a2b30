//! WebSocket (RFC 6455) without extensions: whole messages in both directions.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;

use data_encoding::BASE64;
use sha1::{Digest, Sha1};

use super::Wire;
use super::http::{Head, unexpected as bad_http};
use crate::ServeError;

/// What the RFC appends to a client's key.
const ACCEPT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Control frames are this long at most.
const MAX_CONTROL: u64 = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
    /// The other side has ended the conversation.
    Close,
}

/// A connection after its handshake.
pub(crate) struct WebSocket {
    wire: Wire,
    is_server: bool,
    max_message: u64,
}

impl WebSocket {
    /// Answers a client's request to upgrade.
    ///
    /// # Errors
    /// A request without what the RFC asks for; a connection that breaks.
    pub fn accept(mut wire: Wire, head: &Head, max_message: u64) -> Result<Self, ServeError> {
        let asks = head.lists("connection", "upgrade") && head.lists("upgrade", "websocket");
        let version = head.field("sec-websocket-version") == Some("13");
        let Some(key) = head.field("sec-websocket-key").filter(|_| asks && version) else {
            return Err(bad_http("a request to upgrade to WebSocket 13", head.first.join(" ")));
        };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-accept: {}\r\n\r\n",
            accept_key(key)
        );
        wire.write(answer.as_bytes(), &[]).map_err(lost)?;
        Ok(Self { wire, is_server: true, max_message })
    }

    /// Asks a server to upgrade; `token` is sent as openpi's API key.
    ///
    /// # Errors
    /// A server that answers anything else; a connection that breaks.
    pub fn connect(mut wire: Wire, host: &str, token: Option<&str>, max_message: u64) -> Result<Self, ServeError> {
        let key = BASE64.encode(&[random(), random()].concat());
        let token = token.map_or_else(String::new, |token| format!("authorization: Api-Key {token}\r\n"));
        let request = format!(
            "GET / HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n{token}\r\n"
        );
        wire.write(request.as_bytes(), &[]).map_err(lost)?;
        let head = Head::read(&mut wire)?;
        let accepted = head.field("sec-websocket-accept") == Some(accept_key(&key).as_str());
        if head.first[1] == "401" {
            return Err(ServeError::Refused("Unauthorized: the server wants another API token"));
        }
        if head.first[1] != "101" || !accepted {
            return Err(bad_http("101 Switching Protocols with our key", head.first.join(" ")));
        }
        Ok(Self { wire, is_server: false, max_message })
    }

    /// Reads a message into `body`. Pings are answered on the way; a connection that is closed without a word counts as
    /// closed.
    ///
    /// # Errors
    /// Frames that break the RFC, a message that is too long, a connection that breaks.
    pub fn read(&mut self, body: &mut Vec<u8>) -> Result<Kind, ServeError> {
        body.clear();
        let mut kind = None;
        loop {
            if !self.wire.wait().map_err(lost)? {
                return Ok(Kind::Close);
            }
            let [first, second] = self.wire.exact().map_err(lost)?;
            let (opcode, is_final) = (first & 0x0f, first & FINAL != 0);
            if first & 0x70 != 0 || (second & MASKED != 0) != self.is_server {
                return Err(unexpected("a frame without extensions, masked by clients only", format!("{first:02x}")));
            }
            let length = match second & !MASKED {
                126 => u64::from(u16::from_be_bytes(self.wire.exact().map_err(lost)?)),
                127 => u64::from_be_bytes(self.wire.exact().map_err(lost)?),
                short => u64::from(short),
            };
            let mask = if self.is_server { self.wire.exact().map_err(lost)? } else { [0; 4] };
            if opcode >= CLOSE {
                if length > MAX_CONTROL || !is_final {
                    return Err(unexpected("a short control frame", format!("{length} bytes")));
                }
                let mut payload = Vec::new();
                self.wire.body(length, &mut payload).map_err(lost)?;
                apply(mask, &mut payload);
                match opcode {
                    CLOSE => {
                        // The conversation is over, whether the answer arrives or not.
                        let _ = self.write(CLOSE, payload.get(..2).unwrap_or_default());
                        return Ok(Kind::Close);
                    }
                    PING => self.write(PONG, &payload)?,
                    PONG => {}
                    other => return Err(unexpected("a known control frame", other.to_string())),
                }
                continue;
            }
            kind = match (opcode, kind) {
                (TEXT, None) => Some(Kind::Text),
                (BINARY, None) => Some(Kind::Binary),
                (CONTINUATION, Some(kind)) => Some(kind),
                (other, _) => return Err(unexpected("a message frame in its order", format!("opcode {other}"))),
            };
            let start = body.len();
            if (start as u64).saturating_add(length) > self.max_message {
                let got = format!("one that claims {length} bytes more, {} are allowed", self.max_message);
                return Err(unexpected("a shorter message", got));
            }
            self.wire.body(length, body).map_err(lost)?;
            if let Some(new) = body.get_mut(start..) {
                apply(mask, new);
            }
            if let (true, Some(kind)) = (is_final, kind) {
                return Ok(kind);
            }
        }
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// A connection that breaks.
    pub fn binary(&mut self, body: &[u8]) -> Result<(), ServeError> {
        self.write(BINARY, body)
    }

    /// Sends text, by which openpi means an error.
    ///
    /// # Errors
    /// A connection that breaks.
    pub fn text(&mut self, text: &str) -> Result<(), ServeError> {
        self.write(TEXT, text.as_bytes())
    }

    /// Says goodbye: 1001, going away.
    pub fn goodbye(&mut self) {
        let _ = self.write(CLOSE, &1001_u16.to_be_bytes());
    }

    fn write(&mut self, opcode: u8, body: &[u8]) -> Result<(), ServeError> {
        let mut header = vec![FINAL | opcode];
        let masked = if self.is_server { 0 } else { MASKED };
        match body.len() {
            length @ 0..126 => header.push(masked | length as u8),
            length @ 126..=0xffff => {
                header.push(masked | 126);
                header.extend((length as u16).to_be_bytes());
            }
            length => {
                header.push(masked | 127);
                header.extend((length as u64).to_be_bytes());
            }
        }
        if self.is_server {
            return self.wire.write(&header, body).map_err(lost);
        }
        let [a, b, c, d, ..] = random();
        header.extend([a, b, c, d]);
        let mut body = body.to_vec();
        apply([a, b, c, d], &mut body);
        self.wire.write(&header, &body).map_err(lost)
    }
}

/// Masks, and takes the mask off again.
fn apply(mask: [u8; 4], bytes: &mut [u8]) {
    if mask == [0; 4] {
        return;
    }
    let (words, rest) = bytes.as_chunks_mut::<8>();
    let wide = u64::from_ne_bytes([mask, mask].concat().try_into().unwrap_or_default());
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    rest.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Masks and keys must not be foreseen by what a client is made to send; they are no part of any result.
fn random() -> [u8; 8] {
    RandomState::new().build_hasher().finish().to_ne_bytes()
}

fn accept_key(key: &str) -> String {
    BASE64.encode(&Sha1::digest(format!("{key}{ACCEPT}")))
}

fn unexpected(expected: &'static str, got: String) -> ServeError {
    ServeError::Transport { transport: "WebSocket", expected, got }
}

fn lost(source: io::Error) -> ServeError {
    ServeError::io("a WebSocket connection", source)
}

#[cfg(test)]
mod tests {
    use super::{accept_key, apply};

    #[test]
    fn the_key_of_the_rfc_is_accepted_as_there() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn masking_goes_by_position_and_twice_is_nothing() {
        for length in 0..20 {
            let plain: Vec<u8> = (0..length).collect();
            let mut masked = plain.clone();
            apply([1, 2, 4, 8], &mut masked);
            for (place, (masked, plain)) in masked.iter().zip(&plain).enumerate() {
                assert_eq!(masked ^ plain, [1, 2, 4, 8][place % 4]);
            }
            apply([1, 2, 4, 8], &mut masked);
            assert_eq!(masked, plain);
        }
    }
}
