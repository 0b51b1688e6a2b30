//! Times GR00T's networks at a middle size, for `bench/groot.py`: `groot_steps FOLDER` writes a random checkpoint to FOLDER if
//! there is none, and `bench.safetensors` with inputs and what comes out. Then, for each line `CASE STEPS` on its input, it
//! runs the case (`backbone`, `head` or `all`) and prints the milliseconds of each step.

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use w2a_nn::{Array, NnError, StateDict, normal, tensor, values, write_state};
use w2a_policy::groot::action_head::ActionHead;
use w2a_policy::groot::backbone::{Backbone, Features, Patches, TokenBatch};
use w2a_policy::groot::category::{Embodiments, Rows};
use w2a_policy::groot::checkpoint::Checkpoint;
use w2a_policy::groot::{RandomSize, write_random};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Patches down and across, and the tokens they become.
const GRID: usize = 18;
const IMAGE_TOKENS: usize = 81;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: groot_steps FOLDER")?);
    if !dir.exists() {
        write_random(&dir, 0, RandomSize::Mid)?;
    }
    let device = Device::flex();
    let checkpoint = Checkpoint::open(&dir, None)?;
    let weights = Arc::new(checkpoint.weights(&device)?);
    let head = ActionHead::load(&weights, &checkpoint.head, Embodiments::One(2))?;
    let backbone = Backbone::load(weights, &checkpoint.backbone)?;
    let schedule = head.schedule(&checkpoint.head);

    let mut rng = w2a_data::stream(0, "groot_steps");
    let mut random = |shape: &[usize]| Array { shape: shape.to_vec(), data: normal(&mut rng, shape.iter().product()) };
    let image = checkpoint.backbone.image_token_index;
    // A prompt of thirty words, then two cameras.
    let ids: Vec<usize> = (0..30).chain([image; 2 * IMAGE_TOKENS]).collect();
    let sizes = [checkpoint.head.action_horizon, checkpoint.head.max_action_dim, checkpoint.head.max_state_dim];
    let pixels = random(&[2, GRID * GRID, 588]);
    let (noise, state) = (random(&[1, sizes[0], sizes[1]]), random(&[1, 1, sizes[2]]));
    let images: Vec<Patches> = pixels
        .data
        .chunks_exact(GRID * GRID * 588)
        .map(|values| Patches { grid: [GRID; 2], values: values.to_vec() })
        .collect();
    let tokens = TokenBatch::left_padded(std::slice::from_ref(&ids), 0);
    let encode = || backbone.forward(&tokens, &images, &mut |_, _| ());
    let act = |features: Features| -> Result<Tensor<3>, NnError> {
        let context = head.context(&head.normalised(features));
        let tokens = head.state_tokens(tensor(state.data.clone(), [1, 1, sizes[2]], &device), &Rows::First);
        let noise = tensor(noise.data.clone(), [1, sizes[0], sizes[1]], &device);
        Ok(head.denoise(noise, tokens, &schedule, &context, &Rows::First, &mut |_, _, _| ()))
    };

    let features = encode()?;
    let action = Array { shape: noise.shape.clone(), data: values(act(features.clone())?)? };
    let ids = Array { shape: vec![ids.len()], data: ids.iter().map(|id| *id as f32).collect() };
    let named =
        [("patches", pixels), ("noise", noise.clone()), ("state", state.clone()), ("ids", ids), ("action", action)];
    let file: StateDict = named.into_iter().map(|(name, array)| (name.to_owned(), array)).collect();
    write_state(&file, &dir.join("bench.safetensors"))?;

    for line in stdin().lock().lines() {
        let line = line?;
        let (case, steps) = line.split_once(' ').ok_or("expected CASE STEPS")?;
        let mut times = Vec::new();
        for _ in 0..steps.trim().parse::<usize>()? {
            let start = Instant::now();
            match case {
                "backbone" => drop(values(encode()?.values)?),
                "head" => drop(values(act(features.clone())?)?),
                "all" => drop(values(act(encode()?)?)?),
                other => return Err(format!("no case {other:?}").into()),
            }
            times.push(format!("{:.3}", start.elapsed().as_secs_f64() * 1e3));
        }
        let mut out = stdout().lock();
        writeln!(out, "{}", times.join(" "))?;
        out.flush()?;
    }
    Ok(())
}
