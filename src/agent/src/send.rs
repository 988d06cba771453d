//! One request to a central server: plain HTTP by itself, HTTPS by the curl or wget of the machine.
//!
//! std has no TLS, and an agent of its own would have to be replaced with every flaw of one. The token goes to curl or
//! wget on standard input, never in their arguments, which everybody on the machine can read.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::http::{self, Answer, Url};
use crate::text::clean;

/// Of one request, from the connection to the last byte. A central server answers in milliseconds.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// curl and wget keep [`TIME_LIMIT`] by themselves; one that does not is ended.
const HELPER_TIME_LIMIT: Duration = Duration::from_secs(25);

/// How often a helper is asked whether it has ended.
const HELPER_PAUSE: Duration = Duration::from_millis(10);

/// What of a helper's complaint is logged.
const SAID_BYTES: usize = 200;

/// Programs that know TLS, the better one first.
const HELPERS: [Helper; 2] = [Helper::Curl, Helper::Wget];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Helper {
    Curl,
    /// GNU's; that of BusyBox takes headers in its arguments only.
    Wget,
}

/// A way to a central server.
#[derive(Debug)]
pub struct Sender {
    pub url: Url,
    /// A file of ours alone for the body: a helper's standard input carries the token.
    pub body_file: PathBuf,
}

/// A POST.
#[derive(Debug, Clone, Copy)]
pub struct Post<'a> {
    /// Of the contract: begins with `/api/`.
    pub path: &'a str,
    pub token: &'a Token,
    /// JSON.
    pub body: &'a str,
}

/// A secret that can stand in a header and in the configuration of curl and wget as it is; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// 8 to 512 visible ASCII characters but quotes, backslash and `#`. `None`: it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (8..=512).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\'\\#".contains(&byte));
        valid.then(|| Self(text.to_owned()))
    }

    /// For where it is sent or kept.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("<secret>")
    }
}

impl Sender {
    /// Sends and waits for the answer, whatever its status; redirects are answers too.
    ///
    /// # Errors
    /// There was no answer. Sending again is safe to try.
    pub fn post(&self, post: &Post<'_>) -> io::Result<Answer> {
        if self.url.is_tls { self.by_helper(post) } else { self.plain(post) }
    }

    fn plain(&self, post: &Post<'_>) -> io::Result<Answer> {
        let deadline = Instant::now() + TIME_LIMIT;
        let mut stream = self.connect()?;
        let request = format!(
            "POST {}{} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{}",
            self.url.prefix,
            post.path,
            self.url.authority(),
            post.token.reveal(),
            post.body.len(),
            post.body,
        );
        stream.set_write_timeout(Some(TIME_LIMIT))?;
        // A server that refuses a body answers before it has read it; what it said counts.
        let written = stream.write_all(request.as_bytes());
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                // Somebody stopped this process and let it go on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if !bytes.is_empty() => break,
                Err(error) => return Err(written.err().unwrap_or(error)),
            }
            if bytes.len() > http::ANSWER_BYTES {
                return Err(io::Error::other("the answer is too long"));
            }
        }
        http::answer(&bytes).ok_or_else(|| io::Error::other("what came is no whole answer of HTTP"))
    }

    /// The first address that answers; names like `localhost` have two.
    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in (self.url.host.as_str(), self.url.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, TIME_LIMIT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn by_helper(&self, post: &Post<'_>) -> io::Result<Answer> {
        // Left over where a run was ended in the middle; it must be a new file, not a link to another.
        let _ = fs::remove_file(&self.body_file);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.body_file)?
            .write_all(post.body.as_bytes())?;
        let answer = self.ask_helpers(post);
        fs::remove_file(&self.body_file)?;
        answer
    }

    fn ask_helpers(&self, post: &Post<'_>) -> io::Result<Answer> {
        for helper in HELPERS {
            match helper.start(&format!("{}{}", self.url, post.path)) {
                Ok(child) => return self.converse(helper, child, post),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("https needs curl or GNU wget on this machine, and neither is there"))
    }

    fn converse(&self, helper: Helper, mut child: Child, post: &Post<'_>) -> io::Result<Answer> {
        if let Some(mut input) = child.stdin.take() {
            // A helper that ended early says why.
            let _ = input.write_all(self.configuration(helper, post).as_bytes());
        }
        let output = capture(child.stdout.take());
        let complaint = capture(child.stderr.take());
        let deadline = Instant::now() + HELPER_TIME_LIMIT;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(HELPER_PAUSE);
        }
        let output = output.and_then(|thread| thread.join().ok()).unwrap_or_default();
        let complaint = complaint.and_then(|thread| thread.join().ok()).unwrap_or_default();
        let answer = match helper {
            Helper::Curl => curl_answer(&output),
            Helper::Wget => wget_answer(&output, &complaint),
        };
        answer
            .ok_or_else(|| io::Error::other(format!("{}: {}", helper.name(), clean(&complaint, SAID_BYTES))))
    }

    /// What the helper reads on its standard input. All of it was checked to hold neither quotes, backslashes nor
    /// line breaks.
    fn configuration(&self, helper: Helper, post: &Post<'_>) -> String {
        let (url, path, token, seconds) = (&self.url, post.path, post.token.reveal(), TIME_LIMIT.as_secs());
        let body = self.body_file.display();
        match helper {
            Helper::Curl => format!(
                "url = \"{url}{path}\"\nrequest = \"POST\"\nproto = \"=https\"\nmax-time = {seconds}\nmax-redirs = 0\n\
                 silent\nshow-error\nheader = \"Authorization: Bearer {token}\"\nheader = \"Expect:\"\n\
                 header = \"Content-Type: application/json\"\ndata-binary = \"@{body}\"\n\
                 write-out = \"\\n%{{http_code}}\"\n"
            ),
            Helper::Wget => format!(
                "header = Authorization: Bearer {token}\nheader = Content-Type: application/json\n\
                 post_file = {body}\ntimeout = {seconds}\ntries = 1\nmax_redirect = 0\nserver_response = on\n\
                 content_on_error = on\noutput_document = -\n"
            ),
        }
    }
}

