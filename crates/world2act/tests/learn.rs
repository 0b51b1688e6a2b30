//! A server that learns, killed between episodes: what it leaves is gone on with, and ends with the same bits.

#[path = "../../w2a-pipeline/tests/wire/mod.rs"]
#[allow(dead_code, reason = "the robot is that of another test too")]
mod wire;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use wire::{Robot, toy_run};

/// A server in a process of its own, and where it listens.
fn serve(run: &Path, out: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_world2act"))
        .args(["serve", "--protocol", "groot", "--port", "0"])
        .args(["--learn-batch", "4", "--learn-trial", "1", "--learn-keep", "10", "--seed", "3"])
        .arg("--policy")
        .arg(format!("mini:{}", run.display()))
        .arg("--learn")
        .arg(run)
        .arg("--learn-out")
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let url = said.by_ref().map(Result::unwrap).find_map(|line| {
        let url = line.split(" at ").nth(1)?.split(';').next()?;
        line.starts_with("serving").then(|| url.to_owned())
    });
    // Whatever else it says must not fill the pipe.
    std::thread::spawn(move || said.for_each(drop));
    (child, url.expect("the server listens"))
}

/// Twelve episodes, with a kill after some of them; then what every update came to.
fn updates(run: &Path, out: &Path, kills: &[usize]) -> BTreeMap<String, Vec<u8>> {
    let (mut child, mut url) = serve(run, out);
    let mut robot = Robot::connect(&url, None);
    for index in 0..12 {
        // The third chunk would be the place where weights change under way, if they did.
        robot.episode(index, index % 3 == 0);
        if kills.contains(&index) {
            // On Unix this is SIGKILL: no handler and no destructor runs.
            child.kill().unwrap();
            child.wait().unwrap();
            (child, url) = serve(run, out);
            robot = Robot::connect(&url, None);
        }
    }
    let begun = Instant::now();
    // The second may still be judged, and then is on trial too.
    let computed = || {
        let page = wire::http(&url, "GET /learning HTTP/1.1\r\n\r\n");
        let page: serde_json::Value = serde_json::from_str(page.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        page["updates"][3]["status"] == "trial"
    };
    while !computed() {
        assert!(begun.elapsed() < Duration::from_secs(600), "the third update does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut files = BTreeMap::new();
    for folder in fs_err::read_dir(out.join("updates")).unwrap() {
        let folder = folder.unwrap().path();
        for name in ["model.safetensors", "update.json"] {
            let path = folder.join(name);
            files.insert(path.strip_prefix(out).unwrap().display().to_string(), fs_err::read(path).unwrap());
        }
    }
    files
}

#[test]
fn a_server_killed_while_it_learns_comes_to_the_bits_of_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    toy_run(&run);
    let straight = updates(&run, &folder.path().join("straight"), &[]);
    assert_eq!(straight.len(), 8, "{:?}", straight.keys());
    let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&straight[name]).unwrap() };
    let judged: Vec<_> =
        [1, 2].map(|number| json(&format!("updates/{number:06}/update.json"))["status"].clone()).into();
    assert!(judged.iter().all(|status| status == "accepted" || status == "refused"), "{judged:?}");
    // Between two episodes, as an update begins, while it is computed, within a trial, and as that is judged.
    let killed = updates(&run, &folder.path().join("killed"), &[1, 3, 4, 5, 10]);
    assert_eq!(straight.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>());
    for (name, bytes) in &straight {
        assert!(bytes == &killed[name], "{name}: {}", String::from_utf8_lossy(&killed[name]));
    }
}
