//! What a configuration must fulfil before anything is touched: one flat list, by section.

use std::fmt::Debug;

use w2a_align::{AdapterKind, Contrast, Negatives, Similarity};
use w2a_nn::{AdamWConfig, DEVICES, TrainConfig, VisionConfig};
use w2a_posttrain::{Decoding, Form, ObjectiveConfig};
use w2a_sim::{Suite, TaskInfo, tasks};

use crate::arms::Arm;
use crate::run_world::WorldKind;
use crate::{Config, PipelineError};

/// Most scenes a task may have in one corpus: the corpora's scene numbers lie this far apart.
const MOST_SCENES: usize = 1_000_000;
/// More negatives or chunks of a window than any use of them; a slip would only fill the memory.
const MOST_NEGATIVES: usize = 4096;
const MOST_CHUNKS: usize = 4096;
/// A policy that is slower cannot come anywhere within the time of an episode.
const MOST_SLOWDOWN: f32 = 4.0;
/// More than any LoRA in use; a slip would only fill the memory.
const MOST_RANK: usize = 4096;
/// More threads than any machine this program knows; mostly a slip of the hand.
const MOST_THREADS: usize = 1024;

impl Config {
    /// Checks what can be checked before anything is touched.
    ///
    /// # Errors
    /// [`PipelineError::Config`] naming the first field that cannot be.
    pub fn validate(&self) -> Result<(), PipelineError> {
        let suites = self.suites()?;
        let rules = &mut Rules::default();
        rules.between("threads", self.threads, 1, MOST_THREADS);
        let expected = format!("one of this build's: {}", DEVICES.join(", "));
        for (key, holds, expected, got) in self.libero_rules() {
            rules.check(key, holds, &expected, got);
        }
        rules.check("device", DEVICES.contains(&self.device.as_str()), &expected, &self.device);

        let is_mini = self.world.kind == WorldKind::Mini;
        let expected = if is_mini { "nothing with world.kind = mini" } else { "the folder of a checkpoint" };
        rules.check("world.path", self.world.path.is_empty() == is_mini, expected, &self.world.path);
        let known = self.world.views.is_empty() || self.world.rig().is_some();
        let rigs = w2a_world::Rig::ALL.map(w2a_world::Rig::name).join(", ");
        rules.check("world.views", known, &format!("one of {rigs}, or nothing"), &self.world.views);

        let data = &self.data;
        let listed_once = (1..suites.len()).all(|index| !suites[..index].contains(&suites[index]));
        rules.check("data.suites", !suites.is_empty() && listed_once, "at least one suite, each once", &data.suites);
        let mixed = suites.len() > 1 && suites.contains(&Suite::Long);
        let expected = "long alone, or some of object, spatial and goal: the episodes of long have another length";
        rules.check("data.suites", !mixed, expected, &data.suites);
        rules.between("data.labelled", data.labelled, 2, MOST_SCENES);
        // Only the embedded world model is trained on them.
        rules.between("data.videos", data.videos, if is_mini { 2 } else { 0 }, MOST_SCENES);
        rules.between("data.posttrain_scenes", data.posttrain_scenes, 2, MOST_SCENES);
        rules.between("data.tune_scenes", data.tune_scenes, 1, MOST_SCENES);
        let version = w2a_data::Version::from_name(&data.lerobot_version);
        rules.check("data.lerobot_version", version.is_some(), "v2.1 or v3.0", &data.lerobot_version);

        let world = &self.world;
        rules.at_least("world.autoencoder_videos", world.autoencoder_videos, 1);
        rules.sharded("world.autoencoder_train", &world.autoencoder_train);
        rules.sharded("world.flow_train", &world.flow_train);

        let expected = "false with world.kind = cosmos: that model is fine-tuned on skills by `world finetune`";
        rules.check("world.skills", is_mini || !world.skills, expected, world.skills);
        let chunk = self.chunk_len();

        let long = suites == [Suite::Long];
        let expected = "false where data.suites is not [\"long\"]: the other tasks are one skill each";
        rules.check("world.skills", long || !world.skills, expected, world.skills);
        let of_task = |task: TaskInfo| if self.is_libero() { self.episode_steps() } else { task.demo_steps };
        let steps: Vec<usize> = suites.iter().flat_map(|suite| tasks(*suite)).map(of_task).collect();
        if is_mini {
            self.mini_world(rules, &steps, long);
        } else {
            let whole = steps.iter().all(|steps| steps.is_multiple_of(chunk));
            let expected = format!("mini: control steps of a demonstration are no multiple of {chunk}");
            rules.check("world.kind", whole, &expected, world.kind);
            // A window of stage 1 is one chunk shorter than an episode.
            let least = if self.align.sliding_windows { 2 } else { 1 };
            rules.check("world.kind", self.chunks() >= least, "mini: episodes are shorter than a window", world.kind);
        }

        let policy = &self.policy;
        rules.vision("policy.model.vision", &policy.model.vision, self.side());
        rules.at_least("policy.model.hidden", policy.model.hidden, 1);
        let expected = format!("at least the {chunk} control steps of a chunk of the world model");
        rules.check("policy.model.horizon", policy.model.horizon >= chunk, &expected, policy.model.horizon);
        rules.sharded("policy.train", &policy.train);
        rules.sharded("policy.fine_tune", &policy.fine_tune);
        let slow = (1.0..=MOST_SLOWDOWN).contains(&policy.slowdown);
        rules.check("policy.slowdown", slow, &format!("1 to {MOST_SLOWDOWN}"), policy.slowdown);
        let is_remote = !policy.remote.is_empty();
        let address = !is_remote || policy.remote.parse::<w2a_serve::Url>().is_ok();
        rules.check("policy.remote", address, "groot://host:port or openpi://host:port", &policy.remote);
        let groot = &policy.groot;
        rules.check(
            "policy.groot.path",
            !(is_remote && policy.is_groot()),
            "nothing with policy.remote: there is one base policy",
            &groot.path,
        );
        let expected = "the tag of an embodiment with policy.groot.path, and nothing without; `policy info` lists them";
        let has_tag = groot.embodiment.is_empty() != policy.is_groot();
        rules.check("policy.groot.embodiment", has_tag, expected, &groot.embodiment);
        for (key, value) in [("policy.groot.backbone", &groot.backbone), ("policy.groot.adapter", &groot.adapter)] {
            rules.check(key, policy.is_groot() || value.is_empty(), "nothing without policy.groot.path", value);
        }
        let with_server = is_remote || policy.remote_token_env.is_empty();
        let expected = "nothing without policy.remote";
        rules.check("policy.remote_token_env", with_server, expected, &policy.remote_token_env);

        let align = &self.align;
        rules.at_least("align.adapter.dim", align.adapter.dim, 1);
        rules.not_negative("align.loss.reconstruction", align.loss.reconstruction);
        rules.contrast("align.loss", &align.loss.contrast());
        rules.not_negative("align.loss.all_chunks", align.loss.all_chunks);
        rules.not_negative("align.loss.cross_reconstruction", align.loss.cross_reconstruction);
        rules.share("align.hard_negatives", align.hard_negatives);
        rules.not_negative("align.latent_noise", align.latent_noise);
        rules.not_negative("align.loss.distance", align.loss.distance);
        let vae = &align.vae;
        rules.positive("align.vae.temperature", vae.temperature);
        rules.not_negative("align.vae.reconstruction", vae.reconstruction);
        rules.not_negative("align.vae.contrast", vae.contrast);
        rules.not_negative("align.vae.kl", vae.kl);
        rules.between("align.vae.negatives", vae.negatives, 1, MOST_NEGATIVES);
        rules.share("align.vae.hard_negatives", vae.hard_negatives);
        rules.between("align.vae.window", vae.window, 1, MOST_CHUNKS);
        rules.between("align.vae.paired", vae.paired, 1, vae.window);
        let is_vae = align.adapter.kind == AdapterKind::ActionVae;
        let expected = "an even number for align.adapter = action-vae";
        rules.check("world.model.autoencoder.frames", !is_vae || chunk.is_multiple_of(2), expected, chunk);
        rules.train("align.train", &align.train);
        // In a batch of one trajectory the paper's contrast has no negatives; the action VAE draws its own.
        rules.at_least("align.train.batch", align.train.batch, if is_vae { 1 } else { 2 });

        let after = &self.posttrain;
        rules.methods(&after.methods, world.skills);
        let gains_fit = !after.gains.is_empty() && after.gains.iter().all(|gain| gain.is_finite() && *gain >= 0.0);
        rules.check("posttrain.gains", gains_fit, "at least one finite number, none negative", &after.gains);
        let shares_fit = !after.shares.is_empty() && after.shares.iter().all(|share| (0.0..=1.0).contains(share));
        rules.check("posttrain.shares", shares_fit, "at least one number, each between 0 and 1", &after.shares);
        rules.at_least("posttrain.seeds", after.seeds, 1);
        rules.at_least("posttrain.control_seeds", after.control_seeds, 1);
        rules.at_least("posttrain.dreamgen_videos", after.dreamgen_videos, 1);
        rules.vision("posttrain.idm.vision", &after.idm.vision, self.side());
        rules.at_least("posttrain.idm.hidden", after.idm.hidden, 1);
        rules.sharded("posttrain.idm_train", &after.idm_train);

        let stage2 = &after.stage2;
        rules.at_least("posttrain.stage2.rounds", stage2.rounds, 1);
        rules.at_least("posttrain.stage2.scenes_per_round", stage2.scenes_per_round, 2);
        rules.at_least("posttrain.stage2.updates_per_round", stage2.updates_per_round, 1);
        rules.not_negative("posttrain.stage2.rollout_gain", stage2.rollout_gain);
        rules.at_least("posttrain.stage2.residual.width", stage2.residual.width, 1);
        rules.at_least("posttrain.stage2.residual.depth", stage2.residual.depth, 1);
        rules.divides("posttrain.stage2.residual.heads", stage2.residual.heads, &[stage2.residual.width]);
        rules.train("posttrain.stage2.train", &stage2.train);
        rules.at_least("posttrain.stage2.train.batch", stage2.train.batch, 2);
        rules.between("posttrain.stage2.lora.rank", stage2.lora.rank, 1, MOST_RANK);
        rules.positive("posttrain.stage2.lora.alpha", stage2.lora.alpha);
        let fits = stage2.form == Form::Latent || stage2.decoding == Decoding::Delta;
        rules.check("posttrain.stage2.decoding", fits, "delta where posttrain.stage2.form is not latent", "plain");
        let ObjectiveConfig { cosine, infonce, regression, step_penalty, .. } = stage2.objective;
        rules.not_negative("posttrain.stage2.objective.cosine", cosine);
        rules.not_negative("posttrain.stage2.objective.infonce", infonce);
        rules.not_negative("posttrain.stage2.objective.regression", regression);
        rules.not_negative("posttrain.stage2.objective.step_penalty", step_penalty);
        rules.positive("posttrain.stage2.objective.alignment_gamma", stage2.objective.alignment_gamma);
        rules.between("posttrain.stage2.objective.alignment_band", stage2.objective.alignment_band, 0, MOST_CHUNKS);
        let expected = "same-step where posttrain.stage2.objective.cosine is 0: only the cosine is aligned";
        let aligns = cosine > 0.0 || stage2.objective.warp().is_none();
        rules.check("posttrain.stage2.objective.alignment", aligns, expected, stage2.objective.alignment);
        let own_pace = stage2.form != Form::Lora || policy.slowdown == 1.0;
        let expected = "latent or action where policy.slowdown is not 1: LoRA changes the policy at its own pace";
        rules.check("posttrain.stage2.form", own_pace, expected, stage2.form);
        let has_weights = stage2.form != Form::Lora || !is_remote;
        let expected = "latent or action with policy.remote: the weights of a server are out of reach for LoRA";
        rules.check("posttrain.stage2.form", has_weights, expected, stage2.form);
        let trains_base = after.methods.iter().any(|name| Arm::TRAIN_THE_BASE.map(Arm::name).contains(&name.as_str()));
        let expected = "no base_extra and no dreamgen with policy.remote or policy.groot: both train the embedded base \
                        policy further";
        rules.check("posttrain.methods", !(policy.is_foreign() && trains_base), expected, &after.methods);
        let pulls = [cosine, infonce, regression];
        let expected = "cosine, infonce or regression above 0";
        rules.check("posttrain.stage2.objective", pulls.iter().any(|weight| *weight > 0.0), expected, "none");
        rules.contrast("posttrain.stage2.objective", &stage2.objective.contrast());
        let Contrast { video_to_action, action_to_video, .. } = stage2.objective.contrast();
        let expected = "video_to_action or action_to_video above 0 where infonce is";
        let directed = infonce == 0.0 || video_to_action > 0.0 || action_to_video > 0.0;
        rules.check("posttrain.stage2.objective", directed, expected, "neither");

        rules.between("eval.scenes", self.eval.scenes, 1, MOST_SCENES);
        rules.between("eval.narrow_scenes", self.eval.narrow_scenes, 1, MOST_SCENES);
        rules.at_least("eval.batch", self.eval.batch, 1);
        rules.broken.take().map_or(Ok(()), Err)
    }

