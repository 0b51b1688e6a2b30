//! Workers as an environment, played by this test itself: started with arguments it is a worker.

mod played;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use w2a_serve::codec::Value;
use w2a_serve::simulator::{Command, Settings, SimulatorKind, WorkerEnvironment, WorkerSetup};
use w2a_sim::{Environment, Range, Scene, SimError, Split, Suite};

use played::number;

/// Side of the rendered images; those that are shown are half as large.
const SIZE: usize = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, folder, pictures, _] = arguments.as_slice()
        && mode == "worker"
    {
        return worker(Path::new(folder), Path::new(pictures));
    }
    played::run(&[
        ("scenes_become_orders_and_actions_go_out_in_rows", scenes_and_actions),
        ("a_lost_worker_plays_its_episode_again_and_nobody_notices", lost_workers),
        ("what_never_runs_is_an_error_that_names_the_scene", what_never_runs),
        ("what_does_not_fit_is_refused", refused),
    ]);
}

/// Its state adds up the actions' first two values; everything red of its images says how many actions there were.
fn worker(folder: &Path, pictures: &Path) {
    let first_time = |what: &str| std::fs::File::create_new(folder.join(what)).is_ok();
    let (mut sum, mut count, mut seed) = ([0.0, 0.0], 0, 0);
    played::play(pictures, SIZE, |order, pictures| {
        let mut answer = vec![("slot", Value::Int(0))];
        let mut seeing = true;
        if let Some(Value::List(actions)) = order.get("actions") {
            for action in actions {
                let Value::List(values) = action else { panic!("{action:?}") };
                for (sum, value) in sum.iter_mut().zip(values) {
                    let Value::Float(value) = value else { panic!("{value:?}") };
                    *sum += value;
                }
                count += 1;
            }
            if seed == 2_000_001 && count > 2 && first_time("killed") {
                std::process::abort();
            }
            if seed == 2_000_002 && count > 2 {
                return Value::map([("slot", Value::Int(0)), ("error", Value::text("ValueError: always"))]);
            }
            seeing = order.get("seeing") == Some(&Value::Bool(true));
            answer.push(("success", Value::Bool(sum[0] > 5.0)));
        } else {
            (sum, count) = ([0.0, 0.0], 0);
            seed = order.get("seed").map_or(number(order.get("trial")), |seed| number(Some(seed)));
            let right = order.get("suite").and_then(Value::as_text) == Some("libero_object");
            let words = "pick up the cream cheese and place it in the basket";
            answer.push(("instruction", Value::text(if right { words } else { "something else" })));
        }
        if seeing {
            let pixels: Vec<u8> = (0..2 * SIZE * SIZE).flat_map(|_| [count as u8, 0, 7]).collect();
            pictures.write_all_at(&pixels, 0).unwrap();
        }
        let state = [sum[0], sum[1], f64::from(seed as i32), 0.0, 0.0, 0.0, 0.0, 0.0];
        answer.push(("state", Value::List(state.map(Value::Float).to_vec())));
        Value::map(answer)
    });
}

fn environment(folder: &Path, workers: usize) -> WorkerEnvironment {
    let settings = Settings { render: SIZE as u32, resize: 0, ..Settings::openpi() };
    let command = Command {
        program: std::env::current_exe().unwrap(),
        arguments: vec!["worker".into(), folder.display().to_string()],
        variables: vec![],
        log: folder.join("worker.log"),
        timeout: Duration::from_secs(5),
        install: "scripts/setup-libero.sh",
    };
    WorkerEnvironment::new(WorkerSetup { command, workers, settings, stride: 2, side: SIZE / 2 }).unwrap()
}

fn seeded(index: u32) -> Scene {
    Scene::new(Suite::LiberoObject, 1, Split::Posttrain, Range::Seed, index).unwrap()
}

/// Two actions of the simulator whose first values are these.
fn row(first: f32, second: f32) -> Vec<f32> {
    let mut row = vec![0.0; 14];
    (row[0], row[7], row[8]) = (first, second, 10.0);
    row
}

