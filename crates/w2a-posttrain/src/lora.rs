//! LoRA: the alternative to the residual. Low-rank changes of the policy's own linear layers, trained with the same rounds
//! and objective.
//!
//! burn has adapters of its own; these keep the names and shapes of PEFT's files, draw their initial values from a named
//! stream, and leave the base policy a value of its own.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use w2a_align::{Diagnostics, FrozenAdapters};
use w2a_data::{Normaliser, Observation};
use w2a_nn::{Init, NnError, StepReport, Training, tensor};
use w2a_policy::AdaptablePolicy;
use w2a_sim::Environment;

use crate::control::{Controller, Decision, first_actions, normalise};
use crate::lesson::Rows;
use crate::objective::Bent;
use crate::rollout::Rollout;
use crate::train::{Frozen, PosttrainConfig, Target, Trained, check, train_rounds};

/// Size of the adapters.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the change of each layer (`r`): 16 and 32 in the paper.
    pub rank: usize,
    /// The change is scaled by `alpha / rank`.
    pub alpha: f32,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0 }
    }
}

impl LoraConfig {
    /// By what `B A` is multiplied.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }
}

/// One layer's change, `alpha / rank · B A`.
#[derive(Module, Debug)]
struct LowRank {
    /// `A`, `[rank, in]`.
    a: Param<Tensor<2>>,
    /// `B`, `[out, rank]`.
    b: Param<Tensor<2>>,
}

/// Low-rank changes of a policy's linear layers; it starts as the identity (`B = 0`).
#[derive(Module, Debug)]
pub struct Lora {
    layers: Vec<LowRank>,
    names: Vec<String>,
    rank: usize,
    alpha: f32,
}

impl Lora {
    /// Fresh adapters for every linear layer of `policy`: `A` as PEFT initialises it (that of a linear layer), `B` zero.
    ///
    /// # Errors
    /// A rank of 0 or a scale that is not a finite positive number.
    pub fn new<P: AdaptablePolicy>(config: &LoraConfig, policy: &P, init: &mut Init) -> Result<Self, NnError> {
        let sizes = layer_sizes(policy);
        Self::of_layers(config, sizes.iter().map(|(name, size)| (name.as_str(), *size)), init)
    }

    /// Fresh adapters for layers with these names and sizes `[out, in]`.
    ///
    /// # Errors
    /// As [`Lora::new`].
    pub fn of_layers<'a>(
        config: &LoraConfig,
        sizes: impl Iterator<Item = (&'a str, [usize; 2])>,
        init: &mut Init,
    ) -> Result<Self, NnError> {
        let LoraConfig { rank, alpha } = *config;
        if rank == 0 || !(alpha.is_finite() && alpha > 0.0) {
            return Err(NnError::Input {
                what: "LoRA".into(),
                expected: "a rank of at least 1 and a finite alpha above 0".into(),
                got: format!("rank {rank} and alpha {alpha}"),
            });
        }
        let (mut layers, mut names) = (Vec::new(), Vec::new());
        for (name, [output, input]) in sizes {
            layers.push(LowRank { a: init.fan_in([rank, input], input), b: init.constant([output, rank], 0.0) });
            names.push(name.to_owned());
        }
        Ok(Self { layers, names, rank, alpha })
    }

    /// The adapted layers' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Every adapted layer's name, `A` `[rank, in]` and `B` `[out, rank]`; see [`LoraConfig::scale`].
    pub fn factors(&self) -> impl Iterator<Item = (&str, Tensor<2>, Tensor<2>)> {
        self.names.iter().zip(&self.layers).map(|(name, LowRank { a, b })| (name.as_str(), a.val(), b.val()))
    }

    /// Its size.
    pub fn config(&self) -> LoraConfig {
        LoraConfig { rank: self.rank, alpha: self.alpha }
    }

