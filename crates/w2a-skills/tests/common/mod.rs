//! A chat server of a few lines, and demonstrations made by hand.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use w2a_data::{Camera, DatasetSpec, DatasetWriter, Episode, Version};

/// What the server does with one request.
#[derive(Clone)]
pub enum Reply {
    /// A chat completion with this text.
    Says(String),
    /// Any status, headers and body.
    Raw(u16, &'static str, String),
    /// Nothing, for this long.
    Silence(Duration),
    /// Closes the connection.
    HangsUp,
}

/// A server on this machine that answers with a list of replies, the last one over and over.
pub struct Server {
    pub base_url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let reply = replies[number.min(replies.len() - 1)].clone();
                let _ = serve(stream.unwrap(), &reply, &seen);
            }
        });
        Self { base_url, requests }
    }

    /// The requests so far, heads and bodies.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, reply: &Reply, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        request.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some(head) = text.find("\r\n\r\n") else { continue };
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if count == 0 || request.len() >= head + 4 + length.unwrap_or(0) {
            break;
        }
    }
    seen.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
    let (status, headers, body) = match reply {
        Reply::Says(text) => (200, "", completion(text)),
        Reply::Raw(status, headers, body) => (*status, *headers, body.clone()),
        Reply::Silence(time) => {
            std::thread::sleep(*time);
            return Ok(());
        }
        Reply::HangsUp => return Ok(()),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// A chat completion as servers of this protocol send it.
pub fn completion(text: &str) -> String {
    let message = serde_json::json!({ "role": "assistant", "content": text });
    let choice = serde_json::json!({ "index": 0, "message": message, "finish_reason": "stop" });
    serde_json::json!({ "id": "1", "object": "chat.completion", "model": "m", "choices": [choice] }).to_string()
}

/// A demonstration at 20 frames a second from a drawing of the gripper: each `o` is half a second open, each `c` half a
/// second closed. Proprioception is that of the tabletop preset; the image is one pixel that tells the frame.
pub fn demonstration(instruction: &str, drawing: &str) -> Episode {
    let apertures: Vec<f32> = drawing.chars().flat_map(|step| [if step == 'c' { 0.02 } else { 0.09 }; 10]).collect();
    let frames = apertures.len();
    let row = |(frame, aperture): (usize, &f32)| {
        let mut row = [0.0; 11];
        (row[0], row[10]) = (0.01 * frame as f32, *aperture);
        row
    };
    Episode {
        instruction: instruction.into(),
        source: format!("drawn {drawing}"),
        fps: 20,
        cameras: vec![Camera {
            name: "agent".into(),
            height: 1,
            width: 1,
            rgb: (0..frames).flat_map(|frame| [frame as u8, 0, 0]).collect(),
        }],
        proprio_dim: 11,
        proprio: apertures.iter().enumerate().flat_map(row).collect(),
        action_dim: 1,
        actions: (0..frames).map(|frame| frame as f32).collect(),
    }
}

/// Writes demonstrations as a dataset.
pub fn write(path: &Path, demonstrations: &[Episode]) {
    let mut writer = DatasetWriter::create(path, DatasetSpec::of(&demonstrations[0]), Version::V30).unwrap();
    for demonstration in demonstrations {
        writer.push(demonstration).unwrap();
    }
    writer.finish().unwrap();
}
