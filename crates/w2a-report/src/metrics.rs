//! `metrics.jsonl`, one JSON object a line, and the TensorBoard events derived from it.
//!
//! ```json
//! {"stage":"world","step":100,"values":{"loss":0.31},"time":{"wall_s":12.5,"unix_s":1.8e9}}
//! ```
//! Everything but `time` depends on the configuration and the seed only, so a run that was killed and resumed leaves
//! the same lines as one that was not. The event file holds nothing of its own: on resume it is written anew from the
//! lines that were kept.

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fs_err::{File, OpenOptions};
use serde::{Deserialize, Serialize};

use crate::tensorboard::EventWriter;

/// Name of the log in a run's folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// What ends the name of our event files, after the time they were started.
const EVENTS_SUFFIX: &str = ".world2act";
const EVENTS_PREFIX: &str = "events.out.tfevents.";

/// When a line was written; the only part of it that differs between equal runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineTime {
    /// Seconds the run has computed, over all its resumes.
    pub wall_s: f64,
    /// Seconds since 1970.
    pub unix_s: f64,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsLine {
    /// Stage, such as `world` or `posttrain/w2a/seed3`.
    pub stage: String,
    /// Step within the stage.
    pub step: u64,
    /// Values by name; one that is NaN or infinite is `null`.
    pub values: BTreeMap<String, Option<f64>>,
    /// When.
    pub time: LineTime,
}

/// A log that could not be opened, read or extended.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The disk is full.
    #[error(
        "metrics: cannot {operation}: the disk is full; free some space and run again with --resume: {}", path.display()
    )]
    DiskFull {
        /// What was being done.
        operation: &'static str,
        /// File.
        path: PathBuf,
    },
    /// Any other reason of the system.
    #[error("metrics: cannot {operation}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The reason, with the path.
        source: io::Error,
    },
    /// A line that is complete but not ours.
    #[error(
        "metrics: line {line} is not a metrics line: {source}; move the file away or start a new run: {}", path.display()
    )]
    Parse {
        /// Line, from 1.
        line: usize,
        /// Reason.
        source: serde_json::Error,
        /// File.
        path: PathBuf,
    },
    /// `create` found a log.
    #[error("metrics: there is a log already; use --resume to continue it, or choose another folder: {}", path.display())]
    Exists {
        /// File.
        path: PathBuf,
    },
}

/// Appends to a run's `metrics.jsonl` and TensorBoard events.
pub struct Metrics {
    path: PathBuf,
    log: File,
    events: EventWriter<File>,
    started: Instant,
    wall_s_before: f64,
}

impl Metrics {
    /// Starts the log of a new run in `folder`, which is created if missing.
    ///
    /// # Errors
    /// [`MetricsError::Exists`] if `folder` has a log; else what the system reports.
    pub fn create(folder: impl AsRef<Path>) -> Result<Self, MetricsError> {
        let path = folder.as_ref().join(METRICS_FILE);
        if path.exists() {
            return Err(MetricsError::Exists { path });
        }
        Self::open(folder.as_ref(), &[], 0)
    }

    /// Continues a log whose run will next write `next_step` of `stage`.
    ///
    /// The first line of `stage` at or past `next_step` is cut off together with all that follows, and so is a last
    /// line that was torn by the end of the process. A `stage` that has not logged anything cuts nothing. A missing
    /// log is started.
    ///
    /// # Errors
    /// [`MetricsError::Parse`] if a complete line is not ours; else what the system reports.
    pub fn resume(folder: impl AsRef<Path>, stage: &str, next_step: u64) -> Result<Self, MetricsError> {
        let path = folder.as_ref().join(METRICS_FILE);
        let (mut lines, mut ends) = if path.exists() { parse(&path)? } else { (Vec::new(), Vec::new()) };
        if let Some(cut) = lines.iter().position(|line| line.stage == stage && line.step >= next_step) {
            lines.truncate(cut);
            ends.truncate(cut);
        }
        Self::open(folder.as_ref(), &lines, ends.last().copied().unwrap_or(0))
    }

