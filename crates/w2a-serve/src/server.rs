//! Listening, a thread for each connection, and stopping without cutting off an answer.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::codec::Parted;
use crate::engine::Served;
use crate::service::{Protocol, Service};
use crate::transport::websocket::{Kind, WebSocket};
use crate::transport::zmtp::{End, Zmtp};
use crate::transport::{Wire, http};
use crate::{ServeError, groot, openpi};

/// Between two looks at whether to stop, and so the longest that accepting a client takes.
const LOOK: Duration = Duration::from_millis(10);
/// How long a stopping server lets answers finish.
const GRACE: Duration = Duration::from_secs(5);

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What is spoken.
    pub protocol: Protocol,
    /// Address to listen on; `127.0.0.1` is reachable from this machine only.
    pub host: String,
    /// Port; 0 for any free one.
    pub port: u16,
    /// What clients have to know; `None` for no check.
    pub token: Option<String>,
    /// Bytes of a message.
    pub max_message: u64,
    /// Clients at the same time.
    pub max_connections: usize,
    /// How long a client may say nothing before its connection is closed; heartbeats of either transport count.
    pub idle: Duration,
}

impl ServerConfig {
    /// On this machine only, without a token, messages up to 256 MiB, 256 clients, closed after half an hour of silence.
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            host: "127.0.0.1".into(),
            port: protocol.port(),
            token: None,
            max_message: 256 << 20,
            max_connections: 256,
            idle: Duration::from_secs(30 * 60),
        }
    }
}

/// A running server; it stops when this is dropped.
pub struct Server {
    address: SocketAddr,
    service: Arc<Service>,
    listening: Option<JoinHandle<()>>,
}

type Streams = Arc<Mutex<BTreeMap<u64, TcpStream>>>;