    /// The embedded world model's own sizes; `steps` are those of the demonstrations of each task.
    fn mini_world(&self, rules: &mut Rules, steps: &[usize], long: bool) {
        let (height, width) = self.grid();
        let autoencoder = &self.world.model.autoencoder;
        rules.divides("world.model.autoencoder.patch", autoencoder.patch, &[height, width]);
        rules.at_least("world.model.autoencoder.frames", autoencoder.frames, 1);
        rules.at_least("world.model.autoencoder.channels", autoencoder.channels, 1);
        // Half of it is the width of a second layer.
        rules.at_least("world.model.autoencoder.hidden", autoencoder.hidden, 2);
        rules.not_negative("world.model.autoencoder.noise", autoencoder.noise);
        rules.not_negative("world.model.autoencoder.penalty", autoencoder.penalty);
        rules.not_negative("world.model.autoencoder.foreground", autoencoder.foreground);

        let flow = &self.world.model.flow;
        rules.at_least("world.model.flow.width", flow.width, 2);
        rules.check("world.model.flow.width", flow.width.is_multiple_of(2), "an even number", flow.width);
        rules.at_least("world.model.flow.depth", flow.depth, 1);
        rules.divides("world.model.flow.heads", flow.heads, &[flow.width]);
        rules.at_least("world.model.flow.hidden", flow.hidden, 1);
        let latent = [height / autoencoder.patch.max(1), width / autoencoder.patch.max(1)];
        for (key, patch) in [("patch", flow.patch), ("first_patch", flow.first_patch)] {
            let fits = (0..2).all(|side| patch[side] >= 1 && latent[side].is_multiple_of(patch[side]));
            let expected = format!("divisors of the latent's rows and columns, {} and {}", latent[0], latent[1]);
            rules.check(&format!("world.model.flow.{key}"), fits, &expected, patch);
        }
        rules.at_least("world.model.flow.chunks", flow.chunks, if self.align.sliding_windows { 2 } else { 1 });
        for &steps in steps {
            let whole = steps.is_multiple_of(autoencoder.frames.max(1));
            let made = flow.chunks.checked_mul(autoencoder.frames);
            // Long episodes are imagined clip by clip.
            let fits = if long { made.is_some_and(|made| made <= steps) } else { made == Some(steps) };
            let expected = format!(
                "{} chunks of world.model.autoencoder.frames = {} as make the {steps} control steps of a demonstration",
                if long { "at most as many" } else { "as many" },
                autoencoder.frames
            );
            rules.check("world.model.flow.chunks", fits && whole, &expected, flow.chunks);
        }
        rules.at_least("world.model.flow.sampling_steps", flow.sampling_steps, 1);
        rules.positive("world.model.flow.shift", flow.shift);
        rules.vision("world.model.flow.vision", &flow.vision, self.side());
        let noise = flow.min_noise;
        rules.check("world.model.flow.min_noise", noise > 0.0 && noise <= 1.0, "above 0, at most 1", noise);
    }
}

