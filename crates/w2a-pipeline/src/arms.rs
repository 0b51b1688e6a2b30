//! The rows of the table: which arms there are, what each is trained on, and how each acts.

use w2a_posttrain::{Decoding, Objective, ObjectiveConfig, PosttrainConfig, interpolate};

use crate::context::{Context, load_json, model};
use crate::policy::{BASE, Base, CEILING, at_pace, base, net};
use crate::stage2::{Actor, Bend, Shared, Stage2, gain_path};
use crate::world::Imaginer;
use crate::{Config, PipelineError};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arm {
    Base,
    BaseExtra,
    BaseDecoded,
    Dreamgen,
    Regression,
    Infonce,
    BaseWorld,
    World2Act,
    Shuffled,
    Oracle,
    WideLabels,
}

/// What a residual arm is pulled towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetKind {
    /// Imagined latents of the same scene.
    Imagined,
    /// The same of the model that imagines without skills.
    ImaginedWithoutSkills,
    /// Imagined latents of another scene of the same task.
    Shuffled,
    /// Latents of real expert video of the same scene.
    Expert,
}

impl Arm {
    pub const ALL: [Self; 11] = [
        Self::Base,
        Self::BaseExtra,
        Self::BaseDecoded,
        Self::Dreamgen,
        Self::Regression,
        Self::Infonce,
        Self::BaseWorld,
        Self::World2Act,
        Self::Shuffled,
        Self::Oracle,
        Self::WideLabels,
    ];

    /// Those that go on training the base policy's own weights.
    pub const TRAIN_THE_BASE: [Self; 2] = [Self::BaseExtra, Self::Dreamgen];

    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::BaseExtra => "base_extra",
            Self::BaseDecoded => "base_decoded",
            Self::Dreamgen => "dreamgen",
            Self::Regression => "regression",
            Self::Infonce => "w2a_infonce",
            Self::BaseWorld => "w2a_base_wm",
            Self::World2Act => "w2a",
            Self::Shuffled => "w2a_shuffled",
            Self::Oracle => "w2a_oracle",
            Self::WideLabels => "base_wide_labels",
        }
    }

    /// The arms of a run, in the order of [`Self::ALL`].
    pub fn taking_part(config: &Config) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|arm| arm.takes_part(config))
    }

    /// Whether a run has this arm.
    pub fn takes_part(self, config: &Config) -> bool {
        config.posttrain.methods.iter().any(|name| name == self.name())
    }

    /// Whether it needs actions that an inverse dynamics model reads off imagined video.
    pub fn needs_labels(self) -> bool {
        matches!(self, Self::Dreamgen | Self::Regression)
    }

    /// Whose imagination it is pulled towards, or compared with.
    pub fn imaginer(self) -> Imaginer {
        if self == Self::BaseWorld { Imaginer::WithoutSkills } else { Imaginer::Main }
    }

    /// How many times it is trained.
    pub fn seeds(self, config: &Config) -> usize {
        match self {
            Self::Base | Self::BaseDecoded | Self::WideLabels => 1,
            Self::Shuffled | Self::Oracle => config.posttrain.control_seeds,
            _ => config.posttrain.seeds,
        }
    }

    /// Stage 2 and target of an arm that has it; `None` for the others. Whatever the form, these are called residual arms.
    pub fn residual(self, config: &Config) -> Option<(PosttrainConfig, TargetKind)> {
        let ours = &config.posttrain.stage2.objective;
        let named = |objective: Objective| ObjectiveConfig { step_penalty: ours.step_penalty, ..objective.config() };
        let (objective, target) = match self {
            Self::Regression => (named(Objective::Regression), TargetKind::Imagined),
            Self::Infonce => (named(Objective::Infonce), TargetKind::Imagined),
            Self::World2Act => (ours.clone(), TargetKind::Imagined),
            Self::BaseWorld => (ours.clone(), TargetKind::ImaginedWithoutSkills),
            Self::Shuffled => (ours.clone(), TargetKind::Shuffled),
            Self::Oracle => (ours.clone(), TargetKind::Expert),
            _ => return None,
        };
        Some((PosttrainConfig { objective, ..config.posttrain.stage2.clone() }, target))
    }

    /// Whether there is something to train.
    pub fn is_trained(self, config: &Config) -> bool {
        self.residual(config).is_some() || Self::TRAIN_THE_BASE.contains(&self)
    }

    /// Where a seed's training lives.
    pub fn folder(self, seed: usize) -> String {
        format!("posttrain/{}/seed{seed}", self.name())
    }

    /// What acts in this arm, at a scale if it was trained.
    pub fn actor<'a>(
        self,
        context: &Context,
        shared: &'a Shared,
        seed: usize,
        gain: f32,
    ) -> Result<Actor<'a>, PipelineError> {
        let adapters = &shared.adapters;
        if let Some((config, _)) = self.residual(&context.config) {
            let name = self.folder(seed);
            return Stage2 { name: &name, config: &config, adapters }.actor(context, shared, gain);
        }
        let load = |name: &str| net(context, name, &shared.set);
        let mini = |net| at_pace(context, Base::mini(context, net, &shared.set));
        let policy = match self {
            Self::WideLabels => mini(load(CEILING)?),
            Self::BaseExtra | Self::Dreamgen => {
                mini(model(interpolate(&load(BASE)?, &load(&self.folder(seed))?, gain))?)
            }
            _ => base(context, &shared.set)?,
        };
        let bend =
            (self == Self::BaseDecoded).then_some(Bend { adapters, residual: None, gain, decoding: Decoding::Plain });
        Ok(Actor { policy, bend })
    }

    /// The chosen scale; 1 for arms that have none.
    pub fn gain(self, context: &Context, seed: usize) -> Result<f32, PipelineError> {
        if !self.is_trained(&context.config) {
            return Ok(1.0);
        }
        let choice: w2a_posttrain::GainChoice = load_json(&gain_path(context, &self.folder(seed)), "posttrain")?;
        Ok(choice.gain)
    }
}
