//! The updates of a server that learns, on disk: numbered, each written whole, none ever changed.
//!
//! `updates/<number>/` has `model.safetensors` and `update.json`. The weights in use are those of the highest number whose
//! status is `accepted`; there is no other file that says so, so a kill cannot make two of them disagree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use w2a_nn::{Init, StateDict, read_state, write_state};
use w2a_posttrain::Residual;

use super::guard::Distances;
use crate::PipelineError;
use crate::context::{Context, load_json, save_json};
use crate::stage2::Shared;

const STAGE: &str = "serve --learn";
const MODEL: &str = "model.safetensors";

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// It is being computed.
    Computing,
    /// It takes turns with the weights in use.
    Trial,
    /// It was taken into use.
    Accepted,
    /// The guard refused it.
    Refused,
    /// It could not be computed.
    Failed,
    /// It was given up because somebody went back to other weights meanwhile.
    Abandoned,
    /// It was in use until somebody went back to an earlier one.
    RolledBack,
}

/// What is known of an update.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Its number; 0 is what learning started from.
    pub number: u64,
    /// The update whose weights it was computed from.
    pub parent: u64,
    /// The last episode that it could learn from.
    pub upto: u64,
    /// Episodes that it learnt from.
    pub lessons: usize,
    /// What became of it.
    pub status: Status,
    /// Why, in words.
    pub reason: String,
    /// Positive cosine of its first and of its last step.
    pub cosine: Option<[f32; 2]>,
    /// Executed against imagined video in its trial, with its weights.
    pub candidate: Option<Distances>,
    /// The same with the weights that were in use.
    pub current: Option<Distances>,
}

impl Record {
    pub fn new(number: u64, parent: u64, upto: u64, status: Status, reason: &str) -> Self {
        let (lessons, cosine, candidate, current) = (0, None, None, None);
        Self { number, parent, upto, lessons, status, reason: reason.into(), cosine, candidate, current }
    }
}

/// All updates of a folder.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    folder: PathBuf,
    records: BTreeMap<u64, Record>,
}

impl Ledger {
    /// Reads what is in `folder`, which need not exist.
    pub fn open(folder: PathBuf) -> Result<Self, PipelineError> {
        let mut records = BTreeMap::new();
        let entries = match fs_err::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            entries => Some(entries.map_err(|source| PipelineError::io("reading the updates", source))?),
        };
        for entry in entries.into_iter().flatten() {
            let path = entry.map_err(|source| PipelineError::io("reading the updates", source))?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            // A folder without a record is what a kill leaves before its update has begun.
            let (Some(number), record) = (number, path.join("update.json")) else { continue };
            if record.exists() {
                records.insert(number, load_json(&record, STAGE)?);
            }
        }
        Ok(Self { folder, records })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:06}"))
    }

    /// All records, by number.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.values()
    }

    /// One record.
    pub fn record(&self, number: u64) -> Option<&Record> {
        self.records.get(&number)
    }

    /// The update whose weights are in use.
    pub fn current(&self) -> u64 {
        self.records().rev().find(|record| record.status == Status::Accepted).map_or(0, |record| record.number)
    }

    /// Writes a record, and its weights before it if it has new ones.
    pub fn write(&mut self, record: Record, weights: Option<&StateDict>) -> Result<(), PipelineError> {
        let path = self.path(record.number);
        fs_err::create_dir_all(&path).map_err(|source| PipelineError::io("creating a folder", source))?;
        if let Some(weights) = weights {
            write_state(weights, &path.join(MODEL))?;
        }
        save_json(&path.join("update.json"), &record)?;
        self.records.insert(record.number, record);
        Ok(())
    }

    /// Changes what became of an update.
    pub fn change(&mut self, number: u64, change: impl FnOnce(&mut Record)) -> Result<(), PipelineError> {
        let Some(mut record) = self.records.get(&number).cloned() else { return Ok(()) };
        change(&mut record);
        self.write(record, None)
    }

    /// The weights of an update.
    pub fn weights(&self, number: u64) -> Result<StateDict, PipelineError> {
        Ok(read_state(&self.path(number).join(MODEL))?)
    }

    /// Makes the weights of `to` those in use; every later update is put aside.
    ///
    /// # Errors
    /// An update that never was in use.
    pub fn roll_back(&mut self, to: u64) -> Result<(), PipelineError> {
        let was_used = |record: &&Record| matches!(record.status, Status::Accepted | Status::RolledBack);
        let used: Vec<u64> = self.records().filter(was_used).map(|record| record.number).collect();
        if !used.contains(&to) {
            return Err(PipelineError::Config {
                key: "--rollback".into(),
                expected: format!("an update that was in use: one of {used:?}"),
                got: to.to_string(),
            });
        }
        // From the newest down: a kill in between leaves one of these in use, and never one that was put aside.
        let words = format!("put aside for update {to}");
        let later: Vec<u64> = self.records.range(to + 1..).rev().map(|(number, _)| *number).collect();
        for number in later {
            self.change(number, |record| {
                let status = match record.status {
                    Status::Accepted => Status::RolledBack,
                    Status::Computing | Status::Trial => Status::Abandoned,
                    _ => return,
                };
                (record.status, record.reason) = (status, words.clone());
            })?;
        }
        self.change(to, |record| {
            if record.status != Status::Accepted {
                (record.status, record.reason) = (Status::Accepted, "taken into use again".into());
            }
        })
    }
}

