//! `serve --learn`: stage 2 on the episodes of whoever is served.
//!
//! [`schedule`] has the rules, [`learner`] stands between the policy and its clients, [`worker`] imagines, updates and
//! judges in the background, [`guard`] measures, [`ledger`] and [`episode`] are what is on disk.

mod episode;
mod guard;
mod learner;
mod ledger;
mod schedule;
mod status;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use w2a_nn::{Init, load_state, state_dict};
use w2a_posttrain::{Alignment, Form, PosttrainConfig, Residual};

use crate::PipelineError;
use crate::context::{Context, model};
use crate::serve::bent::{Chosen, bender_config};
use crate::stage2::Shared;
use crate::world::{Dreamer, Imaginer};
use episode::{Kept, Sizes};
pub(crate) use learner::Learner;
use learner::{Paths, Start};
pub(crate) use ledger::Origin;
use ledger::{Ledger, Record, Status};
use schedule::{Left, Rules, Schedule};
use worker::Worker;

/// Where a server says what happens; called from several threads.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// How to learn while serving.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnRequest {
    /// The folder of a run with a world model and adapters; it is only read.
    pub run: PathBuf,
    /// Where episodes and updates are kept; `None` for `learn` in the run's folder. What is there already is gone on with.
    pub out: Option<PathBuf>,
    /// New episodes between two updates.
    pub batch: usize,
    /// Episodes with and episodes without an update, by which it is judged.
    pub trial: usize,
    /// Episodes that are kept, the newest.
    pub keep: usize,
    /// Scale of the step; `None` for that of the residual to start from, or `posttrain.stage2.rollout_gain`.
    pub gain: Option<f32>,
    /// The update to go back to before anyone is served.
    pub rollback: Option<u64>,
}

impl LearnRequest {
    /// With the defaults of the command line.
    pub fn new(run: PathBuf) -> Self {
        Self { run, out: None, batch: 32, trial: 8, keep: 256, gain: None, rollback: None }
    }

    /// The run.
    pub(crate) fn context(&self) -> Result<Context, PipelineError> {
        let expected = "the folder of a run with adapters and a world model";
        let run = fs_err::canonicalize(&self.run).map_err(|error| refused("--learn", expected, &error.to_string()))?;
        Context::existing(&run)
    }

    fn check(&self) -> Result<(), PipelineError> {
        let least = 2 * (self.batch + self.trial);
        let rules = [
            (self.batch >= 2, "--learn-batch", "at least 2 episodes".to_owned(), self.batch.to_string()),
            (self.trial >= 1, "--learn-trial", "at least 1 episode a side".into(), self.trial.to_string()),
            (
                self.keep >= least,
                "--learn-keep",
                format!("at least {least} episodes: two batches and two trials"),
                self.keep.to_string(),
            ),
            (
                self.gain.is_none_or(|gain| gain.is_finite() && gain > 0.0),
                "--learn-gain",
                "a positive number".into(),
                format!("{:?}", self.gain.unwrap_or_default()),
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, key, expected, got)) => Err(refused(key, &expected, &got)),
        }
    }
}

fn refused(key: &str, expected: &str, got: &str) -> PipelineError {
    PipelineError::Config { key: key.into(), expected: expected.into(), got: got.into() }
}

/// Loads what learning needs, goes on where an earlier server ended, and starts the background.
pub(crate) fn start(
    request: &LearnRequest,
    residual: Option<&Path>,
    policy: &str,
    seed: u64,
    tell: Tell,
) -> Result<Learner, PipelineError> {
    request.check()?;
    let context = request.context()?;
    let run = context.out.clone();
    let shared = Shared::load(&context)?;
    let folder = request.out.clone().unwrap_or_else(|| run.join("learn"));
    let saved = Origin::read(&folder)?;
    let (fresh, config, gain) = beginning(&context, &shared, residual, seed)?;
    let origin = Origin {
        gain: request.gain.or(saved.as_ref().map(|saved| saved.gain)).unwrap_or(gain),
        run,
        policy: policy.into(),
        seed,
        stage2: config.clone(),
        world: identity(&context)?,
    };
    origin.settle(&folder)?;
    let mut ledger = Ledger::open(folder.join("updates"))?;
    let weights = model(state_dict(&fresh))?;
    match ledger.record(0) {
        None => {
            let record = Record::new(0, 0, 0, Status::Accepted, "what learning started from");
            ledger.write(record, Some(&weights))?;
        }
        Some(_) if residual.is_some() && ledger.weights(0)? != weights => {
            let difference = "it began with other weights than those of --residual".into();
            return Err(PipelineError::Changed { path: folder, difference });
        }
        Some(_) => {}
    }
    if let Some(to) = request.rollback {
        ledger.roll_back(to)?;
    }
    let sizes = Sizes {
        chunks: context.config.chunks(),
        chunk: shared.adapters.chunk(),
        dim: shared.adapters.dim(),
        proprio: shared.set.proprio.width(),
        grid: context.config.grid(),
    };
    let paths = Paths { folder };
    let episodes = paths.episodes(&sizes)?;
    let rules = Rules { batch: request.batch, trial: request.trial };
    let (schedule, order) = resumed(rules, &ledger, &episodes);
    tell(&words(&ledger, &episodes, schedule.current()));
    let learner = Start {
        bender: bender_config(&context, &shared, &config, origin.gain),
        gain: origin.gain,
        template: fresh,
        sizes,
        keep: request.keep,
        chunk_len: shared.world.chunk_len(),
        // An alignment in time compares whole episodes only.
        shortest: if config.objective.alignment == Alignment::SameStep { 2 } else { sizes.chunks },
        paths,
        ledger,
        schedule,
        tell,
    };
    let dreamer = Dreamer::load(&context, Imaginer::Main)?;
    let threads = context.config.threads;
    Learner::start(learner, episodes, order, |inner| Worker { inner, shared, dreamer, config, seed, threads })
}

