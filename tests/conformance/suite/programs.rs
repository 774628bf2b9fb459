//! The clients of other languages: one program each, that runs many checks and prints a line for
//! every one (`ok NAME`, `fail NAME reason`, `skip NAME since X.Y reason`).
//!
//! A program is prepared (dependencies installed, compiled) below the target folder and started at
//! most once a run. What is missing on this machine makes its tests ignored, or failed in CI.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::broker::{scratch_folder, tail};
use crate::outcome::Outcome;

/// For one whole program; each check inside it has 20 s of its own.
const RUN_LIMIT: Duration = Duration::from_secs(300);
const PREPARE_LIMIT: Duration = Duration::from_secs(300);

/// The languages by the name of their client.
pub(crate) const LANGUAGES: &[(&str, Language)] = &[
    (
        "pika",
        Language {
            folder: "python",
            prepare: prepare_python,
        },
    ),
    (
        "amqplib",
        Language {
            folder: "node",
            prepare: prepare_node,
        },
    ),
    (
        "amqp091-go",
        Language {
            folder: "go",
            prepare: prepare_go,
        },
    ),
    (
        "java",
        Language {
            folder: "java",
            prepare: prepare_java,
        },
    ),
];

/// How to get a client's program ready.
#[derive(Clone, Copy)]
pub(crate) struct Language {
    folder: &'static str,
    /// (sources, folder to build in) -> the command that runs checks.
    prepare: fn(&Path, &Path) -> Result<Command, String>,
}

/// One client's program and, once it has run, how its checks ended.
pub(crate) struct Program {
    client: &'static str,
    language: Language,
    selected: Vec<&'static str>,
    outcomes: OnceLock<Result<HashMap<String, Outcome>, Outcome>>,
}

impl Program {
    pub(crate) fn new(
        client: &'static str,
        language: Language,
        selected: Vec<&'static str>,
    ) -> Self {
        Self {
            client,
            language,
            selected,
            outcomes: OnceLock::new(),
        }
    }

    /// How a check ended; runs the program for all selected checks at the first call.
    pub(crate) fn outcome(&self, url: &str, check: &str) -> Outcome {
        match self.outcomes.get_or_init(|| self.run(url)) {
            Ok(outcomes) => outcomes.get(check).cloned().unwrap_or_else(|| {
                Outcome::Failed(format!(
                    "the {} program reported nothing for it",
                    self.client
                ))
            }),
            Err(outcome) => outcome.clone(),
        }
    }

    fn run(&self, url: &str) -> Result<HashMap<String, Outcome>, Outcome> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("clients")
            .join(self.language.folder);
        let folder = scratch_folder().join(self.language.folder);
        let prepared = fs::create_dir_all(&folder)
            .map_err(|error| error.to_string())
            .and_then(|()| (self.language.prepare)(&sources, &folder));
        let mut command = prepared.map_err(|reason| unready(self.client, &reason))?;
        command.args(&self.selected).env("AMQP_URL", url);
        let log = folder.join("stderr");
        let (mut outcomes, end) = run_program(command, &log)
            .map_err(|error| unready(self.client, &format!("its program: {error}")))?;
        for check in &self.selected {
            outcomes.entry((*check).to_owned()).or_insert_with(|| {
                let stderr = tail(&log);
                Outcome::Failed(format!(
                    "the program {end} before this check ended; {stderr}"
                ))
            });
        }
        Ok(outcomes)
    }
}

/// A client that cannot run here: ignored on a developer's machine, a failure in CI.
fn unready(client: &str, reason: &str) -> Outcome {
    let reason = format!("{client} cannot run here: {reason}");
    match std::env::var("CI") {
        Ok(value) if value == "true" => Outcome::Failed(reason),
        _ => Outcome::Ignored(reason),
    }
}

/// Runs a prepared program to its end or its limit; gives the outcomes and how it ended.
fn run_program(
    mut command: Command,
    log: &Path,
) -> std::io::Result<(HashMap<String, Outcome>, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(log)?)
        .spawn()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + RUN_LIMIT;
    let mut outcomes = HashMap::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => outcomes.extend(parse_line(&line)),
            Err(RecvTimeoutError::Disconnected) => {
                return Ok((outcomes, format!("ended ({})", child.wait()?)));
            }
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                return Ok((outcomes, format!("was stopped after {RUN_LIMIT:?}")));
            }
        }
    }
}

