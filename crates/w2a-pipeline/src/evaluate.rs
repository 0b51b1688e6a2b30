//! `evaluate`: a policy evaluated in a Python simulator by a published protocol, in worker processes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use w2a_report::{Progress, stats};
use w2a_serve::simulator::{
    Command, Episode, EpisodeOutcome, EvalProtocol, EvalSettings, Evaluation, Settings, SimulatorError, WorkerSpec,
};
use w2a_serve::{Layout, Patience, Protocol, RemotePolicy};

use crate::context::{load_json, save_json};
use crate::policy::token;
use crate::serve::start_serving;
use crate::{CheckpointOptions, Habits, PipelineError, PolicySource, ServeRequest};

/// What is evaluated; written first.
const PROTOCOL: &str = "protocol.json";
/// Episodes in the order in which they ended, a line each.
const EPISODES: &str = "episodes.jsonl";
/// The result.
const RESULT: &str = "eval.json";
/// What the workers say on their standard error.
const LOG: &str = "workers.log";
/// Building a scene takes most of a minute on a busy machine.
const SILENCE: Duration = Duration::from_secs(300);

/// What to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluateRequest {
    /// The policy.
    pub policy: PolicySource,
    /// The protocol.
    pub protocol: EvalProtocol,
    /// A suite of the protocol's simulator.
    pub suite: String,
    /// Numbers of its tasks; `None` for all.
    pub tasks: Option<Vec<u32>>,
    /// Trials of each task; `None` for the protocol's.
    pub trials: Option<u32>,
    /// Worker processes.
    pub workers: usize,
    /// Environments of each.
    pub envs: usize,
    /// The Python that has the workers and the simulator.
    pub python: PathBuf,
    /// Folder of the results.
    pub out: PathBuf,
    /// Whether to go on with what is in the folder.
    pub resume: bool,
    /// Environment variable with the token of the server behind [`PolicySource::Remote`]; empty for none.
    pub remote_token_env: String,
    /// Seed of [`PolicySource::Random`], and of the noise of [`PolicySource::Groot`].
    pub seed: u64,
}

/// What results depend on, as it is kept.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    protocol: String,
    settings: EvalSettings,
    policy: String,
    suite: String,
    tasks: Vec<u32>,
    trials: u32,
}

#[derive(Debug, Serialize)]
struct Rate {
    successes: u64,
    episodes: u64,
    pc_success: f64,
    wilson95_pc: [f64; 2],
}

#[derive(Debug, Serialize)]
struct TaskResult {
    task: u32,
    instruction: String,
    #[serde(flatten)]
    rate: Rate,
}

/// Evaluates; the result is what to print.
///
/// # Errors
/// A suite or tasks that the simulator does not have, a folder that holds something else, workers that do not start, a
/// policy that fails or whose server is gone. Episodes that ended before stay, and `resume` goes on after them.
pub fn evaluate(request: &EvaluateRequest) -> Result<String, PipelineError> {
    let (tasks, robot) = plan(request)?;
    let trials = request.trials.unwrap_or(request.protocol.trials());
    let settings = request.protocol.settings(&request.suite);
    let kept = Kept {
        protocol: request.protocol.name().into(),
        settings: settings.clone(),
        policy: request.policy.to_string(),
        suite: request.suite.clone(),
        tasks,
        trials,
    };
    let mut done = open(request, &kept)?;
    let all = kept.tasks.iter().flat_map(|task| (0..trials).map(move |trial| (*task, trial)));
    let all: Vec<Episode> = all.map(|(task, trial)| Episode { suite: request.suite.clone(), task, trial }).collect();
    let waiting = all.iter().filter(|episode| done.iter().all(|known| known.episode != **episode));
    let evaluation = Evaluation {
        command: Command::python(request.protocol.simulator(), request.python.clone(), request.out.join(LOG), SILENCE),
        workers: request.workers,
        slots: request.envs,
        settings,
        episodes: waiting.cloned().collect(),
    };
    if !evaluation.episodes.is_empty() {
        let (finished, spec) = run(request, &evaluation, &robot, all.len())?;
        done.extend(finished);
        save_json(&request.out.join("versions.json"), &spec.map(|spec| spec.versions).unwrap_or_default())?;
    }
    done.sort_by(|a, b| a.episode.cmp(&b.episode));
    conclude(request, &kept, &done)
}

