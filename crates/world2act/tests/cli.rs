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
