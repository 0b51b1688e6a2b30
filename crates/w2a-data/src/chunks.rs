//! Actions in chunks of `M` steps, the unit in which a policy predicts and an adapter encodes.

use std::borrow::Cow;

use crate::Episode;

/// What happens to the last steps of an episode whose length is no multiple of the chunk length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remainder {
    /// The steps past the last whole chunk are left out.
    Drop,
    /// The last chunk is filled up by repeating the last action. For delta actions this keeps moving: prefer
    /// [`Remainder::Drop`] there, unless episodes end with the robot at rest.
    HoldLast,
    /// Such an episode is an error.
    Reject,
}

/// Actions that cannot be cut into chunks.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChunkError {
    /// The chunk length is zero.
    #[error("cutting actions into chunks: the chunk length is 0, expected at least 1 step")]
    ZeroLength,
    /// The episode has no actions.
    #[error("cutting episode {source_name:?} into chunks: it is action-free video; use an episode with actions")]
    ActionFree {
        /// Which episode.
        source_name: String,
    },
    /// Steps remain and the policy is [`Remainder::Reject`].
    #[error(
        "cutting episode {source_name:?} into chunks of {chunk_len}: {steps} steps leave {left} over; choose a divisor or another remainder policy"
    )]
    Remainder {
        /// Which episode.
        source_name: String,
        /// Steps of one chunk.
        chunk_len: usize,
        /// Steps of the episode.
        steps: usize,
        /// Steps past the last whole chunk.
        left: usize,
    },
}

/// The actions of an episode as `[T, M * A]`: `T` chunks of `M` steps of width `A`, row-major.
///
/// Row `t` covers the steps `t * M .. (t + 1) * M`. Nothing is copied unless the last chunk has to be filled up.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionChunks<'a> {
    values: Cow<'a, [f32]>,
    chunk_len: usize,
    action_dim: usize,
    padded_steps: usize,
}

impl ActionChunks<'_> {
    /// Number of chunks, `T`.
    pub fn len(&self) -> usize {
        self.values.len() / self.width()
    }

    /// Whether there is no chunk.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Steps of one chunk, `M`.
    pub fn chunk_len(&self) -> usize {
        self.chunk_len
    }

    /// Width of one action, `A`.
    pub fn action_dim(&self) -> usize {
        self.action_dim
    }

    /// Values of one row, `M * A`.
    pub fn width(&self) -> usize {
        self.chunk_len * self.action_dim
    }

    /// Steps at the end of the last row that are repetitions and no recorded actions.
    pub fn padded_steps(&self) -> usize {
        self.padded_steps
    }

    /// All values, `[T, M * A]`.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// Chunk `t`, `[M * A]`.
    ///
    /// # Panics
    /// If `t` is past the end.
    pub fn row(&self, t: usize) -> &[f32] {
        &self.values[t * self.width()..(t + 1) * self.width()]
    }

    /// The chunks in order, `[M * A]` each.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width())
    }
}

impl Episode {
    /// The actions as chunks of `chunk_len` steps, `[T, chunk_len * action_dim]`.
    ///
    /// # Errors
    /// [`ChunkError`] if `chunk_len` is 0, the episode has no actions, or steps remain under [`Remainder::Reject`].
    pub fn action_chunks(&self, chunk_len: usize, remainder: Remainder) -> Result<ActionChunks<'_>, ChunkError> {
        if chunk_len == 0 {
            return Err(ChunkError::ZeroLength);
        }
        if self.action_dim == 0 {
            return Err(ChunkError::ActionFree { source_name: self.source.clone() });
        }
        let steps = self.actions.len() / self.action_dim;
        let left = steps % chunk_len;
        let whole = &self.actions[..(steps - left) * self.action_dim];
        let (values, padded_steps) = match remainder {
            _ if left == 0 => (Cow::Borrowed(whole), 0),
            Remainder::Drop => (Cow::Borrowed(whole), 0),
            Remainder::HoldLast => {
                let mut values = self.actions[..steps * self.action_dim].to_vec();
                let last = values[(steps - 1) * self.action_dim..].to_vec();
                for _ in left..chunk_len {
                    values.extend_from_slice(&last);
                }
                (Cow::Owned(values), chunk_len - left)
            }
            Remainder::Reject => {
                return Err(ChunkError::Remainder { source_name: self.source.clone(), chunk_len, steps, left });
            }
        };
        Ok(ActionChunks { values, chunk_len, action_dim: self.action_dim, padded_steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(steps: usize) -> Episode {
        Episode {
            instruction: "lift".into(),
            source: "test".into(),
            fps: 20,
            cameras: Vec::new(),
            proprio_dim: 0,
            proprio: Vec::new(),
            action_dim: 2,
            actions: (0..steps * 2).map(|value| value as f32).collect(),
        }
    }

    #[test]
    fn whole_chunks_are_views() {
        let episode = episode(6);
        for policy in [Remainder::Drop, Remainder::HoldLast, Remainder::Reject] {
            let chunks = episode.action_chunks(3, policy).unwrap();
            assert_eq!((chunks.len(), chunks.width(), chunks.padded_steps()), (2, 6, 0));
            assert_eq!(chunks.row(1), &[6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
            assert!(matches!(chunks.values, Cow::Borrowed(_)));
        }
    }

    #[test]
    fn the_remainder_follows_the_policy() {
        let episode = episode(5);
        let dropped = episode.action_chunks(3, Remainder::Drop).unwrap();
        assert_eq!(dropped.rows().collect::<Vec<_>>(), [&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]);
        let held = episode.action_chunks(3, Remainder::HoldLast).unwrap();
        assert_eq!((held.len(), held.padded_steps()), (2, 1));
        assert_eq!(held.row(1), &[6.0, 7.0, 8.0, 9.0, 8.0, 9.0]);
        let rejected = episode.action_chunks(3, Remainder::Reject).unwrap_err();
        assert!(matches!(rejected, ChunkError::Remainder { left: 2, steps: 5, .. }));
    }

    #[test]
    fn a_short_episode_drops_to_nothing_or_pads_to_one() {
        assert!(episode(2).action_chunks(3, Remainder::Drop).unwrap().is_empty());
        assert_eq!(episode(2).action_chunks(3, Remainder::HoldLast).unwrap().len(), 1);
        assert!(episode(0).action_chunks(3, Remainder::HoldLast).unwrap().is_empty());
    }

    #[test]
    fn zero_length_and_action_free_video_are_errors() {
        assert_eq!(episode(4).action_chunks(0, Remainder::Drop), Err(ChunkError::ZeroLength));
        let video = Episode { action_dim: 0, actions: Vec::new(), ..episode(0) };
        assert!(matches!(video.action_chunks(2, Remainder::Drop), Err(ChunkError::ActionFree { .. })));
    }
}
