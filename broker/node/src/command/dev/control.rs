//! How `warren dev kill` and `start` reach the `warren dev` that runs: a socket in a folder that
//! only its owner can use, named after the port offset, since two clusters cannot share one.
//!
//! A request is a line (`kill 2`, `start 2`), the answer `ok TEXT` or `error TEXT` until the end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream as Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

/// Longer than any request.
const REQUEST_BYTES_MAX: usize = 64;
/// For one that connects to say what it wants, and to take the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What a running cluster is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    Kill(u16),
    Start(u16),
}

/// Where requests come in; the socket is gone when it is dropped.
pub(super) struct Control {
    listener: UnixListener,
    /// Who has connected and not said all of what it wants.
    asking: Option<Asking>,
    path: PathBuf,
}

struct Asking {
    stream: UnixStream,
    line: Vec<u8>,
    until: Instant,
}

/// One request, to be answered.
pub(super) struct Request {
    pub(super) command: Command,
    stream: UnixStream,
}

impl Command {
    fn parse(line: &str) -> Option<Self> {
        let (verb, number) = line.trim_end().split_once(' ')?;
        let number = number.parse().ok()?;
        match verb {
            "kill" => Some(Self::Kill(number)),
            "start" => Some(Self::Start(number)),
            _ => None,
        }
    }

    fn line(self) -> String {
        match self {
            Self::Kill(number) => format!("kill {number}\n"),
            Self::Start(number) => format!("start {number}\n"),
        }
    }
}

impl Control {
    /// Takes the socket of this offset.
    ///
    /// # Errors
    /// When a cluster with this offset runs already.
    pub(super) fn open(offset: u16) -> anyhow::Result<Self> {
        Self::open_at(folder()?.join(socket(offset)))
    }

    fn open_at(path: PathBuf) -> anyhow::Result<Self> {
        match Connection::connect(&path) {
            Ok(_) => {
                bail!("a cluster with these ports runs already (choose others with --port-offset)")
            }
            // Left behind by one that was killed.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&path).context("cannot remove an old control socket")?;
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(&path);
        let listener = listener.with_context(|| format!("cannot listen on {}", path.display()))?;
        Ok(Self {
            listener,
            asking: None,
            path,
        })
    }

    /// The next request that can be read; what cannot is answered here. No request is lost when
    /// this is dropped at any time.
    pub(super) async fn next(&mut self) -> Request {
        loop {
            let read = self.asking().await.read().await;
            let Some(asking) = self.asking.take().filter(|_| read) else {
                continue;
            };
            let mut stream = asking.stream;
            let line = std::str::from_utf8(&asking.line).ok();
            match line.and_then(Command::parse) {
                Some(command) => return Request { command, stream },
                None => reply(&mut stream, "error this is no request").await,
            }
        }
    }

    /// Whoever has connected and not said all of what it wants, or the next one that connects.
    async fn asking(&mut self) -> &mut Asking {
        while self.asking.is_none() {
            match self.listener.accept().await {
                Ok((stream, _)) => self.asking = Some(Asking::new(stream)),
                // Out of descriptors, say: not worth the cluster.
                Err(_) => tokio::time::sleep(REQUEST_LIMIT).await,
            }
        }
        self.asking.as_mut().expect("somebody asks")
    }
}

impl Asking {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            line: Vec::new(),
            until: Instant::now() + REQUEST_LIMIT,
        }
    }

    /// Reads to the end of the request; goes on where it was dropped. False when it did not come
    /// in time, or whoever asked is gone.
    async fn read(&mut self) -> bool {
        let whole = async {
            while self.line.len() < REQUEST_BYTES_MAX {
                let left = REQUEST_BYTES_MAX - self.line.len();
                let mut limited = (&mut self.stream).take(left as u64);
                if limited.read_buf(&mut self.line).await? == 0 {
                    break;
                }
            }
            std::io::Result::Ok(())
        };
        matches!(timeout_at(self.until, whole).await, Ok(Ok(())))
    }
}

impl Request {
    pub(super) async fn answer(mut self, answer: anyhow::Result<String>) {
        let text = match answer {
            Ok(text) => format!("ok {text}"),
            Err(error) => format!("error {error:#}"),
        };
        reply(&mut self.stream, &text).await;
    }
}

