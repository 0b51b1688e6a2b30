//! LeRobot datasets with video: written and read in both versions, and every way in which they can be wrong.
//!
//! These tests need ffmpeg and fail without it.

mod common;

use std::path::{Path, PathBuf};

use common::{VERSIONS, edit, files, read_all};
use w2a_data::video::{Encoding, FrameCache, VideoReader, VideoWriter};
use w2a_data::{Camera, Dataset, DatasetError, DatasetSpec, DatasetWriter, Episode, Version};

const INFO: &str = "meta/info.json";
/// Large enough for the default, so that a second episode of version 3.0 shares the file of the first.
const ONE_FILE: u64 = 200;

/// The grey level of a frame: it tells the episode, the camera and the frame.
fn level(episode: usize, camera: usize, frame: usize) -> u8 {
    (16 + (episode * 60 + camera * 110 + frame * 9) % 220) as u8
}

fn lengths(index: usize) -> usize {
    5 + index % 3
}

/// Two cameras of 48 rows and 64 columns, 3-d proprioception, 2-d actions.
fn episode(index: usize) -> Episode {
    let frames = lengths(index);
    let camera = |number: usize, name: &str| Camera {
        name: name.into(),
        height: 48,
        width: 64,
        rgb: (0..frames).flat_map(|frame| vec![level(index, number, frame); 48 * 64 * 3]).collect(),
    };
    Episode {
        instruction: ["öffne die Schublade", "把红色方块放进碗里 🤖"][index % 2].into(),
        source: format!("scene/{index}"),
        fps: 10,
        cameras: vec![camera(0, "wrist"), camera(1, "top view")],
        proprio_dim: 3,
        proprio: (0..frames * 3).map(|i| (i * index) as f32 / 7.0).collect(),
        action_dim: 2,
        actions: (0..frames * 2).map(|i| (i + index) as f32).collect(),
    }
}

fn dataset(version: Version, count: usize) -> (tempfile::TempDir, PathBuf) {
    common::cached("video", version, count, |dir| {
        let writer = DatasetWriter::create(dir, DatasetSpec::of(&episode(0)), version).unwrap();
        let mut writer = writer.with_video(Encoding::H264, ONE_FILE).unwrap();
        for index in 0..count {
            writer.push(&episode(index)).unwrap();
        }
        writer.finish().unwrap();
    })
}

/// Compares all but the pixels exactly, and each frame by its level.
#[track_caller]
fn assert_episode(read: &Episode, index: usize) {
    let expected = episode(index);
    for (number, (camera, same)) in read.cameras.iter().zip(&expected.cameras).enumerate() {
        assert_eq!((camera.name.as_str(), camera.frames()), (same.name.as_str(), same.frames()));
        for frame in 0..camera.frames() {
            assert_level(camera.frame(frame), index, number, frame);
        }
    }
    assert_eq!(read.cameras.len(), 2);
    let without = |episode: &Episode| Episode { cameras: Vec::new(), ..episode.clone() };
    assert_eq!(without(read), without(&expected));
}

#[track_caller]
fn assert_level(rgb: &[u8], index: usize, camera: usize, frame: usize) {
    let mean = rgb.iter().map(|&byte| f64::from(byte)).sum::<f64>() / rgb.len() as f64;
    let expected = f64::from(level(index, camera, frame));
    assert!((mean - expected).abs() < 3.0, "episode {index}, camera {camera}, frame {frame}: {mean} is not {expected}");
}

