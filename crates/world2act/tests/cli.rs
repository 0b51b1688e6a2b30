//! The program as a user meets it: exit codes, messages, and that mistakes touch nothing.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program in `folder`.
fn world2act(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_world2act")).args(arguments).current_dir(folder).output().unwrap()
}

/// Runs it, expects `code`, and gives (stdout, stderr).
fn expect(folder: &Path, arguments: &[&str], code: i32) -> (String, String) {
    let output = world2act(folder, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

/// Runs it in an empty folder, expects a user's mistake, nothing on stdout, and no file left. Gives stderr.
fn refused(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (out, err) = expect(folder.path(), arguments, 2);
    assert_eq!(out, "", "{arguments:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{arguments:?} touched the disk");
    err
}

#[test]
fn an_unknown_setting_is_refused_with_a_suggestion() {
    let err = refused(&["demo", "--profile", "smoke", "--evla.episodes=3"]);
    assert!(err.starts_with("error: --evla.episodes=3: there is no setting `evla.episodes`; "), "{err}");
    let err = refused(&["demo", "--seeed=3"]);
    assert!(err.contains("--seed"), "{err}");
}

#[test]
fn an_unknown_setting_in_a_file_is_found_by_its_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("run.toml"), "seed = 1\n\nthread = 2\n").unwrap();
    let (_, err) = expect(folder.path(), &["demo", "--config", "run.toml"], 2);
    assert!(err.contains("run.toml, line 3") && err.contains("did you mean `threads`?"), "{err}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_value_of_the_wrong_kind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("run.toml"), "threads = \"two\"\n").unwrap();
    let (_, err) = expect(folder.path(), &["config", "--config", "run.toml"], 2);
    assert!(err.contains("`threads` has to be a whole number") && err.contains("\"two\""), "{err}");
}

#[test]
fn a_wrong_profile_name_lists_the_right_ones() {
    let err = refused(&["demo", "--profile", "smok"]);
    assert!(err.contains("smoke") && err.contains("quick") && err.contains("full"), "{err}");
}

#[test]
fn a_missing_configuration_file_is_named() {
    let err = refused(&["demo", "--config", "absent.toml"]);
    assert!(err.contains("absent.toml"), "{err}");
}

#[test]
fn no_command_an_unknown_command_and_a_flag_without_a_value_are_refused() {
    refused(&[]);
    assert!(refused(&["demoo"]).contains("demo"));
    assert!(refused(&["demo", "--align.temperature"]).contains("--align.temperature=VALUE"));
}

#[test]
fn a_folder_that_holds_a_run_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let (config, _) = expect(folder.path(), &["config", "--profile", "smoke"], 0);
    std::fs::write(run.join("config.toml"), &config).unwrap();
    let (_, err) = expect(folder.path(), &["demo", "--profile", "smoke", "--out", "run", "--seed", "5"], 2);
    assert!(err.contains("--resume"), "{err}");
    // Nor does --resume allow what would no longer be the same run.
    let (_, err) = expect(folder.path(), &["demo", "--out", "run", "--seed", "5", "--resume"], 2);
    assert!(err.contains("seed = 5"), "{err}");
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 1);
    assert_eq!(std::fs::read_to_string(run.join("config.toml")).unwrap(), config);
}

#[test]
fn the_printed_configuration_gives_itself_back() {
    let folder = tempfile::tempdir().unwrap();
    let (smoke, _) = expect(folder.path(), &["config", "--profile", "smoke", "--seed", "7"], 0);
    assert!(smoke.starts_with("seed = 7\n"), "{smoke}");
    std::fs::write(folder.path().join("smoke.toml"), &smoke).unwrap();
    // Every setting is in the file, so the profile below it makes no difference.
    for profile in ["smoke", "quick", "full"] {
        let (again, _) = expect(folder.path(), &["config", "--profile", profile, "--config", "smoke.toml"], 0);
        assert_eq!(again, smoke);
    }
    let parsed: w2a_pipeline::Config = toml::from_str(&smoke).unwrap();
    assert_eq!(toml::to_string(&parsed).unwrap(), smoke);
    let (changed, _) = expect(folder.path(), &["config", "--config", "smoke.toml", "--seed=8"], 0);
    assert_eq!(changed, smoke.replacen("seed = 7\n", "seed = 8\n", 1));
}

