//! Damaged and hostile datasets: every rule has a test that names it, and no bytes whatever end the process.

mod common;

use std::path::Path;

use common::{MARK, VERSIONS, dataset, edit, episode, files, read_all};
use proptest::prelude::*;
use w2a_data::{Dataset, DatasetError, Version};

const INFO: &str = "meta/info.json";

/// The message with which opening or reading `dir` fails.
fn refusal(dir: &Path) -> String {
    read_all(dir).expect_err("the dataset must be refused").to_string()
}

#[track_caller]
fn assert_refused(dir: &Path, parts: &[&str]) {
    let message = refusal(dir);
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

fn data_file(version: Version) -> &'static str {
    match version {
        Version::V21 => "data/chunk-000/episode_000000.parquet",
        Version::V30 => "data/chunk-000/file-000.parquet",
    }
}

#[test]
fn a_folder_that_is_no_dataset_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_refused(folder.path(), &["there is no meta/info.json"]);
    assert_refused(&folder.path().join("missing"), &["there is no meta/info.json"]);
}

#[test]
fn an_unknown_version_is_refused() {
    let (_folder, dir) = dataset(Version::V30, 1);
    edit(&dir.join(INFO), "v3.0", "v4.0");
    assert_refused(&dir, &["codebase_version is \"v4.0\"", "info.json"]);
}

#[test]
fn info_that_is_no_json_is_refused() {
    let (_folder, dir) = dataset(Version::V21, 1);
    std::fs::write(dir.join(INFO), "{\n\"codebase_version\": ").unwrap();
    assert_refused(&dir, &["info.json, line 2"]);
}

#[test]
fn a_feature_given_twice_is_refused() {
    let (_folder, dir) = dataset(Version::V21, 1);
    edit(&dir.join(INFO), "\"observation.state\"", "\"action\"");
    assert_refused(&dir, &["\"action\" is given twice"]);
}

#[test]
fn every_missing_file_is_named() {
    for version in VERSIONS {
        let (_folder, whole) = dataset(version, 2);
        for file in files(&whole) {
            // Statistics are for LeRobot; this crate recomputes them.
            if file.ends_with("stats.json") || file.ends_with("episodes_stats.jsonl") {
                continue;
            }
            let (_folder, dir) = dataset(version, 2);
            std::fs::remove_file(dir.join(&file)).unwrap();
            assert_refused(&dir, &[file.file_name().unwrap().to_str().unwrap()]);
        }
    }
}

#[test]
fn a_template_that_leaves_the_dataset_is_refused() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 1);
        edit(&dir.join(INFO), "\"data/chunk", "\"../data/chunk");
        assert_refused(&dir, &["not a path inside the dataset", "info.json"]);
    }
}

#[test]
fn episodes_that_share_a_file_of_version_21_are_refused() {
    let (_folder, dir) = dataset(Version::V21, 2);
    edit(&dir.join(INFO), "episode_{episode_index:06d}", "episode_000000");
    assert_refused(&dir, &["data file of episode 1", "a file of its own"]);
}

#[test]
fn an_action_width_that_differs_from_the_rows_is_refused() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 1);
        let info = std::fs::read_to_string(dir.join(INFO)).unwrap();
        let narrower = info.replace("\n        7\n", "\n        6\n");
        assert_ne!(narrower, info);
        std::fs::write(dir.join(INFO), narrower).unwrap();
        assert_refused(&dir, &["row 0 of column \"action\" is 7 values, expected 6", ".parquet"]);
    }
}

#[test]
fn an_image_of_another_size_is_refused() {
    let (_folder, dir) = dataset(Version::V30, 1);
    edit(&dir.join(INFO), "        8,\n        6,", "        8,\n        7,");
    assert_refused(&dir, &["episode 0, frame 0, camera \"wrist\": is 8x6, expected 8x7", "file-000.parquet"]);
}

