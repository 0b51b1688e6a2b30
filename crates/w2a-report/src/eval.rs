//! From counted episodes to `eval_info.json`: LeRobot's keys, and beside them every method with its interval.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::{WriteError, write_atomic};
use crate::stats::{Outcome, Spread, clustered_wilson95, mcnemar_exact, spread};

/// The methods of the benchmark in the order tables show them, with what a reader calls them.
pub const METHODS: [(&str, &str); 11] = [
    ("base", "Base policy"),
    ("base_extra", "Base + extra label steps"),
    ("base_decoded", "Base through the decoder"),
    ("dreamgen", "DreamGen"),
    ("regression", "Regression residual"),
    ("w2a_infonce", "World2Act, paper's InfoNCE"),
    ("w2a_base_wm", "World2Act, Base-WM"),
    ("w2a", "World2Act"),
    ("w2a_shuffled", "World2Act, shuffled targets"),
    ("w2a_oracle", "World2Act, real-video targets"),
    ("base_wide_labels", "Base with wide labels"),
];

/// What a reader calls a method; the name itself if it is not one of [`METHODS`].
pub fn method_label(name: &str) -> &str {
    METHODS.iter().find(|(known, _)| *known == name).map_or(name, |(_, label)| label)
}

/// How one episode of one method ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpisodeResult {
    /// Method, such as one of [`METHODS`].
    pub method: String,
    /// Task, such as `object/pick_red`.
    pub task: String,
    /// Suite the task belongs to, such as `object`.
    pub suite: String,
    /// Scene id; with the task it names the start of the episode, so equal pairs are compared across methods.
    pub scene: String,
    /// Training seed of the method's weights (stage 2 for the methods that have one).
    pub seed: u64,
    /// Whether the scene lies where the labelled demonstrations lie.
    pub in_support: bool,
    /// Whether the task was solved within its step limit.
    pub success: bool,
    /// Control steps until the task was first solved, or all that were taken.
    pub steps: u32,
    /// Why the episode says nothing about the policy (simulator crash, lost worker); `None` for a counted episode.
    pub failure: Option<String>,
}

/// How long things take on the benchmark's clock, in control steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlSteps {
    /// The longest demonstration.
    pub demonstration: u32,
    /// What the world model imagines of an episode.
    pub imagination: u32,
}

/// Results that cannot be turned into an honest table, or a file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A method that was asked for has no episode.
    #[error("evaluation: {role} method {expected:?} has no counted episode, got episodes of {got}; evaluate it first")]
    MissingMethod {
        /// `headline` or `base`.
        role: &'static str,
        /// The method asked for.
        expected: String,
        /// The methods present.
        got: String,
    },
    /// The same method, task, scene and seed twice.
    #[error(
        "evaluation: method {method:?}, task {task:?}, scene {scene:?}, seed {seed} is listed twice, expected once; \
         remove one of them, or the interval would be too narrow"
    )]
    Duplicate {
        /// Method.
        method: String,
        /// Task.
        task: String,
        /// Scene.
        scene: String,
        /// Seed.
        seed: u64,
    },
    /// One scene is called in support by one episode and out of support by another.
    #[error(
        "evaluation: task {task:?}, scene {scene:?} is in support for one method and out of support for another; \
         support belongs to the scene, so compute it once"
    )]
    Support {
        /// Task.
        task: String,
        /// Scene.
        scene: String,
    },
    /// The file could not be written.
    #[error("evaluation: {0}")]
    Write(#[from] WriteError),
    /// The file could not be read.
    #[error("evaluation: cannot read the results: {source}; run `eval` first: {}", path.display())]
    Read {
        /// Reason.
        source: std::io::Error,
        /// File.
        path: PathBuf,
    },
    /// The file is not an `eval_info.json` of ours.
    #[error("evaluation: cannot parse the results: {source}; run `eval` again: {}", path.display())]
    Parse {
        /// Reason, with line and column.
        source: serde_json::Error,
        /// File.
        path: PathBuf,
    },
}

/// Per-episode lists of one task, as LeRobot writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskMetrics {
    /// Sum of rewards per episode; the reward is 1 at success and 0 before, so this equals success.
    pub sum_rewards: Vec<f64>,
    /// Largest reward per episode.
    pub max_rewards: Vec<f64>,
    /// Success per episode.
    pub successes: Vec<bool>,
    /// Videos.
    pub video_paths: Vec<String>,
}

/// One task of the headline method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Suite.
    pub task_group: String,
    /// Number of the task within its suite, by name.
    pub task_id: usize,
    /// Task name (LeRobot has only the number).
    pub task: String,
    /// Per-episode lists.
    pub metrics: TaskMetrics,
}

