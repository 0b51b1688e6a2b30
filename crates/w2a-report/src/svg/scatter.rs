//! Named points, such as cosine against success.

use super::{Axis, COLOURS, chart, empty, frame, pc};
use crate::markup::{Html, escape};

const HEIGHT: usize = 280;
/// The width for which labels are placed; on other widths they may touch.
const WIDTH: f64 = 600.0;

#[derive(Clone, Debug)]
struct Point {
    x: f64,
    y: f64,
    label: String,
    group: usize,
}

/// A plot of points, each with a name, in groups of one colour.
#[derive(Clone, Debug)]
pub struct ScatterPlot {
    title: String,
    labels: (String, String),
    groups: Vec<String>,
    points: Vec<Point>,
}

impl ScatterPlot {
    /// An empty plot; the labels name the x and the y axis.
    pub fn new(title: &str, x_label: &str, y_label: &str) -> Self {
        Self {
            title: title.to_owned(),
            labels: (x_label.to_owned(), y_label.to_owned()),
            groups: Vec::new(),
            points: Vec::new(),
        }
    }

    /// Adds a point to a group; an empty label is not drawn. Points that are not finite are left out.
    pub fn point(mut self, group: &str, label: &str, x: f64, y: f64) -> Self {
        let group_index = self.groups.iter().position(|known| known == group).unwrap_or_else(|| {
            self.groups.push(group.to_owned());
            self.groups.len() - 1
        });
        self.points.push(Point { x, y, label: label.to_owned(), group: group_index });
        self
    }

    /// Draws it.
    pub fn render(&self) -> Html {
        let points = self.points.iter().filter(|point| point.x.is_finite() && point.y.is_finite()).collect::<Vec<_>>();
        let x = Axis::over(points.iter().map(|point| point.x), false, 5);
        let y = Axis::over(points.iter().map(|point| point.y), false, 5);
        let (Some(x), Some(y)) = (x, y) else { return empty(&self.title) };
        let mut area = Html::new();
        frame(&mut area, &x, &y);
        let mut taken = Vec::new();
        let placed = points.iter().filter_map(|point| Some((point, x.at(point.x)?, 1.0 - y.at(point.y)?)));
        let placed = placed.collect::<Vec<_>>();
        for (_, x, y) in &placed {
            let (x, y) = (x * WIDTH, y * HEIGHT as f64);
            taken.push([x - 5.0, y - 5.0, x + 5.0, y + 5.0]);
        }
        for (point, x, y) in placed {
            let (colour, label) = (point.group % COLOURS, escape(&point.label));
            let (at_x, at_y) = (pc(x), pc(y));
            area.push(format_args!(
                "<circle class=\"dot s{colour}\" cx=\"{at_x}\" cy=\"{at_y}\" r=\"5\"><title>{label}: {}, {}</title></circle>",
                point.x, point.y
            ));
            if let Some((class, dx, dy)) = place(&point.label, x * WIDTH, y * HEIGHT as f64, &mut taken) {
                area.push(format_args!(
                    "<text class=\"point-label {class}\" x=\"{at_x}\" y=\"{at_y}\" dx=\"{dx}\" dy=\"{dy}\">{label}</text>"
                ));
            }
        }
        let legend = self.groups.iter().enumerate().map(|(index, name)| (index, name.as_str())).collect::<Vec<_>>();
        chart(&self.title, (&self.labels.0, &self.labels.1), &legend, HEIGHT, &area)
    }
}

/// The first free place around a point for its label; `None` if it has none or there is no room (its name can still
/// be read by pointing at the dot).
fn place(label: &str, x: f64, y: f64, taken: &mut Vec<[f64; 4]>) -> Option<(&'static str, i32, i32)> {
    let width = 6.4 * label.chars().count() as f64;
    let candidates = [
        ("", 9, 4),
        ("end", -9, 4),
        ("mid", 0, -10),
        ("mid", 0, 19),
        ("", 7, -7),
        ("end", -7, -7),
        ("", 7, 16),
        ("end", -7, 16),
    ];
    if label.is_empty() {
        return None;
    }
    candidates.into_iter().find(|(class, dx, dy)| {
        let left = x + f64::from(*dx) - if *class == "end" { width } else { 0.0 };
        let left = left - if *class == "mid" { width / 2.0 } else { 0.0 };
        let bottom = y + f64::from(*dy) + 3.0;
        let this = [left, bottom - 13.0, left + width, bottom];
        let is_inside = this[0] >= 0.0 && this[2] <= WIDTH + 10.0 && this[1] >= -8.0 && this[3] <= HEIGHT as f64;
        let overlaps =
            |other: &[f64; 4]| this[0] < other[2] && other[0] < this[2] && this[1] < other[3] && other[1] < this[3];
        let is_free = is_inside && !taken.iter().any(overlaps);
        if is_free {
            taken.push(this);
        }
        is_free
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_avoid_each_other() {
        let mut taken = vec![[95.0, 95.0, 105.0, 105.0]];
        let places = (0..12).map(|_| place("name", 100.0, 100.0, &mut taken)).collect::<Vec<_>>();
        assert_eq!(places[0], Some(("", 9, 4)));
        assert_eq!(places[1], Some(("end", -9, 4)));
        assert_eq!(places[11], None);
    }

    #[test]
    fn points_that_are_not_finite_are_left_out() {
        let plot = ScatterPlot::new("t", "x", "y").point("g", "a", 0.1, 5.0).point("g", "b", f64::NAN, 5.0);
        assert_eq!(plot.render().as_str().matches("<circle").count(), 1);
        let html = ScatterPlot::new("t", "x", "y").point("g", "b", f64::NAN, 5.0).render();
        assert!(html.as_str().contains("No data"));
    }
}
