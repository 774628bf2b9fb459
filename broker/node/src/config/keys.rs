//! Every key that the configuration knows, once.

use super::Config;
use super::values::{
    LogFormat, MemoryLimit, address, boolean, fraction, integer, list, size, text, time_of_day,
};

type Set = fn(&mut Config, &toml::Value) -> Result<(), String>;

/// A key and what it changes.
pub(super) struct Key {
    pub(super) name: &'static str,
    set: Set,
}

impl Key {
    pub(super) fn set(&self, config: &mut Config, value: &toml::Value) -> Result<(), String> {
        (self.set)(config, value)
    }

    /// `listeners.tcp.default` is `WARREN_LISTENERS_TCP_DEFAULT`.
    fn variable(&self) -> String {
        let name = self.name.strip_prefix("warren.").unwrap_or(self.name);
        format!("WARREN_{}", name.replace('.', "_").to_ascii_uppercase())
    }
}

/// Variables that other parts of Warren read themselves.
pub(super) const IGNORED_VARIABLES: &[&str] = &[
    "WARREN_CONFIG",
    "WARREN_BIN",
    "WARREN_SERVER",
    "WARREN_PASSWORD",
    "WARREN_LOG",
];

/// Keys of RabbitMQ that this version refuses with a reason rather than as unknown.
const UNSUPPORTED: &[&str] = &[
    "listeners.ssl",
    "ssl_options",
    "management.ssl",
    "management.load_definitions",
    "load_definitions",
    "definitions",
    "consumer_timeout",
    "default_queue_type",
    "vhost_max",
    "cluster_queue_limit",
    "cluster_exchange_limit",
    "cluster_formation",
    "auth_backends",
    "auth_mechanisms",
    "default_policies",
    "default_limits",
    "proxy_protocol",
];

fn put<T>(value: Result<T, String>, field: &mut T) -> Result<(), String> {
    *field = value?;
    Ok(())
}