/// One suite of the headline method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Mean of the reward sums.
    pub avg_sum_reward: f64,
    /// Mean of the largest rewards.
    pub avg_max_reward: f64,
    /// Success in percent.
    pub pc_success: f64,
    /// Counted episodes.
    pub n_episodes: usize,
    /// Videos.
    pub video_paths: Vec<String>,
}

/// All episodes of the headline method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overall {
    /// What LeRobot aggregates for a group.
    #[serde(flatten)]
    pub group: GroupInfo,
    /// Seconds the whole evaluation took.
    pub eval_s: f64,
    /// Seconds per counted episode, over all methods.
    pub eval_ep_s: f64,
    /// Which method `overall`, `per_group` and `per_task` describe.
    pub method: String,
}

/// Success of one method on a set of scenes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Success in percent; `null` without a counted episode.
    pub pc_success: Option<f64>,
    /// Counted episodes, pooled over seeds.
    pub n_episodes: usize,
    /// Independent episodes they are worth (see [`clustered_wilson95`]).
    pub n_effective: f64,
    /// Wilson 95 % interval in percent, `[lo, hi]`, on `n_effective` episodes.
    pub ci95: Option<[f64; 2]>,
}

/// One method against the base on the scenes both were started in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Episodes that succeeded where the base failed, pooled over seeds.
    pub won: u64,
    /// Episodes that failed where the base succeeded, pooled over seeds.
    pub lost: u64,
    /// Episodes without a base episode of the same scene.
    pub unpaired: usize,
    /// Scenes with more wins than losses over the seeds, and the other way round.
    pub scenes: [u64; 2],
    /// Exact two-sided McNemar p-value on `scenes`, so that several seeds on one scene are not counted as evidence
    /// several times. With one seed, `scenes` is `[won, lost]`.
    pub p_value: f64,
}

/// Everything counted about one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodInfo {
    /// All scenes.
    #[serde(flatten)]
    pub all: Rate,
    /// Training seeds, ascending.
    pub seeds: Vec<u64>,
    /// Scenes where the labelled demonstrations lie.
    pub in_support: Rate,
    /// Scenes outside of them.
    pub out_of_support: Rate,
    /// Success in percent for each seed.
    pub per_seed: BTreeMap<u64, f64>,
    /// Mean, deviation and range of `per_seed`.
    pub over_seeds: Option<Spread>,
    /// Each task, by name.
    pub per_task: BTreeMap<String, Rate>,
    /// Against the base; absent for the base itself.
    pub paired_vs_base: Option<Paired>,
    /// Mean control steps of successful episodes.
    pub mean_steps_to_success: Option<f64>,
    /// Episodes first solved at a control step, by that step (counted from 1).
    pub first_successes: BTreeMap<u32, u64>,
    /// Episodes solved within the steps that are imagined ([`EvalInfo::control_steps`]), in percent of all counted ones.
    pub pc_success_within_imagination: Option<f64>,
    /// Its Wilson 95 % interval in percent, as that of [`Rate`].
    pub ci95_within_imagination: Option<[f64; 2]>,
    /// Episodes that were started but say nothing about the policy; they are in no other count.
    pub n_infrastructure_failures: usize,
}

/// The content of `eval_info.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalInfo {
    /// Tasks of the headline method.
    pub per_task: Vec<TaskInfo>,
    /// Suites of the headline method.
    pub per_group: BTreeMap<String, GroupInfo>,
    /// All of the headline method.
    pub overall: Overall,
    /// Length of the demonstrations and of the imagination.
    pub control_steps: ControlSteps,
    /// Every method.
    pub methods: BTreeMap<String, MethodInfo>,
}

impl EvalInfo {
    /// Counts `results`; `overall`, `per_group` and `per_task` describe the method `headline`.
    ///
    /// An episode whose `failure` is set is counted apart and nowhere else. `eval_s` is the time the evaluation took
    /// in seconds; `videos` maps a task to the headline method's videos; `control_steps` says how much of an episode was
    /// imagined.
    ///
    /// # Errors
    /// [`EvalError`] if `headline` or `base` has no counted episode, an episode is listed twice, or the support of a
    /// scene is contradictory.
    pub fn build(
        results: &[EpisodeResult],
        headline: &str,
        base: &str,
        eval_s: f64,
        videos: &BTreeMap<String, Vec<String>>,
        control_steps: ControlSteps,
    ) -> Result<Self, EvalError> {
        let scenes = check(results)?;
        let counted = results.iter().filter(|result| result.failure.is_none()).collect::<Vec<_>>();
        let names = results.iter().map(|result| result.method.as_str()).collect::<BTreeSet<_>>();
        for (role, method) in [("headline", headline), ("base", base)] {
            if !counted.iter().any(|result| result.method == method) {
                let got = names.iter().copied().collect::<Vec<_>>().join(", ");
                return Err(EvalError::MissingMethod { role, expected: method.to_owned(), got });
            }
        }
        let of = |method: &str| counted.iter().copied().filter(|r| r.method == method).collect::<Vec<_>>();
        let base_results = of(base);
        let methods = names
            .iter()
            .map(|&name| {
                let mut info = method_info(&of(name), &scenes, control_steps.imagination);
                info.n_infrastructure_failures =
                    results.iter().filter(|result| result.method == name && result.failure.is_some()).count();
                info.paired_vs_base = (name != base).then(|| paired(&of(name), &base_results, &scenes));
                (name.to_owned(), info)
            })
            .collect();
        let (per_task, per_group, group) = lerobot(&of(headline), videos);
        let eval_ep_s = eval_s / counted.len() as f64;
        let overall = Overall { group, eval_s, eval_ep_s, method: headline.to_owned() };
        Ok(Self { per_task, per_group, overall, control_steps, methods })
    }

