//! A residual of stage 2 on top of any policy.

use std::path::Path;

use w2a_data::Observation;
use w2a_nn::NnError;
use w2a_posttrain::{Bender, BenderConfig, Form, PosttrainConfig, Residual};
use w2a_serve::{Bend, Place};

use crate::PipelineError;
use crate::arms::Arm;
use crate::context::Context;
use crate::learn::Origin;
use crate::stage2::{Shared, Stage2};

/// A trained residual of a run, and the scale that was chosen for it.
pub(crate) struct Chosen {
    pub residual: Residual,
    pub config: PosttrainConfig,
    pub gain: f32,
}

const PLACE: &str = "the folder of a residual in its run, such as runs/demo/posttrain/w2a/seed0";

fn refused(expected: &str, got: String) -> PipelineError {
    PipelineError::Config { key: "--residual".into(), expected: expected.into(), got }
}

impl Chosen {
    /// The residual in `folder`: that of a training, which lies in its run, or an update of a server that learns.
    pub fn open(folder: &Path) -> Result<(Context, Shared, Self), PipelineError> {
        let real = fs_err::canonicalize(folder).map_err(|error| refused(PLACE, error.to_string()))?;
        let learnt = real.parent().and_then(Path::parent).map(Origin::read).transpose()?.flatten();
        if let Some(origin) = learnt {
            let context = Context::existing(&origin.run)?;
            let shared = Shared::load(&context)?;
            let residual = origin.residual(&context, &shared, &real)?;
            return Ok((context, shared, Self { residual, config: origin.stage2, gain: origin.gain }));
        }
        let run = real.ancestors().find(|folder| folder.join("config.toml").exists());
        let run = run.ok_or_else(|| refused(PLACE, format!("{}, in no run", folder.display())))?;
        let name = real.strip_prefix(run).unwrap_or(&real).to_string_lossy().into_owned();
        let context = Context::existing(run)?;
        let shared = Shared::load(&context)?;
        let chosen = Self::load(&context, &shared, &name)?;
        Ok((context, shared, chosen))
    }

    /// The residual that the run has under this name.
    fn load(context: &Context, shared: &Shared, name: &str) -> Result<Self, PipelineError> {
        let trained = Arm::taking_part(&context.config)
            .flat_map(|arm| (0..arm.seeds(&context.config)).map(move |seed| (arm, seed)))
            .find(|(arm, seed)| arm.folder(*seed) == name);
        let found = trained.and_then(|(arm, seed)| Some((arm, seed, arm.residual(&context.config)?.0)));
        let Some((arm, seed, config)) = found else {
            return Err(refused(PLACE, format!("{name:?} in {}", context.out.display())));
        };
        if config.form == Form::Lora {
            return Err(refused("a residual", format!("{name}, which is LoRA in the policy's own weights")));
        }
        let stage2 = Stage2 { name, config: &config, adapters: &shared.adapters };
        if !stage2.is_trained(context)? {
            return Err(refused("a training that is done", format!("{name}; finish it with posttrain --resume")));
        }
        Ok(Self { residual: stage2.residual(context, shared)?, gain: arm.gain(context, seed)?, config })
    }
}

/// What a residual of this run needs to bend chunks.
pub(crate) fn bender_config(context: &Context, shared: &Shared, config: &PosttrainConfig, gain: f32) -> BenderConfig {
    BenderConfig {
        adapters: shared.adapters.clone(),
        action: shared.set.action.clone(),
        proprio: shared.set.proprio.clone(),
        gain,
        decoding: config.decoding,
        size: context.config.grid(),
        device: context.device.clone(),
    }
}

/// A residual that stays as it is.
pub(super) struct Bent {
    bender: Bender,
    chunk_len: usize,
    chunk: usize,
}

impl Bent {
    /// A residual of [`Chosen::open`].
    pub fn new(context: &Context, shared: &Shared, chosen: &Chosen) -> Self {
        let bender = Bender::new(bender_config(context, shared, &chosen.config, chosen.gain), &chosen.residual);
        Self { bender, chunk_len: shared.world.chunk_len(), chunk: shared.adapters.chunk() }
    }
}

impl Bend for Bent {
    fn horizon(&self) -> usize {
        self.chunk_len
    }

    fn bend(
        &self,
        _places: &[Place],
        observations: &[Observation],
        _instructions: &[String],
        base: &[f32],
    ) -> Result<Vec<f32>, NnError> {
        Ok(self.bender.bend(observations, beginnings(base, observations.len(), self.chunk))?.actions)
    }
}

/// The first `chunk` values of each of `rows` chunks.
pub(crate) fn beginnings(base: &[f32], rows: usize, chunk: usize) -> Vec<f32> {
    let wide = base.len() / rows.max(1);
    base.chunks_exact(wide.max(1)).flat_map(|row| row.iter().take(chunk)).copied().collect()
}

/// Refuses policies whose chunks are shorter than those that a residual bends: one of the world model.
pub(super) fn check_horizon(horizon: usize, chunk_len: usize) -> Result<(), PipelineError> {
    if horizon >= chunk_len {
        return Ok(());
    }
    Err(PipelineError::Config {
        key: "--policy".into(),
        expected: format!("chunks of at least {chunk_len} actions for this residual"),
        got: horizon.to_string(),
    })
}
