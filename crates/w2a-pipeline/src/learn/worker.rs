//! The background: imagines what an episode should have looked like, updates the residual, judges updates.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use burn::module::Module;
use w2a_data::Observation;
use w2a_nn::{NnError, StepReport, state_dict};
use w2a_posttrain::{Lesson, PosttrainConfig, Residual, Update, update_residual};
use w2a_world::{Latents, load_latents, save_latents};

use super::episode::Kept;
use super::guard::{Distances, distance};
use super::learner::{Inner, Task};
use super::ledger::{Record, Status};
use super::schedule::Order;
use super::with_weights;
use crate::PipelineError;
use crate::stage2::{Shared, embed};
use crate::world::Dreamer;

/// What the background found out about an episode.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// What it is pulled towards, `[T, D]`; zeros where there is no chunk.
    pub z_v: Vec<f32>,
    /// Of executed to imagined video.
    pub distance: f32,
    /// Mean cosine of `z_final` with `z_v`.
    pub cosine: f32,
}

/// The background thread.
pub(super) struct Worker {
    pub inner: Arc<Inner>,
    pub shared: Shared,
    pub dreamer: Dreamer,
    pub config: PosttrainConfig,
    pub seed: u64,
    /// Threads of the run; half of them work here, so that serving keeps the others.
    pub threads: usize,
}

impl Worker {
    /// Works until it is told to stop. What goes wrong ends the learning and not the serving.
    pub fn run(self, inbox: &Receiver<Task>) {
        let threads = (self.threads / 2).max(1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => return self.inner.halt(&error.to_string()),
        };
        while let Ok(task) = inbox.recv() {
            if self.inner.is_stopped() || matches!(task, Task::Stop) {
                return;
            }
            let done = catch_unwind(AssertUnwindSafe(|| pool.install(|| self.work(&task))));
            match done {
                Ok(Ok(())) => {}
                Ok(Err(_)) if self.inner.is_stopped() => return,
                Ok(Err(error)) => return self.inner.halt(&error.to_string()),
                Err(_) => return self.inner.halt("a panic; its message is above"),
            }
        }
    }

    fn work(&self, task: &Task) -> Result<(), PipelineError> {
        match task {
            Task::Imagine(kept) => self.imagine(kept),
            Task::Order(Order::Update { number, parent, upto }) => self.update(*number, *parent, *upto),
            Task::Order(Order::Judge { number }) => self.judge(*number),
            Task::Stop => Ok(()),
        }
    }

    /// Imagines an episode from its first image and instruction, and compares.
    fn imagine(&self, kept: &Kept) -> Result<(), PipelineError> {
        let number = kept.about.number;
        let imagined = self.imagined(kept)?;
        let mut z_v = embed(&self.shared.world, &self.shared.adapters, std::slice::from_ref(&imagined))?;
        let mut z_v = z_v.pop().unwrap_or_default();
        z_v.iter_mut().skip(kept.len() * self.inner.sizes.dim).for_each(|value| *value = 0.0);
        let (world, chunk_len) = (&self.shared.world, self.inner.chunk_len);
        let distance = distance(world, &kept.observations, &imagined, chunk_len)?;
        let seen = z_v.get(..kept.z_final.len()).unwrap_or_default();
        let cosine = w2a_align::diagnose(&kept.z_final, seen, kept.len(), self.inner.sizes.dim).cosine;
        let found = Found { z_v, distance, cosine };
        if let Some(entry) = self.inner.lock().episodes.get_mut(&number) {
            entry.found = Some(Arc::new(found));
        }
        Ok(())
    }

    /// What an earlier server imagined for this episode, or what is imagined now.
    fn imagined(&self, kept: &Kept) -> Result<Latents, PipelineError> {
        let (number, chunks) = (kept.about.number, self.inner.sizes.chunks);
        let path = self.inner.paths.imagined(number);
        if path.exists()
            && let Some(latents) = load_latents(&path)?.pop().filter(|latents| latents.chunks() == chunks)
        {
            return Ok(latents);
        }
        let mut rng = w2a_data::stream(self.seed, &format!("learn/imagine/{number}"));
        let imagined = self.dreamer.imagine_told(&kept.first()?, &kept.about.instruction, chunks, &mut rng)?;
        save_latents(&path, std::slice::from_ref(&imagined))?;
        Ok(imagined)
    }

