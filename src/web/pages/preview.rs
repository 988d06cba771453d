//! Writes every page with realistic values into a folder, to be looked at in a browser.
//!
//! `ROUNDSMAN_PREVIEW=DIR cargo nextest run preview`, then serve DIR with any static file server. Without the
//! variable it goes to a temporary folder, which proves that every page renders with every kind of value.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use askama::Template;

use super::bulk::{BulkPage, Deed};
use super::charts::{ChartQuery, ChartsPage, Choosable};
use super::custom_metrics::{CustomMetricForm, CustomMetricPage, CustomMetricsPage};
use super::dependencies::DependenciesPage;
use super::doors::{ErrorPage, LoginPage, SetupPage};
use super::enrol::{EnrolForm, EnrolPage, Preflight};
use super::fleet::{FleetPage, FleetQuery};
use super::groups::{GroupForm, GroupFormPage, GroupPage, GroupsPage};
use super::host_keys::{HostKeyQuery, HostKeysPage, KnownHostsForm};
use super::import::{ImportForm, ImportPage, ProgressPage};
use super::keys::{KeyForms, KeyPage, KeysPage};
use super::operation::OperationPage;
use super::operation_form::{OperationForm, Step};
use super::operation_kinds::KINDS;
use super::operation_look::Look;
use super::operation_new::{NewOperationPage, Preview};
use super::operation_where::WhereForm;
use super::operations::{ListQuery, OperationsPage};
use super::remote::Pager;
use super::report::ReportPage;
use super::samples::{
    Sample, container_table, custom_metric, custom_states, dependencies, group, host_keys, key_detail,
    known_hosts, large_fleet, now, operation, preflight, processes, record, seconds_ago, services, settings,
    small_fleet, summary, task, task_runs, trial, user_table, viewer,
};
use super::server::{
    Acting, Asked, CommandForm, CommandsPage, ConfigurationForm, ConfigurationPage, ConfirmPage,
    ContainerQuery, ContainersPage, FactsPage, HostKey, HostKeys, MetricsPage, OverviewPage, ProcessQuery,
    ProcessesPage, ServiceQuery, ServicesPage, UsersPage,
};
use super::settings::{SettingsData, SettingsPage};
use super::task_form::{TaskFormPage, empty_form, form_of};
use super::tasks::{TaskPage, TasksPage};
use super::{KeptKey, Notice, NoticeKind};
use crate::actions::Action;
use crate::fleet::import::{ImportState, ItemState, JobItem, Place, Plan, Progress, Surroundings, plan};
use crate::fleet::{DependencyInput, DependencyView, GroupView, ServerState, UpdateState, WatchedHere};
use crate::model::{Colour, Health, Role, ServiceVerb, Signal, TargetStatus, TaskId, Updates};
use crate::web::assets;

/// Every rendered page, with what must hold for all of them checked.
struct Folder(PathBuf);

