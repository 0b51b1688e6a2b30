//! Text that is safe to put into a page.

use std::fmt::{self, Write};

/// A piece of finished HTML. Only this crate makes it, and only from escaped text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Html(String);

impl Html {
    /// The markup.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Appends markup; use it as `html.push(format_args!(...))` with every foreign text escaped.
    pub(crate) fn push(&mut self, markup: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(markup);
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }
}

/// `text` with the five characters that mean something in HTML replaced, for element content and quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not allowed in HTML at all.
            control if control.is_control() && !matches!(control, '\n' | '\t') => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// Escaped text in which `` `code` `` and `**strong**` are marked up; an unpaired mark stays as it is.
pub(crate) fn inline(text: &str) -> String {
    let coded = paired(&escape(text), "`", "code");
    // Stars inside of code are code.
    coded
        .split_inclusive("</code>")
        .map(|part| {
            let (prose, code) = part.split_at(part.find("<code>").unwrap_or(part.len()));
            paired(prose, "**", "strong") + code
        })
        .collect()
}

fn paired(text: &str, mark: &str, tag: &str) -> String {
    let parts = text.split(mark).collect::<Vec<_>>();
    let mut out = String::new();
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        match (index % 2 == 1, is_last) {
            (true, false) => out.push_str(&format!("<{tag}>{part}</{tag}>")),
            (true, true) => out.push_str(&format!("{mark}{part}")),
            (false, _) => out.push_str(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("<a href=\"x\">'&'\u{7}"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;\u{fffd}");
    }

    #[test]
    fn inline_marks_up_code_and_strong_only() {
        assert_eq!(inline("run `a<b` **now** *x*"), "run <code>a&lt;b</code> <strong>now</strong> *x*");
        assert_eq!(inline("one ` and two ** marks"), "one ` and two ** marks");
        assert_eq!(inline("`a**b` c **d**"), "<code>a**b</code> c <strong>d</strong>");
    }
}
