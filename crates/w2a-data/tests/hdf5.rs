//! Demonstrations in HDF5: what is read from files of h5py, and what damaged and hostile ones end in.

use std::path::{Path, PathBuf};

use hdf5_pure::{AttrValue, File};
use proptest::prelude::*;
use w2a_data::{Episode, EpisodeError, Hdf5Dataset, Hdf5Error, Profile};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hdf5").join(name)
}

const LIBERO: &str = "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5";
const ROBOCASA: &str = "PnPSinkToCounter/mg/2024-05-04/demo_gentex_im128_randcams.hdf5";
const ROBOMIMIC: &str = "lift.hdf5";

fn read_all(path: &Path) -> Vec<Episode> {
    Hdf5Dataset::open(path).unwrap().episodes().collect::<Result<_, _>>().unwrap()
}

/// The fixtures say where every value stands: see `scripts/hdf5_fixtures.py`.
#[track_caller]
fn assert_rows(episode: &Episode, demo: usize, first: usize, steps: usize) {
    assert_eq!(episode.len(), steps);
    let close = |got: f32, expected: f32| assert!((got - expected).abs() < 1e-3, "{got} is not {expected}");
    for step in 0..steps {
        let base = (100 * demo + first + step) as f32;
        episode.action(step).iter().enumerate().for_each(|(d, &value)| close(value, base + d as f32 / 10.0));
        let mut entry = 0;
        for width in widths(episode) {
            let row = episode.proprio(step).iter().skip(entry).take(width);
            row.enumerate().for_each(|(d, &value)| close(value, 1000.0 + base + d as f32 / 10.0));
            entry += width;
        }
        for camera in &episode.cameras {
            assert_eq!((camera.height, camera.width), (16, 24));
            for (row, pixels) in camera.frame(step).chunks(24 * 3).enumerate() {
                let expected = (8 * row + 2 * (first + step) + demo) as u8;
                assert!(pixels.iter().all(|&pixel| pixel == expected), "row {row} is {pixels:?}, not {expected}");
            }
        }
    }
}

fn widths(episode: &Episode) -> Vec<usize> {
    let profile = match episode.proprio_dim {
        8 => Profile::Libero,
        53 => Profile::RoboCasa,
        _ => Profile::Robomimic,
    };
    profile.proprio_keys().iter().map(|(_, width)| *width).collect()
}

fn cameras(episode: &Episode) -> Vec<&str> {
    episode.cameras.iter().map(|camera| camera.name.as_str()).collect()
}

#[test]
fn libero_rows_pair_an_observation_with_the_action_that_follows_it_and_stand_upright() {
    let episodes = read_all(&fixture(LIBERO));
    assert_eq!(episodes.len(), 3);
    // demo_2 comes before demo_10, and each loses the step that was not observed.
    for (episode, (demo, steps)) in episodes.iter().zip([(0, 4), (2, 3), (10, 5)]) {
        assert_eq!(episode.source, format!("{LIBERO}/demo_{demo}"));
        assert_eq!(episode.instruction, "turn on the stove");
        assert_eq!((episode.fps, episode.action_dim, episode.proprio_dim), (20, 7, 8));
        assert_eq!(cameras(episode), ["agentview", "eye_in_hand"]);
        assert_rows(episode, demo, 1, steps);
    }
}

#[test]
fn robocasa_has_53_entries_12_actions_and_an_instruction_for_each_demonstration() {
    let dataset = Hdf5Dataset::open(fixture(ROBOCASA)).unwrap();
    assert_eq!((dataset.profile(), dataset.len()), (Profile::RoboCasa, 3));
    let episodes: Vec<Episode> = dataset.episodes().collect::<Result<_, _>>().unwrap();
    for (episode, (demo, steps)) in episodes.iter().zip([(0, 5), (2, 4), (10, 6)]) {
        assert_eq!(episode.instruction, "pick the bäckerbrot from the sink");
        assert_eq!((episode.action_dim, episode.proprio_dim), (12, 53));
        assert_eq!(cameras(episode), ["robot0_agentview_left"]);
        assert_rows(episode, demo, 0, steps);
    }
    let splits = dataset.splits().unwrap();
    assert_eq!(splits.get("train"), Some(&vec![0, 2]));
    assert_eq!(splits.get("valid"), Some(&vec![1]));
}

