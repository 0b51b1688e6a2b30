//! What a policy sees and what it commands, by the names that the protocols use.

use w2a_policy::groot::{Groot, Modalities};

use crate::ServeError;

/// A camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameraLayout {
    /// GR00T's name, below `video`.
    pub name: String,
    /// openpi's name.
    pub openpi: String,
    /// Rows and columns; `None` if the policy takes any.
    pub size: Option<(usize, usize)>,
}

/// A named part of the proprioception or of the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name, below `state` or `action`.
    pub name: String,
    /// Values.
    pub width: usize,
}

/// Names and sizes of observations and actions, in the order in which the policy takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its name, as in `--env`, or the tag of a checkpoint's embodiment.
    pub name: String,
    /// Cameras.
    pub cameras: Vec<CameraLayout>,
    /// Parts of the proprioception; their values follow one another.
    pub state: Vec<Part>,
    /// Parts of the action.
    pub action: Vec<Part>,
    /// GR00T's name of the instruction.
    pub language: String,
    /// What a checkpoint says of itself, which GR00T's clients may ask for; `None` for policies that are no GR00T.
    pub modalities: Option<Modalities>,
}

/// openpi's name of the proprioception.
pub const OPENPI_STATE: &str = "observation/state";
/// openpi's name of the instruction.
pub const OPENPI_PROMPT: &str = "prompt";

const LANGUAGE: &str = "annotation.human.action.task_description";

impl Layout {
    /// The names that [`Self::by_name`] knows.
    pub const NAMES: [&str; 5] = ["tabletop", "libero", "robocasa", "widowx", "google_robot"];

    /// A layout by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "tabletop" => Some(Self::tabletop()),
            "libero" => Some(Self::libero()),
            "robocasa" => Some(Self::robocasa()),
            "widowx" => Some(Self::widowx()),
            "google_robot" => Some(Self::google_robot()),
            _ => None,
        }
    }

    /// The embedded benchmark: cameras `agent` and `wrist`, every value of the proprioception and of the action under
    /// its own name.
    pub fn tabletop() -> Self {
        let size = Some((w2a_sim::IMAGE_SIZE, w2a_sim::IMAGE_SIZE));
        Self {
            name: "tabletop".into(),
            cameras: vec![camera("agent", "observation/image", size), camera("wrist", "observation/wrist_image", size)],
            state: parts(&w2a_sim::PROPRIO_NAMES),
            action: parts(&w2a_sim::ACTION_NAMES),
            language: LANGUAGE.into(),
            modalities: None,
        }
    }

    /// LIBERO as GR00T's `libero_panda` and openpi's LIBERO client have it: two cameras, position, axis and angle of the
    /// hand and its two fingers; actions of seven values.
    pub fn libero() -> Self {
        let mut state = parts(&["x", "y", "z", "roll", "pitch", "yaw"]);
        state.push(Part { name: "gripper".into(), width: 2 });
        Self {
            name: "libero".into(),
            cameras: vec![
                camera("image", "observation/image", None),
                camera("wrist_image", "observation/wrist_image", None),
            ],
            state,
            action: parts(&w2a_sim::ACTION_NAMES),
            language: LANGUAGE.into(),
            modalities: None,
        }
    }

    /// RoboCasa's Panda on an Omron base as GR00T's `robocasa_panda_omron` has it: three cameras, the fingers, and base
    /// and hand by position and quaternion; actions of twelve values.
    pub fn robocasa() -> Self {
        let sized = |&(name, width): &(&str, usize)| Part { name: name.into(), width };
        Self {
            name: "robocasa".into(),
            cameras: cameras(&["res256_image_side_0", "res256_image_side_1", "res256_image_wrist_0"]),
            state: [
                ("gripper_qpos", 2),
                ("base_position", 3),
                ("base_rotation", 4),
                ("end_effector_position_relative", 3),
                ("end_effector_rotation_relative", 4),
            ]
            .iter()
            .map(sized)
            .collect(),
            action: [
                ("end_effector_position", 3),
                ("end_effector_rotation", 3),
                ("gripper_close", 1),
                ("base_motion", 4),
                ("control_mode", 1),
            ]
            .iter()
            .map(sized)
            .collect(),
            language: LANGUAGE.into(),
            modalities: None,
        }
    }

    /// SimplerEnv's WidowX as GR00T's `oxe_widowx` has it: one camera, position, angles, an empty place and the
    /// gripper.
    pub fn widowx() -> Self {
        Self {
            name: "widowx".into(),
            cameras: cameras(&["image_0"]),
            state: parts(&["x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper"]),
            action: parts(&w2a_sim::ACTION_NAMES),
            language: LANGUAGE.into(),
            modalities: None,
        }
    }

    /// SimplerEnv's robot of Google as GR00T's `oxe_google` has it: one camera, position, quaternion and the gripper.
    pub fn google_robot() -> Self {
        Self {
            name: "google_robot".into(),
            cameras: cameras(&["image"]),
            state: parts(&["x", "y", "z", "rx", "ry", "rz", "rw", "gripper"]),
            action: parts(&w2a_sim::ACTION_NAMES),
            language: LANGUAGE.into(),
            modalities: None,
        }
    }

    /// What a checkpoint of GR00T takes and gives, under its own names; openpi's are those below `observation/`.
    ///
    /// # Errors
    /// An embodiment that sees more than the present, or has a state key without statistics.
    pub fn of_groot(groot: &Groot) -> Result<Self, ServeError> {
        let modalities = groot.modality_config();
        let tag = groot.tag();
        for (what, config) in [("video", &modalities.video), ("state", &modalities.state)] {
            if config.delta_indices != [0] {
                let got = format!("{:?}", config.delta_indices);
                return Err(ServeError::message(format!("{what} steps of {tag}"), "[0], the present alone", got));
            }
        }
        let known = |(name, width): (&str, Option<usize>)| {
            let missing = || ServeError::message(format!("state.{name} of {tag}"), "statistics", "none");
            Ok(Part { name: name.into(), width: width.ok_or_else(missing)? })
        };
        Ok(Self {
            name: tag.into(),
            cameras: cameras(&modalities.video.modality_keys),
            state: groot.state_widths().map(known).collect::<Result<_, ServeError>>()?,
            action: groot.action_widths().map(|(name, width)| Part { name: name.into(), width }).collect(),
            language: modalities.language.modality_keys.first().cloned().unwrap_or_default(),
            modalities: Some(modalities.clone()),
        })
    }

    /// Values of the proprioception.
    pub fn state_width(&self) -> usize {
        self.state.iter().map(|part| part.width).sum()
    }

    /// Values of an action.
    pub fn action_width(&self) -> usize {
        self.action.iter().map(|part| part.width).sum()
    }
}

fn camera(name: &str, openpi: &str, size: Option<(usize, usize)>) -> CameraLayout {
    CameraLayout { name: name.into(), openpi: openpi.into(), size }
}

/// Cameras of any size; openpi's names are GR00T's below `observation/`.
fn cameras(names: &[impl AsRef<str>]) -> Vec<CameraLayout> {
    names.iter().map(AsRef::as_ref).map(|name| camera(name, &format!("observation/{name}"), None)).collect()
}

fn parts(names: &[&str]) -> Vec<Part> {
    names.iter().map(|name| Part { name: (*name).into(), width: 1 }).collect()
}
