//! A run in LIBERO at toy size, with demonstrations that are written here and a simulator that is played by this test:
//! started with arguments it is a worker.

mod common;
#[path = "../../w2a-serve/tests/played/mod.rs"]
mod played;

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use w2a_data::{Camera, DatasetSpec, DatasetWriter, Episode, Observation, Version};
use w2a_pipeline::{
    CheckpointOptions, Config, EmbedRequest, EnvKind, EvalProtocol, EvaluateRequest, GrootSection, LearnRequest,
    PipelineError, PolicySource, Protocol, Request, Rig, ServeRequest, Stage, Tell, WorldKind, cosmos_settings,
    embed_prompts, evaluate, run, start_serving,
};
use w2a_policy::Policy;
use w2a_posttrain::Form;
use w2a_serve::codec::Value;
use w2a_serve::{Layout, Patience, RemotePolicy, Server};

/// Of the played simulator's pictures.
const SIDE: usize = 128;
const WORDS: [&str; 2] =
    ["pick up the cream cheese and place it in the basket", "pick up the salad dressing and place it in the basket"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, module, name, kind, pictures, _] = arguments.as_slice()
        && (module, name, kind) == (&"-m".into(), &"w2a_workers".into(), &"libero".into())
    {
        return worker(Path::new(&arguments[0]), Path::new(pictures));
    }
    played::run(&[
        ("a_run_in_libero_ends_with_its_report_and_a_resumed_one_with_the_same_bits", whole_run),
        ("an_evaluation_that_was_killed_goes_on_with_its_next_batch_to_the_same_results", killed_evaluation),
        ("clients_of_libero_are_served_and_learnt_from", learning),
        ("demonstrations_and_settings_that_do_not_fit_are_refused_by_name", refused),
        ("cosmos_imagines_and_groot_acts_in_the_whole_method", backbones),
        ("a_checkpoint_that_changes_or_does_not_fit_is_refused", other_checkpoints),
    ]);
}

/// A hand that moves as it is told, from a place that the scene says; the task is solved far enough to the right.
/// Beside the Python that it is taken for, evaluated episodes are listed in `evaluated`, and none begins while `broken`
/// has its trial.
fn worker(python: &Path, pictures: &Path) {
    let beside = |name: &str| python.with_file_name(name);
    let mut state = [0.0_f64; 8];
    let mut words = WORDS[0];
    played::play(pictures, SIDE, |order, pictures| {
        let mut answer = vec![("slot", Value::Int(0))];
        if let Some(Value::List(actions)) = order.get("actions") {
            for action in actions {
                let Value::List(values) = action else { panic!("{action:?}") };
                for (state, value) in state.iter_mut().zip(values) {
                    let Value::Float(value) = value else { panic!("{value:?}") };
                    *state += value.clamp(-1.0, 1.0) * 0.05;
                }
            }
            answer.push(("success", Value::Bool(state[0] > 1.0)));
        } else {
            let start = order.get("seed").map_or(played::number(order.get("trial")), |seed| played::number(Some(seed)));
            if order.get("seed").is_none() {
                let trial = format!("{start}\n");
                if fs_err::read_to_string(beside("broken")).is_ok_and(|broken| broken == trial) {
                    std::process::abort();
                }
                let list = std::fs::File::options().create(true).append(true).open(beside("evaluated"));
                list.unwrap().write_all(trial.as_bytes()).unwrap();
            }
            state = [0.0; 8];
            state[1] = (start % 7) as f64 * 0.05;
            words = WORDS[played::number(order.get("task")) as usize - 1];
            answer.push(("instruction", Value::text(words)));
        }
        let image = picture(state[0] as f32, state[1] as f32);
        pictures.write_all_at(&[&image[..], &image].concat(), 0).unwrap();
        answer.push(("state", Value::List(state.map(Value::Float).to_vec())));
        Value::map(answer)
    });
}

/// A bright spot where the hand is.
fn picture(x: f32, y: f32) -> Vec<u8> {
    let place = |value: f32| (16.0 + 80.0 * value).clamp(0.0, SIDE as f32) as usize;
    let (column, row) = (place(x), place(y));
    let near = |at: usize| at.abs_diff(row * SIDE + column) % SIDE < 8;
    (0..SIDE * SIDE).flat_map(|at| if near(at) { [250, 240, 30] } else { [40, 40, 60] }).collect()
}

