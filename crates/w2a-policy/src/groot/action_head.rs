//! The action head: features of the backbone and the state to a chunk of normalised actions, by flow matching (reference:
//! `Gr00tN1d6ActionHead` in `gr00t_n1d6.py`).

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Deserialize;
use w2a_nn::{Linear, NnError, tensor};

use super::backbone::Features;
use super::category::{ActionEncoder, CategoryMlp, Embodiments, Rows};
use super::dit::{Context, Dit, DitConfig, Moment};
use super::layers::{Norm, Tap};
use super::source::Weights;
use super::wrong;

/// Sizes and settings, with the names of a checkpoint's `config.json`. Those without a default have to be there: the
/// reference's own defaults are not those of the released weights.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HeadConfig {
    /// Width between the layers that are an embodiment's own.
    pub hidden_size: usize,
    /// Width of a token.
    pub input_embedding_dim: usize,
    /// Learned positions of action tokens.
    pub max_seq_len: usize,
    /// Width of the backbone's features.
    pub backbone_embedding_dim: usize,
    /// Width of the state, padding included.
    pub max_state_dim: usize,
    /// Width of an action, padding included.
    pub max_action_dim: usize,
    /// Steps of an action, padding included.
    pub action_horizon: usize,
    /// Euler steps.
    pub num_inference_timesteps: usize,
    /// Into how many buckets time is divided.
    pub num_timestep_buckets: usize,
    /// Embodiments that have weights.
    pub max_num_embodiments: usize,
    /// Whether action tokens have learned positions.
    #[serde(default = "yes")]
    pub add_pos_embed: bool,
    /// Whether features are normalised first.
    #[serde(default = "yes")]
    pub use_vlln: bool,
    /// Whether blocks attend to text and images in turn.
    #[serde(default = "yes")]
    pub use_alternate_vl_dit: bool,
    /// Of how many blocks that attend to the backbone one attends to text.
    #[serde(default = "two")]
    pub attend_text_every_n_blocks: usize,
    /// Share of samples whose state is hidden in a training.
    #[serde(default)]
    pub state_dropout_prob: f32,
    /// Standard deviation of the noise on the state's features in a training.
    #[serde(default)]
    pub state_additive_noise_scale: f32,
    /// First parameter of the distribution of times in a training.
    pub noise_beta_alpha: f64,
    /// Second parameter of it.
    pub noise_beta_beta: f64,
    /// Times go from 0 to this.
    pub noise_s: f64,
    /// The transformer.
    pub diffusion_model_cfg: DitConfig,
}

fn yes() -> bool {
    true
}

fn two() -> usize {
    2
}

impl HeadConfig {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// The first rule that does not hold, with the numbers.
    pub fn validate(&self) -> Result<(), NnError> {
        let dit = &self.diffusion_model_cfg;
        dit.validate()?;
        let sizes = [
            self.hidden_size,
            self.input_embedding_dim,
            self.backbone_embedding_dim,
            self.max_state_dim,
            self.max_action_dim,
            self.action_horizon,
            self.num_inference_timesteps,
            self.num_timestep_buckets,
            self.max_num_embodiments,
            self.attend_text_every_n_blocks,
        ];
        let rules = [
            (sizes.iter().all(|size| (1..=1 << 20).contains(size)), "sizes from 1 to 1048576"),
            (dit.width() == self.input_embedding_dim, "input_embedding_dim = heads x head_dim of diffusion_model_cfg"),
            (dit.output_dim == self.hidden_size, "hidden_size = output_dim of diffusion_model_cfg"),
            (self.input_embedding_dim.is_multiple_of(2), "an even input_embedding_dim"),
            (!self.add_pos_embed || self.max_seq_len >= self.action_horizon, "max_seq_len of at least action_horizon"),
            (self.num_inference_timesteps <= self.num_timestep_buckets, "at most as many Euler steps as time buckets"),
            (!self.use_alternate_vl_dit || dit.interleave_self_attention, "interleave_self_attention"),
            (
                self.noise_beta_alpha > 0.0 && self.noise_beta_beta > 0.0,
                "positive noise_beta_alpha and noise_beta_beta",
            ),
            ((0.0..=1.0).contains(&self.noise_s), "noise_s from 0 to 1"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, rule)) => Err(wrong("action head of config.json", *rule, format!("{self:?}"))),
        }
    }

    /// The bucket of Euler step `step`.
    fn bucket(&self, step: usize) -> usize {
        let share = step as f64 / self.num_inference_timesteps as f64;
        (share * self.num_timestep_buckets as f64) as usize
    }
}

