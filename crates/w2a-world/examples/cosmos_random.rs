//! Writes a checkpoint of Cosmos-Predict2 with random weights of any size, stored as bf16 like the released ones, to measure
//! loading and training: `cosmos_random DIR WIDTH BLOCKS`. Its text encoder and video autoencoder are tiny.

use std::path::PathBuf;

use w2a_nn::{Unwritten, write_tensors};
use w2a_world::cosmos::tiny::{self, DitSizes, random_dit};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("expected DIR WIDTH BLOCKS");
    let (dir, width, blocks) = (PathBuf::from(next()?), next()?.parse::<usize>()?, next()?.parse::<usize>()?);
    tiny::write(&dir, 0)?;
    // A head of 128 as in the released models, and the context of the tiny text encoder.
    let sizes = DitSizes { width, head: 128, rank: width / 8, hidden: 4 * width, context: 8, blocks };
    let state = random_dit(&sizes, 0);
    let tensors = state.iter().map(|(name, array)| {
        let values = || Ok(std::borrow::Cow::Borrowed(&array.data[..]));
        (name.clone(), Unwritten { is_half: true, shape: array.shape.clone(), values: Box::new(values) })
    });
    write_tensors(tensors, &dir.join("model-tiny.safetensors"))?;
    Ok(())
}
