//! Real Redis servers on free loopback ports, in folders of their own, ended when dropped.

use redis::{Commands, Connection};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// One server process.
pub(crate) struct Server {
    child: Option<Child>,
    folder: TempDir,
    args: Vec<String>,
    pub(crate) port: u16,
}

fn free_port() -> u16 {
    // A Cluster's nodes also listen at port + 10,000.
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        if port < 50_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

impl Server {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut server = Self {
            child: None,
            folder: tempfile::tempdir().expect("a folder"),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            port: free_port(),
        };
        server.run();
        server
    }

    /// A Sentinel with this configuration.
    pub(crate) fn start_sentinel(configuration: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sentinel.conf");
        std::fs::write(&file, configuration).expect("written");
        let args = vec![file.display().to_string(), "--sentinel".to_owned()];
        let mut server = Self { child: None, folder, args, port: free_port() };
        server.run();
        server
    }

    /// Starts the process (again) on the same port and folder.
    pub(crate) fn run(&mut self) {
        let log = File::create(self.folder.path().join("log")).expect("a log");
        let mut command = Command::new("redis-server");
        // A configuration file comes first.
        let is_sentinel = self.args.iter().any(|arg| arg == "--sentinel");
        let (first, rest) = self.args.split_at(usize::from(is_sentinel));
        command
            .args(first)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--protected-mode", "no"])
            .arg("--dir")
            .arg(self.folder.path());
        if !is_sentinel && !rest.iter().any(|arg| arg == "--save") {
            command.args(["--save", ""]);
        }
        let child = command.args(rest).stdout(log).stderr(Stdio::null()).stdin(Stdio::null()).spawn();
        self.child = Some(child.expect("redis-server must be installed: apt-get install redis-server"));
        eventually("the server answers", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connect(&self) -> Connection {
        redis::Client::open(self.url()).expect("a URL").get_connection().expect("a connection")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let from = log.len().saturating_sub(3_000);
            println!("--- the server on {} said:\n{}", self.port, log.get(from..).unwrap_or(&log));
        }
    }
}

/// Listens before a server: gives each connection's client and server to `requests`, and server and client to `answers`, to pass on
/// what comes from the first to the second.
fn relay(
    server: &Server,
    requests: impl Fn(TcpStream, TcpStream) + Send + Sync + 'static,
    answers: impl Fn(TcpStream, TcpStream) + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let behind = server.port;
    let (requests, answers) = (Arc::new(requests), Arc::new(answers));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", behind)).expect("the server runs");
            let (from, to) = (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
            let (requests, answers) = (Arc::clone(&requests), Arc::clone(&answers));
            std::thread::spawn(move || requests(from, to));
            std::thread::spawn(move || answers(server, client));
        }
    });
    port
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    drop(std::io::copy(&mut from, &mut to));
}

/// Stands before a server and, once told to, ends the connection in the middle of an answer.
pub(crate) struct Cutter {
    pub(crate) port: u16,
    answer_bytes: Arc<AtomicUsize>,
}

impl Cutter {
    pub(crate) fn before(server: &Server) -> Self {
        let answer_bytes = Arc::new(AtomicUsize::new(usize::MAX));
        let limit = Arc::clone(&answer_bytes);
        let port = relay(server, pass_on, move |server, client| Self::answer(server, client, &limit));
        Self { port, answer_bytes }
    }

    fn answer(mut server: TcpStream, mut client: TcpStream, limit: &AtomicUsize) {
        let mut bytes = [0; 4_096];
        loop {
            let count = server.read(&mut bytes).unwrap_or(0);
            let allowed = limit.swap(usize::MAX, Ordering::SeqCst);
            if client.write_all(&bytes[..count.min(allowed)]).is_err() || count == 0 || allowed < count {
                drop((server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both)));
                return;
            }
        }
    }

    /// The next answer is cut off after so many bytes; later connections are left alone.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.answer_bytes.store(bytes, Ordering::SeqCst);
    }
}

/// Stands before a server and holds back what is sent to it from certain bytes on, until it is told to let go.
pub(crate) struct Holder {
    pub(crate) port: u16,
    is_holding: Arc<AtomicBool>,
    may_go: Arc<AtomicBool>,
}