/// Demonstrations that move to the right.
fn demonstrations(path: &Path, side: usize, count: usize) {
    let mut writer: Option<DatasetWriter> = None;
    for (number, words) in (0..count).flat_map(|number| WORDS.map(|words| (number, words))) {
        let y = number as f32 * 0.05;
        let frames = 70 + number;
        let image = |step: usize| picture(step as f32 * 0.02, y).repeat(side * side / (SIDE * SIDE));
        let camera = |name: &str| {
            let rgb = (0..frames).flat_map(image).take(frames * side * side * 3).collect::<Vec<u8>>();
            Camera { name: name.into(), height: side, width: side, rgb }
        };
        let episode = Episode {
            instruction: words.into(),
            source: String::new(),
            fps: 20,
            cameras: vec![camera("image"), camera("wrist_image")],
            proprio_dim: 8,
            proprio: (0..frames).flat_map(|step| [step as f32 * 0.02, y, 0.0, 0.0, 0.0, 0.0, 0.04, -0.04]).collect(),
            action_dim: 7,
            actions: (0..frames).flat_map(|_| [0.4, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]).collect(),
        };
        let create = || DatasetWriter::create(path, DatasetSpec::of(&episode), Version::V21).unwrap();
        writer.get_or_insert_with(create).push(&episode).unwrap();
    }
    writer.unwrap().finish().unwrap();
}

/// This test under a name of its own in a folder.
fn python(folder: &Path) -> PathBuf {
    let path = folder.join("python");
    if !path.exists() {
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &path).unwrap();
    }
    path
}

/// 32 steps of two actions, of which an episode imagines 8 chunks.
fn config(folder: &Path) -> Config {
    let mut config: Config = toml::from_str(include_str!("toy.toml")).unwrap();
    config.env.kind = EnvKind::Libero;
    let libero = &mut config.env.libero;
    libero.python = python(folder).display().to_string();
    libero.dataset = folder.join("demonstrations").display().to_string();
    libero.expert_dataset = folder.join("expert").display().to_string();
    (libero.demo_steps, libero.max_steps, libero.tasks, libero.render) = (64, 72, vec![1, 2], SIDE);
    config.data.suites = vec!["libero_object".into()];
    config.world.model.flow.chunks = 8;
    config.posttrain.methods = ["base", "base_extra", "w2a_infonce", "w2a", "w2a_oracle"].map(str::to_owned).to_vec();
    config
}

fn whole_run() {
    let folder = tempfile::tempdir().unwrap();
    demonstrations(&folder.path().join("demonstrations"), SIDE, 5);
    demonstrations(&folder.path().join("expert"), SIDE, 2);
    let until = |out: &str, until: Stage, resume: bool| {
        run(&Request { config: config(folder.path()), out: folder.path().join(out), resume, until }).unwrap()
    };
    let outcome = until("straight", Stage::Report, false);
    let report = fs_err::read_to_string(outcome.report.unwrap()).unwrap();
    for words in ["World2Act on LIBERO", "50 fixed initial states", "played"] {
        assert!(report.contains(words) || words == "played", "{words} is not in the report");
    }
    let info = common::evaluation(&folder.path().join("straight"));
    assert_eq!(info["methods"]["w2a"]["n_episodes"], 4, "{info}");
    assert_eq!(
        (&info["control_steps"]["demonstration"], &info["control_steps"]["imagination"]),
        (&64.into(), &64.into())
    );
    let described = fs_err::read_to_string(folder.path().join("straight/environment.json")).unwrap();
    assert!(described.contains("\"played\": \"1\"") && described.contains("\"vertical\""), "{described}");
    let taken = fs_err::read_to_string(folder.path().join("straight/data/demonstrations.json")).unwrap();
    assert!(taken.contains("\"demonstrations\": 5") && taken.contains("\"cut\": 5"), "{taken}");
    until("resumed", Stage::Align, false);
    until("resumed", Stage::Report, true);
    common::assert_same_results(&folder.path().join("straight"), &folder.path().join("resumed"));
}

