//! A day of faults in seconds: the clock, the server and the network between are scripted in the test's own process.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roundsman::model::Port;
use roundsman::ssh::{ExecRequest, HostKey, Identity, Session, SessionState, Target, keys};
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

/// The clock moves by this much, then everything that is due is done. Below every time limit that counts here.
const STEP: Duration = Duration::from_secs(2);
const FINE_STEP: Duration = Duration::from_millis(40);
/// Turns that everybody gets after a step: a question and its answer take about ten.
const TURNS: usize = 40;
const READ_EVERY: Duration = Duration::from_secs(30);

/// What happens to the connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing comes through any longer, and nobody is told.
    Silence,
    Cut,
}

/// The server and its network, as the script wants them.
struct World {
    faults: broadcast::Sender<Fault>,
    /// New connections are closed at once.
    down: AtomicBool,
    /// New connections get no answer.
    silent: AtomicBool,
    key_is_wrong: AtomicBool,
    sessions: AtomicUsize,
    accepted: AtomicUsize,
    refused: AtomicUsize,
}

struct Server {
    world: Arc<World>,
    open: Arc<Mutex<HashSet<ChannelId>>>,
}

impl Server {
    fn end(&self, channel: ChannelId, session: &mut russh::server::Session) -> Result<(), russh::Error> {
        self.open.lock().unwrap().remove(&channel);
        session.exit_status_request(channel, 0)?;
        session.eof(channel)?;
        session.close(channel)
    }
}

/// The word that a shell would print for `echo HEAD''TAIL`, the first in the script.
fn marker(line: &str) -> String {
    let (_, after) = line.split_once("echo ").unwrap();
    after.split(' ').next().unwrap().chars().filter(char::is_ascii_alphanumeric).collect()
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let wrong = self.world.key_is_wrong.load(Ordering::Relaxed);
        let count = if wrong { &self.world.refused } else { &self.world.accepted };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(if wrong { Auth::reject() } else { Auth::Accept })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut russh::server::Session,
    ) -> Result<(), Self::Error> {
        let full = self.open.lock().unwrap().len() >= self.world.sessions.load(Ordering::Relaxed);
        if full {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
        } else {
            self.open.lock().unwrap().insert(channel.id());
            reply.accept().await;
        }
        Ok(())
    }

    /// A command ends at once; what reads its input repeats it.
    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut russh::server::Session,
    ) -> Result<(), Self::Error> {
        let line = String::from_utf8_lossy(data).into_owned();
        session.channel_success(channel)?;
        session.data(channel, format!("{} 4242\n", marker(&line)))?;
        if !line.contains("exec cat") {
            session.extended_data(channel, 1, format!("{}\n", marker(&line)))?;
            self.end(channel, session)?;
        }
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut russh::server::Session,
    ) -> Result<(), Self::Error> {
        session.data(channel, data.to_vec())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut russh::server::Session,
    ) -> Result<(), Self::Error> {
        self.open.lock().unwrap().remove(&channel);
        Ok(())
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        session: &mut russh::server::Session,
    ) -> Result<(), Self::Error> {
        let is_open = self.open.lock().unwrap().contains(&channel);
        if is_open { self.end(channel, session) } else { Ok(()) }
    }
}

/// Carries one connection until a fault hits it.
async fn carry(mut socket: TcpStream, world: Arc<World>, config: Arc<russh::server::Config>) {
    let mut faults = world.faults.subscribe();
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let server = Server { world, open: Arc::default() };
    tokio::spawn(async move {
        if let Ok(running) = russh::server::run_stream(config, far, server).await {
            drop(running.await);
        }
    });
    let fault = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut socket, &mut near) => return,
        fault = faults.recv() => fault.unwrap(),
    };
    if fault == Fault::Silence {
        while faults.recv().await != Ok(Fault::Cut) {}
    }
}

async fn serve(listener: TcpListener, world: Arc<World>, config: Arc<russh::server::Config>) {
    while let Ok((socket, _)) = listener.accept().await {
        socket.set_nodelay(true).unwrap();
        if world.down.load(Ordering::Relaxed) {
            drop(socket);
        } else if world.silent.load(Ordering::Relaxed) {
            let mut faults = world.faults.subscribe();
            tokio::spawn(async move {
                while faults.recv().await != Ok(Fault::Cut) {}
                drop(socket);
            });
        } else {
            tokio::spawn(carry(socket, Arc::clone(&world), Arc::clone(&config)));
        }
    }
}

