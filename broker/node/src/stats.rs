//! What the node counts, under RabbitMQ's names.

use std::sync::Mutex;

use metrics::{Counter, Gauge, counter, gauge};

use crate::alarms::{Alarms, Limits, Readings};
use crate::broker::Broker;
use crate::config::Config;
use crate::sessions::lock;

/// Handles of the metrics that are kept as they happen.
pub(crate) struct Stats {
    connections_opened: Counter,
    connections_closed: Counter,
    memory_alarm: Gauge,
    disk_alarm: Gauge,
    readings: Mutex<Readings>,
    started: std::time::Instant,
}

impl Stats {
    /// Registers what the node counts and sets what does not change. The process' recorder is
    /// set by then.
    pub(crate) fn new(config: &Config, limits: Limits) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        gauge!(
            "rabbitmq_identity_info",
            "rabbitmq_node" => config.node_name.clone(),
            "rabbitmq_cluster" => config.cluster_name().to_owned(),
            "rabbitmq_cluster_permanent_id" => config.cluster_name().to_owned(),
            "rabbitmq_endpoint" => "aggregated",
        )
        .set(1.0);
        gauge!(
            "rabbitmq_build_info",
            "rabbitmq_version" => "4.3.0",
            "prometheus_plugin_version" => version,
            "prometheus_client_version" => version,
            "erlang_version" => "none",
            "product_name" => "Warren",
            "product_version" => version,
        )
        .set(1.0);
        gauge!("rabbitmq_resident_memory_limit_bytes").set(limits.memory as f64);
        gauge!("rabbitmq_disk_space_available_limit_bytes").set(limits.disk_free as f64);
        Self {
            connections_opened: counter!("rabbitmq_connections_opened_total"),
            connections_closed: counter!("rabbitmq_connections_closed_total"),
            memory_alarm: gauge!("rabbitmq_alarms_memory_used_watermark"),
            disk_alarm: gauge!("rabbitmq_alarms_free_disk_space_watermark"),
            readings: Mutex::new(Readings::default()),
            started: std::time::Instant::now(),
        }
    }

    pub(crate) fn connection_opened(&self) {
        self.connections_opened.increment(1);
    }

    pub(crate) fn connection_closed(&self) {
        self.connections_closed.increment(1);
    }

    pub(crate) fn set_alarms(&self, alarms: Alarms) {
        self.memory_alarm.set(f64::from(u8::from(alarms.memory)));
        self.disk_alarm.set(f64::from(u8::from(alarms.disk)));
    }

    pub(crate) fn set_readings(&self, readings: Readings) {
        *lock(&self.readings) = readings;
    }

    pub(crate) fn readings(&self) -> Readings {
        *lock(&self.readings)
    }

    /// Brings gauges up to date that are read rather than kept.
    pub(crate) fn refresh(&self, broker: &Broker) {
        let readings = self.readings();
        gauge!("rabbitmq_process_resident_memory_bytes").set(readings.resident as f64);
        gauge!("rabbitmq_disk_space_available_bytes").set(readings.disk_free as f64);
        gauge!("rabbitmq_connections").set(broker.sessions().count() as f64);
        gauge!("rabbitmq_erlang_uptime_seconds").set(self.started.elapsed().as_secs_f64());
        let status = broker.lane().status();
        gauge!("warren_log_bytes").set(status.log_bytes as f64);
        gauge!("warren_log_segments").set(f64::from(status.segments));
        gauge!("warren_bodies_young_bytes").set(status.young_bytes as f64);
        gauge!("warren_bodies_unlogged_bytes").set(status.memory_bytes as f64);
        counter!("warren_log_syncs_total").absolute(status.syncs);
        let stale = broker.lane().is_behind();
        gauge!("warren_definitions_stale").set(f64::from(u8::from(stale)));
        let off = broker.lane().clock_off_millis().unwrap_or(0);
        gauge!("warren_clock_off_milliseconds").set(off as f64);
        let leads = broker.lane().leads();
        gauge!("warren_shards").set(f64::from(broker.lane().shards() + 1));
        gauge!("warren_shards_led_replicas").set(f64::from(leads.replicas));
        gauge!("warren_shards_led").set(f64::from(leads.shards));
        gauge!("warren_shards_led_unsettled").set(f64::from(leads.unsettled));
    }
}
