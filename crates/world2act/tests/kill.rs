//! The program killed at arbitrary moments: what it leaves is always continued, and ends with the same bits.

#[path = "../../w2a-pipeline/tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts the toy run in `out`, continuing what is there.
fn start(out: &Path) -> Child {
    let toy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../w2a-pipeline/tests/toy.toml");
    Command::new(env!("CARGO_BIN_EXE_world2act"))
        .args(["demo", "--profile", "smoke", "--resume", "--config"])
        .arg(toy)
        .arg("--out")
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_run_killed_again_and_again_equals_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let (straight, killed) = (folder.path().join("straight"), folder.path().join("killed"));
    let begun = Instant::now();
    assert!(start(&straight).wait().unwrap().success());
    let whole = begun.elapsed();

    // Uneven shares of the whole time, the first before the run has begun; where they strike differs from run to run,
    // and the result may not.
    let mut kills = 0;
    for share in [0.0, 0.11, 0.07, 0.19, 0.03, 0.13, 0.17] {
        let mut child = start(&killed);
        std::thread::sleep(whole.mul_f64(share) + Duration::from_millis(2));
        // On Unix this is SIGKILL: no handler and no destructor runs.
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
    }
    assert!(kills >= 5, "the run ended before it was killed {kills} times");
    assert!(start(&killed).wait().unwrap().success());
    common::assert_same_results(&straight, &killed);
}
