//! RoboCasa and SimplerEnv up to the border: recorded answers of their workers (`python/tests/traffic.py` makes them,
//! with simulators that are played) are parsed, and what is asked is held against the recording byte by byte.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use w2a_data::Observation;
use w2a_nn::NnError;
use w2a_policy::Policy;
use w2a_serve::simulator::{
    Command, Episode, EpisodeOutcome, EvalProtocol, EvalSettings, Evaluation, GymSettings, evaluate,
};
use w2a_serve::{Layout, Patience, Protocol, RemotePolicy, Served, Server, ServerConfig, Sessions};

/// Steps after which an episode of the recordings has failed.
const STEPS: u32 = 5;

fn message(source: &mut impl Read) -> Option<Vec<u8>> {
    let mut message = vec![0; 4];
    source.read_exact(&mut message).ok()?;
    let length = u32::from_le_bytes([message[0], message[1], message[2], message[3]]);
    source.take(u64::from(length)).read_to_end(&mut message).unwrap();
    Some(message)
}

/// A worker that answers what was recorded, if it is asked what was recorded. Pictures are of one colour, as those were
/// that the simulators were played with: steps of the episode, camera, and the trial's number.
pub fn replay(recording: &Path, pictures: &Path) {
    let mut recording = std::io::Cursor::new(fs_err::read(recording).unwrap());
    let pictures = std::fs::File::options().write(true).open(pictures).unwrap();
    // Settings come before the first trial.
    let (mut steps, mut trial) = (0, -2);
    while let Some(asked) = message(&mut std::io::stdin()) {
        let expected = message(&mut recording).expect("no more was asked when it was recorded");
        assert_eq!(asked, expected, "{} for {}", String::from_utf8_lossy(&asked), String::from_utf8_lossy(&expected));
        if String::from_utf8_lossy(&asked).contains("actions") {
            steps += 1;
        } else {
            (steps, trial) = (0, trial + 1);
        }
        // More cameras and pixels than any of them has.
        let colour = |camera: u8| [steps, camera, trial.max(0) as u8];
        let image = |camera: u8| colour(camera).into_iter().cycle().take(256 * 256 * 3).collect::<Vec<u8>>();
        pictures.write_all_at(&(0..3).flat_map(image).collect::<Vec<u8>>(), 0).unwrap();
        let answer = message(&mut recording).unwrap();
        std::io::stdout().write_all(&answer).unwrap();
        std::io::stdout().flush().unwrap();
    }
}

/// Commands sixteenths, and the gripper fully where the picture says that it is the first trial.
struct Sixteenths {
    layout: Layout,
    size: (usize, usize),
}

impl Policy for Sixteenths {
    fn horizon(&self) -> usize {
        8
    }

    fn action_dim(&self) -> usize {
        self.layout.action_width()
    }

    fn act(&mut self, seen: &[Observation], words: &[&str]) -> Result<Vec<f32>, NnError> {
        let (seen, camera) = (&seen[0], &seen[0].cameras[0]);
        assert_eq!(seen.cameras.len(), self.layout.cameras.len());
        assert_eq!(seen.proprio.len(), self.layout.state_width());
        assert_eq!((camera.height, camera.width), self.size);
        assert!(words[0].contains(' '), "{words:?}");
        let mut action: Vec<f32> = (1..=self.action_dim()).map(|place| place as f32 / 16.0).collect();
        if camera.rgb[2] == 0 {
            action[6] = 1.0;
        }
        Ok(action.repeat(self.horizon()))
    }

    fn reset(&mut self) {}
}

fn run(name: &str, protocol: EvalProtocol, suite: &str, tasks: [u32; 2]) -> Vec<EpisodeOutcome> {
    let folder = tempfile::tempdir().unwrap();
    let recording = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/workers/{name}.bin"));
    let (layout, _) = protocol.simulator().robot(suite).unwrap();
    let EvalSettings::Gym(settings) = protocol.settings(suite) else { panic!("{protocol:?}") };
    let size = (settings.height as usize, settings.width as usize);
    let policy = Box::new(Sixteenths { layout: layout.clone(), size });
    let served = Served { layout: layout.clone(), horizon: 8, sessions: Sessions::Shared(policy), bend: None };
    let config = ServerConfig { port: 0, ..ServerConfig::new(Protocol::Groot) };
    let server = Server::start(served, &config, std::sync::Arc::default()).unwrap();
    let url: w2a_serve::Url = format!("groot://{}", server.address()).parse().unwrap();
    let log = folder.path().join("worker.log");
    let request = Evaluation {
        command: Command {
            program: std::env::current_exe().unwrap(),
            arguments: vec!["replay".into(), recording.display().to_string()],
            variables: vec![],
            log: log.clone(),
            timeout: Duration::from_secs(20),
            install: "python/README.md",
        },
        workers: 1,
        slots: 1,
        settings: EvalSettings::Gym(GymSettings { max_steps: STEPS, ..settings }),
        episodes: (0..2).zip(tasks).map(|(trial, task)| Episode { suite: suite.into(), task, trial }).collect(),
    };
    let told = Mutex::new(Vec::new());
    let connect = || RemotePolicy::connect(url.clone(), layout.clone(), None, Patience::default());
    let spec = evaluate(&request, connect, |outcome| {
        told.lock().unwrap().push(outcome.clone());
        Ok(())
    });
    let log = fs_err::read_to_string(log).unwrap_or_default();
    let spec = spec.unwrap_or_else(|error| panic!("{error}: {log}")).unwrap();
    assert_eq!((spec.state, spec.action), (layout.state_width(), layout.action_width()));
    assert_eq!(spec.cameras, layout.cameras.iter().map(|camera| camera.name.clone()).collect::<Vec<_>>());
    assert!(spec.versions.contains_key("numpy"), "{spec:?}");
    let told = told.into_inner().unwrap();
    assert!(told.iter().all(|outcome| outcome.failure.is_none() && outcome.attempts == 1), "{told:?}: {log}");
    let went = told.iter().map(|outcome| (outcome.success, outcome.steps)).collect::<Vec<_>>();
    assert_eq!(went, [(true, 3), (false, STEPS)], "{log}");
    told
}

pub fn kitchen() {
    let told = run("robocasa", EvalProtocol::RobocasaGroot, "kitchen", [7, 0]);
    assert_eq!(told[0].instruction, "close the drawer");
}

pub fn widowx() {
    let told = run("widowx", EvalProtocol::SimplerGroot, "widowx", [3, 0]);
    assert_eq!(told[0].instruction, "widowx put eggplant in basket");
}

pub fn google_robot() {
    let told = run("google_robot", EvalProtocol::SimplerGroot, "google_robot", [0, 0]);
    assert_eq!(told[1].instruction, "google robot pick coke can");
}
