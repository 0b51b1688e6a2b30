//! What the HDF5 files of each source mean: which keys they have, and how their rows are to be read.

/// Where an HDF5 file of demonstrations comes from, told by what is inside of it.
///
/// All of them have `data/demo_<i>/actions`; they differ in everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// robomimic: `obs` are what was seen *before* the action of their row, images stand upright.
    Robomimic,
    /// LIBERO: `obs` of row `j` were stored *after* action `j`, so that row `i` of an episode pairs observation `i` with
    /// action `i + 1` and one step is lost; images have their bottom row first. The instruction is the file's name.
    Libero,
    /// RoboCasa: robomimic's rows with 12-d actions (arm 6, gripper 1, base 3, torso 1, base mode 1) and a mobile base in
    /// the observations. The instruction is in each demonstration's `ep_meta`.
    RoboCasa,
    /// Nothing but actions, as the Franka recordings of arXiv 2603.10422's authors: the video lies in files of its own.
    ActionsOnly,
}

/// A part of the proprioception or of the action, with the name it has in GR00T's `modality.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name of the part.
    pub name: String,
    /// Entries of the row, `[start, end)`.
    pub start: usize,
    /// One past the last entry.
    pub end: usize,
}

/// Key below `obs` and number of entries of a row.
type Key = (&'static str, usize);

const ROBOMIMIC_STATE: &[Key] = &[("robot0_eef_pos", 3), ("robot0_eef_quat", 4), ("robot0_gripper_qpos", 2)];
const LIBERO_STATE: &[Key] = &[("ee_pos", 3), ("ee_ori", 3), ("gripper_states", 2)];
/// In the order of their names: the 53 entries of the paper's state token.
const ROBOCASA_STATE: &[Key] = &[
    ("robot0_base_pos", 3),
    ("robot0_base_quat", 4),
    ("robot0_base_to_eef_pos", 3),
    ("robot0_base_to_eef_quat", 4),
    ("robot0_eef_pos", 3),
    ("robot0_eef_quat", 4),
    ("robot0_gripper_qpos", 2),
    ("robot0_gripper_qvel", 2),
    ("robot0_joint_pos", 7),
    ("robot0_joint_pos_cos", 7),
    ("robot0_joint_pos_sin", 7),
    ("robot0_joint_vel", 7),
];

const ARM_AND_GRIPPER: &[Key] = &[("x", 1), ("y", 1), ("z", 1), ("roll", 1), ("pitch", 1), ("yaw", 1), ("gripper", 1)];
const LIBERO_STATE_GROUPS: &[Key] =
    &[("x", 1), ("y", 1), ("z", 1), ("roll", 1), ("pitch", 1), ("yaw", 1), ("gripper", 2)];
const ROBOCASA_ACTION: &[Key] = &[
    ("end_effector_position", 3),
    ("end_effector_rotation", 3),
    ("gripper_close", 1),
    ("base_motion", 4),
    ("control_mode", 1),
];

impl Profile {
    /// The name used in messages and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Robomimic => "robomimic",
            Self::Libero => "libero",
            Self::RoboCasa => "robocasa",
            Self::ActionsOnly => "actions-only",
        }
    }

    /// The keys below `obs` that make the proprioception, in order, with the entries of each.
    pub fn proprio_keys(self) -> &'static [(&'static str, usize)] {
        match self {
            Self::Robomimic => ROBOMIMIC_STATE,
            Self::Libero => LIBERO_STATE,
            Self::RoboCasa => ROBOCASA_STATE,
            Self::ActionsOnly => &[],
        }
    }

    /// Entries of a row of proprioception: 9, 8, 53 or 0.
    pub fn proprio_dim(self) -> usize {
        self.proprio_keys().iter().map(|(_, width)| width).sum()
    }

    /// Entries of an action where the source has one width only: 12 for RoboCasa, 7 for LIBERO.
    pub fn action_dim(self) -> Option<usize> {
        match self {
            Self::Libero => Some(7),
            Self::RoboCasa => Some(12),
            Self::Robomimic | Self::ActionsOnly => None,
        }
    }

    /// The gripper's aperture in metres as a weighted sum of entries of the proprioception: `(entry, weight)`.
    ///
    /// The two fingers of a Panda move from 0 to 0.04 m and from 0 to -0.04 m, so their difference is the opening.
    pub fn aperture(self) -> &'static [(usize, f32)] {
        match self {
            Self::Robomimic => &[(7, 1.0), (8, -1.0)],
            Self::Libero => &[(6, 1.0), (7, -1.0)],
            Self::RoboCasa => &[(21, 1.0), (22, -1.0)],
            Self::ActionsOnly => &[],
        }
    }

    /// The name of the camera whose images are below `obs` under `key`; `None` if the key holds no images.
    pub fn camera(self, key: &str) -> Option<&str> {
        match self {
            Self::Libero => key.strip_suffix("_rgb"),
            Self::Robomimic | Self::RoboCasa => key.strip_suffix("_image"),
            Self::ActionsOnly => None,
        }
    }

    /// The name that GR00T's configurations have for a camera.
    pub fn gr00t_camera(self, camera: &str) -> &str {
        match (self, camera) {
            (Self::Libero, "agentview") => "image",
            (Self::Libero, "eye_in_hand") => "wrist_image",
            _ => camera,
        }
    }

    /// How many rows later the action of an observation stands.
    pub(super) fn action_lag(self) -> usize {
        usize::from(self == Self::Libero)
    }

    /// The parts of the proprioception for GR00T's `modality.json`.
    pub fn state_groups(self) -> Vec<Group> {
        groups(if self == Self::Libero { LIBERO_STATE_GROUPS } else { self.proprio_keys() })
    }

    /// The parts of an action of `action_dim` entries for GR00T's `modality.json`; one part if they have no known names.
    pub fn action_groups(self, action_dim: usize) -> Vec<Group> {
        match (self, action_dim) {
            (Self::RoboCasa, 12) => groups(ROBOCASA_ACTION),
            (Self::Libero | Self::Robomimic | Self::ActionsOnly, 7) => groups(ARM_AND_GRIPPER),
            _ => vec![Group { name: "action".into(), start: 0, end: action_dim }],
        }
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

fn groups(widths: &[Key]) -> Vec<Group> {
    let mut end = 0;
    let mut next = |(name, width): &Key| {
        let start = end;
        end += width;
        Group { name: (*name).into(), start, end }
    };
    widths.iter().map(&mut next).collect()
}

/// The instruction in the name of a LIBERO file or task: without the scene's prefix, the `_demo` at its end and the
/// underscores. `None` if nothing is left.
///
/// `KITCHEN_SCENE3_turn_on_the_stove_demo` is "turn on the stove".
pub fn libero_instruction(stem: &str) -> Option<String> {
    let words = without_scene(stem);
    let words = words.strip_suffix("_demo").unwrap_or(words);
    let text = words.replace('_', " ").trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Cuts a prefix such as `LIVING_ROOM_SCENE12_`.
fn without_scene(stem: &str) -> &str {
    let Some((scene, rest)) = stem.split_once("_SCENE") else { return stem };
    let is_scene = !scene.is_empty() && scene.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    match rest.get(digits..).and_then(|rest| rest.strip_prefix('_')) {
        Some(words) if is_scene && digits > 0 => words,
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_the_sources() {
        let widths = [Profile::Robomimic, Profile::Libero, Profile::RoboCasa, Profile::ActionsOnly];
        assert_eq!(widths.map(Profile::proprio_dim), [9, 8, 53, 0]);
        for profile in widths {
            for groups in [profile.state_groups(), profile.action_groups(profile.action_dim().unwrap_or(7))] {
                assert!(groups.windows(2).all(|pair| pair[0].end == pair[1].start), "{groups:?}");
            }
            assert_eq!(profile.state_groups().last().map_or(0, |group| group.end), profile.proprio_dim());
            assert!(profile.aperture().iter().all(|(entry, _)| *entry < profile.proprio_dim()));
        }
        assert_eq!(Profile::RoboCasa.action_groups(12).last().unwrap().end, 12);
        assert_eq!(Profile::Robomimic.action_groups(14)[0], Group { name: "action".into(), start: 0, end: 14 });
    }

    #[test]
    fn instructions_of_libero_are_file_names() {
        for (stem, expected) in [
            ("KITCHEN_SCENE3_turn_on_the_stove_demo", Some("turn on the stove")),
            ("LIVING_ROOM_SCENE12_pick_up_the_soup_demo", Some("pick up the soup")),
            ("open_the_middle_drawer_demo", Some("open the middle drawer")),
            ("put_it_in_SCENE1_demo", Some("put it in SCENE1")),
            ("KITCHEN_SCENE_x", Some("KITCHEN SCENE x")),
            ("öffne_die_Schublade_demo", Some("öffne die Schublade")),
            ("KITCHEN_SCENE3__demo", None),
            ("_demo", None),
            ("", None),
        ] {
            assert_eq!(libero_instruction(stem).as_deref(), expected, "{stem:?}");
        }
    }
}
