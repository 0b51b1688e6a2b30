//! Runs the networks of Cosmos-Predict2 on request, with random weights, as `bench/torch/cosmos.py` does: reads lines
//! `CASE STEPS` from standard input, answers each with one line of milliseconds per step. `bench/compare.py --suite cosmos`
//! drives both in turn.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use w2a_nn::NnError;
use w2a_world::cosmos::tiny::{DitSizes, random_dit, random_vae};
use w2a_world::cosmos::{Dit, DitInput, DitOptions, RopeRatios, Tensors, Vae, VaeConfig};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Step = Box<dyn FnMut() -> Result<(), NnError>>;

/// 6 blocks of width 1024 over one latent frame of 60x104: 1,560 tokens.
fn dit(device: &Device) -> Result<Step, NnError> {
    let sizes = DitSizes { width: 1024, head: 128, rank: 256, hidden: 4096, context: 1024, blocks: 6 };
    let tensors = Tensors::of_state(random_dit(&sizes, 0), |name| name.strip_prefix("net.").map(str::to_owned));
    let rope = RopeRatios { time: 1.0, height: 3.0, width: 3.0 };
    let options = DitOptions { rope, patch: 2, patch_frames: 1, has_padding_mask: true };
    let dit = Dit::load(&tensors, options, device, |_, _| {})?;
    drop(tensors);
    let (x, prompt) = (random([1, 16, 1, 60, 104], device), random([1, 512, 1024], device));
    let device = device.clone();
    Ok(Box::new(move || {
        let input = DitInput {
            x: x.clone(),
            times: Tensor::full([1, 1], 0.5, &device),
            prompt: prompt.clone(),
            known: Tensor::zeros([1, 1, 1, 60, 104], &device),
            padding: Tensor::zeros([1, 1, 60, 104], &device),
        };
        w2a_nn::values(dit.forward(input, &mut |_, _| {})?).map(|_| ())
    }))
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    w2a_nn::tensor(w2a_nn::normal(&mut w2a_data::stream(0, "bench"), shape.iter().product()), shape, device)
}

/// Wan's autoencoder at its own width, 5 frames of 96x160 to 2 latents (`encode`) or back.
fn vae(encodes: bool, device: &Device) -> Result<Step, NnError> {
    let tensors = Tensors::of_state(random_vae(96, 0), |name| Some(name.to_owned()));
    let vae = Vae::load(&tensors, VaeConfig::wan(&tensors)?, device)?;
    drop(tensors);
    let frame = 96 * 160;
    Ok(Box::new(move || {
        if encodes {
            vae.encode(5, [96, 160], |range| vec![0.25; 3 * range.len() * frame]).map(|_| ())
        } else {
            vae.decode(&vec![0.25; 16 * 2 * 12 * 20], [2, 12, 20], |_| Ok(()))
        }
    }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let mut steps: BTreeMap<String, Step> = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (name, count) = line.split_once(' ').ok_or("expected lines `CASE STEPS`")?;
        if !steps.contains_key(name) {
            // One at a time: weights are large.
            steps.clear();
            let step = match name {
                "dit_1560" => dit(&device)?,
                "vae_encode" => vae(true, &device)?,
                "vae_decode" => vae(false, &device)?,
                other => return Err(format!("no case {other:?}").into()),
            };
            steps.insert(name.to_owned(), step);
        }
        let mut times = Vec::new();
        for _ in 0..count.trim().parse::<usize>()? {
            if let Some(step) = steps.get_mut(name) {
                let start = Instant::now();
                step()?;
                times.push(format!("{:.4}", start.elapsed().as_secs_f64() * 1e3));
            }
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", times.join(" "))?;
        out.flush()?;
    }
    Ok(())
}