/// What a folder of a server that learns was made with. Another one's episodes and updates mean nothing.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    /// The run's folder; may have moved.
    pub run: PathBuf,
    /// What the base policy was called.
    pub policy: String,
    /// Seed of all random streams.
    pub seed: u64,
    /// Scale of the step.
    pub gain: f32,
    /// Stage 2 of the run.
    pub stage2: w2a_posttrain::PosttrainConfig,
    /// Digest of the world model's weights.
    pub world: String,
}

impl Origin {
    const FILE: &str = "learn.json";

    /// Reads that of a folder, if it has one.
    pub fn read(folder: &Path) -> Result<Option<Self>, PipelineError> {
        let path = folder.join(Self::FILE);
        if path.exists() { load_json(&path, STAGE).map(Some) } else { Ok(None) }
    }

    /// The residual of the update in the folder `update`.
    pub fn residual(&self, context: &Context, shared: &Shared, update: &Path) -> Result<Residual, PipelineError> {
        let mut rng = w2a_data::stream(0, "load");
        let init = &mut Init { rng: &mut rng, device: &context.device };
        let (stage2, proprio) = (&self.stage2, shared.set.proprio.width());
        let fresh =
            Residual::new(stage2.form, &stage2.residual, context.config.grid(), proprio, &shared.adapters, init)?;
        super::with_weights(&fresh, read_state(&update.join(MODEL))?)
    }

    /// Writes it to a new folder, or compares it with that of an old one.
    pub fn settle(&self, folder: &Path) -> Result<(), PipelineError> {
        let Some(saved) = Self::read(folder)? else { return save_json(&folder.join(Self::FILE), self) };
        let words = |name: &str, saved: &dyn std::fmt::Debug, given: &dyn std::fmt::Debug| {
            (format!("{saved:?}") != format!("{given:?}"))
                .then(|| format!("its {name} was {saved:?}, now it is {given:?}"))
        };
        let difference = words("--policy", &saved.policy, &self.policy)
            .or_else(|| words("--seed", &saved.seed, &self.seed))
            .or_else(|| words("gain", &saved.gain, &self.gain))
            .or_else(|| words("posttrain.stage2", &saved.stage2, &self.stage2))
            .or_else(|| words("world model", &saved.world, &self.world));
        match difference {
            None if saved.run == self.run => Ok(()),
            // It has moved.
            None => save_json(&folder.join(Self::FILE), self),
            Some(difference) => Err(PipelineError::Changed { path: folder.to_owned(), difference }),
        }
    }
}

