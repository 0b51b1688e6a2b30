//! The whole method at toy size: it runs to the report, and interrupted runs end with the same bits.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use w2a_pipeline::{Config, Outcome, PipelineError, Request, Stage, run};

fn toy() -> Config {
    toml::from_str(include_str!("toy.toml")).unwrap()
}

/// Runs the toy configuration up to a stage; `resume` says whether the run may exist.
fn until(out: &Path, until: Stage, resume: bool) -> Result<Outcome, PipelineError> {
    run(&Request { config: toy(), out: out.to_owned(), resume, until })
}

fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_symlink() {
            fs_err::os::unix::fs::symlink(fs_err::read_link(entry.path()).unwrap(), target).unwrap();
        } else if kind.is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs_err::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn runs_that_were_interrupted_end_like_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (straight, resumed, damaged) = (at("straight"), at("resumed"), at("damaged"));

    let outcome = until(&straight, Stage::Report, false).unwrap();
    let report = fs_err::read_to_string(outcome.report.unwrap()).unwrap();
    assert!(report.starts_with("<!") && report.contains("World2Act"), "the report is no page");
    assert!(outcome.summary.contains("base_wide_labels"), "{}", outcome.summary);
    let methods = common::evaluation(&straight)["methods"].clone();
    for name in toy().posttrain.methods {
        let name = name.as_str();
        assert_eq!(methods[name]["n_episodes"], 4, "{name}: {}", methods[name]);
    }

    // Without --resume a run is left alone, and with it another configuration is refused by the name of the setting.
    assert!(matches!(until(&straight, Stage::Report, false), Err(PipelineError::Exists { .. })));
    let mut other = toy();
    other.align.loss.temperature = 0.5;
    let request = Request { config: other, out: straight.clone(), resume: true, until: Stage::Report };
    let error = run(&request).unwrap_err().to_string();
    assert!(error.contains("align.loss.temperature = 0.5"), "{error}");

    // Stopped after a stage, and once more.
    until(&resumed, Stage::Policy, false).unwrap();
    until(&resumed, Stage::Align, true).unwrap();
    copy(&resumed, &damaged);
    let seconds = |stage: usize| json(&resumed.join("manifest.json"))["stages"][stage]["seconds"].as_f64().unwrap();
    let before = seconds(1);
    until(&resumed, Stage::Report, true).unwrap();
    assert!(
        (before..1.9 * before).contains(&seconds(1)),
        "a stage that is loaded takes no time: {before} {}",
        seconds(1)
    );
    common::assert_same_results(&straight, &resumed);

    // Killed in the last training of stage 2, before its first checkpoint.
    until(&damaged, Stage::Posttrain, true).unwrap();
    fs_err::remove_dir_all(damaged.join("posttrain/w2a_oracle/seed0")).unwrap();
    fs_err::create_dir_all(damaged.join("posttrain/w2a_oracle/seed0/checkpoints/000002.partial")).unwrap();
    until(&damaged, Stage::Report, true).unwrap();
    common::assert_same_results(&straight, &damaged);
}

/// The suite `long` at toy size, with the methods that tell a world model with skills from one without.
fn toy_long() -> Config {
    let mut config = toy();
    config.data.suites = vec!["long".into()];
    config.data.tasks_per_suite = 1;
    config.world.skills = true;
    config.world.model.flow.chunks = 20;
    config.posttrain.methods = ["base", "w2a_base_wm", "w2a", "w2a_oracle"].map(str::to_owned).to_vec();
    config
}