#[test]
fn sizes_past_the_limits_are_refused_when_opened() {
    for (from, to) in [
        ("        8,\n        6,", "        1000000000,\n        6,"),
        ("        8,\n        6,", "        8,\n        0,"),
        ("        7\n", "        18446744073709551615\n"),
        ("\"fps\": 20", "\"fps\": 0"),
        ("\"fps\": 20", "\"fps\": 2.5"),
    ] {
        let (_folder, dir) = dataset(Version::V30, 1);
        edit(&dir.join(INFO), from, to);
        let opened = Dataset::open(&dir);
        assert!(matches!(opened, Err(DatasetError::Mismatch { .. })), "{to}");
    }
}

#[test]
fn a_video_feature_without_videos_is_refused_by_name() {
    let (_folder, dir) = dataset(Version::V21, 1);
    edit(&dir.join(INFO), "\"dtype\": \"image\"", "\"dtype\": \"video\"");
    assert_refused(&dir, &["video_path is missing"]);
    edit(&dir.join(INFO), "\"video_path\": null", "\"video_path\": \"videos/{video_key}/{episode_index}.mp4\"");
    assert_refused(&dir, &["videos/observation.images.wrist/0.mp4 is missing", "episode 0"]);
}

#[test]
fn totals_that_disagree_are_refused() {
    for version in VERSIONS {
        for (from, to, name) in [
            ("\"total_episodes\": 2", "\"total_episodes\": 3", "total_episodes is 3, expected 2"),
            ("\"total_frames\": 9", "\"total_frames\": 8", "total_frames is 8, expected 9"),
        ] {
            let (_folder, dir) = dataset(version, 2);
            edit(&dir.join(INFO), from, to);
            assert_refused(&dir, &[name]);
        }
    }
}

#[test]
fn lengths_that_overflow_are_refused() {
    let (_folder, dir) = dataset(Version::V21, 2);
    edit(&dir.join("meta/episodes.jsonl"), "\"length\":4", "\"length\":18446744073709551615");
    assert_refused(&dir, &["total_frames"]);
}

#[test]
fn a_length_longer_than_the_file_is_refused() {
    let (_folder, dir) = dataset(Version::V21, 2);
    edit(&dir.join("meta/episodes.jsonl"), "\"length\":4", "\"length\":4000000000");
    edit(&dir.join(INFO), "\"total_frames\": 9", "\"total_frames\": 4000000005");
    assert_refused(&dir, &["episode_000000.parquet", "number of rows is 4, expected 4000000000"]);
}

#[test]
fn a_gap_in_the_episodes_is_refused() {
    let (_folder, dir) = dataset(Version::V21, 2);
    edit(&dir.join("meta/episodes.jsonl"), "\"episode_index\":1", "\"episode_index\":7");
    assert_refused(&dir, &["the list of episodes is 7, expected 1"]);
}

#[test]
fn an_episode_without_a_task_is_refused() {
    let (_folder, dir) = dataset(Version::V21, 2);
    edit(&dir.join("meta/episodes.jsonl"), "[\"open the drawer\"]", "[]");
    assert_refused(&dir, &["number of tasks of episode 0 is 0"]);
}

#[test]
fn rows_of_another_task_are_refused() {
    let (_folder, dir) = dataset(Version::V21, 2);
    edit(&dir.join("meta/tasks.jsonl"), "open the drawer", "close the drawer");
    assert_refused(&dir, &["task_index of episode 0, frame 0"]);
}

#[test]
fn rows_of_another_episode_are_refused() {
    let (_folder, dir) = dataset(Version::V21, 4);
    let data = dir.join("data/chunk-000");
    // Episodes 0 and 3 have the same length and task: only their rows tell them apart.
    std::fs::copy(data.join("episode_000003.parquet"), data.join("episode_000000.parquet")).unwrap();
    assert_refused(&dir, &["episode_index of episode 0, frame 0 is 3, expected 0", "episode_000000.parquet"]);
}