/// What [`ActionHead::loss`] is computed from, besides the observation.
#[derive(Clone, Debug)]
pub struct FlowTarget {
    /// Normalised actions `[batch, steps, action]`.
    pub action: Tensor<3>,
    /// 1 where an action is real, 0 where it is padding, of the same shape.
    pub mask: Tensor<3>,
    /// Standard normal values of the same shape.
    pub noise: Tensor<3>,
    /// One time for each sample, from 0 (noise) to 1 (action).
    pub times: Vec<f32>,
}

/// The head's parameters.
#[derive(Module, Debug)]
pub struct ActionHead {
    vlln: Option<Norm>,
    /// `[max_seq_len, width]`.
    position_embedding: Option<Param<Tensor<2>>>,
    /// `[1, 1, width]`: what a training puts in the place of a hidden state.
    mask_token: Option<Param<Tensor<3>>>,
    state_encoder: CategoryMlp,
    action_encoder: ActionEncoder,
    action_decoder: CategoryMlp,
    model: Dit,
}

/// What is computed once per checkpoint: the Euler steps' times.
#[derive(Clone, Debug)]
pub struct Schedule {
    moments: Vec<(Moment, Tensor<3>)>,
}

impl ActionHead {
    /// Reads the weights of one embodiment or of all.
    ///
    /// # Errors
    /// A configuration that this program does not have, an embodiment beyond the last, or weights that do not fit.
    pub fn load(weights: &Weights, config: &HeadConfig, which: Embodiments) -> Result<Self, NnError> {
        config.validate()?;
        if let Embodiments::One(id) = which
            && id >= config.max_num_embodiments
        {
            let expected = format!("below max_num_embodiments = {}", config.max_num_embodiments);
            return Err(wrong("number of the embodiment in embodiment_id.json", expected, id.to_string()));
        }
        let (width, hidden) = (config.input_embedding_dim, config.hidden_size);
        let which = (which, config.max_num_embodiments);
        let mlp = |part: &str, sizes| CategoryMlp::load(weights, &format!("action_head.{part}"), sizes, which);
        let position = || weights.param("action_head.position_embedding.weight", [config.max_seq_len, width]);
        let norm = || Norm::load(weights, "action_head.vlln", config.backbone_embedding_dim, 1e-5);
        let has_token = config.state_dropout_prob > 0.0 && weights.shape("action_head.mask_token").is_some();
        let token = || weights.param("action_head.mask_token", [1, 1, width]);
        let period = if config.use_alternate_vl_dit { 2 * config.attend_text_every_n_blocks } else { 0 };
        let encoder = [config.max_action_dim, width];
        Ok(Self {
            vlln: config.use_vlln.then(norm).transpose()?,
            position_embedding: config.add_pos_embed.then(position).transpose()?,
            mask_token: has_token.then(token).transpose()?,
            state_encoder: mlp("state_encoder", [config.max_state_dim, hidden, width])?,
            action_encoder: ActionEncoder::load(weights, "action_head.action_encoder", encoder, which)?,
            action_decoder: mlp("action_decoder", [hidden, hidden, config.max_action_dim])?,
            model: Dit::load(weights, &config.diffusion_model_cfg, period, config.backbone_embedding_dim)?,
        })
    }

    /// Every linear layer of the transformer with its name in the checkpoint, below `action_head.model.`.
    pub fn linear_layers(&mut self) -> Vec<(String, &mut Linear)> {
        self.model.linear_layers()
    }

    fn device(&self) -> Device {
        self.model.device()
    }

    /// The backbone's features after the head's own norm.
    pub fn normalised(&self, mut features: Features) -> Features {
        if let Some(norm) = &self.vlln {
            features.values = norm.forward(features.values);
        }
        features
    }

    /// What depends on normalised features alone: computed once per observation.
    pub fn context(&self, features: &Features) -> Context {
        self.model.context(features)
    }

    /// States `[batch, 1, state]` → tokens `[batch, 1, width]`.
    pub fn state_tokens(&self, states: Tensor<3>, rows: &Rows) -> Tensor<3> {
        self.state_encoder.forward(states, rows)
    }

    /// The times of the Euler steps.
    pub fn schedule(&self, config: &HeadConfig) -> Schedule {
        let moments = (0..config.num_inference_timesteps).map(|step| {
            let bucket = [config.bucket(step)];
            (self.model.moment(&bucket), time_features(&bucket, config.input_embedding_dim, &self.device()))
        });
        Schedule { moments: moments.collect() }
    }

