//! One policy for the threads of all clients: whoever asks while nobody else does asks it in its own thread, and what
//! comes meanwhile from others goes through it as one batch afterwards. Handing every request to a thread with the
//! policy, and its answer back, would cost two switches between threads, which on a busy machine is most of the time of
//! a small request.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};

use w2a_data::Observation;
use w2a_nn::NnError;
use w2a_policy::Policy;

use crate::ServeError;
use crate::bend::{Bend, Place};
use crate::layout::Layout;
use crate::metrics::Metrics;
use crate::observation::Asked;

/// Most observations that go through a policy at once; more wait for the next turn.
const MAX_ROWS: usize = 64;

/// A policy that may move to another thread.
pub type BoxedPolicy = Box<dyn Policy + Send>;

/// Makes the policy of a new session, which is named by its number.
pub type MakePolicy = Box<dyn FnMut(u64) -> Result<BoxedPolicy, NnError> + Send>;

/// How sessions share a policy.
pub enum Sessions {
    /// One policy without a memory for all: their observations are batched.
    Shared(BoxedPolicy),
    /// A policy for each session, as where it draws random numbers or talks to another server. Those of sessions that ask
    /// at the same time are asked side by side.
    Own(MakePolicy),
    /// One policy that keeps its sessions apart: their observations are batched as well.
    Joint(Box<dyn JointPolicy>),
}

/// A policy for all sessions that remembers something of each.
pub trait JointPolicy: Send {
    /// Chunks for these observations, `[rows, horizon, A]`. Rows of a session follow one another.
    ///
    /// # Errors
    /// Observations that do not fit, also to one another: then each session is asked about alone. Nothing may be remembered
    /// of a call that fails.
    fn act(
        &mut self,
        places: &[Place],
        observations: &[Observation],
        instructions: &[&str],
    ) -> Result<Vec<f32>, NnError>;

    /// A session's episode is over, or the session is.
    fn forget(&mut self, session: u64);
}

/// [`Policy::act`] or [`JointPolicy::act`].
type Act<'a> = &'a mut dyn FnMut(&Rows, &[&str]) -> Result<Vec<f32>, NnError>;

/// What a server serves.
pub struct Served {
    /// Names and sizes.
    pub layout: Layout,
    /// Actions per chunk of the policy.
    pub horizon: usize,
    /// The policy.
    pub sessions: Sessions,
    /// What bends its chunks.
    pub bend: Option<Arc<dyn Bend>>,
}

/// The answer to a request: `[rows, horizon, action]`.
type Answer = Result<Vec<f32>, ServeError>;

enum Order {
    Act(Job),
    Reset { session: u64, done: SyncSender<Told> },
    Close { session: u64 },
}

struct Job {
    session: u64,
    asked: Vec<Asked>,
    answer: SyncSender<Told>,
}

/// What a thread that waits is told.
enum Told {
    /// Its answer; that of a reset has no values.
    Answer(Answer),
    /// To carry out what waits, its own order among it.
    Lead(Box<Worker>),
}

/// The policy, shared by the threads of connections.
pub(crate) struct Engine {
    line: Mutex<Line>,
}

/// Who waits, and the policy while nobody has it.
struct Line {
    waiting: VecDeque<Order>,
    worker: Option<Box<Worker>>,
}

impl Engine {
    pub fn start(served: Served, metrics: Arc<Metrics>) -> Self {
        let width = served.layout.action_width();
        let bent = served.bend.map(|bend| (bend.horizon() * width, bend));
        let worker = Worker {
            ask: Ask { row: served.horizon * width, bent },
            sessions: served.sessions,
            own: BTreeMap::new(),
            metrics,
        };
        Self { line: Mutex::new(Line { waiting: VecDeque::new(), worker: Some(Box::new(worker)) }) }
    }

    /// The chunks for these observations.
    pub fn act(&self, session: u64, asked: Vec<Asked>) -> Answer {
        self.order(|answer| Order::Act(Job { session, asked, answer }))
    }

    /// Forgets a session's episode.
    pub fn reset(&self, session: u64) -> Result<(), ServeError> {
        self.order(|done| Order::Reset { session, done }).map(|_| ())
    }

    /// A session's client is gone; nobody waits for it to be forgotten.
    pub fn close(&self, session: u64) {
        self.lead(Order::Close { session });
    }

    fn order(&self, order: impl FnOnce(SyncSender<Told>) -> Order) -> Answer {
        let (told, inbox) = sync_channel(1);
        self.lead(order(told));
        loop {
            match inbox.recv() {
                Ok(Told::Answer(answer)) => return answer,
                Ok(Told::Lead(worker)) => drop(Leading { engine: self, worker: Some(worker) }.round()),
                Err(_) => return Err(ServeError::Stopping),
            }
        }
    }

