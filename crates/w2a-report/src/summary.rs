//! The parts of a report that follow from the counted episodes alone: the outcome, the chart, the tables.

use crate::eval::{EvalInfo, MethodInfo, Rate, method_label};
use crate::html::{Align, Cell, Table};
use crate::svg::{Emphasis, IntervalChart, IntervalRow, LinePlot};

/// Below this the scenes won and lost differ by more than chance would often do.
const SIGNIFICANT: f64 = 0.05;

/// The outcome in plain words: the headline method against `base`, whether better, worse or not to be told apart.
///
/// It says "better" or "worse" only if the paired test does, and says if the two intervals overlap all the same.
pub fn outcome_sentence(info: &EvalInfo, base: &str) -> String {
    let headline = info.overall.method.as_str();
    let (Some(ours), Some(reference)) = (info.methods.get(headline), info.methods.get(base)) else {
        return "The evaluation has not been run yet.".to_owned();
    };
    let (Some(rate), Some(base_rate)) = (ours.all.pc_success, reference.all.pc_success) else {
        return "No episode could be counted; see the failures below.".to_owned();
    };
    let (label, base_label) = (method_label(headline), sentence_case(method_label(base)));
    let Some(paired) = &ours.paired_vs_base else {
        return format!("The {base_label} solves {rate:.1} % of the held-out scenes.");
    };
    let verb = match (paired.p_value < SIGNIFICANT, paired.scenes[0] > paired.scenes[1]) {
        (true, true) => "solves more",
        (true, false) => "solves fewer",
        (false, _) => {
            return format!(
                "No clear difference: {label} solves {rate:.1} % of the held-out scenes, the {base_label} {base_rate:.1} %."
            );
        }
    };
    let overlap = match (ours.all.ci95, reference.all.ci95) {
        (Some([lo, hi]), Some([base_lo, base_hi])) if lo <= base_hi && base_lo <= hi => {
            " The paired test is clear; the intervals still overlap."
        }
        _ => "",
    };
    format!(
        "{label} {verb} of the held-out scenes than the {base_label}: {rate:.1} % against {base_rate:.1} %.{overlap}"
    )
}

/// `Base policy` inside of a sentence; names that are written with capitals keep them.
fn sentence_case(label: &str) -> String {
    let is_common = label.starts_with("Base") || label.starts_with("Regression");
    let mut characters = label.chars();
    match characters.next() {
        Some(first) if is_common => first.to_lowercase().chain(characters).collect(),
        _ => label.to_owned(),
    }
}

/// Which scenes a chart is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenes {
    /// All.
    All,
    /// Those where the labelled demonstrations lie.
    InSupport,
    /// The others.
    OutOfSupport,
}

impl Scenes {
    fn rate(self, method: &MethodInfo) -> &Rate {
        match self {
            Self::All => &method.all,
            Self::InSupport => &method.in_support,
            Self::OutOfSupport => &method.out_of_support,
        }
    }
}

fn emphasis(info: &EvalInfo, method: &str, base: &str) -> Emphasis {
    match method {
        _ if method == info.overall.method => Emphasis::Headline,
        _ if method == base => Emphasis::Reference,
        // Controls and ceilings: nobody could deploy them, so they do not compete.
        "base_decoded" | "w2a_shuffled" | "w2a_oracle" | "base_wide_labels" => Emphasis::Quiet,
        _ => Emphasis::Normal,
    }
}

fn note(method: &str) -> &'static str {
    match method {
        "base_extra" => "same extra steps, demonstrations only",
        "base_decoded" => "no residual: what decoding alone does",
        "w2a_shuffled" => "control: targets of other scenes",
        "w2a_oracle" => "bound: imagination replaced by real video",
        "w2a_base_wm" => "imagined by a world model without skills",
        "base_wide_labels" => "bound: what the missing labels are worth",
        _ => "",
    }
}

/// Success of every method with its interval, `base` drawn through all rows. `title` may be empty.
pub fn success_chart(info: &EvalInfo, base: &str, scenes: Scenes, title: &str) -> IntervalChart {
    info.ordered_methods().into_iter().fold(IntervalChart::new(title, " %", 0.0, 100.0), |chart, (name, method)| {
        let rate = scenes.rate(method);
        chart.row(IntervalRow {
            label: method_label(name).to_owned(),
            // The notes are said once, in the chart of all scenes.
            note: if scenes == Scenes::All { note(name).to_owned() } else { String::new() },
            value: rate.pc_success,
            interval: rate.ci95,
            emphasis: emphasis(info, name, base),
        })
    })
}