const KEYS: &[Key] = &[
    Key {
        name: "warren.node_name",
        set: |c, v| put(text(v), &mut c.node_name),
    },
    Key {
        name: "warren.data_dir",
        set: |c, v| put(text(v).map(Into::into), &mut c.data_dir),
    },
    Key {
        name: "listeners.tcp.default",
        set: |c, v| {
            c.amqp = vec![address(v, Config::default().amqp[0])?];
            Ok(())
        },
    },
    Key {
        name: "warren.listeners.tcp",
        set: |c, v| {
            let fallback = Config::default().amqp[0];
            c.amqp = list(v)?
                .into_iter()
                .map(|item| address(&toml::Value::String(item), fallback))
                .collect::<Result<_, _>>()?;
            if c.amqp.is_empty() {
                Err("the list is empty".into())
            } else {
                Ok(())
            }
        },
    },
    Key {
        name: "management.tcp.port",
        set: |c, v| put(address(v, c.http), &mut c.http),
    },
    Key {
        name: "management.tcp.ip",
        set: |c, v| ip(v).map(|ip| c.http.set_ip(ip)),
    },
    Key {
        name: "prometheus.tcp.port",
        set: |c, v| put(address(v, c.metrics), &mut c.metrics),
    },
    Key {
        name: "prometheus.tcp.ip",
        set: |c, v| ip(v).map(|ip| c.metrics.set_ip(ip)),
    },
    Key {
        name: "warren.cluster_addr",
        set: |c, v| put(address(v, c.cluster), &mut c.cluster),
    },
    Key {
        name: "warren.advertise",
        set: |c, v| put(text(v).map(Some), &mut c.advertise),
    },
    Key {
        name: "warren.zone",
        set: |c, v| put(text(v), &mut c.zone),
    },
    Key {
        name: "warren.join",
        set: |c, v| put(list(v), &mut c.join),
    },
    Key {
        name: "warren.join_token",
        set: |c, v| put(text(v).map(Some), &mut c.join_token),
    },
    Key {
        name: "warren.bootstrap_token_file",
        set: |c, v| {
            put(
                text(v).map(|it| Some(it.into())),
                &mut c.bootstrap_token_file,
            )
        },
    },
    Key {
        name: "warren.await_join",
        set: |c, v| put(boolean(v), &mut c.await_join),
    },
    Key {
        name: "warren.new_cluster",
        set: |c, v| put(boolean(v), &mut c.new_cluster),
    },
    Key {
        name: "default_user",
        set: |c, v| put(text(v).map(Some), &mut c.default_user),
    },
    Key {
        name: "default_pass",
        set: |c, v| put(text(v).map(Some), &mut c.default_pass),
    },
    Key {
        name: "default_vhost",
        set: |c, v| put(text(v), &mut c.default_vhost),
    },
    Key {
        name: "default_user_tags.administrator",
        set: |c, v| tag(c, "administrator", v),
    },
    Key {
        name: "default_user_tags.management",
        set: |c, v| tag(c, "management", v),
    },
    Key {
        name: "default_user_tags.monitoring",
        set: |c, v| tag(c, "monitoring", v),
    },
    Key {
        name: "default_user_tags.policymaker",
        set: |c, v| tag(c, "policymaker", v),
    },
    Key {
        name: "default_user_tags.impersonator",
        set: |c, v| tag(c, "impersonator", v),
    },
    Key {
        name: "default_permissions.configure",
        set: |c, v| put(text(v), &mut c.default_permissions[0]),
    },
    Key {
        name: "default_permissions.write",
        set: |c, v| put(text(v), &mut c.default_permissions[1]),
    },
    Key {
        name: "default_permissions.read",
        set: |c, v| put(text(v), &mut c.default_permissions[2]),
    },
    Key {
        name: "loopback_users",
        set: |c, v| {
            c.loopback_users = list(v)?;
            // RabbitMQ's way to say that nobody is bound to loopback.
            c.loopback_users.retain(|user| user != "none");
            Ok(())
        },
    },
    Key {
        name: "heartbeat",
        set: |c, v| {
            put(
                integer(v, 0, u64::from(u16::MAX)).map(|n| n as u16),
                &mut c.heartbeat_secs,
            )
        },
    },
    Key {
        name: "frame_max",
        set: |c, v| {
            put(
                integer(v, 4096, (1 << 31) - 1).map(|n| n as u32),
                &mut c.frame_max,
            )
        },
    },
    Key {
        name: "channel_max",
        set: |c, v| put(integer(v, 1, 65535).map(|n| n as u16), &mut c.channel_max),
    },
    Key {
        name: "connection_max",
        set: |c, v| {
            c.connection_max = match v.as_str() {
                Some("infinity") => None,
                _ => Some(integer(v, 0, 1 << 32)? as usize),
            };
            Ok(())
        },
    },
    Key {
        name: "max_message_size",
        set: |c, v| {
            let bytes = size(v)?;
            if bytes == 0 || bytes > 536_870_912 {
                return Err(format!("{bytes} is not between 1 and 536870912"));
            }
            c.max_message_size = bytes;
            Ok(())
        },
    },
    Key {
        name: "consumer_max_per_channel",
        set: |c, v| {
            c.consumer_max_per_channel = match v.as_str() {
                Some("infinity") => None,
                _ => Some(integer(v, 1, u64::from(u32::MAX))? as u32),
            };
            Ok(())
        },
    },
    Key {
        name: "handshake_timeout",
        set: |c, v| put(integer(v, 1, 3_600_000), &mut c.handshake_timeout),
    },
    Key {
        name: "cluster_name",
        set: |c, v| put(text(v).map(Some), &mut c.cluster_name),
    },
    Key {
        name: "warren.io_threads",
        set: |c, v| {
            put(
                integer(v, 1, 1024).map(|n| Some(n as usize)),
                &mut c.io_threads,
            )
        },
    },
    Key {
        name: "vm_memory_high_watermark.relative",
        set: |c, v| {
            put(
                fraction(v).map(MemoryLimit::Relative),
                &mut c.memory_high_watermark,
            )
        },
    },
    Key {
        name: "vm_memory_high_watermark.absolute",
        set: |c, v| {
            put(
                size(v).map(MemoryLimit::Absolute),
                &mut c.memory_high_watermark,
            )
        },
    },
    Key {
        name: "disk_free_limit.absolute",
        set: |c, v| put(size(v), &mut c.disk_free_limit),
    },
    Key {
        name: "warren.cluster.fence_after",
        // Longer than any leader can act on its own.
        set: |c, v| put(integer(v, 3_000, 86_400_000), &mut c.fence_after),
    },
    Key {
        name: "warren.shutdown_timeout",
        set: |c, v| put(integer(v, 1, 3_600_000), &mut c.shutdown_timeout),
    },
    Key {
        name: "shutdown_timeout",
        set: |c, v| put(integer(v, 1, 3_600_000), &mut c.shutdown_timeout),
    },
    Key {
        name: "cluster.shards",
        set: |c, v| put(integer(v, 1, 4096).map(|n| n as u32), &mut c.shards),
    },
    Key {
        name: "cluster.replace_after",
        set: |c, v| put(integer(v, 1, 31_536_000), &mut c.replace_after_secs),
    },
    Key {
        name: "cluster.transfer_rate",
        set: |c, v| put(size(v), &mut c.transfer_rate),
    },
    Key {
        name: "warren.backup.folder",
        set: |c, v| put(text(v).map(|path| Some(path.into())), &mut c.backup_folder),
    },
    Key {
        name: "warren.backup.time",
        set: |c, v| put(time_of_day(v), &mut c.backup_time),
    },
    Key {
        name: "warren.backup.keep_days",
        set: |c, v| {
            put(
                integer(v, 1, 36_500).map(|n| n as u32),
                &mut c.backup_keep_days,
            )
        },
    },
    Key {
        name: "log.sync",
        set: |c, v| {
            c.log_sync = match v.as_str() {
                Some("data") => true,
                Some("os") => false,
                _ => return Err(format!("{v} is neither 'data' nor 'os'")),
            };
            Ok(())
        },
    },
    Key {
        name: "log.segment_bytes",
        set: |c, v| {
            let bytes = size(v)?;
            if !(1 << 20..=1 << 30).contains(&bytes) {
                return Err(format!("{bytes} is not between 1 MiB and 1 GiB"));
            }
            c.segment_bytes = bytes as u32;
            Ok(())
        },
    },
    Key {
        name: "log.young_bytes",
        set: |c, v| put(size(v), &mut c.young_bytes),
    },
    Key {
        name: "log.console.level",
        set: |c, v| put(text(v), &mut c.log_level),
    },
    Key {
        name: "log.console.formatter",
        set: |c, v| {
            c.log_format = match v.as_str() {
                Some("json") => LogFormat::Json,
                Some("plaintext" | "text") => LogFormat::Text,
                _ => return Err(format!("{v} is neither 'text' nor 'json'")),
            };
            Ok(())
        },
    },
];

