//! Stage 2 and the baselines: what each arm is trained on, the trainings, and the label-free choice of every arm's scale.

use rand::RngExt;
use w2a_nn::{Checkpoint, Init, in_shards};
use w2a_policy::{DemonstrationSet, PolicyNet, train_policy};
use w2a_posttrain::{Idm, IdmNet, Target, normalise, pseudo_episodes, train_idm};
use w2a_sim::{CONTROL_HZ, Range, Scene, Split, record_many};
use w2a_world::{GridVideo, Latents};

use crate::PipelineError;
use crate::arms::{Arm, TargetKind};
use crate::context::{Context, depends, load_json, model, save_json};
use crate::data::{scenes, task_number};
use crate::horizon::Horizon;
use crate::policy::BASE;
use crate::run_world;
use crate::stage2::{Shared, Stage2, choose_scale, embed, scales};
use crate::world::{self, EXPERT, HORIZON, Imaginer, POSTTRAIN};

pub(crate) const IDM: &str = "posttrain/idm";
/// The part of the stage that decodes and labels what was imagined.
pub(crate) const IMAGINATION: &str = "posttrain/imagination";
const CAMERAS: [&str; 2] = ["agent", "wrist"];

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
    let embed = |latents: &[Latents]| embed(&shared.world, &shared.adapters, latents);
    let z_v = embed(&imagined)?;
    let z_expert =
        if Arm::Oracle.takes_part(&context.config) { embed(&world::latents(context, EXPERT)?)? } else { vec![] };
    let z_without_skills = if Arm::BaseWorld.takes_part(&context.config) {
        embed(&world::latents(context, &Imaginer::WithoutSkills.imagined(POSTTRAIN))?)?
    } else {
        Vec::new()
    };
    let chosen = permuted(context, &scenes);
    for arm in Arm::taking_part(&context.config).collect::<Vec<_>>() {
        for seed in 0..arm.seeds(&context.config) {
            let name = arm.folder(seed);
            if let Some((config, kind)) = arm.residual(&context.config) {
                let z_v = |index: usize| match kind {
                    TargetKind::Imagined => &z_v[index],
                    TargetKind::ImaginedWithoutSkills => &z_without_skills[index],
                    TargetKind::Shuffled => &z_v[chosen[index]],
                    TargetKind::Expert => &z_expert[index],
                };
                let pseudo = (config.objective.regression > 0.0).then_some(&pseudo[..]);
                let stage2 = Stage2 { name: &name, config: &config, adapters: &shared.adapters };
                let depends = depends(&(&config, upstream(context)?));
                stage2.train(context, &shared, &targets(&scenes, z_v, pseudo), depends)?;
            } else if matches!(arm, Arm::BaseExtra | Arm::Dreamgen) {
                let dreams = idm.as_ref().filter(|_| arm == Arm::Dreamgen).map(|idm| (idm, &videos[..], &scenes[..]));
                fine_tune(context, &shared, arm, seed, dreams)?;
            } else {
                continue;
            }
            choose(context, &shared, arm, seed)?;
        }
    }
    Ok(())
}

/// Chooses the scale of an arm.
pub(crate) fn choose(context: &mut Context, shared: &Shared, arm: Arm, seed: usize) -> Result<(), PipelineError> {
    let scales = match arm.residual(&context.config) {
        Some((config, _)) => scales(&context.config, config.form),
        None => context.config.posttrain.shares.clone(),
    };
    let source = (&*arm.folder(seed), arm.imaginer());
    choose_scale(context, shared, source, &scales, |context, scale| arm.actor(context, shared, seed, scale))
}

/// What each scene is pulled towards.
pub(crate) fn targets<'a>(
    scenes: &[Scene],
    z_v: impl Fn(usize) -> &'a Vec<f32>,
    pseudo: Option<&[Vec<f32>]>,
) -> Vec<Target> {
    let target = |(index, &scene): (usize, &Scene)| Target {
        scene,
        z_v: z_v(index).clone(),
        actions: pseudo.map_or(Vec::new(), |pseudo| pseudo[index].clone()),
    };
    scenes.iter().enumerate().map(target).collect()
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

/// What every training of stage 2 depends on.
pub(crate) fn upstream(context: &Context) -> Result<serde_json::Value, PipelineError> {
    let config = &context.config;
    let (policy, world) = (&config.policy, run_world::upstream(context)?);
    let upstream = depends(&(&config.data, world, &policy.model, &policy.train, policy.slowdown, &config.align));
    // In this form, so that what was trained before there were other base policies is still known.
    Ok(match crate::policy::foreign(context)? {
        None => upstream,
        Some(foreign) => depends(&(upstream, foreign)),
    })
}

/// The inverse dynamics model, trained if it is not.
pub(crate) fn idm(context: &mut Context, shared: &Shared) -> Result<Idm, PipelineError> {
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
pub(crate) fn pseudo_actions(
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
    /// model, and in LIBERO, whose expert is not at hand.
    pub idm_error_real: Option<f32>,
    /// The same on imagined video of the same scenes.
    pub idm_error_imagined: Option<f32>,
    /// Mean squared error of normalised imagined latents against those of the expert's real video.
    pub latent_error: f32,
    /// The same if every imagined latent were the first one: what a model that imagines nothing scores.
    pub latent_error_still: f32,
    /// The same if every scene went as the average training video of its task; `None` where the corpus has no whole episodes.
    #[serde(default)]
    pub latent_error_average: Option<f32>,
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
    // Without the expert's video there is nothing to compare with.
    if path.exists() || !context.path(HORIZON).exists() {
        return Ok(());
    }
    let horizon: Horizon = load_json(&context.path(HORIZON), "world")?;
    let count = scenes.len().min(48).min(horizon.scenes);
    let mean = |values: &[f64]| (values.iter().sum::<f64>() / values.len().max(1) as f64) as f32;
    let errors = match idm.filter(|_| !context.config.is_libero()) {
        Some(idm) => Some(idm_errors(context, shared, idm, &scenes[..count], videos)?),
        None => None,
    };
    context.folder("posttrain")?;
    let report = ImaginationReport {
        idm_error_real: errors.map(|errors| errors.0),
        idm_error_imagined: errors.map(|errors| errors.1),
        latent_error: horizon.models.first().map_or(f32::NAN, |main| mean(&main.latent_error)),
        latent_error_still: mean(&horizon.still_error),
        latent_error_average: Some(mean(&horizon.average_error)).filter(|_| !horizon.average_error.is_empty()),
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
        depends(&(upstream(context)?, &context.config.posttrain.idm_train, context.config.posttrain.dreamgen_videos));
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

/// Evaluation scenes, all tasks.
pub(crate) fn eval_scenes(context: &Context, range: Range) -> Result<Vec<Scene>, PipelineError> {
    let count = if range == Range::Narrow { context.config.eval.narrow_scenes } else { context.config.eval.scenes };
    scenes(&context.config, Split::Eval, range, 0, count)
}
