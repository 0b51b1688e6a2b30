//! Stage 2 and the baselines: what each arm is trained on, the trainings, and the label-free choice of every arm's scale.

use rand::RngExt;
use w2a_align::{Diagnostics, FrozenAdapters};
use w2a_nn::{Checkpoint, Init, NnError, TrainConfig, in_shards};
use w2a_policy::{DemonstrationSet, PolicyNet, train_policy};
use w2a_posttrain::{
    Controller, Frozen, Idm, IdmNet, PolicyControl, PosttrainConfig, Record, ResidualControl, ResidualNet, Rollout,
    Target, choose_gain, normalise, pseudo_episodes, rollout, train_idm, train_residual,
};
use w2a_sim::{CONTROL_HZ, Range, Scene, Split, Tabletop, record_many};
use w2a_world::{GridVideo, Latents, MiniWorld, WorldModel};

use crate::PipelineError;
use crate::align;
use crate::arms::{Arm, TargetKind};
use crate::context::{Context, depends, load_json, model, save_json};
use crate::data::{NARROW, episodes, scenes, task_number};
use crate::horizon::Horizon;
use crate::policy::{BASE, frozen};
use crate::progress::gain_part;
use crate::world::{self, EXPERT, GRID, HORIZON, Imaginer, POSTTRAIN, TUNE};

pub(crate) const IDM: &str = "posttrain/idm";
/// The part of the stage that decodes and labels what was imagined.
pub(crate) const IMAGINATION: &str = "posttrain/imagination";
const CAMERAS: [&str; 2] = ["agent", "wrist"];

/// Everything frozen that the arms share.
pub(crate) struct Shared {
    pub set: DemonstrationSet,
    pub world: MiniWorld,
    pub adapters: FrozenAdapters,
}

impl Shared {
    pub fn load(context: &Context) -> Result<Self, PipelineError> {
        let set = model(DemonstrationSet::new(episodes(context, NARROW)?))?;
        let world = world::load(context)?;
        let adapters = align::load(context, &world, &set.action)?;
        Ok(Self { set, world, adapters })
    }

    /// The residual network that a training left under `name`, without gradients.
    pub fn residual(&self, context: &Context, name: &str) -> Result<ResidualNet, PipelineError> {
        let mut rng = w2a_data::stream(0, "load");
        let init = &mut Init { rng: &mut rng, device: &context.device };
        let config = &context.config.posttrain.stage2.residual;
        let net = model(ResidualNet::new(config, GRID, self.set.proprio.width(), self.adapters.dim(), init))?;
        model(Checkpoint::new(context.path(name)).load(net))
    }

    /// Rolls out one arm at one scale.
    pub fn rollouts(
        &self,
        context: &Context,
        (arm, seed, gain): (Arm, usize, f32),
        scenes: &[Scene],
        decisions: usize,
        record: Record,
        mut tick: impl FnMut(usize),
    ) -> Result<Vec<Rollout>, PipelineError> {
        let chunk_len = self.world.chunk_len();
        let mut policy = frozen(context, arm.policy(context, &self.set, seed, gain)?, &self.set);
        let trained = arm.residual(&context.config).map(|_| self.residual(context, &arm.folder(seed))).transpose()?;
        let mut environment = Tabletop::new(context.config.threads);
        let mut out = Vec::with_capacity(scenes.len());
        let mut controller: Box<dyn Controller + '_> = if trained.is_some() || arm == Arm::BaseDecoded {
            Box::new(ResidualControl {
                policy: &mut policy,
                adapters: &self.adapters,
                residual: trained.as_ref(),
                action: &self.set.action,
                proprio: &self.set.proprio,
                gain,
                decoding: arm.decoding(&context.config),
                chunk_len,
                device: context.device.clone(),
            })
        } else {
            Box::new(PolicyControl { policy: &mut policy, chunk_len })
        };
        for part in scenes.chunks(context.config.eval.batch) {
            out.extend(model(rollout(&mut environment, controller.as_mut(), part, decisions, record))?);
            tick(out.len());
        }
        Ok(out)
    }
}

