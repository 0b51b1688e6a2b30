//! An episode that was served, as it is kept on disk.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use w2a_data::{Camera, Observation};
use w2a_nn::NnError;
use w2a_world::{GridVideo, Layout};

/// The only key of the files' metadata: one, because safetensors writes several in no fixed order.
const METADATA: &str = "world2act.episode";

/// What is known of an episode besides its chunks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    /// Its number; episodes are counted in the order in which they ended.
    pub number: u64,
    /// The connection that it was served over, counted from the server's start.
    pub session: u64,
    /// The update whose weights it was served with.
    pub update: u64,
    /// The update on trial, if it was part of that.
    pub trial: Option<u64>,
    /// What the robot was told.
    pub instruction: String,
    /// Names of the cameras, left to right.
    pub cameras: Vec<String>,
}

/// A served episode of `n` chunks: the row of a tensor is the index of its chunk.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub about: About,
    /// Observations at chunk boundaries, `n`.
    pub observations: Vec<Observation>,
    /// Normalised base chunks, `[n, M·A]`.
    pub base: Vec<f32>,
    /// `[n, D]`.
    pub z_base: Vec<f32>,
    /// What was decoded and sent, `[n, D]`: `z_base` and the scaled step.
    pub z_final: Vec<f32>,
}

/// Widths that an episode of this run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// `T`: chunks of an imagination, and most of an episode.
    pub chunks: usize,
    /// `M·A`.
    pub chunk: usize,
    /// `D`.
    pub dim: usize,
    /// Values of proprioception.
    pub proprio: usize,
    /// Rows and columns of all cameras side by side.
    pub grid: (usize, usize),
}

impl Kept {
    /// An episode that begins.
    pub fn empty(about: About) -> Self {
        Self { about, observations: Vec::new(), base: Vec::new(), z_base: Vec::new(), z_final: Vec::new() }
    }

    /// Chunks.
    pub fn len(&self) -> usize {
        self.observations.len()
    }

    /// The first image, as the world model sees it.
    pub fn first(&self) -> Result<GridVideo, NnError> {
        let cameras = self.observations.first().map_or(&[][..], |observation| &observation.cameras);
        Layout::SideBySide.compose(cameras)
    }

    /// Writes the episode, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), NnError> {
        let format = |reason: String| NnError::Format { path: path.to_owned(), reason };
        let n = self.len();
        let floats = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let row = |values: &[f32]| vec![n, values.len() / n.max(1)];
        let mut parts: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (index, _) in self.about.cameras.iter().enumerate() {
            let of = |observation: &'_ Observation| observation.cameras.get(index).cloned();
            let cameras: Vec<Camera> = self.observations.iter().filter_map(of).collect();
            let (height, width) = cameras.first().map_or((0, 0), |camera| (camera.height, camera.width));
            let bytes = cameras.into_iter().flat_map(|camera| camera.rgb).collect();
            parts.push((camera(index), Dtype::U8, vec![n, height, width, 3], bytes));
        }
        let proprio: Vec<f32> = self.observations.iter().flat_map(|seen| seen.proprio.iter().copied()).collect();
        let named = [("proprio", &proprio), ("base", &self.base), ("z_base", &self.z_base), ("z_final", &self.z_final)];
        for (name, values) in named {
            parts.push((name.into(), Dtype::F32, row(values), floats(&mut values.iter().copied())));
        }
        let views: Result<Vec<_>, _> = parts
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect();
        let views = views.map_err(|error: safetensors::SafeTensorError| format(error.to_string()))?;
        let about = serde_json::to_string(&self.about).map_err(|error| format(error.to_string()))?;
        let metadata = HashMap::from([(METADATA.to_owned(), about)]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| format(error.to_string()))?;
        w2a_data::write_atomic(path, &bytes).map_err(|source| NnError::Io { action: "keeping an episode", source })
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// A damaged file, or one of another run: every size is checked, and every number has to be finite.
    pub fn load(path: &Path, sizes: &Sizes) -> Result<Self, NnError> {
        let format = |reason: String| NnError::Format { path: path.to_owned(), reason };
        let bytes = fs_err::read(path).map_err(|source| NnError::Io { action: "reading a kept episode", source })?;
        let parse = |error: safetensors::SafeTensorError| format(error.to_string());
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(parse)?;
        let text = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA));
        let text = text.ok_or_else(|| format(format!("no {METADATA} in its metadata: not a kept episode")))?;
        let about: About = serde_json::from_str(text).map_err(|error| format(error.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(parse)?;
        let tensor = |name: &str, dtype: Dtype| {
            let view = tensors.tensor(name).map_err(parse)?;
            if view.dtype() != dtype {
                return Err(format(format!("tensor {name:?} is {:?}, expected {dtype:?}", view.dtype())));
            }
            Ok(view)
        };
        let n = tensor("z_base", Dtype::F32)?.shape().first().copied().unwrap_or(0);
        if n == 0 || n > sizes.chunks {
            return Err(format(format!("{n} chunks, expected 1 to {}", sizes.chunks)));
        }
        let rows = |name: &str, width: usize| {
            let view = tensor(name, Dtype::F32)?;
            if view.shape() != [n, width] {
                let expected = [n, width];
                return Err(format(format!("tensor {name:?} has shape {:?}, expected {expected:?}", view.shape())));
            }
            let (words, _) = view.data().as_chunks::<4>();
            let values: Vec<f32> = words.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            match values.iter().position(|value| !value.is_finite()) {
                None => Ok(values),
                Some(bad) => Err(format(format!("tensor {name:?} is not finite at position {bad}"))),
            }
        };
        let proprio = rows("proprio", sizes.proprio)?;
        let mut observations: Vec<Observation> = proprio
            .chunks_exact(sizes.proprio.max(1))
            .map(|proprio| Observation { cameras: Vec::new(), proprio: proprio.to_vec() })
            .collect();
        let mut columns = 0;
        for (index, name) in about.cameras.iter().enumerate() {
            let view = tensor(&camera(index), Dtype::U8)?;
            let &[frames, height, width, 3] = view.shape() else {
                return Err(format(format!("camera {name:?} has shape {:?}, expected [{n}, H, W, 3]", view.shape())));
            };
            if frames != n || height != sizes.grid.0 || width == 0 {
                let expected = format!("{n} frames of {} rows", sizes.grid.0);
                return Err(format(format!("camera {name:?} has shape {:?}, expected {expected}", view.shape())));
            }
            columns += width;
            for (observation, rgb) in observations.iter_mut().zip(view.data().chunks_exact(height * width * 3)) {
                observation.cameras.push(Camera { name: name.clone(), height, width, rgb: rgb.to_vec() });
            }
        }
        if columns != sizes.grid.1 {
            return Err(format(format!("cameras of {columns} columns, expected {}", sizes.grid.1)));
        }
        let [base, z_base, z_final] =
            [rows("base", sizes.chunk)?, rows("z_base", sizes.dim)?, rows("z_final", sizes.dim)?];
        Ok(Self { about, observations, base, z_base, z_final })
    }
}

