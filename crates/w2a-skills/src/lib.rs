//! Cuts demonstrations into skills: clips of one atomic skill each, with a prompt of its own (arXiv 2603.10422, the
//! skill-compositional world model).
//!
//! The signal of the gripper says where the segments are ([`contacts`], [`cycles`], [`phases`]), and where it says nothing the
//! motion does ([`motion_segments`]). A file or a language model says what the skills of an instruction are
//! ([`Schema`], [`question`]), and counts or that model pair the two. The model can only choose among the segments that it was given
//! ([`answer`]); a demonstration that does not come out is dropped, with its reason.

pub mod answer;
mod cache;
mod chat;
mod clip;
mod config;
mod error;
mod json;
mod lengths;
mod matching;
mod motion;
mod page;
pub mod question;
mod ranges;
mod run;
mod schema;
mod segment;
mod signal;
mod summary;
mod survey;
mod validate;

pub use chat::{Chat, ChatCounts, ChatError, key_from_environment};
pub use config::{Config, Cut, GripperConfig, LlmConfig, MotionConfig, PageConfig, SegmentConfig, SignalChoice};
pub use error::SkillsError;
pub use lengths::Lengths;
pub use matching::{Clip, Dropped};
pub use motion::segments as motion_segments;
pub use ranges::{RANGES_FILE, Ranges, SkillRange};
pub use run::{ANSWERS_DIR, DATASET_DIR, Outcome, PAGE_FILE, Request, SUMMARY_FILE, dry_run, run};
pub use schema::Schema;
pub use segment::{ContactRule, Segment, contacts, cycles, phases};
pub use signal::{Analysis, Facts, Signal};
pub use summary::{DemonstrationOutcome, DroppedFor, SourceFacts, Summary, Task, Unreadable};
