//! What stands between the policy and its clients: who is served by which weights, and what is kept of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use w2a_data::Observation;
use w2a_nn::NnError;
use w2a_posttrain::{Bender, BenderConfig, Residual};
use w2a_serve::{Bend, Ending, Place, ServeError};

use super::episode::{About, Kept, Sizes};
use super::ledger::Ledger;
use super::schedule::{Order, Schedule, Ticket};
use super::status::Counts;
use super::worker::{Found, Worker};
use super::{Tell, with_weights};
use crate::PipelineError;
use crate::serve::bent::beginnings;

/// Where things are kept.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub folder: PathBuf,
}

impl Paths {
    pub fn episode(&self, number: u64) -> PathBuf {
        self.folder.join("episodes").join(format!("{number:06}.safetensors"))
    }

    pub fn imagined(&self, number: u64) -> PathBuf {
        self.folder.join("imagined").join(format!("{number:06}.safetensors"))
    }

    /// The kept episodes, by number.
    ///
    /// # Errors
    /// A damaged one, by name.
    pub fn episodes(&self, sizes: &Sizes) -> Result<Vec<Kept>, PipelineError> {
        let io = |source| PipelineError::io("reading the kept episodes", source);
        let entries = match fs_err::read_dir(self.folder.join("episodes")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut episodes = Vec::new();
        for entry in entries {
            let path = entry.map_err(io)?.path();
            // What a kill leaves half written begins with a dot.
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !hidden && path.extension().is_some_and(|ending| ending == "safetensors") {
                episodes.push(Kept::load(&path, sizes)?);
            }
        }
        episodes.sort_by_key(|kept| kept.about.number);
        Ok(episodes)
    }
}

/// Everything that a learner begins with.
pub(super) struct Start {
    pub bender: BenderConfig,
    pub gain: f32,
    /// A residual of the right form, for weights to be loaded into.
    pub template: Residual,
    pub sizes: Sizes,
    /// Most episodes that are kept.
    pub keep: usize,
    /// `M`.
    pub chunk_len: usize,
    /// Fewest chunks of an episode that is kept.
    pub shortest: usize,
    pub paths: Paths,
    pub ledger: Ledger,
    pub schedule: Schedule,
    pub tell: Tell,
}

/// Work for the background.
pub(super) enum Task {
    Imagine(Arc<Kept>),
    Order(Order),
    Stop,
}

/// An episode that is being served.
struct Running {
    ticket: Ticket,
    bender: Arc<Bender>,
    kept: Kept,
    /// Whether it was kept already: it is longer than the imagination.
    is_over: bool,
}

/// A kept episode, and what the background found out about it.
pub(super) struct Entry {
    pub kept: Arc<Kept>,
    pub found: Option<Arc<Found>>,
}

/// What changes.
pub(super) struct State {
    pub schedule: Schedule,
    pub ledger: Ledger,
    pub episodes: BTreeMap<u64, Entry>,
    pub counts: Counts,
    /// The weights in use, and those on trial.
    benders: BTreeMap<u64, Arc<Bender>>,
    running: BTreeMap<Place, Running>,
    stopped: bool,
}

/// What the server's threads and the background share.
pub(super) struct Inner {
    pub template: Residual,
    pub bender: BenderConfig,
    pub sizes: Sizes,
    pub chunk_len: usize,
    pub paths: Paths,
    pub tell: Tell,
    gain: f32,
    /// Most episodes that an update learns from.
    pub keep: usize,
    shortest: usize,
    state: Mutex<State>,
    /// Episodes may begin, or everything ends.
    changed: Condvar,
    /// Held while an episode is written, so that their numbers are in the order of their files.
    writing: Mutex<()>,
    tasks: Sender<Task>,
}

/// Learns from those who are served.
pub(crate) struct Learner {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Learner {
    /// Starts the background with what an earlier server left to do.
    pub(super) fn start(
        start: Start,
        episodes: Vec<Kept>,
        order: Option<Order>,
        worker: impl FnOnce(Arc<Inner>) -> Worker,
    ) -> Result<Self, PipelineError> {
        let (tasks, inbox) = channel();
        let Start { bender, gain, template, sizes, keep, chunk_len, shortest, paths, ledger, schedule, tell } = start;
        let mut state = State {
            schedule,
            ledger,
            episodes: BTreeMap::new(),
            counts: Counts::default(),
            benders: BTreeMap::new(),
            running: BTreeMap::new(),
            stopped: false,
        };
        for kept in episodes {
            let kept = Arc::new(kept);
            // Nobody hears the background before it is started: the tasks wait.
            let _ = tasks.send(Task::Imagine(Arc::clone(&kept)));
            state.episodes.insert(kept.about.number, Entry { kept, found: None });
        }
        if let Some(order) = order {
            let _ = tasks.send(Task::Order(order));
        }
        let inner = Inner {
            template,
            bender,
            sizes,
            chunk_len,
            paths,
            tell,
            gain,
            keep,
            shortest,
            state: Mutex::new(state),
            changed: Condvar::new(),
            writing: Mutex::new(()),
            tasks,
        };
        // Weights that cannot be read are better known before anyone is served.
        let mut state = inner.lock();
        let current = state.schedule.current();
        inner.bender_of(&mut state, current)?;
        drop(state);
        let inner = Arc::new(inner);
        let worker = worker(Arc::clone(&inner));
        let thread = std::thread::spawn(move || worker.run(&inbox));
        Ok(Self { inner, thread: Some(thread) })
    }
}

impl Drop for Learner {
    fn drop(&mut self) {
        self.stop();
        let _ = self.inner.tasks.send(Task::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Inner {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever panicked while it was held had not begun to change it: changes are made of what was computed before.
        self.state.lock().unwrap_or_else(|held| held.into_inner())
    }

    /// Something changed that somebody may wait for.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    pub fn order(&self, order: Option<Order>) {
        if let Some(order) = order {
            // Without the background nothing is learnt, which was said when it ended.
            let _ = self.tasks.send(Task::Order(order));
        }
    }

    /// Nothing is learnt any more; whoever is served does not notice.
    pub fn halt(&self, why: &str) {
        self.lock().schedule.halt();
        self.notify();
        (self.tell)(&format!("learning has stopped, serving goes on: {why}"));
    }

    /// The weights of an update, ready to bend chunks.
    fn bender_of(&self, state: &mut State, number: u64) -> Result<Arc<Bender>, PipelineError> {
        if let Some(bender) = state.benders.get(&number) {
            return Ok(Arc::clone(bender));
        }
        let residual = with_weights(&self.template, state.ledger.weights(number)?)?;
        let bender = Arc::new(Bender::new(self.bender.clone(), &residual));
        let in_use = [Some(state.schedule.current()), state.schedule.pending()];
        state.benders.retain(|number, _| in_use.contains(&Some(*number)));
        state.benders.insert(number, Arc::clone(&bender));
        Ok(bender)
    }

    /// Begins an episode; waits where the schedule says so.
    fn begin(&self, place: Place, instruction: &str) -> Result<(), ServeError> {
        let mut state = self.lock();
        let ticket = loop {
            if state.stopped {
                return Err(ServeError::Stopping);
            }
            match state.schedule.open() {
                Some(ticket) => break ticket,
                None => state = self.changed.wait(state).unwrap_or_else(|held| held.into_inner()),
            }
        };
        let bender = match self.bender_of(&mut state, ticket.update) {
            Ok(bender) => bender,
            Err(error) => {
                let order = state.schedule.close(ticket, false);
                self.order(order);
                return Err(ServeError::Policy(NnError::Input {
                    what: format!("weights of update {}", ticket.update),
                    expected: "a file that can be read".into(),
                    got: error.to_string(),
                }));
            }
        };
        let about = About {
            number: 0,
            session: place.session,
            update: ticket.update,
            trial: ticket.trial,
            instruction: instruction.to_owned(),
            cameras: Vec::new(),
        };
        state.running.insert(place, Running { ticket, bender, kept: Kept::empty(about), is_over: false });
        Ok(())
    }

    /// An episode has ended and is worth keeping: it is on disk when this returns.
    fn keep(&self, ticket: Ticket, mut kept: Kept) {
        let _order = self.writing.lock().unwrap_or_else(|held| held.into_inner());
        let number = self.lock().schedule.next_number();
        kept.about.number = number;
        let seen = kept.observations.first();
        kept.about.cameras =
            seen.map_or(Vec::new(), |seen| seen.cameras.iter().map(|camera| camera.name.clone()).collect());
        if let Err(error) = kept.save(&self.paths.episode(number)) {
            self.lock().schedule.close(ticket, false);
            return self.halt(&error.to_string());
        }
        let kept = Arc::new(kept);
        let mut state = self.lock();
        state.counts.kept += 1;
        state.episodes.insert(number, Entry { kept: Arc::clone(&kept), found: None });
        let order = state.schedule.close(ticket, true);
        let _ = self.tasks.send(Task::Imagine(kept));
        self.order(order);
        let oldest = state.schedule.newest_to_learn_from().saturating_sub(self.keep as u64) + 1;
        let old: Vec<u64> = state.episodes.range(..oldest).map(|(number, _)| *number).collect();
        for number in old {
            state.episodes.remove(&number);
            // Space only: an episode that stays on disk is one that the next server reads.
            let _ = fs_err::remove_file(self.paths.episode(number));
            let _ = fs_err::remove_file(self.paths.imagined(number));
        }
        self.notify();
    }

    /// An episode has ended and is of no use.
    fn drop_episode(&self, ticket: Ticket, count: impl FnOnce(&mut Counts)) {
        let mut state = self.lock();
        count(&mut state.counts);
        let order = state.schedule.close(ticket, false);
        self.order(order);
        self.notify();
    }

    /// Takes the episodes of a session that are being served.
    fn take(&self, session: u64) -> Vec<Running> {
        let mut state = self.lock();
        let places: Vec<Place> = state.running.keys().filter(|place| place.session == session).copied().collect();
        places.into_iter().filter_map(|place| state.running.remove(&place)).collect()
    }

    fn finish(&self, running: Running, ending: Ending) {
        let Running { ticket, kept, is_over, .. } = running;
        if is_over {
            return;
        }
        let enough = match ending {
            Ending::Reset => self.shortest,
            // Whoever hangs up without a word may have given up: half of an episode has to be there.
            Ending::Left => self.shortest.max(self.sizes.chunks.div_ceil(2)),
            Ending::Broken => return self.drop_episode(ticket, |counts| counts.cut += 1),
        };
        match (kept.len() >= enough, ending) {
            (true, _) => self.keep(ticket, kept),
            (false, Ending::Reset) => self.drop_episode(ticket, |counts| counts.short += 1),
            (false, _) => self.drop_episode(ticket, |counts| counts.cut += 1),
        }
    }
}

/// Rows of a batch that have the same weights.
type Group = (Arc<Bender>, Vec<usize>);

impl Learner {
    /// The rows of a batch, by the update they are served with.
    fn groups(&self, places: &[Place]) -> Result<BTreeMap<u64, Group>, NnError> {
        let state = self.inner.lock();
        let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
        for (index, place) in places.iter().enumerate() {
            let running = state.running.get(place).ok_or_else(|| NnError::Input {
                what: format!("session {}", place.session),
                expected: "an episode that has begun".into(),
                got: "none; this is a bug of the server".into(),
            })?;
            let group = groups.entry(running.ticket.update);
            group.or_insert_with(|| (Arc::clone(&running.bender), Vec::new())).1.push(index);
        }
        Ok(groups)
    }
}

/// What was decided on one observation.
#[derive(Default)]
struct Decided {
    actions: Vec<f32>,
    base: Vec<f32>,
    z_base: Vec<f32>,
    z_final: Vec<f32>,
}

impl Bend for Learner {
    fn horizon(&self) -> usize {
        self.inner.chunk_len
    }