/// The residual that learning starts from, its stage 2 and its scale.
fn beginning(
    context: &Context,
    shared: &Shared,
    residual: Option<&Path>,
    seed: u64,
) -> Result<(Residual, PosttrainConfig, f32), PipelineError> {
    let (residual, config, gain) = match residual {
        Some(folder) => {
            let (of, _, chosen) = Chosen::open(folder)?;
            if of.out != context.out {
                let expected = format!("a residual of the run of --learn, {}", context.out.display());
                return Err(refused("--residual", &expected, &folder.display().to_string()));
            }
            (Some(chosen.residual), chosen.config, chosen.gain)
        }
        None => {
            let config = context.config.posttrain.stage2.clone();
            let gain = config.rollout_gain;
            (None, config, gain)
        }
    };
    if config.form == Form::Lora {
        return Err(refused("posttrain.stage2.form", "latent or action with --learn", config.form.name()));
    }
    if config.objective.regression > 0.0 {
        let expected = "0 with --learn: nobody labels what was imagined for a stranger's scene";
        return Err(refused(
            "posttrain.stage2.objective.regression",
            expected,
            &config.objective.regression.to_string(),
        ));
    }
    let residual = match residual {
        Some(residual) => residual,
        None => {
            let mut rng = w2a_data::stream(seed, "init/learn");
            let init = &mut Init { rng: &mut rng, device: &context.device };
            let (adapters, proprio) = (&shared.adapters, shared.set.proprio.width());
            model(Residual::new(config.form, &config.residual, context.config.grid(), proprio, adapters, init))?
        }
    };
    Ok((residual, config, gain))
}

/// The digest of the run's world model.
fn identity(context: &Context) -> Result<String, PipelineError> {
    Ok(crate::run_world::identify(&context.config, &context.out)?.digest)
}

/// The rules where an earlier server left them.
fn resumed(rules: Rules, ledger: &Ledger, episodes: &[Kept]) -> (Schedule, Option<schedule::Order>) {
    let newest = ledger.records().next_back();
    let left = match newest {
        Some(record) if record.status == Status::Computing => {
            Left::Update { number: record.number, parent: record.parent, upto: record.upto }
        }
        Some(record) if record.status == Status::Trial => {
            let on_trial = episodes.iter().filter(|kept| kept.about.trial == Some(record.number));
            let (ours, theirs): (Vec<&Kept>, Vec<&Kept>) =
                on_trial.partition(|kept| kept.about.update == record.number);
            Left::Trial { number: record.number, upto: record.upto, done: [ours.len(), theirs.len()] }
        }
        _ => Left::Nothing,
    };
    let learned = ledger.records().map(|record| record.upto).max().unwrap_or(0);
    let kept = episodes.last().map_or(0, |kept| kept.about.number).max(learned);
    Schedule::new(rules, ledger.current(), newest.map_or(0, |record| record.number), kept, learned, left)
}

fn words(ledger: &Ledger, episodes: &[Kept], current: u64) -> String {
    let updates = ledger.records().count().saturating_sub(1);
    format!("learning: {} episodes kept, {updates} updates so far, serving with update {current}", episodes.len())
}

/// A residual with the weights of an update.
fn with_weights(template: &Residual, weights: w2a_nn::StateDict) -> Result<Residual, PipelineError> {
    model(load_state(template.clone(), weights))
}