    /// The methods in the order of [`METHODS`], unknown ones last and by name.
    pub fn ordered_methods(&self) -> Vec<(&str, &MethodInfo)> {
        let mut methods = self.methods.iter().map(|(name, info)| (name.as_str(), info)).collect::<Vec<_>>();
        methods.sort_by_key(|(name, _)| METHODS.iter().position(|(known, _)| known == name).unwrap_or(METHODS.len()));
        methods
    }

    /// Writes `eval_info.json`, replacing an older one at once.
    ///
    /// # Errors
    /// [`EvalError::Write`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), EvalError> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|source| EvalError::Parse { source, path: path.as_ref().to_owned() })?;
        text.push('\n');
        Ok(write_atomic(path, text.as_bytes())?)
    }

    /// Reads what [`EvalInfo::save`] wrote.
    ///
    /// # Errors
    /// [`EvalError::Read`] or [`EvalError::Parse`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, EvalError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| EvalError::Read { source, path: path.to_owned() })?;
        serde_json::from_str(&text).map_err(|source| EvalError::Parse { source, path: path.to_owned() })
    }
}

/// Numbers of the scenes (a scene is its task and its id).
type Scenes<'a> = BTreeMap<(&'a str, &'a str), usize>;

fn check(results: &[EpisodeResult]) -> Result<Scenes<'_>, EvalError> {
    let mut seen = BTreeSet::new();
    let mut support = BTreeMap::new();
    for result in results {
        let scene = (result.task.as_str(), result.scene.as_str());
        if !seen.insert((result.method.as_str(), scene, result.seed)) {
            return Err(EvalError::Duplicate {
                method: result.method.clone(),
                task: result.task.clone(),
                scene: result.scene.clone(),
                seed: result.seed,
            });
        }
        if *support.entry(scene).or_insert(result.in_support) != result.in_support {
            return Err(EvalError::Support { task: result.task.clone(), scene: result.scene.clone() });
        }
    }
    Ok(support.into_keys().enumerate().map(|(number, scene)| (scene, number)).collect())
}

/// Success within `steps` control steps.
fn rate<'a>(results: impl Iterator<Item = &'a EpisodeResult>, scenes: &Scenes<'_>, steps: u32) -> Rate {
    let outcomes = results
        .map(|result| Outcome {
            scene: scenes[&(result.task.as_str(), result.scene.as_str())],
            seed: result.seed,
            success: result.success && result.steps <= steps,
        })
        .collect::<Vec<_>>();
    let clustered = clustered_wilson95(&outcomes);
    Rate {
        pc_success: clustered.map(|clustered| 100.0 * clustered.rate),
        n_episodes: outcomes.len(),
        n_effective: clustered.map_or(0.0, |clustered| clustered.n_effective),
        ci95: clustered.map(|clustered| [100.0 * clustered.interval.lo, 100.0 * clustered.interval.hi]),
    }
}

fn percent(results: &[&EpisodeResult]) -> f64 {
    100.0 * results.iter().filter(|result| result.success).count() as f64 / results.len() as f64
}

