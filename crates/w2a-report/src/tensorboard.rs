//! TensorBoard event files, written natively: scalars only.
//!
//! A file is a sequence of records: length (`u64`, little-endian), masked CRC-32C of those eight bytes (`u32`), the
//! bytes, masked CRC-32C of the bytes. Each record is a protobuf `Event`; the first one names the version.

use std::io::{self, Write};

/// Writes `Event` records to any [`Write`].
pub struct EventWriter<W> {
    inner: W,
}

impl<W: Write> EventWriter<W> {
    /// Starts a file. `unix_s` is the wall-clock time in seconds since 1970.
    ///
    /// # Errors
    /// What `inner` reports.
    pub fn new(inner: W, unix_s: f64) -> io::Result<Self> {
        let mut writer = Self { inner };
        let mut event = Vec::new();
        put_f64(&mut event, 1, unix_s);
        put_bytes(&mut event, 3, b"brain.Event:2");
        writer.record(&event)?;
        Ok(writer)
    }

    /// Appends one point of the curve `tag`.
    ///
    /// # Errors
    /// What the inner writer reports.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64, unix_s: f64) -> io::Result<()> {
        let mut scalar = Vec::new();
        put_bytes(&mut scalar, 1, tag.as_bytes());
        put_key(&mut scalar, 2, WIRE_FIXED32);
        scalar.extend((value as f32).to_le_bytes());
        let mut summary = Vec::new();
        put_bytes(&mut summary, 1, &scalar);
        let mut event = Vec::new();
        put_f64(&mut event, 1, unix_s);
        put_key(&mut event, 2, WIRE_VARINT);
        put_varint(&mut event, step);
        put_bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    /// Hands buffered bytes on.
    ///
    /// # Errors
    /// What the inner writer reports.
    pub fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn record(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(bytes.len() + 16);
        record.extend(length);
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(bytes);
        record.extend(masked_crc32c(bytes).to_le_bytes());
        // One call, so that a killed process leaves at most one torn record, at the end, which readers skip.
        self.inner.write_all(&record)
    }
}

const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_BYTES: u64 = 2;
const WIRE_FIXED32: u64 = 5;

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_key(out: &mut Vec<u8>, field: u64, wire: u64) {
    put_varint(out, field << 3 | wire);
}

fn put_f64(out: &mut Vec<u8>, field: u64, value: f64) {
    put_key(out, field, WIRE_FIXED64);
    out.extend(value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, WIRE_BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// CRC-32C (Castagnoli), bit by bit: a record is a few dozen bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// The rotation and offset keep a checksum of data that holds checksums meaningful.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_equals_rfc_3720_values() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_file_equals_the_golden_bytes() {
        let mut bytes = Vec::new();
        let mut writer = EventWriter::new(&mut bytes, 2.0).unwrap();
        writer.scalar("world/loss", 300, 0.5, 3.0).unwrap();
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex, include_str!("../tests/golden/events.hex").trim());
    }
}
