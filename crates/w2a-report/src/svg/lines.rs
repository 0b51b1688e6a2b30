//! Curves, such as a loss over steps.

use super::{Axis, COLOURS, chart, empty, frame, pc};
use crate::markup::{Html, escape};

/// Points of a drawn curve at most; more could not be told apart and would make the page heavy.
const MAX_POINTS: usize = 600;

#[derive(Clone, Debug)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    band: Vec<(f64, f64, f64)>,
    is_dashed: bool,
}

/// A plot of one or more curves over a common x axis.
#[derive(Clone, Debug)]
pub struct LinePlot {
    title: String,
    labels: (String, String),
    series: Vec<Series>,
    is_log_y: bool,
    y_range: Option<(f64, f64)>,
    marks: Vec<(f64, String)>,
}

impl LinePlot {
    /// An empty plot; `labels` name the x and the y axis.
    pub fn new(title: &str, x_label: &str, y_label: &str) -> Self {
        Self {
            title: title.to_owned(),
            labels: (x_label.to_owned(), y_label.to_owned()),
            series: Vec::new(),
            is_log_y: false,
            y_range: None,
            marks: Vec::new(),
        }
    }

    /// Adds a curve of `(x, y)`, in the order they are joined. A value that is not finite leaves a hole.
    pub fn series(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.series.push(Series { name: name.to_owned(), points: points.to_vec(), band: Vec::new(), is_dashed: false });
        self
    }

    /// Dashes the latest curve.
    pub fn dashed(mut self) -> Self {
        if let Some(series) = self.series.last_mut() {
            series.is_dashed = true;
        }
        self
    }

    /// Draws a vertical line at `x` with a short text; the x axis is widened to show it.
    pub fn mark(mut self, x: f64, label: &str) -> Self {
        self.marks.push((x, label.to_owned()));
        self
    }

    /// Gives the latest curve a band of `(x, low, high)`.
    pub fn band(mut self, band: &[(f64, f64, f64)]) -> Self {
        if let Some(series) = self.series.last_mut() {
            series.band = band.to_vec();
        }
        self
    }

    /// Makes the y axis logarithmic; values of 0 and below leave a hole.
    pub fn log_y(mut self) -> Self {
        self.is_log_y = true;
        self
    }

    /// Makes the y axis cover at least `lo` to `hi`.
    pub fn include_y(mut self, lo: f64, hi: f64) -> Self {
        self.y_range = Some((lo, hi));
        self
    }

    /// Draws it.
    pub fn render(&self) -> Html {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let bands = || self.series.iter().flat_map(|series| &series.band);
        let marks = || self.marks.iter().map(|mark| mark.0);
        let xs = points().map(|point| point.0).chain(bands().map(|band| band.0)).chain(marks());
        let ys = points().map(|point| point.1).chain(bands().flat_map(|band| [band.1, band.2]));
        let has_point = points().any(|(x, y)| x.is_finite() && y.is_finite());
        let ys = ys.chain(self.y_range.into_iter().flat_map(|(lo, hi)| [lo, hi]));
        let (true, Some(x), Some(y)) = (has_point, Axis::over(xs, false, 5), Axis::over(ys, self.is_log_y, 5)) else {
            return empty(&self.title);
        };
        // The x axis ends with the data: a curve that stops short of the frame looks unfinished.
        let x = trimmed(x, points().map(|point| point.0).chain(marks()));
        let mut area = Html::new();
        frame(&mut area, &x, &y);
        for (value, label) in &self.marks {
            draw_mark(&mut area, &x, *value, label);
        }
        area.push(format_args!(
            "<svg class=\"curves\" viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" width=\"100%\" height=\"100%\">"
        ));
        let mut dots = Html::new();
        for (index, series) in self.series.iter().enumerate() {
            let colour = index % COLOURS;
            draw_band(&mut area, series, colour, &x, &y);
            for run in runs(&series.points, &x, &y) {
                if let [(x, y)] = run[..] {
                    dots.push(format_args!(
                        "<circle class=\"dot s{colour}\" cx=\"{}\" cy=\"{}\" r=\"3\"/>",
                        pc(x),
                        pc(1.0 - y)
                    ));
                    continue;
                }
                let path = run.iter().map(|point| corner(*point)).collect::<Vec<_>>().join(" ");
                let dashed = if series.is_dashed { " dashed" } else { "" };
                area.push(format_args!("<polyline class=\"curve s{colour}{dashed}\" points=\"{path}\">"));
                area.push(format_args!("<title>{}</title></polyline>", escape(&series.name)));
            }
        }
        area.push(format_args!("</svg>"));
        area.append(&dots);
        let legend = self.series.iter().enumerate().map(|(index, series)| (index, series.name.as_str()));
        let labels = (self.labels.0.as_str(), self.labels.1.as_str());
        chart(&self.title, labels, &legend.collect::<Vec<_>>(), 220, &area)
    }
}

fn trimmed(axis: Axis, values: impl Iterator<Item = f64> + Clone) -> Axis {
    let finite = values.filter(|value| value.is_finite());
    let lo = finite.clone().fold(f64::INFINITY, f64::min);
    let hi = finite.fold(f64::NEG_INFINITY, f64::max);
    if lo >= hi {
        return axis;
    }
    let ticks = axis.ticks.into_iter().filter(|(tick, _)| (lo..=hi).contains(tick)).collect();
    Axis { lo, hi, ticks, ..axis }
}

