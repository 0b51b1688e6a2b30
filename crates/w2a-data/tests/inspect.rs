//! What `inspect` and `convert` make of whole, damaged and stale datasets.

mod common;

use std::path::{Path, PathBuf};

use common::{VERSIONS, dataset, edit};
use serde_json::Value;
use w2a_data::video::Encoding;
use w2a_data::{
    ConvertError, ConvertOptions, Converted, Dataset, Inspection, Source, SourceError, Version, convert, inspect,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hdf5").join(name)
}

const LIBERO: &str = "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5";
const ROBOCASA: &str = "PnPSinkToCounter";

fn inspected(path: &Path) -> Inspection {
    let mut calls = 0;
    let report = inspect(path, true, &mut |done, total| {
        calls += 1;
        assert!(done == calls && done <= total);
    })
    .unwrap();
    assert_eq!(calls, report.episodes);
    report
}

/// The problems of a dataset, which must be these and no others.
#[track_caller]
fn assert_problems(report: &Inspection, expected: &[&[&str]]) {
    assert_eq!(report.problems.len(), expected.len(), "{:#?}", report.problems);
    for (problem, parts) in report.problems.iter().zip(expected) {
        for part in *parts {
            assert!(problem.message.contains(part), "expected {part:?} in: {}", problem.message);
        }
        assert!(report.to_string().contains(&problem.message));
    }
}

const PLAIN: ConvertOptions =
    ConvertOptions { version: Version::V30, video: None, skip_bad: false, gr00t_horizon: None };

fn converted(input: &Path, options: ConvertOptions) -> (tempfile::TempDir, PathBuf, Converted) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let done = convert(input, &output, options, &mut |_, _| {}).unwrap();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["out"], "nothing but the output is left");
    (folder, output, done)
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn a_whole_dataset_has_no_problems() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 3);
        let report = inspected(&dir);
        assert_problems(&report, &[]);
        assert_eq!((report.format.as_str(), report.version.as_deref()), ("LeRobot", Some(version.name())));
        assert_eq!((report.episodes, report.good_episodes, report.frames), (3, 3, 4 + 5 + 6));
        assert_eq!((report.state.width, report.action.width, report.fps), (9, 7, Some(20)));
        assert_eq!((report.cameras[0].name.as_str(), report.cameras[0].codec.as_str()), ("wrist", "png"));
        assert_eq!((report.cameras[1].height, report.cameras[1].width), (5, 9));
        assert_eq!(report.tasks.len(), 3);
        assert!(report.to_string().ends_with("no problems found\n"));
    }
}

#[test]
fn hdf5_files_are_described_with_the_names_of_their_entries() {
    let report = inspected(&fixture(LIBERO));
    assert_problems(&report, &[]);
    assert_eq!((report.format.as_str(), report.frames), ("HDF5 (libero)", 4 + 3 + 5));
    assert_eq!(report.state.names, ["x", "y", "z", "roll", "pitch", "yaw", "gripper_0", "gripper_1"]);
    assert_eq!(report.tasks.get("turn on the stove"), Some(&3));
    let report = inspected(&fixture(ROBOCASA));
    assert_eq!((report.state.names.len(), report.action.names.len()), (53, 12));
}

#[test]
fn what_is_no_dataset_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("notes.txt"), "none").unwrap();
    for path in [folder.path().to_owned(), folder.path().join("notes.txt")] {
        let error = inspect(&path, true, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, SourceError::Unknown { .. }), "{error}");
    }
    assert!(Source::open(folder.path().join("absent")).is_err());
}

#[test]
fn a_dataset_that_cannot_be_opened_is_a_problem() {
    let (_folder, dir) = dataset(Version::V30, 1);
    edit(&dir.join("meta/info.json"), "\"v3.0\"", "\"v4.0\"");
    let report = inspected(&dir);
    assert_problems(&report, &[&["codebase_version is \"v4.0\""]]);
    assert_eq!(report.format, "unreadable");
}

#[test]
fn missing_statistics_are_named() {
    for (version, file) in [(Version::V21, "meta/episodes_stats.jsonl"), (Version::V30, "meta/stats.json")] {
        let (_folder, dir) = dataset(version, 1);
        std::fs::remove_file(dir.join(file)).unwrap();
        assert_problems(&inspected(&dir), &[&[file, "is missing", "data convert"]]);
    }
}

