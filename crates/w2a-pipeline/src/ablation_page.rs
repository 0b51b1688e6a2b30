//! The ablation for people: a page in the style of the report, and the lines printed at the end.

use std::path::PathBuf;

use w2a_report::svg::{Emphasis, IntervalChart, IntervalRow};
use w2a_report::{Align, Cell, EvalInfo, Report, Table, human_duration, outcome_sentence, p_text, rate_cell};

use crate::PipelineError;
use crate::ablation::{BASE, HEADLINE, Line, TABLE};
use crate::context::{Context, load_json};

/// The page, in the run's folder.
const PAGE: &str = "ablation.html";

/// Writes the page.
pub(crate) fn write(context: &Context, table: &[Line], info: &EvalInfo) -> Result<PathBuf, PipelineError> {
    let manifest = &context.manifest;
    let git = manifest.git.as_ref().map_or("unknown".into(), |git| format!("`{}`", git.short()));
    let report = Report::new("The paper's ablation on the embedded benchmark", &outcome_sentence(info, BASE))
        .kicker("Objective, similarity, and what stage 2 trains: one row each, everything else equal.")
        .hero(
            &chart(table).render(),
            "Dot: share of held-out episodes solved. Bar: 95 % interval. Dashed line and band: the frozen base policy.",
        )
        .section("Table")
        .table(
            &numbers(table),
            "Small numbers are 95 % Wilson intervals that count repeated scenes and seeds once. Won / lost: episodes solved \
             that the base policy failed, and the other way round. Scale: chosen without labels, one for each seed; 0 is the \
             base policy itself. Stage 2: wall-clock time of rollouts and updates, mean of the seeds. Paper: RoboCasa, 24 \
             tasks, another policy and another world model: only the order can be compared.",
        )
        .section("What the rows are")
        .prose(
            "**Bidirectional, one-directional, marginal, global**: InfoNCE in that form, in stage 1 and in stage 2. Stage 1 \
             has no other contrast, and otherwise the run's settings. **Regression**: the residual is pulled to the actions \
             that an inverse dynamics model reads off the imagined video. **Correction of actions**: the form of the paper's \
             first version, whose decoder is trained with the residual. **LoRA**: low-rank changes of all linear layers of \
             the policy instead of a residual. **Cosine**: the objective of this project, on the run's own stage 1.\n\n\
             The scale of a bent vector is chosen among `posttrain.gains`; that of corrected actions and of LoRA, whose whole \
             is 1, among `posttrain.gains` and `posttrain.shares`.",
        )
        .section("How to repeat it")
        .facts(&[
            ("Version", manifest.version.clone()),
            ("Commit", git),
            ("Command", format!("`{}`", manifest.command.join(" "))),
            ("Seed", manifest.seed.to_string()),
            ("Threads", manifest.threads.to_string()),
            ("Machine", manifest.machine.describe()),
        ])
        .folded("Configuration", &toml::to_string(&context.config).unwrap_or_default());
    let path = context.path(PAGE);
    report.save(&path)?;
    Ok(path)
}

fn emphasis(line: &Line) -> Emphasis {
    match line.name.as_str() {
        HEADLINE => Emphasis::Headline,
        BASE => Emphasis::Reference,
        _ => Emphasis::Normal,
    }
}

fn chart(table: &[Line]) -> IntervalChart {
    table.iter().fold(IntervalChart::new("Success on held-out scenes", " %", 0.0, 100.0), |chart, line| {
        chart.row(IntervalRow {
            label: line.label.clone(),
            note: String::new(),
            value: line.result.all.pc_success,
            interval: line.result.all.ci95,
            emphasis: emphasis(line),
        })
    })
}

fn numbers(table: &[Line]) -> Table {
    let columns = [
        ("Row", Align::Text),
        ("Success %", Align::Number),
        ("In support", Align::Number),
        ("Out of support", Align::Number),
        ("Won / lost", Align::Number),
        ("p", Align::Number),
        ("Scale", Align::Number),
        ("Stage 2", Align::Number),
        ("Trainable", Align::Number),
        ("Paper", Align::Number),
    ];
    table.iter().fold(Table::new(&columns), |rows, line| {
        let paired = line.result.paired_vs_base.as_ref();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
        let cells = [
            Cell::with_note(line.label.as_str(), format!("`{}`", line.name)),
            rate_cell(&line.result.all),
            rate_cell(&line.result.in_support),
            rate_cell(&line.result.out_of_support),
            or_dash(paired.map(|paired| format!("{} / {}", paired.won, paired.lost))).into(),
            or_dash(paired.map(|paired| p_text(paired.p_value))).into(),
            or_dash(scales(line)).into(),
            or_dash(mean_seconds(line).map(human_duration)).into(),
            or_dash((line.trainable_parameters > 0).then(|| line.trainable_parameters.to_string())).into(),
            or_dash(line.paper_pc_success.map(|paper| format!("{paper:.1}"))).into(),
        ];
        rows.row(emphasis(line), cells)
    })
}

/// The chosen scale of each seed.
fn scales(line: &Line) -> Option<String> {
    let scales: Vec<String> = line.scales.iter().map(|choice| choice.gain.to_string()).collect();
    (!scales.is_empty()).then(|| scales.join(", "))
}

/// Mean over the seeds; `None` unless all were timed.
fn mean_seconds(line: &Line) -> Option<f64> {
    let seconds: Vec<f64> = line.stage2_s.iter().copied().collect::<Option<_>>()?;
    (!seconds.is_empty()).then(|| seconds.iter().sum::<f64>() / seconds.len() as f64)
}

/// The lines printed at the end.
pub(crate) fn summary(context: &Context) -> Result<String, PipelineError> {
    let table: Vec<Line> = load_json(&context.path(TABLE), "ablation")?;
    let mut out = format!(
        "{:<22} {:>8}  {:<15} {:>8}  {:<12} {:>8}  {}\n",
        "row", "success", "95 %", "won/lost", "scale", "stage 2", "trainable"
    );
    for line in &table {
        let result = &line.result;
        let success = result.all.pc_success.map_or("–".into(), |value| format!("{value:.1}"));
        let interval = result.all.ci95.map_or(String::new(), |[low, high]| format!("[{low:.1}, {high:.1}]"));
        let paired = result.paired_vs_base.as_ref();
        let paired = paired.map_or(String::new(), |paired| format!("{}/{}", paired.won, paired.lost));
        let (scale, time) =
            (scales(line).unwrap_or_default(), mean_seconds(line).map(human_duration).unwrap_or_default());
        out += &format!(
            "{:<22} {success:>8}  {interval:<15} {paired:>8}  {scale:<12} {time:>8}  {}\n",
            line.name, line.trainable_parameters
        );
    }
    Ok(out)
}
