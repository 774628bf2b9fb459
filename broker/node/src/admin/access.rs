//! Who may administrate: whoever shows an administrator's certificate, and users with the tag
//! `administrator`.
//!
//! Invariants:
//! - no service is asked anything before its caller is known;
//! - a node's certificate says nothing about administration;
//! - who is refused learns from neither the answer nor its time whether there is such a user;
//! - passwords are hashed on threads that serve nobody, a few at a time.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;
use tonic::Status;
use warren_cluster::grpc::{Contact, Routes};
use warren_cluster::listener::Caller;

use crate::broker::Broker;
use crate::http::credentials;

/// Passwords that are checked at a time, and how long a call waits for its turn.
const CHECKS_LIMIT: usize = 2;
const CHECK_WAIT: Duration = Duration::from_secs(10);
/// The tag of those who may do everything.
const ADMINISTRATOR: &str = "administrator";
/// One answer for whatever was wrong.
const WRONG: &str = "wrong user or password";

/// Who calls. In the extensions of every request that a service sees.
#[derive(Clone, Debug)]
pub(crate) struct Administrator {
    /// `None`: it showed an administrator's certificate.
    user: Option<Arc<str>>,
    address: SocketAddr,
}

/// For logs, and for those who are told who is at work.
impl fmt::Display for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match &self.user {
            Some(user) => write!(f, "user '{user}' from {address}"),
            None => write!(f, "the administrator's certificate from {address}"),
        }
    }
}

/// Who makes this call.
pub(super) fn who<T>(request: &tonic::Request<T>) -> Result<Administrator, Status> {
    let found = request.extensions().get::<Administrator>().cloned();
    found.ok_or_else(|| Status::internal("the call came past the guard"))
}

/// Stands before services.
struct Guard {
    broker: Arc<Broker>,
    checks: Arc<Semaphore>,
}

/// Lets administrators alone in.
pub(super) fn guarded(routes: Routes, broker: &Arc<Broker>) -> Routes {
    let guard = Arc::new(Guard {
        broker: Arc::clone(broker),
        checks: Arc::new(Semaphore::new(CHECKS_LIMIT)),
    });
    let layer = axum::middleware::from_fn_with_state(guard, pass);
    Routes::from(routes.into_axum_router().layer(layer))
}

async fn pass(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let contact = request.extensions().get::<Contact>().copied();
    match guard.administrator(contact, request.headers()).await {
        Ok(administrator) => {
            request.extensions_mut().insert(administrator);
            next.run(request).await
        }
        Err(status) => status.into_http(),
    }
}

impl Guard {
    async fn administrator(
        &self,
        contact: Option<Contact>,
        headers: &HeaderMap,
    ) -> Result<Administrator, Status> {
        let Some(Contact { caller, address }) = contact else {
            return Err(Status::unauthenticated("the call came from nowhere"));
        };
        if caller == Caller::Admin {
            let user = None;
            return Ok(Administrator { user, address });
        }
        let Some((user, password)) = credentials(headers) else {
            return Err(Status::unauthenticated(match caller {
                Caller::Node(_) => "a node's certificate is no administrator's",
                Caller::Admin | Caller::Nobody => {
                    "an administrator's certificate or a user's password is needed"
                }
            }));
        };
        self.user(user, password, address).await
    }

    async fn user(
        &self,
        user: String,
        password: Vec<u8>,
        address: SocketAddr,
    ) -> Result<Administrator, Status> {
        let turn = Arc::clone(&self.checks).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(CHECK_WAIT, turn).await else {
            return Err(Status::resource_exhausted("too many logins at a time"));
        };
        let broker = Arc::clone(&self.broker);
        let name: Arc<str> = user.into();
        let checked = Arc::clone(&name);
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            broker.log_in(&checked, &password, address.ip())
        });
        let checked = checked
            .await
            .map_err(|_| Status::unavailable("the node is stopping"))?;
        let user = checked.map_err(|why| {
            tracing::warn!(user = ?name, %address, %why, "admin API: login refused");
            Status::unauthenticated(WRONG)
        })?;
        if !user.row.has_tag(ADMINISTRATOR) {
            tracing::warn!(user = ?name, %address, "admin API: not an administrator");
            let text = format!("user '{name}' has not the tag '{ADMINISTRATOR}'");
            return Err(Status::permission_denied(text));
        }
        Ok(Administrator {
            user: Some(name),
            address,
        })
    }
}