#[track_caller]
fn assert_refused(dir: &Path, parts: &[&str]) {
    let message = read_all(dir).expect_err("the dataset must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

/// The video of the first episode's first camera.
fn video(version: Version) -> &'static str {
    match version {
        Version::V21 => "videos/chunk-000/observation.images.wrist/episode_000000.mp4",
        Version::V30 => "videos/observation.images.wrist/chunk-000/file-000.mp4",
    }
}

/// Replaces a video by one of `frames` frames of `height` x `width` at `fps`.
fn replace_video(path: &Path, frames: usize, height: usize, width: usize, fps: u32) {
    std::fs::remove_file(path).unwrap();
    let mut writer = VideoWriter::create(path, Encoding::H264, height, width, fps).unwrap();
    writer.push(&vec![90; frames * height * width * 3]).unwrap();
    writer.finish().unwrap();
}

#[test]
fn both_versions_return_every_frame_of_every_episode() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 4);
        let opened = Dataset::open(&dir).unwrap();
        assert_eq!(opened.spec(), &DatasetSpec::of(&episode(0)), "{version}");
        for (index, read) in opened.episodes().enumerate() {
            assert_episode(&read.unwrap(), index);
        }
        for index in [3, 0, 2] {
            assert_episode(&opened.episode(index).unwrap(), index);
        }
        let rows = opened.reader().read_without_images(1).unwrap();
        assert_eq!((rows.cameras.len(), rows.actions), (0, episode(1).actions));
    }
}

/// `tests/fixtures` holds what LeRobot's own writers made (scripts/lerobot_fixture.py): AV1, many episodes a file in 3.0.
#[test]
fn datasets_that_lerobot_wrote_are_read_frame_by_frame() {
    for (name, version) in [("lerobot_v21", Version::V21), ("lerobot_v30", Version::V30)] {
        let opened = Dataset::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap();
        assert_eq!((opened.version(), opened.len(), opened.frames()), (version, 3, 18));
        assert_eq!(opened.ignored_features(), ["next.reward"]);
        for (index, read) in opened.episodes().enumerate() {
            let read = read.unwrap();
            assert_eq!(read.instruction, ["öffne die Schublade", "close it"][index % 2]);
            assert_eq!(
                (read.len(), read.proprio(4), read.action(4)),
                (5 + index, &[index as f32, 4.0, 0.5][..], &[4.0, -(index as f32)][..])
            );
            for (number, camera) in read.cameras.iter().enumerate() {
                assert_eq!(camera.name, ["top", "wrist"][number]);
                for frame in 0..camera.frames() {
                    assert_level(camera.frame(frame), index, number, frame);
                }
            }
        }
        for (step, frame) in opened.steps(1 << 20).read(&[(2, 6), (1, 0), (2, 0)]).unwrap().iter().zip([6, 0, 0]) {
            let index = step.observation.proprio[0] as usize;
            assert_level(&step.observation.cameras[1].rgb, index, 1, frame);
        }
    }
}

#[test]
fn the_videos_are_where_lerobot_looks_for_them() {
    for (version, expected) in [(Version::V21, 4), (Version::V30, 2)] {
        let (_folder, dir) = dataset(version, 2);
        let videos: Vec<_> = files(&dir).into_iter().filter(|file| file.starts_with("videos")).collect();
        assert_eq!(videos.len(), expected);
        assert!(videos.contains(&PathBuf::from(video(version))), "{videos:?}");
        let info = std::fs::read_to_string(dir.join(INFO)).unwrap();
        assert!(info.contains("\"dtype\": \"video\"") && info.contains("\"video.codec\": \"h264\""));
    }
}

#[test]
fn a_full_video_file_of_version_30_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("set");
    let noisy = |index: usize| {
        let mut noisy = episode(index);
        let mut state = index as u32 + 1;
        for byte in noisy.cameras.iter_mut().flat_map(|camera| &mut camera.rgb) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        noisy
    };
    // 1,800 frames of noise of 64x48 are several MiB of H.264, whatever the encoder still holds back.
    let writer = DatasetWriter::create(&dir, DatasetSpec::of(&episode(0)), Version::V30).unwrap();
    let mut writer = writer.with_video(Encoding::H264, 1).unwrap();
    for index in 0..300 {
        writer.push(&noisy(index)).unwrap();
    }
    writer.finish().unwrap();
    assert!(dir.join("videos/observation.images.wrist/chunk-000/file-001.mp4").is_file());
    let opened = Dataset::open(&dir).unwrap();
    let last = opened.episode(299).unwrap();
    let difference = |read: &[u8], pushed: &[u8]| {
        read.iter().zip(pushed).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / read.len() as f64
    };
    // Noise is coded badly, and an episode's own frames are nearer than those of any other.
    let own = difference(&last.cameras[0].rgb, &noisy(299).cameras[0].rgb);
    let other = difference(&last.cameras[0].rgb, &noisy(296).cameras[0].rgb);
    assert!(own < other * 0.8, "{own} {other}");
}

