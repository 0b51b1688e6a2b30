//! An inspection as text.

use std::fmt::{self, Display, Formatter};

use super::{FeatureReport, Inspection};

/// Tasks that are listed; the rest is counted.
const TASKS: usize = 20;

impl Display for Inspection {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.path.display())?;
        write!(out, "  format      {}", self.format)?;
        writeln!(out, "{}", self.version.as_ref().map_or(String::new(), |version| format!(" {version}")))?;
        if let Some(fps) = self.fps {
            writeln!(out, "  rate        {fps} steps a second")?;
            let unread = self.episodes - self.good_episodes;
            let note = if unread > 0 { format!(", {unread} of them unread or unreadable") } else { String::new() };
            writeln!(out, "  episodes    {}{note}", self.episodes)?;
            writeln!(out, "  frames      {} read", self.frames)?;
            for camera in &self.cameras {
                let (name, codec) = (&camera.name, &camera.codec);
                writeln!(out, "  camera      {name}: {} x {} rows x columns, {codec}", camera.height, camera.width)?;
            }
            feature(out, "state", &self.state)?;
            feature(out, "action", &self.action)?;
        }
        for (task, episodes) in self.tasks.iter().take(TASKS) {
            writeln!(out, "  task        {task:?}: {episodes}")?;
        }
        if self.tasks.len() > TASKS {
            writeln!(out, "              and {} more", self.tasks.len() - TASKS)?;
        }
        if !self.ignored.is_empty() {
            writeln!(out, "  left aside  {}", self.ignored.join(", "))?;
        }
        if self.problems.is_empty() {
            return writeln!(out, "no problems found");
        }
        writeln!(out, "{} problems:", self.problems.len())?;
        for problem in &self.problems {
            writeln!(out, "  - {}", problem.message)?;
        }
        if !self.is_complete && self.episodes > 0 {
            writeln!(out, "Reading ended at the first episode that failed; --skip-bad goes on.")?;
        }
        Ok(())
    }
}

fn feature(out: &mut Formatter<'_>, label: &str, feature: &FeatureReport) -> fmt::Result {
    let names = if feature.names.is_empty() { String::new() } else { format!(": {}", feature.names.join(", ")) };
    match feature.width {
        0 => writeln!(out, "  {label:<11} none"),
        width => writeln!(out, "  {label:<11} {width} entries{names}"),
    }
}
