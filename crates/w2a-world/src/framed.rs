//! A world model of large pictures behind the small ones of a run: cameras that lie side by side are put into the cells that
//! the model knows and enlarged, prompts name the views, and what is decoded comes back the same way.

use rand_chacha::ChaCha8Rng;
use w2a_nn::NnError;

use crate::{GridVideo, LatentShape, Latents, Layout, Rig, Skill, WorldModel, imagine_chain};

/// How the pictures of a run become those of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Where the model has its cameras.
    pub layout: Layout,
    /// Names the views in prompts; without, instructions are prompts as they are.
    pub rig: Option<Rig>,
    /// Rows and columns of a picture of the run.
    pub size: (usize, usize),
    /// Equally large cameras that lie in it side by side.
    pub cameras: usize,
}

/// A world model that works on the pictures of a run, though its own are others.
#[derive(Debug)]
pub struct Framed<W> {
    inner: W,
    framing: Framing,
}

impl<W: WorldModel> Framed<W> {
    /// Puts `inner` behind the pictures of a run.
    ///
    /// # Errors
    /// Pictures that do not divide into the cameras, or more cameras than the layout has cells.
    pub fn new(inner: W, framing: Framing) -> Result<Self, NnError> {
        let framed = Self { inner, framing };
        let (height, width) = framing.size;
        // Whatever is wrong with the sizes is wrong with one black picture too.
        framed.enlarged(&GridVideo { height, width, rgb: vec![0; height * width * 3] })?;
        Ok(framed)
    }

    /// The model itself.
    pub fn inner(&self) -> &W {
        &self.inner
    }

    /// The prompt for an instruction.
    pub fn prompt(&self, instruction: &str) -> String {
        self.framing.rig.map_or_else(|| instruction.to_owned(), |rig| rig.prompt(instruction))
    }

    /// As [`imagine_chain`], from clip to clip in the model's own pictures.
    ///
    /// # Errors
    /// As there.
    pub fn imagine_chain(&self, first: &GridVideo, skills: &[Skill], rng: &mut ChaCha8Rng) -> Result<Latents, NnError> {
        let prompts: Vec<String> = skills.iter().map(|skill| self.prompt(skill.prompt)).collect();
        let skills: Vec<Skill> =
            skills.iter().zip(&prompts).map(|(skill, prompt)| Skill { prompt, chunks: skill.chunks }).collect();
        imagine_chain(&self.inner, &self.enlarged(first)?, &skills, rng)
    }

    /// A video of the run as the model's.
    fn enlarged(&self, video: &GridVideo) -> Result<GridVideo, NnError> {
        let Framing { layout, size, cameras, .. } = self.framing;
        if (video.height, video.width) != size {
            return Err(NnError::Input {
                what: "video for the world model".into(),
                expected: format!("pictures of {}x{}", size.0, size.1),
                got: format!("{}x{}", video.height, video.width),
            });
        }
        let cut = |index| Layout::SideBySide.crop(video, index, cameras, &format!("camera {index}"));
        let cameras = (0..cameras).map(cut).collect::<Result<Vec<_>, _>>()?;
        let (height, width) = self.inner.frame_size();
        layout.compose(&cameras)?.resized(height, width)
    }

    /// A video of the model as the run's.
    fn reduced(&self, video: &GridVideo) -> Result<GridVideo, NnError> {
        let Framing { layout, size: (height, width), cameras, .. } = self.framing;
        let cell = width / cameras.max(1);
        let (height, width) = match layout {
            Layout::SideBySide => (height, width),
            Layout::Grid2x2 => (2 * height, 2 * cell),
        };
        let small = video.resized(height, width)?;
        let cut = |index| layout.crop(&small, index, cameras, &format!("camera {index}"));
        GridVideo::side_by_side(&(0..cameras).map(cut).collect::<Result<Vec<_>, _>>()?)
    }
}

impl<W: WorldModel> WorldModel for Framed<W> {
    fn chunk_len(&self) -> usize {
        self.inner.chunk_len()
    }

    fn max_chunks(&self) -> usize {
        self.inner.max_chunks()
    }

    fn latent_shape(&self) -> LatentShape {
        self.inner.latent_shape()
    }

    fn frame_size(&self) -> (usize, usize) {
        self.framing.size
    }

    fn encode(&self, videos: &[GridVideo]) -> Result<Vec<Latents>, NnError> {
        // One by one: a large video is a thousand times its latents.
        let encode = |video: &GridVideo| {
            let latents = self.inner.encode(&[self.enlarged(video)?])?.pop();
            latents.ok_or_else(|| NnError::Input {
                what: "latents of a video".into(),
                expected: "those of one video".into(),
                got: "none".into(),
            })
        };
        videos.iter().map(encode).collect()
    }

