//! The names of clips.

use std::fmt;

use super::error::LayoutError;

/// The four layouts of the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipLayout {
    /// RoboCasa, generated demonstrations cut into skills; 12-d actions.
    RoboCasa,
    /// LIBERO, cut into skills; 7-d actions.
    Libero,
    /// A real Franka arm, whole demonstrations; 7-d actions.
    Franka,
    /// Bridge (SimplerEnv), whole demonstrations; 7-d actions.
    Bridge,
}

impl ClipLayout {
    /// The form of a clip's name.
    pub fn form(self) -> &'static str {
        match self {
            Self::RoboCasa => "<task>_mg_demo_<id>_aa_<index>.mp4",
            Self::Libero => "demo_<id>-<task>-<prompt>-order<k>.mp4, k counted from 1",
            Self::Franka => "<task>-demo-<id>.mp4",
            Self::Bridge => "episode_<id>.mp4",
        }
    }
}

/// What the name of a clip says; [`fmt::Display`] gives the name back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClipName {
    /// Skill `index` of demonstration `demo`.
    RoboCasa {
        /// Name of the task, such as `PnPSinkToCounter`.
        task: String,
        /// Number of the demonstration.
        demo: u64,
        /// Number of the skill in `video_metadata.json`.
        index: u64,
    },
    /// The `order`-th skill of demonstration `demo`.
    Libero {
        /// Number of the demonstration.
        demo: u64,
        /// The instruction with underscores, without a hyphen.
        task: String,
        /// The skill's prompt with underscores; may hold hyphens.
        prompt: String,
        /// Position among the skills, from 1.
        order: u64,
    },
    /// All of demonstration `demo`.
    Franka {
        /// The instruction with underscores.
        task: String,
        /// Number of the demonstration.
        demo: u64,
    },
    /// All of episode `episode`.
    Bridge {
        /// Number of the episode; written with at least six digits.
        episode: u64,
    },
}

impl ClipName {
    /// Reads a file name, its ending included.
    ///
    /// # Errors
    /// [`LayoutError::Name`] if it is not of the layout's form: every part must be there, tasks and prompts must not be
    /// empty, and numbers must be plain digits that fit.
    pub fn parse(layout: ClipLayout, name: &str) -> Result<Self, LayoutError> {
        let read = || {
            let stem = name.strip_suffix(".mp4")?;
            match layout {
                ClipLayout::RoboCasa => {
                    let (front, index) = stem.rsplit_once("_aa_")?;
                    let (task, demo) = front.rsplit_once("_mg_demo_")?;
                    Some(Self::RoboCasa { task: text(task)?, demo: number(demo)?, index: number(index)? })
                }
                ClipLayout::Libero => {
                    let (front, order) = stem.strip_prefix("demo_")?.rsplit_once("-order")?;
                    let (demo, words) = front.split_once('-')?;
                    let (task, prompt) = words.split_once('-')?;
                    let order = number(order).filter(|&order| order > 0)?;
                    Some(Self::Libero { demo: number(demo)?, task: text(task)?, prompt: text(prompt)?, order })
                }
                ClipLayout::Franka => {
                    let (task, demo) = stem.rsplit_once("-demo-")?;
                    Some(Self::Franka { task: text(task)?, demo: number(demo)? })
                }
                ClipLayout::Bridge => Some(Self::Bridge { episode: number(stem.strip_prefix("episode_")?)? }),
            }
        };
        read().ok_or_else(|| LayoutError::Name { name: name.to_owned(), expected: layout.form() })
    }

    /// The layout that it is a name of.
    pub fn layout(&self) -> ClipLayout {
        match self {
            Self::RoboCasa { .. } => ClipLayout::RoboCasa,
            Self::Libero { .. } => ClipLayout::Libero,
            Self::Franka { .. } => ClipLayout::Franka,
            Self::Bridge { .. } => ClipLayout::Bridge,
        }
    }

    /// Number of the demonstration or episode.
    pub fn demo(&self) -> u64 {
        match self {
            Self::RoboCasa { demo, .. } | Self::Libero { demo, .. } | Self::Franka { demo, .. } => *demo,
            Self::Bridge { episode } => *episode,
        }
    }
}

impl fmt::Display for ClipName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoboCasa { task, demo, index } => write!(out, "{task}_mg_demo_{demo}_aa_{index}.mp4"),
            Self::Libero { demo, task, prompt, order } => write!(out, "demo_{demo}-{task}-{prompt}-order{order}.mp4"),
            Self::Franka { task, demo } => write!(out, "{task}-demo-{demo}.mp4"),
            Self::Bridge { episode } => write!(out, "episode_{episode:06}.mp4"),
        }
    }
}

