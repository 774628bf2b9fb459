//! From the protocol header to connection.open-ok (AMQP 0-9-1, 4.2.2 and 2.2.4).
//!
//! Invariants:
//! - one deadline stands over all of it;
//! - a client that is not known yet is told nothing about users, and nothing at all unless it said
//!   that it understands `authentication_failure_close`;
//! - nothing of it is kept behind open-ok but what [`Login`] holds.

use std::sync::Arc;

use warren_cluster_core::ids::Instant;
use warren_protocol::frame::Frame;
use warren_protocol::limits::FRAME_MAX_BYTES_MIN;
use warren_protocol::methods::{
    ConnectionOpen, ConnectionOpenOk, ConnectionStart, ConnectionStartOk, ConnectionTune,
    ConnectionTuneOk,
};
use warren_protocol::preamble::{self, Preamble};
use warren_protocol::{FieldTable, FieldValue, FrameKind, LongStr, Method, ReplyCode, Table};

use super::common::{Common, Login, Turn};
use super::fault::Fault;
use super::options::SessionOptions;
use super::{Phase, Session};
use crate::auth::sasl::Mechanism;
use crate::auth::{self, password};
use crate::dispatch::operation::Actor;

/// The version of RabbitMQ that we answer as; clients choose their ways by it.
const RABBITMQ_VERSION: &str = "4.3.0";

const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// More than `connection.start` has beside its properties.
const START_BYTES: usize = 128;

/// What is only needed until the connection is open.
pub(super) struct Handshake {
    pub(super) deadline: Instant,
    step: Step,
    user: Option<Arc<str>>,
    mechanism: &'static str,
    client_properties: FieldTable,
}

/// What the client has to send next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Preamble,
    StartOk,
    TuneOk,
    Open,
}

impl Handshake {
    pub(super) fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            step: Step::Preamble,
            user: None,
            mechanism: "",
            client_properties: FieldTable::new(),
        }
    }

    pub(super) fn wants_preamble(&self) -> bool {
        self.step == Step::Preamble
    }

    /// Whether the client has logged in, so that it may know why it is sent away.
    pub(super) fn may_be_told(&self) -> bool {
        matches!(self.step, Step::TuneOk | Step::Open)
    }
}

impl Session {
    /// Judges the first bytes; gives how many are done with.
    pub(super) fn preamble(&mut self, input: &[u8]) -> usize {
        match preamble::parse(input) {
            Preamble::NeedMore => 0,
            Preamble::Refused { answer } => {
                self.common.out().extend_from_slice(&answer);
                self.released = true;
                self.phase = Phase::Finished;
                input.len()
            }
            Preamble::Accepted { consumed } => {
                write_start(&mut self.common);
                if let Phase::Handshake(handshake) = &mut self.phase {
                    handshake.step = Step::StartOk;
                }
                consumed
            }
        }
    }

