//! Pictures as an animated GIF.

use gif::{Encoder, EncodingError, Frame, Repeat};

use crate::image::{ImageError, Picture, same_size};

/// How thoroughly the 256 colours of a frame are chosen, from 1 (best) to 30 (fastest).
const SPEED: i32 = 10;

/// An endless animated GIF, which everything shows, with 256 colours a frame; the last frame is held for a second.
///
/// Delays of a GIF are whole hundredths of a second: rates that are no divisor of 100 are rounded.
///
/// # Errors
/// [`ImageError::Empty`] without a frame, [`ImageError::Size`] if frames differ in size, [`ImageError::EncodeGif`] also for
/// sides above 65535.
pub fn gif(frames: &[Picture], frames_per_s: u16) -> Result<Vec<u8>, ImageError> {
    let (height, width) = same_size(frames.iter())?;
    let fail = |source: EncodingError| ImageError::EncodeGif { height, width, source };
    let side = |side: usize| {
        u16::try_from(side)
            .map_err(|_| fail(std::io::Error::new(std::io::ErrorKind::InvalidInput, "too large for GIF").into()))
    };
    let (rows, columns) = (side(height)?, side(width)?);
    let fps = frames_per_s.max(1);
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, columns, rows, &[]).map_err(fail)?;
    encoder.set_repeat(Repeat::Infinite).map_err(fail)?;
    for (index, picture) in frames.iter().enumerate() {
        let mut rgba = picture.rgba().to_vec();
        let mut frame = Frame::from_rgba_speed(columns, rows, &mut rgba, SPEED);
        frame.delay = if index + 1 == frames.len() { 100 } else { (100 + fps / 2) / fps };
        encoder.write_frame(&frame).map_err(fail)?;
    }
    drop(encoder);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::gif;
    use crate::{ImageError, Picture};

    fn solid(size: (usize, usize), colour: [u8; 3]) -> Picture {
        Picture::from_rgb(size.0, size.1, &colour.repeat(size.0 * size.1)).unwrap()
    }

    #[test]
    fn a_gif_decodes_to_its_frames_with_their_delays() {
        let frames = [solid((4, 6), [250, 0, 0]), solid((4, 6), [0, 0, 250])];
        let bytes = gif(&frames, 20).unwrap();
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(&bytes[..]).unwrap();
        let mut delays = Vec::new();
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            let expected = &frames[delays.len()].rgba()[..3];
            let near =
                frame.buffer.chunks_exact(4).all(|pixel| pixel.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) < 8));
            assert!(near && (frame.height, frame.width) == (4, 6));
            delays.push(frame.delay);
        }
        assert_eq!(delays, [5, 100]);
    }

    #[test]
    fn no_frame_unequal_frames_and_sides_that_no_gif_has_are_refused() {
        assert!(matches!(gif(&[], 20), Err(ImageError::Empty)));
        let frames = [solid((4, 6), [0; 3]), solid((6, 4), [0; 3])];
        assert!(matches!(gif(&frames, 20), Err(ImageError::Size { frame: 1, .. })));
        let error = gif(&[solid((1, 70_000), [0; 3])], 20).unwrap_err().to_string();
        assert!(error.contains("too large for GIF") && error.contains("70000"), "{error}");
    }
}