/// Remembers the first rule that does not hold.
#[derive(Default)]
struct Rules {
    broken: Option<PipelineError>,
}

impl Rules {
    fn check(&mut self, key: &str, holds: bool, expected: &str, got: impl Debug) {
        if !holds && self.broken.is_none() {
            let (key, expected, got) = (key.to_owned(), expected.to_owned(), format!("{got:?}"));
            self.broken = Some(PipelineError::Config { key, expected, got });
        }
    }

    /// Known names, each once, with what the report compares, and no second world model where there is one.
    fn methods(&mut self, methods: &[String], skills: bool) {
        let key = "posttrain.methods";
        let known = Arm::ALL.map(Arm::name);
        let listed_once = (1..methods.len()).all(|index| !methods[..index].contains(&methods[index]));
        let are_known = methods.iter().all(|name| known.contains(&name.as_str()));
        self.check(key, are_known && listed_once, &format!("some of {known:?}, each once"), methods);
        let has = |arm: Arm| methods.iter().any(|name| name == arm.name());
        let compared = has(Arm::Base) && has(Arm::World2Act);
        self.check(key, compared, "base and w2a among them: the report compares these", methods);
        let expected = "w2a_base_wm only with world.skills = true: without skills it is w2a itself";
        self.check(key, skills || !has(Arm::BaseWorld), expected, methods);
    }

