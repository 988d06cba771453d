//! Agents on a lab host that a central server behind TLS with an authority of its own hears of, and one that was deployed from a
//! page.
//!
//! Run by `scripts/lab.sh test`, which builds the agent and starts the hosts.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod lab;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::Arc;

use lab::agents::Tunnel;
use lab::central::Central;
use lab::{Host, Lab, until};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const HUB_PORT: u16 = 9083;
const SERVERS: &str = "/api/v1/fleet/servers";
/// Where the lab's images have no curl, this machine's is brought along.
const CURL: &str = "/usr/local/lib/lab-curl";
const AUTHORITY: &str = "/usr/local/share/ca-certificates/lab-hub.crt";
const PASSWORD: &str = "correct horse battery staple";

/// What ends TLS in front of the central server, as nginx or Caddy do; with the authority that its certificate is by.
struct Front {
    port: u16,
    ca_pem: String,
    task: JoinHandle<()>,
}

impl Front {
    async fn of(central: &Central) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.distinguished_name.push(DnType::CommonName, "authority of the lab's hub");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let mut own = CertificateParams::new(Vec::new()).unwrap();
        own.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let certificate = own.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, behind) = (listener.local_addr().unwrap().port(), central.port());
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not trust the certificate hangs up.
                    let Ok(mut front) = acceptor.accept(socket).await else { return };
                    let mut back = TcpStream::connect((Ipv4Addr::LOCALHOST, behind)).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut front, &mut back).await);
                });
            }
        });
        Self { port, ca_pem, task }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes away what a test has brought to the host, however it ends.
struct Clean(Host);

impl Clean {
    fn of(host: &Host) -> Self {
        let clean = Self(host.clone());
        clean.sweep();
        clean
    }

    fn sweep(&self) {
        self.0.deploy_agent(&["--remove"]);
        self.0.ssh(&format!(
            "rm -rf {CURL} {AUTHORITY}; [ -L /usr/local/bin/curl ] && rm /usr/local/bin/curl; update-ca-certificates --fresh >/dev/null 2>&1; true"
        ));
    }
}

impl Drop for Clean {
    fn drop(&mut self) {
        self.sweep();
    }
}

/// The curl of this machine with its libraries, where the host has none. It finds its certificates where every program of Debian
/// does.
fn bring_curl(host: &Host) {
    if host.try_ssh("command -v curl").status.success() {
        return;
    }
    host.ssh(&format!("mkdir -p {CURL}"));
    let linked = Command::new("ldd").arg("/usr/bin/curl").output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let files = linked.split_ascii_whitespace().filter(|word| word.starts_with('/')).chain(["/usr/bin/curl"]);
    for file in files {
        let target = format!("{}:{CURL}/", host.container());
        let copied =
            Command::new("docker").args(["cp", "-L", file, &target]).stdin(Stdio::null()).output().unwrap();
        assert!(copied.status.success(), "{copied:?}");
    }
    host.ssh(&format!(
        "printf '#!/bin/sh\\nexec {CURL}/ld-linux-x86-64.so.2 --library-path {CURL} {CURL}/curl \"$@\"\\n' >{CURL}/run && \
         chmod -R a+rX {CURL} && chmod 755 {CURL}/run && ln -sf {CURL}/run /usr/local/bin/curl"
    ));
}