impl Holder {
    pub(crate) fn before(server: &Server, from: &'static [u8]) -> Self {
        let (is_holding, may_go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (holding, go) = (Arc::clone(&is_holding), Arc::clone(&may_go));
        let requests = move |client, server| Self::requests(client, server, from, &holding, &go);
        Self { port: relay(server, requests, pass_on), is_holding, may_go }
    }

    fn requests(
        mut client: TcpStream,
        mut server: TcpStream,
        from: &[u8],
        holding: &AtomicBool,
        go: &AtomicBool,
    ) {
        let mut bytes = vec![0; 1 << 20];
        loop {
            let count = client.read(&mut bytes).unwrap_or(0);
            if bytes[..count].starts_with(from) {
                holding.store(true, Ordering::SeqCst);
                while !go.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            if count == 0 || server.write_all(&bytes[..count]).is_err() {
                drop(server.shutdown(Shutdown::Write));
                return;
            }
        }
    }

    pub(crate) fn is_holding(&self) -> bool {
        self.is_holding.load(Ordering::SeqCst)
    }

    pub(crate) fn let_go(&self) {
        self.may_go.store(true, Ordering::SeqCst);
    }
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The same of something to wait for.
pub(crate) async fn eventually_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Three primaries, each with a replica.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
        let nodes: Vec<Server> = (0..6).map(|_| Server::start(&args)).collect();
        for (index, range) in [(0, 5460), (5461, 10922), (10923, 16383)].into_iter().enumerate() {
            let mut line = nodes[index].connect();
            let mut command = redis::cmd("CLUSTER");
            command.arg("ADDSLOTSRANGE").arg(range.0).arg(range.1);
            command.exec(&mut line).expect("slots");
        }
        let mut first = nodes[0].connect();
        for node in &nodes[1..] {
            redis::cmd("CLUSTER").arg("MEET").arg("127.0.0.1").arg(node.port).exec(&mut first).expect("meet");
        }
        let id = |server: &Server| -> String {
            redis::cmd("CLUSTER").arg("MYID").query(&mut server.connect()).expect("an id")
        };
        for index in 0..3 {
            let primary = id(&nodes[index]);
            eventually("the replica knows its primary", || {
                let mut line = nodes[index + 3].connect();
                redis::cmd("CLUSTER").arg("REPLICATE").arg(&primary).exec(&mut line).is_ok()
            });
        }
        for node in &nodes {
            eventually("the Cluster is up", || {
                let info: String =
                    redis::cmd("CLUSTER").arg("INFO").query(&mut node.connect()).expect("info");
                let slots: redis::Value =
                    redis::cmd("CLUSTER").arg("SLOTS").query(&mut node.connect()).expect("slots");
                let redis::Value::Array(ranges) = slots else { return false };
                // Each range names its primary and its replica.
                let whole =
                    |range: &redis::Value| matches!(range, redis::Value::Array(parts) if parts.len() == 4);
                info.contains("cluster_state:ok") && ranges.len() == 3 && ranges.iter().all(whole)
            });
        }
        Self { nodes }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    /// The primary that has a slot, by its index in `nodes`.
    pub(crate) fn primary_of(&self, asked: usize, slot: i64) -> Option<usize> {
        let slots: redis::Value =
            redis::cmd("CLUSTER").arg("SLOTS").query(&mut self.nodes[asked].connect()).ok()?;
        let redis::Value::Array(ranges) = slots else { return None };
        ranges.into_iter().find_map(|range| {
            let redis::Value::Array(parts) = range else { return None };
            let [redis::Value::Int(first), redis::Value::Int(last), redis::Value::Array(node), ..] =
                &parts[..]
            else {
                return None;
            };
            let redis::Value::Int(port) = node.get(1)? else { return None };
            let index = self.nodes.iter().position(|server| i64::from(server.port) == *port)?;
            (*first..=*last).contains(&slot).then_some(index)
        })
    }
}

/// A section of what a server says of itself.
pub(crate) fn info(server: &Server, section: &str) -> String {
    redis::cmd("INFO").arg(section).query(&mut server.connect()).expect("information")
}

/// Empties a server.
pub(crate) fn flush(server: &Server) {
    server.connect().flushall::<()>().expect("flush");
}
