//! Charts of one row per name: values with intervals, and bars.
//!
//! Each row is a small SVG in a grid, so that names wrap and stack on a narrow page as text does.

use super::{Axis, empty, pc};
use crate::markup::{Html, escape};

/// How a row asks to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emphasis {
    /// The row the page is about.
    Headline,
    /// What it is compared with.
    Reference,
    /// A row among others.
    #[default]
    Normal,
    /// A control or an upper bound, not a competitor.
    Quiet,
}

impl Emphasis {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Headline => "headline",
            Self::Reference => "reference",
            Self::Normal => "normal",
            Self::Quiet => "quiet",
        }
    }
}

/// One value with its interval, in the unit of the axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IntervalRow {
    /// Name.
    pub label: String,
    /// A few words below the name; may be empty.
    pub note: String,
    /// The value; `None` is shown as a dash.
    pub value: Option<f64>,
    /// `[lo, hi]`.
    pub interval: Option<[f64; 2]>,
    /// How it asks to be looked at.
    pub emphasis: Emphasis,
}

/// Values with intervals on a fixed axis. The first [`Emphasis::Reference`] row is drawn through all rows.
#[derive(Clone, Debug)]
pub struct IntervalChart {
    title: String,
    unit: String,
    range: (f64, f64),
    rows: Vec<IntervalRow>,
}

impl IntervalChart {
    /// An empty chart from `lo` to `hi`; `unit` follows the axis labels, such as `%`.
    pub fn new(title: &str, unit: &str, lo: f64, hi: f64) -> Self {
        Self { title: title.to_owned(), unit: unit.to_owned(), range: (lo, hi), rows: Vec::new() }
    }

    /// Adds a row below the others.
    pub fn row(mut self, row: IntervalRow) -> Self {
        self.rows.push(row);
        self
    }

    /// Draws it.
    pub fn render(&self) -> Html {
        let axis = Axis::over([self.range.0, self.range.1].into_iter(), false, 5);
        let (false, Some(axis)) = (self.rows.is_empty(), axis) else { return empty(&self.title) };
        let mut ground = Html::new();
        for (tick, _) in &axis.ticks {
            if let Some(at) = axis.at(*tick).map(pc) {
                ground.push(format_args!("<line class=\"grid\" x1=\"{at}\" x2=\"{at}\" y1=\"0\" y2=\"100%\"/>"));
            }
        }
        let reference = self.rows.iter().find(|row| row.emphasis == Emphasis::Reference);
        if let Some([lo, hi]) = reference.and_then(|row| span(&axis, row.interval)) {
            let (x, width) = (pc(lo), pc(hi - lo));
            ground.push(format_args!("<rect class=\"ref-band\" x=\"{x}\" width=\"{width}\" height=\"100%\"/>"));
        }
        if let Some(at) = reference.and_then(|row| axis.at(row.value?)).map(pc) {
            ground.push(format_args!("<line class=\"ref-line\" x1=\"{at}\" x2=\"{at}\" y1=\"0\" y2=\"100%\"/>"));
        }
        let mut html = open("rows", &self.title);
        for row in &self.rows {
            let mut marks = ground.clone();
            if let Some([lo, hi]) = span(&axis, row.interval) {
                marks.push(format_args!(
                    "<line class=\"whisker\" x1=\"{}\" x2=\"{}\" y1=\"50%\" y2=\"50%\"/>",
                    pc(lo),
                    pc(hi)
                ));
            }
            if let Some(at) = row.value.and_then(|value| axis.at(value)).map(pc) {
                marks.push(format_args!("<circle class=\"value\" cx=\"{at}\" cy=\"50%\" r=\"5\"/>"));
            }
            let value =
                row.value.filter(|value| value.is_finite()).map_or("–".to_owned(), |value| format!("{value:.1}"));
            let interval = row.interval.map_or(String::new(), |[lo, hi]| format!("{lo:.1}–{hi:.1}"));
            push_row(&mut html, row.emphasis, &row.label, &row.note, &marks, (&value, &interval));
        }
        close(&mut html, &axis, &self.unit);
        html
    }
}

/// Plain bars from zero, such as seconds per stage.
#[derive(Clone, Debug)]
pub struct BarChart {
    title: String,
    rows: Vec<(String, f64, String)>,
}

