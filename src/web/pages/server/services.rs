//! The services of a server as its service manager describes them.

use askama::Template;

use crate::actions::Action;
use crate::fleet::ServerState;
use crate::model::{Role, Service, ServiceVerb, Timestamp};
use crate::web::view::{self, Value, When};

use super::super::{Choice, Chrome, Fragment, Viewer};
use super::watching::{WatchForm, WatchPart};
use super::{Acting, ActionLink, Head, Tab, head_fragment};

/// Rows of the table; a usual machine has about 150 services.
const ROWS_MAX: usize = 500;
/// Longest filter text that is kept.
const FILTER_MAX_CHARS: usize = 200;
/// The states on offer in the filter, as systemd spells them.
const STATES: [(&str, &str); 4] =
    [("failed", "Failed"), ("active", "Active"), ("inactive", "Inactive"), ("changing", "Changing")];

/// The query of the page. Words that mean nothing are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceQuery {
    /// Found in name or description.
    pub search: String,
    /// `failed`, `active`, `inactive`, `changing`; empty: all.
    pub state: String,
}

impl ServiceQuery {
    /// From the decoded pairs of a query string.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut query = Self::default();
        for (key, value) in pairs {
            let value = value.as_ref().trim();
            match key.as_ref() {
                "search" => query.search = value.chars().take(FILTER_MAX_CHARS).collect(),
                "state" if STATES.iter().any(|(name, _)| *name == value) => {
                    value.clone_into(&mut query.state)
                }
                _ => {}
            }
        }
        query
    }

    fn matches(&self, service: &Service) -> bool {
        let needle = self.search.to_lowercase();
        let within = |text: &str| text.to_lowercase().contains(&needle);
        let in_state = match self.state.as_str() {
            "" => true,
            "changing" => Tone::of(&service.state) == Tone::Changing,
            state => service.state == state,
        };
        in_state && (needle.is_empty() || within(&service.name) || within(&service.description))
    }

    /// The failed first, then what changes, runs, rests; by name within.
    fn select<'a>(&self, services: &'a [Service]) -> Vec<&'a Service> {
        let mut chosen: Vec<&Service> = services.iter().filter(|service| self.matches(service)).collect();
        chosen.sort_by_key(|service| (Tone::of(&service.state), service.name.to_lowercase()));
        chosen
    }
}

/// `GET /servers/{name}/services`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_services.html")]
pub struct ServicesPage {
    pub chrome: Chrome,
    head: Head,
    search: String,
    states: Vec<Choice>,
    list: List,
    /// For administrators: what is watched here, and the form that watches another.
    watch: Option<WatchPart>,
}

impl ServicesPage {
    /// `services` None: no reading has brought any yet. `read_at`: when they were read.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        state: &ServerState,
        acting: &Acting,
        services: Option<&[Service]>,
        read_at: Option<Timestamp>,
        query: &ServiceQuery,
        now: Timestamp,
    ) -> Self {
        let mut states = vec![Choice::of("", "State: any", &query.state)];
        states.extend(STATES.iter().map(|(name, title)| Choice::of(name, title, &query.state)));
        Self {
            chrome: super::chrome(viewer, state, Tab::Services, now),
            head: Head::new(state, Tab::Services, now),
            search: query.search.clone(),
            states,
            list: List::new(state, acting, services, read_at, query, now),
            watch: (viewer.role >= Role::Admin).then(|| WatchPart::new(state, &WatchForm::default())),
        }
    }

    /// The form as it was sent, with what is wrong in it, or that of one that is edited.
    pub fn filled(&mut self, state: &ServerState, form: &WatchForm) {
        self.watch = Some(WatchPart::new(state, form));
    }
}

#[derive(Debug, Template)]
#[template(path = "partials/services.html")]
struct ListPart {
    list: List,
}

/// Everything on the tab that changes, for open pages.
#[must_use]
pub fn services_fragments(
    state: &ServerState,
    acting: &Acting,
    services: Option<&[Service]>,
    read_at: Option<Timestamp>,
    query: &ServiceQuery,
    now: Timestamp,
) -> Vec<Fragment> {
    let part = ListPart { list: List::new(state, acting, services, read_at, query, now) };
    let body = Fragment::render("services".to_owned(), &part);
    head_fragment(state, Tab::Services, now).into_iter().chain(body).collect()
}

#[derive(Debug, Clone)]
struct List {
    /// None: not read yet.
    rows: Option<Vec<Row>>,
    counted: String,
    read: When,
    gap: Option<String>,
    has_actions: bool,
}

#[derive(Debug, Clone)]
struct Row {
    name: String,
    description: String,
    tone: Tone,
    state: String,
    sub_state: String,
    enabled: Value,
    memory: Value,
    restarts: Value,
    has_restarts: bool,
    since: When,
    pid: Option<u32>,
    actions: Vec<ActionLink>,
    /// By which its processes are found. None: its service manager tells it.
    keywords: Option<String>,
}

