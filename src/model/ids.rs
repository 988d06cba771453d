//! Ids: UUIDv7, one newtype a noun, so that two of them are never mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an id")]
pub struct InvalidId(pub String);

macro_rules! id {
    ($($(#[$meta:meta])* $name:ident;)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps an id made by the clock (see [`crate::clock::Clock::new_uuid`]).
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId(super::shown(text, 80)))
            }
        }
    )*};
}

id! {
    ServerId;
    OrganizationId;
    UserId;
    TokenId;
    SessionId;
    /// An SSH key that Roundsman keeps.
    KeyId;
    OperationId;
    /// A command record.
    RecordId;
    /// An imported known_hosts line.
    KnownHostId;
    GroupId;
    /// A service that needs another.
    DependencyId;
    CustomMetricId;
    TaskId;
    /// One run of a task.
    TaskRunId;
}

impl OrganizationId {
    /// The one organization that exists until people and rights are built.
    pub const DEFAULT: Self = Self(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));
}