pub(crate) fn run(context: &mut Context) -> Result<(), PipelineError> {
    let shared = Shared::load(context)?;
    let labels = Arm::taking_part(&context.config).any(Arm::needs_labels);
    let idm = if labels { Some(idm(context, &shared)?) } else { None };
    context.progress.part(IMAGINATION);
    let scenes = world::posttrain_scenes(&context.config)?;
    let imagined = world::latents(context, &Imaginer::Main.imagined(POSTTRAIN))?;
    let (videos, pseudo) = match &idm {
        Some(idm) => {
            let videos = model(shared.world.decode(&imagined))?;
            let pseudo = pseudo_actions(&shared, idm, &scenes, &videos)?;
            (videos, pseudo)
        }
        None => (Vec::new(), Vec::new()),
    };
    report_imagination(context, &shared, idm.as_ref(), &scenes, &videos)?;
    let z_v = embed(&shared, &imagined)?;
    let z_expert = embed(&shared, &world::latents(context, EXPERT)?)?;
    let z_without_skills = if Arm::BaseWorld.takes_part(&context.config) {
        embed(&shared, &world::latents(context, &Imaginer::WithoutSkills.imagined(POSTTRAIN))?)?
    } else {
        Vec::new()
    };
    let chosen = permuted(context, &scenes);
    for arm in Arm::taking_part(&context.config).collect::<Vec<_>>() {
        for seed in 0..arm.seeds(&context.config) {
            if let Some((objective, kind)) = arm.residual(&context.config) {
                let regress = objective.regression > 0.0;
                let targets: Vec<Target> = scenes
                    .iter()
                    .enumerate()
                    .map(|(index, &scene)| Target {
                        scene,
                        z_v: match kind {
                            TargetKind::Imagined => z_v[index].clone(),
                            TargetKind::ImaginedWithoutSkills => z_without_skills[index].clone(),
                            TargetKind::Shuffled => z_v[chosen[index]].clone(),
                            TargetKind::Expert => z_expert[index].clone(),
                        },
                        actions: if regress { pseudo[index].clone() } else { Vec::new() },
                    })
                    .collect();
                let config = PosttrainConfig { objective, ..context.config.posttrain.stage2.clone() };
                residual(context, &shared, &config, &arm.folder(seed), &targets)?;
            } else if matches!(arm, Arm::BaseExtra | Arm::Dreamgen) {
                let dreams = idm.as_ref().filter(|_| arm == Arm::Dreamgen).map(|idm| (idm, &videos[..], &scenes[..]));
                fine_tune(context, &shared, arm, seed, dreams)?;
            } else {
                continue;
            }
            gain(context, &shared, arm, seed)?;
        }
    }
    Ok(())
}

/// `z_v = B_v(V_1..V_T)` of each video, `[T, D]`.
fn embed(shared: &Shared, latents: &[Latents]) -> Result<Vec<Vec<f32>>, PipelineError> {
    latents
        .iter()
        .map(|latents| {
            let mut data = latents.future().to_vec();
            shared.world.statistics().normalise(&mut data);
            model(shared.adapters.video(&data))
        })
        .collect()
}

/// For each scene another one of the same task.
fn permuted(context: &Context, scenes: &[Scene]) -> Vec<usize> {
    let mut rng = w2a_data::stream(context.config.seed, "posttrain/shuffle");
    (0..scenes.len())
        .map(|index| {
            let others: Vec<usize> = (0..scenes.len())
                .filter(|&other| other != index && task_number(&scenes[other]) == task_number(&scenes[index]))
                .collect();
            others.get(rng.random_range(0..others.len().max(1))).copied().unwrap_or(index)
        })
        .collect()
}

fn upstream(context: &Context) -> serde_json::Value {
    let config = &context.config;
    let policy = &config.policy;
    depends(&(&config.data, &config.world, &policy.model, &policy.train, policy.slowdown, &config.align))
}

fn idm(context: &mut Context, shared: &Shared) -> Result<Idm, PipelineError> {
    let config = context.config.posttrain.clone();
    let upstream = depends(&(&config.idm, &context.config.data));
    let net = if Checkpoint::new(context.path(IDM)).step()? >= config.idm_train.steps {
        let mut rng = w2a_data::stream(0, "load");
        let init = &mut Init { rng: &mut rng, device: &context.device };
        let first = &shared.set.episodes[0];
        let net = IdmNet::new(&config.idm, first.cameras.len(), first.proprio_dim, first.action_dim, init);
        model(Checkpoint::new(context.path(IDM)).load(net))?
    } else {
        context.training(IDM, &config.idm_train, upstream, |context, training, steps| {
            let progress = &context.progress;
            model(train_idm(&config.idm, training, &shared.set, &context.device, |report| steps.step(progress, report)))
        })?
    };
    Ok(Idm::new(net, &shared.set, &context.device))
}