impl Server {
    /// Starts to listen. The server stops soon after `stop` becomes true, also by a client's `kill`.
    ///
    /// # Errors
    /// [`ServeError::Listen`] if the address cannot be used.
    pub fn start(served: Served, config: &ServerConfig, stop: Arc<AtomicBool>) -> Result<Self, ServeError> {
        let address = format!("{}:{}", config.host, config.port);
        let listen = |source| ServeError::Listen { address: address.clone(), source };
        let listener = TcpListener::bind((config.host.as_str(), config.port)).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let service = Arc::new(Service::new(served, config, stop));
        let (most, shared) = (config.max_connections, Arc::clone(&service));
        let listening = std::thread::spawn(move || accept(&listener, &shared, most));
        Ok(Self { address: local, service, listening: Some(listening) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has counted, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.service.page()
    }

    /// Waits until the server has stopped; the result is what it has counted, as [`Self::metrics`].
    pub fn wait(mut self) -> String {
        self.join();
        self.metrics()
    }

    fn join(&mut self) {
        if let Some(thread) = self.listening.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.service.request_stop();
        self.join();
    }
}

fn accept(listener: &TcpListener, service: &Arc<Service>, most: usize) {
    let streams: Streams = Streams::default();
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut sessions = 0_u64;
    while !service.stopping() {
        match listener.accept() {
            Ok((stream, _)) => {
                threads.retain(|thread| !thread.is_finished());
                // Refused by closing: whoever fills the server up is not owed a sentence.
                if threads.len() >= most || stream.set_nonblocking(false).is_err() {
                    continue;
                }
                sessions += 1;
                let session = sessions;
                if let Ok(copy) = stream.try_clone() {
                    lock(&streams).insert(session, copy);
                }
                let (service, streams) = (Arc::clone(service), Arc::clone(&streams));
                threads.push(std::thread::spawn(move || {
                    service.metrics.opened();
                    let broken = converse(&service, session, stream).is_err();
                    service.close(session, broken);
                    service.metrics.closed(broken);
                    lock(&streams).remove(&session);
                }));
            }
            // Also a client that was gone before it was accepted, or too many open files: others may still come.
            Err(_) => sleep(LOOK),
        }
    }
    service.wake();
    // Nothing new is read, so that threads end after the answer they are at.
    lock(&streams).values().for_each(|stream| drop(stream.shutdown(Shutdown::Read)));
    let begun = Instant::now();
    while begun.elapsed() < GRACE && threads.iter().any(|thread| !thread.is_finished()) {
        sleep(LOOK);
    }
    lock(&streams).values().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
}

fn lock(streams: &Streams) -> std::sync::MutexGuard<'_, BTreeMap<u64, TcpStream>> {
    // A map of streams is whole even after a panic elsewhere.
    streams.lock().unwrap_or_else(|held| held.into_inner())
}

/// Talks to one client until it leaves.
fn converse(service: &Service, session: u64, stream: TcpStream) -> Result<(), ServeError> {
    let first = first_byte(&stream).map_err(|source| ServeError::io("greeting a client", source))?;
    let wire = Wire::server(stream, service.idle).map_err(|source| ServeError::io("greeting a client", source))?;
    match (first, service.protocol) {
        (None, _) => Ok(()),
        // What ZeroMQ begins with; no text does. Everything else is taken for HTTP, so that both kinds of server have
        // their pages on the one port.
        (Some(0xff), Protocol::Groot) => zeromq(service, session, wire),
        _ => web(service, session, wire),
    }
}

/// The first byte that a client sends, left where it is. A client that says nothing is let go.
fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut byte = [0];
    loop {
        match stream.peek(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn zeromq(service: &Service, session: u64, wire: Wire) -> Result<(), ServeError> {
    let mut socket = Zmtp::handshake(wire, End::Rep, service.max_message)?;
    let (mut request, mut reply) = (Parted::default(), Vec::new());
    while let Some(envelope) = socket.read_parted(&mut request)? {
        let (begun, asked) = (Instant::now(), request.len());
        let answered = groot::answer(service, session, &mut request, &mut reply);
        service.metrics.request(answered.endpoint, answered.ok, (asked, reply.len()), begun.elapsed());
        socket.write(&envelope, &reply)?;
        if answered.stop {
            service.request_stop();
        }
    }
    Ok(())
}

fn web(service: &Service, session: u64, mut wire: Wire) -> Result<(), ServeError> {
    let head = http::Head::read(&mut wire)?;
    let io = |source| ServeError::io("answering over HTTP", source);
    let [method, path, _] = &head.first;
    match (method.as_str(), path.as_str()) {
        ("GET", "/healthz") => http::answer(&mut wire, "200 OK", "OK\n").map_err(io),
        ("GET", "/metrics") => http::answer(&mut wire, "200 OK", &service.page()).map_err(io),
        ("GET", "/learning") => {
            let status = service.status();
            let page = status.map_or(("404 Not Found", "this server does not learn\n".into()), |text| ("200 OK", text));
            http::answer(&mut wire, page.0, &page.1).map_err(io)
        }
        ("POST", path) if path.starts_with("/learning/rollback/") => {
            let to = path.trim_start_matches("/learning/rollback/");
            let (status, words) = match service.roll_back(to, api_key(&head)) {
                Ok(words) => ("200 OK", words),
                Err(error @ ServeError::Refused(_)) => ("401 Unauthorized", error.to_string()),
                Err(error) => ("400 Bad Request", error.to_string()),
            };
            http::answer(&mut wire, status, &format!("{words}\n")).map_err(io)
        }
        _ if service.protocol != Protocol::Openpi || !head.lists("upgrade", "websocket") => {
            let text = "this is a policy server; over HTTP it has /healthz and /metrics\n";
            http::answer(&mut wire, "404 Not Found", text).map_err(io)
        }
        _ => {
            if !service.admits(api_key(&head)) {
                return http::answer(&mut wire, "401 Unauthorized", "the API key is missing or wrong\n").map_err(io);
            }
            websocket(service, session, WebSocket::accept(wire, &head, service.max_message)?)
        }
    }
}

fn api_key(head: &http::Head) -> Option<&str> {
    head.field("authorization").and_then(|value| value.strip_prefix("Api-Key "))
}

fn websocket(service: &Service, session: u64, mut socket: WebSocket) -> Result<(), ServeError> {
    socket.binary(&openpi::metadata(service)?)?;
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    loop {
        let kind = socket.read(&mut request)?;
        let begun = Instant::now();
        let answered = match kind {
            Kind::Close if service.stopping() => {
                socket.goodbye();
                return Ok(());
            }
            Kind::Close => return Ok(()),
            Kind::Text => Err(ServeError::message("message", "msgpack in a binary frame", "text")),
            Kind::Binary => openpi::answer(service, session, &request, &mut reply),
        };
        let sizes = (request.len(), reply.len());
        service.metrics.request("get_action", answered.is_ok(), sizes, begun.elapsed());
        match answered {
            Ok(()) => socket.binary(&reply)?,
            Err(error) => socket.text(&error.to_string())?,
        }
    }
}

/// A flag that SIGINT and SIGTERM set; a second signal ends the process at once.
///
/// # Errors
/// If the system does not let signals be handled.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>, ServeError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag down.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|source| ServeError::io("listening for signals", source))?;
    }
    Ok(stop)
}
