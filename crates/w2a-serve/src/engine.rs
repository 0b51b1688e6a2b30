//! One thread owns the policy; what several clients ask for at the same time goes through it as one batch.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use w2a_data::Observation;
use w2a_nn::NnError;
use w2a_policy::Policy;

use crate::ServeError;
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
    /// A policy for each session, as where it draws random numbers or talks to another server.
    Own(MakePolicy),
}

/// What a server serves.
pub struct Served {
    /// Names and sizes.
    pub layout: Layout,
    /// Actions per chunk.
    pub horizon: usize,
    /// The policy.
    pub sessions: Sessions,
}

/// The answer to a request: `[rows, horizon, action]`.
type Answer = Result<Vec<f32>, ServeError>;

enum Order {
    Act(Job),
    Reset { session: u64, done: SyncSender<Result<(), ServeError>> },
    Close { session: u64 },
    Stop,
}

struct Job {
    session: u64,
    asked: Vec<Asked>,
    answer: SyncSender<Answer>,
}

/// A handle to the thread with the policy.
pub(crate) struct Engine {
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    pub fn start(served: Served, metrics: Arc<Metrics>) -> Self {
        let (orders, inbox) = channel();
        let worker = Worker {
            row: served.horizon * served.layout.action_width(),
            sessions: served.sessions,
            own: BTreeMap::new(),
            metrics,
        };
        Self { orders, thread: Some(std::thread::spawn(move || worker.run(&inbox))) }
    }

    /// The chunks for these observations.
    pub fn act(&self, session: u64, asked: Vec<Asked>) -> Answer {
        let (answer, inbox) = sync_channel(1);
        self.orders.send(Order::Act(Job { session, asked, answer })).map_err(|_| ServeError::Stopping)?;
        inbox.recv().unwrap_or(Err(ServeError::Stopping))
    }

    /// Forgets a session's episode.
    pub fn reset(&self, session: u64) -> Result<(), ServeError> {
        let (done, inbox) = sync_channel(1);
        self.orders.send(Order::Reset { session, done }).map_err(|_| ServeError::Stopping)?;
        inbox.recv().unwrap_or(Err(ServeError::Stopping))
    }

    /// A session's client is gone.
    pub fn close(&self, session: u64) {
        // Without the thread there is nothing to close.
        let _ = self.orders.send(Order::Close { session });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

struct Worker {
    sessions: Sessions,
    own: BTreeMap<u64, BoxedPolicy>,
    /// Values of one chunk.
    row: usize,
    metrics: Arc<Metrics>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Order>) {
        let mut waiting = VecDeque::new();
        loop {
            let order = match waiting.pop_front() {
                Some(order) => order,
                None => match inbox.recv() {
                    Ok(order) => order,
                    Err(_) => return,
                },
            };
            match order {
                Order::Stop => return,
                Order::Close { session } => {
                    self.own.remove(&session);
                }
                Order::Reset { session, done } => {
                    // A client that is gone does not want to know.
                    let _ = done.send(self.reset(session));
                }
                Order::Act(job) => {
                    let mut rows = job.asked.len();
                    let mut jobs = vec![job];
                    // What has arrived by now; nobody waits for others to come.
                    while rows < MAX_ROWS {
                        match inbox.try_recv() {
                            Ok(Order::Act(job)) => {
                                rows += job.asked.len();
                                jobs.push(job);
                            }
                            // Orders keep their order: what comes behind waits.
                            Ok(other) => {
                                waiting.push_back(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.answer(jobs);
                }
            }
        }
    }

    fn answer(&mut self, jobs: Vec<Job>) {
        if let Sessions::Own(make) = &mut self.sessions {
            for job in jobs {
                let Job { session, asked, answer } = job;
                self.metrics.batch(asked.len());
                let made = match self.own.remove(&session) {
                    Some(policy) => Ok(policy),
                    None => make(session),
                };
                let result = made.map_err(ServeError::from).and_then(|mut policy| {
                    let (observations, instructions) = parted(asked);
                    let result = act(policy.as_mut(), &observations, &instructions, self.row);
                    self.own.insert(session, policy);
                    result
                });
                let _ = answer.send(result);
            }
            return;
        }
        let Sessions::Shared(policy) = &mut self.sessions else { return };
        let (mut asked, mut waiting) = (Vec::new(), Vec::new());
        for job in jobs {
            waiting.push((job.asked.len(), job.answer));
            asked.extend(job.asked);
        }
        self.metrics.batch(asked.len());
        let (observations, instructions) = parted(asked);
        let together = act(policy.as_mut(), &observations, &instructions, self.row);
        let mut start = 0;
        for (count, answer) in &waiting {
            let rows = start..start + count;
            start += count;
            let result = match &together {
                Ok(chunks) => Ok(chunks.get(rows.start * self.row..rows.end * self.row).unwrap_or_default().to_vec()),
                // One client's observation must not fail the others'.
                Err(_) if waiting.len() > 1 => {
                    let own = (observations.get(rows.clone()), instructions.get(rows));
                    act(policy.as_mut(), own.0.unwrap_or_default(), own.1.unwrap_or_default(), self.row)
                }
                Err(error) => Err(ServeError::message("policy", "an answer", error.to_string())),
            };
            let _ = answer.send(result);
        }
    }

    fn reset(&mut self, session: u64) -> Result<(), ServeError> {
        // A shared policy has no memory, and a session that has not asked yet has no policy.
        if let Some(policy) = self.own.get_mut(&session) {
            policy.reset();
        }
        Ok(())
    }
}

fn parted(asked: Vec<Asked>) -> (Vec<Observation>, Vec<String>) {
    asked.into_iter().map(|asked| (asked.observation, asked.instruction)).unzip()
}

fn act(policy: &mut dyn Policy, observations: &[Observation], instructions: &[String], row: usize) -> Answer {
    let instructions: Vec<&str> = instructions.iter().map(String::as_str).collect();
    // A backend that panics on one request must not take the server with it.
    let chunks = catch_unwind(AssertUnwindSafe(|| policy.act(observations, &instructions)))
        .map_err(|_| ServeError::message("policy", "an answer", "a panic; the server's log has its message"))??;
    let expected = observations.len() * row;
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
