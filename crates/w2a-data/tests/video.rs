//! Videos: exact frames by number and by time, whatever the codec and the order of its frames; damage is refused.
//!
//! These tests need ffmpeg and fail without it. The videos are made here, of numbered grey levels, so that every frame
//! tells which one it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use w2a_data::video::{
    Codec, Encoding, FrameCache, Mp4Index, VideoError, VideoReader, VideoWriter, ffmpeg, read_frames,
};

const HEIGHT: usize = 64;
const WIDTH: usize = 80;
const FRAMES: usize = 30;

/// The grey level of frame `number`: neighbours differ by more than a codec's error.
fn level(number: usize) -> u8 {
    (20 + number * 7 % 211) as u8
}

fn frames(first: usize, count: usize) -> Vec<u8> {
    (first..first + count).flat_map(|number| vec![level(number); HEIGHT * WIDTH * 3]).collect()
}

/// Encodes `count` frames, numbered from `first`, with the given arguments of ffmpeg.
fn encode(path: &Path, first: usize, count: usize, arguments: &[&str]) {
    use std::io::Write;
    let size = format!("{WIDTH}x{HEIGHT}");
    let mut child = Command::new(ffmpeg().unwrap())
        .args(["-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-r", "20", "-s", &size, "-i", "-"])
        .args(arguments)
        .args(["-pix_fmt", "yuv420p"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&frames(first, count)).unwrap();
    assert!(child.wait().unwrap().success(), "ffmpeg could not encode {arguments:?}");
}

/// Which frame this is, by its mean level.
#[track_caller]
fn assert_frame(rgb: &[u8], number: usize) {
    assert_eq!(rgb.len(), HEIGHT * WIDTH * 3);
    let mean = rgb.iter().map(|&byte| u64::from(byte)).sum::<u64>() as f64 / rgb.len() as f64;
    assert!((mean - f64::from(level(number))).abs() < 3.0, "frame {number} has level {mean}, not {}", level(number));
}

/// Every kind of stream whose frames are hard to find: long groups, reordered frames, groups that lean on the one before.
const KINDS: [(&str, Codec, &[&str]); 7] = [
    ("av1 of lerobot", Codec::Av1, &["-c:v", "libsvtav1", "-preset", "12", "-g", "2", "-crf", "30"]),
    ("av1, one long group", Codec::Av1, &["-c:v", "libsvtav1", "-preset", "12", "-g", "300", "-crf", "30"]),
    ("h264, groups of two", Codec::H264, &["-c:v", "libx264", "-g", "2"]),
    ("h264 with reordered frames", Codec::H264, &["-c:v", "libx264", "-g", "12", "-bf", "3"]),
    ("h264, open groups", Codec::H264, &["-c:v", "libx264", "-g", "8", "-bf", "3", "-x264-params", "open-gop=1"]),
    ("hevc, open groups", Codec::Hevc, &["-c:v", "libx265", "-g", "8", "-x265-params", "log-level=none:bframes=3"]),
    ("hevc, closed groups", Codec::Hevc, &["-c:v", "libx265", "-g", "6", "-x265-params", "log-level=none:open-gop=0"]),
];

/// A video of that kind in `folder`; encoded once for all tests.
fn made(folder: &Path, kind: usize) -> PathBuf {
    static MADE: Mutex<BTreeMap<usize, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let path = folder.join(format!("{kind}.mp4"));
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = made.entry(kind).or_insert_with(|| {
        encode(&path, 0, FRAMES, KINDS[kind].2);
        std::fs::read(&path).unwrap()
    });
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn every_frame_of_every_kind_of_stream_is_the_one_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, (name, codec, _)) in KINDS.iter().enumerate() {
        let path = made(folder.path(), kind);
        let reader = VideoReader::open(&path, &FrameCache::with_bytes(0)).unwrap();
        let index = reader.index();
        assert_eq!(
            (index.codec(), index.height(), index.width(), index.len()),
            (*codec, HEIGHT, WIDTH, FRAMES),
            "{name}"
        );
        assert!((index.fps() - 20.0).abs() < 1e-9, "{name}: {}", index.fps());
        // A full decode by ffmpeg alone is what every way of access has to give, byte for byte.
        let full = Command::new(ffmpeg().unwrap())
            .args(["-loglevel", "error", "-i"])
            .arg(&path)
            .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
            .output()
            .unwrap()
            .stdout;
        let full: Vec<&[u8]> = full.chunks(HEIGHT * WIDTH * 3).collect();
        assert_eq!(full.len(), FRAMES, "{name}");
        let streamed: Vec<Vec<u8>> = reader.stream(0..FRAMES).unwrap().map(Result::unwrap).collect();
        for (number, rgb) in streamed.iter().enumerate() {
            assert_frame(rgb, number);
            assert!(rgb == full[number], "{name}: frame {number} of the stream");
        }
        for range in [7..8, 5..19, 29..30, 11..11] {
            let part: Vec<Vec<u8>> = reader.stream(range.clone()).unwrap().map(Result::unwrap).collect();
            let levels = |frames: &[Vec<u8>]| frames.iter().map(|rgb| rgb[0]).collect::<Vec<_>>();
            let (got, expected) = (levels(&part), levels(&streamed[range.clone()]));
            assert!(part == streamed[range.clone()], "{name}: frames {range:?} are {got:?}, expected {expected:?}");
        }
        let order = [29, 3, 4, 17, 0, 3, 12, 27, 28, 8, 6];
        for (rgb, number) in reader.frames(&order).unwrap().iter().zip(order) {
            assert!(rgb[..] == *full[number], "{name}: frame {number} of a batch");
        }
    }
}

