//! Where each camera lies in a grid image, and prompts that tell a video model so.

use w2a_data::Camera;
use w2a_nn::NnError;

use crate::GridVideo;

/// How the images of several cameras become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Left to right, without gaps: what the embedded world model is trained on.
    #[default]
    SideBySide,
    /// Two by two equal cells, filled by rows; cells without a camera are black. What video models of the size of
    /// Cosmos-Predict2 are trained on (paper, section 3.1).
    #[serde(rename = "grid-2x2")]
    Grid2x2,
}

impl Layout {
    /// Both layouts.
    pub const ALL: [Self; 2] = [Self::SideBySide, Self::Grid2x2];

    /// Name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::SideBySide => "side-by-side",
            Self::Grid2x2 => "grid-2x2",
        }
    }

    /// The grid images of cameras with equally many frames.
    ///
    /// # Shapes
    /// Side by side, cameras of one height H and widths W_i: `[frames, H, sum W_i, 3]`. Two by two, one to four cameras of
    /// one size: `[frames, 2H, 2W, 3]`.
    ///
    /// # Errors
    /// No camera, too many, or cameras of unequal size or length.
    pub fn compose(self, cameras: &[Camera]) -> Result<GridVideo, NnError> {
        if self == Self::SideBySide {
            return GridVideo::side_by_side(cameras);
        }
        let Some(first) = cameras.first().filter(|_| cameras.len() <= 4) else {
            return Err(refused("cameras of a two by two grid", "one to four", &cameras.len().to_string()));
        };
        let (height, width, frames) = (first.height, first.width, first.frames());
        let cell = width * 3;
        let mut rgb = vec![0; frames * 4 * height * cell];
        for (index, camera) in cameras.iter().enumerate() {
            if (camera.height, camera.width, camera.rgb.len()) != (height, width, first.rgb.len()) {
                return Err(refused(
                    &format!("camera {:?} of a two by two grid", camera.name),
                    &format!("{frames} frames of {height}x{width}, as camera {:?}", first.name),
                    &format!("{} frames of {}x{}", camera.frames(), camera.height, camera.width),
                ));
            }
            if cell > 0 {
                let lines = camera.rgb.chunks_exact(cell).enumerate();
                lines.for_each(|(line, pixels)| {
                    let row = line / height * 2 * height + index / 2 * height + line % height;
                    let at = (2 * row + index % 2) * cell;
                    rgb[at..at + cell].copy_from_slice(pixels);
                });
            }
        }
        Ok(GridVideo { height: 2 * height, width: 2 * width, rgb })
    }

    /// Camera `index` of `cameras` equally large ones, cut out of a grid image again.
    ///
    /// # Errors
    /// An index that is no camera, or an image that does not divide into the cells.
    pub fn crop(self, video: &GridVideo, index: usize, cameras: usize, name: &str) -> Result<Camera, NnError> {
        let (rows, columns) = match self {
            Self::SideBySide => (1, cameras),
            Self::Grid2x2 => (2, 2),
        };
        let fits = index < cameras
            && cameras <= rows * columns
            && video.height.is_multiple_of(rows)
            && video.width.is_multiple_of(columns);
        if !fits {
            return Err(refused(
                &format!("camera {index} of {cameras} in a {} image", self.name()),
                &format!("a camera of at most {}, in an image that divides into {rows}x{columns}", rows * columns),
                &format!("an image of {}x{}", video.height, video.width),
            ));
        }
        let (height, width) = (video.height / rows, video.width / columns);
        let (top, left) = (index / columns * height, index % columns * width * 3);
        let lines = (0..video.frames()).flat_map(|frame| {
            let begin = top * video.width * 3;
            video.frame(frame)[begin..begin + height * video.width * 3].chunks_exact(video.width * 3)
        });
        let rgb = lines.flat_map(|line| &line[left..left + width * 3]).copied().collect();
        Ok(Camera { name: name.to_owned(), height, width, rgb })
    }
}

/// A robot with its cameras as the authors' two by two images show them, so that a prompt can name the views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rig {
    /// RoboCasa: left and right camera over the one on the gripper.
    Robocasa,
    /// The real Franka arm: placed like RoboCasa.
    Franka,
    /// LIBERO: agent and wrist camera over nothing.
    Libero,
}

impl Rig {
    /// All rigs.
    pub const ALL: [Self; 3] = [Self::Robocasa, Self::Franka, Self::Libero];