    /// `policy` with `gain · alpha / rank · B A` added to the weights of the adapted layers. Gradients reach `A` and `B`
    /// if they have any, and nothing else.
    ///
    /// # Errors
    /// A layer that `policy` does not have, or has in another size.
    pub fn apply<P: AdaptablePolicy>(&self, policy: &P, gain: f32) -> Result<P, NnError> {
        let mut adapted = policy.clone();
        let mut left: BTreeMap<&str, &LowRank> = self.names.iter().map(String::as_str).zip(&self.layers).collect();
        for (name, layer) in adapted.linear_layers() {
            let Some(LowRank { a, b }) = left.remove(name.as_str()) else { continue };
            let [output, input] = layer.weight.val().dims();
            let size = [b.val().dims()[0], a.val().dims()[1]];
            if size != [output, input] {
                return Err(NnError::Shape {
                    name: format!("change of {name}"),
                    got: size.to_vec(),
                    expected: vec![output, input],
                });
            }
            let change = b.val().matmul(a.val()) * (gain * self.config().scale());
            let weight = layer.weight.val();
            // What is frozen may be stored in bf16.
            let weight = if weight.dtype() == DType::BF16 { weight.cast(DType::F32) } else { weight };
            layer.weight = Param::initialized(layer.weight.id, weight + change);
        }
        match left.into_keys().next() {
            Some(name) => Err(NnError::Input {
                what: "layers that LoRA adapts".into(),
                expected: "linear layers of the policy".into(),
                got: format!("{name:?}, which it does not have"),
            }),
            None => Ok(adapted),
        }
    }
}

/// Names and sizes `[out, in]` of the policy's linear layers.
pub(crate) fn layer_sizes<P: AdaptablePolicy>(policy: &P) -> Vec<(String, [usize; 2])> {
    // The layers are handed out to be changed, so they are those of a clone, whose weights are shared.
    let mut policy = policy.clone();
    policy.linear_layers().into_iter().map(|(name, layer)| (name, layer.weight.val().dims())).collect()
}

/// Trains LoRA adapters of the policy towards `targets`, in the rounds of [`crate::train_residual`]: while rolling out, the
/// change of the weights is scaled by `config.rollout_gain`, and the objective is about the whole change.
///
/// # Errors
/// As [`crate::train_residual`]; and a policy whose actions depend on the state before them or are of another width than
/// stage 1's, or whose chunks are shorter.
pub fn train_lora<P: AdaptablePolicy>(
    config: &PosttrainConfig,
    training: &Training,
    frozen: &mut Frozen<P>,
    environment: &mut dyn Environment,
    targets: &[Target],
    device: &Device,
    on_step: impl FnMut(&StepReport),
    on_round: impl FnMut(usize, &[Rollout], &Diagnostics, f32),
) -> Result<Lora, NnError> {
    let adapters = frozen.adapters;
    check(config, targets, adapters)?;
    let policy = &*frozen.policy;
    let (offered, needed) = (policy.horizon() * policy.action_dim(), adapters.chunk());
    let normaliser = policy.action_normaliser().filter(|own| own.width() == frozen.action.width());
    let Some(own) = normaliser.filter(|_| offered >= needed) else {
        return Err(NnError::Input {
            what: "policy for LoRA".into(),
            expected: format!(
                "chunks of at least {needed} values, {} an action, whatever the state",
                frozen.action.width()
            ),
            got: match policy.action_normaliser() {
                Some(own) => format!("chunks of {offered} values, {} an action", own.width()),
                None => "actions that mean something else in every state".into(),
            },
        });
    };
    let renormalised = if own == frozen.action { None } else { Some(renormalised(own, frozen.action, needed)?) };
    let autodiff = device.clone().autodiff();
    let mut stream = w2a_data::stream(training.seed, &format!("init/{}", training.name));
    let model = Lora::new(&config.lora, policy, &mut Init { rng: &mut stream, device: &autodiff })?;
    let (action, chunk_len) = (frozen.action, frozen.chunk_len);
    let mut form = LoraForm { policy, adapters, action, chunk_len, gain: config.rollout_gain, renormalised };
    train_rounds(&mut form, model, config, training, adapters, environment, targets, &autodiff, on_step, on_round)
}

