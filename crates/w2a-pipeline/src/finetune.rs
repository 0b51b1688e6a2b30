//! What `policy finetune` does: trains GR00T's action head by its flow-matching loss, in full or through LoRA on the linear
//! layers of its transformer.
//!
//! A batch is random steps of the demonstrations from which a whole chunk of actions is left, as in the reference. The
//! backbone is frozen and sees every sample anew. What comes out is a checkpoint, or an adapter in PEFT's form.

use std::path::PathBuf;

use burn::module::Module;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use w2a_data::{Dataset, Episode, Source};
use w2a_nn::{Array, Checkpoint, Init, NnError, TrainConfig, Training};
use w2a_policy::groot::{Groot, GrootOptions, HeadTuning};
use w2a_posttrain::{Lora, LoraConfig};
use w2a_world::cosmos::memory::gib;

use crate::PipelineError;
use crate::groot_data::{Layout, Sample, load, nearby};
use crate::tuning::{Method, TrainingLog, as_input, check_training, config_error};

/// Name of the training, in logs and random streams.
const NAME: &str = "policy/finetune";
/// Frames that are kept in memory.
const CACHE_BYTES: usize = 1 << 28;

/// What to fine-tune, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct FinetuneRequest {
    /// Directory of the checkpoint.
    pub checkpoint: PathBuf,
    /// A LeRobot dataset with `meta/modality.json`.
    pub dataset: PathBuf,
    /// Tag of the embodiment.
    pub embodiment: String,
    /// Folder for what comes out, the log and the checkpoints of the training.
    pub out: PathBuf,
    /// Whether the folder holds this training already, which is then continued.
    pub resume: bool,
    /// Folder of the backbone's files, if they are not with the checkpoint.
    pub backbone: Option<PathBuf>,
    /// Whether frames are padded to squares first.
    pub letterbox: bool,
    /// What is trained.
    pub method: Method,
    /// Updates.
    pub steps: usize,
    /// Samples an update.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f32,
    /// Memory in bytes to stay within; that of the machine without one.
    pub memory: Option<u64>,
    /// Seed of the adapter, the samples, the noise and the times.
    pub seed: u64,
    /// Name of the device.
    pub device: String,
}

/// Trains the action head or an adapter for it, or continues that, and says where it is. `announce` gets what will take
/// memory, before anything is computed.
///
/// # Errors
/// A checkpoint or dataset that cannot be read or that do not belong together, a folder that exists without `resume`, too
/// little memory, a training that diverges.
pub fn finetune(request: &FinetuneRequest, announce: &mut dyn FnMut(&str)) -> Result<String, PipelineError> {
    check_training(&request.out, request.resume, [request.steps, request.batch], request.lr)?;
    let source = Source::open(&request.dataset)?;
    let device = w2a_nn::device(&request.device)?;
    let options =
        GrootOptions { backbone: request.backbone.clone(), letterbox: request.letterbox, ..GrootOptions::new(&device) };
    let groot = load(&request.checkpoint, &request.embodiment, &options, None)?;
    let layout = Layout::new(&groot, &source)?;
    let Source::LeRobot(dataset) = &source else {
        let expected = "a LeRobot dataset; `world2act data convert --to v2.1 --gr00t` makes one".into();
        return Err(config_error("dataset", expected, source.format()));
    };
    let (episodes, starts) = plan(dataset, &layout)?;
    let tuning = Tuning { request, groot: &groot, dataset, layout: &layout, episodes: &episodes, starts: &starts };
    match &request.method {
        Method::Lora(config) => {
            let autodiff = device.clone().autodiff();
            let mut stream = w2a_data::stream(request.seed, &format!("init/{NAME}"));
            let lora = Lora::new(config, &groot, &mut Init { rng: &mut stream, device: &autodiff })?;
            let trained = tuning.check_memory(&lora, announce)?;
            let (lora, last) = tuning.run(lora, |lora| lora.apply(&groot, 1.0))?;
            let adapter = request.out.join("adapter");
            lora.save_peft(&adapter)?;
            Ok(format!(
                "{}: LoRA of rank {} on {} layers, {trained} trainable parameters, {} steps; {last}\n",
                adapter.display(),
                config.rank,
                lora.names().len(),
                request.steps
            ))
        }
        Method::Full => {
            let (head, origin) = HeadTuning::open(&request.checkpoint, groot.tag(), &options)?;
            let trained = tuning.check_memory(&head, announce)?;
            let (head, last) = tuning.run(head, |head| Ok(groot.with_head(head.clone())))?;
            let to = request.out.join("model");
            if !to.exists() {
                // Written aside, so that a folder of that name is complete.
                let partial = request.out.join(".model.partial");
                let io = |error| PipelineError::io("writing the fine-tuned policy", error);
                if partial.exists() {
                    fs_err::remove_dir_all(&partial).map_err(io)?;
                }
                origin.export(&head, &partial)?;
                fs_err::rename(&partial, &to).map_err(io)?;
            }
            Ok(format!(
                "{}: the action head for {}, {trained} trained parameters, {} steps; {last}\n",
                to.display(),
                groot.tag(),
                request.steps
            ))
        }
    }
}

/// What both kinds of training need.
struct Tuning<'a> {
    request: &'a FinetuneRequest,
    groot: &'a Groot,
    dataset: &'a Dataset,
    layout: &'a Layout,
    episodes: &'a [Episode],
    starts: &'a [(usize, usize)],
}

