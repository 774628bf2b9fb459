//! Values as people write them: sizes with units, addresses, lists.

use std::net::SocketAddr;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// `vm_memory_high_watermark`: above it publishers wait.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum MemoryLimit {
    /// A share of the smaller of the machine's memory and the control group's limit.
    Relative(f64),
    /// Bytes.
    Absolute(u64),
}

/// A minute of every day, in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimeOfDay {
    /// Since midnight.
    pub(crate) minutes: u32,
}

/// `HH:MM`, or `off`.
pub(super) fn time_of_day(value: &toml::Value) -> Result<Option<TimeOfDay>, String> {
    let text = text(value)?;
    if text == "off" {
        return Ok(None);
    }
    let wrong = || format!("'{text}' is neither HH:MM nor 'off'");
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let number = |digits: &str, limit: u32| {
        let two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse::<u32>().ok();
        let number = number.filter(|number| two && *number < limit);
        number.ok_or_else(wrong)
    };
    let minutes = number(hours, 24)? * 60 + number(minutes, 60)?;
    Ok(Some(TimeOfDay { minutes }))
}

/// A whole number within `low..=high`, also when written as text.
pub(super) fn integer(value: &toml::Value, low: u64, high: u64) -> Result<u64, String> {
    let number = match value {
        toml::Value::Integer(number) => {
            u64::try_from(*number).map_err(|_| format!("{number} is negative"))?
        }
        toml::Value::String(text) => text
            .trim()
            .parse()
            .map_err(|_| format!("'{text}' is not a whole number"))?,
        other => return Err(format!("{other} is not a whole number")),
    };
    if (low..=high).contains(&number) {
        Ok(number)
    } else {
        Err(format!("{number} is not between {low} and {high}"))
    }
}

/// A fraction above 0 and up to 1.
pub(super) fn fraction(value: &toml::Value) -> Result<f64, String> {
    let number = match value {
        toml::Value::Float(number) => *number,
        toml::Value::Integer(1) => 1.0,
        toml::Value::String(text) => text
            .trim()
            .parse()
            .map_err(|_| format!("'{text}' is not a number"))?,
        other => return Err(format!("{other} is not a number")),
    };
    if number > 0.0 && number <= 1.0 {
        Ok(number)
    } else {
        Err(format!("{number} is not above 0 and up to 1"))
    }
}

/// Bytes: a number, or text with a unit as RabbitMQ takes them (kB MB GB, KiB MiB GiB, K M G).
pub(super) fn size(value: &toml::Value) -> Result<u64, String> {
    let toml::Value::String(text) = value else {
        return integer(value, 0, u64::MAX);
    };
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let unit: u64 = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" | "ki" => 1 << 10,
        "m" | "mib" | "mi" => 1 << 20,
        "g" | "gib" | "gi" => 1 << 30,
        "t" | "tib" | "ti" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        other => {
            return Err(format!(
                "'{other}' is not a unit (try kB, MB, GB, KiB, MiB, GiB)"
            ));
        }
    };
    let number: u64 = trimmed[..digits]
        .parse()
        .map_err(|_| format!("'{text}' is not a size"))?;
    number
        .checked_mul(unit)
        .ok_or_else(|| format!("'{text}' is too large"))
}

pub(super) fn text(value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        other => Err(format!("{other} is not text")),
    }
}

pub(super) fn boolean(value: &toml::Value) -> Result<bool, String> {
    match value {
        toml::Value::Boolean(flag) => Ok(*flag),
        toml::Value::String(text) if text == "true" => Ok(true),
        toml::Value::String(text) if text == "false" => Ok(false),
        other => Err(format!("{other} is neither true nor false")),
    }
}

/// A list of texts, or one text with commas.
pub(super) fn list(value: &toml::Value) -> Result<Vec<String>, String> {
    match value {
        toml::Value::Array(items) => items.iter().map(text).collect(),
        toml::Value::String(all) => Ok(all
            .split(',')
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect()),
        other => Err(format!("{other} is not a list")),
    }
}

/// A port alone (bound to `host` of the default) or IP:PORT.
pub(super) fn address(value: &toml::Value, default: SocketAddr) -> Result<SocketAddr, String> {
    if let toml::Value::String(text) = value
        && text.contains(':')
    {
        return text
            .trim()
            .parse()
            .map_err(|_| format!("'{text}' is not IP:PORT"));
    }
    let port = integer(value, 0, u64::from(u16::MAX))?;
    Ok(SocketAddr::new(default.ip(), port as u16))
}
