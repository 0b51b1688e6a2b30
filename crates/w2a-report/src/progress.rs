//! Progress over a plan of stages, and an estimate of the time that remains.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Without a terminal, at most one line in this time (besides the lines that start and finish a stage).
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The arithmetic of [`Progress`], on seconds that are passed in.
///
/// Each stage of the plan has a share of the whole work. What a unit of work costs is measured from what is done; the
/// running stage's remainder moves from that general price to its own measured speed as it passes its first tenth,
/// because a plan's shares are guesses while a stage's own steps are much alike. What an earlier process has done is
/// credited: it counts as progress, and its price is not measured.
#[derive(Clone, Debug)]
struct Estimate {
    stages: Vec<StageState>,
}

#[derive(Clone, Debug)]
struct StageState {
    share: f64,
    fraction: f64,
    /// Part of `fraction` that was there before.
    credited: f64,
    seconds: f64,
    is_skipped: bool,
}

impl StageState {
    /// Part of the stage that was done in this process.
    fn worked(&self) -> f64 {
        self.fraction - self.credited
    }
}

impl Estimate {
    fn new(shares: impl Iterator<Item = f64>) -> Self {
        let clean = |share: f64| if share.is_finite() && share > 0.0 { share } else { 1e-6 };
        let stage =
            |share| StageState { share: clean(share), fraction: 0.0, credited: 0.0, seconds: 0.0, is_skipped: false };
        Self { stages: shares.map(stage).collect() }
    }

    fn update(&mut self, stage: usize, fraction: f64, seconds: f64) {
        let stage = &mut self.stages[stage];
        stage.fraction = fraction.clamp(0.0, 1.0);
        stage.seconds = seconds;
    }

    fn credit(&mut self, stage: usize, fraction: f64) {
        let stage = &mut self.stages[stage];
        let fraction = fraction.clamp(0.0, 1.0);
        stage.credited += (fraction - stage.fraction).max(0.0);
        stage.fraction = stage.fraction.max(fraction);
    }

    /// Seconds that remain; `None` before anything was measured.
    fn remaining_s(&self) -> Option<f64> {
        let measured = || self.stages.iter().filter(|stage| !stage.is_skipped && stage.worked() > 0.0);
        let work = measured().map(|stage| stage.share * stage.worked()).sum::<f64>();
        let seconds_per_work = measured().map(|stage| stage.seconds).sum::<f64>() / work;
        let remaining = |stage: &StageState| {
            let left = 1.0 - stage.fraction;
            let planned = stage.share * left * seconds_per_work;
            let worked = stage.worked();
            if worked <= 0.0 {
                return planned;
            }
            let own = stage.seconds / worked * left;
            let trust = (worked / 0.1).min(1.0);
            trust * own + (1.0 - trust) * planned
        };
        (work > 0.0).then(|| self.stages.iter().filter(|stage| !stage.is_skipped).map(remaining).sum())
    }
}

/// A progress bar on a terminal, or now and then a plain line on stderr, for a run of several stages.
///
/// All methods take `&self` and may be called from several threads. A stage that is not in the plan is ignored.
pub struct Progress {
    state: Mutex<State>,
}

struct State {
    names: Vec<String>,
    estimate: Estimate,
    stage: Option<usize>,
    stage_started: Instant,
    bar: Option<ProgressBar>,
    plain: Box<dyn Write + Send>,
    last_plain: Option<Instant>,
}