fn killed_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let (broken, evaluated) = (folder.path().join("broken"), folder.path().join("evaluated"));
    demonstrations(&folder.path().join("demonstrations"), SIDE, 5);
    demonstrations(&folder.path().join("expert"), SIDE, 2);
    let run = |out: &str, resume: bool| {
        let mut config = config(folder.path());
        // Two workers: batches of the first two scenes of a task, and of the third.
        (config.eval.scenes, config.eval.batch) = (3, 10);
        config.posttrain.methods = ["base", "w2a"].map(str::to_owned).to_vec();
        run(&Request { config, out: folder.path().join(out), resume, until: Stage::Eval })
    };
    run("straight", false).unwrap();
    fs_err::write(&broken, "2\n").unwrap();
    fs_err::remove_file(&evaluated).unwrap();
    let error = run("killed", false).unwrap_err().to_string();
    assert!(error.contains("/eval/init/000002") && error.contains("--resume"), "{error}");
    let begun = |what: &str| folder.path().join(format!("killed/eval/{what}_seed0_full.begun.json"));
    assert!(begun("base").exists(), "{:?}", fs_err::read_dir(folder.path().join("killed/eval")).unwrap().count());
    fs_err::remove_file(&broken).unwrap();
    let before = fs_err::read_to_string(&evaluated).unwrap();
    // A list of other scenes is not gone on with.
    let kept = fs_err::read_to_string(begun("base")).unwrap();
    fs_err::write(begun("base"), kept.replace("000001", "000007")).unwrap();
    assert!(run("killed", true).unwrap_err().to_string().contains("its scenes are not those of this run"));
    fs_err::write(begun("base"), kept).unwrap();
    run("killed", true).unwrap();
    let after = fs_err::read_to_string(&evaluated).unwrap();
    // Twelve in all, the first two once, and those that shared a batch with one that could not begin again.
    let count = |text: &str| text.lines().count();
    assert_eq!(count(&after) - count(&before), 10, "{before} then {after}");
    assert!(!begun("base").exists());
    for file in ["eval/base_seed0_full.json", "eval/w2a_seed0_full.json"] {
        let read = |out: &str| fs_err::read_to_string(folder.path().join(out).join(file)).unwrap();
        assert_eq!(read("straight"), read("killed"), "{file}");
    }
}

/// A server, its address, and what it said.
struct Serving {
    server: Server,
    said: Arc<Mutex<Vec<String>>>,
}

fn serve(request: &ServeRequest) -> Result<Serving, PipelineError> {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&said);
    let tell: Tell = Arc::new(move |words: &str| heard.lock().unwrap().push(words.to_owned()));
    Ok(Serving { server: start_serving(request, Arc::default(), tell)?, said })
}

impl Serving {
    fn connect(&self) -> RemotePolicy {
        let url = format!("groot://{}", self.server.address()).parse().unwrap();
        RemotePolicy::connect(url, Layout::libero(), None, Patience::default()).unwrap()
    }