#[test]
fn single_steps_come_in_the_order_asked_for() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 4);
        let opened = Dataset::open(&dir).unwrap();
        let mut steps = opened.steps(1 << 24);
        let wanted = [(3, 4), (0, 0), (2, 6), (0, 1), (3, 4), (1, 2)];
        for _ in 0..2 {
            let read = steps.read(&wanted).unwrap();
            assert_eq!(read.len(), wanted.len());
            for (step, (index, frame)) in read.iter().zip(wanted) {
                let expected = episode(index);
                assert_eq!(step.action, expected.action(frame));
                assert_eq!(step.observation.proprio, expected.proprio(frame));
                assert_eq!(*step.instruction, expected.instruction);
                for (number, camera) in step.observation.cameras.iter().enumerate() {
                    assert_level(&camera.rgb, index, number, frame);
                }
            }
        }
        assert!(matches!(steps.read(&[(0, 5)]), Err(DatasetError::NoSuchStep { frame: 5, frames: 5, .. })));
        assert!(matches!(steps.read(&[(4, 0)]), Err(DatasetError::NoSuchEpisode { .. })));
    }
}

#[test]
fn steps_of_images_in_the_rows_are_those_of_the_episodes() {
    let (_folder, dir) = common::dataset(Version::V30, 3);
    let opened = Dataset::open(&dir).unwrap();
    let read = opened.steps(1 << 20).read(&[(2, 3), (0, 1)]).unwrap();
    assert_eq!(read[0].observation, common::episode(2).observation(3));
    assert_eq!(read[1].observation, common::episode(0).observation(1));
}

#[test]
fn a_bad_episode_does_not_stop_the_others() {
    for (version, bad) in [(Version::V21, 1), (Version::V30, 3)] {
        let (_folder, dir) = dataset(version, 3);
        if version == Version::V21 {
            let second = "videos/chunk-000/observation.images.wrist/episode_000001.mp4";
            std::fs::write(dir.join(second), b"").unwrap();
            let error = Dataset::open(&dir).unwrap().episode(1).unwrap_err().to_string();
            assert!(error.contains("episode 1, camera \"wrist\"") && error.contains("episode_000001.mp4"), "{error}");
        } else {
            std::fs::write(dir.join(video(version)), b"").unwrap();
        }
        let read: Vec<_> = Dataset::open(&dir).unwrap().episodes().collect();
        assert_eq!(read.iter().filter(|episode| episode.is_err()).count(), bad);
        for (index, read) in read.iter().enumerate().filter(|(_, read)| read.is_ok()) {
            assert_episode(read.as_ref().unwrap(), index);
        }
    }
}

#[test]
fn a_missing_video_is_refused_when_opened_unless_asked_to_go_on() {
    let (_folder, dir) = dataset(Version::V21, 2);
    std::fs::remove_file(dir.join(video(Version::V21))).unwrap();
    assert_refused(&dir, &["episode_000000.mp4 is missing", "episode 0"]);
    let opened = Dataset::open_in_part(&dir).unwrap();
    assert!(matches!(opened.episode(0), Err(DatasetError::Missing { .. })));
    assert_episode(&opened.episode(1).unwrap(), 1);
}

#[test]
fn a_truncated_video_is_refused_with_file_and_episode() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 1);
        let file = dir.join(video(version));
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_refused(&dir, &["episode 0, camera \"wrist\"", name, "truncated or damaged"]);
    }
}

