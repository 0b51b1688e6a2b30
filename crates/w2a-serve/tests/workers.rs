//! Workers that die, hang and raise, played by this test itself: started with arguments it is a worker.

mod played;
mod recorded;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use w2a_nn::NnError;
use w2a_policy::Policy;
use w2a_serve::codec::Value;
use w2a_serve::simulator::{
    Command, Episode, EpisodeOutcome, EvalSettings, Evaluation, MAX_ATTEMPTS, Settings, SimulatorError, evaluate,
};
use w2a_serve::{Layout, Patience, Protocol, RemotePolicy, Served, Server, ServerConfig, Sessions};

use played::number;

const SIZE: usize = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, folder, pictures, slots] = arguments.as_slice()
        && mode == "worker"
    {
        return worker(Path::new(folder), Path::new(pictures), slots.parse().unwrap());
    }
    if let [_, mode, recording, pictures, _] = arguments.as_slice()
        && mode == "replay"
    {
        return recorded::replay(Path::new(recording), Path::new(pictures));
    }
    played::run(&[
        ("episodes_run_in_workers_and_the_policy_sees_their_pictures", episodes_run),
        ("a_killed_a_silent_and_a_raising_worker_cost_an_attempt_and_no_episode", workers_are_replaced),
        ("what_always_fails_is_a_failure_of_the_infrastructure", failures_are_named),
        ("a_worker_that_does_not_start_and_a_policy_that_fails_end_the_evaluation", mistakes_end_it),
        ("a_kitchen_of_robocasa_as_it_was_recorded", recorded::kitchen),
        ("the_widowx_of_simpler_as_it_was_recorded", recorded::widowx),
        ("googles_robot_of_simpler_as_it_was_recorded", recorded::google_robot),
    ]);
}

/// A worker whose episodes do what their trial says; the task counts as solved at the third step, if the action says so.
fn worker(folder: &Path, pictures: &Path, slots: usize) {
    let mut steps = vec![0_i64; slots];
    played::play(pictures, SIZE, |order, pictures| obey(order, folder, pictures, &mut steps));
}

fn obey(order: &Value, folder: &Path, pictures: &std::fs::File, steps: &mut [i64]) -> Value<'static> {
    let slot = number(order.get("slot"));
    let at = slot as usize;
    let first_time = |what: &str| std::fs::File::create_new(folder.join(what)).is_ok();
    let mut answer = vec![("slot", Value::Int(slot))];
    match order.get("actions") {
        None => {
            steps[at] = 0;
            answer.push(("instruction", Value::text("put it down")));
            match number(order.get("trial")) {
                1 if first_time("killed") => std::process::abort(),
                2 if first_time("silent") => std::thread::sleep(Duration::from_secs(600)),
                3 if first_time("raised") => {
                    return Value::map([answer[0].clone(), ("error", Value::text("ValueError: x"))]);
                }
                4 => return Value::map([answer[0].clone(), ("error", Value::text("ValueError: always"))]),
                5 if first_time("dies later") => steps[at] = -1000,
                _ => {}
            }
        }
        Some(Value::List(actions)) => {
            let [Value::List(action)] = actions.as_slice() else { panic!("{actions:?}") };
            steps[at] += 1;
            if steps[at] == -998 {
                std::process::abort();
            }
            let pixel = matches!(action.first(), Some(Value::Float(value)) if *value == f64::from(slot as u8 + 3));
            answer.push(("success", Value::Bool(steps[at] == 3 && pixel)));
        }
        other => panic!("{other:?}"),
    }
    let bytes = 2 * SIZE * SIZE * 3;
    pictures.write_all_at(&vec![slot as u8 + 3; bytes], (at * bytes) as u64).unwrap();
    answer.push(("state", Value::List(vec![Value::Float(0.5); 8])));
    Value::map(answer)
}

/// Commands the value of the pixels it sees.
struct Looking;

impl Policy for Looking {
    fn horizon(&self) -> usize {
        16
    }
    fn action_dim(&self) -> usize {
        7
    }
    fn act(&mut self, seen: &[w2a_data::Observation], words: &[&str]) -> Result<Vec<f32>, NnError> {
        assert!(words.iter().all(|words| *words == "put it down"));
        Ok(seen.iter().flat_map(|seen| vec![f32::from(seen.cameras[1].rgb[SIZE]); 16 * 7]).collect())
    }
    fn reset(&mut self) {}
}