#[test]
fn help_and_version_and_doctor_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let (help, _) = expect(folder.path(), &["help", "demo"], 0);
    assert!(help.contains("Exit codes:") && help.contains("runs/demo") && help.contains("--resume"), "{help}");
    let (version, _) = expect(folder.path(), &["--version"], 0);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let (doctor, err) = expect(folder.path(), &["doctor"], 0);
    assert!(doctor.contains("devices") && doctor.contains("burn") && err.is_empty(), "{doctor}{err}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_world2act"))
        .arg("config")
        .current_dir(folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

/// A folder of another crate with files for tests.
fn testdata(of: &str) -> String {
    format!("{}/../{of}/testdata", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn parity_prints_every_tensor_and_its_exit_code_says_whether_all_agree() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = format!("{}/stage1_v2", testdata("w2a-align"));
    let (out, err) = expect(folder.path(), &["doctor", "--parity", &fixture, "--device", "cpu"], 0);
    assert!(out.starts_with("stage1_v2 on cpu\n") && out.contains("; 0 not compared") && err.is_empty(), "{out}{err}");
    for entry in std::fs::read_dir(&fixture).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    std::fs::write(folder.path().join("config.json"), config.replace("0.0001", "0.001")).unwrap();
    let (out, err) = expect(folder.path(), &["doctor", "--parity", "."], 1);
    assert!(out.contains("FAILED") && err.contains("do not agree"), "{out}{err}");
    let err = refused(&["doctor", "--parity", "absent"]);
    assert!(err.contains("absent") && err.contains("check the path"), "{err}");
    let err = refused(&["doctor", "--parity", &fixture, "--device", "abacus"]);
    assert!(err.contains("abacus") && err.contains("cpu"), "{err}");
    refused(&["doctor", "--device", "cpu"]);
    assert!(refused(&["doctor", "--align.train.steps=1"]).contains("takes no settings"));
}

#[test]
fn weights_are_listed_and_converted_and_pickles_are_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| format!("{}/{name}", testdata("w2a-nn"));
    let (out, _) = expect(folder.path(), &["weights", "list", &file("trainer.pt")], 0);
    assert!(out.contains("1.0.weight  F32   [2]\n") && out.contains("torch.save: 4 tensors, 12 elements"), "{out}");
    assert!(out.contains("left out: ") && out.contains("optimizer.state.0."), "{out}");
    expect(folder.path(), &["weights", "convert", &file("trainer.pt"), "out.safetensors"], 0);
    let (out, _) = expect(folder.path(), &["weights", "list", "out.safetensors"], 0);
    assert!(out.contains("safetensors: 4 tensors, 12 elements"), "{out}");
    expect(folder.path(), &["weights", "convert", &file("trainer.pt"), "out.safetensors"], 2);
    let err = refused(&["weights", "convert", &file("shell.pt"), "x.safetensors"]);
    assert!(err.contains("\"posix.system\"") && err.contains("shell.pt"), "{err}");
    assert!(refused(&["weights", "list", "absent.pt"]).contains("check the path"));
    assert!(refused(&["weights", "list", "."]).contains("a file"));
}

#[test]
fn the_adapter_family_is_one_word_and_foreign_weights_are_refused_before_the_disk_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, dim) in [("action-vae", 16), ("mlp", 8)] {
        let flags = ["config", &format!("--align.adapter={kind}"), &format!("--align.adapter.dim={dim}")];
        let (config, _) = expect(folder.path(), &flags, 0);
        let section = format!("[align.adapter]\nkind = \"{kind}\"\ndim = {dim}\n");
        assert!(config.contains(&section), "{config}");
    }
    let err = refused(&["config", "--align.adapter=vae"]);
    assert!(err.contains("--align.adapter=vae: ") && err.contains("`action-vae`"), "{err}");
    let file = format!("--align.init={}/trainer.pt", testdata("w2a-nn"));
    let err = refused(&["align", "--align.adapter=action-vae", &file]);
    assert!(err.contains("align.init") && err.contains("encoder.0.weight"), "{err}");
    assert!(refused(&["align", "--align.init=absent.pt"]).contains("absent.pt"));
    // The action VAE has one contrast, so there is nothing to ablate.
    let err = refused(&["ablate", "--align.adapter=action-vae", "--out", "run"]);
    assert!(err.contains("align.adapter: expected mlp"), "{err}");
}

