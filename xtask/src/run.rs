//! Running commands, visibly: each is printed as a line that a shell takes, before it starts.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// Whether what is missing on the machine is a failure.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").as_deref() == Ok("true")
}

/// A command on its way.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    program: OsString,
    args: Vec<String>,
    env: Vec<(String, String)>,
    quiet: bool,
}

impl Call {
    /// Any program.
    pub(crate) fn new(program: impl AsRef<Path>) -> Self {
        let program = program.as_ref().as_os_str().to_owned();
        Self {
            program,
            args: Vec::new(),
            env: Vec::new(),
            quiet: false,
        }
    }

    /// `cargo SUBCOMMAND`, the same cargo that runs us.
    pub(crate) fn cargo(subcommand: &str) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Self::new(Path::new(&cargo)).arg(subcommand)
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Prints neither the command nor what it says: for questions that change nothing.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    fn command(&self) -> Command {
        if !self.quiet {
            println!("+ {self}");
            // A closed stdout shows at the next line that matters.
            let _ = std::io::stdout().flush();
        }
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    /// Runs it with our own output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn status(&self) -> Result<ExitStatus> {
        self.command()
            .status()
            .with_context(|| format!("cannot start `{self}`"))
    }

    /// Runs it with our own output; anything but success is an error.
    ///
    /// # Errors
    /// When it cannot be started, or fails.
    pub(crate) fn run(&self) -> Result<()> {
        let status = self.status()?;
        if !status.success() {
            bail!("`{self}` failed: {status}");
        }
        Ok(())
    }

    /// Runs it and gives what it wrote to stdout; its stderr is ours.
    ///
    /// # Errors
    /// When it cannot be started, fails, or writes what is not UTF-8.
    pub(crate) fn output(&self) -> Result<String> {
        let output = self.command().stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start `{self}`"))?;
        if !output.status.success() {
            bail!("`{self}` failed: {}", output.status);
        }
        String::from_utf8(output.stdout).with_context(|| format!("output of `{self}`"))
    }

    /// Starts it and does not wait; what it writes to stdout is kept for whoever does.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn spawn(&self) -> Result<Child> {
        let child = self.command().stdout(Stdio::piped()).spawn();
        child.with_context(|| format!("cannot start `{self}`"))
    }

    /// Runs it, passes on every line of its output and gives it to `line` too.
    ///
    /// # Errors
    /// When it cannot be started, or fails.
    pub(crate) fn run_watched(&self, mut line: impl FnMut(&str)) -> Result<()> {
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let mut command = self.command();
        if std::io::stderr().is_terminal() {
            command.env("CARGO_TERM_COLOR", "always");
        }
        command
            .stdout(writer.try_clone().context("cannot share a pipe")?)
            .stderr(writer);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `{self}`"))?;
        // Holds our copies of the pipe's writing end: with them open it would never end.
        drop(command);
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        let mut stdout = std::io::stdout().lock();
        while reader
            .read_until(b'\n', &mut bytes)
            .context("cannot read output")?
            > 0
        {
            if !self.quiet {
                // A closed stdout must not keep the command from its end.
                let _ = stdout.write_all(&bytes);
            }
            line(String::from_utf8_lossy(&bytes).trim_end());
            bytes.clear();
        }
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for `{self}`"))?;
        if !status.success() {
            bail!("`{self}` failed: {status}");
        }
        Ok(())
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quoted(value))?;
        }
        let program = self.program.to_string_lossy();
        let is_cargo = program.rsplit('/').next() == Some("cargo");
        f.write_str(&if is_cargo {
            "cargo".to_owned()
        } else {
            quoted(&program)
        })?;
        self.args
            .iter()
            .try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

/// `text` as a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_reads_as_a_shell_line() {
        let call = Call::new("prog")
            .arg("a b")
            .arg("it's")
            .arg("")
            .env("X", "1 2");
        assert_eq!(call.to_string(), r"X='1 2' prog 'a b' 'it'\''s' ''");
    }

    #[test]
    fn watched_lines_come_from_both_streams_in_order() {
        let call = Call::new("sh")
            .args(["-c", "echo one; echo two >&2; printf three"])
            .quiet();
        let mut lines = Vec::new();
        call.run_watched(|line| lines.push(line.to_owned()))
            .unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn failure_names_the_command() {
        let error = Call::new("sh")
            .args(["-c", "exit 3"])
            .quiet()
            .run()
            .unwrap_err();
        assert!(
            error.to_string().starts_with("`sh -c 'exit 3'` failed"),
            "{error}"
        );
        assert!(Call::new("no-such-program").quiet().run().is_err());
    }
}
