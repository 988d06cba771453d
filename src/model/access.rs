//! Who asks: roles and callers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{OrganizationId, ServerId, SessionId, TokenId, UserId};

/// What a caller may do. A higher role includes the lower ones: the order of the variants matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees.
    Viewer,
    /// Also acts.
    Operator,
    /// Also registers, edits, removes; manages people, keys and tokens.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The word is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a role; use viewer, operator or admin")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    /// Also accepts the form `fleet:viewer`.
    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let word = text.strip_prefix("fleet:").unwrap_or(text);
        Self::ALL
            .into_iter()
            .find(|role| role.name() == word)
            .ok_or_else(|| UnknownRole(super::shown(text, 80)))
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a token lets its bearer do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    Role(Role),
    /// Registers servers and reports for those that it registered; nothing else.
    Enrol,
    /// Reports for this server; nothing else.
    Server(ServerId),
}

impl Rights {
    /// The role, or the name of the scope.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Role(role) => role.name(),
            Self::Enrol => "enrol",
            Self::Server(_) => "server",
        }
    }

    #[must_use]
    pub const fn role(self) -> Option<Role> {
        match self {
            Self::Role(role) => Some(role),
            Self::Enrol | Self::Server(_) => None,
        }
    }
}

/// For whom somebody may report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The servers that this token registered.
    Enrol(TokenId),
    Server(ServerId),
    /// An administrator: every server that reports by itself.
    Admin,
}

/// Who reports about servers. It is no [`Caller`], so it can be handed to nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    pub organization: OrganizationId,
    pub actor: Actor,
    pub scope: Scope,
    /// None: not over the network.
    pub from: Option<IpAddr>,
}

/// Who stands behind a request, as the audit log names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A person with a browser session.
    User { id: UserId, name: String, session: SessionId },
    /// A program with a bearer token.
    Token { id: TokenId, name: String },
    /// Someone on the machine itself, through the control socket or the command line.
    System { uid: u32, name: String },
    /// A task, with the rights of its owner.
    Task { name: String, owner: String },
    /// Roundsman itself (enrolment of the local machine, pollers).
    Roundsman,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { name, .. } => write!(f, "{name}"),
            Self::Token { name, .. } => write!(f, "token:{name}"),
            Self::System { name, .. } => write!(f, "system:{name}"),
            Self::Task { name, owner } => write!(f, "{owner} by the task {name}"),
            Self::Roundsman => f.write_str("roundsman"),
        }
    }
}

/// An authenticated request: every service function receives one and obeys it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub organization: OrganizationId,
    pub actor: Actor,
    pub role: Role,
    /// None: not over the network.
    pub from: Option<IpAddr>,
}

impl Caller {
    #[must_use]
    pub fn may(&self, needed: Role) -> bool {
        self.role >= needed
    }

    /// Roundsman acting on its own account.
    #[must_use]
    pub const fn roundsman() -> Self {
        Self { organization: OrganizationId::DEFAULT, actor: Actor::Roundsman, role: Role::Admin, from: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_include_the_lower_ones_and_accept_the_fleet_prefix() {
        assert!(Role::Admin > Role::Operator && Role::Operator > Role::Viewer);
        assert_eq!("fleet:operator".parse(), Ok(Role::Operator));
        assert_eq!("root".parse::<Role>(), Err(UnknownRole("root".to_owned())));
    }
}
