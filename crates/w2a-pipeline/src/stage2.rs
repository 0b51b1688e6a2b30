//! One training of stage 2 in any of its forms: what it is pulled towards, the training and its time, the label-free
//! choice of its scale, and what acts afterwards.

use std::path::{Path, PathBuf};
use std::time::Instant;

use w2a_align::{Diagnostics, FrozenAdapters};
use w2a_nn::{Checkpoint, Init, NnError, TrainConfig};
use w2a_policy::{DemonstrationSet, SlowPolicy};
use w2a_posttrain::{
    Controller, Decoding, Form, Frozen, Lora, PolicyControl, PosttrainConfig, Record, Residual, ResidualControl,
    Rollout, Target, choose_gain, peft, rollout, train_lora, train_residual,
};
use w2a_sim::{Scene, batches};
use w2a_world::Latents;

use crate::context::{Context, load_json, model, save_json};
use crate::policy::{Adaptable, Base, at_pace, base, demonstrations};
use crate::progress::gain_part;
use crate::run_world::RunWorld;
use crate::world::{self, Imaginer, TUNE};
use crate::{Config, PipelineError, align};

/// Everything frozen that the methods share.
pub(crate) struct Shared {
    pub set: DemonstrationSet,
    pub world: RunWorld,
    pub adapters: FrozenAdapters,
}

impl Shared {
    pub fn load(context: &Context) -> Result<Self, PipelineError> {
        let set = demonstrations(context)?;
        let world = world::load(context)?;
        let adapters = align::load(context, align::ADAPTERS, &world, &set.action)?;
        Ok(Self { set, world, adapters })
    }

    /// The frozen base policy.
    pub fn base(&self, context: &Context) -> Result<SlowPolicy<Base>, PipelineError> {
        base(context, &self.set)
    }

    /// The base policy whose weights LoRA adapts; a server's are refused long before.
    fn adaptable(&self, context: &Context) -> Result<Adaptable, PipelineError> {
        match self.base(context)?.policy {
            Base::Here(policy) => Ok(policy),
            Base::Remote(_) => Err(PipelineError::Config {
                key: "policy.remote".into(),
                expected: "nothing with LoRA: the weights of a server are out of reach".into(),
                got: context.config.policy.remote.clone(),
            }),
        }
    }

    /// Rolls out a method; `tick` hears how many episodes are done.
    pub fn rollouts(
        &self,
        context: &Context,
        actor: Actor,
        scenes: &[Scene],
        decisions: usize,
        record: Record,
        mut tick: impl FnMut(usize),
    ) -> Result<Vec<Rollout>, PipelineError> {
        let mut done: Vec<(usize, Rollout)> = Vec::with_capacity(scenes.len());
        self.act(context, actor, &plan(context, scenes)?, (decisions, record), |rollouts| {
            done.extend(rollouts);
            tick(done.len());
            Ok(())
        })?;
        done.sort_by_key(|(place, _)| *place);
        Ok(done.into_iter().map(|(_, rollout)| rollout).collect())
    }

    /// Rolls out a method in batches of [`plan`], each for as many decisions; `each` takes the episodes of one with
    /// their places.
    pub fn act(
        &self,
        context: &Context,
        actor: Actor,
        batches: &[Batch],
        (decisions, record): (usize, Record),
        mut each: impl FnMut(Vec<(usize, Rollout)>) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let chunk_len = self.world.chunk_len();
        let Actor { mut policy, bend } = actor;
        let mut controller: Box<dyn Controller + '_> = match &bend {
            None => Box::new(PolicyControl { policy: &mut policy, chunk_len }),
            Some(Bend { adapters, residual, gain, decoding }) => Box::new(ResidualControl {
                policy: &mut policy,
                adapters,
                residual: residual.as_ref(),
                action: &self.set.action,
                proprio: &self.set.proprio,
                gain: *gain,
                decoding: *decoding,
                chunk_len,
                device: context.device.clone(),
            }),
        };
        context.acting(|environment| {
            for batch in batches {
                let scenes: Vec<Scene> = batch.iter().map(|(_, scene)| *scene).collect();
                let rollouts = model(rollout(environment, controller.as_mut(), &scenes, decisions, record))?;
                each(batch.iter().map(|(place, _)| *place).zip(rollouts).collect())?;
            }
            Ok(())
        })
    }
}

/// Scenes that are rolled out side by side, with their places among all.
pub(crate) type Batch = Vec<(usize, Scene)>;