    fn open(folder: &Path, kept: &[MetricsLine], length: u64) -> Result<Self, MetricsError> {
        let path = folder.join(METRICS_FILE);
        let fail = |operation| {
            let path = path.clone();
            move |source| io_error(operation, &path, source)
        };
        fs_err::create_dir_all(folder).map_err(fail("create the folder"))?;
        for old in event_files(folder).map_err(fail("list the folder"))? {
            fs_err::remove_file(old).map_err(fail("replace the old events"))?;
        }
        let mut log =
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(fail("open the log"))?;
        log.set_len(length).map_err(fail("shorten the log"))?;
        log.seek(SeekFrom::End(0)).map_err(fail("open the log"))?;
        let unix_s = unix_s();
        let file = File::create(folder.join(format!("{EVENTS_PREFIX}{:.0}{EVENTS_SUFFIX}", unix_s.floor())))
            .map_err(fail("create the events"))?;
        let first_s = kept.first().map_or(unix_s, |line| line.time.unix_s);
        let mut events = EventWriter::new(file, first_s).map_err(fail("write the events"))?;
        for line in kept {
            write_events(&mut events, line).map_err(fail("write the events"))?;
        }
        let wall_s_before = kept.last().map_or(0.0, |line| line.time.wall_s);
        Ok(Self { path, log, events, started: Instant::now(), wall_s_before })
    }

    /// Appends one line: `values` of `stage` at `step`. It is on its way to the disk when this returns.
    ///
    /// # Errors
    /// [`MetricsError::DiskFull`] or [`MetricsError::Io`].
    pub fn log(&mut self, stage: &str, step: u64, values: &[(&str, f64)]) -> Result<(), MetricsError> {
        let wall_s = self.wall_s_before + self.started.elapsed().as_secs_f64();
        let line = MetricsLine {
            stage: stage.to_owned(),
            step,
            values: values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.is_finite().then_some(*value)))
                .collect(),
            time: LineTime { wall_s: (wall_s * 1e3).round() / 1e3, unix_s: (unix_s() * 1e3).round() / 1e3 },
        };
        let mut text = serde_json::to_vec(&line)
            .map_err(|source| io_error("write the log", &self.path, io::Error::other(source)))?;
        text.push(b'\n');
        self.log.write_all(&text).map_err(|source| io_error("write the log", &self.path, source))?;
        write_events(&mut self.events, &line).map_err(|source| io_error("write the events", &self.path, source))
    }

    /// Waits until the log is on the disk; call it beside saving a checkpoint.
    ///
    /// # Errors
    /// [`MetricsError::DiskFull`] or [`MetricsError::Io`].
    pub fn sync(&mut self) -> Result<(), MetricsError> {
        self.log.sync_data().map_err(|source| io_error("sync the log", &self.path, source))
    }
}

/// All complete lines of a run's log, in order; a torn last line is left out.
///
/// # Errors
/// [`MetricsError`].
pub fn read_metrics(folder: impl AsRef<Path>) -> Result<Vec<MetricsLine>, MetricsError> {
    Ok(parse(&folder.as_ref().join(METRICS_FILE))?.0)
}

/// The curve of one value of one stage, as `(step, value)`; values that were not finite are NaN.
pub fn curve(lines: &[MetricsLine], stage: &str, value: &str) -> Vec<(f64, f64)> {
    lines
        .iter()
        .filter(|line| line.stage == stage)
        .filter_map(|line| Some((line.step as f64, line.values.get(value)?.unwrap_or(f64::NAN))))
        .collect()
}

/// Lines and, for each, the number of bytes up to its end.
fn parse(path: &Path) -> Result<(Vec<MetricsLine>, Vec<u64>), MetricsError> {
    let bytes = fs_err::read(path).map_err(|source| io_error("read the log", path, source))?;
    let (mut lines, mut ends, mut end) = (Vec::new(), Vec::new(), 0);
    for text in bytes.split_inclusive(|byte| *byte == b'\n').filter(|text| text.ends_with(b"\n")) {
        end += text.len() as u64;
        let line = serde_json::from_slice(text).map_err(|source| MetricsError::Parse {
            line: lines.len() + 1,
            source,
            path: path.to_owned(),
        })?;
        lines.push(line);
        ends.push(end);
    }
    Ok((lines, ends))
}

fn write_events(events: &mut EventWriter<File>, line: &MetricsLine) -> io::Result<()> {
    for (name, value) in &line.values {
        let tag = format!("{}/{name}", line.stage);
        events.scalar(&tag, line.step, value.unwrap_or(f64::NAN), line.time.unix_s)?;
    }
    events.flush()
}