/// Share of all episodes solved within `t` control steps over `t`, a line per method over all its seeds; the lengths of
/// the demonstrations and of the imagination are marked, controls and bounds are dashed.
pub fn time_chart(info: &EvalInfo, base: &str) -> LinePlot {
    let steps = info.control_steps;
    let solved_at = || info.methods.values().flat_map(|method| method.first_successes.keys().copied());
    let last = solved_at().chain([steps.demonstration, steps.imagination]).max().unwrap_or(0);
    // Nothing happens before the first success of all; one step of it is enough.
    let first = solved_at().min().unwrap_or(last).saturating_sub(1);
    let mut plot = LinePlot::new("", "control steps", "solved, %").include_y(0.0, 100.0);
    for (name, method) in info.ordered_methods() {
        let mut solved = 0;
        let points = (first..=last).map(|step| {
            solved += method.first_successes.get(&step).copied().unwrap_or(0);
            (f64::from(step), 100.0 * solved as f64 / method.all.n_episodes as f64)
        });
        plot = plot.series(method_label(name), &points.collect::<Vec<_>>());
        if emphasis(info, name, base) == Emphasis::Quiet {
            plot = plot.dashed();
        }
    }
    let at = |plot: LinePlot, what: &str, steps: u32| plot.mark(f64::from(steps), &format!("{what}: {steps} steps"));
    if steps.demonstration == steps.imagination {
        return at(plot, "demonstrations, imagination", steps.imagination);
    }
    at(at(plot, "imagination", steps.imagination), "demonstrations", steps.demonstration)
}

/// Every method: success on all, in-support and out-of-support scenes and within the imagined steps, won and lost against
/// `base`, counts.
pub fn success_table(info: &EvalInfo, base: &str) -> Table {
    let within = format!("Within {} steps", info.control_steps.imagination);
    let columns = [
        ("Method", Align::Text),
        ("Success %", Align::Number),
        (&within, Align::Number),
        ("In support", Align::Number),
        ("Out of support", Align::Number),
        ("Won / lost", Align::Number),
        ("p", Align::Number),
        ("Over seeds", Align::Number),
        ("Episodes", Align::Number),
    ];
    info.ordered_methods().into_iter().fold(Table::new(&columns), |table, (name, method)| {
        let (pairs, p_value) = match &method.paired_vs_base {
            Some(paired) => (format!("{} / {}", paired.won, paired.lost), p_text(paired.p_value)),
            None => ("–".to_owned(), "–".to_owned()),
        };
        let seeds = match &method.over_seeds {
            Some(spread) if spread.n > 1 => Cell::with_note(
                format!("{:.1} ± {:.1}", spread.mean, spread.std),
                format!("{:.1} to {:.1}", spread.min, spread.max),
            ),
            _ => "–".into(),
        };
        let failures = match method.n_infrastructure_failures {
            0 => format!("{} seed{}", method.seeds.len(), if method.seeds.len() == 1 { "" } else { "s" }),
            failures => format!("{failures} not counted"),
        };
        let cells = [
            Cell::with_note(method_label(name), format!("`{name}`")),
            rate_cell(&method.all),
            percent_cell(method.pc_success_within_imagination, method.ci95_within_imagination),
            rate_cell(&method.in_support),
            rate_cell(&method.out_of_support),
            pairs.into(),
            p_value.into(),
            seeds,
            Cell::with_note(method.all.n_episodes.to_string(), failures),
        ];
        table.row(emphasis(info, name, base), cells)
    })
}

/// Success by task for the given methods, in their order; methods without results are left out.
pub fn task_table(info: &EvalInfo, methods: &[&str]) -> Table {
    let methods = methods.iter().filter_map(|name| Some((*name, info.methods.get(*name)?))).collect::<Vec<_>>();
    let mut columns = vec![("Task", Align::Text)];
    columns.extend(methods.iter().map(|(name, _)| (method_label(name), Align::Number)));
    info.per_task.iter().fold(Table::new(&columns), |table, task| {
        let rates = methods.iter().map(|(_, method)| method.per_task.get(&task.task).map_or("–".into(), rate_cell));
        table.row(Emphasis::Normal, std::iter::once(Cell::from(task.task.as_str())).chain(rates))
    })
}

