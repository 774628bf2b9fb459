//! What the core says of definitions, as messages.

use tonic::Status;
use warren_broker_core::definitions::diff;
use warren_broker_core::definitions::plan::{Action, Blocked, Entry};

use super::import::{ImportError, Outcome, Step};
use crate::backup;
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::import_response::Part;
use crate::slot::Busy;

pub(super) fn step(step: Step) -> proto::ImportResponse {
    let part = match step {
        Step::Entries(entries) => Part::Entries(proto::Entries {
            entries: entries.into_iter().map(entry).collect(),
        }),
        Step::Progress { done, total } => Part::Progress(proto::Progress {
            done: u32::try_from(done).unwrap_or(u32::MAX),
            total: u32::try_from(total).unwrap_or(u32::MAX),
        }),
    };
    proto::ImportResponse { part: Some(part) }
}

pub(super) fn outcome(outcome: Outcome, dry_run: bool) -> proto::ImportResponse {
    let blocked = |blocked: Blocked| proto::Blocked {
        unit: blocked.unit.to_string(),
        cause: blocked.cause,
    };
    let result = proto::ImportResult {
        created: outcome.created as u64,
        changed: outcome.changed as u64,
        deleted: outcome.deleted as u64,
        same: outcome.same as u64,
        blocked: outcome.blocked.into_iter().map(blocked).collect(),
        notes: outcome.notes,
        dry_run,
    };
    proto::ImportResponse {
        part: Some(Part::Result(result)),
    }
}

impl From<ImportError> for Status {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Unheard => Self::cancelled(error.to_string()),
            ImportError::Refused => Self::unavailable(error.to_string()),
            ImportError::Contended => Self::aborted(error.to_string()),
        }
    }
}

impl From<Busy> for Status {
    fn from(busy: Busy) -> Self {
        Self::aborted(busy.to_string())
    }
}

impl From<backup::Error> for Status {
    fn from(error: backup::Error) -> Self {
        match error {
            backup::Error::Name { .. } => Self::invalid_argument(error.to_string()),
            backup::Error::Unknown { .. } => Self::not_found(error.to_string()),
            backup::Error::Damaged { .. } => Self::data_loss(error.to_string()),
            backup::Error::Io { .. } => Self::internal(error.to_string()),
        }
    }
}

fn entry(entry: Entry) -> proto::Entry {
    let action = match entry.action {
        Action::Create => proto::Action::Create,
        Action::Change => proto::Action::Change,
        Action::Conflict => proto::Action::Conflict,
        Action::Unsupported => proto::Action::Unsupported,
        Action::Delete => proto::Action::Delete,
        // Is counted, never told of.
        Action::Same => proto::Action::Unspecified,
    };
    proto::Entry {
        action: action.into(),
        kind: entry.kind.to_string(),
        vhost: entry.vhost.as_deref().unwrap_or_default().to_owned(),
        name: entry.name,
        cause: entry.cause,
    }
}

pub(super) fn difference(difference: diff::Difference) -> proto::Difference {
    let (change, fields) = match difference.change {
        diff::Change::Added => (proto::Change::Added, Vec::new()),
        diff::Change::Removed => (proto::Change::Removed, Vec::new()),
        diff::Change::Changed(fields) => (proto::Change::Changed, fields),
    };
    proto::Difference {
        change: change.into(),
        kind: difference.kind.to_string(),
        vhost: difference.vhost.unwrap_or_default(),
        name: difference.name,
        fields,
    }
}

pub(super) fn backup(info: backup::Info) -> proto::BackupInfo {
    proto::BackupInfo {
        name: info.name,
        created_ms: info.created_ms,
        bytes: info.bytes,
        objects: info.objects,
        fault: info.fault.unwrap_or_default(),
    }
}
