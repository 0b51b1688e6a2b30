//! The kernels against burn's own operations.

use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};

use super::{Activation, Stage, perceptron, stack};
use crate::{Conv2d, GroupNorm, Init, Linear, normal, tensor, values};

struct Net {
    convs: Vec<Conv2d>,
    norms: Vec<Option<GroupNorm>>,
    activations: Vec<Activation>,
}

/// `(channels out, kernel, stride, padding, groups)`
type Spec = (usize, usize, usize, usize, usize);

impl Net {
    fn new(mut channels: usize, specs: &[(Spec, Activation)], device: &Device) -> Self {
        let mut rng = w2a_data::stream(7, "net");
        let mut init = Init { rng: &mut rng, device };
        let mut net = Self { convs: Vec::new(), norms: Vec::new(), activations: Vec::new() };
        for &((out, kernel, stride, padding, groups), activation) in specs {
            net.convs.push(Conv2d::new(channels, out, kernel, stride, padding, &mut init));
            net.norms.push((groups > 0).then(|| {
                let mut norm = GroupNorm::new(groups, out, &mut init);
                norm.weight = init.normal([out], 0.7);
                norm.bias = init.normal([out], 0.3);
                norm
            }));
            net.activations.push(activation);
            channels = out;
        }
        net
    }

    fn stages(&self) -> Vec<Stage> {
        let parts = self.convs.iter().zip(&self.norms).zip(&self.activations);
        let stage = |((conv, norm), &activation): ((&Conv2d, &Option<GroupNorm>), &Activation)| {
            norm.iter().fold(conv.stage(), |stage, norm| stage.norm(norm)).activation(activation)
        };
        parts.map(stage).collect()
    }

    fn fast(&self, x: Tensor<4>, pool: bool) -> Tensor<4> {
        stack(x, &self.stages(), pool)
    }

    fn slow(&self, x: Tensor<4>, pool: bool) -> Tensor<4> {
        let x = self.stages().iter().fold(x, |x, stage| stage.plain(x));
        if pool { x.mean_dim(3).mean_dim(2) } else { x }
    }

    /// Gradients of all parameters and of the input.
    fn gradients(&self, x: &Tensor<4>, y: Tensor<4>) -> Vec<(String, Vec<f32>)> {
        let n = y.dims().iter().product::<usize>();
        let weights = tensor(normal(&mut w2a_data::stream(1, "loss"), n), y.dims(), &y.device());
        let grads = (y * weights).sum().backward();
        let mut all = vec![("input".into(), values(x.grad(&grads).unwrap()).unwrap())];
        for (index, conv) in self.convs.iter().enumerate() {
            all.push((format!("weight {index}"), values(conv.weight.val().grad(&grads).unwrap()).unwrap()));
            all.push((format!("bias {index}"), values(conv.bias.val().grad(&grads).unwrap()).unwrap()));
        }
        for (index, norm) in self.norms.iter().enumerate() {
            let Some(norm) = norm else { continue };
            all.push((format!("gamma {index}"), values(norm.weight.val().grad(&grads).unwrap()).unwrap()));
            all.push((format!("beta {index}"), values(norm.bias.val().grad(&grads).unwrap()).unwrap()));
        }
        all
    }
}

/// Absolute, and relative to the largest value: sums of thousands of terms of both signs have no better relative error.
fn assert_close(what: &str, got: &[f32], want: &[f32], absolute: f32, relative: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let limit = absolute + relative * largest;
        assert!((got - want).abs() <= limit, "{what}[{index}] is {got}, burn has {want}, off by more than {limit}");
    }
}

fn compare(channels: usize, batch: usize, size: [usize; 2], specs: &[(Spec, Activation)], pool: bool) {
    let device = Device::flex().autodiff();
    let net = Net::new(channels, specs, &device);
    let count = batch * channels * size[0] * size[1];
    let data = normal(&mut w2a_data::stream(3, "x"), count);
    let image = || tensor(data.clone(), [batch, channels, size[0], size[1]], &device).require_grad();
    let (a, b) = (image(), image());
    let (fast, slow) = (net.fast(a.clone(), pool), net.slow(b.clone(), pool));
    assert_eq!(fast.dims(), slow.dims());
    assert_close("forward", &values(fast.clone()).unwrap(), &values(slow.clone()).unwrap(), 1e-5, 1e-6);
    for ((name, got), (_, want)) in net.gradients(&a, fast).iter().zip(&net.gradients(&b, slow)) {
        assert_close(name, got, want, 1e-6, 1e-5);
    }
}