fn event_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(EVENTS_PREFIX) && name.ends_with(EVENTS_SUFFIX) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> MetricsError {
    if source.kind() == io::ErrorKind::StorageFull {
        return MetricsError::DiskFull { operation, path: path.to_owned() };
    }
    MetricsError::Io { operation, source }
}

fn unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(metrics: &mut Metrics, stage: &str, steps: std::ops::Range<u64>) {
        for step in steps {
            metrics.log(stage, step, &[("loss", 1.0 / (step as f64 + 3.0)), ("norm", step as f64)]).unwrap();
        }
    }

    fn timeless(folder: &Path) -> Vec<(String, u64, BTreeMap<String, Option<f64>>)> {
        read_metrics(folder).unwrap().into_iter().map(|line| (line.stage, line.step, line.values)).collect()
    }

    #[test]
    fn a_resumed_log_equals_an_uninterrupted_one() {
        let folder = tempfile::tempdir().unwrap();
        let (straight, resumed) = (folder.path().join("straight"), folder.path().join("resumed"));
        let mut metrics = Metrics::create(&straight).unwrap();
        run(&mut metrics, "world", 0..10);
        run(&mut metrics, "policy", 0..5);
        let mut metrics = Metrics::create(&resumed).unwrap();
        run(&mut metrics, "world", 0..7);
        // Killed in the middle of a line; the last checkpoint was taken after step 4.
        fs_err::OpenOptions::new()
            .append(true)
            .open(resumed.join(METRICS_FILE))
            .unwrap()
            .write_all(b"{\"stage\":\"wor")
            .unwrap();
        let mut metrics = Metrics::resume(&resumed, "world", 5).unwrap();
        run(&mut metrics, "world", 5..10);
        run(&mut metrics, "policy", 0..3);
        let mut metrics = Metrics::resume(&resumed, "policy", 3).unwrap();
        run(&mut metrics, "policy", 3..5);
        assert_eq!(timeless(&straight), timeless(&resumed));
        assert_eq!(event_files(&resumed).unwrap().len(), 1);
        let size = |folder: &Path| fs_err::metadata(&event_files(folder).unwrap()[0]).unwrap().len();
        assert_eq!(size(&straight), size(&resumed));
    }

    #[test]
    fn going_back_a_stage_drops_the_later_ones() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::create(folder.path()).unwrap();
        run(&mut metrics, "world", 0..4);
        run(&mut metrics, "policy", 0..4);
        drop(Metrics::resume(folder.path(), "world", 2).unwrap());
        assert_eq!(timeless(folder.path()).len(), 2);
    }

    #[test]
    fn wall_time_continues_after_a_resume() {
        let folder = tempfile::tempdir().unwrap();
        let line = r#"{"stage":"a","step":0,"values":{},"time":{"wall_s":90.0,"unix_s":5.0}}"#;
        fs_err::write(folder.path().join(METRICS_FILE), format!("{line}\n")).unwrap();
        let mut metrics = Metrics::resume(folder.path(), "a", 1).unwrap();
        metrics.log("a", 1, &[]).unwrap();
        let wall_s = read_metrics(folder.path()).unwrap()[1].time.wall_s;
        assert!((90.0..95.0).contains(&wall_s), "{wall_s}");
    }

    #[test]
    fn values_that_are_not_finite_are_null_and_read_as_nan() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::create(folder.path()).unwrap();
        metrics.log("a", 0, &[("x", f64::NAN), ("y", f64::INFINITY), ("z", 0.1)]).unwrap();
        let lines = read_metrics(folder.path()).unwrap();
        assert_eq!(lines[0].values["y"], None);
        assert!(curve(&lines, "a", "x")[0].1.is_nan());
        assert_eq!(curve(&lines, "a", "z"), [(0.0, 0.1)]);
        assert_eq!(curve(&lines, "a", "absent"), []);
    }

    #[test]
    fn a_second_create_and_a_foreign_line_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Metrics::create(folder.path()).unwrap());
        assert!(matches!(Metrics::create(folder.path()), Err(MetricsError::Exists { .. })));
        fs_err::write(folder.path().join(METRICS_FILE), "{\"hello\":1}\n").unwrap();
        assert!(matches!(Metrics::resume(folder.path(), "a", 0), Err(MetricsError::Parse { line: 1, .. })));
    }
}
