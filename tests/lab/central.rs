//! The central program of a test, with the API as an administrator's token sees it.

use serde_json::Value;

use super::agents::agents;
use super::{Host, PATIENCE, key_file};
use crate::program::{Done, Program, text};

/// A running `roundsman` that ends with the test.
pub(crate) struct Central {
    program: Program,
    token: String,
    http: reqwest::Client,
}

impl Central {
    pub(crate) fn start() -> Self {
        Self::of(Program::served())
    }

    /// With the agents that `scripts/build-agents.sh` has made.
    pub(crate) fn with_agents() -> Self {
        let mut program = Program::prepared();
        program.start_with(&["--agents", text(&agents())]);
        Self::of(program)
    }

    /// May act on this machine itself.
    pub(crate) fn acting_locally() -> Self {
        let mut program = Program::prepared();
        let settings = program.file("config.toml", "allow_local_actions = true\n");
        program.start_with(&["--config", text(&settings)]);
        Self::of(program)
    }

    fn of(program: Program) -> Self {
        let token = program.run(&["token", "create", "--role", "admin"]).well().stdout.trim().to_owned();
        // Only fails where another test of this process has done it.
        let _already = rustls::crypto::ring::default_provider().install_default();
        // Tests look at hosts for a while between two requests; the program closes idle connections meanwhile.
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .unwrap();
        Self { program, token, http }
    }

    /// The port of its loopback address.
    pub(crate) fn port(&self) -> u16 {
        self.program.url.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// The set-up address that the start has printed.
    pub(crate) fn setup(&self) -> String {
        let mut words = self.program.greeting.split_whitespace();
        words.rfind(|word| word.contains("/setup/")).unwrap().to_owned()
    }

    /// Where the command of a test keeps what it needs.
    pub(crate) fn file(&self, name: &str, text: &str) -> std::path::PathBuf {
        self.program.file(name, text)
    }

    /// Runs a command of the command line, whatever it ends with.
    pub(crate) fn try_cli(&self, arguments: &[&str]) -> Done {
        self.program.run(arguments)
    }

    /// Runs a command of the command line and answers its stdout; anything but exit 0 fails the test.
    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        self.program.run(arguments).well().stdout
    }

    /// Enrols a host with the lab's own key.
    #[track_caller]
    pub(crate) fn enrol(&self, host: &Host) {
        let key = key_file();
        let add = ["add", &host.address, "--name", &host.name, "--tag", "lab"];
        self.cli(&[&add[..], &["--accept-new", "--identity", text(&key)]].concat());
    }

    /// What the API answers at `path`, which must be a success.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.try_get(path).await.unwrap_or_else(|answer| panic!("GET {path}: {answer}"))
    }

    /// As [`Central::get`]; the problem where the API refuses, as with a table that was not read yet.
    pub(crate) async fn try_get(&self, path: &str) -> Result<Value, String> {
        let request = self.http.get(format!("{}{path}", self.program.url)).bearer_auth(&self.token);
        Self::answer(request).await
    }

    /// Posts JSON; the problem where the API refuses.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let request = self.http.post(format!("{}{path}", self.program.url)).bearer_auth(&self.token);
        Self::answer(request.json(body)).await
    }

    /// Any other method with JSON; the problem where the API refuses.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let method = method.parse().unwrap();
        let request =
            self.http.request(method, format!("{}{path}", self.program.url)).bearer_auth(&self.token);
        Self::answer(request.json(body)).await
    }

    /// Waits for the end of an operation that the API has begun.
    pub(crate) async fn ended(&self, begun: &Value) -> Value {
        let path = format!("/api/v1/fleet/operations/{}", begun["id"].as_str().unwrap());
        let ended = super::until("the end of an operation", async || {
            let operation = self.get(&path).await;
            (!matches!(operation["status"].as_str(), Some("pending" | "running"))).then_some(operation)
        });
        ended.await.0
    }

    async fn answer(request: reqwest::RequestBuilder) -> Result<Value, String> {
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        if status.is_success() {
            Ok(serde_json::from_str(&body).unwrap())
        } else {
            Err(format!("{status} {body}"))
        }
    }

    /// The server of a host, as the API shows it.
    pub(crate) async fn server(&self, host: &Host) -> Value {
        self.get(&format!("/api/v1/fleet/servers/{}", host.name)).await
    }
}