/// Reads as a poller does.
async fn read_for_ever(session: Session, readings: Arc<AtomicUsize>) {
    let mut state = session.state();
    loop {
        let Ok(connection) = session.connection().await else {
            state.changed().await.unwrap();
            continue;
        };
        let Ok(mut stream) = connection.open_readings("exec cat").await else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        loop {
            let round = async {
                stream.write_all(b"x").await?;
                stream.read_u8().await
            };
            match tokio::time::timeout(Duration::from_secs(15), round).await {
                Ok(Ok(_)) => readings.fetch_add(1, Ordering::Relaxed),
                Ok(Err(_)) => break,
                Err(_) => {
                    connection.kill();
                    break;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(READ_EVERY) => {}
                () = connection.readings_are_to_give_way() => break,
                () = connection.closed() => break,
            }
        }
        drop(stream);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

struct Day {
    world: Arc<World>,
    session: Session,
    readings: Arc<AtomicUsize>,
    began: tokio::time::Instant,
    breaks: usize,
}

impl Day {
    async fn begin() -> Self {
        let (host_private, host_line) = keys::generate_ed25519("host").unwrap();
        let methods: &[MethodKind] = &[MethodKind::PublicKey];
        let config = Arc::new(russh::server::Config {
            keys: vec![russh::keys::decode_secret_key(host_private.expose(), None).unwrap()],
            methods: MethodSet::from(methods),
            auth_rejection_time: Duration::ZERO,
            inactivity_timeout: None,
            ..russh::server::Config::default()
        });
        let world = Arc::new(World {
            faults: broadcast::Sender::new(16),
            down: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            key_is_wrong: AtomicBool::new(false),
            sessions: AtomicUsize::new(10),
            accepted: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::of(i64::from(listener.local_addr().unwrap().port())).unwrap();
        tokio::spawn(serve(listener, Arc::clone(&world), config));
        let identity = Identity::Key(keys::generate_ed25519("client").unwrap().0);
        let target = Target {
            pinned: Some(HostKey::parse(&host_line).unwrap()),
            ..Target::new("127.0.0.1", port, "root", identity)
        };
        let session = Session::start(target, Arc::new(Semaphore::new(64)), CancellationToken::new());
        let readings = Arc::new(AtomicUsize::new(0));
        tokio::spawn(read_for_ever(session.clone(), Arc::clone(&readings)));
        Self { world, session, readings, began: tokio::time::Instant::now(), breaks: 0 }
    }

    fn is_ready(&self) -> bool {
        matches!(&*self.session.state().borrow(), SessionState::Ready { .. })
    }

    /// Whether an attempt is under way that is going to be answered: the clock stands still for it.
    fn is_dialling(&self) -> bool {
        let connecting = matches!(&*self.session.state().borrow(), SessionState::Connecting { .. });
        connecting && !self.world.silent.load(Ordering::Relaxed)
    }

    async fn step(&self, step: Duration) {
        tokio::time::advance(step).await;
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        let patience = std::time::Instant::now() + Duration::from_secs(30);
        while self.is_dialling() {
            assert!(std::time::Instant::now() < patience, "an attempt hangs: {:?}", self.session);
            tokio::task::yield_now().await;
        }
    }

    async fn pass(&self, span: Duration) {
        let until = tokio::time::Instant::now() + span;
        while tokio::time::Instant::now() < until {
            self.step(STEP).await;
        }
    }

    /// Time passes in which nothing breaks: readings come, and so does the answer of a command.
    async fn quiet(&self, span: Duration) {
        let before = self.readings.load(Ordering::Relaxed);
        self.pass(span).await;
        assert!(self.is_ready(), "{:?}", self.session);
        let expected = usize::try_from(span.as_secs() / READ_EVERY.as_secs()).unwrap() / 2;
        let came = self.readings.load(Ordering::Relaxed) - before;
        assert!(came >= expected, "{came} readings in {span:?}");
        let connection = self.session.connection().await.unwrap();
        let command = tokio::spawn(async move { connection.exec(ExecRequest::new("true")).await });
        let until = tokio::time::Instant::now() + Duration::from_mins(1);
        while !command.is_finished() && tokio::time::Instant::now() < until {
            self.step(FINE_STEP).await;
        }
        assert!(command.is_finished(), "a command hangs");
        assert!(command.await.unwrap().unwrap().success());
    }

    /// A fault hits the open connection.
    fn strike(&mut self, fault: Fault) {
        self.breaks += 1;
        self.world.faults.send(fault).unwrap();
    }

    async fn restart(&mut self, down_for: Duration) {
        self.world.down.store(true, Ordering::Relaxed);
        self.strike(Fault::Cut);
        self.pass(down_for).await;
        assert!(!self.is_ready());
        self.world.down.store(false, Ordering::Relaxed);
        // As long as the longest wait between two attempts in an outage of this length.
        self.pass(if down_for > Duration::from_mins(10) {
            Duration::from_mins(5)
        } else {
            Duration::from_secs(22)
        })
        .await;
    }

    async fn network_cut(&mut self, span: Duration) {
        self.world.silent.store(true, Ordering::Relaxed);
        self.strike(Fault::Silence);
        self.pass(Duration::from_secs(45)).await;
        assert!(!self.is_ready(), "a dead link was not noticed within 45 s");
        self.pass(span).await;
        self.world.silent.store(false, Ordering::Relaxed);
        // What was dialled into the silence is told now; the old connection was left long ago.
        self.world.faults.send(Fault::Cut).unwrap();
        self.pass(Duration::from_mins(5)).await;
    }

    async fn frozen_peer(&mut self) {
        self.strike(Fault::Silence);
        let logins = self.session.logins();
        self.pass(Duration::from_secs(45)).await;
        assert_eq!(self.session.logins(), logins + 1, "a frozen peer was not left within 45 s");
    }

    async fn wrong_key(&mut self, span: Duration) {
        self.world.key_is_wrong.store(true, Ordering::Relaxed);
        self.strike(Fault::Cut);
        self.pass(span).await;
        self.world.key_is_wrong.store(false, Ordering::Relaxed);
        self.pass(Duration::from_mins(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_day_of_faults_logins_are_one_more_than_breaks() {
    // While a blocking task runs, only the test moves the clock.
    let (done, over) = std::sync::mpsc::channel::<()>();
    let still = tokio::task::spawn_blocking(move || over.recv().is_err());
    let mut day = Day::begin().await;
    let hours = |hours: u64| Duration::from_hours(hours);
    let minutes = |minutes: u64| Duration::from_mins(minutes);
    day.quiet(hours(2)).await;
    for _ in 0..3 {
        day.restart(minutes(3)).await;
        day.quiet(hours(1)).await;
    }
    day.frozen_peer().await;
    day.quiet(minutes(30)).await;
    day.network_cut(minutes(8)).await;
    day.quiet(hours(1)).await;
    // As sshd does it: the limit of a connection stands from its beginning.
    day.world.sessions.store(1, Ordering::Relaxed);
    day.restart(minutes(2)).await;
    for _ in 0..12 {
        day.quiet(minutes(10)).await;
    }
    day.restart(minutes(1)).await;
    day.quiet(minutes(10)).await;
    day.world.sessions.store(10, Ordering::Relaxed);
    day.wrong_key(hours(1)).await;
    let refused = day.world.refused.load(Ordering::Relaxed);
    assert!((1..=16).contains(&refused), "{refused} refused logins in an hour");
    day.quiet(hours(2)).await;
    day.restart(hours(2)).await;
    day.frozen_peer().await;
    day.network_cut(hours(1)).await;
    let left = Duration::from_hours(24).saturating_sub(day.began.elapsed());
    day.quiet(left.max(minutes(30))).await;
    let logins = usize::try_from(day.session.logins()).unwrap();
    assert_eq!(logins, 1 + day.breaks);
    assert_eq!(day.world.accepted.load(Ordering::Relaxed), logins);
    assert_eq!(day.world.refused.load(Ordering::Relaxed), refused);
    drop(done);
    assert!(still.await.unwrap());
}