fn ip(value: &toml::Value) -> Result<std::net::IpAddr, String> {
    let text = text(value)?;
    text.trim()
        .parse()
        .map_err(|_| format!("'{text}' is not an IP address"))
}

fn tag(config: &mut Config, tag: &str, value: &toml::Value) -> Result<(), String> {
    let set = boolean(value)?;
    config.default_user_tags.retain(|present| present != tag);
    if set {
        config.default_user_tags.push(tag.to_owned());
    }
    Ok(())
}

pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

pub(super) fn find_variable(variable: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.variable() == variable)
}

/// What to say after "unknown key": that it is RabbitMQ's and not built, or the nearest name.
pub(super) fn hint(unknown: &str) -> String {
    let known = |prefix: &&&str| {
        unknown == **prefix
            || unknown
                .strip_prefix(**prefix)
                .is_some_and(|r| r.starts_with('.'))
    };
    if UNSUPPORTED.iter().find(known).is_some() {
        return " (a key of RabbitMQ that is not supported yet)".to_owned();
    }
    KEYS.iter()
        .map(|key| (distance(unknown, key.name), key.name))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| format!(" (did you mean '{name}'?)"))
        .unwrap_or_default()
}

/// Levenshtein distance, for hints.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let next = (corner + usize::from(x != y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