/// Normalised pseudo-actions of each imagined video, `[T, M·A]`.
fn pseudo_actions(
    shared: &Shared,
    idm: &Idm,
    scenes: &[Scene],
    videos: &[GridVideo],
) -> Result<Vec<Vec<f32>>, PipelineError> {
    let pairs: Vec<(&Scene, &GridVideo)> = scenes.iter().zip(videos).collect();
    let label = |(scene, video): &(&Scene, &GridVideo)| {
        let (mut actions, _) = idm.label(video, scene.task_info().instruction)?;
        normalise(&shared.set.action, &mut actions)?;
        Ok(actions)
    };
    model(in_shards(&pairs, |pairs| pairs.iter().map(label).collect()))
}

/// Errors of the inverse dynamics model and of the imagination, on scenes nobody trained on.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct ImaginationReport {
    /// Mean absolute error of normalised actions on real expert video; `None` where no arm needs the inverse dynamics
    /// model.
    pub idm_error_real: Option<f32>,
    /// The same on imagined video of the same scenes.
    pub idm_error_imagined: Option<f32>,
    /// Mean squared error of normalised imagined latents against those of the expert's real video.
    pub latent_error: f32,
    /// The same if every imagined latent were the first one: what a model that imagines nothing scores.
    pub latent_error_still: f32,
    /// Scenes compared.
    pub scenes: usize,
}

fn report_imagination(
    context: &Context,
    shared: &Shared,
    idm: Option<&Idm>,
    scenes: &[Scene],
    videos: &[GridVideo],
) -> Result<(), PipelineError> {
    let path = context.path("posttrain/imagination.json");
    if path.exists() {
        return Ok(());
    }
    let count = scenes.len().min(48);
    let horizon: Horizon = load_json(&context.path(HORIZON), "world")?;
    let mean = |values: &[f64]| (values.iter().sum::<f64>() / values.len().max(1) as f64) as f32;
    let errors = match idm {
        Some(idm) => Some(idm_errors(context, shared, idm, &scenes[..count], videos)?),
        None => None,
    };
    context.folder("posttrain")?;
    let report = ImaginationReport {
        idm_error_real: errors.map(|errors| errors.0),
        idm_error_imagined: errors.map(|errors| errors.1),
        latent_error: horizon.models.first().map_or(f32::NAN, |main| mean(&main.latent_error)),
        latent_error_still: mean(&horizon.still_error),
        scenes: count,
    };
    save_json(&path, &report)
}

/// Errors of the actions that the inverse dynamics model reads off real video and off imagined video.
fn idm_errors(
    context: &Context,
    shared: &Shared,
    idm: &Idm,
    scenes: &[Scene],
    videos: &[GridVideo],
) -> Result<(f32, f32), PipelineError> {
    let (mut real, mut dreamt) = (0.0, 0.0);
    for (recording, video) in record_many(scenes, context.config.seed, context.config.threads)?.iter().zip(videos) {
        let episode = &recording.episode;
        let truth = model(w2a_world::grid_video(episode, shared.world.chunk_len(), context.config.chunks()))?;
        let (actions, _) = model(idm.label(&truth, &episode.instruction))?;
        real += model(idm.action_error(&actions, &episode.actions))?;
        let (actions, _) = model(idm.label(video, &episode.instruction))?;
        dreamt += model(idm.action_error(&actions, &episode.actions))?;
    }
    let count = scenes.len().max(1) as f32;
    Ok((real / count, dreamt / count))
}

fn residual(
    context: &mut Context,
    shared: &Shared,
    config: &PosttrainConfig,
    name: &str,
    targets: &[Target],
) -> Result<(), PipelineError> {
    let schedule = TrainConfig { steps: config.rounds * config.updates_per_round, ..config.train.clone() };
    if Checkpoint::new(context.path(name)).step()? >= schedule.steps {
        return Ok(());
    }
    let upstream = depends(&(config, upstream(context)));
    let base = crate::policy::net(context, BASE, &shared.set)?;
    context.training(name, &schedule, upstream, |context, training, steps| {
        let mut policy = frozen(context, base, &shared.set);
        let mut environment = Tabletop::new(context.config.threads);
        let mut frozen = Frozen {
            policy: &mut policy,
            adapters: &shared.adapters,
            action: &shared.set.action,
            proprio: &shared.set.proprio,
            chunk_len: shared.world.chunk_len(),
        };
        // Both callbacks write to the same log.
        let log = std::cell::RefCell::new(steps);
        let on_round = |round: usize, rollouts: &[Rollout], found: &Diagnostics, step: f32| {
            let success = rollouts.iter().filter(|rollout| rollout.success).count() as f64 / rollouts.len() as f64;
            let mut values = vec![
                ("rollout_success", success),
                ("rollout_cosine", f64::from(found.cosine)),
                ("rollout_retrieval", f64::from(found.retrieval)),
                ("rollout_shared", f64::from(found.shared)),
                ("rollout_norm", f64::from(found.norm)),
                ("rollout_step", f64::from(step)),
            ];
            let names: Vec<String> =
                (0..found.cosine_per_chunk.len()).map(|chunk| format!("rollout_cosine_chunk_{chunk:02}")).collect();
            values.extend(
                names.iter().map(String::as_str).zip(found.cosine_per_chunk.iter().map(|value| f64::from(*value))),
            );
            log.borrow_mut().log(round * config.updates_per_round, &values);
        };
        let progress = &context.progress;
        model(train_residual(
            config,
            training,
            &mut frozen,
            &mut environment,
            targets,
            &context.device,
            |report| log.borrow_mut().step(progress, report),
            on_round,
        ))
    })?;
    Ok(())
}