    /// Handles a frame of the handshake.
    pub(super) fn handshake_frame(
        &mut self,
        frame: &Frame<'_>,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        let Phase::Handshake(handshake) = &mut self.phase else {
            return Ok(());
        };
        if frame.kind == FrameKind::Heartbeat {
            return Ok(());
        }
        if frame.kind != FrameKind::Method || frame.channel != 0 {
            let text = "expected method frame, got non method frame instead";
            return Err(Fault::new(ReplyCode::UnexpectedFrame, text));
        }
        let method = Method::parse(frame.payload)?;
        let ids = method.ids();
        let result = match (handshake.step, &method) {
            (Step::StartOk, Method::ConnectionStartOk(start_ok)) => {
                return self.start_ok(start_ok, turn);
            }
            (Step::TuneOk, Method::ConnectionTuneOk(tune_ok)) => self.tune_ok(tune_ok),
            (Step::Open, Method::ConnectionOpen(open)) => self.open(open, turn),
            (_, Method::ConnectionClose(_)) => {
                warren_protocol::methods::ConnectionCloseOk.encode_frame(0, self.common.out());
                self.finish(turn);
                Ok(())
            }
            (step, _) => {
                let state = match step {
                    Step::Preamble | Step::StartOk => "starting",
                    Step::TuneOk => "tuning",
                    Step::Open => "opening",
                };
                let text = format!("unexpected method in connection state {state}");
                Err(Fault::new(ReplyCode::ChannelError, text))
            }
        };
        result.map_err(|fault| fault.of(ids))
    }

    fn start_ok(
        &mut self,
        start_ok: &ConnectionStartOk<'_>,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        let client_properties = start_ok.client_properties.to_field_table()?;
        let capability = |name| {
            let capabilities = client_properties.get("capabilities");
            capabilities
                .and_then(FieldValue::as_table)
                .and_then(|table| table.get(name))
                .and_then(FieldValue::as_bool)
                .unwrap_or(false)
        };
        let close_on_failure = capability("authentication_failure_close");
        self.common.cancel_notify = capability("consumer_cancel_notify");
        self.common.flow.notify = capability("connection.blocked");
        let Some(mechanism) = Mechanism::from_name(start_ok.mechanism.as_bytes()) else {
            let text = format!("unknown authentication mechanism '{}'", start_ok.mechanism);
            return Err(Fault::new(ReplyCode::CommandInvalid, text).of((10, 11)));
        };
        let credentials = mechanism.credentials(start_ok.response.as_bytes());
        let credentials = credentials.map_err(|error| Fault::from(error).of((10, 11)))?;
        let login = auth::log_in(
            turn.env.topology,
            credentials.user,
            credentials.password,
            &self.common.options.loopback_users,
            self.common.peer.is_loopback(),
        );
        let user = match login {
            Ok(user) => user.name.clone(),
            Err(error) => {
                self.common.login_error = Some(error);
                if close_on_failure {
                    return Err(mechanism.refused().into());
                }
                self.finish(turn);
                return Ok(());
            }
        };
        let options = &self.common.options;
        let tune = ConnectionTune {
            channel_max: options.channel_max,
            frame_max: options.frame_max,
            heartbeat: options.heartbeat,
        };
        tune.encode_frame(0, self.common.out());
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.user = Some(user);
            handshake.mechanism = mechanism.name();
            handshake.client_properties = client_properties;
            handshake.step = Step::TuneOk;
        }
        Ok(())
    }

    fn tune_ok(&mut self, tune_ok: &ConnectionTuneOk) -> Result<(), Fault> {
        let options = &self.common.options;
        let channel_max = u32::from(options.channel_max);
        check_tuned(
            "frame_max",
            FRAME_MAX_BYTES_MIN,
            options.frame_max,
            tune_ok.frame_max,
        )?;
        check_tuned(
            "channel_max",
            1,
            channel_max,
            u32::from(tune_ok.channel_max),
        )?;
        self.common.frame_max = tune_ok.frame_max;
        self.common.channel_max = tune_ok.channel_max;
        self.heartbeat.start(tune_ok.heartbeat, self.active);
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.step = Step::Open;
        }
        Ok(())
    }

    fn open(&mut self, open: &ConnectionOpen<'_>, turn: &mut Turn<'_, '_>) -> Result<(), Fault> {
        let Phase::Handshake(handshake) = &mut self.phase else {
            return Ok(());
        };
        let Some(user) = handshake.user.clone() else {
            return Ok(());
        };
        let topology = turn.env.topology;
        let wanted = open.virtual_host.as_str().unwrap_or_default();
        let Some(vhost) = topology.vhost(wanted) else {
            let text = format!("vhost {} not found", open.virtual_host);
            return Err(Fault::new(ReplyCode::NotAllowed, text));
        };
        if topology.permission(&user, vhost.name()).is_none() {
            let text = format!(
                "access to vhost '{}' refused for user '{user}'",
                vhost.name()
            );
            return Err(Fault::new(ReplyCode::NotAllowed, text));
        }
        let impersonator = topology
            .user(&user)
            .is_some_and(|user| user.row.has_tag("impersonator"));
        let actor = Actor {
            user,
            vhost: vhost.name().clone(),
            session: Some(self.common.id),
        };
        self.common.login = Some(Box::new(Login {
            actor,
            mechanism: handshake.mechanism,
            client_properties: Arc::new(std::mem::take(&mut handshake.client_properties)),
            impersonator,
        }));
        self.phase = Phase::Open;
        ConnectionOpenOk.encode_frame(0, self.common.out());
        Ok(())
    }
}

/// Whether a new secret (connection.update-secret) is the user's.
pub(super) fn is_secret_right(secret: &[u8], common: &Common, turn: &Turn<'_, '_>) -> bool {
    let Some(login) = &common.login else {
        return false;
    };
    let user = turn.env.topology.user(&login.actor.user);
    user.is_some_and(|user| password::check(&user.row, secret).is_ok())
}

fn write_start(common: &mut Common) {
    let options = Arc::clone(&common.options);
    let made = || server_properties(&options).to_bytes();
    let properties = options.server_properties.get_or_init(made);
    let start = ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: Table::from_raw(properties),
        mechanisms: LongStr::from(Mechanism::OFFERED),
        locales: LongStr::from("en_US"),
    };
    let out = common.out();
    out.reserve(properties.len() + START_BYTES);
    start.encode_frame(0, out);
}

fn server_properties(options: &SessionOptions) -> FieldTable {
    let capabilities = CAPABILITIES
        .into_iter()
        .fold(FieldTable::new(), |table, name| table.with(name, true));
    FieldTable::new()
        .with("capabilities", capabilities)
        .with("cluster_name", &*options.cluster_name)
        .with("copyright", "The Warren authors")
        .with(
            "information",
            "This is Warren, which speaks as RabbitMQ does",
        )
        .with("platform", format!("Warren {}", options.version))
        .with("product", "RabbitMQ")
        .with("version", RABBITMQ_VERSION)
}

/// The client may lower what we offered, but not to "no limit" (0).
fn check_tuned(field: &str, min: u32, max: u32, chosen: u32) -> Result<(), Fault> {
    let text = if chosen == 0 || chosen > max {
        format!("negotiated {field} = {chosen} is higher than the maximum allowed value ({max})")
    } else if chosen < min {
        format!("negotiated {field} = {chosen} is lower than the minimum allowed value ({min})")
    } else {
        return Ok(());
    };
    Err(Fault::new(ReplyCode::NotAllowed, text).of((10, 30)))
}
