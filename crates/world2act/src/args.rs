//! First stage of the command line: from text to a plain value. Nothing here touches the file system.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use toml::Value;
use w2a_pipeline::{ConvertOptions, DatasetVersion, Encoding, EvaluateRequest, Profile, ServeRequest, Stage};

mod evaluate;
mod policy;
mod serve;
mod world;
mod world_finetune;

#[cfg(test)]
pub use evaluate::EVALUATE_HELP;
pub use policy::PolicyAction;
use policy::PolicyArgs;
#[cfg(test)]
pub use serve::SERVE_HELP;
use world::WorldArgs;
#[cfg(test)]
pub use world::{EMBED_HELP, FINETUNE_HELP, IMAGINE_HELP};
pub use world::{WorldAction, WorldChoice};
pub use world_finetune::{Tuned, WorldFinetuneArgs, bytes};

/// More parts than any setting has; deeper keys would only be a way to exhaust the stack.
const MAX_KEY_PARTS: usize = 16;

/// What was asked for.
#[derive(Clone, Debug)]
pub enum Action {
    /// Run the stages.
    Run(RunRequest),
    /// Print the resolved configuration.
    Config(LayerRequest),
    /// Print what a bug report needs.
    Doctor,
    /// Compare a component with the reference numbers in a folder.
    Parity {
        /// The folder.
        dir: PathBuf,
        /// Name of the device.
        device: String,
    },
    /// Use a world model on its own.
    World(WorldAction),
    /// Answer clients with the actions of a policy.
    Serve(Box<ServeRequest>),
    /// Look at a policy of others.
    Policy(PolicyAction),
    /// Evaluate a policy in a simulator of others.
    Evaluate(Box<EvaluateRequest>),
    /// Say what a dataset is and what is wrong with it.
    InspectData {
        /// The dataset.
        path: PathBuf,
        /// Whether to go on after an episode that cannot be read.
        skip_bad: bool,
        /// Whether to print JSON.
        json: bool,
    },
    /// Write a dataset as a LeRobot dataset.
    ConvertData {
        /// What is read.
        input: PathBuf,
        /// What is written.
        output: PathBuf,
        /// How.
        options: ConvertOptions,
    },
    /// Print what is in a weights file.
    ListWeights(PathBuf),
    /// Write a weights file as safetensors.
    ConvertWeights {
        /// What is read.
        input: PathBuf,
        /// What is written.
        output: PathBuf,
    },
    /// Cut demonstrations into skills.
    Skills(SkillsRequest),
}

/// What to cut into skills, and how.
#[derive(Clone, Debug)]
pub struct SkillsRequest {
    /// The demonstrations.
    pub dataset: PathBuf,
    /// Folder of the result.
    pub out: PathBuf,
    /// Whether only to print what would be sent.
    pub dry_run: bool,
    /// Whether demonstrations that cannot be read are left out.
    pub skip_bad: bool,
    /// Whether to write the skill ranges in the authors' layout too.
    pub write_ranges: bool,
    /// The TOML file, if any.
    pub config: Option<PathBuf>,
    /// Values from flags, in their order.
    pub overrides: Vec<Override>,
}

/// The stages to run and where.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The last stage to run.
    pub until: Stage,
    /// Folder of the run.
    pub out: PathBuf,
    /// Whether the folder may exist.
    pub resume: bool,
    /// Where the configuration comes from.
    pub layers: LayerRequest,
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub struct LayerRequest {
    /// The profile and whether it was named on the command line.
    pub profile: (Profile, bool),
    /// The TOML file, if any.
    pub config: Option<PathBuf>,
    /// Values from flags, in their order.
    pub overrides: Vec<Override>,
}

/// One value from a flag.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// Path of the setting, such as `["align", "temperature"]`.
    pub key: Vec<String>,
    /// The value.
    pub value: Value,
    /// The flag as it was typed.
    pub flag: String,
}

/// A command line that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// Found by clap; also its way to ask for help to be printed.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    /// A dotted flag at the end, or followed by another flag.
    #[error("{flag} needs a value; write {flag}=VALUE")]
    MissingValue {
        /// The flag.
        flag: String,
    },
    /// A dotted flag whose name is no path of a setting.
    #[error("{flag} is not the name of a setting: {what}; settings look like --section.key=value")]
    Name {
        /// The flag, cut after 60 characters.
        flag: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A dotted flag with bytes that are no text.
    #[error("the value of {flag} is not UTF-8; settings are text")]
    NotUtf8 {
        /// The flag.
        flag: String,
    },
    /// No world model, two of them, or one that does not exist.
    #[error("which world model? give --world RUN, or --world.kind=cosmos and --world.path=DIR: {what}")]
    World {
        /// What is wrong.
        what: String,
    },
    /// Settings where none are used.
    #[error("`{command}` takes no settings, got {flag}; remove it")]
    NoSettings {
        /// The command.
        command: &'static str,
        /// The first flag.
        flag: String,
    },
}