fn server(policy: w2a_serve::BoxedPolicy) -> (Server, w2a_serve::Url) {
    let config = ServerConfig { port: 0, ..ServerConfig::new(Protocol::Groot) };
    let served =
        Served { layout: Layout::libero(), horizon: policy.horizon(), sessions: Sessions::Shared(policy), bend: None };
    let server = Server::start(served, &config, Arc::default()).unwrap();
    let url = format!("groot://{}", server.address()).parse().unwrap();
    (server, url)
}

fn request(folder: &Path, trials: &[u32], slots: usize) -> Evaluation {
    let episode = |trial: &u32| Episode { suite: "libero_object".into(), task: 0, trial: *trial };
    Evaluation {
        command: Command {
            program: std::env::current_exe().unwrap(),
            arguments: vec!["worker".into(), folder.display().to_string()],
            variables: vec![],
            log: folder.join("worker.log"),
            timeout: Duration::from_secs(2),
            install: "scripts/setup-libero.sh",
        },
        workers: 2,
        slots,
        settings: EvalSettings::Libero(Settings { max_steps: vec![("libero_object".into(), 7)], ..Settings::openpi() }),
        episodes: trials.iter().map(episode).collect(),
    }
}

fn outcomes(request: &Evaluation, policy: w2a_serve::BoxedPolicy) -> Result<Vec<EpisodeOutcome>, SimulatorError> {
    let (_server, url) = server(policy);
    let told = Mutex::new(Vec::new());
    let connect = || RemotePolicy::connect(url.clone(), Layout::libero(), None, Patience::default());
    let spec = evaluate(request, connect, |outcome| {
        told.lock().unwrap().push(outcome.clone());
        Ok(())
    })?;
    assert_eq!(spec.unwrap().versions["played"], "1");
    let mut told = told.into_inner().unwrap();
    told.sort_by(|a, b| a.episode.cmp(&b.episode));
    Ok(told)
}

fn episodes_run() {
    for slots in [1, 3] {
        let folder = tempfile::tempdir().unwrap();
        let told = outcomes(&request(folder.path(), &[10, 11, 12, 13, 14], slots), Box::new(Looking)).unwrap();
        assert_eq!(told.len(), 5);
        for outcome in &told {
            assert!(outcome.success && outcome.steps == 3 && outcome.attempts == 1, "{outcome:?}");
            assert_eq!((outcome.instruction.as_str(), &outcome.failure), ("put it down", &None));
        }
        // The same with a policy that does not look: all steps, no success, and that counts.
        let zero = w2a_policy::ZeroPolicy { action_dim: 7, horizon: 5 };
        let told = outcomes(&request(folder.path(), &[10, 11], slots), Box::new(zero)).unwrap();
        assert!(told.iter().all(|outcome| !outcome.success && outcome.steps == 7 && outcome.failure.is_none()));
    }
}

fn workers_are_replaced() {
    for slots in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let trials = [0, 1, 2, 3, 5, 6];
        let told = outcomes(&request(folder.path(), &trials, slots), Box::new(Looking)).unwrap();
        assert_eq!(told.iter().map(|outcome| outcome.episode.trial).collect::<Vec<_>>(), trials);
        assert!(told.iter().all(|outcome| outcome.success && outcome.failure.is_none()), "{told:?}");
        assert!([1, 2, 3, 4].iter().all(|place| told[*place].attempts >= 2), "{told:?}");
    }
}

fn failures_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let told = outcomes(&request(folder.path(), &[0, 4], 1), Box::new(Looking)).unwrap();
    assert!(told[0].success);
    let failed = &told[1];
    assert!(!failed.success && failed.attempts == MAX_ATTEMPTS, "{failed:?}");
    assert_eq!(failed.failure.as_deref(), Some("ValueError: always"));
}

fn mistakes_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut absent = request(folder.path(), &[0], 1);
    absent.command.program = folder.path().join("no-python");
    let error = outcomes(&absent, Box::new(Looking)).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("setup-libero.sh"), "{error}");
    let short = w2a_policy::ZeroPolicy { action_dim: 7, horizon: 4 };
    let error = outcomes(&request(folder.path(), &[0], 1), Box::new(short)).unwrap_err();
    assert!(error.to_string().contains("expected at least the 5 that are carried out, got 4"), "{error}");
}
