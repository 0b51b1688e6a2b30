//! Any policy, bent by a residual of stage 2.

use std::path::Path;

use burn::tensor::Device;
use w2a_align::FrozenAdapters;
use w2a_data::{Normaliser, Observation};
use w2a_nn::NnError;
use w2a_policy::Policy;
use w2a_posttrain::{Controller, Decoding, Form, Residual, ResidualControl};
use w2a_serve::BoxedPolicy;
use w2a_world::WorldModel;

use crate::PipelineError;
use crate::arms::Arm;
use crate::context::Context;
use crate::stage2::{Shared, Stage2};

/// A trained residual with everything that it needs.
#[derive(Clone)]
pub(super) struct Bend {
    residual: Residual,
    adapters: FrozenAdapters,
    action: Normaliser,
    proprio: Normaliser,
    gain: f32,
    decoding: Decoding,
    chunk_len: usize,
    device: Device,
}

impl Bend {
    /// Loads the residual in `folder`, which lies in its run, at the scale that was chosen for it.
    pub fn load(folder: &Path) -> Result<Self, PipelineError> {
        let refused = |expected: &str, got: String| PipelineError::Config {
            key: "--residual".into(),
            expected: expected.into(),
            got,
        };
        let place = "the folder of a residual in its run, such as runs/demo/posttrain/w2a/seed0";
        let real = fs_err::canonicalize(folder).map_err(|error| refused(place, error.to_string()))?;
        let run = real.ancestors().find(|folder| folder.join("config.toml").exists());
        let run = run.ok_or_else(|| refused(place, format!("{}, in no run", folder.display())))?;
        let context = Context::existing(run)?;
        let name = real.strip_prefix(run).unwrap_or(&real).to_string_lossy().into_owned();
        let trained = Arm::taking_part(&context.config)
            .flat_map(|arm| (0..arm.seeds(&context.config)).map(move |seed| (arm, seed)))
            .find(|(arm, seed)| arm.folder(*seed) == name);
        let found = trained.and_then(|(arm, seed)| Some((arm, seed, arm.residual(&context.config)?.0)));
        let Some((arm, seed, config)) = found else {
            return Err(refused(place, format!("{name:?} in {}", run.display())));
        };
        if config.form == Form::Lora {
            return Err(refused("a residual", format!("{name}, which is LoRA in the policy's own weights")));
        }
        let shared = Shared::load(&context)?;
        let stage2 = Stage2 { name: &name, config: &config, adapters: &shared.adapters };
        if !stage2.is_trained(&context)? {
            return Err(refused("a training that is done", format!("{name}; finish it with posttrain --resume")));
        }
        let residual = stage2.residual(&context, &shared)?;
        let gain = arm.gain(&context, seed)?;
        let chunk_len = shared.world.chunk_len();
        Ok(Self {
            residual,
            gain,
            decoding: config.decoding,
            chunk_len,
            adapters: shared.adapters,
            action: shared.set.action,
            proprio: shared.set.proprio,
            device: context.device,
        })
    }

    /// Actions per chunk around a policy with chunks of `horizon`: the residual bends one chunk of the world model.
    pub fn chunk_len(&self, horizon: usize) -> Result<usize, PipelineError> {
        if horizon >= self.chunk_len {
            return Ok(self.chunk_len);
        }
        Err(PipelineError::Config {
            key: "--policy".into(),
            expected: format!("chunks of at least {} actions for this residual", self.chunk_len),
            got: horizon.to_string(),
        })
    }

    /// The policy with this residual on top.
    pub fn around(self, policy: BoxedPolicy) -> Bent {
        Bent { policy, bend: self }
    }
}

/// A policy whose chunks are bent; as long as a chunk of the world model.
pub(super) struct Bent {
    policy: BoxedPolicy,
    bend: Bend,
}

impl Policy for Bent {
    fn horizon(&self) -> usize {
        self.bend.chunk_len
    }

    fn action_dim(&self) -> usize {
        self.policy.action_dim()
    }

    fn act(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Vec<f32>, NnError> {
        let Bend { residual, adapters, action, proprio, gain, decoding, chunk_len, device } = &self.bend;
        let mut control = ResidualControl {
            policy: self.policy.as_mut(),
            adapters,
            residual: Some(residual),
            action,
            proprio,
            gain: *gain,
            decoding: *decoding,
            chunk_len: *chunk_len,
            device: device.clone(),
        };
        Ok(control.decide(observations, instructions)?.actions)
    }

    fn reset(&mut self) {
        self.policy.reset();
    }
}
