//! Imagination of any length: one clip per skill, each from the last frame of the one before (paper, section 3.1).

use rand_chacha::ChaCha8Rng;
use w2a_nn::NnError;

use crate::{GridVideo, Latents, WorldModel};

/// An atomic prompt and how long it is imagined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skill<'a> {
    /// What the robot is told.
    pub prompt: &'a str,
    /// Chunks of its clip. More than the model imagines at once become several clips under the same prompt.
    pub chunks: usize,
}

/// Imagines the skills one after the other, from `first`.
///
/// Each clip begins at the last frame of the one before: only that latent is decoded, and its frame is encoded again as a
/// first image, because a model knows first images as such and not as the end of a chunk. The clips' chunks are
/// concatenated, so the clock of chunks goes on: `V_0` occurs once, and `T` is the sum of the clips' chunks. A chain of one
/// skill that fits into a clip is what [`WorldModel::imagine`] gives, bit for bit.
///
/// # Errors
/// No skill, a skill without chunks, a first frame that does not fit, or a model that breaks its contract.
pub fn imagine_chain(
    world: &dyn WorldModel,
    first: &GridVideo,
    skills: &[Skill],
    rng: &mut ChaCha8Rng,
) -> Result<Latents, NnError> {
    let most = world.max_chunks();
    if skills.is_empty() || most == 0 || skills.iter().any(|skill| skill.chunks == 0) {
        return Err(NnError::Input {
            what: "chain of skills to imagine".into(),
            expected: "at least one skill, each with at least one chunk".into(),
            got: format!("{} skills of {:?} chunks", skills.len(), skills.iter().map(|s| s.chunks).collect::<Vec<_>>()),
        });
    }
    let mut chain: Option<Latents> = None;
    for (prompt, chunks) in skills.iter().flat_map(|skill| clips(skill, most)) {
        let begin = match &chain {
            None => first.clone(),
            Some(done) => world.last_frame(done)?,
        };
        let clip = world.imagine(std::slice::from_ref(&begin), &[prompt], chunks, rng)?.pop();
        let clip = clip.filter(|clip| clip.shape == world.latent_shape() && clip.chunks() == chunks);
        let clip = clip.ok_or_else(|| NnError::Input {
            what: "answer of the world model".into(),
            expected: format!("one video of {chunks} chunks of {:?}", world.latent_shape()),
            got: "something else; this is a bug of the model's adapter".into(),
        })?;
        match &mut chain {
            None => chain = Some(clip),
            Some(chain) => chain.data.extend_from_slice(clip.future()),
        }
    }
    // There is at least one clip: a skill has chunks.
    chain.ok_or_else(|| NnError::Input {
        what: "chain of skills to imagine".into(),
        expected: "at least one clip".into(),
        got: "none".into(),
    })
}