#[test]
fn long_episodes_are_imagined_skill_by_skill_and_compared_with_windows() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let to = |out: &Path, config: Config, until: Stage| {
        run(&Request { config, out: out.to_owned(), resume: out.exists(), until }).unwrap()
    };
    let (straight, resumed) = (at("straight"), at("resumed"));
    let outcome = to(&straight, toy_long(), Stage::Report);
    let report = fs_err::read_to_string(outcome.report.unwrap()).unwrap();
    for words in ["Skill-WM", "Base-WM", "put the blue block on the plate", "Fréchet distance over the horizon"] {
        assert!(report.contains(words), "{words} is not in the report");
    }
    let methods = common::evaluation(&straight)["methods"].clone();
    let names: Vec<&String> = methods.as_object().unwrap().keys().collect();
    assert_eq!(names, ["base", "w2a", "w2a_base_wm", "w2a_oracle"]);
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_str(&fs_err::read_to_string(straight.join(name)).unwrap()).unwrap()
    };
    // An episode has 32 chunks, of which a clip has 20 at most.
    let horizon = json("world/horizon.json");
    for (index, name) in ["Skill-WM", "Base-WM"].into_iter().enumerate() {
        let model = &horizon["models"][index];
        assert_eq!((model["name"].as_str(), model["frechet"].as_array().unwrap().len()), (Some(name), 32));
        assert!(model["latent_error"].as_array().unwrap().iter().all(|error| error.as_f64().unwrap() > 0.0));
    }
    let clips = json("latents/corpus_clips.json");
    assert_eq!(clips["clips"][0]["prompt"], "put the red block in the bowl");
    let windows = json("latents/corpus_base_wm_clips.json");
    assert!(windows["clips"].as_array().unwrap().iter().all(|clip| clip["prompt"].as_str().unwrap().contains("then")));
    // Both models saw as many clips, and nothing was made that no method needs.
    assert_eq!(clips["clips"].as_array().unwrap().len(), windows["clips"].as_array().unwrap().len());
    for absent in ["data/labelled_wide", "policy/base_wide_labels", "posttrain/idm"] {
        assert!(!straight.join(absent).exists(), "{absent}");
    }

    // Killed while the second model was trained, and again before the comparison was written.
    to(&resumed, toy_long(), Stage::World);
    for folder in ["world/flow_base_wm", "policy"] {
        let _ = fs_err::remove_dir_all(resumed.join(folder));
    }
    for file in ["latents/imagined_tune_base_wm.safetensors", "world/horizon.json"] {
        fs_err::remove_file(resumed.join(file)).unwrap();
    }
    to(&resumed, toy_long(), Stage::Posttrain);
    to(&resumed, toy_long(), Stage::Report);
    common::assert_same_results(&straight, &resumed);

    // Without skills the model of windows is the only one.
    let mut windows = toy_long();
    windows.world.skills = false;
    windows.posttrain.methods.retain(|name| name != "w2a_base_wm");
    to(&at("windows"), windows, Stage::World);
    assert!(!at("windows/world/flow_base_wm").exists());
    let latents = at("windows/latents/imagined_posttrain.safetensors");
    assert_eq!(w2a_nn::read_state(&latents).unwrap()["latents"].shape[..2], [2, 33]);
}

/// A file of a run.
fn json(path: &Path) -> Value {
    serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

/// Panics unless the ablations of two runs came to the same weights, scales, episodes and table, bit for bit but for what
/// a clock measured.
fn assert_same_ablation(one: &Path, other: &Path) {
    let own = |run: &Path| -> BTreeMap<String, Vec<u8>> {
        let shared = ["posttrain/w2a/", "eval/base_seed0_full", "eval/w2a_seed0_full"];
        let all = common::results(run).into_iter();
        all.filter(|(name, _)| name.starts_with("ablation/") || shared.iter().any(|part| name.starts_with(part)))
            .collect()
    };
    let (expected, got) = (own(one), own(other));
    assert!(expected.len() > 30, "only {} results", expected.len());
    assert_eq!(expected.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(bytes == &got[name], "{name} differs");
    }
    let table = |run: &Path| {
        let mut table = json(&run.join("ablation.json"));
        table.as_array_mut().unwrap().iter_mut().for_each(|line| drop(line["stage2_s"].take()));
        table
    };
    assert_eq!(table(one), table(other));
}

#[test]
fn the_ablation_shares_a_runs_folder_and_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (alone, after) = (at("alone"), at("after"));

    let outcome = until(&alone, Stage::Ablation, false).unwrap();
    let page = fs_err::read_to_string(outcome.report.unwrap()).unwrap();
    assert!(page.starts_with("<!") && page.contains("LoRA, r = 32") && page.contains("Correction of actions"));
    assert!(outcome.summary.contains("bidirectional_global"), "{}", outcome.summary);
    let table = json(&alone.join("ablation.json"));
    let line = |name: &str| table.as_array().unwrap().iter().find(|line| line["name"] == name).unwrap().clone();
    for line in table.as_array().unwrap() {
        assert_eq!(line["result"]["n_episodes"], 4, "{line}");
        let trained = line["name"] != "base";
        assert_eq!(line["trainable_parameters"].as_u64().unwrap() > 0, trained, "{line}");
        assert_eq!(line["stage2_s"].as_array().unwrap().len(), usize::from(trained), "{line}");
        assert!(line["stage2_s"].as_array().unwrap().iter().all(|seconds| seconds.as_f64().unwrap() > 0.0), "{line}");
    }
    assert_eq!(table.as_array().unwrap().len(), 11);
    let count = |name: &str| line(name)["trainable_parameters"].as_u64().unwrap();
    assert_eq!(count("lora_r32"), 2 * count("lora_r16"));
    assert!(count("action_form") > count("cosine") && count("marginal_chunk") == count("cosine"));

    // After a run, of which it takes what is there; killed while a row trains, and while it is evaluated.
    until(&after, Stage::Eval, false).unwrap();
    let headline = after.join("posttrain/w2a/seed0/gain.json");
    let before = fs_err::metadata(&headline).unwrap().modified().unwrap();
    until(&after, Stage::Ablation, true).unwrap();
    assert_eq!(fs_err::metadata(&headline).unwrap().modified().unwrap(), before);
    assert_same_ablation(&alone, &after);
    for gone in ["ablation/lora_r16/seed0", "ablation/align/marginal", "ablation/action_form/seed0"] {
        fs_err::remove_dir_all(alone.join(gone)).unwrap();
    }
    for gone in ["ablation/regression/seed0/eval.json", "ablation/lora_r32/seed0/gain.json"] {
        fs_err::remove_file(alone.join(gone)).unwrap();
    }
    until(&alone, Stage::Ablation, true).unwrap();
    assert_same_ablation(&alone, &after);
}

