//! Servers as their clients meet them: over TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use w2a_data::{Camera, Observation};
use w2a_nn::NnError;
use w2a_policy::Policy;
use w2a_serve::{
    Bend, Ending, Layout, Patience, Place, Protocol, RemotePolicy, ServeError, Served, Server, ServerConfig, Sessions,
};

const HORIZON: usize = 3;

/// Its actions tell whose observation they are for: `proprio[0]`, the length of the instruction, the first pixel, the step.
struct Telling;

impl Policy for Telling {
    fn horizon(&self) -> usize {
        HORIZON
    }
    fn action_dim(&self) -> usize {
        7
    }
    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        if instructions.contains(&"panic") {
            panic!("asked to");
        }
        if instructions.contains(&"fail") {
            return Err(NnError::Input { what: "word".into(), expected: "another".into(), got: "fail".into() });
        }
        Ok(observations.iter().zip(instructions).flat_map(|(seen, words)| told(seen, words)).collect())
    }
    fn reset(&mut self) {}
}

fn told(seen: &Observation, words: &str) -> Vec<f32> {
    let row = |step: usize| {
        let pixel = f32::from(seen.cameras[1].rgb[0]);
        [seen.proprio[0], seen.proprio[10], words.len() as f32, pixel, step as f32, 0.0, -1.0]
    };
    (0..HORIZON).flat_map(row).collect()
}

/// Counts the calls since its session's reset.
struct Counting(f32);

impl Policy for Counting {
    fn horizon(&self) -> usize {
        1
    }
    fn action_dim(&self) -> usize {
        7
    }
    fn act(&mut self, observations: &[Observation], _: &[&str]) -> Result<Vec<f32>, NnError> {
        self.0 += 1.0;
        Ok(vec![self.0; 7 * observations.len()])
    }
    fn reset(&mut self) {
        self.0 = 0.0;
    }
}

fn observation(value: f32) -> Observation {
    let camera =
        |name: &str, value: u8| Camera { name: name.into(), height: 64, width: 64, rgb: vec![value; 64 * 64 * 3] };
    let mut proprio = vec![0.0; 11];
    (proprio[0], proprio[10]) = (value, -value);
    Observation { cameras: vec![camera("agent", 1), camera("wrist", value as u8)], proprio }
}

fn start(protocol: Protocol, sessions: Sessions, horizon: usize, change: impl FnOnce(&mut ServerConfig)) -> Server {
    let mut config = ServerConfig { port: 0, ..ServerConfig::new(protocol) };
    change(&mut config);
    let served = Served { layout: Layout::tabletop(), horizon, sessions, bend: None };
    Server::start(served, &config, Arc::new(AtomicBool::new(false))).unwrap()
}

fn telling(protocol: Protocol) -> Server {
    start(protocol, Sessions::Shared(Box::new(Telling)), HORIZON, |_| {})
}

fn patience() -> Patience {
    Patience { answer: Duration::from_secs(5), total: Duration::from_secs(8) }
}

fn connect(protocol: Protocol, address: SocketAddr, token: Option<&str>) -> Result<RemotePolicy, String> {
    let url = format!("{}://{address}", protocol.name()).parse().unwrap();
    let token = token.map(str::to_owned);
    let patience = Patience { total: Duration::from_millis(900), ..patience() };
    RemotePolicy::connect(url, Layout::tabletop(), token, patience).map_err(|error| error.to_string())
}

/// What a GR00T server answers to one frame, without a client of ours in between.
fn raw(address: SocketAddr, frame: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let bytes = [&greeting()[..], READY, &[1, 0, 0, frame.len() as u8], frame].concat();
    stream.write_all(&bytes).unwrap();
    let mut answer = [0; 300];
    let mut length = 0;
    // Greeting, READY and the empty frame come before it.
    while length < 64 + 40 + 5 {
        let got = stream.read(&mut answer[length..]).unwrap();
        assert!(got > 0, "closed");
        length += got;
    }
    String::from_utf8_lossy(&answer[64..length]).into_owned()
}

const READY: &[u8] = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ";

fn greeting() -> Vec<u8> {
    [&[0xff_u8, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0][..], b"NULL", &[0; 48]].concat()
}