#[test]
fn a_bad_line_is_numbered() {
    let (_folder, dir) = dataset(Version::V21, 3);
    edit(&dir.join("meta/episodes.jsonl"), "{\"episode_index\":1", "{\"episode_index\":one");
    assert_refused(&dir, &["episodes.jsonl, line 2"]);
}

#[test]
fn a_nan_is_refused_with_file_episode_and_frame() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 2);
        let file = dir.join(data_file(version));
        let mut bytes = std::fs::read(&file).unwrap();
        // The marked value lies uncompressed in its page, and in the page's statistics, which are not read.
        let places: Vec<usize> = (0..bytes.len() - 3).filter(|&at| bytes[at..at + 4] == MARK.to_le_bytes()).collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        std::fs::write(&file, bytes).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_refused(&dir, &[name, "episode 0, frame 2", "\"action\" is not finite"]);
    }
}

#[test]
fn an_index_past_the_end_is_an_error() {
    let (_folder, dir) = dataset(Version::V30, 2);
    let missing = Dataset::open(&dir).unwrap().episode(2);
    assert!(matches!(missing, Err(DatasetError::NoSuchEpisode { index: 2, episodes: 2, .. })));
}

#[test]
fn features_without_a_place_are_listed_not_fatal() {
    let (_folder, dir) = dataset(Version::V21, 1);
    let reward = "\"features\": {\"next.reward\": {\"dtype\": \"float32\", \"shape\": [1], \"names\": null},";
    edit(&dir.join(INFO), "\"features\": {", reward);
    assert_eq!(Dataset::open(&dir).unwrap().ignored_features(), ["next.reward"]);
    assert_eq!(read_all(&dir).unwrap(), [episode(0)]);
}

#[test]
fn a_parquet_file_cut_anywhere_is_refused() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 1);
        for relative in files(&dir).into_iter().filter(|file| file.extension().is_some_and(|ext| ext == "parquet")) {
            let file = dir.join(&relative);
            let whole = std::fs::read(&file).unwrap();
            for end in (0..whole.len()).rev() {
                // Shortened in place: the footer's end is what changes, and writing it anew each time is slow.
                std::fs::File::options().write(true).open(&file).unwrap().set_len(end as u64).unwrap();
                assert!(refusal(&dir).contains(relative.file_name().unwrap().to_str().unwrap()), "cut at {end}");
            }
            std::fs::write(&file, whole).unwrap();
        }
        assert_eq!(read_all(&dir).unwrap(), [episode(0)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damage is refused or without effect, never silently another episode.
    #[test]
    fn a_damaged_file_never_gives_another_episode(
        is_new: bool, which: prop::sample::Index, at: prop::sample::Index, byte: u8
    ) {
        let (_folder, dir) = dataset(if is_new { Version::V30 } else { Version::V21 }, 1);
        let all = files(&dir);
        let file = dir.join(which.get(&all));
        let mut bytes = std::fs::read(&file).unwrap();
        *at.get_mut(&mut bytes) = byte;
        std::fs::write(&file, bytes).unwrap();
        if let Ok(read) = read_all(&dir) {
            let mut expected = episode(0);
            // Not part of the checksum: they stand in info.json alone, which has no redundancy for them.
            expected.fps = read[0].fps;
            for (camera, read) in expected.cameras.iter_mut().zip(&read[0].cameras) {
                camera.name.clone_from(&read.name);
            }
            prop_assert_eq!(&read[..], &[expected], "{}", file.display());
        }
    }

    #[test]
    fn arbitrary_parquet_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_folder, dir) = dataset(Version::V30, 1);
        for file in ["data/chunk-000/file-000.parquet", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"] {
            // With the magic number in front and behind, so that the bytes are taken for a footer.
            let footer = (bytes.len() as u32).to_le_bytes();
            let framed = [b"PAR1", &bytes[..], &footer, b"PAR1"].concat();
            let file = dir.join(file);
            let whole = std::fs::read(&file).unwrap();
            std::fs::write(&file, framed).unwrap();
            prop_assert!(read_all(&dir).is_err());
            std::fs::write(&file, whole).unwrap();
        }
    }
}