    fn admit(&self, session: u64, instructions: &[&str]) -> Result<(), ServeError> {
        let others = {
            let state = self.inner.lock();
            let rows = state.running.range(Place { session, row: 0 }..Place { session: session + 1, row: 0 });
            let told: Vec<&str> = rows.map(|(_, running)| running.kept.about.instruction.as_str()).collect();
            !told.is_empty() && told != instructions
        };
        if others {
            // Another instruction, or another number of environments: the client has begun something new.
            self.end(session, Ending::Reset);
        }
        for (row, instruction) in instructions.iter().enumerate() {
            let place = Place { session, row };
            if !self.inner.lock().running.contains_key(&place) {
                self.inner.begin(place, instruction)?;
            }
        }
        Ok(())
    }

    fn bend(
        &self,
        places: &[Place],
        observations: &[Observation],
        _instructions: &[String],
        base: &[f32],
    ) -> Result<Vec<f32>, NnError> {
        let Sizes { chunk, dim, .. } = self.inner.sizes;
        let base = beginnings(base, places.len(), chunk);
        let mut decided: Vec<Decided> = places.iter().map(|_| Decided::default()).collect();
        for (bender, rows) in self.groups(places)?.into_values() {
            let seen: Vec<Observation> = rows.iter().filter_map(|row| observations.get(*row)).cloned().collect();
            let starts: Vec<f32> =
                rows.iter().flat_map(|row| base.iter().skip(row * chunk).take(chunk)).copied().collect();
            let decision = bender.bend(&seen, starts)?;
            let parts = decision.actions.chunks_exact(chunk).zip(decision.base.chunks_exact(chunk));
            let parts = parts.zip(decision.z_base.chunks_exact(dim).zip(decision.dz.chunks_exact(dim)));
            for (row, ((actions, base), (z_base, dz))) in rows.into_iter().zip(parts) {
                let z_final = z_base.iter().zip(dz).map(|(z, dz)| z + self.inner.gain * dz).collect();
                let (actions, base, z_base) = (actions.to_vec(), base.to_vec(), z_base.to_vec());
                if let Some(decided) = decided.get_mut(row) {
                    *decided = Decided { actions, base, z_base, z_final };
                }
            }
        }
        let mut state = self.inner.lock();
        let mut out = Vec::with_capacity(base.len());
        for ((place, observation), decided) in places.iter().zip(observations).zip(decided) {
            out.extend_from_slice(&decided.actions);
            let Some(running) = state.running.get_mut(place) else { continue };
            if !running.is_over && running.kept.len() < self.inner.sizes.chunks {
                running.kept.observations.push(observation.clone());
                running.kept.base.extend(decided.base);
                running.kept.z_base.extend(decided.z_base);
                running.kept.z_final.extend(decided.z_final);
            }
        }
        Ok(out)
    }