#[test]
fn robomimic_rows_are_as_they_stand() {
    let dataset = Hdf5Dataset::open(fixture(ROBOMIMIC)).unwrap();
    assert_eq!((dataset.profile(), dataset.spec().proprio_dim), (Profile::Robomimic, 9));
    let episode = dataset.episode(1).unwrap();
    assert_eq!((episode.instruction.as_str(), cameras(&episode)), ("Lift", vec!["agentview"]));
    assert_rows(&episode, 2, 0, 4);
    let (actions, width) = dataset.actions(1).unwrap();
    assert_eq!((actions, width), (episode.actions.clone(), 7));
    assert!(matches!(dataset.episode(3), Err(Hdf5Error::NoSuchDemo { index: 3, demos: 3, .. })));
}

#[test]
fn files_of_a_folder_are_read_together_but_not_files_of_different_sources() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("below")).unwrap();
    std::fs::copy(fixture(LIBERO), folder.path().join("below/öffne_die_Schublade_🗄_demo.hdf5")).unwrap();
    std::fs::copy(fixture(LIBERO), folder.path().join(LIBERO)).unwrap();
    let episodes = read_all(folder.path());
    assert_eq!(episodes.len(), 6);
    assert_eq!(episodes[0].instruction, "turn on the stove");
    assert_eq!(episodes[5].instruction, "öffne die Schublade 🗄");
    std::fs::copy(fixture(ROBOMIMIC), folder.path().join("z.hdf5")).unwrap();
    let error = Hdf5Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("z.hdf5") && error.contains("source of the file is robomimic"), "{error}");
}