/// The batches of scenes: as many as `eval.batch` says and the simulator has room for.
pub(crate) fn plan(context: &Context, scenes: &[Scene]) -> Result<Vec<Batch>, PipelineError> {
    let size = context.config.eval.batch.max(1);
    let capacity = context.acting(|environment| Ok(environment.capacity()))?;
    let parts = scenes.chunks(size).enumerate().flat_map(|(part, scenes)| {
        let placed = move |(place, scene): (usize, Scene)| (part * size + place, scene);
        batches(scenes, capacity).into_iter().map(move |batch| batch.into_iter().map(placed).collect())
    });
    Ok(parts.collect())
}

/// What acts in a rollout: a policy, and what bends its chunks if anything does.
pub(crate) struct Actor<'a> {
    pub policy: SlowPolicy<Base>,
    pub bend: Option<Bend<'a>>,
}

/// The shared space between a policy and the environment.
pub(crate) struct Bend<'a> {
    pub adapters: &'a FrozenAdapters,
    /// `None` is a step of zero.
    pub residual: Option<Residual>,
    pub gain: f32,
    pub decoding: Decoding,
}

/// One training of stage 2.
#[derive(Clone, Copy)]
pub(crate) struct Stage2<'n, 'a> {
    /// Its folder, which is also its name in the log.
    pub name: &'n str,
    pub config: &'n PosttrainConfig,
    pub adapters: &'a FrozenAdapters,
}

impl<'a> Stage2<'_, 'a> {
    fn steps(self) -> usize {
        self.config.rounds * self.config.updates_per_round
    }

    /// Whether the training is done.
    pub fn is_trained(self, context: &Context) -> Result<bool, PipelineError> {
        Ok(Checkpoint::new(context.path(self.name)).step()? >= self.steps())
    }

    /// Trains, unless that is done.
    pub fn train(
        self,
        context: &mut Context,
        shared: &Shared,
        targets: &[Target],
        upstream: serde_json::Value,
    ) -> Result<(), PipelineError> {
        let Self { name, config, .. } = self;
        let schedule = TrainConfig { steps: self.steps(), ..config.train.clone() };
        let done = Checkpoint::new(context.path(name)).step()?;
        if done < schedule.steps {
            let mut clock = Clock::open(context.path(name), done / config.updates_per_round);
            context.training(name, &schedule, upstream, |context, training, steps| {
                let progress = &context.progress;
                // Both callbacks write to the same log.
                let log = std::cell::RefCell::new(steps);
                let on_step = |report: &w2a_nn::StepReport| {
                    log.borrow_mut().step(progress, report);
                    if report.step.is_multiple_of(config.updates_per_round) {
                        clock.round();
                    }
                };
                let on_round = |round: usize, rollouts: &[Rollout], found: &Diagnostics, step: f32| {
                    let values = round_values(rollouts, found, step);
                    let values: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
                    log.borrow_mut().log(round * config.updates_per_round, &values);
                };
                let device = &context.device;
                context.acting(|environment| {
                    if config.form == Form::Lora {
                        let mut policy = shared.adaptable(context)?;
                        let mut frozen = self.frozen(shared, &mut policy);
                        model(train_lora(
                            config,
                            training,
                            &mut frozen,
                            environment,
                            targets,
                            device,
                            on_step,
                            on_round,
                        ))?;
                    } else {
                        let mut policy = shared.base(context)?;
                        let mut frozen = self.frozen(shared, &mut policy);
                        model(train_residual(
                            config,
                            training,
                            &mut frozen,
                            environment,
                            targets,
                            device,
                            on_step,
                            on_round,
                        ))?;
                    }
                    Ok(())
                })
            })?;
            clock.saved?;
        }
        let folder = self.peft_folder(context);
        let exported = done >= schedule.steps && folder.join(peft::CONFIG_FILE).exists();
        if config.form == Form::Lora && !exported { self.export(context, shared, &folder) } else { Ok(()) }
    }

    fn frozen<'f, P>(self, shared: &'f Shared, policy: &'f mut P) -> Frozen<'f, P>
    where
        'a: 'f,
    {
        Frozen {
            policy,
            adapters: self.adapters,
            action: &shared.set.action,
            proprio: &shared.set.proprio,
            chunk_len: shared.world.chunk_len(),
        }
    }

    /// Writes trained LoRA adapters as PEFT's files, from which they are loaded afterwards.
    fn export(self, context: &Context, shared: &Shared, folder: &Path) -> Result<(), PipelineError> {
        let mut rng = w2a_data::stream(0, "load");
        let init = &mut Init { rng: &mut rng, device: &context.device };
        let fresh = model(Lora::new(&self.config.lora, &shared.adaptable(context)?, init))?;
        let lora = model(Checkpoint::new(context.path(self.name)).load(fresh))?;
        model(lora.save_peft(folder))
    }

    fn peft_folder(self, context: &Context) -> PathBuf {
        context.path(self.name).join("adapter")
    }

    fn lora(self, context: &Context, base: &Adaptable) -> Result<Lora, PipelineError> {
        let mut rng = w2a_data::stream(0, "load");
        let init = &mut Init { rng: &mut rng, device: &context.device };
        model(Lora::load_peft(&self.peft_folder(context), base, init))
    }

    /// The trained residual.
    pub fn residual(self, context: &Context, shared: &Shared) -> Result<Residual, PipelineError> {
        let mut rng = w2a_data::stream(0, "load");
        let init = &mut Init { rng: &mut rng, device: &context.device };
        let Self { name, config, adapters } = self;
        let proprio = shared.set.proprio.width();
        let fresh =
            model(Residual::new(config.form, &config.residual, context.config.grid(), proprio, adapters, init))?;
        model(Checkpoint::new(context.path(name)).load(fresh))
    }

    /// What acts after the training, at a scale.
    pub fn actor(self, context: &Context, shared: &Shared, gain: f32) -> Result<Actor<'a>, PipelineError> {
        if self.config.form == Form::Lora {
            let plain = shared.adaptable(context)?;
            let adapted = model(self.lora(context, &plain)?.apply(&plain, gain))?;
            return Ok(Actor { policy: at_pace(context, Base::Here(adapted)), bend: None });
        }
        let policy = shared.base(context)?;
        let residual = Some(self.residual(context, shared)?);
        let bend = Bend { adapters: self.adapters, residual, gain, decoding: self.config.decoding };
        Ok(Actor { policy, bend: Some(bend) })
    }

    /// Numbers that the training changed.
    pub fn parameters(self, context: &Context, shared: &Shared) -> Result<usize, PipelineError> {
        use burn::module::Module;
        if self.config.form == Form::Lora {
            return Ok(self.lora(context, &shared.adaptable(context)?)?.num_params());
        }
        Ok(self.residual(context, shared)?.num_params())
    }

    /// Seconds that the training took, over all resumes; `None` if a part of it was not timed.
    pub fn seconds(self, context: &Context) -> Option<f64> {
        let rounds: Vec<f64> = load_json(&context.path(self.name).join(SECONDS), "posttrain").ok()?;
        rounds.get(self.config.rounds.checked_sub(1)?).copied()
    }
}

