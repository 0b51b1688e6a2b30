//! One connection to a policy server that is made again when it breaks, for as long as patience lasts.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::ServeError;
use crate::codec::{Dialect, Value, decode, encode};
use crate::groot::{ERROR, LEGACY_ERROR};
use crate::remote::{Patience, Url};
use crate::service::Protocol;
use crate::transport::Wire;
use crate::transport::websocket::{Kind, WebSocket};
use crate::transport::zmtp::{End, Zmtp};

/// Bytes of an answer; chunks of actions are small.
const MAX_ANSWER: u64 = 64 << 20;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

enum Socket {
    Groot(Zmtp),
    Openpi(WebSocket),
}

/// A client.
pub(crate) struct Client {
    url: Url,
    token: Option<String>,
    patience: Patience,
    socket: Option<Socket>,
    answer: Vec<u8>,
}

impl Client {
    pub fn new(url: Url, token: Option<String>, patience: Patience) -> Self {
        Self { url, token, patience, socket: None, answer: Vec::new() }
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Ends the connection; the next question makes another one.
    pub fn hang_up(&mut self) {
        self.socket = None;
    }

    /// Asks an endpoint of a GR00T server.
    pub fn groot(&mut self, endpoint: &str, data: Option<Value>) -> Result<Value<'_>, ServeError> {
        let mut entries = vec![("endpoint", Value::text(endpoint))];
        entries.extend(data.map(|data| ("data", data)));
        let token = self.token.clone();
        entries.extend(token.as_deref().map(|token| ("api_token", Value::text(token))));
        let mut request = Vec::new();
        encode(&Value::map(entries), Dialect::Groot, &mut request)?;
        self.exchange(&request)?;
        let remote = |message: String| ServeError::Remote { address: self.url.to_string(), message: short(&message) };
        if self.answer == LEGACY_ERROR {
            return Err(remote("ERROR, without a reason".into()));
        }
        let answer = decode(&self.answer, Dialect::Groot)?;
        match answer.get(ERROR) {
            Some(Value::Text(message)) => Err(remote(message.to_string())),
            Some(other) => Err(remote(other.describe())),
            None => Ok(answer),
        }
    }

    /// Asks an openpi server.
    pub fn openpi(&mut self, observation: &Value) -> Result<Value<'_>, ServeError> {
        let mut request = Vec::new();
        encode(observation, Dialect::Openpi, &mut request)?;
        self.exchange(&request)?;
        Ok(decode(&self.answer, Dialect::Openpi)?)
    }

    /// Sends a request until its answer is there. Asking twice is asking once: a policy that gets the same observation
    /// again has lost nothing, and an episode that waits has not failed.
    fn exchange(&mut self, request: &[u8]) -> Result<(), ServeError> {
        let begun = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let last = match self.attempt(request) {
                Ok(()) => return Ok(()),
                Err(error @ (ServeError::Io { .. } | ServeError::Stopping)) => error,
                // The server is there, and will not say anything else next time.
                Err(error) => {
                    self.socket = None;
                    return Err(error);
                }
            };
            // Whatever is left in a broken connection belongs to another question.
            self.socket = None;
            if begun.elapsed() + PAUSE >= self.patience.total {
                return Err(ServeError::Gone {
                    address: self.url.to_string(),
                    seconds: begun.elapsed().as_secs().max(1),
                    attempts,
                    last: last.to_string(),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn attempt(&mut self, request: &[u8]) -> Result<(), ServeError> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.connect()?,
        };
        match &mut socket {
            Socket::Groot(socket) => {
                socket.write(&[Vec::new()], request)?;
                if socket.read(&mut self.answer)?.is_none() {
                    return Err(closed());
                }
            }
            Socket::Openpi(socket) => {
                socket.binary(request)?;
                match socket.read(&mut self.answer)? {
                    Kind::Binary => {}
                    Kind::Close => return Err(closed()),
                    Kind::Text => {
                        let message = short(&String::from_utf8_lossy(&self.answer));
                        return Err(ServeError::Remote { address: self.url.to_string(), message });
                    }
                }
            }
        }
        self.socket = Some(socket);
        Ok(())
    }

    fn connect(&self) -> Result<Socket, ServeError> {
        let io = |source| ServeError::io("connecting", source);
        let address = (self.url.host.as_str(), self.url.port).to_socket_addrs().map_err(io)?.next();
        let address = address.ok_or_else(|| io(std::io::ErrorKind::AddrNotAvailable.into()))?;
        let stream = TcpStream::connect_timeout(&address, self.patience.answer).map_err(io)?;
        let wire = Wire::client(stream, self.patience.answer).map_err(io)?;
        Ok(match self.url.protocol {
            Protocol::Groot => Socket::Groot(Zmtp::handshake(wire, End::Req, MAX_ANSWER)?),
            Protocol::Openpi => {
                let host = format!("{}:{}", self.url.host, self.url.port);
                let mut socket = WebSocket::connect(wire, &host, self.token.as_deref(), MAX_ANSWER)?;
                // Its metadata come first. What is in them is the server's own affair.
                match socket.read(&mut Vec::new())? {
                    Kind::Binary => Socket::Openpi(socket),
                    _ => return Err(closed()),
                }
            }
        })
    }
}

fn closed() -> ServeError {
    ServeError::io("waiting for an answer", std::io::ErrorKind::ConnectionAborted.into())
}

fn short(text: &str) -> String {
    text.chars().take(400).collect()
}