#[test]
fn stale_statistics_are_noticed() {
    let (_folder, dir) = dataset(Version::V30, 3);
    let file = dir.join("meta/stats.json");
    let mut stats = json(&file);
    stats["action"]["mean"][2] = 55.0.into();
    std::fs::write(&file, stats.to_string()).unwrap();
    assert_problems(&inspected(&dir), &[&["stats.json: action: mean[2] is 55", "stale"]]);
    stats["action"]["mean"] = serde_json::json!([1.0]);
    stats.as_object_mut().unwrap().remove("observation.images.agent");
    std::fs::write(&file, stats.to_string()).unwrap();
    let missing: &[&str] = &["no statistics of observation.images.agent"];
    assert_problems(&inspected(&dir), &[missing, &["mean has other widths"]]);

    let (_folder, dir) = dataset(Version::V21, 3);
    let file = dir.join("meta/episodes_stats.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let swapped: Vec<String> = text.lines().map(|line| line.replace("\"max\":[", "\"max\":[9e9,")).collect();
    std::fs::write(&file, swapped.join("\n")).unwrap();
    let report = inspected(&dir);
    assert_problems(&report, &[&["episode 0", "max has other widths"], &["5 more statistics"]]);
    assert_eq!(report.problems[0].episode, Some(0));
}

#[test]
fn a_fingerprint_tells_that_the_data_changed_after_its_statistics() {
    let (_folder, input) = dataset(Version::V30, 2);
    let (_folder, output, _) = converted(&input, PLAIN);
    assert_problems(&inspected(&output), &[]);
    edit(&output.join("meta/world2act.json"), "\"fingerprint\": \"", "\"fingerprint\": \"0");
    assert_problems(&inspected(&output), &[&["world2act.json", "has changed since its statistics were made"]]);
    std::fs::write(output.join("meta/world2act.json"), "{}").unwrap();
    assert_problems(&inspected(&output), &[&["world2act.json", "missing field"]]);
}

#[test]
fn a_bad_episode_ends_the_inspection_or_is_skipped() {
    let (_folder, dir) = dataset(Version::V21, 3);
    let file = dir.join("data/chunk-000/episode_000001.parquet");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let report = inspected(&dir);
    assert_problems(&report, &[&["episode_000001.parquet"]]);
    assert_eq!((report.good_episodes, report.problems[0].episode, report.is_complete), (2, Some(1), true));
    assert_eq!(report.problems[0].file, file);
    let report = inspect(&dir, false, &mut |_, _| {}).unwrap();
    assert_eq!((report.good_episodes, report.is_complete), (1, false));
    assert!(report.to_string().contains("--skip-bad goes on"), "{report}");
}

#[test]
fn a_task_that_is_listed_twice_is_named() {
    let (_folder, dir) = dataset(Version::V21, 2);
    let file = dir.join("meta/tasks.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{{\"task_index\":2,\"task\":\"open the drawer\"}}\n")).unwrap();
    assert_problems(&inspected(&dir), &[&["\"open the drawer\" more than once"]]);
}

#[test]
fn a_missing_data_file_is_a_problem_of_its_episode() {
    let (_folder, dir) = dataset(Version::V21, 3);
    std::fs::remove_file(dir.join("data/chunk-000/episode_000001.parquet")).unwrap();
    let report = inspected(&dir);
    assert_eq!((report.good_episodes, report.problems.len()), (2, 1), "{:#?}", report.problems);
    assert!(report.problems[0].message.contains("episode_000001.parquet"));
}

#[test]
fn tasks_that_differ_in_spelling_only_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut episodes: Vec<_> = (0..3).map(common::episode).collect();
    for (episode, task) in episodes.iter_mut().zip(["Öffne die Tür.", "öffne  die tür", "close the door"]) {
        episode.instruction = task.into();
    }
    let dir = folder.path().join("set");
    common::write(&dir, Version::V30, &episodes).unwrap();
    assert_problems(&inspected(&dir), &[&["Öffne die Tür.", "öffne  die tür", "punctuation only"]]);
}

#[test]
fn converting_keeps_everything_that_an_episode_holds() {
    for name in [LIBERO, ROBOCASA, "lift.hdf5"] {
        for version in VERSIONS {
            let (_folder, output, done) = converted(&fixture(name), ConvertOptions { version, ..PLAIN });
            let before: Vec<_> = Source::open(fixture(name)).unwrap().episodes().map(Result::unwrap).collect();
            let written = Dataset::open(&output).unwrap();
            assert_eq!((done.episodes, done.frames, written.version()), (3, written.frames(), version));
            let after: Vec<_> = written.episodes().map(Result::unwrap).collect();
            assert_eq!(after, before, "{name} {version}");
            assert_problems(&inspected(&output), &[]);
        }
    }
}