/// The scales among which the rule chooses for a form. Bending `z` needs small ones; a change of actions or of weights is
/// whole at 1, so that shares of the whole are tried as well.
pub(crate) fn scales(config: &Config, form: Form) -> Vec<f32> {
    let after = &config.posttrain;
    let mut scales = after.gains.clone();
    if form != Form::Latent {
        scales.extend_from_slice(&after.shares);
    }
    scales.sort_by(f32::total_cmp);
    scales.dedup();
    scales
}

/// Chooses a method's scale on the tuning scenes by what `imaginer` imagined there, without labels, unless that is done.
/// `actor` makes what acts at a scale.
pub(crate) fn choose_scale<'a>(
    context: &mut Context,
    shared: &Shared,
    (name, imaginer): (&str, Imaginer),
    scales: &[f32],
    actor: impl Fn(&Context, f32) -> Result<Actor<'a>, PipelineError>,
) -> Result<(), PipelineError> {
    let path = gain_path(context, name);
    if path.exists() {
        return Ok(());
    }
    let scenes = world::tune_scenes(&context.config)?;
    let imagined = world::latents(context, &imaginer.imagined(TUNE))?;
    let decisions = context.config.chunks();
    context.progress.part(&gain_part(name));
    let message = format!("{name} · choosing the scale");
    let mut tried = 0;
    let run = |scale: f32| {
        let before = tried * scenes.len();
        tried += 1;
        let tick = |done| context.progress.tick(before + done, scales.len() * scenes.len(), &message);
        let rollouts = actor(context, scale)
            .and_then(|actor| shared.rollouts(context, actor, &scenes, decisions, Record::Video, tick));
        rollouts.map_err(|error| match error {
            PipelineError::Model(error) => error,
            other => NnError::Input {
                what: "rollouts on tuning scenes".into(),
                expected: "to run".into(),
                got: other.to_string(),
            },
        })
    };
    let choice = model(choose_gain(scales, run, &*shared.world, shared.world.statistics(), &imagined))?;
    save_json(&path, &choice)
}

/// Where the choice of a scale is kept.
pub(crate) fn gain_path(context: &Context, name: &str) -> PathBuf {
    context.path(name).join("gain.json")
}