    fn at_least(&mut self, key: &str, value: usize, least: usize) {
        self.check(key, value >= least, &format!("at least {least}"), value);
    }

    fn between(&mut self, key: &str, value: usize, least: usize, most: usize) {
        self.check(key, (least..=most).contains(&value), &format!("{least} to {most}"), value);
    }

    /// `value` divides every one of `sizes`.
    fn divides(&mut self, key: &str, value: usize, sizes: &[usize]) {
        let holds = value >= 1 && sizes.iter().all(|size| size.is_multiple_of(value));
        let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
        self.check(key, holds, &format!("a divisor of {}", sizes.join(" and ")), value);
    }

    fn not_negative(&mut self, key: &str, value: f32) {
        self.check(key, value.is_finite() && value >= 0.0, "a finite number that is not negative", value);
    }

    fn positive(&mut self, key: &str, value: f32) {
        self.check(key, value.is_finite() && value > 0.0, "a finite number above 0", value);
    }

    fn share(&mut self, key: &str, value: f32) {
        self.check(key, (0.0..=1.0).contains(&value), "0 to 1", value);
    }

    /// A decay: a share that is not the whole.
    fn decay(&mut self, key: &str, value: f32) {
        self.check(key, (0.0..1.0).contains(&value), "at least 0 and below 1", value);
    }