/// Whoever asked may be gone by now.
async fn reply(stream: &mut UnixStream, text: &str) {
    let _ = timeout(REQUEST_LIMIT, stream.write_all(text.as_bytes())).await;
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the cluster with this offset; gives what it says.
pub(super) fn ask(offset: u16, command: Command) -> anyhow::Result<String> {
    ask_at(&folder()?.join(socket(offset)), command)
        .with_context(|| format!("port offset {offset}"))
}

fn ask_at(path: &Path, command: Command) -> anyhow::Result<String> {
    let mut stream = Connection::connect(path).context("no `warren dev` runs with these ports")?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(command.line().as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once(' ') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some(("error", text)) => bail!("{text}"),
        _ => bail!("the cluster ended before it answered"),
    }
}

fn socket(offset: u16) -> String {
    format!("offset-{offset}")
}

/// The folder of this user's sockets, which nobody else may use.
fn folder() -> anyhow::Result<PathBuf> {
    let user = std::fs::metadata("/proc/self").context("cannot tell who this is")?;
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = base.join(format!("warren-dev-{}", user.uid()));
    make(&path, user.uid())?;
    Ok(path)
}

fn make(path: &Path, user: u32) -> anyhow::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.with_context(|| format!("cannot make {}", path.display()))?,
    }
    let found = std::fs::symlink_metadata(path)?;
    let own = found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0;
    ensure!(own, "{} is not this user's own folder", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new folder for sockets, and whose it is.
    fn folder_of(test: &str) -> (PathBuf, u32) {
        let name = format!("warren-control-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let user = std::fs::metadata("/proc/self").expect("proc").uid();
        make(&folder, user).expect("made");
        (folder, user)
    }

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    }

    #[test]
    fn requests_read_back() {
        for command in [Command::Kill(1), Command::Start(20)] {
            assert_eq!(Command::parse(&command.line()), Some(command));
        }
        for line in ["", "kill", "kill x", "stop 1", "kill 1 2", "kill -1"] {
            assert_eq!(Command::parse(line), None, "{line}");
        }
    }

    /// Whoever waits for requests waits for other things, too.
    #[test]
    fn a_request_outlives_who_waits_for_it() {
        let (folder, _) = folder_of("slow");
        runtime().block_on(async {
            let mut control = Control::open_at(folder.join(socket(8))).expect("free");
            let mut asks = Connection::connect(folder.join(socket(8))).expect("listens");
            for piece in [&b""[..], b"ki", b"ll 2"] {
                asks.write_all(piece).expect("taken");
                while control
                    .asking
                    .as_ref()
                    .is_none_or(|it| it.line.len() < piece.len())
                {
                    let next = timeout(Duration::from_millis(1), control.next()).await;
                    assert!(next.is_err(), "there is more to come");
                }
            }
            asks.shutdown(std::net::Shutdown::Write).expect("open");
            let request = control.next().await;
            assert_eq!(request.command, Command::Kill(2));
        });
        std::fs::remove_dir(&folder).expect("the socket is gone");
    }

    #[test]
    fn one_cluster_has_the_socket_and_answers() {
        let (folder, user) = folder_of("one");
        make(&folder, user).expect("there already");
        assert!(make(&folder, user + 1).is_err(), "somebody else's");
        let path = folder.join(socket(7));
        runtime().block_on(async {
            let mut control = Control::open_at(path.clone()).expect("free");
            assert!(Control::open_at(path.clone()).is_err(), "taken");
            let at = path.clone();
            let asked = std::thread::spawn(move || {
                let mut stranger = Connection::connect(&at).expect("listens");
                stranger.write_all(b"nonsense").expect("taken");
                drop(stranger);
                let killed = ask_at(&at, Command::Kill(2));
                let started = ask_at(&at, Command::Start(9));
                (
                    killed.expect("ok"),
                    started.expect_err("refused").to_string(),
                )
            });
            let request = control.next().await;
            assert_eq!(request.command, Command::Kill(2));
            request.answer(Ok("node 2 killed".to_owned())).await;
            let request = control.next().await;
            assert_eq!(request.command, Command::Start(9));
            request.answer(Err(anyhow::anyhow!("no node 9"))).await;
            let (killed, started) = asked.join().expect("no panic");
            assert_eq!((&*killed, &*started), ("node 2 killed", "no node 9"));
        });
        assert!(ask_at(&path, Command::Kill(1)).is_err(), "nobody is there");
        std::fs::remove_dir(&folder).expect("the socket is gone");
    }
}
