//! Connections for commands without a Roundsman: host keys judged by known_hosts, keys offered one after the other, jump
//! hosts shared by all that are behind them.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::identities::Offer;
use super::trust::Trust;
use crate::fleet::import::Candidate;
use crate::fleet::proxy;
use crate::model::{Port, ProxyAddress};
use crate::ssh::{Connection, JumpHost, Proxy, Route, SshError, Target, connect};

/// A host with everything that is needed to log in there.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) at: Candidate,
    pub(super) user: String,
    pub(super) offers: Vec<Offer>,
    /// Why `offers` is empty.
    pub(super) nothing: String,
    /// The jump hosts before it.
    pub(super) hops: Vec<Self>,
}

/// Makes connections; one for all hosts of a command.
#[derive(Debug)]
pub(super) struct Reach {
    trust: Trust,
    connect_timeout: Option<Duration>,
    /// What worked last is tried first: hosts of one fleet mostly know the same key.
    favourite: Mutex<Option<String>>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

impl Reach {
    pub(super) fn new(trust: Trust, connect_timeout: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { trust, connect_timeout, favourite: Mutex::default(), gates: Mutex::default() })
    }

    /// # Errors
    /// As [`connect`]; of several keys that were refused, one error names all.
    pub(super) async fn connection(self: &Arc<Self>, way: &Way) -> Result<Connection, SshError> {
        let route = self.route(way)?;
        self.log_in(way, route).await
    }

    fn route(self: &Arc<Self>, way: &Way) -> Result<Route, SshError> {
        let mut route = match &way.hops.first().unwrap_or(way).at.proxy {
            Some(proxy) => Route::Proxy(parsed(proxy)?),
            None => Route::Direct,
        };
        let mut key = String::new();
        for hop in &way.hops {
            key.push_str(&format!("{}@{}:{:?} ", hop.user, hop.at.host, hop.at.port));
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            let gate = gates.entry(key.clone()).or_insert_with(|| {
                let (reach, way) = (Arc::clone(self), hop.clone());
                Arc::new(Gate { reach, way, route, made: tokio::sync::Mutex::default() })
            });
            route = Route::Jump(Arc::clone(gate) as Arc<dyn JumpHost>);
        }
        Ok(route)
    }

    async fn log_in(&self, way: &Way, route: Route) -> Result<Connection, SshError> {
        let mut refused: Option<SshError> = None;
        let mut offered_before = Vec::new();
        for offer in self.ordered(&way.offers) {
            let error = match self.knock(way, &offer, route.clone()).await {
                Ok(connection) => {
                    *self.favourite.lock().unwrap_or_else(PoisonError::into_inner) = Some(offer.label);
                    return Ok(connection);
                }
                Err(error) => error,
            };
            match error {
                SshError::AuthRefused { at, offered, accepts } => {
                    offered_before.push(offered);
                    let goes_on = accepts.iter().any(|method| method == "publickey");
                    let offered = offered_before.join(", ");
                    refused = Some(SshError::AuthRefused { at, offered, accepts });
                    if !goes_on {
                        break;
                    }
                }
                SshError::KeyUnreadable { .. }
                | SshError::CertificateUnusable { .. }
                | SshError::AgentUnusable { .. } => {
                    refused.get_or_insert(error);
                }
                other => return Err(other),
            }
        }
        Err(refused.unwrap_or_else(|| SshError::KeyUnreadable {
            path: format!("for {}@{}", way.user, way.at.host),
            cause: way.nothing.clone(),
        }))
    }

    fn ordered(&self, offers: &[Offer]) -> Vec<Offer> {
        let favourite = self.favourite.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut ordered = offers.to_vec();
        ordered.sort_by_key(|offer| Some(&offer.label) != favourite.as_ref());
        ordered
    }

    /// One login with one identity.
    async fn knock(&self, way: &Way, offer: &Offer, route: Route) -> Result<Connection, SshError> {
        let port = way.at.port.and_then(|port| Port::of(port).ok()).unwrap_or(Port::SSH);
        // An alias stands in known_hosts as it is, whatever the port.
        let (name, name_port) = match &way.at.host_key_alias {
            Some(alias) => (alias.as_str(), Port::SSH),
            None => (way.at.host.as_str(), port),
        };
        let known = self.trust.of(name, name_port);
        let own = way.at.connect_timeout_ms.map(Duration::from_millis);
        let mut target = Target {
            pinned: known.keys.first().cloned(),
            authorities: known.authorities.into(),
            revoked: known.revoked.into(),
            route,
            connect_timeout: self.connect_timeout.or(own).unwrap_or(Target::DEFAULT_CONNECT_TIMEOUT),
            ..Target::new(way.at.host.as_str(), port, way.user.as_str(), offer.identity.clone())
        };
        match connect(&target, &mut |_| {}).await {
            // Another of its known keys: it has none of the kind that was asked for first.
            Err(SshError::HostKeyChanged { seen, .. }) if known.keys.contains(&seen) => {
                target.pinned = Some(*seen);
            }
            Err(SshError::HostKeyUnknown { at, seen }) => match self.trust.accept(name, name_port, &seen) {
                Ok(true) => target.pinned = Some(*seen),
                Ok(false) => return Err(SshError::HostKeyUnknown { at, seen }),
                Err(cause) => return Err(SshError::InvalidCommand { cause }),
            },
            other => return other,
        }
        connect(&target, &mut |_| {}).await
    }
}

fn parsed(text: &str) -> Result<Proxy, SshError> {
    let (address, password) =
        ProxyAddress::parse(text).map_err(|error| SshError::InvalidCommand { cause: error.to_string() })?;
    Ok(proxy(&address, password))
}

/// A jump host: dialled once, for all that are behind it. That it cannot be reached is found out once as well.
#[derive(Debug)]
struct Gate {
    reach: Arc<Reach>,
    way: Way,
    route: Route,
    made: tokio::sync::Mutex<Option<Result<Connection, SshError>>>,
}

impl JumpHost for Gate {
    fn name(&self) -> String {
        self.way.at.host.clone()
    }

    fn connection(&self) -> Pin<Box<dyn Future<Output = Result<Connection, SshError>> + Send + '_>> {
        Box::pin(async {
            let mut made = self.made.lock().await;
            if let Some(made) = made.as_ref() {
                return made.clone();
            }
            let result = self.reach.log_in(&self.way, self.route.clone()).await;
            *made = Some(result.clone());
            result
        })
    }
}