impl Progress {
    /// A plan of `(stage, expected share)`; shares are in any unit and need not sum to one.
    pub fn new(plan: &[(&str, f64)]) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{prefix:>22.bold} {bar:28.cyan/dim} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─"));
            bar
        });
        Self::build(plan, bar, Box::new(std::io::stderr()))
    }

    /// The same without a bar; the plain lines go to `sink`.
    pub fn with_sink(plan: &[(&str, f64)], sink: Box<dyn Write + Send>) -> Self {
        Self::build(plan, None, sink)
    }

    fn build(plan: &[(&str, f64)], bar: Option<ProgressBar>, plain: Box<dyn Write + Send>) -> Self {
        Self {
            state: Mutex::new(State {
                names: plan.iter().map(|(name, _)| (*name).to_owned()).collect(),
                estimate: Estimate::new(plan.iter().map(|(_, share)| *share)),
                stage: None,
                stage_started: Instant::now(),
                bar,
                plain,
                last_plain: None,
            }),
        }
    }

    /// A stage that was already done before this process; it neither takes time nor teaches any.
    pub fn skip(&self, stage: &str) {
        let mut state = self.lock();
        if let Some(index) = state.index(stage) {
            state.estimate.stages[index].is_skipped = true;
        }
    }

    /// Begins a stage.
    pub fn start(&self, stage: &str) {
        let mut state = self.lock();
        let Some(index) = state.index(stage) else { return };
        state.stage = Some(index);
        state.stage_started = Instant::now();
        state.show(0, 1, "", true);
    }

    /// `done` of `total` steps of the running stage are finished. Cheap enough to call at every step.
    pub fn tick(&self, done: u64, total: u64, message: &str) {
        let mut state = self.lock();
        let Some(index) = state.stage else { return };
        let seconds = state.stage_started.elapsed().as_secs_f64();
        state.estimate.update(index, done as f64 / total.max(1) as f64, seconds);
        state.show(done, total, message, false);
    }

    /// `done` of `total` steps of the running stage are finished, those since the last call by an earlier process: they
    /// count as done and do not teach how long a step takes.
    pub fn credit(&self, done: u64, total: u64) {
        let mut state = self.lock();
        let Some(index) = state.stage else { return };
        state.estimate.credit(index, done as f64 / total.max(1) as f64);
    }

    /// Ends a stage and returns the seconds it took in this process.
    pub fn finish(&self, stage: &str) -> f64 {
        let mut state = self.lock();
        let Some(index) = state.index(stage) else { return 0.0 };
        let seconds = state.stage_started.elapsed().as_secs_f64();
        state.estimate.update(index, 1.0, seconds);
        let message = format!("done in {}", human_duration(seconds));
        if let Some(bar) = &state.bar {
            // A finished stage stays on the screen as a line above the bar.
            bar.println(format!("{:>22} {message}", state.names[index]));
        }
        let is_plain = state.bar.is_none();
        state.show(1, 1, &message, is_plain);
        state.stage = None;
        seconds
    }

    /// Seconds that remain for the whole plan; `None` before anything was measured.
    pub fn remaining_s(&self) -> Option<f64> {
        self.lock().estimate.remaining_s()
    }

    /// Prints a line above the bar, or on stderr without one.
    pub fn println(&self, line: &str) {
        let mut state = self.lock();
        match &state.bar {
            Some(bar) => bar.println(line),
            None => state.write_plain(line),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not take the progress display down with it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn index(&self, stage: &str) -> Option<usize> {
        self.names.iter().position(|name| name == stage)
    }

    fn show(&mut self, done: u64, total: u64, message: &str, is_forced: bool) {
        let Some(index) = self.stage else { return };
        let is_due = is_forced || self.last_plain.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL);
        if self.bar.is_none() && !is_due {
            return;
        }
        let left = match self.estimate.remaining_s() {
            Some(seconds) => format!("about {} left", human_duration(seconds)),
            None => "estimating the time left".to_owned(),
        };
        let separator = if message.is_empty() { "" } else { " · " };
        if let Some(bar) = &self.bar {
            bar.set_prefix(self.names[index].clone());
            bar.set_length(total);
            bar.set_message(format!("{message}{separator}{left}"));
            bar.set_position(done.min(total));
            return;
        }
        self.last_plain = Some(Instant::now());
        let percent = 100.0 * done as f64 / total.max(1) as f64;
        let stage = format!("[{}/{}] {}", index + 1, self.names.len(), self.names[index]);
        self.write_plain(&format!("{stage} {percent:.0}%{separator}{message} · {left}"));
    }

    fn write_plain(&mut self, line: &str) {
        // Progress that cannot be shown is no reason to stop a run.
        let _ = writeln!(self.plain, "{line}");
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // An error message or a result that follows must not share its line with a bar.
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A duration for people: `8 s`, `3 min 20 s`, `2 h 05 min`.
pub fn human_duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => {
            let minutes = (whole + 30) / 60;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn close(got: Option<f64>, expected: f64) {
        assert!(got.is_some_and(|got| (got - expected).abs() < 1e-9), "got {got:?}, expected {expected}");
    }

    #[test]
    fn nothing_measured_nothing_said() {
        assert_eq!(Estimate::new([0.5, 0.5].into_iter()).remaining_s(), None);
    }

    #[test]
    fn a_plan_that_holds_is_extrapolated() {
        let mut estimate = Estimate::new([1.0, 3.0].into_iter());
        estimate.update(0, 0.5, 10.0);
        close(estimate.remaining_s(), 10.0 + 60.0);
        estimate.update(0, 1.0, 20.0);
        close(estimate.remaining_s(), 60.0);
    }

    #[test]
    fn a_stage_that_is_slower_than_planned_counts_with_its_own_speed() {
        let mut estimate = Estimate::new([1.0, 1.0, 1.0].into_iter());
        estimate.update(0, 1.0, 10.0);
        // 50 s for half of a stage planned at 10 s: 50 s more for it; the third at 60 s for 1.5 units of work.
        estimate.update(1, 0.5, 50.0);
        close(estimate.remaining_s(), 50.0 + 40.0);
    }

    #[test]
    fn a_skipped_stage_takes_no_time() {
        let mut estimate = Estimate::new([8.0, 1.0, 1.0].into_iter());
        estimate.stages[0].is_skipped = true;
        estimate.update(1, 0.5, 5.0);
        close(estimate.remaining_s(), 15.0);
    }

    #[test]
    fn what_was_done_before_is_no_measure_of_speed() {
        let mut estimate = Estimate::new([1.0, 1.0].into_iter());
        estimate.credit(0, 0.5);
        assert_eq!(estimate.remaining_s(), None);
        // A quarter of a stage took 10 s: the last quarter takes 10 s more, the next stage 40 s.
        estimate.update(0, 0.75, 10.0);
        close(estimate.remaining_s(), 10.0 + 40.0);
    }

    #[test]
    fn shares_that_make_no_sense_do_no_harm() {
        let mut estimate = Estimate::new([f64::NAN, -1.0, 0.0, 1.0].into_iter());
        estimate.update(3, 0.5, 4.0);
        let remaining = estimate.remaining_s().unwrap();
        assert!((3.9..4.2).contains(&remaining), "{remaining}");
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn plain_lines_are_rare() {
        let sink = Sink::default();
        let progress = Progress::with_sink(&[("world", 2.0), ("policy", 1.0)], Box::new(sink.clone()));
        progress.start("world");
        for step in 0..1000 {
            progress.tick(step, 1000, "loss 0.3");
        }
        assert!(progress.remaining_s().is_some());
        progress.finish("world");
        progress.start("absent");
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.starts_with("[1/2] world 0% · estimating"), "{text}");
        assert!(text.lines().last().unwrap().contains("100% · done in 0.0 s · about"), "{text}");
    }

    #[test]
    fn durations_are_readable() {
        for (seconds, text) in [
            (0.04, "0.0 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (200.0, "3 min 20 s"),
            (7500.0, "2 h 05 min"),
            (f64::NAN, "unknown"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }
}
