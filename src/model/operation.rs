//! Operations: one action done to one or many servers, tracked target by target.

use serde::{Deserialize, Serialize};

use super::words::words;

/// A stored word that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a state of an operation")]
pub struct UnknownState(pub String);

words! {
    /// What became of one target.
    TargetStatus, UnknownState {
        /// Nothing was sent yet.
        Pending = "pending",
        /// The command was sent and has not answered.
        Sent = "sent",
        Succeeded = "succeeded",
        /// It ran and failed, or it was refused before it was sent.
        Failed = "failed",
        /// There was no connection; nothing was sent.
        Unreachable = "unreachable",
        /// It was sent and its end was not seen: it may have run.
        Unknown = "unknown",
        Cancelled = "cancelled",
        /// Nothing was sent, because the operation had stopped by itself: its error says why.
        Skipped = "skipped",
    }
}

impl TargetStatus {
    /// Nothing more will happen to it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Sent)
    }

    /// It did not succeed, and nobody gave it up.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Unreachable | Self::Unknown)
    }

    /// It has ended and nothing was sent, because the operation ended first.
    #[must_use]
    pub const fn was_left_out(self) -> bool {
        matches!(self, Self::Cancelled | Self::Skipped)
    }
}

words! {
    /// What became of the whole.
    OperationStatus, UnknownState {
        Pending = "pending",
        Running = "running",
        /// Every target succeeded.
        Completed = "completed",
        /// No target succeeded.
        Failed = "failed",
        /// Some did.
        Partial = "partial",
        Cancelled = "cancelled",
    }
}

impl OperationStatus {
    /// The status that follows from the targets'.
    #[must_use]
    pub fn of(targets: &[TargetStatus]) -> Self {
        let count = |wanted: TargetStatus| targets.iter().filter(|status| **status == wanted).count();
        let (all, succeeded) = (targets.len(), count(TargetStatus::Succeeded));
        if targets.iter().any(|status| !status.is_final()) {
            return if count(TargetStatus::Pending) == all { Self::Pending } else { Self::Running };
        }
        match succeeded {
            _ if succeeded == all => Self::Completed,
            0 if count(TargetStatus::Cancelled) == all => Self::Cancelled,
            0 => Self::Failed,
            _ => Self::Partial,
        }
    }
}

/// What happens where another operation is under way on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenBusy {
    /// Both run side by side; only the same action is not begun twice.
    #[default]
    Share,
    /// It waits until the operations that began before it have ended on this server.
    Queue,
    /// It is not begun.
    Refuse,
}

impl WhenBusy {
    pub const ALL: [Self; 3] = [Self::Share, Self::Queue, Self::Refuse];

    /// As configurations, forms and the API spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Queue => "queue",
            Self::Refuse => "refuse",
        }
    }

    /// None: it is none of the three words.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == word)
    }
}

/// A signal that a person may send to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum Signal {
    #[default]
    Term,
    Kill,
    Hup,
    Int,
    Quit,
    Usr1,
    Usr2,
    Stop,
    Cont,
}

impl Signal {
    pub const ALL: [Self; 9] = [
        Self::Term,
        Self::Kill,
        Self::Hup,
        Self::Int,
        Self::Quit,
        Self::Usr1,
        Self::Usr2,
        Self::Stop,
        Self::Cont,
    ];

    /// Without SIG, as `kill -s` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Kill => "KILL",
            Self::Hup => "HUP",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }

    /// Accepts `TERM` and `SIGTERM` in any case. None: no such signal may be sent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }
}

/// What is done to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceVerb {
    Start,
    Stop,
    Restart,
    Reload,
    /// Starts it at boot from now on.
    Enable,
    Disable,
}

impl ServiceVerb {
    pub const ALL: [Self; 6] =
        [Self::Start, Self::Stop, Self::Restart, Self::Reload, Self::Enable, Self::Disable];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Enable => "enable",
            Self::Disable => "disable",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TargetStatus::{Cancelled, Failed, Pending, Sent, Succeeded, Unknown, Unreachable};

    #[test]
    fn the_status_of_an_operation_follows_from_its_targets() {
        let cases = [
            (vec![Pending, Pending], OperationStatus::Pending),
            (vec![Succeeded, Pending], OperationStatus::Running),
            (vec![Sent], OperationStatus::Running),
            (vec![Succeeded, Succeeded], OperationStatus::Completed),
            (vec![Succeeded, Unreachable], OperationStatus::Partial),
            (vec![Failed, Unknown], OperationStatus::Failed),
            (vec![Cancelled, Cancelled], OperationStatus::Cancelled),
            (vec![Cancelled, Failed], OperationStatus::Failed),
        ];
        for (targets, status) in cases {
            assert_eq!(OperationStatus::of(&targets), status, "{targets:?}");
        }
    }

    #[test]
    fn signals_are_known_with_and_without_sig() {
        assert_eq!(Signal::parse("sigkill"), Some(Signal::Kill));
        assert_eq!(Signal::parse("HUP"), Some(Signal::Hup));
        assert_eq!(Signal::parse("9; rm"), None);
    }
}
