//! World models: what turns a first observation and an instruction into the latents of a video that shows the task done.
//!
//! [`WorldModel`] is what stages 1 and 2 know; [`MiniWorld`] is the embedded model of the benchmark: a video autoencoder
//! with temporal compression 4 and a flow-matching transformer over its latents.

mod autoencoder;
mod chain;
pub mod cosmos;
mod digest;
mod flow;
mod forecast;
mod framed;
mod grid;
mod latents;
mod layout;
mod mini;
mod resize;
mod store;

pub use autoencoder::{AutoencoderConfig, VideoAutoencoder, train_autoencoder};
pub use chain::{Skill, imagine_chain};
pub use flow::{Anchor, Flow, FlowConfig, FlowSample, train_flow};
pub use forecast::Forecast;
pub use framed::{Framed, Framing};
pub use grid::{GridVideo, grid_video, load_frames, save_frames};
pub use latents::{LatentShape, LatentStatistics, Latents, load_latents, save_latents};
pub use layout::{Layout, Rig};
pub use mini::{MiniWorld, MiniWorldConfig, encode_videos, save_statistics};
pub use store::{Imagination, LatentCache, ModelId, image_digest, load_imagination, save_imagination};

use rand_chacha::ChaCha8Rng;
use w2a_nn::NnError;

/// A frozen video world model.
///
/// A video has `1 + M·T` frames: the first observation, then `T` chunks of `M` frames, one chunk per `M` control steps.
/// Its latents are `V_0` (the first frame alone) and `V_1..V_T`; chunk `t` of the actions (counted from 0) leads through
/// the frames of `V_{t+1}`.
pub trait WorldModel {
    /// `M`, frames per latent.
    fn chunk_len(&self) -> usize;

    /// Most chunks of one clip, `T`; longer imaginations are chains of clips ([`imagine_chain`]).
    fn max_chunks(&self) -> usize;

    /// Shape of one latent.
    fn latent_shape(&self) -> LatentShape;

    /// Rows and columns of the grid image the model works on.
    fn frame_size(&self) -> (usize, usize);

    /// The latents of whole videos, each with `1 + M·T` frames.
    ///
    /// # Errors
    /// A frame size or frame count that does not fit.
    fn encode(&self, videos: &[GridVideo]) -> Result<Vec<Latents>, NnError>;

    /// Imagines `chunks` chunks from the first frame of each of `first`, one instruction each. Nothing is decoded.
    ///
    /// `V_0` of the result is the encoded first frame.
    ///
    /// # Errors
    /// A frame size, a number of instructions or of chunks that does not fit.
    fn imagine(
        &self,
        first: &[GridVideo],
        instructions: &[&str],
        chunks: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Latents>, NnError>;

    /// Decodes latents to frames, for people and for the DreamGen baseline: `1 + M·T` frames each.
    ///
    /// # Errors
    /// A latent shape that does not fit.
    fn decode(&self, latents: &[Latents]) -> Result<Vec<GridVideo>, NnError>;

    /// The last frame of a video, from which the next clip of a chain begins. Models whose latents can be decoded one by
    /// one should not decode the rest.
    ///
    /// # Errors
    /// As [`WorldModel::decode`], or latents without a frame.
    fn last_frame(&self, latents: &Latents) -> Result<GridVideo, NnError> {
        let video = self.decode(std::slice::from_ref(latents))?.pop().filter(|video| video.frames() > 0);
        let video = video.ok_or_else(|| NnError::Input {
            what: "latents whose last frame is to be decoded".into(),
            expected: "at least one frame".into(),
            got: "none".into(),
        })?;
        Ok(GridVideo { rgb: video.frame(video.frames() - 1).to_vec(), ..video })
    }
}
