//! Whether what is declared can be, and whether it is what is there already.

use warren_protocol::FieldTable;

use crate::definitions::{ExchangeRow, QueueKind, QueueRow};
use crate::dispatch::operation::DeclareQueue;
use crate::exception::{Exception, resource};
use crate::topology::{Exchange, Queue};

pub(super) fn take_name_prefix(arguments: &mut FieldTable) -> Result<Option<Vec<u8>>, Exception> {
    Ok(arguments
        .remove("x-name-prefix")
        .and_then(|value| value.as_long_str().map(<[u8]>::to_vec)))
}

pub(super) fn queue_arguments(
    _name: &[u8],
    _vhost: &str,
    _declare: &DeclareQueue,
    _arguments: &FieldTable,
) -> Result<QueueKind, Exception> {
    Ok(QueueKind::Classic)
}

pub(super) fn exchange_arguments(
    _name: &[u8],
    _vhost: &str,
    _arguments: &FieldTable,
) -> Result<(), Exception> {
    Ok(())
}

pub(super) fn same_queue(present: &Queue, declared: &QueueRow) -> Result<(), Exception> {
    let what = resource("queue", &present.name, &present.vhost);
    flag(&what, "durable", declared.durable, present.row.durable)?;
    flag(
        &what,
        "auto_delete",
        declared.auto_delete,
        present.row.auto_delete,
    )
}

pub(super) fn same_exchange(
    vhost: &str,
    present: &Exchange,
    declared: &ExchangeRow,
) -> Result<(), Exception> {
    let what = resource("exchange", &present.name, vhost);
    flag(&what, "durable", declared.durable, present.row.durable)?;
    flag(
        &what,
        "auto_delete",
        declared.auto_delete,
        present.row.auto_delete,
    )
}

fn flag(what: &str, key: &str, received: bool, current: bool) -> Result<(), Exception> {
    if received == current {
        return Ok(());
    }
    Err(Exception::precondition(format!(
        "inequivalent arg '{key}' for {what}: received '{received}' but current is '{current}'"
    )))
}
