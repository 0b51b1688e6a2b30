//! A TCP connection that is read with limits on size and time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long the rest of a message may take to make progress once it has begun.
const STALL: Duration = Duration::from_secs(30);
/// Below this a header is copied to its body rather than sent as a packet of its own.
const SMALL: usize = 1 << 16;
const READ_BUFFER: usize = 1 << 16;

/// A connection.
pub(crate) struct Wire {
    reader: BufReader<TcpStream>,
    /// How long to wait for a message to begin.
    idle: Duration,
    stall: Duration,
}

impl Wire {
    /// A server's side, which waits for the next message no longer than `idle`.
    pub fn server(stream: TcpStream, idle: Duration) -> io::Result<Self> {
        Self::new(stream, idle, STALL)
    }

    /// A client's side, which waits for an answer no longer than `timeout`.
    pub fn client(stream: TcpStream, timeout: Duration) -> io::Result<Self> {
        Self::new(stream, timeout, timeout)
    }

    fn new(stream: TcpStream, idle: Duration, stall: Duration) -> io::Result<Self> {
        // Each message is written whole; waiting for more would only cost 40 ms.
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(stall))?;
        stream.set_write_timeout(Some(stall))?;
        Ok(Self { reader: BufReader::with_capacity(READ_BUFFER, stream), idle, stall })
    }

    /// Waits for the first byte of a message; `false` if the other side has closed the connection.
    pub fn wait(&mut self) -> io::Result<bool> {
        if !self.reader.buffer().is_empty() {
            return Ok(true);
        }
        self.reader.get_ref().set_read_timeout(Some(self.idle))?;
        let more = loop {
            match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                found => break found.map(|bytes| !bytes.is_empty()),
            }
        };
        self.reader.get_ref().set_read_timeout(Some(self.stall))?;
        more
    }

    /// Exactly so many bytes.
    pub fn exact<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Appends `length` bytes to `out`. Memory grows with what arrives, not with what was claimed.
    pub fn body(&mut self, length: u64, out: &mut Vec<u8>) -> io::Result<()> {
        let got = (&mut self.reader).take(length).read_to_end(out)?;
        if got as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// The lines up to the first empty one.
    pub fn head(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let left = most.saturating_sub(head.len() as u64);
            let got = (&mut self.reader).take(left).read_until(b'\n', &mut head)?;
            if got == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a head without an end"));
            }
        }
        Ok(head)
    }

    /// Writes a header and what belongs to it.
    pub fn write(&mut self, header: &[u8], body: &[u8]) -> io::Result<()> {
        let stream = self.reader.get_mut();
        if body.len() > SMALL {
            stream.write_all(header)?;
            return stream.write_all(body);
        }
        stream.write_all(&[header, body].concat())
    }
}