    /// Name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Robocasa => "robocasa",
            Self::Franka => "franka",
            Self::Libero => "libero",
        }
    }

    /// The cameras, in the order of the cells of [`Layout::Grid2x2`].
    pub fn views(self) -> &'static [&'static str] {
        match self {
            Self::Robocasa | Self::Franka => &["left", "right", "gripper"],
            Self::Libero => &["agent", "wrist"],
        }
    }

    /// The prompt that says the instruction, where each view is, and the instruction again.
    pub fn prompt(self, instruction: &str) -> String {
        const CELLS: [&str; 4] = ["upper left", "upper right", "lower left", "lower right"];
        let cells: Vec<String> = CELLS
            .iter()
            .enumerate()
            .map(|(index, cell)| match self.views().get(index) {
                Some(view) => format!("{cell} the {view} camera"),
                None => format!("{cell} nothing, black"),
            })
            .collect();
        let instruction = instruction.trim().trim_end_matches('.');
        format!(
            "{instruction}. One robot arm is seen at the same time from several cameras in a grid of two by two: {}. \
             {instruction}.",
            cells.join(", ")
        )
    }
}

fn refused(what: &str, expected: &str, got: &str) -> NnError {
    NnError::Input { what: what.to_owned(), expected: expected.to_owned(), got: got.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{Layout, Rig};
    use crate::GridVideo;
    use proptest::prelude::*;
    use w2a_data::Camera;

    fn camera(index: usize, (frames, height, width): (usize, usize, usize)) -> Camera {
        let rgb = (0..frames * height * width * 3).map(|at| (1 + (at * 31 + index * 57) % 255) as u8).collect();
        Camera { name: format!("camera {index}"), height, width, rgb }
    }

    #[test]
    fn cells_are_filled_by_rows_and_the_others_are_black() {
        let cameras =
            [1, 2, 3].map(|value| Camera { name: value.to_string(), height: 1, width: 1, rgb: vec![value; 6] });
        let grid = Layout::Grid2x2.compose(&cameras).unwrap();
        let cells = |frame: usize| grid.frame(frame).chunks_exact(3).map(|pixel| pixel[0]).collect::<Vec<_>>();
        assert_eq!((grid.height, grid.width, cells(0), cells(1)), (2, 2, vec![1, 2, 3, 0], vec![1, 2, 3, 0]));
    }

    #[test]
    fn no_camera_a_fifth_one_and_unequal_ones_are_refused() {
        let refused = |cameras: &[Camera]| Layout::Grid2x2.compose(cameras).unwrap_err().to_string();
        assert!(refused(&[]).contains("one to four, got 0"));
        assert!(refused(&[0, 1, 2, 3, 4].map(|index| camera(index, (1, 2, 2)))).contains("one to four, got 5"));
        for other in [(1, 2, 3), (1, 3, 2), (2, 2, 2)] {
            let message = refused(&[camera(0, (1, 2, 2)), camera(1, other)]);
            assert!(message.contains("camera \"camera 1\"") && message.contains("1 frames of 2x2"), "{message}");
        }
    }

    #[test]
    fn a_camera_that_is_not_there_and_an_odd_image_are_refused() {
        let odd = GridVideo { height: 3, width: 4, rgb: vec![0; 36] };
        assert!(Layout::Grid2x2.crop(&odd, 0, 2, "a").unwrap_err().to_string().contains("an image of 3x4"));
        let even = GridVideo { height: 4, width: 4, rgb: vec![0; 48] };
        for (layout, index, cameras) in [(Layout::Grid2x2, 2, 2), (Layout::Grid2x2, 0, 5), (Layout::SideBySide, 0, 3)] {
            assert!(layout.crop(&even, index, cameras, "a").is_err(), "{layout:?} {index} {cameras}");
        }
        assert!(Layout::SideBySide.crop(&even, 0, 0, "a").is_err());
    }

    #[test]
    fn prompts_name_the_views_between_two_instructions() {
        for rig in Rig::ALL {
            let prompt = rig.prompt("open the drawer.");
            assert!(prompt.starts_with("open the drawer. ") && prompt.ends_with(" open the drawer."), "{prompt}");
            assert_eq!(prompt.matches("open the drawer").count(), 2);
            let places: Vec<_> = rig.views().iter().map(|view| prompt.find(&format!("the {view} camera"))).collect();
            assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{prompt}");
            assert_eq!(prompt.matches("black").count(), 4 - rig.views().len());
        }
        assert!(Rig::Libero.prompt("x").contains("upper left the agent camera, upper right the wrist camera"));
        assert!(Rig::Franka.prompt("x").contains("lower left the gripper camera, lower right nothing, black"));
    }

    proptest! {
        #[test]
        fn cells_can_be_cut_out_again(count in 1_usize..5, frames in 0_usize..3, height in 1_usize..5, width in 1_usize..5) {
            let cameras: Vec<Camera> = (0..count).map(|index| camera(index, (frames, height, width))).collect();
            for layout in Layout::ALL {
                let grid = layout.compose(&cameras).unwrap();
                prop_assert_eq!(grid.frames(), frames);
                for (index, camera) in cameras.iter().enumerate() {
                    prop_assert_eq!(&layout.crop(&grid, index, count, &camera.name).unwrap(), camera);
                }
            }
        }
    }
}
