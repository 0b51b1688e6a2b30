//! How the release of arXiv 2603.10422 pairs video clips with actions: names that say which demonstration a clip shows,
//! a file of skill ranges, and windows of 128 steps.
//!
//! | layout | name of a clip | actions | window |
//! |---|---|---|---|
//! | RoboCasa | `<task>_mg_demo_<id>_aa_<index>.mp4` | HDF5 below a folder `mg`, `video_metadata.json` | the skill's steps: a random crop, or its last action repeated |
//! | LIBERO | `demo_<id>-<task>-<prompt>-order<k>.mp4` | HDF5 | the `k`-th 128 steps, or the last 128; zeros behind |
//! | Franka | `<task>-demo-<id>.mp4` | HDF5 | the first 128 steps; zeros behind |
//! | Bridge | `episode_<id>.mp4` | LeRobot 2.1 | the first 128 steps; zeros behind |
//!
//! The release warns about a name that does not parse and goes on with demonstration 0; here it is an error.

mod captions;
mod clips;
mod error;
mod name;
mod ranges;
mod window;

pub use captions::{CaptionedVideo, CaptionedVideos};
pub use clips::{Clip, Clips};
pub use error::LayoutError;
pub use name::{ClipLayout, ClipName};
pub use ranges::{SkillRange, SkillRanges};
pub use window::{WINDOW_STEPS, Window};