fn scenes_and_actions() {
    let folder = tempfile::tempdir().unwrap();
    let mut environment = environment(folder.path(), 2);
    let fixed: Scene = "libero_object/1/eval/init/000007".parse().unwrap();
    let seen = environment.reset(&[seeded(5), fixed]).unwrap();
    assert_eq!(environment.versions()["played"], "1");
    assert_eq!(seen.iter().map(|seen| seen.proprio[2]).collect::<Vec<_>>(), [2_000_005.0, 7.0]);
    assert_eq!((environment.spec().action.len(), environment.spec().control_hz, environment.capacity()), (14, 10, 2));
    let camera = &seen[0].cameras[1];
    assert_eq!((camera.name.as_str(), camera.height, camera.rgb.len()), ("wrist_image", 2, 12));
    let unseen = environment.step_unseen(&[row(1.0, 2.0), row(0.5, 0.0)].concat()).unwrap();
    assert!(unseen.iter().all(|outcome| outcome.observation.cameras.is_empty() && !outcome.success));
    assert_eq!(unseen[0].observation.proprio[..2], [3.0, 10.0]);
    let outcomes = environment.step(&[row(1.0, 2.0), row(0.5, 0.0)].concat()).unwrap();
    assert_eq!(outcomes.iter().map(|outcome| outcome.success).collect::<Vec<_>>(), [true, false]);
    assert_eq!(outcomes[1].observation.cameras[0].rgb[..3], [4, 0, 7]);
    // One that nobody asks about any more stands still, and still has something to show to a policy.
    environment.step_unseen(&[row(0.0, 0.0), row(0.0, 0.0)].concat()).unwrap();
    environment.dismiss(0);
    let outcomes = environment.step(&[row(1.0, 2.0), row(0.5, 0.0)].concat()).unwrap();
    assert_eq!(outcomes[0].observation.cameras[0].rgb[..3], [4, 0, 7]);
    assert_eq!((outcomes[0].observation.proprio[0], outcomes[1].observation.proprio[0]), (6.0, 1.5));
    let seen = environment.reset(&[seeded(6)]).unwrap();
    assert_eq!((seen.len(), seen[0].proprio[0]), (1, 0.0));
    assert_eq!(environment.step(&row(0.25, 0.0)).unwrap()[0].observation.proprio[0], 0.25);
}

fn lost_workers() {
    let folder = tempfile::tempdir().unwrap();
    let mut environment = environment(folder.path(), 2);
    environment.reset(&[seeded(1), seeded(3)]).unwrap();
    for step in 1..=4 {
        let outcomes = environment.step(&[row(1.0, 0.5), row(0.0, 0.0)].concat()).unwrap();
        assert_eq!(outcomes[0].observation.proprio[0], 1.5 * step as f32);
        assert_eq!(outcomes[0].observation.cameras[0].rgb[0], 2 * step as u8);
        assert_eq!(outcomes[0].success, step == 4);
    }
    assert!(folder.path().join("killed").exists());
}

fn what_never_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut environment = environment(folder.path(), 1);
    environment.reset(&[seeded(2)]).unwrap();
    environment.step(&row(0.0, 0.0)).unwrap();
    let error = environment.step(&row(0.0, 0.0)).unwrap_err().to_string();
    for words in ["libero_object/1/posttrain/seed/000002", "3 attempts", "ValueError: always", "--resume"] {
        assert!(error.contains(words), "{error}");
    }
    // Another task's words are another simulator's.
    let other: Scene = "libero_goal/0/eval/init/000000".parse().unwrap();
    assert!(environment.reset(&[other]).unwrap_err().to_string().contains("the scene's instruction"));
    let mut absent = environment_of("no-such-python", folder.path());
    assert!(absent.reset(&[seeded(0)]).unwrap_err().to_string().contains("setup-libero.sh"));
}

fn environment_of(program: &str, folder: &Path) -> WorkerEnvironment {
    let settings = Settings::openpi();
    let command =
        Command::python(SimulatorKind::Libero, program.into(), folder.join("worker.log"), Duration::from_secs(1));
    WorkerEnvironment::new(WorkerSetup { command, workers: 1, settings, stride: 1, side: 64 }).unwrap()
}

fn refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut environment = environment(folder.path(), 1);
    environment.reset(&[seeded(0)]).unwrap();
    assert!(matches!(environment.step(&[0.0; 7]), Err(SimError::ActionWidth { expected: 14, got: 7, .. })));
    let error = environment.step(&row(0.0, f32::NAN)).unwrap_err().to_string();
    assert!(error.contains("libero_object/1/posttrain/seed/000000") && error.contains("entry x is NaN"), "{error}");
    assert!(matches!(environment.reset(&[seeded(0), seeded(1)]), Err(SimError::NoEnvironment { .. })));
    for scene in ["object/0/eval/full/000000", "libero_object/1/train/demo/000000"] {
        let error = environment.reset(&[scene.parse().unwrap()]).unwrap_err().to_string();
        assert!(error.contains(scene) && error.contains("env.kind"), "{error}");
    }
    let settings = Settings::openpi();
    let command =
        Command::python(SimulatorKind::Libero, "python".into(), folder.path().join("log"), Duration::from_secs(1));
    let setup = WorkerSetup { command, workers: 1, settings, stride: 2, side: 100 };
    assert!(WorkerEnvironment::new(setup).is_err());
}