/// Fine-tunes the base policy on its own labels (`base_extra`) or on those and `dreams`, imagined videos of scenes
/// (`dreamgen`).
fn fine_tune(
    context: &mut Context,
    shared: &Shared,
    arm: Arm,
    seed: usize,
    dreams: Option<(&Idm, &[GridVideo], &[Scene])>,
) -> Result<(), PipelineError> {
    let name = arm.folder(seed);
    let config = context.config.policy.clone();
    if Checkpoint::new(context.path(&name)).step()? >= config.fine_tune.steps {
        return Ok(());
    }
    let mut episodes = shared.set.episodes.clone();
    if let Some((idm, videos, scenes)) = dreams {
        let count = videos.len().min(context.config.posttrain.dreamgen_videos);
        let words: Vec<&str> = scenes[..count].iter().map(|scene| scene.task_info().instruction).collect();
        episodes.extend(model(pseudo_episodes(idm, &videos[..count], &words, &CAMERAS, CONTROL_HZ))?);
    }
    let set = DemonstrationSet::normalised_as(episodes, &shared.set);
    let upstream =
        depends(&(upstream(context), &context.config.posttrain.idm_train, context.config.posttrain.dreamgen_videos));
    let start = start(context, &shared.set)?;
    context.training(&name, &config.fine_tune, upstream, |context, training, steps| {
        let (device, progress) = (&context.device, &context.progress);
        model(train_policy(&config.model, training, &set, Some(start), device, |report| steps.step(progress, report)))
    })?;
    Ok(())
}

/// The base policy, ready to be trained further.
fn start(context: &Context, set: &DemonstrationSet) -> Result<PolicyNet, PipelineError> {
    let mut rng = w2a_data::stream(0, "load");
    let device = context.device.clone().autodiff();
    let first = &set.episodes[0];
    let config = &context.config.policy.model;
    let init = &mut Init { rng: &mut rng, device: &device };
    let net = PolicyNet::new(config, first.cameras.len(), first.proprio_dim, first.action_dim, init);
    model(Checkpoint::new(context.path(BASE)).load(net))
}

/// Chooses an arm's scale on the tuning scenes, without labels.
fn gain(context: &mut Context, shared: &Shared, arm: Arm, seed: usize) -> Result<(), PipelineError> {
    let path = context.path(&arm.folder(seed)).join("gain.json");
    if path.exists() {
        return Ok(());
    }
    let scenes = world::tune_scenes(&context.config)?;
    let imagined = world::latents(context, &arm.imaginer().imagined(TUNE))?;
    let decisions = context.config.chunks();
    let config = &context.config.posttrain;
    let gains = if arm.residual(&context.config).is_some() { config.gains.clone() } else { config.shares.clone() };
    context.progress.part(&gain_part(arm, seed));
    let message = format!("{} · choosing the scale", arm.folder(seed));
    let mut tried = 0;
    let run = |gain: f32| {
        let before = tried * scenes.len();
        tried += 1;
        let tick = |done| context.progress.tick(before + done, gains.len() * scenes.len(), &message);
        shared.rollouts(context, (arm, seed, gain), &scenes, decisions, Record::Video, tick).map_err(
            |error| match error {
                PipelineError::Model(error) => error,
                other => NnError::Input {
                    what: "rollouts on tuning scenes".into(),
                    expected: "to run".into(),
                    got: other.to_string(),
                },
            },
        )
    };
    let warp = config.stage2.objective.warp();
    let choice = model(choose_gain(&gains, run, &shared.world, shared.world.statistics(), &imagined, warp))?;
    save_json(&path, &choice)
}

/// Evaluation scenes, all tasks.
pub(crate) fn eval_scenes(context: &Context, range: Range) -> Result<Vec<Scene>, PipelineError> {
    let count = if range == Range::Full { context.config.eval.scenes } else { context.config.eval.narrow_scenes };
    scenes(&context.config, Split::Eval, range, 0, count)
}