    /// Where `actions` `[batch, steps, action]` should go: velocities of the same shape.
    fn velocity(
        &self,
        actions: Tensor<3>,
        state: Tensor<3>,
        (moment, times): (&Moment, &Tensor<3>),
        context: &Context,
        rows: &Rows,
        tap: Tap,
    ) -> Tensor<3> {
        let steps = actions.dims()[1];
        let mut tokens = self.action_encoder.forward(actions, times.clone(), rows);
        tap("action_encoder", 0, &tokens);
        if let Some(positions) = &self.position_embedding {
            tokens = tokens + positions.val().narrow(0, 0, steps).unsqueeze();
        }
        let out = self.model.forward(Tensor::cat(vec![state, tokens], 1), moment, context, tap);
        let decoded = self.action_decoder.forward(out, rows);
        let all = decoded.dims()[1];
        decoded.narrow(1, all - steps, steps)
    }

    /// Noise `[batch, steps, action]` to normalised actions of the same shape, in equal steps of Euler's method. `tap` gets
    /// what is inside of every step: `x`, `temb`, `velocity`, and what the transformer's tap gets, with the number of the
    /// step before the layer's as `step * 1000 + layer`.
    pub fn denoise(
        &self,
        noise: Tensor<3>,
        state: Tensor<3>,
        schedule: &Schedule,
        context: &Context,
        rows: &Rows,
        tap: Tap,
    ) -> Tensor<3> {
        let mut x = noise;
        let share = 1.0 / schedule.moments.len() as f32;
        for (step, (moment, times)) in schedule.moments.iter().enumerate() {
            let first = step * STEP;
            tap("x", first, &x);
            tap("temb", first, &moment.temb.clone().unsqueeze());
            let mut inner = |name: &'static str, layer: usize, value: &Tensor<3>| tap(name, first + layer, value);
            let velocity = self.velocity(x.clone(), state.clone(), (moment, times), context, rows, &mut inner);
            tap("velocity", first, &velocity);
            x = x + velocity * share;
        }
        x
    }

    /// The flow-matching loss, and its parts before the mean `[batch, steps, action]`. `hidden` marks the samples whose state
    /// is replaced by the learned token.
    ///
    /// # Errors
    /// As many times as samples are needed, and a learned token if any state is hidden.
    pub fn loss(
        &self,
        state: Tensor<3>,
        target: &FlowTarget,
        context: &Context,
        rows: &Rows,
        config: &HeadConfig,
    ) -> Result<(Tensor<1>, Tensor<3>), NnError> {
        let [batch, _, _] = target.action.dims();
        let device = target.action.device();
        if target.times.len() != batch {
            return Err(wrong("times of a training batch", format!("{batch}"), target.times.len().to_string()));
        }
        let buckets: Vec<usize> = target.times.iter().map(|time| bucket_of(*time, config)).collect();
        let moment = self.model.moment(&buckets);
        let features = time_features(&buckets, config.input_embedding_dim, &device);
        let time: Tensor<3> = tensor(target.times.clone(), [batch, 1, 1], &device);
        let noisy = target.noise.clone() * (-time.clone() + 1.0) + target.action.clone() * time;
        let wanted = target.action.clone() - target.noise.clone();
        let nothing = &mut |_: &'static str, _: usize, _: &Tensor<3>| ();
        let got = self.velocity(noisy, state, (&moment, &features), context, rows, nothing);
        let parts = (got - wanted).square() * target.mask.clone();
        let loss = parts.clone().sum() / (target.mask.clone().sum() + 1e-6);
        Ok((loss, parts))
    }
}

/// Distance between the layer numbers of two Euler steps in a [`Tap`].
pub(super) const STEP: usize = 1000;

/// The bucket of a time from 0 to 1.
pub(super) fn bucket_of(time: f32, config: &HeadConfig) -> usize {
    (time * config.num_timestep_buckets as f32) as usize
}

/// The loaded rows for samples of these embodiments, where all are loaded.
pub(super) fn rows_of(embodiments: &[usize], device: &Device) -> Rows {
    let index = embodiments.iter().map(|id| *id as i64).collect::<Vec<i64>>();
    Rows::Each(Box::new(Tensor::<1, Int>::from_data(TensorData::new(index, [embodiments.len()]), device)))
}

/// Sinusoidal features of buckets, sines before cosines: `[times, 1, width]`.
fn time_features(buckets: &[usize], width: usize, device: &Device) -> Tensor<3> {
    let half = width / 2;
    let mut out = Vec::with_capacity(buckets.len() * width);
    for bucket in buckets {
        let angle = |index: usize| {
            let exponent = -(index as f32) * (10_000.0_f64.ln() / half as f64) as f32;
            *bucket as f32 * exponent.exp()
        };
        out.extend((0..half).map(|index| angle(index).sin()));
        out.extend((0..half).map(|index| angle(index).cos()));
    }
    tensor(out, [buckets.len(), 1, width], device)
}
