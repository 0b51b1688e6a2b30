//! The two families of adapters behind one interface, and their frozen form.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use w2a_nn::{Checkpoint, Init, NnError, tensor, values};

use crate::{ActionVae, MlpAdapters};

/// Which networks stage 1 trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterKind {
    /// The paper's adapters: [`MlpAdapters`].
    #[default]
    Mlp,
    /// The authors' released action VAE: [`ActionVae`].
    ActionVae,
}

/// What follows the convolutions of the video adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Global average pooling, as in the paper.
    Average,
    /// Flattening: keeps where things happen; aligns unseen scenes better on the embedded benchmark.
    #[default]
    Flatten,
}

/// Family and sizes of the adapters.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterConfig {
    /// Which networks: `mlp` or `action-vae`. On the command line `--align.adapter=action-vae` is enough.
    pub kind: AdapterKind,
    /// Width of the shared space (`D`).
    pub dim: usize,
    /// What follows the convolutions of the video adapter; the action VAE always averages, as released.
    pub pooling: Pooling,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self { kind: AdapterKind::default(), dim: 32, pooling: Pooling::default() }
    }
}

/// `B_v`, `B_a` and `D_a` of either family.
#[derive(Clone, Debug)]
pub enum Adapters {
    /// The paper's.
    Mlp(MlpAdapters),
    /// The authors' release; its `B_a` is the mean.
    ActionVae(ActionVae),
}

impl Adapters {
    /// Fresh adapters for latents `[channels, height, width]` and action chunks `[M, A]`.
    ///
    /// # Errors
    /// Chunks that the family cannot encode.
    pub fn new(
        config: &AdapterConfig,
        latent: [usize; 3],
        chunk: [usize; 2],
        init: &mut Init,
    ) -> Result<Self, NnError> {
        Ok(match config.kind {
            AdapterKind::Mlp => Self::Mlp(MlpAdapters::new(config, latent, chunk[0] * chunk[1], init)),
            AdapterKind::ActionVae => Self::ActionVae(ActionVae::new(config.dim, latent[0], chunk, init)?),
        })
    }

    /// The same with the weights of a safetensors file or of a `torch.save` archive, such as a released
    /// `ckpt_<step>.pt`.
    ///
    /// # Errors
    /// A file that cannot be read, or a tensor that is missing, unknown or of another shape (named).
    pub fn load_weights(self, path: &Path) -> Result<Self, NnError> {
        Ok(match self {
            Self::Mlp(net) => Self::Mlp(w2a_nn::load_weights(net, path)?),
            Self::ActionVae(net) => Self::ActionVae(w2a_nn::load_weights(net, path)?),
        })
    }

    /// Writes the weights to a safetensors file; names are those of the released checkpoints for the action VAE.
    ///
    /// # Errors
    /// A device or a disk that fails.
    pub fn save_weights(&self, path: &Path) -> Result<(), NnError> {
        match self {
            Self::Mlp(net) => w2a_nn::save_weights(net, path),
            Self::ActionVae(net) => w2a_nn::save_weights(net, path),
        }
    }

    fn load_checkpoint(self, checkpoint: &Checkpoint) -> Result<Self, NnError> {
        Ok(match self {
            Self::Mlp(net) => Self::Mlp(checkpoint.load(net)?),
            Self::ActionVae(net) => Self::ActionVae(checkpoint.load(net)?),
        })
    }

    /// Without gradients.
    fn valid(&self) -> Self {
        match self {
            Self::Mlp(net) => Self::Mlp(net.valid()),
            Self::ActionVae(net) => Self::ActionVae(net.valid()),
        }
    }

    /// Width of the shared space.
    pub fn dim(&self) -> usize {
        match self {
            Self::Mlp(net) => net.dim(),
            Self::ActionVae(net) => net.dim(),
        }
    }

    /// `B_v`: normalised latents `[n, C, H, W]` → `[n, D]`.
    pub fn video(&self, latents: Tensor<4>) -> Tensor<2> {
        match self {
            Self::Mlp(net) => net.video(latents),
            Self::ActionVae(net) => net.video(latents),
        }
    }

    /// `B_a`: normalised action chunks `[n, M·A]` → `[n, D]`.
    pub fn action(&self, chunks: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Mlp(net) => net.action(chunks),
            Self::ActionVae(net) => net.action(chunks),
        }
    }

    /// `D_a`: `[n, D]` → normalised action chunks `[n, M·A]`.
    pub fn decode(&self, z: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Mlp(net) => net.decode(z),
            Self::ActionVae(net) => net.decode(z),
        }
    }
}

/// Adapters for inference, on host values.
#[derive(Clone, Debug)]
pub struct FrozenAdapters {
    net: Adapters,
    latent: [usize; 3],
    chunk: usize,
    device: Device,
}

impl FrozenAdapters {
    /// Freezes trained adapters for latents `[C, H, W]` and action chunks `[M, A]`.
    pub fn new(net: Adapters, latent: [usize; 3], chunk: [usize; 2], device: &Device) -> Self {
        Self { net: net.valid(), latent, chunk: chunk[0] * chunk[1], device: device.clone() }
    }

