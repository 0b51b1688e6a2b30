//! Who is served by which weights, and when weights are learnt, tried and judged: the rules of learning while serving,
//! without any work.
//!
//! Everything goes by the order of episodes, never by the time that work takes: where work has to be done before the next
//! episode may begin, that episode waits. The same sequence of requests therefore meets the same weights.

/// The numbers that a user may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// New episodes between two updates.
    pub batch: usize,
    /// Episodes of a trial, for each side.
    pub trial: usize,
}

impl Rules {
    /// Episodes that may begin while an update is computed.
    fn lag(self) -> usize {
        self.batch / 4
    }
}

/// What an episode is served by, from its begin to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The update whose weights these are.
    pub update: u64,
    /// The update on trial, if the episode is part of that.
    pub trial: Option<u64>,
}

/// Work for the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Learn from episodes up to number `upto`, from the weights of `parent`.
    Update { number: u64, parent: u64, upto: u64 },
    /// Compare the two sides of a trial.
    Judge { number: u64 },
}

/// One side of a trial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Side {
    open: usize,
    done: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Episodes come in.
    Collecting,
    /// An update is being computed; `ready` says whether there is something to try.
    Updating { number: u64, begun: usize, ready: Option<bool> },
    /// The weights of `number` and the current ones take turns: candidate first.
    Trial { number: u64, sides: [Side; 2] },
    /// The trial is complete.
    Judging { number: u64 },
}

/// What a server left when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing under way.
    Nothing,
    /// An update that was not computed.
    Update { number: u64, parent: u64, upto: u64 },
    /// An update that was computed from episodes up to `upto`, with those of its trial: the candidate's and the others.
    Trial { number: u64, upto: u64, done: [usize; 2] },
}

/// The rules at work.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    rules: Rules,
    /// Whose weights are in use.
    current: u64,
    /// The highest number of an update.
    newest: u64,
    /// The number of the last episode that was kept.
    kept: u64,
    /// The last episode that an update had.
    learned: u64,
    phase: Phase,
    /// Whether the background has given up: episodes are served as ever, and nothing is learnt.
    halted: bool,
}

impl Schedule {
    /// Goes on where a server ended; the work that it had not done is to be done now.
    pub fn new(rules: Rules, current: u64, newest: u64, kept: u64, learned: u64, left: Left) -> (Self, Option<Order>) {
        let mut schedule = Self { rules, current, newest, kept, learned, phase: Phase::Collecting, halted: false };
        // Episodes that have ended since; those that had not are gone.
        let since = |upto: u64| usize::try_from(kept.saturating_sub(upto)).unwrap_or(usize::MAX);
        let order = match left {
            Left::Nothing => schedule.begin(),
            Left::Update { number, parent, upto } => {
                schedule.phase = Phase::Updating { number, begun: since(upto), ready: None };
                Some(Order::Update { number, parent, upto })
            }
            // Its trial may not have begun: as many episodes come before it as if the server had not ended.
            Left::Trial { number, upto, done: [0, 0] } => {
                schedule.phase = Phase::Updating { number, begun: since(upto), ready: Some(true) };
                None
            }
            Left::Trial { number, done, .. } => {
                schedule.phase = Phase::Trial { number, sides: done.map(|done| Side { open: 0, done }) };
                schedule.complete()
            }
        };
        (schedule, order)
    }

    /// Whose weights are in use.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// The update that is computed, tried or judged now.
    pub fn pending(&self) -> Option<u64> {
        match self.phase {
            Phase::Collecting => None,
            Phase::Updating { number, .. } | Phase::Trial { number, .. } | Phase::Judging { number } => Some(number),
        }
    }

