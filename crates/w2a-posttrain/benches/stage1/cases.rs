//! Whole training steps (forward, backward, AdamW), and one decision, at the sizes that are compared with PyTorch.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use w2a_align::{ActionVae, AdapterConfig, MlpAdapters, Pooling, VaeBatch, VaeConfig, vae_loss};
use w2a_nn::{Activation, AdamW, AdamWConfig, Init, NnError, named_gradients, normal, perceptron, tensor};
use w2a_posttrain::{Decoding, FastDecision, ResidualBatch, ResidualConfig, ResidualNet};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Latent frames and chunks of a step: 16 trajectories of 24.
const FRAMES: usize = 384;

/// Width of the shared space.
const DIM: usize = 32;

/// The cases by the names that `bench/torch/stage1.py` uses too (it has no `peak`).
pub const CASES: [&str; 8] =
    ["peak", "video_60x104", "video_8x8", "action", "residual_64", "action_vae", "infer_64", "infer_256"];

/// One call is one step.
pub type Step = Box<dyn FnMut() -> Result<(), NnError>>;

/// The step called `name`; `None` if there is none.
pub fn case(name: &str) -> Option<Step> {
    let device = Device::flex().autodiff();
    Some(match name {
        // A linear layer of 2 x 12288 x 768^2 = 14.5 G operations: what the processor can do.
        "peak" => {
            let device = Device::flex();
            let x = random("x", [12288, 768], &device);
            let layer = [(random("weight", [768, 768], &device), random("bias", [768], &device))];
            Box::new(move || {
                std::hint::black_box(perceptron(x.clone(), &layer, Activation::Identity));
                Ok(())
            })
        }
        "video_60x104" => video([16, 60, 104], &device),
        "video_8x8" => video([16, 8, 8], &device),
        "action" => {
            let net = adapters([16, 8, 8], &device);
            let x = random("x", [FRAMES, 28], &device);
            training(net, 0.0, move |net| (net.decode(net.action(x.clone())) - x.clone()).square().mean())
        }
        "residual_64" => {
            let (net, batch) = residual(64, 64, &device);
            let target = random("target", [64, DIM], &device);
            training(net, 0.0, move |net| (net.forward(&batch) - target.clone()).square().mean())
        }
        "action_vae" => {
            // One window of 32 chunks of which 24 have latents, and 16 negatives.
            let mut rng = w2a_data::stream(0, "net");
            let net = ActionVae::new(DIM, 16, [4, 7], &mut Init { rng: &mut rng, device: &device });
            let latents = random("latents", [24, 16, 60, 104], &device);
            let (actions, negatives) = (random("actions", [32, 28], &device), random("negatives", [512, 28], &device));
            let (noise, negative_noise) = (random("noise", [32, DIM], &device), random("others", [512, DIM], &device));
            training(net.expect("four steps are even"), 1.0, move |net| {
                let batch = VaeBatch {
                    z_video: net.video(latents.clone()),
                    actions: actions.clone(),
                    negatives: negatives.clone(),
                    noise: noise.clone(),
                    negative_noise: negative_noise.clone(),
                    windows: 1,
                };
                vae_loss(net, &VaeConfig::default(), batch).total
            })
        }
        "infer_64" => inference(64),
        "infer_256" => inference(256),
        _ => return None,
    })
}

fn random<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    tensor(normal(&mut w2a_data::stream(0, name), shape.iter().product()), shape, device)
}

fn adapters(latent: [usize; 3], device: &Device) -> MlpAdapters {
    let config = AdapterConfig { dim: DIM, pooling: Pooling::Average, ..AdapterConfig::default() };
    MlpAdapters::new(&config, latent, 28, &mut Init { rng: &mut w2a_data::stream(0, "net"), device })
}

/// A residual policy for square images of `size` pixels with RoboCasa's proprioception, and a batch for it.
fn residual(size: usize, batch: usize, device: &Device) -> (ResidualNet, ResidualBatch) {
    let mut rng = w2a_data::stream(0, "net");
    let net = ResidualNet::new(&ResidualConfig::default(), (size, size), 53, DIM, &mut Init { rng: &mut rng, device });
    let inputs = ResidualBatch {
        image: random("image", [batch, 3, size, size], device),
        proprio: random("proprio", [batch, 53], device),
        z_base: random("z", [batch, DIM], device),
    };
    (net.expect("images are large enough"), inputs)
}

fn video(latent: [usize; 3], device: &Device) -> Step {
    let net = adapters(latent, device);
    let x = random("x", [FRAMES, latent[0], latent[1], latent[2]], device);
    let target = random("target", [FRAMES, DIM], device);
    training(net, 0.0, move |net| (net.video(x.clone()) - target.clone()).square().mean())
}

fn training<M: Module + 'static>(net: M, clip_norm: f32, loss: impl Fn(&M) -> Tensor<1> + 'static) -> Step {
    let mut optimiser = AdamW::new(AdamWConfig { clip_norm, ..AdamWConfig::default() });
    let mut net = Some(net);
    Box::new(move || {
        if let Some(old) = net.take() {
            let gradients = named_gradients(&old, &loss(&old).backward())?;
            net = Some(optimiser.step(old, gradients, 1e-4)?.0);
        }
        Ok(())
    })
}

/// `B_a`, the residual and `D_a` for one observation.
fn inference(size: usize) -> Step {
    let device = Device::flex();
    let adapters = adapters([16, 8, 8], &device);
    let (net, batch) = residual(size, 1, &device);
    let chunk = random("chunk", [1, 28], &device);
    let fast = FastDecision::new(&adapters, &net, (size, size)).expect("the networks fit");
    let host = |tensor: Tensor<4>| w2a_nn::values(tensor).expect("the CPU hands its values over");
    let image = host(batch.image);
    let (chunk, proprio) = (host(chunk.reshape([1, 1, 1, 28])), host(batch.proprio.reshape([1, 1, 1, 53])));
    Box::new(move || {
        std::hint::black_box(fast.decide(&chunk, &image, &proprio, 1.0, Decoding::Plain)?);
        Ok(())
    })
}
