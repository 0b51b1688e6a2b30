//! The in-memory form of one demonstration or rollout.

/// The images of one camera over an episode, kept as one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Camera {
    /// Name as the dataset has it without the `observation.images.` prefix, such as `agent` or `wrist`.
    pub name: String,
    /// Rows of one image.
    pub height: usize,
    /// Columns of one image.
    pub width: usize,
    /// RGB bytes, `[frames, height, width, 3]`, row-major, top row first.
    pub rgb: Vec<u8>,
}

impl Camera {
    /// Bytes of one image.
    pub fn frame_len(&self) -> usize {
        self.height * self.width * 3
    }

    /// Number of images.
    pub fn frames(&self) -> usize {
        self.rgb.len().checked_div(self.frame_len()).unwrap_or(0)
    }

    /// The image at `frame`, `[height, width, 3]`.
    ///
    /// # Panics
    /// If `frame` is past the end.
    pub fn frame(&self, frame: usize) -> &[u8] {
        &self.rgb[frame * self.frame_len()..(frame + 1) * self.frame_len()]
    }

    /// The same images `factor` times smaller in both directions, each pixel the rounded mean of those it covers; `None`
    /// if a side is no multiple of `factor`, or the bytes are not whole images.
    pub fn reduced(&self, factor: usize) -> Option<Self> {
        let whole = |side: usize| side > 0 && factor > 0 && side.is_multiple_of(factor);
        if !whole(self.height) || !whole(self.width) || !self.rgb.len().is_multiple_of(self.frame_len()) {
            return None;
        }
        if factor == 1 {
            return Some(self.clone());
        }
        let (row_len, columns) = (self.width * 3, self.width / factor);
        let area = (factor * factor) as u32;
        let mut rgb = Vec::with_capacity(self.rgb.len() / (factor * factor));
        // Rows of all frames follow each other, and a frame has a multiple of `factor` of them.
        for rows in self.rgb.chunks_exact(row_len * factor) {
            let mut sums = vec![0_u32; columns * 3];
            for (place, byte) in rows.iter().enumerate() {
                let at = place % row_len;
                if let Some(sum) = sums.get_mut(at / 3 / factor * 3 + at % 3) {
                    *sum += u32::from(*byte);
                }
            }
            rgb.extend(sums.iter().map(|sum| ((sum + area / 2) / area) as u8));
        }
        Some(Self { name: self.name.clone(), height: self.height / factor, width: columns, rgb })
    }
}

/// What the robot sees at one control step: one image per camera (cameras of one frame) and its proprioception.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// One image per camera, in the environment's camera order; each [`Camera`] holds exactly one frame.
    pub cameras: Vec<Camera>,
    /// Proprioception, in the order of the environment's specification; the last entry is the gripper aperture in metres.
    pub proprio: Vec<f32>,
}

/// One demonstration or rollout: `N` control steps.
///
/// Row `i` of every array belongs to step `i`: the observation *before* `actions[i]` is executed.
/// An action-free video has `action_dim == 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// The language instruction.
    pub instruction: String,
    /// Where it came from, such as a scene id; empty if unknown.
    pub source: String,
    /// Control steps per second.
    pub fps: u32,
    /// Images, `N` frames each.
    pub cameras: Vec<Camera>,
    /// Width of one proprioception row.
    pub proprio_dim: usize,
    /// `[N, proprio_dim]`.
    pub proprio: Vec<f32>,
    /// Width of one action row; 0 for action-free video.
    pub action_dim: usize,
    /// `[N, action_dim]`.
    pub actions: Vec<f32>,
}

