//! Names of clips and files of skill ranges. A name that is read must be written again in a form that says the same.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use w2a_data::{ClipLayout, ClipName, SkillRanges};

fuzz_target!(|bytes: &[u8]| {
    let _ = SkillRanges::parse(Path::new("video_metadata.json"), bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for layout in [ClipLayout::RoboCasa, ClipLayout::Libero, ClipLayout::Franka, ClipLayout::Bridge] {
        if let Ok(name) = ClipName::parse(layout, text) {
            assert_eq!(ClipName::parse(layout, &name.to_string()).ok(), Some(name));
        }
    }
});
