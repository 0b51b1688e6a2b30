//! Episodes of a policy in workers. What befalls a worker is never counted against the policy.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use w2a_data::Observation;
use w2a_policy::Policy;

use super::process::{Command, Worker, WorkerSpec};
use super::{EvalSettings, SimulatorError};
use crate::codec::{Dialect, Value, decode};
use crate::{RemotePolicy, ServeError};

/// How often an episode is begun before it counts as a failure of the infrastructure.
pub const MAX_ATTEMPTS: u32 = 3;
/// Workers in a row that do not start before the evaluation is given up.
const MAX_STARTS: u32 = 3;

/// An episode to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Episode {
    /// The suite.
    pub suite: String,
    /// Number of the task in it.
    pub task: u32,
    /// Number of the trial, which says where it starts.
    pub trial: u32,
}

/// How an episode went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpisodeOutcome {
    /// Which one.
    #[serde(flatten)]
    pub episode: Episode,
    /// The instruction.
    pub instruction: String,
    /// Whether the task was solved within its steps.
    pub success: bool,
    /// Control steps until then, or all.
    pub steps: u32,
    /// How often it was begun.
    pub attempts: u32,
    /// Why it says nothing about the policy; `None` for an episode that counts.
    pub failure: Option<String>,
}

/// What to evaluate, and with how many processes.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// How to start workers.
    pub command: Command,
    /// Worker processes.
    pub workers: usize,
    /// Environments of each, which run in lockstep.
    pub slots: usize,
    /// How the simulator is set up.
    pub settings: EvalSettings,
    /// The episodes, in the order in which they are begun.
    pub episodes: Vec<Episode>,
}

/// Shared by the threads, one for each worker.
struct Board<'a, F> {
    request: &'a Evaluation,
    waiting: Mutex<VecDeque<(Episode, u32)>>,
    report: Mutex<F>,
    spec: Mutex<Option<WorkerSpec>>,
    given_up: AtomicBool,
}

