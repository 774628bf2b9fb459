//! The node's own dealings with definitions: opening them, and the first ones of a blank node.

use std::sync::Arc;

use anyhow::{Context, bail};
use warren_broker_core::auth::password;
use warren_broker_core::definitions::interchange::{
    self, ExportOptions, Exported, NoSuchVhost, Scope,
};
use warren_broker_core::definitions::{
    HashingAlgorithm, PermissionKey, PermissionRow, Store, UserKey, UserRow, VhostKey, VhostRow,
};
use warren_broker_core::shard::{Shard, ShardOptions};
use warren_cluster_core::ids::ShardId;
use warren_cluster_core::rows::{Committed, Precondition, Transaction, Write};

use crate::broker::{Broker, random};
use crate::config::Config;

/// The user that a blank node has when the configuration names none; from loopback alone.
const GUEST: &str = "guest";

/// The RabbitMQ that tools may take files of this node for.
const RABBITMQ_VERSION: &str = "4.3.0";

/// Opens the data folder and recovers what it holds: afterwards the topology is as it was.
pub(crate) fn open(broker: &Arc<Broker>) -> anyhow::Result<()> {
    let config = broker.config();
    let options = warren_cluster::Options {
        shards: config.shards,
        segment_bytes: config.segment_bytes,
        young_bytes: config.young_bytes,
        transfer_bytes_per_second: config.transfer_rate.max(1),
        sync_is_left_to_the_os: !config.log_sync,
        ..warren_cluster::Options::new(config.data_dir.clone(), config.node_name.clone())
    };
    let machine = |shard: ShardId| {
        Shard::new(ShardOptions {
            logged: !shard.is_unlogged(),
        })
    };
    let sink = Arc::clone(broker);
    let lane = warren_cluster::start(&options, machine, sink)?;
    broker.set_lane(lane);
    Ok(())
}

/// On the first node of a cluster without vhosts and users: makes the default ones.
pub(crate) async fn first_definitions(broker: &Broker) -> anyhow::Result<()> {
    if !broker.lane().is_first() {
        return Ok(());
    }
    let topology = broker.topology().clone();
    if topology.vhosts().next().is_some() || topology.users().next().is_some() {
        return Ok(());
    }
    let transaction = first_transaction(broker.config())?;
    let committed = broker.commit(Store::Replicated, transaction).await;
    match committed {
        Some(Committed::Yes { .. }) => Ok(()),
        Some(Committed::Conflict { row, .. }) => bail!("first definitions: {row:?} exists"),
        None => bail!("the node could not store its first definitions"),
    }
}

fn first_transaction(config: &Config) -> anyhow::Result<Transaction> {
    let (user, password) = match (&config.default_user, &config.default_pass) {
        (None, None) => (GUEST, GUEST),
        (Some(user), Some(password)) => (user.as_str(), password.as_str()),
        (Some(_), None) => bail!("default_user is set and default_pass is not"),
        (None, Some(_)) => bail!("default_pass is set and default_user is not"),
    };
    if password.is_empty() {
        bail!("default_pass is empty: nobody could log in with it");
    }
    let vhost = config.default_vhost.as_str();
    let salt = (random() as u32).to_le_bytes();
    let algorithm = HashingAlgorithm::Sha256;
    let user_row = UserRow {
        password_hash: password::hash(algorithm, salt, password.as_bytes())
            .context("the default hash algorithm is always there")?,
        algorithm,
        tags: config.default_user_tags.clone(),
        ..UserRow::default()
    };
    let [configure, write, read] = config.default_permissions.clone();
    let vhost_key = VhostKey { name: vhost }.encode();
    let writes = vec![
        Write::Put {
            row: vhost_key.clone(),
            value: VhostRow::default().encode(),
        },
        Write::Put {
            row: UserKey { name: user }.encode(),
            value: user_row.encode(),
        },
        Write::Put {
            row: PermissionKey { user, vhost }.encode(),
            value: PermissionRow {
                configure,
                write,
                read,
            }
            .encode(),
        },
    ];
    Ok(Transaction {
        preconditions: vec![Precondition::Absent(vhost_key)],
        writes,
    })
}

/// Writes a definitions file, piece by piece. Takes its time: for threads that serve nobody.
pub(crate) fn export(
    broker: &Broker,
    scope: Scope<'_>,
    internal_exchanges: bool,
    emit: &mut dyn FnMut(&[u8]),
) -> Result<Exported, NoSuchVhost> {
    let topology = Arc::clone(&broker.topology());
    let options = ExportOptions {
        scope,
        internal_exchanges,
        rabbitmq_version: RABBITMQ_VERSION,
        product_version: env!("CARGO_PKG_VERSION"),
        cluster_name: broker.config().cluster_name(),
    };
    interchange::export(&topology, &options, emit)
}