#[derive(Debug, Parser)]
#[command(
    name = "world2act",
    version,
    about = "Post-train a robot policy from a world model's imagination",
    long_about = "Post-train a robot policy from a world model's imagination.\n\n\
        `demo` runs the whole method on the embedded tabletop benchmark: no GPU, no download, no Python. The \
        commands from `data` to `report` do the same and stop after one stage. With `--config docs/libero.toml` \
        (env.kind = \"libero\") all of them act in LIBERO instead, in Python processes.",
    after_help = "Try `world2act demo`, or `world2act help demo` for examples, settings and exit codes.",
    args_override_self = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every stage and write report.html
    #[command(after_long_help = LONG_HELP)]
    Demo(RunArgs),
    /// Run until demonstrations and action-free videos are recorded; or inspect or convert datasets
    #[command(after_long_help = LONG_HELP)]
    Data(DataArgs),
    /// Run until the world model is trained and has imagined; or use it on its own
    #[command(after_long_help = LONG_HELP)]
    World(WorldArgs),
    /// Run until the base policy is trained; or look at a GR00T checkpoint
    #[command(after_long_help = LONG_HELP)]
    Policy(PolicyArgs),
    /// Run until stage 1 has aligned video dynamics and actions
    #[command(after_long_help = LONG_HELP)]
    Align(RunArgs),
    /// Run until stage 2 has trained the residual policies and the baselines
    #[command(after_long_help = LONG_HELP)]
    Posttrain(RunArgs),
    /// Run until every method is evaluated on held-out scenes
    #[command(after_long_help = LONG_HELP)]
    Eval(RunArgs),
    /// Run until report.html is written
    #[command(after_long_help = LONG_HELP)]
    Report(RunArgs),
    /// Run the paper's ablation: objective, similarity, and LoRA instead of the residual; write ablation.html
    #[command(after_long_help = LONG_HELP)]
    Ablate(RunArgs),
    /// Print the resolved configuration as TOML
    #[command(after_long_help = LONG_HELP)]
    Config(ConfigArgs),
    /// Print versions and hardware: paste it into a bug report; or check a device against reference numbers
    Doctor(DoctorArgs),
    /// Serve a policy to the clients of GR00T or openpi, with or without what stage 2 trained
    #[command(after_long_help = serve::SERVE_HELP)]
    Serve(Box<serve::ServeArgs>),
    /// Evaluate a policy in LIBERO, RoboCasa or SimplerEnv by a published protocol, in worker processes with Python
    #[command(visible_alias = "libero", after_long_help = evaluate::EVALUATE_HELP)]
    Evaluate(evaluate::EvaluateArgs),
    /// List or convert weights: safetensors files, and checkpoints of torch.save, which are never executed
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// Cut demonstrations into skills: a dataset with one clip, and one prompt, for each
    #[command(after_long_help = SKILLS_HELP)]
    Skills(SkillsArgs),
}

#[derive(Clone, Debug, Args)]
struct SkillsArgs {
    /// A LeRobot dataset, an HDF5 file, or a folder of HDF5 files
    dataset: PathBuf,
    /// Folder for the skill dataset, skills.json, skills.html and the language model's answers
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// TOML file with settings below [skills]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the segments found and the questions to the language model; send and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave out demonstrations that cannot be read, and count them
    #[arg(long)]
    skip_bad: bool,
    /// Also write video_metadata.json, the skill ranges in the layout of the paper's authors
    #[arg(long)]
    write_ranges: bool,
}

pub const SKILLS_HELP: &str = "\
Settings:
  skills.embodiment has to be given: tabletop, libero_panda, robocasa_panda or bridge_widowx. It sets where the
  gripper's opening is found and when it counts as contact; every other setting can be changed by a flag or in the file.
  skills.schema names a TOML or JSON file with the prompts of each instruction. Without it, or where it is not enough,
  skills.llm asks a chat endpoint; it is off unless skills.llm.enabled is true.