/// Whether it starts at boot can be switched; what is static, generated or masked cannot.
fn at_boot(service: &Service) -> Option<ServiceVerb> {
    match service.enabled.as_deref() {
        Some("enabled") => Some(ServiceVerb::Disable),
        Some("disabled") => Some(ServiceVerb::Enable),
        _ => None,
    }
}

/// What makes sense for a service in its state.
fn verbs(service: &Service) -> &'static [ServiceVerb] {
    use ServiceVerb::{Reload, Restart, Start, Stop};
    match Tone::of(&service.state) {
        _ if service.enabled.as_deref() == Some("masked") => &[],
        // What has done its work and is gone has nobody who could read its configuration anew.
        Tone::Active if service.sub_state == "exited" => &[Restart, Stop],
        Tone::Active => &[Restart, Reload, Stop],
        Tone::Changing => &[Restart, Stop],
        Tone::Failed | Tone::Resting => &[Start],
    }
}

/// None: the action would not take the name.
fn link(state: &ServerState, service: &str, verb: ServiceVerb, is_watched: bool) -> Option<ActionLink> {
    let (title, icon) = match verb {
        ServiceVerb::Start => ("Start", "play"),
        ServiceVerb::Stop => ("Stop", "square"),
        ServiceVerb::Restart => ("Restart", "rotate-cw"),
        ServiceVerb::Reload => ("Reload", "sliders-horizontal"),
        ServiceVerb::Enable => ("Enable", "circle-check"),
        ServiceVerb::Disable => ("Disable", "circle-minus"),
    };
    let action =
        if is_watched { Action::watched_service(service, verb) } else { Action::service(service, verb) };
    let action = action.ok()?;
    Some(ActionLink::new(state, &action, title, icon))
}

fn words(keywords: &[String], name: &str) -> String {
    if keywords.is_empty() { name.to_owned() } else { keywords.join(" ") }
}

/// What a state means to a reader; the order is that of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tone {
    Failed,
    Changing,
    Active,
    Resting,
}

impl Tone {
    fn of(state: &str) -> Self {
        match state {
            "failed" | "crashed" => Self::Failed,
            "activating" | "deactivating" | "reloading" | "refreshing" | "maintenance" => Self::Changing,
            "active" => Self::Active,
            _ => Self::Resting,
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Failed => "is-critical",
            Self::Changing => "is-degraded",
            Self::Active => "is-healthy",
            Self::Resting => "is-neutral",
        }
    }

    const fn icon(self) -> &'static str {
        match self {
            Self::Failed => "octagon-x",
            Self::Changing => "refresh-cw",
            Self::Active => "circle-check",
            Self::Resting => "circle-minus",
        }
    }
}

