//! The index of mp4 files; nothing is decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use w2a_data::video::Mp4Index;

fuzz_target!(init: {
    // `Mp4Index::open` catches what the parser panics at; the fuzzer's hook would end the process before that. A panic that
    // nobody catches still does.
    std::panic::set_hook(Box::new(|_| {}));
}, |bytes: &[u8]| {
    let file = tempfile::Builder::new().suffix(".mp4").tempfile().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a temporary file");
    if let Ok(index) = Mp4Index::open(file.path()) {
        let _ = index.key_frames().count();
        let _ = (0..index.len()).filter_map(|frame| index.timestamp(frame)).count();
        let _ = index.frame_at(0.0);
    }
});
