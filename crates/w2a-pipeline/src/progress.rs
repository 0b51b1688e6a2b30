//! The parts of the stages, what each may cost, and how far a run has come.

use std::cell::Cell;

use w2a_align::LossVariant;
use w2a_posttrain::{Form, PosttrainConfig};
use w2a_report::Progress;

use crate::arms::Arm;
use crate::data::{NARROW, ORACLE, VIDEO, WIDE};
use crate::policy::{BASE, CEILING, is_trained};
use crate::posttrain::{IDM, IMAGINATION};
use crate::run_world::WorldKind;
use crate::stage2::scales;
use crate::world::{AUTOENCODER, Imaginer, POSTTRAIN, TUNE};
use crate::{Config, Stage, ablation, align};

pub(crate) const DEMONSTRATIONS: &str = "align/demonstrations";

/// Control steps of the episodes that the seconds below are of.
const EPISODE_STEPS: f64 = 64.0;

/// Seconds on two cores, measured once. Only their ratios matter: the speed of a machine is measured on the way.
mod seconds {
    /// Recording an episode of the expert and writing it.
    pub const RECORDED: f64 = 0.02;
    /// One update of the autoencoder, per chunk of the batch.
    pub const AUTOENCODER: f64 = 0.003;
    /// Encoding a video.
    pub const VIDEO: f64 = 0.0105;
    /// One update of the latent video model, per video: a constant, and per multiplication of a forward pass.
    pub const FLOW: (f64, f64) = (0.0018, 1e-10);
    /// One update of a policy or an inverse dynamics model, per sample.
    pub const POLICY: f64 = 0.001;
    /// Decoding an imagined video and reading the actions off it.
    pub const LABELLED: f64 = 0.1;
    /// One update of the adapters, per trajectory.
    pub const ADAPTERS: f64 = 0.0016;
    /// One update of a residual, per trajectory.
    pub const RESIDUAL: f64 = 0.0008;
    /// Executing an episode, and encoding it if it is recorded.
    pub const EPISODE: f64 = 0.035;
    /// The report.
    pub const REPORT: f64 = 3.0;
    /// What one simulated episode of LIBERO takes, by workers, as a multiple of one of the tabletop.
    pub const LIBERO: f64 = 120.0;
}

