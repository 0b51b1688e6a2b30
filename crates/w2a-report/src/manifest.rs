//! `manifest.json`: what one must know to repeat a run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::atomic::{WriteError, write_atomic};

/// State of the git repository a run was started in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitState {
    /// Full commit hash.
    pub commit: String,
    /// Whether files differ from the commit; `None` if the `git` program is missing.
    pub dirty: Option<bool>,
}

impl GitState {
    /// The state of the repository around `folder`; `None` outside of one or before the first commit.
    ///
    /// Without a `git` program the commit is read from the repository's files.
    pub fn read(folder: impl AsRef<Path>) -> Option<Self> {
        let folder = folder.as_ref();
        let git = |arguments: &[&str]| {
            let output =
                Command::new("git").arg("-C").arg(folder).args(arguments).stdin(Stdio::null()).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let commit = git(&["rev-parse", "--verify", "HEAD"]).filter(|commit| is_hash(commit));
        let dirty = git(&["status", "--porcelain"]).map(|changes| !changes.is_empty());
        Some(Self { commit: commit.or_else(|| commit_from_files(folder))?, dirty })
    }

    /// The first ten digits of the commit, with `-dirty` if files differ.
    pub fn short(&self) -> String {
        let dirty = if self.dirty == Some(true) { "-dirty" } else { "" };
        format!("{}{dirty}", &self.commit[..self.commit.len().min(10)])
    }
}

fn is_hash(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Follows `HEAD`, then a loose or a packed reference. A linked work tree, whose `.git` is a file, is not followed.
fn commit_from_files(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let git = folder.ancestors().map(|folder| folder.join(".git")).find(|git| git.is_dir())?;
    let read = |name: &str| std::fs::read_to_string(git.join(name)).ok();
    let head = read("HEAD")?.trim().to_owned();
    let Some(reference) = head.strip_prefix("ref: ") else {
        return is_hash(&head).then_some(head);
    };
    let loose = read(reference).map(|hash| hash.trim().to_owned());
    let packed = || {
        let line = read("packed-refs")?.lines().find(|line| line.split(' ').nth(1) == Some(reference))?.to_owned();
        line.split(' ').next().map(str::to_owned)
    };
    loose.or_else(packed).filter(|hash| is_hash(hash))
}

/// The machine, as far as it matters for time and memory. It holds no host or user name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system, such as `linux`.
    pub os: String,
    /// Architecture, such as `x86_64`.
    pub arch: String,
    /// Processor name, if the system tells it.
    pub cpu: Option<String>,
    /// Processors this process may use.
    pub cpus: usize,
    /// Main memory in MiB, if the system tells it.
    pub memory_mib: Option<u64>,
}

impl Machine {
    /// This machine.
    pub fn detect() -> Self {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let kib = field("/proc/meminfo", "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
        Self {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpu: field("/proc/cpuinfo", "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib.map(|kib| kib / 1024),
        }
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let cpu = self.cpu.as_deref().unwrap_or("unknown processor");
        let memory = self.memory_mib.map_or(String::new(), |mib| format!(", {:.0} GiB", mib as f64 / 1024.0));
        format!("{cpu}, {} cores{memory}, {} {}", self.cpus, self.os, self.arch)
    }
}

/// How far a stage has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageStatus {
    /// Not started.
    Pending,
    /// Started; after a kill, to be resumed.
    Running,
    /// Finished.
    Done,
    /// Ended by an error.
    Failed,
    /// Not part of this run.
    Skipped,
}

/// One stage of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Name, such as `world`.
    pub name: String,
    /// How far it has come.
    pub status: StageStatus,
    /// Seconds spent on it, over all resumes.
    pub seconds: f64,
}

/// One data set the run read or wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// Name or path relative to the run.
    pub name: String,
    /// Hash of its content.
    pub fingerprint: String,
    /// Number of episodes.
    pub episodes: usize,
}

/// A command line as text, without the folder of the program: it says nothing about the run, but something about the
/// machine.
fn command(arguments: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if let Some(program) = arguments.first_mut()
        && let Some(name) = Path::new(program).file_name()
    {
        *program = name.to_owned();
    }
    arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect()
}

/// The content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the program.
    pub version: String,
    /// Git state, if the run was started inside a repository.
    pub git: Option<GitState>,
    /// The command line; of the program, only its file name.
    pub command: Vec<String>,
    /// The seed.
    pub seed: u64,
    /// Worker threads.
    pub threads: usize,
    /// The machine.
    pub machine: Machine,
    /// Data sets.
    pub datasets: Vec<DatasetRecord>,
    /// Stages in the order they run.
    pub stages: Vec<StageRecord>,
}