/// `ok NAME`, `fail NAME reason`, `skip NAME reason`; anything else is not for us.
fn parse_line(line: &str) -> Option<(String, Outcome)> {
    let (verdict, rest) = line.split_once(' ')?;
    let (name, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let outcome = match verdict {
        "ok" => Outcome::Passed,
        "skip" => Outcome::Ignored(reason.to_owned()),
        "fail" => Outcome::Failed(reason.to_owned()),
        _ => return None,
    };
    Some((name.to_owned(), outcome))
}

fn prepare_python(sources: &Path, folder: &Path) -> Result<Command, String> {
    let environment = folder.join("environment");
    let python = environment.join("bin").join("python");
    let requirements = sources.join("requirements.txt");
    once_for(&requirements, &python, folder, || {
        let mut venv = Command::new("python3");
        run_step(
            venv.args(["-m", "venv", "--clear"]).arg(&environment),
            folder,
        )?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--requirement"]);
        run_step(pip.arg(&requirements), folder)
    })?;
    let mut command = Command::new(python);
    command
        .arg(sources.join("suite.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

fn prepare_node(sources: &Path, folder: &Path) -> Result<Command, String> {
    let copied = ["package.json", "package-lock.json"];
    for name in copied {
        fs::copy(sources.join(name), folder.join(name)).map_err(|error| error.to_string())?;
    }
    let modules = folder.join("node_modules");
    once_for(&sources.join("package-lock.json"), &modules, folder, || {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(folder);
        run_step(&mut npm, folder)
    })?;
    let mut command = Command::new("node");
    command
        .arg(sources.join("suite.js"))
        .env("NODE_PATH", modules);
    Ok(command)
}

fn prepare_go(sources: &Path, folder: &Path) -> Result<Command, String> {
    let binary = folder.join("suite");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-o"])
        .arg(&binary)
        .arg(".")
        .current_dir(sources);
    run_step(&mut go, folder)?;
    Ok(Command::new(binary))
}

fn prepare_java(sources: &Path, folder: &Path) -> Result<Command, String> {
    let (libraries, classes) = (folder.join("libraries"), folder.join("classes"));
    once_for(&sources.join("pom.xml"), &libraries, folder, || {
        let mut maven = Command::new("mvn");
        maven.args([
            "--quiet",
            "--batch-mode",
            "dependency:copy-dependencies",
            "--file",
        ]);
        maven.arg(sources.join("pom.xml"));
        maven.arg(format!("-DoutputDirectory={}", libraries.display()));
        run_step(&mut maven, folder)
    })?;
    let mut class_path = OsString::from(libraries.join("*"));
    let mut javac = Command::new("javac");
    javac
        .arg("-cp")
        .arg(&class_path)
        .arg("-d")
        .arg(&classes)
        .args(java_files(sources)?);
    run_step(&mut javac, folder)?;
    class_path.push(":");
    class_path.push(&classes);
    let mut command = Command::new("java");
    command.arg("-cp").arg(class_path).arg("Suite");
    Ok(command)
}

fn java_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths
        .filter(|path| path.extension().is_some_and(|end| end == "java"))
        .collect())
}

/// Runs `install`, which makes `result`, unless it has done so before for the same `manifest`.
fn once_for(
    manifest: &Path,
    result: &Path,
    folder: &Path,
    install: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let stamp = folder.join("installed");
    let wanted = fs::read(manifest).map_err(|error| error.to_string())?;
    if result.exists() && fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    install()?;
    fs::write(stamp, wanted).map_err(|error| error.to_string())
}

/// Runs one step of a preparation, bounded in time, with its output in a file.
fn run_step(command: &mut Command, folder: &Path) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let log = folder.join("prepare.log");
    let output = File::create(&log).map_err(|error| error.to_string())?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let deadline = Instant::now() + PREPARE_LIMIT;
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{name} ended with {status}: {}", tail(&log))),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "{name} was stopped after {PREPARE_LIMIT:?}: {}",
                    tail(&log)
                ));
            }
            // tidy: allow sleep: a child's end can only be polled for; the limit above bounds it
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}
