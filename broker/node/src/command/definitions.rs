//! `warren definitions`: files in RabbitMQ's JSON, out, in, and compared.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Subcommand;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use super::client::{self, Connection, Target, open, refused};
use super::import;
use super::output::{self, EXIT_NO};
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::definitions_client::DefinitionsClient;
use crate::proto::admin_v1::{diff_request, export_response, import_request};

/// Bytes of a file that travel in one message, and messages that wait.
const CHUNK_BYTES: usize = 1 << 20;
const WAITING_LIMIT: usize = 4;

/// Definitions files, in RabbitMQ's JSON.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write a file.
    Export {
        /// Of this vhost alone.
        #[arg(long, value_name = "NAME")]
        vhost: Option<String>,
        /// Where to (default: standard output).
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// With internal exchanges, which RabbitMQ's files lack.
        #[arg(long)]
        internal: bool,
    },
    /// Read a file in. Each vhost's contents, and users with vhosts and permissions, are taken as a
    /// whole or not at all; more than some 10,000 objects of one vhost in parts.
    Import {
        /// The file, or - for standard input.
        file: PathBuf,
        /// Where the items of a file of a single vhost belong.
        #[arg(long, value_name = "NAME")]
        vhost: Option<String>,
        /// Say what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Delete what the file could have and has not.
        #[arg(long)]
        prune: bool,
    },
    /// Say how a file differs from what is there. Exits with 3 when it does.
    Diff {
        /// The file, or - for standard input.
        file: PathBuf,
        /// Where the items of a file of a single vhost belong.
        #[arg(long, value_name = "NAME")]
        vhost: Option<String>,
    },
}

/// Does it; gives the exit code.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { target, verb } = arguments;
    client::run(async {
        match verb {
            Verb::Export {
                vhost,
                output,
                internal,
            } => {
                let request = proto::ExportRequest {
                    vhost: vhost.unwrap_or_default(),
                    internal_exchanges: internal,
                };
                export(&target, request, output.as_deref()).await
            }
            Verb::Import {
                file,
                vhost,
                dry_run,
                prune,
            } => {
                let options = proto::ImportOptions {
                    dry_run,
                    prune,
                    vhost: vhost.unwrap_or_default(),
                };
                import(&target, &file, options).await
            }
            Verb::Diff { file, vhost } => {
                let vhost = vhost.unwrap_or_default();
                diff(&target, &file, proto::DiffOptions { vhost }).await
            }
        }
    })
}

async fn connect(target: &Target) -> anyhow::Result<DefinitionsClient<Connection>> {
    Ok(DefinitionsClient::new(target.connect().await?))
}

async fn export(
    target: &Target,
    request: proto::ExportRequest,
    output: Option<&Path>,
) -> anyhow::Result<i32> {
    let mut definitions = connect(target).await?;
    let answer = definitions.export(request).await;
    let mut stream = answer.map_err(refused)?.into_inner();
    let mut file = Output::open(output)?;
    loop {
        let Some(message) = stream.message().await.map_err(refused)? else {
            bail!("the node ended its answer before the end of the file");
        };
        match message.part {
            Some(export_response::Part::Chunk(piece)) => file.write(&piece)?,
            Some(export_response::Part::Done(done)) => {
                file.finish()?;
                for note in done.notes {
                    eprintln!("note: {note}");
                }
                return Ok(0);
            }
            None => {}
        }
    }
}

/// Where an export goes. A file has its name when it is whole, and not before.
struct Output {
    writer: Box<dyn Write + Send>,
    names: Option<(PathBuf, PathBuf)>,
}

impl Output {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self {
                writer: Box::new(BufWriter::new(io::stdout())),
                names: None,
            });
        };
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part);
        let file = file.with_context(|| format!("cannot write {}", part.display()))?;
        Ok(Self {
            writer: Box::new(BufWriter::new(file)),
            names: Some((part, path.to_owned())),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.writer.write_all(bytes)?)
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.writer.flush()?;
        if let Some((part, path)) = self.names.take() {
            let renamed = std::fs::rename(&part, &path);
            renamed.with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((part, _)) = &self.names {
            let _ = std::fs::remove_file(part);
        }
    }
}