/// What is seen and commanded, and the tag of the embodiment.
type Robot = (Layout, &'static str);

/// The tasks, and the robot of the suite.
fn plan(request: &EvaluateRequest) -> Result<(Vec<u32>, Robot), PipelineError> {
    let simulator = request.protocol.simulator();
    let refused = |key: &str, expected: String, got: String| PipelineError::Config { key: key.into(), expected, got };
    let known = simulator.suites().iter().find(|(name, _)| *name == request.suite);
    let (Some((suite, count)), Some(robot)) = (known, simulator.robot(&request.suite)) else {
        let names: Vec<&str> = simulator.suites().iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {} with --protocol {}", names.join(", "), request.protocol.name());
        return Err(refused("--suite", expected, request.suite.clone()));
    };
    let tasks = request.tasks.clone().unwrap_or_else(|| (0..*count).collect());
    match tasks.iter().find(|task| *task >= count) {
        Some(task) => Err(refused("--tasks", format!("numbers below {count} in {suite}"), task.to_string())),
        None => Ok((tasks, robot)),
    }
}

/// Makes the folder or finds the run in it; gives the episodes that need not be run again.
fn open(request: &EvaluateRequest, kept: &Kept) -> Result<Vec<EpisodeOutcome>, PipelineError> {
    let (out, path) = (&request.out, request.out.join(PROTOCOL));
    if !path.exists() {
        let is_empty = !out.exists() || fs_err::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
        if !is_empty {
            return Err(PipelineError::Occupied { path: out.clone() });
        }
        let unusable = |source| PipelineError::Folder { path: out.clone(), source };
        fs_err::create_dir_all(out).map_err(unusable)?;
        save_json(&path, kept)?;
        return Ok(Vec::new());
    }
    if !request.resume {
        return Err(PipelineError::Exists { path: out.clone() });
    }
    let before: Kept = load_json(&path, "evaluate")?;
    if before != *kept {
        let difference = "protocol, policy, suite, tasks or trials are others than in protocol.json".into();
        return Err(PipelineError::Changed { path: out.clone(), difference });
    }
    known_episodes(&out.join(EPISODES))
}

/// Episodes that count. A line that a killed process left half is cut off, and those that failed for other reasons than
/// the policy are run again.
fn known_episodes(path: &Path) -> Result<Vec<EpisodeOutcome>, PipelineError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs_err::read_to_string(path).map_err(|source| PipelineError::io("reading episodes", source))?;
    let whole = text.rfind('\n').map_or("", |end| text.get(..=end).unwrap_or_default());
    let mut known = Vec::new();
    for (number, line) in whole.lines().enumerate() {
        let outcome: EpisodeOutcome = serde_json::from_str(line).map_err(|error| PipelineError::Artifact {
            path: path.to_owned(),
            reason: format!("line {}: {error}", number + 1),
            stage: "evaluate",
        })?;
        if outcome.failure.is_none() {
            known.push(outcome);
        }
    }
    let lines = known.iter().map(|outcome| serde_json::to_string(outcome).map(|line| line + "\n"));
    let text = lines.collect::<Result<String, _>>();
    let text = text.map_err(|error| PipelineError::io("writing episodes", std::io::Error::other(error)))?;
    w2a_data::write_atomic(path, text.as_bytes()).map_err(|source| PipelineError::io("writing episodes", source))?;
    Ok(known)
}

fn run(
    request: &EvaluateRequest,
    evaluation: &Evaluation,
    (layout, tag): &Robot,
    total: usize,
) -> Result<(Vec<EpisodeOutcome>, Option<WorkerSpec>), PipelineError> {
    let token = token(&request.remote_token_env, "--remote-token-env")?;
    // A policy of this process is served to its own workers, so that there is one way to ask.
    let own = match &request.policy {
        PolicySource::Remote(_) => None,
        policy => Some(start_serving(
            &own_server(policy, layout, tag, evaluation, request.seed),
            Arc::default(),
            Arc::new(|_: &str| ()),
        )?),
    };
    let url = match (&own, &request.policy) {
        (_, PolicySource::Remote(url)) => url.clone(),
        (Some(server), _) => format!("{}://{}", Protocol::Groot.name(), server.address()).parse()?,
        (None, policy) => policy.to_string().parse()?,
    };
    let connect = || RemotePolicy::connect(url.clone(), layout.clone(), token.clone(), Patience::default());
    let path = request.out.join(EPISODES);
    let mut log = fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|source| PipelineError::io("opening the list of episodes", source))?;
    let progress = Progress::new(&[("evaluate", 1.0)]);
    progress.start("evaluate");
    let before = total - evaluation.episodes.len();
    progress.credit(before as u64, total as u64);
    let mut finished: Vec<EpisodeOutcome> = Vec::new();
    let result = w2a_serve::simulator::evaluate(evaluation, connect, |outcome| {
        // In one write, so that a kill leaves whole lines but for the last.
        let line = serde_json::to_string(outcome).map_err(std::io::Error::other)? + "\n";
        log.write_all(line.as_bytes())?;
        finished.push(outcome.clone());
        let solved = finished.iter().filter(|outcome| outcome.success).count();
        let message = format!("{solved} of {} solved", finished.len());
        progress.tick((before + finished.len()) as u64, total as u64, &message);
        Ok(())
    });
    let spec = result?;
    progress.finish("evaluate");
    Ok((finished, spec))
}

