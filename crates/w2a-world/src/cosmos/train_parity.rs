//! A training step against reference numbers: the fixture `cosmos_train`, of any size.

use burn::tensor::{DType, Device, Gradients, Tensor};
use w2a_nn::{Fixture, NnError, Tolerance, values};

use super::dit::{Activations, Differentiated, Dit};
use super::flow::{FlowLoss, LossWeight, NoisyClip};
use super::names::{self, Weighting};
use super::parity::{dit_options, incomplete, shape};
use super::sampler::Conditions;
use super::source::{LowRank, Tensors};

/// A loss is a mean of thousands of values.
const LOSS: Tolerance = Tolerance { absolute: 0.0, relative: 2e-5, outliers: 0.0 };
/// Named tensors of which gradients are asked.
#[derive(Default)]
struct Leaves {
    two: Vec<(String, Tensor<2>)>,
    one: Vec<(String, Tensor<1>)>,
}

impl Leaves {
    fn add(&mut self, name: String, values: &Tensor<2>) -> Tensor<2> {
        let leaf = values.clone().cast(DType::F32).autodiff().detach().require_grad();
        self.two.push((name, leaf.clone()));
        leaf
    }

    /// Gradients that a part of the backward pass has found.
    fn found(&self, gradients: &Gradients, out: &mut Vec<(String, Vec<f32>)>) -> Result<(), NnError> {
        for (name, leaf) in &self.two {
            if let Some(gradient) = leaf.grad(gradients) {
                out.push((name.clone(), values(gradient)?));
            }
        }
        for (name, leaf) in &self.one {
            if let Some(gradient) = leaf.grad(gradients) {
                out.push((name.clone(), values(gradient)?));
            }
        }
        Ok(())
    }
}

/// The loss of the DiT's training with its gradients, of all weights and of changes of low rank: component `cosmos_train`.
///
/// # Errors
/// A fixture that is incomplete, or of a form that was never released.
pub fn cosmos_train(fixture: &mut Fixture, device: &Device) -> Result<(), NnError> {
    let options = dit_options(fixture)?;
    let mut state = fixture.weights()?;
    let is_change = |name: &str| name.ends_with("lora_A.weight") || name.ends_with("lora_B.weight");
    let mut changes = state.clone();
    changes.retain(|name, _| is_change(name));
    state.retain(|name, _| !is_change(name));
    let tensors = Tensors::of_state(state, |name| names::dit(name, Weighting::Plain, false));
    let dit = Dit::load(&tensors, options, device, |_, _| {})?;

    let [batch, channels, frames, height, width] = shape(fixture, "clean")?;
    let [prompts, words, context] = shape(fixture, "crossattn_emb")?;
    if (batch, prompts) != (1, 1) {
        return Err(incomplete("clean and crossattn_emb", "one clip with its prompt"));
    }
    let whole = [1, channels, frames, height, width];
    let (clean, noise) = (fixture.input("io", "clean", &whole)?, fixture.input("io", "noise", &whole)?);
    let prompt = fixture.input("io", "crossattn_emb", &[1, words, context])?;
    let prompt: Tensor<3> = w2a_nn::tensor(prompt, [1, words, context], device);
    let conditions = Conditions {
        shape: [channels, frames, height, width],
        known: &clean,
        frames_known: fixture.size("frames_known")?,
        negative: prompt.clone(),
        prompt,
    };
    let clip = NoisyClip { conditions, noise, sigma: fixture.number("sigma")? };
    let sigma_conditional = fixture.number("sigma_conditional")?;
    fixture.only("loss_scale", &serde_json::json!(10.0))?;

    let (mut tracked, mut leaves) = (dit.clone(), Leaves::default());
    for (name, layer) in tracked.layers() {
        let leaf = leaves.add(format!("{name}.weight"), &layer.merged());
        layer.replace(leaf)?;
    }
    for (name, norm) in tracked.norms() {
        let leaf = norm.clone().autodiff().detach().require_grad();
        leaves.one.push((format!("{name}.weight"), leaf.clone()));
        *norm = leaf;
    }
    let plan = |plain, tracked, through_time| Differentiated {
        plain,
        tracked,
        activations: Activations::Recompute,
        through_time,
    };
    compare(fixture, "full", &plan(&dit, &tracked, true), &clip, &leaves, sigma_conditional, device)?;
    if changes.is_empty() {
        return Ok(());
    }

    let scale = fixture.number("lora.alpha")? / fixture.size("lora.rank")? as f32;
    let rank = fixture.size("lora.rank")?;
    let (mut plain, mut tracked, mut leaves) = (dit.clone(), dit.clone(), Leaves::default());
    for (name, [output, input]) in dit.adaptable() {
        let mut factor = |part: &str, size: [usize; 2]| {
            let name = format!("{name}.{part}.weight");
            let found = changes.remove(&name).filter(|array| array.shape == size);
            let array = found.ok_or_else(|| incomplete(&name, &format!("a tensor of shape {size:?}")))?;
            Ok::<Tensor<2>, NnError>(w2a_nn::tensor(array.data, size, device))
        };
        let (a, b) = (factor("lora_A", [rank, input])?, factor("lora_B", [output, rank])?);
        let leaf_a = leaves.add(format!("{name}.lora_A.weight"), &a);
        let leaf_b = leaves.add(format!("{name}.lora_B.weight"), &b);
        adapt(&mut plain, &name, LowRank { a, b, scale })?;
        adapt(&mut tracked, &name, LowRank { a: leaf_a, b: leaf_b, scale })?;
    }
    compare(fixture, "lora", &plan(&plain, &tracked, false), &clip, &leaves, sigma_conditional, device)
}

