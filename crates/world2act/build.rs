//! Records what the binary is built from, for `world2act doctor`.
#![allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let commit = output("git", &["rev-parse", "--verify", "HEAD"]);
    // Moves with every commit, so that the recorded one is never an old one.
    if let Some(log) = output("git", &["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    let lock = "../../Cargo.lock";
    println!("cargo::rerun-if-changed={lock}");
    let burn = std::fs::read_to_string(lock).ok().and_then(|lock| locked_version(&lock, "burn"));
    let rustc = std::env::var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]));
    for (name, value) in [("W2A_COMMIT", commit), ("W2A_BURN", burn), ("W2A_RUSTC", rustc)] {
        println!("cargo::rustc-env={name}={}", value.as_deref().unwrap_or("unknown"));
    }
    println!("cargo::rustc-env=W2A_BUILD={}", std::env::var("PROFILE").as_deref().unwrap_or("unknown"));
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty() && !text.contains('\n')).then_some(text)
}

/// The version of a package in the text of a `Cargo.lock`.
fn locked_version(lock: &str, package: &str) -> Option<String> {
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = {package:?}"));
    let version = lines.nth(1)?.strip_prefix("version = ")?;
    Some(version.trim_matches('"').to_owned())
}