fn own_server(policy: &PolicySource, layout: &Layout, tag: &str, evaluation: &Evaluation, seed: u64) -> ServeRequest {
    let habits = match (&evaluation.settings, policy) {
        (EvalSettings::Libero(Settings { flip, gripper, .. }), PolicySource::Mini(_)) => {
            Some(Habits { flip: *flip, gripper: *gripper })
        }
        _ => None,
    };
    let is_groot = matches!(policy, PolicySource::Groot(_));
    ServeRequest {
        policy: policy.clone(),
        residual: None,
        learn: None,
        // A checkpoint says its own; whether it is the suite's is found out by the workers' questions.
        layout: (!is_groot).then(|| layout.clone()),
        habits,
        checkpoint: CheckpointOptions { embodiment: is_groot.then(|| tag.into()), ..CheckpointOptions::default() },
        protocol: Protocol::Groot,
        host: "127.0.0.1".into(),
        port: 0,
        token_env: String::new(),
        remote_token_env: String::new(),
        seed,
    }
}

fn rate<'a>(outcomes: impl Iterator<Item = &'a EpisodeOutcome>) -> Rate {
    let (mut successes, mut episodes) = (0, 0);
    for outcome in outcomes.filter(|outcome| outcome.failure.is_none()) {
        episodes += 1;
        successes += u64::from(outcome.success);
    }
    let interval = stats::wilson95(successes, episodes);
    let (lo, hi) = interval.map_or((0.0, 1.0), |interval| (interval.lo, interval.hi));
    let share = if episodes == 0 { 0.0 } else { successes as f64 / episodes as f64 };
    Rate { successes, episodes, pc_success: 100.0 * share, wilson95_pc: [100.0 * lo, 100.0 * hi] }
}

/// Writes the result and puts it into a few lines.
fn conclude(request: &EvaluateRequest, kept: &Kept, done: &[EpisodeOutcome]) -> Result<String, PipelineError> {
    let versions_path = request.out.join("versions.json");
    let versions: BTreeMap<String, String> =
        if versions_path.exists() { load_json(&versions_path, "evaluate")? } else { BTreeMap::new() };
    let tasks: Vec<TaskResult> = kept
        .tasks
        .iter()
        .map(|task| {
            let of = || done.iter().filter(|outcome| outcome.episode.task == *task);
            let instruction = of().map(|outcome| outcome.instruction.clone()).find(|words| !words.is_empty());
            TaskResult { task: *task, instruction: instruction.unwrap_or_default(), rate: rate(of()) }
        })
        .collect();
    let overall = rate(done.iter());
    let lost: Vec<&EpisodeOutcome> = done.iter().filter(|outcome| outcome.failure.is_some()).collect();
    let result = serde_json::json!({
        "protocol": kept, "versions": versions, "overall": overall, "per_task": tasks,
        "not_counted": lost,
    });
    save_json(&request.out.join(RESULT), &result)?;
    let mut text = format!("{} on {} by {}\n\n", kept.policy, kept.suite, kept.protocol);
    let line = |text: &mut String, rate: &Rate, name: &str| {
        let Rate { successes, episodes, pc_success, wilson95_pc: [lo, hi] } = rate;
        let _ = writeln!(text, "{pc_success:5.1} % [{lo:.1}, {hi:.1}]  {successes} of {episodes}  {name}");
    };
    for task in &tasks {
        line(&mut text, &task.rate, &format!("{} {}", task.task, task.instruction));
    }
    line(&mut text, &overall, "all");
    if !lost.is_empty() {
        let _ =
            writeln!(text, "{} episodes are not counted: the simulator failed; run again with --resume", lost.len());
    }
    if let Some(assets) = versions.get("assets") {
        let _ = writeln!(text, "assets: {assets}");
    }
    let _ = writeln!(text, "\nResults: {}", request.out.join(RESULT).display());
    Ok(text)
}

