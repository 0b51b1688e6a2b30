//! What one pastes into a bug report. No host name, user name or path is in it.

use std::fmt::Write as _;

use w2a_report::{GitState, Machine};

/// Versions, hardware and devices, one a line.
pub fn report() -> String {
    let machine = Machine::detect();
    let program = format!(
        "{} ({} build of commit {})",
        env!("CARGO_PKG_VERSION"),
        env!("W2A_BUILD"),
        env!("W2A_COMMIT").get(..10).unwrap_or(env!("W2A_COMMIT"))
    );
    let folder = GitState::read(".").map_or_else(|| "in no git repository".to_owned(), |git| git.short());
    let memory = [
        machine.memory_mib.map(|mib| gib(mib, "")),
        meminfo_mib("MemAvailable").map(|mib| gib(mib, " available")),
        container_limit_mib().map(|mib| gib(mib, " allowed by the container")),
    ];
    let memory: Vec<String> = memory.into_iter().flatten().collect();
    let mut rows = vec![
        ("world2act", program),
        ("built with", format!("{}, burn {}", env!("W2A_RUSTC"), env!("W2A_BURN"))),
        ("folder", folder),
        ("system", system(&machine)),
        ("processor", machine.cpu.clone().unwrap_or_else(|| "unknown".into())),
        ("features", features().join(" ")),
        ("cores", format!("{} usable", machine.cpus)),
        ("memory", if memory.is_empty() { "unknown".into() } else { memory.join(", ") }),
        ("devices", w2a_pipeline::DEVICES.join(", ")),
        ("not needed", "GPU, Python, LeRobot, ffmpeg".into()),
    ];
    // Both change how many threads compute, which is the first thing to ask when a run is slow.
    for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"] {
        if let Ok(value) = std::env::var(name) {
            rows.push(("environment", format!("{name}={value}")));
        }
    }
    rows.into_iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:<12} {value}");
        text
    })
}

fn gib(mib: u64, what: &str) -> String {
    format!("{:.1} GiB{what}", mib as f64 / 1024.0)
}

fn system(machine: &Machine) -> String {
    let read = |path| std::fs::read_to_string(path).ok();
    let name = read("/etc/os-release").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim_matches('"').to_owned())
    });
    let kernel = read("/proc/sys/kernel/osrelease").map(|kernel| format!("kernel {}", kernel.trim()));
    let first = format!("{} {}", machine.os, machine.arch);
    [Some(first), name, kernel].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn meminfo_mib(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// The limit of control group v2; without one, or elsewhere, nothing.
fn container_limit_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?;
    Some(text.trim().parse::<u64>().ok()? >> 20)
}

/// The vector instructions that the processor has and that kernels ask for at run time.
fn features() -> Vec<&'static str> {
    macro_rules! present {
        ($detect:ident: $($name:tt)+) => {
            [$(($name, std::arch::$detect!($name))),+]
                .into_iter()
                .filter_map(|(name, has)| has.then_some(name))
                .collect()
        };
    }
    #[cfg(target_arch = "x86_64")]
    return present!(is_x86_feature_detected: "sse4.2" "avx" "avx2" "fma" "avx512f" "avx512bw" "avx512vl" "avx512vnni");
    #[cfg(target_arch = "aarch64")]
    return present!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "sve");
    #[allow(unreachable_code, reason = "reached on other architectures")]
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::report;

    #[test]
    fn the_report_says_everything_once() {
        let report = report();
        for name in ["world2act", "built with", "folder", "system", "processor", "cores", "memory", "devices"] {
            assert_eq!(report.lines().filter(|line| line.starts_with(name)).count(), 1, "{name}\n{report}");
        }
        assert!(!report.contains("burn unknown") && report.contains(env!("CARGO_PKG_VERSION")), "{report}");
    }

    #[test]
    fn no_user_and_no_path_is_in_it() {
        let report = report();
        for name in ["HOME", "USER", "HOSTNAME"] {
            // Too short a name may occur in any word.
            if let Ok(value) = std::env::var(name).map(|value| value.trim_matches('/').to_owned()) {
                assert!(value.len() < 5 || !report.contains(&value), "{name}: {report}");
            }
        }
        assert!(!report.contains("/home"), "{report}");
    }
}