/// A success rate in percent with its interval below, or a dash.
pub fn rate_cell(rate: &Rate) -> Cell {
    percent_cell(rate.pc_success, rate.ci95)
}

fn percent_cell(value: Option<f64>, interval: Option<[f64; 2]>) -> Cell {
    match (value, interval) {
        (Some(value), Some([lo, hi])) => Cell::with_note(format!("{value:.1}"), format!("{lo:.1}–{hi:.1}")),
        _ => "–".into(),
    }
}

/// A p-value as tables show it.
pub fn p_text(p_value: f64) -> String {
    if p_value < 0.001 { "< 0.001".to_owned() } else { format!("{p_value:.3}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::eval::{ControlSteps, EpisodeResult};

    fn info(base: impl Fn(usize) -> bool, ours: impl Fn(usize) -> bool) -> EvalInfo {
        let result = |method: &str, scene: usize, success| EpisodeResult {
            method: method.into(),
            task: "object/a".into(),
            suite: "object".into(),
            scene: scene.to_string(),
            seed: 0,
            in_support: scene.is_multiple_of(2),
            success,
            steps: if success { 1 + scene as u32 } else { 120 },
            failure: None,
        };
        let results =
            (0..100).flat_map(|scene| [result("base", scene, base(scene)), result("w2a", scene, ours(scene))]);
        let steps = ControlSteps { demonstration: 100, imagination: 60 };
        EvalInfo::build(&results.collect::<Vec<_>>(), "w2a", "base", 1.0, &BTreeMap::new(), steps).unwrap()
    }

    #[test]
    fn the_outcome_is_what_was_measured() {
        let sentence = |base: usize, ours: usize| outcome_sentence(&info(|s| s < base, |s| s < ours), "base");
        assert_eq!(
            sentence(40, 80),
            "World2Act solves more of the held-out scenes than the base policy: 80.0 % against 40.0 %."
        );
        assert!(sentence(80, 40).contains("solves fewer"));
        assert!(sentence(50, 53).starts_with("No clear difference"));
        assert!(sentence(50, 58).ends_with("overlap."));
        let same = info(|_| true, |_| true);
        assert!(outcome_sentence(&same, "base").starts_with("No clear difference"));
        assert!(outcome_sentence(&same, "absent").contains("not been run"));
    }

    #[test]
    fn curves_over_time_end_at_the_success_rate_and_both_lengths_are_marked() {
        let mut info = info(|scene| scene < 40, |scene| scene < 80);
        let html = time_chart(&info, "base").render();
        let html = html.as_str();
        let last = |index: usize| html.split("points=\"").nth(index + 1).unwrap().split('"').next().unwrap();
        let end = |index: usize| last(index).rsplit(' ').next().unwrap();
        // Scene `n` is solved at step `n + 1`; the axis ends with the demonstrations, at step 100.
        assert_eq!((end(0), end(1)), ("1000,600", "1000,200"));
        assert!(last(1).starts_with("0,1000 "), "{}", last(1));
        assert!(html.contains("imagination: 60 steps") && html.contains("demonstrations: 100 steps"));
        info.control_steps.imagination = 100;
        assert_eq!(time_chart(&info, "base").render().as_str().matches("class=\"mark\"").count(), 1);
        info.methods.clear();
        assert!(time_chart(&info, "base").render().as_str().contains("No data"));
    }

    #[test]
    fn the_tables_have_every_method_and_task() {
        use crate::html::Report;
        let info = info(|scene| scene < 40, |scene| scene < 80);
        let page = Report::new("", "")
            .table(&success_table(&info, "base"), "")
            .table(&task_table(&info, &["base", "dreamgen", "w2a"]), "")
            .render();
        assert!(page.contains("<tr class=\"headline\"><td>World2Act") && page.contains("40 / 0"));
        assert!(page.contains(">Within 60 steps</th>") && page.contains("60.0<small>"));
        assert!(page.contains("&lt; 0.001") && page.contains("object/a") && !page.contains("DreamGen"));
    }
}
