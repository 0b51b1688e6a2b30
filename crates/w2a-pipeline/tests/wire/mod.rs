//! A robot at the other end of the wire.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use w2a_data::Observation;
use w2a_pipeline::{Config, Layout, Request, Stage, run};
use w2a_policy::Policy;
use w2a_serve::{Patience, RemotePolicy};
use w2a_sim::{Environment, Scene, Tabletop};

/// A toy run with all that learning needs.
pub fn toy_run(out: &Path) {
    let config: Config = toml::from_str(include_str!("../toy.toml")).unwrap();
    run(&Request { config, out: out.to_owned(), resume: false, until: Stage::Align }).unwrap();
}

fn scene(index: usize) -> Scene {
    format!("object/{}/posttrain/full/{index:06}", index % 2).parse().unwrap()
}

pub fn observations(indices: &[usize]) -> Vec<Observation> {
    let scenes: Vec<Scene> = indices.iter().map(|index| scene(*index)).collect();
    Tabletop::new(1).reset(&scenes).unwrap()
}

/// A simulator and a connection.
pub struct Robot {
    pub remote: RemotePolicy,
    environment: Tabletop,
}

impl Robot {
    pub fn connect(url: &str, token: Option<&str>) -> Self {
        let token = token.map(str::to_owned);
        let remote = RemotePolicy::connect(url.parse().unwrap(), Layout::tabletop(), token, Patience::default());
        Self { remote: remote.unwrap(), environment: Tabletop::new(1) }
    }

    /// An episode of sixteen chunks; our own clients tell a reset with the next question.
    pub fn episode(&mut self, index: usize, spoilt: bool) {
        self.remote.reset();
        self.chunks(index, 16, spoilt);
    }

    /// So many chunks in a scene. If they are spoilt, all the server sees after the first image is white.
    pub fn chunks(&mut self, index: usize, count: usize, spoilt: bool) {
        let scene = scene(index);
        let words = [scene.task_info().instruction];
        let mut seen = self.environment.reset(&[scene]).unwrap();
        for chunk in 0..count {
            if spoilt && chunk > 0 {
                seen[0].cameras.iter_mut().for_each(|camera| camera.rgb.fill(255));
            }
            let actions = self.remote.act(&seen, &words).unwrap();
            for action in actions.chunks_exact(7) {
                seen = vec![self.environment.step(action).unwrap().remove(0).observation];
            }
        }
    }

    /// Says now that the episode is over.
    pub fn end(&mut self) {
        self.remote.end_episode().unwrap();
    }
}

/// What is answered to always the same observation.
pub fn probe(robot: &mut Robot) -> Vec<f32> {
    let seen = observations(&[3]);
    let words = [scene(3).task_info().instruction];
    let chunk = robot.remote.act(&seen, &words).unwrap();
    chunk.get(..28).unwrap().to_vec()
}

fn open(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.split("://").nth(1).unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

pub fn http(url: &str, request: &str) -> String {
    let mut stream = open(url);
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A robot whose connection breaks in the midst of a message, after so many chunks.
pub fn break_off(url: &str, chunks: usize, token: Option<&str>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = format!("groot://{}", listener.local_addr().unwrap());
    let server = open(url);
    let mut broken = server.try_clone().unwrap();
    let copying = std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let mut halves = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
        let [(from, to), (back, away)] = &mut halves;
        std::thread::scope(|scope| {
            scope.spawn(|| std::io::copy(from, to));
            scope.spawn(|| std::io::copy(back, away));
        });
    });
    let mut robot = Robot::connect(&between, token);
    robot.chunks(0, chunks, false);
    // The first byte of a frame, and no other.
    broken.write_all(&[1]).unwrap();
    broken.shutdown(Shutdown::Both).unwrap();
    drop(robot);
    copying.join().unwrap();
}