    /// Lines an order up, and carries it out if nobody has the policy.
    fn lead(&self, order: Order) {
        let worker = {
            let mut line = self.line();
            line.waiting.push_back(order);
            line.worker.take()
        };
        if worker.is_some() {
            drop(Leading { engine: self, worker }.round());
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Entries are put in and taken out whole.
        self.line.lock().unwrap_or_else(|held| held.into_inner())
    }
}

/// A thread that has the policy. When it is done the next who waits has it, or nobody: also after a panic.
struct Leading<'a> {
    engine: &'a Engine,
    worker: Option<Box<Worker>>,
}

impl Leading<'_> {
    /// Carries out what waits at the front: its own order is among it, whatever else has come stays for the next.
    fn round(mut self) -> Self {
        if let Some(worker) = &mut self.worker {
            let orders = worker.batch(&mut self.engine.line().waiting);
            worker.carry_out(orders);
        }
        self
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let mut line = self.engine.line();
        while let Some(mut worker) = self.worker.take() {
            let next = match line.waiting.front() {
                None => {
                    line.worker = Some(worker);
                    return;
                }
                Some(Order::Act(job)) => job.answer.clone(),
                Some(Order::Reset { done, .. }) => done.clone(),
                // Nobody waits for this one, who could be told.
                Some(Order::Close { session }) => {
                    worker.close(*session);
                    line.waiting.pop_front();
                    self.worker = Some(worker);
                    continue;
                }
            };
            // It waits for nothing else, so that it is there.
            if let Err(error) = next.try_send(Told::Lead(worker)) {
                self.worker = match error {
                    TrySendError::Full(Told::Lead(worker)) | TrySendError::Disconnected(Told::Lead(worker)) => {
                        line.waiting.pop_front();
                        Some(worker)
                    }
                    _ => None,
                };
            }
        }
    }
}

struct Worker {
    sessions: Sessions,
    own: BTreeMap<u64, BoxedPolicy>,
    ask: Ask,
    metrics: Arc<Metrics>,
}

/// How a policy is asked.
struct Ask {
    /// Values of one of its chunks.
    row: usize,
    /// What bends them, and values of a bent chunk.
    bent: Option<(usize, Arc<dyn Bend>)>,
}

/// Observations that go through a policy together.
#[derive(Default)]
struct Rows {
    places: Vec<Place>,
    observations: Vec<Observation>,
    instructions: Vec<String>,
}

/// What goes through the policy next.
enum Round {
    Nothing,
    Jobs(Vec<Job>),
    Other(Order),
}

impl Worker {
    /// Takes what is next: questions until the first order of another kind, as many as may go together. Nobody waits
    /// for others to come.
    fn batch(&self, waiting: &mut VecDeque<Order>) -> Round {
        let (mut rows, mut jobs) = (0, Vec::new());
        while rows < MAX_ROWS {
            match waiting.pop_front() {
                Some(Order::Act(job)) => {
                    rows += job.asked.len();
                    jobs.push(job);
                }
                // Orders keep their order: what comes behind waits.
                Some(other) if jobs.is_empty() => return Round::Other(other),
                Some(other) => {
                    waiting.push_front(other);
                    break;
                }
                None => break,
            }
        }
        if jobs.is_empty() { Round::Nothing } else { Round::Jobs(jobs) }
    }

    fn carry_out(&mut self, round: Round) {
        match round {
            Round::Nothing => {}
            Round::Jobs(jobs) => self.answer(jobs),
            Round::Other(Order::Reset { session, done }) => {
                self.reset(session);
                // A client that is gone does not want to know.
                let _ = done.send(Told::Answer(Ok(Vec::new())));
            }
            Round::Other(Order::Close { session }) => self.close(session),
            Round::Other(Order::Act(job)) => self.answer(vec![job]),
        }
    }

    fn close(&mut self, session: u64) {
        self.own.remove(&session);
        if let Sessions::Joint(policy) = &mut self.sessions {
            policy.forget(session);
        }
    }

    fn answer(&mut self, jobs: Vec<Job>) {
        match &mut self.sessions {
            Sessions::Shared(policy) => {
                let mut act = |rows: &Rows, words: &[&str]| policy.act(&rows.observations, words);
                self.ask.together(&mut act, jobs, &self.metrics);
            }
            Sessions::Joint(policy) => {
                let mut act = |rows: &Rows, words: &[&str]| policy.act(&rows.places, &rows.observations, words);
                self.ask.together(&mut act, jobs, &self.metrics);
            }
            Sessions::Own(make) => {
                let mut taken = Vec::with_capacity(jobs.len());
                for job in jobs {
                    self.metrics.batch(job.asked.len());
                    let made = match self.own.remove(&job.session) {
                        Some(policy) => Ok(policy),
                        None => make(job.session),
                    };
                    match made {
                        Ok(policy) => taken.push((policy, job)),
                        Err(error) => drop(job.answer.send(Told::Answer(Err(error.into())))),
                    }
                }
                for (session, policy) in self.ask.side_by_side(taken) {
                    self.own.insert(session, policy);
                }
            }
        }
    }