#[test]
fn single_frames_are_exact_and_their_neighbours_come_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let cache = FrameCache::with_bytes(1 << 24);
    let reader = VideoReader::open(made(folder.path(), 3), &cache).unwrap();
    assert_frame(&reader.frame(20).unwrap(), 20);
    // Deleted: what comes now comes from the cache.
    std::fs::remove_file(reader.index().path()).unwrap();
    for number in [19, 21, 10, 25] {
        assert_frame(&reader.frame(number).unwrap(), number);
    }
    assert!(cache.bytes() <= cache.limit_bytes());
    assert!(matches!(reader.frame(0), Err(VideoError::Io { .. })));
}

#[test]
fn frames_are_found_by_time_within_the_tolerance_only() {
    let folder = tempfile::tempdir().unwrap();
    let reader = VideoReader::open(made(folder.path(), 2), &FrameCache::with_bytes(1 << 24)).unwrap();
    assert_frame(&reader.frame_at(0.35 + 0.9e-4).unwrap(), 7);
    assert_frame(&reader.frame_at(0.35 - 0.9e-4).unwrap(), 7);
    assert_eq!(reader.index().timestamp(29), Some(1.45));
    assert_eq!(reader.index().key_frames().take(3).collect::<Vec<_>>(), [0, 2, 4]);
    for wrong in [0.3502, -0.05, 1.5, f64::NAN, f64::INFINITY] {
        let error = reader.frame_at(wrong).unwrap_err();
        assert!(matches!(error, VideoError::NoTimestamp { .. }), "{wrong}: {error}");
    }
    assert!(matches!(reader.frame(30), Err(VideoError::NoFrame { frame: 30, frames: 30, .. })));
    assert!(matches!(reader.stream(28..31), Err(VideoError::NoFrame { frame: 30, .. })));
}

#[test]
fn a_batch_over_several_files_and_codecs_keeps_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let indices: Vec<_> =
        [0, 2, 4, 5].map(|kind| std::sync::Arc::new(Mp4Index::open(made(folder.path(), kind)).unwrap())).into();
    let second = folder.path().join("second.mp4");
    encode(&second, 100, FRAMES, KINDS[0].2);
    let second = std::sync::Arc::new(Mp4Index::open(&second).unwrap());
    let mut wanted = Vec::new();
    for (at, number) in [29, 1, 16, 9, 22, 2].into_iter().enumerate() {
        wanted.push((indices[at % 4].clone(), number, number));
        wanted.push((second.clone(), number, number + 100));
        wanted.push((indices[(at + 1) % 4].clone(), number, number));
    }
    let cache = FrameCache::with_bytes(1 << 20);
    let requests: Vec<_> = wanted.iter().map(|(index, frame, _)| (index.clone(), *frame)).collect();
    for _ in 0..2 {
        for (rgb, (_, _, number)) in read_frames(&requests, &cache).unwrap().iter().zip(&wanted) {
            assert_frame(rgb, *number);
        }
    }
    assert!(cache.bytes() > 0 && cache.bytes() <= 1 << 20);
}