#[test]
fn a_cut_without_an_embodiment_or_with_a_key_among_its_settings_touches_nothing_and_does_not_repeat_the_key() {
    let cut = |more: &[&str]| refused(&[&["skills", "data", "--out", "cut"], more].concat());
    assert!(cut(&[]).contains("skills.embodiment: expected one of tabletop"));
    let address = "--skills.llm.base_url=https://example.org/v1";
    let with_key = ["--skills.embodiment=tabletop", "--skills.llm.enabled=true", address, "--skills.llm.model=m"];
    let err = cut(&[&with_key[..], &["--skills.llm.key_variable=sk-very-secret"]].concat());
    assert!(err.contains("NAME of an environment variable") && !err.contains("secret"), "{err}");
    let err = cut(&[&with_key[..], &["--skills.llm.key_variable=W2A_NO_SUCH_KEY"]].concat());
    assert!(err.contains("opening data: there is no dataset; expected a folder with meta/info.json"), "{err}");
}

/// Demonstrations in the form that LIBERO has: see `scripts/hdf5_fixtures.py`.
fn libero() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../w2a-data/tests/fixtures/hdf5");
    folder.join("KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5").to_string_lossy().into_owned()
}

#[test]
fn a_dataset_is_inspected_converted_and_its_problems_are_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _) = expect(folder.path(), &["data", "inspect", &libero()], 0);
    assert!(out.contains("HDF5 (libero)") && out.contains("no problems found"), "{out}");
    let convert = ["data", "convert", &libero(), "set", "--to", "v3.0", "--video", "none"];
    let (out, _) = expect(folder.path(), &convert, 0);
    assert!(out.starts_with("set: LeRobot v3.0, 3 episodes, 12 frames"), "{out}");
    let (_, err) = expect(folder.path(), &convert, 2);
    assert!(err.contains("the path already exists"), "{err}");

    std::fs::remove_file(folder.path().join("set/meta/stats.json")).unwrap();
    let (out, err) = expect(folder.path(), &["data", "inspect", "set", "--json"], 2);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["frames"], &report["action"]["width"]), (&12.into(), &7.into()));
    assert!(report["problems"][0]["message"].as_str().unwrap().contains("stats.json is missing"), "{out}");
    assert!(err.contains("problems in the dataset"), "{err}");
}

#[test]
fn what_is_no_dataset_and_options_that_do_not_fit_are_refused() {
    assert!(refused(&["data", "inspect", "nowhere"]).contains("nowhere"));
    assert!(refused(&["data", "convert", "nowhere", "set", "--to", "v2.1"]).contains("nowhere"));
    let err = refused(&["data", "convert", "nowhere", "set", "--to", "v3.0", "--gr00t"]);
    assert!(err.contains("v2.1 only"), "{err}");
}

#[test]
fn a_gr00t_checkpoint_is_described_and_another_version_is_named() {
    let folder = tempfile::tempdir().unwrap();
    expect(folder.path(), &["policy", "tiny", "checkpoint", "--seed", "3"], 0);
    let (out, _) = expect(folder.path(), &["policy", "info", "checkpoint", "--embodiment", "LIBERO_PANDA"], 0);
    assert!(out.contains("wrist_image") && out.contains("gripper 2") && !out.contains("gr1"), "{out}");
    let config = folder.path().join("checkpoint/config.json");
    let text = std::fs::read_to_string(&config).unwrap().replace("Gr00tN1d6", "gr00t_n1_5");
    std::fs::write(&config, text).unwrap();
    let (_, err) = expect(folder.path(), &["policy", "info", "checkpoint"], 2);
    assert!(err.contains("GR00T-N1.5") && err.contains("another model"), "{err}");
    expect(folder.path(), &["policy", "tiny", "checkpoint"], 2);
    assert!(refused(&["policy", "info", "absent"]).contains("absent"));
    assert!(refused(&["policy", "info", "absent", "--policy.kind=groot"]).contains("takes no settings"));
}
