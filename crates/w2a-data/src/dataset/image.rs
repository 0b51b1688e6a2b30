//! Images as PNG: lossless, and fast enough not to matter beside the simulator.

use png::{BitDepth, ColorType, Compression, Decoder, Encoder, Limits, Transformations};

/// An image that cannot be written or read as PNG; says what it has or is, such as "is 4x6, expected 6x4".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PngError(String);

/// An RGB image, `[height, width, 3]`, as a PNG file.
///
/// # Errors
/// Bytes that do not fill the size, or a side that is too large.
pub fn encode_png(rgb: &[u8], height: usize, width: usize) -> Result<Vec<u8>, PngError> {
    encode(rgb, height, width).map_err(PngError)
}

/// The RGB bytes, `[height, width, 3]`, of a PNG file of exactly that size.
///
/// # Errors
/// Bytes that are no PNG, a damaged one, another size, or colours other than RGB.
pub fn decode_png(bytes: &[u8], height: usize, width: usize) -> Result<Vec<u8>, PngError> {
    let mut rgb = Vec::new();
    decode_into(bytes, height, width, &mut rgb).map_err(PngError)?;
    Ok(rgb)
}

/// Encodes an RGB image, `[height, width, 3]`.
pub(super) fn encode(rgb: &[u8], height: usize, width: usize) -> Result<Vec<u8>, String> {
    let side = |side: usize| u32::try_from(side).map_err(|_| format!("image side {side} is too large for PNG"));
    let mut bytes = Vec::with_capacity(rgb.len() / 2);
    let mut encoder = Encoder::new(&mut bytes, side(width)?, side(height)?);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(rgb)?;
        writer.finish()
    });
    written.map_err(|error| format!("cannot be encoded as PNG: {error}"))?;
    Ok(bytes)
}

/// Decodes a PNG of exactly `[height, width, 3]` and appends its RGB bytes to `out`.
///
/// The size is compared with the header before anything is allocated.
pub(super) fn decode_into(bytes: &[u8], height: usize, width: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let length = height * width * 3;
    let limits = Limits { bytes: length.saturating_mul(2).saturating_add(1 << 20) };
    let mut decoder = Decoder::new_with_limits(std::io::Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(|error| format!("is no readable PNG: {error}"))?;
    let info = reader.info();
    if (info.height as usize, info.width as usize) != (height, width) {
        return Err(format!("is {}x{}, expected {height}x{width}", info.height, info.width));
    }
    if reader.output_color_type() != (ColorType::Rgb, BitDepth::Eight) {
        return Err(format!("has the colours {:?}, expected RGB", reader.output_color_type().0));
    }
    let start = out.len();
    out.resize(start + length, 0);
    reader.next_frame(&mut out[start..]).map(drop).map_err(|error| {
        out.truncate(start);
        format!("is a damaged PNG: {error}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(height: usize, width: usize) -> Vec<u8> {
        (0..height * width * 3).map(|i| (i * i / 7 % 251) as u8).collect()
    }

    #[test]
    fn images_come_back_exactly() {
        for (height, width) in [(1, 1), (3, 5), (64, 64)] {
            let rgb = picture(height, width);
            let mut out = vec![9];
            decode_into(&encode(&rgb, height, width).unwrap(), height, width, &mut out).unwrap();
            assert_eq!((out[0], &out[1..]), (9, &rgb[..]));
        }
    }

    #[test]
    fn a_png_of_another_size_is_refused_before_decoding() {
        let bytes = encode(&picture(4, 6), 4, 6).unwrap();
        let mut out = Vec::new();
        let error = decode_into(&bytes, 6, 4, &mut out).unwrap_err();
        assert!(error.contains("4x6, expected 6x4") && out.capacity() == 0, "{error}");
    }

    #[test]
    fn greyscale_jpeg_and_empty_bytes_are_refused() {
        let mut grey = Vec::new();
        let mut encoder = Encoder::new(&mut grey, 2, 2);
        encoder.set_color(ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&[0; 4]).unwrap();
        assert!(decode_into(&grey, 2, 2, &mut Vec::new()).unwrap_err().contains("Grayscale"));
        assert!(decode_into(b"\xff\xd8\xff\xe0JFIF", 2, 2, &mut Vec::new()).is_err());
        assert!(decode_into(b"", 2, 2, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_png_cut_or_damaged_anywhere_is_refused() {
        let bytes = encode(&picture(6, 6), 6, 6).unwrap();
        // The last chunk (IEND, 12 bytes) holds no pixels: a decoder may stop before it.
        for end in 0..bytes.len() - 12 {
            assert!(decode_into(&bytes[..end], 6, 6, &mut Vec::new()).is_err(), "cut at {end}");
        }
    }
}