Examples:
  world2act skills runs/demo/data/labelled_narrow --out skills --skills.embodiment=tabletop --skills.schema=docs/skills/tabletop.toml
  world2act skills libero --out skills --skills.embodiment=libero_panda --skills.llm.enabled=true --skills.llm.base_url=https://api.example.org/v1 --skills.llm.model=chat --skills.llm.key_variable=LLM_KEY --dry-run";

#[derive(Clone, Debug, Args)]
struct DoctorArgs {
    /// Compare a component with the reference numbers in this folder, tensor by tensor; exit code 1 if any differs
    #[arg(long, value_name = "DIR")]
    parity: Option<PathBuf>,
    /// Device on which to compute for --parity [default: cpu]
    #[arg(long, value_name = "NAME", requires = "parity")]
    device: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct DataArgs {
    #[command(subcommand)]
    command: Option<DataCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Debug, Subcommand)]
enum DataCommand {
    /// Say what a dataset is, what is in it and what is wrong with it; exit code 2 if anything is
    Inspect {
        /// A LeRobot dataset, an HDF5 file, or a folder of HDF5 files
        path: PathBuf,
        /// Go on after an episode that cannot be read
        #[arg(long)]
        skip_bad: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a dataset as a LeRobot dataset
    Convert {
        /// A LeRobot dataset, an HDF5 file, or a folder of HDF5 files
        input: PathBuf,
        /// The folder to write; must not exist
        output: PathBuf,
        /// The version to write: v2.1 (GR00T, openpi) or v3.0 (LeRobot from 0.4 on)
        #[arg(long, value_name = "VERSION", value_parser = versions())]
        to: DatasetVersion,
        /// How cameras are stored: av1 (the default), h264 (the default with --gr00t), or none for images
        #[arg(long, value_name = "CODEC", value_parser = codecs())]
        video: Option<Codec>,
        /// Leave out episodes that cannot be read; they are counted and named
        #[arg(long)]
        skip_bad: bool,
        /// Add what GR00T's loader needs: modality.json, stats.json and relative_stats.json (v2.1 only)
        #[arg(long)]
        gr00t: bool,
        /// Steps of the windows of GR00T's relative-action statistics
        #[arg(long, value_name = "STEPS", requires = "gr00t", default_value_t = 16)]
        horizon: usize,
    },
}

impl DataCommand {
    fn action(self) -> Action {
        match self {
            Self::Inspect { path, skip_bad, json } => Action::InspectData { path, skip_bad, json },
            Self::Convert { input, output, to, video, skip_bad, gr00t, horizon } => {
                // GR00T's default decoder has no AV1.
                let video = video.map_or(Some(if gr00t { Encoding::H264 } else { Encoding::Av1 }), |codec| codec.0);
                let gr00t_horizon = gr00t.then_some(horizon);
                let options = ConvertOptions { version: to, video, skip_bad, gr00t_horizon };
                Action::ConvertData { input, output, options }
            }
        }
    }
}

#[derive(Debug, Subcommand)]
enum WeightsCommand {
    /// Print names, types and shapes
    List {
        /// A safetensors file or a checkpoint of torch.save
        file: PathBuf,
    },
    /// Write a safetensors file of F32 values with the same names, and compare it with what was read
    Convert {
        /// A safetensors file or a checkpoint of torch.save
        input: PathBuf,
        /// The safetensors file to write; must not exist
        output: PathBuf,
    },
}

pub const LONG_HELP: &str = "\
Settings:
  Every key that `world2act config` prints is also a flag: `steps` of [align.train] is --align.train.steps=3000.
  Flags win over the --config file, which wins over the profile; of the same flag, the last one wins.
  With --resume the run's own config.toml takes the place of the profile and of the --config file. The number of
  threads may change; any other change would be another run and is refused.
  With env.kind=libero the whole method runs in LIBERO rather than on the embedded benchmark: docs/libero.toml is a file
  to start from, `env.libero.dataset` its demonstrations, and scripts/setup-libero.sh makes the Python it needs.

Examples:
  world2act demo                                         everything at the default size, into runs/demo
  world2act demo --profile smoke --out runs/try          the smallest run, for a first look
  world2act demo --profile long --out runs/long          tasks of two goals, imagined skill by skill
  world2act demo --resume                                continue after a kill; the numbers stay the same
  world2act align --out runs/a --align.loss.temperature=0.07
  world2act report --out runs/a --resume                 the remaining stages of that run
  world2act data inspect demos --skip-bad                what a dataset is and what is wrong with it
  world2act data convert demos lerobot --to v3.0         any dataset that is read, as a LeRobot dataset
  world2act demo --config docs/libero.toml --env.libero.dataset=DEMOS --env.libero.python=libero/bin/python --out runs/libero
  world2act ablate --resume                              the paper's ablation, on what demo has left in runs/demo
  world2act config --profile full > full.toml            a file to edit and to pass as --config full.toml

Exit codes:
  0  done
  1  our fault or the machine's: a bug, a training that diverged, a full disk, numbers that fail `doctor --parity`
  2  yours to mend: an unknown setting, a missing file, a folder that already holds a run, problems in a dataset";

#[derive(Clone, Debug, Args)]
struct RunArgs {
    /// Folder of the run [default: runs/demo for demo and ablate, else runs/default]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in --out; stages that are done are not repeated
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Clone, Debug, Args)]
struct ConfigArgs {
    /// How much to train: smoke (a check that it runs), quick (the default), full (a solid result); long (tasks of two
    /// goals: a world model with skills against one without)
    #[arg(long, value_name = "NAME", value_parser = profiles())]
    profile: Option<Profile>,
    /// TOML file with settings; those it leaves out keep the profile's values
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Seed of every random number of the run
    // TOML's integers are signed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    /// Worker threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    threads: Option<i64>,
    /// Device of the networks
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
}

