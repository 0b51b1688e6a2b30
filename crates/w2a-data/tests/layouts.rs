//! Clips of the release's layouts, paired with the actions of the fixtures.

use std::path::{Path, PathBuf};

use w2a_data::{ClipLayout, Clips, LayoutError, WINDOW_STEPS, stream};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hdf5")
}

/// A folder of empty files of these names.
fn videos(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    names.iter().for_each(|name| std::fs::write(folder.path().join(name), "").unwrap());
    folder
}

fn ranges(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("video_metadata.json");
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

const SKILLS: &str = r#"{"PnPSinkToCounter": {"2": {"0": {"start": 0, "end": 1}, "1": {"start": 2, "end": 9}}}}"#;

/// The steps of a window's rows, by the fixtures' rule; -1 for zeros.
fn steps(clips: &Clips, index: usize, demo: usize) -> Vec<i64> {
    let (window, width) = clips.window(&clips.clips()[index], &mut stream(1, "test")).unwrap();
    assert_eq!(window.len(), WINDOW_STEPS * width);
    let step = |row: &[f32]| if row.iter().all(|&value| value == 0.0) { -1 } else { row[0] as i64 - 100 * demo as i64 };
    window.chunks(width).map(step).collect()
}

#[test]
fn a_robocasa_clip_has_the_steps_of_its_skill() {
    let folder = videos(&["PnPSinkToCounter_mg_demo_2_aa_0.mp4", "notes.txt"]);
    let (_folder, file) = ranges(SKILLS);
    let clips = Clips::open(ClipLayout::RoboCasa, folder.path(), &fixtures().join("PnPSinkToCounter"), Some(&file));
    let clips = clips.unwrap();
    assert_eq!(clips.clips().len(), 1);
    let steps = steps(&clips, 0, 2);
    assert_eq!(steps[..3], [0, 1, 1]);
    assert_eq!(steps[127], 1, "the last action is repeated");
}

#[test]
fn a_skill_past_the_end_of_the_demonstration_is_refused() {
    let folder = videos(&["PnPSinkToCounter_mg_demo_2_aa_1.mp4"]);
    let (_folder, file) = ranges(SKILLS);
    let clips = Clips::open(ClipLayout::RoboCasa, folder.path(), &fixtures().join("PnPSinkToCounter"), Some(&file));
    let clips = clips.unwrap();
    let error = clips.window(&clips.clips()[0], &mut stream(1, "test")).unwrap_err().to_string();
    assert!(error.contains("steps 2 to 9") && error.contains("a demonstration of 4"), "{error}");
}

#[test]
fn libero_and_franka_clips_are_followed_by_zeros() {
    let libero = tempfile::tempdir().unwrap();
    let name = "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5";
    std::fs::copy(fixtures().join(name), libero.path().join(name)).unwrap();
    let folder = videos(&["demo_10-turn_on_the_stove-grasp_the_knob-order1.mp4"]);
    let clips = Clips::open(ClipLayout::Libero, folder.path(), libero.path(), None).unwrap();
    let shown = steps(&clips, 0, 10);
    assert_eq!(shown[..7], [0, 1, 2, 3, 4, 5, -1]);

    let franka = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures().join("lift.hdf5"), franka.path().join("PickCup.hdf5")).unwrap();
    let folder = videos(&["pick_the_cup-demo-0.mp4"]);
    let clips = Clips::open(ClipLayout::Franka, folder.path(), franka.path(), None).unwrap();
    assert_eq!(clips.clips()[0].name.demo(), 0);
    assert_eq!(steps(&clips, 0, 0)[1..6], [1, 2, 3, 4, -1]);
}

#[test]
fn a_name_that_does_not_parse_is_an_error_and_not_a_warning() {
    let folder = videos(&["PnPSinkToCounter_mg_demo_2_aa_0.mp4", "PnPSinkToCounter_demo.mp4"]);
    let (_folder, file) = ranges(SKILLS);
    let clips = Clips::open(ClipLayout::RoboCasa, folder.path(), &fixtures().join("PnPSinkToCounter"), Some(&file));
    assert!(matches!(clips, Err(LayoutError::Name { name, .. }) if name == "PnPSinkToCounter_demo.mp4"));
}

#[test]
fn clips_without_a_demonstration_or_a_skill_are_refused() {
    let (_folder, file) = ranges(SKILLS);
    for (name, part) in [
        ("PnPSinkToCounter_mg_demo_3_aa_0.mp4", "demonstration 3"),
        ("OpenDrawer_mg_demo_2_aa_0.mp4", "demonstration 2"),
        ("PnPSinkToCounter_mg_demo_2_aa_7.mp4", "skill 7"),
        ("PnPSinkToCounter_mg_demo_0_aa_0.mp4", "skill 0 of demonstration 0"),
    ] {
        let folder = videos(&[name]);
        let actions = fixtures().join("PnPSinkToCounter");
        let error = Clips::open(ClipLayout::RoboCasa, folder.path(), &actions, Some(&file)).err().unwrap();
        assert!(error.to_string().contains(part) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_task_that_two_scenes_share_is_ambiguous() {
    let libero = tempfile::tempdir().unwrap();
    for scene in ["KITCHEN_SCENE3", "KITCHEN_SCENE8"] {
        let name = format!("{scene}_turn_on_the_stove_demo.hdf5");
        std::fs::copy(fixtures().join("KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5"), libero.path().join(name)).unwrap();
    }
    let folder = videos(&["demo_0-turn_on_the_stove-grasp-order1.mp4"]);
    let error = Clips::open(ClipLayout::Libero, folder.path(), libero.path(), None).err().unwrap().to_string();
    assert!(error.contains("SCENE3") && error.contains("SCENE8"), "{error}");
}