struct LoraForm<'a, P> {
    policy: &'a P,
    adapters: &'a FrozenAdapters,
    action: &'a Normaliser,
    chunk_len: usize,
    gain: f32,
    /// Makes of the policy's normalised chunks those of stage 1; `None` if they are.
    renormalised: Option<(Vec<f32>, Vec<f32>)>,
}

/// Factors and summands of a chunk of `len` values between two ways to normalise it.
fn renormalised(own: &Normaliser, other: &Normaliser, len: usize) -> Result<(Vec<f32>, Vec<f32>), NnError> {
    let (factors, summands) = own.renormalised_by(other).map_err(|error| NnError::Input {
        what: "normalised actions of the policy".into(),
        expected: format!("{} values an action, as in stage 1", other.width()),
        got: error.to_string(),
    })?;
    let whole = |values: Vec<f32>| values.into_iter().cycle().take(len).collect();
    Ok((whole(factors), whole(summands)))
}

impl<P: AdaptablePolicy> Trained for LoraForm<'_, P> {
    type Model = Lora;

    fn controller<'a>(&'a mut self, model: &'a Lora) -> Result<Box<dyn Controller + 'a>, NnError> {
        Ok(Box::new(LoraControl {
            base: self.policy.clone(),
            full: model.apply(self.policy, 1.0)?,
            scaled: model.apply(self.policy, self.gain)?,
            adapters: self.adapters,
            action: self.action,
            chunk_len: self.chunk_len,
        }))
    }

    fn bend(&self, model: &Lora, rows: &Rows) -> Result<Bent, NnError> {
        let actions = model.apply(self.policy, 1.0)?.forward(&rows.observations, &rows.instructions)?;
        let mut actions = actions.narrow(1, 0, self.adapters.chunk());
        if let Some((factors, summands)) = &self.renormalised {
            let row = |values: &Vec<f32>| tensor(values.clone(), [1, values.len()], &actions.device());
            actions = actions.clone() * row(factors) + row(summands);
        }
        let z = self.adapters.net().action(actions.clone());
        let z_base = tensor(rows.z_base.clone(), z.dims(), &z.device());
        Ok(Bent { step: z.clone() - z_base, z, actions: Some(actions) })
    }
}

/// Acts with scaled adapters and says where the whole ones would have gone.
struct LoraControl<'a, P> {
    base: P,
    full: P,
    scaled: P,
    adapters: &'a FrozenAdapters,
    action: &'a Normaliser,
    chunk_len: usize,
}