#[test]
fn video_adapters_of_several_sizes_equal_burns() {
    let specs = [((64, 3, 2, 1, 8), Activation::Gelu), ((128, 3, 2, 1, 16), Activation::Gelu)];
    for (batch, size, pool) in [(3, [8, 8], false), (11, [8, 8], true), (2, [13, 9], true), (1, [30, 20], false)] {
        compare(16, batch, size, &specs, pool);
    }
}

#[test]
fn odd_convolutions_equal_burns() {
    let plain = Activation::Identity;
    compare(
        3,
        5,
        [36, 41],
        &[
            ((16, 8, 4, 0, 0), Activation::Relu),
            ((32, 4, 2, 0, 0), Activation::Relu),
            ((32, 3, 2, 0, 0), Activation::Relu),
        ],
        false,
    );
    compare(5, 2, [7, 6], &[((7, 3, 1, 1, 0), plain)], false);
    compare(1, 9, [6, 5], &[((20, 2, 3, 1, 4), Activation::Gelu), ((3, 1, 2, 0, 0), plain)], true);
    compare(2, 1, [5, 5], &[((18, 5, 1, 2, 3), Activation::Relu)], false);
}

#[test]
fn perceptrons_equal_burns() {
    let device = Device::flex().autodiff();
    let mut rng = w2a_data::stream(7, "net");
    let mut init = Init { rng: &mut rng, device: &device };
    let layers = [Linear::new(28, 128, &mut init), Linear::new(128, 64, &mut init), Linear::new(64, 33, &mut init)];
    let data = normal(&mut w2a_data::stream(3, "x"), 50 * 28);
    let x = || tensor(data.clone(), [50, 28], &device).require_grad();
    let (a, b) = (x(), x());
    let fast = perceptron(a.clone(), &layers.each_ref().map(Linear::parameters), Activation::Gelu);
    let slow = layers[2].forward(gelu(layers[1].forward(gelu(layers[0].forward(b.clone())))));
    assert_close("forward", &values(fast.clone()).unwrap(), &values(slow.clone()).unwrap(), 1e-5, 0.0);
    let gradients = |x: &Tensor<2>, y: Tensor<2>| {
        let grads = y.square().sum().backward();
        let mut all = vec![values(x.grad(&grads).unwrap()).unwrap()];
        for layer in &layers {
            all.push(values(layer.weight.val().grad(&grads).unwrap()).unwrap());
            all.push(values(layer.bias.val().grad(&grads).unwrap()).unwrap());
        }
        all
    };
    for (index, (got, want)) in gradients(&a, fast).iter().zip(&gradients(&b, slow)).enumerate() {
        assert_close(&format!("gradient {index}"), got, want, 1e-6, 1e-5);
    }
}

#[test]
fn threads_do_not_change_a_bit_and_inference_equals_training() {
    let device = Device::flex().autodiff();
    let specs = [((64, 3, 2, 1, 8), Activation::Gelu), ((128, 3, 2, 1, 16), Activation::Gelu)];
    let net = Net::new(16, &specs, &device);
    let data = normal(&mut w2a_data::stream(3, "x"), 19 * 16 * 64);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let x = tensor(data.clone(), [19, 16, 8, 8], &device).require_grad();
            let y = net.fast(x.clone(), true);
            (values(y.clone()).unwrap(), net.gradients(&x, y))
        })
    };
    let one = run(1);
    assert!(one == run(3));
    let plain = Device::flex();
    let frozen = Net::new(16, &specs, &plain);
    assert_eq!(one.0, values(frozen.fast(tensor(data.clone(), [19, 16, 8, 8], &plain), true)).unwrap());
}

#[test]
fn constant_images_stay_finite() {
    let device = Device::flex().autodiff();
    let net = Net::new(16, &[((64, 3, 2, 1, 8), Activation::Gelu), ((128, 3, 2, 1, 16), Activation::Gelu)], &device);
    for value in [0.0, 1.0, 1e4] {
        let x = Tensor::<4>::full([2, 16, 9, 8], value, &device).require_grad();
        let y = net.fast(x.clone(), true);
        assert!(values(y.clone()).unwrap().iter().all(|value| value.is_finite()));
        assert!(net.gradients(&x, y).iter().all(|(_, values)| values.iter().all(|value| value.is_finite())));
    }
}
