//! Linear layers whose weights lie in memory as products take them.

use burn::backend::Flex;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Element, Tensor, TensorData, bf16};
use burn_flex::FlexTensor;
use pulp::Arch;
use pulp::bytemuck::Pod;

use super::linear::{Right, Sizes, linear, product};
use super::op::{Kernel, Operand, run};
use super::pack::transpose;
use super::product::{Matrix, Stored, panel_width};
use crate::NnError;

/// `y = x W^T + b` with weights that get no gradient: packed once and held in that form only, for the CPU.
///
/// A product of few rows spends much of its time on packing; see [`linear`]. The numbers are the same bits.
#[derive(Module, Debug)]
pub struct PackedLinear {
    /// Panels of columns, `[panels, in, columns of a panel]`, zeros behind the last of the `output` columns; f32 or bf16.
    panels: Param<Tensor<3>>,
    /// `[out]`.
    bias: Option<Param<Tensor<1>>>,
    output: usize,
}

impl PackedLinear {
    /// Packs row-major weights `[output, input]`; as bf16 if `is_half` is set, of which they should be values already.
    ///
    /// # Errors
    /// A number of weights that is not `output · input`, or none at all.
    pub fn new(
        weight: &[f32],
        [output, input]: [usize; 2],
        is_half: bool,
        bias: Option<Tensor<1>>,
    ) -> Result<Self, NnError> {
        if weight.is_empty() || output.checked_mul(input) != Some(weight.len()) {
            return Err(NnError::Input {
                what: "weights to be packed".into(),
                expected: format!("{output} rows of {input} values"),
                got: format!("{} values", weight.len()),
            });
        }
        let (width, device) = (panel_width(Arch::new()), Device::flex());
        let shape = [output.div_ceil(width), input, width];
        let mut values = vec![0.0; shape.iter().product()];
        for (panel, rows) in values.chunks_exact_mut(width * input).zip(weight.chunks(width * input)) {
            transpose(rows, rows.len() / input, input, input, width, panel);
        }
        let panels = if is_half {
            let halves: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            Tensor::from_data(TensorData::new(halves, shape), (&device, DType::BF16))
        } else {
            crate::tensor(values, shape, &device)
        };
        let frozen = |bias: Tensor<1>| Param::from_tensor(bias).set_require_grad(false);
        Ok(Self { panels: Param::from_tensor(panels).set_require_grad(false), bias: bias.map(frozen), output })
    }

    /// `[out, in]`.
    pub fn size(&self) -> [usize; 2] {
        [self.output, self.panels.dims()[1]]
    }

    /// The CPU.
    pub fn device(&self) -> Device {
        self.panels.device()
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        let panels = self.panels.val();
        panels.dims().iter().product::<usize>() * panels.dtype().size()
            + 4 * self.bias.as_ref().map_or(0, |_| self.output)
    }

    /// `[.., in]` → `[.., out]`, for few rows as for many. A tracked `x` gets its gradient.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let ([output, input], mut shape) = (self.size(), x.dims());
        shape[D - 1] = output;
        let x = x.reshape([-1, input as isize]);
        let out = self.fast(&x).unwrap_or_else(|| {
            let (weight, bias) = self.unpacked();
            linear(x, weight, bias)
        });
        out.reshape(shape)
    }

    fn fast(&self, x: &Tensor<2>) -> Option<Tensor<2>> {
        let ([output, input], [rows, _]) = (self.size(), x.dims());
        let bias = match &self.bias {
            Some(bias) => Some(bias.val().try_into_primitive::<Flex>().ok()?.to_contiguous()),
            None => None,
        };
        let panels = self.panels.val().try_into_primitive::<Flex>().ok()?.to_contiguous();
        let kernel = Frozen { panels, bias, sizes: Sizes::new(rows, input, output)? };
        run(kernel, Operand::of(x)?, Vec::new(), [rows, output])
    }

    /// Weight `[out, in]`, lying input by input, and bias as they would be without packing.
    pub fn unpacked(&self) -> (Tensor<2>, Option<Tensor<1>>) {
        let panels = self.panels.val();
        let ([count, input, width], dtype, device) = (panels.dims(), panels.dtype(), panels.device());
        let by_input: Tensor<2> = panels.permute([1, 0, 2]).reshape([input, count * width]);
        let by_input = by_input.narrow(1, 0, self.output).into_data();
        let weight = Tensor::<2>::from_data(by_input, (&device, dtype)).transpose();
        (weight, self.bias.as_ref().map(Param::val))
    }
}

/// The product as an operation.
#[derive(Debug)]
struct Frozen {
    panels: FlexTensor,
    bias: Option<FlexTensor>,
    sizes: Sizes,
}

impl Frozen {
    fn forward_of<T: Element + Pod + Stored>(&self, x: &[f32]) -> Vec<f32> {
        let bias = self.bias.as_ref().and_then(FlexTensor::as_slice);
        product(x, &Right::Packed(self.panels.storage::<T>()), bias, self.sizes)
    }