    /// Computes an update and puts it on trial.
    fn update(&self, number: u64, parent: u64, upto: u64) -> Result<(), PipelineError> {
        let (pool, weights) = {
            let mut state = self.inner.lock();
            if state.schedule.pending() != Some(number) {
                return Ok(());
            }
            state.ledger.write(Record::new(number, parent, upto, Status::Computing, ""), None)?;
            let oldest = upto.saturating_sub(self.inner.keep as u64) + 1;
            let known =
                state.episodes.range(oldest..=upto).map(|(_, entry)| (Arc::clone(&entry.kept), entry.found.clone()));
            let pool: Vec<_> = known.filter_map(|(kept, found)| Some((kept, found?))).collect();
            (pool, state.ledger.weights(parent)?)
        };
        let whole: Vec<Held> = pool.iter().map(|(kept, _)| Held::of(kept, self.inner.sizes.chunks)).collect();
        let lessons: Vec<Lesson> = whole.iter().zip(&pool).map(|(held, (_, found))| held.lesson(found)).collect();
        (self.inner.tell)(&format!("learning: update {number} from update {parent}, {} episodes", lessons.len()));
        let name = format!("learn/{number}");
        let update = Update {
            config: &self.config,
            name: &name,
            seed: self.seed,
            adapters: &self.shared.adapters,
            proprio: &self.shared.set.proprio,
            device: &self.inner.bender.device,
            go_on: &|| !self.inner.is_stopped(),
        };
        let mut cosines: Option<[f32; 2]> = None;
        let on_step = |report: &StepReport| {
            let cosine = report.losses.iter().find(|(name, _)| *name == "cosine").map(|(_, value)| *value);
            if let Some(cosine) = cosine {
                cosines = Some([cosines.map_or(cosine, |[first, _]| first), cosine]);
            }
        };
        let residual = with_weights(&self.inner.template, weights)?;
        let updated: Result<Residual, NnError> = update_residual(&update, residual, &lessons, on_step);
        let mut record = Record::new(number, parent, upto, Status::Trial, "");
        (record.lessons, record.cosine) = (lessons.len(), cosines);
        let (weights, words) = match updated {
            Ok(residual) => (Some(state_dict(&residual.valid())?), format!("update {number} is on trial")),
            Err(_) if self.inner.is_stopped() => return Ok(()),
            Err(error) => {
                (record.status, record.reason) = (Status::Failed, error.to_string());
                (None, format!("update {number} failed and is not used: {error}"))
            }
        };
        let mut state = self.inner.lock();
        if state.schedule.pending() != Some(number) {
            // Somebody went back meanwhile, which was written down then.
            return Ok(());
        }
        state.ledger.write(record, weights.as_ref())?;
        state.schedule.updated(number, weights.is_some());
        drop(state);
        self.inner.notify();
        (self.inner.tell)(&format!("learning: {words}"));
        Ok(())
    }

    /// Accepts an update or refuses it.
    fn judge(&self, number: u64) -> Result<(), PipelineError> {
        let mut state = self.inner.lock();
        if state.schedule.pending() != Some(number) {
            return Ok(());
        }
        let on_trial = state.episodes.values().filter(|entry| entry.kept.about.trial == Some(number));
        let distance = |ours: bool| {
            let side = on_trial.clone().filter(|entry| (entry.kept.about.update == number) == ours);
            let values = side.filter_map(|entry| Some(entry.found.as_ref()?.distance));
            Distances::of(&values.collect::<Vec<f32>>())
        };
        let (candidate, current) = (distance(true), distance(false));
        let verdict = Verdict::of(&candidate, &current);
        state.ledger.change(number, |record| {
            (record.status, record.reason) = (verdict.status(), verdict.words.clone());
            // JSON has no word for what is not finite.
            let [candidate, current] = [candidate, current].map(|side| side.mean.is_finite().then_some(side));
            (record.candidate, record.current) = (candidate, current);
        })?;
        let order = state.schedule.judged(number, verdict.is_accepted);
        self.inner.order(order);
        drop(state);
        self.inner.notify();
        (self.inner.tell)(&format!("learning: update {number} is {}", verdict.words));
        Ok(())
    }
}

