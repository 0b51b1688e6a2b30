//! One page that holds everything a run has to show: no other file, no network, no script.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::atomic::{WriteError, write_atomic};
use crate::image::{ImageError, Picture, apng, filmstrip};
use crate::markup::{Html, escape, inline};
use crate::svg::Emphasis;

const STYLE: &str = include_str!("style.css");

/// Pixels between the frames of a filmstrip.
const STRIP_GAP: usize = 2;

/// How a column of a table is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words, to the left.
    Text,
    /// Numbers, to the right.
    Number,
}

/// One cell: a main text and, smaller below it, a note such as an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Main text.
    pub text: String,
    /// Smaller text below; may be empty.
    pub note: String,
}

impl Cell {
    /// A cell with a note.
    pub fn with_note(text: impl Into<String>, note: impl Into<String>) -> Self {
        Self { text: text.into(), note: note.into() }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), note: String::new() }
    }
}

/// A table with aligned columns.
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<(Emphasis, Vec<Cell>)>,
}

impl Table {
    /// An empty table.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row. Missing cells stay empty, surplus ones are not shown.
    pub fn row(mut self, emphasis: Emphasis, cells: impl IntoIterator<Item = Cell>) -> Self {
        self.rows.push((emphasis, cells.into_iter().collect()));
        self
    }

    fn render(&self) -> Html {
        let class = |align: Align| if align == Align::Number { " class=\"num\"" } else { "" };
        let wide = if self.columns.len() > 3 { " class=\"wide\"" } else { "" };
        let mut html = Html::new();
        // Focusable, so that a table wider than the page can be scrolled with the keyboard.
        html.push(format_args!("<div class=\"scroll\" tabindex=\"0\"><table{wide}><thead><tr>"));
        for (name, align) in &self.columns {
            html.push(format_args!("<th scope=\"col\"{}>{}</th>", class(*align), escape(name)));
        }
        html.push(format_args!("</tr></thead><tbody>"));
        let blank = Cell::default();
        for (emphasis, cells) in &self.rows {
            html.push(format_args!("<tr class=\"{}\">", emphasis.class()));
            for (index, (_, align)) in self.columns.iter().enumerate() {
                let cell = cells.get(index).unwrap_or(&blank);
                html.push(format_args!("<td{}>{}", class(*align), inline(&cell.text)));
                if !cell.note.is_empty() {
                    html.push(format_args!("<small>{}</small>", inline(&cell.note)));
                }
                html.push(format_args!("</td>"));
            }
            html.push(format_args!("</tr>"));
        }
        html.push(format_args!("</tbody></table></div>"));
        html
    }
}

/// One row of a filmstrip figure.
#[derive(Clone, Debug)]
pub struct StripRow {
    /// What stands before the frames, such as `Imagined`.
    pub label: String,
    /// Frames of one size.
    pub frames: Vec<Picture>,
}

/// One animation, such as executed beside imagined (see [`side_by_side`](crate::side_by_side)).
#[derive(Clone, Debug)]
pub struct Clip {
    /// What stands above.
    pub title: String,
    /// What stands below, from left to right, in columns of equal width.
    pub labels: Vec<String>,
    /// Frames of one size.
    pub frames: Vec<Picture>,
    /// Frames a second.
    pub frames_per_s: u16,
}

/// Builds `report.html`. Blocks appear in the order they are added; all text is escaped, and `` `code` `` and
/// `**strong**` are marked up in prose, notes, captions and cells.
#[derive(Clone, Debug, Default)]
pub struct Report {
    title: String,
    outcome: String,
    kicker: String,
    hero: Option<Html>,
    headings: Vec<String>,
    body: Html,
}

impl Report {
    /// A page with a title and, large below it, its outcome in one plain sentence.
    pub fn new(title: &str, outcome: &str) -> Self {
        Self { title: title.to_owned(), outcome: outcome.to_owned(), ..Self::default() }
    }

    /// A small line above the title, such as the profile and the date.
    pub fn kicker(mut self, text: &str) -> Self {
        self.kicker = text.to_owned();
        self
    }

    /// The chart at the top, with a caption.
    pub fn hero(mut self, plot: &Html, caption: &str) -> Self {
        let mut html = Html::new();
        html.push(format_args!("<figure class=\"hero\">{}{}</figure>", plot.as_str(), figcaption(caption)));
        self.hero = Some(html);
        self
    }

    /// Begins a section.
    pub fn section(mut self, heading: &str) -> Self {
        if !self.headings.is_empty() {
            self.body.push(format_args!("</section>"));
        }
        self.headings.push(heading.to_owned());
        let number = self.headings.len();
        self.body.push(format_args!("<section><h2 id=\"s{number}\">{}</h2>", inline(heading)));
        self
    }