async fn import(
    target: &Target,
    file: &Path,
    options: proto::ImportOptions,
) -> anyhow::Result<i32> {
    let source = open(file)?;
    let mut definitions = connect(target).await?;
    let dry_run = options.dry_run;
    let message = |part| proto::ImportRequest { part: Some(part) };
    let first = message(import_request::Part::Options(options));
    let chunk = move |chunk| message(import_request::Part::Chunk(chunk));
    let (stream, read) = sent(source, first, chunk);
    let answer = definitions.import(stream).await;
    whole(&read)?;
    import::show("import", answer, dry_run, target.json).await
}

async fn diff(target: &Target, file: &Path, options: proto::DiffOptions) -> anyhow::Result<i32> {
    let source = open(file)?;
    let mut definitions = connect(target).await?;
    let message = |part| proto::DiffRequest { part: Some(part) };
    let first = message(diff_request::Part::Options(options));
    let chunk = move |chunk| message(diff_request::Part::Chunk(chunk));
    let (stream, read) = sent(source, first, chunk);
    let answer = definitions.diff(stream).await;
    whole(&read)?;
    let mut stream = answer.map_err(refused)?.into_inner();
    let mut differences = Vec::new();
    while let Some(message) = stream.message().await.map_err(refused)? {
        differences.extend(message.differences);
    }
    let code = if differences.is_empty() { 0 } else { EXIT_NO };
    if target.json {
        output::json(&differences.iter().map(as_json).collect())?;
    } else {
        print(&differences)?;
    }
    Ok(code)
}

/// The pieces of a file as messages behind a first one; and what went wrong while it was read.
fn sent<T: Send + 'static>(
    mut source: Box<dyn Read + Send>,
    first: T,
    chunk: impl Fn(Bytes) -> T + Send + 'static,
) -> (ReceiverStream<T>, std::sync::mpsc::Receiver<io::Error>) {
    let (sender, receiver) = mpsc::channel(WAITING_LIMIT);
    let (fault, faults) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || {
        let mut next = Ok(Some(first));
        // Ends when the node wants no more, too.
        while let Ok(Some(message)) = next {
            if sender.blocking_send(message).is_err() {
                return;
            }
            next = piece(&mut source).map(|piece| piece.map(&chunk));
        }
        if let Err(error) = next {
            let _ = fault.send(error);
        }
    });
    (ReceiverStream::new(receiver), faults)
}

/// The next piece; none at the end.
fn piece(source: &mut dyn Read) -> io::Result<Option<Bytes>> {
    let mut piece = Vec::new();
    let count = source.take(CHUNK_BYTES as u64).read_to_end(&mut piece)?;
    Ok((count > 0).then(|| piece.into()))
}

/// Fails when the file could not be read to its end. What was sent of it has no end that a parser
/// takes, so nothing was done with it.
fn whole(faults: &std::sync::mpsc::Receiver<io::Error>) -> anyhow::Result<()> {
    match faults.try_recv() {
        Ok(error) => Err(error).context("cannot read the file"),
        Err(_) => Ok(()),
    }
}

fn sign(change: proto::Change) -> (&'static str, &'static str) {
    match change {
        proto::Change::Added => ("+", "added"),
        proto::Change::Removed => ("-", "removed"),
        proto::Change::Changed => ("~", "changed"),
        proto::Change::Unspecified => ("?", "?"),
    }
}

fn print(differences: &[proto::Difference]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for difference in differences {
        let (sign, _) = sign(difference.change());
        let kind = &difference.kind;
        let name = import::named(kind, &difference.vhost, &difference.name);
        write!(out, "{sign} {kind} {name}")?;
        if !difference.fields.is_empty() {
            write!(out, ": {}", difference.fields.join(", "))?;
        }
        writeln!(out)?;
    }
    out.flush()
}

fn as_json(difference: &proto::Difference) -> Value {
    json!({
        "change": sign(difference.change()).1,
        "kind": difference.kind,
        "vhost": difference.vhost,
        "name": difference.name,
        "fields": difference.fields,
    })
}