/// Runs every episode; `report` is told of each as it ends, in no order. `connect` makes a session with the policy for each
/// worker. The result is what the workers said of themselves.
///
/// A worker that dies, hangs or raises is replaced, and its episodes are begun anew, [`MAX_ATTEMPTS`] times at most.
///
/// # Errors
/// Workers that do not start, a policy that fails or whose server is gone, chunks shorter than what is carried out of them.
/// Episodes that were reported count all the same.
pub fn evaluate(
    request: &Evaluation,
    connect: impl Fn() -> Result<RemotePolicy, ServeError> + Sync,
    report: impl FnMut(&EpisodeOutcome) -> Result<(), std::io::Error> + Send,
) -> Result<Option<WorkerSpec>, SimulatorError> {
    let board = Board {
        request,
        waiting: Mutex::new(request.episodes.iter().map(|episode| (episode.clone(), 0)).collect()),
        report: Mutex::new(report),
        spec: Mutex::new(None),
        given_up: AtomicBool::new(false),
    };
    let results: Vec<Result<(), SimulatorError>> = std::thread::scope(|scope| {
        let work = || {
            let result = connect().map_err(SimulatorError::from).and_then(|policy| board.work(policy));
            if result.is_err() {
                board.given_up.store(true, Ordering::Relaxed);
            }
            result
        };
        let threads: Vec<_> = (0..request.workers.max(1)).map(|_| scope.spawn(work)).collect();
        let lost = || Err(SimulatorError::lost("its thread ended in a panic"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
    });
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(hold(&board.spec).take())
}

/// An episode under way in an environment.
struct Running {
    slot: usize,
    episode: Episode,
    attempts: u32,
    instruction: String,
    state: Vec<f32>,
    steps: u32,
    most: u32,
    success: bool,
}

impl Running {
    fn is_over(&self) -> bool {
        self.success || self.steps >= self.most
    }
}

impl<F: FnMut(&EpisodeOutcome) -> Result<(), std::io::Error>> Board<'_, F> {
    fn work(&self, mut policy: RemotePolicy) -> Result<(), SimulatorError> {
        let replan = self.request.settings.replan();
        if policy.horizon() < replan {
            let (expected, got) = (format!("at least the {replan} that are carried out"), policy.horizon().to_string());
            return Err(ServeError::message("actions per chunk of the policy", expected, got).into());
        }
        let (mut worker, mut failed_starts) = (None, 0);
        while !self.given_up.load(Ordering::Relaxed) {
            let begun = self.take();
            if begun.is_empty() {
                break;
            }
            let mut ready = match worker.take() {
                Some(ready) => ready,
                None => {
                    match Worker::start(&self.request.command, self.request.slots, &self.request.settings.message()) {
                        Ok(ready) => ready,
                        Err(error) => {
                            failed_starts += 1;
                            hold(&self.waiting).extend(begun);
                            if failed_starts == MAX_STARTS {
                                return Err(error);
                            }
                            continue;
                        }
                    }
                }
            };
            failed_starts = 0;
            if ready.spec.action != policy.action_dim() {
                let got = format!("{} names of an action's values", ready.spec.action);
                return Err(SimulatorError::Answer { expected: "as many as the policy gives", got });
            }
            hold(&self.spec).get_or_insert_with(|| ready.spec.clone());
            policy.reset();
            match self.round(&mut ready, &mut policy, begun)? {
                // The environment of an episode that raised is built anew by its next reset.
                true => worker = Some(ready),
                false => drop(ready),
            }
        }
        Ok(())
    }

    /// The next episodes, one for each environment of a worker.
    fn take(&self) -> Vec<(Episode, u32)> {
        let mut waiting = hold(&self.waiting);
        let count = self.request.slots.max(1).min(waiting.len());
        waiting.drain(..count).collect()
    }

    /// Runs one episode in each environment until all are over; `false` if the worker was lost.
    fn round(
        &self,
        worker: &mut Worker,
        policy: &mut RemotePolicy,
        begun: Vec<(Episode, u32)>,
    ) -> Result<bool, SimulatorError> {
        let mut running: Vec<Running> = begun
            .into_iter()
            .enumerate()
            .map(|(slot, (episode, attempts))| Running {
                slot,
                most: self.request.settings.steps(&episode.suite).unwrap_or(0),
                episode,
                attempts: attempts + 1,
                instruction: String::new(),
                state: Vec::new(),
                steps: 0,
                success: false,
            })
            .collect();
        let resets = running.iter().map(|run| {
            let Episode { suite, task, trial } = &run.episode;
            let number = |number: u32| Value::Int(i64::from(number));
            let entries =
                [("task", number(*task)), ("trial", number(*trial)), ("suite", Value::Text(suite.clone().into()))];
            order(run.slot, entries)
        });
        let asked = Value::map([("orders", Value::List(resets.collect()))]);
        if let Err(error) = self.answer(worker, &asked, &mut running) {
            return self.lost(running, &error).map(|()| false);
        }
        while !running.is_empty() && !self.given_up.load(Ordering::Relaxed) {
            let seen = running.iter().map(|run| worker.observation(run.slot, run.state.clone()));
            let seen = match seen.collect::<Result<Vec<Observation>, _>>() {
                Ok(seen) => seen,
                Err(error) => return self.lost(running, &error).map(|()| false),
            };
            let words: Vec<&str> = running.iter().map(|run| run.instruction.as_str()).collect();
            let chunks = policy.act(&seen, &words).map_err(ServeError::from)?;
            let width = policy.action_dim();
            let chunks: Vec<&[f32]> = chunks.chunks_exact(policy.horizon() * width).collect();
            let mut chunks: Vec<(usize, &[f32])> = running.iter().map(|run| run.slot).zip(chunks).collect();
            for step in 0..self.request.settings.replan() {
                chunks.retain(|(slot, _)| running.iter().any(|run| run.slot == *slot));
                if chunks.is_empty() {
                    break;
                }
                let orders = chunks.iter().map(|(slot, chunk)| {
                    let action = chunk.iter().skip(step * width).take(width);
                    let action = action.map(|value| Value::Float(f64::from(*value))).collect();
                    let actions = Value::List(vec![Value::List(action)]);
                    order(*slot, [("actions", actions), ("seeing", Value::Bool(true))])
                });
                let asked = Value::map([("orders", Value::List(orders.collect()))]);
                if let Err(error) = self.answer(worker, &asked, &mut running) {
                    return self.lost(running, &error).map(|()| false);
                }
                for over in running.extract_if(.., |run| run.is_over()) {
                    self.tell(over, None)?;
                }
            }
        }
        Ok(true)
    }

    /// Asks the worker and notes what came of it; episodes whose environment raised are begun anew later.
    fn answer(&self, worker: &mut Worker, asked: &Value, running: &mut Vec<Running>) -> Result<(), SimulatorError> {
        let wrong = |expected, got: &Value| SimulatorError::Answer { expected, got: got.describe() };
        let bytes = worker.ask(asked)?;
        let answer = decode(&bytes, Dialect::Openpi).map_err(SimulatorError::lost)?;
        let Some(Value::List(answers)) = answer.get("answers") else {
            return Err(wrong("a list of answers", &answer));
        };
        for answer in answers {
            let slot = match answer.get("slot") {
                Some(Value::Int(slot)) => running.iter().position(|run| usize::try_from(*slot) == Ok(run.slot)),
                _ => None,
            };
            let place = slot.ok_or_else(|| wrong("the number of an environment", answer))?;
            if let Some(Value::Text(reason)) = answer.get("error") {
                let run = running.swap_remove(place);
                self.again(run, reason)?;
                continue;
            }
            let Some(run) = running.get_mut(place) else { continue };
            run.state = worker.state(answer)?;
            match (answer.get("instruction"), answer.get("success")) {
                (Some(Value::Text(words)), None) => run.instruction = words.to_string(),
                (None, Some(Value::Bool(success))) => {
                    run.steps += 1;
                    run.success = *success;
                }
                _ => return Err(wrong("an instruction or a success", answer)),
            }
        }
        Ok(())
    }

    /// A worker is gone with everything that ran in it.
    fn lost(&self, running: Vec<Running>, error: &SimulatorError) -> Result<(), SimulatorError> {
        running.into_iter().try_for_each(|run| self.again(run, &error.to_string()))
    }

    /// An episode that could not end is begun anew, or given up on.
    fn again(&self, run: Running, reason: &str) -> Result<(), SimulatorError> {
        if run.attempts < MAX_ATTEMPTS {
            hold(&self.waiting).push_back((run.episode, run.attempts));
            return Ok(());
        }
        self.tell(run, Some(reason.to_owned()))
    }

    fn tell(&self, run: Running, failure: Option<String>) -> Result<(), SimulatorError> {
        let Running { episode, instruction, steps, attempts, success, .. } = run;
        let outcome = EpisodeOutcome { episode, instruction, success, steps, attempts, failure };
        let mut report = hold(&self.report);
        (*report)(&outcome).map_err(|source| SimulatorError::io("writing an episode's result", source))
    }
}

pub(super) fn order<'v>(slot: usize, entries: impl IntoIterator<Item = (&'v str, Value<'v>)>) -> Value<'v> {
    Value::map(std::iter::once(("slot", Value::Int(slot as i64))).chain(entries))
}

fn hold<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is inside stays whole: it is changed in single steps.
    mutex.lock().unwrap_or_else(|held| held.into_inner())
}
