//! The way in to a server as the API takes it and shows it. Secrets go in and never come out.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::fleet::{ActionLoginEdit, LoginEdit, ServerState, blind_spots};
use crate::model::{BlindSpot, Login, LoginMethod, Secret, SecretKind, Timestamp};

/// What programs write for the default key.
pub const DEFAULT_KEY: &str = "default";

/// Tells a field that is `null` from one that is missing.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// The reference to a kept key; `default` is none.
#[must_use]
pub fn key(identity: Option<String>) -> Option<String> {
    identity.filter(|reference| reference != DEFAULT_KEY)
}

/// The second identity as it is sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionLoginInput {
    /// Needed where there was no second identity before.
    username: Option<String>,
    /// key, agent or password; where it is missing, what else is given says it.
    #[schema(value_type = Option<String>)]
    login_method: Option<LoginMethod>,
    /// `default`, or the id or name of a kept key.
    identity: Option<String>,
    /// Public line or SHA-256 fingerprint of a key that the ssh-agent holds.
    agent_key: Option<String>,
    /// To be kept, sealed.
    #[schema(value_type = Option<String>)]
    password: Option<Secret<String>>,
}

impl From<ActionLoginInput> for ActionLoginEdit {
    fn from(input: ActionLoginInput) -> Self {
        Self {
            username: input.username,
            login: LoginEdit {
                method: input.login_method,
                key: input.identity.map(|identity| key(Some(identity))),
                agent_key: input.agent_key,
                password: input.password,
            },
        }
    }
}

/// The second identity as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActionLoginJson {
    username: String,
    login_method: String,
    identity: Option<String>,
    agent_key: Option<String>,
    has_password: bool,
}

/// The id of a kept key, or `default`. None: the method is not `key`.
fn identity(login: &Login) -> Option<String> {
    (login.method == LoginMethod::Key)
        .then(|| login.key.map_or_else(|| DEFAULT_KEY.to_owned(), |key| key.to_string()))
}

/// How a server is reached and logged in to, beyond its address.
#[derive(Debug, Serialize, ToSchema)]
pub struct WayJson {
    /// key, agent or password.
    login_method: String,
    /// The id of a kept key, or `default`.
    identity: Option<String>,
    /// The public key line that the ssh-agent signs with.
    agent_key: Option<String>,
    /// A password is kept for the login.
    has_password: bool,
    /// The name of the server over which this one is reached.
    jump_host: Option<String>,
    jump_host_id: Option<String>,
    /// Without its password.
    proxy: Option<String>,
    /// The limit of each step of connecting.
    connect_timeout_ms: u32,
    action_login: Option<ActionLoginJson>,
    /// What sudo asks for is kept.
    has_sudo_password: bool,
    /// What cannot be seen or done on this server, why, and the line that would change it.
    #[schema(value_type = Vec<Object>)]
    blind_spots: Vec<BlindSpot>,
    /// When the stages of a connection were last gone through.
    #[schema(value_type = Option<String>)]
    tested_at: Option<Timestamp>,
}

impl WayJson {
    #[must_use]
    pub fn of(state: &ServerState) -> Self {
        let way = &state.way;
        Self {
            login_method: way.login.method.to_string(),
            identity: identity(&way.login),
            agent_key: way.login.agent_key.clone(),
            has_password: way.keeps(SecretKind::Password),
            jump_host: state.jump.as_ref().map(ToString::to_string),
            jump_host_id: way.jump.map(|id| id.to_string()),
            proxy: way.proxy.as_ref().map(ToString::to_string),
            connect_timeout_ms: way.connect_timeout_ms,
            action_login: way.action.as_ref().map(|action| ActionLoginJson {
                username: action.username.clone(),
                login_method: action.login.method.to_string(),
                identity: identity(&action.login),
                agent_key: action.login.agent_key.clone(),
                has_password: way.keeps(SecretKind::ActionPassword),
            }),
            has_sudo_password: way.keeps(SecretKind::SudoPassword),
            blind_spots: blind_spots(state),
            tested_at: state.findings.looked_at,
        }
    }
}