/// What becomes of an update.
struct Verdict {
    is_accepted: bool,
    words: String,
}

impl Verdict {
    /// Accepted unless its episodes are further from their imagination than those of the weights in use.
    fn of(candidate: &Distances, current: &Distances) -> Self {
        // Not where there is nothing to compare, or no number.
        let is_accepted = candidate.episodes.min(current.episodes) > 0 && candidate.mean <= current.mean;
        let words = format!(
            "{}: executed video is {:.4} ± {:.4} from the imagination with it, {:.4} ± {:.4} without ({} and {} episodes)",
            if is_accepted { "accepted" } else { "refused" },
            candidate.mean,
            candidate.standard_error,
            current.mean,
            current.standard_error,
            candidate.episodes,
            current.episodes,
        );
        Self { is_accepted, words }
    }

    fn status(&self) -> Status {
        if self.is_accepted { Status::Accepted } else { Status::Refused }
    }
}

/// An episode, held on its last chunk to the length of the imagination. Where it is held, nothing pulls.
struct Held<'a> {
    kept: &'a Kept,
    observations: Cow<'a, [Observation]>,
    base: Cow<'a, [f32]>,
    z_base: Cow<'a, [f32]>,
}

impl<'a> Held<'a> {
    fn of(kept: &'a Kept, chunks: usize) -> Self {
        Self {
            observations: held(&kept.observations, kept.len(), chunks),
            base: held(&kept.base, kept.len(), chunks),
            z_base: held(&kept.z_base, kept.len(), chunks),
            kept,
        }
    }

    fn lesson<'l>(&'l self, found: &'l Found) -> Lesson<'l> {
        Lesson {
            observations: &self.observations,
            instruction: &self.kept.about.instruction,
            base: &self.base,
            z_base: &self.z_base,
            z_v: &found.z_v,
            actions: &[],
        }
    }
}

/// `rows` rows, the last one repeated until there are `wanted`.
fn held<T: Clone>(values: &[T], rows: usize, wanted: usize) -> Cow<'_, [T]> {
    if rows >= wanted {
        return Cow::Borrowed(values);
    }
    let width = values.len() / rows.max(1);
    let last = values.get(values.len() - width..).unwrap_or_default();
    let more = last.iter().cycle().take((wanted - rows) * width);
    Cow::Owned(values.iter().chain(more).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::{Distances, Verdict, held};

    #[test]
    fn an_episode_is_held_on_its_last_row() {
        assert_eq!(*held(&[1, 2, 3, 4], 2, 4), [1, 2, 3, 4, 3, 4, 3, 4]);
        assert_eq!(*held(&[1, 2, 3, 4], 2, 2), [1, 2, 3, 4]);
    }

    #[test]
    fn an_update_is_refused_if_it_is_further_away_or_no_number() {
        let side = |mean| Distances { episodes: 4, mean, standard_error: 0.1 };
        let accepted = |candidate, current| Verdict::of(&side(candidate), &side(current)).is_accepted;
        assert!(accepted(0.8, 0.9) && accepted(0.9, 0.9));
        assert!(!accepted(0.91, 0.9) && !accepted(f32::NAN, 0.9) && !accepted(0.9, f32::NAN));
        assert!(!Verdict::of(&Distances::of(&[]), &side(0.9)).is_accepted);
        let words = Verdict::of(&side(1.0), &side(0.9)).words;
        assert!(words.starts_with("refused: executed video is 1.0000 ± 0.1000 from the imagination"), "{words}");
    }
}
