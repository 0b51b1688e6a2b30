//! `world2act`: arguments become one resolved request, the request one library call, its result an exit code.

mod args;
mod doctor;
#[cfg(test)]
mod documents;
mod failure;
mod policy;
mod resolve;
mod settings;
mod skills;
mod world;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use args::Action;
use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    failure::report_panics_as_bugs();
    // A panic is ours: without this it would end with 101, which the help does not mention.
    match std::panic::catch_unwind(run) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.report(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> Result<(), Failure> {
    match args::parse(std::env::args_os())? {
        Action::Doctor => print(&doctor::report()),
        Action::Parity { dir, device } => {
            let w2a_pipeline::Parity { component, report } = w2a_pipeline::parity(&dir, &device)?;
            print(&format!("{component} on {device}\n\n{report}"))?;
            if report.holds() { Ok(()) } else { Err(Failure::Parity { counts: report.counts() }) }
        }
        Action::Serve(request) => {
            // A terminal that is gone is no reason not to serve.
            let tell = |words: &str| drop(writeln!(std::io::stderr(), "{words}"));
            print(&w2a_pipeline::serve(&request, std::sync::Arc::new(tell))?)
        }
        Action::Evaluate(request) => print(&w2a_pipeline::evaluate(&request)?),
        Action::World(action) => print(&world::execute(&action)?),
        Action::Policy(action) => print(&policy::execute(&action)?),
        Action::InspectData { path, skip_bad, json } => {
            let report = w2a_pipeline::inspect_data(&path, skip_bad, json)?;
            print(&report.text)?;
            if report.problems == 0 { Ok(()) } else { Err(Failure::Problems { count: report.problems }) }
        }
        Action::ConvertData { input, output, options } => print(&w2a_pipeline::convert_data(&input, &output, options)?),
        Action::ListWeights(file) => print(&w2a_pipeline::list_weights(&file)?),
        Action::ConvertWeights { input, output } => print(&w2a_pipeline::convert_weights(&input, &output)?),
        Action::Skills(asked) => print(&skills::run(&asked)?),
        Action::Config(layers) => print(&resolve::printed_config(&layers)?),
        Action::Run(asked) => {
            let (request, notes) = resolve::request(&asked)?;
            for note in notes {
                // A note that cannot be shown is no reason to stop a run.
                let _ = writeln!(std::io::stderr(), "note: {note}");
            }
            let outcome = w2a_pipeline::run(&request)?;
            let summary = outcome.summary.trim_end();
            match outcome.report {
                Some(report) => print(&format!("{summary}\n\nReport: {}\n", report.display())),
                None => print(&format!("{summary}\n")),
            }
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `world2act config | head` closes the pipe early; nothing went wrong.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
