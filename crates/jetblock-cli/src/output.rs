//! What people and programs read: results on standard output, everything else on standard error.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::args::Global;

/// Where results and remarks go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Output {
        Output {
            json: global.json,
            quiet: global.quiet,
        }
    }

    /// Whether results are printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints text to standard output, at once.
    pub(crate) fn print(&self, text: &str) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Prints a result as JSON.
    pub(crate) fn print_json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        Ok(self.print(&(text + "\n"))?)
    }

    /// Prints a remark to standard error.
    pub(crate) fn remark(&self, text: &str) {
        if !self.quiet {
            // A closed standard error is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Prints text that accompanies a result, dimmed on a terminal, without a line break.
    pub(crate) fn aside(&self, text: &str) {
        if self.quiet || self.json || text.is_empty() {
            return;
        }
        let mut stderr = std::io::stderr().lock();
        let _ = if stderr.is_terminal() {
            write!(stderr, "\x1b[2m{text}\x1b[0m")
        } else {
            write!(stderr, "{text}")
        };
        let _ = stderr.flush();
    }

    /// A progress bar on standard error, shown on terminals only.
    pub(crate) fn progress(&self, label: &str, total: u64, unit: Unit) -> ProgressBar {
        let target = if self.quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let template = match unit {
            Unit::Bytes => "{msg} [{bar:30}] {bytes}/{total_bytes}",
            Unit::Items => "{msg} [{bar:30}] {pos}/{len}",
        };
        let style = ProgressStyle::with_template(template)
            .expect("the templates above are valid")
            .progress_chars("=> ");
        ProgressBar::with_draw_target(Some(total), target)
            .with_style(style)
            .with_message(label.to_owned())
    }
}

/// What a progress bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Items,
}

/// Lines up columns: the first to the left, the others to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let all = || {
        std::iter::once(header.iter().map(|s| s.to_string()).collect()).chain(rows.iter().cloned())
    };
    let mut widths = vec![0; header.len()];
    for row in all() {
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in all() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let result = if column == 0 {
                write!(line, "{cell:<width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
            result.expect("writing to a string cannot fail");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Bytes for people: binary units.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// An error and what caused it.
pub(crate) fn error_text(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Wrappers often repeat what they wrap.
        if !last.ends_with(&cause) {
            writeln!(text, "  caused by: {cause}").expect("writing to a string cannot fail");
        }
        last = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["batch".into(), "12".into()],
            vec!["größe".into(), "3".into()],
        ];
        assert_eq!(
            table(&["axis", "runs"], &rows),
            "axis   runs\nbatch    12\ngröße     3\n"
        );
    }

    #[test]
    fn errors_show_their_causes_once() {
        let error =
            anyhow::anyhow!("file is empty").context("cannot read config.json: file is empty");
        assert_eq!(
            error_text(&error),
            "error: cannot read config.json: file is empty\n"
        );
        let error = anyhow::anyhow!("no such file")
            .context("cannot read config.json")
            .context("loading failed");
        assert_eq!(
            error_text(&error),
            "error: loading failed\n  caused by: cannot read config.json\n  caused by: no such file\n"
        );
    }
}