/// The clips of a skill: as long as the model can, the last one shorter.
fn clips<'a>(skill: &Skill<'a>, most: usize) -> impl Iterator<Item = (&'a str, usize)> {
    let (prompt, chunks) = (skill.prompt, skill.chunks);
    (0..chunks.div_ceil(most)).map(move |clip| (prompt, most.min(chunks - clip * most)))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::{Skill, imagine_chain};
    use crate::mini::tiny;
    use crate::{GridVideo, LatentShape, Latents, WorldModel};
    use rand::RngExt;
    use rand_chacha::ChaCha8Rng;
    use w2a_nn::NnError;

    /// A counter: a frame holds a number, a latent the number at the end of its chunk, and every chunk counts one up. It
    /// writes down what it was asked.
    #[derive(Default)]
    struct Counter {
        asked: RefCell<Vec<(u8, String, usize)>>,
    }

    impl WorldModel for Counter {
        fn chunk_len(&self) -> usize {
            2
        }
        fn max_chunks(&self) -> usize {
            3
        }
        fn latent_shape(&self) -> LatentShape {
            LatentShape { channels: 1, height: 1, width: 1 }
        }
        fn frame_size(&self) -> (usize, usize) {
            (1, 1)
        }
        fn encode(&self, videos: &[GridVideo]) -> Result<Vec<Latents>, NnError> {
            let last = |video: &GridVideo| f32::from(*video.rgb.last().unwrap());
            Ok(videos.iter().map(|video| Latents { shape: self.latent_shape(), data: vec![last(video)] }).collect())
        }
        fn imagine(
            &self,
            first: &[GridVideo],
            words: &[&str],
            chunks: usize,
            rng: &mut ChaCha8Rng,
        ) -> Result<Vec<Latents>, NnError> {
            let begin = first[0].rgb[0];
            self.asked.borrow_mut().push((begin, words[0].to_owned(), chunks));
            let _: u8 = rng.random();
            let data = (0..=chunks).map(|chunk| f32::from(begin) + chunk as f32).collect();
            Ok(vec![Latents { shape: self.latent_shape(), data }])
        }
        fn decode(&self, latents: &[Latents]) -> Result<Vec<GridVideo>, NnError> {
            let video = |latents: &Latents| {
                let rgb = latents.data.iter().flat_map(|value| [*value as u8; 3]).collect();
                GridVideo { height: 1, width: 1, rgb }
            };
            Ok(latents.iter().map(video).collect())
        }
    }

    fn frame(value: u8) -> GridVideo {
        GridVideo { height: 1, width: 1, rgb: vec![value; 3] }
    }

    fn skill(prompt: &str, chunks: usize) -> Skill<'_> {
        Skill { prompt, chunks }
    }

    #[test]
    fn clips_begin_where_the_last_one_ended_and_the_clock_goes_on() {
        let world = Counter::default();
        let skills = [skill("reach", 2), skill("lift", 7), skill("place", 1)];
        let chain = imagine_chain(&world, &frame(5), &skills, &mut w2a_data::stream(0, "t")).unwrap();
        assert_eq!(chain.chunks(), 10);
        assert_eq!(chain.data, (5..=15).map(|value| value as f32).collect::<Vec<_>>());
        let asked = |begin, prompt: &str, chunks| (begin, prompt.to_owned(), chunks);
        assert_eq!(
            *world.asked.borrow(),
            [
                asked(5, "reach", 2),
                asked(7, "lift", 3),
                asked(10, "lift", 3),
                asked(13, "lift", 1),
                asked(14, "place", 1)
            ]
        );
    }

    #[test]
    fn no_skill_and_a_skill_without_chunks_are_refused() {
        for skills in [&[][..], &[skill("reach", 2), skill("lift", 0)]] {
            let error = imagine_chain(&Counter::default(), &frame(0), skills, &mut w2a_data::stream(0, "t"));
            assert!(error.unwrap_err().to_string().starts_with("chain of skills to imagine: expected at least one"));
        }
    }

    #[test]
    fn a_chain_of_one_skill_is_imagine_bit_for_bit_and_two_add_up() {
        let world = tiny();
        let first = GridVideo { height: 16, width: 32, rgb: (0..16 * 32 * 3).map(|i| (i % 251) as u8).collect() };
        let rng = || w2a_data::stream(7, "imagine");
        let alone = world.imagine(std::slice::from_ref(&first), &["lift"], 2, &mut rng()).unwrap().remove(0);
        let chain = imagine_chain(&world, &first, &[skill("lift", 2)], &mut rng()).unwrap();
        assert_eq!(chain, alone);
        let both = imagine_chain(&world, &first, &[skill("lift", 2), skill("place", 4)], &mut rng()).unwrap();
        assert_eq!(both.chunks(), 6);
        assert_eq!(both.data[..alone.data.len()], alone.data);
        // The second clip is the one that begins at the decoded end of the first.
        let whole = world.decode(std::slice::from_ref(&alone)).unwrap().remove(0);
        let last = world.last_frame(&alone).unwrap();
        assert_eq!(last.rgb, whole.frame(whole.frames() - 1));
        let mut rng = rng();
        world.imagine(std::slice::from_ref(&first), &["lift"], 2, &mut rng).unwrap();
        let second = world.imagine(&[last], &["place"], 3, &mut rng).unwrap().remove(0);
        assert_eq!(both.data[alone.data.len()..][..second.future().len()], *second.future());
        assert_ne!(alone.latent(1), alone.latent(2));
    }
}
