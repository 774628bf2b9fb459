//! Logs: lines on stderr, as text for people or JSON for machines.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging. `level` is a level (`info`) or filter directives (`info,warren=debug`).
///
/// # Errors
/// A level that does not parse.
pub(crate) fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    // RabbitMQ's names for levels that tracing calls otherwise.
    let level = match level {
        "warning" => "warn",
        "critical" => "error",
        "none" => "off",
        other => other,
    };
    let filter = EnvFilter::try_new(level)
        .map_err(|cause| anyhow::anyhow!("log level '{level}': {cause}"))?;
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    match format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => {
            builder
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .init();
        }
    }
    Ok(())
}