fn method_info(results: &[&EpisodeResult], scenes: &Scenes<'_>, imagination: u32) -> MethodInfo {
    let all = || results.iter().copied();
    let mut by_seed = BTreeMap::<u64, Vec<&EpisodeResult>>::new();
    let mut by_task = BTreeMap::<&str, Vec<&EpisodeResult>>::new();
    for result in all() {
        by_seed.entry(result.seed).or_default().push(result);
        by_task.entry(&result.task).or_default().push(result);
    }
    let per_seed = by_seed.iter().map(|(&seed, results)| (seed, percent(results))).collect::<BTreeMap<_, _>>();
    let steps = all().filter(|result| result.success).map(|result| f64::from(result.steps)).collect::<Vec<_>>();
    let mut first_successes = BTreeMap::new();
    for result in all().filter(|result| result.success) {
        *first_successes.entry(result.steps).or_default() += 1;
    }
    let whole = u32::MAX;
    let within = rate(all(), scenes, imagination);
    MethodInfo {
        all: rate(all(), scenes, whole),
        seeds: by_seed.into_keys().collect(),
        in_support: rate(all().filter(|result| result.in_support), scenes, whole),
        out_of_support: rate(all().filter(|result| !result.in_support), scenes, whole),
        over_seeds: spread(&per_seed.values().copied().collect::<Vec<_>>()),
        per_seed,
        per_task: by_task
            .into_iter()
            .map(|(task, results)| (task.to_owned(), rate(results.into_iter(), scenes, whole)))
            .collect(),
        paired_vs_base: None,
        mean_steps_to_success: spread(&steps).map(|steps| steps.mean),
        first_successes,
        pc_success_within_imagination: within.pc_success,
        ci95_within_imagination: within.ci95,
        n_infrastructure_failures: 0,
    }
}

/// Pairs each episode with the base episode of its scene: the one of the same seed, else the only one there is.
fn paired(results: &[&EpisodeResult], base: &[&EpisodeResult], scenes: &Scenes<'_>) -> Paired {
    let number = |result: &EpisodeResult| scenes[&(result.task.as_str(), result.scene.as_str())];
    let mut base_by_scene = BTreeMap::<usize, Vec<&EpisodeResult>>::new();
    for result in base {
        base_by_scene.entry(number(result)).or_default().push(result);
    }
    let mut paired = Paired { won: 0, lost: 0, unpaired: 0, scenes: [0, 0], p_value: 1.0 };
    let mut balance = BTreeMap::<usize, i64>::new();
    for result in results {
        let candidates = base_by_scene.get(&number(result)).map_or(&[][..], Vec::as_slice);
        let same_seed = candidates.iter().find(|candidate| candidate.seed == result.seed);
        let Some(partner) = same_seed.or(if let [only] = candidates { Some(only) } else { None }) else {
            paired.unpaired += 1;
            continue;
        };
        let difference = i64::from(result.success) - i64::from(partner.success);
        paired.won += u64::from(difference > 0);
        paired.lost += u64::from(difference < 0);
        *balance.entry(number(result)).or_default() += difference;
    }
    let count = |wanted: fn(i64) -> bool| balance.values().filter(|&&balance| wanted(balance)).count() as u64;
    paired.scenes = [count(|balance| balance > 0), count(|balance| balance < 0)];
    paired.p_value = mcnemar_exact(paired.scenes[0], paired.scenes[1]);
    paired
}

type LeRobot = (Vec<TaskInfo>, BTreeMap<String, GroupInfo>, GroupInfo);

fn lerobot(results: &[&EpisodeResult], videos: &BTreeMap<String, Vec<String>>) -> LeRobot {
    let mut tasks = BTreeMap::<(&str, &str), TaskMetrics>::new();
    for result in results {
        let metrics = tasks.entry((&result.suite, &result.task)).or_default();
        let reward = f64::from(u8::from(result.success));
        metrics.sum_rewards.push(reward);
        metrics.max_rewards.push(reward);
        metrics.successes.push(result.success);
    }
    let mut per_task = Vec::<TaskInfo>::new();
    for ((suite, task), mut metrics) in tasks {
        metrics.video_paths = videos.get(task).cloned().unwrap_or_default();
        let task_id = per_task.iter().filter(|other| other.task_group == suite).count();
        per_task.push(TaskInfo { task_group: suite.to_owned(), task_id, task: task.to_owned(), metrics });
    }
    let group = |wanted: Option<&str>| {
        let members = || per_task.iter().filter(|task| wanted.is_none_or(|wanted| task.task_group == wanted));
        let successes = members().flat_map(|task| &task.metrics.successes).collect::<Vec<_>>();
        let mean = successes.iter().filter(|success| ***success).count() as f64 / successes.len() as f64;
        GroupInfo {
            avg_sum_reward: mean,
            avg_max_reward: mean,
            pc_success: 100.0 * mean,
            n_episodes: successes.len(),
            video_paths: members().flat_map(|task| task.metrics.video_paths.clone()).collect(),
        }
    };
    let suites = per_task.iter().map(|task| task.task_group.clone()).collect::<BTreeSet<_>>();
    let per_group = suites.into_iter().map(|suite| (suite.clone(), group(Some(&suite)))).collect();
    let overall = group(None);
    (per_task, per_group, overall)
}

#[cfg(test)]
#[path = "eval_tests.rs"]
mod tests;
