//! The node's configuration: defaults, then the TOML file, then `WARREN_*` variables, then flags.
//!
//! Keys are RabbitMQ's where it has one. Every key stands once, in `keys.rs`; an unknown key is
//! refused by name, an unknown variable is warned of.

mod keys;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub(crate) use values::{LogFormat, MemoryLimit, TimeOfDay};

/// What the node runs with. Sizes in bytes, times in milliseconds unless the name says else.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) node_name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) amqp: Vec<SocketAddr>,
    pub(crate) http: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) cluster: SocketAddr,
    /// Where other nodes reach the cluster port, `host:port`; `None`: where it listens.
    pub(crate) advertise: Option<String>,
    pub(crate) zone: String,
    /// Members that a blank node asks to let it in, `host:port` each.
    pub(crate) join: Vec<String>,
    pub(crate) join_token: Option<String>,
    /// The first node writes a token there, others read theirs.
    pub(crate) bootstrap_token_file: Option<PathBuf>,
    /// A blank node waits to be offered a token.
    pub(crate) await_join: bool,
    /// It serves although another cluster looks for a member here.
    pub(crate) new_cluster: bool,

    pub(crate) default_user: Option<String>,
    pub(crate) default_pass: Option<String>,
    pub(crate) default_vhost: String,
    pub(crate) default_user_tags: Vec<String>,
    pub(crate) default_permissions: [String; 3],
    /// Users that may log in from loopback alone.
    pub(crate) loopback_users: Vec<String>,

    pub(crate) heartbeat_secs: u16,
    pub(crate) frame_max: u32,
    pub(crate) channel_max: u16,
    /// `None`: as many as descriptors allow.
    pub(crate) connection_max: Option<usize>,
    pub(crate) max_message_size: u64,
    pub(crate) consumer_max_per_channel: Option<u32>,
    pub(crate) handshake_timeout: u64,
    pub(crate) cluster_name: Option<String>,

    /// See [`Config::io_threads`].
    pub(crate) io_threads: Option<usize>,
    pub(crate) memory_high_watermark: MemoryLimit,
    pub(crate) disk_free_limit: u64,
    pub(crate) shutdown_timeout: u64,
    /// Milliseconds after which a node that is out of reach loses what lives with it.
    pub(crate) fence_after: u64,

    /// Queue shards; fixed when the data folder is made.
    pub(crate) shards: u32,
    /// Seconds after which a node that is away is replaced by others.
    pub(crate) replace_after_secs: u64,
    /// Bytes a second that a replica which is being rebuilt takes in.
    pub(crate) transfer_rate: u64,
    /// Whether a confirm waits for fdatasync (`data`) or for the page cache (`os`).
    pub(crate) log_sync: bool,
    pub(crate) segment_bytes: u32,
    /// Bodies kept in memory beside what queues without a log hold.
    pub(crate) young_bytes: u64,

    /// Where backups go; `None`: `backups` in the data folder.
    pub(crate) backup_folder: Option<PathBuf>,
    /// When backups are made every day; `None`: only when they are asked for.
    pub(crate) backup_time: Option<TimeOfDay>,
    pub(crate) backup_keep_days: u32,

    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            node_name: format!("warren@{}", hostname()),
            data_dir: PathBuf::from("./warren-data"),
            amqp: vec![local(5672)],
            http: local(15672),
            metrics: local(15692),
            cluster: local(25672),
            advertise: None,
            zone: String::new(),
            join: Vec::new(),
            join_token: None,
            bootstrap_token_file: None,
            await_join: false,
            new_cluster: false,
            default_user: None,
            default_pass: None,
            default_vhost: "/".into(),
            default_user_tags: vec!["administrator".into()],
            default_permissions: [".*".into(), ".*".into(), ".*".into()],
            loopback_users: vec!["guest".into()],
            heartbeat_secs: 60,
            frame_max: warren_protocol::limits::FRAME_MAX_BYTES_DEFAULT,
            channel_max: 2047,
            connection_max: None,
            max_message_size: 16 * 1024 * 1024,
            consumer_max_per_channel: None,
            handshake_timeout: 10_000,
            cluster_name: None,
            io_threads: None,
            memory_high_watermark: MemoryLimit::Relative(0.6),
            disk_free_limit: 50_000_000,
            shutdown_timeout: 8_000,
            fence_after: 10_000,
            shards: 64,
            replace_after_secs: 600,
            transfer_rate: 64 * 1024 * 1024,
            log_sync: true,
            segment_bytes: 64 * 1024 * 1024,
            young_bytes: 64 * 1024 * 1024,
            backup_folder: None,
            backup_time: Some(TimeOfDay { minutes: 2 * 60 }),
            backup_keep_days: 30,
            log_level: "info".into(),
            log_format: LogFormat::Text,
        }
    }
}

/// What was wrong with the configuration: where, which key, why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}: {cause}")]
    Read {
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error("{path} is not TOML: {cause}")]
    Syntax {
        path: PathBuf,
        cause: Box<toml::de::Error>,
    },
    #[error("{place}: unknown key '{key}'{hint}")]
    Unknown {
        place: String,
        key: String,
        hint: String,
    },
    #[error("{place}: key '{key}': {cause}")]
    Value {
        place: String,
        key: String,
        cause: String,
    },
}

impl Config {
    /// Threads that serve connections: by default a core is left to the log (decision 0022).
    pub(crate) fn io_threads(&self, cores: usize) -> usize {
        let default = cores.saturating_sub(1);
        self.io_threads.unwrap_or(default).max(1)
    }