fn http(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_remote_policy_answers_as_the_policy_itself_in_both_protocols() {
    for protocol in Protocol::ALL {
        let server = telling(protocol);
        let mut remote = connect(protocol, server.address(), None).unwrap();
        assert_eq!((remote.horizon(), remote.action_dim()), (HORIZON, 7));
        let seen = [observation(2.0), observation(5.0)];
        let words = ["lift", "öffne die Tür"];
        assert_eq!(remote.act(&seen, &words).unwrap(), Telling.act(&seen, &words).unwrap());
        assert!(remote.act(&[], &[]).unwrap().is_empty());
        let narrow = Observation { proprio: vec![0.0; 3], ..observation(1.0) };
        assert!(remote.act(&[narrow], &["x"]).unwrap_err().to_string().contains("11 values"));
    }
}

#[test]
fn eight_clients_at_once_each_get_their_own_answers() {
    for protocol in Protocol::ALL {
        let server = telling(protocol);
        let address = server.address();
        std::thread::scope(|scope| {
            for client in 0..8_u8 {
                scope.spawn(move || {
                    let mut remote = connect(protocol, address, None).unwrap();
                    for call in 0..20_u8 {
                        let seen = [observation(f32::from(client * 20 + call))];
                        let words = "w".repeat(usize::from(client));
                        assert_eq!(remote.act(&seen, &[&words]).unwrap(), told(&seen[0], &words));
                    }
                });
            }
        });
        assert!(server.metrics().contains("w2a_requests_total{endpoint=\"get_action\",result=\"ok\"} 16"));
    }
}

#[test]
fn sessions_have_their_own_state_and_reset_is_theirs_alone() {
    let make = Box::new(|_| Ok(Box::new(Counting(0.0)) as w2a_serve::BoxedPolicy));
    let server = start(Protocol::Groot, Sessions::Own(make), 1, |_| {});
    let mut one = connect(Protocol::Groot, server.address(), None).unwrap();
    let mut two = connect(Protocol::Groot, server.address(), None).unwrap();
    let ask = |which: &mut RemotePolicy| which.act(&[observation(1.0)], &["x"]).unwrap()[0];
    assert_eq!((ask(&mut one), ask(&mut one), ask(&mut two)), (1.0, 2.0, 1.0));
    one.reset();
    assert_eq!((ask(&mut one), ask(&mut two)), (1.0, 2.0));
}

/// Says that it was asked, and waits until the other one was.
struct Meeting {
    here: Sender<()>,
    other: Receiver<()>,
}

impl Policy for Meeting {
    fn horizon(&self) -> usize {
        1
    }
    fn action_dim(&self) -> usize {
        7
    }
    fn act(&mut self, _: &[Observation], words: &[&str]) -> Result<Vec<f32>, NnError> {
        if words.contains(&"slow") {
            std::thread::sleep(Duration::from_millis(1500));
            return Ok(vec![0.0; 7]);
        }
        let _ = self.here.send(());
        let met = self.other.recv_timeout(Duration::from_secs(5)).is_ok();
        Ok(vec![f32::from(u8::from(met)); 7])
    }
    fn reset(&mut self) {}
}

#[test]
fn sessions_with_policies_of_their_own_are_asked_side_by_side() {
    let [(to_a, a), (to_b, b)] = [channel(), channel()];
    // The first to ask is the one that keeps the others waiting.
    let mut ends = vec![(to_b, a), (to_a, b), channel()];
    let make = Box::new(move |_| {
        let (here, other) = ends.pop().unwrap_or_else(channel);
        Ok(Box::new(Meeting { here, other }) as w2a_serve::BoxedPolicy)
    });
    let server = start(Protocol::Groot, Sessions::Own(make), 1, |_| {});
    let ask = |words: &'static str| {
        let mut remote = connect(Protocol::Groot, server.address(), None).unwrap();
        std::thread::spawn(move || remote.act(&[observation(1.0)], &[words]).unwrap()[0])
    };
    let slow = ask("slow");
    std::thread::sleep(Duration::from_millis(300));
    let both = [ask("meet"), ask("meet")];
    slow.join().unwrap();
    assert_eq!(both.map(|asked| asked.join().unwrap()), [1.0, 1.0]);
}

/// Doubles what the policy says, and writes down what it is told.
#[derive(Default)]
struct Doubling(Mutex<Vec<String>>);

