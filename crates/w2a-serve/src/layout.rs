//! What a policy sees and what it commands, by the names that the protocols use.

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
    /// Its name, as in `--env`.
    pub name: &'static str,
    /// Cameras.
    pub cameras: Vec<CameraLayout>,
    /// Parts of the proprioception; their values follow one another.
    pub state: Vec<Part>,
    /// Parts of the action.
    pub action: Vec<Part>,
    /// GR00T's name of the instruction.
    pub language: &'static str,
}

/// openpi's name of the proprioception.
pub const OPENPI_STATE: &str = "observation/state";
/// openpi's name of the instruction.
pub const OPENPI_PROMPT: &str = "prompt";

const LANGUAGE: &str = "annotation.human.action.task_description";

impl Layout {
    /// The names that [`Self::by_name`] knows.
    pub const NAMES: [&str; 2] = ["tabletop", "libero"];

    /// A layout by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "tabletop" => Some(Self::tabletop()),
            "libero" => Some(Self::libero()),
            _ => None,
        }
    }

    /// The embedded benchmark: cameras `agent` and `wrist`, every value of the proprioception and of the action under
    /// its own name.
    pub fn tabletop() -> Self {
        let size = Some((w2a_sim::IMAGE_SIZE, w2a_sim::IMAGE_SIZE));
        Self {
            name: "tabletop",
            cameras: vec![camera("agent", "observation/image", size), camera("wrist", "observation/wrist_image", size)],
            state: parts(&w2a_sim::PROPRIO_NAMES),
            action: parts(&w2a_sim::ACTION_NAMES),
            language: LANGUAGE,
        }
    }

    /// LIBERO as GR00T's `libero_panda` and openpi's LIBERO client have it: two cameras, position, axis and angle of the
    /// hand and its two fingers; actions of seven values.
    pub fn libero() -> Self {
        let mut state = parts(&["x", "y", "z", "roll", "pitch", "yaw"]);
        state.push(Part { name: "gripper".into(), width: 2 });
        Self {
            name: "libero",
            cameras: vec![
                camera("image", "observation/image", None),
                camera("wrist_image", "observation/wrist_image", None),
            ],
            state,
            action: parts(&w2a_sim::ACTION_NAMES),
            language: LANGUAGE,
        }
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

fn parts(names: &[&str]) -> Vec<Part> {
    names.iter().map(|name| Part { name: (*name).into(), width: 1 }).collect()
}
