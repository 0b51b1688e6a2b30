//! Plots as inline SVG, written by hand.
//!
//! Text keeps its size and only the plotting area stretches with the page: positions are percentages of the `svg`,
//! curves live in a nested, stretched view box with strokes that do not scale. Colours come from the page's style
//! sheet, so the same plot is right on light and dark paper. The output depends on the data only.

mod lines;
mod rows;
mod scatter;

pub use lines::LinePlot;
pub use rows::{BarChart, Emphasis, IntervalChart, IntervalRow};
pub use scatter::ScatterPlot;

use crate::markup::{Html, escape};

/// Number of series colours in the style sheet; more series reuse them.
const COLOURS: usize = 10;

/// A number axis: its range, whether it is logarithmic, and where its labels are.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    lo: f64,
    hi: f64,
    is_log: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis over the finite `values` (positive ones if logarithmic); `None` if there is none.
    fn over(values: impl Iterator<Item = f64>, is_log: bool, target_ticks: usize) -> Option<Self> {
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite() && (!is_log || *value > 0.0)) {
            lo = lo.min(value);
            hi = hi.max(value);
        }
        (lo <= hi).then(|| if is_log { Self::log(lo, hi) } else { Self::linear(lo, hi, target_ticks) })
    }

    /// A linear axis whose ends are widened to whole ticks.
    fn linear(mut lo: f64, mut hi: f64, target_ticks: usize) -> Self {
        // Halved, so that a range of the whole number line does not overflow.
        if hi / 2.0 - lo / 2.0 <= 1e-12 * lo.abs().max(hi.abs()) {
            let pad = if lo == 0.0 { 1.0 } else { lo.abs() * 0.1 };
            (lo, hi) = (lo - pad, hi + pad);
        }
        let (lo, hi) = (lo.max(-1e300), hi.min(1e300));
        let step = nice_step((hi - lo) / target_ticks.max(1) as f64);
        let (first, last) = ((lo / step + 1e-9).floor() as i64, (hi / step - 1e-9).ceil() as i64);
        let ticks = (first..=last).map(|tick| (tick as f64 * step, tick_label(tick as f64 * step, step))).collect();
        Self { lo: first as f64 * step, hi: last as f64 * step, is_log: false, ticks }
    }

    /// A logarithmic axis from a power of ten to a power of ten, or by 1-2-5 if it covers little.
    fn log(lo: f64, hi: f64) -> Self {
        let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
        let stride = ((last - first) / 6 + 1).max(1);
        let mantissas: &[f64] = if hi / lo <= 50.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let mut ticks = Vec::new();
        for exponent in (first..=last).step_by(stride as usize) {
            ticks.extend(mantissas.iter().map(|mantissa| mantissa * 10_f64.powi(exponent)));
        }
        let below = ticks.iter().rposition(|tick| *tick <= lo * 1.000_001).unwrap_or(0);
        let above = ticks.iter().position(|tick| *tick >= hi * 0.999_999).unwrap_or(ticks.len() - 1);
        let mut ticks = ticks[below..=above.max(below)].to_vec();
        if ticks.len() < 2 {
            ticks = vec![ticks[0] / 2.0, ticks[0], ticks[0] * 2.0];
        }
        Self {
            lo: ticks[0].min(lo),
            hi: ticks[ticks.len() - 1].max(hi),
            is_log: true,
            ticks: ticks.iter().map(|&tick| (tick, tick_label(tick, tick))).collect(),
        }
    }

    /// Position of `value` in `[0, 1]` along the axis; `None` if it cannot be drawn.
    fn at(&self, value: f64) -> Option<f64> {
        let map = |value: f64| if self.is_log { value.log10() } else { value };
        let (lo, hi) = (map(self.lo), map(self.hi));
        let position = (map(value) - lo) / (hi - lo);
        position.is_finite().then_some(position.clamp(-1.0, 2.0))
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `raw`.
fn nice_step(raw: f64) -> f64 {
    let power = 10_f64.powi(raw.log10().floor() as i32);
    let nice = [1.0, 2.0, 5.0, 10.0].into_iter().find(|nice| nice * power >= raw * 0.999_999).unwrap_or(10.0);
    nice * power
}

fn tick_label(value: f64, step: f64) -> String {
    let magnitude = value.abs();
    let text = if magnitude < step.abs() * 1e-6 {
        "0".to_owned()
    } else if magnitude >= 1e6 || step.abs() < 1e-4 {
        let exponent = magnitude.log10().floor();
        let mantissa = magnitude / 10_f64.powf(exponent);
        format!("{}e{exponent}", (mantissa * 100.0).round() / 100.0)
    } else if magnitude >= 10_000.0 {
        format!("{}k", (magnitude / 100.0).round() / 10.0)
    } else {
        let decimals = (-(step.abs().log10() + 1e-9).floor()).max(0.0) as usize;
        format!("{magnitude:.decimals$}")
    };
    if value < 0.0 && text != "0" { format!("−{text}") } else { text }
}

/// A position in percent, short.
fn pc(position: f64) -> String {
    format!("{}%", (position * 1e4).round() / 1e2)
}

/// Draws grid lines and tick labels of both axes into the plotting area.
fn frame(html: &mut Html, x: &Axis, y: &Axis) {
    for (value, label) in &y.ticks {
        let Some(at) = y.at(*value).map(|at| pc(1.0 - at)) else { continue };
        html.push(format_args!("<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{at}\" y2=\"{at}\"/>"));
        html.push(format_args!("<text class=\"tick end\" x=\"0\" dx=\"-8\" y=\"{at}\" dy=\".34em\">{label}</text>"));
    }
    for (value, label) in &x.ticks {
        let Some(at) = x.at(*value).map(pc) else { continue };
        html.push(format_args!("<text class=\"tick mid\" x=\"{at}\" y=\"100%\" dy=\"20\">{label}</text>"));
    }
}

/// Title, legend and the two axis names around a drawn plotting area of `height` pixels.
fn chart(title: &str, labels: (&str, &str), legend: &[(usize, &str)], height: usize, area: &Html) -> Html {
    let (title, x_label, y_label) = (escape(title), escape(labels.0), escape(labels.1));
    let mut html = Html::new();
    html.push(format_args!("<div class=\"chart\">"));
    if !title.is_empty() {
        html.push(format_args!("<p class=\"chart-title\">{title}</p>"));
    }
    if legend.len() > 1 {
        html.push(format_args!("<ul class=\"legend\">"));
        for (colour, name) in legend {
            html.push(format_args!("<li class=\"s{}\">{}</li>", colour % COLOURS, escape(name)));
        }
        html.push(format_args!("</ul>"));
    }
    html.push(format_args!(
        "<p class=\"axis-name\">{y_label}</p><div class=\"plot\" style=\"height:{height}px\">\
         <svg role=\"img\" aria-label=\"{title}: {y_label} over {x_label}\" width=\"100%\" height=\"100%\">{}</svg></div>\
         <p class=\"axis-name right\">{x_label}</p></div>",
        area.as_str()
    ));
    html
}

/// What stands where a plot has no data.
fn empty(title: &str) -> Html {
    let mut html = Html::new();
    let title = escape(title);
    html.push(format_args!(
        "<div class=\"chart\"><p class=\"chart-title\">{title}</p><p class=\"no-data\">No data yet.</p></div>"
    ));
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(labels(&Axis::linear(0.03, 0.97, 5)), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&Axis::linear(-3.0, 41.0, 5)), ["−10", "0", "10", "20", "30", "40", "50"]);
        assert_eq!(labels(&Axis::linear(0.0, 20_000.0, 4)), ["0", "5000", "10k", "15k", "20k"]);
    }

    #[test]
    fn log_ticks_are_powers_or_1_2_5() {
        assert_eq!(labels(&Axis::log(0.003, 40.0)), ["0.001", "0.01", "0.1", "1", "10", "100"]);
        assert_eq!(labels(&Axis::log(0.3, 3.0)), ["0.2", "0.5", "1", "2", "5"]);
    }

    #[test]
    fn hostile_ranges_do_not_break_an_axis() {
        for (lo, hi) in [(0.0, 0.0), (5.0, 5.0), (-1e-300, 1e-300), (f64::MIN, f64::MAX), (1e17, 1e17 + 32.0)] {
            let axis = Axis::over([lo, hi].into_iter(), false, 5).unwrap();
            assert!(axis.ticks.len() < 20 && axis.at(lo).is_some(), "{lo} {hi} {axis:?}");
        }
        for (lo, hi) in [(1.0, 1.0), (1e-300, 1e300), (3.0, 3.1), (f64::MIN_POSITIVE, 1e-5)] {
            let axis = Axis::over([lo, hi].into_iter(), true, 5).unwrap();
            assert!((2..20).contains(&axis.ticks.len()) && axis.at(hi).is_some(), "{lo} {hi} {axis:?}");
        }
        assert_eq!(Axis::over([f64::NAN, f64::INFINITY].into_iter(), false, 5), None);
        assert_eq!(Axis::over([-1.0, 0.0].into_iter(), true, 5), None);
    }
}
