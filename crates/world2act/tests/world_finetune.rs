//! Fine-tuning killed at arbitrary moments ends with the same bits.

#[path = "../../w2a-pipeline/tests/common/tabletop.rs"]
mod tabletop;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn start(base: &Path, data: &Path, out: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_world2act"));
    command.args(["world", "finetune", "--world.kind=cosmos", "--steps", "60", "--lr", "0.01", "--rank", "4"]);
    command.args(["--layout", "side-by-side", "--sample-every", "20", "--samples", "1", "--world.frame=[32,64]"]);
    command.arg(format!("--world.path={}", base.display())).arg("--data").arg(data).arg("--out").arg(out);
    if out.exists() {
        command.arg("--resume");
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_training_killed_again_and_again_equals_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    w2a_pipeline::write_tiny_world(&at("base"), 2).unwrap();
    tabletop::demonstrations(&at("data"), 1);
    assert!(start(&at("base"), &at("data"), &at("straight")).wait().unwrap().success());
    let logged = || {
        let log = fs_err::read(at("killed").join(w2a_report::METRICS_FILE)).unwrap_or_default();
        log.iter().filter(|byte| **byte == b'\n').count()
    };
    // By what is done and not by the clock: how fast the machine is differs from moment to moment.
    for lines in [0, 4, 17, 29, 46] {
        let mut child = start(&at("base"), &at("data"), &at("killed"));
        while logged() < lines && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // On Unix this is SIGKILL: no handler and no destructor runs.
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "the training ended before it was killed at line {lines}");
    }
    assert!(start(&at("base"), &at("data"), &at("killed")).wait().unwrap().success());
    for file in ["model/model-finetuned.safetensors", "adapter/adapter_model.safetensors"] {
        let read = |out: &str| fs_err::read(at(out).join(file)).unwrap();
        assert!(read("straight") == read("killed"), "{file}");
    }
    let losses = |out: &str| {
        let lines = w2a_report::read_metrics(at(out)).unwrap();
        w2a_report::curve(&lines, "world/finetune", "loss")
    };
    assert!(losses("straight").len() == 60 && losses("straight") == losses("killed"));
}