#[tokio::test]
async fn an_agent_reports_over_https_to_a_private_authority_and_sends_nothing_before_it_is_trusted() {
    let lab = Lab::up(1);
    let host = lab.host(1);
    let _clean = Clean::of(&host);
    bring_curl(&host);
    let central = Central::with_agents();
    let front = Front::of(&central).await;
    let _tunnel = Tunnel::from(&host, HUB_PORT, front.port);
    let token = central.cli(&["token", "create", "--scope", "enrol"]);
    let file = central.file("enrol", &token);
    let url = format!("https://127.0.0.1:{HUB_PORT}");
    let environment = [("ROUNDSMAN_URL", url.as_str()), ("ROUNDSMAN_TOKEN_FILE", file.to_str().unwrap())];
    host.deploy_agent_with(&["--mode", "push"], &environment).well();
    until("its log says that the certificate is not trusted", async || {
        host.ssh("journalctl -u roundsman-agent --no-pager").contains("certificate").then_some(())
    })
    .await;
    let path = format!("{SERVERS}/{}", host.name);
    assert!(central.try_get(&path).await.is_err(), "nobody has registered");
    // The authority comes to the host as to any other: nothing of the agent is touched.
    let pem = front.ca_pem.replace('\n', "\\n");
    host.ssh(&format!("printf '%b' '{pem}' >{AUTHORITY} && update-ca-certificates >/dev/null 2>&1"));
    until("it has registered and reports", async || {
        let server = central.try_get(&path).await.ok()?;
        (server["transport"] == "push" && server["current"]["cpu_percent"].is_number()).then_some(())
    })
    .await;
    let arguments = host.ssh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert!(!arguments.contains(token.trim()), "the token is in no process list");
}

/// A browser, as far as a form needs one.
struct Visitor {
    http: reqwest::Client,
    origin: String,
    cookie: String,
}

impl Visitor {
    /// Through the set-up address that the program has printed.
    async fn of(central: &Central) -> Self {
        let address = central.setup();
        let origin = address.split('/').take(3).collect::<Vec<_>>().join("/");
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        let form = format!("username=admin&password={0}&password_again={0}", PASSWORD.replace(' ', "+"));
        let answer = http
            .post(&address)
            .header("origin", &origin)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await
            .unwrap();
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        Self { http, origin, cookie }
    }

    async fn page(&self, path: &str) -> String {
        let request = self.http.get(format!("{}{path}", self.origin)).header("cookie", &self.cookie);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.unwrap()
    }

    /// Sends the only form of a page that leads to `action`, as it stands; where it leads.
    async fn send(&self, page: &str, action: &str) -> String {
        let form = page.split("<form").find(|form| form.contains(&format!("action=\"{action}\""))).unwrap();
        let form = form.split("</form>").next().unwrap();
        let attribute = |field: &str, name: &str| {
            field
                .split(&format!("{name}=\""))
                .nth(1)?
                .split('"')
                .next()
                .map(|text| text.replace("&#38;", "&"))
        };
        let fields = form.split("<input").skip(1).filter_map(|field| {
            let (name, value) = (attribute(field, "name")?, attribute(field, "value")?);
            let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            Some(format!("{name}={value}"))
        });
        let body = fields.collect::<Vec<_>>().join("&");
        let answer = self
            .http
            .post(format!("{}{action}", self.origin))
            .header("cookie", &self.cookie)
            .header("origin", &self.origin)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 303, "{}", answer.text().await.unwrap());
        answer.headers()["location"].to_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn the_page_of_a_lab_host_deploys_the_agent_and_removes_it() {
    let lab = Lab::up(1);
    let host = lab.host(1);
    let _clean = Clean::of(&host);
    let central = Central::with_agents();
    central.enrol(&host);
    let visitor = Visitor::of(&central).await;
    let configuration = format!("/servers/{}/configuration", host.name);
    let shows = async |words: &str| {
        until(words, async || visitor.page(&configuration).await.contains(words).then_some(())).await;
    };
    shows("Readings come from the shell probe").await;
    let act = format!("/servers/{}/act", host.name);
    for (link, words) in [
        ("action=deploy_agent&amp;mode=stream", "Readings come from the agent"),
        ("action=remove_agent", "Readings come from the shell probe"),
    ] {
        let page = visitor.page(&configuration).await;
        assert!(page.contains(link), "the page offers {link}");
        let asked = visitor.page(&format!("{act}?{}", link.replace("&amp;", "&"))).await;
        let operation = visitor.send(&asked, &act).await;
        assert!(operation.starts_with("/operations/"), "{operation}");
        let id = operation.trim_start_matches("/operations/").to_owned();
        let ended = central.ended(&serde_json::json!({ "id": id })).await;
        assert_eq!(ended["status"], "completed", "{ended}");
        shows(words).await;
    }
    assert_eq!(host.traces_of_agents(), "");
}
