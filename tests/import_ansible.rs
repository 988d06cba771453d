//! Ansible inventories, as people have them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use roundsman::fleet::import::{Format, Plan, Planned, Surroundings, Verdict, plan};

const INI: &str = r#"# a usual inventory
mail.example.com ansible_user=postmaster

[web]
web[01:03].example.com http_port=80
special:2222 ansible_host=10.0.0.9 ansible_ssh_private_key_file=~/.ssh/special

[db]
db-[a:b] ansible_user="{{ lookup('env', 'USER') }}"

[inner]
app1 ansible_host=192.168.0.10 ansible_ssh_common_args='-o ProxyCommand="ssh -W %h:%p -q joe@gate.example.com"'
app2 ansible_host=192.168.0.11 ansible_ssh_common_args='-o ProxyCommand="tsocks nc %h %p"'

[prod:children]
web
inner

[prod:vars]
ansible_user=deploy
ansible_port=22

[web:vars]
ansible_user="www"

[local]
localhost ansible_connection=local
box ansible_connection=docker

[odd group]
"#;

const YAML: &str = r"
all:
  vars:
    ansible_user: root
    ansible_become_password: !vault |
      $ANSIBLE_VAULT;1.1;AES256
      6162
  children:
    web:
      hosts:
        web[1:2]:
          ansible_port: 2222
        secret:
          ansible_host: !vault |
            $ANSIBLE_VAULT;1.1;AES256
            6162
      vars:
        ansible_ssh_common_args: -J gate
    db:
      hosts:
        db1: {ansible_host: 10.0.0.5, ansible_user: postgres, extra: [1, 2]}
      children:
        replicas:
          hosts:
            db2:
    gates:
      hosts:
        gate:
          ansible_host: gate.example.com
    wrong:
      hosts: [a, b]
";

fn planned(text: &str) -> Plan {
    plan(text, None, &Surroundings::default())
}

fn server<'a>(plan: &'a Plan, name: &str) -> &'a Planned {
    plan.additions().map(|(_, server)| server).find(|server| server.name == name).unwrap()
}

fn verdict(plan: &Plan, line: u32) -> String {
    let found: Vec<_> =
        plan.lines.iter().filter(|entry| entry.at.line == line).map(|entry| &entry.verdict).collect();
    format!("{found:?}")
}

#[test]
fn groups_become_tags_and_their_variables_apply_from_the_outermost_in() {
    let plan = planned(INI);
    assert_eq!(plan.format, Format::AnsibleIni);
    let names: Vec<&str> = plan.additions().map(|(_, server)| server.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "mail.example.com",
            "web01.example.com",
            "web02.example.com",
            "web03.example.com",
            "special",
            "gate.example.com",
            "app1"
        ]
    );
    assert_eq!(server(&plan, "mail.example.com").username.as_deref(), Some("postmaster"));
    let web = server(&plan, "web02.example.com");
    assert_eq!(
        (web.username.as_deref(), web.tags.as_slice()),
        (Some("www"), ["prod".to_owned(), "web".to_owned()].as_slice())
    );
    let special = server(&plan, "special");
    assert_eq!((special.hostname.as_str(), special.port), ("10.0.0.9", 2222));
    let app = server(&plan, "app1");
    assert_eq!(
        (app.username.as_deref(), app.jump_host.as_deref()),
        (Some("deploy"), Some("gate.example.com"))
    );
    assert_eq!(server(&plan, "gate.example.com").username.as_deref(), Some("joe"));
}

#[test]
fn what_an_ini_inventory_cannot_say_here_is_named_on_its_line() {
    let plan = planned(INI);
    for (line, part) in [
        (9, "is a template"),
        (13, "ProxyCommand"),
        (27, "the machine itself"),
        (28, "ansible_connection=docker"),
        (30, "[odd group]"),
    ] {
        assert!(verdict(&plan, line).contains(part), "{line}: {}", verdict(&plan, line));
    }
    assert!(matches!(
        plan.lines.iter().find(|line| line.at.line == 27).unwrap().verdict,
        Verdict::Note { .. }
    ));
}

#[test]
fn a_yaml_inventory_is_the_same_with_line_numbers() {
    let plan = planned(YAML);
    assert_eq!(plan.format, Format::AnsibleYaml);
    let names: Vec<&str> = plan.additions().map(|(_, server)| server.name.as_str()).collect();
    assert_eq!(names, ["web1", "web2", "db1", "db2", "gate"]);
    let web = server(&plan, "web2");
    assert_eq!((web.port, web.jump_host.as_deref()), (2222, Some("gate")));
    assert_eq!(server(&plan, "gate").hostname, "gate.example.com");
    let db = server(&plan, "db1");
    assert_eq!((db.hostname.as_str(), db.username.as_deref()), ("10.0.0.5", Some("postgres")));
    assert_eq!(server(&plan, "db2").tags, ["db", "replicas"]);
    assert!(verdict(&plan, 13).contains("vault"), "{}", verdict(&plan, 13));
    assert!(verdict(&plan, 31).contains("has to be a map"), "{plan:#?}");
    let line = plan.lines.iter().find(|line| line.at.line == 21).unwrap();
    assert!(line.remarks.iter().any(|remark| remark.contains("ansible_become_password")), "{line:?}");
}

#[test]
fn broken_and_hostile_inventories_are_one_wrong_line_each() {
    for text in
        ["all:\n  hosts: {\n", "all:\n\tx: 1\n", "all:\n  - [\n", "---\n- a\n- b\n", "all: !!binary {x\n"]
    {
        let plan = plan(text, Some(Format::AnsibleYaml), &Surroundings::default());
        assert_eq!((plan.counts().invalid, plan.counts().add), (1, 0), "{text}: {plan:?}");
    }
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, last) in ["b", "c", "d", "e", "f", "g", "h"].iter().zip(["a", "b", "c", "d", "e", "f", "g"]) {
        bomb.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{last}"); 10].join(",")));
    }
    let plan = plan(&bomb, Some(Format::AnsibleYaml), &Surroundings::default());
    assert!(format!("{:?}", plan.lines).contains("too many values"), "{plan:?}");
}