    /// A heading within a section.
    pub fn heading(mut self, text: &str) -> Self {
        self.body.push(format_args!("<h3>{}</h3>", inline(text)));
        self
    }

    /// Paragraphs, separated by empty lines.
    pub fn prose(mut self, text: &str) -> Self {
        self.body.append(&paragraphs(text));
        self
    }

    /// A remark the reader must not miss, such as a limit of the result.
    pub fn note(mut self, text: &str) -> Self {
        self.body.push(format_args!("<div class=\"note\" role=\"note\">{}</div>", paragraphs(text).as_str()));
        self
    }

    /// A table with a caption.
    pub fn table(mut self, table: &Table, caption: &str) -> Self {
        self.body.push(format_args!("<figure>{}{}</figure>", table.render().as_str(), figcaption(caption)));
        self
    }

    /// A plot with a caption.
    pub fn plot(mut self, plot: &Html, caption: &str) -> Self {
        self.body.push(format_args!("<figure>{}{}</figure>", plot.as_str(), figcaption(caption)));
        self
    }

    /// Plots next to each other where the page is wide enough, each with its caption.
    pub fn plots(mut self, plots: &[(Html, &str)]) -> Self {
        self.body.push(format_args!("<div class=\"pair\">"));
        for (plot, caption) in plots {
            self = self.plot(plot, caption);
        }
        self.body.push(format_args!("</div>"));
        self
    }

    /// Rows of frames, each with its label. A shorter row keeps the scale of the longest one.
    ///
    /// # Errors
    /// [`ImageError`] if a row has no frame or frames of several sizes.
    pub fn filmstrip(mut self, rows: &[StripRow], caption: &str) -> Result<Self, ImageError> {
        let longest = rows.iter().map(|row| row.frames.len()).max().unwrap_or(1).max(1);
        let mut html = Html::new();
        for row in rows {
            let strip = filmstrip(std::slice::from_ref(&row.frames), STRIP_GAP)?;
            let (height, width) = strip.size();
            let (label, data) = (escape(&row.label), data_uri(&strip.png()?));
            let share = row.frames.len() as f64 / longest as f64;
            html.push(format_args!(
                "<span>{label}</span><img class=\"pixels\" alt=\"{label}: {} frames\" width=\"{width}\" \
                 height=\"{height}\" style=\"--share:{share:.4}\" src=\"{data}\">",
                row.frames.len()
            ));
        }
        let html = html.as_str();
        self.body.push(format_args!(
            "<figure><div class=\"strip\" tabindex=\"0\">{html}</div>{}</figure>",
            figcaption(caption)
        ));
        Ok(self)
    }

    /// One picture, each of its pixels drawn as `scale` page pixels.
    ///
    /// # Errors
    /// [`ImageError::Encode`].
    pub fn image(mut self, picture: &Picture, scale: usize, alt: &str, caption: &str) -> Result<Self, ImageError> {
        let (height, width) = picture.size();
        self.body.push(format_args!(
            "<figure><img class=\"pixels\" alt=\"{}\" width=\"{}\" height=\"{}\" style=\"height:auto\" src=\"{}\">{}</figure>",
            escape(alt),
            width * scale,
            height * scale,
            data_uri(&picture.png()?),
            figcaption(caption)
        ));
        Ok(self)
    }

    /// Animations in a grid. Readers who ask their system for less motion see the last frame.
    ///
    /// # Errors
    /// [`ImageError`] if a clip has no frame or frames of several sizes.
    pub fn clips(mut self, clips: &[Clip], caption: &str) -> Result<Self, ImageError> {
        let mut html = Html::new();
        for clip in clips {
            let moving = data_uri(&apng(&clip.frames, clip.frames_per_s)?);
            let still = data_uri(&clip.frames.last().ok_or(ImageError::Empty)?.png()?);
            let title = escape(&clip.title);
            html.push(format_args!(
                "<div class=\"clip\"><p>{title}</p><picture>\
                 <source media=\"(prefers-reduced-motion: reduce)\" srcset=\"{still}\">\
                 <img class=\"pixels\" alt=\"{title}\" src=\"{moving}\"></picture><div class=\"under\">"
            ));
            for label in &clip.labels {
                html.push(format_args!("<span>{}</span>", escape(label)));
            }
            html.push(format_args!("</div></div>"));
        }
        let html = html.as_str();
        self.body.push(format_args!("<figure><div class=\"clips\">{html}</div>{}</figure>", figcaption(caption)));
        Ok(self)
    }

    /// A block that is folded away until asked for, such as the configuration as TOML.
    pub fn folded(mut self, summary: &str, text: &str) -> Self {
        let (summary, text) = (inline(summary), escape(text));
        self.body.push(format_args!("<details><summary>{summary}</summary><pre><code>{text}</code></pre></details>"));
        self
    }

