//! Networks for deciding on one observation: weights packed once, no tensors in between.
//!
//! An operation over tensors costs about a microsecond before it computes anything, and packing weights for a product
//! costs more than a product with a single row. A policy that acts on one robot feels both.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::activation::Activation;
use super::block::{BlockPlan, PackedBlock};
use super::layer::{Stage, plan, split};
use super::stack::{Packed, Plan};
use crate::NnError;

/// A [`stack`](crate::stack) or [`perceptron`](crate::perceptron) for single inputs.
#[derive(Debug)]
pub struct Prepared {
    plan: Arc<Plan>,
    packed: Packed,
}

impl Prepared {
    /// The stack for one input `[channels, rows, columns]`.
    ///
    /// # Errors
    /// Stages that do not fit their inputs, or a device that does not hand its values over.
    pub fn stack(input: [usize; 3], stages: &[Stage], pool: bool) -> Result<Self, NnError> {
        let plan = plan(1, input, stages, pool).ok_or_else(|| NnError::Input {
            what: "stages prepared for inference".into(),
            expected: "at least one, kernels inside the padded image, groups that divide the channels".into(),
            got: format!("{} stages for an image of {input:?}", stages.len()),
        })?;
        let parameters: Vec<Vec<f32>> =
            stages.iter().map(Stage::values).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let slices: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
        let packed = plan.pack(&split(&plan, &slices), false);
        Ok(Self { plan, packed })
    }

    /// The perceptron for one input; as [`perceptron`](crate::perceptron).
    ///
    /// # Errors
    /// No layers, or a device that does not hand its values over.
    pub fn perceptron(layers: &[(Tensor<2>, Tensor<1>)], between: Activation) -> Result<Self, NnError> {
        let input = layers.first().map_or(0, |(weight, _)| weight.dims()[1]);
        let last = layers.len().saturating_sub(1);
        let stages: Vec<Stage> = layers
            .iter()
            .enumerate()
            .map(|(index, (weight, bias))| {
                let [out, input] = weight.dims();
                let stage = Stage::new(weight.clone().reshape([out, input, 1, 1]), bias.clone(), [1; 2], [0; 2]);
                if index == last { stage } else { stage.activation(between) }
            })
            .collect();
        Self::stack([input, 1, 1], &stages, false)
    }

    /// Values of one input.
    pub fn input_len(&self) -> usize {
        self.plan.input_len()
    }

    /// Values of one result.
    pub fn output_len(&self) -> usize {
        self.plan.output().iter().product()
    }

    /// The result for one input, both row-major; the same bits as through tensors.
    ///
    /// # Panics
    /// If `x` is not one input.
    pub fn run(&self, x: &[f32]) -> Vec<f32> {
        self.plan.forward(x, &self.packed, false).0
    }
}

/// A transformer block without modulation for a single sequence of few tokens.
#[derive(Debug)]
pub struct PreparedBlock {
    plan: BlockPlan,
    packed: PackedBlock,
}

impl PreparedBlock {
    /// From the block's parameters in the order of its fields.
    pub(crate) fn new(plan: BlockPlan, parameters: &[Vec<f32>]) -> Option<Self> {
        let slices: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
        Some(Self { plan, packed: plan.pack(&slices)? })
    }

    /// `[tokens, width]` → `[tokens, width]`; the same bits as through tensors.
    pub fn run(&self, tokens: &[f32]) -> Vec<f32> {
        self.plan.forward_packed(tokens, &self.packed, false).0
    }
}