    fn imagine(
        &self,
        first: &[GridVideo],
        instructions: &[&str],
        chunks: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Latents>, NnError> {
        let first = first.iter().map(|video| self.enlarged(video)).collect::<Result<Vec<_>, _>>()?;
        let prompts: Vec<String> = instructions.iter().map(|instruction| self.prompt(instruction)).collect();
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        self.inner.imagine(&first, &prompts, chunks, rng)
    }

    fn decode(&self, latents: &[Latents]) -> Result<Vec<GridVideo>, NnError> {
        let mut out = Vec::with_capacity(latents.len());
        for latents in latents {
            for video in self.inner.decode(std::slice::from_ref(latents))? {
                out.push(self.reduced(&video)?);
            }
        }
        Ok(out)
    }

    fn last_frame(&self, latents: &Latents) -> Result<GridVideo, NnError> {
        self.reduced(&self.inner.last_frame(latents)?)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::{Framed, Framing};
    use crate::{GridVideo, LatentShape, Latents, Layout, Rig, Skill, WorldModel};
    use rand_chacha::ChaCha8Rng;
    use w2a_nn::NnError;

    /// Its latents are its pictures; it imagines that nothing moves, and remembers what it was told.
    struct Still {
        told: RefCell<Vec<String>>,
    }

    const SIZE: (usize, usize) = (4, 12);

    impl WorldModel for Still {
        fn chunk_len(&self) -> usize {
            1
        }
        fn max_chunks(&self) -> usize {
            2
        }
        fn latent_shape(&self) -> LatentShape {
            LatentShape { channels: 3, height: SIZE.0, width: SIZE.1 }
        }
        fn frame_size(&self) -> (usize, usize) {
            SIZE
        }
        fn encode(&self, videos: &[GridVideo]) -> Result<Vec<Latents>, NnError> {
            let latents = |video: &GridVideo| {
                assert_eq!((video.height, video.width), SIZE);
                let data = video.rgb.iter().map(|value| f32::from(*value)).collect();
                Latents { shape: self.latent_shape(), data }
            };
            Ok(videos.iter().map(latents).collect())
        }
        fn imagine(
            &self,
            first: &[GridVideo],
            instructions: &[&str],
            chunks: usize,
            _: &mut ChaCha8Rng,
        ) -> Result<Vec<Latents>, NnError> {
            self.told.borrow_mut().extend(instructions.iter().map(|&words| words.to_owned()));
            let repeat = |latents: Latents| Latents { data: latents.data.repeat(1 + chunks), ..latents };
            Ok(self.encode(first)?.into_iter().map(repeat).collect())
        }
        fn decode(&self, latents: &[Latents]) -> Result<Vec<GridVideo>, NnError> {
            let video = |latents: &Latents| GridVideo {
                height: SIZE.0,
                width: SIZE.1,
                rgb: latents.data.iter().map(|value| *value as u8).collect(),
            };
            Ok(latents.iter().map(video).collect())
        }
    }

    fn framed(layout: Layout, rig: Option<Rig>) -> Framed<Still> {
        let framing = Framing { layout, rig, size: (2, 4), cameras: 2 };
        Framed::new(Still { told: RefCell::default() }, framing).unwrap()
    }

    /// Two cameras of one colour each.
    fn video(frames: usize) -> GridVideo {
        let row = [[10, 20, 30], [10, 20, 30], [200, 100, 0], [200, 100, 0]].concat();
        GridVideo { height: 2, width: 4, rgb: row.repeat(2 * frames) }
    }

    #[test]
    fn what_is_encoded_and_decoded_is_the_video_again_in_either_layout() {
        for layout in Layout::ALL {
            let world = framed(layout, None);
            let latents = world.encode(&[video(2), video(1)]).unwrap();
            assert_eq!(world.decode(&latents[1..]).unwrap()[0].frames(), 1);
            let decoded = &world.decode(&latents).unwrap()[0];
            assert_eq!((decoded.height, decoded.width, decoded.frames()), (2, 4, 2));
            // Colours run into one another where cells meet in an enlarged picture; the outermost pixels are pure.
            let pixel = |at: usize| decoded.rgb[at * 3..at * 3 + 3].to_vec();
            if layout == Layout::SideBySide {
                assert_eq!((pixel(0), pixel(3)), (vec![10, 20, 30], vec![200, 100, 0]));
            }
            assert!(pixel(0)[0] < 100 && pixel(3)[0] > 100, "{layout:?} {:?}", decoded.rgb);
            assert_eq!(world.last_frame(&latents[0]).unwrap().frames(), 1);
        }
    }

    #[test]
    fn prompts_name_the_views_and_chains_stay_in_the_models_own_pictures() {
        let world = framed(Layout::Grid2x2, Some(Rig::Libero));
        let mut rng = w2a_data::stream(0, "test");
        let skills = [Skill { prompt: "reach", chunks: 3 }, Skill { prompt: "lift", chunks: 1 }];
        let chain = world.imagine_chain(&video(1), &skills, &mut rng).unwrap();
        assert_eq!(chain.chunks(), 4);
        // Not softened once more by every clip that begins from the one before.
        assert_eq!(chain.latent(0), chain.latent(4));
        let one = world.imagine(&[video(1)], &["reach"], 1, &mut rng).unwrap();
        assert_eq!(one[0].latent(0), chain.latent(0));
        let told = world.inner().told.borrow();
        assert_eq!(told.len(), 4);
        assert!(told[0].contains("the wrist camera") && told[0] == told[3] && told[2].starts_with("lift"), "{told:?}");
        assert_eq!(framed(Layout::Grid2x2, None).prompt("reach"), "reach");
    }

    #[test]
    fn pictures_that_do_not_fit_are_refused() {
        let new = |layout, size, cameras| {
            Framed::new(Still { told: RefCell::default() }, Framing { layout, rig: None, size, cameras }).map(|_| ())
        };
        assert!(new(Layout::Grid2x2, (2, 5), 2).is_err());
        assert!(new(Layout::Grid2x2, (2, 10), 5).is_err());
        assert!(new(Layout::SideBySide, (2, 4), 0).is_err());
        let other = GridVideo { height: 4, width: 4, rgb: vec![0; 48] };
        assert!(framed(Layout::Grid2x2, None).encode(&[other]).unwrap_err().to_string().contains("2x4"));
    }
}