    fn settle(&self, session: u64) {
        let full = |running: &Running| !running.is_over && running.kept.len() == self.inner.sizes.chunks;
        let mut done = Vec::new();
        let mut state = self.inner.lock();
        for (_, running) in state.running.range_mut(Place { session, row: 0 }..Place { session: session + 1, row: 0 }) {
            if full(running) {
                running.is_over = true;
                let about = running.kept.about.clone();
                done.push((running.ticket, std::mem::replace(&mut running.kept, Kept::empty(about))));
            }
        }
        drop(state);
        // As long as the imagination: what comes until the reset is served with the same weights and not kept.
        done.into_iter().for_each(|(ticket, kept)| self.inner.keep(ticket, kept));
    }

    fn end(&self, session: u64, ending: Ending) {
        self.inner.take(session).into_iter().for_each(|running| self.inner.finish(running, ending));
    }

    fn stop(&self) {
        self.inner.lock().stopped = true;
        self.inner.notify();
    }

    fn metrics(&self) -> String {
        super::status::metrics(&self.inner.lock())
    }

    fn status(&self) -> Option<String> {
        Some(super::status::page(&self.inner.lock()))
    }

    fn roll_back(&self, to: u64) -> Result<String, ServeError> {
        let mut state = self.inner.lock();
        state.ledger.roll_back(to).map_err(|error| ServeError::Learning(error.to_string()))?;
        state.schedule.roll_back(to);
        drop(state);
        self.inner.notify();
        let words = format!("episodes that begin now are served with update {to}; those under way end as they began");
        (self.inner.tell)(&format!("rolled back: {words}"));
        Ok(words)
    }
}