impl From<SimulatorError> for PipelineError {
    fn from(error: SimulatorError) -> Self {
        Self::Workers(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::{EvaluateRequest, evaluate};
    use crate::{EvalProtocol, PolicySource};

    fn request(out: &std::path::Path, resume: bool) -> EvaluateRequest {
        EvaluateRequest {
            policy: PolicySource::Zero,
            protocol: EvalProtocol::LiberoOpenpi,
            suite: "libero_object".into(),
            tasks: Some(vec![0, 2]),
            trials: Some(2),
            workers: 1,
            envs: 1,
            python: "no-such-python".into(),
            out: out.into(),
            resume,
            remote_token_env: String::new(),
            seed: 0,
        }
    }

    fn line(task: u32, trial: u32, success: bool, failure: &str) -> String {
        format!(
            "{{\"suite\":\"libero_object\",\"task\":{task},\"trial\":{trial},\"instruction\":\"pick\",\
             \"success\":{success},\"steps\":9,\"attempts\":1,\"failure\":{failure}}}\n"
        )
    }

    #[test]
    fn suites_and_tasks_of_another_simulator_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let refused = |request: EvaluateRequest| evaluate(&request).unwrap_err().to_string();
        let kitchen = EvaluateRequest { suite: "kitchen".into(), ..request(&out, false) };
        let text = refused(kitchen.clone());
        assert!(text.contains("libero_90 with --protocol libero-openpi, got kitchen"), "{text}");
        let tasks = Some(vec![23, 24]);
        let text = refused(EvaluateRequest { protocol: EvalProtocol::RobocasaGroot, tasks, ..kitchen.clone() });
        assert!(text.contains("numbers below 24 in kitchen, got 24"), "{text}");
        assert!(!out.exists());
        // A suite without a list of tasks is all of it, with the protocol's settings.
        let whole = EvaluateRequest { protocol: EvalProtocol::RobocasaGroot, tasks: None, ..kitchen };
        let text = refused(whole);
        assert!(text.contains("w2a_workers robocasa") && text.contains("python/README.md"), "{text}");
        let kept = std::fs::read_to_string(out.join("protocol.json")).unwrap();
        for words in ["\"replan\": 8", "\"max_steps\": 720", "\"settle_steps\": 0", "\"trials\": 2", "23"] {
            assert!(kept.contains(words), "{kept}");
        }
    }

    #[test]
    fn a_killed_evaluation_goes_on_after_its_last_whole_line_and_failures_of_workers_are_run_again() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let missing = evaluate(&request(&out, false)).unwrap_err();
        assert!(missing.is_users_mistake() && missing.to_string().contains("setup-libero.sh"), "{missing}");
        assert!(evaluate(&request(&out, false)).unwrap_err().to_string().contains("--resume"));
        let half = [&line(0, 0, true, "null"), &line(0, 1, false, "\"killed\""), "{\"suite\":\"lib"].concat();
        std::fs::write(out.join("episodes.jsonl"), half).unwrap();
        // The lost one and the half one are begun anew, which needs the Python that is not there.
        assert!(evaluate(&request(&out, true)).unwrap_err().to_string().contains("no-such-python"));
        assert_eq!(std::fs::read_to_string(out.join("episodes.jsonl")).unwrap(), line(0, 0, true, "null"));
        let all = [line(0, 1, false, "null"), line(2, 0, true, "null"), line(2, 1, true, "null")].concat();
        std::fs::write(out.join("episodes.jsonl"), line(0, 0, true, "null") + &all).unwrap();
        let text = evaluate(&request(&out, true)).unwrap();
        assert!(
            text.contains(" 75.0 % [") && text.contains("3 of 4  all") && text.contains("1 of 2  0 pick"),
            "{text}"
        );
        let other = EvaluateRequest { trials: Some(3), ..request(&out, true) };
        assert!(evaluate(&other).unwrap_err().to_string().contains("was started with another configuration"));
    }
}