#[test]
fn bad_episodes_end_a_conversion_or_are_counted_and_named() {
    let (_folder, input) = dataset(Version::V21, 3);
    std::fs::write(input.join("data/chunk-000/episode_000001.parquet"), "PAR1").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let error = convert(&input, &output, PLAIN, &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("episode_000001.parquet") && error.contains("--skip-bad"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of a failure");

    let (_folder, output, done) = converted(&input, ConvertOptions { skip_bad: true, ..PLAIN });
    assert_eq!((done.episodes, done.skipped.len(), done.skipped[0].episode), (2, 1, 1));
    assert!(done.skipped[0].reason.contains("episode_000001.parquet"));
    let notes = json(&output.join("meta/world2act.json"));
    assert_eq!(notes["skipped"][0]["episode"], 1);
    assert_eq!(Dataset::open(&output).unwrap().len(), 2);
}

#[test]
fn options_that_do_not_fit_and_outputs_that_exist_are_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let attempt =
        |options: ConvertOptions, output: &Path| convert(&absent, output, options, &mut |_, _| {}).unwrap_err();
    let gr00t = |version, horizon| ConvertOptions { version, gr00t_horizon: Some(horizon), ..PLAIN };
    let error = attempt(gr00t(Version::V30, 16), &folder.path().join("out"));
    assert!(matches!(error, ConvertError::Options { .. }) && error.to_string().contains("v2.1"), "{error}");
    assert!(matches!(attempt(gr00t(Version::V21, 0), &folder.path().join("out")), ConvertError::Options { .. }));
    let images = convert(&fixture(LIBERO), &folder.path().join("out"), gr00t(Version::V21, 16), &mut |_, _| {});
    assert!(images.unwrap_err().to_string().contains("--video h264"));
    assert!(matches!(attempt(PLAIN, folder.path()), ConvertError::Exists { .. }));
    assert!(matches!(attempt(PLAIN, &folder.path().join("out")), ConvertError::Source(_)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_a_killed_conversion_left_is_replaced() {
    let (_folder, input) = dataset(Version::V21, 1);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join(".out.convert/out/meta")).unwrap();
    std::fs::write(folder.path().join(".out.convert/out/meta/info.json"), "{").unwrap();
    convert(&input, &folder.path().join("out"), PLAIN, &mut |_, _| {}).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn videos_keep_the_numbers_exactly_and_the_images_nearly() {
    for version in VERSIONS {
        let options = ConvertOptions { version, video: Some(Encoding::H264), ..PLAIN };
        let (_folder, output, _) = converted(&fixture(LIBERO), options);
        let before = Source::open(fixture(LIBERO)).unwrap();
        for (before, after) in before.episodes().zip(Source::open(&output).unwrap().episodes()) {
            let (before, after) = (before.unwrap(), after.unwrap());
            assert_eq!((&before.actions, &before.proprio), (&after.actions, &after.proprio));
            let (pixels, decoded) = (&before.cameras[1].rgb, &after.cameras[1].rgb);
            assert_eq!(pixels.len(), decoded.len());
            assert!(pixels.iter().zip(decoded).all(|(one, other)| one.abs_diff(*other) < 25));
        }
    }
}

#[test]
fn gr00ts_files_slice_the_rows_and_hold_the_six_statistics() {
    let video = Some(Encoding::H264);
    let options = ConvertOptions { version: Version::V21, video, gr00t_horizon: Some(2), ..PLAIN };
    let (_folder, output, _) = converted(&fixture(LIBERO), options);
    let modality = json(&output.join("meta/modality.json"));
    assert_eq!(modality["state"]["gripper"], serde_json::json!({ "start": 6, "end": 8 }));
    assert_eq!(modality["action"]["gripper"], serde_json::json!({ "start": 6, "end": 7 }));
    assert_eq!(modality["video"]["wrist_image"]["original_key"], "observation.images.eye_in_hand");
    assert_eq!(modality["annotation"]["human.action.task_description"]["original_key"], "task_index");
    let stats = json(&output.join("meta/stats.json"));
    for (feature, width) in [("observation.state", 8), ("action", 7), ("timestamp", 1)] {
        let statistics = stats[feature].as_object().unwrap();
        let mut names: Vec<_> = statistics.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["max", "mean", "min", "q01", "q99", "std"]);
        assert!(statistics.values().all(|values| values.as_array().unwrap().len() == width));
    }
    // Actions are the state minus 1000 in the fixtures, and one more a step.
    let relative = json(&output.join("meta/relative_stats.json"));
    let near = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-3;
    assert!(near(&relative["x"]["mean"][0][0], -1000.0) && near(&relative["x"]["max"][1][0], -999.0), "{relative}");
    // The gripper has two entries in the state and one in the action.
    assert!(relative.get("gripper").is_none());
    let report = inspected(&output);
    assert_problems(&report, &[]);
    assert_eq!(report.cameras[0].codec, "h264");
    // What was named once stays named.
    let (state, action) = Source::open(&output).unwrap().groups();
    assert_eq!((state.len(), state[6].name.as_str(), action.len()), (7, "gripper", 7));
    assert_eq!(Source::open(&output).unwrap().gr00t_camera("eye_in_hand"), "wrist_image");
    std::fs::remove_file(output.join("meta/stats.json")).unwrap();
    assert!(inspected(&output).problems.iter().any(|problem| problem.message.contains("stats.json is missing")));
}
