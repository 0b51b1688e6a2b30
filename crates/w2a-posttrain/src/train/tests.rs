use std::path::Path;

use burn::tensor::Device;
use w2a_align::{AdapterConfig, AdapterKind, Adapters, FrozenAdapters};
use w2a_data::Observation;
use w2a_nn::{Init, NnError, StateDict, TrainConfig, Training, normal, state_dict};
use w2a_policy::MiniPolicy;
use w2a_sim::{Environment, EnvironmentSpec, Range, Scene, SimError, Split, StepOutcome, Suite};

use super::{Frozen, PosttrainConfig, Target, train_residual};
use crate::fixtures::{ACTION, PROPRIO, SIDE, normaliser, observations, policy};
use crate::form::{Form, Residual};
use crate::lora::{LoraConfig, train_lora};
use crate::objective::Objective;
use crate::{Controller, Decoding, ResidualConfig, ResidualControl};

const CHUNKS: usize = 3;
const DIM: usize = 16;
const FORMS: [Form; 3] = [Form::Latent, Form::Action, Form::Lora];

/// An environment in which nothing moves, and which can be told to break.
struct Still {
    spec: EnvironmentSpec,
    count: usize,
    resets_left: usize,
}

impl Still {
    fn new(resets_left: usize) -> Self {
        let names = |count: usize| (0..count).map(|index| index.to_string()).collect();
        let spec = EnvironmentSpec { cameras: vec![], proprio: names(PROPRIO), action: names(ACTION), control_hz: 20 };
        Self { spec, count: 0, resets_left }
    }
}

impl Environment for Still {
    fn spec(&self) -> &EnvironmentSpec {
        &self.spec
    }

    fn reset(&mut self, scenes: &[Scene]) -> Result<Vec<Observation>, SimError> {
        if self.resets_left == 0 {
            return Err(SimError::NoEnvironment { environment: 0, batch: 0 });
        }
        self.resets_left -= 1;
        self.count = scenes.len();
        Ok(observations(self.count))
    }

    fn step(&mut self, _: &[f32]) -> Result<Vec<StepOutcome>, SimError> {
        let outcome = |observation| StepOutcome { observation, success: false };
        Ok(observations(self.count).into_iter().map(outcome).collect())
    }
}

fn adapters(kind: AdapterKind) -> FrozenAdapters {
    let device = Device::flex();
    let init = &mut Init { rng: &mut w2a_data::stream(0, "adapters"), device: &device };
    let config = AdapterConfig { kind, dim: DIM, ..AdapterConfig::default() };
    let net = Adapters::new(&config, [4, 4, 4], [2, ACTION], init).unwrap();
    FrozenAdapters::new(net, [4, 4, 4], [2, ACTION], &device)
}

fn targets(count: u32, actions: usize) -> Vec<Target> {
    let scene = |index| Scene::new(Suite::Object, 0, Split::Posttrain, Range::Full, index).unwrap();
    (0..count)
        .map(|index| Target {
            scene: scene(index),
            z_v: normal(&mut w2a_data::stream(u64::from(index), "z_v"), CHUNKS * DIM),
            actions: vec![0.1; actions],
        })
        .collect()
}

fn config(form: Form, objective: Objective) -> PosttrainConfig {
    PosttrainConfig {
        form,
        residual: ResidualConfig { depth: 1, heads: 2, width: 16 },
        lora: LoraConfig { rank: 4, alpha: 8.0 },
        objective: objective.config(),
        rounds: 2,
        scenes_per_round: 4,
        updates_per_round: 8,
        rollout_gain: 0.5,
        decoding: Decoding::Delta,
        train: TrainConfig { batch: 4, lr: 3e-3, warmup: 1, ..TrainConfig::default() },
    }
}

/// What a training came to: its weights, the cosine of each round's rollouts, and the relative step of the first.
struct Outcome {
    state: StateDict,
    cosines: Vec<f32>,
    first_step: f32,
}

fn train(
    config: &PosttrainConfig,
    kind: AdapterKind,
    targets: &[Target],
    dir: Option<&Path>,
    resets: usize,
) -> Result<Outcome, NnError> {
    let (adapters, device) = (adapters(kind), Device::flex());
    let (action, proprio) = (normaliser(ACTION), normaliser(PROPRIO));
    let mut policy = policy();
    let mut frozen: Frozen<MiniPolicy> =
        Frozen { policy: &mut policy, adapters: &adapters, action: &action, proprio: &proprio, chunk_len: 2 };
    let depends = serde_json::Value::Null;
    let training = Training { name: "stage2", dir, seed: 0, config: &config.train, depends };
    let mut still = Still::new(resets);
    let (mut cosines, mut steps) = (Vec::new(), Vec::new());
    let on_round = |_: usize, _: &[crate::Rollout], found: &w2a_align::Diagnostics, step: f32| {
        cosines.push(found.cosine);
        steps.push(step);
    };
    let state = match config.form {
        Form::Lora => {
            let lora = train_lora(config, &training, &mut frozen, &mut still, targets, &device, |_| {}, on_round)?;
            state_dict(&lora)?
        }
        Form::Latent | Form::Action => {
            let net = train_residual(config, &training, &mut frozen, &mut still, targets, &device, |_| {}, on_round)?;
            state_dict(&net)?
        }
    };
    Ok(Outcome { state, cosines, first_step: steps.first().copied().unwrap_or(f32::NAN) })
}