    /// The defaults, changed by `file` if there is one and by the `WARREN_*` variables in
    /// `environment`. Also gives the names of variables that mean nothing.
    ///
    /// # Errors
    /// An unreadable file, an unknown key or a value that does not fit its key.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<String>), Error> {
        let mut config = Self::default();
        if let Some(path) = file {
            config.apply_file(path)?;
        }
        let unknown = config.apply_environment(environment)?;
        Ok((config, unknown))
    }

    /// The name operators and clients see for the cluster.
    pub(crate) fn cluster_name(&self) -> &str {
        self.cluster_name.as_deref().unwrap_or(&self.node_name)
    }

    fn apply_file(&mut self, path: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(path).map_err(|cause| Error::Read {
            path: path.to_owned(),
            cause,
        })?;
        let table: toml::Table = toml::from_str(&text).map_err(|cause| Error::Syntax {
            path: path.to_owned(),
            cause: Box::new(cause),
        })?;
        self.apply_table(&table, "", &path.display().to_string())
    }

    fn apply_table(&mut self, table: &toml::Table, prefix: &str, place: &str) -> Result<(), Error> {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            if let Some(known) = keys::find(&key) {
                known.set(self, value).map_err(|cause| Error::Value {
                    place: place.to_owned(),
                    key,
                    cause,
                })?;
            } else if let toml::Value::Table(inner) = value {
                self.apply_table(inner, &key, place)?;
            } else {
                let hint = keys::hint(&key);
                return Err(Error::Unknown {
                    place: place.to_owned(),
                    key,
                    hint,
                });
            }
        }
        Ok(())
    }

    fn apply_environment(
        &mut self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Vec<String>, Error> {
        let mut unknown = Vec::new();
        for (name, value) in environment {
            if !name.starts_with("WARREN_") || keys::IGNORED_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let Some(known) = keys::find_variable(&name) else {
                unknown.push(name);
                continue;
            };
            known
                .set(self, &toml::Value::String(value))
                .map_err(|cause| Error::Value {
                    place: format!("environment variable {name}"),
                    key: known.name.to_owned(),
                    cause,
                })?;
        }
        Ok(unknown)
    }
}

/// The machine's name, without its domain.
pub(crate) fn hostname() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: the buffer is ours and its length is given; gethostname ends the name with a zero
    // when it fits, and the search below bounds the read otherwise.
    let status = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len()) };
    let end = buffer
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(buffer.len());
    match std::str::from_utf8(&buffer[..end]) {
        Ok(name) if status == 0 && !name.is_empty() => {
            name.split('.').next().unwrap_or(name).to_owned()
        }
        _ => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_text(text: &str) -> Result<Config, Error> {
        let mut config = Config::default();
        let table: toml::Table = toml::from_str(text).expect("test text is TOML");
        config.apply_table(&table, "", "test.toml").map(|()| config)
    }

    #[test]
    fn later_layers_win() {
        let mut config =
            from_text("heartbeat = 30\nlisteners.tcp.default = 5700").expect("known keys");
        let unknown = config
            .apply_environment(
                [
                    ("WARREN_HEARTBEAT", "15"),
                    ("WARREN_NONSENSE", "1"),
                    ("PATH", "x"),
                ]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
            )
            .expect("fits");
        assert_eq!(config.heartbeat_secs, 15);
        assert_eq!(config.amqp, vec![SocketAddr::from(([127, 0, 0, 1], 5700))]);
        assert_eq!(unknown, ["WARREN_NONSENSE"]);
    }

    #[test]
    fn a_core_is_left_to_the_log_unless_the_configuration_says_otherwise() {
        let config = Config::default();
        assert_eq!([1, 2, 8].map(|cores| config.io_threads(cores)), [1, 1, 7]);
        let config = from_text("warren.io_threads = 2").expect("a known key");
        assert_eq!(config.io_threads(8), 2);
        assert!(from_text("warren.io_threads = 0").is_err());
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = from_text("hartbeat = 30")
            .expect_err("misspelt")
            .to_string();
        assert_eq!(
            error,
            "test.toml: unknown key 'hartbeat' (did you mean 'heartbeat'?)"
        );
        let error = from_text("listeners.ssl.default = 5671")
            .expect_err("not built")
            .to_string();
        assert!(error.contains("'listeners.ssl.default'"), "{error}");
        assert!(error.contains("not supported yet"), "{error}");
    }

    #[test]
    fn values_that_do_not_fit_name_their_key() {
        let error = from_text("frame_max = 12")
            .expect_err("too small")
            .to_string();
        assert_eq!(
            error,
            "test.toml: key 'frame_max': 12 is not between 4096 and 2147483647"
        );
        let error = from_text("heartbeat = 'often'")
            .expect_err("no number")
            .to_string();
        assert_eq!(
            error,
            "test.toml: key 'heartbeat': 'often' is not a whole number"
        );
    }

    #[test]
    fn backups_have_a_time_of_day_or_none() {
        let config = from_text("warren.backup.time = '23:59'\nwarren.backup.keep_days = 7");
        let config = config.expect("known keys");
        assert_eq!(config.backup_time, Some(TimeOfDay { minutes: 1439 }));
        assert_eq!(config.backup_keep_days, 7);
        let config = from_text("warren.backup.time = 'off'").expect("known");
        assert_eq!(config.backup_time, None);
        for wrong in ["24:00", "2", "02:60", "2:00 pm", "+2:00"] {
            let error = from_text(&format!("warren.backup.time = '{wrong}'")).expect_err("no time");
            assert!(error.to_string().contains("HH:MM"), "{error}");
        }
    }

    #[test]
    fn sizes_take_units() {
        let config = from_text(
            "vm_memory_high_watermark.absolute = '1GiB'\ndisk_free_limit.absolute = '2GB'",
        )
        .expect("known keys");
        assert_eq!(config.memory_high_watermark, MemoryLimit::Absolute(1 << 30));
        assert_eq!(config.disk_free_limit, 2_000_000_000);
    }
}