    /// The gradient of `x`, through weights that are unpacked for it.
    fn backward_of<T: Element + Pod + Stored>(&self, gradient: &[f32]) -> Vec<f32> {
        let (Sizes { rows, input, output }, width) = (self.sizes, panel_width(Arch::new()));
        let stride = output.next_multiple_of(width);
        let mut by_input = vec![0.0; input * stride];
        for (index, panel) in self.panels.storage::<T>().chunks_exact(input * width).enumerate() {
            for (row, cells) in panel.chunks_exact(width).zip(by_input.chunks_exact_mut(stride)) {
                cells[index * width..].iter_mut().zip(row).for_each(|(cell, value)| *cell = value.wide());
            }
        }
        let weight = Right::Loose(Matrix { data: &by_input, stride, by_column: true });
        product(gradient, &weight, None, Sizes { rows, input: output, output: input })
    }
}

impl Kernel for Frozen {
    type Saved = ();

    fn forward(&self, x: &[f32], _: &[&[f32]], _: bool) -> (Vec<f32>, Option<()>) {
        let out = match self.panels.dtype() {
            DType::BF16 => self.forward_of::<bf16>(x),
            _ => self.forward_of::<f32>(x),
        };
        (out, Some(()))
    }

    fn backward(
        &self,
        _: &[f32],
        _: &[&[f32]],
        (): &(),
        gradient: &[f32],
        with_input: bool,
    ) -> (Vec<Vec<f32>>, Option<Vec<f32>>) {
        let of_input = || match self.panels.dtype() {
            DType::BF16 => self.backward_of::<bf16>(gradient),
            _ => self.backward_of::<f32>(gradient),
        };
        (Vec::new(), with_input.then(of_input))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor, bf16};

    use super::PackedLinear;
    use crate::{NnError, linear, normal, tensor, values};

    fn random(name: &str, len: usize) -> Vec<f32> {
        normal(&mut w2a_data::stream(0, name), len)
    }

    #[test]
    fn packed_weights_give_the_bits_of_loose_ones_and_come_back() {
        let device = Device::flex();
        for (rows, input, output) in
            [(8, 1, 1), (13, 7, 17), (51, 64, 96), (20, 130, 257), (9, 5000, 40), (70, 33, 3300)]
        {
            for is_half in [false, true] {
                let halved = |value: &f32| if is_half { bf16::from_f32(*value).to_f32() } else { *value };
                let weight: Vec<f32> = random("w", output * input).iter().map(halved).collect();
                let bias = tensor(random("b", output), [output], &device);
                let x = tensor(random("x", rows * input), [rows, input], &device);
                let packed = PackedLinear::new(&weight, [output, input], is_half, Some(bias.clone())).unwrap();
                let loose = tensor(weight.clone(), [output, input], &device);
                let want = values(linear(x.clone(), loose, Some(bias.clone()))).unwrap();
                assert_eq!(values(packed.forward(x)).unwrap(), want, "{rows} x {input} x {output}");
                let (back, _) = packed.unpacked();
                assert_eq!(back.dtype(), if is_half { DType::BF16 } else { DType::F32 });
                assert_eq!(values(back.cast(DType::F32)).unwrap(), weight);
            }
        }
    }

    #[test]
    fn few_rows_and_any_number_of_axes() {
        let weight = random("w", 40 * 24);
        let packed = PackedLinear::new(&weight, [40, 24], false, None).unwrap();
        for rows in 1..9 {
            let x = tensor(random("x", rows * 24), [1, rows, 24], &Device::flex());
            let want =
                x.clone().reshape([rows, 24]).matmul(tensor(weight.clone(), [40, 24], &Device::flex()).transpose());
            let got = packed.forward(x);
            assert_eq!(got.dims(), [1, rows, 40]);
            for (got, want) in values(got).unwrap().iter().zip(&values(want).unwrap()) {
                assert!((got - want).abs() < 1e-5, "{got}, {want}");
            }
        }
    }

    #[test]
    fn gradients_pass_through() {
        let weight = random("w", 20 * 30);
        let bias = tensor(random("b", 20), [20], &Device::flex());
        let packed = PackedLinear::new(&weight, [20, 30], false, Some(bias)).unwrap();
        let x = tensor(random("x", 9 * 30), [9, 30], &Device::flex().autodiff()).require_grad();
        let out = packed.forward(x.clone());
        let gradients = out.clone().sum().backward();
        let plain = packed.forward(x.clone().inner());
        assert_eq!(values(out).unwrap(), values(plain).unwrap());
        let sums: Vec<f32> = (0..30).map(|column| weight.iter().skip(column).step_by(30).sum()).collect();
        let got: Tensor<2> = x.grad(&gradients).unwrap();
        for (got, want) in values(got).unwrap().iter().zip(sums.iter().cycle()) {
            assert!((got - want).abs() < 1e-5, "{got}, {want}");
        }
    }

    #[test]
    fn a_wrong_number_of_weights_is_refused() {
        for size in [[4, 4], [0, 15], [usize::MAX, 15]] {
            let error = PackedLinear::new(&random("w", 15), size, false, None).unwrap_err();
            assert!(matches!(&error, NnError::Input { got, .. } if got == "15 values"), "{error}");
        }
    }
}
