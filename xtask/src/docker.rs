//! `docker`: what can be known of `docker/` on a machine without a container engine.
//!
//! The Dockerfile and the compose files go through their linters, which are not part of the
//! toolchain: where one is missing its check is ignored, or failed in CI, for which `.ci/run`
//! installs both. The command line of the image, and of every service that runs it, goes through
//! `warren start --check` with the service's environment and nothing else. `WARREN_BIN` names the
//! `warren` to ask; without it one is built.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::ci::PROFILE;
use crate::run::{Call, is_ci};
use crate::workspace::Workspace;

/// The image that the compose files build.
const IMAGE: &str = "warren:local";

/// A compose file, as far as it matters here.
#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(default)]
    image: String,
    /// Instead of the image's own.
    #[serde(default)]
    command: Option<Vec<String>>,
    #[serde(default)]
    environment: BTreeMap<String, Value>,
}

/// What the image runs, when nobody says anything else, and how its health is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Image {
    command: Vec<String>,
    health: Vec<String>,
}

/// One command line, and where it stands.
struct Line {
    place: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// How many checks ended how.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
}

/// Runs all checks.
///
/// # Errors
/// When one fails, or `docker/` cannot be read.
pub(crate) fn run() -> Result<()> {
    let workspace = Workspace::load()?;
    let folder = workspace.root.join("docker");
    let lines = lines(&folder)?;
    let warren = if let Some(binary) = std::env::var_os("WARREN_BIN") {
        PathBuf::from(binary)
    } else {
        let build = ["--profile", PROFILE, "--workspace", "--bins"];
        Call::cargo("build").args(build).run()?;
        workspace.binary(PROFILE, "warren")
    };
    println!("     Running docker");
    let mut tally = Tally::default();
    tally.lint("hadolint", &[], &folder.join("Dockerfile"));
    let config = folder.join(".dclintrc.yaml");
    let config = ["--max-warnings", "0", "-c", &config.to_string_lossy()];
    tally.lint("dclint", &config, &folder);
    for line in &lines {
        let outcome = check(&warren, line);
        tally.take(&line.place, outcome);
    }
    tally.end()
}

/// The command lines of the image and of every service that runs it.
fn lines(folder: &Path) -> Result<Vec<Line>> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let image = Image::parse(&read(&folder.join("Dockerfile"))?)?;
    let mut lines = vec![
        Line::of("Dockerfile CMD", checked(&image.command)),
        Line::of("Dockerfile HEALTHCHECK", helped(&image.health)),
    ];
    for path in compose_files(folder)? {
        let text = read(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = Compose::parse(&text).with_context(|| name.clone().into_owned())?;
        lines.extend(file.lines(&name, &image)?);
    }
    Ok(lines)
}

