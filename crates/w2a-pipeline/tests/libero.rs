//! A run in LIBERO at toy size, with demonstrations that are written here and a simulator that is played by this test:
//! started with arguments it is a worker.

mod common;
#[path = "../../w2a-serve/tests/played/mod.rs"]
mod played;

use std::os::unix::fs::FileExt;
use std::path::Path;

use w2a_data::{Camera, DatasetSpec, DatasetWriter, Episode, Version};
use w2a_pipeline::{
    Config, EmbedRequest, EnvKind, GrootSection, Request, Rig, Stage, WorldKind, cosmos_settings, embed_prompts, run,
};
use w2a_posttrain::Form;
use w2a_serve::codec::Value;

/// Of the played simulator's pictures.
const SIDE: usize = 128;
const WORDS: [&str; 2] =
    ["pick up the cream cheese and place it in the basket", "pick up the salad dressing and place it in the basket"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, module, name, kind, pictures, _] = arguments.as_slice()
        && (module, name, kind) == (&"-m".into(), &"w2a_workers".into(), &"libero".into())
    {
        return worker(Path::new(pictures));
    }
    played::run(&[
        ("a_run_in_libero_ends_with_its_report_and_a_resumed_one_with_the_same_bits", whole_run),
        ("demonstrations_and_settings_that_do_not_fit_are_refused_by_name", refused),
        ("cosmos_imagines_and_groot_acts_in_the_whole_method", backbones),
        ("a_checkpoint_that_changes_or_does_not_fit_is_refused", other_checkpoints),
    ]);
}

/// A hand that moves as it is told, from a place that the scene says; the task is solved far enough to the right.
fn worker(pictures: &Path) {
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

/// 32 steps of two actions, of which an episode imagines 8 chunks.
fn config(folder: &Path) -> Config {
    let mut config: Config = toml::from_str(include_str!("toy.toml")).unwrap();
    config.env.kind = EnvKind::Libero;
    let libero = &mut config.env.libero;
    libero.python = std::env::current_exe().unwrap().display().to_string();
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
    config.world.views = Some(Rig::Libero);
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
    let rules: [(&str, Change); 8] = [
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
