//! What `world finetune` does: trains the DiT of Cosmos-Predict2 on demonstrations, in full or through LoRA, by its own loss.
//!
//! Videos are encoded and prompts embedded once. An update then sees latents and embeddings only, one clip after the other, so
//! that memory does not depend on the batch.

mod budget;
mod corpus;
mod export;
mod footage;
mod samples;
mod trained;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use w2a_nn::{
    AdamWConfig, Checkpoint, Init, NamedGradients, NnError, TrainConfig, Training, named_gradients, train_by_gradients,
};
use w2a_posttrain::{Lora, LoraConfig};
use w2a_world::cosmos::memory::{MemoryPlan, Trained};
use w2a_world::cosmos::{
    Activations, Cosmos, CosmosConfig, Differentiated, Dit, DitConfig, DitWeights, FlowLoss, NoisyClip,
};
use w2a_world::{Layout, Rig, WorldModel};

use crate::PipelineError;
use crate::context::model;
use crate::imagine::embed_missing;
use crate::tuning::{Method, TrainingLog, as_input, check_training, config_error};
use corpus::{Corpus, Cut};
use footage::Footage;
use samples::Samples;
use trained::Trainable;

/// Name of the training, in logs and random streams.
const NAME: &str = "world/finetune";

/// What to fine-tune, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct WorldFinetuneRequest {
    /// Folder of the checkpoint.
    pub path: PathBuf,
    /// Its settings.
    pub config: CosmosConfig,
    /// Demonstrations with video, a LeRobot dataset (such as one of `world2act skills`) or HDF5 files; or a folder of videos with
    /// `metadata.csv`.
    pub data: PathBuf,
    /// How several cameras become one picture.
    pub layout: Layout,
    /// Name the views of this rig in every prompt.
    pub rig: Option<Rig>,
    /// Folder for the model, the log, samples and checkpoints of the training.
    pub out: PathBuf,
    /// Folder of encoded clips, to be shared with other trainings; `latents` in `out` without one.
    pub cache: Option<PathBuf>,
    /// Whether `out` holds this training already, which is then continued.
    pub resume: bool,
    /// What is trained.
    pub method: Method,
    /// What happens to activations.
    pub activations: Activations,
    /// The loss.
    pub loss: FlowLoss,
    /// Updates.
    pub steps: usize,
    /// Clips an update.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f32,
    /// Updates of linear warm-up.
    pub warmup: usize,
    /// Decay of the moving average of what is trained, which is what comes out; 0 for none.
    pub ema: f32,
    /// Imagine after so many updates each; 0 for never.
    pub sample_every: usize,
    /// Clips of a sample.
    pub samples: usize,
    /// Whether the model is written as bf16, not f32.
    pub is_half: bool,
    /// Bytes of memory to stay within; those of the machine without a number.
    pub memory: Option<u64>,
    /// Seed of the adapters, the order of clips, the noise and its levels.
    pub seed: u64,
    /// Name of the device.
    pub device: String,
}

/// Trains, or continues a training, and says where the model is. `announce` is told what memory is needed before anything is
/// computed.
///
/// # Errors
/// A checkpoint or demonstrations that cannot be read, a folder that exists without `resume`, too little memory, a training that
/// diverges.
pub fn world_finetune(request: &WorldFinetuneRequest, announce: &mut dyn FnMut(&str)) -> Result<String, PipelineError> {
    check_training(&request.out, request.resume, [request.steps, request.batch], request.lr)?;
    if !(0.0..1.0).contains(&request.ema) {
        return Err(config_error("--ema", "a decay from 0 to below 1".into(), request.ema.to_string()));
    }
    model(request.loss.validate())?;
    let device = w2a_nn::device(&request.device)?;
    let open = || model(Cosmos::open(&request.path, request.config.clone(), &device));
    let world = open()?;
    let footage = Footage::open(&request.data)?;
    let plan = memory_plan(request, &world)?;
    // Of a graphics card's memory the machine's says nothing.
    if request.device == "cpu" || request.memory.is_some() {
        budget::check(&plan, request.memory, announce)?;
    }
    let cache = request.cache.clone().unwrap_or_else(|| request.out.join("latents"));
    let corpus = Corpus::prepare(&footage, &world, Cut { layout: request.layout, rig: request.rig }, &cache)?;
    let mut prompts = corpus.prompts();
    if !request.config.negative_prompt.is_empty() {
        prompts.push(request.config.negative_prompt.clone());
    }
    embed_missing(world.folder(), world.prompts(), &prompts)?;
    // The autoencoder goes; what is left of it are latents.
    let base = model(world.identify())?;
    drop(world);
    let world = open()?;

    let mut dit = model(world.read_dit(|_, _| {}))?;
    let log = TrainingLog::open(NAME, &request.out, request.resume, Checkpoint::new(&request.out).step()?)?;
    let samples = Samples { corpus: &corpus, open: &open, dir: request.out.join("samples"), count: request.samples };
    let setup = Setup { request, world: &world, samples: &samples, device: &device, base: &base.digest };
    let (tuned, last) = match &request.method {
        Method::Full => {
            let weights = DitWeights::take(&mut dit)?;
            let (weights, last) = setup.run(weights, &dit, log)?;
            (model(weights.attach(&dit, false))?, last)
        }
        Method::Lora(config) => {
            let layers = dit.adaptable();
            let autodiff = device.clone().autodiff();
            let mut stream = w2a_data::stream(request.seed, &format!("init/{NAME}"));
            let mut init = Init { rng: &mut stream, device: &autodiff };
            let lora = Lora::of_layers(config, layers.iter().map(|(name, size)| (name.as_str(), *size)), &mut init)?;
            let (lora, last) = setup.run(lora, &dit, log)?;
            lora.save_peft(&request.out.join("adapter"))?;
            (model(Trainable::attach(&lora, &dit, false))?, last)
        }
    };
    if request.sample_every > 0 {
        samples.take(&tuned, request.steps)?;
    }
    let to = request.out.join("model");
    export::export(&tuned, &world, &prompts, request.is_half, &to)?;
    Ok(format!(
        "{}: {} of {} clips, {} trained parameters, {} steps; {last}\n",
        to.display(),
        if request.method == Method::Full { "fine-tuned in full" } else { "LoRA, merged" },
        corpus.clips.len(),
        plan.trained_values(),
        request.steps
    ))
}