impl Helper {
    const fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Wget => "wget",
        }
    }

    fn start(self, url: &str) -> io::Result<Child> {
        let mut command = Command::new(self.name());
        match self {
            // -q: no file of this user's changes what is asked for.
            Self::Curl => command.args(["-q", "-K", "-"]),
            Self::Wget => command.args(["--config=/dev/stdin", url]),
        };
        for name in crate::push::SECRET_VARIABLES {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }
}

/// Reads to the end in a thread of its own, as the other pipe may fill meanwhile; what is over the limit is thrown away.
fn capture(pipe: Option<impl io::Read + Send + 'static>) -> Option<std::thread::JoinHandle<Vec<u8>>> {
    let mut pipe = pipe?;
    std::thread::Builder::new()
        .spawn(move || {
            let mut kept = Vec::new();
            let _ = pipe.by_ref().take(http::ANSWER_BYTES as u64).read_to_end(&mut kept);
            let _ = io::copy(&mut pipe, &mut io::sink());
            kept
        })
        .ok()
}

/// The body, then the status in a line of its own; 000 where there was no answer.
fn curl_answer(output: &[u8]) -> Option<Answer> {
    let end = output.iter().rposition(|&byte| byte == b'\n')?;
    let status = std::str::from_utf8(output.get(end + 1..)?).ok()?.parse().ok()?;
    (100..600).contains(&status).then_some(Answer { status, body: output.get(..end)?.to_owned() })
}

/// The body on standard output, the heads of all answers on standard error, indented by two spaces.
fn wget_answer(output: &[u8], said: &[u8]) -> Option<Answer> {
    let status = crate::text::lines(said)
        .filter_map(|line| {
            http::status_line(line.strip_prefix("  ").filter(|line| line.starts_with("HTTP/"))?)
        })
        .last()?;
    Some(Answer { status, body: output.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_curl_and_wget_print_is_status_and_body() {
        let answer = |status, body: &[u8]| Some(Answer { status, body: body.to_vec() });
        assert_eq!(curl_answer(b"{\"id\":\"a\"}\n200"), answer(200, b"{\"id\":\"a\"}"));
        assert_eq!(curl_answer(b"\n000"), None);
        assert_eq!(curl_answer(b""), None);
        let said =
            b"--2026--  https://a/\n  HTTP/1.1 100 Continue\n  HTTP/1.1 401 Unauthorized\n  Server: x\n";
        assert_eq!(wget_answer(b"{}", said), answer(401, b"{}"));
        assert_eq!(wget_answer(b"", b"Resolving... failed"), None);
    }

    #[test]
    fn tokens_that_could_leave_their_quotes_are_none() {
        assert_eq!(format!("{:?}", Token::parse("rms_0123456789abcdef").unwrap()), "<secret>");
        for wrong in
            ["", "short", "with space in it", "quote\"quote", "back\\slash", "line\nbreak-x", "häßlich-token"]
        {
            assert_eq!(Token::parse(wrong), None, "{wrong}");
        }
    }
}