fn text(part: &str) -> Option<String> {
    (!part.is_empty()).then(|| part.to_owned())
}

/// Digits only: `parse` alone would take a sign.
fn number(part: &str) -> Option<u64> {
    part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYOUTS: [ClipLayout; 4] = [ClipLayout::RoboCasa, ClipLayout::Libero, ClipLayout::Franka, ClipLayout::Bridge];

    #[test]
    fn names_of_the_release_are_understood() {
        let parse = |layout, name| ClipName::parse(layout, name).unwrap();
        assert_eq!(
            parse(ClipLayout::RoboCasa, "PnPSinkToCounter_mg_demo_1266_aa_1.mp4"),
            ClipName::RoboCasa { task: "PnPSinkToCounter".into(), demo: 1266, index: 1 }
        );
        let libero = "demo_3-put_the_bowl_on_the_plate-place_it-gently-order2.mp4";
        let (task, prompt) = ("put_the_bowl_on_the_plate".into(), "place_it-gently".into());
        assert_eq!(parse(ClipLayout::Libero, libero), ClipName::Libero { demo: 3, task, prompt, order: 2 });
        assert_eq!(
            parse(ClipLayout::Franka, "pick_the_cup-demo-13.mp4"),
            ClipName::Franka { task: "pick_the_cup".into(), demo: 13 }
        );
        assert_eq!(parse(ClipLayout::Bridge, "episode_049347.mp4"), ClipName::Bridge { episode: 49347 });
    }

    #[test]
    fn names_that_the_release_reads_as_demonstration_0_are_refused() {
        for (layout, name) in [
            (ClipLayout::RoboCasa, "PnPSinkToCounter_mg_demo_x_aa_1.mp4"),
            (ClipLayout::RoboCasa, "PnPSinkToCounter_mg_demo_1.mp4"),
            (ClipLayout::RoboCasa, "_mg_demo_1_aa_1.mp4"),
            (ClipLayout::RoboCasa, "A_mg_demo_1_aa_1.avi"),
            (ClipLayout::Libero, "demo_3-put_the_bowl_on_the_plate-order2.mp4"),
            (ClipLayout::Libero, "demo_3-put-place-order0.mp4"),
            (ClipLayout::Libero, "demo_-put-place-order1.mp4"),
            (ClipLayout::Libero, "demo_3-put-place-order1"),
            (ClipLayout::Franka, "pick_the_cup-demo-+3.mp4"),
            (ClipLayout::Franka, "-demo-3.mp4"),
            (ClipLayout::Franka, "pick_the_cup-demo-.mp4"),
            (ClipLayout::Bridge, "episode_99999999999999999999.mp4"),
            (ClipLayout::Bridge, "Episode_1.mp4"),
        ] {
            let error = ClipName::parse(layout, name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(layout.form()), "{error}");
        }
    }

    #[test]
    fn unicode_names_are_names() {
        let name = ClipName::parse(ClipLayout::Franka, "stelle_die_Tasse_auf_den_Büffel_🐃-demo-7.mp4").unwrap();
        assert_eq!(name, ClipName::Franka { task: "stelle_die_Tasse_auf_den_Büffel_🐃".into(), demo: 7 });
    }

    fn names() -> impl Strategy<Value = ClipName> {
        let word = "[a-zA-Zäß🐃_]{1,12}";
        prop_oneof![
            (word, any::<u64>(), any::<u64>()).prop_map(|(task, demo, index)| ClipName::RoboCasa { task, demo, index }),
            (any::<u64>(), word, "[a-zé_]{1,6}(-[a-z]{1,4})?", 1_u64..)
                .prop_map(|(demo, task, prompt, order)| ClipName::Libero { demo, task, prompt, order }),
            (word, any::<u64>()).prop_map(|(task, demo)| ClipName::Franka { task, demo }),
            any::<u64>().prop_map(|episode| ClipName::Bridge { episode }),
        ]
    }

    proptest! {
        #[test]
        fn a_written_name_is_read_back(name in names()) {
            prop_assert_eq!(ClipName::parse(name.layout(), &name.to_string()).unwrap(), name);
        }

        #[test]
        fn any_text_is_a_name_or_an_error(text in "\\PC{0,40}", layout in 0_usize..4) {
            let _ = ClipName::parse(LAYOUTS[layout], &text);
        }
    }
}
