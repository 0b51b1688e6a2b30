//! ZeroMQ's wire protocol, ZMTP 3.0 with the NULL mechanism (rfc.zeromq.org/spec/23), as far as REQ and REP need it.

use std::io;

use super::Wire;
use crate::ServeError;
use crate::codec::Parted;

/// Frames in front of the empty one, such as the identities that routers add; each is short.
const MAX_ENVELOPE: usize = 8;
const MAX_IDENTITY: u64 = 256;
/// Handshakes and heartbeats.
const MAX_COMMAND: u64 = 4096;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Which end of the pattern this side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Rep,
    Req,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Rep => "REP",
            Self::Req => "REQ",
        }
    }

    /// The socket types that fit it.
    fn peers(self) -> [&'static str; 2] {
        match self {
            Self::Rep => ["REQ", "DEALER"],
            Self::Req => ["REP", "ROUTER"],
        }
    }
}

/// A connection after its handshake.
pub(crate) struct Zmtp {
    wire: Wire,
    max_message: u64,
}

/// The frames in front of a request, which its answer carries again.
pub(crate) type Envelope = Vec<Vec<u8>>;

impl Zmtp {
    /// Shakes hands.
    ///
    /// # Errors
    /// A peer of another protocol, version, mechanism or socket type; a connection that breaks.
    pub fn handshake(mut wire: Wire, end: End, max_message: u64) -> Result<Self, ServeError> {
        let io = |source| ServeError::io("greeting a ZeroMQ peer", source);
        let mut greeting = [0; 64];
        let (signature, rest) = greeting.split_at_mut(10);
        signature.copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f]);
        rest[..6].copy_from_slice(&[3, 0, b'N', b'U', b'L', b'L']);
        wire.write(&greeting, &[]).map_err(io)?;
        let theirs: [u8; 64] = wire.exact().map_err(io)?;
        if theirs[0] != 0xff || theirs[9] & 1 != 1 {
            return Err(unexpected("a ZMTP greeting", format!("bytes {:02x} .. {:02x}", theirs[0], theirs[9])));
        }
        if theirs[10] < 3 {
            return Err(unexpected("version 3 or newer", theirs[10].to_string()));
        }
        if &theirs[12..17] != b"NULL\0" {
            let name = String::from_utf8_lossy(&theirs[12..32]).trim_end_matches('\0').to_owned();
            return Err(unexpected("security mechanism NULL", format!("{name:?}")));
        }
        let mut ready = b"\x05READY".to_vec();
        push_property(&mut ready, "Socket-Type", end.name());
        push_property(&mut ready, "Identity", "");
        let mut socket = Self { wire, max_message };
        socket.write_command(&ready).map_err(io)?;
        let mut body = Vec::new();
        let flags = socket.read_frame(MAX_COMMAND, &mut body)?;
        let kind = if flags & COMMAND == 0 { None } else { property(&body, "Socket-Type") };
        match kind {
            Some(kind) if end.peers().iter().any(|peer| peer.as_bytes() == kind) => Ok(socket),
            Some(kind) => {
                let got = String::from_utf8_lossy(kind).into_owned();
                Err(unexpected(if end == End::Rep { "a REQ socket" } else { "a REP socket" }, got))
            }
            None => Err(unexpected("a READY command", format!("{} other bytes", body.len()))),
        }
    }

    /// Reads a message into `body`; `None` if the peer has closed the connection between two of them.
    ///
    /// # Errors
    /// A message that is too long or has no empty frame before its one body, or a connection that breaks.
    pub fn read(&mut self, body: &mut Vec<u8>) -> Result<Option<Envelope>, ServeError> {
        let Some((envelope, length)) = self.open()? else { return Ok(None) };
        body.clear();
        self.wire.body(length, body).map_err(lost)?;
        Ok(Some(envelope))
    }

    /// As [`Self::read`], the large parts of the message apart.
    ///
    /// # Errors
    /// As there.
    pub fn read_parted(&mut self, body: &mut Parted) -> Result<Option<Envelope>, ServeError> {
        let Some((envelope, length)) = self.open()? else { return Ok(None) };
        body.read(length, |count, out| self.wire.body(count, out)).map_err(lost)?;
        Ok(Some(envelope))
    }

    /// Reads what comes before a body, and how long that is.
    fn open(&mut self) -> Result<Option<(Envelope, u64)>, ServeError> {
        let mut envelope = Envelope::new();
        loop {
            if envelope.is_empty() && !self.wire.wait().map_err(lost)? {
                return Ok(None);
            }
            let mut frame = Vec::new();
            let flags = self.read_frame(if envelope.is_empty() { MAX_COMMAND } else { MAX_IDENTITY }, &mut frame)?;
            if flags & COMMAND != 0 {
                self.command(&frame)?;
                continue;
            }
            if flags & MORE == 0 || envelope.len() == MAX_ENVELOPE {
                return Err(unexpected("an empty frame before the body, as REQ sends it", "none".into()));
            }
            let ends = frame.is_empty();
            envelope.push(frame);
            if ends {
                break;
            }
        }
        let (flags, length) = self.header(self.max_message)?;
        if flags & (MORE | COMMAND) != 0 {
            return Err(unexpected("a body of one frame", "another one behind it".into()));
        }
        Ok(Some((envelope, length)))
    }

    /// Writes a message; `envelope` as [`Self::read`] gave it, or one empty frame.
    ///
    /// # Errors
    /// A connection that breaks.
    pub fn write(&mut self, envelope: &[Vec<u8>], body: &[u8]) -> Result<(), ServeError> {
        let mut head = Vec::new();
        for frame in envelope {
            push_header(&mut head, MORE, frame.len());
            head.extend_from_slice(frame);
        }
        push_header(&mut head, 0, body.len());
        self.wire.write(&head, body).map_err(lost)
    }

    /// Heartbeats are answered; whatever else a newer version says is not for us.
    fn command(&mut self, body: &[u8]) -> Result<(), ServeError> {
        // PING has two bytes of time to live and then what the answer has to repeat.
        if let Some(context) = body.strip_prefix(b"\x04PING").and_then(|rest| rest.get(2..)) {
            let mut pong = b"\x04PONG".to_vec();
            pong.extend_from_slice(context.get(..16).unwrap_or(context));
            self.write_command(&pong).map_err(lost)?;
        }
        Ok(())
    }

    fn read_frame(&mut self, most: u64, out: &mut Vec<u8>) -> Result<u8, ServeError> {
        let (flags, length) = self.header(most)?;
        self.wire.body(length, out).map_err(lost)?;
        Ok(flags)
    }

    /// Flags and length of a frame.
    fn header(&mut self, most: u64) -> Result<(u8, u64), ServeError> {
        let [flags] = self.wire.exact().map_err(lost)?;
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & COMMAND != 0 && flags & MORE != 0 {
            return Err(unexpected("a frame", format!("flags {flags:02x}")));
        }
        let length = match flags & LONG {
            0 => u64::from(self.wire.exact::<1>().map_err(lost)?[0]),
            _ => u64::from_be_bytes(self.wire.exact().map_err(lost)?),
        };
        if length > most {
            let got = format!("a frame that claims {length} bytes, {most} are allowed");
            return Err(unexpected("a shorter message", got));
        }
        Ok((flags, length))
    }

    fn write_command(&mut self, body: &[u8]) -> io::Result<()> {
        let mut head = Vec::new();
        push_header(&mut head, COMMAND, body.len());
        self.wire.write(&head, body)
    }
}