#[test]
fn a_corrupt_video_body_is_refused_with_file_and_episode() {
    let (_folder, dir) = dataset(Version::V21, 1);
    let file = dir.join(video(Version::V21));
    let mut bytes = std::fs::read(&file).unwrap();
    let body = bytes.windows(4).position(|kind| kind == b"mdat").unwrap() + 8;
    let end = bytes.windows(4).position(|kind| kind == b"moov").unwrap() - 4;
    bytes[body..end].fill(0x5a);
    std::fs::write(&file, bytes).unwrap();
    assert_refused(&dir, &["episode 0, camera \"wrist\"", "decoding", "episode_000000.mp4"]);
    let error = Dataset::open(&dir).unwrap().steps(0).read(&[(0, 2)]).unwrap_err().to_string();
    assert!(error.contains("episode 0, camera \"wrist\"") && error.contains("episode_000000.mp4"), "{error}");
}

#[test]
fn a_video_with_fewer_frames_than_rows_is_refused_with_the_first_row_without() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 1);
        replace_video(&dir.join(video(version)), 3, 48, 64, 10);
        assert_refused(&dir, &["episode 0, frame 3, camera \"wrist\"", "cut short", ".mp4"]);
    }
}

#[test]
fn a_video_of_another_rate_is_refused_at_the_first_frame_that_is_off() {
    let (_folder, dir) = dataset(Version::V21, 1);
    replace_video(&dir.join(video(Version::V21)), 20, 48, 64, 15);
    assert_refused(&dir, &["episode 0, frame 1, camera \"wrist\"", "within 0.0001 s of 0.100000 s"]);
}

#[test]
fn a_video_of_another_size_than_info_is_refused() {
    let (_folder, dir) = dataset(Version::V30, 1);
    replace_video(&dir.join(video(Version::V30)), 5, 64, 48, 10);
    assert_refused(&dir, &["episode 0, camera \"wrist\" is 64x48, expected 48x64", "file-000.mp4"]);
}

#[test]
fn a_video_template_or_key_outside_of_the_dataset_is_refused() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 1);
        edit(&dir.join(INFO), "\"videos/", "\"../videos/");
        assert_refused(&dir, &["not a path inside the dataset"]);
        let (_folder, dir) = dataset(version, 1);
        edit(&dir.join(INFO), "\"observation.images.wrist\"", "\"../../etc\"");
        // In version 3.0 the table of episodes has no columns of such a camera, which is found first.
        let expected = if version == Version::V21 { "not a path inside the dataset" } else { "../../etc" };
        assert_refused(&dir, &[expected]);
        let (_folder, dir) = dataset(version, 1);
        edit(&dir.join(INFO), "\"video_path\"", "\"no_video_path\"");
        assert_refused(&dir, &["video_path is missing"]);
    }
}

#[test]
fn timestamps_that_are_off_are_refused_with_the_row() {
    let (_folder, dir) = dataset(Version::V21, 1);
    let file = dir.join("data/chunk-000/episode_000000.parquet");
    let mut bytes = std::fs::read(&file).unwrap();
    // The third timestamp, 0.2 s, occurs nowhere else.
    let places: Vec<usize> = (0..bytes.len() - 3).filter(|&at| bytes[at..at + 4] == 0.2_f32.to_le_bytes()).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + 4].copy_from_slice(&0.23_f32.to_le_bytes());
    }
    std::fs::write(&file, bytes).unwrap();
    assert_refused(&dir, &["timestamp of episode 0, frame 2 is 0.23", "expected 0.2 s", "episode_000000.parquet"]);
}

#[test]
fn an_empty_episode_is_refused_and_the_others_can_be_read() {
    let (_folder, dir) = dataset(Version::V21, 2);
    edit(&dir.join("meta/episodes.jsonl"), "\"length\":5", "\"length\":0");
    edit(&dir.join(INFO), "\"total_frames\": 11", "\"total_frames\": 6");
    assert_refused(&dir, &["length of episode 0 is 0, expected at least 1"]);
    let opened = Dataset::open_in_part(&dir).unwrap();
    assert!(opened.episode(0).unwrap_err().to_string().contains("length of episode 0 is 0"));
    assert_episode(&opened.episode(1).unwrap(), 1);
}