/// Writes a tiny checkpoint of random weights in the layout of the real one to `dir`, and says what it is for.
///
/// # Errors
/// A folder that exists, or a disk that fails.
pub fn write_tiny_world(dir: &Path, seed: u64) -> Result<String, PipelineError> {
    if dir.exists() {
        return Err(config_error("DIR", "a folder that does not exist yet".into(), dir.display().to_string()));
    }
    model(w2a_world::cosmos::tiny::write(dir, seed))?;
    Ok(format!("{}: random weights in the layout of Cosmos-Predict2, for trying the tools\n", dir.display()))
}

fn memory_plan(request: &WorldFinetuneRequest, world: &Cosmos) -> Result<MemoryPlan, PipelineError> {
    let (tensors, options) = model(world.dit_tensors())?;
    let shape = world.latent_shape();
    Ok(MemoryPlan {
        dit: model(DitConfig::of(&tensors, options))?,
        weights: tensors.totals(),
        trained: match &request.method {
            Method::Full => Trained::Full,
            Method::Lora(config) => Trained::Lora { rank: config.rank },
        },
        activations: request.activations,
        averages: request.ema > 0.0,
        latents: [request.config.latent_frames, shape.height, shape.width],
    })
}

/// What every kind of training needs.
struct Setup<'a> {
    request: &'a WorldFinetuneRequest,
    world: &'a Cosmos,
    samples: &'a Samples<'a>,
    device: &'a Device,
    /// Digest of the model that training begins with.
    base: &'a str,
}

impl Setup<'_> {
    /// Trains `parameters` of `dit` and gives them with words on the last loss.
    fn run<M: Trainable>(&self, parameters: M, dit: &Dit, log: TrainingLog) -> Result<(M, String), PipelineError> {
        let Self { request, samples, .. } = self;
        let config = TrainConfig {
            steps: request.steps,
            batch: request.batch,
            lr: request.lr,
            warmup: request.warmup,
            ema: request.ema,
            checkpoint_every: (request.steps / 10).max(1),
            // Those of the authors' `fusedadamw`, and their clipping.
            adamw: AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, clip_norm: 1.0 },
            ..TrainConfig::default()
        };
        let method = match &request.method {
            Method::Full => json!("full"),
            Method::Lora(LoraConfig { rank, alpha }) => json!({ "rank": rank, "alpha": alpha }),
        };
        let depends =
            json!({ "base": self.base, "clips": samples.corpus.digest, "loss": request.loss, "method": method });
        let training = Training { name: NAME, dir: Some(&request.out), seed: request.seed, config: &config, depends };
        let log = RefCell::new(log);
        let gradients = |parameters: &M, step: usize, rng: &mut ChaCha8Rng| {
            let plain = parameters.attach(dit, false)?;
            if request.sample_every > 0 && step > 0 && step.is_multiple_of(request.sample_every) {
                let error = samples.take(&plain, step).map_err(as_input)?;
                if let Some(error) = error {
                    log.borrow_mut().numbers(step, &[("sample_error", error)]);
                }
            }
            self.gradients(parameters, &plain, dit, rng)
        };
        let parameters = train_by_gradients(parameters, &training, gradients, |report| log.borrow_mut().step(report))?;
        Ok((parameters, log.into_inner().finish()?))
    }

    /// Loss and gradients of a batch, clip by clip.
    fn gradients<M: Trainable>(
        &self,
        parameters: &M,
        plain: &Dit,
        dit: &Dit,
        rng: &mut ChaCha8Rng,
    ) -> Result<(f32, NamedGradients), NnError> {
        let Self { request, world, samples, device, .. } = self;
        let corpus = samples.corpus;
        let tracked = parameters.attach(dit, true)?;
        let network = Differentiated {
            plain,
            tracked: &tracked,
            activations: request.activations,
            through_time: M::THROUGH_TIME,
        };
        let (mut sum, mut loss) = (NamedGradients::new(), 0.0);
        let share = 1.0 / request.batch as f32;
        for _ in 0..request.batch {
            let chosen = rng.random_range(0..corpus.clips.len());
            let Some(clip) = corpus.clips.get(chosen) else { continue };
            let latents = corpus.latents(chosen)?;
            let shape = [latents.shape.channels, 1 + latents.chunks(), latents.shape.height, latents.shape.width];
            let clean = latents.channels_first();
            let prompt = world.prompt(&clip.prompt, dit.config().context)?;
            let noisy = NoisyClip::draw(&clean, shape, prompt, &request.loss, rng);
            loss += share
                * noisy.loss(&network, &request.loss, device, &mut |found| {
                    for (name, mut gradient) in named_gradients(parameters, found)? {
                        gradient.iter_mut().for_each(|value| *value *= share);
                        match sum.get_mut(&name) {
                            Some(sum) => sum.iter_mut().zip(gradient).for_each(|(sum, new)| *sum += new),
                            None => drop(sum.insert(name, gradient)),
                        }
                    }
                    Ok(())
                })?;
        }
        Ok((loss, sum))
    }
}