    /// A contrast over trajectories, of either stage.
    fn contrast(&mut self, section: &str, contrast: &Contrast) {
        let key = |name: &str| format!("{section}.{name}");
        self.not_negative(&key("video_to_action"), contrast.video_to_action);
        self.not_negative(&key("action_to_video"), contrast.action_to_video);
        self.positive(&key("temperature"), contrast.temperature);
        let time_matters = contrast.similarity == Similarity::Chunk || contrast.negatives == Negatives::SameStep;
        let expected =
            format!("same-step where {section}.similarity is global: a shift in time does not change a time mean");
        self.check(&key("negatives"), time_matters, &expected, "marginal");
    }

    fn vision(&mut self, section: &str, vision: &VisionConfig, side: usize) {
        self.divides(&format!("{section}.patch"), vision.patch, &[side]);
        self.at_least(&format!("{section}.channels"), vision.channels, 1);
        self.at_least(&format!("{section}.keypoints"), vision.keypoints, 1);
    }

    fn train(&mut self, section: &str, train: &TrainConfig) {
        let key = |name: &str| format!("{section}.{name}");
        self.at_least(&key("steps"), train.steps, 1);
        self.at_least(&key("batch"), train.batch, 1);
        self.positive(&key("lr"), train.lr);
        self.share(&key("final_lr"), train.final_lr);
        self.decay(&key("ema"), train.ema);
        let AdamWConfig { beta1, beta2, eps, weight_decay, clip_norm } = train.adamw;
        self.decay(&key("adamw.beta1"), beta1);
        self.decay(&key("adamw.beta2"), beta2);
        self.positive(&key("adamw.eps"), eps);
        self.not_negative(&key("adamw.weight_decay"), weight_decay);
        self.not_negative(&key("adamw.clip_norm"), clip_norm);
    }

    /// A training whose batch is worked on in equal parts.
    fn sharded(&mut self, section: &str, train: &TrainConfig) {
        self.train(section, train);
        let holds = train.batch.is_multiple_of(w2a_nn::SHARDS);
        self.check(&format!("{section}.batch"), holds, &format!("a multiple of {}", w2a_nn::SHARDS), train.batch);
    }
}

#[cfg(test)]
mod tests {
    use w2a_align::{AdapterKind, Negatives, Similarity};
    use w2a_posttrain::Alignment;

    use crate::{Config, Profile};