#[test]
fn a_missing_column_is_named() {
    let (_folder, dir) = dataset(Version::V30, 1);
    let reward = "\"features\": {\"observation.images.third\": {\"dtype\": \"image\", \"shape\": [4, 4, 3]},";
    edit(&dir.join(INFO), "\"features\": {", reward);
    assert_refused(&dir, &["column \"observation.images.third\" is missing", "file-000.parquet"]);
}

#[test]
fn the_rows_say_which_of_an_episodes_tasks_counts() {
    let (_folder, dir) = dataset(Version::V21, 2);
    let episodes = dir.join("meta/episodes.jsonl");
    edit(&episodes, "[\"öffne die Schublade\"]", "[\"valid\",\"öffne die Schublade\"]");
    let opened = Dataset::open(&dir).unwrap();
    assert_eq!(opened.records()[0].instruction, "valid");
    assert_episode(&opened.episode(0).unwrap(), 0);
    // The rows name the second task, which is no longer the episode's.
    edit(&episodes, "[\"valid\",\"öffne die Schublade\"]", "[\"valid\"]");
    assert_refused(&dir, &["task_index of episode 0, frame 0 is 0", "one of [\"valid\"]"]);
}

#[test]
fn modality_is_read_and_checked() {
    let (_folder, dir) = dataset(Version::V21, 1);
    assert!(Dataset::open(&dir).unwrap().modality().is_none());
    let file = dir.join("meta/modality.json");
    let json = r#"{"state": {"gripper": {"start": 2, "end": 3}}, "video": {"hand": {"original_key": "observation.images.wrist"}}}"#;
    std::fs::write(&file, json).unwrap();
    let opened = Dataset::open(&dir).unwrap();
    let modality = opened.modality().unwrap();
    assert_eq!((modality.state[0].start, modality.video[0].name.as_str()), (2, "hand"));
    edit(&file, "\"end\": 3", "\"end\": 4");
    assert_refused(&dir, &["state.gripper is 2..4", "modality.json"]);
}

#[test]
fn openpis_names_and_channels_first_are_understood_and_depths_left_aside() {
    let (_folder, dir) = dataset(Version::V21, 1);
    let info = std::fs::read_to_string(dir.join(INFO)).unwrap();
    let mut info: serde_json::Value = serde_json::from_str(&info).unwrap();
    info["features"]["observation.images.wrist"]["shape"] = serde_json::json!([3, 48, 64]);
    info["features"]["observation.images.top view"]["info"]["video.is_depth_map"] = true.into();
    std::fs::write(dir.join(INFO), info.to_string()).unwrap();
    let opened = Dataset::open(&dir).unwrap();
    assert_eq!(opened.ignored_features(), ["observation.images.top view"]);
    let read = opened.episode(0).unwrap();
    assert_eq!((read.cameras.len(), read.cameras[0].height, read.cameras[0].width), (1, 48, 64));
    assert!(opened.features().iter().any(|feature| feature.key == "action" && feature.shape == [2]));
}

#[test]
fn what_cannot_be_video_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("set");
    let create = || DatasetWriter::create(&dir, DatasetSpec::of(&episode(0)), Version::V30).unwrap();
    let error = create().with_video(Encoding::Av1, ONE_FILE).map(drop).unwrap_err().to_string();
    assert!(error.contains("camera \"wrist\" is 48x64") && error.contains("at least 64"), "{error}");
    let mut late = create();
    late.push(&episode(0)).unwrap();
    assert!(matches!(late.with_video(Encoding::H264, ONE_FILE), Err(DatasetError::Specification { .. })));
    assert!(!dir.exists());
}

#[test]
fn the_fingerprint_follows_the_videos() {
    let (_folder, dir) = dataset(Version::V30, 1);
    let before = Dataset::open(&dir).unwrap().fingerprint().unwrap();
    replace_video(&dir.join(video(Version::V30)), 9, 48, 64, 10);
    assert_ne!(Dataset::open(&dir).unwrap().fingerprint().unwrap(), before);
    // A video is found by its times, whatever comes after the episode.
    let reader = VideoReader::open(dir.join(video(Version::V30)), &FrameCache::with_bytes(0)).unwrap();
    assert_eq!(reader.index().len(), 9);
}
