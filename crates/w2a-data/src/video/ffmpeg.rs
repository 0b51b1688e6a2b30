//! The program that decodes and encodes: where it is, and a running child of it that is always reaped.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use super::error::VideoError;

/// Overrides the search of the PATH.
const VARIABLE: &str = "WORLD2ACT_FFMPEG";
/// What is kept of the program's complaints.
const MAX_COMPLAINT: usize = 2000;

/// Finds the program `ffmpeg`: the environment variable `WORLD2ACT_FFMPEG` if it is set, else the first one in `PATH`.
///
/// # Errors
/// [`VideoError::NoFfmpeg`], which says where it was looked for and what to install.
pub fn ffmpeg() -> Result<PathBuf, VideoError> {
    find(std::env::var_os(VARIABLE), std::env::var_os("PATH"))
}

fn find(variable: Option<OsString>, search: Option<OsString>) -> Result<PathBuf, VideoError> {
    if let Some(given) = variable.filter(|given| !given.is_empty()) {
        let program = PathBuf::from(given);
        let missing =
            || VideoError::NoFfmpeg { what: format!("{VARIABLE} is {}, which is no file", program.display()) };
        return if program.is_file() { Ok(program) } else { Err(missing()) };
    }
    let name = format!("ffmpeg{}", std::env::consts::EXE_SUFFIX);
    let search = search.unwrap_or_default();
    let mut places = std::env::split_paths(&search).map(|folder| folder.join(&name));
    let missing = || VideoError::NoFfmpeg { what: "no folder of PATH has it".into() };
    places.find(|program| program.is_file()).ok_or_else(missing)
}

/// A running ffmpeg. Dropping it ends the process and waits for it.
pub(super) struct Running {
    child: Child,
    complaints: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts ffmpeg with `arguments`, its standard input piped and its output as given.
    ///
    /// # Errors
    /// [`VideoError::NoFfmpeg`] if it cannot be started.
    pub fn start(arguments: &[&str], file: Option<&Path>, output: Stdio) -> Result<Self, VideoError> {
        let program = ffmpeg()?;
        let mut command = Command::new(&program);
        command.args(["-hide_banner", "-nostdin", "-loglevel", "error"]).args(arguments).args(file);
        command.stdin(Stdio::piped()).stdout(output).stderr(Stdio::piped());
        let started = command.spawn();
        let mut child = started.map_err(|error| VideoError::NoFfmpeg {
            what: format!("{} cannot be started ({error})", program.display()),
        })?;
        let complaints = child.stderr.take().map(|stderr| std::thread::spawn(move || listen(stderr)));
        Ok(Self { child, complaints })
    }

    /// Its standard input and output, each only once.
    pub fn pipes(&mut self) -> (Option<std::process::ChildStdin>, Option<std::process::ChildStdout>) {
        (self.child.stdin.take(), self.child.stdout.take())
    }

    /// Waits for its end: the status, and what it complained of.
    pub fn wait(&mut self) -> (std::io::Result<ExitStatus>, String) {
        drop(self.child.stdin.take());
        let status = self.child.wait();
        let complaints = self.complaints.take().map(|thread| thread.join().unwrap_or_default());
        (status, complaints.unwrap_or_default())
    }

    /// Ends it and returns what it complained of.
    pub fn kill(&mut self) -> String {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        self.wait().1
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first lines of its error output; the rest is read too, so that it never waits for us.
fn listen(mut stderr: ChildStderr) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        let room = MAX_COMPLAINT.saturating_sub(text.len());
        text.extend_from_slice(&buffer[..count.min(room)]);
    }
    String::from_utf8_lossy(&text).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_what_to_install() {
        for (variable, search, expected) in [
            (Some("/nowhere/ffmpeg"), None, "WORLD2ACT_FFMPEG is /nowhere/ffmpeg"),
            (None, Some("/nowhere"), "no folder of PATH"),
            (None, None, "no folder of PATH"),
            (Some(""), None, "no folder of PATH"),
        ] {
            let error = find(variable.map(Into::into), search.map(Into::into)).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("install ffmpeg"), "{error}");
        }
    }
}