impl List {
    fn new(
        state: &ServerState,
        acting: &Acting,
        services: Option<&[Service]>,
        read_at: Option<Timestamp>,
        query: &ServiceQuery,
        now: Timestamp,
    ) -> Self {
        let whole = |count: usize| view::whole(u64::try_from(count).unwrap_or(u64::MAX));
        let chosen = services.map(|services| query.select(services));
        let counted = match (services, &chosen) {
            (Some(all), Some(chosen)) if chosen.len() < all.len() || chosen.len() > ROWS_MAX => {
                format!("{} of {} services", whole(chosen.len().min(ROWS_MAX)), whole(all.len()))
            }
            (Some(all), _) => {
                let of = |tone: Tone| whole(all.iter().filter(|one| Tone::of(&one.state) == tone).count());
                format!(
                    "{} services: {} active, {} failed",
                    whole(all.len()),
                    of(Tone::Active),
                    of(Tone::Failed)
                )
            }
            (None, _) => String::new(),
        };
        Self {
            rows: chosen.map(|chosen| {
                let row = |service| Row::new(state, acting, service, now);
                chosen.into_iter().take(ROWS_MAX).map(row).collect()
            }),
            counted,
            read: When::new(read_at, now),
            gap: super::gap_reason(state, "services"),
            has_actions: acting.is_possible(),
        }
    }
}

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "sizes and counts are shown with three digits")]
    fn new(state: &ServerState, acting: &Acting, service: &Service, now: Timestamp) -> Self {
        let verbs = if acting.is_possible() { verbs(service) } else { &[] };
        let watched = state.watched.iter().find(|one| one.name == service.name);
        let since = service.since_ms.and_then(|since| i64::try_from(since).ok()).map(Timestamp::from_millis);
        Self {
            name: view::clean(&service.name, view::CELL_CHARS),
            description: view::clean(&service.description, view::CELL_CHARS),
            tone: Tone::of(&service.state),
            state: view::clean(&service.state, 40),
            sub_state: if service.sub_state == service.state {
                String::new()
            } else {
                view::clean(&service.sub_state, 40)
            },
            enabled: Value::foreign(service.enabled.as_deref()),
            memory: view::bytes(service.memory_bytes.map(|bytes| bytes as f64)),
            restarts: view::count(service.restarts.map(|restarts| restarts as f64)),
            has_restarts: service.restarts.is_some_and(|restarts| restarts > 0),
            since: When::new(since, now),
            pid: service.main_pid.filter(|pid| *pid > 0),
            actions: verbs
                .iter()
                .copied()
                .chain(at_boot(service).filter(|_| acting.is_possible()))
                .filter(|verb| watched.is_none_or(|one| one.verbs.contains(verb)))
                .filter_map(|verb| link(state, &service.name, verb, watched.is_some()))
                .collect(),
            keywords: watched.map(|one| view::clean(&words(&one.keywords, &one.name), view::CELL_CHARS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::WatchedHere;
    use crate::web::pages::samples::{Sample, now, services, viewer};

    fn names(query: &[(&str, &str)]) -> Vec<String> {
        let all = services();
        ServiceQuery::from_pairs(query.iter().copied())
            .select(&all)
            .iter()
            .map(|one| one.name.clone())
            .collect()
    }

    #[test]
    fn failed_services_stand_first_and_states_filter() {
        assert_eq!(names(&[]).first().unwrap(), "certbot");
        assert_eq!(names(&[("state", "failed")]), ["certbot"]);
        assert_eq!(names(&[("state", "changing")]), ["postgresql"]);
        assert_eq!(names(&[("search", "WEB SERVER")]), ["nginx"]);
        assert_eq!(names(&[("state", "<b>")]).len(), services().len());
    }

    #[test]
    fn the_page_shows_state_in_words_and_hostile_text_as_text() {
        let state = Sample::named("a").state();
        let page = ServicesPage::new(
            &viewer(Role::Viewer),
            &state,
            &Acting::NotAllowed,
            Some(&services()),
            Some(now()),
            &ServiceQuery::default(),
            now(),
        );
        let html = page.render().unwrap();
        assert!(html.contains("failed") && html.contains("activating") && html.contains("1 failed"));
        assert!(!html.contains("<script>alert") && html.contains("&#60;script&#62;alert"));
    }
    #[test]
    fn what_can_be_done_fits_the_state_of_the_service() {
        let state = Sample::named("a").state();
        let acting = Acting::Possible;
        let links = |service: &Service| -> Vec<&str> {
            Row::new(&state, &acting, service, now()).actions.iter().map(|link| link.title).collect()
        };
        let of = |state: &str| Service {
            state: state.to_owned(),
            name: "x@y".to_owned(),
            ..services()[0].clone()
        };
        let with =
            |state: &str, enabled: Option<&str>| Service { enabled: enabled.map(str::to_owned), ..of(state) };
        assert_eq!(links(&with("active", None)), ["Restart", "Reload", "Stop"]);
        assert_eq!(links(&with("failed", Some("static"))), ["Start"]);
        assert_eq!(links(&with("inactive", Some("disabled"))), ["Start", "Enable"]);
        assert_eq!(links(&with("active", Some("enabled"))), ["Restart", "Reload", "Stop", "Disable"]);
        assert_eq!(links(&Service { enabled: Some("masked".to_owned()), ..of("inactive") }), [""; 0]);
        assert_eq!(links(&Service { name: "$(id)".to_owned(), ..of("active") }), [""; 0]);
        let link = link(&state, "x@y", ServiceVerb::Stop, false).unwrap();
        assert_eq!(link.address, "/servers/a/act?action=stop_service&service=x%40y");
    }

    #[test]
    fn a_watched_service_has_its_own_commands_and_says_how_it_is_found() {
        let mut state = Sample::named("a").state();
        let here = WatchedHere {
            name: "nginx".to_owned(),
            keywords: vec!["<b>nginx".to_owned(), "master".to_owned()],
            verbs: vec![ServiceVerb::Stop],
        };
        state.watched = std::sync::Arc::new([here]);
        let (all, query) = (services(), ServiceQuery::default());
        let page = |role| {
            let viewer = viewer(role);
            ServicesPage::new(&viewer, &state, &Acting::Possible, Some(&all), None, &query, now())
                .render()
                .unwrap()
        };
        let html = page(Role::Admin);
        assert!(html.contains("act?action=stop_watched_service&#38;service=nginx"));
        assert!(
            !html.contains("restart_watched_service")
                && !html.contains("action=stop_service&#38;service=nginx\"")
        );
        assert!(html.contains("&#60;b&#62;nginx master") && html.contains("/servers/a/watched\""));
        assert!(html.contains("/servers/a/watched/nginx/remove"));
        assert!(!page(Role::Operator).contains("/servers/a/watched\""));
    }

    #[test]
    fn a_reason_why_services_are_missing_stands_alone() {
        let state = Sample::named("a").gap("services", "There is no systemd.").state();
        let (viewer, query) = (viewer(Role::Viewer), ServiceQuery::default());
        let page = ServicesPage::new(&viewer, &state, &Acting::NotAllowed, None, None, &query, now());
        let html = page.render().unwrap();
        assert!(html.contains("There is no systemd.") && !html.contains("not been read yet"));
    }
}
