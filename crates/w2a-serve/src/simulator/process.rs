//! One worker: a process, a pipe in each direction, and a file in memory with its pictures.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tempfile::NamedTempFile;
use w2a_data::{Camera, Observation};

use super::{SimulatorError, SimulatorKind};
use crate::codec::{Dialect, Value, decode, encode};

/// Longer than any message; pictures go another way.
const MAX_MESSAGE: u32 = 1 << 24;
/// Side of the largest picture.
const MAX_SIDE: i64 = 4096;
/// Where files are memory, on Linux.
const MEMORY: &str = "/dev/shm";

/// How to start workers.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program, such as a Python.
    pub program: PathBuf,
    /// What comes before the path of the pictures and the number of environments.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub variables: Vec<(String, String)>,
    /// Where workers' own words go.
    pub log: PathBuf,
    /// How long a worker may be silent. Building a scene takes most of a minute on a busy machine.
    pub timeout: Duration,
    /// Where it is said how to install what workers need.
    pub install: &'static str,
}

impl Command {
    /// The workers of a simulator in a Python that has both.
    pub fn python(simulator: SimulatorKind, python: PathBuf, log: PathBuf, timeout: Duration) -> Self {
        Self {
            program: python,
            arguments: ["-m", "w2a_workers", simulator.name()].map(str::to_owned).into(),
            install: simulator.how_to_install(),
            // What the user has set stays; nothing may be downloaded within an episode.
            variables: vec![("HF_HUB_OFFLINE".into(), "1".into())],
            log,
            timeout,
        }
    }
}

/// What a worker shows and takes, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSpec {
    /// Names of the cameras.
    pub cameras: Vec<String>,
    /// Rows and columns of their pictures.
    pub size: (usize, usize),
    /// Values of the state.
    pub state: usize,
    /// Values of an action.
    pub action: usize,
    /// Versions of the simulator's packages.
    pub versions: BTreeMap<String, String>,
}

/// A running worker; killed when this is dropped.
pub(super) struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<std::io::Result<Vec<u8>>>,
    pictures: NamedTempFile,
    timeout: Duration,
    pub spec: WorkerSpec,
}