fn push_header(out: &mut Vec<u8>, flags: u8, length: usize) {
    match u8::try_from(length) {
        Ok(length) => out.extend([flags, length]),
        Err(_) => {
            out.push(flags | LONG);
            out.extend((length as u64).to_be_bytes());
        }
    }
}

fn unexpected(expected: &'static str, got: String) -> ServeError {
    ServeError::Transport { transport: "ZeroMQ", expected, got: got.chars().take(80).collect() }
}

fn lost(source: io::Error) -> ServeError {
    ServeError::io("a ZeroMQ connection", source)
}

fn push_property(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(name.len() as u8);
    out.extend(name.as_bytes());
    out.extend((value.len() as u32).to_be_bytes());
    out.extend(value.as_bytes());
}

/// A property of a READY command; names are compared without case, as the specification asks.
fn property<'b>(ready: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let mut rest = ready.strip_prefix(b"\x05READY")?;
    while let Some((length, after)) = rest.split_first() {
        let (key, after) = after.split_at_checked(usize::from(*length))?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let (value, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if key.eq_ignore_ascii_case(name.as_bytes()) {
            return Some(value);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{property, push_property};

    #[test]
    fn properties_are_found_without_case_and_cut_ones_are_none() {
        let mut ready = b"\x05READY".to_vec();
        push_property(&mut ready, "Identity", "");
        push_property(&mut ready, "socket-type", "REQ");
        assert_eq!(property(&ready, "Socket-Type"), Some(&b"REQ"[..]));
        assert_eq!(property(&ready, "Resource"), None);
        for cut in 0..ready.len() {
            assert_eq!(property(&ready[..cut], "Socket-Type"), None, "{cut}");
        }
        ready[7 + 8] = 0xff;
        assert_eq!(property(&ready, "Socket-Type"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_command_is_read_without_panic(bytes in proptest::collection::vec(0_u8.., 0..64)) {
            property(&[b"\x05READY", bytes.as_slice()].concat(), "Socket-Type");
        }
    }
}