#[test]
fn the_whole_run_works_in_every_form_of_stage_2() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("latent");
    until(&first, Stage::Align, false).unwrap();
    for form in [w2a_posttrain::Form::Action, w2a_posttrain::Form::Lora] {
        let mut config = toy();
        config.posttrain.stage2.form = form;
        let out = folder.path().join(form.name());
        copy(&first, &out);
        fs_err::write(out.join("config.toml"), toml::to_string(&config).unwrap()).unwrap();
        run(&Request { config, out: out.clone(), resume: true, until: Stage::Posttrain }).unwrap();
        assert!(out.join("posttrain/w2a_infonce/seed0/gain.json").exists());
        let peft = out.join("posttrain/w2a/seed0/adapter/adapter_model.safetensors");
        assert_eq!(peft.exists(), form == w2a_posttrain::Form::Lora);
    }
}

#[test]
fn stage_2_runs_on_the_authors_vae_and_foreign_weights_are_refused_early() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let with = |out: &Path, until: Stage, init: &str| {
        let mut config = toy();
        config.align.adapter.kind = w2a_align::AdapterKind::ActionVae;
        config.align.vae.negatives = 3;
        config.align.init = init.to_owned();
        run(&Request { config, out: out.to_owned(), resume: false, until })
    };
    with(&at("first"), Stage::Posttrain, "").unwrap();
    let weights = at("first/align/checkpoints/last/model.safetensors");
    let state = w2a_nn::read_state(&weights).unwrap();
    assert!(state.contains_key("video_bridger.8.weight") && state.len() == 22);
    assert!(at("first/posttrain/w2a/seed0/gain.json").exists());

    // Weights to start from are looked at before anything is written.
    let path = weights.to_string_lossy().into_owned();
    let error = with(&at("third"), Stage::Align, "absent.pt").unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("absent.pt"), "{error}");
    let error = with(&at("third"), Stage::Align, &path.replace("model.safetensors", "config.json")).unwrap_err();
    assert!(error.is_users_mistake() && error.to_string().contains("config.json"), "{error}");
    assert!(!at("third").exists());
    // The family must fit, too.
    let mut mlp = toy();
    mlp.align.init = path;
    let error = run(&Request { config: mlp, out: at("third"), resume: false, until: Stage::Align }).unwrap_err();
    assert!(error.to_string().contains("encoder.layer1.weight") && !at("third").exists(), "{error}");
}

#[test]
fn a_folder_of_something_else_and_one_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let thesis = folder.path().join("thesis.tex");
    fs_err::write(&thesis, "chapter 1").unwrap();
    for resume in [false, true] {
        let error = until(folder.path(), Stage::Report, resume).unwrap_err();
        assert!(matches!(error, PipelineError::Occupied { .. }) && error.is_users_mistake(), "{error}");
        let error = until(&thesis, Stage::Report, resume).unwrap_err();
        assert!(matches!(error, PipelineError::Folder { .. }) && error.is_users_mistake(), "{error}");
        assert!(error.to_string().contains("--out"), "{error}");
    }
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(fs_err::read_to_string(thesis).unwrap(), "chapter 1");
}