    /// Names and values, such as version, commit, seed and machine.
    pub fn facts(mut self, facts: &[(&str, String)]) -> Self {
        self.body.push(format_args!("<dl>"));
        for (name, value) in facts {
            self.body.push(format_args!("<dt>{}</dt><dd>{}</dd>", escape(name), inline(value)));
        }
        self.body.push(format_args!("</dl>"));
        self
    }

    /// The page.
    pub fn render(&self) -> String {
        let mut html = Html::new();
        html.push(format_args!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{title}</title><style>\n{STYLE}</style></head>\n<body><main><header>",
            title = escape(&self.title)
        ));
        if !self.kicker.is_empty() {
            html.push(format_args!("<p class=\"kicker\">{}</p>", inline(&self.kicker)));
        }
        let (title, outcome) = (inline(&self.title), inline(&self.outcome));
        html.push(format_args!("<h1>{title}</h1><p class=\"outcome\">{outcome}</p>"));
        if self.headings.len() > 2 {
            html.push(format_args!("<nav aria-label=\"Sections\">"));
            for (index, heading) in self.headings.iter().enumerate() {
                html.push(format_args!("<a href=\"#s{}\">{}</a>", index + 1, inline(heading)));
            }
            html.push(format_args!("</nav>"));
        }
        html.push(format_args!("</header>\n"));
        if let Some(hero) = &self.hero {
            html.append(hero);
        }
        html.append(&self.body);
        let end = if self.headings.is_empty() { "" } else { "</section>" };
        html.push(format_args!("{end}</main></body></html>\n"));
        html.as_str().to_owned()
    }

    /// Writes the page, replacing an older one at once.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), WriteError> {
        write_atomic(path, self.render().as_bytes())
    }
}

fn paragraphs(text: &str) -> Html {
    let mut html = Html::new();
    for paragraph in text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        html.push(format_args!("<p>{}</p>", inline(paragraph)));
    }
    html
}

fn figcaption(caption: &str) -> String {
    if caption.is_empty() { String::new() } else { format!("<figcaption>{}</figcaption>", inline(caption)) }
}

fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::{BarChart, LinePlot};

    const HOSTILE: &str = "<script>alert(\"1\")</script>";

    fn frame() -> Picture {
        Picture::from_rgb(2, 2, &[9; 12]).unwrap()
    }

    fn page() -> String {
        let plot = LinePlot::new(HOSTILE, HOSTILE, HOSTILE).series(HOSTILE, &[(0.0, 1.0), (1.0, 2.0)]).render();
        let row = StripRow { label: HOSTILE.into(), frames: vec![frame(); 3] };
        let clip =
            Clip { title: HOSTILE.into(), labels: vec![HOSTILE.into()], frames: vec![frame(); 2], frames_per_s: 5 };
        Report::new(HOSTILE, HOSTILE)
            .kicker(HOSTILE)
            .hero(&BarChart::new(HOSTILE).bar(HOSTILE, 1.0, HOSTILE).render(), HOSTILE)
            .section(HOSTILE)
            .heading(HOSTILE)
            .prose(HOSTILE)
            .note(HOSTILE)
            .section("two")
            .section("three")
            .table(
                &Table::new(&[(HOSTILE, Align::Number)])
                    .row(Emphasis::Headline, [Cell::with_note(HOSTILE, HOSTILE), "surplus".into()]),
                HOSTILE,
            )
            .plots(&[(plot, HOSTILE)])
            .filmstrip(&[row], HOSTILE)
            .unwrap()
            .image(&frame(), 2, HOSTILE, HOSTILE)
            .unwrap()
            .clips(&[clip], HOSTILE)
            .unwrap()
            .folded(HOSTILE, HOSTILE)
            .facts(&[(HOSTILE, HOSTILE.into())])
            .render()
    }

    #[test]
    fn every_text_is_escaped() {
        assert!(!page().contains("<script"));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page = page();
        assert!(
            !page.contains("http:") && !page.contains("https:") && !page.contains("@import") && !page.contains("url(")
        );
        for source in page.split("src=\"").skip(1).chain(page.split("srcset=\"").skip(1)) {
            assert!(source.starts_with("data:image/png;base64,"));
        }
    }

    #[test]
    fn every_element_is_closed() {
        let page = page();
        for tag in
            ["section", "figure", "div", "table", "tr", "td", "svg", "p", "ul", "nav", "main", "dl", "span", "details"]
        {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn the_same_input_gives_the_same_page() {
        assert_eq!(page(), page());
    }

    #[test]
    fn an_empty_report_is_a_page() {
        let page = Report::new("", "").render();
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n") && !page.contains("</section>"));
    }
}