/// A codec, or none; a type of its own because clap reads an `Option` as a flag that may be absent.
#[derive(Clone, Copy, Debug)]
struct Codec(Option<Encoding>);

fn codecs() -> impl TypedValueParser<Value = Codec> {
    PossibleValuesParser::new(["av1", "h264", "none"]).map(|name| match name.as_str() {
        "av1" => Codec(Some(Encoding::Av1)),
        "h264" => Codec(Some(Encoding::H264)),
        _ => Codec(None),
    })
}

fn versions() -> impl TypedValueParser<Value = DatasetVersion> {
    // The list holds nothing else, so that every name is one of a version.
    PossibleValuesParser::new(["v2.1", "v3.0"])
        .map(|name| DatasetVersion::from_name(&name).unwrap_or(DatasetVersion::V30))
}

fn profiles() -> impl TypedValueParser<Value = Profile> {
    PossibleValuesParser::new(Profile::ALL.map(Profile::name)).try_map(|name| name.parse::<Profile>())
}

/// Reads a command line, the program's name included.
///
/// # Errors
/// [`ArgsError`]; [`ArgsError::Clap`] also stands for `--help` and `--version`.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, ArgsError> {
    let (plain, dotted) = split(arguments)?;
    let action = match Cli::try_parse_from(plain)?.command {
        Command::Demo(args) => args.request(Stage::Report, "runs/demo", dotted),
        Command::Data(DataArgs { command: None, run }) => run.request(Stage::Data, DEFAULT_OUT, dotted),
        Command::Data(DataArgs { command: Some(command), .. }) => {
            no_settings("data inspect and data convert", dotted)?;
            command.action()
        }
        Command::World(WorldArgs { command: None, run }) => run.request(Stage::World, DEFAULT_OUT, dotted),
        Command::World(WorldArgs { command: Some(command), .. }) => Action::World(command.action(dotted)?),
        Command::Policy(PolicyArgs { command: None, run }) => run.request(Stage::Policy, DEFAULT_OUT, dotted),
        Command::Policy(PolicyArgs { command: Some(command), .. }) => {
            no_settings(command.name(), dotted)?;
            Action::Policy(command.action())
        }
        Command::Align(args) => args.request(Stage::Align, DEFAULT_OUT, dotted),
        Command::Posttrain(args) => args.request(Stage::Posttrain, DEFAULT_OUT, dotted),
        Command::Eval(args) => args.request(Stage::Eval, DEFAULT_OUT, dotted),
        Command::Report(args) => args.request(Stage::Report, DEFAULT_OUT, dotted),
        Command::Ablate(args) => args.request(Stage::Ablation, "runs/demo", dotted),
        Command::Config(args) => Action::Config(args.layers(dotted)),
        Command::Doctor(args) => {
            no_settings("doctor", dotted)?;
            match args.parity {
                Some(dir) => Action::Parity { dir, device: args.device.unwrap_or_else(|| "cpu".into()) },
                None => Action::Doctor,
            }
        }
        Command::Serve(args) => {
            no_settings("serve", dotted)?;
            Action::Serve(Box::new(args.request()))
        }
        Command::Evaluate(args) => {
            no_settings("evaluate", dotted)?;
            Action::Evaluate(Box::new(args.request()))
        }
        Command::Weights(command) => {
            no_settings("weights", dotted)?;
            match command {
                WeightsCommand::List { file } => Action::ListWeights(file),
                WeightsCommand::Convert { input, output } => Action::ConvertWeights { input, output },
            }
        }
        Command::Skills(args) => Action::Skills(SkillsRequest {
            dataset: args.dataset,
            out: args.out,
            dry_run: args.dry_run,
            skip_bad: args.skip_bad,
            write_ranges: args.write_ranges,
            config: args.config,
            overrides: dotted,
        }),
    };
    Ok(action)
}