/// The parts of a stage in the order they run: the name of each and its expected cost.
fn parts(config: &Config, stage: Stage) -> Vec<(String, f64)> {
    let part = |name: &str, cost: f64| (name.to_owned(), cost);
    // Per episode; those of other tasks may be longer.
    let length = config.episode_steps() as f64 / EPISODE_STEPS;
    let per_task = |count: usize| (count * task_count(config)) as f64 * length;
    let slower = if config.is_libero() { seconds::LIBERO / config.env.libero.workers.max(1) as f64 } else { 1.0 };
    let acted = |count: usize| per_task(count) * seconds::EPISODE * slower;
    let train = |train: &w2a_nn::TrainConfig, cost: f64| (train.steps * train.batch) as f64 * cost;
    let (data, world, after) = (&config.data, &config.world, &config.posttrain);
    let flow = flow_cost(config);
    match stage {
        Stage::Data => {
            let counts = [data.labelled, data.labelled, data.videos, data.posttrain_scenes];
            let names = [NARROW, WIDE, VIDEO, ORACLE].into_iter().zip(counts);
            let recorded = names.filter(|(name, _)| *name != WIDE || Arm::WideLabels.takes_part(config));
            recorded.map(|(name, count)| part(name, per_task(count) * seconds::RECORDED)).collect()
        }
        Stage::World => {
            // A forward pass without gradients costs about a third of an update. With a large model nothing else counts.
            let imagine = flow * world.model.flow.sampling_steps as f64 / 3.0;
            let imagined = |imaginer: Imaginer| {
                [(POSTTRAIN, data.posttrain_scenes), (TUNE, data.tune_scenes)]
                    .map(|(which, count)| (imaginer.imagined(which), per_task(count) * imagine))
            };
            if world.kind == WorldKind::Cosmos {
                return imagined(Imaginer::Main).into();
            }
            let mut parts = vec![part(AUTOENCODER, train(&world.autoencoder_train, seconds::AUTOENCODER))];
            for imaginer in Imaginer::all(config) {
                let videos = per_task(data.videos + data.labelled);
                parts.push((imaginer.corpus(), videos * seconds::VIDEO));
                parts.push((imaginer.flow(), train(&world.flow_train, flow)));
            }
            parts.extend(Imaginer::all(config).flat_map(imagined));
            parts
        }
        Stage::Policy => {
            let trained = [BASE, CEILING].into_iter();
            let trained = trained.filter(|name| is_trained(config, name));
            trained.map(|name| part(name, train(&config.policy.train, seconds::POLICY))).collect()
        }
        Stage::Align => {
            let windows = if config.align.sliding_windows { config.chunk_len() + 1 } else { 1 };
            vec![
                part(DEMONSTRATIONS, per_task(data.labelled * windows) * seconds::VIDEO),
                part(align::ADAPTERS, train(&config.align.train, seconds::ADAPTERS) * length),
            ]
        }
        Stage::Posttrain => {
            let mut parts = Vec::new();
            if Arm::taking_part(config).any(Arm::needs_labels) {
                parts.push(part(IDM, train(&after.idm_train, seconds::POLICY)));
            }
            parts.push(part(IMAGINATION, per_task(data.posttrain_scenes) * seconds::LABELLED));
            for arm in Arm::taking_part(config).filter(|arm| arm.is_trained(config)) {
                let (tried, cost) = match arm.residual(config) {
                    Some((stage2, _)) => {
                        (scales(config, stage2.form).len(), stage2_cost(config, &stage2, slower) * length)
                    }
                    None => (after.shares.len(), train(&config.policy.fine_tune, seconds::POLICY)),
                };
                for seed in 0..arm.seeds(config) {
                    parts.push((arm.folder(seed), cost));
                    parts.push((gain_part(&arm.folder(seed)), acted(tried * data.tune_scenes)));
                }
            }
            parts
        }
        Stage::Eval => {
            let scenes =
                |range| if range == crate::eval::FULL { config.eval.scenes } else { config.eval.narrow_scenes };
            let runs = crate::eval::runs(config).into_iter();
            runs.map(|(arm, seed, range)| (eval_part(arm, seed, range), acted(scenes(range)))).collect()
        }
        Stage::Report => vec![part("report", seconds::REPORT)],
        Stage::Ablation => {
            let windows = if config.align.sliding_windows { config.chunk_len() + 1 } else { 1 };
            let mut parts = vec![part(DEMONSTRATIONS, per_task(data.labelled * windows) * seconds::VIDEO)];
            for contrast in LossVariant::ALL {
                parts.push((ablation::adapters_folder(contrast), train(&config.align.train, seconds::ADAPTERS)));
            }
            parts.push(part(IDM, train(&after.idm_train, seconds::POLICY)));
            parts.push(part(IMAGINATION, per_task(data.posttrain_scenes) * seconds::LABELLED));
            let evaluated = acted(config.eval.scenes);
            parts.push((eval_part(Arm::Base, 0, crate::eval::FULL), evaluated));
            for row in ablation::rows(config) {
                let tried = scales(config, row.stage2.form).len();
                for seed in 0..after.seeds {
                    let (name, choice) = (row.folder(config, seed), acted(tried * data.tune_scenes));
                    parts.push((name.clone(), stage2_cost(config, &row.stage2, slower)));
                    parts.push((gain_part(&name), choice));
                }
                parts.extend((0..after.seeds).map(|seed| (row.eval_part(config, seed), evaluated)));
            }
            parts
        }
    }
}

/// Expected seconds of a training of stage 2 whose episodes take `slower` times those of the tabletop.
fn stage2_cost(config: &Config, stage2: &PosttrainConfig, slower: f64) -> f64 {
    let rollouts = (stage2.rounds * stage2.scenes_per_round) as f64;
    let updates = (stage2.rounds * stage2.updates_per_round * stage2.train.batch) as f64;
    let update = match stage2.form {
        Form::Latent | Form::Action => seconds::RESIDUAL,
        // The policy itself is differentiated, at every chunk.
        Form::Lora => config.world.model.flow.chunks as f64 * seconds::POLICY,
    };
    rollouts * seconds::EPISODE * slower + updates * update
}

/// Name of the choice of the scale of a training.
pub(crate) fn gain_part(name: &str) -> String {
    format!("{name}/gain")
}

/// Name of the evaluation of a training of the ablation.
pub(crate) fn ablation_eval_part(name: &str) -> String {
    format!("{name}/eval")
}

/// Name of the evaluation of an arm.
pub(crate) fn eval_part(arm: Arm, seed: usize, range: &str) -> String {
    format!("eval/{}_seed{seed}_{range}", arm.name())
}

fn task_count(config: &Config) -> usize {
    config.tasks().map_or(0, |tasks| tasks.len())
}

/// Expected seconds of one update of the latent video model, per video.
fn flow_cost(config: &Config) -> f64 {
    let (flow, side) = (&config.world.model.flow, config.world.model.autoencoder.patch);
    let (height, width) = config.grid();
    let cells = height / side.max(1) * (width / side.max(1));
    let tokens = |patch: [usize; 2]| cells / (patch[0] * patch[1]).max(1);
    let tokens = flow.chunks * tokens(flow.patch) + tokens(flow.first_patch);
    let per_token = flow.depth * (4 * flow.width * flow.width + 2 * flow.width * flow.hidden);
    seconds::FLOW.0 + seconds::FLOW.1 * (tokens * per_token) as f64
}