#[test]
fn every_form_starts_as_the_identity_and_moves_towards_its_targets() {
    for form in FORMS {
        for kind in [AdapterKind::Mlp, AdapterKind::ActionVae] {
            let outcome = train(&config(form, Objective::Cosine), kind, &targets(4, 0), None, 99).unwrap();
            assert_eq!(outcome.first_step, 0.0, "{form:?}");
            assert!(outcome.cosines[1] > outcome.cosines[0] + 0.01, "{form:?} {kind:?}: {:?}", outcome.cosines);
            let decoder = outcome.state.keys().any(|name| name.starts_with("decoder"));
            assert_eq!(decoder, form == Form::Action, "{:?}", outcome.state.keys());
        }
    }
}

#[test]
fn a_killed_training_of_any_form_continues_to_the_same_bits() {
    for form in FORMS {
        for objective in [Objective::Infonce, Objective::Regression] {
            let config = config(form, objective);
            let targets = targets(4, if objective == Objective::Regression { CHUNKS * 2 * ACTION } else { 0 });
            let straight = train(&config, AdapterKind::Mlp, &targets, None, 99).unwrap();
            let dir = tempfile::tempdir().unwrap();
            // The simulator breaks when the second round begins.
            let resets = if form == Form::Lora { 1 } else { 2 };
            assert!(train(&config, AdapterKind::Mlp, &targets, Some(dir.path()), resets).is_err());
            assert_eq!(w2a_nn::Checkpoint::new(dir.path()).step().unwrap(), 8);
            let resumed = train(&config, AdapterKind::Mlp, &targets, Some(dir.path()), 99).unwrap();
            assert!(straight.state == resumed.state, "{form:?} {objective:?}");
        }
    }
}

#[test]
fn the_action_form_scales_its_correction_and_gain_zero_is_the_base() {
    let (device, adapters) = (Device::flex(), adapters(AdapterKind::Mlp));
    let init = &mut Init { rng: &mut w2a_data::stream(0, "net"), device: &device };
    let sizes = ResidualConfig { depth: 1, heads: 2, width: 16 };
    let net = Residual::new(Form::Action, &sizes, (SIDE, 2 * SIDE), PROPRIO, &adapters, init).unwrap();
    let mut state = state_dict(&net).unwrap();
    for (index, array) in state.values_mut().enumerate() {
        let noise = normal(&mut w2a_data::stream(index as u64, "noise"), array.data.len());
        array.data.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.1 * noise);
    }
    let net = w2a_nn::load_state(net, state).unwrap();
    let (action, proprio) = (normaliser(ACTION), normaliser(PROPRIO));
    let run = |gain: f32| {
        let mut policy = policy();
        let mut control = ResidualControl {
            policy: &mut policy,
            adapters: &adapters,
            residual: Some(&net),
            action: &action,
            proprio: &proprio,
            gain,
            decoding: Decoding::Delta,
            chunk_len: 2,
            device: device.clone(),
        };
        let mut decision = control.decide(&observations(2), &["a", "b"]).unwrap();
        action.normalise(&mut decision.actions).unwrap();
        decision
    };
    let (none, half, whole) = (run(0.0), run(0.5), run(1.0));
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(close(&none.actions, &none.base));
    // At full scale the executed chunk is the one whose place in the shared space is compared.
    let z = adapters.action(&whole.actions).unwrap();
    let expected: Vec<f32> = whole.z_base.iter().zip(&whole.dz).map(|(z, dz)| z + dz).collect();
    assert!(close(&z, &expected) && !close(&whole.actions, &whole.base));
    let middle: Vec<f32> = whole.actions.iter().zip(&none.actions).map(|(a, b)| 0.5 * (a + b)).collect();
    assert!(close(&half.actions, &middle));
}

#[test]
fn latents_and_actions_of_other_lengths_are_refused_by_every_form() {
    for form in FORMS {
        let run = |objective, targets: &[Target]| {
            train(&config(form, objective), AdapterKind::Mlp, targets, None, 99).err().unwrap().to_string()
        };
        let mut short = targets(4, 0);
        short[2].z_v.truncate(DIM);
        let error = run(Objective::Infonce, &short);
        assert!(error.contains(&short[2].scene.to_string()) && error.contains("48 values of z_v"), "{error}");
        let mut fewer = targets(4, CHUNKS * 2 * ACTION);
        fewer[1].actions.truncate(ACTION);
        let error = run(Objective::Regression, &fewer);
        assert!(error.contains(&fewer[1].scene.to_string()) && error.contains("42 of pseudo-actions"), "{error}");
        assert!(run(Objective::Cosine, &targets(1, 0)).contains("at least two"));
        assert!(run(Objective::Cosine, &[]).contains("at least two"));
    }
}

#[test]
fn a_batch_of_one_is_refused_where_negatives_are_needed() {
    for form in FORMS {
        for (batch, scenes) in [(1, 4), (4, 1)] {
            let mut config = config(form, Objective::Infonce);
            config.train.batch = batch;
            config.scenes_per_round = scenes;
            let error = train(&config, AdapterKind::Mlp, &targets(4, 0), None, 99).err().unwrap().to_string();
            assert!(error.contains("negatives") && error.contains("1"), "{error}");
            config.objective = Objective::Cosine.config();
            train(&config, AdapterKind::Mlp, &targets(4, 0), None, 99).unwrap();
        }
    }
}

#[test]
fn lora_has_no_residual_and_says_so() {
    let init = &mut Init { rng: &mut w2a_data::stream(0, "net"), device: &Device::flex() };
    let sizes = ResidualConfig::default();
    let error = Residual::new(Form::Lora, &sizes, (SIDE, SIDE), PROPRIO, &adapters(AdapterKind::Mlp), init);
    assert!(error.err().unwrap().to_string().contains("latent or action"));
}
