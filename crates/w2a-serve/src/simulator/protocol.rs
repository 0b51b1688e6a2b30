//! The simulators that workers have, and published ways to evaluate in them, by name.

use super::settings::{EvalSettings, Flip, Gripper, GymSettings, InitialStates, Settings, mujoco_samples};
use crate::layout::Layout;

/// Control steps of an episode by LIBERO's suites.
type Steps = [u32; 5];
/// LIBERO's suites, in the order of [`Steps`].
const LIBERO: [(&str, u32); 5] =
    [("libero_spatial", 10), ("libero_object", 10), ("libero_goal", 10), ("libero_10", 10), ("libero_90", 90)];

/// A simulator of `python/w2a_workers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimulatorKind {
    /// LIBERO: a Panda on a table.
    Libero,
    /// RoboCasa: a Panda on an Omron base in kitchens.
    Robocasa,
    /// SimplerEnv: a WidowX, or Google's robot.
    Simpler,
}

impl SimulatorKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Libero, Self::Robocasa, Self::Simpler];

    /// Its name among the workers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Libero => "libero",
            Self::Robocasa => "robocasa",
            Self::Simpler => "simpler",
        }
    }

    /// Its suites, and how many tasks each has.
    pub fn suites(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Libero => &LIBERO,
            Self::Robocasa => &[("kitchen", 24)],
            Self::Simpler => &[("widowx", 7), ("google_robot", 6)],
        }
    }

    /// What is seen and commanded in a suite, and the tag of the embodiment in checkpoints of GR00T; `None` for a suite
    /// of another simulator.
    pub fn robot(self, suite: &str) -> Option<(Layout, &'static str)> {
        self.suites().iter().find(|(name, _)| *name == suite)?;
        Some(match (self, suite) {
            (Self::Libero, _) => (Layout::libero(), "libero_panda"),
            (Self::Robocasa, _) => (Layout::robocasa(), "robocasa_panda_omron"),
            (Self::Simpler, "google_robot") => (Layout::google_robot(), "oxe_google"),
            (Self::Simpler, _) => (Layout::widowx(), "oxe_widowx"),
        })
    }

    /// Where it is said how to install it.
    pub fn how_to_install(self) -> &'static str {
        match self {
            Self::Libero => "scripts/setup-libero.sh",
            Self::Robocasa | Self::Simpler => "python/README.md",
        }
    }
}

/// A published way to evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalProtocol {
    /// openpi's `examples/libero/main.py`.
    LiberoOpenpi,
    /// GR00T N1.6's `rollout_policy.py` with `libero_sim`.
    LiberoGroot,
    /// The same with `robocasa_panda_omron`.
    RobocasaGroot,
    /// The same with `simpler_env_widowx` or `simpler_env_google`.
    SimplerGroot,
}

impl EvalProtocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LiberoOpenpi, Self::LiberoGroot, Self::RobocasaGroot, Self::SimplerGroot];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LiberoOpenpi => "libero-openpi",
            Self::LiberoGroot => "libero-groot",
            Self::RobocasaGroot => "robocasa-groot",
            Self::SimplerGroot => "simpler-groot",
        }
    }

    /// Where it evaluates.
    pub fn simulator(self) -> SimulatorKind {
        match self {
            Self::LiberoOpenpi | Self::LiberoGroot => SimulatorKind::Libero,
            Self::RobocasaGroot => SimulatorKind::Robocasa,
            Self::SimplerGroot => SimulatorKind::Simpler,
        }
    }

    /// Trials of each task.
    pub fn trials(self) -> u32 {
        match self {
            Self::LiberoOpenpi => 50,
            // The READMEs' examples.
            Self::LiberoGroot | Self::RobocasaGroot => 10,
            // What its published rates are of.
            Self::SimplerGroot => 200,
        }
    }

    /// Its settings in a suite.
    pub fn settings(self, suite: &str) -> EvalSettings {
        match self {
            Self::LiberoOpenpi => EvalSettings::Libero(Settings::openpi()),
            Self::LiberoGroot => EvalSettings::Libero(Settings::groot()),
            Self::RobocasaGroot => EvalSettings::Gym(GymSettings::groot(suite, (256, 256), 8, 720)),
            Self::SimplerGroot => {
                let width = if suite == "google_robot" { 320 } else { 256 };
                EvalSettings::Gym(GymSettings::groot(suite, (256, width), 1, 300))
            }
        }
    }
}

impl Settings {
    /// LIBERO as openpi's evaluation sets it up.
    pub fn openpi() -> Self {
        Self {
            render: 256,
            resize: 224,
            flip: Flip::Rotate180,
            initial_states: InitialStates::Fixed,
            settle_steps: 10,
            controller: "OSC_POSE".into(),
            gripper: Gripper::AsIs,
            seed: 7,
            sensors: true,
            rebuild: true,
            mesh_cell_mm: 0,
            samples: mujoco_samples(),
            arm_noise: false,
            replan: 5,
            // The longest demonstration of each suite and a little more.
            max_steps: steps([220, 280, 300, 520, 400]),
        }
    }

    /// LIBERO as GR00T's evaluation sets it up.
    pub fn groot() -> Self {
        Self {
            resize: 0,
            initial_states: InitialStates::Random,
            settle_steps: 0,
            gripper: Gripper::Groot,
            replan: 8,
            max_steps: steps([720; 5]),
            ..Self::openpi()
        }
    }
}

impl GymSettings {
    /// As GR00T's evaluation has it, but for a seed, which that does without.
    fn groot(suite: &str, (height, width): (u32, u32), replan: usize, max_steps: u32) -> Self {
        Self {
            suite: suite.into(),
            height,
            width,
            initial_states: InitialStates::Random,
            settle_steps: 0,
            seed: 0,
            replan,
            max_steps,
        }
    }
}

fn steps(steps: Steps) -> Vec<(String, u32)> {
    LIBERO.iter().zip(steps).map(|((suite, _), steps)| ((*suite).into(), steps)).collect()
}