fn corner((x, y): (f64, f64)) -> String {
    let round = |value: f64| (value * 1e4).round() / 10.0;
    format!("{},{}", round(x), round(1.0 - y))
}

fn draw_mark(area: &mut Html, axis: &Axis, value: f64, label: &str) {
    let Some(position) = axis.at(value) else { return };
    let at = pc(position);
    area.push(format_args!("<line class=\"mark\" x1=\"{at}\" x2=\"{at}\" y1=\"0\" y2=\"100%\"/>"));
    // At the top before the line: what is drawn over time mostly rises, so that corner is empty if there is room.
    let (class, dx) = if position > 0.35 { ("end", -6) } else { ("start", 6) };
    let label = escape(label);
    area.push(format_args!(
        "<text class=\"point-label {class}\" x=\"{at}\" dx=\"{dx}\" y=\"0\" dy=\"14\">{label}</text>"
    ));
}

fn draw_band(area: &mut Html, series: &Series, colour: usize, x: &Axis, y: &Axis) {
    let edge = |value: fn(&(f64, f64, f64)) -> f64| {
        series.band.iter().filter_map(move |band| Some((x.at(band.0)?, y.at(value(band))?))).map(corner)
    };
    // A band with a hole would need pieces; points that cannot be drawn on either edge are simply left out of it.
    let (low, high) = (edge(|band| band.1), edge(|band| band.2));
    let path = low.chain(high.collect::<Vec<_>>().into_iter().rev()).collect::<Vec<_>>().join(" ");
    if !path.is_empty() {
        area.push(format_args!("<polygon class=\"band s{colour}\" points=\"{path}\"/>"));
    }
}

/// The stretches of a curve that can be drawn, as axis positions, thinned to at most [`MAX_POINTS`] in total.
fn runs(points: &[(f64, f64)], x: &Axis, y: &Axis) -> Vec<Vec<(f64, f64)>> {
    let mut runs = vec![Vec::new()];
    for (px, py) in points {
        let is_drawable = px.is_finite() && py.is_finite();
        match (x.at(*px), y.at(*py)) {
            (Some(px), Some(py)) if is_drawable => {
                if let Some(run) = runs.last_mut() {
                    run.push((px, py));
                }
            }
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs.iter().map(|run| thinned(run, MAX_POINTS * run.len() / points.len().max(1))).collect()
}

/// Keeps the lowest and the highest point of each bucket, so that no spike is hidden.
fn thinned(run: &[(f64, f64)], target: usize) -> Vec<(f64, f64)> {
    let target = target.max(8);
    if run.len() <= target {
        return run.to_vec();
    }
    let mut kept = Vec::new();
    for bucket in run.chunks(run.len().div_ceil(target / 2)) {
        let order = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (bucket.iter().min_by(order), bucket.iter().max_by(order));
        let mut ends = [low, high].into_iter().flatten().copied().collect::<Vec<_>>();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        kept.extend(ends);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_splits_a_curve() {
        let points =
            [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, 2.0), (5.0, f64::INFINITY), (6.0, 1.5)];
        let html = LinePlot::new("t", "x", "y").series("a", &points).render();
        assert_eq!(html.as_str().matches("<polyline").count(), 2);
        assert_eq!(html.as_str().matches("<circle").count(), 1);
        assert!(!html.as_str().contains("NaN") && !html.as_str().contains("inf"));
    }

    #[test]
    fn nothing_to_draw_says_so() {
        for points in [&[][..], &[(0.0, f64::NAN)]] {
            assert!(LinePlot::new("t", "x", "y").series("a", points).render().as_str().contains("No data"));
        }
        let html = LinePlot::new("t", "x", "y").log_y().series("a", &[(0.0, -1.0)]).render();
        assert!(html.as_str().contains("No data"));
        assert!(LinePlot::new("t", "x", "y").include_y(0.0, 1.0).render().as_str().contains("No data"));
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_spike() {
        let points = (0..50_000).map(|x| (f64::from(x), if x == 31_234 { 9.0 } else { 1.0 })).collect::<Vec<_>>();
        let (x, y) = (Axis::linear(0.0, 50_000.0, 5), Axis::linear(0.0, 10.0, 5));
        let runs = runs(&points, &x, &y);
        assert!(runs[0].len() <= MAX_POINTS);
        assert!(runs[0].iter().any(|point| point.1 > 0.8));
    }

    #[test]
    fn marks_lie_within_the_axis() {
        let plot = |mark: f64| {
            LinePlot::new("t", "x", "y").series("a", &[(0.0, 1.0), (10.0, 2.0)]).dashed().mark(mark, "end").render()
        };
        assert!(plot(5.0).as_str().contains("class=\"mark\" x1=\"50%\""));
        assert!(plot(5.0).as_str().contains("class=\"curve s0 dashed\""));
        // Past the data: the axis is widened, and the text stands before the line.
        let html = plot(20.0);
        assert!(html.as_str().contains("class=\"mark\" x1=\"100%\"") && html.as_str().contains("point-label end"));
        assert!(!plot(f64::NAN).as_str().contains("class=\"mark\""));
    }

    #[test]
    fn names_are_escaped() {
        let html = LinePlot::new("<t>", "<x>", "<y>")
            .series("<a>", &[(0.0, 1.0), (1.0, 2.0)])
            .series("<b>", &[])
            .mark(0.5, "<m>")
            .render();
        for raw in ["<t>", "<x>", "<y>", "<a>", "<b>", "<m>"] {
            assert!(!html.as_str().contains(raw), "{raw}");
        }
    }
}