    /// What is going on, in a word.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            _ if self.halted => "halted",
            Phase::Collecting => "collecting",
            Phase::Updating { .. } => "updating",
            Phase::Trial { .. } => "trial",
            Phase::Judging { .. } => "judging",
        }
    }

    /// The last episode that the update under way learns from, or that the next one would.
    pub fn newest_to_learn_from(&self) -> u64 {
        if matches!(self.phase, Phase::Updating { .. }) { self.learned } else { self.kept }
    }

    /// The number of the next episode that is kept.
    pub fn next_number(&self) -> u64 {
        self.kept + 1
    }

    /// An episode begins; `None` if it has to wait.
    pub fn open(&mut self) -> Option<Ticket> {
        let plain = Ticket { update: self.current, trial: None };
        if self.halted {
            return Some(plain);
        }
        if let Phase::Updating { number, begun, ready } = &mut self.phase {
            if *begun < self.rules.lag() {
                *begun += 1;
                return Some(plain);
            }
            self.phase = match *ready {
                None => return None,
                Some(true) => Phase::Trial { number: *number, sides: Default::default() },
                Some(false) => Phase::Collecting,
            };
        }
        match &mut self.phase {
            Phase::Collecting | Phase::Updating { .. } => Some(plain),
            Phase::Judging { .. } => None,
            Phase::Trial { number, sides: [candidate, current] } => {
                let [ours, theirs] = [&candidate, &current].map(|side| side.open + side.done);
                // Where every place is taken, the episode is no part of the trial.
                if ours.min(theirs) >= self.rules.trial {
                    return Some(plain);
                }
                let (side, update) = if ours <= theirs { (candidate, *number) } else { (current, self.current) };
                side.open += 1;
                Some(Ticket { update, trial: Some(*number) })
            }
        }
    }

    /// An episode has ended; `kept` if it is one to learn from.
    pub fn close(&mut self, ticket: Ticket, kept: bool) -> Option<Order> {
        self.kept += u64::from(kept);
        if let Phase::Trial { number, sides: [candidate, current] } = &mut self.phase
            && ticket.trial == Some(*number)
        {
            let side = if ticket.update == *number { candidate } else { current };
            side.open = side.open.saturating_sub(1);
            side.done += usize::from(kept);
        }
        self.complete().or_else(|| self.begin())
    }

    /// An update was computed, or could not be.
    pub fn updated(&mut self, update: u64, is_there: bool) {
        if let Phase::Updating { number, ready, .. } = &mut self.phase
            && *number == update
        {
            *ready = Some(is_there);
        }
    }

    /// A trial was judged.
    pub fn judged(&mut self, update: u64, accepted: bool) -> Option<Order> {
        if self.phase != (Phase::Judging { number: update }) {
            return None;
        }
        if accepted {
            self.current = update;
        }
        self.phase = Phase::Collecting;
        self.begin()
    }

    /// Goes back to other weights; whatever was under way is given up.
    pub fn roll_back(&mut self, to: u64) {
        self.current = to;
        self.phase = Phase::Collecting;
    }

    /// Nothing is learnt any more.
    pub fn halt(&mut self) {
        self.halted = true;
    }

    /// A trial that has all its episodes is to be judged.
    fn complete(&mut self) -> Option<Order> {
        let Phase::Trial { number, sides } = &self.phase else { return None };
        if self.halted || sides.iter().any(|side| side.done < self.rules.trial) {
            return None;
        }
        let number = *number;
        self.phase = Phase::Judging { number };
        Some(Order::Judge { number })
    }

    /// Enough episodes are in for an update.
    fn begin(&mut self) -> Option<Order> {
        if self.halted || self.phase != Phase::Collecting || self.kept - self.learned < self.rules.batch as u64 {
            return None;
        }
        self.newest += 1;
        self.learned = self.kept;
        self.phase = Phase::Updating { number: self.newest, begun: 0, ready: None };
        Some(Order::Update { number: self.newest, parent: self.current, upto: self.kept })
    }
}

#[cfg(test)]
mod tests {
    use super::{Left, Order, Rules, Schedule, Ticket};

    const RULES: Rules = Rules { batch: 4, trial: 2 };

    fn fresh() -> Schedule {
        Schedule::new(RULES, 0, 0, 0, 0, Left::Nothing).0
    }

    /// An episode from its begin to its end.
    fn episode(schedule: &mut Schedule) -> (Ticket, Option<Order>) {
        let ticket = schedule.open().unwrap();
        (ticket, schedule.close(ticket, true))
    }

    fn episodes(schedule: &mut Schedule, count: std::ops::Range<usize>) {
        for _ in count {
            episode(schedule);
        }
    }

    fn plain(update: u64) -> Ticket {
        Ticket { update, trial: None }
    }

    #[test]
    fn an_update_is_tried_in_turns_and_then_is_current_or_is_not() {
        for accepted in [true, false] {
            let mut schedule = fresh();
            for _ in 0..3 {
                assert_eq!(episode(&mut schedule), (plain(0), None));
            }
            let order = Order::Update { number: 1, parent: 0, upto: 4 };
            assert_eq!(episode(&mut schedule), (plain(0), Some(order)));
            // One more may begin meanwhile, the next has to wait.
            assert_eq!(episode(&mut schedule), (plain(0), None));
            assert_eq!((schedule.open(), schedule.phase()), (None, "updating"));
            schedule.updated(1, true);
            let on_trial = |update| Ticket { update, trial: Some(1) };
            let tickets: Vec<Ticket> = (0..5).map(|_| schedule.open().unwrap()).collect();
            assert_eq!(tickets, [on_trial(1), on_trial(0), on_trial(1), on_trial(0), plain(0)]);
            assert_eq!(schedule.close(tickets[4], true), None);
            // One is cut: another takes its place.
            assert_eq!(schedule.close(tickets[0], false), None);
            assert_eq!(schedule.open(), Some(on_trial(1)));
            assert_eq!(schedule.close(tickets[1], true), None);
            assert_eq!(schedule.close(tickets[2], true), None);
            assert_eq!(schedule.close(tickets[3], true), None);
            assert_eq!(schedule.close(on_trial(1), true), Some(Order::Judge { number: 1 }));
            assert_eq!((schedule.open(), schedule.phase()), (None, "judging"));
            // Six episodes since the last update's last: enough for the next.
            let next = Order::Update { number: 2, parent: u64::from(accepted), upto: 10 };
            assert_eq!(schedule.judged(1, accepted), Some(next));
            assert_eq!(schedule.open(), Some(plain(u64::from(accepted))));
        }
    }