/// An episode whose parts do not fit together.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum EpisodeError {
    /// An array has the wrong number of rows.
    #[error(
        "episode {source_name:?}: {what} has {got} values, expected {expected} for {frames} frames; the recording is incomplete or its widths are wrong"
    )]
    Length {
        /// Which episode.
        source_name: String,
        /// Which array.
        what: String,
        /// Values found.
        got: usize,
        /// Values expected.
        expected: usize,
        /// Frames of the episode.
        frames: usize,
    },
    /// A value is NaN or infinite.
    #[error("episode {source_name:?}: {what} is not finite at frame {frame}; drop the episode or repair the recording")]
    NotFinite {
        /// Which episode.
        source_name: String,
        /// Which array.
        what: String,
        /// First frame with a bad value.
        frame: usize,
    },
}

impl Episode {
    /// Number of control steps.
    pub fn len(&self) -> usize {
        if let Some(camera) = self.cameras.first() {
            camera.frames()
        } else {
            let steps_by_action = self.actions.len().checked_div(self.action_dim);
            steps_by_action.or_else(|| self.proprio.len().checked_div(self.proprio_dim)).unwrap_or(0)
        }
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The action at `step`, `[action_dim]`.
    pub fn action(&self, step: usize) -> &[f32] {
        &self.actions[step * self.action_dim..(step + 1) * self.action_dim]
    }

    /// The proprioception at `step`, `[proprio_dim]`.
    pub fn proprio(&self, step: usize) -> &[f32] {
        &self.proprio[step * self.proprio_dim..(step + 1) * self.proprio_dim]
    }

    /// The observation at `step`.
    pub fn observation(&self, step: usize) -> Observation {
        Observation {
            cameras: self
                .cameras
                .iter()
                .map(|camera| Camera { rgb: camera.frame(step).to_vec(), ..camera.clone_empty() })
                .collect(),
            proprio: self.proprio(step).to_vec(),
        }
    }

    /// Checks that all arrays have the same number of rows and only finite values.
    ///
    /// # Errors
    /// [`EpisodeError`] naming the first array that does not fit.
    pub fn validate(&self) -> Result<(), EpisodeError> {
        let frames = self.len();
        let length = |what: &str, got: usize, expected: usize| {
            if got == expected {
                return Ok(());
            }
            Err(EpisodeError::Length { source_name: self.source.clone(), what: what.to_owned(), got, expected, frames })
        };
        for camera in &self.cameras {
            length(&format!("camera {:?}", camera.name), camera.rgb.len(), frames * camera.frame_len())?;
        }
        length("proprio", self.proprio.len(), frames * self.proprio_dim)?;
        length("action", self.actions.len(), frames * self.action_dim)?;
        for (what, values, width) in
            [("proprio", &self.proprio, self.proprio_dim), ("action", &self.actions, self.action_dim)]
        {
            if let Some(bad) = values.iter().position(|value| !value.is_finite()) {
                return Err(EpisodeError::NotFinite {
                    source_name: self.source.clone(),
                    what: what.to_owned(),
                    frame: bad / width,
                });
            }
        }
        Ok(())
    }
}

impl Camera {
    fn clone_empty(&self) -> Self {
        Self { name: self.name.clone(), height: self.height, width: self.width, rgb: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::Camera;

    #[test]
    fn a_smaller_image_has_the_rounded_means() {
        let one = [0, 10, 20, 1, 11, 21, 100, 0, 0, 104, 0, 0, 2, 12, 22, 3, 13, 23, 100, 0, 0, 98, 0, 255];
        let camera = Camera { name: "a".into(), height: 2, width: 4, rgb: [one, [7; 24]].concat() };
        let small = camera.reduced(2).unwrap();
        assert_eq!((small.height, small.width, small.frames()), (1, 2, 2));
        assert_eq!(small.rgb, [2, 12, 22, 101, 0, 64, 7, 7, 7, 7, 7, 7]);
        assert_eq!(camera.reduced(1), Some(camera.clone()));
        let refused = [0, 3, 4].map(|factor| camera.reduced(factor));
        assert_eq!(refused, [None, None, None]);
        assert_eq!(Camera { rgb: vec![0; 25], ..camera }.reduced(2), None);
    }
}