impl Folder {
    fn page(&self, name: &str, page: &impl Template) {
        let html = page.render().unwrap();
        assert!(
            !html.contains("<script>") && !html.contains(" style=") && !html.contains(" onclick"),
            "{name}"
        );
        assert!(html.contains("<h1") || html.contains("server-head"), "{name}");
        for form in html.split("<form").skip(1).filter(|form| form.contains("method=\"post\"")) {
            assert!(form.contains("name=\"csrf_token\""), "{name}: a form without a token");
        }
        for name_of_icon in html.split("href=\"#i-").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(html.contains(&format!("id=\"i-{name_of_icon}\"")), "{name}: no icon {name_of_icon}");
        }
        let mut ids: Vec<&str> =
            html.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{name}: an id stands twice");
        let base = assets::base();
        fs::write(self.0.join(format!("{name}.html")), html.replace(base, "/static")).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn key(fingerprint: &str) -> HostKey {
    HostKey {
        algorithm: "ssh-ed25519".to_owned(),
        fingerprint: format!("SHA256:{fingerprint}"),
        line: format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{fingerprint}"),
    }
}

fn fleet_pages(folder: &Folder) {
    let admin = viewer(Role::Admin);
    let fleet = |servers: &[ServerState], query: &[(&str, &str)]| {
        let query = FleetQuery::from_pairs(query.iter().copied());
        FleetPage::new(&admin, servers, &summary(servers), &query, now())
    };
    let small = small_fleet();
    let large = large_fleet(1000);
    folder.page("fleet", &fleet(&small, &[]));
    folder.page("fleet-table", &fleet(&small, &[("view", "table"), ("sort", "cpu")]));
    folder.page("fleet-filtered", &fleet(&small, &[("region", "Helsinki"), ("tag", "web")]));
    folder.page("report", &ReportPage::new(&admin, &small, &[], now()));
    folder.page("report-large", &ReportPage::new(&admin, &large, &[], now()));
    folder.page("fleet-empty", &fleet(&[], &[]));
    folder.page("fleet-large", &fleet(&large, &[]));
    folder.page("fleet-large-table", &fleet(&large, &[("view", "table")]));
    folder.page("fleet-hostile", &fleet(&[Sample::named("evil").hostile().state()], &[]));
    folder.page(
        "fleet-hostile-table",
        &fleet(&[Sample::named("evil").hostile().state()], &[("view", "table")]),
    );
}

fn overview_pages(folder: &Folder) {
    let keys = HostKeys { pinned: Some(key("nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8")), offered: None };
    let changed =
        HostKeys { offered: Some(key("uNiVztksCsDhcc0u9e8BrooFoMgS0tTjTP5mxGp1sGY")), ..keys.clone() };
    let overview =
        |state: &ServerState, keys: &HostKeys| OverviewPage::new(&viewer(Role::Admin), state, keys, now());
    let usual = Sample::named("web-2")
        .region("Frankfurt")
        .tag("web")
        .tag("nginx")
        .gap("services", "The login shell's user may not ask systemd; add it to the group systemd-journal.");
    folder.page("overview", &overview(&usual.state(), &keys));
    let critical = Sample::named("db-primary")
        .region("Frankfurt")
        .health(Health::Critical, "Filesystem /srv/data is 93% full.")
        .health(Health::Critical, "Service postgresql has failed.");
    folder.page("overview-critical", &overview(&critical.state(), &changed));
    let down = Sample::named("db-replica").unreachable(
        "Connection refused on port 22; is sshd running, and does a firewall block 203.0.113.9?",
    );
    folder.page("overview-unreachable", &overview(&down.state(), &keys));
    folder.page("overview-unread", &overview(&Sample::named("new").unread().state(), &HostKeys::default()));
    folder.page("overview-forty", &overview(&Sample::named("nas").filesystem_count(40).state(), &keys));
    folder.page("overview-hostile", &overview(&Sample::named("evil").hostile().state(), &keys));
}

fn tab_pages(folder: &Folder) {
    let admin = viewer(Role::Admin);
    let state = Sample::named("web-2").region("Frankfurt").tag("web").tag("nginx").state();
    let keys = HostKeys {
        pinned: Some(key("nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8")),
        offered: Some(key("uNiVztksCsDhcc0u9e8BrooFoMgS0tTjTP5mxGp1sGY")),
    };
    let query = ProcessQuery::default();
    let charts = |text: &str| {
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(text).unwrap();
        ChartQuery::from_pairs(pairs)
    };
    let page = |text: &str| {
        MetricsPage::new(&admin, &state, &charts(text), &[], vec!["web-3".to_owned()], &[], now())
    };
    folder.page("metrics", &page(""));
    folder.page("metrics-compared", &page("with=web-3,db-1&compare=day&layout=multiples&range=7d"));
    folder.page("metrics-table", &page("view=table"));
    for (name, text) in [("charts", ""), ("charts-servers", "server=web-2,web-3&metric=load1")] {
        folder.page(name, &ChartsPage::new(&admin, &charts(text), &Choosable::default(), 3, now()));
    }
    folder.page(
        "processes",
        &ProcessesPage::new(
            &admin,
            &state,
            &Acting::Possible,
            Some(&processes()),
            Some(seconds_ago(4)),
            &query,
            now(),
        ),
    );
    folder.page(
        "processes-unread",
        &ProcessesPage::new(&admin, &state, &Acting::Possible, None, None, &query, now()),
    );
    let tree = ProcessQuery { tree: true, ..ProcessQuery::default() };
    let read = Some(seconds_ago(4));
    folder.page(
        "processes-tree",
        &ProcessesPage::new(&admin, &state, &Acting::Possible, Some(&processes()), read, &tree, now()),
    );
    people_and_facts_pages(folder, &state);
    let query = ServiceQuery::default();
    folder.page(
        "services",
        &ServicesPage::new(
            &admin,
            &state,
            &Acting::Possible,
            Some(&services()),
            Some(seconds_ago(4)),
            &query,
            now(),
        ),
    );
    folder.page(
        "containers",
        &ContainersPage::new(
            &admin,
            &state,
            &Acting::Possible,
            Ok(&container_table()),
            &ContainerQuery::default(),
            ("", &[]),
            now(),
        ),
    );
    custom_metric_pages(folder);
    let configuration = |role: Role, keys: &HostKeys| {
        let form = ConfigurationForm::of(&state);
        ConfigurationPage::new(&viewer(role), &state, keys, &[], &form, &[], now())
    };
    folder.page("configuration", &configuration(Role::Admin, &keys));
    folder.page("configuration-viewer", &configuration(Role::Viewer, &HostKeys { offered: None, ..keys }));
}

fn people_and_facts_pages(folder: &Folder, state: &ServerState) {
    let admin = viewer(Role::Admin);
    folder.page("users", &UsersPage::new(&admin, state, Some(&user_table()), now()));
    folder.page("users-unread", &UsersPage::new(&admin, &Sample::named("new").unread().state(), None, now()));
    let mut known = state.clone();
    let updates = Updates { manager: "apt".to_owned(), pending: Some(12), security: Some(3) };
    known.updates = Some(Arc::new(UpdateState { taken_at: seconds_ago(900), updates }));
    (known.cpu_limit_x1000, known.memory_limit_bytes) = (Some(1500), Some(512 << 20));
    folder.page("facts", &FactsPage::new(&admin, &known, now()));
    folder.page("facts-hostile", &FactsPage::new(&admin, &Sample::named("evil").hostile().state(), now()));
    known.watched = Arc::new([WatchedHere {
        name: "nginx".to_owned(),
        keywords: vec!["nginx".to_owned(), "master process".to_owned()],
        verbs: vec![ServiceVerb::Restart, ServiceVerb::Stop, ServiceVerb::Start],
    }]);
    let query = ServiceQuery::default();
    let acting = Acting::Possible;
    let page =
        ServicesPage::new(&admin, &known, &acting, Some(&services()), Some(seconds_ago(4)), &query, now());
    folder.page("services-watched", &page);
}

fn acting_pages(folder: &Folder) {
    use TargetStatus::{Cancelled, Failed, Pending, Sent, Succeeded, Unknown, Unreachable};
    let admin = viewer(Role::Admin);
    let state = Sample::named("web-2").region("Frankfurt").tag("web").state();
    let (all, usages) = (services(), processes());
    let confirm = |action: &Action, command: Result<&str, &str>| {
        let asked = Asked {
            action,
            command: command.map(ToOwned::to_owned).map_err(ToOwned::to_owned),
            process: usages.iter().find(|usage| usage.process.pid == 812),
            service: all.iter().find(|service| service.name == "nginx"),
        };
        ConfirmPage::new(&admin, &state, Some(&asked), now())
    };
    let start = usages.iter().find(|usage| usage.process.pid == 812).unwrap().process.start_ticks;
    let kill = Action::kill_process(812, start, Signal::Kill).unwrap();
    let stop = Action::service("nginx", ServiceVerb::Stop).unwrap();
    folder.page("confirm-kill", &confirm(&kill, Ok("kill -s KILL 812")));
    folder.page("confirm-stop", &confirm(&stop, Ok("systemctl stop -- nginx.service")));
    folder.page("confirm-impossible", &confirm(&stop, Err("No service manager is known on this server.")));
    let reboot = Action::parse("reboot", |_| None).unwrap();
    folder.page("confirm-reboot", &confirm(&reboot, Ok("systemctl reboot")));
    let named = |name: &str| (name == "container").then(|| "billing-db".to_owned());
    let remove = Action::parse("remove_container", named).unwrap();
    folder.page("confirm-container", &confirm(&remove, Ok("docker rm billing-db")));
    folder.page("confirm-not-understood", &ConfirmPage::new(&admin, &state, None, now()));
    let commands = |acting: Acting, form: CommandForm| {
        CommandsPage::new(
            &admin,
            &state,
            (acting, false),
            form,
            &[record("web-2")],
            Pager::of(Some("2")),
            now(),
        )
    };
    folder.page("commands", &commands(Acting::Possible, CommandForm::default()));
    folder.page(
        "commands-impossible",
        &commands(Acting::Impossible("It is inactive.".to_owned()), CommandForm::default()),
    );
    let every = [Succeeded, Failed, Unreachable, Unknown, Cancelled, Sent, Pending];
    folder.page("operation", &OperationPage::new(&admin, &operation(&every), &Look::default(), now()));
    folder.page(
        "operation-one",
        &OperationPage::new(&admin, &operation(&[Succeeded]), &Look::default(), now()),
    );
    let mut brought = operation(&[Succeeded, Succeeded, Failed]);
    brought.operation.kind = "collect_diagnostics".to_owned();
    brought.operation.parameters = serde_json::json!({ "script": "#!/bin/sh\necho a script", "sudo": true });
    folder.page("operation-diagnostics", &OperationPage::new(&admin, &brought, &Look::default(), now()));
    let mut many = operation(&every.repeat(5));
    for (number, target) in (0_u32..).zip(&mut many.targets) {
        target.target.batch = number / 6;
    }
    let mut look = Look::default();
    look.open([2, 5].into_iter());
    folder.page("operation-many", &OperationPage::new(&admin, &many, &look, now()));
    folder.page(
        "operations-empty",
        &OperationsPage::new(&admin, &[], &ListQuery::default(), Pager::of(None), now()),
    );
    folder.page(
        "operations",
        &OperationsPage::new(&admin, &[operation(&every)], &ListQuery::default(), Pager::of(None), now()),
    );
}

fn other_pages(folder: &Folder) {
    let admin = viewer(Role::Admin);
    let kept = [KeptKey {
        id: "default".to_owned(),
        name: "default".to_owned(),
        public_key: settings().public_key.unwrap(),
    }];
    let form = EnrolForm::from_pairs([
        ("hostname", "root@web-1.example.net"),
        ("identity", "password"),
        ("tags", "web"),
    ]);
    let enrol =
        |form: &EnrolForm, found: Option<&Preflight>| EnrolPage::new(&admin, form, &[], &kept, found, now());
    folder.page("enrol", &enrol(&EnrolForm::default(), None));
    folder.page("enrol-approve", &enrol(&form, Some(&preflight(true))));
    folder.page("enrol-failed", &enrol(&form, Some(&preflight(false))));
    folder.page("settings", &SettingsPage::new(&admin, &settings(), now()));
    let made = SettingsData { new_token: Some("rm_9f3c1b0a6d7e4f52_Yk3vQmZ1".to_owned()), ..settings() };
    folder.page("settings-token", &SettingsPage::new(&admin, &made, now()));
}

fn import_pages(folder: &Folder) {
    let admin = viewer(Role::Admin);
    let text = "root@10.0.0.1 name=web-1 tags=web,eu\ndeploy@10.0.0.2:2222 jump=gate.example.com tags=\"db servers\"\n10.0.0.1\nbad:0\n\
                10.0.0.3 identity=/home/joe/.ssh/work proxy=socks5://proxy:1080\n";
    let form = ImportForm { text: text.to_owned(), unchecked: true, ..ImportForm::default() };
    let page = |form: &ImportForm, plan: Option<&Plan>| ImportPage::new(&admin, form, plan, now());
    folder.page("import", &page(&ImportForm::default(), None));
    folder.page("import-plan", &page(&form, Some(&plan(&form.text, None, &Surroundings::default()))));
    let config = "Include work\nHost gate\n  ForwardAgent yes\nHost inner\n  ProxyJump gate\nHost tor\n  ProxyCommand torsocks %h\n";
    let form = ImportForm { text: config.to_owned(), ..ImportForm::default() };
    folder.page("import-ssh-config", &page(&form, Some(&plan(&form.text, None, &Surroundings::default()))));
    for (name, state) in [("import-running", ImportState::Running), ("import-done", ImportState::Completed)] {
        folder.page(name, &ProgressPage::new(&admin, &import_progress(state), now()));
    }
}

fn import_progress(state: ImportState) -> Progress {
    let server_id = Sample::named("web-1").state().server.id;
    let item = |line: u32, name: &str, state: ItemState| JobItem {
        at: Place { file: None, line },
        name: name.to_owned(),
        address: format!("root@{name}.example.com:22"),
        state,
    };
    let failed = ItemState::Failed {
        message: "10.0.0.3:22 cannot be reached, TCP: the connection was refused: nothing listens there."
            .to_owned(),
        fingerprint: None,
    };
    let last =
        if state == ImportState::Running { ItemState::Waiting } else { ItemState::Unchecked { server_id } };
    let items = vec![
        item(1, "web-1", ItemState::Added { server_id }),
        item(2, "db-1", failed),
        item(4, "db-2", last),
    ];
    let unchecked = usize::from(state == ImportState::Completed);
    Progress {
        id: "018f".to_owned(),
        state,
        started_at: now(),
        total: 3,
        added: 1,
        unchecked,
        failed: 1,
        items,
    }
}

fn key_pages(folder: &Folder) {
    let (admin, detail) = (viewer(Role::Admin), key_detail());
    let mut weak = detail.key.clone();
    "id_rsa of the old laptop that nobody wanted to throw away".clone_into(&mut weak.name);
    "ssh-rsa".clone_into(&mut weak.algorithm);
    (weak.bits, weak.is_default, weak.certificate) = (Some(1024), false, None);
    weak.weakness = Some("an RSA key of 1024 bits can be broken; 2048 are the least".to_owned());
    let keys = [detail.key.clone(), weak.clone()];
    let forms = KeyForms::default();
    folder.page("keys", &KeysPage::new(&admin, &keys, Some(&detail), &forms, now()));
    folder.page("key", &KeyPage::new(&admin, &detail, &keys, &forms, now()));
    let known = KnownHostsForm::default();
    let query = HostKeyQuery::default();
    folder.page(
        "host-keys",
        &HostKeysPage::new(&admin, &host_keys(), (&known_hosts(), 2), &query, &known, now()),
    );
    folder.page("host-keys-empty", &HostKeysPage::new(&admin, &[], (&[], 0), &query, &known, now()));
    let unused = crate::fleet::KeyDetail { key: weak, used_by: Vec::new(), unfinished: Vec::new(), ..detail };
    folder.page("key-unused", &KeyPage::new(&admin, &unused, &keys, &forms, now()));
}

fn task_pages(folder: &Folder) {
    let admin = viewer(Role::Admin);
    let mut other = task();
    other.task.id = TaskId::new(uuid::Uuid::from_u128(2));
    folder.page("tasks", &TasksPage::new(&admin, &[task(), other], now()));
    folder.page("tasks-viewer", &TasksPage::new(&viewer(Role::Viewer), &[task()], now()));
    folder.page("tasks-empty", &TasksPage::new(&admin, &[], now()));
    folder.page("task", &TaskPage::new(&admin, &task(), &task_runs(), Pager::of(None), now()));
    folder.page("task-form", &TaskFormPage::new(&admin, None, &empty_form(), (&[], &[]), &[], now()));
    let named = Some(("7".to_owned(), "nightly".to_owned()));
    let known = crate::tasks::preview("@daily", "UTC", now()).ok();
    folder.page(
        "task-edit",
        &TaskFormPage::new(&admin, named, &form_of(&task()), (&small_fleet(), &[]), &[], now())
            .previewed(known),
    );
}

fn group_pages(folder: &Folder) {
    let admin = viewer(Role::Admin);
    let servers = small_fleet();
    let groups = [group("front", Colour::Blue, false), group("db", Colour::Amber, true)];
    let views: Vec<GroupView> =
        groups.iter().map(|group| GroupView { group: group.clone(), summary: summary(&servers) }).collect();
    folder.page("groups", &GroupsPage::new(&admin, &views, &servers, now()));
    folder.page("groups-viewer", &GroupsPage::new(&viewer(Role::Viewer), &views, &servers, now()));
    folder.page("groups-empty", &GroupsPage::new(&admin, &[], &servers, now()));
    for view in &views {
        let name = view.group.name.as_str();
        folder.page(&format!("group-{name}"), &GroupPage::new(&admin, view, &servers, &servers, now()));
        let form = GroupForm::of(&view.group);
        folder
            .page(&format!("group-form-{name}"), &GroupFormPage::new(&admin, Some(name), &form, &[], now()));
    }
    folder.page("group-form", &GroupFormPage::new(&admin, None, &GroupForm::default(), &[], now()));
    let input = DependencyInput::default();
    let page = |found: &[DependencyView]| DependenciesPage::new(&admin, found, (&input, &[]), now());
    folder.page("dependencies", &page(&dependencies()));
    folder.page("dependencies-empty", &page(&[]));
    for deed in Deed::ALL {
        let page = BulkPage::new(&admin, deed, &servers, now()).with_groups(["front".to_owned()].into_iter());
        folder.page(&format!("bulk-{}", deed.name()), &page);
    }
    let failed = vec![("web-1".to_owned(), "it is a jump host".to_owned())];
    folder.page("bulk-failed", &BulkPage::new(&admin, Deed::Remove, &[], now()).with_failed(failed));
}

/// Each step of a new operation, of each kind where it differs.
fn wizard_pages(folder: &Folder) {
    let admin = viewer(Role::Admin);
    let servers = small_fleet();
    let groups = [group("front", Colour::Blue, false), group("db", Colour::Amber, true)];
    let views: Vec<GroupView> =
        groups.iter().map(|group| GroupView { group: group.clone(), summary: summary(&servers) }).collect();
    let pairs =
        [("operation_type", "stop_service"), ("service", "nginx"), ("group", "front"), ("batches", "1,10%")];
    let form = OperationForm::of(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
    let reason = |state: &ServerState| {
        (state.clone(), (state.health == Health::Unreachable).then(|| "There is no connection.".to_owned()))
    };
    let chosen: Vec<(ServerState, Option<String>)> = servers.iter().map(reason).collect();
    let page = |step, kind| NewOperationPage::new(&admin, step, &form, kind, now());
    let kind = KINDS.iter().find(|kind| kind.word == "stop_service");
    folder.page("wizard-action", &page(Step::Action, kind));
    let asking = page(Step::Targets, kind).asking_where(WhereForm::new(&form, &servers, &views));
    folder.page("wizard-targets", &asking.clone().with_preview(Preview::of(&chosen)));
    folder.page(
        "wizard-targets-wrong",
        &asking.with_preview(Preview::refused("There is no group 'x'.".to_owned())),
    );
    for kind in KINDS {
        let page = page(Step::Parameters, Some(kind)).with_preview(Preview::of(&chosen));
        folder.page(&format!("wizard-{}", kind.word), &page.asking_details(&form, kind, &[]));
    }
    folder.page("wizard-how", &page(Step::Strategy, kind).asking_how(&form, &[]));
}

fn custom_metric_pages(folder: &Folder) {
    let (admin, metric) = (viewer(Role::Admin), custom_metric());
    let tried = CustomMetricForm { trial: Some(trial()), ..CustomMetricForm::of(&metric) };
    let (one, none) = ([(metric.clone(), 2, 1)], CustomMetricForm::empty());
    folder.page("custom-metrics", &CustomMetricsPage::new(&admin, &one, &none, now()));
    folder.page("custom-metrics-empty", &CustomMetricsPage::new(&admin, &[], &none, now()));
    folder.page("custom-metric", &CustomMetricPage::new(&admin, &metric, &custom_states(), &tried, now()));
}

fn door_pages(folder: &Folder) {
    let problem =
        Notice { kind: NoticeKind::Problem, text: "The user name or the password is wrong.".to_owned() };
    folder.page("login", &LoginPage::new("token", "", "/", None));
    folder.page("login-refused", &LoginPage::new("token", "admin", "/", Some(problem)));
    folder.page("setup", &SetupPage::new("token", "s3cret", "", 12, None));
    folder.page(
        "error",
        &ErrorPage::new(
            404,
            "There is no server named “web-9”.",
            "It may have been removed or renamed. The fleet page lists every server that you may see.",
        ),
    );
}

#[test]
fn preview_every_page_renders_without_inline_script_or_style() {
    let kept = std::env::var_os("ROUNDSMAN_PREVIEW").map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder(kept.unwrap_or_else(|| temporary.path().to_owned()));
    copy_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("static"), &folder.0.join("static"));
    fleet_pages(&folder);
    overview_pages(&folder);
    tab_pages(&folder);
    acting_pages(&folder);
    other_pages(&folder);
    key_pages(&folder);
    import_pages(&folder);
    group_pages(&folder);
    task_pages(&folder);
    wizard_pages(&folder);
    door_pages(&folder);
}
