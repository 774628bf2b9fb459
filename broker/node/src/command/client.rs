//! Where the admin API is, and as whom it is called: the flags that all client verbs have.

use std::io::{self, BufRead, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use warren_cluster::grpc;
use warren_cluster::listener::DEFAULT_PORT;
use warren_cluster::tls::{self, Dial, Files};

/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Where a node says what its addresses are.
const NODE_FILE: &str = "node.json";

/// Which node, and who asks it.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// The node's cluster address (default: that of the node in the data folder, else
    /// 127.0.0.1:25672).
    #[arg(long, value_name = "HOST[:PORT]", env = "WARREN_SERVER", global = true)]
    server: Option<String>,
    /// Data folder of a node, with the administrator's certificate.
    #[arg(
        long,
        value_name = "DIR",
        env = "WARREN_DATA_DIR",
        default_value = "./warren-data",
        global = true
    )]
    data_dir: PathBuf,
    /// Log in as this user, with the password in WARREN_PASSWORD or one that is asked for.
    #[arg(long, value_name = "NAME", global = true)]
    user: Option<String>,
    /// The cluster's authority, to know the node by (default: DATA/admin/ca.pem).
    #[arg(long, value_name = "FILE", requires = "user", global = true)]
    ca: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A connection that says who calls.
pub(crate) type Connection = InterceptedService<Channel, Login>;

/// Adds a user's name and password to each call, if there are any.
#[derive(Clone)]
pub(crate) struct Login(Option<MetadataValue<Ascii>>);

impl Interceptor for Login {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Runs what a verb does.
pub(crate) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(work);
    // A thread that reads standard input may wait for ever.
    runtime.shutdown_background();
    result
}

impl Target {
    /// Connects to the node.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let (dial, login) = self.credentials()?;
        let address = self.address()?;
        let channel = grpc::connect(&[address], &dial, CONNECT_WAIT).await?;
        Ok(InterceptedService::new(channel, login))
    }

    fn credentials(&self) -> anyhow::Result<(Dial, Login)> {
        let Some(user) = &self.user else {
            let keys = Files::new(&self.data_dir).admin()?.with_context(|| {
                format!(
                    "there is no administrator's certificate in {} (choose the data folder of a \
                     node with --data-dir, or log in with --user)",
                    self.data_dir.join("admin").display()
                )
            })?;
            return Ok((tls::admin_client(&keys)?, Login(None)));
        };
        let default = || self.data_dir.join("admin").join("ca.pem");
        let path = self.ca.clone().unwrap_or_else(default);
        let authority = tls::read_authority(&path)
            .context("cannot know the node (name the cluster's authority with --ca)")?;
        let dial = tls::user_client(&authority).with_context(|| path.display().to_string())?;
        let password = match std::env::var("WARREN_PASSWORD") {
            Ok(password) => password,
            Err(_) => ask(&format!("Password of {user}: "))
                .context("cannot ask for the password (set WARREN_PASSWORD)")?,
        };
        let pair = format!("{user}:{password}");
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        let mut value = MetadataValue::try_from(format!("Basic {encoded}"))?;
        value.set_sensitive(true);
        Ok((dial, Login(Some(value))))
    }

    fn address(&self) -> anyhow::Result<String> {
        if let Some(server) = &self.server {
            return Ok(with_port(server));
        }
        let path = self.data_dir.join(NODE_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => of_node(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(format!("127.0.0.1:{DEFAULT_PORT}"))
            }
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }
}

/// The cluster address in a node's `node.json`.
fn of_node(text: &str) -> anyhow::Result<String> {
    let document: serde_json::Value = serde_json::from_str(text)?;
    let address = document["cluster"].as_str().context("has no address")?;
    let mut address: SocketAddr = address.parse().context("has no address")?;
    if address.ip().is_unspecified() {
        // Where it listens on every address it does so on this one.
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    Ok(address.to_string())
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT` or an IPv6 address alone.
fn with_port(server: &str) -> String {
    let is_v6 = server.parse::<std::net::Ipv6Addr>().is_ok();
    let has_port = !server.ends_with(']') && server.contains(':');
    if is_v6 {
        format!("[{server}]:{DEFAULT_PORT}")
    } else if has_port {
        server.to_owned()
    } else {
        format!("{server}:{DEFAULT_PORT}")
    }
}

/// Asks without showing what is typed.
fn ask(prompt: &str) -> io::Result<String> {
    rpassword::prompt_password(prompt)
}

/// A new password: asked for twice, or, without a terminal, a line of standard input.
pub(crate) fn new_password() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        let password = line.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            bail!("the password is expected as a line of standard input");
        }
        return Ok(password.to_owned());
    }
    let password = ask("New password: ")?;
    if ask("Once more: ")? != password {
        bail!("these are two passwords");
    }
    Ok(password)
}

/// A refusal for people.
#[expect(clippy::needless_pass_by_value, reason = "is handed to `map_err`")]
pub(crate) fn refused(status: Status) -> anyhow::Error {
    let text = status.message();
    match status.code() {
        Code::Unauthenticated => anyhow!("not let in: {text}"),
        Code::PermissionDenied => anyhow!("not allowed: {text}"),
        Code::Aborted => anyhow!("not now: {text}"),
        Code::Unimplemented => anyhow!("the node does not know this command"),
        Code::Unknown | Code::Unavailable if text.is_empty() || text == "transport error" => {
            anyhow!("the connection is lost")
        }
        _ => anyhow!("{text}"),
    }
}

/// A file to send, or standard input for `-`.
pub(crate) fn open(path: &Path) -> anyhow::Result<Box<dyn io::Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = std::fs::File::open(path);
    let file = file.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_port_that_they_lack() {
        let cases = [
            ("broker", "broker:25672"),
            ("broker:1", "broker:1"),
            ("10.0.0.1", "10.0.0.1:25672"),
            ("::1", "[::1]:25672"),
            ("[::1]", "[::1]:25672"),
            ("[::1]:9", "[::1]:9"),
        ];
        for (given, wanted) in cases {
            assert_eq!(with_port(given), wanted);
        }
    }

    #[test]
    fn a_node_that_listens_everywhere_is_here() {
        let of = |address: &str| of_node(&format!("{{\"cluster\":\"{address}\"}}")).ok();
        assert_eq!(of("0.0.0.0:7"), Some("127.0.0.1:7".to_owned()));
        assert_eq!(of("[::]:7"), Some("[::1]:7".to_owned()));
        assert_eq!(of("10.1.1.1:7"), Some("10.1.1.1:7".to_owned()));
        assert_eq!(of("nowhere"), None);
        assert!(of_node("{}").is_err());
    }
}
