//! Videos with a prompt each, as the release reads them to fine-tune its world model: `metadata.csv` with the columns `video`
//! and `prompt`, beside the folder `videos`.
//!
//! The release's `t5_xxl/<sample>.pickle`, embedded prompts, are left aside: a pickle of NumPy's arrays is a program.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::error::LayoutError;
use crate::Checksum;

/// The list of videos.
const METADATA: &str = "metadata.csv";
/// Where they are.
const VIDEOS: &str = "videos";
/// Larger files are no lists.
const MOST_BYTES: u64 = 1 << 28;

/// A video and what it shows; it has not been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionedVideo {
    /// The video file.
    pub video: PathBuf,
    /// What it shows.
    pub prompt: String,
}

/// The videos of a folder, in the order of its list.
#[derive(Clone, Debug)]
pub struct CaptionedVideos {
    dir: PathBuf,
    videos: Vec<CaptionedVideo>,
}

impl CaptionedVideos {
    /// Whether `dir` has such a list.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(METADATA).is_file()
    }

    /// Reads the list of `dir` and finds its videos: a row names a file of `dir` or of its folder `videos`, with or without
    /// `.mp4`. Columns of other names are left aside.
    ///
    /// # Errors
    /// [`LayoutError`] if the list cannot be read, lacks a column, is empty, or has a row without a prompt or whose video is
    /// not there.
    pub fn open(dir: &Path) -> Result<Self, LayoutError> {
        let file = dir.join(METADATA);
        let attach = |source| LayoutError::Io { operation: "reading", path: file.clone(), source };
        let mut text = Vec::new();
        std::fs::File::open(&file).and_then(|list| list.take(MOST_BYTES + 1).read_to_end(&mut text)).map_err(attach)?;
        let wrong = |line: u64, what: String| LayoutError::Captions { file: file.clone(), line, what };
        if text.len() as u64 > MOST_BYTES {
            return Err(wrong(1, format!("the list is larger than {MOST_BYTES} bytes")));
        }
        let rows = parse(&text).map_err(|(line, what)| wrong(line, what))?;
        let mut videos = Vec::with_capacity(rows.len());
        for Row { line, video, prompt } in rows {
            let found = find(dir, &video).ok_or_else(|| {
                wrong(line, format!("there is no video {video:?} below {}", dir.join(VIDEOS).display()))
            })?;
            videos.push(CaptionedVideo { video: found, prompt });
        }
        Ok(Self { dir: dir.to_owned(), videos })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The videos.
    pub fn videos(&self) -> &[CaptionedVideo] {
        &self.videos
    }

    /// Changes when a prompt or the content of a video does.
    ///
    /// # Errors
    /// [`LayoutError::Io`] if a video cannot be read.
    pub fn fingerprint(&self) -> Result<String, LayoutError> {
        let mut checksum = Checksum::new();
        let mut block = Vec::new();
        for CaptionedVideo { video, prompt } in &self.videos {
            checksum.part(prompt.as_bytes());
            let attach = |source| LayoutError::Io { operation: "reading", path: video.clone(), source };
            let mut file = std::fs::File::open(video).map_err(attach)?;
            loop {
                block.clear();
                (&mut file).take(1 << 20).read_to_end(&mut block).map_err(attach)?;
                // The empty one ends the file.
                checksum.part(&block);
                if block.is_empty() {
                    break;
                }
            }
        }
        Ok(checksum.hex())
    }
}

/// The file that a row names, if it is there: below `dir`, and nowhere else.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let is_below = Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let videos = dir.join(VIDEOS);
    let places = [dir.join(name), videos.join(name), videos.join(format!("{name}.mp4"))];
    places.into_iter().filter(|_| is_below).find(|place| place.is_file())
}

/// A row of the list.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    line: u64,
    video: String,
    prompt: String,
}

/// A line, and what is wrong with it.
type Fault = (u64, String);
/// Cells, and the line that they begin in.
type Record = (u64, Vec<String>);

/// The rows of a list.
fn parse(text: &[u8]) -> Result<Vec<Row>, Fault> {
    let mut records = records(text)?.into_iter();
    let (_, header) = records.next().unwrap_or((1, Vec::new()));
    let column = |name: &str| {
        let wrong = || (1, format!("there is no column {name:?}, only {header:?}"));
        header.iter().position(|found| found.trim() == name).ok_or_else(wrong)
    };
    let (video, prompt) = (column("video")?, column("prompt")?);
    let mut rows = Vec::new();
    for (line, cells) in records {
        if cells.len() != header.len() {
            return Err((line, format!("there are {} columns, {} in the first line", cells.len(), header.len())));
        }
        let cell = |column: usize, name: &str| match cells.get(column).map(|text| text.trim()) {
            None | Some("") => Err((line, format!("the {name} is empty"))),
            Some(text) => Ok(text.to_owned()),
        };
        rows.push(Row { line, video: cell(video, "video")?, prompt: cell(prompt, "prompt")? });
    }
    if rows.is_empty() {
        return Err((1, "the list has no row".into()));
    }
    Ok(rows)
}

