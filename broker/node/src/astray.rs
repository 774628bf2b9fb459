//! A cluster of one that another cluster takes for its member serves no client: the member's disk
//! was lost, most likely, and what clients would find here is an empty broker.
//!
//! Once found, that holds over restarts, by a file in the data folder, until the operator says
//! `--new-cluster`. Who is believed is the cluster's matter: [`Cluster::is_astray`].

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use warren_cluster::Sought;
use warren_cluster::cluster::Cluster;

use crate::broker::Broker;

/// Holds what was found.
const FILE: &str = "astray";
/// What is not believed is told this often at the most: anybody can cause it.
const TELL_PERIOD: Duration = Duration::from_secs(60);

fn file(broker: &Broker) -> PathBuf {
    broker.config().data_dir.join(FILE)
}

/// At a start: what was found by an earlier one, unless the operator knows better.
///
/// # Errors
/// When the file cannot be read or removed.
pub(crate) fn begin(broker: &Broker) -> anyhow::Result<()> {
    let file = file(broker);
    if broker.config().new_cluster {
        return match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", file.display()))
            }
            _ => Ok(()),
        };
    }
    match fs::read_to_string(&file) {
        Ok(text) => {
            broker.set_astray();
            tell(broker, text.trim());
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Looks at each node of another cluster that is looked for here.
pub(crate) async fn watch(broker: Arc<Broker>, cluster: Arc<Cluster>) {
    let mut seekers = cluster.sought();
    let mut told: Option<Instant> = None;
    loop {
        let sought = *seekers.borrow_and_update();
        if let Some(sought) = sought.filter(|_| !*broker.astray().borrow()) {
            if cluster.is_astray() && !broker.config().new_cluster {
                found(&broker, sought);
            } else if told.is_none_or(|at| at.elapsed() >= TELL_PERIOD) {
                told = Some(Instant::now());
                let text = format!(
                    "{sought} is looked for at the address of this node, which goes on serving"
                );
                tracing::warn!("{text}");
                broker.tell_of_itself("astray", text);
            }
        }
        if seekers.changed().await.is_err() {
            return;
        }
    }
}

fn found(broker: &Broker, sought: Sought) {
    let text = sought.to_string();
    // It is closed in any case; a restart must not open it, from when anybody is told on.
    broker.set_astray();
    if let Err(error) = fs::write(file(broker), format!("{text}\n")) {
        tracing::error!(%error, "cannot write {}", file(broker).display());
    }
    tell(broker, &text);
}

fn tell(broker: &Broker, sought: &str) {
    let own = broker.lane().cluster();
    let text = format!(
        "{sought} is looked for here, and this node has founded cluster {own} of its own: did it \
         lose its disk? It serves no client. Either empty its data folder and start it with \
         --join and a token, and remove the lost node from its cluster with `warren node remove \
         --force`; or, if this is to be a cluster of its own, start it with --new-cluster"
    );
    tracing::error!("{text}");
    broker.tell_of_itself("astray", text);
}
