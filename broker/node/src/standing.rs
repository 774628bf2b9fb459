//! Tells operators of a node that stands apart from its cluster: its publishers wait because it
//! does not hear from the leader of the definitions, or its clock is wrong.

use crate::broker::Broker;

/// What was told last.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    stale: bool,
    clock_off: bool,
}

impl Standing {
    /// Looks at the node, and tells what has changed.
    pub(crate) fn look(&mut self, broker: &Broker) {
        let lane = broker.lane();
        let stale = lane.is_behind();
        if stale != self.stale {
            self.stale = stale;
            let text = if stale {
                "does not hear from the leader of the definitions: its publishers wait"
            } else {
                "hears from the leader of the definitions again"
            };
            tracing::warn!("this node {text}");
            broker.tell_of_itself("cut-off", text.to_owned());
        }
        let off = lane.clock_off_millis();
        if off.is_some() != self.clock_off {
            self.clock_off = off.is_some();
            let text = match off {
                Some(off) => format!(
                    "its clock is {} ms {} of the other nodes': it leads nothing",
                    off.unsigned_abs(),
                    if off > 0 { "ahead" } else { "behind" },
                ),
                None => "its clock agrees with the other nodes' again".to_owned(),
            };
            tracing::warn!("this node: {text}");
            broker.tell_of_itself("clock", text);
        }
    }
}