fn compose_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).context("cannot list docker/")?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.context("cannot list docker/")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("compose.") && name.ends_with(".yml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The line says whether it can be understood, and does nothing.
fn checked(command: &[String]) -> Vec<String> {
    command.iter().cloned().chain(["--check".into()]).collect()
}

fn helped(command: &[String]) -> Vec<String> {
    command.iter().cloned().chain(["--help".into()]).collect()
}

fn check(warren: &Path, line: &Line) -> Result<()> {
    let output = Command::new(warren)
        .args(&line.arguments)
        .env_clear()
        .envs(line.environment.iter().cloned())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", warren.display()))?;
    let says = String::from_utf8_lossy(&output.stderr);
    // A warning is about a variable that nobody reads.
    if !output.status.success() || !says.is_empty() {
        let arguments = line.arguments.join(" ");
        bail!("`warren {arguments}`: {}, {}", output.status, says.trim());
    }
    Ok(())
}

impl Line {
    fn of(place: &str, arguments: Vec<String>) -> Self {
        Self {
            place: place.to_owned(),
            arguments,
            environment: Vec::new(),
        }
    }
}

impl Image {
    /// Reads the last `CMD` and `HEALTHCHECK` of a Dockerfile, which have to be in the exec form.
    fn parse(text: &str) -> Result<Self> {
        let joined = text.replace("\\\n", " ");
        let list = |start: &str| -> Result<Vec<String>> {
            let mut lines = joined.lines().rev().map(str::trim);
            let line = lines.find(|line| line.starts_with(start));
            let line = line.with_context(|| format!("the Dockerfile has no {start}"))?;
            let from = line.find('[').unwrap_or(line.len());
            serde_json::from_str(&line[from..]).with_context(|| format!("not a list: {line}"))
        };
        let entrypoint = list("ENTRYPOINT ")?;
        let health = list("HEALTHCHECK ")?;
        if health.first() != entrypoint.first() || entrypoint.len() != 1 {
            bail!("the Dockerfile runs {entrypoint:?} and asks {health:?}");
        }
        Ok(Self {
            command: list("CMD ")?,
            health: health[1..].to_vec(),
        })
    }
}

impl Compose {
    fn parse(text: &str) -> Result<Self> {
        Ok(serde_saphyr::from_str(text)?)
    }

    fn lines(&self, name: &str, image: &Image) -> Result<Vec<Line>> {
        let ours = self.services.iter().filter(|(_, it)| it.image == IMAGE);
        let mut lines = Vec::new();
        for (service, it) in ours {
            let place = format!("{name} {service}");
            let command = it.command.as_ref().unwrap_or(&image.command);
            let command = command.iter().map(|word| interpolated(word));
            let command = command.collect::<Result<Vec<_>>>();
            let environment = it.environment.iter().map(|(name, value)| {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                Ok((name.clone(), interpolated(&text)?))
            });
            let environment = environment.collect::<Result<Vec<_>>>();
            lines.push(Line {
                arguments: checked(&command.with_context(|| place.clone())?),
                environment: environment.with_context(|| place.clone())?,
                place,
            });
        }
        if lines.is_empty() {
            bail!("{name} has no service with the image {IMAGE}");
        }
        Ok(lines)
    }
}

/// `text` as compose gives it to a service where no variable is set but those that must be.
fn interpolated(text: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, after) = after.split_once('}').context("`${` without an end")?;
        out.push_str(before);
        if let Some((_, default)) = inside.split_once(":-") {
            out.push_str(default);
        } else if inside.contains(":?") {
            out.push_str("given");
        } else {
            bail!("`${{{inside}}}` has no default and is not demanded");
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

impl Tally {
    /// Runs a linter, if it is there.
    fn lint(&mut self, tool: &str, arguments: &[&str], of: &Path) {
        let call = Call::new(tool).args(arguments.iter().copied());
        let there = Command::new(tool)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        match there {
            Err(_) if !is_ci() => {
                println!("test {tool} ... ignored, {tool} is not installed");
                self.ignored += 1;
            }
            Err(error) => self.take(tool, Err(error).context("cannot be started, and CI=true")),
            Ok(_) => self.take(tool, call.arg(of.to_string_lossy()).run()),
        }
    }

    fn take(&mut self, name: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => {
                println!("test {name} ... ok");
                self.passed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED\n    {error:#}");
                self.failed += 1;
            }
        }
    }

    fn end(&self) -> Result<()> {
        let Self {
            passed,
            failed,
            ignored,
        } = self;
        let word = if *failed == 0 { "ok" } else { "FAILED" };
        println!("test result: {word}. {passed} passed; {failed} failed; {ignored} ignored");
        if *failed > 0 {
            bail!("{failed} checks of docker/ failed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKERFILE: &str = "FROM a\nHEALTHCHECK --interval=10s \\\n    CMD [\"/w\", \"health\"]\n\
        ENTRYPOINT [\"/w\"]\nCMD [\"start\", \\\n  \"--x\"]\n";

    fn image() -> Image {
        Image::parse(DOCKERFILE).unwrap()
    }

    #[test]
    fn the_image_says_what_it_runs() {
        let words = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect();
        let expected = Image {
            command: words(&["start", "--x"]),
            health: words(&["health"]),
        };
        assert_eq!(image(), expected);
        assert!(Image::parse("ENTRYPOINT [\"/w\"]\nCMD [\"start\"]\n").is_err());
        assert!(Image::parse(&DOCKERFILE.replace("CMD [\"start\"", "CMD start")).is_err());
        assert!(Image::parse(&DOCKERFILE.replace("\"/w\", \"health\"", "\"curl\"")).is_err());
    }

    #[test]
    fn services_have_what_they_share_and_what_they_say_themselves() {
        let text = "x-one: &one\n  image: warren:local\n  command: [start, \"--a=${A:-1}\"]\n\
            services:\n  w1:\n    <<: *one\n    environment:\n      P: ${P:?say it}\n      N: 5\n  \
            w2:\n    <<: *one\n    command: [start, --b]\n  w3:\n    image: warren:local\n  \
            prometheus:\n    image: other\n    command: [run]\n";
        let lines = Compose::parse(text).unwrap().lines("c", &image()).unwrap();
        let lines: Vec<_> = lines
            .iter()
            .map(|line| {
                format!(
                    "{}: {} {:?}",
                    line.place,
                    line.arguments.join(" "),
                    line.environment
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "c w1: start --a=1 --check [(\"N\", \"5\"), (\"P\", \"given\")]",
                "c w2: start --b --check []",
                "c w3: start --x --check []",
            ]
        );
    }

    #[test]
    fn files_that_say_nothing_are_refused() {
        let none = Compose::parse("services:\n  p:\n    image: other\n").unwrap();
        assert!(none.lines("c", &image()).is_err());
        assert!(Compose::parse("services: 3").is_err());
        assert!(Compose::parse("services:\n  p: [").is_err());
    }

    #[test]
    fn variables_have_a_default_or_are_demanded() {
        assert_eq!(interpolated("a ${B:-c} d${E:?f}").unwrap(), "a c dgiven");
        assert_eq!(interpolated("plain").unwrap(), "plain");
        assert!(interpolated("${B}").is_err());
        assert!(interpolated("${B").is_err());
    }
}