fn no_settings(command: &'static str, dotted: Vec<Override>) -> Result<(), ArgsError> {
    dotted.into_iter().next().map_or(Ok(()), |first| Err(ArgsError::NoSettings { command, flag: first.flag }))
}

const DEFAULT_OUT: &str = "runs/default";

impl RunArgs {
    fn request(self, until: Stage, default_out: &str, dotted: Vec<Override>) -> Action {
        let out = self.out.unwrap_or_else(|| PathBuf::from(default_out));
        Action::Run(RunRequest { until, out, resume: self.resume, layers: self.config.layers(dotted) })
    }
}

impl ConfigArgs {
    fn layers(self, dotted: Vec<Override>) -> LayerRequest {
        let named = |key: &str, value: Option<Value>| {
            value.map(|value| Override { key: vec![key.into()], flag: format!("--{key}={value}"), value })
        };
        let mut overrides: Vec<Override> = [
            named("seed", self.seed.map(Value::Integer)),
            named("threads", self.threads.map(Value::Integer)),
            named("device", self.device.map(Value::String)),
        ]
        .into_iter()
        .flatten()
        .collect();
        overrides.extend(dotted);
        let profile = (self.profile.unwrap_or(Profile::Quick), self.profile.is_some());
        LayerRequest { profile, config: self.config, overrides }
    }
}

/// Takes the dotted flags out: clap knows no flags whose names depend on the configuration.
fn split(arguments: impl IntoIterator<Item = OsString>) -> Result<(Vec<OsString>, Vec<Override>), ArgsError> {
    let (mut plain, mut dotted) = (Vec::new(), Vec::new());
    let mut arguments = arguments.into_iter();
    // The program's name may hold dots and dashes of its own.
    plain.extend(arguments.next());
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            plain.push(argument);
            plain.extend(arguments);
            break;
        }
        let lossy = argument.to_string_lossy();
        let flag = lossy.split('=').next().unwrap_or_default().to_owned();
        let Some(name) = flag.strip_prefix("--").filter(|name| name.contains('.')) else {
            plain.push(argument);
            continue;
        };
        let key = key_parts(&flag, name)?;
        let text = argument.to_str().ok_or_else(|| ArgsError::NotUtf8 { flag: flag.clone() })?;
        let value = match text.split_once('=') {
            Some((_, value)) => value.to_owned(),
            None => match arguments.next_if(|next| is_value(&next.to_string_lossy())) {
                Some(next) => next.into_string().map_err(|_| ArgsError::NotUtf8 { flag: flag.clone() })?,
                None => return Err(ArgsError::MissingValue { flag }),
            },
        };
        dotted.push(Override { key, value: toml_value(&value), flag: format!("{flag}={value}") });
    }
    Ok((plain, dotted))
}

fn key_parts(flag: &str, name: &str) -> Result<Vec<String>, ArgsError> {
    let wrong = |what| Err(ArgsError::Name { flag: flag.chars().take(60).collect(), what });
    if name.split('.').any(str::is_empty) {
        return wrong("a part between the dots is empty");
    }
    if name.split('.').count() > MAX_KEY_PARTS {
        return wrong("it has more parts than any setting");
    }
    Ok(name.split('.').map(str::to_owned).collect())
}

/// Whether the argument after `--a.b` is its value: no flag, but negative numbers are values.
fn is_value(next: &str) -> bool {
    !next.starts_with('-') || next.parse::<f64>().is_ok()
}

/// `text` as TOML, or as a string if it is no TOML: nobody should have to quote quotes for a shell.
fn toml_value(text: &str) -> Value {
    match text.parse() {
        // No setting is a date, but names such as 2026-01-31 look like one.
        Ok(Value::Datetime(_)) | Err(_) => Value::String(text.to_owned()),
        Ok(value) => value,
    }
}

#[cfg(test)]
mod tests;