impl<P: AdaptablePolicy> Controller for LoraControl<'_, P> {
    fn chunk_len(&self) -> usize {
        self.chunk_len
    }

    fn decide(&mut self, observations: &[Observation], instructions: &[&str]) -> Result<Decision, NnError> {
        let actions = first_actions(&mut self.scaled, self.chunk_len, observations, instructions)?;
        let [base, full] = [&mut self.base, &mut self.full].map(|policy| {
            let mut chunks = first_actions(policy, self.chunk_len, observations, instructions)?;
            normalise(self.action, &mut chunks)?;
            let z = self.adapters.action(&chunks)?;
            Ok((chunks, z))
        });
        let ((base, z_base), (_, z)) = (base?, full?);
        let dz = z.iter().zip(&z_base).map(|(z, base)| z - base).collect();
        Ok(Decision { actions, base, z_base, dz })
    }

    fn reset(&mut self) {
        for policy in [&mut self.base, &mut self.full, &mut self.scaled] {
            policy.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;
    use w2a_nn::{Init, NnError, named_gradients, state_dict, values};
    use w2a_policy::{AdaptablePolicy, Policy};

    use super::{Lora, LoraConfig};
    use crate::fixtures::{observations, policy};

    fn lora(config: &LoraConfig, device: &Device) -> Lora {
        let init = &mut Init { rng: &mut w2a_data::stream(3, "lora"), device };
        Lora::new(config, &policy(), init).unwrap()
    }

    #[test]
    fn it_starts_as_the_identity_and_adapts_every_linear_layer() {
        let (words, seen) = (["a", "b"], observations(2));
        let lora = lora(&LoraConfig::default(), &Device::flex());
        let mut adapted = lora.apply(&policy(), 1.0).unwrap();
        assert_eq!(adapted.act(&seen, &words).unwrap(), policy().act(&seen, &words).unwrap());
        assert!(lora.names().len() == 13 && lora.names().contains(&"trunks.1.query".to_owned()), "{:?}", lora.names());
        // Sum over layers of rank · (in + out).
        let sizes = super::layer_sizes(&policy());
        let expected: usize = sizes.iter().map(|(_, [output, input])| 16 * (input + output)).sum();
        assert_eq!(lora.num_params(), expected);
    }

    #[test]
    fn gradients_reach_a_and_b_of_every_layer_and_nothing_else() {
        let device = Device::flex().autodiff();
        let mut state = state_dict(&lora(&LoraConfig { rank: 2, alpha: 4.0 }, &device)).unwrap();
        // With B = 0 no gradient reaches A.
        for (name, array) in &mut state {
            if name.ends_with(".b") {
                array.data.iter_mut().enumerate().for_each(|(index, value)| *value = 0.01 * (index % 7) as f32 - 0.03);
            }
        }
        let lora = w2a_nn::load_state(lora(&LoraConfig { rank: 2, alpha: 4.0 }, &device), state).unwrap();
        let adapted = lora.apply(&policy(), 1.0).unwrap();
        let out = adapted.forward(&observations(3), &["a", "b", "c"]).unwrap();
        let gradients = named_gradients(&lora, &out.square().sum().backward()).unwrap();
        assert_eq!(gradients.len(), 2 * lora.names().len());
        for (name, gradient) in &gradients {
            assert!(gradient.iter().any(|value| *value != 0.0), "{name}");
        }
    }

    #[test]
    fn the_gain_scales_the_change_of_the_weights() {
        let device = Device::flex();
        let config = LoraConfig { rank: 2, alpha: 6.0 };
        let mut state = state_dict(&lora(&config, &device)).unwrap();
        state.values_mut().for_each(|array| array.data.fill(0.5));
        let lora = w2a_nn::load_state(lora(&config, &device), state).unwrap();
        let weight = |gain: f32| {
            let mut adapted = lora.apply(&policy(), gain).unwrap();
            let layer = adapted.linear_layers().remove(0).1;
            values(layer.weight.val()).unwrap()
        };
        let base = weight(0.0);
        assert_eq!(base, values(policy().linear_layers().remove(0).1.weight.val()).unwrap());
        // 6/2 times a sum over the rank of 0.5 · 0.5.
        for (got, base) in weight(0.5).iter().zip(&base) {
            assert!((got - base - 0.5 * 3.0 * 0.5).abs() < 1e-5, "{got} {base}");
        }
    }

    #[test]
    fn a_rank_of_zero_and_layers_of_another_policy_are_refused() {
        let device = Device::flex();
        let init = &mut Init { rng: &mut w2a_data::stream(3, "lora"), device: &device };
        for config in [LoraConfig { rank: 0, alpha: 1.0 }, LoraConfig { rank: 1, alpha: f32::NAN }] {
            let error = Lora::new(&config, &policy(), init).unwrap_err();
            assert!(error.to_string().contains("rank of at least 1"), "{error}");
        }
        let config = LoraConfig { rank: 2, alpha: 1.0 };
        let foreign = Lora::of_layers(&config, [("absent", [4, 4])].into_iter(), init).unwrap();
        assert!(foreign.apply(&policy(), 1.0).unwrap_err().to_string().contains("\"absent\""));
        let bent = Lora::of_layers(&config, [("out", [4, 4])].into_iter(), init).unwrap();
        let error = bent.apply(&policy(), 1.0).unwrap_err();
        assert!(matches!(&error, NnError::Shape { name, .. } if name.contains("out")), "{error}");
    }
}