/// The records of a CSV file (RFC 4180).
fn records(text: &[u8]) -> Result<Vec<Record>, Fault> {
    let mut rest = text;
    let mut reader = csv_core::Reader::new();
    let (mut cells, mut ends) = (vec![0; text.len() + 1], vec![0; 16]);
    let (mut out, mut line, mut from, mut count) = (Vec::new(), 1, 0, 0);
    loop {
        let (result, read, written, fields) = reader.read_record(rest, &mut cells[from..], &mut ends[count..]);
        rest = rest.get(read..).unwrap_or_default();
        (from, count) = (from + written, count + fields);
        match result {
            // The next call, without input, says that this is the end.
            csv_core::ReadRecordResult::InputEmpty => {}
            csv_core::ReadRecordResult::OutputFull => cells.resize(2 * cells.len(), 0),
            csv_core::ReadRecordResult::OutputEndsFull => ends.resize(2 * ends.len(), 0),
            csv_core::ReadRecordResult::Record => {
                let mut start = 0;
                let mut record = Vec::with_capacity(count);
                for &end in &ends[..count] {
                    let cell = std::str::from_utf8(cells.get(start..end).unwrap_or_default());
                    record.push(cell.map_err(|error| (line, format!("no text in UTF-8: {error}")))?.to_owned());
                    start = end;
                }
                out.push((line, record));
                (line, from, count) = (reader.line(), 0, 0);
            }
            csv_core::ReadRecordResult::End => return Ok(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::{CaptionedVideos, parse};

    fn folder(list: &[u8], videos: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs_err::create_dir(folder.path().join("videos")).unwrap();
        fs_err::write(folder.path().join("metadata.csv"), list).unwrap();
        for video in videos {
            fs_err::write(folder.path().join(video), video).unwrap();
        }
        folder
    }

    fn refused(dir: &Path) -> String {
        CaptionedVideos::open(dir).unwrap_err().to_string()
    }

    #[test]
    fn rows_name_videos_with_and_without_their_folder_and_ending() {
        let list =
            b"\xef\xbb\xbfid,video,prompt\r\n1,b.mp4,\"put \"\"it\"\",\nthere\"\r\n2,videos/a.mp4, lift \n3,b,push\n";
        let folder = folder(list, &["videos/a.mp4", "videos/b.mp4"]);
        let found = CaptionedVideos::open(folder.path()).unwrap();
        let names: Vec<_> = found.videos().iter().map(|v| v.video.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["b.mp4", "a.mp4", "b.mp4"]);
        let prompts: Vec<_> = found.videos().iter().map(|v| v.prompt.as_str()).collect();
        assert_eq!(prompts, ["put \"it\",\nthere", "lift", "push"]);
        let before = found.fingerprint().unwrap();
        assert_eq!(found.fingerprint().unwrap(), before);
        fs_err::write(folder.path().join("videos/a.mp4"), "other bytes").unwrap();
        assert_ne!(found.fingerprint().unwrap(), before);
    }

    #[test]
    fn a_missing_column_is_named() {
        let folder = folder(b"video,text\na,lift\n", &["videos/a.mp4"]);
        let error = refused(folder.path());
        assert!(error.contains("metadata.csv, line 1") && error.contains("no column \"prompt\""), "{error}");
    }

    #[test]
    fn a_video_that_is_not_there_is_named_with_its_line() {
        let folder = folder(b"video,prompt\na,lift\nb,push\n", &["videos/a.mp4"]);
        assert!(refused(folder.path()).contains("line 3: there is no video \"b\""));
    }

    #[test]
    fn a_video_outside_of_the_folder_is_not_read() {
        let folder = folder(b"video,prompt\n../outside.mp4,lift\n", &[]);
        fs_err::write(folder.path().join("outside.mp4"), "x").unwrap();
        assert!(refused(folder.path()).contains("there is no video \"../outside.mp4\""));
    }

    #[test]
    fn empty_prompts_short_rows_other_bytes_and_empty_lists_are_refused() {
        for (list, words) in [
            (&b"video,prompt\na, \n"[..], "line 2: the prompt is empty"),
            (b"video,prompt\na,lift\na\n", "line 3: there are 1 columns, 2 in the first line"),
            (b"video,prompt\na,\xff\n", "line 2: no text in UTF-8"),
            (b"video,prompt\n", "has no row"),
            (b"", "no column \"video\""),
        ] {
            let folder = folder(list, &["videos/a.mp4"]);
            let error = refused(folder.path());
            assert!(error.contains(words), "{error}");
        }
        assert!(!CaptionedVideos::is_at(Path::new("absent")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"video,prompt\n", &bytes[..]].concat());
        }

        #[test]
        fn what_was_written_is_read(rows in proptest::collection::vec(("[a-z0-9]{1,8}", "[a-z\",\n]{0,9}x"), 1..6)) {
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            let mut list = "prompt,video\n".to_owned();
            for (video, prompt) in &rows {
                list += &format!("{},{video}\n", quoted(prompt));
            }
            let found = parse(list.as_bytes()).unwrap();
            prop_assert_eq!(found.len(), rows.len());
            for (found, (video, prompt)) in found.iter().zip(&rows) {
                prop_assert_eq!((found.video.as_str(), found.prompt.as_str()), (video.as_str(), prompt.trim()));
            }
        }
    }
}