impl Worker {
    /// Starts a worker and waits until it has loaded its simulator.
    pub fn start(command: &Command, slots: usize, settings: &Value) -> Result<Self, SimulatorError> {
        let shown = std::iter::once(command.program.display().to_string()).chain(command.arguments.clone());
        let shown = shown.collect::<Vec<_>>().join(" ");
        let failed = |reason: String| SimulatorError::Start {
            command: shown.clone(),
            reason,
            log: command.log.display().to_string(),
            install: command.install,
        };
        let folder = if Path::new(MEMORY).is_dir() { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
        let pictures = NamedTempFile::with_prefix_in("w2a-", folder).map_err(|error| failed(error.to_string()))?;
        let log = File::options().create(true).append(true).open(&command.log);
        let log = log.map_err(|error| failed(error.to_string()))?;
        let mut child = std::process::Command::new(&command.program)
            .args(&command.arguments)
            .arg(pictures.path())
            .arg(slots.to_string())
            .envs(command.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let (Some(orders), Some(mut source)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("its pipes are missing".into()));
        };
        // A pipe cannot be waited for with a limit, a channel can.
        let (sender, answers) = sync_channel(1);
        std::thread::spawn(move || {
            loop {
                let answer = read_message(&mut source);
                let over = answer.is_err();
                if sender.send(answer).is_err() || over {
                    return;
                }
            }
        });
        let empty = WorkerSpec { cameras: Vec::new(), size: (0, 0), state: 0, action: 0, versions: BTreeMap::new() };
        let mut worker = Self { child, orders, answers, pictures, timeout: command.timeout, spec: empty };
        let hello = worker.ask(settings).map_err(|error| failed(error.to_string()))?;
        let hello = decode(&hello, Dialect::Openpi).map_err(|error| failed(error.to_string()))?;
        if let Some(Value::Text(reason)) = hello.get("error") {
            return Err(failed(reason.to_string()));
        }
        worker.spec = read_spec(&hello)?;
        Ok(worker)
    }

    /// Sends a message and waits for the answer.
    pub fn ask(&mut self, message: &Value) -> Result<Vec<u8>, SimulatorError> {
        self.tell(message)?;
        self.hear()
    }

    /// Sends a message, whose answer has to be heard before the next.
    pub fn tell(&mut self, message: &Value) -> Result<(), SimulatorError> {
        let mut body = Vec::new();
        encode(message, Dialect::Openpi, &mut body).map_err(SimulatorError::lost)?;
        let framed = [&(body.len() as u32).to_le_bytes()[..], &body].concat();
        self.orders.write_all(&framed).and_then(|()| self.orders.flush()).map_err(|error| self.gone(error))
    }

    /// Waits for the answer to what was told.
    pub fn hear(&mut self) -> Result<Vec<u8>, SimulatorError> {
        match self.answers.recv_timeout(self.timeout) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.gone(error)),
            Err(RecvTimeoutError::Timeout) => {
                Err(SimulatorError::lost(format_args!("no answer within {} s", self.timeout.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.gone(ErrorKind::BrokenPipe.into())),
        }
    }

    /// How a process ended says more than that a pipe broke.
    fn gone(&mut self, error: std::io::Error) -> SimulatorError {
        // It has closed its pipe, and so is about to end if it has not.
        for _ in 0..20 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return SimulatorError::lost(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        SimulatorError::lost(error)
    }

    /// The state in the answer of an environment.
    pub fn state(&self, answer: &Value) -> Result<Vec<f32>, SimulatorError> {
        let wrong = |expected, got: &Value| SimulatorError::Answer { expected, got: got.describe() };
        match answer.get("state") {
            Some(Value::List(values)) if values.len() == self.spec.state => {
                let number = |value: &Value| match value {
                    Value::Float(value) => Ok(*value as f32),
                    other => Err(wrong("numbers", other)),
                };
                values.iter().map(number).collect()
            }
            _ => Err(wrong("the state", answer)),
        }
    }

    /// What an environment shows, with the state that came with its answer.
    pub fn observation(&self, slot: usize, state: Vec<f32>) -> Result<Observation, SimulatorError> {
        let ((height, width), count) = (self.spec.size, self.spec.cameras.len());
        let bytes = height * width * 3;
        let mut cameras = Vec::with_capacity(count);
        for (place, name) in self.spec.cameras.iter().enumerate() {
            let mut rgb = vec![0; bytes];
            let offset = ((slot * count + place) * bytes) as u64;
            self.pictures.as_file().read_exact_at(&mut rgb, offset).map_err(SimulatorError::lost)?;
            cameras.push(Camera { name: name.clone(), height, width, rgb });
        }
        Ok(Observation { cameras, proprio: state })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself; waiting keeps it from staying as a zombie.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_message(source: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    source.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_MESSAGE {
        return Err(std::io::Error::new(ErrorKind::InvalidData, format!("a message claims {length} bytes")));
    }
    let mut body = Vec::new();
    let got = source.take(u64::from(length)).read_to_end(&mut body)?;
    if got == length as usize { Ok(body) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn read_spec(hello: &Value) -> Result<WorkerSpec, SimulatorError> {
    let wrong = |expected| SimulatorError::Answer { expected, got: hello.describe() };
    let names = |key: &str| match hello.get(key) {
        Some(Value::List(names)) => names.iter().map(|name| name.as_text().map(str::to_owned)).collect(),
        _ => None,
    };
    let names =
        |key: &str, expected| -> Result<Vec<String>, SimulatorError> { names(key).ok_or_else(|| wrong(expected)) };
    let side = |value: &Value| match value {
        Value::Int(side) if (1..=MAX_SIDE).contains(side) => Some(*side as usize),
        _ => None,
    };
    let size = match hello.get("size") {
        Some(Value::List(sides)) => match sides.as_slice() {
            [height, width] => side(height).zip(side(width)),
            _ => None,
        },
        _ => None,
    };
    let size = size.ok_or_else(|| wrong("rows and columns of pictures"))?;
    let versions = match hello.get("versions") {
        Some(Value::Map(entries)) => {
            let text = |value: &Value| value.as_text().unwrap_or_default().to_owned();
            entries.iter().map(|(name, version)| (name.to_string(), text(version))).collect()
        }
        _ => return Err(wrong("versions")),
    };
    Ok(WorkerSpec {
        cameras: names("cameras", "names of cameras")?,
        size,
        state: names("state", "names of the state")?.len(),
        action: names("action", "names of the action")?.len(),
        versions,
    })
}