fn camera(index: usize) -> String {
    format!("camera_{index}")
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use w2a_data::{Camera, Observation};

    use super::{About, Kept, Sizes};

    pub const SIZES: Sizes = Sizes { chunks: 4, chunk: 6, dim: 3, proprio: 2, grid: (4, 8) };

    pub fn kept(number: u64, n: usize) -> Kept {
        let camera = |name: &str, shade: usize| Camera {
            name: name.into(),
            height: 4,
            width: 4,
            rgb: vec![(40 * shade + number as usize) as u8; 48],
        };
        let seen = |index: usize| Observation {
            cameras: vec![camera("agent", index), camera("wrist", index + 1)],
            proprio: vec![index as f32, number as f32],
        };
        Kept {
            about: About {
                number,
                session: 9,
                update: 0,
                trial: Some(1),
                instruction: "put it there".into(),
                cameras: vec!["agent".into(), "wrist".into()],
            },
            observations: (0..n).map(seen).collect(),
            base: vec![0.5; n * 6],
            z_base: vec![1.0; n * 3],
            z_final: vec![1.5; n * 3],
        }
    }

    fn load(path: &Path, sizes: &Sizes) -> Result<Kept, String> {
        Kept::load(path, sizes).map_err(|error| error.to_string())
    }

    #[test]
    fn an_episode_comes_back_as_it_was_and_one_of_another_size_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.safetensors");
        let episode = kept(3, 4);
        episode.save(&path).unwrap();
        assert_eq!(load(&path, &SIZES).unwrap(), episode);
        let wrong = [
            (Sizes { chunks: 3, ..SIZES }, "4 chunks, expected 1 to 3"),
            (Sizes { chunk: 7, ..SIZES }, "tensor \"base\" has shape [4, 6], expected [4, 7]"),
            (Sizes { dim: 2, ..SIZES }, "tensor \"z_base\""),
            (Sizes { proprio: 3, ..SIZES }, "tensor \"proprio\""),
            (Sizes { grid: (5, 8), ..SIZES }, "expected 4 frames of 5 rows"),
            (Sizes { grid: (4, 9), ..SIZES }, "cameras of 8 columns, expected 9"),
        ];
        for (sizes, words) in wrong {
            let error = load(&path, &sizes).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_episode_cut_anywhere_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.safetensors");
        kept(1, 2).save(&path).unwrap();
        let whole = fs_err::read(&path).unwrap();
        for cut in (0..whole.len()).step_by(7) {
            fs_err::write(&path, &whole[..cut]).unwrap();
            assert!(load(&path, &SIZES).unwrap_err().contains("e.safetensors"));
        }
    }

    #[test]
    fn numbers_that_are_not_finite_and_files_of_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.safetensors");
        let mut episode = kept(1, 2);
        episode.z_final[1] = f32::NAN;
        episode.save(&path).unwrap();
        assert!(load(&path, &SIZES).unwrap_err().contains("\"z_final\" is not finite at position 1"));
        w2a_nn::write_state(&w2a_nn::StateDict::new(), &path).unwrap();
        assert!(load(&path, &SIZES).unwrap_err().contains("not a kept episode"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_episode_or_an_error(
            bytes in proptest::collection::vec(0_u8.., 0..200),
            at in 0_usize..4000,
            flip in 1_u8..,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("e.safetensors");
            fs_err::write(&path, &bytes).unwrap();
            assert!(load(&path, &SIZES).is_err());
            kept(1, 3).save(&path).unwrap();
            let mut whole = fs_err::read(&path).unwrap();
            let at = at % whole.len();
            whole[at] ^= flip;
            fs_err::write(&path, &whole).unwrap();
            // A flipped bit of a pixel is another pixel; whatever is read has the right sizes.
            if let Ok(read) = load(&path, &SIZES) {
                assert_eq!((read.len(), read.base.len()), (3, 18));
            }
        }
    }
}
