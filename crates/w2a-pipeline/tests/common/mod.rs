//! Comparing the folders of two runs.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// `eval_info.json` without what a clock measured.
pub fn evaluation(run: &Path) -> Value {
    let text = fs_err::read_to_string(run.join("eval_info.json")).unwrap();
    let mut info: Value = serde_json::from_str(&text).unwrap();
    for key in ["eval_s", "eval_ep_s"] {
        assert!(info["overall"].as_object_mut().unwrap().remove(key).is_some(), "no {key}");
    }
    info
}

/// Panics unless two runs came to the same weights, scales, results and curves, bit for bit.
pub fn assert_same_results(straight: &Path, other: &Path) {
    let (expected, got) = (results(straight), results(other));
    assert!(expected.len() > 15, "only {} results", expected.len());
    let names = |run: &BTreeMap<String, Vec<u8>>| run.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&got));
    for (name, bytes) in &expected {
        assert!(bytes == &got[name], "{name} differs");
    }
    assert_eq!(evaluation(straight), evaluation(other));
    let (expected, got) = (curves(straight), curves(other));
    for (line, (expected, got)) in expected.iter().zip(&got).enumerate() {
        assert_eq!(expected, got, "line {} of metrics.jsonl", line + 1);
    }
    assert_eq!(expected.len(), got.len());
}

/// The bytes of every last checkpoint's weights, every chosen scale and every evaluated episode, by path.
pub fn results(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    collect(run, run, &mut out);
    out
}

fn collect(root: &Path, folder: &Path, out: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            collect(root, &path, out);
        } else if name.ends_with("last/model.safetensors")
            || name.ends_with("gain.json")
            || name.ends_with("eval.json")
            || name.ends_with("adapter_model.safetensors")
            || name.starts_with("eval/")
        {
            out.insert(name, fs_err::read(&path).unwrap());
        }
    }
}

/// The lines of `metrics.jsonl` without their times.
fn curves(run: &Path) -> Vec<Value> {
    let text = fs_err::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("time");
        line
    };
    text.lines().map(line).collect()
}
