//! What `policy finetune` does: LoRA on the linear layers of GR00T's action head, by its flow-matching loss.
//!
//! A batch is random steps of the demonstrations from which a whole chunk of actions is left, as in the reference. The
//! backbone is frozen and sees every sample anew. What comes out is an adapter in PEFT's form.

use std::path::PathBuf;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use w2a_data::{Dataset, Episode, Source};
use w2a_nn::{Array, Checkpoint, Init, NnError, TrainConfig, Training, state_dict};
use w2a_policy::groot::GrootOptions;
use w2a_posttrain::{Lora, LoraConfig};

use crate::PipelineError;
use crate::groot_data::{Layout, Sample, load, nearby};
use crate::tuning::{TrainingLog, as_input, check_training, config_error};

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
    /// Folder for the adapter, the log and the checkpoints of the training.
    pub out: PathBuf,
    /// Whether the folder holds this training already, which is then continued.
    pub resume: bool,
    /// Folder of the backbone's files, if they are not with the checkpoint.
    pub backbone: Option<PathBuf>,
    /// Whether frames are padded to squares first.
    pub letterbox: bool,
    /// Size of the adapter.
    pub lora: LoraConfig,
    /// Updates.
    pub steps: usize,
    /// Samples an update.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f32,
    /// Seed of the adapter, the samples, the noise and the times.
    pub seed: u64,
    /// Name of the device.
    pub device: String,
}

/// Trains an adapter, or continues its training, and says where it is.
///
/// # Errors
/// A checkpoint or dataset that cannot be read or that do not belong together, a folder that exists without `resume`, a
/// training that diverges.
pub fn finetune(request: &FinetuneRequest) -> Result<String, PipelineError> {
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
    let mut reader = dataset.steps(CACHE_BYTES);
    let autodiff = device.clone().autodiff();
    let mut stream = w2a_data::stream(request.seed, &format!("init/{NAME}"));
    let lora = Lora::new(&request.lora, &groot, &mut Init { rng: &mut stream, device: &autodiff })?;
    let trainable: usize = state_dict(&lora)?.values().map(|array| array.data.len()).sum();
    let config = TrainConfig {
        steps: request.steps,
        batch: request.batch,
        lr: request.lr,
        // NVIDIA's recipe: 5 % of warm-up, then half a cosine.
        warmup: request.steps / 20,
        checkpoint_every: (request.steps / 10).max(1),
        ..TrainConfig::default()
    };
    let depends = json!({
        "embodiment": request.embodiment, "letterbox": request.letterbox, "rank": request.lora.rank,
        "alpha": request.lora.alpha, "dataset": dataset.fingerprint()?
    });
    let done = Checkpoint::new(&request.out).step()?;
    let mut log = TrainingLog::open(NAME, &request.out, request.resume, done)?;
    let training = Training { name: NAME, dir: Some(&request.out), seed: request.seed, config: &config, depends };
    let loss = |lora: &Lora, _: usize, rng: &mut ChaCha8Rng| {
        let chosen: Vec<(usize, usize)> =
            (0..request.batch).map(|_| starts[rng.random_range(0..starts.len())]).collect();
        let (samples, actions) = batch(&mut reader, &layout, &episodes, &chosen)?;
        let observation = layout.observation(&samples).map_err(as_input)?;
        let adapted = lora.apply(&groot, 1.0)?;
        Ok((adapted.flow_loss(&observation, &actions, rng)?, vec![]))
    };
    let lora = w2a_nn::train(lora, &training, loss, |report| log.step(report))?;
    let last = log.finish()?;
    let adapter = request.out.join("adapter");
    lora.save_peft(&adapter)?;
    Ok(format!(
        "{}: LoRA of rank {} on {} layers, {trainable} trainable parameters, {} steps; {last}\n",
        adapter.display(),
        request.lora.rank,
        lora.names().len(),
        request.steps
    ))
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
