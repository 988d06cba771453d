//! The confirmation before something is done to a server: what is touched, and the exact command.

use askama::Template;

use crate::actions::{Action, ContainerEngine};
use crate::fleet::ServerState;
use crate::model::{OperationId, ProcessUsage, Service, ServiceVerb, Signal, Timestamp};
use crate::web::view::{self, Value, When};

use super::super::remote::exact;
use super::super::{Chrome, Notice, Viewer};
use super::{Head, Tab};

/// Signals on offer; the others can be sent through the API.
const SIGNALS: [(Signal, &str); 6] = [
    (Signal::Term, "asks it to end"),
    (Signal::Kill, "ends it at once"),
    (Signal::Hup, "hangs up; daemons reload"),
    (Signal::Int, "as Ctrl-C does"),
    (Signal::Stop, "freezes it"),
    (Signal::Cont, "lets it go on"),
];

/// Services through which people and Roundsman come in.
const WAYS_IN: [&str; 3] = ["ssh", "sshd", "dropbear"];

/// What is asked for, with what is known of it.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    pub action: &'a Action,
    /// The exact command; Err: why nothing can be sent.
    pub command: Result<String, String>,
    /// The process that has the pid in the last reading.
    pub process: Option<&'a ProcessUsage>,
    /// The service of this name in the last reading.
    pub service: Option<&'a Service>,
}

/// `GET /servers/{id}/act`, and the answer to a `POST` that was refused. The form sends what the query says.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/confirm.html")]
pub struct ConfirmPage {
    pub chrome: Chrome,
    head: Head,
    back: String,
    asked: Option<Question>,
    /// The operation that does the same already.
    running: Option<String>,
}