    /// Loads what a training left in `dir`.
    ///
    /// # Errors
    /// A missing or foreign checkpoint, such as one for another action width.
    pub fn load(
        config: &AdapterConfig,
        latent: [usize; 3],
        chunk: [usize; 2],
        dir: &Path,
        device: &Device,
    ) -> Result<Self, NnError> {
        let mut rng = w2a_data::stream(0, "load");
        let net = Adapters::new(config, latent, chunk, &mut Init { rng: &mut rng, device })?;
        Ok(Self::new(net.load_checkpoint(&Checkpoint::new(dir))?, latent, chunk, device))
    }

    /// Width of the shared space.
    pub fn dim(&self) -> usize {
        self.net.dim()
    }

    /// Values of one action chunk.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// The networks, without gradients of their own.
    pub fn net(&self) -> &Adapters {
        &self.net
    }

    /// `B_v` of normalised latents `[n, C, H, W]` → `[n, D]`.
    ///
    /// # Errors
    /// A number of values that is no multiple of a latent's.
    pub fn video(&self, latents: &[f32]) -> Result<Vec<f32>, NnError> {
        let [channels, height, width] = self.latent;
        let len = channels * height * width;
        check("latents for the video adapter", latents.len(), len)?;
        let mut out = Vec::with_capacity(latents.len() / len * self.net.dim());
        for part in latents.chunks(512 * len) {
            let x = tensor(part.to_vec(), [part.len() / len, channels, height, width], &self.device);
            out.extend(values(self.net.video(x))?);
        }
        Ok(out)
    }

    /// `B_a` of normalised action chunks `[n, M·A]` → `[n, D]`.
    ///
    /// # Errors
    /// A number of values that is no multiple of a chunk's: another action width than the adapters were trained for.
    pub fn action(&self, chunks: &[f32]) -> Result<Vec<f32>, NnError> {
        check("action chunks for the action adapter", chunks.len(), self.chunk)?;
        values(self.net.action(tensor(chunks.to_vec(), [chunks.len() / self.chunk, self.chunk], &self.device)))
    }

    /// `D_a` of `[n, D]` → normalised action chunks `[n, M·A]`.
    ///
    /// # Errors
    /// A number of values that is no multiple of `D`.
    pub fn decode(&self, z: &[f32]) -> Result<Vec<f32>, NnError> {
        let dim = self.net.dim();
        check("vectors for the action decoder", z.len(), dim)?;
        values(self.net.decode(tensor(z.to_vec(), [z.len() / dim, dim], &self.device)))
    }
}

fn check(what: &str, got: usize, width: usize) -> Result<(), NnError> {
    if got.is_multiple_of(width) {
        return Ok(());
    }
    Err(NnError::Input { what: what.into(), expected: format!("rows of {width} values"), got: format!("{got} values") })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use burn::tensor::Device;
    use w2a_nn::{Array, Init, NnError, StateDict, read_state, write_state};

    use super::{AdapterConfig, AdapterKind, Adapters};

    fn released() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/stage1_action_vae/ckpt.pt")
    }

    /// Networks of the size of the checkpoint, which was written by PyTorch in half precision.
    fn load(path: &Path) -> Result<Adapters, NnError> {
        let config = AdapterConfig { kind: AdapterKind::ActionVae, dim: 12, ..AdapterConfig::default() };
        let init = &mut Init { rng: &mut w2a_data::stream(0, "net"), device: &Device::flex() };
        Adapters::new(&config, [4, 5, 7], [2, 3], init)?.load_weights(path)
    }

    #[test]
    fn a_checkpoint_in_the_released_format_loads_and_goes_out_and_in_again_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ours.safetensors");
        load(&released()).unwrap().save_weights(&path).unwrap();
        assert_eq!(read_state(&path).unwrap(), read_state(&released()).unwrap());
        load(&path).unwrap();
    }

    #[test]
    fn a_tensor_too_few_too_many_misshapen_or_not_finite_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let refused = |change: fn(&mut StateDict)| {
            let mut state = read_state(&released()).unwrap();
            change(&mut state);
            write_state(&state, &path).unwrap();
            load(&path).unwrap_err().to_string()
        };
        let name = "\"encoder.2.weight\"";
        let missing = refused(|state| drop(state.remove("encoder.2.weight")));
        assert!(missing.contains("lacks") && missing.contains(name) && missing.contains("[128, 64, 3]"), "{missing}");
        let extra =
            refused(|state| drop(state.insert("encoder.9.bias".into(), Array { shape: vec![1], data: vec![0.0] })));
        assert!(extra.contains("does not know") && extra.contains("\"encoder.9.bias\""), "{extra}");
        let bent = refused(|state| state.get_mut("encoder.2.weight").unwrap().shape = vec![64, 128, 3]);
        assert!(bent.contains(name) && bent.contains("[64, 128, 3]") && bent.contains("[128, 64, 3]"), "{bent}");
        let nan = refused(|state| state.get_mut("encoder.2.weight").unwrap().data[7] = f32::NAN);
        assert!(nan.contains(name) && nan.contains("NaN"), "{nan}");
        // The other family has other names.
        let init = &mut Init { rng: &mut w2a_data::stream(0, "net"), device: &Device::flex() };
        let mlp = Adapters::new(&AdapterConfig::default(), [4, 5, 7], [2, 3], init).unwrap();
        assert!(mlp.load_weights(&released()).unwrap_err().to_string().contains("lacks"));
    }
}
