//! Several cameras as one image, the way video world models are given them.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use w2a_data::{Camera, Episode};
use w2a_nn::NnError;

/// A video of grid images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridVideo {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// RGB bytes, `[frames, height, width, 3]`.
    pub rgb: Vec<u8>,
}

impl GridVideo {
    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.rgb.len().checked_div(self.height * self.width * 3).unwrap_or(0)
    }

    /// One frame, `[height, width, 3]`.
    pub fn frame(&self, index: usize) -> &[u8] {
        let len = self.height * self.width * 3;
        &self.rgb[index * len..(index + 1) * len]
    }

    /// Camera `index` of `cameras` side by side, as a block of frames.
    pub fn camera(&self, index: usize, cameras: usize, name: &str) -> Camera {
        let width = self.width / cameras;
        let rgb =
            self.rgb.chunks_exact(self.width * 3).flat_map(|row| &row[index * width * 3..(index + 1) * width * 3]);
        Camera { name: name.to_owned(), height: self.height, width, rgb: rgb.copied().collect() }
    }

    /// The frames of one camera set side by side, left to right in camera order.
    ///
    /// # Errors
    /// No camera, or cameras of unequal height or length.
    pub fn side_by_side(cameras: &[Camera]) -> Result<Self, NnError> {
        let Some(first) = cameras.first() else {
            return Err(input("cameras of a grid image", "at least one", "none"));
        };
        let (height, frames) = (first.height, first.frames());
        for camera in cameras {
            if camera.height != height || camera.frames() != frames {
                return Err(input(
                    &format!("camera {:?} of a grid image", camera.name),
                    &format!("{frames} frames of {height} rows, as camera {:?}", first.name),
                    &format!("{} frames of {} rows", camera.frames(), camera.height),
                ));
            }
        }
        let width = cameras.iter().map(|camera| camera.width).sum::<usize>();
        let mut rgb = Vec::with_capacity(frames * height * width * 3);
        for row in 0..frames * height {
            for camera in cameras {
                let len = camera.width * 3;
                rgb.extend_from_slice(&camera.rgb[row * len..(row + 1) * len]);
            }
        }
        Ok(Self { height, width, rgb })
    }
}

/// The video of an episode: `1 + M·chunks` frames, cut at the end or held on its last frame.
///
/// # Errors
/// An episode without frames, or cameras that do not fit together.
pub fn grid_video(episode: &Episode, chunk_len: usize, chunks: usize) -> Result<GridVideo, NnError> {
    let mut video = GridVideo::side_by_side(&episode.cameras)?;
    let len = video.height * video.width * 3;
    let frames = video.frames();
    if frames == 0 {
        return Err(input(&format!("episode {:?}", episode.source), "at least one frame", "none"));
    }
    let wanted = 1 + chunk_len * chunks;
    video.rgb.truncate(wanted * len);
    let last = video.frame(video.frames() - 1).to_vec();
    while video.rgb.len() < wanted * len {
        video.rgb.extend_from_slice(&last);
    }
    Ok(video)
}

/// Writes the first frames of equally large videos as one safetensors file: tensor `frames`, `[videos, H, W, 3]` bytes.
///
/// # Errors
/// Frames of unequal size, or a failing disk.
pub fn save_frames(path: &Path, videos: &[GridVideo]) -> Result<(), NnError> {
    let format = |reason: String| NnError::Format { path: path.to_owned(), reason };
    let first = videos.first().ok_or_else(|| format("no frames to save".into()))?;
    if let Some(bad) = videos.iter().find(|video| (video.height, video.width) != (first.height, first.width)) {
        return Err(format(format!(
            "a frame of {}x{} among frames of {}x{}",
            bad.height, bad.width, first.height, first.width
        )));
    }
    let bytes: Vec<u8> = videos.iter().flat_map(|video| video.frame(0)).copied().collect();
    let view = TensorView::new(Dtype::U8, vec![videos.len(), first.height, first.width, 3], &bytes)
        .map_err(|error| format(error.to_string()))?;
    let bytes = safetensors::serialize([("frames", view)], None).map_err(|error| format(error.to_string()))?;
    w2a_data::write_atomic(path, &bytes).map_err(|source| NnError::Io { action: "saving frames", source })
}

/// Reads what [`save_frames`] wrote: videos of one frame.
///
/// # Errors
/// A missing, truncated or foreign file.
pub fn load_frames(path: &Path) -> Result<Vec<GridVideo>, NnError> {
    let format = |reason: String| NnError::Format { path: path.to_owned(), reason };
    let bytes = fs_err::read(path).map_err(|source| NnError::Io { action: "loading frames", source })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| format(error.to_string()))?;
    let view = file.tensor("frames").map_err(|error| format(error.to_string()))?;
    match *view.shape() {
        [_, height, width, 3] if view.dtype() == Dtype::U8 && height * width > 0 => {
            let frames = view.data().chunks_exact(height * width * 3);
            Ok(frames.map(|rgb| GridVideo { height, width, rgb: rgb.to_vec() }).collect())
        }
        _ => Err(format(format!(
            "tensor \"frames\" is {:?} {:?}, expected bytes [videos, H, W, 3]",
            view.dtype(),
            view.shape()
        ))),
    }
}

fn input(what: &str, expected: &str, got: &str) -> NnError {
    NnError::Input { what: what.to_owned(), expected: expected.to_owned(), got: got.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{GridVideo, grid_video, load_frames, save_frames};
    use w2a_data::{Camera, Episode};

    fn camera(name: &str, value: u8, frames: usize) -> Camera {
        let rgb = (0..frames).flat_map(|frame| vec![value + frame as u8; 2 * 2 * 3]).collect();
        Camera { name: name.into(), height: 2, width: 2, rgb }
    }

    #[test]
    fn cameras_go_in_and_come_out_of_the_grid() {
        let cameras = [camera("a", 0, 3), camera("b", 100, 3)];
        let video = GridVideo::side_by_side(&cameras).unwrap();
        assert_eq!((video.height, video.width, video.frames()), (2, 4, 3));
        assert_eq!(video.camera(0, 2, "a"), cameras[0]);
        assert_eq!(video.camera(1, 2, "b"), cameras[1]);
        assert!(GridVideo::side_by_side(&[camera("a", 0, 3), camera("b", 0, 2)]).is_err());
        assert!(GridVideo::side_by_side(&[]).is_err());
    }

    #[test]
    fn frames_round_trip_through_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frames.safetensors");
        let videos: Vec<GridVideo> =
            (0..3).map(|value| GridVideo::side_by_side(&[camera("a", value, 1)]).unwrap()).collect();
        save_frames(&path, &videos).unwrap();
        assert_eq!(load_frames(&path).unwrap(), videos);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(load_frames(&path).is_err());
        let wider = GridVideo { height: 1, width: 4, rgb: vec![0; 12] };
        assert!(save_frames(&path, &[videos[0].clone(), wider]).is_err());
    }

    #[test]
    fn short_episodes_hold_their_last_frame() {
        let episode = Episode {
            instruction: String::new(),
            source: String::new(),
            fps: 20,
            cameras: vec![camera("a", 0, 3)],
            proprio_dim: 0,
            proprio: vec![],
            action_dim: 0,
            actions: vec![],
        };
        let video = grid_video(&episode, 4, 1).unwrap();
        assert_eq!(video.frames(), 5);
        assert_eq!(video.frame(4), video.frame(2));
        assert_eq!(grid_video(&episode, 2, 1).unwrap().frames(), 3);
    }
}