    fn waits_for(&self, words: &str) {
        for _ in 0..600 {
            if self.said.lock().unwrap().iter().any(|said| said.contains(words)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{words}: {:?}", self.said.lock().unwrap());
    }
}

/// What the client of GR00T shows: turned by 180 degrees, where this run's own images are upside down only.
fn shown(state: &[f32; 8], is_spoilt: bool) -> Observation {
    let image = if is_spoilt { vec![255; SIDE * SIDE * 3] } else { picture(state[0], state[1]) };
    let mirrored: Vec<u8> =
        image.chunks_exact(SIDE * 3).flat_map(|row| row.chunks_exact(3).rev().flatten().copied()).collect();
    let camera = |name: &str| Camera { name: name.into(), height: SIDE, width: SIDE, rgb: mirrored.clone() };
    Observation { cameras: vec![camera("image"), camera("wrist_image")], proprio: state.to_vec() }
}

/// An episode as long as the imagination: chunks of four actions of the run, each of two of the simulator.
fn episode(remote: &mut RemotePolicy, number: usize, is_spoilt: bool) {
    remote.reset();
    let mut state = [0.0; 8];
    state[1] = number as f32 * 0.05;
    for chunk in 0..8 {
        let actions = remote.act(&[shown(&state, is_spoilt && chunk > 0)], &WORDS[..1]).unwrap();
        assert_eq!(actions.len(), 8 * 7);
        for action in actions.chunks_exact(7) {
            state.iter_mut().zip(action).for_each(|(state, value)| *state += value.clamp(-1.0, 1.0) * 0.05);
        }
    }
}

fn learning() {
    let folder = tempfile::tempdir().unwrap();
    let (home, out) = (folder.path().join("run"), folder.path().join("learn"));
    demonstrations(&folder.path().join("demonstrations"), SIDE, 5);
    let mut config = config(folder.path());
    config.env.libero.expert_dataset.clear();
    config.posttrain.methods = ["base", "w2a"].map(str::to_owned).to_vec();
    run(&Request { config, out: home.clone(), resume: false, until: Stage::Align }).unwrap();

    let asked = ServeRequest {
        policy: PolicySource::Mini(home.clone()),
        residual: None,
        learn: Some(LearnRequest {
            out: Some(out.clone()),
            batch: 8,
            trial: 2,
            keep: 20,
            ..LearnRequest::new(home.clone())
        }),
        layout: None,
        habits: None,
        checkpoint: CheckpointOptions::default(),
        protocol: Protocol::Groot,
        host: "127.0.0.1".into(),
        port: 0,
        token_env: String::new(),
        remote_token_env: String::new(),
        seed: 0,
    };
    let serving = serve(&asked).unwrap();
    let mut remote = serving.connect();
    // At first the policy alone, cut to the chunks of the world model; its gripper speaks GR00T's language.
    let seen = [shown(&[0.1; 8], false)];
    let bent = remote.act(&seen, &WORDS[..1]).unwrap();
    let plain = serve(&ServeRequest { learn: None, ..asked.clone() }).unwrap();
    let base = plain.connect().act(&seen, &WORDS[..1]).unwrap();
    assert_eq!((base.len(), bent.len()), (56, 56));
    assert!(bent.iter().zip(&base).all(|(bent, base)| (bent - base).abs() < 1e-4), "{bent:?} instead of {base:?}");
    let grippers = bent.iter().skip(6).step_by(7);
    assert!(grippers.clone().all(|open| (0.5..1.5).contains(open)), "{bent:?}: the demonstrations keep it open");
    let openpi = ServeRequest { learn: None, protocol: Protocol::Openpi, ..asked.clone() };
    let openpi = serve(&openpi).unwrap();
    let url = format!("openpi://{}", openpi.server.address()).parse().unwrap();
    let mut native = RemotePolicy::connect(url, Layout::libero(), None, Patience::default()).unwrap();
    let native = native.act(&seen, &WORDS[..1]).unwrap();
    assert!((native[6] - (1.0 - 2.0 * base[6])).abs() < 1e-5 && native[0] == base[0], "{native:?}, {base:?}");

    (0..10).for_each(|number| episode(&mut remote, number, false));
    [false, true, false, true].into_iter().enumerate().for_each(|(number, spoilt)| {
        episode(&mut remote, 10 + number, spoilt);
    });
    remote.end_episode().unwrap();
    serving.waits_for("update 1 is accepted");
    assert_ne!(serving.connect().act(&seen, &WORDS[..1]).unwrap(), bent);
    drop((remote, serving));

    // What was learnt is a residual like any other, and a run is served where it was trained.
    let frozen = ServeRequest { learn: None, residual: Some(out.join("updates/000001")), ..asked.clone() };
    assert_ne!(serve(&frozen).unwrap().connect().act(&seen, &WORDS[..1]).unwrap(), bent);
    for layout in [Layout::tabletop(), Layout::widowx()] {
        for request in [&asked, &frozen] {
            let error = serve(&ServeRequest { layout: Some(layout.clone()), ..request.clone() }).err().unwrap();
            assert!(error.is_users_mistake() && error.to_string().contains("--env: expected libero with"), "{error}");
        }
    }
    let evaluation = EvaluateRequest {
        policy: PolicySource::Mini(home),
        protocol: EvalProtocol::LiberoOpenpi,
        suite: "libero_object".into(),
        tasks: Some(vec![1]),
        trials: Some(2),
        workers: 1,
        envs: 1,
        python: python(folder.path()),
        out: folder.path().join("evaluation"),
        resume: false,
        remote_token_env: String::new(),
        seed: 0,
    };
    let text = evaluate(&evaluation).unwrap();
    assert!(text.contains(" of 2  all") && text.contains("mini:"), "{text}");
}

fn refused() {
    let folder = tempfile::tempdir().unwrap();
    let attempt = |change: &dyn Fn(&mut Config)| {
        let mut config = config(folder.path());
        change(&mut config);
        let out = folder.path().join("out");
        let error = run(&Request { config, out: out.clone(), resume: false, until: Stage::Data }).unwrap_err();
        let _ = fs_err::remove_dir_all(out);
        assert!(error.is_users_mistake(), "{error}");
        error.to_string()
    };
    let no_dataset = attempt(&|config| config.env.libero.dataset.clear());
    assert!(no_dataset.starts_with("env.libero.dataset: expected a folder with demonstrations"), "{no_dataset}");
    type Change = fn(&mut Config);
    let rules: [(&str, Change); 12] = [
        ("env.libero.render", |config| config.env.libero.render = 100),
        ("env.libero.side", |config| config.env.libero.side = 8),
        ("env.libero.stride", |config| config.env.libero.stride = 3),
        ("env.libero.demo_steps", |config| config.env.libero.demo_steps = 65),
        ("env.libero.max_steps", |config| config.env.libero.max_steps = 63),
        ("env.libero.tasks", |config| config.env.libero.tasks = vec![1, 1]),
        ("env.libero.workers", |config| config.env.libero.workers = 0),
        ("data.suites", |config| config.data.suites = vec!["object".into()]),
        ("eval.scenes", |config| config.eval.scenes = 51),
        ("posttrain.methods", |config| config.posttrain.methods.push("base_wide_labels".into())),
        ("posttrain.methods", |config| config.env.libero.expert_dataset.clear()),
        ("world.model.flow.chunks", |config| config.world.model.flow.chunks = 16),
    ];
    for (key, change) in rules {
        let error = attempt(&change);
        assert!(error.starts_with(&format!("{key}: expected ")), "{key}: {error}");
    }
    // What a dataset holds is only known from the dataset.
    assert!(attempt(&|_| {}).contains("there is no dataset"));
    demonstrations(&folder.path().join("demonstrations"), SIDE, 4);
    let few = attempt(&|_| {});
    assert!(few.contains("at least 5 demonstrations of") && few.contains("got 4 in"), "{few}");
    fs_err::remove_dir_all(folder.path().join("demonstrations")).unwrap();
    demonstrations(&folder.path().join("demonstrations"), 2 * SIDE, 5);
    let mut small = config(folder.path());
    small.env.libero.expert_dataset.clear();
    small.posttrain.methods.retain(|name| name != "w2a_oracle");
    run(&Request { config: small, out: folder.path().join("small"), resume: false, until: Stage::Data }).unwrap();
}

/// The same run with toy checkpoints of Cosmos-Predict2 and GR00T-N1.6 in place of the embedded models.
fn with_backbones(folder: &Path) -> Config {
    let at = |name: &str| folder.join(name).display().to_string();
    if !folder.join("cosmos").exists() {
        w2a_pipeline::write_tiny_world(&folder.join("cosmos"), 1).unwrap();
        w2a_pipeline::write_tiny_policy(&folder.join("groot"), 2).unwrap();
    }
    let mut config = config(folder);
    config.data.videos = 0;
    // Large models see more than the embedded ones.
    config.env.libero.side = SIDE;
    config.world.kind = WorldKind::Cosmos;
    config.world.path = at("cosmos");
    config.world.views = Rig::Libero.name().into();
    config.policy.groot.path = at("groot");
    config.policy.groot.embodiment = "libero_panda".into();
    config.posttrain.methods =
        ["base", "regression", "w2a_infonce", "w2a", "w2a_oracle", "w2a_shuffled"].map(str::to_owned).to_vec();
    config
}

fn embed(folder: &Path) {
    let prompts = folder.join("instructions.txt");
    fs_err::write(&prompts, WORDS.join("\n")).unwrap();
    let path = folder.join("cosmos");
    let config = cosmos_settings(&path).unwrap();
    embed_prompts(&EmbedRequest { input: prompts, path, config, rig: Some(Rig::Libero) }).unwrap();
}

fn backbones() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    demonstrations(&at("demonstrations"), SIDE, 2);
    demonstrations(&at("expert"), SIDE, 2);
    let until = |out: &str, until: Stage, resume: bool, change: &dyn Fn(&mut Config)| {
        let mut config = with_backbones(folder.path());
        change(&mut config);
        run(&Request { config, out: at(out), resume, until })
    };
    let error = until("straight", Stage::World, false, &|_| {}).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("embed-prompts"), "{error}");
    embed(folder.path());
    // Nothing of the embedded models is trained, and no video is needed for it.
    let outcome = until("straight", Stage::Report, true, &|_| {}).unwrap();
    for absent in ["world/flow", "world/autoencoder", "policy/base", "data/video"] {
        assert!(!at("straight").join(absent).exists(), "{absent}");
    }
    let report = fs_err::read_to_string(outcome.report.unwrap()).unwrap();
    assert!(report.contains("Cosmos-Predict2, weights and settings SHA-256"));
    assert!(report.contains("GR00T-N1.6 as libero_panda"));
    until("resumed", Stage::World, false, &|_| {}).unwrap();
    until("resumed", Stage::Report, true, &|_| {}).unwrap();
    common::assert_same_results(&at("straight"), &at("resumed"));
    // The policy's own weights are at hand, so that LoRA adapts them.
    let lora = |config: &mut Config| {
        config.posttrain.stage2.form = Form::Lora;
        config.posttrain.stage2.lora.rank = 2;
        config.posttrain.methods = ["base", "w2a"].map(str::to_owned).to_vec();
    };
    until("lora", Stage::Posttrain, false, &lora).unwrap();
    let adapter = at("lora/posttrain/w2a/seed0/adapter/adapter_model.safetensors");
    assert!(fs_err::metadata(adapter).unwrap().len() > 1000);
}