#[test]
fn a_fingerprint_changes_with_what_is_in_the_files() {
    let whole = Hdf5Dataset::open(fixture(LIBERO)).unwrap().fingerprint().unwrap();
    assert_eq!(whole, Hdf5Dataset::open(fixture(LIBERO)).unwrap().fingerprint().unwrap());
    assert_ne!(whole, Hdf5Dataset::open(fixture(ROBOMIMIC)).unwrap().fingerprint().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join(LIBERO);
    let mut bytes = std::fs::read(fixture(LIBERO)).unwrap();
    std::fs::write(&copy, &bytes).unwrap();
    assert_eq!(Hdf5Dataset::open(&copy).unwrap().fingerprint().unwrap(), whole);
    let image = bytes.windows(3).rposition(|bytes| bytes.iter().all(|byte| (8..200).contains(byte))).unwrap();
    bytes[image] += 1;
    std::fs::write(&copy, &bytes).unwrap();
    assert_ne!(Hdf5Dataset::open(&copy).unwrap().fingerprint().unwrap(), whole);
}

/// A copy of a fixture that was changed.
struct Edited {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn edited(name: &str, edit: impl FnOnce(&File)) -> Edited {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(Path::new(name).file_name().unwrap());
    std::fs::copy(fixture(name), &path).unwrap();
    let file = File::open_rw(&path).unwrap();
    edit(&file);
    file.commit().unwrap();
    file.close().unwrap();
    Edited { _folder: folder, path }
}

fn bytes(name: &str, edit: impl FnOnce(&mut Vec<u8>)) -> Edited {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(Path::new(name).file_name().unwrap());
    let mut bytes = std::fs::read(fixture(name)).unwrap();
    edit(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    Edited { _folder: folder, path }
}

/// The messages of the demonstrations that are refused, by index; the others must be whole.
#[track_caller]
fn refused(edited: &Edited) -> Vec<(usize, String)> {
    let dataset = Hdf5Dataset::open(&edited.path).unwrap();
    assert_eq!(dataset.len(), 3);
    let errors = dataset.episodes().enumerate().filter_map(|(index, read)| Some((index, read.err()?.to_string())));
    errors.collect()
}

#[track_caller]
fn assert_only_demo_2_is_refused(edited: &Edited, parts: &[&str]) {
    let refused = refused(edited);
    assert_eq!(refused.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1], "{refused:?}");
    for part in parts {
        assert!(refused[0].1.contains(part), "expected {part:?} in: {}", refused[0].1);
    }
}

fn replace_actions(file: &File, shape: &[u64], values: &[f64]) {
    file.root().delete("data/demo_2/actions").unwrap();
    file.commit().unwrap();
    let group = file.group("data/demo_2").unwrap();
    group
        .create_dataset("actions", |dataset| {
            dataset.with_f64_data(values).with_shape(shape);
        })
        .unwrap();
}

#[test]
fn a_truncated_file_is_refused() {
    let whole = std::fs::read(fixture(LIBERO)).unwrap();
    for kept in [0, 3, 100, 2000, whole.len() / 2, whole.len() - 1] {
        let cut = bytes(LIBERO, |bytes| bytes.truncate(kept));
        let outcome = Hdf5Dataset::open(&cut.path).map(|dataset| dataset.episodes().filter(Result::is_err).count());
        match outcome {
            Err(error) => assert!(error.to_string().contains(LIBERO), "{error}"),
            Ok(failed) => assert!(failed > 0, "nothing was noticed of a file cut to {kept} bytes"),
        }
    }
}

#[test]
fn a_file_that_is_no_hdf5_is_refused() {
    let other = bytes(LIBERO, |bytes| bytes[..8].copy_from_slice(b"PK\x03\x04abcd"));
    let error = Hdf5Dataset::open(&other.path).unwrap_err();
    assert!(matches!(error, Hdf5Error::NotHdf5 { .. }), "{error}");
}

#[test]
fn a_file_with_libver_latest_says_how_to_mend_it() {
    let error = Hdf5Dataset::open(fixture("latest.hdf5")).unwrap_err();
    assert!(matches!(error, Hdf5Error::TooNew { version: 5, .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("libver='latest'") && text.contains("latest.hdf5") && text.contains("copy the file"),
        "{text}"
    );
}

#[test]
fn missing_actions_are_refused() {
    let file = edited(ROBOMIMIC, |file| file.root().delete("data/demo_2/actions").unwrap());
    assert_only_demo_2_is_refused(&file, &["data/demo_2/actions is missing", ROBOMIMIC]);
}

#[test]
fn a_missing_observation_is_refused() {
    let file = edited(ROBOMIMIC, |file| file.root().delete("data/demo_2/obs/robot0_eef_pos").unwrap());
    assert_only_demo_2_is_refused(&file, &["data/demo_2/obs/robot0_eef_pos is missing"]);
}

#[test]
fn an_action_that_is_nan_is_refused_with_its_frame() {
    let mut values = [1.0; 28];
    values[2 * 7 + 3] = f64::NAN;
    let file = edited(ROBOMIMIC, |file| replace_actions(file, &[4, 7], &values));
    assert_only_demo_2_is_refused(&file, &["action is not finite at frame 2", "demo_2"]);
    let error = Hdf5Dataset::open(&file.path).unwrap().episode(1).unwrap_err();
    assert!(matches!(error, Hdf5Error::Episode { source: EpisodeError::NotFinite { frame: 2, .. }, .. }), "{error}");
}

#[test]
fn another_width_than_the_other_demonstrations_have_is_refused() {
    let file = edited(ROBOMIMIC, |file| replace_actions(file, &[4, 6], &[1.0; 24]));
    assert_only_demo_2_is_refused(&file, &["demo_2", "action_dim: 6", "action_dim: 7"]);
    let error = Hdf5Dataset::open(&file.path).unwrap().actions(1).unwrap_err().to_string();
    assert!(error.contains("width of data/demo_2/actions is 6"), "{error}");
}

#[test]
fn robocasa_actions_of_seven_entries_are_refused() {
    let file = edited(ROBOCASA, |file| replace_actions(file, &[4, 7], &[1.0; 28]));
    assert_only_demo_2_is_refused(&file, &["[4, 7]", "[rows, 12] (robocasa)"]);
}

#[test]
fn a_demonstration_without_steps_is_refused() {
    let file = edited(ROBOMIMIC, |file| {
        replace_actions(file, &[0, 7], &[]);
        file.group("data/demo_2").unwrap().set_attr("num_samples", AttrValue::I64(0)).unwrap();
    });
    let refused = refused(&file);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].1.contains("data/demo_2"), "{refused:?}");
}

#[test]
fn rows_that_differ_from_what_the_demonstration_claims_are_refused() {
    let file = edited(ROBOMIMIC, |file| {
        file.group("data/demo_2").unwrap().set_attr("num_samples", AttrValue::I64(9)).unwrap();
    });
    assert_only_demo_2_is_refused(&file, &["is 4, expected 9, as num_samples says"]);
}

#[test]
fn sizes_that_no_file_of_this_length_can_hold_are_refused_before_anything_is_allocated() {
    for rows in [1_u64 << 22, 1 << 40, u64::MAX] {
        let bomb = bytes(ROBOMIMIC, |bytes| {
            // The sizes of demo_2's actions, which occur nowhere else.
            let sizes = [4_u64.to_le_bytes(), 7_u64.to_le_bytes()].concat();
            let places: Vec<usize> = (0..bytes.len() - 16).filter(|&at| bytes[at..at + 16] == sizes).collect();
            assert!(!places.is_empty());
            for place in places {
                bytes[place..place + 8].copy_from_slice(&rows.to_le_bytes());
            }
        });
        assert_only_demo_2_is_refused(&bomb, &["size of data/demo_2/actions", "expected"]);
    }
}

#[test]
fn a_split_that_names_no_demonstration_is_refused() {
    let file = bytes(ROBOCASA, |bytes| {
        let place = bytes.windows(7).position(|window| window == b"demo_10").unwrap();
        let last = bytes.windows(7).rposition(|window| window == b"demo_10").unwrap();
        assert_ne!(place, last);
        bytes[last..last + 7].copy_from_slice(b"demo_11");
    });
    let error = Hdf5Dataset::open(&file.path).unwrap().splits().unwrap_err().to_string();
    assert!(error.contains("mask/train is demo_11"), "{error}");
}

#[test]
fn a_rate_that_is_no_rate_is_refused() {
    let file = edited(ROBOMIMIC, |file| {
        let text = AttrValue::String("{\"env_name\": \"Lift\", \"env_kwargs\": {\"control_freq\": 0}}".into());
        file.group("data").unwrap().set_attr("env_args", text).unwrap();
    });
    let error = Hdf5Dataset::open(&file.path).unwrap_err().to_string();
    assert!(error.contains("control_freq of env_args is 0"), "{error}");
}

#[test]
fn a_folder_without_files_and_a_file_without_demonstrations_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Hdf5Dataset::open(folder.path()), Err(Hdf5Error::NoFiles { .. })));
    let file = edited(ROBOMIMIC, |file| {
        for demo in [0, 2, 10] {
            file.root().delete(&format!("data/demo_{demo}")).unwrap();
        }
    });
    let error = Hdf5Dataset::open(&file.path).unwrap_err().to_string();
    assert!(error.contains("a group \"data/demo_<number>\" is missing"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damage_never_ends_the_process(place: prop::sample::Index, byte: u8, gzip: bool) {
        let file = bytes(if gzip { LIBERO } else { ROBOMIMIC }, |bytes| {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        });
        if let Ok(dataset) = Hdf5Dataset::open(&file.path) {
            for episode in dataset.episodes().flatten() {
                prop_assert!(!episode.is_empty() && episode.validate().is_ok());
            }
        }
    }
}