/// `z_v = B_v(V_1..V_T)` of each video, `[T, D]`.
pub(crate) fn embed(
    world: &RunWorld,
    adapters: &FrozenAdapters,
    latents: &[Latents],
) -> Result<Vec<Vec<f32>>, PipelineError> {
    latents
        .iter()
        .map(|latents| {
            let mut data = latents.future().to_vec();
            world.statistics().normalise(&mut data);
            model(adapters.video(&data))
        })
        .collect()
}

/// What is logged about a round's rollouts.
fn round_values(rollouts: &[Rollout], found: &Diagnostics, step: f32) -> Vec<(String, f64)> {
    let success = rollouts.iter().filter(|rollout| rollout.success).count() as f64 / rollouts.len() as f64;
    let values = [
        ("rollout_success", success),
        ("rollout_cosine", f64::from(found.cosine)),
        ("rollout_retrieval", f64::from(found.retrieval)),
        ("rollout_shared", f64::from(found.shared)),
        ("rollout_norm", f64::from(found.norm)),
        ("rollout_step", f64::from(step)),
    ];
    let chunks = found.cosine_per_chunk.iter().enumerate();
    let chunks = chunks.map(|(chunk, value)| (format!("rollout_cosine_chunk_{chunk:02}"), f64::from(*value)));
    values.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(chunks).collect()
}

/// Seconds at the end of each round, added up over resumes, beside the checkpoints of a training.
const SECONDS: &str = "seconds.json";

/// Times a training by its rounds, at whose ends it can resume.
struct Clock {
    path: PathBuf,
    /// At the end of each round; `None` once an earlier process has left no time.
    rounds: Option<Vec<f64>>,
    started: Instant,
    before: f64,
    saved: Result<(), PipelineError>,
}

impl Clock {
    /// Continues after `done` rounds of the training in `folder`.
    fn open(folder: PathBuf, done: usize) -> Self {
        let path = folder.join(SECONDS);
        let rounds = if done == 0 { Some(Vec::new()) } else { timed(&path, done) };
        let before = rounds.as_ref().and_then(|rounds| rounds.last().copied()).unwrap_or(0.0);
        Self { path, rounds, started: Instant::now(), before, saved: Ok(()) }
    }

    /// A round is over.
    fn round(&mut self) {
        let now = self.before + self.started.elapsed().as_secs_f64();
        let Some(rounds) = &mut self.rounds else { return };
        rounds.push(now);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let made = fs_err::create_dir_all(folder).map_err(|source| PipelineError::io("creating a folder", source));
        let saved = made.and_then(|()| save_json(&self.path, rounds));
        if self.saved.is_ok() {
            self.saved = saved;
        }
    }
}

/// The times of the first `done` rounds, if they were kept.
fn timed(path: &Path, done: usize) -> Option<Vec<f64>> {
    let mut rounds: Vec<f64> = load_json(path, "posttrain").ok()?;
    rounds.truncate(done);
    (rounds.len() == done).then_some(rounds)
}

#[cfg(test)]
mod tests {
    use w2a_posttrain::Form;

    use super::{Clock, SECONDS, scales};
    use crate::{Config, Profile};

    #[test]
    fn the_time_of_a_training_adds_up_over_resumes_and_is_unknown_if_a_part_is() {
        let folder = tempfile::tempdir().unwrap();
        let read =
            || -> Vec<f64> { serde_json::from_slice(&fs_err::read(folder.path().join(SECONDS)).unwrap()).unwrap() };
        let mut clock = Clock::open(folder.path().to_owned(), 0);
        clock.round();
        clock.round();
        assert_eq!(read().len(), 2);
        fs_err::write(folder.path().join(SECONDS), "[10.0, 20.0]").unwrap();
        // Killed before the checkpoint of the second round was complete.
        let mut clock = Clock::open(folder.path().to_owned(), 1);
        clock.round();
        assert!(read().len() == 2 && read()[0] == 10.0 && (10.0..11.0).contains(&read()[1]), "{:?}", read());
        fs_err::remove_file(folder.path().join(SECONDS)).unwrap();
        let mut clock = Clock::open(folder.path().to_owned(), 1);
        clock.round();
        assert!(clock.saved.is_ok() && !folder.path().join(SECONDS).exists());
    }

    #[test]
    fn a_change_that_is_whole_at_one_is_tried_at_one() {
        let config = Config::profile(Profile::Quick);
        assert_eq!(scales(&config, Form::Latent), config.posttrain.gains);
        for form in [Form::Action, Form::Lora] {
            let scales = scales(&config, form);
            assert!(scales.contains(&0.05) && scales.last() == Some(&1.0), "{scales:?}");
            assert!(scales.windows(2).all(|pair| pair[0] < pair[1]), "{scales:?}");
        }
    }
}