    fn reset(&mut self, session: u64) {
        // A shared policy has no memory, and a session that has not asked yet has no policy.
        match &mut self.sessions {
            Sessions::Joint(policy) => policy.forget(session),
            Sessions::Own(_) | Sessions::Shared(_) => {
                if let Some(policy) = self.own.get_mut(&session) {
                    policy.reset();
                }
            }
        }
    }
}

impl Ask {
    /// One policy for all jobs: one batch.
    fn together(&self, act: Act, jobs: Vec<Job>, metrics: &Metrics) {
        let mut all = Rows::default();
        let mut waiting = Vec::with_capacity(jobs.len());
        for job in jobs {
            waiting.push((job.asked.len(), job.answer));
            all.push(job.session, job.asked);
        }
        metrics.batch(all.places.len());
        let together = self.chunks(act, &all);
        let mut start = 0;
        for (count, answer) in &waiting {
            let rows = start..start + count;
            start += count;
            let result = match &together {
                Ok(chunks) => {
                    let row = self.answer_row();
                    Ok(chunks.get(rows.start * row..rows.end * row).unwrap_or_default().to_vec())
                }
                // One client's observation must not fail the others'.
                Err(_) if waiting.len() > 1 => self.chunks(act, &all.part(rows)),
                Err(error) => Err(ServeError::message("policy", "an answer", error.to_string())),
            };
            // A client that is gone does not want to know.
            let _ = answer.send(Told::Answer(result));
        }
    }

    /// A policy for each job: at the same time, since one may only wait for a server of its own.
    fn side_by_side(&self, taken: Vec<(BoxedPolicy, Job)>) -> Vec<(u64, BoxedPolicy)> {
        let one = |(mut policy, job): (BoxedPolicy, Job)| {
            let mut rows = Rows::default();
            rows.push(job.session, job.asked);
            let mut act = |rows: &Rows, words: &[&str]| policy.act(&rows.observations, words);
            let _ = job.answer.send(Told::Answer(self.chunks(&mut act, &rows)));
            (job.session, policy)
        };
        if taken.len() < 2 {
            return taken.into_iter().map(one).collect();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = taken.into_iter().map(|job| scope.spawn(move || one(job))).collect();
            // Panics of a policy are caught where it is asked; a session whose thread ended otherwise gets a new policy.
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        })
    }

    /// Values of an answer to one observation.
    fn answer_row(&self) -> usize {
        self.bent.as_ref().map_or(self.row, |(row, _)| *row)
    }

    /// The chunks for some observations, bent if they are to be.
    fn chunks(&self, act: Act, rows: &Rows) -> Answer {
        let Rows { places, observations, instructions } = rows;
        let words: Vec<&str> = instructions.iter().map(String::as_str).collect();
        let base = guarded(self.row, places.len(), || act(rows, &words))?;
        match &self.bent {
            None => Ok(base),
            Some((row, bend)) => guarded(*row, places.len(), || bend.bend(places, observations, instructions, &base)),
        }
    }
}

impl Rows {
    fn push(&mut self, session: u64, asked: Vec<Asked>) {
        for (row, asked) in asked.into_iter().enumerate() {
            self.places.push(Place { session, row });
            self.observations.push(asked.observation);
            self.instructions.push(asked.instruction);
        }
    }

    fn part(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            places: self.places.get(rows.clone()).unwrap_or_default().to_vec(),
            observations: self.observations.get(rows.clone()).unwrap_or_default().to_vec(),
            instructions: self.instructions.get(rows).unwrap_or_default().to_vec(),
        }
    }
}

/// What `work` gives for `count` observations, `row` values each.
fn guarded(row: usize, count: usize, work: impl FnOnce() -> Result<Vec<f32>, NnError>) -> Answer {
    // A backend that panics on one request must not take the server with it.
    let chunks = catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| ServeError::message("policy", "an answer", "a panic; the server's log has its message"))??;
    let expected = count * row;
    if chunks.len() != expected {
        return Err(ServeError::message("policy", format!("{expected} values"), chunks.len().to_string()));
    }
    match chunks.iter().position(|value| !value.is_finite()) {
        Some(place) => {
            Err(ServeError::message("policy", "finite actions", format!("another value at position {place}")))
        }
        None => Ok(chunks),
    }
}