impl Tuning<'_> {
    /// Says what weights, gradients and optimiser take, refuses what is more than there is, and gives the number of trained
    /// parameters.
    fn check_memory(&self, trained: &impl Module, announce: &mut dyn FnMut(&str)) -> Result<usize, PipelineError> {
        let (trained, frozen) = (trained.num_params(), self.groot.bytes());
        // A parameter has its value, its gradient and two moments, in f32.
        let parts = [("frozen weights", frozen), ("trained weights, gradients and optimiser", 16 * trained as u64)];
        let total = frozen + 16 * trained as u64;
        let shown = parts.map(|(what, bytes)| format!("{what} {}", gib(bytes))).join(" + ");
        let machine = || w2a_report::Machine::detect().memory_mib.map(|mib| mib << 20);
        let on_cpu = self.request.device == "cpu";
        let limit = self.request.memory.or_else(|| if on_cpu { machine() } else { None });
        let there = limit.map_or(String::new(), |limit| format!("; there are {}", gib(limit)));
        announce(&format!("memory: about {} = {shown}, and activations of a batch{there}", gib(total)));
        if limit.is_none_or(|limit| total <= limit) {
            return Ok(trained);
        }
        let advice = if self.request.method == Method::Full { "; --method lora takes less" } else { "" };
        let expected = format!("at most {}{advice}", gib(limit.unwrap_or_default()));
        Err(config_error("memory for fine-tuning", expected, format!("about {} = {shown}", gib(total))))
    }

    /// Trains `parameters`, of which `policy` is made, and gives them with words on the last loss.
    fn run<M: Module>(
        &self,
        parameters: M,
        policy: impl Fn(&M) -> Result<Groot, NnError>,
    ) -> Result<(M, String), PipelineError> {
        let Self { request, dataset, layout, episodes, starts, .. } = *self;
        let config = TrainConfig {
            steps: request.steps,
            batch: request.batch,
            lr: request.lr,
            // NVIDIA's recipe: 5 % of warm-up, then half a cosine.
            warmup: request.steps / 20,
            checkpoint_every: (request.steps / 10).max(1),
            ..TrainConfig::default()
        };
        let mut depends = json!({
            "embodiment": request.embodiment, "letterbox": request.letterbox, "dataset": dataset.fingerprint()?
        });
        match &request.method {
            Method::Full => depends["method"] = json!("full"),
            Method::Lora(LoraConfig { rank, alpha }) => {
                (depends["rank"], depends["alpha"]) = (json!(rank), json!(alpha));
            }
        }
        let mut log = TrainingLog::open(NAME, &request.out, request.resume, Checkpoint::new(&request.out).step()?)?;
        let training = Training { name: NAME, dir: Some(&request.out), seed: request.seed, config: &config, depends };
        let mut reader = dataset.steps(CACHE_BYTES);
        let loss = |parameters: &M, _: usize, rng: &mut ChaCha8Rng| {
            let chosen: Vec<(usize, usize)> =
                (0..request.batch).map(|_| starts[rng.random_range(0..starts.len())]).collect();
            let (samples, actions) = batch(&mut reader, layout, episodes, &chosen)?;
            let observation = layout.observation(&samples).map_err(as_input)?;
            Ok((policy(parameters)?.flow_loss(&observation, &actions, rng)?, vec![]))
        };
        let parameters = w2a_nn::train(parameters, &training, loss, |report| log.step(report))?;
        Ok((parameters, log.finish()?))
    }
}

/// The rows of all episodes, without images, and the steps from which a whole chunk is left: `(episode, step)`.
#[expect(clippy::type_complexity, reason = "named where it is used")]
fn plan(dataset: &Dataset, layout: &Layout) -> Result<(Vec<Episode>, Vec<(usize, usize)>), PipelineError> {
    let ahead = layout.action_steps.iter().copied().max().unwrap_or(0).max(0) as usize;
    let mut reader = dataset.reader();
    let (mut episodes, mut starts) = (Vec::new(), Vec::new());
    for index in 0..dataset.len() {
        let episode = reader.read_without_images(index)?;
        starts.extend((0..episode.len().saturating_sub(ahead)).map(|step| (index, step)));
        episodes.push(episode);
    }
    if starts.is_empty() {
        let expected = format!("an episode of more than {ahead} steps, the length of a chunk");
        return Err(config_error("dataset", expected, "shorter ones".into()));
    }
    Ok((episodes, starts))
}

/// Observations and raw actions of the chosen steps.
#[expect(clippy::type_complexity, reason = "named where it is used")]
fn batch(
    reader: &mut w2a_data::StepReader<'_>,
    layout: &Layout,
    episodes: &[Episode],
    chosen: &[(usize, usize)],
) -> Result<(Vec<Sample>, Vec<std::collections::BTreeMap<String, Array>>), NnError> {
    let mut wanted = Vec::new();
    for &(index, now) in chosen {
        let len = episodes[index].len();
        wanted.extend(layout.video_steps.iter().map(|delta| (index, nearby(now, *delta, len))));
    }
    let mut steps = reader.read(&wanted).map_err(|error| as_input(error.into()))?.into_iter();
    let (mut samples, mut actions) = (Vec::new(), Vec::new());
    for &(index, now) in chosen {
        let episode = &episodes[index];
        let frames = steps.by_ref().take(layout.video_steps.len()).map(|step| step.observation).collect();
        let at = |delta: &i64| nearby(now, *delta, episode.len());
        let states = layout.state_steps.iter().map(|delta| episode.proprio(at(delta)).to_vec()).collect();
        samples.push(Sample { frames, states, instruction: episode.instruction.clone() });
        let of = |(key, group): &(String, w2a_data::Group)| {
            let rows = layout.action_steps.iter().map(|delta| &episode.action(at(delta))[group.start..group.end]);
            let shape = vec![layout.action_steps.len(), group.end - group.start];
            (key.clone(), Array { shape, data: rows.flatten().copied().collect() })
        };
        actions.push(layout.action.iter().map(of).collect());
    }
    Ok((samples, actions))
}