impl Doubling {
    fn note(&self, words: String) {
        self.0.lock().unwrap().push(words);
    }
}

impl Bend for Doubling {
    fn horizon(&self) -> usize {
        2
    }
    fn admit(&self, session: u64, instructions: &[&str]) -> Result<(), ServeError> {
        self.note(format!("admit {session} {instructions:?}"));
        Ok(())
    }
    fn bend(&self, places: &[Place], _: &[Observation], _: &[String], base: &[f32]) -> Result<Vec<f32>, NnError> {
        let rows: Vec<usize> = places.iter().map(|place| place.row).collect();
        self.note(format!("bend {rows:?}"));
        Ok(base.chunks_exact(HORIZON * 7).flat_map(|row| row[..14].iter().map(|value| 2.0 * value)).collect())
    }
    fn settle(&self, session: u64) {
        self.note(format!("settle {session}"));
    }
    fn end(&self, session: u64, ending: Ending) {
        self.note(format!("end {session} {ending:?}"));
    }
    fn metrics(&self) -> String {
        "doubled 1\n".into()
    }
    fn status(&self) -> Option<String> {
        Some("{}".into())
    }
}

#[test]
fn what_bends_chunks_is_told_of_every_request_and_of_every_end() {
    let bend = Arc::new(Doubling::default());
    let sessions = Sessions::Shared(Box::new(Telling));
    let served = Served { layout: Layout::tabletop(), horizon: HORIZON, sessions, bend: Some(bend.clone()) };
    let config = ServerConfig { port: 0, ..ServerConfig::new(Protocol::Groot) };
    let server = Server::start(served, &config, Arc::default()).unwrap();
    let mut remote = connect(Protocol::Groot, server.address(), None).unwrap();
    assert_eq!(remote.horizon(), 2);
    let chunks = remote.act(&[observation(1.0), observation(2.0)], &["a", "bc"]).unwrap();
    assert_eq!((chunks.len(), chunks[0], chunks[14], chunks[16]), (28, 2.0, 4.0, 4.0));
    assert!(remote.act(&[observation(1.0)], &["fail"]).is_err());
    remote.end_episode().unwrap();
    assert!(http(server.address(), "/metrics").ends_with("doubled 1\n"));
    assert!(http(server.address(), "/learning").ends_with("{}"));
    drop(remote);
    drop(server);
    let told = bend.0.lock().unwrap().clone();
    let [first, rest @ ..] = told.as_slice() else { panic!("{told:?}") };
    let session = first.split(' ').nth(1).unwrap();
    assert_eq!(*first, format!("admit {session} [\"a\", \"bc\"]"));
    let expected = [
        "bend [0, 1]".to_owned(),
        format!("settle {session}"),
        format!("admit {session} [\"fail\"]"),
        format!("end {session} Reset"),
        format!("end {session} Left"),
    ];
    let of_it: Vec<&String> = rest.iter().filter(|note| note.starts_with("bend") || note.contains(session)).collect();
    assert_eq!(of_it, expected.iter().collect::<Vec<_>>());
}