    #[test]
    fn the_profiles_are_valid() {
        for profile in Profile::ALL {
            Config::profile(profile).validate().unwrap();
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_name_of_its_setting() {
        type Change = fn(&mut Config);
        let changes: &[(&str, Change)] = &[
            ("threads", |config| config.threads = 0),
            ("device", |config| config.device = "cuda".into()),
            ("data.suites", |config| config.data.suites.clear()),
            ("data.suites", |config| config.data.suites = vec!["goal".into(), "goal".into()]),
            ("data.suites", |config| config.data.suites.push("long".into())),
            ("data.suites", |config| config.data.suites = vec!["longer".into()]),
            ("world.skills", |config| config.world.skills = true),
            ("posttrain.methods", |config| config.posttrain.methods.push("dreamgan".into())),
            ("posttrain.methods", |config| config.posttrain.methods.push("w2a".into())),
            ("posttrain.methods", |config| config.posttrain.methods = vec!["base".into(), "dreamgen".into()]),
            ("posttrain.methods", |config| config.posttrain.methods.push("w2a_base_wm".into())),
            ("data.labelled", |config| config.data.labelled = 1),
            ("data.videos", |config| config.data.videos = 1_000_001),
            ("data.lerobot_version", |config| config.data.lerobot_version = "v1.0".into()),
            ("world.autoencoder_videos", |config| config.world.autoencoder_videos = 0),
            ("world.autoencoder_train.steps", |config| config.world.autoencoder_train.steps = 0),
            ("world.autoencoder_train.batch", |config| config.world.autoencoder_train.batch = 3),
            ("world.flow_train.lr", |config| config.world.flow_train.lr = f32::INFINITY),
            ("world.flow_train.ema", |config| config.world.flow_train.ema = 1.0),
            ("world.model.autoencoder.patch", |config| config.world.model.autoencoder.patch = 0),
            ("world.model.autoencoder.patch", |config| config.world.model.autoencoder.patch = 12),
            ("world.model.flow.heads", |config| config.world.model.flow.heads = 0),
            ("world.model.flow.heads", |config| config.world.model.flow.heads = 5),
            ("world.model.flow.patch", |config| config.world.model.flow.patch = [3, 4]),
            ("world.model.flow.first_patch", |config| config.world.model.flow.first_patch = [0, 4]),
            ("world.model.flow.chunks", |config| config.world.model.flow.chunks = 15),
            ("world.model.flow.chunks", |config| config.world.model.flow.chunks = usize::MAX),
            ("world.model.flow.shift", |config| config.world.model.flow.shift = 0.0),
            ("world.model.flow.vision.patch", |config| config.world.model.flow.vision.patch = 5),
            ("world.model.flow.min_noise", |config| config.world.model.flow.min_noise = 0.0),
            ("policy.model.vision.patch", |config| config.policy.model.vision.patch = 5),
            ("policy.model.horizon", |config| config.policy.model.horizon = 1),
            ("policy.train.final_lr", |config| config.policy.train.final_lr = -0.1),
            ("policy.fine_tune.adamw.beta2", |config| config.policy.fine_tune.adamw.beta2 = 1.0),
            ("policy.fine_tune.adamw.clip_norm", |config| config.policy.fine_tune.adamw.clip_norm = f32::NAN),
            ("align.adapter.dim", |config| config.align.adapter.dim = 0),
            ("align.loss.temperature", |config| config.align.loss.temperature = 0.0),
            ("align.hard_negatives", |config| config.align.hard_negatives = 1.5),
            ("align.loss.negatives", |config| {
                config.align.loss.negatives = Negatives::Marginal;
                config.align.loss.similarity = Similarity::Global;
            }),
            ("align.vae.negatives", |config| config.align.vae.negatives = 0),
            ("align.vae.paired", |config| config.align.vae.paired = 33),
            ("align.train.batch", |config| config.align.train.batch = 1),
            ("world.model.autoencoder.frames", |config| {
                config.world.model.autoencoder.frames = 1;
                config.world.model.flow.chunks = 64;
                config.align.adapter.kind = AdapterKind::ActionVae;
            }),
            ("posttrain.gains", |config| config.posttrain.gains.clear()),
            ("posttrain.shares", |config| config.posttrain.shares = vec![1.5]),
            ("posttrain.stage2.residual.heads", |config| config.posttrain.stage2.residual.heads = 3),
            ("posttrain.stage2.train.batch", |config| config.posttrain.stage2.train.batch = 1),
            ("posttrain.stage2.objective.cosine", |config| config.posttrain.stage2.objective.cosine = f32::NAN),
            ("posttrain.stage2.objective.alignment_gamma", |config| {
                config.posttrain.stage2.objective.alignment_gamma = 0.0;
            }),
            ("posttrain.stage2.objective.alignment_band", |config| {
                config.posttrain.stage2.objective.alignment_band = usize::MAX;
            }),
            ("posttrain.stage2.objective.alignment", |config| {
                config.posttrain.stage2.objective.cosine = 0.0;
                config.posttrain.stage2.objective.infonce = 1.0;
                config.posttrain.stage2.objective.alignment = Alignment::SoftDtw;
            }),
            ("policy.slowdown", |config| config.policy.slowdown = 0.8),
            ("policy.remote", |config| config.policy.remote = "http://localhost:80".into()),
            ("policy.remote_token_env", |config| config.policy.remote_token_env = "TOKEN".into()),
            ("posttrain.methods", |config| config.policy.remote = "groot://localhost:5555".into()),
            ("posttrain.stage2.form", |config| {
                config.policy.remote = "openpi://localhost:8000".into();
                config.posttrain.methods = vec!["base".into(), "w2a".into()];
                config.posttrain.stage2.form = w2a_posttrain::Form::Lora;
            }),
            ("policy.slowdown", |config| config.policy.slowdown = f32::NAN),
            ("posttrain.stage2.objective", |config| config.posttrain.stage2.objective.cosine = 0.0),
            ("posttrain.stage2.objective", |config| {
                let contrast = &mut config.posttrain.stage2.objective;
                (contrast.infonce, contrast.video_to_action, contrast.action_to_video) = (1.0, 0.0, 0.0);
            }),
            ("posttrain.stage2.objective.temperature", |config| config.posttrain.stage2.objective.temperature = 0.0),
            ("posttrain.stage2.objective.action_to_video", |config| {
                config.posttrain.stage2.objective.action_to_video = -1.0;
            }),
            ("posttrain.stage2.objective.negatives", |config| {
                config.posttrain.stage2.objective.negatives = Negatives::Marginal;
                config.posttrain.stage2.objective.similarity = Similarity::Global;
            }),
            ("posttrain.stage2.lora.rank", |config| config.posttrain.stage2.lora.rank = 0),
            ("posttrain.stage2.lora.alpha", |config| config.posttrain.stage2.lora.alpha = f32::INFINITY),
            ("posttrain.stage2.decoding", |config| {
                config.posttrain.stage2.form = w2a_posttrain::Form::Action;
                config.posttrain.stage2.decoding = w2a_posttrain::Decoding::Plain;
            }),
            ("eval.batch", |config| config.eval.batch = 0),
        ];
        for (key, change) in changes {
            let mut config = Config::profile(Profile::Smoke);
            config.posttrain.stage2.objective.infonce = 0.0;
            config.posttrain.stage2.objective.regression = 0.0;
            change(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.is_users_mistake() && error.to_string().starts_with(&format!("{key}: expected ")), "{error}");
        }
    }

    #[test]
    fn long_episodes_are_not_mixed_with_others_and_need_clips_no_longer_than_they_are() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::profile(Profile::Long);
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let error = refused(|config| config.data.suites.push("object".into()));
        assert!(error.starts_with("data.suites: expected long alone") && error.contains("another length"), "{error}");
        let error = refused(|config| config.world.model.flow.chunks = 33);
        assert!(error.starts_with("world.model.flow.chunks: expected at most as many chunks"), "{error}");
        let error = refused(|config| config.world.model.autoencoder.frames = 5);
        assert!(error.contains("128 control steps"), "{error}");
        let mut whole = Config::profile(Profile::Long);
        whole.world.model.flow.chunks = 32;
        whole.validate().unwrap();
    }

    #[test]
    fn chunks_that_do_not_make_a_demonstration_say_what_would() {
        let mut config = Config::profile(Profile::Smoke);
        config.world.model.autoencoder.frames = 8;
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("64 control steps") && error.contains("frames = 8"), "{error}");
    }
}
