//! What is written comes back, and a dataset is on disk whole or not at all.

mod common;

use common::{VERSIONS, dataset, episode, files, read_all, write};
use w2a_data::{Camera, Dataset, DatasetError, DatasetSpec, DatasetWriter, Episode, Version};

#[test]
fn both_versions_return_the_episodes_exactly() {
    for version in VERSIONS {
        let (_folder, dir) = dataset(version, 7);
        let opened = Dataset::open(&dir).unwrap();
        assert_eq!((opened.version(), opened.len()), (version, 7));
        assert_eq!(opened.spec(), &DatasetSpec::of(&episode(0)));
        assert_eq!(opened.frames(), (0..7).map(|index| episode(index).len()).sum::<usize>());
        for (index, read) in opened.episodes().enumerate() {
            assert_eq!(read.unwrap(), episode(index), "{version}");
        }
        // Any order, each alone.
        for index in [6, 0, 3] {
            assert_eq!(opened.episode(index).unwrap(), episode(index), "{version}");
        }
        let record = &opened.records()[4];
        assert_eq!(
            (record.source.as_str(), record.instruction.as_str()),
            ("object/2/train/4", "put the red block in the bowl")
        );
    }
}

#[test]
fn the_files_are_where_lerobot_looks_for_them() {
    let (_folder, dir) = dataset(Version::V21, 2);
    let expected = [
        "data/chunk-000/episode_000000.parquet",
        "data/chunk-000/episode_000001.parquet",
        "meta/episodes.jsonl",
        "meta/episodes_stats.jsonl",
        "meta/info.json",
        "meta/tasks.jsonl",
    ];
    assert_eq!(files(&dir), expected.map(std::path::PathBuf::from));
    let (_folder, dir) = dataset(Version::V30, 2);
    let expected = [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
    ];
    assert_eq!(files(&dir), expected.map(std::path::PathBuf::from));
}

#[test]
fn action_free_video_has_no_action_column() {
    for version in VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("video");
        let video = Episode { action_dim: 0, actions: Vec::new(), proprio_dim: 0, proprio: Vec::new(), ..episode(1) };
        write(&dir, version, std::slice::from_ref(&video)).unwrap();
        let info = std::fs::read_to_string(dir.join("meta/info.json")).unwrap();
        assert!(!info.contains("\"action\"") && !info.contains("observation.state"));
        assert_eq!(read_all(&dir).unwrap(), [video]);
    }
}

#[test]
fn features_of_width_one_and_without_cameras_come_back() {
    for version in VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("narrow");
        let narrow = Episode {
            cameras: Vec::new(),
            proprio_dim: 1,
            proprio: vec![0.5, -1.0, f32::MIN_POSITIVE],
            action_dim: 1,
            actions: vec![-0.0, f32::MAX, 3.0],
            ..episode(0)
        };
        write(&dir, version, std::slice::from_ref(&narrow)).unwrap();
        assert_eq!(read_all(&dir).unwrap(), [narrow]);
    }
}

#[test]
fn more_episodes_than_one_block_of_metadata_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("many");
    let small = |index: usize| Episode {
        cameras: Vec::new(),
        proprio_dim: 0,
        proprio: Vec::new(),
        instruction: format!("task {}", index % 300),
        ..episode(index)
    };
    write(&dir, Version::V30, &(0..600).map(small).collect::<Vec<_>>()).unwrap();
    let read = read_all(&dir).unwrap();
    assert!(read.iter().enumerate().all(|(index, episode)| *episode == small(index)));
}

#[test]
fn episodes_spread_over_several_data_files_come_back() {
    use rand::Rng;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("set");
    let mut rng = w2a_data::stream(1, "test/noise");
    // Noise does not compress: every second episode fills a file of 1 MiB.
    let mut noisy = |frames: usize| {
        let mut rgb = vec![0; frames * 64 * 64 * 3];
        rng.fill_bytes(&mut rgb);
        let cameras = vec![Camera { name: "agent".into(), height: 64, width: 64, rgb }];
        let (actions, proprio) = (vec![0.5; frames * 7], vec![0.25; frames * 9]);
        Episode { cameras, actions, proprio, ..episode(frames) }
    };
    let episodes = [noisy(50), noisy(51), noisy(90), noisy(3), noisy(4)];
    let writer = DatasetWriter::create(&dir, DatasetSpec::of(&episodes[0]), Version::V30).unwrap();
    let mut writer = writer.with_data_file_mib(1);
    episodes.iter().try_for_each(|episode| writer.push(episode)).unwrap();
    writer.finish().unwrap();
    assert_eq!(files(&dir.join("data")).len(), 3);
    assert_eq!(read_all(&dir).unwrap(), episodes);
    let opened = Dataset::open(&dir).unwrap();
    let mut reader = opened.reader();
    for index in [4, 0, 2, 3, 1] {
        assert_eq!(reader.read(index).unwrap(), episodes[index]);
    }
}

#[test]
fn an_existing_folder_is_refused() {
    let (_folder, dir) = dataset(Version::V30, 1);
    let before = files(&dir);
    let again = DatasetWriter::create(&dir, DatasetSpec::of(&episode(0)), Version::V30);
    assert!(matches!(again, Err(DatasetError::Exists { .. })));
    assert_eq!(files(&dir), before);
}