impl BarChart {
    /// An empty chart.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new() }
    }

    /// Adds a bar of length `value`, written as `text`. Negative and not finite values have no bar.
    pub fn bar(mut self, label: &str, value: f64, text: &str) -> Self {
        self.rows.push((label.to_owned(), value, text.to_owned()));
        self
    }

    /// Draws it.
    pub fn render(&self) -> Html {
        let longest = self.rows.iter().map(|row| row.1).filter(|value| value.is_finite()).fold(0.0, f64::max);
        if self.rows.is_empty() {
            return empty(&self.title);
        }
        let mut html = open("rows bars", &self.title);
        for (label, value, text) in &self.rows {
            let mut marks = Html::new();
            let length = value / longest;
            if length.is_finite() && length > 0.0 {
                let width = pc(length);
                marks.push(format_args!("<rect class=\"bar\" y=\"30%\" width=\"{width}\" height=\"40%\" rx=\"2\"/>"));
            }
            push_row(&mut html, Emphasis::Normal, label, "", &marks, (text, ""));
        }
        html.push(format_args!("</div>"));
        html
    }
}

fn span(axis: &Axis, interval: Option<[f64; 2]>) -> Option<[f64; 2]> {
    let [lo, hi] = interval?;
    let (lo, hi) = (axis.at(lo)?.clamp(0.0, 1.0), axis.at(hi)?.clamp(0.0, 1.0));
    (lo <= hi).then_some([lo, hi])
}

fn open(class: &str, title: &str) -> Html {
    let mut html = Html::new();
    html.push(format_args!("<div class=\"chart {class}\">"));
    if !title.is_empty() {
        html.push(format_args!("<p class=\"chart-title\">{}</p>", escape(title)));
    }
    html
}

fn push_row(html: &mut Html, emphasis: Emphasis, label: &str, note: &str, marks: &Html, text: (&str, &str)) {
    let (class, label, marks) = (emphasis.class(), escape(label), marks.as_str());
    let note = if note.is_empty() { String::new() } else { format!("<small>{}</small>", escape(note)) };
    let (value, interval) = (escape(text.0), escape(text.1));
    let interval = if interval.is_empty() { interval } else { format!("<small>{interval}</small>") };
    html.push(format_args!(
        "<div class=\"row {class}\"><span class=\"row-label\">{label}{note}</span>\
         <div class=\"row-plot\"><svg aria-hidden=\"true\" width=\"100%\" height=\"100%\">{marks}</svg></div>\
         <span class=\"row-value\">{value}{interval}</span></div>"
    ));
}

fn close(html: &mut Html, axis: &Axis, unit: &str) {
    html.push(format_args!(
        "<div class=\"row axis\"><span></span><div class=\"row-plot\"><svg aria-hidden=\"true\" width=\"100%\" height=\"100%\">"
    ));
    for (index, (tick, label)) in axis.ticks.iter().enumerate() {
        let Some(at) = axis.at(*tick).map(pc) else { continue };
        let unit = if index + 1 == axis.ticks.len() { escape(unit) } else { String::new() };
        html.push(format_args!("<text class=\"tick mid\" x=\"{at}\" y=\"16\">{label}{unit}</text>"));
    }
    html.push(format_args!("</svg></div><span></span></div></div>"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, value: Option<f64>, emphasis: Emphasis) -> IntervalRow {
        let interval = value.map(|value| [value - 5.0, value + 5.0]);
        IntervalRow { label: label.into(), value, interval, emphasis, ..IntervalRow::default() }
    }

    #[test]
    fn the_reference_is_drawn_through_every_row() {
        let html = IntervalChart::new("t", " %", 0.0, 100.0)
            .row(row("base", Some(45.0), Emphasis::Reference))
            .row(row("<ours>", Some(55.0), Emphasis::Headline))
            .row(row("lost", None, Emphasis::Quiet))
            .render();
        let html = html.as_str();
        assert_eq!(html.matches("class=\"ref-line\" x1=\"45%\"").count(), 3);
        assert_eq!(html.matches("<circle").count(), 2);
        assert!(
            html.contains("55.0<small>50.0–60.0</small>")
                && html.contains("&lt;ours&gt;")
                && html.contains(">–</span>")
        );
    }

    #[test]
    fn values_that_are_not_finite_do_no_harm() {
        let html = IntervalChart::new("t", "", 0.0, 1.0)
            .row(IntervalRow { value: Some(f64::NAN), interval: Some([f64::NAN, 2.0]), ..IntervalRow::default() })
            .render();
        assert!(!html.as_str().contains("<circle") && !html.as_str().contains("whisker"));
        let html = BarChart::new("t").bar("a", f64::NAN, "?").bar("b", -1.0, "?").bar("c", 2.0, "2 s").render();
        assert_eq!(html.as_str().matches("<rect").count(), 1);
        assert!(IntervalChart::new("t", "", 0.0, 1.0).render().as_str().contains("No data"));
        assert!(BarChart::new("t").render().as_str().contains("No data"));
    }
}