#[test]
fn a_server_that_does_not_learn_says_so() {
    let server = telling(Protocol::Openpi);
    assert!(http(server.address(), "/learning").starts_with("HTTP/1.1 404 "));
    let server = start(Protocol::Groot, Sessions::Shared(Box::new(Telling)), HORIZON, |config| {
        config.token = Some("s3cret".into());
    });
    let post = |head: &str| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(format!("POST /learning/rollback/1 HTTP/1.1\r\n{head}\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    assert!(post("").starts_with("HTTP/1.1 401 "));
    assert!(post("authorization: Api-Key s3cret\r\n").contains("expected a server that learns"));
}

#[test]
fn a_client_that_says_nothing_is_let_go_and_may_come_back() {
    for protocol in Protocol::ALL {
        let server = start(protocol, Sessions::Shared(Box::new(Telling)), HORIZON, |config| {
            config.idle = Duration::from_millis(150);
        });
        let mut remote = connect(protocol, server.address(), None).unwrap();
        assert_eq!(remote.act(&[observation(1.0)], &["x"]).unwrap()[0], 1.0);
        let open = || http(server.address(), "/metrics").contains("w2a_connections_open 1\n");
        let begun = std::time::Instant::now();
        // The page's own connection is the one that is left.
        while !open() {
            assert!(begun.elapsed() < Duration::from_secs(5), "still connected");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(remote.act(&[observation(2.0)], &["x"]).unwrap()[0], 2.0);
    }
}

#[test]
fn a_policy_that_fails_or_panics_is_an_answer_and_the_next_request_is_served() {
    for protocol in Protocol::ALL {
        let server = telling(protocol);
        let mut remote = connect(protocol, server.address(), None).unwrap();
        let failed = remote.act(&[observation(1.0)], &["fail"]).unwrap_err().to_string();
        assert!(failed.contains("expected another, got fail"), "{failed}");
        let panicked = remote.act(&[observation(1.0)], &["panic"]).unwrap_err().to_string();
        assert!(panicked.contains("panic"), "{panicked}");
        assert_eq!(remote.act(&[observation(1.0)], &["x"]).unwrap()[0], 1.0);
    }
}

#[test]
fn a_token_is_asked_for_and_kill_works_with_it_only() {
    for protocol in Protocol::ALL {
        let sessions = Sessions::Shared(Box::new(Telling));
        let server = start(protocol, sessions, HORIZON, |config| config.token = Some("s3cret".into()));
        for wrong in [None, Some("s3creT"), Some("s3cret2"), Some("")] {
            let refused = connect(protocol, server.address(), wrong).err().unwrap();
            assert!(refused.contains("Unauthorized"), "{refused}");
        }
        connect(protocol, server.address(), Some("s3cret")).unwrap();
        if protocol == Protocol::Groot {
            let kill = b"\x81\xa8endpoint\xa4kill";
            assert!(raw(server.address(), kill).contains("Unauthorized: Invalid API token"));
            raw(server.address(), b"\x82\xa8endpoint\xa4kill\xa9api_token\xa6s3cret");
            assert!(server.wait().contains("w2a_requests_total{endpoint=\"kill\",result=\"ok\"} 1"));
        }
    }
    let server = telling(Protocol::Groot);
    assert!(raw(server.address(), b"\x81\xa8endpoint\xa4kill").contains("--token-env"));
    assert!(raw(server.address(), b"\x81\xa8endpoint\xa4ping").contains("Server is running"));
}

#[test]
fn pages_are_on_the_port_of_both_protocols() {
    for protocol in Protocol::ALL {
        let server = telling(protocol);
        assert!(http(server.address(), "/healthz").ends_with("\r\n\r\nOK\n"));
        let page = http(server.address(), "/metrics");
        assert!(page.contains("# TYPE w2a_request_seconds histogram") && page.contains("w2a_connections_total 2"));
        assert!(http(server.address(), "/etc/passwd").starts_with("HTTP/1.1 404 "));
    }
}

#[test]
fn strangers_and_broken_clients_end_their_connection_and_no_others() {
    let greeting = greeting();
    let curve = [&greeting[..12], b"CURVE", &[0; 47]].concat();
    let hello = |rest: &[u8]| [&greeting[..], READY, rest].concat();
    let upgrade: &[u8] = b"GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: eDEyMzQ1Njc4OTAxMjM0NQ==\r\n\r\n";
    let frames = |rest: &[u8]| [upgrade, rest].concat();
    let hostile: Vec<(Protocol, Vec<u8>)> = vec![
        (Protocol::Groot, vec![]),
        (Protocol::Groot, vec![0xff; 200]),
        (Protocol::Groot, curve),
        (Protocol::Groot, greeting[..20].to_vec()),
        // A gigabyte claimed, half a message, no delimiter, a command that is none, flags that do not exist.
        (Protocol::Groot, hello(&[&[1, 0, 2][..], &(1_u64 << 30).to_be_bytes(), b"abc"].concat())),
        (Protocol::Groot, hello(&[&[1, 0, 2][..], &u64::MAX.to_be_bytes()].concat())),
        (Protocol::Groot, hello(&[1, 0, 0, 100, 1, 2, 3])),
        (Protocol::Groot, hello(&[0, 1, 0xc0])),
        (Protocol::Groot, hello(&[4, 2, 0xff, 0xff, 0xf8, 0])),
        (Protocol::Openpi, b"GET / HTTP/1.1\r\n".repeat(2000)),
        (Protocol::Openpi, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        (Protocol::Openpi, frames(&[&[0x82_u8, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat())),
        (Protocol::Openpi, frames(&[0x82, 0x01, 0xc0])),
        (Protocol::Openpi, frames(&[0x80, 0x80, 0, 0, 0, 0])),
        (Protocol::Openpi, frames(&[0x89, 0xfe, 0xff, 0xff, 0, 0, 0, 0])),
        (Protocol::Openpi, frames(&[0x82, 0xe4, 0, 0, 0, 0, 1, 2])),
    ];
    for protocol in Protocol::ALL {
        let server = telling(protocol);
        let mut client = connect(protocol, server.address(), None).unwrap();
        for (_, bytes) in hostile.iter().filter(|(of, _)| *of == protocol) {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            // The server may hang up before all is written.
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let ended = stream.read_to_end(&mut Vec::new());
            let stalled = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            assert!(!stalled, "still connected after {bytes:02x?}");
            assert_eq!(client.act(&[observation(4.0)], &["x"]).unwrap()[0], 4.0);
        }
    }
}

#[test]
fn a_client_that_vanishes_with_its_answer_on_the_way_harms_nobody() {
    let server = telling(Protocol::Groot);
    for _ in 0..20 {
        let url = format!("groot://{}", server.address()).parse().unwrap();
        let mut remote = RemotePolicy::connect(url, Layout::tabletop(), None, patience()).unwrap();
        let asked = std::thread::spawn(move || drop(remote.act(&[observation(1.0)], &["x"])));
        drop(asked);
    }
    let mut remote = connect(Protocol::Groot, server.address(), None).unwrap();
    assert_eq!(remote.act(&[observation(3.0)], &["x"]).unwrap()[0], 3.0);
}

#[test]
fn an_episode_survives_a_server_that_is_started_anew_and_its_absence_has_one_message() {
    for protocol in Protocol::ALL {
        let server = telling(protocol);
        let address = server.address();
        let url = format!("{}://{address}", protocol.name()).parse().unwrap();
        let mut remote = RemotePolicy::connect(url, Layout::tabletop(), None, patience()).unwrap();
        drop(server);
        let back = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            start(protocol, Sessions::Shared(Box::new(Telling)), HORIZON, |config| config.port = address.port())
        });
        assert_eq!(remote.act(&[observation(6.0)], &["x"]).unwrap()[0], 6.0);
        drop(back.join().unwrap());
        let gone = connect(protocol, address, None).err().unwrap();
        assert!(gone.contains("gave no answer within") && gone.contains("start the server"), "{gone}");
    }
}

#[test]
fn stopping_answers_what_is_under_way_and_refuses_what_comes() {
    let stop = Arc::new(AtomicBool::new(false));
    let config = ServerConfig { port: 0, ..ServerConfig::new(Protocol::Openpi) };
    let served = Served {
        layout: Layout::tabletop(),
        horizon: HORIZON,
        sessions: Sessions::Shared(Box::new(Telling)),
        bend: None,
    };
    let server = Server::start(served, &config, Arc::clone(&stop)).unwrap();
    let address = server.address();
    let mut remote = connect(Protocol::Openpi, address, None).unwrap();
    remote.act(&[observation(1.0)], &["x"]).unwrap();
    stop.store(true, Ordering::Relaxed);
    server.wait();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_port_in_use_and_another_layout_are_said() {
    let server = telling(Protocol::Groot);
    let config = ServerConfig { port: server.address().port(), ..ServerConfig::new(Protocol::Groot) };
    let served = Served {
        layout: Layout::tabletop(),
        horizon: HORIZON,
        sessions: Sessions::Shared(Box::new(Telling)),
        bend: None,
    };
    let error = Server::start(served, &config, Arc::default()).err().unwrap();
    assert!(error.to_string().contains("choose another --port") && error.is_users_mistake(), "{error}");
    let url = format!("groot://{}", server.address()).parse().unwrap();
    let error = RemotePolicy::connect(url, Layout::libero(), None, patience()).err().unwrap().to_string();
    assert!(error.contains("video keys of the server: expected image, wrist_image, got agent, wrist"), "{error}");
}