    #[test]
    fn an_update_that_could_not_be_computed_is_not_tried() {
        let mut schedule = fresh();
        episodes(&mut schedule, 0..4);
        schedule.updated(1, false);
        for _ in 0..3 {
            assert_eq!(episode(&mut schedule), (plain(0), None));
        }
        assert_eq!(episode(&mut schedule).1, Some(Order::Update { number: 2, parent: 0, upto: 8 }));
    }

    #[test]
    fn rolling_back_ends_a_trial_and_late_news_of_it_change_nothing() {
        let mut schedule = fresh();
        episodes(&mut schedule, 0..5);
        schedule.updated(1, true);
        let ticket = schedule.open().unwrap();
        assert_eq!(ticket.trial, Some(1));
        schedule.roll_back(0);
        schedule.updated(1, true);
        assert_eq!(schedule.judged(1, true), None);
        assert_eq!((schedule.close(ticket, true), schedule.current(), schedule.open()), (None, 0, Some(plain(0))));
    }

    #[test]
    fn what_was_under_way_goes_on_after_a_restart() {
        let update = Left::Update { number: 3, parent: 1, upto: 9 };
        let order = Some(Order::Update { number: 3, parent: 1, upto: 9 });
        let (mut schedule, left) = Schedule::new(RULES, 1, 3, 9, 9, update);
        assert_eq!((left, schedule.open(), schedule.open()), (order, Some(plain(1)), None));
        // The one that may begin meanwhile had begun and ended before.
        let (mut schedule, left) = Schedule::new(RULES, 1, 3, 10, 9, update);
        assert_eq!((left, schedule.open()), (order, None));
        let trial = |done| Schedule::new(RULES, 1, 3, 10, 9, Left::Trial { number: 3, upto: 9, done });
        let (mut schedule, order) = trial([2, 1]);
        assert_eq!((order, schedule.open()), (None, Some(Ticket { update: 1, trial: Some(3) })));
        assert_eq!(trial([2, 2]).1, Some(Order::Judge { number: 3 }));
        // Computed before its trial was due: the episode that comes before it still does.
        let due = |kept| Schedule::new(RULES, 1, 3, kept, 9, Left::Trial { number: 3, upto: 9, done: [0, 0] }).0;
        let on_trial = Some(Ticket { update: 3, trial: Some(3) });
        let (mut before, mut after) = (due(9), due(10));
        assert_eq!((before.open(), before.open(), after.open()), (Some(plain(1)), on_trial, on_trial));
        // Killed between the last episode and the update that it was enough for.
        let (_, order) = Schedule::new(RULES, 1, 3, 13, 9, Left::Nothing);
        assert_eq!(order, Some(Order::Update { number: 4, parent: 1, upto: 13 }));
    }

    #[test]
    fn a_background_that_gave_up_holds_nobody_up() {
        let mut schedule = fresh();
        episodes(&mut schedule, 0..5);
        assert_eq!(schedule.open(), None);
        schedule.halt();
        (0..20).for_each(|_| assert_eq!(episode(&mut schedule), (plain(0), None)));
        assert_eq!(schedule.phase(), "halted");
    }

    proptest::proptest! {
        /// Whatever comes in whatever order, with however many sessions: an episode on trial has one of the two weights,
        /// all others the current ones, and numbers of updates only grow.
        #[test]
        fn any_order_of_events_keeps_the_rules(events in proptest::collection::vec((0_u8..7, 0_usize..5), 0..400)) {
            let mut schedule = fresh();
            let mut open: Vec<Ticket> = Vec::new();
            let mut orders = Vec::new();
            for (event, which) in events {
                let order = match event {
                    0..=2 => {
                        if let Some(ticket) = schedule.open() {
                            let current = schedule.current();
                            assert!(ticket.update == current || ticket.trial == Some(ticket.update), "{ticket:?}");
                            open.push(ticket);
                        }
                        None
                    }
                    3 | 4 if which < open.len() => {
                        let ticket = open.swap_remove(which);
                        schedule.close(ticket, event == 3)
                    }
                    5 => { schedule.updated(orders.len() as u64, which > 0); None }
                    6 => {
                        let number = schedule.pending().unwrap_or(0);
                        schedule.judged(number, which > 1)
                    }
                    _ => None,
                };
                if let Some(Order::Update { number, parent, .. }) = order {
                    orders.push(number);
                    assert_eq!(number, orders.len() as u64);
                    assert_eq!(parent, schedule.current());
                }
            }
        }
    }
}
