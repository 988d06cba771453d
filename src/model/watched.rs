//! A service that no service manager knows: processes found by keywords, with commands that start and stop them.

use serde::Serialize;

use super::{OrganizationId, Process, Selector, ServiceVerb, Timestamp, WatchedServiceId};

/// What is watched, where, and how it is started and stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WatchedService {
    pub id: WatchedServiceId,
    #[serde(skip)]
    pub organization: OrganizationId,
    /// Unique in its organization; the name of the service on every server that it is watched on.
    pub name: String,
    pub description: String,
    /// All of them stand in the command line of its processes. Empty: the program is called as the service is.
    pub keywords: Vec<String>,
    /// POSIX shell text that returns. None: it cannot be started from here.
    pub start_command: Option<String>,
    pub stop_command: Option<String>,
    /// Both commands run as root, by sudo where the login is not root's.
    pub sudo: bool,
    pub selector: Selector,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub updated_by: String,
}

impl WatchedService {
    /// Whether a process belongs to it. What has ended (a zombie) and threads of the kernel belong to nothing.
    #[must_use]
    pub fn owns(&self, process: &Process) -> bool {
        let Some(line) = process.command_line.as_deref() else { return false };
        if matches!(process.state, 'Z' | 'X' | 'x') {
            return false;
        }
        if self.keywords.is_empty() {
            let program = line.split(' ').next().unwrap_or(line);
            return process.name == self.name || program.rsplit('/').next() == Some(self.name.as_str());
        }
        self.keywords.iter().all(|keyword| line.contains(keyword.as_str()))
    }

    /// The command that does it. None: there is none, or only one of the two that a restart needs.
    #[must_use]
    pub fn command(&self, verb: ServiceVerb) -> Option<String> {
        let (start, stop) = (self.start_command.as_deref(), self.stop_command.as_deref());
        match verb {
            ServiceVerb::Start => start.map(str::to_owned),
            ServiceVerb::Stop => stop.map(str::to_owned),
            // A stop that finds nothing to stop is no reason not to start.
            ServiceVerb::Restart => Some(format!("({}); sleep 1; ({})", stop?, start?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, keywords: &[&str]) -> WatchedService {
        WatchedService {
            id: WatchedServiceId::new(uuid::Uuid::nil()),
            organization: OrganizationId::DEFAULT,
            name: name.to_owned(),
            description: String::new(),
            keywords: keywords.iter().map(|word| (*word).to_owned()).collect(),
            start_command: Some("/opt/bot/start.sh".to_owned()),
            stop_command: None,
            sudo: false,
            selector: Selector::default(),
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
            updated_by: String::new(),
        }
    }

    fn process(line: Option<&str>) -> Process {
        Process { command_line: line.map(str::to_owned), state: 'S', ..Process::default() }
    }

    #[test]
    fn all_keywords_must_stand_in_the_command_line() {
        let bot = service("bot", &["python3", "bot.py"]);
        assert!(bot.owns(&process(Some("/usr/bin/python3 /opt/bot.py --live"))));
        assert!(!bot.owns(&process(Some("python3 other.py"))) && !bot.owns(&process(None)));
        assert!(!bot.owns(&Process { state: 'Z', ..process(Some("python3 bot.py")) }));
    }

    #[test]
    fn without_keywords_the_program_has_the_name_of_the_service() {
        let redis = service("redis-server", &[]);
        assert!(redis.owns(&process(Some("/usr/bin/redis-server *:6379"))));
        assert!(!redis.owns(&process(Some("vim redis-server.conf"))));
    }

    #[test]
    fn a_restart_needs_both_commands() {
        let mut bot = service("bot", &["bot.py"]);
        assert_eq!(bot.command(ServiceVerb::Start).as_deref(), Some("/opt/bot/start.sh"));
        assert_eq!((bot.command(ServiceVerb::Stop), bot.command(ServiceVerb::Restart)), (None, None));
        bot.stop_command = Some("pkill bot".to_owned());
        assert_eq!(
            bot.command(ServiceVerb::Restart).as_deref(),
            Some("(pkill bot); sleep 1; (/opt/bot/start.sh)")
        );
        assert_eq!(bot.command(ServiceVerb::Reload), None);
    }
}