#[test]
fn written_videos_come_back_frame_by_frame() {
    let folder = tempfile::tempdir().unwrap();
    for encoding in [Encoding::Av1, Encoding::H264] {
        let path = folder.path().join(format!("{encoding:?}.mp4"));
        let mut writer = VideoWriter::create(&path, encoding, HEIGHT, WIDTH, 20).unwrap();
        writer.push(&frames(0, 9)).unwrap();
        writer.push(&frames(9, 4)).unwrap();
        assert!(!path.exists() && writer.frames() == 13);
        writer.finish().unwrap();
        let reader = VideoReader::open(&path, &FrameCache::with_bytes(0)).unwrap();
        assert_eq!((reader.index().codec(), reader.index().len()), (encoding.codec(), 13));
        assert_eq!(reader.index().key_frames().collect::<Vec<_>>(), [0, 2, 4, 6, 8, 10, 12]);
        for (number, rgb) in reader.stream(0..13).unwrap().enumerate() {
            assert_frame(&rgb.unwrap(), number);
        }
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn videos_that_cannot_be_written_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    let create = |encoding, height, width, fps| VideoWriter::create(&path, encoding, height, width, fps);
    for refused in [
        create(Encoding::H264, 63, 64, 20),
        create(Encoding::H264, 0, 64, 20),
        create(Encoding::Av1, 64, 48, 20),
        create(Encoding::Av1, 64, 64, 0),
    ] {
        assert!(matches!(refused.map(drop), Err(VideoError::Specification { .. })));
    }
    let mut writer = create(Encoding::H264, HEIGHT, WIDTH, 20).unwrap();
    assert!(matches!(writer.push(&[0; 10]), Err(VideoError::Specification { .. })));
    writer.push(&frames(0, 1)).unwrap();
    drop(writer);
    assert!(create(Encoding::H264, HEIGHT, WIDTH, 20).unwrap().finish().is_err(), "no frame");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[track_caller]
fn assert_damaged(path: &Path, part: &str) {
    let error = Mp4Index::open(path).map(drop).unwrap_err().to_string();
    assert!(error.contains(part) && error.contains(path.file_name().unwrap().to_str().unwrap()), "{part:?} in {error}");
}

#[test]
fn a_truncated_mp4_is_refused_before_anything_is_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), 2);
    let whole = std::fs::read(&path).unwrap();
    // Near its ends and now and then between: every cut would take seconds.
    for end in (0..whole.len()).filter(|end| *end < 200 || end % 101 == 0 || *end + 200 > whole.len()) {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert_damaged(&path, "truncated or damaged");
    }
    // With the index in front the cut is in the pictures, and shows all the same.
    let front = folder.path().join("front.mp4");
    encode(&front, 0, FRAMES, &["-c:v", "libx264", "-movflags", "+faststart"]);
    let whole = std::fs::read(&front).unwrap();
    std::fs::write(&front, &whole[..whole.len() - 1]).unwrap();
    assert_damaged(&front, "claims");
}

#[test]
fn a_zero_byte_mp4_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.mp4");
    std::fs::write(&path, b"").unwrap();
    assert_damaged(&path, "0 bytes");
    std::fs::write(&path, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n").unwrap();
    assert_damaged(&path, "bytes");
    let missing = Mp4Index::open(folder.path().join("none.mp4"));
    assert!(matches!(missing.map(drop), Err(VideoError::Io { .. })));
}

#[test]
fn a_corrupt_body_is_an_error_with_the_words_of_ffmpeg() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [0, 2, 5] {
        let path = made(folder.path(), kind);
        let mut bytes = std::fs::read(&path).unwrap();
        let body = bytes.windows(4).position(|kind| kind == b"mdat").unwrap() + 8;
        bytes[body..body + 400].fill(0xa5);
        std::fs::write(&path, &bytes).unwrap();
        let reader = VideoReader::open(&path, &FrameCache::with_bytes(1 << 24)).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        for error in [
            reader.frame(0).unwrap_err(),
            reader.stream(0..FRAMES).unwrap().find_map(Result::err).expect("the damage must show"),
        ] {
            let text = error.to_string();
            assert!(matches!(error, VideoError::Decode { .. }) && text.contains(name), "{text}");
            assert!(text.contains("ffmpeg ended with"), "{text}");
        }
    }
}

#[test]
fn a_video_without_pictures_or_of_another_codec_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mpeg4.mp4");
    encode(&path, 0, 3, &["-c:v", "mpeg4"]);
    let error = Mp4Index::open(&path).map(drop).unwrap_err();
    assert!(error.to_string().contains("expected av1, h264 or hevc") || error.to_string().contains("one video track"));
}

#[test]
fn a_stream_dropped_in_the_middle_ends_its_child() {
    let folder = tempfile::tempdir().unwrap();
    let reader = VideoReader::open(made(folder.path(), 2), &FrameCache::with_bytes(0)).unwrap();
    for _ in 0..3 {
        let mut stream = reader.stream(0..FRAMES).unwrap();
        assert!(stream.next().unwrap().is_ok());
    }
    // A zombie would be a child of this process that has ended and was not waited for.
    let children = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = format!(" {} ", std::process::id());
    let zombies = children
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| stat.contains("(ffmpeg) Z") && stat.contains(&own));
    assert_eq!(zombies.count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged index is refused or has no effect on what it promises to fit the file; it never ends the process.
    #[test]
    fn a_damaged_index_never_panics(at: prop::sample::Index, bytes in prop::collection::vec(any::<u8>(), 1..9)) {
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let whole = WHOLE.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::read(made(folder.path(), 3)).unwrap()
        });
        let mut damaged = whole.clone();
        let index = whole.windows(4).position(|kind| kind == b"moov").unwrap() - 4;
        let at = index + at.index(whole.len() - index - bytes.len());
        damaged[at..at + bytes.len()].copy_from_slice(&bytes);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.mp4");
        std::fs::write(&path, damaged).unwrap();
        if let Ok(index) = Mp4Index::open(&path) {
            prop_assert!(index.len() <= whole.len() && index.frame_len() > 0);
        }
    }
}
