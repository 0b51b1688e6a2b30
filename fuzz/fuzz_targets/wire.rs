//! Messages of policy servers, in both dialects of numpy arrays. What is read must be written again and read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The parser's own sources: its crate would build burn.
#[allow(dead_code, unused_imports)]
#[path = "../../crates/w2a-serve/src/codec/mod.rs"]
mod codec;

use codec::{Dialect, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    for dialect in [Dialect::Groot, Dialect::Openpi] {
        let Ok(value) = decode(bytes, dialect) else { continue };
        let mut again = Vec::new();
        encode(&value, dialect, &mut again).expect("what was read is short enough to write");
        // Compared as bytes: a NaN is not equal to itself.
        let mut twice = Vec::new();
        encode(&decode(&again, dialect).expect("our own message"), dialect, &mut twice).expect("as before");
        assert_eq!(again, twice);
    }
});