#[test]
fn nothing_appears_before_finish_and_nothing_is_left_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("set");
    let mut writer = DatasetWriter::create(&dir, DatasetSpec::of(&episode(0)), Version::V21).unwrap();
    writer.push(&episode(0)).unwrap();
    assert!(!dir.exists() && folder.path().join(".set.partial").exists());
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_a_killed_writer_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join(".set.partial/data/chunk-000/episode_000099.parquet");
    std::fs::create_dir_all(stale.parent().unwrap()).unwrap();
    std::fs::write(&stale, "half a file").unwrap();
    let dir = folder.path().join("set");
    write(&dir, Version::V21, &[episode(0)]).unwrap();
    assert!(!files(&dir).iter().any(|file| file.ends_with("episode_000099.parquet")));
    assert_eq!(read_all(&dir).unwrap(), [episode(0)]);
}

#[test]
fn two_writers_of_one_dataset_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("set");
    let spec = DatasetSpec::of(&episode(0));
    let mut first = DatasetWriter::create(&dir, spec.clone(), Version::V30).unwrap();
    first.push(&episode(0)).unwrap();
    assert!(matches!(DatasetWriter::create(&dir, spec, Version::V30), Err(DatasetError::Busy { .. })));
    first.finish().unwrap();
    assert_eq!(read_all(&dir).unwrap(), [episode(0)]);
}

#[test]
fn an_episode_of_another_form_is_refused_and_the_writer_goes_on() {
    for version in VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("set");
        let good = episode(0);
        let mut writer = DatasetWriter::create(&dir, DatasetSpec::of(&good), version).unwrap();
        let mut nan = good.clone();
        nan.actions[10] = f32::NAN;
        let mut swapped = good.clone();
        swapped.cameras.swap(0, 1);
        let short = Episode { actions: good.actions[7..].to_vec(), ..good.clone() };
        let narrow = Episode { action_dim: 0, actions: Vec::new(), ..good.clone() };
        let slow = Episode { fps: 10, ..good.clone() };
        let mut empty = Episode { proprio: Vec::new(), actions: Vec::new(), ..good.clone() };
        empty.cameras.iter_mut().for_each(|camera| camera.rgb.clear());
        let refused = [
            (nan, "action is not finite at frame 1"),
            (swapped, "list of cameras"),
            (short, "action has 21 values, expected 28"),
            (narrow, "width of the actions is 0, the dataset has 7"),
            (slow, "fps is 10, the dataset has 20"),
            (empty, "number of frames is 0"),
        ];
        for (bad, expected) in refused {
            let error = writer.push(&bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        writer.push(&good).unwrap();
        writer.finish().unwrap();
        assert_eq!(read_all(&dir).unwrap(), [good]);
    }
}

#[test]
fn an_unusable_specification_or_an_empty_dataset_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("set");
    let good = DatasetSpec::of(&episode(0));
    let mut twice = good.clone();
    twice.cameras[1].name = "wrist".into();
    let mut slash = good.clone();
    slash.cameras[0].name = "a/b".into();
    let mut huge = good.clone();
    huge.cameras[0].height = 1 << 20;
    let nothing = DatasetSpec { cameras: Vec::new(), proprio_dim: 0, action_dim: 0, ..good.clone() };
    for bad in [twice, slash, huge, nothing, DatasetSpec { fps: 0, ..good.clone() }] {
        let refused = DatasetWriter::create(&dir, bad, Version::V30);
        assert!(matches!(refused, Err(DatasetError::Specification { .. })));
    }
    let empty = DatasetWriter::create(&dir, good, Version::V30).unwrap().finish();
    assert!(matches!(empty, Err(DatasetError::Specification { .. })) && !dir.exists());
}

#[test]
fn the_fingerprint_follows_the_contents_only() {
    for version in VERSIONS {
        let (_one, first) = dataset(version, 3);
        let (_two, second) = dataset(version, 3);
        let print = |dir| Dataset::open(dir).unwrap().fingerprint().unwrap();
        assert_eq!(print(&first), print(&second), "{version}: where it lies must not matter");
        let folder = tempfile::tempdir().unwrap();
        let mut episodes: Vec<Episode> = (0..3).map(episode).collect();
        // One bit of one pixel: PNG sizes and statistics may well stay the same.
        episodes[1].cameras[0].rgb[5] ^= 1;
        let third = folder.path().join("set");
        write(&third, version, &episodes).unwrap();
        assert_ne!(print(&first), print(&third), "{version}");
    }
}

#[test]
fn global_statistics_are_those_of_all_episodes() {
    let (_folder, dir) = dataset(Version::V30, 5);
    let stats: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("meta/stats.json")).unwrap()).unwrap();
    let episodes: Vec<Episode> = (0..5).map(episode).collect();
    let expected = w2a_data::EpisodeStatistics::over(&episodes).unwrap();
    for (dimension, mean) in expected.actions.mean.iter().enumerate() {
        assert_eq!(stats["action"]["mean"][dimension].as_f64().unwrap() as f32, *mean);
    }
    assert_eq!(stats["action"]["count"][0], expected.actions.count);
    assert_eq!(stats["observation.images.agent"]["std"].as_array().unwrap().len(), 3);
}