fn adapt(dit: &mut Dit, name: &str, change: LowRank) -> Result<(), NnError> {
    match dit.layers().into_iter().find(|(layer, _)| layer == name) {
        Some((_, layer)) => layer.adapt(change),
        None => Err(incomplete(name, "a layer of the DiT")),
    }
}

fn compare(
    fixture: &mut Fixture,
    part: &str,
    network: &Differentiated,
    clip: &NoisyClip,
    leaves: &Leaves,
    sigma_conditional: f32,
    device: &Device,
) -> Result<(), NnError> {
    for (name, weight) in [("flow", LossWeight::Flow), ("release", LossWeight::Release)] {
        let config = FlowLoss { weight, sigma_conditional, ..FlowLoss::default() };
        let mut found = Vec::new();
        let loss = clip.loss(network, &config, device, &mut |gradients| leaves.found(gradients, &mut found))?;
        fixture.compare("io", &format!("{part}.loss.{name}"), &[loss], LOSS)?;
        if weight == LossWeight::Flow {
            for (name, gradient) in found {
                fixture.compare("io", &format!("{part}.grad.{name}"), &gradient, Tolerance::GRADIENT)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use w2a_nn::Fixture;

    use super::{Leaves, cosmos_train};
    use crate::cosmos::tiny::{DitSizes, random_dit};
    use crate::cosmos::{
        Activations, Compute, Differentiated, Dit, DitOptions, FlowLoss, NoisyClip, RopeRatios, Tensors,
    };

    #[test]
    fn a_training_step_agrees_with_pytorch() {
        let mut fixture = Fixture::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cosmos_train")).unwrap();
        cosmos_train(&mut fixture, &Device::flex()).unwrap();
        let report = fixture.finish();
        // Two losses each, all weights, and both factors of ten layers in each of two blocks.
        let (compared, failed) = report.counts();
        assert!(failed == 0 && compared == 4 + (3 + 2 * 20 + 3 + 1) + 2 * 20, "{report}");
    }

    #[test]
    fn activations_that_are_computed_again_change_no_bit() {
        let device = Device::flex();
        let sizes = DitSizes { width: 24, head: 12, rank: 4, hidden: 48, context: 8, blocks: 3 };
        let tensors = Tensors::of_state(random_dit(&sizes, 1), |name| name.strip_prefix("net.").map(str::to_owned));
        let rope = RopeRatios { time: 1.0, height: 3.0, width: 3.0 };
        let options = DitOptions { rope, patch: 2, patch_frames: 1, has_padding_mask: true };
        let plain = Dit::load(&tensors, options, &device, |_, _| {}).unwrap();
        let shape = [16, 3, 4, 6];
        let clean = w2a_nn::normal(&mut w2a_data::stream(0, "clean"), shape.iter().product());
        let prompt = w2a_nn::tensor(w2a_nn::normal(&mut w2a_data::stream(0, "prompt"), 4 * 8), [1, 4, 8], &device);
        let config = FlowLoss { prompt_dropout: 0.0, ..FlowLoss::default() };
        let clip = NoisyClip::draw(&clean, shape, prompt, &config, &mut w2a_data::stream(0, "draw"));
        let of = |compute| {
            let dit = plain.clone().computing(compute);
            let (mut tracked, mut leaves) = (dit.clone(), Leaves::default());
            for (name, layer) in tracked.layers() {
                let leaf = leaves.add(name, &layer.merged());
                layer.replace(leaf).unwrap();
            }
            let run = |activations| {
                let network = Differentiated { plain: &dit, tracked: &tracked, activations, through_time: true };
                let mut found = Vec::new();
                let loss = clip.loss(&network, &config, &device, &mut |all| leaves.found(all, &mut found)).unwrap();
                (loss, found)
            };
            let (kept, again) = (run(Activations::Keep), run(Activations::Recompute));
            assert_eq!(kept.1.len(), leaves.two.len());
            assert!(kept.1.iter().all(|(_, gradient)| gradient.iter().any(|value| *value != 0.0)));
            assert!(kept == again);
            // The graph of one pass does not leak into the next.
            assert!(again == run(Activations::Recompute));
            again
        };
        let (full, half) = (of(Compute::F32), of(Compute::Bf16));
        assert!((full.0 - half.0).abs() < 0.02 * full.0, "{} and {} in bf16", full.0, half.0);
        // Gradients of weights in f32 through activations in bf16 have the same direction.
        for ((name, full), (_, half)) in full.1.iter().zip(&half.1) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let cosine = dot(full, half) / (dot(full, full) * dot(half, half)).sqrt();
            assert!(cosine > 0.99, "{name}: {cosine}");
        }
    }
}