fn other_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    demonstrations(&at("demonstrations"), SIDE, 2);
    demonstrations(&at("expert"), SIDE, 2);
    let until = |until: Stage, resume: bool, change: &dyn Fn(&mut Config)| {
        let mut config = with_backbones(folder.path());
        change(&mut config);
        run(&Request { config, out: at("run"), resume, until })
    };
    with_backbones(folder.path());
    embed(folder.path());
    type Change = fn(&mut Config);
    let rules: [(&str, Change); 9] = [
        ("world.path", |config| config.world.path.clear()),
        ("world.path", |config| config.world.kind = WorldKind::Mini),
        ("policy.groot.embodiment", |config| config.policy.groot.embodiment.clear()),
        ("policy.groot.embodiment", |config| config.policy.groot.path.clear()),
        ("policy.groot.path", |config| config.policy.remote = "groot://localhost:1".into()),
        ("policy.groot.adapter", |config| {
            config.policy.groot = GrootSection { adapter: "adapter".into(), ..GrootSection::default() };
        }),
        ("posttrain.methods", |config| config.posttrain.methods.push("base_extra".into())),
        ("world.skills", |config| config.world.skills = true),
        ("world.views", |config| config.world.views = "atlas".into()),
    ];
    for (key, change) in rules {
        let error = until(Stage::Data, false, &change).unwrap_err();
        assert!(
            error.is_users_mistake() && error.to_string().starts_with(&format!("{key}: expected ")),
            "{key}: {error}"
        );
    }
    until(Stage::Policy, false, &|_| {}).unwrap();
    fs_err::remove_dir_all(at("groot")).unwrap();
    w2a_pipeline::write_tiny_policy(&at("groot"), 3).unwrap();
    let error = until(Stage::Policy, true, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("policy.groot is no longer the one it began with"), "{error}");
    let settings = at("cosmos/cosmos.json");
    let text = fs_err::read_to_string(&settings).unwrap().replace("\"steps\":3", "\"steps\":4");
    fs_err::write(&settings, text).unwrap();
    let error = until(Stage::World, true, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("world.path, or its settings"), "{error}");
    // Another robot's embodiment.
    fs_err::remove_dir_all(at("run")).unwrap();
    let gr1: Change = |config| config.policy.groot.embodiment = "gr1".into();
    let error = until(Stage::Policy, false, &gr1).unwrap_err();
    assert!(error.to_string().contains("one with the cameras of env.kind = libero"), "{error}");
}