#[derive(Debug, Clone)]
struct Question {
    title: String,
    facts: Vec<(&'static str, Value)>,
    since: Option<When>,
    command: Option<String>,
    signals: Vec<SignalLink>,
    warnings: Vec<String>,
    fields: Vec<(&'static str, String)>,
    button: String,
    is_dangerous: bool,
}

#[derive(Debug, Clone)]
struct SignalLink {
    name: &'static str,
    meaning: &'static str,
    address: String,
    is_current: bool,
}

impl ConfirmPage {
    /// `asked` None: it could not be understood, and the notice says why.
    #[must_use]
    pub fn new(viewer: &Viewer, state: &ServerState, asked: Option<&Asked<'_>>, now: Timestamp) -> Self {
        let tab = match asked.map(|asked| asked.action) {
            Some(Action::KillProcess { .. } | Action::KillNamed(_)) => Tab::Processes,
            Some(Action::Service { .. } | Action::WatchedService { .. }) => Tab::Services,
            Some(Action::Container(_)) => Tab::Containers,
            Some(
                Action::RunCommand { .. }
                | Action::RunScript(_)
                | Action::UpdatePackages(_)
                | Action::Reboot(_)
                | Action::CollectDiagnostics(_)
                | Action::File(_),
            ) => Tab::Commands,
            Some(Action::HealthCheck) => Tab::Overview,
            Some(Action::RotateKey(_) | Action::DeployAgent(_) | Action::RemoveAgent) => Tab::Configuration,
            None => Tab::Overview,
        };
        let mut chrome = super::chrome(viewer, state, tab, now);
        // What is to be confirmed does not change under the hand of the one who confirms.
        chrome.live = None;
        if let Some(Err(reason)) = asked.map(|asked| &asked.command) {
            chrome.notice = Some(Notice::problem(view::clean(reason, view::TEXT_CHARS)));
        }
        Self {
            chrome,
            head: Head::new(state, tab, now),
            back: if tab == Tab::Overview {
                format!("/servers/{}", state.server.name)
            } else {
                format!("/servers/{}/{}", state.server.name, tab.name())
            },
            asked: asked.map(|asked| Question::new(state, asked, now)),
            running: None,
        }
    }

    /// Says that the same is being done already, and where.
    pub fn already_running(&mut self, operation: OperationId) {
        self.running = Some(operation.to_string());
    }
}

impl Question {
    fn new(state: &ServerState, asked: &Asked<'_>, now: Timestamp) -> Self {
        let mut fields = vec![("action", asked.action.kind().to_owned())];
        fields.extend(asked.action.fields());
        let danger = asked.action.danger();
        let mut question = Self {
            title: view::clean(&asked.action.title(), view::CELL_CHARS),
            facts: Vec::new(),
            since: None,
            command: asked.command.as_deref().ok().map(exact),
            signals: Vec::new(),
            warnings: danger.map(ToOwned::to_owned).into_iter().collect(),
            fields,
            button: String::new(),
            is_dangerous: danger.is_some(),
        };
        match asked.action {
            Action::KillProcess { pid, start_ticks, signal } => {
                question.about_process(state, asked.process, (*pid, *start_ticks, *signal), now);
            }
            Action::Service { name, verb } => question.about_service(asked.service, name, *verb, now),
            Action::WatchedService { name, verb } => {
                question.about_service(asked.service, name, *verb, now);
                question.fields = vec![("action", asked.action.kind().to_owned()), ("service", name.clone())];
            }
            // Asked for and confirmed on the page of the key.
            Action::RotateKey(_) | Action::File(_) => {}
            other => question.about(other, state),
        }
        question
    }

    /// What is not in the readings, so that there is little to tell of it but what it is.
    fn about(&mut self, action: &Action, state: &ServerState) {
        let name = &state.server.name;
        self.button = match action {
            Action::RunCommand { .. } | Action::RunScript(_) => "Run it".to_owned(),
            Action::Reboot(_) => format!("Reboot {name}"),
            Action::DeployAgent(_) => format!("Deploy to {name}"),
            Action::RemoveAgent => format!("Remove from {name}"),
            other => view::clean(&other.title(), 80),
        };
        match action {
            Action::Container(action) => {
                let engine = match action.container.engine {
                    ContainerEngine::Docker => "Docker",
                    ContainerEngine::Podman => "Podman",
                };
                self.facts.push(("Container", Value::of(action.container.name.clone())));
                self.facts.push(("Engine", Value::of(engine.to_owned())));
            }
            Action::RunScript(script) => {
                if let Some(command) = &mut self.command {
                    command.push_str("\n\n");
                    command.push_str(&exact(&script.script));
                }
            }
            Action::UpdatePackages(update) if !update.packages.is_empty() => {
                self.facts.push(("Packages", Value::of(update.packages.join(", "))));
            }
            Action::Reboot(reboot) => {
                let seconds = reboot.wait().as_secs_f64();
                let wait = view::duration(Some(seconds)).text.unwrap_or_default();
                self.facts.push(("Waits for the return", Value::of(wait)));
            }
            Action::RemoveAgent => self.warnings.push("Readings go on with the shell probe.".to_owned()),
            _ => {}
        }
    }

    fn about_process(
        &mut self,
        state: &ServerState,
        found: Option<&ProcessUsage>,
        (pid, start_ticks, signal): (u32, u64, Signal),
        now: Timestamp,
    ) {
        let name = found.map(|usage| view::clean(&usage.process.name, 64)).filter(|name| !name.is_empty());
        self.facts.push(("PID", Value::of(pid.to_string())));
        match found {
            Some(usage) if usage.process.start_ticks == start_ticks => {
                let process = &usage.process;
                let user = process.user.clone().or_else(|| process.uid.map(|uid| uid.to_string()));
                let line = process.command_line.as_deref().map(|line| view::clean(line, view::TEXT_CHARS));
                self.facts.extend([
                    ("Process", Value::foreign(Some(&process.name))),
                    ("User", Value::foreign(user.as_deref())),
                    ("Command line", Value { text: line }),
                ]);
                let started = usage.started_at_ms.and_then(|at| i64::try_from(at).ok());
                self.since = started.map(|at| When::new(Some(Timestamp::from_millis(at)), now));
            }
            Some(_) => self.warnings.push(format!(
                "The process that was meant has ended; {pid} is another one by now ({}). Nothing will be sent to that one.",
                name.as_deref().unwrap_or("without a name")
            )),
            None => self.warnings.push(
                "The last reading does not show this process; it may have ended. It gets the signal only if it is still \
                 the one that was meant."
                    .to_owned(),
            ),
        }
        if found.is_some_and(|usage| WAYS_IN.contains(&usage.process.name.as_str())) {
            self.warnings.push(WAY_IN.to_owned());
        }
        let known = SIGNALS.iter().any(|(offered, _)| *offered == signal);
        let others = (!known).then_some((signal, "")).into_iter();
        self.signals = SIGNALS
            .into_iter()
            .chain(others)
            .map(|(offered, meaning)| SignalLink {
                name: offered.name(),
                meaning,
                address: format!(
                    "?action=kill_process&pid={pid}&start_ticks={start_ticks}&signal={}",
                    offered.name()
                ),
                is_current: offered == signal,
            })
            .collect();
        self.button = format!("Send {} on {}", signal.name(), state.server.name);
    }

    fn about_service(&mut self, found: Option<&Service>, name: &str, verb: ServiceVerb, now: Timestamp) {
        self.facts.push(("Service", Value::of(name.to_owned())));
        match found {
            Some(service) => {
                if !service.description.is_empty() {
                    self.facts.push(("Description", Value::foreign(Some(&service.description))));
                }
                let detail = match service.sub_state.as_str() {
                    "" => service.state.clone(),
                    sub if sub == service.state => service.state.clone(),
                    sub => format!("{}, {sub}", service.state),
                };
                self.facts.push(("State", Value::foreign(Some(&detail))));
                self.facts.push(("At boot", Value::foreign(service.enabled.as_deref())));
                let since = service.since_ms.and_then(|at| i64::try_from(at).ok());
                self.since = since.map(|at| When::new(Some(Timestamp::from_millis(at)), now));
            }
            None => self.warnings.push("The last reading shows no service of this name.".to_owned()),
        }
        if matches!(verb, ServiceVerb::Stop | ServiceVerb::Restart) && WAYS_IN.contains(&name) {
            self.warnings.push(WAY_IN.to_owned());
        }
        let word = match verb {
            ServiceVerb::Start => "Start",
            ServiceVerb::Stop => "Stop",
            ServiceVerb::Restart => "Restart",
            ServiceVerb::Reload => "Reload",
            ServiceVerb::Enable => "Enable",
            ServiceVerb::Disable => "Disable",
        };
        self.button = format!("{word} {}", view::clean(name, 60));
    }
}

const WAY_IN: &str = "This may be the way in for Roundsman and for you. Without it nobody comes in over SSH.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{Sample, now, processes, services, viewer};

    fn page(asked: &Asked<'_>) -> String {
        let state = Sample::named("web-1").state();
        ConfirmPage::new(&viewer(Role::Operator), &state, Some(asked), now()).render().unwrap()
    }

    fn kill(start_ticks_off: u64, signal: Signal) -> String {
        let all = processes();
        let usage = all.iter().find(|usage| usage.process.pid == 812);
        let start = usage.unwrap().process.start_ticks + start_ticks_off;
        let action = Action::kill_process(812, start, signal).unwrap();
        page(&Asked {
            action: &action,
            command: Ok("kill -s X 812".to_owned()),
            process: usage,
            service: None,
        })
    }

    #[test]
    fn the_process_the_server_and_the_exact_command_are_named() {
        let html = kill(0, Signal::Term);
        for text in
            ["web-1.example.net", "postgres", "812", "kill -s X 812", "Send TERM on web-1", "signal=KILL"]
        {
            assert!(html.contains(text), "{text}");
        }
        assert!(!html.contains("KILL ends the process at once"));
        assert!(kill(0, Signal::Kill).contains("KILL ends the process at once"));
        assert!(kill(0, Signal::Usr1).contains("USR1"));
    }

    #[test]
    fn a_pid_that_belongs_to_another_process_by_now_is_told() {
        assert!(kill(1, Signal::Term).contains("another one by now"));
    }

    #[test]
    fn stopping_a_service_warns_and_stopping_the_way_in_warns_more() {
        let all = services();
        let ask = |name: &str, verb| {
            let action = Action::service(name, verb).unwrap();
            let service = all.iter().find(|service| service.name == name);
            page(&Asked { action: &action, command: Ok("systemctl x".to_owned()), process: None, service })
        };
        let html = ask("nginx", ServiceVerb::Stop);
        assert!(html.contains("stays stopped") && html.contains("active") && !html.contains("way in"));
        assert!(ask("ssh", ServiceVerb::Restart).contains("way in"));
        assert!(!ask("nginx", ServiceVerb::Restart).contains("stays stopped"));
        assert!(ask("ghost", ServiceVerb::Start).contains("no service of this name"));
    }

    #[test]
    fn what_cannot_be_sent_has_a_reason_and_no_button() {
        let action = Action::service("nginx", ServiceVerb::Stop).unwrap();
        let command = Err("no service manager is known".to_owned());
        let html = page(&Asked { action: &action, command, process: None, service: None });
        assert!(
            html.contains("no service manager is known")
                && !html.contains("method=\"post\" action=\"/servers")
        );
    }
}
