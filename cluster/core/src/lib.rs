//! Replication of any state machine, as pure steps: consensus, lanes, the segment log, rows.