#[cfg(test)]
mod tests {
    use w2a_nn::{Array, StateDict};

    use super::{Ledger, Origin, Record, Status};

    fn weights(value: f32) -> StateDict {
        StateDict::from([("w".to_owned(), Array { shape: vec![1], data: vec![value] })])
    }

    fn ledger(folder: &std::path::Path) -> Ledger {
        let mut ledger = Ledger::open(folder.join("updates")).unwrap();
        let all = [Status::Accepted, Status::Accepted, Status::Refused, Status::Accepted, Status::Trial];
        for (number, status) in all.into_iter().enumerate() {
            let record = Record::new(number as u64, 0, 8, status, "");
            ledger.write(record, Some(&weights(number as f32))).unwrap();
        }
        ledger
    }

    #[test]
    fn rolling_back_and_forth_keeps_every_bit_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = ledger(folder.path());
        assert_eq!(ledger.current(), 3);
        ledger.roll_back(1).unwrap();
        let again = Ledger::open(folder.path().join("updates")).unwrap();
        for ledger in [&ledger, &again] {
            let status = |number| ledger.record(number).unwrap().status;
            assert_eq!(ledger.current(), 1);
            assert_eq!([status(2), status(3), status(4)], [Status::Refused, Status::RolledBack, Status::Abandoned]);
            assert_eq!(ledger.weights(3).unwrap(), weights(3.0));
        }
        ledger.roll_back(3).unwrap();
        assert_eq!((ledger.current(), ledger.record(1).unwrap().status), (3, Status::Accepted));
        ledger.roll_back(0).unwrap();
        assert_eq!(Ledger::open(folder.path().join("updates")).unwrap().current(), 0);
    }

    #[test]
    fn only_what_was_in_use_can_be_gone_back_to() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = ledger(folder.path());
        for number in [2, 4, 9] {
            let error = ledger.roll_back(number).unwrap_err().to_string();
            assert!(error.contains(&format!("one of [0, 1, 3], got {number}")), "{error}");
        }
        assert_eq!(ledger.current(), 3);
    }

    #[test]
    fn a_folder_without_a_record_is_no_update_and_a_damaged_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        ledger(folder.path());
        fs_err::create_dir_all(folder.path().join("updates/000007")).unwrap();
        assert_eq!(Ledger::open(folder.path().join("updates")).unwrap().records().count(), 5);
        fs_err::write(folder.path().join("updates/000003/update.json"), "{").unwrap();
        let error = Ledger::open(folder.path().join("updates")).unwrap_err().to_string();
        assert!(error.contains("000003/update.json"), "{error}");
    }

    #[test]
    fn a_folder_of_another_policy_or_scale_is_refused_by_the_difference() {
        let folder = tempfile::tempdir().unwrap();
        let stage2 = w2a_posttrain::PosttrainConfig::default();
        let policy = "mini:runs/demo".to_owned();
        let origin = Origin { run: "runs/demo".into(), policy, seed: 0, gain: 0.1, stage2, world: "ab".into() };
        origin.settle(folder.path()).unwrap();
        Origin { run: "elsewhere".into(), ..origin.clone() }.settle(folder.path()).unwrap();
        assert_eq!(Origin::read(folder.path()).unwrap().unwrap().run, std::path::Path::new("elsewhere"));
        let error = Origin { gain: 0.2, ..origin.clone() }.settle(folder.path()).unwrap_err().to_string();
        assert!(error.contains("its gain was 0.1, now it is 0.2"), "{error}");
        let other = Origin { policy: "zero".into(), ..origin };
        assert!(
            other.settle(folder.path()).unwrap_err().to_string().contains("\"mini:runs/demo\", now it is \"zero\"")
        );
    }
}
