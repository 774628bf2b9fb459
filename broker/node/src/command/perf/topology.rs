//! Declares what a load needs, and deletes it afterwards.

use anyhow::Result;
use warren_protocol::methods::{
    ExchangeDeclare, ExchangeDelete, QueueBind, QueueDeclare, QueueDelete,
};
use warren_protocol::{FrameKind, Method, ShortStr, Table};

use super::client::{self, Connection, Options};
use super::context::CHANNEL;
use super::plan::Plan;

/// Methods on their way before their answers are waited for.
const WINDOW: u32 = 200;

/// # Errors
/// When the broker refuses something.
pub(super) async fn declare(plan: &Plan) -> Result<()> {
    if plan.predeclared {
        return Ok(());
    }
    let mut connection = connect(plan).await?;
    if plan.is_fanout() {
        let exchange = ExchangeDeclare {
            exchange: ShortStr::new(plan.exchange().as_bytes())?,
            kind: ShortStr::from_static("fanout"),
            passive: false,
            durable: plan.durable,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: Table::EMPTY,
        };
        connection
            .call(CHANNEL, &Method::ExchangeDeclare(exchange))
            .await?;
    }
    pipeline(&mut connection, plan.queues, |connection, queue| {
        put_declare(connection, plan, &plan.queue_name(queue))
    })
    .await?;
    connection.close().await
}

/// # Errors
/// When the broker refuses or the connection is lost.
pub(super) async fn delete(plan: &Plan) -> Result<()> {
    let mut connection = connect(plan).await?;
    pipeline(&mut connection, plan.queues, |connection, queue| {
        let name = plan.queue_name(queue);
        let delete = QueueDelete {
            queue: ShortStr::new(name.as_bytes())?,
            if_unused: false,
            if_empty: false,
            nowait: false,
        };
        connection.put(CHANNEL, &Method::QueueDelete(delete));
        Ok(1)
    })
    .await?;
    if plan.is_fanout() {
        let exchange = ExchangeDelete {
            exchange: ShortStr::new(plan.exchange().as_bytes())?,
            if_unused: false,
            nowait: false,
        };
        connection
            .call(CHANNEL, &Method::ExchangeDelete(exchange))
            .await?;
    }
    connection.close().await
}

async fn connect(plan: &Plan) -> Result<Connection> {
    let mut connection = Connection::open(plan.uri(0), Options::SMALL).await?;
    connection.open_channel(CHANNEL).await?;
    Ok(connection)
}

fn put_declare(connection: &mut Connection, plan: &Plan, name: &str) -> Result<u32> {
    let queue = ShortStr::new(name.as_bytes())?;
    let declare = QueueDeclare {
        queue,
        passive: false,
        durable: plan.durable,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::from_raw(&plan.arguments),
    };
    connection.put(CHANNEL, &Method::QueueDeclare(declare));
    if !plan.is_fanout() {
        return Ok(1);
    }
    let bind = QueueBind {
        queue,
        exchange: ShortStr::new(plan.exchange().as_bytes())?,
        routing_key: ShortStr::EMPTY,
        nowait: false,
        arguments: Table::EMPTY,
    };
    connection.put(CHANNEL, &Method::QueueBind(bind));
    Ok(2)
}

/// Sends methods for each of `count` things and waits for as many answers as `put` says that it
/// asked for, a window of things at a time.
async fn pipeline(
    connection: &mut Connection,
    count: u32,
    put: impl Fn(&mut Connection, u32) -> Result<u32>,
) -> Result<()> {
    for first in (0..count).step_by(WINDOW as usize) {
        let mut answers = 0;
        for at in first..count.min(first + WINDOW) {
            answers += put(connection, at)?;
        }
        while answers > 0 {
            let frame = connection.wait_frame().await?;
            if frame.kind == FrameKind::Heartbeat {
                continue;
            }
            if let Some(error) = client::refusal(&Method::parse(frame.payload)?) {
                return Err(error);
            }
            answers -= 1;
        }
    }
    Ok(())
}