/// The progress of a run: [`Progress`] knows stages, this their parts.
pub(crate) struct RunProgress {
    shown: Progress,
    plan: Vec<(Stage, Vec<(String, f64)>)>,
    stage: Cell<Option<usize>>,
    /// Where the running part begins and ends, as shares of its stage.
    span: Cell<Option<(f64, f64)>>,
}

/// Shares of a stage are handed on as whole numbers out of so many.
const WHOLE: f64 = 1e4;

impl RunProgress {
    /// The plan of a run up to the stage `until`.
    pub fn new(config: &Config, until: Stage) -> Self {
        let plan: Vec<_> = until.plan().into_iter().map(|stage| (stage, parts(config, stage))).collect();
        let sum = |parts: &[(String, f64)]| parts.iter().map(|(_, cost)| cost).sum::<f64>();
        let shares: Vec<(&str, f64)> = plan.iter().map(|(stage, parts)| (stage.name(), sum(parts))).collect();
        Self { shown: Progress::new(&shares), plan, stage: Cell::new(None), span: Cell::new(None) }
    }

    /// Begins a stage.
    pub fn start(&self, stage: Stage) {
        self.stage.set(self.plan.iter().position(|(planned, _)| *planned == stage));
        self.span.set(None);
        self.shown.start(stage.name());
    }

    /// Begins a part of the running stage and ends the one before. Parts that were passed over count as done earlier.
    pub fn part(&self, name: &str) {
        self.leave(name);
        let Some((_, parts)) = self.stage.get().map(|stage| &self.plan[stage]) else { return };
        let Some(index) = parts.iter().position(|(planned, _)| planned == name) else { return };
        let sum = |parts: &[(String, f64)]| parts.iter().map(|(_, cost)| cost).sum::<f64>();
        let total = sum(parts).max(f64::MIN_POSITIVE);
        let (begin, end) = (sum(&parts[..index]) / total, sum(&parts[..=index]) / total);
        self.shown.credit((begin * WHOLE) as u64, WHOLE as u64);
        self.span.set(Some((begin, end)));
    }

    /// `done` of `total` steps of the running part were done by an earlier process.
    pub fn credit(&self, done: usize, total: usize) {
        self.shown.credit(self.at(done, total), WHOLE as u64);
    }

    /// `done` of `total` steps of the running part are finished. Cheap enough to call at every step.
    pub fn tick(&self, done: usize, total: usize, message: &str) {
        self.shown.tick(self.at(done, total), WHOLE as u64, message);
    }

    /// Ends a stage and returns the seconds it took in this process.
    pub fn finish(&self, stage: Stage) -> f64 {
        self.leave(stage.name());
        self.shown.credit(WHOLE as u64, WHOLE as u64);
        self.shown.finish(stage.name())
    }

    fn leave(&self, message: &str) {
        if let Some((_, end)) = self.span.take() {
            self.shown.tick((end * WHOLE) as u64, WHOLE as u64, message);
        }
    }

    fn at(&self, done: usize, total: usize) -> u64 {
        let (begin, end) = self.span.get().unwrap_or_default();
        let share = (done as f64 / total.max(1) as f64).min(1.0);
        ((begin + (end - begin) * share) * WHOLE) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{RunProgress, parts};
    use crate::{Config, Profile, Stage};

    #[test]
    fn every_part_has_a_name_of_its_own_and_a_cost() {
        for profile in Profile::ALL {
            let config = Config::profile(profile);
            for stage in Stage::ALL.into_iter().chain([Stage::Ablation]) {
                let parts = parts(&config, stage);
                let names: std::collections::BTreeSet<&String> = parts.iter().map(|(name, _)| name).collect();
                assert!(names.len() == parts.len() && !parts.is_empty(), "{parts:?}");
                assert!(parts.iter().all(|(_, cost)| cost.is_finite() && *cost > 0.0), "{parts:?}");
            }
        }
    }

    #[test]
    fn parts_fill_their_stage_one_after_the_other() {
        let config = Config::profile(Profile::Smoke);
        let progress = RunProgress::new(&config, Stage::World);
        progress.start(Stage::World);
        let mut last = 0;
        for (name, _) in parts(&config, Stage::World) {
            progress.part(&name);
            for done in 0..=4 {
                assert!(progress.at(done, 4) >= last, "{name} {done}");
                last = progress.at(done, 4);
            }
        }
        assert!(last >= 9_999, "{last}");
        progress.part("absent");
        assert_eq!(progress.at(1, 2), 0);
        assert!(progress.finish(Stage::World) >= 0.0);
    }
}
