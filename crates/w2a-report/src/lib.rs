//! What a run leaves: counted episodes and their intervals, metrics, a manifest, pictures and one readable page.
//!
//! Nothing here knows a model or a simulator; everything is built from plain numbers, names and RGB bytes.

mod atomic;
mod eval;
mod gif;
mod html;
mod image;
mod manifest;
mod markup;
mod metrics;
mod progress;
pub mod stats;
mod summary;
pub mod svg;
mod tensorboard;

pub use atomic::{WriteError, write_atomic};
pub use eval::{
    ControlSteps, EpisodeResult, EvalError, EvalInfo, GroupInfo, METHODS, MethodInfo, Overall, Paired, Rate, TaskInfo,
    TaskMetrics, method_label,
};
pub use gif::gif;
pub use html::{Align, Cell, Clip, Report, StripRow, Table};
pub use image::{ImageError, Picture, apng, filmstrip, side_by_side, spaced};
pub use manifest::{DatasetRecord, GitState, Machine, Manifest, ManifestError, StageRecord, StageStatus};
pub use markup::Html;
pub use metrics::{LineTime, METRICS_FILE, Metrics, MetricsError, MetricsLine, curve, read_metrics};
pub use progress::{Progress, human_duration};
pub use summary::{Scenes, outcome_sentence, p_text, rate_cell, success_chart, success_table, task_table, time_chart};
pub use tensorboard::EventWriter;