/// A manifest that could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not written.
    #[error("manifest: {0}")]
    Write(#[from] WriteError),
    /// Not read.
    #[error("manifest: cannot read: {source}; is this the folder of a run? {}", path.display())]
    Read {
        /// Reason.
        source: std::io::Error,
        /// File.
        path: PathBuf,
    },
    /// Not ours.
    #[error(
        "manifest: cannot parse: {source}; it was damaged or edited by hand: delete it and run again with --resume, only the durations \
         of the stages are lost: {}", path.display()
    )]
    Parse {
        /// Reason, with line and column.
        source: serde_json::Error,
        /// File.
        path: PathBuf,
    },
    /// A stage the plan does not have.
    #[error("manifest: there is no stage {expected:?}, only {got}; add it to the plan when the manifest is made")]
    UnknownStage {
        /// The stage asked for.
        expected: String,
        /// The stages of the plan.
        got: String,
    },
}

impl Manifest {
    /// The manifest of a new run of this process in the current folder, with every stage pending.
    pub fn new(version: &str, seed: u64, threads: usize, stages: &[&str]) -> Self {
        let stage = |name: &&str| StageRecord { name: (*name).to_owned(), status: StageStatus::Pending, seconds: 0.0 };
        Self {
            version: version.to_owned(),
            git: GitState::read("."),
            command: command(std::env::args_os()),
            seed,
            threads,
            machine: Machine::detect(),
            datasets: Vec::new(),
            stages: stages.iter().map(stage).collect(),
        }
    }

    /// Adds a pending stage at the end, unless there is one of that name.
    pub fn add_stage(&mut self, name: &str) {
        if !self.stages.iter().any(|stage| stage.name == name) {
            self.stages.push(StageRecord { name: name.to_owned(), status: StageStatus::Pending, seconds: 0.0 });
        }
    }

    /// Sets a stage's status and adds `seconds` to its duration.
    ///
    /// # Errors
    /// [`ManifestError::UnknownStage`].
    pub fn update_stage(&mut self, name: &str, status: StageStatus, seconds: f64) -> Result<(), ManifestError> {
        let Some(stage) = self.stages.iter_mut().find(|stage| stage.name == name) else {
            let got = self.stages.iter().map(|stage| stage.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(ManifestError::UnknownStage { expected: name.to_owned(), got });
        };
        stage.status = status;
        stage.seconds += seconds;
        Ok(())
    }

    /// Writes `manifest.json`, replacing an older one at once.
    ///
    /// # Errors
    /// [`ManifestError::Write`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ManifestError> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|source| ManifestError::Parse { source, path: path.as_ref().to_owned() })?;
        text.push('\n');
        Ok(write_atomic(path, text.as_bytes())?)
    }

    /// Reads what [`Manifest::save`] wrote.
    ///
    /// # Errors
    /// [`ManifestError::Read`] or [`ManifestError::Parse`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let path = path.as_ref();
        let text =
            std::fs::read_to_string(path).map_err(|source| ManifestError::Read { source, path: path.to_owned() })?;
        serde_json::from_str(&text).map_err(|source| ManifestError::Parse { source, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        let mut manifest = Manifest::new("0.1.0", 7, 2, &["demos", "world"]);
        manifest.update_stage("world", StageStatus::Running, 2.0).unwrap();
        manifest.update_stage("world", StageStatus::Done, 1.5).unwrap();
        manifest.save(&path).unwrap();
        let loaded = Manifest::load(&path).unwrap();
        assert_eq!(loaded, manifest);
        assert_eq!((loaded.stages[1].status, loaded.stages[1].seconds), (StageStatus::Done, 3.5));
        assert!(!loaded.command.is_empty() && loaded.machine.cpus > 0);
    }

    #[test]
    fn the_folder_of_the_program_is_left_out() {
        let typed = ["some/folder/world2act", "demo", "--out", "/data/run"].map(OsString::from);
        assert_eq!(command(typed.into_iter()), ["world2act", "demo", "--out", "/data/run"]);
    }

    #[test]
    fn an_unknown_stage_lists_the_known_ones() {
        let mut manifest = Manifest::new("0.1.0", 7, 2, &["demos", "world"]);
        let error = manifest.update_stage("wolrd", StageStatus::Done, 0.0).unwrap_err().to_string();
        assert!(error.contains("demos, world"), "{error}");
    }

    #[test]
    fn the_commit_is_read_from_files_loose_packed_and_detached() {
        let folder = tempfile::tempdir().unwrap();
        let git = folder.path().join(".git");
        let inner = folder.path().join("crates/x");
        std::fs::create_dir_all(git.join("refs/heads")).unwrap();
        std::fs::create_dir_all(&inner).unwrap();
        assert_eq!(commit_from_files(&inner), None);
        std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(commit_from_files(&inner), None);
        let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
        std::fs::write(git.join("packed-refs"), format!("# pack-refs\n{a} refs/heads/main\n")).unwrap();
        assert_eq!(commit_from_files(&inner), Some(a));
        std::fs::write(git.join("refs/heads/main"), format!("{b}\n")).unwrap();
        assert_eq!(commit_from_files(&inner), Some(b));
        std::fs::write(git.join("HEAD"), format!("{c}\n")).unwrap();
        assert_eq!(commit_from_files(&inner), Some(c));
    }

    #[test]
    fn outside_a_repository_there_is_no_state() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(GitState::read(folder.path()), None);
    }
}
